//! What operators leave in a manifest, damaged under a right checksum, beside a state that is whole: they go on from it
//! or refuse it.

use std::cell::Cell;

use millrace_plan::{Distinct, KeyedOp, WindowKind};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::Value;

use super::{
    Random,
    aligned::{batch_of, input, native, random_rows},
    damage::{any_json, damaged},
    fleet::Fleet,
    plans,
};
use crate::operator::{Emitted, OperatorError, Progress};

const BUDGET_BYTES: usize = 1 << 20;
/// What an operator may hold, whatever it was told.
const MOST_BYTES: u64 = 4 * BUDGET_BYTES as u64;
/// How often an operator is called for a watermark: what windows of absurd lengths come to need not come out.
const CALLS: usize = 8;

/// A fleet of one task that has gone on for some time, and what it has left.
fn used(ops: &[KeyedOp]) -> (Fleet, Value) {
    let mut random = Random::new(1);
    let mut fleet = Fleet::new(ops[0].clone(), vec![1], 1, BUDGET_BYTES, 100);
    let mut left = Value::Null;
    for (at, op) in ops.iter().enumerate() {
        let mut out = Emitted::default();
        let from = at as i64 * 10_000;
        for step in 0..5 {
            fleet.process(
                &batch_of(&random_rows(&mut random, from + step * 2_000..from + (step + 1) * 2_000, 20)),
                &mut out,
            );
        }
        fleet.advance(from + 7_000, &mut out);
        fleet.freeze(&mut out);
        let mut checkpoint = fleet.write();
        match ops.get(at + 1) {
            Some(next) => fleet.edit(next.clone(), 1, &mut checkpoint),
            None => left = checkpoint.left()[0].clone(),
        }
        assert!(matches!(op, KeyedOp::Window(_)) || ops.len() == 1, "only windows are edited");
    }
    (fleet, left)
}

/// Goes on from what was left: takes rows, comes to a watermark and to a barrier.
fn go_on(fleet: &Fleet, left: Vec<Value>) -> Result<(), OperatorError> {
    let mut operator = fleet.go_on_from(left)?;
    let mut out = Emitted::default();
    operator.process(batch_of(&random_rows(&mut Random::new(2), 15_000..25_000, 20)), &mut out)?;
    assert!(operator.stats().memory_bytes < MOST_BYTES);
    for _ in 0..CALLS {
        if operator.advance(millrace_stream::EventTime(24_000), &mut out)? == Progress::Done {
            operator.freeze(millrace_stream::Epoch(9), &mut out)?;
            break;
        }
    }
    Ok(())
}

fn run(ops: &[KeyedOp]) {
    let (fleet, whole) = used(ops);
    go_on(&fleet, vec![whole.clone()]).unwrap();
    let one = prop_oneof![4 => damaged(&whole), 1 => any_json(), 1 => Just(whole)];
    let mut runner = TestRunner::new(Config { source_file: Some(file!()), ..Config::default() });
    let (taken, refused) = (Cell::new(0), Cell::new(0));
    let ran = runner.run(&prop::collection::vec(one, 1..3), |left| {
        let count = if go_on(&fleet, left).is_ok() { &taken } else { &refused };
        count.set(count.get() + 1);
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
    let (taken, refused) = (taken.get(), refused.get());
    assert!(taken > 10 && refused > 10, "{taken} were taken and {refused} refused");
}

fn window(kind: WindowKind) -> KeyedOp {
    KeyedOp::Window(plans::window(kind, 1_000, &input(), &[1], native(&input())))
}

#[test]
fn tumbling_and_hopping_windows_go_on_from_damaged_facts_or_refuse_them() {
    let tumbling = |size_ms| window(WindowKind::Tumbling { size_ms, offset_ms: 0 });
    run(&[tumbling(5_000)]);
    run(&[tumbling(5_000), window(WindowKind::Hopping { size_ms: 4_000, slide_ms: 2_000, offset_ms: 0 })]);
}

#[test]
fn sessions_go_on_from_damaged_facts_or_refuse_them() {
    run(&[window(WindowKind::Session { gap_ms: 3_000 }), window(WindowKind::Session { gap_ms: 500 })]);
}

#[test]
fn rolling_windows_go_on_from_damaged_facts_or_refuse_them() {
    run(&[window(WindowKind::Rolling { range_ms: 3_000 }), window(WindowKind::Rolling { range_ms: 9_000 })]);
}

#[test]
fn the_first_rows_of_each_group_go_on_from_damaged_facts_or_refuse_them() {
    run(&[KeyedOp::Top(plans::top(&input(), &[1], 3, 3))]);
}

#[test]
fn distinct_rows_go_on_from_damaged_facts_or_refuse_them() {
    run(&[KeyedOp::Distinct(Distinct { input: input(), keys: vec![1], within_ms: 4_000, late: Vec::new() })]);
}

#[test]
fn running_aggregates_go_on_from_damaged_facts_or_refuse_them() {
    run(&[KeyedOp::Running(plans::running(&input(), &[1], native(&input()), 0))]);
}
