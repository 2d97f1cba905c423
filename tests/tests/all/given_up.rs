//! Checkpoints that take longer than their time-out and whose tasks acknowledge them after all: what these prepared belongs to the
//! next checkpoint, once.

use std::{fs, path::Path};

use millrace_tests::{Cell, Deadline, Millrace, Running, Seed, Table, Workspace, delta, manifest, read};
use serde_json::Value;

const ROWS: i64 = 12_000;
const GIVEN_UP: &str = "checkpoint failed";
const COMPLETED: &str = "checkpoint completed";

fn manifests(sink: &str) -> String {
    let pipeline = manifest::Pipeline {
        name: "slow",
        checkpoints: "interval: 200ms, minPause: 1ms, timeout: 250ms",
        more: "",
        events: &manifest::numbers(ROWS, 3_000),
        transforms: &[("copied", "", "SELECT id FROM events")],
        outputs: &[("copied", "copied")],
    };
    [pipeline.to_string(), manifest::sink("copied", sink)].concat()
}

/// Kills the process when a checkpoint is completed after one was given up. Whether that came about: else the run has ended.
fn killed_after_one_was_given_up(mut running: Running) -> bool {
    let goes_on = |text: &str| text.split_once(GIVEN_UP).is_some_and(|(_, after)| after.contains(COMPLETED));
    let completed = Deadline::secs(60).poll(|| match running.is_alive() {
        true => goes_on(&running.stderr()).then_some(true),
        false => Some(false),
    });
    running.kill();
    completed == Some(true)
}

fn rows(workspace: &Workspace, sink: &str) -> Table {
    let out = workspace.join("out");
    if sink.starts_with("delta") { delta::table(&out) } else { read::folder(&out) }
}

/// The files that a table's log adds.
fn added(log: &Path) -> Vec<String> {
    let entries = read::all_files(log).into_iter().filter(|(path, _)| path.extension().is_some_and(|of| of == "json"));
    let texts: Vec<String> = entries.map(|(path, _)| fs::read_to_string(path).unwrap()).collect();
    let actions = texts.iter().flat_map(|text| text.lines()).map(|line| serde_json::from_str::<Value>(line).unwrap());
    actions.filter_map(|action| Some(action["add"]["path"].as_str()?.to_owned())).collect()
}

#[test]
fn what_checkpoints_that_were_given_up_have_prepared_is_shown_once_and_what_they_held_is_not_lost() {
    let mut seed = Seed::of_test("given up");
    let batch = "batch: {maxRows: 100000, maxDelay: 10s}";
    for sink in ["file: {path: out, format: {json: {}}}", "parquet: {uri: out}", "delta: {uri: out}"] {
        for sink in [format!("{sink}\n  {batch}"), sink.to_owned()] {
            let workspace = Workspace::new();
            workspace.write("slow.yaml", manifests(&sink));
            // The sink's task holds its part of one checkpoint for longer than the time-out, and prepares it after all.
            let held = format!("sink-prepared:{}:delay", seed.between(2, 6));
            let running = Millrace::run(&workspace, "slow.yaml").env("MILLRACE_FAULT_POINT", &held).start();
            assert!(killed_after_one_was_given_up(running), "{sink}: no checkpoint was given up with {held}");
            let last = Millrace::run(&workspace, "slow.yaml").finish().expect_success();
            assert!(!last.stderr.contains("are gone"), "{}", last.stderr);
            let mut ids: Vec<i64> = rows(&workspace, &sink).column("id").map(Cell::int).collect();
            ids.sort_unstable();
            assert!(ids.iter().copied().eq(0..ROWS), "{sink}: {} rows of {ROWS}", ids.len());
            let mut added = added(&workspace.join("out/_delta_log"));
            let all = added.len();
            added.sort_unstable();
            added.dedup();
            assert_eq!(added.len(), all, "no file is added twice");
        }
    }
}
