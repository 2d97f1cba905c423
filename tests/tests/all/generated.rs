//! Pipelines made up from a seed, against DataFusion over the same rows.

use std::{fmt::Write, sync::Arc, time::Duration};

use arrow::datatypes::{DataType, Field, Schema};
use millrace_tests::{
    Millrace, Seed, Workspace,
    oracle::{Oracle, Window, in_windows, json_rows},
    read,
};

/// How far rows stray from order.
const DISORDER_MS: i64 = 3_000;

/// Rows in NDJSON: `ts`, `k` (null at times), `g`, `v` (null at times), `x`.
fn rows(seed: &mut Seed, count: usize) -> String {
    let mut text = String::new();
    let mut now_ms = 1_714_982_400_000;
    for _ in 0..count {
        now_ms += if seed.one_in(50) { seed.between(0, 15_000) } else { seed.between(0, 120) };
        let ts = now_ms - seed.between(0, DISORDER_MS);
        let k = if seed.one_in(40) { "null".to_owned() } else { format!("\"k{}\"", seed.below(13)) };
        let v = if seed.one_in(20) { "null".to_owned() } else { seed.between(-1000, 1000).to_string() };
        let (g, x) = (seed.below(4), seed.between(-40_000, 40_000));
        writeln!(text, "{{\"ts\":{ts},\"k\":{k},\"g\":{g},\"v\":{v},\"x\":{}}}", x as f64 / 8.0).unwrap();
    }
    text
}

/// One made-up pipeline.
#[derive(Debug)]
struct Made {
    filter: String,
    keys: Vec<&'static str>,
    select: Vec<String>,
    having: String,
    window: Window,
    parallelism: u64,
    files: u64,
}

const AGGREGATES: [&str; 26] = [
    "count(*)",
    "count(v)",
    "sum(v)",
    "min(v)",
    "max(v)",
    "avg(v)",
    "sum(x)",
    "min(x)",
    "max(x)",
    "avg(x)",
    "min(k)",
    "max(k)",
    "count(*) FILTER (WHERE v > 0)",
    "sum(v) FILTER (WHERE g = 1)",
    "avg(x) FILTER (WHERE v IS NOT NULL)",
    "stddev(x)",
    "var_pop(v)",
    "count(DISTINCT v)",
    "bool_or(v > 900)",
    "sum(v * 2 + g) + count(*)",
    // Rows that the order holds equal are equal in what is asked of them.
    "array_agg(x ORDER BY v DESC NULLS LAST, x)",
    "string_agg(k, '-' ORDER BY x DESC, k)",
    "string_agg(DISTINCT k, ',' ORDER BY k DESC) FILTER (WHERE g > 1)",
    "first_value(k ORDER BY ts, x, k)",
    "nth_value(v, 3 ORDER BY ts DESC, x, v)",
    "nth_value(k, -2 ORDER BY x, k) FILTER (WHERE v > 0)",
];

const FILTERS: [&str; 6] =
    ["true", "v > 0", "g <> 2 AND x < 3000", "k IS NOT NULL", "k LIKE '%1%' OR v IS NULL", "abs(v) % 7 < 5"];

fn made(seed: &mut Seed) -> Made {
    let millis = Duration::from_millis;
    let window = match seed.below(4) {
        0 => Window::Tumbling(millis(*seed.pick(&[700, 1_000, 5_000, 60_000]))),
        1 => {
            let slide = millis(*seed.pick(&[500, 1_000, 2_500]));
            Window::Hopping { size: slide * *seed.pick(&[1, 2, 4, 10]), slide }
        }
        2 => Window::Session(millis(*seed.pick(&[300, 2_000, 8_000]))),
        _ => Window::Rolling(millis(*seed.pick(&[1_000, 10_000]))),
    };
    let keys = match window {
        Window::Rolling(_) => vec![*seed.pick(&["k", "g"])],
        _ => seed.some(&["k", "g"]).into_iter().copied().collect(),
    };
    // The planner takes no aggregate in an order over a range, and the oracle takes one order a SELECT.
    let mut orders = if matches!(window, Window::Rolling(_)) { 0 } else { 1 };
    let is_taken = |aggregate: &&&str| {
        let is_ordered = aggregate.contains("ORDER BY");
        let is_taken = !is_ordered || orders > 0;
        orders -= usize::from(is_ordered && is_taken);
        is_taken
    };
    let select = seed.some(&AGGREGATES).into_iter().filter(is_taken);
    let mut select: Vec<String> = select.map(|&aggregate| aggregate.to_owned()).collect();
    select.push("count(*)".to_owned());
    for (number, aggregate) in select.iter_mut().enumerate() {
        let _ = write!(aggregate, " AS a{number}");
    }
    let having = match window {
        Window::Rolling(_) => "",
        _ => *seed.pick(&["", "", " HAVING count(*) > 3"]),
    };
    Made {
        filter: (*seed.pick(&FILTERS)).to_owned(),
        keys,
        select,
        having: having.to_owned(),
        window,
        parallelism: 1 + seed.below(3),
        files: 1 + seed.below(3),
    }
}

