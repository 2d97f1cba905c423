//! The entries of a running aggregate: for each key its current state and the one that was last emitted, in memory for
//! the keys of late, in the store for all.
//!
//! ```text
//! entry    key group u16 | 1 | key, in Arrow's row format
//!          version u8 = 1 | emitted u8 (0 never, 1 as it is, 2 otherwise) | length u32 | current state | emitted state
//! pending  key group u16 | 2 | key                           (nothing): the key is still to be emitted
//! ```
//!
//! States are rows of Arrow's row format too. Numbers are big-endian.

use std::sync::Arc;

use arrow::{
    array::ArrayRef,
    datatypes::DataType,
    row::{RowConverter, SortField},
};
use millrace_state::{StateError, TaskStore};
use millrace_stream::KeyGroupRange;

use super::STATE;
use crate::{
    aggregate::Aggregates,
    group::{GroupKeys, Groups, NO_GROUP},
    operator::OperatorError,
    stored_keys::{KeyRows, Names, key_converter, prefix},
    window::{chunks::unstorable, table::Table},
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
    entries: Vec<Entry>,
    pending: Vec<u32>,
    states: RowConverter,
    state_columns: usize,
    empty_states: Vec<ArrayRef>,
    store: Arc<TaskStore>,
    /// Whether everything that the store has is in memory too.
    complete: bool,
    /// Whether the store has something else of some entry.
    dirty: bool,
    bytes: usize,
    spilled_bytes: u64,
}

impl Entries {
    pub(super) fn new(
        key_types: &[DataType],
        aggregates: &Aggregates,
        store: &Arc<TaskStore>,
    ) -> Result<Self, OperatorError> {
        let fields = aggregates.state_fields();
        let states = RowConverter::new(fields.iter().map(|field| SortField::new(field.data_type().clone())).collect())?;
        Ok(Self {
            key_types: key_types.to_vec(),
            entries: Vec::new(),
            pending: Vec::new(),
            states,
            state_columns: fields.len(),
            empty_states: fields.iter().map(|field| arrow::array::new_empty_array(field.data_type())).collect(),
            store: Arc::clone(store),
            complete: true,
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
        !self.pending.is_empty()
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Writes what the store has otherwise; answers how many bytes that were.
    pub(super) fn write(&mut self, keys: &GroupKeys, store: &TaskStore) -> Result<u64, StateError> {
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

    /// Lets every entry leave memory, save those that are still to be emitted.
    pub(super) fn evict(&mut self, groups: &mut Groups) -> Result<(), OperatorError> {
        self.know(groups.len());
        let store = Arc::clone(&self.store);
        self.spilled_bytes += self.write(groups.keys(), &store)?;
        let live: Vec<bool> = self.entries.iter().map(|entry| entry.pending).collect();
        let renumbered = groups.retain(&live)?;
        let mut kept = vec![Entry::default(); groups.len()];
        for (entry, group) in self.entries.drain(..).zip(&renumbered).filter(|(_, group)| **group != NO_GROUP) {
            kept[*group as usize] = entry;
        }
        self.entries = kept;
        self.pending.iter_mut().for_each(|group| *group = renumbered[*group as usize]);
        self.bytes = self.entries.iter().map(Entry::bytes).sum();
        self.complete = false;
        Ok(())
    }

    /// Reads the keys that are still to be emitted, and everything else as far as `budget_bytes` allow.
    pub(super) fn load(
        &mut self,
        groups: &mut Groups,
        range: KeyGroupRange,
        budget_bytes: usize,
    ) -> Result<(), OperatorError> {
        let store = Arc::clone(&self.store);
        let converter = key_converter(&self.key_types)?;
        let mut pending = Vec::new();
        for key_group in range.start..range.end {
            for kind in [PENDING, ENTRY] {
                let (from, to) = (prefix(key_group, kind), prefix(key_group, kind + 1));
                let mut scan = store.scan(STATE, &from..&to)?;
                let (mut keys, mut entries): (Vec<Vec<u8>>, Vec<Entry>) = Default::default();
                while let Some(found) = scan.next_entry() {
                    let (key, value) = found?;
                    if kind == ENTRY && self.bytes > budget_bytes {
                        self.complete = false;
                        break;
                    }
                    keys.push(key[3..].to_vec());
                    let entry = if kind == ENTRY { Entry::decode(value)? } else { Entry::default() };
                    self.bytes += entry.bytes() + key.len();
                    entries.push(entry);
                }
                let columns = match &converter {
                    None => Vec::new(),
                    Some(converter) => {
                        let parser = converter.parser();
                        converter.convert_rows(keys.iter().map(|key| parser.parse(key)))?
                    }
                };
                let mut numbers = Vec::new();
                groups.intern(&columns, keys.len(), &mut numbers)?;
                self.entries.resize(groups.len(), Entry::default());
                for (group, entry) in numbers.into_iter().zip(entries) {
                    let held = &mut self.entries[group as usize];
                    if kind == ENTRY {
                        let (pending, marked) = (held.pending, held.marked);
                        *held = Entry { pending, marked, ..entry };
                    } else {
                        (held.pending, held.marked) = (true, true);
                        pending.push(group);
                    }
                }
            }
        }
        self.pending = pending;
        let wanted = self.pending.clone();
        self.fetch(groups.keys(), &wanted)
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
        let rows = KeyRows::new(&self.keys, &self.key_types, &groups).map_err(unstorable)?;
        // Entries and marks of a key group lie apart, so both are sorted together.
        let mut names = Names::default();
        let mut writes: Vec<Write> = Vec::with_capacity(groups.len());
        for (at, (.., mark)) in self.changed.iter().enumerate() {
            if let Some(mark) = mark {
                rows.name(at, PENDING, &[], &mut names);
                writes.push(if *mark { Write::Mark } else { Write::Unmark });
            }
            rows.name(at, ENTRY, &[], &mut names);
            writes.push(Write::Entry(at));
        }
        let mut run = store.writer();
        let (mut bytes, mut value) = (0, Vec::new());
        for at in names.sorted() {
            let name = names.get(at);
            match writes[at] {
                Write::Entry(at) => {
                    value.clear();
                    self.changed[at].1.encode(&mut value);
                    bytes += value.len() as u64;
                    run.put(STATE, name, &value)?;
                }
                Write::Mark => run.put(STATE, name, [])?,
                Write::Unmark => run.delete(STATE, name)?,
            }
        }
        run.finish()?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
