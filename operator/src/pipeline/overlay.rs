//! The pod template that a Pipeline lays over ours: read, and kept from what would break the pod.
//!
//! A field that pods do not have is refused, since a slip of the pen would otherwise do nothing in silence. So is what the
//! pod has to have as Millrace makes it: the labels by which pods are found, how the runtime is started and told who it is, and
//! where its state and Secrets are.

use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use millrace_crds::{amount_problem, resource_problems};
use serde_json::{Value, json};

use super::build::pod::{CONTAINER, CREDENTIALS_DIR, DATA, DATA_DIR, ENVIRONMENT};
use crate::labels;

const FIELD: &str = "spec.deployment.template";

/// The template of a Pipeline of this name.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub fn overlay(pipeline: &str, template: Option<&Value>) -> Result<PodTemplateSpec, String> {
    let Some(template) = template else { return Ok(PodTemplateSpec::default()) };
    let mut template = with_containers(template.clone());
    quantities_as_text(&mut template);
    let parsed: PodTemplateSpec = serde_json::from_value(template.clone())
        .map_err(|error| format!("{FIELD}: this is no pod template: {error}"))?;
    if let Some(place) = unknown(&template, &json!(parsed)) {
        return Err(format!("{FIELD}{place}: there is no such field in a pod template"));
    }
    if let Some((place, why)) = quantities(&parsed) {
        return Err(format!("{FIELD}.spec.{place}: {why}"));
    }
    match reserved(pipeline, &parsed) {
        Some((place, why)) => Err(format!("{FIELD}.{place}: {why}")),
        None => Ok(parsed),
    }
}

/// A pod's spec has to have containers; an overlay need not name any.
fn with_containers(mut template: Value) -> Value {
    if let Some(Value::Object(spec)) = template.get_mut("spec") {
        spec.entry("containers").or_insert_with(|| json!([]));
    }
    template
}

/// Quantities may be plain numbers, as in `cpu: 1`.
fn quantities_as_text(value: &mut Value) {
    let as_text = |value: &mut Value| {
        if value.is_number() {
            *value = json!(value.to_string());
        }
    };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), &mut *value) {
                    ("limits" | "requests" | "overhead", Value::Object(quantities)) => {
                        quantities.values_mut().for_each(as_text);
                    }
                    ("sizeLimit" | "divisor", quantity) => as_text(quantity),
                    _ => quantities_as_text(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quantities_as_text),
        _ => {}
    }
}

/// The first quantity that is none, and why.
fn quantities(template: &PodTemplateSpec) -> Option<(String, String)> {
    let spec = template.spec.as_ref()?;
    let lists = [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())];
    let containers = lists.into_iter().flat_map(|(list, of)| of.into_iter().flatten().map(move |it| (list, it)));
    let of_containers = containers.flat_map(|(list, container)| {
        let problems = container.resources.iter().flat_map(resource_problems);
        problems.map(move |(place, message, expected)| {
            (format!("{list}[{}].resources.{place}", container.name), message, expected)
        })
    });
    let overhead = spec.overhead.iter().flatten().map(|(name, quantity)| (format!("overhead.{name}"), quantity));
    let limits = spec.volumes.iter().flatten().filter_map(|volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        Some((format!("volumes[{}].emptyDir.sizeLimit", volume.name), limit))
    });
    let others = overhead.chain(limits).filter_map(|(place, quantity)| {
        let (message, expected) = amount_problem(&quantity.0)?;
        Some((place, message, expected))
    });
    let (place, message, expected) = of_containers.chain(others).next()?;
    Some((place, format!("{message}; expected {expected}")))
}

/// Where a field is that was not understood, so that it is not in what was read.
fn unknown(given: &Value, read: &Value) -> Option<String> {
    match (given, read) {
        (Value::Object(given), Value::Object(read)) => given.iter().find_map(|(name, value)| match read.get(name) {
            Some(read) => unknown(value, read).map(|inner| format!(".{name}{inner}")),
            None => (!value.is_null()).then(|| format!(".{name}")),
        }),
        (Value::Array(given), Value::Array(read)) => given
            .iter()
            .zip(read)
            .enumerate()
            .find_map(|(at, (given, read))| unknown(given, read).map(|inner| format!("[{at}]{inner}"))),
        _ => None,
    }
}

/// What is Millrace's to say, and why.
fn reserved(pipeline: &str, template: &PodTemplateSpec) -> Option<(String, String)> {
    let ours = labels::of(pipeline);
    let given = template.metadata.iter().flat_map(|metadata| metadata.labels.iter().flatten());
    for (name, value) in given {
        if ours.get(name).is_some_and(|ours| ours != value) {
            return Some((
                format!("metadata.labels[{name}]"),
                "by this label pods are found, and it cannot change".into(),
            ));
        }
    }
    let spec = template.spec.as_ref()?;
    let containers = spec.containers.iter().map(|container| ("containers", container));
    let containers = containers.chain(spec.init_containers.iter().flatten().map(|it| ("initContainers", it)));
    for (list, container) in containers {
        if container.name.is_empty() {
            let why = format!("a container has no name; expected `{CONTAINER}` for the runtime's own");
            return Some((format!("spec.{list}"), why));
        }
        if container.name == CONTAINER {
            if list == "initContainers" {
                return Some((
                    format!("spec.{list}[{CONTAINER}]"),
                    "this is the name of the runtime's container".into(),
                ));
            }
            if let Some((place, why)) = reserved_of_runtime(container) {
                return Some((format!("spec.{list}[{CONTAINER}].{place}"), why));
            }
        }
    }
    reserved_of_pod(spec)
}

