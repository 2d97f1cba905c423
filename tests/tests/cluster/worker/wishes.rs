//! Wishes act once: savepoints, and where to start from.

use millrace_crds::{FilePositionSpec, MoveSourceSpec};
use millrace_plan::handover::{EditResult, PlanDocument, ReportDocument, RunPhase, SavepointWish, StartWish};
use millrace_stream::Revision;
use millrace_tests::{Deadline, Workspace, coordination::Site, read};

use super::pod::{Numbers, committed, in_phase, reported, worker};

#[test]
fn a_savepoint_is_taken_once_for_its_token_and_started_from_once_for_another() {
    let Some(site) = Site::new("wishes") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let numbers = Numbers::new(160_000, 20_000);
    let wish = |token: &str| Some(SavepointWish { token: token.to_owned() });
    let plan = PlanDocument { savepoint: wish("one"), ..numbers.plan() };
    objects.want(&plan);
    let running = worker(&workspace, &site, "web-0", "1").start();
    let report = reported(&running, &objects, "the savepoint", |report| report.savepoint.is_some());
    let savepoint = report.savepoint.unwrap();
    assert_eq!((savepoint.token.as_str(), &savepoint.error), ("one", &None));
    let name = savepoint.name.unwrap();
    running.kill();
    // Another pod finds the wish fulfilled.
    let running = worker(&workspace, &site, "web-0", "1").start();
    let epoch = objects.epoch();
    Deadline::secs(60).wait_for("more checkpoints", || (objects.epoch() > epoch.map(|epoch| epoch + 3)).then_some(()));
    let report = objects.report().unwrap();
    assert_eq!(report.savepoint.unwrap().name.as_ref(), Some(&name));

    // What was committed after the savepoint comes again, and nothing else.
    let start = StartWish {
        token: "back".to_owned(),
        savepoint: Some(name.clone()),
        reset_sources: Vec::new(),
        move_sources: Vec::new(),
    };
    let back = PlanDocument { start_from: Some(start), ..plan.clone() };
    let before = committed(&workspace);
    objects.want(&back);
    let report = reported(&running, &objects, "the start", |report| report.started.is_some());
    let started = report.started.unwrap();
    assert_eq!((started.token.as_str(), started.error), ("back", None));
    assert_eq!(started.epoch.map(|epoch| format!("savepoint-{epoch}")).as_ref(), Some(&name));
    Deadline::secs(60).wait_for("the token beside the pointer", || {
        (objects.checkpoint().get("startToken").map(String::as_str) == Some("back")).then_some(())
    });
    assert!(before > 0);
    running.kill();
    // The wish has acted: this start goes on from the last checkpoint.
    let running = worker(&workspace, &site, "web-0", "1").start();
    in_phase(&running, &objects, RunPhase::Finished);
    let some = read::folder(&workspace.join("out/some"));
    let mut ids: Vec<i64> = some.column("id").map(|id| id.int()).collect();
    ids.sort_unstable();
    let all = ids.len();
    ids.dedup();
    assert_eq!(ids, (0..16_000).map(|id| id * 10).collect::<Vec<_>>(), "nothing is lost");
    assert!(all > ids.len(), "what came after the savepoint came again");
    assert!(all < 2 * ids.len(), "and once");

    // Nothing runs any more that a savepoint could be taken of.
    objects.want(&PlanDocument { savepoint: wish("two"), ..back });
    let report = reported(&running, &objects, "the answer", |report| {
        report.savepoint.as_ref().is_some_and(|savepoint| savepoint.token == "two")
    });
    assert!(report.savepoint.unwrap().error.unwrap().contains("has finished"));
}

#[test]
fn a_source_is_read_from_its_beginning_once_for_its_token() {
    let Some(site) = Site::new("reset") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let numbers = Numbers::new(60_000, 30_000);
    let plan = numbers.plan();
    objects.want(&plan);
    let running = worker(&workspace, &site, "web-0", "1").start();
    in_phase(&running, &objects, RunPhase::Finished);
    numbers.expect_all(&workspace);
    let start = StartWish {
        token: "again".to_owned(),
        savepoint: None,
        reset_sources: vec!["events".to_owned()],
        move_sources: Vec::new(),
    };
    let again = PlanDocument { start_from: Some(start), ..plan.clone() };
    objects.want(&again);
    reported(&running, &objects, "the start", |report| report.started.is_some());
    let twice = || (committed(&workspace) == 12_000).then_some(());
    Deadline::secs(60).wait_for("every row again", twice);
    in_phase(&running, &objects, RunPhase::Finished);
    running.kill();
    let running = worker(&workspace, &site, "web-0", "1").start();
    Deadline::secs(30).wait_for("the Lease", || objects.holder());
    in_phase(&running, &objects, RunPhase::Finished);
    assert_eq!(committed(&workspace), 12_000, "not a third time");

    // A wish that cannot act says so, and what would run without it runs.
    for (token, savepoint, reset_sources, why) in [
        ("unknown", None, vec!["nobody".to_owned()], "the pipeline has no source nobody"),
        ("gone", Some("savepoint-999".to_owned()), Vec::new(), "there is no savepoint savepoint-999"),
    ] {
        let start = StartWish { token: token.to_owned(), savepoint, reset_sources, move_sources: Vec::new() };
        objects.want(&PlanDocument { start_from: Some(start), ..plan.clone() });
        let report = reported(&running, &objects, token, |report| {
            report.started.as_ref().is_some_and(|started| started.token == token)
        });
        assert!(report.started.unwrap().error.unwrap().contains(why));
        in_phase(&running, &objects, RunPhase::Finished);
    }
}

