//! JSON, an object a line, straight into columns.
//!
//! One pass over a chunk. For each row, at the place of each field:
//!
//! 1. the bytes between the values are compared with what stood there in an earlier row ([`fields`]); only if they
//!    differ is a name read and looked up;
//! 2. the value is parsed to its column's type and written at the row's number ([`columns`](crate::format::columns)), or
//!    passed over if nothing reads it ([`skip`]);
//! 3. at the row's end the columns that got no value are null there.
//!
//! Nothing is allocated for a row, unless it is bad or has escapes in a long string. Bytes are checked to be UTF-8 once a
//! chunk; a chunk that is not is checked row by row.
//!
//! # What is accepted
//!
//! Rows are as RFC 8259 has objects, one a line; a line of blanks is no row; lines end with LF or CRLF. Every row is held
//! to the whole grammar, also where nothing reads it. Of fields with the same name the last one counts. A missing field is
//! null, and so is a path that leads through something else than an object. Values go to columns so:
//!
//! | column | takes |
//! |---|---|
//! | `BOOLEAN` | `true`, `false` |
//! | `INT`, `BIGINT` | numbers without a fraction, `1e3` and `2.0` too; others, and numbers in quotes, make the row bad |
//! | `FLOAT`, `DOUBLE` | numbers, rounded to the nearest; those beyond the greatest make the row bad |
//! | `DECIMAL` | numbers, in quotes too, rounded half away from zero to its scale |
//! | `VARCHAR` | strings; any other value as its JSON text |
//! | `JSON` | any value as its text, unchanged |
//! | `TIMESTAMP` | numbers in the format's `timestampUnit`; ISO 8601 in quotes |
//! | `DATE` | `"YYYY-MM-DD"` |
//! | lists | arrays of such values and nulls |
//!
//! `null` is null for all of them, `JSON` included.

mod fault;
mod fields;
mod number;
mod scan;
mod skip;
mod string;
#[cfg(test)]
mod tests;
mod value;

use std::{fmt, ops::Range};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use millrace_crds::{ColumnType, TimestampUnit};

use self::{
    fault::Fault,
    fields::{Action, Fields},
    scan::skip_blanks,
};
use super::{BadRows, Chunk, Decoder, InputColumn, chunk::Padded, columns::Column, lines};
use crate::SourceError;

/// Decodes lines of JSON objects.
pub struct JsonDecoder {
    schema: SchemaRef,
    names: Vec<String>,
    types: Vec<ColumnType>,
    unit: TimestampUnit,
    fields: Fields,
    columns: Vec<Column>,
    /// A bit for each column that has a value in this row.
    seen: Vec<u64>,
    /// `seen`, when every column has one.
    all_seen: Vec<u64>,
    /// What is wrong with this row, where, and with which column.
    fault: Option<(Fault, usize, Option<usize>)>,
    /// About how many bytes a row has.
    row_bytes: usize,
    scratch: Vec<u8>,
}

/// The row is bad; `fault` says why.
struct Failed;

impl JsonDecoder {
    /// A decoder of these columns, which are those of `schema`.
    pub fn new(columns: &[InputColumn], schema: SchemaRef, unit: TimestampUnit) -> Self {
        let mut all_seen = vec![0; columns.len().div_ceil(64)];
        for index in 0..columns.len() {
            all_seen[index / 64] |= 1 << (index % 64);
        }
        Self {
            schema,
            names: columns.iter().map(|column| column.name.clone()).collect(),
            types: columns.iter().map(|column| column.of.clone()).collect(),
            unit,
            fields: Fields::new(columns.iter().map(|column| &*column.path)),
            columns: columns.iter().map(|column| Column::new(&column.of)).collect(),
            seen: vec![0; all_seen.len()],
            all_seen,
            fault: None,
            row_bytes: 64,
            scratch: Vec::new(),
        }
    }

    /// The place behind the row that begins at `pos`.
    #[inline(always)]
    fn row(&mut self, text: Padded<'_>, pos: usize, row: usize) -> Result<usize, Failed> {
        self.seen.fill(0);
        let mut pos = skip_blanks(text, pos);
        if text.at(pos) != b'{' {
            return self.fail(Fault::Object, pos);
        }
        pos = self.object(text, pos + 1, 0, row)?;
        if text.at(pos) != b'\n' {
            pos = skip_blanks(text, pos);
            if pos >= text.len() {
                return Ok(pos);
            }
            if text.at(pos) != b'\n' {
                return self.fail(Fault::Trailing, pos);
            }
        }
        Ok(pos + 1)
    }

