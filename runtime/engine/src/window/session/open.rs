//! The sessions that have not ended: which rows belong to which, what is known of each, and where that is kept.
//!
//! ```text
//! key      key group u16 | 1 | key, in Arrow's row format | start i64, sign flipped
//! value    version u8 = 1 | last i64 | state, in Arrow's row format
//! ```
//!
//! Numbers are big-endian.

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
    operator::{OperatorError, Write},
    running::entries::{State, key_converter, prefix, stored_keys},
    window::{chunks::unstorable, table::Part},
};

const VERSION: u8 = 1;
const SESSION: u8 = 1;
/// Marks what is not a session.
const NONE: u32 = u32::MAX;

/// One session, or a slot for one.
#[derive(Clone, Debug)]
struct Session {
    group: u32,
    start: i64,
    last: i64,
    /// The next open session of the group.
    next: u32,
    /// The session that this one has joined.
    joined: u32,
    /// What its rows came to before the changes that have not been folded. `None`: nothing yet, or only in the store.
    state: Option<State>,
    /// The start under which the store has it.
    stored: Option<i64>,
    /// Whether the store has something else.
    dirty: bool,
    /// Whether it has joined another and the changes have not been folded since.
    unfolded: bool,
    /// Whether the wheel has it: its slot must not be given away.
    watched: bool,
    /// Whether the slot is free.
    free: bool,
}

/// The open sessions of a task.
pub(super) struct OpenSessions {
    gap_ms: i64,
    groups: Groups,
    key_types: Vec<DataType>,
    /// The first open session of each group.
    first: Vec<u32>,
    sessions: Vec<Session>,
    free: Vec<u32>,
    /// Sessions that have joined others since the changes were last folded.
    joined: Vec<u32>,
    new: Vec<u32>,
    states: RowConverter,
    state_columns: usize,
    empty_states: Vec<ArrayRef>,
    store: Arc<TaskStore>,
    /// Keys, without start, and starts of sessions that are no longer in the store under them.
    deletes: Vec<(Vec<u8>, i64)>,
    writing: bool,
    bytes: usize,
    spilled_bytes: u64,
    groups_after_reclaim: usize,
    scratch: Vec<u32>,
}

impl OpenSessions {
    pub(super) fn new(
        key_types: &[DataType],
        gap_ms: i64,
        aggregates: &Aggregates,
        store: &Arc<TaskStore>,
    ) -> Result<Self, OperatorError> {
        let fields = aggregates.state_fields();
        let states = RowConverter::new(fields.iter().map(|field| SortField::new(field.data_type().clone())).collect())?;
        Ok(Self {
            gap_ms,
            groups: Groups::new(key_types)?,
            key_types: key_types.to_vec(),
            first: Vec::new(),
            sessions: Vec::new(),
            free: Vec::new(),
            joined: Vec::new(),
            new: Vec::new(),
            states,
            state_columns: fields.len(),
            empty_states: fields.iter().map(|field| arrow::array::new_empty_array(field.data_type())).collect(),
            store: Arc::clone(store),
            deletes: Vec::new(),
            writing: false,
            bytes: 0,
            spilled_bytes: 0,
            groups_after_reclaim: 0,
            scratch: Vec::new(),
        })
    }

    /// Puts the session of each row into `sessions`, making, growing and joining them.
    pub(super) fn assign(
        &mut self,
        keys: &[ArrayRef],
        times: &[i64],
        sessions: &mut Vec<u32>,
    ) -> Result<(), OperatorError> {
        let mut groups = std::mem::take(&mut self.scratch);
        self.groups.intern(keys, times.len(), &mut groups)?;
        self.first.resize(self.groups.len(), NONE);
        sessions.clear();
        sessions.extend(groups.iter().zip(times).map(|(group, time)| self.session_of(*group, *time)));
        self.scratch = groups;
        Ok(())
    }

    /// Whether less than the gap lies between two spans.
    fn touches(&self, (start, last): (i64, i64), session: &Session) -> bool {
        session.start.saturating_sub(last) < self.gap_ms && start.saturating_sub(session.last) < self.gap_ms
    }

