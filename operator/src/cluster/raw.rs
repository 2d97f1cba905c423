//! Objects as the API server has them: a spec that may be anything.
//!
//! A watch whose objects have to parse ends at the first that does not, for all of them. So the watches of our kinds take
//! whatever is there, and each object is parsed on its own, when it is reconciled.

use std::{borrow::Cow, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use serde_json::Value;

/// An object of the kind `K` whose spec and status may be anything.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(bound = "")]
pub struct Raw<K> {
    /// Its metadata, which the API server itself has checked.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Its spec.
    #[serde(default)]
    pub spec: Value,
    /// Its status.
    #[serde(default)]
    pub status: Value,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
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

    /// Which version of its spec this is.
    pub fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }

    /// What tells it from another object of its name, and from itself with another spec.
    pub fn identity(&self) -> (String, i64) {
        (self.metadata.uid.clone().unwrap_or_default(), self.generation())
    }

    /// The text of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
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
}