    /// Reads the fields of an object, whose `{` stands before `pos`; gives the place behind its `}`.
    #[inline(always)]
    fn object(&mut self, text: Padded<'_>, mut pos: usize, object: usize, row: usize) -> Result<usize, Failed> {
        let mut place = 0;
        loop {
            let known = self.fields.place(object, place);
            let (start, action) = match known.and_then(|(pattern, action)| Some((pattern.at(text, pos)?, *action))) {
                Some((start, action)) if text.at(start) > b' ' => (start, action),
                // The same but for blanks, which are not always there.
                Some((start, action)) => (skip_blanks(text, start), action),
                None => match self.unexpected_field(text, pos, object, &mut place)? {
                    Next::Value(start, action) => (start, action),
                    Next::End(end) => return Ok(end),
                },
            };
            pos = match action {
                Action::Skip => match skip::value(text, start) {
                    Ok(end) => end,
                    Err((fault, at)) => return self.fail(fault, at),
                },
                Action::Column(column) => self.column_value(text, start, column as usize, row)?,
                other => self.nested(text, start, other, row)?,
            };
            let mut byte = text.at(pos);
            if !matches!(byte, b',' | b'}') {
                pos = skip_blanks(text, pos);
                byte = text.at(pos);
            }
            pos += 1;
            match byte {
                b',' => place += 1,
                b'}' => return Ok(pos),
                b'\n' | 0 => return self.fail(Fault::Unfinished, pos - 1),
                _ => return self.fail(Fault::CommaOrBrace, pos - 1),
            }
        }
    }

    /// A field that is not the one which an earlier row had at this place.
    #[inline(never)]
    fn unexpected_field(
        &mut self,
        text: Padded<'_>,
        from: usize,
        object: usize,
        place: &mut usize,
    ) -> Result<Next, Failed> {
        // Where a row lacks a field, the rest moves up by a place.
        if let Some((pattern, action)) = self.fields.place(object, *place + 1)
            && let Some(start) = pattern.at(text, from)
        {
            *place += 1;
            return Ok(Next::Value(skip_blanks(text, start), *action));
        }
        let pos = skip_blanks(text, from);
        match text.at(pos) {
            b'"' => {}
            b'}' if *place == 0 => return Ok(Next::End(pos + 1)),
            b'\n' | 0 => return self.fail(Fault::Unfinished, pos),
            _ => return self.fail(Fault::Key, pos),
        }
        let end = match skip::string(text, pos) {
            Ok(end) => end,
            Err((fault, at)) => return self.fail(fault, at),
        };
        let name = text.slice(pos + 1, end - 1);
        let action = if name.contains(&b'\\') {
            let mut plain = std::mem::take(&mut self.scratch);
            plain.clear();
            let action = match string::unescape(text, pos + 1, &mut plain) {
                Ok(_) => self.fields.action(object, &plain),
                Err((fault, at)) => return self.fail(fault, at),
            };
            self.scratch = plain;
            action
        } else {
            self.fields.action(object, name)
        };
        let colon = skip_blanks(text, end);
        match text.at(colon) {
            b':' => {}
            b'\n' | 0 => return self.fail(Fault::Unfinished, colon),
            _ => return self.fail(Fault::Colon, colon),
        }
        let start = skip_blanks(text, colon + 1);
        self.fields.remember(object, *place, text.slice(from, start), action);
        Ok(Next::Value(start, action))
    }

    /// A value that is an object of the tree, or is read in several ways.
    #[inline(never)]
    fn nested(&mut self, text: Padded<'_>, start: usize, action: Action, row: usize) -> Result<usize, Failed> {
        match action {
            Action::Object(object) => {
                // An earlier field of the same name does not count any more.
                for index in 0..self.fields.columns(object as usize).len() {
                    let column = self.fields.columns(object as usize)[index] as usize;
                    self.seen[column / 64] &= !(1 << (column % 64));
                }
                if text.at(start) == b'{' {
                    return self.object_below(text, start + 1, object as usize, row);
                }
                skip::value(text, start).or_else(|(fault, at)| self.fail(fault, at))
            }
            Action::Several(list) => {
                let mut end = start;
                for index in 0..self.fields.several(list).len() {
                    end = self.nested(text, start, self.fields.several(list)[index], row)?;
                }
                Ok(end)
            }
            Action::Column(column) => self.column_value(text, start, column as usize, row),
            Action::Skip => skip::value(text, start).or_else(|(fault, at)| self.fail(fault, at)),
        }
    }

    /// [`Self::object`], for objects inside a row: as deep as paths have dots.
    #[inline(never)]
    fn object_below(&mut self, text: Padded<'_>, pos: usize, object: usize, row: usize) -> Result<usize, Failed> {
        self.object(text, pos, object, row)
    }