    #[inline]
    fn session_of(&mut self, group: u32, time: i64) -> u32 {
        let first = self.first[group as usize];
        if first != NONE {
            let session = &mut self.sessions[first as usize];
            let inside = session.start <= time && time <= session.last;
            let alone = session.next == NONE;
            if inside || (alone && time > session.last && time - session.last < self.gap_ms) {
                session.last = session.last.max(time);
                return first;
            }
        }
        self.find_session(group, time)
    }

    fn find_session(&mut self, group: u32, time: i64) -> u32 {
        let (mut found, mut span) = (NONE, (time, time));
        let (mut before, mut at) = (NONE, self.first[group as usize]);
        while at != NONE {
            let session = &self.sessions[at as usize];
            let next = session.next;
            if !self.touches((time, time), session) {
                (before, at) = (at, next);
                continue;
            }
            span = (span.0.min(session.start), span.1.max(session.last));
            if found == NONE {
                found = at;
                (before, at) = (at, next);
            } else {
                // The row joins this session to the one found before.
                let session = &mut self.sessions[at as usize];
                session.joined = found;
                session.unfolded = true;
                session.next = NONE;
                self.joined.push(at);
                self.sessions[before as usize].next = next;
                at = next;
            }
        }
        if found == NONE {
            found = self.make(group, time);
        }
        let session = &mut self.sessions[found as usize];
        (session.start, session.last) = span;
        found
    }

