//! What keyed operators cost: nanoseconds a row, how long a barrier stops the task, and what writing a checkpoint takes.
//!
//! `cargo bench -p millrace-engine --bench keyed [-- name]`. Rows are made beforehand; every case is run over the same
//! stretch of event time, at 100,000 rows a second of it, with a watermark a batch and a barrier every five million rows.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{sync::Arc, time::Instant};

use arrow::{
    array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray, TimestampMillisecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use datafusion_expr::AggregateUDF;
use datafusion_functions_aggregate::{average, count, min_max, stddev, sum};
use datafusion_physical_expr::{
    PhysicalExpr,
    aggregate::AggregateExprBuilder,
    expressions::{Column, Literal},
};
use millrace_engine::{
    operator::{Emitted, OperatorContext, Progress},
    window::{make_operator, states},
};
use millrace_plan::{
    Aggregate, KeyedOp, LateRows, NativeAggregate, RunningAggregate, WindowAggregate, WindowDef, WindowKind,
};
use millrace_state::{StoreResources, TaskStore};
use millrace_stream::{Epoch, EventTime, KeyGroupRange, ManualClock, Timestamp};

const BATCH_ROWS: usize = 8192;
const ROWS_PER_SECOND: usize = 100_000;
const ROWS_PER_EPOCH: usize = 5_000_000;

fn timestamp(unit: TimeUnit) -> DataType {
    DataType::Timestamp(unit, Some("UTC".into()))
}

fn input(key: DataType) -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("_event_time", timestamp(TimeUnit::Millisecond), false),
        Field::new("key", key, true),
        Field::new("number", DataType::Int64, true),
        Field::new("value", DataType::Float64, true),
    ]))
}

fn aggregate(
    function: Arc<AggregateUDF>,
    input: &SchemaRef,
    arg: Option<usize>,
    native: Option<NativeAggregate>,
) -> Aggregate {
    let expr: Arc<dyn PhysicalExpr> = match arg {
        Some(arg) => Arc::new(Column::new(input.field(arg).name(), arg)),
        None => Arc::new(Literal::new(datafusion_common::ScalarValue::Int64(Some(1)))),
    };
    let call = AggregateExprBuilder::new(function, vec![expr]).schema(Arc::clone(input)).alias("a").build().unwrap();
    Aggregate { call: Arc::new(call), args: arg.into_iter().collect(), filter: None, native }
}

fn window(kind: WindowKind, input: &SchemaRef, aggregates: Vec<Aggregate>) -> KeyedOp {
    let mut output = vec![
        Field::new("_event_time", timestamp(TimeUnit::Millisecond), false),
        Field::new("window_start", timestamp(TimeUnit::Microsecond), false),
        Field::new("window_end", timestamp(TimeUnit::Microsecond), false),
        Field::new("window_pane", DataType::Int32, false),
        input.field(1).clone(),
    ];
    let results = aggregates.iter().enumerate();
    output.extend(results.map(|(at, of)| Field::new(format!("a{at}"), of.call.field().data_type().clone(), true)));
    KeyedOp::Window(WindowAggregate {
        window: "w".into(),
        def: WindowDef { kind, allowed_lateness_ms: 0, late_rows: LateRows::Drop },
        input: Arc::clone(input),
        keys: vec![1],
        aggregates,
        carried: Vec::new(),
        late: Vec::new(),
        output: Arc::new(Schema::new(output)),
    })
}

fn running(input: &SchemaRef, aggregates: Vec<Aggregate>) -> KeyedOp {
    let mut output = vec![
        Field::new("_event_time", timestamp(TimeUnit::Millisecond), false),
        Field::new("_op", DataType::UInt8, false),
        input.field(1).clone(),
    ];
    let results = aggregates.iter().enumerate();
    output.extend(results.map(|(at, of)| Field::new(format!("a{at}"), of.call.field().data_type().clone(), true)));
    // The clock stands still, so nothing is emitted: what is measured is the taking of rows and the barrier.
    let (input, output) = (Arc::clone(input), Arc::new(Schema::new(output)));
    KeyedOp::Running(RunningAggregate { input, keys: vec![1], aggregates, emit_every_ms: 60_000, output })
}

