//! The definitions of the version before, with objects of it, are upgraded to this one's: the objects stay as they are, are still
//! taken, and are run.

use std::{collections::BTreeSet, fs};

use millrace_tests::{Deadline, cluster, cluster::Cluster, workspace::repository};
use serde_json::{Value, json};

const FOLDER: &str = "tests/tests/cluster/upgrade";
/// The definitions before give it a parallelism of their own, and this version's do not.
const PROBE: &str = "{apiVersion: millrace.dev/v1alpha1, kind: Pipeline, metadata: {name: probe}, spec: {sources: \
                     [{name: a, generator: {rows: 1, nexmark: {stream: Bid}}}], outputs: [{from: a, sink: rows}]}}";

fn read(file: &str) -> String {
    fs::read_to_string(repository().join(FOLDER).join(file)).unwrap()
}

fn documents(file: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(&read(file)).unwrap();
    all.into_iter().filter(|document| !document.is_null()).collect()
}

/// The paths of all fields that a schema knows. What is the user's own, or Kubernetes' own, is one field.
fn fields(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        found.insert(path.clone());
        if name != "resources" {
            fields(property, &path, found);
        }
    }
    if schema["items"].is_object() {
        fields(&schema["items"], path, found);
    }
}

/// The paths of all fields that an object has.
fn used(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(inner) => {
            for (name, value) in inner.iter().filter(|(_, value)| !value.is_null()) {
                let path = format!("{path}.{name}");
                used(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| used(item, path, found)),
        _ => {}
    }
}

#[test]
fn every_field_of_the_version_before_is_in_an_object_of_it() {
    let (mut known, mut found) = (BTreeSet::new(), BTreeSet::new());
    for crd in documents("crds.yaml") {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        fields(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], kind, &mut known);
    }
    for object in documents("objects.yaml") {
        used(&object["spec"], object["kind"].as_str().unwrap(), &mut found);
    }
    assert!(known.len() > 100, "{known:?}");
    // A pod has no standard input; such a Pipeline never ran in a cluster.
    let missing: Vec<_> = known.difference(&found).filter(|path| *path != "Pipeline.sources.stdin").collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Puts this version's definitions back, whatever comes of the test.
struct Restore<'c>(&'c Cluster);

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        let ours = millrace_crds::crds().iter().map(|crd| json!(crd)).collect();
        println!("this version's definitions are back: {:?}", replace(self.0, ours));
    }
}

/// Puts definitions in the place of those that are there, with nothing left of these: fields that other managers own would stay
/// if they were applied.
fn replace(cluster: &Cluster, mut definitions: Vec<Value>) -> Result<String, String> {
    for definition in &mut definitions {
        definition["metadata"]["managedFields"] = json!([{}]);
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": definitions});
    cluster.kubectl(["replace", "-f", "-"]).input(&list.to_string()).attempt()
}

/// These have the cluster for themselves.
mod alone {
    use super::*;

    #[test]
    fn objects_of_the_version_before_are_taken_and_run_by_this_one() {
        let Some(cluster) = cluster::cluster() else { return };
        let namespace = cluster.alone("upgrade");
        let restore = Restore(cluster);
        replace(cluster, documents("crds.yaml")).unwrap();
        let objects = documents("objects.yaml");
        // What a server has just been told of definitions it may take a moment to go by.
        let hold = |what: &str, default: &str| {
            Deadline::secs(30).wait_for(what, || {
                let probe = ["apply", "--dry-run=server", "-o", "jsonpath={.spec.parallelism}", "-f", "-"];
                (namespace.kubectl(probe).input(PROBE).run() == default).then_some(())
            });
        };
        hold("the definitions before to hold", "1");
        namespace.apply(&read("objects.yaml"));
        let stored = |object: &Value| {
            namespace.get(object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
        };
        let before: Vec<Value> = objects.iter().map(&stored).collect();
        // The definitions before filled in defaults.
        assert_eq!(before.last().unwrap()["spec"]["checkpoints"]["interval"], "5s");

        drop(restore);
        hold("this version's definitions to hold", "");
        for (object, before) in objects.iter().zip(&before) {
            let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
            // A write of anything checks the whole.
            namespace.kubectl(["annotate", kind, name, "touched=yes"]).run();
            let now = stored(object);
            assert_eq!(now["metadata"]["generation"], before["metadata"]["generation"], "{kind} {name}");
            assert_eq!(without_nothing(&now["spec"]), without_nothing(&before["spec"]), "{kind} {name}");
        }
        let installed = namespace.install(&["replicas=1"]);
        for object in &objects {
            let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
            namespace.wait_until(&format!("{}/{name}", kind.to_lowercase()), "ConfigValid");
        }
        namespace.wait_for("pipeline/made-up", ".status.phase", "Finished");
        for suspended in ["everything", "nothings"] {
            namespace.wait_for(&format!("pipeline/{suspended}"), ".status.phase", "Suspended");
        }
        // Applied again, what the definitions before filled in goes from lists; the dataflow is the same, and there is nothing to do.
        let revision = || namespace.get("pipeline", "made-up")["status"]["revision"].clone();
        let before = revision();
        namespace.apply(&read("objects.yaml"));
        let generation = namespace.get("pipeline", "made-up")["metadata"]["generation"].to_string();
        namespace.wait_for("pipeline/made-up", ".status.observedGeneration", &generation);
        assert_eq!(
            (revision(), namespace.get("pipeline", "made-up")["status"]["phase"].clone()),
            (before, "Finished".into())
        );
        let again = namespace.apply(&read("objects.yaml"));
        // A field that is written as nothing is taken away anew each time.
        for line in again.lines().filter(|line| !line.contains("/nothings ")) {
            assert!(line.ends_with(" unchanged"), "{line}");
        }
        installed.expect_nothing_forbidden();
    }
}

/// Without fields that say nothing, which an API server need not keep.
fn without_nothing(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let said = fields.iter().filter(|(_, value)| !value.is_null());
            said.map(|(name, value)| (name.clone(), without_nothing(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_nothing).collect(),
        other => other.clone(),
    }
}
