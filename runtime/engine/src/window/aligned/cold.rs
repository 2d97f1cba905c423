//! Windows whose slices are, in part, only in the store.
//!
//! They are merged one key group after another, so that a hundred-and-twenty-eighth of the window has to fit in memory,
//! with an interner of their own: the keys of the store never enter the task's. Windows that overlap share what they
//! read of their slices ([`super::blocks`]).

use std::collections::BTreeSet;

use arrow::{
    array::{ArrayRef, UInt32Array},
    compute,
};

use super::{
    close::{Panes, emit},
    era::EraWindows,
};
use crate::{
    group::Groups,
    operator::{Emitted, OperatorError, Progress},
    window::{
        chunks::{Kind, by_key_group},
        table::Table,
    },
};

impl EraWindows {
    /// Emits the window from `start` to `end`, key group by key group.
    pub(super) fn close_cold(&mut self, start: i64, end: i64, out: &mut Emitted) -> Result<Progress, OperatorError> {
        let mut in_memory = Vec::new();
        for (_, slice) in self.slices.range_mut(start..end) {
            slice.seal(&mut self.scratch.spare);
            in_memory.extend(slice.in_memory().cloned());
        }
        let cover = self.cover(start, end)?;
        let keys = self.groups.keys();
        let sorted: Vec<_> = in_memory.iter().map(|part| by_key_group(&part.groups, keys)).collect();
        let from = self.closed_key_groups.take().unwrap_or(self.key_groups.start);
        for key_group in from..self.key_groups.end {
            let mut groups = Groups::new(&self.plan.key_types)?;
            let mut total = Table::new(&self.plan.aggregates, 0, &mut Vec::new())?;
            let (mut numbers, mut locals) = (Vec::new(), Vec::new());
            let mut take = |keys: &[ArrayRef], state: &[ArrayRef], rows: usize| {
                groups.intern(keys, rows, &mut numbers)?;
                total.merge(state, &numbers, groups.len(), &mut locals)
            };
            for (part, (order, starts)) in in_memory.iter().zip(&sorted) {
                let at = usize::from(key_group);
                let rows = &order[starts[at] as usize..starts[at + 1] as usize];
                if rows.is_empty() {
                    continue;
                }
                let of: Vec<u32> = rows.iter().map(|row| part.groups[*row as usize]).collect();
                let state = compute::take_arrays(part.state()?, &UInt32Array::from(rows.to_vec()), None)?;
                take(&keys.gather(&of)?, &state, rows.len())?;
            }
            self.read_cover(key_group, &cover, take)?;
            let (present, results) = total.evaluate(&mut Vec::new())?;
            emit(&self.plan, groups.keys(), (start, end), &Panes::All(0), &present, &results, out)?;
            if out.is_much() && key_group + 1 < self.key_groups.end {
                self.closed_key_groups = Some(key_group + 1);
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    /// Reads what is only in the store of the slices from `start` to `end`, of one key group and save the parts that are
    /// `known`: for each chunk its slice, its keys, its states and how many rows it has.
    pub(super) fn read_cold(
        &self,
        key_group: u16,
        (start, end): (i64, i64),
        known: &BTreeSet<u64>,
        mut take: impl FnMut(i64, &[ArrayRef], &[ArrayRef], usize) -> Result<(), OperatorError>,
    ) -> Result<(), OperatorError> {
        let bit = 1_u128 << key_group;
        for (at, slice) in self.slices.range(start..end).filter(|(_, slice)| slice.is_cold()) {
            let cold = slice.parts.iter().filter(|part| part.data.is_none()).flat_map(|part| &part.stored);
            let cold: Vec<u64> = cold
                .filter(|stored| stored.key_groups.get().is_none_or(|key_groups| key_groups & bit != 0))
                .map(|stored| stored.part)
                .filter(|part| !known.contains(part))
                .collect();
            if cold.is_empty() {
                continue;
            }
            let slices = (*at, at.checked_add(1));
            let wanted = |_, part| cold.contains(&part);
            self.plan.layout.scan(&self.store, key_group, Kind::Part, slices, wanted, |slice, _, rows| {
                let (keys, state) = self.plan.layout.split(&rows);
                take(slice, keys, state, rows.num_rows())
            })?;
        }
        Ok(())
    }
}
