//! The aggregates that have a path of their own: count, sum, min, max and avg over 64-bit values.
//!
//! They agree with DataFusion's, but for two things. Sums of integers that leave 64 bits are an error, where DataFusion's wrap around.
//! And among floats the least and the greatest of DataFusion's depend on the order of rows if one is NaN, and a replay may bring them
//! in another one; here NaN is greater than every number.

use std::{cmp::Ordering, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array},
    buffer::{BooleanBuffer, NullBuffer},
    datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type, UInt64Type},
};
use millrace_plan::NativeAggregate;

use super::{doubles, fold::Fold, longs, rows_that_count};

/// Which native aggregate, over what.
#[derive(Clone, Debug)]
pub(super) enum NativeKind {
    CountRows,
    Count,
    Sum(Long),
    Min(Long),
    Max(Long),
    Avg,
}

/// How the 64 bits of a value are read.
#[derive(Clone, Debug)]
pub(super) enum Long {
    /// As a signed integer, in columns of this type.
    Signed(DataType),
    Unsigned,
    Double,
}

impl Long {
    fn of(of: &DataType) -> Option<Self> {
        Some(match of {
            DataType::Int64 | DataType::Timestamp(..) | DataType::Date64 => Self::Signed(of.clone()),
            DataType::UInt64 => Self::Unsigned,
            DataType::Float64 => Self::Double,
            _ => return None,
        })
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Signed(of) => of.clone(),
            Self::Unsigned => DataType::UInt64,
            Self::Double => DataType::Float64,
        }
    }
}

impl NativeKind {
    /// The native path for an aggregate over a column of type `arg` whose result has type `result`; `None` where the types
    /// are not those it is made for.
    pub(super) fn of(native: NativeAggregate, arg: Option<&DataType>, result: &DataType) -> Option<Self> {
        Some(match native {
            NativeAggregate::CountRows if *result == DataType::Int64 => Self::CountRows,
            NativeAggregate::Count if *result == DataType::Int64 && arg.is_some() => Self::Count,
            NativeAggregate::Avg if arg == Some(&DataType::Float64) && *result == DataType::Float64 => Self::Avg,
            NativeAggregate::Sum if arg == Some(result) && !matches!(result, DataType::Timestamp(..)) => {
                Self::Sum(Long::of(result)?)
            }
            NativeAggregate::Min if arg == Some(result) => Self::Min(Long::of(result)?),
            NativeAggregate::Max if arg == Some(result) => Self::Max(Long::of(result)?),
            _ => return None,
        })
    }

    pub(super) fn state_fields(&self) -> Vec<FieldRef> {
        let field = |name: &str, of: DataType| Arc::new(Field::new(name, of, true));
        match self {
            Self::CountRows | Self::Count => vec![field("count", DataType::Int64)],
            Self::Sum(long) | Self::Min(long) | Self::Max(long) => vec![field("value", long.data_type())],
            Self::Avg => vec![field("count", DataType::Int64), field("sum", DataType::Float64)],
        }
    }
}

/// A native accumulator.
pub(super) enum Native {
    Count { of_rows: bool, counts: Vec<i64> },
    Signed { fold: Fold<i64>, step: Step, of: DataType },
    Unsigned { fold: Fold<u64>, step: Step },
    Double { fold: Fold<f64>, step: Step },
    Avg { counts: Vec<i64>, sums: Vec<f64> },
}

/// How two values become one.
#[derive(Clone, Copy)]
pub(super) enum Step {
    Sum,
    Min,
    Max,
}

/// A sum has left its type.
#[derive(Debug)]
pub(super) struct Overflow;

fn fold_signed(
    fold: &mut Fold<i64>,
    step: Step,
    v: &[i64],
    c: Option<&BooleanBuffer>,
    l: &[u32],
    groups: usize,
) -> Result<(), Overflow> {
    let mut left = false;
    match step {
        // Rows cost less if one look at the end tells of all.
        Step::Sum => fold.fold(v, c, l, groups, |held, value| {
            let (sum, has_left) = held.overflowing_add(value);
            left |= has_left;
            sum
        }),
        Step::Min => fold.fold(v, c, l, groups, i64::min),
        Step::Max => fold.fold(v, c, l, groups, i64::max),
    }
    if left { Err(Overflow) } else { Ok(()) }
}

fn fold_unsigned(
    fold: &mut Fold<u64>,
    step: Step,
    v: &[u64],
    c: Option<&BooleanBuffer>,
    l: &[u32],
    groups: usize,
) -> Result<(), Overflow> {
    let mut left = false;
    match step {
        Step::Sum => fold.fold(v, c, l, groups, |held, value| {
            let (sum, has_left) = held.overflowing_add(value);
            left |= has_left;
            sum
        }),
        Step::Min => fold.fold(v, c, l, groups, u64::min),
        Step::Max => fold.fold(v, c, l, groups, u64::max),
    }
    if left { Err(Overflow) } else { Ok(()) }
}