impl Made {
    fn spec_of_window(&self) -> String {
        match self.window {
            Window::Tumbling(size) => format!("tumbling: {{size: {}ms}}", size.as_millis()),
            Window::Hopping { size, slide } => {
                format!("hopping: {{size: {}ms, slide: {}ms}}", size.as_millis(), slide.as_millis())
            }
            Window::Session(gap) => format!("session: {{gap: {}ms}}", gap.as_millis()),
            Window::Rolling(range) => format!("rolling: {{range: {}ms}}", range.as_millis()),
        }
    }

    /// The select list without and with the columns that an oracle has to group by.
    fn list(&self) -> String {
        let bounds: &[&str] = match self.window {
            Window::Rolling(_) => &["ts"],
            _ => &["window_start", "window_end"],
        };
        let columns = self.keys.iter().chain(bounds).map(|&column| column.to_owned());
        columns.chain(self.select.iter().cloned()).collect::<Vec<_>>().join(", ")
    }

    fn manifests(&self) -> String {
        let group_by = if self.keys.is_empty() { String::new() } else { format!(" GROUP BY {}", self.keys.join(", ")) };
        format!(
            "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: made}}
spec:
  parallelism: {}
  sources:
    - name: t
      file: {{paths: [\"in/*.ndjson\"]}}
      format: {{json: {{}}}}
      columns:
        - {{name: ts, type: TIMESTAMP}}
        - {{name: k, type: VARCHAR}}
        - {{name: g, type: BIGINT}}
        - {{name: v, type: BIGINT}}
        - {{name: x, type: DOUBLE}}
      eventTime: {{column: ts, maxOutOfOrderness: {}ms}}
  transforms:
    - name: made
      window: w
      sql: \"SELECT {} FROM t WHERE {}{group_by}{}\"
  outputs:
    - {{from: made, sink: out}}
---
apiVersion: millrace.dev/v1alpha1
kind: Window
metadata: {{name: w}}
spec:
  {}
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {{name: out}}
spec:
  file: {{path: out, format: {{json: {{}}}}}}
",
            self.parallelism,
            DISORDER_MS,
            self.list(),
            self.filter,
            self.having,
            self.spec_of_window()
        )
    }

    fn oracle_query(&self) -> String {
        let mut group_by: Vec<&str> = self.keys.clone();
        group_by.extend(["window_start", "window_end"]);
        let mut list = self.list();
        if matches!(self.window, Window::Rolling(_)) {
            group_by.push("of_row");
            list = list.replacen("ts,", "window_end AS ts,", 1);
        }
        format!("SELECT {list} FROM windowed GROUP BY {}{}", group_by.join(", "), self.having)
    }
}

#[test]
fn pipelines_made_from_a_seed_give_what_datafusion_gives() {
    let mut seed = Seed::of_test("generated pipelines");
    let count = std::env::var("MILLRACE_PIPELINES").ok().and_then(|text| text.parse().ok()).unwrap_or(24);
    for number in 0..count {
        let mut seed = seed.fork();
        let made = made(&mut seed);
        println!("{number}: {made:?}");
        let workspace = Workspace::new();
        let text = rows(&mut seed, 4_000);

        // The files share the time, and each strays from order no more than the whole.
        let mut files = vec![String::new(); made.files as usize];
        for line in text.lines() {
            let file = seed.below(made.files) as usize;
            files[file].push_str(line);
            files[file].push('\n');
        }
        for (number, content) in files.iter().enumerate() {
            workspace.write(format!("in/{number}.ndjson"), content);
        }
        workspace.write("made.yaml", made.manifests());
        Millrace::run(&workspace, "made.yaml").finish().expect_success();

        let schema = Schema::new(vec![
            Field::new("ts_ms", DataType::Int64, true),
            Field::new("k", DataType::Utf8, true),
            Field::new("g", DataType::Int64, true),
            Field::new("v", DataType::Int64, true),
            Field::new("x", DataType::Float64, true),
        ]);
        let all = json_rows(&text.replace("{\"ts\":", "{\"ts_ms\":"), Arc::new(schema));
        let kept = Oracle::new()
            .with("t", all)
            .batch(&format!("SELECT to_timestamp_micros(ts_ms * 1000) AS ts, k, g, v, x FROM t WHERE {}", made.filter));
        let oracle = Oracle::new().with("windowed", in_windows(&kept, "ts", &made.keys, made.window));
        read::folder(&workspace.join("out")).expect_close(
            &oracle.table(&made.oracle_query()),
            1e-7,
            &format!("pipeline {number}: {made:?}"),
        );
    }
}
