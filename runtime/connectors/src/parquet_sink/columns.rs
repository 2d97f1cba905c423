//! Batches as files store them: types that files have, and the partition columns taken out.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array},
    compute::{CastOptions, cast_with_options, take_record_batch},
    datatypes::{Field, Schema, SchemaRef},
    error::ArrowError,
    row::{RowConverter, SortField},
    util::display::FormatOptions,
};
use millrace_plan::sink_rules::{partitions_by, stored_type};

use super::text::partition_values;
use crate::{format::shorten, sink::SinkError};

/// The name that Hive gives to the partition of null.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";
/// How many bytes the name of a file or a folder may have, on every usual file system.
const LONGEST_NAME: usize = 255;
/// How many bytes the path of all folders of a row may have. Systems take paths of 4096, of which the sink's `uri` is a part.
const LONGEST_PATH: usize = 2048;

/// How batches that come become batches that are written.
pub(crate) struct Columns {
    /// Every column, as stored.
    stored: SchemaRef,
    /// The columns that files have, by number in `stored`.
    data: Vec<usize>,
    file: SchemaRef,
    /// The columns that partition, by number in `stored`.
    partition: Vec<usize>,
    converter: Option<RowConverter>,
}

/// Rows of one partition.
pub(crate) struct Part {
    /// The folder, relative to the destination: `day=2013-01-31/x=1`, or nothing.
    pub(crate) directory: String,
    /// The partition columns' values as text; `None`: null.
    pub(crate) values: Vec<(String, Option<String>)>,
    /// The rows, without the partition columns.
    pub(crate) rows: RecordBatch,
}

impl Columns {
    /// For batches of `schema`.
    ///
    /// # Errors
    /// If a column's type cannot be stored, or cannot partition: the plan has said so before, if it was asked.
    pub(crate) fn new(schema: &Schema, partition_by: &[String]) -> Result<Self, SinkError> {
        let refuse = |what: String| SinkError::Refused { what, source: None };
        let fields = schema.fields().iter().map(|field| {
            let stored = stored_type(field.data_type()).ok_or_else(|| {
                refuse(format!("column `{}` is of type {}, which cannot be stored", field.name(), field.data_type()))
            })?;
            Ok(Field::new(field.name(), stored, true))
        });
        let stored = Arc::new(Schema::new(fields.collect::<Result<Vec<_>, SinkError>>()?));
        let partition = partition_by
            .iter()
            .map(|name| match stored.column_with_name(name) {
                Some((number, field)) if partitions_by(field.data_type()) => Ok(number),
                Some((_, field)) => {
                    Err(refuse(format!("column `{name}` is of type {}, which cannot partition", field.data_type())))
                }
                None => Err(refuse(format!("there is no column `{name}` to partition by"))),
            })
            .collect::<Result<Vec<_>, SinkError>>()?;
        let data: Vec<usize> = (0..stored.fields().len()).filter(|number| !partition.contains(number)).collect();
        if data.is_empty() {
            return Err(refuse("every column names a partition, so the files would have none".to_owned()));
        }
        let file = Arc::new(Schema::new(data.iter().map(|&number| stored.field(number).clone()).collect::<Vec<_>>()));
        let converter = match partition.is_empty() {
            true => None,
            false => {
                let keys = partition.iter().map(|&number| SortField::new(stored.field(number).data_type().clone()));
                Some(RowConverter::new(keys.collect()).map_err(|source| SinkError::Refused {
                    what: "cannot partition".to_owned(),
                    source: Some(source.into()),
                })?)
            }
        };
        Ok(Self { stored, data, file, partition, converter })
    }

    /// Every column, as stored: what a table's schema has.
    pub(crate) fn stored(&self) -> &SchemaRef {
        &self.stored
    }

    /// The columns that files have.
    pub(crate) fn file(&self) -> &SchemaRef {
        &self.file
    }

