//! `/metrics`: what the engine counts, by Prometheus' naming conventions (base units, `_total`), in the two text forms that
//! are in use: OpenMetrics, and Prometheus' own.

use std::{borrow::Cow, fmt, sync::Arc};

use millrace_engine::{
    metrics::{Histogram, Metrics, PAUSE_BUCKETS_SECONDS, StageMetrics},
    status::{JobPhase, Status},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, text},
    metrics::MetricType,
    registry::Registry,
};

/// Renders the metrics of a pipeline.
pub fn render(metrics: Arc<Metrics>, status: Arc<Status>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(PipelineCollector { metrics, status }));
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut page, &registry);
    page
}

/// A page of OpenMetrics in Prometheus' own text form, which names a counter's family with its `_total` and has no end
/// mark.
pub fn as_prometheus(page: &str) -> String {
    let counters: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(page.len() + 16 * counters.len());
    for line in page.lines().filter(|line| !line.starts_with("# EOF") && !line.starts_with("# UNIT ")) {
        let mut words = line.splitn(4, ' ');
        let line = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(&name) => {
                Cow::Owned(format!("# {what} {name}_total {rest}"))
            }
            _ => Cow::Borrowed(line),
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

#[derive(Debug)]
struct PipelineCollector {
    metrics: Arc<Metrics>,
    status: Arc<Status>,
}

type Rows = Vec<(String, u64)>;

impl Collector for PipelineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.stages(&mut encoder)?;
        self.tasks(&mut encoder)?;
        self.checkpoints(&mut encoder)
    }
}

impl PipelineCollector {
    fn stages(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let per_stage = |count: fn(&StageMetrics) -> u64| -> Rows {
            self.metrics.stages().iter().map(|(id, stage)| (id.clone(), count(stage))).collect()
        };
        let families: [(&str, &str, Rows); 5] = [
            ("millrace_stage_rows_in", "Rows that a stage's head read or received.", per_stage(|s| s.rows_in.get())),
            (
                "millrace_stage_rows_out",
                "Rows that a stage's head decoded, emitted or wrote.",
                per_stage(|s| s.rows_out.get()),
            ),
            ("millrace_source_bytes", "Bytes that a source read.", per_stage(|s| s.bytes_in.get())),
            (
                "millrace_source_bad_rows",
                "Rows that could not be decoded or have no usable event time.",
                per_stage(|s| s.bad_rows.get()),
            ),
            ("millrace_transform_rows_out", "Rows that a transform gave.", self.metrics.links().into_iter().collect()),
        ];
        for (name, help, rows) in families {
            let label = if name.contains("transform") { "transform" } else { "stage" };
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (id, count) in rows {
                counter(&mut family, label, &id, count as f64)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "millrace_stage_backpressure_seconds",
            "Time that a stage's tasks waited for room downstream.",
            None,
            MetricType::Counter,
        )?;
        for (id, stage) in self.metrics.stages() {
            counter(&mut family, "stage", &id, stage.backpressure_ns.get() as f64 / 1e9)?;
        }
        let mut family = encoder.encode_descriptor(
            "millrace_barrier_pause_seconds",
            "For how long a barrier kept a task from its rows.",
            None,
            MetricType::Histogram,
        )?;
        for (id, stage) in self.metrics.stages() {
            histogram(&mut family.encode_family(&[("stage", id.as_str())])?, &stage.barrier_pause)?;
        }
        Ok(())
    }

    fn tasks(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        type Gauge = fn(&millrace_engine::metrics::TaskGauges) -> Option<f64>;
        let families: [(&str, &str, Gauge); 5] = [
            ("millrace_task_watermark_timestamp_seconds", "A task's watermark, in seconds since 1970.", |task| {
                let ms = task.watermark.0;
                (ms != i64::MIN && ms != i64::MAX).then_some(ms as f64 / 1e3)
            }),
            ("millrace_source_lag_bytes", "Bytes of files that a source knows to be unread.", |task| {
                Some(task.lag?.bytes()? as f64)
            }),
            ("millrace_source_lag_rows", "Rows that a source knows to be unread, where it counts rows.", |task| {
                Some(task.lag?.rows()? as f64)
            }),
            ("millrace_state_entries", "Keys or rows that a task holds in memory.", |task| {
                Some(task.operator.entries as f64)
            }),
            ("millrace_state_memory_bytes", "State that a task holds in memory.", |task| {
                Some(task.operator.memory_bytes as f64)
            }),
        ];
        for (name, help, value) in families {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (id, stage) in self.metrics.stages() {
                for (index, task) in stage.tasks() {
                    let Some(value) = value(&task) else { continue };
                    let index = index.to_string();
                    let labels = [("stage", id.as_str()), ("task", index.as_str())];
                    family.encode_family(&labels)?.encode_gauge(&value)?;
                }
            }
        }
        self.late(encoder)
    }

    fn late(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "millrace_late_rows",
            "Rows that came after their window was closed for good.",
            None,
            MetricType::Counter,
        )?;
        for (id, stage) in self.metrics.stages() {
            counter(&mut family, "stage", &id, stage.late_rows() as f64)?;
        }
        Ok(())
    }

