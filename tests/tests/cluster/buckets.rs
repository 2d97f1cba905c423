//! Pipelines whose checkpoints are in an S3 bucket, and go with them or stay.

use std::collections::BTreeSet;

use millrace_tests::{
    Deadline, cluster,
    cluster::{Cluster, Namespace},
    manifest, read,
    s3::Gateway,
    wait,
};
use serde_json::{Value, json};

use crate::{
    live::{Live, condition},
    operator::Operators,
};

/// How long any deletion may take here.
const WITHIN: &str = "--timeout=240s";

/// A Pipeline with checkpoints in the bucket, its Window and its Sink.
fn pipeline(gateway: &Gateway, name: &str, on_delete: &str, more: &Value) -> String {
    let fields = json!([{"name": "id", "sequence": {}}, {"name": "ts", "timestamp": {"start": "2024-01-01T00:00:00Z", "step": "2ms"}}]);
    let mut spec = json!({
        "sources": [{"name": "ids", "generator": {"rate": 500, "fields": fields}, "eventTime": {"column": "ts"}}],
        "transforms": [{"name": "sums", "window": "w", "sql": "SELECT id % 8 AS key, window_start, count(*) AS n FROM ids GROUP BY id % 8"}],
        "outputs": [{"from": "sums", "sink": "sums"}],
        "checkpoints": {
            "interval": "500ms", "minPause": "50ms", "retain": 2, "onDelete": on_delete,
            "storage": gateway.url("checkpoints"), "credentials": {"secretRef": {"name": "store"}},
        },
        "deployment": {"template": {"spec": {"terminationGracePeriodSeconds": 20}}},
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    let pipeline =
        json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": name}, "spec": spec});
    let window = manifest::window("w", "tumbling: {size: 1s}");
    format!("---\n{pipeline}\n{window}{}", manifest::sink("sums", "stdout: {}"))
}

/// The Secret with which the bucket lets in.
fn secret(gateway: &Gateway, access: &str) -> String {
    let values = json!({
        "AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": format!("{access}-secret"),
        "AWS_ENDPOINT_URL": gateway.endpoint(), "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
    });
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "store"}, "stringData": values}).to_string()
}

/// The objects of a Pipeline in the bucket, from its folder on.
fn stored(gateway: &Gateway, namespace: &Namespace<'_>, name: &str) -> BTreeSet<String> {
    let folder = gateway.folder(&format!("checkpoints/{}/{name}", namespace.name));
    let files = read::all_files(&folder).into_iter();
    files.map(|(path, _)| path.strip_prefix(&folder).unwrap().to_string_lossy().into_owned()).collect()
}

/// The notes of the events of a reason about a Pipeline.
fn told(namespace: &Namespace<'_>, name: &str, reason: &str) -> Vec<String> {
    let events = Live::new(namespace, name).events();
    events.into_iter().filter(|(of, _)| of == reason).map(|(_, note)| note).collect()
}

fn is_there(namespace: &Namespace<'_>, object: &str) -> bool {
    !namespace.kubectl(["get", object, "-o", "name", "--ignore-not-found"]).run().is_empty()
}

/// A gateway that pods reach; `None`, with a word of it, where they cannot.
fn gateway(cluster: &Cluster) -> Option<Gateway> {
    if !cluster.is_ours() {
        println!("skipped: pods of another cluster do not reach a server on this machine");
        return None;
    }
    let mut gateway = Gateway::start_for_pods();
    gateway.let_in("key", "key-secret");
    Some(gateway)
}

