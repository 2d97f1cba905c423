#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use millrace_plan::{KeyedOp, TopN};

use crate::{
    operator::Emitted,
    window::tests::{
        Random,
        aligned::{Row, batch_of, input, instant, random_row, random_rows},
        fleet::Fleet,
        for_seeds, lines, or_dash, plans, rounded,
    },
};

fn plan(partition_by: Vec<usize>, limit: usize) -> TopN {
    plans::top(&input(), &partition_by, 3, limit)
}

fn line(row: &Row, number: usize) -> String {
    let columns = [
        instant(row.time),
        or_dash(row.name.as_ref()),
        or_dash(row.number),
        or_dash(row.value),
        or_dash(row.double.map(rounded)),
        or_dash(row.counts),
        number.to_string(),
    ];
    columns.join(" | ")
}

/// The place of a row: descending values first, nulls last, then the other columns ascending with nulls first.
fn place(row: &Row) -> impl Ord {
    let value = row.value.map_or((1, 0), |value| (0, -value));
    let double = row.double.map(|double| (double * 8.0) as i64);
    (value, row.name.clone(), row.number, double, row.counts)
}

fn run(seed: u64, budget: usize) {
    let mut random = Random::new(seed);
    let partitioned = !random.one_in(3);
    let partition_by = if partitioned { vec![2] } else { vec![] };
    let limit = 1 + random.below(4) as usize;
    let plan = plan(partition_by.clone(), limit);
    let mut fleet = Fleet::new(KeyedOp::Top(plan), partition_by, 1, budget, 7);
    let mut windows: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
    let mut watermark = i64::MIN;
    let emit = |windows: &mut BTreeMap<i64, Vec<Row>>, until: i64| {
        let mut expected = Vec::new();
        while let Some(entry) = windows.first_entry().filter(|entry| *entry.key() < until) {
            let mut partitions: BTreeMap<Option<i32>, Vec<Row>> = BTreeMap::new();
            for row in entry.remove() {
                partitions.entry(row.number.filter(|_| partitioned)).or_default().push(row);
            }
            for rows in partitions.values_mut() {
                rows.sort_by(|a, b| place(a).cmp(&place(b)));
                expected.extend(rows.iter().take(limit).enumerate().map(|(at, row)| line(row, at + 1)));
            }
        }
        expected.sort();
        expected
    };
    let mut now = 0;
    for step in 0..40 {
        let mut out = Emitted::default();
        let mut expected = Vec::new();
        match random.below(8) {
            0..=4 => {
                let rows: Vec<Row> = (0..1 + random.below(50))
                    .map(|_| {
                        let time = now + random.between(0, 3) * 1000 + 999;
                        random_row(&mut random, time, 12)
                    })
                    .filter(|row| row.time >= watermark)
                    .collect();
                if !rows.is_empty() {
                    fleet.process(&batch_of(&rows), &mut out);
                }
                rows.into_iter().for_each(|row| windows.entry(row.time).or_default().push(row));
            }
            5 | 6 => {
                now += random.between(0, 3) * 1000;
                watermark = now;
                fleet.advance(watermark, &mut out);
                expected = emit(&mut windows, watermark);
            }
            _ if fleet.is_frozen() => drop(fleet.write()),
            _ => {
                fleet.freeze(&mut out);
                if random.one_in(2) {
                    let later: Vec<_> =
                        (0..4).map(|_| batch_of(&random_rows(&mut random, now..now + 500, 60))).collect();
                    let checkpoint = fleet.write_late(&later, watermark);
                    let tasks = if partitioned { 1 + random.below(3) as u32 } else { 1 };
                    fleet.restart(tasks, &checkpoint);
                } else if random.one_in(2) {
                    let _ = fleet.write();
                }
            }
        }
        assert_eq!(lines(&out.rows), expected, "step {step}");
    }
    if fleet.is_frozen() {
        let _ = fleet.write();
    }
    let mut out = Emitted::default();
    fleet.advance(i64::MAX, &mut out);
    assert_eq!(lines(&out.rows), emit(&mut windows, i64::MAX), "at the end");
}

#[test]
fn the_first_rows_of_each_window_agree_with_the_model() {
    for_seeds(20, |seed| run(seed, 64 << 20));
}

#[test]
fn windows_that_do_not_fit_the_budget_are_read_back() {
    for_seeds(10, |seed| run(seed, 4000));
}
