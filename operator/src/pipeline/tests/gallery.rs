//! A gallery of Pipelines, Windows and Sinks in every state that a status can tell of. From it follow that every reason of the
//! docs is reached, that the docs know all of them, and the statuses that kstatus and Argo CD are tried with.

use std::{collections::BTreeSet, fmt::Write};

use expect_test::expect_file;
use millrace_plan::handover::{
    EditResult, EditSaid, Problem, ProblemOf, ReportDocument, RunPhase, SavepointSaid, StartSaid,
};
use millrace_stream::Epoch;
use serde_json::{Value, json};

use crate::{
    cluster::writer::WriteError,
    conditions::Type,
    testing::{START, World, pipeline, ready, running, unready, web},
};

/// What kstatus and Argo CD have to make of an object.
#[derive(Clone, Copy)]
struct Expect(&'static str, &'static str);

const CURRENT: Expect = Expect("Current", "Healthy");
const ON_ITS_WAY: Expect = Expect("InProgress", "Progressing");
const FAILED: Expect = Expect("Failed", "Degraded");

/// Reasons with the types of the conditions that had them, phases and events that were, and the objects as a page of manifests.
#[derive(Default)]
struct Gallery {
    seen: BTreeSet<(String, String)>,
    phases: BTreeSet<String>,
    events: BTreeSet<String>,
    page: String,
}

impl Gallery {
    /// Hangs an object up as it is now.
    fn hang(&mut self, name: &str, expect: Expect, world: &World, (kind, of): (&str, &str)) {
        let object = world.get(kind, of).unwrap();
        let status = &object["status"];
        self.phases.extend(status["phase"].as_str().map(str::to_owned));
        self.hear(world);
        for condition in status["conditions"].as_array().into_iter().flatten() {
            let text = |field: &str| condition[field].as_str().unwrap().to_owned();
            self.seen.insert((text("reason"), text("type")));
        }
        let mut metadata = json!({"name": name, "generation": object["metadata"]["generation"]});
        for field in ["deletionTimestamp", "finalizers"] {
            if !object["metadata"][field].is_null() {
                metadata[field] = object["metadata"][field].clone();
            }
        }
        self.hang_status(kind, expect, metadata, status);
    }

    /// Takes in what was told.
    fn hear(&mut self, world: &World) {
        self.events.extend(world.log().iter().filter_map(|write| write.strip_prefix("event ").map(str::to_owned)));
    }

    fn hang_status(&mut self, kind: &str, Expect(kstatus, argo): Expect, mut metadata: Value, status: &Value) {
        metadata["namespace"] = json!("n");
        metadata["annotations"] = json!({"expect/kstatus": kstatus, "expect/argo": argo});
        let page = &mut self.page;
        let _ = writeln!(page, "---\napiVersion: millrace.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nstatus:");
        let _ = writeln!(page, "  observedGeneration: {}", status["observedGeneration"]);
        if let Some(phase) = status["phase"].as_str() {
            let _ = writeln!(page, "  phase: {phase}");
        }
        if let Some(conditions) = status["conditions"].as_array() {
            let _ = writeln!(page, "  conditions:");
            for condition in conditions {
                let _ = writeln!(page, "    - {condition}");
            }
        }
    }

    /// Hangs up the Pipeline `web`.
    fn web(&mut self, name: &str, expect: Expect, world: &World) {
        self.hang(name, expect, world, ("Pipeline", "web"));
    }
}

/// `web` with this pod, whose runtime says this.
async fn told(pod: Value, change: impl FnOnce(&mut ReportDocument)) -> World {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    let mut report = running(&world.plan("web").revision);
    change(&mut report);
    world.report("web", &report);
    world.rolled("web");
    world.pod("web", Some(pod));
    world.settle().await;
    world
}

/// `web`, which runs.
async fn well() -> World {
    told(ready(), |_| {}).await
}

fn problem(of: ProblemOf, message: &str) -> Option<Problem> {
    let node = (of == ProblemOf::Sink).then(|| "dear->out".to_owned());
    Some(Problem { of, node, message: message.to_owned(), since: START })
}