#[test]
fn checkpoints_in_a_bucket_go_with_their_pipeline_or_stay_and_no_deletion_hangs() {
    let Some(cluster) = cluster::cluster() else { return };
    let Some(mut gateway) = gateway(cluster) else { return };
    let namespace = cluster.namespace("buckets");
    let installed = namespace.install(&["replicas=1"]);
    namespace.apply(&secret(&gateway, "key"));
    let saves = json!({"savepoint": {"token": "one"}});
    for (name, on_delete) in [("gone", "Delete"), ("first", "Delete"), ("kept", "Retain"), ("other", "Delete")] {
        namespace.apply(&pipeline(&gateway, name, on_delete, &json!({})));
    }
    namespace.apply(&pipeline(&gateway, "saved", "Delete", &json!({})));
    let lives: Vec<Live<'_>> = ["gone", "first", "kept", "other", "saved"].map(|it| Live::new(&namespace, it)).into();
    for live in &lives {
        live.is_ready();
        live.completes(2);
        assert!(stored(&gateway, &namespace, &live.name).len() > 2);
    }
    let saved = &lives[4];
    namespace.apply(&pipeline(&gateway, "saved", "Delete", &saves));
    let taken = saved.object.wait_for("a savepoint", |object| object["status"]["savepoint"]["name"].is_string());
    let savepoint = taken["status"]["savepoint"]["name"].as_str().unwrap().to_owned();
    saved.completes(2);
    for (live, finalizers) in lives.iter().zip([1, 1, 0, 1, 1]) {
        let metadata = &namespace.get("pipeline", &live.name)["metadata"];
        assert_eq!(metadata["finalizers"].as_array().map_or(0, Vec::len), finalizers, "{}", live.name);
    }

    // By the means of kubectl, and as Argo CD prunes.
    namespace.kubectl(["delete", "pipelines", "gone", "kept", "saved", "--wait", WITHIN]).run();
    namespace.kubectl(["delete", "pipeline", "first", "--cascade=foreground", "--wait", WITHIN]).run();
    for name in ["gone", "first"] {
        assert_eq!(stored(&gateway, &namespace, name), BTreeSet::new(), "{name}");
        let told = told(&namespace, name, "CheckpointsDeleted");
        assert!(
            told.len() == 1 && told[0].contains(&format!("checkpoints/{}/{name} are deleted", namespace.name)),
            "{told:?}"
        );
        let pointer = format!("configmap/{name}-checkpoint");
        Deadline::secs(60).wait_for("the pointer to go", || (!is_there(&namespace, &pointer)).then_some(()));
    }
    Deadline::secs(60).wait_for("Jobs to go that have done their work", || {
        let jobs = namespace.kubectl(["get", "jobs", "-o", "name"]).run();
        (!jobs.contains("gone-") && !jobs.contains("first-")).then_some(())
    });
    let deleting = lives[0].object.all().into_iter().find(|object| object["status"]["phase"] == "Deleting");
    let deleting = deleting.expect("the phase is Deleting meanwhile");
    assert_eq!(condition(&deleting, "Ready").1, "Deleting");
    assert!(stored(&gateway, &namespace, "kept").len() > 2 && is_there(&namespace, "configmap/kept-checkpoint"));
    lives[3].completes(2);

    // Savepoints stay, with what they need and no more, and can be started from.
    let left = stored(&gateway, &namespace, "saved");
    assert!(left.contains(&format!("savepoints/{savepoint}.json")), "{left:?}");
    assert!(left.iter().all(|name| !name.starts_with("manifests/")) && left.len() > 1, "{left:?}");
    assert!(told(&namespace, "saved", "CheckpointsDeleted")[0].contains("its 1 savepoints stay"));
    let again = json!({"startFrom": {"token": "again", "savepoint": savepoint}});
    namespace.apply(&pipeline(&gateway, "saved", "Delete", &again));
    let live = Live::new(&namespace, "saved");
    live.is_ready();
    assert!(live.object.last().unwrap()["status"]["startedFrom"]["epoch"].is_u64());
    live.completes(2);

    installed.expect_nothing_forbidden();

    // A key that the bucket refuses: the rest stays, and so does the pointer to it.
    gateway.shut_out("key");
    let jobs = namespace.watch("jobs", None);
    let deletion = Deadline::secs(240);
    namespace.kubectl(["delete", "pipeline", "other", "--wait=false"]).run();
    Deadline::secs(120).wait_for("a Job", || jobs.last());
    let why = lives[3].object.wait_for("the cause", |object| condition(object, "Ready").2.contains("exit code 1"));
    assert!(condition(&why, "Ready").2.contains("InvalidAccessKeyId"), "{}", condition(&why, "Ready").2);
    namespace.kubectl(["wait", "--for=delete", "pipeline/other", WITHIN]).run();
    let notes = told(&namespace, "other", "CheckpointsLeft");
    println!("a deletion with a refused key ends after {:?}: {notes:?}", deletion.waited());
    assert!(notes.len() == 1 && notes[0].contains("InvalidAccessKeyId"), "{notes:?}");
    assert!(stored(&gateway, &namespace, "other").len() > 2 && is_there(&namespace, "configmap/other-checkpoint"));

    // One that is let go by hand meanwhile, and made anew: what the first has left to be done is not done to the second.
    namespace.kubectl(["delete", "pipeline", "saved", "--wait=false"]).run();
    let uid = namespace.get("pipeline", "saved")["metadata"]["uid"].clone();
    let at_work = |job: &Value| job["metadata"]["labels"]["millrace.dev/uid"] == uid;
    let job = Deadline::secs(120).wait_for("its Job", || jobs.all().into_iter().find(at_work));
    let job = format!("job/{}", job["metadata"]["name"].as_str().unwrap());
    let let_go = json!({"metadata": {"finalizers": null}}).to_string();
    namespace.kubectl(["patch", "pipeline", "saved", "--type=merge", "-p", &let_go]).run();
    namespace.kubectl(["wait", "--for=delete", "pipeline/saved", WITHIN]).run();
    assert!(is_there(&namespace, &job));
    namespace.apply(&pipeline(&gateway, "saved", "Delete", &json!({})));
    namespace.kubectl(["wait", "--for=delete", &job, WITHIN]).run();
    gateway.let_in("key", "key-secret");
    let live = Live::new(&namespace, "saved");
    live.is_ready();
    assert!(live.object.last().unwrap()["status"]["checkpoint"]["epoch"].as_u64() > Some(2));
    live.completes(2);
    gateway.shut_out("key");

    // One is left, whose key is refused. Its namespace goes all the same, with the operator in it.
    assert_eq!(namespace.get("pipeline", "saved")["metadata"]["finalizers"], json!(["millrace.dev/checkpoints"]));
    drop(jobs);
    cluster.kubectl(["delete", "namespace", &namespace.name, "--wait", WITHIN]).run();
}

