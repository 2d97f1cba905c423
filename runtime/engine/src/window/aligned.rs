//! Tumbling and hopping windows.
//!
//! Rows are aggregated by slice ([`Grid`](super::grid::Grid)), slices into windows when the watermark passes a window's
//! end ([`era`]). A hopping window's result does not merge all its slices anew each time ([`sliding`]). A window whose
//! slices do not fit the memory budget is merged from the store, key group by key group ([`cold`]). Rows within the
//! allowed lateness correct results ([`late`]).
//!
//! Each definition that the window has had and that still has windows is an [`EraWindows`] of its own, with its own slices
//! ([`super::eras`]). Mostly there is one. While there are more, a batch is parted by what each of them covers: a row goes
//! to the windows of the era that owns its event time, and to those of earlier ones that had begun before and hold it too.
//! It is late if all of them are closed for good.

mod blocks;
mod checkpoint;
mod close;
mod cold;
mod era;
mod late;
mod sliding;
mod spill;

use std::sync::Arc;

use arrow::{
    array::{RecordBatch, UInt32Array},
    compute,
};
use millrace_plan::{LateRows, WindowAggregate};
use millrace_state::TaskStore;
use millrace_stream::{Epoch, EventTime, KeyGroupRange};

use self::era::{EraWindows, Fate};
use super::{
    eras::{Era, Eras},
    facts::WindowFacts,
};
use crate::{
    aggregate::longs,
    operator::{
        Emitted, Frozen, KeyedOperator, OperatorContext, OperatorError, OperatorStats, Progress, Write, is_full,
    },
    stored_keys::delete_kinds,
};

/// The names of the states in the task's store.
pub(super) const STATES: [&str; 2] = [STATE, blocks::STATE];

const STATE: &str = "window";

/// A windowed GROUP BY over aligned windows.
pub struct AlignedWindows {
    /// In order; the last one has the plan's definition.
    eras: Vec<EraWindows>,
    /// How many of the first of them end with the snapshot that is being written.
    ending: usize,
    key_groups: KeyGroupRange,
    memory_budget_bytes: usize,
    /// Event time so far.
    watermark: i64,
    /// Whether not all windows that it has passed have been closed.
    is_closing: bool,
    /// The greatest event time seen.
    latest: i64,
    late_rows: LateRows,
    /// The columns of late rows.
    late: Vec<usize>,
    /// What was counted here, and by eras that have ended.
    stats: OperatorStats,
}

impl AlignedWindows {
    /// The operator of `plan`, with the state that the context restores.
    ///
    /// # Errors
    /// Fails if the plan's aggregates or keys cannot be computed, or stored state cannot be read.
    pub fn new(plan: &WindowAggregate, cx: OperatorContext) -> Result<Self, OperatorError> {
        let tasks = WindowFacts::read_all(&cx.restored)?;
        if !tasks.is_empty() {
            delete_kinds(&cx.store, blocks::STATE, cx.key_groups, (0, u8::MAX))?;
        }
        let eras = Eras::restored(&tasks, &plan.def)?;
        let budget_bytes = cx.memory_budget_bytes / eras.len();
        let restored =
            eras.iter().map(|(era, until)| EraWindows::restored(plan, era, until, &tasks, budget_bytes, &cx));
        let eras = restored.collect::<Result<Vec<_>, _>>()?;
        let noted = tasks.iter().all(|facts| facts.latest.is_some());
        let mut windows = Self {
            ending: 0,
            key_groups: cx.key_groups,
            memory_budget_bytes: cx.memory_budget_bytes,
            watermark: tasks.iter().map(|facts| facts.watermark).max().unwrap_or(i64::MIN),
            is_closing: false,
            latest: WindowFacts::latest(&tasks),
            late_rows: plan.def.late_rows,
            late: plan.late.clone(),
            stats: OperatorStats::default(),
            eras,
        };
        if !noted {
            // What an older release did not write down lies in a slice that is open, or has passed.
            let open = windows.eras.iter().filter_map(EraWindows::end_of_slices).max().unwrap_or(i64::MIN);
            windows.latest = windows.latest.max(open).max(windows.watermark.saturating_sub(1));
        }
        Ok(windows)
    }

    /// Takes rows of which some may be before the first era, or while there are several.
    fn process_parted(&mut self, batch: &RecordBatch, times: &[i64]) -> Result<Vec<u32>, OperatorError> {
        // A row before the first era belonged to one that has ended, and all its windows are closed for good.
        let from = self.eras.first().map_or(i64::MIN, EraWindows::begins_ms);
        let fate = |time: &i64| if *time < from { Fate::Late } else { Fate::Outside };
        let mut fates: Vec<Fate> = times.iter().map(fate).collect();
        for at in 0..self.eras.len() {
            let rows: Vec<u32> =
                (0..times.len() as u32).filter(|row| self.eras[at].covers(times[*row as usize])).collect();
            if rows.is_empty() {
                continue;
            }
            self.share_memory(at);
            self.eras[at].process_parted(batch, times, rows.into_iter(), |rows, fate| {
                for row in rows {
                    let known = &mut fates[*row as usize];
                    *known = fate.max(*known);
                }
            })?;
        }
        Ok((0..times.len() as u32).filter(|row| fates[*row as usize] == Fate::Late).collect())
    }

