//! A source that had come to its end and has more to read after an edit: what had come out stays as it is, and what comes then
//! comes out as if there had been no end between.

use std::fmt::Write;

use millrace_tests::{Cell, Deadline, Millrace, Table, Workspace, manifest, read};

/// How many rows there are at first, a tenth of a second apart; and with the edit.
const ROWS: (i64, i64) = (1_000, 2_000);

/// Each with the window or the time that it goes by, its SQL, and whether its results are those of one run without an end: where
/// it has windows across it, they are closed by the end.
const TRANSFORMS: [(&str, &str, &str, bool); 8] = [
    ("tumbling", "window: ten, ", "SELECT k, window_start, count(*) AS n, sum(id) AS ids FROM t GROUP BY k", true),
    ("hopping", "window: hop, ", "SELECT k, window_start, count(*) AS n, sum(id) AS ids FROM t GROUP BY k", false),
    ("patient", "window: late, ", "SELECT window_start, window_pane, count(*) AS n FROM t", true),
    ("session", "window: gap, ", "SELECT k, window_start, window_end, count(*) AS n FROM s GROUP BY k", true),
    ("rolling", "window: roll, ", "SELECT k, id, count(*) AS n, sum(id) AS ids FROM t GROUP BY k", true),
    ("firsts", "within: 7s, ", "SELECT DISTINCT ON (k) ts, id, k FROM t", true),
    (
        "top",
        "window: ten, ",
        "SELECT k, window_start, count(*) AS n FROM t GROUP BY k ORDER BY n DESC, k LIMIT 2",
        true,
    ),
    ("hours", "window: minute, ", "SELECT window_start, sum(n) AS n FROM tumbling", false),
];

fn manifests(source: &str) -> String {
    let (mut transforms, mut outputs, mut sinks) = (String::new(), String::new(), String::new());
    for (name, by, sql, _) in TRANSFORMS {
        let _ = writeln!(transforms, "    - {{name: {name}, {by}sql: \"{sql}\"}}");
        let _ = writeln!(outputs, "    - {{from: {name}, sink: {name}}}");
        sinks += &manifest::sink(name, &format!("file: {{path: out/{name}, format: {{json: {{}}}}}}"));
    }
    for (name, spec) in [
        ("ten", "tumbling: {size: 10s}"),
        ("hop", "hopping: {size: 10s, slide: 4s}"),
        ("late", "tumbling: {size: 10s}\n  allowedLateness: 1m"),
        ("gap", "session: {gap: 3s}"),
        ("roll", "rolling: {range: 15s}"),
        ("minute", "tumbling: {size: 1m}"),
    ] {
        sinks += &manifest::window(name, spec);
    }
    format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: more}}
spec:
  parallelism: 2
  checkpoints: {{interval: 50ms, minPause: 10ms}}
  sources:
    - name: t
{source}      eventTime: {{column: ts}}
  transforms:
    # Nothing for five seconds of ten.
    - {{name: s, sql: SELECT * FROM t WHERE id % 100 < 50}}
{transforms}  outputs:
{outputs}{sinks}"
    )
}

/// The results of a transform, and of the whole windows only: across the end there is one that the end has closed.
fn results(workspace: &Workspace, name: &str, is_same: bool) -> Table {
    let mut table = read::folder(&workspace.join(format!("out/{name}")));
    let end = 1_704_067_200_000_000_000 + ROWS.0 * 100_000_000;
    if !is_same {
        let length = if name == "hopping" { 10_000_000_000 } else { 60_000_000_000 };
        table
            .rows
            .retain(|row| matches!(row["window_start"], Cell::Time(start) if start >= end || start + length <= end));
    }
    table
}

fn expect_the_same(workspace: &Workspace, whole: &Workspace) {
    for (name, _, _, is_same) in TRANSFORMS {
        results(workspace, name, is_same).expect_same(&results(whole, name, is_same), name);
    }
    // Each row once; those that an open window would have had and that came after its end are late.
    let sum = |name: &str, of: &str| read::folder(&workspace.join(format!("out/{name}"))).sum(of);
    assert_eq!((sum("tumbling", "n"), sum("session", "n")), (ROWS.1, ROWS.1 / 2));
    assert_eq!(sum("patient", "n"), ROWS.1, "nothing is corrected");
}

