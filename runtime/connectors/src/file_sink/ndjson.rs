//! Rows as JSON, one object a line.
//!
//! The encoder is on the path of every row that a pipeline writes, so it works from Arrow's columns straight into the
//! output buffer: key names are escaped once, columns are downcast once a batch, and no row allocates.
//!
//! | type | JSON |
//! |---|---|
//! | integers, decimals | a number, with all its digits |
//! | floats | a number that reads back as the same value; NaN and the infinities: `null` |
//! | timestamps, dates | strings, ISO 8601 in UTC |
//! | strings, JSON text | a string |
//! | bytes | a string; what is not UTF-8 is replaced by U+FFFD |
//! | lists, structs | arrays, objects |
//! | anything else | a string, as Arrow shows it |
//!
//! A changelog's rows begin with `"_op"`: `insert`, `update_before`, `update_after` or `delete`.

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{Schema, UInt8Type},
    error::ArrowError,
    util::display::FormatOptions,
};
use millrace_stream::{OP_COLUMN, Operation};

use super::{
    text::{write_date, write_decimal, write_f32, write_f64, write_int, write_timestamp},
    values::{Column, Values, elements},
};

/// Writes rows of one schema as lines of JSON.
pub(crate) struct NdjsonEncoder {
    /// For each column, what stands before its value: `{"a":` for the first, `,"b":` for the others.
    keys: Vec<Box<[u8]>>,
    /// For a changelog, what stands before the first key, by operation.
    operations: Option<[Box<[u8]>; 4]>,
}

/// The name of an operation, as sinks write it.
pub(crate) fn operation_name(op: u8) -> &'static str {
    match op {
        op if op == Operation::Insert as u8 => "insert",
        op if op == Operation::UpdateBefore as u8 => "update_before",
        op if op == Operation::UpdateAfter as u8 => "update_after",
        _ => "delete",
    }
}

impl NdjsonEncoder {
    /// An encoder of these columns. A changelog's batches have the operation as an extra first column.
    pub(crate) fn new(schema: &Schema, changelog: bool) -> Self {
        let keys = schema
            .fields()
            .iter()
            .enumerate()
            .map(|(number, field)| {
                let mut key = vec![if number == 0 && !changelog { b'{' } else { b',' }];
                write_string(field.name().as_bytes(), &mut key);
                key.push(b':');
                key.into()
            })
            .collect();
        let operations = changelog.then(|| {
            [0, 1, 2, 3].map(|op| {
                let mut head = b"{".to_vec();
                write_string(OP_COLUMN.as_bytes(), &mut head);
                head.push(b':');
                write_string(operation_name(op).as_bytes(), &mut head);
                head.into()
            })
        });
        Self { keys, operations }
    }

    /// Appends the batch's rows.
    ///
    /// # Errors
    /// If a value cannot be shown (of a type that has no JSON of its own).
    pub(crate) fn encode(&self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let options = FormatOptions::new();
        let (operations, columns) = match &self.operations {
            Some(names) => (Some((names, batch.column(0).as_primitive::<UInt8Type>().values())), &batch.columns()[1..]),
            None => (None, batch.columns()),
        };
        let columns: Vec<(&[u8], Column)> = self
            .keys
            .iter()
            .zip(columns)
            .map(|(key, array)| Ok((&**key, Column::of(array, &options)?)))
            .collect::<Result<_, ArrowError>>()?;
        for row in 0..batch.num_rows() {
            if let Some((names, ops)) = operations {
                out.extend_from_slice(&names[usize::from(ops[row].min(3))]);
            }
            for (key, column) in &columns {
                out.extend_from_slice(key);
                write_value(column, row, out)?;
            }
            out.extend_from_slice(b"}\n");
        }
        Ok(())
    }
}

