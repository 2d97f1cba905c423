//! What there is to go on from: the manifests, whether they and their files are sound, and the savepoint that is asked for.

use std::collections::BTreeMap;

use millrace_state::{CheckpointStore, DataFolder, ErrorKind, Manifest, ManifestId, StateError};
use millrace_stream::{
    Epoch,
    checkpoint::{Decided, ManifestState, Pointer, Refusal, Taken},
};

use super::Turn;
use crate::{JobContext, JobError};

/// Refuses to start where there are checkpoints and no pointer. That is found out before the claim, which leaves a pointer to
/// nothing: at the next start it would say that no checkpoint is complete, and that all can be cleared away.
///
/// In a run that has started before the checkpoints may be gone too. Whether they are at its first start is known to whoever made
/// its context.
pub(super) async fn refuse_lost_pointer(cx: &JobContext, turn: Turn) -> Result<(), JobError> {
    match read_manifests(cx, &[]).await?.keys().map(|taken| taken.epoch).max() {
        Some(newest) => Err(JobError::Refused(Refusal::PointerLost { newest })),
        None if turn != Turn::First && DataFolder::has_decided(cx.folder.path())? => {
            Err(JobError::CheckpointsGone { place: cx.store.url().to_owned(), was: None })
        }
        None => Ok(()),
    }
}

pub(super) enum Found {
    Sound(Box<Manifest>),
    Damaged,
}

impl Found {
    pub(super) fn state(&self) -> ManifestState {
        match self {
            Self::Damaged => ManifestState::Damaged,
            Self::Sound(manifest) => ManifestState::Sound { kind: manifest.barrier.clone() },
        }
    }
}

/// Every manifest in the store. Of a damaged savepoint `decided` says when it was taken.
pub(super) async fn read_manifests(cx: &JobContext, decided: &[Decided]) -> Result<BTreeMap<Taken, Found>, StateError> {
    let mut manifests = BTreeMap::new();
    for entry in cx.store.list().await? {
        match cx.store.read_manifest(&entry.location).await {
            Ok(manifest) => {
                let taken = Taken { epoch: manifest.epoch, generation: manifest.generation };
                manifests.insert(taken, Found::Sound(Box::new(manifest)));
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::error!(manifest = %entry.location, error = %crate::chain(&error), "a checkpoint is damaged");
                let taken = match &entry.id {
                    ManifestId::Checkpoint { epoch, generation } => {
                        Some(Taken { epoch: *epoch, generation: *generation })
                    }
                    ManifestId::Savepoint { .. } => {
                        decided.iter().find(|decided| manifest_of(decided) == entry.id).map(|decided| decided.taken)
                    }
                };
                if let Some(taken) = taken {
                    manifests.insert(taken, Found::Damaged);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(manifests)
}

/// Looks whether the files of the newest checkpoint of `wanted` are there, and, if they are not, of those before it, up to
/// the first that is whole. Answers the manifests that were not needed and not looked at.
pub(super) async fn check_files(
    cx: &JobContext,
    wanted: &[Decided],
    manifests: &mut BTreeMap<Taken, Found>,
) -> Result<Vec<Manifest>, StateError> {
    let mut is_found = false;
    let mut unchecked = Vec::new();
    for Decided { taken, .. } in wanted.iter().rev() {
        let Some(Found::Sound(manifest)) = manifests.get(taken) else { continue };
        if is_found {
            unchecked.push((**manifest).clone());
            continue;
        }
        // What is fetched is checked in full; only a choice between checkpoints needs that beforehand.
        let whole = if cx.allow_previous_checkpoint {
            cx.store.verify(manifest).await
        } else {
            cx.store.verify_lengths(manifest).await
        };
        match whole {
            Ok(()) => is_found = true,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::error!(epoch = %taken.epoch, error = %crate::chain(&error), "a checkpoint is damaged");
                manifests.insert(*taken, Found::Damaged);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(unchecked)
}

/// Tells of kept checkpoints that lack files, while rows flow already: a run that goes on from a newer one does not need
/// them, but its user may.
pub(super) async fn check_later(store: CheckpointStore, manifests: Vec<Manifest>) {
    for manifest in manifests {
        let Err(error) = store.verify_lengths(&manifest).await else { continue };
        // It may have expired meanwhile.
        let is_kept = store.list().await.is_ok_and(|kept| kept.iter().any(|entry| entry.id == manifest.id()));
        if is_kept {
            let error = crate::chain(&error);
            tracing::error!(epoch = %manifest.epoch, %error, "a kept checkpoint is damaged; this run does not need it");
        }
    }
}

/// The name of a savepoint.
pub fn savepoint_name(epoch: Epoch) -> String {
    format!("savepoint-{epoch}")
}

/// The manifest of a decided epoch.
pub fn manifest_of(decided: &Decided) -> ManifestId {
    match decided.savepoint {
        true => ManifestId::Savepoint { name: savepoint_name(decided.taken.epoch) },
        false => ManifestId::from(decided.taken),
    }
}

/// The savepoints that a start goes back over: they stay their user's. They stand before what it goes on from, which is the newest
/// of what is decided.
pub(super) fn set_aside(claimed: &Pointer, decided: &[Decided], manifests: &BTreeMap<Taken, Found>) -> Vec<Decided> {
    let is_aside = |it: &&Decided| it.savepoint && manifests.contains_key(&it.taken) && !decided.contains(it);
    claimed.decided.iter().filter(is_aside).copied().collect()
}

/// What was decided up to a savepoint. The pointer lists those too that their user has deleted since.
pub(super) fn up_to_savepoint(
    pointer: &Pointer,
    manifests: &BTreeMap<Taken, Found>,
    name: &str,
) -> Result<Vec<Decided>, JobError> {
    let is_there = |decided: &Decided| decided.savepoint && manifests.contains_key(&decided.taken);
    let named = |decided: &Decided| is_there(decided) && savepoint_name(decided.taken.epoch) == name;
    match pointer.decided.iter().position(named) {
        Some(place) => Ok(pointer.decided[..=place].to_vec()),
        None => {
            let savepoints = pointer.decided.iter().filter(|decided| is_there(decided));
            let known = savepoints.map(|decided| savepoint_name(decided.taken.epoch)).collect();
            Err(JobError::NoSavepoint { name: name.to_owned(), known })
        }
    }
}
