//! What travels along the edges of the dataflow.

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::{Epoch, EventTime, Revision};

/// The name of column 0 of every batch inside a pipeline: event time as `Timestamp(Millisecond, "UTC")`, never null.
/// Users' columns begin with a letter, so the name is free.
pub const EVENT_TIME_COLUMN: &str = "_event_time";

/// The name of column 1 of a changelog's batches: an [`Operation`] a row, as `UInt8`.
pub const OP_COLUMN: &str = "_op";

/// One thing that a task receives. Order on a channel is order of sending.
#[derive(Clone, Debug)]
pub enum Message {
    /// Rows, with their event time in column 0.
    Batch(RecordBatch),
    /// No row to come is older than this, late ones aside.
    Watermark(EventTime),
    /// Nothing is coming for now: do not wait for this input's watermark.
    Idle,
    /// The end of an epoch.
    Barrier(Barrier),
}

/// A cut through the stream: everything before it belongs to `epoch`, everything after it to a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The epoch that ends here.
    pub epoch: Epoch,
    /// Why the stream is cut.
    pub kind: BarrierKind,
}

/// Why the stream is cut. Every kind is a full checkpoint; some also say what happens after it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BarrierKind {
    /// Taken and expired by Millrace.
    Checkpoint,
    /// Asked for and owned by the user.
    Savepoint,
    /// The tasks end after it, and the graph of this revision starts from it.
    Reconfigure(Revision),
    /// Every source has ended: the tasks end after it, and the pipeline is finished.
    Drain,
    /// The tasks end after it, to be continued from it.
    Stop,
}

impl BarrierKind {
    /// Whether a task that has passed this barrier on ends.
    pub fn ends_tasks(&self) -> bool {
        matches!(self, Self::Reconfigure(_) | Self::Drain | Self::Stop)
    }
}

/// What a row of a changelog does to the row with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// The key is new.
    Insert = 0,
    /// The row as it was, to be taken back.
    UpdateBefore = 1,
    /// The row as it is now.
    UpdateAfter = 2,
    /// The key is gone; the row as it last was.
    Delete = 3,
}
