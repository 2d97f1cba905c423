//! Aggregates over groups: columnar accumulators that take rows, give and take partial states, and give results.
//!
//! An accumulator is a set of columns indexed by a *local* number: the index of a group in the table that owns the
//! accumulator. Count, sum, min, max and avg over 64-bit values have a path of their own ([`native`]), tight loops over
//! Arrow values; every other aggregate goes through DataFusion's `GroupsAccumulator` ([`generic`]).
//!
//! A *state* is what an aggregate knows of some rows, as Arrow columns. States of disjoint rows merge into the state of
//! their union, which is how slices make windows, and epochs' changes make slices.

mod fold;
mod generic;
mod native;

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch},
    datatypes::{
        DataType, Field, FieldRef, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType,
        TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt64Type,
    },
};
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use millrace_plan::Aggregate;

use self::{
    generic::Generic,
    native::{Native, NativeKind, Overflow},
};
use crate::operator::OperatorError;

/// The aggregates of one operator: what makes accumulators.
#[derive(Clone, Debug)]
pub struct Aggregates {
    specs: Arc<[Spec]>,
    all_native: bool,
}

#[derive(Clone, Debug)]
struct Spec {
    call: Arc<AggregateFunctionExpr>,
    args: Vec<usize>,
    filter: Option<usize>,
    native: Option<NativeKind>,
    state: Vec<FieldRef>,
}

impl Spec {
    #[cold]
    fn overflow(&self) -> OperatorError {
        OperatorError::Overflow { aggregate: self.call.name().to_owned() }
    }
}

impl Aggregates {
    /// The plan's aggregates over rows of the given types.
    ///
    /// # Errors
    /// Fails if an aggregate does not say what its state is.
    pub fn new(aggregates: &[Aggregate], input: &arrow::datatypes::Schema) -> Result<Self, OperatorError> {
        let specs = aggregates
            .iter()
            .map(|aggregate| {
                let arg = aggregate.args.first().map(|arg| input.field(*arg).data_type());
                let native =
                    aggregate.native.and_then(|kind| NativeKind::of(kind, arg, aggregate.call.field().data_type()));
                let state = match &native {
                    Some(kind) => kind.state_fields(),
                    None => aggregate.call.state_fields()?,
                };
                Ok(Spec {
                    call: Arc::clone(&aggregate.call),
                    args: aggregate.args.clone(),
                    filter: aggregate.filter,
                    native,
                    state,
                })
            })
            .collect::<Result<Arc<[Spec]>, OperatorError>>()?;
        let all_native = specs.iter().all(|spec| spec.native.is_some());
        Ok(Self { specs, all_native })
    }

    /// Whether every aggregate has a path of the engine's own.
    pub fn all_native(&self) -> bool {
        self.all_native
    }

    /// The columns of a state, in order, with names that are unique among them.
    pub fn state_fields(&self) -> Vec<Field> {
        let states = self.specs.iter().enumerate();
        states
            .flat_map(|(at, spec)| {
                spec.state
                    .iter()
                    .enumerate()
                    .map(move |(part, field)| Field::new(format!("a{at}_{part}"), field.data_type().clone(), true))
            })
            .collect()
    }

