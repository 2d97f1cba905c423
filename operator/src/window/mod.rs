//! Windows: nothing is made for one; its status says whether it can be understood, and who uses it.

use std::time::Duration;

use millrace_crds::WindowStatus;
use serde_json::json;

use crate::{
    clock::time,
    cluster::{
        key::{Key, Kind},
        stores::get,
        writer::{WriteError, Writer},
    },
    conditions::conditions,
    context::{Context, Note},
    named::{config, is_spec, lay_passed_over, tell_of_config, write},
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
    let before: WindowStatus = note.status_of(&window);
    let users = context.stores.users(Kind::Window, &key.namespace, &key.name);
    let mut says = config(problems_of(Kind::Window, &window));
    lay_passed_over(&mut says, &context.stores, &users, |dataflow| {
        dataflow.windows.get(&key.name).is_none_or(|runs| is_spec(runs, &window.spec))
    });
    let now = time(context.clock.now());
    let after = WindowStatus {
        observed_generation: Some(window.generation()),
        used_by: users.iter().map(|user| user.name().to_owned()).collect(),
        conditions: conditions(&before.conditions, says, window.generation(), &now),
    };
    if after == before {
        let disputed = note.disputed(&window, context.clock.monotonic());
        if disputed.is_none_or(|rest| !rest.is_zero()) {
            return Ok(disputed);
        }
    }
    write(context, key, json!(after), note).await?;
    tell_of_config(context, key, &window, &before.conditions, &after.conditions, note).await;
    Ok(None)
}
