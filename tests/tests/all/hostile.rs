//! Input and surroundings that are not as they should be: a clear error or a count, and nothing committed is damaged.

use std::fs;

use arrow::{
    array::AsArray,
    datatypes::{DataType, Int64Type},
};
use millrace_tests::{Deadline, Millrace, Running, Seed, Workspace, manifest, read};

/// Copies rows of NDJSON from `in` to `out`; with `settings` for the source and sinks of its own.
fn pipeline(source: &str) -> String {
    let pipeline = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: hostile}}
spec:
  checkpoints: {{interval: 100ms, minPause: 10ms}}
  sources:
    - name: t
      format: {{json: {{}}}}
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

fn rows(from: i64, to: i64) -> String {
    (from..to).map(|id| format!("{{\"ts\":{},\"id\":{id}}}\n", 1_704_067_200_000 + id * 10)).collect()
}

/// How many rows `passed` has.
fn count_rows(workspace: &Workspace) -> usize {
    let files = read::visible_files(&workspace.join("out/passed"));
    files.iter().map(|(path, _)| fs::read(path).unwrap().iter().filter(|&&byte| byte == b'\n').count()).sum()
}

#[test]
fn event_times_of_the_year_1_and_9999_close_no_window() {
    let workspace = Workspace::new();
    let strange = "{\"ts\":\"9999-12-31T23:59:59Z\",\"id\":-1}\n{\"ts\":\"0001-01-01T00:00:00Z\",\"id\":-2}\n\
                   {\"ts\":9223372036854775807,\"id\":-3}\n{\"ts\":-9223372036854775808,\"id\":-4}\n";
    workspace.write("in/a.ndjson", format!("{}{strange}{}", rows(0, 5_000), rows(5_000, 10_000)));
    let source =
        "      file: {paths: [in/*.ndjson]}\n      eventTime: {column: ts, maxFutureSkew: 1h}\n      onError: Drop";
    workspace.write("p.yaml", pipeline(source));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    let counts = read::folder(&workspace.join("out/counts"));
    let full = counts.column("n").filter(|n| n.int() == 1_000).count();
    assert_eq!(full, 10, "ten full windows: {counts:?}");
}

/// Rows of `t` that cannot be used: their bytes, where they stand, and why.
fn letters(workspace: &Workspace) -> Vec<(String, i64, String)> {
    let letters = read::parquet_batch(&workspace.join("out/letters"));
    let column = |name: &str, of| arrow::compute::cast(letters.column_by_name(name).unwrap(), &of).unwrap();
    let (raw, place) = (column("raw", DataType::Binary), column("position", DataType::Int64));
    let (source, reason) = (column("source", DataType::Utf8), column("reason", DataType::Utf8));
    let mut found: Vec<_> = (0..letters.num_rows())
        .map(|row| {
            assert!(source.as_string::<i32>().value(row).ends_with("in/a.rows"), "{source:?}");
            let raw = String::from_utf8(raw.as_binary::<i32>().value(row).to_vec()).unwrap();
            let reason = reason.as_string::<i32>().value(row).to_owned();
            (raw, place.as_primitive::<Int64Type>().value(row), reason)
        })
        .collect();
    found.sort_by_key(|(_, place, _)| *place);
    found
}

