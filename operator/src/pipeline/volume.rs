//! The claim of a Pipeline's volume, `data-<name>-0`. Its StatefulSet's controller makes it.
//!
//! While its Pipeline is there it belongs to nobody, and neither does the pointer: what becomes of the two is decided by the
//! operator alone, when the Pipeline is deleted and its finalizer holds it still. Then they are given to it, and the garbage
//! collector takes them away with it, or they are not, and stay. With an owner before that they would go with a StatefulSet that
//! somebody deletes, or ahead of an edit that has just asked to keep them.
//!
//! Operators before this one had the StatefulSet own its claim, and the Pipeline the pointer. Those are freed where they are found.

use std::time::Duration;

use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use millrace_crds::API_VERSION;
use serde_json::{Value, json};

use super::{
    apply::{metadata, not_ours, resource_version},
    build::{Owner, pod::DATA, run},
    decide::Decision,
    dereference::Observed,
    hearsay::is_owned_by,
};
use crate::{
    cluster::writer::{Wanted, WriteError, Writer},
    context::{Context, Note},
    fault, labels,
    telemetry::chain,
};

/// For how long it is waited for the StatefulSet's controller. If it takes longer it does not run, and the garbage collector, which
/// is of the same process, does not either.
const PATIENCE: Duration = Duration::from_secs(60);

/// The claim, to be read.
pub fn claim(observed: &Observed) -> Wanted {
    let metadata = ObjectMeta {
        name: Some(format!("{DATA}-{}-0", observed.name())),
        namespace: Some(observed.namespace().to_owned()),
        ..ObjectMeta::default()
    };
    Wanted::new(&PersistentVolumeClaim { metadata, ..PersistentVolumeClaim::default() })
}

/// Looks at the claim, until it is known to be well: that it is nobody else's before there is a StatefulSet that would take it,
/// and that it belongs to nobody once there is one. Answers what is waited for, for people.
///
/// # Errors
/// The claim, and why it cannot be used or read.
pub async fn look<W: Writer>(
    context: &Context<W>,
    observed: &Observed,
    decision: &Decision,
    note: &mut Note,
) -> Result<Option<String>, (String, WriteError)> {
    if note.is_volume_free || decision.is_dry_run || decision.document.is_none() {
        return Ok(None);
    }
    let wanted = claim(observed);
    match observed.stateful_set.as_deref() {
        None => {
            let read = context.writer.read(&wanted).await.map_err(|error| (wanted.to_string(), error))?;
            let Some(metadata) = read.as_ref().map(metadata) else { return Ok(None) };
            if !is_its(&metadata, observed) {
                return Err((wanted.to_string(), not_ours(&wanted.resource.kind, observed.name())));
            }
            // Of a StatefulSet or a Pipeline of this name that was deleted: the garbage collector takes it away.
            let is_left = metadata.owner_references.iter().flatten().any(|owner| is_of_ours(owner, observed));
            Ok(is_left.then(|| format!("{wanted} is to go first, which is being deleted")))
        }
        Some(set) if keeps(set) && is_seen(set) => {
            match free(context, observed, &wanted).await {
                Ok(()) => note.is_volume_free = true,
                // That keeps nothing from running.
                Err(error) => tracing::warn!(object = %wanted, error = %chain(&error), "cannot be looked at"),
            }
            Ok(None)
        }
        Some(_) => Ok(None),
    }
}

/// Whether neither the volume nor the pointer is known to go with anything.
pub fn is_free(observed: &Observed, note: &Note) -> bool {
    let pointer = pointer(observed);
    let applied = note.applied.get(&pointer.to_string());
    note.is_volume_free && applied.is_some_and(|applied| applied.hash == pointer.hash)
}

