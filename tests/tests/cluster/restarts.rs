//! Edits that are not taken up by the process that runs: those for which the pod is made anew, those that are refused, and those
//! that are taken back.

use millrace_tests::{cluster, manifest};
use serde_json::{Value, json};

use crate::live::{Live, Process, Rows, condition, expect_each_once};

/// A Pipeline that sums numbers up, and passes each of them on.
#[derive(Clone)]
pub struct Spec {
    pub seed: u32,
    pub deployment: Value,
    pub every: &'static str,
    pub sums: &'static str,
    pub window: &'static str,
    /// Whether each number goes to a Delta table too.
    pub lake: bool,
    /// The Sink of the sums.
    pub sums_path: &'static str,
    pub storage: Option<&'static str>,
    pub annotations: Value,
    pub more: Value,
    pub interval: &'static str,
}

impl Spec {
    pub fn new() -> Self {
        Self {
            seed: 1,
            deployment: json!({"volume": {"size": "1Gi"}}),
            every: "SELECT id FROM ids",
            sums: "SELECT window_start, count(*) AS n, sum(id) AS ids FROM ids",
            window: "tumbling: {size: 1s}",
            lake: false,
            sums_path: "/data/out/sums",
            storage: None,
            annotations: json!({}),
            more: json!({}),
            interval: "300ms",
        }
    }

    pub fn manifests(&self) -> String {
        let fields = json!([{"name": "id", "sequence": {}}, {"name": "ts", "timestamp": {"start": "2024-01-01T00:00:00Z", "step": "2ms"}}]);
        let mut checkpoints = json!({"interval": self.interval, "minPause": "50ms"});
        if let Some(storage) = self.storage {
            checkpoints["storage"] = json!(storage);
        }
        let mut spec = json!({
            "sources": [{"name": "ids", "generator": {"seed": self.seed, "rate": 1000, "fields": fields}, "eventTime": {"column": "ts"}}],
            "transforms": [
                {"name": "every", "sql": self.every},
                {"name": "sums", "window": "w", "sql": self.sums},
            ],
            "outputs": [{"from": "every", "sink": "every"}, {"from": "sums", "sink": "sums"}],
            "checkpoints": checkpoints,
            "deployment": self.deployment,
        });
        if self.lake {
            spec["outputs"].as_array_mut().unwrap().push(json!({"from": "every", "sink": "lake"}));
        }
        spec.as_object_mut().unwrap().append(&mut self.more.as_object().unwrap().clone());
        let metadata = json!({"name": "web", "annotations": self.annotations});
        let pipeline =
            json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "Pipeline", "metadata": metadata, "spec": spec});
        let sink =
            |name: &str, path: &str| manifest::sink(name, &format!("file: {{path: {path}, format: {{json: {{}}}}}}"));
        [
            format!("{pipeline}\n"),
            manifest::window("w", self.window),
            sink("every", "/data/out/every"),
            sink("sums", self.sums_path),
            if self.lake { manifest::sink("lake", "delta: {uri: /data/out/lake}") } else { String::new() },
        ]
        .concat()
    }
}

/// Checks that each number was passed on once, and that whole windows have each once.
#[track_caller]
pub fn expect_each_row_once(live: &Live<'_>) {
    let out = live.data().join("out");
    expect_each_once(&Rows::of(&out.join("every")).more().numbers("id"), |_| true, "every row");
    let mut sums = Rows::of(&out.join("sums"));
    let rows = &sums.more().table.rows;
    assert!(rows.iter().all(|row| row["n"].int() == 500), "a window has 500 rows: {rows:?}");
    let windows = rows.len() as i64;
    assert_eq!(sums.table.sum("ids"), 500 * windows * (500 * windows - 1) / 2, "each row is summed up once");
}

