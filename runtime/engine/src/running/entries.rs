//! The entries of a running aggregate: for each key its current state and the one that was last emitted, in memory for
//! the keys of late, in the store for all.
//!
//! ```text
//! entry    key group u16 | 1 | key, in Arrow's row format
//!          version u8 = 1 | emitted u8 (0 never, 1 as it is, 2 otherwise) | length u32 | current state | emitted state
//! pending  key group u16 | 2 | key                           (nothing): the key is still to be emitted
//! ```
//!
//! States are rows of Arrow's row format too. Numbers are big-endian. As long as all keys are in memory the store has them as
//! columns ([`columns`]), and no entries.

use std::sync::Arc;

use arrow::{
    array::ArrayRef,
    datatypes::DataType,
    row::{RowConverter, SortField},
};
use millrace_state::{StateError, TaskStore};
use millrace_stream::KeyGroupRange;

mod columns;

use super::STATE;
use crate::{
    aggregate::Aggregates,
    group::{GroupKeys, Groups},
    operator::OperatorError,
    stored_keys::{KeyRows, Names, Portion, key_converter, portions, prefix},
    window::{chunks::unstorable, delta_log::DeltaLog, table::Table},
};

const VERSION: u8 = 1;
const ENTRY: u8 = 1;
const PENDING: u8 = 2;

/// The state of a key, as a row of Arrow's row format.
pub(crate) type State = Arc<[u8]>;

/// What is known of a key.
#[derive(Clone, Default)]
struct Entry {
    current: Option<State>,
    emitted: Option<State>,
    /// Whether what the store has of it is known.
    fetched: bool,
    /// Whether the store has something else.
    dirty: bool,
    /// Whether it is still to be emitted.
    pending: bool,
    /// Whether the store says that it is.
    marked: bool,
}

impl Entry {
    fn bytes(&self) -> usize {
        let of = |state: &Option<State>| state.as_ref().map_or(0, |state| state.len() + 16);
        of(&self.current) + of(&self.emitted)
    }

    fn encode(&self, value: &mut Vec<u8>) {
        let current = self.current.as_deref().unwrap_or_default();
        let emitted = match &self.emitted {
            None => 0,
            Some(emitted) if Some(&emitted[..]) == self.current.as_deref() => 1,
            Some(_) => 2,
        };
        value.extend([VERSION, emitted]);
        value.extend((current.len() as u32).to_be_bytes());
        value.extend(current);
        if emitted == 2 {
            value.extend(self.emitted.as_deref().unwrap_or_default());
        }
    }

    fn decode(value: &[u8]) -> Result<Self, OperatorError> {
        let damaged = || OperatorError::Damaged {
            found: format!("an entry of {} bytes", value.len()),
            expected: "an entry of a running aggregate, version 1",
        };
        let (head, rest) = value.split_at_checked(6).ok_or_else(damaged)?;
        let length = u32::from_be_bytes([head[2], head[3], head[4], head[5]]) as usize;
        let (current, rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let current: State = current.into();
        let emitted = match (head[0], head[1]) {
            (VERSION, 0) => None,
            (VERSION, 1) => Some(Arc::clone(&current)),
            (VERSION, 2) => Some(rest.into()),
            _ => return Err(damaged()),
        };
        Ok(Self { current: Some(current), emitted, fetched: true, ..Self::default() })
    }
}

/// The entries of a task, by the number of their group. They can go to another thread; the groups stay.
pub(super) struct Entries {
    key_types: Vec<DataType>,
    key_groups: KeyGroupRange,
    entries: Vec<Entry>,
    pending: Vec<u32>,
    states: RowConverter,
    state_columns: usize,
    empty_states: Vec<ArrayRef>,
    store: Arc<TaskStore>,
    /// Whether everything that the store has is in memory too.
    complete: bool,
    /// What the store has as columns; nothing unless everything is in memory.
    log: DeltaLog,
    next_part: u64,
    /// Whether the store has entries of keys that the log will have.
    entries_go: bool,
    /// Whether keys that are not in memory may be still to be emitted.
    pending_away: bool,
    /// Whether there are more of them behind the cursor.
    pending_again: bool,
    /// Where to go on with those.
    cursor: Option<(u16, Vec<u8>)>,
    /// Whether the store has something else of some entry.
    dirty: bool,
    bytes: usize,
    spilled_bytes: u64,
}

impl Entries {
    pub(super) fn new(
        key_types: &[DataType],
        key_groups: KeyGroupRange,
        aggregates: &Aggregates,
        store: &Arc<TaskStore>,
    ) -> Result<Self, OperatorError> {
        let fields = aggregates.state_fields();
        let states = RowConverter::new(fields.iter().map(|field| SortField::new(field.data_type().clone())).collect())?;
        Ok(Self {
            key_types: key_types.to_vec(),
            key_groups,
            entries: Vec::new(),
            pending: Vec::new(),
            states,
            state_columns: fields.len(),
            empty_states: fields.iter().map(|field| arrow::array::new_empty_array(field.data_type())).collect(),
            store: Arc::clone(store),
            complete: true,
            log: columns::log(key_types, fields),
            next_part: 1,
            entries_go: false,
            pending_away: false,
            pending_again: false,
            cursor: None,
            dirty: false,
            bytes: 0,
            spilled_bytes: 0,
        })
    }

