//! Moments that are too far away for nanoseconds, as in `valid_to < '9999-12-31'`.
//!
//! The planner brings a text that is compared with a TIMESTAMP, and what `TIMESTAMP '…'` names, to nanoseconds, which reach from
//! 1677 to 2262. One that lies beyond is read in the unit of what it is compared with, which has room for it. All others are left
//! to the planner.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::{DFSchema, Result, ScalarValue, config::ConfigOptions, tree_node::Transformed};
use datafusion_expr::{Between, BinaryExpr, Cast, Expr, ExprSchemable, expr::InList, expr_rewriter::FunctionRewrite};

use crate::comparisons::compares;

/// Reads far moments where they are compared with a TIMESTAMP.
#[derive(Debug)]
pub(crate) struct FarMoments;

impl FunctionRewrite for FarMoments {
    fn name(&self) -> &str {
        "far_moments"
    }

    fn rewrite(&self, mut expr: Expr, schema: &DFSchema, _config: &ConfigOptions) -> Result<Transformed<Expr>> {
        let changes = match &mut expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(*op) => {
                read(left, [right.as_mut()], schema) || read(right, [left.as_mut()], schema)
            }
            Expr::Between(Between { expr, low, high, .. }) => read(expr, [low.as_mut(), high.as_mut()], schema),
            Expr::InList(InList { expr, list, .. }) => read(expr, list, schema),
            _ => false,
        };
        Ok(if changes { Transformed::yes(expr) } else { Transformed::no(expr) })
    }
}

/// Reads the texts that are compared with an expression in its unit, if there is a far moment among them: they are brought to one
/// type.
fn read<'e>(compared: &Expr, with: impl IntoIterator<Item = &'e mut Expr>, schema: &DFSchema) -> bool {
    let Ok(DataType::Timestamp(unit, zone)) = compared.get_type(schema) else { return false };
    let texts: Vec<(&mut Expr, Moment)> =
        with.into_iter().filter_map(|text| moment(text, unit, &zone).map(|moment| (text, moment))).collect();
    let has_far = texts.iter().any(|(_, moment)| moment.is_far);
    if has_far {
        texts.into_iter().for_each(|(text, moment)| *text = Expr::Literal(moment.read, None));
    }
    has_far
}

/// What a text names.
struct Moment {
    /// In the unit of what it is compared with.
    read: ScalarValue,
    /// Nanoseconds have no room for it.
    is_far: bool,
}

fn moment(text: &Expr, unit: TimeUnit, zone: &Option<Arc<str>>) -> Option<Moment> {
    let (text, zone) = match text {
        Expr::Literal(text, _) => (text, zone.clone()),
        Expr::Cast(Cast { expr, field }) => match (expr.as_ref(), field.data_type()) {
            (Expr::Literal(text, _), DataType::Timestamp(TimeUnit::Nanosecond, zone)) => (text, zone.clone()),
            _ => return None,
        },
        _ => return None,
    };
    let is_text = matches!(text.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let named = |unit| text.cast_to(&DataType::Timestamp(unit, zone.clone())).ok();
    let read = Some(unit).filter(|unit| is_text && *unit != TimeUnit::Nanosecond).and_then(named)?;
    Some(Moment { read, is_far: named(TimeUnit::Nanosecond).is_none() })
}
