//! From what is stored to what is restored.

use std::collections::BTreeMap;

use crate::{
    BarrierKind, Epoch, Generation,
    checkpoint::{Decided, Pointer, Taken},
};

/// What a run finds after its claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The generation under which the pointer was claimed.
    pub generation: Generation,
    /// The pointer as the claim found it; `None`: there was none.
    pub pointer: Option<Pointer>,
    /// Every manifest in the store, listed after the claim.
    pub manifests: BTreeMap<Taken, ManifestState>,
    /// Whether the user has said that an older checkpoint will do if the newest is damaged.
    pub allow_previous: bool,
}

/// What became of a manifest and the files that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestState {
    /// Its checksum holds.
    Sound {
        /// What it was taken for.
        kind: BarrierKind,
    },
    /// It, or a file that it names, is not what was written.
    Damaged,
}

/// What is to be done before the tasks start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing was ever decided: begin at the beginning. Sinks recover with nothing, and what they find staged goes.
    Fresh {
        /// The first epoch that this run may take.
        first: Epoch,
        /// Manifests that were never decided: to be deleted, with the files that they name. The newest is none of them while it
        /// is ahead of all that is decided: it keeps its number from being taken again, and goes when a later epoch is decided.
        orphans: Vec<Taken>,
    },
    /// Go on from an epoch.
    Restore {
        /// Which one. Its sinks commit again before anything else; what is staged and not named by it goes.
        from: Taken,
        /// Whether the pipeline had come to its end with it: once the sinks have committed there is nothing left to do.
        finished: bool,
        /// The decided epochs that are kept, for [`Start`](super::Start).
        decided: Vec<Decided>,
        /// The first epoch that this run may take: no manifest has its number.
        first: Epoch,
        /// Manifests that were never decided: to be deleted, with the files that no kept manifest names; the same holds of
        /// the newest.
        orphans: Vec<Taken>,
        /// Newer decided epochs that are damaged and passed over by the user's leave. If there are any, the pointer is
        /// first moved back to `decided`, what sinks committed for them may come again, and nothing is deleted yet.
        passed_over: Vec<Taken>,
    },
    /// Do not start.
    Refuse(Refusal),
}

/// Why nothing is started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The newest checkpoint cannot be used.
    #[error("checkpoint {epoch}, the newest, {}{}", if *.missing { "is missing" } else { "is damaged" }, match .previous {
        Some(previous) => format!("; checkpoint {previous} before it is sound"),
        None => "; there is no sound one before it".to_owned(),
    })]
    Damaged {
        /// Which one.
        epoch: Epoch,
        /// Whether its manifest is not there at all.
        missing: bool,
        /// The one that would be restored with the user's leave.
        previous: Option<Epoch>,
    },
    /// There are manifests but no pointer, so nobody knows which of them are decided.
    #[error(
        "there are checkpoints up to {newest}, but nothing says which of them are complete: the pointer is missing"
    )]
    PointerLost {
        /// The newest manifest.
        newest: Epoch,
    },
}

/// Decides what a run starts from. Only the pointer makes an epoch decided: a manifest that it does not list is an orphan,
/// however whole. A manifest of a newer generation is none: this run has been replaced and does not know it yet, and the
/// newer one may be about to decide it. For the same reason a run removes only those files and that staged output whose
/// names say that an older generation made them.
pub fn recover(facts: &Facts) -> Recovery {
    let newest = facts.manifests.keys().map(|taken| taken.epoch).max();
    let Some(pointer) = &facts.pointer else {
        return match newest {
            None => Recovery::Fresh { first: Epoch::FIRST, orphans: Vec::new() },
            Some(newest) => Recovery::Refuse(Refusal::PointerLost { newest }),
        };
    };
    let first = newest.max(pointer.epoch()).map_or(Epoch::FIRST, Epoch::next);
    let is_decided = |taken: &Taken| pointer.decided.iter().any(|decided| decided.taken == *taken);
    let is_older = |taken: &Taken| taken.generation < facts.generation;
    // A user may have gone back over an epoch that sinks have committed, and its manifest is all that says so: without it the
    // next run would take its number again, and sinks would take the rows for ones that they have.
    let keeps_number = |taken: &Taken| Some(taken.epoch) == newest && newest > pointer.epoch();
    let is_orphan = |taken: &&Taken| is_older(taken) && !is_decided(taken) && !keeps_number(taken);
    let orphans = facts.manifests.keys().filter(is_orphan).copied().collect();
    let Some(wanted) = pointer.decided.last() else { return Recovery::Fresh { first, orphans } };

    let sound = pointer.decided.iter().enumerate().rev().find_map(|(place, decided)| {
        match facts.manifests.get(&decided.taken) {
            Some(ManifestState::Sound { kind }) => Some((place, decided.taken, kind)),
            Some(ManifestState::Damaged) | None => None,
        }
    });
    match sound {
        Some((place, from, kind)) if from == wanted.taken || facts.allow_previous => {
            let (kept, passed_over) = pointer.decided.split_at(place + 1);
            Recovery::Restore {
                from,
                finished: *kind == BarrierKind::Drain,
                decided: kept.to_vec(),
                first,
                orphans,
                passed_over: passed_over.iter().map(|decided| decided.taken).collect(),
            }
        }
        sound => Recovery::Refuse(Refusal::Damaged {
            epoch: wanted.taken.epoch,
            missing: !facts.manifests.contains_key(&wanted.taken),
            previous: sound.map(|(_, taken, _)| taken.epoch),
        }),
    }
}

#[cfg(test)]
mod tests;
