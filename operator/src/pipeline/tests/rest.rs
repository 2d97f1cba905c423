//! At rest nothing is written, and no object, error or neighbour makes a hot loop.

use std::time::Duration;

use millrace_plan::handover::{ReportDocument, RunPhase};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    cluster::writer::WriteError,
    testing::{World, checkpoint, pipeline, ready, running, web},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Ten Pipelines: most run, one cannot be understood, one names a Sink that is not there.
async fn busy() -> World {
    let mut world = World::new();
    for n in 0..8 {
        let name = format!("p{n}");
        world.put("Pipeline", pipeline(&name).transform("t", "SELECT auction FROM bid").build());
        world.settle().await;
        world.run(&name);
    }
    world.put("Pipeline", pipeline("broken").transform("t", "SELECT FROM").build());
    let unknown = json!([{"from": "bid", "sink": "nowhere"}]);
    world.put("Pipeline", pipeline("unknown").with("outputs", unknown).build());
    world.settle().await;
    world
}

/// A world in which `web` runs and nothing is left to be done, and what its runtime reports.
async fn at_rest() -> (World, ReportDocument) {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    let report = world.run("web");
    world.settle().await;
    world.log();
    (world, report)
}

#[tokio::test]
async fn an_idle_hour_makes_no_writes() {
    let mut world = busy().await;
    assert!(!world.log().is_empty());
    for _ in 0..12 {
        world.pass(HOUR / 12).await;
        // Watches list everything again now and then, and leaders change.
        world.new_leader();
        world.settle().await;
    }
    assert_eq!(world.log(), Vec::<String>::new());
}

#[tokio::test]
async fn of_what_is_suspended_or_has_finished_nothing_is_expected() {
    let mut world = World::new();
    for (name, phase) in [("paused", RunPhase::Suspended), ("ended", RunPhase::Finished)] {
        world.put("Pipeline", pipeline(name).transform("t", "SELECT auction FROM bid").build());
        world.settle().await;
        let mut report = world.run(name);
        world.settle().await;
        let again = pipeline(name).transform("t", "SELECT auction FROM bid");
        world.put("Pipeline", again.with("suspend", json!(phase == RunPhase::Suspended)).build());
        world.settle().await;
        report.phase = phase;
        world.report(name, &report);
        world.settle().await;
        world.pod(name, None);
    }
    world.settle().await;
    world.log();
    world.pass(HOUR).await;
    assert_eq!(world.log(), Vec::<String>::new());
}

#[tokio::test]
async fn numbers_alone_are_written_every_ten_seconds_at_the_most_and_the_last_are_not_lost() {
    let (mut world, mut report) = at_rest().await;
    for second in 0..600 {
        if second % 5 == 0 {
            report.checkpoint = Some(checkpoint(2 + second / 5));
            report.nodes[0].lag_rows = Some(second);
            world.report("web", &report);
        }
        world.pass(Duration::from_secs(1)).await;
    }
    world.pass(Duration::from_secs(20)).await;
    let log = world.log();
    let writes = log.iter().filter(|write| write.starts_with("status Pipeline")).count();
    assert!((50..=61).contains(&writes), "{writes}");
    // With its third checkpoint its pods have proved themselves.
    let applied: Vec<&String> = log.iter().filter(|write| write.starts_with("apply")).collect();
    assert_eq!(applied, ["apply ConfigMap web-plan"]);
    assert_eq!(world.status("web").checkpoint.unwrap().epoch, 121);
    assert_eq!(world.status("web").unread.as_deref(), Some("595 rows"));
}

#[tokio::test]
async fn a_phase_is_written_at_once_though_numbers_wait() {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    let mut report = world.run("web");
    world.settle().await;
    report.checkpoint_failures = 1;
    report.checkpoint_error = Some("disk full".to_owned());
    world.report("web", &report);
    world.settle().await;
    assert_eq!(
        world.says("web", "CheckpointHealthy"),
        "False CheckpointFailed: the last checkpoint has failed: disk full"
    );
}

#[tokio::test]
async fn watches_that_are_behind_make_nothing_be_written_twice() {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.hold_watches();
    world.settle().await;
    let first = world.log();
    for _ in 0..5 {
        world.wake();
        world.pass(Duration::from_secs(1)).await;
    }
    assert_eq!(world.log(), Vec::<String>::new(), "after {first:#?}");
    world.release_watches();
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(world.log(), Vec::<String>::new());
}

