//! Jobs that delete checkpoints and are not to go on: the one of a Pipeline that is let go before its work is done, and one that
//! such a Pipeline has left behind, which would delete those of another of its name.

use k8s_openapi::api::batch::v1::Job;
use kube::core::ApiResource;
use millrace_crds::is_object_store;
use serde_json::Value;

use super::{condition, job::UID};
use crate::{
    cluster::writer::{WriteError, Writer},
    context::{Context, Note},
    labels,
    pipeline::{decide::Decision, dereference::Observed},
};

/// Tells the Jobs for this name that are still at work to end, with their pods. Answers the names of those that have not ended
/// yet. `is_meant`: whether a Job is, by the UID of the Pipeline for which it was made.
async fn end<W: Writer>(
    context: &Context<W>,
    observed: &Observed,
    is_meant: impl Fn(&str) -> bool,
) -> Result<Vec<String>, WriteError> {
    let resource = ApiResource::erase::<Job>(&());
    let namespace = observed.namespace();
    let jobs = context.writer.list(&resource, namespace, &labels::clearing_text(observed.name())).await?;
    let mut at_work = Vec::new();
    for job in jobs {
        let metadata = &job["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (name, uid) = (text(&metadata["name"]), text(&metadata["uid"]));
        let has_ended = condition(&job, "Complete").or(condition(&job, "Failed")).is_some();
        if has_ended || !is_meant(&text(&metadata["labels"][UID])) {
            continue;
        }
        if metadata["deletionTimestamp"].is_null() {
            context.writer.delete(&resource, namespace, &name, &uid).await?;
            context.metrics.wrote("Job");
            tracing::info!(pipeline = %format_args!("{namespace}/{}", observed.name()), job = %name, "told to end");
        }
        at_work.push(name);
    }
    Ok(at_work)
}

/// Ends the Job of a Pipeline that is let go.
///
/// # Errors
/// Why it may go on. An operator that has no right to end it lets the Pipeline go all the same.
pub async fn end_its<W: Writer>(context: &Context<W>, observed: &Observed) -> Result<(), WriteError> {
    match end(context, observed, |uid| uid == observed.pipeline.uid()).await {
        Err(WriteError::Forbidden(why)) => {
            tracing::warn!(pipeline = %observed.name(), "a Job that deletes its checkpoints may go on: {why}");
            Ok(())
        }
        ended => ended.map(drop),
    }
}

/// Ends the Jobs that another Pipeline of this name has left, before there is a pod whose checkpoints they could delete. Answers
/// what is waited for, for people.
///
/// # Errors
/// What could not be done, and why.
pub async fn end_others<W: Writer>(
    context: &Context<W>,
    observed: &Observed,
    decision: &Decision,
    note: &mut Note,
) -> Result<Option<String>, (String, WriteError)> {
    let document = decision.document.as_ref().filter(|_| !decision.is_dry_run && observed.stateful_set.is_none());
    let storage = document.and_then(|document| document.spec.pipeline.checkpoints.storage.as_deref());
    if note.is_alone || storage.is_none_or(|storage| !is_object_store(storage)) {
        return Ok(None);
    }
    let ended = end(context, observed, |uid| uid != observed.pipeline.uid()).await;
    let at_work = ended.map_err(|error| (format!("the Jobs that delete checkpoints of {}", observed.name()), error))?;
    note.is_alone = at_work.is_empty();
    Ok((!note.is_alone).then(|| {
        format!(
            "Job {} is to end first, which deletes the checkpoints of a Pipeline of this name that was deleted",
            at_work.join(", ")
        )
    }))
}
