//! From facts to conditions: a table.

use expect_test::expect;
use millrace_plan::handover::{Problem, ProblemOf, RunPhase};
use serde_json::{Value, json};

use crate::testing::{START, World, pipeline, ready, running, unready, web};

/// What a pod and a report make of `web`'s status, in a few lines.
async fn told(pod: Option<Value>, change: impl FnOnce(&mut millrace_plan::handover::ReportDocument)) -> String {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    let mut report = running(&world.plan("web").revision);
    change(&mut report);
    world.report("web", &report);
    world.pod("web", pod);
    world.settle().await;
    summary(&world, "web")
}

fn summary(world: &World, name: &str) -> String {
    let status = world.status(name);
    let mut lines = vec![format!("{:?}", status.phase.unwrap())];
    lines.extend(status.conditions.iter().map(|condition| {
        let message = if condition.type_ == "Ready" { format!(": {}", condition.message) } else { String::new() };
        format!("{} {} {}{message}", condition.type_, condition.status, condition.reason)
    }));
    lines.join("\n")
}

fn problem(of: ProblemOf, node: Option<&str>, message: &str) -> Option<Problem> {
    Some(Problem { of, node: node.map(str::to_owned), message: message.to_owned(), since: START })
}

#[tokio::test]
async fn rows_flow() {
    let said = told(Some(ready()), |_| {}).await;
    expect![[r#"
        Running
        Ready True Running: rows flow
        Reconciling False Settled
        Stalled False NotStalled
        ConfigValid True Valid
        CheckpointHealthy True Healthy
        SourcesHealthy True Healthy
        SinksHealthy True Healthy"#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn a_pipeline_without_a_ready_pod_is_not_ready_whatever_its_report_says() {
    for pod in [None, Some(unready()), Some(json!({"phase": "Pending"}))] {
        let said = told(pod.clone(), |_| {}).await;
        assert!(said.contains("\nReady False "), "{pod:?}: {said}");
    }
}

#[tokio::test]
async fn a_sink_that_refuses_while_the_runtime_tries_again() {
    let said = told(Some(unready()), |report| {
        report.phase = RunPhase::Restarting;
        report.problem = problem(ProblemOf::Sink, Some("dear->out"), "permission denied");
    })
    .await;
    expect![[r#"
        Restoring
        Ready False Restarting: dear->out: permission denied
        Reconciling True Restarting
        Stalled False NotStalled
        ConfigValid True Valid
        CheckpointHealthy True Healthy
        SourcesHealthy True Healthy
        SinksHealthy False SinkFailed"#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn what_cannot_go_on_is_stalled_and_names_the_cause() {
    let table = [
        (ProblemOf::Source, "SourceFailed"),
        (ProblemOf::Sink, "SinkFailed"),
        (ProblemOf::Checkpoint, "CheckpointFailed"),
        (ProblemOf::Plan, "PlanFailed"),
        (ProblemOf::Runtime, "RuntimeFailed"),
    ];
    for (of, reason) in table {
        let said = told(Some(unready()), |report| {
            report.phase = RunPhase::Failed;
            report.problem = problem(of, None, "it is broken");
        })
        .await;
        assert!(said.starts_with(&format!("Failed\nReady False {reason}: it is broken\n")), "{said}");
        assert!(said.contains(&format!("\nStalled True {reason}\n")), "{said}");
    }
}

#[tokio::test]
async fn a_container_that_crashes_is_told_by_its_last_words_and_not_by_an_old_report() {
    let pod = json!({"phase": "Running", "containerStatuses": [{
        "name": "millrace", "image": "i", "imageID": "", "ready": false, "restartCount": 2,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting failed container"}},
        "lastState": {"terminated": {"exitCode": 101, "message": "thread main panicked at x.rs:1: no luck"}},
    }]});
    let said = told(Some(pod), |_| {}).await;
    expect![[r#"
        Failed
        Ready False Crashing: container millrace of pod web-0 ends again and again, the last time with exit code 101: thread main panicked at x.rs:1: no luck
        Reconciling True Crashing
        Stalled False NotStalled
        ConfigValid True Valid
        CheckpointHealthy Unknown NotRunning
        SourcesHealthy Unknown NotRunning
        SinksHealthy Unknown NotRunning"#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn beside_a_container_that_crashes_the_runtime_says_what_it_does() {
    let container = |name: &str, restarts: u32, state: serde_json::Value| {
        let ready = restarts == 0;
        json!({"name": name, "image": "i", "imageID": "", "ready": ready, "restartCount": restarts, "state": state})
    };
    let pod = json!({"phase": "Running", "containerStatuses": [
        container("millrace", 0, json!({"running": {"startedAt": "2024-01-01T00:00:00Z"}})),
        container("sidecar", 2, json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}})),
    ]});
    let said = told(Some(pod), |_| {}).await;
    expect![[r#"
        Running
        Ready False Crashing: container sidecar of pod web-0 ends again and again
        Reconciling True Crashing
        Stalled False NotStalled
        ConfigValid True Valid
        CheckpointHealthy True Healthy
        SourcesHealthy True Healthy
        SinksHealthy True Healthy"#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn a_checkpoint_is_taken_up() {
    let said = told(Some(unready()), |report| {
        report.phase = RunPhase::Starting;
        report.checkpoint = None;
    })
    .await;
    expect![[r#"
        Restoring
        Ready False Restoring: the runtime takes up its last checkpoint
        Reconciling True Restoring
        Stalled False NotStalled
        ConfigValid True Valid
        CheckpointHealthy Unknown NoCheckpointYet
        SourcesHealthy Unknown NotRunning
        SinksHealthy Unknown NotRunning"#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn a_sink_that_is_not_there_yet_is_waited_for() {
    let mut world = World::new();
    let outputs = json!([{"from": "bid", "sink": "uot"}]);
    world.put("Pipeline", pipeline("web").with("outputs", outputs).build());
    world.settle().await;
    expect![[r#"
        Pending
        Ready False UnknownReference: spec.outputs[0].sink: there is no Sink `uot`; expected `out`, the only Sink; did you mean `out`?
        Reconciling True UnknownReference
        Stalled False NotStalled
        ConfigValid False UnknownReference
        CheckpointHealthy Unknown NotRunning
        SourcesHealthy Unknown NotRunning
        SinksHealthy Unknown NotRunning"#]]
    .assert_eq(&summary(&world, "web"));
    let meta = json!({"name": "uot", "namespace": "default", "uid": "u"});
    world.put("Sink", json!({"metadata": meta, "spec": {"stdout": {}}}));
    world.settle().await;
    assert!(world.says("web", "ConfigValid").starts_with("True"));
}

#[tokio::test]
async fn more_than_one_pod_is_refused_for_now() {
    let mut world = World::new();
    world.put("Pipeline", web().with("deployment", json!({"replicas": 3})).build());
    world.settle().await;
    assert!(world.says("web", "Stalled").starts_with("True ReplicasUnsupported: spec.deployment.replicas: 3 pods"));
    assert!(world.get("StatefulSet", "web").is_none());
}

#[tokio::test]
async fn numbers_are_said_while_rows_flow_and_the_last_checkpoint_stays_said() {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    world.run("web");
    world.settle().await;
    let status = world.status("web");
    let throughput = status.throughput.unwrap();
    assert_eq!(
        (throughput.in_.as_deref(), throughput.out.as_deref(), status.unread.as_deref()),
        (Some("51k/s"), Some("1.2k/s"), Some("812 rows"))
    );
    world.pod("web", None);
    world.settle().await;
    let status = world.status("web");
    assert_eq!((status.throughput, status.unread, status.replicas), (None, None, Some(0)));
    assert_eq!(status.checkpoint.unwrap().epoch, 1);
}

#[tokio::test]
async fn what_keeps_a_pod_from_starting_is_told_where_only_an_event_says_so() {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    world.warn("Pod web-0", "MountVolume.SetUp failed for volume \"credentials\": secret \"lake\" not found");
    world.pod("web", Some(json!({"phase": "Pending"})));
    world.settle().await;
    assert_eq!(world.says("web", "Ready"), "False Starting: pod web-0 is being started");
    world.pass(std::time::Duration::from_secs(20)).await;
    let said = world.says("web", "Ready");
    assert!(
        said.ends_with(
            "is being started: MountVolume.SetUp failed for volume \"credentials\": secret \"lake\" not found"
        ),
        "{said}"
    );
    world.log();
    world.pass(std::time::Duration::from_secs(600)).await;
    assert_eq!(world.log(), Vec::<String>::new());
}

#[tokio::test]
async fn what_kept_a_pod_from_being_made_does_not_keep_the_one_that_is_there_from_starting() {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    world.makes_no_pod("web", "exceeded quota");
    world.pass(std::time::Duration::from_secs(20)).await;
    assert_eq!(world.says("web", "Ready"), "False Starting: there is no pod yet: exceeded quota");
    world.pod("web", Some(json!({"phase": "Pending"})));
    world.settle().await;
    assert_eq!(world.says("web", "Ready"), "False Starting: pod web-0 is being started");
}

#[tokio::test]
async fn a_refused_edit_that_is_undone_is_no_edit_any_more() {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    world.run("web");
    world.put("Pipeline", web().with("deployment", json!({"volume": {"size": "20Gi"}})).build());
    world.settle().await;
    assert_eq!(world.status("web").change.unwrap().class, millrace_crds::EditClass::Refused);
    world.put("Pipeline", web().build());
    world.settle().await;
    assert_eq!(world.status("web").change.unwrap().class, millrace_crds::EditClass::None);
}

#[tokio::test]
async fn a_probe_that_is_quicker_than_the_report_makes_nothing_ready() {
    for phase in [RunPhase::Starting, RunPhase::Restarting, RunPhase::Failed, RunPhase::Suspended, RunPhase::Finished] {
        let said = told(Some(ready()), |report| {
            report.phase = phase;
            report.revision = None;
        })
        .await;
        assert!(said.contains("\nReady False "), "{phase:?}: {said}");
    }
}

#[tokio::test]
async fn a_sink_that_nothing_can_be_written_to_says_so_before_a_pipeline_names_it() {
    let mut world = World::new();
    let put = |world: &mut World, spec: Value| {
        let metadata = json!({"name": "lake", "namespace": "default", "uid": "uid-lake", "generation": 1});
        world.put("Sink", json!({"metadata": metadata, "spec": spec}));
    };
    let ready = |world: &World| {
        let sink = world.get("Sink", "lake").unwrap();
        let conditions = sink["status"]["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").unwrap();
        [&ready["status"], &ready["reason"], &ready["message"]].map(|text| text.as_str().unwrap().to_owned())
    };
    for (spec, field, url) in [
        (json!({"delta": {"uri": "s3://lake/t"}}), "delta.uri", "s3://lake/t"),
        (json!({"parquet": {"uri": "gs://lake/t"}}), "parquet.uri", "gs://lake/t"),
        (json!({"file": {"path": "az://lake/t", "format": {"json": {}}}}), "file.path", "az://lake/t"),
    ] {
        put(&mut world, spec);
        world.settle().await;
        let [status, reason, message] = ready(&world);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "InvalidSpec"));
        let store = url.split(':').next().unwrap();
        let expected = "expected a path, or a URL like file:///out/rows";
        assert_eq!(
            message,
            format!("Sink lake: spec.{field}: `{url}`: this version does not write to {store} stores; {expected}")
        );
    }
    put(&mut world, json!({"delta": {"uri": "file:///out/t"}}));
    world.settle().await;
    assert_eq!(ready(&world)[0], "True");
}
