//! The control socket of a data folder: savepoints of a running pipeline, and what is said where none runs.

use millrace_tests::{Deadline, Finished, Millrace, Running, Workspace, manifest, read};

const PIPELINE: &str = "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: saved}
spec:
  checkpoints: {interval: 200ms, minPause: 10ms}
  sources:
    - name: events
      generator: {rows: 200000, rate: 20000, fields: [{name: id, sequence: {}}, {name: ts, timestamp: {start: \"2024-01-01T00:00:00Z\", step: 1ms}}]}
      eventTime: {column: ts}
  transforms:
    - {name: some, sql: \"SELECT id FROM events WHERE id % 1000 = 0\"}
    - {name: counts, window: w, sql: \"SELECT window_start, count(*) AS n, sum(id) AS ids FROM events\"}
  outputs:
    - {from: some, sink: some}
    - {from: counts, sink: counts}
";

fn manifests() -> String {
    [
        PIPELINE,
        &manifest::window("w", "tumbling: {size: 10s}"),
        &manifest::sink("some", "file: {path: out/some, format: {json: {}}}"),
        &manifest::sink("counts", "file: {path: out/counts, format: {json: {}}}"),
    ]
    .concat()
}

fn start(workspace: &Workspace, data: &str, args: &[&str]) -> Running {
    workspace.write("saved.yaml", manifests());
    Millrace::new(workspace, ["run", "-f", "saved.yaml", "--data-dir", data].iter().chain(args)).start()
}

fn checkpoints(workspace: &Workspace, verb: &str, data: &str, args: &[&str]) -> Finished {
    Millrace::new(workspace, ["checkpoints", verb, "--data-dir", data].iter().chain(args)).finish()
}

fn rows_of(workspace: &Workspace, least: usize) {
    Deadline::secs(60)
        .wait_for("committed rows", || (read::folder(&workspace.join("out/some")).len() >= least).then_some(()));
}

#[test]
fn a_running_pipeline_takes_a_savepoint_which_stays_until_it_is_deleted() {
    let workspace = Workspace::new();
    let running = start(&workspace, "data", &[]);
    rows_of(&workspace, 20);
    let name = checkpoints(&workspace, "savepoint", "data", &[]).expect_success().stdout.trim().to_owned();
    assert!(name.starts_with("savepoint-"), "{name}");
    rows_of(&workspace, 80);
    running.terminate();
    running.wait().expect_success();

    // Many checkpoints have come and gone since.
    let list = checkpoints(&workspace, "list", "data", &[]).expect_success().stdout;
    let line = list.lines().find(|line| line.starts_with(&name)).unwrap_or_else(|| panic!("no {name} in\n{list}"));
    assert!(line.contains("savepoint") && line.contains("kept"), "{list}");
    assert_eq!(list.matches(" checkpoint ").count(), 3, "the newest three are kept:\n{list}");
    let shown = checkpoints(&workspace, "inspect", "data", &[&name]).expect_success().stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert!(shown.to_string().contains(&name), "{shown:#}");

    // Another folder starts from it, and makes the rest of the rows; those from the savepoint on come once more.
    let newest = list.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let refused = checkpoints(&workspace, "delete", "data", &[&newest]).expect_code(2);
    refused.expect_stderr(&["Millrace keeps and deletes those itself"]);
    checkpoints(&workspace, "delete", "data", &["savepoint-0"]).expect_code(2).expect_stderr(&["savepoint-0", &name]);
    let missing = ["run", "-f", "saved.yaml", "--data-dir", "data", "--from-savepoint", "savepoint-0"];
    Millrace::new(&workspace, missing).finish().expect_code(2).expect_stderr(&["savepoint-0", &name]);
    std::fs::remove_dir_all(workspace.join("out")).unwrap();
    start(&workspace, "data", &["--from-savepoint", &name]).wait().expect_success();
    let some = read::folder(&workspace.join("out/some"));
    let first = some.column("id").map(millrace_tests::Cell::int).min().unwrap();
    assert!(first > 0, "what was read before the savepoint is not read again");
    assert_eq!(some.len() as i64, (200_000 - first) / 1_000, "from the savepoint on nothing is missing or twice");
    let counts = read::folder(&workspace.join("out/counts"));
    assert!(counts.column("n").all(|n| n.int() == 10_000), "open windows are in the savepoint: {counts:?}");

    checkpoints(&workspace, "delete", "data", &[&name]).expect_success();
    let list = checkpoints(&workspace, "list", "data", &[]).expect_success().stdout;
    assert!(!list.contains(&name), "{list}");
}

#[test]
fn a_socket_that_a_killed_process_left_is_told_from_one_that_answers() {
    let workspace = Workspace::new();
    let running = start(&workspace, "data", &[]);
    rows_of(&workspace, 1);
    running.kill();
    assert!(workspace.join("data/control").exists(), "a killed process cleans nothing up");
    let refused = checkpoints(&workspace, "savepoint", "data", &[]).expect_code(1);
    refused.expect_stderr(&["no pipeline runs in data", "millrace run"]);

    // The next process has a socket of its own in its place.
    let running = start(&workspace, "data", &[]);
    rows_of(&workspace, 10);
    checkpoints(&workspace, "savepoint", "data", &[]).expect_success();
    running.terminate();
    running.wait().expect_success();
    assert!(!workspace.join("data/control").exists(), "who stops cleans up");
    let refused = checkpoints(&workspace, "savepoint", "data", &[]).expect_code(1);
    refused.expect_stderr(&["no pipeline runs in data"]);
}

#[test]
fn a_data_folder_with_a_long_path_has_a_socket_all_the_same() {
    let workspace = Workspace::new();
    let data = format!("{}/{}/data", "long".repeat(30), "longer".repeat(20));
    let running = start(&workspace, &data, &[]);
    rows_of(&workspace, 1);
    checkpoints(&workspace, "savepoint", &data, &[]).expect_success();
    running.terminate();
    running.wait().expect_success();
}

#[test]
fn of_two_that_start_in_one_folder_one_is_told_of_the_other_and_the_first_keeps_its_socket() {
    let workspace = Workspace::new();
    let first = start(&workspace, "data", &[]);
    rows_of(&workspace, 1);
    let second = start(&workspace, "data", &[]).wait().expect_code(2);
    second.expect_stderr(&[&format!("process {}", first.pid())]);
    checkpoints(&workspace, "savepoint", "data", &[]).expect_success();
    first.terminate();
    first.wait().expect_success();
}
