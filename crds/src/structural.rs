//! The derived definitions, made ready for an API server.
//!
//! What `kubectl apply` refuses, it refuses in words: a text's form is a CEL rule with a message, not a pattern. What
//! `kubectl explain` prints is the whole manual: defaults, choices and their meanings stand in the descriptions.
//!
//! An API server fills in no default. It would write them into lists of the stored object, where tools that compare it with
//! the manifest, Argo CD for one, take them for drift. The operator and the runtime know the defaults.

use serde_json::{Map, Value, json};

use crate::{
    manifest::{Form, inline_schema},
    schema::{FORM_KEY, add_rule_to},
};

/// The longest text of a duration that has its form.
const DURATION_CHARS: u64 = 17;
/// The longest text of a column's type.
const TYPE_CHARS: u64 = 32;

/// Where in a schema a node is.
#[derive(Clone, Copy)]
struct Place {
    /// In the items of a list, whose number multiplies what a rule may cost.
    in_list: bool,
}

/// Makes the schema of a spec or a status ready, by the one that was derived from the same type.
pub(crate) fn make_ready<T: schemars::JsonSchema>(schema: &mut Value) {
    node(schema, &inline_schema::<T>(), Place { in_list: false });
}

fn node(schema: &mut Value, derived: &Value, place: Place) {
    let derived = not_null(derived);
    let Some(object) = schema.as_object_mut() else { return };
    // A null is then the same as nothing, which no rule has to ask for.
    object.remove("nullable");
    if object.get("additionalProperties") == Some(&Value::Bool(false)) {
        // Unknown fields are dropped anyway, and of an object without fields this cannot be said.
        object.remove("additionalProperties");
    }
    numbers(object);
    describe(object, derived);
    object.remove("default");
    in_words(object, derived, place);
    let inner = |key: &str| derived.get(key).cloned().unwrap_or(Value::Null);
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        let derived = inner("properties");
        for (name, property) in properties {
            conditions(name, property);
            node(property, derived.get(name).unwrap_or(&Value::Null), place);
        }
    }
    if let Some(items) = object.get_mut("items") {
        node(items, &inner("items"), Place { in_list: true });
    }
    if let Some(values @ Value::Object(_)) = object.get_mut("additionalProperties") {
        node(values, &inner("additionalProperties"), Place { in_list: true });
    }
}

/// The schema of what an optional field holds.
fn not_null(schema: &Value) -> &Value {
    let any = schema.get("anyOf").and_then(Value::as_array);
    let is_null = |schema: &&Value| schema.get("type").and_then(Value::as_str) == Some("null");
    any.and_then(|any| any.iter().find(|schema| !is_null(schema))).unwrap_or(schema)
}

/// An API server warns of formats that it does not know.
fn numbers(object: &mut Map<String, Value>) {
    if object.get("type").and_then(Value::as_str) == Some("integer") {
        let format = object.get("format").and_then(Value::as_str).unwrap_or_default();
        if format.starts_with("uint") {
            object.entry("minimum").or_insert(json!(0));
            object.insert("format".to_owned(), json!("int64"));
        }
    }
}

/// Conditions are merged by their types.
fn conditions(name: &str, property: &mut Value) {
    if name == "conditions"
        && let Some(list) = property.as_object_mut()
    {
        list.insert("x-kubernetes-list-type".to_owned(), json!("map"));
        list.insert("x-kubernetes-list-map-keys".to_owned(), json!(["type"]));
    }
}

/// One paragraph without the line ends of the source, with the default and the meanings of choices.
fn describe(object: &mut Map<String, Value>, derived: &Value) {
    let said = object.get("description").and_then(Value::as_str).unwrap_or_default();
    if said.starts_with("Quantity is a fixed-point") {
        object.insert("description".to_owned(), json!("A quantity, as in `500m` or `2Gi`."));
        return;
    }
    let mut paragraphs: Vec<String> = said.split("\n\n").map(on_one_line).collect();
    let choices = derived.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    for choice in choices {
        let (name, meaning) = (choice.get("const"), choice.get("description"));
        if let (Some(name), Some(meaning)) = (name.and_then(Value::as_str), meaning.and_then(Value::as_str)) {
            paragraphs.push(format!("`{name}`: {}", on_one_line(meaning)));
        }
    }
    match object.get("default") {
        Some(Value::String(text)) => paragraphs.push(format!("Default: `{text}`")),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => paragraphs.push(format!("Default: `{value}`")),
        _ => {}
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    if !paragraphs.is_empty() {
        object.insert("description".to_owned(), json!(paragraphs.join("\n")));
    }
}

fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The form of a text as a rule whose message says what is expected.
fn in_words(object: &mut Map<String, Value>, derived: &Value, place: Place) {
    let text = |key: &str| derived.get(key).and_then(Value::as_str);
    let form = Form::of(text(FORM_KEY), text("pattern"));
    let is_positive = text("pattern").is_some_and(|pattern| pattern.contains("[1-9]") && !pattern.contains("(0|"));
    let expected = match form {
        Form::Any => return,
        Form::Duration { .. } | Form::Size if is_positive => format!("{}, greater than 0", form.expected()),
        _ => form.expected().to_owned(),
    };
    let message = format!("expected {expected}");
    if form == Form::Size {
        // An integer is a size as well, and of a text without a known greatest length a rule costs too much in a list.
        if is_positive {
            object.insert("minimum".to_owned(), json!(1));
        }
        if !place.in_list
            && let Some(Value::String(pattern)) = object.remove("pattern")
        {
            add_rule_to(object, &format!("type(self) != string || self.matches(r'{pattern}')"), &message);
        }
        return;
    }
    let pattern = match form {
        Form::ColumnType => {
            let plain = "BOOLEAN|INT|BIGINT|FLOAT|DOUBLE|VARCHAR|DATE|TIMESTAMP|JSON";
            format!(r"(?i)^\s*({plain}|DECIMAL *\( *\d+ *(, *\d+ *)?\))\s*(\[\]\s*)?$")
        }
        Form::Timestamp => {
            let date = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])";
            let time = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?";
            format!(r"^{date}[Tt ]{time}([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$")
        }
        _ => match object.remove("pattern") {
            Some(Value::String(pattern)) => pattern,
            _ => return,
        },
    };
    // What a rule may cost is reckoned from the greatest length.
    match form {
        Form::Duration { .. } => object.insert("maxLength".to_owned(), json!(DURATION_CHARS)),
        Form::ColumnType => object.insert("maxLength".to_owned(), json!(TYPE_CHARS)),
        _ => None,
    };
    add_rule_to(object, &format!("self.matches(r'{pattern}')"), &message);
}
