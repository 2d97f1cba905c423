//! What a person sees who runs a pipeline in a terminal, and what a log collector gets from one that runs elsewhere.

use std::time::Duration;

use millrace_tests::{
    Deadline, Millrace, Running, Table, Workspace, manifest, wait,
    workspace::{python, repository},
};

const PIPELINE: &str = "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: seen}
spec:
  checkpoints: {interval: 200ms, minPause: 10ms}
  sources:
    - name: events
      generator: {rows: 100000000, rate: 20000, fields: [{name: id, sequence: {}}, {name: ts, timestamp: {start: \"2024-01-01T00:00:00Z\", step: 1ms}}]}
      eventTime: {column: ts}
  transforms:
    - {name: counts, window: w, sql: \"SELECT id % 100 AS k, window_start, count(*) AS n FROM events GROUP BY id % 100\"}
  outputs:
    - {from: counts, sink: counts}
";

fn manifests() -> String {
    [
        PIPELINE,
        &manifest::window("w", "tumbling: {size: 10s}"),
        &manifest::sink("counts", "file: {path: out/counts, format: {json: {}}}"),
    ]
    .concat()
}

/// Starts the pipeline in a terminal, in which SIGUSR1 is Ctrl+C.
fn in_terminal(workspace: &Workspace, args: &[&str]) -> Millrace {
    workspace.write("seen.yaml", manifests());
    run_in_terminal(workspace, args)
}

/// Runs what `seen.yaml` says in a terminal.
fn run_in_terminal(workspace: &Workspace, args: &[&str]) -> Millrace {
    let python = python().into_os_string().into_string().unwrap();
    let script = repository().join("tests/python/in_terminal.py").into_os_string().into_string().unwrap();
    let run = ["run", "-f", "seen.yaml", "--data-dir", "data"];
    Millrace::wrapped(workspace, &[&python, &script], run.iter().chain(args)).env("TERM", "xterm-256color")
}

fn sees(running: &Running, texts: &[&str]) {
    for text in texts {
        Deadline::secs(60).poll(|| running.stdout().contains(text).then_some(()));
        let seen = running.stdout();
        assert!(seen.contains(text), "{text:?} is not to be seen:\n{seen}");
    }
}

/// The last picture of the view: its lines.
fn picture(seen: &str) -> Vec<String> {
    let last = seen.rfind("seen  ").unwrap_or_else(|| panic!("no picture in {seen}"));
    seen[last..].lines().map(|line| line.trim_end().to_owned()).collect()
}

/// Whether there are colours: SGR sequences, as against movements of the cursor.
fn has_colours(seen: &str) -> bool {
    seen.split("\u{1b}[").skip(1).any(|code| {
        let end = code.find(|char: char| char.is_ascii_alphabetic());
        end.is_some_and(|end| code[end..].starts_with('m'))
    })
}

#[test]
fn a_terminal_shows_rates_state_watermark_and_checkpoint_and_ctrl_c_stops() {
    let workspace = Workspace::new();
    let running = in_terminal(&workspace, &[]).start();
    sees(&running, &["seen  Running", "IN/S", "OUT/S", "LAG", "STATE", "WATERMARK", "s ago, took"]);
    let whole = Deadline::secs(60).wait_for("a picture with everything in it", || {
        let lines = picture(&running.stdout());
        let line = |name: &str| lines.iter().find(|line| line.starts_with(name)).cloned();
        let (events, counts) = (line("events")?, line("counts ")?);
        let rate = events.split_whitespace().nth(1)?.trim_end_matches('k').parse::<f64>().ok()?;
        let is_whole = rate > 1.0 && counts.contains("2024-01-01T00:0") && counts.contains("B ");
        is_whole.then_some(lines.join("\n"))
    });
    assert!(running.stdout().contains("\u{1b}["), "the picture is redrawn in place: {whole}");
    assert!(!has_colours(&running.stdout()), "NO_COLOR is set: {whole}");
    assert!(!running.stdout().contains("checkpoint completed"), "the view shows checkpoints, the log need not");
    running.signal("USR1");
    let finished = running.wait().expect_success();
    for said in ["stopping at a final checkpoint", "stopped; the next run goes on from here"] {
        assert!(finished.stdout.contains(said), "{}", finished.stdout);
    }
}

#[test]
fn a_terminal_that_nobody_told_its_size_shows_the_view_too() {
    let workspace = Workspace::new();
    let running = in_terminal(&workspace, &[]).env("TERMINAL_SIZE", "0x0").start();
    sees(&running, &["seen  Running", "LAG", "counts "]);
    running.signal("USR1");
    running.wait().expect_success();
}

#[test]
fn colours_are_for_terminals_whose_user_has_not_said_otherwise() {
    let workspace = Workspace::new();
    let running = in_terminal(&workspace, &["--no-live"]).env("NO_COLOR", "").start();
    sees(&running, &["checkpoint completed"]);
    assert!(has_colours(&running.stdout()), "{}", running.stdout());
    assert!(!running.stdout().contains("IN/S"), "no view was asked for");
    running.signal("USR1");
    running.wait().expect_success();

    let running = in_terminal(&workspace, &["--no-live"]).start();
    sees(&running, &["checkpoint completed"]);
    assert!(!running.stdout().contains('\u{1b}'), "{}", running.stdout());
    running.signal("USR1");
    running.wait().expect_success();
}

#[test]
fn a_terminal_that_cannot_draw_gets_the_log() {
    for term in ["dumb", ""] {
        let workspace = Workspace::new();
        let running = in_terminal(&workspace, &[]).env("TERM", term).env("NO_COLOR", "").start();
        sees(&running, &["checkpoint completed"]);
        assert!(!running.stdout().contains("IN/S"), "TERM={term:?}: {}", running.stdout());
        assert!(!running.stdout().contains('\u{1b}'), "TERM={term:?}: {}", running.stdout());
        running.signal("USR1");
        running.wait().expect_success();
    }
}

#[test]
fn a_log_has_one_line_a_checkpoint_as_text_or_as_json_and_no_escape_codes() {
    for format in ["text", "json"] {
        let workspace = Workspace::new();
        workspace.write("seen.yaml", manifests());
        let run = Millrace::run(&workspace, "seen.yaml").args(["--log-format", format]);
        let running = run.env("NO_COLOR", "").env("TERM", "xterm-256color").start();
        let completed = || running.stderr().lines().filter(|line| line.contains("checkpoint completed")).count();
        Deadline::secs(60).wait_for("three checkpoints", || (completed() >= 3).then_some(()));
        running.terminate();
        let log = running.wait().expect_success().stderr;
        assert!(!log.contains('\u{1b}'), "{log}");
        let lines = log.lines().filter(|line| line.contains("checkpoint completed"));
        let epochs: Vec<u64> = lines
            .map(|line| {
                for field in ["epoch", "kind", "duration_ms", "size_bytes", "uploaded_bytes"] {
                    assert!(line.contains(field), "{field} is not in {line}");
                }
                let of_text = || line.split_once("epoch=")?.1.split(' ').next()?.parse().ok();
                let of_json = || serde_json::from_str::<serde_json::Value>(line).ok()?["epoch"].as_u64();
                if format == "json" { of_json() } else { of_text() }.unwrap_or_else(|| panic!("no epoch in {line}"))
            })
            .collect();
        assert_eq!(epochs, (1..=epochs.len() as u64).collect::<Vec<_>>(), "one line a checkpoint");
        if format == "json" {
            for line in log.lines() {
                let value: serde_json::Value =
                    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                assert!(value["timestamp"].is_string() && value["level"].is_string(), "{line}");
            }
        }
    }
}

#[test]
fn a_second_ctrl_c_ends_a_pipeline_whose_final_checkpoint_does_not_come() {
    let workspace = Workspace::new();
    workspace.write("seen.yaml", manifests().replace("interval: 200ms", "interval: 1h"));
    let run = Millrace::run(&workspace, "seen.yaml").env("MILLRACE_FAULT_POINT", "before-manifest:1:stall");
    let running = run.start();
    Deadline::secs(60).wait_for("the start", || running.stderr().contains("running").then_some(()));
    running.signal("INT");
    Deadline::secs(60).wait_for("the first to be heard", || running.stderr().contains("stopping").then_some(()));
    // One that comes at once is the same key press, told twice; a later one is another.
    let mut running = running;
    Deadline::secs(60).wait_for("the end", || {
        running.signal("INT");
        wait::pass(Duration::from_millis(200));
        (!running.is_alive()).then_some(())
    });
    running.wait().expect_code(1).expect_stderr(&["without a final checkpoint"]);
}

/// A pipeline that prints the rows of `in.ndjson`, and how often each word has come by now.
fn printing(outputs: &[&str]) -> String {
    let outputs: String = outputs.iter().map(|from| format!("    - {{from: {from}, sink: printed}}\n")).collect();
    let pipeline = "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: printing}
spec:
  parallelism: 1
  sources:
    - name: t
      file: {paths: [in.ndjson]}
      format: {json: {}}
      columns: [{name: ts, type: TIMESTAMP}, {name: word, type: VARCHAR}, {name: n, type: BIGINT}, {name: x, type: DOUBLE}]
      eventTime: {column: ts}
  transforms:
    - {name: words, emitEvery: 1ms, sql: \"SELECT word, count(*) AS times FROM t GROUP BY word\"}
  outputs:
";
    [pipeline, &outputs, &manifest::sink("printed", "stdout: {}")].concat()
}

const WORDS: &str = r#"{"ts":"2024-01-01T00:00:00Z","word":"first","n":7,"x":0.5}
{"ts":"2024-01-01T00:00:00.250Z","word":"\u001b[31mred\n","n":-12345,"x":null}
{"ts":"2024-01-01T00:00:01Z","word":null,"n":null,"x":1e9}
{"ts":"2024-01-01T00:00:02Z","word":"the last one, which is rather long","n":9,"x":-2}
"#;

#[test]
fn rows_for_the_standard_output_are_json_for_a_program_and_nothing_else_stands_there() {
    let workspace = Workspace::new();
    workspace.write("in.ndjson", WORDS);
    workspace.write("seen.yaml", printing(&["t"]));
    let finished = Millrace::run(&workspace, "seen.yaml").finish().expect_success();
    Table::of_json_lines(&finished.stdout).expect_same(&Table::of_json_lines(WORDS), "the rows");

    // What has changed is said first.
    let workspace = Workspace::new();
    workspace.write("in.ndjson", WORDS);
    workspace.write("seen.yaml", printing(&["words"]));
    let printed = Millrace::run(&workspace, "seen.yaml").finish().expect_success().stdout;
    assert!(printed.lines().all(|line| line.starts_with("{\"_op\":\"")), "{printed}");
    let words = Table::of_json_lines(&printed).newest_by(&["word"]);
    assert_eq!((words.len(), words.sum("times")), (4, 4), "{printed}");
}

#[test]
fn rows_for_the_standard_output_are_a_table_for_a_person_and_cannot_do_anything_to_the_terminal() {
    let workspace = Workspace::new();
    workspace.write("in.ndjson", WORDS);
    workspace.write("seen.yaml", printing(&["t"]));
    let seen = run_in_terminal(&workspace, &[]).finish().expect_success().stdout;
    let table = [
        "ts                       word                                     n             x",
        "───────────────────────  ──────────────────────────────────  ──────  ────────────",
        "2024-01-01 00:00:00      first                                    7           0.5",
        "2024-01-01 00:00:00.250  \\u{1b}[31mred\\n                     -12345",
        "2024-01-01 00:00:01                                                  1000000000.0",
        "2024-01-01 00:00:02      the last one, which is rather long       9          -2.0",
    ];
    assert!(seen.contains(&table.join("\r\n")), "{seen}");
    assert!(!seen.contains("IN/S"), "rows and the view would write over each other: {seen}");
    assert!(!seen.contains("\u{1b}[31m"), "{seen}");

    // In a narrow one nothing is broken over lines.
    let workspace = Workspace::new();
    workspace.write("in.ndjson", WORDS);
    workspace.write("seen.yaml", printing(&["t"]));
    let narrow = run_in_terminal(&workspace, &[]).env("TERMINAL_SIZE", "40x30").finish().expect_success().stdout;
    let lines: Vec<&str> = narrow.lines().map(str::trim_end).collect();
    let header = lines.iter().position(|line| line.starts_with("ts ") && line.ends_with('x')).expect("a header");
    let rows = &lines[header..header + 6];
    assert!(rows.iter().all(|line| line.chars().count() <= 30), "{rows:?}");
    assert!(rows[2].contains("first") && rows[5].contains('…'), "{rows:?}");

    // What has changed is shown too.
    let workspace = Workspace::new();
    workspace.write("in.ndjson", WORDS);
    workspace.write("seen.yaml", printing(&["words"]));
    let seen = run_in_terminal(&workspace, &[]).finish().expect_success().stdout;
    let header = seen.lines().find(|line| line.starts_with("_op ")).unwrap_or_else(|| panic!("no table: {seen}"));
    assert_eq!(header.split_whitespace().collect::<Vec<_>>(), ["_op", "word", "times"]);
    assert!(seen.lines().any(|line| line.split_whitespace().eq(["insert", "first", "1"])), "{seen}");
}

#[test]
fn a_program_that_reads_no_more_of_the_standard_output_ends_the_pipeline() {
    let workspace = Workspace::new();
    let endless = "generator: {fields: [{name: id, sequence: {}}, {name: ts, timestamp: {start: \"2024-01-01T00:00:00Z\", step: 1ms}}]}";
    let pipeline = manifest::Pipeline {
        name: "endless",
        checkpoints: "interval: 1h",
        more: "",
        events: endless,
        transforms: &[],
        outputs: &[("events", "printed")],
    };
    workspace.write("p.yaml", pipeline.to_string() + &manifest::sink("printed", "stdout: {}"));
    let piped = ["sh", "-c", "{ \"$0\" \"$@\"; echo \"exit code $?\" >&2; } | head -n 3"];
    let run = Millrace::wrapped(&workspace, &piped, ["run", "-f", "p.yaml", "--data-dir", "data"]).finish();
    assert_eq!(run.stdout.lines().count(), 3, "{}", run.stdout);
    run.expect_stderr(&["nobody reads the standard output any more", "exit code 1"]);
}
