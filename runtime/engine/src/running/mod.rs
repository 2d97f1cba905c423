//! GROUP BY without a window: emits the rows that changed, as upserts.
//!
//! Rows go into a table of *changes*: partial states since it was last folded. Folding merges them into the keys'
//! *entries*, each the current state and the state that was last emitted. It happens when rows are to be emitted, behind
//! the task's back after a barrier, and when memory is short. Emitting compares the two: a key that was never emitted is an insert; one whose
//! result has changed is its row as it was and its row as it is; one whose result is the same again is nothing.
//!
//! Rows come out at most every `emitEvery` of processing time, and when the stream ends; their event time is the greatest
//! that the task has seen. A barrier does not make them come out sooner: which keys are still to be emitted, and what was
//! emitted of them, is part of the state, so that what comes after a restart takes back exactly what was decided before it.
//!
//! A barrier lends changes and entries, as they are, to whoever writes the checkpoint, which takes no time; rows that come
//! meanwhile are changes of a new table. Until the entries are back nothing is emitted and nothing leaves memory: both want
//! the entries, and neither is owed at once. Nor does anything leave memory while the checkpoint of a store is taken that has
//! not changed, lest it hold rows from behind the barrier. Only the end of the stream waits for them (see [`KeyedOperator::advance`]).
//!
//! A barrier writes the entries that changed as columns. Over the memory budget entries become a write-back cache of the
//! task's store ([`entries`]): the clean and the changed alike leave memory, in one sorted run, and come back, many sorted
//! keys at a time, when rows of their keys do or they are to be emitted.

pub(crate) mod entries;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arrow::{
    array::{ArrayRef, RecordBatch, TimestampMillisecondArray, UInt8Array, UInt32Array},
    compute,
    datatypes::DataType,
    row::{RowConverter, SortField},
};
use millrace_plan::RunningAggregate;
use millrace_stream::{Clock, Epoch, EventTime, KeyGroupRange, Operation};

use self::entries::Entries;
use crate::{
    aggregate::{Aggregates, longs},
    group::Groups,
    operator::{
        Emitted, Frozen, KeyedOperator, OperatorContext, OperatorError, OperatorStats, Progress, Write, is_full,
    },
    topn::push_in_batches,
    window::{chunks::unstorable, facts::Facts, table::Table},
};

/// The names of the states in the task's store: entries of keys, and chunks of columns.
pub(crate) const STATES: [&str; 2] = [STATE, CHUNKS];

const STATE: &str = "running";
const CHUNKS: &str = "running_chunks";

/// How many keys that are still to be emitted are brought back at a time.
const PENDING_AT_ONCE: usize = 8 * 1024;

/// A GROUP BY without a window.
pub struct Running {
    plan: RunningAggregate,
    aggregates: Aggregates,
    groups: Groups,
    /// `None` while they are lent to the writer of a checkpoint.
    entries: Option<Entries>,
    /// Where the writer puts them.
    returned: Arc<Mutex<Option<Entries>>>,
    /// What they held when they were lent.
    lent: OperatorStats,
    /// Whether a checkpoint is being taken of the store, changed or not: nothing else may go into it meanwhile.
    writing: bool,
    changes: Option<Table>,
    results: RowConverter,
    latest: i64,
    key_groups: KeyGroupRange,
    memory_budget_bytes: usize,
    batch_rows: usize,
    clock: Arc<dyn Clock>,
    last_emission: Duration,
    /// Whether what was to be emitted then has not all been.
    is_behind: bool,
    numbers: Vec<u32>,
    locals: Vec<u32>,
}

impl Running {
    /// The operator, with the state that the context restores.
    ///
    /// # Errors
    /// Fails if the plan's aggregates cannot be computed or their states not be stored, or stored state cannot be read.
    pub fn new(plan: &RunningAggregate, cx: OperatorContext) -> Result<Self, OperatorError> {
        let key_types: Vec<DataType> = plan.keys.iter().map(|key| plan.input.field(*key).data_type().clone()).collect();
        let aggregates = Aggregates::new(&plan.aggregates, &plan.input)?;
        let first_result = 2 + plan.keys.len();
        let results = plan.output.fields()[first_result..].iter();
        let results = RowConverter::new(results.map(|field| SortField::new(field.data_type().clone())).collect())?;
        let mut groups = Groups::new(&key_types)?;
        let mut entries = Entries::new(&key_types, cx.key_groups, &aggregates, &cx.store)?;
        let facts = Facts::join(&cx.restored)?;
        if let Some(facts) = &facts {
            entries.load(&mut groups, facts.next_part, cx.memory_budget_bytes)?;
        }
        Ok(Self {
            plan: plan.clone(),
            aggregates,
            groups,
            entries: Some(entries),
            returned: Arc::default(),
            lent: OperatorStats::default(),
            writing: false,
            changes: None,
            results,
            latest: facts.map_or(i64::MIN, |facts| facts.latest),
            key_groups: cx.key_groups,
            memory_budget_bytes: cx.memory_budget_bytes,
            batch_rows: cx.batch_rows.max(1),
            last_emission: cx.clock.monotonic(),
            clock: cx.clock,
            is_behind: false,
            numbers: Vec::new(),
            locals: Vec::new(),
        })
    }

