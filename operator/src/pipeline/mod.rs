//! Pipelines, step by step: dereference, validate, decide, build, status, apply.
//!
//! The status is written before anything is applied, so that the class of an edit stands there before the edit happens; an
//! object that cannot be written is told in the status after that.

mod apply;
pub mod build;
pub mod decide;
pub mod deletion;
pub mod dereference;
mod events;
mod hearsay;
mod history;
mod overlay;
mod reject;
pub mod silence;
mod status;
#[cfg(test)]
mod tests;
mod trial;
pub mod unfit;
pub mod validate;
mod volume;

use std::{sync::Arc, time::Duration};

use kube::Resource;
use millrace_crds::PipelineStatus;
use serde_json::{Value, json};

use self::{
    apply::Reached,
    decide::{Decision, Known, decide},
    dereference::{ACCOUNT, Observed, dereference},
    silence::{Listened, listen},
    status::pods::{PodState, pod_state},
    unfit::{Unfit, blame},
    validate::{Verdict, validate},
};
use crate::{
    cluster::{
        key::Key,
        warning::Regarding,
        writer::{Happening, Wanted, WriteError, Writer},
    },
    conditions::{Reason, Type},
    context::{Context, Note, WATCH_LAG},
    fault, room,
};

/// How often what keeps a pod from starting is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// For how long a Sink or a Window that a new Pipeline names may come after it before anybody is warned.
const GRACE: Duration = Duration::from_secs(5);
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
    if observed.is_going() {
        return deletion::delete(context, key, &observed, note).await;
    }
    let look_again = warning(context, &mut observed, note).await;
    let before: PipelineStatus = note.status_of(&observed.pipeline);
    let listened = hear(context, &observed, &before, note).await;
    // Without its Lease a runtime reports nothing, and nobody watches that.
    let listen_again = listened.again.or(listened.silence.as_ref().map(|_| apply::LOOK_AGAIN));
    observed.silence = listened.silence;
    let observed = observed;
    let now = context.clock.now();
    let known = Known { plans: &context.plans, runtime_image: &context.runtime_image, now };
    let plan = || {
        let verdict = verdict(&observed, note);
        let decision = decide(&observed, &verdict, &before, &known);
        (verdict, decision)
    };
    let Some((verdict, decision)) = context.room.plan(sql_bytes(&observed.pipeline.spec), plan).await else {
        return Ok(Some(room::LOOK_AGAIN));
    };
    let valid = match &*verdict {
        Verdict::Valid(valid) => Some(&**valid),
        Verdict::Invalid(_) => None,
    };
    let steps = || build::steps(&observed, valid, &decision, &context.runtime_image);
    // What was refused stands until it is wanted no more.
    note.unfit = note.unfit.take().filter(|unfit| steps().iter().any(|step| unfit.is(&step.wanted)));
    let after = status::status(&observed, &decision, &before, note.obstacle(), now);
    let again = write_status(context, key, &observed, &before, &after, note).await?;
    let held = tell_held(context, &observed, &after, note).await;
    let due = decision.due.map(|due| due.since(now) + Duration::from_millis(1));
    let again = again.into_iter().chain(look_again).chain(listen_again).chain(held).chain(due).min();

    // Before anything runs that could write what the finalizer is for.
    let held = deletion::hold(context, key, &observed, &decision, note).await;
    if held.is_ok() && apply::is_settled(&observed, &decision, note) {
        return Ok(again);
    }
    let steps = steps();
    let was_unfit = note.unfit.is_some();
    let ended = match held {
        Ok(()) if !decision.is_dry_run && !observed.left.is_empty() => Ok(Some(left(&observed.left))),
        Ok(()) => match volume::look(context, &observed, &decision, note).await {
            Ok(None) => deletion::ending::end_others(context, &observed, &decision, note).await,
            looked => looked,
        },
        Err(error) => Err(error),
    };
    let applied = match ended {
        Ok(None) => apply::apply(context, &observed, &decision, &steps, note).await,
        Ok(Some(waits)) => Ok(Reached::Waits(waits)),
        Err(error) => Err(error),
    };
    let mut applied = match applied {
        Ok(Reached::Waits(waits)) => {
            // What has failed before is tried again after it.
            (note.failure, note.waits) = (None, Some(waits));
            let told = status::status(&observed, &decision, &after, note.obstacle(), now);
            write_status(context, key, &observed, &after, &told, note).await?;
            return Ok(Some(deletion::LOOK_SOON));
        }
        Ok(Reached::End(look_again)) => Ok(look_again),
        Err(error) => Err(error),
    };
    if let Ok(look_again) = applied
        && (!decision.builds || note.unfit.is_some())
        && !decision.is_dry_run
    {
        let amended = amend(context, &observed, &decision, note).await;
        applied = amended.map(|amended| look_again.into_iter().chain(amended).min());
    }
    if applied.is_ok() {
        // What kept the finalizer on may have been done by now.
        let held = deletion::hold(context, key, &observed, &decision, note).await;
        applied = held.and(applied);
    }
    if applied.is_ok() && !decision.is_dry_run && decision.account.as_deref() != observed.account_noted() {
        tell_replaced(context, &observed, note).await;
    }
    match applied {
        Ok(_) if note.is_rid_of_obstacles() || (was_unfit && note.unfit.is_none()) => Ok(Some(Duration::ZERO)),
        Ok(look_again) => Ok(again.into_iter().chain(look_again).min()),
        Err((_, WriteError::NotLeading)) => Err(WriteError::NotLeading),
        Err((object, error)) => {
            let step = steps.iter().find(|step| step.wanted.to_string() == object);
            if let (WriteError::Invalid(rejection), Some(step), Some(valid)) = (&error, step, valid)
                && let Some(message) = blame(rejection, &step.wanted, valid)
            {
                note.unfit = Some(Unfit::now(&step.wanted, message, context.clock.monotonic()));
                let told = status::status(&observed, &decision, &after, note.obstacle(), now);
                write_status(context, key, &observed, &after, &told, note).await?;
                return Err(error);
            }
            let error = error.without_fields();
            let failure = format!("{object} cannot be written: {}", crate::telemetry::chain(&error));
            // What may pass at once is not worth a status.
            let is_lasting =
                matches!(error, WriteError::Forbidden(_) | WriteError::Rejected(_) | WriteError::Terminating(_));
            let is_lasting = is_lasting || note.errors > 2;
            if is_lasting && note.failure.as_ref() != Some(&failure) {
                note.failure = Some(failure);
                let failed = status::status(&observed, &decision, &after, note.obstacle(), now);
                write_status(context, key, &observed, &after, &failed, note).await?;
            }
            Err(error)
        }
    }
}

