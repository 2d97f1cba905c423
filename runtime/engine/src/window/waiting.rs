//! Rows that wait for the watermark to pass them.

use arrow::{
    array::{RecordBatch, UInt32Array},
    compute,
};

use super::row_log::RowLog;
use crate::{aggregate::longs, distinct::by_time, operator::OperatorError};

/// How much event time a bucket covers.
const BUCKET_MS: i64 = 1000;

/// A log of rows that are taken out in the order of their event times.
pub(crate) struct Waiting(RowLog);

fn bucket_of(time: i64) -> i64 {
    time.saturating_sub(time.rem_euclid(BUCKET_MS))
}

impl Waiting {
    pub(crate) fn new(log: RowLog) -> Self {
        Self(log)
    }

    pub(crate) fn log(&self) -> &RowLog {
        &self.0
    }

    pub(crate) fn log_mut(&mut self) -> &mut RowLog {
        &mut self.0
    }

    /// Adds rows, save those before `watermark`, which come back.
    pub(crate) fn append(&mut self, rows: &RecordBatch, watermark: i64) -> Result<Option<RecordBatch>, OperatorError> {
        append_by_bucket(&mut self.0, rows, watermark, bucket_of)
    }

    /// The rows of the first bucket that are before `watermark`, in order of time; `None`: no more.
    pub(crate) fn take_due(&mut self, watermark: i64) -> Result<Option<RecordBatch>, OperatorError> {
        let Some(bucket) = self.0.first_bucket().filter(|bucket| *bucket < watermark) else { return Ok(None) };
        let rows = self.0.read(bucket)?;
        if bucket.saturating_add(BUCKET_MS) <= watermark {
            self.0.remove(bucket);
            return Ok(Some(by_time(&rows)?));
        }
        let (due, later) = part_by_time(&rows, watermark)?;
        if due.num_rows() == 0 {
            return Ok(None);
        }
        self.0.replace(bucket, later);
        Ok(Some(by_time(&due)?))
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
    for (row, time) in times.iter().enumerate() {
        if *time < watermark {
            late.push(row as u32);
            continue;
        }
        let bucket = bucket_of(*time);
        match runs.iter_mut().rev().find(|(run, _)| *run == bucket) {
            Some((_, rows)) => rows.push(row as u32),
            None => runs.push((bucket, vec![row as u32])),
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
