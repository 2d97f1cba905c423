//! What Pipelines name: Windows and Sinks. Nothing is made for one; all that is written is its status.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use millrace_crds::{Pipeline, PipelineStatus};
use millrace_plan::ResolvedSpec;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    cluster::{
        key::Key,
        raw::Raw,
        stores::Stores,
        writer::{Happening, WriteError, Writer},
    },
    conditions::{Reason, Say, Type, find},
    context::{Context, Note},
    fault,
    pipeline::dereference::plan_of,
    telemetry::chain,
};

/// `Ready` and `ConfigValid` of an object of which nothing but its spec can be wrong.
pub fn config(problems: Option<String>) -> Vec<Say> {
    match problems {
        None => vec![
            Say::new(Type::Ready, true, Reason::Valid, "it can be used"),
            Say::new(Type::ConfigValid, true, Reason::Valid, "the spec can be understood"),
        ],
        Some(message) => vec![
            Say::new(Type::Ready, false, Reason::InvalidSpec, &message),
            Say::new(Type::Stalled, true, Reason::InvalidSpec, &message),
            Say::new(Type::ConfigValid, false, Reason::InvalidSpec, &message),
        ],
    }
}

/// Lays over what is said that the first of these Pipelines runs with the spec before, since it has refused the edit or taken it
/// back. `is_as_it_is`: whether a dataflow has the object with the spec that it has now.
pub fn lay_passed_over(
    says: &mut Vec<Say>,
    stores: &Stores,
    users: &[Arc<Raw<Pipeline>>],
    is_as_it_is: impl Fn(&ResolvedSpec) -> bool,
) {
    let why = users.iter().find_map(|user| {
        let status: PipelineStatus = user.status();
        let invalid = find(&status.conditions, Type::ConfigValid).filter(|condition| condition.status == "False")?;
        let known = [Reason::RolledBack, Reason::EditRefused];
        let reason = known.into_iter().find(|reason| reason.name() == invalid.reason)?;
        let plan = plan_of(stores, user)?;
        (!is_as_it_is(&plan.spec))
            .then(|| (reason, format!("Pipeline {} runs with the spec before: {}", user.name(), invalid.message)))
    });
    if let Some((reason, message)) = why
        && let Some(ready) = says.iter_mut().find(|say| say.of == Type::Ready && say.status == Some(true))
    {
        *ready = Say::new(Type::Ready, false, reason, &message);
        says.push(Say::new(Type::Stalled, true, reason, message));
    }
}

/// Whether a spec that runs is the one that an object has.
pub fn is_spec<S: DeserializeOwned + PartialEq>(runs: &S, has: &Value) -> bool {
    S::deserialize(has).is_ok_and(|has| has == *runs)
}

/// Writes a status.
///
/// # Errors
/// It could not be written.
pub async fn write<W: Writer>(
    context: &Context<W>,
    key: &Key,
    status: serde_json::Value,
    note: &mut Note,
) -> Result<(), WriteError> {
    fault::point("before-status", (&key.name, 0));
    let stored = context.writer.status(key, &note.uid, &status).await?;
    context.metrics.wrote("status");
    note.wrote(status, stored, context.clock.monotonic());
    fault::point("after-status", (&key.name, 0));
    Ok(())
}

/// Tells of a spec that cannot be understood, when that is new.
pub async fn tell_of_config<W: Writer, K: Resource<DynamicType = ()>>(
    context: &Context<W>,
    key: &Key,
    object: &Raw<K>,
    before: &[Condition],
    after: &[Condition],
    note: &mut Note,
) {
    let said = |conditions: &[Condition]| {
        let condition = find(conditions, Type::ConfigValid).filter(|condition| condition.status == "False");
        condition.map(|condition| condition.message.clone())
    };
    if let Some(message) = said(after)
        && said(before).as_ref() != Some(&message)
    {
        let happening = Happening { reason: "InvalidSpec", note: message, is_warning: true };
        if note.is_news(&happening, context.clock.monotonic())
            && let Err(error) = context.writer.tell(&object.object_ref(&()), &happening).await
        {
            tracing::warn!(object = %key, error = %chain(&error), "an event could not be written");
        }
    }
}
