//! An edited plan that cannot run is rolled back: the plan before it goes on from where it left off.

use millrace_tests::{Deadline, Millrace, Workspace, manifest, read};

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
        ("an expression that fails", manifests("SELECT id / (id - id) AS id FROM events", "out/some")),
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
        // What is edited after that is taken up like any other edit.
        workspace.write("edited.yaml", manifests("SELECT id FROM events WHERE id % 10 < 2", "out/some"));
        let seen = || folder("some").rows.iter().any(|row| row["id"].int() % 10 == 1).then_some(());
        Deadline::secs(60).wait_for("rows of the next edit", seen);
        running.wait().expect_success();

        let kept = folder("kept");
        assert_eq!((kept.sum("n"), kept.sum("ids")), (ROWS, ROWS * (ROWS - 1) / 2), "{what}");
        let some = folder("some");
        let tens = some.rows.iter().filter(|row| row["id"].int() % 10 == 0).count() as i64;
        assert_eq!(tens, ROWS / 10, "{what}");
    }
}
