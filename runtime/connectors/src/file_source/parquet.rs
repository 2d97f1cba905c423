//! Parquet files: read by row groups, only the columns that something reads, cast to the types that the spec declares. A row
//! with a value that is none of its column's type cannot be decoded; neither can any row of a file that lacks a column, or has it
//! in a type that never becomes the declared one.
//!
//! There is damage at which the Parquet reader panics instead of telling. That is an error of the file here, as any other.
//!
//! Row groups are read one by one, each after a look at the headers of its pages, which have no checksum: with one that tells other
//! than as many values as there are, a column's values would come to rows of others. Where bad rows do not fail the pipeline, damage inside a file costs the rows of its row group that were not read by
//! then: each of them is a bad row.

mod convert;

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use arrow::array::RecordBatch;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    },
    column::page::PageReader,
    file::{metadata::RowGroupMetaData, serialized_reader::SerializedPageReader},
};

use self::convert::Converted;
use super::identity::Identity;
use crate::{
    Origin, Position, SourceError,
    causes::{causes, chain},
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
    /// The open file, and what its footer says.
    file: Option<(File, ArrowReaderMetadata)>,
    /// Rows that are not to be had.
    lost: Option<Lost>,
}

/// Which file it is.
pub(super) struct Which<'a> {
    pub(super) path: &'a Path,
    pub(super) identity: &'a mut Identity,
    pub(super) follow: bool,
}

impl Which<'_> {
    /// Opens the file, of which so many rows were read, if it is still the same.
    fn open(&mut self, rows: u64) -> Result<File, SourceError> {
        let fail = |error| super::reader::failed(self.path.display().to_string(), error);
        let file = File::open(self.path).map_err(fail)?;
        if !self.identity.fits(&file).map_err(fail)? {
            match rows {
                // Renamed since it was listed, and another one has its name.
                _ if self.follow => return Err(fail(io::ErrorKind::NotFound.into())),
                0 => *self.identity = Identity::of_whole(&file).map_err(fail)?,
                _ => {
                    let changed = format!("{} has changed since {rows} rows of it were read", self.path.display());
                    return Err(unusable(changed));
                }
            }
        }
        Ok(file)
    }
}

/// The rows up to one, which cannot be read, and why.
struct Lost {
    until: u64,
    reason: String,
}

/// An open row group.
struct Reader {
    batches: ParquetRecordBatchReader,
    /// How many rows the file has.
    total: u64,
    /// Up to which row it reads.
    until: u64,
    /// What is wrong with its pages.
    flaw: Option<SourceError>,
    /// Why none of them can be read.
    mismatch: Option<String>,
}