/// Rows of keys in no order, with times that wander by half a second.
fn rows(input: &SchemaRef, count: usize, keys: u64, name: impl Fn(u64) -> String) -> Vec<RecordBatch> {
    let mut seed = 42_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let batches = (0..count / BATCH_ROWS).map(|batch| {
        let first = batch * BATCH_ROWS;
        let times = (first..first + BATCH_ROWS).map(|row| (row * 1000 / ROWS_PER_SECOND) as i64);
        let times: Vec<i64> = times.map(|time| time + (random() % 500) as i64).collect();
        let numbers: Vec<i64> = (0..BATCH_ROWS).map(|_| (random() % 10_000) as i64).collect();
        let ids: Vec<u64> = (0..BATCH_ROWS).map(|_| random() % keys).collect();
        let key: ArrayRef = match input.field(1).data_type() {
            DataType::Utf8View => Arc::new(ids.iter().map(|id| Some(name(*id))).collect::<StringViewArray>()),
            _ => Arc::new(ids.iter().map(|id| *id as i64).collect::<Int64Array>()),
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")),
            key,
            Arc::new(Float64Array::from(numbers.iter().map(|number| *number as f64 / 100.0).collect::<Vec<_>>())),
            Arc::new(Int64Array::from(numbers)),
        ];
        let columns = vec![columns[0].clone(), columns[1].clone(), columns[3].clone(), columns[2].clone()];
        RecordBatch::try_new(Arc::clone(input), columns).unwrap()
    });
    batches.collect()
}