    /// The input columns that the aggregates read.
    pub fn columns_read(&self) -> Vec<usize> {
        let mut columns: Vec<usize> =
            self.specs.iter().flat_map(|spec| spec.args.iter().copied().chain(spec.filter)).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// The same aggregates over rows that have these of the columns alone, which are those that are read.
    pub(crate) fn reading(&self, columns: &[usize]) -> Self {
        let at = |column: usize| columns.iter().position(|read| *read == column).unwrap_or(column);
        let specs = self.specs.iter().cloned().map(|spec| Spec {
            args: spec.args.iter().map(|column| at(*column)).collect(),
            filter: spec.filter.map(at),
            ..spec
        });
        Self { specs: specs.collect(), all_native: self.all_native }
    }

    /// Empty accumulators.
    ///
    /// # Errors
    /// Fails if DataFusion cannot make an accumulator.
    pub fn accumulators(&self) -> Result<Accumulators, OperatorError> {
        let columns = self
            .specs
            .iter()
            .map(|spec| {
                Ok(match &spec.native {
                    Some(kind) => Accumulator::Native(Native::new(kind)),
                    None => Accumulator::Generic(Generic::new(&spec.call)?),
                })
            })
            .collect::<Result<_, OperatorError>>()?;
        Ok(Accumulators { specs: Arc::clone(&self.specs), columns, locals: Vec::new(), generic: !self.all_native })
    }
}

/// One accumulator an aggregate, over the same groups.
pub struct Accumulators {
    specs: Arc<[Spec]>,
    columns: Vec<Accumulator>,
    locals: Vec<usize>,
    generic: bool,
}

enum Accumulator {
    Native(Native),
    Generic(Generic),
}

impl Accumulators {
    /// Takes rows: row `i` belongs to group `locals[i]`, and there are `groups` of them by now. Each group beyond those that
    /// there were before is among `locals`, unless room was made for it with [`Self::grow_native`].
    ///
    /// # Errors
    /// Fails if an aggregate does not take the rows, or a sum leaves its type.
    pub fn update(&mut self, rows: &RecordBatch, locals: &[u32], groups: usize) -> Result<(), OperatorError> {
        self.widen(locals);
        for (spec, column) in self.specs.iter().zip(&mut self.columns) {
            let filter = spec.filter.map(|filter| rows.column(filter).as_boolean());
            match column {
                Accumulator::Native(native) => {
                    let arg = spec.args.first().map(|arg| rows.column(*arg));
                    native.update(arg, filter, locals, groups).map_err(|Overflow| spec.overflow())?;
                }
                Accumulator::Generic(generic) => {
                    let args: Vec<ArrayRef> = spec.args.iter().map(|arg| Arc::clone(rows.column(*arg))).collect();
                    generic.update(&args, filter, &self.locals, groups)?;
                }
            }
        }
        Ok(())
    }

    /// Takes states, as [`Self::into_state`] gave them: state `i` belongs to group `locals[i]`. Groups are as in
    /// [`Self::update`].
    ///
    /// # Errors
    /// Fails if an aggregate does not take the states, or a sum leaves its type.
    pub fn merge(&mut self, state: &[ArrayRef], locals: &[u32], groups: usize) -> Result<(), OperatorError> {
        self.widen(locals);
        let mut rest = state;
        for (spec, column) in self.specs.iter().zip(&mut self.columns) {
            let Some((own, others)) = rest.split_at_checked(spec.state.len()) else {
                return Err(OperatorError::Damaged {
                    found: format!("{} columns of state", state.len()),
                    expected: "one for each state of each aggregate",
                });
            };
            rest = others;
            match column {
                Accumulator::Native(native) => {
                    native.merge(own, locals, groups).map_err(|Overflow| spec.overflow())?;
                }
                Accumulator::Generic(generic) => generic.merge(own, &self.locals, groups)?,
            }
        }
        Ok(())
    }

    /// The states of all groups.
    ///
    /// # Errors
    /// Fails if an aggregate cannot give its state.
    pub fn into_state(mut self) -> Result<Vec<ArrayRef>, OperatorError> {
        let mut state = Vec::new();
        for (spec, column) in self.specs.iter().zip(self.columns.drain(..)) {
            match column {
                Accumulator::Native(native) => state.extend(native.into_state()),
                Accumulator::Generic(generic) => state.extend(generic.into_state(&spec.state)?),
            }
        }
        Ok(state)
    }

    /// The results of all groups.
    ///
    /// # Errors
    /// Fails if an aggregate cannot be computed.
    pub fn evaluate(mut self) -> Result<Vec<ArrayRef>, OperatorError> {
        let columns = std::mem::take(&mut self.columns).into_iter();
        columns
            .map(|column| match column {
                Accumulator::Native(native) => Ok(native.evaluate()),
                Accumulator::Generic(generic) => generic.evaluate(),
            })
            .collect()
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        let columns = self.columns.iter().map(|column| match column {
            Accumulator::Native(native) => native.memory_bytes(),
            Accumulator::Generic(generic) => generic.memory_bytes(),
        });
        columns.sum()
    }

