//! The third step: what is to run, on how many pods, and what class of edit that is. Facts in, decision out.
//!
//! | what was found | plan that is written | told |
//! |---|---|---|
//! | nothing runs yet | the new one | the first revision |
//! | an edit that may be taken up | the new one; the one that runs is kept beside it | its class |
//! | an edit that is refused | the dataflow that runs | `EditRefused` |
//! | a revision that failed: the runtime has taken it back, or it has not proved itself ([`super::trial`]) | the one before it | `RolledBack`, until the spec is another |
//! | pods that have not proved themselves | the same, with the last template that has | the same |
//! | a spec that cannot be run | the dataflow that runs | `InvalidSpec`, `UnknownReference`, … |
//!
//! Wishes and `suspend` are heeded in every row, as far as they can be read.

use std::time::Duration;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use millrace_crds::{ChangeResult, ChangeStatus, DeploymentSpec, EditClass, PipelineStatus, RETRY, RejectedStatus};
use millrace_plan::{
    Edit,
    handover::{PlanDocument, ReportDocument, RunPhase},
};
use millrace_stream::Timestamp;
use serde_json::json;

use super::{
    build::{
        pod::{template, template_hash},
        run::{TEMPLATE, claim, requested},
    },
    dereference::Observed,
    reject::{Trials, Tried, because, fallback, goes_back, rejected},
    status::pods::{self, PodState, pod_state},
    trial::{later, timestamp},
    validate::{Valid, Verdict},
};
use crate::{
    cluster::{sameness, writer::shorten},
    conditions::Reason,
    plans::Plans,
};

/// For how long after a pod was made its container is waited for, to take a last savepoint.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// What is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The plan; `None` while there is nothing that could run.
    pub document: Option<PlanDocument>,
    /// The plan to go back to.
    pub previous: Option<PlanDocument>,
    /// The template of pods that is put back in the place of the spec's.
    pub pods: Option<PodTemplateSpec>,
    /// The last template that has proved itself.
    pub good_pods: Option<PodTemplateSpec>,
    /// The UID of the ServiceAccount for whose sake pods are made anew, or were.
    pub account: Option<String>,
    /// When something may have failed that has not yet, or is given up.
    pub due: Option<Timestamp>,
    /// Why a plan that fails is not taken back.
    pub stays: Option<String>,
    /// How many pods.
    pub replicas: i32,
    /// Whether the objects are made from the spec. If not, they are kept as what runs needs them, and of the StatefulSet that is
    /// there only the number of pods is changed.
    pub builds: bool,
    /// An edit that is on its way, or would be; told before anything of it is done.
    pub change: Option<ChangeStatus>,
    /// Why what is asked for is not what will run.
    pub refusal: Option<Refusal>,
    /// The revision that is not tried again.
    pub rejected: Option<RejectedStatus>,
    /// Whether nothing is to be done but to tell.
    pub is_dry_run: bool,
}

/// Why what is asked for is not what will run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In one word.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// What decisions follow from beside what was observed.
pub struct Known<'a> {
    /// What the planner says of edits.
    pub plans: &'a Plans,
    /// The image of runtime pods that name no other.
    pub runtime_image: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// Decides.
pub fn decide(observed: &Observed, verdict: &Verdict, status: &PipelineStatus, known: &Known<'_>) -> Decision {
    match verdict {
        Verdict::Valid(valid) => decide_valid(observed, valid, status, known),
        Verdict::Invalid(invalid) => {
            let document = observed
                .plan
                .clone()
                .map(|plan| PlanDocument { suspend: invalid.suspend.unwrap_or(plan.suspend), ..plan });
            let (replicas, due) = match &document {
                Some(document) => replicas(observed, document, status, known.now),
                // A pod whose plan somebody has deleted has it still, and goes on.
                None if invalid.suspend == Some(true) => (0, None),
                None => (observed.replicas().unwrap_or(0), None),
            };
            // Without a plan there is nothing that an edit could be of.
            let change = document.as_ref().map(|document| ChangeStatus {
                class: EditClass::Refused,
                from: Some(running(observed).unwrap_or(document).revision.0.clone()),
                to: None,
                reason: Some(shorten(&invalid.message, 500)),
            });
            Decision {
                document,
                previous: observed.previous.clone(),
                pods: None,
                good_pods: observed.good_pods.clone(),
                account: account(observed),
                due,
                stays: None,
                replicas,
                builds: false,
                change,
                refusal: Some(Refusal { reason: invalid.reason, message: invalid.message.clone() }),
                rejected: status.rejected.clone(),
                is_dry_run: observed.is_dry_run(),
            }
        }
    }
}