    /// Merges changes into the entries of their groups.
    pub(super) fn fold(
        &mut self,
        changes: Table,
        keys: &GroupKeys,
        aggregates: &Aggregates,
    ) -> Result<(), OperatorError> {
        self.know(keys.len());
        let changes = changes.into_part(&mut Vec::new());
        self.fetch(keys, &changes.groups)?;
        let count = changes.groups.len();
        let mut total = aggregates.accumulators()?;
        // The changes first, so that the accumulators see every group when it is new to them.
        let all: Vec<u32> = (0..count as u32).collect();
        total.merge(changes.state()?, &all, count)?;
        let (locals, states) = self.current_states(&changes.groups)?;
        total.merge(&states, &locals, count)?;
        self.set_current(&changes.groups, &total.into_state()?)
    }

    /// There are so many groups by now.
    fn know(&mut self, groups: usize) {
        let fetched = self.complete;
        self.entries.resize_with(groups, || Entry { fetched, ..Entry::default() });
    }

    /// Reads the entries of the groups that may be in the store and have not been read.
    fn fetch(&mut self, keys: &GroupKeys, groups: &[u32]) -> Result<(), OperatorError> {
        let wanted: Vec<u32> = groups.iter().copied().filter(|group| !self.entries[*group as usize].fetched).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let (mut names, rows) = (Names::default(), KeyRows::new(keys, &self.key_types, &wanted)?);
        (0..wanted.len()).for_each(|at| rows.name(at, ENTRY, &[], &mut names));
        let order = names.sorted();
        let names: Vec<&[u8]> = order.iter().map(|at| names.get(*at)).collect();
        let store = Arc::clone(&self.store);
        let found = store.multi_get(STATE, &names)?;
        for (at, value) in order.iter().zip(found) {
            let entry = &mut self.entries[wanted[*at] as usize];
            let (pending, marked) = (entry.pending, entry.marked);
            *entry = match value {
                Some(value) => Entry { pending, marked, ..Entry::decode(&value)? },
                None => Entry { fetched: true, pending, marked, ..Entry::default() },
            };
            self.bytes += entry.bytes();
        }
        Ok(())
    }

    fn states_of(
        &self,
        groups: &[u32],
        of: impl Fn(&Entry) -> Option<&State>,
    ) -> Result<(Vec<u32>, Vec<ArrayRef>), OperatorError> {
        let held =
            groups.iter().enumerate().filter_map(|(at, group)| Some((at as u32, of(&self.entries[*group as usize])?)));
        let (locals, states): (Vec<u32>, Vec<&State>) = held.unzip();
        if states.is_empty() || self.state_columns == 0 {
            return Ok((locals, self.empty_states.clone()));
        }
        let parser = self.states.parser();
        let states = self.states.convert_rows(states.iter().map(|state| parser.parse(state)))?;
        Ok((locals, states))
    }

    /// The current states of those of `groups` that have one, and which those are.
    pub(super) fn current_states(&self, groups: &[u32]) -> Result<(Vec<u32>, Vec<ArrayRef>), OperatorError> {
        self.states_of(groups, |entry| entry.current.as_ref())
    }

    /// The same for the states that were last emitted.
    pub(super) fn emitted_states(&self, groups: &[u32]) -> Result<(Vec<u32>, Vec<ArrayRef>), OperatorError> {
        self.states_of(groups, |entry| entry.emitted.as_ref())
    }

    /// Sets the current states of groups, which are to be emitted.
    fn set_current(&mut self, groups: &[u32], states: &[ArrayRef]) -> Result<(), OperatorError> {
        self.dirty |= !groups.is_empty();
        let rows = if self.state_columns == 0 { None } else { Some(self.states.convert_columns(states)?) };
        for (at, group) in groups.iter().enumerate() {
            let entry = &mut self.entries[*group as usize];
            self.bytes -= entry.bytes();
            entry.current =
                Some(rows.as_ref().map_or_else(|| State::from([]), |rows| State::from(rows.row(at).data())));
            self.bytes += entry.bytes();
            entry.dirty = true;
            if !entry.pending {
                entry.pending = true;
                self.pending.push(*group);
            }
        }
        Ok(())
    }

