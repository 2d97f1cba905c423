//! The Job that deletes a Pipeline's checkpoints: the runtime's own command, in a pod like the Pipeline's, with what the storage
//! asks for mounted as there, and without volumes that are for something else, which may be gone by then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{Container, Pod, PodSpec, PodTemplateSpec, Volume},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use millrace_crds::{CheckpointsSpec, DeploymentSpec};
use millrace_plan::handover::{ClearedDocument, Names};
use serde::Deserialize;

use crate::{
    cluster::{
        stores::Stores,
        writer::{Wanted, hash},
    },
    labels,
    pipeline::{
        build::pod::{CONTAINER, CREDENTIALS, LAST_WORDS_FROM, Pods, storage_secret, volume_of},
        dereference::{ACCOUNT, Observed},
        overlay::overlay,
    },
};

/// After so long Kubernetes ends the Job.
pub const DEADLINE: Duration = Duration::from_secs(300);
/// How often its pod may fail.
const TRIES: i32 = 3;
/// For so long one that has ended can be looked at, if nothing else removes it.
const KEPT: Duration = Duration::from_secs(600);
/// The label of a Job with the UID of the Pipeline whose checkpoints it deletes.
pub const UID: &str = "millrace.dev/uid";
/// The label of a pod with the name of its Job.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// Where a container's last words are read.
const LAST_WORDS: &str = "/dev/termination-log";

/// The Job's name: of at most 63 characters, as a Pipeline's has at most 52.
fn name(observed: &Observed) -> String {
    format!("{}-clear-{}", observed.name(), &hash(&observed.pipeline.uid())[..4])
}

/// The Job. `pointer`: the UID of the ConfigMap with which it goes.
pub fn wanted(
    observed: &Observed,
    checkpoints: &CheckpointsSpec,
    pointer: Option<&str>,
    runtime_image: &str,
) -> Wanted {
    let pipeline = observed.name();
    let mut labels = labels::of_clearing(pipeline);
    labels.insert(UID.to_owned(), observed.pipeline.uid().to_owned());
    let owner = pointer.map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: Names::of(pipeline).checkpoint(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    });
    let seconds = |duration: Duration| duration.as_secs();
    Wanted::new(&Job {
        metadata: ObjectMeta {
            name: Some(name(observed)),
            namespace: Some(observed.namespace().to_owned()),
            labels: Some(labels),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            active_deadline_seconds: Some(seconds(DEADLINE) as i64),
            backoff_limit: Some(TRIES),
            ttl_seconds_after_finished: Some(seconds(KEPT) as i32),
            template: pod(observed, checkpoints, &template(observed, checkpoints, runtime_image)),
            ..JobSpec::default()
        }),
        ..Job::default()
    })
}

/// The template of the pods that ran, or, where it is gone already, of those that the spec asks for, as far as it can be read.
fn template(observed: &Observed, checkpoints: &CheckpointsSpec, runtime_image: &str) -> PodTemplateSpec {
    if let Some(spec) = observed.stateful_set.as_ref().and_then(|set| set.spec.as_ref()) {
        return spec.template.clone();
    }
    let said = observed.pipeline.spec.get("deployment");
    let deployment = said.and_then(|said| DeploymentSpec::deserialize(said).ok()).unwrap_or_default();
    let overlay = overlay(observed.name(), deployment.template.as_ref()).unwrap_or_default();
    let storage_secret = storage_secret(checkpoints);
    let pods = Pods {
        pipeline: observed.name(),
        namespace: observed.namespace(),
        deployment: &deployment,
        overlay: &overlay,
        secrets: storage_secret.into_iter().collect(),
        storage_secret,
        runtime_image,
    };
    pods.template()
}

