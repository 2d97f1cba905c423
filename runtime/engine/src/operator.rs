//! The contract between a keyed operator (window, top n, running aggregate, distinct) and the task that drives it.
//!
//! An operator keeps what changed since the last barrier apart from what is already in its store. At a barrier it
//! *freezes*: the changes are swapped out in constant time, and the task goes on while [`Frozen::write`] turns them into
//! one sorted run behind its back.

use std::{cell::Cell, sync::Arc, time::Duration};

use arrow::array::RecordBatch;
use millrace_state::{StateError, TaskStore};
use millrace_stream::{Clock, Epoch, EventTime, KeyGroupRange};

use crate::{channel::Load, steps::StepError};

/// What an operator is given when it is made.
pub struct OperatorContext {
    /// The task's state, as of the checkpoint that is resumed; empty at the first start. The operator reads from it what
    /// it needs at once, and may read and spill later.
    pub store: Arc<TaskStore>,
    /// The key groups that the task owns.
    pub key_groups: KeyGroupRange,
    /// What [`Frozen::meta`] was at the checkpoint that is resumed; several if tasks were merged by a rescale.
    pub restored: Vec<serde_json::Value>,
    /// How many bytes of state the operator may keep in memory.
    pub memory_budget_bytes: usize,
    /// About how many rows an emitted batch should have.
    pub batch_rows: usize,
    /// Where processing time comes from.
    pub clock: Arc<dyn Clock>,
}

/// What an operator emits, in order.
#[derive(Debug, Default)]
pub struct Emitted {
    /// Rows for the stages downstream.
    pub rows: Vec<RecordBatch>,
    /// Rows that came too late, in the input's schema.
    pub late: Vec<RecordBatch>,
    /// What the first of `rows` take.
    weighed: Cell<Weighed>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Weighed {
    batches: usize,
    rows: usize,
    bytes: usize,
}

/// What an operator has counted and holds, for metrics and status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperatorStats {
    /// Keys, or rows, that are remembered in memory.
    pub entries: u64,
    /// Bytes of state in memory.
    pub memory_bytes: u64,
    /// Rows that came after their window was closed for good, since the task's start.
    pub late_rows: u64,
    /// Rows that corrected a result within the allowed lateness, since the task's start.
    pub corrections: u64,
    /// Bytes spilled to the store, since the task's start.
    pub spilled_bytes: u64,
}

/// Whether an operator has done all that it was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// It has.
    Done,
    /// It wants to be called again, when what it has emitted has gone on.
    More,
}

/// About how many rows an operator emits before it lets them go on.
pub(crate) const EMITTED_AT_ONCE: usize = 64 * 1024;
/// About how many bytes, where rows are wide.
const BYTES_AT_ONCE: usize = 1 << 26;

impl Emitted {
    /// Whether so many rows, or such wide ones, have been emitted that they had better go on.
    pub(crate) fn is_much(&self) -> bool {
        let before = Some(self.weighed.get()).filter(|before| before.batches <= self.rows.len()).unwrap_or_default();
        let weighed = self.rows[before.batches..].iter().fold(before, |sum, batch| {
            let load = Load::of(batch);
            Weighed { batches: sum.batches + 1, rows: sum.rows + batch.num_rows(), bytes: sum.bytes + load.bytes }
        });
        self.weighed.set(weighed);
        weighed.rows >= EMITTED_AT_ONCE || weighed.bytes >= BYTES_AT_ONCE
    }
}

/// Writes frozen changes to the store.
pub type Write = Box<dyn FnOnce(&TaskStore) -> Result<(), StateError> + Send>;

/// What changed in an epoch, no longer touched by the operator.
pub struct Frozen {
    /// Small facts that belong to the checkpoint beside the store (horizons, counters): goes into the manifest.
    pub meta: serde_json::Value,
    /// Writes the changes to the store. Runs on another thread while the operator goes on. `None`: nothing changed.
    pub write: Option<Write>,
}

/// A keyed operator. Runs on one task's thread; only [`Frozen::write`] runs elsewhere, and at most one at a time: the next
/// [`Self::freeze`] comes after the last one's write has ended.
///
/// An implementer guarantees that restoring from a frozen state and processing the same input again emits the same rows,
/// up to order within a watermark.
pub trait KeyedOperator: Send {
    /// Takes rows, of the plan's input schema for this operator.
    fn process(&mut self, batch: RecordBatch, out: &mut Emitted) -> Result<(), OperatorError>;

