//! The text of a manifest file, and where its lines are.

use std::sync::Arc;

/// A place in a text. Both numbers count from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A file's name and text.
#[derive(Debug)]
pub(crate) struct SourceFile {
    pub name: Arc<str>,
    pub text: String,
    /// The byte at which each line starts.
    line_starts: Vec<usize>,
}

impl SourceFile {
    pub fn new(name: &str, text: String) -> Self {
        let bytes = text.as_bytes();
        let ends = bytes
            .iter()
            .enumerate()
            .filter(|&(at, byte)| *byte == b'\n' || (*byte == b'\r' && bytes.get(at + 1) != Some(&b'\n')));
        let line_starts = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        Self { name: name.into(), text, line_starts }
    }

    /// The place of a byte. One that is not there is taken for the end.
    pub fn position(&self, byte: usize) -> Position {
        let byte = self.floor(byte);
        let line = self.line_starts.partition_point(|start| *start <= byte);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let column = self.text[start..byte].chars().filter(|c| *c != '\u{feff}').count() + 1;
        Position { line, column }
    }

    /// A line's text, without its end.
    pub fn line(&self, line: usize) -> &str {
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let end = self.line_starts.get(line).copied().unwrap_or(self.text.len());
        self.text[start..end].trim_end_matches(['\n', '\r']).trim_start_matches('\u{feff}')
    }

    /// The greatest character boundary up to a byte.
    fn floor(&self, byte: usize) -> usize {
        self.text.floor_char_boundary(byte.min(self.text.len()))
    }

    /// The text between two bytes.
    pub fn slice(&self, range: &std::ops::Range<usize>) -> &str {
        let start = self.floor(range.start);
        &self.text[start..self.floor(range.end).max(start)]
    }
}
