//! Open sessions in the store.
//!
//! ```text
//! key      key group u16 | 1 | key, in Arrow's row format | start i64, sign flipped
//! value    version u8 = 2 | last i64 | gap i64 | state, in Arrow's row format
//! ```
//!
//! Numbers are big-endian. Version 1 had no gap: it was the window's.

use std::{ops::Index, sync::Arc};

use arrow::{array::ArrayRef, datatypes::DataType};
use millrace_state::{StateError, TaskStore};
use millrace_stream::KeyGroupRange;

use super::{
    NONE, OpenSessions, Session, Span,
    changes::{Folding, LayerContent, Slots},
    shared::Snapshot,
    state_converter,
};
use crate::{
    aggregate::Aggregates,
    group::GroupKeys,
    operator::{OperatorError, Write},
    running::entries::State,
    stored_keys::{KeyRows, Names, key_converter, prefix},
    window::{chunks::unstorable, session::STATE},
};

const VERSION: u8 = 2;
const SESSION: u8 = 1;

impl OpenSessions {
    /// Has what the store has of these sessions deleted.
    pub(super) fn note_deletes(&mut self, sessions: &[u32]) -> Result<(), OperatorError> {
        let stored = stored_of(&self.sessions, sessions, self.round);
        add_names(&stored, self.groups.keys(), &self.key_types, &mut self.deletes)
    }

    /// The states of sessions that have one, read from the store where they are not in memory.
    pub(in crate::window::session) fn states(&mut self, sessions: &[u32]) -> Result<Vec<ArrayRef>, OperatorError> {
        let cold: Vec<u32> = sessions.iter().copied().filter(|session| self.sessions[*session as usize].cold).collect();
        if !cold.is_empty() {
            let stored = stored_of(&self.sessions, &cold, self.round);
            let mut names = Names::default();
            add_names(&stored, self.groups.keys(), &self.key_types, &mut names)?;
            let order = names.sorted();
            let names: Vec<&[u8]> = order.iter().map(|at| names.get(*at)).collect();
            let store = Arc::clone(&self.store);
            for (at, value) in order.iter().zip(store.multi_get(STATE, &names)?) {
                let value = value.ok_or_else(|| damaged("no entry for an open session"))?;
                let (_, _, state) = decode(&value)?;
                self.bytes += state.len() + 16;
                let session = &mut self.sessions[cold[*at] as usize];
                (session.state, session.cold) = (Some(state.into()), false);
                self.cold -= 1;
            }
        }
        if self.state_columns == 0 || sessions.is_empty() {
            return Ok(self.empty_states.clone());
        }
        let parser = self.states.parser();
        let rows = sessions.iter().filter_map(|session| self.sessions[*session as usize].state.as_ref());
        Ok(self.states.convert_rows(rows.map(|state| parser.parse(state)))?)
    }

    /// What changed, to be written behind the task's back. Nothing is evicted until [`Self::thaw`]. What was put aside is
    /// folded by the writer; but not while states are only in the store, which would come to hold it already.
    pub(in crate::window::session) fn freeze(&mut self) -> Result<Option<Write>, OperatorError> {
        self.writing = true;
        if self.is_cold() {
            self.fold_all()?;
        }
        let Some(changes) = self.changes() else { return Ok(None) };
        Ok(Some(Box::new(move |store| changes.write(store).map(|_| ()))))
    }

    /// What changed in the round, which ends.
    fn changes(&mut self) -> Option<Changes> {
        let deletes = std::mem::take(&mut self.deletes);
        if !std::mem::take(&mut self.dirty) && deletes.is_empty() {
            return None;
        }
        let layers = self.layers.iter_mut().map(|layer| LayerWrite {
            content: Arc::clone(&layer.content),
            folded: layer.folded,
            handed_over: std::mem::replace(&mut layer.handed_over, true),
        });
        let changes = Changes {
            layers: layers.collect(),
            sessions: self.sessions.snapshot(),
            round: self.round,
            keys: self.groups.keys().clone(),
            key_types: self.key_types.clone(),
            aggregates: self.aggregates.clone(),
            deletes,
        };
        self.round += 1;
        Some(changes)
    }

    /// Lets every state leave memory; nothing may be left to be folded. Not to be called while changes are being written.
    pub(in crate::window::session) fn evict(&mut self) -> Result<(), OperatorError> {
        if let Some(changes) = self.changes() {
            self.spilled_bytes += changes.write(&self.store)?;
        }
        for session in self.sessions.iter_mut().filter(|session| session.state.is_some()) {
            (session.state, session.cold) = (None, true);
            self.cold += 1;
        }
        self.bytes = 0;
        Ok(())
    }