fn reserved_of_runtime(container: &Container) -> Option<(String, String)> {
    if container.command.is_some() {
        return Some(("command".into(), "how the runtime is started cannot change".into()));
    }
    if container.args.is_some() {
        return Some(("args".into(), "how the runtime is started cannot change".into()));
    }
    for variable in container.env.iter().flatten() {
        if ENVIRONMENT.contains(&variable.name.as_str()) {
            let why = "this variable tells the runtime who and where it is, and cannot change".into();
            return Some((format!("env[{}]", variable.name), why));
        }
    }
    for mount in container.volume_mounts.iter().flatten() {
        let path = mount.mount_path.trim_end_matches('/');
        if path == DATA_DIR || path == CREDENTIALS_DIR || path.starts_with(&format!("{CREDENTIALS_DIR}/")) {
            let why =
                "the runtime's volumes and the Secrets that Sinks name are mounted here; choose another path".into();
            return Some((format!("volumeMounts[{}]", mount.mount_path), why));
        }
    }
    None
}

fn reserved_of_pod(spec: &PodSpec) -> Option<(String, String)> {
    if spec.volumes.iter().flatten().any(|volume| volume.name == DATA) {
        let why =
            "this is the name of the volume that state is on; see `deployment.volume`, or choose another name".into();
        return Some((format!("spec.volumes[{DATA}]"), why));
    }
    let policy = spec.restart_policy.as_deref();
    if policy.is_some_and(|policy| policy != "Always") {
        return Some(("spec.restartPolicy".into(), "a Pipeline's pods are always started again".into()));
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_users_may_say_of_pods_is_read() {
        let template = json!({
            "metadata": {"labels": {"team": "web", "millrace.dev/pipeline": "web"}, "annotations": {"a": "b"}},
            "spec": {
                "nodeSelector": {"disk": "fast"},
                "serviceAccountName": "cloud",
                "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "lists", "configMap": {"name": "lists"}}],
                "containers": [
                    {"name": "millrace", "env": [{"name": "AWS_REGION", "value": "eu-1"}, {"name": "X", "value": null}],
                     "volumeMounts": [{"name": "lists", "mountPath": "/lists", "readOnly": true}]},
                    {"name": "sidecar", "image": "sidecar:1", "args": ["x"], "resources": {"limits": {"cpu": 1}}},
                ],
            },
        });
        assert!(overlay("web", Some(&template)).is_ok(), "{:?}", overlay("web", Some(&template)));
        assert_eq!(overlay("web", None), Ok(PodTemplateSpec::default()));
    }

    #[test]
    fn what_would_break_a_pod_is_refused_with_its_place() {
        let runtime = |what: Value| {
            let mut container = json!({"name": "millrace"});
            container.as_object_mut().unwrap().append(&mut what.as_object().unwrap().clone());
            json!({"spec": {"containers": [container]}})
        };
        for (template, says) in [
            (json!({"spec": {"nodeSelecter": {"a": "b"}}}), ".spec.nodeSelecter: there is no such field"),
            (json!({"metdata": {}}), ".metdata: there is no such field"),
            (runtime(json!({"envs": []})), ".spec.containers[0].envs: there is no such field"),
            (json!({"spec": {"nodeSelector": 1}}), "this is no pod template"),
            (json!({"spec": {"containers": [{"image": "x"}]}}), "expected `millrace` for the runtime's own"),
            (json!({"spec": {"containers": [{"name": ""}]}}), "a container has no name"),
            (
                json!({"metadata": {"labels": {"millrace.dev/pipeline": "b"}}}),
                "metadata.labels[millrace.dev/pipeline]: by this",
            ),
            (
                runtime(json!({"resources": {"limits": {"cpu": "lots"}}})),
                ".spec.containers[millrace].resources.limits.cpu: `lots` is no quantity; expected a number",
            ),
            (
                json!({"spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1GB"}}]}}),
                ".spec.volumes[tmp].emptyDir.sizeLimit: `1GB` is no quantity",
            ),
            (runtime(json!({"args": ["run"]})), "spec.containers[millrace].args: how the runtime is started"),
            (runtime(json!({"command": ["sh"]})), "spec.containers[millrace].command: how"),
            (
                runtime(json!({"env": [{"name": "POD_UID", "value": "1"}]})),
                "spec.containers[millrace].env[POD_UID]: this",
            ),
            (
                runtime(json!({"volumeMounts": [{"name": "x", "mountPath": "/data/"}]})),
                "volumeMounts[/data/]: the runtime",
            ),
            (
                json!({"spec": {"initContainers": [{"name": "millrace"}]}}),
                "spec.initContainers[millrace]: this is the name",
            ),
            (json!({"spec": {"volumes": [{"name": "data", "emptyDir": {}}]}}), "spec.volumes[data]: this is the name"),
            (json!({"spec": {"restartPolicy": "Never"}}), "spec.restartPolicy: a Pipeline's pods"),
        ] {
            let said = overlay("web", Some(&template)).expect_err(says);
            assert!(said.starts_with(FIELD) && said.contains(says), "{said}");
        }
    }
}