/// Appends one value as JSON.
pub(crate) fn write_value(column: &Column, row: usize, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    if column.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    match &column.values {
        Values::Null => out.extend_from_slice(b"null"),
        Values::Boolean(values) => out.extend_from_slice(if values.value(row) { b"true" } else { b"false" }),
        Values::I8(values) => write_int(values[row], out),
        Values::I16(values) => write_int(values[row], out),
        Values::I32(values) => write_int(values[row], out),
        Values::I64(values) => write_int(values[row], out),
        Values::U8(values) => write_int(values[row], out),
        Values::U16(values) => write_int(values[row], out),
        Values::U32(values) => write_int(values[row], out),
        Values::U64(values) => write_int(values[row], out),
        Values::F32(values) if values[row].is_finite() => write_f32(values[row], out),
        Values::F64(values) if values[row].is_finite() => write_f64(values[row], out),
        Values::F32(_) | Values::F64(_) => out.extend_from_slice(b"null"),
        Values::Timestamp(values, unit) => quoted(out, |out| write_timestamp(values[row], *unit, out)),
        Values::Date32(values) => quoted(out, |out| write_date(i64::from(values[row]), out)),
        Values::Date64(values) => quoted(out, |out| write_date(values[row].div_euclid(86_400_000), out)),
        Values::Decimal(values, scale) => write_decimal(values[row], *scale, out),
        Values::Utf8(values) => write_string(values.value(row).as_bytes(), out),
        Values::LargeUtf8(values) => write_string(values.value(row).as_bytes(), out),
        Values::Utf8View(values) => write_string(values.value(row).as_bytes(), out),
        Values::Binary(values) => write_string(String::from_utf8_lossy(values.value(row)).as_bytes(), out),
        Values::LargeBinary(values) => write_string(String::from_utf8_lossy(values.value(row)).as_bytes(), out),
        Values::BinaryView(values) => write_string(String::from_utf8_lossy(values.value(row)).as_bytes(), out),
        Values::List(offsets, child) => write_list(elements(offsets, row), child, out)?,
        Values::LargeList(offsets, child) => write_list(elements(offsets, row), child, out)?,
        Values::Struct(fields) => {
            out.push(b'{');
            for (number, (name, field)) in fields.iter().enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                write_string(name.as_bytes(), out);
                out.push(b':');
                write_value(field, row, out)?;
            }
            out.push(b'}');
        }
        Values::Shown(formatter) => write_string(formatter.value(row).try_to_string()?.as_bytes(), out),
    }
    Ok(())
}

fn write_list(elements: std::ops::Range<usize>, child: &Column, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    out.push(b'[');
    for (number, element) in elements.enumerate() {
        if number > 0 {
            out.push(b',');
        }
        write_value(child, element, out)?;
    }
    out.push(b']');
    Ok(())
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

/// Appends a JSON string.
pub(crate) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if needs_escape(text) {
        write_escaped(text, out);
    } else {
        out.extend_from_slice(text);
    }
    out.push(b'"');
}

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES << 7;

/// Whether a byte is below the space, a quote or a backslash: eight bytes at a time.
fn needs_escape(text: &[u8]) -> bool {
    let mut chunks = text.chunks_exact(8);
    let mut found = 0;
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        // A byte borrows from its neighbour only if it is less than what is taken from it, so a false alarm can only
        // stand above a true one: the answer for the whole word is exact.
        let below_space = word.wrapping_sub(ONES * 0x20) & !word;
        let quote = word ^ (ONES * u64::from(b'"'));
        let backslash = word ^ (ONES * u64::from(b'\\'));
        let is_quote = quote.wrapping_sub(ONES) & !quote;
        let is_backslash = backslash.wrapping_sub(ONES) & !backslash;
        found |= (below_space | is_quote | is_backslash) & HIGHS;
    }
    found != 0 || chunks.remainder().iter().any(|&byte| byte < b' ' || byte == b'"' || byte == b'\\')
}

#[cold]
fn write_escaped(text: &[u8], out: &mut Vec<u8>) {
    let mut copied = 0;
    for (at, &byte) in text.iter().enumerate() {
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            0..0x20 => 0,
            _ => continue,
        };
        out.extend_from_slice(&text[copied..at]);
        if short == 0 {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        } else {
            out.extend_from_slice(&[b'\\', short]);
        }
        copied = at + 1;
    }
    out.extend_from_slice(&text[copied..]);
}

#[cfg(test)]
mod tests;
