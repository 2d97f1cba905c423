//! What the manifests of many tests have alike: Windows, Sinks, a source of numbers, and Pipelines that read one.

use std::fmt::{Display, Formatter, Result};

use serde_json::json;

/// A Window, as a further document.
pub fn window(name: &str, spec: &str) -> String {
    document("Window", name, spec)
}

/// A Sink, as a further document.
pub fn sink(name: &str, spec: &str) -> String {
    document("Sink", name, spec)
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("---\napiVersion: millrace.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n")
}

/// A claim of a volume on a cluster, as a document.
pub fn claim(name: &str) -> String {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let metadata = json!({"name": name});
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}).to_string()
}

/// With another text in the place of one that is there.
///
/// # Panics
///
/// If it is not there.
#[track_caller]
pub fn edited(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "there is no {from:?} in {text}");
    text.replace(from, to)
}

/// A generator of `id` from 0 on and `ts`, a millisecond a row, at so many rows a second.
pub fn numbers(rows: impl Display, rate: impl Display) -> String {
    format!(
        "generator: {{rows: {rows}, rate: {rate}, fields: [{{name: id, sequence: {{}}}}, \
         {{name: ts, timestamp: {{start: \"2024-01-01T00:00:00Z\", step: 1ms}}}}]}}"
    )
}

/// A Pipeline that reads the source `events`, as a further document.
#[derive(Clone, Copy, Debug)]
pub struct Pipeline<'a> {
    /// Its name.
    pub name: &'a str,
    /// Fields of `checkpoints`.
    pub checkpoints: &'a str,
    /// Further fields of the spec, as whole lines.
    pub more: &'a str,
    /// What `events` reads, such as [`numbers`]. Its event time is `ts`.
    pub events: &'a str,
    /// Its transforms: name, Window (or nothing) and SQL.
    pub transforms: &'a [(&'a str, &'a str, &'a str)],
    /// Its outputs: a transform and a Sink.
    pub outputs: &'a [(&'a str, &'a str)],
}

impl Display for Pipeline<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { name, checkpoints, more, events, transforms, outputs } = self;
        writeln!(f, "---\napiVersion: millrace.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: {name}}}\nspec:")?;
        writeln!(f, "  checkpoints: {{{checkpoints}}}\n{more}")?;
        writeln!(f, "  sources:\n    - name: events\n      {events}\n      eventTime: {{column: ts}}")?;
        if !transforms.is_empty() {
            writeln!(f, "  transforms:")?;
        }
        for (name, window, sql) in *transforms {
            let window = if window.is_empty() { String::new() } else { format!("window: {window}, ") };
            writeln!(f, "    - {{name: {name}, {window}sql: {}}}", json!(sql))?;
        }
        writeln!(f, "  outputs:")?;
        outputs.iter().try_for_each(|(from, sink)| writeln!(f, "    - {{from: {from}, sink: {sink}}}"))
    }
}
