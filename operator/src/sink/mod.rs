//! Sinks: nothing is made for one; its status says whether it can be understood, who uses it, what was committed to it last and
//! what its last error was, from the reports of the Pipelines that use it.

mod status;

use std::{sync::Arc, time::Duration};

use millrace_crds::{Pipeline, SinkStatus};
use millrace_plan::handover::{Names, REPORT_KEY, ReportDocument};
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
    named::{tell_of_config, write},
    pipeline::validate::problems_of,
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
    let before: SinkStatus = note.status_of(&sink, context.clock.monotonic());
    let users = context.stores.users(Kind::Sink, &key.namespace, &key.name);
    let reports: Vec<_> = users.iter().map(|user| (user.name(), report(&context.stores, user))).collect();
    let problems = problems_of(Kind::Sink, &sink);
    let after = status(&sink, problems, &reports, &before, context.clock.now());
    if after == before {
        return Ok(None);
    }
    let now = context.clock.monotonic();
    if without_numbers(&after) == without_numbers(&before)
        && let Some((_, at)) = note.status
        && at + context.commits_pause() > now
    {
        return Ok(Some(at + context.commits_pause() - now));
    }
    write(context, key, json!(after), note).await?;
    tell_of_config(context, key, &sink, &before.conditions, &after.conditions).await;
    Ok(None)
}

/// What a Pipeline's runtime says.
fn report(stores: &Stores, pipeline: &Arc<Raw<Pipeline>>) -> Option<ReportDocument> {
    let map = get(&stores.config_maps, pipeline.namespace(), &Names::of(pipeline.name()).report())?;
    serde_json::from_str(map.data.as_ref()?.get(REPORT_KEY)?).ok()
}
