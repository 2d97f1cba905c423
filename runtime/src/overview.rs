//! A running pipeline as others see it: the JSON of `/api/v1/pipeline`, and what the live view shows.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use millrace_connectors::Lag;
use millrace_engine::status::{JobPhase, JobState};
use millrace_plan::{Input, NodeKind, OutputName, Plan};
use millrace_stream::{Epoch, EventTime, Revision};
use serde::Serialize;

use crate::{
    context::Instruments,
    rates::{Counts, Rate, Rates},
};

/// The plan and what its stages count.
pub struct Overview {
    /// By revision, the latest first.
    graphs: Mutex<Vec<(Revision, Graph)>>,
    rates: Mutex<Rates>,
    cx: Instruments,
}

#[derive(Clone, Default)]
struct Graph {
    pipeline: String,
    nodes: Vec<GraphNode>,
}

#[derive(Clone)]
struct GraphNode {
    name: String,
    kind: &'static str,
    inputs: Vec<String>,
    stages: Vec<String>,
}

/// The answer of `/api/v1/pipeline`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The pipeline's name.
    pub name: String,
    /// What the whole does.
    #[serde(flatten)]
    pub state: JobState,
    /// Milliseconds since 1970.
    pub now: u64,
    /// Completed and failed checkpoints, of this process.
    pub checkpoints_completed: u64,
    /// Checkpoints that were given up.
    pub checkpoints_failed: u64,
    /// Rows made visible by this process.
    pub committed_rows: u64,
    /// Times that the tasks were started again.
    pub restarts: u64,
    /// Every source, transform and sink.
    pub nodes: Vec<NodeReport>,
}

/// One node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// `source`, `transform` or `sink`.
    pub kind: &'static str,
    /// What it reads: a node's name, with `.late` or `.errors` for a side output.
    pub inputs: Vec<String>,
    /// Rows taken in.
    pub rows_in: u64,
    /// Rows given out.
    pub rows_out: u64,
    /// The rate at which it takes rows in, over the last seconds.
    pub rows_in_per_second: f64,
    /// The rate at which it gives rows out, over the last seconds.
    pub rows_out_per_second: f64,
    /// Bytes read, for a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// Rows that could not be decoded, for a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad_rows: Option<u64>,
    /// What a source knows to be unread, if it counts bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// The same, if it counts rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_rows: Option<u64>,
    /// The least watermark of its tasks, in milliseconds since 1970; absent before the first and after the last row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark: Option<i64>,
    /// Seconds that its tasks waited for room downstream.
    pub backpressure_seconds: f64,
    /// The share of the last seconds that they waited, from 0 to 1.
    pub backpressure: f64,
    /// Keys or rows held in memory, for a keyed transform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_entries: Option<u64>,
    /// Bytes of state in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_bytes: Option<u64>,
    /// Rows that came after their window was closed for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_rows: Option<u64>,
    /// The last epoch that this sink has committed.
    #[serde(skip)]
    pub committed: Option<Epoch>,
}

impl Overview {
    /// An overview that knows no plan yet.
    pub fn new(cx: Instruments) -> Self {
        Self { graphs: Mutex::default(), rates: Mutex::default(), cx }
    }

    /// Another plan runs now. The one before is kept, since it may come back.
    pub fn set_plan(&self, plan: &Plan) {
        let nodes = plan.nodes.iter().map(|node| {
            let name = node.name.0.clone();
            let (kind, inputs, stages) = match &node.kind {
                NodeKind::Source(_) => ("source", Vec::new(), vec![name.clone()]),
                NodeKind::Transform(transform) => {
                    let inputs = transform.branches.iter().map(|branch| input_name(&branch.input)).collect();
                    ("transform", inputs, transform.keyed.iter().map(|keyed| keyed.id.0.clone()).collect())
                }
                NodeKind::Sink(sink) => ("sink", vec![input_name(&sink.input)], vec![name.clone()]),
            };
            GraphNode { name, kind, inputs, stages }
        });
        let graph = Graph { pipeline: plan.spec.name.clone(), nodes: nodes.collect() };
        let stages: Vec<String> = graph.nodes.iter().flat_map(|node| node.stages.clone()).collect();
        self.cx.metrics.retain(
            |id| stages.iter().any(|stage| stage == id),
            |name| graph.nodes.iter().any(|node| node.kind == "transform" && node.name == name),
        );
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        graphs.insert(0, (plan.revision.clone(), graph));
        graphs.truncate(2);
    }

