//! Every kind of transform in one pipeline that is killed again and again, against DataFusion over the same rows.

use std::{collections::BTreeMap, fmt::Write, sync::Arc, time::Duration};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{DataType, Field, Int64Type, Schema},
};
use millrace_tests::{
    Cell, Millrace, Seed, Table, Workspace, manifest,
    oracle::{Oracle, Window, in_windows, json_rows},
    read,
};

/// How far rows stray from order.
const DISORDER_MS: u64 = 3_000;
/// By how much a few rows stray.
const STRAY_MS: u64 = 20_000;
const FIRST_MS: i64 = 1_714_982_400_000;
const ROWS: usize = 60_000;
/// How many rows of a file stand at its end though they are its first ones.
const LATE_ROWS: usize = 40;

/// Where the process is made to die.
const FAULT_POINTS: [&str; 10] = [
    "barrier-injected",
    "snapshot-frozen",
    "sst-ingested",
    "sink-staged",
    "sink-prepared",
    "mid-upload",
    "before-pointer",
    "after-pointer",
    "mid-commit",
    "after-recover",
];

/// A transform: its name, its Window or time, its SELECT, and the SELECT that an oracle gets instead, over `t`, or over the
/// table of its window's rows.
struct Case {
    name: &'static str,
    by: &'static str,
    sql: &'static str,
    oracle: &'static str,
}

const PLAIN: [Case; 4] = [
    Case {
        name: "both",
        by: "",
        sql: "SELECT id, v FROM t WHERE g = 0 UNION ALL SELECT id, -v AS v FROM t WHERE g >= 2",
        oracle: "SELECT id, v FROM t WHERE g = 0 UNION ALL SELECT id, -v AS v FROM t WHERE g >= 2",
    },
    Case {
        name: "tagged",
        by: "",
        sql: "SELECT id, unnest(tags) AS tag FROM t",
        oracle: "SELECT id, unnest(tags) AS tag FROM t",
    },
    Case {
        name: "parsed",
        by: "",
        sql: "SELECT id, json_get_int(doc, 'm', 'n') AS n, json_get_str(doc, 's') AS s, json_length(doc, 'l') AS l FROM t \
              WHERE json_contains(doc, 's')",
        oracle: "SELECT id, json_get_int(doc, 'm', 'n') AS n, json_get_str(doc, 's') AS s, json_length(doc, 'l') AS l FROM t \
                 WHERE json_contains(doc, 's')",
    },
    Case {
        name: "reckoned",
        by: "",
        sql: "SELECT id, CASE WHEN v > 0 THEN upper(k) ELSE k || '-' || g END AS word, v / 7 AS q, x * 0.5 AS half FROM t",
        oracle: "SELECT id, CASE WHEN v > 0 THEN upper(k) ELSE k || '-' || g END AS word, v / 7 AS q, x * 0.5 AS half FROM t",
    },
];

