//! Windows whose lengths are edited while their pipeline runs: those that have begun end as they were, those that begin at
//! the next boundary or later are as the edit says, and every row is in each window that it belongs to, once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use millrace_tests::{Deadline, Millrace, Running, Seed, Table, Workspace, manifest, read};

/// How many rows the source has: one a millisecond of event time.
const ROWS: i64 = 400_000;
/// How many keys they have.
const KEYS: i64 = 10;
/// Event time of the first row, in milliseconds.
const BEGINS: i64 = 1_704_067_200_000;

/// A window's definition.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Definition {
    size_ms: i64,
    slide_ms: i64,
}

const fn tumbling(seconds: i64) -> Definition {
    hopping(seconds, seconds)
}

const fn hopping(size_seconds: i64, slide_seconds: i64) -> Definition {
    Definition { size_ms: size_seconds * 1000, slide_ms: slide_seconds * 1000 }
}

impl Definition {
    fn spec(self) -> String {
        let Self { size_ms, slide_ms } = self;
        if size_ms == slide_ms {
            format!("tumbling: {{size: {size_ms}ms}}")
        } else {
            format!("hopping: {{size: {size_ms}ms, slide: {slide_ms}ms}}")
        }
    }

    fn manifests(self, parallelism: u64) -> String {
        let (spec, numbers) = (self.spec(), manifest::numbers(ROWS, 40_000));
        let pipeline = format!(
            "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: changed}}
spec:
  parallelism: {parallelism}
  checkpoints: {{interval: 100ms, minPause: 10ms}}
  sources:
    - name: events
      {numbers}
      eventTime: {{column: ts}}
  transforms:
    - name: counts
      window: changing
      sql: >
        SELECT CAST(window_start AS BIGINT) / 1000 - {BEGINS} AS starts, CAST(window_end AS BIGINT) / 1000 - {BEGINS} AS ends,
               id % {KEYS} AS k, count(*) AS n, sum(id) AS ids
        FROM events GROUP BY id % {KEYS}
  outputs:
    - {{from: counts, sink: counts}}
"
        );
        let rows = manifest::sink("counts", "file: {path: out/counts, format: {json: {}}}");
        [pipeline, manifest::window("changing", &spec), rows].concat()
    }
}

fn start(workspace: &Workspace) -> Running {
    Millrace::run(workspace, "changed.yaml").args(["--watch"]).start()
}

fn counts(workspace: &Workspace) -> Table {
    read::folder(&workspace.join("out/counts"))
}

/// By where it starts, where a window ends and the keys that it has.
type Windows = BTreeMap<i64, (i64, BTreeSet<i64>)>;

/// The windows that came out, whose every key has all rows that belong to it, and is there once.
fn windows(workspace: &Workspace) -> Windows {
    let mut windows = Windows::new();
    for row in counts(workspace).rows {
        let (start, end, key) = (row["starts"].int(), row["ends"].int(), row["k"].int());
        let ids: Vec<i64> = (start.max(0)..end.min(ROWS)).filter(|id| id % KEYS == key).collect();
        let expected = (ids.len() as i64, ids.iter().sum::<i64>());
        assert_eq!((row["n"].int(), row["ids"].int()), expected, "key {key} of the window from {start} to {end}");
        let window = windows.entry(start).or_insert((end, BTreeSet::new()));
        assert_eq!(window.0, end, "two windows start at {start}");
        assert!(window.1.insert(key), "key {key} of the window at {start} is there twice");
    }
    windows
}

