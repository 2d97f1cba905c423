#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use millrace_plan::{Distinct, KeyedOp};

use crate::{
    operator::Emitted,
    window::tests::{
        Random,
        aligned::{Row, batch_of, input, random_rows},
        fleet::Fleet,
        for_seeds, lines,
    },
};

/// Rows in an order that `seed` gives, with times that are multiples of `step_ms`, against a model.
fn run(seed: u64, budget: usize, step_ms: i64) {
    let mut random = Random::new(seed);
    let within_ms = (1 + random.between(0, 3000)) * step_ms;
    let keys = [vec![1], vec![2], vec![1, 2]][seed as usize % 3].clone();
    let by_name = keys.contains(&1);
    let by_number = keys.contains(&2);
    let plan = Distinct { input: input(), keys: keys.clone(), within_ms, late: vec![0, 2] };
    let mut fleet = Fleet::new(KeyedOp::Distinct(plan), keys, 1 + random.below(2) as u32, budget, 9);
    let mut waiting: Vec<Row> = Vec::new();
    let mut last: BTreeMap<(Option<String>, Option<i32>), i64> = BTreeMap::new();
    let mut advance = |waiting: &mut Vec<Row>, watermark: i64| {
        waiting.sort_by_key(|row| row.time);
        let due = waiting.iter().take_while(|row| row.time < watermark).count();
        let mut expected = Vec::new();
        for row in waiting.drain(..due) {
            let key = (row.name.clone().filter(|_| by_name), row.number.filter(|_| by_number));
            if last.get(&key).is_none_or(|last| row.time - last >= within_ms) {
                last.insert(key, row.time);
                expected.push(row);
            }
        }
        if expected.is_empty() { Vec::new() } else { lines(&[batch_of(&expected)]) }
    };
    let (mut now, mut watermark) = (0, i64::MIN);
    let mut late = 0;
    for step in 0..50 {
        let mut out = Emitted::default();
        let (mut expected, mut too_late) = (Vec::new(), Vec::new());
        match random.below(8) {
            0..=3 => {
                let mut rows = random_rows(&mut random, now - 800..now + 2500, 15);
                rows.iter_mut().for_each(|row| row.time *= step_ms);
                fleet.process(&batch_of(&rows), &mut out);
                too_late = rows.iter().filter(|row| row.time < watermark).cloned().collect();
                late += too_late.len();
                waiting.extend(rows.into_iter().filter(|row| row.time >= watermark));
            }
            4..=6 => {
                now += random.between(0, 2500);
                watermark = watermark.max((now - 300) * step_ms);
                fleet.advance(watermark, &mut out);
                expected = advance(&mut waiting, watermark);
            }
            _ if fleet.is_frozen() => drop(fleet.write()),
            _ => {
                fleet.freeze(&mut out);
                if random.one_in(2) {
                    let later: Vec<_> =
                        (0..4).map(|_| batch_of(&random_rows(&mut random, now..now + 500, 60))).collect();
                    let checkpoint = fleet.write_late(&later, watermark + 1000);
                    fleet.restart(1 + random.below(3) as u32, &checkpoint);
                } else if random.one_in(2) {
                    let _ = fleet.write();
                }
            }
        }
        assert_eq!(lines(&out.rows), expected, "step {step}");
        let too_late = batch_of(&too_late).project(&[0, 2]).unwrap();
        assert_eq!(lines(&out.late), lines(&[too_late]), "late, step {step}");
    }
    if fleet.is_frozen() {
        let _ = fleet.write();
    }
    let mut out = Emitted::default();
    fleet.advance(i64::MAX, &mut out);
    assert_eq!(lines(&out.rows), advance(&mut waiting, i64::MAX), "at the end");
    assert!(late > 0 || seed > 0);
}

#[test]
fn repeats_within_the_span_are_dropped_as_in_the_model() {
    for_seeds(20, |seed| run(seed, 64 << 20, 1));
}

#[test]
fn rows_that_wait_and_do_not_fit_the_budget_are_read_back() {
    for_seeds(10, |seed| run(seed, 4000, 1));
}

#[test]
fn rows_that_are_far_apart_in_time_are_written_together_and_read_in_order() {
    for_seeds(20, |seed| run(seed, [4000, 16_000, 64 << 20][seed as usize % 3], 200));
}
