//! Sessions of keys that have left memory.
//!
//! ```text
//! entry    key group u16 | 3 | key, in Arrow's row format
//!          version u8 = 3 | for each session: start i64 | last i64 | gap i64 | bytes u32 | state, in Arrow's row format
//! due      key group u16 | 4 | when a session of the key ends, i64, sign flipped | key          (nothing)
//! ```
//!
//! Numbers are big-endian. When memory is short every key leaves it, with all its sessions, and comes back, many sorted
//! keys at a time, when it has a row or when a session of it is due. So a key of which anything is in memory is there with
//! all its sessions, and the store only has to be asked for keys that are new. What `due` says of a key that has come back
//! meanwhile is of no use, and is passed over when its time comes.
//!
//! A barrier writes anew the entries of keys of which a session has changed. When no key is away any more, it goes back to
//! writing columns ([`super::stored`]), and no entry is left.

use std::sync::Arc;

use arrow::{array::ArrayRef, row::RowConverter};
use millrace_state::{StateError, TaskStore};

use super::{
    At, LOADED, OpenSessions, Shared, Span, States, state_converter,
    stored::{Changes, Folded},
};
use crate::{
    group::Groups,
    operator::OperatorError,
    stored_keys::{
        KeyRows, Names, Portion, TIMED_PREFIX, delete_kinds, key_converter, key_group_of, portions, prefix, time_of,
        timed_prefix,
    },
    window::{
        chunks::{Stored, unstorable},
        session::STATE,
    },
};

const VERSION: u8 = 3;
pub(super) const ENTRY: u8 = 3;
pub(super) const DUE: u8 = 4;

/// What has left memory.
pub(super) struct Spilled {
    /// Whether the store has entries.
    entries: bool,
    /// Whether it has those of older releases.
    old: bool,
    /// No session that is away ends before.
    next_due_ms: i64,
    /// What is due by then has come back.
    done_ms: i64,
    /// Where to go on with what is due.
    cursor: Option<(u16, Vec<u8>)>,
    /// What is due no more.
    not_due: Names,
    /// The greatest event time in what has left memory.
    latest: i64,
}

impl Default for Spilled {
    fn default() -> Self {
        Self {
            entries: false,
            old: false,
            next_due_ms: i64::MAX,
            done_ms: i64::MIN,
            cursor: None,
            not_due: Names::default(),
            latest: i64::MIN,
        }
    }
}

impl Spilled {
    /// Whether keys may be away.
    pub(super) fn is_some(&self) -> bool {
        self.entries
    }

    /// Whether no key is away.
    pub(super) fn is_empty(&self) -> bool {
        self.next_due_ms == i64::MAX
    }

    pub(super) fn is_old(&self) -> bool {
        self.old
    }

    pub(super) fn set_old(&mut self) {
        self.old = true;
    }

    pub(super) fn has_no_changes(&self) -> bool {
        self.not_due.is_empty()
    }

    pub(super) fn take_not_due(&mut self) -> Names {
        std::mem::take(&mut self.not_due)
    }

    pub(super) fn latest(&self) -> i64 {
        self.latest
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.not_due.memory_bytes()
    }
}

/// Sessions that were read.
#[derive(Default)]
pub(super) struct Found {
    groups: Vec<u32>,
    spans: Vec<Span>,
    states: Vec<u8>,
    ends: Vec<usize>,
}

impl Found {
    pub(super) fn push(&mut self, group: u32, span: Span, state: &[u8]) {
        self.groups.push(group);
        self.spans.push(span);
        self.states.extend_from_slice(state);
        self.ends.push(self.states.len());
    }

    /// Gives the sessions their groups.
    pub(super) fn set_groups(&mut self, mut of: impl FnMut(u32) -> u32) {
        self.groups.iter_mut().for_each(|group| *group = of(*group));
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.states.len() + self.groups.len() * (size_of::<Span>() + size_of::<usize>() + 4)
    }
}

