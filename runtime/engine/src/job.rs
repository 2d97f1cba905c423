//! A pipeline's life in one process: recover, run, and start again when that is called for.
//!
//! ```text
//!       ┌──────────────── an edit is taken up, or a task failed ───────────────┐
//!       ▼                                                                      │
//! claim the pointer ─▶ recover ─▶ commit again ─▶ launch ─▶ drive until the last word ─▶ finished, stopped, failed
//! ```
//!
//! Every turn of the loop is a generation of its own, and comes in the same way: from the last decided checkpoint.
//!
//! An edited plan is on trial until it has completed a checkpoint. If it fails for good before that, the checkpoint at which
//! it was taken up is still the last one, and the plan that wrote it goes on from there ([`Trial`]).

use std::{sync::Arc, time::Duration};

use millrace_connectors::{SinkError, SourceError};
use millrace_plan::{Edit, Plan, PlanError};
use millrace_state::{CheckpointStore, DataFolder, ErrorKind, Pointer, StateError, StoreResources};
use millrace_stream::{
    BarrierKind, Clock, Epoch, Generation, NodeName,
    checkpoint::{Failure, Refusal},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    blame::Blame,
    commits::{self, CommitError},
    drive::{self, Driven, Inbox},
    launch::{Connectors, launch},
    metrics::Metrics,
    operator::OperatorError,
    recover::{self, Recovered, Turn},
    status::{JobEvent, JobPhase, Status},
    task::TaskError,
};

/// How often the tasks are started again without a completed checkpoint in between.
const MAX_ATTEMPTS: u32 = 5;
/// The wait before the first of these; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// What a job is given.
pub struct JobContext {
    /// The folder that is ours.
    pub folder: DataFolder,
    /// Where checkpoints go.
    pub store: CheckpointStore,
    /// Which checkpoint counts.
    pub pointer: Arc<dyn Pointer>,
    /// What all task stores share.
    pub resources: StoreResources,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is shown.
    pub status: Arc<Status>,
    /// How many bytes of keyed state all tasks together may keep in memory.
    pub memory_budget_bytes: usize,
    /// About how many rows a batch has.
    pub batch_rows: usize,
    /// If the newest checkpoint is damaged, the one before it will do.
    pub allow_previous_checkpoint: bool,
    /// Start from this savepoint, whatever was decided after it.
    pub from_savepoint: Option<String>,
    /// Sources that begin at their beginning, whatever the checkpoint that is started from says of them.
    pub reset_sources: Vec<String>,
}

/// What can be asked of a running job.
#[derive(Debug)]
pub enum Command {
    /// Take a savepoint; the answer is its epoch.
    Savepoint(oneshot::Sender<Result<Epoch, String>>),
    /// Stop at a final checkpoint.
    Stop,
    /// Take up a new plan at a barrier.
    Edit {
        /// The plan.
        plan: Box<Plan>,
        /// What came of it.
        reply: oneshot::Sender<Result<(), String>>,
    },
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every row is read, every window closed, everything committed.
    Finished {
        /// Whether that was so already before this run.
        already: bool,
    },
    /// Stopped as asked; the next run goes on from this checkpoint.
    Stopped {
        /// The last decided one.
        epoch: Option<Epoch>,
    },
}