#[test]
fn a_source_goes_on_from_where_it_is_asked_to_once_for_its_token() {
    let Some(site) = Site::new("moved") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let numbers = Numbers::new(60_000, 30_000);
    let plan = numbers.plan();
    objects.want(&plan);
    let running = worker(&workspace, &site, "web-0", "1").start();
    in_phase(&running, &objects, RunPhase::Finished);
    numbers.expect_all(&workspace);
    let to = |row, files| MoveSourceSpec { name: "events".to_owned(), row, files };
    let wish = |token: &str, to| StartWish {
        token: token.to_owned(),
        savepoint: None,
        reset_sources: Vec::new(),
        move_sources: vec![to],
    };
    let started = |wish: StartWish| {
        let token = wish.token.clone();
        objects.want(&PlanDocument { start_from: Some(wish), ..plan.clone() });
        let report = reported(&running, &objects, &token, |report| {
            report.started.as_ref().is_some_and(|started| started.token == token)
        });
        report.started.unwrap()
    };
    // The last 20,000 rows again: 2,000 that the filter lets through.
    assert_eq!(started(wish("back", to(Some(40_000), Vec::new()))).error, None);
    Deadline::secs(60).wait_for("those rows again", || (committed(&workspace) == 8_000).then_some(()));
    in_phase(&running, &objects, RunPhase::Finished);
    let error = started(wish("file", to(None, vec![FilePositionSpec { path: "/x".to_owned(), offset: 0 }]))).error;
    assert!(error.unwrap().contains("source events is a generator: it goes on from a `row`"));
    in_phase(&running, &objects, RunPhase::Finished);
    assert_eq!(committed(&workspace), 8_000, "and nothing for a place that is not there");
}

#[test]
fn a_source_is_moved_as_asked_also_where_the_edit_that_came_with_it_is_rolled_back() {
    let Some(site) = Site::new("taken-back") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let numbers = Numbers::new(60_000, 30_000);
    let plan = numbers.plan();
    objects.want(&plan);
    let running = worker(&workspace, &site, "web-0", "1").start();
    in_phase(&running, &objects, RunPhase::Finished);
    numbers.expect_all(&workspace);
    let bad = Numbers { filter: "id / (id - id) = 0", ..Numbers::new(60_000, 30_000) }.plan();
    let wish = |token: &str, name: &str| StartWish {
        token: token.to_owned(),
        savepoint: None,
        reset_sources: Vec::new(),
        move_sources: vec![MoveSourceSpec { name: name.to_owned(), row: Some(40_000), files: Vec::new() }],
    };
    let back = PlanDocument { start_from: Some(wish("back", "events")), ..bad.clone() };
    objects.want(&back);
    Deadline::secs(60).wait_for("those rows again", || (committed(&workspace) == 8_000).then_some(()));
    let report = in_phase(&running, &objects, RunPhase::Finished);
    let edit = report.edit.unwrap();
    assert_eq!((&edit.to, edit.result), (&bad.revision, EditResult::RolledBack));
    assert_eq!(report.revision.as_ref(), Some(&plan.revision));
    let started = report.started.unwrap();
    assert_eq!((started.token.as_str(), started.error), ("back", None));
    assert_eq!(objects.checkpoint().get("startToken").map(String::as_str), Some("back"));
    running.kill();
    // The operator's answer: what ran before, with the same wish, which has acted.
    objects.want(&PlanDocument { start_from: back.start_from, ..plan.clone() });
    let running = worker(&workspace, &site, "web-0", "1").start();
    Deadline::secs(30).wait_for("the Lease", || objects.holder());
    in_phase(&running, &objects, RunPhase::Finished);
    assert_eq!(committed(&workspace), 8_000, "not a third time");
    // What the plan before has not got is told, and that nothing was done.
    let mut other = bad;
    other.spec.pipeline.sources[0].name = "others".to_owned();
    for transform in &mut other.spec.pipeline.transforms {
        transform.sql = transform.sql.replace("FROM events", "FROM others");
    }
    other.revision = Revision("of-others".to_owned());
    other.spec.pipeline.allow_state_loss.push("events".to_owned());
    objects.want(&PlanDocument { start_from: Some(wish("others", "others")), ..other });
    let report = reported(&running, &objects, "what came of it", |report| {
        let started = report.started.as_ref();
        started.is_some_and(|started| started.token == "others" && started.error.is_some())
    });
    let error = report.started.unwrap().error.unwrap();
    assert_eq!(error, "the plan before the edit that was taken back has no source others");
    in_phase(&running, &objects, RunPhase::Finished);
    let known = ["startToken", "refusedToken"].map(|key| objects.checkpoint().get(key).cloned());
    assert_eq!(known, ["back", "others"].map(|token| Some(token.to_owned())));
    assert_eq!(committed(&workspace), 8_000);
}

