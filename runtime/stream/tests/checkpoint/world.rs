//! Everything there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use millrace_stream::{
    Epoch, Generation, TaskId,
    checkpoint::{Coordinator, Decided, Ledger, Pointer, Settings, Taken},
};

use crate::faults::Fault;

/// How many workers there are. Each runs one task of every run: it reads a source of its own, keeps state, and writes to a
/// sink of its own.
pub const WORKERS: usize = 2;

/// Checkpoints are opened by a step of the model, so the interval never elapses.
pub const SETTINGS: Settings =
    Settings { interval: Duration::MAX, timeout: Duration::from_secs(1), min_pause: Duration::ZERO, retain: 1 };

/// The bounds of a check, and the mistake that is planted, if any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocol {
    /// How many runs there may be, one after or beside the other.
    pub generations: u64,
    /// The greatest number of an epoch.
    pub epochs: u64,
    /// How often something may crash.
    pub crashes: u8,
    /// How often an epoch may time out.
    pub timeouts: u8,
    /// What is done wrong.
    pub fault: Option<Fault>,
}

/// A state of everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct World {
    /// By generation, from 1. What has crashed or ended is `None`.
    pub runs: Vec<Option<Run>>,
    /// The checkpoint store.
    pub manifests: BTreeMap<Taken, Manifest>,
    /// The checkpoint store's files of state.
    pub files: BTreeSet<File>,
    /// The pointer.
    pub pointer: Option<Pointer>,
    /// What sinks hold and nobody sees.
    pub staged: BTreeSet<Rows>,
    /// By worker.
    pub sinks: [Sink; WORKERS],
    /// By worker: up to which row the source has forgotten.
    pub forgotten: [u8; WORKERS],
    /// What was sent. It stays there: it may arrive never, late and repeatedly.
    pub network: BTreeSet<Packet>,
    /// How often something has crashed.
    pub crashes: u8,
    /// How often an epoch has timed out.
    pub timeouts: u8,
    /// What the invariants speak of and nobody in the model knows.
    pub history: History,
}

/// A coordinator with its executor and tasks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Run {
    /// It has a generation, and nothing else.
    Born,
    /// It has claimed the pointer, which stood like this.
    Claimed(Option<Pointer>),
    /// It has read what is stored, and knows what to restore.
    Found(Box<Found>),
    /// It runs.
    Running(Box<Running>),
}

/// What a run found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Found {
    pub from: Option<(Taken, Manifest)>,
    pub start: Coordinator,
    pub first: Epoch,
    pub orphans: Vec<Taken>,
}

/// A run whose tasks work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Running {
    pub coordinator: Coordinator,
    /// The next epoch that it will open.
    pub next: Epoch,
    pub ledger: Ledger<Acknowledged>,
    /// By worker. What has crashed is `None`.
    pub tasks: [Option<Task>; WORKERS],
    /// Which sinks have committed the epoch that is being committed.
    pub committed: [bool; WORKERS],
}

/// Reads a row for every barrier, and shows it with the epoch that the barrier ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    /// The last row that it has read.
    pub position: u8,
    /// The last barrier that it has passed on.
    pub barrier: Option<Epoch>,
    /// The files that its state is in: the last two.
    pub files: Vec<File>,
    /// What it has acknowledged and does not know to be decided.
    pub undecided: Vec<(Epoch, Acknowledged)>,
}

/// What a task acknowledges.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Acknowledged {
    pub position: u8,
    pub files: Vec<File>,
    pub rows: Rows,
}

/// What a checkpoint is made of, by worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Manifest {
    /// `None`: the worker's acknowledgement is missing, which must not be.
    pub positions: [Option<u8>; WORKERS],
    pub files: [Vec<File>; WORKERS],
    pub rows: [Vec<Rows>; WORKERS],
}

/// A file of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct File {
    pub taken: Taken,
    pub worker: usize,
}

/// Rows that were staged together: `after` is the last row before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rows {
    pub taken: Taken,
    pub worker: usize,
    pub after: u8,
    pub last: u8,
}

/// A destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sink {
    /// What readers see, in the order in which it came.
    pub visible: Vec<u8>,
    /// The epochs that it has committed, in the order in which it did.
    pub committed: Vec<Epoch>,
}

/// What is under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Packet {
    /// To a worker's task.
    Barrier(Taken, usize),
    /// To the run: all that the task has acknowledged and does not know to be decided, its newest epoch last.
    Ack(Taken, usize, Vec<(Epoch, Acknowledged)>),
    /// To the store.
    Create(Taken, Manifest),
    /// To the pointer: from which epoch, and to what.
    Move(Taken, Option<Epoch>, Vec<Decided>),
    /// To a worker's sink.
    Commit(Taken, usize, Vec<Rows>),
    /// To the sources, up to which rows, and to the run's tasks.
    Forget(Taken, [u8; WORKERS]),
    /// To the store.
    Retire(Taken, BTreeSet<Taken>),
}

/// What has happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct History {
    /// Every epoch that was ever decided, in order, with the newest generation that had claimed the pointer then.
    pub decided: Vec<(Taken, Generation)>,
    /// Every epoch that was ever restored.
    pub restored: BTreeSet<Taken>,
    /// The replay points of the newest decided epoch, by worker.
    pub replay_points: [u8; WORKERS],
}

/// The task of a worker.
pub fn task(worker: usize) -> TaskId {
    TaskId { stage: "worker".into(), index: worker as u32 }
}
