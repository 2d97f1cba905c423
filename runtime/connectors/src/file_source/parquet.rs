//! Parquet files: read by row groups, only the columns that something reads, cast to the types that the spec declares. A row
//! with a value that is none of its column's type cannot be decoded; neither can any row of a file that lacks a column, or has it
//! in a type that never becomes the declared one.
//!
//! There is damage at which the Parquet reader panics instead of telling. That is an error of the file here, as any other.

mod convert;

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use arrow::array::RecordBatch;
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
};

use self::convert::Converted;
use crate::{
    Origin, Position, SourceError,
    format::{BadRows, Format, records::Decoded, row_as_text, unusable},
};

/// About how many bytes of rows are read at once, as the file says how large they are.
const BATCH_BYTES: u64 = 32 << 20;

/// One Parquet file, being read.
pub(super) struct ParquetSplit {
    format: Format,
    bad: BadRows,
    /// How many rows were read.
    rows: u64,
    /// How many of them were read before the last batch.
    before: u64,
    /// Which rows of the last batch were returned; `None`: all of them.
    kept: Option<Vec<usize>>,
    reader: Option<Reader>,
}

/// An open file.
struct Reader {
    batches: ParquetRecordBatchReader,
    /// How many rows the file has.
    total: u64,
    /// Why none of them can be read.
    mismatch: Option<String>,
}

impl ParquetSplit {
    pub(super) fn new(format: Format, bad: BadRows, rows: u64) -> Self {
        Self { format, bad, rows, before: rows, kept: None, reader: None }
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

    pub(super) fn bad_rows(&self) -> u64 {
        self.bad.total()
    }

    /// About how many of a file's bytes are not read.
    pub(super) fn unread_bytes(&self, bytes: u64) -> u64 {
        let Some(Reader { total, .. }) = self.reader else { return bytes };
        let unread = u128::from(bytes) * u128::from(total.saturating_sub(self.rows)) / u128::from(total.max(1));
        u64::try_from(unread).unwrap_or(bytes)
    }

    /// The next rows; `None`: there are no more.
    pub(super) fn read(&mut self, path: &Path, batch_rows: usize) -> Result<Option<Decoded>, SourceError> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let opened = guarded(path, || open(&self.format, path, self.rows, batch_rows))??;
                self.reader.insert(opened)
            }
        };
        let Some(read) = guarded(path, || reader.batches.next())? else { return Ok(None) };
        let read = read.map_err(|error| damaged(path, error))?;
        let Converted { rows, kept, bad } = match &reader.mismatch {
            // What is wrong with all of a file is an error of the file.
            Some(mismatch) if self.bad.fails() => return Err(unusable(format!("{} {mismatch}", path.display()))),
            Some(mismatch) => Converted {
                rows: RecordBatch::new_empty(Arc::clone(self.format.schema())),
                kept: Some(Vec::new()),
                bad: (0..read.num_rows()).map(|row| (row, format!("the file {mismatch}"))).collect(),
            },
            None => convert::convert(&self.format, &read).map_err(|error| super::split::named(error, path))?,
        };
        self.before = self.rows;
        self.rows += read.num_rows() as u64;
        self.kept = kept;
        for (row, reason) in bad {
            let raw = if self.bad.shows_next() { row_as_text(&read, row)? } else { String::new() };
            self.bad.push_at(raw.as_bytes(), Position::Row(self.before + row as u64), reason);
        }
        let bytes = read.get_array_memory_size() as u64;
        Ok(Some(Decoded { rows, errors: self.bad.take()?, bytes }))
    }

    /// Where rows of the last batch come from, by their numbers. A row has no bytes of its own.
    pub(super) fn origins(&self, path: &Path, rows: &[usize]) -> Vec<Origin> {
        let source: Arc<str> = path.display().to_string().into();
        let number = |row: usize| match &self.kept {
            Some(kept) => kept.get(row).copied().unwrap_or(row),
            None => row,
        };
        let position = |row: &usize| Position::Row(self.before + number(*row) as u64);
        rows.iter().map(|row| Origin { source: source.clone(), position: position(row), raw: None }).collect()
    }
}

/// Does something with a file at which it may panic; what it worked on is not used any more if it did.
fn guarded<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T, SourceError> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| unusable(format!("{} cannot be read as Parquet: it is damaged", path.display())))
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

fn damaged(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> SourceError {
    SourceError::Unusable {
        what: format!("{} cannot be read as Parquet", path.display()),
        source: Some(Box::new(error)),
    }
}

fn open(format: &Format, path: &Path, rows: u64, batch_rows: usize) -> Result<Reader, SourceError> {
    let builder = builder(path)?;
    let mismatch = convert::mismatch(format, builder.schema());
    let is_read = |name: &String| format.columns().iter().any(|column| column.path == *name);
    let fields = builder.schema().fields().iter().enumerate();
    let roots: Vec<usize> = fields.filter(|(_, field)| is_read(field.name())).map(|(root, _)| root).collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let total = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
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
    let row_bytes = groups.iter().map(|group| {
        let group = builder.metadata().row_group(*group);
        let columns = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        let bytes: i64 = columns.map(|(_, column)| column.uncompressed_size().max(0)).fold(0, i64::saturating_add);
        bytes.unsigned_abs() / group.num_rows().unsigned_abs().max(1)
    });
    let fitting = BATCH_BYTES / row_bytes.max().unwrap_or(0).max(1);
    let batch_rows = usize::try_from(fitting).unwrap_or(usize::MAX).min(batch_rows).max(1);
    let builder = builder.with_projection(mask).with_row_groups(groups).with_offset(passed as usize);
    let batches = builder.with_batch_size(batch_rows).build().map_err(|error| damaged(path, error))?;
    Ok(Reader { batches, total, mismatch })
}
