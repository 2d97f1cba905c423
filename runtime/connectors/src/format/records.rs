//! A stream of bytes, cut into chunks of complete records and decoded.
//!
//! ```text
//! read ──> pending: [ record | record | rec… ]     complete records become a chunk, the rest is carried over
//!          position ┘
//! ```
//!
//! `position` is where the first byte that was not decoded stands in the (uncompressed) stream: a split's replay point. A
//! record longer than [`MAX_RECORD_BYTES`](super::MAX_RECORD_BYTES) is passed over up to the next line feed, and is one
//! bad row.

use std::io::{self, Read};

use arrow::array::RecordBatch;
use millrace_stream::Timestamp;

use super::{BadRows, Chunk, Decoder, MAX_RECORD_BYTES, PADDING, tail::Tail};
use crate::{Origin, Position, SourceError};

/// How much of a record that is too long is kept for the error.
const KEPT_BYTES: usize = 4 << 10;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    /// How many bytes.
    pub(crate) bytes: usize,
    /// Whether the stream's end, as it is now, was reached.
    pub(crate) at_end: bool,
}

/// Rows of one chunk.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) rows: RecordBatch,
    pub(crate) errors: Option<RecordBatch>,
    pub(crate) bytes: u64,
}

/// Cuts and decodes one split's stream.
pub(crate) struct Records {
    decoder: Box<dyn Decoder>,
    bad: BadRows,
    pending: Vec<u8>,
    /// Memory for the next chunk.
    spare: Vec<u8>,
    /// The chunk that was decoded last, for whoever asks for the bytes of its rows.
    last: Option<Chunk>,
    position: u64,
    /// What stands before `position`.
    tail: Tail,
    begun: bool,
    overlong: Option<Overlong>,
    row_bytes: usize,
}

/// A record that is too long, being passed over.
struct Overlong {
    head: Vec<u8>,
    passed: u64,
    /// What stands before the next byte.
    tail: Tail,
}

impl Records {
    /// Decodes a stream from its first byte.
    pub(crate) fn new(decoder: Box<dyn Decoder>, bad: BadRows) -> Self {
        Self {
            decoder,
            bad,
            pending: Vec::new(),
            spare: Vec::new(),
            last: None,
            position: 0,
            tail: Tail::default(),
            begun: false,
            overlong: None,
            row_bytes: 128,
        }
    }

    /// Where the first byte stands that was not decoded.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// What stands before [`Self::position`].
    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Where the first byte stands that was not read.
    pub(crate) fn read_to(&self) -> u64 {
        self.position + self.pending.len() as u64 + self.overlong.as_ref().map_or(0, |overlong| overlong.passed)
    }

    /// What is read next was written at this moment, or before.
    pub(crate) fn written_at(&mut self, moment: Timestamp) {
        self.decoder.written_at(moment);
    }

    /// How many bad rows there were.
    pub(crate) fn bad_rows(&self) -> u64 {
        self.bad.total()
    }

    /// Goes on at `position`, behind `tail`. `head` are the stream's first bytes, as many as there are or as it needs.
    ///
    /// # Errors
    ///
    /// When the decoder cannot use the stream at all.
    pub(crate) fn resume(
        &mut self,
        mut head: impl Read,
        position: u64,
        tail: Tail,
        what: &str,
    ) -> Result<(), SourceError> {
        let mut bytes = Vec::new();
        loop {
            let ended = {
                let failed = |source| SourceError::Io { what: what.to_owned(), source };
                (&mut head).take(64 << 10).read_to_end(&mut bytes).map_err(failed)? == 0
            };
            if let Some(taken) = self.decoder.preamble(&bytes, ended)? {
                (self.position, self.tail) = match taken as u64 > position {
                    true => (taken as u64, Tail::of(&bytes[..taken.min(bytes.len())])),
                    false => (position, tail),
                };
                self.begun = true;
                return Ok(());
            }
            if ended || bytes.len() > MAX_RECORD_BYTES {
                return Err(super::unusable(format!("{what} has no complete header")));
            }
        }
    }

    /// Forgets what was read and not decoded, so that the stream can be read again from [`Self::position`].
    pub(crate) fn rewind(&mut self) {
        self.pending = Vec::new();
        self.spare = Vec::new();
        self.last = None;
        self.overlong = None;
    }

    /// How many bytes make about `rows` rows.
    pub(crate) fn bytes_for(&self, rows: usize) -> usize {
        rows.saturating_mul(self.row_bytes).clamp(32 << 10, 1 << 20)
    }

