//! What is next in a deletion. Facts in, decision out.

use std::time::Duration;

use millrace_crds::{CheckpointsSpec, OnDelete, PipelineStatus, is_object_store};
use millrace_plan::handover::ClearedDocument;
use serde::Deserialize;
use serde_json::Value;

use super::{
    condition,
    job::{DEADLINE, UID},
};
use crate::{
    conditions::Type,
    pipeline::{dereference::Observed, status::of},
};

/// For how long a pod may end beyond its grace period.
pub const MARGIN: Duration = Duration::from_secs(60);
/// For how long a Job that deletes checkpoints is waited for.
pub const LONGEST: Duration = Duration::from_secs(DEADLINE.as_secs() + 60);
/// A pod's grace period, where it does not say.
const GRACE_SECONDS: i64 = 60;
/// The finalizer of a Pipeline whose dependents are to stay.
const ORPHAN: &str = "orphan";

/// Whether checkpoints are in a bucket, from which a Job deletes them.
pub fn is_in_bucket(checkpoints: &CheckpointsSpec) -> bool {
    checkpoints.storage.as_deref().is_some_and(is_object_store)
}

/// The checkpoints that are to be deleted. Those of the plan that runs: an edit that is refused moves none. And only if the
/// spec says so too, as far as it can be read: who has asked to keep them meanwhile has them kept.
pub fn goes(observed: &Observed, status: &PipelineStatus) -> Option<CheckpointsSpec> {
    let asked = CheckpointsSpec::deserialize(observed.pipeline.spec.get("checkpoints")?).ok()?;
    if asked.on_delete != OnDelete::Delete || is_orphaned(observed) {
        return None;
    }
    let checkpoints = match &observed.plan {
        Some(plan) => plan.spec.pipeline.checkpoints.clone(),
        // Where dependents are deleted first the plan is gone.
        None if of(&status.conditions, Type::ConfigValid).is_none_or(|(status, ..)| status != "False") => asked,
        None => return None,
    };
    (checkpoints.on_delete == OnDelete::Delete).then_some(checkpoints)
}

/// Where they are, for people.
pub fn place(observed: &Observed, checkpoints: &CheckpointsSpec) -> String {
    let storage = checkpoints.storage.as_deref().unwrap_or_default().trim_end_matches('/');
    format!("{storage}/{}/{}", observed.namespace(), observed.name())
}

/// Whether what it owns is to stay, and with it whoever writes checkpoints (`kubectl delete --cascade=orphan`).
pub fn is_orphaned(observed: &Observed) -> bool {
    let uid = observed.pipeline.metadata.uid.as_deref();
    let is_anothers = observed.stateful_set.as_ref().is_some_and(|set| {
        let owners = set.metadata.owner_references.iter().flatten();
        !owners.into_iter().any(|owner| Some(owner.uid.as_str()) == uid)
    });
    observed.pipeline.is_held_by(ORPHAN) || is_anothers
}

/// Whether somebody may write checkpoints still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// Nobody can.
    Ended,
    /// A pod is there.
    Wait {
        /// Whether the StatefulSet wants it to be.
        writes: bool,
        /// For people.
        message: String,
    },
    /// It does not end.
    Stuck(String),
}

/// `waited`: since the deletion was seen.
pub fn pods(observed: &Observed, waited: Duration) -> Pods {
    let writes = observed.replicas().is_some_and(|replicas| replicas > 0);
    let is_quiet = observed.stateful_set.as_ref().is_none_or(|set| {
        // Its controller has seen it last, and makes no pod any more.
        let status = set.status.as_ref();
        status.is_some_and(|it| it.replicas == 0 && it.observed_generation >= set.metadata.generation)
    });
    if !writes && is_quiet && observed.pod.is_none() {
        return Pods::Ended;
    }
    let spec = observed.pod.as_ref().and_then(|pod| pod.spec.as_ref());
    let grace = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(GRACE_SECONDS);
    let longest = Duration::from_secs(u64::try_from(grace).unwrap_or_default()).saturating_add(MARGIN);
    let pod = format!("pod {}-0", observed.name());
    match waited >= longest {
        true => Pods::Stuck(format!("{pod} has not ended within {} s, and may write more", longest.as_secs())),
        false => Pods::Wait { writes, message: format!("{pod} is to end before checkpoints are deleted") },
    }
}

/// How far the Job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clearing {
    /// There is none.
    Make,
    /// It is at work.
    Wait,
    /// It has done its work.
    Complete,
    /// It has not, and will not.
    Failed(String),
}

/// `waited`: since a Job was wanted.
pub fn clearing(job: Option<&Value>, observed: &Observed, waited: Duration) -> Clearing {
    let Some(job) = job else { return Clearing::Make };
    let uid = job.pointer("/metadata/labels").and_then(|labels| labels.get(UID)?.as_str());
    let is_its = uid.is_some() && uid == observed.pipeline.metadata.uid.as_deref();
    if is_its && condition(job, "Complete").is_some() {
        return Clearing::Complete;
    }
    if is_its && let Some(failed) = condition(job, "Failed") {
        let text = |field: &str| failed[field].as_str().filter(|text| !text.is_empty());
        return Clearing::Failed(text("message").or(text("reason")).unwrap_or("it does not say why").to_owned());
    }
    match (waited >= LONGEST, is_its) {
        (true, true) => Clearing::Failed(format!("it has not ended within {} s", LONGEST.as_secs())),
        (true, false) => Clearing::Failed("it is another's, of the same name".to_owned()),
        (false, _) => Clearing::Wait,
    }
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whether the pointer goes too.
    pub pointer_goes: bool,
    /// For people.
    pub message: String,
}

/// With savepoints the pointer stays, since one can be started from only by it. So it does where nobody knows whether there are any.
pub fn ended(words: Option<ClearedDocument>, place: &str, pointer: &str) -> Ended {
    let kept = |what: &str| format!("; {what}, and the ConfigMap {pointer}, by which one can be started from");
    match words {
        Some(ClearedDocument { checkpoints, savepoints: 0 }) => {
            Ended { pointer_goes: true, message: format!("{checkpoints} checkpoints in {place} are deleted") }
        }
        Some(ClearedDocument { checkpoints, savepoints }) => Ended {
            pointer_goes: false,
            message: format!(
                "{checkpoints} checkpoints in {place} are deleted{}",
                kept(&format!("its {savepoints} savepoints stay"))
            ),
        },
        None => Ended {
            pointer_goes: false,
            message: format!("the checkpoints in {place} are deleted{}", kept("savepoints stay, if there are any")),
        },
    }
}
