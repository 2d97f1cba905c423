//! Event time at the source: where it comes from, and how far each split has come.
//!
//! A split's watermark is the greatest event time seen in it, less the bound on disorder; the source's is the least of its
//! splits' that are neither ended nor idle, and when all are idle the greatest of theirs. It never goes back. A row whose event time is null, or further ahead of the
//! clock than `maxFutureSkew`, is a bad row: one year 9999 must not close every window.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMillisecondArray},
    compute::filter_record_batch,
    datatypes::{SchemaRef, TimestampMicrosecondType},
    error::ArrowError,
};
use millrace_connectors::SplitId;
use millrace_crds::DurationStr;
use millrace_plan::SourceNode;
use millrace_stream::{EventTime, Timestamp};
use serde::{Deserialize, Serialize};

/// How much further than the clock an event time may be if the spec does not say.
const DEFAULT_FUTURE_SKEW: Duration = Duration::from_secs(24 * 60 * 60);

/// Puts event time in column 0.
#[derive(Debug)]
pub struct EventTimes {
    /// The reader's column that holds it, and whether it is also one of the node's.
    column: Option<(usize, bool)>,
    schema: SchemaRef,
    max_future_skew: Duration,
}

/// Rows with their event time, and those that have none that can be used.
#[derive(Debug)]
pub struct Timed {
    /// By the source node's schema.
    pub rows: RecordBatch,
    /// The greatest event time in `rows`.
    pub latest: Option<EventTime>,
    /// The reader's rows whose event time is null or too far ahead.
    pub unusable: Option<Unusable>,
}

/// Rows whose event time cannot be used.
#[derive(Debug)]
pub struct Unusable {
    /// As the reader gave them.
    pub rows: RecordBatch,
    /// Their numbers in the reader's batch.
    pub numbers: Vec<usize>,
}

impl EventTimes {
    /// For the rows of this source, as its reader's schema has them: what is read, then the event-time column if that is
    /// not read anyway.
    pub fn new(node: &SourceNode) -> Self {
        let column = node.event_time.map(|declared| match node.read.binary_search(&declared) {
            Ok(position) => (position, true),
            Err(_) => (node.read.len(), false),
        });
        let skew = node.spec.event_time.as_ref().and_then(|spec| spec.max_future_skew);
        Self { column, schema: node.schema.clone(), max_future_skew: skew.map_or(DEFAULT_FUTURE_SKEW, Into::into) }
    }

    /// Computes the event time of rows that were read at `now`.
    pub fn apply(&self, rows: RecordBatch, now: Timestamp) -> Result<Timed, ArrowError> {
        let now_ms = i64::try_from(now.0).unwrap_or(i64::MAX);
        let Some((column, kept)) = self.column else {
            let times = TimestampMillisecondArray::from_value(now_ms, rows.num_rows());
            let latest = (rows.num_rows() > 0).then_some(EventTime(now_ms));
            return Ok(Timed { rows: self.assemble(times, rows.columns())?, latest, unusable: None });
        };
        let latest_allowed_ms =
            now_ms.saturating_add(i64::try_from(self.max_future_skew.as_millis()).unwrap_or(i64::MAX));
        let micros = rows.column(column).as_primitive::<TimestampMicrosecondType>();
        let latest_allowed_us = latest_allowed_ms.saturating_mul(1000);
        let too_far = micros.values().iter().any(|us| *us > latest_allowed_us);
        let (rows, unusable) = if micros.null_count() > 0 || too_far {
            let usable: BooleanArray =
                micros.iter().map(|us| Some(us.is_some_and(|us| us <= latest_allowed_us))).collect();
            let not = arrow::compute::not(&usable)?;
            let unusable =
                Unusable { rows: filter_record_batch(&rows, &not)?, numbers: not.values().set_indices().collect() };
            (filter_record_batch(&rows, &usable)?, (!unusable.numbers.is_empty()).then_some(unusable))
        } else {
            (rows, None)
        };
        let micros = rows.column(column).as_primitive::<TimestampMicrosecondType>();
        let times: TimestampMillisecondArray =
            micros.values().iter().map(|us| us.div_euclid(1000)).collect::<Vec<_>>().into();
        let latest = times.values().iter().max().copied().map(EventTime);
        let columns = if kept { rows.columns() } else { &rows.columns()[..column] };
        Ok(Timed { rows: self.assemble(times, columns)?, latest, unusable })
    }

