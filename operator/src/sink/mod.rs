//! Sinks: nothing is made for one; its status says whether it can be understood, who uses it, what was committed to it last and
//! what its last error was, from the reports of the Pipelines that use it.

mod status;

use std::{sync::Arc, time::Duration};

use millrace_crds::{Pipeline, SinkStatus};
use millrace_plan::handover::{Names, ReportDocument};
use serde_json::json;

use self::status::{status, without_numbers};
use crate::{
    cluster::{
        key::{Key, Kind},
        raw::Raw,
        stores::{Stores, get},
        writer::{WriteError, Writer},
    },
    context::{Context, Note},
    named::{config, is_spec, lay_passed_over, tell_of_config, write},
    pipeline::{dereference::report_of, validate::problems_of},
};

/// Brings a Sink's status up to date.
///
/// # Errors
/// It could not be written. It is safe to do it again.
pub async fn reconcile<W: Writer>(
    context: &Context<W>,
    key: &Key,
    note: &mut Note,
) -> Result<Option<Duration>, WriteError> {
    let Some(sink) = get(&context.stores.sinks, &key.namespace, &key.name) else { return Ok(None) };
    let now = context.clock.monotonic();
    let before: SinkStatus = note.status_of(&sink);
    if let Some((at, users)) = note.looked
        && before.observed_generation == Some(sink.generation())
        && at + pause(users) > now
    {
        return Ok(Some(at + pause(users) - now));
    }
    let users = context.stores.users(Kind::Sink, &key.namespace, &key.name);
    note.looked = Some((now, users.len()));
    let reports: Vec<_> = users.iter().map(|user| (user.name(), report(&context.stores, user))).collect();
    let mut says = config(problems_of(Kind::Sink, &sink));
    lay_passed_over(&mut says, &context.stores, &users, |dataflow| {
        dataflow.sinks.get(&key.name).is_none_or(|runs| is_spec(runs, &sink.spec))
    });
    let after = status(&sink, says, &reports, &before, context.clock.now());
    if after == before {
        let disputed = note.disputed(&sink, now);
        if disputed.is_none_or(|rest| !rest.is_zero()) {
            return Ok(disputed);
        }
    } else if without_numbers(&after) == without_numbers(&before)
        && let Some(written) = &note.status
        && written.at + context.commits_pause() > now
    {
        return Ok(Some(written.at + context.commits_pause() - now));
    }
    write(context, key, json!(after), note).await?;
    tell_of_config(context, key, &sink, &before.conditions, &after.conditions, note).await;
    Ok(None)
}

/// For how long a Sink is not looked at again: to look means to read the reports of all who use it, and each of them writes one
/// every few seconds.
fn pause(users: usize) -> Duration {
    Duration::from_millis(if users > FEW_USERS { users as u64 } else { 0 })
}

/// Of so many users the reports are read whenever one of them changes.
const FEW_USERS: usize = 50;

/// What a Pipeline's runtime says.
fn report(stores: &Stores, pipeline: &Arc<Raw<Pipeline>>) -> Option<ReportDocument> {
    let map = get(&stores.config_maps, pipeline.namespace(), &Names::of(pipeline.name()).report());
    report_of(map.as_deref(), pipeline)
}
