//! Lines of text: by regular expression, the combined log format, logfmt and syslog.
//!
//! | format | names of what a line has |
//! |---|---|
//! | `regex` | the expression's named groups |
//! | `combined` | `remote_host`, `ident`, `user`, `time`, `request`, `method`, `target`, `protocol`, `status`, `bytes`, `referer`, `user_agent`; `-` is null, and what the server has escaped is undone. The common log format, which lacks the last two, is read too |
//! | `logfmt` | the line's keys; a key without value is the text `true` |
//! | `syslog` | `priority`, `facility`, `severity`, `timestamp`, `hostname`, `app_name`, `proc_id`, `msg_id`, `structured_data`, `message`, of RFC 5424 and RFC 3164 |
//!
//! Timestamps of RFC 3164 have no year: it is the last one in which the message is not more than a day after its file was last
//! written, or, of standard input, after the moment of reading. Blank lines are no rows; a line of another form is a bad row.

use std::{borrow::Cow, ops::Range};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use millrace_stream::Timestamp;
use regex::{CaptureLocations, Regex};

use super::{BadRows, Chunk, Decoder, InputColumn, lines, logfmt, syslog, temporal::Layout, text::Table, unusable};
use crate::SourceError;

/// The combined log format, and the common one.
const COMBINED: &str = concat!(
    r#"^(?P<remote_host>\S+) (?P<ident>\S+) (?P<user>\S+) \[(?P<time>[^\]]+)\] "#,
    r#""(?P<request>(?:(?P<method>[^ "]+) (?P<target>(?:[^ "\\]|\\.)+)(?: (?P<protocol>[^ "]+))?|(?:[^"\\]|\\.)*))" "#,
    r#"(?P<status>\d{3}|-) (?P<bytes>\d+|-)"#,
    r#"(?: "(?P<referer>(?:[^"\\]|\\.)*)" "(?P<user_agent>(?:[^"\\]|\\.)*)")?"#,
);

/// How [`COMBINED`] writes moments.
const COMBINED_TIME: &str = "%d/%b/%Y:%H:%M:%S %z";

/// Decodes lines.
pub struct LineDecoder {
    table: Table,
    form: Form,
}

enum Form {
    Regex { regex: Regex, groups: Vec<Option<usize>>, locations: CaptureLocations, is_combined: bool },
    Logfmt,
    Syslog { written_micros: i64 },
}

impl LineDecoder {
    /// Lines by regular expression.
    ///
    /// # Errors
    ///
    /// When the pattern is none, or has no group of a column's name.
    pub fn regex(
        pattern: &str,
        layout: Option<&str>,
        inputs: &[InputColumn],
        schema: SchemaRef,
    ) -> Result<Self, SourceError> {
        Self::of_pattern(pattern, layout, inputs, schema, false)
    }

    /// Lines in the combined log format.
    ///
    /// # Errors
    ///
    /// When a column is not one of the format's.
    pub fn combined(inputs: &[InputColumn], schema: SchemaRef) -> Result<Self, SourceError> {
        Self::of_pattern(COMBINED, Some(COMBINED_TIME), inputs, schema, true)
    }

    /// Lines of `key=value`.
    ///
    /// # Errors
    ///
    /// When a column is a list.
    pub fn logfmt(inputs: &[InputColumn], schema: SchemaRef) -> Result<Self, SourceError> {
        Table::check(inputs)?;
        Ok(Self { table: Table::new(inputs, schema, None), form: Form::Logfmt })
    }

    /// Syslog messages; `written_ms`, and later [`Decoder::written_at`], tells the year of those that have none.
    ///
    /// # Errors
    ///
    /// When a column is not one of the format's.
    pub fn syslog(inputs: &[InputColumn], schema: SchemaRef, written_ms: u64) -> Result<Self, SourceError> {
        Table::check(inputs)?;
        known(inputs, "syslog", &syslog::NAMES)?;
        let form = Form::Syslog { written_micros: micros(written_ms) };
        Ok(Self { table: Table::new(inputs, schema, None), form })
    }

    fn of_pattern(
        pattern: &str,
        layout: Option<&str>,
        inputs: &[InputColumn],
        schema: SchemaRef,
        is_combined: bool,
    ) -> Result<Self, SourceError> {
        Table::check(inputs)?;
        let regex = Regex::new(pattern).map_err(|error| SourceError::Unusable {
            what: "the pattern of the format is no regular expression".to_owned(),
            source: Some(Box::new(error)),
        })?;
        let names: Vec<&str> = regex.capture_names().flatten().collect();
        known(inputs, "the pattern", &names)?;
        let table = Table::new(inputs, schema, layout.map(Layout::new));
        let groups = regex.capture_names().map(|name| name.and_then(|name| table.named(name))).collect();
        let locations = regex.capture_locations();
        Ok(Self { table, form: Form::Regex { regex, groups, locations, is_combined } })
    }

