//! What runs a Pipeline: the documents between operator and runtime, the StatefulSet with its volume, and what is around it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{
            RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy,
            StatefulSetSpec, StatefulSetUpdateStrategy,
        },
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            ConfigMap, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, Service, ServicePort,
            ServiceSpec, VolumeResourceRequirements,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use millrace_crds::VolumeSpec;
use millrace_plan::handover::{Names, PLAN_KEY, PlanDocument};
use serde_json::json;

use super::{
    Owner,
    pod::{DATA, PORT, template_hash},
};
use crate::{
    labels,
    pipeline::{
        dereference::{ACCOUNT, GOOD_PODS_KEY, PREVIOUS_KEY},
        validate::MAX_PLAN_BYTES,
    },
};

/// The annotation of a StatefulSet with the hash of its pods' template as it was wanted.
pub const TEMPLATE: &str = "millrace.dev/template";
/// A volume's size, unless the Pipeline says.
pub const VOLUME_SIZE: &str = "10Gi";

pub(super) fn plan(
    owner: &Owner,
    document: &PlanDocument,
    previous: Option<&PlanDocument>,
    good_pods: Option<&PodTemplateSpec>,
) -> ConfigMap {
    let text = json!(document).to_string();
    let mut data = BTreeMap::new();
    let mut room = MAX_PLAN_BYTES.saturating_sub(text.len());
    // The runtime's checkpoints hold the plan that they were made with, should there be no room here; without the pods that ran
    // well, pods are not taken back.
    let previous = previous.map(|previous| (PREVIOUS_KEY, json!(previous).to_string()));
    let pods = good_pods.map(|template| (GOOD_PODS_KEY, json!(template).to_string()));
    for (key, text) in previous.into_iter().chain(pods) {
        if text.len() <= room {
            room -= text.len();
            data.insert(key.to_owned(), text);
        }
    }
    data.insert(PLAN_KEY.to_owned(), text);
    let metadata = owner.part(Names::of(&owner.name).plan(), labels::PLAN);
    ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }
}

pub(super) fn report(owner: &Owner) -> ConfigMap {
    let metadata = owner.part(Names::of(&owner.name).report(), labels::REPORT);
    ConfigMap { metadata, ..ConfigMap::default() }
}

/// The pointer belongs to the checkpoints: whether it goes when the Pipeline does is said when that is deleted.
pub fn checkpoint(owner: &Owner, goes_with_the_pipeline: bool) -> ConfigMap {
    let mut metadata = owner.part(Names::of(&owner.name).checkpoint(), labels::CHECKPOINT);
    if !goes_with_the_pipeline {
        metadata.owner_references = None;
    }
    ConfigMap { metadata, ..ConfigMap::default() }
}

/// The Lease of the pod that decides checkpoints.
pub fn coordinator(owner: &Owner) -> Lease {
    Lease { metadata: owner.metadata(Names::of(&owner.name).coordinator()), spec: Some(LeaseSpec::default()) }
}

pub(super) fn service(owner: &Owner) -> Service {
    Service {
        metadata: owner.metadata(&owner.name),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // Pods have to find each other before they are ready.
            publish_not_ready_addresses: Some(true),
            selector: Some(labels::selector(&owner.name)),
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                port: PORT,
                target_port: Some(IntOrString::String("http".to_owned())),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// One pod may go at a time: it takes a checkpoint before it does.
pub(super) fn disruption_budget(owner: &Owner) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: owner.metadata(&owner.name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(owner)),
            // One that is not ready is let go whatever the count says: otherwise nobody could drain its node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// The pods that a StatefulSet is to have.
pub(super) struct Pods<'a> {
    /// Their template.
    pub(super) template: PodTemplateSpec,
    /// How many they are.
    pub(super) replicas: i32,
    /// The ServiceAccount for whose sake they are made anew, or were.
    pub(super) account: Option<&'a str>,
}

pub(super) fn stateful_set(
    owner: &Owner,
    pods: Pods<'_>,
    volume: Option<&VolumeSpec>,
    existing: Option<&StatefulSet>,
) -> StatefulSet {
    let Pods { mut template, replicas, account } = pods;
    let mut metadata = owner.metadata(&owner.name);
    metadata.annotations = Some(BTreeMap::from([(TEMPLATE.to_owned(), template_hash(&template))]));
    if let Some(account) = account {
        let annotations = template.metadata.get_or_insert_default().annotations.get_or_insert_default();
        annotations.insert(ACCOUNT.to_owned(), account.to_owned());
    }
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            service_name: Some(owner.name.clone()),
            pod_management_policy: Some("Parallel".to_owned()),
            // As it is by default: said, so that what somebody else sets, which would hold up an edit, does not last.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateStatefulSetStrategy { partition: Some(0), max_unavailable: None }),
            }),
            selector: selector(owner),
            template,
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                // Whether it goes with the Pipeline is said when that is deleted: see `super::super::volume`.
                when_deleted: Some("Retain".to_owned()),
                when_scaled: Some("Retain".to_owned()),
            }),
            // Claims cannot change: those that are there stay as they are, and an edit of them is refused.
            volume_claim_templates: Some(vec![volume_claim(owner, volume, existing)]),
            revision_history_limit: Some(10),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn volume_claim(owner: &Owner, wanted: Option<&VolumeSpec>, existing: Option<&StatefulSet>) -> PersistentVolumeClaim {
    let size = wanted.map_or_else(|| VOLUME_SIZE.to_owned(), |volume| volume.size.to_string());
    let there = existing.and_then(claim);
    let size = there.and_then(requested).unwrap_or(Quantity(size));
    let class = match there {
        Some(there) => there.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()),
        None => wanted.and_then(|volume| volume.storage_class_name.clone()),
    };
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA.to_owned()),
            labels: Some(labels::of(&owner.name)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: class,
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// The claim of a StatefulSet's data volume.
pub fn claim(stateful_set: &StatefulSet) -> Option<&PersistentVolumeClaim> {
    let claims = stateful_set.spec.as_ref()?.volume_claim_templates.as_ref()?;
    claims.iter().find(|claim| claim.metadata.name.as_deref() == Some(DATA))
}

/// The size that a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage").cloned()
}

fn selector(owner: &Owner) -> LabelSelector {
    LabelSelector { match_labels: Some(labels::selector(&owner.name)), ..LabelSelector::default() }
}
