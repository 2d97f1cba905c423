//! What comes of edits.

use expect_test::expect;
use millrace_crds::{ChangeResult, EditClass, Phase};
use millrace_plan::handover::{EditResult, EditSaid, RunPhase, SavepointSaid, StartSaid};
use serde_json::json;

use crate::testing::{PipelineBuilder, START, World, pipeline, running, unready, web};

/// A world in which `web` runs.
async fn with_web() -> World {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    world.run("web");
    world.settle().await;
    assert_eq!(world.status("web").phase, Some(Phase::Running));
    world.log();
    world
}

fn cheap() -> PipelineBuilder {
    pipeline("web").transform("dear", "SELECT auction, price FROM bid WHERE price > 5")
}

#[tokio::test]
async fn a_hot_edit_stands_in_status_before_the_plan_is_written_and_no_pod_is_touched() {
    let mut world = with_web().await;
    let from = world.plan("web").revision;
    world.put("Pipeline", cheap().build());
    world.settle().await;
    expect![[r#"
        status Pipeline web: Changing, Changing, change Hot
        event EditClassed
        apply ConfigMap web-plan"#]]
    .assert_eq(&world.log().join("\n"));
    let to = world.plan("web").revision;
    let change = world.status("web").change.unwrap();
    assert_eq!((change.from, change.to), (Some(from.0.clone()), Some(to.0.clone())));
    assert_eq!(
        world.get("ConfigMap", "web-plan").unwrap()["data"]["previous.json"].as_str().unwrap().matches(&from.0).count(),
        1
    );

    world.report("web", &running(&to));
    world.settle().await;
    expect![[r#"
        status Pipeline web: Running, Running, change Hot
        event TakenUp"#]]
    .assert_eq(&world.log().join("\n"));
    let history = world.status("web").history;
    let results: Vec<_> = history.iter().map(|entry| (entry.class, entry.result)).collect();
    assert_eq!(results, [(EditClass::Hot, ChangeResult::TakenUp), (EditClass::None, ChangeResult::TakenUp)]);
}

#[tokio::test]
async fn an_edit_of_a_window_reaches_the_pipelines_that_name_it() {
    let mut world = World::new();
    let by_minute = "SELECT bidder, count(*) AS n, window_start FROM bid GROUP BY bidder";
    world.put("Pipeline", pipeline("web").transform("t", by_minute).window("minute").build());
    world.settle().await;
    world.run("web");
    world.settle().await;
    let from = world.plan("web").revision;
    world.put(
        "Window",
        json!({"metadata": {"name": "minute", "namespace": "default", "uid": "uid-minute"},
        "spec": {"tumbling": {"size": "2m"}}}),
    );
    world.settle().await;
    assert_ne!(world.plan("web").revision, from);
    assert_eq!(world.status("web").change.unwrap().class, EditClass::Hot);
}

#[tokio::test]
async fn a_refused_edit_leaves_what_runs_and_says_why() {
    let mut world = World::new();
    let by_minute = |window: &str| {
        pipeline("web")
            .transform("t", "SELECT bidder, count(*) AS n, window_start FROM bid GROUP BY bidder")
            .window(window)
    };
    world.put("Pipeline", by_minute("minute").build());
    world.settle().await;
    world.run("web");
    world.settle().await;
    world.log();
    let plan = world.plan("web");
    world.put(
        "Pipeline",
        pipeline("web")
            .transform("u", "SELECT auction, count(*) AS n, window_start FROM bid GROUP BY auction")
            .window("minute")
            .build(),
    );
    world.settle().await;
    expect![[r#"
        status Pipeline web: Running, EditRefused, change Refused
        event EditRefused"#]]
    .assert_eq(&world.log().join("\n"));
    assert_eq!(world.plan("web"), plan);
    let said = world.says("web", "Stalled");
    assert!(said.starts_with("True EditRefused: t: ") && said.contains("allowStateLoss"), "{said}");
    assert_eq!(world.status("web").history[0].result, ChangeResult::Refused);

    world.put("Pipeline", by_minute("minute").build());
    world.settle().await;
    assert_eq!(world.says("web", "Ready"), "True Running: rows flow");
}

#[tokio::test]
async fn an_edit_of_pods_is_of_class_restart_and_names_the_field() {
    let mut world = with_web().await;
    world.put("Pipeline", web().with("deployment", json!({"image": "other:2"})).build());
    world.settle().await;
    expect![[r#"
        status Pipeline web: Changing, Changing, change Restart
        event EditClassed
        apply StatefulSet web"#]]
    .assert_eq(&world.log().join("\n"));
    let change = world.status("web").change.unwrap();
    assert_eq!(
        change.reason.as_deref(),
        Some("pods are made anew: spec.containers[millrace].image of their template changes")
    );
    assert_eq!(change.from, change.to);
    world.pod("web", None);
    world.settle().await;
    assert!(world.says("web", "Ready").starts_with("False Starting"), "{}", world.says("web", "Ready"));
    world.run("web");
    world.settle().await;
    assert_eq!(world.says("web", "Ready"), "True Running: rows flow");
    assert_eq!(world.status("web").history[0].result, ChangeResult::TakenUp);
    world.log();
    world.pass(std::time::Duration::from_secs(60)).await;
    assert_eq!(world.log(), Vec::<String>::new());
}

#[tokio::test]
async fn a_volume_cannot_change_and_its_edit_is_refused() {
    let mut world = with_web().await;
    world.put("Pipeline", web().with("deployment", json!({"volume": {"size": "20Gi"}, "image": "other:2"})).build());
    world.settle().await;
    assert!(
        world
            .says("web", "ConfigValid")
            .starts_with("False EditRefused: spec.deployment.volume.size: the volume has 10Gi")
    );
    assert!(!world.log().iter().any(|write| write.starts_with("apply")));
}

#[tokio::test]
async fn with_the_dry_run_annotation_an_edit_is_classed_and_nothing_else_is_done() {
    let mut world = with_web().await;
    world.put(
        "Pipeline",
        cheap().with("deployment", json!({"image": "other:2"})).annotate("millrace.dev/dry-run", "true").build(),
    );
    world.settle().await;
    assert_eq!(world.log(), ["status Pipeline web: Running, DryRun, change Restart"]);
    assert_eq!(world.status("web").history.len(), 1);
    assert!(world.says("web", "Reconciling").starts_with("False DryRun"));
    let said = world.says("web", "Ready");
    assert!(said.starts_with("False DryRun: an edit of class Restart is not taken up while the annotation"), "{said}");
    world.put("Pipeline", web().annotate("millrace.dev/dry-run", "true").build());
    world.settle().await;
    assert_eq!(world.says("web", "Ready"), "True Running: rows flow", "what is asked for is what runs");
    let change = world.status("web").change.unwrap();
    assert_eq!((change.class, change.to), (EditClass::None, Some(world.plan("web").revision.0)), "it was never made");
    for word in ["True", "yes", "1"] {
        world.put("Pipeline", cheap().annotate("millrace.dev/dry-run", word).build());
        world.settle().await;
        assert!(world.says("web", "Ready").starts_with("False DryRun"), "{word}");
    }
    world.put("Pipeline", cheap().annotate("millrace.dev/dry-run", "False").build());
    world.settle().await;
    assert!(world.log().contains(&"apply ConfigMap web-plan".to_owned()));
}

#[tokio::test]
async fn a_revision_that_fails_is_taken_back_and_not_tried_again_until_the_spec_changes() {
    let mut world = with_web().await;
    let good = world.plan("web").revision;
    world.put("Pipeline", cheap().build());
    world.settle().await;
    let bad = world.plan("web").revision;
    world.log();
    let mut report = running(&good);
    report.edit = Some(EditSaid {
        from: good.clone(),
        to: bad.clone(),
        result: EditResult::RolledBack,
        since: None,
        message: Some("sink out: permission denied".to_owned()),
        at: START,
    });
    world.report("web", &report);
    world.settle().await;
    expect![[r#"
        status Pipeline web: Running, RolledBack, change Hot
        event RolledBack
        apply ConfigMap web-plan"#]]
    .assert_eq(&world.log().join("\n"));
    assert_eq!(world.plan("web").revision, good);
    let said = world.says("web", "ConfigValid");
    assert!(said.contains("False RolledBack") && said.contains("permission denied"), "{said}");
    assert_eq!(world.status("web").history[0].result, ChangeResult::RolledBack);
    assert_eq!(world.status("web").history[0].message.as_deref(), Some("sink out: permission denied"));

    world.new_leader();
    world.pass(std::time::Duration::from_secs(60)).await;
    assert_eq!(world.log(), Vec::<String>::new());

    let other = pipeline("web").transform("dear", "SELECT auction, price FROM bid WHERE price > 6");
    world.put("Pipeline", other.build());
    world.settle().await;
    assert_ne!(world.plan("web").revision, good);
    assert_eq!(world.status("web").rejected, None);
}

#[tokio::test]
async fn what_the_runtime_refuses_is_taken_back_too() {
    let mut world = with_web().await;
    let good = world.plan("web").revision;
    world.put("Pipeline", cheap().build());
    world.settle().await;
    let mut report = running(&good);
    report.edit = Some(EditSaid {
        from: good.clone(),
        to: world.plan("web").revision,
        result: EditResult::Refused,
        since: None,
        message: Some("the table has no such column".to_owned()),
        at: START,
    });
    world.report("web", &report);
    world.settle().await;
    assert_eq!(world.plan("web").revision, good);
    assert!(world.says("web", "Ready").starts_with("False EditRefused: the runtime has refused revision"));
}

#[tokio::test]
async fn a_suspended_pipeline_takes_a_savepoint_and_then_has_no_pod() {
    let mut world = with_web().await;
    let suspended = || web().with("suspend", json!(true)).build();
    world.put("Pipeline", suspended());
    world.settle().await;
    assert!(world.plan("web").suspend);
    assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 1);
    assert!(world.says("web", "Ready").starts_with("False Suspending"));
    let mut report = running(&world.plan("web").revision);
    report.phase = RunPhase::Suspended;
    report.savepoint =
        Some(SavepointSaid { token: String::new(), name: Some("savepoint-9".to_owned()), error: None, at: START });
    world.report("web", &report);
    world.pod("web", Some(unready()));
    world.settle().await;
    assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 0);
    world.pod("web", None);
    world.settle().await;
    let status = world.status("web");
    assert_eq!(
        (status.phase, status.savepoint.and_then(|it| it.name).as_deref()),
        (Some(Phase::Suspended), Some("savepoint-9"))
    );
    assert_eq!(world.says("web", "Ready"), "False Suspended: stopped, as `suspend` says");
    assert!(world.says("web", "Reconciling").starts_with("False"));

    // Nothing runs of which another could be taken, which is the answer for good.
    let asked = |pipeline: PipelineBuilder| pipeline.with("savepoint", json!({"token": "t1"}));
    world.put("Pipeline", asked(web().with("suspend", json!(true))).build());
    world.settle().await;
    let said = world.status("web").savepoint.unwrap();
    assert!(said.token == "t1" && said.error.is_some(), "{said:?}");

    world.put("Pipeline", asked(web()).build());
    world.settle().await;
    assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 1);
    assert!(!world.plan("web").suspend);
    assert_eq!(world.plan("web").savepoint, None);
    assert_eq!(world.status("web").savepoint, Some(said));
    world.put("Pipeline", web().with("savepoint", json!({"token": "t2"})).build());
    world.settle().await;
    assert_eq!(world.plan("web").savepoint.map(|wish| wish.token).as_deref(), Some("t2"));
}

#[tokio::test]
async fn a_pipeline_that_is_made_suspended_is_not_started() {
    let mut world = World::new();
    world.put("Pipeline", web().with("suspend", json!(true)).build());
    world.settle().await;
    assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 0);
    assert_eq!(world.status("web").phase, Some(Phase::Suspended));
}

#[tokio::test]
async fn a_finished_pipeline_is_ready_without_a_pod_and_runs_again_when_its_plan_is_another() {
    let mut world = with_web().await;
    let mut report = running(&world.plan("web").revision);
    report.phase = RunPhase::Finished;
    world.report("web", &report);
    world.settle().await;
    assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 0);
    world.pod("web", None);
    world.settle().await;
    assert_eq!(world.status("web").phase, Some(Phase::Finished));
    assert_eq!(world.says("web", "Ready"), "True Finished: every row is read and committed");
    // A savepoint cannot be had of it, which is said once.
    world.put("Pipeline", web().with("savepoint", json!({"token": "t1"})).build());
    world.settle().await;
    let said = world.status("web").savepoint.unwrap();
    let error = "the pipeline has finished: nothing runs that a savepoint could be taken of";
    assert_eq!((said.token.as_str(), said.error.as_deref()), ("t1", Some(error)));
    world.pass(std::time::Duration::from_secs(70)).await;
    assert_eq!(world.status("web").savepoint, Some(said));
    world.put("Pipeline", cheap().build());
    world.settle().await;
    assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 1);
}

#[tokio::test]
async fn an_edit_that_cannot_be_understood_leaves_what_runs_and_a_suspension_is_still_heeded() {
    let mut world = with_web().await;
    let plan = world.plan("web");
    let broken = || pipeline("web").transform("dear", "SELECT auctoin FROM bid");
    world.put("Pipeline", broken().build());
    world.settle().await;
    assert_eq!(world.log(), ["status Pipeline web: Running, InvalidSpec, change Refused", "event InvalidSpec"]);
    let change = world.status("web").change.unwrap();
    assert_eq!((change.from, change.to), (Some(plan.revision.0.clone()), None));
    assert!(change.reason.unwrap().contains("auctoin"), "it is of the spec that is there");
    assert_eq!(world.plan("web"), plan);
    let said = world.says("web", "ConfigValid");
    assert!(said.contains("spec.transforms[0].sql") && said.contains("auction"), "{said}");
    world.put("Pipeline", broken().with("suspend", json!(true)).build());
    world.settle().await;
    assert!(world.plan("web").suspend);
    let mut report = running(&plan.revision);
    report.phase = RunPhase::Suspended;
    world.report("web", &report);
    world.settle().await;
    assert!(world.log().contains(&"amend web: {\"replicas\":0}".to_owned()));
}

#[tokio::test]
async fn a_plan_that_somebody_deletes_while_the_spec_cannot_be_run_stops_nothing() {
    let mut world = with_web().await;
    let revision = world.plan("web").revision;
    world.put("Pipeline", pipeline("web").transform("dear", "SELECT auctoin FROM bid").build());
    world.settle().await;
    world.log();
    world.delete("ConfigMap", "web-plan");
    world.pass(std::time::Duration::from_secs(120)).await;
    assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 1, "{:#?}", world.log());
    let said = world.says("web", "Ready");
    let stays = format!("revision {} stays: rows flow", revision.short());
    assert!(said.contains("auctoin") && said.ends_with(&stays), "{said}");
    assert_eq!(world.status("web").phase, Some(Phase::Running));
    // A stop is one all the same.
    world.put(
        "Pipeline",
        pipeline("web").transform("dear", "SELECT auctoin FROM bid").with("suspend", json!(true)).build(),
    );
    world.settle().await;
    assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 0, "{:#?}", world.log());
}

#[tokio::test]
async fn while_a_spec_cannot_be_run_or_an_edit_is_refused_what_the_running_revision_needs_is_kept() {
    let refused = json!({"volume": {"size": "20Gi"}});
    for (deployment, reason) in [(json!({"replicas": 3}), "ReplicasUnsupported"), (refused, "EditRefused")] {
        let mut world = with_web().await;
        // It has proved itself.
        let mut report = running(&world.plan("web").revision);
        report.checkpoint = Some(crate::testing::checkpoint(9));
        world.report("web", &report);
        world.settle().await;
        world.put("Pipeline", web().with("deployment", deployment).build());
        world.settle().await;
        assert!(world.says("web", "Ready").contains(&format!("False {reason}")), "{}", world.says("web", "Ready"));
        let owned = [
            "ServiceAccount web",
            "Role web",
            "RoleBinding web",
            "Service web",
            "PodDisruptionBudget web",
            "ConfigMap web-report",
            "StatefulSet web",
            "ConfigMap web-plan",
        ];
        let before = world.objects();
        // Without a StatefulSet there is no volume that an edit could not change.
        let stays = |id: &str| id == "ConfigMap web-plan" || (id == "StatefulSet web" && reason == "EditRefused");
        for id in owned.into_iter().filter(|id| !stays(id)) {
            let (kind, name) = id.split_once(' ').unwrap();
            world.delete(kind, name);
        }
        world.pod("web", None);
        world.delete("Lease", "web-coordinator");
        world.pass(std::time::Duration::from_secs(61)).await;
        let after = world.objects();
        for id in owned.iter().chain(&["Lease web-coordinator"]) {
            let spec = |objects: &std::collections::BTreeMap<String, serde_json::Value>| {
                let object = &objects[*id];
                (object["spec"].clone(), object["rules"].clone(), object["subjects"].clone())
            };
            assert!(after.contains_key(*id), "{reason}: {id} is gone");
            assert_eq!(spec(&after), spec(&before), "{reason}: {id}");
        }
        world.log();
        let mut role = world.get("Role", "web").unwrap();
        role["rules"] = json!([]);
        world.put("Role", role);
        world.settle().await;
        assert_eq!(world.log(), ["apply Role web"]);
    }
}

#[tokio::test]
async fn what_came_of_a_start_is_told_once() {
    let mut world = with_web().await;
    let start = json!({"token": "back", "moveSources": [{"name": "bid", "row": 5}]});
    world.put("Pipeline", web().with("startFrom", start).build());
    world.settle().await;
    assert_eq!(world.plan("web").start_from.unwrap().move_sources[0].row, Some(5));
    world.log();
    let mut report = running(&world.plan("web").revision);
    let error = Some("there is no such row".to_owned());
    report.started = Some(StartSaid { token: "back".to_owned(), epoch: None, error: error.clone() });
    world.report("web", &report);
    world.settle().await;
    assert_eq!(world.log(), ["status Pipeline web: Running, Running, change None", "event StartFailed"]);
    assert_eq!(world.status("web").started_from.unwrap().error, error);
    world.pass(std::time::Duration::from_secs(60)).await;
    assert_eq!(world.log(), Vec::<String>::new());
}

#[tokio::test]
async fn ten_revisions_are_remembered() {
    let mut world = with_web().await;
    for price in 0..14 {
        let sql = format!("SELECT auction, price FROM bid WHERE price > {price}");
        world.put("Pipeline", pipeline("web").transform("dear", &sql).build());
        world.settle().await;
        if price % 2 == 0 {
            world.report("web", &running(&world.plan("web").revision));
            world.settle().await;
        }
    }
    let history = world.status("web").history;
    assert_eq!(history.len(), 10);
    assert_eq!(history[0].result, ChangeResult::Pending);
    assert_eq!(history[1].result, ChangeResult::TakenUp);
    assert_eq!(history[2].result, ChangeResult::Superseded);
}

#[tokio::test]
async fn a_first_revision_that_never_ran_can_be_replaced_by_any_other() {
    let mut world = World::new();
    let by = |column: &str| {
        let sql = format!("SELECT {column}, count(*) AS n, window_start FROM bid GROUP BY {column}");
        pipeline("web").transform(column, &sql).window("minute").build()
    };
    world.put("Pipeline", by("bidder"));
    world.settle().await;
    let mut report = running(&world.plan("web").revision);
    (report.phase, report.checkpoint) = (RunPhase::Failed, None);
    world.pod("web", Some(unready()));
    world.report("web", &report);
    world.put("Pipeline", by("auction"));
    world.settle().await;
    assert_eq!(world.status("web").change.unwrap().class, EditClass::Hot);
    assert_eq!(world.plan("web").spec.pipeline.transforms[0].name, "auction");
}

#[tokio::test]
async fn an_edit_of_dataflow_and_pods_is_one_edit_though_the_watches_bring_its_halves_one_by_one() {
    let mut world = with_web().await;
    world.put("Pipeline", cheap().with("deployment", json!({"image": "other:2"})).build());
    world.refuse(Some(("apply StatefulSet", || crate::cluster::writer::WriteError::TimedOut)));
    world.settle().await;
    world.refuse(None);
    world.pass(std::time::Duration::from_secs(10)).await;
    let history = world.status("web").history;
    assert_eq!(history.len(), 2, "{history:#?}");
    assert!(
        history[0].reason.as_ref().unwrap().contains("its expressions change")
            || history[0].reason.as_ref().unwrap().contains("filter")
    );
    assert_eq!(
        world.get("StatefulSet", "web").unwrap()["spec"]["template"]["spec"]["containers"][0]["image"],
        "other:2"
    );
}

#[tokio::test]
async fn a_pipeline_whose_pod_cannot_start_is_suspended_without_a_savepoint() {
    let mut world = with_web().await;
    world.warn("Pod web-0", "MountVolume.SetUp failed for volume \"credentials\": secret \"lake\" not found");
    world.pod("web", Some(json!({"phase": "Pending"})));
    world.put("Pipeline", web().with("suspend", json!(true)).build());
    world.settle().await;
    assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 1, "it may be about to start");
    world.pass(std::time::Duration::from_secs(10)).await;
    assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 0);
    world.pod("web", None);
    world.settle().await;
    assert_eq!(world.status("web").phase, Some(Phase::Suspended));
}

