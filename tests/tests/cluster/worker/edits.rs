//! Edits, and what becomes of those that do not do.

use millrace_plan::handover::{EditResult, RunPhase};
use millrace_tests::{Deadline, Workspace, coordination::Site, read};

use super::pod::{Numbers, committed, in_phase, reported, worker};

#[test]
fn an_edit_is_taken_up_in_the_running_process() {
    let Some(site) = Site::new("edit") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let numbers = Numbers::new(120_000, 20_000);
    let plan = numbers.plan();
    objects.want(&plan);
    let running = worker(&workspace, &site, "web-0", "1").start();
    Deadline::secs(60).wait_for("committed rows", || (committed(&workspace) > 0).then_some(()));
    let edited = Numbers { filter: "id % 10 < 2", ..Numbers::new(120_000, 20_000) }.plan();
    objects.want(&edited);
    let report = reported(&running, &objects, "the edit", |report| report.edit.is_some());
    let edit = report.edit.unwrap();
    assert_eq!((edit.from, edit.to, edit.result), (plan.revision, edited.revision.clone(), EditResult::TakenUp));
    assert_eq!(report.revision, Some(edited.revision));
    in_phase(&running, &objects, RunPhase::Finished);
    let sums = read::folder(&workspace.join("out/sums"));
    assert_eq!((sums.sum("n"), sums.sum("ids")), (120_000, 120_000 * 119_999 / 2), "no row is lost or repeated");
    let some = read::folder(&workspace.join("out/some"));
    let ones = some.column("id").filter(|id| id.int() % 10 == 1).count();
    assert!((1..12_000).contains(&ones), "from the edit on: {ones}");
}

#[test]
fn an_edit_that_is_rolled_back_is_not_tried_again_by_another_pod_until_the_plan_changes() {
    let Some(site) = Site::new("rollback") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let numbers = Numbers::new(300_000, 20_000);
    let plan = numbers.plan();
    objects.want(&plan);
    let running = worker(&workspace, &site, "web-0", "1").start();
    Deadline::secs(60).wait_for("committed rows", || (committed(&workspace) > 0).then_some(()));
    let bad = Numbers { filter: "id / (id - id) = 0", ..Numbers::new(300_000, 20_000) }.plan();
    objects.want(&bad);
    let rolled_back = |report: &millrace_plan::handover::ReportDocument| {
        report.edit.as_ref().is_some_and(|edit| edit.result == EditResult::RolledBack && edit.to == bad.revision)
    };
    let report = reported(&running, &objects, "the rollback", rolled_back);
    assert_eq!(report.revision.as_ref(), Some(&plan.revision));
    assert_eq!(report.edit.as_ref().unwrap().from, plan.revision);
    running.kill();
    // The operator has not answered: the plan is still the bad one.
    let running = worker(&workspace, &site, "web-0", "1").start();
    let epoch = objects.epoch();
    Deadline::secs(60).wait_for("the next checkpoint", || (objects.epoch() > epoch).then_some(()));
    assert_eq!(running.stderr().matches("divide by zero").count(), 0, "{}", running.stderr());
    let report = objects.report().unwrap();
    assert!(rolled_back(&report) && report.revision.as_ref() == Some(&plan.revision), "{report:#?}");
    objects.want(&plan);
    in_phase(&running, &objects, RunPhase::Finished);
    numbers.expect_all(&workspace);
}

#[test]
fn an_edit_that_came_while_no_pod_ran_and_does_not_run_is_rolled_back_too() {
    let Some(site) = Site::new("between") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let numbers = Numbers::new(60_000, 20_000);
    let plan = numbers.plan();
    objects.want(&plan);
    let running = worker(&workspace, &site, "web-0", "1").start();
    Deadline::secs(60).wait_for("committed rows", || (committed(&workspace) > 0).then_some(()));
    running.kill();
    let bad = Numbers { path: "/proc/nope".to_owned(), ..Numbers::new(60_000, 20_000) }.plan();
    objects.want(&bad);
    let running = worker(&workspace, &site, "web-0", "1").start();
    let report = in_phase(&running, &objects, RunPhase::Finished);
    let edit = report.edit.expect("it is told");
    assert_eq!((edit.from, edit.to, edit.result), (plan.revision, bad.revision, EditResult::RolledBack));
    numbers.expect_all(&workspace);
}

#[test]
fn an_edit_that_would_lose_state_is_refused_also_by_a_pod_that_starts() {
    let Some(site) = Site::new("refused") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let numbers = Numbers::new(200_000, 20_000);
    let plan = numbers.plan();
    objects.want(&plan);
    let running = worker(&workspace, &site, "web-0", "1").start();
    Deadline::secs(60).wait_for("committed rows", || (committed(&workspace) > 0).then_some(()));
    // Another seed makes every row another one.
    let mut other = numbers.plan();
    let generator = other.spec.pipeline.sources[0].generator.as_mut().unwrap();
    generator.seed += 1;
    other.revision = millrace_plan::revision(&other.spec);
    objects.want(&other);
    let report = reported(&running, &objects, "the refusal", |report| report.edit.is_some());
    let edit = report.edit.unwrap();
    assert_eq!((edit.from.clone(), edit.result), (plan.revision.clone(), EditResult::Refused));
    assert!(edit.message.unwrap().contains("events"));
    running.kill();
    let running = worker(&workspace, &site, "web-0", "1").start();
    let epoch = objects.epoch();
    Deadline::secs(60).wait_for("the next checkpoint", || (objects.epoch() > epoch).then_some(()));
    in_phase(&running, &objects, RunPhase::Finished);
    numbers.expect_all(&workspace);
}
