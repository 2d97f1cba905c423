//! Rows whose values are text: written to columns by type.

use arrow::{
    array::{RecordBatch, make_view},
    datatypes::SchemaRef,
};
use millrace_crds::ColumnType;

use super::{
    Chunk, InputColumn,
    columns::{Column, Values},
    decimal::{Decimal, Excess},
    temporal::{self, Layout},
};
use crate::SourceError;

/// Columns that are filled from text.
pub(super) struct Table {
    schema: SchemaRef,
    pub(super) inputs: Vec<InputColumn>,
    columns: Vec<Column>,
    seen: Vec<bool>,
    layout: Option<Layout>,
    room: usize,
    row: usize,
}

impl Table {
    pub(super) fn new(inputs: &[InputColumn], schema: SchemaRef, layout: Option<Layout>) -> Self {
        Self {
            schema,
            columns: inputs.iter().map(|input| Column::new(&input.of)).collect(),
            seen: vec![false; inputs.len()],
            inputs: inputs.to_vec(),
            layout,
            room: 0,
            row: 0,
        }
    }

    /// The column that a row has under this name.
    pub(super) fn named(&self, name: &str) -> Option<usize> {
        self.inputs.iter().position(|input| input.path == name)
    }

    /// Begins a row, over what an earlier, bad one has left.
    pub(super) fn begin_row(&mut self) {
        if self.row == self.room {
            self.room = (self.room * 2).max(1024);
            self.columns.iter_mut().for_each(|column| column.reserve(self.room));
        }
        self.seen.fill(false);
    }

    /// Writes a value, which stands in the chunk or elsewhere.
    pub(super) fn set(&mut self, column: usize, value: &str, chunk: &Chunk) -> Result<(), String> {
        let row = self.row;
        let text = value.trim();
        let wrong = |what: &str| {
            let input = &self.inputs[column];
            format!(
                "column {} ({}): {what}, found `{}`",
                input.name,
                input.of,
                super::bad_rows::shorten(value.as_bytes())
            )
        };
        match &mut self.columns[column].values {
            Values::Varchar(strings) | Values::Json(strings) => {
                let within = (value.as_ptr() as usize).wrapping_sub(chunk.bytes().as_ptr() as usize);
                if value.len() > 12 && within < chunk.bytes().len() {
                    strings.set_view(row, make_view(value.as_bytes(), 0, within as u32));
                } else {
                    strings.set_copy(row, value.as_bytes());
                }
            }
            _ if text.is_empty() => return Ok(()),
            Values::Boolean(bits) => {
                let on = match text {
                    "true" | "TRUE" | "True" | "t" | "1" => true,
                    "false" | "FALSE" | "False" | "f" | "0" => false,
                    _ => return Err(wrong("true or false was expected")),
                };
                bits.set(row, on);
            }
            Values::Int(values) => {
                values[row] = whole(text).ok_or_else(|| wrong("a whole number of 32 bits was expected"))?;
            }
            Values::BigInt(values) => {
                values[row] = whole(text).ok_or_else(|| wrong("a whole number of 64 bits was expected"))?;
            }
            Values::Float(values) => {
                let number: f32 = lexical_core::parse(text.as_bytes()).map_err(|_| wrong("a number was expected"))?;
                if number.is_infinite() && is_written_out(text) {
                    return Err(wrong("a number of 32 bits was expected"));
                }
                values[row] = number;
            }
            Values::Double(values) => {
                let number: f64 = lexical_core::parse(text.as_bytes()).map_err(|_| wrong("a number was expected"))?;
                if number.is_infinite() && is_written_out(text) {
                    return Err(wrong("a number of 64 bits was expected"));
                }
                values[row] = number;
            }
            Values::Date(values) => {
                values[row] =
                    temporal::date(text.as_bytes()).ok_or_else(|| wrong("a day, YYYY-MM-DD, was expected"))?;
            }
            Values::Timestamp(values) => {
                let moment = match &self.layout {
                    Some(layout) => layout.timestamp(text),
                    None => temporal::timestamp(text.as_bytes()),
                };
                values[row] = moment.ok_or_else(|| wrong("a timestamp was expected"))?;
            }
            Values::Decimal { values, precision, scale } => {
                let units = Decimal::parse(text.as_bytes()).and_then(|n| n.units(u32::from(*scale), Excess::Round));
                let fits = units.filter(|units| units.unsigned_abs() < 10_u128.pow(u32::from(*precision)));
                values[row] = fits.ok_or_else(|| wrong("a decimal number was expected"))?;
            }
            Values::List(_) => return Err(wrong("lists can only be read from JSON")),
        }
        self.seen[column] = true;
        Ok(())
    }

    /// Writes a moment that the decoder itself has read; to a column of another type goes the text.
    pub(super) fn set_moment(&mut self, column: usize, micros: i64, text: &str, chunk: &Chunk) -> Result<(), String> {
        if let Values::Timestamp(values) = &mut self.columns[column].values {
            values[self.row] = micros;
            self.seen[column] = true;
            return Ok(());
        }
        self.set(column, text, chunk)
    }

    /// Commits the row.
    pub(super) fn end_row(&mut self) {
        for (column, seen) in self.columns.iter_mut().zip(&self.seen) {
            if !seen {
                column.commit_null(self.row);
            }
        }
        self.row += 1;
    }

    pub(super) fn finish(&mut self, chunk: &Chunk) -> Result<RecordBatch, SourceError> {
        let rows = std::mem::take(&mut self.row);
        self.room = 0;
        let arrays = self.columns.iter_mut().map(|column| column.finish(rows, chunk.buffer())).collect();
        super::batch(&self.schema, arrays, rows)
    }

    /// Whether a column can be filled from text.
    pub(super) fn check(inputs: &[InputColumn]) -> Result<(), SourceError> {
        match inputs.iter().find(|input| matches!(input.of, ColumnType::Array(_))) {
            Some(input) => {
                Err(super::unusable(format!("column {} is a list, which only JSON and Parquet have", input.name)))
            }
            None => Ok(()),
        }
    }
}

/// Whether a number is given by its digits; `inf` is none of those.
fn is_written_out(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_digit())
}

/// A whole number, in plain digits mostly.
fn whole<T: std::str::FromStr + TryFrom<i128>>(text: &str) -> Option<T> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    Decimal::parse(text.as_bytes())?.units(0, Excess::Refuse)?.try_into().ok()
}
