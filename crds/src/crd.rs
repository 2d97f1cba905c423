//! The custom resource definitions, for the API server, and one JSON Schema of all three kinds, for editors.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::{
    API_VERSION, Pipeline, PipelineSpec, Sink, SinkSpec, Window, WindowSpec,
    manifest::inline_schema,
    schema::{OBJECT_NAME_PATTERN, UNION_KEY},
};

/// The definitions of Pipeline, Window and Sink.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut pipeline = Pipeline::crd();
    for version in &mut pipeline.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            let rule = json!({
                "rule": "size(self.metadata.name) <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                "message": "a Pipeline's name has at most 52 lower-case letters, digits and -, beginning with a letter",
            });
            schema.x_kubernetes_validations = serde_json::from_value(json!([rule])).ok();
        }
    }
    [pipeline, Window::crd(), Sink::crd()].into_iter().map(without_closed_objects).collect()
}

/// The API server drops fields that it does not know, and refuses schemas that say so of an object without fields.
fn without_closed_objects(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.retain(|key, value| key != "additionalProperties" || *value != Value::Bool(false));
                object.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = json!(crd);
    strip(&mut value);
    serde_json::from_value(value).unwrap_or(crd)
}

/// The definitions as one text of YAML documents, for `kubectl apply` and the chart.
pub fn crd_yaml() -> String {
    crds().iter().map(yaml).collect()
}

fn yaml(crd: &CustomResourceDefinition) -> String {
    // JSON is YAML, should the writer ever refuse.
    let body = serde_saphyr::to_string(crd).unwrap_or_else(|_| json!(crd).to_string());
    format!("---\n{}\n", body.trim_end())
}

/// A JSON Schema that a manifest of any of the three kinds satisfies, for editors to complete and check by.
pub fn json_schema() -> Value {
    let kinds = [
        ("Pipeline", inline_schema::<PipelineSpec>()),
        ("Window", inline_schema::<WindowSpec>()),
        ("Sink", inline_schema::<SinkSpec>()),
    ];
    let mut definitions = Map::new();
    let mut rules = Vec::new();
    for (kind, mut spec) in kinds {
        for_editors(&mut spec);
        if let Value::Object(spec) = &mut spec {
            spec.remove("$schema");
        }
        definitions.insert(format!("{kind}Spec"), spec);
        rules.push(json!({
            "if": { "properties": { "kind": { "const": kind } } },
            "then": { "properties": { "spec": { "$ref": format!("#/$defs/{kind}Spec") } } },
        }));
    }
    let text_map = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Millrace manifest",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": { "const": API_VERSION },
            "kind": { "enum": ["Pipeline", "Window", "Sink"] },
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": { "type": "string", "pattern": OBJECT_NAME_PATTERN, "maxLength": 253 },
                    "namespace": { "type": "string" },
                    "labels": text_map,
                    "annotations": text_map,
                },
            },
            "spec": { "type": "object" },
            "status": { "type": "object" },
        },
        "additionalProperties": false,
        "allOf": rules,
        "$defs": definitions,
    })
}

/// Says in keywords of JSON Schema what the API server is told otherwise.
fn for_editors(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(members)) = object.remove(UNION_KEY) {
                let one = members.into_iter().map(|member| json!({ "required": [member] })).collect::<Vec<_>>();
                object.insert("oneOf".to_owned(), Value::Array(one));
            }
            if object.remove("x-kubernetes-int-or-string").is_some() {
                object.insert("type".to_owned(), json!(["integer", "string"]));
            }
            // A property may have any name, so only keywords whose value is none of a schema's go.
            object.retain(|key, value| !key.starts_with("x-") || value.is_object());
            object.values_mut().for_each(for_editors);
        }
        Value::Array(items) => items.iter_mut().for_each(for_editors),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use expect_test::expect_file;

    use super::*;
    use crate::manifest;

    #[test]
    fn the_definitions_are_what_the_golden_file_says() {
        expect_file!["../golden/crds.yaml"].assert_eq(&crd_yaml());
    }

    #[test]
    fn the_definitions_are_yaml_that_reads_back_as_the_same() {
        let read: Vec<CustomResourceDefinition> = serde_saphyr::from_multiple(&crd_yaml()).unwrap();
        assert_eq!(read, crds());
        let (_, problems) = manifest::read(&[("crds.yaml", crd_yaml())]);
        assert_eq!(problems, []);
    }

    #[test]
    fn the_schema_for_editors_is_what_the_golden_file_says() {
        expect_file!["../golden/manifest.schema.json"].assert_eq(&format!("{:#}\n", json_schema()));
    }

    #[test]
    fn every_definition_is_structural() {
        for crd in crds() {
            let schema = json!(crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema);
            walk(&schema, &crd.spec.names.kind);
        }
    }

    /// The API server refuses schemas that have these.
    fn walk(schema: &Value, path: &str) {
        let object = schema.as_object().unwrap();
        for key in ["$ref", "oneOf", "const", "definitions", "$defs"] {
            assert!(!object.contains_key(key), "{path} has {key}");
        }
        let is_free = ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"];
        assert!(object.contains_key("type") || is_free.iter().any(|key| object.contains_key(*key)), "{path}: {schema}");
        assert!(!(object.contains_key("properties") && object.contains_key("additionalProperties")), "{path}");
        for (name, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
            walk(property, &format!("{path}.{name}"));
        }
        for key in ["items", "additionalProperties"] {
            if let Some(inner) = object.get(key) {
                walk(inner, &format!("{path}.{key}"));
            }
        }
    }
}
