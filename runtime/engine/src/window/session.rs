//! Session windows: the rows of a key of which each is less than the gap apart from the next.
//!
//! A session starts with its first row and ends `gap` after its last; a row that touches two sessions joins them. When the
//! watermark comes to its end it is emitted and forgotten. A row whose own session would have ended by then, the allowed
//! lateness included, is late. One that comes before that but would have belonged to a session that was emitted makes a
//! session of its own: what was emitted stays as it is.
//!
//! ```text
//! gap 10     rows at 3, 9, 30        sessions [3, 19) [30, 40)
//!            then one at 21          [3, 19) and [21, 40): 21 - 9 is not less than 10, 30 - 21 is
//! ```
//!
//! When the gap changes, a row that begins a session gives it the gap of the era that owns the row's event time
//! ([`super::eras`]), and the session keeps it. A row that joins sessions of several definitions leaves the longest gap.
//!
//! # How
//!
//! Rows go into a table of *changes* by session, columnar like everything else; that sessions join is noted, and costs
//! nothing until the changes are *folded* into the sessions' states: when a session closes, or when memory is short. A
//! barrier puts the changes aside and takes a snapshot of the sessions, both in no time; the writer folds, and the task takes
//! over what it has folded, bit by bit. Sessions wait for their end in a wheel of buckets; one that has grown since is put
//! back.
//!
//! A barrier writes the sessions that changed as columns. Over the memory budget all sessions leave memory, as an entry a
//! key and a note of when it is due, and come back, many sorted keys at a time, when there are rows of their keys or they
//! are due; nothing of them stays in memory.

mod open;

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, Int32Array, RecordBatch, TimestampMicrosecondArray, TimestampMillisecondArray},
    compute,
    datatypes::DataType,
};
use millrace_plan::{LateRows, WindowAggregate, WindowKind};
use millrace_stream::{Epoch, EventTime, KeyGroupRange};

use self::open::OpenSessions;
use super::{
    eras::{Era, Eras},
    facts::WindowFacts,
    table::Table,
};
use crate::{
    aggregate::{Aggregates, longs},
    operator::{Emitted, Frozen, KeyedOperator, OperatorContext, OperatorError, OperatorStats, Progress, is_full},
    topn::push_in_batches,
};

/// The names of the states in the task's store: entries of keys, and chunks of columns.
pub(super) const STATES: [&str; 2] = [STATE, CHUNKS];

const STATE: &str = "sessions";
const CHUNKS: &str = "session_chunks";

/// How many keys that are due are brought back at a time.
const DUE_AT_ONCE: usize = 1024;

/// A GROUP BY over sessions.
pub struct SessionWindows {
    plan: WindowAggregate,
    aggregates: Aggregates,
    eras: Eras,
    open: OpenSessions,
    changes: Option<Table>,
    /// Sessions by when they may end.
    wheel: BTreeMap<i64, Vec<u32>>,
    notch_ms: i64,
    watermark: i64,
    /// Whether not all sessions have been emitted that the watermark has passed.
    is_behind: bool,
    /// The greatest event time seen.
    latest: i64,
    key_groups: KeyGroupRange,
    memory_budget_bytes: usize,
    batch_rows: usize,
    sessions: Vec<u32>,
    locals: Vec<u32>,
    late_rows: u64,
}

fn gap_of(era: &Era) -> i64 {
    match era.window.kind {
        WindowKind::Session { gap_ms } => gap_ms.max(1),
        _ => 1,
    }
}