const GENERATOR: &str = "      generator: {rows: ROWS, rate: 1000, seed: 3, fields: [{name: id, sequence: {}}, \
                         {name: k, int: {min: 0, max: 6}}, {name: ts, timestamp: {start: \"2024-01-01T00:00:00Z\", step: 100ms}}]}\n";

fn generated(rows: i64) -> String {
    manifests(&GENERATOR.replace("ROWS", &rows.to_string()))
}

#[test]
fn a_generator_that_is_to_have_more_rows_goes_on_after_its_end() {
    let whole = Workspace::new();
    whole.write("p.yaml", generated(ROWS.1));
    Millrace::run(&whole, "p.yaml").finish().expect_success();

    let workspace = Workspace::new();
    workspace.write("p.yaml", generated(ROWS.0));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    workspace.write("p.yaml", generated(ROWS.1));
    for point in ["after-pointer:1", "before-commit:2", "snapshot-frozen:20"] {
        let killed = Millrace::run(&workspace, "p.yaml").env("MILLRACE_FAULT_POINT", point).finish();
        assert_eq!(killed.signal(), Some(9), "{}", killed.stderr);
    }
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    expect_the_same(&workspace, &whole);
}

fn lines(ids: std::ops::Range<i64>) -> String {
    let line = |id: i64| {
        let (minute, second, tenth) = (id / 600, id / 10 % 60, id % 10);
        format!("{{\"id\":{id},\"k\":{},\"ts\":\"2024-01-01T00:{minute:02}:{second:02}.{tenth}Z\"}}\n", id * 7 % 5)
    };
    ids.map(line).collect()
}

fn files(more: &str) -> String {
    let columns = "[{name: id, type: BIGINT}, {name: k, type: BIGINT}, {name: ts, type: TIMESTAMP}]";
    let file = format!("      file: {{paths: [in/*.ndjson]{more}}}\n      format: {{json: {{}}}}\n");
    manifests(&format!("{file}      columns: {columns}\n"))
}

#[test]
fn files_that_come_after_the_end_are_read_by_the_next_run() {
    let whole = Workspace::new();
    whole.write("in/a.ndjson", lines(0..ROWS.1));
    whole.write("p.yaml", files(""));
    Millrace::run(&whole, "p.yaml").finish().expect_success();

    let workspace = Workspace::new();
    workspace.write("p.yaml", files(""));
    workspace.write("in/a.ndjson", lines(0..ROWS.0));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    let again = || Millrace::run(&workspace, "p.yaml").finish().expect_success();
    again().expect_stderr(&["nothing is left to do"]);
    workspace.write("in/b.ndjson", lines(ROWS.0..ROWS.1));
    for point in ["before-pointer:1", "after-pointer:1"] {
        let killed = Millrace::run(&workspace, "p.yaml").env("MILLRACE_FAULT_POINT", point).finish();
        assert_eq!(killed.signal(), Some(9), "{}", killed.stderr);
    }
    again();
    expect_the_same(&workspace, &whole);
    again().expect_stderr(&["nothing is left to do"]);
    // So are lines that were added, but not what goes on in the last row.
    workspace.append("in/b.ndjson", lines(ROWS.1..ROWS.1 + 1).trim_end());
    again().expect_stderr(&["there is more to read since"]);
    workspace.append("in/b.ndjson", "\n");
    again().expect_stderr(&["a file has grown since it was read to its end", "in/b.ndjson", "nothing is left to do"]);
}

#[test]
fn the_files_of_a_finished_source_may_go_while_those_of_another_come() {
    let workspace = Workspace::new();
    let source = |name: &str| {
        format!(
            "    - name: {name}\n      file: {{paths: [in/{name}*.ndjson]}}\n      format: {{json: {{}}}}\n      \
             columns: [{{name: id, type: BIGINT}}]\n"
        )
    };
    let manifests = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: two}}
spec:
  sources:
{}{}  transforms:
    - {{name: all, sql: SELECT id FROM a UNION ALL SELECT id FROM b}}
  outputs: [{{from: all, sink: rows}}]
{}",
        source("a"),
        source("b"),
        manifest::sink("rows", "file: {path: out, format: {json: {}}}")
    );
    workspace.write("p.yaml", manifests);
    workspace.write("in/a1.ndjson", lines(0..10));
    workspace.write("in/b1.ndjson", lines(10..20));
    let mut ids: i64 = (0..20).sum();
    for run in 1..5 {
        Millrace::run(&workspace, "p.yaml").finish().expect_success();
        assert_eq!(read::folder(&workspace.join("out")).sum("id"), ids, "run {run}");
        if run == 1 {
            std::fs::remove_file(workspace.join("in/a1.ndjson")).unwrap();
        }
        workspace.write(format!("in/b{}.ndjson", run + 1), lines(run * 100..run * 100 + 1));
        ids += run * 100;
    }
}