/// A pod whose container is in this state.
fn container(state: Value, last: Value) -> Value {
    json!({"phase": "Running", "containerStatuses": [{"name": "millrace", "image": "millrace:test", "imageID": "",
        "ready": false, "restartCount": 2, "state": state, "lastState": last}]})
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"waiting": {"reason": reason, "message": message}})
}

async fn gallery() -> Gallery {
    let mut gallery = Gallery::default();
    starts(&mut gallery).await;
    pods(&mut gallery).await;
    failures(&mut gallery).await;
    savepoints(&mut gallery).await;
    specs(&mut gallery).await;
    edits(&mut gallery).await;
    ends(&mut gallery).await;
    named(&mut gallery).await;
    gallery
}

async fn starts(gallery: &mut Gallery) {
    // What the API server fills in.
    let unseen = json!({"observedGeneration": -1});
    gallery.hang_status("Pipeline", ON_ITS_WAY, json!({"name": "unseen", "generation": 1}), &unseen);
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    gallery.web("starting", ON_ITS_WAY, &world);
    let world = told(unready(), |report| (report.phase, report.checkpoint) = (RunPhase::Starting, None)).await;
    gallery.web("restoring", ON_ITS_WAY, &world);
    let world = well().await;
    gallery.web("running", CURRENT, &world);
    let status = &world.get("Pipeline", "web").unwrap()["status"];
    gallery.hang_status("Pipeline", ON_ITS_WAY, json!({"name": "edit-unseen", "generation": 2}), status);
    let deleted = json!({"name": "deleted", "generation": 1, "deletionTimestamp": "2024-01-31T12:00:00Z",
        "finalizers": ["foregroundDeletion"]});
    gallery.hang_status("Pipeline", Expect("Terminating", "Progressing"), deleted, status);
}

async fn pods(gallery: &mut Gallery) {
    let nowhere = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient cpu."}]});
    let crash = json!({"terminated": {"exitCode": 1, "message": "error: /data is not writable"}});
    let backs_off = waiting("CrashLoopBackOff", "back-off 20s restarting failed container");
    for (name, expect, pod) in [
        ("unschedulable", ON_ITS_WAY, nowhere),
        ("image-pull", ON_ITS_WAY, container(waiting("ErrImagePull", "not found"), json!({}))),
        ("image-name", FAILED, container(waiting("InvalidImageName", "couldn't parse it"), json!({}))),
        (
            "no-secret",
            ON_ITS_WAY,
            container(waiting("CreateContainerConfigError", "secret \"lake\" not found"), json!({})),
        ),
        ("crashing", ON_ITS_WAY, container(backs_off, crash)),
        (
            "out-of-memory",
            ON_ITS_WAY,
            container(json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}), json!({})),
        ),
    ] {
        gallery.web(name, expect, &told(pod, |_| {}).await);
    }
}