impl SessionWindows {
    /// The operator of `plan`, with the state that the context restores.
    ///
    /// # Errors
    /// Fails if the plan's aggregates cannot be computed or their states not be stored, or stored state cannot be read.
    pub fn new(plan: &WindowAggregate, cx: OperatorContext) -> Result<Self, OperatorError> {
        let key_types: Vec<DataType> = plan.keys.iter().map(|key| plan.input.field(*key).data_type().clone()).collect();
        let aggregates = Aggregates::new(&plan.aggregates, &plan.input)?;
        let tasks = WindowFacts::read_all(&cx.restored)?;
        let eras = Eras::restored(&tasks, &plan.def)?;
        let gaps = eras.list().iter().map(|era| (era.begins_ms(), gap_of(era))).collect();
        // What one of the tasks had not done yet has to be done.
        let watermark = tasks.iter().map(|facts| facts.watermark).max();
        let mut windows = Self {
            open: OpenSessions::new(&key_types, cx.key_groups, gaps, &aggregates, &cx.store)?,
            aggregates,
            changes: None,
            wheel: BTreeMap::new(),
            notch_ms: (gap_of(eras.last()) / 16).max(1),
            eras,
            watermark: watermark.unwrap_or(i64::MIN),
            is_behind: false,
            latest: WindowFacts::latest(&tasks),
            key_groups: cx.key_groups,
            memory_budget_bytes: cx.memory_budget_bytes,
            batch_rows: cx.batch_rows.max(1),
            sessions: Vec::new(),
            locals: Vec::new(),
            late_rows: 0,
            plan: plan.clone(),
        };
        if !tasks.is_empty() {
            let next_part = tasks.iter().map(|facts| facts.next_part).max().unwrap_or(1);
            windows.open.load(next_part, cx.memory_budget_bytes)?;
            windows.watch_new();
        }
        if tasks.iter().any(|facts| facts.latest.is_none()) {
            // What an older release did not write down is in a session that is open, or has passed.
            let passed = windows.watermark.saturating_sub(1);
            windows.latest = windows.latest.max(windows.open.latest()).max(passed);
        }
        Ok(windows)
    }

    fn notch_of(&self, time: i64) -> i64 {
        time.saturating_sub(time.rem_euclid(self.notch_ms))
    }

    fn watch_new(&mut self) {
        for session in self.open.take_new() {
            let notch = self.notch_of(self.open.end_of(session));
            self.wheel.entry(notch).or_default().push(session);
        }
    }

    /// The sessions that end by `watermark`.
    fn take_ended(&mut self, watermark: i64) -> Vec<u32> {
        let (mut ended, mut grown) = (Vec::new(), Vec::new());
        while let Some(notch) = self.wheel.first_entry().filter(|notch| *notch.key() <= watermark) {
            for session in notch.remove() {
                if self.open.is_joined(session) {
                    self.open.unwatch(session);
                } else if self.open.end_of(session) <= watermark {
                    ended.push(session);
                } else {
                    grown.push(session);
                }
            }
        }
        for session in grown {
            let notch = self.notch_of(self.open.end_of(session));
            self.wheel.entry(notch).or_default().push(session);
        }
        ended
    }

    fn put_changes_aside(&mut self) {
        if let Some(changes) = self.changes.take().filter(|changes| changes.len() > 0) {
            self.open.put_aside(changes.into_part(&mut Vec::new()));
        }
    }

    fn fold(&mut self) -> Result<(), OperatorError> {
        self.put_changes_aside();
        self.open.fold_all()
    }

    fn emit(&mut self, sessions: &[u32], out: &mut Emitted) -> Result<(), OperatorError> {
        let states = self.open.states_of(sessions)?;
        let mut total = self.aggregates.accumulators()?;
        total.merge(&states, &(0..sessions.len() as u32).collect::<Vec<_>>(), sessions.len())?;
        let ends: Vec<i64> = sessions.iter().map(|session| self.open.end_of(*session)).collect();
        let micros = |times: &mut dyn Iterator<Item = i64>| -> ArrayRef {
            let times = times.map(|time| time.saturating_mul(1000));
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
        };
        let last = ends.iter().map(|end| end.saturating_sub(1));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMillisecondArray::from_iter_values(last).with_timezone("UTC")),
            micros(&mut sessions.iter().map(|session| self.open.start_of(*session))),
            micros(&mut ends.iter().copied()),
            Arc::new(Int32Array::from_value(0, sessions.len())),
        ];
        columns.extend(self.open.keys_of(sessions)?);
        columns.extend(total.evaluate()?);
        let rows = RecordBatch::try_new(Arc::clone(&self.plan.output), columns)?;
        push_in_batches(&rows, self.batch_rows, &mut out.rows);
        Ok(())
    }

    /// The rows that are not late; those that are go their way.
    fn timely(&mut self, batch: RecordBatch, out: &mut Emitted) -> Result<RecordBatch, OperatorError> {
        let horizon_of =
            |era: &Era| self.watermark.saturating_sub(gap_of(era)).saturating_sub(era.window.allowed_lateness_ms);
        let times = longs(batch.column(0)).unwrap_or_default();
        // A row before the first era belonged to one that is over.
        let passed = self.eras.list()[0].begins_ms().saturating_sub(1);
        let horizon = self.eras.list().iter().map(horizon_of).max().unwrap_or(i64::MIN).max(passed);
        if self.watermark == i64::MIN || times.iter().all(|time| *time > horizon) {
            return Ok(batch);
        }
        let is_late = |time: i64| time <= passed || time <= horizon_of(self.eras.at(time));
        let late: BooleanArray = times.iter().map(|time| Some(is_late(*time))).collect();
        self.late_rows += late.true_count() as u64;
        if self.plan.def.late_rows == LateRows::SideOutput && !self.plan.late.is_empty() {
            out.late.push(compute::filter_record_batch(&batch.project(&self.plan.late)?, &late)?);
        }
        Ok(compute::filter_record_batch(&batch, &compute::not(&late)?)?)
    }

    fn mind_memory(&mut self) -> Result<(), OperatorError> {
        if self.memory_bytes() > self.memory_budget_bytes && !self.open.is_writing() {
            self.fold()?;
            self.open.evict()?;
            self.wheel.clear();
        }
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        // The wheel has four bytes of each session, and room to grow.
        let wheel = self.open.slots() * 8;
        self.open.memory_bytes() + wheel + self.changes.as_ref().map_or(0, Table::memory_bytes)
    }
}

