//! What tasks have acknowledged and is not decided yet.
//!
//! A sink's task acknowledges what it has prepared and does not know to be shown. If that epoch is given up, what it prepared
//! still has to be shown, by the next epoch that is decided. So everything since the last decision is kept: an acknowledgement
//! may be a piece that counts with those before it, or, as a sink's handle does, hold all that they did.
//!
//! Nothing may be missing between: where an acknowledgement can get lost, each one repeats those before it that its task
//! does not know to be decided. All of them are put in here first, and then the coordinator hears of the newest.

use std::collections::BTreeMap;

use crate::{Epoch, TaskId};

/// Keeps acknowledgements until their epoch, or a later one, is decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger<A> {
    acknowledged: BTreeMap<TaskId, BTreeMap<Epoch, A>>,
    decided: Option<Epoch>,
}

impl<A> Default for Ledger<A> {
    fn default() -> Self {
        Self { acknowledged: BTreeMap::new(), decided: None }
    }
}

impl<A> Ledger<A> {
    /// A task has acknowledged an epoch, be it in flight or given up. What comes twice counts once, and what comes after
    /// its epoch was decided counts no more.
    pub fn acked(&mut self, task: TaskId, epoch: Epoch, what: A) {
        if self.decided.is_none_or(|decided| epoch > decided) {
            self.acknowledged.entry(task).or_default().entry(epoch).or_insert(what);
        }
    }

    /// What the manifest of `epoch` is made of: for each task what it acknowledged since the last decided epoch up to this
    /// one, in order. The last of them is `epoch`'s own once the task has acknowledged it.
    pub fn upto(&self, epoch: Epoch) -> impl Iterator<Item = (&TaskId, impl DoubleEndedIterator<Item = (Epoch, &A)>)> {
        self.acknowledged
            .iter()
            .map(move |(task, epochs)| (task, epochs.range(..=epoch).map(|(epoch, what)| (*epoch, what))))
    }

    /// The epoch is decided: what was acknowledged up to it is in its manifest, and not needed any more.
    pub fn decided(&mut self, epoch: Epoch) {
        self.decided = self.decided.max(Some(epoch));
        for epochs in self.acknowledged.values_mut() {
            *epochs = epochs.split_off(&epoch.next());
        }
        self.acknowledged.retain(|_, epochs| !epochs.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(index: u32) -> TaskId {
        TaskId { stage: "sink".into(), index }
    }

    fn upto(ledger: &Ledger<&'static str>, epoch: u64) -> Vec<(u32, Vec<(u64, &'static str)>)> {
        ledger
            .upto(Epoch(epoch))
            .map(|(task, epochs)| (task.index, epochs.map(|(epoch, what)| (epoch.0, *what)).collect()))
            .collect()
    }

    #[test]
    fn what_an_aborted_epoch_prepared_is_in_the_next_manifest() {
        let mut ledger = Ledger::default();
        ledger.acked(task(0), Epoch(1), "a");
        ledger.acked(task(1), Epoch(1), "b");
        ledger.decided(Epoch(1));
        ledger.acked(task(0), Epoch(2), "c");
        ledger.acked(task(0), Epoch(3), "d");
        ledger.acked(task(1), Epoch(2), "late");
        ledger.acked(task(1), Epoch(3), "e");
        ledger.acked(task(1), Epoch(4), "not yet");
        assert_eq!(upto(&ledger, 3), [(0, vec![(2, "c"), (3, "d")]), (1, vec![(2, "late"), (3, "e")])]);
        ledger.decided(Epoch(3));
        assert_eq!(upto(&ledger, 4), [(1, vec![(4, "not yet")])]);
    }

    #[test]
    fn what_is_acknowledged_twice_or_too_late_counts_once() {
        let mut ledger = Ledger::default();
        ledger.acked(task(0), Epoch(1), "a");
        ledger.acked(task(0), Epoch(1), "again");
        assert_eq!(upto(&ledger, 1), [(0, vec![(1, "a")])]);
        ledger.decided(Epoch(1));
        ledger.acked(task(0), Epoch(1), "again");
        assert!(upto(&ledger, 2).is_empty());
    }
}
