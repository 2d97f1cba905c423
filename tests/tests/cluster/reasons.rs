//! Every state that docs/status.md tells of, on a real cluster: each is reached, says its cause, and is understood by kubectl,
//! kstatus and Argo CD. See `reasons.yaml`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use millrace_crds::API_VERSION;
use millrace_tests::{
    Deadline, cluster,
    cluster::{Cluster, Namespace, Watch, condition, version},
    workspace::repository,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{columns, gitops, plugin};

/// How long all of it may take.
const PATIENCE: u64 = 300;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    case: String,
    #[serde(default = "pipeline")]
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    spec: Value,
    /// What it names, or stumbles over.
    #[serde(default)]
    with: Vec<Value>,
    /// The case that has to be there before.
    after: Option<String>,
    #[serde(default)]
    edits: Vec<Edit>,
    /// Reasons of `Ready` on the way, in this order.
    #[serde(default)]
    past: Vec<String>,
    /// How conditions begin in the end.
    says: BTreeMap<String, String>,
    /// What the message of `Ready` names in the end.
    #[serde(default)]
    names: Vec<String>,
    phase: Option<String>,
    /// What kstatus and Argo CD say in the end.
    tools: (String, String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    when: String,
    spec: Value,
}

fn pipeline() -> String {
    "Pipeline".to_owned()
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string(repository().join("tests/tests/cluster/reasons.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

fn page() -> String {
    fs::read_to_string(repository().join("docs/status.md")).unwrap()
}

/// The rows of a table of docs/status.md.
fn table(section: &str) -> Vec<Vec<String>> {
    let page = page();
    let (_, rest) = page.split_once(&format!("\n## {section}\n")).unwrap();
    let table = rest.split("\n## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What stands between backquotes.
fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// The reasons of the docs, each with the types of the conditions that it is of.
fn documented() -> BTreeSet<(String, String)> {
    let types: Vec<String> = table("Conditions").iter().flat_map(|row| words(&row[0]).collect::<Vec<_>>()).collect();
    let of = |text: &str| {
        let found = text.split(|letter: char| !letter.is_ascii_alphabetic()).map(str::to_owned);
        found.filter(|word| types.contains(word)).collect::<Vec<_>>()
    };
    let rows = table("Reasons");
    rows.iter().flat_map(|row| of(&row[1]).into_iter().map(|of| (row[0].trim_matches('`').to_owned(), of))).collect()
}

/// The reasons of all conditions that have been, with their types.
fn seen(versions: &[Arc<Value>]) -> BTreeSet<(String, String)> {
    let conditions = versions.iter().filter_map(|object| object["status"]["conditions"].as_array()).flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    conditions.map(|condition| (text(&condition["reason"]), text(&condition["type"]))).collect()
}

impl Case {
    fn object(&self, spec: &Value) -> String {
        let metadata = json!({"name": self.case, "annotations": self.annotations});
        json!({"apiVersion": API_VERSION, "kind": self.kind, "metadata": metadata, "spec": spec}).to_string()
    }

    fn manifests(&self) -> String {
        let with = self.with.iter().map(|object| {
            let mut object = object.clone();
            if object["apiVersion"].is_null() {
                object["apiVersion"] = json!(API_VERSION);
            }
            format!("{object}\n---\n")
        });
        with.chain([self.object(&self.spec)]).collect()
    }

    fn versions<'v>(&self, versions: &'v [Arc<Value>]) -> impl DoubleEndedIterator<Item = &'v Arc<Value>> {
        versions.iter().filter(move |object| object["metadata"]["name"] == self.case && object["kind"] == self.kind)
    }

    /// What is missing in the newest version; nothing: the case has got where it was to get.
    fn missing(&self, versions: &[Arc<Value>], edited: usize) -> Option<String> {
        let Some(object) = self.versions(versions).next_back() else { return Some("it is not there".to_owned()) };
        if !is_about(object, edited + 1) || edited < self.edits.len() {
            return Some(format!("{edited} edits are seen: {}", ready(object)));
        }
        for (of, expected) in &self.says {
            let said = condition(object, of).unwrap_or_default();
            if !said.starts_with(expected) {
                return Some(format!("{of} is {said:?}, expected {expected:?}"));
            }
        }
        let said = ready(object);
        if let Some(name) = self.names.iter().find(|name| !said.contains(*name)) {
            return Some(format!("Ready is {said:?}, which does not name {name:?}"));
        }
        if self.phase.is_some() && object["status"]["phase"].as_str() != self.phase.as_deref() {
            return Some(format!("the phase is {}, expected {:?}", object["status"]["phase"], self.phase));
        }
        let mut past = self.past.iter().peekable();
        let mut reasons = Vec::new();
        for version in self.versions(versions) {
            let said = ready(version);
            let reason = said.split([' ', ':']).nth(1).unwrap_or_default().to_owned();
            past.next_if(|expected| **expected == reason);
            if reasons.last() != Some(&reason) {
                reasons.push(reason);
            }
        }
        past.next().map(|next| format!("it was never {next} in its turn; it was {reasons:?}"))
    }
}

fn ready(object: &Value) -> String {
    condition(object, "Ready").unwrap_or_default()
}

/// Whether a status is about this generation, which is the newest.
fn is_about(object: &Value, generation: usize) -> bool {
    object["metadata"]["generation"] == generation && object["status"]["observedGeneration"] == generation
}

/// Lets every case get where it is to get, and tells those that do not.
fn drive(namespace: &Namespace<'_>, cases: &[Case], watches: &[&Watch]) {
    let mut edited: Vec<Option<usize>> = cases.iter().map(|_| None).collect();
    let mut looked = 0;
    let mut open = Vec::new();
    let deadline = Deadline::secs(PATIENCE);
    let done = deadline.poll(|| {
        let count = watches.iter().map(|watch| watch.count()).sum::<usize>() + 1;
        if count == looked {
            return None;
        }
        looked = count;
        let versions: Vec<Arc<Value>> = watches.iter().flat_map(|watch| watch.versions()).collect();
        let is_there = |name: &str| {
            let place = cases.iter().position(|case| case.case == name).unwrap();
            edited[place].is_some_and(|edited| cases[place].missing(&versions, edited).is_none())
        };
        let now: Vec<usize> = (0..cases.len())
            .filter(|n| edited[*n].is_none() && cases[*n].after.as_deref().is_none_or(is_there))
            .collect();
        if !now.is_empty() {
            let all: Vec<String> = now.iter().map(|n| cases[*n].manifests()).collect();
            namespace.apply(&all.join("\n---\n"));
            now.into_iter().for_each(|n| edited[n] = Some(0));
        }
        for (case, edited) in cases.iter().zip(&mut edited) {
            let Some(done) = edited else { continue };
            let Some(edit) = case.edits.get(*done) else { continue };
            let newest = case.versions(&versions).next_back();
            let reason = format!(" {}: ", edit.when);
            if newest.is_some_and(|object| is_about(object, *done + 1) && ready(object).contains(&reason)) {
                namespace.apply(&case.object(&edit.spec));
                *done += 1;
            }
        }
        let missing = |n: usize| match edited[n] {
            Some(edited) => cases[n].missing(&versions, edited),
            None => Some("what it waits for is not there".to_owned()),
        };
        open = (0..cases.len()).filter_map(|n| Some(format!("{}: {}", cases[n].case, missing(n)?))).collect();
        open.is_empty().then_some(())
    });
    assert!(done.is_some(), "after {:?}:\n{}", deadline.waited(), open.join("\n"));
    println!("all states were reached after {:?}", deadline.waited());
}

#[test]
fn every_state_of_the_docs_is_reached_and_says_its_cause() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("reasons");
    let installed = namespace.install(&["replicas=1"]);
    let (pipelines, sinks) = (namespace.watch("pipelines", None), namespace.watch("sinks", None));
    let (windows, pods) = (namespace.watch("windows", None), namespace.watch("pods", None));
    let cases = cases();
    drive(&namespace, &cases, &[&pipelines, &windows, &sinks]);

    the_tools_of_gitops_agree(cluster, &cases, &[&pipelines, &windows, &sinks]);
    columns::are_as_the_docs_say(&namespace);
    plugin::shows_problems_first(&namespace);
    windows_and_sinks_say_who_uses_them(&namespace);
    kubectl_waits_for_conditions(&namespace);
    a_quota_is_named_that_leaves_no_room_for_a_pod(&namespace, &pipelines);
    what_may_be_asked_only_of_one_that_runs_is_told(&namespace);
    a_pod_that_has_lost_its_token_or_its_pointer_is_told_of(&namespace, &pipelines);
    one_that_goes_with_its_checkpoints_says_what_it_waits_for(&namespace, &pipelines);

    let versions: Vec<Arc<Value>> = [&pipelines, &windows, &sinks].iter().flat_map(|watch| watch.versions()).collect();
    let (seen, documented) = (seen(&versions), documented());
    assert!(documented.len() > 50, "{documented:?}");
    let missing: Vec<_> = documented.difference(&seen).collect();
    assert!(missing.is_empty(), "no object had these, of which docs/status.md tells: {missing:?}");
    let untold: Vec<_> = seen.difference(&documented).collect();
    assert!(untold.is_empty(), "docs/status.md does not tell of {untold:?}");
    nothing_is_ready_without_a_ready_pod(&pipelines.versions(), &pods.versions());
    every_event_of_the_docs_is_told(&namespace);
    installed.expect_nothing_forbidden();
    let log = installed.logs();
    assert!(!log.contains("panicked"), "{log}");
}

/// In the end each case is what it is to be; on the way nothing was taken for current that was not ready.
fn the_tools_of_gitops_agree(cluster: &Cluster, cases: &[Case], watches: &[&Watch]) {
    let versions: Vec<Arc<Value>> = watches.iter().flat_map(|watch| watch.versions()).collect();
    let items: Vec<&Value> = versions.iter().map(|object| &**object).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let verdicts = gitops::judged(cluster, &list.to_string());
    assert_eq!(verdicts.len(), versions.len());
    let mut last = BTreeMap::new();
    for (object, verdict) in versions.iter().zip(&verdicts) {
        let is_seen = object["metadata"]["generation"] == object["status"]["observedGeneration"];
        let is_ready = ready(object).starts_with("True");
        let is_deleted = !object["metadata"]["deletionTimestamp"].is_null();
        if verdict.kstatus == "Current" && !is_deleted {
            assert!(is_seen && is_ready, "kstatus takes it for current: {object:#}");
        }
        if !is_seen && !is_deleted {
            assert_eq!(verdict.kstatus, "InProgress", "{object:#}");
        }
        last.insert((object["kind"].to_string(), verdict.name.clone()), verdict);
    }
    for case in cases {
        let verdict = last[&(json!(case.kind).to_string(), case.case.clone())];
        let said = (verdict.kstatus.clone(), verdict.argo.clone().unwrap_or_default());
        assert_eq!(said, case.tools, "{}", case.case);
    }
}

/// Where a status has come to say that rows flow, the pod had come to be ready before. Versions of all kinds are numbers of one row.
fn nothing_is_ready_without_a_ready_pod(pipelines: &[Arc<Value>], pods: &[Arc<Value>]) {
    let is_ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|it| it["type"] == "Ready" && it["status"] == "True")
    };
    let runs = |object: &Value| ready(object).starts_with("True Running");
    let mut before: BTreeMap<String, &Value> = BTreeMap::new();
    let mut checked = 0;
    for pipeline in pipelines {
        let name = pipeline["metadata"]["name"].as_str().unwrap().to_owned();
        if runs(pipeline) {
            assert_eq!(pipeline["status"]["replicas"], 1, "{pipeline:#}");
        }
        let old = before.insert(name.clone(), pipeline);
        if !runs(pipeline) || old.is_some_and(runs) {
            continue;
        }
        let pod = format!("{name}-0");
        let known: Vec<&Value> = pods
            .iter()
            .map(|pod| &**pod)
            .filter(|it| it["metadata"]["name"] == pod.as_str() && version(it) < version(pipeline))
            .collect();
        // The newest may not have been seen yet.
        let seen = known.iter().rev().take(2).any(|pod| is_ready(pod));
        assert!(seen, "{name} became ready, and its pod was {:#}", known.last().copied().unwrap_or(&Value::Null));
        checked += 1;
    }
    assert!(checked >= 8, "{checked}");
}

fn windows_and_sinks_say_who_uses_them(namespace: &Namespace<'_>) {
    assert_eq!(namespace.get("window", "minute")["status"]["usedBy"], json!(["edits", "running"]));
    let kept = namespace.get("sink", "kept");
    assert_eq!(kept["status"]["usedBy"], json!(["restarting"]));
    assert_eq!(ready(&kept), "True Valid: it can be used");
    // What is over is still told.
    let message = kept["status"]["lastError"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("fault point sink-prepared fired"), "{kept:#}");
    Deadline::secs(60).wait_for("the Sink to tell of a commit", || {
        let committed = namespace.get("sink", "kept")["status"]["committed"].clone();
        (committed["pipeline"] == "restarting" && committed["epoch"].as_u64() > Some(0) && committed["at"].is_string())
            .then_some(())
    });
    let nowhere = namespace.get("sink", "nowhere");
    assert!(ready(&nowhere).starts_with("False SinkFailed: Pipeline bad-sink: "), "{nowhere:#}");
    assert_eq!(nowhere["status"]["lastError"]["pipeline"], "bad-sink");
    assert_eq!(nowhere["status"]["committed"], Value::Null);
}

fn kubectl_waits_for_conditions(namespace: &Namespace<'_>) {
    let wait = |condition: &str, pipeline: &str, seconds: u32| {
        let (condition, limit) = (format!("--for=condition={condition}"), format!("--timeout={seconds}s"));
        namespace.kubectl(["wait", &condition, &format!("pipeline/{pipeline}"), &limit]).attempt()
    };
    for (condition, pipeline) in [
        ("Ready", "running"),
        ("Ready", "finished"),
        ("Ready=False", "suspended"),
        ("Stalled", "unknown-column"),
        ("Reconciling", "unschedulable"),
        ("ConfigValid=False", "edits"),
        ("CheckpointHealthy=False", "slow-checkpoints"),
    ] {
        assert_eq!(
            wait(condition, pipeline, 20).map_err(|why| format!("{condition} of {pipeline}: {why}")).err(),
            None
        );
    }
    assert!(wait("Ready", "bad-sink", 1).unwrap_err().contains("timed out"));
}

/// Of a quota only the StatefulSet's events tell.
fn a_quota_is_named_that_leaves_no_room_for_a_pod(namespace: &Namespace<'_>, pipelines: &Watch) {
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}, "spec": {"hard": {"pods": "0"}}});
    namespace.apply(&quota.to_string());
    // It holds once somebody has counted.
    Deadline::secs(60).wait_for("the quota to hold", || {
        namespace.get("resourcequota", "full")["status"]["used"]["pods"].is_string().then_some(())
    });
    let spec = cases().into_iter().find(|case| case.case == "no-checkpoint").unwrap().spec;
    let object = json!({"apiVersion": API_VERSION, "kind": "Pipeline", "metadata": {"name": "no-room"}, "spec": spec});
    namespace.apply(&object.to_string());
    Deadline::secs(60).wait_for("the quota's name in the status", || {
        let object = pipelines.newest("no-room")?;
        let said = ready(&object);
        let is_told =
            said.starts_with("False Starting: there is no pod yet: ") && said.contains("exceeded quota: full");
        is_told.then_some(())
    });
    namespace.kubectl(["delete", "resourcequota/full", "pipeline/no-room"]).run();
}