/// Applies an edit for which the pod is made anew, and checks that it went on from its last checkpoint.
#[track_caller]
fn rolls(live: &Live<'_>, spec: &Spec, reason: &str) -> Process {
    let before = live.process();
    let object = live.takes_up(&spec.manifests());
    let change = &object["status"]["change"];
    let said = change["reason"].as_str().unwrap_or_default();
    assert!(change["class"] == "Restart" && said.contains(reason), "{change:#}");
    // The class was told before the StatefulSet was written.
    let (told, sets) = (live.object.all(), live.set.all());
    let told = told.iter().find(|object| object["status"]["change"]["reason"] == said).unwrap();
    let template = |set: &Value| set["metadata"]["annotations"]["millrace.dev/template"].clone();
    let now = template(sets.last().unwrap());
    let written = sets.iter().find(|set| template(set) == now).unwrap();
    assert!(cluster::version(told) < cluster::version(written), "the pod was made anew before that was told");
    let after = live.process();
    assert_ne!(before, after);
    // The pod before has ended at a checkpoint, which is the one that was restored: no row was read twice.
    let restored = live.report()["restoredFrom"].as_u64();
    let last = live.last_epoch_before(&after);
    assert_eq!(restored, Some(last), "it goes on from the last checkpoint of the pod before");
    after
}

#[test]
fn the_pod_is_made_anew_from_a_last_checkpoint() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("restarts");
    let installed = namespace.install(&[]);
    let live = Live::new(&namespace, "web");
    let mut spec = Spec::new();
    namespace.apply(&spec.manifests());
    live.is_ready();
    live.completes(2);

    // Resources.
    spec.deployment["resources"] = json!({"requests": {"cpu": "20m", "memory": "64Mi"}});
    rolls(&live, &spec, "spec.containers[millrace].resources");
    // A variable of the environment.
    let container = json!({"name": "millrace", "env": [{"name": "COLOUR", "value": "blue"}]});
    spec.deployment["template"] = json!({"spec": {"containers": [container]}});
    rolls(&live, &spec, "spec.containers[millrace].env");
    // The rest of the template.
    spec.deployment["template"]["metadata"] = json!({"labels": {"team": "streams"}, "annotations": {"note": "mine"}});
    rolls(&live, &spec, "metadata");
    assert_eq!(live.pod()["metadata"]["labels"]["team"], "streams");
    // The image: the same one by its long name.
    spec.deployment["image"] = json!(format!("docker.io/library/{}", cluster.images().runtime));
    rolls(&live, &spec, "spec.containers[millrace].image");
    live.completes(2);
    expect_each_row_once(&live);
    installed.expect_nothing_forbidden();
}

/// Applies an edit that is refused, and checks that what ran runs on, untouched.
#[track_caller]
fn is_refused(live: &Live<'_>, good: &Spec, process: &Process, spec: &Spec, says: &str) {
    // Beside it stands which pods have run well, and that may come meanwhile.
    let plan = live.plan.last().unwrap();
    let object = live.edit(&spec.manifests());
    let (change, newest) = (&object["status"]["change"], &object["status"]["history"][0]);
    assert!(change["class"] == "Refused" && newest["result"] == "Refused", "{change:#} {newest:#}");
    assert!(change["reason"].as_str().unwrap().contains(says), "expected {says:?}: {change:#}");
    for (of, status) in [("ConfigValid", "False"), ("Ready", "False"), ("Stalled", "True")] {
        let said = condition(&object, of);
        assert_eq!((said.0.as_str(), said.1.as_str()), (status, "EditRefused"), "{of}: {}", said.2);
        assert!(said.2.contains(says), "{of}: {}", said.2);
    }
    live.completes(2);
    assert_eq!(live.plan.last().unwrap()["data"]["plan.json"], plan["data"]["plan.json"]);
    assert_eq!(&live.process(), process);
    assert_eq!(live.object.last().unwrap()["status"]["phase"], "Running");
    live.namespace.apply(&good.manifests());
    let object = live.is_ready();
    assert_eq!(object["status"]["change"]["class"], "None");
}

