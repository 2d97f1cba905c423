//! The manifest reference: the schemas' descriptions, types and defaults as Markdown.

use std::fmt::Write;

use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::{
    PipelineSpec, PipelineStatus, SinkSpec, WindowSpec,
    manifest::inline_schema,
    schema::{FORM_KEY, UNION_KEY},
};

/// Objects of Kubernetes, which have a reference of their own.
const FOREIGN: [&str; 2] = ["resources", "conditions"];

const PREFACE: &str = "\
# Manifest reference

<!-- Generated from the types in `crds`. After a change there: UPDATE_EXPECT=1 cargo test --workspace --features millrace/fault-points --lib reference -->

Three kinds of object make up a job: a [Pipeline](#pipeline) with its sources, transforms and outputs, the
[Windows](#window) that its transforms name, and the [Sinks](#sink) that its outputs name. All have
`apiVersion: millrace.dev/v1alpha1`, a `kind`, `metadata` with a `name`, and a `spec`. A file may hold several, with a line
`---` between them; objects of other API groups in it are passed over.

A **duration** is a whole number and one of the units `ms`, `s`, `m`, `h` and `d`: `500ms`, `5s`, `24h`. A **size** is a
number of bytes, or a whole number and one of the suffixes `k`, `M`, `G`, `T`, `P` (powers of 1000) or `Ki`, `Mi`, `Gi`, `Ti`,
`Pi` (powers of 1024): `512Mi`, `10Gi`. A field without a default may be left out, unless it says that it is required.
";

/// The manifest reference, as Markdown.
pub fn reference() -> String {
    let mut out = PREFACE.to_owned();
    kind::<PipelineSpec>(&mut out, "Pipeline", "spec");
    section(&mut out, "Pipeline", "status", &inline_schema::<PipelineStatus>());
    kind::<WindowSpec>(&mut out, "Window", "spec");
    kind::<SinkSpec>(&mut out, "Sink", "spec");
    out
}

fn kind<T: JsonSchema>(out: &mut String, kind: &str, path: &str) {
    let _ = write!(out, "\n## {kind}\n");
    section(out, kind, path, &inline_schema::<T>());
}

/// An object's fields as a table, then the objects in it.
fn section(out: &mut String, kind: &str, path: &str, schema: &Value) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let _ = write!(out, "\n### {kind}: `{path}`\n\n{}\n", text(schema, "description"));
    if let Some(members) = schema.get(UNION_KEY).and_then(Value::as_array) {
        let members: Vec<_> = members.iter().filter_map(Value::as_str).map(|name| format!("`{name}`")).collect();
        let _ = write!(out, "\nExactly one of {} has to be set.\n", members.join(", "));
    }
    out.push_str("\n| field | type | default | |\n|---|---|---|---|\n");
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in properties {
        let default = match field.get("default") {
            _ if required.contains(&name.as_str()) => "required".to_owned(),
            Some(Value::Null | Value::Object(_) | Value::Array(_)) | None => String::new(),
            Some(Value::String(text)) => format!("`{text}`"),
            Some(other) => format!("`{other}`"),
        };
        let _ = writeln!(out, "| `{name}` | {} | {default} | {} |", type_of(field), description(field));
    }
    for (name, field) in properties.iter().filter(|(name, _)| !FOREIGN.contains(&name.as_str())) {
        let field = not_null(field);
        match field.get("items") {
            Some(items) => section(out, kind, &format!("{path}.{name}[]"), items),
            None => section(out, kind, &format!("{path}.{name}"), field),
        }
    }
}

/// The schema of what an optional field holds.
fn not_null(schema: &Value) -> &Value {
    let any = schema.get("anyOf").and_then(Value::as_array);
    let is_null = |schema: &&Value| schema.get("type").and_then(Value::as_str) == Some("null");
    any.and_then(|any| any.iter().find(|schema| !is_null(schema))).unwrap_or(schema)
}

fn type_of(schema: &Value) -> String {
    let schema = not_null(schema);
    match schema.get(FORM_KEY).and_then(Value::as_str) {
        Some("duration") => return "duration".to_owned(),
        Some("size") => return "size".to_owned(),
        Some("columnType") => return "type".to_owned(),
        Some("timestamp") => return "timestamp".to_owned(),
        _ => {}
    }
    let name = match schema.get("type") {
        Some(Value::String(name)) => name.as_str(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or(""),
        _ => "",
    };
    let choices = choices(schema);
    match name {
        _ if !choices.is_empty() => choices.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        "array" => format!("list of {}", plural(&schema.get("items").map(type_of).unwrap_or_default())),
        "string" if schema.get("format").and_then(Value::as_str) == Some("date-time") => "timestamp".to_owned(),
        "string" => "text".to_owned(),
        "integer" => whole(schema),
        "number" => "number".to_owned(),
        "boolean" => "boolean".to_owned(),
        "object" => match schema.get("properties").and_then(Value::as_object).map(Map::len) {
            None if schema.get("additionalProperties") == Some(&Value::Bool(false)) => "`{}`".to_owned(),
            _ => "object".to_owned(),
        },
        _ => "any".to_owned(),
    }
}

fn plural(name: &str) -> String {
    if name.ends_with('`') { name.to_owned() } else { format!("{name}s") }
}

fn whole(schema: &Value) -> String {
    let bound = |key: &str| schema.get(key).and_then(Value::as_i64);
    match (bound("minimum"), bound("maximum")) {
        (Some(min), Some(max)) => format!("whole number, {min} to {max}"),
        (Some(min), None) => format!("whole number, from {min}"),
        _ => "whole number".to_owned(),
    }
}

/// The texts that a field may hold, each with what it means.
fn choices(schema: &Value) -> Vec<(&str, String)> {
    if let Some(several) = schema.get("enum").and_then(Value::as_array) {
        return several.iter().filter_map(Value::as_str).map(|name| (name, String::new())).collect();
    }
    let of = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    of.filter_map(|choice| Some((choice.get("const")?.as_str()?, text(choice, "description")))).collect()
}

/// What is said of a field and of its choices, in one line.
fn description(field: &Value) -> String {
    let said = text(field, "description");
    let choices = choices(not_null(field));
    let choices = choices.iter().filter(|(_, meaning)| !meaning.is_empty());
    let choices: String = choices.map(|(name, meaning)| format!("<br>`{name}`: {}", in_cell(meaning))).collect();
    format!("{}{choices}", in_cell(&said))
}

fn text(schema: &Value, key: &str) -> String {
    schema.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn in_cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;

    #[test]
    fn the_reference_is_what_the_types_say() {
        expect_file!["../../docs/reference.md"].assert_eq(&reference());
    }

    #[test]
    fn every_field_is_described() {
        for line in reference().lines().filter(|line| line.starts_with("| `")) {
            assert!(!line.ends_with("|  |"), "{line}");
        }
    }
}
