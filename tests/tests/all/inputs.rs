//! What is read besides plain NDJSON, through the command: compressed files, CSV as programs export it, lines of syslog
//! and of logfmt; and the data folder that nobody names.

use std::{
    ffi::OsStr,
    fs::{self, File},
    process::Command,
    time::{Duration, SystemTime},
};

use arrow::{
    array::AsArray,
    datatypes::{DataType, Int64Type},
};
use millrace_tests::{Cell, Deadline, Millrace, Table, Workspace, manifest, read, workspace::python};

/// How many rows the compressed files have.
const ROWS: i64 = 100_000;

/// A pipeline that reads `log` and writes its rows to `out/rows`, what cannot be decoded to `out/letters`, and what
/// `transform` gives to `out/counts`.
fn pipeline(source: &str, transform: &str) -> String {
    let json = |name: &str| manifest::sink(name, &format!("file: {{path: out/{name}, format: {{json: {{}}}}}}"));
    [
        &format!(
            "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: read}}
spec:
  parallelism: 2
  checkpoints: {{interval: 10ms, minPause: 1ms}}
  sources:
    - name: log
      onError: DeadLetter
{source}
  transforms:
    - {{name: counts, window: w, sql: \"{transform}\"}}
  outputs:
    - {{from: log, sink: rows}}
    - {{from: counts, sink: counts}}
    - {{from: log.errors, sink: letters}}
"
        )[..],
        &json("rows"),
        &json("counts"),
        &manifest::sink("letters", "parquet: {uri: out/letters}"),
        &manifest::window("w", "tumbling: {size: 1m}"),
    ]
    .concat()
}

/// A row that could not be decoded: its bytes, its place, its file and why.
#[derive(Debug, PartialEq)]
struct Letter {
    raw: Vec<u8>,
    position: i64,
    source: String,
    reason: String,
}

fn letters(workspace: &Workspace) -> Vec<Letter> {
    let letters = read::parquet_batch(&workspace.join("out/letters"));
    let column = |name: &str, of| arrow::compute::cast(letters.column_by_name(name).unwrap(), &of).unwrap();
    let (raws, positions) = (column("raw", DataType::Binary), column("position", DataType::Int64));
    let (sources, reasons) = (column("source", DataType::Utf8), column("reason", DataType::Utf8));
    let letter = |row| Letter {
        raw: raws.as_binary::<i32>().value(row).to_vec(),
        position: positions.as_primitive::<Int64Type>().value(row),
        source: sources.as_string::<i32>().value(row).to_owned(),
        reason: reasons.as_string::<i32>().value(row).to_owned(),
    };
    let mut letters: Vec<Letter> = (0..letters.num_rows()).map(letter).collect();
    letters.sort_by_key(|letter| (letter.source.clone(), letter.position));
    letters
}

/// Lines, of which those with a reason are no rows.
type Lines<'a> = [(&'a [u8], &'a str)];

/// The lines as a file with this line end, and the letters that come of them.
fn file_of(name: &str, lines: &Lines<'_>, line_end: &[u8]) -> (Vec<u8>, Vec<Letter>) {
    let (mut bytes, mut letters) = (Vec::new(), Vec::new());
    for (line, reason) in lines {
        if !reason.is_empty() {
            let position = bytes.len() as i64;
            let (raw, source, reason) = (line.to_vec(), name.to_owned(), (*reason).to_owned());
            letters.push(Letter { raw, position, source, reason });
        }
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(line_end);
    }
    (bytes, letters)
}

/// What another program makes of the bytes: a member of a `gzip` file, or a frame of `zstd`.
fn compressed(workspace: &Workspace, codec: &str, bytes: &[u8]) -> Vec<u8> {
    let plain = workspace.write("plain", bytes);
    let script = "import sys, pyarrow\n\
                  with open(sys.argv[2], 'rb') as plain:\n\
                  \x20   sys.stdout.buffer.write(pyarrow.compress(plain.read(), sys.argv[1], asbytes=True))";
    by_python(script, &[codec.as_ref(), plain.as_ref()])
}

/// What a Python script prints.
fn by_python(script: &str, arguments: &[&OsStr]) -> Vec<u8> {
    let made = Command::new(python()).args(["-c", script]).args(arguments).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

/// Runs the pipeline, and kills it after each of its first checkpoints.
fn run_with_kills(workspace: &Workspace) {
    let mut deaths = 0;
    for _ in 0..6 {
        let killed = Millrace::run(workspace, "p.yaml").env("MILLRACE_FAULT_POINT", "after-pointer:1").finish();
        if killed.code() == Some(0) {
            break;
        }
        assert_eq!(killed.signal(), Some(9), "{}", killed.stderr);
        deaths += 1;
    }
    println!("died {deaths} times");
    assert!(deaths > 0, "nothing was tried");
    Millrace::run(workspace, "p.yaml").finish().expect_success();
}

#[test]
fn compressed_rows_of_several_frames_are_each_there_once_however_often_the_process_is_killed() {
    let workspace = Workspace::new();
    let row = |id: i64| format!("{{\"ts\":{},\"id\":{id},\"word\":\"row {id}\"}}\n", 1_704_067_200_000 + id * 10);
    let mut expected = Vec::new();
    // Each file has every other row. What says how it is compressed is its name or, for the second, its first bytes.
    for (number, (name, codec)) in [("in/a.ndjson.zst", "zstd"), ("in/b", "gzip")].into_iter().enumerate() {
        let (mut frames, mut plain) = (Vec::new(), 0);
        for frame in 0..4 {
            let ids = (frame * ROWS / 4..(frame + 1) * ROWS / 4).filter(|id| id % 2 == number as i64);
            let mut text: String = ids.map(row).collect();
            // Places count in what was compressed.
            let raw = format!("{{\"ts\":{frame}, cut off");
            expected.push((name, plain + text.len(), raw.clone().into_bytes()));
            text += &format!("{raw}\n");
            plain += text.len();
            frames.extend(compressed(&workspace, codec, text.as_bytes()));
        }
        workspace.write(name, frames);
    }
    let source = "      file: {paths: [in/*]}
      format: {json: {}}
      columns: [{name: ts, type: TIMESTAMP}, {name: id, type: BIGINT}, {name: word, type: VARCHAR}]
      eventTime: {column: ts}";
    let sql = "SELECT window_start, count(*) AS n, sum(id) AS ids, count(DISTINCT word) AS words FROM log";
    workspace.write("p.yaml", pipeline(source, sql));
    run_with_kills(&workspace);

    let counts = read::folder(&workspace.join("out/counts"));
    assert_eq!(counts.len() as i64, (ROWS + 5_999) / 6_000);
    assert_eq!((counts.sum("n"), counts.sum("words")), (ROWS, ROWS));
    assert_eq!(counts.sum("ids"), ROWS * (ROWS - 1) / 2);
    let rows: usize = read::visible_files(&workspace.join("out/rows"))
        .iter()
        .map(|(path, _)| std::fs::read(path).unwrap().iter().filter(|&&byte| byte == b'\n').count())
        .sum();
    assert_eq!(rows as i64, ROWS);
    let found = letters(&workspace);
    assert!(found.iter().all(|letter| letter.reason.len() > 8), "{found:?}");
    let found: Vec<_> = found.into_iter().map(|letter| (letter.source, letter.position as usize, letter.raw)).collect();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(&expected) {
        assert!(found.0.ends_with(expected.0), "{found:?}");
        assert_eq!((found.1, &found.2), (expected.1, &expected.2));
    }
}

#[test]
fn gzipped_csv_is_read_as_spreadsheets_and_databases_export_it() {
    let lines: [(&[u8], &str); 9] = [
        (b"\xef\xbb\xbfplaced;customer;\"note\";total;items;extra", ""),
        ("05.03.2024 09:14;\"Müller; Söhne\";\"she said \"\"now\"\"\";19.90;3;x".as_bytes(), ""),
        (b"05.03.2024 09:14;Smith;\"two\r\nlines\";NULL;NULL;", ""),
        (b"05.03.2024 09:15;;;0;-1;y", ""),
        (b"05.03.2024 09:15;too;few;1", "csv"),
        (b"05.03.2024 09:16;\"NULL\";NULL;1e3;9007199254740993;\"\"", ""),
        (b"2024-03-05 09:16;Jones;;1;1;", "csv"),
        (b"05.03.2024 09:17;Caf\xe9;;1;1;", "csv"),
        (b"05.03.2024 09:17;last;row;.5;7;z", ""),
    ];
    let workspace = Workspace::new();
    let (bytes, expected) = file_of("in/orders.csv.gz", &lines, b"\r\n");
    // Two programs have written to it; the second member begins within a row.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let members = [compressed(&workspace, "gzip", first), compressed(&workspace, "gzip", second)].concat();
    workspace.write("in/orders.csv.gz", members);
    let source = "      file: {paths: [in/orders.csv.gz]}
      format: {csv: {delimiter: \";\", nullValue: \"NULL\", timestampFormat: \"%d.%m.%Y %H:%M\"}}
      columns:
        - {name: items, type: BIGINT}
        - {name: placed, type: TIMESTAMP}
        - {name: customer, type: VARCHAR}
        - {name: note, type: VARCHAR}
        - {name: total, type: DOUBLE}
      eventTime: {column: placed}";
    workspace.write("p.yaml", pipeline(source, "SELECT window_start, count(*) AS n, sum(total) AS total FROM log"));
    Millrace::run(&workspace, "p.yaml").finish().expect_success();

    let rows = r#"{"placed":"2024-03-05T09:14:00Z","customer":"Müller; Söhne","note":"she said \"now\"","total":19.9,"items":3}
{"placed":"2024-03-05T09:14:00Z","customer":"Smith","note":"two\r\nlines","total":null,"items":null}
{"placed":"2024-03-05T09:15:00Z","customer":"","note":"","total":0.0,"items":-1}
{"placed":"2024-03-05T09:16:00Z","customer":"NULL","note":null,"total":1000.0,"items":9007199254740993}
{"placed":"2024-03-05T09:17:00Z","customer":"last","note":"row","total":0.5,"items":7}"#;
    read::folder(&workspace.join("out/rows")).expect_same(&Table::of_json_lines(rows), "orders");
    let counts = r#"{"window_start":"2024-03-05T09:14:00Z","n":2,"total":19.9}
{"window_start":"2024-03-05T09:15:00Z","n":1,"total":0.0}
{"window_start":"2024-03-05T09:16:00Z","n":1,"total":1000.0}
{"window_start":"2024-03-05T09:17:00Z","n":1,"total":0.5}"#;
    read::folder(&workspace.join("out/counts")).expect_same(&Table::of_json_lines(counts), "minutes");
    let found = letters(&workspace);
    let place = |letter: &Letter| (letter.position, letter.raw.clone());
    assert_eq!(found.iter().map(place).collect::<Vec<_>>(), expected.iter().map(place).collect::<Vec<_>>());
    for (letter, why) in found.iter().zip(["fields", "placed", "UTF-8"]) {
        assert!(letter.source.ends_with("in/orders.csv.gz") && letter.reason.contains(why), "{letter:?}");
    }
}

/// Runs a pipeline over one file of lines, and compares what comes of them.
fn expect_rows_and_letters(name: &str, lines: &Lines<'_>, line_end: &[u8], manifests: &str, rows: &str, counts: &str) {
    let workspace = Workspace::new();
    let (bytes, expected) = file_of(name, lines, line_end);
    let path = workspace.write(name, bytes);
    // Of 2024-03-05T12:00:00Z: a syslog message that has no year is of that one, or the one before.
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_640_000);
    File::options().append(true).open(path).unwrap().set_modified(written).unwrap();
    workspace.write("p.yaml", manifests);
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    read::folder(&workspace.join("out/rows")).expect_same(&Table::of_json_lines(rows), name);
    read::folder(&workspace.join("out/counts")).expect_same(&Table::of_json_lines(counts), "minutes");
    assert_eq!(letters(&workspace), expected);
}

#[test]
fn syslog_of_both_forms_is_read_and_other_lines_are_dead_letters() {
    let bom = "<165>1 2024-03-05T09:14:09.123456Z db-1.example.com postgres 4711 CKPT [timeQuality tzKnown=\"1\" note=\"a \\\"b\\\" ]\"] \
               \u{feff}checkpoint starting: time";
    let lines: [(&[u8], &str); 12] = [
        (b"<78>Dec 31 23:59:59 web-2 CRON[77]: (root) CMD (certbot renew)", ""),
        (b"<30>Mar  5 09:14:02 web-1 nginx[812]: 2024/03/05 09:14:02 [notice] 812#812: signal process started", ""),
        (b"-- MARK --", "the message ends before its timestamp"),
        (b"<86>Mar  5 09:14:05 web-1 sshd[2231]: Accepted publickey for deploy from 10.0.4.7 port 51514 ssh2", ""),
        (b"", ""),
        (b"Mar  5 09:14:07 web-1 kernel: [12345.678901] eth0: link up", ""),
        (bom.as_bytes(), ""),
        (b"<999>Mar  5 09:14:10 web-1 app: x", "`<999>` is not a priority from 0 to 191"),
        (b"<11>1 2024-03-05T10:14:11+01:00 db-1 backup - - - failed: \"disk full\"", ""),
        (b"<13>Mar  5 09:14:12 web-1 app: caf\xe9 closed", "not UTF-8 from byte 34 of the row"),
        (b"<13>Feb 30 09:14:13 web-1 app: x", "`Feb 30 09:14:13` is not a timestamp"),
        (b"<13>1 - web-1 app - - - without a time", "the event time is null"),
    ];
    let source = "      file: {paths: [var/log/syslog]}
      format: {syslog: {}}
      columns:
        - {name: timestamp, type: TIMESTAMP}
        - {name: facility, type: INT}
        - {name: severity, type: INT}
        - {name: hostname, type: VARCHAR}
        - {name: app_name, type: VARCHAR}
        - {name: proc_id, type: BIGINT}
        - {name: msg_id, type: VARCHAR}
        - {name: structured_data, type: VARCHAR}
        - {name: message, type: VARCHAR}
      eventTime: {column: timestamp}";
    let rows = r#"{"timestamp":"2023-12-31T23:59:59Z","facility":9,"severity":6,"hostname":"web-2","app_name":"CRON","proc_id":77,"msg_id":null,"structured_data":null,"message":"(root) CMD (certbot renew)"}
{"timestamp":"2024-03-05T09:14:02Z","facility":3,"severity":6,"hostname":"web-1","app_name":"nginx","proc_id":812,"msg_id":null,"structured_data":null,"message":"2024/03/05 09:14:02 [notice] 812#812: signal process started"}
{"timestamp":"2024-03-05T09:14:05Z","facility":10,"severity":6,"hostname":"web-1","app_name":"sshd","proc_id":2231,"msg_id":null,"structured_data":null,"message":"Accepted publickey for deploy from 10.0.4.7 port 51514 ssh2"}
{"timestamp":"2024-03-05T09:14:07Z","facility":null,"severity":null,"hostname":"web-1","app_name":"kernel","proc_id":null,"msg_id":null,"structured_data":null,"message":"[12345.678901] eth0: link up"}
{"timestamp":"2024-03-05T09:14:09.123456Z","facility":20,"severity":5,"hostname":"db-1.example.com","app_name":"postgres","proc_id":4711,"msg_id":"CKPT","structured_data":"[timeQuality tzKnown=\"1\" note=\"a \\\"b\\\" ]\"]","message":"checkpoint starting: time"}
{"timestamp":"2024-03-05T09:14:11Z","facility":1,"severity":3,"hostname":"db-1","app_name":"backup","proc_id":null,"msg_id":null,"structured_data":null,"message":"failed: \"disk full\""}"#;
    let sql = "SELECT window_start, count(*) AS n, count(*) FILTER (WHERE severity <= 3) AS errors, count(DISTINCT hostname) AS hosts FROM log";
    let counts = r#"{"window_start":"2023-12-31T23:59:00Z","n":1,"errors":0,"hosts":1}
{"window_start":"2024-03-05T09:14:00Z","n":5,"errors":1,"hosts":3}"#;
    expect_rows_and_letters("var/log/syslog", &lines, b"\n", &pipeline(source, sql), rows, counts);
}

#[test]
fn logfmt_is_read_by_its_keys_and_other_lines_are_dead_letters() {
    let lines: [(&[u8], &str); 11] = [
        (br#"ts=2024-03-05T09:14:02.5Z level=info msg="request done" method=GET path="/cart?id=7" status=200 bytes=5120 dur=23.5"#, ""),
        (br#"time=now ts=2024-03-05T09:14:03Z level=warn msg="slow \"checkout\"\nretrying" status=503 dur=1e3 retry"#, ""),
        (br#"ts=2024-03-05T09:14:04Z level=info msg="no end status=200"#, "the value of msg has no closing quote"),
        (br#"  level=error   ts=2024-03-05T10:14:05+01:00 msg=timeout err="dial tcp 10.0.0.1:5432: i/o timeout" retry=false  "#, ""),
        (b"", ""),
        (br#"ts=2024-03-05T09:15:00Z level=info msg="caf\u00e9 \ud83d\ude00" path= status="404""#, ""),
        (b"ts=2024-03-05T09:15:01Z status=many", "column status (INT): a whole number of 32 bits was expected, found `many`"),
        (b"ts=2024-03-05T09:15:02Z =x", "a key was expected, found `=x`"),
        (b"ts=2024-03-05T09:15:03Z level=info msg=caf\xe9", "not UTF-8 from byte 42 of the row"),
        (b"panic: runtime error: index out of range [5] with length 3", "the event time is null"),
        (br#"ts=2024-03-05T09:15:04Z level=info msg="a=b c=d""#, ""),
    ];
    let source = "      file: {paths: [logs/app.log]}
      format: {logfmt: {}}
      columns:
        - {name: ts, type: TIMESTAMP}
        - {name: level, type: VARCHAR}
        - {name: msg, type: VARCHAR}
        - {name: path, type: VARCHAR}
        - {name: status, type: INT}
        - {name: dur, type: DOUBLE}
        - {name: retry, type: BOOLEAN}
      eventTime: {column: ts}";
    let rows = r#"{"ts":"2024-03-05T09:14:02.5Z","level":"info","msg":"request done","path":"/cart?id=7","status":200,"dur":23.5,"retry":null}
{"ts":"2024-03-05T09:14:03Z","level":"warn","msg":"slow \"checkout\"\nretrying","path":null,"status":503,"dur":1000.0,"retry":true}
{"ts":"2024-03-05T09:14:05Z","level":"error","msg":"timeout","path":null,"status":null,"dur":null,"retry":false}
{"ts":"2024-03-05T09:15:00Z","level":"info","msg":"café 😀","path":"","status":404,"dur":null,"retry":null}
{"ts":"2024-03-05T09:15:04Z","level":"info","msg":"a=b c=d","path":null,"status":null,"dur":null,"retry":null}"#;
    let sql =
        "SELECT window_start, count(*) AS n, max(dur) AS slowest, count(*) FILTER (WHERE retry) AS retries FROM log";
    let counts = r#"{"window_start":"2024-03-05T09:14:00Z","n":3,"slowest":1000.0,"retries":1}
{"window_start":"2024-03-05T09:15:00Z","n":2,"slowest":null,"retries":0}"#;
    expect_rows_and_letters("logs/app.log", &lines, b"\r\n", &pipeline(source, sql), rows, counts);
}

#[test]
fn a_data_folder_that_nobody_names_lies_in_the_working_directory() {
    let workspace = Workspace::new();
    let millrace = |args: &[&str]| Millrace::new(&workspace, args).finish();
    millrace(&["checkpoints", "list"]).expect_code(2).expect_stderr(&["no checkpoints in millrace-data"]);
    assert!(!workspace.join("millrace-data").exists(), "nothing is made for a question");
    millrace(&["run", "-f", "examples/hopping"]).expect_success();
    assert!(workspace.join("millrace-data").is_dir());
    let first = read::folder(&workspace.join("out/hopping/popular"));
    assert!(!first.is_empty());

    let list = millrace(&["checkpoints", "list"]).expect_success().stdout;
    let named = millrace(&["checkpoints", "list", "--data-dir", "millrace-data"]).expect_success().stdout;
    assert_eq!(list, named);
    assert!(list.starts_with("CHECKPOINT") && list.contains(" finished "), "{list}");
    let newest = list.lines().nth(1).unwrap().split_whitespace().next().unwrap();
    for args in [&["checkpoints", "verify"][..], &["checkpoints", "inspect", newest]] {
        millrace(args).expect_success();
    }
    // The next run finds what the first one has left.
    millrace(&["run", "-f", "examples/hopping"]).expect_success().expect_stderr(&["nothing is left to do"]);
    read::folder(&workspace.join("out/hopping/popular")).expect_same(&first, "popular pages");
}

#[test]
fn a_csv_file_with_a_header_that_cannot_be_used_costs_its_own_rows_and_no_others_however_often_the_process_is_killed() {
    const EACH: i64 = 40_000;
    let source = "      file: {paths: [\"in/*.csv\"]}
      format: {csv: {}}
      columns:
        - {name: id, type: BIGINT}
        - {name: ts, type: TIMESTAMP}
      eventTime: {column: ts}";
    let manifest = pipeline(source, "SELECT window_start, count(*) AS n FROM log");
    let time = |id: i64| format!("2024-01-01T00:{:02}:{:02}.{:03}Z", id / 60_000, id / 1_000 % 60, id % 1_000);
    let line = |id: i64| format!("{id},{}\n", time(id));
    let headers = [
        ("\"id\" , ts\n", "the CSV header is malformed: line 1: text stands behind a closing quote"),
        ("id,at\n", "the CSV header has no ts; it has id, at"),
        ("\r\n\nid,ts,id\n", "the CSV header has id more than once: as its fields 1, 3"),
    ];
    let good = ["id,ts\n", "\n\r\n\nid,ts\n", "ts2,ts,ts2,id\n"];
    let workspace = Workspace::new();
    let mut expected = Vec::new();
    for (number, (header, reason)) in (0..).zip(headers) {
        let (mut text, mut position) = (header.to_owned(), header.len());
        if reason.contains("malformed") {
            position = 0;
        }
        (number * EACH..(number + 1) * EACH).for_each(|id| text += &line(id));
        while position < text.len() {
            let end = position + text[position..].find('\n').unwrap();
            expected.push((
                format!("in/bad-{number}.csv"),
                position as i64,
                text.as_bytes()[position..end].to_vec(),
                reason,
            ));
            position = end + 1;
        }
        workspace.write(format!("in/bad-{number}.csv"), text);
    }
    for (number, header) in (0..).zip(good) {
        let mut text = header.to_owned();
        for id in number * EACH..(number + 1) * EACH {
            match header.starts_with("ts2") {
                true => text += &format!("x,{},y,{id}\n", time(id)),
                false => text += &line(id),
            }
        }
        workspace.write(format!("in/good-{number}.csv"), text);
    }
    workspace.write("p.yaml", &manifest);
    run_with_kills(&workspace);

    let counts = read::folder(&workspace.join("out/counts"));
    assert_eq!(counts.sum("n"), 3 * EACH);
    let rows = read::folder(&workspace.join("out/rows"));
    assert_eq!((rows.len() as i64, rows.sum("id")), (3 * EACH, 3 * EACH * (3 * EACH - 1) / 2));
    let found = letters(&workspace);
    assert_eq!(found.len(), expected.len());
    for (letter, (name, position, raw, reason)) in found.iter().zip(&expected) {
        assert!(letter.source.ends_with(name), "{letter:?} is not of {name}");
        assert_eq!((letter.position, &letter.raw, letter.reason.as_str()), (*position, raw, *reason));
    }

    // The header itself is told, whether or not there are rows under it.
    workspace.write("in/bad-0.csv", headers[0].0);
    let manifest = manifest.replace("DeadLetter", "Fail").replace("    - {from: log.errors, sink: letters}\n", "");
    workspace.write("p.yaml", manifest.replace("in/*.csv", "in/bad-0.csv").replace("path: out/", "path: other/"));
    let failed = Millrace::new(&workspace, ["run", "-f", "p.yaml", "--data-dir", "other"]).finish().expect_code(1);
    failed.expect_stderr(&["in/bad-0.csv at byte 0: the CSV header is malformed: line 1: ", "row: \"id\" , ts"]);
}

#[test]
fn a_followed_parquet_file_is_read_once_it_is_whole() {
    const ROWS: i64 = 5_000;
    let workspace = Workspace::new();
    let made = manifest::Pipeline {
        name: "made",
        checkpoints: "interval: 1h",
        more: "",
        events: &manifest::numbers(ROWS, 1_000_000),
        transforms: &[],
        outputs: &[("events", "made")],
    };
    let elsewhere = Workspace::new();
    elsewhere.write("made.yaml", [made.to_string(), manifest::sink("made", "parquet: {uri: made}")].concat());
    Millrace::run(&elsewhere, "made.yaml").finish().expect_success();
    let files = read::visible_files(&elsewhere.join("made"));
    let (file, _) = files.iter().find(|(path, _)| path.extension().is_some_and(|of| of == "parquet")).unwrap();
    let bytes = fs::read(file).unwrap();

    let pipeline = "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: copied}
spec:
  checkpoints: {interval: 100ms, minPause: 10ms}
  sources:
    - name: rows
      file: {paths: [in/*.parquet], follow: true, pollInterval: 20ms}
      format: {parquet: {}}
      columns: [{name: id, type: BIGINT}]
  outputs:
    - {from: rows, sink: copied}
";
    let sink = manifest::sink("copied", "file: {path: out, format: {json: {}}}");
    workspace.write("copied.yaml", [pipeline, &sink].concat());
    // Its beginning, all but its last byte, and the whole.
    let path = workspace.write("in/growing.parquet", &bytes[..3]);
    let running = Millrace::run(&workspace, "copied.yaml").start();
    let told = |times: usize| {
        let is_told = || (running.stderr().matches("no whole Parquet file").count() >= times).then_some(());
        Deadline::secs(60).wait_for("a word of it", is_told);
    };
    told(1);
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    told(2);
    fs::write(&path, &bytes).unwrap();
    let ids = || {
        let mut ids: Vec<i64> = read::folder(&workspace.join("out")).column("id").map(Cell::int).collect();
        ids.sort_unstable();
        ids
    };
    Deadline::secs(60).wait_for("its rows", || (workspace.join("out").is_dir() && !ids().is_empty()).then_some(()));
    running.terminate();
    running.wait().expect_success();
    assert!(ids().into_iter().eq(0..ROWS), "{} rows of {ROWS}", ids().len());
}

#[test]
fn a_parquet_page_whose_bytes_are_not_those_of_its_checksum_costs_its_row_group() {
    let workspace = Workspace::new();
    let script = "import sys, pyarrow as pa, pyarrow.parquet as pq\n\
                  ts = pa.array([1704067200000 + id * 10 for id in range(5000)], pa.timestamp('ms'))\n\
                  table = pa.table({'ts': ts, 'id': pa.array(range(5000), pa.int64())})\n\
                  pq.write_table(table, sys.argv[1], row_group_size=1000, use_dictionary=False, compression='none',\n\
                  \x20              write_page_checksum=True)";
    let path = workspace.write("in/a.parquet", "");
    by_python(script, &[path.as_ref()]);
    let source = "      file: {paths: [in/*.parquet]}
      format: {parquet: {}}
      columns: [{name: ts, type: TIMESTAMP}, {name: id, type: BIGINT}]
      eventTime: {column: ts}";
    let sql = "SELECT window_start, count(*) AS n, sum(id) AS ids FROM log";
    let manifests = pipeline(source, sql);
    // A value becomes another one: nothing else tells.
    let mut bytes = fs::read(&path).unwrap();
    let places: Vec<usize> = (0..bytes.len() - 8).filter(|at| bytes[*at..*at + 8] == 2_500_i64.to_le_bytes()).collect();
    let [place] = places[..] else { panic!("{places:?}") };
    bytes[place..place + 8].copy_from_slice(&2_501_i64.to_le_bytes());
    fs::write(&path, bytes).unwrap();

    let letters_out = "    - {from: log.errors, sink: letters}\n";
    workspace.write("p.yaml", manifests.replace("onError: DeadLetter", "onError: Fail").replace(letters_out, ""));
    let failed = Millrace::run(&workspace, "p.yaml").finish().expect_code(1);
    failed.expect_stderr(&["in/a.parquet cannot be read as Parquet", "CRC"]);
    fs::remove_dir_all(workspace.join("data")).unwrap();
    workspace.write("p.yaml", manifests);
    Millrace::run(&workspace, "p.yaml").finish().expect_success();
    let ids: i64 = (0..2_000).chain(3_000..5_000).sum();
    assert_eq!(read::folder(&workspace.join("out/rows")).sum("id"), ids);
    assert_eq!(read::folder(&workspace.join("out/counts")).sum("ids"), ids);
    let letters = letters(&workspace);
    assert_eq!(letters.iter().map(|letter| letter.position).collect::<Vec<_>>(), (2_000..3_000).collect::<Vec<_>>());
    assert!(letters.iter().all(|letter| letter.reason.contains("CRC")), "{:?}", letters[0]);
}
