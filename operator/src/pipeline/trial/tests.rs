use serde_json::{Value, json};

use super::*;
use crate::testing::{START, checkpoint, running};

/// A pod of the newest revision that was made at the start.
fn pod(status: Value) -> Value {
    json!({"metadata": {"name": "web-0", "labels": {"controller-revision-hash": "web-2"},
        "creationTimestamp": "2024-01-01T00:00:00Z"}, "status": status})
}

fn container(restarts: u32, state: Value, last: Value) -> Value {
    json!({"phase": "Running", "containerStatuses": [{"name": "millrace", "image": "none", "imageID": "", "ready": false,
        "restartCount": restarts, "state": state, "lastState": last}]})
}

fn waiting(reason: &str) -> Value {
    container(0, json!({"waiting": {"reason": reason, "message": "because"}}), json!({}))
}

fn backs_off(restarts: u32) -> Value {
    let last = json!({"terminated": {"exitCode": 2, "message": "error: no such option"}});
    container(restarts, json!({"waiting": {"reason": "CrashLoopBackOff"}}), last)
}

fn ready_since(at: &str) -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]})
}

fn unschedulable() -> Value {
    json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "no node"}]})
}

/// What becomes of it so many seconds after the edit.
fn fate(pod: Option<&Value>, report: Option<&ReportDocument>, warning: Option<&str>, seconds: u64) -> String {
    let set = json!({"metadata": {"name": "web", "generation": 2},
        "status": {"replicas": 1, "observedGeneration": 2, "updateRevision": "web-2", "currentRevision": "web-1"}});
    let (set, pod): (StatefulSet, Option<Pod>) =
        (serde_json::from_value(set).unwrap(), pod.map(|pod| serde_json::from_value(pod.clone()).unwrap()));
    let facts = Pods {
        set: &set,
        pod: pod.as_ref(),
        report,
        warning,
        since: Some(START),
        start_within: START_WITHIN,
        now: later(START, Duration::from_secs(seconds)),
    };
    match pods(&facts) {
        Fate::Good => "good".to_owned(),
        Fate::Failed(message) => format!("failed: {message}"),
        Fate::Open(due) => format!("open {}", due.map_or(0, |due| due.since(START).as_secs())),
    }
}

#[test]
fn a_pod_fails_by_what_keeps_it_from_running_and_for_how_long_that_may_last() {
    let image = "failed: the image none of pod web-0 cannot be pulled: because";
    let config = "failed: container millrace of pod web-0 cannot be made: because";
    let words = "with exit code 2: error: no such option";
    let table: &[(&str, Value, u64, &str)] = &[
        ("a name that is none", waiting("InvalidImageName"), 1, image),
        ("an image that may come", waiting("ErrImagePull"), 29, "open 30"),
        ("an image that has not come", waiting("ImagePullBackOff"), 30, image),
        ("a Secret that may come", waiting("CreateContainerConfigError"), 29, "open 30"),
        ("a Secret that has not come", waiting("CreateContainerConfigError"), 31, config),
        ("an image that is being pulled", waiting("ContainerCreating"), 299, "open 300"),
        ("nothing came", waiting("ContainerCreating"), 300, "failed: pod web-0 is being started (waited for 300 s)"),
        ("no node yet", unschedulable(), 299, "open 300"),
        ("no node", unschedulable(), 300, "failed: pod web-0 cannot be scheduled: no node (waited for 300 s)"),
        ("it ended twice", backs_off(1), 9_999, "open 0"),
        (
            "it ended three times",
            backs_off(2),
            1,
            &format!("failed: container millrace of pod web-0 ends again and again, the last time {words}"),
        ),
        ("it runs and restores", container(0, json!({"running": {}}), json!({})), 9_999, "open 0"),
        ("it is ready", ready_since("2024-01-01T00:01:00Z"), 659, "open 660"),
        ("it is ready for long", ready_since("2024-01-01T00:01:00Z"), 660, "good"),
    ];
    for (case, status, seconds, expected) in table {
        assert_eq!(fate(Some(&pod(status.clone())), None, None, *seconds), *expected, "{case}");
    }
}

#[test]
fn a_pod_of_another_template_one_that_ends_and_one_that_is_not_there_say_nothing_of_the_template() {
    let mut other = pod(waiting("InvalidImageName"));
    other["metadata"]["labels"]["controller-revision-hash"] = json!("web-1");
    assert_eq!(fate(Some(&other), None, None, 9_999), "open 0");
    let mut ends = pod(waiting("InvalidImageName"));
    ends["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:09Z");
    assert_eq!(fate(Some(&ends), None, None, 9_999), "open 0");
    assert_eq!(fate(None, None, None, 9_999), "open 0");
    let quota = Some("exceeded quota");
    assert_eq!(fate(None, None, quota, 299), "open 300");
    assert_eq!(fate(None, None, quota, 300), "failed: no pod can be made: exceeded quota (waited for 300 s)");
}

#[test]
fn a_pod_has_proved_itself_with_its_third_checkpoint() {
    let mut status = ready_since("2024-01-01T00:00:10Z");
    status["containerStatuses"] = json!([{"name": "millrace", "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {"startedAt": "2024-01-01T00:00:05Z"}}}]);
    let pod = pod(status);
    let report = |at: u64, newest: u64| ReportDocument {
        at: later(START, Duration::from_secs(at)),
        restored_from: Some(millrace_stream::Epoch(10)),
        checkpoint: Some(checkpoint(newest)),
        ..running(&Revision("a".to_owned()))
    };
    for (at, newest, expected) in [(20, 12, "open 610"), (20, 13, "good"), (4, 13, "open 610")] {
        assert_eq!(fate(Some(&pod), Some(&report(at, newest)), None, 30), expected, "{newest} at {at}");
    }
}
