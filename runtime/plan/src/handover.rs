//! What the operator and the runtime of a Pipeline tell each other in a cluster: two documents, each in a ConfigMap, and the
//! last words of a Job that has deleted checkpoints.
//!
//! ```text
//!  operator ── <pipeline>-plan: PlanDocument ──────▶ runtime     what is to run
//!  operator ◀─ <pipeline>-report: ReportDocument ─── runtime     what runs
//!              <pipeline>-checkpoint: the pointer                the runtime's alone, moved by compare-and-swap
//!              <pipeline>-coordinator: a Lease                   the runtime's alone
//! ```
//!
//! The operator makes all four objects, the last two without content, so that the runtime needs no right to create any. A
//! wish acts once: it has a token, and what came of it stands in the report under that token.

use millrace_crds::{DeploymentSpec, MoveSourceSpec};
use millrace_stream::{Epoch, Generation, Revision, Timestamp};
use serde::{Deserialize, Serialize};

use crate::graph::ResolvedSpec;

/// What of a deployment this version cannot do on a cluster, in the words of a mistake.
pub fn unsupported(deployment: &DeploymentSpec) -> Option<String> {
    let replicas = deployment.replicas.filter(|replicas| *replicas > 1)?;
    Some(format!(
        "spec.deployment.replicas: {replicas} pods are not supported yet; expected 1, with `parallelism` for more tasks in it"
    ))
}

/// The key of a document in its ConfigMap.
pub const PLAN_KEY: &str = "plan.json";
/// The key of a document in its ConfigMap.
pub const REPORT_KEY: &str = "report.json";
/// Beside the report: the token of the last savepoint that was wished for. The report's own may be that of a suspension.
pub const SAVEPOINT_TOKEN_KEY: &str = "savepointToken";
/// The key of the pointer in its ConfigMap.
pub const LATEST_KEY: &str = "latest.json";

/// The names of what belongs to one Pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Of the Pipeline.
    pub pipeline: String,
}

impl Names {
    /// Those of this Pipeline.
    pub fn of(pipeline: impl Into<String>) -> Self {
        Self { pipeline: pipeline.into() }
    }

    /// The ConfigMap with the [`PlanDocument`].
    pub fn plan(&self) -> String {
        format!("{}-plan", self.pipeline)
    }

    /// The ConfigMap with the [`ReportDocument`].
    pub fn report(&self) -> String {
        format!("{}-report", self.pipeline)
    }

    /// The ConfigMap with the pointer to the last decided checkpoint.
    pub fn checkpoint(&self) -> String {
        format!("{}-checkpoint", self.pipeline)
    }

    /// The Lease of the pod that decides checkpoints.
    pub fn coordinator(&self) -> String {
        format!("{}-coordinator", self.pipeline)
    }
}

/// What is to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanDocument {
    /// Of the document's form: [`Self::VERSION`].
    pub version: u32,
    /// The content hash of `spec`.
    pub revision: Revision,
    /// The pipeline with its Windows and Sinks.
    pub spec: ResolvedSpec,
    /// Whether the pipeline is to be stopped, at a savepoint.
    #[serde(default)]
    pub suspend: bool,
    /// A savepoint that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<SavepointWish>,
    /// Where to start from instead of the last checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_from: Option<StartWish>,
}

impl PlanDocument {
    /// The version that is written.
    pub const VERSION: u32 = 1;
}

/// A savepoint that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavepointWish {
    /// Another token is another wish.
    pub token: String,
}

/// Where to start from instead of the last checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartWish {
    /// Another token is another wish.
    pub token: String,
    /// The savepoint's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<String>,
    /// Sources that forget how far they have read and begin as their spec says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reset_sources: Vec<String>,
    /// Sources that go on from elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub move_sources: Vec<MoveSourceSpec>,
}

impl StartWish {
    /// The sources that do not go on from where they have read to.
    pub fn sources(&self) -> impl Iterator<Item = &String> {
        self.reset_sources.iter().chain(self.move_sources.iter().map(|moved| &moved.name))
    }
}

