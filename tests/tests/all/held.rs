//! Rows that sinks hold back for fuller files, a kill, and an edit that comes with the next start: they are shown all the same,
//! each once, and nothing stays behind.

use millrace_tests::{Deadline, Finished, Millrace, Table, Workspace, delta, manifest, read};

const ROWS: i64 = 30_000;

/// The pipeline: what `p` selects, where it goes, and what else does.
fn manifests(sql: &str, sink: &str, is_removed: bool) -> String {
    let output = if is_removed { "" } else { "    - {from: p, sink: out}\n" };
    let pipeline = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: held}}
spec:
  checkpoints: {{interval: 100ms, minPause: 10ms}}
  sources:
    - name: t
      generator: {{rows: {ROWS}, rate: 20000, fields: [{{name: id, sequence: {{}}}}, {{name: k, int: {{min: 0, max: 3}}}}]}}
  transforms:
    - {{name: p, sql: \"{sql}\"}}
    - {{name: n, window: w, sql: SELECT count(*) AS n FROM t}}
  outputs:
{output}    - {{from: n, sink: n}}
"
    );
    [
        pipeline,
        manifest::window("w", "tumbling: {size: 1s}"),
        manifest::sink("out", sink),
        manifest::sink("n", "file: {path: out/n, format: {json: {}}}"),
    ]
    .concat()
}

/// Kills the pipeline after some checkpoints, and starts it with other manifests, which die at a point of their start first.
fn killed_and_edited(workspace: &Workspace, before: &str, after: &str, deaths: &[&str]) {
    workspace.write("p.yaml", before);
    killed_at(workspace, "after-pointer:6");
    workspace.write("p.yaml", after);
    for point in deaths {
        killed_at(workspace, &format!("{point}:1"));
    }
    let finished = Millrace::run(workspace, "p.yaml").finish().expect_success();
    assert!(finished.stderr.contains("held back for a fuller file") || !deaths.is_empty(), "{}", finished.stderr);
}

/// Ends a run at a point of its course, as SIGKILL does.
fn killed_at(workspace: &Workspace, point: &str) -> Finished {
    let killed = Millrace::run(workspace, "p.yaml").env("MILLRACE_FAULT_POINT", point).finish();
    assert_eq!(killed.signal(), Some(9), "{point}: {}", killed.stderr);
    killed
}

/// What a reader of `out/a` sees.
fn shown(workspace: &Workspace, place: &str) -> Table {
    let folder = workspace.join("out/a");
    if place.starts_with("delta") { delta::table(&folder) } else { read::folder(&folder) }
}

fn sorted_ids(tables: &[Table]) -> Vec<i64> {
    let mut ids: Vec<i64> = tables.iter().flat_map(|table| table.column("id")).map(|id| id.int()).collect();
    ids.sort_unstable();
    ids
}

fn expect_all(tables: &[Table], what: &str) {
    let ids = sorted_ids(tables);
    assert!(ids.iter().copied().eq(0..ROWS), "{what}: {} rows of {ROWS}", ids.len());
}

fn nothing_is_staged(workspace: &Workspace) {
    let files = read::all_files(&workspace.join("out"));
    let staged: Vec<_> = files.iter().filter(|(path, _)| path.to_string_lossy().ends_with(".staged")).collect();
    assert!(staged.is_empty(), "{staged:?}");
}

const PLAIN: &str = "SELECT id, k FROM t";
const WIDER: &str = "SELECT id, k, id * 2 AS twice FROM t";

#[test]
fn rows_that_a_sink_holds_back_are_shown_when_the_next_start_brings_another_sink() {
    let held = |uri: &str, delay: &str, more: &str| {
        manifests(PLAIN, &format!("parquet: {{uri: {uri}{more}}}\n  batch: {{maxDelay: {delay}}}"), false)
    };
    let edits = [
        held("out/a", "2h", ""),
        held("out/b", "1h", ""),
        held("out/a", "1h", ", partitionBy: [k]"),
        manifests(WIDER, "parquet: {uri: out/a}\n  batch: {maxDelay: 1h}", false),
    ];
    // After the file is closed, when that is decided, and in the middle of its commit.
    let deaths: [&[&str]; 4] = [&["before-pointer"], &["after-pointer", "before-commit"], &["sink-prepared"], &[]];
    for (edit, deaths) in edits.iter().zip(deaths) {
        let workspace = Workspace::new();
        killed_and_edited(&workspace, &held("out/a", "1h", ""), edit, deaths);
        let tables: Vec<Table> = ["out/a", "out/b"]
            .iter()
            .filter(|folder| workspace.join(folder).is_dir())
            .map(|folder| read::folder(&workspace.join(folder)))
            .collect();
        expect_all(&tables, &format!("{deaths:?} {edit}"));
        nothing_is_staged(&workspace);
    }
}

