//! Pipelines made up from a seed, against DataFusion over the same rows.
//!
//! Rows come to a transform with a `window` in one of several ways ([`Front`]), and something is made of what it gives
//! ([`Top`]). Two dozen pipelines try each pair once; what stands in their SQL is drawn.

use std::{fmt::Write, iter, sync::Arc, time::Duration};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema},
};
use millrace_tests::{
    Millrace, Seed, Workspace, manifest,
    oracle::{Oracle, Window, first_of_each, in_windows, json_rows},
    read,
};

/// How far rows stray from order.
const DISORDER_MS: i64 = 3_000;
/// How many rows a pipeline reads.
const ROWS: usize = 4_000;

/// How the rows come to the transform with the window: as `ts`, `k`, `g`, `v` and `x`.
#[derive(Clone, Copy, Debug)]
enum Front {
    /// From the source.
    Source,
    /// From a transform that computes columns.
    Projection,
    /// From a subquery that computes columns.
    Subquery,
    /// From two sources.
    UnionOfSources,
    /// From several filters of a source.
    UnionOfFilters,
    /// From DISTINCT ON.
    Distinct,
}

/// What comes of the rows.
#[derive(Clone, Copy, Debug)]
enum Top {
    /// The aggregates of a window.
    Windows,
    /// The aggregates of a window over those of another.
    WindowsOfWindows,
    /// The first groups of each window.
    FirstGroups,
    /// The first rows of each window.
    FirstRows,
}

const FRONTS: [Front; 6] =
    [Front::Source, Front::Projection, Front::Subquery, Front::UnionOfSources, Front::UnionOfFilters, Front::Distinct];
const TOPS: [Top; 4] = [Top::Windows, Top::WindowsOfWindows, Top::FirstGroups, Top::FirstRows];

/// What `k`, `g`, `v` and `x` may be computed as. Sums of what `x` becomes are exact.
const COMPUTED: [&[&str]; 4] = [
    &[
        "k",
        "upper(k) AS k",
        "coalesce(k, 'nobody') AS k",
        "k || '-' || g AS k",
        "CASE WHEN g = 0 THEN 'none' ELSE k END AS k",
    ],
    &["g", "(g + 1) % 3 AS g", "CASE WHEN v IS NULL THEN 9 ELSE g END AS g", "character_length(k) AS g"],
    &[
        "v",
        "v * 2 - g AS v",
        "CASE WHEN x > 0 THEN v ELSE -v END AS v",
        "coalesce(v, g) AS v",
        "nullif(v % 5, 0) AS v",
        "CAST(x AS BIGINT) AS v",
    ],
    &["x", "x / 4 AS x", "x + g AS x", "CASE WHEN v > 0 THEN x END AS x", "abs(x) AS x"],
];

/// DISTINCT ON what, and `k` and `g`. What follows from the key and the time is the same in all rows of one time.
const DISTINCT: [(&[&str], &str); 3] =
    [(&["k", "g"], "k, g"), (&["k"], "k, character_length(k) AS g"), (&["g"], "'k' || g AS k, g")];
/// `v` and `x` of a row of DISTINCT ON.
const FROM_TIME: &str =
    "nullif(CAST(ts AS BIGINT) / 1000 % 21, 0) AS v, (CAST(ts AS BIGINT) / 1000 % 8001 - 4000) / 8.0 AS x";

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

/// Of the results of a window.
const AGGREGATES_OF_RESULTS: [&str; 13] = [
    "count(total)",
    "sum(total)",
    "min(n)",
    "max(total)",
    "avg(n)",
    "min(top)",
    "max(top)",
    "sum(n) FILTER (WHERE total > 0)",
    "count(DISTINCT n)",
    "sum(CASE WHEN top > 2000 THEN n ELSE 0 END)",
    "array_agg(n ORDER BY total, n)",
    "first_value(total ORDER BY n DESC, total)",
    "nth_value(n, 2 ORDER BY top, n)",
];

const FILTERS_OF_RESULTS: [&str; 5] = ["true", "n > 1", "total IS NOT NULL", "total % 2 = 0", "top > -1000"];

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

