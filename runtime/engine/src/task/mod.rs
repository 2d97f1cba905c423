//! The tasks: a source's, a keyed operator's, a sink's. Each is one `async` loop that owns what it works on and speaks to
//! the coordinator in [`Report`]s.
//!
//! A task answers a barrier by freezing what it has, passing the barrier on, and only then writing and uploading what it
//! froze, so that rows flow again at once. It acknowledges when all of that is in the checkpoint store.
//!
//! A task that waits for room downstream still does what the coordinator waits for: a source begins the barrier that it is
//! told to, over the channels' budget if need be, and a keyed task acknowledges the epoch that has been written meanwhile.

mod beside;
pub mod event_times;
pub mod keyed;
pub mod sink;
pub mod snapshot;
pub mod source;

use std::sync::Arc;

use millrace_connectors::{CommitHandle, SinkError, SourceError};
use millrace_state::{ErrorKind, StateError, TaskManifest, fault};
use millrace_stream::{Clock, Epoch, TaskId};
use tokio::sync::mpsc;

use crate::{channel::Closed, commits, metrics::StageMetrics, operator::OperatorError, router::RouteError};

/// What every task is given.
#[derive(Clone)]
pub struct TaskContext {
    /// Which task it is.
    pub id: TaskId,
    /// What its stage counts.
    pub metrics: Arc<StageMetrics>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// To the coordinator.
    pub reports: mpsc::Sender<Report>,
}

impl TaskContext {
    /// Tells the coordinator that everything that the task wrote for the epoch is in the checkpoint store.
    async fn acknowledge(&self, epoch: Epoch, snapshot: Snapshot) -> Result<(), TaskError> {
        let acked = Report::Acked { task: self.id.clone(), epoch, snapshot: Box::new(snapshot) };
        // The coordinator is gone only when everything ends.
        self.reports.send(acked).await.map_err(|_| TaskError::Neighbour)?;
        hit("acknowledged")
    }
}

/// A place at which a test can make a task die or fail: one of [`fault::POINTS`].
fn hit(point: &'static str) -> Result<(), TaskError> {
    Ok(fault::point(point).map_err(StateError::from)?)
}

/// What a task tells the coordinator.
#[derive(Debug)]
pub enum Report {
    /// Everything that the task wrote for the epoch is in the checkpoint store.
    Acked {
        /// The task.
        task: TaskId,
        /// The epoch.
        epoch: Epoch,
        /// What belongs into the manifest.
        snapshot: Box<Snapshot>,
    },
    /// A source task has read all there is, and has said so downstream.
    SourceEnded {
        /// The task.
        task: TaskId,
    },
    /// The task has failed and is gone.
    Failed {
        /// The task.
        task: TaskId,
        /// Why.
        error: TaskError,
    },
}

/// A task's part of a checkpoint.
#[derive(Debug)]
pub struct Snapshot {
    /// For the manifest.
    pub manifest: TaskManifest,
    /// For the committer, if the task is a sink's.
    pub sink: Option<CommitHandle>,
    /// How many bytes were uploaded.
    pub uploaded_bytes: u64,
}

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The source could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The sink could not be written.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// Rows could not be carried on.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The operator failed.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// State could not be stored.
    #[error(transparent)]
    State(#[from] StateError),
    /// A batch could not be taken apart.
    #[error("a batch is not what the plan says")]
    Batch(#[from] arrow::error::ArrowError),
    /// A row's event time cannot be used and `onError` is `Fail`.
    #[error("{place}: {reason}{}\n  row: {row}", others(*.more))]
    EventTime {
        /// File and offset, or the like.
        place: String,
        /// What is wrong.
        reason: String,
        /// The row, shortened.
        row: String,
        /// How many more there are, of those that were read with it.
        more: usize,
    },
    /// Something next to this task failed first.
    #[error("a neighbouring task has ended")]
    Neighbour,
    /// The task panicked.
    #[error("the task panicked: {0}")]
    Panicked(String),
}

fn others(more: usize) -> String {
    match more {
        0 => String::new(),
        1 => " (and so it is in 1 row more)".to_owned(),
        more => format!(" (and so or the like in {more} rows more)"),
    }
}

impl From<Closed> for TaskError {
    fn from(_: Closed) -> Self {
        Self::Neighbour
    }
}

impl TaskError {
    /// Whether the failure merely follows from another task's.
    pub fn is_consequence(&self) -> bool {
        matches!(self, Self::Neighbour | Self::Route(RouteError::Closed(_)))
    }

    /// Whether another try may succeed where this one failed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Source(error) => matches!(error, SourceError::Io { .. }),
            Self::Sink(error) => commits::may_pass(error),
            Self::Neighbour | Self::Panicked(_) => true,
            Self::Route(error) => matches!(error, RouteError::Closed(_)),
            // A full disk or a damaged store is for a person; an object store that does not answer may do so again.
            Self::State(error) => matches!(error, StateError::Store { .. }) && error.kind() == ErrorKind::Retry,
            Self::Operator(_) | Self::Batch(_) | Self::EventTime { .. } => false,
        }
    }
}
