//! The contract between a sink connector, the task that writes to it and the coordinator that commits it.
//!
//! ```text
//! task:         write, write, … prepare(N), write, …           the epoch's output is sealed; the task goes on
//! beside it:                    └─ make it durable ─┐          and nobody sees it
//! coordinator:                                      └─ decide N ── commit(N, handles of all tasks)   everybody sees it
//! ```
//!
//! After a crash the coordinator calls `recover` with the handles of the last decided epoch: they are committed (again),
//! and whatever was staged by later epochs is removed.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::future::BoxFuture;
use millrace_stream::{Clock, Epoch, Generation, Revision};
use serde::{Deserialize, Serialize};

/// What [`Sink::prepare`] leaves for [`Committer::commit`]. Stored in checkpoint manifests, so its form has a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommitHandle(pub serde_json::Value);

/// What a sink is given.
#[derive(Clone)]
pub struct SinkContext {
    /// The pipeline's name.
    pub pipeline: String,
    /// The id that the pipeline's data folder got when it was made: tells two pipelines of the same name apart, and is the
    /// same over restarts.
    pub instance: String,
    /// The plan's revision.
    pub revision: Revision,
    /// The sink node's name: unique in the pipeline, and the same over restarts.
    pub node: String,
    /// Which incarnation is speaking.
    pub generation: Generation,
    /// Which of the sink's tasks this is, from 0.
    pub index: u32,
    /// The columns that come.
    pub schema: SchemaRef,
    /// For a changelog: the key columns, by number in `schema`. Batches then have the operation (`UInt8`) as an extra
    /// first column.
    pub changelog: Option<Vec<usize>>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Whether the handles that are restored were followed by others, of later epochs: what they hold back may have been shown since,
    /// and what they name was committed once.
    pub goes_back: bool,
    /// A folder on this machine for what is staged and has no better place.
    pub scratch: PathBuf,
}

/// Makes the parts of one sink node. Made from the plan; opens nothing until asked.
pub trait SinkFactory: Send + Sync {
    /// The writer of one task. `restored` is what this task's last decided [`Sink::prepare`] returned, for sinks that keep
    /// a file open over several epochs.
    fn open(&self, cx: SinkContext, restored: Option<CommitHandle>) -> BoxFuture<'_, Result<Box<dyn Sink>, SinkError>>;

    /// Whether rows with these columns fit what is at the destination. Asked before an edit is taken up, beside whatever writes
    /// there; changes nothing.
    ///
    /// # Errors
    ///
    /// [`SinkError::Refused`] if they do not; any other error tells nothing of it.
    fn fits(&self, _schema: SchemaRef) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether a handle names rows that are held back for a fuller file: they are shown by a later epoch's.
    fn holds(&self, _handle: &CommitHandle) -> bool {
        false
    }

    /// The committer, one a sink node, which lives beside the coordinator. Nothing is made at the destination before
    /// [`Committer::recover`].
    fn committer(&self, cx: SinkContext) -> BoxFuture<'_, Result<Box<dyn Committer>, SinkError>>;
}

/// Writes rows, in a task.
pub trait Sink: Send {
    /// Takes rows. They may be buffered.
    fn write(&mut self, batch: RecordBatch) -> BoxFuture<'_, Result<(), SinkError>>;

    /// Seals all that was written since the last call. The call itself holds the stream up, so it leaves what takes long
    /// (encoding, fsync) to the future, which makes the sealed rows durable, unseen by readers, and says what to commit.
    /// Rows of the next epoch are written meanwhile; the next call comes only when the future has ended.
    ///
    /// An epoch without rows gives a handle too. An earlier epoch may have been aborted since; the handle then names its
    /// output again, and a commit passes over what it finds done.
    fn prepare(&mut self, epoch: Epoch) -> BoxFuture<'static, Result<CommitHandle, SinkError>>;

    /// What [`Self::prepare`] would hold back for a fuller file goes out with the epoch that ends now: the task ends with it, or
    /// somebody may come back to it when later epochs have shown what it held. Without this call what is held back is continued by the task of the same index.
    fn finish(&mut self) {}
}

/// Shows readers what was prepared, at the coordinator.
pub trait Committer: Send {
    /// Makes the epoch's output visible. Idempotent: called again with the same epoch it changes nothing. Epochs come in
    /// order, but some may have no call (aborted ones, whose rows come again in a later epoch's handles).
    fn commit<'a>(
        &'a mut self,
        epoch: Epoch,
        handles: &'a [CommitHandle],
    ) -> BoxFuture<'a, Result<Committed, SinkError>>;

    /// First call after a start. Commits the last decided epoch's handles (again), and removes everything that this node
    /// staged and that they do not name. `None`: the pipeline starts from nothing.
    ///
    /// # Errors
    ///
    /// [`SinkError::Gone`] if the handles name rows that are not there, unless it is known that they were committed before;
    /// then the destination is left as it is.
    fn recover<'a>(
        &'a mut self,
        decided: Option<(Epoch, &'a [CommitHandle])>,
    ) -> BoxFuture<'a, Result<Committed, SinkError>>;

    /// The newest epoch of this node whose rows readers see, as far as the destination tells. Asked before [`Self::recover`]:
    /// the epochs that are taken next must be newer. Changes nothing.
    ///
    /// # Errors
    ///
    /// If the destination cannot be looked at.
    fn newest(&mut self) -> BoxFuture<'_, Result<Option<Epoch>, SinkError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Nobody writes to this node any more, whose plan was given up: removes everything that it staged and that `keep` does
    /// not name. Called instead of [`Self::recover`].
    fn discard<'a>(&'a mut self, _keep: &'a [CommitHandle]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

/// What a commit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Rows made visible; 0 if the epoch had been committed already.
    pub rows: u64,
    /// Bytes made visible.
    pub bytes: u64,
}

impl Committed {
    /// Adds what another commit did.
    pub fn add(&mut self, more: Self) {
        self.rows = self.rows.saturating_add(more.rows);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// Why a sink failed. `Display` says what was found and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The destination is not what the spec says, or refuses; another try fails too.
    #[error("{what}")]
    Refused {
        /// What is wrong and what to do.
        what: String,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Another writer is in the way; another try, after this long, may succeed.
    #[error("{what}")]
    Conflict {
        /// Who or what is in the way.
        what: String,
        /// How long to wait.
        retry_after: Duration,
    },
    /// Rows that were prepared are not where they were left. If somebody puts them back another try may succeed; else they
    /// are lost to the destination.
    #[error("{what}")]
    Gone {
        /// What is missing, where, and what to do.
        what: String,
    },
    /// Writing failed; another try may succeed.
    #[error("cannot write {what}")]
    Io {
        /// What was being written.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl fmt::Debug for SinkContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkContext")
            .field("pipeline", &self.pipeline)
            .field("node", &self.node)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}