async fn failures(gallery: &mut Gallery) {
    let world = told(unready(), |report| {
        report.phase = RunPhase::Restarting;
        report.problem = problem(ProblemOf::Sink, "permission denied");
    })
    .await;
    gallery.web("restarting", Expect("InProgress", "Degraded"), &world);
    for (name, of) in [
        ("source-failed", ProblemOf::Source),
        ("sink-failed", ProblemOf::Sink),
        ("checkpoint-failed", ProblemOf::Checkpoint),
        ("plan-failed", ProblemOf::Plan),
        ("runtime-failed", ProblemOf::Runtime),
    ] {
        let world = told(unready(), |report| {
            (report.phase, report.problem) = (RunPhase::Failed, problem(of, "it is broken"));
        })
        .await;
        gallery.web(name, FAILED, &world);
    }
    let world = told(ready(), |report| {
        (report.checkpoint_failures, report.checkpoint_error) = (3, Some("it took too long".to_owned()));
    })
    .await;
    gallery.web("checkpoints-fail", Expect("Current", "Degraded"), &world);
    let world = told(ready(), |report| report.checkpoint_error = Some("it is gone".to_owned())).await;
    gallery.web("pointer-gone", Expect("Current", "Degraded"), &world);
    let mut world = well().await;
    world.silence();
    world.pass(std::time::Duration::from_secs(60)).await;
    gallery.web("not-reporting", Expect("InProgress", "Degraded"), &world);
    let mut world = well().await;
    for (kind, name, at) in
        [("Pod", "web-0", "2024-01-01T00:00:00Z"), ("ServiceAccount", "web", "2024-01-01T00:00:01Z")]
    {
        let mut object = world.get(kind, name).unwrap();
        object["metadata"]["creationTimestamp"] = json!(at);
        object["metadata"]["uid"] = json!(name);
        world.put(kind, object);
    }
    world.settle().await;
    gallery.web("replaced", ON_ITS_WAY, &world);
    let mut world = well().await;
    let mut set = world.get("StatefulSet", "web").unwrap();
    set["metadata"]["annotations"]["millrace.dev/applied"] = json!("0000");
    world.put("StatefulSet", set);
    world.pass(std::time::Duration::from_secs(11)).await;
    gallery.hear(&world);
    let world = told(ready(), |report| report.problem = problem(ProblemOf::Sink, "disk full")).await;
    gallery.web("commits-fail", Expect("Current", "Degraded"), &world);
    gallery.hang("sink-of-commits-fail", Expect("InProgress", "Degraded"), &world, ("Sink", "out"));
}

async fn savepoints(gallery: &mut Gallery) {
    for (name, error) in [(Some("savepoint-7"), None), (None, Some("the pipeline has ended before it"))] {
        let said = SavepointSaid {
            token: "t".to_owned(),
            name: name.map(str::to_owned),
            error: error.map(str::to_owned),
            at: START,
        };
        let world = told(ready(), |report| report.savepoint = Some(said)).await;
        gallery.web(name.unwrap_or("no-savepoint"), CURRENT, &world);
    }
    for (name, epoch, error) in
        [("started-from", Some(Epoch(3)), None), ("no-start", None, Some("there is no savepoint savepoint-9"))]
    {
        let said = StartSaid { token: "t".to_owned(), epoch, error: error.map(str::to_owned) };
        let world = told(ready(), |report| report.started = Some(said)).await;
        gallery.web(name, CURRENT, &world);
    }
}

async fn specs(gallery: &mut Gallery) {
    let nowhere = json!([{"from": "bid", "sink": "nowhere"}]);
    for (name, expect, spec) in [
        ("invalid", FAILED, pipeline("web").transform("t", "SELECT auctoin FROM bid")),
        ("unknown-reference", ON_ITS_WAY, pipeline("web").with("outputs", nowhere)),
        ("replicas", FAILED, web().with("deployment", json!({"replicas": 3}))),
        ("dry-run", Expect("InProgress", "Suspended"), web().annotate("millrace.dev/dry-run", "true")),
    ] {
        let mut world = World::new();
        world.put("Pipeline", spec.build());
        world.settle().await;
        gallery.web(name, expect, &world);
    }
    let mut world = well().await;
    let edited = web().with("deployment", json!({"image": "other:2"})).annotate("millrace.dev/dry-run", "true");
    world.put("Pipeline", edited.build());
    world.settle().await;
    gallery.web("dry-run-of-an-edit", Expect("InProgress", "Suspended"), &world);
    let mut world = World::new();
    world.refuse(Some(("apply StatefulSet", || WriteError::Forbidden("exceeded quota: pods=0".to_owned()))));
    world.put("Pipeline", web().build());
    world.settle().await;
    gallery.web("apply-failed", ON_ITS_WAY, &world);
}

async fn edits(gallery: &mut Gallery) {
    let mut world = well().await;
    let good = world.plan("web").revision;
    world.put("Pipeline", pipeline("web").transform("dear", "SELECT auction, price FROM bid WHERE price > 5").build());
    world.settle().await;
    gallery.web("changing", ON_ITS_WAY, &world);
    let mut report = running(&good);
    report.edit = Some(EditSaid {
        from: good,
        to: world.plan("web").revision,
        result: EditResult::RolledBack,
        since: None,
        message: Some("permission denied".to_owned()),
        at: START,
    });
    world.report("web", &report);
    world.settle().await;
    gallery.web("rolled-back", FAILED, &world);
    let mut world = well().await;
    world.put("Pipeline", web().with("deployment", json!({"volume": {"size": "20Gi"}})).build());
    world.settle().await;
    gallery.web("edit-refused", FAILED, &world);
}

