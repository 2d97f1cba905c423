//! Which checkpoints stay, and which files may go.
//!
//! Names of files tell the generation that uploaded them, and are never used twice: a file that was in the state at one barrier and is no longer at a later one is in
//! no manifest after that. So a file that no kept manifest names will be named by none to come, unless it was uploaded for
//! an epoch that is still in the making; those are never candidates.

use std::collections::BTreeSet;

use crate::checkpoint::Decided;

/// The name of a file in the checkpoint store.
pub type FileName = str;

/// Which of the decided epochs (oldest first) are kept: the newest, whatever it is, the `retain` newest checkpoints, and
/// every savepoint.
pub fn keep(retain: u32, decided: &[Decided]) -> Vec<Decided> {
    let mut room = retain.max(1);
    let mut kept: Vec<Decided> = decided
        .iter()
        .rev()
        .enumerate()
        .filter(|(age, epoch)| {
            if epoch.savepoint {
                return true;
            }
            let stays = *age == 0 || room > 0;
            room = room.saturating_sub(1);
            stays
        })
        .map(|(_, epoch)| *epoch)
        .collect();
    kept.reverse();
    kept
}

/// Which of the candidates may be deleted: those that no kept manifest names.
///
/// Candidates are the files that dropped manifests name, and those that were uploaded for epochs that were given up, of
/// epochs older than the newest decided one ([`Action::Retire`](super::Action::Retire)). At recovery, before the tasks
/// start, every file is one whose name says that an older generation uploaded it.
pub fn retire<'a, 'k>(
    kept: impl IntoIterator<Item = &'k FileName>,
    candidates: impl IntoIterator<Item = &'a FileName>,
) -> BTreeSet<&'a FileName> {
    let kept: BTreeSet<&FileName> = kept.into_iter().collect();
    candidates.into_iter().filter(|file| !kept.contains(*file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, Generation, checkpoint::Taken};

    /// Checkpoints are numbers, savepoints negative ones.
    fn kept(retain: u32, decided: &[i64]) -> Vec<i64> {
        let decided: Vec<Decided> = decided
            .iter()
            .map(|number| Decided {
                taken: Taken { epoch: Epoch(number.unsigned_abs()), generation: Generation(1) },
                savepoint: *number < 0,
            })
            .collect();
        let number = |decided: Decided| decided.taken.epoch.0 as i64 * if decided.savepoint { -1 } else { 1 };
        keep(retain, &decided).into_iter().map(number).collect()
    }

    #[test]
    fn the_newest_checkpoints_are_kept() {
        assert_eq!(kept(3, &[1, 2, 3, 5, 6]), [3, 5, 6]);
        assert_eq!(kept(3, &[6]), [6]);
    }

    #[test]
    fn savepoints_are_kept_and_take_no_checkpoints_place() {
        assert_eq!(kept(2, &[-1, 2, 3, -4, 5, -6]), [-1, 3, -4, 5, -6]);
    }

    #[test]
    fn what_a_recovery_needs_is_kept_whatever_the_setting() {
        assert_eq!(kept(0, &[1, 2]), [2]);
        assert_eq!(kept(0, &[1, -2]), [1, -2], "the checkpoint before a savepoint counts as the newest");
    }

    #[test]
    fn a_file_goes_only_if_no_kept_manifest_names_it() {
        assert_eq!(retire(["b", "c"], ["a", "b", "a", "d"]), BTreeSet::from(["a", "d"]));
        assert_eq!(retire([], ["a"]), BTreeSet::from(["a"]));
        assert!(retire(["a"], []).is_empty());
    }
}
