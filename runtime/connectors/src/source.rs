//! The contract between a source connector and the task that drives it.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::future::BoxFuture;
use millrace_crds::MoveSourceSpec;
use millrace_stream::{Clock, Epoch, EventTime};
use serde::{Deserialize, Serialize};

/// The name of a part of a source that is read in order and has a replay point of its own: a file, a partition.
/// Stable over restarts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SplitId(pub Arc<str>);

impl fmt::Display for SplitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a split is resumed: what the connector wrote, for the connector to read. Stored in checkpoint manifests, so its
/// form has a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplayPoint(pub serde_json::Value);

/// A source as the plan describes it, not yet open. It lives as long as the graph does.
pub trait Source: Send + Sync {
    /// How many tasks can read it at the most; `None`: as many as there are splits.
    fn max_parallelism(&self) -> Option<u32>;

    /// Whether the source ends by itself.
    fn is_bounded(&self) -> bool;

    /// Replay points from which the source goes on where it is asked to, made of those of all tasks of a checkpoint.
    ///
    /// # Errors
    ///
    /// There is no such place in it.
    fn moved(
        &self,
        _to: &MoveSourceSpec,
        _restored: BTreeMap<SplitId, ReplayPoint>,
    ) -> Result<BTreeMap<SplitId, ReplayPoint>, SourceError> {
        Err(SourceError::Unusable { what: "nothing of this source can be read again".to_owned(), source: None })
    }

    /// Whether there is more to read behind the end that it came to: `restored` are the replay points of all tasks there.
    ///
    /// # Errors
    ///
    /// There is, and it cannot be read.
    fn has_more(&self, _restored: BTreeMap<SplitId, ReplayPoint>) -> BoxFuture<'_, Result<bool, SourceError>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// Opens the reader of one task. `cx.restored` holds the replay points of *all* tasks of the checkpoint that is
    /// resumed; the reader takes those of the splits that fall to task `cx.index` of `cx.parallelism`.
    fn open(&self, cx: SourceContext) -> BoxFuture<'_, Result<Box<dyn SourceReader>, SourceError>>;
}

/// What a reader is given.
#[derive(Clone)]
pub struct SourceContext {
    /// Which of the source's tasks this is.
    pub index: u32,
    /// How many tasks the source has.
    pub parallelism: u32,
    /// The replay points of the checkpoint that is resumed. Empty at the first start.
    pub restored: BTreeMap<SplitId, ReplayPoint>,
    /// Whether a checkpoint is resumed that has this source, if only with splits that are gone since.
    pub resumes: bool,
    /// The schema to decode to: the columns that something reads, in the order of their declaration, then, if it is not
    /// among them, the event-time column. No event time in column 0 yet: the task computes it.
    pub schema: SchemaRef,
    /// About how many rows a batch should have. A reader may give fewer when fewer are there.
    pub batch_rows: usize,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// A folder of the task's own, for sources that must keep a log of what they took in.
    pub scratch: PathBuf,
}

/// Reads some splits of a source, in a task.
///
/// An implementer guarantees: rows of a split come in the same order, with the same content, each time they are read
/// from the same replay point; a replay point taken after a batch does not cover that batch's successor. A source that
/// cannot promise that keeps a log of its own and reads from it.
pub trait SourceReader: Send {
    /// The next rows, or why there are none. Returns within about 50 ms of work; waiting for data is an `await`.
    ///
    /// Cancel-safe: the task drops this future to answer a barrier, and nothing may be lost by that.
    fn next(&mut self) -> BoxFuture<'_, Result<Read, SourceError>>;

    /// The task's view of a split's watermark after the last batch. A reader that can choose between splits reads next
    /// from the one that is furthest behind, so that no split's rows come late because another was read first.
    fn note_watermark(&mut self, _split: &SplitId, _watermark: EventTime) {}

    /// How many splits are known to have rows of which none has been returned yet. They hold the watermark back, since
    /// their rows may be older than any other's.
    fn unread_splits(&self) -> usize {
        0
    }