/// Why a job ended badly, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A source cannot be used.
    #[error("source {node} failed")]
    Source {
        /// Which.
        node: NodeName,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// A sink cannot be used.
    #[error("sink {node} failed")]
    Sink {
        /// Which.
        node: NodeName,
        /// Why.
        #[source]
        source: SinkError,
    },
    /// An operator cannot be made or restored.
    #[error("{node} failed")]
    Operator {
        /// Which transform.
        node: NodeName,
        /// Why.
        #[source]
        source: OperatorError,
    },
    /// A task failed.
    #[error("task {task} failed")]
    Task {
        /// Which.
        task: String,
        /// Why.
        #[source]
        source: TaskError,
    },
    /// A decided epoch could not be shown to readers.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// State could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The stored checkpoints cannot be resumed from as they are.
    #[error(transparent)]
    Refused(Refusal),
    /// The manifests differ from the plan of the stored state in a way that would lose some of it.
    #[error("the manifests differ from the pipeline that the data folder belongs to:\n{}", refusal(.0))]
    EditRefused(Box<Edit>),
    /// The stored plan cannot be compiled by this release.
    #[error("the plan of checkpoint {epoch} cannot be compiled: {}", errors.first().map(ToString::to_string).unwrap_or_default())]
    StoredPlan {
        /// Whose plan it is.
        epoch: Epoch,
        /// Why.
        errors: Vec<PlanError>,
    },
    /// The data folder belongs to another pipeline.
    #[error("the data folder belongs to pipeline {found}, not to {expected}: give each pipeline a folder of its own")]
    OtherPipeline {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// There is no such savepoint.
    #[error("there is no savepoint {name}; there are: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    NoSavepoint {
        /// The name that was given.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// Another process has taken the pipeline over.
    #[error("generation {by} has taken the pipeline over; this one has stepped down")]
    SteppedDown {
        /// Who.
        by: Generation,
    },
    /// A stop was asked for, and its checkpoint could not be completed.
    #[error("stopped without a final checkpoint ({why:?}); the next run goes on from checkpoint {}", decided.map_or_else(|| "0".to_owned(), |epoch| epoch.to_string()))]
    Halted {
        /// Why.
        why: Failure,
        /// What stands.
        decided: Option<Epoch>,
    },
    /// The graph failed for a reason that is not a task's.
    #[error("the pipeline cannot go on: {0:?}")]
    Failed(Failure),
}

impl JobError {
    /// Whether starting again may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Task { source, .. } => source.may_pass(),
            Self::Commit(error) => commits::may_pass(&error.source),
            Self::Sink { source, .. } => matches!(source, SinkError::Io { .. } | SinkError::Conflict { .. }),
            Self::Source { source, .. } => matches!(source, SourceError::Io { .. }),
            Self::State(error) => matches!(error.kind(), ErrorKind::Retry | ErrorKind::Restart),
            Self::Failed(failure) => matches!(failure, Failure::LastEpochAborted(_)),
            _ => false,
        }
    }
}

/// What a pipeline starts again after.
#[derive(Debug, Default)]
struct Attempts {
    failed: u32,
    since: Option<Epoch>,
}

/// An edited plan that has not completed a checkpoint yet.
struct Trial {
    /// The plan that ran before.
    before: Plan,
    /// The checkpoint at which the edit was taken up.
    since: Epoch,
}

impl Trial {
    /// Whether the plan before can go on from where it left off.
    fn is_open(&self, cx: &JobContext) -> bool {
        cx.status.get().checkpoint.is_none_or(|checkpoint| checkpoint.epoch <= self.since)
    }
}

/// Runs a pipeline to its end.
///
/// # Errors
///
/// [`JobError`] if it cannot be started, or fails for a reason that starting again does not cure.
pub async fn run(plan: Plan, cx: Arc<JobContext>, mut commands: mpsc::Receiver<Command>) -> Result<Outcome, JobError> {
    cx.status.begin();
    let ended = run_generations(plan, &cx, &mut commands).await;
    cx.status.update(|state| {
        state.phase = match &ended {
            Ok(Outcome::Finished { .. }) => JobPhase::Finished,
            Ok(Outcome::Stopped { .. }) => JobPhase::Stopped,
            Err(error) => {
                state.last_error = Some(error.to_string());
                JobPhase::Failed
            }
        };
    });
    ended
}