fn decide_valid(observed: &Observed, valid: &Valid, status: &PipelineStatus, known: &Known<'_>) -> Decision {
    let wanted = PlanDocument {
        version: PlanDocument::VERSION,
        revision: valid.revision.clone(),
        spec: valid.spec.clone(),
        suspend: valid.suspend,
        // One that was answered with an error, as while nothing ran, acts no more.
        savepoint: valid.savepoint.clone().filter(|wish| {
            let refused = status.savepoint.as_ref().filter(|said| said.error.is_some());
            refused.is_none_or(|said| said.token != wish.token)
        }),
        start_from: valid.start_from.clone(),
    };
    // Wishes act whatever becomes of the dataflow.
    let with_wishes = |plan: &PlanDocument| PlanDocument {
        revision: plan.revision.clone(),
        spec: plan.spec.clone(),
        ..wanted.clone()
    };
    let wanted_pods = template(valid, &wanted.spec, observed.namespace(), known.runtime_image);
    let tried = Tried {
        wanted: &wanted,
        pods: template_hash(&wanted_pods),
        deployment: &valid.deployment,
        retry: observed.pipeline.annotation(RETRY),
    };
    let Trials { rejected, proved, due, stays } = match rejected(observed, status, known.now).filter(|it| tried.is(it))
    {
        Some(rejected) => Trials { rejected: Some(rejected), ..Trials::default() },
        None => tried.fates(observed, status, known),
    };
    let good_pods = if proved { Some(wanted_pods) } else { observed.good_pods.clone() };
    let running = running(observed);
    let mut refusal = None;
    let mut class = None;
    let document = match (&observed.plan, &rejected) {
        (None, _) => {
            class = Some((EditClass::None, "the first revision".to_owned()));
            wanted.clone()
        }
        (Some(current), _) if current.revision == wanted.revision && rejected.is_none() => wanted.clone(),
        (Some(current), Some(rejected)) => {
            refusal = Some(because(rejected));
            match goes_back(observed, status, rejected, known.plans) {
                true => with_wishes(fallback(observed, current, &rejected.revision)),
                false => with_wishes(current),
            }
        }
        (Some(current), None) => {
            let edit = known.plans.edit(&running.unwrap_or(current).spec, &wanted.spec);
            match edit.class {
                EditClass::Refused if has_nothing_to_lose(observed, status) => {
                    let reason =
                        format!("{}; nothing has completed a checkpoint yet that could be lost", why(&edit, None));
                    class = Some((EditClass::Hot, reason));
                    wanted.clone()
                }
                EditClass::Refused => {
                    let message = why(&edit, Some(EditClass::Refused));
                    class = Some((EditClass::Refused, message.clone()));
                    refusal = Some(Refusal { reason: Reason::EditRefused, message });
                    with_wishes(current)
                }
                _ => {
                    class = Some((edit.class, why(&edit, None)));
                    wanted.clone()
                }
            }
        }
    };
    if refusal.is_none()
        && let Some(message) = volume_changes(observed, &valid.deployment)
    {
        class = Some((EditClass::Refused, message.clone()));
        refusal = Some(Refusal { reason: Reason::EditRefused, message });
    }
    let is_refused = matches!(class, Some((EditClass::Refused, _)));
    let document = match (&observed.plan, is_refused) {
        (Some(current), true) => with_wishes(current),
        _ => document,
    };
    let pods = good_pods.clone().filter(|_| rejected.as_ref().is_some_and(|rejected| rejected.pods.is_some()));
    if !is_refused
        && pods.is_none()
        && let Some(reason) = pods_change(observed, valid, &document, known)
    {
        class = Some(match class {
            Some((class, edit)) => (class.max(EditClass::Restart), format!("{edit}; {reason}")),
            None => (EditClass::Restart, reason),
        });
    }
    let to = if is_refused { &valid.revision } else { &document.revision };
    let change = class.map(|(class, reason)| ChangeStatus {
        class,
        from: observed.plan.as_ref().map(|_| running.unwrap_or(&document).revision.0.clone()),
        to: Some(to.0.clone()),
        reason: Some(shorten(&reason, 500)),
    });
    let change = change.map(|change| whole(change, status));
    // What ran is kept, so that there is something to go back to; what has not run yet is nothing to go back to.
    let previous = match &observed.plan {
        Some(current) if rejected.is_none() && current.revision != document.revision && ran(observed, current) => {
            Some(current.clone())
        }
        _ => observed.previous.clone(),
    };
    let is_dry_run = observed.is_dry_run();
    // What would be is told by the change alone; the rest is about what is.
    let document = if is_dry_run { observed.plan.clone() } else { Some(document) };
    let (replicas, given_up) = match &document {
        Some(document) => replicas(observed, document, status, known.now),
        None => (0, None),
    };
    Decision {
        replicas,
        document,
        previous,
        pods,
        good_pods,
        account: account(observed),
        due: due.into_iter().chain(given_up).min(),
        stays,
        builds: !is_refused,
        change,
        refusal,
        rejected,
        is_dry_run,
    }
}

