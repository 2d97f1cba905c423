//! Pipelines, step by step: dereference, validate, decide, build, status, apply.
//!
//! The status is written before anything is applied, so that the class of an edit stands there before the edit happens; an
//! object that cannot be written is told in the status after that.

mod apply;
pub mod build;
pub mod decide;
pub mod dereference;
mod events;
mod history;
mod overlay;
mod reject;
mod status;
#[cfg(test)]
mod tests;
mod trial;
pub mod validate;

use std::{sync::Arc, time::Duration};

use kube::Resource;
use millrace_crds::PipelineStatus;
use serde_json::json;

use self::{
    decide::{Known, decide},
    dereference::{Observed, dereference},
    status::pods::{PodState, pod_state},
    validate::{Verdict, validate},
};
use crate::{
    cluster::{
        key::Key,
        writer::{WriteError, Writer},
    },
    context::{Context, Note, WATCH_LAG},
    fault,
};

/// How often what keeps a pod from starting is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// For how long a pod may be on its way before that.
const PATIENCE: Duration = Duration::from_secs(5);

/// Brings a Pipeline nearer to what it asks for. Answers when to look again without being asked to.
///
/// # Errors
/// What could not be written. It is safe to do all of it again.
pub async fn reconcile<W: Writer>(
    context: &Context<W>,
    key: &Key,
    note: &mut Note,
) -> Result<Option<Duration>, WriteError> {
    let Some(mut observed) = dereference(&context.stores, key) else { return Ok(None) };
    let look_again = warning(context, &mut observed, note).await;
    let observed = observed;
    let verdict = verdict(&observed, note);
    let now = context.clock.now();
    let before: PipelineStatus = note.status_of(&observed.pipeline);
    let known = Known { plans: &context.plans, runtime_image: &context.runtime_image, now };
    let decision = decide(&observed, &verdict, &before, &known);
    let valid = match &*verdict {
        Verdict::Valid(valid) => Some(&**valid),
        Verdict::Invalid(_) => None,
    };
    let after = status::status(&observed, &decision, &before, note.failure.as_deref(), now);
    let again = write_status(context, key, &observed, &before, &after, note).await?;
    let due = decision.due.map(|due| due.since(now) + Duration::from_millis(1));
    let again = again.into_iter().chain(look_again).chain(due).min();

    if apply::is_settled(&observed, &decision, note) {
        return Ok(again);
    }
    let steps = build::steps(&observed, valid, &decision, &context.runtime_image);
    let mut applied = apply::apply(context, &observed, &decision, &steps, note).await;
    if applied.is_ok()
        && !decision.builds
        && !decision.is_dry_run
        && observed.replicas().is_some_and(|replicas| replicas != decision.replicas)
    {
        applied = scale(context, &observed, decision.replicas, note).await;
    }
    match applied {
        Ok(_) if note.failure.take().is_some() => Ok(Some(Duration::ZERO)),
        Ok(look_again) => Ok(again.into_iter().chain(look_again).min()),
        Err((_, WriteError::NotLeading)) => Err(WriteError::NotLeading),
        Err((object, error)) => {
            let failure = format!("{object} cannot be written: {}", crate::telemetry::chain(&error));
            // What may pass at once is not worth a status.
            let is_lasting = matches!(error, WriteError::Forbidden(_) | WriteError::Rejected(_)) || note.errors > 2;
            if is_lasting && note.failure.as_ref() != Some(&failure) {
                note.failure = Some(failure);
                let failed = status::status(&observed, &decision, &after, note.failure.as_deref(), now);
                write_status(context, key, &observed, &after, &failed, note).await?;
            }
            Err(error)
        }
    }
}

