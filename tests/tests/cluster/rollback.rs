//! Edits that do not start, or fail within their first checkpoints: what ran well before them is back, and has lost nothing.

use millrace_tests::cluster;
use serde_json::{Value, json};

use crate::{
    live::{Live, condition},
    restarts::{Spec, expect_each_row_once},
};

/// A Pipeline that runs, and whose pods have proved themselves.
fn proved<'n>(namespace: &'n cluster::Namespace<'n>, good: &Spec) -> Live<'n> {
    let live = Live::new(namespace, "web");
    namespace.apply(&good.manifests());
    live.is_ready();
    live.plan.wait_for("pods that have proved themselves", |map| map["data"]["good-pods.json"].is_string());
    live
}

/// Waits until what was applied last is taken back for this, and what ran before it runs.
#[track_caller]
fn is_taken_back(live: &Live<'_>, class: &str, says: &[&str]) -> Value {
    let is_seen = |object: &Value| object["status"]["observedGeneration"] == object["metadata"]["generation"];
    let object = live.object.wait_for("an edit that is taken back", |object| {
        is_seen(object) && object["status"]["history"][0]["result"] == "RolledBack"
    });
    let (newest, rejected) = (&object["status"]["history"][0], object["status"]["rejected"].clone());
    assert_eq!(newest["class"], class, "{newest:#}");
    for text in says {
        assert!(rejected["message"].as_str().unwrap().contains(text), "expected {text:?}: {rejected:#}");
    }
    let object = live.object.wait_for("what ran before", |object| {
        let ready = condition(object, "Ready").2;
        object["status"]["phase"] == "Running" && ready.ends_with("stays: rows flow")
    });
    for (of, status) in [("ConfigValid", "False"), ("Ready", "False"), ("Stalled", "True")] {
        let said = condition(&object, of);
        assert_eq!((said.0.as_str(), said.1.as_str()), (status, "RolledBack"), "{of}: {}", said.2);
        assert!(says.iter().all(|text| said.2.contains(text)), "{of}: {}", said.2);
    }
    assert!(live.events().iter().any(|(reason, note)| reason == "RolledBack" && note.contains(says[0])));
    // It is not tried again.
    let process = live.process();
    live.completes(4);
    assert_eq!(live.process(), process);
    assert_eq!(live.object.last().unwrap()["status"]["rejected"], rejected);
    expect_each_row_once(live);
    rejected
}

#[test]
fn pods_that_do_not_start_make_room_for_the_last_ones_that_ran_well() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("rollback-pods");
    let installed = namespace.install(&[]);
    let mut good = Spec::new();
    good.deployment["startWithin"] = json!("20s");
    let live = proved(&namespace, &good);
    let container = |what: Value| json!({"spec": {"containers": [what]}});
    let nowhere = "127.0.0.1:9/millrace:none";
    let shouts = container(json!({"name": "millrace", "env": [{"name": "MILLRACE_LOG", "value": "millrace=shout"}]}));
    let unknown = container(json!({"name": "millrace", "envFrom": [{"secretRef": {"name": "nowhere"}}]}));
    for (field, value, says) in [
        (
            "image",
            json!(nowhere),
            &["the image 127.0.0.1:9/millrace:none of pod web-0 cannot be pulled", "refused"][..],
        ),
        (
            "template",
            shouts,
            &["container millrace of pod web-0 ends again and again", "with exit code 2: error: --log millrace=shout"],
        ),
        ("resources", json!({"requests": {"cpu": "1000"}}), &["pod web-0 cannot be scheduled", "Insufficient cpu"]),
        ("template", unknown, &["container millrace of pod web-0 cannot be made", "secret \"nowhere\" not found"]),
    ] {
        let mut bad = good.clone();
        bad.deployment[field] = value;
        namespace.apply(&bad.manifests());
        let rejected = is_taken_back(&live, "Restart", says);
        assert!(rejected["pods"].is_string(), "{rejected:#}");
        // The edit undone changes nothing of what runs.
        let process = live.process();
        namespace.apply(&good.manifests());
        let object = live.is_ready();
        assert_eq!(object["status"]["rejected"], Value::Null);
        assert_eq!(live.process(), process);
    }

    // A dataflow that comes with them goes with them; both come with the next edit, which mends the pods.
    let mut both = good.clone();
    both.every = "SELECT id, id * 2 AS twice FROM ids";
    both.deployment["image"] = json!("No Such Name");
    let before = live.object.last().unwrap()["status"]["revision"].clone();
    namespace.apply(&both.manifests());
    is_taken_back(&live, "Restart", &["the image No Such Name of pod web-0 cannot be pulled"]);
    assert_eq!(live.object.last().unwrap()["status"]["revision"], before);
    both.deployment["image"] = json!(format!("docker.io/library/{}", cluster.images().runtime));
    live.takes_up(&both.manifests());
    live.completes(2);
    expect_each_row_once(&live);
    installed.expect_nothing_forbidden();
}