    /// Notes the columns that got no value in this row.
    #[cold]
    fn commit_nulls(&mut self, row: usize) {
        for (index, column) in self.columns.iter_mut().enumerate() {
            if self.seen[index / 64] & (1 << (index % 64)) == 0 {
                column.commit_null(row);
            }
        }
    }

    #[cold]
    fn fail<T>(&mut self, fault: Fault, at: usize) -> Result<T, Failed> {
        self.fault = Some((fault, at, None));
        Err(Failed)
    }

    /// Fills the columns with the rows of a chunk, of which each is told by its beginning and its end. Gives how many
    /// there are.
    #[inline(always)]
    fn rows(&mut self, chunk: &Chunk, bad: &mut BadRows, mut each: impl FnMut(usize, usize)) -> usize {
        let text = chunk.padded();
        let valid = simdutf8::basic::from_utf8(chunk.bytes()).is_ok();
        let mut room = 0;
        let (mut pos, mut row) = (0, 0);
        while pos < text.len() {
            if row == room {
                room = (room * 2).max(chunk.bytes().len() / self.row_bytes + 64);
                self.columns.iter_mut().for_each(|column| column.reserve(room));
            }
            if let Err(end) = if valid { Ok(()) } else { lines::check_utf8(chunk, pos, bad) } {
                pos = end;
                continue;
            }
            match self.row(text, pos, row) {
                Ok(end) => {
                    if self.seen != self.all_seen {
                        self.commit_nulls(row);
                    }
                    each(pos, end);
                    pos = end;
                    row += 1;
                }
                Err(Failed) => {
                    let end = lines::line_end(chunk.bytes(), pos);
                    if !lines::is_blank(&chunk.bytes()[pos..end]) {
                        self.bad_row(chunk, pos, end, bad);
                    }
                    pos = end;
                }
            }
        }
        row
    }

    /// The columns of the rows of a chunk; they are empty again.
    fn finish(&mut self, chunk: &Chunk, rows: usize) -> Result<RecordBatch, SourceError> {
        let arrays = self.columns.iter_mut().map(|column| column.finish(rows, chunk.buffer())).collect();
        super::batch(&self.schema, arrays, rows)
    }

    /// Reports the row from `start` up to `end`.
    #[cold]
    fn bad_row(&mut self, chunk: &Chunk, start: usize, end: usize, bad: &mut BadRows) {
        let row = lines::trim_end(&chunk.bytes()[start..end]);
        let (fault, at, column) = self.fault.take().unwrap_or((Fault::Value, start, None));
        let at = (at - start).min(row.len());
        let column = column.map(|column| (&*self.names[column], &self.types[column]));
        bad.push(row, chunk.offset() + start as u64, Reason { fault, at, column, row });
    }
}

/// What stands where a field should begin.
enum Next {
    Value(usize, Action),
    End(usize),
}

impl Decoder for JsonDecoder {
    fn preamble(&mut self, head: &[u8], ended: bool) -> Result<Option<usize>, SourceError> {
        Ok(lines::byte_order_mark(head, ended))
    }

    fn complete(&mut self, bytes: &[u8]) -> usize {
        lines::complete(bytes)
    }

    fn decode(&mut self, chunk: &Chunk, bad: &mut BadRows) -> Result<RecordBatch, SourceError> {
        let rows = self.rows(chunk, bad, |_, _| {});
        if let Some(bytes) = chunk.bytes().len().checked_div(rows) {
            self.row_bytes = (bytes - bytes / 32).max(1);
        }
        self.finish(chunk, rows)
    }

    #[cold]
    fn spans(&mut self, chunk: &Chunk) -> Result<Vec<Range<usize>>, SourceError> {
        let mut spans = Vec::new();
        let each = |start, end| spans.push(lines::span(chunk.bytes(), start, end));
        let rows = self.rows(chunk, &mut BadRows::ignored(), each);
        self.finish(chunk, rows)?;
        Ok(spans)
    }
}

/// A fault as people read it.
struct Reason<'a> {
    fault: Fault,
    at: usize,
    column: Option<(&'a str, &'a ColumnType)>,
    row: &'a [u8],
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, of)) = self.column {
            write!(f, "column {name} ({of}): ")?;
        }
        write!(f, "{}", self.fault)?;
        let rest = &self.row[self.at..];
        if rest.is_empty() {
            return write!(f, ", and the row ends at byte {}", self.at);
        }
        let shown = String::from_utf8_lossy(&rest[..rest.len().min(96)]);
        let mut found: String = shown.chars().take(24).collect();
        if found.len() < rest.len() {
            found.push('…');
        }
        write!(f, ", found `{found}` at byte {} of the row", self.at)
    }
}
