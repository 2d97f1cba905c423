//! Tumbling and hopping windows against a model that keeps every row.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{
        ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray,
        TimestampMillisecondArray,
    },
    datatypes::{DataType, SchemaRef},
};
use datafusion_functions_aggregate::{average, count, min_max, stddev, sum};
use millrace_plan::{Aggregate, KeyedOp, NativeAggregate, WindowKind};

use super::{Random, fleet::Fleet, for_seeds, lines, or_dash, plans, rounded};
use crate::{aggregate::Aggregates, operator::Emitted, window::table::Table};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) time: i64,
    pub(crate) name: Option<String>,
    pub(crate) number: Option<i32>,
    pub(crate) value: Option<i64>,
    pub(crate) double: Option<f64>,
    pub(crate) counts: Option<bool>,
}

/// `[event time, name, number, value, double, counts]`.
pub(crate) fn input() -> SchemaRef {
    plans::schema(&[
        ("name", DataType::Utf8View),
        ("number", DataType::Int32),
        ("value", DataType::Int64),
        ("double", DataType::Float64),
        ("counts", DataType::Boolean),
    ])
}

pub(crate) fn batch_of(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.time)).collect::<TimestampMillisecondArray>().with_timezone("UTC")),
        Arc::new(rows.iter().map(|row| row.name.as_deref()).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|row| row.number).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|row| row.value).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.double).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.counts).collect::<BooleanArray>()),
    ];
    RecordBatch::try_new(input(), columns).unwrap()
}

/// Some rows of a stretch of time.
pub(crate) fn random_rows(random: &mut Random, times: std::ops::Range<i64>, keys: u64) -> Vec<Row> {
    (0..1 + random.below(40))
        .map(|_| {
            let time = random.between(times.start, times.end);
            random_row(random, time, keys)
        })
        .collect()
}

pub(crate) fn random_row(random: &mut Random, time: i64, keys: u64) -> Row {
    let key = random.below(keys);
    let name = match key % 11 {
        0 => None,
        1 => Some(String::new()),
        2..=5 => Some(format!("a-rather-long-name-{key}")),
        _ => Some(format!("k{key}")),
    };
    Row {
        time,
        name,
        number: (!key.is_multiple_of(7)).then_some((key / 3) as i32 - 2),
        value: (!random.one_in(6)).then(|| random.between(-1000, 1000)),
        double: (!random.one_in(6)).then(|| random.between(-64, 64) as f64 / 8.0),
        counts: (!random.one_in(8)).then(|| random.one_in(2)),
    }
}

/// Aggregates with a path of the engine's own.
pub(crate) fn native(input: &SchemaRef) -> Vec<Aggregate> {
    let of = |function, arg, filter, native| plans::aggregate(function, input, arg, filter, Some(native));
    vec![
        of(count::count_udaf(), None, None, NativeAggregate::CountRows),
        of(count::count_udaf(), Some(3), None, NativeAggregate::Count),
        of(sum::sum_udaf(), Some(3), None, NativeAggregate::Sum),
        of(min_max::min_udaf(), Some(3), None, NativeAggregate::Min),
        of(min_max::max_udaf(), Some(4), None, NativeAggregate::Max),
        of(average::avg_udaf(), Some(4), None, NativeAggregate::Avg),
        of(sum::sum_udaf(), Some(4), Some(5), NativeAggregate::Sum),
        of(count::count_udaf(), None, Some(5), NativeAggregate::CountRows),
    ]
}

/// Aggregates of DataFusion's: grouped ones, and ones that have to be adapted.
pub(crate) fn generic(input: &SchemaRef) -> Vec<Aggregate> {
    let of = |function, arg, filter| plans::aggregate(function, input, arg, filter, None);
    vec![
        of(stddev::stddev_pop_udaf(), Some(4), None),
        of(min_max::max_udaf(), Some(1), Some(5)),
        of(sum::sum_udaf(), Some(3), None),
        of(datafusion_functions_aggregate::median::median_udaf(), Some(3), None),
        plans::count_distinct(input, 1),
    ]
}

/// The results that [`native`] should give.
pub(crate) fn native_results(rows: &[&Row]) -> Vec<String> {
    let values: Vec<i64> = rows.iter().filter_map(|row| row.value).collect();
    let doubles: Vec<f64> = rows.iter().filter_map(|row| row.double).collect();
    let counted: Vec<&&Row> = rows.iter().filter(|row| row.counts == Some(true)).collect();
    let filtered: Vec<f64> = counted.iter().filter_map(|row| row.double).collect();
    let some = |some: bool, value: f64| or_dash(some.then(|| rounded(value)));
    vec![
        rows.len().to_string(),
        values.len().to_string(),
        or_dash((!values.is_empty()).then(|| values.iter().sum::<i64>())),
        or_dash(values.iter().min()),
        or_dash(doubles.iter().copied().reduce(f64::max).map(rounded)),
        some(!doubles.is_empty(), doubles.iter().sum::<f64>() / doubles.len() as f64),
        some(!filtered.is_empty(), filtered.iter().sum::<f64>()),
        counted.len().to_string(),
    ]
}

