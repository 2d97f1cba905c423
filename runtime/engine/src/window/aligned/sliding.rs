//! The running aggregate of hopping windows: a window's result without merging all its slices.
//!
//! Two tables by group, `front` and `back`, together hold the window's slices: the older ones and the newer ones. A new
//! slice is merged into `back`. An old one leaves `front`, which no aggregate needs to be able to subtract for: when
//! `front` was filled, newest slice first, each group's state *before* a slice was merged was set aside, and leaving
//! means putting that back. When `front` has run out, everything in `back` is poured into a new `front`.
//!
//! ```text
//! slices     3   4   5   6 │ 7   8   9
//!            └── front ──┘ │ └─ back ─┘
//!   undo of 3: front as it was with 4, 5, 6
//!   undo of 4: front as it was with 5, 6        …
//! ```
//!
//! So a slice is merged twice and put back once, whatever the window's length, and the memory is two tables and one more
//! copy of the slices in `front`. A window's result is `front` merged with `back`, group by group.
//!
//! Rows that arrive after their slice was taken in lie in parts of it that are not *absorbed*. They are merged into each
//! result separately, and absorbed with the next pouring; when there are many of them, pouring does not wait.

use std::sync::Arc;

use arrow::array::ArrayRef;

use super::era::EraWindows;
use crate::{
    aggregate::{Accumulators, Aggregates, NativeRows},
    operator::OperatorError,
    window::table::{Part, Table},
};

/// The running aggregate over the slices of the last window.
pub(super) struct Sliding {
    front: ByGroup,
    back: ByGroup,
    /// What to put back when slices leave `front`, oldest slice last.
    undo: Vec<Undo>,
    /// The oldest slice in `back`.
    back_from: Option<i64>,
    /// Slices before this one have been absorbed.
    absorbed_to: i64,
}

struct ByGroup {
    accumulators: Accumulators,
    present: Vec<bool>,
}

struct Undo {
    slice: i64,
    part: Arc<Part>,
    before: NativeRows,
    was_present: Vec<bool>,
}

impl ByGroup {
    fn new(aggregates: &Aggregates) -> Result<Self, OperatorError> {
        Ok(Self { accumulators: aggregates.accumulators()?, present: Vec::new() })
    }

    fn grow(&mut self, known: usize) {
        if self.present.len() < known {
            self.present.resize(known, false);
            self.accumulators.grow_native(known);
        }
    }

    fn merge(&mut self, part: &Part) -> Result<(), OperatorError> {
        part.groups.iter().for_each(|group| self.present[*group as usize] = true);
        self.accumulators.merge(part.state()?, &part.groups, self.present.len())
    }

    fn memory_bytes(&self) -> usize {
        self.accumulators.memory_bytes() + self.present.len()
    }
}

impl Sliding {
    /// An aggregate that has absorbed nothing; the first window to be closed starts at `start`.
    pub(super) fn new(aggregates: &Aggregates, start: i64) -> Result<Self, OperatorError> {
        let (front, back) = (ByGroup::new(aggregates)?, ByGroup::new(aggregates)?);
        Ok(Self { front, back, undo: Vec::new(), back_from: None, absorbed_to: start })
    }

    /// The result of the window from `start` to `end`. Windows come in order.
    pub(super) fn close(
        &mut self,
        start: i64,
        end: i64,
        windows: &mut EraWindows,
    ) -> Result<(Vec<u32>, Vec<ArrayRef>), OperatorError> {
        let known = windows.groups.len();
        self.front.grow(known);
        self.back.grow(known);
        self.absorb(start, end, windows)?;
        self.evict(start);
        let left_in_back = self.back_from.is_some_and(|slice| slice < start);
        let (mut taken, mut not_taken) = (0, 0);
        for (_, slice) in windows.slices.range(start..end) {
            taken += slice.parts.iter().filter(|part| part.absorbed).map(rows_of).sum::<usize>();
            not_taken += slice.parts.iter().filter(|part| !part.absorbed).map(rows_of).sum::<usize>();
            not_taken += slice.live.as_ref().map_or(0, Table::len);
        }
        if left_in_back || not_taken * 4 > taken {
            self.pour(start, end, windows)?;
            not_taken = 0;
        }
        let result = self.result()?;
        if not_taken == 0 {
            return Ok((result.0, result.1.evaluate()?));
        }
        let mut total = Table::of(result.0, result.1, known);
        for (_, slice) in windows.slices.range_mut(start..end) {
            slice.seal(&mut windows.scratch.spare);
            for part in slice.parts.iter().filter(|part| !part.absorbed).filter_map(|part| part.data.as_ref()) {
                total.merge(part.state()?, &part.groups, known, &mut windows.scratch.locals)?;
            }
        }
        total.evaluate(&mut windows.scratch.spare)
    }

