//! From the plan's first appearance to the end.

use std::{net::SocketAddr, time::Duration};

use millrace_plan::handover::{PlanDocument, RunPhase, SavepointWish};
use millrace_tests::{Deadline, Workspace, coordination::Site, http, wait};

use super::pod::{Numbers, committed, in_phase, reported, worker};

#[test]
fn a_plan_is_run_to_its_end_and_told() {
    let Some(site) = Site::new("life") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let running = worker(&workspace, &site, "web-0", "1").start();
    Deadline::secs(30).wait_for("the Lease", || (objects.holder().as_deref() == Some("web-0_1")).then_some(()));
    in_phase(&running, &objects, RunPhase::Starting);
    let numbers = Numbers::new(60_000, 20_000);
    let plan = numbers.plan();
    objects.want(&plan);
    let report = in_phase(&running, &objects, RunPhase::Running);
    assert_eq!((report.revision.as_ref(), report.pod.as_str()), (Some(&plan.revision), "web-0"));
    let report = in_phase(&running, &objects, RunPhase::Finished);
    assert_eq!((report.problem, report.edit), (None, None));
    let checkpoint = report.checkpoint.unwrap();
    assert_eq!(objects.epoch(), Some(checkpoint.epoch.0));
    let sinks: Vec<_> = report.nodes.iter().filter(|node| node.kind == "sink").collect();
    assert!(sinks.len() == 2 && sinks.iter().all(|sink| sink.committed == Some(checkpoint.epoch)), "{sinks:?}");
    numbers.expect_all(&workspace);

    // A finished pipeline stays up, is ready, and has nothing more to say.
    let answer = http::get(address(&running.stderr()), "/readyz");
    assert_eq!((answer.status, answer.body.trim()), (200, "Finished"));
    // Rates are of the last seconds.
    reported(&running, &objects, "no rows", |report| report.nodes.iter().all(|node| node.rows_in_per_second == 0.0));
    let before = objects.versions();
    wait::pass(Duration::from_secs(12));
    assert_eq!(objects.versions(), before, "nothing is written at rest");

    running.terminate();
    running.wait().expect_success();
    assert_eq!(objects.holder(), None, "the Lease is given back");
    // A pod that starts again has nothing left to do.
    let again = worker(&workspace, &site, "web-0", "1").start();
    Deadline::secs(30).wait_for("the Lease", || objects.holder());
    in_phase(&again, &objects, RunPhase::Finished);
    numbers.expect_all(&workspace);
}

#[test]
fn a_suspended_pipeline_stops_at_a_savepoint_and_goes_on_from_there() {
    stops_at_a_savepoint("suspend", None);
}

#[test]
fn a_savepoint_that_is_asked_for_along_with_a_suspension_is_the_one_that_it_stops_at() {
    stops_at_a_savepoint("suspend-saved", Some("now"));
}

/// Suspends a pipeline, asks for a savepoint with that token in the same edit, and resumes it.
fn stops_at_a_savepoint(name: &str, token: Option<&str>) {
    let Some(site) = Site::new(name) else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let numbers = Numbers::new(100_000, 20_000);
    let plan = numbers.plan();
    let wish = token.map(|token| SavepointWish { token: token.to_owned() });
    let suspended = PlanDocument { suspend: true, savepoint: wish, ..plan.clone() };
    objects.want(&plan);
    let running = worker(&workspace, &site, "web-0", "1").start();
    Deadline::secs(60).wait_for("committed rows", || (committed(&workspace) > 0).then_some(()));
    objects.want(&suspended);
    let report = in_phase(&running, &objects, RunPhase::Suspended);
    let savepoint = report.savepoint.expect("it is told");
    assert_eq!((savepoint.token.as_str(), savepoint.error), (token.unwrap_or_default(), None));
    assert!(savepoint.name.is_some());
    let rows = committed(&workspace) as i64;
    assert!(rows < numbers.rows / 10, "it stopped before the end");
    running.terminate();
    running.wait().expect_success();
    // The operator takes the pod away, and makes another one when the pipeline is resumed; it may be early.
    let running = worker(&workspace, &site, "web-0", "2").start();
    Deadline::secs(30).wait_for("the Lease", || (objects.holder().as_deref() == Some("web-0_2")).then_some(()));
    in_phase(&running, &objects, RunPhase::Suspended);
    assert_eq!(committed(&workspace) as i64, rows);
    objects.want(&plan);
    in_phase(&running, &objects, RunPhase::Finished);
    numbers.expect_all(&workspace);
}

#[test]
fn what_cannot_run_is_told_and_another_plan_is_tried_at_once() {
    let Some(site) = Site::new("failed") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let running = worker(&workspace, &site, "web-0", "1").start();
    objects.want_text("{\"version\": 7}");
    let report = reported(&running, &objects, "an unreadable plan", |report| report.problem.is_some());
    assert!(report.problem.unwrap().message.contains("older than the operator"));
    let numbers = Numbers::new(20_000, 20_000);
    objects.want(&Numbers { path: "/proc/nope".to_owned(), ..Numbers::new(20_000, 20_000) }.plan());
    let report = in_phase(&running, &objects, RunPhase::Failed);
    let problem = report.problem.expect("it is told");
    assert_eq!(format!("{:?}", problem.of), "Sink");
    assert_eq!(problem.node.as_deref(), Some("some->some"));
    assert!(problem.message.contains("/proc/nope"), "{}", problem.message);
    // It waits ever longer, and does not end.
    let tries = || running.stderr().matches("the pipeline has failed").count();
    Deadline::secs(30).wait_for("the fourth try", || (tries() >= 4).then_some(()));
    objects.want(&numbers.plan());
    let (report, waited) = wait::timed(|| in_phase(&running, &objects, RunPhase::Finished));
    assert_eq!(report.problem, None);
    assert!(waited.as_secs() < 8, "the next try would have come after 8 s: {waited:?}");
    numbers.expect_all(&workspace);
}

/// Where it listens, as it has logged.
pub fn address(log: &str) -> SocketAddr {
    let (_, rest) = log.split_once("address=").expect("it says where it listens");
    rest.split_whitespace().next().unwrap().parse().unwrap()
}
