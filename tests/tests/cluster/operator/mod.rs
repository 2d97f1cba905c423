//! The operator on a cluster: killed at every step, replaced as leader, and faced with objects that say anything.

mod hostile;
mod killed;
mod leader;
mod succession;
mod volumes;

use millrace_tests::{cluster::Namespace, manifest};
use serde_json::{Value, json};

pub use self::succession::{Operators, points};

/// The Lease by which replicas agree on who leads.
const LEASE: &str = "lease/millrace-operator";

/// A Pipeline that passes on the rows of a source, each with the number of the edit that was in force, to the Sink `rows`.
fn numbers(name: &str, source: &str, edit: u32, more: &str) -> String {
    let pipeline = manifest::Pipeline {
        name,
        checkpoints: "interval: 500ms, minPause: 100ms",
        more,
        events: source,
        transforms: &[("some", "", &format!("SELECT id, {edit} AS edit FROM events"))],
        outputs: &[("some", "rows")],
    };
    pipeline.to_string()
}

/// The Sink `rows`, a folder of a Pipeline's own volume.
fn rows() -> String {
    manifest::sink("rows", "file: {path: /data/rows, format: {json: {}}}")
}

/// A field of an object, as text.
fn field(namespace: &Namespace<'_>, object: &str, path: &str) -> String {
    namespace.kubectl(["get", object, "-o", &format!("jsonpath={{{path}}}")]).run()
}

/// A Pod that is like those of a Deployment, of a name of its own, and is not started again when it has ended.
fn lone_pod(deployment: &Value, name: &str, environment: &[(&str, &str)]) -> Value {
    let mut spec = deployment["spec"]["template"]["spec"].clone();
    spec["restartPolicy"] = json!("Never");
    spec.as_object_mut().unwrap().remove("topologySpreadConstraints");
    let container = &mut spec["containers"][0];
    let variables = container["env"].as_array_mut().unwrap();
    for (name, value) in environment {
        variables.retain(|variable| variable["name"] != *name);
        variables.push(json!({"name": name, "value": value}));
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}
