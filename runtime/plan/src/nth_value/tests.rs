#![allow(clippy::unwrap_used)]

use arrow::{
    array::{Int64Array, StringArray},
    datatypes::Schema,
};
use datafusion_physical_expr::{
    PhysicalSortExpr,
    aggregate::{AggregateExprBuilder, AggregateFunctionExpr},
    expressions::{Column, Literal},
};

use super::*;

/// `nth_value(value, n ORDER BY a DESC, b)`, or `nth_value(DISTINCT value, n ORDER BY value)`.
fn call(n: i64, distinct: bool) -> AggregateFunctionExpr {
    let field = |name: &str, of: DataType| Field::new(name, of, true);
    let schema =
        Schema::new(vec![field("value", DataType::Utf8), field("a", DataType::Int64), field("b", DataType::Int64)]);
    let by = |name: &str, place: usize, descending: bool| {
        PhysicalSortExpr::new(Arc::new(Column::new(name, place)), SortOptions::new(descending, descending))
    };
    let order = if distinct { vec![by("value", 0, false)] } else { vec![by("a", 1, true), by("b", 2, false)] };
    let args: Vec<_> = vec![Arc::new(Column::new("value", 0)) as _, Arc::new(Literal::new(ScalarValue::from(n))) as _];
    AggregateExprBuilder::new(Arc::clone(nth_value()), args)
        .schema(Arc::new(schema))
        .alias("nth")
        .order_by(order)
        .with_distinct(distinct)
        .build()
        .unwrap()
}

type Row = (Option<i64>, i64);

/// Arguments as the engine hands them over: the values, `n`, the order.
fn args(rows: &[Row], distinct: bool) -> Vec<ArrayRef> {
    let values: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(a, b)| text(*a, *b, distinct))));
    let a: ArrayRef = Arc::new(Int64Array::from_iter(rows.iter().map(|(a, _)| *a)));
    let b: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, b)| *b)));
    let n: ArrayRef = Arc::new(Int64Array::from(vec![0; rows.len()]));
    if distinct { vec![Arc::clone(&values), n, values] } else { vec![values, n, a, b] }
}

fn text(a: Option<i64>, b: i64, distinct: bool) -> String {
    if distinct { format!("{b}") } else { format!("{a:?} {b}") }
}

/// What SQL says of rows that no two are alike of, or that have nothing but what they are ordered by.
fn expected(rows: &[Row], n: i64, distinct: bool) -> Option<String> {
    let mut rows = rows.to_vec();
    // Descending has NULLs first.
    rows.sort_by_key(|(a, b)| (a.map_or(i64::MIN, |a| -a), *b));
    let mut values: Vec<String> = rows.iter().map(|(a, b)| text(*a, *b, distinct)).collect();
    if distinct {
        values.sort();
        values.dedup();
    }
    let n_th = usize::try_from(n.unsigned_abs()).unwrap();
    let place = if n > 0 { Some(n_th - 1) } else { values.len().checked_sub(n_th) };
    place.and_then(|place| values.get(place).cloned())
}

fn found(accumulator: &mut dyn Accumulator) -> Option<String> {
    accumulator.evaluate().unwrap().try_as_str().unwrap().map(str::to_owned)
}

#[test]
fn rows_in_any_order_and_in_any_parts_give_the_same() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    for turn in 0..400 {
        let n = match below(9) as i64 - 4 {
            0 => 7,
            n => n,
        };
        let distinct = below(3) == 0;
        let call = call(n, distinct);
        let declared = call.state_fields().unwrap();
        let rows: Vec<Row> =
            (0..below(24)).map(|_| ((below(5) > 0).then(|| below(4) as i64), below(6) as i64)).collect();
        let mut whole = call.create_accumulator().unwrap();
        let mut rest = &rows[..];
        loop {
            // Parts that are empty too, of which some are merged once more on their way.
            let (part, others) = rest.split_at((below(9) as usize).min(rest.len()));
            rest = others;
            if below(3) == 0 {
                whole.update_batch(&args(part, distinct)).unwrap();
            } else {
                let mut own = call.create_accumulator().unwrap();
                own.update_batch(&args(part, distinct)).unwrap();
                let state: Vec<ScalarValue> = own.state().unwrap();
                assert_eq!(&state[0].data_type(), declared[0].data_type());
                let state: Vec<ArrayRef> = state.iter().map(|state| state.to_array().unwrap()).collect();
                assert!(
                    state[0].as_list::<i32>().values().len() as u64 <= n.unsigned_abs(),
                    "it keeps no more than it needs"
                );
                whole.merge_batch(&state).unwrap();
            }
            if rest.is_empty() {
                break;
            }
        }
        let wanted = expected(&rows, n, distinct);
        assert_eq!(found(whole.as_mut()), wanted, "turn {turn}: n {n}, distinct {distinct}, rows {rows:?}");
    }
}

#[test]
fn memory_is_given_back_with_the_rows_that_are_no_longer_needed() {
    let call = call(2, false);
    let mut nth = call.create_accumulator().unwrap();
    nth.update_batch(&args(&[(Some(1), 1), (Some(2), 2)], false)).unwrap();
    let before = nth.size();
    for number in 0..1000 {
        nth.update_batch(&args(&[(Some(3 + number % 5), number % 7)], false)).unwrap();
    }
    assert_eq!(nth.size(), before);
}