impl OpenSessions {
    /// Reads what the store has of the keys of groups from `known` on, which are new.
    pub(super) fn fetch_from(&mut self, known: usize) -> Result<(), OperatorError> {
        if !self.spilled.entries || known == self.groups.len() {
            return Ok(());
        }
        let groups: Vec<u32> = (known as u32..self.groups.len() as u32).collect();
        let (mut names, rows) = (Names::default(), KeyRows::new(self.groups.keys(), &self.key_types, &groups)?);
        (0..groups.len()).for_each(|at| rows.name(at, ENTRY, &[], &mut names));
        let order = names.sorted();
        let names: Vec<&[u8]> = order.iter().map(|at| names.get(*at)).collect();
        let (store, mut found) = (Arc::clone(&self.store), Found::default());
        for (at, value) in order.iter().zip(store.multi_get(STATE, &names)?) {
            if let Some(value) = value {
                decode(&value, |span, state| found.push(groups[*at], span, state))?;
            }
        }
        self.take_found(&found)
    }

    /// Makes sessions of what was read.
    pub(super) fn take_found(&mut self, found: &Found) -> Result<(), OperatorError> {
        if found.groups.is_empty() {
            return Ok(());
        }
        let columns = match self.empty_states.is_empty() {
            true => Vec::new(),
            false => {
                let converter = state_converter(&self.aggregates)?;
                let parser = converter.parser();
                let starts = std::iter::once(0).chain(found.ends.iter().copied());
                let states = starts.zip(&found.ends).map(|(from, to)| parser.parse(&found.states[from..*to]));
                converter.convert_rows(states)?
            }
        };
        let piece = self.states.add(columns, found.groups.len());
        self.lists.grow(self.groups.len());
        for (row, (group, span)) in (0_u32..).zip(found.groups.iter().zip(&found.spans)) {
            let slot = self.make(*group, *span);
            let session = &mut self.sessions[slot as usize];
            (session.at, session.touched) = (At { piece, row }, LOADED);
        }
        Ok(())
    }

    /// Brings back keys of which a session ends by `watermark`, up to `most` of them. Whether there are more.
    pub(in crate::window::session) fn fetch_due(&mut self, watermark: i64, most: usize) -> Result<bool, OperatorError> {
        if self.spilled.next_due_ms > watermark || self.spilled.is_empty() {
            return Ok(false);
        }
        let store = Arc::clone(&self.store);
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let (mut key_group, mut from) = match self.spilled.cursor.take() {
            Some((key_group, from)) => (key_group, Some(from)),
            None => (self.key_groups.start, None),
        };
        while key_group < self.key_groups.end && self.spilled.cursor.is_none() {
            let from = from.take().unwrap_or_else(|| self.first_due(key_group).to_vec());
            let to = match watermark.checked_add(1) {
                Some(after) => timed_prefix(key_group, DUE, after).to_vec(),
                None => prefix(key_group, DUE + 1).to_vec(),
            };
            let mut scan = store.scan(STATE, &from[..]..&to[..])?;
            while let Some(entry) = scan.next_entry() {
                let (name, _) = entry?;
                if keys.len() == most {
                    self.spilled.cursor = Some((key_group, name.to_vec()));
                    break;
                }
                keys.push(name[TIMED_PREFIX..].to_vec());
                self.spilled.not_due.push([name, &[], &[]]);
            }
            key_group += 1;
        }
        let columns = columns_of(key_converter(&self.key_types)?.as_ref(), &keys)?;
        let known = self.groups.len();
        let mut groups = Vec::new();
        self.groups.intern(&columns, keys.len(), &mut groups)?;
        self.lists.grow(self.groups.len());
        self.fetch_from(known)?;
        let is_more = self.spilled.cursor.is_some();
        if !is_more {
            self.spilled.done_ms = watermark;
            self.find_next_due()?;
        }
        Ok(is_more)
    }

    /// The first name of a key group that may be due.
    fn first_due(&self, key_group: u16) -> [u8; TIMED_PREFIX] {
        let done_ms = self.spilled.done_ms;
        timed_prefix(key_group, DUE, if done_ms == i64::MIN { done_ms } else { done_ms.saturating_add(1) })
    }

    pub(super) fn find_next_due(&mut self) -> Result<(), OperatorError> {
        self.spilled.next_due_ms = i64::MAX;
        if self.spilled.done_ms == i64::MAX {
            return Ok(());
        }
        for key_group in self.key_groups.start..self.key_groups.end {
            let (from, to) = (self.first_due(key_group), prefix(key_group, DUE + 1));
            let mut scan = self.store.scan(STATE, &from[..]..&to[..])?;
            if let Some(entry) = scan.next_entry() {
                let due = time_of(entry?.0).ok_or_else(|| damaged("a short name of what is due"))?;
                // The end of time stands for nothing being away.
                self.spilled.next_due_ms = self.spilled.next_due_ms.min(due).min(i64::MAX - 1);
            }
        }
        Ok(())
    }

