//! Closing windows: what the watermark has passed is merged and emitted.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, TimestampMicrosecondArray, TimestampMillisecondArray};

use super::{
    era::{EraWindows, Plan},
    sliding::Sliding,
};
use crate::{
    group::{GroupKeys, NO_GROUP},
    operator::{Emitted, OperatorError, Progress},
    window::{chunks::Kind, table::Table},
};

/// The number of a result: the same for all rows, or one a row.
pub(super) enum Panes {
    All(i32),
    Each(Vec<i32>),
}

impl EraWindows {
    /// Closes windows that end by the watermark, in order.
    pub(super) fn close_windows(&mut self, out: &mut Emitted) -> Result<Progress, OperatorError> {
        while let Some(end) = self.next_close()
            && end <= self.watermark
        {
            if self.close(end, out)? == Progress::More {
                return Ok(Progress::More);
            }
            self.closed_until = end;
            if out.is_much() {
                return Ok(Progress::More);
            }
        }
        self.closed_until = self.closed_until.max(self.plan.grid.last_window_end_by(self.watermark));
        Ok(Progress::Done)
    }

    /// The end of the first window that is open and not empty.
    fn next_close(&self) -> Option<i64> {
        let grid = &self.plan.grid;
        let from = self.closed_until.saturating_sub(grid.size_ms());
        let open = self.slices.range(from..).map(|(slice, _)| *slice);
        let slice =
            open.into_iter().find(|slice| grid.last_window_end(*slice).is_some_and(|end| end > self.closed_until))?;
        let first = grid.first_window_end(slice)?;
        Some(if first > self.closed_until { first } else { grid.next_window_end(self.closed_until) })
    }

    fn close(&mut self, end: i64, out: &mut Emitted) -> Result<Progress, OperatorError> {
        let start = end.saturating_sub(self.plan.grid.size_ms());
        if self.slices.range(start..end).any(|(_, slice)| slice.is_cold()) {
            self.sliding = None;
            return self.close_cold(start, end, out);
        }
        let (groups, results) = if self.plan.grid.slices_per_window() == 1 {
            self.total_of_slice(start)?
        } else if self.plan.aggregates.all_native() {
            let mut sliding = match self.sliding.take() {
                Some(sliding) => sliding,
                None => Sliding::new(&self.plan.aggregates, start)?,
            };
            let result = sliding.close(start, end, self);
            self.sliding = Some(sliding);
            result?
        } else {
            self.total_of_slices(start, end)?
        };
        let keys = self.groups.keys();
        emit(&self.plan, keys, (start, end), &Panes::All(0), &groups, &results, out)?;
        Ok(Progress::Done)
    }

    /// The result of a window of one slice.
    fn total_of_slice(&mut self, start: i64) -> Result<(Vec<u32>, Vec<ArrayRef>), OperatorError> {
        let known = self.groups.len();
        let Some(slice) = self.slices.get_mut(&start) else { return Ok(Default::default()) };
        // A slice that no correction can touch is used up.
        let last = self.plan.lateness_ms == 0;
        let mut total = match slice.live.take() {
            Some(live) if last => live,
            live => {
                slice.live = live;
                slice.seal(&mut self.scratch.spare);
                Table::new(&self.plan.aggregates, known, &mut self.scratch.spare)?
            }
        };
        for part in slice.in_memory() {
            total.merge(part.state()?, &part.groups, known, &mut self.scratch.locals)?;
        }
        total.evaluate(&mut self.scratch.spare)
    }

    /// The result of a window of several slices, all merged.
    fn total_of_slices(&mut self, start: i64, end: i64) -> Result<(Vec<u32>, Vec<ArrayRef>), OperatorError> {
        let known = self.groups.len();
        let mut total = Table::new(&self.plan.aggregates, known, &mut self.scratch.spare)?;
        for (_, slice) in self.slices.range_mut(start..end) {
            slice.seal(&mut self.scratch.spare);
            for part in slice.in_memory() {
                total.merge(part.state()?, &part.groups, known, &mut self.scratch.locals)?;
            }
        }
        total.evaluate(&mut self.scratch.spare)
    }