    /// The groups that are to be emitted, in the order in which they changed.
    pub(super) fn take_pending(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.pending)
    }

    /// The current states of groups have been emitted.
    pub(super) fn set_emitted(&mut self, groups: &[u32]) {
        self.dirty |= !groups.is_empty();
        for group in groups {
            let entry = &mut self.entries[*group as usize];
            self.bytes -= entry.bytes();
            entry.emitted = entry.current.clone();
            self.bytes += entry.bytes();
            entry.dirty = true;
            entry.pending = false;
        }
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty() || self.pending_away
    }

    /// The same, of those in memory.
    pub(super) fn has_pending_here(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty || self.entries_go
    }

    /// Above every part number that will have been used when what there is has been written.
    pub(super) fn next_part(&self) -> u64 {
        self.next_part + 1
    }

    /// Writes what the store has otherwise.
    pub(super) fn write(&mut self, keys: &GroupKeys, store: &TaskStore) -> Result<(), StateError> {
        if self.complete {
            return self.write_to_log(keys, store);
        }
        self.write_entries(keys, store).map(|_| ())
    }

    /// Writes changed entries; answers how many bytes that were.
    fn write_entries(&mut self, keys: &GroupKeys, store: &TaskStore) -> Result<u64, StateError> {
        let Some(changes) = self.changes(keys) else { return Ok(0) };
        changes.write(store)
    }

    fn changes(&mut self, keys: &GroupKeys) -> Option<Changes> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let mut changed = Vec::new();
        for (group, entry) in self.entries.iter_mut().enumerate().filter(|(_, entry)| entry.dirty) {
            entry.dirty = false;
            let mark = (entry.pending != entry.marked).then_some(entry.pending);
            entry.marked = entry.pending;
            changed.push((group as u32, entry.clone(), mark));
        }
        let keys = keys.clone();
        (!changed.is_empty()).then(|| Changes { keys, key_types: self.key_types.clone(), changed })
    }

    /// Lets every entry leave memory. Those that are still to be emitted are marked in the store.
    pub(super) fn evict(&mut self, groups: &mut Groups) -> Result<(), OperatorError> {
        self.know(groups.len());
        let store = Arc::clone(&self.store);
        if self.complete {
            // The store has no entries, or not of all.
            self.entries.iter_mut().for_each(|entry| entry.dirty = entry.current.is_some());
            self.dirty = true;
        }
        self.spilled_bytes += self.write_entries(groups.keys(), &store)?;
        self.log.clear(&store)?;
        if !self.pending.is_empty() {
            // What is being brought back may have passed them.
            self.pending_again |= self.cursor.is_some();
            self.pending_away = true;
        }
        *groups = Groups::new(&self.key_types)?;
        (self.entries, self.pending) = Default::default();
        (self.bytes, self.complete, self.entries_go) = (0, false, false);
        Ok(())
    }

    /// Brings back keys that are still to be emitted, up to `most` of them; answers whether there are more.
    pub(super) fn fetch_pending(&mut self, groups: &mut Groups, most: usize) -> Result<bool, OperatorError> {
        if !self.pending_away {
            return Ok(false);
        }
        let store = Arc::clone(&self.store);
        let mut found: Vec<Vec<u8>> = Vec::new();
        let (mut key_group, mut from) = match self.cursor.take() {
            Some((key_group, from)) => (key_group, Some(from)),
            None => (self.key_groups.start, None),
        };
        while key_group < self.key_groups.end && self.cursor.is_none() {
            let from = from.take().unwrap_or_else(|| prefix(key_group, PENDING).to_vec());
            let mut scan = store.scan(STATE, &from[..]..&prefix(key_group, PENDING + 1))?;
            while let Some(entry) = scan.next_entry() {
                let (name, _) = entry?;
                if found.len() == most {
                    self.cursor = Some((key_group, name.to_vec()));
                    break;
                }
                found.push(name[3..].to_vec());
            }
            key_group += 1;
        }
        let is_more = self.cursor.is_some();
        self.pending_away = is_more || std::mem::take(&mut self.pending_again);
        let known = groups.len() as u32;
        let numbers = self.intern(groups, &found)?;
        self.know(groups.len());
        let new: Vec<u32> = numbers.iter().copied().filter(|group| *group >= known).collect();
        self.fetch(groups.keys(), &new)?;
        for group in numbers {
            let entry = &mut self.entries[group as usize];
            entry.marked = true;
            // One that came back with a row and has been emitted since is emitted as nothing.
            if !std::mem::replace(&mut entry.pending, true) {
                self.pending.push(group);
            }
        }
        Ok(is_more)
    }

    /// The groups of keys in Arrow's row format.
    fn intern(&self, groups: &mut Groups, keys: &[Vec<u8>]) -> Result<Vec<u32>, OperatorError> {
        let columns = match key_converter(&self.key_types)?.filter(|_| !keys.is_empty()) {
            None => Vec::new(),
            Some(converter) => {
                let parser = converter.parser();
                converter.convert_rows(keys.iter().map(|key| parser.parse(key)))?
            }
        };
        let mut numbers = Vec::new();
        groups.intern(&columns, keys.len(), &mut numbers)?;
        Ok(numbers)
    }

    /// Reads what was written: columns, which were in memory when they were, as far as `budget_bytes` allow; entries as far as
    /// half of that does. `next_part` is above every part number that was used.
    pub(super) fn load(
        &mut self,
        groups: &mut Groups,
        next_part: u64,
        budget_bytes: usize,
    ) -> Result<(), OperatorError> {
        self.next_part = self.next_part.max(next_part);
        self.load_log(groups, budget_bytes)?;
        let budget_bytes = budget_bytes / 2;
        let store = Arc::clone(&self.store);
        for key_group in self.key_groups.start..self.key_groups.end {
            let mut pending = store.scan(STATE, &prefix(key_group, PENDING)..&prefix(key_group, PENDING + 1))?;
            self.pending_away |= pending.next_entry().transpose()?.is_some();
            let mut scan = store.scan(STATE, &prefix(key_group, ENTRY)..&prefix(key_group, ENTRY + 1))?;
            let (mut keys, mut entries): (Vec<Vec<u8>>, Vec<Entry>) = Default::default();
            let mut bytes = 0;
            while let Some(found) = scan.next_entry() {
                let (name, value) = found?;
                self.entries_go = self.complete;
                if self.memory_bytes() + groups.memory_bytes() + bytes > budget_bytes {
                    if self.complete && !self.log.is_empty() {
                        // Of these the store has no entries.
                        self.evict(groups)?;
                    }
                    (self.complete, self.entries_go) = (false, false);
                    break;
                }
                let entry = Entry::decode(value)?;
                bytes += entry.bytes() + size_of::<Entry>() + name.len();
                keys.push(name[3..].to_vec());
                entries.push(entry);
            }
            let numbers = self.intern(groups, &keys)?;
            self.entries.resize(groups.len(), Entry::default());
            for (group, entry) in numbers.into_iter().zip(entries) {
                self.bytes += entry.bytes();
                self.entries[group as usize] = entry;
            }
        }
        if self.complete {
            while self.fetch_pending(groups, usize::MAX)? {}
        }
        Ok(())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes + self.entries.capacity() * size_of::<Entry>()
    }

    pub(super) fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes
    }
}

