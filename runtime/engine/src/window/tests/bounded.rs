//! Every keyed operator with a state many times larger than its memory budget: what comes out is what a task with memory
//! enough gives, and what is held stays within the budget.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use millrace_plan::{Distinct, KeyedOp, WindowKind};

use super::{
    Random,
    aligned::{Row, batch_of, generic, input, native},
    fleet::Fleet,
    for_seeds, lines, plans, text_of,
};
use crate::operator::{EMITTED_AT_ONCE, Emitted};

const BUDGET_BYTES: usize = 256 * 1024;
/// What a task may hold beyond its budget: a batch, what a key group has, and tables that have just grown.
const MOST_BYTES: u64 = 3 * BUDGET_BYTES as u64;
const STEPS: i64 = 60;
const ROWS: i64 = 2_000;
const BATCH_ROWS: usize = 500;
const STEP_MS: i64 = 1_000;

struct Case {
    op: KeyedOp,
    keys: Vec<usize>,
    /// How many keys there are.
    distinct: u64,
    /// Event times are multiples of this.
    grain_ms: i64,
    /// How far the watermark is behind the latest row.
    behind_ms: i64,
    /// How many times the budget a task with memory enough holds at least.
    times: u64,
}

fn row(random: &mut Random, time: i64, distinct: u64) -> Row {
    let key = random.below(distinct);
    Row {
        time,
        name: Some(format!("a-rather-long-name-{key}")),
        number: Some(key as i32),
        value: Some(random.between(-1000, 1000)),
        double: Some(random.between(-64, 64) as f64 / 8.0),
        counts: Some(random.one_in(2)),
    }
}

/// What is left of a changelog; other rows as they are.
fn seen(changelog: bool, rows: &[RecordBatch], keys: usize) -> Vec<String> {
    if !changelog {
        return lines(rows);
    }
    let mut seen: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for batch in rows {
        for row in 0..batch.num_rows() {
            let texts: Vec<String> = (1..batch.num_columns()).map(|at| text_of(batch, at, row)).collect();
            let (key, result) = (texts[1..=keys].to_vec(), texts[1 + keys..].to_vec());
            match &texts[0][..] {
                "1" => assert_eq!(seen.remove(&key), Some(result), "what is taken back was there"),
                _ => assert_eq!(seen.insert(key, result), None, "what was there is taken back first"),
            }
        }
    }
    seen.into_iter().map(|(key, result)| format!("{} | {}", key.join(" | "), result.join(" | "))).collect()
}

fn run(seed: u64, case: impl Fn() -> Case) {
    let Case { op, keys, distinct, grain_ms, behind_ms, times } = case();
    let is_running = matches!(op, KeyedOp::Running(_));
    let mut random = Random::new(seed);
    let mut small = Fleet::new(op.clone(), keys.clone(), 1, BUDGET_BYTES, BATCH_ROWS);
    let mut large = Fleet::new(op, keys.clone(), 1, 1 << 30, BATCH_ROWS);
    let (mut of_small, mut of_large) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        let now = step * STEP_MS;
        let rows: Vec<Row> =
            (0..ROWS).map(|at| row(&mut random, now + at * STEP_MS / ROWS / grain_ms * grain_ms, distinct)).collect();
        let batch = batch_of(&rows);
        for (fleet, of) in [(&mut small, &mut of_small), (&mut large, &mut of_large)] {
            let mut out = Emitted::default();
            for from in (0..batch.num_rows()).step_by(BATCH_ROWS) {
                fleet.process(&batch.slice(from, BATCH_ROWS.min(batch.num_rows() - from)), &mut out);
            }
            fleet.advance(now - behind_ms, &mut out);
            fleet.clock.advance(std::time::Duration::from_millis(700));
            fleet.tick(&mut out);
            of.append(&mut out.rows);
            assert!(out.late.is_empty());
        }
        if random.one_in(8) {
            let mut out = Emitted::default();
            small.freeze(&mut out);
            of_small.append(&mut out.rows);
            // What comes meanwhile is undone by the restart.
            let later = row(&mut random, now + STEP_MS, distinct);
            let checkpoint = small.write_late(&[batch_of(&[later])], now - behind_ms + STEP_MS / 2);
            small.restart(1, &checkpoint);
        } else if random.one_in(4) {
            let mut out = Emitted::default();
            small.freeze(&mut out);
            of_small.append(&mut out.rows);
            let _ = small.write();
        }
    }
    for (fleet, of) in [(&mut small, &mut of_small), (&mut large, &mut of_large)] {
        let mut out = Emitted::default();
        fleet.advance(i64::MAX, &mut out);
        of.append(&mut out.rows);
    }
    let (of_small, of_large) = (seen(is_running, &of_small, keys.len()), seen(is_running, &of_large, keys.len()));
    assert_eq!(of_small.len(), of_large.len());
    assert!(of_small == of_large, "the same rows come out");
    let (held, would) = (small.most_memory_bytes, large.most_memory_bytes);
    println!("seed {seed}: {held} bytes held, where {would} would be without a budget");
    assert!(would >= times * BUDGET_BYTES as u64, "{would} bytes are not {times} times the budget");
    assert!(held <= MOST_BYTES, "{held} bytes are held over a budget of {BUDGET_BYTES}");
    assert!(small.most_emitted <= EMITTED_AT_ONCE + EMITTED_AT_ONCE / 4, "{} rows at once", small.most_emitted);
}

