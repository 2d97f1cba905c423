//! When keys last came out.
//!
//! A table in memory has that of the keys of late. What has come out since the last barrier is appended to a log in buckets of
//! event time, from which a restart makes the table anew; it leaves memory with the checkpoint. Over the memory budget the
//! table leaves memory too, as an entry a key, and its keys come back, many sorted keys at a time, when they have a row.
//!
//! ```text
//! entry    key group u16 | 1 | key, in Arrow's row format        version u8 = 1 | when it last came out, i64
//! ```
//!
//! When a bucket of the log can no longer keep anything from coming out it is forgotten, and with it the entries of its
//! keys, save those that have come out again since.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch},
    compute,
    datatypes::{DataType, Schema},
};
use millrace_plan::Distinct;
use millrace_state::TaskStore;
use millrace_stream::KeyGroupRange;

use crate::{
    aggregate::longs,
    group::{Groups, NO_GROUP},
    operator::{OperatorContext, OperatorError},
    stored_keys::{KeyRows, Names, Portion, portions, prefix},
    window::row_log::{RowLog, RowWrites},
};

/// The names of the states in the task's store: the log and the entries.
pub(super) const STATES: [&str; 2] = ["marks", "mark_entries"];

const VERSION: u8 = 1;
const ENTRY: u8 = 1;
/// A key that came out never.
const NEVER: i64 = i64::MIN;

/// When keys last came out.
pub(super) struct Marks {
    keys: Vec<usize>,
    key_types: Vec<DataType>,
    within_ms: i64,
    groups: Groups,
    /// When each group last came out.
    last: Vec<i64>,
    /// Whether the store has not got that as an entry.
    changed: Vec<bool>,
    /// Whether the store has entries.
    has_entries: bool,
    log: RowLog,
    columns: Vec<usize>,
    bucket_ms: i64,
    store: Arc<TaskStore>,
    key_groups: KeyGroupRange,
    writing: bool,
    spilled_bytes: u64,
    groups_after_reclaim: usize,
}

impl Marks {
    pub(super) fn new(plan: &Distinct, cx: &OperatorContext) -> Result<Self, OperatorError> {
        let key_types: Vec<DataType> = plan.keys.iter().map(|key| plan.input.field(*key).data_type().clone()).collect();
        let columns: Vec<usize> = std::iter::once(0).chain(plan.keys.iter().copied()).collect();
        let schema: Arc<Schema> = Arc::new(plan.input.project(&columns)?);
        let own: Vec<usize> = (1..=plan.keys.len()).collect();
        Ok(Self {
            keys: plan.keys.clone(),
            within_ms: plan.within_ms,
            groups: Groups::new(&key_types)?,
            key_types,
            last: Vec::new(),
            changed: Vec::new(),
            has_entries: false,
            log: RowLog::new(STATES[0], &schema, &own, &cx.store, cx.key_groups),
            columns,
            bucket_ms: (plan.within_ms / 8).max(1),
            store: Arc::clone(&cx.store),
            key_groups: cx.key_groups,
            writing: false,
            spilled_bytes: 0,
            groups_after_reclaim: 0,
        })
    }

    /// Makes the table from the log; what does not fit becomes entries.
    pub(super) fn load(&mut self, next_part: u64, budget_bytes: usize) -> Result<(), OperatorError> {
        self.log.load(next_part, 0)?;
        let store = Arc::clone(&self.store);
        let parted = self.log.parted(self.log.buckets())?;
        for key_group in self.key_groups.start..self.key_groups.end {
            let mut entries = store.scan(STATES[1], &prefix(key_group, ENTRY)..&prefix(key_group, ENTRY + 1))?;
            self.has_entries |= entries.next_entry().transpose()?.is_some();
            let mut found = Vec::new();
            self.log.read_parted(&parted, key_group, |_, _, rows| {
                found.push(rows);
                Ok(())
            })?;
            let mut numbers = Vec::new();
            for rows in found {
                self.groups.intern(&rows.columns()[1..], rows.num_rows(), &mut numbers)?;
                self.grow();
                for (group, time) in numbers.iter().zip(longs(rows.column(0)).unwrap_or_default()) {
                    let last = &mut self.last[*group as usize];
                    *last = (*last).max(*time);
                    self.changed[*group as usize] = true;
                }
            }
            if self.table_bytes() > budget_bytes {
                self.spill(i64::MIN)?;
            }
        }
        Ok(())
    }

    fn grow(&mut self) {
        self.last.resize(self.groups.len(), NEVER);
        self.changed.resize(self.groups.len(), false);
    }

