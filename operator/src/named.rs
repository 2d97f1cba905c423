//! What Pipelines name: Windows and Sinks. Nothing is made for one; all that is written is its status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;

use crate::{
    cluster::{
        key::Key,
        raw::Raw,
        writer::{Happening, WriteError, Writer},
    },
    conditions::{Reason, Say, Type, find},
    context::{Context, Note},
    fault,
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
