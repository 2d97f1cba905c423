//! The sessions that have not ended: which rows belong to which, and what is known of each.
//!
//! | module | what |
//! |---|---|
//! | [`changes`] | rows since a barrier, and how they become part of the sessions' states |
//! | [`stored`] | sessions in the store |
//! | [`shared`] | the vector that they lie in, of which a barrier takes a snapshot |
//!
//! Time is parted into *rounds*: one ends when what changed in it is handed to a writer, at a barrier or when memory is
//! short. A session that is touched notes the round, and under which start the store had it before.

mod changes;
mod shared;
mod stored;

use std::{collections::VecDeque, sync::Arc};

use arrow::{
    array::ArrayRef,
    datatypes::DataType,
    row::{RowConverter, SortField},
};
use millrace_state::TaskStore;

use self::{changes::Layer, shared::Shared};
use crate::{
    aggregate::Aggregates,
    group::{Groups, NO_GROUP},
    operator::OperatorError,
    running::entries::State,
    stored_keys::Names,
};

/// Marks what is not a session.
const NONE: u32 = u32::MAX;

/// One session, or a slot for one.
#[derive(Clone, Debug)]
struct Session {
    group: u32,
    start: i64,
    last: i64,
    /// The silence that ends it.
    gap_ms: i64,
    /// The next open session of the group.
    next: u32,
    /// The session that this one has joined.
    joined: u32,
    /// What its rows came to before the changes that have not been folded. `None`: nothing yet, or only in the store.
    state: Option<State>,
    /// Whether the state is only in the store.
    cold: bool,
    /// The last round in which rows came to it.
    touched: u32,
    /// The start under which the store had it before that round.
    stored: Option<i64>,
    /// Whether it has joined another and the changes have not been folded since.
    unfolded: bool,
    /// Whether the wheel has it: its slot must not be given away.
    watched: bool,
    /// Whether the slot is free.
    free: bool,
}

/// The rows of a session: from the first to the last, and the gap.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: i64,
    last: i64,
    gap_ms: i64,
}

impl Session {
    fn span(&self) -> Span {
        Span { start: self.start, last: self.last, gap_ms: self.gap_ms }
    }

    /// Rows come to it, before they change its span.
    fn touch(&mut self, round: u32) {
        if self.touched != round {
            self.stored = Some(self.start);
            self.touched = round;
        }
    }

    /// The start under which the store has it: it was written at the end of the last round that touched it.
    fn stored_in(&self, round: u32) -> Option<i64> {
        if self.touched == round { self.stored } else { Some(self.start) }
    }

    /// Whether it is one that the round has changed.
    fn is_changed_in(&self, round: u32) -> bool {
        self.touched == round && !self.free && self.joined == NONE
    }
}

impl Span {
    fn end(&self) -> i64 {
        self.last.saturating_add(self.gap_ms)
    }

    /// With a row that does not come before the first.
    fn with(self, time: i64) -> Self {
        Self { last: self.last.max(time), ..self }
    }

    /// Whether the later of two spans begins before the earlier one's gap is over.
    fn reaches(&self, other: &Self) -> bool {
        let (earlier, later) = if self.start <= other.start { (self, other) } else { (other, self) };
        later.start.saturating_sub(earlier.last) < earlier.gap_ms
    }

    /// Both, joined: never shorter than either.
    fn and(&self, other: &Self) -> Self {
        Self {
            start: self.start.min(other.start),
            last: self.last.max(other.last),
            gap_ms: self.gap_ms.max(other.gap_ms),
        }
    }
}

/// The open sessions of a task.
pub(super) struct OpenSessions {
    /// The gaps of sessions that begin from an event time on, in order.
    gaps: Vec<(i64, i64)>,
    groups: Groups,
    key_types: Vec<DataType>,
    /// The first open session of each group.
    first: Vec<u32>,
    sessions: Shared<Session>,
    free: Vec<u32>,
    round: u32,
    /// Whether the round has changed anything.
    dirty: bool,
    /// Sessions that have joined others since changes were last put aside.
    joined: Vec<u32>,
    /// Changes that have been put aside and are to be folded, oldest first.
    layers: VecDeque<Layer>,
    /// How many sessions have their state only in the store.
    cold: usize,
    new: Vec<u32>,
    aggregates: Aggregates,
    states: RowConverter,
    state_columns: usize,
    empty_states: Vec<ArrayRef>,
    store: Arc<TaskStore>,
    /// The store's keys of sessions that are gone.
    deletes: Names,
    writing: bool,
    bytes: usize,
    spilled_bytes: u64,
    groups_after_reclaim: usize,
    scratch: Vec<u32>,
    places: Vec<u32>,
}

/// What makes rows of the aggregates' states.
fn state_converter(aggregates: &Aggregates) -> Result<RowConverter, OperatorError> {
    let fields = aggregates.state_fields();
    Ok(RowConverter::new(fields.iter().map(|field| SortField::new(field.data_type().clone())).collect())?)
}

