//! Savepoints: taken, looked at, started from, deleted. What starting from one gives is what docs/operations.md says: rows
//! that were committed after it come again, in every sink, and nothing else changes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use millrace_tests::{Cell, Deadline, Finished, Millrace, Running, Table, Workspace, delta, manifest, read};
use serde_json::Value;

const ROWS: i64 = 160_000;
const SINKS: [&str; 3] = ["file", "parquet", "delta"];

/// Passes every hundredth row on and counts windows of ten seconds, into each kind of sink.
fn pipeline(checkpoints: &str, rate: &str) -> String {
    let mut text = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: saved}}
spec:
  checkpoints: {{{checkpoints}}}
  sources:
    - name: events
      generator: {{rows: {ROWS}, {rate}fields: [{{name: id, sequence: {{}}}}, {{name: ts, timestamp: {{start: \"2024-01-01T00:00:00Z\", step: 1ms}}}}]}}
      eventTime: {{column: ts}}
  transforms:
    - {{name: some, sql: SELECT id FROM events WHERE id % 100 = 0}}
    - {{name: counts, window: w, sql: \"SELECT min(id) AS first, count(*) AS n, sum(id) AS ids FROM events\"}}
  outputs:
"
    );
    for of in ["some", "counts"] {
        for sink in SINKS {
            text += &format!("    - {{from: {of}, sink: {of}-{sink}}}\n");
        }
    }
    text += &manifest::window("w", "tumbling: {size: 10s}");
    for of in ["some", "counts"] {
        for sink in SINKS {
            let place = match sink {
                "file" => format!("file: {{path: out/{of}-file, format: {{json: {{}}}}}}"),
                _ => format!("{sink}: {{uri: out/{of}-{sink}}}"),
            };
            text += &manifest::sink(&format!("{of}-{sink}"), &place);
        }
    }
    text
}

const OFTEN: &str = "interval: 100ms, minPause: 10ms, retain: 2";

fn checkpoints(workspace: &Workspace, args: &[&str]) -> Finished {
    Millrace::new(workspace, ["checkpoints"].iter().chain(args)).finish()
}

fn list(workspace: &Workspace) -> String {
    checkpoints(workspace, &["list", "--data-dir", "data"]).expect_success().stdout
}

fn savepoint(workspace: &Workspace) -> String {
    let asked = checkpoints(workspace, &["savepoint", "--data-dir", "data"]).expect_success();
    asked.stdout.trim().to_owned()
}

fn output(workspace: &Workspace, of: &str, sink: &str) -> Table {
    let folder = workspace.join("out").join(format!("{of}-{sink}"));
    if sink == "delta" { delta::table(&folder) } else { read::folder(&folder) }
}

fn rows_committed(workspace: &Workspace, least: usize) {
    let committed = || (read::folder(&workspace.join("out/some-file")).len() >= least).then_some(());
    Deadline::secs(60).wait_for("committed rows", committed);
}

/// What a savepoint has seen.
struct Seen {
    /// By lane, the next row to make.
    lanes: BTreeMap<i64, i64>,
    /// How far the windows had come, in milliseconds since the first row.
    watermark: i64,
}

impl Seen {
    fn by(workspace: &Workspace, folder: &[&str], name: &str) -> Self {
        let args: Vec<&str> = ["inspect"].iter().chain(folder).chain([&name]).copied().collect();
        let shown = checkpoints(workspace, &args).expect_success().stdout;
        let manifest: Value = serde_json::from_str(&shown).unwrap();
        let tasks = manifest["tasks"].as_array().unwrap();
        let points = tasks.iter().flat_map(|task| task["replayPoints"].as_array().unwrap());
        let lanes = points.map(|point| {
            let next = point[1]["next"].as_i64().unwrap();
            (next % 64, next)
        });
        let counts = tasks.iter().find(|task| !task["files"].as_array().unwrap().is_empty()).unwrap();
        let start_ms = 1_704_067_200_000;
        Self { lanes: lanes.collect(), watermark: counts["watermark"].as_i64().unwrap() - start_ms }
    }

    fn has_row(&self, id: i64) -> bool {
        id < self.lanes[&(id % 64)]
    }

    fn has_window(&self, first: i64) -> bool {
        first + 10_000 <= self.watermark
    }
}

/// Each row and window is there as often as it says.
fn expect(workspace: &Workspace, row_times: impl Fn(i64) -> usize, window_times: impl Fn(i64) -> usize) {
    for sink in SINKS {
        let mut found: BTreeMap<i64, usize> = BTreeMap::new();
        output(workspace, "some", sink).column("id").for_each(|id| *found.entry(id.int()).or_default() += 1);
        let expected = (0..ROWS / 100).map(|id| (id * 100, row_times(id * 100))).collect::<BTreeMap<_, _>>();
        assert_eq!(found, expected, "some-{sink}");
        let mut found: BTreeMap<i64, usize> = BTreeMap::new();
        for row in output(workspace, "counts", sink).rows {
            let first = row["first"].int();
            assert_eq!(
                (row["n"].int(), row["ids"].int()),
                (10_000, 10_000 * first + 10_000 * 9_999 / 2),
                "counts-{sink}"
            );
            *found.entry(first).or_default() += 1;
        }
        let expected = (0..ROWS / 10_000).map(|w| (w * 10_000, window_times(w * 10_000))).collect::<BTreeMap<_, _>>();
        assert_eq!(found, expected, "counts-{sink}");
    }
}

/// Takes a savepoint in the middle, stops, and goes on to the end; answers the savepoint's name.
fn saved_and_finished(workspace: &Workspace, checkpoints: &str) -> String {
    workspace.write("saved.yaml", pipeline(checkpoints, "rate: 40000, "));
    let running = Millrace::run(workspace, "saved.yaml").start();
    rows_committed(workspace, 300);
    let name = savepoint(workspace);
    let before = read::folder(&workspace.join("out/some-file")).len();
    rows_committed(workspace, before + 200);
    running.terminate();
    running.wait().expect_success();
    Millrace::run(workspace, "saved.yaml").finish().expect_success();
    expect(workspace, |_| 1, |_| 1);
    name
}

#[test]
fn a_run_from_a_savepoint_on_the_same_data_folder_repeats_what_came_after_it_and_no_more() {
    let workspace = Workspace::new();
    let name = saved_and_finished(&workspace, OFTEN);
    let seen = Seen::by(&workspace, &["--data-dir", "data"], &name);
    assert!(seen.has_row(0) && !seen.has_row(ROWS - 100) && seen.has_window(0), "it was taken in the middle");
    Millrace::run(&workspace, "saved.yaml").args(["--from-savepoint", &name]).finish().expect_success();
    expect(&workspace, |id| 2 - usize::from(seen.has_row(id)), |first| 2 - usize::from(seen.has_window(first)));
    // That it was started from one time is no reason to do so again.
    Millrace::run(&workspace, "saved.yaml").finish().expect_success().expect_stderr(&["nothing is left to do"]);
    expect(&workspace, |id| 2 - usize::from(seen.has_row(id)), |first| 2 - usize::from(seen.has_window(first)));
    assert!(list(&workspace).contains(&name), "it is still there");
}

#[test]
fn a_run_from_a_savepoint_on_a_new_data_folder_repeats_what_came_after_it_and_no_more() {
    let workspace = Workspace::new();
    let name = saved_and_finished(&workspace, &format!("{OFTEN}, storage: store"));
    let seen = Seen::by(&workspace, &["--data-dir", "data", "--storage", "store"], &name);
    let new = ["run", "-f", "saved.yaml", "--data-dir", "new", "--from-savepoint", &name];
    Millrace::new(&workspace, new).finish().expect_success();
    expect(&workspace, |id| 2 - usize::from(seen.has_row(id)), |first| 2 - usize::from(seen.has_window(first)));
}

#[test]
fn a_run_from_a_savepoint_that_is_killed_goes_on_from_where_it_was() {
    let workspace = Workspace::new();
    let name = saved_and_finished(&workspace, OFTEN);
    let seen = Seen::by(&workspace, &["--data-dir", "data"], &name);
    let rows = read::folder(&workspace.join("out/some-file")).len();
    let again = Millrace::run(&workspace, "saved.yaml").args(["--from-savepoint", &name]).start();
    rows_committed(&workspace, rows + 100);
    again.kill();
    Millrace::run(&workspace, "saved.yaml").finish().expect_success();
    expect(&workspace, |id| 2 - usize::from(seen.has_row(id)), |first| 2 - usize::from(seen.has_window(first)));
}

#[test]
fn a_savepoint_that_a_start_goes_back_over_stays_and_can_be_started_from() {
    let workspace = Workspace::new();
    workspace.write("saved.yaml", pipeline(OFTEN, "rate: 40000, "));
    let running = Millrace::run(&workspace, "saved.yaml").start();
    let rows = || read::folder(&workspace.join("out/some-file")).len();
    rows_committed(&workspace, 300);
    let first = savepoint(&workspace);
    rows_committed(&workspace, rows() + 200);
    let second = savepoint(&workspace);
    running.kill();
    let expect_both = || {
        let listed = list(&workspace);
        let is_kept = |name: &str| listed.lines().any(|line| line.contains(name) && line.contains("kept"));
        assert!(is_kept(&first) && is_kept(&second), "{listed}");
    };
    for name in [&first, &second, &first] {
        let before = rows();
        let again = Millrace::run(&workspace, "saved.yaml").args(["--from-savepoint", name]).start();
        rows_committed(&workspace, before + 100);
        again.kill();
        expect_both();
        // A start clears away what nothing names.
        let before = rows();
        let again = Millrace::run(&workspace, "saved.yaml").start();
        rows_committed(&workspace, before + 100);
        again.kill();
        expect_both();
    }
    Millrace::run(&workspace, "saved.yaml").args(["--from-savepoint", &second]).finish().expect_success();
    expect_both();
}

/// A copy of a folder, as a backup makes one.
fn copy(workspace: &Workspace, from: &str, to: &str) {
    let copied = Command::new("cp").args(["-a", from, to]).current_dir(workspace.path()).status().unwrap();
    assert!(copied.success());
}

#[test]
fn checkpoints_that_are_older_than_what_was_committed_are_refused_and_gone_on_from_where_the_user_says_so() {
    let again = "--allow-previous-checkpoint";
    // What is put back, and who knows that it is older.
    for (put_back, knows) in [("data/checkpoints", "this data folder has rows of"), ("data", " has rows of checkpoint")]
    {
        let workspace = Workspace::new();
        workspace.write("saved.yaml", pipeline(OFTEN, "rate: 40000, "));
        let running = Millrace::run(&workspace, "saved.yaml").start();
        rows_committed(&workspace, 300);
        running.terminate();
        running.wait().expect_success();
        let newest = || list(&workspace).lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let seen = Seen::by(&workspace, &["--data-dir", "data"], &newest());
        copy(&workspace, put_back, "backup");

        let running = Millrace::run(&workspace, "saved.yaml").start();
        rows_committed(&workspace, 700);
        running.kill();
        fs::rename(workspace.join(put_back), workspace.join("newer")).unwrap();
        copy(&workspace, "backup", put_back);
        let out = workspace.join("out");
        let contents = || -> BTreeMap<PathBuf, Vec<u8>> {
            let files = read::visible_files(&out).into_iter().map(|(path, _)| path);
            files.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
        };
        let committed = contents();
        for _ in 0..2 {
            let refused = Millrace::run(&workspace, "saved.yaml").finish().expect_code(1);
            refused.expect_stderr(&[&format!("the newest checkpoint that is there is {}", newest()), knows, again]);
        }
        assert!(contents() == committed, "nothing is changed");

        let running = Millrace::run(&workspace, "saved.yaml").args([again]).start();
        let rows = read::folder(&out.join("some-file")).len();
        rows_committed(&workspace, rows + 100);
        running.kill();
        // From then on it is no more than a restart.
        Millrace::run(&workspace, "saved.yaml").finish().expect_success();
        let now = contents();
        for (path, content) in &committed {
            assert!(now.get(path) == Some(content), "{} is as it was", path.display());
        }
        for sink in SINKS {
            let rows = output(&workspace, "some", sink);
            let mut times: BTreeMap<i64, usize> = BTreeMap::new();
            rows.column("id").for_each(|id| *times.entry(id.int()).or_default() += 1);
            assert_eq!(times.len() as i64, ROWS / 100, "{sink}");
            for (id, times) in times {
                assert!(times == 1 || (times == 2 && !seen.has_row(id)), "{sink}: row {id} came {times} times");
            }
            let twice = rows.len() as i64 - ROWS / 100;
            assert!(twice > 0, "{sink}: what came after the backup comes twice");
        }
    }
}

#[test]
fn a_savepoint_that_is_not_there_is_refused_with_those_that_are() {
    let workspace = Workspace::new();
    let name = saved_and_finished(&workspace, OFTEN);
    let refused = Millrace::run(&workspace, "saved.yaml").args(["--from-savepoint", "savepoint-0"]).finish();
    refused.expect_code(2).expect_stderr(&["there is no savepoint savepoint-0", &name]);
}

/// Starts a pipeline that takes no checkpoints by itself, and a savepoint of it.
fn only_saved(workspace: &Workspace) -> (Running, String) {
    workspace.write("saved.yaml", pipeline("interval: 1h", "rate: 20000, "));
    let running = Millrace::run(workspace, "saved.yaml").start();
    let running_there = || workspace.join("data/control").exists().then_some(());
    Deadline::secs(60).wait_for("the control socket", running_there);
    let name = savepoint(workspace);
    (running, name)
}

#[test]
fn a_savepoint_can_be_deleted_once_there_is_something_newer_and_its_files_go_with_it() {
    let workspace = Workspace::new();
    let (running, name) = only_saved(&workspace);
    let shown = list(&workspace);
    assert!(shown.lines().any(|line| line.starts_with(&name) && line.contains("savepoint") && line.contains("latest")));
    running.kill();
    let delete = |what: &str| checkpoints(&workspace, &["delete", "--data-dir", "data", what]);
    delete(&name).expect_code(2).expect_stderr(&["is what the next run starts from"]);
    // It still works.
    Millrace::run(&workspace, "saved.yaml").finish().expect_success();
    expect(&workspace, |_| 1, |_| 1);
    let newest = list(&workspace).lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
    delete(&newest).expect_code(2).expect_stderr(&["Millrace keeps and deletes those itself"]);
    delete("savepoint-99").expect_code(2).expect_stderr(&["there is no checkpoint savepoint-99", &name]);
    let deleted = delete(&name).expect_success();
    assert!(deleted.stdout.starts_with(&format!("deleted {name}: ")), "{}", deleted.stdout);
    assert!(!list(&workspace).contains(&name));
    expect_only_named_files(&workspace.join("data/checkpoints/saved"));
    let refused = Millrace::run(&workspace, "saved.yaml").args(["--from-savepoint", &name]).finish();
    refused.expect_code(2).expect_stderr(&[&format!("there is no savepoint {name}; there are: none")]);
    Millrace::run(&workspace, "saved.yaml").finish().expect_success().expect_stderr(&["nothing is left to do"]);
}

fn expect_only_named_files(store: &Path) {
    let manifests =
        read::all_files(store).into_iter().filter(|(path, _)| path.extension().is_some_and(|of| of == "json"));
    let named: String = manifests.map(|(path, _)| fs::read_to_string(path).unwrap()).collect();
    let files = read::all_files(&store.join("files"));
    assert!(!files.is_empty());
    for (path, _) in files {
        assert!(named.contains(path.file_name().unwrap().to_str().unwrap()), "left: {}", path.display());
    }
}

#[test]
fn everything_that_a_pipeline_remembers_can_be_deleted_and_it_begins_again() {
    let workspace = Workspace::new();
    let (running, _) = only_saved(&workspace);
    let delete = |args: &[&str]| {
        let all: Vec<&str> = ["delete", "--data-dir", "data", "--all"].iter().chain(args).copied().collect();
        checkpoints(&workspace, &all)
    };
    delete(&[]).expect_code(2).expect_stderr(&["is in use", &running.pid().to_string()]);
    running.wait().expect_success();
    expect(&workspace, |_| 1, |_| 1);
    delete(&["--pipeline", "other"]).expect_code(2).expect_stderr(&["there is no pipeline other; there are: saved"]);
    let deleted = delete(&[]).expect_success();
    assert!(deleted.stdout.contains("deleted all that saved remembered"), "{}", deleted.stdout);
    assert!(!workspace.join("data/checkpoints/saved").exists());
    assert!(read::all_files(&workspace.join("data/state")).is_empty());
    // From the beginning, as a pipeline of its own: what sinks have stays there, and every row comes again.
    workspace.write("saved.yaml", pipeline(OFTEN, ""));
    Millrace::run(&workspace, "saved.yaml").finish().expect_success();
    expect(&workspace, |_| 2, |_| 2);
}

#[test]
fn checkpoints_that_somebody_removed_by_hand_are_missed_and_once_they_are_given_up_cost_no_rows_either() {
    let workspace = Workspace::new();
    workspace.write("saved.yaml", pipeline(OFTEN, ""));
    Millrace::run(&workspace, "saved.yaml").finish().expect_success();
    fs::remove_dir_all(workspace.join("data/checkpoints")).unwrap();
    let missed = Millrace::run(&workspace, "saved.yaml").finish().expect_code(1);
    missed.expect_stderr(&["there are no checkpoints in", "data/checkpoints/saved", "checkpoints delete --all"]);
    expect(&workspace, |_| 1, |_| 1);
    checkpoints(&workspace, &["delete", "--data-dir", "data", "--all"]).expect_success();
    Millrace::run(&workspace, "saved.yaml").finish().expect_success();
    expect(&workspace, |_| 2, |_| 2);
    assert!(output(&workspace, "some", "delta").column("id").any(|id| matches!(id, Cell::Int(_))));
}
