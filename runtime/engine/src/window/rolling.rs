//! Rolling windows: for each row, the aggregates over the rows of its key in `(t - range, t]`.
//!
//! A row comes out when the watermark passes it, with everything that had come by then: rows of equal time see each
//! other, and rows come out in the order of their times. Rows are remembered as long as they can lie in the range of one
//! that is still to come.
//!
//! A row that comes after the watermark has passed it is late. Within the allowed lateness it comes out all the same,
//! when the watermark next moves or at the next barrier, and counts for the rows after it that have not come out yet;
//! those that have stay as they are, so it is as if they had been asked too early. Beyond the lateness it is dropped, or
//! goes to the late output.
//!
//! When the range changes, each row has the range of the era that owns its event time ([`super::eras`]), over the rows that
//! are still remembered.
//!
//! # How
//!
//! All rows that are due, and all that lie in their ranges, are put in the order of key and time, so that what a row is
//! aggregated over is a range of them ([`ranges`]). Results come out in parts: a result may be as long as its range.

pub(super) mod ranges;

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, Int32Array, RecordBatch, TimestampMicrosecondArray},
    compute::{self, concat_batches},
    datatypes::DataType,
};
use millrace_plan::{LateRows, WindowAggregate, WindowKind};
use millrace_stream::{Epoch, EventTime, KeyGroupRange};

use self::ranges::{BYTES_AT_ONCE, Ranges, Totals};
use super::{
    chunks::key_groups_of,
    eras::{Era, Eras},
    facts::{WindowFacts, come_to},
    row_log::RowLog,
    waiting::{append_by_bucket, part_by_time},
};
use crate::{
    aggregate::{Aggregates, longs},
    distinct::by_time,
    group::Groups,
    operator::{
        Emitted, Frozen, KeyedOperator, OperatorContext, OperatorError, OperatorStats, Progress, Write, is_full,
    },
    topn::push_in_batches,
};

/// The name of the state in the task's store.
pub(super) const STATE: &str = "rolling";

/// A GROUP BY over the trailing range of each row.
pub struct RollingWindows {
    plan: WindowAggregate,
    aggregates: Aggregates,
    key_types: Vec<DataType>,
    eras: Eras,
    /// How long the longest bucket is.
    widest_ms: i64,
    log: RowLog,
    /// Late rows within the allowed lateness, which come out next.
    late: Vec<RecordBatch>,
    /// The rows that are coming out.
    coming: Option<Coming>,
    watermark: i64,
    /// The greatest event time seen.
    latest: i64,
    key_groups: KeyGroupRange,
    memory_budget_bytes: usize,
    batch_rows: usize,
    stats: OperatorStats,
}

fn range_of(era: &Era) -> i64 {
    match era.window.kind {
        WindowKind::Rolling { range_ms } => range_ms.max(1),
        _ => 1,
    }
}

/// How long the buckets are into which an era's rows go.
fn bucket_ms_of(era: &Era) -> i64 {
    (range_of(era) / 16).clamp(1, 60_000)
}

/// The bucket of a row's event time.
fn bucket_at(eras: &Eras) -> impl Fn(i64) -> i64 {
    |time| time.saturating_sub(time.rem_euclid(bucket_ms_of(eras.at(time))))
}

impl RollingWindows {
    /// The operator of `plan`, with the state that the context restores.
    ///
    /// # Errors
    /// Fails if the plan's aggregates cannot be computed, or stored state cannot be read.
    pub fn new(plan: &WindowAggregate, cx: OperatorContext) -> Result<Self, OperatorError> {
        let mut log = RowLog::new(STATE, &plan.input, &plan.keys, &cx.store, cx.key_groups);
        let tasks = WindowFacts::read_all(&cx.restored)?;
        let eras = Eras::restored(&tasks, &plan.def)?;
        let watermark = tasks.iter().map(|facts| facts.watermark).max();
        if let Some(next_part) = tasks.iter().map(|facts| facts.next_part).max() {
            log.load(next_part, cx.memory_budget_bytes)?;
        }
        let mut rolling = Self {
            aggregates: Aggregates::new(&plan.aggregates, &plan.input)?,
            key_types: plan.keys.iter().map(|key| plan.input.field(*key).data_type().clone()).collect(),
            widest_ms: 0,
            eras,
            log,
            late: Vec::new(),
            coming: None,
            watermark: watermark.unwrap_or(i64::MIN),
            latest: WindowFacts::latest(&tasks),
            key_groups: cx.key_groups,
            memory_budget_bytes: cx.memory_budget_bytes,
            batch_rows: cx.batch_rows.max(1),
            stats: OperatorStats::default(),
            plan: plan.clone(),
        };
        rolling.measure_buckets();
        if tasks.iter().any(|facts| facts.latest.is_none()) {
            // What an older release did not write down lies in a bucket, or has passed.
            let open =
                rolling.log.buckets().next_back().map_or(i64::MIN, |bucket| bucket.saturating_add(rolling.widest_ms));
            rolling.latest = rolling.latest.max(open).max(rolling.watermark.saturating_sub(1));
        }
        // What a task had not emitted that another of that time had.
        for behind in tasks.iter().filter(|facts| facts.watermark < rolling.watermark) {
            let first = rolling.log.first_bucket().unwrap_or(behind.watermark);
            let rows = rolling.rows_in(behind.watermark.max(first)..rolling.watermark)?;
            let own = key_groups_of(&rows, &plan.keys);
            let own: BooleanArray = own.into_iter().map(|group| Some(behind.key_groups.contains(group))).collect();
            rolling.late.push(compute::filter_record_batch(&rows, &own)?);
        }
        Ok(rolling)
    }

