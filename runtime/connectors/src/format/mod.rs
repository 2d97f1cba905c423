//! From bytes to columns.
//!
//! A [`Decoder`] takes [`Chunk`]s of complete records and gives one batch for each, with a column for each that something
//! reads; what it cannot decode it hands to [`BadRows`], which does as `onError` says. Decoders keep nothing of a chunk but
//! what makes the next one faster: where a chunk is cut does not change its rows. Parquet files, which are no stream of
//! records, are read by the file source itself.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions},
    datatypes::SchemaRef,
};
use millrace_crds::{ColumnType, FormatKind, SourceSpec};
use millrace_stream::Timestamp;

use crate::SourceError;

mod bad_rows;
mod chunk;
mod columns;
pub mod csv;
mod decimal;
pub mod json;
pub mod line;
mod lines;
mod logfmt;
pub(crate) mod records;
mod syslog;
pub(crate) mod tail;
mod temporal;
mod text;

pub use bad_rows::{BadRows, row_as_text, shorten};
pub use chunk::{Chunk, PADDING};

/// The longest record that is decoded; a longer one is a bad row.
pub const MAX_RECORD_BYTES: usize = 16 << 20;

/// Turns the records of one split into columns.
///
/// An implementer guarantees that a split's rows, good and bad, do not depend on how it is cut into chunks, that no bytes
/// make it panic, and that what it allocates for a chunk is in proportion to the chunk and the columns.
pub trait Decoder: Send {
    /// Takes what stands before the records (a byte order mark, a header) from the split's first bytes; comes before
    /// anything else, also where a split is resumed in its middle. `None`: more bytes are needed, which there are unless
    /// the split has `ended`. Else: how many bytes were taken.
    ///
    /// # Errors
    ///
    /// When the split cannot be decoded at all.
    fn preamble(&mut self, head: &[u8], ended: bool) -> Result<Option<usize>, SourceError>;

    /// How many of the first bytes are complete records. `bytes` begins with a record.
    fn complete(&mut self, bytes: &[u8]) -> usize;

    /// What is decoded next was written at this moment, or before: for moments that lack their year.
    fn written_at(&mut self, _moment: Timestamp) {}

    /// Decodes a chunk. The last record of a split may lack its end.
    ///
    /// # Errors
    ///
    /// When no batch can be made; never because of a bad row.
    fn decode(&mut self, chunk: &Chunk, bad: &mut BadRows) -> Result<RecordBatch, SourceError>;

    /// Where the rows that [`Self::decode`] makes of a chunk stand in it, without their line ends. Decodes it again: what is
    /// seldom asked for costs nothing where it is not.
    ///
    /// # Errors
    ///
    /// As [`Self::decode`].
    fn spans(&mut self, chunk: &Chunk) -> Result<Vec<Range<usize>>, SourceError>;
}

/// A column to decode.
#[derive(Clone, Debug, PartialEq)]
pub struct InputColumn {
    /// What SQL calls it.
    pub name: String,
    /// Where a row has it.
    pub path: String,
    /// Its type.
    pub of: ColumnType,
}

/// Makes a decoder for each split of a source.
#[derive(Clone, Debug)]
pub struct Format {
    spec: Arc<SourceSpec>,
    columns: Arc<[InputColumn]>,
    schema: SchemaRef,
    opened_at: Timestamp,
}

impl Format {
    /// The format of a source, to the columns of `schema`. `opened_at` is now.
    ///
    /// # Errors
    ///
    /// When the source declares no such columns, or has no format.
    pub fn new(spec: &SourceSpec, schema: &SchemaRef, opened_at: Timestamp) -> Result<Self, SourceError> {
        let declared = spec.declared_columns();
        let columns = schema.fields().iter().map(|field| {
            let column = declared.iter().find(|column| column.name == *field.name());
            let column =
                column.ok_or_else(|| unusable(format!("source {} has no column {}", spec.name, field.name())))?;
            let of = column.data_type().map_err(|error| SourceError::Unusable {
                what: format!("column {} of source {} has no type", column.name, spec.name),
                source: Some(Box::new(error)),
            })?;
            Ok(InputColumn { name: column.name.clone(), path: column.source_path().to_owned(), of })
        });
        let columns = columns.collect::<Result<Vec<_>, SourceError>>()?;
        let format =
            Self { spec: Arc::new(spec.clone()), columns: columns.into(), schema: Arc::clone(schema), opened_at };
        if !format.is_parquet() {
            format.decoder()?;
        }
        Ok(format)
    }

    /// Whether the files are Parquet, for which there is no decoder.
    pub fn is_parquet(&self) -> bool {
        matches!(self.kind(), Some(FormatKind::Parquet))
    }

    /// The columns to decode.
    pub fn columns(&self) -> &[InputColumn] {
        &self.columns
    }

    /// The schema that they make.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn kind(&self) -> Option<FormatKind<'_>> {
        self.spec.format.as_ref().and_then(|format| format.kind())
    }

    /// A decoder for one split.
    ///
    /// # Errors
    ///
    /// When the format's own settings make no sense.
    pub fn decoder(&self) -> Result<Box<dyn Decoder>, SourceError> {
        let schema = Arc::clone(&self.schema);
        Ok(match self.kind() {
            Some(FormatKind::Json(json)) => {
                Box::new(json::JsonDecoder::new(&self.columns, schema, json.timestamp_unit))
            }
            Some(FormatKind::Csv(csv)) => {
                let declared: Vec<String> =
                    self.spec.columns.iter().map(|column| column.source_path().to_owned()).collect();
                Box::new(csv::CsvDecoder::new(csv, &self.columns, &declared, schema)?)
            }
            Some(FormatKind::Regex(regex)) => {
                let layout = regex.timestamp_format.as_deref();
                Box::new(line::LineDecoder::regex(&regex.pattern, layout, &self.columns, schema)?)
            }
            Some(FormatKind::Combined) => Box::new(line::LineDecoder::combined(&self.columns, schema)?),
            Some(FormatKind::Logfmt) => Box::new(line::LineDecoder::logfmt(&self.columns, schema)?),
            Some(FormatKind::Syslog) => Box::new(line::LineDecoder::syslog(&self.columns, schema, self.opened_at.0)?),
            _ => return Err(unusable(format!("source {} has no format for a stream of bytes", self.spec.name))),
        })
    }
}

/// A batch of these columns, of which there may be none.
pub(crate) fn batch(schema: &SchemaRef, arrays: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, SourceError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options).map_err(|error| SourceError::Unusable {
        what: "the columns that were decoded are not those of the plan".to_owned(),
        source: Some(Box::new(error)),
    })
}

/// An error that another try does not change.
pub(crate) fn unusable(what: String) -> SourceError {
    SourceError::Unusable { what, source: None }
}