    /// Why the event time of each of these rows cannot be used.
    pub fn reasons(&self, unusable: &RecordBatch) -> Vec<String> {
        let Some((column, _)) = self.column else { return Vec::new() };
        let times = unusable.column(column).as_primitive::<TimestampMicrosecondType>();
        let skew = DurationStr::from_millis(u64::try_from(self.max_future_skew.as_millis()).unwrap_or(u64::MAX));
        let of = |row: usize| match times.value_as_datetime(row).filter(|_| times.is_valid(row)) {
            None if times.is_null(row) => "the event time is null".to_owned(),
            time => {
                let time = time.map_or_else(|| "beyond all calendars".to_owned(), |time| format!("{time}Z"));
                format!("the event time, {time}, is further ahead of the clock than maxFutureSkew ({skew}) allows")
            }
        };
        (0..times.len()).map(of).collect()
    }

    fn assemble(&self, times: TimestampMillisecondArray, columns: &[ArrayRef]) -> Result<RecordBatch, ArrowError> {
        let mut all: Vec<ArrayRef> = Vec::with_capacity(columns.len() + 1);
        all.push(Arc::new(times.with_timezone("UTC")));
        all.extend_from_slice(columns);
        RecordBatch::try_new(self.schema.clone(), all)
    }
}

/// How far each split of a source task has come.
#[derive(Debug)]
pub struct SplitWatermarks {
    splits: BTreeMap<SplitId, SplitProgress>,
    /// The splits by their greatest event times.
    by_latest: BTreeSet<(EventTime, SplitId)>,
    /// For how long the task could not read.
    waited: Duration,
    disorder_ms: i64,
    idle_timeout: Option<Duration>,
    current: EventTime,
    idle: bool,
    is_finished: bool,
    last_news: Duration,
}

#[derive(Clone, Copy, Debug)]
struct SplitProgress {
    latest: EventTime,
    /// Without the time for which the task could not read before that.
    last_rows: Duration,
}

/// The greatest event time of each split, as a checkpoint stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredProgress {
    /// By split.
    pub latest: BTreeMap<SplitId, EventTime>,
    /// The source task's watermark: it does not go back over a restart. Of one that has ended the last before that, since it may
    /// be told to read on.
    pub watermark: EventTime,
}

/// What changed for those downstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing.
    None,
    /// The source's watermark rose to this.
    Watermark(EventTime),
    /// No split has had rows for the idle time-out.
    Idle,
}

impl SplitWatermarks {
    /// Starts from what checkpoints stored, at `now` by the monotonic clock. Of the splits only those count that `is_own`
    /// says are this task's: after a rescale the others would be waited for in vain.
    pub fn new(
        node: &SourceNode,
        restored: &[StoredProgress],
        is_own: impl Fn(&SplitId) -> bool,
        now: Duration,
    ) -> Self {
        let spec = node.spec.event_time.as_ref();
        let disorder = spec.map_or(Duration::ZERO, |spec| spec.max_out_of_orderness.into());
        let mut splits = BTreeMap::new();
        for (split, latest) in restored.iter().flat_map(|stored| &stored.latest).filter(|(split, _)| is_own(split)) {
            splits.insert(split.clone(), SplitProgress { latest: *latest, last_rows: now });
        }
        // An older release left the end of what was read so, which is no watermark of what may come.
        let watermarks = restored.iter().map(|stored| stored.watermark).filter(|watermark| *watermark < EventTime::MAX);
        Self {
            by_latest: splits.iter().map(|(split, progress)| (progress.latest, split.clone())).collect(),
            splits,
            waited: Duration::ZERO,
            disorder_ms: i64::try_from(disorder.as_millis()).unwrap_or(i64::MAX),
            idle_timeout: spec.and_then(|spec| spec.idle_timeout).map(Into::into),
            // Several tasks' watermarks after a rescale: the least is safe for every split.
            current: watermarks.min().unwrap_or(EventTime::MIN),
            idle: false,
            is_finished: false,
            last_news: now,
        }
    }

