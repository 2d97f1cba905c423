//! Parquet files: read by row groups, only the columns that something reads, cast to the types that the spec declares.
//!
//! There is damage at which the Parquet reader panics instead of telling. That is an error of the file here, as any other.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, TimeUnit, TimestampMicrosecondType},
};
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
};

use crate::{
    Origin, Position, SourceError,
    format::{Format, batch, records::Decoded, unusable},
};

/// One Parquet file, being read.
pub(super) struct ParquetSplit {
    format: Format,
    /// How many rows were returned.
    rows: u64,
    /// How many of them were returned before the last batch.
    before: u64,
    reader: Option<ParquetRecordBatchReader>,
}

impl ParquetSplit {
    pub(super) fn new(format: Format, rows: u64) -> Self {
        Self { format, rows, before: rows, reader: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    pub(super) fn close(&mut self) {
        self.reader = None;
    }

    pub(super) fn position(&self) -> u64 {
        self.rows
    }

    /// The next rows; `None`: there are no more.
    pub(super) fn read(&mut self, path: &Path, batch_rows: usize) -> Result<Option<Decoded>, SourceError> {
        let damaged = |error: Box<dyn std::error::Error + Send + Sync>| SourceError::Unusable {
            what: format!("{} cannot be read as Parquet", path.display()),
            source: Some(error),
        };
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let opened = guarded(path, || open(&self.format, path, self.rows, batch_rows))??;
                self.reader.insert(opened)
            }
        };
        let Some(read) = guarded(path, || reader.next())? else { return Ok(None) };
        let read = read.map_err(|error| damaged(error.into()))?;
        let rows = self.convert(path, &read)?;
        self.before = self.rows;
        self.rows += rows.num_rows() as u64;
        let bytes = read.get_array_memory_size() as u64;
        Ok(Some(Decoded { rows, errors: None, bytes }))
    }

    /// Where rows of the last batch come from, by their numbers. A row has no bytes of its own.
    pub(super) fn origins(&self, path: &Path, rows: &[usize]) -> Vec<Origin> {
        let source: Arc<str> = path.display().to_string().into();
        let position = |row: &usize| Position::Row(self.before + *row as u64);
        rows.iter().map(|row| Origin { source: source.clone(), position: position(row), raw: None }).collect()
    }

    fn convert(&self, path: &Path, read: &RecordBatch) -> Result<RecordBatch, SourceError> {
        let columns = self.format.columns().iter().zip(self.format.schema().fields());
        let arrays = columns.map(|(column, field)| {
            let array = read.column_by_name(&column.path).ok_or_else(|| missing(path, &column.path, read))?;
            cast(array, field.data_type()).map_err(|error| SourceError::Unusable {
                what: format!(
                    "{}: column {} is {} and cannot be read as {}",
                    path.display(),
                    column.path,
                    array.data_type(),
                    column.of
                ),
                source: Some(Box::new(error)),
            })
        });
        batch(self.format.schema(), arrays.collect::<Result<_, _>>()?, read.num_rows())
    }
}

/// Does something with a file at which it may panic; what it worked on is not used any more if it did.
fn guarded<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T, SourceError> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| unusable(format!("{} cannot be read as Parquet: it is damaged", path.display())))
}

fn missing(path: &Path, column: &str, read: &RecordBatch) -> SourceError {
    let schema = read.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    unusable(format!("{} has no column {column}; it has {}", path.display(), names.join(", ")))
}

/// How many rows a file has.
pub(super) fn rows(path: &Path) -> Result<u64, SourceError> {
    let builder = guarded(path, || builder(path))??;
    Ok(u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0))
}

fn builder(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, SourceError> {
    let file = File::open(path).map_err(|error| super::reader::failed(path.display().to_string(), error))?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(path, error))
}

fn damaged(path: &Path, error: parquet::errors::ParquetError) -> SourceError {
    SourceError::Unusable {
        what: format!("{} cannot be read as Parquet", path.display()),
        source: Some(Box::new(error)),
    }
}

fn open(format: &Format, path: &Path, rows: u64, batch_rows: usize) -> Result<ParquetRecordBatchReader, SourceError> {
    let builder = builder(path)?;
    let mut roots = Vec::new();
    for column in format.columns() {
        let Some(root) = builder.schema().fields().iter().position(|field| *field.name() == column.path) else {
            return Err(missing(path, &column.path, &RecordBatch::new_empty(builder.schema().clone())));
        };
        roots.push(root);
    }
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    // Whole row groups that were read are left out; in the next one, the rows that were read are passed over.
    let mut passed = rows;
    let mut first = 0;
    for group in builder.metadata().row_groups() {
        let in_group = u64::try_from(group.num_rows()).unwrap_or(0);
        if in_group > passed {
            break;
        }
        passed -= in_group;
        first += 1;
    }
    let groups: Vec<usize> = (first..builder.metadata().num_row_groups()).collect();
    let builder = builder.with_projection(mask).with_row_groups(groups).with_offset(passed as usize);
    builder.with_batch_size(batch_rows.max(1)).build().map_err(|error| damaged(path, error))
}

/// Casts, without losing anything; moments without a time zone are in UTC.
fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    if let (DataType::Timestamp(_, zone), DataType::Timestamp(TimeUnit::Microsecond, Some(_))) = (array.data_type(), to)
    {
        let micros = cast_with_options(array, &DataType::Timestamp(TimeUnit::Microsecond, zone.clone()), &strict)?;
        let micros = micros.as_primitive::<TimestampMicrosecondType>().clone();
        return Ok(Arc::new(micros.with_timezone("UTC")));
    }
    cast_with_options(array, to, &strict)
}
