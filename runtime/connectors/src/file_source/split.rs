//! One file, being read.
//!
//! A followed file is looked at again at each poll. It has grown: reading goes on. It is shorter, or begins with other
//! bytes: it was truncated, and is read from its beginning. No path leads to it any more: it was rotated away or deleted,
//! and has ended when nothing more has come for [`GONE_POLLS`] polls. The last line of a followed file is a row once its
//! line feed has come, or when the file has ended.

use std::{
    fs::File,
    io,
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use millrace_stream::{EventTime, Timestamp};

use super::{Shared, catalog::Entry, identity::Identity, parquet::ParquetSplit, reader::failed, stream::Stream};
use crate::{
    Origin, SourceError, SplitId,
    format::{
        BadRows,
        records::{Decoded, Records},
    },
};

/// After how many polls without growth a file that is gone has ended.
const GONE_POLLS: u32 = 3;
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
    contents: Contents,
    /// At the end of what there is, until the next poll.
    waiting: bool,
    present: bool,
    quiet_polls: u32,
    bytes: u64,
    /// Of what the file was before it was truncated.
    bad_rows_before: u64,
}

enum Contents {
    Records { records: Box<Records>, stream: Option<Stream>, start: u64 },
    Parquet(Box<ParquetSplit>),
}

/// What a read came to.
pub(super) enum Step {
    Rows(Decoded),
    /// The file has other contents now.
    Replaced,
    Nothing,
    Ended,
}

impl Split {
    pub(super) fn new(shared: &Shared, entry: Entry) -> Result<Self, SourceError> {
        let point = entry.point;
        let contents = if shared.format.is_parquet() {
            Contents::Parquet(Box::new(ParquetSplit::new(
                shared.format.clone(),
                bad_rows(shared, &point.path),
                point.offset,
            )))
        } else {
            let records = records(shared, &point.path)?;
            Contents::Records { records: Box::new(records), stream: None, start: point.offset }
        };
        Ok(Self {
            id: entry.id,
            path: point.path,
            identity: point.identity,
            watermark: EventTime::MIN,
            was_read: false,
            ended: point.ended,
            contents,
            waiting: false,
            present: entry.present,
            quiet_polls: 0,
            bytes: entry.bytes,
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
        }
    }

    pub(super) fn is_compressed(&self) -> bool {
        matches!(&self.contents, Contents::Records { stream: Some(stream), .. } if stream.is_compressed())
    }

    pub(super) fn close(&mut self) {
        match &mut self.contents {
            Contents::Records { records, stream, start } => {
                *start = records.position().max(*start);
                records.rewind();
                *stream = None;
            }
            Contents::Parquet(parquet) => parquet.close(),
        }
    }

    /// A poll begins: what it finds is told by [`Self::found`].
    pub(super) fn begin_poll(&mut self) {
        self.present = false;
        self.quiet_polls += u32::from(self.waiting);
        self.waiting = false;
    }

    pub(super) fn found(&mut self, entry: Entry) {
        self.present = entry.present;
        if entry.present {
            self.path = entry.point.path;
            self.bytes = entry.bytes;
        }
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.ended && !self.present
    }

    /// Where reading is resumed.
    pub(super) fn position(&self) -> u64 {
        match &self.contents {
            Contents::Records { records, start, .. } => records.position().max(*start),
            Contents::Parquet(parquet) => parquet.position(),
        }
    }

    pub(super) fn unread_bytes(&self) -> Option<u64> {
        match &self.contents {
            Contents::Parquet(parquet) => Some(parquet.unread_bytes(self.bytes)),
            Contents::Records { .. } => (!self.is_compressed()).then(|| self.bytes.saturating_sub(self.position())),
        }
    }

    pub(super) fn bad_rows(&self) -> u64 {
        self.bad_rows_before
            + match &self.contents {
                Contents::Records { records, .. } => records.bad_rows(),
                Contents::Parquet(parquet) => parquet.bad_rows(),
            }
    }

    /// Where rows that were read last come from, by their numbers.
    pub(super) fn origins(&mut self, rows: &[usize]) -> Result<Vec<Origin>, SourceError> {
        match &mut self.contents {
            Contents::Records { records, .. } => records.origins(rows),
            Contents::Parquet(parquet) => Ok(parquet.origins(&self.path, rows)),
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
                if follow && is_kind(source.as_ref(), io::ErrorKind::UnexpectedEof) && self.present =>
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
                tracing::warn!(file = %self.path.display(), "a file is gone before it was read to its end");
                self.ended = true;
                Ok(Step::Ended)
            }
            other => other,
        }
    }