/// The rows as a table for the oracle.
fn table(text: &str) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("ts_ms", DataType::Int64, true),
        Field::new("k", DataType::Utf8, true),
        Field::new("g", DataType::Int64, true),
        Field::new("v", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
    ]);
    let all = json_rows(&text.replace("{\"ts\":", "{\"ts_ms\":"), Arc::new(schema));
    Oracle::new().with("t", all).batch("SELECT to_timestamp_micros(ts_ms * 1000) AS ts, k, g, v, x FROM t")
}

/// A transform of a made-up pipeline.
#[derive(Debug)]
struct Transform {
    name: &'static str,
    window: Option<Window>,
    within: Option<Duration>,
    sql: String,
}

/// How an oracle makes a table from those before it. Each has the rows' event times as `happened`.
#[derive(Debug)]
enum Work {
    /// By a query.
    Query(String),
    /// By a query over `windowed`, which is what another query gives in windows.
    InWindows { rows: String, keys: Vec<&'static str>, window: Window, query: String },
    /// Of what a query gives, the first row of each key within a time.
    First { rows: String, keys: Vec<&'static str>, within: Duration },
}

/// A made-up pipeline.
#[derive(Debug, Default)]
struct Made {
    sources: Vec<&'static str>,
    parallelism: u64,
    files: u64,
    transforms: Vec<Transform>,
    works: Vec<(&'static str, Work)>,
}

/// What a transform can group.
struct Groupable {
    table: &'static str,
    keys: Vec<&'static str>,
    /// What a rolling window's rows have as their time, and what that is at the end of the range.
    time: (&'static str, &'static str),
    aggregates: &'static [&'static str],
    always: &'static [&'static str],
    filters: &'static [&'static str],
}

/// GROUP BY under a window.
struct Grouped {
    keys: Vec<&'static str>,
    sql: String,
    work: Work,
}

/// A few of the aggregates, with their names.
fn some_aggregates(seed: &mut Seed, of: &'static [&'static str]) -> Vec<String> {
    // The oracle takes one order a SELECT.
    let mut orders = 1;
    let is_taken = |aggregate: &&&str| {
        let is_ordered = aggregate.contains("ORDER BY");
        let is_taken = !is_ordered || orders > 0;
        orders -= usize::from(is_ordered && is_taken);
        is_taken
    };
    let taken = seed.some(of).into_iter().filter(is_taken);
    taken.enumerate().map(|(number, aggregate)| format!("{aggregate} AS a{number}")).collect()
}

fn grouped(seed: &mut Seed, of: &Groupable, from: &str, window: Window, bounds: &[&str]) -> Grouped {
    let is_rolling = matches!(window, Window::Rolling(_));
    let keys = if is_rolling { vec![*seed.pick(&of.keys)] } else { seed.some(&of.keys).into_iter().copied().collect() };
    grouped_by(seed, of, from, window, bounds, keys)
}

fn grouped_by(
    seed: &mut Seed,
    of: &Groupable,
    from: &str,
    window: Window,
    bounds: &[&str],
    keys: Vec<&'static str>,
) -> Grouped {
    let is_rolling = matches!(window, Window::Rolling(_));
    let filter = *seed.pick(of.filters);
    let having = if is_rolling { "" } else { *seed.pick(&["", "", " HAVING count(*) > 3"]) };
    let mut aggregates = some_aggregates(seed, of.aggregates);
    aggregates.extend(of.always.iter().map(|&aggregate| aggregate.to_owned()));
    let list = |bounds: &[&str]| {
        let columns = keys.iter().chain(bounds).map(|&column| column.to_owned());
        columns.chain(aggregates.iter().cloned()).collect::<Vec<_>>().join(", ")
    };
    let (bounds, bounds_of_oracle) =
        if is_rolling { (vec![of.time.0], vec![of.time.1]) } else { (bounds.into(), bounds.into()) };
    let group_by = if keys.is_empty() { String::new() } else { format!(" GROUP BY {}", keys.join(", ")) };
    let sql = format!("SELECT {} FROM {from} WHERE {filter}{group_by}{having}", list(&bounds));

    let happened = if is_rolling { "window_end" } else { "window_end - INTERVAL '1 millisecond'" };
    let of_row =
        if is_rolling { &["window_start", "window_end", "of_row"][..] } else { &["window_start", "window_end"] };
    let group_by = keys.iter().chain(of_row).copied().collect::<Vec<_>>().join(", ");
    let list = list(&bounds_of_oracle);
    let work = Work::InWindows {
        rows: format!("SELECT * FROM {} WHERE {filter}", of.table),
        keys: keys.clone(),
        window,
        query: format!("SELECT {list}, {happened} AS happened FROM windowed GROUP BY {group_by}{having}"),
    };
    Grouped { keys, sql, work }
}