/// A savepoint of one that runs, and a start from one that there is not.
fn what_may_be_asked_only_of_one_that_runs_is_told(namespace: &Namespace<'_>) {
    let patch = |name: &str, patch: Value| {
        namespace.kubectl(["patch", "pipeline", name, "--type=merge", "--patch", &patch.to_string()]).run();
    };
    patch("running", json!({"spec": {"savepoint": {"token": "one"}}}));
    patch("rolled-back", json!({"spec": {"startFrom": {"token": "two", "savepoint": "savepoint-999"}}}));
    patch("restarting", json!({"spec": {"startFrom": {"token": "three", "resetSources": ["ids"]}}}));
    namespace.wait_for("pipeline/running", ".status.savepoint.token", "one");
    let savepoint = namespace.get("pipeline", "running")["status"]["savepoint"].clone();
    assert!(savepoint["name"].as_str().unwrap_or_default().starts_with("savepoint-"), "{savepoint}");
    namespace.wait_for("pipeline/restarting", ".status.startedFrom.token", "three");
    let started = namespace.get("pipeline", "restarting")["status"]["startedFrom"].clone();
    assert!(started["error"].is_null(), "{started}");
    namespace.wait_for("pipeline/rolled-back", ".status.startedFrom.token", "two");
    let started = namespace.get("pipeline", "rolled-back")["status"]["startedFrom"].clone();
    assert!(started["error"].as_str().unwrap_or_default().contains("there is no savepoint savepoint-999"), "{started}");
}

