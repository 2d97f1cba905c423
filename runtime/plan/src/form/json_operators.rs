//! JSON's operators beside others. The parser has them bind weaker than arithmetic, `||`, comparisons and casts, so that what
//! stands beside one without parentheses is taken for a part of its operand, as in `js ->> ('a' = 'x')`.

use std::mem;

use datafusion_sql::sqlparser::ast::{BinaryOperator, CastKind, Expr, Value};

/// What was meant, in words of SQL, if `expr` is one of JSON's operators whose operand holds another operator.
pub(super) fn meant(expr: &Expr) -> Option<String> {
    let Expr::BinaryOp { left, op, right } = expr else { return None };
    if !is_json(op) {
        return None;
    }
    let mut outer;
    if binds_tighter(right) {
        outer = (**right).clone();
        let operand = leftmost(&mut outer);
        *operand = nested((**left).clone(), op, take(operand));
    } else if binds_tighter(left) {
        outer = (**left).clone();
        let operand = rightmost(&mut outer)?;
        *operand = nested(take(operand), op, (**right).clone());
    } else {
        return None;
    }
    Some(outer.to_string())
}

fn nested(left: Expr, op: &BinaryOperator, right: Expr) -> Expr {
    Expr::Nested(Box::new(Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) }))
}

fn take(expr: &mut Expr) -> Expr {
    mem::replace(expr, Expr::value(Value::Null))
}

fn is_json(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Arrow, HashArrow, HashLongArrow, LongArrow};
    matches!(op, Arrow | LongArrow | HashArrow | HashLongArrow)
}

fn binds_tighter(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryOp { op, .. } => !is_json(op),
        Expr::Cast { kind: CastKind::DoubleColon, .. }
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsDistinctFrom(..)
        | Expr::IsNotDistinctFrom(..)
        | Expr::Like { .. }
        | Expr::ILike { .. }
        | Expr::SimilarTo { .. }
        | Expr::Between { .. }
        | Expr::InList { .. } => true,
        _ => false,
    }
}

/// The operand that such an expression begins with.
fn leftmost(expr: &mut Expr) -> &mut Expr {
    if !binds_tighter(expr) {
        return expr;
    }
    match expr {
        Expr::BinaryOp { left: inner, .. }
        | Expr::Cast { expr: inner, .. }
        | Expr::IsNull(inner)
        | Expr::IsNotNull(inner)
        | Expr::IsTrue(inner)
        | Expr::IsNotTrue(inner)
        | Expr::IsFalse(inner)
        | Expr::IsNotFalse(inner)
        | Expr::IsDistinctFrom(inner, _)
        | Expr::IsNotDistinctFrom(inner, _)
        | Expr::Like { expr: inner, .. }
        | Expr::ILike { expr: inner, .. }
        | Expr::SimilarTo { expr: inner, .. }
        | Expr::Between { expr: inner, .. }
        | Expr::InList { expr: inner, .. } => leftmost(inner),
        other => other,
    }
}

/// The operand that such an expression ends with, if it ends with one.
fn rightmost(expr: &mut Expr) -> Option<&mut Expr> {
    if !binds_tighter(expr) {
        return Some(expr);
    }
    match expr {
        Expr::BinaryOp { right: inner, .. }
        | Expr::IsDistinctFrom(_, inner)
        | Expr::IsNotDistinctFrom(_, inner)
        | Expr::Like { pattern: inner, escape_char: None, .. }
        | Expr::ILike { pattern: inner, escape_char: None, .. }
        | Expr::SimilarTo { pattern: inner, escape_char: None, .. }
        | Expr::Between { high: inner, .. } => rightmost(inner),
        _ => None,
    }
}