    /// Reads the open sessions, with their states as far as `budget_bytes` allow.
    pub(in crate::window::session) fn load(
        &mut self,
        range: KeyGroupRange,
        budget_bytes: usize,
    ) -> Result<(), OperatorError> {
        let store = Arc::clone(&self.store);
        let converter = key_converter(&self.key_types)?;
        for key_group in range.start..range.end {
            let mut scan = store.scan(STATE, &prefix(key_group, SESSION)..&prefix(key_group, SESSION + 1))?;
            let mut keys: Vec<Vec<u8>> = Vec::new();
            let mut found: Vec<(Span, Option<State>)> = Vec::new();
            while let Some(entry) = scan.next_entry() {
                let (key, value) = entry?;
                let split = key.len().checked_sub(8).filter(|at| *at >= 3);
                let (key, start) = key.split_at(split.ok_or_else(|| damaged("a short key of a session"))?);
                let start = u64::from_be_bytes(std::array::from_fn(|at| start[at])) ^ (1 << 63);
                let (last, gap_ms, state) = decode(value)?;
                let state = (self.bytes < budget_bytes).then(|| State::from(state));
                self.bytes += state.as_ref().map_or(0, |state| state.len() + 16);
                keys.push(key[3..].to_vec());
                let start = start as i64;
                found.push((Span { start, last, gap_ms: gap_ms.unwrap_or_else(|| self.gap_at(start)) }, state));
            }
            let columns = match &converter {
                None => Vec::new(),
                Some(converter) => {
                    let parser = converter.parser();
                    converter.convert_rows(keys.iter().map(|key| parser.parse(key)))?
                }
            };
            let mut groups = Vec::new();
            self.groups.intern(&columns, keys.len(), &mut groups)?;
            self.first.resize(self.groups.len(), NONE);
            for (group, (span, state)) in groups.into_iter().zip(found) {
                let at = self.make(group, span);
                let session = &mut self.sessions[at as usize];
                (session.cold, session.touched) = (state.is_none(), LOADED);
                self.cold += usize::from(session.cold);
                session.state = state;
            }
        }
        Ok(())
    }
}

/// The round of sessions that were read from the store.
const LOADED: u32 = 0;

/// A layer that a writer folds for itself.
struct LayerWrite {
    content: Arc<LayerContent>,
    /// How many of its changes are part of the snapshot's states.
    folded: usize,
    /// Whether an earlier writer has removed those that have joined others.
    handed_over: bool,
}

/// What a round has changed.
struct Changes {
    /// As they were when it ended.
    sessions: Snapshot<Session>,
    round: u32,
    layers: Vec<LayerWrite>,
    keys: GroupKeys,
    key_types: Vec<DataType>,
    aggregates: Aggregates,
    /// The store's keys of sessions that are gone.
    deletes: Names,
}

impl Changes {
    fn write(mut self, store: &TaskStore) -> Result<u64, StateError> {
        let folded = self.fold().map_err(unstorable)?;
        let changed: Vec<u32> = (0_u32..)
            .zip(self.sessions.iter())
            .filter(|(_, session)| session.is_changed_in(self.round))
            .map(|(at, _)| at)
            .collect();
        let groups: Vec<u32> = changed.iter().map(|session| self.sessions[*session as usize].group).collect();
        let rows = KeyRows::new(&self.keys, &self.key_types, &groups).map_err(unstorable)?;
        let mut names = std::mem::take(&mut self.deletes);
        let mut puts: Vec<Option<u32>> = vec![None; names.len()];
        for (place, at) in changed.into_iter().enumerate() {
            let session = &self.sessions[at as usize];
            if let Some(start) = session.stored.filter(|start| *start != session.start) {
                rows.name(place, SESSION, &start_bytes(start), &mut names);
                puts.push(None);
            }
            rows.name(place, SESSION, &start_bytes(session.start), &mut names);
            puts.push(Some(at));
        }
        let mut run = store.writer();
        let (mut bytes, mut value) = (0, Vec::new());
        // A session may take the place of one that is gone: the put then stands for the delete too.
        for same in names.sorted().chunk_by(|one, other| names.get(*one) == names.get(*other)) {
            let name = names.get(same[0]);
            let Some(at) = same.iter().find_map(|at| puts[*at]).map(|at| at as usize) else {
                run.delete(STATE, name)?;
                continue;
            };
            let session = &self.sessions[at];
            let state = folded.get(at).and_then(Option::as_ref).or(session.state.as_ref());
            let state = state.ok_or_else(|| unstorable(damaged("no state of a session that has changed")))?;
            encode(&session.span(), state, &mut value);
            bytes += value.len() as u64;
            run.put(STATE, name, &value)?;
        }
        run.finish()?;
        Ok(bytes)
    }