    fn make(&mut self, group: u32, time: i64) -> u32 {
        let session = Session {
            group,
            start: time,
            last: time,
            next: self.first[group as usize],
            joined: NONE,
            state: None,
            stored: None,
            dirty: false,
            unfolded: false,
            watched: true,
            free: false,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.sessions[at as usize] = session;
                at
            }
            None => {
                self.sessions.push(session);
                self.sessions.len() as u32 - 1
            }
        };
        self.first[group as usize] = at;
        self.new.push(at);
        at
    }

    fn root_of(&self, mut session: u32) -> u32 {
        while self.sessions[session as usize].joined != NONE {
            session = self.sessions[session as usize].joined;
        }
        session
    }

    /// Merges changes, by session, into the sessions' states.
    pub(super) fn fold(&mut self, changes: &Part, aggregates: &Aggregates) -> Result<(), OperatorError> {
        let mut places = vec![NONE; self.sessions.len()];
        let mut roots: Vec<u32> = Vec::new();
        let mut locals = Vec::with_capacity(changes.groups.len());
        for session in &changes.groups {
            let root = self.root_of(*session);
            let place = &mut places[root as usize];
            if *place == NONE {
                *place = roots.len() as u32;
                roots.push(root);
            }
            locals.push(*place);
        }
        let mut total = aggregates.accumulators()?;
        total.merge(&changes.state, &locals, roots.len())?;
        // What was known before: of the sessions themselves, and of those that have joined them. A row joined them, so
        // all of those are among the changed ones.
        let joined = std::mem::take(&mut self.joined);
        let known: Vec<u32> = roots.iter().chain(&joined).copied().filter(|session| self.has_state(*session)).collect();
        let states = self.states(&known)?;
        let locals: Vec<u32> = known.iter().map(|session| places[self.root_of(*session) as usize]).collect();
        total.merge(&states, &locals, roots.len())?;
        let states = total.into_state()?;
        let rows = if self.state_columns == 0 { None } else { Some(self.states.convert_columns(&states)?) };
        for (at, root) in roots.iter().enumerate() {
            let state = rows.as_ref().map_or_else(|| State::from([]), |rows| State::from(rows.row(at).data()));
            let session = &mut self.sessions[*root as usize];
            self.bytes += state.len() + 16;
            self.bytes -= session.state.replace(state).map_or(0, |state| state.len() + 16);
            session.dirty = true;
        }
        let stored: Vec<u32> =
            joined.iter().copied().filter(|session| self.sessions[*session as usize].stored.is_some()).collect();
        self.note_deletes(&stored)?;
        for session in joined {
            self.drop_state(session);
            self.give_back(session);
        }
        Ok(())
    }

    fn has_state(&self, session: u32) -> bool {
        let session = &self.sessions[session as usize];
        session.state.is_some() || session.stored.is_some()
    }

    fn drop_state(&mut self, session: u32) {
        self.bytes -= self.sessions[session as usize].state.take().map_or(0, |state| state.len() + 16);
    }

    /// Frees a slot, once the wheel has let go of it.
    fn give_back(&mut self, session: u32) {
        let slot = &mut self.sessions[session as usize];
        slot.dirty = false;
        slot.unfolded = false;
        slot.stored = None;
        if !slot.watched {
            slot.free = true;
            self.free.push(session);
        }
    }

    fn note_deletes(&mut self, sessions: &[u32]) -> Result<(), OperatorError> {
        let groups: Vec<u32> = sessions.iter().map(|session| self.sessions[*session as usize].group).collect();
        let keys = stored_keys(self.groups.keys(), &self.key_types, &groups, SESSION)?;
        for ((key, _), session) in keys.into_iter().zip(sessions) {
            self.deletes.extend(self.sessions[*session as usize].stored.map(|start| (key, start)));
        }
        Ok(())
    }

    /// The states of sessions that have one, read from the store where they are not in memory.
    pub(super) fn states(&mut self, sessions: &[u32]) -> Result<Vec<ArrayRef>, OperatorError> {
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
                let (_, state) = decode(&value)?;
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

    /// Forgets sessions, which the wheel has let go of.
    pub(super) fn close(&mut self, sessions: &[u32]) {
        let stored: Vec<u32> =
            sessions.iter().copied().filter(|session| self.sessions[*session as usize].stored.is_some()).collect();
        // Keys of groups that exist can always be read.
        let noted = self.note_deletes(&stored);
        debug_assert!(noted.is_ok());
        for closed in sessions {
            let (group, next) = {
                let session = &self.sessions[*closed as usize];
                (session.group as usize, session.next)
            };
            if self.first[group] == *closed {
                self.first[group] = next;
            } else {
                let mut at = self.first[group];
                while at != NONE && self.sessions[at as usize].next != *closed {
                    at = self.sessions[at as usize].next;
                }
                if at != NONE {
                    self.sessions[at as usize].next = next;
                }
            }
            self.drop_state(*closed);
            self.sessions[*closed as usize].watched = false;
            self.give_back(*closed);
        }
    }

    /// Forgets keys without sessions, when there are many.
    pub(super) fn reclaim(&mut self) -> Result<(), OperatorError> {
        const FEW: usize = 16 * 1024;
        if self.writing || self.groups.len() < FEW.max(2 * self.groups_after_reclaim) {
            return Ok(());
        }
        let live: Vec<bool> = self.first.iter().map(|first| *first != NONE).collect();
        let renumbered = self.groups.retain(&live)?;
        // A session that has joined another and waits for the wheel to let go needs no group any more.
        for session in self.sessions.iter_mut().filter(|session| !session.free && session.joined == NONE) {
            session.group = renumbered[session.group as usize];
        }
        let mut first = vec![NONE; self.groups.len()];
        for (old, new) in renumbered.iter().enumerate().filter(|(_, new)| **new != NO_GROUP) {
            first[*new as usize] = self.first[old];
        }
        self.first = first;
        self.groups_after_reclaim = self.groups.len();
        Ok(())
    }

    /// What changed, to be written behind the task's back. Nothing is evicted until [`Self::thaw`].
    pub(super) fn freeze(&mut self) -> Option<Write> {
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
                start: session.start,
                last: session.last,
                moved_from,
                state,
            }));
        }
        let deletes = std::mem::take(&mut self.deletes);
        let keys = self.groups.keys().clone();
        let changed = !puts.is_empty() || !deletes.is_empty();
        changed.then(|| Changes { keys, key_types: self.key_types.clone(), puts, deletes })
    }

    pub(super) fn thaw(&mut self) {
        self.writing = false;
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writing
    }

    /// Lets every state leave memory. Not to be called while changes are being written.
    pub(super) fn evict(&mut self) -> Result<(), OperatorError> {
        if let Some(changes) = self.changes() {
            self.spilled_bytes += changes.write(&self.store)?;
        }
        self.sessions.iter_mut().for_each(|session| session.state = None);
        self.bytes = 0;
        Ok(())
    }

    /// Reads the open sessions, with their states as far as `budget_bytes` allow.
    pub(super) fn load(&mut self, range: KeyGroupRange, budget_bytes: usize) -> Result<(), OperatorError> {
        let store = Arc::clone(&self.store);
        let converter = key_converter(&self.key_types)?;
        for key_group in range.start..range.end {
            let mut scan = store.scan(STATE, &prefix(key_group, SESSION)..&prefix(key_group, SESSION + 1))?;
            let mut keys: Vec<Vec<u8>> = Vec::new();
            let mut found: Vec<(i64, i64, Option<State>)> = Vec::new();
            while let Some(entry) = scan.next_entry() {
                let (key, value) = entry?;
                let split = key.len().checked_sub(8).filter(|at| *at >= 3);
                let (key, start) = key.split_at(split.ok_or_else(|| damaged("a short key of a session"))?);
                let start = u64::from_be_bytes(std::array::from_fn(|at| start[at])) ^ (1 << 63);
                let (last, state) = decode(value)?;
                let state = (self.bytes < budget_bytes).then(|| State::from(state));
                self.bytes += state.as_ref().map_or(0, |state| state.len() + 16);
                keys.push(key[3..].to_vec());
                found.push((start as i64, last, state));
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
            for (group, (start, last, state)) in groups.into_iter().zip(found) {
                let at = self.make(group, start);
                let session = &mut self.sessions[at as usize];
                (session.last, session.state, session.stored) = (last, state, Some(start));
            }
        }
        Ok(())
    }

    /// The sessions that were made since this was last asked; the wheel has to take them.
    pub(super) fn take_new(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.new)
    }

    pub(super) fn is_joined(&self, session: u32) -> bool {
        self.sessions[session as usize].joined != NONE
    }

    /// The wheel has let go of a session that has joined another.
    pub(super) fn unwatch(&mut self, session: u32) {
        let slot = &mut self.sessions[session as usize];
        slot.watched = false;
        if !slot.unfolded {
            slot.free = true;
            self.free.push(session);
        }
    }

    pub(super) fn start_of(&self, session: u32) -> i64 {
        self.sessions[session as usize].start
    }

    pub(super) fn end_of(&self, session: u32) -> i64 {
        self.sessions[session as usize].last.saturating_add(self.gap_ms)
    }

    pub(super) fn keys_of(&self, sessions: &[u32]) -> Result<Vec<ArrayRef>, OperatorError> {
        let groups: Vec<u32> = sessions.iter().map(|session| self.sessions[*session as usize].group).collect();
        self.groups.keys().gather(&groups)
    }

    /// How many slots there are.
    pub(super) fn slots(&self) -> usize {
        self.sessions.len()
    }

    /// How many sessions there are.
    pub(super) fn len(&self) -> usize {
        self.sessions.len() - self.free.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes
            + self.sessions.capacity() * size_of::<Session>()
            + self.first.capacity() * 4
            + self.groups.memory_bytes()
    }

    pub(super) fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes
    }
}