/// The results that [`generic`] should give.
pub(crate) fn generic_results(rows: &[&Row]) -> Vec<String> {
    let mut values: Vec<i64> = rows.iter().filter_map(|row| row.value).collect();
    let doubles: Vec<f64> = rows.iter().filter_map(|row| row.double).collect();
    let mean = doubles.iter().sum::<f64>() / doubles.len() as f64;
    let variance = doubles.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / doubles.len() as f64;
    let names = rows.iter().filter(|row| row.counts == Some(true)).filter_map(|row| row.name.clone());
    values.sort_unstable();
    let median = match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[len / 2]),
        len => Some((values[len / 2 - 1] + values[len / 2]) / 2),
    };
    vec![
        or_dash((!doubles.is_empty()).then(|| rounded(variance.sqrt()))),
        or_dash(names.max()),
        or_dash((!values.is_empty()).then(|| values.iter().sum::<i64>())),
        or_dash(median),
        rows.iter().filter_map(|row| row.name.as_ref()).collect::<BTreeSet<_>>().len().to_string(),
    ]
}

pub(crate) type Results = fn(&[&Row]) -> Vec<String>;

/// A time as the test's rows print it.
pub(crate) fn instant(ms: i64) -> String {
    use arrow::{
        array::Array,
        util::display::{ArrayFormatter, FormatOptions},
    };
    let array = TimestampMillisecondArray::from(vec![ms]).with_timezone("UTC");
    ArrayFormatter::try_new(&array as &dyn Array, &FormatOptions::default()).unwrap().value(0).to_string()
}

/// The rows of a window and key, how often its result was corrected, whether it has changed since it was emitted.
type Window = (Vec<Row>, i32, bool);

/// What windows of a size and slide should do.
struct Model {
    size: i64,
    slide: i64,
    offset: i64,
    lateness: i64,
    keys: Vec<usize>,
    results: Results,
    watermark: i64,
    windows: BTreeMap<(i64, Vec<String>), Window>,
    emitted: Vec<String>,
    late: u64,
}

impl Model {
    fn key_of(&self, row: &Row) -> Vec<String> {
        let part = |key: &usize| match key {
            1 => or_dash(row.name.as_ref()),
            _ => or_dash(row.number),
        };
        self.keys.iter().map(part).collect()
    }

    fn process(&mut self, rows: &[Row]) {
        for row in rows {
            let last_start = row.time - (row.time - self.offset).rem_euclid(self.slide);
            let mut ends = Vec::new();
            let mut start = last_start;
            while start + self.size > row.time {
                ends.push(start + self.size);
                start -= self.slide;
            }
            if ends.is_empty() {
                continue;
            }
            let open: Vec<i64> = ends.into_iter().filter(|end| end + self.lateness > self.watermark).collect();
            if open.is_empty() {
                self.late += 1;
            }
            for end in open {
                let key = (end, self.key_of(row));
                let window = self.windows.entry(key).or_insert((Vec::new(), 0, false));
                window.0.push(row.clone());
                window.2 = end <= self.watermark;
            }
        }
    }

    fn emit(&mut self, correct: bool, until: i64) {
        let (size, results, watermark) = (self.size, self.results, self.watermark);
        for ((end, key), (rows, pane, changed)) in &mut self.windows {
            let due = if correct { *changed } else { *end <= until && *end > watermark };
            if !due {
                continue;
            }
            *changed = false;
            if correct {
                *pane += 1;
            }
            let rows: Vec<&Row> = rows.iter().collect();
            let mut columns = vec![instant(end - 1), instant(end - size), instant(*end), pane.to_string()];
            columns.extend(key.iter().cloned());
            columns.extend(results(&rows));
            self.emitted.push(columns.join(" | "));
        }
    }

    fn advance(&mut self, watermark: i64) {
        if watermark <= self.watermark {
            return;
        }
        self.emit(true, 0);
        self.emit(false, watermark);
        self.watermark = watermark;
        self.windows.retain(|(end, _), _| end.saturating_add(self.lateness) > watermark);
    }

    fn freeze(&mut self) {
        self.emit(true, 0);
    }

