//! What a barrier writes of the open sessions.
//!
//! While all of them are in memory, those that the round has changed go into the [log](DeltaLog) as columns:
//!
//! ```text
//! key columns | start Int64 | last Int64 | gap Int64 | the aggregates' states
//! ```
//!
//! A row stands for the session of its key and start, in the place of any that an older part has; one without `last` says that
//! there is no such session any more. In one part it comes before the session that took its place.
//!
//! When keys have left memory, each has an entry of its own ([`super::spilled`]).

use std::sync::{Arc, Mutex, PoisonError};

use arrow::{
    array::{ArrayRef, Int64Array, new_null_array},
    compute,
    datatypes::{DataType, Field},
};
use millrace_state::{StateError, TaskStore};
use millrace_stream::KeyGroupRange;

use super::{
    At, NOWHERE, OpenSessions, Session,
    changes::{Folding, LayerContent, Slots},
    shared::Snapshot,
    spilled::{self, Spilled},
    states::Pieces,
};
use crate::{
    aggregate::Aggregates,
    group::GroupKeys,
    operator::{OperatorError, Write},
    stored_keys::{Names, delete_kinds},
    window::{
        chunks::{Stored, unstorable},
        delta_log::DeltaLog,
        session::{CHUNKS, STATE},
        table::Part,
    },
};

/// The log of sessions.
pub(super) fn log(key_types: &[DataType], aggregates: &Aggregates) -> DeltaLog {
    let long = |name: &str, nullable| Field::new(name, DataType::Int64, nullable);
    let mut columns = vec![long("start", false), long("last", true), long("gap", false)];
    columns.extend(aggregates.state_fields());
    DeltaLog::new(CHUNKS, key_types, columns)
}

/// States that a writer has folded.
pub(super) struct Refolded {
    slots: Vec<u32>,
    states: Vec<ArrayRef>,
}

/// Where changes go.
pub(super) enum Target {
    /// The log, and what entries there are go.
    Log { entries_go: bool },
    /// Entries, and these names of when they are due go.
    Entries { not_due: Names },
}

impl OpenSessions {
    /// Has what the store has of these sessions removed.
    pub(super) fn note_gone(&mut self, sessions: &[u32]) {
        self.gone.extend(stored_of(&self.sessions, sessions, self.round));
    }

    /// What changed, to be written behind the task's back, which also folds what was put aside. Nothing is evicted until
    /// [`Self::thaw`].
    pub(in crate::window::session) fn freeze(&mut self) -> Option<Write> {
        (self.writing, self.folded) = (true, false);
        let part = Stored::new(&mut self.next_part);
        let comes_back = self.spilled.is_some() && self.spilled.is_empty();
        let entries_go = comes_back || self.spilled.is_old();
        if !self.dirty && !entries_go && self.gone.is_empty() && self.spilled.has_no_changes() {
            return None;
        }
        let target = match self.spilled.is_some() && !comes_back {
            true => Target::Entries { not_due: self.spilled.take_not_due() },
            false => {
                self.spilled = Spilled::default();
                Target::Log { entries_go }
            }
        };
        let changes = self.changes(part);
        let refolded = Arc::clone(&self.refolded);
        Some(Box::new(move |store: &TaskStore| {
            let folded = changes.write(store, target)?;
            *refolded.lock().unwrap_or_else(PoisonError::into_inner) = folded;
            Ok(())
        }))
    }

    /// What was frozen has been written.
    pub(in crate::window::session) fn thaw(&mut self) {
        self.writing = false;
        let refolded = self.refolded.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Refolded { slots, states }) = refolded.filter(|_| !self.folded) {
            self.take_over(slots, states);
        }
    }

    /// What changed in the round, which ends.
    pub(super) fn changes(&mut self, part: Stored) -> Changes {
        self.dirty = false;
        let covered = self.covered_layers();
        let layers = self.layers.iter_mut().skip(covered).map(|layer| LayerWrite {
            content: Arc::clone(&layer.content),
            folded: layer.folded,
            handed_over: std::mem::replace(&mut layer.handed_over, true),
        });
        let changes = Changes {
            part,
            layers: layers.collect(),
            applying: self
                .applying
                .iter()
                .map(|applying| (Arc::clone(&applying.slots), applying.piece, applying.applied))
                .collect(),
            sessions: self.sessions.snapshot(),
            pieces: self.states.pieces().clone(),
            empty_states: self.empty_states.clone(),
            round: self.round,
            keys: self.groups.keys().clone(),
            key_types: self.key_types.clone(),
            key_groups: self.key_groups,
            aggregates: self.aggregates.clone(),
            gone: std::mem::take(&mut self.gone),
            log: Arc::clone(&self.log),
        };
        self.round += 1;
        changes
    }
}

