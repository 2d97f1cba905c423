//! DISTINCT ON with `within`: the first row of each key, and no repeat of it for a span of event time.
//!
//! Rows are looked at in the order of their event times (rows of equal time in the order in which they came), which is
//! known when the watermark passes them; so the same rows come out however they were mixed on the way. A row comes out
//! unless a row of its key came out less than `within` before it.
//!
//! ```text
//! within 10    a@0  a@4  b@5  a@9  a@10  a@15  b@16
//! out          a@0       b@5       a@10        b@16
//! ```
//!
//! What is remembered: rows that wait for the watermark, and for each key when it last came out, for as long as that can
//! keep anything from coming out. The latter is in memory for every such key.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array},
    compute,
    datatypes::DataType,
};
use millrace_plan::Distinct;
use millrace_stream::{Epoch, EventTime, KeyGroupRange};

use crate::{
    aggregate::longs,
    group::{Groups, NO_GROUP},
    operator::{Emitted, Frozen, KeyedOperator, OperatorContext, OperatorError, OperatorStats, is_full},
    topn::push_in_batches,
    window::{facts::Facts, row_log::RowLog, waiting::Waiting},
};

/// The names of the states in the task's store: rows that wait, and when keys last came out.
pub(crate) const STATES: [&str; 2] = ["waiting", "marks"];

/// A key that came out never.
const NEVER: i64 = i64::MIN;

/// Drops repeats.
pub struct DistinctWithin {
    plan: Distinct,
    waiting: Waiting,
    groups: Groups,
    /// When each group last came out.
    last: Vec<i64>,
    marks: RowLog,
    mark_columns: Vec<usize>,
    mark_bucket_ms: i64,
    watermark: i64,
    key_groups: KeyGroupRange,
    memory_budget_bytes: usize,
    batch_rows: usize,
    late_rows: u64,
    groups_after_reclaim: usize,
}

impl DistinctWithin {
    /// The operator, with the state that the context restores.
    ///
    /// # Errors
    /// Fails if stored state cannot be read.
    pub fn new(plan: &Distinct, cx: OperatorContext) -> Result<Self, OperatorError> {
        let types: Vec<DataType> = plan.keys.iter().map(|key| plan.input.field(*key).data_type().clone()).collect();
        let mark_columns: Vec<usize> = std::iter::once(0).chain(plan.keys.iter().copied()).collect();
        let mark_schema = Arc::new(plan.input.project(&mark_columns)?);
        let mark_keys: Vec<usize> = (1..=plan.keys.len()).collect();
        let waiting = RowLog::new(STATES[0], &plan.input, &plan.keys, &cx.store, cx.key_groups);
        let mut distinct = Self {
            waiting: Waiting::new(waiting),
            groups: Groups::new(&types)?,
            last: Vec::new(),
            marks: RowLog::new(STATES[1], &mark_schema, &mark_keys, &cx.store, cx.key_groups),
            mark_columns,
            mark_bucket_ms: (plan.within_ms / 8).max(1),
            plan: plan.clone(),
            watermark: i64::MIN,
            key_groups: cx.key_groups,
            memory_budget_bytes: cx.memory_budget_bytes,
            batch_rows: cx.batch_rows.max(1),
            late_rows: 0,
            groups_after_reclaim: 0,
        };
        if let Some(facts) = Facts::join(&cx.restored)? {
            distinct.watermark = facts.watermark;
            distinct.waiting.log_mut().load(facts.next_part, cx.memory_budget_bytes)?;
            distinct.marks.load(facts.next_part, cx.memory_budget_bytes)?;
            let buckets: Vec<i64> = distinct.marks.buckets().collect();
            for bucket in buckets {
                let marks = distinct.marks.read(bucket)?;
                distinct.remember(&marks)?;
            }
            distinct.marks.drop_written();
        }
        Ok(distinct)
    }

    /// Notes when keys came out.
    fn remember(&mut self, marks: &RecordBatch) -> Result<(), OperatorError> {
        let mut groups = Vec::new();
        self.groups.intern(&marks.columns()[1..], marks.num_rows(), &mut groups)?;
        self.last.resize(self.groups.len(), NEVER);
        for (group, time) in groups.iter().zip(longs(marks.column(0)).unwrap_or_default()) {
            let last = &mut self.last[*group as usize];
            *last = (*last).max(*time);
        }
        Ok(())
    }

