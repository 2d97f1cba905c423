//! The command line as a person meets it: exit codes, errors with their places, help.

use millrace_tests::{Millrace, Workspace, read};

#[test]
fn a_bad_manifest_gets_all_its_errors_at_once_and_nothing_is_started() {
    let workspace = Workspace::new();
    workspace.write(
        "bad.yaml",
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: bad}
spec:
  sources:
    - name: t
      file: {paths: [in.ndjson]}
      stdin: {}
      format: {json: {}}
      columns:
        - {name: ts, type: TIMESTAMPP}
        - {name: tenant, type: VARCHAR}
      eventTime: {column: ts, maxOutOfOrderness: 5 parsecs}
      onErorr: Drop
  transforms:
    - {name: a, window: nowhere, sql: SELECT tenent FROM t}
    - {name: b, sql: SELEC tenant FROM t}
  outputs:
    - {from: a, sink: missing}
",
    );
    let finished = Millrace::run(&workspace, "bad.yaml").finish().expect_code(2);
    let said = finished.expect_stderr(&[
        "bad.yaml:",
        "TIMESTAMPP",
        "5 parsecs",
        "onErorr",
        "onError",
        "stdin",
        "missing",
        "nowhere",
    ]);
    assert!(!workspace.join("data").exists(), "nothing was started: {}", said.stderr);
}

#[test]
fn a_column_that_does_not_exist_is_told_with_its_place_and_those_that_do() {
    let workspace = Workspace::new();
    workspace.write(
        "p.yaml",
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: p}
spec:
  sources:
    - name: t
      file: {paths: [in.ndjson]}
      format: {json: {}}
      columns: [{name: tenant, type: VARCHAR}, {name: status, type: INT}]
  transforms:
    - name: a
      sql: |
        SELECT tenant
        FROM t WHERE stauts >= 500
  outputs:
    - {from: a, sink: out}
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {name: out}
spec:
  stdout: {}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: somebody-elses}
",
    );
    let finished = Millrace::new(&workspace, ["check", "-f", "p.yaml"]).finish().expect_code(2);
    finished.expect_stderr(&["p.yaml:14:22", "stauts", "status", "tenant", "ConfigMap"]);
}

#[test]
fn every_example_passes_the_check_and_has_a_plan() {
    let workspace = Workspace::new();
    let examples = workspace.join("examples");
    for (path, _) in read::visible_files(&examples) {
        if path.extension().is_none_or(|extension| extension != "yaml")
            || path.ends_with("window.yaml")
            || path.ends_with("sinks.yaml")
        {
            continue;
        }
        let path = if path.parent().unwrap().ends_with("nexmark") { &path } else { path.parent().unwrap() };
        let path = path.to_str().unwrap();
        Millrace::new(&workspace, ["check", "-f", path]).finish().expect_success();
        let plan = Millrace::new(&workspace, ["plan", "-f", path]).finish().expect_success();
        assert!(plan.stdout.lines().count() > 2, "{path}: {}", plan.stdout);
    }
}

#[test]
fn help_has_examples_and_an_unknown_command_exits_with_2() {
    let workspace = Workspace::new();
    for command in ["run", "check", "plan", "checkpoints list", "checkpoints savepoint", "schema", "completions"] {
        let help = Millrace::new(&workspace, command.split(' ').chain(["--help"])).finish().expect_success();
        assert!(help.stdout.contains("Example"), "{command}: {}", help.stdout);
        assert!(!help.stdout.contains('\u{1b}'), "no colours where NO_COLOR is set");
    }
    Millrace::new(&workspace, ["walk"]).finish().expect_code(2);
    Millrace::run(&workspace, "nowhere.yaml").finish().expect_code(2).expect_stderr(&["nowhere.yaml"]);
}

#[test]
fn manifests_come_from_standard_input_too() {
    let workspace = Workspace::new();
    let manifest = std::fs::File::open(workspace.join("examples/hopping/pipeline.yaml")).unwrap();
    Millrace::new(&workspace, ["run", "-f", "-", "--data-dir", "data"]).stdin(manifest).finish().expect_success();
    assert!(!read::visible_files(&workspace.join("out/hopping/popular")).is_empty());
}

#[test]
fn checkpoints_are_listed_and_inspected() {
    let workspace = Workspace::new();
    Millrace::run(&workspace, "examples/hopping").finish().expect_success();
    let list = Millrace::new(&workspace, ["checkpoints", "list", "--data-dir", "data"]).finish().expect_success();
    assert!(list.stdout.lines().count() >= 2, "{}", list.stdout);
}
