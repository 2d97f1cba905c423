//! The Grafana dashboard names metrics that there are.

use std::{collections::BTreeSet, fs};

use millrace_tests::{Deadline, Millrace, Workspace, http, workspace::repository};
use serde_json::Value;

const DASHBOARD: &str = "charts/millrace/files/dashboards/millrace.json";

/// The names of our metrics in all queries.
fn named() -> BTreeSet<String> {
    let text = fs::read_to_string(repository().join(DASHBOARD)).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut found = BTreeSet::new();
    let panels = dashboard["panels"].as_array().unwrap();
    for query in panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten()) {
        let words = query["expr"].as_str().unwrap().split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        found.extend(words.filter(|word| word.starts_with("millrace_")).map(str::to_owned));
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

/// The names of the samples on a page of metrics, and of histograms.
fn on_page(page: &str) -> BTreeSet<String> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let mut names: BTreeSet<String> =
        lines.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect();
    // A family without samples yet is there as well.
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let Some((name, kind)) = line.split_once(' ') else { continue };
        match kind {
            "counter" => names.insert(format!("{}_total", name.trim_end_matches("_total"))),
            "histogram" => names.insert(format!("{name}_bucket")),
            _ => names.insert(name.to_owned()),
        };
    }
    names
}

#[test]
fn the_dashboard_names_metrics_that_a_runtime_has() {
    let workspace = Workspace::new();
    let run = Millrace::run(&workspace, "examples/follow").args(["--listen", "127.0.0.1:0"]).start();
    let address = http::address(&run);
    Deadline::secs(60).wait_for("metrics of the pipeline", || {
        let page = http::get(address, "/metrics").body;
        let there = on_page(&page);
        let named = named();
        let missing: Vec<&String> =
            named.iter().filter(|name| !name.starts_with("millrace_operator_") && !there.contains(*name)).collect();
        missing.is_empty().then_some(())
    });
}

#[test]
fn the_dashboard_names_metrics_that_an_operator_registers() {
    // A family without samples, of errors say, is on no page.
    let source = fs::read_to_string(repository().join("operator/src/metrics.rs")).unwrap();
    for name in named().iter().filter_map(|name| name.strip_prefix("millrace_operator_")) {
        let name = name.trim_end_matches("_bucket").trim_end_matches("_seconds").trim_end_matches("_total");
        assert!(source.contains(&format!("\"{name}\"")), "{name}");
    }
}
