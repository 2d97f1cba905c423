//! What is wrong with a manifest, where, and how it is shown.
//!
//! ```text
//! web.yaml:14:7: unknown field `formt`
//!    |
//! 14 |       formt: {json: {}}
//!    |       ^^^^^
//!    = expected one of `columns`, `eventTime`, `file`, `format`, …
//!    = did you mean `format`?
//! ```

use std::{fmt, ops::Range, sync::Arc};

use super::source_file::SourceFile;

/// The longest part of a line that is shown.
const EXCERPT_CHARS: usize = 110;
/// The longest offending text that is kept.
const OFFENDING_CHARS: usize = 80;

/// Something wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file's name.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The field, from the object's root: `spec.sources[0].file.paths`. Empty where no field is meant.
    pub path: String,
    /// The text that is wrong, shortened.
    pub offending: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What was expected in its place.
    pub expected: Option<String>,
    /// The nearest valid text.
    pub nearest: Option<String>,
    /// Whether it keeps the manifest from being run.
    pub severity: Severity,
    /// The line, and what of it is underlined, in characters from 0.
    excerpt: Option<(String, Range<usize>)>,
}

/// Whether a problem keeps a manifest from being run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but is probably not what was meant.
    Warning,
}

/// What is said about a place; the place is added when it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Complaint {
    /// What is wrong.
    pub message: String,
    /// The text that is wrong, if that is not the text at the place.
    pub offending: Option<String>,
    /// What was expected.
    pub expected: Option<String>,
    /// The nearest valid text.
    pub nearest: Option<String>,
    /// Set for what is no error.
    pub warning: bool,
}

impl Complaint {
    /// An error with a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// With what was expected.
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// With the nearest valid text, if there is one.
    pub fn nearest(mut self, nearest: Option<impl Into<String>>) -> Self {
        self.nearest = nearest.map(Into::into);
        self
    }

    /// With the text that is wrong.
    pub fn offending(mut self, offending: impl Into<String>) -> Self {
        self.offending = Some(offending.into());
        self
    }

    /// As a warning.
    pub fn warning(mut self) -> Self {
        self.warning = true;
        self
    }
}

/// A part of a problem as it is shown, for those who give each a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `file:line:column:`
    Place,
    /// What is wrong.
    Message,
    /// Line numbers and the bar beside them.
    Gutter,
    /// The line of the file.
    Line,
    /// What underlines the offending text.
    Caret,
    /// What was expected, and what was probably meant.
    Note,
}

impl Problem {
    /// A problem with a range of bytes of a file.
    pub(crate) fn new(file: &SourceFile, span: &Range<usize>, path: impl Into<String>, complaint: Complaint) -> Self {
        let position = file.position(span.start);
        let text = first_line(file.slice(span));
        let offending = complaint.offending.or_else(|| (!text.is_empty()).then(|| shorten(text, OFFENDING_CHARS)));
        let excerpt = excerpt(file.line(position.line), position.column - 1, text.chars().count());
        Self {
            file: Arc::clone(&file.name),
            line: position.line,
            column: position.column,
            path: path.into(),
            offending,
            message: complaint.message,
            expected: complaint.expected,
            nearest: complaint.nearest,
            severity: if complaint.warning { Severity::Warning } else { Severity::Error },
            excerpt: Some(excerpt),
        }
    }

    /// A problem with a file as a whole.
    pub fn of_file(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 1,
            column: 1,
            path: String::new(),
            offending: None,
            message: message.into(),
            expected: None,
            nearest: None,
            severity: Severity::Error,
            excerpt: None,
        }
    }

    /// `file:line:column`.
    pub fn place(&self) -> String {
        format!("{}:{}:{}", self.file, self.line, self.column)
    }

    /// Whether it keeps the manifest from being run.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The problem over several lines, without a line end at its end, each part as `paint` gives it back.
    pub fn render(&self, paint: &dyn Fn(Part, &str) -> String) -> String {
        let warning = if self.is_error() { "" } else { "warning: " };
        let message = format!("{warning}{}", self.message);
        let mut lines =
            vec![format!("{} {}", paint(Part::Place, &format!("{}:", self.place())), paint(Part::Message, &message))];
        let width = self.line.to_string().len().max(2);
        let gutter = |text: &str| paint(Part::Gutter, &format!("{text:>width$} |"));
        if let Some((line, under)) = &self.excerpt {
            let before: String = line.chars().take(under.start).map(|c| if c == '\t' { c } else { ' ' }).collect();
            lines.push(gutter(""));
            lines.push(format!("{} {}", gutter(&self.line.to_string()), paint(Part::Line, line)).trim_end().to_owned());
            lines.push(format!("{} {before}{}", gutter(""), paint(Part::Caret, &"^".repeat(under.len().max(1)))));
        }
        let mut note = |text: String| {
            lines.push(format!("{} {}", paint(Part::Gutter, &format!("{:>width$} =", "")), paint(Part::Note, &text)));
        };
        if let Some(expected) = &self.expected {
            note(format!("expected {expected}"));
        }
        if let Some(nearest) = &self.nearest {
            note(format!("did you mean `{nearest}`?"));
        }
        lines.join("\n")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&|_, text| text.to_owned()))
    }
}

fn first_line(text: &str) -> &str {
    text.split(['\n', '\r']).next().unwrap_or("").trim_end()
}

/// The part of a line around a column, and what of that is underlined.
fn excerpt(line: &str, column: usize, chars: usize) -> (String, Range<usize>) {
    let clean: Vec<char> = line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    let skipped = if clean.len() > EXCERPT_CHARS { column.saturating_sub(EXCERPT_CHARS / 2) } else { 0 };
    let skipped = skipped.min(clean.len().saturating_sub(EXCERPT_CHARS));
    let shown = &clean[skipped..clean.len().min(skipped + EXCERPT_CHARS)];
    let mut text = String::new();
    if skipped > 0 {
        text.push('…');
    }
    text.extend(shown);
    if skipped + shown.len() < clean.len() {
        text.push('…');
    }
    let start = column - skipped.min(column) + usize::from(skipped > 0);
    let end = (start + chars.max(1)).min(text.chars().count().max(start + 1));
    (text, start..end)
}

/// The text, cut to so many characters.
pub(super) fn shorten(text: &str, chars: usize) -> String {
    let text = first_line(text);
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
