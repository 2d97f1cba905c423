//! Starting from what was written.
//!
//! What was written as columns is taken into memory, or leaves it again when it does not fit; of the entries of keys as
//! many as fit, and of the others it is noted when they are due. Older releases had an entry a session:
//!
//! ```text
//! key      key group u16 | 1 | key, in Arrow's row format | start i64, sign flipped
//! value    version u8 = 1 | last i64 | state, in Arrow's row format
//!          version u8 = 2 | last i64 | gap i64 | state
//! ```

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
};

use arrow::{
    array::{Array, RecordBatch, UInt32Array},
    compute,
};

use super::{
    At, LOADED, OpenSessions, Span,
    spilled::{DUE, ENTRY, Found, columns_of, damaged, decode},
};
use crate::{
    aggregate::longs,
    operator::OperatorError,
    stored_keys::{Names, key_converter, prefix, timed_prefix},
    window::session::STATE,
};

const OLD: u8 = 1;

impl OpenSessions {
    /// Reads the open sessions: columns, which were in memory when they were written, as far as `budget_bytes` allow; entries
    /// as far as half of that does. `next_part` is above every part number that was used.
    pub(in crate::window::session) fn load(
        &mut self,
        next_part: u64,
        budget_bytes: usize,
    ) -> Result<(), OperatorError> {
        self.next_part = self.next_part.max(next_part);
        let (store, log) = (Arc::clone(&self.store), Arc::clone(&self.log));
        let mut has_entries = false;
        for key_group in self.key_groups.start..self.key_groups.end {
            let parts = log.lock().unwrap_or_else(PoisonError::into_inner).load(&store, key_group)?;
            self.take_parts(&parts)?;
            if self.memory_bytes() > budget_bytes {
                self.evict()?;
            }
            let mut entries = store.scan(STATE, &prefix(key_group, ENTRY)..&prefix(key_group, ENTRY + 1))?;
            has_entries |= entries.next_entry().transpose()?.is_some();
        }
        self.load_old()?;
        let in_columns = !log.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if self.memory_bytes() > budget_bytes || (has_entries && (in_columns || self.spilled.is_old())) {
            self.evict()?;
        }
        if has_entries {
            self.load_entries(budget_bytes / 2)?;
        }
        Ok(())
    }

    /// Takes the sessions of a key group from the parts that have them, newest first.
    fn take_parts(&mut self, parts: &[RecordBatch]) -> Result<(), OperatorError> {
        let mut seen: HashSet<(u32, i64)> = HashSet::new();
        let mut groups = Vec::new();
        for rows in parts {
            let (keys, columns) = rows.columns().split_at(self.key_types.len());
            self.groups.intern(keys, rows.num_rows(), &mut groups)?;
            self.lists.grow(self.groups.len());
            let (starts, lasts, gaps) = (&columns[0], &columns[1], &columns[2]);
            let times = |column| longs(column).ok_or_else(|| damaged("times that are none"));
            let (starts, last, gaps) = (times(starts)?, times(lasts)?, times(gaps)?);
            // What is gone comes before what took its place.
            let newest = (0..rows.num_rows()).rev().filter(|row| seen.insert((groups[*row], starts[*row])));
            let taken: Vec<u32> = newest.filter(|row| lasts.is_valid(*row)).map(|row| row as u32).collect();
            let states = compute::take_arrays(&columns[3..], &UInt32Array::from(taken.clone()), None)?;
            let piece = self.states.add(states, taken.len());
            for (at, row) in (0_u32..).zip(taken) {
                let row = row as usize;
                let span = Span { start: starts[row], last: last[row], gap_ms: gaps[row] };
                let slot = self.make(groups[row], span);
                let session = &mut self.sessions[slot as usize];
                (session.at, session.touched) = (At { piece, row: at }, LOADED);
            }
        }
        Ok(())
    }