    /// Event time has come to `watermark`; [`EventTime::MAX`] closes everything, and is not given while a
    /// [`Frozen::write`] is under way. The input may be continued after that (a file that is followed from now on): so what has
    /// come out stays closed, and event time has come no further than it takes for that. Until it answers [`Progress::Done`] it is called again with the same watermark, and
    /// nothing else save [`Self::thawed`], so that what a state far larger than memory comes to need not be in memory
    /// at once.
    fn advance(&mut self, watermark: EventTime, out: &mut Emitted) -> Result<Progress, OperatorError>;

    /// When (by [`Clock::monotonic`]) [`Self::tick`] wants to be called; `None`: not at all.
    fn next_tick(&self) -> Option<Duration> {
        None
    }

    /// The time that [`Self::next_tick`] named has come. What is left to be done is done when it is called again.
    fn tick(&mut self, _out: &mut Emitted) -> Result<(), OperatorError> {
        Ok(())
    }

    /// A barrier: what changed since the last one is handed over. Anything that must be emitted before the barrier goes
    /// to `out`. The checkpoint is a copy of the store that is taken some time later, so from here to [`Self::thawed`],
    /// also when nothing changed, the operator writes nothing to the store: it would be in the checkpoint, and come again.
    fn freeze(&mut self, epoch: Epoch, out: &mut Emitted) -> Result<Frozen, OperatorError>;

    /// Whether rows had better wait for [`Frozen::write`], without which nothing can leave memory: what is in memory is far
    /// over the budget.
    fn is_full(&self) -> bool {
        false
    }

    /// The last frozen changes have been written, and the checkpoint holds them.
    fn thawed(&mut self) -> Result<(), OperatorError> {
        Ok(())
    }

    /// Counts for metrics.
    fn stats(&self) -> OperatorStats;
}

/// How many times its memory budget an operator may hold while a checkpoint is being written.
const BUDGETS_WHILE_WRITING: usize = 2;

/// What [`KeyedOperator::is_full`] answers while a checkpoint is being written.
pub(crate) fn is_full(memory_bytes: usize, budget_bytes: usize) -> bool {
    memory_bytes > budget_bytes.saturating_mul(BUDGETS_WHILE_WRITING)
}

/// Why an operator failed.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// An expression or aggregate failed on the data.
    #[error("an expression failed")]
    Expression(#[from] datafusion_common::DataFusionError),
    /// A step failed on the data.
    #[error("an expression failed")]
    Step(#[from] StepError),
    /// An Arrow kernel failed.
    #[error("a column could not be computed")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A sum of integers has left its type.
    #[error(
        "`{aggregate}` has left the range of BIGINT: a sum of `CAST(… AS DECIMAL(38, 0))`, which is exact, or `CAST(… AS DOUBLE)` has room"
    )]
    Overflow {
        /// Which sum.
        aggregate: String,
    },
    /// State could not be read or written.
    #[error("state could not be read or written")]
    State(#[from] StateError),
    /// What is needed now is still being written.
    #[error("the state is still being written")]
    StillWriting,
    /// Restored state is not what this operator wrote.
    #[error("restored state is damaged: {found}, where {expected} was expected")]
    Damaged {
        /// What was read.
        found: String,
        /// What should have been there.
        expected: &'static str,
    },
    /// A window's lengths change, and the checkpoint does not say which rows have come.
    #[error(
        "the checkpoint is of a release whose windows could not change: start once with the window as it was, and change it then"
    )]
    Unnoted,
    /// A window's lengths change, and no instant is left at which the new ones could take over.
    #[error("the changed window can take over at no instant of event time that can be named")]
    NoBoundary,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{ArrayRef, StringArray};

    use super::*;

    #[test]
    fn many_rows_are_much_and_so_are_wide_ones() {
        let texts = |rows: usize, bytes: usize| {
            let texts = StringArray::from_iter_values((0..rows).map(|_| "x".repeat(bytes)));
            RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap()
        };
        for (batch, batches) in [(texts(8_192, 2), EMITTED_AT_ONCE / 8_192), (texts(1, 1 << 20), BYTES_AT_ONCE >> 20)] {
            let mut emitted = Emitted::default();
            for number in 1..=batches {
                assert!(!emitted.is_much(), "{number} of {batches}");
                emitted.rows.push(batch.clone());
            }
            assert!(emitted.is_much());
            emitted.rows.clear();
            assert!(!emitted.is_much());
        }
    }
}
