//! Starts that find something damaged.

use std::{
    fs,
    path::{Path, PathBuf},
};

use millrace_tests::{Deadline, Millrace, Workspace, manifest, read};

const ROWS: i64 = 200_000;

fn pipeline(interval: &str) -> String {
    let numbers = manifest::numbers(ROWS, 40000);
    let pipeline = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: recovered}}
spec:
  checkpoints: {{interval: {interval}, minPause: 10ms, retain: 3}}
  sources:
    - name: events
      {numbers}
      eventTime: {{column: ts}}
  transforms:
    - {{name: counts, window: w, sql: \"SELECT id % 1000 AS k, window_start, count(*) AS n FROM events GROUP BY id % 1000\"}}
  outputs:
    - {{from: counts, sink: counts}}
"
    );
    [
        &pipeline[..],
        &manifest::window("w", "tumbling: {size: 10s}"),
        &manifest::sink("counts", "file: {path: out, format: {json: {}}}"),
    ]
    .concat()
}

/// A pipeline that was killed after a few checkpoints, and its manifests, oldest first.
fn killed() -> (Workspace, Vec<PathBuf>) {
    let workspace = Workspace::new();
    workspace.write("recovered.yaml", pipeline("100ms"));
    let running = Millrace::run(&workspace, "recovered.yaml").start();
    let out = workspace.join("out");
    Deadline::secs(60).wait_for("committed rows", || (read::folder(&out).len() >= 4000).then_some(()));
    running.terminate();
    running.wait().expect_success();
    let manifests = read::all_files(&workspace.join("data/checkpoints/recovered/manifests"));
    assert_eq!(manifests.len(), 3, "{manifests:?}");
    let mut manifests: Vec<PathBuf> = manifests.into_iter().map(|(path, _)| path).collect();
    manifests.sort_by_key(|manifest| epoch_of(manifest));
    (workspace, manifests)
}

fn epoch_of(manifest: &Path) -> u64 {
    manifest.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().parse().unwrap()
}

fn expect_whole(workspace: &Workspace) {
    let counts = read::folder(&workspace.join("out"));
    assert_eq!((counts.len() as i64, counts.sum("n")), (ROWS / 10, ROWS));
}

/// The files that a manifest names and another does not.
fn only_in(store: &Path, manifest: &Path, other: &Path) -> Vec<PathBuf> {
    let (named, also) = (fs::read_to_string(manifest).unwrap(), fs::read_to_string(other).unwrap());
    let files = read::all_files(&store.join("files")).into_iter().map(|(path, _)| path);
    let is_named = |path: &Path, by: &str| by.contains(path.file_name().unwrap().to_str().unwrap());
    files.filter(|path| is_named(path, &named) && !is_named(path, &also)).collect()
}

#[test]
fn an_old_checkpoint_whose_manifest_is_damaged_does_not_keep_a_run_from_going_on() {
    let (workspace, manifests) = killed();
    fs::write(&manifests[0], "{").unwrap();
    let finished = Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
    assert!(finished.stderr.contains("a checkpoint is damaged"), "but is told: {}", finished.stderr);
    expect_whole(&workspace);
    // It has expired, and nothing of it is left after the next start.
    Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
    let left = read::all_files(&workspace.join("data/checkpoints/recovered/manifests"));
    assert!(left.iter().all(|(path, _)| !manifests.contains(path)), "{left:?}");
}

#[test]
fn an_old_checkpoint_that_lacks_a_file_is_told_of_while_rows_flow() {
    let (workspace, manifests) = killed();
    let store = workspace.join("data/checkpoints/recovered");
    let files = only_in(&store, &manifests[0], &manifests[2]);
    fs::remove_file(files.first().expect("each checkpoint has a file of its own")).unwrap();
    // Nothing expires while this runs.
    workspace.write("recovered.yaml", pipeline("1h"));
    let running = Millrace::run(&workspace, "recovered.yaml").start();
    let told = || running.stderr().contains("a kept checkpoint is damaged; this run does not need it").then_some(());
    Deadline::secs(60).wait_for("word of the damage", told);
    running.wait().expect_success();
    expect_whole(&workspace);
}

#[test]
fn the_newest_checkpoint_that_lacks_a_file_is_refused_with_the_one_before_it_that_is_whole() {
    let (workspace, manifests) = killed();
    let store = workspace.join("data/checkpoints/recovered");
    for (damaged, whole) in [(2, 0), (1, 0)] {
        let files = only_in(&store, &manifests[damaged], &manifests[whole]);
        files.iter().for_each(|file| fs::remove_file(file).unwrap());
    }
    let refused = Millrace::run(&workspace, "recovered.yaml").finish().expect_code(1);
    let (newest, oldest) = (epoch_of(&manifests[2]), epoch_of(&manifests[0]));
    refused.expect_stderr(&[
        &format!("checkpoint {newest}, the newest, is damaged; checkpoint {oldest} before it is sound"),
        "--allow-previous-checkpoint",
    ]);
}
