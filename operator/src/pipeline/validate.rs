//! The second step: from objects that may say anything to what is to run, or to all that is wrong with it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use millrace_crds::{
    API_VERSION, DeploymentSpec, OnDelete,
    manifest::{self, Problem},
};
use millrace_plan::{
    Doubts, PlanError, ResolvedSpec,
    handover::{SavepointWish, StartWish, unsupported},
    resolve_and_compile_despite, revision,
    sink_rules::unusable_place,
};
use millrace_stream::Revision;
use serde_json::{Value, json};

use super::{dereference::Observed, overlay::overlay};
use crate::{
    cluster::{key::Kind, raw::Raw, stores::named},
    conditions::Reason,
};

/// The most that a plan may have as text: a ConfigMap holds 1 MiB, and the plan before it is kept too where there is room.
pub const MAX_PLAN_BYTES: usize = 900_000;
/// So many problems are told.
const TOLD: usize = 5;

/// What was found.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It can be run.
    Valid(Box<Valid>),
    /// It cannot.
    Invalid(Invalid),
}

/// A Pipeline that can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid {
    /// The dataflow, with its Windows and Sinks.
    pub spec: ResolvedSpec,
    /// Its content hash.
    pub revision: Revision,
    /// Whether it is to be stopped.
    pub suspend: bool,
    /// A savepoint that is asked for.
    pub savepoint: Option<SavepointWish>,
    /// Where to start from.
    pub start_from: Option<StartWish>,
    /// How its pods look.
    pub deployment: DeploymentSpec,
    /// What is laid over the pods' template.
    pub overlay: PodTemplateSpec,
    /// Whether checkpoints go with the Pipeline.
    pub deletes_checkpoints: bool,
}

/// A Pipeline that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Why.
    pub reason: Reason,
    /// All that is wrong.
    pub message: String,
    /// Whether it is to be stopped, where that can be understood.
    pub suspend: Option<bool>,
}

/// Finds out.
pub fn validate(observed: &Observed) -> Verdict {
    let pipeline = &observed.pipeline;
    let namespace = pipeline.namespace();
    if pipeline.is_too_deep() {
        return invalid(Reason::InvalidSpec, vec!["spec: this is nested too deeply to be read".to_owned()], None);
    }
    let mut files = vec![(file("Pipeline", pipeline.name()), manifest_of("Pipeline", pipeline))];
    files.extend(observed.windows.iter().map(|it| (file("Window", it.name()), manifest_of("Window", it))));
    files.extend(observed.sinks.iter().map(|it| (file("Sink", it.name()), manifest_of("Sink", it))));
    let (manifests, problems) = manifest::read(&files);
    let named: BTreeSet<String> = [(Kind::Window, "Window"), (Kind::Sink, "Sink")]
        .into_iter()
        .flat_map(|(kind, word)| named(pipeline, kind).into_iter().map(move |name| file(word, name)))
        .chain([file("Pipeline", pipeline.name())])
        .collect();
    let mut told: Vec<String> =
        problems.iter().filter(|it| it.is_error() && named.contains(&*it.file)).map(say_problem).collect();
    let suspend = pipeline.spec.get("suspend").map_or(Some(false), Value::as_bool);
    let Some(located) = manifests.pipelines.first() else {
        return invalid(Reason::InvalidSpec, told, suspend);
    };
    let spec = &located.value.spec;
    let doubts = Doubts {
        fields: located.unread_fields().clone(),
        windows: manifests.unread_windows_in(namespace),
        sinks: manifests.unread_sinks_in(namespace),
    };
    let (windows, sinks) = (manifests.windows_in(namespace), manifests.sinks_in(namespace));
    let missing = spec
        .transforms
        .iter()
        .filter_map(|transform| transform.window.as_ref())
        .any(|name| !windows.contains_key(name) && !doubts.windows.contains(name))
        || spec.outputs.iter().any(|output| !sinks.contains_key(&output.sink) && !doubts.sinks.contains(&output.sink));
    let compiled = resolve_and_compile_despite(&doubts, pipeline.name(), spec.dataflow(), &windows, &sinks);
    let said: BTreeSet<&str> =
        problems.iter().filter(|it| it.is_error() && *it.file == *files[0].0).map(|it| it.path.as_str()).collect();
    if let Err(errors) = &compiled {
        told.extend(errors.iter().filter(|error| !said.contains(error.path.as_str())).map(PlanError::to_string));
    }
    let template = spec.deployment.as_ref().and_then(|deployment| deployment.template.as_ref());
    let overlay = match overlay(pipeline.name(), template) {
        Ok(overlay) => overlay,
        Err(message) => {
            told.push(message);
            PodTemplateSpec::default()
        }
    };
    if let (true, Ok(plan)) = (told.is_empty(), compiled) {
        let bytes = json!(plan.spec).to_string().len();
        if bytes > MAX_PLAN_BYTES {
            told.push(format!("spec: the plan has {bytes} bytes as text, and may have {MAX_PLAN_BYTES}"));
            return invalid(Reason::InvalidSpec, told, suspend);
        }
        let deployment = spec.deployment.clone().unwrap_or_default();
        if let Some(message) = unsupported(&deployment) {
            return invalid(Reason::ReplicasUnsupported, vec![message], suspend);
        }
        return Verdict::Valid(Box::new(Valid {
            revision: revision(&plan.spec),
            spec: plan.spec,
            suspend: spec.suspend,
            savepoint: spec.savepoint.as_ref().map(|wish| SavepointWish { token: wish.token.clone() }),
            start_from: spec.start_from.as_ref().map(|wish| StartWish {
                token: wish.token.clone(),
                savepoint: wish.savepoint.clone(),
                reset_sources: wish.reset_sources.clone(),
                move_sources: wish.move_sources.clone(),
            }),
            overlay,
            deletes_checkpoints: spec.checkpoints.on_delete == OnDelete::Delete,
            deployment,
        }));
    }
    invalid(if missing { Reason::UnknownReference } else { Reason::InvalidSpec }, told, suspend)
}