    /// `/metrics`.
    pub fn metrics_page(&self) -> String {
        crate::exposition::render(self.cx.metrics.clone(), self.cx.status.clone())
    }

    /// What the pipeline is doing.
    pub fn phase(&self) -> JobPhase {
        self.cx.status.get().phase
    }

    /// Notes what has been counted by now, so that [`Self::report`] can tell rates. To be called once a second.
    pub fn note_counts(&self) {
        let now = self.cx.clock.monotonic();
        let counts = self.counts();
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).note(now, counts);
    }

    /// Calls [`Self::note_counts`] once a second, for good.
    pub async fn note_counts_always(self: Arc<Self>) {
        loop {
            self.note_counts();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// The graph of the plan that runs.
    fn graph(&self) -> Graph {
        let revision = self.cx.status.get().revision;
        let graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        let running = graphs.iter().find(|(known, _)| Some(known) == revision.as_ref()).or(graphs.first());
        running.map(|(_, graph)| graph.clone()).unwrap_or_default()
    }

    /// What each node has counted.
    fn counts(&self) -> BTreeMap<String, Counts> {
        let links = self.cx.metrics.links();
        let nodes = self.graph().nodes;
        nodes.iter().map(|node| (node.name.clone(), self.counted(node, &links))).collect()
    }

    fn counted(&self, node: &GraphNode, links: &BTreeMap<String, u64>) -> Counts {
        let stages: Vec<_> = node.stages.iter().map(|id| self.cx.metrics.stage(id)).collect();
        let rows_out = match (node.kind, stages.last()) {
            ("transform", _) => links.get(&node.name).copied().unwrap_or(0),
            (_, last) => last.map_or(0, |stage| stage.rows_out.get()),
        };
        Counts {
            rows_in: stages.first().map_or(rows_out, |stage| stage.rows_in.get()),
            rows_out,
            waited_ns: stages.iter().map(|stage| stage.backpressure_ns.get()).sum(),
        }
    }

    /// Everything, as it is now.
    pub fn report(&self) -> Report {
        let graph = self.graph();
        let (counts, now) = (self.counts(), self.cx.clock.monotonic());
        let rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner).at(now, &counts);
        let metrics = &self.cx.metrics;
        let state = self.cx.status.get();
        let node = |node: &GraphNode| {
            let of = |all: &BTreeMap<String, Rate>| all.get(&node.name).copied().unwrap_or_default();
            let counted = self.node(node, counts.get(&node.name).copied().unwrap_or_default(), of(&rates));
            NodeReport { committed: self.committed(&node.name, &state), ..counted }
        };
        let nodes = graph.nodes.iter().map(node).collect();
        Report {
            name: graph.pipeline,
            state,
            now: self.cx.clock.now().0,
            checkpoints_completed: metrics.checkpoints_completed.get(),
            checkpoints_failed: metrics.checkpoints_failed.get(),
            committed_rows: metrics.committed_rows.get(),
            restarts: metrics.restarts.get(),
            nodes,
        }
    }

    /// What a sink has committed last: what an edit has brought has no part in what the plan before it has committed.
    fn committed(&self, name: &str, state: &JobState) -> Option<Epoch> {
        let graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, graph) = graphs.iter().find(|(known, _)| Some(known) == state.committed_by.as_ref())?;
        let has_it = graph.nodes.iter().any(|node| node.kind == "sink" && node.name == name);
        state.committed.filter(|_| has_it)
    }

    fn node(&self, node: &GraphNode, counts: Counts, rate: Rate) -> NodeReport {
        let stages: Vec<_> = node.stages.iter().map(|id| self.cx.metrics.stage(id)).collect();
        let tasks: Vec<_> = stages.iter().flat_map(|stage| stage.tasks().into_values()).collect();
        let is_source = node.kind == "source";
        let is_keyed = node.kind == "transform" && !stages.is_empty();
        let first = stages.first();
        let watermark = stages.iter().filter_map(|stage| stage.watermark()).min();
        let lag = |counted: fn(Lag) -> Option<u64>| {
            tasks.iter().filter_map(|task| counted(task.lag?)).reduce(u64::saturating_add)
        };
        NodeReport {
            name: node.name.clone(),
            kind: node.kind,
            inputs: node.inputs.clone(),
            rows_in: counts.rows_in,
            rows_out: counts.rows_out,
            rows_in_per_second: rate.rows_in,
            rows_out_per_second: rate.rows_out,
            bytes_in: first.filter(|_| is_source).map(|stage| stage.bytes_in.get()),
            bad_rows: first.filter(|_| is_source).map(|stage| stage.bad_rows.get()),
            lag_bytes: lag(Lag::bytes),
            lag_rows: lag(Lag::rows),
            watermark: watermark.filter(|time| *time > EventTime::MIN && *time < EventTime::MAX).map(|time| time.0),
            backpressure_seconds: counts.waited_ns as f64 / 1e9,
            backpressure: (rate.waited / tasks.len().max(1) as f64).min(1.0),
            state_entries: is_keyed.then(|| tasks.iter().map(|task| task.operator.entries).sum()),
            state_bytes: is_keyed.then(|| tasks.iter().map(|task| task.operator.memory_bytes).sum()),
            late_rows: is_keyed.then(|| stages.iter().map(|stage| stage.late_rows()).sum()),
            committed: None,
        }
    }
}

