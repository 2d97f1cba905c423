//! Objects that say anything: stored under definitions that took them, as those of another version may have.

use millrace_tests::{
    Deadline,
    cluster::{self, Cluster, Namespace},
    manifest,
};
use serde_json::{Value, json};

use super::{field, numbers, rows};

/// Definitions that take any object. The real ones are put back when this is dropped.
struct Loosened<'a> {
    cluster: &'a Cluster,
    real: Vec<Value>,
}

const DEFINITIONS: [&str; 3] = ["pipelines.millrace.dev", "windows.millrace.dev", "sinks.millrace.dev"];

impl<'a> Loosened<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let get = |name: &str| -> Value {
            serde_json::from_str(&cluster.kubectl(["get", "crd", name, "-o", "json"]).run()).unwrap()
        };
        let loosened = Self { cluster, real: DEFINITIONS.map(get).into() };
        let anything = |definition: &mut Value| {
            let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = anything;
            // Where there is a number of replicas to scale, the API server looks for it in every spec.
            definition["spec"]["versions"][0]["subresources"].as_object_mut().unwrap().remove("scale");
        };
        loosened.replace(anything).unwrap_or_else(|why| panic!("{why}"));
        loosened
    }

    fn replace(&self, change: impl Fn(&mut Value)) -> Result<(), String> {
        for definition in &self.real {
            let mut definition = definition.clone();
            let metadata = definition["metadata"].as_object_mut().unwrap();
            for name in ["resourceVersion", "uid", "generation", "creationTimestamp", "managedFields"] {
                metadata.remove(name);
            }
            definition.as_object_mut().unwrap().remove("status");
            change(&mut definition);
            self.cluster.kubectl(["replace", "-f", "-"]).input(&definition.to_string()).attempt()?;
        }
        Ok(())
    }

    /// Waits until the API server takes objects that the real definitions refuse.
    fn wait(&self, namespace: &Namespace<'_>) {
        for kind in ["Pipeline", "Window", "Sink"] {
            let object = hostile(kind, "probe", json!(7)).to_string();
            let mut refusal = String::new();
            let taken = Deadline::secs(60).poll(|| {
                let create = ["create", "--dry-run=server", "-f", "-"];
                let said = namespace.kubectl(create).input(&object).attempt();
                said.map_err(|why| refusal = why).ok()
            });
            assert!(taken.is_some(), "{refusal}");
        }
    }
}

impl Drop for Loosened<'_> {
    fn drop(&mut self) {
        if let Err(why) = self.replace(|_| {}) {
            println!("the real definitions could not be put back; every test applies them: {why}");
        }
    }
}

fn hostile(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "millrace.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A value that is nested so deep.
fn deep(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!({"a": inner}))
}

/// A Pipeline's spec in which all is well.
fn good() -> Value {
    json!({
        "sources": [{
            "name": "events", "generator": {"rows": 10, "fields": [{"name": "id", "sequence": {}}]},
        }],
        "transforms": [{"name": "some", "sql": "SELECT id FROM events"}],
        "outputs": [{"from": "some", "sink": "rows"}],
    })
}

/// Objects of each kind, by what is wrong with them.
fn objects() -> Vec<Value> {
    let pipeline = |name: &str, change: fn(&mut Value)| {
        let mut spec = good();
        change(&mut spec);
        hostile("Pipeline", name, spec)
    };
    let mut objects = vec![
        json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": "no-spec"}}),
        json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "Window", "metadata": {"name": "no-spec"}}),
        json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "Sink", "metadata": {"name": "no-spec"}}),
        hostile("Pipeline", "number", json!(7)),
        hostile("Pipeline", "list", json!([[], {}])),
        hostile("Pipeline", "empty", json!({})),
        pipeline("bad-duration", |spec| spec["checkpoints"] = json!({"interval": "5 parsecs"})),
        pipeline("endless-duration", |spec| spec["checkpoints"] = json!({"interval": "99999999999999999999999h"})),
        pipeline("negative-duration", |spec| spec["checkpoints"] = json!({"timeout": "-1s"})),
        pipeline("bad-size", |spec| spec["deployment"] = json!({"volume": {"size": "1e99Zi"}})),
        pipeline("bad-replicas", |spec| spec["deployment"] = json!({"replicas": -1e30})),
        pipeline("bad-template", |spec| {
            spec["deployment"] = json!({"template": {"spec": {"containers": [{"name": 7}, "x"], "volumes": {}}}});
        }),
        pipeline("deep-template", |spec| spec["deployment"] = json!({"template": deep(2_000)})),
        pipeline("huge-template", |spec| {
            spec["deployment"] = json!({"template": {"metadata": {"annotations": {"huge": "x".repeat(900_000)}}}});
        }),
        pipeline("sources-are-text", |spec| spec["sources"] = json!("none")),
        pipeline("names-are-objects", |spec| spec["outputs"] = json!([{"from": {}, "sink": []}, null, 7])),
        pipeline("elsewhere", |spec| spec["outputs"] = json!([{"from": "some", "sink": "kube-system/rows"}])),
        pipeline("window-is-a-list", |spec| spec["transforms"][0]["window"] = json!(["hour"])),
        pipeline("no-such-window", |spec| spec["transforms"][0]["window"] = json!("../../etc/passwd")),
        pipeline("unknown-fields", |spec| spec["everything"] = json!({"now": true})),
        pipeline("deep-sql", |spec| {
            let sql = format!("SELECT {}id{} FROM events", "(".repeat(20_000), ")".repeat(20_000));
            spec["transforms"][0]["sql"] = json!(sql);
        }),
        pipeline("suspend-is-text", |spec| spec["suspend"] = json!("yes")),
        pipeline("wishes-are-numbers", |spec| {
            spec["savepoint"] = json!(1);
            spec["startFrom"] = json!([1]);
        }),
    ];
    for (name, spec) in [
        ("number", json!(7)),
        ("bad-duration", json!({"tumbling": {"size": "soon"}})),
        ("negative-duration", json!({"tumbling": {"size": "-1m"}})),
        ("two-at-once", json!({"tumbling": {"size": "1m"}, "session": {"gap": "1m"}})),
        ("slide-is-larger", json!({"hopping": {"size": "1s", "slide": "999999999h"}})),
        ("deep", deep(2_000)),
    ] {
        objects.push(hostile("Window", name, spec));
    }
    for (name, spec) in [
        ("number", json!(7)),
        ("no-target", json!({})),
        ("bad-batch", json!({"parquet": {"uri": 7}, "batch": {"maxRows": -1, "maxDelay": "never"}})),
        ("bad-secret", json!({"parquet": {"uri": "/x"}, "credentials": {"secretRef": [{"name": "../.."}]}})),
        ("deep", deep(2_000)),
    ] {
        objects.push(hostile("Sink", name, spec));
    }
    objects
}