    /// Rows of `split` came at `now`; `latest` is their greatest event time. Answers the split's watermark.
    pub fn rows(&mut self, split: &SplitId, latest: Option<EventTime>, now: Duration) -> EventTime {
        self.last_news = now;
        let disorder_ms = self.disorder_ms;
        let latest = latest.unwrap_or(EventTime::MIN);
        let last_rows = now.saturating_sub(self.waited);
        // No entry call: it would make a copy of the split's name for every batch.
        let progress = match self.splits.get_mut(split) {
            Some(progress) => progress,
            None => {
                self.by_latest.insert((EventTime::MIN, split.clone()));
                self.splits.entry(split.clone()).or_insert(SplitProgress { latest: EventTime::MIN, last_rows })
            }
        };
        if latest > progress.latest {
            self.by_latest.remove(&(progress.latest, split.clone()));
            self.by_latest.insert((latest, split.clone()));
            progress.latest = latest;
        }
        progress.last_rows = last_rows;
        progress.latest.saturating_sub(disorder_ms)
    }

    /// Rows come: if the source was idle it no longer is, and this is how far it had come.
    pub fn wake(&mut self) -> Option<EventTime> {
        std::mem::take(&mut self.idle).then_some(self.current)
    }

    /// The task could not read for so long, as there was no room downstream: that is not the splits' silence.
    pub fn waited(&mut self, time: Duration) {
        self.last_news += time;
        self.waited += time;
    }

    /// The split has ended: it holds nothing back any more.
    pub fn ended(&mut self, split: &SplitId) {
        if let Some(progress) = self.splits.remove(split) {
            self.by_latest.remove(&(progress.latest, split.clone()));
        }
    }

    /// The source's watermark at `now`, if it rose. `unread`: splits that have not said anything yet hold it back, for as
    /// long as that takes. `silent_until`: until when a split is known to have had nothing.
    pub fn advance(&mut self, unread: usize, now: Duration, silent_until: impl Fn(&SplitId) -> Duration) -> Progress {
        if unread > 0 {
            return Progress::None;
        }
        let idle_after = self.idle_timeout.unwrap_or(Duration::MAX);
        let is_idle = |split: &SplitId| {
            let last_rows = self.splits.get(split).map_or(now, |progress| progress.last_rows + self.waited);
            let silent = |until: Duration| until.saturating_sub(last_rows);
            silent(now) >= idle_after && silent(silent_until(split)) >= idle_after
        };
        let mut by_latest = self.by_latest.iter();
        let least = match self.idle_timeout {
            None => by_latest.next(),
            Some(_) => by_latest.find(|(_, split)| !is_idle(split)),
        };
        let least = least.map(|(latest, _)| latest.saturating_sub(self.disorder_ms));
        match least {
            Some(watermark) if watermark > self.current || self.idle => {
                let rose = watermark > self.current;
                self.current = self.current.max(watermark);
                self.idle = false;
                // After idleness the watermark is said again, even the same: that ends the idleness downstream.
                if rose || self.current > EventTime::MIN { Progress::Watermark(self.current) } else { Progress::None }
            }
            Some(_) => Progress::None,
            None if self.idle_timeout.is_some() && !self.idle && now.saturating_sub(self.last_news) >= idle_after => {
                let greatest = self.by_latest.last().map(|(latest, _)| latest.saturating_sub(self.disorder_ms));
                match greatest.filter(|greatest| *greatest > self.current) {
                    // None holds back another's windows, whichever fell silent first. That it is idle is said next.
                    Some(greatest) => {
                        self.current = greatest;
                        Progress::Watermark(greatest)
                    }
                    None => {
                        self.idle = true;
                        Progress::Idle
                    }
                }
            }
            None => Progress::None,
        }
    }

    /// Whether there is a split that has not ended.
    pub fn has_splits(&self) -> bool {
        !self.splits.is_empty()
    }

    /// The task has no split and need not wait for one: others have them.
    pub fn stand_by(&mut self) -> Progress {
        if std::mem::replace(&mut self.idle, true) { Progress::None } else { Progress::Idle }
    }

    /// The source has ended.
    pub fn finish(&mut self) {
        self.splits.clear();
        self.by_latest.clear();
        self.is_finished = true;
    }

    /// Whether nothing is waited for from it.
    pub fn is_idle(&self) -> bool {
        self.idle && !self.is_finished
    }

    /// The source's watermark.
    pub fn current(&self) -> EventTime {
        if self.is_finished { EventTime::MAX } else { self.current }
    }

    /// What a checkpoint stores.
    pub fn stored(&self) -> StoredProgress {
        let latest = self.splits.iter().map(|(split, progress)| (split.clone(), progress.latest)).collect();
        StoredProgress { latest, watermark: self.current }
    }
}

#[cfg(test)]
mod tests;
