//! What does not start, or fails within its first checkpoints, is taken back.

use std::time::Duration;

use expect_test::expect;
use millrace_crds::{ChangeResult, EditClass};
use millrace_plan::handover::{EditResult, EditSaid, PlanDocument, Problem, ProblemOf, ReportDocument, RunPhase};
use millrace_stream::{Epoch, Revision};
use serde_json::{Value, json};

use crate::testing::{PipelineBuilder, START, World, checkpoint, no_image, pipeline, running, web};

fn image(pipeline: PipelineBuilder, image: &str) -> Value {
    pipeline.with("deployment", json!({"image": image})).build()
}

pub fn cheap() -> PipelineBuilder {
    pipeline("web").transform("dear", "SELECT auction, price FROM bid WHERE price > 5")
}

pub fn ran(revision: &Revision, epoch: u64) -> ReportDocument {
    ReportDocument { checkpoint: Some(checkpoint(epoch)), ..running(revision) }
}

fn image_of(world: &World) -> Value {
    world.get("StatefulSet", "web").unwrap()["spec"]["template"]["spec"]["containers"][0]["image"].clone()
}

/// A world in which `web` runs with the image `good`, and has completed as many checkpoints as it takes.
async fn proved() -> World {
    let mut world = World::new();
    world.put("Pipeline", image(web(), "good"));
    world.settle().await;
    let report = world.run("web");
    world.settle().await;
    world.log();
    world.report("web", &ran(&report.revision.unwrap(), 3));
    world.settle().await;
    assert_eq!(world.log(), ["apply ConfigMap web-plan"]);
    assert!(world.get("ConfigMap", "web-plan").unwrap()["data"]["good-pods.json"].is_string());
    world
}

/// The StatefulSet's controller has put a pod of the newest template in the place of the one before, and it is like this.
fn replaced(world: &mut World, status: Value) {
    world.rolled("web");
    world.pod("web", Some(status));
}

