//! Exactly once under SIGKILL: the process is killed again and again, at random moments and at every stage of the
//! protocol, while readers look at what it has committed. In the end the outputs are what an uninterrupted run over the
//! same rows gives, computed in one batch; at no moment did a reader see a row twice; and nothing is left lying about.
//!
//! `MILLRACE_KILLS` says how many kills there are (50 without it); `MILLRACE_SEED` repeats a run.

use std::{collections::BTreeSet, fs, os::unix::process::ExitStatusExt, path::Path, time::Duration};

use millrace_state::fault::POINTS;
use millrace_tests::{
    Deadline, Millrace, Seed, Workspace,
    delta::{self, Watch},
    manifest, read,
    watcher::Watcher,
};

const SIGKILL: i32 = 9;

/// What one campaign kills: a pipeline of its own.
struct Campaign {
    rows: u64,
    rate: u64,
    keys: u64,
    parallelism: u64,
    generator_seed: u64,
    interval_ms: u64,
}

impl Campaign {
    fn made(seed: &mut Seed) -> Self {
        let rate = 60_000 + seed.below(60_000);
        Self {
            rows: rate * 5,
            rate,
            keys: *seed.pick(&[50, 300, 1_000]),
            parallelism: 1 + seed.below(2),
            generator_seed: seed.below(1 << 32),
            interval_ms: 40 + seed.below(160),
        }
    }

