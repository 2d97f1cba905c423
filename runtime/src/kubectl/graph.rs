//! The graph of a running pipeline, drawn as a tree with a line a node. Pure.

use std::collections::BTreeSet;

use millrace_plan::handover::NodeSaid;

use crate::{checkpoints, live};

/// The graph as lines: sources at the left, what reads them below. Rates are those of the last report, and none where nothing
/// runs since.
pub fn draw(nodes: &[NodeSaid], runs: bool) -> String {
    let mut rows = Vec::new();
    let mut drawn = BTreeSet::new();
    let roots = nodes.iter().filter(|node| inputs(node).all(|input| !nodes.iter().any(|other| other.name == input)));
    for root in roots {
        walk(root, nodes, 0, None, &mut drawn, &mut rows);
    }
    let rate = |rows: f64| if runs { live::short(rows) } else { "-".to_owned() };
    let width = rows.iter().map(|row: &Row| row.label.chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!("{:<width$} {:>8} {:>8} {:>10}  {:<20} \n", "NODE", "IN/S", "OUT/S", "LAG", "WATERMARK");
    for row in rows {
        let watermark = row.node.watermark.and_then(|ms| u64::try_from(ms).ok());
        let line = format!(
            "{:<width$} {:>8} {:>8} {:>10}  {:<20} {}",
            row.label,
            rate(row.node.rows_in_per_second),
            rate(row.node.rows_out_per_second),
            live::lag(row.node.lag_bytes, row.node.lag_rows),
            watermark.map_or_else(|| "-".to_owned(), checkpoints::time),
            notes(row.node, row.side),
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let head = text.find('\n').unwrap_or(0);
    format!("{}{}", text[..head].trim_end(), &text[head..])
}

struct Row<'a> {
    label: String,
    node: &'a NodeSaid,
    side: Option<&'a str>,
}

/// Without the names of side outputs.
fn inputs(node: &NodeSaid) -> impl Iterator<Item = &str> {
    node.inputs.iter().map(|input| input.split('.').next().unwrap_or(input))
}

fn walk<'a>(
    node: &'a NodeSaid,
    nodes: &'a [NodeSaid],
    depth: usize,
    side: Option<&'a str>,
    drawn: &mut BTreeSet<&'a str>,
    rows: &mut Vec<Row<'a>>,
) {
    if !drawn.insert(&node.name) {
        return;
    }
    let indent = if depth == 0 { String::new() } else { format!("{}└ ", "  ".repeat(depth - 1)) };
    // A sink's node is called `<node>-><sink>`, and where it hangs says the first half.
    let name = node.name.split_once("->").map_or(node.name.as_str(), |(_, sink)| sink);
    rows.push(Row { label: format!("{indent}{name}"), node, side });
    for next in nodes {
        let from = next.inputs.iter().find(|input| input.split('.').next() == Some(&node.name));
        if let Some(from) = from {
            walk(next, nodes, depth + 1, from.split_once('.').map(|(_, side)| side), drawn, rows);
        }
    }
}

/// What is worth a look.
fn notes(node: &NodeSaid, side: Option<&str>) -> String {
    let mut notes = Vec::new();
    match node.kind.as_str() {
        "sink" => notes.push(match node.committed {
            Some(epoch) => format!("sink, committed {epoch}"),
            None => "sink, nothing committed yet".to_owned(),
        }),
        kind => notes.push(kind.to_owned()),
    }
    notes.extend(side.map(|side| format!("takes .{side}")));
    if node.inputs.len() > 1 {
        notes.push(format!("reads {}", node.inputs.join(", ")));
    }
    if node.backpressure >= 0.1 {
        notes.push(format!("waits {:.0} % of the time for those below", node.backpressure * 100.0));
    }
    notes.extend(node.bad_rows.filter(|bad| *bad > 0).map(|bad| format!("{bad} bad rows")));
    notes.extend(node.late_rows.filter(|late| *late > 0).map(|late| format!("{late} late rows")));
    notes.join(", ")
}