#[tokio::test]
async fn pods_whose_image_is_not_there_make_room_for_the_last_ones_that_ran_well() {
    let mut world = proved().await;
    world.put("Pipeline", image(web(), "none"));
    world.settle().await;
    world.pod("web", None);
    world.settle().await;
    replaced(&mut world, no_image());
    world.settle().await;
    assert_eq!(image_of(&world), "none");
    world.log();
    world.pass(Duration::from_secs(31)).await;
    expect![[r#"
        status Pipeline web: Pending, RolledBack, change Restart
        event RolledBack
        apply StatefulSet web
        status Pipeline web: Changing, RolledBack, change Restart"#]]
    .assert_eq(&world.log().join("\n"));
    assert_eq!(image_of(&world), "good");
    let status = world.status("web");
    let newest = (status.history[0].class, status.history[0].result);
    assert_eq!(newest, (EditClass::Restart, ChangeResult::RolledBack));
    let rejected = status.rejected.unwrap();
    assert_eq!(rejected.message, "the image none of pod web-0 cannot be pulled: not found");
    assert!(rejected.pods.is_some());
    world.run("web");
    world.settle().await;
    let said = world.says("web", "Ready");
    assert!(
        said.starts_with(
            "False RolledBack: its pods have failed, and the last ones that ran well are back: the image none"
        ) && said.ends_with("stays: rows flow"),
        "{said}"
    );

    // It is not tried again, by nobody, until the spec is another.
    world.log();
    world.new_leader();
    world.pass(Duration::from_secs(3_600)).await;
    assert_eq!(world.log(), Vec::<String>::new());
    world.put("Pipeline", image(web(), "better"));
    world.settle().await;
    assert_eq!((image_of(&world), world.status("web").rejected), (json!("better"), None));
}

#[tokio::test]
async fn pods_that_were_taken_back_are_tried_again_when_somebody_asks_or_gives_them_more_time() {
    let mut world = proved().await;
    let none = |retry: &str, within: Option<&str>| {
        let mut pipeline = image(web().annotate(millrace_crds::RETRY, retry), "none");
        if let Some(within) = within {
            pipeline["spec"]["deployment"]["startWithin"] = json!(within);
        }
        pipeline
    };
    world.put("Pipeline", image(web(), "none"));
    for (retry, within) in [("", None), ("one", None), ("two", None), ("two", Some("6m")), ("two", Some("7m"))] {
        if !retry.is_empty() {
            world.put("Pipeline", none(retry, within));
        }
        world.settle().await;
        assert_eq!(image_of(&world), "none", "{retry} {within:?}");
        assert_eq!(world.status("web").rejected, None);
        replaced(&mut world, no_image());
        world.pass(Duration::from_secs(31)).await;
        assert_eq!(image_of(&world), "good", "{retry} {within:?}");
        assert!(world.says("web", "Ready").starts_with("False RolledBack"));
        world.run("web");
        world.pass(Duration::from_secs(600)).await;
        assert_eq!(image_of(&world), "good", "once");
    }
    world.put("Pipeline", none("three", Some("7m")));
    world.settle().await;
    world.run("web");
    world.settle().await;
    assert_eq!((image_of(&world), world.says("web", "Ready")), (json!("none"), "True Running: rows flow".to_owned()));
}

#[tokio::test]
async fn a_warning_from_before_an_edit_takes_nothing_back() {
    let mut world = proved().await;
    world.makes_no_pod("web", "exceeded quota");
    world.pass(Duration::from_secs(10)).await;
    world.put("Pipeline", image(web(), "other"));
    world.settle().await;
    world.rolled("web");
    world.pod("web", None);
    world.pass(Duration::from_secs(400)).await;
    assert_eq!((image_of(&world), world.status("web").rejected), (json!("other"), None));
    world.makes_no_pod("web", "exceeded quota");
    world.pass(Duration::from_secs(20)).await;
    assert_eq!(image_of(&world), "good");
    let said = world.status("web").rejected.unwrap().message;
    assert_eq!(said, "no pod can be made: exceeded quota (waited for 300 s)");
}

#[tokio::test]
async fn pods_that_fail_as_those_before_them_are_taken_back_once() {
    let mut world = proved().await;
    world.put("Pipeline", image(web(), "none"));
    world.settle().await;
    replaced(&mut world, no_image());
    world.pass(Duration::from_secs(40)).await;
    assert_eq!(image_of(&world), "good");
    // The registry is gone, or the node.
    replaced(&mut world, no_image());
    world.settle().await;
    let said = world.says("web", "Ready");
    assert!(said.contains("stays: the image none of pod web-0 cannot be pulled"), "{said}");
    world.log();
    world.pass(Duration::from_secs(3_600)).await;
    assert_eq!((world.log(), image_of(&world)), (Vec::new(), json!("good")));
}

#[tokio::test]
async fn a_first_revision_and_one_that_has_proved_itself_stay() {
    let mut world = World::new();
    world.put("Pipeline", image(web(), "none"));
    world.settle().await;
    replaced(&mut world, no_image());
    world.pass(Duration::from_secs(600)).await;
    assert_eq!(image_of(&world), "none");
    assert!(world.says("web", "Ready").starts_with("False ImagePull"));

    let mut world = proved().await;
    world.put("Pipeline", image(web(), "better"));
    world.settle().await;
    let report = world.run("web");
    world.report("web", &ran(&report.revision.unwrap(), 6));
    world.settle().await;
    replaced(&mut world, no_image());
    world.pass(Duration::from_secs(600)).await;
    assert_eq!((image_of(&world), world.status("web").rejected), (json!("better"), None));
}

#[tokio::test]
async fn a_dataflow_that_came_with_pods_that_fail_is_taken_back_with_them() {
    let mut world = proved().await;
    let good = world.plan("web").revision;
    world.put("Pipeline", image(cheap(), "none"));
    world.settle().await;
    let bad = world.plan("web").revision;
    assert_ne!(good, bad);
    replaced(&mut world, no_image());
    world.settle().await;
    world.log();
    world.pass(Duration::from_secs(31)).await;
    expect![[r#"
        status Pipeline web: Pending, RolledBack, change Restart
        event RolledBack
        apply ConfigMap web-plan
        apply StatefulSet web
        status Pipeline web: Changing, RolledBack, change Restart"#]]
    .assert_eq(&world.log().join("\n"));
    assert_eq!((image_of(&world), world.plan("web").revision), (json!("good"), good.clone()));
    world.run("web");
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(world.plan("web").revision, good);

    // One that came before them stays.
    world.put("Pipeline", image(cheap(), "good"));
    world.settle().await;
    world.report("web", &ran(&bad, 9));
    world.settle().await;
    world.put("Pipeline", image(cheap(), "none"));
    world.settle().await;
    replaced(&mut world, no_image());
    world.pass(Duration::from_secs(31)).await;
    assert_eq!((image_of(&world), world.plan("web").revision), (json!("good"), bad));
}

/// What the runtime says of a plan that has completed so many checkpoints since checkpoint 3, and has failed then.
fn fails(from: &Revision, to: &Revision, checkpoints: u64) -> ReportDocument {
    let edit = EditSaid {
        from: from.clone(),
        to: to.clone(),
        result: EditResult::TakenUp,
        since: Some(Epoch(3)),
        message: None,
        at: START,
    };
    let message = "task dear failed: divided by zero".to_owned();
    let problem = Problem { of: ProblemOf::Runtime, node: None, message, since: START };
    ReportDocument { phase: RunPhase::Failed, edit: Some(edit), problem: Some(problem), ..ran(to, 3 + checkpoints) }
}

#[tokio::test]
async fn a_plan_that_fails_after_its_first_checkpoint_and_before_its_third_is_taken_back() {
    for (checkpoints, is_taken_back) in [(1, true), (2, true), (3, false)] {
        let mut world = proved().await;
        let good = world.plan("web").revision;
        world.put("Pipeline", image(cheap(), "good"));
        world.settle().await;
        let bad = world.plan("web").revision;
        world.report("web", &ran(&bad, 3 + checkpoints));
        world.settle().await;
        world.report("web", &fails(&good, &bad, checkpoints));
        world.settle().await;
        let expected = if is_taken_back { &good } else { &bad };
        assert_eq!(world.plan("web").revision, *expected, "after {checkpoints}");
        let rejected = world.status("web").rejected.map(|rejected| (rejected.revision, rejected.pods));
        assert_eq!(rejected, is_taken_back.then(|| (bad.0.clone(), None)));
        if !is_taken_back {
            continue;
        }
        let said = world.says("web", "ConfigValid");
        assert!(said.starts_with("False RolledBack: revision ") && said.contains("divided by zero"), "{said}");
        assert_eq!(world.status("web").history[0].result, ChangeResult::RolledBack);
        // That the plan before fails too is no reason to try the other one.
        world.report("web", &fails(&bad, &good, 0));
        world.log();
        world.new_leader();
        world.pass(Duration::from_secs(3_600)).await;
        assert_eq!(world.plan("web").revision, good);
        assert!(world.log().iter().all(|write| !write.starts_with("apply")));
    }
}

#[tokio::test]
async fn a_plan_whose_way_back_would_lose_state_stays_and_says_so() {
    let counts = |more: &str| {
        let sql = format!("SELECT bidder{more}, count(*) AS n, window_start FROM bid GROUP BY bidder{more}");
        pipeline("web").transform("counts", &sql).window("minute").with("deployment", json!({"image": "good"}))
    };
    let mut world = World::new();
    world.put("Pipeline", counts("").build());
    world.settle().await;
    let report = world.run("web");
    world.report("web", &ran(&report.revision.unwrap(), 3));
    world.settle().await;
    let good = world.plan("web").revision;
    world.put("Pipeline", counts(", auction").with("allowStateLoss", json!(["counts"])).build());
    world.settle().await;
    let bad = world.plan("web").revision;
    assert_ne!(good, bad);
    world.report("web", &fails(&good, &bad, 1));
    world.settle().await;
    assert_eq!(world.plan("web").revision, bad);
    let said = world.says("web", "Ready");
    assert!(said.contains("divided by zero") && said.contains("it is not taken back: counts: "), "{said}");
    assert!(world.says("web", "Stalled").starts_with("True RuntimeFailed"), "{}", world.says("web", "Stalled"));
}

#[tokio::test]
async fn a_plan_that_leaves_a_column_of_a_delta_table_out_is_taken_back_as_others_are() {
    let mut world = World::new();
    let metadata = json!({"name": "out", "namespace": "default", "uid": "uid-out", "generation": 2});
    world.put("Sink", json!({"metadata": metadata, "spec": {"delta": {"uri": "/data/out"}}}));
    let columns =
        |columns: &str| image(pipeline("web").transform("dear", &format!("SELECT {columns} FROM bid")), "good");
    world.put("Pipeline", columns("auction, price"));
    world.settle().await;
    let good = world.run("web").revision.unwrap();
    world.report("web", &ran(&good, 3));
    world.settle().await;
    world.put("Pipeline", columns("auction"));
    world.settle().await;
    let bad = world.plan("web").revision;
    assert_ne!(good, bad);
    world.report("web", &fails(&good, &bad, 1));
    world.settle().await;
    assert_eq!(world.plan("web").revision, good, "the table has the column: {}", world.says("web", "Ready"));
    assert!(world.says("web", "Ready").starts_with("False RolledBack: revision "));
}

#[tokio::test]
async fn a_plan_that_ends_its_container_again_is_taken_back_though_the_runtime_can_say_nothing() {
    for (started, is_taken_back) in [("2023-12-31T23:59:50Z", false), ("2024-01-01T00:00:09Z", true)] {
        let mut world = proved().await;
        let good = world.plan("web").revision;
        world.put("Pipeline", image(cheap(), "good"));
        world.settle().await;
        let bad = world.plan("web").revision;
        let ended = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "startedAt": started}});
        let status = json!({"phase": "Running", "containerStatuses": [{"name": "millrace", "image": "good", "imageID": "",
            "ready": false, "restartCount": 5, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}]});
        world.pod("web", Some(status));
        world.pass(Duration::from_secs(60)).await;
        assert_eq!(world.plan("web").revision, if is_taken_back { good } else { bad }, "started at {started}");
        let said = world.says("web", "Ready");
        assert_eq!(said.starts_with("False RolledBack: revision "), is_taken_back, "{said}");
        assert!(said.contains("it had more memory than its limit"), "{said}");
    }
}

#[tokio::test]
async fn a_plan_is_not_taken_back_for_one_end_of_its_container_in_a_pod_that_came_after_the_edit_or_was_on_its_way() {
    let at = |second: u64| format!("2024-01-01T00:01:{second:02}Z");
    let (after, before) = (at(0), "2023-12-31T23:59:58Z".to_owned());
    for (made, restarts, is_taken_back) in
        [(&after, 1, false), (&after, 2, true), (&before, 1, false), (&before, 2, true)]
    {
        let mut world = proved().await;
        let good = world.plan("web").revision;
        world.put("Pipeline", image(cheap(), "good"));
        world.settle().await;
        let bad = world.plan("web").revision;
        let ended = json!({"terminated": {"exitCode": 137, "reason": "Error", "startedAt": at(1)}});
        let status = json!({"phase": "Running", "containerStatuses": [{"name": "millrace", "image": "good", "imageID": "",
            "ready": false, "restartCount": restarts, "state": {"running": {"startedAt": at(9)}}, "lastState": ended}]});
        world.pod("web", Some(status));
        let mut pod = world.get("Pod", "web-0").unwrap();
        pod["metadata"]["creationTimestamp"] = json!(made);
        world.put("Pod", pod);
        world.pass(Duration::from_secs(60)).await;
        assert_eq!(world.plan("web").revision, if is_taken_back { good } else { bad }, "{made}: {restarts} restarts");
    }
}

/// A world in which `web` was made anew over a state that it cannot take; the plan that left it; and what the runtime says, which goes
/// on with that.
pub async fn made_anew(result: EditResult) -> (World, PlanDocument, ReportDocument) {
    let left = {
        let mut before = World::new();
        before.put("Pipeline", cheap().build());
        before.settle().await;
        before.plan("web")
    };
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    world.run("web");
    let wanted = world.plan("web").revision;
    assert_ne!(wanted, left.revision);
    let edit = EditSaid {
        from: left.revision.clone(),
        to: wanted,
        result,
        since: None,
        message: Some("dear: what is remembered changes".to_owned()),
        at: START,
    };
    let report = ReportDocument { edit: Some(edit), runs: Some(left.spec.clone()), ..ran(&left.revision, 7) };
    (world, left, report)
}

#[tokio::test]
async fn a_pipeline_that_is_made_anew_over_a_state_that_it_cannot_take_goes_on_with_what_the_runtime_has_found() {
    for result in [EditResult::Refused, EditResult::RolledBack] {
        let (mut world, left, report) = made_anew(result).await;
        world.report("web", &report);
        world.settle().await;
        assert_eq!(world.plan("web").revision, left.revision, "{:#?}", world.log());
        let status = world.status("web");
        assert_eq!(
            (status.phase, status.revision),
            (Some(millrace_crds::Phase::Running), Some(left.revision.0.clone()))
        );
        let said = world.says("web", "Ready");
        assert!(said.contains("dear: what is remembered changes") && said.ends_with("stays: rows flow"), "{said}");
        // What an edit does is said of what runs.
        let mut edited = cheap().build();
        edited["spec"]["transforms"][0]["sql"] = json!("SELECT auction, price FROM bid WHERE price > 6");
        world.put("Pipeline", edited);
        world.settle().await;
        let change = world.status("web").change.unwrap();
        assert_eq!((change.class, change.from.as_ref()), (EditClass::Hot, Some(&left.revision.0)), "{change:?}");
        // And the way back is no edit.
        world.put("Pipeline", cheap().build());
        world.settle().await;
        assert!(world.says("web", "Ready").starts_with("True"), "{}", world.says("web", "Ready"));
        assert_eq!(world.status("web").phase, Some(millrace_crds::Phase::Running));
        world.log();
        world.pass(Duration::from_secs(600)).await;
        assert_eq!(world.log(), Vec::<String>::new());
    }
}

/// `Ready` and `Stalled` of an object that Pipelines name.
fn told_of(world: &World, kind: &str, name: &str) -> (String, bool) {
    let conditions = world.get(kind, name).unwrap()["status"]["conditions"].clone();
    let found = |of: &str| conditions.as_array().unwrap().iter().find(|it| it["type"] == of).cloned();
    let ready = found("Ready").unwrap();
    let text = ["status", "reason", "message"].map(|field| ready[field].as_str().unwrap().to_owned()).join(" ");
    (text, found("Stalled").is_some_and(|stalled| stalled["status"] == "True"))
}

#[tokio::test]
async fn a_sink_whose_edit_was_taken_back_does_not_say_that_it_is_used_as_it_is() {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    let before = world.run("web").revision.unwrap();
    world.report("web", &ran(&before, 7));
    world.settle().await;
    let sink = |generation: i64, uri: &str| {
        let metadata = json!({"name": "out", "namespace": "default", "uid": "uid-out", "generation": generation});
        json!({"metadata": metadata, "spec": {"parquet": {"uri": uri}}})
    };
    world.put("Sink", sink(2, "/nowhere/out"));
    world.settle().await;
    let wanted = world.plan("web").revision;
    assert_ne!(wanted, before);
    assert_eq!(told_of(&world, "Sink", "out"), ("True Valid it can be used".to_owned(), false));
    let edit = EditSaid {
        from: before.clone(),
        to: wanted,
        result: EditResult::RolledBack,
        since: Some(Epoch(7)),
        message: Some("dear->out: /nowhere/out is on a read-only file system".to_owned()),
        at: START,
    };
    world.report("web", &ReportDocument { edit: Some(edit), ..ran(&before, 8) });
    world.settle().await;
    let (said, is_stalled) = told_of(&world, "Sink", "out");
    assert!(said.starts_with("False RolledBack Pipeline web runs with the spec before: revision "), "{said}");
    assert!(said.ends_with("/nowhere/out is on a read-only file system") && is_stalled, "{said}");
    assert!(told_of(&world, "Window", "minute").0.starts_with("True"), "which nobody has edited");
    // The edit is undone.
    world.put("Sink", sink(3, "/data/out"));
    world.settle().await;
    assert_eq!(told_of(&world, "Sink", "out"), ("True Valid it can be used".to_owned(), false));
    world.log();
    world.pass(Duration::from_secs(600)).await;
    assert_eq!(world.log(), Vec::<String>::new());
}
