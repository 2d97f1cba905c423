#![allow(clippy::unwrap_used)]

use expect_test::expect;
use serde_json::Value;

use super::*;

fn moment() -> Timestamp {
    "2024-01-31T12:00:00Z".parse().unwrap()
}

fn seen(status: Value, report: Option<Value>, pods: Value) -> Observed {
    Observed {
        object: serde_json::from_value(json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "Pipeline",
            "metadata": {"name": "web-errors", "namespace": "streams", "generation": 3},
        }))
        .unwrap(),
        status: serde_json::from_value(status).unwrap(),
        report: report.map(|report| serde_json::from_value(report).unwrap()),
        plan: None,
        pods: serde_json::from_value(pods).unwrap(),
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2024-01-31T11:00:00Z"})
}

fn running() -> Value {
    json!({
        "observedGeneration": 3, "phase": "Running", "revision": "6f1c2ab09d337755", "replicas": 1, "unread": "812 rows",
        "change": {"class": "Hot", "from": "111111111111aa", "to": "6f1c2ab09d337755", "reason": "a new transform"},
        "checkpoint": {"epoch": 418, "completedAt": "2024-01-31T11:59:57Z", "duration": "38ms", "size": "1258291", "failures": 0},
        "throughput": {"in": "51k/s", "out": "1.2k/s"},
        "conditions": [condition("Ready", "True", "Running", "rows flow"), condition("ConfigValid", "True", "Valid", "")],
    })
}

fn node(name: &str, kind: &str, inputs: &[&str]) -> Value {
    json!({"name": name, "kind": kind, "inputs": inputs, "rowsInPerSecond": 51_234.0, "rowsOutPerSecond": 1_200.0})
}

fn report() -> Value {
    let mut requests = node("requests", "source", &[]);
    requests["lagRows"] = json!(812);
    requests["watermark"] = json!(1_706_702_395_000_i64);
    requests["badRows"] = json!(3);
    let mut by_tenant = node("by_tenant", "transform", &["errors"]);
    by_tenant["lateRows"] = json!(2);
    by_tenant["backpressure"] = json!(0.42);
    let mut sink = node("by_tenant->tenant-errors", "sink", &["by_tenant"]);
    sink["committed"] = json!(418);
    json!({
        "version": 1, "pod": "web-errors-0", "phase": "Running", "at": 1_706_702_400_000_u64,
        "nodes": [
            requests, node("errors", "transform", &["requests"]), by_tenant, sink,
            node("by_tenant.late->late-rows", "sink", &["by_tenant.late"]), node("requests.errors->dead-letters", "sink", &["requests.errors"]),
        ],
    })
}