/// These have the cluster for themselves.
mod alone {
    use super::*;

    #[test]
    fn objects_that_say_anything_stop_the_watch_for_no_other() {
        let Some(cluster) = cluster::cluster() else { return };
        if !cluster.is_ours() {
            println!("skipped: it would loosen the definitions of a cluster that is not this machine's");
            return;
        }
        let namespace = cluster.alone("operator-hostile");
        let installed = namespace.install(&["replicas=1"]);
        let source = manifest::numbers(10_000_000, 100);
        namespace.apply(&format!("{}{}", rows(), numbers("good", &source, 0, "")));
        namespace.wait_until("pipeline/good", "Ready");
        let mut edit = 0;
        // That one which is well is made and edited as if there were no others.
        let mut expect_edit_of_good = || {
            edit += 1;
            namespace.apply(&numbers("good", &source, edit, ""));
            let is_there = || {
                let good = namespace.get("pipeline", "good");
                let ready = good["status"]["conditions"][0].clone();
                assert_eq!(ready["type"], "Ready");
                (good["status"]["observedGeneration"] == good["metadata"]["generation"]
                    && ready["status"] == "True"
                    && good["status"]["history"][0]["result"] == "TakenUp")
                    .then_some(())
            };
            Deadline::secs(60).wait_for("an edit of the good one", is_there);
        };

        let loosened = Loosened::new(cluster);
        loosened.wait(&namespace);
        // The operator's watches bring them one by one.
        for object in objects() {
            let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
            namespace
                .kubectl(["create", "-f", "-"])
                .input(&object.to_string())
                .attempt()
                .unwrap_or_else(|why| panic!("{name}: {why}"));
        }
        for kind in ["pipeline", "window", "sink"] {
            let nonsense =
                json!({"status": {"conditions": "none", "history": 7, "usedBy": {}, "checkpoint": [deep(500)]}});
            let nonsense = nonsense.to_string();
            namespace.kubectl(["patch", kind, "number", "--subresource=status", "--type=merge", "-p", &nonsense]).run();
        }
        for object in objects() {
            let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
            let object = format!("{}/{name}", kind.to_lowercase());
            let path = ".status.conditions[?(@.type==\"Ready\")].status";
            let told = || namespace.kubectl(["get", &object, "-o", &format!("jsonpath={{{path}}}")]).attempt().ok();
            let told = Deadline::secs(60).poll(|| told().filter(|status| status == "False"));
            assert!(
                told.is_some(),
                "{object} is not told: {}\n{}",
                field(&namespace, &object, ".status"),
                installed.logs()
            );
        }
        expect_edit_of_good();
        // One that starts lists them all at once.
        let restart = || {
            let operator = installed.operator();
            namespace.kubectl(["rollout", "restart", "deployment", &operator]).run();
            namespace.kubectl(["rollout", "status", "deployment", &operator, "--timeout=120s"]).run();
        };
        restart();
        expect_edit_of_good();
        // And again under the real definitions, which refuse to store what is there already.
        drop(loosened);
        Deadline::secs(60).wait_for("the real definitions", || {
            let object = hostile("Window", "probe", json!({"tumbling": {"size": "soon"}})).to_string();
            namespace.kubectl(["create", "--dry-run=server", "-f", "-"]).input(&object).attempt().err()
        });
        restart();
        expect_edit_of_good();

        let selector = "app.kubernetes.io/name=millrace-operator";
        let pods = namespace.kubectl(["get", "pods", "-l", selector, "-o", "json"]).run();
        let pods: Value = serde_json::from_str(&pods).unwrap();
        for pod in pods["items"].as_array().unwrap() {
            assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
        }
        let (log, metrics) = (installed.logs(), installed.metrics());
        assert!(!log.contains("panicked"), "{log}");
        assert!(!metrics.contains("millrace_operator_watch_errors_total{"), "{metrics}");
    }
}
