//! Exactly once under SIGKILL, with the pointer in a ConfigMap.

use std::{collections::BTreeSet, os::unix::process::ExitStatusExt, time::Duration};

use millrace_plan::handover::RunPhase;
use millrace_tests::{Seed, Workspace, coordination::Site};

use super::pod::{Numbers, in_phase, worker};

/// Where the pointer's ConfigMap is about to be written, has been written, and what is around it.
const POINTS: [&str; 8] = [
    "before-pointer",
    "mid-pointer",
    "after-pointer",
    "before-manifest",
    "after-manifest",
    "before-commit",
    "before-recover",
    "after-recover",
];

#[test]
fn rows_are_seen_once_however_often_the_worker_is_killed() {
    let mut seed = Seed::of_test("killed worker");
    let Some(site) = Site::new("killed") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let numbers = Numbers { checkpoints: "interval: 80ms, minPause: 5ms".to_owned(), ..Numbers::new(300_000, 20_000) };
    objects.want(&numbers.plan());
    let mut points = POINTS.to_vec();
    seed.shuffle(&mut points);
    let (mut at_random, mut at_points) = (0, BTreeSet::new());
    while at_random < 8 || at_points.len() < POINTS.len() {
        let mut command = worker(&workspace, &site, "web-0", "1");
        let mut limit = seed.time(Duration::from_millis(300), Duration::from_millis(1500));
        let point = points.pop();
        if let Some(point) = point {
            let nth = if point.ends_with("recover") { 1 } else { 1 + seed.below(4) };
            command = command.env("MILLRACE_FAULT_POINT", &format!("{point}:{nth}"));
            limit = Duration::from_secs(20);
        }
        let (status, finished) = command.start().wait_or_kill(limit);
        match (status.map(|status| status.signal()), point) {
            (Some(Some(9)), Some(point)) => _ = at_points.insert(point),
            (None, None) => at_random += 1,
            (None, Some(point)) => panic!("the worker never came by {point}:\n{}", finished.stderr),
            _ => panic!("ended with {} at {point:?}:\n{}", finished.status, finished.stderr),
        }
    }
    let running = worker(&workspace, &site, "web-0", "1").start();
    in_phase(&running, &objects, RunPhase::Finished);
    numbers.expect_all(&workspace);
    println!("{at_random} kills at random, {} at points", at_points.len());
}