/// How much SQL a spec has.
fn sql_bytes(spec: &Value) -> usize {
    let transforms = spec["transforms"].as_array().into_iter().flatten();
    transforms.filter_map(|transform| transform["sql"].as_str()).map(str::len).sum()
}

/// What the garbage collector has not taken away yet. To take it over would be to go on with what was deleted.
fn left(ids: &[String]) -> String {
    format!("{} is to go first, which is left of a Pipeline of this name that was deleted", ids.join(", "))
}

/// Finds out whether the runtime still speaks, if need be by a look at its Lease.
async fn hear<W: Writer>(
    context: &Context<W>,
    observed: &Observed,
    before: &PipelineStatus,
    note: &mut Note,
) -> Listened {
    let (now, pause) = (context.clock.monotonic(), context.numbers_pause());
    let listened = listen(&mut note.heard, observed, before, now, pause);
    let Some(heard) = note.heard.as_mut().filter(|_| listened.looks) else { return listened };
    let lease = Wanted::new(&build::run::coordinator(&build::Owner::of(observed)));
    heard.saw(context.writer.read(&lease).await, now);
    listen(&mut note.heard, observed, before, now, pause)
}

/// Reads what keeps a pod from starting where its status does not say: a Secret that cannot be mounted, a volume that cannot be
/// attached, a quota. Answers when to look again; no pod that runs is asked about.
async fn warning<W: Writer>(context: &Context<W>, observed: &mut Observed, note: &mut Note) -> Option<Duration> {
    let (kind, metadata) = match pod_state(observed.pod.as_deref()) {
        PodState::NotReady { runs: false, .. } => ("Pod", &observed.pod.as_ref()?.metadata),
        PodState::Absent if observed.replicas().is_some_and(|replicas| replicas > 0) => {
            ("StatefulSet", &observed.stateful_set.as_ref()?.metadata)
        }
        _ => {
            note.warning = None;
            return None;
        }
    };
    let since = metadata.creation_timestamp.clone();
    let of = Regarding {
        kind,
        namespace: observed.namespace().to_owned(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone(),
    };
    let now = context.clock.monotonic();
    if let Some((known, warning, at)) = &note.warning
        && *known == of
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
    match context.writer.warning(&of).await {
        Ok(warning) => observed.warning = warning,
        Err(error) => {
            tracing::debug!(object = %of.name, error = %crate::telemetry::chain(&error), "events cannot be read");
        }
    }
    note.warning = Some((of, observed.warning.clone(), now));
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
    let stored = context.writer.status(key, observed.pipeline.uid(), &new).await?;
    context.metrics.wrote("status");
    note.wrote(new, stored, now);
    fault::point("after-status", observed.at());
    let mut told = events::happenings(before, after);
    // What is applied together comes one by one.
    if age(context, observed) < GRACE
        && let Some(held) = told.iter().position(|it| it.reason == Reason::UnknownReference.name())
    {
        note.held = Some((told.remove(held), now + GRACE));
    }
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
    Ok(note.held.as_ref().map(|(_, due)| due.saturating_sub(now)))
}

/// How long ago a Pipeline was made, by the clocks of this machine and the API server's, of which the one may be ahead.
fn age<W: Writer>(context: &Context<W>, observed: &Observed) -> Duration {
    let made = observed.pipeline.metadata.creation_timestamp.as_ref().map_or(0, |at| at.0.as_millisecond());
    Duration::from_millis(u64::try_from(context.clock.now().0 as i64 - made).unwrap_or_default())
}

/// Tells what was held back, if it is still so. Answers when it is due.
async fn tell_held<W: Writer>(
    context: &Context<W>,
    observed: &Observed,
    status: &PipelineStatus,
    note: &mut Note,
) -> Option<Duration> {
    let (happening, due) = note.held.take()?;
    let now = context.clock.monotonic();
    let is_so = status::of(&status.conditions, Type::ConfigValid)
        .is_some_and(|(_, reason, message)| reason == happening.reason && message == happening.note);
    match is_so {
        true if now < due => {
            note.held = Some((happening, due));
            return Some(due - now);
        }
        true if note.is_news(&happening, now) => {
            if let Err(error) = context.writer.tell(&observed.pipeline.object_ref(&()), &happening).await {
                tracing::warn!(error = %crate::telemetry::chain(&error), "an event could not be written");
            }
        }
        _ => {}
    }
    None
}

/// Changes the number of pods, and has them made anew, where the rest of the StatefulSet stays as it is. Answers when to look again.
async fn amend<W: Writer>(
    context: &Context<W>,
    observed: &Observed,
    decision: &Decision,
    note: &mut Note,
) -> Result<Option<Duration>, (String, WriteError)> {
    let mut spec = serde_json::Map::new();
    if observed.replicas().is_some_and(|replicas| replicas != decision.replicas) {
        spec.insert("replicas".to_owned(), json!(decision.replicas));
    }
    if observed.stateful_set.is_some() && decision.account.as_deref() != observed.account_noted() {
        let annotations = json!({ACCOUNT: decision.account});
        spec.insert("template".to_owned(), json!({"metadata": {"annotations": annotations}}));
    }
    if observed.stateful_set.as_deref().is_some_and(|set| !volume::keeps(set)) {
        spec.insert("persistentVolumeClaimRetentionPolicy".to_owned(), json!({"whenDeleted": "Retain"}));
    }
    if spec.is_empty() {
        return Ok(None);
    }
    let spec = json!(spec);
    let object = format!("StatefulSet {}", observed.name());
    let now = context.clock.monotonic();
    if let Some((known, at)) = &note.amended
        && *known == spec
        && now.saturating_sub(*at) < WATCH_LAG
    {
        return Ok(Some(*at + WATCH_LAG - now));
    }
    fault::point("before-scale", observed.at());
    context
        .writer
        .amend(observed.namespace(), observed.name(), &spec)
        .await
        .map_err(|error| (object.clone(), error))?;
    context.metrics.wrote("StatefulSet");
    fault::point("after-scale", observed.at());
    note.applied.remove(&object);
    note.amended = Some((spec, now));
    Ok(None)
}

/// Tells that pods are made anew though nobody has edited them.
async fn tell_replaced<W: Writer>(context: &Context<W>, observed: &Observed, note: &mut Note) {
    let pod = format!("pod {}-0", observed.name());
    let why = "its ServiceAccount was made anew after it, and the API server takes its token no more";
    let happening = Happening { reason: "PodReplaced", note: format!("{pod} is replaced: {why}"), is_warning: true };
    if note.is_news(&happening, context.clock.monotonic())
        && let Err(error) = context.writer.tell(&observed.pipeline.object_ref(&()), &happening).await
    {
        tracing::warn!(%pod, error = %crate::telemetry::chain(&error), "an event could not be written");
    }
}
