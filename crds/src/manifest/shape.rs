//! The derived schemas, made ready for checking documents.

use std::{collections::BTreeMap, sync::LazyLock};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value};

use super::{
    forms::Form,
    names::{list, one_of},
};
use crate::{
    PipelineSpec, SinkSpec, WindowSpec,
    schema::{FORM_KEY, UNION_KEY},
};

/// What a value has to be.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Any,
    Object(Object),
    /// A mapping whose keys are free.
    Map(Box<Shape>),
    List {
        items: Box<Shape>,
        min: usize,
        max: usize,
    },
    Text(Text),
    /// A whole number, or a text with a form.
    WholeOrText(Form),
    Whole {
        min: i128,
        max: i128,
    },
    Number,
    Boolean,
}

impl Shape {
    /// A value of this shape in the place of one that is missing or wrong, so that the rest of the object can be checked.
    pub fn stand_in(&self) -> Value {
        match self {
            Self::Any => Value::Null,
            Self::Object(object) => {
                let required = object.fields.iter().filter(|(_, field)| field.required);
                required.map(|(name, field)| (name.clone(), field.shape.stand_in())).collect::<Map<_, _>>().into()
            }
            Self::Map(_) => Value::Object(Map::new()),
            Self::List { .. } => Value::Array(Vec::new()),
            Self::Text(text) => text.choices.first().map_or(text.form.stand_in().unwrap_or(""), String::as_str).into(),
            Self::WholeOrText(form) => form.stand_in().unwrap_or("1").into(),
            Self::Whole { min, max } => i64::try_from(1.clamp(*min, *max)).unwrap_or(1).into(),
            Self::Number => 0.0.into(),
            Self::Boolean => false.into(),
        }
    }

