//! The operator dies between any two of its writes, at every step of a Pipeline's life; another one finishes what it has begun.

use std::{collections::BTreeMap, time::Duration};

use millrace_plan::handover::{EditResult, EditSaid, ReportDocument, RunPhase, SavepointSaid, StartSaid};
use millrace_stream::Timestamp;
use serde_json::{Value, json};

use crate::testing::{PipelineBuilder, START, World, checkpoint, no_image, pipeline, running, unready};

/// How long each step takes: what is told every ten seconds is told within it.
const STEP: Duration = Duration::from_secs(30);

/// A step of a Pipeline's life: what users, the runtime and Kubernetes do.
type Act = fn(&mut World);

fn web(price: u32) -> PipelineBuilder {
    let sql = format!("SELECT bidder, count(*) AS n, window_start FROM bid WHERE price > {price} GROUP BY bidder");
    pipeline("web").transform("dear", &sql).window("minute")
}

fn image(price: u32, image: &str) -> PipelineBuilder {
    web(price).with("deployment", json!({"image": image}))
}

/// The report of a runtime that runs what it is to run.
fn report(world: &World) -> ReportDocument {
    running(&world.plan("web").revision)
}

fn takes_up(world: &mut World) {
    let report = report(world);
    world.report("web", &report);
}

fn is_made_anew(world: &mut World) {
    world.pod("web", None);
    world.run("web");
}

fn has_stopped(world: &mut World) {
    let said = SavepointSaid { token: String::new(), name: Some("savepoint-9".to_owned()), error: None, at: START };
    let report = ReportDocument { phase: RunPhase::Suspended, savepoint: Some(said), ..report(world) };
    world.report("web", &report);
    world.pod("web", Some(unready()));
}

const LIFE: &[(&str, Act)] = &[
    ("it is made", |world| world.put("Pipeline", image(1, "one").build())),
    ("it runs", |world| drop(world.run("web"))),
    ("its dataflow is edited", |world| world.put("Pipeline", image(2, "one").build())),
    ("the edit is taken up", takes_up),
    ("its pods are edited", |world| world.put("Pipeline", image(2, "two").build())),
    ("its pods are made anew", is_made_anew),
    ("both are edited", |world| world.put("Pipeline", image(3, "three").build())),
    ("that is taken up", is_made_anew),
    ("its Window is edited", |world| {
        let mut window = world.get("Window", "minute").unwrap();
        window["spec"] = json!({"tumbling": {"size": "2m"}});
        world.put("Window", window);
    }),
    ("that is taken up too", takes_up),
    ("an edit would change its volume", |world| {
        world.put("Pipeline", web(4).with("deployment", json!({"image": "four", "volume": {"size": "99Gi"}})).build());
    }),
    ("the edit is undone", |world| world.put("Pipeline", image(3, "three").build())),
    ("an edit cannot be understood", |world| {
        world.put("Pipeline", pipeline("web").transform("dear", "SELECT nothing FROM nowhere").build());
    }),
    ("it names a Sink that is not there", |world| {
        world.put("Pipeline", image(3, "three").with("outputs", json!([{"from": "dear", "sink": "pond"}])).build());
    }),
    ("an edit comes that will fail", |world| world.put("Pipeline", image(5, "three").build())),
    ("the runtime has taken it back", |world| {
        let to = world.plan("web").revision;
        let map = world.get("ConfigMap", "web-plan").unwrap();
        let from: Value = serde_json::from_str(map["data"]["previous.json"].as_str().unwrap()).unwrap();
        let from = millrace_stream::Revision(from["revision"].as_str().unwrap().to_owned());
        let message = Some("sink out: permission denied".to_owned());
        let edit = EditSaid { from: from.clone(), to, result: EditResult::RolledBack, since: None, message, at: START };
        world.report("web", &ReportDocument { edit: Some(edit), ..running(&from) });
    }),
    ("it is edited again", |world| world.put("Pipeline", image(6, "three").build())),
    ("and that is taken up", takes_up),
    ("it proves itself", |world| {
        let report = ReportDocument { checkpoint: Some(checkpoint(4)), ..report(world) };
        world.report("web", &report);
    }),
    ("its pods are edited to what does not start", |world| world.put("Pipeline", image(6, "none").build())),
    ("their image cannot be pulled", |world| {
        world.rolled("web");
        world.pod("web", Some(no_image()));
    }),
    ("the pods before are back", is_made_anew),
    ("the edit is undone too", |world| world.put("Pipeline", image(6, "three").build())),
    ("it is to start from a savepoint", |world| {
        let wish = json!({"token": "again", "savepoint": "savepoint-3"});
        world.put("Pipeline", image(6, "three").with("startFrom", wish).build());
    }),
    ("it has", |world| {
        let started = StartSaid { token: "again".to_owned(), epoch: None, error: None };
        let report = ReportDocument { started: Some(started), ..report(world) };
        world.report("web", &report);
    }),
    ("a savepoint is asked for", |world| {
        world.put("Pipeline", image(6, "three").with("savepoint", json!({"token": "now"})).build());
    }),
    ("it is taken", |world| {
        let said = SavepointSaid { token: "now".to_owned(), name: Some("s".to_owned()), error: None, at: START };
        let report = ReportDocument { savepoint: Some(said), ..report(world) };
        world.report("web", &report);
    }),
    ("it is suspended", |world| world.put("Pipeline", image(6, "three").with("suspend", json!(true)).build())),
    ("it has stopped", has_stopped),
    ("its pod is gone", |world| world.pod("web", None)),
    ("it is to go on", |world| world.put("Pipeline", image(6, "three").build())),
    ("it goes on", |world| drop(world.run("web"))),
    ("it cannot be understood and is suspended", |world| {
        let broken = pipeline("web").transform("dear", "SELECT nothing FROM nowhere");
        world.put("Pipeline", broken.with("suspend", json!(true)).build());
    }),
    ("it has stopped again", has_stopped),
    ("it is mended", |world| world.put("Pipeline", image(7, "three").build())),
    ("it runs again", |world| drop(world.run("web"))),
    ("its sources have ended", |world| {
        let report = ReportDocument { phase: RunPhase::Finished, ..report(world) };
        world.report("web", &report);
    }),
    ("it is made anew under its name", |world| {
        let mut other = image(8, "three").build();
        other["metadata"]["uid"] = json!("uid-other");
        world.delete("Pipeline", "web");
        world.collect();
        world.put("Pipeline", other);
    }),
    ("it is deleted", |world| {
        world.delete("Pipeline", "web");
        world.collect();
    }),
];