async fn ends(gallery: &mut Gallery) {
    let mut world = well().await;
    world.put("Pipeline", web().with("suspend", json!(true)).build());
    world.settle().await;
    gallery.web("suspending", ON_ITS_WAY, &world);
    let mut report = running(&world.plan("web").revision);
    report.phase = RunPhase::Suspended;
    world.report("web", &report);
    world.settle().await;
    world.pod("web", None);
    world.settle().await;
    gallery.web("suspended", Expect("InProgress", "Suspended"), &world);
    let mut world = told(ready(), |report| report.phase = RunPhase::Finished).await;
    world.pod("web", None);
    world.settle().await;
    gallery.web("finished", CURRENT, &world);
    for (is_complete, name) in [(true, "deleting"), (false, "deleting-in-vain")] {
        let mut world = super::deletion::deleted().await;
        world.pass(std::time::Duration::from_secs(5)).await;
        gallery.web(name, Expect("Terminating", "Progressing"), &world);
        super::deletion::job_says(&mut world, if is_complete { "Complete" } else { "Failed" }, "");
        world.pass(std::time::Duration::from_secs(30)).await;
        gallery.hear(&world);
    }
}

async fn named(gallery: &mut Gallery) {
    let mut world = World::new();
    let metadata = |name: &str| json!({"name": name, "namespace": "default", "uid": name, "generation": 1});
    world.put("Sink", json!({"metadata": metadata("two"), "spec": {"stdout": {}, "parquet": {"uri": "/out"}}}));
    world.put("Window", json!({"metadata": metadata("odd"), "spec": {"tumbling": {"size": "1 minute"}}}));
    world.settle().await;
    gallery.hang("window", CURRENT, &world, ("Window", "minute"));
    gallery.hang("bad-window", FAILED, &world, ("Window", "odd"));
    gallery.hang("sink", CURRENT, &world, ("Sink", "out"));
    gallery.hang("bad-sink", FAILED, &world, ("Sink", "two"));
}

/// The first two cells of each row of a table of the docs.
fn table(section: &str) -> Vec<(&'static str, &'static str)> {
    let page = include_str!("../../../../docs/status.md");
    let (_, rest) = page.split_once(&format!("\n## {section}\n")).unwrap();
    let rows = rest.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    cells.map(|cells| (cells[1], cells[2])).collect()
}

