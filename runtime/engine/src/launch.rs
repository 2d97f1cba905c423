//! A plan's tasks, made and started from a checkpoint or from nothing.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use arrow::datatypes::{Field, Schema, SchemaRef};
use futures::FutureExt;
use millrace_connectors::{
    CommitHandle, ReplayPoint, SinkContext, SinkError, SinkFactory, Source, SourceContext, SourceError, SplitId,
    make_sink, make_source,
};
use millrace_plan::{KeyedStage, NodeKind, Plan, SourceNode};
use millrace_state::{Manifest, StateError, TaskManifest};
use millrace_stream::{Generation, KeyGroupRange, NodeName, TaskId};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    JobContext, JobError, chain,
    channel::{self, BYTE_BUDGET, Load, ROW_BUDGET, Receiver, Sender},
    inputs::{Inputs, Origin},
    operator::OperatorContext,
    router::{OutEdge, Router},
    stages::{Head, Stage, StageGraph},
    task::{
        Report, TaskContext, TaskError,
        event_times::StoredProgress,
        keyed::KeyedTask,
        sink::SinkTask,
        snapshot::Snapshotter,
        source::{SourceControl, SourceTask},
    },
    window,
};

/// How many reports may wait for the coordinator: several for each task that a pipeline may have.
const REPORT_QUEUE: usize = 4096;
/// What may be under way from one task to another.
const CHANNEL: Load = Load { rows: ROW_BUDGET, bytes: BYTE_BUDGET };

/// For so long a destination is looked at before an edit is taken up.
const LOOK: Duration = Duration::from_secs(5);

/// The running tasks of a plan. Dropping it ends them.
pub struct Running {
    /// The tasks; each reports its own failure before it ends.
    pub tasks: JoinSet<()>,
    /// To each source task.
    pub sources: BTreeMap<TaskId, mpsc::Sender<SourceControl>>,
    /// From all tasks.
    pub reports: mpsc::Receiver<Report>,
    /// Every task.
    pub ids: BTreeSet<TaskId>,
}

/// The parts of a plan that know the outside world.
pub struct Connectors {
    /// By node.
    pub sources: BTreeMap<NodeName, Box<dyn Source>>,
    /// By node.
    pub sinks: BTreeMap<NodeName, Box<dyn SinkFactory>>,
}

impl Connectors {
    /// Makes the connectors that the plan names; opens nothing.
    pub fn of(plan: &Plan) -> Result<Self, JobError> {
        let mut connectors = Self { sources: BTreeMap::new(), sinks: BTreeMap::new() };
        for node in &plan.nodes {
            match &node.kind {
                NodeKind::Source(source) => {
                    let made =
                        make_source(source).map_err(|source| JobError::Source { node: node.name.clone(), source })?;
                    connectors.sources.insert(node.name.clone(), made);
                }
                NodeKind::Sink(sink) => {
                    let made = make_sink(sink).map_err(|source| JobError::Sink { node: node.name.clone(), source })?;
                    connectors.sinks.insert(node.name.clone(), made);
                }
                NodeKind::Transform(_) => {}
            }
        }
        Ok(connectors)
    }

    /// The plan's stages. A source has as many tasks as the plan's parallelism and the connector allow.
    pub fn stages(&self, plan: &Plan) -> StageGraph {
        StageGraph::of(plan, |name| {
            let limit = self.sources.get(name).and_then(|source| source.max_parallelism());
            plan.parallelism.min(limit.unwrap_or(u32::MAX))
        })
    }
}