/// A layer that a writer folds for itself.
struct LayerWrite {
    content: Arc<LayerContent>,
    /// How many of its changes are part of the snapshot's states.
    folded: usize,
    /// Whether an earlier writer has removed those that have joined others.
    handed_over: bool,
}

/// What a round has changed.
pub(super) struct Changes {
    part: Stored,
    /// As they were when it ended.
    pub(super) sessions: Snapshot<Session>,
    pieces: Pieces,
    empty_states: Vec<ArrayRef>,
    pub(super) round: u32,
    layers: Vec<LayerWrite>,
    /// States that were being taken over: of which sessions, from which piece, and how many had been.
    applying: Vec<(Arc<Vec<u32>>, u32, usize)>,
    pub(super) keys: GroupKeys,
    pub(super) key_types: Vec<DataType>,
    pub(super) key_groups: KeyGroupRange,
    pub(super) aggregates: Aggregates,
    /// What the store has of sessions that are gone: groups and starts.
    pub(super) gone: Vec<(u32, i64)>,
    log: Arc<Mutex<DeltaLog>>,
}

impl Changes {
    fn write(mut self, store: &TaskStore, target: Target) -> Result<Option<Refolded>, StateError> {
        let folded = self.fold().map_err(unstorable)?;
        match target {
            Target::Entries { not_due } => {
                spilled::write(&self, &folded, store, &not_due, None)?;
                folded.refolded(&self).map_err(unstorable)
            }
            Target::Log { entries_go } => {
                if entries_go {
                    delete_kinds(store, STATE, self.key_groups, (0, u8::MAX))?;
                }
                self.write_to_log(folded, store, entries_go)
            }
        }
    }