    /// Emits keys whose results have changed since they were last emitted: those in memory, and then some of the others.
    /// Nothing while the entries are lent.
    fn emit(&mut self, out: &mut Emitted) -> Result<Progress, OperatorError> {
        let Some(entries) = &mut self.entries else { return Ok(Progress::Done) };
        if !std::mem::take(&mut self.is_behind) {
            self.last_emission = self.clock.monotonic();
        }
        if let Some(changes) = self.changes.take() {
            entries.fold(changes, self.groups.keys(), &self.aggregates)?;
        }
        self.emit_pending(out)?;
        let Some(entries) = self.entries.as_mut().filter(|_| !self.writing) else { return Ok(Progress::Done) };
        if entries.has_pending() {
            self.is_behind = entries.fetch_pending(&mut self.groups, PENDING_AT_ONCE)?;
            self.emit_pending(out)?;
            self.mind_memory()?;
        }
        Ok(if self.is_behind { Progress::More } else { Progress::Done })
    }

    fn emit_pending(&mut self, out: &mut Emitted) -> Result<(), OperatorError> {
        let Some(entries) = &mut self.entries else { return Ok(()) };
        let keys = self.groups.keys();
        let groups = entries.take_pending();
        if groups.is_empty() {
            return Ok(());
        }
        let evaluate = |states: &[ArrayRef], count: usize| -> Result<Vec<ArrayRef>, OperatorError> {
            let mut total = self.aggregates.accumulators()?;
            total.merge(states, &(0..count as u32).collect::<Vec<_>>(), count)?;
            total.evaluate()
        };
        let (emitted, states) = entries.emitted_states(&groups)?;
        // Where the result that was emitted of a group stands in `before`.
        let mut places = vec![None; groups.len()];
        emitted.iter().enumerate().for_each(|(at, local)| places[*local as usize] = Some(at));
        let before = if emitted.is_empty() { None } else { Some(evaluate(&states, emitted.len())?) };
        let after = evaluate(&entries.current_states(&groups)?.1, groups.len())?;
        let texts = |columns: &[ArrayRef]| self.results.convert_columns(columns);
        let (before_rows, after_rows) = (before.as_deref().map(texts).transpose()?, texts(&after)?);
        // Where each row's results are: in `before` (0) or `after` (1), and at which place; and whose they are.
        let (mut rows, mut which, mut operations): (Vec<(usize, usize)>, Vec<u32>, Vec<u8>) = Default::default();
        for (at, place) in places.iter().enumerate() {
            match (before_rows.as_ref(), place) {
                (Some(before), Some(place)) if before.row(*place) == after_rows.row(at) => {}
                (Some(_), Some(place)) => {
                    rows.extend([(0, *place), (1, at)]);
                    which.extend([at as u32; 2]);
                    operations.extend([Operation::UpdateBefore as u8, Operation::UpdateAfter as u8]);
                }
                _ => {
                    rows.push((1, at));
                    which.push(at as u32);
                    operations.push(Operation::Insert as u8);
                }
            }
        }
        entries.set_emitted(&groups);
        if rows.is_empty() {
            return Ok(());
        }
        let which = UInt32Array::from(which);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMillisecondArray::from_value(self.latest, rows.len()).with_timezone("UTC")),
            Arc::new(UInt8Array::from(operations)),
        ];
        columns.extend(compute::take_arrays(&keys.gather(&groups)?, &which, None)?);
        for (at, after) in after.iter().enumerate() {
            let before = before.as_ref().map_or(after, |before| &before[at]);
            columns.push(compute::interleave(&[before, after], &rows)?);
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.plan.output), columns)?;
        push_in_batches(&rows, self.batch_rows, &mut out.rows);
        Ok(())
    }

    fn mind_memory(&mut self) -> Result<(), OperatorError> {
        if self.writing || self.memory_bytes() <= self.memory_budget_bytes {
            return Ok(());
        }
        let Some(entries) = &mut self.entries else { return Ok(()) };
        if let Some(changes) = self.changes.take() {
            entries.fold(changes, self.groups.keys(), &self.aggregates)?;
        }
        entries.evict(&mut self.groups)
    }

    fn memory_bytes(&self) -> usize {
        let entries = self.entries.as_ref().map_or(self.lent.memory_bytes as usize, Entries::memory_bytes);
        entries + self.groups.memory_bytes() + self.changes.as_ref().map_or(0, Table::memory_bytes)
    }
}

