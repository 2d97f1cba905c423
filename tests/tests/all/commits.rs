//! Commits that fail for a while, commits that fail for good, and folders that are gone when rows are to be committed.

use std::fs;

use millrace_tests::{Deadline, Millrace, Running, Workspace, delta, manifest, read};

const DAY: &str = "day=2024-01-01";
const ROWS: i64 = 160_000;

/// A pipeline whose rows go, by day, into a folder of a sink.
fn pipeline(sink: &str) -> String {
    let numbers = manifest::numbers(ROWS, 40000);
    let pipeline = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: committed}}
spec:
  checkpoints: {{interval: 100ms, minPause: 10ms}}
  sources:
    - name: events
      {numbers}
      eventTime: {{column: ts}}
  transforms:
    - {{name: some, sql: \"SELECT id, to_char(ts, '%Y-%m-%d') AS day FROM events WHERE id % 100 = 0\"}}
  outputs:
    - {{from: some, sink: out}}
    - {{from: some, sink: beside}}
"
    );
    [&pipeline[..], &manifest::sink("out", sink), &manifest::sink("beside", "file: {path: beside, format: {json: {}}}")]
        .concat()
}

/// Waits until what it has written to its standard error says this.
fn said(running: &Running, text: &str) {
    Deadline::secs(60).wait_for(text, || running.stderr().contains(text).then_some(()));
}

fn expect_ids(ids: impl Iterator<Item = i64>) {
    let mut ids: Vec<i64> = ids.collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..ROWS / 100).map(|id| id * 100).collect::<Vec<_>>(), "each row once");
}

fn rows_beside(workspace: &Workspace) -> usize {
    read::folder(&workspace.join("beside")).len()
}

/// A file stands where the folder of the day is needed; rows flow on, and when it is gone nothing is lost or repeated.
fn becomes_writable_again(sink: &str, in_the_way: &str) {
    let workspace = Workspace::new();
    workspace.write("committed.yaml", pipeline(sink));
    workspace.write(in_the_way, "not a folder");
    let running = Millrace::run(&workspace, "committed.yaml").args(["--listen", "127.0.0.1:0"]).start();
    said(&running, "attempt=3");
    // Every sink of the epoch that can commit has done so, and none does it twice.
    assert!(rows_beside(&workspace) > 0);
    fs::remove_file(workspace.join(in_the_way)).unwrap();
    let finished = running.wait().expect_success();
    assert!(finished.stderr.contains("a commit failed and is tried again; rows flow on"), "{}", finished.stderr);
    assert!(finished.stderr.contains("a file stands where a folder is needed"), "says why: {}", finished.stderr);
    assert!(!finished.stderr.contains("starting again"), "no task was disturbed: {}", finished.stderr);
    expect_ids(read::folder(&workspace.join("beside")).column("id").map(millrace_tests::Cell::int));
    let out = match sink.starts_with("delta") {
        true => delta::table(&workspace.join("out")),
        false => read::folder(&workspace.join("out")),
    };
    expect_ids(out.column("id").map(millrace_tests::Cell::int));
}

#[test]
fn a_parquet_folder_that_cannot_be_written_for_a_while_gets_every_row_once() {
    becomes_writable_again("parquet: {uri: out, partitionBy: [day]}", &format!("out/{DAY}"));
}

#[test]
fn a_delta_table_that_cannot_be_written_for_a_while_gets_every_row_once() {
    becomes_writable_again("delta: {uri: out, partitionBy: [day]}", &format!("out/{DAY}"));
}

#[test]
fn a_commit_that_fails_stands_in_status_and_metrics_until_it_succeeds() {
    let workspace = Workspace::new();
    workspace.write("committed.yaml", pipeline("parquet: {uri: out, partitionBy: [day]}"));
    let in_the_way = workspace.write(format!("out/{DAY}"), "not a folder");
    let running = Millrace::run(&workspace, "committed.yaml").start();
    said(&running, "attempt=2");
    let status = ask(&workspace, "/api/v1/pipeline");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["phase"], "Running", "{status}");
    assert!(status["commitFailure"]["attempts"].as_u64() >= Some(2), "{status}");
    assert_eq!(status["commitFailure"]["epoch"], status["checkpoint"]["epoch"], "no epoch overtakes it: {status}");
    assert!(ask(&workspace, "/metrics").lines().any(|line| {
        line.strip_prefix("millrace_commits_failed_total ").is_some_and(|count| count.parse::<u64>().unwrap() >= 2)
    }));
    fs::remove_file(in_the_way).unwrap();
    let healed = || {
        let status: serde_json::Value = serde_json::from_str(&ask(&workspace, "/api/v1/pipeline")).ok()?;
        status["commitFailure"].is_null().then_some(())
    };
    Deadline::secs(60).wait_for("the commit", healed);
    running.wait().expect_success();
}

