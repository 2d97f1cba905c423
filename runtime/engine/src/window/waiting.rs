//! Rows that wait for the watermark to pass them.

use arrow::{
    array::{RecordBatch, UInt32Array},
    compute::{self, concat_batches},
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

    /// The first buckets that have rows before `watermark`: mostly one, and in any case all of a second. Those whose rows came
    /// first are first.
    pub(crate) fn due(&self, watermark: i64) -> Vec<i64> {
        let Some(second) = self.0.first_bucket().map(bucket_of) else { return Vec::new() };
        let of_second = self.0.buckets().take_while(|bucket| *bucket < watermark && bucket_of(*bucket) == second);
        let mut due: Vec<i64> = of_second.collect();
        due.reverse();
        due
    }

    /// The rows of these buckets that are before `watermark`, in order of time; `None`: no more.
    pub(crate) fn take(&mut self, due: &[i64], watermark: i64) -> Result<Option<RecordBatch>, OperatorError> {
        let Some(second) = due.first().map(|bucket| bucket_of(*bucket)) else { return Ok(None) };
        let rows = due.iter().map(|bucket| self.0.read(*bucket)).collect::<Result<Vec<_>, _>>()?;
        let rows = concat_batches(rows[0].schema_ref(), &rows)?;
        let (due_rows, later) = part_by_time(&rows, watermark)?;
        if due_rows.num_rows() == 0 {
            return Ok(None);
        }
        due.iter().for_each(|bucket| self.0.remove(*bucket));
        self.0.append(second, later);
        Ok(Some(by_time(&due_rows)?))
    }

    /// Of rows that are being read key group by key group, those that are before `watermark`; the others wait on, in a bucket
    /// that begins there.
    pub(crate) fn part(&mut self, rows: &RecordBatch, watermark: i64) -> Result<RecordBatch, OperatorError> {
        let (due, later) = part_by_time(rows, watermark)?;
        self.0.append(watermark, later);
        Ok(due)
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
