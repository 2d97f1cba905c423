//! A plan for people: as text, and as a graph for Graphviz.

use std::fmt::{self, Display, Write};

use arrow::datatypes::Schema;
use datafusion_physical_expr::PhysicalExpr;
use millrace_crds::{DurationStr, SinkDestination, SourceConnector, SourceSpec};
use millrace_stream::KEY_GROUPS;

use crate::{
    columns::type_name,
    graph::{
        Aggregate, Input, KeyedOp, KeyedStage, LateRows, Node, NodeKind, OutputName, Plan, SinkNode, SourceNode, Step,
        TransformNode, WindowAggregate, WindowDef, WindowKind,
    },
};

/// The whole plan: what each node reads, does, remembers and puts out.
pub fn text(plan: &Plan) -> String {
    let mut out = format!(
        "pipeline {}, revision {}\nparallelism {}, {KEY_GROUPS} key groups\n",
        plan.spec.name, plan.revision, plan.parallelism
    );
    for node in &plan.nodes {
        out.push('\n');
        out.push_str(&node_text(node));
    }
    for warning in &plan.warnings {
        let _ = write!(out, "\nwarning: {}: {}", warning.path, warning.message);
    }
    if !plan.warnings.is_empty() {
        out.push('\n');
    }
    out
}

/// One node of [`text`].
pub(crate) fn node_text(node: &Node) -> String {
    match &node.kind {
        NodeKind::Source(source) => source_text(source),
        NodeKind::Transform(transform) => transform_text(&node.name.0, transform),
        NodeKind::Sink(sink) => sink_text(&node.name.0, sink),
    }
}

fn source_text(source: &SourceNode) -> String {
    let mut out = format!("source {} ({})\n", source.spec.name, connector(&source.spec));
    let names: Vec<&str> = source.read.iter().map(|at| source.declared.field(*at).name().as_str()).collect();
    let unread: Vec<&str> = (0..source.declared.fields().len())
        // Event time is decoded, too, whether or not something reads the column.
        .filter(|at| !source.read.contains(at) && source.event_time != Some(*at))
        .map(|at| source.declared.field(at).name().as_str())
        .collect();
    let _ = writeln!(out, "  reads {}", list(&names));
    if !unread.is_empty() {
        let _ = writeln!(out, "  skips {}", list(&unread));
    }
    match (source.event_time, &source.spec.event_time) {
        (Some(at), Some(spec)) => {
            let _ = write!(out, "  event time from {}", source.declared.field(at).name());
            if !spec.max_out_of_orderness.is_zero() {
                let _ = write!(out, ", {} out of order", spec.max_out_of_orderness);
            }
            out.push('\n');
        }
        _ => out.push_str("  event time is the time of reading\n"),
    }
    if let Some(filter) = &source.filter {
        let _ = writeln!(out, "  keeps {}", sql(filter.as_ref()));
    }
    out
}

/// The connector and the format of a source.
pub(crate) fn connector(spec: &SourceSpec) -> String {
    let connector = match spec.connector() {
        Some(SourceConnector::Generator(_)) => "generator",
        Some(SourceConnector::File(_)) => "file",
        Some(SourceConnector::Stdin(_)) => "stdin",
        None => "no connector",
    };
    let set = spec.format.as_ref().and_then(|format| serde_json::to_value(format).ok());
    let format = set.as_ref().and_then(|set| set.as_object()).and_then(|set| set.keys().next().cloned());
    match format {
        Some(format) => format!("{connector}, {format}"),
        None => connector.to_owned(),
    }
}

fn transform_text(name: &str, transform: &TransformNode) -> String {
    let mut out = format!("transform {name}\n");
    for branch in &transform.branches {
        let _ = writeln!(out, "  from {}", input_name(&branch.input));
        steps_text(&mut out, &branch.steps);
    }
    for stage in &transform.keyed {
        stage_text(&mut out, stage);
    }
    let _ = writeln!(out, "  gives {}", columns(&transform.schema, transform.changelog.is_some()));
    if let Some(keys) = &transform.changelog {
        let names: Vec<&str> = keys.iter().map(|key| transform.schema.field(*key).name().as_str()).collect();
        let _ = writeln!(out, "  as changes by {}", list(&names));
    }
    if let Some(late) = &transform.late {
        let _ = writeln!(out, "  late rows {}", columns(late, false));
    }
    out
}

