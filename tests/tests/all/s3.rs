//! Checkpoints in an object store: a real S3 server, real kills of either side.
//!
//! They need the gateway that `make s3-gateway` builds, so they run where they are asked for: `-- --include-ignored s3`.

use std::{collections::BTreeSet, os::unix::process::ExitStatusExt, time::Duration};

use millrace_tests::{Deadline, Millrace, Seed, Workspace, manifest, read, s3::Gateway, wait};

const ROWS: i64 = 300_000;
const KEYS: i64 = 1000;

fn pipeline(storage: &str, rate: u64) -> String {
    let numbers = manifest::numbers(ROWS, rate);
    let pipeline = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: remote}}
spec:
  checkpoints: {{interval: 150ms, minPause: 10ms, retain: 2, storage: \"{storage}\"}}
  parallelism: 2
  sources:
    - name: events
      {numbers}
      eventTime: {{column: ts}}
  transforms:
    - name: sums
      window: minute
      sql: SELECT id % {KEYS} AS key, window_start, count(*) AS n, sum(id) AS ids FROM events GROUP BY id % {KEYS}
  outputs:
    - {{from: sums, sink: sums}}
"
    );
    [
        &pipeline[..],
        &manifest::window("minute", "tumbling: {size: 1m}"),
        &manifest::sink("sums", "file: {path: out, format: {json: {}}}"),
    ]
    .concat()
}

fn expect_all(workspace: &Workspace) {
    let sums = read::folder(&workspace.join("out"));
    assert_eq!((sums.sum("n"), sums.sum("ids")), (ROWS, ROWS * (ROWS - 1) / 2));
    let keys: BTreeSet<(i64, String)> =
        sums.rows.iter().map(|row| (row["key"].int(), format!("{:?}", row["window_start"]))).collect();
    assert_eq!(keys.len(), sums.len(), "each key is there once a window");
}

/// What no kept checkpoint names.
fn orphans(gateway: &Gateway) -> Vec<String> {
    let folder = gateway.folder("checkpoints/remote");
    let manifests: String = read::all_files(&folder.join("manifests"))
        .iter()
        .map(|(path, _)| std::fs::read_to_string(path).unwrap())
        .collect();
    let files = read::all_files(&folder.join("files")).into_iter();
    let names = files.map(|(path, _)| path.file_name().unwrap().to_string_lossy().into_owned());
    names.filter(|name| !manifests.contains(name.as_str())).collect()
}

#[test]
#[ignore = "needs an S3 gateway: make s3-gateway"]
fn rows_are_seen_once_with_checkpoints_on_s3_however_often_the_process_is_killed() {
    let mut seed = Seed::of_test("checkpoints on S3");
    let (workspace, gateway) = (Workspace::new(), Gateway::start());
    workspace.write("p.yaml", pipeline(&gateway.url("checkpoints"), 25_000));
    let mut points = vec![
        "before-upload",
        "mid-upload",
        "after-upload",
        "before-manifest",
        "after-manifest",
        "before-pointer",
        "after-pointer",
        "mid-retire",
        "before-restore",
        "mid-restore",
        "after-recover",
    ];
    seed.shuffle(&mut points);
    // Points of a restore come by only where there is something to restore.
    let first = gateway.reached_by(Millrace::run(&workspace, "p.yaml")).start();
    let pointer = workspace.join("data/checkpoints/latest");
    let decided = || std::fs::read_to_string(&pointer).unwrap_or_default();
    Deadline::secs(60).wait_for("checkpoints", || decided().contains("\"epoch\":3").then_some(()));
    first.kill();
    let (mut at_random, mut at_points) = (0, 0);
    while at_random < 6 || !points.is_empty() {
        let mut command = gateway.reached_by(Millrace::run(&workspace, "p.yaml"));
        let mut limit = seed.time(Duration::from_millis(300), Duration::from_millis(1200));
        let point = points.pop();
        if let Some(point) = point {
            command = command.env("MILLRACE_FAULT_POINT", &format!("{point}:1"));
            limit = Duration::from_secs(20);
        }
        let (status, finished) = command.start().wait_or_kill(limit);
        match (status.map(|status| status.signal()), point) {
            (Some(Some(9)), Some(_)) => at_points += 1,
            (None, None) => at_random += 1,
            _ => panic!("ended with {} at {point:?}:\n{}", finished.status, finished.stderr),
        }
    }
    gateway.reached_by(Millrace::run(&workspace, "p.yaml")).finish().expect_success();
    expect_all(&workspace);
    assert_eq!(orphans(&gateway), Vec::<String>::new());
    println!("{at_random} kills at random, {at_points} at points");
}

#[test]
#[ignore = "needs an S3 gateway: make s3-gateway"]
fn a_store_that_is_away_for_a_while_ends_nothing() {
    let (workspace, mut gateway) = (Workspace::new(), Gateway::start());
    workspace.write("p.yaml", pipeline(&gateway.url("checkpoints"), 15_000));
    let pointer = workspace.join("data/checkpoints/latest");
    let running = gateway.reached_by(Millrace::run(&workspace, "p.yaml")).start();
    let decided = || std::fs::read_to_string(&pointer).unwrap_or_default();
    Deadline::secs(60).wait_for("checkpoints", || decided().contains("\"epoch\":4").then_some(()));
    gateway.kill();
    let before = decided();
    wait::pass(Duration::from_secs(4));
    let gateway = gateway.restart();
    Deadline::secs(60).wait_for("another checkpoint", || (decided() != before).then_some(()));
    running.wait().expect_success();
    expect_all(&workspace);
    assert_eq!(orphans(&gateway), Vec::<String>::new());
}

#[test]
#[ignore = "needs an S3 gateway: make s3-gateway"]
fn a_bucket_that_is_not_there_is_said_to_be_missing() {
    let (workspace, gateway) = (Workspace::new(), Gateway::start());
    workspace.write("p.yaml", pipeline("s3://nowhere/checkpoints", 25_000));
    let finished = gateway.reached_by(Millrace::run(&workspace, "p.yaml")).finish().expect_code(1);
    finished.expect_stderr(&["s3://nowhere/checkpoints", "NoSuchBucket"]);
}
