//! The operator killed at every step of what it does, while Pipelines are made, edited and deleted.

use std::collections::BTreeSet;

use millrace_tests::{
    Deadline,
    cluster::{self, Namespace},
    manifest, read,
};
use serde_json::Value;

use super::{Operators, numbers, points, rows};
use crate::buckets::STEPS;

/// Every step of making a Pipeline whose checkpoints are on its volume; the first two also of a Sink's status.
fn making() -> Vec<String> {
    let mut points = points();
    let last = points.iter().position(|point| point == "after-stateful-set").expect("it is the last of them");
    points.truncate(last + 1);
    points.retain(|point| point != "before-hold");
    points
}

#[test]
fn there_is_no_fault_point_at_which_no_operator_is_killed() {
    let killed: BTreeSet<String> = EDITS.iter().flat_map(|edit| edit.killed).map(|point| (*point).to_owned()).collect();
    let others = STEPS.iter().chain(&["before-hold", "before-release"]).map(|point| (*point).to_owned());
    let killed: BTreeSet<String> = killed.into_iter().chain(making()).chain(others).collect();
    assert_eq!(killed, points().into_iter().collect());
}

/// All kinds of which a Pipeline owns one.
const OWNED: &str = "serviceaccounts,roles,rolebindings,services,poddisruptionbudgets,leases,configmaps,statefulsets";

/// What the operator has made.
const MADE: &str = "app.kubernetes.io/managed-by=millrace-operator";

/// Whether a Pipeline is as it is wanted, by its status.
fn is_settled(pipeline: &Value, phase: &str) -> bool {
    pipeline["status"]["observedGeneration"] == pipeline["metadata"]["generation"]
        && pipeline["status"]["phase"] == phase
        && (phase == "Suspended" || pipeline["status"]["history"][0]["result"] == "TakenUp")
}

#[track_caller]
fn wait_for_phase(namespace: &Namespace<'_>, name: &str, phase: &str, step: &str) {
    let mut last = Value::Null;
    let found = Deadline::secs(90).poll(|| {
        last = namespace.get("pipeline", name);
        is_settled(&last, phase).then_some(())
    });
    assert!(found.is_some(), "{step}: {name} does not become {phase}: {:#}", last["status"]);
}

/// The rows that a Pipeline has written to its volume, as `(id, edit)`, sorted.
fn written(namespace: &Namespace<'_>, name: &str) -> Vec<(i64, i64)> {
    let rows = read::folder(&namespace.volume(&format!("data-{name}-0")).join("rows"));
    let mut rows: Vec<(i64, i64)> =
        rows.column("id").zip(rows.column("edit")).map(|(id, edit)| (id.int(), edit.int())).collect();
    rows.sort_unstable();
    rows
}

/// Checks what was made for these Pipelines: each object once, applied by one field manager, and belonging to its Pipeline.
fn expect_owned(namespace: &Namespace<'_>, pipelines: &BTreeSet<String>) {
    let mut expected = BTreeSet::new();
    for name in pipelines {
        for kind in ["ServiceAccount", "Role", "RoleBinding", "Service", "PodDisruptionBudget", "StatefulSet"] {
            expected.insert(format!("{kind} {name}"));
        }
        expected.insert(format!("Lease {name}-coordinator"));
        for part in ["plan", "checkpoint", "report"] {
            expected.insert(format!("ConfigMap {name}-{part}"));
        }
    }
    let listed = namespace.kubectl(["get", OWNED, "-l", MADE, "-o", "json", "--show-managed-fields"]).run();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let mut found = BTreeSet::new();
    for object in listed["items"].as_array().unwrap() {
        let metadata = &object["metadata"];
        let id = format!("{} {}", object["kind"].as_str().unwrap(), metadata["name"].as_str().unwrap());
        let pipeline = metadata["labels"]["millrace.dev/pipeline"].as_str().unwrap();
        let owners = metadata["ownerReferences"].as_array().cloned().unwrap_or_default();
        if id == format!("ConfigMap {pipeline}-checkpoint") {
            assert!(owners.is_empty(), "{id} stays when its Pipeline goes");
        } else {
            let owner: Vec<_> = owners.iter().map(|owner| (owner["kind"].as_str(), owner["name"].as_str())).collect();
            assert_eq!(owner, [(Some("Pipeline"), Some(pipeline))], "{id}");
        }
        let applied: Vec<_> = metadata["managedFields"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["operation"] == "Apply")
            .map(|entry| entry["manager"].as_str().unwrap())
            .collect();
        assert_eq!(applied, ["millrace-operator"], "{id}");
        assert!(found.insert(id), "an object is there twice");
    }
    assert_eq!(found, expected);
}