fn steps_text(out: &mut String, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Filter(predicate) => {
                let _ = writeln!(out, "    keep {}", sql(predicate.as_ref()));
            }
            Step::Project { exprs, schema } => {
                let items: Vec<String> = exprs
                    .iter()
                    .zip(schema.fields())
                    .enumerate()
                    .filter_map(|(at, (expr, field))| {
                        let text = sql(expr.as_ref());
                        match text == *field.name() {
                            true if at == 0 || field.name() == millrace_stream::OP_COLUMN => None,
                            true => Some(text),
                            false => Some(format!("{text} as {}", field.name())),
                        }
                    })
                    .collect();
                let _ = writeln!(
                    out,
                    "    compute {}",
                    if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
                );
            }
            Step::Unnest { columns, schema } => {
                let names: Vec<&str> = columns.iter().map(|at| schema.field(*at).name().as_str()).collect();
                let _ = writeln!(out, "    unnest {}", list(&names));
            }
        }
    }
}

fn stage_text(out: &mut String, stage: &KeyedStage) {
    let _ = writeln!(out, "  stage {}", stage.id);
    let input = stage.op.input();
    let by: Vec<&str> = stage.exchange.iter().map(|at| input.field(*at).name().as_str()).collect();
    match by.is_empty() {
        true => out.push_str("    exchange: all rows to one task\n"),
        false => {
            let _ = writeln!(out, "    exchange by hash of {}", list(&by));
        }
    }
    match &stage.op {
        KeyedOp::Window(op) => window_text(out, op),
        KeyedOp::Running(op) => {
            let every = DurationStr::from_millis(op.emit_every_ms);
            let _ = writeln!(out, "    running groups, what changed is put out every {every}");
            aggregates_text(out, &op.aggregates, &op.input);
        }
        KeyedOp::Top(op) => {
            let order: Vec<String> = op
                .order_by
                .iter()
                .map(|(at, options)| {
                    let direction = if options.descending { " desc" } else { "" };
                    let nulls = if options.nulls_first == options.descending {
                        ""
                    } else if options.nulls_first {
                        " nulls first"
                    } else {
                        " nulls last"
                    };
                    format!("{}{direction}{nulls}", input.field(*at).name())
                })
                .collect();
            let partition: Vec<&str> = op.partition_by.iter().map(|at| input.field(*at).name().as_str()).collect();
            let of =
                if partition.is_empty() { "window".to_owned() } else { format!("{} in each window", list(&partition)) };
            let _ = writeln!(out, "    first {} of each {of}, by {}", op.limit, order.join(", "));
        }
        KeyedOp::Distinct(op) => {
            let within = DurationStr::from_millis(op.within_ms.unsigned_abs());
            let late = if op.late.is_empty() { "late rows are dropped" } else { "late rows go to .late" };
            let _ = writeln!(out, "    first row of each key within {within}; {late}");
        }
    }
    let _ = writeln!(out, "    state: {}", stage.state_signature);
    steps_text(out, &stage.tail);
}

fn window_text(out: &mut String, op: &WindowAggregate) {
    let _ = writeln!(out, "    window {}: {}", op.window, window(&op.def));
    aggregates_text(out, &op.aggregates, &op.input);
    if !op.carried.is_empty() {
        let names: Vec<&str> = op.carried.iter().map(|at| op.input.field(*at).name().as_str()).collect();
        let _ = writeln!(out, "    each row keeps {}", list(&names));
    }
}

fn aggregates_text(out: &mut String, aggregates: &[Aggregate], input: &Schema) {
    for aggregate in aggregates {
        let _ = write!(out, "    aggregate {}", aggregate.call.name());
        if let Some(filter) = aggregate.filter {
            let _ = write!(out, ", filtered by column {}", input.field(filter).name());
        }
        let path = if aggregate.native.is_some() { "native" } else { "DataFusion" };
        let _ = writeln!(out, " ({path})");
    }
}

/// A Window in words.
pub(crate) fn window(def: &WindowDef) -> String {
    let of = |ms: i64| DurationStr::from_millis(ms.unsigned_abs()).to_string();
    let offset = |ms: i64| if ms == 0 { String::new() } else { format!(", shifted by {}", of(ms)) };
    let mut text = match def.kind {
        WindowKind::Tumbling { size_ms, offset_ms } => format!("tumbling, {} long{}", of(size_ms), offset(offset_ms)),
        WindowKind::Hopping { size_ms, slide_ms, offset_ms } => {
            format!("hopping, {} long, one every {}{}", of(size_ms), of(slide_ms), offset(offset_ms))
        }
        WindowKind::Rolling { range_ms } => format!("rolling over {}", of(range_ms)),
        WindowKind::Session { gap_ms } => format!("sessions, ended by {} of silence", of(gap_ms)),
    };
    if def.allowed_lateness_ms > 0 {
        let _ = write!(text, ", corrected for {}", of(def.allowed_lateness_ms));
    }
    text.push_str(match def.late_rows {
        LateRows::Drop => "; late rows are dropped",
        LateRows::SideOutput => "; late rows go to .late",
    });
    text
}

