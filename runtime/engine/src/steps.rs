//! Stateless steps, a batch at a time.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, UInt32Builder},
    compute::{filter_record_batch, take},
    datatypes::SchemaRef,
    error::ArrowError,
};
use datafusion_common::{DataFusionError, internal_datafusion_err};
use datafusion_physical_expr::PhysicalExpr;
use millrace_plan::Step;

/// Applies the steps in order. `None`: no row is left.
pub fn apply(steps: &[Step], batch: RecordBatch) -> Result<Option<RecordBatch>, DataFusionError> {
    let mut batch = batch;
    for step in steps {
        if batch.num_rows() == 0 {
            return Ok(None);
        }
        batch = match step {
            Step::Filter(predicate) => match keep(predicate, batch)? {
                Some(kept) => kept,
                None => return Ok(None),
            },
            Step::Project { exprs, schema } => project(exprs, schema, &batch)?,
            Step::Unnest { columns, schema } => unnest(columns, schema, &batch)?,
        };
    }
    Ok((batch.num_rows() > 0).then_some(batch))
}

/// The rows for which `predicate` is true; `None` if there are none.
pub fn keep(predicate: &Arc<dyn PhysicalExpr>, batch: RecordBatch) -> Result<Option<RecordBatch>, DataFusionError> {
    let mask = predicate.evaluate(&batch)?.into_array(batch.num_rows())?;
    let mask: &BooleanArray = mask
        .as_boolean_opt()
        .ok_or_else(|| internal_datafusion_err!("a filter is of type {}, not BOOLEAN", mask.data_type()))?;
    // Nulls keep a row out as false does.
    match mask.true_count() {
        0 => Ok(None),
        all if all == batch.num_rows() => Ok(Some(batch)),
        _ => Ok(Some(filter_record_batch(&batch, mask)?)),
    }
}

fn project(
    exprs: &[Arc<dyn PhysicalExpr>],
    schema: &SchemaRef,
    batch: &RecordBatch,
) -> Result<RecordBatch, DataFusionError> {
    let rows = batch.num_rows();
    let columns =
        exprs.iter().map(|expr| expr.evaluate(batch)?.into_array(rows)).collect::<Result<Vec<ArrayRef>, _>>()?;
    Ok(with_rows(schema, columns, rows)?)
}

fn with_rows(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new_with_options(schema.clone(), columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
}

fn unnest(lists: &[usize], schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
    let length_of = |list: &ArrayRef, row: usize| -> usize {
        if list.is_null(row) { 0 } else { list.as_list::<i32>().value_length(row) as usize }
    };
    for &list in lists {
        if batch.column(list).as_list_opt::<i32>().is_none() {
            return Err(internal_datafusion_err!("column {list} to unnest is no list"));
        }
    }
    let lengths: Vec<usize> = (0..batch.num_rows())
        .map(|row| lists.iter().map(|&list| length_of(batch.column(list), row)).max().unwrap_or(0))
        .collect();
    let total = lengths.iter().sum();
    let mut parents = Vec::with_capacity(total);
    for (row, &length) in lengths.iter().enumerate() {
        parents.extend(std::iter::repeat_n(row as u32, length));
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
            for (row, &length) in lengths.iter().enumerate() {
                let first = list.value_offsets()[row] as u32;
                let own = length_of(values, row);
                (0..own).for_each(|element| elements.append_value(first + element as u32));
                elements.append_nulls(length - own);
            }
            take(list.values(), &elements.finish(), None)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(with_rows(schema, columns, total)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::{
        array::{Int64Array, ListArray},
        datatypes::{DataType, Field, Int64Type, Schema},
    };
    use datafusion_expr::Operator;
    use datafusion_physical_expr::expressions::{BinaryExpr, col, lit};

    use super::*;

    fn numbers(values: Vec<Option<i64>>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values))]).unwrap()
    }

    fn greater_than(batch: &RecordBatch, bound: i64) -> Step {
        let x = col("x", &batch.schema()).unwrap();
        Step::Filter(Arc::new(BinaryExpr::new(x, Operator::Gt, lit(bound))))
    }

    #[test]
    fn a_filter_keeps_the_rows_for_which_it_is_true_and_not_null() {
        let batch = numbers(vec![Some(1), None, Some(3)]);
        let kept = apply(&[greater_than(&batch, 1)], batch.clone()).unwrap().unwrap();
        assert_eq!(kept, numbers(vec![Some(3)]));
        assert_eq!(apply(&[greater_than(&batch, 3)], batch.clone()).unwrap(), None);
        assert_eq!(apply(&[], batch.clone()).unwrap(), Some(batch));
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
        let rows = apply(&[Step::Unnest { columns: vec![1], schema: out }], batch).unwrap().unwrap();
        assert_eq!(rows.column(0).as_primitive::<Int64Type>().values(), &[10, 10, 40]);
        let elements: Vec<_> = rows.column(1).as_primitive::<Int64Type>().iter().collect();
        assert_eq!(elements, [Some(1), None, Some(4)]);
    }
}