/// The ServiceAccount that a pod has to be younger than.
fn account(observed: &Observed) -> Option<String> {
    observed.account_made_anew().or(observed.account_noted()).map(str::to_owned)
}

/// The edit that was announced, where what is left to do is the rest of it: the plan is written and the pods are not yet.
fn whole(change: ChangeStatus, status: &PipelineStatus) -> ChangeStatus {
    let is_pending = status
        .history
        .first()
        .is_some_and(|newest| newest.result == ChangeResult::Pending && Some(&newest.revision) == change.to.as_ref());
    let announced = status.change.as_ref().filter(|it| is_pending && it.to == change.to && it.class >= change.class);
    announced.cloned().unwrap_or(change)
}

/// The plan that runs, of those that are known.
fn running(observed: &Observed) -> Option<&PlanDocument> {
    let revision = observed.report.as_ref()?.revision.as_ref()?;
    observed.plan.iter().chain(&observed.previous).find(|plan| plan.revision == *revision)
}

/// Whether nothing has ever come as far as a checkpoint, as when a Pipeline's first revision cannot start.
fn has_nothing_to_lose(observed: &Observed, status: &PipelineStatus) -> bool {
    let report = observed.report.as_ref();
    status.checkpoint.is_none()
        && report.is_none_or(|report| {
            report.checkpoint.is_none() && report.restored_from.is_none() && report.phase != RunPhase::Running
        })
}

/// Whether a plan runs, or is known to have run: the runtime says so of it alone, and a plan that was taken back is not.
fn ran(observed: &Observed, plan: &PlanDocument) -> bool {
    observed.report.as_ref().is_some_and(|report| {
        report.revision.as_ref() == Some(&plan.revision)
            && matches!(report.phase, RunPhase::Running | RunPhase::Stopping | RunPhase::Suspended | RunPhase::Finished)
    })
}

/// What an edit does, in a sentence a node, the strongest first.
fn why(edit: &Edit, class: Option<EditClass>) -> String {
    let mut nodes: Vec<_> = edit.nodes.iter().filter(|node| class.is_none_or(|class| node.class == class)).collect();
    nodes.sort_by_key(|node| std::cmp::Reverse(node.class));
    let says: Vec<String> = nodes.iter().map(|node| format!("{}: {}", node.node, node.why)).collect();
    if says.is_empty() { "nothing that the dataflow depends on changes".to_owned() } else { says.join("; ") }
}

/// What of the volume would change, which cannot.
fn volume_changes(observed: &Observed, deployment: &DeploymentSpec) -> Option<String> {
    let there = claim(observed.stateful_set.as_deref()?)?;
    let wanted = deployment.volume.as_ref()?;
    let size = requested(there)?;
    if sameness::quantity(&size.0) != sameness::quantity(&wanted.size.to_string()) {
        return Some(format!(
            "spec.deployment.volume.size: the volume has {} and cannot be made {} in place; resize the claim data-{}-0 by \
             hand, or make a Pipeline with another name",
            size.0,
            wanted.size,
            observed.name()
        ));
    }
    let class = there.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    match (&wanted.storage_class_name, class) {
        (Some(wanted), class) if Some(wanted.as_str()) != class => Some(format!(
            "spec.deployment.volume.storageClassName: the volume is of class {}, and cannot become {wanted}",
            class.unwrap_or("(the default)")
        )),
        _ => None,
    }
}

