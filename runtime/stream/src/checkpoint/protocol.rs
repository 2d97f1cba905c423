//! What the coordinator hears and what it says.

use std::{collections::BTreeSet, fmt, time::Duration};

use crate::{
    BarrierKind, Epoch, Generation, TaskId,
    checkpoint::{Decided, Taken},
};

/// When checkpoints are taken, and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How long after one checkpoint was opened the next one is.
    pub interval: Duration,
    /// How long an epoch may take from its barrier to its manifest before it is given up. Also how long a stop may take.
    pub timeout: Duration,
    /// How long tasks work undisturbed at the least between the end of one checkpoint and the next, asked-for ones aside.
    pub min_pause: Duration,
    /// How many completed checkpoints are kept, besides all savepoints. At least one is.
    pub retain: u32,
}

/// Which part of the interval the first checkpoint comes after.
const FIRST_PART: u32 = 5;
/// How long that is at the least: an edit that fails before its first checkpoint is taken back, so rows have to flow before it.
const FIRST_AFTER: Duration = Duration::from_secs(1);

impl Settings {
    /// How long after the tasks have started their first checkpoint is opened: a fifth of the interval, but a second at the least,
    /// or the interval if that is shorter. People wait for what they have just started or edited, and its rows are seen with that
    /// checkpoint.
    pub fn first_after(&self) -> Duration {
        (self.interval / FIRST_PART).max(FIRST_AFTER).max(self.min_pause).min(self.interval)
    }
}

/// What the executor has seen. Times come beside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Nothing happened but time; due when [`Coordinator::next_deadline`](super::Coordinator::next_deadline) comes.
    Tick,
    /// Somebody asks for a barrier of this kind. It is taken at once if nothing is in flight, else as soon as that is
    /// over. What is asked for again before it is taken is taken once; of several plans the last one counts.
    Requested(BarrierKind),
    /// Every source has come to its end.
    SourcesEnded,
    /// The task has passed the epoch's barrier, and all that it wrote for it is durable. May come late and repeatedly.
    Acked {
        /// Which task.
        task: TaskId,
        /// Which epoch.
        epoch: Epoch,
    },
    /// The task is gone, or its machine is.
    TaskFailed {
        /// Which task.
        task: TaskId,
    },
    /// [`Action::WriteManifest`] has been tried.
    ManifestWritten {
        /// Which epoch's.
        epoch: Epoch,
        /// How it went.
        outcome: ManifestOutcome,
    },
    /// [`Action::MovePointer`] has been tried.
    PointerMoved {
        /// To which epoch.
        epoch: Epoch,
        /// How it went.
        outcome: PointerOutcome,
    },
    /// Every sink has committed the epoch.
    Committed {
        /// Which epoch.
        epoch: Epoch,
    },
    /// A sink has not committed the epoch. Those that have will be asked again, and have nothing to do then.
    CommitFailed {
        /// Which epoch.
        epoch: Epoch,
        /// How long to wait before the next try; `None`: another try fails too.
        retry_after: Option<Duration>,
    },
}

/// How the creation of a manifest went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ManifestOutcome {
    /// It is there, by this or an earlier try of this coordinator.
    Created,
    /// Another manifest has its name: a savepoint's that was called the same.
    NameTaken,
    /// It may or may not be there.
    Failed {
        /// How long to wait before the next try.
        retry_after: Duration,
    },
}

/// How the move of the pointer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PointerOutcome {
    /// It points to the epoch, by this or an earlier try of this coordinator: the epoch is decided.
    Moved,
    /// A newer generation has claimed it.
    Fenced {
        /// Which one.
        by: Generation,
    },
    /// It is not what this coordinator left ([`Advance::Lost`](super::Advance::Lost)).
    Lost,
    /// No answer: it may or may not have moved.
    Unknown {
        /// How long to wait before the next try.
        retry_after: Duration,
    },
}