/// What runs, as the coordinator says. Written when something changes that a person waits for, and else every few seconds
/// while counts change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportDocument {
    /// Of the document's form: [`Self::VERSION`].
    pub version: u32,
    /// Who writes it.
    pub pod: String,
    /// The pod's UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The UID of the Pipeline whose plan it runs, as far as the plan says whose it is. One of this name may be another by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_uid: Option<String>,
    /// Its generation, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// What the pipeline is doing.
    pub phase: RunPhase,
    /// The revision that runs, or is being started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// The dataflow of that revision, where it is not the one that was asked for last, which was refused or taken back, and where
    /// there is no plan any more: who asks may not know it, as of a pipeline that was made anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<ResolvedSpec>,
    /// The checkpoint that was resumed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<Epoch>,
    /// The last completed checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointSaid>,
    /// How many checkpoints have failed since it.
    #[serde(default)]
    pub checkpoint_failures: u32,
    /// Why the last one failed; without one that has, why the one that is to be decided cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_error: Option<String>,
    /// What is wrong now; absent when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// What came of the last edit that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<EditSaid>,
    /// What came of the last savepoint that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<SavepointSaid>,
    /// The last [`StartWish`] that has acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<StartSaid>,
    /// Times that the tasks were started again by this process.
    #[serde(default)]
    pub restarts: u64,
    /// Every source, transform and sink.
    #[serde(default)]
    pub nodes: Vec<NodeSaid>,
    /// When this was written.
    pub at: Timestamp,
}

impl ReportDocument {
    /// The version that is written.
    pub const VERSION: u32 = 1;
}

/// What a pipeline is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunPhase {
    /// Waiting for the Lease, restoring, opening sources and sinks.
    #[default]
    Starting,
    /// Rows flow.
    Running,
    /// Something failed that may pass; the tasks start again from the last completed checkpoint.
    Restarting,
    /// On the way to the last checkpoint.
    Stopping,
    /// Stopped because the plan says so.
    Suspended,
    /// Every row is read and committed.
    Finished,
    /// It cannot go on as it is; it waits for another plan, and tries this one again from time to time.
    Failed,
}

/// A completed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointSaid {
    /// Its number.
    pub epoch: Epoch,
    /// When it was decided.
    pub completed_at: Timestamp,
    /// From its opening to that.
    pub duration_ms: u64,
    /// What all of its files hold.
    pub size_bytes: u64,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Whose it is.
    pub of: ProblemOf,
    /// The source, transform or sink, if it is one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The error with its causes.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
}

/// Whose a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProblemOf {
    /// A source cannot be read.
    Source,
    /// A sink cannot be written or committed.
    Sink,
    /// State or a checkpoint cannot be read or written.
    Checkpoint,
    /// The plan cannot run.
    Plan,
    /// Anything else.
    Runtime,
}

/// What came of an edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EditSaid {
    /// The plan before.
    pub from: Revision,
    /// The plan of the edit.
    pub to: Revision,
    /// What came of it.
    pub result: EditResult,
    /// The last checkpoint that was completed before it was taken up: those after it are its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Epoch>,
    /// Why, where it was not taken up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// What came of an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EditResult {
    /// It runs.
    TakenUp,
    /// It would lose state, or cannot be compiled.
    Refused,
    /// It failed before it had completed a checkpoint; `from` runs again.
    RolledBack,
}

/// What came of a [`SavepointWish`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavepointSaid {
    /// The wish's token; empty for the savepoint of a suspension.
    pub token: String,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// A [`StartWish`] that has acted, or cannot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartSaid {
    /// The wish's token.
    pub token: String,
    /// The checkpoint that was started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Why it cannot act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a source, transform or sink has counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSaid {
    /// Its name.
    pub name: String,
    /// `source`, `transform` or `sink`.
    pub kind: String,
    /// What it reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// Rows taken in, over the last seconds.
    pub rows_in_per_second: f64,
    /// Rows given out, over the last seconds.
    pub rows_out_per_second: f64,
    /// What a source knows to be unread, if it counts bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// The same, if it counts rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_rows: Option<u64>,
    /// Up to when its output is complete, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<i64>,
    /// The share of the last seconds that it waited for those downstream, from 0 to 1.
    #[serde(default)]
    pub backpressure: f64,
    /// Rows that could not be decoded, for a source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad_rows: Option<u64>,
    /// Rows that came too late, for a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_rows: Option<u64>,
    /// The last epoch that a sink has committed; absent until it has committed one since its pod was started, or since the edit
    /// that has brought it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<Epoch>,
}

/// What `millrace checkpoints delete --all --result` writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClearedDocument {
    /// How many checkpoints are gone.
    pub checkpoints: u64,
    /// How many savepoints there are still.
    pub savepoints: u64,
}