    /// Reads about `want` bytes.
    pub(crate) fn fill(&mut self, mut input: impl Read, want: usize) -> io::Result<Filled> {
        let start = self.pending.len();
        self.pending.reserve(want + PADDING);
        self.pending.resize(start + want, 0);
        let mut filled = Filled { bytes: 0, at_end: false };
        let outcome = loop {
            if filled.bytes == want {
                break Ok(());
            }
            match input.read(&mut self.pending[start + filled.bytes..]) {
                Ok(0) => {
                    filled.at_end = true;
                    break Ok(());
                }
                Ok(read) => filled.bytes += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.pending.truncate(start + filled.bytes);
        outcome.map(|()| filled)
    }

    /// Where rows that were decoded last come from, by their numbers.
    ///
    /// # Errors
    ///
    /// When they are not to be found.
    pub(crate) fn origins(&mut self, rows: &[usize]) -> Result<Vec<Origin>, SourceError> {
        let source = self.bad.source();
        let lost = || super::unusable(format!("rows of {source} are not to be found again"));
        let chunk = self.last.as_ref().ok_or_else(lost)?;
        let spans = self.decoder.spans(chunk)?;
        let origin = |row: &usize| {
            let span = spans.get(*row).cloned().ok_or_else(lost)?;
            let position = Position::Byte(chunk.offset() + span.start as u64);
            Ok(Origin { source: source.clone(), position, raw: Some(chunk.bytes()[span].to_vec()) })
        };
        rows.iter().map(origin).collect()
    }

    /// Gives the chunk that was decoded last up: nobody will ask for its rows.
    pub(crate) fn recycle(&mut self) {
        if let Some(chunk) = self.last.take() {
            self.spare = chunk.into_memory().unwrap_or_default();
        }
    }

    /// Decodes the complete records of what was read; if it is the `last`, all of it. `None`: there are none.
    ///
    /// # Errors
    ///
    /// When there is a bad row and `onError` is `Fail`, or the stream cannot be decoded at all.
    pub(crate) fn decode(&mut self, last: bool) -> Result<Option<Decoded>, SourceError> {
        self.recycle();
        if !self.begun {
            let Some(taken) = self.decoder.preamble(&self.pending, last)? else {
                if !last && self.pending.len() > MAX_RECORD_BYTES {
                    return Err(super::unusable("a header is longer than 16 MiB".to_owned()));
                }
                return Ok(None);
            };
            self.begun = true;
            let preamble = self.pending.drain(..taken.min(self.pending.len()));
            self.tail.pass(preamble.as_slice());
            drop(preamble);
            self.position += taken as u64;
        }
        self.pass_over(last);
        if self.overlong.is_some() {
            return Ok(None);
        }
        let complete = if last { self.pending.len() } else { self.decoder.complete(&self.pending) };
        if complete == 0 {
            if self.pending.len() > MAX_RECORD_BYTES {
                let head = self.pending[..KEPT_BYTES].to_vec();
                let mut tail = self.tail.clone();
                tail.pass(&self.pending);
                self.overlong = Some(Overlong { head, passed: self.pending.len() as u64, tail });
                self.pending.clear();
            }
            return self.empty();
        }
        let mut next = std::mem::take(&mut self.spare);
        next.clear();
        next.extend_from_slice(&self.pending[complete..]);
        let chunk = Chunk::new(std::mem::replace(&mut self.pending, next), complete, self.position);
        let rows = self.decoder.decode(&chunk, &mut self.bad)?;
        self.position += complete as u64;
        self.tail.pass(chunk.bytes());
        self.last = Some(chunk);
        if rows.num_rows() > 0 {
            self.row_bytes = (complete / rows.num_rows()).max(1);
        }
        Ok(Some(Decoded { rows, errors: self.bad.take()?, bytes: complete as u64 }))
    }

    /// A record that was passed over may have been the only thing to report.
    fn empty(&mut self) -> Result<Option<Decoded>, SourceError> {
        let Some(errors) = self.bad.take()? else { return Ok(None) };
        let rows = self.decoder.decode(&Chunk::copy_of(b"", self.position), &mut self.bad)?;
        Ok(Some(Decoded { rows, errors: Some(errors), bytes: 0 }))
    }

    /// Passes over the rest of a record that is too long.
    fn pass_over(&mut self, last: bool) {
        let Some(overlong) = &mut self.overlong else { return };
        let end = match memchr::memchr(b'\n', &self.pending) {
            Some(at) => at + 1,
            None if last => self.pending.len(),
            None => {
                overlong.passed += self.pending.len() as u64;
                overlong.tail.pass(&self.pending);
                self.pending.clear();
                return;
            }
        };
        self.bad.push(&overlong.head, self.position, "the row is longer than 16 MiB");
        self.position += overlong.passed + end as u64;
        overlong.tail.pass(&self.pending[..end]);
        self.tail = std::mem::take(&mut overlong.tail);
        self.pending.drain(..end);
        self.overlong = None;
    }
}
