//! One Parquet file, encoded as rows come.
//!
//! Encodings, by column:
//!
//! | column | encoding | why |
//! |---|---|---|
//! | timestamps | `DELTA_BINARY_PACKED` | events come about in order and evenly: a few bits a row, nothing at even steps |
//! | integers, dates, decimals up to 18 digits | dictionary up to [`INT_DICTIONARY_BYTES`], then `DELTA_BINARY_PACKED` | codes and statuses are few; counters are dense |
//! | floats | dictionary up to [`FLOAT_DICTIONARY_BYTES`], then plain | measured values have few decimals, so they repeat |
//! | strings, bytes | dictionary up to 1 MiB, then plain | names repeat; zstd takes care of the rest |
//!
//! Every one of them is read by Spark's vectorised reader, DuckDB and pyarrow. Pages are compressed with zstd unless the
//! Sink says otherwise. The Arrow schema is not embedded: readers see plain Parquet types, timestamps in UTC.

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Float32Type, Float64Type, SchemaRef},
};
use parquet::{
    arrow::{
        ArrowSchemaConverter,
        arrow_writer::{ArrowWriter, ArrowWriterOptions},
    },
    basic::{Compression, Encoding, LogicalType, Type},
    errors::ParquetError,
    file::{metadata::ParquetMetaData, properties::WriterProperties},
};

use crate::staging::StagedFile;

/// How large a dictionary of integers may become.
const INT_DICTIONARY_BYTES: usize = 64 << 10;

/// How large a dictionary of floats may become: 65,536 doubles, with which an index has at most 16 bits.
const FLOAT_DICTIONARY_BYTES: usize = 512 << 10;

/// How many rows a data page has at the most. Pages of dictionary indices are small, and each costs a header, statistics
/// and a start of the compressor.
const PAGE_ROWS: usize = 100_000;

/// How files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParquetSettings {
    /// How pages are compressed.
    pub compression: Compression,
    /// How many rows a row group has at the most.
    pub max_row_group_rows: usize,
}

impl Default for ParquetSettings {
    fn default() -> Self {
        Self { compression: Compression::ZSTD(Default::default()), max_row_group_rows: 1_000_000 }
    }
}

impl ParquetSettings {
    /// The writer's properties for files of `schema`.
    pub(crate) fn properties(&self, schema: &SchemaRef) -> Result<WriterProperties, ParquetError> {
        let mut builder = WriterProperties::builder()
            .set_created_by(concat!("millrace version ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(self.compression)
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_write_batch_size(8 * 1024)
            .set_max_row_group_row_count(Some(self.max_row_group_rows));
        for column in ArrowSchemaConverter::new().convert(schema)?.columns() {
            let path = column.path().clone();
            builder = match column.physical_type() {
                Type::INT64 if matches!(column.logical_type_ref(), Some(LogicalType::Timestamp { .. })) => builder
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED),
                Type::INT32 | Type::INT64 => builder
                    .set_column_dictionary_page_size_limit(path.clone(), INT_DICTIONARY_BYTES)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED),
                Type::FLOAT | Type::DOUBLE => {
                    builder.set_column_dictionary_page_size_limit(path, FLOAT_DICTIONARY_BYTES)
                }
                _ => builder,
            };
        }
        Ok(builder.build())
    }
}

/// A Parquet file that is being written to a staged file.
pub(crate) struct ParquetFile {
    writer: ArrowWriter<StagedFile>,
    rows: u64,
    /// Whether a column of floats had a NaN, by column: Parquet's statistics pass over it.
    nans: Vec<bool>,
}

/// A file that has its footer.
pub(crate) struct Closed {
    pub(crate) file: ParquetFile,
    pub(crate) metadata: ParquetMetaData,
}

impl ParquetFile {
    pub(crate) fn new(file: StagedFile, schema: SchemaRef, properties: WriterProperties) -> Result<Self, ParquetError> {
        let nans = vec![false; schema.fields().len()];
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        Ok(Self { writer: ArrowWriter::try_new_with_options(file, schema, options)?, rows: 0, nans })
    }

    /// Takes rows.
    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<(), ParquetError> {
        for (column, nan) in rows.columns().iter().zip(&mut self.nans) {
            *nan = *nan
                || match column.data_type() {
                    DataType::Float32 => column.as_primitive::<Float32Type>().values().iter().any(|v| v.is_nan()),
                    DataType::Float64 => column.as_primitive::<Float64Type>().values().iter().any(|v| v.is_nan()),
                    _ => false,
                };
        }
        self.rows += rows.num_rows() as u64;
        self.writer.write(rows)
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether a column had a NaN.
    pub(crate) fn had_nan(&self, column: usize) -> bool {
        self.nans.get(column).copied().unwrap_or(true)
    }

    /// How many bytes are held in memory for it.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.writer.memory_size()
    }

    /// Writes the footer.
    pub(crate) fn close(mut self) -> Result<Closed, ParquetError> {
        let metadata = self.writer.finish()?;
        Ok(Closed { file: self, metadata })
    }

    /// The staged file. Appending to it is the writer's business only.
    pub(crate) fn staged(&mut self) -> &mut StagedFile {
        self.writer.inner_mut()
    }
}
