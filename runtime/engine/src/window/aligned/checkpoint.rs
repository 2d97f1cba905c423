//! Freezing what changed, writing it behind the task's back, and starting from what was written.
//!
//! A barrier seals each live slice: a swap, whatever its size. The parts go to the writer, which sorts them by key group
//! and writes them as one run, with deletions of the parts of slices that are over; a slice that opens and closes between
//! two barriers never touches the store.
//!
//! A slice that stays open gains a part an epoch. When it has [`PARTS_BEFORE_MERGE`], the writer also merges the newest of
//! them, as many as are together as large as the next older one, and writes the merged part in their place, so that a
//! slice has a number of parts logarithmic in how much was written to it, in memory and in the store alike. The task
//! takes the merged part in when it is told that the write has ended.
//!
//! How far windows have been closed follows from the watermark, which is in the manifest ([`WindowFacts`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
};

use millrace_plan::WindowAggregate;
use millrace_state::{StateError, TaskStore};

use super::era::EraWindows;
use crate::{
    aggregate::Aggregates,
    operator::{Emitted, OperatorContext, OperatorError, Progress, Write},
    window::{
        chunks::{self, Content, Kind, PartWrite, Stored, unstorable},
        eras::Era,
        facts::WindowFacts,
        slice::SlicePart,
        table::{Part, Table},
    },
};

/// A slice with this many sealed parts has its newest ones merged.
const PARTS_BEFORE_MERGE: usize = 8;

/// The merges that the writer does.
pub(super) struct Merging {
    jobs: Vec<MergeJob>,
}

#[derive(Clone)]
struct MergeJob {
    slice: i64,
    parts: Vec<Arc<Part>>,
    into: Stored,
    absorbed: bool,
    merged: Arc<Mutex<Option<Arc<Part>>>>,
}

impl Merging {
    /// The places of merged parts of a slice that is no longer there.
    pub(super) fn abandon(&mut self, slice: i64) -> impl Iterator<Item = Stored> {
        let (gone, kept) = std::mem::take(&mut self.jobs).into_iter().partition(|job| job.slice == slice);
        self.jobs = kept;
        let gone: Vec<MergeJob> = gone;
        gone.into_iter().map(|job| job.into)
    }
}

impl MergeJob {
    fn merge(&self, aggregates: &Aggregates, known: usize) -> Result<Arc<Part>, OperatorError> {
        let mut total = Table::new(aggregates, known, &mut Vec::new())?;
        let mut locals = Vec::new();
        for part in &self.parts {
            total.merge(part.state()?, &part.groups, known, &mut locals)?;
        }
        let merged = Arc::new(total.into_part(&mut Vec::new()));
        if let Ok(mut place) = self.merged.lock() {
            *place = Some(Arc::clone(&merged));
        }
        Ok(merged)
    }
}

impl EraWindows {
    /// Hands over what changed since the last barrier.
    pub(super) fn freeze_changes(&mut self) -> Result<Option<Write>, OperatorError> {
        let mut puts = Vec::new();
        let mut jobs = Vec::new();
        for (start, slice) in &mut self.slices {
            slice.seal(&mut self.scratch.spare);
            let merge_from = newest_to_merge(&slice.parts);
            if let Some(from) = merge_from {
                let into = Stored::new(&mut self.next_part);
                let stored = slice.parts[from..].iter().flat_map(|part| part.stored.iter().cloned());
                self.deletes.extend(stored.map(|stored| (Kind::Part, *start, stored)));
                jobs.push(MergeJob {
                    slice: *start,
                    parts: slice.parts[from..].iter().filter_map(|part| part.data.clone()).collect(),
                    absorbed: slice.parts[from].absorbed,
                    into,
                    merged: Arc::default(),
                });
            }
            let unmerged = merge_from.unwrap_or(slice.parts.len());
            for part in &mut slice.parts[..unmerged] {
                if part.stored.is_empty() {
                    let stored = part.store_as(&mut self.next_part);
                    let data = part.data.clone();
                    puts.extend(data.map(|data| PartWrite {
                        kind: Kind::Part,
                        slice: *start,
                        stored,
                        content: Content::States(data),
                    }));
                }
            }
        }
        let mut deletes = std::mem::take(&mut self.deletes);
        puts.extend(self.corrections.changes(&mut self.next_part, &mut deletes));
        self.writing = true;
        if puts.is_empty() && deletes.is_empty() && jobs.is_empty() {
            return Ok(None);
        }
        let keys = self.groups.keys().clone();
        let (layout, aggregates) = (self.plan.layout.clone(), self.plan.aggregates.clone());
        self.merging = (!jobs.is_empty()).then(|| Merging { jobs: jobs.clone() });
        let write = move |store: &TaskStore| -> Result<(), StateError> {
            for job in jobs {
                let part = job.merge(&aggregates, keys.len()).map_err(unstorable)?;
                puts.push(PartWrite {
                    kind: Kind::Part,
                    slice: job.slice,
                    stored: job.into,
                    content: Content::States(part),
                });
            }
            chunks::write(store, &layout, &keys, puts, &deletes)?;
            Ok(())
        };
        Ok(Some(Box::new(write)))
    }

    /// Takes in the parts that the writer has merged.
    pub(super) fn thaw(&mut self) -> Result<(), OperatorError> {
        self.writing = false;
        for job in self.merging.take().into_iter().flat_map(|merging| merging.jobs) {
            let merged = job.merged.lock().ok().and_then(|mut merged| merged.take());
            let (Some(merged), Some(slice)) = (merged, self.slices.get_mut(&job.slice)) else { continue };
            let is_merged = |part: &SlicePart| {
                part.data.as_ref().is_some_and(|data| job.parts.iter().any(|merged| Arc::ptr_eq(merged, data)))
            };
            let at = slice.parts.iter().position(is_merged).unwrap_or(slice.parts.len());
            let absorbed = slice.parts.iter().filter(|part| is_merged(part)).all(|part| part.absorbed);
            if absorbed != job.absorbed {
                // Some were absorbed meanwhile and some were not: only pouring anew tells the running aggregate which.
                self.sliding = None;
            }
            slice.parts.retain(|part| !is_merged(part));
            slice.parts.insert(at, SlicePart { data: Some(merged), stored: vec![job.into], absorbed });
        }
        self.reclaim_groups()
    }

