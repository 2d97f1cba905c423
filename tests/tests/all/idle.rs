//! Sources that fall silent while windows are still giving out their rows.

use std::fmt::Write;

use crate::commits::ask;
use millrace_tests::{Deadline, Millrace, Seed, Workspace, manifest, read};

const ROWS: i64 = 200_000;
const FIRST_MS: i64 = 1_709_251_200_000;

/// Seconds are added up to minutes. Both have far more state than the budget has room for, and others beside them keep the tasks
/// busy, so that each of the two is at another place when their sources become idle.
fn pipeline(follow: bool) -> String {
    let lists: String = (0..4)
        .map(|n| {
            format!(
                "    - {{name: list{n}, window: seconds, sql: \"SELECT k, array_agg(id) AS ids FROM t GROUP BY k\"}}\n"
            )
        })
        .collect();
    let beside: String = (0..4).map(|n| format!("    - {{from: list{n}, sink: lists}}\n")).collect();
    let text = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: idle}}
spec:
  parallelism: 2
  checkpoints: {{interval: 300ms, minPause: 50ms, memoryBudget: 1Mi}}
  sources:
    - name: t
      file: {{paths: [in/*], follow: {follow}, pollInterval: 100ms}}
      format: {{json: {{timestampUnit: Milliseconds}}}}
      columns: [{{name: ts, type: TIMESTAMP}}, {{name: id, type: BIGINT}}, {{name: k, type: BIGINT}}]
      eventTime: {{column: ts, maxOutOfOrderness: 2s, idleTimeout: 300ms}}
  transforms:
    - {{name: firsts, window: seconds, sql: \"SELECT k, window_start, count(*) AS n FROM t GROUP BY k\"}}
    - {{name: sums, window: minutes, sql: \"SELECT k, window_start, sum(n) AS n FROM firsts GROUP BY k\"}}
{lists}  outputs:
    - {{from: firsts, sink: firsts}}
    - {{from: sums, sink: sums}}
    - {{from: sums.late, sink: late}}
{beside}"
    );
    let sink = |name: &str| manifest::sink(name, &format!("file: {{path: out/{name}, format: {{json: {{}}}}}}"));
    let windows = manifest::window("seconds", "tumbling: {size: 5s}")
        + &manifest::window("minutes", "{tumbling: {size: 1m}, lateRows: SideOutput}");
    text + &windows + &["firsts", "sums", "late", "lists"].map(sink).concat()
}

#[test]
fn windows_over_windows_lose_no_row_when_sources_become_idle_before_the_first_has_given_out_its_rows() {
    let mut seed = Seed::of_test("idle sources");
    let workspace = Workspace::new();
    let mut rows = String::new();
    for id in 0..ROWS {
        let ts = FIRST_MS + id * 10 - seed.between(0, 1_900);
        writeln!(rows, "{{\"ts\":{ts},\"id\":{id},\"k\":{}}}", seed.between(0, 150_000)).unwrap();
    }
    workspace.write("in/a.ndjson", rows);
    // One that has said its only word long before.
    workspace.write("in/b.ndjson", format!("{{\"ts\":{FIRST_MS},\"id\":-1,\"k\":-1}}\n"));
    workspace.write("p.yaml", pipeline(true));
    let running = Millrace::run(&workspace, "p.yaml").start();
    let counted = |output: &str| read::folder(&workspace.join(output)).sum("n");
    Deadline::secs(120).wait_for("most rows of the first window", || {
        (workspace.join("out/firsts").is_dir() && counted("out/firsts") > ROWS * 9 / 10).then_some(())
    });
    running.terminate();
    running.wait().expect_success();
    workspace.write("p.yaml", pipeline(false));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    let late = read::visible_files(&workspace.join("out/late")).len();
    assert_eq!((counted("out/firsts"), counted("out/sums"), late), (ROWS + 1, ROWS + 1, 0));
}

#[test]
fn tasks_that_have_no_followed_file_hold_no_window_open() {
    let workspace = Workspace::new();
    let rows: String = (0..400).map(|id| format!("{{\"ts\":{},\"id\":{id},\"k\":0}}\n", FIRST_MS + id * 100)).collect();
    workspace.write("in/a.ndjson", rows);
    let pipeline = pipeline(true).replace("parallelism: 2", "parallelism: 3").replace(", idleTimeout: 300ms", "");
    workspace.write("p.yaml", pipeline);
    let running = Millrace::run(&workspace, "p.yaml").start();
    // 40 s of event time, of which 2 s may still come: the window that begins at 35 s is open.
    let counted =
        || if workspace.join("out/firsts").is_dir() { read::folder(&workspace.join("out/firsts")).sum("n") } else { 0 };
    Deadline::secs(60).wait_for("the windows that are over", || (counted() >= 350).then_some(()));
    // The tasks that stand by hide nobody's watermark, checkpoint after checkpoint.
    let mut seen = Vec::new();
    Deadline::secs(60).wait_for("three checkpoints", || {
        let status: serde_json::Value = serde_json::from_str(&ask(&workspace, "/api/v1/pipeline")).ok()?;
        let nodes = status["nodes"].as_array()?;
        let source = nodes.iter().find(|node| node["name"] == "t")?;
        seen.push((status["checkpoint"]["epoch"].as_u64()?, source["watermark"].clone()));
        seen.dedup();
        (seen.len() > 3).then_some(())
    });
    assert!(seen.iter().all(|(_, watermark)| !watermark.is_null()), "{seen:?}");
    // A file that another task reads holds them open again, and has no late rows that are within the bound.
    workspace.append("in/b.ndjson", format!("{{\"ts\":{},\"id\":-1,\"k\":1}}\n", FIRST_MS + 38_500));
    running.terminate();
    running.wait().expect_success();
    assert_eq!(counted(), 350);
    workspace.write("p.yaml", self::pipeline(false));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    assert_eq!(counted(), 401);
}