    /// The states of the sessions that have changes which were not part of them, by slot.
    fn fold(&mut self) -> Result<Vec<Option<State>>, OperatorError> {
        if self.layers.is_empty() {
            return Ok(Vec::new());
        }
        let converter = state_converter(&self.aggregates)?;
        let has_columns = !self.aggregates.state_fields().is_empty();
        let mut folded: Vec<Option<State>> = vec![None; self.sessions.len()];
        let mut places = Vec::new();
        for LayerWrite { content, folded: from, handed_over } in std::mem::take(&mut self.layers) {
            if !handed_over {
                let stored = stored_of(&self.sessions, &content.joined, self.round);
                add_names(&stored, &self.keys, &self.key_types, &mut self.deletes)?;
            }
            let changed = &content.changes.groups[from..];
            let sessions = Folded { sessions: &self.sessions, states: &folded };
            let folding = Folding::new(&sessions, changed, &content.joined, &mut places);
            let parser = converter.parser();
            let known: Vec<&State> = folding.known.iter().filter_map(|session| sessions.state(*session)).collect();
            let known = match has_columns {
                true => converter.convert_rows(known.into_iter().map(|state| parser.parse(state)))?,
                false => Vec::new(),
            };
            let states = folding.total(&self.aggregates, &content.changes, from, &known)?;
            if !has_columns {
                folding.roots.iter().for_each(|root| folded[*root as usize] = Some(State::from([])));
                continue;
            }
            for (root, row) in folding.roots.iter().zip(converter.convert_columns(&states)?.iter()) {
                folded[*root as usize] = Some(State::from(row.data()));
            }
        }
        Ok(folded)
    }
}

/// A snapshot's sessions with states that have been folded since.
struct Folded<'a> {
    sessions: &'a Snapshot<Session>,
    states: &'a [Option<State>],
}

impl Folded<'_> {
    fn state(&self, session: u32) -> Option<&State> {
        self.states[session as usize].as_ref().or(self.sessions[session as usize].state.as_ref())
    }
}

impl Slots for Folded<'_> {
    fn session(&self, session: u32) -> &Session {
        &self.sessions[session as usize]
    }

    fn slots(&self) -> usize {
        self.sessions.len()
    }

    fn has_state(&self, session: u32) -> bool {
        self.state(session).is_some()
    }
}

/// The groups of sessions that the store has, and the starts under which it has them.
fn stored_of(sessions: &impl Index<usize, Output = Session>, of: &[u32], round: u32) -> Vec<(u32, i64)> {
    let stored = of.iter().map(|session| &sessions[*session as usize]);
    stored.filter_map(|session| Some((session.group, session.stored_in(round)?))).collect()
}

/// Adds the names of sessions.
fn add_names(
    stored: &[(u32, i64)],
    keys: &GroupKeys,
    key_types: &[DataType],
    names: &mut Names,
) -> Result<(), OperatorError> {
    let groups: Vec<u32> = stored.iter().map(|(group, _)| *group).collect();
    let rows = KeyRows::new(keys, key_types, &groups)?;
    stored.iter().enumerate().for_each(|(at, (_, start))| rows.name(at, SESSION, &start_bytes(*start), names));
    Ok(())
}

/// The end of a session's name.
fn start_bytes(start: i64) -> [u8; 8] {
    ((start as u64) ^ (1 << 63)).to_be_bytes()
}

/// Puts what the store has of a session into `value`, replacing what it held.
fn encode(span: &Span, state: &[u8], value: &mut Vec<u8>) {
    value.clear();
    value.push(VERSION);
    value.extend(span.last.to_be_bytes());
    value.extend(span.gap_ms.to_be_bytes());
    value.extend(state);
}

/// The time of a session's last row, its gap where the version tells it, and its state.
fn decode(value: &[u8]) -> Result<(i64, Option<i64>, &[u8]), OperatorError> {
    let (version, rest) = value.split_first().ok_or_else(|| damaged("an empty session"))?;
    let long = |rest: &'_ [u8]| -> Result<i64, OperatorError> {
        let bytes = rest.first_chunk::<8>().ok_or_else(|| damaged("a short session"))?;
        Ok(i64::from_be_bytes(*bytes))
    };
    let last = long(rest)?;
    match version {
        1 => Ok((last, None, &rest[8..])),
        &VERSION => Ok((last, Some(long(&rest[8..])?), &rest[16..])),
        _ => Err(damaged("a session of another version")),
    }
}

fn damaged(found: &str) -> OperatorError {
    OperatorError::Damaged { found: found.into(), expected: "an open session, version 1 or 2" }
}

#[cfg(test)]
mod tests;
