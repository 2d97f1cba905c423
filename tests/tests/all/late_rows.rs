//! Rows behind the watermark, under rolling windows and sessions: the worked examples of docs/windows.md through the command,
//! row by row, and an `allowedLateness` that is edited while they wait.

use std::path::Path;

use millrace_tests::{Deadline, Millrace, Running, Table, Workspace, exposition::Exposition, http, manifest, read};

/// Event time of second 0, in milliseconds.
const BEGINS: i64 = 1_704_067_200_000;

/// A pipeline over a log that is followed, whose event time may be in disorder by `disorder`.
fn manifests(disorder: &str, window: &str, lateness: &str, sql: &str) -> String {
    let pipeline = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: late}}
spec:
  checkpoints: {{interval: 50ms, minPause: 10ms}}
  sources:
    - name: t
      file: {{paths: [in.log], follow: true, pollInterval: 10ms}}
      format: {{json: {{}}}}
      columns: [{{name: ts, type: TIMESTAMP}}, {{name: k, type: VARCHAR}}, {{name: v, type: BIGINT}}]
      eventTime: {{column: ts, maxOutOfOrderness: {disorder}}}
  transforms:
    - {{name: results, window: w, sql: \"{sql}\"}}
  outputs:
    - {{from: results, sink: results}}
    - {{from: results.late, sink: late}}
"
    );
    [
        pipeline,
        manifest::window("w", &format!("{window}\n  allowedLateness: {lateness}\n  lateRows: SideOutput")),
        manifest::sink("results", "file: {path: out/results, format: {json: {}}}"),
        manifest::sink("late", "file: {path: out/late, format: {json: {}}}"),
    ]
    .concat()
}

/// Seconds since the first one, of a column of milliseconds.
const SECONDS: &str = "/ 1000 - 1704067200000) / 1000";

const ROLLING: &str =
    "SELECT (CAST(ts AS BIGINT) / 1000 - 1704067200000) / 1000 AS at, k, sum(v) AS vs FROM t GROUP BY k";

/// Appends rows of key `a`: second and value.
fn append(workspace: &Workspace, rows: &[(i64, i64)]) {
    let line = |(at, v): &(i64, i64)| format!("{{\"ts\":{},\"k\":\"a\",\"v\":{v}}}\n", BEGINS + at * 1000);
    workspace.append("in.log", rows.iter().map(line).collect::<String>());
}

fn table(folder: &Path) -> Table {
    if folder.exists() { read::folder(folder) } else { Table::default() }
}

/// Waits until the results are these and no others.
fn expect(workspace: &Workspace, running: &Running, columns: &[&str], expected: &[&[i64]]) {
    let found = || {
        let rows = table(&workspace.join("out/results")).rows;
        let mut rows: Vec<Vec<i64>> =
            rows.iter().map(|row| columns.iter().map(|column| row[*column].int()).collect()).collect();
        rows.sort_unstable();
        rows
    };
    let mut expected: Vec<Vec<i64>> = expected.iter().map(|row| row.to_vec()).collect();
    expected.sort_unstable();
    Deadline::secs(60).poll(|| (found().len() >= expected.len()).then_some(()));
    assert_eq!(found(), expected, "{}", running.stderr());
}

/// Waits until the late rows have these values and no others.
fn expect_late(workspace: &Workspace, running: &Running, expected: &[i64]) {
    let found = || table(&workspace.join("out/late")).column("v").map(|v| v.int()).collect::<Vec<i64>>();
    Deadline::secs(60).poll(|| (found().len() >= expected.len()).then_some(()));
    assert_eq!(found(), expected, "{}", running.stderr());
}

fn edit(workspace: &Workspace, running: &Running, manifests: String) {
    workspace.write("late.yaml", manifests);
    Deadline::secs(60).wait_for("the edit", || running.stderr().contains("edit taken up").then_some(()));
}

