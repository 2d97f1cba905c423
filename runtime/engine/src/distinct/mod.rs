//! DISTINCT ON with `within`: the first row of each key, and no repeat of it for a span of event time.
//!
//! Rows are looked at in the order of their event times (rows of equal time in the order in which they came), which is
//! known when the watermark passes them; so the same rows come out however they were mixed on the way. A row comes out
//! unless a row of its key came out less than `within` before it. A row behind the watermark is late, whatever its key: rows
//! after it have been looked at without it.
//!
//! ```text
//! within 10    a@0  a@4  b@5  a@9  a@10  a@15  b@16
//! out          a@0       b@5       a@10        b@16
//! ```
//!
//! What is remembered: rows that wait for the watermark ([`Waiting`]), and for each key when it last came out, for as long as
//! that can keep anything from coming out ([`marks`]). Both leave memory when it is short. Waiting rows that have left
//! memory come out one key group after another.

mod marks;
#[cfg(test)]
mod tests;

use arrow::{
    array::{RecordBatch, UInt32Array},
    compute::{self, concat_batches},
};
use millrace_plan::Distinct;
use millrace_stream::{Epoch, EventTime, KeyGroupRange};

use self::marks::Marks;
use crate::{
    aggregate::longs,
    operator::{Emitted, Frozen, KeyedOperator, OperatorContext, OperatorError, OperatorStats, Progress, is_full},
    topn::push_in_batches,
    window::{
        facts::{Facts, come_to},
        row_log::{Parted, RowLog},
        waiting::Waiting,
    },
};

/// The names of the states in the task's store: rows that wait, and when keys last came out.
pub(crate) const STATES: [&str; 3] = ["waiting", marks::STATES[0], marks::STATES[1]];

/// Drops repeats.
pub struct DistinctWithin {
    plan: Distinct,
    waiting: Waiting,
    marks: Marks,
    watermark: i64,
    /// The greatest event time seen.
    latest: i64,
    /// Waiting rows of which those of some key groups have been looked at, and the others are next.
    taken: Option<Taken>,
    key_groups: KeyGroupRange,
    memory_budget_bytes: usize,
    batch_rows: usize,
    late_rows: u64,
}

/// Rows that were taken away from those that wait.
struct Taken {
    rows: Parted,
    /// The first key group whose rows have not been looked at.
    key_group: u16,
}

impl DistinctWithin {
    /// The operator, with the state that the context restores.
    ///
    /// # Errors
    /// Fails if stored state cannot be read.
    pub fn new(plan: &Distinct, cx: OperatorContext) -> Result<Self, OperatorError> {
        let waiting = RowLog::new(STATES[0], &plan.input, &plan.keys, &cx.store, cx.key_groups);
        let mut distinct = Self {
            waiting: Waiting::new(waiting),
            marks: Marks::new(plan, &cx)?,
            plan: plan.clone(),
            watermark: i64::MIN,
            latest: i64::MIN,
            taken: None,
            key_groups: cx.key_groups,
            memory_budget_bytes: cx.memory_budget_bytes,
            batch_rows: cx.batch_rows.max(1),
            late_rows: 0,
        };
        if let Some(facts) = Facts::join(&cx.restored)? {
            (distinct.watermark, distinct.latest) = (facts.watermark, facts.latest);
            distinct.waiting.load(facts.next_part, cx.memory_budget_bytes / 2)?;
            distinct.marks.load(facts.next_part, cx.memory_budget_bytes / 4)?;
        }
        Ok(distinct)
    }

    fn emit(&mut self, due: &RecordBatch, out: &mut Emitted) -> Result<(), OperatorError> {
        let rows = self.marks.first_of(due)?;
        push_in_batches(&rows, self.batch_rows, &mut out.rows);
        Ok(())
    }