    /// Merges the slices from `start` to `end` that have not been absorbed into `back`.
    fn absorb(&mut self, start: i64, end: i64, windows: &mut EraWindows) -> Result<(), OperatorError> {
        let from = self.absorbed_to.max(start);
        if from >= end {
            return Ok(());
        }
        for (at, slice) in windows.slices.range_mut(from..end) {
            self.back_from = self.back_from.or(Some(*at));
            slice.seal(&mut windows.scratch.spare);
            for part in &mut slice.parts {
                part.absorbed = true;
                if let Some(data) = &part.data {
                    self.back.merge(data)?;
                }
            }
        }
        self.absorbed_to = end;
        Ok(())
    }

    /// Lets the slices before `start` leave `front`.
    fn evict(&mut self, start: i64) {
        while let Some(undo) = self.undo.pop_if(|undo| undo.slice < start) {
            self.front.accumulators.set_native_rows(&undo.part.groups, &undo.before);
            for (group, was_present) in undo.part.groups.iter().zip(&undo.was_present) {
                self.front.present[*group as usize] = *was_present;
            }
        }
    }

    /// Fills `front` with everything from `start` to `end` and empties `back`.
    fn pour(&mut self, start: i64, end: i64, windows: &mut EraWindows) -> Result<(), OperatorError> {
        let known = windows.groups.len();
        self.front = ByGroup::new(&windows.plan.aggregates)?;
        self.back = ByGroup::new(&windows.plan.aggregates)?;
        self.front.grow(known);
        self.back.grow(known);
        self.undo.clear();
        for (start, slice) in windows.slices.range_mut(start..end).rev() {
            slice.seal(&mut windows.scratch.spare);
            for part in &mut slice.parts {
                part.absorbed = true;
                let Some(data) = &part.data else { continue };
                self.undo.push(Undo {
                    slice: *start,
                    before: self.front.accumulators.native_rows(&data.groups),
                    was_present: data.groups.iter().map(|group| self.front.present[*group as usize]).collect(),
                    part: Arc::clone(data),
                });
                self.front.merge(data)?;
            }
        }
        self.back_from = None;
        self.absorbed_to = end;
        Ok(())
    }

    /// The groups of the window and their states.
    fn result(&self) -> Result<(Vec<u32>, Accumulators), OperatorError> {
        let present = self.front.present.iter().zip(&self.back.present);
        let groups: Vec<u32> = present
            .enumerate()
            .filter_map(|(group, (front, back))| (*front || *back).then_some(group as u32))
            .collect();
        let front = self.front.accumulators.native_rows(&groups);
        let mut total = self.front.accumulators.of_native_rows(front);
        let back = self.back.accumulators.of_native_rows(self.back.accumulators.native_rows(&groups)).into_state()?;
        let locals: Vec<u32> = (0..groups.len() as u32).collect();
        total.merge(&back, &locals, groups.len())?;
        Ok((groups, total))
    }

    /// Bytes held beside the slices themselves.
    pub(super) fn memory_bytes(&self) -> usize {
        let undo = self.undo.iter().map(|undo| undo.before.memory_bytes() + undo.was_present.len());
        self.front.memory_bytes() + self.back.memory_bytes() + undo.sum::<usize>()
    }
}

fn rows_of(part: &crate::window::slice::SlicePart) -> usize {
    part.data.as_ref().map_or(0, |data| data.groups.len())
}
