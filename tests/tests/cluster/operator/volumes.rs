//! What becomes of a Pipeline's volume: it goes only with a Pipeline whose spec says so when it is deleted, and one that was made
//! for something else is nobody's to take.

use millrace_tests::{Deadline, cluster, cluster::Namespace, manifest};
use serde_json::{Value, json};

use super::{field, numbers, rows};
use crate::live::{Live, Rows, condition, expect_each_once};

/// A Pipeline of rows without end on its own volume.
fn endless(name: &str, edit: u32, on_delete: &str) -> String {
    let pipeline = numbers(name, &manifest::numbers(10_000_000, 1000), edit, "");
    let pipeline = pipeline.replace("interval: 500ms", &format!("onDelete: {on_delete}, interval: 500ms"));
    assert!(pipeline.contains("onDelete"), "{pipeline}");
    pipeline
}

fn patch(namespace: &Namespace<'_>, name: &str, spec: &Value) {
    let patch = json!({"spec": spec}).to_string();
    namespace.kubectl(["patch", "pipeline", name, "--type=merge", "-p", &patch]).run();
}

fn on_delete(namespace: &Namespace<'_>, name: &str, on_delete: &str) {
    patch(namespace, name, &json!({"checkpoints": {"onDelete": on_delete}}));
}

fn delete(namespace: &Namespace<'_>, names: &[&str], cascade: &str) {
    let args = ["delete", "pipelines", "--wait", "--timeout=120s", cascade];
    namespace.kubectl(args.into_iter().chain(names.iter().copied())).run();
    for kind in ["statefulset", "pod"] {
        let left =
            || namespace.objects(kind).into_iter().any(|it| names.iter().any(|name| it.contains(&format!("/{name}"))));
        Deadline::secs(120).wait_for("what it owns to go", || (!left()).then_some(()));
    }
}

/// The volumes and the pointers of these Pipelines, by their names.
fn kept(namespace: &Namespace<'_>, names: &[&str]) -> Vec<String> {
    let there = namespace.objects("persistentvolumeclaims,configmaps");
    let is_there = |object: String| there.contains(&object).then_some(object);
    let of = |name: &str| [format!("persistentvolumeclaim/data-{name}-0"), format!("configmap/{name}-checkpoint")];
    names.iter().flat_map(|name| of(name)).filter_map(is_there).collect()
}

fn expect_kept(namespace: &Namespace<'_>, names: &[&str]) {
    assert_eq!(kept(namespace, names).len(), 2 * names.len(), "{:?}", kept(namespace, names));
    for name in names {
        assert_eq!(field(namespace, &format!("pvc/data-{name}-0"), ".metadata.deletionTimestamp"), "", "{name}");
        assert!(!field(namespace, &format!("configmap/{name}-checkpoint"), ".data").is_empty(), "{name}");
    }
}

#[test]
fn who_asks_to_keep_checkpoints_and_deletes_at_once_has_them_kept() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("keeps");
    let installed = namespace.install(&["replicas=1"]);
    namespace.apply(&rows());
    let names = ["one", "two", "three", "four"];
    for name in names {
        namespace.apply(&endless(name, 0, "Delete"));
    }
    for name in names {
        let live = Live::new(&namespace, name);
        live.is_ready();
        live.completes(1);
    }
    // Whoever deletes dependents first deletes what is kept of none.
    for (name, cascade) in names.into_iter().zip(["background", "foreground"].into_iter().cycle()) {
        on_delete(&namespace, name, "Retain");
        namespace.kubectl(["delete", "pipeline", name, "--wait=false", &format!("--cascade={cascade}")]).run();
    }
    delete(&namespace, &names, "--ignore-not-found");
    expect_kept(&namespace, &names);
    // One that is made anew goes on from there.
    namespace.apply(&endless("one", 0, "Delete"));
    let live = Live::new(&namespace, "one");
    live.is_ready();
    live.completes(1);
    expect_each_once(&Rows::of(&live.data().join("rows")).more().numbers("id"), |_| true, "every row");
    delete(&namespace, &["one"], "--cascade=foreground");
    Deadline::secs(60).wait_for("its volume to go", || kept(&namespace, &["one"]).is_empty().then_some(()));
    installed.expect_nothing_forbidden();
}

