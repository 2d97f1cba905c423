//! Rolling windows against a model that looks at every pair of rows.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMillisecondArray},
    datatypes::{DataType, Field, Int64Type},
};
use datafusion_functions_aggregate::{array_agg::array_agg_udaf, median::median_udaf, sum::sum_udaf};
use millrace_plan::{KeyedOp, NativeAggregate, WindowKind};

use super::{
    Random,
    aligned::{Results, Row, batch_of, generic, generic_results, input, instant, native, native_results, random_rows},
    fleet::Fleet,
    for_seeds, lines, or_dash, plans, text_of,
};
use crate::{
    aggregate::Aggregates,
    operator::{Emitted, OperatorError},
    window::rolling::ranges::{Ranges, Totals},
};

fn run(seed: u64, budget: usize) {
    let mut random = Random::new(seed);
    let range = 1 + random.between(0, 3000);
    let lateness = [0, 1000][random.below(2) as usize];
    let keys = [vec![1], vec![2], vec![1, 2], vec![]][seed as usize % 4].clone();
    let (aggregates, results): (_, Results) =
        if seed % 3 == 2 { (generic(&input()), generic_results) } else { (native(&input()), native_results) };
    let mut plan = plans::window(WindowKind::Rolling { range_ms: range }, lateness, &input(), &keys, aggregates);
    plan.carried = vec![3];
    let mut fields: Vec<Field> = plan.output.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.insert(4 + keys.len(), input().field(3).clone());
    plan.output = arrow::datatypes::Schema::new(fields).into();
    let tasks = if keys.is_empty() { 1 } else { 1 + random.below(2) as u32 };
    let mut fleet = Fleet::new(KeyedOp::Window(plan), keys.clone(), tasks, budget, 9);
    let key_of = |row: &Row| -> Vec<String> {
        let part = |key: &usize| if *key == 1 { or_dash(row.name.as_ref()) } else { or_dash(row.number) };
        keys.iter().map(part).collect()
    };
    let line = |row: &Row, all: &[Row]| {
        let in_range =
            |other: &&Row| other.time > row.time - range && other.time <= row.time && key_of(other) == key_of(row);
        let rows: Vec<&Row> = all.iter().filter(in_range).collect();
        let mut columns = vec![instant(row.time), instant(row.time - range), instant(row.time), "0".into()];
        columns.extend(key_of(row));
        columns.push(or_dash(row.value));
        columns.extend(results(&rows));
        columns.join(" | ")
    };
    // All rows, those that wait for the watermark, those that came late and are allowed to.
    let (mut all, mut waiting, mut owed): (Vec<Row>, Vec<Row>, Vec<Row>) = Default::default();
    let (mut now, mut watermark, mut late, mut seen_late) = (0_i64, i64::MIN, 0, 0);
    for step in 0..40 {
        let mut out = Emitted::default();
        let mut expected = Vec::new();
        match random.below(8) {
            0..=3 => {
                let rows = random_rows(&mut random, now - 1500..now + 1500, 8);
                fleet.process(&batch_of(&rows), &mut out);
                for row in rows {
                    if row.time >= watermark {
                        waiting.push(row.clone());
                    } else if row.time >= watermark.saturating_sub(lateness) {
                        owed.push(row.clone());
                    } else {
                        late += 1;
                        continue;
                    }
                    all.push(row);
                }
            }
            4..=6 => {
                now += random.between(0, 2000);
                if now - 300 > watermark {
                    watermark = now - 300;
                    expected.extend(owed.drain(..).map(|row| line(&row, &all)));
                    let due = waiting.extract_if(.., |row| row.time < watermark).collect::<Vec<_>>();
                    expected.extend(due.iter().map(|row| line(row, &all)));
                }
                fleet.advance(watermark, &mut out);
            }
            _ if fleet.is_frozen() => drop(fleet.write()),
            _ => {
                fleet.freeze(&mut out);
                expected.extend(owed.drain(..).map(|row| line(&row, &all)));
                if random.one_in(2) {
                    let later: Vec<_> =
                        (0..4).map(|_| batch_of(&random_rows(&mut random, now..now + 500, 60))).collect();
                    let checkpoint = fleet.write_late(&later, watermark + 1000);
                    let tasks = if keys.is_empty() { 1 } else { 1 + random.below(3) as u32 };
                    fleet.restart(tasks, &checkpoint);
                } else if random.one_in(2) {
                    let _ = fleet.write();
                }
            }
        }
        expected.sort();
        seen_late += out.late.iter().map(|rows| rows.num_rows()).sum::<usize>();
        assert_eq!(lines(&out.rows), expected, "step {step}");
    }
    if fleet.is_frozen() {
        let _ = fleet.write();
    }
    let mut out = Emitted::default();
    fleet.advance(i64::MAX, &mut out);
    let mut expected: Vec<String> = owed.iter().chain(&waiting).map(|row| line(row, &all)).collect();
    expected.sort();
    assert_eq!(lines(&out.rows), expected, "at the end");
    assert_eq!(seen_late, late);
}

#[test]
fn rolling_windows_agree_with_the_model() {
    for_seeds(16, |seed| run(seed, 64 << 20));
}

#[test]
fn rolling_windows_that_do_not_fit_the_budget_are_read_back() {
    for_seeds(8, |seed| run(seed, 4000));
}