/// Sees to it that nothing that is deleted with the Pipeline takes its volume or its pointer along. Answers whether that is so.
///
/// # Errors
/// Why it may not be so.
pub async fn keep<W: Writer>(context: &Context<W>, observed: &Observed, waited: Duration) -> Result<bool, WriteError> {
    // One that is being deleted is looked at by its controller no more.
    let set = observed.stateful_set.as_deref().filter(|set| set.metadata.deletion_timestamp.is_none());
    if let Some(set) = set {
        if !keeps(set) {
            let spec = json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain"}});
            match context.writer.amend(observed.namespace(), observed.name(), &spec).await {
                Ok(()) => context.metrics.wrote("StatefulSet"),
                Err(WriteError::Gone(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if waited < PATIENCE && !(keeps(set) && is_seen(set)) {
            return Ok(false);
        }
    }
    free(context, observed, &claim(observed)).await?;
    free(context, observed, &pointer(observed)).await?;
    Ok(true)
}

/// Has the volume go with the Pipeline, and the pointer if `pointer_goes`. Answers why the volume stays, and the pointer with it,
/// if it is none of the Pipeline's.
///
/// # Errors
/// Why they may stay.
pub async fn give<W: Writer>(
    context: &Context<W>,
    observed: &Observed,
    pointer_goes: bool,
) -> Result<Option<String>, WriteError> {
    for wanted in [Some(claim(observed)), pointer_goes.then(|| pointer(observed))].into_iter().flatten() {
        let Some(object) = context.writer.read(&wanted).await? else { continue };
        let metadata = metadata(&object);
        let uid = observed.pipeline.uid();
        if is_owned_by(&metadata, uid) {
            continue;
        }
        if !is_its(&metadata, observed) {
            return Ok(Some(format!("{wanted} does not have the label {}: {}", labels::PIPELINE, observed.name())));
        }
        let mut owners = metadata.owner_references.unwrap_or_default();
        owners.push(OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: "Pipeline".to_owned(),
            name: observed.name().to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        });
        fault::point("before-volume-goes", observed.at());
        own(context, &wanted, &object, &owners).await?;
    }
    Ok(None)
}

/// Takes off what has an object go with a StatefulSet or a Pipeline of this name.
async fn free<W: Writer>(context: &Context<W>, observed: &Observed, wanted: &Wanted) -> Result<(), WriteError> {
    let Some(object) = context.writer.read(wanted).await? else { return Ok(()) };
    let owners = metadata(&object).owner_references.unwrap_or_default();
    let (ours, others): (Vec<_>, Vec<_>) = owners.into_iter().partition(|owner| is_of_ours(owner, observed));
    if ours.is_empty() {
        return Ok(());
    }
    own(context, wanted, &object, &others).await
}

async fn own<W: Writer>(
    context: &Context<W>,
    wanted: &Wanted,
    read: &Value,
    owners: &[OwnerReference],
) -> Result<(), WriteError> {
    match context.writer.own(wanted, resource_version(read).unwrap_or_default(), owners).await {
        Ok(()) => context.metrics.wrote(&wanted.resource.kind),
        Err(WriteError::Gone(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn pointer(observed: &Observed) -> Wanted {
    Wanted::new(&run::checkpoint(&Owner::of(observed), false))
}

/// Whether an object was made for a Pipeline of this name. A claim has the labels by which its StatefulSet finds its pods.
fn is_its(metadata: &ObjectMeta, observed: &Observed) -> bool {
    let label = metadata.labels.as_ref().and_then(|labels| labels.get(labels::PIPELINE));
    label.is_some_and(|pipeline| pipeline == observed.name())
}

/// Whether that is a StatefulSet or a Pipeline of this name, there or deleted.
fn is_of_ours(owner: &OwnerReference, observed: &Observed) -> bool {
    ["StatefulSet", "Pipeline"].contains(&owner.kind.as_str()) && owner.name == observed.name()
}

/// Whether a StatefulSet leaves its claim behind.
pub fn keeps(set: &StatefulSet) -> bool {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    policy.and_then(|policy| policy.when_deleted.as_deref()).is_none_or(|when| when == "Retain")
}

/// Whether its controller has seen it as it is.
fn is_seen(set: &StatefulSet) -> bool {
    set.status.as_ref().is_some_and(|status| status.observed_generation >= set.metadata.generation)
}
