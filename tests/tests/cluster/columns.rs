//! What kubectl shows of our kinds: columns, short names, the category, the scale, the manual.

use std::collections::BTreeSet;

use millrace_tests::{Deadline, cluster, cluster::Namespace, manifest};
use serde_json::Value;

/// A printed table: the header's cells, and the rows' by the columns at which the header's begin.
struct Printed {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Printed {
    fn of(text: &str) -> Self {
        let mut lines = text.lines();
        let head = lines.next().unwrap_or_default();
        // Three blanks part columns; a name may hold one.
        let mut starts = Vec::new();
        let letters = format!("   {head}");
        for (at, letter) in head.char_indices() {
            if letter != ' ' && &letters[at..at + 3] == "   " {
                starts.push(at);
            }
        }
        let cells = |line: &str| {
            let ends = starts.iter().skip(1).copied().chain([usize::MAX]);
            let cell = |(start, end): (&usize, usize)| {
                line.get(*start..end.min(line.len())).unwrap_or_default().trim().to_owned()
            };
            starts.iter().zip(ends).map(cell).collect::<Vec<String>>()
        };
        Self { header: cells(head), rows: lines.map(cells).collect() }
    }

    fn cell(&self, name: &str, column: &str) -> &str {
        let column = self.header.iter().position(|title| title == column).unwrap();
        let row = self.rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("there is no row {name}"));
        &row[column]
    }
}

fn printed(namespace: &Namespace<'_>, args: &[&str]) -> Printed {
    Printed::of(&namespace.kubectl(["get"].into_iter().chain(args.iter().copied())).run())
}

#[track_caller]
fn is_an_age(cell: &str) {
    let unit = cell.chars().last().unwrap_or(' ');
    assert!(cell.starts_with(|first: char| first.is_ascii_digit()) && "smhd".contains(unit), "{cell:?} is no age");
}

#[test]
fn a_printed_table_is_read_by_the_places_of_its_titles() {
    let text = "NAME   CHECKPOINT   CHECKPOINT AGE   LAG   AGE\na      7            3s                     1m\nb                                          2m\n";
    let printed = Printed::of(text);
    assert_eq!(printed.header, ["NAME", "CHECKPOINT", "CHECKPOINT AGE", "LAG", "AGE"]);
    assert_eq!(
        (printed.cell("a", "CHECKPOINT AGE"), printed.cell("a", "LAG"), printed.cell("b", "AGE")),
        ("3s", "", "2m")
    );
}

/// The columns of Pipelines in the states of `reasons.yaml`.
pub fn are_as_the_docs_say(namespace: &Namespace<'_>) {
    let header = ["NAME", "PHASE", "READY", "CHECKPOINT", "CHECKPOINT AGE", "LAG", "IN", "CHANGE", "AGE"];
    // Rates are told when they are next counted.
    let short = Deadline::secs(60).wait_for("a rate", || {
        let short = printed(namespace, &["pipelines"]);
        let rate = short.cell("running", "IN").trim_end_matches("/s").parse::<f64>().unwrap_or(0.0);
        (90.0..110.0).contains(&rate).then_some(short)
    });
    assert_eq!(short.header, header);
    for (column, expected) in [("PHASE", "Running"), ("READY", "True"), ("CHANGE", "None")] {
        assert_eq!(short.cell("running", column), expected, "{column}");
    }
    assert!(short.cell("running", "CHECKPOINT").parse::<u64>().is_ok_and(|epoch| epoch > 0));
    let unread = short.cell("running", "LAG").strip_suffix(" rows").expect("the generator counts rows");
    assert!(unread.starts_with(|digit: char| ('1'..='9').contains(&digit)), "{unread}");
    is_an_age(short.cell("running", "CHECKPOINT AGE"));
    is_an_age(short.cell("running", "AGE"));
    for (name, phase, ready, change) in [
        ("edits", "Running", "False", "Refused"),
        ("suspended", "Suspended", "False", "None"),
        ("finished", "Finished", "True", "None"),
        ("unschedulable", "Pending", "False", "None"),
        ("bad-sink", "Failed", "False", "None"),
    ] {
        let row = (short.cell(name, "PHASE"), short.cell(name, "READY"), short.cell(name, "CHANGE"));
        assert_eq!(row, (phase, ready, change), "{name}");
    }
    // Nothing is told of what does not run.
    assert_eq!((short.cell("suspended", "IN"), short.cell("suspended", "LAG")), ("", ""));

    let wide = printed(namespace, &["pipelines", "-o", "wide"]);
    let more = ["REPLICAS", "OUT", "REVISION", "MESSAGE"];
    assert!(more.iter().all(|title| wide.header.iter().any(|found| found == title)), "{:?}", wide.header);
    assert_eq!((wide.cell("running", "REPLICAS"), wide.cell("bad-sink", "REPLICAS")), ("1", "0"));
    assert_eq!(wide.cell("running", "MESSAGE"), "rows flow");
    assert!(wide.cell("bad-sink", "MESSAGE").contains("Read-only file system"));
    let revision = namespace.get("pipeline", "running")["status"]["revision"].as_str().unwrap().to_owned();
    assert_eq!(wide.cell("running", "REVISION"), revision);

    let sinks = printed(namespace, &["sinks"]);
    assert_eq!(sinks.header, ["NAME", "READY", "DELTA", "PARQUET", "FILE", "AGE"]);
    assert_eq!((sinks.cell("nowhere", "READY"), sinks.cell("nowhere", "FILE")), ("False", "/nowhere/rows"));
    let windows = printed(namespace, &["windows"]);
    assert_eq!((windows.cell("minute", "READY"), windows.cell("minute", "TUMBLING")), ("True", "1m"));
    let scale = namespace.kubectl(["get", "pipeline", "running", "--subresource=scale", "-o", "json"]).run();
    let scale: Value = serde_json::from_str(&scale).unwrap();
    assert_eq!(scale["kind"], "Scale");
    assert_eq!(scale["status"]["replicas"], 1);
    // The selector finds the pod.
    let selector = scale["status"]["selector"].as_str().unwrap();
    let pods = namespace.kubectl(["get", "pods", "--selector", selector, "-o", "name"]).run();
    assert_eq!(pods, "pod/running-0\n");
}

