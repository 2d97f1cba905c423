//! What a running pipeline says over HTTP: metrics, health, readiness and the overview.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpListener,
};

use millrace_tests::{
    Deadline, Millrace, Running, Workspace, exposition::Exposition, http, manifest, read, workspace::repository,
};

/// Rows of a followed file, in windows of ten seconds that wait for nobody.
const PIPELINE: &str = "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: watched}
spec:
  checkpoints: {interval: 100ms, minPause: 10ms}
  sources:
    - name: requests
      file: {paths: [in/*.ndjson], follow: true, pollInterval: 50ms}
      format: {json: {}}
      columns: [{name: ts, type: TIMESTAMP}, {name: id, type: BIGINT}]
      eventTime: {column: ts}
      onError: Drop
  transforms:
    - {name: even, sql: \"SELECT ts, id FROM requests WHERE id % 2 = 0\"}
    - {name: counts, window: w, sql: \"SELECT window_start, count(*) AS n FROM requests\"}
  outputs:
    - {from: even, sink: even}
    - {from: counts, sink: counts}
";

fn manifests() -> String {
    [
        PIPELINE,
        &manifest::window("w", "tumbling: {size: 10s}"),
        &manifest::sink("even", "file: {path: out/even, format: {json: {}}}"),
        &manifest::sink("counts", "parquet: {uri: out/counts}"),
    ]
    .concat()
}

/// Rows that are 100 ms apart.
fn rows(from: i64, to: i64) -> String {
    (from..to).map(|id| format!("{{\"ts\":{},\"id\":{id}}}\n", 1_704_067_200_000 + id * 100)).collect()
}

fn start(workspace: &Workspace) -> Running {
    workspace.write("watched.yaml", manifests());
    Millrace::run(workspace, "watched.yaml").args(["--listen", "127.0.0.1:0"]).start()
}

fn status(address: std::net::SocketAddr, path: &str) -> Option<u16> {
    http::ask(address, "GET", path, "").map(|answer| answer.status)
}

#[test]
fn the_metrics_keep_to_the_format_and_agree_with_what_ran() {
    let workspace = Workspace::new();
    workspace.write("in/a.ndjson", rows(0, 1_000));
    let running = start(&workspace);
    let address = http::address(&running);
    let seen = |name: &str, value: f64, labels: &[(&str, &str)]| {
        Deadline::secs(30).poll(|| {
            let page = Exposition::read(&http::get(address, "/metrics").body);
            (page.families.get(name).is_some_and(|family| !family.samples.is_empty())
                && page.value(name, labels) >= value)
                .then_some(())
        });
    };
    // The first thousand rows close nine of their windows.
    seen("millrace_committed_rows_total", 509.0, &[]);
    workspace.append("in/a.ndjson", format!("no row\n{{\"ts\":\"never\"}}\n{}", rows(0, 7)));
    seen("millrace_late_rows_total", 7.0, &[("stage", "counts")]);
    seen("millrace_committed_rows_total", 513.0, &[]);

    let answer = http::get(address, "/metrics");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", answer.head);
    let page = Exposition::read(&answer.body);
    let rows_of = |name: &str, stage: &str| page.value(name, &[("stage", stage)]);
    assert_eq!(rows_of("millrace_stage_rows_in_total", "requests"), 1_009.0);
    assert_eq!(rows_of("millrace_source_bad_rows_total", "requests"), 2.0);
    assert_eq!(rows_of("millrace_stage_rows_in_total", "counts"), 1_007.0);
    assert_eq!(rows_of("millrace_late_rows_total", "counts"), 7.0);
    assert_eq!(rows_of("millrace_stage_rows_in_total", "even->even"), 504.0);
    assert_eq!(page.value("millrace_transform_rows_out_total", &[("transform", "even")]), 504.0);
    assert_eq!(page.value("millrace_transform_rows_out_total", &[("transform", "counts")]), 9.0);
    assert_eq!(page.value("millrace_committed_rows_total", &[]), 513.0);
    assert_eq!(page.value("millrace_checkpoints_failed_total", &[]), 0.0);
    assert_eq!(page.value("millrace_running", &[]), 1.0);
    assert_eq!(page.value("millrace_source_lag_bytes", &[("stage", "requests")]), 0.0);
    let bytes = fs::metadata(workspace.join("in/a.ndjson")).unwrap().len();
    assert_eq!(rows_of("millrace_source_bytes_total", "requests"), bytes as f64);
    assert_eq!(page.value("millrace_task_watermark_timestamp_seconds", &[("stage", "requests")]), 1_704_067_299.9);

    let completed = page.value("millrace_checkpoints_completed_total", &[]);
    let timed = &page.families["millrace_checkpoint_duration_seconds"];
    let count = timed.samples.iter().find(|(name, ..)| name.ends_with("_count")).unwrap().2;
    assert!(completed >= 2.0 && (completed - count).abs() <= 1.0, "{completed} checkpoints, {count} durations");
    assert!(page.value("millrace_checkpoint_epoch", &[]) >= completed);

    let open = http::ask(address, "GET", "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n").unwrap();
    assert!(open.head.contains("content-type: application/openmetrics-text"), "{}", open.head);
    assert!(open.body.ends_with("# EOF\n") && open.body.contains("# TYPE millrace_committed_rows counter\n"));
    running.terminate();
    running.wait().expect_success();
}

#[test]
fn a_pipeline_is_ready_while_rows_flow_and_alive_all_the_time() {
    let workspace = Workspace::new();
    workspace.write("in/a.ndjson", rows(0, 100));
    let stalled_at = |point: &str, interval: &str| {
        workspace.write("watched.yaml", manifests().replace("interval: 100ms", interval));
        let run = Millrace::run(&workspace, "watched.yaml").args(["--listen", "127.0.0.1:0"]);
        run.env("MILLRACE_FAULT_POINT", &format!("{point}:1:stall")).start()
    };
    let starting = stalled_at("before-recover", "interval: 1h");
    let address = http::address(&starting);
    assert_eq!((status(address, "/readyz"), status(address, "/healthz")), (Some(503), Some(200)));
    assert_eq!(http::get(address, "/api/v1/pipeline").json()["phase"], "Starting");
    starting.kill();

    let stopping = stalled_at("before-manifest", "interval: 1h");
    let address = http::address(&stopping);
    Deadline::secs(30).wait_for("readiness", || (status(address, "/readyz") == Some(200)).then_some(()));
    stopping.terminate();
    Deadline::secs(30).wait_for("its end", || (status(address, "/readyz") == Some(503)).then_some(()));
    assert_eq!((http::get(address, "/readyz").body.as_str(), status(address, "/healthz")), ("Stopping\n", Some(200)));
    stopping.kill();
}

#[test]
fn health_is_told_and_a_checkpoint_given_up_while_tasks_keep_all_their_threads_busy() {
    let workspace = Workspace::new();
    let wide = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let pipeline = manifest::Pipeline {
        name: "busy",
        checkpoints: "interval: 200ms, minPause: 1ms, timeout: 1s",
        more: &format!("  parallelism: {wide}\n"),
        events: &manifest::numbers(10_000_000, 10_000),
        transforms: &[
            ("ones", "w", "SELECT id % 1000 AS k, count(*) AS n FROM events GROUP BY id % 1000"),
            ("tens", "w", "SELECT id % 77 AS k, count(*) AS n FROM events GROUP BY id % 77"),
        ],
        outputs: &[("ones", "ones"), ("tens", "tens")],
    };
    let sink = |name: &str| manifest::sink(name, &format!("file: {{path: out/{name}, format: {{json: {{}}}}}}"));
    workspace.write(
        "busy.yaml",
        [pipeline.to_string(), manifest::window("w", "tumbling: {size: 10s}"), sink("ones"), sink("tens")].concat(),
    );
    // More tasks than there are threads for them fall asleep in the first checkpoint.
    let stalls: Vec<String> = (1..=wide + 1).map(|nth| format!("snapshot-frozen:{nth}:stall")).collect();
    let run = Millrace::run(&workspace, "busy.yaml").args(["--listen", "127.0.0.1:0"]);
    let running = run.env("MILLRACE_FAULT_POINT", &stalls.join(",")).start();
    let address = http::address(&running);
    Deadline::secs(60)
        .wait_for("the end of a checkpoint", || running.stderr().contains("checkpoint failed").then_some(()));
    assert_eq!(status(address, "/healthz"), Some(200));
    running.kill();
}

#[test]
fn a_pipeline_that_restarts_is_not_ready_meanwhile_and_one_that_failed_is_gone() {
    let workspace = Workspace::new();
    workspace.write("in/a.ndjson", rows(0, 100));
    workspace.write("watched.yaml", manifests());
    let run = Millrace::run(&workspace, "watched.yaml").args(["--listen", "127.0.0.1:0"]);
    let running = run.env("MILLRACE_FAULT_POINT", "sink-prepared:1:error").start();
    let address = http::address(&running);
    Deadline::secs(30).wait_for("the restart", || {
        let answer = http::get(address, "/readyz");
        (answer.status == 503 && answer.body == "Restarting\n").then_some(())
    });
    Deadline::secs(30).wait_for("readiness", || (status(address, "/readyz") == Some(200)).then_some(()));
    let page = Exposition::read(&http::get(address, "/metrics").body);
    assert_eq!(page.value("millrace_restarts_total", &[]), 1.0);
    let report = http::get(address, "/api/v1/pipeline").json();
    assert!(report["lastError"].as_str().is_some_and(|error| error.contains("sink-prepared")), "{report:#}");
    running.terminate();
    running.wait().expect_success();

    workspace.write("watched.yaml", manifests().replace("onError: Drop", "onError: Fail"));
    let failing = Millrace::run(&workspace, "watched.yaml").args(["--listen", "127.0.0.1:0"]).start();
    let address = http::address(&failing);
    Deadline::secs(30).wait_for("readiness", || (status(address, "/readyz") == Some(200)).then_some(()));
    workspace.append("in/a.ndjson", "no row\n");
    failing.wait().expect_code(1).expect_stderr(&["in/a.ndjson", "no row"]);
    assert_eq!(status(address, "/healthz"), None);
}

#[test]
fn the_overview_shows_the_graph_as_the_documentation_says() {
    let workspace = Workspace::new();
    workspace.write("in/a.ndjson", rows(0, 1_000));
    let running = start(&workspace);
    let address = http::address(&running);
    let report = Deadline::secs(30).wait_for("a rate and a commit", || {
        workspace.append("in/a.ndjson", rows(990, 1_000));
        let report = http::get(address, "/api/v1/pipeline").json();
        let flows = report["nodes"][0]["rowsInPerSecond"].as_f64().is_some_and(|rate| rate > 0.0);
        (flows && report["committed"].as_u64().is_some()).then_some(report)
    });
    assert_eq!((&report["name"], &report["phase"]), (&"watched".into(), &"Running".into()));
    let nodes = report["nodes"].as_array().unwrap();
    let shape: Vec<String> =
        nodes.iter().map(|node| format!("{} {} {}", node["kind"], node["name"], node["inputs"])).collect();
    assert!(shape.contains(&"\"source\" \"requests\" []".to_owned()), "{shape:?}");
    assert!(shape.contains(&"\"transform\" \"counts\" [\"requests\"]".to_owned()), "{shape:?}");
    assert!(shape.iter().any(|node| node.starts_with("\"sink\"") && node.ends_with("[\"even\"]")), "{shape:?}");
    let source = nodes.iter().find(|node| node["name"] == "requests").unwrap();
    assert_eq!(source["watermark"], 1_704_067_299_900_i64);
    assert!(source["backpressure"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{source}");
    assert!(report["checkpoint"]["durationSeconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{report:#}");

    // The tables of the documentation name these fields, and no others.
    let text = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let (_, section) = text.split_once("### `/api/v1/pipeline`").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let documented: BTreeSet<String> = rows.map(|(name, _)| name.to_owned()).collect();
    let keys = |value: &serde_json::Value, prefix: &str| -> Vec<String> {
        value.as_object().unwrap().keys().map(|key| format!("{prefix}{key}")).collect()
    };
    let mut found: BTreeSet<String> = keys(&report, "").into_iter().collect();
    found.extend(keys(&report["checkpoint"], "checkpoint."));
    found.extend(nodes.iter().flat_map(|node| keys(node, "nodes[].")));
    // Files count bytes; a generator has this one in its place.
    assert!(found.contains("nodes[].lagBytes") && found.insert("nodes[].lagRows".to_owned()), "{found:?}");
    assert_eq!(documented, found);
    running.terminate();
    running.wait().expect_success();
}

/// A pipeline on two tasks a stage, with a branch, and the same on one and without it.
fn rescaled(parallelism: u32, outputs: &str) -> String {
    let numbers = manifest::numbers(100_000_000, 2_000);
    [
        format!(
            "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: watched}}
spec:
  parallelism: {parallelism}
  checkpoints: {{interval: 100ms, minPause: 10ms}}
  sources:
    - name: ids
      {numbers}
      eventTime: {{column: ts}}
  transforms:
    - {{name: counts, window: w, sql: \"SELECT id % 8 AS k, count(*) AS n FROM ids GROUP BY id % 8\"}}
    - {{name: branch, sql: \"SELECT id FROM ids WHERE id % 100 = 0\"}}
  outputs:
    - {{from: counts, sink: counts}}
{outputs}"
        ),
        manifest::window("w", "tumbling: {size: 1s}"),
        manifest::sink("counts", "file: {path: out/counts, format: {json: {}}}"),
        manifest::sink("branch", "file: {path: out/branch, format: {json: {}}}"),
    ]
    .concat()
}

#[test]
fn what_an_edit_has_ended_is_shown_no_more_and_what_runs_moves_on() {
    let workspace = Workspace::new();
    workspace.write("watched.yaml", rescaled(2, "    - {from: branch, sink: branch}\n"));
    let running = Millrace::run(&workspace, "watched.yaml").args(["--listen", "127.0.0.1:0", "--watch"]).start();
    let address = http::address(&running);
    let page = || Exposition::read(&http::get(address, "/metrics").body);
    let tasks = |page: &Exposition| -> BTreeSet<String> {
        let family = &page.families["millrace_task_watermark_timestamp_seconds"];
        family.samples.iter().map(|(_, labels, _)| labels["task"].clone()).collect()
    };
    Deadline::secs(60).wait_for("watermarks of two tasks", || (tasks(&page()).len() == 2).then_some(()));
    workspace.write("watched.yaml", rescaled(1, ""));
    Deadline::secs(60)
        .wait_for("the end of the second task", || (tasks(&page()) == BTreeSet::from(["0".to_owned()])).then_some(()));
    Deadline::secs(60)
        .wait_for("the end of the branch", || (!http::get(address, "/metrics").body.contains("branch")).then_some(()));
    let watermark = |name: &str| {
        let report = http::get(address, "/api/v1/pipeline").json();
        let node = report["nodes"].as_array()?.iter().find(|node| node["name"] == name)?.clone();
        node["watermark"].as_i64()
    };
    for node in ["ids", "counts"] {
        let before = Deadline::secs(60).wait_for("a watermark", || watermark(node));
        Deadline::secs(60).wait_for(&format!("the watermark of {node} to move on"), || {
            (watermark(node)? > before + 2_000).then_some(())
        });
    }
    running.terminate();
    running.wait().expect_success();
}

#[test]
fn other_paths_and_methods_are_refused_and_a_port_that_is_in_use_is_told() {
    let workspace = Workspace::new();
    workspace.write("in/a.ndjson", rows(0, 10));
    let running = start(&workspace);
    let address = http::address(&running);
    let unknown = http::get(address, "/metric");
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("/metrics"), "{}", unknown.body);
    assert_eq!(http::ask(address, "POST", "/metrics", "Content-Length: 0\r\n").unwrap().status, 405);
    // Savepoints are asked for over the control socket only.
    assert_eq!(http::ask(address, "POST", "/api/v1/savepoints", "Content-Length: 0\r\n").unwrap().status, 404);
    running.terminate();
    running.wait().expect_success();

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap().to_string();
    let refused = Millrace::run(&workspace, "watched.yaml").args(["--listen", &taken_address]).finish().expect_code(2);
    refused.expect_stderr(&[&taken_address, "in use"]);
}

#[test]
fn hostile_requests_do_not_stop_the_pipeline_or_keep_others_from_being_answered() {
    let workspace = Workspace::new();
    workspace.write("in/a.ndjson", rows(0, 100));
    let running = start(&workspace);
    let address = http::address(&running);
    Deadline::secs(30).wait_for("readiness", || (status(address, "/readyz") == Some(200)).then_some(()));

    let mut huge = http::connect(address).unwrap();
    let _ = huge.write_all(b"GET /metrics HTTP/1.1\r\nX-Long: ");
    let block = vec![b'x'; 1 << 20];
    let refused = (0..64).any(|_| huge.write_all(&block).is_err());
    let mut answer = String::new();
    let _ = huge.read_to_string(&mut answer);
    assert!(refused || answer.starts_with("HTTP/1.1 4"), "64 MiB of a header are taken: {answer:?}");

    for noise in [&b"\x16\x03\x01\x02\x00"[..], b"GET\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        let mut stream = http::connect(address).unwrap();
        stream.write_all(noise).unwrap();
        assert_eq!(status(address, "/healthz"), Some(200));
    }

    // Half requests, more of them than are served at a time: they are given up, and others get their answers.
    let half: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = http::connect(address).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: m").unwrap();
            stream
        })
        .collect();
    workspace.append("in/a.ndjson", rows(100, 200));
    Deadline::secs(30).wait_for("the rows", || (read::folder(&workspace.join("out/even")).len() == 100).then_some(()));
    Deadline::secs(100).wait_for("an answer", || (status(address, "/readyz") == Some(200)).then_some(()));
    drop(half);
    running.terminate();
    running.wait().expect_success();
}
