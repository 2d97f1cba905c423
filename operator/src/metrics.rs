//! What the operator counts, for `/metrics`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Upper bounds of the buckets of reconciles' durations, in seconds.
const DURATIONS: [f64; 9] = [0.001, 0.0025, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfError {
    kind: String,
    error: &'static str,
}

/// The counters.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<OfKind, Counter>,
    errors: Family<OfError, Counter>,
    durations: Family<OfKind, Histogram>,
    writes: Family<OfKind, Counter>,
    watch_errors: Family<OfKind, Counter>,
    objects: Family<OfKind, Gauge>,
    waiting: Gauge,
    running: Gauge,
    leads: Gauge,
    /// For `/readyz`: 0 while starting, 1 while another replica leads, 2 while this one does and its stores are filled.
    state: AtomicU64,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Arc<Self> {
        let histogram: fn() -> Histogram = || Histogram::new(DURATIONS);
        let mut metrics = Self {
            registry: Registry::with_prefix("millrace_operator"),
            reconciles: Family::default(),
            errors: Family::default(),
            durations: Family::new_with_constructor(histogram),
            writes: Family::default(),
            watch_errors: Family::default(),
            objects: Family::default(),
            waiting: Gauge::default(),
            running: Gauge::default(),
            leads: Gauge::default(),
            state: AtomicU64::new(0),
        };
        let registry = &mut metrics.registry;
        registry.register("reconciles", "Objects that were reconciled", metrics.reconciles.clone());
        registry.register("reconcile_errors", "Reconciles that failed, by kind of error", metrics.errors.clone());
        let help = "How long reconciles took";
        registry.register_with_unit("reconcile_duration", help, Unit::Seconds, metrics.durations.clone());
        registry.register("writes", "Writes to the API server, by what was written", metrics.writes.clone());
        registry.register("watch_errors", "Watches that failed and were tried again", metrics.watch_errors.clone());
        registry.register("objects", "Objects that are watched", metrics.objects.clone());
        registry.register("queue_waiting", "Objects that are due and wait to be reconciled", metrics.waiting.clone());
        registry.register("queue_running", "Objects that are being reconciled", metrics.running.clone());
        registry.register("leader", "1 while this replica leads", metrics.leads.clone());
        Arc::new(metrics)
    }

    /// An object was reconciled.
    pub fn reconciled(&self, kind: &str, took: Duration, error: Option<&'static str>) {
        let of_kind = OfKind { kind: kind.to_owned() };
        self.reconciles.get_or_create(&of_kind).inc();
        self.durations.get_or_create(&of_kind).observe(took.as_secs_f64());
        if let Some(error) = error {
            self.errors.get_or_create(&OfError { kind: kind.to_owned(), error }).inc();
        }
    }

    /// Something was written.
    pub fn wrote(&self, kind: &str) {
        self.writes.get_or_create(&OfKind { kind: kind.to_owned() }).inc();
    }

    /// A watch has failed.
    pub fn watch_failed(&self, kind: &str) {
        self.watch_errors.get_or_create(&OfKind { kind: kind.to_owned() }).inc();
    }

    /// How the queue is, and how many objects of a kind there are.
    pub fn queue(&self, waiting: usize, running: usize, objects: [(&str, usize); 3]) {
        self.waiting.set(waiting as i64);
        self.running.set(running as i64);
        for (kind, count) in objects {
            self.objects.get_or_create(&OfKind { kind: kind.to_owned() }).set(count as i64);
        }
    }

    /// This replica waits to lead.
    pub fn follows(&self) {
        self.leads.set(0);
        self.state.store(1, Ordering::SeqCst);
    }

    /// This replica has stopped leading, and knows of no other yet.
    pub fn rests(&self) {
        self.leads.set(0);
        self.state.store(0, Ordering::SeqCst);
    }

    /// This replica leads. Its stores are, or are not yet, filled.
    pub fn leads(&self, is_ready: bool) {
        self.leads.set(1);
        self.state.store(if is_ready { 2 } else { 0 }, Ordering::SeqCst);
    }

    /// Whether it can do what it is there for: lead with filled stores, or take over.
    pub fn is_ready(&self) -> bool {
        self.state.load(Ordering::SeqCst) > 0
    }

    /// The page, in OpenMetrics' text form.
    pub fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut page, &self.registry);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_the_operators_prefix_and_a_help_text() {
        let metrics = Metrics::new();
        metrics.reconciled("Pipeline", Duration::from_millis(3), Some("conflict"));
        metrics.wrote("status");
        metrics.watch_failed("Pod");
        metrics.queue(1, 2, [("Pipeline", 3), ("Window", 0), ("Sink", 0)]);
        metrics.leads(true);
        let page = metrics.page();
        for line in page.lines().filter(|line| !line.starts_with("# ")) {
            assert!(line.starts_with("millrace_operator_"), "{line}");
        }
        assert!(
            page.contains("millrace_operator_reconcile_errors_total{kind=\"Pipeline\",error=\"conflict\"} 1"),
            "{page}"
        );
        assert!(page.contains("# HELP millrace_operator_queue_waiting "), "{page}");
    }
}