#[test]
fn an_operator_killed_at_every_step_of_making_pipelines_is_finished_by_the_next() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("operator-killed-making");
    let installed = namespace.install(&["replicas=1"]);
    let mut operators = Operators::new(&namespace, &installed);
    namespace.apply(&rows());
    let source = manifest::numbers(200, 1_000_000);
    let mut pipelines = BTreeSet::new();
    for point in making() {
        let name = format!("made-{point}");
        // What its predecessor left is finished on the way.
        let fault = format!("{point}@{name}:1");
        operators.next(&fault, &numbers(&name, &source, 0, ""));
        operators.expect_killed(&fault);
        pipelines.insert(name);
    }
    // A Sink's status, too, which nobody has written yet while all operators died before it.
    namespace.apply(&manifest::sink("other", "file: {path: /data/other, format: {json: {}}}"));
    for fault in ["before-status@other:1", "after-status@rows:1"] {
        // A Pipeline more that uses the Sink.
        let name = format!("made-{}", if fault.contains("other") { "sink" } else { "sink-after" });
        operators.next(fault, &numbers(&name, &source, 0, ""));
        operators.expect_killed(fault);
        pipelines.insert(name);
    }
    let last = operators.next("before-release:1", "");
    for name in &pipelines {
        wait_for_phase(&namespace, name, "Finished", "in the end");
        let expected: Vec<(i64, i64)> = (0..200).map(|id| (id, 0)).collect();
        assert_eq!(written(&namespace, name), expected, "{name}");
    }
    expect_owned(&namespace, &pipelines);
    let used: BTreeSet<String> =
        serde_json::from_value(namespace.get("sink", "rows")["status"]["usedBy"].clone()).unwrap();
    assert_eq!(used, pipelines);

    // It is told to end, and dies before it has given its Lease back.
    assert!(namespace.processes(&last).ready("TERM").send(), "the last one runs");
    operators.expect_killed("before-release");

    // They are deleted while no operator lives, and nothing stays but what `Retain` says.
    namespace.kubectl(["delete", "pipelines", "--all"]).run();
    operators.next("", "");
    let kept: BTreeSet<String> = pipelines
        .iter()
        .flat_map(|name| [format!("configmap/{name}-checkpoint"), format!("persistentvolumeclaim/data-{name}-0")])
        .collect();
    let left = || -> BTreeSet<String> {
        let kinds = format!("{OWNED},persistentvolumeclaims");
        namespace.kubectl(["get", &kinds, "-l", MADE, "-o", "name"]).run().lines().map(str::to_owned).collect()
    };
    let done = Deadline::secs(60).poll(|| (left() == kept).then_some(()));
    assert!(done.is_some(), "there are {:?}", left());
    let users = || namespace.get("sink", "rows")["status"]["usedBy"].as_array().map_or(0, Vec::len);
    Deadline::secs(60).wait_for("a Sink that nobody uses", || (users() == 0).then_some(()));
}