struct Put {
    group: u32,
    start: i64,
    last: i64,
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
        let mut writes: std::collections::BTreeMap<Vec<u8>, Option<usize>> = std::collections::BTreeMap::new();
        writes.extend(self.deletes.into_iter().map(|(key, start)| (with_start(key, start), None)));
        for ((key, _), put) in keys.iter().zip(&self.puts) {
            writes.extend(put.moved_from.map(|start| (with_start(key.clone(), start), None)));
        }
        for (at, ((key, _), put)) in keys.into_iter().zip(&self.puts).enumerate() {
            writes.insert(with_start(key, put.start), Some(at));
        }
        let mut run = store.writer();
        let mut bytes = 0;
        for (key, at) in &writes {
            let Some(put) = at.map(|at| &self.puts[at]) else {
                run.delete(STATE, key)?;
                continue;
            };
            let value = encode(put.last, &put.state);
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

fn encode(last: i64, state: &[u8]) -> Vec<u8> {
    [&[VERSION][..], &last.to_be_bytes(), state].concat()
}

fn decode(value: &[u8]) -> Result<(i64, &[u8]), OperatorError> {
    let (head, state) = value.split_at_checked(9).ok_or_else(|| damaged("a short session"))?;
    if head[0] != VERSION {
        return Err(damaged("a session of another version"));
    }
    Ok((i64::from_be_bytes(std::array::from_fn(|at| head[1 + at])), state))
}

fn damaged(found: &str) -> OperatorError {
    OperatorError::Damaged { found: found.into(), expected: "an open session, version 1" }
}

#[cfg(test)]
mod tests;