    /// The rows that come out of `rows`, which are in the order of their event times.
    pub(super) fn first_of(&mut self, rows: &RecordBatch) -> Result<RecordBatch, OperatorError> {
        let keys: Vec<ArrayRef> = self.keys.iter().map(|key| Arc::clone(rows.column(*key))).collect();
        let (mut groups, known) = (Vec::new(), self.groups.len());
        self.groups.intern(&keys, rows.num_rows(), &mut groups)?;
        self.grow();
        self.fetch_from(known)?;
        let times = longs(rows.column(0)).unwrap_or_default();
        let comes_out = groups.iter().zip(times).map(|(group, time)| {
            let last = &mut self.last[*group as usize];
            let first = *last == NEVER || time.saturating_sub(*last) >= self.within_ms;
            if first {
                *last = *time;
                self.changed[*group as usize] = true;
            }
            Some(first)
        });
        let comes_out: BooleanArray = comes_out.collect();
        let rows = compute::filter_record_batch(rows, &comes_out)?;
        self.append(&rows)?;
        Ok(rows)
    }

    /// Notes in the log that rows have come out.
    fn append(&mut self, rows: &RecordBatch) -> Result<(), OperatorError> {
        let marks = rows.project(&self.columns)?;
        let times = longs(marks.column(0)).unwrap_or_default();
        let bucket_of = |time: i64| time.saturating_sub(time.rem_euclid(self.bucket_ms));
        let mut from = 0;
        while from < times.len() {
            let bucket = bucket_of(times[from]);
            let to = from + times[from..].iter().take_while(|time| bucket_of(**time) == bucket).count();
            self.log.append(bucket, marks.slice(from, to - from));
            from = to;
        }
        Ok(())
    }

    /// Reads the entries of the groups from `known` on, which are new.
    fn fetch_from(&mut self, known: usize) -> Result<(), OperatorError> {
        if !self.has_entries || known == self.groups.len() {
            return Ok(());
        }
        let groups: Vec<u32> = (known as u32..self.groups.len() as u32).collect();
        let (mut names, rows) = (Names::default(), KeyRows::new(self.groups.keys(), &self.key_types, &groups)?);
        (0..groups.len()).for_each(|at| rows.name(at, ENTRY, &[], &mut names));
        let order = names.sorted();
        for (at, last) in order.iter().zip(read(&self.store, &names, &order)?) {
            self.last[groups[*at] as usize] = last.unwrap_or(NEVER);
        }
        Ok(())
    }

    /// Lets the table leave memory, save what can keep nothing from coming out after `horizon`: that is forgotten.
    fn spill(&mut self, horizon: i64) -> Result<(), OperatorError> {
        let is_wanted = |group: &u32| self.changed[*group as usize] && self.last[*group as usize] > horizon;
        let groups: Vec<u32> = (0..self.groups.len() as u32).filter(is_wanted).collect();
        let mut run = self.store.writer();
        for Portion { groups, .. } in portions(self.groups.keys(), &groups) {
            let (mut names, rows) = (Names::default(), KeyRows::new(self.groups.keys(), &self.key_types, &groups)?);
            (0..groups.len()).for_each(|at| rows.name(at, ENTRY, &[], &mut names));
            for at in names.sorted() {
                let value = encode(self.last[groups[at] as usize]);
                self.spilled_bytes += value.len() as u64;
                run.put(STATES[1], names.get(at), value)?;
            }
        }
        run.finish()?;
        self.has_entries = true;
        self.groups = Groups::new(&self.key_types)?;
        (self.last, self.changed, self.groups_after_reclaim) = Default::default();
        Ok(())
    }

    /// Forgets what can no longer keep anything from coming out, now that event time has come to `watermark`.
    pub(super) fn forget(&mut self, watermark: i64) -> Result<(), OperatorError> {
        const FEW: usize = 16 * 1024;
        let horizon = watermark.saturating_sub(self.within_ms);
        while let Some(bucket) = self.log.first_bucket()
            && bucket.saturating_add(self.bucket_ms - 1) <= horizon
        {
            if self.has_entries {
                // Nothing may be written to the store meanwhile.
                if self.writing {
                    break;
                }
                self.forget_entries(bucket, horizon)?;
            }
            self.log.remove(bucket);
        }
        if self.groups.len() < FEW.max(2 * self.groups_after_reclaim) {
            return Ok(());
        }
        let live: Vec<bool> = self.last.iter().map(|last| *last > horizon).collect();
        let renumbered = self.groups.retain(&live)?;
        let (mut last, mut changed) = (vec![NEVER; self.groups.len()], vec![false; self.groups.len()]);
        for (old, new) in renumbered.iter().enumerate().filter(|(_, new)| **new != NO_GROUP) {
            last[*new as usize] = self.last[old];
            changed[*new as usize] = self.changed[old];
        }
        (self.last, self.changed) = (last, changed);
        self.groups_after_reclaim = self.groups.len();
        Ok(())
    }

