//! Rows that cannot be decoded, and what `onError` makes of them.

use std::{fmt, sync::Arc};

use arrow::{
    array::{ArrayRef, BinaryBuilder, Int64Builder, RecordBatch, StringViewBuilder},
    datatypes::{Schema, SchemaRef},
    util::display::{ArrayFormatter, FormatOptions},
};
use millrace_crds::OnError;

use crate::{Origin, Position, SourceError};

/// How much of a bad row a message shows.
const SHOWN_BYTES: usize = 200;

/// Takes a split's bad rows as the decoder finds them.
#[derive(Debug)]
pub struct BadRows {
    on_error: OnError,
    /// What the rows are of: a path, or the like.
    source: Arc<str>,
    schema: SchemaRef,
    /// Since the split was opened.
    total: u64,
    pending: u64,
    first: Option<SourceError>,
    raw: BinaryBuilder,
    reasons: StringViewBuilder,
    positions: Int64Builder,
}

impl BadRows {
    /// Takes bad rows of `source`.
    pub fn new(on_error: OnError, source: &str) -> Self {
        let fields = millrace_plan::errors_schema().fields().iter().skip(1).cloned().collect::<Vec<_>>();
        Self {
            on_error,
            source: source.into(),
            schema: Arc::new(Schema::new(fields)),
            total: 0,
            pending: 0,
            first: None,
            raw: BinaryBuilder::new(),
            reasons: StringViewBuilder::new(),
            positions: Int64Builder::new(),
        }
    }

    /// Takes a row that stands at byte `position` of the stream.
    pub fn push(&mut self, raw: &[u8], position: u64, reason: impl fmt::Display) {
        self.push_at(raw, Position::Byte(position), reason);
    }

    /// Takes a row.
    pub(crate) fn push_at(&mut self, raw: &[u8], position: Position, reason: impl fmt::Display) {
        self.total += 1;
        match self.on_error {
            OnError::Drop => {}
            OnError::Fail => {
                if self.first.is_none() {
                    self.first = Some(SourceError::BadRow {
                        place: Origin { source: self.source.clone(), position, raw: None }.to_string(),
                        reason: reason.to_string(),
                        row: shorten(raw),
                    });
                }
            }
            OnError::DeadLetter => {
                self.pending += 1;
                self.raw.append_value(raw);
                self.reasons.append_value(reason.to_string());
                self.positions.append_value(position.number() as i64);
            }
        }
    }

    /// Takes bad rows of which nobody wants to know.
    pub(crate) fn ignored() -> Self {
        Self::new(OnError::Drop, "")
    }

    /// Whether the first bad row fails the pipeline.
    pub(crate) fn fails(&self) -> bool {
        self.on_error == OnError::Fail
    }

    /// Whether what the next row was is shown to anybody.
    pub(crate) fn shows_next(&self) -> bool {
        match self.on_error {
            OnError::Drop => false,
            OnError::Fail => self.first.is_none(),
            OnError::DeadLetter => true,
        }
    }

    /// What the rows are of.
    pub(crate) fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// How many bad rows there were in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What the rows since the last call come to: an error, a batch for the `.errors` output, or nothing.
    ///
    /// # Errors
    ///
    /// When there was a bad row and `onError` is `Fail`.
    pub fn take(&mut self) -> Result<Option<RecordBatch>, SourceError> {
        if let Some(error) = self.first.take() {
            return Err(error);
        }
        if self.pending == 0 {
            return Ok(None);
        }
        let mut source = StringViewBuilder::new().with_deduplicate_strings();
        for _ in 0..self.pending {
            source.append_value(&self.source);
        }
        self.pending = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.raw.finish()),
            Arc::new(self.reasons.finish()),
            Arc::new(source.finish()),
            Arc::new(self.positions.finish()),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns);
        let batch = batch.map_err(|error| SourceError::Unusable {
            what: format!("the bad rows of {} make no batch", self.source),
            source: Some(Box::new(error)),
        })?;
        Ok(Some(batch))
    }
}

/// A row that has no bytes of its own, as text.
///
/// # Errors
///
/// When a value cannot be shown.
pub fn row_as_text(rows: &RecordBatch, row: usize) -> Result<String, SourceError> {
    let failed =
        |error| SourceError::Unusable { what: "a row cannot be shown".to_owned(), source: Some(Box::new(error)) };
    let options = FormatOptions::default().with_null("null");
    let mut text = String::from("{");
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        if text.len() > 1 {
            text.push_str(", ");
        }
        text.push_str(field.name());
        text.push_str(": ");
        text.push_str(&ArrayFormatter::try_new(column, &options).map_err(failed)?.value(row).to_string());
    }
    text.push('}');
    Ok(text)
}

/// The first bytes of a row, as a message shows them.
pub fn shorten(raw: &[u8]) -> String {
    let shown = &raw[..raw.len().min(SHOWN_BYTES)];
    let mut text = String::from_utf8_lossy(shown).into_owned();
    if shown.len() < raw.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bad_rows_fail_are_counted_or_become_rows_as_on_error_says() {
        let mut fail = BadRows::new(OnError::Fail, "a.ndjson");
        fail.push(b"{x", 10, "no");
        fail.push(b"{y", 13, "neither");
        let error = fail.take().unwrap_err().to_string();
        assert_eq!(error, "a.ndjson at byte 10: no\n  row: {x");

        let mut drop = BadRows::new(OnError::Drop, "a.ndjson");
        drop.push(b"{x", 10, "no");
        assert!(drop.take().unwrap().is_none());
        assert_eq!(drop.total(), 1);

        let mut letters = BadRows::new(OnError::DeadLetter, "a.ndjson");
        letters.push(b"{x", 10, "no");
        letters.push(b"\xff", 13, "not UTF-8");
        let batch = letters.take().unwrap().unwrap();
        assert_eq!((batch.num_rows(), batch.num_columns()), (2, 4));
        assert!(letters.take().unwrap().is_none());
        assert_eq!(letters.total(), 2);
    }

    #[test]
    fn a_long_row_is_shortened_in_messages() {
        assert_eq!(shorten(&[b'x'; 300]).chars().count(), 201);
    }
}
