//! The columns of a Parquet file as those that the spec declares: cast, without losing anything that the type could hold.

use std::collections::BTreeMap;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray},
    compute::{CastOptions, can_cast_types, cast_with_options, filter_record_batch, kernels::cmp::neq},
    datatypes::{DataType, Schema, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};

use crate::{
    SourceError,
    format::{Format, InputColumn, batch, shorten, unusable},
};

/// What a batch comes to.
pub(super) struct Converted {
    /// The rows that could be read.
    pub(super) rows: RecordBatch,
    /// Their numbers in the batch; `None`: all of them.
    pub(super) kept: Option<Vec<usize>>,
    /// The others, with the reason.
    pub(super) bad: BTreeMap<usize, String>,
}

/// Why no row of a file with these columns can be read, if none can.
pub(super) fn mismatch(format: &Format, found: &Schema) -> Option<String> {
    let of = |column: &InputColumn| found.fields().iter().find(|field| *field.name() == column.path);
    let lacks: Vec<&str> =
        format.columns().iter().filter(|column| of(column).is_none()).map(|column| column.path.as_str()).collect();
    if !lacks.is_empty() {
        let names: Vec<&str> = found.fields().iter().map(|field| field.name().as_str()).collect();
        return Some(format!("has no column {}; it has {}", lacks.join(", "), names.join(", ")));
    }
    let columns = format.columns().iter().zip(format.schema().fields());
    let unlike = columns.filter_map(|(column, field)| {
        let found = of(column)?.data_type();
        (!can_cast_types(found, field.data_type())).then(|| cannot(column, found))
    });
    let unlike: Vec<String> = unlike.collect();
    (!unlike.is_empty()).then(|| format!("does not fit: {}", unlike.join("; ")))
}

fn cannot(column: &InputColumn, found: &DataType) -> String {
    format!("column {} is {found} and cannot be read as {}", column.path, column.of)
}

/// Casts the columns of a file that fits.
///
/// # Errors
///
/// When no batch can be made; never because of a bad row.
pub(super) fn convert(format: &Format, read: &RecordBatch) -> Result<Converted, SourceError> {
    let mut bad = BTreeMap::new();
    let mut arrays = Vec::new();
    for (column, field) in format.columns().iter().zip(format.schema().fields()) {
        let array = read
            .column_by_name(&column.path)
            .ok_or_else(|| unusable(format!("the batch has no column {}", column.path)))?;
        let (cast, unread) = readable(array, field.data_type()).map_err(|error| SourceError::Unusable {
            what: cannot(column, array.data_type()),
            source: Some(Box::new(error)),
        })?;
        for row in unread {
            bad.entry(row).or_insert_with(|| {
                format!(
                    "column {} ({}): {} was found, as {}",
                    column.path,
                    column.of,
                    shown(array, row),
                    array.data_type()
                )
            });
        }
        arrays.push(cast);
    }
    let rows = batch(format.schema(), arrays, read.num_rows())?;
    if bad.is_empty() {
        return Ok(Converted { rows, kept: None, bad });
    }
    let kept: Vec<usize> = (0..rows.num_rows()).filter(|row| !bad.contains_key(row)).collect();
    let mask: BooleanArray = (0..rows.num_rows()).map(|row| Some(!bad.contains_key(&row))).collect();
    let rows = filter_record_batch(&rows, &mask).map_err(|error| SourceError::Unusable {
        what: "the bad rows of a batch cannot be left out".to_owned(),
        source: Some(Box::new(error)),
    })?;
    Ok(Converted { rows, kept: Some(kept), bad })
}

/// A column as another type, and the rows whose values are none of that type.
fn readable(array: &ArrayRef, to: &DataType) -> Result<(ArrayRef, Vec<usize>), ArrowError> {
    if let Ok(cast) = cast(array, to, false) {
        let broken = fractions(array, &cast)?;
        let broken = broken
            .map(|broken| broken.iter().enumerate().filter(|(_, is)| *is == Some(true)).map(|(row, _)| row).collect());
        return Ok((cast, broken.unwrap_or_default()));
    }
    let cast_all = cast(array, to, true)?;
    let mut bad = Vec::new();
    for row in 0..array.len() {
        let one = array.slice(row, 1);
        let is_bad = match cast(&one, to, false) {
            Ok(cast) => fractions(&one, &cast)?.is_some_and(|broken| broken.true_count() > 0),
            Err(_) => true,
        };
        if is_bad {
            bad.push(row);
        }
    }
    Ok((cast_all, bad))
}

/// Moments without a time zone are in UTC.
fn cast(array: &ArrayRef, to: &DataType, safe: bool) -> Result<ArrayRef, ArrowError> {
    let options = CastOptions { safe, ..CastOptions::default() };
    if let (DataType::Timestamp(_, zone), DataType::Timestamp(TimeUnit::Microsecond, Some(_))) = (array.data_type(), to)
    {
        let micros: TimestampMicrosecondArray = match array.as_primitive_opt::<TimestampNanosecondType>() {
            // Down, as everywhere; a cast goes toward 1970.
            Some(nanos) => nanos.unary(|nanos| nanos.div_euclid(1_000)),
            None => {
                let to = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
                cast_with_options(array, &to, &options)?.as_primitive::<TimestampMicrosecondType>().clone()
            }
        };
        return Ok(std::sync::Arc::new(micros.with_timezone("UTC")));
    }
    cast_with_options(array, to, &options)
}

/// Where a cast to whole numbers has cut a fraction off.
fn fractions(from: &ArrayRef, to: &ArrayRef) -> Result<Option<BooleanArray>, ArrowError> {
    let may_have = from.data_type().is_floating()
        || matches!(from.data_type(), DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) if *scale > 0);
    if !may_have || !to.data_type().is_integer() {
        return Ok(None);
    }
    let back = cast(to, from.data_type(), true)?;
    neq(&back, from).map(Some)
}

fn shown(array: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default().with_null("null");
    let text = ArrayFormatter::try_new(array, &options).and_then(|formatter| formatter.value(row).try_to_string());
    text.map_or_else(|_| "something".to_owned(), |text| format!("`{}`", shorten(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::array::TimestampNanosecondArray;

    use super::*;

    #[test]
    fn a_moment_is_cut_down_to_its_microsecond_before_1970_too() {
        let nanos = vec![Some(-1_001), Some(-1_000), Some(-1), None, Some(1), Some(1_999)];
        let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(nanos));
        let to = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let (micros, bad) = readable(&nanos, &to).unwrap();
        assert!(bad.is_empty());
        let micros: Vec<_> = micros.as_primitive::<TimestampMicrosecondType>().iter().collect();
        assert_eq!(micros, [Some(-2), Some(-1), Some(-1), None, Some(0), Some(1)]);
    }
}
