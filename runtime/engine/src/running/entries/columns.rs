//! Entries as columns, as long as all of them are in memory.
//!
//! ```text
//! key columns | emitted UInt8 (0 never, 1 as it is, 2 otherwise) | pending Boolean | current state | emitted state
//! ```
//!
//! The columns of the emitted state are null where it is not another than the current one.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, BooleanArray, UInt8Array, UInt32Array},
    compute,
    datatypes::{DataType, Field, UInt8Type},
};
use millrace_state::{StateError, TaskStore};

use super::{Entries, Entry, State};
use crate::{
    group::{GroupKeys, Groups},
    operator::OperatorError,
    running::{CHUNKS, STATE},
    stored_keys::delete_kinds,
    window::{
        chunks::{Stored, unstorable},
        delta_log::DeltaLog,
        table::Part,
    },
};

/// The log of entries whose states have these fields.
pub(super) fn log(key_types: &[DataType], states: Vec<Field>) -> DeltaLog {
    let mut columns =
        vec![Field::new("emitted", DataType::UInt8, false), Field::new("pending", DataType::Boolean, false)];
    let emitted = states.iter().map(|field| field.clone().with_name(format!("emitted_{}", field.name())));
    let emitted: Vec<Field> = emitted.collect();
    columns.extend(states.into_iter().chain(emitted));
    DeltaLog::new(CHUNKS, key_types, columns)
}

/// How the emitted state stands to the current one.
fn emitted(entry: &Entry) -> u8 {
    match (&entry.emitted, &entry.current) {
        (None, _) => 0,
        (Some(emitted), Some(current)) if Arc::ptr_eq(emitted, current) || emitted == current => 1,
        (Some(_), _) => 2,
    }
}

impl Entries {
    /// Writes what the log has otherwise.
    pub(super) fn write_to_log(&mut self, keys: &GroupKeys, store: &TaskStore) -> Result<(), StateError> {
        let (mut known, mut changed) = (0, Vec::new());
        for (group, entry) in (0_u32..).zip(&mut self.entries).filter(|(_, entry)| entry.current.is_some()) {
            known += 1;
            if std::mem::take(&mut entry.dirty) {
                changed.push(group);
            }
        }
        self.dirty = false;
        let is_base = self.entries_go || self.log.wants_base(changed.len(), known);
        if is_base {
            let all = (0_u32..).zip(&self.entries).filter(|(_, entry)| entry.current.is_some());
            changed = all.map(|(group, _)| group).collect();
        }
        if std::mem::take(&mut self.entries_go) {
            self.entries.iter_mut().for_each(|entry| entry.marked = false);
            delete_kinds(store, STATE, self.key_groups, (0, u8::MAX))?;
        }
        let part = self.part_of(changed).map_err(unstorable)?;
        let stored = Stored::new(&mut self.next_part);
        self.log.write(store, keys, part, stored, is_base).map(|_| ())
    }

    fn part_of(&self, groups: Vec<u32>) -> Result<Part, OperatorError> {
        let entries = || groups.iter().map(|group| &self.entries[*group as usize]);
        let how: Vec<u8> = entries().map(emitted).collect();
        let others: Vec<u32> = groups.iter().zip(&how).filter(|(_, how)| **how == 2).map(|(group, _)| *group).collect();
        let mut next = 0..;
        let places: UInt32Array = how.iter().map(|how| if *how == 2 { next.next() } else { None }).collect();
        let (_, current) = self.current_states(&groups)?;
        let (_, emitted) = self.emitted_states(&others)?;
        let pending: BooleanArray = entries().map(|entry| Some(entry.pending)).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt8Array::from(how)), Arc::new(pending)];
        columns.extend(current);
        columns.extend(compute::take_arrays(&emitted, &places, None)?);
        Ok(Part::new(groups, columns))
    }

    /// Reads what was written as columns; what does not fit leaves memory again.
    pub(super) fn load_log(&mut self, groups: &mut Groups, budget_bytes: usize) -> Result<(), OperatorError> {
        let store = Arc::clone(&self.store);
        let (mut numbers, mut is_spilled) = (Vec::new(), false);
        for key_group in self.key_groups.start..self.key_groups.end {
            for rows in self.log.load(&store, key_group)? {
                let (keys, columns) = rows.columns().split_at(self.key_types.len());
                groups.intern(keys, rows.num_rows(), &mut numbers)?;
                self.entries.resize(groups.len(), Entry::default());
                let (how, pending) = (columns[0].as_primitive::<UInt8Type>(), columns[1].as_boolean());
                let (current, emitted) = columns[2..].split_at(self.state_columns);
                let rows_of = |columns: &[ArrayRef]| match columns {
                    [] => Ok(None),
                    columns => self.states.convert_columns(columns).map(Some),
                };
                let (current, emitted) = (rows_of(current)?, rows_of(emitted)?);
                let state = |rows: &Option<arrow::row::Rows>, row: usize| -> State {
                    rows.as_ref().map_or_else(|| State::from([]), |rows| State::from(rows.row(row).data()))
                };
                for (row, group) in numbers.iter().enumerate() {
                    let entry = &mut self.entries[*group as usize];
                    if entry.fetched {
                        continue;
                    }
                    let current = state(&current, row);
                    let emitted = match how.value(row) {
                        0 => None,
                        1 => Some(Arc::clone(&current)),
                        _ => Some(state(&emitted, row)),
                    };
                    let pending = pending.value(row);
                    *entry = Entry { current: Some(current), emitted, fetched: true, pending, ..Entry::default() };
                    self.bytes += entry.bytes();
                    if pending {
                        self.pending.push(*group);
                    }
                }
            }
            if self.memory_bytes() + groups.memory_bytes() > budget_bytes {
                // The store gets entries of what was read so far; the log keeps the rest until it is read.
                self.evict(groups)?;
                (self.complete, is_spilled) = (true, true);
            }
        }
        if is_spilled {
            self.evict(groups)?;
        }
        Ok(())
    }
}