/// What of the destinations that are there a plan's rows do not fit, a line a node. One that cannot be looked at, or not within
/// [`LOOK`], says nothing: whoever opens it will.
pub async fn misfits(plan: &Plan) -> Option<String> {
    let connectors = Connectors::of(plan).ok()?;
    let mut lines = Vec::new();
    for node in &plan.nodes {
        let (NodeKind::Sink(sink), Some(factory)) = (&node.kind, connectors.sinks.get(&node.name)) else { continue };
        let looked = tokio::time::timeout(LOOK, factory.fits(sink.schema.clone())).await;
        if let Ok(Err(error @ SinkError::Refused { .. })) = looked {
            lines.push(format!("  {}: {}", node.name, chain(&error)));
        }
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// What tasks go on from.
#[derive(Clone, Copy)]
pub struct Restored<'a> {
    /// A checkpoint; `None`: nothing.
    pub manifest: Option<&'a Manifest>,
    /// Where sources go on from, whatever the checkpoint says of them.
    pub moved: &'a BTreeMap<NodeName, ReplayPoints>,
}

/// Makes and starts every task.
pub async fn launch(
    plan: &Plan,
    connectors: &Connectors,
    restored: Restored<'_>,
    generation: Generation,
    cx: &JobContext,
) -> Result<Running, JobError> {
    let graph = connectors.stages(plan);
    let (report, reports) = mpsc::channel(REPORT_QUEUE);
    let mut launcher = Launcher {
        graph: &graph,
        plan,
        connectors,
        restored,
        generation,
        cx,
        senders: BTreeMap::new(),
        receivers: BTreeMap::new(),
        running: Running { tasks: JoinSet::new(), sources: BTreeMap::new(), reports, ids: BTreeSet::new() },
        report,
    };
    for stage in &graph.stages {
        cx.metrics.stage(&stage.id.0).begin_tasks();
    }
    launcher.make_channels();
    // Sinks first, sources last: nothing flows before there is somewhere to flow to.
    for (number, stage) in graph.stages.iter().enumerate().rev() {
        for index in 0..stage.parallelism {
            launcher.start(number, stage, index).await?;
        }
    }
    Ok(launcher.running)
}

/// A task by the number of its stage and its own.
type TaskKey = (usize, u32);

struct Launcher<'a> {
    graph: &'a StageGraph,
    plan: &'a Plan,
    connectors: &'a Connectors,
    restored: Restored<'a>,
    generation: Generation,
    cx: &'a JobContext,
    /// For each task and edge: one a receiving task.
    senders: BTreeMap<(TaskKey, usize), Vec<Sender>>,
    receivers: BTreeMap<TaskKey, Vec<(Origin, Receiver)>>,
    running: Running,
    report: mpsc::Sender<Report>,
}

impl Launcher<'_> {
    fn make_channels(&mut self) {
        for (from, stage) in self.graph.stages.iter().enumerate() {
            for index in 0..stage.parallelism {
                let task = matches!(stage.head, Head::Source(_)).then_some(index);
                let origin = Origin { stage: from, task };
                for (number, edge) in stage.edges.iter().enumerate() {
                    for receiver in self.graph.receivers(from, number, index) {
                        let (tx, rx) = channel::channel(CHANNEL);
                        self.senders.entry(((from, index), number)).or_default().push(tx);
                        self.receivers.entry((edge.to, receiver)).or_default().push((origin, rx));
                    }
                }
            }
        }
    }

    async fn start(&mut self, number: usize, stage: &Stage, index: u32) -> Result<(), JobError> {
        let id = TaskId { stage: stage.id.clone(), index };
        let cx = TaskContext {
            id: id.clone(),
            metrics: self.cx.metrics.stage(&stage.id.0),
            clock: self.cx.clock.clone(),
            reports: self.report.clone(),
        };
        let inputs = Inputs::new(self.receivers.remove(&(number, index)).unwrap_or_default());
        let router = self.router(number, stage, index);
        match &stage.head {
            Head::Source(node) => {
                let (control, controls) = mpsc::channel(64);
                let task = self.source(cx, stage, node, router, controls).await?;
                self.running.sources.insert(id.clone(), control);
                self.spawn(id, task.run());
            }
            Head::Keyed(keyed) => {
                let task = self.keyed(cx, stage, keyed, inputs, router).await?;
                self.spawn(id, task.run());
            }
            Head::Sink(node) => {
                let sink_cx = self.cx.sink_context(self.plan, &stage.node, node, self.generation, index)?;
                let handle = self.sink_handle(stage, index);
                let opened = self.connectors.sinks[&stage.node].open(sink_cx, handle).await;
                let sink = opened.map_err(|source| JobError::Sink { node: stage.node.clone(), source })?;
                self.spawn(id, SinkTask::new(cx, inputs, sink).run());
            }
        }
        Ok(())
    }

    fn router(&mut self, number: usize, stage: &Stage, index: u32) -> Router {
        let edges = stage.edges.iter().enumerate().map(|(edge, out)| OutEdge {
            route: out.route.clone(),
            senders: self.senders.remove(&((number, index), edge)).unwrap_or_default(),
        });
        let edges = edges.collect();
        Router::new(stage.outputs.clone(), stage.links.clone(), edges, |node| self.cx.metrics.link(node))
    }

    fn restored_tasks(&self, stage: &Stage) -> impl Iterator<Item = &TaskManifest> {
        let id = stage.id.clone();
        self.restored
            .manifest
            .into_iter()
            .flat_map(|manifest| &manifest.tasks)
            .filter(move |task| task.task.stage == id)
    }

    async fn source(
        &self,
        cx: TaskContext,
        stage: &Stage,
        node: &SourceNode,
        router: Router,
        control: mpsc::Receiver<SourceControl>,
    ) -> Result<SourceTask, JobError> {
        let (restored, progress): (ReplayPoints, Vec<StoredProgress>) = match self.restored.moved.get(&stage.node) {
            // How far event time had come elsewhere means nothing there.
            Some(moved) => (moved.clone(), Vec::new()),
            None => {
                let meta = self.restored_tasks(stage).map(|task| task.meta.clone());
                let progress = meta.filter_map(|meta| serde_json::from_value(meta).ok()).collect();
                (replay_points(self.restored_tasks(stage)), progress)
            }
        };
        let source_cx = SourceContext {
            index: cx.id.index,
            parallelism: stage.parallelism,
            restored,
            resumes: self.restored_tasks(stage).next().is_some(),
            schema: reader_schema(node),
            batch_rows: self.cx.batch_rows,
            clock: self.cx.clock.clone(),
            scratch: self.cx.folder.scratch(&stage.node)?.join(cx.id.index.to_string()),
        };
        let failed = |source: SourceError| JobError::Source { node: stage.node.clone(), source };
        let reader = self.connectors.sources[&stage.node].open(source_cx).await.map_err(failed)?;
        Ok(SourceTask::new(cx, node.clone(), reader, router, control, &progress))
    }

    async fn keyed(
        &self,
        cx: TaskContext,
        stage: &Stage,
        keyed: &KeyedStage,
        inputs: Inputs,
        router: Router,
    ) -> Result<KeyedTask, JobError> {
        let key_groups = KeyGroupRange::of_task(cx.id.index, stage.parallelism);
        let parts: Vec<&TaskManifest> =
            self.restored_tasks(stage).filter(|task| task.key_groups.intersection(key_groups).is_some()).collect();
        let epoch = self.restored.manifest.map(|manifest| manifest.epoch);
        let (store, snapshotter) = Snapshotter::restore(
            &cx.id,
            key_groups,
            window::states(&keyed.op),
            &parts,
            epoch,
            self.generation,
            self.cx,
        )
        .await?;
        let operator_cx = OperatorContext {
            store,
            key_groups,
            restored: parts.iter().map(|task| task.meta.clone()).collect(),
            memory_budget_bytes: self.cx.memory_budget_bytes / self.keyed_tasks().max(1),
            batch_rows: self.cx.batch_rows,
            clock: self.cx.clock.clone(),
        };
        let operator = window::make_operator(&keyed.op, operator_cx)
            .map_err(|source| JobError::Operator { node: stage.node.clone(), source })?;
        Ok(KeyedTask::new(cx, inputs, operator, router, snapshotter))
    }

    fn keyed_tasks(&self) -> usize {
        let keyed = self.graph.stages.iter().filter(|stage| matches!(stage.head, Head::Keyed(_)));
        keyed.map(|stage| stage.parallelism as usize).sum()
    }

    fn sink_handle(&self, stage: &Stage, index: u32) -> Option<CommitHandle> {
        let sinks = self.restored.manifest?.sinks.iter();
        let handles = &sinks.into_iter().find(|sink| sink.node == stage.node.0)?.handles;
        handles.get(index as usize).cloned().map(CommitHandle)
    }

    fn spawn(&mut self, id: TaskId, run: impl Future<Output = Result<(), TaskError>> + Send + 'static) {
        self.running.ids.insert(id.clone());
        let reports = self.report.clone();
        let run = async move {
            let error = match AssertUnwindSafe(run).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(panic) => TaskError::Panicked(panic_text(&*panic)),
            };
            // Nobody listens any more when the whole graph is being stopped.
            let _ = reports.send(Report::Failed { task: id, error }).await;
        };
        self.running.tasks.spawn_on(run, &self.cx.tasks);
    }
}

