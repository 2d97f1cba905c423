//! Whether the runtime still speaks. What it said last holds only while other reports follow: one that has lost its way to the
//! API server, or its right to it, can say nothing of that. Whether its pod is called ready is no matter.
//!
//! A report counts from when the operator saw it change, by the operator's own monotonic clock: no clocks are compared. While
//! rows flow, reports change at least with every checkpoint, and every ten seconds where those are more often; so a runtime is
//! silent after three intervals and as many times its last checkpoint took, and [`MARGIN`], or after [`LEAST`] if that is more.
//! A process that has been started since the last report has as long for its first one. One that restores need not report for
//! as long as that takes. Of a pod whose container does not run nothing is expected.
//!
//! With long intervals that is late, so a report that has been the same for [`QUIET`] has the Lease looked at, which a runtime
//! renews every few seconds: one that was the same at two looks, [`STILL`] apart at the least, is a runtime that is silent. A look
//! that fails says nothing, and neither does what was seen before it: an API server that does not answer us keeps runtimes
//! from renewing too. That it is back they may hear later than we do, hence [`QUIET`]: who leads anew hears everything anew.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use millrace_crds::PipelineStatus;
use millrace_plan::handover::{ReportDocument, RunPhase};
use millrace_stream::Timestamp;
use serde_json::Value;

use super::{
    dereference::Observed,
    status::{
        of,
        pods::{PodState, pod_state, running, runtime},
    },
};
use crate::{
    clock::time,
    cluster::writer::WriteError,
    conditions::{Reason, Type},
};

/// The least time after which a runtime is silent.
const LEAST: Duration = Duration::from_secs(30);
/// For how long reports that are due may be on their way.
const MARGIN: Duration = Duration::from_secs(20);

/// After so long without another report the Lease is looked at.
const QUIET: Duration = Duration::from_secs(25);
/// For so long a Lease of a runtime that works is never the same.
const STILL: Duration = Duration::from_secs(20);

/// What was heard last.
#[derive(Clone, Debug)]
pub struct Heard {
    report: Option<ReportDocument>,
    process: String,
    /// When either of them changed, by the operator's monotonic clock.
    at: Duration,
    /// Whether the process has reported.
    has_spoken: bool,
    /// Whether a leader before has told that nothing follows this report.
    is_doubted: bool,
    /// When its Lease was looked at last.
    looked: Option<Duration>,
    /// What that look has found, if it has found out anything.
    lease: Option<Lease>,
}

/// A Lease, as it was seen.
#[derive(Clone, Debug)]
struct Lease {
    /// Its spec; null: there is no Lease.
    spec: Value,
    /// When it was first seen so.
    since: Duration,
}

impl Heard {
    /// The Lease was looked at.
    pub fn saw(&mut self, lease: Result<Option<Value>, WriteError>, now: Duration) {
        self.looked = Some(now);
        let before = self.lease.take();
        let Ok(lease) = lease else { return };
        let spec = lease.map(|mut lease| lease["spec"].take()).unwrap_or_default();
        let same = before.as_ref().filter(|before| before.spec == spec);
        // It is being renewed.
        self.is_doubted &= before.is_none() || same.is_some();
        let since = same.map_or(now, |same| same.since);
        self.lease = Some(Lease { spec, since });
    }

    /// Whether the Lease was the same for so long that nobody works.
    fn stands_still(&self) -> bool {
        let seen = self.lease.as_ref().zip(self.looked);
        seen.is_some_and(|(lease, looked)| looked.saturating_sub(lease.since) >= STILL)
    }
}

/// What follows from what was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listened {
    /// The runtime is silent.
    pub silence: Option<Silence>,
    /// When that may be another, if nothing follows.
    pub again: Option<Duration>,
    /// Whether its Lease is to be looked at.
    pub looks: bool,
}

/// The runtime has said nothing for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// When its last report was written, by its own clock; `None`: there is none of it.
    pub since: Option<Timestamp>,
}

