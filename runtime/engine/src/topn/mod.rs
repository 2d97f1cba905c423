//! The first n rows of each window, or of each group in it.
//!
//! Rows carry their window as their event time, its last millisecond. They are gathered by it; when a window has many more
//! than it can emit, those that are certainly not among the first are dropped. When the watermark passes the window, what
//! is left is put in order and emitted, and the window is forgotten.
//!
//! Rows in the same place of the order are told apart by the remaining columns, so the same rows come out whatever the
//! order in which they came in.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array},
    compute::{self, concat_batches},
    row::{RowConverter, SortField},
};
use millrace_plan::TopN;
use millrace_stream::{Epoch, EventTime, KeyGroupRange};

use crate::{
    aggregate::longs,
    operator::{Emitted, Frozen, KeyedOperator, OperatorContext, OperatorError, OperatorStats, Progress, is_full},
    window::{
        facts::{Facts, come_to},
        row_log::RowLog,
    },
};

/// The name of the state in the task's store.
pub(crate) const STATE: &str = "top";

/// A window is thinned out when it has this many rows, or four times those that the last thinning left.
const ROWS_BEFORE_THINNING: usize = 16 * 1024;

/// The first n of each window.
pub struct Top {
    plan: TopN,
    /// Partition, order, everything else: rows compare as their place in the output.
    order: RowConverter,
    order_columns: Vec<usize>,
    partition: RowConverter,
    log: RowLog,
    /// How many rows a window had left when it was last thinned out.
    left: BTreeMap<i64, usize>,
    /// The first key group of the first window that has not been emitted, when others of it have.
    emitted_until: Option<u16>,
    watermark: i64,
    /// The greatest event time seen.
    latest: i64,
    key_groups: KeyGroupRange,
    memory_budget_bytes: usize,
    batch_rows: usize,
    late_rows: u64,
}

impl Top {
    /// The operator, with the state that the context restores.
    ///
    /// # Errors
    /// Fails if a column cannot be ordered, or stored state cannot be read.
    pub fn new(plan: &TopN, cx: OperatorContext) -> Result<Self, OperatorError> {
        let fields = plan.input.fields();
        let sort_field =
            |column: usize, options| SortField::new_with_options(fields[column].data_type().clone(), options);
        let mut columns: Vec<(usize, _)> =
            plan.partition_by.iter().map(|column| (*column, Default::default())).collect();
        columns.extend(plan.order_by.iter().copied());
        let rest = (1..fields.len()).filter(|column| !columns.iter().any(|(taken, _)| taken == column));
        let rest: Vec<(usize, _)> = rest.map(|column| (column, Default::default())).collect();
        columns.extend(rest);
        let partition = plan.partition_by.iter().map(|column| sort_field(*column, Default::default())).collect();
        let mut log = RowLog::new(STATE, &plan.input, &plan.partition_by, &cx.store, cx.key_groups);
        let facts = Facts::join(&cx.restored)?;
        if let Some(facts) = facts {
            log.load(facts.next_part, cx.memory_budget_bytes)?;
        }
        Ok(Self {
            order: RowConverter::new(columns.iter().map(|(column, options)| sort_field(*column, *options)).collect())?,
            order_columns: columns.iter().map(|(column, _)| *column).collect(),
            partition: RowConverter::new(partition)?,
            plan: plan.clone(),
            log,
            left: BTreeMap::new(),
            emitted_until: None,
            watermark: facts.map_or(i64::MIN, |facts| facts.watermark),
            latest: facts.map_or(i64::MIN, |facts| facts.latest),
            key_groups: cx.key_groups,
            memory_budget_bytes: cx.memory_budget_bytes,
            batch_rows: cx.batch_rows.max(1),
            late_rows: 0,
        })
    }

    /// The first rows of each partition, in order, and their numbers from 1.
    fn first(&self, rows: &RecordBatch) -> Result<(UInt32Array, Vec<u64>), OperatorError> {
        let columns = |wanted: &[usize]| -> Vec<ArrayRef> {
            wanted.iter().map(|column| Arc::clone(rows.column(*column))).collect()
        };
        let places = self.order.convert_columns(&columns(&self.order_columns))?;
        let mut sorted: Vec<u32> = (0..rows.num_rows() as u32).collect();
        sorted.sort_by(|a, b| places.row(*a as usize).cmp(&places.row(*b as usize)));
        let partitions = match &self.plan.partition_by[..] {
            [] => None,
            wanted => Some(self.partition.convert_columns(&columns(wanted))?),
        };
        let (mut kept, mut numbers) = (Vec::new(), Vec::new());
        let mut number = 0;
        let mut before: Option<u32> = None;
        for row in sorted {
            let same = before.is_some_and(|before| {
                partitions.as_ref().is_none_or(|of| of.row(before as usize) == of.row(row as usize))
            });
            number = if same { number + 1 } else { 1 };
            before = Some(row);
            if number <= self.plan.limit as u64 {
                kept.push(row);
                numbers.push(number);
            }
        }
        Ok((UInt32Array::from(kept), numbers))
    }

    /// Drops rows of a window that are certainly not among its first. Of a window that has left memory in part, only those
    /// are looked at that are not in the store.
    fn thin_out(&mut self, window: i64) -> Result<(), OperatorError> {
        let is_cold = self.log.is_cold(window);
        let rows = if is_cold { self.log.unstored(window) } else { self.log.size_of(window).0 };
        let left = self.left.get(&window).copied().unwrap_or(0);
        if rows < ROWS_BEFORE_THINNING.max(4 * left) {
            return Ok(());
        }
        if is_cold {
            let all = self.log.take_unstored(window)?;
            let first = self.only_first(&all)?;
            self.left.insert(window, first.num_rows());
            self.log.append(window, first);
            return Ok(());
        }
        let all = self.log.read(window)?;
        let first = self.only_first(&all)?;
        self.left.insert(window, first.num_rows());
        if first.num_rows() < rows {
            self.log.replace(window, first);
        }
        Ok(())
    }

