//! What a running pipeline says of itself: the state of the whole, and events as they happen.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use millrace_stream::{BarrierKind, Epoch, Generation, Revision, Timestamp};
use serde::Serialize;

use crate::blame::Blame;

/// What the pipeline is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum JobPhase {
    /// Restoring, opening sources and sinks.
    #[default]
    Starting,
    /// Rows flow.
    Running,
    /// A task failed; the graph starts again from the last completed checkpoint.
    Restarting,
    /// On the way to the last checkpoint.
    Stopping,
    /// Every row is read and committed.
    Finished,
    /// Stopped at a checkpoint.
    Stopped,
    /// Given up.
    Failed,
}

/// A completed checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointReport {
    /// Its number.
    pub epoch: Epoch,
    /// Why it was taken.
    pub kind: BarrierKind,
    /// When it was decided.
    pub completed_at: Timestamp,
    /// From the decision to take it to the moved pointer.
    #[serde(rename = "durationSeconds", serialize_with = "seconds")]
    pub duration: Duration,
    /// What all of its files hold.
    pub size_bytes: u64,
    /// What had to be uploaded for it.
    pub uploaded_bytes: u64,
}

/// A decided epoch that a sink has not committed yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitFailure {
    /// Its number.
    pub epoch: Epoch,
    /// Why, at the last attempt.
    pub error: String,
    /// How many attempts there were.
    pub attempts: u32,
}

/// The state of the whole.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobState {
    /// What the pipeline is doing.
    pub phase: JobPhase,
    /// The revision of the plan that runs.
    pub revision: Option<Revision>,
    /// Which incarnation it is.
    pub generation: Option<Generation>,
    /// The checkpoint that this process resumed from.
    pub restored_from: Option<Epoch>,
    /// The last completed checkpoint.
    pub checkpoint: Option<CheckpointReport>,
    /// The last epoch that every sink has committed.
    pub committed: Option<Epoch>,
    /// The plan whose sinks those were.
    #[serde(skip)]
    pub committed_by: Option<Revision>,
    /// Why the last completed checkpoint is not committed, while that is tried again.
    pub commit_failure: Option<CommitFailure>,
    /// The last failure of a task, a checkpoint or a commit.
    pub last_error: Option<String>,
}

/// Something that happened.
#[derive(Debug)]
pub enum JobEvent {
    /// Rows flow.
    Running {
        /// What was resumed from.
        restored: Option<Epoch>,
        /// The plan.
        revision: Revision,
    },
    /// A checkpoint is complete.
    CheckpointCompleted(CheckpointReport),
    /// A checkpoint was given up.
    CheckpointFailed {
        /// Its number.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// A checkpoint is whole and waits for the pointer, which could not be moved for some time; that is tried again and again.
    CheckpointHeldUp {
        /// Its number.
        epoch: Epoch,
        /// Why, at the last attempt.
        error: String,
    },
    /// Readers can see an epoch's rows.
    Committed {
        /// Its number.
        epoch: Epoch,
        /// How many rows.
        rows: u64,
    },
    /// A sink could not commit an epoch.
    CommitFailed {
        /// Its number.
        epoch: Epoch,
        /// Which sink, and why.
        error: String,
        /// Which sink.
        blame: Blame,
        /// Which attempt it was.
        attempt: u32,
        /// When it is tried again; `None`: that would be in vain.
        retry_after: Option<Duration>,
    },
    /// The graph starts again.
    Restarting {
        /// Why.
        error: String,
        /// Whose the failure is.
        blame: Blame,
        /// Which attempt it is since the last completed checkpoint.
        attempt: u32,
        /// When.
        wait: Duration,
    },
    /// An edit has been taken up.
    Edited {
        /// The plan before.
        from: Revision,
        /// The plan now.
        to: Revision,
    },
    /// An edited plan failed before it had completed a checkpoint; the plan before it runs again, from where it left off.
    RolledBack {
        /// The plan that failed.
        from: Revision,
        /// The plan now.
        to: Revision,
        /// Why.
        error: String,
        /// Whose the failure is.
        blame: Blame,
    },
}

/// The state of the whole, shared with those who show it, and where events go.
pub struct Status {
    state: Mutex<JobState>,
    on_event: Box<dyn Fn(&JobEvent) + Send + Sync>,
}

impl Status {
    /// A status whose events go to `on_event`, which must not block.
    pub fn new(on_event: impl Fn(&JobEvent) + Send + Sync + 'static) -> Self {
        Self { state: Mutex::default(), on_event: Box::new(on_event) }
    }

    /// The state now.
    pub fn get(&self) -> JobState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another job begins: what the one before was doing is over.
    pub fn begin(&self) {
        self.update(|state| {
            state.phase = JobPhase::Starting;
            state.commit_failure = None;
        });
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut JobState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn event(&self, event: JobEvent) {
        self.update(|state| match &event {
            JobEvent::Running { revision, .. } => {
                state.phase = JobPhase::Running;
                state.revision = Some(revision.clone());
            }
            JobEvent::CheckpointCompleted(report) => state.checkpoint = Some(report.clone()),
            JobEvent::CheckpointFailed { epoch, reason } => {
                state.last_error = Some(format!("checkpoint {epoch} failed: {reason}"));
            }
            JobEvent::CheckpointHeldUp { epoch, error } => {
                state.last_error = Some(format!("checkpoint {epoch} waits: {error}"));
            }
            JobEvent::Committed { epoch, .. } => {
                state.committed = Some(*epoch);
                state.committed_by.clone_from(&state.revision);
                state.commit_failure = None;
            }
            JobEvent::CommitFailed { epoch, error, attempt, .. } => {
                state.last_error = Some(error.clone());
                state.commit_failure = Some(CommitFailure { epoch: *epoch, error: error.clone(), attempts: *attempt });
            }
            JobEvent::Restarting { error, .. } => {
                state.phase = JobPhase::Restarting;
                state.last_error = Some(error.clone());
            }
            JobEvent::Edited { to, .. } => state.revision = Some(to.clone()),
            JobEvent::RolledBack { to, error, .. } => {
                state.revision = Some(to.clone());
                state.last_error = Some(error.clone());
            }
        });
        (self.on_event)(&event);
    }
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Status").field("state", &self.state).finish_non_exhaustive()
    }
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