fn window(kind: WindowKind, aggregates: bool, behind_ms: i64, times: u64) -> Case {
    let aggregates = if aggregates { native(&input()) } else { generic(&input())[..3].to_vec() };
    let op = KeyedOp::Window(plans::window(kind, 0, &input(), &[1], aggregates));
    Case { op, keys: vec![1], distinct: 1_000_000, grain_ms: 1, behind_ms, times }
}

#[test]
fn tumbling_windows_keep_to_the_budget() {
    for_seeds(1, |seed| {
        run(seed, || window(WindowKind::Tumbling { size_ms: 1_000_000, offset_ms: 0 }, true, 0, 20));
    });
}

#[test]
fn hopping_windows_keep_to_the_budget() {
    for_seeds(1, |seed| {
        let kind = WindowKind::Hopping { size_ms: 16_000, slide_ms: 2_000, offset_ms: 0 };
        run(seed, || window(kind, true, 0, 10));
    });
}

#[test]
fn sessions_keep_to_the_budget() {
    for_seeds(1, |seed| run(seed, || window(WindowKind::Session { gap_ms: 1_000_000 }, true, 0, 20)));
    // Some end, and some come back, all along.
    for_seeds(1, |seed| {
        run(seed, || {
            let case = window(WindowKind::Session { gap_ms: 20_000 }, false, 0, 10);
            Case { distinct: 100_000, ..case }
        });
    });
}

#[test]
fn rolling_windows_keep_to_the_budget() {
    for_seeds(1, |seed| {
        run(seed, || {
            let case = window(WindowKind::Rolling { range_ms: 30_000 }, true, 0, 10);
            Case { distinct: 5_000, ..case }
        });
    });
}

#[test]
fn running_aggregates_keep_to_the_budget() {
    for_seeds(1, |seed| {
        run(seed, || {
            let op = KeyedOp::Running(plans::running(&input(), &[1], native(&input()), 10_000));
            Case { op, keys: vec![1], distinct: 100_000, grain_ms: 1, behind_ms: 0, times: 20 }
        });
    });
}

#[test]
fn distinct_rows_keep_to_the_budget() {
    for_seeds(1, |seed| {
        run(seed, || {
            let op = KeyedOp::Distinct(Distinct { input: input(), keys: vec![1], within_ms: 40_000, late: Vec::new() });
            Case { op, keys: vec![1], distinct: 100_000, grain_ms: 1, behind_ms: 0, times: 10 }
        });
    });
    // Most rows wait.
    for_seeds(1, |seed| {
        run(seed, || {
            let op = KeyedOp::Distinct(Distinct { input: input(), keys: vec![1], within_ms: 5_000, late: Vec::new() });
            Case { op, keys: vec![1], distinct: 100_000, grain_ms: 1, behind_ms: 50_500, times: 10 }
        });
    });
}

#[test]
fn the_first_rows_of_each_group_keep_to_the_budget() {
    for_seeds(1, |seed| {
        run(seed, || {
            let top = plans::top(&input(), &[1], 3, 3);
            Case { op: KeyedOp::Top(top), keys: vec![1], distinct: 30_000, grain_ms: 100, behind_ms: 50_500, times: 10 }
        });
    });
}
