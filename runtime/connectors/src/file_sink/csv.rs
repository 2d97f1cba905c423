//! Rows as CSV, by RFC 4180, with a header line in every file.
//!
//! A null is an empty field, an empty string is `""`. A field is quoted if it holds the delimiter, a quote or a line
//! break. Lists and structs are written as JSON inside a field; floats that are no number as `NaN`, `inf` and `-inf`.

use arrow::{array::RecordBatch, datatypes::Schema, error::ArrowError, util::display::FormatOptions};

use super::{
    ndjson::write_value,
    text::{write_date, write_timestamp},
    values::{Column, Values},
};

/// Writes rows of one schema as CSV.
pub(crate) struct CsvEncoder {
    header: Option<Box<[u8]>>,
    delimiter: u8,
    /// A number, a time or `true` may hold the delimiter.
    is_common: bool,
}

impl CsvEncoder {
    /// An encoder of these columns.
    pub(crate) fn new(schema: &Schema, delimiter: u8, header: bool) -> Self {
        let header = header.then(|| {
            let mut line = Vec::new();
            for (number, field) in schema.fields().iter().enumerate() {
                if number > 0 {
                    line.push(delimiter);
                }
                write_field(field.name().as_bytes(), delimiter, &mut line);
            }
            line.push(b'\n');
            line.into()
        });
        let is_common = delimiter.is_ascii_alphanumeric() || b"+-.:".contains(&delimiter);
        Self { header, delimiter, is_common }
    }

    /// What a file begins with.
    pub(crate) fn header(&self) -> &[u8] {
        self.header.as_deref().unwrap_or_default()
    }

    /// Appends the batch's rows.
    ///
    /// # Errors
    /// If a value cannot be shown.
    pub(crate) fn encode(&self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let options = FormatOptions::new();
        let columns: Vec<Column> =
            batch.columns().iter().map(|array| Column::of(array, &options)).collect::<Result<_, _>>()?;
        let mut scratch = Vec::new();
        for row in 0..batch.num_rows() {
            for (number, column) in columns.iter().enumerate() {
                if number > 0 {
                    out.push(self.delimiter);
                }
                if !column.is_null(row) {
                    self.write(column, row, &mut scratch, out)?;
                }
            }
            out.push(b'\n');
        }
        Ok(())
    }

    fn write(&self, column: &Column, row: usize, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let mut field = |text: &[u8]| write_field(text, self.delimiter, out);
        match &column.values {
            Values::Utf8(values) => field(values.value(row).as_bytes()),
            Values::LargeUtf8(values) => field(values.value(row).as_bytes()),
            Values::Utf8View(values) => field(values.value(row).as_bytes()),
            Values::Binary(values) => field(values.value(row)),
            Values::LargeBinary(values) => field(values.value(row)),
            Values::BinaryView(values) => field(values.value(row)),
            Values::F32(values) if !values[row].is_finite() => field(values[row].to_string().as_bytes()),
            Values::F64(values) if !values[row].is_finite() => field(values[row].to_string().as_bytes()),
            Values::Shown(formatter) => field(formatter.value(row).try_to_string()?.as_bytes()),
            Values::List(..) | Values::LargeList(..) | Values::Struct(_) => {
                scratch.clear();
                write_value(column, row, scratch)?;
                field(scratch);
            }
            _ if self.is_common => {
                scratch.clear();
                write_plain(column, row, scratch)?;
                field(scratch);
            }
            _ => write_plain(column, row, out)?,
        }
        Ok(())
    }
}

/// Writes a number, a time or a truth.
fn write_plain(column: &Column, row: usize, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    match &column.values {
        Values::Timestamp(values, unit) => write_timestamp(values[row], *unit, out),
        Values::Date32(values) => write_date(i64::from(values[row]), out),
        Values::Date64(values) => write_date(values[row].div_euclid(86_400_000), out),
        _ => write_value(column, row, out)?,
    }
    Ok(())
}

fn write_field(text: &[u8], delimiter: u8, out: &mut Vec<u8>) {
    let plain = !text.is_empty()
        && !text.iter().any(|&byte| byte == delimiter || byte == b'"' || byte == b'\n' || byte == b'\r');
    if plain {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for &byte in text {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Float64Array, Int32Array, ListArray, StringArray, TimestampMicrosecondArray},
        datatypes::Int64Type,
    };

    use super::*;

    #[test]
    fn numbers_and_times_that_hold_the_delimiter_are_quoted() {
        let batch = RecordBatch::try_from_iter([
            ("n", Arc::new(Int32Array::from(vec![-1])) as ArrayRef),
            ("x", Arc::new(Float64Array::from(vec![1.5]))),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC"))),
            ("b", Arc::new(arrow::array::BooleanArray::from(vec![true]))),
        ])
        .unwrap();
        let encoded = |delimiter: u8| {
            let mut out = Vec::new();
            CsvEncoder::new(&batch.schema(), delimiter, false).encode(&batch, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(encoded(b';'), "-1;1.5;1970-01-01T00:00:00Z;true\n");
        assert_eq!(encoded(b':'), "-1:1.5:\"1970-01-01T00:00:00Z\":true\n");
        assert_eq!(encoded(b'-'), "\"-1\"-1.5-\"1970-01-01T00:00:00Z\"-true\n");
        assert_eq!(encoded(b'.'), "-1.\"1.5\".1970-01-01T00:00:00Z.true\n");
        assert_eq!(encoded(b'1'), "\"-1\"1\"1.5\"1\"1970-01-01T00:00:00Z\"1true\n");
        assert_eq!(encoded(b'e'), "-1e1.5e1970-01-01T00:00:00Ze\"true\"\n");
    }

    #[test]
    fn fields_are_quoted_where_they_must_be_and_null_is_not_the_empty_string() {
        let batch = RecordBatch::try_from_iter([
            ("n", Arc::new(Int32Array::from(vec![Some(1), None, Some(-3)])) as ArrayRef),
            ("a,b", Arc::new(StringArray::from(vec![Some("plain"), Some(""), Some("say \"hi\",\nthere")]))),
            ("x", Arc::new(Float64Array::from(vec![1.5, f64::NAN, f64::NEG_INFINITY]))),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 2]).with_timezone("UTC"))),
            (
                "l",
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([
                    Some(vec![Some(1), None]),
                    None,
                    Some(vec![]),
                ])),
            ),
        ])
        .unwrap();
        let encoder = CsvEncoder::new(&batch.schema(), b',', true);
        let mut out = encoder.header().to_vec();
        encoder.encode(&batch, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "n,\"a,b\",x,t,l\n\
             1,plain,1.5,1970-01-01T00:00:00Z,\"[1,null]\"\n\
             ,\"\",NaN,1970-01-01T00:00:00.000001Z,\n\
             -3,\"say \"\"hi\"\",\nthere\",-inf,1970-01-01T00:00:00.000002Z,[]\n"
        );
    }
}
