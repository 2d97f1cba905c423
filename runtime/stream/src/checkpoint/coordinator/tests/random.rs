//! Whatever is heard, in whatever order: what is said keeps to the protocol.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Something heard. Epochs are told from the newest that was opened, so that they are often right.
#[derive(Clone, Debug)]
enum Heard {
    Later(u64),
    Asked(u8),
    SourcesEnded,
    Acked(u32, u64),
    Written(u64, u8),
    Moved(u64, u8),
    Committed(u64, u8),
    TaskFailed,
}

fn heard() -> impl Strategy<Value = Heard> {
    let epoch = || prop_oneof![8 => Just(0_u64), 1 => 1..3_u64];
    let outcome = || prop_oneof![6 => Just(0_u8), 1 => 1..4_u8];
    prop_oneof![
        4 => (0..20_000_u64).prop_map(Heard::Later),
        2 => (0..5_u8).prop_map(Heard::Asked),
        1 => Just(Heard::SourcesEnded),
        12 => (0..3_u32, epoch()).prop_map(|(task, epoch)| Heard::Acked(task, epoch)),
        6 => (epoch(), outcome()).prop_map(|(epoch, outcome)| Heard::Written(epoch, outcome)),
        6 => (epoch(), outcome()).prop_map(|(epoch, outcome)| Heard::Moved(epoch, outcome)),
        6 => (epoch(), outcome()).prop_map(|(epoch, outcome)| Heard::Committed(epoch, outcome)),
        1 => Just(Heard::TaskFailed),
    ]
}

/// What an observer of events and actions knows.
#[derive(Default)]
struct Observed {
    opened: Option<Epoch>,
    kinds: BTreeMap<Epoch, BarrierKind>,
    acked: BTreeMap<Epoch, BTreeSet<TaskId>>,
    asked_to_write: BTreeSet<Epoch>,
    written: BTreeSet<Epoch>,
    asked_to_move: BTreeSet<Epoch>,
    moved: BTreeSet<Epoch>,
    committed: BTreeSet<Epoch>,
    aborted: BTreeSet<Epoch>,
    is_over: bool,
}

impl Observed {
    fn hears(&mut self, event: &Event) {
        match event {
            Event::Acked { task, epoch } => {
                self.acked.entry(*epoch).or_default().insert(task.clone());
            }
            Event::ManifestWritten { epoch, outcome: ManifestOutcome::Created } => {
                self.written.insert(*epoch);
            }
            Event::PointerMoved { epoch, outcome: PointerOutcome::Moved } => {
                self.moved.insert(*epoch);
            }
            Event::Committed { epoch } => {
                self.committed.insert(*epoch);
            }
            _ => {}
        }
    }

    fn sees(&mut self, action: &Action) {
        assert!(!self.is_over, "{action:?} after the last word");
        match action {
            Action::Inject { epoch, kind } => {
                assert!(self.opened < Some(*epoch), "epochs rise");
                if let Some(last) = self.opened {
                    let is_settled = self.aborted.contains(&last) || self.committed.contains(&last);
                    assert!(is_settled, "{epoch} is opened while {last} is in flight");
                    let ends = self.kinds[&last].ends_tasks();
                    assert!(!ends, "{epoch} is opened after {last} ended the tasks");
                }
                self.opened = Some(*epoch);
                self.kinds.insert(*epoch, kind.clone());
            }
            Action::WriteManifest { epoch, kind } => {
                assert!(!self.aborted.contains(epoch));
                assert_eq!(&self.kinds[epoch], kind);
                assert!(
                    self.acked[epoch].is_superset(&[task(0), task(1)].into()),
                    "not everybody has acknowledged {epoch}"
                );
                self.asked_to_write.insert(*epoch);
            }
            Action::MovePointer { epoch, from, decided } => {
                assert!(self.asked_to_write.contains(epoch) && self.written.contains(epoch), "{epoch} has no manifest");
                assert!(!self.aborted.contains(epoch));
                assert_eq!(*from, self.asked_to_move.iter().filter(|other| *other < epoch).max().copied());
                assert_eq!(decided.last().map(|decided| decided.taken), Some(taken(epoch.0)));
                self.asked_to_move.insert(*epoch);
            }
            Action::NotifyDecided { epoch, .. } | Action::CommitSinks { epoch } => {
                assert!(self.asked_to_move.contains(epoch) && self.moved.contains(epoch), "{epoch} is not decided");
                let earlier = self.asked_to_move.iter().filter(|other| *other < epoch);
                assert!(earlier.into_iter().all(|earlier| self.committed.contains(earlier)), "{epoch} overtakes");
            }
            Action::Retire { decided, keep } => {
                assert!(self.committed.contains(decided));
                assert!(keep.contains(&taken(decided.0)), "what a recovery needs is kept");
                let savepoints = self.asked_to_move.iter().filter(|epoch| self.kinds[epoch] == BarrierKind::Savepoint);
                assert!(savepoints.into_iter().all(|epoch| keep.contains(&taken(epoch.0))), "savepoints are kept");
            }
            Action::Abort { epoch, .. } => {
                assert!(!self.asked_to_move.contains(epoch), "{epoch} may be decided");
                assert!(self.aborted.insert(*epoch), "{epoch} is given up twice");
            }
            Action::Ended { epoch, .. } => {
                assert!(self.kinds[epoch].ends_tasks() && self.committed.contains(epoch));
                self.is_over = true;
            }
            Action::StepDown { .. } | Action::Restart { .. } | Action::Halt { .. } => self.is_over = true,
        }
    }
}