/// Entries to be written.
struct Changes {
    keys: GroupKeys,
    key_types: Vec<DataType>,
    /// Each with whether it is to be marked as pending, where that has changed.
    changed: Vec<(u32, Entry, Option<bool>)>,
}

/// What is written under a name.
enum Write {
    /// That of a changed entry.
    Entry(usize),
    Mark,
    Unmark,
}

impl Changes {
    fn write(self, store: &TaskStore) -> Result<u64, StateError> {
        let groups: Vec<u32> = self.changed.iter().map(|(group, ..)| *group).collect();
        let mut run = store.writer();
        let (mut bytes, mut value) = (0, Vec::new());
        for Portion { groups, places, .. } in portions(&self.keys, &groups) {
            let rows = KeyRows::new(&self.keys, &self.key_types, &groups).map_err(unstorable)?;
            // Entries and marks of a key group lie apart, so both are sorted together.
            let mut names = Names::default();
            let mut writes: Vec<Write> = Vec::with_capacity(groups.len());
            for (at, place) in places.into_iter().enumerate() {
                if let Some(mark) = self.changed[place].2 {
                    rows.name(at, PENDING, &[], &mut names);
                    writes.push(if mark { Write::Mark } else { Write::Unmark });
                }
                rows.name(at, ENTRY, &[], &mut names);
                writes.push(Write::Entry(place));
            }
            for at in names.sorted() {
                let name = names.get(at);
                match writes[at] {
                    Write::Entry(place) => {
                        value.clear();
                        self.changed[place].1.encode(&mut value);
                        bytes += value.len() as u64;
                        run.put(STATE, name, &value)?;
                    }
                    Write::Mark => run.put(STATE, name, [])?,
                    Write::Unmark => run.delete(STATE, name)?,
                }
            }
        }
        run.finish()?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
