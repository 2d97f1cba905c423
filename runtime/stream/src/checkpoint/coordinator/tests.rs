#![allow(clippy::unwrap_used)]

use super::*;

mod endings;
mod random;

const SETTINGS: Settings = Settings {
    interval: Duration::from_secs(5),
    timeout: Duration::from_secs(60),
    min_pause: Duration::from_millis(500),
    retain: 2,
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn task(index: u32) -> TaskId {
    TaskId { stage: "stage".into(), index }
}

fn revision(name: &str) -> BarrierKind {
    BarrierKind::Reconfigure(Revision(name.to_owned()))
}

/// Drives a coordinator of generation 2 and two tasks, and knows the usual answers.
struct Script {
    coordinator: Coordinator,
    now: Duration,
}

impl Script {
    fn fresh() -> Self {
        Self::from(&[], 1)
    }

    fn from(decided: &[Decided], first: u64) -> Self {
        let tasks = [task(0), task(1)].into();
        let start = Start { generation: Generation(2), tasks, decided: decided.to_vec(), first: Epoch(first) };
        Self { coordinator: Coordinator::new(SETTINGS, start, ms(0)), now: ms(0) }
    }

    fn at(&mut self, now: Duration) -> &mut Self {
        self.now = now;
        self
    }

    fn hears(&mut self, event: Event) -> Vec<Action> {
        self.coordinator.on(self.now, event)
    }

    fn tick(&mut self) -> Vec<Action> {
        self.hears(Event::Tick)
    }

    fn asked(&mut self, kind: BarrierKind) -> Vec<Action> {
        self.hears(Event::Requested(kind))
    }

    fn acked(&mut self, index: u32, epoch: u64) -> Vec<Action> {
        self.hears(Event::Acked { task: task(index), epoch: Epoch(epoch) })
    }

    fn all_acked(&mut self, epoch: u64) -> Vec<Action> {
        let mut actions = self.acked(0, epoch);
        actions.extend(self.acked(1, epoch));
        actions
    }

    fn written(&mut self, epoch: u64) -> Vec<Action> {
        self.hears(Event::ManifestWritten { epoch: Epoch(epoch), outcome: ManifestOutcome::Created })
    }

    fn moved(&mut self, epoch: u64) -> Vec<Action> {
        self.hears(Event::PointerMoved { epoch: Epoch(epoch), outcome: PointerOutcome::Moved })
    }

    fn committed(&mut self, epoch: u64) -> Vec<Action> {
        self.hears(Event::Committed { epoch: Epoch(epoch) })
    }

    /// From the acknowledgements on, all goes well. Answers what the commit led to.
    fn completes(&mut self, epoch: u64) -> Vec<Action> {
        self.all_acked(epoch);
        self.written(epoch);
        self.moved(epoch);
        self.committed(epoch)
    }
}

fn decided(epoch: u64) -> Decided {
    Decided { taken: taken(epoch), savepoint: false }
}

fn taken(epoch: u64) -> Taken {
    Taken { epoch: Epoch(epoch), generation: Generation(2) }
}

fn inject(epoch: u64, kind: BarrierKind) -> Action {
    Action::Inject { epoch: Epoch(epoch), kind }
}

fn checkpoint(epoch: u64) -> Action {
    inject(epoch, BarrierKind::Checkpoint)
}

fn abort(epoch: u64, kind: BarrierKind, reason: AbortReason) -> Action {
    Action::Abort { epoch: Epoch(epoch), kind, reason }
}

fn retire(epoch: u64, keep: &[u64]) -> Action {
    Action::Retire { decided: Epoch(epoch), keep: keep.iter().map(|epoch| taken(*epoch)).collect() }
}

#[test]
fn an_epoch_goes_from_barrier_to_retirement() {
    let mut script = Script::fresh();
    let kind = BarrierKind::Checkpoint;
    assert_eq!(script.at(ms(5000)).tick(), [checkpoint(1)]);
    assert_eq!(script.acked(0, 1), []);
    assert_eq!(script.acked(1, 1), [Action::WriteManifest { epoch: Epoch(1), kind: kind.clone() }]);
    let moves = Action::MovePointer { epoch: Epoch(1), from: None, decided: vec![decided(1)] };
    assert_eq!(script.written(1), [moves]);
    assert_eq!(script.coordinator.decided(), None, "a manifest decides nothing");
    let notify = Action::NotifyDecided { epoch: Epoch(1), kind };
    assert_eq!(script.moved(1), [notify, Action::CommitSinks { epoch: Epoch(1) }]);
    assert_eq!(script.coordinator.decided(), Some(Epoch(1)));
    assert_eq!(script.committed(1), [retire(1, &[1])]);
}

#[test]
fn the_interval_runs_from_opening_to_opening() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.at(ms(6000)).completes(1);
    assert_eq!(script.coordinator.next_deadline(), Some(ms(10_000)));
    assert_eq!(script.at(ms(9999)).tick(), []);
    assert_eq!(script.at(ms(10_000)).tick(), [checkpoint(2)]);
}