    /// Looks at the rows that are before `watermark` of buckets that were taken away, one key group after another.
    fn look_at(&mut self, mut taken: Taken, watermark: i64, out: &mut Emitted) -> Result<Progress, OperatorError> {
        while taken.key_group < self.key_groups.end {
            let mut pieces: Vec<(i64, u64, RecordBatch)> = Vec::new();
            self.waiting.log().read_parted(&taken.rows, taken.key_group, |bucket, number, rows| {
                pieces.push((bucket, number, rows));
                Ok(())
            })?;
            taken.key_group += 1;
            pieces.sort_by_key(|(bucket, number, _)| (*bucket, *number));
            let rows = concat_batches(&self.plan.input, pieces.iter().map(|(_, _, rows)| rows))?;
            let rows = self.waiting.part(&rows, watermark)?;
            self.emit(&by_time(&rows)?, out)?;
            self.mind_memory()?;
            if out.is_much() {
                self.taken = Some(taken);
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    /// Keeps to the memory budget. Rows before the watermark that is coming may not have been looked at yet: what can keep
    /// one of them from coming out is kept.
    fn mind_memory(&mut self) -> Result<(), OperatorError> {
        let waiting = self.waiting.log().memory_bytes();
        if waiting + self.marks.memory_bytes() <= self.memory_budget_bytes {
            return Ok(());
        }
        self.waiting.spill_to(self.memory_budget_bytes / 2)?;
        self.marks.mind_memory(self.watermark, self.memory_budget_bytes / 2)
    }
}

impl KeyedOperator for DistinctWithin {
    fn process(&mut self, batch: RecordBatch, out: &mut Emitted) -> Result<(), OperatorError> {
        self.latest = longs(batch.column(0)).into_iter().flatten().copied().max().unwrap_or(i64::MIN).max(self.latest);
        if let Some(late) = self.waiting.append(&batch, self.watermark)? {
            self.late_rows += late.num_rows() as u64;
            if !self.plan.late.is_empty() {
                out.late.push(late.project(&self.plan.late)?);
            }
        }
        self.mind_memory()
    }

    fn advance(&mut self, watermark: EventTime, out: &mut Emitted) -> Result<Progress, OperatorError> {
        let watermark = watermark.0;
        if watermark <= self.watermark && self.taken.is_none() {
            return Ok(Progress::Done);
        }
        loop {
            let taken = match self.taken.take() {
                Some(taken) => Some(taken),
                None => {
                    let due = self.waiting.due(watermark, self.batch_rows);
                    if due.iter().any(|bucket| self.waiting.log().is_cold(*bucket)) {
                        Some(Taken { rows: self.waiting.take_parted(&due)?, key_group: self.key_groups.start })
                    } else {
                        let Some(rows) = self.waiting.take(&due, watermark)? else { break };
                        self.emit(&rows, out)?;
                        self.mind_memory()?;
                        None
                    }
                }
            };
            if let Some(taken) = taken
                && self.look_at(taken, watermark, out)? == Progress::More
            {
                return Ok(Progress::More);
            }
            if out.is_much() {
                return Ok(Progress::More);
            }
        }
        self.watermark = come_to(watermark, self.watermark, self.latest);
        self.marks.forget(self.watermark)?;
        Ok(Progress::Done)
    }

    fn freeze(&mut self, _epoch: Epoch, _out: &mut Emitted) -> Result<Frozen, OperatorError> {
        let writes = (self.waiting.freeze(), self.marks.freeze());
        let next_part = self.waiting.log().next_part().max(self.marks.next_part());
        let facts = Facts::new(self.key_groups, self.watermark, self.latest, next_part);
        let write = (writes.0.is_some() || writes.1.is_some()).then(|| -> crate::operator::Write {
            Box::new(move |store| {
                writes.0.map_or(Ok(()), |writes| writes.write(store))?;
                writes.1.map_or(Ok(()), |writes| writes.write(store))
            })
        });
        Ok(Frozen { meta: facts.to_value(), write })
    }

    fn is_full(&self) -> bool {
        is_full(self.waiting.log().memory_bytes() + self.marks.memory_bytes(), self.memory_budget_bytes)
    }

    fn thawed(&mut self) -> Result<(), OperatorError> {
        self.waiting.thaw();
        self.marks.thaw();
        self.mind_memory()
    }

    fn stats(&self) -> OperatorStats {
        let waiting = self.waiting.log();
        OperatorStats {
            entries: waiting.rows() + self.marks.len() as u64,
            memory_bytes: (waiting.memory_bytes() + self.marks.memory_bytes()) as u64,
            late_rows: self.late_rows,
            spilled_bytes: waiting.spilled_bytes() + self.marks.spilled_bytes(),
            ..OperatorStats::default()
        }
    }
}

/// The rows of a batch in the order of their event times; equal ones stay in order.
pub(crate) fn by_time(rows: &RecordBatch) -> Result<RecordBatch, OperatorError> {
    let times = longs(rows.column(0)).unwrap_or_default();
    if times.is_sorted() {
        return Ok(rows.clone());
    }
    let mut order: Vec<u32> = (0..times.len() as u32).collect();
    order.sort_by_key(|row| times[*row as usize]);
    Ok(compute::take_record_batch(rows, &UInt32Array::from(order))?)
}
