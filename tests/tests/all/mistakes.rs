//! Mistakes in manifests that are told before a run, and none of them hides another.

use millrace_tests::{Millrace, Workspace, manifest};

/// A Pipeline over a file of rows, with these further fields.
fn pipeline(format: &str, columns: &str, rest: &str) -> String {
    format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: p}}
spec:
  sources:
    - name: t
      file: {{paths: [in.ndjson]}}
      format: {{{format}: {{}}}}
      columns: [{columns}]
{rest}
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {{name: out}}
spec: {{stdout: {{}}}}
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {{name: lake}}
spec: {{delta: {{uri: out/lake}}}}
"
    )
}

const COLUMNS: &str = "{name: k, type: VARCHAR}, {name: v, type: BIGINT}";

/// What `millrace check` says, which must be refused, and that `millrace run` says the same and starts nothing.
fn refused(manifest: &str) -> String {
    let workspace = Workspace::new();
    workspace.write("p.yaml", manifest);
    workspace.write("in.ndjson", "");
    let checked = Millrace::new(&workspace, ["check", "-f", "p.yaml"]).finish().expect_code(2);
    let run = Millrace::run(&workspace, "p.yaml").finish().expect_code(2);
    assert_eq!(run.stderr, checked.stderr);
    assert!(!workspace.join("data").exists(), "nothing is started");
    checked.stderr
}

fn has(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not told:\n{said}");
    }
}

#[test]
fn errors_in_sql_stand_beside_unknown_sinks_windows_and_outputs() {
    let said = refused(&pipeline(
        "json",
        COLUMNS,
        "  transforms:
    - {name: a, sql: SELECT kk FROM t}
    - {name: b, sql: SELEC k FROM t}
    - {name: c, window: nowhere, sql: SELECT sum(k) AS s FROM t}
    - {name: d, sql: SELECT * FROM e}
    - {name: e, sql: SELECT * FROM d}
  outputs:
    - {from: a, sink: missing}
    - {from: nothing, sink: out}",
    ));
    has(
        &said,
        &[
            "p.yaml:11:29: there is no column `kk`",
            "p.yaml:12:22: ",
            "p.yaml:13:25: there is no Window `nowhere`",
            "p.yaml:13:46: there is no `sum(VARCHAR)`",
            "in a circle: d reads e reads d",
            "there is no Sink `missing`",
            "there is no source or transform `nothing`",
        ],
    );
}

#[test]
fn an_unknown_field_and_an_unknown_type_hide_no_error_in_sql() {
    let columns = "{name: k, type: VARCHARR}, {name: v, type: BIGINT}";
    let manifest = pipeline(
        "json",
        columns,
        "      onErorr: Drop
  transforms:
    - {name: a, sql: SELECT kk FROM t}
    - {name: b, sql: SELEC k FROM t}
    - {name: c, sql: SELECT k > 3 AS x FROM t}
  outputs:
    - {from: a, sink: out}",
    );
    let said = refused(&manifest);
    has(&said, &["VARCHARR", "onErorr", "there is no column `kk`", "SELEC"]);
    assert!(!said.contains("do not compare"), "the type of k is not known:\n{said}");
}

#[test]
fn each_type_error_has_its_own_place_inside_its_line() {
    let said = refused(&pipeline(
        "json",
        COLUMNS,
        "  transforms:
    - name: a
      sql: |
        SELECT v, upper(v) AS u, k + v AS x, v + 1
        FROM t
        WHERE k > 5
  outputs:
    - {from: a, sink: out}",
    ));
    has(&said, &["p.yaml:13:46: `v + 1` has no name"]);
    let said = refused(&pipeline(
        "json",
        COLUMNS,
        "  transforms:
    - name: a
      sql: |
        SELECT v, upper(v) AS u, k + v AS x
        FROM t
        WHERE k > 5
  outputs:
    - {from: a, sink: out}",
    ));
    has(
        &said,
        &[
            "p.yaml:13:19: there is no `upper(BIGINT)`",
            "p.yaml:13:34: cannot coerce arithmetic expression VARCHAR + BIGINT",
            "p.yaml:15:15: `k` is VARCHAR, and `5` is BIGINT: they do not compare",
            "CAST(k AS BIGINT)",
        ],
    );
}

