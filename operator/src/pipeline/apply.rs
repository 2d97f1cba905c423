//! The last step: makes the objects as they are wanted, and writes nothing where they are.

use std::time::Duration;

use kube::{Resource, api::ObjectMeta};
use serde::Deserialize;
use serde_json::Value;

use super::{
    build::Step,
    decide::Decision,
    dereference::Observed,
    hearsay::{is_owned_by, owned_by_another},
    left,
    status::pods::{PodState, pod_state},
};
use crate::{
    cluster::{
        sameness::first_difference,
        stores::get,
        writer::{APPLIED, FIELD_MANAGER, Happening, Wanted, WriteError, Writer},
    },
    context::{Applied, Context, Note, Settled, WATCH_LAG},
    fault, labels,
};

/// How often what is not watched is looked at while no pod is ready, or the one that is says nothing.
pub const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How far it has come.
pub enum Reached {
    /// The end. What differs and is believed to be behind is to be looked at again after this long.
    End(Option<Duration>),
    /// This is to happen first, for people.
    Waits(String),
}

/// Applies the steps in their order. An error ends it: what comes later may need what came before.
///
/// # Errors
/// The object that could not be written, and why.
pub async fn apply<W: Writer>(
    context: &Context<W>,
    observed: &Observed,
    decision: &Decision,
    steps: &[Step],
    note: &mut Note,
) -> Result<Reached, (String, WriteError)> {
    let mut look_again = None;
    let mut has_written = false;
    let mut failed = None;
    note.settled = None;
    for step in steps {
        if failed.is_some() && !step.is_document {
            continue;
        }
        if !is_still_there(context, observed) {
            // What is written now would be taken for what another of its name has.
            return Ok(Reached::End(look_again));
        }
        let wanted = &step.wanted;
        let id = wanted.to_string();
        let now = context.clock.monotonic();
        if let Some(rest) = note.unfit.as_ref().and_then(|unfit| unfit.rest(wanted, now)) {
            look_again = look_again.into_iter().chain([rest]).min();
            continue;
        }
        let known = note.applied.get(&id);
        let stored = match observed.stored.get(&id) {
            Some(stored) => Some(stored.value()),
            None if is_believed(known, wanted, step.is_watched, observed, now) => {
                let rest = known.filter(|_| step.is_watched).and_then(|known| rest(known, now));
                look_again = look_again.into_iter().chain(rest).min();
                continue;
            }
            None => {
                let read = context.writer.read(wanted).await.map_err(|error| (id.clone(), error))?;
                match read.as_ref().map(|object| whose(object, observed)) {
                    Some(Whose::Strangers) => {
                        return Err((id, not_ours(&wanted.resource.kind, observed.name())));
                    }
                    Some(Whose::Deleted) => return Ok(Reached::Waits(left(&[id]))),
                    Some(Whose::Ours) | None => read,
                }
            }
        };
        let (despite, is_contested) = match need(wanted, stored.as_ref(), known, now) {
            Need::Apply { despite } => (despite, is_anothers(wanted, stored.as_ref(), known)),
            Need::Patience(rest) => {
                look_again = look_again.into_iter().chain([rest]).min();
                continue;
            }
            Need::Nothing => {
                note.is_fit(wanted);
                if !step.is_watched {
                    note.applied.insert(id, Applied::now(&wanted.hash, now, None, None));
                }
                continue;
            }
        };
        fault::point(step.point, observed.at());
        tracing::info!(pipeline = %format_args!("{}/{}", observed.namespace(), observed.name()), object = %id, "applied");
        match write(context, step, stored.as_ref()).await {
            Ok(()) => {}
            // Pods that run can do without it, and the plan of an edit is not kept from them.
            Err(error) if step.can_be_missed && is_no(&error) => {
                failed = failed.or(Some((id, error)));
                continue;
            }
            Err(error) => return Err((id, error)),
        }
        context.metrics.wrote(&wanted.resource.kind);
        note.is_fit(wanted);
        has_written = true;
        if is_contested {
            tell_contested(context, observed, &id, note).await;
        }
        let applied = Applied::now(&wanted.hash, now, despite, note.applied.get(&id));
        note.applied.insert(id, applied);
        match step.point {
            "before-plan" => fault::point("after-plan", observed.at()),
            "before-stateful-set" => fault::point("after-stateful-set", observed.at()),
            _ => {}
        }
    }
    if let Some(failed) = failed {
        return Err(failed);
    }
    // What is as it is wanted stays so until one of the two changes.
    let is_settled = !has_written && look_again.is_none();
    note.settled = is_settled.then(|| Settled { versions: observed.versions(), decision: decision.clone() });
    Ok(Reached::End(look_again))
}

