//! CSV, as RFC 4180 has it: fields in quotes may hold delimiters, line breaks and, doubled, quotes.
//!
//! With a header, columns are found by its names; without one, by the order of their declaration. Empty lines in front of
//! the header are passed over, as those between rows are. A row with another number of fields than the header is bad.
//!
//! Under a header that lacks a column, has a column twice, or cannot be split into names, all rows are bad, each cut as it
//! would be under any other header. A header that cannot be split into names is itself the first of them: what it has
//! swallowed is not lost.
//!
//! A field without quotes that is the `nullValue`, and an empty field of another type than `VARCHAR`, is null; with an empty
//! `nullValue`, empty fields without quotes are null for all types.
//!
//! A quote that is not closed within `maxRowSize` of the row's beginning, or by the end of the file, makes a bad row of the
//! line that the row begins in, and the next line is the next row's: one stray quote costs one line, not the file.
//!
//! Lines end in LF or CRLF. A carriage return elsewhere, outside of quotes, makes a bad row, or a header that is malformed.

use std::ops::Range;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use millrace_crds::CsvFormat;

use super::{BadRows, Chunk, Decoder, InputColumn, MAX_RECORD_BYTES, lines, temporal::Layout, text::Table, unusable};
use crate::SourceError;

/// What is said of a row whose quote is not closed where it has to be.
const NOT_CLOSED: &str = "a quote is not closed";

/// What is said of lines that end as on a Mac of the last century: a file of them would be one header, without rows.
const BARE_RETURN: &str = "a carriage return stands without a line feed; expected lines that end in LF or CRLF";

/// Decodes CSV.
pub struct CsvDecoder {
    table: Table,
    delimiter: u8,
    quote: u8,
    header: bool,
    max_row_bytes: usize,
    null_value: Option<String>,
    /// For each field of a row, its column.
    fields: Vec<Option<usize>>,
    /// The fields of a row must be as many as `fields`.
    exact: bool,
    /// What is wrong with the file's header, if something is: none of its rows can be decoded then.
    fault: Option<String>,
    spans: Vec<Span>,
}

/// A field, without its quotes.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
    quoted: bool,
    /// There are doubled quotes in it.
    doubled: bool,
}

