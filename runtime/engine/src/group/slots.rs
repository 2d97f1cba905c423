//! The open-addressing table from hash to group, and the passes that intern a batch through it.

use arrow::buffer::NullBuffer;

use super::{
    NO_GROUP,
    keys::{GroupKeys, KeyStore, Shared},
};

/// How many rows ahead a slot is fetched. Enough to cover a miss to memory with the work of the rows between.
const AHEAD: usize = 24;

/// A power of two of slots, at most half of them taken, probed linearly. A slot is 0, or the hash's high 32 bits above
/// the group's number plus one; it is found by the hash's low bits.
#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<u64>,
    mask: usize,
}

impl Slots {
    /// Makes room for `more` groups beyond those that `keys` holds, and puts those in if the table had to grow.
    pub(super) fn reserve(&mut self, more: usize, keys: &GroupKeys) {
        let wanted = ((keys.len() + more) * 2).next_power_of_two().max(64);
        if wanted <= self.slots.len() {
            return;
        }
        self.slots = vec![0; wanted];
        self.mask = wanted - 1;
        for group in (0..keys.len() as u32).filter(|group| !keys.is_null_group(*group)) {
            let hash = keys.hash(group);
            let mut at = hash as usize & self.mask;
            while self.slots[at] != 0 {
                at = (at + 1) & self.mask;
            }
            self.slots[at] = slot(hash, group);
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.len() * 8
    }

    #[inline]
    fn fetch(&self, hash: u64) {
        let at = hash as usize & self.mask;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `at` is below the number of slots, so the pointer is in bounds; a prefetch reads nothing.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.slots.as_ptr().add(at).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }
}

#[inline]
fn slot(hash: u64, group: u32) -> u64 {
    (hash & 0xffff_ffff_0000_0000) | (u64::from(group) + 1)
}

#[inline]
fn group_of(slot: u64) -> u32 {
    (slot as u32) - 1
}

/// Finds or makes the group of each row. There must be room for a new group a row.
pub(super) fn intern<S: KeyStore>(
    slots: &mut Slots,
    shared: &mut Shared,
    store: &mut S,
    batch: &S::Batch<'_>,
    nulls: Option<&NullBuffer>,
    hashes: &[u64],
    groups: &mut [u32],
) {
    let is_null = |row: usize| nulls.is_some_and(|nulls| nulls.is_null(row));
    for row in 0..groups.len() {
        if let Some(hash) = hashes.get(row + AHEAD) {
            slots.fetch(*hash);
        }
        let hash = hashes[row];
        if is_null(row) {
            groups[row] = match shared.null_group {
                NO_GROUP => {
                    shared.null_group = shared.push(hash);
                    store.push_null();
                    shared.null_group
                }
                group => group,
            };
            continue;
        }
        let mut at = hash as usize & slots.mask;
        groups[row] = loop {
            let found = slots.slots[at];
            if found == 0 {
                let group = shared.push(hash);
                store.push(batch, row);
                slots.slots[at] = slot(hash, group);
                break group;
            }
            if found >> 32 == hash >> 32 {
                break group_of(found);
            }
            at = (at + 1) & slots.mask;
        };
    }
    for row in 0..groups.len() {
        if !is_null(row) && !store.matches(groups[row], batch, row) {
            groups[row] = probe(slots, shared, store, batch, row, hashes[row]);
        }
    }
}

/// The same for one row, comparing keys at once.
#[cold]
fn probe<S: KeyStore>(
    slots: &mut Slots,
    shared: &mut Shared,
    store: &mut S,
    batch: &S::Batch<'_>,
    row: usize,
    hash: u64,
) -> u32 {
    let mut at = hash as usize & slots.mask;
    loop {
        let found = slots.slots[at];
        if found == 0 {
            let group = shared.push(hash);
            store.push(batch, row);
            slots.slots[at] = slot(hash, group);
            return group;
        }
        if found >> 32 == hash >> 32 && store.matches(group_of(found), batch, row) {
            return group_of(found);
        }
        at = (at + 1) & slots.mask;
    }
}