#[test]
fn a_savepoint_that_the_plan_cannot_go_on_from_is_told_and_no_reason_to_fail_also_beside_an_edit_that_does() {
    let Some(site) = Site::new("unlike") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let numbers = Numbers::new(60_000, 30_000);
    let plan = PlanDocument { savepoint: Some(SavepointWish { token: "one".to_owned() }), ..numbers.plan() };
    objects.want(&plan);
    let running = worker(&workspace, &site, "web-0", "1").start();
    let report = reported(&running, &objects, "the savepoint", |report| report.savepoint.is_some());
    let savepoint = report.savepoint.unwrap().name.unwrap();
    in_phase(&running, &objects, RunPhase::Finished);
    // Its sums are others now, and of those of the savepoint nobody says that they may go.
    let mut other = PlanDocument { savepoint: None, ..plan };
    other.spec.pipeline.transforms[1].sql =
        "SELECT window_start, id % 2 AS odd, count(*) AS n, sum(id) AS ids FROM events GROUP BY id % 2".to_owned();
    let mut allowing = other.clone();
    allowing.spec.pipeline.allow_state_loss.push("sums".to_owned());
    allowing.revision = Revision("allowing".to_owned());
    objects.want(&allowing);
    let finished = |revision: &Revision| {
        reported(&running, &objects, &revision.0, |report| {
            report.phase == RunPhase::Finished && report.revision.as_ref() == Some(revision)
        })
    };
    finished(&allowing.revision);
    let (epoch, rows) = (objects.epoch(), committed(&workspace));

    let wish = |token: &str| {
        let (reset_sources, move_sources) = (Vec::new(), Vec::new());
        Some(StartWish { token: token.to_owned(), savepoint: Some(savepoint.clone()), reset_sources, move_sources })
    };
    let expected = format!("the plan cannot go on from {savepoint}: ");
    other.revision = Revision("other".to_owned());
    objects.want(&PlanDocument { start_from: wish("unlike"), ..other.clone() });
    let report = finished(&other.revision);
    let started = report.started.unwrap();
    assert_eq!(started.token, "unlike");
    assert!(started.error.as_ref().unwrap().starts_with(&expected), "{started:?}");

    // The same with an edit that does not run.
    let mut bad = other.clone();
    bad.revision = Revision("bad".to_owned());
    let nowhere = Numbers { path: "/dev/null/some".to_owned(), ..numbers }.plan();
    bad.spec.sinks.clone_from(&nowhere.spec.sinks);
    objects.want(&PlanDocument { start_from: wish("again"), ..bad.clone() });
    let is_back = |report: &ReportDocument| {
        report.edit.as_ref().is_some_and(|edit| edit.to == bad.revision && edit.result == EditResult::RolledBack)
            && report.phase == RunPhase::Finished
    };
    let report = reported(&running, &objects, "what ran before", is_back);
    assert_eq!(report.revision.as_ref(), Some(&other.revision));
    assert!(report.started.unwrap().error.unwrap().starts_with(&expected));
    // The operator's answer.
    objects.want(&PlanDocument { start_from: wish("again"), ..other.clone() });
    running.kill();
    let running = worker(&workspace, &site, "web-0", "1").start();
    Deadline::secs(30).wait_for("the Lease", || objects.holder());
    in_phase(&running, &objects, RunPhase::Finished);
    assert!(objects.epoch() >= epoch, "nothing has gone back");
    assert_eq!(committed(&workspace), rows, "and nothing came again");
}