/// Applies an object, or makes it anew from what is there where that does not go together with it: somebody has changed what lists
/// are merged by, a port's number say, and both would be in the list.
async fn write<W: Writer>(context: &Context<W>, step: &Step, stored: Option<&Value>) -> Result<(), WriteError> {
    let Step { wanted, .. } = step;
    let version = stored.and_then(resource_version);
    let error = match context.writer.apply(wanted, version.filter(|_| step.is_ours_alone)).await {
        Err(WriteError::Invalid(rejection)) => WriteError::Invalid(rejection),
        applied => return applied.map(drop),
    };
    // A spec that makes no valid pods is told with what the API server has said to it.
    let was_taken = stored.is_some_and(|stored| applied(stored) == Some(&wanted.hash));
    match version.filter(|_| was_taken || wanted.resource.kind != "StatefulSet") {
        Some(version) => context.writer.replace(wanted, version).await,
        None => Err(error),
    }
}

/// Whether the API server has said no, and would say so again.
pub fn is_no(error: &WriteError) -> bool {
    matches!(error, WriteError::Forbidden(_) | WriteError::Rejected(_) | WriteError::Invalid(_))
}

/// The hash of what was applied, as the object has it.
fn applied(stored: &Value) -> Option<&str> {
    stored.pointer("/metadata/annotations")?.get(APPLIED)?.as_str()
}

/// Whether all is as it was when nothing had to be written; what is not watched is looked at now and then while no pod is ready.
pub fn is_settled(observed: &Observed, decision: &Decision, note: &Note) -> bool {
    let settled = note.settled.as_ref().filter(|_| is_well(observed) || decision.replicas == 0);
    settled.is_some_and(|settled| settled.decision == *decision && settled.versions == observed.versions())
}

/// Whether an object that no store has is taken to be as it was applied: the watch may be behind; and what is not watched is
/// looked at again only while no pod is ready, since pods need it to be.
fn is_believed(known: Option<&Applied>, wanted: &Wanted, is_watched: bool, observed: &Observed, now: Duration) -> bool {
    let Some(known) = known.filter(|known| known.hash == wanted.hash) else { return false };
    match is_watched {
        true => rest(known, now).is_some(),
        false => now.saturating_sub(known.at) < LOOK_AGAIN || is_well(observed),
    }
}

/// Whether the pod is ready and speaks: it has what it needs.
fn is_well(observed: &Observed) -> bool {
    pod_state(observed.pod.as_deref()) == PodState::Ready && observed.silence.is_none()
}

/// For how long it is waited still until the watch must have brought what was applied, and for whoever undoes it each time.
fn rest(known: &Applied, now: Duration) -> Option<Duration> {
    let until = (known.at + WATCH_LAG).max(known.rests_until());
    (until > now).then(|| until - now)
}

/// The version that an object was read with.
/// The version of an object as it was read.
pub fn resource_version(object: &Value) -> Option<&str> {
    object.pointer("/metadata/resourceVersion")?.as_str()
}

/// Whether the Pipeline is there by now, and is not being deleted.
fn is_still_there<W: Writer>(context: &Context<W>, observed: &Observed) -> bool {
    let now = get(&context.stores.pipelines, observed.namespace(), observed.name());
    now.is_some_and(|now| now.uid() == observed.pipeline.uid() && now.metadata.deletion_timestamp.is_none())
}

/// Whom an object belongs to that no store has.
enum Whose {
    /// This Pipeline: it owns it, or the labels say so and nobody owns it.
    Ours,
    /// One of its name that was deleted.
    Deleted,
    /// Somebody else.
    Strangers,
}

fn whose(object: &Value, observed: &Observed) -> Whose {
    let metadata = metadata(object);
    let label = |name: &str| metadata.labels.as_ref()?.get(name).map(String::as_str);
    let uid = observed.pipeline.uid();
    let is_of_name =
        label(labels::PIPELINE) == Some(observed.name()) && label(labels::MANAGED_BY) == Some(FIELD_MANAGER);
    match (is_of_name, owned_by_another(&metadata, uid)) {
        _ if is_owned_by(&metadata, uid) => Whose::Ours,
        (true, true) => Whose::Deleted,
        (true, false) => Whose::Ours,
        (false, _) => Whose::Strangers,
    }
}

/// The metadata of an object as it was read.
pub fn metadata(object: &Value) -> ObjectMeta {
    ObjectMeta::deserialize(&object["metadata"]).unwrap_or_default()
}

/// What is of a Pipeline's name and somebody else's.
pub fn not_ours(kind: &str, pipeline: &str) -> WriteError {
    WriteError::Rejected(format!(
        "there is a {kind} of this name already, and it is not this Pipeline's; remove it, or give the Pipeline another name \
         than {pipeline}"
    ))
}