/// Applies an edit that fails, and checks that the plan before goes on in the same process.
#[track_caller]
fn is_taken_back(live: &Live<'_>, good: &Spec, process: &Process, spec: &Spec, says: &str) {
    let object = live.object.last().unwrap();
    let (before, last) = (object["status"]["revision"].clone(), object["status"]["history"][0]["revision"].clone());
    live.namespace.apply(&spec.manifests());
    // It may run for a moment before it fails, and is told to be taken up then.
    let object = live.object.wait_for("an edit that is taken back", |object| {
        let newest = &object["status"]["history"][0];
        newest["revision"] != last && newest["result"] == "RolledBack"
    });
    let newest = &object["status"]["history"][0];
    assert_eq!(newest["class"], "Hot", "{newest:#}");
    let rejected = object["status"]["rejected"].clone();
    assert!(rejected["message"].as_str().unwrap().contains(says), "expected {says:?}: {rejected:#}");
    assert_eq!(rejected["revision"], newest["revision"]);
    live.was_told_before_it_was_done(newest["revision"].as_str().unwrap());
    let object = live.object.wait_for("the revision before", |object| {
        object["status"]["phase"] == "Running" && object["status"]["revision"] == before
    });
    let said = condition(&object, "ConfigValid");
    assert_eq!((said.0.as_str(), said.1.as_str()), ("False", "RolledBack"), "{}", said.2);
    assert!(said.2.contains(says), "{}", said.2);
    // It is not tried again.
    live.completes(4);
    assert_eq!(live.object.last().unwrap()["status"]["history"][0], *newest);
    assert_eq!(&live.process(), process);
    assert!(live.events().iter().any(|(reason, note)| reason == "RolledBack" && note.contains(says)));
    live.namespace.apply(&good.manifests());
    live.is_ready();
}

#[test]
fn edits_that_would_lose_something_or_fail_leave_what_runs() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("refusals");
    let installed = namespace.install(&[]);
    let live = Live::new(&namespace, "web");
    let good = Spec::new();
    namespace.apply(&good.manifests());
    live.is_ready();
    live.completes(2);
    let process = live.process();
    let refused = |change: &dyn Fn(&mut Spec), says: &str| {
        let mut spec = good.clone();
        change(&mut spec);
        is_refused(&live, &good, &process, &spec, says);
    };
    // State would be lost.
    refused(
        &|spec| spec.sums = "SELECT window_start, count(*) AS n, sum(id) AS ids FROM ids GROUP BY id % 2",
        "allowStateLoss",
    );
    refused(&|spec| spec.window = "session: {gap: 1s}", "name `sums` in `allowStateLoss`");
    // Rows that were read would be others.
    refused(&|spec| spec.seed = 2, "`seed` changes");
    // What the API server itself sees: checkpoints and state would stay behind.
    let not_taken = |change: &dyn Fn(&mut Spec), says: &str| {
        let mut spec = good.clone();
        change(&mut spec);
        let said = namespace.kubectl(["apply", "-f", "-"]).input(&spec.manifests()).attempt().unwrap_err();
        assert!(said.contains(says), "{said}");
    };
    not_taken(&|spec| spec.deployment = json!({"volume": {"size": "2Gi"}}), "deployment.volume cannot change");
    let class = json!({"volume": {"size": "1Gi", "storageClassName": "bounded"}});
    not_taken(&|spec| spec.deployment = class.clone(), "deployment.volume cannot change");
    not_taken(&|spec| spec.storage = Some("/elsewhere"), "checkpoints.storage cannot change");
    assert_eq!(live.process(), process);

    // What cannot be opened is taken back, and so is what fails before it has completed a checkpoint.
    let taken_back = |change: &dyn Fn(&mut Spec), says: &str| {
        let mut spec = good.clone();
        change(&mut spec);
        is_taken_back(&live, &good, &process, &spec, says);
    };
    taken_back(&|spec| spec.sums_path = "/proc/nowhere", "/proc/nowhere");
    taken_back(&|spec| spec.every = "SELECT id FROM ids WHERE id / (id - id) = 0", "ivide by zero");

    // A dry run tells, and does nothing.
    let mut dry = good.clone();
    dry.annotations = json!({"millrace.dev/dry-run": "true"});
    dry.sums_path = "/data/out/other";
    let plan = live.plan.last().unwrap();
    let history = live.newest();
    namespace.apply(&dry.manifests());
    let told = |class: &'static str, says: &'static str| {
        move |object: &Value| {
            let change = &object["status"]["change"];
            change["class"] == class && change["reason"].as_str().is_some_and(|reason| reason.contains(says))
        }
    };
    live.object.wait_for("the class of an edit of a Sink", told("Hot", "/data/out/other"));
    dry.deployment["resources"] = json!({"requests": {"cpu": "30m"}});
    live.namespace.apply(&dry.manifests());
    live.object.wait_for("the class of an edit of pods", told("Restart", "resources"));
    dry.seed = 3;
    live.namespace.apply(&dry.manifests());
    live.object.wait_for("the class of an edit that would be refused", told("Refused", "seed"));
    live.completes(2);
    assert_eq!(live.plan.last().unwrap()["data"]["plan.json"], plan["data"]["plan.json"]);
    assert_eq!((live.newest(), live.process()), (history, process.clone()));
    live.namespace.apply(&good.manifests());
    live.is_ready();

    // State may go where that is said. The new transform begins with nothing.
    let mut lossy = good.clone();
    lossy.window = "session: {gap: 1s}";
    lossy.sums = "SELECT window_start, count(*) AS n, sum(id) AS ids FROM ids GROUP BY id % 2";
    lossy.sums_path = "/data/out/other";
    lossy.more = json!({"allowStateLoss": ["sums"]});
    expect_each_row_once(&live);
    let object = live.takes_up(&lossy.manifests());
    assert!(object["status"]["change"]["reason"].as_str().unwrap().contains("its state is dropped"));
    live.completes(2);
    let every = Rows::of(&live.data().join("out/every")).more().numbers("id");
    expect_each_once(&every, |_| true, "every row");
    assert_eq!(live.process(), process, "all of it in one process");
    installed.expect_nothing_forbidden();
}

