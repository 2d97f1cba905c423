//! One file, being read.
//!
//! A followed file is looked at again at each poll. It has grown: reading goes on. It is shorter, or begins with other
//! bytes: it was truncated, and is read from its beginning. No path leads to it any more: it was rotated away or deleted,
//! and has ended when nothing more has come for [`QUIET_POLLS`] polls. The last line of a followed file is a row once its
//! line feed has come, or when the file has ended.
//!
//! A followed file that is compressed is most often one that does not grow. Read to its end, and with no news for
//! [`QUIET_POLLS`] polls, it is *at rest*: its last line is a row, it is closed, and holds no watermark back. If something is
//! appended to it after all, it goes on, and from then on is followed as others are, without rest.

use std::{
    fs::File,
    io,
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use millrace_stream::{EventTime, Timestamp};

use super::{
    Shared,
    catalog::{Entry, Growth},
    identity::Identity,
    parquet::{ParquetSplit, Which},
    place::{Place, stands_before},
    reader::failed,
    stream::Stream,
};
use crate::{
    Origin, SourceError, SplitId,
    format::{
        BadRows,
        records::{Decoded, Records},
        tail::Tail,
    },
};

/// After how many polls without growth a file that is gone has ended, and a compressed one is at rest.
pub(super) const QUIET_POLLS: u32 = 3;
/// Until the end of 1980 after 1970: no file was written then.
const NO_MOMENT: Duration = Duration::from_secs(347_155_200);

/// A file, being read.
pub(super) struct Split {
    pub(super) id: SplitId,
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) watermark: EventTime,
    /// Rows of it have been returned, or it is known to have none for now.
    pub(super) was_read: bool,
    pub(super) ended: bool,
    /// It had ended for good before.
    was_over: bool,
    /// It was away for too long in the midst of being read: it is read on if it comes back.
    pub(super) given_up: bool,
    contents: Contents,
    /// At the end of what there is, until the next poll.
    waiting: bool,
    /// When it was last seen to be.
    pub(super) waited_at: Duration,
    pub(super) growth: Growth,
    /// The end of a compressed file, when it was read to.
    seen: Option<Seen>,
    present: bool,
    /// How many polls in a row have not found it. One of them may just have looked while it was renamed.
    absent_polls: u32,
    quiet_polls: u32,
    bytes: u64,
    /// At how many looks or starts it was not there, since it has ended.
    pub(super) away: u32,
    /// Whether the last poll has told of it.
    is_known: bool,
    /// Of what the file was before it was truncated.
    bad_rows_before: u64,
}

enum Contents {
    Records {
        records: Box<Records>,
        stream: Option<Stream>,
        start: Place,
    },
    Parquet(Box<ParquetSplit>),
    /// Nothing more is read.
    Over(Place),
}

/// The end of a compressed file, as it was.
struct Seen {
    /// How long the file was, as it lies there.
    bytes: u64,
    /// It ended within a member.
    torn: bool,
    /// It ended with a line's end.
    drained: bool,
}

/// What a read came to.
pub(super) enum Step {
    Rows(Decoded),
    /// The file has other contents now.
    Replaced,
    Nothing,
    /// The file is at rest.
    Rests,
    Ended,
}

impl Split {
    pub(super) fn new(shared: &Shared, entry: Entry) -> Result<Self, SourceError> {
        let point = entry.point;
        let contents = if point.ended {
            Contents::Over(point.place)
        } else if shared.format.is_parquet() {
            Contents::Parquet(Box::new(ParquetSplit::new(
                shared.format.clone(),
                bad_rows(shared, &point.path),
                point.place.offset,
            )))
        } else {
            let records = records(shared, &point.path)?;
            Contents::Records { records: Box::new(records), stream: None, start: point.place }
        };
        let at_rest = point.growth.at_rest();
        let rests = at_rest == Some(entry.bytes) && !point.ended;
        Ok(Self {
            id: entry.id,
            path: point.path,
            identity: point.identity,
            watermark: EventTime::MIN,
            was_read: rests,
            // What is at rest has ended for a source that does not follow.
            ended: point.ended || (rests && !shared.catalog.spec().follow),
            was_over: point.ended && !point.bounded,
            given_up: point.given_up,
            contents,
            waiting: rests,
            waited_at: Duration::ZERO,
            growth: if at_rest.is_some() && !rests { Growth::Appended } else { point.growth },
            seen: at_rest.map(|bytes| Seen { bytes, torn: false, drained: true }),
            present: entry.present,
            absent_polls: 0,
            quiet_polls: 0,
            bytes: entry.bytes,
            away: point.away,
            is_known: true,
            bad_rows_before: 0,
        })
    }

