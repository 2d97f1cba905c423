//! Reads a task's files, the one that is furthest behind in event time next.

use std::{collections::BTreeMap, io, time::Duration};

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

/// Reads the files of one task.
pub(super) struct FileReader {
    shared: Shared,
    cx: SourceContext,
    splits: Vec<Split>,
    by_id: BTreeMap<SplitId, usize>,
    polled: Duration,
    /// The split that was read last.
    last: Option<usize>,
    /// Of files that are forgotten.
    bad_rows_before: u64,
}

impl FileReader {
    pub(super) fn open(shared: Shared, cx: SourceContext) -> Result<Self, SourceError> {
        let now = cx.clock.monotonic();
        let entries = shared.catalog.open(cx.index, cx.parallelism, &cx.restored, now)?;
        let mut reader = Self {
            shared,
            cx,
            splits: Vec::new(),
            by_id: BTreeMap::new(),
            polled: now,
            last: None,
            bad_rows_before: 0,
        };
        for entry in entries {
            reader.add(entry)?;
        }
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
        for split in &self.splits {
            self.shared.catalog.update(split, false);
        }
        let entries = self.shared.catalog.scan(self.cx.index, now)?;
        self.splits.iter_mut().for_each(|split| split.begin_poll());
        for entry in entries {
            match self.by_id.get(&entry.id) {
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
        Ok(())
    }

    /// The split to read next: one of which nothing is known, else the one that is furthest behind.
    fn choose(&self) -> Option<usize> {
        let ready = self.splits.iter().enumerate().filter(|(_, split)| split.is_ready());
        ready.min_by_key(|(_, split)| (split.was_read, split.watermark)).map(|(index, _)| index)
    }

    /// Closes the file that is furthest ahead, if there are too many open beside the chosen one.
    fn limit_open_files(&mut self, chosen: usize) {
        if self.splits[chosen].is_open() {
            return;
        }
        let open = || self.splits.iter().enumerate().filter(|(_, split)| split.is_open());
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
        }
    }

    fn read(&mut self) -> Result<Read, SourceError> {
        // One chunk at the most is kept, however many files there are.
        if let Some(split) = self.last.take().and_then(|last| self.splits.get_mut(last)) {
            split.recycle();
        }
        loop {
            let now = self.cx.clock.monotonic();
            if self.follows() && now.saturating_sub(self.polled) >= self.poll_interval() {
                self.poll(now)?;
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
                    self.shared.catalog.update(split, true);
                    return Ok(Read::SplitEnded(split.id.clone()));
                }
                Step::Rests => return Ok(Read::SplitEnded(split.id.clone())),
                Step::Replaced => self.shared.catalog.update(split, false),
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
        }
    }

    fn origins(&mut self, rows: &[usize]) -> Result<Option<Vec<Origin>>, SourceError> {
        let last = self.last.and_then(|last| self.splits.get_mut(last));
        last.map(|split| split.origins(rows)).transpose()
    }

    fn unread_splits(&self) -> usize {
        self.splits.iter().filter(|split| !split.was_read && !split.ended).count()
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
            point.write()
        };
        self.splits.iter().map(|split| (split.id.clone(), point(split))).collect()
    }

    fn lag(&self) -> Option<Lag> {
        let open = self.splits.iter().filter(|split| !split.ended);
        open.map(|split| split.unread_bytes()).sum::<Option<u64>>().map(Lag::Bytes)
    }

    fn bad_rows(&self) -> u64 {
        self.bad_rows_before + self.splits.iter().map(Split::bad_rows).sum::<u64>()
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
