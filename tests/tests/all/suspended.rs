//! What a manifest says for a cluster, and what `run` makes of it.

use millrace_tests::{Cell, Deadline, Millrace, Workspace, manifest, read};

const ROWS: i64 = 120_000;

fn pipeline(more: &str) -> String {
    let pipeline = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: suspended}}
spec:
  {more}
  sources:
    - name: events
      generator: {{rows: {ROWS}, rate: 40000, fields: [{{name: id, sequence: {{}}}}]}}
  transforms:
    - {{name: some, sql: SELECT id FROM events WHERE id % 100 = 0}}
  outputs:
    - {{from: some, sink: out}}
"
    );
    [&pipeline[..], &manifest::sink("out", "file: {path: out, format: {json: {}}}")].concat()
}

#[test]
fn a_suspended_pipeline_is_not_started() {
    let workspace = Workspace::new();
    workspace.write("suspended.yaml", pipeline("suspend: true"));
    for args in [vec![], vec!["--watch"]] {
        let refused = Millrace::run(&workspace, "suspended.yaml").args(args).finish().expect_code(2);
        refused.expect_stderr(&["pipeline suspended is suspended", "nothing was started"]);
    }
    assert!(!workspace.join("data").exists());
}

#[test]
fn a_pipeline_that_is_suspended_while_it_runs_stops_at_a_final_checkpoint() {
    let workspace = Workspace::new();
    let often = "checkpoints: {interval: 100ms, minPause: 10ms}";
    workspace.write("suspended.yaml", pipeline(often));
    let running = Millrace::run(&workspace, "suspended.yaml").args(["--watch"]).start();
    Deadline::secs(60).wait_for("committed rows", || (!read::folder(&workspace.join("out")).is_empty()).then_some(()));
    workspace.write("suspended.yaml", pipeline(&format!("{often}\n  suspend: true")));
    let stopped = running.wait().expect_success();
    assert!(
        stopped.stderr.contains("suspended (`suspend: true`): stopping at a final checkpoint"),
        "{}",
        stopped.stderr
    );
    let rows = read::folder(&workspace.join("out")).len() as i64;
    assert!(rows < ROWS / 100, "it stopped before the end");
    workspace.write("suspended.yaml", pipeline(often));
    Millrace::run(&workspace, "suspended.yaml").finish().expect_success();
    let mut ids: Vec<i64> = read::folder(&workspace.join("out")).column("id").map(Cell::int).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..ROWS / 100).map(|id| id * 100).collect::<Vec<_>>());
}

#[test]
fn run_says_what_of_a_manifest_is_for_a_cluster() {
    let workspace = Workspace::new();
    let more = "deployment: {replicas: 2}\n  checkpoints: {onDelete: Delete}";
    workspace.write("suspended.yaml", pipeline(more).replace(", rate: 40000", ""));
    let finished = Millrace::run(&workspace, "suspended.yaml").finish().expect_success();
    finished.expect_stderr(&[
        "note: `deployment` is for a cluster",
        "note: `checkpoints.onDelete: Delete` is for a cluster",
    ]);
}