const WINDOWED: [Case; 8] = [
    Case {
        name: "exact",
        by: "tumbling",
        sql: "SELECT k, window_start, median(x) AS mid, percentile_cont(0.9) WITHIN GROUP (ORDER BY x) AS p90, \
              array_sort(array_agg(id)) AS ids, stddev(x) AS spread, approx_distinct(v) AS about, \
              first_value(id ORDER BY ts) AS first, last_value(id ORDER BY ts) AS last, count(DISTINCT g) AS gs, \
              string_agg(k || id, ' ' ORDER BY id) AS text, nth_value(id, -2 ORDER BY id) AS before_last, \
              (array_agg(id ORDER BY id))[3] AS third FROM t GROUP BY k",
        oracle: "SELECT k, window_start, median(x) AS mid, percentile_cont(0.9) WITHIN GROUP (ORDER BY x) AS p90, \
                 array_agg(id ORDER BY id) AS ids, stddev(x) AS spread, approx_distinct(v) AS about, \
                 first_value(id ORDER BY ts) AS first, last_value(id ORDER BY ts) AS last, count(DISTINCT g) AS gs, \
                 string_agg(k || id, ' ' ORDER BY id) AS text, nth_value(id, -2 ORDER BY id) AS before_last, \
                 nth_value(id, 3 ORDER BY id) AS third FROM tumbling GROUP BY k, window_start",
    },
    Case {
        name: "keyless",
        by: "hopping",
        sql: "SELECT window_start, window_end, count(*) AS n, sum(v) FILTER (WHERE g = 1) AS some, \
              max(x) - min(x) + count(*) * 2 AS mix, first_value(id ORDER BY ts) AS first, \
              string_agg(k, '' ORDER BY x, ts) FILTER (WHERE g = 1) AS text, nth_value(id, 5 ORDER BY x, ts) AS fifth \
              FROM t HAVING count(*) > 20",
        oracle: "SELECT window_start, window_end, count(*) AS n, sum(v) FILTER (WHERE g = 1) AS some, \
                 max(x) - min(x) + count(*) * 2 AS mix, first_value(id ORDER BY ts) AS first, \
                 string_agg(k, '' ORDER BY x, ts) FILTER (WHERE g = 1) AS text, nth_value(id, 5 ORDER BY x, ts) AS fifth FROM hopping \
                 GROUP BY window_start, window_end HAVING count(*) > 20",
    },
    Case {
        name: "expressed",
        by: "tumbling",
        sql: "SELECT upper(k) AS name, v % 3 AS rest, window_start, count(*) AS n FROM t GROUP BY upper(k), v % 3",
        oracle: "SELECT upper(k) AS name, v % 3 AS rest, window_start, count(*) AS n FROM tumbling \
                 GROUP BY upper(k), v % 3, window_start",
    },
    Case {
        name: "best",
        by: "tumbling",
        sql: "SELECT window_start, g, place, k, n FROM (SELECT window_start, g, k, count(*) AS n, \
              ROW_NUMBER() OVER (PARTITION BY window_start, g ORDER BY count(*) DESC, k) AS place FROM t GROUP BY g, k) \
              WHERE place <= 2",
        oracle: "SELECT window_start, g, place, k, n FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, g \
                 ORDER BY n DESC, k) AS place FROM (SELECT window_start, g, k, count(*) AS n FROM tumbling \
                 GROUP BY window_start, g, k)) WHERE place <= 2",
    },
    Case {
        name: "visits",
        by: "session",
        sql: "SELECT k, window_start, window_end, count(*) AS n, sum(v) AS total, median(x) AS mid, \
              string_agg(k || g, ',' ORDER BY ts) AS text, nth_value(id, 2 ORDER BY ts) AS second FROM t GROUP BY k",
        oracle: "SELECT k, window_start, window_end, count(*) AS n, sum(v) AS total, median(x) AS mid, \
                 string_agg(k || g, ',' ORDER BY ts) AS text, nth_value(id, 2 ORDER BY ts) AS second FROM session \
                 GROUP BY k, window_start, window_end",
    },
    Case {
        name: "busiest",
        by: "session",
        sql: "SELECT k, g, count(*) AS n FROM t GROUP BY k, g ORDER BY n DESC, k, g LIMIT 1",
        oracle: "SELECT k, g, n FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY n DESC, k, g) \
                 AS place FROM (SELECT k, g, window_start, window_end, count(*) AS n FROM visits GROUP BY k, g, window_start, window_end)) \
                 WHERE place = 1",
    },
    Case {
        name: "smooth",
        by: "rolling",
        sql: "SELECT k, ts, id, avg(x) AS mean, max(v) AS top, count(*) AS n, percentile_cont(0.9) WITHIN GROUP (ORDER BY x) AS p90, \
              nth_value(id, 2 ORDER BY x, ts) AS second, \
              string_agg(k || id, ',' ORDER BY x, ts) AS text FROM t GROUP BY k",
        oracle: "",
    },
    Case {
        name: "tens",
        by: "ten",
        sql: "SELECT k, window_start, sum(n) AS n, sum(total) AS total, max(top) AS top FROM ones GROUP BY k",
        oracle: "SELECT k, window_start, count(*) AS n, sum(v) AS total, max(x) AS top FROM ten GROUP BY k, window_start",
    },
];

