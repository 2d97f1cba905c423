//! What a runtime has said last is believed only while other reports follow.

use std::time::Duration;

use millrace_crds::Phase;
use millrace_plan::handover::RunPhase;
use serde_json::{Value, json};

use crate::{
    cluster::writer::WriteError,
    testing::{World, ready, running, unready, web},
};

async fn with_web(interval: &str) -> World {
    let mut world = World::new();
    world.put("Pipeline", web().with("checkpoints", json!({"interval": interval})).build());
    world.settle().await;
    world.run("web");
    world.settle().await;
    assert_eq!(world.says("web", "Ready"), "True Running: rows flow");
    world.log();
    world
}

/// The runtime renews its Lease again, and reports only with its next checkpoint.
async fn is_believed_for_its_lease(world: &mut World) {
    world.freeze(false);
    world.silence();
    world.pass(seconds(45)).await;
    assert_eq!(world.says("web", "Ready"), "True Running: rows flow");
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const SINCE: &str = "the runtime has not reported since 2024-01-01T00:01:00Z: whether rows flow is not known; \
                     `kubectl logs web-0` says why";

#[tokio::test]
async fn a_runtime_that_says_nothing_for_three_checkpoints_and_a_margin_is_told_to_be_silent_until_it_speaks() {
    let mut world = with_web("5s").await;
    world.pass(seconds(60)).await;
    world.log();
    world.silence();
    world.pass(seconds(34)).await;
    assert_eq!((world.says("web", "Ready"), world.log()), ("True Running: rows flow".to_owned(), Vec::new()));
    world.pass(seconds(2)).await;
    assert_eq!(world.says("web", "Ready"), format!("False NotReporting: {SINCE}"));
    assert_eq!(world.says("web", "CheckpointHealthy"), format!("False NotReporting: {SINCE}"));
    assert_eq!(world.says("web", "SourcesHealthy"), format!("Unknown NotReporting: {SINCE}"));
    assert_eq!(world.says("web", "Reconciling"), format!("True NotReporting: {SINCE}"));
    assert_eq!(world.status("web").throughput, None, "rates that nobody counts");
    assert_eq!(world.log(), ["status Pipeline web: Unknown, NotReporting, change None", "event CheckpointFailing"]);
    world.pass(seconds(3_600)).await;
    assert_eq!(world.log(), Vec::<String>::new(), "it is told once");

    world.speak();
    world.settle().await;
    assert_eq!(world.says("web", "Ready"), "True Running: rows flow");
    assert!(world.says("web", "CheckpointHealthy").starts_with("True Healthy"));
}

#[tokio::test]
async fn rare_checkpoints_make_reports_rare() {
    let mut world = with_web("1m").await;
    world.silence();
    world.pass(seconds(199)).await;
    assert_eq!(world.says("web", "Ready"), "True Running: rows flow");
    world.pass(seconds(2)).await;
    assert!(world.says("web", "Ready").starts_with("False NotReporting"), "{}", world.says("web", "Ready"));
}

#[tokio::test]
async fn a_runtime_that_renews_its_lease_no_more_is_told_to_be_silent_within_a_minute_whatever_its_interval() {
    for interval in ["1m", "10m", "24h"] {
        let mut world = with_web(interval).await;
        world.silence();
        world.pass(seconds(120)).await;
        assert_eq!(world.says("web", "Ready"), "True Running: rows flow", "it renews its Lease");
        world.freeze(true);
        world.log();
        world.pass(seconds(55)).await;
        let said = world.says("web", "Ready");
        assert!(said.starts_with("False NotReporting: the runtime has not reported since 2024"), "{interval}: {said}");
        assert_eq!(world.log(), ["status Pipeline web: Unknown, NotReporting, change None", "event CheckpointFailing"]);
        world.pass(seconds(150)).await;
        assert_eq!(world.log(), Vec::<String>::new());
        // It renews its Lease again, and reports only with its next checkpoint, which would be longer than a minute here.
        if interval != "1m" {
            is_believed_for_its_lease(&mut world).await;
        }
    }
}

#[tokio::test]
async fn another_leader_believes_a_runtime_again_that_renews_its_lease() {
    let mut world = with_web("10m").await;
    world.freeze(true);
    world.pass(seconds(60)).await;
    assert!(world.says("web", "Ready").starts_with("False NotReporting"));
    world.new_leader();
    world.log();
    world.pass(seconds(120)).await;
    assert_eq!(world.log(), Vec::<String>::new());
    is_believed_for_its_lease(&mut world).await;
}

#[tokio::test]
async fn an_api_server_that_was_away_is_no_silence_of_the_runtimes() {
    let mut world = with_web("10m").await;
    world.silence();
    world.pass(seconds(60)).await;
    // The operator cannot look, and no runtime can renew.
    world.freeze(true);
    world.refuse(Some(("", || WriteError::TimedOut)));
    world.pass(seconds(120)).await;
    world.refuse(None);
    // They hear later that it is back.
    world.pass(seconds(15)).await;
    world.freeze(false);
    world.silence();
    world.pass(seconds(120)).await;
    assert_eq!((world.says("web", "Ready"), world.log()), ("True Running: rows flow".to_owned(), Vec::new()));
}

#[tokio::test]
async fn a_process_that_is_started_and_takes_no_lease_is_told_to_be_silent_within_a_minute() {
    let mut world = with_web("10m").await;
    world.freeze(true);
    world.pod("web", Some(started(unready(), "2024-01-01T00:00:10Z", 1)));
    world.pass(seconds(55)).await;
    let said = world.says("web", "Ready");
    assert!(said.starts_with("False NotReporting: the runtime has not reported since it was started"), "{said}");
}

#[tokio::test]
async fn of_one_that_is_suspended_has_failed_or_has_finished_no_lease_is_looked_at() {
    for phase in [RunPhase::Suspended, RunPhase::Failed, RunPhase::Finished] {
        let mut world = with_web("10m").await;
        world.freeze(true);
        world.looks();
        let mut report = running(&world.plan("web").revision);
        report.phase = phase;
        world.report("web", &report);
        world.pass(seconds(600)).await;
        assert!(!world.says("web", "Ready").contains("NotReporting"), "{}", world.says("web", "Ready"));
        assert_eq!(world.looks(), 0);
    }
}

#[tokio::test]
async fn a_lease_is_looked_at_three_times_a_minute_at_the_most_and_not_where_reports_are_often() {
    for (interval, most) in [("5s", 0), ("24h", 180)] {
        let mut world = with_web(interval).await;
        if interval == "24h" {
            world.silence();
        }
        world.looks();
        world.pass(seconds(3_600)).await;
        let looks = world.looks();
        assert!(looks <= most && (most == 0 || looks > 100), "{interval}: {looks}");
    }
}

#[tokio::test]
async fn another_leader_believes_what_was_silent_no_more_than_the_one_before() {
    let mut world = with_web("5s").await;
    world.silence();
    world.pass(seconds(40)).await;
    assert!(world.says("web", "Ready").starts_with("False NotReporting"), "{}", world.says("web", "Ready"));
    world.log();
    world.new_leader();
    world.pass(seconds(60)).await;
    assert_eq!(world.log(), Vec::<String>::new());
    world.speak();
    world.settle().await;
    assert_eq!(world.says("web", "Ready"), "True Running: rows flow");
}

#[tokio::test]
async fn clocks_of_pods_that_go_wrong_make_no_runtime_silent_and_none_speak() {
    let mut world = with_web("5s").await;
    let mut report = running(&world.plan("web").revision);
    for hour in [5, 1, 9] {
        report.at.0 += hour * 3_600_000;
        world.silence();
        world.report("web", &report);
        world.pass(seconds(30)).await;
        assert_eq!(world.says("web", "Ready"), "True Running: rows flow");
        report.at.0 -= 2 * hour * 3_600_000;
    }
    world.pass(seconds(10)).await;
    assert!(world.says("web", "Ready").starts_with("False NotReporting"), "{}", world.says("web", "Ready"));
}

#[tokio::test]
async fn a_lease_that_is_deleted_is_made_anew_once_the_runtime_is_silent_for_it() {
    let mut world = with_web("5s").await;
    world.pass(seconds(120)).await;
    world.silence();
    world.delete("Lease", "web-coordinator");
    world.pass(seconds(40)).await;
    assert!(world.get("Lease", "web-coordinator").is_some());
}

#[tokio::test]
async fn a_pod_that_is_cut_off_from_its_kubelet_too_is_told_to_be_silent_and_not_to_restore() {
    for interval in ["5s", "10m"] {
        let mut world = with_web(interval).await;
        world.pass(seconds(60)).await;
        world.freeze(true);
        world.pod("web", Some(unready()));
        world.pass(seconds(55)).await;
        for of in ["Ready", "CheckpointHealthy"] {
            let said = world.says("web", of);
            assert!(said.starts_with("False NotReporting: the runtime has not reported since 2024"), "{of}: {said}");
        }
        assert!(world.says("web", "SourcesHealthy").starts_with("Unknown NotReporting"));
        assert_eq!(world.status("web").phase, Some(Phase::Unknown));
    }
}

#[tokio::test]
async fn a_runtime_that_reports_from_a_pod_that_is_not_called_ready_runs() {
    let mut world = with_web("5s").await;
    world.pod("web", Some(unready()));
    world.pass(seconds(300)).await;
    assert_eq!(world.says("web", "Ready"), "False Starting: rows flow, but pod web-0 is not ready yet");
    assert!(world.says("web", "CheckpointHealthy").starts_with("True Healthy"));
    let status = world.status("web");
    assert_eq!((status.phase, status.replicas), (Some(Phase::Running), Some(0)));
    assert!(status.throughput.is_some());
    // A process after it has said nothing yet.
    world.freeze(true);
    world.pod("web", Some(started(unready(), "2024-01-01T01:00:00Z", 1)));
    world.settle().await;
    assert_eq!(world.status("web").phase, Some(Phase::Restoring));
}

#[tokio::test]
async fn a_process_that_restores_is_believed_for_as_long_as_it_renews_its_lease() {
    for phase in [RunPhase::Starting, RunPhase::Restarting] {
        let mut world = with_web("5s").await;
        let mut report = running(&world.plan("web").revision);
        report.phase = phase;
        world.report("web", &report);
        world.pod("web", Some(unready()));
        world.pass(seconds(600)).await;
        assert_eq!(world.status("web").phase, Some(Phase::Restoring));
        world.freeze(true);
        world.pass(seconds(55)).await;
        assert!(world.says("web", "Ready").starts_with("False NotReporting"), "{}", world.says("web", "Ready"));
        assert_eq!(world.status("web").phase, Some(Phase::Unknown));
        world.freeze(false);
        world.pass(seconds(45)).await;
        assert_eq!(world.status("web").phase, Some(Phase::Restoring));
    }
}

fn started(mut status: Value, at: &str, restarts: u32) -> Value {
    status["containerStatuses"][0]["state"]["running"]["startedAt"] = json!(at);
    status["containerStatuses"][0]["restartCount"] = json!(restarts);
    status
}

#[tokio::test]
async fn a_process_that_never_reports_is_told_to_be_silent_and_one_that_restores_for_long_is_not() {
    let mut world = with_web("5s").await;
    world.silence();
    world.pod("web", Some(started(unready(), "2024-01-01T00:00:10Z", 1)));
    world.pass(seconds(34)).await;
    assert!(!world.says("web", "Ready").contains("NotReporting"), "{}", world.says("web", "Ready"));
    world.pass(seconds(3)).await;
    let said = world.says("web", "Ready");
    assert!(said.starts_with("False NotReporting: the runtime has not reported since it was started"), "{said}");

    let mut report = running(&world.plan("web").revision);
    report.phase = RunPhase::Starting;
    report.at = crate::testing::START;
    report.at.0 += 50_000;
    world.report("web", &report);
    world.pass(seconds(600)).await;
    assert!(world.says("web", "Ready").starts_with("False Restoring"), "{}", world.says("web", "Ready"));
    world.pod("web", Some(started(ready(), "2024-01-01T00:00:10Z", 1)));
    world.settle().await;
}

/// An object, made at a time.
fn made(world: &mut World, kind: &str, uid: &str, at: &str) {
    let name = if kind == "Pod" { "web-0" } else { "web" };
    let mut object = world.get(kind, name).unwrap();
    object["metadata"]["uid"] = json!(uid);
    object["metadata"]["creationTimestamp"] = json!(at);
    world.put(kind, object);
}

fn noted(world: &World) -> Value {
    let set = world.get("StatefulSet", "web").unwrap();
    set["spec"]["template"]["metadata"]["annotations"]["millrace.dev/service-account"].clone()
}

#[tokio::test]
async fn a_pod_whose_service_account_was_made_anew_is_replaced_once_also_while_the_spec_cannot_be_run() {
    for is_invalid in [false, true] {
        let mut world = with_web("5s").await;
        made(&mut world, "ServiceAccount", "one", "2024-01-01T00:00:00Z");
        world.settle().await;
        if is_invalid {
            world.put("Pipeline", web().with("deployment", json!({"replicas": 3})).build());
            world.settle().await;
        }
        assert_eq!(noted(&world), Value::Null);
        world.log();
        world.delete("ServiceAccount", "web");
        world.pass(seconds(15)).await;
        assert!(world.log().contains(&"apply ServiceAccount web".to_owned()));
        made(&mut world, "ServiceAccount", "two", "2024-01-01T00:01:00Z");
        world.settle().await;
        assert_eq!(noted(&world), "two");
        let log = world.log();
        assert!(log.contains(&"event PodReplaced".to_owned()), "{log:#?}");
        let said = world.says("web", "Ready");
        assert!(said.contains("its ServiceAccount was made anew after it"), "{said}");
        let set = world.get("StatefulSet", "web").unwrap();
        world.pass(seconds(60)).await;
        world.rolled("web");
        made(&mut world, "Pod", "new", "2024-01-01T00:02:00Z");
        world.pass(seconds(60)).await;
        assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"], set["spec"], "once");
        if !is_invalid {
            assert_eq!(world.says("web", "Ready"), "True Running: rows flow");
        }
    }
}