    /// What it is, in words.
    pub fn expected(&self) -> String {
        match self {
            Self::Any => "a value".to_owned(),
            Self::Object(Object { fields, .. }) if fields.is_empty() => {
                "a mapping, which may be empty: `{}`".to_owned()
            }
            Self::Object(object) => format!("a mapping with {}", list(object.fields.keys().map(String::as_str))),
            Self::Map(_) => "a mapping".to_owned(),
            Self::List { .. } => "a list".to_owned(),
            Self::Text(text) if !text.choices.is_empty() => one_of(text.choices.iter().map(String::as_str)),
            Self::Text(text) => text.form.expected().to_owned(),
            Self::WholeOrText(Form::Any) => "a whole number or a text".to_owned(),
            Self::WholeOrText(form) => form.expected().to_owned(),
            Self::Whole { min, max } if *max < i128::from(i32::MAX) => format!("a whole number from {min} to {max}"),
            Self::Whole { min: 0, .. } => "a whole number, 0 or greater".to_owned(),
            Self::Whole { min: 1, .. } => "a whole number, 1 or greater".to_owned(),
            Self::Whole { .. } => "a whole number".to_owned(),
            Self::Number => "a number".to_owned(),
            Self::Boolean => "`true` or `false`".to_owned(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub fields: BTreeMap<String, Field>,
    /// Whether fields that are not named may be set.
    pub open: bool,
    /// The fields of which exactly one has to be set.
    pub union: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub shape: Shape,
    pub required: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub form: Form,
    /// Empty: any text.
    pub choices: Vec<String>,
    pub min_chars: usize,
    pub max_chars: usize,
}

/// The shape of object metadata.
pub(crate) static METADATA: LazyLock<Shape> = LazyLock::new(of::<ObjectMeta>);
/// The shape of a Pipeline's spec.
pub(crate) static PIPELINE: LazyLock<Shape> = LazyLock::new(of::<PipelineSpec>);
/// The shape of a Window's spec.
pub(crate) static WINDOW: LazyLock<Shape> = LazyLock::new(of::<WindowSpec>);
/// The shape of a Sink's spec.
pub(crate) static SINK: LazyLock<Shape> = LazyLock::new(of::<SinkSpec>);

fn of<T: JsonSchema>() -> Shape {
    shape(&inline_schema::<T>())
}

/// A type's JSON Schema without references.
pub(crate) fn inline_schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

fn shape(schema: &Value) -> Shape {
    let Some(schema) = schema.as_object() else { return Shape::Any };
    let text = |key: &str| schema.get(key).and_then(Value::as_str);
    let form = Form::of(text(FORM_KEY), text("pattern"));
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return Shape::WholeOrText(form);
    }
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        return Shape::Object(Object { fields: BTreeMap::new(), open: true, union: Vec::new() });
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(Value::Array(of)) = schema.get(key) {
            return any_of(of);
        }
    }
    match type_of(schema) {
        Some("object") => object(schema),
        Some("array") => Shape::List {
            items: Box::new(schema.get("items").map_or(Shape::Any, shape)),
            min: number(schema, "minItems").unwrap_or(0),
            max: number(schema, "maxItems").unwrap_or(usize::MAX),
        },
        Some("string") => Shape::Text(Text {
            form,
            choices: choices(schema),
            min_chars: number(schema, "minLength").unwrap_or(0),
            max_chars: number(schema, "maxLength").unwrap_or(usize::MAX),
        }),
        Some("integer") => whole(schema),
        Some("number") => Shape::Number,
        Some("boolean") => Shape::Boolean,
        _ => Shape::Any,
    }
}

/// One shape or null, or one of several texts.
fn any_of(of: &[Value]) -> Shape {
    let is_null = |schema: &&Value| schema.get("type").and_then(Value::as_str) == Some("null");
    let rest: Vec<&Value> = of.iter().filter(|schema| !is_null(schema)).collect();
    match rest.as_slice() {
        [one] => shape(one),
        several => {
            let choices: Vec<String> =
                several.iter().filter_map(|schema| schema.as_object()).flat_map(choices).collect();
            if choices.is_empty() {
                return Shape::Any;
            }
            Shape::Text(Text { form: Form::Any, choices, min_chars: 0, max_chars: usize::MAX })
        }
    }
}

fn object(schema: &Map<String, Value>) -> Shape {
    let strings = |key: &str| -> Vec<String> {
        let list = schema.get(key).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if let (None, Some(Value::Object(values))) = (schema.get("properties"), schema.get("additionalProperties")) {
        return Shape::Map(Box::new(shape(&Value::Object(values.clone()))));
    }
    let required = strings("required");
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let fields = properties
        .map(|(name, schema)| (name.clone(), Field { shape: shape(schema), required: required.contains(name) }))
        .collect();
    let open = !schema.contains_key("properties") && schema.get("additionalProperties") != Some(&Value::Bool(false));
    Shape::Object(Object { fields, open, union: strings(UNION_KEY) })
}

fn whole(schema: &Map<String, Value>) -> Shape {
    let (min, max) = match schema.get("format").and_then(Value::as_str) {
        Some("uint32") => (0, i128::from(u32::MAX)),
        Some("int32") => (i128::from(i32::MIN), i128::from(i32::MAX)),
        // What an API server can hold, whatever the sign.
        Some("uint64") => (0, i128::from(i64::MAX)),
        _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
    };
    let bound = |key: &str| schema.get(key).and_then(Value::as_i64).map(i128::from);
    Shape::Whole { min: bound("minimum").unwrap_or(min).max(min), max: bound("maximum").unwrap_or(max).min(max) }
}

/// The type, null aside.
fn type_of(schema: &Map<String, Value>) -> Option<&str> {
    match schema.get("type")? {
        Value::String(one) => Some(one),
        Value::Array(several) => several.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        _ => None,
    }
}

fn choices(schema: &Map<String, Value>) -> Vec<String> {
    let one = schema.get("const").into_iter();
    let several = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    one.chain(several).filter_map(Value::as_str).map(str::to_owned).collect()
}

fn number(schema: &Map<String, Value>, key: &str) -> Option<usize> {
    schema.get(key).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok())
}