    fn write_to_log(mut self, folded: Folded, store: &TaskStore, all: bool) -> Result<Option<Refolded>, StateError> {
        let log = Arc::clone(&self.log);
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut live, mut changed, mut gone) = (0, Vec::new(), std::mem::take(&mut self.gone));
        for (slot, session) in (0_u32..).zip(self.sessions.iter()).filter(|(_, session)| session.is_open()) {
            live += 1;
            if session.touched == self.round {
                changed.push(slot);
                gone.extend(session.stored.filter(|start| *start != session.start).map(|start| (session.group, start)));
            }
        }
        let is_base = all || log.wants_base(changed.len() + gone.len(), live);
        let (slots, states, refolded) = if is_base {
            gone.clear();
            let open = (0_u32..).zip(self.sessions.iter()).filter(|(_, session)| session.is_open());
            let slots: Vec<u32> = open.map(|(slot, _)| slot).collect();
            let states = self.states(&folded, &slots).map_err(unstorable)?;
            let refolded = Refolded { slots: slots.clone(), states: states.clone() };
            (slots, states, Some(refolded))
        } else {
            let refolded = folded.refolded(&self).map_err(unstorable)?;
            // Mostly all that changed has rows in the one layer.
            let is_layer = self.layers.len() == 1 && !self.layers[0].handed_over;
            let same = refolded.as_ref().filter(|of| is_layer && of.slots.len() == changed.len());
            let (slots, states) = match same {
                Some(of) => (of.slots.clone(), of.states.clone()),
                None => {
                    let states = self.states(&folded, &changed).map_err(unstorable)?;
                    (changed, states)
                }
            };
            (slots, states, refolded)
        };
        drop(folded);
        let part = self.part_of(&gone, &slots, states).map_err(unstorable)?;
        log.write(store, &self.keys, part, self.part, is_base)?;
        Ok(refolded)
    }

    /// The rows of sessions, behind those of sessions that are gone.
    fn part_of(&self, gone: &[(u32, i64)], slots: &[u32], states: Vec<ArrayRef>) -> Result<Part, OperatorError> {
        let sessions = || slots.iter().map(|slot| &self.sessions[*slot as usize]);
        let groups = gone.iter().map(|(group, _)| *group).chain(sessions().map(|session| session.group)).collect();
        let starts = gone.iter().map(|(_, start)| *start).chain(sessions().map(|session| session.start));
        let lasts = gone.iter().map(|_| None).chain(sessions().map(|session| Some(session.last)));
        let gaps = gone.iter().map(|_| 0).chain(sessions().map(|session| session.gap_ms));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(starts.map(Some).collect::<Int64Array>()),
            Arc::new(lasts.collect::<Int64Array>()),
            Arc::new(gaps.map(Some).collect::<Int64Array>()),
        ];
        for state in states {
            columns.push(match gone.len() {
                0 => state,
                rows => compute::concat(&[&new_null_array(state.data_type(), rows), &state])?,
            });
        }
        Ok(Part::new(groups, columns))
    }

    /// The states of sessions that have one.
    pub(super) fn states(&self, folded: &Folded, slots: &[u32]) -> Result<Vec<ArrayRef>, OperatorError> {
        let at: Vec<At> = slots.iter().map(|slot| folded.at(&self.sessions, *slot)).collect();
        if at.contains(&NOWHERE) {
            return Err(OperatorError::Damaged {
                found: "a session without a state".into(),
                expected: "the states of sessions",
            });
        }
        folded.pieces.gather(&at, &self.empty_states)
    }

    /// Folds what was put aside.
    pub(super) fn fold(&mut self) -> Result<Folded, OperatorError> {
        let mut folded = Folded { at: Vec::new(), pieces: self.pieces.clone(), roots: Vec::new(), last: None };
        if self.layers.is_empty() && self.applying.is_empty() {
            return Ok(folded);
        }
        folded.at = vec![NOWHERE; self.sessions.len()];
        for (slots, piece, from) in &self.applying {
            for (row, slot) in (0_u32..).zip(&slots[..]).skip(*from) {
                folded.at[*slot as usize] = At { piece: *piece, row };
            }
        }
        let mut places = Vec::new();
        for LayerWrite { content, folded: from, handed_over } in &self.layers {
            if !handed_over {
                self.gone.extend(stored_of(&self.sessions, &content.joined, self.round));
            }
            let (from, changed) = (*from, &content.changes.groups[*from..]);
            let slots = FoldedSlots { sessions: &self.sessions, folded: &folded };
            let folding = Folding::new(&slots, changed, &content.joined, &mut places);
            let known: Vec<At> = folding.known.iter().map(|session| folded.at(&self.sessions, *session)).collect();
            let known = folded.pieces.gather(&known, &self.empty_states)?;
            let states = folding.total(&self.aggregates, &content.changes, from, &known)?;
            let piece = folded.pieces.push(states.clone(), folding.roots.len());
            for (row, root) in (0_u32..).zip(&folding.roots) {
                folded.at[*root as usize] = At { piece, row };
            }
            folded.roots.extend_from_slice(&folding.roots);
            folded.last = Some(states);
        }
        if self.layers.len() > 1 {
            folded.last = None;
            folded.roots.sort_unstable();
            folded.roots.dedup();
        }
        Ok(folded)
    }
}

/// States that have been folded for a snapshot of sessions.
pub(super) struct Folded {
    /// Where they lie, by slot.
    at: Vec<At>,
    pieces: Pieces,
    /// The sessions that have new ones.
    roots: Vec<u32>,
    /// Those states, if they are in one piece.
    last: Option<Vec<ArrayRef>>,
}

impl Folded {
    fn at(&self, sessions: &Snapshot<Session>, slot: u32) -> At {
        let folded = self.at.get(slot as usize).copied().filter(|at| *at != NOWHERE);
        folded.unwrap_or_else(|| sessions[slot as usize].at)
    }

    /// What the task may take over.
    fn refolded(&self, changes: &Changes) -> Result<Option<Refolded>, OperatorError> {
        if changes.layers.is_empty() {
            return Ok(None);
        }
        let slots = self.roots.clone();
        let states = match &self.last {
            Some(states) => states.clone(),
            None => changes.states(self, &slots)?,
        };
        Ok(Some(Refolded { slots, states }))
    }
}

struct FoldedSlots<'a> {
    sessions: &'a Snapshot<Session>,
    folded: &'a Folded,
}

impl Slots for FoldedSlots<'_> {
    fn session(&self, session: u32) -> &Session {
        &self.sessions[session as usize]
    }

    fn slots(&self) -> usize {
        self.sessions.len()
    }

    fn has_state(&self, session: u32) -> bool {
        self.folded.at(self.sessions, session) != NOWHERE
    }
}

/// The groups of sessions that the store has, and the starts under which it has them.
fn stored_of(sessions: &impl std::ops::Index<usize, Output = Session>, of: &[u32], round: u32) -> Vec<(u32, i64)> {
    let stored = of.iter().map(|session| &sessions[*session as usize]);
    stored.filter_map(|session| Some((session.group, session.stored_in(round)?))).collect()
}
