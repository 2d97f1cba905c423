//! `kubectl millrace plan -f`: what applying manifests would do to the Pipelines of a cluster.

use std::collections::BTreeSet;

use kube::{ResourceExt, api::DynamicObject};
use millrace_crds::{
    API_VERSION, DeploymentSpec,
    manifest::{Manifests, read},
};
use millrace_plan::{EditClass, Plan, compile, diff, handover::unsupported};
use serde_json::{Value, json};

use super::{
    cli::PlanArgs,
    cluster::{Cluster, Observed},
};
use crate::{
    Failure,
    manifests::{self, Texts},
    plan::edit_text,
    telemetry,
};

/// Shows the class of each edit.
pub async fn show(cluster: &Cluster, args: &PlanArgs) -> Result<(), Failure> {
    let texts = manifests::read_files(&args.files)?;
    let (given, _) = read(&texts);
    let named = namespaces(&given);
    if let Some(other) = named.iter().find(|named| **named != cluster.namespace) {
        let why = format!("the manifests are for the namespace {other}, and {} is looked at", cluster.namespace);
        return Err(Failure::usage(why).advise(format!("add `-n {other}`")));
    }
    let mut refusals = objections(cluster, &given).await?;
    let there = cluster.windows_and_sinks().await?;
    let running = cluster.observe_all(false).await?;
    let mut names: BTreeSet<String> = given.pipelines.iter().map(|pipeline| pipeline.name().to_owned()).collect();
    if names.is_empty() {
        // Windows and Sinks alone: what changes with them is the Pipelines that name them.
        names = running.iter().filter(|seen| uses(seen, &given)).map(Observed::name).collect();
        if names.is_empty() && given.windows.is_empty() && given.sinks.is_empty() {
            for message in manifests::compile(&texts, None).messages {
                eprintln!("{message}");
            }
            return Err(Failure::told());
        }
    }
    for name in &names {
        let mut all = texts.clone();
        // What the manifest reader takes for the namespace of one that names none.
        let namespace = named.first().map_or("default", String::as_str);
        let seen = running.iter().find(|seen| seen.name() == *name);
        if !given.pipelines.iter().any(|given| given.name() == name)
            && let Some(seen) = seen
        {
            all.push(manifest("Pipeline", name, namespace, &seen.object.data["spec"]));
        }
        all.extend(missing(&there, &given, namespace));
        let compiled = manifests::compile(&all, Some(name));
        for message in &compiled.messages {
            eprintln!("{message}");
        }
        let plan = compiled.plan.ok_or_else(Failure::told)?;
        refusals += usize::from(!show_one(name, &plan, seen)?);
    }
    if names.is_empty() {
        telemetry::say("no Pipeline of the cluster names these Windows and Sinks");
    }
    match refusals {
        0 => Ok(()),
        _ => Err(Failure::failed("the edit would be refused")),
    }
}

/// The namespaces that the manifests name.
fn namespaces(given: &Manifests) -> BTreeSet<String> {
    let pipelines = given.pipelines.iter().map(|it| &it.value.metadata.namespace);
    let windows = given.windows.iter().map(|it| &it.value.metadata.namespace);
    let sinks = given.sinks.iter().map(|it| &it.value.metadata.namespace);
    pipelines.chain(windows).chain(sinks).flatten().cloned().collect()
}

/// What the API server would not take, told; how many objects.
async fn objections(cluster: &Cluster, given: &Manifests) -> Result<usize, Failure> {
    let pipelines = given.pipelines.iter().map(|it| ("Pipeline", it.name(), json!(it.value.spec)));
    let windows = given.windows.iter().map(|it| ("Window", it.name(), json!(it.value.spec)));
    let sinks = given.sinks.iter().map(|it| ("Sink", it.name(), json!(it.value.spec)));
    let mut count = 0;
    for (kind, name, spec) in pipelines.chain(windows).chain(sinks) {
        let body = object(kind, name, &cluster.namespace, &spec);
        if let Some(why) = cluster.objection(kind, name, &body).await? {
            telemetry::say(&format!("{kind} {name}: the API server would refuse it: {why}"));
            count += 1;
        }
    }
    Ok(count)
}

/// Says what would come of one Pipeline; whether it would be taken up.
fn show_one(name: &str, plan: &Plan, seen: Option<&Observed>) -> Result<bool, Failure> {
    if let Some(why) = plan.spec.pipeline.deployment.as_ref().and_then(unsupported) {
        telemetry::say(&format!("{name}: the operator would refuse it: {why}"));
        return Ok(false);
    }
    let Some((seen, running)) = seen.and_then(|seen| Some((seen, seen.plan.as_ref()?))) else {
        telemetry::say(&format!("{name}: new; {} nodes, revision {}", plan.nodes.len(), plan.revision));
        return Ok(true);
    };
    let mut old = running.spec.clone();
    // The plan that runs has none of what only the pods and the operator need.
    let spec = &seen.object.data["spec"];
    old.pipeline.deployment =
        serde_json::from_value::<Option<DeploymentSpec>>(spec["deployment"].clone()).ok().flatten();
    old.pipeline.suspend = running.suspend;
    let old = compile(&old).map_err(|errors| {
        let why = errors.first().map(|error| error.message.clone()).unwrap_or_default();
        Failure::failed(format!("the plan that runs is none that this version can read: {why}"))
    })?;
    let edit = diff(&old, plan);
    telemetry::print(&format!("{name}: {}", edit_text(&edit)));
    let rejected = seen.status.rejected.as_ref().filter(|rejected| rejected.revision == plan.revision.0);
    if let Some(rejected) = rejected.filter(|rejected| rejected.pods.is_none()) {
        let why = "the operator would not try it: it was tried before and taken back, and is not tried again as it is";
        telemetry::say(&format!("{name}: {why}: {}", rejected.message));
        return Ok(false);
    }
    Ok(edit.class != EditClass::Refused)
}

/// Whether a Pipeline of the cluster names one of these.
fn uses(seen: &Observed, given: &Manifests) -> bool {
    let named = |list: &str, field: &str| -> Vec<String> {
        let items = seen.object.data["spec"][list].as_array().into_iter().flatten();
        items.filter_map(|item| item[field].as_str()).map(str::to_owned).collect()
    };
    let (windows, sinks) = (named("transforms", "window"), named("outputs", "sink"));
    given.windows.iter().any(|window| windows.iter().any(|name| name == window.name()))
        || given.sinks.iter().any(|sink| sinks.iter().any(|name| name == sink.name()))
}

/// The cluster's Windows and Sinks that the manifests do not hold.
fn missing(there: &[(&'static str, DynamicObject)], given: &Manifests, namespace: &str) -> Texts {
    let is_given = |kind: &str, name: &str| match kind {
        "Window" => given.windows.iter().any(|it| it.name() == name),
        _ => given.sinks.iter().any(|it| it.name() == name),
    };
    let missing = there.iter().filter(|(kind, object)| !is_given(kind, &object.name_any()));
    missing.map(|(kind, object)| manifest(kind, &object.name_any(), namespace, &object.data["spec"])).collect()
}

/// An object of the cluster as a manifest; JSON is YAML.
fn manifest(kind: &str, name: &str, namespace: &str, spec: &Value) -> (String, Vec<u8>) {
    let text = object(kind, name, namespace, spec).to_string();
    (format!("<cluster: {kind} {name}>"), text.into_bytes())
}

fn object(kind: &str, name: &str, namespace: &str, spec: &Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}
