//! A memory budget that every keyed transform's state exceeds many times over, under SIGKILL: what comes out is what one
//! batch gives. The tests of the engine look at what each operator holds.

use std::time::Duration;

use millrace_tests::{Deadline, Millrace, Seed, Workspace, delta, manifest};

const ROWS: u64 = 400_000;
const KEYS: u64 = 100_000;
const KILLS: usize = 6;
/// A transform: its name, its fields, its SELECT, and how DuckDB is asked for the same of `EVENTS`.
const TRANSFORMS: [(&str, &str, &str, &str); 6] = [
    (
        "sums",
        "window: ten-minutes",
        "SELECT key, window_start, count(*) AS n, sum(value) AS total FROM events GROUP BY key",
        "SELECT key, time_bucket(INTERVAL '10 minutes', ts) AS window_start, count(*) AS n, sum(value)::BIGINT AS total \
         FROM EVENTS GROUP BY ALL",
    ),
    (
        "steps",
        "window: four-minutes",
        "SELECT key, window_start, count(*) AS n, max(value) AS most FROM events GROUP BY key",
        "SELECT key, window_start, count(*) AS n, max(value) AS most FROM (SELECT *, time_bucket(INTERVAL '30 seconds', \
         ts) - INTERVAL 30 SECOND * unnest([0, 1, 2, 3, 4, 5, 6, 7]) AS window_start FROM EVENTS) \
         GROUP BY key, window_start",
    ),
    (
        "visits",
        "window: two-minutes-of-silence",
        "SELECT key, window_start, window_end, count(*) AS n, sum(value) AS total FROM events GROUP BY key",
        "SELECT key, min(ts) AS window_start, max(ts) + INTERVAL 2 MINUTE AS window_end, count(*) AS n, \
         sum(value)::BIGINT AS total FROM (SELECT *, sum(new) OVER (PARTITION BY key ORDER BY ts) AS visit FROM \
         (SELECT *, CASE WHEN ts - lag(ts) OVER (PARTITION BY key ORDER BY ts) < INTERVAL 2 MINUTE THEN 0 ELSE 1 END \
         AS new FROM EVENTS)) GROUP BY key, visit",
    ),
    (
        "firsts",
        "within: 1h",
        "SELECT DISTINCT ON (key) ts, id, key FROM events",
        "SELECT min(ts) AS ts, min(id) AS id, key FROM EVENTS GROUP BY key",
    ),
    (
        "best",
        "window: ten-minutes",
        "SELECT key, id, value, place FROM (SELECT key, id, value, ROW_NUMBER() OVER (PARTITION BY key ORDER BY value \
         DESC, id) AS place FROM events) WHERE place <= 2",
        "SELECT key, id, value, place FROM (SELECT key, id, value, ROW_NUMBER() OVER (PARTITION BY key ORDER BY value \
         DESC, id) AS place FROM EVENTS) WHERE place <= 2",
    ),
    (
        "smooth",
        "window: minute-back",
        "SELECT id, key, count(*) AS n, sum(value) AS total FROM events WHERE id % 3 = 0 GROUP BY key",
        "SELECT id, key, count(*) OVER w AS n, (sum(value) OVER w)::BIGINT AS total FROM EVENTS WHERE id % 3 = 0 \
         WINDOW w AS (PARTITION BY key ORDER BY ts RANGE BETWEEN INTERVAL 59999 MILLISECOND PRECEDING AND CURRENT ROW)",
    ),
];

const WINDOWS: [(&str, &str); 4] = [
    ("ten-minutes", "tumbling: {size: 10m}"),
    ("four-minutes", "hopping: {size: 4m, slide: 30s}"),
    ("two-minutes-of-silence", "session: {gap: 2m}"),
    ("minute-back", "rolling: {range: 1m}"),
];

