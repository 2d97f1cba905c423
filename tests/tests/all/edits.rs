//! Edits while running: taken up at a barrier, in process, with nothing lost or repeated and the state of what keeps its
//! name.

use std::{collections::BTreeSet, fs, os::unix::process::ExitStatusExt, time::Duration};

use millrace_tests::{Cell, Deadline, Millrace, Running, Seed, Table, Workspace, delta, manifest, read};

/// How many rows the source has.
const ROWS: i64 = 240_000;

/// What an edit may change: a filter, a column, an output and a whole branch.
#[derive(Clone, Copy)]
struct Variant {
    /// `some` keeps the ids whose last digit is below this.
    below: i64,
    /// `some` has this column too.
    doubled: bool,
    /// There is a branch `extra`.
    extra: bool,
    /// How long `counts`' windows are.
    window_seconds: u32,
    /// `kept` and `few`, which is `some` without another column, go to a Parquet folder and a Delta table too.
    tables: bool,
}

const FIRST: Variant = Variant { below: 1, doubled: false, extra: false, window_seconds: 10, tables: false };

/// Where the process is made to die.
const FAULT_POINTS: [&str; 7] = [
    "barrier-injected",
    "sst-ingested",
    "sink-staged",
    "before-pointer",
    "after-pointer",
    "mid-commit",
    "after-recover",
];