    fn take(&mut self) -> Vec<String> {
        self.emitted.sort();
        std::mem::take(&mut self.emitted)
    }
}

struct Case {
    kind: WindowKind,
    lateness: i64,
    keys: Vec<usize>,
    generic: bool,
    budget: usize,
    distinct_keys: u64,
}

fn run(seed: u64, case: Case) {
    let mut random = Random::new(seed);
    let (size, slide, offset) = match case.kind {
        WindowKind::Tumbling { size_ms, offset_ms } => (size_ms, size_ms, offset_ms),
        WindowKind::Hopping { size_ms, slide_ms, offset_ms } => (size_ms, slide_ms, offset_ms),
        _ => unreachable!(),
    };
    let input = input();
    let (aggregates, results): (_, Results) =
        if case.generic { (generic(&input), generic_results) } else { (native(&input), native_results) };
    let op = KeyedOp::Window(plans::window(case.kind, case.lateness, &input, &case.keys, aggregates));
    let tasks = if case.keys.is_empty() { 1 } else { 1 + random.below(2) as u32 };
    let mut fleet = Fleet::new(op, case.keys.clone(), tasks, case.budget, 1 + random.below(50) as usize);
    let mut model = Model {
        size,
        slide,
        offset,
        lateness: case.lateness,
        keys: case.keys.clone(),
        results,
        watermark: i64::MIN,
        windows: BTreeMap::new(),
        emitted: Vec::new(),
        late: 0,
    };
    let mut now = 0_i64;
    let mut late = 0;
    let mut spilled = 0;
    for step in 0..60 {
        let mut out = Emitted::default();
        match random.below(10) {
            0..=4 => {
                let rows: Vec<Row> = (0..random.below(60))
                    .map(|_| {
                        let time = match random.below(400) {
                            0 => 253_402_300_799_000,
                            1 => -62_135_596_800_000,
                            2..=60 => now - random.between(0, 4 * size),
                            _ => now + random.between(-size, size),
                        };
                        random_row(&mut random, time, case.distinct_keys)
                    })
                    .collect();
                if !rows.is_empty() {
                    fleet.process(&batch_of(&rows), &mut out);
                }
                model.process(&rows);
            }
            5..=7 => {
                now += if random.one_in(20) { random.between(0, 20 * size) } else { random.between(0, size) };
                let watermark = now - random.between(0, size / 2 + 1);
                fleet.advance(watermark, &mut out);
                model.advance(watermark);
            }
            8 if !fleet.is_frozen() => {
                fleet.freeze(&mut out);
                model.freeze();
            }
            9 if fleet.is_frozen() => {
                let _ = fleet.write();
            }
            _ => {
                // Stop for good, and go on with as many tasks, or others.
                if fleet.is_frozen() {
                    let _ = fleet.write();
                }
                fleet.freeze(&mut out);
                model.freeze();
                let later: Vec<_> = (0..4).map(|_| batch_of(&random_rows(&mut random, now..now + 500, 60))).collect();
                let checkpoint = fleet.write_late(&later, now);
                let tasks = if case.keys.is_empty() { 1 } else { 1 + random.below(3) as u32 };
                spilled += fleet.stats().iter().map(|stats| stats.spilled_bytes).sum::<u64>();
                fleet.restart(tasks, &checkpoint);
            }
        }
        late += out.late.iter().map(|rows| rows.num_rows() as u64).sum::<u64>();
        assert_eq!(lines(&out.rows), model.take(), "step {step}");
        assert_eq!(late, model.late, "late rows at step {step}");
    }
    let mut out = Emitted::default();
    fleet.advance(i64::MAX, &mut out);
    model.advance(i64::MAX);
    assert_eq!(lines(&out.rows), model.take(), "at the end");
    spilled += fleet.stats().iter().map(|stats| stats.spilled_bytes).sum::<u64>();
    assert!(case.budget > 1_000_000 || spilled > 0 || case.budget == 0, "a small budget makes it spill");
    // There might have been more, late rows too, until event time goes further.
    out = Emitted::default();
    fleet.advance(LONG_AFTER_MS, &mut out);
    assert!(out.rows.is_empty(), "after the end");
    assert_eq!(fleet.stats().iter().map(|stats| stats.entries).sum::<u64>(), 0, "nothing is left");
}

const AMPLE: usize = 64 << 20;
/// After all rows, windows, and what is allowed to be late.
pub(super) const LONG_AFTER_MS: i64 = i64::MAX / 2;

fn tumbling(size_ms: i64) -> WindowKind {
    WindowKind::Tumbling { size_ms, offset_ms: 3 }
}

