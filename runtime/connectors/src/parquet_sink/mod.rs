//! The `parquet` sink: a folder of Parquet files, partitioned as Hive does it if asked.
//!
//! | | |
//! |---|---|
//! | promise | exactly once: a file appears whole, once, when its checkpoint is decided |
//! | what voids it | somebody else changes files under `.millrace-staging/`; the file system loses what was fsynced |
//! | a new file | at every epoch, one for each partition that has rows; with `batch`, when a limit is reached |
//! | changelogs | refused |
//!
//! Without `batch` rows are encoded as they come, straight into a staged file for each partition. With it they go to a
//! [staging log](log), and the files are encoded from that when a limit is reached, so that they are as large as asked for
//! however short the epochs are. Nothing is held back when the stream ends.

use std::{path::PathBuf, sync::Arc};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::future::BoxFuture;
use millrace_stream::{Clock, Epoch, Timestamp};
use tokio::sync::Mutex;

use self::files::{Describe, Encoder, Files};
use crate::{
    sink::{CommitHandle, Committer, Sink, SinkContext, SinkError, SinkFactory},
    staging::{
        Batching, Failed, Folder, FolderCommitter, Handle, Held, Pending, StagedFile, fault_point, holds, prepared,
        refused, sync_staging,
    },
};

mod columns;
mod encode;
mod files;
mod log;
mod text;

pub use encode::ParquetSettings;

pub(crate) use columns::Columns;
pub(crate) use encode::{Closed, ParquetFile};

/// Makes the parts of a `parquet` sink.
#[derive(Clone, Debug)]
pub struct ParquetSinkFactory {
    /// The folder.
    pub path: PathBuf,
    /// The columns that name the folders of partitions.
    pub partition_by: Vec<String>,
    /// How files are written.
    pub settings: ParquetSettings,
    /// When what was gathered is committed.
    pub batching: Batching,
}

impl SinkFactory for ParquetSinkFactory {
    fn open(&self, cx: SinkContext, restored: Option<CommitHandle>) -> BoxFuture<'_, Result<Box<dyn Sink>, SinkError>> {
        Box::pin(async move {
            let columns = Columns::new(&cx.schema, &self.partition_by)?;
            let sink = ParquetRows::open(
                Folder::new(self.path.clone(), &cx),
                columns,
                &cx,
                self.settings,
                self.batching,
                restored,
                |_, _| None,
            )?;
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

/// Writes rows as staged Parquet files: what a task of a `parquet` or `delta` sink does.
pub(crate) struct ParquetRows {
    encoder: Arc<Encoder>,
    batching: Batching,
    clock: Arc<dyn Clock>,
    /// The columns that come.
    schema: SchemaRef,
    /// The rows that wait for a fuller file.
    log: Option<Log>,
    scratch: Vec<u8>,
    files: Files,
    /// Shared with the future that prepares an epoch, which adds the files that it has closed.
    pending: Arc<Mutex<Pending>>,
    finishing: bool,
    failed: Failed,
}

struct Log {
    file: StagedFile,
    rows: u64,
    since: Timestamp,
}

impl ParquetRows {
    pub(crate) fn open(
        folder: Folder,
        columns: Columns,
        cx: &SinkContext,
        settings: ParquetSettings,
        batching: Batching,
        restored: Option<CommitHandle>,
        describe: Describe,
    ) -> Result<Self, SinkError> {
        if cx.changelog.is_some() {
            return Err(SinkError::Refused {
                what: format!("{} is a changelog, which Parquet files cannot carry", cx.node),
                source: None,
            });
        }
        folder.create()?;
        let properties = settings
            .properties(columns.file())
            .map_err(|source| refused(format!("{} cannot be written as Parquet", cx.node), source))?;
        let log = match restored.as_ref().map(Handle::load).transpose()?.and_then(|handle| handle.held) {
            Some(held) => {
                let file = folder.resume(&held)?;
                file.map(|file| Log { file, rows: held.rows, since: Timestamp(held.since_ms) })
            }
            None => None,
        };
        Ok(Self {
            encoder: Arc::new(Encoder { folder: Arc::new(folder), columns, properties, describe }),
            batching,
            clock: cx.clock.clone(),
            schema: cx.schema.clone(),
            log,
            scratch: Vec::new(),
            files: Files::default(),
            pending: Arc::default(),
            finishing: false,
            failed: Failed::default(),
        })
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if !self.batching.holds() {
            return self.encoder.encode(batch, &mut self.files);
        }
        self.encoder.check(batch)?;
        let log = match &mut self.log {
            Some(log) => log,
            None => {
                let mut file = self.encoder.folder.stage()?;
                log::begin(&mut file)?;
                self.log.insert(Log { file, rows: 0, since: self.clock.now() })
            }
        };
        log.rows += batch.num_rows() as u64;
        log::append(&mut log.file, batch, &mut self.scratch)
    }

    /// Seals the epoch, and leaves closing its files and making them durable to the future.
    fn close_epoch(&mut self, epoch: Epoch) -> impl Future<Output = Result<Handle, SinkError>> + Send + use<> {
        let now = self.clock.now();
        let is_due = |log: &Log| self.batching.is_due(log.rows, log.file.bytes(), log.since, now);
        let held = self.log.as_mut().filter(|log| !self.finishing && !is_due(log)).map(|log| {
            let (staged, sync) = (log.file.name().to_owned(), log.file.sync());
            (sync, Held { staged, bytes: log.file.bytes(), rows: log.rows, since_ms: log.since.0 })
        });
        let log = if held.is_some() { None } else { self.log.take() };
        self.finishing = false;
        let mut files = std::mem::take(&mut self.files);
        let (encoder, pending, schema) = (self.encoder.clone(), self.pending.clone(), self.schema.clone());
        async move {
            if let Some((sync, held)) = held {
                sync.await?;
                fault_point("sink-staged")?;
                sync_staging(&encoder.folder).await?;
                return pending.lock().await.handle(&encoder.folder, Vec::new(), Some(held), None);
            }
            let spent = log.as_ref().map(|log| log.file.name().to_owned());
            let closing = encoder.clone();
            let closed = tokio::task::spawn_blocking(move || {
                if let Some(log) = log {
                    let (path, bytes) = (log.file.path(), log.file.bytes());
                    log::read(path, bytes, &schema, |batch| closing.encode(&batch, &mut files))?;
                }
                closing.close_all(files)
            });
            let closed = closed.await.map_err(|error| refused("Parquet files were not closed".to_owned(), error))??;
            let files = encoder.make_durable(closed, epoch).await?;
            pending.lock().await.handle(&encoder.folder, files, None, spent)
        }
    }
}

impl Drop for ParquetRows {
    fn drop(&mut self) {
        self.encoder.folder.abandon();
    }
}

impl Sink for ParquetRows {
    fn write(&mut self, batch: RecordBatch) -> BoxFuture<'_, Result<(), SinkError>> {
        let taken = self.failed.check(&self.encoder.folder).and_then(|()| self.take(&batch));
        Box::pin(std::future::ready(self.failed.note(taken)))
    }

    fn prepare(&mut self, epoch: Epoch) -> BoxFuture<'static, Result<CommitHandle, SinkError>> {
        let staging = self.failed.check(&self.encoder.folder).map(|()| self.close_epoch(epoch));
        prepared(self.failed.clone(), staging)
    }

    fn finish(&mut self) {
        self.finishing = true;
    }
}

#[cfg(test)]
mod tests;