#[tokio::test]
async fn what_somebody_changes_by_hand_is_put_right_once() {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    world.log();
    let mut role = world.get("Role", "web").unwrap();
    role["rules"] = json!([]);
    world.put("Role", role);
    world.settle().await;
    assert_eq!(world.log(), ["apply Role web"]);
    let mut role = world.get("Role", "web").unwrap();
    role["metadata"]["annotations"] = json!({});
    world.put("Role", role);
    world.settle().await;
    assert_eq!(world.log(), Vec::<String>::new(), "the watch may be behind");
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(world.log(), ["apply Role web"]);
}

#[tokio::test]
async fn an_object_that_may_not_be_written_is_told_and_tried_ever_more_rarely() {
    let mut world = World::new();
    world.refuse(Some(("apply StatefulSet", || WriteError::Forbidden("no right to make StatefulSets".to_owned()))));
    world.put("Pipeline", web().build());
    world.settle().await;
    assert_eq!(
        world.says("web", "Ready"),
        "False ApplyFailed: StatefulSet web cannot be written: no right to make StatefulSets"
    );
    world.log();
    for _ in 0..60 {
        world.pass(HOUR / 60).await;
        world.wake();
    }
    let tries = world.log().len();
    assert!((12..=70).contains(&tries), "{tries} writes in an hour");
    world.refuse(None);
    world.pass(Duration::from_secs(301)).await;
    assert!(world.says("web", "Ready").starts_with("False Starting"), "{}", world.says("web", "Ready"));
}

#[tokio::test]
async fn an_outage_of_the_api_server_is_sat_out() {
    let mut world = busy().await;
    world.refuse(Some(("", || WriteError::TimedOut)));
    world.put("Pipeline", pipeline("p0").transform("t", "SELECT price FROM bid").build());
    world.settle().await;
    world.log();
    world.pass(Duration::from_secs(120)).await;
    let tries = world.log().len();
    assert!((3..=20).contains(&tries), "{tries} tries in two minutes");
    world.refuse(None);
    world.pass(Duration::from_secs(61)).await;
    assert!(world.log().contains(&"apply ConfigMap p0-plan".to_owned()));
}

#[tokio::test]
async fn a_pipeline_that_is_deleted_and_made_anew_is_another() {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    world.log();
    let mut again = web().build();
    again["metadata"]["uid"] = json!("uid-other");
    world.put("Pipeline", again);
    world.settle().await;
    // What is deleted with the one before is taken over by nobody.
    assert_eq!(world.get("Role", "web").unwrap()["metadata"]["ownerReferences"][0]["uid"], "uid-web");
    world.collect();
    world.pass(Duration::from_secs(120)).await;
    let role = world.get("Role", "web").unwrap();
    assert_eq!(role["metadata"]["ownerReferences"][0]["uid"], "uid-other");
}

