//! Objects that know where in which file each of their fields stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use kube::Resource;
use serde_saphyr::granit_parser::ScalarStyle;

use super::{
    check::first_of,
    problem::{Complaint, Problem},
    scalar_map,
    source_file::{Position, SourceFile},
    tree::{Kind, Node},
};

/// Where a field stands.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its name, in bytes of the file.
    key: Option<Range<usize>>,
    /// Its value.
    value: Range<usize>,
    /// What stands for its value where that has several lines.
    head: Range<usize>,
    /// How its value is written, if that is a text, and the text.
    text: Option<(ScalarStyle, Box<str>)>,
}

impl Place {
    pub fn of(node: &Node) -> Self {
        let text = match &node.kind {
            Kind::Scalar { text, style } => Some((*style, text.as_str().into())),
            Kind::List(_) | Kind::Map(_) => None,
        };
        Self { key: None, value: node.span.clone(), head: first_of(node), text }
    }

    pub fn of_entry(key: &Node, value: &Node) -> Self {
        Self { key: Some(key.span.clone()), ..Self::of(value) }
    }

    pub fn of_key(key: &Node) -> Self {
        Self { key: Some(key.span.clone()), value: key.span.clone(), head: key.span.clone(), text: None }
    }

    /// What is underlined when the field as a whole is meant: a value of one line, else the field's name.
    fn span(&self, file: &SourceFile) -> Range<usize> {
        let is_block = matches!(self.text, Some((ScalarStyle::Literal | ScalarStyle::Folded, _)));
        let is_one_line = !is_block && self.text.is_some() && !file.slice(&self.value).contains('\n');
        match &self.key {
            Some(key) if !is_one_line => key.clone(),
            None if self.text.is_none() => self.head.clone(),
            _ => self.value.clone(),
        }
    }
}

/// An object of a manifest, with the places of its fields.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The object.
    pub value: T,
    pub(crate) file: Arc<SourceFile>,
    pub(crate) places: Arc<BTreeMap<String, Place>>,
    pub(crate) is_whole: bool,
    /// The fields whose values are left out or stood in for.
    pub(crate) broken: Arc<BTreeSet<String>>,
}

impl<T> Located<T> {
    /// The file's name.
    pub fn file(&self) -> &str {
        &self.file.name
    }

    /// Whether the object, and what it names, stands here as it was written. If not, values that could not be read have been
    /// left out or stood in for, so that what is said about its meaning may not hold.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The fields whose values could not be read, and those that the object has beside the ones that it may have. What is
    /// said about the rest must not follow from them.
    pub fn unread_fields(&self) -> &BTreeSet<String> {
        &self.broken
    }

    /// Where a field's value stands; for one that is not set, where what it belongs to stands.
    /// Paths look like `spec.transforms[1].sql`.
    pub fn place(&self, path: &str) -> Position {
        self.file.position(self.span(path).start)
    }

    /// Where a place inside a field's text stands, given by line and column of the text, both from 1.
    pub fn place_in(&self, path: &str, line: usize, column: usize) -> Position {
        self.file.position(self.span_in(path, line, column).start)
    }

    /// A problem with a field.
    pub fn problem(&self, path: &str, complaint: Complaint) -> Problem {
        Problem::new(&self.file, &self.span(path), path, complaint)
    }

    /// A problem with a place inside a field's text, given by line and column of the text, both from 1.
    pub fn problem_in(&self, path: &str, line: usize, column: usize, complaint: Complaint) -> Problem {
        Problem::new(&self.file, &self.span_in(path, line, column), path, complaint)
    }

    /// The place of the field, or of the nearest thing around it.
    fn find(&self, path: &str) -> Option<&Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return Some(place);
            }
            path = path.rfind(['.', '[']).map_or("", |end| &path[..end]);
            if path.is_empty() {
                return self.places.get("spec").or_else(|| self.places.get(""));
            }
        }
    }

    fn span(&self, path: &str) -> Range<usize> {
        self.find(path).map_or(0..0, |place| place.span(&self.file))
    }

    fn span_in(&self, path: &str, line: usize, column: usize) -> Range<usize> {
        let Some(Place { value, text: Some((style, text)), .. }) = self.places.get(path) else {
            return self.span(path);
        };
        let source = self.file.slice(value);
        let start = value.start + scalar_map::source_offset(source, *style, text, line, column);
        let rest = self.file.slice(&(start..value.end));
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let length = if word == 0 { rest.chars().next().map_or(0, char::len_utf8) } else { word };
        start..start + length
    }
}

impl<T: Resource> Located<T> {
    /// The object's name.
    pub fn name(&self) -> &str {
        self.value.meta().name.as_deref().unwrap_or_default()
    }

    /// The object's namespace.
    pub fn namespace(&self) -> &str {
        self.value.meta().namespace.as_deref().unwrap_or("default")
    }
}