    /// The rows that are among the first, as they came.
    fn only_first(&self, rows: &RecordBatch) -> Result<RecordBatch, OperatorError> {
        let mut first = self.first(rows)?.0.values().to_vec();
        first.sort_unstable();
        Ok(compute::take_record_batch(rows, &UInt32Array::from(first))?)
    }

    /// Emits the first rows of all rows of some partitions.
    fn emit_first(&self, all: &RecordBatch, out: &mut Emitted) -> Result<(), OperatorError> {
        let (first, numbers) = self.first(all)?;
        let rows = compute::take_record_batch(all, &first)?;
        let mut columns = rows.columns().to_vec();
        if self.plan.row_number {
            columns.push(Arc::new(UInt64Array::from(numbers)));
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.plan.output), columns)?;
        push_in_batches(&rows, self.batch_rows, &mut out.rows);
        Ok(())
    }

    /// Emits a window that is in memory only in part, one key group after another.
    fn emit_cold(&mut self, window: i64, out: &mut Emitted) -> Result<Progress, OperatorError> {
        let parted = self.log.parted(std::iter::once(window))?;
        let from = self.emitted_until.take().unwrap_or(self.key_groups.start);
        for key_group in from..self.key_groups.end {
            let (mut pieces, mut rows, mut left) = (Vec::new(), 0, 0);
            self.log.read_parted(&parted, key_group, |_, _, piece| {
                rows += piece.num_rows();
                pieces.push(piece);
                if rows >= ROWS_BEFORE_THINNING.max(4 * left) {
                    let first = self.only_first(&concat_batches(&self.plan.input, &pieces)?)?;
                    (rows, left) = (first.num_rows(), first.num_rows());
                    pieces = vec![first];
                }
                Ok(())
            })?;
            if rows > 0 {
                self.emit_first(&concat_batches(&self.plan.input, &pieces)?, out)?;
            }
            if out.is_much() {
                self.emitted_until = Some(key_group + 1);
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    fn emit(&mut self, window: i64, out: &mut Emitted) -> Result<Progress, OperatorError> {
        if self.log.is_cold(window) {
            if self.emit_cold(window, out)? == Progress::More {
                return Ok(Progress::More);
            }
        } else {
            self.emit_first(&self.log.read(window)?, out)?;
        }
        self.log.remove(window);
        self.left.remove(&window);
        Ok(Progress::Done)
    }
}

/// Emits rows in batches of about `batch_rows`.
pub(crate) fn push_in_batches(rows: &RecordBatch, batch_rows: usize, out: &mut Vec<RecordBatch>) {
    let mut from = 0;
    while from < rows.num_rows() {
        let count = batch_rows.min(rows.num_rows() - from);
        out.push(rows.slice(from, count));
        from += count;
    }
}

impl KeyedOperator for Top {
    fn process(&mut self, batch: RecordBatch, _out: &mut Emitted) -> Result<(), OperatorError> {
        let event_time = Arc::clone(batch.column(0));
        let times = longs(&event_time).unwrap_or_default();
        let Some(first) = times.first() else { return Ok(()) };
        self.latest = times.iter().copied().max().unwrap_or(i64::MIN).max(self.latest);
        if times.iter().all(|time| time == first) && *first >= self.watermark {
            self.log.append(*first, batch);
            self.thin_out(*first)?;
        } else {
            let mut windows: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
            times.iter().enumerate().for_each(|(row, time)| windows.entry(*time).or_default().push(row as u32));
            for (window, rows) in windows {
                if window < self.watermark {
                    self.late_rows += rows.len() as u64;
                    continue;
                }
                self.log.append(window, compute::take_record_batch(&batch, &UInt32Array::from(rows))?);
                self.thin_out(window)?;
            }
        }
        self.log.spill_to(self.memory_budget_bytes)
    }

    fn advance(&mut self, watermark: EventTime, out: &mut Emitted) -> Result<Progress, OperatorError> {
        while let Some(window) = self.log.first_bucket().filter(|window| *window < watermark.0) {
            if self.emit(window, out)? == Progress::More || out.is_much() {
                return Ok(Progress::More);
            }
        }
        self.watermark = come_to(watermark.0, self.watermark, self.latest);
        Ok(Progress::Done)
    }

    fn freeze(&mut self, _epoch: Epoch, _out: &mut Emitted) -> Result<Frozen, OperatorError> {
        let writes = self.log.freeze();
        let facts = Facts::new(self.key_groups, self.watermark, self.latest, self.log.next_part());
        let write = writes.map(|writes| -> crate::operator::Write { Box::new(move |store| writes.write(store)) });
        Ok(Frozen { meta: facts.to_value(), write })
    }

    fn is_full(&self) -> bool {
        is_full(self.log.memory_bytes(), self.memory_budget_bytes)
    }

    fn thawed(&mut self) -> Result<(), OperatorError> {
        self.log.thaw();
        Ok(())
    }

    fn stats(&self) -> OperatorStats {
        OperatorStats {
            entries: self.log.rows(),
            memory_bytes: self.log.memory_bytes() as u64,
            late_rows: self.late_rows,
            spilled_bytes: self.log.spilled_bytes(),
            ..OperatorStats::default()
        }
    }
}
