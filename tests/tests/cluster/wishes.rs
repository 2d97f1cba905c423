//! What is asked of a Pipeline once, by a token, and its suspension.

use std::collections::BTreeMap;

use millrace_tests::{Deadline, cluster, cluster::Namespace, manifest};
use serde_json::{Value, json};

use crate::live::{Live, Rows, expect_each_once};

/// A Pipeline that passes numbers on; without `rows` it has no end.
fn manifests(name: &str, rows: Option<i64>, more: &Value) -> String {
    let mut generator = json!({"rate": 2000, "fields": [{"name": "id", "sequence": {}}]});
    if let Some(rows) = rows {
        generator["rows"] = json!(rows);
    }
    let mut spec = json!({
        "sources": [{"name": "ids", "generator": generator}],
        "outputs": [{"from": "ids", "sink": name}],
        "checkpoints": {"interval": "300ms", "minPause": "50ms"},
        "deployment": {"volume": {"size": "1Gi"}},
    });
    spec.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
    let pipeline =
        json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": name}, "spec": spec});
    let sink = manifest::sink(name, &format!("file: {{path: /data/out/{name}, format: {{json: {{}}}}}}"));
    format!("{pipeline}\n{sink}")
}

fn ids(live: &Live<'_>) -> Vec<i64> {
    Rows::of(&live.data().join("out").join(&live.name)).more().numbers("id")
}

/// How often each number is there.
fn times(numbers: &[i64]) -> BTreeMap<i64, usize> {
    let mut times = BTreeMap::new();
    for number in numbers {
        *times.entry(*number).or_default() += 1;
    }
    times
}

/// Waits until a wish has acted, or cannot.
#[track_caller]
fn started(live: &Live<'_>, token: &str) -> Value {
    let object = live.object.wait_for("the start", |object| object["status"]["startedFrom"]["token"] == token);
    object["status"]["startedFrom"].clone()
}

#[test]
fn a_suspension_ends_at_a_savepoint_and_a_savepoint_is_gone_back_to_once() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("wishes");
    let installed = namespace.install(&[]);
    let live = Live::new(&namespace, "web");
    let apply = |more: Value| namespace.apply(&manifests("web", None, &more));
    apply(json!({}));
    live.is_ready();
    live.completes(3);

    // Suspended, there is no pod, and what was read is committed.
    apply(json!({"suspend": true}));
    let object = live.is_in("Suspended");
    let savepoint = object["status"]["savepoint"]["name"].as_str().unwrap().to_owned();
    let epoch: u64 = savepoint.strip_prefix("savepoint-").unwrap().parse().unwrap();
    assert!(
        live.epoch().abs_diff(epoch) <= 1,
        "{savepoint} is where it ends, and {} is the last checkpoint",
        live.epoch()
    );
    // What is being deleted has no more to say.
    let has_no_pod = || !namespace.objects("pods").contains("pod/web-0");
    Deadline::secs(60).wait_for("the pod to go", || has_no_pod().then_some(()));
    let before = ids(&live);
    expect_each_once(&before, |_| true, "every row up to the savepoint");

    // Resumed, it goes on.
    apply(json!({}));
    live.is_ready();
    live.completes(3);
    let after = ids(&live);
    assert!(after.len() > before.len());
    expect_each_once(&after, |_| true, "every row over the suspension");

    // Back to the savepoint: what was committed since comes a second time, and nothing a third.
    let back = json!({"startFrom": {"token": "back", "savepoint": savepoint}});
    apply(back.clone());
    let said = started(&live, "back");
    assert_eq!((said["epoch"].as_u64(), &said["error"]), (Some(epoch), &Value::Null), "{said}");
    live.completes(3);
    // The token is remembered, also by another pod.
    namespace.kubectl(["delete", "pod", "web-0"]).run();
    live.is_ready();
    live.completes(3);
    apply(json!({"startFrom": {"token": "back", "savepoint": savepoint}, "suspend": true}));
    live.is_in("Suspended");
    let all = times(&ids(&live));
    assert!(all.keys().copied().eq(0..all.len() as i64), "no row is lost");
    let twice: Vec<i64> = all.iter().filter(|(_, times)| **times > 1).map(|(id, _)| *id).collect();
    let first = twice.first().copied().unwrap_or(i64::MAX);
    assert!(first <= before.len() as i64, "what came after the savepoint comes again, from {first} on");
    assert!(twice.iter().copied().eq(first..first + twice.len() as i64), "all of it: {twice:?}");
    assert!(all.values().all(|times| *times <= 2), "and once");
    installed.expect_nothing_forbidden();
}

