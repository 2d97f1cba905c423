//! What an edit asks of a running pipeline, node by node, before it happens.
//!
//! | class | what changes |
//! |---|---|
//! | hot | filters, columns, windows, sinks, new and removed branches: taken up at a barrier, with the state of every stage that keeps its name |
//! | rescale | the number of tasks: the same, with key groups moved |
//! | restart | what pods are made from |
//! | refused | what would drop state that `allowStateLoss` does not name, or what cannot change |

mod take_over;

use std::collections::BTreeMap;

use arrow::datatypes::Schema;
pub use millrace_crds::EditClass;
use millrace_crds::{DeploymentSpec, SchemaEvolution, SinkDestination};
use millrace_stream::NodeName;
use serde_json::Value;

pub use self::take_over::keeps_state;
use self::take_over::{TakeOver, how_it_takes_over, take_over};
use crate::{
    columns::type_name,
    explain,
    graph::{KeyedOp, KeyedStage, Node, NodeKind, Plan, SinkNode, SourceNode, TransformNode},
    replay,
};

/// The class of an edit, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The strongest class of any node.
    pub class: EditClass,
    /// What changes, in the order of the new plan, removed nodes last.
    pub nodes: Vec<NodeChange>,
}

/// What an edit does to one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeChange {
    /// The node's name; the pipeline's, for what is about all of it.
    pub node: String,
    /// The class of this change.
    pub class: EditClass,
    /// What changes, in a sentence.
    pub why: String,
}

/// Compares two plans of one pipeline.
pub fn diff(old: &Plan, new: &Plan) -> Edit {
    let mut changes = Changes { old, new, nodes: Vec::new() };
    if old.revision != new.revision {
        changes.pipeline();
        changes.present_nodes();
        changes.removed_nodes();
    }
    let nodes = changes.nodes;
    let class = nodes.iter().map(|change| change.class).max().unwrap_or(EditClass::None);
    Edit { class, nodes }
}

struct Changes<'a> {
    old: &'a Plan,
    new: &'a Plan,
    nodes: Vec<NodeChange>,
}

