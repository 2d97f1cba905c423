//! What constants come to.

use arrow::array::ArrayRef;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::{Expr, LogicalPlan, simplify::SimplifyContext};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;

/// The only value of an expression that has one.
pub(crate) fn constant(expr: &Expr) -> Option<ArrayRef> {
    if !expr.column_refs().is_empty() {
        return None;
    }
    match ExprSimplifier::new(SimplifyContext::default()).simplify(expr.clone()).ok()? {
        Expr::Literal(value, _) => value.to_array().ok(),
        _ => None,
    }
}

/// Looks at every part of every expression of a plan.
pub(crate) fn each_part(plan: &LogicalPlan, mut look: impl FnMut(&Expr)) {
    let walked = plan.apply_with_subqueries(|node| {
        for expr in node.expressions() {
            expr.apply(|part| {
                look(part);
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok(), "looking at a plan cannot fail");
}