#[test]
fn rows_that_tasks_hold_back_are_shown_when_the_next_start_brings_fewer_of_them() {
    for place in ["parquet: {uri: out/a}", "delta: {uri: out/a}", "file: {path: out/a, format: {json: {}}}"] {
        let workspace = Workspace::new();
        let sink = manifests(PLAIN, &format!("{place}\n  batch: {{maxDelay: 1h}}"), false);
        let on = |tasks: u32| sink.replacen("spec:\n", &format!("spec:\n  parallelism: {tasks}\n"), 1);
        // No run but the last comes to its end.
        for (tasks, point) in [
            (3, "after-pointer:4"),
            (2, "after-pointer:3"),
            (1, "before-pointer:1"),
            (1, "after-pointer:3"),
            (2, "after-pointer:2"),
        ] {
            workspace.write("p.yaml", on(tasks));
            killed_at(&workspace, point);
        }
        workspace.write("p.yaml", on(1));
        Millrace::run(&workspace, "p.yaml").finish().expect_success();
        expect_all(&[shown(&workspace, place)], place);
        nothing_is_staged(&workspace);
    }
}

#[test]
fn what_is_shown_before_an_edit_stays_as_it_is_when_the_run_that_shows_it_is_killed() {
    for place in ["parquet: {uri: out/a}", "delta: {uri: out/a}", "file: {path: out/a, format: {json: {}}}"] {
        let workspace = Workspace::new();
        let sink = |delay: &str| manifests(PLAIN, &format!("{place}\n  batch: {{maxDelay: {delay}}}"), false);
        workspace.write("p.yaml", sink("1h"));
        killed_at(&workspace, "after-pointer:6");
        workspace.write("p.yaml", sink("2h"));
        // With rows of its own staged, of which no checkpoint knows.
        let killed = killed_at(&workspace, "sink-prepared:2");
        assert!(killed.stderr.contains("held back for a fuller file"), "{}", killed.stderr);
        let files = || {
            let files = read::all_files(&workspace.join("out/a")).into_iter();
            files.filter(|(path, _)| !path.to_string_lossy().contains("staging")).collect::<Vec<_>>()
        };
        let before = files();
        Millrace::run(&workspace, "p.yaml").finish().expect_success();
        let after = files();
        assert!(before.iter().all(|file| after.contains(file)), "{place}: a file that was shown is another");
        expect_all(&[shown(&workspace, place)], place);
        nothing_is_staged(&workspace);
    }
}

#[test]
fn files_of_text_and_delta_tables_show_what_was_held_back_too() {
    let workspace = Workspace::new();
    let text = |delay: &str| format!("file: {{path: out/a, format: {{json: {{}}}}}}\n  batch: {{maxDelay: {delay}}}");
    killed_and_edited(&workspace, &manifests(PLAIN, &text("1h"), false), &manifests(WIDER, &text("2h"), false), &[]);
    expect_all(&[read::folder(&workspace.join("out/a"))], "");
    nothing_is_staged(&workspace);

    let workspace = Workspace::new();
    let table = "delta: {uri: out/a, schemaEvolution: AddColumns}\n  batch: {maxDelay: 1h}";
    let (before, after) = (manifests(PLAIN, table, false), manifests(WIDER, table, false));
    killed_and_edited(&workspace, &before, &after, &["delta-before-commit", "delta-after-commit"]);
    let rows = delta::table(&workspace.join("out/a"));
    expect_all(std::slice::from_ref(&rows), "");
    let wider =
        rows.rows.iter().filter(|row| row.get("twice").is_some_and(|twice| twice.to_string() != "null")).count();
    assert!(wider > 0 && wider < ROWS as usize, "{wider} rows have the new column");
    nothing_is_staged(&workspace);
}

