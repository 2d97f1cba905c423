//! What must not change for a keyed stage's stored state to be readable, as text.

use std::fmt::Write;

use arrow::datatypes::SchemaRef;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_expr::{Expr, expr::Alias};
use millrace_crds::DurationStr;

use crate::{
    columns::type_name,
    graph::{Distinct, TopN, WindowKind},
    pseudo,
};

/// An expression as users would write it, without the tables that its columns come from.
pub(crate) fn expr_text(expr: &Expr) -> String {
    let bare = match expr {
        Expr::Alias(Alias { expr, .. }) => expr.as_ref(),
        other => other,
    };
    let unqualified = bare.clone().unalias_nested().data.transform(|node| match node {
        Expr::Column(mut column) if column.relation.is_some() => {
            column.relation = None;
            Ok(Transformed::yes(Expr::Column(column)))
        }
        other => Ok(Transformed::no(other)),
    });
    let text = unqualified.map_or_else(|_| bare.to_string(), |done| done.data.human_display().to_string());
    pseudo::as_users_write(&text)
}

/// The kinds of window whose states are alike.
pub(crate) fn family(kind: WindowKind) -> &'static str {
    match kind {
        WindowKind::Tumbling { .. } | WindowKind::Hopping { .. } => "sliced window",
        WindowKind::Rolling { .. } => "rolling window",
        WindowKind::Session { .. } => "session window",
    }
}

/// `sliced window by tenant VARCHAR: count(*) -> BIGINT; …`
pub(crate) fn of_groups(family: &str, keys: &[(String, String)], aggregates: &[String]) -> String {
    let keys: Vec<String> = keys.iter().map(|(name, of)| format!("{name} {of}")).collect();
    let by = if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
    format!("{family} by {by}: {}", aggregates.join("; "))
}

pub(super) fn of_distinct(op: &Distinct) -> String {
    format!("distinct on {}", fields(&op.input, &op.keys))
}

/// `cut` is the window that the rows were cut into in order to be ranked: their event times are its ends.
pub(super) fn of_top(op: &TopN, cut: Option<WindowKind>) -> String {
    let mut text = format!("top by {}", fields(&op.input, &op.partition_by));
    if let Some(WindowKind::Tumbling { size_ms, offset_ms }) = cut {
        let of = |ms: i64| DurationStr::from_millis(ms.unsigned_abs());
        let shifted = if offset_ms == 0 { String::new() } else { format!(" shifted by {}", of(offset_ms)) };
        let _ = write!(text, " in windows of {}{shifted}", of(size_ms));
    }
    for (number, (place, options)) in op.order_by.iter().enumerate() {
        let direction = if options.descending { "desc" } else { "asc" };
        let _ =
            write!(text, "{} {} {direction}", if number == 0 { " order" } else { "," }, op.input.field(*place).name());
    }
    let all: Vec<usize> = (1..op.input.fields().len()).collect();
    let _ = write!(text, ": {}", fields(&op.input, &all));
    text
}

fn fields(schema: &SchemaRef, places: &[usize]) -> String {
    let fields: Vec<String> = places
        .iter()
        .map(|place| {
            let field = schema.field(*place);
            format!("{} {}", field.name(), type_name(field.data_type()))
        })
        .collect();
    if fields.is_empty() { "nothing".to_owned() } else { fields.join(", ") }
}