fn fold_double(fold: &mut Fold<f64>, step: Step, v: &[f64], c: Option<&BooleanBuffer>, l: &[u32], groups: usize) {
    match step {
        Step::Sum => fold.fold(v, c, l, groups, |held, value| held + value),
        Step::Min => fold.fold(v, c, l, groups, |held, value| if is_less(value, held) { value } else { held }),
        Step::Max => fold.fold(v, c, l, groups, |held, value| if is_less(held, value) { value } else { held }),
    }
}

/// The order of doubles in min and max, in which no two values are taken for one, so that the result is the same in whatever order
/// rows come: -0.0 is less than 0.0, and NaN greater than every number.
fn is_less(one: f64, other: f64) -> bool {
    match one.partial_cmp(&other) {
        Some(order) => order.then_with(|| other.is_sign_negative().cmp(&one.is_sign_negative())) == Ordering::Less,
        None => other.is_nan() && !one.is_nan(),
    }
}

fn count(counts: &mut Vec<i64>, which: Option<&BooleanBuffer>, locals: &[u32], groups: usize) {
    counts.resize(groups.max(counts.len()), 0);
    match which {
        None => locals.iter().for_each(|local| counts[*local as usize] += 1),
        Some(which) => which.set_indices().for_each(|row| counts[locals[row] as usize] += 1),
    }
}

fn add_counts(counts: &mut Vec<i64>, more: &[i64], locals: &[u32], groups: usize) {
    counts.resize(groups.max(counts.len()), 0);
    for (more, local) in more.iter().zip(locals) {
        counts[*local as usize] += more;
    }
}

impl Native {
    pub(super) fn new(kind: &NativeKind) -> Self {
        let (long, step) = match kind {
            NativeKind::CountRows => return Self::Count { of_rows: true, counts: Vec::new() },
            NativeKind::Count => return Self::Count { of_rows: false, counts: Vec::new() },
            NativeKind::Avg => return Self::Avg { counts: Vec::new(), sums: Vec::new() },
            NativeKind::Sum(long) => (long, Step::Sum),
            NativeKind::Min(long) => (long, Step::Min),
            NativeKind::Max(long) => (long, Step::Max),
        };
        match long {
            Long::Signed(of) => {
                let unit = match step {
                    Step::Sum => 0,
                    Step::Min => i64::MAX,
                    Step::Max => i64::MIN,
                };
                Self::Signed { fold: Fold::new(unit), step, of: of.clone() }
            }
            Long::Unsigned => {
                let unit = if matches!(step, Step::Min) { u64::MAX } else { 0 };
                Self::Unsigned { fold: Fold::new(unit), step }
            }
            Long::Double => {
                let unit = match step {
                    Step::Sum => 0.0,
                    Step::Min => f64::NAN,
                    Step::Max => f64::NEG_INFINITY,
                };
                Self::Double { fold: Fold::new(unit), step }
            }
        }
    }

    pub(super) fn update(
        &mut self,
        arg: Option<&ArrayRef>,
        filter: Option<&BooleanArray>,
        locals: &[u32],
        groups: usize,
    ) -> Result<(), Overflow> {
        let nulls_of = if matches!(self, Self::Count { of_rows: true, .. }) { None } else { arg };
        let which = rows_that_count(nulls_of, filter);
        match (self, arg) {
            (Self::Count { counts, .. }, _) => count(counts, which.as_ref(), locals, groups),
            (Self::Signed { fold, step, .. }, Some(arg)) => {
                fold_signed(fold, *step, longs(arg).unwrap_or_default(), which.as_ref(), locals, groups)?;
            }
            (Self::Unsigned { fold, step }, Some(arg)) => {
                let values = arg.as_primitive::<UInt64Type>().values();
                fold_unsigned(fold, *step, values, which.as_ref(), locals, groups)?;
            }
            (Self::Double { fold, step }, Some(arg)) => {
                fold_double(fold, *step, doubles(arg), which.as_ref(), locals, groups);
            }
            (Self::Avg { counts, sums }, Some(arg)) => {
                count(counts, which.as_ref(), locals, groups);
                sums.resize(groups.max(sums.len()), 0.0);
                let values = doubles(arg);
                match &which {
                    None => values.iter().zip(locals).for_each(|(value, local)| sums[*local as usize] += value),
                    Some(which) => {
                        which.set_indices().for_each(|row| sums[locals[row] as usize] += values[row]);
                    }
                }
            }
            (_, None) => {}
        }
        Ok(())
    }

