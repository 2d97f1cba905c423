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
//! it was taken up is still the last one, and the plan that wrote it goes on from there ([`Trial`]). What is new in a plan and
//! cannot even be opened is not tried for long.
//!
//! While a next attempt is waited for, commands are served: a stop ends the wait, and so does an edit, which takes the place
//! of the plan that has failed.

use std::{sync::Arc, time::Duration};

use millrace_connectors::{SinkError, SourceError};
use millrace_crds::MoveSourceSpec;
use millrace_plan::{Edit, NodeKind, Plan, PlanError};
use millrace_state::{CheckpointStore, DataFolder, ErrorKind, Pointer, StateError, StoreResources};
use millrace_stream::{
    BarrierKind, Clock, Epoch, Generation, NodeName,
    checkpoint::{Failure, Refusal},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    blame::Blame,
    chain,
    commits::{self, CommitError},
    drive::{self, Driven, Inbox, Waited},
    launch::{Connectors, launch},
    metrics::Metrics,
    operator::OperatorError,
    recover::{self, Recovered, Turn},
    status::{JobEvent, JobPhase, Status},
    task::TaskError,
};

/// How often the tasks are started again without a completed checkpoint in between.
const MAX_ATTEMPTS: u32 = 5;
/// The same for a plan on trial of which something that it has new cannot be opened: about a second and a half.
const MAX_TRIAL_ATTEMPTS: u32 = 2;
/// The wait before the first of these; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The wait before whoever keeps the pointer is asked again. That is tried for as long as it takes, and is no plan's fault.
const POINTER_WAIT: Duration = Duration::from_secs(2);

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
    /// Where tasks run. What drives them runs elsewhere: all threads of theirs may be busy for seconds.
    pub tasks: tokio::runtime::Handle,
    /// How many bytes of keyed state all tasks together may keep in memory.
    pub memory_budget_bytes: usize,
    /// About how many rows a batch has.
    pub batch_rows: usize,
    /// If the newest checkpoint is damaged, or older than what was committed, an older one will do.
    pub allow_previous_checkpoint: bool,
    /// Start from this savepoint, whatever was decided after it.
    pub from_savepoint: Option<String>,
    /// Sources that begin at their beginning, whatever the checkpoint that is started from says of them.
    pub reset_sources: Vec<String>,
    /// Sources that go on from elsewhere, likewise.
    pub move_sources: Vec<MoveSourceSpec>,
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
    /// A source cannot go on from where it is asked to.
    #[error("source {node} cannot be moved")]
    Move {
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
    /// The checkpoints of the last run are elsewhere.
    #[error(
        "`checkpoints.storage` means {is}, where there are none, and the last run kept its checkpoints in {was}: they would stay behind, \
         and every row would be read and committed once more"
    )]
    StorageMoved {
        /// Where they are.
        was: String,
        /// Where they are looked for.
        is: String,
    },
    /// There were checkpoints, and nothing of them is there, not even the pointer to the newest.
    #[error(
        "there are no checkpoints in {place}, nor the pointer to the newest, although this data folder's pipeline has decided some{}: every \
         row would be read and committed once more", was.as_ref().map_or_else(String::new, |was| format!(", which the last run kept in {was}"))
    )]
    CheckpointsGone {
        /// Where they are looked for.
        place: String,
        /// Where the last run kept them, if that was elsewhere.
        was: Option<String>,
    },
    /// The checkpoints are older than what was committed.
    #[error(
        "the newest checkpoint that is there is {}, and {by} has rows of checkpoint {used}: the checkpoints are older than what was \
         committed, and rows since then would be committed once more", checkpoint.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string())
    )]
    Behind {
        /// What would be gone on from.
        checkpoint: Option<Epoch>,
        /// The newest that was decided or committed.
        used: Epoch,
        /// Who tells so.
        by: String,
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
    #[error("{}", halted(why, *decided))]
    Halted {
        /// Why.
        why: Failure,
        /// What stands.
        decided: Option<Epoch>,
    },
    /// The graph failed for a reason that is not a task's.
    #[error("the pipeline cannot go on: {0}")]
    Failed(Failure),
}

fn halted(why: &Failure, decided: Option<Epoch>) -> String {
    match (why, decided) {
        (Failure::CommitTimedOut(_), _) => {
            format!("stopped at a final checkpoint whose rows are not all shown yet: {why}; the next run shows them")
        }
        (_, Some(epoch)) => {
            format!("stopped without a final checkpoint: {why}; the next run goes on from checkpoint {}", epoch.0)
        }
        (_, None) => format!("stopped without a final checkpoint: {why}; the next run begins at the beginning"),
    }
}