    /// Drops the slices that no window needs any more.
    pub(super) fn forget_slices(&mut self) {
        while let Some(entry) = self.slices.first_entry() {
            let end = self.plan.grid.last_window_end(*entry.key()).unwrap_or(i64::MIN);
            if end.saturating_add(self.plan.lateness_ms) > self.watermark {
                break;
            }
            let (start, slice) = entry.remove_entry();
            for stored in slice.parts.into_iter().flat_map(|part| part.stored) {
                self.deletes.push((Kind::Part, start, stored));
            }
            if let Some(merging) = &mut self.merging {
                self.deletes.extend(merging.abandon(start).map(|stored| (Kind::Part, start, stored)));
            }
        }
        // Windows that are still to be closed begin later.
        self.blocks.forget(self.plan.grid.next_window_end(self.closed_until).saturating_sub(self.plan.grid.size_ms()));
        self.corrections.forget(self.watermark.saturating_sub(self.plan.lateness_ms), &mut self.deletes);
    }

    /// Forgets groups that nothing refers to, when there are many of them.
    pub(super) fn reclaim_groups(&mut self) -> Result<(), OperatorError> {
        const FEW: usize = 16 * 1024;
        if self.writing || self.groups.len() < FEW.max(2 * self.groups_after_reclaim) {
            return Ok(());
        }
        self.renumber_groups()
    }

    /// Forgets groups that nothing refers to.
    pub(super) fn renumber_groups(&mut self) -> Result<(), OperatorError> {
        let mut live = vec![false; self.groups.len()];
        for slice in self.slices.values() {
            let groups = slice.live.iter().map(Table::groups).chain(slice.in_memory().map(|part| &part.groups[..]));
            groups.flatten().for_each(|group| live[*group as usize] = true);
        }
        self.corrections.mark(&mut live);
        let kept = live.iter().filter(|live| **live).count();
        self.groups_after_reclaim = kept;
        if kept * 2 > self.groups.len() {
            self.groups_after_reclaim = self.groups.len();
            return Ok(());
        }
        let renumbered = self.groups.retain(&live)?;
        debug_assert_eq!(renumbered.iter().filter(|group| **group != NO_GROUP).count(), kept);
        self.slices.values_mut().for_each(|slice| slice.renumber(&renumbered));
        self.corrections.renumber(&renumbered);
        self.sliding = None;
        self.scratch.spare.clear();
        Ok(())
    }
}

/// Emits the results of a window, in batches.
pub(super) fn emit(
    plan: &Plan,
    keys: &GroupKeys,
    (start, end): (i64, i64),
    panes: &Panes,
    groups: &[u32],
    results: &[ArrayRef],
    out: &mut Emitted,
) -> Result<(), OperatorError> {
    let mut from = 0;
    while from < groups.len() {
        let rows = plan.batch_rows.min(groups.len() - from);
        let mut columns = window_columns(start, end, panes, from, rows);
        columns.extend(keys.gather(&groups[from..from + rows])?);
        columns.extend(results.iter().map(|column| column.slice(from, rows)));
        out.rows.push(RecordBatch::try_new(Arc::clone(&plan.output), columns)?);
        from += rows;
    }
    Ok(())
}

fn window_columns(start: i64, end: i64, panes: &Panes, from: usize, rows: usize) -> Vec<ArrayRef> {
    let micros = |ms: i64| TimestampMicrosecondArray::from_value(ms.saturating_mul(1000), rows).with_timezone("UTC");
    let panes = match panes {
        Panes::All(pane) => Int32Array::from_value(*pane, rows),
        Panes::Each(panes) => Int32Array::from(panes[from..from + rows].to_vec()),
    };
    vec![
        Arc::new(TimestampMillisecondArray::from_value(end.saturating_sub(1), rows).with_timezone("UTC")),
        Arc::new(micros(start)),
        Arc::new(micros(end)),
        Arc::new(panes),
    ]
}