/// These have the cluster for themselves.
mod alone {
    use super::*;

    #[test]
    fn a_namespace_whose_operator_is_elsewhere_is_deleted_with_its_pipelines() {
        let Some(cluster) = cluster::cluster() else { return };
        let Some(gateway) = gateway(cluster) else { return };
        // Its rights are not in the namespace that goes.
        let (home, namespace) = (cluster.alone("bucket-operator"), "millrace-test-bucket-pipelines");
        let _everywhere = home.install(&["replicas=1", "watch.namespace="]);
        let _ = cluster.kubectl(["delete", "namespace", namespace, "--ignore-not-found", "--wait", WITHIN]).run();
        cluster.kubectl(["create", "namespace", namespace]).run();
        let apply = |text: &str| cluster.kubectl(["--namespace", namespace, "apply", "-f", "-"]).input(text).run();
        apply(&secret(&gateway, "key"));
        apply(&pipeline(&gateway, "runs", "Delete", &json!({})));
        apply(&pipeline(&gateway, "rests", "Delete", &json!({"suspend": true})));
        let expect = |object: &str, condition: &str| {
            let condition = format!("--for={condition}");
            cluster.kubectl(["--namespace", namespace, "wait", &condition, object, WITHIN]).run();
        };
        expect("pipeline/runs", "condition=Ready");
        expect("pipeline/rests", "jsonpath={.metadata.finalizers[0]}=millrace.dev/checkpoints");
        expect("pipeline/rests", "jsonpath={.status.phase}=Suspended");
        let (_, took) = wait::timed(|| cluster.kubectl(["delete", "namespace", namespace, "--wait", WITHIN]).run());
        println!("a namespace with Pipelines is deleted after {took:.1?}");
    }
}

/// The steps of a deletion at which the operator is killed, in their order.
pub const STEPS: [&str; 5] =
    ["before-stop", "before-clear", "before-pointer-goes", "before-volume-goes", "before-let-go"];

#[test]
fn an_operator_killed_at_every_step_of_a_deletion_is_finished_by_the_next() {
    let Some(cluster) = cluster::cluster() else { return };
    let Some(gateway) = gateway(cluster) else { return };
    let namespace = cluster.namespace("buckets-killed");
    let installed = namespace.install(&["replicas=1"]);
    namespace.apply(&secret(&gateway, "key"));
    let mut operators = Operators::new(&namespace, &installed);
    let fault = "before-hold@web:1";
    operators.next(fault, &pipeline(&gateway, "web", "Delete", &json!({})));
    operators.expect_killed(fault);
    assert!(!is_there(&namespace, "statefulset/web"), "no pod is without the finalizer");
    operators.next(&format!("{}@web:1", STEPS[0]), "");
    let live = Live::new(&namespace, "web");
    live.is_ready();
    live.completes(2);
    namespace.kubectl(["delete", "pipeline", "web", "--wait=false"]).run();
    for (n, step) in STEPS.iter().enumerate() {
        operators.expect_killed(step);
        let next = STEPS.get(n + 1).map(|step| format!("{step}@web:1")).unwrap_or_default();
        assert!(is_there(&namespace, "pipeline/web"), "after {step}");
        operators.next(&next, "");
    }
    namespace.kubectl(["wait", "--for=delete", "pipeline/web", WITHIN]).run();
    assert_eq!(stored(&gateway, &namespace, "web"), BTreeSet::new());
    Deadline::secs(60).wait_for("all to go", || {
        let is_left = ["configmap/web-checkpoint", "pvc/data-web-0"].iter().any(|object| is_there(&namespace, object));
        (!is_left && namespace.objects("jobs").is_empty()).then_some(())
    });
}