fn hopping(size_ms: i64, slide_ms: i64) -> WindowKind {
    WindowKind::Hopping { size_ms, slide_ms, offset_ms: -7 }
}

#[test]
fn tumbling_windows_agree_with_the_model() {
    for_seeds(16, |seed| {
        let keys = [vec![1], vec![2], vec![1, 2], vec![]][seed as usize % 4].clone();
        let case = Case { kind: tumbling(1000), lateness: 0, keys, generic: false, budget: AMPLE, distinct_keys: 30 };
        run(seed, case);
    });
}

#[test]
fn hopping_windows_agree_with_the_model() {
    for_seeds(16, |seed| {
        let kind = [hopping(1000, 100), hopping(1000, 300), hopping(500, 800)][seed as usize % 3];
        let keys = [vec![1], vec![2], vec![1, 2], vec![]][seed as usize % 4].clone();
        run(seed, Case { kind, lateness: 0, keys, generic: false, budget: AMPLE, distinct_keys: 30 });
    });
}

#[test]
fn any_aggregate_of_datafusions_agrees_with_the_model() {
    for_seeds(12, |seed| {
        let kind = [tumbling(1000), hopping(1000, 250)][seed as usize % 2];
        let lateness = [0, 700][seed as usize / 2 % 2];
        run(seed, Case { kind, lateness, keys: vec![1], generic: true, budget: AMPLE, distinct_keys: 20 });
    });
}

#[test]
fn rows_within_the_allowed_lateness_correct_their_windows() {
    for_seeds(16, |seed| {
        let kind = [tumbling(1000), hopping(1000, 200), hopping(900, 400)][seed as usize % 3];
        let keys = [vec![1], vec![2], vec![1, 2], vec![]][seed as usize % 4].clone();
        run(seed, Case { kind, lateness: 1500, keys, generic: false, budget: AMPLE, distinct_keys: 12 });
    });
}

#[test]
fn windows_that_do_not_fit_the_budget_are_merged_from_the_store() {
    for_seeds(12, |seed| {
        let kind = [tumbling(1000), hopping(1000, 200)][seed as usize % 2];
        let lateness = [0, 1500][seed as usize / 2 % 2];
        let keys = [vec![1], vec![1, 2]][seed as usize % 2].clone();
        run(seed, Case { kind, lateness, keys, generic: seed % 5 == 4, budget: 3000, distinct_keys: 200 });
    });
}

#[test]
fn states_are_the_same_for_all_who_ask_for_them_at_once() {
    let input = input();
    for (kind, aggregates) in [("native", native(&input)), ("generic", generic(&input))] {
        let aggregates = Aggregates::new(&aggregates, &input).unwrap();
        let rows = batch_of(&random_rows(&mut Random::new(1), 0..100, 50));
        let groups: Vec<u32> = (0..rows.num_rows() as u32).collect();
        let mut table = Table::new(&aggregates, groups.len(), &mut Vec::new()).unwrap();
        table.update(&rows, &groups, groups.len(), &mut Vec::new()).unwrap();
        let part = table.into_part(&mut Vec::new());
        assert!(part.memory_bytes() > 0, "{kind}: before they are columns");
        let asked = || part.state().unwrap().as_ptr() as usize;
        let seen: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(asked)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(seen.iter().all(|columns| *columns == seen[0]), "{kind}: one set of columns");
        assert!(part.state().unwrap().iter().all(|column| column.len() == groups.len()), "{kind}");
        assert!(part.memory_bytes() > 0, "{kind}: as columns");
    }
}

#[test]
fn an_operator_is_full_when_a_checkpoint_keeps_far_more_than_the_budget_in_memory() {
    let input = input();
    let kind = WindowKind::Tumbling { size_ms: 1_000_000, offset_ms: 0 };
    let op = KeyedOp::Window(plans::window(kind, 0, &input, &[1], native(&input)));
    let mut fleet = Fleet::new(op, vec![1], 1, 20_000, 50);
    let mut random = Random::new(2);
    let mut out = Emitted::default();
    let mut process =
        |fleet: &mut Fleet| fleet.process(&batch_of(&random_rows(&mut random, 0..500_000, 5000)), &mut out);
    (0..20).for_each(|_| process(&mut fleet));
    assert!(!fleet.is_full(), "it spills");
    fleet.freeze(&mut Emitted::default());
    (0..200).for_each(|_| process(&mut fleet));
    assert!(fleet.is_full(), "nothing can be spilled");
    let _ = fleet.write();
    process(&mut fleet);
    assert!(!fleet.is_full(), "it spills again");
}
