//! Reads a task's files, the one that is furthest behind in event time next.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use futures::future::BoxFuture;
use millrace_stream::EventTime;

use super::{
    Shared,
    catalog::{Entry, Point},
    split::{Split, Step},
};
use crate::{Lag, Origin, Read, ReplayPoint, SourceContext, SourceError, SourceReader, SplitId};

/// How many files a task holds open.
const MAX_OPEN_FILES: usize = 256;
/// The same for compressed ones, of which each needs a decoder's memory.
const MAX_OPEN_COMPRESSED: usize = 64;

/// For how long files are looked at that have nothing, before the task is asked for what else there is to do.
const LOOK: Duration = Duration::from_millis(10);

/// Reads the files of one task.
pub(super) struct FileReader {
    shared: Shared,
    cx: SourceContext,
    splits: Vec<Split>,
    by_id: BTreeMap<SplitId, usize>,
    summary: Summary,
    polled: Duration,
    /// The file that was looked at last had nothing.
    looks: bool,
    /// The split that was read last.
    last: Option<usize>,
    /// Of files that are forgotten.
    bad_rows_before: u64,
}

impl FileReader {
    pub(super) fn open(shared: Shared, cx: SourceContext) -> Result<Self, SourceError> {
        let now = cx.clock.monotonic();
        let entries = shared.catalog.open(cx.index, cx.parallelism, &cx.restored, cx.resumes, now)?;
        let mut reader = Self {
            shared,
            cx,
            splits: Vec::new(),
            by_id: BTreeMap::new(),
            summary: Summary::default(),
            polled: now,
            looks: false,
            last: None,
            bad_rows_before: 0,
        };
        for entry in entries {
            reader.add(entry)?;
        }
        reader.summary = Summary::of(&reader.splits);
        Ok(reader)
    }

    fn add(&mut self, entry: Entry) -> Result<(), SourceError> {
        self.by_id.insert(entry.id.clone(), self.splits.len());
        self.splits.push(Split::new(&self.shared, entry)?);
        Ok(())
    }

    fn follows(&self) -> bool {
        self.shared.catalog.spec().follow
    }

    fn poll_interval(&self) -> Duration {
        self.shared.catalog.spec().poll_interval.get()
    }

    /// Looks for new files, renamed ones and ones that are gone.
    fn poll(&mut self, now: Duration) -> Result<(), SourceError> {
        self.polled = now;
        self.looks = false;
        self.shared.catalog.update(&self.splits, false);
        let entries = self.shared.catalog.scan(self.cx.index, now)?;
        self.splits.iter_mut().for_each(|split| split.begin_poll());
        for entry in entries {
            match self.by_id.get(&entry.id) {
                // The file that had the name has ended, and was forgotten elsewhere before it was here.
                Some(&index) if self.splits[index].ended && !entry.point.ended => {
                    self.bad_rows_before += self.splits[index].bad_rows();
                    self.splits[index] = Split::new(&self.shared, entry)?;
                }
                Some(&index) => self.splits[index].found(entry),
                None => self.add(entry)?,
            }
        }
        self.splits.iter_mut().filter(|split| split.is_waiting()).for_each(|split| split.waited_at = now);
        // What has ended and is gone cannot come again.
        if self.splits.iter().any(Split::is_forgotten) {
            let forgotten = self.splits.iter().filter(|split| split.is_forgotten());
            self.bad_rows_before += forgotten.map(Split::bad_rows).sum::<u64>();
            self.splits.retain(|split| !split.is_forgotten());
            self.by_id = self.splits.iter().enumerate().map(|(index, split)| (split.id.clone(), index)).collect();
        }
        self.summary = Summary::of(&self.splits);
        Ok(())
    }

    /// The split to read next: one of which nothing is known, else the one that is furthest behind.
    fn choose(&self) -> Option<usize> {
        self.summary.ready.first().map(|(_, _, index)| *index)
    }

