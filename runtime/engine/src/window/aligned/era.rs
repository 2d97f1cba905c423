//! The windows of one definition: their slices, and what has become of them.
//!
//! The slices lie in an ordered map: a batch of rows touches very few of them, so finding one costs nothing a row, and an
//! event time in year 9999 or year 1 takes the room of one slice, however far away it is.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, UInt32Array},
    compute,
    datatypes::{DataType, SchemaRef},
};
use millrace_plan::{WindowAggregate, WindowKind};
use millrace_state::TaskStore;
use millrace_stream::KeyGroupRange;

use super::{
    STATE,
    blocks::{self, Blocks},
    checkpoint::Merging,
    late::Corrections,
    sliding::Sliding,
};
use crate::{
    aggregate::Aggregates,
    group::Groups,
    operator::{Emitted, OperatorContext, OperatorError, OperatorStats, Progress},
    window::{
        chunks::{Kind, Layout, Stored},
        eras::Era,
        grid::Grid,
        slice::Slice,
        table::Table,
    },
};

/// The windows of an era.
pub(super) struct EraWindows {
    pub(super) plan: Plan,
    era: Era,
    pub(super) store: Arc<TaskStore>,
    pub(super) key_groups: KeyGroupRange,
    pub(super) memory_budget_bytes: usize,
    pub(super) groups: Groups,
    pub(super) slices: BTreeMap<i64, Slice>,
    /// Event time so far.
    pub(super) watermark: i64,
    /// Every window that ends by then has been closed.
    pub(super) closed_until: i64,
    /// The first key group of the next window that has not been emitted, when others of it have.
    pub(super) closed_key_groups: Option<u16>,
    /// Whether not all windows that the watermark has passed have been closed.
    is_closing: bool,
    pub(super) sliding: Option<Sliding>,
    pub(super) corrections: Corrections,
    pub(super) blocks: Blocks,
    /// What the next checkpoint writes.
    pub(super) next_part: u64,
    pub(super) deletes: Vec<(Kind, i64, Stored)>,
    /// Whether a checkpoint is being written: frozen groups must keep their numbers, frozen chunks are not there yet, and
    /// what came after the barrier must not be.
    pub(super) writing: bool,
    pub(super) merging: Option<Merging>,
    /// What has to be emitted before anything else.
    pub(super) pending: Vec<RecordBatch>,
    batches_since_check: usize,
    pub(super) groups_after_reclaim: usize,
    pub(super) stats: OperatorStats,
    pub(super) scratch: Scratch,
}

/// What the plan says, taken apart.
pub(super) struct Plan {
    pub(super) grid: Grid,
    pub(super) keys: Vec<usize>,
    pub(super) key_types: Vec<DataType>,
    pub(super) aggregates: Aggregates,
    pub(super) columns_read: Vec<usize>,
    pub(super) output: SchemaRef,
    pub(super) lateness_ms: i64,
    pub(super) layout: Layout,
    pub(super) batch_rows: usize,
}

/// Memory that is used again and again.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) groups: Vec<u32>,
    pub(super) locals: Vec<u32>,
    pub(super) spare: Vec<Vec<u32>>,
}

/// What has become of a row, from worst to best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// It falls in no window.
    Outside,
    /// Every window that it falls in is closed for good.
    Late,
    /// A window has it.
    Taken,
}

/// For each of this many slices, one more batch is taken before memory is looked at again.
const SLICES_PER_UNCHECKED_BATCH: usize = 256;