const RUNNING: &str = "SELECT k, g, count(*) AS n, sum(v) AS total, median(x) AS mid, nth_value(id, 3 ORDER BY x, ts) AS third, \
                       string_agg(k || id, ',' ORDER BY x, ts) FILTER (WHERE v > 480) AS text FROM t GROUP BY k, g";

const WINDOWS: [(&str, &str); 6] = [
    ("tumbling", "tumbling: {size: 5s}"),
    ("hopping", "hopping: {size: 6s, slide: 2s}"),
    ("session", "session: {gap: 2s}"),
    ("rolling", "rolling: {range: 3s}"),
    ("one", "tumbling: {size: 1s}"),
    ("ten", "tumbling: {size: 10s}"),
];

/// Rows in the order in which they come: no two have the same `ts`.
fn rows(seed: &mut Seed) -> Vec<String> {
    let mut now_ms = FIRST_MS;
    let mut rows: Vec<(i64, String)> = Vec::new();
    for id in 0..ROWS {
        now_ms += if seed.one_in(400) { seed.between(2_000, 20_000) } else { seed.between(1, 12) };
        let v = if seed.one_in(20) { "null".to_owned() } else { seed.between(-500, 500).to_string() };
        let (k, g, x) = (seed.below(9), seed.below(4), seed.between(-4_000, 4_000) as f64 / 8.0);
        let tags: Vec<String> = (0..seed.below(4)).map(|tag| format!("\"tag {tag}\"")).collect();
        let doc = if seed.one_in(3) {
            format!("{{\"m\":{{\"n\":{v}}}}}")
        } else {
            format!("{{\"s\":\"ü {id}\",\"l\":[1,2],\"m\":{{\"n\":{id}}}}}")
        };
        let mut line = String::new();
        let _ = write!(line, "{{\"ts\":{now_ms},\"id\":{id},\"k\":\"k{k}\",\"g\":{g},\"v\":{v},\"x\":{x},");
        let _ = write!(line, "\"tags\":[{}],\"doc\":{doc}}}", tags.join(","));
        let behind_ms = if seed.one_in(300) { STRAY_MS } else { seed.below(DISORDER_MS) };
        rows.push((now_ms + behind_ms as i64, line));
    }
    rows.sort();
    rows.into_iter().map(|(_, line)| line).collect()
}