#[test]
fn the_first_one_comes_after_a_fifth_of_the_interval_and_no_sooner_than_a_second_and_the_least_pause() {
    let mut script = Script::fresh();
    assert_eq!(script.coordinator.next_deadline(), Some(ms(1000)));
    assert_eq!(script.at(ms(999)).tick(), []);
    assert_eq!(script.at(ms(1000)).tick(), [checkpoint(1)]);
    script.completes(1);
    assert_eq!(script.coordinator.next_deadline(), Some(ms(6000)));
    for (interval, min_pause, first) in
        [(60_000, 0, 12_000), (5000, 2000, 2000), (4000, 0, 1000), (500, 0, 500), (500, 800, 500)]
    {
        let settings = Settings { interval: ms(interval), min_pause: ms(min_pause), ..SETTINGS };
        assert_eq!(settings.first_after(), ms(first), "{interval} {min_pause}");
    }
}

#[test]
fn after_a_long_checkpoint_the_tasks_get_their_pause() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.at(ms(12_000)).completes(1);
    assert_eq!(script.coordinator.next_deadline(), Some(ms(12_500)));
    assert_eq!(script.at(ms(12_499)).tick(), []);
    assert_eq!(script.at(ms(12_500)).tick(), [checkpoint(2)]);
}

#[test]
fn none_is_opened_while_one_is_in_flight() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    assert_eq!(script.at(ms(30_000)).tick(), []);
    script.all_acked(1);
    assert_eq!(script.tick(), []);
    script.written(1);
    assert_eq!(script.at(ms(300_000)).tick(), [], "the pointer may have moved, so nothing is given up");
    script.moved(1);
    assert_eq!(script.at(ms(600_000)).tick(), [], "not before the sinks have committed");
    assert_eq!(script.committed(1), [retire(1, &[1])]);
    assert_eq!(script.at(ms(600_500)).tick(), [checkpoint(2)]);
}

#[test]
fn an_epoch_that_times_out_is_given_up_and_the_one_before_it_stands() {
    let mut script = Script::from(&[decided(7)], 8);
    script.at(ms(5000)).tick();
    script.acked(0, 8);
    assert_eq!(script.coordinator.next_deadline(), Some(ms(65_000)));
    assert_eq!(script.at(ms(65_000)).tick(), [abort(8, BarrierKind::Checkpoint, AbortReason::TimedOut)]);
    assert_eq!(script.coordinator.decided(), Some(Epoch(7)));
    assert_eq!(script.acked(1, 8), [], "too late");
    assert_eq!(script.at(ms(65_500)).tick(), [checkpoint(9)]);
    assert_eq!(script.acked(0, 8), [], "of another epoch");
    script.all_acked(9);
    let moves = Action::MovePointer { epoch: Epoch(9), from: Some(Epoch(7)), decided: vec![decided(7), decided(9)] };
    assert_eq!(script.written(9), [moves]);
}