    fn checkpoints(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let metrics = &self.metrics;
        let counters = [
            ("millrace_checkpoints_completed", "Completed checkpoints.", metrics.checkpoints_completed.get()),
            ("millrace_checkpoints_failed", "Checkpoints that were given up.", metrics.checkpoints_failed.get()),
            ("millrace_checkpoint_uploaded_bytes", "Bytes that checkpoints uploaded.", metrics.checkpoint_bytes.get()),
            ("millrace_committed_rows", "Rows that commits made visible in the sinks.", metrics.committed_rows.get()),
            (
                "millrace_commits_failed",
                "Commits of completed checkpoints that a sink failed; they are tried again.",
                metrics.commits_failed.get(),
            ),
            ("millrace_restarts", "Times that the tasks were started again after a failure.", metrics.restarts.get()),
        ];
        for (name, help, count) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            family.encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(&count, None)?;
        }
        let mut family = encoder.encode_descriptor(
            "millrace_checkpoint_duration_seconds",
            "From the decision to take a checkpoint to its completion.",
            None,
            MetricType::Histogram,
        )?;
        histogram(&mut family, &metrics.checkpoint_duration)?;
        let state = self.status.get();
        let gauges = [
            (
                "millrace_checkpoint_epoch",
                "The last completed checkpoint.",
                state.checkpoint.as_ref().map(|c| c.epoch.0 as f64),
            ),
            (
                "millrace_checkpoint_completed_timestamp_seconds",
                "When the last checkpoint was completed, in seconds since 1970.",
                state.checkpoint.as_ref().map(|c| c.completed_at.0 as f64 / 1e3),
            ),
            (
                "millrace_checkpoint_size_bytes",
                "What the last checkpoint's files hold.",
                state.checkpoint.as_ref().map(|c| c.size_bytes as f64),
            ),
            (
                "millrace_running",
                "1 while rows flow, else 0.",
                Some(f64::from(u8::from(state.phase == JobPhase::Running))),
            ),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            if let Some(value) = value {
                family.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

fn counter(family: &mut MetricEncoder<'_>, label: &str, id: &str, count: f64) -> fmt::Result {
    let labels = [(label, id)];
    family.encode_family(&labels)?.encode_counter::<prometheus_client::encoding::NoLabelSet, _, f64>(&count, None)
}

fn histogram(family: &mut MetricEncoder<'_>, histogram: &Histogram) -> fmt::Result {
    let bounds = PAUSE_BUCKETS_SECONDS.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(histogram.buckets()).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    family.encode_histogram::<prometheus_client::encoding::NoLabelSet>(
        histogram.sum().as_secs_f64(),
        count,
        &buckets,
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_s_family_has_its_samples_name_in_prometheus_own_form() {
        let page = "# HELP a_rows Rows that a took.\n# TYPE a_rows counter\na_rows_total 1\n\
                    # HELP b_bytes Bytes.\n# TYPE b_bytes gauge\n# UNIT b_bytes bytes\nb_bytes 2.0\n# EOF\n";
        let expected = "# HELP a_rows_total Rows that a took.\n# TYPE a_rows_total counter\na_rows_total 1\n\
                        # HELP b_bytes Bytes.\n# TYPE b_bytes gauge\nb_bytes 2.0\n";
        assert_eq!(as_prometheus(page), expected);
    }
}
