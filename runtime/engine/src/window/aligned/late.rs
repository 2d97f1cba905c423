//! Corrections: rows within the allowed lateness change results that have been emitted.
//!
//! Such rows go into their slices like any others, and the groups that they touch are remembered. Before the watermark
//! next moves, and before a barrier, each closed window that still takes rows and holds a touched slice emits new results
//! for those groups, once, however many rows changed them. A result's number (`window_pane`) counts the corrections of
//! its window and key from 1; the numbers are part of the state, so that after a restart they go on where the last
//! decided epoch left them.
//!
//! How many corrections rows are gathered into depends on where watermarks and barriers fall between them. A replay may
//! give them in other portions, so intermediate corrections, and the last one's number, may differ from those that were
//! never decided; the last correction's values do not.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray, Int32Array, UInt32Array},
    compute,
    datatypes::Int32Type,
};

use super::{
    close::{Panes, emit},
    era::EraWindows,
};
use crate::{
    group::{GroupKeys, Groups, NO_GROUP},
    operator::{Emitted, OperatorError},
    window::{
        chunks::{Content, Kind, PartWrite, Stored},
        table::{Part, Table},
    },
};

/// What has to be corrected, and how often results have been.
#[derive(Default)]
pub(super) struct Corrections {
    /// The groups whose results have changed, by slice.
    touched: BTreeMap<i64, Vec<u32>>,
    /// How often each group's result has been corrected, by the window's end.
    panes: BTreeMap<i64, WindowPanes>,
}

#[derive(Default)]
struct WindowPanes {
    of: HashMap<u32, i32>,
    changed: bool,
    stored: Vec<Stored>,
}

impl Corrections {
    pub(super) fn touch(&mut self, slice: i64, groups: &[u32]) {
        self.touched.entry(slice).or_default().extend_from_slice(groups);
    }

    /// The number of the next correction of each group.
    fn next(&mut self, end: i64, groups: &[u32]) -> Vec<i32> {
        let panes = self.panes.entry(end).or_default();
        panes.changed = true;
        let next = groups.iter().map(|group| {
            let pane = panes.of.entry(*group).or_default();
            *pane += 1;
            *pane
        });
        next.collect()
    }

    /// Takes in numbers that were stored.
    pub(super) fn restore(&mut self, end: i64, groups: &[u32], panes: &ArrayRef, stored: Stored) {
        let window = self.panes.entry(end).or_default();
        let panes = panes.as_primitive::<Int32Type>().values();
        window.of.extend(groups.iter().copied().zip(panes.iter().copied()));
        window.stored.push(stored);
    }

    /// The numbers that have changed since they were last asked for, as parts to be written; those that they replace go
    /// to `deletes`.
    pub(super) fn changes(&mut self, next_part: &mut u64, deletes: &mut Vec<(Kind, i64, Stored)>) -> Vec<PartWrite> {
        let changed = self.panes.iter_mut().filter(|(_, panes)| panes.changed);
        changed
            .map(|(end, panes)| {
                panes.changed = false;
                deletes.extend(panes.stored.drain(..).map(|stored| (Kind::Panes, *end, stored)));
                let mut numbers: Vec<(u32, i32)> = panes.of.iter().map(|(group, pane)| (*group, *pane)).collect();
                numbers.sort_unstable();
                let (groups, numbers): (Vec<u32>, Vec<i32>) = numbers.into_iter().unzip();
                let part = Arc::new(Part::new(groups, vec![Arc::new(Int32Array::from(numbers)) as ArrayRef]));
                let stored = Stored::new(next_part);
                panes.stored.push(stored.clone());
                PartWrite { kind: Kind::Panes, slice: *end, stored, content: Content::States(part) }
            })
            .collect()
    }

    /// Forgets windows that end by `until`.
    pub(super) fn forget(&mut self, until: i64, deletes: &mut Vec<(Kind, i64, Stored)>) {
        while let Some(entry) = self.panes.first_entry()
            && *entry.key() <= until
        {
            let (end, panes) = entry.remove_entry();
            deletes.extend(panes.stored.into_iter().map(|stored| (Kind::Panes, end, stored)));
        }
    }

    /// Marks the groups that are referred to.
    pub(super) fn mark(&self, live: &mut [bool]) {
        self.touched.values().flatten().for_each(|group| live[*group as usize] = true);
        self.panes.values().flat_map(|panes| panes.of.keys()).for_each(|group| live[*group as usize] = true);
    }

