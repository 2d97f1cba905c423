//! Byte strings in blocks that a snapshot shares.

use std::sync::Arc;

const BLOCK_BYTES: usize = 256 * 1024;

/// Where a string lies.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    pub(super) block: u32,
    pub(super) offset: u32,
}

/// Byte strings. Cloning shares the blocks; the next push after a clone copies the last one, at most 256 KiB.
#[derive(Clone, Default)]
pub(super) struct Blocks {
    blocks: Vec<Arc<Vec<u8>>>,
}

impl Blocks {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Place {
        let fits = self.blocks.last().is_some_and(|block| block.len() + bytes.len() <= BLOCK_BYTES);
        if !fits {
            self.blocks.push(Arc::new(Vec::with_capacity(bytes.len().max(4096))));
        }
        let at = self.blocks.len() - 1;
        let block = Arc::make_mut(&mut self.blocks[at]);
        let offset = block.len() as u32;
        block.extend_from_slice(bytes);
        Place { block: at as u32, offset }
    }

    #[inline]
    pub(super) fn get(&self, place: Place, len: usize) -> &[u8] {
        let offset = place.offset as usize;
        &self.blocks[place.block as usize][offset..offset + len]
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.capacity()).sum()
    }
}
