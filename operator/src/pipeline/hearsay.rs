//! What a pod says that runs, and when it is believed.
//!
//! A plan is what the operator has made of objects that people have written. Where it cannot know which plan runs (the Pipeline
//! was made anew over a state, or the plan is gone), the runtime tells it in its report. But a pod may write its report as it likes,
//! and what is made of a plan has rights that the pod has not; and a pod may be left of a Pipeline that was deleted. So that is
//! believed which
//!
//! - the pod says that is there and is to stay, of the StatefulSet of this very Pipeline;
//! - is what its revision is the hash of;
//! - has its checkpoints where the Pipeline's spec has them, and names no Secret but those that it and its Sinks name, or the plan.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use millrace_crds::{Pipeline, Sink};
use millrace_plan::{
    ResolvedSpec,
    handover::{PlanDocument, ReportDocument},
    revision,
};
use serde_json::{Value, json};

use super::build::pod::secrets;
use crate::cluster::{key::Kind, raw::Raw, stores::named};

/// What is known without the pod.
pub struct Hearsay<'a> {
    /// The Pipeline.
    pub pipeline: &'a Raw<Pipeline>,
    /// Its Sinks; all of its namespace, where one that it names is not there.
    pub sinks: &'a [Arc<Raw<Sink>>],
    /// The plan that is to run.
    pub plan: Option<&'a PlanDocument>,
    /// The Pipeline's own StatefulSet.
    pub stateful_set: Option<&'a StatefulSet>,
}

impl Hearsay<'_> {
    /// The plan that runs in the place of the one that is to, or where there is none any more.
    pub fn running(&self, report: &ReportDocument, pod: Option<&Pod>) -> Option<PlanDocument> {
        let (spec, named) = (report.runs.as_ref()?, report.revision.as_ref()?);
        let is_believed = self.is_of_its_pod(report, pod) && *named == revision(spec) && self.has_rights(spec);
        let is_news = self.plan.is_none_or(|plan| plan.revision != *named);
        (is_believed && is_news).then(|| {
            let (spec, revision) = (spec.clone(), named.clone());
            match self.plan.cloned() {
                Some(plan) => PlanDocument { spec, revision, ..plan },
                None => PlanDocument {
                    version: PlanDocument::VERSION,
                    revision,
                    spec,
                    suspend: false,
                    savepoint: None,
                    start_from: None,
                },
            }
        })
    }

    fn is_of_its_pod(&self, report: &ReportDocument, pod: Option<&Pod>) -> bool {
        let (Some(pod), Some(set)) = (pod, self.stateful_set) else { return false };
        let is_there = pod.metadata.deletion_timestamp.is_none();
        let said_it = report.pod_uid.is_some() && report.pod_uid == pod.metadata.uid;
        let is_of_set = set.metadata.uid.as_ref().is_some_and(|set| is_owned_by(&pod.metadata, set));
        is_there && said_it && is_of_set && is_owned_by(&set.metadata, self.pipeline.uid())
    }

    /// Whether a plan gives its pod nothing that the objects do not give it.
    fn has_rights(&self, spec: &ResolvedSpec) -> bool {
        let checkpoints = &self.pipeline.spec["checkpoints"];
        let own = json!(spec.pipeline.checkpoints.storage);
        let storage = checkpoints.get("storage").unwrap_or(&Value::Null);
        let secret_of = |object| Value::pointer(object, "/credentials/secretRef/name").and_then(Value::as_str);
        let mut allowed: BTreeSet<&str> = self.plan.into_iter().flat_map(|plan| secrets(&plan.spec)).collect();
        allowed.extend(secret_of(checkpoints));
        // The others of the namespace are among them where one is not there.
        let named = named(self.pipeline, Kind::Sink);
        let sinks = self.sinks.iter().filter(|sink| named.contains(sink.name()));
        allowed.extend(sinks.filter_map(|sink| secret_of(&sink.spec)));
        own == *storage && secrets(spec).is_subset(&allowed)
    }
}

/// Whether the owner of this UID owns an object.
pub fn is_owned_by(object: &ObjectMeta, uid: &str) -> bool {
    object.owner_references.iter().flatten().any(|owner| owner.uid == uid)
}

/// Whether a pod is left of another StatefulSet of this name: `before`, where that is a deleted Pipeline's, or one before `set`.
pub fn is_left(pod: &ObjectMeta, set: Option<&StatefulSet>, before: Option<&str>) -> bool {
    let own = set.and_then(|set| set.metadata.uid.as_deref());
    match (own, before) {
        (Some(own), _) => {
            let mut owners = pod.owner_references.iter().flatten();
            owners.any(|owner| owner.kind == "StatefulSet") && !is_owned_by(pod, own)
        }
        (None, Some(before)) => is_owned_by(pod, before),
        (None, None) => false,
    }
}

/// Whether a Pipeline owns an object, and not the one of this UID: one of this name that was deleted.
pub fn owned_by_another(object: &ObjectMeta, uid: &str) -> bool {
    let is_owned = object.owner_references.iter().flatten().any(|owner| owner.kind == "Pipeline");
    is_owned && !is_owned_by(object, uid)
}
