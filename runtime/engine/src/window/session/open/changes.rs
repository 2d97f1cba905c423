//! Rows since a barrier, and how they become part of the sessions' states.
//!
//! ```text
//! live      takes rows; sealed into a layer at a barrier, and when states are needed
//! layers    sealed changes that are not yet part of the states; a writer may have them too
//! states    of the sessions, without live and layers
//! ```
//!
//! *Folding* merges a layer into the states, bit by bit while rows come, all of it when a session closes. A writer does the
//! same for itself, over a snapshot of the sessions; when nothing has been folded meanwhile, the task takes its states over
//! instead of folding again.

use std::sync::Arc;

use arrow::array::ArrayRef;

use super::{At, NONE, NOWHERE, OpenSessions, Session, shared::Shared};
use crate::{aggregate::Aggregates, operator::OperatorError, window::table::Part};

/// How many changed sessions are folded at a time while rows come.
const FOLDED_AT_ONCE: usize = 8 * 1024;

/// Changes by session that have been put aside.
pub(super) struct Layer {
    pub(super) content: Arc<LayerContent>,
    /// How many of the changes are part of the states.
    pub(super) folded: usize,
    /// Whether a writer has it, which removes those that have joined others from the store.
    pub(super) handed_over: bool,
}

/// What a layer holds.
pub(super) struct LayerContent {
    /// Partial states by session.
    pub(super) changes: Part,
    /// The sessions that have joined others, all of which are among the changed ones. They keep their slots until the layer
    /// is folded.
    pub(super) joined: Vec<u32>,
}

impl Layer {
    pub(super) fn memory_bytes(&self) -> usize {
        self.content.changes.memory_bytes() + self.content.joined.capacity() * 4
    }
}

/// States that a writer has folded, and that are being taken over bit by bit.
pub(super) struct Applying {
    /// The sessions.
    pub(super) slots: Arc<Vec<u32>>,
    /// The piece that has their states, in that order.
    pub(super) piece: u32,
    pub(super) applied: usize,
    /// How many layers they hold.
    layers: usize,
}

impl OpenSessions {
    /// Puts changes aside.
    pub(in crate::window::session) fn put_aside(&mut self, changes: Part) {
        let content = Arc::new(LayerContent { changes, joined: std::mem::take(&mut self.joined) });
        self.layers.push_back(Layer { content, folded: 0, handed_over: false });
    }

    /// Folds all that was put aside.
    pub(in crate::window::session) fn fold_all(&mut self) -> Result<(), OperatorError> {
        while !self.layers.is_empty() || !self.applying.is_empty() {
            self.fold_rows(usize::MAX)?;
        }
        Ok(())
    }

    /// Folds a part of what was put aside, unless a writer has a snapshot: what is written to would be copied.
    pub(in crate::window::session) fn fold_some(&mut self) -> Result<(), OperatorError> {
        if self.writing {
            return Ok(());
        }
        if self.layers.is_empty() && self.applying.is_empty() {
            return self.gather_sparse();
        }
        self.fold_rows(FOLDED_AT_ONCE)
    }

    /// Folds up to so many changes of the oldest layer.
    fn fold_rows(&mut self, most: usize) -> Result<(), OperatorError> {
        self.folded = true;
        if !self.applying.is_empty() {
            self.apply(most);
            return Ok(());
        }
        let Some(layer) = self.layers.front_mut() else { return Ok(()) };
        let content = Arc::clone(&layer.content);
        let from = layer.folded;
        let to = content.changes.groups.len().min(from.saturating_add(most));
        layer.folded = to;
        let is_last = to == content.changes.groups.len();
        let joined = if is_last { &content.joined[..] } else { &[] };
        let mut places = std::mem::take(&mut self.places);
        let changed = &content.changes.groups[from..to];
        let folding = Folding::new(&self.sessions, changed, joined, &mut places);
        self.places = places;
        let known = self.states_of(&folding.known)?;
        let states = folding.total(&self.aggregates, &content.changes, from, &known)?;
        let piece = self.states.add(states, folding.roots.len());
        self.put_states(&folding.roots, piece, 0);
        if is_last {
            self.end_layer();
        }
        Ok(())
    }

    /// Takes over states that a writer has folded.
    pub(super) fn apply(&mut self, most: usize) {
        let Some(applying) = self.applying.front_mut() else { return };
        let (slots, piece, from) = (Arc::clone(&applying.slots), applying.piece, applying.applied);
        let to = slots.len().min(from.saturating_add(most));
        applying.applied = to;
        self.put_states(&slots[from..to], piece, from);
        if to == slots.len() {
            let layers = self.applying.pop_front().map_or(0, |applied| applied.layers);
            (0..layers).for_each(|_| self.end_layer());
        }
    }

    /// The states of sessions are those of a piece, from a row on.
    fn put_states(&mut self, slots: &[u32], piece: u32, from: usize) {
        for (row, slot) in (from as u32..).zip(slots) {
            let before = std::mem::replace(&mut self.sessions[*slot as usize].at, At { piece, row });
            self.states.release(before);
        }
    }