/// One has an account that nobody makes anew, one the operator's, and one a pointer that goes. None of them crashes for it.
fn a_pod_that_has_lost_its_token_or_its_pointer_is_told_of(namespace: &Namespace<'_>, pipelines: &Watch) {
    let numbers = json!([{"name": "ids", "generator": {"rate": 100, "fields": [{"name": "id", "sequence": {}}]}}]);
    let made = |name: &str, deployment: Value, interval: &str| {
        let spec = json!({
            "checkpoints": {"interval": interval}, "sources": numbers, "outputs": [{"from": "ids", "sink": "rows"}],
            "deployment": deployment,
        });
        json!({"apiVersion": API_VERSION, "kind": "Pipeline", "metadata": {"name": name}, "spec": spec}).to_string()
    };
    let lost = |name: &str, deployment: Value| made(name, deployment, "500ms");
    let mine = json!({"template": {"spec": {"serviceAccountName": "mine"}}});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "mine"}}).to_string();
    let objects =
        [account, lost("no-account", mine.clone()), lost("new-account", json!({})), lost("no-pointer", json!({}))];
    namespace.apply(&objects.join("\n---\n"));
    let says = |name: &str, of: &str, expected: &str| {
        let newest = pipelines.newest(name)?;
        condition(&newest, of).filter(|said| said.starts_with(expected))
    };
    let wait = |name: &str, of: &str, expected: &str| {
        let what = format!("{name} to say {of} {expected}");
        Deadline::secs(120).wait_for(&what, || says(name, of, expected))
    };
    for name in ["no-account", "new-account", "no-pointer"] {
        wait(name, "CheckpointHealthy", "True Healthy");
        wait(name, "Ready", "True Running");
    }
    // Its checkpoints come so rarely that of reports that stay away nothing would be known for half an hour.
    let revision = pipelines.newest("no-account").unwrap()["status"]["revision"].clone();
    namespace.apply(&made("no-account", mine, "10m"));
    Deadline::secs(60).wait_for("the rare checkpoints", || {
        let now = pipelines.newest("no-account")?;
        (now["status"]["revision"] != revision && ready(&now).starts_with("True Running")).then_some(())
    });
    let pod = namespace.get("pod", "new-account-0")["metadata"]["uid"].clone();
    namespace.kubectl(["delete", "serviceaccount/mine", "serviceaccount/new-account"]).run();
    namespace.kubectl(["delete", "configmap/no-pointer-checkpoint"]).run();
    let said =
        wait("no-pointer", "CheckpointHealthy", "False CheckpointFailed: the next checkpoint cannot be completed");
    assert!(said.contains("it is gone"), "{said}");
    wait("no-account", "Ready", "False NotReporting: the runtime has not reported since");
    wait("no-account", "CheckpointHealthy", "False NotReporting: ");
    assert_eq!(pipelines.newest("no-account").unwrap()["status"]["phase"], "Unknown");
    // It may take no checkpoint any more, and its successor waits until its Lease has run out.
    Deadline::secs(180).wait_for("the pod to be replaced", || {
        let now = namespace.kubectl(["get", "pod", "new-account-0", "-o", "json"]).attempt().ok()?;
        let now: Value = serde_json::from_str(&now).ok()?;
        let is_ready =
            now["status"]["conditions"].as_array()?.iter().any(|it| it["type"] == "Ready" && it["status"] == "True");
        (now["metadata"]["uid"] != pod && is_ready).then_some(())
    });
    namespace.wait_until("pipeline/new-account", "Ready");
    namespace.kubectl(["delete", "pipeline/no-account", "pipeline/new-account", "pipeline/no-pointer"]).run();
}

