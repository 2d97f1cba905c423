//! What a running pipeline counts. Tasks write; the server, the live view and the log read. All counters are since the
//! process started, over every restart of the graph in it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use millrace_connectors::Lag;
use millrace_stream::EventTime;

use crate::operator::OperatorStats;

/// The upper bounds of the buckets of a [`Histogram`], in seconds.
pub const PAUSE_BUCKETS_SECONDS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// A counter that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations in buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; PAUSE_BUCKETS_SECONDS.len() + 1],
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
}

impl Histogram {
    /// Notes one duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = PAUSE_BUCKETS_SECONDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        self.max_ns.fetch_max(ns, Ordering::Relaxed);
    }

    /// How many durations fell into each bucket; the last is for those above every bound.
    pub fn buckets(&self) -> Vec<u64> {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect()
    }

    /// The sum of all durations.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed))
    }

    /// The longest duration.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns.load(Ordering::Relaxed))
    }
}

/// What the tasks of one stage count together.
#[derive(Debug, Default)]
pub struct StageMetrics {
    /// Rows that the stage's head took: read, received.
    pub rows_in: Counter,
    /// Rows that the stage's head gave: decoded, emitted; for a sink: written.
    pub rows_out: Counter,
    /// Bytes read, for a source.
    pub bytes_in: Counter,
    /// Rows that could not be decoded or whose event time is unusable.
    pub bad_rows: Counter,
    /// Time that tasks waited for room downstream, in nanoseconds.
    pub backpressure_ns: Counter,
    /// For how long a barrier kept a task from its rows.
    pub barrier_pause: Histogram,
    /// Rows that were late for operators of tasks that have ended.
    late_before: Counter,
    tasks: Mutex<BTreeMap<u32, TaskGauges>>,
}

/// What one task shows now.
#[derive(Clone, Copy, Debug)]
pub struct TaskGauges {
    /// Its watermark.
    pub watermark: EventTime,
    /// Whether it is idle.
    pub idle: bool,
    /// What its source knows to be unread.
    pub lag: Option<Lag>,
    /// What its operator holds.
    pub operator: OperatorStats,
}

impl Default for TaskGauges {
    fn default() -> Self {
        Self { watermark: EventTime::MIN, idle: false, lag: None, operator: OperatorStats::default() }
    }
}

impl StageMetrics {
    /// Changes what task `index` shows.
    pub fn update_task(&self, index: u32, update: impl FnOnce(&mut TaskGauges)) {
        update(self.tasks.lock().unwrap_or_else(PoisonError::into_inner).entry(index).or_default());
    }

    /// All tasks have ended, and others begin: what those showed is past, and only what was counted stays.
    pub fn begin_tasks(&self) {
        let ended = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        self.late_before.add(ended.values().map(|task| task.operator.late_rows).sum());
    }

    /// Rows that came after their window was closed for good.
    pub fn late_rows(&self) -> u64 {
        self.late_before.get() + self.tasks().values().map(|task| task.operator.late_rows).sum::<u64>()
    }

    /// What the tasks show, by index.
    pub fn tasks(&self) -> BTreeMap<u32, TaskGauges> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The least watermark of the stage's tasks that are not idle.
    pub fn watermark(&self) -> Option<EventTime> {
        self.tasks().values().filter(|task| !task.idle).map(|task| task.watermark).min()
    }
}

/// What every stage of the process's pipeline counts, and its checkpoints.
#[derive(Debug, Default)]
pub struct Metrics {
    stages: Mutex<BTreeMap<String, Arc<StageMetrics>>>,
    /// Rows that left each transform that runs inside another stage, by the transform's name.
    links: Mutex<BTreeMap<String, Arc<Counter>>>,
    /// How long completed checkpoints took, from the decision to take one to the moved pointer.
    pub checkpoint_duration: Histogram,
    /// Completed checkpoints.
    pub checkpoints_completed: Counter,
    /// Checkpoints given up.
    pub checkpoints_failed: Counter,
    /// Bytes that checkpoints uploaded.
    pub checkpoint_bytes: Counter,
    /// Commits of decided epochs that failed and were, or are to be, tried again.
    pub commits_failed: Counter,
    /// Rows that commits made visible.
    pub committed_rows: Counter,
    /// Times that the graph was started again after a failure.
    pub restarts: Counter,
}

impl Metrics {
    /// The metrics of a stage, made when first asked for.
    pub fn stage(&self, id: &str) -> Arc<StageMetrics> {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.entry(id.to_owned()).or_default().clone()
    }

    /// Every stage's metrics, by name.
    pub fn stages(&self) -> BTreeMap<String, Arc<StageMetrics>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counter of the rows that leave a transform, made when first asked for.
    pub fn link(&self, transform: &str) -> Arc<Counter> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.entry(transform.to_owned()).or_default().clone()
    }

    /// The rows that left each transform, by name.
    pub fn links(&self) -> BTreeMap<String, u64> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().map(|(name, counter)| (name.clone(), counter.get())).collect()
    }

    /// Forgets the stages and transforms that are not in these: after an edit that removed them.
    pub fn retain(&self, stages: impl Fn(&str) -> bool, transforms: impl Fn(&str) -> bool) {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| stages(id));
        self.links.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| transforms(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_whose_bound_it_does_not_pass() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_secs(60));
        let buckets = histogram.buckets();
        assert_eq!((buckets[1], buckets[PAUSE_BUCKETS_SECONDS.len()]), (1, 1));
        assert_eq!(histogram.max(), Duration::from_secs(60));
    }

    #[test]
    fn what_tasks_showed_ends_with_them_and_what_they_have_counted_stays() {
        let stage = StageMetrics::default();
        for index in 0..2 {
            stage.update_task(index, |task| {
                task.watermark = EventTime(1_000 + i64::from(index));
                task.operator.late_rows = 3;
            });
        }
        assert_eq!((stage.watermark(), stage.late_rows()), (Some(EventTime(1_000)), 6));
        stage.begin_tasks();
        assert_eq!((stage.watermark(), stage.late_rows()), (None, 6));
        stage.update_task(0, |task| {
            task.watermark = EventTime(9_000);
            task.operator.late_rows = 1;
        });
        assert_eq!((stage.watermark(), stage.late_rows(), stage.tasks().len()), (Some(EventTime(9_000)), 7, 1));
    }

    #[test]
    fn an_edit_that_removes_a_branch_ends_its_series() {
        let metrics = Metrics::default();
        for name in ["kept", "gone"] {
            metrics.stage(name).rows_in.add(1);
            metrics.link(name).add(1);
        }
        metrics.retain(|id| id == "kept", |name| name == "kept");
        assert_eq!(metrics.stages().into_keys().collect::<Vec<_>>(), ["kept"]);
        assert_eq!(metrics.links().into_keys().collect::<Vec<_>>(), ["kept"]);
    }
}