/// An edit of the Pipeline `edited`, what it leads to, and the points at which the operator is killed on the way: once each.
struct Edit {
    what: &'static str,
    /// Further fields of the spec; `N` stands for the number of the edit.
    more: &'static str,
    is_broken: bool,
    leads_to: &'static str,
    killed: &'static [&'static str],
}

const fn edit(what: &'static str, more: &'static str, leads_to: &'static str, killed: &'static [&'static str]) -> Edit {
    Edit { what, more, is_broken: false, leads_to, killed }
}

const EDITS: &[Edit] = &[
    edit(
        "of the dataflow",
        "",
        "Running",
        &["before-status", "after-status", "before-events", "before-plan", "after-plan"],
    ),
    edit(
        "of the dataflow and of pods",
        "  deployment: {template: {metadata: {annotations: {edit: \"N\"}}}}",
        "Running",
        &["before-stateful-set", "after-stateful-set"],
    ),
    edit("that suspends", "  suspend: true", "Suspended", &["before-plan"]),
    edit("that resumes", "", "Running", &["before-stateful-set"]),
    edit("that suspends", "  suspend: true", "Suspended", &["before-stateful-set"]),
    edit("that resumes", "", "Running", &["after-plan"]),
    Edit {
        is_broken: true,
        ..edit("that cannot be understood, and suspends", "  suspend: true", "Suspended", &["before-scale"])
    },
    edit("that mends and resumes", "", "Running", &["after-stateful-set"]),
    Edit {
        is_broken: true,
        ..edit("that cannot be understood, and suspends", "  suspend: true", "Suspended", &["after-scale"])
    },
];

#[test]
fn an_operator_killed_at_every_step_of_an_edit_is_finished_by_the_next_and_no_row_is_lost_or_doubled() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("operator-killed-editing");
    let installed = namespace.install(&["replicas=1"]);
    let source = manifest::numbers(10_000_000, 500);
    namespace.apply(&format!("{}{}", rows(), numbers("edited", &source, 0, "")));
    wait_for_phase(&namespace, "edited", "Running", "made");
    let mut operators = Operators::new(&namespace, &installed);
    let (mut number, mut before) = (0, ("made", "Running"));
    for Edit { what, more, is_broken, leads_to, killed } in EDITS {
        for point in *killed {
            number += 1;
            let generation = namespace.get("pipeline", "edited")["metadata"]["generation"].as_i64().unwrap() + 1;
            let fault = format!("{point}@edited/{generation}:1");
            // It finishes what the one before it has begun, and is killed by what comes then.
            operators.next(&fault, "");
            wait_for_phase(&namespace, "edited", before.1, before.0);
            let manifests = numbers("edited", &source, number, &more.replace('N', &number.to_string()));
            let from = if *is_broken { "FROM nowhere" } else { "FROM events" };
            namespace.apply(&manifests.replace("FROM events", from));
            operators.expect_killed(&format!("{fault}, an edit {what}"));
            before = (*what, *leads_to);
        }
    }
    operators.next("", "");
    wait_for_phase(&namespace, "edited", before.1, before.0);
    // What was written until the last savepoint: every row from the first to the last once, with edits in their order.
    let rows = written(&namespace, "edited");
    let ids: Vec<i64> = rows.iter().map(|(id, _)| *id).collect();
    assert!(ids.len() > 1_000, "{} rows", ids.len());
    assert_eq!(ids, (0..ids.len() as i64).collect::<Vec<_>>());
    assert!(rows.windows(2).all(|pair| pair[0].1 <= pair[1].1), "edits in their order");
    let in_force: BTreeSet<i64> = rows.iter().map(|(_, edit)| *edit).collect();
    println!("of {number} edits these were in force: {in_force:?}");
    // All but those that were suspended or broken from the start.
    for edit in (0..=7).chain([9, 11, 13]) {
        assert!(in_force.contains(&edit), "{edit}: {in_force:?}");
    }
    expect_owned(&namespace, &BTreeSet::from(["edited".to_owned()]));
}