#[test]
fn a_pipeline_that_runs_is_shown_with_its_graph() {
    let text = one(&seen(running(), Some(report()), json!([])), moment());
    expect![[r#"
        web-errors  Running  1 pod ready  revision 6f1c2ab09d33
        checkpoint 418  3 s ago, took 38ms, 1.2 MiB
        last change Hot  111111111111 -> 6f1c2ab09d33  a new transform

        NODE                    IN/S    OUT/S        LAG  WATERMARK
        requests               51.2k     1200   812 rows  2024-01-31T11:59:55Z source, 3 bad rows
        └ errors               51.2k     1200          -  -                    transform
          └ by_tenant          51.2k     1200          -  -                    transform, waits 42 % of the time for those below, 2 late rows
            └ tenant-errors    51.2k     1200          -  -                    sink, committed 418
            └ late-rows        51.2k     1200          -  -                    sink, nothing committed yet, takes .late
        └ dead-letters         51.2k     1200          -  -                    sink, nothing committed yet, takes .errors
    "#]].assert_eq(&text);
}

#[test]
fn problems_come_first_and_each_is_said_once() {
    let mut status = running();
    status["phase"] = json!("Failed");
    status["conditions"] = json!([
        condition("Ready", "False", "PodNotReady", "no pod is ready"),
        condition("Stalled", "True", "SinkFailed", "permission denied: /out"),
        condition("SinksHealthy", "False", "SinkFailed", "permission denied: /out"),
    ]);
    let mut said = report();
    said["problem"] = json!({"of": "Sink", "node": "tenant-errors", "message": "permission denied: /out", "since": 1_706_702_300_000_u64});
    said["checkpointFailures"] = json!(2);
    said["checkpointError"] = json!("a sink did not answer");
    said["nodes"] = json!([]);
    let pods = json!([{
        "metadata": {"name": "web-errors-0"},
        "status": {"containerStatuses": [{
            "name": "millrace", "image": "x", "imageID": "", "ready": false, "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}},
            "lastState": {"terminated": {"exitCode": 1, "message": "first\nerror: the volume is full\n"}},
        }]},
    }]);
    let text = one(&seen(status, Some(said), pods), moment());
    expect![[r#"
        web-errors  Failed  1 pod ready  revision 6f1c2ab09d33
          ! sink `tenant-errors`: permission denied: /out
          ! Ready: no pod is ready (PodNotReady)
          ! 2 checkpoints have failed since the last one: a sink did not answer
          ! pod web-errors-0, container millrace: CrashLoopBackOff: error: the volume is full
        checkpoint 418  3 s ago, took 38ms, 1.2 MiB
        last change Hot  111111111111 -> 6f1c2ab09d33  a new transform
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_pipeline_that_no_operator_has_seen_says_so() {
    let text = one(&seen(json!({}), None, json!([])), moment());
    expect![[r#"
        web-errors  -  0 pods ready  revision -
          ! no operator has looked at it yet: is one running that watches this namespace?
        no checkpoint yet
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_suspended_pipeline_is_no_problem_and_has_no_rates() {
    let mut status = running();
    status["phase"] = json!("Suspended");
    status["replicas"] = json!(0);
    status["change"] = json!({"class": "None"});
    status.as_object_mut().unwrap().remove("throughput");
    status["conditions"] = json!([condition("Ready", "False", "Suspended", "spec.suspend is true")]);
    assert_eq!(problems::of(&seen(status.clone(), None, json!([]))), Vec::<String>::new());
    let mut said = report();
    said["nodes"] = json!([node("requests", "source", &[]), node("requests->kept", "sink", &["requests"])]);
    let text = one(&seen(status, Some(said), json!([])), moment());
    expect![[r#"
        web-errors  Suspended  0 pods ready  revision 6f1c2ab09d33
        checkpoint 418  3 s ago, took 38ms, 1.2 MiB

        NODE         IN/S    OUT/S        LAG  WATERMARK
        requests        -        -          -  -                    source
        └ kept          -        -          -  -                    sink, nothing committed yet
    "#]]
    .assert_eq(&text);
}

#[test]
fn in_the_list_those_with_problems_stand_first() {
    let mut other = seen(json!({"phase": "Pending"}), None, json!([]));
    other.object.metadata.name = Some("zebra".to_owned());
    let text = all(&[seen(running(), None, json!([])), other], true, moment());
    expect![[r#"
        NAMESPACE  NAME        PHASE    CHECKPOINT  COMPLETED  LAG       IN     PROBLEM
        streams    zebra       Pending  -           -          -         -      no operator has looked at it yet: is one running that watches this namespace?
        streams    web-errors  Running  418         3 s ago    812 rows  51k/s
    "#]].assert_eq(&text);
}

#[test]
fn ages_are_told_in_one_unit() {
    let at = |seconds: i64| Timestamp::from_second(moment().as_second() - seconds).unwrap();
    let ages = [-5, 3, 119, 121, 7_200, 172_800].map(|seconds| ago(at(seconds), moment()));
    assert_eq!(ages, ["0 s ago", "3 s ago", "119 s ago", "2 min ago", "2 h ago", "2 days ago"]);
}
