//! Whether what was edited last proves itself: facts in, fate out.
//!
//! Two things are on trial, each until it has completed [`CHECKPOINTS`] checkpoints: a template of pods, since the last one that
//! has is known and could be put back; and a plan, for the one before it.
//!
//! | of a pod on trial | it has failed |
//! |---|---|
//! | the image's name is none | at once |
//! | the image cannot be pulled, or the container cannot be made | when that is so [`SEEN`] after the pod was made |
//! | a container has ended [`ENDINGS`] times | at once |
//! | no container runs: no node, no volume, no Secret; or the runtime says that the pipeline has failed | after `startWithin` |
//! | there is no pod, and a warning says why | after `startWithin` since the edit |
//!
//! A pod that restores has all the time it needs, and one that is on its way out is nobody's failure. A plan has failed when the
//! runtime gives it up, or when its container has ended twice since the edit. What has proved itself is on trial no more, so an
//! outage undoes no edit of yesterday; and what is put back is not on trial, so nothing goes to and fro.

use std::time::Duration;

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ContainerStatus, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use millrace_crds::{ChangeResult, EditClass, PipelineStatus};
use millrace_plan::{
    ResolvedSpec,
    handover::{EditResult, PlanDocument, ProblemOf, ReportDocument, RunPhase},
};
use millrace_stream::{Revision, Timestamp};

use super::status::pods::{PodState, crash_before, pod_state};
use crate::{conditions::Reason, plans::Plans};

/// So many checkpoints what is new has to complete.
pub const CHECKPOINTS: u64 = 3;
/// A pod that has been ready for so long has proved itself too, however rarely there is a checkpoint.
const READY_FOR: Duration = Duration::from_secs(600);
/// So often a container may not end.
const ENDINGS: i32 = 3;
/// For so long a registry, or a Secret, may be late.
const SEEN: Duration = Duration::from_secs(30);
/// For so long a pod may take until its container runs, unless the Pipeline says.
pub const START_WITHIN: Duration = Duration::from_secs(300);
/// The label of a pod with the revision of its StatefulSet that it is of.
const POD_REVISION: &str = "controller-revision-hash";

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has proved itself.
    Good,
    /// It has not.
    Failed(String),
    /// Neither is certain; if nothing else happens, not before this.
    Open(Option<Timestamp>),
}

/// What is known of pods on trial.
#[derive(Clone, Copy, Debug)]
pub struct Pods<'a> {
    /// The StatefulSet, which has their template.
    pub set: &'a StatefulSet,
    /// The pod that there is.
    pub pod: Option<&'a Pod>,
    /// What the runtime has said last.
    pub report: Option<&'a ReportDocument>,
    /// What the last warning about the pod, or about the StatefulSet that has none, says.
    pub warning: Option<&'a str>,
    /// When the edit was seen.
    pub since: Option<Timestamp>,
    /// For how long a pod may take to start.
    pub start_within: Duration,
    /// The time.
    pub now: Timestamp,
}

/// What becomes of a template.
pub fn pods(facts: &Pods<'_>) -> Fate {
    let set = facts.set.status.as_ref();
    let is_seen = set.is_some_and(|status| status.observed_generation >= facts.set.metadata.generation);
    let Some(revision) = set.and_then(|status| status.update_revision.as_deref()).filter(|_| is_seen) else {
        return Fate::Open(None);
    };
    let Some(pod) = facts.pod else { return no_pod(facts) };
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_REVISION));
    if label.map(String::as_str) != Some(revision) || pod.metadata.deletion_timestamp.is_some() {
        return Fate::Open(None);
    }
    let made = pod.metadata.creation_timestamp.as_ref().map_or(facts.now, |at| timestamp(at.0.as_millisecond()));
    let at_once = |message: String| Fate::Failed(message);
    let after = |wait: Duration, message: String| {
        let due = later(made, wait.min(facts.start_within));
        if facts.now >= due { Fate::Failed(message) } else { Fate::Open(Some(due)) }
    };
    let slow = |message: &str| after(facts.start_within, too_long(message, facts));
    match pod_state(Some(pod)) {
        PodState::Ready => ready(facts, pod),
        PodState::Trouble { reason: Reason::ImagePull | Reason::ContainerConfig, message, may_pass } => {
            if may_pass {
                after(SEEN, message)
            } else {
                at_once(message)
            }
        }
        PodState::Trouble { reason: Reason::Crashing | Reason::OutOfMemory, message, .. } => {
            if endings(pod) >= ENDINGS { at_once(message) } else { Fate::Open(None) }
        }
        PodState::Trouble { message, .. } | PodState::NotReady { runs: false, message } => slow(&message),
        PodState::NotReady { runs: true, .. } => match (crash_before(Some(pod)), facts.report) {
            (Some((PodState::Trouble { message, .. }, _)), _) if endings(pod) >= ENDINGS => at_once(message),
            (_, Some(report)) if report.phase == RunPhase::Failed && is_of(report, pod) => {
                slow(report.problem.as_ref().map_or("the runtime does not say why", |problem| &problem.message))
            }
            _ => Fate::Open(None),
        },
        PodState::Absent => Fate::Open(None),
    }
}

