//! The sessions that have not ended: which rows belong to which, and what is known of each.
//!
//! | module | what |
//! |---|---|
//! | [`changes`] | rows since a barrier, and how they become part of the sessions' states |
//! | [`states`] | the states, as columns |
//! | [`lists`] | which are open of a group, found by time |
//! | [`shared`] | the vector that the sessions lie in, of which a barrier takes a snapshot |
//! | [`stored`] | what a barrier writes |
//! | [`load`] | starting from what was written |
//! | [`spilled`] | sessions of keys that have left memory |
//!
//! Time is parted into *rounds*: one ends when what changed in it is handed to a writer, at a barrier or when memory is
//! short. A session that is touched notes the round, and under which start the store had it before.

mod changes;
mod lists;
mod load;
mod shared;
mod spilled;
mod states;
mod stored;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use arrow::{
    array::ArrayRef,
    datatypes::DataType,
    row::{RowConverter, SortField},
};
use millrace_state::TaskStore;
use millrace_stream::KeyGroupRange;

use self::{
    changes::{Applying, Layer},
    lists::Lists,
    shared::Shared,
    spilled::Spilled,
    states::{At, NOWHERE, States},
    stored::Refolded,
};
use crate::{aggregate::Aggregates, group::Groups, operator::OperatorError, window::delta_log::DeltaLog};

/// Marks what is not a session.
const NONE: u32 = u32::MAX;

/// The round of sessions that were read from the store.
const LOADED: u32 = 0;

/// One session, or a slot for one.
#[derive(Clone, Debug)]
struct Session {
    group: u32,
    start: i64,
    last: i64,
    /// The silence that ends it.
    gap_ms: i64,
    /// The next open session of the group, where they are a list.
    next: u32,
    /// The session that this one has joined.
    joined: u32,
    /// Where that lies which its rows came to before the changes that have not been folded.
    at: At,
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