    pub(super) fn merge(&mut self, state: &[ArrayRef], locals: &[u32], groups: usize) -> Result<(), Overflow> {
        let which = rows_that_count(Some(&state[0]), None);
        match self {
            Self::Count { counts, .. } => {
                add_counts(counts, state[0].as_primitive::<Int64Type>().values(), locals, groups);
            }
            Self::Signed { fold, step, .. } => {
                fold_signed(fold, *step, longs(&state[0]).unwrap_or_default(), which.as_ref(), locals, groups)?;
            }
            Self::Unsigned { fold, step } => {
                let values = state[0].as_primitive::<UInt64Type>().values();
                fold_unsigned(fold, *step, values, which.as_ref(), locals, groups)?;
            }
            Self::Double { fold, step } => {
                fold_double(fold, *step, doubles(&state[0]), which.as_ref(), locals, groups);
            }
            Self::Avg { counts, sums } => {
                add_counts(counts, state[0].as_primitive::<Int64Type>().values(), locals, groups);
                sums.resize(groups.max(sums.len()), 0.0);
                for (more, local) in state[1].as_primitive::<Float64Type>().values().iter().zip(locals) {
                    sums[*local as usize] += more;
                }
            }
        }
        Ok(())
    }

    pub(super) fn into_state(self) -> Vec<ArrayRef> {
        match self {
            Self::Count { counts, .. } => vec![Arc::new(Int64Array::from(counts))],
            Self::Signed { fold, of, .. } => vec![fold.into_array::<Int64Type>(&of)],
            Self::Unsigned { fold, .. } => vec![fold.into_array::<UInt64Type>(&DataType::UInt64)],
            Self::Double { fold, .. } => vec![fold.into_array::<Float64Type>(&DataType::Float64)],
            Self::Avg { counts, sums } => {
                vec![Arc::new(Int64Array::from(counts)), Arc::new(Float64Array::from(sums))]
            }
        }
    }

    pub(super) fn evaluate(self) -> ArrayRef {
        match self {
            Self::Avg { counts, sums } => {
                let means = sums.iter().zip(&counts).map(|(sum, count)| sum / *count as f64).collect();
                let nulls = counts.contains(&0).then(|| counts.iter().map(|count| *count > 0).collect::<NullBuffer>());
                Arc::new(Float64Array::new(means, nulls))
            }
            other => other.into_state().swap_remove(0),
        }
    }

    /// Makes room for groups that have seen nothing.
    pub(super) fn grow_unseen(&mut self, groups: usize) {
        match self {
            Self::Count { counts, .. } => counts.resize(groups.max(counts.len()), 0),
            Self::Signed { fold, .. } => fold.grow_unseen(groups),
            Self::Unsigned { fold, .. } => fold.grow_unseen(groups),
            Self::Double { fold, .. } => fold.grow_unseen(groups),
            Self::Avg { counts, sums } => {
                counts.resize(groups.max(counts.len()), 0);
                sums.resize(groups.max(sums.len()), 0.0);
            }
        }
    }

    /// The states of some groups, as an accumulator over them.
    pub(super) fn rows(&self, locals: &[u32]) -> Self {
        fn take<T: Copy>(values: &[T], locals: &[u32]) -> Vec<T> {
            locals.iter().map(|local| values[*local as usize]).collect()
        }
        match self {
            Self::Count { of_rows, counts } => Self::Count { of_rows: *of_rows, counts: take(counts, locals) },
            Self::Signed { fold, step, of } => Self::Signed { fold: fold.rows(locals), step: *step, of: of.clone() },
            Self::Unsigned { fold, step } => Self::Unsigned { fold: fold.rows(locals), step: *step },
            Self::Double { fold, step } => Self::Double { fold: fold.rows(locals), step: *step },
            Self::Avg { counts, sums } => Self::Avg { counts: take(counts, locals), sums: take(sums, locals) },
        }
    }