impl KeyedOperator for Running {
    fn process(&mut self, batch: RecordBatch, out: &mut Emitted) -> Result<(), OperatorError> {
        let times = longs(batch.column(0)).unwrap_or_default();
        let Some(latest) = times.iter().max() else { return Ok(()) };
        self.latest = self.latest.max(*latest);
        let keys: Vec<ArrayRef> = self.plan.keys.iter().map(|key| Arc::clone(batch.column(*key))).collect();
        self.groups.intern(&keys, batch.num_rows(), &mut self.numbers)?;
        let known = self.groups.len();
        let changes = match &mut self.changes {
            Some(changes) => changes,
            none => none.insert(Table::new(&self.aggregates, known, &mut Vec::new())?),
        };
        changes.update(&batch, &self.numbers, known, &mut self.locals)?;
        if self.plan.emit_every_ms == 0 {
            let _ = self.emit(out)?;
        }
        self.mind_memory()
    }

    fn advance(&mut self, watermark: EventTime, out: &mut Emitted) -> Result<Progress, OperatorError> {
        match (watermark, &self.entries) {
            (EventTime::MAX, None) => Err(OperatorError::StillWriting),
            (EventTime::MAX, Some(_)) => {
                let progress = self.emit(out)?;
                let is_left = self.entries.as_ref().is_some_and(Entries::has_pending);
                Ok(if is_left { Progress::More } else { progress })
            }
            _ => Ok(Progress::Done),
        }
    }

    fn next_tick(&self) -> Option<Duration> {
        let entries = self.entries.as_ref()?;
        if self.writing && self.changes.is_none() && !entries.has_pending_here() {
            // What is to be emitted is away, and would not leave memory again.
            return None;
        }
        let is_behind = self.changes.is_some() || entries.has_pending();
        is_behind.then(|| match self.is_behind {
            true => Duration::ZERO,
            false => self.last_emission + Duration::from_millis(self.plan.emit_every_ms),
        })
    }

    fn tick(&mut self, out: &mut Emitted) -> Result<(), OperatorError> {
        self.emit(out).map(|_| ())
    }

    fn freeze(&mut self, _epoch: Epoch, _out: &mut Emitted) -> Result<Frozen, OperatorError> {
        let lent = self.stats();
        let mut entries = self.entries.take().ok_or(OperatorError::StillWriting)?;
        let meta = Facts::new(self.key_groups, i64::MIN, self.latest, entries.next_part()).to_value();
        self.writing = true;
        let changes = self.changes.take();
        if changes.is_none() && !entries.is_dirty() {
            self.entries = Some(entries);
            return Ok(Frozen { meta, write: None });
        }
        self.lent = OperatorStats { memory_bytes: entries.memory_bytes() as u64, ..lent };
        let (keys, aggregates) = (self.groups.keys().clone(), self.aggregates.clone());
        let returned = Arc::clone(&self.returned);
        let write: Write = Box::new(move |store| {
            if let Some(changes) = changes {
                entries.fold(changes, &keys, &aggregates).map_err(unstorable)?;
            }
            entries.write(&keys, store)?;
            *returned.lock().unwrap_or_else(PoisonError::into_inner) = Some(entries);
            Ok(())
        });
        Ok(Frozen { meta, write: Some(write) })
    }

    fn is_full(&self) -> bool {
        is_full(self.memory_bytes(), self.memory_budget_bytes)
    }

    fn thawed(&mut self) -> Result<(), OperatorError> {
        self.writing = false;
        if let Some(entries) = self.returned.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.entries = Some(entries);
        }
        self.mind_memory()
    }

    fn stats(&self) -> OperatorStats {
        OperatorStats {
            entries: self.groups.len() as u64,
            memory_bytes: self.memory_bytes() as u64,
            spilled_bytes: self.entries.as_ref().map_or(self.lent.spilled_bytes, Entries::spilled_bytes),
            ..OperatorStats::default()
        }
    }
}
