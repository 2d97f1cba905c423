//! Windows: nothing is made for one; its status says whether it can be understood, and who uses it.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use millrace_crds::WindowStatus;
use serde_json::json;

use crate::{
    cluster::{
        key::{Key, Kind},
        raw::Raw,
        stores::get,
        writer::{Happening, WriteError, Writer},
    },
    conditions::{Reason, Say, Type, conditions, find},
    context::{Context, Note, WATCH_LAG},
    pipeline::validate::problems_of,
};

/// Brings a Window's status up to date.
///
/// # Errors
/// It could not be written. It is safe to do it again.
pub async fn reconcile<W: Writer>(
    context: &Context<W>,
    key: &Key,
    note: &mut Note,
) -> Result<Option<Duration>, WriteError> {
    let Some(window) = get(&context.stores.windows, &key.namespace, &key.name) else { return Ok(None) };
    let before: WindowStatus = before(context, &window, note);
    let users = context.stores.users(Kind::Window, &key.namespace, &key.name);
    let says = config(problems_of(Kind::Window, &window));
    let now = crate::clock::time(context.clock.now());
    let after = WindowStatus {
        observed_generation: Some(window.generation()),
        used_by: users.iter().map(|user| user.name().to_owned()).collect(),
        conditions: conditions(&before.conditions, says, window.generation(), &now),
    };
    if after == before {
        return Ok(None);
    }
    write(context, key, json!(after), note).await?;
    tell_of_config(context, key, &window, &before.conditions, &after.conditions).await;
    Ok(None)
}

/// The status that stands: what was written last, until the watch must have brought it.
pub fn before<W: Writer, K, S>(context: &Context<W>, object: &Raw<K>, note: &Note) -> S
where
    S: for<'de> serde::Deserialize<'de> + Default,
{
    match &note.status {
        Some((written, at)) if context.clock.monotonic().saturating_sub(*at) < WATCH_LAG => {
            S::deserialize(written).unwrap_or_default()
        }
        _ => object.status(),
    }
}

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
    context.writer.status(key, &status).await?;
    context.metrics.wrote("status");
    note.status = Some((status, context.clock.monotonic()));
    Ok(())
}

/// Tells of a spec that cannot be understood, when that is new.
pub async fn tell_of_config<W: Writer, K: Resource<DynamicType = ()>>(
    context: &Context<W>,
    key: &Key,
    object: &Raw<K>,
    before: &[Condition],
    after: &[Condition],
) {
    let said = |conditions: &[Condition]| {
        let condition = find(conditions, Type::ConfigValid).filter(|condition| condition.status == "False");
        condition.map(|condition| condition.message.clone())
    };
    if let Some(message) = said(after)
        && said(before).as_ref() != Some(&message)
    {
        let happening = Happening { reason: "InvalidSpec", note: message, is_warning: true };
        if let Err(error) = context.writer.tell(&object.object_ref(&()), &happening).await {
            tracing::warn!(object = %key, error = %crate::leader::chain(&error), "an event could not be written");
        }
    }
}