/// A pod that deletes checkpoints where one of this template would have taken them.
fn pod(observed: &Observed, checkpoints: &CheckpointsSpec, template: &PodTemplateSpec) -> PodTemplateSpec {
    let spec = template.spec.clone().unwrap_or_default();
    let is_needed = |volume: &Volume| {
        let secret = storage_secret(checkpoints).map(volume_of);
        // A Sink's.
        let is_of_another = volume.name.starts_with(CREDENTIALS) && secret.as_ref() != Some(&volume.name);
        let is_light = volume.secret.is_some()
            || volume.config_map.is_some()
            || volume.projected.is_some()
            || volume.downward_api.is_some()
            || volume.empty_dir.is_some();
        is_light && !is_of_another
    };
    let volumes: Vec<Volume> = spec.volumes.into_iter().flatten().filter(is_needed).collect();
    let is_there = |name: &str| volumes.iter().any(|volume| volume.name == name);
    let runtime = spec.containers.into_iter().find(|container| container.name == CONTAINER).unwrap_or_default();
    let named = format!("{}/{}", observed.namespace(), observed.name());
    let storage = checkpoints.storage.as_deref().unwrap_or_default();
    let delete = ["checkpoints", "delete", "--all", "--keep-savepoints", "--storage", storage, "--pipeline", &named];
    let args = delete.into_iter().chain(["--result", LAST_WORDS]).map(str::to_owned).collect();
    let container = Container {
        args: Some(args),
        volume_mounts: Some(runtime.volume_mounts.into_iter().flatten().filter(|it| is_there(&it.name)).collect()),
        volume_devices: None,
        ports: None,
        liveness_probe: None,
        readiness_probe: None,
        startup_probe: None,
        lifecycle: None,
        termination_message_path: None,
        termination_message_policy: Some(LAST_WORDS_FROM.to_owned()),
        ..runtime
    };
    // An account of the user's may be what the storage lets in. Ours may do nothing there, and may be gone.
    let account = spec.service_account_name.filter(|account| account != observed.name());
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut labels = metadata.labels.unwrap_or_default();
    labels.extend(labels::of_clearing(observed.name()));
    let mut annotations: BTreeMap<String, String> = metadata.annotations.unwrap_or_default();
    annotations.remove(ACCOUNT);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![container],
            volumes: Some(volumes),
            restart_policy: Some("Never".to_owned()),
            service_account_name: account,
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            // Who ends it wants to keep what it has not deleted yet.
            termination_grace_period_seconds: Some(1),
            affinity: spec.affinity,
            dns_config: spec.dns_config,
            dns_policy: spec.dns_policy,
            host_aliases: spec.host_aliases,
            image_pull_secrets: spec.image_pull_secrets,
            node_selector: spec.node_selector,
            priority_class_name: spec.priority_class_name,
            runtime_class_name: spec.runtime_class_name,
            scheduler_name: spec.scheduler_name,
            security_context: spec.security_context,
            tolerations: spec.tolerations,
            ..PodSpec::default()
        }),
    }
}

/// The pods that a Job has had.
pub fn pods(stores: &Stores, namespace: &str, job: &str) -> Vec<Arc<Pod>> {
    stores.pods.state_filter(|pod| {
        let labels = pod.metadata.labels.as_ref();
        pod.metadata.namespace.as_deref() == Some(namespace)
            && labels.and_then(|labels| labels.get(JOB_NAME)).map(String::as_str) == Some(job)
    })
}

/// Whether one of them has ended.
pub fn has_ended_pods(pods: &[Arc<Pod>]) -> bool {
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
    pods.iter().any(|pod| phase(pod).is_some_and(|phase| phase == "Succeeded" || phase == "Failed"))
}

/// What the one that has done its work has said.
pub fn words(pods: &[Arc<Pod>]) -> Option<ClearedDocument> {
    let containers = pods.iter().filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref()).flatten();
    let ended = containers.filter_map(|container| container.state.as_ref()?.terminated.as_ref());
    let mut words = ended.filter(|ended| ended.exit_code == 0).filter_map(|ended| ended.message.as_deref());
    words.find_map(|words| serde_json::from_str(words).ok())
}