/// Whether pods have to be made anew, and for what.
fn pods_change(observed: &Observed, valid: &Valid, document: &PlanDocument, known: &Known<'_>) -> Option<String> {
    let there = observed.stateful_set.as_deref()?;
    let wanted = template(valid, &document.spec, observed.namespace(), known.runtime_image);
    let annotations = there.metadata.annotations.as_ref();
    let applied = annotations.and_then(|annotations| annotations.get(TEMPLATE));
    if applied.is_some_and(|applied| *applied == template_hash(&wanted)) {
        return None;
    }
    let there = there.spec.as_ref().map(|spec| json!(spec.template)).unwrap_or_default();
    let place = sameness::first_difference(&json!(wanted), &there).filter(|place| !place.is_empty());
    Some(match place {
        Some(place) => format!("pods are made anew: {place} of their template changes"),
        None => "pods are made anew: something of their template is gone".to_owned(),
    })
}

/// How many pods there are to be, and when that may change by itself.
fn replicas(
    observed: &Observed,
    document: &PlanDocument,
    status: &PipelineStatus,
    now: Timestamp,
) -> (i32, Option<Timestamp>) {
    let report = observed.report.as_ref();
    if !document.suspend {
        return (i32::from(!report.is_some_and(|report| is_finished(report, document))), None);
    }
    let has_pods = observed.replicas().is_some_and(|replicas| replicas > 0);
    if !has_pods || report.is_some_and(|report| report.phase == RunPhase::Suspended) {
        return (0, None);
    }
    match last_savepoint(observed, status, now) {
        LastSavepoint::Comes => (1, None),
        LastSavepoint::GivenUpAt(due) if due > now => (1, Some(due)),
        LastSavepoint::GivenUpAt(_) => (0, None),
    }
}

/// What is to be expected of the savepoint at which a Pipeline is suspended.
enum LastSavepoint {
    /// A pod takes it, or will.
    Comes,
    /// From this time on nobody waits for it: nothing runs that could take it. What was checkpointed before stays.
    GivenUpAt(Timestamp),
}

fn last_savepoint(observed: &Observed, status: &PipelineStatus, now: Timestamp) -> LastSavepoint {
    let pod = observed.pod.as_deref();
    let made = match (pod_state(pod), pod) {
        (PodState::Trouble { .. }, _) => return LastSavepoint::GivenUpAt(now),
        (PodState::Ready, _) => return LastSavepoint::Comes,
        (PodState::NotReady { .. }, Some(pod)) if pods::running(pod).is_some() => {
            let has_failed = observed.report.as_ref().is_some_and(|report| report.phase == RunPhase::Failed);
            return if has_failed { LastSavepoint::GivenUpAt(now) } else { LastSavepoint::Comes };
        }
        (PodState::NotReady { .. }, pod) => pod.and_then(|pod| pod.metadata.creation_timestamp.as_ref()),
        (PodState::Absent, _) => None,
    };
    // Something is known to keep the container from coming, or there is nothing yet that a savepoint could hold.
    if observed.warning.is_some() || has_nothing_to_lose(observed, status) {
        return LastSavepoint::GivenUpAt(now);
    }
    made.map_or(LastSavepoint::Comes, |made| {
        LastSavepoint::GivenUpAt(later(timestamp(made.0.as_millisecond()), START_PATIENCE))
    })
}

/// Whether everything that a plan asks for is done.
pub fn is_finished(report: &ReportDocument, document: &PlanDocument) -> bool {
    let has_started = document
        .start_from
        .as_ref()
        .is_none_or(|wish| report.started.as_ref().is_some_and(|started| started.token == wish.token));
    report.phase == RunPhase::Finished && report.revision.as_ref() == Some(&document.revision) && has_started
}
