//! The fourth step: the objects that a Pipeline is to have. Nothing here can fail.

mod access;
pub mod pod;
pub mod run;

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        coordination::v1::Lease,
        core::v1::{ConfigMap, PodTemplateSpec, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use millrace_crds::API_VERSION;

use super::{decide::Decision, dereference::Observed, validate::Valid};
use crate::{cluster::writer::Wanted, labels};

/// The objects, each by its kind.
#[derive(Clone, Debug)]
pub struct Built {
    /// Who the pods are.
    pub service_account: ServiceAccount,
    /// What they may do.
    pub role: Role,
    /// That they may.
    pub role_binding: RoleBinding,
    /// The pods' names in DNS.
    pub service: Service,
    /// How many of them may be evicted.
    pub disruption_budget: PodDisruptionBudget,
    /// Who of them coordinates; without content.
    pub coordinator: Lease,
    /// Where the pointer to the last checkpoint is put; without content.
    pub checkpoint: ConfigMap,
    /// Where the report is put; without content.
    pub report: ConfigMap,
    /// The pods and their volumes.
    pub stateful_set: StatefulSet,
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
}

/// What is to be applied, in this order: what pods need before them, and the plan before the pods that read it.
pub fn steps(observed: &Observed, valid: Option<&Valid>, decision: &Decision, runtime_image: &str) -> Vec<Step> {
    if decision.is_dry_run {
        return Vec::new();
    }
    let owner = Owner::of(observed);
    let step = |point, wanted| Step { point, wanted, is_watched: true, is_ours_alone: true };
    let shared = |point, wanted| Step { is_ours_alone: false, ..step(point, wanted) };
    let unwatched = |point, wanted| Step { is_watched: false, ..shared(point, wanted) };
    let plan = decision.document.as_ref().map(|document| {
        let map = run::plan(&owner, document, decision.previous.as_ref(), decision.good_pods.as_ref());
        step("before-plan", Wanted::new(&map))
    });
    let built = match (valid, &decision.document) {
        (Some(valid), Some(document)) if decision.builds => {
            let template = match &decision.pods {
                Some(template) => template.clone(),
                None => pod::template(valid, &document.spec, &owner.namespace, runtime_image),
            };
            build(&owner, valid, &document.spec, decision.replicas, template, observed.stateful_set.as_deref())
        }
        _ => return plan.into_iter().collect(),
    };
    let mut steps = vec![
        step("before-service-account", Wanted::new(&built.service_account)),
        step("before-role", Wanted::new(&built.role)),
        step("before-role-binding", Wanted::new(&built.role_binding)),
        step("before-service", Wanted::new(&built.service)),
        step("before-disruption-budget", Wanted::new(&built.disruption_budget)),
        unwatched("before-lease", Wanted::new(&built.coordinator)),
        unwatched("before-checkpoint-pointer", Wanted::new(&built.checkpoint)),
        shared("before-report", Wanted::new(&built.report)),
    ];
    steps.extend(plan);
    steps.push(step("before-stateful-set", Wanted::new(&built.stateful_set)));
    steps
}

/// Builds all objects but the plan.
pub fn build(
    owner: &Owner,
    valid: &Valid,
    dataflow: &millrace_plan::ResolvedSpec,
    replicas: i32,
    template: PodTemplateSpec,
    existing: Option<&StatefulSet>,
) -> Built {
    // A template may name an account of the user's, as clouds want it: then that is given the rights.
    let account = template.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    let account = account.unwrap_or(&owner.name).to_owned();
    // Nobody deletes what is elsewhere, and checkpoints without their pointer are worth nothing and in the way.
    let is_on_volume = dataflow.pipeline.checkpoints.storage.is_none();
    Built {
        service_account: access::service_account(owner),
        role: access::role(owner),
        role_binding: access::role_binding(owner, &account),
        service: run::service(owner),
        disruption_budget: run::disruption_budget(owner),
        coordinator: run::coordinator(owner),
        checkpoint: run::checkpoint(owner, valid.deletes_checkpoints && is_on_volume),
        report: run::report(owner),
        stateful_set: run::stateful_set(owner, valid, template, replicas, existing),
    }
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
            uid: observed.pipeline.metadata.uid.clone().unwrap_or_default(),
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