/// What the executor is to do. Actions of one list are begun in order; those that take time come back as events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a barrier through the graph, from every source.
    Inject {
        /// Its epoch.
        epoch: Epoch,
        /// Its kind.
        kind: BarrierKind,
    },
    /// Create the epoch's manifest, whose name tells epoch and generation, if it is not there yet, from what every task
    /// acknowledged (see [`Ledger`](super::Ledger)). Answer: [`Event::ManifestWritten`].
    WriteManifest {
        /// Which epoch's.
        epoch: Epoch,
        /// For the manifest.
        kind: BarrierKind,
    },
    /// Move the pointer by [`advance`](super::advance), under this coordinator's generation. Answer:
    /// [`Event::PointerMoved`].
    MovePointer {
        /// To which epoch.
        epoch: Epoch,
        /// From which epoch; `None`: nothing was decided yet.
        from: Option<Epoch>,
        /// What the pointer is to say of kept epochs; the last one is `epoch`.
        decided: Vec<Decided>,
    },
    /// The epoch is decided: tell the sources, which may forget what came before it, and whoever asked for it.
    NotifyDecided {
        /// Which epoch.
        epoch: Epoch,
        /// What it was taken for.
        kind: BarrierKind,
    },
    /// Commit what the epoch's manifest holds for every sink. Answer: [`Event::Committed`] or [`Event::CommitFailed`].
    CommitSinks {
        /// Which epoch.
        epoch: Epoch,
    },
    /// Delete the manifests that are older than `decided` and not in `keep`, and the files that [`retire`](super::retire)
    /// names. No answer: what remains is found by the next retirement or recovery.
    Retire {
        /// The newest decided epoch. Manifests after it are in the making.
        decided: Epoch,
        /// Whose manifests and files stay.
        keep: BTreeSet<Taken>,
    },
    /// The epoch is given up, and the one before it stands. What its tasks have acknowledged for their sinks, or will yet
    /// acknowledge, belongs to the next epoch.
    Abort {
        /// Which epoch.
        epoch: Epoch,
        /// What it was taken for.
        kind: BarrierKind,
        /// Why.
        reason: AbortReason,
    },
    /// A newer generation has taken over: end the tasks, and touch nothing that is shared. Last word.
    StepDown {
        /// Who has taken over.
        by: Generation,
    },
    /// The epoch is decided and committed, and the tasks have ended with it. Last word.
    Ended {
        /// The last epoch.
        epoch: Epoch,
        /// What follows: the new plan starts from the epoch, the pipeline is finished, or it stops for now.
        kind: BarrierKind,
        /// What was asked for and not done, to be asked of the next coordinator.
        unmet: Vec<BarrierKind>,
    },
    /// The graph cannot go on: end the tasks, and start it again from the last decided epoch. Last word.
    Restart {
        /// Why.
        why: Failure,
        /// What was asked for and not done, to be asked of the next coordinator.
        unmet: Vec<BarrierKind>,
    },
    /// As [`Self::Restart`], but a stop was asked for: start nothing again. The last decided epoch stands. Last word.
    Halt {
        /// Why there is no final checkpoint.
        why: Failure,
    },
}

/// Why an epoch was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AbortReason {
    /// It took longer than [`Settings::timeout`].
    TimedOut,
    /// The graph restarts or ends.
    Failed,
    /// Another manifest has its name.
    NameTaken,
}

/// Why the graph cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// A task is gone.
    TaskFailed(TaskId),
    /// The barrier that ends the tasks was given up, and some have ended.
    LastEpochAborted(Epoch),
    /// A sink refuses to commit a decided epoch.
    CommitRefused(Epoch),
    /// The pointer is not what this coordinator left: something else has written or removed it.
    PointerLost,
    /// A stop took longer than [`Settings::timeout`].
    StopTimedOut,
    /// The epoch at which it was to stop is decided, and its commit took longer than [`Settings::timeout`].
    CommitTimedOut(Epoch),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TaskFailed(task) => write!(f, "task {task} is gone"),
            Self::LastEpochAborted(epoch) => write!(f, "checkpoint {epoch}, with which the tasks end, was given up"),
            Self::CommitRefused(epoch) => write!(f, "a sink refuses to commit checkpoint {epoch}"),
            Self::PointerLost => f.write_str("the pointer was written or removed by something else"),
            Self::StopTimedOut => f.write_str("it was not completed within `checkpoints.timeout`"),
            Self::CommitTimedOut(epoch) => {
                write!(f, "sinks did not commit checkpoint {epoch} within `checkpoints.timeout`")
            }
        }
    }
}
