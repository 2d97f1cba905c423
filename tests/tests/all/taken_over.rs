//! Two processes with one place for their checkpoints, each in a data folder of its own: the one that came first steps down.

use std::path::Path;

use millrace_tests::{Cell, Deadline, Finished, Millrace, Running, Seed, Table, Workspace, manifest, read};

const ROWS: i64 = 60_000;

/// Counts by key, so that there is state to go on from, and copies.
fn manifests(sink: &str) -> String {
    let pipeline = manifest::Pipeline {
        name: "shared",
        checkpoints: "interval: 700ms, minPause: 10ms, storage: kept",
        more: "",
        events: &manifest::numbers(ROWS, 8_000),
        transforms: &[
            ("copied", "", "SELECT ts, id FROM events"),
            ("counts", "w", "SELECT window_start, id % 10 AS k, count(*) AS n FROM events GROUP BY id % 10"),
        ],
        outputs: &[("copied", "copied"), ("counts", "counts")],
    };
    let (copied, counts) = (sink.replace("FOLDER", "out/copied"), sink.replace("FOLDER", "out/counts"));
    [
        pipeline.to_string(),
        manifest::window("w", "tumbling: {size: 1s}"),
        manifest::sink("copied", &copied),
        manifest::sink("counts", &counts),
    ]
    .concat()
}

fn start(workspace: &Workspace, data: &str) -> Running {
    Millrace::new(workspace, ["run", "-f", "shared.yaml", "--data-dir", data]).start()
}

fn rows(folder: &Path) -> Table {
    if folder.exists() { read::folder(folder) } else { Table::default() }
}

fn expect_stepped_down(finished: Finished) {
    let finished = finished
        .expect_code(1)
        .expect_stderr(&["has taken the pipeline over; this one has stepped down", "from another data folder"]);
    assert!(!finished.stderr.contains(AGAIN), "it tries no more: {}", finished.stderr);
}

/// What is told of tasks that are started again.
const AGAIN: &str = "starting again";

#[test]
fn of_two_runs_with_one_storage_the_first_steps_down_and_the_second_goes_on_with_each_row_once() {
    let mut seed = Seed::of_test("two runs");
    let sinks = [
        "file: {path: FOLDER, format: {json: {}}}",
        "parquet: {uri: FOLDER}",
        "file: {path: FOLDER, format: {json: {}}}\n  batch: {maxDelay: 300ms}",
    ];
    for sink in sinks {
        let workspace = Workspace::new();
        workspace.write("shared.yaml", manifests(sink));
        let copied = workspace.join("out/copied");
        let mut running = start(&workspace, "data-0");
        for next in 1..=seed.between(1, 2) {
            let least = rows(&copied).len() as i64 + seed.between(1, 3_000);
            Deadline::secs(60).wait_for("rows", || (rows(&copied).len() as i64 >= least).then_some(()));
            let second = start(&workspace, &format!("data-{next}"));
            expect_stepped_down(running.wait());
            running = second;
        }
        let last = running.wait().expect_success();
        assert!(!last.stderr.contains(AGAIN), "nobody is in its way: {}", last.stderr);
        let mut ids: Vec<i64> = rows(&copied).column("id").map(Cell::int).collect();
        ids.sort_unstable();
        assert!(ids.iter().copied().eq(0..ROWS), "{} rows", ids.len());
        let counts = rows(&workspace.join("out/counts"));
        assert_eq!((counts.len() as i64, counts.sum("n")), (ROWS / 100, ROWS));
    }
}
