//! How long it takes from `kubectl apply` to the first committed row, from an edit to its effect, and from SIGKILL to rows again. What is
//! measured is printed; `MILLRACE_LATENCIES` says how many Pipelines are measured.

use std::{path::Path, time::Duration};

use millrace_tests::{Row, cluster, cluster::Namespace, manifest, wait};
use serde_json::{Value, json};

use crate::live::{Live, Rows};

/// Nobody waits longer than this, also on a machine that is busy. What is aimed at is in docs/kubernetes-runtime.md.
const PATIENCE: Duration = Duration::from_secs(25);

/// How often checkpoints are made, and how many Pipelines are measured with that.
struct Setting {
    checkpoints: Value,
    interval: &'static str,
    times: usize,
}

impl Setting {
    /// The shortest waits that there are.
    fn often() -> Self {
        Self { checkpoints: json!({"interval": "500ms", "minPause": "50ms"}), interval: "500ms", times: times(3) }
    }

    /// As it is where a manifest says nothing of it.
    fn usual() -> Self {
        Self { checkpoints: json!({}), interval: "5s, which is the default", times: times(2) }
    }
}

/// So many, unless the environment says another number.
fn times(usual: usize) -> usize {
    std::env::var("MILLRACE_LATENCIES").map_or(usual, |times| times.parse().expect("a number"))
}

fn manifests(name: &str, remainder: usize, checkpoints: &Value) -> String {
    let container = json!({"name": "millrace", "volumeMounts": [{"name": "output", "mountPath": "/output"}]});
    let volume = json!({"name": "output", "persistentVolumeClaim": {"claimName": "output"}});
    let spec = json!({
        "sources": [{"name": "ids", "generator": {"rate": 1000, "fields": [{"name": "id", "sequence": {}}]}}],
        "transforms": [{"name": "some", "sql": format!("SELECT id FROM ids WHERE id % 100 = {remainder}")}],
        "outputs": [{"from": "some", "sink": name}],
        "checkpoints": checkpoints,
        "deployment": {"volume": {"size": "1Gi"}, "template": {"spec": {"containers": [container], "volumes": [volume]}}},
    });
    let pipeline =
        json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": name}, "spec": spec});
    let sink = manifest::sink(name, &format!("file: {{path: /output/{name}, format: {{json: {{}}}}}}"));
    format!("{pipeline}\n{sink}")
}

/// `least … most, of which half are below median`
fn range(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let seconds = |took: Duration| took.as_secs_f64();
    let (least, median, most) = (took[0], took[took.len() / 2], took[took.len() - 1]);
    format!("{:.2} to {:.2} s, median {:.2} s", seconds(least), seconds(most), seconds(median))
}

/// Measures Pipelines of these names, one after the other.
fn measure(namespace: &Namespace<'_>, output: &Path, setting: &Setting, prefix: &str) {
    // From `kubectl apply`, its own start included, until a reader sees such a row.
    let appear = |name: &str, remainder: usize| {
        let mut rows = Rows::of(&output.join(name));
        let is_it = |row: &Row| row["id"].int() % 100 == remainder as i64;
        let ((), took) = wait::timed(|| {
            namespace.apply(&manifests(name, remainder, &setting.checkpoints));
            rows.wait_for("a row", |rows| rows.table.rows.iter().any(is_it));
        });
        took
    };
    let [mut first, mut told, mut edits, mut kills] = [const { Vec::new() }; 4];
    for number in 0..setting.times {
        let name = format!("{prefix}{number}");
        let live = Live::new(namespace, &name);
        first.push(appear(&name, 0));
        live.is_ready();
        live.completes(2);
        edits.push(appear(&name, 1));
        live.completes(2);
        let (object, took) = wait::timed(|| live.edit(&manifests(&name, 2, &setting.checkpoints)));
        assert_eq!(object["status"]["history"][0]["result"], "TakenUp");
        told.push(took);
        live.completes(1);
        let mut rows = Rows::of(&output.join(&name));
        let ((), took) = wait::timed(|| {
            namespace.signal("KILL", &format!("{name}-0"));
            // An epoch may have been decided whose commit the kill came before: its rows are not new ones.
            let decided = decided(namespace, &name);
            let before = rows.more().last("id");
            rows.wait_for("later rows", |rows| live.epoch() > decided && rows.last("id") > before);
        });
        kills.push(took);
        namespace.kubectl(["delete", "pipeline", &name, "--wait=false"]).run();
    }
    let all = [&first, &told, &edits, &kills];
    assert!(all.iter().flat_map(|times| times.iter()).all(|took| *took < PATIENCE), "{all:?}");
    println!("a checkpoint every {}, {} of each:", setting.interval, setting.times);
    println!("from kubectl apply to the first committed row: {}", range(first));
    println!("from kubectl apply of an edit to a status that says that it runs: {}", range(told));
    println!("from kubectl apply of an edit to its first committed row: {}", range(edits));
    println!("from SIGKILL to the first row that is committed after it: {}", range(kills));
}

/// The last decided checkpoint, as the API server has it.
fn decided(namespace: &Namespace<'_>, name: &str) -> u64 {
    let map = namespace.get("configmap", &format!("{name}-checkpoint"));
    map["data"]["epoch"].as_str().unwrap().parse().unwrap()
}

#[test]
fn first_rows_edits_and_rows_after_a_kill_are_there_within_seconds() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("latency");
    let _installed = namespace.install(&[]);
    namespace.apply(&manifest::claim("output"));
    namespace.wait_for("persistentvolumeclaim/output", ".status.phase", "Bound");
    let output = namespace.volume("output");
    measure(&namespace, &output, &Setting::often(), "often");
    measure(&namespace, &output, &Setting::usual(), "default");
}