impl EraWindows {
    /// Windows without rows, of the key groups in `key_groups`. The next era begins at `until`.
    pub(super) fn empty(
        plan: &WindowAggregate,
        era: &Era,
        until: i64,
        memory_budget_bytes: usize,
        cx: &OperatorContext,
        key_groups: KeyGroupRange,
    ) -> Result<Self, OperatorError> {
        let grid = match era.window.kind {
            WindowKind::Tumbling { size_ms, offset_ms } => Grid::new(size_ms, size_ms, offset_ms),
            WindowKind::Hopping { size_ms, slide_ms, offset_ms } => Grid::new(size_ms, slide_ms, offset_ms),
            WindowKind::Rolling { .. } | WindowKind::Session { .. } => {
                return Err(OperatorError::Damaged {
                    found: format!("windows {:?}", era.window.kind),
                    expected: "tumbling or hopping windows",
                });
            }
        };
        let key_types: Vec<DataType> = plan.keys.iter().map(|key| plan.input.field(*key).data_type().clone()).collect();
        let aggregates = Aggregates::new(&plan.aggregates, &plan.input)?;
        Ok(Self {
            store: Arc::clone(&cx.store),
            key_groups,
            memory_budget_bytes,
            groups: Groups::new(&key_types)?,
            slices: BTreeMap::new(),
            watermark: i64::MIN,
            closed_until: i64::MIN,
            closed_key_groups: None,
            is_closing: false,
            sliding: None,
            corrections: Corrections::default(),
            blocks: Blocks::new(Layout::new(blocks::STATE, &key_types, aggregates.state_fields()).of_era(era.number)),
            next_part: 1,
            deletes: Vec::new(),
            writing: false,
            merging: None,
            pending: Vec::new(),
            batches_since_check: 0,
            groups_after_reclaim: 0,
            stats: OperatorStats::default(),
            scratch: Scratch::default(),
            plan: Plan {
                grid: grid.between(era.begins_ms(), until),
                keys: plan.keys.clone(),
                layout: Layout::new(STATE, &key_types, aggregates.state_fields()).of_era(era.number),
                key_types,
                columns_read: aggregates.columns_read(),
                aggregates,
                output: Arc::clone(&plan.output),
                lateness_ms: era.window.allowed_lateness_ms.max(0),
                batch_rows: cx.batch_rows.max(1),
            },
            era: era.clone(),
        })
    }

    pub(super) fn era(&self) -> Era {
        self.era.clone()
    }

    pub(super) fn begins_ms(&self) -> i64 {
        self.era.begins_ms()
    }

    pub(super) fn next_part(&self) -> u64 {
        self.next_part
    }

    /// Whether a row of this time can fall in one of its windows.
    pub(super) fn covers(&self, time: i64) -> bool {
        let (from, until) = self.plan.grid.span();
        from <= time && (time < until || until == i64::MAX)
    }

    /// Whether its last window is closed for good.
    pub(super) fn is_over(&self) -> bool {
        let (_, until) = self.plan.grid.span();
        until < i64::MAX && until.saturating_add(self.plan.lateness_ms) <= self.watermark
    }

    /// The time before which every row lies that its slices hold.
    pub(super) fn end_of_slices(&self) -> Option<i64> {
        self.slices.last_key_value().map(|(slice, _)| self.plan.grid.slice_end(*slice))
    }

    /// The end of the last window that has rows.
    pub(super) fn last_end(&self) -> Option<i64> {
        self.slices.keys().rev().find_map(|slice| self.plan.grid.last_window_end(*slice))
    }

    /// How many states of groups are in memory.
    pub(super) fn entries(&self) -> usize {
        self.slices.values().map(Slice::entries).sum()
    }

    /// Whether no window that holds the slice takes rows any more.
    fn is_over_for(&self, slice: i64) -> bool {
        self.plan.grid.last_window_end(slice).is_some_and(|end| self.is_closed_for_good(end))
    }

    /// Whether the window that ends then takes no rows any more.
    pub(super) fn is_closed_for_good(&self, end: i64) -> bool {
        end.saturating_add(self.plan.lateness_ms) <= self.watermark || end <= self.era.closed_ms()
    }

    /// Takes rows that all fall in one slice, not over.
    fn take_rows(&mut self, slice: i64, rows: &RecordBatch) -> Result<(), OperatorError> {
        let Some(first_end) = self.plan.grid.first_window_end(slice) else { return Ok(()) };
        let keys: Vec<ArrayRef> = self.plan.keys.iter().map(|key| Arc::clone(rows.column(*key))).collect();
        let mut groups = std::mem::take(&mut self.scratch.groups);
        self.groups.intern(&keys, rows.num_rows(), &mut groups)?;
        let known = self.groups.len();
        let into = self.slices.entry(slice).or_default();
        let live = match &mut into.live {
            Some(live) => live,
            none => none.insert(Table::new(&self.plan.aggregates, known, &mut self.scratch.spare)?),
        };
        live.update(rows, &groups, known, &mut self.scratch.locals)?;
        if self.plan.lateness_ms > 0 && first_end <= self.closed_until {
            self.stats.corrections += rows.num_rows() as u64;
            self.corrections.touch(slice, &groups);
        }
        self.scratch.groups = groups;
        Ok(())
    }