/// The rows as a table for the oracle.
fn table(lines: &[String]) -> RecordBatch {
    let tags = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    let schema = Schema::new(vec![
        Field::new("ts_ms", DataType::Int64, true),
        Field::new("id", DataType::Int64, true),
        Field::new("k", DataType::Utf8, true),
        Field::new("g", DataType::Int64, true),
        Field::new("v", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
        Field::new("tags", tags, true),
        Field::new("doc", DataType::Utf8, true),
    ]);
    // What is in `doc` is text to the oracle.
    let quoted = lines.iter().map(|line| {
        let (head, doc) = line.split_once("\"doc\":").unwrap();
        let doc = serde_json::to_string(&doc[..doc.len() - 1]).unwrap();
        format!("{}\"doc\":{doc}}}\n", head.replacen("\"ts\":", "\"ts_ms\":", 1))
    });
    let all = json_rows(&quoted.collect::<String>(), Arc::new(schema));
    let ts = "to_timestamp_micros(ts_ms * 1000) AS ts";
    Oracle::new().with("t", all).batch(&format!("SELECT {ts}, id, k, g, v, x, tags, doc FROM t"))
}

const COLUMNS: &str = "      columns:
        - {name: ts, type: TIMESTAMP}
        - {name: id, type: BIGINT}
        - {name: k, type: VARCHAR}
        - {name: g, type: BIGINT}
        - {name: v, type: BIGINT}
        - {name: x, type: DOUBLE}
        - {name: tags, type: 'VARCHAR[]'}
        - {name: doc, type: JSON}
";

fn manifests() -> String {
    let mut transforms = String::new();
    let mut outputs = String::new();
    let mut sinks = String::new();
    let mut output = |name: &str, from: &str, to: &str| {
        let _ = writeln!(outputs, "    - {{from: {from}, sink: {name}}}");
        sinks += &manifest::sink(name, to);
    };
    let json = |name: &str| format!("file: {{path: out/{name}, format: {{json: {{}}}}}}");
    let own = [
        (
            "ones",
            "window: one, ",
            "SELECT k, window_start, count(*) AS n, sum(v) AS total, max(x) AS top FROM t GROUP BY k",
        ),
        ("firsts", "within: 10s, ", "SELECT DISTINCT ON (k, g) ts, id, k, g FROM t"),
        ("running", "emitEvery: 50ms, ", RUNNING),
        ("strict", "window: strict, ", "SELECT k, window_start, count(*) AS n FROM u GROUP BY k"),
        (
            "mended",
            "window: lenient, ",
            "SELECT k, window_start, window_pane, count(*) AS n, sum(v) AS total, median(x) AS mid FROM u GROUP BY k",
        ),
    ];
    for (name, by, sql) in own {
        let _ = writeln!(transforms, "    - {{name: {name}, {by}sql: \"{sql}\"}}");
        output(name, name, &json(name));
    }
    for case in PLAIN.iter().chain(&WINDOWED) {
        let window = if case.by.is_empty() { String::new() } else { format!("window: {}, ", case.by) };
        let _ = writeln!(transforms, "    - {{name: {}, {window}sql: \"{}\"}}", case.name, case.sql);
        output(case.name, case.name, &json(case.name));
    }
    output("late", "strict.late", &json("late"));
    output("letters", "bad.errors", "parquet: {uri: out/letters}");
    output("good", "bad", &json("good"));
    for (name, spec) in WINDOWS.into_iter().chain([
        ("strict", "tumbling: {size: 1s}\n  lateRows: SideOutput"),
        ("lenient", "tumbling: {size: 5s}\n  allowedLateness: 1h"),
    ]) {
        sinks += &manifest::window(name, spec);
    }
    format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: transforms}}