    fn measure_buckets(&mut self) {
        self.widest_ms = self.eras.list().iter().map(bucket_ms_of).max().unwrap_or(1);
    }

    /// Forgets the definitions before the plan's when no row is to come out by them and no bucket is of their length.
    fn forget_eras(&mut self) {
        let (watermark, first) = (self.watermark, self.log.first_bucket().unwrap_or(i64::MAX));
        let last_row = watermark.saturating_sub(self.most_late());
        self.eras.forget(|_, until| until <= last_row && until <= first);
        self.measure_buckets();
    }

    /// The greatest allowed lateness.
    fn most_late(&self) -> i64 {
        self.eras.iter().map(|(era, _)| era.window.allowed_lateness_ms).max().unwrap_or(0)
    }

    /// How far before the watermark a row is remembered: those that are still to come out may be late, and have a range.
    fn kept_ms(&self) -> i64 {
        let late = self.most_late();
        let last_row = self.watermark.saturating_sub(late);
        let to_come = self.eras.iter().filter(|(_, until)| *until > last_row);
        to_come.map(|(era, _)| range_of(era)).max().unwrap_or(0).saturating_add(late)
    }

    /// The remembered rows with times in `times`.
    fn rows_in(&self, times: Range<i64>) -> Result<RecordBatch, OperatorError> {
        let mut found = Vec::new();
        for bucket in self.buckets_of(times.clone()) {
            let rows = self.log.read(bucket)?;
            let (rows, _) = part_by_time(&rows, times.end)?;
            let (_, rows) = part_by_time(&rows, times.start)?;
            found.push(rows);
        }
        Ok(concat_batches(&self.plan.input, &found)?)
    }

    /// The event times of the rows that lie in the ranges of rows with these times.
    fn reach_of(&self, times: &[i64]) -> Range<i64> {
        let (first, last) = (times.iter().min(), times.iter().max());
        let widest = times.iter().map(|time| range_of(self.eras.at(*time))).max().unwrap_or(1);
        let (first, last) = (first.copied().unwrap_or(0), last.copied().unwrap_or(0));
        first.saturating_sub(widest).saturating_add(1)..last.saturating_add(1)
    }

    /// The buckets that may have rows with times in `times`.
    fn buckets_of(&self, times: Range<i64>) -> impl Iterator<Item = i64> {
        let first = times.start.saturating_sub(self.widest_ms);
        self.log.buckets().filter(move |bucket| *bucket > first && *bucket < times.end)
    }