/// All that is wrong with a Window or Sink itself.
pub fn problems_of<K>(kind: Kind, object: &Raw<K>) -> Option<String> {
    if object.is_too_deep() {
        return Some("spec: this is nested too deeply to be read".to_owned());
    }
    let name = file(kind.name(), object.name());
    let (manifests, problems) = manifest::read(&[(name.clone(), manifest_of(kind.name(), object))]);
    let mut told: Vec<String> = problems.iter().filter(|problem| problem.is_error()).map(say_problem).collect();
    // What no plan could use is told before one names it.
    for problem in manifests.sinks.iter().filter_map(|sink| unusable_place(&sink.value.spec)) {
        let field = problem.field.unwrap_or_default();
        let expected = problem.expected.map(|expected| format!("; expected {expected}")).unwrap_or_default();
        told.push(format!("{name}: spec.{field}: {}{expected}", problem.message));
    }
    (!told.is_empty()).then(|| summary(told))
}

fn invalid(reason: Reason, told: Vec<String>, suspend: Option<bool>) -> Verdict {
    // A cluster has no manifests.
    let told = told.into_iter().map(|text| text.replace(" in the same manifests", " in this namespace")).collect();
    Verdict::Invalid(Invalid { reason, message: summary(told), suspend })
}

/// The first problems, and how many more there are.
fn summary(told: Vec<String>) -> String {
    let more = told.len().saturating_sub(TOLD);
    let mut message = told.into_iter().take(TOLD).collect::<Vec<_>>().join("\n");
    if message.is_empty() {
        message.push_str("the spec cannot be read");
    }
    if more > 0 {
        message.push_str(&format!("\nand {more} more; `millrace check` shows all"));
    }
    message
}

/// The name under which an object is read.
fn file(kind: &str, name: &str) -> String {
    format!("{kind} {name}")
}

/// An object as the manifest that somebody could have written.
fn manifest_of<K>(kind: &str, object: &Raw<K>) -> String {
    let metadata = json!({"name": object.name(), "namespace": object.namespace()});
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": object.spec}).to_string()
}

/// A problem by the object's field, without line and column of a text that nobody has seen.
fn say_problem(problem: &Problem) -> String {
    let mut text = match problem.file.strip_prefix("Pipeline ") {
        Some(_) => problem.path.clone(),
        None => format!("{}: {}", problem.file, problem.path),
    };
    if !text.is_empty() {
        text.push_str(": ");
    }
    text.push_str(&problem.message);
    if let Some(expected) = &problem.expected {
        text.push_str(&format!("; expected {expected}"));
    }
    if let Some(nearest) = &problem.nearest {
        text.push_str(&format!("; did you mean `{nearest}`?"));
    }
    text
}