impl ParquetSplit {
    pub(super) fn new(format: Format, bad: BadRows, rows: u64) -> Self {
        Self { format, bad, rows, before: rows, kept: None, reader: None, file: None, lost: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    pub(super) fn close(&mut self) {
        (self.reader, self.file) = (None, None);
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
    pub(super) fn read(&mut self, which: Which<'_>, batch_rows: usize) -> Result<Option<Decoded>, SourceError> {
        let path = which.path;
        let Some(read) = self.batch(which, batch_rows)? else {
            return self.lost.take().map(|lost| self.lose(lost, batch_rows)).transpose();
        };
        let reader = self.reader.as_ref().ok_or_else(|| unusable(format!("{} is not open", path.display())))?;
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

    /// The next rows as they are in the file; `None`: there are no more, or they are lost.
    fn batch(&mut self, mut which: Which<'_>, batch_rows: usize) -> Result<Option<RecordBatch>, SourceError> {
        let path = which.path;
        while self.lost.is_none() {
            let reader = match &mut self.reader {
                Some(reader) => reader,
                None => {
                    let (file, footer) = match &self.file {
                        Some(known) => known,
                        None => {
                            let file = which.open(self.rows)?;
                            let footer = guarded(path, || footer(path, &file))??;
                            self.file.insert((file, footer))
                        }
                    };
                    let opened = guarded(path, || open(&self.format, path, file, footer, self.rows, batch_rows))??;
                    self.reader.insert(opened)
                }
            };
            let next = match reader.flaw.take() {
                Some(flaw) => Err(flaw),
                None => guarded(path, || reader.batches.next())
                    .and_then(|next| next.transpose().map_err(|error| damaged(path, error))),
            };
            let (until, total) = (reader.until, reader.total);
            let left = until.saturating_sub(self.rows);
            let error = match next {
                Ok(Some(read)) if read.num_rows() as u64 <= left => return Ok(Some(read)),
                Ok(None) if left == 0 => {
                    self.reader = None;
                    if until >= total {
                        return Ok(None);
                    }
                    continue;
                }
                Ok(other) => {
                    let than = if other.is_some() { "more" } else { "fewer" };
                    unusable(format!(
                        "{} cannot be read as Parquet: the row group that ends before row {until} has {than} rows than the \
                         footer says",
                        path.display()
                    ))
                }
                Err(error) => error,
            };
            if self.bad.fails() || is_of_disk(&error) {
                return Err(error);
            }
            self.close();
            self.lost = Some(Lost { until, reason: chain(&error) });
        }
        Ok(None)
    }

    /// Some of the rows that are lost, as bad ones.
    fn lose(&mut self, lost: Lost, batch_rows: usize) -> Result<Decoded, SourceError> {
        let Lost { until, reason } = lost;
        let end = until.min(self.rows + batch_rows as u64);
        for row in self.rows..end {
            self.bad.push_at(b"", Position::Row(row), &reason);
        }
        (self.before, self.rows, self.kept) = (self.rows, end, Some(Vec::new()));
        self.lost = (end < until).then_some(Lost { until, reason });
        let rows = RecordBatch::new_empty(Arc::clone(self.format.schema()));
        Ok(Decoded { rows, errors: self.bad.take()?, bytes: 0 })
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
    let file = File::open(path).map_err(|error| super::reader::failed(path.display().to_string(), error))?;
    let footer = guarded(path, || footer(path, &file))??;
    Ok(u64::try_from(footer.metadata().file_metadata().num_rows()).unwrap_or(0))
}

fn footer(path: &Path, file: &File) -> Result<ArrowReaderMetadata, SourceError> {
    ArrowReaderMetadata::load(file, Default::default()).map_err(|error| damaged(path, error))
}

fn damaged(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> SourceError {
    SourceError::Unusable {
        what: format!("{} cannot be read as Parquet", path.display()),
        source: Some(Box::new(error)),
    }
}

/// Whether a file could not be read for what is around it, and perhaps can be another time.
fn is_of_disk(error: &SourceError) -> bool {
    let io = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|io| !matches!(io.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof))
}

/// Opens the row group of a file that the row behind so many is in.
fn open(
    format: &Format,
    path: &Path,
    file: &File,
    footer: &ArrowReaderMetadata,
    rows: u64,
    batch_rows: usize,
) -> Result<Reader, SourceError> {
    let clone = || file.try_clone().map_err(|error| super::reader::failed(path.display().to_string(), error));
    let (file, pages) = (clone()?, Arc::new(clone()?));
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer.clone());
    let mismatch = convert::mismatch(format, builder.schema());
    let is_read = |name: &String| format.columns().iter().any(|column| column.path == *name);
    let fields = builder.schema().fields().iter().enumerate();
    let roots: Vec<usize> = fields.filter(|(_, field)| is_read(field.name())).map(|(root, _)| root).collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let rows_of = |rows: i64| u64::try_from(rows).unwrap_or(0);
    let total = builder.metadata().row_groups().iter().map(|group| rows_of(group.num_rows())).sum();
    // Whole row groups that were read are left out; in the next one, the rows that were read are passed over.
    let mut passed = rows;
    let mut groups = builder.metadata().row_groups().iter().enumerate();
    let next = groups.find(|(_, group)| {
        let in_group = rows_of(group.num_rows());
        let is_next = in_group > passed;
        passed -= if is_next { 0 } else { in_group };
        is_next
    });
    let until = next.map_or(total, |(_, group)| rows - passed + rows_of(group.num_rows()));
    let row_bytes = next.map_or(0, |(_, group)| {
        let columns = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        let bytes: i64 = columns.map(|(_, column)| column.uncompressed_size().max(0)).fold(0, i64::saturating_add);
        bytes.unsigned_abs() / group.num_rows().unsigned_abs().max(1)
    });
    let fitting = BATCH_BYTES / row_bytes.max(1);
    let batch_rows = usize::try_from(fitting).unwrap_or(usize::MAX).min(batch_rows).max(1);
    let flaw = next.and_then(|(_, group)| guarded(path, || count_values(path, &pages, group, &mask)).flatten().err());
    let group = next.map(|(number, _)| number).into_iter().collect();
    let builder = builder.with_projection(mask).with_row_groups(group).with_offset(passed as usize);
    let batches = builder.with_batch_size(batch_rows).build().map_err(|error| damaged(path, error))?;
    Ok(Reader { batches, total, until, flaw, mismatch })
}

/// Whether the pages of each column that is read, unless it is one of lists, have a value for each row of the group.
fn count_values(
    path: &Path,
    file: &Arc<File>,
    group: &RowGroupMetaData,
    mask: &ProjectionMask,
) -> Result<(), SourceError> {
    let rows = usize::try_from(group.num_rows()).unwrap_or(0);
    let columns = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
    for (_, column) in columns.filter(|(_, column)| column.column_descr().max_rep_level() == 0) {
        let failed = |error| damaged(path, error);
        let mut pages = SerializedPageReader::new(Arc::clone(file), column, rows, None).map_err(failed)?;
        let mut values = 0;
        while let Some(page) = pages.peek_next_page().map_err(failed)? {
            values += page.num_levels.filter(|_| !page.is_dict).unwrap_or(0);
            pages.skip_next_page().map_err(failed)?;
        }
        if values != rows {
            return Err(unusable(format!(
                "{} cannot be read as Parquet: the pages of column {} in a row group of {rows} rows tell of {values} values",
                path.display(),
                column.column_path()
            )));
        }
    }
    Ok(())
}