impl Silence {
    /// For people.
    pub fn message(&self, pipeline: &str) -> String {
        let since = match self.since {
            Some(at) => format!("since {}", time(at).0),
            None => "since it was started".to_owned(),
        };
        format!(
            "the runtime has not reported {since}: whether rows flow is not known; `kubectl logs {pipeline}-0` says why"
        )
    }
}

/// Takes in what the stores have. `pause`: the least time between two looks at a Lease.
pub fn listen(
    heard: &mut Option<Heard>,
    observed: &Observed,
    before: &PipelineStatus,
    now: Duration,
    pause: Duration,
) -> Listened {
    let pod = observed.pod.as_deref();
    // Whether the kubelet calls it ready is no matter: one that is cut off from everything it cannot ask either.
    let runs = match pod_state(pod) {
        PodState::Ready | PodState::NotReady { runs: true, .. } => true,
        PodState::Trouble { .. } => pod.and_then(running).is_some(),
        PodState::Absent | PodState::NotReady { runs: false, .. } => false,
    };
    if !runs {
        *heard = None;
        return Listened::default();
    }
    let (process, started_ms) = process(pod);
    let report = observed.report.as_ref();
    let is_of_process = report.is_some_and(|report| started_ms.is_none_or(|at| report.at.0 as i64 >= at));
    let last = heard.take();
    let now_heard = match last {
        Some(last) if last.process == process && last.report.as_ref() == report => last,
        last => {
            let is_first = last.is_none();
            let is_doubted = is_first
                && of(&before.conditions, Type::CheckpointHealthy)
                    .is_some_and(|(_, reason, _)| reason == Reason::NotReporting.name());
            let has_spoken = is_of_process || last.is_some_and(|last| last.process == process && report.is_some());
            Heard { report: report.cloned(), process, at: now, has_spoken, is_doubted, looked: None, lease: None }
        }
    };
    let phase = report.map(|report| report.phase);
    let is_due = phase == Some(RunPhase::Running) || !now_heard.has_spoken;
    // What restores has nothing to say for as long as that takes: its Lease alone tells.
    let restores = matches!(phase, Some(RunPhase::Starting | RunPhase::Restarting));
    let until = if is_due { now_heard.at + patience(observed) } else { Duration::MAX };
    let is_expected = is_due || restores;
    let since = report.filter(|_| now_heard.has_spoken).map(|report| report.at);
    // Where it is as soon known without it, the Lease is let alone.
    let next_look = match now_heard.looked {
        Some(looked) => looked + pause.max(STILL),
        None => now_heard.at + QUIET,
    };
    let next_look = Some(next_look).filter(|_| now_heard.at + QUIET + STILL < until && now < until);
    let is_silent = now_heard.is_doubted || now >= until || now_heard.stands_still();
    *heard = Some(now_heard);
    if !is_expected {
        return Listened::default();
    }
    let looks = next_look.is_some_and(|at| now >= at);
    let at = next_look.into_iter().chain((!is_silent && is_due).then_some(until)).min();
    Listened { silence: is_silent.then_some(Silence { since }), again: at.map(|at| at.saturating_sub(now)), looks }
}

/// For how long a runtime may say nothing.
fn patience(observed: &Observed) -> Duration {
    let checkpoints = observed.plan.as_ref().map(|plan| &plan.spec.pipeline.checkpoints);
    let interval = checkpoints.map_or(Duration::ZERO, |it| it.interval.get().max(it.min_pause.get()));
    let took = observed.report.as_ref().and_then(|report| report.checkpoint.as_ref());
    let took = took.map_or(Duration::ZERO, |checkpoint| Duration::from_millis(checkpoint.duration_ms));
    interval.saturating_add(took).saturating_mul(3).saturating_add(MARGIN).max(LEAST)
}

/// What tells one process in a pod from another, and when it was started, by the node's clock.
fn process(pod: Option<&Pod>) -> (String, Option<i64>) {
    let Some(pod) = pod else { return (String::new(), None) };
    let restarts = runtime(pod).map_or(0, |container| container.restart_count);
    let started = running(pod).and_then(|running| running.started_at.as_ref()).map(|at| at.0.as_millisecond());
    (format!("{} {restarts}", pod.metadata.uid.as_deref().unwrap_or_default()), started)
}