#[test]
fn a_manifest_that_comes_after_the_time_out_decides_nothing() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.all_acked(1);
    assert_eq!(script.at(ms(65_000)).written(1), [abort(1, BarrierKind::Checkpoint, AbortReason::TimedOut)]);
    assert_eq!(script.written(1), []);
    assert_eq!(script.moved(1), []);
    assert_eq!(script.committed(1), []);
}

#[test]
fn acknowledgements_that_are_repeated_or_of_strangers_do_not_count() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    assert_eq!(script.acked(0, 1), []);
    assert_eq!(script.acked(0, 1), []);
    assert_eq!(script.acked(7, 1), []);
    assert_eq!(script.acked(1, 2), []);
    assert_eq!(script.acked(1, 1).len(), 1);
    assert_eq!(script.acked(1, 1), []);
}

#[test]
fn a_graph_without_tasks_has_nothing_to_wait_for() {
    let start = Start { generation: Generation(1), tasks: BTreeSet::new(), decided: vec![], first: Epoch(1) };
    let mut coordinator = Coordinator::new(SETTINGS, start, ms(0));
    let write = Action::WriteManifest { epoch: Epoch(1), kind: BarrierKind::Drain };
    assert_eq!(coordinator.on(ms(0), Event::SourcesEnded), [inject(1, BarrierKind::Drain), write]);
}

#[test]
fn a_manifest_that_could_not_be_written_is_written_again_until_the_time_is_up() {
    let mut script = Script::fresh();
    let failed = Event::ManifestWritten { epoch: Epoch(1), outcome: ManifestOutcome::Failed { retry_after: ms(200) } };
    script.at(ms(5000)).tick();
    script.all_acked(1);
    assert_eq!(script.hears(failed.clone()), []);
    assert_eq!(script.coordinator.next_deadline(), Some(ms(5200)));
    assert_eq!(script.at(ms(5200)).tick().len(), 1);
    assert_eq!(script.tick(), [], "once");
    script.hears(failed);
    assert_eq!(script.at(ms(65_000)).tick(), [abort(1, BarrierKind::Checkpoint, AbortReason::TimedOut)]);
}

#[test]
fn a_savepoint_whose_name_is_taken_is_given_up() {
    let mut script = Script::fresh();
    assert_eq!(script.asked(BarrierKind::Savepoint), [inject(1, BarrierKind::Savepoint)]);
    script.all_acked(1);
    let taken = Event::ManifestWritten { epoch: Epoch(1), outcome: ManifestOutcome::NameTaken };
    assert_eq!(script.hears(taken), [abort(1, BarrierKind::Savepoint, AbortReason::NameTaken)]);
}

#[test]
fn a_pointer_that_does_not_answer_is_asked_again_for_ever() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.all_acked(1);
    let moves = script.written(1);
    let unknown = Event::PointerMoved { epoch: Epoch(1), outcome: PointerOutcome::Unknown { retry_after: ms(100) } };
    for again in 1..100 {
        assert_eq!(script.hears(unknown.clone()), []);
        assert_eq!(script.at(ms(5000 + 10_000 * again)).tick(), moves);
    }
    assert_eq!(script.moved(1).len(), 2);
}

#[test]
fn a_fenced_coordinator_steps_down_and_says_nothing_more() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.all_acked(1);
    script.written(1);
    script.asked(BarrierKind::Stop);
    let by = Generation(3);
    let fenced = Event::PointerMoved { epoch: Epoch(1), outcome: PointerOutcome::Fenced { by } };
    assert_eq!(script.hears(fenced), [Action::StepDown { by }]);
    assert_eq!(script.moved(1), []);
    assert_eq!(script.committed(1), []);
    assert_eq!(script.at(ms(1_000_000)).tick(), []);
    assert_eq!(script.hears(Event::TaskFailed { task: task(0) }), []);
    assert_eq!(script.coordinator.next_deadline(), None);
    assert!(script.coordinator.is_over());
}