/// Without a pod, and with a reason for that.
fn no_pod(facts: &Pods<'_>) -> Fate {
    match (facts.warning, facts.since) {
        (Some(_), Some(since)) => match later(since, facts.start_within) {
            due if facts.now >= due => Fate::Failed(too_long("no pod can be made", facts)),
            due => Fate::Open(Some(due)),
        },
        _ => Fate::Open(None),
    }
}

fn too_long(message: &str, facts: &Pods<'_>) -> String {
    let warning = facts.warning.map(|warning| format!(": {warning}")).unwrap_or_default();
    format!("{message}{warning} (waited for {} s)", facts.start_within.as_secs())
}

/// A pod in which rows flow, or have.
fn ready(facts: &Pods<'_>, pod: &Pod) -> Fate {
    if let Some(report) = facts.report.filter(|report| is_of(report, pod)) {
        let restored = report.restored_from.map_or(0, |epoch| epoch.0);
        let newest = report.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.epoch.0);
        let has_completed = report.phase == RunPhase::Running && newest >= restored + CHECKPOINTS;
        if has_completed || report.phase == RunPhase::Finished {
            return Fate::Good;
        }
    }
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let since = conditions.filter(|it| it.type_ == "Ready").find_map(|it| it.last_transition_time.as_ref());
    match since.map(|at| later(timestamp(at.0.as_millisecond()), READY_FOR)) {
        Some(due) if facts.now >= due => Fate::Good,
        due => Fate::Open(due),
    }
}

/// Whether a report is the runtime's that runs in this pod now, and not one's before it.
pub fn is_of(report: &ReportDocument, pod: &Pod) -> bool {
    let started = statuses(pod).filter_map(|container| container.state.as_ref()?.running.as_ref()?.started_at.as_ref());
    started.map(|at| timestamp(at.0.as_millisecond())).max().is_none_or(|started| report.at >= started)
}

/// How often the container has ended that has done so most often.
fn endings(pod: &Pod) -> i32 {
    statuses(pod).map(endings_of).max().unwrap_or_default()
}

fn endings_of(container: &ContainerStatus) -> i32 {
    let has_ended = container.state.as_ref().is_some_and(|state| {
        let backs_off = |reason: &str| reason == "CrashLoopBackOff";
        state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref()).is_some_and(backs_off)
            || state.terminated.as_ref().is_some_and(|terminated| terminated.exit_code != 0)
    });
    container.restart_count + i32::from(has_ended)
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status
        .iter()
        .flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten())
}

pub fn later(at: Timestamp, wait: Duration) -> Timestamp {
    Timestamp(at.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
}

/// A moment, in milliseconds since 1970.
pub fn timestamp(ms: i64) -> Timestamp {
    Timestamp(u64::try_from(ms).unwrap_or_default())
}

/// What is known of a plan that an edit has brought.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// It.
    pub revision: &'a Revision,
    /// The one before it.
    pub before: &'a Revision,
    /// The pod that there is.
    pub pod: Option<&'a Pod>,
    /// What the runtime has said last.
    pub report: Option<&'a ReportDocument>,
    /// What has been told.
    pub status: &'a PipelineStatus,
}

