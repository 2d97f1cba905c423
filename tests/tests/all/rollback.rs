//! An edited plan that cannot run is rolled back: the plan before it goes on from where it left off.

use std::{path::PathBuf, time::Duration};

use millrace_tests::{Deadline, Millrace, Running, Workspace, manifest, read};

use crate::hostile::may_mount;

const ROWS: i64 = 160_000;

/// A pipeline that counts all its rows, with one transform and one destination that edits change.
fn manifests(sql: &str, path: &str) -> String {
    let numbers = manifest::numbers(ROWS, 20000);
    let pipeline = format!(
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
    - {{name: some, sql: \"{sql}\"}}
    - {{name: kept, window: second, sql: \"SELECT window_start, count(*) AS n, sum(id) AS ids FROM events\"}}
  outputs:
    - {{from: some, sink: some}}
    - {{from: kept, sink: kept}}
"
    );
    [
        &pipeline[..],
        &manifest::window("second", "tumbling: {size: 1s}"),
        &manifest::sink("some", &format!("file: {{path: {path}, format: {{json: {{}}}}}}")),
        &manifest::sink("kept", "file: {path: out/kept, format: {json: {}}}"),
    ]
    .concat()
}

#[test]
fn an_edited_plan_that_cannot_run_is_rolled_back_and_the_one_before_goes_on() {
    let good = manifests("SELECT id FROM events WHERE id % 10 = 0", "out/some");
    let edits = [
        ("a sink that cannot be opened", manifests("SELECT id FROM events WHERE id % 10 = 0", "/proc/nope")),
        ("an expression that fails", manifests("SELECT id / (id - id) AS id FROM events", "out/else")),
    ];
    for (what, bad) in edits {
        let workspace = Workspace::new();
        workspace.write("edited.yaml", &good);
        let running = Millrace::run(&workspace, "edited.yaml").args(["--watch"]).start();
        let folder = |name: &str| read::folder(&workspace.join("out").join(name));
        Deadline::secs(60).wait_for("the first rows", || (!folder("some").is_empty()).then_some(()));
        workspace.write("edited.yaml", bad);
        Deadline::secs(60).wait_for(&format!("{what} to be rolled back\n{}", running.stderr()), || {
            running.stderr().contains("is rolled back").then_some(())
        });
        let tries = running.stderr().matches("starting again").count();
        assert!(tries <= 2, "{what} is not tried for long: {}", running.stderr());
        // What is edited after that is taken up like any other edit.
        workspace.write("edited.yaml", manifests("SELECT id FROM events WHERE id % 10 < 2", "out/some"));
        let seen = || folder("some").rows.iter().any(|row| row["id"].int() % 10 == 1).then_some(());
        Deadline::secs(60).wait_for("rows of the next edit", seen);
        running.wait().expect_success();
        assert!(!workspace.join("out/else/.millrace-staging").exists(), "what the plan had staged is cleared away");

        let kept = folder("kept");
        assert_eq!((kept.sum("n"), kept.sum("ids")), (ROWS, ROWS * (ROWS - 1) / 2), "{what}");
        let some = folder("some");
        let tens = some.rows.iter().filter(|row| row["id"].int() % 10 == 0).count() as i64;
        assert_eq!(tens, ROWS / 10, "{what}");
    }
}

/// Every row, to a disk that is full at once: such a plan opens its sink, and cannot write to it.
fn too_much() -> String {
    manifests("SELECT id FROM events", "small/some")
}

fn some_tens(below: i64) -> String {
    manifests(&format!("SELECT id FROM events WHERE id % 10 < {below}"), "out/some")
}

/// A run whose folder `small` has room for one page, and that tries the plan of [`too_much`] for so many times already.
/// `None`: this user may not mount.
fn trying(workspace: &Workspace, times: u32) -> Option<Running> {
    if !may_mount() {
        return None;
    }
    workspace.write("edited.yaml", some_tens(1));
    std::fs::create_dir_all(workspace.join("small")).unwrap();
    let wrapper = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=4k none small && exec \"$@\"", "sh"];
    let args = ["run", "-f", "edited.yaml", "--data-dir", "data", "--watch"];
    let running = Millrace::wrapped(workspace, &wrapper, args).start();
    let has_rows = || (!read::visible_files(&workspace.join("out/some")).is_empty()).then_some(());
    Deadline::secs(60).wait_for("the first rows", has_rows);
    workspace.write("edited.yaml", too_much());
    let tried = format!("attempt={times} ");
    Deadline::secs(60).wait_for(&tried, || running.stderr().contains(&tried).then_some(()));
    Some(running)
}

#[test]
fn a_newer_edit_takes_the_place_of_one_that_waits_for_its_next_try() {
    let workspace = Workspace::new();
    let Some(running) = trying(&workspace, 2) else { return };
    workspace.write("edited.yaml", some_tens(2));
    let seen = || {
        let some = read::folder(&workspace.join("out/some"));
        some.rows.iter().any(|row| row["id"].int() % 10 == 1).then_some(())
    };
    Deadline::secs(60).wait_for("rows of the newer edit", seen);
    let small = PathBuf::from(format!("/proc/{}/root{}", running.pid(), workspace.join("small/some").display()));
    assert!(small.exists() && !small.join(".millrace-staging").exists(), "what was staged there is cleared away");
    let finished = running.wait().expect_success();
    assert!(!finished.stderr.contains("is rolled back"), "{}", finished.stderr);
    assert!(!finished.stderr.contains("attempt=5"), "it did not wait for its turn: {}", finished.stderr);

    let kept = read::folder(&workspace.join("out/kept"));
    assert_eq!((kept.sum("n"), kept.sum("ids")), (ROWS, ROWS * (ROWS - 1) / 2));
    let some = read::folder(&workspace.join("out/some"));
    let tens = some.rows.iter().filter(|row| row["id"].int() % 10 == 0).count() as i64;
    assert_eq!(tens, ROWS / 10);
}

#[test]
fn an_edit_that_waits_for_its_next_try_can_be_taken_back() {
    let workspace = Workspace::new();
    let Some(running) = trying(&workspace, 2) else { return };
    workspace.write("edited.yaml", some_tens(1));
    let finished = running.wait().expect_success();
    assert!(!finished.stderr.contains("is rolled back"), "{}", finished.stderr);
    let some = read::folder(&workspace.join("out/some"));
    assert_eq!((some.len() as i64, some.sum("id")), (ROWS / 10, (0..ROWS / 10).map(|id| id * 10).sum()));
}

#[test]
fn a_stop_ends_the_wait_for_a_next_try_and_the_next_run_loses_nothing() {
    let workspace = Workspace::new();
    let Some(running) = trying(&workspace, 5) else { return };
    // The fifth try is eight seconds away.
    running.terminate();
    let stopped = running.wait().expect_code(1);
    assert!(stopped.elapsed < Duration::from_secs(5), "{:?}", stopped.elapsed);
    assert!(stopped.stderr.contains("No space left on device"), "{}", stopped.stderr);
    workspace.write("edited.yaml", some_tens(1));
    Millrace::run(&workspace, "edited.yaml").finish().expect_success();
    let some = read::folder(&workspace.join("out/some"));
    assert_eq!((some.len() as i64, some.sum("id")), (ROWS / 10, (0..ROWS / 10).map(|id| id * 10).sum()));
}
