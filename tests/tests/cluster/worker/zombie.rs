//! A worker that is frozen past its Lease, and replaced, and wakes.

use millrace_plan::handover::RunPhase;
use millrace_tests::{Deadline, Workspace, coordination::Site};

use super::pod::{Numbers, committed, in_phase, worker};

#[test]
fn a_worker_that_wakes_up_replaced_decides_nothing_and_steps_down() {
    let Some(site) = Site::new("zombie") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let storage = workspace.join("store");
    let numbers = Numbers {
        checkpoints: format!("interval: 200ms, minPause: 10ms, storage: \"file://{}\"", storage.display()),
        ..Numbers::new(1_200_000, 20_000)
    };
    objects.want(&numbers.plan());
    let zombie = worker(&workspace, &site, "web-0", "1").start();
    Deadline::secs(60).wait_for("committed rows", || (committed(&workspace) > 0).then_some(()));
    zombie.signal("STOP");
    let left_at = objects.epoch();
    let successor = worker(&workspace, &site, "web-0-successor", "2").start();
    Deadline::secs(60)
        .wait_for("the Lease", || (objects.holder().as_deref() == Some("web-0-successor_2")).then_some(()));
    Deadline::secs(60)
        .wait_for("checkpoints of the successor", || (objects.epoch() > left_at.map(|epoch| epoch + 3)).then_some(()));
    zombie.signal("CONT");
    Deadline::secs(30).wait_for("the zombie to step down", || zombie.stderr().contains("step").then_some(()));
    let report = objects.report().unwrap();
    assert_eq!(objects.holder().as_deref(), Some("web-0-successor_2"));
    assert!(report.generation > Some(millrace_stream::Generation(1)));
    // It waits for the Lease, and takes over when the successor goes.
    successor.terminate();
    successor.wait().expect_success();
    Deadline::secs(30).wait_for("the Lease again", || (objects.holder().as_deref() == Some("web-0_1")).then_some(()));
    in_phase(&zombie, &objects, RunPhase::Finished);
    numbers.expect_all(&workspace);
}