    /// The batch as files store it, by partition.
    ///
    /// # Errors
    /// If a value does not fit into the type that is stored.
    pub(crate) fn split(&self, batch: &RecordBatch) -> Result<Vec<Part>, ArrowError> {
        let columns = self.as_stored(batch)?;
        let data = self.data.iter().map(|&number| columns[number].clone()).collect();
        let row_count = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let rows = RecordBatch::try_new_with_options(self.file.clone(), data, &row_count)?;
        let Some(converter) = &self.converter else {
            return Ok(vec![Part { directory: String::new(), values: Vec::new(), rows }]);
        };
        let keys: Vec<ArrayRef> = self.partition.iter().map(|&number| columns[number].clone()).collect();
        let groups = group(converter, &keys)?;
        let mut parts = Vec::with_capacity(groups.len());
        for indices in &groups {
            let Some(&first) = indices.first() else { continue };
            let values = self.values(&keys, first as usize)?;
            let directory = directory(&values)?;
            let rows = match groups.len() {
                1 => rows.clone(),
                _ => take_record_batch(&rows, &UInt32Array::from(indices.clone()))?,
            };
            parts.push(Part { directory, values, rows });
        }
        Ok(parts)
    }

    /// Whether the rows can be stored at all. What is held back for a fuller file has to be told before a checkpoint holds it.
    ///
    /// # Errors
    /// As [`Self::split`].
    pub(crate) fn check(&self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let columns = self.as_stored(batch)?;
        let Some(converter) = &self.converter else { return Ok(()) };
        let keys: Vec<ArrayRef> = self.partition.iter().map(|&number| columns[number].clone()).collect();
        for first in group(converter, &keys)?.iter().filter_map(|rows| rows.first()) {
            directory(&self.values(&keys, *first as usize)?)?;
        }
        Ok(())
    }

    /// The columns in the types that are stored.
    fn as_stored(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, ArrowError> {
        let options = CastOptions { safe: false, format_options: FormatOptions::new() };
        let stored = |(column, field): (&ArrayRef, &Arc<Field>)| match column.data_type() == field.data_type() {
            true => Ok(column.clone()),
            false => cast_with_options(column, field.data_type(), &options),
        };
        batch.columns().iter().zip(self.stored.fields()).map(stored).collect()
    }

    fn values(&self, keys: &[ArrayRef], row: usize) -> Result<Vec<(String, Option<String>)>, ArrowError> {
        let names = self.partition.iter().map(|&number| self.stored.field(number).name().clone());
        names.zip(partition_values(keys, row)?).map(Ok).collect()
    }
}

/// The rows of each distinct key, in order of first appearance. Neighbours with the same key are found without hashing.
fn group(converter: &RowConverter, keys: &[ArrayRef]) -> Result<Vec<Vec<u32>>, ArrowError> {
    let rows = converter.convert_columns(keys)?;
    let mut numbers: HashMap<&[u8], usize> = HashMap::new();
    let mut groups: Vec<Vec<u32>> = Vec::new();
    let mut last: Option<(&[u8], usize)> = None;
    for number in 0..rows.num_rows() {
        let key = rows.row(number).data();
        let group = match last {
            Some((last, group)) if last == key => group,
            _ => *numbers.entry(key).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            }),
        };
        groups[group].push(number as u32);
        last = Some((key, group));
    }
    Ok(groups)
}

/// `day=2013-01-31/x=1`, with everything that a path or a reader could stumble over as `%` and two digits.
///
/// # Errors
/// If a folder of this name cannot be made anywhere. It has to be known before a checkpoint counts on it.
fn directory(values: &[(String, Option<String>)]) -> Result<String, ArrowError> {
    let mut path = String::new();
    for (name, value) in values {
        if !path.is_empty() {
            path.push('/');
        }
        let begin = path.len();
        escape(name, &mut path);
        path.push('=');
        match value {
            Some(value) => escape(value, &mut path),
            None => path.push_str(NULL_PARTITION),
        }
        let length = path.len() - begin;
        if length > LONGEST_NAME {
            return Err(ArrowError::InvalidArgumentError(format!(
                "a value of `{name}`, which partitionBy names, is too long: the folder's name would have {length} bytes, and may \
                 have {LONGEST_NAME}: {}",
                shorten(value.as_deref().unwrap_or_default().as_bytes())
            )));
        }
    }
    if path.len() > LONGEST_PATH {
        return Err(ArrowError::InvalidArgumentError(format!(
            "the values of the columns that partitionBy names are too long together: the path of their folders would have {} \
             bytes, and may have {LONGEST_PATH}: {}",
            path.len(),
            shorten(path.as_bytes())
        )));
    }
    Ok(path)
}

