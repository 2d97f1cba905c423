//! Stateless steps, a batch at a time.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, UInt32Builder},
    compute::{filter_record_batch, take},
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
};
use datafusion_common::{DataFusionError, internal_datafusion_err};
use datafusion_physical_expr::PhysicalExpr;
use millrace_plan::Step;

use crate::{
    channel::column_bytes,
    failing::{Failing, evaluated},
};

/// How many rows, and about how many bytes beside the elements, an UNNEST makes at once: a row has its other columns as often as
/// its list has elements.
const UNNEST: Most = Most { rows: 1 << 16, bytes: 1 << 26 };

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// An expression has failed on a row.
    #[error(transparent)]
    Failing(#[from] Box<Failing>),
    /// Something else has.
    #[error(transparent)]
    Other(#[from] DataFusionError),
}

/// What is left to be made of a batch.
#[derive(Debug)]
pub struct Left {
    step: usize,
    batch: RecordBatch,
    from: Place,
}

#[derive(Clone, Copy, Debug)]
struct Most {
    rows: usize,
    bytes: usize,
}

/// A row, and an element of its lists.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    row: usize,
    element: usize,
}

/// Applies the steps in order. `None`: no row is left. Where an UNNEST makes more than it makes at once, the rest is put on
/// `left`, for [`go_on`].
pub fn apply(steps: &[Step], batch: RecordBatch, left: &mut Vec<Left>) -> Result<Option<RecordBatch>, StepError> {
    apply_from(0, steps, batch, left)
}

/// Makes more of what is left, the last first.
pub fn go_on(steps: &[Step], left: &mut Vec<Left>) -> Result<Option<RecordBatch>, StepError> {
    let Some(Left { step, batch, from }) = left.pop() else { return Ok(None) };
    let Step::Unnest { columns, schema } = &steps[step] else {
        return Err(internal_datafusion_err!("step {step} leaves nothing for later").into());
    };
    let rows = unnest_from(columns, schema, &batch, from, UNNEST)?;
    left.extend(rows.1.map(|from| Left { step, batch, from }));
    apply_from(step + 1, steps, rows.0, left)
}

fn apply_from(
    first: usize,
    steps: &[Step],
    batch: RecordBatch,
    left: &mut Vec<Left>,
) -> Result<Option<RecordBatch>, StepError> {
    let mut batch = batch;
    for (number, step) in steps.iter().enumerate().skip(first) {
        if batch.num_rows() == 0 {
            return Ok(None);
        }
        batch = match step {
            Step::Filter(predicate) => match keep(predicate, batch)? {
                Some(kept) => kept,
                None => return Ok(None),
            },
            Step::Project { exprs, schema } => project(exprs, schema, &batch)?,
            Step::Unnest { columns, schema } => {
                let (rows, rest) = unnest_from(columns, schema, &batch, Place::default(), UNNEST)?;
                left.extend(rest.map(|from| Left { step: number, batch, from }));
                rows
            }
        };
    }
    Ok((batch.num_rows() > 0).then_some(batch))
}

/// The rows for which `predicate` is true; `None` if there are none.
pub fn keep(predicate: &Arc<dyn PhysicalExpr>, batch: RecordBatch) -> Result<Option<RecordBatch>, StepError> {
    let mask = evaluated(predicate, None, &batch)?;
    let mask: &BooleanArray = mask
        .as_boolean_opt()
        .ok_or_else(|| internal_datafusion_err!("a filter is of type {}, not BOOLEAN", mask.data_type()))?;
    // Nulls keep a row out as false does.
    match mask.true_count() {
        0 => Ok(None),
        all if all == batch.num_rows() => Ok(Some(batch)),
        _ => Ok(Some(filter_record_batch(&batch, mask).map_err(DataFusionError::from)?)),
    }
}