    fn source(&self, rate: Option<u64>) -> String {
        let rate = rate.map_or_else(String::new, |rate| format!("rate: {rate}, "));
        format!(
            "    - name: events
      generator:
        {{seed: {}, rows: {}, {rate}fields: [
          {{name: id, sequence: {{}}}},
          {{name: ts, timestamp: {{start: \"2024-01-01T00:00:00Z\", step: 1ms}}}},
          {{name: key, string: {{prefix: key-, cardinality: {}}}}},
          {{name: wide_key, string: {{prefix: wide-, cardinality: 150000}}}},
          {{name: value, int: {{min: -1000, max: 1000}}}}]}}
      eventTime: {{column: ts}}
",
            self.generator_seed, self.rows, self.keys
        )
    }

    /// Every sink gets rows as they are, and the open windows hold more state than the budget.
    fn manifests(&self) -> String {
        let mut text = format!(
            "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: killed}}
spec:
  parallelism: {}
  checkpoints: {{interval: {}ms, minPause: 5ms, retain: 2, memoryBudget: 4Mi}}
  sources:
{}  transforms:
    - name: passed
      sql: SELECT id, ts, key, value FROM events WHERE value % 5 = 0
    - name: sums
      window: ten-seconds
      sql: SELECT key, window_start, count(*) AS n, sum(value) AS total, min(id) AS first FROM events GROUP BY key
    - name: wide
      window: two-minutes
      sql: SELECT wide_key, window_start, count(*) AS n, avg(value) AS mean FROM events GROUP BY wide_key
  outputs:
    - {{from: passed, sink: passed-file}}
    - {{from: passed, sink: passed-parquet}}
    - {{from: passed, sink: passed-delta}}
    - {{from: sums, sink: sums-file}}
    - {{from: sums, sink: sums-parquet}}
    - {{from: sums, sink: sums-folders}}
    - {{from: sums, sink: sums-delta}}
    - {{from: wide, sink: wide-delta}}
",
            self.parallelism,
            self.interval_ms,
            self.source(Some(self.rate))
        );
        text += &manifest::window("ten-seconds", "tumbling: {size: 10s}");
        text += &manifest::window("two-minutes", "hopping: {size: 2m, slide: 1m}");
        for of in ["passed", "sums"] {
            text += &manifest::sink(
                &format!("{of}-file"),
                &format!("file: {{path: out/{of}-file, format: {{json: {{}}}}}}"),
            );
            text += &manifest::sink(&format!("{of}-parquet"), &format!("parquet: {{uri: out/{of}-parquet}}"));
            let partitions = if of == "sums" { ", partitionBy: [window_start]" } else { "" };
            text += &manifest::sink(
                &format!("{of}-delta"),
                &format!("delta: {{uri: out/{of}-delta, checkpointEvery: 7{partitions}}}"),
            );
        }
        text += &manifest::sink("sums-folders", "parquet: {uri: out/sums-folders, partitionBy: [window_start]}");
        text + &manifest::sink("wide-delta", "delta: {uri: out/wide-delta}")
    }

    /// The generator's rows, in a Parquet folder of a workspace of their own.
    fn events(&self) -> Workspace {
        let workspace = Workspace::new();
        workspace.write(
            "all.yaml",
            format!(
                "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: all}}
spec:
  sources:
{}  transforms:
    - {{name: all_rows, sql: \"SELECT id, ts, key, wide_key, value FROM events\"}}
  outputs:
    - {{from: all_rows, sink: rows}}
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {{name: rows}}
spec:
  parquet: {{uri: events}}
",
                self.source(None)
            ),
        );
        Millrace::run(&workspace, "all.yaml").finish().expect_success();
        workspace
    }
}

/// What the outputs have to be, computed by DuckDB in one batch.
const PASSED: &str = "SELECT id, ts, key, value FROM EVENTS WHERE value % 5 = 0";
const SUMS: &str = "SELECT key, time_bucket(INTERVAL '10 seconds', ts) AS window_start, count(*) AS n, \
     sum(value)::BIGINT AS total, min(id) AS first FROM EVENTS GROUP BY ALL";
const WIDE: &str = "SELECT wide_key, window_start, count(*) AS n, avg(value) AS mean FROM \
     (SELECT *, time_bucket(INTERVAL '1 minute', ts) - INTERVAL 1 MINUTE * unnest([0, 1]) AS window_start FROM EVENTS) \
     GROUP BY wide_key, window_start";

/// Which kills there were.
struct Kills {
    wanted: usize,
    at_random: usize,
    at_points: BTreeSet<&'static str>,
    /// The points that come next, so that all have their turn, and how often each was tried in vain.
    points: Vec<(&'static str, u64)>,
}

impl Kills {
    fn count(&self) -> usize {
        self.at_random + self.at_points.len()
    }

    /// Whether there were as many as wanted, and one at every point.
    fn are_done(&self) -> bool {
        self.count() >= self.wanted && self.points.is_empty()
    }
}

#[test]
fn rows_are_seen_exactly_once_however_often_the_process_is_killed() {
    let mut seed = Seed::of_test("exactly once");
    let wanted = std::env::var("MILLRACE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(50);
    let points = POINTS.iter().map(|point| (*point, 0)).collect();
    let mut kills = Kills { wanted, at_random: 0, at_points: BTreeSet::new(), points };
    seed.shuffle(&mut kills.points);
    while !kills.are_done() {
        killed_until_done(&mut seed.fork(), &mut kills);
    }
    assert_eq!(kills.at_points.len(), POINTS.len());
    println!("{} kills at random, {} at {:?}", kills.at_random, kills.at_points.len(), kills.at_points);
}

#[test]
fn every_fault_point_is_reached() {
    let mut seed = Seed::of_test("fault points");
    let campaign = Campaign { parallelism: 2, ..Campaign::made(&mut seed) };
    let workspace = Workspace::new();
    workspace.write("killed.yaml", campaign.manifests());
    let trace = workspace.join("reached");
    let reached = || fs::read_to_string(&trace).unwrap_or_default();
    let run = || Millrace::run(&workspace, "killed.yaml").env("MILLRACE_FAULT_TRACE", trace.to_str().unwrap());
    // A few checkpoints, a kill, and to the end from there. What two tasks staged takes two steps to commit.
    let first = run().start();
    let pointer = workspace.join("data/checkpoints/killed/latest");
    let decided = || fs::read_to_string(&pointer).unwrap_or_default().contains("\"epoch\":3");
    Deadline::secs(60).wait_for("checkpoints", || decided().then_some(()));
    first.kill();
    run().finish().expect_success();
    let reached = reached();
    let missed: Vec<&&str> = POINTS.iter().filter(|point| !reached.lines().any(|line| line == **point)).collect();
    assert!(missed.is_empty(), "never came by {missed:?}; came by\n{reached}");
}

/// Runs one pipeline to its end under kills, and checks what it leaves.
fn killed_until_done(seed: &mut Seed, kills: &mut Kills) {
    let mut campaign = Campaign::made(seed);
    if kills.points.iter().any(|(point, _)| *point == "mid-commit") {
        // With one task a commit has one file, and no middle.
        campaign.parallelism = 2;
    }
    let events = campaign.events();
    let workspace = Workspace::new();
    workspace.write("killed.yaml", campaign.manifests());
    let out = |name: &str| workspace.join("out").join(name);

    let files = ["passed-file", "passed-parquet"].map(|name| Watcher::start(&out(name), &["id"]));
    let sums =
        ["sums-file", "sums-parquet", "sums-folders"].map(|name| Watcher::start(&out(name), &["key", "window_start"]));
    let tables = [
        Watch::start(&out("passed-delta"), &["id"]),
        Watch::start(&out("sums-delta"), &["key", "window_start"]),
        Watch::start(&out("wide-delta"), &["wide_key", "window_start"]),
    ];

    let before = kills.count();
    while !kills.are_done() {
        let mut command = Millrace::run(&workspace, "killed.yaml");
        let mut limit = seed.time(Duration::from_millis(20), Duration::from_millis(900));
        let point = if seed.one_in(2) || kills.count() >= kills.wanted { kills.points.pop() } else { None };
        if let Some((point, in_vain)) = point {
            // Some points come by once a start, others only when a commit has several files.
            let nth = if in_vain == 0 { 1 + seed.below(4) } else { 1 };
            command = command.env("MILLRACE_FAULT_POINT", &format!("{point}:{nth}"));
            limit = Duration::from_millis(1500);
        }
        let (status, finished) = command.start().wait_or_kill(limit);
        match (status.map(|status| (status.code(), status.signal())), point) {
            (Some((Some(0), _)), point) => {
                kills.points.extend(point);
                break;
            }
            (Some((None, Some(SIGKILL))), Some((point, _))) => _ = kills.at_points.insert(point),
            (None, None) => kills.at_random += 1,
            (None, Some((point, in_vain))) => {
                kills.at_random += 1;
                assert!(in_vain < 20, "the process never came by {point}");
                kills.points.insert(0, (point, in_vain + 1));
            }
            (Some(_), _) => panic!("ended with {} at {point:?}:\n{}", finished.status, finished.stderr),
        }
    }
    let kills = kills.count() - before;
    Millrace::run(&workspace, "killed.yaml").finish().expect_success();

    for seen in files.into_iter().chain(sums).map(Watcher::stop) {
        assert!(seen.wrong.is_empty(), "after {kills} kills: {:#?}", &seen.wrong[..seen.wrong.len().min(10)]);
        assert!(seen.looks > 1 && seen.files > 0, "{seen:?}");
    }
    for (versions, wrong) in tables.into_iter().map(Watch::stop) {
        assert!(wrong.is_empty(), "after {kills} kills: {:#?}", &wrong[..wrong.len().min(10)]);
        assert!(versions > 0);
    }
    let rows = format!("read_parquet('{}/*.parquet')", events.join("events").display());
    let expect = |found: &str, expected: &str, tables: &[(&str, &str)]| {
        delta::expect_same(workspace.path(), found, &expected.replace("EVENTS", &rows), tables);
    };
    for (name, expected) in [("passed", PASSED), ("sums", SUMS)] {
        let times = if name == "passed" { "ts: 'TIMESTAMPTZ', " } else { "window_start: 'TIMESTAMPTZ', " };
        let numbers = if name == "passed" {
            "id: 'BIGINT', value: 'BIGINT'"
        } else {
            "n: 'BIGINT', total: 'BIGINT', first: 'BIGINT'"
        };
        let columns = format!("{{{times}key: 'VARCHAR', {numbers}}}");
        expect(
            &format!("SELECT * FROM read_json('out/{name}-file/*', format = 'newline_delimited', columns = {columns})"),
            expected,
            &[],
        );
        expect(&format!("SELECT * FROM read_parquet('out/{name}-parquet/*.parquet')"), expected, &[]);
        expect("SELECT * FROM t", expected, &[("t", &format!("out/{name}-delta"))]);
    }
    expect(
        "SELECT key, window_start, n, total, first FROM read_parquet('out/sums-folders/*/*.parquet', \
         hive_partitioning = true, hive_types = {'window_start': TIMESTAMPTZ})",
        SUMS,
        &[],
    );
    expect("SELECT * FROM t", WIDE, &[("t", "out/wide-delta")]);
    expect_no_orphans(&workspace);
}

/// Nothing is left that no reader and no kept checkpoint needs.
fn expect_no_orphans(workspace: &Workspace) {
    for name in ["passed-file", "passed-parquet", "sums-file", "sums-parquet", "sums-folders"] {
        read::expect_nothing_hidden(&workspace.join("out").join(name));
    }
    for name in ["passed-delta", "sums-delta", "wide-delta"] {
        delta::expect_no_orphans(&workspace.join("out").join(name));
    }
    // What names files is what the pointer names, and nothing that was left undecided.
    let listed =
        Millrace::new(workspace, ["checkpoints", "list", "--data-dir", "data"]).finish().expect_success().stdout;
    assert!(listed.contains("finished") && !listed.contains("unfinished"), "{listed}");
    let store = workspace.join("data/checkpoints/killed");
    let named = text_of(&store, |path| path.extension().is_some_and(|extension| extension == "json"));
    let files = read::all_files(&store.join("files"));
    assert!(!files.is_empty(), "the last checkpoint has files");
    for (path, _) in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(named.contains(name), "no kept checkpoint names {}", path.display());
    }
}

fn text_of(folder: &Path, wanted: impl Fn(&Path) -> bool) -> String {
    let files = read::all_files(folder);
    files.iter().filter(|(path, _)| wanted(path)).map(|(path, _)| fs::read_to_string(path).unwrap()).collect()
}
