//! Which checkpoints stay, and which files may go.
//!
//! Names of files are never used twice: a file that was in the state at one barrier and is no longer at a later one is in
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
/// start, every file in the store is one.
pub fn retire<'a, 'k>(
    kept: impl IntoIterator<Item = &'k FileName>,
    candidates: impl IntoIterator<Item = &'a FileName>,
) -> BTreeSet<&'a FileName> {
    let kept: BTreeSet<&FileName> = kept.into_iter().collect();
    candidates.into_iter().filter(|file| !kept.contains(*file)).collect()
}
