//! What the manifests of many tests have alike: Windows, Sinks, and a source of numbers.

use std::fmt::Display;

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

/// A generator of `id` from 0 on and `ts`, a millisecond a row, at so many rows a second.
pub fn numbers(rows: impl Display, rate: impl Display) -> String {
    format!(
        "generator: {{rows: {rows}, rate: {rate}, fields: [{{name: id, sequence: {{}}}}, \
         {{name: ts, timestamp: {{start: \"2024-01-01T00:00:00Z\", step: 1ms}}}}]}}"
    )
}
