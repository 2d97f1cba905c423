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

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::{future::BoxFuture, future::try_join_all};
use millrace_stream::{Clock, Epoch, Timestamp};
use parquet::file::properties::WriterProperties;

use crate::{
    file_sink::{FolderCommitter, failed_before, sync_staging},
    sink::{CommitHandle, Committer, Sink, SinkContext, SinkError, SinkFactory},
    staging::{Batching, Folder, Handle, Held, Pending, Prepared, StagedFile, cannot, fault_point, refused},
};

mod columns;
mod encode;
mod log;
mod text;

pub use encode::ParquetSettings;

pub(crate) use columns::Columns;
pub(crate) use encode::{Closed, ParquetFile};

/// How much memory the files of one task may hold before the largest is closed and a new one begun.
const MEMORY_BYTES: usize = 256 << 20;

/// How many files one task has open at the most.
const OPEN_FILES: usize = 256;

/// What is noted of a file for its commit besides its name.
pub(crate) type Describe = fn(&SchemaRef, &Closed) -> Option<String>;

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

    fn committer(&self, cx: SinkContext) -> BoxFuture<'_, Result<Box<dyn Committer>, SinkError>> {
        let folder = Folder::new(self.path.clone(), &cx);
        Box::pin(async move { Ok(Box::new(FolderCommitter::new(folder)?) as Box<dyn Committer>) })
    }
}

/// Writes rows as staged Parquet files: what a task of a `parquet` or `delta` sink does.
pub(crate) struct ParquetRows {
    folder: Folder,
    columns: Columns,
    properties: WriterProperties,
    batching: Batching,
    clock: Arc<dyn Clock>,
    describe: Describe,
    /// The columns that come.
    schema: SchemaRef,
    /// The rows that wait for a fuller file.
    log: Option<Log>,
    scratch: Vec<u8>,
    files: Files,
    pending: Pending,
    finishing: bool,
    failed: bool,
}

struct Log {
    file: StagedFile,
    rows: u64,
    since: Timestamp,
}

/// The files of an epoch.
#[derive(Default)]
struct Files {
    open: HashMap<String, Open>,
    closed: Vec<(Open, Option<String>)>,
    since_check_rows: usize,
}

