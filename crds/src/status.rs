//! What the operator says about the three kinds of object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DurationStr, Quantity};

/// How a Pipeline fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineStatus {
    /// Which generation of the object the rest of the status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// In one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The content hash of the plan that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How many pods are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// The labels of the pods, as a selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The edit that is being taken up, or was last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeStatus>,
    /// The last ten revisions, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<RevisionStatus>,
    /// The revision that failed and was taken back. It is not tried again until the spec changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<RejectedStatus>,
    /// The last completed checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointStatus>,
    /// What came of the last savepoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<SavepointStatus>,
    /// What came of the last `spec.startFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_from: Option<StartedStatus>,
    /// Rows a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<ThroughputStatus>,
    /// What all sources together have not read yet, as far as that is known. Examples: `812 rows`, `15Mi`, `15Mi, 812 rows`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
    /// Each source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceStatus>,
    /// `Ready`, `Reconciling`, `Stalled`, `ConfigValid`, `CheckpointHealthy`, `SourcesHealthy` and `SinksHealthy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A pipeline's state in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Its pods are not there yet.
    Pending,
    /// It takes up its last checkpoint.
    Restoring,
    /// It runs.
    Running,
    /// It takes up an edit.
    Changing,
    /// It is stopped because `suspend` says so.
    Suspended,
    /// It cannot go on without somebody's help, or its container crashes; it is tried again from time to time.
    Failed,
    /// Its sources have ended and all is committed.
    Finished,
    /// Nothing was heard of its runtime for so long that nobody knows whether rows flow.
    Unknown,
    /// It is being deleted, and waits until its checkpoints are.
    Deleting,
}

/// An edit that is being taken up, or was last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangeStatus {
    /// What the edit asks of the running pipeline.
    pub class: EditClass,
    /// The revision before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The revision after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why it has this class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A revision that runs, ran or was to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// The plan's content hash.
    pub revision: String,
    /// When the operator saw the edit that made it.
    pub at: Time,
    /// The class of that edit; `None` for a pipeline's first revision.
    pub class: EditClass,
    /// Why it has this class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What came of it.
    pub result: ChangeResult,
    /// Why, where it was not taken up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What came of an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ChangeResult {
    /// It is on its way.
    Pending,
    /// It runs, or ran.
    TakenUp,
    /// It was not tried.
    Refused,
    /// It failed; the revision before it runs again.
    RolledBack,
    /// Another edit came before it ran.
    Superseded,
}

/// A revision that failed and was taken back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RejectedStatus {
    /// The plan's content hash.
    pub revision: String,
    /// The hash of its pods' template, where it was they that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<String>,
    /// How it failed.
    pub message: String,
    /// `RolledBack` if it was tried, `Refused` if the runtime did not try it.
    pub result: ChangeResult,
    /// When.
    pub at: Time,
}

/// What came of a savepoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SavepointStatus {
    /// The token of `spec.savepoint`; empty for the savepoint of a suspension.
    pub token: String,
    /// The savepoint's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When.
    pub at: Time,
}

/// What came of a `spec.startFrom`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartedStatus {
    /// The token of `spec.startFrom`.
    pub token: String,
    /// The checkpoint that was started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What an edit asks of the running pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum EditClass {
    /// Nothing.
    None,
    /// It is taken up at a barrier, in process.
    Hot,
    /// The same, with key groups moved.
    Rescale,
    /// Pods are replaced.
    Restart,
    /// It would drop state that it does not say it may drop, or change what cannot change.
    Refused,
}

/// The last completed checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// Its number.
    pub epoch: u64,
    /// When it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<DurationStr>,
    /// How much it stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
    /// How many have failed since it.
    #[serde(default)]
    pub failures: u32,
}

/// Rows a second, written for people: `51k/s`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ThroughputStatus {
    /// Rows that sources read.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub in_: Option<String>,
    /// Rows that sinks took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
}

/// How a source fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// Bytes that it has not read yet, of a source that knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<i64>,
    /// Rows that it has not read yet, of a source that knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_rows: Option<i64>,
    /// Up to when it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Time>,
}

/// How a Window fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WindowStatus {
    /// Which generation of the object the rest of the status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The Pipelines that name it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<String>,
    /// `Ready` and `ConfigValid`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// How a Sink fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkStatus {
    /// Which generation of the object the rest of the status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The Pipelines that name it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<String>,
    /// What was committed to it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<CommitStatus>,
    /// The last error that a Pipeline had with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<SinkErrorStatus>,
    /// `Ready` and `ConfigValid`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What was committed to a Sink last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommitStatus {
    /// The Pipeline that committed.
    pub pipeline: String,
    /// Its checkpoint.
    pub epoch: u64,
    /// When that was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// An error that a Pipeline had with a Sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkErrorStatus {
    /// The Pipeline.
    pub pipeline: String,
    /// What went wrong.
    pub message: String,
    /// Since when, or when last.
    pub at: Time,
}
