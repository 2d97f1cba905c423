//! A table of bad objects, each refused by `kubectl apply` in words, and by `millrace check` too.

use std::fs;

use millrace_crds::{API_VERSION, manifest};
use millrace_tests::{cluster, cluster::Namespace, workspace::repository};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    case: String,
    /// What is there already.
    before: Option<Value>,
    object: Value,
    /// What the API server says.
    says: String,
    /// `passes`: only a cluster refuses it.
    check: Option<String>,
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string(repository().join("tests/tests/cluster/refused.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// The object as a manifest, with a name if it has none.
fn manifest(object: &Value, name: &str) -> String {
    let mut object = object.clone();
    object["apiVersion"] = json!(API_VERSION);
    if object["metadata"].is_null() {
        object["metadata"] = json!({ "name": name });
    }
    object.to_string()
}

#[test]
fn there_are_bad_objects_of_every_kind() {
    let cases = cases();
    assert!(cases.len() >= 40, "{}", cases.len());
    for kind in ["Pipeline", "Window", "Sink"] {
        assert!(cases.iter().any(|case| case.object["kind"] == kind));
    }
}

#[test]
fn what_the_api_server_refuses_is_refused_from_a_file_too() {
    // What they name is not in question here.
    let others = "---\n{apiVersion: millrace.dev/v1alpha1, kind: Sink, metadata: {name: out}, spec: {stdout: {}}}\n---\n\
                  {apiVersion: millrace.dev/v1alpha1, kind: Window, metadata: {name: minute}, spec: {tumbling: {size: 1m}}}\n";
    let passes = |object: &Value| {
        let text = format!("{}\n{others}", manifest(object, "it"));
        let (_, problems) = manifest::read(&[("it.yaml", text)]);
        !problems.iter().any(manifest::Problem::is_error)
    };
    let wrong = cases().into_iter().filter(|case| passes(&case.object) != (case.check.as_deref() == Some("passes")));
    let wrong: Vec<String> = wrong.map(|case| case.case).collect();
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn kubectl_apply_refuses_every_bad_object_and_says_why() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("refused");
    let mut wrong = Vec::new();
    for (number, case) in cases().into_iter().enumerate() {
        let name = format!("case-{number}");
        if let Some(before) = &case.before {
            namespace.apply(&manifest(before, &name));
        }
        let tried = try_apply(&namespace, &manifest(&case.object, &name));
        match tried {
            Ok(_) => wrong.push(format!("{}: it is taken", case.case)),
            Err(said) if !said.contains(&case.says) => {
                wrong.push(format!("{}: expected {:?}, and it says\n{said}", case.case, case.says));
            }
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_storage_in_which_no_checkpoint_can_be_kept_may_be_mended() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("mended");
    let with = |storage: &str| {
        let spec = json!({
            "sources": [{"name": "a", "generator": {"nexmark": {"stream": "Bid"}}}],
            "outputs": [{"from": "a", "sink": "out"}],
            "checkpoints": {"storage": storage},
        });
        json!({"kind": "Pipeline", "spec": spec})
    };
    let none = ["ftp://x/y", "gs://lake/x", "s3://", "s3://me@lake/x", "file://host/x"];
    let some = ["s3://lake", "s3://lake/", "s3://lake/x", "file:///x", "/x"];
    for (number, (before, may)) in none.map(|it| (it, true)).into_iter().chain(some.map(|it| (it, false))).enumerate() {
        let name = format!("case-{number}");
        namespace.apply(&manifest(&with(before), &name));
        let tried = try_apply(&namespace, &manifest(&with("s3://lake/good"), &name));
        match tried {
            Ok(_) => assert!(may, "{before}"),
            Err(said) => assert!(!may && said.contains("checkpoints.storage cannot change"), "{before}: {said}"),
        }
        let to_itself = try_apply(&namespace, &manifest(&with(before), &name));
        assert!(to_itself.is_ok(), "{to_itself:?}");
    }
}

fn try_apply(namespace: &Namespace<'_>, manifest: &str) -> Result<String, String> {
    namespace.kubectl(["apply", "--dry-run=server", "-f", "-"]).input(manifest).attempt()
}