impl OpenSessions {
    pub(super) fn new(
        key_types: &[DataType],
        gaps: Vec<(i64, i64)>,
        aggregates: &Aggregates,
        store: &Arc<TaskStore>,
    ) -> Result<Self, OperatorError> {
        let fields = aggregates.state_fields();
        Ok(Self {
            gaps,
            groups: Groups::new(key_types)?,
            key_types: key_types.to_vec(),
            first: Vec::new(),
            sessions: Shared::default(),
            free: Vec::new(),
            round: 1,
            dirty: false,
            joined: Vec::new(),
            layers: VecDeque::new(),
            cold: 0,
            new: Vec::new(),
            states: state_converter(aggregates)?,
            aggregates: aggregates.clone(),
            state_columns: fields.len(),
            empty_states: fields.iter().map(|field| arrow::array::new_empty_array(field.data_type())).collect(),
            store: Arc::clone(store),
            deletes: Names::default(),
            writing: false,
            bytes: 0,
            spilled_bytes: 0,
            groups_after_reclaim: 0,
            scratch: Vec::new(),
            places: Vec::new(),
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

    /// The gap of a session that begins at `time`.
    fn gap_at(&self, time: i64) -> i64 {
        let later = self.gaps.iter().rev().find(|(from, _)| *from <= time);
        later.or(self.gaps.first()).map_or(1, |(_, gap)| *gap)
    }

    #[inline]
    fn session_of(&mut self, group: u32, time: i64) -> u32 {
        let first = self.first[group as usize];
        if first != NONE {
            let session = &self.sessions[first as usize];
            let inside = session.start <= time && time <= session.last;
            let alone = session.next == NONE;
            if inside || (alone && time > session.last && time - session.last < session.gap_ms) {
                // What does not change is not written to: a snapshot may have it.
                if !inside || session.touched != self.round {
                    let session = &mut self.sessions[first as usize];
                    session.touch(self.round);
                    session.last = session.last.max(time);
                    self.dirty = true;
                }
                return first;
            }
        }
        self.find_session(group, time)
    }

    /// The session that a row makes, goes on with or begins anew, all those joined that it brings together.
    fn find_session(&mut self, group: u32, time: i64) -> u32 {
        // The gap after a row is that of the session that the row is in.
        let mut found = self.find(group, |session| session.start <= time && time - session.last < session.gap_ms);
        let mut span = match found {
            NONE => Span { start: time, last: time, gap_ms: self.gap_at(time) },
            at => self.sessions[at as usize].span().with(time),
        };
        // What the session comes to reach may make it reach further.
        loop {
            let reached = self.find_other(group, found, |session| span.reaches(&session.span()));
            if reached == NONE {
                break;
            }
            span = span.and(&self.sessions[reached as usize].span());
            if found == NONE {
                found = reached;
                continue;
            }
            let session = &mut self.sessions[reached as usize];
            let next = std::mem::replace(&mut session.next, NONE);
            session.joined = found;
            session.unfolded = true;
            self.joined.push(reached);
            self.unlink(group, reached, next);
        }
        if found == NONE {
            found = self.make(group, span);
        }
        let session = &mut self.sessions[found as usize];
        session.touch(self.round);
        (session.start, session.last, session.gap_ms) = (span.start, span.last, span.gap_ms);
        self.dirty = true;
        found
    }

    /// The first open session of a group for which `is_it` says so.
    fn find(&self, group: u32, is_it: impl Fn(&Session) -> bool) -> u32 {
        self.find_other(group, NONE, is_it)
    }

    fn find_other(&self, group: u32, than: u32, is_it: impl Fn(&Session) -> bool) -> u32 {
        let mut at = self.first[group as usize];
        while at != NONE && (at == than || !is_it(&self.sessions[at as usize])) {
            at = self.sessions[at as usize].next;
        }
        at
    }

    /// Takes a session, which `next` came after, out of the list of its group.
    fn unlink(&mut self, group: u32, session: u32, next: u32) {
        let mut at = self.first[group as usize];
        if at == session {
            self.first[group as usize] = next;
            return;
        }
        while at != NONE && self.sessions[at as usize].next != session {
            at = self.sessions[at as usize].next;
        }
        if at != NONE {
            self.sessions[at as usize].next = next;
        }
    }

    fn make(&mut self, group: u32, span: Span) -> u32 {
        let session = Session {
            group,
            start: span.start,
            last: span.last,
            gap_ms: span.gap_ms,
            next: self.first[group as usize],
            joined: NONE,
            state: None,
            cold: false,
            touched: self.round,
            stored: None,
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

    /// Forgets the state of a session that has joined another, and frees its slot once the wheel has let go of it.
    fn give_back(&mut self, session: u32) {
        let slot = &mut self.sessions[session as usize];
        self.bytes -= slot.state.take().map_or(0, |state| state.len() + 16);
        self.cold -= usize::from(std::mem::take(&mut slot.cold));
        slot.unfolded = false;
        if !slot.watched {
            slot.free = true;
            self.free.push(session);
        }
    }

    /// Forgets sessions, which the wheel has let go of.
    pub(super) fn close(&mut self, sessions: &[u32]) {
        // Keys of groups that exist can always be read.
        let noted = self.note_deletes(sessions);
        debug_assert!(noted.is_ok());
        for closed in sessions {
            let slot = &mut self.sessions[*closed as usize];
            (slot.watched, slot.unfolded, slot.free) = (false, false, true);
            let (group, next) = (slot.group, std::mem::replace(&mut slot.next, NONE));
            self.bytes -= slot.state.take().map_or(0, |state| state.len() + 16);
            self.cold -= usize::from(std::mem::take(&mut slot.cold));
            self.free.push(*closed);
            self.unlink(group, *closed, next);
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

    pub(super) fn thaw(&mut self) {
        self.writing = false;
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writing
    }

    /// Whether some states are only in the store.
    pub(super) fn is_cold(&self) -> bool {
        self.cold > 0
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
        self.sessions[session as usize].span().end()
    }

    /// The greatest event time in an open session.
    pub(super) fn latest(&self) -> i64 {
        let open = self.sessions.iter().filter(|session| !session.free && session.joined == NONE);
        open.map(|session| session.last).max().unwrap_or(i64::MIN)
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
            + self.sessions.memory_bytes()
            + self.layers.iter().map(Layer::memory_bytes).sum::<usize>()
            + (self.first.capacity() + self.places.capacity()) * 4
            + self.groups.memory_bytes()
    }

    pub(super) fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes
    }
}
