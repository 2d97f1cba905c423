//! When an epoch is opened, decided, committed and given up.
//!
//! ```text
//!            opened            all acknowledged        written                moved                 committed
//!  Resting ─────────▶ Collecting ─────────▶ Writing ─────────▶ Moving ─────────────────▶ Committing ─────────▶ Resting
//!     ▲                   │                    │                  │ fenced                    │ refused           or Over
//!     └──── timed out ────┴──── timed out ─────┘                  ▼                           ▼
//!           (or Over, if the barrier ended the tasks)            Over                        Over
//! ```
//!
//! One epoch is in flight at a time, and it is in flight until its sinks have committed: were the next one decided before,
//! a crash would leave two epochs to commit, and recovery commits one. From `Moving` on nothing is given up, because nobody
//! knows whether the pointer has moved: the same move is tried until there is an answer.

use std::{collections::BTreeSet, time::Duration};

use super::{AbortReason, Action, Decided, Event, Failure, ManifestOutcome, PointerOutcome, Settings, Taken, keep};
use crate::{BarrierKind, Epoch, Generation, Revision, TaskId};

/// What a run starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Under which generation it speaks. No other run ever has the same.
    pub generation: Generation,
    /// The tasks of the graph, each of which acknowledges every epoch.
    pub tasks: BTreeSet<TaskId>,
    /// The decided epochs that are kept, oldest first, the restored one last: of [`Recovery`](super::Recovery).
    pub decided: Vec<Decided>,
    /// The first epoch to take: of [`Recovery`](super::Recovery).
    pub first: Epoch,
}

/// The state machine of one run. It reads no clock and does nothing but answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    settings: Settings,
    generation: Generation,
    tasks: BTreeSet<TaskId>,
    decided: Vec<Decided>,
    next: Epoch,
    /// When the next checkpoint that nobody asked for may be opened.
    due: Duration,
    asked: Asked,
    sources_ended: bool,
    phase: Phase,
}

/// What was asked for and is not in flight yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Asked {
    checkpoint: bool,
    savepoint: bool,
    reconfigure: Option<Revision>,
    /// By when a stop that was asked for must be over.
    stop_by: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Resting,
    Collecting { flight: Flight, waiting: BTreeSet<TaskId> },
    Writing { flight: Flight, retry_at: Option<Duration> },
    Moving { flight: Flight, retry_at: Option<Duration> },
    Committing { flight: Flight, retry_at: Option<Duration> },
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flight {
    epoch: Epoch,
    kind: BarrierKind,
    give_up_at: Duration,
}

impl Coordinator {
    /// The coordinator of a run whose tasks start `now`.
    pub fn new(settings: Settings, start: Start, now: Duration) -> Self {
        Self {
            settings,
            generation: start.generation,
            tasks: start.tasks,
            decided: start.decided,
            next: start.first,
            due: now.saturating_add(settings.first_after()),
            asked: Asked::default(),
            sources_ended: false,
            phase: Phase::Resting,
        }
    }

    /// The newest decided epoch.
    pub fn decided(&self) -> Option<Epoch> {
        self.decided.last().map(|decided| decided.taken.epoch)
    }

    /// The epoch that is in flight, if any.
    pub fn in_flight(&self) -> Option<Epoch> {
        self.phase.flight().map(|flight| flight.epoch)
    }

    /// Whether the last word was said.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// By when [`Event::Tick`] is wanted, if nothing happens before. Times are those of
    /// [`Clock::monotonic`](crate::Clock::monotonic).
    pub fn next_deadline(&self) -> Option<Duration> {
        let of_phase = match &self.phase {
            Phase::Over => return None,
            Phase::Resting => Some(self.due),
            Phase::Collecting { flight, .. } => Some(flight.give_up_at),
            Phase::Writing { flight, retry_at } => {
                Some(retry_at.map_or(flight.give_up_at, |at| at.min(flight.give_up_at)))
            }
            Phase::Moving { retry_at, .. } | Phase::Committing { retry_at, .. } => *retry_at,
        };
        of_phase.into_iter().chain(self.asked.stop_by).min()
    }

    /// Takes in what happened, and answers what is to be done. `now` never goes back.
    pub fn on(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.give_up(now, &mut actions);
        self.take_in(now, event, &mut actions);
        self.go_on(now, &mut actions);
        actions
    }

    /// What has taken too long.
    fn give_up(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.asked.stop_by.is_some_and(|by| now >= by) {
            let why = match &self.phase {
                Phase::Committing { flight, .. } if flight.kind == BarrierKind::Stop => {
                    Failure::CommitTimedOut(flight.epoch)
                }
                _ => Failure::StopTimedOut,
            };
            self.fail(why, actions);
        }
        if let Phase::Collecting { flight, .. } | Phase::Writing { flight, .. } = &self.phase
            && now >= flight.give_up_at
        {
            self.abort(now, AbortReason::TimedOut, actions);
        }
    }

