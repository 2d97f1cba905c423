//! From transforms that are known to be right to the plan: columns that nothing reads are dropped, filters go to the sources,
//! and the nodes are put in order.

use std::{collections::BTreeSet, sync::Arc};

use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::LogicalPlan;
use millrace_stream::NodeName;

use super::{Compiler, Work, field_order, settings, table};
use crate::{
    graph::{Input, Node, NodeKind, OutputName, Plan, SourceNode, Step, TransformNode},
    logical,
    lower::{self, Lowered, Stamp, Table},
    resolve::revision,
};

impl<'a> Compiler<'a> {
    /// From the outputs back: which columns of each transform are read. A transform that remembers keeps all, so that its
    /// state does not depend on who reads it.
    pub(super) fn prune(&mut self, works: &mut [Work<'a>], order: &[usize]) {
        for at in order.iter().rev() {
            let name = works[*at].spec.name.as_str();
            let stateful = works[*at].lowered.as_ref().is_none_or(|lowered| !lowered.flow.keyed.is_empty());
            let to_sink = self.spec.pipeline.outputs.iter().any(|o| o.node_and_output() == Some((name, None)));
            let changelog = self.tables.get(name).is_some_and(|table| table.changelog.is_some());
            let unread = !works.iter().any(|work| work.sql.tables.iter().any(|table| table.name == name));
            if stateful || to_sink || changelog || unread {
                continue;
            }
            let read: BTreeSet<String> = works
                .iter()
                .filter_map(|work| work.planned.as_ref())
                .flat_map(|plan| columns_scanned(plan, name))
                .collect();
            let Some(columns) = self.columns.get(name) else { continue };
            let wanted: Vec<usize> =
                (0..columns.fields().len()).filter(|number| read.contains(columns.field(*number).name())).collect();
            if wanted.len() == columns.fields().len() {
                continue;
            }
            if let Some(Ok(narrower)) = works[*at].planned.clone().map(|plan| logical::narrow(plan, &wanted)) {
                works[*at].planned = Some(narrower);
            }
        }
        for source in &self.spec.pipeline.sources {
            let Some(declared) = self.columns.get(&source.name) else { continue };
            let to_sink = self.spec.pipeline.outputs.iter().any(|o| o.node_and_output() == Some((&source.name, None)));
            let read: BTreeSet<String> = works
                .iter()
                .filter_map(|work| work.planned.as_ref())
                .flat_map(|plan| columns_scanned(plan, &source.name))
                .collect();
            let fields = declared.fields().iter().filter(|field| to_sink || read.contains(field.name())).cloned();
            let schema = crate::columns::with_marks(fields, false);
            self.tables.insert(source.name.clone(), Table { schema, changelog: None, stamp: Stamp::default() });
        }
        for at in order {
            let work = &works[*at];
            let Some(plan) = &work.planned else { continue };
            // What could be split before can be split with fewer columns; if not, all columns are kept.
            if let Ok(lowered) = lower::lower(plan, settings(work, &self.tables)) {
                self.tables.insert(work.spec.name.clone(), table(&lowered));
                works[*at].lowered = Some(lowered);
            }
        }
    }

    pub(super) fn assemble(mut self, works: Vec<Work<'a>>, order: &[usize], sinks: Vec<Node>) -> Plan {
        let mut transforms: Vec<Node> = Vec::new();
        for at in order {
            let work = &works[*at];
            let Some(Lowered { flow, late }) = work.lowered.clone() else { continue };
            let node = TransformNode {
                branches: flow.branches,
                keyed: flow.keyed,
                schema: flow.schema,
                changelog: flow.changelog,
                late,
            };
            transforms.push(Node { name: NodeName::from(work.spec.name.as_str()), kind: NodeKind::Transform(node) });
        }
        drop_unread(&mut transforms, &sinks);
        let mut nodes: Vec<Node> = Vec::new();
        for spec in &self.spec.pipeline.sources {
            if !is_read(&spec.name, &transforms, &sinks) {
                continue;
            }
            let (Some(declared), Some(table)) = (self.columns.get(&spec.name), self.tables.get(&spec.name)) else {
                continue;
            };
            let read = |name: &str| table.schema.index_of(name).is_ok();
            let source = SourceNode {
                spec: spec.clone(),
                declared: Arc::clone(declared),
                read: (0..declared.fields().len()).filter(|at| read(declared.field(*at).name())).collect(),
                event_time: spec.event_time.as_ref().and_then(|time| declared.index_of(&time.column).ok()),
                filter: push_filter(&spec.name, &mut transforms, &sinks),
                schema: Arc::clone(&table.schema),
            };
            nodes.push(Node { name: NodeName::from(spec.name.as_str()), kind: NodeKind::Source(source) });
        }
        nodes.extend(transforms);
        nodes.extend(sinks);
        self.warnings.sort_by_key(|warning| field_order(&warning.path));
        Plan {
            spec: self.spec.clone(),
            revision: revision(self.spec),
            nodes,
            parallelism: self.spec.pipeline.parallelism,
            warnings: self.warnings,
        }
    }
}

/// Whether something reads an output of a node.
fn is_read(name: &str, transforms: &[Node], sinks: &[Node]) -> bool {
    transforms.iter().chain(sinks).any(|node| match &node.kind {
        NodeKind::Transform(transform) => transform.branches.iter().any(|branch| branch.input.node.0 == name),
        NodeKind::Sink(sink) => sink.input.node.0 == name,
        NodeKind::Source(_) => false,
    })
}

/// Leaves out the transforms that nothing reads and that remember nothing: they would only take time.
fn drop_unread(transforms: &mut Vec<Node>, sinks: &[Node]) {
    // Readers stand behind what they read.
    for at in (0..transforms.len()).rev() {
        let stateless = matches!(&transforms[at].kind, NodeKind::Transform(t) if t.keyed.is_empty());
        if stateless && !is_read(&transforms[at].name.0, transforms, sinks) {
            transforms.remove(at);
        }
    }
}

/// Takes the filter with which the only reader of a source begins away from it, to be done by the source.
fn push_filter(
    source: &str,
    transforms: &mut [Node],
    sinks: &[Node],
) -> Option<Arc<dyn datafusion_physical_expr::PhysicalExpr>> {
    let reads = |input: &Input| input.node.0 == source && input.output == OutputName::Main;
    if sinks.iter().any(|node| matches!(&node.kind, NodeKind::Sink(sink) if reads(&sink.input))) {
        return None;
    }
    let mut readers = transforms.iter_mut().filter_map(|node| match &mut node.kind {
        NodeKind::Transform(transform) => Some(transform),
        _ => None,
    });
    let mut found = Vec::new();
    for transform in &mut readers {
        found.extend(transform.branches.iter_mut().filter(|branch| reads(&branch.input)));
    }
    let [branch] = found.as_mut_slice() else { return None };
    match branch.steps.first() {
        Some(Step::Filter(predicate)) => {
            let predicate = Arc::clone(predicate);
            branch.steps.remove(0);
            Some(predicate)
        }
        _ => None,
    }
}

/// The columns of a table that a plan reads.
fn columns_scanned(plan: &LogicalPlan, table: &str) -> Vec<String> {
    let mut columns = Vec::new();
    let walked = plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && scan.table_name.table() == table
        {
            columns.extend(scan.projected_schema.fields().iter().map(|field| field.name().clone()));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok(), "looking at a plan cannot fail");
    columns
}