/// A window of any kind that is taken.
fn window(seed: &mut Seed, is_taken: impl Fn(Window) -> bool) -> Window {
    let millis = Duration::from_millis;
    let any = || match seed.below(4) {
        0 => Window::Tumbling(millis(*seed.pick(&[700, 1_000, 5_000, 60_000]))),
        1 => {
            let slide = millis(*seed.pick(&[500, 1_000, 2_500]));
            Window::Hopping { size: slide * *seed.pick(&[1, 2, 4, 10]), slide }
        }
        2 => Window::Session(millis(*seed.pick(&[300, 2_000, 8_000]))),
        _ => Window::Rolling(millis(*seed.pick(&[1_000, 10_000]))),
    };
    iter::repeat_with(any).find(|window| is_taken(*window)).expect("some window is taken")
}

/// Rows with computed columns.
fn computed(seed: &mut Seed, from: &str) -> String {
    let columns = COMPUTED.map(|column| *seed.pick(column)).join(", ");
    format!("SELECT ts, {columns} FROM {from} WHERE {}", seed.pick(&FILTERS))
}

/// Makes the table `front`. Says what to select from.
fn front(seed: &mut Seed, kind: Front, made: &mut Made) -> String {
    let union = |members: Vec<String>| members.join(" UNION ALL ");
    let (sql, is_transform) = match kind {
        Front::Source => {
            made.works.push(("front", Work::Query("SELECT *, ts AS happened FROM t".to_owned())));
            return "t".to_owned();
        }
        Front::Projection => (computed(seed, "t"), true),
        Front::Subquery => (computed(seed, "t"), false),
        Front::UnionOfSources => {
            made.sources.push("u");
            (union(vec![computed(seed, "t"), computed(seed, "u")]), seed.one_in(2))
        }
        Front::UnionOfFilters => {
            let members = 2 + seed.below(2);
            (union((0..members).map(|_| computed(seed, "t")).collect()), seed.one_in(2))
        }
        Front::Distinct => {
            let (keys, texts) = *seed.pick(&DISTINCT);
            let within = Duration::from_millis(*seed.pick(&[200, 1_000, 5_000]));
            let rows = format!("ts, {texts}, {FROM_TIME} FROM t WHERE {}", seed.pick(&FILTERS));
            let sql = format!("SELECT DISTINCT ON ({}) {rows}", keys.join(", "));
            made.transforms.push(Transform { name: "front", window: None, within: Some(within), sql });
            let rows = format!("SELECT ts AS happened, {rows}");
            made.works.push(("front", Work::First { rows, keys: keys.to_vec(), within }));
            return "front".to_owned();
        }
    };
    made.works.push(("front", Work::Query(format!("SELECT *, ts AS happened FROM ({sql})"))));
    if !is_transform {
        return format!("({sql})");
    }
    made.transforms.push(Transform { name: "front", window: None, within: None, sql });
    "front".to_owned()
}

