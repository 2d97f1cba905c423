//! The runtime's pod: ours, which meets the `restricted` Pod Security Standard, with what the Pipeline lays over it.

use std::collections::BTreeSet;

use k8s_openapi::{
    DeepMerge,
    api::core::v1::{
        Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
        ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile, SecretVolumeSource,
        SecurityContext, Volume, VolumeMount,
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use millrace_crds::{CheckpointsSpec, DeploymentSpec, ImagePullPolicy};
use millrace_plan::ResolvedSpec;

use crate::{cluster::writer::hash, labels, pipeline::validate::Valid};

/// The runtime's container, by which a template lays fields over it.
pub const CONTAINER: &str = "millrace";
/// The volume with state and, unless told otherwise, checkpoints.
pub const DATA: &str = "data";
/// Where it is mounted.
pub const DATA_DIR: &str = "/data";
/// The port of `/metrics`, `/healthz` and `/readyz`.
pub const PORT: i32 = 9_600;
/// Under this, each Secret that a Sink or `checkpoints` names is mounted by its name.
pub const CREDENTIALS_DIR: &str = "/etc/millrace/credentials";
/// How the names of their volumes begin.
pub const CREDENTIALS: &str = "credentials-";
/// The environment variable that tells the runtime where the Secret of the checkpoints' storage is.
const STORAGE_CREDENTIALS: &str = "MILLRACE_STORAGE_CREDENTIALS";
/// What the runtime's container is told by its environment.
pub const ENVIRONMENT: [&str; 4] = ["POD_NAME", "POD_NAMESPACE", "POD_UID", STORAGE_CREDENTIALS];
/// The user and group of the runtime's image.
const USER: i64 = 65_532;
/// Where a container's last words are taken from that leaves none: the last lines of one that failed stand in the pod's status,
/// and from there in the Pipeline's.
pub const LAST_WORDS_FROM: &str = "FallbackToLogsOnError";
/// For so long a pod may take its last checkpoint.
const GRACE_SECONDS: i64 = 60;

/// The template of a Pipeline's pods.
pub fn template(valid: &Valid, dataflow: &ResolvedSpec, namespace: &str, runtime_image: &str) -> PodTemplateSpec {
    let pods = Pods {
        pipeline: dataflow.name.as_str(),
        namespace,
        deployment: &valid.deployment,
        overlay: &valid.overlay,
        secrets: secrets(dataflow),
        storage_secret: storage_secret(&dataflow.pipeline.checkpoints),
        runtime_image,
    };
    pods.template()
}

/// What a template of pods is made from.
#[derive(Clone, Debug)]
pub struct Pods<'a> {
    /// The Pipeline.
    pub pipeline: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// How its pods look.
    pub deployment: &'a DeploymentSpec,
    /// What is laid over them.
    pub overlay: &'a PodTemplateSpec,
    /// The Secrets that are mounted.
    pub secrets: BTreeSet<&'a str>,
    /// The one of them that is for the checkpoints' storage.
    pub storage_secret: Option<&'a str>,
    /// The image, where the Pipeline names no other.
    pub runtime_image: &'a str,
}

impl Pods<'_> {
    /// The template.
    pub fn template(&self) -> PodTemplateSpec {
        let name = self.pipeline;
        let mut volumes = vec![Volume {
            name: "tmp".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        }];
        volumes.extend(self.secrets.iter().map(|secret| Volume {
            name: volume_of(secret),
            secret: Some(SecretVolumeSource {
                secret_name: Some((*secret).to_owned()),
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        }));
        let mut template = PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(labels::of(name)), ..ObjectMeta::default() }),
            spec: Some(PodSpec {
                containers: vec![self.container()],
                enable_service_links: Some(false),
                security_context: Some(PodSecurityContext {
                    run_as_non_root: Some(true),
                    run_as_user: Some(USER),
                    run_as_group: Some(USER),
                    fs_group: Some(USER),
                    // Changing the owner of every file of a large volume at each start takes minutes.
                    fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                    seccomp_profile: Some(SeccompProfile {
                        type_: "RuntimeDefault".to_owned(),
                        ..SeccompProfile::default()
                    }),
                    ..PodSecurityContext::default()
                }),
                service_account_name: Some(name.to_owned()),
                termination_grace_period_seconds: Some(GRACE_SECONDS),
                volumes: Some(volumes),
                ..PodSpec::default()
            }),
        };
        let mut overlay = self.overlay.clone();
        // A pod's name, namespace and the rest are its StatefulSet's to say.
        overlay.metadata = overlay.metadata.map(|metadata| ObjectMeta {
            labels: metadata.labels,
            annotations: metadata.annotations,
            ..ObjectMeta::default()
        });
        for container in containers(&mut overlay) {
            container.termination_message_policy.get_or_insert_with(|| LAST_WORDS_FROM.to_owned());
        }
        template.merge_from(overlay);
        // The StatefulSet, the Service and the operator find the pods by these.
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.extend(labels::of(name));
        template
    }

    fn container(&self) -> Container {
        let Self { deployment, namespace, pipeline: name, secrets, .. } = self;
        let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
            name: name.to_owned(),
            mount_path: path.to_owned(),
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        };
        let mut mounts = vec![mount(DATA, DATA_DIR, false), mount("tmp", "/tmp", false)];
        mounts.extend(
            secrets.iter().map(|secret| mount(&volume_of(secret), &format!("{CREDENTIALS_DIR}/{secret}"), true)),
        );
        let mut env = vec![
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_UID", "metadata.uid"),
        ];
        env.extend(self.storage_secret.map(|secret| EnvVar {
            name: STORAGE_CREDENTIALS.to_owned(),
            value: Some(format!("{CREDENTIALS_DIR}/{secret}")),
            ..EnvVar::default()
        }));
        let listen = format!("0.0.0.0:{PORT}");
        let args =
            ["worker", "--namespace", namespace, "--pipeline", name, "--data-dir", DATA_DIR, "--listen", &listen];
        Container {
            name: CONTAINER.to_owned(),
            image: Some(deployment.image.clone().unwrap_or_else(|| self.runtime_image.to_owned())),
            image_pull_policy: deployment.image_pull_policy.map(|policy| pull_policy(policy).to_owned()),
            args: Some(args.map(str::to_owned).to_vec()),
            env: Some(env),
            ports: Some(vec![ContainerPort {
                name: Some("http".to_owned()),
                container_port: PORT,
                protocol: Some("TCP".to_owned()),
                ..ContainerPort::default()
            }]),
            liveness_probe: Some(probe("/healthz", 10, 6)),
            readiness_probe: Some(probe("/readyz", 1, 2)),
            resources: deployment.resources.clone(),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
                read_only_root_filesystem: Some(true),
                ..SecurityContext::default()
            }),
            termination_message_policy: Some(LAST_WORDS_FROM.to_owned()),
            volume_mounts: Some(mounts),
            ..Container::default()
        }
    }
}