/// Asks for a start of a Pipeline that has finished, and waits until it has finished again.
#[track_caller]
fn again(namespace: &Namespace<'_>, live: &Live<'_>, start: &Value) -> Value {
    namespace.apply(&manifests("bounded", Some(6_000), &json!({ "startFrom": start })));
    let said = started(live, start["token"].as_str().unwrap());
    live.object.wait_for("the end", |object| {
        object["status"]["phase"] == "Finished"
            && object["status"]["observedGeneration"] == object["metadata"]["generation"]
    });
    said
}

#[test]
fn sources_are_moved_and_reset_once_for_a_token() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("moves");
    let installed = namespace.install(&[]);
    let live = Live::new(&namespace, "bounded");
    namespace.apply(&manifests("bounded", Some(6_000), &json!({})));
    live.is_in("Finished");
    assert_eq!(ids(&live), (0..6_000).collect::<Vec<_>>());
    let times_of = |id: i64| times(&ids(&live))[&id];

    // The last thousand rows again.
    let said = again(&namespace, &live, &json!({"token": "move", "moveSources": [{"name": "ids", "row": 5_000}]}));
    assert_eq!(said["error"], Value::Null, "{said}");
    assert_eq!((times_of(4_999), times_of(5_000), ids(&live).len()), (1, 2, 7_000));
    // The same token, and another edit: nothing moves.
    let start = json!({"token": "move", "moveSources": [{"name": "ids", "row": 0}]});
    namespace.apply(&manifests("bounded", Some(6_100), &json!({"startFrom": start})));
    live.object.wait_for("the edit", |object| {
        let status = &object["status"];
        status["history"][0]["result"] == "TakenUp"
            && status["phase"] == "Finished"
            && status["observedGeneration"] == 3
    });
    assert_eq!((times_of(4_999), times_of(6_099), ids(&live).len()), (1, 1, 7_100));
    // All of them again. What is not there is told, and stands in nobody's way.
    let said = again(&namespace, &live, &json!({"token": "reset", "resetSources": ["ids"]}));
    assert_eq!(said["error"], Value::Null, "{said}");
    assert_eq!((times_of(4_999), times_of(5_999)), (2, 3));
    let all = ids(&live).len();
    for (token, start, says) in [
        ("nobody", json!({"moveSources": [{"name": "others", "row": 1}]}), "the pipeline has no source others"),
        (
            "files",
            json!({"moveSources": [{"name": "ids", "files": [{"path": "/x", "offset": 0}]}]}),
            "goes on from a `row`",
        ),
        ("gone", json!({"savepoint": "savepoint-999"}), "there is no savepoint savepoint-999"),
    ] {
        let mut start = start;
        start["token"] = json!(token);
        let said = again(&namespace, &live, &start);
        assert!(said["error"].as_str().unwrap().contains(says), "{said}");
    }
    assert_eq!(ids(&live).len(), all);
    let events = live.events();
    let told = |of: &str| events.iter().filter(|(reason, _)| reason == of).count();
    assert_eq!((told("StartedFrom"), told("StartFailed")), (2, 3), "{events:#?}");
    // What cannot be meant is refused at once.
    for (start, says) in [
        (json!({"token": "t", "moveSources": [{"name": "ids"}]}), "exactly one of row, files must be set"),
        (
            json!({"token": "t", "resetSources": ["ids"], "moveSources": [{"name": "ids", "row": 1}]}),
            "either reset or moved",
        ),
        (json!({"token": "t", "moveSources": [{"name": "ids", "row": -1}]}), "row"),
    ] {
        let bad = manifests("bounded", Some(6_000), &json!({ "startFrom": start }));
        let said = namespace.kubectl(["apply", "--dry-run=server", "-f", "-"]).input(&bad).attempt().unwrap_err();
        assert!(said.contains(says), "{said}");
    }
    installed.expect_nothing_forbidden();
}