#[test]
fn a_sample_is_refused_and_not_passed_over() {
    let said = refused(&pipeline(
        "json",
        COLUMNS,
        "  transforms:
    - {name: a, sql: SELECT k FROM t TABLESAMPLE BERNOULLI (10)}
  outputs:
    - {from: a, sink: out}",
    ));
    has(&said, &["p.yaml:11:38: TABLESAMPLE is not supported"]);
}

#[test]
fn what_would_fail_at_the_start_of_a_run_is_found_by_the_check() {
    let outputs = "  outputs:\n    - {from: t, sink: out}";
    let glob = pipeline("json", COLUMNS, outputs).replace("in.ndjson", "\"in/[.ndjson\"");
    has(&refused(&glob), &["p.yaml:7:22: this is no glob"]);
    for format in ["csv", "logfmt"] {
        let lists = pipeline(format, "{name: k, type: \"VARCHAR[]\"}", outputs);
        has(&refused(&lists), &["p.yaml:9:33: there are no lists in"]);
    }
    let storage = pipeline("json", COLUMNS, &format!("{outputs}\n  checkpoints: {{storage: \"ftp://host/a\"}}"));
    has(&refused(&storage), &["p.yaml:12:26: this version does not keep checkpoints in ftp stores"]);
    let case = pipeline(
        "json",
        COLUMNS,
        "  transforms:
    - {name: a, sql: 'SELECT k, v AS \"K\" FROM t'}
  outputs:
    - {from: a, sink: lake}",
    );
    has(&refused(&case), &["p.yaml:13:14: a Delta table cannot have the columns `k` and `K`"]);
    let grouping = pipeline(
        "json",
        COLUMNS,
        "  transforms:
    - {name: a, sql: 'SELECT k, grouping(k) AS g FROM t GROUP BY k'}
  outputs:
    - {from: a, sink: out}",
    );
    has(&refused(&grouping), &["`grouping` cannot run over a stream"]);
}

#[test]
fn outputs_of_different_columns_into_one_table_are_refused_and_of_the_same_are_both_there() {
    let two = |second: &str| {
        pipeline(
            "json",
            COLUMNS,
            &format!(
                "  transforms:
    - {{name: a, sql: SELECT k FROM t WHERE v > 1}}
    - {{name: b, sql: SELECT {second} AS k FROM t WHERE v <= 1}}
  outputs:
    - {{from: a, sink: lake}}
    - {{from: b, sink: lake}}"
            ),
        )
    };
    has(&refused(&two("v")), &["p.yaml:15:23: `a` and `b` both go to the Sink `lake`, and their columns differ"]);
    let workspace = Workspace::new();
    workspace.write("in.ndjson", "{\"k\":\"x\",\"v\":1}\n{\"k\":\"y\",\"v\":2}\n{\"k\":\"z\",\"v\":3}\n");
    workspace.write("p.yaml", two("k"));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    let table = millrace_tests::read::folder(&workspace.join("out/lake"));
    assert_eq!(table.len(), 3);
}

#[test]
fn a_data_folder_of_another_pipeline_is_refused_with_its_name() {
    let workspace = Workspace::new();
    Millrace::run(&workspace, "examples/hopping").finish().expect_success();
    let finished = Millrace::run(&workspace, "examples/session").finish().expect_code(2);
    finished.expect_stderr(&["belongs to pipeline hopping", "session", "data folder"]);
    Millrace::run(&workspace, "examples/hopping").finish().expect_success();
}

#[test]
fn a_generator_that_would_make_other_rows_is_not_taken_up_without_a_word() {
    let manifest = |seed: u64, more: &str| {
        format!(
            "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: p}}
spec:
  sources:
    - name: t
      generator: {{seed: {seed}, rows: 100, fields: [{{name: n, int: {{min: 0, max: 1000000000}}}}]}}
  outputs:
    - {{from: t, sink: out}}
{more}
"
        ) + &manifest::sink("out", "file: {path: out, format: {json: {}}}")
    };
    let workspace = Workspace::new();
    workspace.write("p.yaml", manifest(1, ""));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    workspace.write("p.yaml", manifest(2, ""));
    let refused = Millrace::run(&workspace, "p.yaml").finish().expect_code(2);
    refused.expect_stderr(&["`seed` changes", "allowStateLoss"]);
    workspace.write("p.yaml", manifest(2, "  allowStateLoss: [t]"));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    let rows: usize = millrace_tests::read::visible_files(&workspace.join("out"))
        .into_iter()
        .map(|(path, _)| std::fs::read_to_string(path).unwrap().lines().count())
        .sum();
    assert_eq!(rows, 200, "read from its beginning");
}