impl JobError {
    /// Whether starting again may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Task { source, .. } => source.may_pass(),
            Self::Commit(CommitError { source, .. }) | Self::Sink { source, .. } => commits::may_pass(source),
            Self::Source { source, .. } | Self::Move { source, .. } => matches!(source, SourceError::Io { .. }),
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
    since: Option<Epoch>,
}

impl Trial {
    /// Whether the plan before can go on from where it left off.
    fn is_open(&self, cx: &JobContext) -> bool {
        last_checkpoint(cx) <= self.since
    }

    /// Whether a failure to start is that of a source or sink which the plan before did not have, or not so.
    fn is_to_blame(&self, plan: &Plan, error: &JobError) -> bool {
        let (JobError::Source { node, .. } | JobError::Sink { node, .. }) = error else { return false };
        let kind = |plan: &Plan| plan.node(node).map(|node| node.kind.clone());
        match (kind(plan), kind(&self.before)) {
            (Some(NodeKind::Source(new)), Some(NodeKind::Source(old))) => new.spec != old.spec,
            (Some(NodeKind::Sink(new)), Some(NodeKind::Sink(old))) => new.spec != old.spec,
            (is, _) => is.is_some(),
        }
    }
}

/// The last checkpoint that this process has completed.
fn last_checkpoint(cx: &JobContext) -> Option<Epoch> {
    cx.status.get().checkpoint.map(|checkpoint| checkpoint.epoch)
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
    plan: Plan,
    cx: &Arc<JobContext>,
    commands: &mut mpsc::Receiver<Command>,
) -> Result<Outcome, JobError> {
    let mut run = Run { plan, cx, claimed: None, attempts: Attempts::default(), trial: None, abandoned: Vec::new() };
    let mut inbox = Inbox::default();
    let mut first = true;
    let mut turn = Turn::First;
    loop {
        let ended = match recover::recover(&run.plan, cx, turn, &mut run.claimed, &mut run.abandoned).await {
            Ok(recovered) if recovered.finished => return Ok(Outcome::Finished { already: first }),
            Ok(recovered) => {
                turn = turn.next(recovered.epoch());
                run.attempts.note(recovered.epoch());
                one_generation(&run.plan, recovered, cx, commands, &mut inbox).await
            }
            Err(error) => Err(error),
        };
        if let Some(by) = run.taken_over(&ended).await {
            return Err(JobError::SteppedDown { by });
        }
        let (error, most) = match ended {
            Ok(Driven::Ended { kind: BarrierKind::Reconfigure(revision), epoch }) => {
                if let Some(edited) = inbox.take_edit(&revision) {
                    run.take_up(edited, Some(epoch));
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
            // The commit was tried until it was hopeless.
            Ok(Driven::Failed(error)) if matches!(*error, JobError::Commit(_)) => (*error, 0),
            Ok(Driven::Failed(error)) => (*error, MAX_ATTEMPTS),
            // Whoever starts a pipeline is there to see what is wrong.
            Err(error) if first => return Err(error),
            Err(error) => {
                let most = run.attempts_to_start(&error);
                (error, most)
            }
        };
        first = false;
        let Some(wait) = run.attempts.next(&error, most) else {
            run.roll_back(error)?;
            continue;
        };
        cx.metrics.restarts.add(1);
        cx.status.event(JobEvent::Restarting {
            error: chain(&error),
            blame: Blame::of(&error),
            attempt: run.attempts.failed,
            wait,
        });
        match inbox.wait(wait, commands, &run.plan, run.stored_plan()).await {
            Waited::Over => {}
            Waited::Stop => return Err(error),
            Waited::Edit(edited, answer) => {
                // Whoever asked may not care any more.
                let _ = answer.send(Ok(()));
                run.take_up_waiting(*edited);
            }
        }
    }
}

/// Which plan runs, and what to do when it cannot.
struct Run<'a> {
    plan: Plan,
    cx: &'a JobContext,
    /// The generation that was claimed last.
    claimed: Option<Generation>,
    attempts: Attempts,
    trial: Option<Trial>,
    /// Plans that were on trial and whose sinks may have staged what nobody needs.
    abandoned: Vec<Plan>,
}

impl Run<'_> {
    /// The generation that has taken the pipeline over, if that may be why this one has failed: whoever comes after it clears away
    /// what it has staged, and its tasks find that before its next checkpoint would be refused.
    async fn taken_over(&self, ended: &Result<Driven, JobError>) -> Option<Generation> {
        let error = match ended {
            Ok(Driven::Failed(error)) => error,
            Err(error) => error,
            Ok(_) => return None,
        };
        // Whoever keeps the pointer does not answer.
        if matches!(error, JobError::State(StateError::Pointer { .. })) {
            return None;
        }
        let latest = self.cx.pointer.read().await.ok().flatten();
        recover::successor(self.claimed, latest.map(|latest| latest.generation))
    }

    /// An edited plan takes the place of the one that wrote this checkpoint.
    fn take_up(&mut self, edited: Plan, since: Option<Epoch>) {
        let before = self.replace(edited);
        self.trial = Some(Trial { before, since });
    }

    /// An edited plan takes the place of one that waits for its next attempt. Both go on from the same checkpoint.
    fn take_up_waiting(&mut self, edited: Plan) {
        match self.trial.take_if(|trial| trial.is_open(self.cx)) {
            None => {
                let since = self.attempts.since.max(last_checkpoint(self.cx));
                self.abandoned.push(self.plan.clone());
                self.take_up(edited, since);
            }
            Some(trial) => {
                let failed = self.replace(edited);
                self.abandoned.push(failed);
                self.trial = Some(trial).filter(|trial| trial.before.revision != self.plan.revision);
            }
        }
        self.attempts.failed = 0;
    }

    fn replace(&mut self, edited: Plan) -> Plan {
        let before = std::mem::replace(&mut self.plan, edited);
        self.cx.status.event(JobEvent::Edited { from: before.revision.clone(), to: self.plan.revision.clone() });
        before
    }

    /// The plan that wrote the last checkpoint.
    fn stored_plan(&self) -> &Plan {
        let open = self.trial.as_ref().filter(|trial| trial.is_open(self.cx));
        open.map_or(&self.plan, |trial| &trial.before)
    }

    /// How often a plan is tried that fails to start like this.
    fn attempts_to_start(&self, error: &JobError) -> u32 {
        let trial = self.trial.as_ref().filter(|trial| trial.is_open(self.cx));
        match trial.is_some_and(|trial| trial.is_to_blame(&self.plan, error)) {
            true => MAX_TRIAL_ATTEMPTS,
            false => MAX_ATTEMPTS,
        }
    }

    /// Gives up a plan on trial for the one before it.
    ///
    /// # Errors
    ///
    /// The error, if it is on trial no more.
    fn roll_back(&mut self, error: JobError) -> Result<(), JobError> {
        let Some(Trial { before, .. }) = self.trial.take_if(|trial| trial.is_open(self.cx)) else { return Err(error) };
        let failed = std::mem::replace(&mut self.plan, before);
        let (from, to) = (failed.revision.clone(), self.plan.revision.clone());
        self.cx.status.event(JobEvent::RolledBack { from, to, error: chain(&error), blame: Blame::of(&error) });
        self.abandoned.push(failed);
        self.attempts = Attempts::default();
        Ok(())
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
    let mut running = launch(plan, &connectors, recovered.restored(), generation, cx).await?;
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

    /// How long to wait before the next attempt, of `most`; `None`: do not try again.
    fn next(&mut self, error: &JobError, most: u32) -> Option<Duration> {
        if matches!(error, JobError::State(StateError::Pointer { .. })) {
            return Some(POINTER_WAIT);
        }
        if !error.may_pass() || self.failed >= most {
            return None;
        }
        let wait = FIRST_WAIT * 2u32.pow(self.failed);
        self.failed += 1;
        Some(wait)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer() -> JobError {
        StateError::Pointer { action: "read", place: "here".to_owned(), source: "refused".into() }.into()
    }

    fn disk() -> JobError {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        StateError::Io { action: "write", path: "/data".into(), source }.into()
    }

    #[test]
    fn what_may_pass_is_tried_again_after_waits_that_double_and_then_given_up() {
        let mut attempts = Attempts::default();
        let waits: Vec<_> = (0..3).map(|_| attempts.next(&disk(), 2)).collect();
        assert_eq!(waits, [Some(FIRST_WAIT), Some(FIRST_WAIT * 2), None]);
    }

    #[test]
    fn whoever_claimed_last_is_followed_by_a_greater_generation_and_by_none_that_it_has_seen_or_claimed() {
        let successor = |claimed: Option<u64>, seen: Option<u64>| {
            recover::successor(claimed.map(Generation), seen.map(Generation)).map(|by| by.0)
        };
        assert_eq!(successor(Some(3), Some(4)), Some(4));
        assert_eq!(successor(Some(3), Some(3)), None);
        assert_eq!(successor(Some(4), Some(3)), None, "the claim of 4 has failed");
        assert_eq!(successor(Some(3), None), None);
        assert_eq!(successor(None, Some(3)), None, "a first start takes over");
    }

    #[test]
    fn a_pointer_that_is_out_of_reach_is_asked_for_as_long_as_it_takes_and_uses_up_no_attempt() {
        let mut attempts = Attempts::default();
        assert!((0..100).all(|_| attempts.next(&pointer(), 0) == Some(POINTER_WAIT)));
        assert_eq!(attempts.next(&disk(), 2), Some(FIRST_WAIT));
    }
}