    /// Closes the file that is furthest ahead, if there are too many open beside the chosen one.
    fn limit_open_files(&mut self, chosen: usize) {
        if self.splits[chosen].is_open() {
            return;
        }
        let open = || self.summary.open.iter().map(|index| (*index, &self.splits[*index]));
        let compressed = open().filter(|(_, split)| split.is_compressed()).count();
        let only_compressed = compressed >= MAX_OPEN_COMPRESSED;
        if open().count() < MAX_OPEN_FILES && !only_compressed {
            return;
        }
        let ahead = open().filter(|(_, split)| !only_compressed || split.is_compressed());
        // Of compressed ones, which may be read from their beginnings when they are opened again, those that wait go first.
        let waits = |split: &Split| only_compressed && split.is_waiting();
        if let Some((index, _)) = ahead.max_by_key(|(_, split)| (waits(split), split.watermark)) {
            self.splits[index].close();
            self.summary.update(index, &self.splits[index]);
        }
    }

    fn read(&mut self) -> Result<Read, SourceError> {
        // One chunk at the most is kept, however many files there are.
        if let Some(split) = self.last.take().and_then(|last| self.splits.get_mut(last)) {
            split.recycle();
        }
        let began = self.cx.clock.monotonic();
        loop {
            let now = self.cx.clock.monotonic();
            // Not before each file was looked at, which may take longer than the interval.
            let is_seen = !self.looks || self.choose().is_none();
            if self.follows() && is_seen && now.saturating_sub(self.polled) >= self.poll_interval() {
                self.poll(now)?;
            }
            if now.saturating_sub(began) >= LOOK {
                return Ok(Read::Pending(Duration::ZERO));
            }
            let Some(chosen) = self.choose() else {
                if self.follows() {
                    let since = now.saturating_sub(self.polled);
                    return Ok(Read::Pending(self.poll_interval().saturating_sub(since).max(Duration::from_millis(1))));
                }
                return Ok(Read::Ended);
            };
            self.limit_open_files(chosen);
            // Where there are many files, a look at each of them is short.
            let want_rows =
                if self.splits.len() > 8 && !self.splits[chosen].was_read { 256 } else { self.cx.batch_rows };
            let split = &mut self.splits[chosen];
            let step = split.read(&self.shared, want_rows)?;
            if split.is_waiting() {
                split.waited_at = now;
            }
            if matches!(step, Step::Ended) {
                split.finish();
            }
            self.summary.update(chosen, split);
            self.looks = matches!(step, Step::Nothing);
            match step {
                Step::Rows(decoded) => {
                    self.last = Some(chosen);
                    return Ok(Read::Rows {
                        split: split.id.clone(),
                        rows: decoded.rows,
                        errors: decoded.errors,
                        bytes: decoded.bytes,
                    });
                }
                Step::Ended => {
                    self.shared.catalog.update([&*split], true);
                    return Ok(Read::SplitEnded(split.id.clone()));
                }
                Step::Rests => return Ok(Read::SplitEnded(split.id.clone())),
                Step::Replaced => self.shared.catalog.update([&*split], false),
                Step::Nothing => {}
            }
        }
    }
}

