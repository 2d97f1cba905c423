//! The `file` sink: a folder into which whole files of rows are committed, a row a line.
//!
//! | | |
//! |---|---|
//! | promise | exactly once: a file appears whole, once, when its checkpoint is decided |
//! | what voids it | somebody else changes files under `.millrace-staging/`; the file system loses what was fsynced |
//! | a new file | at every epoch that has rows; with `batch`, at the first epoch's end that finds a limit reached |
//! | changelogs | JSON: each row begins with `_op`; CSV: refused |
//!
//! Rows are encoded into a buffer of [`BUFFER_BYTES`] and written to the staged file when it is full. See
//! [`staging`](crate::staging) for how a file becomes visible.

use std::{path::PathBuf, sync::Arc};

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use millrace_stream::{Clock, Epoch, Timestamp};

use crate::{
    sink::{CommitHandle, Committer, Sink, SinkContext, SinkError, SinkFactory},
    staging::{
        Batching, Failed, Folder, FolderCommitter, Handle, Held, Pending, Prepared, StagedFile, fault_point, holds,
        prepared, refused, sync_staging,
    },
};

mod csv;
mod ndjson;
mod text;
mod values;

pub(crate) use csv::CsvEncoder;
pub(crate) use ndjson::{NdjsonEncoder, operation_name, write_string, write_value};
pub(crate) use text::{write_date, write_decimal, write_f32, write_f64, write_timestamp};
pub(crate) use values::{Column, Values};

/// How much is encoded before it is written.
const BUFFER_BYTES: usize = 256 << 10;

/// The form of the rows in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// A JSON object a line.
    Json,
    /// Separated values.
    Csv {
        /// Between two values.
        delimiter: u8,
        /// Whether a file begins with the columns' names.
        header: bool,
    },
}

/// Makes the parts of a `file` sink.
#[derive(Clone, Debug)]
pub struct FileSinkFactory {
    /// The folder.
    pub path: PathBuf,
    /// The form of the rows.
    pub format: FileFormat,
    /// When what was gathered is committed.
    pub batching: Batching,
}

impl SinkFactory for FileSinkFactory {
    fn open(&self, cx: SinkContext, restored: Option<CommitHandle>) -> BoxFuture<'_, Result<Box<dyn Sink>, SinkError>> {
        Box::pin(async move {
            let folder = Arc::new(Folder::new(self.path.clone(), &cx));
            folder.create()?;
            let encoder = self.encoder(&cx)?;
            let held = restored.as_ref().map(Handle::load).transpose()?.and_then(|handle| handle.held);
            let current = match held {
                Some(held) => {
                    folder.resume(&held)?.map(|file| Current { file, rows: held.rows, since: Timestamp(held.since_ms) })
                }
                None => None,
            };
            let sink = FileSink {
                folder,
                encoder,
                batching: self.batching,
                clock: cx.clock.clone(),
                buffer: Vec::with_capacity(BUFFER_BYTES + BUFFER_BYTES / 4),
                current,
                pending: Pending::default(),
                finishing: false,
                failed: Failed::default(),
            };
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }

    fn holds(&self, handle: &CommitHandle) -> bool {
        holds(handle)
    }

    fn committer(&self, cx: SinkContext) -> BoxFuture<'_, Result<Box<dyn Committer>, SinkError>> {
        let folder = Folder::new(self.path.clone(), &cx);
        Box::pin(async move { Ok(Box::new(FolderCommitter::new(folder, &cx)?) as Box<dyn Committer>) })
    }
}

impl FileSinkFactory {
    fn encoder(&self, cx: &SinkContext) -> Result<Encoder, SinkError> {
        match self.format {
            FileFormat::Json => Ok(Encoder::Json(NdjsonEncoder::new(&cx.schema, cx.changelog.is_some()))),
            FileFormat::Csv { .. } if cx.changelog.is_some() => Err(SinkError::Refused {
                what: format!("{} is a changelog, and CSV files cannot carry one; use format: {{json: {{}}}}", cx.node),
                source: None,
            }),
            FileFormat::Csv { delimiter, header } => Ok(Encoder::Csv(CsvEncoder::new(&cx.schema, delimiter, header))),
        }
    }
}

