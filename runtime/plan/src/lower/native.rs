//! Which aggregates the engine has a path of its own for, and in which types.

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType};
use datafusion_expr::expr::AggregateFunctionParams;
use datafusion_physical_expr::expressions::Literal;

use super::Physical;
use crate::graph::NativeAggregate;

/// A path of the engine's own, with the type that it takes its argument in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Native {
    pub path: NativeAggregate,
    /// What the argument is cast to first; `None`: it is taken as it is.
    pub widened: Option<DataType>,
}

/// The engine's path for a call, if it has one.
pub(super) fn native(name: &str, params: &AggregateFunctionParams, args: &[(Physical, DataType)]) -> Option<Native> {
    if params.distinct || !params.order_by.is_empty() {
        return None;
    }
    let plain = |path| Some(Native { path, widened: None });
    match (name, args) {
        ("count", [(literal, _)])
            if literal.downcast_ref::<Literal>().is_some_and(|literal| !literal.value().is_null()) =>
        {
            plain(NativeAggregate::CountRows)
        }
        ("count", [_]) => plain(NativeAggregate::Count),
        ("sum", [(_, DataType::Int64 | DataType::UInt64 | DataType::Float64)]) => plain(NativeAggregate::Sum),
        ("avg", [(_, DataType::Float64)]) => plain(NativeAggregate::Avg),
        ("min", [(_, of)]) => extreme(NativeAggregate::Min, of),
        ("max", [(_, of)]) => extreme(NativeAggregate::Max, of),
        _ => None,
    }
}

/// The type in which a sum of decimals is kept that could leave its own, of 38 digits, and that of its result. DataFusion's sum
/// wraps around there without a word; the cast to the result's type does not.
pub(super) fn wide_sum(name: &str, of: &DataType) -> Option<(DataType, DataType)> {
    const DIGITS: u8 = DECIMAL128_MAX_PRECISION;
    // Ten digits more than those of its values are ten thousand million of them.
    match of {
        DataType::Decimal128(digits, scale) if name == "sum" && *digits > DIGITS - 10 => {
            Some((DataType::Decimal256(DECIMAL256_MAX_PRECISION, *scale), DataType::Decimal128(DIGITS, *scale)))
        }
        _ => None,
    }
}

/// Least and greatest run on 64 bits; what is narrower is widened.
fn extreme(path: NativeAggregate, of: &DataType) -> Option<Native> {
    let widened = match of {
        DataType::Int64 | DataType::UInt64 | DataType::Float64 | DataType::Timestamp(..) => None,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            Some(DataType::Int64)
        }
        DataType::Float32 => Some(DataType::Float64),
        _ => return None,
    };
    Some(Native { path, widened })
}