    /// Puts back the states of some groups.
    pub(super) fn set_rows(&mut self, locals: &[u32], rows: &Self) {
        fn put<T: Copy>(values: &mut [T], locals: &[u32], rows: &[T]) {
            for (local, row) in locals.iter().zip(rows) {
                values[*local as usize] = *row;
            }
        }
        match (self, rows) {
            (Self::Count { counts, .. }, Self::Count { counts: rows, .. }) => put(counts, locals, rows),
            (Self::Signed { fold, .. }, Self::Signed { fold: rows, .. }) => fold.set_rows(locals, rows),
            (Self::Unsigned { fold, .. }, Self::Unsigned { fold: rows, .. }) => fold.set_rows(locals, rows),
            (Self::Double { fold, .. }, Self::Double { fold: rows, .. }) => fold.set_rows(locals, rows),
            (Self::Avg { counts, sums }, Self::Avg { counts: more_counts, sums: more_sums }) => {
                put(counts, locals, more_counts);
                put(sums, locals, more_sums);
            }
            _ => {}
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Count { counts, .. } => counts.capacity() * 8,
            Self::Signed { fold, .. } => fold.memory_bytes(),
            Self::Unsigned { fold, .. } => fold.memory_bytes(),
            Self::Double { fold, .. } => fold.memory_bytes(),
            Self::Avg { counts, sums } => (counts.capacity() + sums.capacity()) * 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a sum of these comes to, in one group, as rows and as states.
    fn sums(values: &[i64], which: Option<&[bool]>) -> [Option<Option<i64>>; 2] {
        let nulls = which.map(|which| which.iter().copied().collect::<NullBuffer>());
        let column: ArrayRef = Arc::new(Int64Array::new(values.to_vec().into(), nulls));
        let locals = vec![0; values.len()];
        let mut rows = Native::new(&NativeKind::Sum(Long::Signed(DataType::Int64)));
        let mut states = Native::new(&NativeKind::Sum(Long::Signed(DataType::Int64)));
        let outcomes =
            [rows.update(Some(&column), None, &locals, 1), states.merge(std::slice::from_ref(&column), &locals, 1)];
        let mut natives = [Some(rows), Some(states)].into_iter();
        outcomes.map(|outcome| {
            let native = natives.next().flatten();
            outcome.ok()?;
            native.map(|native| native.evaluate().as_primitive::<Int64Type>().iter().next().flatten())
        })
    }

    #[test]
    fn a_sum_of_integers_is_right_or_an_error() {
        const MAX: i64 = i64::MAX;
        const MIN: i64 = i64::MIN;
        for (values, sum) in [
            (vec![MAX, 0], Some(MAX)),
            (vec![MAX - 1, 1], Some(MAX)),
            (vec![MAX, MIN, MAX], Some(MAX - 1)),
            (vec![MIN, 0], Some(MIN)),
            (vec![MAX, 1], None),
            (vec![1, MAX], None),
            (vec![MIN, -1], None),
            (vec![MAX, MAX, 2], None),
        ] {
            assert_eq!(sums(&values, None), [sum.map(Some), sum.map(Some)], "{values:?}");
        }
        // What is null does not count.
        assert_eq!(sums(&[MAX, 7], Some(&[true, false])), [Some(Some(MAX)), Some(Some(MAX))]);
        assert_eq!(sums(&[7, MAX, 1], Some(&[false, true, true])), [None, None]);
        let column: ArrayRef = Arc::new(arrow::array::UInt64Array::from(vec![u64::MAX, 1]));
        let mut unsigned = Native::new(&NativeKind::Sum(Long::Unsigned));
        assert!(unsigned.update(Some(&column), None, &[0, 1], 2).is_ok());
        assert!(unsigned.update(Some(&column), None, &[0, 0], 2).is_err());
    }

    #[test]
    fn min_and_max_of_doubles_do_not_depend_on_the_order_of_rows() {
        let values = [1.0, f64::NAN, 2.0, -0.0, 0.0, f64::NEG_INFINITY, f64::INFINITY];
        let bits = |step: Step, values: &[f64]| {
            let kind = match step {
                Step::Min => NativeKind::Min(Long::Double),
                _ => NativeKind::Max(Long::Double),
            };
            let Native::Double { mut fold, step } = Native::new(&kind) else { unreachable!("it is of doubles") };
            fold_double(&mut fold, step, values, None, &vec![0; values.len()], 1);
            let array = fold.into_array::<Float64Type>(&DataType::Float64);
            array.as_primitive::<Float64Type>().value(0).to_bits()
        };
        for first in 0..values.len() {
            for second in (0..values.len()).filter(|second| *second != first) {
                let (one, other) = ([values[first], values[second]], [values[second], values[first]]);
                for step in [Step::Min, Step::Max] {
                    assert_eq!(bits(step, &one), bits(step, &other), "{one:?}");
                }
            }
        }
        assert_eq!(bits(Step::Min, &values), f64::NEG_INFINITY.to_bits());
        assert!(f64::from_bits(bits(Step::Max, &values)).is_nan());
        assert!(f64::from_bits(bits(Step::Min, &[f64::NAN])).is_nan(), "of nothing else");
        assert_eq!(bits(Step::Min, &[f64::NAN, 3.0]), 3f64.to_bits());
    }
}