fn one_that_goes_with_its_checkpoints_says_what_it_waits_for(namespace: &Namespace<'_>, pipelines: &Watch) {
    let object = json!({"apiVersion": API_VERSION, "kind": "Pipeline", "metadata": {"name": "goes"}, "spec": {
        "sources": [{"name": "ids", "generator": {"rows": 10, "fields": [{"name": "id", "sequence": {}}]}}],
        "outputs": [{"from": "ids", "sink": "rows"}], "suspend": true,
        "checkpoints": {"onDelete": "Delete", "storage": "s3://lake/all", "credentials": {"secretRef": {"name": "nowhere"}}},
    }});
    namespace.apply(&object.to_string());
    namespace.wait_for("pipeline/goes", ".metadata.finalizers[0]", "millrace.dev/checkpoints");
    namespace.wait_for("pipeline/goes", ".status.phase", "Suspended");
    namespace.kubectl(["delete", "pipeline", "goes", "--wait=false"]).run();
    let says = |of: &str| condition(&*pipelines.newest("goes")?, of);
    let what = "the Secret that is not there";
    let said = Deadline::secs(60).wait_for(what, || {
        says("Ready")
            .filter(|said| said.starts_with("False Deleting: ") && said.ends_with("secret \"nowhere\" not found"))
    });
    println!("{said}");
    assert!(says("Reconciling").is_some_and(|said| said.starts_with("True Deleting: ")));
    assert_eq!(pipelines.newest("goes").unwrap()["status"]["phase"], "Deleting");
    let job = namespace.kubectl(["get", "jobs", "-l", "millrace.dev/pipeline=goes", "-o", "name"]).run();
    namespace.kubectl(["patch", job.trim(), "--type=merge", "-p", "{\"spec\": {\"activeDeadlineSeconds\": 1}}"]).run();
    namespace.kubectl(["wait", "--for=delete", "pipeline/goes", "--timeout=60s"]).run();
}

