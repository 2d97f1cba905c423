//! From the manifests that there are to a pointer, where the pointer itself is damaged or gone.

use crate::{
    Generation,
    checkpoint::{Decided, Pointer, Taken},
};

/// A manifest, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What it ends, and who wrote it. A savepoint that cannot be read does not say who: then the generation is 0.
    pub taken: Taken,
    /// Whether it is the user's.
    pub savepoint: bool,
}

/// The pointer to the newest of these manifests, in the name of `generation` or of whoever is newer among them; `None`: there
/// are none, so nothing was ever decided.
///
/// A manifest is written when every task has acknowledged and every sink has prepared, so that the newest one can be decided
/// now if it was not before: what it names is there until a later run clears it away, which deletes the manifest next. Whether a manifest is damaged does not matter here. A start finds that out, and going back
/// behind what sinks may have committed is for the user to say.
pub fn rebuild(manifests: &[Listed], generation: Generation) -> Option<Pointer> {
    let mut listed = manifests.to_vec();
    listed.sort_unstable_by_key(|listed| listed.taken);
    let mut decided: Vec<Decided> = Vec::new();
    for Listed { taken, savepoint } in listed {
        // Of two that took an epoch the later one did so because the earlier had not decided it.
        if decided.last().is_some_and(|last| last.taken.epoch == taken.epoch) {
            decided.pop();
        }
        decided.push(Decided { taken, savepoint });
    }
    let newest = decided.iter().map(|decided| decided.taken.generation).max()?;
    Some(Pointer { generation: generation.max(newest), decided })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Epoch;

    fn listed(epoch: u64, generation: u64) -> Listed {
        Listed { taken: Taken { epoch: Epoch(epoch), generation: Generation(generation) }, savepoint: false }
    }

    fn takens(pointer: &Pointer) -> Vec<(u64, u64)> {
        pointer.decided.iter().map(|decided| (decided.taken.epoch.0, decided.taken.generation.0)).collect()
    }

    #[test]
    fn without_manifests_nothing_was_decided() {
        assert_eq!(rebuild(&[], Generation(3)), None);
    }

    #[test]
    fn the_newest_manifest_is_the_newest_decided_epoch_and_of_two_that_took_one_the_later_counts() {
        let pointer = rebuild(&[listed(9, 2), listed(7, 1), listed(8, 2), listed(8, 1)], Generation(1)).unwrap();
        assert_eq!(takens(&pointer), [(7, 1), (8, 2), (9, 2)]);
        assert_eq!(pointer.generation, Generation(2), "nobody who wrote a manifest is newer than the pointer");
        assert_eq!(rebuild(&[listed(9, 2)], Generation(5)).unwrap().generation, Generation(5));
    }

    #[test]
    fn a_savepoint_stays_the_users() {
        let pointer = rebuild(&[Listed { savepoint: true, ..listed(3, 1) }, listed(4, 1)], Generation(1)).unwrap();
        assert_eq!(pointer.decided.iter().map(|decided| decided.savepoint).collect::<Vec<_>>(), [true, false]);
    }
}