#[test]
fn a_row_behind_the_watermark_of_a_rolling_window_counts_for_the_rows_that_have_not_come_out() {
    let workspace = Workspace::new();
    let pipeline = |lateness: &str| manifests("5s", "rolling: {range: 10s}", lateness, ROLLING);
    workspace.write("late.yaml", pipeline("5s"));
    append(&workspace, &[(1, 1), (6, 2), (6, 4), (12, 8)]);
    let running = Millrace::run(&workspace, "late.yaml").args(["--watch", "--listen", "127.0.0.1:0"]).start();
    let address = http::address(&running);
    let late_rows = || Exposition::read(&http::get(address, "/metrics").body).value("millrace_late_rows_total", &[]);
    let columns = ["at", "vs"];
    let first: [&[i64]; 3] = [&[1, 1], &[6, 7], &[6, 7]];
    expect(&workspace, &running, &columns, &first);
    // The watermark is at 7s, and comes to 13s.
    append(&workspace, &[(4, 16)]);
    let second: [&[i64]; 4] = [first[0], first[1], first[2], &[4, 17]];
    expect(&workspace, &running, &columns, &second);
    append(&workspace, &[(18, 64)]);
    let third: [&[i64]; 5] = [second[0], second[1], second[2], second[3], &[12, 30]];
    expect(&workspace, &running, &columns, &third);
    append(&workspace, &[(7, 32)]);
    Deadline::secs(60).wait_for("the late row", || (late_rows() == 1.0).then_some(()));
    expect_late(&workspace, &running, &[32]);

    // A longer lateness holds at once: as far behind, and no longer late. What it should have counted for has come out.
    edit(&workspace, &running, pipeline("7s"));
    append(&workspace, &[(7, 128)]);
    // Rows at 1s, 4s, 6s, 6s, and itself; not the late one.
    let fourth: [&[i64]; 6] = [third[0], third[1], third[2], third[3], third[4], &[7, 1 + 16 + 2 + 4 + 128]];
    expect(&workspace, &running, &columns, &fourth);
    append(&workspace, &[(30, 256)]);
    // The row at 18s has those from after 8s.
    let fifth: [&[i64]; 7] = [fourth[0], fourth[1], fourth[2], fourth[3], fourth[4], fourth[5], &[18, 8 + 64]];
    expect(&workspace, &running, &columns, &fifth);
    running.terminate();
    running.wait().expect_success();
}

#[test]
fn a_row_behind_the_watermark_joins_open_sessions_or_makes_one_of_its_own() {
    let sql = format!(
        "SELECT (CAST(window_start AS BIGINT) {SECONDS} AS starts, (CAST(window_end AS BIGINT) {SECONDS} AS ends, k, \
         sum(v) AS vs FROM t GROUP BY k"
    );
    let workspace = Workspace::new();
    let pipeline = |lateness: &str| manifests("0s", "session: {gap: 10s}", lateness, &sql);
    workspace.write("late.yaml", pipeline("5s"));
    append(&workspace, &[(3, 1), (9, 2), (30, 4)]);
    let running = Millrace::run(&workspace, "late.yaml").args(["--watch"]).start();
    let columns = ["starts", "ends", "vs"];
    let first: [&[i64]; 1] = [&[3, 19, 3]];
    expect(&workspace, &running, &columns, &first);
    // At 30s: a session of 14s would have ended at 24s, and for good at 29s; one of 17s at 32s; 21s joins that of 30s.
    append(&workspace, &[(14, 8)]);
    expect_late(&workspace, &running, &[8]);
    append(&workspace, &[(21, 16)]);
    append(&workspace, &[(60, 32)]);
    let second: [&[i64]; 2] = [first[0], &[21, 40, 20]];
    expect(&workspace, &running, &columns, &second);
    // At 60s: 46s is less than 10s + 5s behind, and near no session that is open.
    append(&workspace, &[(46, 64)]);
    // A session comes out when the watermark next moves.
    append(&workspace, &[(61, 1)]);
    let third: [&[i64]; 3] = [second[0], second[1], &[46, 56, 64]];
    expect(&workspace, &running, &columns, &third);
    append(&workspace, &[(44, 128)]);
    expect_late(&workspace, &running, &[8, 128]);

    // A longer lateness holds at once, and does not bring back what came out.
    edit(&workspace, &running, pipeline("20s"));
    append(&workspace, &[(44, 256)]);
    append(&workspace, &[(100, 512)]);
    let fourth: [&[i64]; 5] = [third[0], third[1], third[2], &[44, 54, 256], &[60, 71, 33]];
    expect(&workspace, &running, &columns, &fourth);
    expect_late(&workspace, &running, &[8, 128]);
    running.terminate();
    running.wait().expect_success();
}
