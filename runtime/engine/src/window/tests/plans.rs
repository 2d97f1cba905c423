//! Plans made by hand.

use std::sync::Arc;

use arrow::{
    compute::SortOptions,
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use datafusion_expr::AggregateUDF;
use datafusion_physical_expr::{
    PhysicalExpr,
    aggregate::AggregateExprBuilder,
    expressions::{Column, Literal},
};
use millrace_plan::{
    Aggregate, LateRows, NativeAggregate, RunningAggregate, TopN, WindowAggregate, WindowDef, WindowKind,
};

/// The type of event time.
pub(crate) fn millis() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// The type of a window's bounds.
pub(crate) fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// A schema that begins with event time.
pub(crate) fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    let time = Field::new("_event_time", millis(), false);
    let columns = columns.iter().map(|(name, of)| Field::new(*name, of.clone(), true));
    Arc::new(Schema::new(std::iter::once(time).chain(columns).collect::<Vec<_>>()))
}

/// An aggregate over a column, or over all rows.
pub(crate) fn aggregate(
    function: Arc<AggregateUDF>,
    input: &SchemaRef,
    arg: Option<usize>,
    filter: Option<usize>,
    native: Option<NativeAggregate>,
) -> Aggregate {
    let expr: Arc<dyn PhysicalExpr> = match arg {
        Some(arg) => Arc::new(Column::new(input.field(arg).name(), arg)),
        None => Arc::new(Literal::new(datafusion_common::ScalarValue::Int64(Some(1)))),
    };
    let call = AggregateExprBuilder::new(function, vec![expr]).schema(Arc::clone(input)).alias("a").build().unwrap();
    Aggregate { call: Arc::new(call), args: arg.into_iter().collect(), filter, native }
}

/// `count(DISTINCT column)`.
pub(crate) fn count_distinct(input: &SchemaRef, arg: usize) -> Aggregate {
    let column = Arc::new(Column::new(input.field(arg).name(), arg));
    let call = AggregateExprBuilder::new(datafusion_functions_aggregate::count::count_udaf(), vec![column]);
    let call = call.schema(Arc::clone(input)).alias("a").distinct().build().unwrap();
    assert!(!call.groups_accumulator_supported(), "this one stands for those that have to be adapted");
    Aggregate { call: Arc::new(call), args: vec![arg], filter: None, native: None }
}

/// A windowed GROUP BY.
pub(crate) fn window(
    kind: WindowKind,
    allowed_lateness_ms: i64,
    input: &SchemaRef,
    keys: &[usize],
    aggregates: Vec<Aggregate>,
) -> WindowAggregate {
    let mut output = vec![
        Field::new("_event_time", millis(), false),
        Field::new("window_start", micros(), false),
        Field::new("window_end", micros(), false),
        Field::new("window_pane", DataType::Int32, false),
    ];
    output.extend(keys.iter().map(|key| input.field(*key).clone()));
    output.extend(results(&aggregates));
    WindowAggregate {
        window: "w".into(),
        def: WindowDef { kind, allowed_lateness_ms, late_rows: LateRows::SideOutput },
        input: Arc::clone(input),
        keys: keys.to_vec(),
        aggregates,
        carried: Vec::new(),
        late: (0..input.fields().len()).collect(),
        output: Arc::new(Schema::new(output)),
    }
}

/// A GROUP BY without a window.
pub(crate) fn running(
    input: &SchemaRef,
    keys: &[usize],
    aggregates: Vec<Aggregate>,
    emit_every_ms: u64,
) -> RunningAggregate {
    let mut output = vec![Field::new("_event_time", millis(), false), Field::new("_op", DataType::UInt8, false)];
    output.extend(keys.iter().map(|key| input.field(*key).clone()));
    output.extend(results(&aggregates));
    RunningAggregate {
        input: Arc::clone(input),
        keys: keys.to_vec(),
        aggregates,
        emit_every_ms,
        output: Arc::new(Schema::new(output)),
    }
}

/// The columns with what aggregates give.
fn results(aggregates: &[Aggregate]) -> impl Iterator<Item = Field> {
    let results = aggregates.iter().enumerate();
    results.map(|(at, of)| Field::new(format!("a{at}"), of.call.field().data_type().clone(), true))
}

/// The first rows of each group, with their numbers, by a column from its greatest value.
pub(crate) fn top(input: &SchemaRef, partition_by: &[usize], by: usize, limit: usize) -> TopN {
    let mut output: Vec<Field> = input.fields().iter().map(|field| field.as_ref().clone()).collect();
    output.push(Field::new("row_number", DataType::UInt64, false));
    TopN {
        partition_by: partition_by.to_vec(),
        order_by: vec![(by, SortOptions { descending: true, nulls_first: false })],
        limit,
        row_number: true,
        output: Arc::new(Schema::new(output)),
        input: Arc::clone(input),
    }
}
