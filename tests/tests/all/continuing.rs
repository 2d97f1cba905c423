//! Stopping, going on, and being finished; two processes on one data folder.

use std::time::Duration;

use millrace_tests::{Cell, Deadline, Millrace, Workspace, manifest, read, wait};

/// Counts 200,000 rows at 40,000 a second into windows of ten seconds, and passes every thousandth on.
const PIPELINE: &str = "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: counted}
spec:
  checkpoints: {interval: 100ms, minPause: 10ms}
  sources:
    - name: events
      generator: {rows: 120000, rate: 40000, fields: [{name: id, sequence: {}}, {name: ts, timestamp: {start: \"2024-01-01T00:00:00Z\", step: 1ms}}]}
      eventTime: {column: ts}
  transforms:
    - {name: some, sql: SELECT id FROM events WHERE id % 1000 = 0}
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
        &manifest::sink("counts", "parquet: {uri: out/counts}"),
    ]
    .concat()
}

fn expect_all_counted(workspace: &Workspace) {
    let some = read::folder(&workspace.join("out/some"));
    assert_eq!(some.len(), 120);
    assert_eq!(some.sum("id"), (0..120).map(|id| id * 1000).sum::<i64>());
    let counts = read::folder(&workspace.join("out/counts"));
    assert_eq!(counts.len(), 12);
    assert!(counts.column("n").all(|n| n.int() == 10_000), "{counts:?}");
    assert_eq!(counts.sum("ids"), 120_000 * 119_999 / 2);
}

fn some_rows(workspace: &Workspace, least: usize) {
    Deadline::secs(30)
        .wait_for("committed rows", || (read::folder(&workspace.join("out/some")).len() >= least).then_some(()));
}

#[test]
fn a_pipeline_that_is_asked_to_stop_goes_on_where_it_stopped() {
    for signal in ["TERM", "INT"] {
        let workspace = Workspace::new();
        workspace.write("counted.yaml", manifests());
        for least in [1, 20, 40] {
            let running = Millrace::run(&workspace, "counted.yaml").start();
            some_rows(&workspace, least);
            running.signal(signal);
            running.wait().expect_success();
        }
        Millrace::run(&workspace, "counted.yaml").finish().expect_success();
        expect_all_counted(&workspace);
    }
}

#[test]
fn a_finished_pipeline_that_is_run_again_has_nothing_left_to_do() {
    let workspace = Workspace::new();
    workspace.write("counted.yaml", manifests().replace("rate: 40000, ", ""));
    Millrace::run(&workspace, "counted.yaml").finish().expect_success();
    expect_all_counted(&workspace);
    let before = read::all_files(&workspace.join("out"));
    let again = Millrace::run(&workspace, "counted.yaml").finish().expect_success();
    assert!(again.stderr.contains("finished"), "says why it does nothing: {}", again.stderr);
    assert_eq!(read::all_files(&workspace.join("out")), before);
}

#[test]
fn a_second_process_on_the_same_data_folder_is_told_who_holds_it() {
    let workspace = Workspace::new();
    workspace.write("counted.yaml", manifests());
    let first = Millrace::run(&workspace, "counted.yaml").start();
    some_rows(&workspace, 1);
    let second = Millrace::run(&workspace, "counted.yaml").finish().expect_code(2);
    assert!(second.stderr.contains(&first.pid().to_string()), "names the holder: {}", second.stderr);
    assert!(second.elapsed < Duration::from_secs(10));
    first.wait().expect_success();
    expect_all_counted(&workspace);
}

#[test]
fn a_pipeline_that_was_stopped_for_a_moment_by_the_machine_goes_on() {
    let workspace = Workspace::new();
    workspace.write("counted.yaml", manifests());
    let running = Millrace::run(&workspace, "counted.yaml").start();
    some_rows(&workspace, 1);
    running.signal("STOP");
    wait::pass(Duration::from_secs(1));
    running.signal("CONT");
    running.wait().expect_success();
    expect_all_counted(&workspace);
}

#[test]
fn files_that_were_read_to_their_ends_are_read_on_once_their_source_follows() {
    let workspace = Workspace::new();
    let manifests = |follow: bool| {
        let sink = manifest::sink("out", "file: {path: out, format: {json: {}}}");
        format!(
            "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: grown}}
spec:
  checkpoints: {{interval: 100ms, minPause: 10ms}}
  sources:
    - name: rows
      file: {{paths: [\"in/*\"], follow: {follow}, pollInterval: 50ms}}
      format: {{json: {{}}}}
      columns: [{{name: n, type: BIGINT}}]
  transforms:
    - {{name: t, sql: SELECT n FROM rows}}
  outputs:
    - {{from: t, sink: out}}
{sink}"
        )
    };
    let found = || {
        let mut found: Vec<i64> = read::folder(&workspace.join("out")).column("n").map(Cell::int).collect();
        found.sort_unstable();
        found
    };
    let append = |name: &str, text: &str| {
        let mut file = std::fs::OpenOptions::new().append(true).open(workspace.join(name)).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    };
    workspace.write("in/a", "{\"n\":1}\n{\"n\":2}\n");
    workspace.write("in/empty", "");
    workspace.write("in/still", "{\"n\":3}\n");
    workspace.write("grown.yaml", manifests(false));
    // Finished twice: what had ended when it began has ended as what it comes to the end of has.
    for _ in 0..2 {
        Millrace::run(&workspace, "grown.yaml").finish().expect_success();
        assert_eq!(found(), [1, 2, 3]);
    }

    append("in/a", "{\"n\":4}\n");
    workspace.write("grown.yaml", manifests(true));
    let running = Millrace::run(&workspace, "grown.yaml").start();
    Deadline::secs(30).wait_for("what came between", || (found() == [1, 2, 3, 4]).then_some(()));
    append("in/a", "{\"n\":5}\n");
    append("in/empty", "{\"n\":6}\n");
    Deadline::secs(30).wait_for("what came since", || (found() == [1, 2, 3, 4, 5, 6]).then_some(()));
    running.signal("TERM");
    running.wait().expect_success();
    workspace.write("grown.yaml", manifests(false));
    Millrace::run(&workspace, "grown.yaml").finish().expect_success();
    assert_eq!(found(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn checkpoints_that_would_stay_behind_in_another_place_are_told_and_nothing_is_read_again() {
    let workspace = Workspace::new();
    let with = |storage: &str| {
        manifests()
            .replace("minPause: 10ms}", &format!("minPause: 10ms{storage}}}"))
            .replace("rate: 40000", "rate: 80000")
    };
    workspace.write("counted.yaml", with(""));
    let killed = Millrace::run(&workspace, "counted.yaml").env("MILLRACE_FAULT_POINT", "after-pointer:4").finish();
    assert_eq!(killed.signal(), Some(9), "{}", killed.stderr);
    workspace.write("counted.yaml", with(", storage: kept"));
    let refused = Millrace::run(&workspace, "counted.yaml").finish().expect_code(2);
    assert!(refused.stderr.contains("data/checkpoints: they would stay behind"), "{}", refused.stderr);
    assert!(!workspace.join("kept").exists());
    workspace.write("counted.yaml", with(""));
    Millrace::run(&workspace, "counted.yaml").finish().expect_success();
    expect_all_counted(&workspace);
}
