//! The Parquet files of an epoch: one for each partition that has rows, more where one would hold too much memory.
//!
//! Only so many are written at a time. Rows of further partitions wait in memory until the epoch ends, and have a file each then;
//! where they are too many, those with the most rows get one before.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError};
use futures::future::try_join_all;
use millrace_stream::Epoch;
use parquet::file::properties::WriterProperties;

use super::{Closed, Columns, ParquetFile, columns::Part};
use crate::{
    sink::SinkError,
    staging::{Folder, Prepared, cannot, fault_point, refused, sync_staging},
};

/// How much memory the files of one task's epoch may hold before the largest is closed and a new one begun.
const MEMORY_BYTES: usize = 256 << 20;

/// How many files one task's epoch has open at the most.
const OPEN_FILES: usize = 256;

/// How many bytes of rows wait for a file, together.
const WAITING_BYTES: usize = 64 << 20;

/// About what a batch takes beside its rows.
const BATCH_BYTES: usize = 1 << 10;

/// What is noted of a file for its commit besides its name.
pub(crate) type Describe = fn(&SchemaRef, &Closed) -> Option<String>;

/// Encodes rows into staged files.
pub(super) struct Encoder {
    pub(super) folder: Arc<Folder>,
    pub(super) columns: Columns,
    pub(super) properties: WriterProperties,
    pub(super) describe: Describe,
}

/// The files of an epoch, as far as they have been begun.
#[derive(Default)]
pub(super) struct Files {
    open: HashMap<String, Open>,
    closed: Vec<(Open, Option<String>)>,
    since_check_rows: usize,
    waiting: HashMap<String, Waiting>,
    waiting_bytes: usize,
}

/// Rows of a partition that has no file.
#[derive(Default)]
struct Waiting {
    values: Vec<(String, Option<String>)>,
    batches: Vec<RecordBatch>,
    bytes: usize,
}

impl Files {
    fn wait(&mut self, part: Part) {
        let bytes = part.rows.get_array_memory_size() + BATCH_BYTES;
        let waiting = self.waiting.entry(part.directory).or_default();
        waiting.values = part.values;
        waiting.batches.push(part.rows);
        waiting.bytes += bytes;
        self.waiting_bytes += bytes;
    }
}

/// A file and the partition whose rows it has.
pub(super) struct Open {
    directory: String,
    values: Vec<(String, Option<String>)>,
    file: ParquetFile,
}

impl Encoder {
    /// Whether [`Self::encode`] can take these rows.
    pub(super) fn check(&self, batch: &RecordBatch) -> Result<(), SinkError> {
        self.columns.check(batch).map_err(cannot_store)
    }

    /// Encodes rows into the files of their partitions.
    pub(super) fn encode(&self, batch: &RecordBatch, files: &mut Files) -> Result<(), SinkError> {
        let parts = self.columns.split(batch).map_err(cannot_store)?;
        for part in parts {
            if files.open.len() >= OPEN_FILES && !files.open.contains_key(&part.directory) {
                files.wait(part);
                continue;
            }
            let open = match files.open.entry(part.directory) {
                Entry::Occupied(open) => open.into_mut(),
                Entry::Vacant(room) => {
                    let open = self.begin(room.key(), part.values)?;
                    room.insert(open)
                }
            };
            open.file.write(&part.rows).map_err(|source| parquet_error(&self.folder, source))?;
        }
        if files.waiting_bytes > WAITING_BYTES {
            self.write_waiting(files, WAITING_BYTES / 2)?;
        }
        files.since_check_rows += batch.num_rows();
        if files.since_check_rows > 65_536 {
            files.since_check_rows = 0;
            self.close_largest(files)?;
        }
        Ok(())
    }

    fn begin(&self, directory: &str, values: Vec<(String, Option<String>)>) -> Result<Open, SinkError> {
        let file = self.folder.stage()?;
        let file = ParquetFile::new(file, self.columns.file().clone(), self.properties.clone())
            .map_err(|source| refused("a Parquet file cannot be begun".to_owned(), source))?;
        Ok(Open { directory: directory.to_owned(), values, file })
    }

    /// Gives files to the partitions that have the most rows waiting, until what waits takes no more than that.
    fn write_waiting(&self, files: &mut Files, most_bytes: usize) -> Result<(), SinkError> {
        let mut sizes: Vec<(usize, String)> =
            files.waiting.iter().map(|(directory, waiting)| (waiting.bytes, directory.clone())).collect();
        sizes.sort_unstable_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        for (bytes, directory) in sizes {
            if files.waiting_bytes <= most_bytes {
                break;
            }
            files.waiting_bytes -= bytes;
            let Some(Waiting { values, batches, .. }) = files.waiting.remove(&directory) else { continue };
            let mut open = self.begin(&directory, values)?;
            for rows in &batches {
                open.file.write(rows).map_err(|source| parquet_error(&self.folder, source))?;
            }
            self.end(open, files)?;
        }
        Ok(())
    }

    /// Closes the largest files while they hold too much memory.
    fn close_largest(&self, files: &mut Files) -> Result<(), SinkError> {
        loop {
            let sizes = files.open.iter().map(|(directory, open)| (open.file.memory_bytes(), directory));
            let Some((_, largest)) = sizes.clone().max() else { return Ok(()) };
            if sizes.map(|(bytes, _)| bytes).sum::<usize>() <= MEMORY_BYTES {
                return Ok(());
            }
            let largest = largest.clone();
            self.close(&largest, files)?;
        }
    }

    fn close(&self, directory: &str, files: &mut Files) -> Result<(), SinkError> {
        match files.open.remove(directory) {
            Some(open) => self.end(open, files),
            None => Ok(()),
        }
    }

    fn end(&self, open: Open, files: &mut Files) -> Result<(), SinkError> {
        let Open { directory, values, file } = open;
        let mut closed = file.close().map_err(|source| parquet_error(&self.folder, source))?;
        closed.file.staged().let_go()?;
        let stats = (self.describe)(self.columns.file(), &closed);
        files.closed.push((Open { directory, values, file: closed.file }, stats));
        Ok(())
    }

    /// Ends all files, in the order of their partitions. What is left to be encoded is encoded here.
    pub(super) fn close_all(&self, mut files: Files) -> Result<Vec<(Open, Option<String>)>, SinkError> {
        let mut directories: Vec<String> = files.open.keys().cloned().collect();
        directories.sort_unstable();
        for directory in &directories {
            self.close(directory, &mut files)?;
        }
        self.write_waiting(&mut files, 0)?;
        Ok(files.closed)
    }

    /// Makes ended files durable, and says what they are to be called.
    pub(super) async fn make_durable(
        &self,
        mut closed: Vec<(Open, Option<String>)>,
        epoch: Epoch,
    ) -> Result<Vec<Prepared>, SinkError> {
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

fn cannot_store(source: ArrowError) -> SinkError {
    refused("rows cannot be stored".to_owned(), source)
}