/// Checks that the windows of one definition follow those of another, from the first row to the last, and that none is
/// left out: each next window starts where its predecessor's definition has one. Gives the lengths that came out.
fn expect_one_after_another(workspace: &Workspace, definitions: &[Definition]) -> BTreeSet<i64> {
    let windows = windows(workspace);
    assert!(windows.values().all(|(_, keys)| keys.len() as i64 == KEYS), "every window has every key");
    let windows: BTreeMap<i64, i64> = windows.into_iter().map(|(start, (end, _))| (start, end)).collect();
    let of_length = |start: i64, end: i64| {
        definitions
            .iter()
            .filter(move |definition| end - start == definition.size_ms && start % definition.slide_ms == 0)
    };
    let (first, last) = (windows.first_key_value().unwrap(), windows.last_key_value().unwrap());
    let is_first = |definition: &Definition| first.0 - definition.slide_ms + definition.size_ms <= 0;
    assert!(of_length(*first.0, *first.1).any(is_first), "{first:?} is not the first window that has rows");
    let is_last = |definition: &Definition| last.0 + definition.slide_ms >= ROWS;
    assert!(of_length(*last.0, *last.1).any(is_last), "{last:?} is not the last window that has rows");
    for ((start, end), (next, _)) in windows.iter().zip(windows.iter().skip(1)) {
        let follows = |definition: &Definition| start + definition.slide_ms == *next;
        assert!(of_length(*start, *end).any(follows), "{next} does not follow the window from {start} to {end}");
    }
    windows.iter().map(|(start, end)| end - start).collect()
}

/// Waits until a window of this length has come out.
fn wait_for_length(workspace: &Workspace, running: &Running, definition: Definition) {
    Deadline::secs(60).wait_for(&format!("windows of {definition:?}\n{}", running.stderr()), || {
        let rows = counts(workspace).rows;
        rows.iter().any(|row| row["ends"].int() - row["starts"].int() == definition.size_ms).then_some(())
    });
}

#[test]
fn windows_that_have_begun_end_as_they_were_and_the_next_are_as_the_edit_says() {
    let definitions = [tumbling(2), tumbling(6), hopping(8, 2), hopping(4, 1)];
    let workspace = Workspace::new();
    workspace.write("changed.yaml", definitions[0].manifests(1));
    let running = start(&workspace);
    for definition in definitions {
        workspace.write("changed.yaml", definition.manifests(1));
        wait_for_length(&workspace, &running, definition);
    }
    let finished = running.wait().expect_success();
    assert_eq!(finished.stderr.matches("the window changes at its next boundary").count(), 3, "{}", finished.stderr);
    let lengths = expect_one_after_another(&workspace, &definitions);
    assert_eq!(lengths, BTreeSet::from([2000, 4000, 6000, 8000]), "every edit was taken up");
}

#[test]
fn kills_before_and_after_an_edit_of_a_window_lose_and_repeat_nothing() {
    let mut seed = Seed::of_test("changed windows between kills");
    let definitions = [tumbling(2), tumbling(3), tumbling(10), hopping(6, 2), hopping(6, 3), hopping(9, 1)];
    let workspace = Workspace::new();
    workspace.write("changed.yaml", definitions[0].manifests(1));
    let mut kills = 0;
    for _ in 0..16 {
        // An edit before a start is taken up by the start, one while it runs at a barrier.
        let edit = |seed: &mut Seed| {
            workspace.write("changed.yaml", seed.pick(&definitions).manifests(1 + seed.below(3)));
        };
        if kills > 0 && seed.one_in(2) {
            edit(&mut seed);
        }
        let running = start(&workspace);
        for _ in 0..seed.below(3) {
            millrace_tests::wait::pass(seed.time(Duration::from_millis(100), Duration::from_millis(700)));
            edit(&mut seed);
        }
        let limit = seed.time(Duration::from_millis(50), Duration::from_millis(900));
        let (status, finished) = running.wait_or_kill(limit);
        match status {
            Some(status) if status.success() => break,
            Some(status) => panic!("ended with {status}:\n{}", finished.stderr),
            None => kills += 1,
        }
        // At no moment has a reader seen a result that lacks rows, or one twice.
        windows(&workspace);
    }
    start(&workspace).wait().expect_success();
    println!("{kills} kills");
    let lengths = expect_one_after_another(&workspace, &definitions);
    assert!(lengths.len() > 1, "edits were taken up: {lengths:?}");
}