    /// The oldest layer is part of the states.
    fn end_layer(&mut self) {
        let Some(layer) = self.layers.pop_front() else { return };
        if !layer.handed_over {
            self.note_gone(&layer.content.joined);
        }
        layer.content.joined.iter().for_each(|session| self.give_back(*session));
    }

    /// What a writer has folded for the layers that it was given is taken over, unless the task has folded anything itself
    /// meanwhile.
    pub(super) fn take_over(&mut self, slots: Vec<u32>, states: Vec<ArrayRef>) {
        let covered: usize = self.applying.iter().map(|applying| applying.layers).sum();
        let layers = self.layers.iter().skip(covered).filter(|layer| layer.handed_over).count();
        let piece = self.states.add(states, slots.len());
        self.applying.push_back(Applying { slots: Arc::new(slots), piece, applied: 0, layers });
    }

    /// How many layers are being taken over already.
    pub(super) fn covered_layers(&self) -> usize {
        self.applying.iter().map(|applying| applying.layers).sum()
    }

    /// The states of sessions that have one.
    pub(in crate::window::session) fn states_of(&self, sessions: &[u32]) -> Result<Vec<ArrayRef>, OperatorError> {
        let at = sessions.iter().map(|session| self.sessions[*session as usize].at).filter(|at| *at != NOWHERE);
        self.states.pieces().gather(&at.collect::<Vec<_>>(), &self.empty_states)
    }

    /// Gathers the states that are in use, when most are not.
    fn gather_sparse(&mut self) -> Result<(), OperatorError> {
        if !self.states.is_sparse() {
            return Ok(());
        }
        let with_state = (0_u32..).zip(self.sessions.iter()).filter(|(_, session)| session.at != NOWHERE);
        let slots: Vec<u32> = with_state.map(|(slot, _)| slot).collect();
        let columns = self.states_of(&slots)?;
        let piece = self.states.add(columns, slots.len());
        self.put_states(&slots, piece, 0);
        Ok(())
    }
}

/// Sessions by slot, and what is known of them.
pub(super) trait Slots {
    fn session(&self, session: u32) -> &Session;

    /// How many slots there are.
    fn slots(&self) -> usize;

    /// Whether something is known of a session beside changes.
    fn has_state(&self, session: u32) -> bool;

    /// The session that a session has come to belong to.
    fn root_of(&self, mut session: u32) -> u32 {
        while self.session(session).joined != NONE {
            session = self.session(session).joined;
        }
        session
    }
}

impl Slots for Shared<Session> {
    fn session(&self, session: u32) -> &Session {
        &self[session as usize]
    }

    fn slots(&self) -> usize {
        self.len()
    }

    fn has_state(&self, session: u32) -> bool {
        self.session(session).at != NOWHERE
    }
}

/// Which states come together when changes are folded.
pub(super) struct Folding {
    /// The sessions that get a new state.
    pub(super) roots: Vec<u32>,
    /// For each change, whose state it goes into: a place in `roots`.
    locals: Vec<u32>,
    /// How many of `roots` have changes.
    changed: usize,
    /// The sessions whose states so far go in: of the roots, and of those that have joined them.
    pub(super) known: Vec<u32>,
    known_locals: Vec<u32>,
}

impl Folding {
    /// Folding the changes of the sessions `changed`, and taking in `joined`. `places` is scratch: all [`NONE`].
    pub(super) fn new(sessions: &impl Slots, changed: &[u32], joined: &[u32], places: &mut Vec<u32>) -> Self {
        if places.len() < sessions.slots() {
            places.resize(sessions.slots(), NONE);
        }
        let mut roots: Vec<u32> = Vec::new();
        let mut place_of = |session: u32| {
            let root = sessions.root_of(session);
            let place = &mut places[root as usize];
            if *place == NONE {
                *place = roots.len() as u32;
                roots.push(root);
            }
            *place
        };
        let locals: Vec<u32> = changed.iter().map(|session| place_of(*session)).collect();
        let joined = joined.iter().copied().filter(|session| sessions.has_state(*session));
        let (mut known, mut known_locals): (Vec<u32>, Vec<u32>) =
            joined.map(|session| (session, place_of(session))).unzip();
        let changed = locals.iter().max().map_or(0, |greatest| *greatest as usize + 1);
        for (place, root) in roots.iter().enumerate() {
            places[*root as usize] = NONE;
            if sessions.has_state(*root) {
                known.push(*root);
                known_locals.push(place as u32);
            }
        }
        Self { roots, locals, changed, known, known_locals }
    }

    /// The new states of the roots: of the changes from `from` on, and of what was known.
    pub(super) fn total(
        &self,
        aggregates: &Aggregates,
        changes: &Part,
        from: usize,
        known: &[ArrayRef],
    ) -> Result<Vec<ArrayRef>, OperatorError> {
        let mut total = aggregates.accumulators()?;
        let changes: Vec<ArrayRef> =
            changes.state()?.iter().map(|column| column.slice(from, self.locals.len())).collect();
        // The changes first, so that the accumulators see every group when it is new to them.
        total.merge(&changes, &self.locals, self.changed)?;
        total.merge(known, &self.known_locals, self.roots.len())?;
        total.into_state()
    }
}
