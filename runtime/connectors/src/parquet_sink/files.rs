//! The Parquet files of an epoch: one for each partition that has rows, more where one would hold too much memory.

use std::{collections::HashMap, sync::Arc};

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError};
use futures::future::try_join_all;
use millrace_stream::Epoch;
use parquet::file::properties::WriterProperties;

use super::{Closed, Columns, ParquetFile};
use crate::{
    sink::SinkError,
    staging::{Folder, Prepared, cannot, fault_point, refused, sync_staging},
};

/// How much memory the files of one task's epoch may hold before the largest is closed and a new one begun.
const MEMORY_BYTES: usize = 256 << 20;

/// How many files one task's epoch has open at the most.
const OPEN_FILES: usize = 256;

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
            let open = match files.open.get_mut(&part.directory) {
                Some(open) => open,
                None => {
                    if files.open.len() >= OPEN_FILES {
                        self.close_largest(files)?;
                    }
                    let file = self.folder.stage()?;
                    let file = ParquetFile::new(file, self.columns.file().clone(), self.properties.clone())
                        .map_err(|source| refused("a Parquet file cannot be begun".to_owned(), source))?;
                    let open = Open { directory: part.directory.clone(), values: part.values, file };
                    files.open.entry(part.directory).or_insert(open)
                }
            };
            open.file.write(&part.rows).map_err(|source| parquet_error(&self.folder, source))?;
        }
        files.since_check_rows += batch.num_rows();
        if files.since_check_rows > 65_536 {
            files.since_check_rows = 0;
            self.close_largest(files)?;
        }
        Ok(())
    }

    /// Closes the largest files while they hold too much memory, or are too many.
    fn close_largest(&self, files: &mut Files) -> Result<(), SinkError> {
        loop {
            let sizes = files.open.iter().map(|(directory, open)| (open.file.memory_bytes(), directory));
            let Some((_, largest)) = sizes.clone().max() else { return Ok(()) };
            let all: usize = sizes.map(|(bytes, _)| bytes).sum();
            if all <= MEMORY_BYTES && files.open.len() < OPEN_FILES {
                return Ok(());
            }
            let largest = largest.clone();
            self.close(&largest, files)?;
        }
    }

    fn close(&self, directory: &str, files: &mut Files) -> Result<(), SinkError> {
        let Some(Open { directory, values, file }) = files.open.remove(directory) else { return Ok(()) };
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