    /// Whether other tasks have all splits that there are: this one has nothing to say for the source.
    fn is_spare(&self) -> bool {
        false
    }

    /// Until when, by the monotonic clock, a split is known to have had no rows but those that were returned. A split that the
    /// reader has not looked at for a while may have rows, and is not silent for that.
    fn silent_until(&self, _split: &SplitId, now: Duration) -> Duration {
        now
    }

    /// Where to resume, after all that [`Self::next`] has returned: one point a split that was ever read, ended ones too
    /// as long as the connector needs it to know that they have ended.
    fn replay_points(&self) -> Vec<(SplitId, ReplayPoint)>;

    /// The epoch is decided: what came before its replay points may be forgotten (offsets committed, logs trimmed).
    fn decided(&mut self, _epoch: Epoch) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async { Ok(()) })
    }

    /// Where rows come from that [`Self::next`] returned last, by their numbers in that batch, and what they were before they
    /// were decoded. `None`: the source makes its rows itself. To be asked before [`Self::next`] is called again; it may
    /// take as long as reading the batch did.
    ///
    /// # Errors
    ///
    /// When the batch cannot be read again.
    fn origins(&mut self, _rows: &[usize]) -> Result<Option<Vec<Origin>>, SourceError> {
        Ok(None)
    }

    /// How many rows could not be decoded since the reader was opened, those included that `onError: Drop` has dropped and
    /// no batch of errors holds.
    fn bad_rows(&self) -> u64 {
        0
    }

    /// What is known to be there and has not been read, if known.
    fn lag(&self) -> Option<Lag> {
        None
    }
}

/// What a source knows to be unread, in the unit that it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// Bytes of files.
    Bytes(u64),
    /// Rows.
    Rows(u64),
}

impl Lag {
    /// How many bytes, if it is counted in these.
    pub fn bytes(self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Rows(_) => None,
        }
    }

    /// How many rows, if it is counted in these.
    pub fn rows(self) -> Option<u64> {
        match self {
            Self::Rows(rows) => Some(rows),
            Self::Bytes(_) => None,
        }
    }
}

/// Where a row comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// A path, or the like.
    pub source: Arc<str>,
    /// Where in it the row stands.
    pub position: Position,
    /// The row as it was read, without its line end; `None`: it has no bytes of its own.
    pub raw: Option<Vec<u8>>,
}

/// Where a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// It begins at this byte, uncompressed.
    Byte(u64),
    /// It has this number, from 0.
    Row(u64),
}

impl Position {
    /// As a number.
    pub fn number(self) -> u64 {
        let (Self::Byte(number) | Self::Row(number)) = self;
        number
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Position::Byte(byte) => write!(f, "{} at byte {byte}", self.source),
            Position::Row(row) => write!(f, "{} at row {row}", self.source),
        }
    }
}

/// What [`SourceReader::next`] found.
#[derive(Debug)]
pub enum Read {
    /// Rows of one split.
    Rows {
        /// The split.
        split: SplitId,
        /// What could be decoded, by [`SourceContext::schema`]. May be empty.
        rows: RecordBatch,
        /// What could not, by [`millrace_plan::errors_schema`] without event time. `None`: nothing.
        errors: Option<RecordBatch>,
        /// How many bytes were read for it.
        bytes: u64,
    },
    /// A split has come to its end. If rows of it come after all, it goes on.
    SplitEnded(SplitId),
    /// Nothing there now; asking again after this long makes sense.
    Pending(Duration),
    /// Every split has ended, and no new one can come.
    Ended,
}

/// Why a source failed. `Display` says where, what was found and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A row cannot be decoded and `onError` is `Fail`.
    #[error("{place}: {reason}\n  row: {row}")]
    BadRow {
        /// File and offset, or the like.
        place: String,
        /// What is wrong.
        reason: String,
        /// The row, shortened.
        row: String,
    },
    /// The data or the place is not what the spec says; another try fails too.
    #[error("{what}")]
    Unusable {
        /// What is wrong and where.
        what: String,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Reading failed; another try may succeed.
    #[error("cannot read {what}")]
    Io {
        /// What was being read.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
