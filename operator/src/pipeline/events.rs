//! What a person wants to be told, from one status to the next. What is written every few seconds is no news.

use millrace_crds::{ChangeResult, EditClass, Phase, PipelineStatus};

use super::status::{newest, of};
use crate::{
    cluster::writer::Happening,
    conditions::{Reason, Type},
};

/// What happened.
pub fn happenings(before: &PipelineStatus, after: &PipelineStatus) -> Vec<Happening> {
    let mut told = Vec::new();
    let mut tell = |is_warning, reason, note: String| told.push(Happening { reason, note, is_warning });
    let known =
        |status: &PipelineStatus| newest(status).map(|(revision, class, result)| (revision.to_owned(), class, result));
    if known(before) != known(after)
        && let Some(entry) = after.history.first()
    {
        let short = entry.revision.get(..8).unwrap_or(&entry.revision);
        let why = entry.reason.as_deref().unwrap_or_default();
        match entry.result {
            ChangeResult::Pending if entry.class != EditClass::None => {
                tell(
                    false,
                    "EditClassed",
                    format!("the edit to revision {short} is of class {:?}: {why}", entry.class),
                );
            }
            ChangeResult::TakenUp => tell(false, "TakenUp", format!("revision {short} runs")),
            _ => {}
        }
    }
    let now = |of_type| of(&after.conditions, of_type);
    let was = |of_type| of(&before.conditions, of_type);
    if let Some(("False", reason, message)) = now(Type::ConfigValid)
        && was(Type::ConfigValid) != now(Type::ConfigValid)
    {
        let names = [Reason::EditRefused, Reason::RolledBack, Reason::UnknownReference, Reason::ReplicasUnsupported];
        let reason = names.iter().map(|known| known.name()).find(|name| *name == reason).unwrap_or("InvalidSpec");
        tell(true, reason, message.to_owned());
    }
    let has_fallen = |of_type| {
        now(of_type).is_some_and(|(status, ..)| status == "False")
            && was(of_type).is_none_or(|(status, ..)| status != "False")
    };
    for (of_type, reason) in [
        (Type::CheckpointHealthy, "CheckpointFailing"),
        (Type::SourcesHealthy, "SourceFailing"),
        (Type::SinksHealthy, "SinkFailing"),
    ] {
        // Where it is a sink that checkpoints wait for, that is told by itself.
        let is_told = of_type == Type::CheckpointHealthy && has_fallen(Type::SinksHealthy);
        if has_fallen(of_type)
            && !is_told
            && let Some((_, _, message)) = now(of_type)
        {
            tell(true, reason, message.to_owned());
        }
    }
    if before.phase != after.phase {
        match after.phase {
            Some(Phase::Suspended) => tell(false, "Suspended", "stopped, as `suspend` says".to_owned()),
            Some(Phase::Finished) => tell(false, "Finished", "every row is read and committed".to_owned()),
            Some(Phase::Failed) => {
                let message = now(Type::Ready).map(|(.., message)| message).unwrap_or_default();
                tell(true, "Failed", message.to_owned());
            }
            _ => {}
        }
    }
    if before.savepoint != after.savepoint
        && let Some(savepoint) = &after.savepoint
    {
        match (&savepoint.name, &savepoint.error) {
            (_, Some(error)) => tell(true, "SavepointFailed", error.clone()),
            (Some(name), None) => tell(false, "SavepointTaken", format!("savepoint {name}")),
            (None, None) => {}
        }
    }
    if before.started_from != after.started_from
        && let Some(started) = &after.started_from
    {
        match (&started.epoch, &started.error) {
            (_, Some(error)) => tell(true, "StartFailed", error.clone()),
            (Some(epoch), None) => tell(false, "StartedFrom", format!("checkpoint {epoch}, as `startFrom` says")),
            (None, None) => tell(false, "StartedFrom", "as `startFrom` says".to_owned()),
        }
    }
    told
}