fn event(heard: &Heard, newest: Option<Epoch>) -> Event {
    let epoch = |ago: u64| Epoch(newest.map_or(1, |newest| newest.0).saturating_sub(ago));
    let retry_after = ms(700);
    match *heard {
        Heard::Later(_) => Event::Tick,
        Heard::Asked(0) => Event::Requested(BarrierKind::Checkpoint),
        Heard::Asked(1) => Event::Requested(revision("b")),
        Heard::Asked(2) => Event::Requested(BarrierKind::Stop),
        Heard::Asked(_) => Event::Requested(BarrierKind::Savepoint),
        Heard::SourcesEnded => Event::SourcesEnded,
        Heard::Acked(index, ago) => Event::Acked { task: task(index), epoch: epoch(ago) },
        Heard::Written(ago, outcome) => Event::ManifestWritten {
            epoch: epoch(ago),
            outcome: match outcome {
                0 => ManifestOutcome::Created,
                1 => ManifestOutcome::NameTaken,
                _ => ManifestOutcome::Failed { retry_after },
            },
        },
        Heard::Moved(ago, outcome) => Event::PointerMoved {
            epoch: epoch(ago),
            outcome: match outcome {
                0 => PointerOutcome::Moved,
                1 => PointerOutcome::Fenced { by: Generation(3) },
                2 => PointerOutcome::Lost,
                _ => PointerOutcome::Unknown { retry_after },
            },
        },
        Heard::Committed(ago, 0) => Event::Committed { epoch: epoch(ago) },
        Heard::Committed(ago, outcome) => {
            Event::CommitFailed { epoch: epoch(ago), retry_after: (outcome > 1).then_some(retry_after) }
        }
        Heard::TaskFailed => Event::TaskFailed { task: task(0) },
    }
}

/// Whether an executor could have seen it: stores and sinks answer only what they were asked, and a task acknowledges
/// only what was injected.
fn is_possible(event: &Event, observed: &Observed) -> bool {
    match event {
        Event::Acked { epoch, .. } => observed.kinds.contains_key(epoch),
        Event::ManifestWritten { epoch, .. } => observed.asked_to_write.contains(epoch),
        Event::PointerMoved { epoch, .. } => observed.asked_to_move.contains(epoch),
        Event::Committed { epoch } | Event::CommitFailed { epoch, .. } => observed.moved.contains(epoch),
        _ => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_is_heard_the_protocol_is_kept(story in prop::collection::vec(heard(), 0..120)) {
        let mut script = Script::fresh();
        let mut observed = Observed::default();
        for heard in story {
            if let Heard::Later(wait) = heard {
                script.now += ms(wait);
            }
            let event = event(&heard, observed.opened);
            if !is_possible(&event, &observed) {
                continue;
            }
            observed.hears(&event);
            for action in script.hears(event) {
                observed.sees(&action);
            }
            prop_assert_eq!(script.coordinator.is_over(), observed.is_over);
            prop_assert_eq!(script.coordinator.next_deadline().is_none() && observed.is_over, observed.is_over);
        }
    }

    #[test]
    fn if_all_goes_well_from_some_time_on_a_stop_succeeds(story in prop::collection::vec(heard(), 0..60)) {
        let mut script = Script::fresh();
        let mut observed = Observed::default();
        for heard in story {
            let event = event(&heard, observed.opened);
            let is_bad = matches!(
                event,
                Event::TaskFailed { .. }
                    | Event::CommitFailed { retry_after: None, .. }
                    | Event::PointerMoved { outcome: PointerOutcome::Fenced { .. } | PointerOutcome::Lost, .. }
                    | Event::ManifestWritten { outcome: ManifestOutcome::NameTaken, .. }
            );
            if !is_bad && is_possible(&event, &observed) {
                observed.hears(&event);
                script.hears(event).iter().for_each(|action| observed.sees(action));
            }
        }
        // From here on every question is answered well, at once.
        script.now += ms(1000);
        let mut todo = script.asked(BarrierKind::Stop);
        if let Some(epoch) = script.coordinator.in_flight().filter(|_| todo.is_empty()) {
            todo.extend(script.completes(epoch.0));
        }
        let mut ended = observed.is_over;
        while let Some(action) = todo.pop() {
            match action {
                Action::Inject { epoch, .. } => todo.extend(script.all_acked(epoch.0)),
                Action::WriteManifest { epoch, .. } => todo.extend(script.written(epoch.0)),
                Action::MovePointer { epoch, .. } => todo.extend(script.moved(epoch.0)),
                Action::CommitSinks { epoch } => todo.extend(script.committed(epoch.0)),
                Action::Ended { .. } => ended = true,
                Action::Restart { .. } | Action::Halt { .. } | Action::StepDown { .. } | Action::Abort { .. } => {
                    prop_assert!(false, "{action:?} though all went well");
                }
                Action::NotifyDecided { .. } | Action::Retire { .. } => {}
            }
        }
        prop_assert!(ended);
    }
}
