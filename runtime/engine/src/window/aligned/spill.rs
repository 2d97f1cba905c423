//! Keeping to the memory budget.
//!
//! When memory is short, everything that is not in the store is written to it, as one sorted run, and all of it leaves
//! memory: no read before a write, and each run is about as large as the budget. The windows that it belongs to are merged
//! from the store when they close ([`super::cold`]).
//!
//! While a checkpoint is being written nothing is spilled: its parts are not in the store yet, and it would hold rows from
//! behind its barrier. So memory can exceed the budget by what arrives in that time; when it is far over it, rows wait.

use super::{era::EraWindows, sliding::Sliding};
use crate::{
    operator::OperatorError,
    window::chunks::{self, Content, Kind, PartWrite},
};

impl EraWindows {
    /// Spills if memory is short.
    pub(super) fn mind_memory(&mut self) -> Result<(), OperatorError> {
        if self.writing || self.memory_bytes() <= self.memory_budget_bytes {
            return Ok(());
        }
        // Groups that nothing refers to go first: with ever new keys they may be all that is held.
        self.renumber_groups()?;
        if self.memory_bytes() <= self.memory_budget_bytes / 4 * 3 {
            return Ok(());
        }
        self.spill()
    }

    fn spill(&mut self) -> Result<(), OperatorError> {
        self.sliding = None;
        let mut puts = Vec::new();
        for (start, slice) in &mut self.slices {
            slice.seal(&mut self.scratch.spare);
            for part in slice.parts.iter_mut().filter(|part| part.stored.is_empty()) {
                let stored = part.store_as(&mut self.next_part);
                if let Some(data) = part.data.take() {
                    puts.push(PartWrite { kind: Kind::Part, slice: *start, stored, content: Content::States(data) });
                }
            }
        }
        let written = chunks::write(&self.store, &self.plan.layout, self.groups.keys(), puts, &[])?;
        self.stats.spilled_bytes += written;
        self.slices.values_mut().flat_map(|slice| &mut slice.parts).for_each(|part| part.data = None);
        self.renumber_groups()
    }

    /// Bytes of state in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        let slices: usize = self.slices.values().map(crate::window::slice::Slice::memory_bytes).sum();
        let sliding = self.sliding.as_ref().map_or(0, Sliding::memory_bytes);
        slices + sliding + self.groups.memory_bytes() + self.corrections.memory_bytes()
    }
}
