//! The standard input as a source: a file, and a pipe that ends.

use std::{fs::File, io::Write, os::fd::OwnedFd};

use millrace_tests::{Deadline, Millrace, Workspace, manifest, read};

const ROWS: i64 = 20_000;

fn pipeline() -> String {
    let sink = |name: &str| manifest::sink(name, &format!("file: {{path: out/{name}, format: {{json: {{}}}}}}"));
    [
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: piped}
spec:
  sources:
    - name: t
      stdin: {}
      format: {json: {}}
      columns: [{name: ts, type: TIMESTAMP}, {name: id, type: BIGINT}]
      eventTime: {column: ts}
      onError: DeadLetter
  transforms:
    - {name: counts, window: w, sql: \"SELECT window_start, count(*) AS n, sum(id) AS ids FROM t\"}
  outputs: [{from: counts, sink: counts}, {from: t.errors, sink: letters}]
",
        &manifest::window("w", "tumbling: {size: 10s}"),
        &sink("counts"),
        &sink("letters"),
    ]
    .concat()
}

fn rows() -> String {
    let row = |id: i64| format!("{{\"ts\":{},\"id\":{id}}}\n", 1_704_067_200_000 + id * 10);
    let (first, rest): (String, String) = ((0..100).map(row).collect(), (100..ROWS).map(row).collect());
    format!("{first}no row\n{rest}")
}

fn expect_all(workspace: &Workspace) {
    let counts = read::folder(&workspace.join("out/counts"));
    assert_eq!(counts.len() as i64, ROWS / 1000);
    assert!(counts.column("n").all(|n| n.int() == 1000), "{counts:?}");
    assert_eq!(counts.sum("ids"), ROWS * (ROWS - 1) / 2);
    let letters = read::folder(&workspace.join("out/letters"));
    assert_eq!(letters.len(), 1, "{letters:?}");
}

#[test]
fn the_standard_input_is_read_to_its_end_from_a_file() {
    let workspace = Workspace::new();
    workspace.write("p.yaml", pipeline());
    workspace.write("in.ndjson", rows());
    let input = File::open(workspace.join("in.ndjson")).unwrap();
    Millrace::run(&workspace, "p.yaml").stdin(input).finish().expect_success();
    expect_all(&workspace);
    // What cannot be read twice is not begun again: it has ended.
    let again = Millrace::run(&workspace, "p.yaml").finish().expect_success();
    again.expect_stderr(&["nothing is left to do"]);
    // Nor is what may be another input passed over in silence.
    let input = File::open(workspace.join("in.ndjson")).unwrap();
    let other = Millrace::run(&workspace, "p.yaml").stdin(input).finish().expect_code(1);
    other.expect_stderr(&["is finished, and there is another input now", "begin with an empty data folder"]);
    expect_all(&workspace);
}

#[test]
fn the_standard_input_is_read_from_a_pipe_until_that_is_closed() {
    let workspace = Workspace::new();
    workspace.write("p.yaml", pipeline());
    workspace.write("in.ndjson", rows());
    let piped = ["sh", "-c", "cat in.ndjson | \"$0\" \"$@\""];
    Millrace::wrapped(&workspace, &piped, ["run", "-f", "p.yaml", "--data-dir", "data"]).finish().expect_success();
    expect_all(&workspace);
}

#[test]
fn what_was_decided_of_the_standard_input_is_committed_after_a_kill_and_what_was_not_is_begun_anew() {
    for (point, input_is_needed) in [("before-pointer:1", true), ("before-commit:1", false)] {
        let workspace = Workspace::new();
        // The only checkpoint is that of the end.
        workspace.write("p.yaml", pipeline().replace("  sources:\n", "  checkpoints: {interval: 1h}\n  sources:\n"));
        workspace.write("in.ndjson", rows());
        let run = || Millrace::run(&workspace, "p.yaml");
        let input = || File::open(workspace.join("in.ndjson")).unwrap();
        let killed = run().stdin(input()).env("MILLRACE_FAULT_POINT", point).finish();
        assert_eq!(killed.signal(), Some(9), "{}", killed.stderr);
        let again = if input_is_needed { run().stdin(input()) } else { run() };
        again.finish().expect_success();
        expect_all(&workspace);
    }
}

#[test]
fn a_pipeline_that_was_killed_in_the_midst_of_its_standard_input_says_that_it_cannot_be_resumed() {
    let workspace = Workspace::new();
    let often = "  checkpoints: {interval: 50ms, minPause: 10ms}\n  sources:\n";
    workspace.write("p.yaml", pipeline().replace("  sources:\n", often));
    let (reader, mut writer) = std::io::pipe().unwrap();
    let running = Millrace::run(&workspace, "p.yaml").stdin(File::from(OwnedFd::from(reader))).start();
    let text = rows();
    writer.write_all(&text.as_bytes()[..text.len() / 2]).unwrap();
    let is_committed = || (!read::visible_files(&workspace.join("out/counts")).is_empty()).then_some(());
    Deadline::secs(60).wait_for("committed windows", is_committed);
    running.kill();
    workspace.write("in.ndjson", text);
    let input = File::open(workspace.join("in.ndjson")).unwrap();
    let refused = Millrace::run(&workspace, "p.yaml").stdin(input).finish();
    assert!(refused.code().is_some_and(|code| code != 0), "{}", refused.stderr);
    refused.expect_stderr(&["standard input"]);
}