    fn read_contents(&mut self, shared: &Shared, rows: usize, follow: bool) -> Result<Step, SourceError> {
        if let Contents::Parquet(parquet) = &mut self.contents {
            let step = match parquet.read(&self.path, rows)? {
                Some(decoded) => Step::Rows(decoded),
                None => {
                    self.ended = true;
                    Step::Ended
                }
            };
            self.was_read = true;
            return Ok(step);
        }
        if self.open(shared, follow)? {
            self.start_over(shared)?;
            return Ok(Step::Replaced);
        }
        let Contents::Records { records, stream: Some(stream), .. } = &mut self.contents else {
            return Ok(Step::Nothing);
        };
        let what = || self.path.display().to_string();
        let filled = records.fill(&mut *stream, records.bytes_for(rows)).map_err(|error| failed(what(), error))?;
        let gone = !self.present && self.quiet_polls >= GONE_POLLS;
        let last = filled.at_end && (!follow || stream.is_compressed() || gone);
        if filled.bytes > 0 {
            if let Some(written) = written_at(stream.file()) {
                records.written_at(written);
            }
            self.quiet_polls = 0;
            if follow {
                self.identity.extend(stream.file()).map_err(|error| failed(what(), error))?;
            }
        }
        let decoded = records.decode(last).map_err(|error| named(error, &self.path))?;
        if let Some(decoded) = decoded {
            self.was_read = true;
            return Ok(Step::Rows(decoded));
        }
        if last {
            self.ended = true;
            self.was_read = true;
            self.close();
            return Ok(Step::Ended);
        }
        if filled.at_end {
            self.waiting = true;
            self.was_read = true;
        }
        Ok(Step::Nothing)
    }

    /// Opens the file if it is not. Whether it turns out to have other contents than were read of it.
    fn open(&mut self, shared: &Shared, follow: bool) -> Result<bool, SourceError> {
        let Contents::Records { records, stream, start } = &mut self.contents else { return Ok(false) };
        let what = || self.path.display().to_string();
        let fail = |error| failed(what(), error);
        if let Some(stream) = stream {
            // Only what has come to its end can have been truncated behind it.
            if !follow || stream.is_compressed() {
                return Ok(false);
            }
            let length = stream.file().metadata().map_err(fail)?.len();
            let grown = length > records.read_to();
            let replaced =
                length < records.read_to() || (grown && !self.identity.begins(stream.file()).map_err(fail)?);
            return Ok(replaced);
        }
        let compression = shared.catalog.spec().compression;
        let resume_at = records.position().max(*start);
        if resume_at > 0 {
            let plain = File::open(&self.path).map_err(fail)?;
            let shorter = || -> io::Result<bool> {
                let head = Stream::open(&self.path, compression, 0)?;
                Ok(!head.is_compressed() && plain.metadata()?.len() < resume_at)
            };
            if !self.identity.begins(&plain).map_err(fail)? || shorter().map_err(fail)? {
                if follow {
                    return Ok(true);
                }
                return Err(crate::format::unusable(format!(
                    "{} has changed since {resume_at} bytes of it were read",
                    self.path.display()
                )));
            }
            records.rewind();
            let head = Stream::open(&self.path, compression, 0).map_err(fail)?;
            records.resume(head, resume_at, &what())?;
        }
        let opened = Stream::open(&self.path, compression, resume_at).map_err(fail)?;
        *stream = Some(opened);
        Ok(false)
    }

    /// The file was truncated: it is read from its beginning.
    fn start_over(&mut self, shared: &Shared) -> Result<(), SourceError> {
        tracing::info!(file = %self.path.display(), read_bytes = self.position(), "a file was truncated; reading it from its beginning");
        let fail = |error| failed(self.path.display().to_string(), error);
        let Contents::Records { stream, .. } = &self.contents else { return Ok(()) };
        self.identity = match stream {
            Some(stream) => Identity::of(stream.file()),
            None => Identity::at(&self.path),
        }
        .map_err(fail)?;
        self.bad_rows_before = self.bad_rows();
        let records = records(shared, &self.path)?;
        self.contents = Contents::Records { records: Box::new(records), stream: None, start: 0 };
        Ok(())
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
