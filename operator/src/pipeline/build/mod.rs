//! The fourth step: the objects that a Pipeline is to have. Nothing here can fail.

mod access;
pub mod pod;
pub mod run;

use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, PodTemplateSpec, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use millrace_crds::{API_VERSION, VolumeSpec};
use serde::Deserialize;

use super::{decide::Decision, dereference::Observed, validate::Valid};
use crate::{cluster::writer::Wanted, labels};

/// What is around the plan and the pods, each by its kind.
#[derive(Clone, Debug)]
struct Built {
    /// Who the pods are.
    service_account: ServiceAccount,
    /// What they may do.
    role: Role,
    /// That they may.
    role_binding: RoleBinding,
    /// The pods' names in DNS.
    service: Service,
    /// How many of them may be evicted.
    disruption_budget: PodDisruptionBudget,
    /// Who of them coordinates; without content.
    coordinator: Lease,
    /// Where the pointer to the last checkpoint is put; without content.
    checkpoint: ConfigMap,
    /// Where the report is put; without content.
    report: ConfigMap,
}

/// The object, and at which fault point it is written.
#[derive(Clone, Debug)]
pub struct Step {
    /// The fault point before it.
    pub point: &'static str,
    /// The object.
    pub wanted: Wanted,
    /// Whether its store knows it.
    pub is_watched: bool,
    /// Whether nobody but the operator and Kubernetes' controllers writes to it: then it is applied to the version that was
    /// seen, and to no other.
    pub is_ours_alone: bool,
    /// Whether pods that run can do without it.
    pub can_be_missed: bool,
    /// Whether it is a document for pods that run.
    pub is_document: bool,
}

/// What is to be applied, in this order: what pods need before them, and the plan before the pods that read it.
pub fn steps(observed: &Observed, valid: Option<&Valid>, decision: &Decision, runtime_image: &str) -> Vec<Step> {
    if decision.is_dry_run {
        return Vec::new();
    }
    let owner = Owner::of(observed);
    let step = |point, wanted| Step {
        point,
        wanted,
        is_watched: true,
        is_ours_alone: true,
        can_be_missed: false,
        is_document: false,
    };
    let missed = |point, wanted| Step { can_be_missed: true, ..step(point, wanted) };
    let shared = |point, wanted| Step { is_ours_alone: false, ..step(point, wanted) };
    let unwatched = |point, wanted| Step { is_watched: false, ..shared(point, wanted) };
    let plan = decision.document.as_ref().map(|document| {
        let map = run::plan(&owner, document, decision.previous.as_ref(), decision.good_pods.as_ref());
        Step { is_document: true, ..step("before-plan", Wanted::new(&map)) }
    });
    let Some(document) = &decision.document else { return Vec::new() };
    let there = observed.stateful_set.as_deref();
    let template = match (valid, &decision.pods) {
        (_, Some(template)) if decision.builds => Some(template.clone()),
        (Some(valid), None) if decision.builds => {
            Some(pod::template(valid, &document.spec, &owner.namespace, runtime_image))
        }
        // What cannot be run takes nothing from what runs: its pods stay as they are, and if they are gone, those that ran well
        // come back.
        _ if there.is_none() => decision.good_pods.clone(),
        _ => None,
    };
    // A template may name an account of the user's, as clouds want it: then that is given the rights.
    let account_in = |template: &PodTemplateSpec| template.spec.as_ref()?.service_account_name.clone();
    let current = there.and_then(|set| set.spec.as_ref()).map(|spec| &spec.template);
    let account = template.as_ref().or(current).and_then(account_in).unwrap_or_else(|| owner.name.clone());
    let built = around(&owner, &account);
    let stateful_set = template.map(|template| {
        let volume = match valid {
            Some(valid) => valid.deployment.volume.clone(),
            None => written_volume(observed),
        };
        let pods = run::Pods { template, replicas: decision.replicas, account: decision.account.as_deref() };
        run::stateful_set(&owner, pods, volume.as_ref(), there)
    });
    let mut steps = vec![
        step("before-service-account", Wanted::new(&built.service_account)),
        step("before-role", Wanted::new(&built.role)),
        step("before-role-binding", Wanted::new(&built.role_binding)),
        missed("before-service", Wanted::new(&built.service)),
        missed("before-disruption-budget", Wanted::new(&built.disruption_budget)),
        unwatched("before-lease", Wanted::new(&built.coordinator)),
        unwatched("before-checkpoint-pointer", Wanted::new(&built.checkpoint)),
        shared("before-report", Wanted::new(&built.report)),
    ];
    steps.extend(plan);
    steps.extend(stateful_set.map(|set| step("before-stateful-set", Wanted::new(&set))));
    steps
}

/// Builds what is around the plan and the pods.
fn around(owner: &Owner, account: &str) -> Built {
    Built {
        service_account: access::service_account(owner),
        role: access::role(owner),
        role_binding: access::role_binding(owner, account),
        service: run::service(owner),
        disruption_budget: run::disruption_budget(owner),
        coordinator: run::coordinator(owner),
        checkpoint: run::checkpoint(owner, false),
        report: run::report(owner),
    }
}

/// The volume of a spec that cannot be run, as far as it can be read.
fn written_volume(observed: &Observed) -> Option<VolumeSpec> {
    VolumeSpec::deserialize(observed.pipeline.spec.get("deployment")?.get("volume")?).ok()
}

/// The Pipeline that all of it belongs to.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Owner {
    /// This Pipeline.
    pub fn of(observed: &Observed) -> Self {
        Self {
            namespace: observed.namespace().to_owned(),
            name: observed.name().to_owned(),
            uid: observed.pipeline.uid().to_owned(),
        }
    }

    /// The metadata of an object that goes when the Pipeline goes.
    fn metadata(&self, name: impl Into<String>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.into()),
            namespace: Some(self.namespace.clone()),
            labels: Some(labels::of(&self.name)),
            owner_references: Some(vec![OwnerReference {
                api_version: API_VERSION.to_owned(),
                kind: "Pipeline".to_owned(),
                name: self.name.clone(),
                uid: self.uid.clone(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        }
    }

    /// The same, with a label that says which of the Pipeline's ConfigMaps it is.
    fn part(&self, name: impl Into<String>, part: &str) -> ObjectMeta {
        let mut metadata = self.metadata(name);
        metadata.labels.get_or_insert_default().insert(labels::PART.to_owned(), part.to_owned());
        metadata
    }
}