#[test]
fn rows_without_a_usable_event_time_are_dead_letters_with_their_bytes_and_their_place() {
    let json = [
        ("{\"ts\": null, \"id\":-1}", "is null"),
        ("{\"id\":-2}", "is null"),
        ("{\"ts\":\"9999-12-31T23:59:59Z\",\"id\":-3,\"x\":\"\\u00fc\"}", "further ahead"),
        ("{\"ts\":9223372036854775,\"id\":-4}", "ahead"),
        ("{\"ts\":\"soon\",\"id\":-5}", "column ts"),
        ("{\"ts\":[],\"id\":-6}", "column ts"),
    ];
    let csv = [(",-1", "is null"), ("9999-12-31T23:59:59Z,\"-2\"", "further ahead"), ("soon,-3", "column ts")];
    let good_json = rows(0, 30_000);
    let good_csv: String = (0..30_000).map(|id| format!("2024-01-01T00:00:00Z,{id}\n")).collect();
    for (format, good, bad) in [("json: {}", good_json, &json[..]), ("csv: {header: false}", good_csv, &csv[..])] {
        let workspace = Workspace::new();
        let (mut text, mut expected) = (String::new(), Vec::new());
        for (number, line) in good.lines().enumerate() {
            if number % 37 == 5 {
                let (raw, why) = bad[number / 37 % bad.len()];
                expected.push((raw, text.len() as i64, why));
                text += raw;
                text += if number % 2 == 0 { "\r\n" } else { "\n\n" };
            }
            text += line;
            text += "\n";
        }
        workspace.write("in/a.rows", text);
        let source = "      file: {paths: [in/a.rows]}\n      eventTime: {column: ts, maxFutureSkew: 1h}\n      onError: DeadLetter";
        let manifest = pipeline(source)
            .replace("format: {json: {}}\n      columns", &format!("format: {{{format}}}\n      columns"))
            .replace("  outputs:\n", "  outputs:\n    - {from: t.errors, sink: letters}\n");
        workspace.write("p.yaml", manifest + &manifest::sink("letters", "parquet: {uri: out/letters}"));
        Millrace::run(&workspace, "p.yaml").finish().expect_success();
        assert_eq!(count_rows(&workspace), 30_000);
        let found = letters(&workspace);
        assert_eq!(found.len(), expected.len(), "{format}");
        for ((raw, place, reason), (expected_raw, expected_place, why)) in found.iter().zip(expected) {
            assert_eq!((&raw[..], *place), (expected_raw, expected_place), "{reason}");
            assert!(reason.contains(why), "{raw}: {reason}");
        }
    }
}

#[test]
fn a_row_without_a_usable_event_time_fails_the_pipeline_with_its_place() {
    let workspace = Workspace::new();
    let before = rows(0, 10);
    workspace.write("in/a.ndjson", format!("{before}{{\"id\":-1,\"ts\":null}}\n{{\"id\":-2}}\n{}", rows(10, 20)));
    workspace.write("p.yaml", pipeline("      file: {paths: [in/*.ndjson]}\n      eventTime: {column: ts}"));
    let failed = Millrace::run(&workspace, "p.yaml").finish().expect_code(1);
    let place = format!("in/a.ndjson at byte {}: the event time is null", before.len());
    failed.expect_stderr(&[&place, "{\"id\":-1,\"ts\":null}", "1 row"]);
}

#[test]
fn bytes_of_any_kind_are_counted_as_bad_rows_and_the_good_ones_are_kept() {
    let mut seed = Seed::of_test("bytes of any kind");
    let workspace = Workspace::new();
    let mut bytes = Vec::new();
    for id in 0..2_000 {
        if seed.one_in(10) {
            for _ in 0..seed.below(300) {
                bytes.push(match seed.below(256) as u8 {
                    b'\n' => b' ',
                    byte => byte,
                });
            }
            // Whatever stands there, it is no object.
            bytes.extend_from_slice(b"!\n");
        }
        bytes.extend_from_slice(rows(id, id + 1).as_bytes());
    }
    bytes.extend_from_slice(&b"[".repeat(2_000_000));
    bytes.push(b'\n');
    bytes.extend_from_slice(rows(2_000, 2_001).as_bytes());
    bytes.extend_from_slice(b"{\"ts\":1704067200000,\"id\":");
    workspace.write("in/a.ndjson", bytes);
    let source = "      file: {paths: [in/*.ndjson]}\n      eventTime: {column: ts}\n      onError: Drop";
    workspace.write("p.yaml", pipeline(source));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    let passed = read::folder(&workspace.join("out/passed"));
    assert_eq!((passed.len(), passed.sum("id")), (2_001, 2_000 * 2_001 / 2));
}