fn project(exprs: &[Arc<dyn PhysicalExpr>], schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, StepError> {
    let named = exprs.iter().zip(schema.fields());
    let columns =
        named.map(|(expr, field)| evaluated(expr, Some(field.name()), batch)).collect::<Result<Vec<ArrayRef>, _>>()?;
    Ok(with_rows(schema, columns, batch.num_rows()).map_err(DataFusionError::from)?)
}

fn with_rows(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new_with_options(schema.clone(), columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
}

/// The rows of the elements from a place on, and where there is more.
fn unnest_from(
    lists: &[usize],
    schema: &SchemaRef,
    batch: &RecordBatch,
    from: Place,
    most: Most,
) -> Result<(RecordBatch, Option<Place>), DataFusionError> {
    let length_of = |list: &ArrayRef, row: usize| -> usize {
        if list.is_null(row) { 0 } else { list.as_list::<i32>().value_length(row) as usize }
    };
    for &list in lists {
        if batch.column(list).as_list_opt::<i32>().is_none() {
            return Err(internal_datafusion_err!("column {list} to unnest is no list"));
        }
    }
    let lengths: Vec<usize> = (from.row..batch.num_rows())
        .map(|row| lists.iter().map(|&list| length_of(batch.column(list), row)).max().unwrap_or(0))
        .collect();
    let others: Vec<&ArrayRef> =
        batch.columns().iter().enumerate().filter(|(column, _)| !lists.contains(column)).map(|it| it.1).collect();
    // The elements of each row that are made now: which row, from which, and how many.
    let (pieces, more) = pieces(&lengths, from, &others, most);
    let total = pieces.iter().map(|(.., count)| count).sum();
    let mut parents = Vec::with_capacity(total);
    for (row, _, count) in &pieces {
        parents.extend(std::iter::repeat_n(*row as u32, *count));
    }
    let parents = UInt32Array::from(parents);
    let columns = batch
        .columns()
        .iter()
        .enumerate()
        .map(|(column, values)| {
            if !lists.contains(&column) {
                return take(values, &parents, None);
            }
            let list = values.as_list::<i32>();
            let mut elements = UInt32Builder::with_capacity(total);
            for &(row, first, count) in &pieces {
                let start = list.value_offsets()[row] as usize;
                let own = length_of(values, row).clamp(first, first + count);
                (first..own).for_each(|element| elements.append_value((start + element) as u32));
                elements.append_nulls(first + count - own);
            }
            take(list.values(), &elements.finish(), None)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok((with_rows(schema, columns, total)?, more))
}

/// What is made at once of lists of these lengths, which begin with that of the row of `from`.
fn pieces(
    lengths: &[usize],
    from: Place,
    others: &[&ArrayRef],
    most: Most,
) -> (Vec<(usize, usize, usize)>, Option<Place>) {
    let whole = |at: usize| (from.row + at, if at == 0 { from.element } else { 0 });
    let total: usize = lengths.iter().sum();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let bytes: usize = others.iter().map(|values| column_bytes(values)).sum();
    if total <= most.rows && bytes.saturating_mul(longest) <= most.bytes {
        let pieces = lengths.iter().enumerate().map(|(at, length)| {
            let (row, first) = whole(at);
            (row, first, length - first)
        });
        return (pieces.collect(), None);
    }
    let mut pieces = Vec::new();
    let mut room = most;
    for (at, &length) in lengths.iter().enumerate() {
        let (row, first) = whole(at);
        let width: usize = others.iter().map(|values| width(values, row)).sum::<usize>().max(1);
        // One at least, whatever it takes.
        let fits = room.rows.min(room.bytes / width).max(usize::from(pieces.is_empty()));
        let count = (length - first).min(fits);
        if count > 0 {
            pieces.push((row, first, count));
        }
        if first + count < length {
            return (pieces, Some(Place { row, element: first + count }));
        }
        room = Most { rows: room.rows - count, bytes: room.bytes.saturating_sub(count * width) };
    }
    (pieces, None)
}

/// About how many bytes a value takes where it does not share them.
fn width(values: &ArrayRef, row: usize) -> usize {
    // A view begins with its length.
    let viewed = |views: &[u128]| views[row] as u32 as usize;
    match values.data_type() {
        DataType::Utf8 => values.as_string::<i32>().value_length(row) as usize,
        DataType::Utf8View => viewed(values.as_string_view().views()),
        DataType::BinaryView => viewed(values.as_binary_view().views()),
        kind => kind.primitive_width().unwrap_or_else(|| column_bytes(&values.slice(row, 1))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::{
        array::{Int64Array, ListArray, StringViewArray},
        compute::concat_batches,
        datatypes::{DataType, Field, Int64Type, Schema},
    };
    use datafusion_expr::Operator;
    use datafusion_physical_expr::expressions::{BinaryExpr, col, lit};

    use super::*;

    fn numbers(values: Vec<Option<i64>>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values))]).unwrap()
    }

    /// The rows of a batch that leaves nothing for later.
    fn all(steps: &[Step], batch: RecordBatch) -> Option<RecordBatch> {
        let mut left = Vec::new();
        let rows = apply(steps, batch, &mut left).unwrap();
        assert!(left.is_empty());
        rows
    }

    fn greater_than(batch: &RecordBatch, bound: i64) -> Step {
        let x = col("x", &batch.schema()).unwrap();
        Step::Filter(Arc::new(BinaryExpr::new(x, Operator::Gt, lit(bound))))
    }

    #[test]
    fn a_filter_keeps_the_rows_for_which_it_is_true_and_not_null() {
        let batch = numbers(vec![Some(1), None, Some(3)]);
        let kept = all(&[greater_than(&batch, 1)], batch.clone()).unwrap();
        assert_eq!(kept, numbers(vec![Some(3)]));
        assert_eq!(all(&[greater_than(&batch, 3)], batch.clone()), None);
        assert_eq!(all(&[], batch.clone()), Some(batch));
    }

    #[test]
    fn unnest_makes_a_row_of_each_element_and_none_of_empty_and_null_lists() {
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
            Some(vec![Some(1), None]),
            Some(vec![]),
            None,
            Some(vec![Some(4)]),
        ]);
        let item = Field::new_list_field(DataType::Int64, true);
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("list", DataType::List(Arc::new(item)), true),
        ]));
        let ids = Arc::new(Int64Array::from(vec![10, 20, 30, 40]));
        let batch = RecordBatch::try_new(schema, vec![ids, Arc::new(list)]).unwrap();
        let out = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("list", DataType::Int64, true),
        ]));
        let rows = all(&[Step::Unnest { columns: vec![1], schema: out }], batch).unwrap();
        assert_eq!(rows.column(0).as_primitive::<Int64Type>().values(), &[10, 10, 40]);
        let elements: Vec<_> = rows.column(1).as_primitive::<Int64Type>().iter().collect();
        assert_eq!(elements, [Some(1), None, Some(4)]);
    }

    #[test]
    fn an_unnest_of_more_than_is_made_at_once_goes_on_where_it_was_and_makes_the_same_rows() {
        let texts: Vec<String> = (0..9).map(|row| "x".repeat(row * row * 40)).collect();
        let lists = (0..9).map(|row| (row != 4).then(|| (0..row * 5).map(Some).collect::<Vec<Option<i64>>>()));
        let short = (0..9).map(|row| Some((0..row % 3).map(Some).collect::<Vec<Option<i64>>>()));
        let (lists, short) = (
            ListArray::from_iter_primitive::<Int64Type, _, _>(lists),
            ListArray::from_iter_primitive::<Int64Type, _, _>(short),
        );
        let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
        let schema = |item: &DataType| {
            let fields = [("text", &DataType::Utf8View), ("list", item), ("short", item)];
            Arc::new(Schema::new(fields.map(|(name, kind)| Field::new(name, kind.clone(), true)).to_vec()))
        };
        let columns: Vec<ArrayRef> =
            vec![Arc::new(StringViewArray::from_iter_values(texts)), Arc::new(lists), Arc::new(short)];
        let (batch, out) = (RecordBatch::try_new(schema(&list), columns).unwrap(), schema(&DataType::Int64));
        let none = Most { rows: usize::MAX, bytes: usize::MAX };
        let (whole, more) = unnest_from(&[1, 2], &out, &batch, Place::default(), none).unwrap();
        assert!(more.is_none());
        for most in [(1, 1), (7, usize::MAX), (1000, 5_000), (3, 3_000), (usize::MAX, 1)] {
            let most = Most { rows: most.0, bytes: most.1 };
            let (mut from, mut parts) = (Some(Place::default()), Vec::new());
            while let Some(place) = from {
                let (rows, more) = unnest_from(&[1, 2], &out, &batch, place, most).unwrap();
                let text: usize = rows.column(0).as_string_view().iter().map(|text| text.unwrap().len()).sum();
                assert!(rows.num_rows() <= most.rows && (text <= most.bytes || rows.num_rows() == 1), "{most:?}");
                parts.push(rows);
                from = more;
            }
            assert!(parts.len() > 1, "{most:?}");
            assert_eq!(concat_batches(&out, &parts).unwrap(), whole, "{most:?}");
        }
    }
}
