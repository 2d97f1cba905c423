//! What constants come to, and arithmetic of them that leaves its type: a task would refuse it in every row, and folded when
//! the plan is made it would wrap around without a word. And constants that cannot be cast or divided by.

use std::collections::BTreeSet;

use arrow::{
    array::ArrayRef,
    compute::{
        CastOptions, cast_with_options,
        kernels::numeric::{add, mul, rem, sub},
    },
    error::ArrowError,
};
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion, TreeNodeVisitor};
use datafusion_expr::{BinaryExpr, Expr, LogicalPlan, Operator, simplify::SimplifyContext};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;

use crate::{columns::type_name, error::Fault, lower::expr_text};

/// The only value of an expression that has one.
pub(crate) fn constant(expr: &Expr) -> Option<ArrayRef> {
    if expr.any_column_refs() {
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

/// The same from the inside out.
pub(crate) fn each_part_up(plan: &LogicalPlan, mut look: impl FnMut(&Expr)) {
    let walked = plan.apply_with_subqueries(|node| {
        for expr in node.expressions() {
            expr.visit(&mut Upwards(&mut look))?;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok(), "looking at a plan cannot fail");
}

struct Upwards<'a, F>(&'a mut F);

impl<'n, F: FnMut(&Expr)> TreeNodeVisitor<'n> for Upwards<'_, F> {
    type Node = Expr;

    fn f_up(&mut self, part: &'n Expr) -> datafusion_common::Result<TreeNodeRecursion> {
        (self.0)(part);
        Ok(TreeNodeRecursion::Continue)
    }
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

/// Every cast of a constant that it cannot be cast to, and every division by a constant zero, where each row that comes so far
/// would fail. What a CASE, a COALESCE, an AND or an OR may leave out is not looked at.
pub(crate) fn failures(plan: &LogicalPlan) -> Vec<Fault> {
    let mut told = BTreeSet::new();
    let walked = plan.apply_with_subqueries(|node| {
        for expr in node.expressions() {
            expr.apply(|part| {
                if may_leave_out(part) {
                    return Ok(TreeNodeRecursion::Jump);
                }
                told.extend(failure(part));
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok(), "looking at a plan cannot fail");
    told.into_iter().map(|(message, expected)| Fault::new(message).expected(expected)).collect()
}

fn may_leave_out(expr: &Expr) -> bool {
    match expr {
        Expr::Case(_) => true,
        Expr::BinaryExpr(BinaryExpr { op, .. }) => matches!(op, Operator::And | Operator::Or),
        Expr::ScalarFunction(call) => matches!(call.func.name(), "coalesce" | "nvl" | "nvl2"),
        _ => false,
    }
}

fn failure(part: &Expr) -> Option<(String, &'static str)> {
    match part {
        Expr::BinaryExpr(BinaryExpr { op: Operator::Divide | Operator::Modulo, right, .. }) => {
            let divisor = constant(right)?;
            let Err(ArrowError::DivideByZero) = rem(&divisor, &divisor) else { return None };
            Some((format!("`{}` divides by zero", expr_text(part)), "another divisor, or `nullif(…, 0)` around it"))
        }
        Expr::Cast(to) => {
            let options = CastOptions { safe: false, ..CastOptions::default() };
            let error = cast_with_options(&constant(&to.expr)?, to.field.data_type(), &options).err()?;
            let message = format!("`{}` fails in every row: {error}", expr_text(part));
            Some((message, "a value of that type, or `TRY_CAST`, which gives NULL"))
        }
        _ => None,
    }
}