    /// The store has entries of keys that are not in memory.
    pub(super) fn set_away(&mut self) -> Result<(), OperatorError> {
        self.spilled.entries = true;
        self.find_next_due()
    }

    /// The store has entries, all of which are in memory.
    pub(super) fn set_back(&mut self) {
        self.spilled.entries = true;
    }

    /// Lets every session leave memory. Nothing may be left to be folded, and nothing be being written.
    pub(in crate::window::session) fn evict(&mut self) -> Result<(), OperatorError> {
        let store = Arc::clone(&self.store);
        let log = Arc::clone(&self.log);
        let mut log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_all = !self.spilled.entries || self.spilled.old || !log.is_empty();
        if self.spilled.old {
            delete_kinds(&store, STATE, self.key_groups, (0, ENTRY))?;
        }
        let not_due = self.spilled.take_not_due();
        let part = Stored::new(&mut self.next_part);
        let mut changes = self.changes(part);
        let folded = changes.fold()?;
        let leaving = Leaving { is_all, after_ms: self.spilled.done_ms };
        let written = write(&changes, &folded, &store, &not_due, Some(leaving))?;
        log.clear(&store)?;
        self.spilled_bytes += written.bytes;
        self.spilled.next_due_ms = self.spilled.next_due_ms.min(written.next_due_ms).min(i64::MAX - 1);
        self.spilled.latest = self.spilled.latest.max(written.latest);
        (self.spilled.entries, self.spilled.old) = (true, false);
        self.groups = Groups::new(&self.key_types)?;
        (self.sessions, self.states) = (Shared::default(), States::default());
        (self.lists, self.free, self.new) = Default::default();
        (self.places, self.groups_after_reclaim) = (Vec::new(), 0);
        Ok(())
    }
}

/// How sessions leave memory.
pub(super) struct Leaving {
    /// Whether the store has not got the entries that have not changed.
    is_all: bool,
    /// What has been brought back as due: nothing is looked for there any more.
    after_ms: i64,
}

/// What was written of entries.
pub(super) struct Written {
    bytes: u64,
    next_due_ms: i64,
    latest: i64,
}

/// What is written under a name.
enum Put {
    /// The sessions of a group, by their place among those that are written.
    Sessions(std::ops::Range<usize>),
    Due,
    NotDue,
}