    /// The windows of an era as several tasks left them at a barrier; one that has forgotten the era was done with it.
    pub(super) fn restored(
        plan: &WindowAggregate,
        era: &Era,
        until: i64,
        tasks: &[WindowFacts],
        memory_budget_bytes: usize,
        cx: &OperatorContext,
    ) -> Result<Self, OperatorError> {
        let new = |key_groups| Self::empty(plan, era, until, memory_budget_bytes, cx, key_groups);
        let mut windows = new(cx.key_groups)?;
        let Some(furthest) = tasks.iter().map(|task| task.watermark).max() else { return Ok(windows) };
        let grid = windows.plan.grid;
        let closed_until = |watermark| match watermark {
            i64::MIN => i64::MIN,
            watermark => grid.last_window_end_by(watermark),
        };
        // A task that had not come as far as another closes for its own key groups what the other has closed already.
        let mut pending = Vec::new();
        for task in tasks {
            let Some(range) = task.key_groups.intersection(cx.key_groups) else { continue };
            if closed_until(task.watermark) < closed_until(furthest) {
                let mut behind = new(range)?;
                behind.closed_until = closed_until(task.watermark);
                behind.load()?;
                let mut out = Emitted::default();
                behind.watermark = furthest;
                while behind.close_windows(&mut out)? == Progress::More {}
                pending.append(&mut out.rows);
            }
        }
        windows.closed_until = closed_until(furthest);
        windows.pending = pending;
        windows.watermark = furthest;
        windows.next_part = tasks.iter().map(|task| task.next_part).max().unwrap_or(1);
        windows.load()?;
        windows.forget_slices();
        Ok(windows)
    }

    /// Reads the slices of the task's key groups, as far as the memory budget allows.
    fn load(&mut self) -> Result<(), OperatorError> {
        let mut in_memory: BTreeMap<(i64, u64), u128> = BTreeMap::new();
        let mut cold: BTreeMap<(i64, u64), u128> = BTreeMap::new();
        let layout = self.plan.layout.clone();
        let store = Arc::clone(&self.store);
        let mut room = true;
        for key_group in chunks::key_groups(self.key_groups) {
            let bit = 1_u128 << key_group;
            let wanted = |slice, part| {
                let list = if room { &mut in_memory } else { &mut cold };
                *list.entry((slice, part)).or_default() |= bit;
                room
            };
            layout.scan(&store, key_group, Kind::Part, (i64::MIN, None), wanted, |slice, _, rows| {
                let (keys, state) = layout.split(&rows);
                self.groups.intern(keys, rows.num_rows(), &mut self.scratch.groups)?;
                let known = self.groups.len();
                let into = self.slices.entry(slice).or_default();
                let live = match &mut into.live {
                    Some(live) => live,
                    none => none.insert(Table::new(&self.plan.aggregates, known, &mut self.scratch.spare)?),
                };
                live.merge(state, &self.scratch.groups, known, &mut self.scratch.locals)
            })?;
            room = room && self.memory_bytes() < self.memory_budget_bytes / 2;
            let mut panes: Vec<(i64, u64)> = Vec::new();
            layout.scan(
                &store,
                key_group,
                Kind::Panes,
                (i64::MIN, None),
                |_, _| true,
                |end, part, rows| {
                    let (keys, panes_column) = layout.split(&rows);
                    self.groups.intern(keys, rows.num_rows(), &mut self.scratch.groups)?;
                    let stored = Stored { part, key_groups: Arc::new(OnceLock::from(bit)) };
                    self.corrections.restore(end, &self.scratch.groups, &panes_column[0], stored);
                    panes.push((end, part));
                    Ok(())
                },
            )?;
        }
        let stored = |part: u64, key_groups: u128| Stored { part, key_groups: Arc::new(OnceLock::from(key_groups)) };
        for slice in self.slices.values_mut() {
            slice.seal(&mut self.scratch.spare);
        }
        for ((slice, part), key_groups) in in_memory {
            let sealed = self.slices.get_mut(&slice).and_then(|slice| slice.parts.first_mut());
            sealed.into_iter().for_each(|sealed| sealed.stored.push(stored(part, key_groups)));
        }
        for ((slice, part), key_groups) in cold {
            let part = SlicePart { data: None, stored: vec![stored(part, key_groups)], absorbed: false };
            self.slices.entry(slice).or_default().parts.push(part);
        }
        Ok(())
    }
}

/// From which part on the newest parts are to be merged, if there are enough of them.
fn newest_to_merge(parts: &[SlicePart]) -> Option<usize> {
    if parts.len() < PARTS_BEFORE_MERGE {
        return None;
    }
    let rows = |part: &SlicePart| part.data.as_ref().map(|data| data.groups.len());
    let absorbed = parts.last()?.absorbed;
    let mut from = parts.len();
    let mut total = 0;
    while let Some(part) = from.checked_sub(1).map(|before| &parts[before]) {
        let Some(rows) = rows(part) else { break };
        if part.absorbed != absorbed || (rows > 2 * total && parts.len() - from >= PARTS_BEFORE_MERGE / 2) {
            break;
        }
        total += rows;
        from -= 1;
    }
    (parts.len() - from > 1).then_some(from)
}