#[test]
fn what_a_suspended_pipeline_says_of_its_volume_holds_and_a_stateful_set_takes_none_along() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("volumes");
    let installed = namespace.install(&["replicas=1"]);
    namespace.apply(&rows());
    for (name, says) in [("stays", "Delete"), ("goes", "Retain"), ("lives", "Delete")] {
        namespace.apply(&endless(name, 0, says));
    }
    let [stays, goes, lives] = ["stays", "goes", "lives"].map(|name| Live::new(&namespace, name));
    for live in [&stays, &goes, &lives] {
        live.is_ready();
        live.completes(1);
    }
    namespace.kubectl(["delete", "statefulset", "lives", "--wait"]).run();
    for live in [&stays, &goes] {
        patch(&namespace, &live.name, &json!({"suspend": true}));
        live.is_in("Suspended");
    }
    on_delete(&namespace, "stays", "Retain");
    on_delete(&namespace, "goes", "Delete");
    namespace.wait_for("pipeline/goes", ".metadata.finalizers[0]", "millrace.dev/checkpoints");
    stays.object.wait_for("no finalizer", |object| object["metadata"]["finalizers"].is_null());
    delete(&namespace, &["stays", "goes"], "--cascade=background");
    expect_kept(&namespace, &["stays"]);
    Deadline::secs(60).wait_for("its volume to go", || kept(&namespace, &["goes"]).is_empty().then_some(()));
    // It is made anew, and goes on with the volume that it had.
    let before = lives.epoch();
    lives.completes(2);
    lives.is_ready();
    assert!(lives.epoch() > before);
    expect_each_once(&Rows::of(&lives.data().join("rows")).more().numbers("id"), |_| true, "every row");
    installed.expect_nothing_forbidden();
}

#[test]
fn a_claim_of_somebody_else_is_refused_and_never_deleted() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("foreign");
    let installed = namespace.install(&["replicas=1"]);
    namespace.apply(&rows());
    namespace.apply(&manifest::claim("data-db-0"));
    let before = namespace.get("pvc", "data-db-0")["metadata"].clone();
    namespace.apply(&endless("db", 0, "Delete"));
    let live = Live::new(&namespace, "db");
    let object = live.object.wait_for("a refusal", |object| condition(object, "Ready").1 == "ApplyFailed");
    let said = condition(&object, "Ready").2;
    assert!(
        said.contains("there is a PersistentVolumeClaim of this name already, and it is not this Pipeline's"),
        "{said}"
    );
    assert!(namespace.objects("statefulsets").is_empty());
    delete(&namespace, &["db"], "--cascade=background");
    let after = namespace.get("pvc", "data-db-0")["metadata"].clone();
    for field in ["uid", "labels", "ownerReferences", "deletionTimestamp"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    // Once it has made room the Pipeline runs.
    namespace.kubectl(["delete", "pvc", "data-db-0", "--wait"]).run();
    namespace.apply(&endless("db", 0, "Delete"));
    live.is_ready();
    installed.expect_nothing_forbidden();
}

#[test]
fn what_is_changed_by_hand_is_put_right_and_keeps_no_edit_from_the_pods() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("ports");
    let installed = namespace.install(&["replicas=1"]);
    namespace.apply(&(rows() + &endless("web", 0, "Retain")));
    let live = Live::new(&namespace, "web");
    live.is_ready();
    let ports = |object: &str, path: &str| field(&namespace, object, path);
    let (service, set) = (".spec.ports[*].port", ".spec.template.spec.containers[0].ports[*].containerPort");
    let of_service = json!({"spec": {"ports": [{"name": "http", "port": 9_601, "targetPort": 9_601}]}}).to_string();
    namespace.kubectl(["patch", "service", "web", "--type=merge", "-p", &of_service]).run();
    Deadline::secs(60).wait_for("the port", || (ports("service/web", service) == "9600").then_some(()));
    let of_set =
        json!([{"op": "replace", "path": "/spec/template/spec/containers/0/ports/0/containerPort", "value": 9_601}]);
    namespace.kubectl(["patch", "statefulset", "web", "--type=json", "-p", &of_set.to_string()]).run();
    Deadline::secs(60).wait_for("the port", || (ports("statefulset/web", set) == "9600").then_some(()));
    // A partition keeps new pods back, and so does `OnDelete`.
    let partition = ".spec.updateStrategy.rollingUpdate.partition";
    for held_back in [json!({"rollingUpdate": {"partition": 3}}), json!({"type": "OnDelete", "rollingUpdate": null})] {
        let held_back = json!({"spec": {"updateStrategy": held_back}}).to_string();
        namespace.kubectl(["patch", "statefulset", "web", "--type=merge", "-p", &held_back]).run();
        Deadline::secs(60).wait_for("the strategy", || (ports("statefulset/web", partition) == "0").then_some(()));
    }
    live.takes_up(&endless("web", 1, "Retain"));
    let object = live.is_ready();
    assert_eq!(condition(&object, "Ready").0, "True", "{object:#}");
    Rows::of(&live.data().join("rows")).wait_for("rows of the edit", |rows| rows.last("edit") == 1);
    installed.expect_nothing_forbidden();
}