impl Variant {
    fn manifests(self) -> String {
        let doubled = if self.doubled { ", id * 2 AS doubled" } else { "" };
        let (transform, output) = if self.extra {
            (
                "    - {name: extra, sql: \"SELECT id FROM events WHERE id % 10 = 9\"}\n",
                "    - {from: extra, sink: extra}\n",
            )
        } else {
            ("", "")
        };
        let sink = |name: &str| manifest::sink(name, &format!("file: {{path: out/{name}, format: {{json: {{}}}}}}"));
        let numbers = manifest::numbers(ROWS, 40_000);
        let (mut few, mut tables, mut table_sinks) = (String::new(), String::new(), String::new());
        if self.tables {
            few = format!("    - {{name: few, sql: \"SELECT id FROM events WHERE id % 10 < {}\"}}\n", self.below);
            for from in ["kept", "few"] {
                for kind in ["parquet", "delta"] {
                    tables += &format!("    - {{from: {from}, sink: {from}-{kind}}}\n");
                    table_sinks +=
                        &manifest::sink(&format!("{from}-{kind}"), &format!("{kind}: {{uri: out/{from}-{kind}}}"));
                }
            }
        }
        format!(
            "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: edited}}
spec:
  checkpoints: {{interval: 100ms, minPause: 10ms}}
  sources:
    - name: events
      {numbers}
      eventTime: {{column: ts}}
  transforms:
    - {{name: some, sql: \"SELECT id{doubled} FROM events WHERE id % 10 < {}\"}}
    - {{name: kept, window: kept, sql: \"SELECT window_start, id % 100 AS k, count(*) AS n, sum(id) AS ids FROM events GROUP BY id % 100\"}}
    - {{name: counts, window: counts, sql: \"SELECT window_start, window_end, count(*) AS n FROM events\"}}
{few}{transform}  outputs:
{tables}    - {{from: some, sink: some}}
    - {{from: kept, sink: kept}}
    - {{from: counts, sink: counts}}
{output}---
apiVersion: millrace.dev/v1alpha1
kind: Window
metadata: {{name: kept}}
spec:
  tumbling: {{size: 10s}}
---
apiVersion: millrace.dev/v1alpha1
kind: Window
metadata: {{name: counts}}
spec:
  tumbling: {{size: {}s}}
{}",
            self.below,
            self.window_seconds,
            ["some", "kept", "counts", "extra"].map(sink).concat() + &table_sinks
        )
    }
}

fn start(workspace: &Workspace) -> Running {
    Millrace::run(workspace, "edited.yaml").args(["--watch"]).start()
}

fn output(workspace: &Workspace, name: &str) -> Table {
    read::folder(&workspace.join("out").join(name))
}

fn ids(table: &Table) -> BTreeSet<i64> {
    let ids: BTreeSet<i64> = table.column("id").map(millrace_tests::Cell::int).collect();
    assert_eq!(ids.len(), table.len(), "an id is there twice");
    ids
}

/// What no edit touched is whole.
fn expect_kept(workspace: &Workspace) {
    let kept = output(workspace, "kept");
    assert_eq!(kept.len() as i64, ROWS / 10_000 * 100);
    assert_eq!((kept.sum("n"), kept.sum("ids")), (ROWS, ROWS * (ROWS - 1) / 2));
}

/// Of each last digit, the ids that went by while the filter let them through: there once, and without gaps where the
/// edits were far between.
fn expect_some(workspace: &Workspace, always_below: i64) {
    let ids = ids(&output(workspace, "some"));
    let always = ids.iter().filter(|&&id| id % 10 < always_below).count() as i64;
    assert_eq!(always, ROWS / 10 * always_below, "what every edit lets through is all there");
}

#[test]
fn an_edit_is_taken_up_at_a_barrier_with_nothing_lost_or_repeated() {
    let workspace = Workspace::new();
    workspace.write("edited.yaml", FIRST.manifests());
    let running = start(&workspace);
    let rows_of = |name: &str, what: &str, digit: i64| {
        Deadline::secs(60).wait_for(&format!("{what}\n{}", running.stderr()), || {
            output(&workspace, name).rows.iter().any(|row| row["id"].int() % 10 == digit).then_some(())
        });
    };
    rows_of("some", "the first rows", 0);
    workspace.write("edited.yaml", Variant { below: 2, ..FIRST }.manifests());
    rows_of("some", "rows that the edited filter lets through", 1);
    workspace.write("edited.yaml", Variant { below: 2, doubled: true, extra: true, ..FIRST }.manifests());
    rows_of("extra", "rows of the new branch", 9);
    workspace.write("edited.yaml", Variant { below: 2, doubled: true, extra: false, ..FIRST }.manifests());
    running.wait().expect_success();

    expect_kept(&workspace);
    expect_some(&workspace, 1);
    let some = output(&workspace, "some");
    let of_digit = |digit: i64| some.rows.iter().map(|row| row["id"].int()).filter(move |id| id % 10 == digit);
    let (first, count) = (of_digit(1).min().unwrap(), of_digit(1).count() as i64);
    assert_eq!(count, (ROWS - first + 9) / 10, "from the edit on without gaps");
    let doubled: Vec<i64> =
        some.rows.iter().filter(|row| row.contains_key("doubled")).map(|row| row["id"].int()).collect();
    let first = *doubled.iter().min().unwrap();
    assert!(some.rows.iter().all(|row| row.contains_key("doubled") == (row["id"].int() >= first)), "one cut, no mix");
    let extra = ids(&output(&workspace, "extra"));
    let (first, last) = (extra.first().unwrap(), extra.last().unwrap());
    assert_eq!(extra.len() as i64, (last - first) / 10 + 1, "the branch had all rows while it was there");
    assert_eq!(output(&workspace, "counts").sum("n"), ROWS);
}

#[test]
fn a_window_that_could_never_take_over_is_refused_since_it_would_drop_open_windows() {
    let workspace = Workspace::new();
    workspace.write("edited.yaml", FIRST.manifests());
    let running = start(&workspace);
    Deadline::secs(60).wait_for("a closed window", || (!output(&workspace, "counts").is_empty()).then_some(()));
    let shifted = FIRST.manifests().replace(
        "name: counts}\nspec:\n  tumbling: {size: 10s}",
        "name: counts}\nspec:\n  tumbling: {size: 10s, offset: 5s}",
    );
    assert_ne!(shifted, FIRST.manifests());
    workspace.write("edited.yaml", shifted);
    let finished = running.wait().expect_success();
    assert!(finished.stderr.contains("name `counts` in `allowStateLoss`"), "{}", finished.stderr);
    assert_eq!(output(&workspace, "counts").sum("n"), ROWS);
    expect_kept(&workspace);
}

#[test]
fn a_bad_edit_is_refused_with_its_errors_while_the_old_plan_runs_on() {
    let workspace = Workspace::new();
    workspace.write("edited.yaml", FIRST.manifests());
    let running = start(&workspace);
    Deadline::secs(60).wait_for("the first rows", || (!output(&workspace, "some").is_empty()).then_some(()));
    workspace.write("edited.yaml", FIRST.manifests().replace("SELECT id FROM", "SELECT idd FROM"));
    Deadline::secs(30).wait_for("the refusal", || running.stderr().contains("idd").then_some(()));
    workspace.write("edited.yaml", FIRST.manifests().replace("    - {from: kept, sink: kept}\n", "").replace(
        "    - {name: kept, window: kept, sql: \"SELECT window_start, id % 100 AS k, count(*) AS n, sum(id) AS ids FROM events GROUP BY id % 100\"}\n",
        "",
    ));
    Deadline::secs(30)
        .wait_for("the refusal to drop state", || running.stderr().contains("allowStateLoss").then_some(()));
    running.wait().expect_success();
    expect_kept(&workspace);
    expect_some(&workspace, 1);
}

#[test]
fn a_manifest_that_is_gone_is_told_once_while_the_plan_runs_on() {
    let workspace = Workspace::new();
    let pipeline = manifest::Pipeline {
        name: "gone",
        checkpoints: "interval: 100ms",
        more: "",
        events: &manifest::numbers(100_000_000, 1000),
        transforms: &[],
        outputs: &[("events", "out")],
    };
    let manifests = format!("{pipeline}{}", manifest::sink("out", "file: {path: out/rows, format: {json: {}}}"));
    workspace.write("edited.yaml", &manifests);
    let running = start(&workspace);
    let has = |text: &str| running.stderr().contains(text).then_some(());
    Deadline::secs(60).wait_for("the first rows", || (!output(&workspace, "rows").is_empty()).then_some(()));
    fs::remove_file(workspace.join("edited.yaml")).unwrap();
    Deadline::secs(30).wait_for("the warning", || has("cannot read edited.yaml"));
    let rows = output(&workspace, "rows").len();
    Deadline::secs(30).wait_for("more rows", || (output(&workspace, "rows").len() > rows).then_some(()));
    workspace.write("edited.yaml", &manifests);
    Deadline::secs(30).wait_for("the manifests", || has("the manifests can be read again"));
    running.terminate();
    let told = running.wait().expect_success().stderr;
    assert_eq!(told.matches("cannot read edited.yaml").count(), 1, "{told}");
}

#[test]
fn the_class_of_an_edit_is_told_beforehand() {
    let workspace = Workspace::new();
    workspace.write("old.yaml", FIRST.manifests());
    let against = |new: String| {
        workspace.write("new.yaml", new);
        let plan = Millrace::new(&workspace, ["plan", "-f", "new.yaml", "--against", "old.yaml"]).finish();
        let text = format!("{}{}", plan.stdout, plan.stderr).to_lowercase();
        assert_eq!(plan.code(), Some(i32::from(text.contains("refused"))), "{text}");
        text
    };
    assert!(against(FIRST.manifests()).contains("none") || against(FIRST.manifests()).contains("no change"));
    assert!(against(Variant { below: 3, ..FIRST }.manifests()).contains("hot"));
    let rescaled = FIRST.manifests().replace("spec:\n  checkpoints", "spec:\n  parallelism: 4\n  checkpoints");
    assert!(against(rescaled).contains("rescale"));
    let hourly = against(Variant { window_seconds: 15, ..FIRST }.manifests());
    assert!(hourly.contains("hot") && hourly.contains("windows of both begin (one every 30s)"), "{hourly}");
    let dropped = FIRST
        .manifests()
        .replace("id % 100 AS k, count(*) AS n, sum(id) AS ids", "id % 100 AS k, count(*) AS n, avg(id) AS ids");
    assert!(against(dropped).contains("refused"));
}

#[test]
fn a_strict_delta_table_takes_a_column_back_that_it_has_and_refuses_one_that_it_lacks() {
    let workspace = Workspace::new();
    let write = |columns: &str| {
        let pipeline = manifest::Pipeline {
            name: "edited",
            checkpoints: "interval: 100ms, minPause: 10ms",
            more: "",
            events: &manifest::numbers(ROWS, 40_000),
            transforms: &[("some", "", &format!("SELECT {columns} FROM events"))],
            outputs: &[("some", "lake")],
        };
        workspace.write("edited.yaml", format!("{pipeline}{}", manifest::sink("lake", "delta: {uri: out/lake}")));
    };
    write("id, id + 1 AS next");
    let running = start(&workspace);
    let told = |text: &str, times: usize| {
        let is_told = || (running.stderr().matches(text).count() >= times).then_some(());
        Deadline::secs(60).wait_for(text, is_told);
    };
    told("checkpoint", 2);
    write("id");
    told("edit taken up", 1);
    write("id, id + 1 AS next");
    told("edit taken up", 2);
    write("id, id + 1 AS next, id + 2 AS later");
    told("edit refused, the running plan stays:", 1);
    told("the table", 1);
    running.terminate();
    let told = running.wait().expect_success().stderr;
    assert!(
        told.contains("some->lake: the table ") && told.contains(" lacks `later` (long); add them to the table"),
        "{told}"
    );
    // Without the refused column it goes on to the end.
    write("id, id + 1 AS next");
    Millrace::run(&workspace, "edited.yaml").finish().expect_success();
    let rows = delta::table(&workspace.join("out/lake"));
    assert_eq!(ids(&rows), (0..ROWS).collect::<BTreeSet<_>>());
    let lacks = rows.column("next").filter(|next| **next == Cell::Null).count();
    assert!(lacks > 0 && lacks < rows.len(), "{lacks} rows are of the plan without the column");
    let pairs = rows.column("next").zip(rows.column("id"));
    assert!(pairs.filter(|(next, _)| **next != Cell::Null).all(|(next, id)| next.int() == id.int() + 1));
}

#[test]
fn edits_between_and_before_kills_lose_and_repeat_nothing() {
    let mut seed = Seed::of_test("edits between kills");
    let first = Variant { tables: true, ..FIRST };
    let workspace = Workspace::new();
    workspace.write("edited.yaml", first.manifests());
    let (mut at_random, mut at_points) = (0, Vec::new());
    for turn in 0..14 {
        let point = (turn % 2 == 1).then(|| *seed.pick(&FAULT_POINTS));
        let mut command = Millrace::run(&workspace, "edited.yaml").args(["--watch"]);
        if let Some(point) = point {
            command = command.env("MILLRACE_FAULT_POINT", &format!("{point}:{}", 1 + seed.below(3)));
        }
        let running = command.start();
        for _ in 0..seed.below(3) {
            millrace_tests::wait::pass(seed.time(Duration::from_millis(20), Duration::from_millis(400)));
            let variant = Variant {
                below: 1 + seed.between(0, 3),
                doubled: seed.one_in(2),
                extra: seed.one_in(2),
                window_seconds: *seed.pick(&[5, 10, 15, 20]),
                ..first
            };
            workspace.write("edited.yaml", variant.manifests());
        }
        let limit = seed.time(Duration::from_millis(50), Duration::from_millis(700));
        let (status, finished) = running.wait_or_kill(limit);
        match status {
            Some(status) if status.success() => break,
            Some(status) if status.signal() == Some(9) => at_points.extend(point),
            Some(status) => panic!("ended with {status}:\n{}", finished.stderr),
            None => at_random += 1,
        }
    }
    start(&workspace).wait().expect_success();
    println!("{at_random} kills at random, and at {at_points:?}");
    assert!(at_random + at_points.len() >= 4, "hardly anything was tried");
    expect_kept(&workspace);
    expect_some(&workspace, 1);
    assert_eq!(output(&workspace, "counts").sum("n"), ROWS);
    ids(&output(&workspace, "extra"));

    // The tables have the same rows, and nothing beside them.
    let kept = output(&workspace, "kept");
    output(&workspace, "kept-parquet").expect_same(&kept, "kept-parquet");
    delta::table(&workspace.join("out/kept-delta")).expect_same(&kept, "kept-delta");
    let few = output(&workspace, "few-parquet");
    delta::table(&workspace.join("out/few-delta")).expect_same(&few, "few-delta");
    assert_eq!(ids(&few), ids(&output(&workspace, "some")), "they have the same filter");
    for name in ["some", "kept", "counts", "extra", "kept-parquet", "few-parquet"] {
        read::expect_nothing_hidden(&workspace.join("out").join(name));
    }
    for name in ["kept-delta", "few-delta"] {
        delta::expect_no_orphans(&workspace.join("out").join(name));
    }
}