impl Changes<'_> {
    fn add(&mut self, node: &str, class: EditClass, why: impl Into<String>) {
        self.nodes.push(NodeChange { node: node.to_owned(), class, why: why.into() });
    }

    /// Whether the new spec says that this name's state may be lost.
    fn may_lose(&self, names: [&str; 2]) -> bool {
        self.new.spec.pipeline.allow_state_loss.iter().any(|allowed| names.contains(&allowed.as_str()))
    }

    /// Refused, unless the loss is allowed.
    fn loss(&mut self, node: &str, stage: &str, what: &str) {
        self.loss_unless(node, stage, &format!("{what}, which would drop the state of `{stage}`"), what);
    }

    /// The same, where there is more to say of why it is refused.
    fn loss_unless(&mut self, node: &str, stage: &str, refused: &str, what: &str) {
        if self.may_lose([node, stage]) {
            self.add(node, EditClass::Hot, format!("{what}; its state is dropped, as `allowStateLoss` says"));
        } else {
            self.add(node, EditClass::Refused, format!("{refused}; to drop it, name `{node}` in `allowStateLoss`"));
        }
    }

    fn pipeline(&mut self) {
        let (old, new) = (&self.old.spec, &self.new.spec);
        let name = new.name.as_str();
        if old.name != new.name {
            let why = format!("the pipeline was called `{}`; state belongs to a name", old.name);
            self.add(name, EditClass::Refused, why);
        }
        let (before, after) = (&old.pipeline, &new.pipeline);
        if before.parallelism != after.parallelism {
            let why = format!("parallelism from {} to {}", before.parallelism, after.parallelism);
            self.add(name, EditClass::Rescale, why);
        }
        let replicas = |spec: &Option<DeploymentSpec>| spec.as_ref().and_then(|spec| spec.replicas);
        if replicas(&before.deployment) != replicas(&after.deployment) {
            self.add(name, EditClass::Rescale, "the number of pods changes");
        }
        let pods = |spec: &Option<DeploymentSpec>| {
            let spec = spec.clone().unwrap_or_default();
            DeploymentSpec { replicas: None, ..spec }
        };
        if pods(&before.deployment) != pods(&after.deployment) {
            let changed = changed_fields(&pods(&before.deployment), &pods(&after.deployment));
            self.add(name, EditClass::Restart, format!("pods are made anew: {changed} of `deployment` changes"));
        }
        if before.checkpoints.storage != after.checkpoints.storage {
            self.add(
                name,
                EditClass::Refused,
                "`checkpoints.storage` changes, and the checkpoints would stay behind in the old one",
            );
        } else if before.checkpoints != after.checkpoints {
            let changed = changed_fields(&before.checkpoints, &after.checkpoints);
            self.add(name, EditClass::Hot, format!("{changed} of `checkpoints` changes"));
        }
        if before.suspend != after.suspend {
            let why = if after.suspend { "the pipeline is suspended" } else { "the pipeline is resumed" };
            self.add(name, EditClass::Hot, why);
        }
    }

    fn present_nodes(&mut self) {
        for node in &self.new.nodes {
            let name = node.name.0.as_str();
            let Some(before) = self.old.node(&node.name) else {
                let renamed = self.renamed_from(node).filter(|old_name| !self.may_lose([old_name, old_name]));
                if let Some(old_name) = renamed {
                    let why = format!(
                        "the source was called `{old_name}`, and where it was read to follows its name; to begin anew, \
                         name `{old_name}` in `allowStateLoss`"
                    );
                    self.add(name, EditClass::Refused, why);
                    continue;
                }
                self.add(name, EditClass::Hot, format!("a new {}", kind(node)));
                continue;
            };
            match (&before.kind, &node.kind) {
                (NodeKind::Source(old), NodeKind::Source(new)) => self.source(name, old, new),
                (NodeKind::Transform(old), NodeKind::Transform(new)) => self.transform(name, old, new, before, node),
                (NodeKind::Sink(old), NodeKind::Sink(new)) => self.sink(name, old, new),
                _ => {
                    let why = format!("it was a {}, and a name keeps its kind", kind(before));
                    self.add(name, EditClass::Refused, why);
                }
            }
        }
    }

    /// The source that a new source was before, if only its name is new.
    fn renamed_from(&self, node: &Node) -> Option<String> {
        let NodeKind::Source(new) = &node.kind else { return None };
        self.old.nodes.iter().find_map(|before| match &before.kind {
            NodeKind::Source(old) if self.new.node(&before.name).is_none() => {
                let mut renamed = old.spec.clone();
                renamed.name.clone_from(&new.spec.name);
                (renamed == new.spec).then(|| before.name.0.clone())
            }
            _ => None,
        })
    }

    fn source(&mut self, name: &str, old: &SourceNode, new: &SourceNode) {
        if let Some(why) = replay::lost(&old.spec, &new.spec) {
            if self.may_lose([name, name]) {
                let why = format!("{why}; it is read from its beginning, as `allowStateLoss` says");
                self.add(name, EditClass::Hot, why);
            } else {
                let why = format!("{why}; to begin anew, name `{name}` in `allowStateLoss`");
                self.add(name, EditClass::Refused, why);
            }
            return;
        }
        let mut what = Vec::new();
        if old.spec != new.spec {
            what.push(format!("{} changes", changed_fields(&old.spec, &new.spec)));
        }
        if old.read != new.read && old.declared == new.declared {
            let names = |source: &SourceNode| -> Vec<String> {
                source.read.iter().map(|at| source.declared.field(*at).name().clone()).collect()
            };
            what.push(lists_differ("reads", &names(old), &names(new)));
        }
        if old.filter.as_ref().map(|f| explain::sql(f.as_ref()))
            != new.filter.as_ref().map(|f| explain::sql(f.as_ref()))
        {
            what.push("the filter that its reader pushed down changes".to_owned());
        }
        if !what.is_empty() {
            self.add(name, EditClass::Hot, what.join("; "));
        }
    }

    fn transform(&mut self, name: &str, old: &TransformNode, new: &TransformNode, before: &Node, after: &Node) {
        let stages = |transform: &TransformNode| -> BTreeMap<String, KeyedStage> {
            transform.keyed.iter().map(|stage| (stage.id.0.clone(), stage.clone())).collect()
        };
        let (old_stages, new_stages) = (stages(old), stages(new));
        let count = self.nodes.len();
        for (id, stage) in &old_stages {
            match new_stages.get(id) {
                None => self.loss(name, id, "it no longer remembers anything there"),
                Some(now) if now.state_signature != stage.state_signature => {
                    let what = format!(
                        "what is remembered changes from `{}` to `{}`",
                        stage.state_signature, now.state_signature
                    );
                    self.loss(name, id, &what);
                }
                Some(now) => self.stage(name, id, stage, now),
            }
        }
        for id in new_stages.keys().filter(|id| !old_stages.contains_key(*id)) {
            self.add(name, EditClass::Hot, format!("the stage `{id}` is new, and begins with nothing remembered"));
        }
        if old.schema != new.schema {
            let why = columns_differ(&old.schema, &new.schema);
            self.add(name, EditClass::Hot, why);
        }
        if self.nodes.len() == count && explain::node_text(before) != explain::node_text(after) {
            let inputs = |t: &TransformNode| -> Vec<String> {
                t.branches.iter().map(|b| explain::input_name(&b.input)).collect()
            };
            let why = if inputs(old) != inputs(new) {
                lists_differ("its inputs:", &inputs(old), &inputs(new))
            } else {
                "its expressions change".to_owned()
            };
            self.add(name, EditClass::Hot, why);
        }
    }

    /// A stage that keeps its state.
    fn stage(&mut self, name: &str, id: &str, old: &KeyedStage, new: &KeyedStage) {
        match (&old.op, &new.op) {
            (KeyedOp::Window(before), KeyedOp::Window(after)) if before.def != after.def => {
                let (was, is) = (explain::window(&before.def), explain::window(&after.def));
                let what = format!("the window changes from `{was}` to `{is}`");
                let node = NodeName(name.to_owned());
                match take_over(&before.def, &after.def, self.new, &node, &new.id) {
                    TakeOver::AtOnce => self.add(name, EditClass::Hot, what),
                    TakeOver::At(boundaries) => {
                        let how = how_it_takes_over(after.def.kind, &boundaries);
                        self.add(name, EditClass::Hot, format!("{what}, {how}"));
                    }
                    TakeOver::Never => {
                        let refused = format!(
                            "{what}, but windows of both never begin at the same instant, at which the one could follow the \
                             other: choose an `offset` with which they do. Otherwise the state of `{id}` would be dropped"
                        );
                        self.loss_unless(name, id, &refused, &what);
                    }
                    TakeOver::Ranked => {
                        let refused = format!(
                            "{what}, but its rows are ranked window by window, and windows of both would end at the same \
                             instant. The state of `{id}` would have to be dropped"
                        );
                        self.loss_unless(name, id, &refused, &what);
                    }
                }
            }
            (KeyedOp::Top(before), KeyedOp::Top(after)) if before.limit != after.limit => {
                let why = format!(
                    "the first {} become the first {}; windows that are open may lack rows that were let go",
                    before.limit, after.limit
                );
                self.add(name, EditClass::Hot, why);
            }
            (KeyedOp::Running(before), KeyedOp::Running(after)) if before.emit_every_ms != after.emit_every_ms => {
                self.add(name, EditClass::Hot, "`emitEvery` changes");
            }
            (KeyedOp::Distinct(before), KeyedOp::Distinct(after)) if before.within_ms != after.within_ms => {
                self.add(name, EditClass::Hot, "`within` changes");
            }
            _ => {}
        }
    }

    fn sink(&mut self, name: &str, old: &SinkNode, new: &SinkNode) {
        if old.changelog != new.changelog {
            self.add(name, EditClass::Hot, "its rows become changes, or no longer are");
        }
        let (before, after) = (explain::destination(old), explain::destination(new));
        if before != after {
            self.add(name, EditClass::Hot, format!("from {before} to {after} with the next epoch"));
            return;
        }
        let count = self.nodes.len();
        if let (Some(SinkDestination::Delta(was)), Some(SinkDestination::Delta(is))) =
            (old.spec.destination(), new.spec.destination())
        {
            if was.partition_by != is.partition_by {
                self.add(
                    name,
                    EditClass::Refused,
                    "a Delta table's partitioning cannot change; write to another `uri`",
                );
            }
            if let Some(problem) = type_changes(&old.schema, &new.schema) {
                self.add(name, EditClass::Refused, problem);
            }
            // The table may have the column: from before, or because somebody has added it. Whoever takes the edit up looks.
            let fields = new.schema.fields().iter().filter(|it| old.schema.field_with_name(it.name()).is_err());
            let names: Vec<String> = fields.map(|field| format!("`{}`", field.name())).collect();
            if is.schema_evolution == SchemaEvolution::Strict && !names.is_empty() {
                let (columns, are, them) = match names.len() {
                    1 => ("column", "is", "it"),
                    _ => ("columns", "are", "them"),
                };
                let why = format!(
                    "the {columns} {} {are} new to the Sink; a Delta table that lacks {them} refuses the edit, unless \
                     `schemaEvolution: AddColumns` adds {them}",
                    names.join(", ")
                );
                self.add(name, EditClass::Hot, why);
            }
        }
        if self.nodes.len() == count {
            if old.schema != new.schema {
                let why = columns_differ(&old.schema, &new.schema);
                self.add(name, EditClass::Hot, why);
            } else if old.spec != new.spec {
                let why = format!("{} changes", changed_fields(&old.spec, &new.spec));
                self.add(name, EditClass::Hot, why);
            }
        }
    }

    fn removed_nodes(&mut self) {
        for node in &self.old.nodes {
            if self.new.node(&node.name).is_some() {
                continue;
            }
            let name = node.name.0.as_str();
            match &node.kind {
                NodeKind::Transform(transform) if !transform.keyed.is_empty() => {
                    for stage in &transform.keyed {
                        self.loss(name, &stage.id.0, "the transform is gone, or has another name");
                    }
                }
                _ => self.add(name, EditClass::Hot, format!("the {} is gone", kind(node))),
            }
        }
    }
}

