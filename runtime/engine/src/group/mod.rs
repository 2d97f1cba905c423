//! Keys turned into small numbers: every distinct key of a task gets a dense `u32`, its *group*.
//!
//! Everything behind the interner is columnar over groups. A group's number means something only inside the task and
//! until the next [`Groups::retain`]; what is stored holds the keys themselves.
//!
//! ```text
//! key columns ── key_hash ──► hashes ── slots (tag, group) ──► groups of the rows
//!                                         │ verified against
//!                                         ▼
//!                              GroupKeys: keys and hashes by group, in shared segments
//! ```
//!
//! A batch is interned in two passes, so that the cache misses of many rows overlap: the first finds for each row the slot
//! whose 32-bit tag agrees and takes that group on trust (or makes a new one), the second compares the keys, and the few
//! rows that trusted wrongly probe again. Keys of one integer-like column and of one string column have representations of
//! their own; every other key goes through Arrow's row format.
//!
//! [`GroupKeys`] can be cloned in time proportional to the number of segments, which is how a checkpoint that is written
//! behind the task's back reads keys while the task adds more.

mod bytes;
mod keys;
mod segments;
mod slots;
#[cfg(test)]
mod tests;

use arrow::{array::ArrayRef, datatypes::DataType};
use millrace_stream::key_hash;

pub use self::keys::GroupKeys;
use self::{keys::KeyBatch, slots::Slots};
use crate::operator::OperatorError;

/// Marks what is not a group.
pub const NO_GROUP: u32 = u32::MAX;

/// Gives every distinct key a group.
pub struct Groups {
    keys: GroupKeys,
    slots: Slots,
    hashes: Vec<u64>,
}

impl Groups {
    /// An interner of keys whose columns have these types. Without columns there is one group.
    ///
    /// # Errors
    /// Fails if a type cannot be a key.
    pub fn new(types: &[DataType]) -> Result<Self, OperatorError> {
        Ok(Self { keys: GroupKeys::new(types)?, slots: Slots::default(), hashes: Vec::new() })
    }

    /// How many groups there are; they are numbered from 0.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no groups.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys by group.
    pub fn keys(&self) -> &GroupKeys {
        &self.keys
    }

    /// Puts the group of each of `rows` rows into `groups`, replacing what it held.
    ///
    /// # Errors
    /// Fails if the columns are not of the types that were given to [`Self::new`].
    pub fn intern(&mut self, columns: &[ArrayRef], rows: usize, groups: &mut Vec<u32>) -> Result<(), OperatorError> {
        groups.clear();
        if columns.is_empty() {
            if self.keys.is_empty() && rows > 0 {
                self.keys.push_empty();
            }
            groups.resize(rows, 0);
            return Ok(());
        }
        self.hashes.clear();
        key_hash::hash_columns(columns, &mut self.hashes);
        self.slots.reserve(rows, &self.keys);
        let batch = self.keys.batch(columns)?;
        groups.resize(rows, NO_GROUP);
        match &batch {
            KeyBatch::Ints(values, nulls) => self.keys.ints_mut(|store, table| {
                slots::intern(&mut self.slots, table, store, &&values[..], nulls.as_ref(), &self.hashes, groups);
            }),
            KeyBatch::Views(array, nulls) => self.keys.views_mut(|store, table| {
                slots::intern(&mut self.slots, table, store, array, nulls.as_ref(), &self.hashes, groups);
            }),
            KeyBatch::Rows(converted) => self.keys.rows_mut(|store, table| {
                slots::intern(&mut self.slots, table, store, converted, None, &self.hashes, groups);
            }),
        }
        Ok(())
    }

    /// Forgets every group for which `live` is false and numbers the rest anew, in the same order. Returns the new number
    /// of each old group, [`NO_GROUP`] for those forgotten.
    ///
    /// # Errors
    /// Fails if kept keys cannot be read back, which would be a defect.
    pub fn retain(&mut self, live: &[bool]) -> Result<Vec<u32>, OperatorError> {
        let kept: Vec<u32> = (0..self.len() as u32).filter(|group| live[*group as usize]).collect();
        let mut renumbered = vec![NO_GROUP; self.len()];
        for (new, old) in kept.iter().enumerate() {
            renumbered[*old as usize] = new as u32;
        }
        self.keys = self.keys.only(&kept);
        self.slots = Slots::default();
        self.slots.reserve(0, &self.keys);
        Ok(renumbered)
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.keys.memory_bytes() + self.slots.memory_bytes() + self.hashes.capacity() * 8
    }
}
