//! The fifth step: what the Pipeline's status says, from what was observed and decided. It never says more than was seen.

mod numbers;
pub mod pods;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use millrace_crds::{
    ChangeResult, ChangeStatus, EditClass, Phase, PipelineStatus, RevisionStatus, SavepointStatus, StartedStatus,
};
use millrace_plan::handover::{Problem, ProblemOf, ReportDocument, RunPhase};
use millrace_stream::Timestamp;
use serde_json::Value;

pub use self::numbers::without_numbers;
use self::pods::{PodState, crash_before, pod_state};
use super::{
    decide::{Decision, is_finished},
    dereference::Observed,
    history,
    silence::Silence,
    trial::is_of,
    unfit::Obstacle,
};
use crate::{
    clock::time,
    conditions::{Reason, Say, Type, conditions},
    labels,
};

/// The status.
pub fn status(
    observed: &Observed,
    decision: &Decision,
    before: &PipelineStatus,
    obstacle: Option<Obstacle<'_>>,
    now: Timestamp,
) -> PipelineStatus {
    let facts = Facts::of(observed, decision, before, obstacle);
    let report = observed.report.as_ref();
    let generation = observed.pipeline.generation();
    let says = facts.says();
    let is_ready = facts.pod == PodState::Ready;
    let mut status = PipelineStatus {
        observed_generation: Some(generation),
        phase: Some(facts.phase()),
        revision: facts.revision().or_else(|| before.revision.clone()),
        replicas: Some(i32::from(is_ready)),
        selector: Some(labels::selector_text(observed.name())),
        change: decision.change.clone().or_else(|| last_change(before, decision)),
        history: history::next(before, decision, facts.settled_revision(), now),
        rejected: decision.rejected.clone(),
        savepoint: facts.savepoint(now).or_else(|| before.savepoint.clone()),
        started_from: report.and_then(|report| report.started.as_ref()).map_or_else(
            || before.started_from.clone(),
            |said| {
                Some(StartedStatus {
                    token: said.token.clone(),
                    epoch: said.epoch.map(|epoch| epoch.0),
                    error: said.error.clone(),
                })
            },
        ),
        conditions: conditions(&before.conditions, says, generation, &time(now)),
        ..PipelineStatus::default()
    };
    let flows = is_ready || (facts.flows() && !facts.is_unproved());
    numbers::fill(&mut status, report, before, flows && observed.silence.is_none());
    status
}

/// The edit that was last. One that was refused and is asked for no more is none.
fn last_change(before: &PipelineStatus, decision: &Decision) -> Option<ChangeStatus> {
    let change = before.change.clone()?;
    let was_foreseen = || {
        let reconciling = before.conditions.iter().find(|condition| condition.type_ == Type::Reconciling.name());
        let was_made = |made: &RevisionStatus| Some(&made.revision) == change.to.as_ref() && made.class == change.class;
        reconciling.is_some_and(|condition| condition.reason == Reason::DryRun.name())
            && !before.history.first().is_some_and(was_made)
    };
    let reason = match change.class {
        EditClass::Refused if decision.refusal.is_none() => "the edit that was refused is undone",
        class if class != EditClass::Refused && class != EditClass::None && was_foreseen() => {
            "the edit that was foreseen is asked for no more"
        }
        _ => return Some(change),
    };
    let revision = decision.document.as_ref().map(|document| document.revision.0.clone());
    let reason = Some(reason.to_owned());
    Some(ChangeStatus { class: EditClass::None, from: revision.clone(), to: revision, reason })
}

/// What the conditions follow from.
struct Facts<'a> {
    observed: &'a Observed,
    decision: &'a Decision,
    before: &'a PipelineStatus,
    obstacle: Option<Obstacle<'a>>,
    report: Option<&'a ReportDocument>,
    pod: PodState,
}

/// How far the Pipeline is from what is asked for.
struct Standing {
    is_ready: bool,
    reason: Reason,
    message: String,
    /// Whether it gets there by itself; `None` where there is nowhere to get to.
    moves: Option<bool>,
}

impl<'a> Facts<'a> {
    fn of(
        observed: &'a Observed,
        decision: &'a Decision,
        before: &'a PipelineStatus,
        obstacle: Option<Obstacle<'a>>,
    ) -> Self {
        let report = observed.report.as_ref();
        let mut pod = pod_state(observed.pod.as_deref());
        let crash =
            crash_before(observed.pod.as_deref()).filter(|_| matches!(pod, PodState::NotReady { runs: true, .. }));
        if let Some((crash, since)) = crash
            && report.is_none_or(|report| (report.at.0 as i64) < since.0.as_millisecond())
        {
            // The process that is there has not said anything yet.
            pod = crash;
        }
        Self { observed, decision, before, obstacle, report, pod }
    }

