//! What was tried, has failed and is taken back: which spec that is, why, and what takes its place.

use millrace_crds::{ChangeResult, DeploymentSpec, PipelineStatus, RejectedStatus};
use millrace_plan::handover::{EditResult, PlanDocument};
use millrace_stream::Timestamp;

use super::{
    build::{pod::template_hash, run::TEMPLATE},
    decide::{Known, Refusal},
    dereference::Observed,
    trial::{self, Fate},
};
use crate::{
    clock::time,
    cluster::writer::{hash, shorten},
    conditions::Reason,
    plans::Plans,
};

/// What the spec asks for.
pub struct Tried<'a> {
    /// The plan.
    pub wanted: &'a PlanDocument,
    /// The hash of its pods' template.
    pub pods: String,
    /// The rest of what is said of them.
    pub deployment: &'a DeploymentSpec,
    /// What the annotation [`RETRY`](millrace_crds::RETRY) says.
    pub retry: Option<&'a str>,
}

/// What has come of it so far.
#[derive(Default)]
pub struct Trials {
    /// It has failed, and is not tried again.
    pub rejected: Option<RejectedStatus>,
    /// Its pods have proved themselves.
    pub proved: bool,
    /// When it may have failed that has not yet.
    pub due: Option<Timestamp>,
    /// Why it is not taken back though it fails.
    pub stays: Option<String>,
}

impl Tried<'_> {
    /// Whether this is what was rejected. Another plan or another template is another spec, and is tried; so is the same template
    /// with more time, or if somebody asks for it.
    pub fn is(&self, rejected: &RejectedStatus) -> bool {
        rejected.revision == self.wanted.revision.0 && rejected.pods.as_ref().is_none_or(|pods| *pods == self.attempt())
    }

    /// By what pods that were rejected are known again.
    fn attempt(&self) -> String {
        match (self.deployment.start_within, self.retry) {
            (None, None) => self.pods.clone(),
            of => hash(&(&self.pods, of)),
        }
    }

    /// What becomes of what is on trial.
    pub fn fates(&self, observed: &Observed, status: &PipelineStatus, known: &Known<'_>) -> Trials {
        let mut trials = Trials::default();
        let (Some(set), Some(current)) = (&observed.stateful_set, &observed.plan) else { return trials };
        let is_idle = self.wanted.suspend || observed.replicas() == Some(0) || observed.is_dry_run();
        if current.revision != self.wanted.revision || is_idle {
            return trials;
        }
        let failed = |pods: Option<String>, message: &str| RejectedStatus {
            revision: self.wanted.revision.0.clone(),
            pods,
            message: shorten(message, 1_000),
            result: ChangeResult::RolledBack,
            at: time(known.now),
        };
        let applied = set.metadata.annotations.as_ref().and_then(|annotations| annotations.get(TEMPLATE));
        let good = observed.good_pods.as_ref().map(template_hash);
        if applied == Some(&self.pods) && good.as_ref() != Some(&self.pods) {
            let since = status.history.first().map(|newest| trial::timestamp(newest.at.0.as_millisecond()));
            // A warning from before the edit is none of it.
            let warning =
                observed.warning.as_ref().filter(|warning| since.is_none_or(|since| is_since(warning.at, since)));
            let facts = trial::Pods {
                set,
                pod: observed.pod.as_deref(),
                report: observed.report.as_ref(),
                warning: warning.map(|warning| warning.message.as_str()),
                since,
                start_within: self.deployment.start_within.map_or(trial::START_WITHIN, |within| within.get()),
                now: known.now,
            };
            match trial::pods(&facts) {
                Fate::Good => trials.proved = true,
                Fate::Failed(message) if good.is_some() => {
                    trials.rejected = Some(failed(Some(self.attempt()), &message));
                    return trials;
                }
                // There is nothing to go back to.
                Fate::Failed(_) => {}
                Fate::Open(due) => trials.due = due,
            }
        }
        if let Some(before) = observed.previous.as_ref().filter(|before| before.revision != current.revision) {
            let facts = trial::Plan {
                revision: &current.revision,
                before: &before.revision,
                pod: observed.pod.as_deref(),
                report: observed.report.as_ref(),
                status,
            };
            if let Fate::Failed(message) = trial::plan(&facts) {
                match trial::cannot_go_back(known.plans, current, before) {
                    None => trials.rejected = Some(failed(None, &message)),
                    Some(why) => trials.stays = Some(why),
                }
            }
        }
        trials
    }
}

/// Whether this, in whole seconds, is not before that.
fn is_since(at: Timestamp, since: Timestamp) -> bool {
    at.0 / 1_000 >= since.0 / 1_000
}

/// Whether the plan is taken back too, where pods are: it has come with them.
pub fn goes_back(observed: &Observed, status: &PipelineStatus, rejected: &RejectedStatus, plans: &Plans) -> bool {
    let (Some(current), Some(before)) = (&observed.plan, &observed.previous) else { return true };
    let came_with_them = status.change.as_ref().is_some_and(|change| {
        change.to.as_ref() == Some(&rejected.revision) && change.from.as_ref() == Some(&before.revision.0)
    });
    rejected.pods.is_none()
        || (came_with_them
            && before.revision.0 != rejected.revision
            && trial::cannot_go_back(plans, current, before).is_none())
}

/// The revision that the runtime has taken back, now or before.
pub fn rejected(observed: &Observed, status: &PipelineStatus, now: Timestamp) -> Option<RejectedStatus> {
    let said = observed.report.as_ref().and_then(|report| report.edit.as_ref());
    let said = said.filter(|edit| {
        edit.result != EditResult::TakenUp && observed.plan.as_ref().is_some_and(|plan| plan.revision == edit.to)
    });
    match said {
        Some(edit) if status.rejected.as_ref().is_none_or(|known| known.revision != edit.to.0) => {
            Some(RejectedStatus {
                revision: edit.to.0.clone(),
                message: shorten(edit.message.as_deref().unwrap_or("the runtime does not say why"), 1_000),
                pods: None,
                result: match edit.result {
                    EditResult::Refused => ChangeResult::Refused,
                    _ => ChangeResult::RolledBack,
                },
                at: time(now),
            })
        }
        _ => status.rejected.clone(),
    }
}

pub fn because(rejected: &RejectedStatus) -> Refusal {
    let reason = match rejected.result {
        ChangeResult::Refused => Reason::EditRefused,
        _ => Reason::RolledBack,
    };
    let short = rejected.revision.get(..8).unwrap_or(&rejected.revision);
    let message = match (reason, &rejected.pods) {
        (Reason::EditRefused, _) => format!("the runtime has refused revision {short}: {}", rejected.message),
        (_, Some(_)) => format!(
            "its pods have failed, and the last ones that ran well are back: {}; `kubectl millrace restart` tries them again",
            rejected.message
        ),
        _ => format!("revision {short} has failed and was taken back: {}", rejected.message),
    };
    Refusal { reason, message }
}

/// What runs in a rejected revision's place.
pub fn fallback<'a>(observed: &'a Observed, current: &'a PlanDocument, rejected: &str) -> &'a PlanDocument {
    match &observed.previous {
        Some(previous) if current.revision.0 == rejected => previous,
        _ => current,
    }
}