/// What stands between backquotes in the first cells of a table of the docs.
fn names(section: &str) -> BTreeSet<String> {
    table(section).iter().flat_map(|(name, _)| name.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// The reasons of the docs, each with the types of the conditions that it is of.
fn documented() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (reason, of) in table("Reasons") {
        let words = of.split(|letter: char| !letter.is_ascii_alphabetic());
        let types = words.filter(|word| Type::ALL.iter().any(|known| known.name() == *word));
        found.extend(types.map(|of| (reason.trim_matches('`').to_owned(), of.to_owned())));
    }
    found
}

#[tokio::test]
async fn the_docs_tell_every_reason_that_a_condition_can_have_and_none_that_it_cannot() {
    let (seen, documented) = (gallery().await.seen, documented());
    assert!(documented.len() > 50, "{documented:?}");
    let missing: Vec<_> = documented.difference(&seen).collect();
    assert!(missing.is_empty(), "no state of the gallery has {missing:?}, of which docs/status.md tells");
    let untold: Vec<_> = seen.difference(&documented).collect();
    assert!(untold.is_empty(), "docs/status.md does not tell of {untold:?}");
}

#[tokio::test]
async fn the_docs_tell_every_phase_and_every_event() {
    let gallery = gallery().await;
    assert_eq!(gallery.phases, names("Phases"));
    assert_eq!(gallery.events, names("Events"));
}

#[tokio::test]
async fn tools_are_tried_with_statuses_as_they_are_written() {
    let page = gallery().await.page;
    let head = "# Statuses as the operator writes them, made by its tests, and what kstatus and Argo CD have to make of each.\n";
    expect_file!["../../../../tests/gitops/statuses.yaml"].assert_eq(&format!("{head}{page}"));
}

#[tokio::test]
async fn what_was_given_up_stays_so_while_it_is_tried_again() {
    let mut world = told(unready(), |report| {
        (report.phase, report.problem) = (RunPhase::Failed, problem(ProblemOf::Sink, "permission denied"));
    })
    .await;
    let before = (world.status("web").phase, world.says("web", "Stalled"), world.says("web", "Ready"));
    world.log();
    let mut report = running(&world.plan("web").revision);
    report.problem = problem(ProblemOf::Sink, "permission denied");
    for phase in [RunPhase::Starting, RunPhase::Failed, RunPhase::Starting] {
        report.phase = phase;
        world.report("web", &report);
        world.settle().await;
        assert_eq!((world.status("web").phase, world.says("web", "Stalled"), world.says("web", "Ready")), before);
    }
    assert_eq!(world.log(), Vec::<String>::new(), "no status and no event at each try");
    report.phase = RunPhase::Running;
    world.report("web", &report);
    world.pod("web", Some(ready()));
    world.settle().await;
    assert!(world.says("web", "Ready").starts_with("True Running"));
}

#[tokio::test]
async fn what_fails_again_and_again_is_not_ready_before_it_has_come_through_a_checkpoint() {
    let refused = json!({"volume": {"size": "20Gi"}});
    for (of, is_edited) in [(ProblemOf::Runtime, false), (ProblemOf::Source, false), (ProblemOf::Runtime, true)] {
        let mut world = told(ready(), |_| {}).await;
        let mut report = running(&world.plan("web").revision);
        (report.phase, report.problem) = (RunPhase::Failed, problem(of, "division by zero"));
        world.report("web", &report);
        world.settle().await;
        if is_edited {
            world.put("Pipeline", web().with("deployment", refused.clone()).build());
            world.settle().await;
        }
        let said =
            |world: &World| (world.status("web").phase, world.says("web", "Stalled"), world.says("web", "Ready"));
        let before = said(&world);
        assert!(before.2.starts_with("False "), "{before:?}");
        world.log();
        for phase in [RunPhase::Starting, RunPhase::Running, RunPhase::Failed, RunPhase::Starting, RunPhase::Running] {
            report.phase = phase;
            world.report("web", &report);
            world.settle().await;
            assert_eq!(said(&world), before, "{of:?} {phase:?}");
        }
        assert_eq!(world.log(), Vec::<String>::new(), "no status and no event at each try");
        report.problem = None;
        world.report("web", &report);
        world.settle().await;
        let well = if is_edited { "stays: rows flow" } else { "True Running: rows flow" };
        assert!(world.says("web", "Ready").ends_with(well), "{}", world.says("web", "Ready"));
        assert_eq!(world.status("web").phase, Some(millrace_crds::Phase::Running));
    }
}

#[tokio::test]
async fn a_container_that_crashes_again_and_again_is_told_once_until_it_has_something_to_say_itself() {
    let crash = json!({"terminated": {"exitCode": 2, "message": "error: no such option"}});
    let runs = json!({"running": {"startedAt": "2024-01-01T00:01:00Z"}});
    let mut world =
        told(container(waiting("CrashLoopBackOff", "back-off 20s"), crash.clone()), |report| report.at = START).await;
    assert!(world.says("web", "Ready").starts_with("False Crashing: "), "{}", world.says("web", "Ready"));
    world.log();
    world.pod("web", Some(container(runs.clone(), crash.clone())));
    world.settle().await;
    assert_eq!(world.log(), Vec::<String>::new());
    let mut report = running(&world.plan("web").revision);
    report.at.0 = START.0 + 61_000;
    report.phase = RunPhase::Starting;
    world.report("web", &report);
    world.settle().await;
    assert!(world.says("web", "Ready").starts_with("False Restoring: "), "{}", world.says("web", "Ready"));
}
