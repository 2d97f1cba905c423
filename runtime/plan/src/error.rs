//! What can be wrong with a pipeline: where, what was found, what was expected and what was probably meant.

use std::fmt;

/// A line and a column inside a SQL text, both from 1.
pub type Span = (usize, usize);

/// One thing that is wrong with a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PlanError {
    /// The field that is wrong, such as `spec.transforms[1].sql`.
    pub path: String,
    /// Where inside the field's text, for SQL.
    pub span: Option<Span>,
    /// The text that is wrong.
    pub offending: Option<String>,
    /// What is wrong with it.
    pub message: String,
    /// What would be right.
    pub expected: Option<String>,
    /// The name that exists and is most like the one that does not.
    pub nearest: Option<String>,
    /// The field of a Sink that has to change, where that is not `path`.
    pub sink: Option<SinkField>,
}

/// A field of a Sink, and what is said of it where the Sink itself is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkField {
    /// The Sink's name.
    pub sink: String,
    /// The field, such as `spec.delta.partitionBy[0]`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some((line, column)) = self.span {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean `{nearest}`?")?;
        }
        Ok(())
    }
}

/// How many things are said to be wrong with one SQL text. More are as good as these, and would take their time.
pub(crate) const MAX_FAULTS: usize = 50;

/// A [`PlanError`] whose field is not said yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub span: Option<Span>,
    pub offending: Option<String>,
    pub message: String,
    pub expected: Option<String>,
    pub nearest: Option<String>,
}

impl Fault {
    pub fn new(message: impl Into<String>) -> Self {
        Self { span: None, offending: None, message: message.into(), expected: None, nearest: None }
    }

    pub fn at(mut self, span: Option<Span>) -> Self {
        self.span = span;
        self
    }

    pub fn offending(mut self, text: impl Into<String>) -> Self {
        self.offending = Some(text.into());
        self
    }

    pub fn expected(mut self, what: impl Into<String>) -> Self {
        self.expected = Some(what.into());
        self
    }

    /// Says which names there are, and which of them is most like `name`.
    pub fn among<'a>(mut self, what: &str, name: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: Vec<&str> = names.into_iter().collect();
        self.nearest = nearest(name, names.iter().copied());
        self.expected = Some(match names.as_slice() {
            [] => format!("{what}, but there is none"),
            names => format!("{what}: {}", listed(names)),
        });
        self
    }

    /// Where nothing was near, one of these may be.
    pub fn or_near<'a>(mut self, name: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.nearest = self.nearest.or_else(|| nearest(name, names));
        self
    }

    pub fn in_field(self, path: impl Into<String>) -> PlanError {
        let Self { span, offending, message, expected, nearest } = self;
        PlanError { path: path.into(), span, offending, message, expected, nearest, sink: None }
    }
}

/// The first names, quoted, and how many more there are.
pub(crate) fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 30;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown.join(", "),
        Some(more) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The name that is most like `name`, if one is like it at all and there are not too many to compare it with.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    const MOST_STEPS: usize = 200_000;
    let wanted = name.to_lowercase();
    let length = wanted.chars().count();
    let most = 1 + length / 3;
    // A name that is much longer or shorter is not like it.
    let candidates: Vec<(String, &str)> = names
        .into_iter()
        .map(|candidate| (candidate.to_lowercase(), candidate))
        .filter(|(lower, _)| lower.chars().count().abs_diff(length) <= most)
        .collect();
    if candidates.len().saturating_mul(length).saturating_mul(length) > MOST_STEPS {
        return None;
    }
    candidates
        .into_iter()
        .map(|(lower, candidate)| (strsim::damerau_levenshtein(&wanted, &lower), candidate))
        .min()
        .filter(|(distance, _)| *distance <= most)
        .map(|(_, candidate)| candidate.to_owned())
}

/// Where `word` first stands in `sql` as a word of its own, in any case.
pub(crate) fn place_of(sql: &str, word: &str) -> Option<Span> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (upper, wanted) = (sql.to_ascii_uppercase(), word.to_ascii_uppercase());
    upper.match_indices(&wanted).find_map(|(start, found)| {
        let before = upper[..start].chars().next_back();
        let after = upper[start + found.len()..].chars().next();
        let apart = |c: Option<char>| !c.is_some_and(is_word);
        (apart(before) && apart(after)).then(|| {
            let line_start = upper[..start].rfind('\n').map_or(0, |at| at + 1);
            (upper[..start].matches('\n').count() + 1, sql[line_start..start].chars().count() + 1)
        })
    })
}