    /// Gives the groups their new numbers.
    pub(super) fn renumber(&mut self, renumbered: &[u32]) {
        self.touched.values_mut().flatten().for_each(|group| *group = renumbered[*group as usize]);
        for panes in self.panes.values_mut() {
            panes.of = panes.of.drain().map(|(group, pane)| (renumbered[group as usize], pane)).collect();
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let panes: usize = self.panes.values().map(|panes| panes.of.capacity() * 12).sum();
        panes + self.touched.values().map(|groups| groups.capacity() * 4).sum::<usize>()
    }
}

impl EraWindows {
    /// Emits the corrections that are due.
    pub(super) fn correct(&mut self, out: &mut Emitted) -> Result<(), OperatorError> {
        if self.corrections.touched.is_empty() {
            return Ok(());
        }
        let touched = std::mem::take(&mut self.corrections.touched);
        let grid = self.plan.grid;
        let mut windows: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (slice, groups) in &touched {
            let (Some(first), Some(last)) = (grid.first_window_end(*slice), grid.last_window_end(*slice)) else {
                continue;
            };
            let mut end = first;
            while end <= last.min(self.closed_until) {
                if !self.is_closed_for_good(end) {
                    windows.entry(end).or_default().extend_from_slice(groups);
                }
                end = end.saturating_add(grid.slide_ms());
            }
        }
        let Some((first, last)) =
            windows.first_key_value().map(|(end, _)| *end).zip(windows.last_key_value().map(|(end, _)| *end))
        else {
            return Ok(());
        };
        // What the touched groups have in each slice, found once for all windows.
        let mut all: Vec<u32> = windows.values().flatten().copied().collect();
        all.sort_unstable();
        all.dedup();
        let found = self.states_of(&all, first.saturating_sub(grid.size_ms()), last)?;
        let known = self.groups.len();
        for (end, mut groups) in windows {
            groups.sort_unstable();
            groups.dedup();
            let mut wanted = vec![false; known];
            groups.iter().for_each(|group| wanted[*group as usize] = true);
            let start = end.saturating_sub(grid.size_ms());
            let mut total = Table::new(&self.plan.aggregates, known, &mut self.scratch.spare)?;
            for (_, part) in found.iter().filter(|(slice, _)| (start..end).contains(slice)) {
                let part = only(part, |group| wanted[group as usize])?;
                total.merge(part.state()?, &part.groups, known, &mut self.scratch.locals)?;
            }
            let (groups, results) = total.evaluate(&mut self.scratch.spare)?;
            let panes = Panes::Each(self.corrections.next(end, &groups));
            emit(&self.plan, self.groups.keys(), (start, end), &panes, &groups, &results, out)?;
        }
        Ok(())
    }

    /// The states of `groups` in the slices from `start` to `end`.
    fn states_of(&mut self, groups: &[u32], start: i64, end: i64) -> Result<Vec<(i64, Part)>, OperatorError> {
        let mut wanted = vec![false; self.groups.len()];
        groups.iter().for_each(|group| wanted[*group as usize] = true);
        let mut found = Vec::new();
        let mut cold = false;
        for (at, slice) in self.slices.range_mut(start..end) {
            slice.seal(&mut self.scratch.spare);
            cold |= slice.is_cold();
            for part in slice.in_memory() {
                let part = only(part, |group| wanted[group as usize])?;
                if !part.groups.is_empty() {
                    found.push((*at, part));
                }
            }
        }
        if cold {
            self.cold_states_of(groups, start, end, &mut found)?;
        }
        Ok(found)
    }

    /// The same from what is only in the store: the chunks of the groups' key groups are read and searched.
    fn cold_states_of(
        &self,
        groups: &[u32],
        start: i64,
        end: i64,
        found: &mut Vec<(i64, Part)>,
    ) -> Result<(), OperatorError> {
        let keys: &GroupKeys = self.groups.keys();
        let mut by_key_group: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
        for group in groups {
            by_key_group.entry(keys.key_group(*group).0).or_default().push(*group);
        }
        for (key_group, groups) in by_key_group {
            let mut sought = Groups::new(&self.plan.key_types)?;
            let mut numbers = Vec::new();
            sought.intern(&keys.gather(&groups)?, groups.len(), &mut numbers)?;
            self.read_cold(key_group, (start, end), &BTreeSet::new(), |slice, chunk_keys, state, rows| {
                sought.intern(chunk_keys, rows, &mut numbers)?;
                let of: Vec<u32> =
                    numbers.iter().map(|number| groups.get(*number as usize).copied().unwrap_or(NO_GROUP)).collect();
                let part = only(&Part::new(of, state.to_vec()), |group| group != NO_GROUP)?;
                if !part.groups.is_empty() {
                    found.push((slice, part));
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The rows of a part whose group is wanted.
fn only(part: &Part, wanted: impl Fn(u32) -> bool) -> Result<Part, OperatorError> {
    let rows: Vec<u32> = (0..part.groups.len() as u32).filter(|row| wanted(part.groups[*row as usize])).collect();
    let groups = rows.iter().map(|row| part.groups[*row as usize]).collect();
    Ok(Part::new(groups, compute::take_arrays(part.state()?, &UInt32Array::from(rows), None)?))
}