#[test]
fn a_bad_row_fails_the_pipeline_with_its_place_if_nothing_else_is_said() {
    let workspace = Workspace::new();
    workspace.write("in/a.ndjson", format!("{}{{\"ts\":1704067200000,\"id\":\"many\"}}\n", rows(0, 10)));
    workspace.write("p.yaml", pipeline("      file: {paths: [in/*.ndjson]}\n      eventTime: {column: ts}"));
    let failed = Millrace::run(&workspace, "p.yaml").finish().expect_code(1);
    failed.expect_stderr(&["in/a.ndjson", "id", "many"]);
}

#[test]
fn a_damaged_archive_is_told_and_not_taken_for_its_end() {
    let workspace = Workspace::new();
    let whole = fs::read(millrace_tests::workspace::repository().join("examples/data/readings.ndjson.gz")).unwrap();
    workspace.write("in/a.ndjson.gz", &whole[..whole.len() / 2]);
    let source = "      file: {paths: [in/*.gz]}\n      eventTime: {column: ts}\n      onError: Drop";
    workspace.write("p.yaml", pipeline(source));
    Millrace::run(&workspace, "p.yaml").finish().expect_code(1).expect_stderr(&["a.ndjson.gz"]);
}

#[test]
fn a_file_that_has_vanished_is_told_by_its_name() {
    let workspace = Workspace::new();
    for file in 0..40 {
        workspace.write(format!("in/{file:02}.ndjson"), rows(file * 50_000, (file + 1) * 50_000));
    }
    let source = "      file: {paths: [in/*.ndjson]}\n      eventTime: {column: ts, maxOutOfOrderness: 1h}";
    workspace.write("p.yaml", pipeline(source));
    let running = Millrace::run(&workspace, "p.yaml").start();
    Deadline::secs(30)
        .wait_for("the first rows", || (!read::visible_files(&workspace.join("out/passed")).is_empty()).then_some(()));
    running.terminate();
    running.wait().expect_success();
    let before = count_rows(&workspace);
    if before == 2_000_000 {
        return; // it was done before it could be stopped
    }
    for file in 0..40 {
        let _ = fs::remove_file(workspace.join(format!("in/{file:02}.ndjson")));
    }
    let failed = Millrace::run(&workspace, "p.yaml").finish().expect_code(1);
    failed.expect_stderr(&[".ndjson"]);
    assert_eq!(count_rows(&workspace), before, "what was committed stays");
}

/// Whether this user may mount in a namespace of its own. Where that is not so, tests that need it are skipped with a word;
/// in CI they fail.
pub fn may_mount() -> bool {
    let tried = std::process::Command::new("unshare").args(["-rm", "true"]).output();
    let allowed = tried.is_ok_and(|output| output.status.success());
    assert!(allowed || std::env::var_os("CI").is_none(), "no mount namespaces here, and CI is to run every test");
    if !allowed {
        println!("skipped: no mount namespaces here");
    }
    allowed
}

/// Runs in a mount namespace in which `out` is a small disk of its own; `None` where that is not allowed.
fn on_small_disk(workspace: &Workspace, options: &str) -> Option<Millrace> {
    if !may_mount() {
        return None;
    }
    fs::create_dir_all(workspace.join("out")).unwrap();
    let script = format!("mount -t tmpfs -o {options} none out && exec \"$@\"");
    let wrapper = ["unshare", "-rm", "sh", "-c", &script, "sh"];
    Some(Millrace::wrapped(workspace, &wrapper, ["run", "-f", "p.yaml", "--data-dir", "data"]))
}

