//! The rows of some buckets, one key group at a time.

use std::collections::BTreeMap;

use arrow::{
    array::{RecordBatch, UInt32Array},
    compute::take_record_batch,
};

use super::RowLog;
use crate::{
    operator::OperatorError,
    window::chunks::{self, Kind},
};

/// Rows of some buckets; see [`RowLog::parted`].
pub(crate) struct Parted {
    buckets: Vec<PartedBucket>,
}

struct PartedBucket {
    bucket: i64,
    /// What is in memory, with the number of its part, sorted by key group, and where each key group begins.
    in_memory: Vec<(u64, RecordBatch, Vec<u32>)>,
    /// The key groups of each part that are only in the store. Others of the same part may be in memory.
    cold: BTreeMap<u64, u128>,
}

impl RowLog {
    /// The rows of buckets, to be read one key group at a time: what is in memory is sorted by key group for that.
    pub(crate) fn parted(&self, buckets: impl Iterator<Item = i64>) -> Result<Parted, OperatorError> {
        let mut parted = Parted { buckets: Vec::new() };
        for bucket in buckets {
            let (mut in_memory, mut cold) = (Vec::new(), BTreeMap::new());
            for part in self.buckets.get(&bucket).into_iter().flatten() {
                let number = part.stored.iter().map(|stored| stored.part).min().unwrap_or(u64::MAX);
                match &part.rows {
                    None => part.stored.iter().for_each(|stored| {
                        *cold.entry(stored.part).or_default() |= stored.key_groups.get().copied().unwrap_or(0);
                    }),
                    Some(rows) => {
                        for rows in rows.batches() {
                            let (order, starts) = chunks::sort_by_key_group(&chunks::key_groups_of(rows, &self.keys));
                            let rows = take_record_batch(rows, &UInt32Array::from(order))?;
                            in_memory.push((number, rows, starts));
                        }
                    }
                }
            }
            parted.buckets.push(PartedBucket { bucket, in_memory, cold });
        }
        Ok(parted)
    }

    /// The rows of buckets, to be read one key group at a time. The buckets are forgotten.
    ///
    /// What is in the store stays there until a barrier, so that it can be read until then.
    pub(crate) fn take_parted(&mut self, buckets: &[i64]) -> Result<Parted, OperatorError> {
        let parted = self.parted(buckets.iter().copied())?;
        buckets.iter().for_each(|bucket| self.remove(*bucket));
        Ok(parted)
    }

    /// The rows of one key group: with their bucket, and a number that rises from older rows of a bucket to younger ones.
    pub(crate) fn read_parted(
        &self,
        parted: &Parted,
        key_group: u16,
        mut take: impl FnMut(i64, u64, RecordBatch) -> Result<(), OperatorError>,
    ) -> Result<(), OperatorError> {
        for PartedBucket { bucket, in_memory, cold } in &parted.buckets {
            for (number, rows, starts) in in_memory {
                let at = usize::from(key_group);
                let (from, to) = (starts[at] as usize, starts[at + 1] as usize);
                if from < to {
                    take(*bucket, *number, rows.slice(from, to - from))?;
                }
            }
            let is_cold = |key_groups: &u128| key_groups & (1 << key_group) != 0;
            if cold.values().any(is_cold) {
                let wanted = |_, part| cold.get(&part).is_some_and(is_cold);
                let slices = (*bucket, bucket.checked_add(1));
                self.layout.scan(&self.store, key_group, Kind::Part, slices, wanted, &mut take)?;
            }
        }
        Ok(())
    }
}
