//! Slices that are only in the store, merged into blocks, so that windows which overlap do not read each of them anew.
//!
//! A block has the states of 1, 2, 4, 8 … aligned slices, and a window is at most two blocks of each length. They are
//! made when a window first needs them, once the watermark has passed their slices and these have left memory, each
//! from the two blocks of which it consists. What comes to a slice later is read beside them.
//!
//! ```text
//! level 2   [0     3] [4     7]          the window 1..=6 is
//! level 1   [0 1] [2 3] [4 5] [6 7]      [1] + [2 3] + [4 5] + [6]
//! level 0    0 1   2 3   4 5   6 7       the slices
//! ```
//!
//! Blocks say nothing that slices do not: a restart deletes them and makes new ones. While a checkpoint is being written
//! none is made.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::ArrayRef;
use millrace_state::{StateError, TaskStore, chunk};

use super::era::EraWindows;
use crate::{
    group::{GroupKeys, Groups},
    operator::OperatorError,
    window::{
        chunks::{self, Kind, Layout, Stored},
        slice::Slice,
        table::Table,
    },
};

/// The name of the state in the task's store.
pub(in crate::window) const STATE: &str = "window_blocks";

/// A window of fewer slices has no blocks.
const FEWEST_SLICES: i64 = 4;

/// The blocks that the store has.
pub(super) struct Blocks {
    layout: Layout,
    blocks: BTreeMap<BlockId, Block>,
    /// Blocks that no window needs any more.
    gone: Vec<(Kind, i64, Stored)>,
}

/// Two to the power of `level` slices from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockId {
    start: i64,
    level: u32,
}

struct Block {
    stored: Stored,
    /// The parts of slices that it has.
    parts: BTreeSet<u64>,
}

impl Blocks {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, blocks: BTreeMap::new(), gone: Vec::new() }
    }

    /// Forgets the blocks that begin before `start`.
    pub(super) fn forget(&mut self, start: i64) {
        while let Some(entry) = self.blocks.first_entry().filter(|entry| entry.key().start < start) {
            let (id, block) = entry.remove_entry();
            self.gone.push((Kind::Part, id.start, block.stored));
        }
    }

    fn delete_gone(&mut self, store: &TaskStore) -> Result<(), StateError> {
        if !self.gone.is_empty() {
            let keys = GroupKeys::new(&[]).map_err(chunks::unstorable)?;
            chunks::write(store, &self.layout, &keys, Vec::new(), &std::mem::take(&mut self.gone))?;
        }
        Ok(())
    }
}

impl EraWindows {
    /// The blocks, at least of one slice, that have everything of the slices from `start` to `end` that is only in the
    /// store; makes those that are missing, if it can.
    pub(super) fn cover(&mut self, start: i64, end: i64) -> Result<Vec<BlockId>, OperatorError> {
        let mut cover = Vec::new();
        if self.plan.grid.slices_per_window() < FEWEST_SLICES {
            let cold = self.slices.range(start..end).filter(|(_, slice)| slice.is_cold());
            cover.extend(cold.map(|(start, _)| BlockId { start: *start, level: 0 }));
            return Ok(cover);
        }
        if !self.writing {
            self.blocks.delete_gone(&self.store)?;
        }
        let mut at = start;
        while at < end {
            let mut level = 0;
            while self.end_of(BlockId { start: at, level: level + 1 }).is_some_and(|after| after <= end) {
                level += 1;
            }
            let id = BlockId { start: at, level };
            self.cover_block(id, &mut cover)?;
            match self.end_of(id) {
                Some(after) => at = after,
                None => break,
            }
        }
        Ok(cover)
    }

    /// The end of a block; `None` if there is none that begins there.
    fn end_of(&self, id: BlockId) -> Option<i64> {
        let length =
            self.plan.grid.slice_ms().checked_mul(1_i64.checked_shl(id.level).filter(|slices| *slices > 0)?)?;
        let is_aligned = id.start.checked_sub(self.plan.grid.slice_of(0))?.rem_euclid(length) == 0;
        id.start.checked_add(length).filter(|_| is_aligned || id.level == 0)
    }

