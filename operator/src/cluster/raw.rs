//! Objects as the API server has them: a spec that may be anything.
//!
//! A watch whose objects have to parse ends at the first that does not, for all of them. So the watches of our kinds take
//! whatever is there, and each object is parsed on its own, when it is reconciled.

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, value::RawValue};

/// What stands in a spec's place that is nested so deeply that it is not read.
const TOO_DEEP: &str = "nested too deeply to be read";

/// An object of the kind `K` whose spec and status may be anything, as deep as may be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(bound = "")]
pub struct Raw<K> {
    /// Its metadata, which the API server itself has checked; without `managedFields`, which are as deep as the spec.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Its spec.
    #[serde(default, deserialize_with = "anything")]
    pub spec: Value,
    /// Its status.
    #[serde(default, deserialize_with = "anything")]
    pub status: Value,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
}

/// Takes the text first: finding its end needs no recursion, and so no limit of it can fail the whole list or watch.
fn anything<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let text = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(text.get()).unwrap_or_else(|_| TOO_DEEP.into()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let metadata = Metadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        resource_version: metadata.resource_version,
        generation: metadata.generation,
        creation_timestamp: metadata.creation_timestamp,
        deletion_timestamp: metadata.deletion_timestamp,
        finalizers: metadata.finalizers,
        labels: metadata.labels,
        annotations: metadata.annotations,
        ..ObjectMeta::default()
    })
}

impl<K> Raw<K> {
    /// Its name.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// What tells it from another object of its name.
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Whether it has this finalizer.
    pub fn is_held_by(&self, finalizer: &str) -> bool {
        self.metadata.finalizers.iter().flatten().any(|it| it == finalizer)
    }

    /// Which version of its spec this is.
    pub fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }

    /// What tells it from another object of its name, and from itself with another spec.
    pub fn identity(&self) -> (String, i64) {
        (self.uid().to_owned(), self.generation())
    }

    /// The text of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// Whether its spec is one that was not read.
    pub fn is_too_deep(&self) -> bool {
        self.spec == TOO_DEEP
    }

    /// Its status, as far as it is one.
    pub fn status<S: for<'de> Deserialize<'de> + Default>(&self) -> S {
        S::deserialize(&self.status).unwrap_or_default()
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Raw<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&()).into_owned().into()
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&()).into_owned().into()
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&()).into_owned().into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&()).into_owned().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use millrace_crds::Pipeline;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_whose_spec_is_nonsense_is_still_an_object() {
        for spec in
            [json!(null), json!(7), json!([]), json!({"sources": "none"}), json!({"deployment": {"replicas": -1}})]
        {
            let object = json!({
                "apiVersion": "millrace.dev/v1alpha1", "kind": "Pipeline",
                "metadata": {"name": "bad", "namespace": "default", "generation": 3},
                "spec": spec, "status": {"checkpoint": []},
            });
            let raw: Raw<Pipeline> = serde_json::from_value(object).unwrap();
            assert_eq!((raw.name(), raw.generation()), ("bad", 3));
            assert_eq!(raw.status::<millrace_crds::PipelineStatus>(), millrace_crds::PipelineStatus::default());
        }
    }

    #[test]
    fn an_object_that_is_deeper_than_anything_leaves_lists_and_watches_whole() {
        use kube::core::{ObjectList, WatchEvent};
        let deep = format!("{}1{}", r#"{"a":"#.repeat(50_000), "}".repeat(50_000));
        let object = format!(
            r#"{{"apiVersion":"millrace.dev/v1alpha1","kind":"Pipeline","metadata":{{"name":"deep","generation":2,
            "managedFields":[{{"manager":"kubectl","fieldsV1":{deep}}}]}},"spec":{{"deployment":{{"template":{deep}}}}}}}"#
        );
        let event: WatchEvent<Raw<Pipeline>> =
            serde_json::from_str(&format!(r#"{{"type":"ADDED","object":{object}}}"#)).unwrap();
        let WatchEvent::Added(raw) = event else { panic!() };
        assert!(raw.is_too_deep() && raw.name() == "deep" && raw.generation() == 2);
        let list: ObjectList<Raw<Pipeline>> = serde_json::from_str(&format!(
            r#"{{"apiVersion":"millrace.dev/v1alpha1","kind":"PipelineList","metadata":{{"resourceVersion":"1"}},"items":[{object}]}}"#
        ))
        .unwrap();
        assert!(list.items[0].is_too_deep());
    }
}