#[test]
fn a_pointer_that_is_not_as_it_was_left_ends_the_run() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.all_acked(1);
    script.written(1);
    let lost = Event::PointerMoved { epoch: Epoch(1), outcome: PointerOutcome::Lost };
    assert_eq!(script.hears(lost), [Action::Restart { why: Failure::PointerLost, unmet: vec![] }]);
}

#[test]
fn a_commit_that_failed_is_tried_again_and_nothing_is_opened_before_it() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.all_acked(1);
    script.written(1);
    script.moved(1);
    script.asked(BarrierKind::Savepoint);
    let failed = Event::CommitFailed { epoch: Epoch(1), retry_after: Some(ms(300)) };
    assert_eq!(script.hears(failed), []);
    assert_eq!(script.at(ms(5299)).tick(), []);
    assert_eq!(script.at(ms(5300)).tick(), [Action::CommitSinks { epoch: Epoch(1) }]);
    assert_eq!(script.at(ms(200_000)).tick(), [], "a decided epoch is not given up");
    assert_eq!(script.committed(1), [retire(1, &[1]), inject(2, BarrierKind::Savepoint)]);
}

#[test]
fn a_commit_that_is_refused_ends_the_run() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.all_acked(1);
    script.written(1);
    script.moved(1);
    let refused = Event::CommitFailed { epoch: Epoch(1), retry_after: None };
    assert_eq!(script.hears(refused), [Action::Restart { why: Failure::CommitRefused(Epoch(1)), unmet: vec![] }]);
    assert_eq!(script.committed(1), []);
}

#[test]
fn a_failed_task_ends_the_run_and_gives_up_what_is_undecided() {
    let why = Failure::TaskFailed(task(1));
    let failed = Event::TaskFailed { task: task(1) };
    let restart = Action::Restart { why: why.clone(), unmet: vec![] };
    assert_eq!(Script::fresh().hears(failed.clone()), vec![restart.clone()]);

    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    let abort = abort(1, BarrierKind::Checkpoint, AbortReason::Failed);
    assert_eq!(script.hears(failed.clone()), [abort, restart.clone()]);
    assert_eq!(script.all_acked(1), []);

    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    script.all_acked(1);
    script.written(1);
    assert_eq!(script.hears(failed), [restart], "recovery finds out whether the pointer has moved");
}

#[test]
fn requests_wait_for_what_is_in_flight_and_then_for_nothing() {
    let mut script = Script::fresh();
    script.at(ms(5000)).tick();
    assert_eq!(script.asked(BarrierKind::Savepoint), []);
    assert_eq!(script.asked(BarrierKind::Savepoint), []);
    assert_eq!(script.asked(BarrierKind::Checkpoint), []);
    assert_eq!(script.completes(1), [retire(1, &[1]), inject(2, BarrierKind::Savepoint)], "without the pause");
    let keep = BTreeSet::from([taken(1), taken(2)]);
    assert_eq!(
        script.completes(2),
        [Action::Retire { decided: Epoch(2), keep }],
        "each was asked for before epoch 2 began"
    );
}

#[test]
fn a_savepoint_is_kept_when_checkpoints_expire() {
    let mut script = Script::fresh();
    script.asked(BarrierKind::Savepoint);
    script.completes(1);
    for epoch in 2..=4 {
        script.asked(BarrierKind::Checkpoint);
        let actions = script.completes(epoch);
        let keep: &[u64] = match epoch {
            2 => &[1, 2],
            3 => &[1, 2, 3],
            _ => &[1, 3, 4],
        };
        assert_eq!(actions, [retire(epoch, keep)]);
    }
}