    /// Whether it is a session, and not a slot or part of another one.
    fn is_open(&self) -> bool {
        !self.free && self.joined == NONE
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
    key_groups: KeyGroupRange,
    lists: Lists,
    sessions: Shared<Session>,
    free: Vec<u32>,
    round: u32,
    /// Whether the round has changed anything.
    dirty: bool,
    /// Sessions that have joined others since changes were last put aside.
    joined: Vec<u32>,
    /// Changes that have been put aside and are to be folded, oldest first.
    layers: VecDeque<Layer>,
    /// States that a writer has folded for the first of the layers, and that are being taken over.
    applying: VecDeque<Applying>,
    /// Whether the task has folded anything, or freed a slot, since the last barrier.
    folded: bool,
    /// Where the writer puts what it has folded.
    refolded: Arc<Mutex<Option<Refolded>>>,
    new: Vec<u32>,
    aggregates: Aggregates,
    states: States,
    empty_states: Vec<ArrayRef>,
    store: Arc<TaskStore>,
    /// What the store has of sessions that are gone: their groups, and the starts under which it has them.
    gone: Vec<(u32, i64)>,
    /// The chunks that the store has; the writer has them while it writes.
    log: Arc<Mutex<DeltaLog>>,
    next_part: u64,
    spilled: Spilled,
    writing: bool,
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
        key_groups: KeyGroupRange,
        gaps: Vec<(i64, i64)>,
        aggregates: &Aggregates,
        store: &Arc<TaskStore>,
    ) -> Result<Self, OperatorError> {
        let fields = aggregates.state_fields();
        Ok(Self {
            gaps,
            groups: Groups::new(key_types)?,
            key_types: key_types.to_vec(),
            key_groups,
            lists: Lists::default(),
            sessions: Shared::default(),
            free: Vec::new(),
            round: 1,
            dirty: false,
            joined: Vec::new(),
            layers: VecDeque::new(),
            applying: VecDeque::new(),
            folded: false,
            refolded: Arc::default(),
            new: Vec::new(),
            aggregates: aggregates.clone(),
            states: States::default(),
            empty_states: fields.iter().map(|field| arrow::array::new_empty_array(field.data_type())).collect(),
            store: Arc::clone(store),
            gone: Vec::new(),
            log: Arc::new(Mutex::new(stored::log(key_types, aggregates))),
            next_part: 1,
            spilled: Spilled::default(),
            writing: false,
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
        let known = self.groups.len();
        self.groups.intern(keys, times.len(), &mut groups)?;
        self.lists.grow(self.groups.len());
        self.fetch_from(known)?;
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
        if let Some(first) = self.lists.first(group) {
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
        let mut found = self.lists.containing(&self.sessions, group, time);
        let mut span = match found {
            NONE => Span { start: time, last: time, gap_ms: self.gap_at(time) },
            at => self.sessions[at as usize].span().with(time),
        };
        // What the session comes to reach may make it reach further.
        loop {
            let reached = self.lists.reached(&self.sessions, group, &span, found);
            if reached == NONE {
                break;
            }
            span = span.and(&self.sessions[reached as usize].span());
            if found == NONE {
                found = reached;
                continue;
            }
            self.lists.remove(&mut self.sessions, group, reached);
            let session = &mut self.sessions[reached as usize];
            session.joined = found;
            session.unfolded = true;
            self.joined.push(reached);
        }
        if found == NONE {
            found = self.make(group, span);
        }
        let session = &mut self.sessions[found as usize];
        session.touch(self.round);
        let before = std::mem::replace(&mut session.start, span.start);
        (session.last, session.gap_ms) = (span.last, span.gap_ms);
        self.lists.started(&self.sessions, group, found, before);
        self.dirty = true;
        found
    }

    fn make(&mut self, group: u32, span: Span) -> u32 {
        let session = Session {
            group,
            start: span.start,
            last: span.last,
            gap_ms: span.gap_ms,
            next: NONE,
            joined: NONE,
            at: NOWHERE,
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
        self.lists.add(&mut self.sessions, group, at);
        self.new.push(at);
        at
    }

    /// Forgets the state of a session that has joined another, and frees its slot once the wheel has let go of it.
    fn give_back(&mut self, session: u32) {
        let slot = &mut self.sessions[session as usize];
        self.states.release(std::mem::replace(&mut slot.at, NOWHERE));
        slot.unfolded = false;
        if !slot.watched {
            self.set_free(session);
        }
    }

    /// Another session may take this slot. What a writer has folded for the one that had it is of no use any more.
    fn set_free(&mut self, session: u32) {
        self.sessions[session as usize].free = true;
        self.free.push(session);
        self.folded = true;
    }

    /// Forgets sessions, which the wheel has let go of.
    pub(super) fn close(&mut self, sessions: &[u32]) {
        self.note_gone(sessions);
        for closed in sessions {
            let group = self.sessions[*closed as usize].group;
            self.lists.remove(&mut self.sessions, group, *closed);
            let slot = &mut self.sessions[*closed as usize];
            (slot.watched, slot.unfolded) = (false, false);
            self.states.release(std::mem::replace(&mut slot.at, NOWHERE));
            self.set_free(*closed);
        }
    }

    /// Forgets keys without sessions, when there are many.
    pub(super) fn reclaim(&mut self) -> Result<(), OperatorError> {
        const FEW: usize = 16 * 1024;
        // What the store has of a key that is not in memory would be read.
        if self.writing || self.spilled.is_some() || self.groups.len() < FEW.max(2 * self.groups_after_reclaim) {
            return Ok(());
        }
        let mut live = self.lists.live();
        self.gone.iter().for_each(|(group, _)| live[*group as usize] = true);
        let renumbered = self.groups.retain(&live)?;
        self.gone.iter_mut().for_each(|(group, _)| *group = renumbered[*group as usize]);
        // A session that has joined another and waits for the wheel to let go needs no group any more.
        for session in self.sessions.iter_mut().filter(|session| !session.free && session.joined == NONE) {
            session.group = renumbered[session.group as usize];
        }
        self.lists.renumber(&renumbered, self.groups.len());
        self.groups_after_reclaim = self.groups.len();
        Ok(())
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writing
    }

    pub(super) fn next_part(&self) -> u64 {
        self.next_part
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
            self.set_free(session);
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
        let open = self.sessions.iter().filter(|session| session.is_open());
        open.map(|session| session.last).max().unwrap_or(i64::MIN).max(self.spilled.latest())
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
        self.states.memory_bytes()
            + self.sessions.memory_bytes()
            + self.layers.iter().map(Layer::memory_bytes).sum::<usize>()
            + self.lists.memory_bytes()
            + (self.places.capacity() + self.new.capacity()) * 4
            + self.gone.capacity() * size_of::<(u32, i64)>()
            + self.spilled.memory_bytes()
            + self.groups.memory_bytes()
    }

    pub(super) fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes
    }
}