    /// Reads entries, as many as fit, and notes when the others are due.
    fn load_entries(&mut self, budget_bytes: usize) -> Result<(), OperatorError> {
        let store = Arc::clone(&self.store);
        let converter = key_converter(&self.key_types)?;
        let mut is_away = self.spilled.is_some();
        let mut run = store.writer();
        for key_group in self.key_groups.start..self.key_groups.end {
            let mut scan = store.scan(STATE, &prefix(key_group, ENTRY)..&prefix(key_group, ENTRY + 1))?;
            let (mut keys, mut found, mut due) = (Vec::new(), Found::default(), Names::default());
            let mut key_bytes = 0;
            while let Some(entry) = scan.next_entry() {
                let (name, value) = entry?;
                if self.memory_bytes() + found.memory_bytes() + key_bytes <= budget_bytes {
                    let place = keys.len() as u32;
                    decode(value, |span, state| found.push(place, span, state))?;
                    keys.push(name[3..].to_vec());
                    key_bytes += name.len() + 40;
                    continue;
                }
                let mut end = i64::MAX;
                decode(value, |span, _| end = end.min(span.end()))?;
                due.push([&timed_prefix(key_group, DUE, end), &name[3..], &[]]);
            }
            let mut groups = Vec::new();
            self.groups.intern(&columns_of(converter.as_ref(), &keys)?, keys.len(), &mut groups)?;
            found.set_groups(|place| groups[place as usize]);
            self.take_found(&found)?;
            is_away |= !due.is_empty();
            for at in due.sorted() {
                run.put(STATE, due.get(at), [])?;
            }
        }
        run.finish()?;
        if is_away {
            return self.set_away();
        }
        self.set_back();
        Ok(())
    }

    /// Reads the entries of older releases.
    fn load_old(&mut self) -> Result<(), OperatorError> {
        let store = Arc::clone(&self.store);
        let converter = key_converter(&self.key_types)?;
        for key_group in self.key_groups.start..self.key_groups.end {
            let mut scan = store.scan(STATE, &prefix(key_group, OLD)..&prefix(key_group, OLD + 1))?;
            let (mut keys, mut found) = (Vec::new(), Found::default());
            while let Some(entry) = scan.next_entry() {
                let (name, value) = entry?;
                let split = name.len().checked_sub(8).filter(|at| *at >= 3);
                let (key, start) = name.split_at(split.ok_or_else(|| damaged("a short name of a session"))?);
                let start = (u64::from_be_bytes(std::array::from_fn(|at| start[at])) ^ (1 << 63)) as i64;
                let (last, gap_ms, state) = decode_old(value)?;
                let span = Span { start, last, gap_ms: gap_ms.unwrap_or_else(|| self.gap_at(start)) };
                found.push(keys.len() as u32, span, state);
                keys.push(key[3..].to_vec());
            }
            if keys.is_empty() {
                continue;
            }
            self.spilled.set_old();
            let mut groups = Vec::new();
            self.groups.intern(&columns_of(converter.as_ref(), &keys)?, keys.len(), &mut groups)?;
            found.set_groups(|place| groups[place as usize]);
            self.take_found(&found)?;
        }
        Ok(())
    }
}

/// The time of a session's last row, its gap where the version tells it, and its state.
fn decode_old(value: &[u8]) -> Result<(i64, Option<i64>, &[u8]), OperatorError> {
    let (version, rest) = value.split_first().ok_or_else(|| damaged("an empty session"))?;
    let long = |rest: &'_ [u8]| -> Result<i64, OperatorError> {
        let bytes = rest.first_chunk::<8>().ok_or_else(|| damaged("a short session"))?;
        Ok(i64::from_be_bytes(*bytes))
    };
    let last = long(rest)?;
    match version {
        1 => Ok((last, None, &rest[8..])),
        2 => Ok((last, Some(long(&rest[8..])?), &rest[16..])),
        _ => Err(damaged("a session of another version")),
    }
}

#[cfg(test)]
mod tests;