/// Writes the entries of keys of which a session has changed; of all that leave memory also when they are due.
pub(super) fn write(
    changes: &Changes,
    folded: &Folded,
    store: &TaskStore,
    not_due: &Names,
    leaving: Option<Leaving>,
) -> Result<Written, StateError> {
    let sessions = &changes.sessions;
    let is_all = leaving.as_ref().is_some_and(|leaving| leaving.is_all);
    let mut dirty = vec![is_all; changes.keys.len()];
    changes.gone.iter().for_each(|(group, _)| dirty[*group as usize] = true);
    let changed = sessions.iter().filter(|session| session.is_open() && session.touched == changes.round);
    changed.for_each(|session| dirty[session.group as usize] = true);
    // The sessions of those keys, by group; and when each key that leaves is due.
    let mut written: Vec<(u32, u32)> = Vec::new();
    let mut due: Vec<i64> = vec![i64::MAX; if leaving.is_some() { changes.keys.len() } else { 0 }];
    let mut latest = i64::MIN;
    for (slot, session) in (0_u32..).zip(sessions.iter()).filter(|(_, session)| session.is_open()) {
        if dirty[session.group as usize] {
            written.push((session.group, slot));
        }
        if let Some(due) = due.get_mut(session.group as usize) {
            *due = (*due).min(session.span().end());
            latest = latest.max(session.last);
        }
    }
    written.sort_unstable();
    let slots: Vec<u32> = written.iter().map(|(_, slot)| *slot).collect();
    let states = changes.states(folded, &slots).map_err(unstorable)?;
    let converter: Option<RowConverter> = match states.is_empty() {
        true => None,
        false => Some(state_converter(&changes.aggregates).map_err(unstorable)?),
    };
    let states = converter.map(|converter| converter.convert_columns(&states)).transpose();
    let states = states.map_err(|error| unstorable(error.into()))?;
    let leaves = |group: usize| due.get(group).is_some_and(|due| *due < i64::MAX);
    let groups: Vec<u32> =
        (0..changes.keys.len()).filter(|group| dirty[*group] || leaves(*group)).map(|group| group as u32).collect();
    let (mut run, mut bytes, mut value) = (store.writer(), 0, Vec::new());
    let mut next_due_ms = i64::MAX;
    for Portion { groups, key_groups, .. } in portions(&changes.keys, &groups) {
        let rows = KeyRows::new(&changes.keys, &changes.key_types, &groups).map_err(unstorable)?;
        let (mut names, mut puts) = (Names::default(), Vec::new());
        for (at, group) in groups.iter().enumerate() {
            if dirty[*group as usize] {
                let from = written.partition_point(|(of, _)| of < group);
                rows.name(at, ENTRY, &[], &mut names);
                puts.push(Put::Sessions(from..from + written[from..].iter().take_while(|(of, _)| of == group).count()));
            }
            if let (Some(leaving), Some(due)) = (&leaving, due.get(*group as usize).filter(|due| **due < i64::MAX)) {
                let due = (*due).max(leaving.after_ms.saturating_add(1));
                next_due_ms = next_due_ms.min(due);
                rows.timed_name(at, DUE, due, &mut names);
                puts.push(Put::Due);
            }
        }
        for name in (0..not_due.len()).map(|at| not_due.get(at)).filter(|name| key_groups.contains(&key_group_of(name)))
        {
            names.push([name, &[], &[]]);
            puts.push(Put::NotDue);
        }
        // What is due again stands for being due no more.
        for same in names.sorted().chunk_by(|one, other| names.get(*one) == names.get(*other)) {
            let name = names.get(same[0]);
            let put = same.iter().map(|at| &puts[*at]).min_by_key(|put| matches!(put, Put::NotDue));
            match put {
                Some(Put::Sessions(range)) if !range.is_empty() => {
                    value.clear();
                    value.push(VERSION);
                    for place in range.clone() {
                        let span = sessions[written[place].1 as usize].span();
                        let state = states.as_ref().map(|states| states.row(place));
                        encode(&span, state.as_ref().map_or(&[][..], |state| state.data()), &mut value);
                    }
                    bytes += value.len() as u64;
                    run.put(STATE, name, &value)?;
                }
                Some(Put::Due) => run.put(STATE, name, [])?,
                _ => run.delete(STATE, name)?,
            }
        }
    }
    run.finish()?;
    Ok(Written { bytes, next_due_ms, latest })
}

/// The columns of keys in Arrow's row format.
pub(super) fn columns_of(converter: Option<&RowConverter>, keys: &[Vec<u8>]) -> Result<Vec<ArrayRef>, OperatorError> {
    let Some(converter) = converter.filter(|_| !keys.is_empty()) else { return Ok(Vec::new()) };
    let parser = converter.parser();
    Ok(converter.convert_rows(keys.iter().map(|key| parser.parse(key)))?)
}

/// Adds a session to an entry.
fn encode(span: &Span, state: &[u8], value: &mut Vec<u8>) {
    value.extend(span.start.to_be_bytes());
    value.extend(span.last.to_be_bytes());
    value.extend(span.gap_ms.to_be_bytes());
    value.extend((state.len() as u32).to_be_bytes());
    value.extend(state);
}

/// The sessions of an entry.
pub(super) fn decode(value: &[u8], mut take: impl FnMut(Span, &[u8])) -> Result<(), OperatorError> {
    let short = || damaged("an entry that is cut short");
    let (version, mut rest) = value.split_first().ok_or_else(short)?;
    if *version != VERSION {
        return Err(damaged("an entry of another version"));
    }
    while !rest.is_empty() {
        let (head, more) = rest.split_first_chunk::<28>().ok_or_else(short)?;
        let long = |at: usize| i64::from_be_bytes(std::array::from_fn(|byte| head[at + byte]));
        let length = u32::from_be_bytes([head[24], head[25], head[26], head[27]]) as usize;
        let (state, more) = more.split_at_checked(length).ok_or_else(short)?;
        take(Span { start: long(0), last: long(8), gap_ms: long(16) }, state);
        rest = more;
    }
    Ok(())
}

pub(super) fn damaged(found: &str) -> OperatorError {
    OperatorError::Damaged { found: found.into(), expected: "open sessions, version 1 to 3" }
}

#[cfg(test)]
mod tests;