    /// The edit that is on its way: one that is about to be written, or one that is written and not there yet.
    fn change(&self) -> Option<&'a ChangeStatus> {
        if self.decision.is_dry_run || (self.is_for_account() && self.decision.change.is_none()) {
            return None;
        }
        let is_on_its_way = self.is_behind() || self.is_rolling();
        let change = self.decision.change.as_ref().or(self.before.change.as_ref().filter(|_| is_on_its_way));
        change.filter(|change| !matches!(change.class, EditClass::None | EditClass::Refused))
    }

    /// Whether its pod is replaced because it has no valid token any more.
    fn is_for_account(&self) -> bool {
        self.observed.account_made_anew().is_some()
    }

    /// Whether the StatefulSet is about to replace its pod.
    fn is_rolling(&self) -> bool {
        let Some(set) = self.observed.stateful_set.as_deref() else { return false };
        let Some(status) = &set.status else { return set.metadata.generation.is_some() };
        status.observed_generation < set.metadata.generation
            || (status.update_revision.is_some() && status.update_revision != status.current_revision)
    }

    fn run_phase(&self) -> Option<RunPhase> {
        self.report.map(|report| report.phase)
    }

    /// Whether what stands in the report is about a process that is there.
    fn is_live(&self) -> bool {
        match self.pod {
            PodState::Ready | PodState::NotReady { runs: true, .. } => true,
            PodState::Trouble { .. } => self.runs_beside_trouble(),
            PodState::Absent | PodState::NotReady { runs: false, .. } => false,
        }
    }

    /// Whether the trouble is another container's: the runtime's own runs, and has said something since it was started.
    fn runs_beside_trouble(&self) -> bool {
        let running = self.observed.pod.as_deref().and_then(pods::running);
        let since = running.and_then(|running| running.started_at.as_ref());
        let (Some(since), Some(report)) = (since, self.report) else { return false };
        report.at.0 as i64 >= since.0.as_millisecond()
    }

    /// What the process that is there is doing; what one before it has said is past.
    fn live_phase(&self) -> Option<RunPhase> {
        self.run_phase().filter(|_| self.is_live())
    }

    /// Whether rows flow, as the process that is there says. Its pod need not be ready: a kubelet that is away, or slow, cannot
    /// say that it is.
    fn flows(&self) -> bool {
        let is_its = |report| self.observed.pod.as_deref().is_some_and(|pod| is_of(report, pod));
        matches!(self.live_phase(), Some(RunPhase::Running | RunPhase::Stopping))
            && (self.pod == PodState::Ready || self.report.is_some_and(is_its))
    }

    /// Whether what is being started has been given up before: it is tried again from time to time, and until it runs what was
    /// said of it stands. A plan that cannot be read does not get better by that.
    fn is_given_up(&self) -> bool {
        let Some(problem) = self.report.and_then(|report| report.problem.as_ref()) else { return false };
        // Over an edit that is refused the condition speaks of that.
        let had_failed = self.before.phase == Some(Phase::Failed);
        let was_stalled = of(&self.before.conditions, Type::Stalled)
            .is_some_and(|(status, reason, _)| status == "True" && (had_failed || reason == reason_of(problem).name()));
        problem.of == ProblemOf::Plan || (was_stalled && self.before.revision == self.revision())
    }

    /// Whether what has been given up has begun to run once more, and has not come through a checkpoint: rows that made it fail
    /// may come again. Of a sink that does not commit, rows flow all the same.
    fn is_unproved(&self) -> bool {
        let problem = self.report.and_then(|report| report.problem.as_ref());
        let is_of_tasks = problem.is_some_and(|problem| matches!(problem.of, ProblemOf::Source | ProblemOf::Runtime));
        is_of_tasks && self.live_phase() == Some(RunPhase::Running) && self.is_given_up()
    }

    fn is_suspended(&self) -> bool {
        self.decision.document.as_ref().is_some_and(|document| document.suspend)
            && self.decision.replicas == 0
            && self.pod == PodState::Absent
    }

    fn is_finished(&self) -> bool {
        match (&self.decision.document, self.report) {
            (Some(document), Some(report)) => !document.suspend && is_finished(report, document),
            _ => false,
        }
    }

    /// What came of the last savepoint, as the runtime says. Where nothing runs, the answer to a wish for one is the operator's.
    fn savepoint(&self, now: Timestamp) -> Option<SavepointStatus> {
        let said = self.report.and_then(|report| report.savepoint.as_ref());
        // A token that was answered with an error is no wish any more.
        let asked = self.observed.pipeline.spec.pointer("/savepoint/token").and_then(Value::as_str);
        let refused = self.before.savepoint.as_ref().filter(|before| before.error.is_some());
        if let Some(refused) = refused.filter(|refused| asked == Some(&refused.token))
            && said.is_none_or(|said| said.token != refused.token)
        {
            return Some(refused.clone());
        }
        let wish = self.decision.document.as_ref().and_then(|document| document.savepoint.as_ref());
        let is_answered = |token: &String| {
            said.is_some_and(|said| said.token == *token) || self.observed.savepoint_token.as_ref() == Some(token)
        };
        let unanswered = wish.map(|wish| &wish.token).filter(|token| !is_answered(token));
        let state = match self.pod {
            PodState::Absent if self.is_finished() => Some("has finished"),
            PodState::Absent if self.is_suspended() => Some("is suspended"),
            _ => None,
        };
        if let (Some(token), Some(state)) = (unanswered, state) {
            let before = self.before.savepoint.as_ref().filter(|before| before.token == *token);
            return before.cloned().or_else(|| {
                let error = format!("the pipeline {state}: nothing runs that a savepoint could be taken of");
                Some(SavepointStatus { token: token.clone(), name: None, error: Some(error), at: time(now) })
            });
        }
        said.map(|said| SavepointStatus {
            token: said.token.clone(),
            name: said.name.clone(),
            error: said.error.clone(),
            at: time(said.at),
        })
    }

    /// Whether the runtime runs another revision than the one that it is to run.
    fn is_behind(&self) -> bool {
        let to = self.decision.document.as_ref().map(|document| &document.revision);
        to.is_some_and(|to| self.report.and_then(|report| report.revision.as_ref()) != Some(to))
    }

    /// The revision that runs, or is being started.
    fn revision(&self) -> Option<String> {
        let said = self.report.and_then(|report| report.revision.as_ref());
        said.map(|revision| revision.0.clone())
    }

    /// The revision of which it is certain that it runs as it is to.
    fn settled_revision(&self) -> Option<&'a str> {
        let runs = matches!(self.run_phase()?, RunPhase::Running) && self.pod == PodState::Ready;
        let ended = matches!(self.run_phase()?, RunPhase::Finished | RunPhase::Suspended);
        if self.change().is_some() || !(runs || ended) {
            return None;
        }
        self.report?.revision.as_ref().map(|revision| revision.0.as_str())
    }

    fn phase(&self) -> Phase {
        if self.is_finished() {
            return Phase::Finished;
        }
        if self.is_suspended() {
            return Phase::Suspended;
        }
        if self.decision.document.is_none() && !self.flows() {
            let waits = self.decision.refusal.as_ref().is_none_or(|refusal| refusal.reason == Reason::UnknownReference);
            return if waits { Phase::Pending } else { Phase::Failed };
        }
        if self.is_unheard() {
            return Phase::Unknown;
        }
        let is_new = self.change().is_some() && self.observed.stateful_set.is_some() && self.unfit().is_none();
        match (&self.pod, self.live_phase()) {
            (PodState::Trouble { may_pass: false, .. }, _) if !self.flows() => Phase::Failed,
            (PodState::Trouble { reason: Reason::Crashing | Reason::OutOfMemory, .. }, _) if !self.flows() => {
                Phase::Failed
            }
            (_, Some(RunPhase::Failed)) => Phase::Failed,
            (_, Some(RunPhase::Starting)) if self.is_given_up() => Phase::Failed,
            _ if self.is_unproved() => Phase::Failed,
            _ if self.flows() && (is_new || self.is_behind()) => Phase::Changing,
            _ if self.flows() => Phase::Running,
            (PodState::Ready | PodState::NotReady { runs: true, .. }, _) => Phase::Restoring,
            (PodState::Absent | PodState::NotReady { .. } | PodState::Trouble { .. }, _) if is_new => Phase::Changing,
            _ if self.unfit().is_some() => Phase::Failed,
            (PodState::Absent | PodState::NotReady { .. } | PodState::Trouble { .. }, _) => Phase::Pending,
        }
    }

    /// How what runs fares, whatever was asked for.
    fn running(&self) -> Standing {
        let standing =
            |is_ready, reason, message: &str, moves| Standing { is_ready, reason, message: message.to_owned(), moves };
        let document = self.decision.document.as_ref();
        if self.is_finished() {
            return standing(true, Reason::Finished, "every row is read and committed", None);
        }
        if document.is_some_and(|document| document.suspend) {
            return match self.is_suspended() {
                true => standing(false, Reason::Suspended, "stopped, as `suspend` says", None),
                false => {
                    let problem = self.report.and_then(|report| report.problem.as_ref()).filter(|_| self.is_live());
                    let problem = problem.map(said).or_else(|| self.awaited());
                    let problem = problem.map(|problem| format!(": {problem}")).unwrap_or_default();
                    let message = format!("on the way to the savepoint of the suspension{problem}");
                    standing(false, Reason::Suspending, &message, Some(true))
                }
            };
        }
        if self.is_for_account() && self.is_live() {
            let message = format!(
                "pod {}-0 is replaced: its ServiceAccount was made anew after it, and the API server takes its token no more",
                self.observed.name()
            );
            return standing(false, Reason::Restarting, &message, Some(true));
        }
        if let Some(silence) = self.silence().filter(|_| self.is_unheard()) {
            let message = silence.message(self.observed.name());
            return standing(false, Reason::NotReporting, &self.because(&message), Some(true));
        }
        match (&self.pod, self.live_phase()) {
            (PodState::Trouble { reason, message, may_pass }, _) => standing(false, *reason, message, Some(*may_pass)),
            (PodState::Absent, _) => standing(false, Reason::Starting, &self.because(&self.absence()), Some(true)),
            (_, Some(RunPhase::Failed)) => {
                let (reason, message) = self.problem();
                standing(false, reason, &message, Some(false))
            }
            _ if self.is_unproved() => {
                let (reason, message) = self.problem();
                standing(false, reason, &message, Some(false))
            }
            (_, Some(RunPhase::Restarting)) => {
                let (_, message) = self.problem();
                standing(false, Reason::Restarting, &message, Some(true))
            }
            (_, Some(RunPhase::Starting)) => match self.report.and_then(|report| report.problem.as_ref()) {
                Some(_) if self.is_given_up() => {
                    let (reason, message) = self.problem();
                    standing(false, reason, &message, Some(false))
                }
                Some(problem) => standing(false, Reason::Restarting, &said(problem), Some(true)),
                None => standing(false, Reason::Restoring, "the runtime takes up its last checkpoint", Some(true)),
            },
            (PodState::NotReady { message, .. }, _) if self.flows() => {
                standing(false, Reason::Starting, &format!("rows flow, but {message}"), Some(true))
            }
            (PodState::NotReady { message, .. }, _) => {
                standing(false, Reason::Starting, &self.because(message), Some(true))
            }
            // The probe may be quicker than the report.
            (PodState::Ready, Some(RunPhase::Running | RunPhase::Stopping)) => {
                standing(true, Reason::Running, "rows flow", None)
            }
            (PodState::Ready, _) => {
                standing(false, Reason::Starting, "the runtime has not reported yet that rows flow", Some(true))
            }
        }
    }

    /// What is waited for, with what keeps it from coming, where that is known.
    fn because(&self, message: &str) -> String {
        match &self.observed.warning {
            Some(warning) => format!("{message}: {}", warning.message),
            None => message.to_owned(),
        }
    }

    /// Why there is no pod to speak of. One that does not end is in the way of the next: they have one name.
    fn absence(&self) -> String {
        self.observed.pod.as_deref().and_then(pods::going).unwrap_or_else(|| "there is no pod yet".to_owned())
    }

    /// What a pod that does not run yet waits for.
    fn awaited(&self) -> Option<String> {
        match &self.pod {
            PodState::Ready => None,
            PodState::Absent => Some(self.because(&self.absence())),
            PodState::NotReady { message, .. } | PodState::Trouble { message, .. } => Some(self.because(message)),
        }
    }

    /// What the runtime says is wrong.
    fn problem(&self) -> (Reason, String) {
        match self.report.and_then(|report| report.problem.as_ref()) {
            None => (Reason::RuntimeFailed, "the runtime does not say why".to_owned()),
            Some(problem) => (reason_of(problem), said(problem)),
        }
    }

    /// How far what is asked for is there.
    fn standing(&self) -> Standing {
        let running = self.running();
        if let Some((reason, message)) = self.refusal() {
            let runs = self.revision().filter(|_| self.decision.document.is_some() || self.decision.replicas > 0);
            let runs = runs.map(|revision| format!("\nrevision {} stays: {}", short(&revision), running.message));
            let message = format!("{message}{}", runs.unwrap_or_default());
            return Standing { is_ready: false, reason, message, moves: Some(reason == Reason::UnknownReference) };
        }
        if let Some(Obstacle::Waits(why)) = self.obstacle {
            let message = why.to_owned();
            return Standing { is_ready: false, reason: Reason::Starting, message, moves: Some(true) };
        }
        if let Some(Obstacle::Failed(why)) = self.obstacle {
            let message = why.to_owned();
            return Standing { is_ready: false, reason: Reason::ApplyFailed, message, moves: Some(true) };
        }
        let running = match &self.decision.stays {
            Some(why) => Standing { message: format!("{}\nit is not taken back: {why}", running.message), ..running },
            None => running,
        };
        if self.decision.is_dry_run {
            let while_so = format!("while the annotation {} says so", super::dereference::DRY_RUN);
            let edit = self.decision.change.as_ref().filter(|change| change.class != EditClass::None);
            let message = match edit {
                // What is asked for is what runs.
                None if self.observed.stateful_set.is_some() => return Standing { moves: None, ..running },
                None => format!("nothing is done {while_so}"),
                Some(edit) => {
                    let why = edit.reason.as_deref().unwrap_or_default();
                    let now = running.message;
                    format!("an edit of class {:?} is not taken up {while_so}: {why}\nuntil then: {now}", edit.class)
                }
            };
            return Standing { is_ready: false, reason: Reason::DryRun, message, moves: None };
        }
        if running.is_ready
            && !self.is_finished()
            && let Some(change) = self.change()
        {
            let why = change.reason.as_deref().unwrap_or_default();
            let message = format!("an edit of class {:?} is being taken up: {why}", change.class);
            return Standing { is_ready: false, reason: Reason::Changing, message, moves: Some(true) };
        }
        if running.is_ready && !self.is_finished() && self.is_behind() {
            let to = self.decision.document.as_ref().map(|document| document.revision.short().to_owned());
            let message = format!("revision {} is being taken up", to.unwrap_or_default());
            return Standing { is_ready: false, reason: Reason::Changing, message, moves: Some(true) };
        }
        running
    }

    /// Why the spec cannot be run, or may not.
    fn refusal(&self) -> Option<(Reason, &str)> {
        let refusal = self.decision.refusal.as_ref().map(|refusal| (refusal.reason, refusal.message.as_str()));
        refusal.or(self.unfit().map(|why| (Reason::InvalidSpec, why)))
    }

    /// What the API server alone has found wrong with the spec.
    fn unfit(&self) -> Option<&'a str> {
        match self.obstacle {
            Some(Obstacle::Unfit(why)) => Some(why),
            _ => None,
        }
    }

    fn says(&self) -> Vec<Say> {
        let standing = self.standing();
        let Standing { is_ready, reason, message, moves } = &standing;
        let reconciling = match moves {
            Some(true) => Say::new(Type::Reconciling, true, *reason, message),
            _ if self.decision.is_dry_run => {
                Say::new(Type::Reconciling, false, Reason::DryRun, "an edit is classed, and not applied")
            }
            _ => Say::new(Type::Reconciling, false, Reason::Settled, "nothing is on its way"),
        };
        let stalled = match moves {
            Some(false) => Say::new(Type::Stalled, true, *reason, message),
            _ => Say::new(Type::Stalled, false, Reason::NotStalled, "nothing is in the way"),
        };
        let valid = match self.refusal() {
            Some((reason, message)) => Say::new(Type::ConfigValid, false, reason, message),
            None => Say::new(Type::ConfigValid, true, Reason::Valid, "the spec can be run"),
        };
        vec![
            Say::new(Type::Ready, *is_ready, *reason, message),
            reconciling,
            stalled,
            valid,
            self.checkpoints(),
            self.health(Type::SourcesHealthy, ProblemOf::Source, "sources are read"),
            self.health(Type::SinksHealthy, ProblemOf::Sink, "sinks take what they are given"),
        ]
    }

    /// That nothing is heard of a process that is there.
    fn silence(&self) -> Option<&'a Silence> {
        self.observed.silence.as_ref().filter(|_| self.is_live())
    }

    /// Whether that is all that can be said of it.
    fn is_unheard(&self) -> bool {
        let is_suspending = self.decision.document.as_ref().is_some_and(|document| document.suspend);
        self.silence().is_some() && !is_suspending && !self.is_for_account()
    }

    fn checkpoints(&self) -> Say {
        let of = Type::CheckpointHealthy;
        if let Some(silence) = self.silence() {
            return Say::new(of, false, Reason::NotReporting, silence.message(self.observed.name()));
        }
        let Some(report) = self.report.filter(|_| self.is_live() || self.is_finished() || self.is_suspended()) else {
            return Say::new(of, None, Reason::NotRunning, "nothing runs that could take a checkpoint");
        };
        if let Some(problem) = report.problem.as_ref().filter(|problem| problem.of == ProblemOf::Checkpoint) {
            return Say::new(of, false, Reason::CheckpointFailed, said(problem));
        }
        if report.checkpoint_failures > 0 {
            let why = report.checkpoint_error.as_deref().unwrap_or("the runtime does not say why");
            let message = match report.checkpoint_failures {
                1 => format!("the last checkpoint has failed: {why}"),
                failures => format!("the last {failures} checkpoints have failed: {why}"),
            };
            return Say::new(of, false, Reason::CheckpointFailed, message);
        }
        if let Some(why) = &report.checkpoint_error {
            let message = format!("the next checkpoint cannot be completed: {why}");
            return Say::new(of, false, Reason::CheckpointFailed, message);
        }
        // A commit that is tried again and again keeps the next checkpoint waiting.
        if let Some(problem) = report.problem.as_ref().filter(|problem| problem.of == ProblemOf::Sink)
            && matches!(report.phase, RunPhase::Running | RunPhase::Stopping)
        {
            let message = format!("the next checkpoint waits for a sink: {}", said(problem));
            return Say::new(of, false, Reason::CheckpointFailed, message);
        }
        match (&report.checkpoint, report.restored_from) {
            (Some(_), _) | (None, Some(_)) => Say::new(of, true, Reason::Healthy, "checkpoints complete"),
            (None, None) => Say::new(of, None, Reason::NoCheckpointYet, "no checkpoint has completed yet"),
        }
    }

    fn health(&self, of: Type, whose: ProblemOf, well: &str) -> Say {
        let nothing = Say::new(of, None, Reason::NotRunning, "nothing runs of which it could be said");
        let Some(report) = self.report.filter(|_| self.is_live() || self.is_finished()) else { return nothing };
        if let Some(silence) = self.silence() {
            return Say::new(of, None, Reason::NotReporting, silence.message(self.observed.name()));
        }
        match report.problem.as_ref().filter(|problem| problem.of == whose) {
            Some(problem) => Say::new(of, false, reason_of(problem), said(problem)),
            None if report.phase == RunPhase::Failed => nothing,
            None if report.phase == RunPhase::Starting && self.is_given_up() => nothing,
            None if self.is_unproved() => nothing,
            None if report.phase == RunPhase::Starting => {
                Say::new(of, None, Reason::NotRunning, "the runtime is on its way")
            }
            None => Say::new(of, true, Reason::Healthy, well),
        }
    }
}

const fn reason_of(problem: &Problem) -> Reason {
    match problem.of {
        ProblemOf::Source => Reason::SourceFailed,
        ProblemOf::Sink => Reason::SinkFailed,
        ProblemOf::Checkpoint => Reason::CheckpointFailed,
        ProblemOf::Plan => Reason::PlanFailed,
        ProblemOf::Runtime => Reason::RuntimeFailed,
    }
}

fn said(problem: &Problem) -> String {
    match &problem.node {
        Some(node) if !problem.message.contains(node) => format!("{node}: {}", problem.message),
        _ => problem.message.clone(),
    }
}

fn short(revision: &str) -> &str {
    revision.get(..8).unwrap_or(revision)
}

/// The class and outcome of the newest revision, for events.
pub fn newest(status: &PipelineStatus) -> Option<(&str, EditClass, ChangeResult)> {
    status.history.first().map(|entry| (entry.revision.as_str(), entry.class, entry.result))
}

/// A condition's status and reason.
pub fn of(conditions: &[Condition], of: Type) -> Option<(&str, &str, &str)> {
    let condition = crate::conditions::find(conditions, of)?;
    Some((&condition.status, &condition.reason, &condition.message))
}