impl CsvDecoder {
    /// A decoder of these columns, which are those of `schema`. `declared` are the paths of all columns of the source.
    ///
    /// # Errors
    ///
    /// When delimiter or quote is not one ASCII character, or a column is a list.
    pub fn new(
        csv: &CsvFormat,
        inputs: &[InputColumn],
        declared: &[String],
        schema: SchemaRef,
    ) -> Result<Self, SourceError> {
        Table::check(inputs)?;
        let byte = |text: &str, what: &str| match text.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | 0) => Ok(*byte),
            _ => Err(unusable(format!("the {what} of CSV must be one ASCII character, found `{text}`"))),
        };
        let table = Table::new(inputs, schema, csv.timestamp_format.as_deref().map(Layout::new));
        let fields = declared.iter().map(|path| table.named(path)).collect();
        Ok(Self {
            delimiter: byte(&csv.delimiter, "delimiter")?,
            quote: byte(&csv.quote, "quote")?,
            header: csv.header,
            max_row_bytes: usize::try_from(csv.max_row_size.bytes()).unwrap_or(usize::MAX).min(MAX_RECORD_BYTES),
            null_value: csv.null_value.clone(),
            table,
            fields,
            exact: false,
            fault: None,
            spans: Vec::new(),
        })
    }

    /// Finds the fields of the record at `start`; gives the place behind its line feed, or an error with the place where
    /// the next record begins. `None`: the record is not complete.
    fn split(&mut self, bytes: &[u8], start: usize, last: bool) -> Option<Result<usize, (usize, &'static str)>> {
        self.spans.clear();
        let mut pos = start;
        let limit = start.saturating_add(self.max_row_bytes);
        loop {
            let mut span = Span { start: pos, end: pos, quoted: false, doubled: false };
            if bytes.get(pos) == Some(&self.quote) {
                span.quoted = true;
                span.start = pos + 1;
                pos += 1;
                loop {
                    let within = &bytes[pos..limit.clamp(pos, bytes.len())];
                    let Some(at) = memchr::memchr(self.quote, within) else {
                        let decided = last || bytes.len() >= limit;
                        return decided.then(|| Err((lines::line_end(bytes, start), NOT_CLOSED)));
                    };
                    pos += at + 1;
                    if bytes.get(pos) != Some(&self.quote) {
                        break;
                    }
                    span.doubled = true;
                    pos += 1;
                }
                span.end = pos - 1;
                if pos == bytes.len() && !last {
                    return None;
                }
                if bytes.get(pos) == Some(&b'\r') && matches!(bytes.get(pos + 1), Some(b'\n') | None) {
                    pos += 1;
                }
            } else {
                pos = match memchr::memchr3(self.delimiter, b'\n', b'\r', &bytes[pos..]) {
                    Some(at) => pos + at,
                    None if last => bytes.len(),
                    None => return None,
                };
                span.end = pos;
                if bytes.get(pos) == Some(&b'\r') {
                    pos += 1;
                    match bytes.get(pos) {
                        Some(b'\n') => {}
                        // The first half of a line end, it may be.
                        None if !last => return None,
                        None => {}
                        Some(_) => return Some(Err((lines::line_end(bytes, pos), BARE_RETURN))),
                    }
                }
            }
            self.spans.push(span);
            match bytes.get(pos) {
                Some(byte) if *byte == self.delimiter => pos += 1,
                Some(b'\n') => return Some(Ok(pos + 1)),
                None => return if last { Some(Ok(pos)) } else { None },
                Some(_) => {
                    let end = lines::line_end(bytes, pos);
                    return Some(Err((end, "text stands behind a closing quote")));
                }
            }
        }
    }

    fn is_blank(&self) -> bool {
        matches!(self.spans.as_slice(), [span] if !span.quoted && span.start == span.end)
    }

    fn row(&mut self, chunk: &Chunk) -> Result<(), String> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.exact && self.spans.len() != self.fields.len() {
            return Err(format!("{} fields, where the header has {}", self.spans.len(), self.fields.len()));
        }
        self.table.begin_row();
        for index in 0..self.fields.len() {
            let Some(column) = self.fields[index] else { continue };
            let Some(span) = self.spans.get(index).copied() else {
                return Err(format!("{} fields, where {} are declared", self.spans.len(), self.fields.len()));
            };
            let text = std::str::from_utf8(&chunk.bytes()[span.start..span.end])
                .map_err(|_| format!("field {} is not UTF-8", index + 1))?;
            if !span.quoted && self.null_value.as_deref() == Some(text) {
                continue;
            }
            if span.doubled {
                let quote = char::from(self.quote).to_string();
                self.table.set(column, &text.replace(&quote.repeat(2), &quote), chunk)?;
            } else {
                self.table.set(column, text, chunk)?;
            }
        }
        Ok(())
    }
}

impl CsvDecoder {
    /// Takes the columns' names from a header that was split.
    fn take_names(&mut self, head: &[u8]) {
        let quote = char::from(self.quote).to_string();
        let name = |span: &Span| {
            let name = String::from_utf8_lossy(&head[span.start..span.end]).trim().to_owned();
            if span.doubled { name.replace(&quote.repeat(2), &quote) } else { name }
        };
        let names: Vec<String> = self.spans.iter().map(name).collect();
        let (mut missing, mut faults) = (Vec::new(), Vec::new());
        for input in &self.table.inputs {
            let places = names.iter().zip(1..).filter(|(name, _)| **name == input.path);
            let places: Vec<String> = places.map(|(_, place): (_, usize)| place.to_string()).collect();
            match places.len() {
                0 => missing.push(&*input.path),
                1 => {}
                _ => faults.push(format!("{} more than once: as its fields {}", input.path, places.join(", "))),
            }
        }
        if !missing.is_empty() {
            faults.insert(0, format!("no {}; it has {}", missing.join(", "), names.join(", ")));
        }
        self.fault = (!faults.is_empty()).then(|| format!("the CSV header has {}", faults.join("; it has ")));
        self.fields = names.iter().map(|name| self.table.named(name)).collect();
        self.exact = true;
    }