impl SourceReader for FileReader {
    // Files are read and decoded on the task's own thread: from the page cache that costs less than handing buffers over.
    fn next(&mut self) -> BoxFuture<'_, Result<Read, SourceError>> {
        Box::pin(async move { self.read() })
    }

    fn note_watermark(&mut self, split: &SplitId, watermark: EventTime) {
        if let Some(&index) = self.by_id.get(split) {
            self.splits[index].watermark = watermark;
            self.summary.update(index, &self.splits[index]);
        }
    }

    fn origins(&mut self, rows: &[usize]) -> Result<Option<Vec<Origin>>, SourceError> {
        let last = self.last.and_then(|last| self.splits.get_mut(last));
        last.map(|split| split.origins(rows)).transpose()
    }

    fn unread_splits(&self) -> usize {
        self.summary.unread
    }

    fn is_spare(&self) -> bool {
        self.splits.iter().all(|split| split.ended) && self.shared.catalog.has_more_to_come()
    }

    fn silent_until(&self, split: &SplitId, now: Duration) -> Duration {
        self.by_id.get(split).map_or(now, |index| self.splits[*index].waited_at)
    }

    fn replay_points(&self) -> Vec<(SplitId, ReplayPoint)> {
        let point = |split: &Split| {
            let mut point = Point::new(split.path.clone(), split.identity.clone(), split.place(), split.ended);
            point.bounded = split.is_bounded(self.shared.catalog.spec().follow);
            point.growth = split.growth;
            point.given_up = split.given_up;
            point.away = split.away;
            point.write()
        };
        self.splits.iter().map(|split| (split.id.clone(), point(split))).collect()
    }

    fn lag(&self) -> Option<Lag> {
        (self.summary.unknown == 0).then_some(Lag::Bytes(self.summary.unread_bytes))
    }

    fn bad_rows(&self) -> u64 {
        self.bad_rows_before + self.summary.bad_rows
    }
}

/// What is asked of all splits for each batch, kept up with each change of one: there may be many thousands.
#[derive(Default)]
struct Summary {
    facts: Vec<Facts>,
    /// Those that can be read: first those of which nothing is known, then the one that is furthest behind.
    ready: BTreeSet<(bool, EventTime, usize)>,
    open: BTreeSet<usize>,
    /// How many have not ended and were not read yet.
    unread: usize,
    /// Of those that have not ended and of which it is known.
    unread_bytes: u64,
    /// How many of those there are of which it is not known.
    unknown: usize,
    bad_rows: u64,
}

/// What a split adds to the summary.
#[derive(Clone, Copy, Default)]
struct Facts {
    ready: Option<(bool, EventTime)>,
    is_open: bool,
    is_unread: bool,
    unread_bytes: u64,
    is_unknown: bool,
    bad_rows: u64,
}

impl Facts {
    fn of(split: &Split) -> Self {
        let unread_bytes = if split.ended { Some(0) } else { split.unread_bytes() };
        Self {
            ready: split.is_ready().then_some((split.was_read, split.watermark)),
            is_open: split.is_open(),
            is_unread: !split.was_read && !split.ended,
            unread_bytes: unread_bytes.unwrap_or(0),
            is_unknown: unread_bytes.is_none(),
            bad_rows: split.bad_rows(),
        }
    }
}

impl Summary {
    fn of(splits: &[Split]) -> Self {
        let mut summary = Self { facts: vec![Facts::default(); splits.len()], ..Self::default() };
        splits.iter().enumerate().for_each(|(index, split)| summary.update(index, split));
        summary
    }

    /// A split has changed.
    fn update(&mut self, index: usize, split: &Split) {
        let new = Facts::of(split);
        let old = std::mem::replace(&mut self.facts[index], new);
        if old.ready != new.ready {
            old.ready.map(|(was_read, watermark)| self.ready.remove(&(was_read, watermark, index)));
            new.ready.map(|(was_read, watermark)| self.ready.insert((was_read, watermark, index)));
        }
        match new.is_open {
            true => _ = self.open.insert(index),
            false => _ = self.open.remove(&index),
        }
        self.unread = self.unread - usize::from(old.is_unread) + usize::from(new.is_unread);
        self.unread_bytes = self.unread_bytes - old.unread_bytes + new.unread_bytes;
        self.unknown = self.unknown - usize::from(old.is_unknown) + usize::from(new.is_unknown);
        self.bad_rows = self.bad_rows - old.bad_rows + new.bad_rows;
    }
}

/// An error of reading a file: damaged contents do not get better by another try.
pub(super) fn failed(what: String, source: io::Error) -> SourceError {
    match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            SourceError::Unusable { what: format!("{what} is damaged"), source: Some(Box::new(source)) }
        }
        io::ErrorKind::NotFound => {
            SourceError::Unusable { what: format!("{what} is gone"), source: Some(Box::new(source)) }
        }
        _ => SourceError::Io { what, source },
    }
}