/// What becomes of a plan.
pub fn plan(facts: &Plan<'_>) -> Fate {
    let Some(edited_at) = on_trial_since(facts) else { return Fate::Good };
    let report = facts.report.filter(|report| report.revision.as_ref() == Some(facts.revision));
    if let (Some(report), Some(pod)) = (report, facts.pod)
        && report.phase == RunPhase::Failed
        && is_of(report, pod)
        && let Some(problem) = report.problem.as_ref().filter(|problem| problem.of != ProblemOf::Checkpoint)
    {
        return Fate::Failed(problem.message.clone());
    }
    let crash = match pod_state(facts.pod) {
        PodState::Trouble { reason: Reason::Crashing | Reason::OutOfMemory, message, .. } => Some(message),
        _ => match crash_before(facts.pod) {
            Some((PodState::Trouble { message, .. }, _)) => Some(message),
            _ => None,
        },
    };
    match crash {
        Some(message) if facts.pod.is_some_and(|pod| has_ended_twice(pod, edited_at)) => Fate::Failed(message),
        _ => Fate::Open(None),
    }
}

/// When the edit was made, while the plan has not completed its checkpoints.
fn on_trial_since(facts: &Plan<'_>) -> Option<Timestamp> {
    let edit = facts.report.and_then(|report| report.edit.as_ref()).filter(|edit| edit.to == *facts.revision);
    if let Some(edit) = edit {
        let newest = facts.report?.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.epoch.0);
        let own = newest.saturating_sub(edit.since?.0);
        // One that took the place of a plan that did not run either has nothing to go back to.
        let is_it = edit.result == EditResult::TakenUp && edit.from == *facts.before;
        return (is_it && own < CHECKPOINTS).then_some(edit.at);
    }
    // It has not run yet.
    let change = facts.status.change.as_ref()?;
    let newest = facts.status.history.first()?;
    let is_it = newest.result == ChangeResult::Pending
        && newest.revision == facts.revision.0
        && change.to.as_ref() == Some(&facts.revision.0)
        && change.from.as_ref() == Some(&facts.before.0);
    is_it.then(|| timestamp(newest.at.0.as_millisecond()))
}

/// Whether a container has ended badly twice since this: once is anybody's fault, as of who kills it or takes its node away.
fn has_ended_twice(pod: &Pod, since: Timestamp) -> bool {
    let is_after = |at: Option<&Time>| at.is_some_and(|at| timestamp(at.0.as_millisecond()) > since);
    statuses(pod).any(|container| {
        let ended =
            [&container.state, &container.last_state].into_iter().flatten().filter_map(|it| it.terminated.as_ref());
        // What ran when the edit came has ended before a run that was started after it; unless nothing ran yet, in a pod that
        // came after the edit or was on its way.
        ended.filter(|ended| ended.exit_code != 0).any(|ended| is_after(ended.started_at.as_ref()))
            && endings_of(container) >= 2
    })
}

/// Why a plan cannot be taken back once it has completed a checkpoint: what the plan before it remembered may be gone by then,
/// and what it has brought itself would go.
pub fn cannot_go_back(plans: &Plans, from: &PlanDocument, to: &PlanDocument) -> Option<String> {
    let strict = |spec: &ResolvedSpec| {
        let mut spec = spec.clone();
        spec.pipeline.allow_state_loss.clear();
        spec
    };
    let (now, before) = (strict(&from.spec), strict(&to.spec));
    for (one, other) in [(&now, &before), (&before, &now)] {
        let edit = plans.edit(one, other);
        if edit.class == EditClass::Refused {
            let refused = edit.nodes.iter().find(|node| node.class == EditClass::Refused);
            let why = refused.map(|node| format!("{}: {}", node.node, node.why));
            return Some(why.unwrap_or_else(|| "state would be lost".to_owned()));
        }
    }
    // Where a source was read to goes with it, and with a file's path.
    let sources = &now.pipeline.sources;
    let lost = before.pipeline.sources.iter().find(|source| {
        let kept = sources.iter().find(|kept| kept.name == source.name);
        let paths = |spec: &millrace_crds::SourceSpec| spec.file.as_ref().map(|file| file.paths.clone());
        kept.is_none_or(|kept| paths(kept) != paths(source))
    });
    lost.map(|source| format!("{}: rows that the source has read would be read again", source.name))
}

#[cfg(test)]
mod tests;
