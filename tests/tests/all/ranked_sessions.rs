//! The first rows of sessions: which of them are the same window.

use millrace_tests::{Millrace, Table, Workspace, manifest, read};

/// Event time of second 0, in milliseconds.
const BEGINS: i64 = 1_704_067_200_000;

/// Keys and the seconds of their rows. With a gap of 5 s, `a` and `b` begin at 0 and end at 3, `c` and `d` begin at 2 and end
/// at 3, and `e` has sessions of its own.
const ROWS: [(&str, i64); 13] = [
    ("a", 0),
    ("b", 0),
    ("b", 1),
    ("c", 2),
    ("c", 2),
    ("d", 2),
    ("d", 2),
    ("d", 3),
    ("a", 3),
    ("b", 3),
    ("c", 3),
    ("c", 3),
    ("e", 20),
];

fn manifests() -> String {
    let pipeline = "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: ranked}
spec:
  parallelism: 2
  sources:
    - name: t
      file: {paths: [in.log]}
      format: {json: {}}
      columns: [{name: ts, type: TIMESTAMP}, {name: k, type: VARCHAR}]
      eventTime: {column: ts}
  transforms:
    - {name: first, window: w, sql: \"SELECT k, count(*) AS n FROM t GROUP BY k ORDER BY n DESC LIMIT 1\"}
    - name: placed
      window: w
      sql: |
        SELECT start, k, n, place FROM (
          SELECT window_start AS start, k, count(*) AS n, ROW_NUMBER() OVER (ORDER BY count(*), k) AS place FROM t GROUP BY k
        ) WHERE place <= 2
  outputs:
    - {from: first, sink: first}
    - {from: placed, sink: placed}
";
    [
        pipeline,
        &manifest::window("w", "session: {gap: 5s}"),
        &manifest::sink("first", "file: {path: out/first, format: {json: {}}}"),
        &manifest::sink("placed", "file: {path: out/placed, format: {json: {}}}"),
    ]
    .concat()
}

fn lines(table: &Table, columns: &[&str]) -> Vec<String> {
    let line = |row: &millrace_tests::Row| {
        columns.iter().map(|column| row[*column].to_string().replace('"', "")).collect::<Vec<_>>().join(" ")
    };
    let mut lines: Vec<String> = table.rows.iter().map(line).collect();
    lines.sort();
    lines
}

#[test]
fn the_first_rows_of_sessions_are_those_of_one_start_and_one_end() {
    let workspace = Workspace::new();
    let row = |(k, at): &(&str, i64)| format!("{{\"ts\":{},\"k\":\"{k}\"}}\n", BEGINS + at * 1000);
    workspace.append("in.log", ROWS.iter().map(row).collect::<String>());
    workspace.write("ranked.yaml", manifests());
    Millrace::run(&workspace, "ranked.yaml").finish().expect_success();
    let first = read::folder(&workspace.join("out/first"));
    assert_eq!(lines(&first, &["k", "n"]), ["b 3", "c 4", "e 1"], "`a` and `d` have fewer in the same window");
    let placed = read::folder(&workspace.join("out/placed"));
    assert_eq!(lines(&placed, &["k", "n", "place"]), ["a 2 1", "b 3 2", "c 4 2", "d 3 1", "e 1 1"]);
}