    /// Emits the rows of `due`, which are remembered too; one key group after another if not all that lie in their ranges
    /// are in memory.
    fn emit(&mut self, due: &Due, out: &mut Emitted) -> Result<Progress, OperatorError> {
        let mut from = None;
        if let Some(coming) = self.coming.take() {
            from = coming.next_group;
            if self.emit_rows(coming, out)? == Progress::More {
                return Ok(Progress::More);
            }
            if from.is_none() {
                return Ok(Progress::Done);
            }
        }
        let reach = match due {
            Due::Rows(rows) if rows.num_rows() == 0 => return Ok(Progress::Done),
            Due::Rows(rows) => self.reach_of(longs(rows.column(0)).unwrap_or_default()),
            Due::Times(times) if times.is_empty() => return Ok(Progress::Done),
            Due::Times(times) => {
                let widest = self.eras.list().iter().map(range_of).max().unwrap_or(1);
                times.start.saturating_sub(widest).saturating_add(1)..times.end
            }
        };
        if from.is_none() && !self.buckets_of(reach.clone()).any(|bucket| self.log.is_cold(bucket)) {
            let due = match due {
                Due::Rows(rows) => rows.clone(),
                Due::Times(times) => self.rows_in(times.clone())?,
            };
            if due.num_rows() == 0 {
                return Ok(Progress::Done);
            }
            let all = self.rows_in(self.reach_of(longs(due.column(0)).unwrap_or_default()))?;
            let coming = self.coming(&due, &all, None)?;
            drop((due, all));
            return self.emit_rows(coming, out);
        }
        let own = match due {
            Due::Rows(rows) => Some(key_groups_of(rows, &self.plan.keys)),
            Due::Times(_) => None,
        };
        let parted = self.log.parted(self.buckets_of(reach.clone()))?;
        for key_group in from.unwrap_or(self.key_groups.start)..self.key_groups.end {
            let of_group = match (due, &own) {
                (Due::Rows(rows), Some(own)) => {
                    let own: BooleanArray = own.iter().map(|group| Some(group.0 == key_group)).collect();
                    if own.true_count() == 0 {
                        continue;
                    }
                    Some(compute::filter_record_batch(rows, &own)?)
                }
                _ => None,
            };
            let mut pieces: Vec<(i64, u64, RecordBatch)> = Vec::new();
            self.log.read_parted(&parted, key_group, |bucket, number, rows| {
                let (_, rows) = part_by_time(&part_by_time(&rows, reach.end)?.0, reach.start)?;
                pieces.push((bucket, number, rows));
                Ok(())
            })?;
            pieces.sort_by_key(|(bucket, number, _)| (*bucket, *number));
            let all = concat_batches(&self.plan.input, pieces.iter().map(|(_, _, rows)| rows))?;
            drop(pieces);
            let due = match (of_group, due) {
                (None, Due::Times(times)) => part_by_time(&part_by_time(&all, times.end)?.0, times.start)?.1,
                (rows, _) => rows.unwrap_or_else(|| all.slice(0, 0)),
            };
            if due.num_rows() == 0 {
                continue;
            }
            let coming = self.coming(&due, &all, Some(key_group + 1))?;
            drop((due, all));
            if self.emit_rows(coming, out)? == Progress::More {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    /// Emits what is left of `coming`, which is kept if it had better go on in parts.
    fn emit_rows(&mut self, mut coming: Coming, out: &mut Emitted) -> Result<Progress, OperatorError> {
        while let Some(Totals { ranges, results }) = coming.ranges.next_part()? {
            let due = coming.due.slice(ranges.start, ranges.len());
            let times = longs(due.column(0)).unwrap_or_default();
            let micros = |bounds: &mut dyn Iterator<Item = i64>| {
                let bounds = bounds.map(|bound| bound.saturating_mul(1000));
                TimestampMicrosecondArray::from_iter_values(bounds).with_timezone("UTC")
            };
            let starts = times.iter().map(|time| time.saturating_sub(range_of(self.eras.at(*time))));
            let mut columns: Vec<ArrayRef> = vec![
                Arc::clone(due.column(0)),
                Arc::new(micros(&mut starts.into_iter())),
                Arc::new(micros(&mut times.iter().copied())),
                Arc::new(Int32Array::from_value(0, due.num_rows())),
            ];
            columns.extend(self.plan.keys.iter().chain(&self.plan.carried).map(|at| Arc::clone(due.column(*at))));
            columns.extend(results);
            let rows = RecordBatch::try_new(Arc::clone(&self.plan.output), columns)?;
            push_in_batches(&rows, self.batch_rows, &mut out.rows);
            if out.is_much() {
                self.coming = Some(coming);
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    /// The rows of `due`, all of whose ranges lie in `all`.
    fn coming(&self, due: &RecordBatch, all: &RecordBatch, next_group: Option<u16>) -> Result<Coming, OperatorError> {
        let due = by_time(due)?;
        let keys_of = |rows: &RecordBatch| -> Vec<ArrayRef> {
            self.plan.keys.iter().map(|key| Arc::clone(rows.column(*key))).collect()
        };
        let mut groups = Groups::new(&self.key_types)?;
        let (mut of_due, mut of_all) = (Vec::new(), Vec::new());
        groups.intern(&keys_of(&due), due.num_rows(), &mut of_due)?;
        let wanted = groups.len() as u32;
        groups.intern(&keys_of(all), all.num_rows(), &mut of_all)?;
        let times = longs(all.column(0)).unwrap_or_default();
        let mut order: Vec<u32> = (0..all.num_rows() as u32).filter(|row| of_all[*row as usize] < wanted).collect();
        let place = |row: u32| (of_all[row as usize], times[row as usize]);
        order.sort_by_key(|row| place(*row));
        let places: Vec<(u32, i64)> = order.iter().map(|row| place(*row)).collect();
        let times = longs(due.column(0)).unwrap_or_default();
        let ranges = of_due.iter().zip(times).map(|(group, time)| {
            let first = time.saturating_sub(range_of(self.eras.at(*time)));
            let from = places.partition_point(|place| *place <= (*group, first));
            from..places.partition_point(|place| *place <= (*group, *time))
        });
        let bytes_at_once = (self.memory_budget_bytes / 4).min(BYTES_AT_ONCE);
        let ranges = Ranges::new(&self.aggregates, all, &order, ranges.collect(), bytes_at_once)?;
        Ok(Coming { due, ranges, next_group })
    }

    /// The late rows that come too late, and those that may still come out.
    fn part_late(&self, late: &RecordBatch) -> Result<(RecordBatch, RecordBatch), OperatorError> {
        let lateness_ms = |time: i64| self.eras.at(time).window.allowed_lateness_ms;
        let times = longs(late.column(0)).unwrap_or_default();
        let beyond = times.iter().map(|time| Some(*time < self.watermark.saturating_sub(lateness_ms(*time))));
        let beyond: BooleanArray = beyond.collect();
        let within = compute::not(&beyond)?;
        Ok((compute::filter_record_batch(late, &beyond)?, compute::filter_record_batch(late, &within)?))
    }

    fn emit_late(&mut self, out: &mut Emitted) -> Result<(), OperatorError> {
        let late = std::mem::take(&mut self.late);
        if late.is_empty() {
            return Ok(());
        }
        let late = Due::Rows(concat_batches(&self.plan.input, &late)?);
        if let Due::Rows(rows) = &late {
            self.stats.corrections += rows.num_rows() as u64;
        }
        // They came since the watermark last moved, so they are not many.
        while self.emit(&late, out)? == Progress::More {}
        Ok(())
    }
}

/// Rows that come out, a part after another.
struct Coming {
    /// In the order of their times.
    due: RecordBatch,
    /// For each of them, those that it is aggregated over.
    ranges: Ranges,
    /// The key group whose rows come after them, if these are those of one.
    next_group: Option<u16>,
}

/// The rows that are to come out.
enum Due {
    Rows(RecordBatch),
    /// Those with times in a span.
    Times(Range<i64>),
}

impl KeyedOperator for RollingWindows {
    fn process(&mut self, batch: RecordBatch, out: &mut Emitted) -> Result<(), OperatorError> {
        let times = longs(batch.column(0)).unwrap_or_default();
        self.latest = times.iter().copied().max().unwrap_or(i64::MIN).max(self.latest);
        if let Some(late) = append_by_bucket(&mut self.log, &batch, self.watermark, bucket_at(&self.eras))? {
            let (beyond, within) = self.part_late(&late)?;
            self.stats.late_rows += beyond.num_rows() as u64;
            if beyond.num_rows() > 0 && self.plan.def.late_rows == LateRows::SideOutput && !self.plan.late.is_empty() {
                out.late.push(beyond.project(&self.plan.late)?);
            }
            if within.num_rows() > 0 {
                append_by_bucket(&mut self.log, &within, i64::MIN, bucket_at(&self.eras))?;
                self.late.push(within);
            }
        }
        self.log.spill_to(self.memory_budget_bytes)
    }

    fn advance(&mut self, watermark: EventTime, out: &mut Emitted) -> Result<Progress, OperatorError> {
        if watermark.0 <= self.watermark {
            return Ok(Progress::Done);
        }
        if self.coming.is_none() {
            self.emit_late(out)?;
        }
        let watermark = come_to(watermark.0, self.watermark, self.latest);
        let first = self.log.first_bucket().unwrap_or(watermark);
        if self.emit(&Due::Times(self.watermark.max(first)..watermark), out)? == Progress::More {
            return Ok(Progress::More);
        }
        self.watermark = watermark;
        let horizon = watermark.saturating_sub(self.kept_ms());
        while let Some(bucket) = self.log.first_bucket()
            && bucket.saturating_add(self.widest_ms - 1) <= horizon
        {
            self.log.remove(bucket);
        }
        if self.eras.len() > 1 {
            self.forget_eras();
        }
        Ok(Progress::Done)
    }

    fn freeze(&mut self, _epoch: Epoch, out: &mut Emitted) -> Result<Frozen, OperatorError> {
        self.emit_late(out)?;
        let writes = self.log.freeze();
        let (next_part, eras) = (self.log.next_part(), self.eras.list());
        let facts = WindowFacts::new(self.key_groups, self.watermark, self.latest, next_part, eras);
        let write = writes.map(|writes| -> Write { Box::new(move |store| writes.write(store)) });
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
            spilled_bytes: self.log.spilled_bytes(),
            ..self.stats
        }
    }
}