#[test]
fn rows_that_a_removed_sink_held_back_are_shown_and_its_folder_is_left_clean() {
    let workspace = Workspace::new();
    let sink = "parquet: {uri: out/a}\n  batch: {maxDelay: 1h}";
    killed_and_edited(&workspace, &manifests(PLAIN, sink, false), &manifests(PLAIN, sink, true), &[]);
    let ids = sorted_ids(&[read::folder(&workspace.join("out/a"))]);
    assert!(ids.len() > 1000, "{} rows", ids.len());
    assert_eq!(ids, (0..ids.len() as i64).collect::<Vec<_>>());
    nothing_is_staged(&workspace);
}

#[test]
fn nothing_is_left_of_a_plan_that_was_killed_before_its_first_checkpoint() {
    for place in ["parquet: {uri: out/PLACE}", "delta: {uri: out/PLACE}", "file: {path: out/PLACE, format: {json: {}}}"]
    {
        let workspace = Workspace::new();
        let to = |folder: &str| manifests(PLAIN, &place.replace("PLACE", folder), false);
        // The first of all, and one that comes with an edit.
        for (folder, point) in [("a", "before-pointer:1"), ("b", "after-pointer:2"), ("c", "before-pointer:1")] {
            workspace.write("p.yaml", to(folder));
            killed_at(&workspace, point);
        }
        workspace.write("p.yaml", to("d"));
        Millrace::run(&workspace, "p.yaml").finish().expect_success();
        nothing_is_staged(&workspace);
    }
}

/// The ids that are not there, of those that any run has read.
fn missing(tables: &[Table]) -> usize {
    let mut ids = sorted_ids(tables);
    ids.dedup();
    ROWS as usize - ids.len()
}

#[test]
fn who_goes_back_to_an_older_checkpoint_or_a_savepoint_misses_nothing_that_it_held_back() {
    for place in ["parquet: {uri: out/a}", "delta: {uri: out/a}", "file: {path: out/a, format: {json: {}}}"] {
        for from_savepoint in [true, false] {
            let workspace = Workspace::new();
            let sink = format!("{place}\n  batch: {{maxRows: 2500}}");
            let quick = manifests(PLAIN, &sink, false);
            // The first two runs must not come to their end before they are killed, on a busy machine either.
            workspace.write("p.yaml", quick.replace("rate: 20000", "rate: 2000"));
            let mut args = vec!["--allow-previous-checkpoint".to_owned()];
            let running = Millrace::run(&workspace, "p.yaml").start();
            let are_shown = |least: usize| {
                let is_there = || workspace.join("out/a").is_dir();
                Deadline::secs(60)
                    .wait_for("rows", || (is_there() && shown(&workspace, place).len() >= least).then_some(()));
            };
            are_shown(1);
            if from_savepoint {
                let taken = Millrace::new(&workspace, ["checkpoints", "savepoint", "--data-dir", "data"])
                    .finish()
                    .expect_success();
                let name =
                    taken.stdout.split_whitespace().find(|word| word.starts_with("savepoint-")).unwrap().to_owned();
                args = vec!["--from-savepoint".to_owned(), name];
            }
            // What was held back by then is shown.
            are_shown(shown(&workspace, place).len() + 3000);
            running.signal("KILL");
            running.wait();
            if !from_savepoint {
                let manifests = read::all_files(&workspace.join("data/checkpoints")).into_iter().map(|(path, _)| path);
                let manifests = manifests.filter(|path| path.to_string_lossy().contains("manifests/"));
                let newest = manifests.max_by_key(|path| {
                    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                    name.split('-').next().unwrap().parse::<u64>().unwrap()
                });
                std::fs::write(newest.unwrap(), "damaged").unwrap();
            }
            let back =
                Millrace::run(&workspace, "p.yaml").args(&args).env("MILLRACE_FAULT_POINT", "after-pointer:3").finish();
            assert_eq!(back.signal(), Some(9), "{place}: {}", back.stderr);
            workspace.write("p.yaml", &quick);
            Millrace::run(&workspace, "p.yaml").finish().expect_success();
            assert_eq!(missing(&[shown(&workspace, place)]), 0, "{place} {args:?}");
            nothing_is_staged(&workspace);
        }
    }
}