    /// The states of `locals`, in that order; every aggregate must be native.
    pub(crate) fn native_rows(&self, locals: &[u32]) -> NativeRows {
        NativeRows(self.natives().map(|native| native.rows(locals)).collect())
    }

    /// Puts back what [`Self::native_rows`] took.
    pub(crate) fn set_native_rows(&mut self, locals: &[u32], rows: &NativeRows) {
        for (column, rows) in self.columns.iter_mut().zip(&rows.0) {
            if let Accumulator::Native(native) = column {
                native.set_rows(locals, rows);
            }
        }
    }

    /// Makes room for `groups` groups that have seen nothing. Only native accumulators have to be told.
    pub(crate) fn grow_native(&mut self, groups: usize) {
        for column in &mut self.columns {
            if let Accumulator::Native(native) = column {
                native.grow_unseen(groups);
            }
        }
    }

    /// Accumulators that hold the states of `rows`, with as many groups as there are rows.
    pub(crate) fn of_native_rows(&self, rows: NativeRows) -> Self {
        Self {
            specs: Arc::clone(&self.specs),
            columns: rows.0.into_iter().map(Accumulator::Native).collect(),
            locals: Vec::new(),
            generic: false,
        }
    }

    fn natives(&self) -> impl Iterator<Item = &Native> {
        self.columns.iter().filter_map(|column| match column {
            Accumulator::Native(native) => Some(native),
            Accumulator::Generic(_) => None,
        })
    }

    fn widen(&mut self, locals: &[u32]) {
        if self.generic {
            self.locals.clear();
            self.locals.extend(locals.iter().map(|local| *local as usize));
        }
    }
}

/// States of some groups of native accumulators, set aside.
pub(crate) struct NativeRows(Vec<Native>);

impl NativeRows {
    pub(crate) fn memory_bytes(&self) -> usize {
        self.0.iter().map(Native::memory_bytes).sum()
    }
}

/// The values of a column of signed 64-bit integers, however they are to be read.
pub(crate) fn longs(array: &ArrayRef) -> Option<&[i64]> {
    Some(match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().values(),
        DataType::Timestamp(TimeUnit::Second, _) => array.as_primitive::<TimestampSecondType>().values(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => array.as_primitive::<TimestampMillisecondType>().values(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => array.as_primitive::<TimestampMicrosecondType>().values(),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => array.as_primitive::<TimestampNanosecondType>().values(),
        DataType::Date64 => array.as_primitive::<arrow::datatypes::Date64Type>().values(),
        DataType::UInt64 => bytemuck_u64(array.as_primitive::<UInt64Type>().values()),
        _ => return None,
    })
}

/// The same bits, read as signed.
fn bytemuck_u64(values: &[u64]) -> &[i64] {
    // SAFETY: both types have the same size and alignment, and every bit pattern is valid for both.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

/// Which rows a filter and the nulls of an argument leave.
fn rows_that_count(array: Option<&ArrayRef>, filter: Option<&BooleanArray>) -> Option<arrow::buffer::BooleanBuffer> {
    let nulls = array.and_then(|array| array.nulls()).filter(|nulls| nulls.null_count() > 0);
    let filter = filter.map(|filter| match filter.nulls() {
        Some(nulls) => filter.values() & nulls.inner(),
        None => filter.values().clone(),
    });
    match (nulls, filter) {
        (None, filter) => filter,
        (Some(nulls), None) => Some(nulls.inner().clone()),
        (Some(nulls), Some(filter)) => Some(nulls.inner() & &filter),
    }
}

/// The values of a column of doubles.
fn doubles(array: &ArrayRef) -> &[f64] {
    array.as_primitive::<Float64Type>().values()
}