#[test]
fn a_full_disk_is_told_and_does_not_damage_what_is_committed() {
    let workspace = Workspace::new();
    workspace.write("in/a.ndjson", rows(0, 400_000));
    workspace.write("p.yaml", pipeline("      file: {paths: [in/*.ndjson]}\n      eventTime: {column: ts}"));
    let Some(command) = on_small_disk(&workspace, "size=2m") else { return };
    let failed = command.finish().expect_code(1);
    assert!(failed.stderr.contains("No space left") || failed.stderr.contains("os error 28"), "{}", failed.stderr);

    // The small disk, and what was on it, went with its process. With room it goes on from its last checkpoint, unless
    // rows of that had not been committed: then they are missing, and that is told.
    let next = Millrace::run(&workspace, "p.yaml").finish();
    assert!(
        next.code() == Some(0) || next.stderr.contains("nothing shows that they were committed"),
        "{}",
        next.stderr
    );
}

#[test]
fn a_folder_that_cannot_be_written_to_is_told_by_its_name() {
    let workspace = Workspace::new();
    workspace.write("in/a.ndjson", rows(0, 100));
    workspace.write("p.yaml", pipeline("      file: {paths: [in/*.ndjson]}\n      eventTime: {column: ts}"));
    let Some(command) = on_small_disk(&workspace, "ro") else { return };
    command.finish().expect_code(1).expect_stderr(&["out/"]);
}

#[test]
fn a_data_folder_that_is_a_file_is_told() {
    let workspace = Workspace::new();
    workspace.write("in/a.ndjson", rows(0, 100));
    workspace.write("data", "not a folder");
    workspace.write("p.yaml", pipeline("      file: {paths: [in/*.ndjson]}\n      eventTime: {column: ts}"));
    Millrace::run(&workspace, "p.yaml").finish().expect_code(2).expect_stderr(&["data"]);
}