fn kind(node: &Node) -> &'static str {
    match node.kind {
        NodeKind::Source(_) => "source",
        NodeKind::Transform(_) => "transform",
        NodeKind::Sink(_) => "sink",
    }
}

/// Why a Delta table that has the old columns cannot take the new ones.
fn type_changes(old: &Schema, new: &Schema) -> Option<String> {
    new.fields().iter().find_map(|field| {
        let before = old.field_with_name(field.name()).ok()?;
        (before.data_type() != field.data_type()).then(|| {
            format!(
                "the column `{}` of the Delta table changes from {} to {}",
                field.name(),
                type_name(before.data_type()),
                type_name(field.data_type())
            )
        })
    })
}

fn columns_differ(old: &Schema, new: &Schema) -> String {
    let names = |schema: &Schema| -> Vec<String> {
        let fields = schema.fields().iter().filter(|field| !field.name().starts_with('_'));
        fields.map(|field| format!("{} {}", field.name(), type_name(field.data_type()))).collect()
    };
    lists_differ("its columns:", &names(old), &names(new))
}

/// `its columns: day VARCHAR is new, p99 DOUBLE is gone`
fn lists_differ(what: &str, old: &[String], new: &[String]) -> String {
    let added = new.iter().filter(|name| !old.contains(name)).map(|name| format!("{name} is new"));
    let removed = old.iter().filter(|name| !new.contains(name)).map(|name| format!("{name} is gone"));
    let changes: Vec<String> = added.chain(removed).collect();
    if changes.is_empty() { format!("{what} another order") } else { format!("{what} {}", changes.join(", ")) }
}

/// The names of the fields in which two specs differ.
fn changed_fields<T: serde::Serialize>(old: &T, new: &T) -> String {
    let fields = |spec: &T| match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (old, new) = (fields(old), fields(new));
    let mut changed: Vec<&String> =
        old.keys().chain(new.keys()).filter(|name| old.get(*name) != new.get(*name)).collect();
    changed.sort();
    changed.dedup();
    let names: Vec<String> = changed.into_iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