    fn cover_block(&mut self, id: BlockId, cover: &mut Vec<BlockId>) -> Result<(), OperatorError> {
        let end = self.end_of(id).unwrap_or(i64::MAX);
        if !self.slices.range(id.start..end).any(|(_, slice)| slice.is_cold()) {
            return Ok(());
        }
        if id.level == 0 || self.blocks.blocks.contains_key(&id) {
            cover.push(id);
            return Ok(());
        }
        let halves = self.halves(id);
        if !self.can_be_made(id, end) {
            return halves.into_iter().try_for_each(|half| self.cover_block(half, cover));
        }
        let mut of = Vec::new();
        halves.into_iter().try_for_each(|half| self.cover_block(half, &mut of))?;
        if let [BlockId { level: 1.., .. }] = of[..] {
            // The other half is empty.
            cover.append(&mut of);
            return Ok(());
        }
        self.make_block(id, end, &of)?;
        cover.push(id);
        Ok(())
    }

    fn halves(&self, BlockId { start, level }: BlockId) -> [BlockId; 2] {
        let half = self.plan.grid.slice_ms() << (level - 1);
        [BlockId { start, level: level - 1 }, BlockId { start: start + half, level: level - 1 }]
    }

    fn can_be_made(&self, id: BlockId, end: i64) -> bool {
        let is_left = |slice: &Slice| slice.live.is_none() && slice.in_memory().next().is_none();
        !self.writing && end <= self.watermark && self.slices.range(id.start..end).all(|(_, slice)| is_left(slice))
    }

    /// Merges blocks into one.
    fn make_block(&mut self, id: BlockId, end: i64, of: &[BlockId]) -> Result<(), OperatorError> {
        let stored = Stored::new(&mut self.next_part);
        let mut mask = 0_u128;
        let mut run = self.store.writer();
        let mut value = Vec::new();
        for key_group in chunks::key_groups(self.key_groups) {
            let mut groups = Groups::new(&self.plan.key_types)?;
            let mut total = Table::new(&self.plan.aggregates, 0, &mut Vec::new())?;
            let (mut numbers, mut locals) = (Vec::new(), Vec::new());
            self.read_cover(key_group, of, |keys, state, rows| {
                groups.intern(keys, rows, &mut numbers)?;
                total.merge(state, &numbers, groups.len(), &mut locals)
            })?;
            if total.len() == 0 {
                continue;
            }
            let part = total.into_part(&mut Vec::new());
            let rows = self.blocks.layout.chunk(groups.keys(), &part)?;
            value.clear();
            chunk::encode(&rows, &mut value)?;
            run.put(STATE, self.blocks.layout.part_key(key_group, id.start, stored.part), &value)?;
            mask |= 1 << key_group;
        }
        run.finish()?;
        let _ = stored.key_groups.set(mask);
        let cold = self.slices.range(id.start..end).flat_map(|(_, slice)| &slice.parts);
        let parts = cold.flat_map(|part| part.stored.iter().map(|stored| stored.part)).collect();
        self.blocks.blocks.insert(id, Block { stored, parts });
        Ok(())
    }

    /// Reads one key group of blocks: for each chunk its keys, its states and how many rows it has.
    pub(super) fn read_cover(
        &self,
        key_group: u16,
        cover: &[BlockId],
        mut take: impl FnMut(&[ArrayRef], &[ArrayRef], usize) -> Result<(), OperatorError>,
    ) -> Result<(), OperatorError> {
        let nothing = BTreeSet::new();
        for id in cover {
            let block = self.blocks.blocks.get(id);
            // Another incarnation may have left something under the same name.
            let has_rows = |block: &&Block| {
                block.stored.key_groups.get().is_some_and(|key_groups| key_groups & (1 << key_group) != 0)
            };
            if let Some(block) = block.filter(has_rows) {
                let slices = (id.start, id.start.checked_add(1));
                let wanted = |_, part| part == block.stored.part;
                self.blocks.layout.scan(&self.store, key_group, Kind::Part, slices, wanted, |_, _, rows| {
                    let (keys, state) = self.blocks.layout.split(&rows);
                    take(keys, state, rows.num_rows())
                })?;
            }
            let (end, known) = (self.end_of(*id).unwrap_or(i64::MAX), block.map_or(&nothing, |block| &block.parts));
            self.read_cold(key_group, (id.start, end), known, |_, keys, state, rows| take(keys, state, rows))?;
        }
        Ok(())
    }
}
