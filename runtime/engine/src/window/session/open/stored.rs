//! Open sessions in the store.
//!
//! ```text
//! key      key group u16 | 1 | key, in Arrow's row format | start i64, sign flipped
//! value    version u8 = 2 | last i64 | gap i64 | state, in Arrow's row format
//! ```
//!
//! Numbers are big-endian. Version 1 had no gap: it was the window's.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{array::ArrayRef, datatypes::DataType};
use millrace_state::{StateError, TaskStore};
use millrace_stream::KeyGroupRange;

use super::{NONE, OpenSessions, Span};
use crate::{
    group::GroupKeys,
    operator::{OperatorError, Write},
    running::entries::{State, key_converter, prefix, stored_keys},
    window::{chunks::unstorable, session::STATE},
};

const VERSION: u8 = 2;
const SESSION: u8 = 1;

impl OpenSessions {
    /// Has what the store has of these sessions deleted.
    pub(super) fn note_deletes(&mut self, sessions: &[u32]) -> Result<(), OperatorError> {
        let groups: Vec<u32> = sessions.iter().map(|session| self.sessions[*session as usize].group).collect();
        let keys = stored_keys(self.groups.keys(), &self.key_types, &groups, SESSION)?;
        for ((key, _), session) in keys.into_iter().zip(sessions) {
            self.deletes.extend(self.sessions[*session as usize].stored.map(|start| (key, start)));
        }
        Ok(())
    }

    /// The states of sessions that have one, read from the store where they are not in memory.
    pub(in crate::window::session) fn states(&mut self, sessions: &[u32]) -> Result<Vec<ArrayRef>, OperatorError> {
        let cold: Vec<u32> =
            sessions.iter().copied().filter(|session| self.sessions[*session as usize].state.is_none()).collect();
        if !cold.is_empty() {
            let groups: Vec<u32> = cold.iter().map(|session| self.sessions[*session as usize].group).collect();
            let keys = stored_keys(self.groups.keys(), &self.key_types, &groups, SESSION)?;
            let named = keys.into_iter().zip(&cold).map(|((key, _), session)| {
                let start = self.sessions[*session as usize].stored.unwrap_or_default();
                (with_start(key, start), *session)
            });
            let mut named: Vec<(Vec<u8>, u32)> = named.collect();
            named.sort_unstable();
            let names: Vec<&[u8]> = named.iter().map(|(name, _)| &name[..]).collect();
            let store = Arc::clone(&self.store);
            for ((_, session), value) in named.iter().zip(store.multi_get(STATE, &names)?) {
                let value = value.ok_or_else(|| damaged("no entry for an open session"))?;
                let (_, _, state) = decode(&value)?;
                self.bytes += state.len() + 16;
                self.sessions[*session as usize].state = Some(state.into());
            }
        }
        if self.state_columns == 0 || sessions.is_empty() {
            return Ok(self.empty_states.clone());
        }
        let parser = self.states.parser();
        let rows = sessions.iter().filter_map(|session| self.sessions[*session as usize].state.as_ref());
        Ok(self.states.convert_rows(rows.map(|state| parser.parse(state)))?)
    }

    /// What changed, to be written behind the task's back. Nothing is evicted until [`Self::thaw`].
    pub(in crate::window::session) fn freeze(&mut self) -> Option<Write> {
        self.writing = true;
        let changes = self.changes()?;
        Some(Box::new(move |store| changes.write(store).map(|_| ())))
    }

    fn changes(&mut self) -> Option<Changes> {
        let mut puts = Vec::new();
        for session in self.sessions.iter_mut().filter(|session| session.dirty) {
            session.dirty = false;
            let moved_from = session.stored.replace(session.start).filter(|start| *start != session.start);
            puts.extend(session.state.clone().map(|state| Put {
                group: session.group,
                span: session.span(),
                moved_from,
                state,
            }));
        }
        let deletes = std::mem::take(&mut self.deletes);
        let keys = self.groups.keys().clone();
        let changed = !puts.is_empty() || !deletes.is_empty();
        changed.then(|| Changes { keys, key_types: self.key_types.clone(), puts, deletes })
    }

    /// Lets every state leave memory. Not to be called while changes are being written.
    pub(in crate::window::session) fn evict(&mut self) -> Result<(), OperatorError> {
        if let Some(changes) = self.changes() {
            self.spilled_bytes += changes.write(&self.store)?;
        }
        self.sessions.iter_mut().for_each(|session| session.state = None);
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
                (session.state, session.stored) = (state, Some(span.start));
            }
        }
        Ok(())
    }
}

struct Put {
    group: u32,
    span: Span,
    /// The start under which the store has it so far.
    moved_from: Option<i64>,
    state: State,
}

/// Sessions to be written, and such to be deleted.
struct Changes {
    keys: GroupKeys,
    key_types: Vec<DataType>,
    puts: Vec<Put>,
    deletes: Vec<(Vec<u8>, i64)>,
}

impl Changes {
    fn write(self, store: &TaskStore) -> Result<u64, StateError> {
        let groups: Vec<u32> = self.puts.iter().map(|put| put.group).collect();
        let keys = stored_keys(&self.keys, &self.key_types, &groups, SESSION).map_err(unstorable)?;
        // A session may take the place of one that is gone: the put then stands for the delete too.
        let mut writes: BTreeMap<Vec<u8>, Option<usize>> = BTreeMap::new();
        writes.extend(self.deletes.into_iter().map(|(key, start)| (with_start(key, start), None)));
        for ((key, _), put) in keys.iter().zip(&self.puts) {
            writes.extend(put.moved_from.map(|start| (with_start(key.clone(), start), None)));
        }
        for (at, ((key, _), put)) in keys.into_iter().zip(&self.puts).enumerate() {
            writes.insert(with_start(key, put.span.start), Some(at));
        }
        let mut run = store.writer();
        let mut bytes = 0;
        for (key, at) in &writes {
            let Some(put) = at.map(|at| &self.puts[at]) else {
                run.delete(STATE, key)?;
                continue;
            };
            let value = encode(&put.span, &put.state);
            bytes += value.len() as u64;
            run.put(STATE, key, &value)?;
        }
        run.finish()?;
        Ok(bytes)
    }
}

fn with_start(mut key: Vec<u8>, start: i64) -> Vec<u8> {
    key.extend(((start as u64) ^ (1 << 63)).to_be_bytes());
    key
}

fn encode(span: &Span, state: &[u8]) -> Vec<u8> {
    [&[VERSION][..], &span.last.to_be_bytes(), &span.gap_ms.to_be_bytes(), state].concat()
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