fn sink_text(name: &str, sink: &SinkNode) -> String {
    let mut out = format!("sink {name} ({})\n", destination(sink));
    let _ = writeln!(out, "  takes {}", list_of_fields(&sink.schema));
    if let Some(keys) = &sink.changelog {
        let names: Vec<&str> = keys.iter().map(|key| sink.schema.field(*key).name().as_str()).collect();
        let _ = writeln!(out, "  as changes by {}", list(&names));
    }
    out
}

/// Where a sink's rows go.
pub(crate) fn destination(sink: &SinkNode) -> String {
    match sink.spec.destination() {
        Some(SinkDestination::Stdout(_)) => "stdout".to_owned(),
        Some(SinkDestination::File(file)) => format!("file {}", file.path),
        Some(SinkDestination::Parquet(parquet)) => format!("parquet {}", parquet.uri),
        Some(SinkDestination::Delta(delta)) => format!("delta {}", delta.uri),
        None => "nowhere".to_owned(),
    }
}

/// `by_tenant`, `by_tenant.late`
pub(crate) fn input_name(input: &Input) -> String {
    match input.output {
        OutputName::Main => input.node.to_string(),
        OutputName::Late => format!("{}.late", input.node),
        OutputName::Errors => format!("{}.errors", input.node),
    }
}

/// The users' columns of a schema with marks.
fn columns(schema: &Schema, changelog: bool) -> String {
    let fields: Vec<_> = schema.fields().iter().skip(1 + usize::from(changelog)).cloned().collect();
    list_of_fields(&Schema::new(fields))
}

fn list_of_fields(schema: &Schema) -> String {
    let fields: Vec<String> =
        schema.fields().iter().map(|field| format!("{} {}", field.name(), type_name(field.data_type()))).collect();
    if fields.is_empty() { "nothing".to_owned() } else { fields.join(", ") }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// An expression without the numbers of its columns.
pub(crate) fn sql(expr: &dyn PhysicalExpr) -> String {
    struct Sql<'a>(&'a dyn PhysicalExpr);
    impl Display for Sql<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt_sql(f)
        }
    }
    Sql(expr).to_string()
}

/// The graph in Graphviz's language: a box a node, its keyed stages inside, an edge an output that is read.
pub fn graphviz(plan: &Plan) -> String {
    let mut out =
        format!("digraph {} {{\n  rankdir=LR;\n  node [shape=box, fontname=\"monospace\"];\n", quoted(&plan.spec.name));
    for node in &plan.nodes {
        let (label, shape) = match &node.kind {
            NodeKind::Source(source) => (format!("{}\n{}", node.name, connector(&source.spec)), "cds"),
            NodeKind::Transform(transform) => (transform_label(&node.name.0, transform), "box"),
            NodeKind::Sink(sink) => (format!("{}\n{}", sink.sink, destination(sink)), "folder"),
        };
        let _ = writeln!(out, "  {} [label={}, shape={shape}];", quoted(&node.name.0), quoted(&label));
    }
    for node in &plan.nodes {
        let inputs: Vec<&Input> = match &node.kind {
            NodeKind::Source(_) => Vec::new(),
            NodeKind::Transform(transform) => transform.branches.iter().map(|branch| &branch.input).collect(),
            NodeKind::Sink(sink) => vec![&sink.input],
        };
        for input in inputs {
            let label = match input.output {
                OutputName::Main => String::new(),
                OutputName::Late => " [label=late, style=dashed]".to_owned(),
                OutputName::Errors => " [label=errors, style=dashed]".to_owned(),
            };
            let _ = writeln!(out, "  {} -> {}{label};", quoted(&input.node.0), quoted(&node.name.0));
        }
    }
    out.push_str("}\n");
    out
}

fn transform_label(name: &str, transform: &TransformNode) -> String {
    let mut label = name.to_owned();
    for stage in &transform.keyed {
        let what = match &stage.op {
            KeyedOp::Window(op) => format!("window {}", op.window),
            KeyedOp::Top(op) => format!("first {}", op.limit),
            KeyedOp::Running(_) => "running groups".to_owned(),
            KeyedOp::Distinct(_) => "distinct".to_owned(),
        };
        let input = stage.op.input();
        let by: Vec<&str> = stage.exchange.iter().map(|at| input.field(*at).name().as_str()).collect();
        let by = if by.is_empty() { "one task".to_owned() } else { format!("by {}", by.join(", ")) };
        let _ = write!(label, "\n{what}, {by}");
    }
    label
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