fn escape(text: &str, path: &mut String) {
    use std::fmt::Write;
    for c in text.chars() {
        if c.is_alphanumeric() || "_-.@+,~!$&()".contains(c) {
            path.push(c);
        } else {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(path, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::{
        array::{Date32Array, Int64Array, StringViewArray, TimestampNanosecondArray, UInt64Array},
        datatypes::{DataType, TimeUnit},
    };

    use super::*;

    fn batch() -> RecordBatch {
        RecordBatch::try_from_iter([
            ("day", Arc::new(Date32Array::from(vec![Some(0), Some(1), Some(0), None])) as ArrayRef),
            ("n", Arc::new(UInt64Array::from(vec![1, 2, 3, 4]))),
            ("who", Arc::new(StringViewArray::from(vec![Some("a/b c"), Some("x"), Some("a/b c"), Some("")]))),
            ("at", Arc::new(TimestampNanosecondArray::from(vec![1_000, 2_000, 3_000, 4_000]))),
        ])
        .unwrap()
    }

    #[test]
    fn rows_are_parted_by_their_values_and_the_files_lack_the_columns() {
        let columns = Columns::new(&batch().schema(), &["day".to_owned(), "who".to_owned()]).unwrap();
        let parts = columns.split(&batch()).unwrap();
        let directories: Vec<&str> = parts.iter().map(|part| part.directory.as_str()).collect();
        assert_eq!(
            directories,
            [
                "day=1970-01-01/who=a%2Fb%20c",
                "day=1970-01-02/who=x",
                "day=__HIVE_DEFAULT_PARTITION__/who=__HIVE_DEFAULT_PARTITION__",
            ]
        );
        assert_eq!(parts[0].values, [("day".into(), Some("1970-01-01".into())), ("who".into(), Some("a/b c".into()))]);
        assert_eq!(parts[2].values, [("day".into(), None), ("who".into(), None)], "an empty string is null");
        let numbers: &Int64Array = parts[0].rows.column(0).as_any().downcast_ref().unwrap();
        assert_eq!(numbers.values(), &[1, 3]);
        assert_eq!(parts[0].rows.schema().fields().len(), 2);
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        assert_eq!(parts[0].rows.column(1).data_type(), &micros);
    }

    #[test]
    fn a_value_that_does_not_fit_is_an_error_and_not_a_null() {
        let batch =
            RecordBatch::try_from_iter([("n", Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef)]).unwrap();
        let columns = Columns::new(&batch.schema(), &[]).unwrap();
        assert!(columns.split(&batch).is_err() && columns.check(&batch).is_err());
    }

    #[test]
    fn a_value_that_no_folder_can_be_named_after_is_refused_with_its_column() {
        let columns = Columns::new(&batch().schema(), &["who".to_owned()]).unwrap();
        let named = |who: &str| {
            let mut columns = batch().columns().to_vec();
            columns[2] = Arc::new(StringViewArray::from(vec![Some("a"), Some(who), Some("a"), Some("")]));
            RecordBatch::try_new(batch().schema(), columns).unwrap()
        };
        let (fits, beyond) = (named(&"x".repeat(LONGEST_NAME - 4)), named(&"é/".repeat(60)));
        assert!(columns.split(&fits).is_ok() && columns.check(&fits).is_ok());
        for error in [columns.split(&beyond).err().unwrap(), columns.check(&beyond).unwrap_err()] {
            let said = error.to_string();
            assert!(said.contains("a value of `who`") && said.contains("304 bytes, and may have 255: é/é/"), "{said}");
        }
    }

    #[test]
    fn folders_whose_path_no_system_takes_are_refused() {
        let values =
            |count: usize| -> Vec<_> { (0..count).map(|of| (format!("c{of}"), Some("x".repeat(250)))).collect() };
        assert!(directory(&values(8)).is_ok_and(|path| path.len() == 8 * 253 + 7));
        let said = directory(&values(9)).unwrap_err().to_string();
        assert!(said.contains("too long together") && said.contains("2285 bytes, and may have 2048: c0=xxx"), "{said}");
    }

    #[test]
    fn a_partition_column_that_is_not_there_is_refused() {
        let Err(error) = Columns::new(&batch().schema(), &["dya".to_owned()]) else { panic!("it must be refused") };
        assert_eq!(error.to_string(), "there is no column `dya` to partition by");
    }
}
