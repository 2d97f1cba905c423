//! A machine that is not as it should be: a disk that is full or read-only, a clock that jumps, files that are cut short, logs
//! that are rotated, compressed and truncated while they are read.

use std::{fs, path::Path};

use millrace_tests::{
    Cell, Deadline, Millrace, Running, Seed, Table, Workspace, exposition::Exposition, http, manifest, read,
};

use crate::hostile::may_mount;

/// Copies the rows of `t`, and counts them in windows of ten seconds.
fn pipeline(source: &str) -> String {
    let pipeline = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: surrounded}}
spec:
  checkpoints: {{interval: 50ms, minPause: 10ms}}
  sources:
    - name: t
      columns: [{{name: ts, type: TIMESTAMP}}, {{name: id, type: BIGINT}}]
{source}
  transforms:
    - {{name: passed, sql: \"SELECT ts, id FROM t\"}}
    - {{name: counts, window: w, sql: \"SELECT window_start, count(*) AS n FROM t\"}}
  outputs:
    - {{from: passed, sink: passed}}
    - {{from: counts, sink: counts}}
"
    );
    [
        &pipeline[..],
        &manifest::window("w", "tumbling: {size: 10s}"),
        &manifest::sink("passed", "file: {path: out/passed, format: {json: {}}}"),
        &manifest::sink("counts", "parquet: {uri: out/counts}"),
    ]
    .concat()
}

const JSON: &str = "      file: {paths: [in/*.ndjson]}\n      format: {json: {}}\n      eventTime: {column: ts, maxOutOfOrderness: 1h}";
const FOLLOWED: &str = "      file: {paths: [\"in/app.log*\"], follow: true, pollInterval: 20ms}\n      format: {json: {}}\n      \
     eventTime: {column: ts, maxOutOfOrderness: 1h}\n      onError: Drop";

fn row(at_ms: i64, id: i64) -> String {
    format!("{{\"ts\":{at_ms},\"id\":{id}}}\n")
}

fn rows(from: i64, to: i64) -> String {
    (from..to).map(|id| row(1_704_067_200_000 + id * 10, id)).collect()
}

/// The ids of `passed`, each of which is there once.
fn ids(folder: &Path) -> Vec<i64> {
    let table = if folder.exists() { read::folder(folder) } else { Table::default() };
    let mut ids: Vec<i64> = table.column("id").map(Cell::int).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "a row is there twice");
    ids
}

fn passed(workspace: &Workspace, running: &Running, count: usize) {
    Deadline::secs(60).poll(|| (ids(&workspace.join("out/passed")).len() >= count).then_some(()));
    assert_eq!(ids(&workspace.join("out/passed")).len(), count, "{}", running.stderr());
}

/// Runs in a mount namespace of its own, in which `script` has mounted something; `None` where that is not allowed.
fn in_namespace(workspace: &Workspace, script: &str) -> Option<Millrace> {
    if !may_mount() {
        return None;
    }
    let wrapper = ["unshare", "-rm", "sh", "-c", script, "sh"];
    Some(Millrace::wrapped(workspace, &wrapper, ["run", "-f", "p.yaml", "--data-dir", "data"]))
}

#[test]
fn what_was_committed_before_a_disk_was_full_is_whole_and_with_room_the_rest_follows() {
    const ROWS: i64 = 150_000;
    let workspace = Workspace::new();
    // Slow enough for checkpoints before the disk is full.
    let source = format!(
        "      generator: {{rows: {ROWS}, rate: 50000, fields: [{{name: id, sequence: {{}}}}, \
         {{name: ts, timestamp: {{start: \"2024-01-01T00:00:00Z\", step: 10ms}}}}]}}\n      eventTime: {{column: ts}}"
    );
    let columns = "      columns: [{name: ts, type: TIMESTAMP}, {name: id, type: BIGINT}]\n";
    workspace.write("p.yaml", pipeline(&source).replace(columns, ""));
    fs::create_dir_all(workspace.join("out")).unwrap();
    // What is on the small disk goes with its process, so it is saved before.
    let script = |size: &str| {
        format!(
            "mount -t tmpfs -o size={size} none out && if test -d saved; then cp -r saved/. out/; fi && \
             \"$@\"; code=$?; rm -rf saved; cp -r out saved; exit $code"
        )
    };
    let Some(command) = in_namespace(&workspace, &script("3m")) else { return };
    let full = command.finish().expect_code(1);
    assert!(full.stderr.contains("No space left on device"), "{}", full.stderr);
    let before = ids(&workspace.join("saved/passed"));
    assert!(!before.is_empty() && (before.len() as i64) < ROWS, "{} rows fit", before.len());

    in_namespace(&workspace, &script("100m")).unwrap().finish().expect_success();
    assert_eq!(ids(&workspace.join("saved/passed")), (0..ROWS).collect::<Vec<_>>());
    let counts = read::folder(&workspace.join("saved/counts"));
    assert_eq!((counts.len() as i64, counts.sum("n")), (ROWS / 1_000, ROWS));
}

#[test]
fn a_full_or_read_only_disk_of_the_data_folder_is_told_and_the_sinks_keep_what_they_have() {
    let workspace = Workspace::new();
    workspace.write("in/a.ndjson", rows(0, 20_000));
    workspace.write("p.yaml", pipeline(JSON));
    fs::create_dir_all(workspace.join("data")).unwrap();
    for (options, said) in [("size=24k", "No space left on device"), ("ro", "Read-only file system")] {
        let script = format!("mount -t tmpfs -o {options} none data && exec \"$@\"");
        let Some(command) = in_namespace(&workspace, &script) else { return };
        let failed = command.finish();
        assert!(matches!(failed.code(), Some(1 | 2)), "{:?} {}", failed.status, failed.stderr);
        assert!(failed.stderr.contains(said) && failed.stderr.contains("data"), "{}", failed.stderr);
        assert!(!failed.stderr.contains("panicked"), "{}", failed.stderr);
        assert!(ids(&workspace.join("out/passed")).is_empty(), "nothing was decided");
    }
}

#[test]
fn a_wall_clock_that_jumps_stops_no_checkpoint_and_closes_no_window() {
    let workspace = Workspace::new();
    let day = 86_400_000;
    let jump = |days: i64| workspace.write("jump", (days * day).to_string());
    jump(0);
    // Rows of now, since what is ahead of the clock is no row.
    let now_ms = fs::metadata(workspace.join("jump")).unwrap().modified().unwrap();
    let now_ms = now_ms.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let of_now = |from: i64, to: i64| (from..to).map(|id| row(now_ms + id, id)).collect::<String>();
    workspace.write("in/app.log", of_now(0, 100));
    workspace.write("p.yaml", pipeline(FOLLOWED));
    let jumping = workspace.join("jump");
    let run = Millrace::run(&workspace, "p.yaml").env("MILLRACE_CLOCK_JUMP", jumping.to_str().unwrap());
    let running = run.args(["--listen", "127.0.0.1:0"]).start();
    let address = http::address(&running);
    passed(&workspace, &running, 100);
    let metric = |name: &str| Exposition::read(&http::get(address, "/metrics").body).value(name, &[]);

    jump(3_650);
    workspace.append("in/app.log", of_now(100, 200));
    passed(&workspace, &running, 200);
    jump(-3_650);
    workspace.append("in/app.log", of_now(200, 300));
    let bad = || metric("millrace_source_bad_rows_total");
    Deadline::secs(30).wait_for("the rows that are ahead of the clock", || (bad() >= 100.0).then_some(()));
    jump(0);
    workspace.append("in/app.log", of_now(300, 400));
    passed(&workspace, &running, 300);
    assert_eq!(bad(), 100.0, "rows from ten years ahead of the clock are bad rows, and counted");
    assert_eq!(metric("millrace_late_rows_total"), 0.0);
    assert_eq!(metric("millrace_checkpoints_failed_total"), 0.0);
    assert!(read::visible_files(&workspace.join("out/counts")).is_empty(), "no window was closed");
    running.terminate();
    running.wait().expect_success();
}

#[test]
fn files_that_are_cut_short_are_told_by_name_and_what_was_committed_stays() {
    let workspace = Workspace::new();
    // Parquet and Zstandard files as Millrace itself and a common tool write them.
    workspace.write("in/a.ndjson", rows(0, 30_000));
    let to_parquet = pipeline(JSON).replace("file: {path: out/passed, format: {json: {}}}", "parquet: {uri: made}");
    workspace.write("p.yaml", to_parquet);
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    let made = read::visible_files(&workspace.join("made"));
    let parquet = fs::read(&made[0].0).unwrap();
    let source = |path: &str, format: &str| {
        pipeline(&format!(
            "      file: {{paths: [{path}]}}\n      format: {{{format}: {{}}}}\n      eventTime: {{column: ts}}"
        ))
    };
    for (number, bytes) in [0, 4, 100, parquet.len() / 2, parquet.len() - 1].into_iter().enumerate() {
        workspace.write("cut/a.parquet", &parquet[..bytes]);
        workspace.write("p.yaml", source("cut/a.parquet", "parquet"));
        let data = format!("data-{number}");
        let run = Millrace::new(&workspace, ["run", "-f", "p.yaml", "--data-dir", &data]).finish().expect_code(1);
        run.expect_stderr(&["cut/a.parquet", "cannot be read as Parquet"]);
    }
    workspace.write("cut/a.parquet", &parquet);
    Millrace::new(&workspace, ["run", "-f", "p.yaml", "--data-dir", "data-whole"]).finish().expect_success();
    assert_eq!(ids(&workspace.join("out/passed")).len(), 30_000 / made.len());
}

#[test]
fn a_log_that_is_rotated_compressed_and_truncated_while_it_is_read_is_read_once() {
    rotate("rotation", "");
}

#[test]
fn logs_that_begin_alike_are_told_apart_when_they_are_rotated_compressed_and_truncated() {
    rotate("rotation with a banner", &format!("{}\n", "#".repeat(1_500)));
}

/// Each log begins with the banner, which is dropped.
fn rotate(test: &str, banner: &str) {
    let mut seed = Seed::of_test(test);
    let workspace = Workspace::new();
    workspace.write("in/app.log", banner);
    workspace.write("p.yaml", pipeline(FOLLOWED));
    let log = |name: &str| workspace.join("in").join(name);
    let run = || Millrace::run(&workspace, "p.yaml").start();
    let mut running = run();
    let mut written = 0;
    let mut turns = 0;
    while turns < 8 {
        let count = seed.between(1, 3_000);
        workspace.append("in/app.log", rows(written, written + count));
        written += count;
        if seed.one_in(3) {
            running.kill();
            running = run();
        }
        if seed.one_in(2) {
            // What is not read yet when its name goes would be lost: that is what a delayed compression is for.
            passed(&workspace, &running, written as usize);
        } else {
            continue;
        }
        turns += 1;
        if turns % 4 == 0 {
            fs::write(log("app.log"), banner).unwrap();
            let count = seed.between(1, 6_000);
            workspace.append("in/app.log", rows(written, written + count));
            written += count;
            passed(&workspace, &running, written as usize);
            continue;
        }
        for old in (1..turns).rev() {
            let _ = fs::rename(log(&format!("app.log.{old}.gz")), log(&format!("app.log.{}.gz", old + 1)));
        }
        fs::rename(log("app.log"), log("app.log.1")).unwrap();
        let count = seed.between(1, 3_000);
        workspace.append("in/app.log", format!("{banner}{}", rows(written, written + count)));
        written += count;
        let compress = || {
            let done = std::process::Command::new("gzip").arg(log("app.log.1")).status();
            assert!(done.is_ok_and(|status| status.success()), "gzip is there");
        };
        if seed.one_in(2) {
            passed(&workspace, &running, written as usize);
            running.terminate();
            running.wait().expect_success();
            if seed.one_in(2) {
                compress();
            } else {
                fs::rename(log("app.log.1"), workspace.join(format!("moved-away-{turns}"))).unwrap();
                let count = seed.between(1, 3_000);
                fs::rename(log("app.log"), log("app.log.1")).unwrap();
                workspace.append("in/app.log", format!("{banner}{}", rows(written, written + count)));
                written += count;
            }
            running = run();
        } else {
            compress();
        }
        passed(&workspace, &running, written as usize);
    }
    passed(&workspace, &running, written as usize);
    running.terminate();
    running.wait().expect_success();
    assert_eq!(ids(&workspace.join("out/passed")), (0..written).collect::<Vec<_>>());
}

#[test]
fn an_epoch_may_have_more_partitions_than_files_may_be_open() {
    let workspace = Workspace::new();
    let numbers = manifest::numbers(20_000, 1_000_000);
    let pipeline = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: many}}