#[test]
fn a_stop_while_a_commit_fails_leaves_it_to_the_next_run() {
    let workspace = Workspace::new();
    let text = pipeline("parquet: {uri: out, partitionBy: [day]}");
    workspace.write("committed.yaml", text.replace("minPause: 10ms", "minPause: 10ms, timeout: 2s"));
    let in_the_way = workspace.write(format!("out/{DAY}"), "not a folder");
    let running = Millrace::run(&workspace, "committed.yaml").start();
    said(&running, "attempt=2");
    running.terminate();
    let stopped = running.wait().expect_code(1);
    assert!(stopped.stderr.contains("sink some->out could not be committed"), "{}", stopped.stderr);
    fs::remove_file(in_the_way).unwrap();
    Millrace::run(&workspace, "committed.yaml").finish().expect_success();
    expect_ids(read::folder(&workspace.join("out")).column("id").map(millrace_tests::Cell::int));
    expect_ids(read::folder(&workspace.join("beside")).column("id").map(millrace_tests::Cell::int));
}

#[test]
fn a_table_whose_columns_somebody_has_changed_ends_the_pipeline() {
    let workspace = Workspace::new();
    workspace.write("committed.yaml", pipeline("delta: {uri: out, partitionBy: [day]}"));
    let running = Millrace::run(&workspace, "committed.yaml").start();
    let log = workspace.join("out/_delta_log");
    Deadline::secs(60).wait_for("a commit", || log.join(format!("{:020}.json", 2)).exists().then_some(()));
    let first = fs::read_to_string(log.join(format!("{:020}.json", 0))).unwrap();
    let metadata = first.lines().find(|line| line.contains("\"metaData\"")).unwrap();
    assert!(metadata.contains("\\\"id\\\""), "{metadata}");
    let renamed = metadata.replace("\\\"id\\\"", "\\\"number\\\"");
    // Another writer takes the next version that is free.
    (1..).find(|version| {
        let path = log.join(format!("{version:020}.json"));
        let created = fs::File::options().write(true).create_new(true).open(&path);
        created.and_then(|mut file| std::io::Write::write_all(&mut file, renamed.as_bytes())).is_ok()
    });
    let ended = running.wait().expect_code(1);
    assert!(ended.stderr.contains("a commit failed for good"), "{}", ended.stderr);
    assert!(ended.stderr.contains("sink some->out could not be committed"), "{}", ended.stderr);
}

/// What a symbolic link leads to, changed at once.
fn link(workspace: &Workspace, to: &str, name: &str) {
    let beside = workspace.join("new link");
    std::os::unix::fs::symlink(to, &beside).unwrap();
    fs::rename(beside, workspace.join(name)).unwrap();
}

fn ids_in(workspace: &Workspace, folders: &[&str]) -> Vec<i64> {
    let tables = folders.iter().map(|folder| read::folder(&workspace.join(folder)));
    tables.flat_map(|table| table.column("id").map(millrace_tests::Cell::int).collect::<Vec<_>>()).collect()
}

#[test]
fn a_folder_that_a_file_takes_the_place_of_for_a_while_gets_every_row_once() {
    for sink in ["file: {path: out, format: {json: {}}}", "parquet: {uri: out, partitionBy: [day]}"] {
        let workspace = Workspace::new();
        workspace.write("committed.yaml", pipeline(sink));
        fs::create_dir(workspace.join("real")).unwrap();
        workspace.write("a file", "not a folder");
        link(&workspace, "real", "out");
        let running = Millrace::run(&workspace, "committed.yaml").start();
        Deadline::secs(60)
            .wait_for("rows", || (!read::visible_files(&workspace.join("real")).is_empty()).then_some(()));
        link(&workspace, "a file", "out");
        // Where the last rows were written by then, it is the commit that fails.
        let is_told = |text: &str| running.stderr().contains(text);
        let told = || (is_told("starting again") || is_told("a commit failed")).then_some(());
        Deadline::secs(60).wait_for("word of it", told);
        link(&workspace, "real", "out");
        running.wait().expect_success();
        expect_ids(ids_in(&workspace, &["real"]).into_iter());
        expect_ids(ids_in(&workspace, &["beside"]).into_iter());
    }
}

#[test]
fn a_folder_that_is_taken_away_after_a_commit_is_made_again_and_gets_the_rest() {
    for sink in ["file: {path: out, format: {json: {}}}", "parquet: {uri: out, partitionBy: [day]}"] {
        let workspace = Workspace::new();
        workspace.write("committed.yaml", pipeline(sink).replace("interval: 100ms", "interval: 1s"));
        let running = Millrace::run(&workspace, "committed.yaml").args(["--listen", "127.0.0.1:0"]).start();
        said(&running, "checkpoint completed");
        // Just committed: until the next checkpoint is taken nothing waits for its commit.
        let committed = || {
            let status: serde_json::Value = serde_json::from_str(&ask(&workspace, "/api/v1/pipeline")).ok()?;
            let is_committed = status["committed"] == status["checkpoint"]["epoch"] && !status["committed"].is_null();
            is_committed.then_some(())
        };
        Deadline::secs(60).wait_for("a commit", committed);
        fs::rename(workspace.join("out"), workspace.join("gone")).unwrap();
        let finished = running.wait().expect_success();
        assert!(finished.stderr.contains("starting again"), "{}", finished.stderr);
        expect_ids(ids_in(&workspace, &["gone", "out"]).into_iter());
        expect_ids(ids_in(&workspace, &["beside"]).into_iter());
    }
}