fn input_name(input: &Input) -> String {
    match input.output {
        OutputName::Main => input.node.0.clone(),
        OutputName::Late => format!("{}.late", input.node),
        OutputName::Errors => format!("{}.errors", input.node),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use millrace_engine::status::Status;
    use serde_json::json;

    use super::*;

    /// A plan that writes what a generator gives to these sinks.
    fn plan(revision: &str, sinks: &[&str]) -> Plan {
        let stdout = json!({"stdout": {}});
        let spec = json!({
            "name": "web",
            "pipeline": {
                "sources": [{"name": "bid", "generator": {"rate": 1, "nexmark": {"stream": "Bid"}}}],
                "transforms": [],
                "outputs": sinks.iter().map(|sink| json!({"from": "bid", "sink": sink})).collect::<Vec<_>>(),
            },
            "windows": {},
            "sinks": sinks.iter().map(|sink| (*sink, &stdout)).collect::<BTreeMap<_, _>>(),
        });
        let plan = millrace_plan::compile(&serde_json::from_value(spec).unwrap()).unwrap();
        Plan { revision: Revision(revision.to_owned()), ..plan }
    }

    #[test]
    fn a_sink_that_an_edit_has_brought_has_committed_nothing_of_the_plan_before() {
        let overview = Overview::new(Instruments {
            clock: Arc::new(crate::clock::SystemClock::new()),
            metrics: Arc::default(),
            status: Arc::new(Status::new(|_| {})),
        });
        let committed = |by: &str, epoch| {
            let by = Some(Revision(by.to_owned()));
            let state = JobState { committed: Some(Epoch(epoch)), committed_by: by, ..JobState::default() };
            ["bid", "bid->old", "bid->new"].map(|node| overview.committed(node, &state).map(|epoch| epoch.0))
        };
        overview.set_plan(&plan("a", &["old"]));
        assert_eq!(committed("a", 48), [None, Some(48), None]);
        overview.set_plan(&plan("b", &["old", "new"]));
        assert_eq!(committed("a", 48), [None, Some(48), None], "it has not had a checkpoint of its own");
        assert_eq!(committed("b", 49), [None, Some(49), Some(49)]);
        // It is taken back.
        overview.set_plan(&plan("a", &["old"]));
        assert_eq!(committed("a", 50), [None, Some(50), None]);
    }
}
