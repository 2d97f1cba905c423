//! What a Delta log says of a file's content, from the statistics in the file's footer: the number of rows, and for each
//! column of a plain type how many nulls, the least and the greatest value.
//!
//! A bound is left out where it could mislead: floats with a NaN (which Parquet's statistics pass over) or an infinity,
//! times before year 1 or after 9999, columns inside lists and structs.

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use parquet::file::{metadata::ParquetMetaData, statistics::Statistics};

use crate::{
    file_sink::{write_date, write_decimal, write_f32, write_f64, write_string, write_timestamp},
    parquet_sink::Closed,
};

/// How many columns, from the first, have bounds: more make the log large and help few queries.
const INDEXED_COLUMNS: usize = 32;

/// Days of the first day of year 1 and of year 10000, since 1970-01-01.
const PLAIN_DAYS: std::ops::Range<i64> = -719_162..2_932_897;

/// The statistics, as a Delta log has them in a string.
pub(super) fn describe(schema: &SchemaRef, closed: &Closed) -> Option<String> {
    let mut text = format!("{{\"numRecords\":{}", closed.file.rows()).into_bytes();
    let columns: Vec<Merged> = schema
        .fields()
        .iter()
        .enumerate()
        .take(INDEXED_COLUMNS)
        .filter(|(_, field)| !field.data_type().is_nested())
        .filter_map(|(number, field)| {
            let merged = merge(&closed.metadata, field.name())?;
            let bounds = if closed.file.had_nan(number) { None } else { bounds(&merged, field.data_type()) };
            Some(Merged { name: field.name().clone(), nulls: merged.nulls, bounds })
        })
        .collect();
    for (key, least) in [("minValues", true), ("maxValues", false)] {
        object(
            key,
            columns.iter().filter_map(|column| {
                let (min, max) = column.bounds.as_ref()?;
                Some((column.name.as_str(), if least { min } else { max }.as_slice()))
            }),
            &mut text,
        );
    }
    let nulls: Vec<(String, String)> =
        columns.iter().filter_map(|column| Some((column.name.clone(), column.nulls?.to_string()))).collect();
    object("nullCount", nulls.iter().map(|(name, count)| (name.as_str(), count.as_bytes())), &mut text);
    text.push(b'}');
    String::from_utf8(text).ok()
}

struct Merged {
    name: String,
    nulls: Option<u64>,
    /// As JSON.
    bounds: Option<(Vec<u8>, Vec<u8>)>,
}

fn object<'a>(key: &str, members: impl Iterator<Item = (&'a str, &'a [u8])>, out: &mut Vec<u8>) {
    out.extend_from_slice(format!(",\"{key}\":{{").as_bytes());
    for (number, (name, value)) in members.enumerate() {
        if number > 0 {
            out.push(b',');
        }
        write_string(name.as_bytes(), out);
        out.push(b':');
        out.extend_from_slice(value);
    }
    out.push(b'}');
}

/// A column's statistics over all row groups.
struct Column<'a> {
    nulls: Option<u64>,
    groups: Vec<&'a Statistics>,
}

fn merge<'a>(metadata: &'a ParquetMetaData, name: &str) -> Option<Column<'a>> {
    let mut merged = Column { nulls: Some(0), groups: Vec::new() };
    for group in metadata.row_groups() {
        let column = group.columns().iter().find(|column| column.column_path().parts() == [name])?;
        let statistics = column.statistics()?;
        merged.nulls = merged.nulls.zip(statistics.null_count_opt()).map(|(sum, more)| sum + more);
        if statistics.null_count_opt() != Some(column.num_values() as u64) {
            merged.groups.push(statistics);
        }
    }
    Some(merged)
}

/// The least and the greatest value as JSON.
fn bounds(column: &Column, data_type: &DataType) -> Option<(Vec<u8>, Vec<u8>)> {
    match data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            let (min, max) = ints(column)?;
            Some((min.to_string().into_bytes(), max.to_string().into_bytes()))
        }
        DataType::Decimal128(_, scale) => {
            let (min, max) = ints(column)?;
            Some((text(|out| write_decimal(min, *scale, out)), text(|out| write_decimal(max, *scale, out))))
        }
        DataType::Date32 => {
            let (min, max) = ints(column)?;
            let plain = |days: i128| i64::try_from(days).ok().filter(|days| PLAIN_DAYS.contains(days));
            let (min, max) = (plain(min)?, plain(max)?);
            Some((quoted(|out| write_date(min, out)), quoted(|out| write_date(max, out))))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let (min, max) = ints(column)?;
            let plain = |micros: i128| {
                i64::try_from(micros).ok().filter(|micros| PLAIN_DAYS.contains(&micros.div_euclid(86_400_000_000)))
            };
            let (min, max) = (plain(min)?, plain(max)?);
            let time = |value| quoted(|out| write_timestamp(value, TimeUnit::Microsecond, out));
            Some((time(min), time(max)))
        }
        DataType::Float32 => {
            let (min, max) = floats(column, |group| match group {
                Statistics::Float(values) => Some((*values.min_opt()?, *values.max_opt()?)),
                _ => None,
            })?;
            (min.is_finite() && max.is_finite())
                .then(|| (text(|out| write_f32(min, out)), text(|out| write_f32(max, out))))
        }
        DataType::Float64 => {
            let (min, max) = floats(column, |group| match group {
                Statistics::Double(values) => Some((*values.min_opt()?, *values.max_opt()?)),
                _ => None,
            })?;
            (min.is_finite() && max.is_finite())
                .then(|| (text(|out| write_f64(min, out)), text(|out| write_f64(max, out))))
        }
        DataType::Utf8 => {
            let mut groups = column.groups.iter().map(|group| Some((group.min_bytes_opt()?, group.max_bytes_opt()?)));
            let first = groups.next()??;
            let (min, max) = groups.try_fold(first, |(min, max), group| {
                let group = group?;
                Some((min.min(group.0), max.max(group.1)))
            })?;
            let (min, max) = (std::str::from_utf8(min).ok()?, std::str::from_utf8(max).ok()?);
            Some((text(|out| write_string(min.as_bytes(), out)), text(|out| write_string(max.as_bytes(), out))))
        }
        _ => None,
    }
}

fn text(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn quoted(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![b'"'];
    write(&mut out);
    out.push(b'"');
    out
}

fn floats<T: PartialOrd + Copy>(column: &Column, of: impl Fn(&Statistics) -> Option<(T, T)>) -> Option<(T, T)> {
    let mut groups = column.groups.iter().map(|group| of(group));
    let first = groups.next()??;
    groups.try_fold(first, |(min, max), group| {
        let (low, high) = group?;
        Some((if low < min { low } else { min }, if high > max { high } else { max }))
    })
}

/// The bounds of integers, however they are stored.
fn ints(column: &Column) -> Option<(i128, i128)> {
    let wide = |bytes: &[u8]| {
        let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
        let mut value = [if negative { 0xff } else { 0 }; 16];
        value.get_mut(16usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
        Some(i128::from_be_bytes(value))
    };
    floats(column, |group| match group {
        Statistics::Int32(values) => Some(((*values.min_opt()?).into(), (*values.max_opt()?).into())),
        Statistics::Int64(values) => Some(((*values.min_opt()?).into(), (*values.max_opt()?).into())),
        Statistics::FixedLenByteArray(_) => Some((wide(group.min_bytes_opt()?)?, wide(group.max_bytes_opt()?)?)),
        _ => None,
    })
}