/// Any JSON, some of it like a Pipeline's.
fn hostile() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9.`'\"\\-]{0,12}".prop_map(Value::from),
        prop_oneof![Just("bid"), Just("out"), Just("minute"), Just("1m"), Just("-1s"), Just("9999999999999999999d")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let names = prop_oneof![
            "[a-z]{1,8}",
            Just("sources".to_owned()),
            Just("transforms".to_owned()),
            Just("outputs".to_owned()),
            Just("deployment".to_owned()),
            Just("template".to_owned()),
            Just("checkpoints".to_owned()),
            Just("name".to_owned()),
            Just("sql".to_owned()),
            Just("window".to_owned()),
            Just("sink".to_owned()),
            Just("suspend".to_owned()),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(names, inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn objects_that_say_anything_leave_the_others_alone(spec in hostile(), status in hostile(), report in hostile(), part in 0..6_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            let mut bad = web().build();
            bad["metadata"]["name"] = json!("bad");
            bad["metadata"]["uid"] = json!("uid-bad");
            match part {
                0 => bad["spec"] = spec.clone(),
                1 => bad["spec"]["deployment"] = spec.clone(),
                2 => bad["spec"]["deployment"] = json!({"template": spec}),
                3 => bad["spec"]["sources"] = spec.clone(),
                4 => bad["spec"]["transforms"] = spec.clone(),
                _ => bad["status"] = status.clone(),
            }
            world.put("Pipeline", bad);
            for kind in ["Window", "Sink"] {
                world.put(kind, json!({"metadata": {"name": "bad", "namespace": "default", "uid": "u"}, "spec": spec, "status": status}));
            }
            world.put("Pipeline", web().build());
            world.settle().await;
            world.run("web");
            let new = json!({"metadata": {"name": "bad-report", "namespace": "default"}});
            let mut map = world.get("ConfigMap", "bad-report").unwrap_or(new);
            map["data"]["report.json"] = json!(report.to_string());
            world.put("ConfigMap", map);
            world.settle().await;
            assert!(world.says("web", "Ready").starts_with("True Running"));
            world.log();
            world.pass(Duration::from_secs(30)).await;
            assert_eq!(world.log(), Vec::<String>::new());
        });
    }
}

#[tokio::test]
async fn a_report_of_another_version_is_not_believed() {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    world.pod("web", Some(ready()));
    let report = ReportDocument { version: 99, ..running(&world.plan("web").revision) };
    world.report("web", &report);
    world.settle().await;
    assert!(world.says("web", "Ready").starts_with("False Starting"));
}

#[tokio::test]
async fn somebody_who_undoes_whatever_we_write_makes_no_hot_loop() {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    world.run("web");
    world.silence();
    world.pass(Duration::from_secs(60)).await;
    world.log();
    let undo: [fn(&mut World); 3] = [
        |world| {
            let mut role = world.get("Role", "web").unwrap();
            role["rules"] = json!([]);
            world.put("Role", role);
        },
        |world| {
            let mut service = world.get("Service", "web").unwrap();
            service["metadata"]["annotations"] = json!({});
            world.put("Service", service);
        },
        |world| world.delete("PodDisruptionBudget", "web"),
    ];
    for undo in undo {
        let mut tries = 0;
        undo(&mut world);
        for _ in 0..HOUR.as_secs() {
            world.settle().await;
            while !world.log().is_empty() {
                tries += 1;
                undo(&mut world);
                world.settle().await;
            }
            world.clock.advance(Duration::from_secs(1));
        }
        assert!((5..=20).contains(&tries), "{tries} writes in an hour");
        // Whoever did it has stopped: the next look puts it right, and there is peace.
        world.pass(Duration::from_secs(301)).await;
        assert_eq!(world.log().len(), 1);
        world.pass(HOUR).await;
        assert_eq!(world.log(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_condition_that_comes_and_goes_is_told_once_in_ten_minutes() {
    let (mut world, good) = at_rest().await;
    let mut bad = good.clone();
    bad.checkpoint_failures = 1;
    bad.checkpoint_error = Some("disk full".to_owned());
    for _ in 0..HOUR.as_secs() / 20 {
        for report in [&bad, &good] {
            world.report("web", report);
            world.pass(Duration::from_secs(10)).await;
        }
    }
    let told: Vec<String> = world.log().into_iter().filter(|write| write.starts_with("event")).collect();
    assert!(told.iter().all(|event| event == "event CheckpointFailing"), "{told:?}");
    assert!((4..=7).contains(&told.len()), "{told:?}");
}

#[tokio::test]
async fn what_another_has_written_since_is_not_overwritten_but_decided_anew() {
    let (mut world, _) = at_rest().await;
    world.hold_watches();
    let mut role = world.get("Role", "web").unwrap();
    role["rules"] = json!([]);
    world.put("Role", role);
    let mut plan = world.get("ConfigMap", "web-plan").unwrap();
    plan["data"]["previous.json"] = json!("another leader's");
    world.put("ConfigMap", plan);
    // The watches have not brought that yet; this replica decides on what was.
    let cheap = pipeline("web").transform("dear", "SELECT auction, price FROM bid WHERE price > 5");
    world.put("Pipeline", cheap.build());
    let pipeline = world.get("Pipeline", "web").unwrap();
    world.show("Pipeline web");
    world.settle().await;
    assert!(
        pipeline["metadata"]["generation"] == 2
            && world.log().contains(&"apply ConfigMap web-plan CONFLICT".to_owned())
    );
    world.release_watches();
    world.pass(Duration::from_secs(15)).await;
    let plan = world.get("ConfigMap", "web-plan").unwrap();
    assert!(plan["data"]["plan.json"].as_str().unwrap().contains("price > 5"));
    world.log();
    world.pass(HOUR).await;
    assert_eq!(world.log(), Vec::<String>::new());
}

#[tokio::test]
async fn an_object_of_somebody_else_is_not_taken_over() {
    let mut world = World::new();
    world.put(
        "Service",
        json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": "10.0.0.1"}}),
    );
    world.hide("Service web");
    world.put("Pipeline", web().build());
    world.settle().await;
    let said = world.says("web", "Ready");
    assert!(
        said.starts_with("False ApplyFailed: Service web cannot be written: there is a Service of this name"),
        "{said}"
    );
    assert_eq!(world.get("Service", "web").unwrap()["spec"]["clusterIP"], "10.0.0.1");
}

#[tokio::test]
async fn a_sink_of_very_many_pipelines_is_looked_at_now_and_then_and_misses_none() {
    let mut world = World::new();
    let user = |n: usize| {
        let name = format!("p{n}");
        json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"outputs": [{"sink": "out"}]}})
    };
    for n in 0..60 {
        world.put("Pipeline", user(n));
        world.settle().await;
    }
    world.pass(Duration::from_secs(1)).await;
    let writes = world.log().into_iter().filter(|write| write == "status Sink out").count();
    assert!((50..=54).contains(&writes), "{writes}");
    assert_eq!(world.get("Sink", "out").unwrap()["status"]["usedBy"].as_array().unwrap().len(), 60);
    world.pass(HOUR).await;
    assert_eq!(world.log(), Vec::<String>::new());
}

#[tokio::test]
async fn a_status_that_somebody_else_writes_is_written_anew_and_is_no_hot_loop_either() {
    let (mut world, _) = at_rest().await;
    for (kind, name) in [("Pipeline", "web"), ("Window", "minute"), ("Sink", "out")] {
        let good = world.get(kind, name).unwrap();
        let mut bad = good.clone();
        bad["status"] = json!({"conditions": "none", "phase": "Fine", "usedBy": 7});
        world.put(kind, bad.clone());
        world.pass(Duration::from_secs(11)).await;
        assert_eq!(world.get(kind, name).unwrap()["status"], good["status"], "{kind}");
        assert_eq!(world.log().len(), 1, "{kind}");
        let mut writes = 0;
        world.put(kind, bad.clone());
        for _ in 0..HOUR.as_secs() {
            world.pass(Duration::from_secs(1)).await;
            for _ in world.log() {
                writes += 1;
                world.put(kind, bad.clone());
            }
        }
        assert!((5..=20).contains(&writes), "{kind}: {writes} writes in an hour");
        world.pass(Duration::from_secs(301)).await;
        assert_eq!(world.get(kind, name).unwrap()["status"], good["status"], "{kind}");
        world.log();
    }
    world.pass(HOUR).await;
    assert_eq!(world.log(), Vec::<String>::new());
}

#[tokio::test]
async fn a_sink_that_is_applied_a_moment_after_its_pipeline_is_no_warning_and_one_that_never_comes_is() {
    for comes in [true, false] {
        let mut world = World::new();
        let mut manifest = pipeline("web").with("outputs", json!([{"from": "bid", "sink": "late"}])).build();
        manifest["metadata"]["creationTimestamp"] = json!("2024-01-01T00:00:00Z");
        world.put("Pipeline", manifest);
        world.settle().await;
        let said = world.says("web", "ConfigValid");
        assert!(said.starts_with("False UnknownReference: "), "{said}");
        if comes {
            let metadata = json!({"name": "late", "namespace": "default", "uid": "late", "generation": 1});
            world.put("Sink", json!({"metadata": metadata, "spec": {"stdout": {}}}));
        }
        world.pass(Duration::from_secs(60)).await;
        let warned = world.log().iter().filter(|write| *write == "event UnknownReference").count();
        assert_eq!(warned, usize::from(!comes));
    }
}

#[tokio::test]
async fn a_reference_to_nothing_is_told_in_the_words_of_a_cluster() {
    let mut world = World::new();
    world.delete("Sink", "out");
    world.put("Pipeline", web().build());
    world.settle().await;
    let said = world.says("web", "ConfigValid");
    assert!(said.contains("in this namespace") && !said.contains("manifests"), "{said}");
}

#[tokio::test]
async fn another_operator_that_applies_the_same_object_is_told_and_a_person_who_edits_it_is_not() {
    for (applied, told) in [(Some("0000"), 1), (None, 0)] {
        let (mut world, _) = at_rest().await;
        let good = world.get("StatefulSet", "web").unwrap();
        for _ in 0..3 {
            let mut other = world.get("StatefulSet", "web").unwrap();
            other["spec"]["template"]["spec"]["containers"][0]["image"] = json!("another");
            if let Some(applied) = applied {
                other["metadata"]["annotations"]["millrace.dev/applied"] = json!(applied);
            }
            world.put("StatefulSet", other);
            world.pass(Duration::from_secs(60)).await;
        }
        assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"], good["spec"]);
        let log = world.log();
        assert_eq!(log.iter().filter(|write| *write == "event Contested").count(), told, "{log:#?}");
        assert!(log.iter().filter(|write| *write == "apply StatefulSet web").count() >= 2, "{log:#?}");
    }
}