async fn run_generations(
    mut plan: Plan,
    cx: &Arc<JobContext>,
    commands: &mut mpsc::Receiver<Command>,
) -> Result<Outcome, JobError> {
    let mut attempts = Attempts::default();
    let mut inbox = Inbox::default();
    let mut first = true;
    let mut turn = Turn::First;
    let mut trial: Option<Trial> = None;
    loop {
        let ended = match recover::recover(&plan, cx, turn).await {
            Ok(recovered) if recovered.finished => return Ok(Outcome::Finished { already: first }),
            Ok(recovered) => {
                turn = turn.next(recovered.epoch());
                attempts.note(recovered.epoch());
                one_generation(&plan, recovered, cx, commands, &mut inbox).await
            }
            Err(error) => Err(error),
        };
        let error = match ended {
            Ok(Driven::Ended { kind: BarrierKind::Reconfigure(revision), epoch }) => {
                if let Some(edited) = inbox.take_edit(&revision) {
                    let before = std::mem::replace(&mut plan, edited);
                    cx.status.event(JobEvent::Edited { from: before.revision.clone(), to: plan.revision.clone() });
                    trial = Some(Trial { before, since: epoch });
                }
                first = false;
                continue;
            }
            Ok(Driven::Ended { kind: BarrierKind::Drain, .. }) => return Ok(Outcome::Finished { already: false }),
            Ok(Driven::Ended { epoch, .. }) => return Ok(Outcome::Stopped { epoch: Some(epoch) }),
            Ok(Driven::Halted { why, decided, cause }) => {
                return Err(cause.map_or(JobError::Halted { why, decided }, |cause| *cause));
            }
            Ok(Driven::SteppedDown { by }) => return Err(JobError::SteppedDown { by }),
            Ok(Driven::Failed(error)) => *error,
            // Whoever starts a pipeline is there to see what is wrong.
            Err(error) if first => return Err(error),
            Err(error) => error,
        };
        first = false;
        if let Err(error) = attempts.wait(error, cx).await {
            let Some(Trial { before, .. }) = trial.take_if(|trial| trial.is_open(cx)) else { return Err(error) };
            let failed = std::mem::replace(&mut plan, before);
            let (from, to) = (failed.revision, plan.revision.clone());
            cx.status.event(JobEvent::RolledBack { from, to, error: chain(&error), blame: Blame::of(&error) });
            attempts = Attempts::default();
        }
    }
}

async fn one_generation(
    plan: &Plan,
    recovered: Recovered,
    cx: &Arc<JobContext>,
    commands: &mut mpsc::Receiver<Command>,
    inbox: &mut Inbox,
) -> Result<Driven, JobError> {
    let connectors = Connectors::of(plan)?;
    let generation = recovered.generation;
    let mut running = launch(plan, &connectors, recovered.manifest.as_ref(), generation, cx).await?;
    cx.folder.retain_tasks(&running.ids)?;
    let restored = recovered.epoch();
    cx.status.update(|state| {
        state.generation = Some(generation);
        state.restored_from = restored;
    });
    cx.status.event(JobEvent::Running { restored, revision: plan.revision.clone() });
    let driven = drive::drive(plan, recovered, &mut running, cx, commands, inbox).await;
    // Nothing of this generation may still run when the next one begins.
    running.tasks.shutdown().await;
    driven
}

impl Attempts {
    /// The tasks are about to start from this epoch: a new one means that there was progress.
    fn note(&mut self, from: Option<Epoch>) {
        if from != self.since {
            *self = Self { failed: 0, since: from };
        }
    }

    /// Waits until it is time for the next attempt.
    ///
    /// # Errors
    ///
    /// The error, if another attempt would be in vain, or there were enough.
    async fn wait(&mut self, error: JobError, cx: &JobContext) -> Result<(), JobError> {
        let Some(wait) = self.next(&error) else { return Err(error) };
        cx.metrics.restarts.add(1);
        let (blame, attempt) = (Blame::of(&error), self.failed);
        cx.status.event(JobEvent::Restarting { error: chain(&error), blame, attempt, wait });
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// How long to wait before the next attempt; `None`: do not try again.
    fn next(&mut self, error: &JobError) -> Option<Duration> {
        if !error.may_pass() || self.failed >= MAX_ATTEMPTS {
            return None;
        }
        let wait = FIRST_WAIT * 2u32.pow(self.failed);
        self.failed += 1;
        Some(wait)
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // A transparent error says the same as its source.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// What is refused of an edit, a line a node.
pub fn refusal(edit: &Edit) -> String {
    let refused = edit.nodes.iter().filter(|change| change.class == millrace_plan::EditClass::Refused);
    refused.map(|change| format!("  {}: {}", change.node, change.why)).collect::<Vec<_>>().join("\n")
}

/// What an edit would lose or change, for [`JobError::EditRefused`] and for answers to [`Command::Edit`].
pub(crate) fn refused_edit(old: &Plan, new: &Plan) -> Option<Edit> {
    let edit = millrace_plan::diff(old, new);
    (edit.class == millrace_plan::EditClass::Refused).then_some(edit)
}