    fn row(&mut self, line: &str, chunk: &Chunk) -> Result<(), String> {
        let table = &mut self.table;
        table.begin_row();
        match &mut self.form {
            Form::Regex { regex, groups, locations, is_combined } => {
                // What matches at the start is the first that matches.
                if regex.captures_read(locations, line).is_none_or(|found| found.start() > 0) {
                    return Err("the line does not match the pattern".to_owned());
                }
                for (group, column) in groups.iter().enumerate() {
                    if let (Some(column), Some((start, end))) = (column, locations.get(group)) {
                        let value = &line[start..end];
                        match is_combined.then(|| combined_value(value)) {
                            None => table.set(*column, value, chunk)?,
                            Some(None) => {}
                            Some(Some(value)) => table.set(*column, &value, chunk)?,
                        }
                    }
                }
                Ok(())
            }
            Form::Logfmt => logfmt::parse(line, |key, value| match table.named(key) {
                Some(column) => table.set(column, value, chunk),
                None => Ok(()),
            }),
            Form::Syslog { written_micros } => {
                let message = syslog::parse(line, *written_micros)?;
                if let (Some(column), Some((text, micros))) = (table.named("timestamp"), message.timestamp) {
                    table.set_moment(column, micros, text, chunk)?;
                }
                message.each(|name, value| match table.named(name) {
                    Some(column) => table.set(column, value, chunk),
                    None => Ok(()),
                })
            }
        }
    }
}

impl LineDecoder {
    /// Fills the table with the rows of a chunk, of which each is told by its beginning and its end.
    fn rows(&mut self, chunk: &Chunk, bad: &mut BadRows, mut each: impl FnMut(usize, usize)) {
        let bytes = chunk.bytes();
        let mut pos = 0;
        while pos < bytes.len() {
            let end = lines::line_end(bytes, pos);
            let line = lines::trim_end(&bytes[pos..end]);
            if !lines::is_blank(line) {
                let outcome = match std::str::from_utf8(line) {
                    Ok(line) => self.row(line, chunk),
                    Err(error) => Err(format!("not UTF-8 from byte {} of the row", error.valid_up_to())),
                };
                match outcome {
                    Ok(()) => {
                        self.table.end_row();
                        each(pos, end);
                    }
                    Err(reason) => bad.push(line, chunk.offset() + pos as u64, reason),
                }
            }
            pos = end;
        }
    }
}

/// What the combined log format means by a value: `-` is nothing. Apache and nginx write quotes, backslashes and bytes that
/// are no plain text as `\"`, `\\`, `\n` or `\xC3`; that is undone if text comes of it, and stays as it is written if not, as where
/// somebody has sent noise.
fn combined_value(value: &str) -> Option<Cow<'_, str>> {
    if value == "-" {
        return None;
    }
    let Some(first) = value.find('\\') else { return Some(Cow::Borrowed(value)) };
    let mut plain = value.as_bytes()[..first].to_vec();
    let mut rest = &value.as_bytes()[first..];
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        let escaped = if *byte == b'\\' { rest.split_first() } else { None };
        let Some((letter, behind)) = escaped else {
            plain.push(*byte);
            continue;
        };
        rest = behind;
        match letter {
            b'"' | b'\\' => plain.push(*letter),
            b'b' => plain.push(8),
            b'n' => plain.push(b'\n'),
            b'r' => plain.push(b'\r'),
            b't' => plain.push(b'\t'),
            b'v' => plain.push(11),
            b'x' => {
                let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
                let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
                let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
                    return Some(Cow::Borrowed(value));
                };
                plain.push(byte);
                rest = &rest[2..];
            }
            _ => plain.extend([b'\\', *letter]),
        }
    }
    Some(String::from_utf8(plain).map_or(Cow::Borrowed(value), Cow::Owned))
}

fn micros(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(0).saturating_mul(1000)
}

fn known(inputs: &[InputColumn], what: &str, names: &[&str]) -> Result<(), SourceError> {
    match inputs.iter().find(|input| !names.contains(&&*input.path)) {
        Some(input) => Err(unusable(format!("{what} has no {}; it has {}", input.path, names.join(", ")))),
        None => Ok(()),
    }
}

impl Decoder for LineDecoder {
    fn preamble(&mut self, head: &[u8], ended: bool) -> Result<Option<usize>, SourceError> {
        Ok(lines::byte_order_mark(head, ended))
    }

    fn complete(&mut self, bytes: &[u8]) -> usize {
        lines::complete(bytes)
    }

    fn written_at(&mut self, moment: Timestamp) {
        if let Form::Syslog { written_micros } = &mut self.form {
            *written_micros = micros(moment.0);
        }
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
