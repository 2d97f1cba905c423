//! Rolling windows and sessions whose lengths are edited while their pipeline runs: a row later than all before the edit has
//! the new range, a session that begins later than they do the new gap, and no row is lost or counted twice.

use std::{collections::BTreeMap, time::Duration};

use millrace_tests::{Deadline, Millrace, Running, Seed, Workspace, manifest, read, wait};

/// How many rows the source has: one a millisecond of event time.
const ROWS: i64 = 80_000;
/// How many keys they have.
const KEYS: i64 = 10;
/// So many rows in a row have one key: a burst.
const BURST: i64 = 100;
/// Event time of the first row, in milliseconds.
const BEGINS: i64 = 1_704_067_200_000;

fn manifests(window: &str, parallelism: u64, select: &str) -> String {
    let numbers = manifest::numbers(ROWS, 5_000);
    let pipeline = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: changed}}
spec:
  parallelism: {parallelism}
  checkpoints: {{interval: 100ms, minPause: 10ms}}
  sources:
    - name: numbers
      {numbers}
      eventTime: {{column: ts}}
  transforms:
    - {{name: keyed, sql: \"SELECT ts, id, id / {BURST} % {KEYS} AS k FROM numbers\"}}
    - {{name: results, window: changing, sql: \"{select}\"}}
  outputs:
    - {{from: results, sink: results}}
"
    );
    let rows = manifest::sink("results", "file: {path: out/results, format: {json: {}}}");
    [pipeline, manifest::window("changing", window), rows].concat()
}

/// A key's rows, as bursts, are a second of event time apart.
const CYCLE_MS: i64 = KEYS * BURST;

fn rolling(range_ms: i64, parallelism: u64) -> String {
    let select = "SELECT id, k, count(*) AS n, sum(id) AS ids FROM keyed GROUP BY k";
    manifests(&format!("rolling: {{range: {range_ms}ms}}"), parallelism, select)
}

fn sessions(gap_ms: i64, parallelism: u64) -> String {
    let select = format!(
        "SELECT CAST(window_start AS BIGINT) / 1000 - {BEGINS} AS starts, CAST(window_end AS BIGINT) / 1000 - {BEGINS} AS ends, \
         k, count(*) AS n, sum(id) AS ids FROM keyed GROUP BY k"
    );
    manifests(&format!("session: {{gap: {gap_ms}ms}}"), parallelism, &select)
}

fn start(workspace: &Workspace) -> Running {
    Millrace::run(workspace, "changed.yaml").args(["--watch"]).start()
}

/// Count and sum of what each row has in its range, by row, of which none is there twice.
fn ranges(workspace: &Workspace) -> BTreeMap<i64, (i64, i64)> {
    let mut found = BTreeMap::new();
    for row in read::folder(&workspace.join("out/results")).rows {
        let (id, key) = (row["id"].int(), row["k"].int());
        assert_eq!(key, id / BURST % KEYS);
        let before = found.insert(id, (row["n"].int(), row["ids"].int()));
        assert_eq!(before, None, "row {id} is there twice");
    }
    found
}

/// What a row has in a range, of which nothing before `since` is remembered.
fn in_range(id: i64, range_ms: i64, since: i64) -> (i64, i64) {
    let from = (id - range_ms + 1).max(since).max(0);
    let ids = (from..=id).filter(|other| other / BURST % KEYS == id / BURST % KEYS);
    ids.fold((0, 0), |(n, sum), other| (n + 1, sum + other))
}

/// Checks that the rows there are have these ranges, one after the other: a longer one begins with what the one before it
/// remembered. Gives how many rows each had.
fn expect_ranges(rows: &BTreeMap<i64, (i64, i64)>, ranges_ms: &[i64]) -> Vec<usize> {
    let mut counts = vec![0; ranges_ms.len()];
    let mut now = 0;
    // What is surely remembered: from where the first of the rows with this range had its range begin, by that before it.
    let mut since = i64::MIN;
    for (id, found) in rows {
        let fits = |range_ms: i64, since: i64| {
            let (least, most) = (in_range(*id, range_ms, since), in_range(*id, range_ms, i64::MIN));
            least.0 <= found.0 && found.0 <= most.0 && least.1 <= found.1 && found.1 <= most.1
        };
        while !fits(ranges_ms[now], since) {
            assert!(now + 1 < ranges_ms.len(), "row {id} has {found:?}, which no range from {} on has", ranges_ms[now]);
            since = since.max(id - ranges_ms[now] + 1);
            now += 1;
        }
        counts[now] += 1;
    }
    counts
}

#[test]
fn rows_later_than_all_before_an_edit_have_the_new_range_and_those_before_keep_theirs() {
    // Each longer than a burst, and so that the key's burst before counts, too.
    let ranges_ms = [1_050, 300, 1_080, 2_060];
    let workspace = Workspace::new();
    workspace.write("changed.yaml", rolling(ranges_ms[0], 1));
    let running = start(&workspace);
    for range_ms in ranges_ms {
        workspace.write("changed.yaml", rolling(range_ms, 1));
        Deadline::secs(60).wait_for(&format!("rows with a range of {range_ms}\n{}", running.stderr()), || {
            let whole = |(id, found): (&i64, &(i64, i64))| *id > 3 * CYCLE_MS && *found == in_range(*id, range_ms, 0);
            // The last row of a burst has a count that no other range gives.
            let last_of_burst = |id: i64| (id + 1) % BURST == 0;
            ranges(&workspace).iter().any(|row| last_of_burst(*row.0) && whole(row)).then_some(())
        });
    }
    let finished = running.wait().expect_success();
    assert_eq!(finished.stderr.matches("the window changes at its next boundary").count(), 3, "{}", finished.stderr);
    let rows = ranges(&workspace);
    assert!(rows.keys().copied().eq(0..ROWS), "each row is there");
    let counts = expect_ranges(&rows, &ranges_ms);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

/// The sessions, by start: end, count and sum. None is there twice, and each is a whole burst.
fn bursts(workspace: &Workspace) -> BTreeMap<i64, i64> {
    let mut found = BTreeMap::new();
    for row in read::folder(&workspace.join("out/results")).rows {
        let (start, end) = (row["starts"].int(), row["ends"].int());
        assert_eq!(start % BURST, 0, "a session begins within a burst: {row:?}");
        let ids = start..start + BURST;
        let expected = (start / BURST % KEYS, BURST, ids.sum::<i64>());
        assert_eq!((row["k"].int(), row["n"].int(), row["ids"].int()), expected, "session from {start} to {end}");
        assert_eq!(found.insert(start, end), None, "the session at {start} is there twice");
    }
    found
}

fn gap_of(start: i64, end: i64) -> i64 {
    // The last row's moment is the last in the burst.
    end - (start + BURST - 1)
}

#[test]
fn sessions_that_begin_later_than_all_rows_have_the_new_gap_and_open_ones_keep_theirs() {
    let gaps_ms = [200, 50, 850, 10];
    let workspace = Workspace::new();
    workspace.write("changed.yaml", sessions(gaps_ms[0], 1));
    let running = start(&workspace);
    for gap_ms in gaps_ms {
        workspace.write("changed.yaml", sessions(gap_ms, 1));
        Deadline::secs(60).wait_for(&format!("sessions with a gap of {gap_ms}\n{}", running.stderr()), || {
            bursts(&workspace).iter().any(|(start, end)| gap_of(*start, *end) == gap_ms).then_some(())
        });
    }
    let finished = running.wait().expect_success();
    assert_eq!(finished.stderr.matches("the window changes at its next boundary").count(), 3, "{}", finished.stderr);
    let found = bursts(&workspace);
    assert!(found.keys().copied().eq((0..ROWS).step_by(BURST as usize)), "each burst is there");
    let gaps: Vec<i64> = found.iter().map(|(start, end)| gap_of(*start, *end)).collect();
    let mut one_after_another = gaps.clone();
    one_after_another.dedup();
    assert_eq!(one_after_another, gaps_ms, "each edit holds from one session on: {gaps:?}");
}

#[test]
fn kills_before_and_after_edits_of_ranges_and_gaps_lose_and_repeat_nothing() {
    let mut seed = Seed::of_test("changed ranges and gaps between kills");
    for is_rolling in [true, false] {
        let lengths_ms = [200, 50, 850, 10, 400];
        let workspace = Workspace::new();
        let edit = |seed: &mut Seed| {
            let (length, parallelism) = (*seed.pick(&lengths_ms), 1 + seed.below(3));
            let manifests = if is_rolling { rolling(length, parallelism) } else { sessions(length, parallelism) };
            workspace.write("changed.yaml", manifests);
        };
        edit(&mut seed);
        let mut kills = 0;
        for _ in 0..12 {
            if kills > 0 && seed.one_in(2) {
                edit(&mut seed);
            }
            let running = start(&workspace);
            for _ in 0..seed.below(3) {
                wait::pass(seed.time(Duration::from_millis(100), Duration::from_millis(700)));
                edit(&mut seed);
            }
            let limit = seed.time(Duration::from_millis(50), Duration::from_millis(900));
            let (status, finished) = running.wait_or_kill(limit);
            match status {
                Some(status) if status.success() => break,
                Some(status) => panic!("ended with {status}:\n{}", finished.stderr),
                None => kills += 1,
            }
        }
        start(&workspace).wait().expect_success();
        println!("{kills} kills");
        if is_rolling {
            let rows = ranges(&workspace);
            assert!(rows.keys().copied().eq(0..ROWS), "each row is there");
            for (id, found) in rows {
                // The last so many rows of its burst: no fewer than in the shortest range, none twice, none left out.
                let whole = id % BURST + 1;
                let last: i64 = (id - found.0 + 1..=id).sum();
                let fits = (whole.min(10)..=whole).contains(&found.0) && found.1 == last;
                assert!(fits, "row {id} has {found:?}");
            }
        } else {
            let found = bursts(&workspace);
            assert!(found.keys().copied().eq((0..ROWS).step_by(BURST as usize)), "each burst is there");
            let gaps_are_known = found.iter().all(|(start, end)| lengths_ms.contains(&gap_of(*start, *end)));
            assert!(gaps_are_known, "{found:?}");
        }
    }
}