spec:
  parallelism: 2
  checkpoints: {{interval: 60ms, minPause: 10ms}}
  sources:
    - name: t
      file: {{paths: [in/*.ndjson]}}
      format: {{json: {{}}}}
{COLUMNS}      eventTime: {{column: ts, maxOutOfOrderness: {STRAY_MS}ms}}
    - name: u
      file: {{paths: [late/*.ndjson]}}
      format: {{json: {{}}}}
{COLUMNS}      eventTime: {{column: ts}}
    - name: bad
      file: {{paths: [bad/rows.ndjson]}}
      format: {{json: {{}}}}
      columns: [{{name: id, type: BIGINT}}]
      onError: DeadLetter
  transforms:
{transforms}  outputs:
{outputs}{sinks}"
    )
}

/// Of each key the first row, and no other until `within` is over.
fn firsts(rows: &RecordBatch, within_ms: i64) -> Table {
    let column = |name: &str| rows.column_by_name(name).unwrap();
    let micros = arrow::compute::cast(column("ts"), &DataType::Int64).unwrap();
    let (micros, ids) = (micros.as_primitive::<Int64Type>(), column("id").as_primitive::<Int64Type>());
    let (keys, groups) = (column("k").as_string::<i32>(), column("g").as_primitive::<Int64Type>());
    let mut order: Vec<usize> = (0..rows.num_rows()).collect();
    order.sort_by_key(|&row| micros.value(row));
    let mut last: BTreeMap<(&str, i64), i64> = BTreeMap::new();
    let mut kept = Table::default();
    for row in order {
        let (key, at) = ((keys.value(row), groups.value(row)), micros.value(row));
        if last.get(&key).is_none_or(|last| at - last >= within_ms * 1000) {
            last.insert(key, at);
            let values = [
                ("ts", Cell::Time(at * 1000)),
                ("id", Cell::Int(ids.value(row))),
                ("k", Cell::Text(key.0.to_owned())),
                ("g", Cell::Int(key.1)),
            ];
            kept.rows.push(values.map(|(name, value)| (name.to_owned(), value)).into());
        }
    }
    kept
}

/// A bad line: its bytes, and where it stands.
type BadLine = (Vec<u8>, i64);

/// Lines of which some are no rows: their bytes, the bad ones, and how many are good.
fn bad_lines(seed: &mut Seed) -> (Vec<u8>, Vec<BadLine>, i64) {
    let (mut bytes, mut bad, mut good) = (Vec::new(), Vec::new(), 0);
    for id in 0..20_000 {
        if seed.one_in(200) {
            let mut raw = b"{\"id\":".to_vec();
            raw.extend((0..seed.below(40)).map(|_| match seed.below(256) as u8 {
                b'\n' | b'\r' => 0xff,
                byte => byte,
            }));
            raw.push(b'!');
            bad.push((raw.clone(), bytes.len() as i64));
            bytes.extend(raw);
        } else {
            good += 1;
            bytes.extend(format!("{{\"id\":{id}}}").bytes());
        }
        bytes.extend(if seed.one_in(10) { &b"\r\n"[..] } else { b"\n" });
    }
    (bytes, bad, good)
}

#[test]
fn every_transform_gives_what_an_oracle_gives_however_often_the_process_is_killed() {
    let mut seed = Seed::of_test("transforms");
    let workspace = Workspace::new();
    let lines = rows(&mut seed);
    for (number, name) in ["a", "b"].into_iter().enumerate() {
        let of_file: Vec<&str> = lines.iter().skip(number).step_by(2).map(String::as_str).collect();
        workspace.write(format!("in/{name}.ndjson"), of_file.join("\n") + "\n");
        // The first rows come last, so that some are late wherever the file's batches end.
        let (first, rest) = of_file.split_at(LATE_ROWS);
        workspace.write(format!("late/{name}.ndjson"), [rest, first].concat().join("\n") + "\n");
    }
    let (bytes, bad, good) = bad_lines(&mut seed);
    workspace.write("bad/rows.ndjson", bytes);
    workspace.write("all.yaml", manifests());

    let mut deaths = Vec::new();
    for turn in 0..8 {
        // Each run comes by the pointer at least once.
        let point = if turn == 0 { "after-pointer" } else { *seed.pick(&FAULT_POINTS) };
        let hit = if turn == 0 { 1 } else { 1 + seed.below(3) };
        let run = Millrace::run(&workspace, "all.yaml").env("MILLRACE_FAULT_POINT", &format!("{point}:{hit}"));
        let finished = run.finish();
        if finished.code() == Some(0) {
            break;
        }
        assert_eq!(finished.signal(), Some(9), "{}", finished.stderr);
        deaths.push(format!("{point}:{hit}"));
    }
    println!("died at {deaths:?}");
    assert!(!deaths.is_empty(), "nothing was tried");
    Millrace::run(&workspace, "all.yaml").finish().expect_success();
    let found = |name: &str| read::folder(&workspace.join("out").join(name));

    let t = table(&lines);
    let seconds = Duration::from_secs;
    let oracle = Oracle::new()
        .with("t", t.clone())
        .with("tumbling", in_windows(&t, "ts", &[], Window::Tumbling(seconds(5))))
        .with("hopping", in_windows(&t, "ts", &[], Window::Hopping { size: seconds(6), slide: seconds(2) }))
        .with("session", in_windows(&t, "ts", &["k"], Window::Session(seconds(2))))
        .with("visits", in_windows(&t, "ts", &["k", "g"], Window::Session(seconds(2))))
        .with("ten", in_windows(&t, "ts", &[], Window::Tumbling(seconds(10))));
    for case in PLAIN.iter().chain(&WINDOWED).filter(|case| !case.oracle.is_empty()) {
        found(case.name).expect_close(&oracle.table(case.oracle), 1e-7, case.name);
    }
    let rolling = Oracle::new().with("r", in_windows(&t, "ts", &["k"], Window::Rolling(seconds(3))));
    let smooth = rolling.table(
        "SELECT k, window_end AS ts, of_row AS id, avg(x) AS mean, max(v) AS top, count(*) AS n, \
         percentile_cont(0.9) WITHIN GROUP (ORDER BY x) AS p90, nth_value(id, 2 ORDER BY x, ts) AS second, \
         string_agg(k || id, ',' ORDER BY x, ts) AS text FROM r GROUP BY k, window_end, of_row",
    );
    let ids: Vec<i64> = t.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec();
    let mut smooth = smooth;
    for row in &mut smooth.rows {
        let place = row["id"].int() as usize;
        row.insert("id".to_owned(), Cell::Int(ids[place]));
    }
    found("smooth").expect_close(&smooth, 1e-7, "smooth");
    found("firsts").expect_same(&firsts(&t, 10_000), "firsts");
    found("running").newest_by(&["k", "g"]).expect_close(&oracle.table(RUNNING), 1e-7, "running");

    // Rows in are rows in windows and late rows.
    let (strict, late) = (found("strict"), found("late"));
    assert!(late.len() >= LATE_ROWS, "{} rows are late", late.len());
    assert_eq!(strict.sum("n") + late.len() as i64, ROWS as i64);
    let late_ids: std::collections::BTreeSet<i64> = late.column("id").map(Cell::int).collect();
    assert_eq!(late_ids.len(), late.len(), "a late row is there twice");

    // The highest pane of a window is its result.
    let mut newest: BTreeMap<String, &millrace_tests::Row> = BTreeMap::new();
    let mended = found("mended");
    for row in &mended.rows {
        let newest = newest.entry(format!("{} {}", row["k"], row["window_start"])).or_insert(row);
        if row["window_pane"].int() > newest["window_pane"].int() {
            *newest = row;
        }
    }
    assert!(newest.len() < mended.len(), "nothing was mended");
    let newest = Table { rows: newest.into_values().cloned().collect() }.without(&["window_pane"]);
    newest.expect_close(
        &oracle.table(
            "SELECT k, window_start, count(*) AS n, sum(v) AS total, median(x) AS mid FROM tumbling GROUP BY k, window_start",
        ),
        1e-7,
        "mended",
    );

    assert_eq!(found("good").len() as i64, good);
    let letters = read::parquet_batch(&workspace.join("out/letters"));
    let (raw, place) = (letters.column_by_name("raw").unwrap(), letters.column_by_name("position").unwrap());
    let raw = arrow::compute::cast(raw, &DataType::Binary).unwrap();
    let place = place.as_primitive::<Int64Type>();
    let mut found: Vec<(Vec<u8>, i64)> =
        raw.as_binary::<i32>().iter().flatten().map(<[u8]>::to_vec).zip(place.values().iter().copied()).collect();
    found.sort_by_key(|(_, place)| *place);
    assert_eq!(found, bad, "the bytes and the places of the bad lines");
    let letters = Table::of_batches(&[letters]);
    assert!(letters.column("source").all(|source| source.to_string().contains("bad/rows.ndjson")));
    assert!(letters.column("reason").all(|reason| reason.to_string().len() > 8));
}
