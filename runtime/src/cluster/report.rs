//! The report: the ConfigMap `<pipeline>-report`, as seldom as will do.
//!
//! | what has changed | is written |
//! |---|---|
//! | phase, revision, generation, problem, edit, savepoint, start wish, failing checkpoints | at once, though not twice a second |
//! | rates, lag, watermarks, rows that were bad or late, restarts | [`COUNTS_EVERY`] after the last time |
//! | nothing but the number of the last checkpoint | [`EPOCHS_EVERY`] after it |
//! | nothing | never |
//!
//! It is written only while nobody else can have the Lease, and over what was read or written last: a pod that wakes up late,
//! even one that had decided to write before it was frozen, says nothing.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use millrace_plan::handover::{CheckpointSaid, NodeSaid, REPORT_KEY, ReportDocument, SAVEPOINT_TOKEN_KEY};
use millrace_stream::{Clock, Timestamp};
use serde_json::json;
use tokio::sync::watch;

use super::{
    api::{ApiError, Cluster, FIELD_MANAGER, ask},
    lease::Standing,
    plan_watch::Owner,
    said::Said,
};
use crate::overview::{NodeReport, Overview, Report};

/// How long after a report the next one may come, whatever happens.
const AT_ONCE: Duration = Duration::from_millis(500);
/// How often counts are written.
const COUNTS_EVERY: Duration = Duration::from_secs(5);
/// How often the last checkpoint is written if nothing else changes.
const EPOCHS_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether there is something to write.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long after a report that could not be written the next try comes.
const RETRY: Duration = Duration::from_secs(2);

/// What is said, and who wants to know when it changes.
pub struct Board {
    said: Mutex<Said>,
    changed: watch::Sender<()>,
}

