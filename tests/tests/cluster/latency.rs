//! How long it takes from `kubectl apply` to the first committed row, from an edit to its effect, and from SIGKILL to rows again.

use std::time::Duration;

use millrace_tests::{cluster, manifest, wait};
use serde_json::json;

use crate::live::{Live, Rows};

/// Of each kind so many are measured.
const TIMES: usize = 5;
/// Nobody waits longer than this, also on a machine that is busy. What is aimed at is in docs/kubernetes-runtime.md.
const PATIENCE: Duration = Duration::from_secs(20);

/// So many numbers an epoch has, unless the machine is busy.
const AN_EPOCH: i64 = 500;

fn manifests(name: &str, remainder: usize) -> String {
    let container = json!({"name": "millrace", "volumeMounts": [{"name": "output", "mountPath": "/output"}]});
    let volume = json!({"name": "output", "persistentVolumeClaim": {"claimName": "output"}});
    let spec = json!({
        "sources": [{"name": "ids", "generator": {"rate": 1000, "fields": [{"name": "id", "sequence": {}}]}}],
        "transforms": [{"name": "some", "sql": format!("SELECT id FROM ids WHERE id % 100 = {remainder}")}],
        "outputs": [{"from": "some", "sink": name}],
        "checkpoints": {"interval": "500ms", "minPause": "50ms"},
        "deployment": {"volume": {"size": "1Gi"}, "template": {"spec": {"containers": [container], "volumes": [volume]}}},
    });
    let pipeline =
        json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": name}, "spec": spec});
    let sink = manifest::sink(name, &format!("file: {{path: /output/{name}, format: {{json: {{}}}}}}"));
    format!("{pipeline}\n{sink}")
}

/// `least … most, of which half are below median`
fn told(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let seconds = |took: Duration| took.as_secs_f64();
    let (least, median, most) = (took[0], took[took.len() / 2], took[took.len() - 1]);
    format!("{:.2} to {:.2} s, median {:.2} s", seconds(least), seconds(most), seconds(median))
}

#[test]
fn first_rows_edits_and_rows_after_a_kill_are_there_within_seconds() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("latency");
    let _installed = namespace.install(&[]);
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "output"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    namespace.apply(&claim.to_string());
    namespace.wait_for("persistentvolumeclaim/output", ".status.phase", "Bound");
    let output = namespace.volume("output");
    // From `kubectl apply`, its own start included, until a reader sees such a row.
    let measure = |name: &str, remainder: usize| {
        let mut rows = Rows::of(&output.join(name));
        let is_it = |row: &millrace_tests::Row| row["id"].int() % 100 == remainder as i64;
        let ((), took) = wait::timed(|| {
            namespace.apply(&manifests(name, remainder));
            rows.wait_for("a row", |rows| rows.table.rows.iter().any(is_it));
        });
        took
    };
    let mut first = Vec::new();
    let mut edits = Vec::new();
    let mut kills = Vec::new();
    for number in 0..TIMES {
        let name = format!("p{number}");
        let live = Live::new(&namespace, &name);
        first.push(measure(&name, 0));
        live.is_ready();
        live.completes(2);
        edits.push(measure(&name, 1));
        live.completes(2);
        let mut rows = Rows::of(&output.join(&name));
        let ((), took) = wait::timed(|| {
            namespace.signal("KILL", &format!("{name}-0"));
            let before = rows.more().last("id");
            // An epoch may have been decided whose commit the kill came before: its rows are not new ones.
            rows.wait_for("later rows", |rows| rows.last("id") > before + AN_EPOCH);
        });
        kills.push(took);
        namespace.kubectl(["delete", "pipeline", &name, "--wait=false"]).run();
    }
    let all = [&first, &edits, &kills];
    assert!(all.iter().flat_map(|times| times.iter()).all(|took| *took < PATIENCE), "{all:?}");
    println!("from kubectl apply to the first committed row: {}", told(first));
    println!("from kubectl apply of an edit to its first committed row: {}", told(edits));
    println!("from SIGKILL to the next rows: {}", told(kills));
}