    /// Fills the table with the rows of a chunk, of which each is told by its beginning and its end.
    fn rows(&mut self, chunk: &Chunk, bad: &mut BadRows, mut each: impl FnMut(usize, usize)) {
        let bytes = chunk.bytes();
        let mut pos = 0;
        while pos < bytes.len() {
            let (end, outcome) = match self.split(bytes, pos, true) {
                Some(Ok(end)) if self.is_blank() => {
                    pos = end;
                    continue;
                }
                Some(Ok(end)) => (end, self.row(chunk)),
                Some(Err((end, reason))) => (end, Err(self.fault.clone().unwrap_or_else(|| reason.to_owned()))),
                None => (bytes.len(), Err("the row ends too early".to_owned())),
            };
            match outcome {
                Ok(()) => {
                    self.table.end_row();
                    each(pos, end);
                }
                Err(reason) => bad.push(lines::trim_end(&bytes[pos..end]), chunk.offset() + pos as u64, reason),
            }
            pos = end;
        }
    }
}

/// Where the first line begins that is not empty; `None`: more bytes are needed, which there are unless `ended`.
fn behind_empty_lines(head: &[u8], mut start: usize, ended: bool) -> Option<usize> {
    loop {
        match &head[start..] {
            [b'\n', ..] => start += 1,
            [b'\r', b'\n', ..] => start += 2,
            [] | [b'\r'] => return ended.then_some(head.len()),
            _ => return Some(start),
        }
    }
}

impl Decoder for CsvDecoder {
    fn preamble(&mut self, head: &[u8], ended: bool) -> Result<Option<usize>, SourceError> {
        let Some(mark) = lines::byte_order_mark(head, ended) else { return Ok(None) };
        if !self.header {
            return Ok(Some(mark));
        }
        self.fault = None;
        let Some(start) = behind_empty_lines(head, mark, ended) else { return Ok(None) };
        if start == head.len() {
            // Nothing at all is no rows.
            return Ok(Some(start));
        }
        let reason = match self.split(head, start, ended) {
            Some(Ok(end)) if end <= MAX_RECORD_BYTES => {
                self.take_names(head);
                return Ok(Some(end));
            }
            Some(Err((_, reason))) => reason,
            None if head.len() <= MAX_RECORD_BYTES => return Ok(None),
            None | Some(Ok(_)) => "it is longer than 16 MiB",
        };
        let line = 1 + memchr::memchr_iter(b'\n', &head[..start]).count();
        self.fault = Some(format!("the CSV header is malformed: line {line}: {reason}"));
        Ok(Some(start))
    }

    fn complete(&mut self, bytes: &[u8]) -> usize {
        if memchr::memchr(self.quote, bytes).is_none() {
            return lines::complete(bytes);
        }
        let mut complete = 0;
        while complete < bytes.len() {
            match self.split(bytes, complete, false) {
                Some(Ok(end) | Err((end, _))) if bytes[end - 1] == b'\n' => complete = end,
                _ => break,
            }
        }
        complete
    }

    fn decode(&mut self, chunk: &Chunk, bad: &mut BadRows) -> Result<RecordBatch, SourceError> {
        self.rows(chunk, bad, |_, _| {});
        self.table.finish(chunk)
    }

    fn spans(&mut self, chunk: &Chunk) -> Result<Vec<Range<usize>>, SourceError> {
        let mut spans = Vec::new();
        let each = |start, end| spans.push(lines::span(chunk.bytes(), start, end));
        self.rows(chunk, &mut BadRows::ignored(), each);
        self.table.finish(chunk)?;
        Ok(spans)
    }
}

#[cfg(test)]
mod tests;