/// The aggregates over ranges, put together, and how many rows each part's ranges have.
fn totals(
    aggregates: &Aggregates,
    rows: &RecordBatch,
    ranges: &[Range<usize>],
    bytes_at_once: usize,
) -> Result<(Vec<Vec<ArrayRef>>, Vec<usize>), OperatorError> {
    let order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    let mut left = Ranges::new(aggregates, rows, &order, ranges.to_vec(), bytes_at_once)?;
    let (mut parts, mut lengths, mut given) = (Vec::new(), Vec::new(), 0);
    while let Some(Totals { ranges: part, results }) = left.next_part()? {
        assert_eq!(part.start, given);
        given = part.end;
        lengths.push(ranges[part].iter().map(|range| range.len()).sum());
        parts.push(results);
    }
    assert_eq!(given, ranges.len());
    Ok((parts, lengths))
}

#[test]
fn aggregates_over_ranges_are_those_of_their_rows() {
    for_seeds(40, |seed| {
        let mut random = Random::new(seed);
        let (aggregates, expected): (_, Results) =
            if seed % 2 == 1 { (generic(&input()), generic_results) } else { (native(&input()), native_results) };
        let aggregates = Aggregates::new(&aggregates, &input()).unwrap();
        let most = [30, 300, 900][seed as usize % 3];
        let rows: Vec<Row> = (0..most).flat_map(|_| random_rows(&mut random, 0..1000, 9)).take(most).collect();
        let ranges: Vec<Range<usize>> = (0..1 + random.below(60))
            .map(|_| {
                let from = random.below(rows.len() as u64) as usize;
                from..from + 1 + random.below((rows.len() - from) as u64) as usize
            })
            .collect();
        let bytes_at_once = [1, 1 << 14, 1 << 25][random.below(3) as usize];
        let (parts, _) = totals(&aggregates, &batch_of(&rows), &ranges, bytes_at_once).unwrap();
        let results = parts.iter().map(|columns| {
            RecordBatch::try_from_iter(
                columns.iter().enumerate().map(|(at, column)| (format!("c{at}"), Arc::clone(column))),
            )
        });
        let results: Vec<RecordBatch> = results.collect::<Result<_, _>>().unwrap();
        let found = results.iter().flat_map(|part| {
            (0..part.num_rows()).map(|row| (0..part.num_columns()).map(|at| text_of(part, at, row)).collect::<Vec<_>>())
        });
        let expected = ranges.iter().map(|range| expected(&rows[range.clone()].iter().collect::<Vec<_>>()));
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    });
}

/// Rows of a time and a number.
fn numbers(values: impl Iterator<Item = i64>) -> RecordBatch {
    let values: Int64Array = values.collect();
    let times = TimestampMillisecondArray::from_iter_values(0..values.len() as i64).with_timezone("UTC");
    RecordBatch::try_new(plans::schema(&[("v", DataType::Int64)]), vec![Arc::new(times), Arc::new(values)]).unwrap()
}

#[test]
fn states_that_grow_with_their_range_are_not_all_in_memory() {
    let input = plans::schema(&[("v", DataType::Int64)]);
    let rows = numbers(0..4000);
    let ranges: Vec<Range<usize>> = (0..4000).map(|row| 0..row + 1).collect();
    let bytes_at_once = 1 << 18;
    let growing = [
        plans::aggregate(median_udaf(), &input, Some(1), None, None),
        plans::aggregate(array_agg_udaf(), &input, Some(1), None, None),
    ];
    for aggregate in growing {
        let name = aggregate.call.name().to_owned();
        let aggregates = Aggregates::new(&[aggregate], &input).unwrap();
        let (_, lengths) = totals(&aggregates, &rows, &ranges, bytes_at_once).unwrap();
        // All of them are 64 MB of values.
        let most = lengths.iter().max().unwrap() * size_of::<i64>();
        assert!(most <= 2 * bytes_at_once, "{name}: {most} bytes of values at once");
    }
    // A sum is as long as its range is not.
    let sum = plans::aggregate(sum_udaf(), &input, Some(1), None, Some(NativeAggregate::Sum));
    let (_, lengths) = totals(&Aggregates::new(&[sum], &input).unwrap(), &rows, &ranges, bytes_at_once).unwrap();
    assert!(lengths.len() < 20, "{} parts", lengths.len());
}

#[test]
fn a_sum_that_no_range_has_does_not_overflow() {
    let input = plans::schema(&[("v", DataType::Int64)]);
    let sum = plans::aggregate(sum_udaf(), &input, Some(1), None, Some(NativeAggregate::Sum));
    let aggregates = Aggregates::new(&[sum], &input).unwrap();
    let rows = numbers((0..1000).map(|row| i64::MAX / 20 - 1000 + row));
    let ranges: Vec<Range<usize>> = (0..1000_usize).map(|row| row.saturating_sub(19)..row + 1).collect();
    let (parts, _) = totals(&aggregates, &rows, &ranges, 1 << 25).unwrap();
    let found: Vec<i64> = parts.iter().flat_map(|part| part[0].as_primitive::<Int64Type>().values().to_vec()).collect();
    let of = |range: &Range<usize>| range.clone().map(|row| i64::MAX / 20 - 1000 + row as i64).sum::<i64>();
    assert_eq!(found, ranges.iter().map(of).collect::<Vec<_>>());
}