    /// Takes rows, none of which is before the era; their times span `first` to `last`. Gives those that are late.
    pub(super) fn process(
        &mut self,
        batch: &RecordBatch,
        times: &[i64],
        (first, last): (i64, i64),
    ) -> Result<Vec<u32>, OperatorError> {
        let mut late = Vec::new();
        let slice = self.plan.grid.slice_of(first);
        if slice == self.plan.grid.slice_of(last) && !self.is_over_for(slice) {
            self.take_rows(slice, batch)?;
            self.mind_memory_sometimes()?;
        } else {
            self.process_parted(batch, times, 0..times.len() as u32, |rows, fate| {
                if fate == Fate::Late {
                    late.extend_from_slice(rows);
                }
            })?;
        }
        Ok(late)
    }

    /// Takes some of the rows, which fall in several slices, and tells what has become of them.
    pub(super) fn process_parted(
        &mut self,
        batch: &RecordBatch,
        times: &[i64],
        rows: impl Iterator<Item = u32>,
        mut tell: impl FnMut(&[u32], Fate),
    ) -> Result<(), OperatorError> {
        let mut runs: Vec<(i64, Vec<u32>)> = Vec::new();
        let mut by_slice: BTreeMap<i64, usize> = BTreeMap::new();
        let (mut at, mut from, mut to) = (usize::MAX, 0, 0);
        for row in rows {
            let time = times[row as usize];
            if at == usize::MAX || time < from || time >= to {
                from = self.plan.grid.slice_of(time);
                to = self.plan.grid.slice_end(from);
                at = *by_slice.entry(from).or_insert_with(|| {
                    runs.push((from, Vec::new()));
                    runs.len() - 1
                });
            }
            runs[at].1.push(row);
        }
        for (slice, run) in &by_slice {
            let rows = std::mem::take(&mut runs[*run].1);
            if self.plan.grid.last_window_end(*slice).is_none() {
                continue;
            }
            let over = self.is_over_for(*slice);
            tell(&rows, if over { Fate::Late } else { Fate::Taken });
            if !over {
                let taken = self.pick(batch, rows)?;
                self.take_rows(*slice, &taken)?;
            }
        }
        self.mind_memory_sometimes()
    }

    fn mind_memory_sometimes(&mut self) -> Result<(), OperatorError> {
        self.batches_since_check += 1;
        if self.batches_since_check > self.slices.len() / SLICES_PER_UNCHECKED_BATCH {
            self.batches_since_check = 0;
            self.mind_memory()?;
        }
        Ok(())
    }

    /// Event time has come to `watermark`, further than before, or there is more to do there.
    pub(super) fn advance(&mut self, watermark: i64, out: &mut Emitted) -> Result<Progress, OperatorError> {
        if !self.is_closing {
            self.correct(out)?;
        }
        self.watermark = watermark;
        let progress = self.close_windows(out)?;
        self.is_closing = progress == Progress::More;
        if progress == Progress::Done {
            self.forget_slices();
            self.reclaim_groups()?;
        }
        Ok(progress)
    }

    /// The given rows, ascending, in all columns that are read; the others keep their place and hold nothing sensible.
    fn pick(&self, batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch, OperatorError> {
        let (first, count) = (rows[0] as usize, rows.len());
        if rows[count - 1] as usize - first + 1 == count {
            return Ok(batch.slice(first, count));
        }
        let indices = UInt32Array::from(rows);
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (at, column) in batch.columns().iter().enumerate() {
            let read = self.plan.keys.contains(&at) || self.plan.columns_read.contains(&at);
            columns.push(if read { compute::take(column, &indices, None)? } else { column.slice(0, count) });
        }
        Ok(RecordBatch::try_new(batch.schema(), columns)?)
    }
}