/// Whether an object has to be written.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    /// It is as it is wanted.
    Nothing,
    /// It was written so shortly ago that the watch may be behind, or that somebody must be undoing it each time: it is looked
    /// at again after this long.
    Patience(Duration),
    /// It is not.
    Apply {
        /// The version that differs though it was applied as it is wanted.
        despite: Option<String>,
    },
}

fn need(wanted: &Wanted, stored: Option<&Value>, known: Option<&Applied>, now: Duration) -> Need {
    let known = known.filter(|known| known.hash == wanted.hash);
    let applied = stored.and_then(applied);
    let Some(stored) = stored.filter(|_| applied == Some(wanted.hash.as_str())) else {
        return known.and_then(|known| rest(known, now)).map_or(Need::Apply { despite: None }, Need::Patience);
    };
    if first_difference(&wanted.body, stored).is_none() {
        return Need::Nothing;
    }
    let version = version(stored);
    match known {
        Some(known) if known.despite.is_some() && known.despite == version => Need::Nothing,
        Some(known) if now < known.rests_until() => Need::Patience(known.rests_until() - now),
        _ => Need::Apply { despite: version },
    }
}

/// Whether what is stored was applied by another operator: it is not what this one has applied and still wants, and bears the hash
/// of something else. To be asked when the watch is behind no more.
fn is_anothers(wanted: &Wanted, stored: Option<&Value>, known: Option<&Applied>) -> bool {
    let applied = stored.and_then(applied);
    known.is_some_and(|known| known.hash == wanted.hash) && applied.is_some_and(|applied| applied != wanted.hash)
}

/// Tells that two operators put an object to and fro.
async fn tell_contested<W: Writer>(context: &Context<W>, observed: &Observed, object: &str, note: &mut Note) {
    let why = format!("{object} was applied by another operator, and is put right: two must not watch one namespace");
    let happening = Happening { reason: "Contested", note: why, is_warning: true };
    if note.is_news(&happening, context.clock.monotonic())
        && let Err(error) = context.writer.tell(&observed.pipeline.object_ref(&()), &happening).await
    {
        tracing::warn!(%object, error = %crate::telemetry::chain(&error), "an event could not be written");
    }
}

/// What changes when somebody edits an object: its generation, if it has one, so that its status does not count.
fn version(stored: &Value) -> Option<String> {
    let metadata = stored.get("metadata")?;
    match metadata.get("generation") {
        Some(generation) => Some(format!("generation {generation}")),
        None => metadata.get("resourceVersion").map(Value::to_string),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn wanted() -> Wanted {
        let map: ConfigMap = serde_json::from_value(json!({
            "metadata": {"name": "web-plan", "namespace": "default"}, "data": {"plan.json": "{}"},
        }))
        .unwrap();
        Wanted::new(&map)
    }

    fn known(wanted: &Wanted, at: u64) -> Applied {
        Applied::now(&wanted.hash, Duration::from_secs(at), None, None)
    }

    #[test]
    fn what_is_as_wanted_is_not_written() {
        let wanted = wanted();
        assert_eq!(need(&wanted, Some(&wanted.body), None, Duration::ZERO), Need::Nothing);
    }

    #[test]
    fn what_is_missing_or_was_applied_otherwise_is_written_once_until_the_watch_must_have_seen_it() {
        let wanted = wanted();
        let mut other = wanted.body.clone();
        other["metadata"]["annotations"][APPLIED] = json!("0000");
        for stored in [None, Some(&other)] {
            assert_eq!(need(&wanted, stored, None, Duration::ZERO), Need::Apply { despite: None });
            let known = known(&wanted, 100);
            let rest = Need::Patience(Duration::from_secs(9));
            assert_eq!(need(&wanted, stored, Some(&known), Duration::from_secs(101)), rest);
            assert_eq!(need(&wanted, stored, Some(&known), Duration::from_secs(111)), Need::Apply { despite: None });
        }
    }

    #[test]
    fn an_edit_by_hand_is_undone_but_what_stays_different_is_not_written_again_and_again() {
        let wanted = wanted();
        let mut edited = wanted.body.clone();
        edited["data"]["plan.json"] = json!("{\"by\":\"hand\"}");
        edited["metadata"]["resourceVersion"] = json!("7");
        let Need::Apply { despite } = need(&wanted, Some(&edited), None, Duration::ZERO) else { panic!() };
        let known = Applied { despite, ..known(&wanted, 0) };
        assert_eq!(need(&wanted, Some(&edited), Some(&known), Duration::from_secs(500)), Need::Nothing);
        edited["metadata"]["resourceVersion"] = json!("8");
        assert!(matches!(need(&wanted, Some(&edited), Some(&known), Duration::from_secs(500)), Need::Apply { .. }));
    }
}
