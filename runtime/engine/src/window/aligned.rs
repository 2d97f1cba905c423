//! Tumbling and hopping windows.
//!
//! Rows are aggregated by slice ([`Grid`]), slices into windows when the watermark passes a window's end. The slices lie
//! in an ordered map: a batch of rows touches very few of them, so finding one costs nothing a row, and an event time in
//! year 9999 or year 1 takes the room of one slice, however far away it is.
//!
//! A hopping window's result does not merge all its slices anew each time ([`sliding`]). A window whose slices do not
//! fit the memory budget is merged from the store, key group by key group ([`cold`]). Rows within the allowed lateness
//! correct results ([`late`]).

mod checkpoint;
mod close;
mod cold;
mod late;
mod sliding;
mod spill;

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, UInt32Array},
    compute,
    datatypes::{DataType, SchemaRef},
};
use millrace_plan::{LateRows, WindowAggregate};
use millrace_state::TaskStore;
use millrace_stream::{Epoch, EventTime, KeyGroupRange};

use self::{late::Corrections, sliding::Sliding};
use super::{
    chunks::{Kind, Layout, Stored},
    grid::Grid,
    slice::Slice,
    table::Table,
};
use crate::{
    aggregate::{Aggregates, longs},
    group::Groups,
    operator::{Emitted, Frozen, KeyedOperator, OperatorContext, OperatorError, OperatorStats},
};

/// The name of the state in the task's store.
pub(super) const STATE: &str = "window";

/// A windowed GROUP BY over aligned windows.
pub struct AlignedWindows {
    plan: Plan,
    store: Arc<TaskStore>,
    key_groups: KeyGroupRange,
    memory_budget_bytes: usize,
    groups: Groups,
    slices: BTreeMap<i64, Slice>,
    /// Event time so far.
    watermark: i64,
    /// Every window that ends by then has been closed.
    closed_until: i64,
    sliding: Option<Sliding>,
    corrections: Corrections,
    /// What the next checkpoint writes.
    next_part: u64,
    deletes: Vec<(Kind, i64, Stored)>,
    /// Whether a checkpoint is being written: frozen groups must keep their numbers, frozen chunks are not there yet, and
    /// what came after the barrier must not be.
    writing: bool,
    merging: Option<checkpoint::Merging>,
    /// What has to be emitted before anything else.
    pending: Vec<RecordBatch>,
    batches_since_check: usize,
    groups_after_reclaim: usize,
    stats: OperatorStats,
    scratch: Scratch,
}

/// What the plan says, taken apart.
struct Plan {
    grid: Grid,
    keys: Vec<usize>,
    key_types: Vec<DataType>,
    aggregates: Aggregates,
    columns_read: Vec<usize>,
    output: SchemaRef,
    lateness_ms: i64,
    late_rows: LateRows,
    late: Vec<usize>,
    layout: Layout,
    batch_rows: usize,
    def: millrace_plan::WindowDef,
}

/// Memory that is used again and again.
#[derive(Default)]
struct Scratch {
    groups: Vec<u32>,
    locals: Vec<u32>,
    spare: Vec<Vec<u32>>,
}

/// For each of this many slices, one more batch is taken before memory is looked at again.
const SLICES_PER_UNCHECKED_BATCH: usize = 256;

impl AlignedWindows {
    /// The operator of `plan` over windows of `grid`, with the state that the context restores.
    ///
    /// # Errors
    /// Fails if the plan's aggregates or keys cannot be computed, or stored state cannot be read.
    pub fn new(plan: &WindowAggregate, grid: Grid, cx: OperatorContext) -> Result<Self, OperatorError> {
        let mut windows = Self::empty(plan, grid, &cx, cx.key_groups)?;
        windows.restore(plan, grid, &cx)?;
        Ok(windows)
    }