#[test]
fn short_names_and_the_category_are_known_and_the_scale_is_a_field_of_the_spec() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("names");
    namespace.apply(&(manifest::window("minute", "tumbling: {size: 1m}") + &manifest::sink("rows", "stdout: {}")));
    let source = manifest::numbers(10, 10);
    namespace.apply(&format!(
        "apiVersion: millrace.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: it}}\nspec:\n  sources: [{{name: ids, {source}}}]\n  \
         outputs: [{{from: ids, sink: rows}}]\n  deployment: {{replicas: 1}}\n"
    ));
    for (short, found) in
        [("pl", "pipeline.millrace.dev/it"), ("win", "window.millrace.dev/minute"), ("snk", "sink.millrace.dev/rows")]
    {
        assert_eq!(namespace.kubectl(["get", short, "-o", "name"]).run().trim(), found);
    }
    let all = namespace.objects("millrace");
    let expected = ["pipeline.millrace.dev/it", "sink.millrace.dev/rows", "window.millrace.dev/minute"];
    assert_eq!(all, BTreeSet::from(expected.map(str::to_owned)));
    namespace.kubectl(["scale", "pipeline", "it", "--replicas=2"]).run();
    assert_eq!(namespace.get("pipeline", "it")["spec"]["deployment"]["replicas"], 2);
    let none = namespace.kubectl(["scale", "pipeline", "it", "--replicas=0"]).attempt().unwrap_err();
    assert!(none.contains("should be greater than or equal to 1"), "{none}");
}

#[test]
fn kubectl_explain_is_the_manual() {
    let Some(cluster) = cluster::cluster() else { return };
    // Definitions that have just come are published a moment later.
    let said = |field: &str| cluster.kubectl(["explain", field]).attempt().ok();
    let explain = |field: &str| {
        let text = Deadline::secs(60).wait_for(&format!("an explanation of {field}"), || said(field));
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (field, says) in [
        ("pipeline", "A stream of rows from sources through SQL transforms to Sinks."),
        (
            "pipeline.spec.transforms.sql",
            "Example: `SELECT tenant, count(*) AS errors FROM requests WHERE status >= 500 GROUP BY tenant`.",
        ),
        ("pipeline.spec.checkpoints", "How much state the pipeline's tasks of one process may hold in memory"),
        ("pipeline.spec.checkpoints.onDelete", "`Retain`: They are kept."),
        ("pipeline.spec.suspend", "Whether the pipeline is stopped, at a last checkpoint, until this is false again."),
        ("pipeline.spec.deployment.template", "A pod template that is laid over the one that Millrace makes"),
        ("pipeline.status.change", "Why it has this class."),
        ("window.spec", "How long after its end a window still takes rows"),
        ("window.spec.hopping", "slide"),
        ("sink.spec.delta.partitionBy", "Example: `[day]`."),
        ("sink.status.lastError", "What went wrong."),
    ] {
        let said = explain(field);
        assert!(said.contains(says), "{field}: {said}");
    }
}