    /// The rows that come out of `rows`, which are in the order of their event times.
    fn first_of(&mut self, rows: &RecordBatch) -> Result<RecordBatch, OperatorError> {
        let keys: Vec<ArrayRef> = self.plan.keys.iter().map(|key| Arc::clone(rows.column(*key))).collect();
        let mut groups = Vec::new();
        self.groups.intern(&keys, rows.num_rows(), &mut groups)?;
        self.last.resize(self.groups.len(), NEVER);
        let times = longs(rows.column(0)).unwrap_or_default();
        let comes_out = groups.iter().zip(times).map(|(group, time)| {
            let last = &mut self.last[*group as usize];
            let first = *last == NEVER || time.saturating_sub(*last) >= self.plan.within_ms;
            if first {
                *last = *time;
            }
            Some(first)
        });
        let comes_out: BooleanArray = comes_out.collect();
        Ok(compute::filter_record_batch(rows, &comes_out)?)
    }

    fn mark(&mut self, rows: &RecordBatch) -> Result<(), OperatorError> {
        let marks = rows.project(&self.mark_columns)?;
        let times = longs(marks.column(0)).unwrap_or_default();
        let bucket_of = |time: i64| time.saturating_sub(time.rem_euclid(self.mark_bucket_ms));
        let mut from = 0;
        while from < times.len() {
            let bucket = bucket_of(times[from]);
            let to = from + times[from..].iter().take_while(|time| bucket_of(**time) == bucket).count();
            self.marks.append(bucket, marks.slice(from, to - from));
            from = to;
        }
        Ok(())
    }

    /// Forgets keys that can no longer keep anything from coming out.
    fn forget(&mut self) -> Result<(), OperatorError> {
        const FEW: usize = 16 * 1024;
        let horizon = self.watermark.saturating_sub(self.plan.within_ms);
        let over: Vec<i64> = self
            .marks
            .buckets()
            .take_while(|bucket| bucket.saturating_add(self.mark_bucket_ms - 1) <= horizon)
            .collect();
        over.into_iter().for_each(|bucket| self.marks.remove(bucket));
        if self.groups.len() < FEW.max(2 * self.groups_after_reclaim) {
            return Ok(());
        }
        let live: Vec<bool> = self.last.iter().map(|last| *last != NEVER && *last > horizon).collect();
        let renumbered = self.groups.retain(&live)?;
        let mut last = vec![NEVER; self.groups.len()];
        for (old, new) in renumbered.iter().enumerate().filter(|(_, new)| **new != NO_GROUP) {
            last[*new as usize] = self.last[old];
        }
        self.last = last;
        self.groups_after_reclaim = self.groups.len();
        Ok(())
    }
}

impl KeyedOperator for DistinctWithin {
    fn process(&mut self, batch: RecordBatch, _out: &mut Emitted) -> Result<(), OperatorError> {
        let late = self.waiting.append(&batch, self.watermark)?;
        self.late_rows += late.map_or(0, |late| late.num_rows() as u64);
        self.waiting.log_mut().spill_to(self.memory_budget_bytes)
    }

    fn advance(&mut self, watermark: EventTime, out: &mut Emitted) -> Result<(), OperatorError> {
        if watermark.0 <= self.watermark {
            return Ok(());
        }
        self.watermark = watermark.0;
        while let Some(due) = self.waiting.take_due(watermark.0)? {
            let rows = self.first_of(&due)?;
            self.mark(&rows)?;
            push_in_batches(&rows, self.batch_rows, &mut out.rows);
        }
        self.forget()
    }

    fn freeze(&mut self, _epoch: Epoch, _out: &mut Emitted) -> Result<Frozen, OperatorError> {
        let writes = (self.waiting.log_mut().freeze(), self.marks.freeze());
        let next_part = self.waiting.log_mut().next_part().max(self.marks.next_part());
        let facts = Facts::new(self.key_groups, self.watermark, self.watermark, next_part);
        let write = (writes.0.is_some() || writes.1.is_some()).then(|| -> crate::operator::Write {
            Box::new(move |store| {
                writes.0.map_or(Ok(()), |writes| writes.write(store))?;
                writes.1.map_or(Ok(()), |writes| writes.write(store))
            })
        });
        Ok(Frozen { meta: facts.to_value(), write })
    }

    fn is_full(&self) -> bool {
        is_full(self.waiting.log().memory_bytes(), self.memory_budget_bytes)
    }

    fn thawed(&mut self) -> Result<(), OperatorError> {
        self.waiting.log_mut().thaw();
        self.marks.thaw();
        // What is in the store is only read again by a restart.
        self.marks.drop_written();
        Ok(())
    }

    fn stats(&self) -> OperatorStats {
        let waiting = self.waiting.log();
        OperatorStats {
            entries: waiting.rows() + self.last.len() as u64,
            memory_bytes: (waiting.memory_bytes()
                + self.marks.memory_bytes()
                + self.groups.memory_bytes()
                + self.last.capacity() * 8) as u64,
            late_rows: self.late_rows,
            spilled_bytes: waiting.spilled_bytes(),
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
