//! The plan cut into stages: what runs in one task, and what is sent between tasks.
//!
//! A stage begins at a source, a keyed stage or a sink. Everything stateless behind it runs in the same task, as a tree of
//! [`Link`]s, up to the next exchange. A stateless UNION ALL is thus no stage of its own: each of its inputs' stages runs
//! what follows it, and the rows meet in the channels of the next stage.

use std::collections::BTreeMap;

use millrace_plan::{
    Input, KeyedOp, KeyedStage, NodeKind, OutputName, Plan, SinkNode, SourceNode, Step, TransformNode,
};
use millrace_stream::{NodeName, StageId};

/// Every stage of a plan, sources first, each after those that send to it.
#[derive(Clone, Debug)]
pub struct StageGraph {
    /// The stages; [`Edge::to`] counts in here.
    pub stages: Vec<Stage>,
}

/// What one task runs.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name: that of the plan's source, keyed stage or sink.
    pub id: StageId,
    /// The plan's node that it begins with.
    pub node: NodeName,
    /// What it begins with.
    pub head: Head,
    /// How many tasks it has.
    pub parallelism: u32,
    /// Where the rows of each of the head's outputs go.
    pub outputs: BTreeMap<OutputName, Vec<Target>>,
    /// The stateless transforms that run in the task.
    pub links: Vec<Link>,
    /// Where rows leave the task.
    pub edges: Vec<Edge>,
}

/// What a stage begins with.
#[derive(Clone, Debug)]
pub enum Head {
    /// Reads rows.
    Source(Box<SourceNode>),
    /// Remembers rows by key.
    Keyed(Box<KeyedStage>),
    /// Writes rows.
    Sink(Box<SinkNode>),
}

/// Some stateless steps of one transform.
#[derive(Clone, Debug)]
pub struct Link {
    /// The transform.
    pub node: NodeName,
    /// Applied in order.
    pub steps: Vec<Step>,
    /// Where the rows go then.
    pub then: Vec<Target>,
    /// Whether the rows behind it are the transform's output, to be counted as such.
    pub is_output: bool,
}

/// Where rows go inside a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To this link.
    Link(usize),
    /// Out of the task.
    Edge(usize),
}

/// Where rows leave a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The receiving stage, by number.
    pub to: usize,
    /// Which of its tasks gets a row.
    pub route: Route,
}

/// Which task of the receiving stage gets a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The one with the sender's number, modulo the receivers'.
    Forward,
    /// The one that owns the key group of these columns.
    Hash(Vec<usize>),
}

impl StageGraph {
    /// Cuts a plan. `source_parallelism` says how many tasks a source has.
    pub fn of(plan: &Plan, source_parallelism: impl Fn(&NodeName) -> u32) -> Self {
        let mut cutter = Cutter { plan, stages: Vec::new(), heads: BTreeMap::new() };
        for node in &plan.nodes {
            match &node.kind {
                NodeKind::Source(source) => {
                    let parallelism = source_parallelism(&node.name);
                    cutter.begin(
                        &node.name,
                        StageId(node.name.0.clone()),
                        Head::Source(Box::new(source.clone())),
                        parallelism,
                    );
                }
                NodeKind::Transform(transform) => {
                    for keyed in &transform.keyed {
                        let parallelism = if keyed.exchange.is_empty() { 1 } else { plan.parallelism };
                        cutter.begin(&node.name, keyed.id.clone(), Head::Keyed(Box::new(keyed.clone())), parallelism);
                    }
                }
                NodeKind::Sink(sink) => {
                    cutter.begin(&node.name, StageId(node.name.0.clone()), Head::Sink(Box::new(sink.clone())), 1);
                }
            }
        }
        for stage in 0..cutter.stages.len() {
            cutter.connect(stage);
        }
        cutter.widen_sinks();
        Self { stages: cutter.stages }
    }

    /// The tasks of stage `from` that send to task `index` of stage `to`, as numbers of `from`'s edges and tasks.
    pub fn senders(&self, to: usize, index: u32) -> Vec<(usize, usize, u32)> {
        let mut senders = Vec::new();
        for (from, stage) in self.stages.iter().enumerate() {
            for (edge, _) in stage.edges.iter().enumerate().filter(|(_, edge)| edge.to == to) {
                for task in 0..stage.parallelism {
                    if self.receivers(from, edge, task).contains(&index) {
                        senders.push((from, edge, task));
                    }
                }
            }
        }
        senders
    }

    /// The tasks of the receiving stage to which task `index` of stage `from` sends over `edge`.
    pub fn receivers(&self, from: usize, edge: usize, index: u32) -> Vec<u32> {
        let edge = &self.stages[from].edges[edge];
        let receivers = self.stages[edge.to].parallelism;
        match edge.route {
            Route::Forward => vec![index % receivers],
            Route::Hash(_) => (0..receivers).collect(),
        }
    }
}