/// The first rows of each window, of which the oracle has all as a table with `began` and `ended`: by ORDER BY … LIMIT,
/// or by ROW_NUMBER(). `order` has no ties but between rows that are the same. Gives the SQL and the oracle's query.
fn ranked(
    seed: &mut Seed,
    inner: &str,
    table: &str,
    order: &str,
    partitions: &[&str],
    rests: &[&str],
) -> (String, String) {
    let most = 1 + seed.below(4);
    let numbered = |partition_by: &str, place: &str| {
        format!(
            "SELECT *, ROW_NUMBER() OVER (PARTITION BY began, ended{partition_by} ORDER BY {order}) AS {place} \
             FROM {table}"
        )
    };
    if seed.one_in(2) {
        // What is selected from a table or a subquery can be ordered as it is.
        let sql = if inner.starts_with("SELECT") { inner.to_owned() } else { format!("SELECT * FROM {inner}") };
        let query = format!("SELECT * FROM ({}) WHERE unsaid <= {most}", numbered("", "unsaid"));
        return (format!("{sql} ORDER BY {order} LIMIT {most}"), query);
    }
    let inner = if inner.starts_with("SELECT") { format!("({inner})") } else { inner.to_owned() };
    let bound = match seed.below(4) {
        0 => format!("place <= {most}"),
        1 => format!("place < {}", most + 1),
        2 => format!("{most} >= place"),
        _ => format!("place = {most}"),
    };
    let condition = format!("{bound}{}", seed.pick(rests));
    let partition_by = *seed.pick(partitions);
    let over = if partition_by.is_empty() { String::new() } else { format!("PARTITION BY {partition_by} ") };
    let sql = format!(
        "SELECT * FROM (SELECT *, ROW_NUMBER() OVER ({over}ORDER BY {order}) AS place FROM {inner}) WHERE {condition}"
    );
    let within = if partition_by.is_empty() { String::new() } else { format!(", {partition_by}") };
    (sql, format!("SELECT * FROM ({}) WHERE {condition}", numbered(&within, "place")))
}

/// These columns, each in a direction of its own.
fn in_directions(seed: &mut Seed, columns: &[&str]) -> String {
    let directions = ["", "", " DESC", " DESC NULLS LAST", " NULLS FIRST"];
    columns.iter().map(|column| format!("{column}{}", seed.pick(&directions))).collect::<Vec<_>>().join(", ")
}

const BOUNDS: [&str; 2] = ["window_start AS began", "window_end AS ended"];

impl Made {
    fn up(seed: &mut Seed, kind: Front, top: Top) -> Self {
        let (parallelism, files) = (1 + seed.below(3), 1 + seed.below(3));
        let mut made = Self { sources: vec!["t"], parallelism, files, ..Self::default() };
        let from = front(seed, kind, &mut made);
        let rows = Groupable {
            table: "front",
            keys: vec!["k", "g"],
            time: ("ts", "window_end AS ts"),
            aggregates: &AGGREGATES,
            always: &["count(*) AS n", "sum(v) AS total", "max(x) AS top"],
            filters: &FILTERS,
        };
        match top {
            Top::Windows if seed.one_in(4) => made.distinct_in_windows(seed, &from),
            Top::Windows => {
                let window = window(seed, |_| true);
                let grouped = grouped(seed, &rows, &from, window, &["window_start", "window_end"]);
                made.push("made", Some(window), grouped.sql, grouped.work);
            }
            Top::WindowsOfWindows => made.windows_of_windows(seed, &rows, &from),
            Top::FirstGroups => made.first_groups(seed, &rows, &from),
            Top::FirstRows => made.first_rows(seed, &from),
        }
        made
    }

    fn push(&mut self, name: &'static str, window: Option<Window>, sql: String, work: Work) {
        self.transforms.push(Transform { name, window, within: None, sql });
        self.works.push((name, work));
    }

    /// SELECT DISTINCT, which gives a row once a window.
    fn distinct_in_windows(&mut self, seed: &mut Seed, from: &str) {
        let window = window(seed, |window| !matches!(window, Window::Rolling(_)));
        let keys: Vec<&'static str> = (*seed.pick(&[&["k"][..], &["g"], &["k", "g"], &["g", "v"]])).to_vec();
        let (list, filter) = (keys.join(", "), *seed.pick(&FILTERS));
        let work = Work::InWindows {
            rows: format!("SELECT * FROM front WHERE {filter}"),
            keys,
            window,
            query: format!("SELECT {list} FROM windowed GROUP BY {list}, window_start, window_end"),
        };
        self.push("made", Some(window), format!("SELECT DISTINCT {list} FROM {from} WHERE {filter}"), work);
    }