enum Encoder {
    Json(NdjsonEncoder),
    Csv(CsvEncoder),
}

impl Encoder {
    fn header(&self) -> &[u8] {
        match self {
            Self::Json(_) => b"",
            Self::Csv(csv) => csv.header(),
        }
    }

    fn encode(&self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), SinkError> {
        let encoded = match self {
            Self::Json(json) => json.encode(batch, out),
            Self::Csv(csv) => csv.encode(batch, out),
        };
        encoded.map_err(|source| refused("a value cannot be written as text".to_owned(), source))
    }

    fn extension(&self) -> &'static str {
        match self {
            Self::Json(_) => "ndjson",
            Self::Csv(_) => "csv",
        }
    }
}

/// The file that is being written.
struct Current {
    file: StagedFile,
    rows: u64,
    since: Timestamp,
}

struct FileSink {
    folder: Arc<Folder>,
    encoder: Encoder,
    batching: Batching,
    clock: Arc<dyn Clock>,
    /// Encoded rows of `current` that are not in the file yet.
    buffer: Vec<u8>,
    current: Option<Current>,
    pending: Pending,
    finishing: bool,
    failed: Failed,
}

impl FileSink {
    fn take(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let current = match &mut self.current {
            Some(current) => current,
            None => {
                self.buffer.extend_from_slice(self.encoder.header());
                self.current.insert(Current { file: self.folder.stage()?, rows: 0, since: self.clock.now() })
            }
        };
        current.rows += batch.num_rows() as u64;
        // In pieces, so that the buffer stays small whatever the batch's size.
        let mut at = 0;
        while at < batch.num_rows() {
            let rows = (batch.num_rows() - at).min(1024);
            self.encoder.encode(&batch.slice(at, rows), &mut self.buffer)?;
            at += rows;
            if self.buffer.len() >= BUFFER_BYTES {
                current.file.append(&self.buffer)?;
                self.buffer.clear();
            }
        }
        Ok(())
    }

    /// Ends the file, or the part of it that belongs to this epoch, and leaves making it durable to the future.
    fn close_epoch(
        &mut self,
        epoch: Epoch,
    ) -> Result<impl Future<Output = Result<Handle, SinkError>> + Send + use<>, SinkError> {
        let (mut files, mut held, mut sync) = (Vec::new(), None, None);
        if let Some(mut current) = self.current.take() {
            current.file.append(&self.buffer)?;
            self.buffer.clear();
            sync = Some(current.file.sync());
            let (rows, bytes) = (current.rows, current.file.bytes());
            let staged = current.file.name().to_owned();
            if self.finishing || self.batching.is_due(rows, bytes, current.since, self.clock.now()) {
                let name = self.folder.final_name(epoch, 0, "", self.encoder.extension());
                files.push(Prepared { staged, name, epoch: epoch.0, rows, bytes, ..Prepared::default() });
            } else {
                held = Some(Held { staged, bytes, rows, since_ms: current.since.0 });
                self.current = Some(current);
            }
        }
        self.finishing = false;
        let handle = self.pending.handle(&self.folder, files, held, None)?;
        let folder = Arc::clone(&self.folder);
        Ok(async move {
            if let Some(sync) = sync {
                sync.await?;
                fault_point("sink-staged")?;
                sync_staging(&folder).await?;
            }
            Ok(handle)
        })
    }
}

impl Sink for FileSink {
    fn write(&mut self, batch: RecordBatch) -> BoxFuture<'_, Result<(), SinkError>> {
        let taken = self.failed.check(&self.folder).and_then(|()| self.take(&batch));
        Box::pin(std::future::ready(self.failed.note(taken)))
    }

    fn prepare(&mut self, epoch: Epoch) -> BoxFuture<'static, Result<CommitHandle, SinkError>> {
        let staging = self.failed.check(&self.folder).and_then(|()| self.close_epoch(epoch));
        prepared(self.failed.clone(), staging)
    }

    fn finish(&mut self) {
        self.finishing = true;
    }
}

#[cfg(test)]
mod tests;