#[tokio::test]
async fn a_pod_that_starts_is_waited_for_a_minute_to_take_the_savepoint_of_a_suspension() {
    let waits_for = |init: serde_json::Value| json!({"phase": "Pending", "initContainerStatuses": [init]});
    let init = json!({"name": "wait", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": {"running": {}}});
    for (status, waits_for) in [
        (json!({"phase": "Pending"}), "is being started"),
        (waits_for(init), "waits for its init container wait to end"),
    ] {
        let mut world = with_web().await;
        world.pod("web", Some(status));
        world.put("Pipeline", web().with("suspend", json!(true)).build());
        world.settle().await;
        assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 1, "it may be about to start");
        let said = world.says("web", "Ready");
        assert!(said.ends_with(&format!("savepoint of the suspension: pod web-0 {waits_for}")), "{said}");
        world.pass(std::time::Duration::from_secs(61)).await;
        assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 0);
    }
}

#[tokio::test]
async fn a_pipeline_that_has_never_run_is_suspended_at_once() {
    for pod in [None, Some(json!({"phase": "Pending"}))] {
        let mut world = World::new();
        world.put("Pipeline", web().build());
        world.settle().await;
        let has_pod = pod.is_some();
        if has_pod {
            world.pod("web", pod);
        }
        world.settle().await;
        assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 1);
        world.put("Pipeline", web().with("suspend", json!(true)).build());
        world.settle().await;
        assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 0);
        if has_pod {
            world.pod("web", None);
            world.settle().await;
        }
        assert_eq!(world.status("web").phase, Some(Phase::Suspended));
    }
}