#[test]
fn files_that_were_read_to_their_ends_and_are_followed_then_go_on() {
    let whole = Workspace::new();
    whole.write("in/a.ndjson", lines(0..ROWS.1));
    whole.write("p.yaml", files(""));
    Millrace::run(&whole, "p.yaml").finish().expect_success();

    let workspace = Workspace::new();
    workspace.write("in/a.ndjson", lines(0..ROWS.0));
    workspace.write("p.yaml", files(""));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    // More in a file that is known, and a file that is not.
    workspace.append("in/a.ndjson", lines(ROWS.0..ROWS.0 + 400));
    workspace.write("p.yaml", files(", follow: true"));
    let running = Millrace::run(&workspace, "p.yaml").start();
    let seen = |least: usize| read::folder(&workspace.join("out/rolling")).len() >= least;
    Deadline::secs(60).wait_for("what was appended", || seen(ROWS.0 as usize + 300).then_some(()));
    running.signal("KILL");
    running.wait();
    workspace.append("in/a.ndjson", lines(ROWS.0 + 400..ROWS.1));
    // Bounded again: to its end.
    workspace.write("p.yaml", files(""));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    expect_the_same(&workspace, &whole);
}

#[test]
fn what_the_end_has_closed_stays_closed_with_another_number_of_tasks() {
    let manifests = |rows: i64, tasks: usize| {
        let fields = "[{name: id, sequence: {}}, {name: k, string: {cardinality: 3, prefix: k}}, \
                      {name: ts, timestamp: {start: \"2024-01-01T00:00:00Z\", step: 1s}}]";
        let names = ["ranked", "tumbling", "session"];
        let pipeline = manifest::Pipeline {
            name: "closed",
            checkpoints: "",
            more: &format!("  parallelism: {tasks}"),
            events: &format!("generator: {{rows: {rows}, rate: 2000, fields: {fields}}}"),
            transforms: &[
                (
                    "ranked",
                    "ten",
                    "SELECT k, ws, id, r FROM (SELECT k, window_start AS ws, id, \
                     ROW_NUMBER() OVER (PARTITION BY k ORDER BY id) AS r FROM events) WHERE r <= 2",
                ),
                ("tumbling", "ten", "SELECT k, window_start, count(*) AS n FROM events GROUP BY k"),
                ("session", "gap", "SELECT k, window_start, window_end, count(*) AS n FROM events GROUP BY k"),
            ],
            outputs: &names.map(|name| (name, name)),
        };
        let sink = |name: &str| manifest::sink(name, &format!("file: {{path: out/{name}, format: {{json: {{}}}}}}"));
        let windows = [("ten", "tumbling: {size: 10s}"), ("gap", "session: {gap: 30s}")]
            .map(|(name, of)| manifest::window(name, of));
        format!("{pipeline}{}{}", windows.concat(), names.map(sink).concat())
    };
    let workspace = Workspace::new();
    // Each end is in the midst of a window, and some tasks have had no row by the first.
    for (rows, tasks) in [(5, 4), (17, 2), (23, 3), (25, 1), (96, 4), (99, 2), (200, 3)] {
        workspace.write("p.yaml", manifests(rows, tasks));
        Millrace::run(&workspace, "p.yaml").finish().expect_success();
    }
    let seen = |name: &str, key: &[&str]| {
        let rows = read::folder(&workspace.join(format!("out/{name}"))).rows;
        let mut seen: Vec<String> =
            rows.iter().map(|row| key.iter().map(|of| format!("{} ", row[*of])).collect()).collect();
        seen.sort();
        seen
    };
    for (name, key) in
        [("ranked", &["k", "ws", "r"][..]), ("tumbling", &["k", "window_start"]), ("session", &["k", "window_start"])]
    {
        let seen = seen(name, key);
        let least = if name == "session" { 6 } else { 40 };
        assert!(seen.len() >= least && seen.windows(2).all(|two| two[0] != two[1]), "{name}: {seen:#?}");
    }
    assert!(read::folder(&workspace.join("out/session")).sum("n") <= 200, "a row is in two sessions");
}