    /// Leaves an era the memory that the others do not use, and some in any case.
    fn share_memory(&mut self, at: usize) {
        let others = self.eras.iter().enumerate().filter(|(other, _)| *other != at);
        let used: usize = others.map(|(_, era)| era.memory_bytes()).sum();
        let least = self.memory_budget_bytes / (2 * self.eras.len());
        self.eras[at].memory_budget_bytes = self.memory_budget_bytes.saturating_sub(used).max(least);
    }

    fn send_late(&mut self, batch: &RecordBatch, mut late: Vec<u32>, out: &mut Emitted) -> Result<(), OperatorError> {
        if late.is_empty() {
            return Ok(());
        }
        self.stats.late_rows += late.len() as u64;
        if self.late_rows == LateRows::SideOutput && !self.late.is_empty() {
            late.sort_unstable();
            let rows = batch.project(&self.late)?;
            out.late.push(compute::take_record_batch(&rows, &UInt32Array::from(late))?);
        }
        Ok(())
    }

    fn start(&mut self, out: &mut Emitted) {
        self.eras.iter_mut().for_each(|era| out.rows.append(&mut era.pending));
    }
}

impl KeyedOperator for AlignedWindows {
    fn process(&mut self, batch: RecordBatch, out: &mut Emitted) -> Result<(), OperatorError> {
        self.start(out);
        let event_time = Arc::clone(batch.column(0));
        let times = longs(&event_time).unwrap_or_default();
        let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else { return Ok(()) };
        self.latest = self.latest.max(*last);
        let late = match &mut self.eras[..] {
            [era] if *first >= era.begins_ms() => era.process(&batch, times, (*first, *last))?,
            _ => self.process_parted(&batch, times)?,
        };
        self.send_late(&batch, late, out)
    }

    fn advance(&mut self, watermark: EventTime, out: &mut Emitted) -> Result<Progress, OperatorError> {
        self.start(out);
        if watermark.0 <= self.watermark && !self.is_closing {
            return Ok(Progress::Done);
        }
        self.watermark = match watermark {
            EventTime::MAX => self.eras.iter().filter_map(EraWindows::last_end).fold(self.watermark, i64::max),
            EventTime(watermark) => self.watermark.max(watermark),
        };
        for era in &mut self.eras {
            self.is_closing = era.advance(self.watermark, out)? == Progress::More;
            if self.is_closing {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    fn freeze(&mut self, _epoch: Epoch, out: &mut Emitted) -> Result<Frozen, OperatorError> {
        self.start(out);
        let mut writes: Vec<Write> = Vec::new();
        for era in &mut self.eras {
            era.correct(out)?;
            writes.extend(era.freeze_changes()?);
        }
        // What is over has nothing left but the deletion of its slices, which is frozen now.
        self.ending = self.eras.iter().take_while(|era| era.is_over()).count();
        let eras: Vec<Era> = self.eras[self.ending..].iter().map(EraWindows::era).collect();
        let next_part = self.eras.iter().map(EraWindows::next_part).max().unwrap_or(1);
        let facts = WindowFacts::new(self.key_groups, self.watermark, self.latest, next_part, &eras);
        let changed = !writes.is_empty();
        let write = move |store: &TaskStore| writes.into_iter().try_for_each(|write| write(store));
        Ok(Frozen { meta: facts.to_value(), write: changed.then(|| Box::new(write) as Write) })
    }

    fn is_full(&self) -> bool {
        let memory_bytes = self.eras.iter().map(EraWindows::memory_bytes).sum();
        is_full(memory_bytes, self.memory_budget_bytes)
    }

    fn thawed(&mut self) -> Result<(), OperatorError> {
        for era in self.eras.drain(..std::mem::take(&mut self.ending)) {
            self.stats.corrections += era.stats.corrections;
            self.stats.spilled_bytes += era.stats.spilled_bytes;
        }
        if let [era] = &mut self.eras[..] {
            era.memory_budget_bytes = self.memory_budget_bytes;
        }
        self.eras.iter_mut().try_for_each(EraWindows::thaw)
    }

    fn stats(&self) -> OperatorStats {
        let mut stats = self.stats;
        for era in &self.eras {
            stats.entries += era.entries() as u64;
            stats.memory_bytes += era.memory_bytes() as u64;
            stats.corrections += era.stats.corrections;
            stats.spilled_bytes += era.stats.spilled_bytes;
        }
        stats
    }
}