struct Open {
    directory: String,
    values: Vec<(String, Option<String>)>,
    file: ParquetFile,
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
            Some(held) => Some(Log { file: folder.resume(&held)?, rows: held.rows, since: Timestamp(held.since_ms) }),
            None => None,
        };
        Ok(Self {
            folder,
            columns,
            properties,
            batching,
            clock: cx.clock.clone(),
            describe,
            schema: cx.schema.clone(),
            log,
            scratch: Vec::new(),
            files: Files::default(),
            pending: Pending::default(),
            finishing: false,
            failed: false,
        })
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if !self.batching.holds() {
            return self.encode(batch);
        }
        let log = match &mut self.log {
            Some(log) => log,
            None => {
                let mut file = self.folder.stage()?;
                log::begin(&mut file)?;
                self.log.insert(Log { file, rows: 0, since: self.clock.now() })
            }
        };
        log.rows += batch.num_rows() as u64;
        log::append(&mut log.file, batch, &mut self.scratch)
    }

    /// Encodes rows into the files of their partitions.
    fn encode(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        let parts = self.columns.split(batch).map_err(|source| refused("rows cannot be stored".to_owned(), source))?;
        for part in parts {
            let open = match self.files.open.get_mut(&part.directory) {
                Some(open) => open,
                None => {
                    if self.files.open.len() >= OPEN_FILES {
                        self.close_largest()?;
                    }
                    let file = self.folder.stage()?;
                    let file = ParquetFile::new(file, self.columns.file().clone(), self.properties.clone())
                        .map_err(|source| refused("a Parquet file cannot be begun".to_owned(), source))?;
                    let open = Open { directory: part.directory.clone(), values: part.values, file };
                    self.files.open.entry(part.directory).or_insert(open)
                }
            };
            open.file.write(&part.rows).map_err(|source| parquet_error(&self.folder, source))?;
        }
        self.files.since_check_rows += batch.num_rows();
        if self.files.since_check_rows > 65_536 {
            self.files.since_check_rows = 0;
            self.close_largest()?;
        }
        Ok(())
    }

    /// Closes the largest files while they hold too much memory, or are too many.
    fn close_largest(&mut self) -> Result<(), SinkError> {
        loop {
            let sizes = self.files.open.iter().map(|(directory, open)| (open.file.memory_bytes(), directory));
            let Some((_, largest)) = sizes.clone().max() else { return Ok(()) };
            let all: usize = sizes.map(|(bytes, _)| bytes).sum();
            if all <= MEMORY_BYTES && self.files.open.len() < OPEN_FILES {
                return Ok(());
            }
            let largest = largest.clone();
            self.close(&largest)?;
        }
    }

    fn close(&mut self, directory: &str) -> Result<(), SinkError> {
        let Some(Open { directory, values, file }) = self.files.open.remove(directory) else { return Ok(()) };
        let closed = file.close().map_err(|source| parquet_error(&self.folder, source))?;
        let stats = (self.describe)(self.columns.file(), &closed);
        self.files.closed.push((Open { directory, values, file: closed.file }, stats));
        Ok(())
    }

    async fn close_epoch(&mut self, epoch: Epoch) -> Result<Handle, SinkError> {
        if let Some(log) = &mut self.log {
            let now = self.clock.now();
            if !self.finishing && !self.batching.is_due(log.rows, log.file.bytes(), log.since, now) {
                log.file.sync().await?;
                fault_point("sink-staged")?;
                sync_staging(&self.folder).await?;
                let staged = log.file.name().to_owned();
                let (bytes, rows) = (log.file.bytes(), log.rows);
                let held = Held { staged, bytes, rows, since_ms: log.since.0 };
                return Ok(self.pending.handle(&self.folder, Vec::new(), Some(held), None));
            }
        }
        let mut spent = None;
        if let Some(log) = self.log.take() {
            let schema = self.schema.clone();
            log::read(log.file.path(), log.file.bytes(), &schema, |batch| self.encode(&batch))?;
            spent = Some(log.file.name().to_owned());
        }
        let files = self.stage_files(epoch).await?;
        Ok(self.pending.handle(&self.folder, files, None, spent))
    }

    async fn stage_files(&mut self, epoch: Epoch) -> Result<Vec<Prepared>, SinkError> {
        let mut directories: Vec<String> = self.files.open.keys().cloned().collect();
        directories.sort_unstable();
        for directory in &directories {
            self.close(directory)?;
        }
        let mut closed = std::mem::take(&mut self.files.closed);
        if closed.is_empty() {
            return Ok(Vec::new());
        }
        try_join_all(closed.iter_mut().map(|(open, _)| open.file.staged().sync())).await?;
        fault_point("sink-staged")?;
        sync_staging(&self.folder).await?;
        let files = closed.into_iter().enumerate().map(|(number, (mut open, stats))| Prepared {
            staged: open.file.staged().name().to_owned(),
            name: self.folder.final_name(epoch, number, &open.directory, "parquet"),
            epoch: epoch.0,
            rows: open.file.rows(),
            bytes: open.file.staged().bytes(),
            partition: open.values,
            stats,
        });
        Ok(files.collect())
    }
}

/// An error of the Parquet writer: a full disk and the like, or something about the rows.
fn parquet_error(folder: &Folder, error: parquet::errors::ParquetError) -> SinkError {
    match error {
        parquet::errors::ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(source) => cannot("write", folder.staging(), *source),
            Err(source) => {
                SinkError::Refused { what: "rows cannot be written as Parquet".to_owned(), source: Some(source) }
            }
        },
        source => refused("rows cannot be written as Parquet".to_owned(), source),
    }
}

impl Sink for ParquetRows {
    fn write(&mut self, batch: RecordBatch) -> BoxFuture<'_, Result<(), SinkError>> {
        let result = if self.failed { Err(failed_before(&self.folder)) } else { self.take(&batch) };
        self.failed |= result.is_err();
        Box::pin(std::future::ready(result))
    }

    fn prepare(&mut self, epoch: Epoch) -> BoxFuture<'_, Result<CommitHandle, SinkError>> {
        Box::pin(async move {
            if self.failed {
                return Err(failed_before(&self.folder));
            }
            let result = self.close_epoch(epoch).await;
            self.failed = result.is_err();
            fault_point("sink-prepared")?;
            result?.store()
        })
    }

    fn finish(&mut self) {
        self.finishing = true;
    }
}

#[cfg(test)]
mod tests;
