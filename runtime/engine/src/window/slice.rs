//! One slice of event time: the rows that fell in it, as partial states.
//!
//! ```text
//! live      takes rows; at a barrier, or when it is first read, it is sealed into a part
//! parts     no longer change; written to the store at the barrier that follows their sealing, or when memory is short
//! ```

use std::sync::Arc;

use super::{
    chunks::Stored,
    table::{Part, Table},
};

/// A slice of a window.
#[derive(Default)]
pub(crate) struct Slice {
    pub(crate) live: Option<Table>,
    pub(crate) parts: Vec<SlicePart>,
}

/// A sealed part of a slice.
pub(crate) struct SlicePart {
    /// The rows; `None` when they are only in the store.
    pub(crate) data: Option<Arc<Part>>,
    /// Where they are in the store. Empty: not written yet.
    pub(crate) stored: Vec<Stored>,
    /// Whether the running aggregate of hopping windows has taken them in.
    pub(crate) absorbed: bool,
}

impl SlicePart {
    /// A part that is only in memory.
    pub(crate) fn fresh(part: Part) -> Self {
        Self { data: Some(Arc::new(part)), stored: Vec::new(), absorbed: false }
    }

    /// A place for the part in the store, under a number that was never used.
    pub(crate) fn store_as(&mut self, next_part: &mut u64) -> Stored {
        let stored = Stored::new(next_part);
        self.stored.push(stored.clone());
        stored
    }
}

impl Slice {
    /// Seals what is live, so that everything is in parts.
    pub(crate) fn seal(&mut self, spare: &mut Vec<Vec<u32>>) {
        if let Some(live) = self.live.take()
            && live.len() > 0
        {
            self.parts.push(SlicePart::fresh(live.into_part(spare)));
        }
    }

    /// Whether part of it is only in the store.
    pub(crate) fn is_cold(&self) -> bool {
        self.parts.iter().any(|part| part.data.is_none())
    }

    /// The parts in memory.
    pub(crate) fn in_memory(&self) -> impl Iterator<Item = &Arc<Part>> {
        self.parts.iter().filter_map(|part| part.data.as_ref())
    }

    /// Gives the groups their new numbers.
    pub(crate) fn renumber(&mut self, renumbered: &[u32]) {
        if let Some(live) = &mut self.live {
            live.renumber(renumbered);
        }
        for part in &mut self.parts {
            part.data = part.data.as_ref().map(|data| data.renumbered(renumbered));
        }
    }

    /// How many states of groups are in memory.
    pub(crate) fn entries(&self) -> usize {
        self.live.as_ref().map_or(0, Table::len) + self.in_memory().map(|part| part.groups.len()).sum::<usize>()
    }

    /// Bytes held.
    pub(crate) fn memory_bytes(&self) -> usize {
        let live = self.live.as_ref().map_or(0, Table::memory_bytes);
        live + self.in_memory().map(|part| part.memory_bytes()).sum::<usize>()
    }
}
