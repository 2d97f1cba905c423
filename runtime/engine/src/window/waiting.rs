//! Rows that wait for the watermark to pass them.
//!
//! They are in buckets of a second. What is written of them (at a barrier, or over the memory budget) is in buckets of a 64th
//! of the time that all rows cover, so that few rows in much event time are not many small parts. When the watermark comes to
//! one, its rows are in buckets of a second again.

use std::collections::HashMap;

use arrow::{
    array::{RecordBatch, UInt32Array},
    compute::{self, concat_batches},
};

use super::row_log::{Parted, RowLog, RowWrites};
use crate::{aggregate::longs, distinct::by_time, operator::OperatorError};

/// How much event time a bucket covers.
const BUCKET_MS: i64 = 1000;

/// Into about how many buckets all rows are written.
const WRITTEN_BUCKETS: i64 = 64;

/// A log of rows that are taken out in the order of their event times.
pub(crate) struct Waiting {
    log: RowLog,
    /// The greatest event time of a row.
    latest: i64,
}

fn bucket_of(time: i64) -> i64 {
    time.saturating_sub(time.rem_euclid(BUCKET_MS))
}

impl Waiting {
    pub(crate) fn new(log: RowLog) -> Self {
        Self { log, latest: i64::MIN }
    }

    /// Reads what was stored, see [`RowLog::load`].
    ///
    /// # Errors
    /// Fails if it cannot be read.
    pub(crate) fn load(&mut self, next_part: u64, budget_bytes: usize) -> Result<(), OperatorError> {
        self.log.load(next_part, budget_bytes)?;
        self.latest = self.log.buckets().map(|bucket| self.log.times_of(bucket).1).max().unwrap_or(i64::MIN);
        Ok(())
    }

    pub(crate) fn log(&self) -> &RowLog {
        &self.log
    }

    /// Adds rows, save those before `watermark`, which come back.
    pub(crate) fn append(&mut self, rows: &RecordBatch, watermark: i64) -> Result<Option<RecordBatch>, OperatorError> {
        self.latest = longs(rows.column(0)).into_iter().flatten().copied().max().unwrap_or(i64::MIN).max(self.latest);
        append_by_bucket(&mut self.log, rows, watermark, bucket_of)
    }

    /// The first buckets that have rows before `watermark`, and all that overlap with them or one another: no other bucket has rows
    /// of their times. They are so many that about `rows` rows are in them.
    pub(crate) fn due(&self, watermark: i64, rows: usize) -> Vec<i64> {
        let (mut due, mut last, mut count) = (Vec::new(), i64::MIN, 0);
        let mut gathered: Vec<i64> = Vec::new();
        let mut first = i64::MAX;
        for bucket in self.log.buckets() {
            if bucket > last {
                // Those that overlap are complete.
                if first < watermark {
                    due.append(&mut gathered);
                }
                if !gathered.is_empty() || count >= rows {
                    break;
                }
                first = i64::MAX;
            }
            let times = self.log.times_of(bucket);
            (first, last) = (first.min(times.0), last.max(times.1));
            count += self.log.size_of(bucket).0;
            gathered.push(bucket);
        }
        if first < watermark {
            due.append(&mut gathered);
        }
        due
    }

    /// Takes away the rows of buckets that are due and in memory. Those that are before `watermark` come back, in order of
    /// time.
    pub(crate) fn take(&mut self, due: &[i64], watermark: i64) -> Result<Option<RecordBatch>, OperatorError> {
        let rows = due.iter().map(|bucket| self.log.read(*bucket)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = rows.first() else { return Ok(None) };
        let rows = concat_batches(first.schema_ref(), &rows)?;
        due.iter().for_each(|bucket| self.log.remove(*bucket));
        Ok(Some(by_time(&self.part(&rows, watermark)?)?))
    }

    /// Takes away buckets that are due, to be looked at one key group at a time.
    pub(crate) fn take_parted(&mut self, due: &[i64]) -> Result<Parted, OperatorError> {
        self.log.take_parted(due)
    }

    /// Of rows that were taken away, in the order of their buckets, those before `watermark`. The others wait on.
    pub(crate) fn part(&mut self, rows: &RecordBatch, watermark: i64) -> Result<RecordBatch, OperatorError> {
        let (due, later) = part_by_time(rows, watermark)?;
        append_by_bucket(&mut self.log, &later, i64::MIN, bucket_of)?;
        Ok(due)
    }

    /// Sets how much event time the buckets that are written next cover: a power of two of seconds, so that those of one
    /// length lie within those of a greater one.
    fn gather(&mut self) {
        let first = self.log.first_bucket().unwrap_or(self.latest);
        let seconds = self.latest.saturating_sub(first) / (WRITTEN_BUCKETS * BUCKET_MS);
        let seconds = u64::try_from(seconds).unwrap_or(0).clamp(1, 1 << 40).next_power_of_two();
        self.log.gather(seconds as i64 * BUCKET_MS);
    }

    pub(crate) fn spill_to(&mut self, budget_bytes: usize) -> Result<(), OperatorError> {
        self.gather();
        self.log.spill_to(budget_bytes)
    }

    pub(crate) fn freeze(&mut self) -> Option<RowWrites> {
        self.gather();
        self.log.freeze()
    }

    pub(crate) fn thaw(&mut self) {
        self.log.thaw();
    }
}

/// The rows before a time, and the others.
pub(crate) fn part_by_time(rows: &RecordBatch, time: i64) -> Result<(RecordBatch, RecordBatch), OperatorError> {
    let times = longs(rows.column(0)).unwrap_or_default();
    let (before, after): (Vec<u32>, Vec<u32>) = (0..times.len() as u32).partition(|row| times[*row as usize] < time);
    let take = |of: Vec<u32>| compute::take_record_batch(rows, &UInt32Array::from(of));
    Ok((take(before)?, take(after)?))
}

/// Appends rows to the buckets of their times, save those before `watermark`, which come back.
pub(crate) fn append_by_bucket(
    log: &mut RowLog,
    rows: &RecordBatch,
    watermark: i64,
    bucket_of: impl Fn(i64) -> i64,
) -> Result<Option<RecordBatch>, OperatorError> {
    let times = longs(rows.column(0)).unwrap_or_default();
    let mut late: Vec<u32> = Vec::new();
    let mut runs: Vec<(i64, Vec<u32>)> = Vec::new();
    let mut places: HashMap<i64, usize> = HashMap::new();
    for (row, time) in times.iter().enumerate() {
        if *time < watermark {
            late.push(row as u32);
            continue;
        }
        let bucket = bucket_of(*time);
        match runs.last_mut().filter(|(run, _)| *run == bucket) {
            Some((_, rows)) => rows.push(row as u32),
            None => {
                let place = *places.entry(bucket).or_insert(runs.len());
                if place == runs.len() {
                    runs.push((bucket, Vec::new()));
                }
                runs[place].1.push(row as u32);
            }
        }
    }
    for (bucket, run) in runs {
        let whole = run.len() == times.len();
        let taken = if whole { rows.clone() } else { compute::take_record_batch(rows, &UInt32Array::from(run))? };
        log.append(bucket, taken);
    }
    match late.is_empty() {
        true => Ok(None),
        false => Ok(Some(compute::take_record_batch(rows, &UInt32Array::from(late))?)),
    }
}