impl Default for Board {
    fn default() -> Self {
        Self { said: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Board {
    /// What is said now.
    pub fn get(&self) -> Said {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says something else, or the same.
    pub fn update<T>(&self, change: impl FnOnce(&mut Said) -> T) -> T {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let before = said.clone();
        let done = change(&mut said);
        if *said != before {
            self.changed.send_replace(());
        }
        done
    }

    /// Hears of every change from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// Writes reports.
pub struct Reporter {
    /// Its ConfigMap is here.
    pub cluster: Cluster,
    /// The pod's name.
    pub pod: String,
    /// Its UID.
    pub pod_uid: String,
    /// For which Pipeline it works.
    pub owner: Owner,
    /// What is said.
    pub board: Arc<Board>,
    /// What is counted.
    pub overview: Arc<Overview>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Whether the Lease is ours.
    pub standing: watch::Receiver<Standing>,
    /// The ConfigMap's `resourceVersion` as it was last read or written; `None`: not known.
    pub version: Mutex<Option<String>>,
}

/// What was said before, by this pod or another.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// The report; `None`: there is none, or it cannot be read.
    pub report: Option<ReportDocument>,
    /// The token of the last savepoint that was wished for.
    pub savepoint_token: Option<String>,
}

impl Before {
    /// Reads it, unless it is of another Pipeline than that with the UID `of`.
    ///
    /// # Errors
    ///
    /// The API server does not answer.
    pub async fn read(cluster: &Cluster, of: Option<&str>) -> Result<Self, ApiError> {
        let map = ask(cluster.config_maps().get(&cluster.names().report())).await?;
        let mut data = map.data.unwrap_or_default();
        let report = data.get(REPORT_KEY).and_then(|text| match serde_json::from_str(text) {
            Ok(report) => Some(report),
            Err(error) => {
                tracing::warn!(%error, "the report before cannot be read and is written anew");
                None
            }
        });
        let anothers = report.as_ref().and_then(|report: &ReportDocument| report.pipeline_uid.as_deref());
        if of.is_some() && anothers.is_some() && anothers != of {
            return Ok(Self::default());
        }
        Ok(Self { report, savepoint_token: data.remove(SAVEPOINT_TOKEN_KEY) })
    }
}

impl Reporter {
    /// Writes what is due, until this is dropped.
    pub async fn run(self: Arc<Self>, last: Arc<tokio::sync::Mutex<Option<Written>>>) {
        let mut changes = self.board.changes();
        loop {
            let wait = match self.write_if_due(&mut *last.lock().await).await {
                Ok(()) => LOOK_EVERY,
                Err(error) => {
                    tracing::warn!(error = %millrace_engine::chain(&error), "the report cannot be written; it is tried again");
                    RETRY
                }
            };
            tokio::select! {
                Ok(()) = changes.changed() => tokio::time::sleep(wait.min(AT_ONCE / 5)).await,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Writes the report if it is due.
    ///
    /// # Errors
    ///
    /// Whether it was written is unknown.
    pub async fn write_if_due(&self, last: &mut Option<Written>) -> Result<(), ApiError> {
        let now = self.clock.monotonic();
        if !self.standing.borrow().is_certain(now) {
            return Ok(());
        }
        let report = self.report();
        if !due(last.as_ref(), &report, now) {
            return Ok(());
        }
        if self.write(&report).await? {
            *last = Some(Written { report, at: now });
        }
        Ok(())
    }

    /// Writes the report, due or not, if it says anything new.
    ///
    /// # Errors
    ///
    /// Whether it was written is unknown.
    pub async fn write_last(&self, last: &mut Option<Written>) -> Result<(), ApiError> {
        let report = self.report();
        let is_new = last.as_ref().is_none_or(|last| without_time(&last.report) != without_time(&report));
        let is_certain = self.standing.borrow().is_certain(self.clock.monotonic());
        if is_new && is_certain && !self.write(&report).await? {
            self.write(&report).await?;
        }
        Ok(())
    }

    fn report(&self) -> ReportDocument {
        let pod_uid = Some(self.pod_uid.clone()).filter(|uid| !uid.is_empty());
        let pipeline_uid = self.owner.uid().map(str::to_owned);
        let said = document(&self.board.get(), &self.overview.report(), &self.pod, self.clock.now());
        ReportDocument { pod_uid, pipeline_uid, ..said }
    }

    /// Writes over what is known to be there. `false`: something else is there by now, or the Lease may be another's.
    async fn write(&self, report: &ReportDocument) -> Result<bool, ApiError> {
        let (maps, name): (Api<ConfigMap>, _) = (self.cluster.config_maps(), self.cluster.names().report());
        // Taken, so that after an error the next try reads.
        let known = self.known().take();
        let version = match known {
            Some(version) => Some(version),
            None => ask(maps.get(&name)).await?.metadata.resource_version,
        };
        // Who is frozen before this line finds the time gone by here; who is frozen after it finds the version gone by, if
        // somebody else has reported.
        if !self.standing.borrow().is_certain(self.clock.monotonic()) {
            return Ok(false);
        }
        let text = serde_json::to_string(report).unwrap_or_default();
        let token = self.board.get().savepoint_token;
        let metadata = json!({"resourceVersion": version});
        let patch = Patch::Merge(json!({"metadata": metadata, "data": {REPORT_KEY: text, SAVEPOINT_TOKEN_KEY: token}}));
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match ask(maps.patch(&name, &params, &patch)).await {
            Ok(map) => {
                *self.known() = map.metadata.resource_version;
                Ok(true)
            }
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<String>> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last report that was written.
#[derive(Clone, Debug)]
pub struct Written {
    report: ReportDocument,
    /// By the clock of this machine.
    at: Duration,
}

/// Whether a report is to be written.
fn due(last: Option<&Written>, next: &ReportDocument, now: Duration) -> bool {
    let Some(Written { report, at }) = last else { return true };
    let age = now.saturating_sub(*at);
    if matters(report) != matters(next) {
        age >= AT_ONCE
    } else if (counts(report), report.restarts) != (counts(next), next.restarts) {
        age >= COUNTS_EVERY
    } else {
        without_time(report) != without_time(next) && age >= EPOCHS_EVERY
    }
}

/// What people wait for.
fn matters(report: &ReportDocument) -> ReportDocument {
    ReportDocument { checkpoint: None, nodes: Vec::new(), restarts: 0, ..without_time(report) }
}

fn counts(report: &ReportDocument) -> Vec<NodeSaid> {
    report.nodes.iter().map(|node| NodeSaid { committed: None, ..node.clone() }).collect()
}

fn without_time(report: &ReportDocument) -> ReportDocument {
    ReportDocument { at: Timestamp(0), ..report.clone() }
}

/// What a worker and its job have to say.
fn document(said: &Said, job: &Report, pod: &str, now: Timestamp) -> ReportDocument {
    let state = &job.state;
    let checkpoint = state.checkpoint.as_ref().map(|checkpoint| CheckpointSaid {
        epoch: checkpoint.epoch,
        completed_at: checkpoint.completed_at,
        duration_ms: u64::try_from(checkpoint.duration.as_millis()).unwrap_or(u64::MAX),
        size_bytes: checkpoint.size_bytes,
    });
    ReportDocument {
        version: ReportDocument::VERSION,
        pod: pod.to_owned(),
        pod_uid: None,
        pipeline_uid: None,
        generation: state.generation,
        phase: said.phase(state.phase),
        revision: said.revision.clone(),
        runs: said.runs_instead(),
        restored_from: state.restored_from,
        // A process that has just started has completed none.
        checkpoint: checkpoint.or_else(|| said.found.clone()),
        checkpoint_failures: said.checkpoint_failures,
        checkpoint_error: said.checkpoint_error.clone(),
        problem: said.problem.clone().or_else(|| said.plan_problem.clone()),
        edit: said.edit.clone(),
        savepoint: said.savepoint.clone(),
        started: said.started.clone(),
        restarts: job.restarts,
        nodes: job.nodes.iter().map(node).collect(),
        at: now,
    }
}

fn node(counted: &NodeReport) -> NodeSaid {
    NodeSaid {
        name: counted.name.clone(),
        kind: counted.kind.to_owned(),
        inputs: counted.inputs.clone(),
        rows_in_per_second: visible(counted.rows_in_per_second),
        rows_out_per_second: visible(counted.rows_out_per_second),
        lag_bytes: counted.lag_bytes,
        lag_rows: counted.lag_rows,
        watermark: counted.watermark,
        backpressure: (counted.backpressure * 100.0).round() / 100.0,
        bad_rows: counted.bad_rows,
        late_rows: counted.late_rows,
        committed: counted.committed,
    }
}

/// Three digits: what people can tell from one look to the next.
fn visible(rate: f64) -> f64 {
    if rate <= 0.0 || !rate.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powf(2.0 - rate.log10().floor());
    (rate * scale).round() / scale
}

#[cfg(test)]
mod tests;