    fn windows_of_windows(&mut self, seed: &mut Seed, rows: &Groupable, from: &str) {
        let inner = window(seed, |_| true);
        let grouped_once = grouped(seed, rows, from, inner, &BOUNDS);
        let keys = grouped_once.keys.clone();
        self.push("made", Some(inner), grouped_once.sql, grouped_once.work);
        let time = match inner {
            Window::Rolling(_) => ("ts", "window_end AS ts"),
            _ => ("ended", "window_end + INTERVAL '1 millisecond' AS ended"),
        };
        let results = Groupable {
            table: "made",
            keys,
            time,
            aggregates: &AGGREGATES_OF_RESULTS,
            always: &["count(*) AS results", "sum(n) AS n"],
            filters: &FILTERS_OF_RESULTS,
        };
        let outer = window(seed, |outer| match outer {
            Window::Tumbling(_) | Window::Session(_) => true,
            // There are many results of hopping windows.
            Window::Hopping { .. } => !matches!(inner, Window::Hopping { .. }),
            Window::Rolling(_) => !results.keys.is_empty() && !matches!(inner, Window::Hopping { .. }),
        });
        let grouped = grouped(seed, &results, "made", outer, &["window_start", "window_end"]);
        self.push("again", Some(outer), grouped.sql, grouped.work);
    }

    fn first_groups(&mut self, seed: &mut Seed, rows: &Groupable, from: &str) {
        let window = window(seed, |window| !matches!(window, Window::Rolling(_)));
        let keys: Vec<&'static str> = (*seed.pick(&[&["k"][..], &["g"], &["k", "g"]])).to_vec();
        let grouped = grouped_by(seed, rows, from, window, &BOUNDS, keys);
        let measure = *seed.pick(&["n", "total", "top"]);
        let order = in_directions(seed, &[&[measure][..], &grouped.keys].concat());
        let partitions = ["", "n % 3", grouped.keys[0]];
        let rests = ["", "", " AND total IS NOT NULL", " AND n > 2"];
        // Which groups' sessions are of one window is known only where they are grouped.
        let is_behind = !matches!(window, Window::Session(_)) && seed.one_in(2);
        let inner = if is_behind { "made" } else { &grouped.sql };
        let (sql, query) = ranked(seed, inner, "made", &order, &partitions, &rests);
        if is_behind {
            self.push("made", Some(window), grouped.sql, grouped.work);
        } else {
            self.works.push(("made", grouped.work));
        }
        self.push("ranked", (!is_behind).then_some(window), sql, Work::Query(query));
    }

    fn first_rows(&mut self, seed: &mut Seed, from: &str) {
        let window = window(seed, |window| matches!(window, Window::Tumbling(_)));
        let filter = *seed.pick(&FILTERS);
        let bounds = BOUNDS.join(", ");
        // The window's columns are those of a SELECT that reads no subquery.
        let (list, from) = match from.starts_with('(') {
            true => ("began, ended", from.replace("SELECT ts,", &format!("SELECT {bounds}, ts,"))),
            false => (&bounds[..], from.to_owned()),
        };
        let mut columns = ["k", "g", "v", "x", "ts"];
        seed.shuffle(&mut columns);
        let order = in_directions(seed, &columns);
        let inner = format!("SELECT {list}, ts, k, g, v, x FROM {from} WHERE {filter}");
        let rests = ["", "", " AND v IS NOT NULL", " AND x > 0"];
        let (sql, query) = ranked(seed, &inner, "made", &order, &["", "k", "g", "v % 3"], &rests);
        let work = Work::InWindows {
            rows: format!("SELECT * FROM front WHERE {filter}"),
            keys: Vec::new(),
            window,
            query: format!("SELECT {bounds}, ts, k, g, v, x, happened FROM windowed"),
        };
        self.works.push(("made", work));
        self.push("ranked", Some(window), sql, Work::Query(query));
    }