    /// Deletes the entries of a bucket's keys that have not come out after `horizon`.
    fn forget_entries(&self, bucket: i64, horizon: i64) -> Result<(), OperatorError> {
        let parted = self.log.parted(std::iter::once(bucket))?;
        let mut run = self.store.writer();
        for key_group in self.key_groups.start..self.key_groups.end {
            let mut groups = Groups::new(&self.key_types)?;
            let mut numbers = Vec::new();
            self.log.read_parted(&parted, key_group, |_, _, rows| {
                groups.intern(&rows.columns()[1..], rows.num_rows(), &mut numbers)
            })?;
            let all: Vec<u32> = (0..groups.len() as u32).collect();
            let (mut names, rows) = (Names::default(), KeyRows::new(groups.keys(), &self.key_types, &all)?);
            (0..all.len()).for_each(|at| rows.name(at, ENTRY, &[], &mut names));
            let order = names.sorted();
            for (at, last) in order.iter().zip(read(&self.store, &names, &order)?) {
                if last.is_some_and(|last| last <= horizon) {
                    run.delete(STATES[1], names.get(*at))?;
                }
            }
        }
        run.finish()?;
        Ok(())
    }

    /// Keeps to a memory budget.
    pub(super) fn mind_memory(&mut self, watermark: i64, budget_bytes: usize) -> Result<(), OperatorError> {
        if self.writing || self.memory_bytes() <= budget_bytes {
            return Ok(());
        }
        self.log.spill_to(budget_bytes / 4)?;
        if self.memory_bytes() > budget_bytes {
            self.spill(watermark.saturating_sub(self.within_ms))?;
        }
        Ok(())
    }

    pub(super) fn freeze(&mut self) -> Option<RowWrites> {
        self.writing = true;
        self.log.freeze()
    }

    pub(super) fn thaw(&mut self) {
        self.writing = false;
        self.log.thaw();
        // What is in the store is only read again by a restart, and when it is forgotten.
        self.log.drop_written();
    }

    pub(super) fn next_part(&self) -> u64 {
        self.log.next_part()
    }

    pub(super) fn len(&self) -> usize {
        self.last.len()
    }

    fn table_bytes(&self) -> usize {
        self.groups.memory_bytes() + self.last.capacity() * 8 + self.changed.capacity()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.table_bytes() + self.log.memory_bytes()
    }

    pub(super) fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes + self.log.spilled_bytes()
    }
}

/// What the entries of names say, in this order of them.
fn read(store: &TaskStore, names: &Names, order: &[usize]) -> Result<Vec<Option<i64>>, OperatorError> {
    let names: Vec<&[u8]> = order.iter().map(|at| names.get(*at)).collect();
    let found = store.multi_get(STATES[1], &names)?;
    found.into_iter().map(|value| value.map(|value| decode(&value)).transpose()).collect()
}

fn encode(last: i64) -> [u8; 9] {
    let mut value = [VERSION; 9];
    value[1..].copy_from_slice(&last.to_be_bytes());
    value
}

fn decode(value: &[u8]) -> Result<i64, OperatorError> {
    match value.split_first() {
        Some((&VERSION, last)) if last.len() == 8 => Ok(i64::from_be_bytes(std::array::from_fn(|at| last[at]))),
        _ => Err(OperatorError::Damaged {
            found: format!("an entry of {} bytes", value.len()),
            expected: "when a key last came out, version 1",
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What was released never changes: another form needs another version, and a golden of its own.
    #[test]
    fn version_1_is_what_the_golden_bytes_are() {
        let golden = b"\x01\xff\xff\xff\xff\xff\xff\xec\x78";
        assert_eq!(encode(-5_000), *golden);
        assert_eq!(decode(golden).ok(), Some(-5_000));
        assert!(decode(b"\x02\xff\xff\xff\xff\xff\xff\xec\x78").is_err());
        (0..9).for_each(|bytes| assert!(decode(&golden[..bytes]).is_err(), "{bytes} bytes"));
    }

    proptest! {
        #[test]
        fn what_is_stored_is_read(last: i64) {
            prop_assert_eq!(decode(&encode(last)).ok(), Some(last));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(last) = decode(&bytes) {
                prop_assert_eq!(&encode(last)[..], &bytes[..]);
            }
        }
    }
}