/// Where the splits of a source are resumed, by split.
pub type ReplayPoints = BTreeMap<SplitId, ReplayPoint>;

/// The replay points that tasks have written.
pub fn replay_points<'a>(tasks: impl Iterator<Item = &'a TaskManifest>) -> ReplayPoints {
    let points = tasks.flat_map(|task| &task.replay_points);
    points.map(|(split, point)| (SplitId(split.as_str().into()), ReplayPoint(point.clone()))).collect()
}

/// What a source's reader decodes: the columns that are read, then the event-time column if it is not among them.
fn reader_schema(node: &SourceNode) -> SchemaRef {
    let extra = node.event_time.filter(|column| node.read.binary_search(column).is_err());
    let fields = node.read.iter().copied().chain(extra).map(|column| node.declared.field(column).clone());
    Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no message").to_owned()
}

impl JobContext {
    pub(crate) fn sink_context(
        &self,
        plan: &Plan,
        node: &NodeName,
        sink: &millrace_plan::SinkNode,
        generation: Generation,
        index: u32,
    ) -> Result<SinkContext, StateError> {
        Ok(SinkContext {
            pipeline: plan.spec.name.clone(),
            instance: self.folder.instance(),
            revision: plan.revision.clone(),
            node: node.0.clone(),
            generation,
            index,
            schema: sink.schema.clone(),
            changelog: sink.changelog.clone(),
            clock: self.clock.clone(),
            goes_back: false,
            scratch: self.folder.scratch(node)?,
        })
    }
}