fn cpu_ns() -> u64 {
    // The first field of schedstat is the time that the thread has run.
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

fn run(name: &str, op: KeyedOp, batches: &[RecordBatch], times: usize) {
    let folder = tempfile::TempDir::new().unwrap();
    let resources = StoreResources::new(8 << 20);
    let store = Arc::new(TaskStore::create(&folder.path().join("db"), states(&op), &resources).unwrap());
    let cx = |restored, store: &Arc<TaskStore>| OperatorContext {
        store: Arc::clone(store),
        key_groups: KeyGroupRange::ALL,
        restored,
        memory_budget_bytes: 256 << 20,
        batch_rows: BATCH_ROWS,
        clock: Arc::new(ManualClock::at(Timestamp(0))),
    };
    let mut operator = make_operator(&op, cx(Vec::new(), &store)).unwrap();
    let span_ms = (batches.len() * BATCH_ROWS * 1000 / ROWS_PER_SECOND) as i64;
    let (mut rows, mut results, mut epoch) = (0_usize, 0_usize, Epoch::FIRST);
    let (mut process_ns, mut advance_ns, mut write_ns) = (0_u64, 0_u64, 0_u64);
    let (mut longest_freeze, mut longest_advance, mut longest_process) = (0.0_f64, 0.0_f64, 0.0_f64);
    let mut thaw_at = usize::MAX;
    for round in 0..times {
        for batch in batches {
            let shifted = shift(batch, round as i64 * span_ms);
            let mut out = Emitted::default();
            let (before, clock) = (cpu_ns(), Instant::now());
            operator.process(shifted, &mut out).unwrap();
            longest_process = longest_process.max(clock.elapsed().as_secs_f64() * 1e3);
            process_ns += cpu_ns() - before;
            rows += BATCH_ROWS;
            let watermark = (rows * 1000 / ROWS_PER_SECOND) as i64 - 600;
            let (before, clock) = (cpu_ns(), Instant::now());
            while operator.advance(EventTime(watermark), &mut out).unwrap() == Progress::More {}
            longest_advance = longest_advance.max(clock.elapsed().as_secs_f64() * 1e3);
            advance_ns += cpu_ns() - before;
            results += out.rows.iter().map(RecordBatch::num_rows).sum::<usize>();
            if rows >= thaw_at {
                thaw_at = usize::MAX;
                operator.thawed().unwrap();
            }
            if rows % ROWS_PER_EPOCH < BATCH_ROWS {
                let clock = Instant::now();
                let frozen = operator.freeze(epoch, &mut out).unwrap();
                longest_freeze = longest_freeze.max(clock.elapsed().as_secs_f64() * 1e3);
                epoch = epoch.next();
                if let Some(write) = frozen.write {
                    let before = cpu_ns();
                    write(&store).unwrap();
                    write_ns += cpu_ns() - before;
                }
                thaw_at = rows + 20 * BATCH_ROWS;
            }
        }
    }
    let stats = operator.stats();
    let per_row = |ns: u64| ns as f64 / rows as f64;
    println!(
        "{name:<28} {:>6.1} ns/row  (take {:>5.1}, close {:>5.1}, write {:>5.1})  longest: barrier {longest_freeze:.2} ms, \
         close {longest_advance:.1} ms, take {longest_process:.1} ms; {} MB, {results} results",
        per_row(process_ns + advance_ns + write_ns),
        per_row(process_ns),
        per_row(advance_ns),
        per_row(write_ns),
        stats.memory_bytes >> 20,
    );
    let mut out = Emitted::default();
    if thaw_at < usize::MAX {
        operator.thawed().unwrap();
    }
    let frozen = operator.freeze(epoch, &mut out).unwrap();
    if let Some(write) = frozen.write {
        write(&store).unwrap();
    }
    let meta = frozen.meta;
    drop(operator);
    let clock = Instant::now();
    let operator = make_operator(&op, cx(vec![meta], &store)).unwrap();
    println!(
        "{:<28} restored {} entries in {:.0} ms",
        "",
        operator.stats().entries,
        clock.elapsed().as_secs_f64() * 1e3
    );
}

/// The same rows, later.
fn shift(batch: &RecordBatch, by_ms: i64) -> RecordBatch {
    use arrow::{array::AsArray, datatypes::TimestampMillisecondType};
    let times = batch.column(0).as_primitive::<TimestampMillisecondType>();
    let times = times.unary::<_, TimestampMillisecondType>(|time| time + by_ms).with_timezone("UTC");
    let mut columns = batch.columns().to_vec();
    columns[0] = Arc::new(times);
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str()));
    let strings = input(DataType::Utf8View);
    let numbers = input(DataType::Int64);
    let native = |input: &SchemaRef| {
        vec![
            aggregate(count::count_udaf(), input, None, Some(NativeAggregate::CountRows)),
            aggregate(sum::sum_udaf(), input, Some(2), Some(NativeAggregate::Sum)),
            aggregate(min_max::max_udaf(), input, Some(3), Some(NativeAggregate::Max)),
            aggregate(average::avg_udaf(), input, Some(3), Some(NativeAggregate::Avg)),
        ]
    };
    let generic = |input: &SchemaRef| {
        vec![
            aggregate(count::count_udaf(), input, Some(2), None),
            aggregate(stddev::stddev_udaf(), input, Some(3), None),
        ]
    };
    let tumbling = WindowKind::Tumbling { size_ms: 10_000, offset_ms: 0 };
    let hopping = |size_ms| WindowKind::Hopping { size_ms, slide_ms: 1000, offset_ms: 0 };
    let short = rows(&strings, 4_000_000, 10_000, |id| format!("sensor-{id}"));
    for (name, kind) in [
        ("tumbling 10s, 10k keys", tumbling),
        ("hopping 10s/1s, 10k keys", hopping(10_000)),
        ("hopping 60s/1s, 10k keys", hopping(60_000)),
    ] {
        if is_wanted(name) {
            run(name, window(kind, &strings, native(&strings)), &short, 5);
        }
    }
    if is_wanted("tumbling generic") {
        run("tumbling generic", window(tumbling, &strings, generic(&strings)), &short, 3);
    }
    if is_wanted("hopping generic") {
        run("hopping generic", window(hopping(10_000), &strings, generic(&strings)), &short, 3);
    }
    drop(short);
    if is_wanted("tumbling, long keys") {
        let long = rows(&strings, 2_000_000, 10_000, |id| format!("sensor-of-some-kind-{id}"));
        run("tumbling, long keys", window(tumbling, &strings, native(&strings)), &long, 5);
    }
    if is_wanted("tumbling, integer keys") {
        let batches = rows(&numbers, 2_000_000, 10_000, |_| String::new());
        run("tumbling, integer keys", window(tumbling, &numbers, native(&numbers)), &batches, 5);
    }
    if is_wanted("tumbling 10s, 1M keys") {
        let many = rows(&strings, 6_000_000, 1_000_000, |id| format!("sensor-{id}"));
        run("tumbling 10s, 1M keys", window(tumbling, &strings, native(&strings)), &many, 4);
        let day = WindowKind::Tumbling { size_ms: 86_400_000, offset_ms: 0 };
        run("tumbling 1d, 1M keys", window(day, &strings, native(&strings)), &many, 4);
    }
    if is_wanted("running, 1M keys") {
        let many = rows(&strings, 6_000_000, 1_000_000, |id| format!("sensor-{id}"));
        run("running, 1M keys", running(&strings, native(&strings)), &many, 2);
        run("running generic, 1M keys", running(&strings, generic(&strings)), &many, 2);
    }
    if is_wanted("session, 1M keys") {
        let many = rows(&strings, 6_000_000, 1_000_000, |id| format!("sensor-{id}"));
        let session = WindowKind::Session { gap_ms: 3_600_000 };
        run("session, 1M keys", window(session, &strings, native(&strings)), &many, 2);
    }
}