/// All containers of a template.
fn containers(template: &mut PodTemplateSpec) -> impl Iterator<Item = &mut Container> {
    let spec = template.spec.iter_mut();
    spec.flat_map(|spec| spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()))
}

/// A hash of the template: where it changes, pods are made anew.
pub fn template_hash(template: &PodTemplateSpec) -> String {
    hash(template)
}

fn field(name: &str, path: &str) -> EnvVar {
    let selector = ObjectFieldSelector { field_path: path.to_owned(), ..ObjectFieldSelector::default() };
    let source = EnvVarSource { field_ref: Some(selector), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value_from: Some(source), ..EnvVar::default() }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

const fn pull_policy(policy: ImagePullPolicy) -> &'static str {
    match policy {
        ImagePullPolicy::Always => "Always",
        ImagePullPolicy::IfNotPresent => "IfNotPresent",
        ImagePullPolicy::Never => "Never",
    }
}

/// The Secrets that Sinks and the checkpoints' storage name. The kubelet mounts them, and renews the files when a Secret changes.
pub fn secrets(dataflow: &ResolvedSpec) -> BTreeSet<&str> {
    let credentials = dataflow.sinks.values().filter_map(|sink| sink.credentials.as_ref());
    let storage = storage_secret(&dataflow.pipeline.checkpoints);
    credentials.map(|credentials| credentials.secret_ref.name.as_str()).chain(storage).collect()
}

/// The Secret of the checkpoints' storage.
pub fn storage_secret(checkpoints: &CheckpointsSpec) -> Option<&str> {
    Some(&checkpoints.credentials.as_ref()?.secret_ref.name)
}

/// A Secret's volume. Secrets' names may be longer than volumes'.
pub fn volume_of(secret: &str) -> String {
    format!("{CREDENTIALS}{}", hash(&secret))
}
