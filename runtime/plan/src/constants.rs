//! What constants come to, and arithmetic of them that leaves its type: a task would refuse it in every row, and folded when
//! the plan is made it would wrap around without a word.

use std::collections::BTreeSet;

use arrow::{
    array::ArrayRef,
    compute::kernels::numeric::{add, mul, sub},
    error::ArrowError,
};
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::{BinaryExpr, Expr, LogicalPlan, Operator, simplify::SimplifyContext};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;

use crate::{columns::type_name, error::Fault, lower::expr_text};

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

/// Every sum, difference and product of constants, in a plan whose types are known, that leaves its type.
pub(crate) fn overflows(plan: &LogicalPlan) -> Vec<Fault> {
    let mut told = BTreeSet::new();
    each_part(plan, |part| {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = part else { return };
        let kernel = match op {
            Operator::Plus => add,
            Operator::Minus => sub,
            Operator::Multiply => mul,
            _ => return,
        };
        let (Some(one), Some(other)) = (constant(left), constant(right)) else { return };
        if let Err(ArrowError::ArithmeticOverflow(_)) = kernel(&one, &other) {
            told.insert(format!("`{}` leaves the range of {}", expr_text(part), type_name(one.data_type())));
        }
    });
    let expected = "a wider type, such as `CAST(… AS DECIMAL(38, 0))` gives";
    told.into_iter().map(|message| Fault::new(message).expected(expected)).collect()
}