struct Cutter<'a> {
    plan: &'a Plan,
    stages: Vec<Stage>,
    heads: BTreeMap<StageId, usize>,
}

impl Cutter<'_> {
    fn begin(&mut self, node: &NodeName, id: StageId, head: Head, parallelism: u32) {
        self.heads.insert(id.clone(), self.stages.len());
        self.stages.push(Stage {
            id,
            node: node.clone(),
            head,
            parallelism: parallelism.max(1),
            outputs: BTreeMap::new(),
            links: Vec::new(),
            edges: Vec::new(),
        });
    }

    fn connect(&mut self, stage: usize) {
        let node = self.stages[stage].node.clone();
        match self.stages[stage].head.clone() {
            Head::Source(_) => {
                for output in [OutputName::Main, OutputName::Errors] {
                    let targets = self.readers(stage, &Input { node: node.clone(), output });
                    self.stages[stage].outputs.insert(output, targets);
                }
            }
            Head::Keyed(keyed) => self.connect_keyed(stage, &node, &keyed),
            Head::Sink(_) => {}
        }
    }

    fn connect_keyed(&mut self, stage: usize, node: &NodeName, keyed: &KeyedStage) {
        let Some(transform) = self.transform(node) else { return };
        let position = transform.keyed.iter().position(|other| other.id == keyed.id).unwrap_or(0);
        let next = transform.keyed.get(position + 1).cloned();
        let is_output = next.is_none();
        let then = match next {
            Some(next) => vec![self.edge_to_keyed(stage, &next)],
            None => self.readers(stage, &Input { node: node.clone(), output: OutputName::Main }),
        };
        let link = self.link(stage, Link { node: node.clone(), steps: keyed.tail.clone(), then, is_output });
        self.stages[stage].outputs.insert(OutputName::Main, vec![link]);
        if matches!(keyed.op, KeyedOp::Window(_) | KeyedOp::Distinct(_)) {
            let late = self.readers(stage, &Input { node: node.clone(), output: OutputName::Late });
            self.stages[stage].outputs.insert(OutputName::Late, late);
        }
    }

    /// What reads this output, as targets in `stage`.
    fn readers(&mut self, stage: usize, read: &Input) -> Vec<Target> {
        let mut targets = Vec::new();
        for node in &self.plan.nodes {
            match &node.kind {
                NodeKind::Source(_) => {}
                NodeKind::Sink(sink) if sink.input == *read => {
                    let to = self.heads[&StageId(node.name.0.clone())];
                    targets.push(self.edge(stage, Edge { to, route: Route::Forward }));
                }
                NodeKind::Sink(_) => {}
                NodeKind::Transform(transform) => {
                    for branch in transform.branches.iter().filter(|branch| branch.input == *read) {
                        let is_output = transform.keyed.is_empty();
                        let then = match transform.keyed.first() {
                            Some(keyed) => vec![self.edge_to_keyed(stage, keyed)],
                            None => {
                                let output = Input { node: node.name.clone(), output: OutputName::Main };
                                self.readers(stage, &output)
                            }
                        };
                        let steps = branch.steps.clone();
                        targets.push(self.link(stage, Link { node: node.name.clone(), steps, then, is_output }));
                    }
                }
            }
        }
        targets
    }

    fn edge_to_keyed(&mut self, stage: usize, keyed: &KeyedStage) -> Target {
        let to = self.heads[&keyed.id];
        let from = self.stages[stage].parallelism;
        let alone = from == 1 && self.stages[to].parallelism == 1;
        let route = if alone { Route::Forward } else { Route::Hash(keyed.exchange.clone()) };
        self.edge(stage, Edge { to, route })
    }

    fn edge(&mut self, stage: usize, edge: Edge) -> Target {
        let edges = &mut self.stages[stage].edges;
        let known = edges.iter().position(|other| *other == edge);
        Target::Edge(known.unwrap_or_else(|| {
            edges.push(edge);
            edges.len() - 1
        }))
    }

    fn link(&mut self, stage: usize, link: Link) -> Target {
        let links = &mut self.stages[stage].links;
        links.push(link);
        Target::Link(links.len() - 1)
    }

    fn transform(&self, name: &NodeName) -> Option<&TransformNode> {
        match &self.plan.node(name)?.kind {
            NodeKind::Transform(transform) => Some(transform),
            _ => None,
        }
    }

    /// A sink has as many tasks as the widest stage that sends to it.
    fn widen_sinks(&mut self) {
        for sink in 0..self.stages.len() {
            if !matches!(self.stages[sink].head, Head::Sink(_)) {
                continue;
            }
            let senders = self.stages.iter().filter(|stage| stage.edges.iter().any(|edge| edge.to == sink));
            self.stages[sink].parallelism = senders.map(|stage| stage.parallelism).max().unwrap_or(1);
        }
    }
}