impl KeyedOperator for SessionWindows {
    fn process(&mut self, batch: RecordBatch, out: &mut Emitted) -> Result<(), OperatorError> {
        let rows = self.timely(batch, out)?;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let keys: Vec<ArrayRef> = self.plan.keys.iter().map(|key| Arc::clone(rows.column(*key))).collect();
        let event_time = Arc::clone(rows.column(0));
        let times = longs(&event_time).unwrap_or_default();
        self.latest = times.iter().copied().max().unwrap_or(i64::MIN).max(self.latest);
        self.open.assign(&keys, times, &mut self.sessions)?;
        self.watch_new();
        let known = self.open.slots();
        let changes = match &mut self.changes {
            Some(changes) => changes,
            none => none.insert(Table::new(&self.aggregates, known, &mut Vec::new())?),
        };
        changes.update(&rows, &self.sessions, known, &mut self.locals)?;
        self.open.fold_some()?;
        self.mind_memory()
    }

    fn advance(&mut self, watermark: EventTime, out: &mut Emitted) -> Result<Progress, OperatorError> {
        if watermark.0 <= self.watermark && !self.is_behind {
            return Ok(Progress::Done);
        }
        self.watermark = match watermark {
            EventTime::MAX if self.latest == i64::MIN => self.watermark,
            // As far as the last session can have gone on.
            EventTime::MAX => {
                let gap = self.eras.list().iter().map(gap_of).max().unwrap_or(1);
                self.watermark.max(self.latest.saturating_add(gap))
            }
            EventTime(watermark) => self.watermark.max(watermark),
        };
        self.is_behind = self.open.fetch_due(watermark.0, DUE_AT_ONCE)?;
        self.watch_new();
        let ended = self.take_ended(watermark.0);
        if !ended.is_empty() {
            self.fold()?;
            self.emit(&ended, out)?;
            self.open.close(&ended);
            self.open.reclaim()?;
        }
        if !self.is_behind {
            return Ok(Progress::Done);
        }
        self.mind_memory()?;
        Ok(Progress::More)
    }

    fn freeze(&mut self, _epoch: Epoch, _out: &mut Emitted) -> Result<Frozen, OperatorError> {
        self.put_changes_aside();
        // No row that is not late can begin a session by a definition that is over; those that are open know their gap.
        let watermark = self.watermark;
        self.eras.forget(|era, until| {
            until.saturating_add(gap_of(era)).saturating_add(era.window.allowed_lateness_ms) <= watermark
        });
        let write = self.open.freeze();
        let next_part = self.open.next_part();
        let facts = WindowFacts::new(self.key_groups, self.watermark, self.latest, next_part, self.eras.list());
        Ok(Frozen { meta: facts.to_value(), write })
    }

    fn is_full(&self) -> bool {
        is_full(self.memory_bytes(), self.memory_budget_bytes)
    }

    fn thawed(&mut self) -> Result<(), OperatorError> {
        self.open.thaw();
        self.mind_memory()
    }

    fn stats(&self) -> OperatorStats {
        OperatorStats {
            entries: self.open.len() as u64,
            memory_bytes: self.memory_bytes() as u64,
            late_rows: self.late_rows,
            spilled_bytes: self.open.spilled_bytes(),
            ..OperatorStats::default()
        }
    }
}