/// What there is before each step and at the end, and how many writes each step takes.
async fn undisturbed() -> (Vec<BTreeMap<String, Value>>, Vec<usize>) {
    let mut world = World::new();
    let (mut states, mut writes) = (Vec::new(), Vec::new());
    world.pass(STEP).await;
    world.log();
    for (_, act) in LIFE {
        states.push(world.objects());
        act(&mut world);
        world.settle().await;
        world.pass(STEP).await;
        writes.push(world.log().len());
    }
    states.push(world.objects());
    (states, writes)
}

/// The moment at which a step begins.
fn begins(step: usize) -> Timestamp {
    Timestamp(START.0 + (step as u64 + 1) * STEP.as_millis() as u64)
}

#[tokio::test]
async fn an_operator_that_dies_between_any_two_writes_of_any_step_leaves_what_the_next_finishes_to_the_last_field() {
    let (states, writes) = undisturbed().await;
    assert!(writes.iter().sum::<usize>() > 60, "{writes:?}");
    for (step, (name, act)) in LIFE.iter().enumerate() {
        for dies_after in 0..=writes[step] {
            let mut world = World::with(&states[step], begins(step));
            if dies_after == 0 {
                world.settle().await;
                assert_eq!(world.log(), Vec::<String>::new(), "{name}: a new leader has nothing to do");
            }
            world.dies_after(Some(dies_after));
            act(&mut world);
            world.settle().await;
            world.dies_after(None);
            world.new_leader();
            world.settle().await;
            world.pass(STEP).await;
            let (found, expected) = (world.objects(), &states[step + 1]);
            let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&found), names(expected), "{name}: dead after {dies_after} writes");
            for (id, object) in &found {
                assert_eq!(object, &expected[id], "{name}: {id}, dead after {dies_after} writes");
            }
        }
    }
}

#[tokio::test]
async fn an_edit_that_comes_while_no_operator_lives_is_what_runs_in_the_end() {
    let (states, writes) = undisturbed().await;
    for (step, (name, act)) in LIFE.iter().enumerate().take(7).step_by(2) {
        for dies_after in 0..=writes[step] {
            let mut world = World::with(&states[step], begins(step));
            world.dies_after(Some(dies_after));
            act(&mut world);
            world.settle().await;
            world.put("Pipeline", image(9, "nine").build());
            world.dies_after(None);
            world.new_leader();
            world.settle().await;
            world.run("web");
            world.pass(STEP).await;
            let case = format!("{name}: dead after {dies_after} writes");
            assert!(world.says("web", "Ready").starts_with("True Running"), "{case}: {}", world.says("web", "Ready"));
            assert!(json!(world.plan("web")).to_string().contains("price > 9"), "{case}");
            let set = world.get("StatefulSet", "web").unwrap();
            assert_eq!(set["spec"]["template"]["spec"]["containers"][0]["image"], "nine", "{case}");
            assert_eq!(world.status("web").history[0].revision, world.plan("web").revision.0, "{case}");
            world.log();
            world.pass(STEP).await;
            assert_eq!(world.log(), Vec::<String>::new(), "{case}");
        }
    }
}