/// All but a savepoint that fails, which the operator's own tests see, and checkpoints that are deleted, for which there has to be
/// a bucket (`buckets.rs`).
fn every_event_of_the_docs_is_told(namespace: &Namespace<'_>) {
    let documented: BTreeSet<String> =
        table("Events").iter().flat_map(|row| words(&row[0]).collect::<Vec<_>>()).collect();
    assert!(documented.len() > 10, "{documented:?}");
    // What an operator beside this one leaves: an object that it has applied, and that is not what this one wants.
    namespace.kubectl(["annotate", "service/rolled-back", "millrace.dev/applied=by-another", "--overwrite"]).run();
    let field = "--field-selector=reason=Contested";
    Deadline::secs(60).wait_for("the event that tells of another operator", || {
        let told = namespace.kubectl(["get", "events.events.k8s.io", field, "-o", "name"]).run();
        (!told.is_empty()).then_some(())
    });
    let listed = namespace.kubectl(["get", "events.events.k8s.io", "-o", "json"]).run();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let events: Vec<&Value> = listed["items"].as_array().unwrap().iter().collect();
    let ours = events.iter().filter(|event| event["reportingController"] == "millrace-operator");
    let told: BTreeSet<String> = ours.map(|event| event["reason"].as_str().unwrap().to_owned()).collect();
    let missing: Vec<_> = documented
        .difference(&told)
        .filter(|name| !["SavepointFailed", "CheckpointsDeleted"].contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?} of {told:?}");
    let untold: Vec<_> = told.difference(&documented).collect();
    assert!(untold.is_empty(), "docs/status.md does not tell of the events {untold:?}");
    // kubectl shows them with the object.
    let described = namespace.kubectl(["describe", "pipeline", "rolled-back"]).run();
    assert!(described.contains("RolledBack") && described.contains("Divide by zero"), "{described}");
}