#[test]
fn a_plan_that_fails_after_it_has_committed_goes_back_from_its_own_checkpoint() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("rollback-plans");
    let installed = namespace.install(&[]);
    // So slow that there is time to fail between the first and the third of its checkpoints.
    let mut good = Spec::new();
    good.interval = "4s";
    // The bad one leaves a column of a Delta table out, which is no reason for it to stay.
    (good.every, good.lake) = ("SELECT id, id % 7 AS rest FROM ids", true);
    let live = proved(&namespace, &good);
    let reports = namespace.watch("configmap", Some("web-report"));
    let process = live.process();
    let rate = 1000;
    let last = crate::live::Rows::of(&live.data().join("out/every")).more().last("id");
    // Rows are committed as far as the last checkpoint, at most 4 s ago. The first of its own is about 5 s from now.
    let breaks_at = last + 11 * rate;
    let mut bad = good.clone();
    let sql = format!("SELECT id FROM ids WHERE (id - {breaks_at}) / (id - {breaks_at}) = 1");
    bad.every = sql.leak();
    namespace.apply(&bad.manifests());
    let rejected = is_taken_back(&live, "Hot", &["ivide by zero"]);
    assert_eq!(rejected["pods"], Value::Null);
    let said: Vec<Value> = reports
        .all()
        .iter()
        .filter_map(|map| serde_json::from_str(map["data"]["report.json"].as_str()?).ok())
        .filter(|report: &Value| report["phase"] == "Failed" && report["edit"]["to"] == rejected["revision"])
        .collect();
    let report = said.first().expect("it has failed while it was on trial");
    let own = report["checkpoint"]["epoch"].as_u64().unwrap() - report["edit"]["since"].as_u64().unwrap();
    assert!((1..3).contains(&own), "it was to fail after its first checkpoint and before its third: {report:#}");
    assert_eq!(live.process(), process, "all of it in one process");
    let every = crate::live::Rows::of(&live.data().join("out/every")).more().last("id");
    assert!(every > breaks_at, "the plan before has passed the row on over which the other one fell");
    let lake = millrace_tests::delta::table(&live.data().join("out/lake"));
    let mut ids: Vec<i64> = lake.column("id").map(millrace_tests::Cell::int).collect();
    ids.sort_unstable();
    crate::live::expect_each_once(&ids, |_| true, "every row of the table");
    assert!(lake.column("rest").any(|rest| *rest == millrace_tests::Cell::Null), "some are of the bad plan");
    namespace.apply(&good.manifests());
    live.is_ready();
    installed.expect_nothing_forbidden();
}

#[test]
fn a_pipeline_that_is_made_anew_over_a_state_that_it_cannot_take_leaves_at_work_what_can() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("rollback-anew");
    let installed = namespace.install(&[]);
    let good = Spec::new();
    let mut other = good.clone();
    other.window = "session: {gap: 1s}";
    namespace.apply(&good.manifests());
    let before = Live::new(&namespace, "web");
    let revision = before.is_ready()["status"]["revision"].clone();
    before.completes(2);
    drop(before);
    namespace.kubectl(["delete", "pipeline", "web", "--wait", "--timeout=120s"]).run();
    namespace.apply(&other.manifests());
    let live = Live::new(&namespace, "web");
    let is_refused = |object: &Value| {
        let ready = condition(object, "Ready");
        object["status"]["phase"] == "Running"
            && object["status"]["revision"] == revision
            && ready.1 == "EditRefused"
            && ready.2.contains("sums: what is remembered changes")
            && ready.2.ends_with("stays: rows flow")
    };
    live.object.wait_for("a refusal, and what runs in its place", is_refused);
    // What runs is no edit, and any other is classed by it.
    namespace.apply(&good.manifests());
    live.is_ready();
    namespace.apply(&other.manifests());
    live.object.wait_for("the operator's own refusal", |object| {
        is_refused(object) && object["status"]["change"]["class"] == "Refused"
    });

    // Nobody but the runtime knows then what runs.
    namespace.kubectl(["delete", "configmap", "web-plan"]).run();
    live.plan.wait_for("the plan that runs", |map| {
        map["data"]["plan.json"].as_str().is_some_and(|plan| plan.contains(revision.as_str().unwrap()))
    });
    live.object.wait_for("the same as before", is_refused);
    namespace.apply(&good.manifests());
    live.is_ready();
    live.completes(2);
    expect_each_row_once(&live);
    installed.expect_nothing_forbidden();
}