#[test]
fn a_pipeline_that_is_deleted_ends_within_seconds_though_its_account_goes_before_it() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("restarts-deleted");
    let installed = namespace.install(&["replicas=1"]);
    namespace.apply(&Spec::new().manifests());
    let live = Live::new(&namespace, "web");
    live.is_ready();
    live.completes(2);
    // A pod that waited for its last checkpoint, which nobody takes from it any more, would take 50 s.
    namespace.kubectl(["delete", "pipeline", "web", "--cascade=foreground", "--wait", "--timeout=40s"]).run();
    installed.expect_nothing_forbidden();
}

#[test]
fn a_pipeline_that_is_deleted_with_its_state_and_made_anew_at_once_begins_anew() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("restarts-anew");
    let installed = namespace.install(&["replicas=1"]);
    let before = Spec {
        more: json!({"checkpoints": {"interval": "300ms", "minPause": "50ms", "onDelete": "Delete"}}),
        ..Spec::new()
    };
    namespace.apply(&before.manifests());
    let live = Live::new(&namespace, "web");
    let revision = live.is_ready()["status"]["revision"].clone();
    live.completes(2);
    drop(live);
    // The pod is still there, and would refuse this edit of what it does.
    namespace.kubectl(["delete", "pipeline", "web", "--wait", "--timeout=40s"]).run();
    let after = Spec { window: "session: {gap: 1s}", ..before };
    namespace.apply(&after.manifests());
    let live = Live::new(&namespace, "web");
    live.is_ready();
    live.completes(2);
    for object in live.object.all() {
        assert_ne!(object["status"]["revision"], revision, "{object:#}");
        assert!(object["status"]["rejected"].is_null(), "{object:#}");
    }
    let out = live.data().join("out");
    expect_each_once(&Rows::of(&out.join("every")).more().numbers("id"), |_| true, "every row");
    assert!(Rows::of(&out.join("sums")).more().table.rows.is_empty(), "the session has not ended");
    installed.expect_nothing_forbidden();
}