#[test]
fn a_damaged_newest_checkpoint_is_reported_and_the_one_before_it_is_not_used_unasked() {
    let workspace = Workspace::new();
    for file in 0..20 {
        workspace.write(format!("in/{file:02}.ndjson"), rows(file * 50_000, (file + 1) * 50_000));
    }
    let source =
        "      file: {paths: [in/*.ndjson], follow: true}\n      eventTime: {column: ts, maxOutOfOrderness: 1h}";
    workspace.write("p.yaml", pipeline(source));
    let running = Millrace::run(&workspace, "p.yaml").start();
    Deadline::secs(60).wait_for("the rows", || (count_rows(&workspace) >= 1_000_000).then_some(()));
    running.terminate();
    running.wait().expect_success();

    let manifests = read::all_files(&workspace.join("data/checkpoints")).into_iter().map(|(path, _)| path);
    let manifests = manifests.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let newest = manifests.max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
    let newest = &newest.expect("a checkpoint has a manifest");
    let mut bytes = fs::read(newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(newest, bytes).unwrap();
    let failed = Millrace::run(&workspace, "p.yaml").finish().expect_code(1);
    failed.expect_stderr(&["damaged"]);
}

#[test]
fn a_sum_without_room_in_its_type_fails_with_what_to_write_and_never_gives_a_wrong_number() {
    const GREAT: i64 = 4_000_000_000_000_000_000;
    let workspace = Workspace::new();
    let rows = |count: i64| -> String {
        (0..count).map(|id| format!("{{\"ts\":{},\"id\":{GREAT}}}\n", 1_704_067_200_000 + id)).collect()
    };
    workspace.write("in/a.ndjson", rows(3));
    let of = |sum: &str, window: &str| {
        let pipeline = format!(
            "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: sums}}
spec:
  sources:
    - name: t
      file: {{paths: [in/*.ndjson]}}
      format: {{json: {{timestampUnit: Milliseconds}}}}
      columns: [{{name: ts, type: TIMESTAMP}}, {{name: id, type: BIGINT}}]
      eventTime: {{column: ts}}
  transforms:
    - {{name: sums, {window}sql: \"SELECT {sum} AS s FROM t\"}}
  outputs:
    - {{from: sums, sink: out}}
"
        );
        let sink = manifest::sink("out", "file: {path: out, format: {json: {}}}");
        [&pipeline[..], &sink, &manifest::window("w", "tumbling: {size: 10s}")].concat()
    };
    for window in ["window: w, ", ""] {
        let sum = if window.is_empty() { "id % 2 AS k, sum(id)" } else { "sum(id)" };
        let grouped = if window.is_empty() {
            of(sum, window).replace("FROM t", "FROM t GROUP BY id % 2")
        } else {
            of(sum, window)
        };
        workspace.write("p.yaml", grouped);
        let failed = Millrace::run(&workspace, "p.yaml").finish().expect_code(1);
        assert!(failed.stderr.contains("`sum(id)` has left the range of BIGINT"), "{}", failed.stderr);
        assert!(failed.stderr.contains("AS DECIMAL(38, 0)"), "{}", failed.stderr);
        assert!(!failed.stderr.contains("starting again"), "another try fails too: {}", failed.stderr);
        std::fs::remove_dir_all(workspace.join("data")).unwrap();
    }
    // What it says to write gives the sum.
    workspace.write("p.yaml", of("CAST(sum(CAST(id AS DECIMAL(38, 0))) AS VARCHAR)", "window: w, "));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    let sums: Vec<String> = read::folder(&workspace.join("out")).column("s").map(|cell| format!("{cell:?}")).collect();
    assert!(sums.len() == 1 && sums[0].contains("12000000000000000000"), "{sums:?}");
    // A sum that 38 digits do not hold either, in windows of each kind and without one.
    let nines = format!("CAST('{}' AS DECIMAL(38, 0)) + id - id", "9".repeat(38));
    for (window, rest) in [("window: w, ", ""), ("window: r, ", ""), ("window: g, ", ""), ("", " GROUP BY id % 1")] {
        let key = if rest.is_empty() { "" } else { "id % 1 AS k, " };
        for sum in [format!("{key}sum({nines})"), format!("{key}sum({nines}) FILTER (WHERE id > 0)")] {
            let windows =
                [manifest::window("r", "rolling: {range: 10s}"), manifest::window("g", "session: {gap: 10s}")].concat();
            let sum = of(&sum, window).replace("FROM t\"", &format!("FROM t{rest}\"")) + &windows;
            workspace.write("p.yaml", sum);
            std::fs::remove_dir_all(workspace.join("data")).unwrap();
            let failed = Millrace::run(&workspace, "p.yaml").finish().expect_code(1);
            assert!(failed.stderr.contains("Decimal") || failed.stderr.contains("DECIMAL"), "{}", failed.stderr);
        }
    }
    // One that they hold, through values that are as long.
    std::fs::remove_dir_all(workspace.join("data")).unwrap();
    std::fs::remove_dir_all(workspace.join("out")).unwrap();
    workspace.write("p.yaml", of("CAST(sum(CAST(id AS DECIMAL(38, 2)) / 1) AS VARCHAR)", "window: w, "));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    assert_eq!(read::folder(&workspace.join("out")).len(), 1);
}

#[test]
fn a_value_that_is_too_long_for_a_partition_s_folder_is_told_before_a_checkpoint_counts_on_it() {
    for place in ["parquet", "delta"] {
        for batch in ["", "\n  batch: {maxDelay: 1h}"] {
            let workspace = Workspace::new();
            workspace
                .write("in/a.ndjson", format!("{{\"p\":\"a\",\"i\":1}}\n{{\"p\":\"{}\",\"i\":2}}\n", "x".repeat(300)));
            let of = |filter: &str| {
                let pipeline = format!(
                    "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: parted}}
spec:
  sources:
    - name: t
      file: {{paths: [in/*.ndjson]}}
      format: {{json: {{}}}}
      columns: [{{name: p, type: VARCHAR}}, {{name: i, type: BIGINT}}]
  transforms:
    - {{name: s, sql: \"SELECT p, i FROM t{filter}\"}}
  outputs:
    - {{from: s, sink: out}}
"
                );
                let sink = manifest::sink("out", &format!("{place}: {{uri: out, partitionBy: [p]}}{batch}"));
                [&pipeline[..], &sink].concat()
            };
            workspace.write("p.yaml", of(""));
            let failed = Millrace::run(&workspace, "p.yaml").finish().expect_code(1);
            assert!(
                failed.stderr.contains("a value of `p`, which partitionBy names, is too long"),
                "{}",
                failed.stderr
            );
            // The manifest can be mended, and all goes on.
            workspace.write("p.yaml", of(" WHERE length(p) < 200"));
            Millrace::run(&workspace, "p.yaml").finish().expect_success();
            let files = read::visible_files(&workspace.join("out"));
            assert_eq!(
                files
                    .iter()
                    .filter(|(path, _)| path.ends_with("p=a") || path.to_string_lossy().contains("p=a/"))
                    .count(),
                1
            );
        }
    }
}

/// The most memory that a process has held until it ends, in bytes.
fn most_memory(mut running: Running) -> u64 {
    let status = format!("/proc/{}/status", running.pid());
    let held = || -> Option<u64> {
        let status = fs::read_to_string(&status).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    };
    let mut most = 0;
    Deadline::secs(180).wait_for("its end", || {
        most = held().unwrap_or_default().max(most);
        (!running.is_alive()).then_some(())
    });
    running.wait().expect_success();
    most
}

#[test]
fn a_state_many_times_its_budget_stays_on_disk_and_out_of_memory() {
    const ROWS: i64 = 600_000;
    const KEYS: u64 = 300_000;
    const KEY_BYTES: usize = 2_000;
    // A copy of what changed while a checkpoint is written, blocks of the store and batches under way come beside the budget.
    const BESIDE_FEW_KEYS: u64 = 300 << 20;
    let run = |keys: u64| -> (u64, usize) {
        let workspace = Workspace::new();
        let prefix = "w".repeat(KEY_BYTES);
        let events = format!(
            "generator: {{rows: {ROWS}, fields: [{{name: id, sequence: {{}}}}, {{name: ts, timestamp: {{start: \
             \"2024-01-01T00:00:00Z\", step: 1ms}}}}, {{name: key, string: {{prefix: {prefix}, cardinality: {keys}}}}}]}}"
        );
        let pipeline = manifest::Pipeline {
            name: "wide",
            checkpoints: "interval: 1s, minPause: 100ms, memoryBudget: 16Mi",
            more: "",
            events: &events,
            transforms: &[("counts", "w", "SELECT window_start, count(*) AS n FROM events GROUP BY key")],
            outputs: &[("counts", "counts")],
        };
        let window = manifest::window("w", "tumbling: {size: 1h}");
        let sink = manifest::sink("counts", "parquet: {uri: out/counts}");
        workspace.write("p.yaml", [pipeline.to_string(), window, sink].concat());
        let most = most_memory(Millrace::run(&workspace, "p.yaml").start());
        let counts = read::parquet_batch(&workspace.join("out/counts"));
        let counted = counts.column_by_name("n").unwrap().as_primitive::<Int64Type>().values().iter().sum::<i64>();
        assert_eq!(counted, ROWS);
        (most, counts.num_rows())
    };
    let (with_few, _) = run(100);
    let (with_many, keys) = run(KEYS);
    println!("{} MiB with few keys, {} MiB with {keys}", with_few >> 20, with_many >> 20);
    let bytes_of_keys = (keys * KEY_BYTES) as u64;
    assert!(bytes_of_keys > 400 << 20, "the keys alone have {bytes_of_keys} bytes");
    assert!(
        with_many < with_few + BESIDE_FEW_KEYS,
        "{with_many} bytes are held with {keys} keys, and {with_few} with few"
    );
}