/// Reads what keeps a pod from starting where its status does not say: a Secret that cannot be mounted, a volume that cannot be
/// attached, a quota. Answers when to look again; no pod that runs is asked about.
async fn warning<W: Writer>(context: &Context<W>, observed: &mut Observed, note: &mut Note) -> Option<Duration> {
    let name = observed.name().to_owned();
    let (kind, object, since) = match pod_state(observed.pod.as_deref()) {
        PodState::NotReady { runs: false, .. } => {
            ("Pod", format!("{name}-0"), observed.pod.as_ref()?.metadata.creation_timestamp.clone())
        }
        PodState::Absent if observed.replicas().is_some_and(|replicas| replicas > 0) => {
            ("StatefulSet", name, observed.stateful_set.as_ref()?.metadata.creation_timestamp.clone())
        }
        _ => {
            note.warning = None;
            return None;
        }
    };
    let now = context.clock.monotonic();
    if let Some((warning, at)) = &note.warning
        && now.saturating_sub(*at) < LOOK_AGAIN
    {
        observed.warning = warning.clone();
        return Some(LOOK_AGAIN - now.saturating_sub(*at));
    }
    // A pod that has just been made is only slow.
    let age = since.map(|since| context.clock.now().0 as i64 - since.0.as_millisecond()).unwrap_or_default();
    let patience = PATIENCE.as_millis() as i64;
    if age < patience {
        return Some(Duration::from_millis((patience - age.max(0)) as u64));
    }
    match context.writer.warning(observed.namespace(), kind, &object).await {
        Ok(warning) => observed.warning = warning,
        Err(error) => tracing::debug!(%object, error = %crate::telemetry::chain(&error), "events cannot be read"),
    }
    note.warning = Some((observed.warning.clone(), now));
    Some(LOOK_AGAIN)
}

/// What is found of the spec: looked for again only when it, or what it names, is another.
fn verdict(observed: &Observed, note: &mut Note) -> Arc<Verdict> {
    let identities = observed.identities();
    if let Some((of, verdict)) = &note.verdict
        && *of == identities
    {
        return Arc::clone(verdict);
    }
    let verdict = Arc::new(validate(observed));
    note.settled = None;
    note.verdict = Some((identities, Arc::clone(&verdict)));
    verdict
}

/// Writes the status if it says something new, and tells what happened. Answers when numbers that are held back are due.
async fn write_status<W: Writer>(
    context: &Context<W>,
    key: &Key,
    observed: &Observed,
    before: &PipelineStatus,
    after: &PipelineStatus,
    note: &mut Note,
) -> Result<Option<Duration>, WriteError> {
    let (old, new) = (json!(before), json!(after));
    let now = context.clock.monotonic();
    if old == new {
        let disputed = note.disputed(&observed.pipeline, now);
        if disputed.is_none_or(|rest| !rest.is_zero()) {
            return Ok(disputed);
        }
    } else if status::without_numbers(before) == status::without_numbers(after)
        && let Some(written) = &note.status
    {
        let due = written.at + context.numbers_pause();
        if due > now {
            return Ok(Some(due - now));
        }
    }
    fault::point("before-status", observed.at());
    let stored = context.writer.status(key, &new).await?;
    context.metrics.wrote("status");
    note.wrote(new, stored, now);
    fault::point("after-status", observed.at());
    let mut told = events::happenings(before, after);
    told.retain(|happening| note.is_news(happening, now));
    if !told.is_empty() {
        fault::point("before-events", observed.at());
    }
    for happening in told {
        // What an event says stands in the status too; that one is lost is no reason to stop.
        if let Err(error) = context.writer.tell(&observed.pipeline.object_ref(&()), &happening).await {
            tracing::warn!(object = %key, error = %crate::telemetry::chain(&error), "an event could not be written");
        }
    }
    Ok(None)
}

/// Changes the number of pods, where the rest of the StatefulSet stays as it is. Answers when to look again.
async fn scale<W: Writer>(
    context: &Context<W>,
    observed: &Observed,
    replicas: i32,
    note: &mut Note,
) -> Result<Option<Duration>, (String, WriteError)> {
    let object = format!("StatefulSet {}", observed.name());
    let now = context.clock.monotonic();
    if let Some((known, at)) = note.scaled
        && known == replicas
        && now.saturating_sub(at) < WATCH_LAG
    {
        return Ok(Some(at + WATCH_LAG - now));
    }
    fault::point("before-scale", observed.at());
    context
        .writer
        .scale(observed.namespace(), observed.name(), replicas)
        .await
        .map_err(|error| (object.clone(), error))?;
    context.metrics.wrote("StatefulSet");
    fault::point("after-scale", observed.at());
    note.applied.remove(&object);
    note.scaled = Some((replicas, now));
    Ok(None)
}