    fn empty(
        plan: &WindowAggregate,
        grid: Grid,
        cx: &OperatorContext,
        key_groups: KeyGroupRange,
    ) -> Result<Self, OperatorError> {
        let key_types: Vec<DataType> = plan.keys.iter().map(|key| plan.input.field(*key).data_type().clone()).collect();
        let aggregates = Aggregates::new(&plan.aggregates, &plan.input)?;
        Ok(Self {
            store: Arc::clone(&cx.store),
            key_groups,
            memory_budget_bytes: cx.memory_budget_bytes,
            groups: Groups::new(&key_types)?,
            slices: BTreeMap::new(),
            watermark: i64::MIN,
            closed_until: i64::MIN,
            sliding: None,
            corrections: Corrections::default(),
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
                grid,
                keys: plan.keys.clone(),
                layout: Layout::new(STATE, &key_types, aggregates.state_fields()),
                key_types,
                columns_read: aggregates.columns_read(),
                aggregates,
                output: Arc::clone(&plan.output),
                lateness_ms: plan.def.allowed_lateness_ms.max(0),
                late_rows: plan.def.late_rows,
                late: plan.late.clone(),
                batch_rows: cx.batch_rows.max(1),
                def: plan.def.clone(),
            },
        })
    }

    /// Whether no window that holds the slice takes rows any more.
    fn is_over(&self, slice: i64) -> bool {
        match self.plan.grid.last_window_end(slice) {
            Some(end) => end.saturating_add(self.plan.lateness_ms) <= self.watermark,
            None => false,
        }
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

    /// Parts rows that fall in several slices, and those that are late.
    fn part_rows(&mut self, batch: &RecordBatch, times: &[i64], out: &mut Emitted) -> Result<(), OperatorError> {
        let mut runs: Vec<(i64, Vec<u32>)> = Vec::new();
        let mut by_slice: BTreeMap<i64, usize> = BTreeMap::new();
        let (mut at, mut from, mut to) = (usize::MAX, 0, 0);
        for (row, time) in times.iter().enumerate() {
            if at == usize::MAX || *time < from || *time >= to {
                from = self.plan.grid.slice_of(*time);
                to = self.plan.grid.slice_end(from);
                at = *by_slice.entry(from).or_insert_with(|| {
                    runs.push((from, Vec::new()));
                    runs.len() - 1
                });
            }
            runs[at].1.push(row as u32);
        }
        let mut late: Vec<u32> = Vec::new();
        for slice in by_slice.keys() {
            let rows = std::mem::take(&mut runs[by_slice[slice]].1);
            if self.is_over(*slice) {
                late.extend(rows);
                continue;
            }
            let taken = self.pick(batch, rows)?;
            self.take_rows(*slice, &taken)?;
        }
        if !late.is_empty() {
            self.stats.late_rows += late.len() as u64;
            if self.plan.late_rows == LateRows::SideOutput && !self.plan.late.is_empty() {
                late.sort_unstable();
                let rows = batch.project(&self.plan.late)?;
                out.late.push(compute::take_record_batch(&rows, &UInt32Array::from(late))?);
            }
        }
        Ok(())
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

    fn start(&mut self, out: &mut Emitted) {
        out.rows.append(&mut self.pending);
    }
}

impl KeyedOperator for AlignedWindows {
    fn process(&mut self, batch: RecordBatch, out: &mut Emitted) -> Result<(), OperatorError> {
        self.start(out);
        let event_time = Arc::clone(batch.column(0));
        let times = longs(&event_time).unwrap_or_default();
        let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else { return Ok(()) };
        let slice = self.plan.grid.slice_of(*first);
        if slice == self.plan.grid.slice_of(*last) && !self.is_over(slice) {
            self.take_rows(slice, &batch)?;
        } else {
            self.part_rows(&batch, times, out)?;
        }
        self.batches_since_check += 1;
        if self.batches_since_check > self.slices.len() / SLICES_PER_UNCHECKED_BATCH {
            self.batches_since_check = 0;
            self.mind_memory()?;
        }
        Ok(())
    }

    fn advance(&mut self, watermark: EventTime, out: &mut Emitted) -> Result<(), OperatorError> {
        self.start(out);
        if watermark.0 <= self.watermark {
            return Ok(());
        }
        self.correct(out)?;
        self.watermark = watermark.0;
        self.close_windows(out)?;
        self.forget_slices();
        self.reclaim_groups()
    }

    fn freeze(&mut self, epoch: Epoch, out: &mut Emitted) -> Result<Frozen, OperatorError> {
        self.start(out);
        self.correct(out)?;
        self.freeze_changes(epoch)
    }

    fn thawed(&mut self) -> Result<(), OperatorError> {
        self.thaw()
    }

    fn stats(&self) -> OperatorStats {
        let entries: usize = self.slices.values().map(Slice::entries).sum();
        OperatorStats { entries: entries as u64, memory_bytes: self.memory_bytes() as u64, ..self.stats }
    }
}
