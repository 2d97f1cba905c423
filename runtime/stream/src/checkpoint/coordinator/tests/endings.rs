//! What ends the tasks: a stop, sources that have ended, a new plan.

use super::*;

#[test]
fn a_stop_waits_for_the_checkpoint_in_flight_and_ends_with_its_own() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    assert_eq!(script.asked(BarrierKind::Stop), []);
    assert_eq!(script.completes(1), [retire(1, &[1]), inject(2, BarrierKind::Stop)]);
    let ended = Action::Ended { epoch: Epoch(2), kind: BarrierKind::Stop, unmet: vec![] };
    assert_eq!(script.completes(2), [retire(2, &[1, 2]), ended]);
    assert!(script.coordinator.is_over());
}

#[test]
fn a_stop_that_takes_too_long_leaves_the_last_decided_epoch() {
    let mut script = Script::fresh();
    assert_eq!(script.asked(BarrierKind::Stop), [inject(1, BarrierKind::Stop)]);
    script.acked(0, 1);
    assert_eq!(
        script.at(ms(60_000)).tick(),
        [abort(1, BarrierKind::Stop, AbortReason::Failed), Action::Halt { why: Failure::StopTimedOut }]
    );
}

#[test]
fn a_stop_does_not_wait_for_a_checkpoint_that_hangs() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.at(ms(10_000)).asked(BarrierKind::Stop);
    assert_eq!(
        script.at(ms(65_000)).tick(),
        [abort(1, BarrierKind::Checkpoint, AbortReason::TimedOut), inject(2, BarrierKind::Stop)],
        "its turn comes when the checkpoint is given up"
    );
    assert_eq!(script.coordinator.next_deadline(), Some(ms(70_000)), "but its own time has run since it was asked for");
    assert_eq!(
        script.at(ms(70_000)).tick(),
        [abort(2, BarrierKind::Stop, AbortReason::Failed), Action::Halt { why: Failure::StopTimedOut }]
    );
}

#[test]
fn a_stop_ends_even_if_pointer_or_sinks_never_answer() {
    let mut script = Script::fresh();
    script.asked(BarrierKind::Stop);
    script.all_acked(1);
    script.written(1);
    assert_eq!(script.at(ms(60_000)).tick(), [Action::Halt { why: Failure::StopTimedOut }]);

    let mut script = Script::fresh();
    script.asked(BarrierKind::Stop);
    script.all_acked(1);
    script.written(1);
    script.moved(1);
    assert_eq!(
        script.at(ms(60_000)).tick(),
        [Action::Halt { why: Failure::CommitTimedOut(Epoch(1)) }],
        "decided, and shown by recovery"
    );
}

#[test]
fn a_task_that_fails_while_stopping_starts_nothing_again() {
    let mut script = Script::fresh();
    script.asked(BarrierKind::Stop);
    assert_eq!(
        script.hears(Event::TaskFailed { task: task(0) }),
        [abort(1, BarrierKind::Stop, AbortReason::Failed), Action::Halt { why: Failure::TaskFailed(task(0)) }]
    );
}

#[test]
fn sources_that_have_ended_are_drained_once_nothing_is_in_flight() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    assert_eq!(script.hears(Event::SourcesEnded), []);
    assert_eq!(script.completes(1), [retire(1, &[1]), inject(2, BarrierKind::Drain)]);
    let ended = Action::Ended { epoch: Epoch(2), kind: BarrierKind::Drain, unmet: vec![] };
    assert_eq!(script.completes(2), [retire(2, &[1, 2]), ended]);
}

#[test]
fn stopping_a_pipeline_whose_sources_have_ended_finishes_it() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.asked(BarrierKind::Stop);
    script.hears(Event::SourcesEnded);
    assert_eq!(script.completes(1), [retire(1, &[1]), inject(2, BarrierKind::Drain)]);
}

#[test]
fn a_new_plan_starts_from_its_barrier() {
    let mut script = Script::fresh();
    assert_eq!(script.asked(revision("b")), [inject(1, revision("b"))]);
    let ended = Action::Ended { epoch: Epoch(1), kind: revision("b"), unmet: vec![] };
    assert_eq!(script.completes(1), [retire(1, &[1]), ended]);
}

#[test]
fn of_several_plans_the_last_one_counts() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.asked(revision("b"));
    script.asked(revision("c"));
    assert_eq!(script.completes(1), [retire(1, &[1]), inject(2, revision("c"))]);
    script.asked(revision("d"));
    let ended = Action::Ended { epoch: Epoch(2), kind: revision("c"), unmet: vec![revision("d")] };
    assert_eq!(script.completes(2), [retire(2, &[1, 2]), ended]);
}

#[test]
fn a_savepoint_comes_before_what_ends_the_tasks_and_a_stop_before_a_new_plan() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.asked(revision("b"));
    script.asked(BarrierKind::Stop);
    script.asked(BarrierKind::Savepoint);
    assert_eq!(script.completes(1)[1], inject(2, BarrierKind::Savepoint));
    assert_eq!(script.completes(2)[1], inject(3, BarrierKind::Stop));
    let ended = Action::Ended { epoch: Epoch(3), kind: BarrierKind::Stop, unmet: vec![revision("b")] };
    assert_eq!(script.completes(3)[1], ended);
}

#[test]
fn a_stop_that_comes_while_a_new_plan_is_taken_up_ends_there() {
    let mut script = Script::fresh();
    script.asked(revision("b"));
    script.asked(BarrierKind::Stop);
    let ended = Action::Ended { epoch: Epoch(1), kind: BarrierKind::Stop, unmet: vec![] };
    assert_eq!(script.completes(1), [retire(1, &[1]), ended]);
}

#[test]
fn a_barrier_that_ends_the_tasks_and_is_given_up_restarts_the_graph() {
    let mut script = Script::fresh();
    script.asked(revision("b"));
    script.acked(0, 1);
    let why = Failure::LastEpochAborted(Epoch(1));
    assert_eq!(
        script.at(ms(60_000)).tick(),
        [abort(1, revision("b"), AbortReason::TimedOut), Action::Restart { why, unmet: vec![revision("b")] }]
    );
}

#[test]
fn what_was_asked_for_survives_a_restart() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.asked(revision("b"));
    script.asked(BarrierKind::Savepoint);
    let unmet = vec![BarrierKind::Savepoint, revision("b")];
    let restart = Action::Restart { why: Failure::TaskFailed(task(0)), unmet };
    assert_eq!(script.hears(Event::TaskFailed { task: task(0) })[1], restart);
}