#[test]
fn a_sink_that_cannot_take_its_rows_is_shown_at_its_own_field() {
    let manifest = |partition_by: &str| {
        let transforms = "  transforms:
    - {name: a, sql: 'SELECT k, v FROM t'}
    - {name: b, sql: 'SELECT k, v + 1 AS w FROM t'}
  outputs:
    - {from: a, sink: lake}";
        let rest = format!("{transforms}\n    - {{from: b, sink: out}}");
        let sink = format!("delta:\n    uri: out/lake\n    partitionBy: {partition_by}");
        pipeline("json", COLUMNS, &rest).replace("{delta: {uri: out/lake}}", &format!("\n  {sink}"))
    };
    let line_of = |manifest: &str| 1 + manifest.lines().position(|line| line.contains("partitionBy")).unwrap();
    let unknown = manifest("[k, vv]");
    let said = refused(&unknown);
    let place = format!("p.yaml:{}:22: there is no column `vv` (output `a`)\n", line_of(&unknown));
    has(&said, &[&place, "expected one of k, v\n", "did you mean `v`?"]);
    assert_eq!(said.matches("p.yaml:").count(), 1, "{said}");

    let all = manifest("[k, v]");
    let said = refused(&all);
    let message = "every column names a partition, so the files would have none (output `a`)";
    has(
        &said,
        &[&format!("p.yaml:{}:5: {message}\n", line_of(&all)), "expected at least one column that is not in it"],
    );
    assert!(!said.contains("did you mean"), "{said}");

    // What is wrong with the Sink whatever comes is told once, though two outputs go to it.
    let elsewhere = manifest("[k]").replace("uri: out/lake", "uri: s3://lake/t").replace("sink: out", "sink: lake");
    let said = refused(&elsewhere.replace("    partitionBy: [k]\n", ""));
    has(&said, &["    uri: s3://lake/t\n"]);
    assert_eq!(said.matches("this version does not write to s3 stores").count(), 1, "{said}");
}

#[test]
fn a_name_in_allow_state_loss_that_no_node_has_or_had_is_warned_of() {
    let manifest = |name: &str, allowed: &str| {
        format!(
            "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: p}}
spec:
  sources:
    - name: numbers
      file: {{paths: [in.ndjson]}}
      format: {{json: {{}}}}
      columns: [{COLUMNS}]
  transforms:
    - {{name: {name}, sql: 'SELECT k, sum(v) AS s FROM numbers GROUP BY k'}}
  outputs:
    - {{from: {name}, sink: out}}
  allowStateLoss: [{allowed}]
"
        ) + &manifest::sink("out", "file: {path: out, format: {json: {}}}")
    };
    let workspace = Workspace::new();
    workspace.write("in.ndjson", "{\"k\":\"a\",\"v\":1}\n");
    let warning = |name: &str| format!("`allowStateLoss` names `{name}`, and no source or transform is called so");
    let run = |name: &str, allowed: &str| {
        workspace.write("p.yaml", manifest(name, allowed));
        Millrace::run(&workspace, "p.yaml").finish().expect_success().stderr
    };
    // What is like no name may be that of a node which goes; what is like one is probably misspelled.
    let check = |allowed: &str| {
        workspace.write("p.yaml", manifest("sums", allowed));
        Millrace::new(&workspace, ["check", "-f", "p.yaml"]).finish().expect_success().stderr
    };
    assert_eq!(check("sums, numbers, somewhere"), "");
    has(&check("sumz"), &["p.yaml:14:20: warning: no source or transform is called `sumz`", "did you mean `sums`?"]);

    has(&run("sums", "sumz"), &[&warning("sumz"), "did you mean `sums`?"]);
    // It is right for a node that the edit takes away, of which there is another name.
    workspace.write("old.yaml", manifest("sums", ""));
    workspace.write("p.yaml", manifest("totals", "sums, nope"));
    let planned =
        Millrace::new(&workspace, ["plan", "-f", "p.yaml", "--against", "old.yaml"]).finish().expect_success();
    has(&planned.stderr, &[&warning("nope")]);
    assert!(!planned.stderr.contains(&warning("sums")), "{}", planned.stderr);
    let edited = run("totals", "sums, nope");
    has(&edited, &[&warning("nope")]);
    assert!(!edited.contains(&warning("sums")), "{edited}");
}