    pub(super) fn is_ready(&self) -> bool {
        !self.ended && !self.waiting
    }

    pub(super) fn is_open(&self) -> bool {
        match &self.contents {
            Contents::Records { stream, .. } => stream.is_some(),
            Contents::Parquet(parquet) => parquet.is_open(),
            Contents::Over(_) => false,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting
    }

    pub(super) fn is_compressed(&self) -> bool {
        matches!(&self.contents, Contents::Records { stream: Some(stream), .. } if stream.is_compressed())
    }

    pub(super) fn close(&mut self) {
        let place = self.place();
        match &mut self.contents {
            Contents::Records { records, stream, start } => {
                *start = place;
                records.rewind();
                *stream = None;
            }
            Contents::Parquet(parquet) => parquet.close(),
            Contents::Over(_) => {}
        }
    }

    /// It has ended: what was needed to read it is not any more.
    pub(super) fn finish(&mut self) {
        self.bad_rows_before = self.bad_rows();
        self.contents = Contents::Over(self.place());
    }

    /// A poll begins: what it finds is told by [`Self::found`].
    pub(super) fn begin_poll(&mut self) {
        self.present = false;
        self.is_known = false;
        self.absent_polls += 1;
        self.quiet_polls += u32::from(self.waiting);
        self.waiting = false;
    }

    pub(super) fn found(&mut self, entry: Entry) {
        self.present = entry.present;
        self.is_known = true;
        self.away = entry.point.away;
        if entry.present {
            self.path = entry.point.path;
            self.identity = entry.point.identity;
            self.bytes = entry.bytes;
            self.absent_polls = 0;
        }
        if let Some(at_rest) = self.growth.at_rest() {
            if self.bytes == at_rest {
                // One that is gone is read once more, and has ended.
                self.waiting = !self.is_gone();
            } else {
                self.growth = Growth::Appended;
                self.was_read = false;
            }
        } else if let Some(seen) = self.seen.as_ref().filter(|seen| entry.present && seen.bytes == self.bytes) {
            // What was closed is not read again from its beginning only to find that nothing has come.
            let rests = self.growth == Growth::None && !seen.torn && self.quiet_polls >= QUIET_POLLS;
            self.waiting = !self.is_open() && !rests;
        }
    }

    /// No path leads to it any more.
    fn is_gone(&self) -> bool {
        self.absent_polls >= QUIET_POLLS
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.ended && !self.is_known
    }

    /// Whether it has ended, and would not have if the source followed.
    pub(super) fn is_bounded(&self, follow: bool) -> bool {
        self.ended && !follow && !self.was_over
    }

    /// Where reading is resumed.
    pub(super) fn place(&self) -> Place {
        match &self.contents {
            Contents::Records { records, start, .. } => place_of(records, *start),
            Contents::Parquet(parquet) => Place::at(parquet.position()),
            Contents::Over(place) => *place,
        }
    }

    fn position(&self) -> u64 {
        match &self.contents {
            Contents::Records { records, start, .. } => records.position().max(start.offset),
            Contents::Parquet(parquet) => parquet.position(),
            Contents::Over(place) => place.offset,
        }
    }

    pub(super) fn unread_bytes(&self) -> Option<u64> {
        match &self.contents {
            Contents::Parquet(parquet) => Some(parquet.unread_bytes(self.bytes)),
            Contents::Over(_) => Some(0),
            Contents::Records { .. } if self.growth.at_rest().is_some() => Some(0),
            Contents::Records { .. } => (!self.is_compressed()).then(|| self.bytes.saturating_sub(self.position())),
        }
    }

    pub(super) fn bad_rows(&self) -> u64 {
        self.bad_rows_before
            + match &self.contents {
                Contents::Records { records, .. } => records.bad_rows(),
                Contents::Parquet(parquet) => parquet.bad_rows(),
                Contents::Over(_) => 0,
            }
    }

    /// Where rows that were read last come from, by their numbers.
    pub(super) fn origins(&mut self, rows: &[usize]) -> Result<Vec<Origin>, SourceError> {
        match &mut self.contents {
            Contents::Records { records, .. } => records.origins(rows),
            Contents::Parquet(parquet) => Ok(parquet.origins(&self.path, rows)),
            Contents::Over(_) => Ok(Vec::new()),
        }
    }

    /// Nobody will ask where the rows that were read last come from.
    pub(super) fn recycle(&mut self) {
        if let Contents::Records { records, .. } = &mut self.contents {
            records.recycle();
        }
    }

    /// Reads about `rows` rows.
    pub(super) fn read(&mut self, shared: &Shared, rows: usize) -> Result<Step, SourceError> {
        let follow = shared.catalog.spec().follow;
        match self.read_contents(shared, rows, follow) {
            Err(SourceError::Unusable { source: Some(source), .. })
                if follow && is_kind(source.as_ref(), io::ErrorKind::UnexpectedEof) && !self.is_gone() =>
            {
                // A compressed file that is still being written.
                self.close();
                self.waiting = true;
                self.was_read = true;
                Ok(Step::Nothing)
            }
            Err(SourceError::Unusable { source: Some(source), .. })
                if follow && is_kind(source.as_ref(), io::ErrorKind::NotFound) =>
            {
                if !self.is_gone() {
                    // Renamed since it was listed, perhaps: the next polls find it under its new name.
                    self.waiting = true;
                    return Ok(Step::Nothing);
                }
                warn_gone(&self.path);
                self.ended = true;
                self.given_up = matches!(self.contents, Contents::Parquet(_));
                Ok(Step::Ended)
            }
            other => other,
        }
    }

    fn read_contents(&mut self, shared: &Shared, rows: usize, follow: bool) -> Result<Step, SourceError> {
        if let Contents::Parquet(parquet) = &mut self.contents {
            let which = Which { path: &self.path, identity: &mut self.identity, follow };
            let step = match parquet.read(which, rows)? {
                Some(decoded) => Step::Rows(decoded),
                None => {
                    self.ended = true;
                    Step::Ended
                }
            };
            self.was_read = true;
            return Ok(step);
        }
        let is_drained = |seen: &&Seen| seen.drained && !self.is_open();
        if let Some(bytes) = self.seen.as_ref().filter(is_drained).map(|seen| seen.bytes)
            && follow
        {
            if self.is_gone() {
                self.ended = true;
                return Ok(Step::Ended);
            }
            if self.growth == Growth::None && bytes == self.bytes && self.quiet_polls >= QUIET_POLLS {
                return Ok(self.rest(bytes));
            }
        }
        if self.open(shared, follow)? {
            self.start_over(shared)?;
            return Ok(Step::Replaced);
        }
        let is_gone = self.is_gone();
        let Contents::Records { records, stream: Some(stream), .. } = &mut self.contents else {
            return Ok(Step::Nothing);
        };
        let what = || self.path.display().to_string();
        let filled = records.fill(&mut *stream, records.bytes_for(rows)).map_err(|error| failed(what(), error))?;
        if filled.bytes > 0 {
            let file = stream.file().map_err(|error| failed(what(), error))?;
            if let Some(written) = written_at(file) {
                records.written_at(written);
            }
            self.quiet_polls = 0;
            if follow {
                self.identity.extend(file).map_err(|error| failed(what(), error))?;
            }
            if self.seen.take().is_some_and(|seen| !seen.torn) {
                self.growth = Growth::Appended;
            }
        }
        let quiet = self.quiet_polls >= QUIET_POLLS;
        let gone = quiet && is_gone;
        let rests = quiet && stream.is_compressed() && self.growth == Growth::None;
        let torn = stream.is_torn();
        let last = filled.at_end && !torn && (!follow || gone || rests);
        let decoded = records.decode(last).map_err(|error| named(error, &self.path))?;
        if let Some(decoded) = decoded {
            self.was_read = true;
            return Ok(Step::Rows(decoded));
        }
        if !filled.at_end {
            return Ok(Step::Nothing);
        }
        self.was_read = true;
        if !follow || gone {
            if torn {
                warn_gone(&self.path);
            }
            self.ended = true;
            self.close();
            return Ok(Step::Ended);
        }
        let drained = !torn && records.read_to() == records.position();
        self.seen = stream.compressed_bytes().map(|bytes| Seen { bytes, torn, drained });
        match &self.seen {
            Some(seen) if last => {
                let bytes = seen.bytes;
                Ok(self.rest(bytes))
            }
            _ => {
                self.waiting = true;
                Ok(Step::Nothing)
            }
        }
    }

    fn rest(&mut self, bytes: u64) -> Step {
        self.growth = Growth::AtRest(bytes);
        self.waiting = true;
        self.close();
        Step::Rests
    }

    /// Opens the file if it is not. Whether it turns out to have other contents than were read of it.
    fn open(&mut self, shared: &Shared, follow: bool) -> Result<bool, SourceError> {
        let Contents::Records { records, stream, start } = &mut self.contents else { return Ok(false) };
        let what = || self.path.display().to_string();
        let fail = |error| failed(what(), error);
        let compression = shared.catalog.spec().compression;
        if let Some(open) = stream {
            if !follow {
                return Ok(false);
            }
            let file = open.file().map_err(fail)?;
            let length = file.metadata().map_err(fail)?.len();
            let read_to = open.compressed_bytes().unwrap_or_else(|| records.read_to());
            let is_as_read = |file: &File| {
                let tail = if open.is_compressed() { &Tail::default() } else { records.tail() };
                Ok(self.identity.fits(file)? && stands_before(file, records.position(), tail)?)
            };
            let replaced = length < read_to || (length > read_to && !is_as_read(file).map_err(fail)?);
            if replaced || read_to > 0 || open.is_still(&self.path, compression).map_err(fail)? {
                return Ok(replaced);
            }
            *stream = None;
        }
        let place = place_of(records, *start);
        let resume_at = place.offset;
        let changed = || {
            let changed = format!("{} has changed since {resume_at} bytes of it were read", self.path.display());
            crate::format::unusable(changed)
        };
        if resume_at > 0 || self.seen.is_some() {
            let file = File::open(&self.path).map_err(fail)?;
            let metadata = file.metadata().map_err(fail)?;
            if follow && !self.identity.same_inode(&metadata) {
                return Err(fail(io::ErrorKind::NotFound.into()));
            }
            let length = metadata.len();
            let shorter = match &self.seen {
                Some(seen) => length < seen.bytes,
                None => length < resume_at && !Stream::open(&self.path, compression).map_err(fail)?.is_compressed(),
            };
            if shorter || !self.identity.fits(&file).map_err(fail)? {
                return if follow { Ok(true) } else { Err(changed()) };
            }
        }
        let open_at = |place| Stream::open_at(&self.path, compression, follow, place).map_err(fail);
        let Some((opened, tail)) = open_at(place)? else {
            return if follow { Ok(true) } else { Err(changed()) };
        };
        // Renamed since it was listed, and another one has its name.
        if follow && !self.identity.same_inode(&opened.file().and_then(File::metadata).map_err(fail)?) {
            return Err(fail(io::ErrorKind::NotFound.into()));
        }
        if resume_at > 0
            && let Some((head, _)) = open_at(Place::default())?
        {
            records.rewind();
            records.resume(head, resume_at, tail, &what())?;
        }
        *stream = Some(opened);
        Ok(false)
    }

    /// The file was truncated: it is read from its beginning.
    fn start_over(&mut self, shared: &Shared) -> Result<(), SourceError> {
        tracing::info!(file = %self.path.display(), read_bytes = self.position(), "a file was truncated; reading it from its beginning");
        let fail = |error| failed(self.path.display().to_string(), error);
        let Contents::Records { stream, .. } = &self.contents else { return Ok(()) };
        self.identity = match stream {
            Some(stream) => stream.file().and_then(Identity::of),
            None => Identity::at(&self.path),
        }
        .map_err(fail)?;
        self.bad_rows_before = self.bad_rows();
        let records = records(shared, &self.path)?;
        self.contents = Contents::Records { records: Box::new(records), stream: None, start: Place::default() };
        (self.growth, self.seen) = (Growth::None, None);
        Ok(())
    }
}

/// How far a file was read that was opened at `start`.
fn place_of(records: &Records, start: Place) -> Place {
    match records.position() > start.offset {
        true => Place { offset: records.position(), tail: records.tail().digest() },
        false => start,
    }
}

fn records(shared: &Shared, path: &std::path::Path) -> Result<Records, SourceError> {
    Ok(Records::new(shared.format.decoder()?, bad_rows(shared, path)))
}

fn bad_rows(shared: &Shared, path: &std::path::Path) -> BadRows {
    BadRows::new(shared.on_error, &path.display().to_string())
}

/// When a file was last written; `None` where it says a time before there were such files, as archives made to be the same
/// each time do.
fn written_at(file: &File) -> Option<Timestamp> {
    let modified = file.metadata().and_then(|metadata| metadata.modified()).ok()?;
    let since_epoch = modified.duration_since(UNIX_EPOCH).ok().filter(|since| *since > NO_MOMENT)?;
    u64::try_from(since_epoch.as_millis()).ok().map(Timestamp)
}

fn warn_gone(path: &std::path::Path) {
    tracing::warn!(file = %path.display(), "a file is gone before it was read to its end");
}

fn is_kind(error: &(dyn std::error::Error + Send + Sync + 'static), kind: io::ErrorKind) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == kind)
}

/// Says which file an error is about.
pub(super) fn named(error: SourceError, path: &std::path::Path) -> SourceError {
    match error {
        SourceError::Unusable { what, source } => {
            SourceError::Unusable { what: format!("{}: {what}", path.display()), source }
        }
        other => other,
    }
}