    fn take_in(&mut self, now: Duration, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Requested(kind) => self.asked(now, kind),
            Event::SourcesEnded => self.sources_ended = true,
            Event::TaskFailed { task } => self.fail(Failure::TaskFailed(task), actions),
            Event::Acked { task, epoch } => {
                if let Phase::Collecting { flight, waiting } = &mut self.phase
                    && flight.epoch == epoch
                    && waiting.remove(&task)
                    && waiting.is_empty()
                {
                    let flight = flight.clone();
                    self.write_manifest(flight, actions);
                }
            }
            Event::ManifestWritten { epoch, outcome } => {
                if let Phase::Writing { flight, retry_at } = &mut self.phase
                    && flight.epoch == epoch
                {
                    match outcome {
                        ManifestOutcome::Failed { retry_after } => *retry_at = Some(now.saturating_add(retry_after)),
                        ManifestOutcome::NameTaken => self.abort(now, AbortReason::NameTaken, actions),
                        ManifestOutcome::Created => {
                            let flight = flight.clone();
                            self.move_pointer(flight, actions);
                        }
                    }
                }
            }
            Event::PointerMoved { epoch, outcome } => {
                if let Phase::Moving { flight, retry_at } = &mut self.phase
                    && flight.epoch == epoch
                {
                    match outcome {
                        PointerOutcome::Unknown { retry_after } => *retry_at = Some(now.saturating_add(retry_after)),
                        PointerOutcome::Lost => self.fail(Failure::PointerLost, actions),
                        PointerOutcome::Fenced { by } => {
                            self.phase = Phase::Over;
                            actions.push(Action::StepDown { by });
                        }
                        PointerOutcome::Moved => {
                            let flight = flight.clone();
                            self.decide(flight, actions);
                        }
                    }
                }
            }
            Event::CommitFailed { epoch, retry_after } => {
                if let Phase::Committing { flight, retry_at } = &mut self.phase
                    && flight.epoch == epoch
                {
                    match retry_after {
                        Some(wait) => *retry_at = Some(now.saturating_add(wait)),
                        None => self.fail(Failure::CommitRefused(epoch), actions),
                    }
                }
            }
            Event::Committed { epoch } => {
                if let Phase::Committing { flight, .. } = &self.phase
                    && flight.epoch == epoch
                {
                    let flight = flight.clone();
                    self.complete(now, flight, actions);
                }
            }
        }
    }

    /// What time, or the end of what was in flight, has made possible.
    fn go_on(&mut self, now: Duration, actions: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Over | Phase::Collecting { .. } => {}
            Phase::Resting => {
                if let Some(kind) = self.wanted(now) {
                    self.open(now, kind, actions);
                }
            }
            Phase::Writing { flight, retry_at } => {
                if retry_at.take_if(|at| now >= *at).is_some() {
                    let flight = flight.clone();
                    self.write_manifest(flight, actions);
                }
            }
            Phase::Moving { flight, retry_at } => {
                if retry_at.take_if(|at| now >= *at).is_some() {
                    let flight = flight.clone();
                    self.move_pointer(flight, actions);
                }
            }
            Phase::Committing { flight, retry_at } => {
                if retry_at.take_if(|at| now >= *at).is_some() {
                    actions.push(Action::CommitSinks { epoch: flight.epoch });
                }
            }
        }
    }

    fn asked(&mut self, now: Duration, kind: BarrierKind) {
        match kind {
            BarrierKind::Checkpoint => self.asked.checkpoint = true,
            BarrierKind::Savepoint => self.asked.savepoint = true,
            BarrierKind::Reconfigure(revision) => self.asked.reconfigure = Some(revision),
            BarrierKind::Drain => self.sources_ended = true,
            BarrierKind::Stop => {
                self.asked.stop_by.get_or_insert(now.saturating_add(self.settings.timeout));
            }
        }
    }

    /// What to open next. A savepoint comes first, since what ends the tasks would leave it undone. A stop comes before a
    /// new plan, which the next run finds anyway; and where the sources have ended, stopping is finishing.
    fn wanted(&mut self, now: Duration) -> Option<BarrierKind> {
        if std::mem::take(&mut self.asked.savepoint) {
            Some(BarrierKind::Savepoint)
        } else if self.asked.stop_by.is_some() {
            Some(if self.sources_ended { BarrierKind::Drain } else { BarrierKind::Stop })
        } else if let Some(revision) = self.asked.reconfigure.take() {
            Some(BarrierKind::Reconfigure(revision))
        } else if self.sources_ended {
            Some(BarrierKind::Drain)
        } else {
            let asked = std::mem::take(&mut self.asked.checkpoint);
            (asked || now >= self.due).then_some(BarrierKind::Checkpoint)
        }
    }

    fn open(&mut self, now: Duration, kind: BarrierKind, actions: &mut Vec<Action>) {
        let epoch = self.next;
        self.next = epoch.next();
        self.due = now.saturating_add(self.settings.interval);
        // Whatever the barrier is for, it is a checkpoint.
        self.asked.checkpoint = false;
        actions.push(Action::Inject { epoch, kind: kind.clone() });
        let flight = Flight { epoch, kind, give_up_at: now.saturating_add(self.settings.timeout) };
        if self.tasks.is_empty() {
            self.write_manifest(flight, actions);
        } else {
            self.phase = Phase::Collecting { flight, waiting: self.tasks.clone() };
        }
    }

    fn write_manifest(&mut self, flight: Flight, actions: &mut Vec<Action>) {
        actions.push(Action::WriteManifest { epoch: flight.epoch, kind: flight.kind.clone() });
        self.phase = Phase::Writing { flight, retry_at: None };
    }

    fn move_pointer(&mut self, flight: Flight, actions: &mut Vec<Action>) {
        actions.push(Action::MovePointer {
            epoch: flight.epoch,
            from: self.decided(),
            decided: self.decided_with(&flight),
        });
        self.phase = Phase::Moving { flight, retry_at: None };
    }

    /// The kept epochs once this one is decided.
    fn decided_with(&self, flight: &Flight) -> Vec<Decided> {
        let taken = Taken { epoch: flight.epoch, generation: self.generation };
        let mut decided = self.decided.clone();
        decided.push(Decided { taken, savepoint: flight.kind == BarrierKind::Savepoint });
        keep(self.settings.retain, &decided)
    }

    fn decide(&mut self, flight: Flight, actions: &mut Vec<Action>) {
        self.decided = self.decided_with(&flight);
        actions.push(Action::NotifyDecided { epoch: flight.epoch, kind: flight.kind.clone() });
        actions.push(Action::CommitSinks { epoch: flight.epoch });
        self.phase = Phase::Committing { flight, retry_at: None };
    }

    fn complete(&mut self, now: Duration, flight: Flight, actions: &mut Vec<Action>) {
        let Flight { epoch, kind, .. } = flight;
        let keep = self.decided.iter().map(|decided| decided.taken).collect();
        actions.push(Action::Retire { decided: epoch, keep });
        if kind.ends_tasks() {
            // To start the graph of a new plan only to stop it would serve nobody.
            let stops = self.asked.stop_by.is_some() && kind != BarrierKind::Drain;
            let kind = if stops { BarrierKind::Stop } else { kind };
            actions.push(Action::Ended { epoch, kind, unmet: self.unmet() });
            self.phase = Phase::Over;
        } else {
            self.rest(now);
        }
    }

    fn rest(&mut self, now: Duration) {
        self.due = self.due.max(now.saturating_add(self.settings.min_pause));
        self.phase = Phase::Resting;
    }

    /// Gives up what is in flight and undecided.
    fn abort(&mut self, now: Duration, reason: AbortReason, actions: &mut Vec<Action>) {
        let (Phase::Collecting { flight, .. } | Phase::Writing { flight, .. }) = &self.phase else { return };
        let Flight { epoch, kind, .. } = flight.clone();
        actions.push(Action::Abort { epoch, kind: kind.clone(), reason });
        if let BarrierKind::Reconfigure(revision) = &kind {
            self.asked.reconfigure.get_or_insert_with(|| revision.clone());
        }
        self.rest(now);
        if kind.ends_tasks() {
            self.fail(Failure::LastEpochAborted(epoch), actions);
        }
    }

    /// The graph cannot go on.
    fn fail(&mut self, why: Failure, actions: &mut Vec<Action>) {
        if self.is_over() {
            return;
        }
        if let Phase::Collecting { flight, .. } | Phase::Writing { flight, .. } = &self.phase {
            let Flight { epoch, kind, .. } = flight.clone();
            if let BarrierKind::Reconfigure(revision) = &kind {
                self.asked.reconfigure.get_or_insert_with(|| revision.clone());
            }
            actions.push(Action::Abort { epoch, kind, reason: AbortReason::Failed });
        }
        self.phase = Phase::Over;
        actions.push(match self.asked.stop_by {
            Some(_) => Action::Halt { why },
            None => Action::Restart { why, unmet: self.unmet() },
        });
    }

    fn unmet(&mut self) -> Vec<BarrierKind> {
        let asked = std::mem::take(&mut self.asked);
        let savepoint = asked.savepoint.then_some(BarrierKind::Savepoint);
        savepoint.into_iter().chain(asked.reconfigure.map(BarrierKind::Reconfigure)).collect()
    }
}

impl Phase {
    fn flight(&self) -> Option<&Flight> {
        match self {
            Self::Resting | Self::Over => None,
            Self::Collecting { flight, .. }
            | Self::Writing { flight, .. }
            | Self::Moving { flight, .. }
            | Self::Committing { flight, .. } => Some(flight),
        }
    }
}

#[cfg(test)]
mod tests;
