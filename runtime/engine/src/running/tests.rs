#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, time::Duration};

use millrace_plan::KeyedOp;

use crate::{
    operator::Emitted,
    window::tests::{
        Random,
        aligned::{Results, Row, batch_of, generic, generic_results, input, native, native_results, random_row},
        fleet::Fleet,
        for_seeds, or_dash, plans, text_of,
    },
};

fn run(seed: u64, budget: usize) {
    let mut random = Random::new(seed);
    let keys = [vec![1], vec![2], vec![1, 2], vec![]][seed as usize % 4].clone();
    let (aggregates, results): (_, Results) =
        if seed % 3 == 2 { (generic(&input()), generic_results) } else { (native(&input()), native_results) };
    let emit_every_ms = [0, 1000][random.below(2) as usize];
    let plan = plans::running(&input(), &keys, aggregates, emit_every_ms);
    let tasks = if keys.is_empty() { 1 } else { 1 + random.below(2) as u32 };
    let mut fleet = Fleet::new(KeyedOp::Running(plan), keys.clone(), tasks, budget, 9);
    let key_of = |row: &Row| -> Vec<String> {
        let part = |key: &usize| if *key == 1 { or_dash(row.name.as_ref()) } else { or_dash(row.number) };
        keys.iter().map(part).collect()
    };
    let mut rows_of: BTreeMap<Vec<String>, Vec<Row>> = BTreeMap::new();
    // What a reader of the changelog sees.
    let mut seen: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    // Both at the last barrier: a reader sees what was decided.
    let mut frozen = (rows_of.clone(), seen.clone());
    let mut spilled = 0;
    let follow = |seen: &mut BTreeMap<Vec<String>, Vec<String>>, out: &Emitted| {
        for batch in &out.rows {
            for row in 0..batch.num_rows() {
                let texts: Vec<String> = (1..batch.num_columns()).map(|at| text_of(batch, at, row)).collect();
                let (key, result) = (texts[1..=keys.len()].to_vec(), texts[1 + keys.len()..].to_vec());
                match &texts[0][..] {
                    "0" => assert_eq!(seen.insert(key, result), None, "an insert is of a new key"),
                    "1" => assert_eq!(seen.remove(&key), Some(result), "what is taken back was there"),
                    "2" => assert_eq!(seen.insert(key, result), None, "an update takes back first"),
                    other => panic!("operation {other}"),
                }
            }
        }
    };
    for step in 0..50 {
        let mut out = Emitted::default();
        match random.below(8) {
            0..=4 => {
                let rows: Vec<Row> = (0..1 + random.below(40)).map(|_| random_row(&mut random, 5, 60)).collect();
                fleet.process(&batch_of(&rows), &mut out);
                rows.into_iter().for_each(|row| rows_of.entry(key_of(&row)).or_default().push(row));
                assert!(emit_every_ms == 0 || out.rows.is_empty(), "nothing comes before its time");
            }
            5 => {
                fleet.clock.advance(Duration::from_millis(random.below(1500)));
                fleet.tick(&mut out);
            }
            _ => {
                spilled += fleet.stats().iter().map(|stats| stats.spilled_bytes).sum::<u64>();
                if !fleet.is_frozen() {
                    fleet.freeze(&mut out);
                    frozen = (rows_of.clone(), seen.clone());
                }
                // The writer takes its time: rows come meanwhile, and nothing is emitted.
                if random.one_in(2) {
                    let checkpoint = fleet.write();
                    if random.one_in(2) {
                        let tasks = if keys.is_empty() { 1 } else { 1 + random.below(3) as u32 };
                        fleet.restart(tasks, &checkpoint);
                        (rows_of, seen) = frozen.clone();
                    }
                    fleet.tick(&mut out);
                }
            }
        }
        follow(&mut seen, &out);
        if emit_every_ms == 0 && !fleet.is_frozen() {
            let expected: BTreeMap<_, _> =
                rows_of.iter().map(|(key, rows)| (key.clone(), results(&rows.iter().collect::<Vec<_>>()))).collect();
            assert_eq!(seen, expected, "step {step}");
        }
    }
    if fleet.is_frozen() {
        fleet.write();
    }
    let mut out = Emitted::default();
    fleet.advance(i64::MAX, &mut out);
    follow(&mut seen, &out);
    let expected: BTreeMap<_, _> =
        rows_of.iter().map(|(key, rows)| (key.clone(), results(&rows.iter().collect::<Vec<_>>()))).collect();
    assert_eq!(seen, expected, "at the end");
    assert!(
        budget > 1 << 20 || spilled > 0 || emit_every_ms > 0 || !keys.contains(&1),
        "a small budget makes it spill"
    );
}

#[test]
fn a_reader_of_the_changelog_sees_what_the_model_says() {
    for_seeds(20, |seed| run(seed, 64 << 20));
}

#[test]
fn keys_that_do_not_fit_the_budget_come_back() {
    for_seeds(12, |seed| run(seed, 12_000));
}