spec:
  checkpoints: {{interval: 1h}}
  sources:
    - name: events
      {numbers}
      eventTime: {{column: ts}}
  transforms:
    - {{name: some, sql: \"SELECT id, id % 2000 AS part FROM events\"}}
  outputs:
    - {{from: some, sink: out}}
"
    );
    workspace.write("p.yaml", pipeline + &manifest::sink("out", "parquet: {uri: out, partitionBy: [part]}"));
    let wrapper = ["sh", "-c", "ulimit -n 1000 && ulimit -S -n 512 && exec \"$@\"", "sh"];
    Millrace::wrapped(&workspace, &wrapper, ["run", "-f", "p.yaml", "--data-dir", "data"]).finish().expect_success();
    let mut ids: Vec<i64> = read::folder(&workspace.join("out")).column("id").map(Cell::int).collect();
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(0..20_000), "{} rows", ids.len());
}

#[test]
fn members_that_are_appended_to_a_compressed_log_are_read_once_whole_or_torn_through_kills() {
    let mut seed = Seed::of_test("appended members");
    let workspace = Workspace::new();
    workspace.write("rows", "");
    let member = |rows: String| {
        workspace.write("rows", rows);
        let made = std::process::Command::new("gzip").arg("-c").arg(workspace.join("rows")).output();
        made.expect("gzip is there").stdout
    };
    workspace.write("in/app.log.gz", member(rows(0, 100)));
    workspace.write("p.yaml", pipeline(FOLLOWED));
    let run = || Millrace::run(&workspace, "p.yaml").start();
    let mut running = run();
    let mut written = 100;
    for turn in 0..12 {
        let count = seed.between(0, 3_000);
        let bytes = member(rows(written, written + count));
        written += count;
        let (torn, rest) = bytes.split_at(seed.between(1, bytes.len() as i64 - 1) as usize);
        workspace.append("in/app.log.gz", torn);
        if seed.one_in(2) {
            running.kill();
            if turn % 2 == 0 {
                workspace.append("in/app.log.gz", rest);
            }
            running = run();
            if turn % 2 == 1 {
                workspace.append("in/app.log.gz", rest);
            }
        } else {
            workspace.append("in/app.log.gz", rest);
        }
        if seed.one_in(2) {
            passed(&workspace, &running, written as usize);
        }
    }
    passed(&workspace, &running, written as usize);
    running.terminate();
    running.wait().expect_success();
    assert_eq!(ids(&workspace.join("out/passed")), (0..written).collect::<Vec<_>>());
}
