//! The custom resource definitions, for the API server, and one JSON Schema of all three kinds, for editors.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use crate::{
    API_VERSION, Pipeline, PipelineSpec, PipelineStatus, Sink, SinkSpec, SinkStatus, Window, WindowSpec, WindowStatus,
    manifest::inline_schema,
    schema::{OBJECT_NAME_PATTERN, UNION_KEY, add_rule_to},
    structural,
};

/// The definitions of Pipeline, Window and Sink.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        definition::<PipelineSpec, PipelineStatus>(Pipeline::crd(), pipeline_rules),
        definition::<WindowSpec, WindowStatus>(Window::crd(), |_| {}),
        definition::<SinkSpec, SinkStatus>(Sink::crd(), |_| {}),
    ]
}

/// A derived definition, made ready for an API server, with rules about the whole object.
fn definition<Spec: JsonSchema, Status: JsonSchema>(
    crd: CustomResourceDefinition,
    rules: fn(&mut Value),
) -> CustomResourceDefinition {
    let mut value = json!(crd);
    let versions = value.pointer_mut("/spec/versions").and_then(Value::as_array_mut);
    for schema in versions.into_iter().flatten().filter_map(|version| version.pointer_mut("/schema/openAPIV3Schema")) {
        if let Some(spec) = schema.pointer_mut("/properties/spec") {
            structural::make_ready::<Spec>(spec);
        }
        if let Some(status) = schema.pointer_mut("/properties/status") {
            structural::make_ready::<Status>(status);
            // What waits for objects takes one without a status for one that is as wished. No generation is -1.
            status["default"] = json!({ "observedGeneration": -1 });
        }
        rules(schema);
    }
    serde_json::from_value(value).unwrap_or(crd)
}

/// What holds for a Pipeline in a cluster, beside what holds for one in a file.
fn pipeline_rules(schema: &mut Value) {
    let rules = [
        (
            "",
            "size(self.metadata.name) <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "a Pipeline's name has at most 52 lower-case letters, digits and -, beginning with a letter",
        ),
        (
            "/properties/spec/properties/sources/items",
            "!has(self.stdin)",
            "a pod has no standard input to read: stdin is for `millrace run`",
        ),
        (
            "/properties/spec",
            // Where no checkpoint can have been kept, none stays behind.
            "(has(self.checkpoints) && has(self.checkpoints.storage) ? self.checkpoints.storage : '') == \
             (has(oldSelf.checkpoints) && has(oldSelf.checkpoints.storage) ? oldSelf.checkpoints.storage : '') || \
             (has(oldSelf.checkpoints) && has(oldSelf.checkpoints.storage) && \
             oldSelf.checkpoints.storage.contains('://') && !oldSelf.checkpoints.storage.startsWith('file:///') && \
             !oldSelf.checkpoints.storage.matches('^s3://[^/?#@ ]+(/[^?#@ ]*)?$'))",
            "checkpoints.storage cannot change, since the checkpoints would stay behind; make another Pipeline",
        ),
        (
            "/properties/spec",
            "(has(self.deployment) && has(self.deployment.volume)) == \
             (has(oldSelf.deployment) && has(oldSelf.deployment.volume)) && \
             (!has(self.deployment) || !has(self.deployment.volume) || \
             self.deployment.volume == oldSelf.deployment.volume)",
            "deployment.volume cannot change, since the volume is made; delete the Pipeline, and make it again",
        ),
    ];
    for (place, rule, message) in rules {
        if let Some(Value::Object(at)) = schema.pointer_mut(place) {
            add_rule_to(at, rule, message);
        }
    }
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
    fn the_chart_has_the_same_definitions() {
        for crd in crds() {
            let file = format!("../../charts/millrace/files/crds/{}.yaml", crd.spec.names.plural);
            expect_file![file].assert_eq(yaml(&crd).trim_start_matches("---\n"));
        }
    }

    #[test]
    fn no_default_is_written_into_a_stored_spec() {
        fn defaults(schema: &Value, path: &str, found: &mut Vec<String>) {
            for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let path = format!("{path}.{name}");
                if property.get("default").is_some() || property.get("nullable").is_some() {
                    found.push(path.clone());
                }
                defaults(property, &path, found);
            }
            if let Some(items) = schema.get("items") {
                defaults(items, &format!("{path}[]"), found);
            }
        }
        for crd in crds() {
            let mut found = Vec::new();
            let schema = json!(crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema);
            defaults(&schema["properties"]["spec"], &crd.spec.names.kind, &mut found);
            assert_eq!(found, Vec::<String>::new());
        }
    }

    #[test]
    fn every_field_that_a_user_writes_is_explained() {
        fn unexplained(schema: &Value, path: &str, found: &mut Vec<String>) {
            for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let path = format!("{path}.{name}");
                if property.get("description").is_none() {
                    found.push(path.clone());
                }
                unexplained(property, &path, found);
            }
            if let Some(items) = schema.get("items") {
                unexplained(items, &format!("{path}[]"), found);
            }
        }
        for crd in crds() {
            let mut found = Vec::new();
            let schema = json!(crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema);
            for part in ["spec", "status"] {
                unexplained(&schema["properties"][part], &format!("{}.{part}", crd.spec.names.kind), &mut found);
            }
            assert_eq!(found, Vec::<String>::new());
        }
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
