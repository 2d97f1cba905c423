//! Which types may be compared with each other. The planner would bring both sides to one type by a cast that is nowhere
//! written: a text that is compared with a number is read as one, and a row whose text is none fails the pipeline.
//!
//! | compared | is |
//! |---|---|
//! | numbers of any two types | compared as the wider one |
//! | text with text, BOOLEAN with BOOLEAN | compared as they are |
//! | DATE with TIMESTAMP | compared as TIMESTAMP, a date being its midnight in UTC |
//! | DATE or TIMESTAMP with a text that is written in the SQL | compared as the moment that the text names |
//! | anything with NULL | NULL, as always |
//! | anything else, text with a number above all | refused: a cast says what is meant |
//!
//! Lists, structs and JSON values are left to the planner.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;
use datafusion_common::{
    DFSchema,
    tree_node::{TreeNode, TreeNodeRecursion},
};
use datafusion_expr::{Between, BinaryExpr, Case, Expr, ExprSchemable, LogicalPlan, Operator, expr::InList};

use crate::{
    columns::type_name,
    error::{Fault, MAX_FAULTS},
    lower::expr_text,
};

/// The kinds of type of which each is compared with itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Number,
    Text,
    Boolean,
    Moment,
}

/// A side of a comparison.
struct Side<'a> {
    expr: &'a Expr,
    of: DataType,
    class: Class,
}

/// Every comparison in a plan, before types are coerced, of types that do not compare.
pub(crate) fn unlike(plan: &LogicalPlan) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    let walked = plan.apply_with_subqueries(|node| {
        let mut schema = DFSchema::empty();
        for input in node.inputs() {
            schema.merge(input.schema());
        }
        for expr in node.expressions() {
            // Looking at an expression cannot fail.
            let _ = expr.apply(|part| {
                for (left, right) in pairs(part) {
                    let fault = compared(left, right, &schema);
                    faults.extend(fault.filter(|fault| seen.insert(fault.message.clone())));
                    if faults.len() >= MAX_FAULTS {
                        return Ok(TreeNodeRecursion::Stop);
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            });
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok(), "looking at a plan cannot fail");
    faults
}

/// What an expression compares with each other.
fn pairs(expr: &Expr) -> Vec<(&Expr, &Expr)> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(*op) => vec![(left, right)],
        Expr::Between(Between { expr, low, high, .. }) => vec![(expr, low), (expr, high)],
        Expr::InList(InList { expr, list, .. }) => list.iter().map(|item| (expr.as_ref(), item)).collect(),
        Expr::Case(Case { expr: Some(expr), when_then_expr, .. }) => {
            when_then_expr.iter().map(|(when, _)| (expr.as_ref(), when.as_ref())).collect()
        }
        _ => Vec::new(),
    }
}

pub(crate) fn compares(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

fn compared(left: &Expr, right: &Expr, schema: &DFSchema) -> Option<Fault> {
    let (left, right) = (side(left, schema)?, side(right, schema)?);
    let is_like = left.class == right.class || names_moment(&left, &right) || names_moment(&right, &left);
    if is_like {
        return None;
    }
    let text = |side: &Side<'_>| match (side.class, side.expr) {
        (Class::Text, Expr::Literal(..)) => format!("'{}'", expr_text(side.expr)),
        _ => expr_text(side.expr),
    };
    let message = format!(
        "`{}` is {}, and `{}` is {}: they do not compare",
        text(&left),
        type_name(&left.of),
        text(&right),
        type_name(&right.of)
    );
    Some(Fault::new(message).expected(meant(&left, &right)))
}

/// What would be right: the cast, or the literal, of one side.
fn meant(left: &Side<'_>, right: &Side<'_>) -> String {
    let (text, other) = if left.class == Class::Text { (left, right) } else { (right, left) };
    let is_literal = |side: &Side<'_>| matches!(side.expr, Expr::Literal(..));
    let of = type_name(&other.of);
    match (text.class, is_literal(text), is_literal(other)) {
        (Class::Text, true, _) => format!("a value of type {of}, without quotes"),
        (Class::Text, false, true) => {
            format!("`'{}'`, or `CAST({} AS {of})`", expr_text(other.expr), expr_text(text.expr))
        }
        _ => format!("one type, such as `CAST({} AS {of})` gives", expr_text(text.expr)),
    }
}

/// Whether a moment is compared with a text that is written in the SQL.
fn names_moment(moment: &Side<'_>, text: &Side<'_>) -> bool {
    moment.class == Class::Moment && text.class == Class::Text && matches!(text.expr, Expr::Literal(..))
}

fn side<'a>(expr: &'a Expr, schema: &DFSchema) -> Option<Side<'a>> {
    // What has no type yet is told by the planner.
    let of = expr.get_type(schema).ok()?;
    let class = match &of {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Class::Text,
        DataType::Boolean => Class::Boolean,
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => Class::Moment,
        number if number.is_numeric() => Class::Number,
        _ => return None,
    };
    Some(Side { expr, of, class })
}