#[test]
fn a_folder_that_goes_before_a_commit_is_told_until_it_is_put_back() {
    for sink in [
        "file: {path: out, format: {json: {}}}",
        "parquet: {uri: out, partitionBy: [day]}",
        "delta: {uri: out, partitionBy: [day]}",
    ] {
        let workspace = Workspace::new();
        workspace.write("committed.yaml", pipeline(sink));
        // Each commit comes by twice, the one beside first.
        let killed =
            Millrace::run(&workspace, "committed.yaml").env("MILLRACE_FAULT_POINT", "before-commit:6").finish();
        assert_eq!(killed.signal(), Some(9), "{}", killed.stderr);
        let (out, away) = (workspace.join("out"), workspace.join("away"));
        fs::rename(&out, &away).unwrap();
        for _ in 0..2 {
            let failed = Millrace::run(&workspace, "committed.yaml").finish().expect_code(1);
            failed.expect_stderr(&[
                "sink some->out",
                "of checkpoint 3",
                "are gone",
                "out/.millrace-staging",
                "lost-e0000000003",
            ]);
            assert!(!out.exists(), "the place stays free for what is put back");
        }
        fs::rename(&away, &out).unwrap();
        Millrace::run(&workspace, "committed.yaml").finish().expect_success();
        let table = if sink.starts_with("delta") { delta::table(&out) } else { read::folder(&out) };
        expect_ids(table.column("id").map(millrace_tests::Cell::int));
        expect_ids(ids_in(&workspace, &["beside"]).into_iter());

        // All of it is committed now, and whoever takes it away knows what they do.
        fs::rename(&out, &away).unwrap();
        Millrace::run(&workspace, "committed.yaml").finish().expect_success();
    }
}

#[test]
fn a_folder_that_goes_for_good_before_a_commit_ends_the_run_with_what_is_missing() {
    let workspace = Workspace::new();
    workspace.write("committed.yaml", pipeline("file: {path: out, format: {json: {}}}"));
    let killed = Millrace::run(&workspace, "committed.yaml").env("MILLRACE_FAULT_POINT", "before-commit:6").finish();
    assert_eq!(killed.signal(), Some(9), "{}", killed.stderr);
    let out = workspace.join("out");
    let before = ids_in(&workspace, &["out"]);
    fs::rename(&out, workspace.join("away")).unwrap();
    let failed = Millrace::run(&workspace, "committed.yaml").finish().expect_code(1);
    let file = failed.stderr.split("create the empty file ").nth(1).unwrap().lines().next().unwrap().trim();
    let rows: usize = failed.stderr.split(" with ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    workspace.write(file, "");
    Millrace::run(&workspace, "committed.yaml").finish().expect_success();
    let left = ids_in(&workspace, &["out"]);
    assert!(rows > 0);
    assert_eq!(before.len() + rows + left.len(), ROWS as usize / 100, "just those rows are left out");
    expect_ids(ids_in(&workspace, &["beside"]).into_iter());
}

/// What the process that runs in the workspace answers over its control socket.
pub fn ask(workspace: &Workspace, path: &str) -> String {
    use std::io::{Read, Write};
    let address = fs::read_to_string(workspace.join("data/control")).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(address.trim()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: millrace\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn a_checkpoint_that_the_store_does_not_take_is_told_while_rows_flow_on() {
    let workspace = Workspace::new();
    workspace.write("committed.yaml", pipeline("parquet: {uri: out}"));
    let running = Millrace::run(&workspace, "committed.yaml").start();
    let status = || -> Option<serde_json::Value> { serde_json::from_str(&ask(&workspace, "/api/v1/pipeline")).ok() };
    let manifests = workspace.join("data/checkpoints/committed/manifests");
    Deadline::secs(60).wait_for("checkpoints", || (fs::read_dir(&manifests).ok()?.count() > 1).then_some(()));
    let aside = workspace.join("aside");
    fs::rename(&manifests, &aside).unwrap();
    fs::write(&manifests, "not a folder").unwrap();
    Deadline::secs(60).wait_for("what the store says", || {
        let status = status()?;
        status["lastError"].as_str()?.contains("waits: ").then_some(())
    });
    fs::remove_file(&manifests).unwrap();
    fs::rename(aside, &manifests).unwrap();
    running.wait().expect_success();
    expect_ids(read::folder(&workspace.join("out")).column("id").map(millrace_tests::Cell::int));
}