    /// The transforms whose rows are compared.
    fn compared(&self) -> impl Iterator<Item = &'static str> {
        self.transforms.iter().map(|transform| transform.name).filter(|name| *name != "front")
    }

    fn manifests(&self) -> String {
        let [mut sources, mut transforms, mut outputs, mut others] = [const { String::new() }; 4];
        for source in &self.sources {
            let _ = write!(
                sources,
                "
    - name: {source}
      file: {{paths: [\"in/{source}-*.ndjson\"]}}
      format: {{json: {{}}}}
      columns:
        - {{name: ts, type: TIMESTAMP}}
        - {{name: k, type: VARCHAR}}
        - {{name: g, type: BIGINT}}
        - {{name: v, type: BIGINT}}
        - {{name: x, type: DOUBLE}}
      eventTime: {{column: ts, maxOutOfOrderness: {DISORDER_MS}ms}}"
            );
        }
        for Transform { name, window, within, sql } in &self.transforms {
            let window = window.map(|window| {
                others += &manifest::window(name, &spec_of(window));
                format!("window: {name}, ")
            });
            let within = within.map(|within| format!("within: {}ms, ", within.as_millis()));
            let (window, within) = (window.unwrap_or_default(), within.unwrap_or_default());
            let _ = write!(transforms, "\n    - {{name: {name}, {window}{within}sql: \"{sql}\"}}");
        }
        for name in self.compared() {
            let _ = write!(outputs, "\n    - {{from: {name}, sink: {name}}}");
            others += &manifest::sink(name, &format!("file: {{path: out/{name}, format: {{json: {{}}}}}}"));
        }
        format!(
            "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: made}}
spec:
  parallelism: {}
  sources:{sources}
  transforms:{transforms}
  outputs:{outputs}
{others}",
            self.parallelism
        )
    }
}

fn spec_of(window: Window) -> String {
    match window {
        Window::Tumbling(size) => format!("tumbling: {{size: {}ms}}", size.as_millis()),
        Window::Hopping { size, slide } => {
            format!("hopping: {{size: {}ms, slide: {}ms}}", size.as_millis(), slide.as_millis())
        }
        Window::Session(gap) => format!("session: {{gap: {}ms}}", gap.as_millis()),
        Window::Rolling(range) => format!("rolling: {{range: {}ms}}", range.as_millis()),
    }
}

/// The oracle with the table that comes of a work.
fn worked(oracle: Oracle, name: &str, work: &Work) -> Oracle {
    let made = match work {
        Work::Query(query) => oracle.batch(query),
        Work::InWindows { rows, keys, window, query } => {
            let windowed = in_windows(&oracle.batch(rows), "happened", keys, *window);
            Oracle::new().with("windowed", windowed).batch(query)
        }
        Work::First { rows, keys, within } => first_of_each(&oracle.batch(rows), "happened", keys, *within),
    };
    oracle.with(name, made)
}

#[test]
fn pipelines_made_from_a_seed_give_what_datafusion_gives() {
    let mut seed = Seed::of_test("generated pipelines");
    let pairs = FRONTS.len() * TOPS.len();
    let count = std::env::var("MILLRACE_PIPELINES").ok().and_then(|text| text.parse().ok()).unwrap_or(pairs);
    let mut compared = 0;
    for number in 0..count {
        let mut seed = seed.fork();
        let (kind, top) = (FRONTS[number % FRONTS.len()], TOPS[number / FRONTS.len() % TOPS.len()]);
        let made = Made::up(&mut seed, kind, top);
        println!("{number}: {kind:?} {top:?} {made:#?}");
        let workspace = Workspace::new();
        let mut oracle = Oracle::new();
        for source in &made.sources {
            let text = rows(&mut seed, ROWS / made.sources.len());
            // The files share the time, and each strays from order no more than the whole.
            let mut files = vec![String::new(); made.files as usize];
            for line in text.lines() {
                let file = seed.below(made.files) as usize;
                files[file].push_str(line);
                files[file].push('\n');
            }
            for (number, content) in files.iter().enumerate() {
                workspace.write(format!("in/{source}-{number}.ndjson"), content);
            }
            oracle = oracle.with(source, table(&text));
        }
        workspace.write("made.yaml", made.manifests());
        Millrace::run(&workspace, "made.yaml").finish().expect_success();

        for (name, work) in &made.works {
            oracle = worked(oracle, name, work);
        }
        for name in made.compared() {
            let expected = oracle.table(&format!("SELECT * FROM {name}")).without(&["happened", "unsaid"]);
            compared += expected.len();
            let what = format!("{name} of pipeline {number}: {made:#?}");
            read::folder(&workspace.join("out").join(name)).expect_close(&expected, 1e-7, &what);
        }
    }
    println!("{compared} rows were compared");
    assert!(count < pairs || compared > 100 * count, "{count} pipelines gave {compared} rows");
}