fn source(seed: u64, rate: Option<u64>) -> String {
    let rate = rate.map_or_else(String::new, |rate| format!("rate: {rate}, "));
    format!(
        "  sources:
    - name: events
      generator:
        {{seed: {seed}, rows: {ROWS}, {rate}fields: [
          {{name: id, sequence: {{}}}},
          {{name: ts, timestamp: {{start: \"2024-01-01T00:00:00Z\", step: 1ms}}}},
          {{name: key, string: {{prefix: key-, cardinality: {KEYS}}}}},
          {{name: value, int: {{min: -1000, max: 1000}}}}]}}
      eventTime: {{column: ts}}
"
    )
}

fn manifests(seed: u64) -> String {
    let mut text = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: bounded}}
spec:
  checkpoints: {{interval: 300ms, minPause: 10ms, memoryBudget: 4Mi}}
{}  transforms:\n",
        source(seed, Some(80_000))
    );
    let (mut outputs, mut sinks) = (String::from("  outputs:\n"), String::new());
    for (name, by, sql, _) in TRANSFORMS {
        text += &format!("    - {{name: {name}, {by}, sql: \"{sql}\"}}\n");
        outputs += &format!("    - {{from: {name}, sink: {name}}}\n");
        sinks += &manifest::sink(name, &format!("parquet: {{uri: out/{name}}}"));
    }
    text += "    - {name: running, emitEvery: 1s, sql: \"SELECT key, count(*) AS n FROM events GROUP BY key\"}\n";
    outputs += "    - {from: running, sink: running}\n";
    sinks += &manifest::sink("running", "file: {path: out/running, format: {json: {}}}");
    for (name, spec) in WINDOWS {
        sinks += &manifest::window(name, spec);
    }
    text + &outputs + &sinks
}

fn events(seed: u64) -> Workspace {
    let workspace = Workspace::new();
    let text = format!(
        "apiVersion: millrace.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: all}}\nspec:\n{}  transforms:
    - {{name: all_rows, sql: \"SELECT id, ts, key, value FROM events\"}}
  outputs:
    - {{from: all_rows, sink: rows}}\n{}",
        source(seed, None),
        manifest::sink("rows", "parquet: {uri: events}")
    );
    workspace.write("all.yaml", text);
    Millrace::run(&workspace, "all.yaml").finish().expect_success();
    workspace
}

#[test]
fn a_state_far_larger_than_the_budget_gives_what_one_batch_gives() {
    let mut seed = Seed::of_test("bounded");
    let generator_seed = seed.below(1 << 32);
    let workspace = Workspace::new();
    workspace.write("bounded.yaml", manifests(generator_seed));
    let mut kills = 0;
    loop {
        let mut running = Millrace::run(&workspace, "bounded.yaml").patience(Duration::from_secs(240)).start();
        let limit = seed.time(Duration::from_millis(400), Duration::from_millis(2_500));
        let patience = if kills < KILLS { limit } else { Duration::from_secs(240) };
        Deadline::after(patience).poll(|| (!running.is_alive()).then_some(()));
        if running.is_alive() && kills < KILLS {
            running.kill();
            kills += 1;
            continue;
        }
        running.wait().expect_success();
        break;
    }
    assert!(kills > 1, "it was killed {kills} times only");

    let events = events(generator_seed);
    let rows = format!("read_parquet('{}/*.parquet')", events.join("events").display());
    for (name, _, _, expected) in TRANSFORMS {
        let found = format!("SELECT * FROM read_parquet('out/{name}/*.parquet')");
        delta::expect_same(workspace.path(), &found, &expected.replace("EVENTS", &rows), &[]);
    }
    let changes = "read_json('out/running/*', format = 'newline_delimited', \
                   columns = {key: 'VARCHAR', n: 'BIGINT', _op: 'VARCHAR'})";
    let found = format!(
        "SELECT key, max(n) AS n, sum(CASE _op WHEN 'update_before' THEN -n ELSE n END)::BIGINT AS remaining, \
         count(*) FILTER (WHERE _op = 'insert') AS inserts FROM {changes} GROUP BY key"
    );
    let expected =
        format!("SELECT key, count(*) AS n, count(*) AS remaining, 1::BIGINT AS inserts FROM {rows} GROUP BY key");
    delta::expect_same(workspace.path(), &found, &expected, &[]);
}
