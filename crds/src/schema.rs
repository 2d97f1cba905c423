//! What the derived schemas are given besides: the rules that no JSON Schema keyword says, as CEL for the API server and
//! as hints for the manifest reader.
//!
//! A schema may carry these keys. The API server does not see them: they are no part of what a CRD can hold.
//!
//! - `x-millrace-union`: the fields of which exactly one has to be set;
//! - `x-millrace-form`: the form of a text, `duration`, `size`, `columnType` or `timestamp`.

use schemars::{Schema, transform::Transform};
use serde_json::{Map, Value, json};

/// The schema key that names a union's fields.
pub(crate) const UNION_KEY: &str = "x-millrace-union";
/// The schema key that names the form of a text.
pub(crate) const FORM_KEY: &str = "x-millrace-form";

/// The pattern of names that SQL uses: sources and transforms.
pub(crate) const NODE_NAME_PATTERN: &str = "^[a-z][a-z0-9_]*$";
/// The pattern of column names.
pub(crate) const COLUMN_NAME_PATTERN: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
/// The pattern of an output's `from`.
pub(crate) const FROM_PATTERN: &str = r"^[a-z][a-z0-9_]*(\.(late|errors))?$";
/// The pattern of object names.
pub(crate) const OBJECT_NAME_PATTERN: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// The pattern of places to store in: a URL, or a path.
pub(crate) const URI_PATTERN: &str = "^([a-z][a-z0-9+.-]*://.*|[^:]+)$";

/// Exactly one of these fields has to be set.
pub(crate) fn exactly_one(fields: &'static [&'static str]) -> impl Transform {
    move |schema: &mut Schema| {
        let count = fields.iter().map(|field| format!("(has(self.{field}) ? 1 : 0)")).collect::<Vec<_>>().join(" + ");
        schema.insert(UNION_KEY.to_owned(), json!(fields));
        add_rule(schema, &format!("{count} == 1"), &format!("exactly one of {} must be set", fields.join(", ")));
    }
}

/// A CEL rule over `self`, and what is said where it does not hold.
pub(crate) fn rule(rule: &'static str, message: &'static str) -> impl Transform {
    move |schema: &mut Schema| add_rule(schema, rule, message)
}

fn add_rule(schema: &mut Schema, rule: &str, message: &str) {
    add_rule_to(schema.ensure_object(), rule, message);
}

/// The same for a schema that is a plain object.
pub(crate) fn add_rule_to(schema: &mut Map<String, Value>, rule: &str, message: &str) {
    let rules = schema.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
    if let Value::Array(rules) = rules {
        rules.push(json!({ "rule": rule, "message": message }));
    }
}

/// A rule that two durations obey, where both are set and each has the form of one: `first relation second`.
pub(crate) fn durations(first: &str, relation: &str, second: &str, message: &'static str) -> impl Transform {
    // Texts that are no durations are told about by themselves. So many digits of days fit into 64 bits of milliseconds.
    let form = "^[0-9]{1,10}(ms|s|m|h|d)$";
    let is_set = |field: &str| format!("has(self.{field}) && self.{field}.matches('{form}')");
    let rule = format!(
        "!({} && {}) || {} {relation} {}",
        is_set(first),
        is_set(second),
        milliseconds(&format!("self.{first}")),
        milliseconds(&format!("self.{second}"))
    );
    move |schema: &mut Schema| add_rule(schema, &rule, message)
}

/// CEL for the milliseconds of a duration; its own `duration` knows no days.
fn milliseconds(text: &str) -> String {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let choices: String = units
        .iter()
        .map(|(unit, ms)| format!("{text}.endsWith('{unit}') ? int({text}.replace('{unit}', '')) * {ms} : "))
        .collect();
    format!("({choices}int({text}.replace('d', '')) * 86400000)")
}
