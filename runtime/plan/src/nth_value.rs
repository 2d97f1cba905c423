//! `nth_value(x, n ORDER BY y)` as an aggregate whose rows may come in any order and in parts.
//!
//! DataFusion's own wants its rows sorted, and keeps the parts whole. This one keeps the first `n` rows by the order (the last
//! `-n` if `n` is negative), and never more, whatever comes in which order. Rows that the order holds equal stand as they came.
//!
//! State: one list of structs, `value` and an `o0`, `o1`, … for each expression of the order; sorted, at most `|n|` long.

use std::{
    cmp::Ordering,
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, StructArray, new_empty_array},
    compute::SortOptions,
    datatypes::{DataType, Field, FieldRef, Fields},
};
use datafusion_common::{
    Result, ScalarValue,
    cast::as_list_array,
    exec_err, plan_err,
    utils::{SingleRowListArrayBuilder, compare_rows},
};
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
    function::{AccumulatorArgs, StateFieldsArgs},
    utils::AggregateOrderSensitivity,
};
use datafusion_physical_expr::expressions::Literal;

/// The aggregate that stands in for DataFusion's where a plan is lowered.
pub(crate) fn nth_value() -> &'static Arc<AggregateUDF> {
    static ONE: OnceLock<Arc<AggregateUDF>> = OnceLock::new();
    ONE.get_or_init(|| Arc::new(AggregateUDF::from(NthValue { signature: Signature::any(2, Volatility::Immutable) })))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NthValue {
    signature: Signature,
}

impl AggregateUDFImpl for NthValue {
    fn name(&self) -> &'static str {
        "nth_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(args[0].clone())
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::SoftRequirement
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let order = args.ordering_fields.iter().map(|field| field.data_type().clone());
        let entry = DataType::Struct(entry_fields(args.input_fields[0].data_type().clone(), order));
        Ok(vec![Arc::new(Field::new_list("entries", Field::new_list_field(entry, true), true))])
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let n = match args.exprs[1].downcast_ref::<Literal>().map(Literal::value) {
            Some(ScalarValue::Int64(Some(n))) if *n != 0 => *n,
            _ => return plan_err!("the second argument of nth_value is a whole number other than 0"),
        };
        if args.is_distinct && !matches!(args.order_bys, [by] if by.expr.eq(&args.exprs[0])) {
            return plan_err!("with DISTINCT it is ordered by the values themselves");
        }
        let order = args.order_bys.iter().map(|by| by.expr.data_type(args.schema)).collect::<Result<Vec<_>>>()?;
        Ok(Box::new(Nth {
            n,
            distinct: args.is_distinct,
            ignore_nulls: args.ignore_nulls,
            options: args.order_bys.iter().map(|by| by.options).collect(),
            fields: entry_fields(args.expr_fields[0].data_type().clone(), order.into_iter()),
            entries: VecDeque::new(),
            bytes: 0,
        }))
    }
}

fn entry_fields(value: DataType, order: impl Iterator<Item = DataType>) -> Fields {
    let order = order.enumerate().map(|(at, of)| Field::new(format!("o{at}"), of, true));
    std::iter::once(Field::new("value", value, true)).chain(order).collect()
}

/// A row that may be the one.
#[derive(Debug)]
struct Entry {
    value: ScalarValue,
    order: Vec<ScalarValue>,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.value.size() + self.order.iter().map(ScalarValue::size).sum::<usize>() + size_of::<Vec<ScalarValue>>()
    }
}

#[derive(Debug)]
struct Nth {
    n: i64,
    distinct: bool,
    ignore_nulls: bool,
    options: Vec<SortOptions>,
    /// Of an entry in the state.
    fields: Fields,
    /// Sorted.
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Nth {
    /// Takes rows: their values, and the columns that order them.
    fn take(&mut self, values: &ArrayRef, order: &[ArrayRef]) -> Result<()> {
        let keep = usize::try_from(self.n.unsigned_abs()).unwrap_or(usize::MAX);
        let nulls = if self.ignore_nulls { values.logical_nulls() } else { None };
        for row in 0..values.len() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            let by = order.iter().map(|column| ScalarValue::try_from_array(column, row));
            let by = by.collect::<Result<Vec<ScalarValue>>>()?;
            let full = self.entries.len() >= keep;
            if full && self.is_beyond(&by)? {
                continue;
            }
            let place = self.place_of(&by)?;
            let value = ScalarValue::try_from_array(values, row)?;
            // With DISTINCT the order is that of the values, so the one before is the same if there is one.
            if self.distinct && place.checked_sub(1).is_some_and(|before| self.entries[before].value == value) {
                continue;
            }
            let order = by.into_iter().map(ScalarValue::compacted).collect();
            let entry = Entry { value: value.compacted(), order };
            self.bytes += entry.bytes();
            self.entries.insert(place, entry);
            if full {
                let gone = if self.n > 0 { self.entries.pop_back() } else { self.entries.pop_front() };
                self.bytes -= gone.map_or(0, |gone| gone.bytes());
            }
        }
        Ok(())
    }

    /// Whether a row comes behind all that are kept where the first are, or before all where the last are.
    fn is_beyond(&self, by: &[ScalarValue]) -> Result<bool> {
        let edge = if self.n > 0 { self.entries.back() } else { self.entries.front() };
        let Some(edge) = edge else { return Ok(false) };
        let compared = compare_rows(by, &edge.order, &self.options)?;
        Ok(if self.n > 0 { compared != Ordering::Less } else { compared == Ordering::Less })
    }

    /// Behind all that are not greater.
    fn place_of(&self, by: &[ScalarValue]) -> Result<usize> {
        let (mut low, mut high) = (0, self.entries.len());
        while low < high {
            let middle = low.midpoint(high);
            match compare_rows(&self.entries[middle].order, by, &self.options)? {
                Ordering::Greater => high = middle,
                Ordering::Less | Ordering::Equal => low = middle + 1,
            }
        }
        Ok(low)
    }

    /// A column of the state.
    fn column<'a>(&self, at: usize, values: impl Iterator<Item = &'a ScalarValue>) -> Result<ArrayRef> {
        if self.entries.is_empty() {
            return Ok(new_empty_array(self.fields[at].data_type()));
        }
        ScalarValue::iter_to_array(values.cloned())
    }
}

impl Accumulator for Nth {
    fn update_batch(&mut self, args: &[ArrayRef]) -> Result<()> {
        match args {
            [values, _, order @ ..] => self.take(values, order),
            _ => exec_err!("nth_value has {} arguments, and wants two", args.len()),
        }
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for state in states {
            for entries in as_list_array(state)?.iter().flatten() {
                let entries = entries.as_struct();
                let [values, order @ ..] = entries.columns() else { continue };
                self.take(values, order)?;
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut columns = vec![self.column(0, self.entries.iter().map(|entry| &entry.value))?];
        for at in 0..self.options.len() {
            columns.push(self.column(at + 1, self.entries.iter().map(|entry| &entry.order[at]))?);
        }
        let entries = StructArray::try_new(self.fields.clone(), columns, None)?;
        Ok(vec![SingleRowListArrayBuilder::new(Arc::new(entries)).build_list_scalar()])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let (n, len) = (usize::try_from(self.n.unsigned_abs()).unwrap_or(usize::MAX), self.entries.len());
        let place = if self.n > 0 { Some(n - 1) } else { len.checked_sub(n) };
        match place.and_then(|place| self.entries.get(place)) {
            Some(entry) => Ok(entry.value.clone()),
            None => ScalarValue::try_from(self.fields[0].data_type()),
        }
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.bytes
    }
}

#[cfg(test)]
mod tests;
