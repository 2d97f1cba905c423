//! Edits of a running Pipeline: every kind that is taken up while the process runs on, one after the other.

use std::{fs, io::Write, path::Path, time::Duration};

use millrace_tests::{Deadline, cluster, manifest, wait};
use serde_json::Value;

use crate::live::{Live, Rows, expect_each_once};

/// What is edited of the Pipeline, its Window and its Sinks.
#[derive(Clone)]
struct Spec {
    rate: u32,
    /// The select list and the filter of the transform `some`.
    some: &'static str,
    /// Further transforms, each of which goes to a Sink of its name.
    more: &'static [(&'static str, &'static str)],
    paths: &'static str,
    window: &'static str,
    lateness: &'static str,
    target: &'static str,
    batch: &'static str,
    parallelism: u32,
}

impl Spec {
    fn manifests(&self) -> String {
        let Self { rate, some, more, paths, window, lateness, target, batch, parallelism } = self;
        let transforms: String =
            more.iter().map(|(name, sql)| format!("    - {{name: {name}, sql: {sql}}}\n")).collect();
        let outputs: String = more.iter().map(|(name, _)| format!(", {{from: {name}, sink: {name}}}")).collect();
        let pipeline = format!(
            "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: web}}
spec:
  parallelism: {parallelism}
  checkpoints: {{interval: 250ms, minPause: 50ms}}
  deployment: {{volume: {{size: 1Gi}}}}
  sources:
    - name: ids
      generator: {{rate: {rate}, fields: [{{name: id, sequence: {{}}}}]}}
    - name: lines
      file: {{paths: [{paths}], follow: true, pollInterval: 100ms}}
      format: {{json: {{}}}}
      columns: [{{name: ts, type: TIMESTAMP}}, {{name: v, type: BIGINT}}]
      eventTime: {{column: ts}}
  transforms:
    - {{name: some, sql: \"SELECT {some}\"}}
    - {{name: fifths, sql: SELECT id FROM ids WHERE id % 5 = 0}}
    - {{name: sums, window: w, sql: \"SELECT window_start, sum(v) AS vs FROM lines\"}}
{transforms}  outputs: [{{from: ids, sink: every}}, {{from: some, sink: some}}, {{from: fifths, sink: moving}}, {{from: ids, sink: \
             batched}}, {{from: lines, sink: lines}}, {{from: sums, sink: sums}}, {{from: sums.late, sink: late}}{outputs}]
"
        );
        let window = format!("tumbling: {{size: {window}}}\n  allowedLateness: {lateness}\n  lateRows: SideOutput");
        let sink = |name: &str, path: &str, more: &str| {
            manifest::sink(name, &format!("file: {{path: /data/out/{path}, format: {{json: {{}}}}}}{more}"))
        };
        let plain = ["every", "some", "lines", "sums", "late", "odd"].map(|name| sink(name, name, ""));
        let edited = [sink("moving", target, ""), sink("batched", "batched", &format!("\n  batch: {{{batch}}}"))];
        [pipeline, manifest::window("w", &window), plain.concat(), edited.concat()].concat()
    }
}

/// Event time of second 0, in milliseconds.
const BEGINS: i64 = 1_704_067_200_000;

/// Appends rows: second and value.
fn append(path: &Path, rows: &[(i64, i64)]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let lines: String = rows.iter().map(|(at, v)| format!("{{\"ts\":{},\"v\":{v}}}\n", BEGINS + at * 1000)).collect();
    fs::File::options().create(true).append(true).open(path).unwrap().write_all(lines.as_bytes()).unwrap();
}

/// The sums of windows, by the second that they begin at, corrections too.
fn sums(rows: &Rows) -> Vec<(i64, i64)> {
    let second = |cell: &millrace_tests::Cell| match cell {
        millrace_tests::Cell::Time(nanos) => (nanos / 1_000_000 - BEGINS) / 1000,
        other => panic!("{other} is no time"),
    };
    rows.table.rows.iter().map(|row| (second(&row["window_start"]), row["vs"].int())).collect()
}

/// Applies an edit, and checks that it was told, done, and told again.
#[track_caller]
fn edit(live: &Live<'_>, spec: &Spec, class: &str, reason: &str) -> String {
    let object = live.takes_up(&spec.manifests());
    let change = &object["status"]["change"];
    let said = change["reason"].as_str().unwrap_or_default();
    assert!(change["class"] == class && said.contains(reason), "expected {class}, {reason:?}: {change:#}");
    let revision = change["to"].as_str().unwrap().to_owned();
    assert_eq!(object["status"]["revision"], revision);
    live.was_told_before_it_was_done(&revision);
    revision
}

#[test]
fn eleven_kinds_of_edits_are_taken_up_by_one_process() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("edits");
    let installed = namespace.install(&[]);
    let mut spec = Spec {
        rate: 500,
        some: "id FROM ids WHERE id % 10 = 0",
        more: &[],
        paths: "/data/in/*.ndjson",
        window: "10s",
        lateness: "0s",
        target: "moving",
        batch: "",
        parallelism: 1,
    };
    let live = Live::new(&namespace, "web");
    namespace.apply(&spec.manifests());
    live.is_ready();
    let process = live.process();
    let data = live.data();
    let rows = |name: &str| Rows::of(&data.join("out").join(name));
    let (mut every, mut some, mut late, mut windows) = (rows("every"), rows("some"), rows("late"), rows("sums"));
    let log = data.join("in/a.ndjson");
    append(&log, &[(1, 1), (7, 2), (12, 4)]);
    windows.wait_for("the first window", |rows| sums(rows) == [(0, 3)]);
    append(&log, &[(3, 8)]);
    late.wait_for("a late row", |rows| rows.numbers("v") == [8]);
    some.wait_for("rows", |rows| rows.table.len() > 10);
    let mut revisions = Vec::new();
    let mut edited = |spec: &Spec, class: &str, reason: &str| revisions.push(edit(&live, spec, class, reason));

    // A filter.
    spec.some = "id FROM ids WHERE id % 10 < 2";
    edited(&spec, "Hot", "some");
    let is_one = |row: &millrace_tests::Row| row["id"].int() % 10 == 1;
    some.wait_for("what the new filter lets through", |rows| rows.table.rows.iter().any(is_one));

    // A column.
    spec.some = "id, id * 2 AS twice FROM ids WHERE id % 10 < 2";
    edited(&spec, "Hot", "twice BIGINT is new");
    some.wait_for("the new column", |rows| rows.table.rows.iter().any(|row| row.contains_key("twice")));

    // A new transform, with a way out of its own.
    spec.more = &[("odd", "SELECT id FROM ids WHERE id % 2 = 1")];
    edited(&spec, "Hot", "odd: a new transform");
    let mut odd = rows("odd");
    odd.wait_for("the new transform's rows", |rows| rows.table.len() > 10);

    // The same branch removed.
    spec.more = &[];
    edited(&spec, "Hot", "odd: the transform is gone");
    let last = every.more().last("id");
    every.wait_for("rows after it", |rows| rows.last("id") > last + 500);
    let odd = odd.more().numbers("id");
    assert!(*odd.last().unwrap() <= last, "the removed branch ends");
    assert!(odd.windows(2).all(|pair| pair[1] == pair[0] + 2), "and has each row once: {odd:?}");

    // Lateness: what would have been late is a correction now, of a window that was not closed for good before.
    spec.lateness = "1h";
    edited(&spec, "Hot", "sums");
    append(&log, &[(25, 16)]);
    windows.wait_for("the second window", |rows| sums(rows).contains(&(10, 4)));
    append(&log, &[(14, 32)]);
    windows.wait_for("the correction", |rows| sums(rows).contains(&(10, 36)));

    // A window's size. The first windows of both sizes that begin together after 25s begin at 40s.
    spec.window = "20s";
    edited(&spec, "Hot", "the window changes from");
    append(&log, &[(35, 64), (45, 128), (55, 256), (65, 512)]);
    windows.wait_for("a longer window", |rows| sums(rows).contains(&(40, 384)));

    // Where a Sink writes to.
    spec.target = "moved";
    edited(&spec, "Hot", "/data/out/moved");
    let mut moved = rows("moved");
    moved.wait_for("rows there", |rows| rows.table.len() > 10);

    // How much a Sink gathers before it shows it.
    let mut batched = rows("batched");
    assert!(batched.more().files.iter().all(|rows| *rows < 1000), "{:?}", batched.files);
    let files = batched.files.len();
    spec.batch = "maxRows: 1000";
    edited(&spec, "Hot", "`batch` changes");
    batched.wait_for("a batch", |rows| rows.files.iter().skip(files).any(|rows| *rows >= 1000));

    // How fast a generator is.
    spec.rate = 2000;
    edited(&spec, "Hot", "ids: `generator` changes");
    Deadline::secs(60).wait_for("the new rate", || {
        let before = every.more().table.len();
        let ((), took) = wait::timed(|| wait::pass(Duration::from_secs(2)));
        let rate = (every.more().table.len() - before) as f64 / took.as_secs_f64();
        (rate > 1000.0).then_some(())
    });

    // Which files a source reads.
    append(&data.join("more/b.ndjson"), &[(66, 1024), (67, 2048)]);
    spec.paths = "/data/in/*.ndjson, /data/more/*.ndjson";
    edited(&spec, "Hot", "lines: `file` changes");
    let mut lines = rows("lines");
    lines.wait_for("the other file", |rows| rows.last("v") == 2048);

    // Nothing was lost or repeated so far, and all of it was in order.
    let before = expect_numbers(&mut every, &mut some);
    // How many tasks there are. Their rows come in no order of all, and each still once.
    spec.parallelism = 2;
    edited(&spec, "Rescale", "parallelism from 1 to 2");
    append(&log, &[(85, 4096)]);
    append(&data.join("more/b.ndjson"), &[(86, 8192)]);
    windows.wait_for("a window over it", |rows| sums(rows).contains(&(60, 512 + 1024 + 2048)));
    every.wait_for("rows of two tasks", |rows| rows.last("id") > before + 2000);
    let ids = every.more().numbers("id");
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "each row once");
    expect_each_once(&ids[..=before as usize], |_| true, "every row before the last edit");

    let mut fifths = rows("moving");
    let first = fifths.more().last("id");
    assert!(moved.more().numbers("id")[0] == first + 5, "what was written here is not written there");
    let lines = lines.more().numbers("v");
    assert_eq!(lines, (0..14).map(|power| 1 << power).collect::<Vec<i64>>(), "each line once");
    assert_eq!(late.more().numbers("v"), [8]);
    let mut newest: Vec<(i64, i64)> = sums(windows.more());
    newest.retain(|window| *window != (10, 4));
    newest.sort_unstable();
    assert_eq!(newest, [(0, 3), (10, 36), (20, 16), (30, 64), (40, 384), (60, 3584)]);
    let batched = batched.more().numbers("id");
    assert!(batched.windows(2).all(|pair| pair[0] < pair[1]), "each row once");

    assert_eq!(live.process(), process, "it is the same process all along");
    expect_history(&live, &revisions);
    installed.expect_nothing_forbidden();
}

/// Checks all that was committed so far of the rows whose order is known. The greatest of them.
#[track_caller]
fn expect_numbers(every: &mut Rows, some: &mut Rows) -> i64 {
    let ids = every.more().numbers("id");
    expect_each_once(&ids, |_| true, "every row");
    let filtered = some.more().numbers("id");
    let ones = filtered.iter().copied().find(|id| id % 10 == 1).expect("the filter was edited");
    expect_each_once(&filtered, |id| id % 10 == 0 || (id % 10 == 1 && *id >= ones), "the rows of both filters");
    let with = |has: bool| {
        let rows = some.table.rows.iter().filter(move |row| row.contains_key("twice") == has);
        rows.map(|row| row["id"].int())
    };
    assert!(with(false).max() < with(true).min(), "the column begins at one row");
    let mut twice = some.table.rows.iter().filter_map(|row| Some((row["id"].int(), row.get("twice")?.int())));
    assert!(twice.all(|(id, twice)| twice == 2 * id));
    ids.last().copied().unwrap()
}

/// The last ten revisions stand in the history, and of each edit there is an event when it was classed and when it was taken up.
#[track_caller]
fn expect_history(live: &Live<'_>, revisions: &[String]) {
    let object = live.object.last().unwrap();
    let history = object["status"]["history"].as_array().unwrap();
    let told: Vec<&Value> = history.iter().map(|entry| &entry["revision"]).collect();
    let expected: Vec<&String> = revisions.iter().rev().take(10).collect();
    assert_eq!(told, expected);
    assert!(history.iter().all(|entry| entry["result"] == "TakenUp" && entry["at"].is_string()), "{history:#?}");
    let events = live.events();
    for reason in ["EditClassed", "TakenUp"] {
        let told = events.iter().filter(|(of, _)| of == reason).count();
        assert!(told >= revisions.len(), "{told} of {reason}: {events:#?}");
    }
}
