//! YAML documents as trees whose every node knows its place.
//!
//! Aliases share the node that they name, so a tree takes no more memory than its text asks for; what it would take if it
//! were written out is counted as its weight, and a document that is too heavy is refused.

use std::{collections::HashMap, ops::Range, sync::Arc};

use serde_saphyr::granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, options};

use super::{
    names::nearest,
    problem::{Complaint, Problem},
    source_file::SourceFile,
};

/// How deep nodes may be nested. Deeper than any pod template.
pub(crate) const MAX_DEPTH: usize = 64;
/// How many nodes a document may have, aliases written out; every 64 bytes of a text count as one more.
pub(crate) const MAX_WEIGHT: usize = 1 << 18;

#[derive(Debug)]
pub(crate) struct Node {
    pub kind: Kind,
    /// The bytes of the file that hold it.
    pub span: Range<usize>,
    /// How many nodes it has, itself and aliases written out.
    weight: usize,
    /// How deep it is nested in itself, aliases written out.
    depth: usize,
    /// Whether a tag says that it is a text, whatever it looks like.
    pub is_tagged_text: bool,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Scalar { text: String, style: ScalarStyle },
    List(Vec<Arc<Node>>),
    Map(Vec<(Arc<Node>, Arc<Node>)>),
}

/// What a plain scalar is by YAML 1.2's core schema.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    Whole(i128),
    Number(f64),
    /// A plain text that YAML 1.1, and with it `kubectl`, takes for a boolean.
    OldBool(&'a str),
    Text(&'a str),
}

impl Node {
    pub fn scalar(&self) -> Option<Scalar<'_>> {
        match &self.kind {
            Kind::Scalar { text, style: ScalarStyle::Plain } if !self.is_tagged_text => Some(resolve(text)),
            Kind::Scalar { text, .. } => Some(Scalar::Text(text)),
            Kind::List(_) | Kind::Map(_) => None,
        }
    }

    pub fn is_null(&self) -> bool {
        self.scalar() == Some(Scalar::Null)
    }

    /// The value of a mapping's key.
    pub fn get(&self, key: &str) -> Option<&Arc<Node>> {
        let Kind::Map(entries) = &self.kind else { return None };
        entries.iter().find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value)
    }

    /// The text of a scalar, whatever it is.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            Kind::List(_) | Kind::Map(_) => None,
        }
    }
}

fn resolve(text: &str) -> Scalar<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "on" | "On" | "ON" | "off" | "Off" | "OFF" => {
            return Scalar::OldBool(text);
        }
        ".nan" | ".NaN" | ".NAN" => return Scalar::Number(f64::NAN),
        _ => {}
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(digits, ".inf" | ".Inf" | ".INF") {
        return Scalar::Number(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Scalar::Text(text);
    }
    let radix = |prefix, radix| text.strip_prefix(prefix).and_then(|digits| i128::from_str_radix(digits, radix).ok());
    if let Some(whole) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Scalar::Whole(whole);
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_or(Scalar::Number(f64::INFINITY), Scalar::Whole);
    }
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    match text.parse() {
        Ok(number) if is_number => Scalar::Number(number),
        _ => Scalar::Text(text),
    }
}

/// A document, or what is left of it.
pub(crate) struct Document {
    /// `None`: the document is empty, or cannot be read.
    pub root: Option<Arc<Node>>,
}

/// Reads all documents of a file. Those that cannot be read are left out, with a problem each.
pub(crate) fn documents(file: &SourceFile, problems: &mut Vec<Problem>) -> Vec<Document> {
    let mut options = options! {
        emit_unresolved_aliases: true,
        emit_anchor_events: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    options.set_emit_comments(false);
    let mut parser = Parser::new_from_str_with_options(&file.text, options);
    let mut documents = Vec::new();
    let mut builder = Builder::default();
    while let Some(next) = parser.next_event() {
        let (event, span) = match next {
            Ok(event) => event,
            Err(error) => {
                problems.push(syntax(file, &error));
                builder = Builder::default();
                match parser.proceed_next_document() {
                    Ok(true) => continue,
                    Ok(false) => break,
                    Err(error) => {
                        problems.push(syntax(file, &error));
                        break;
                    }
                }
            }
        };
        match event {
            Event::DocumentStart(..) => builder = Builder::default(),
            Event::DocumentEnd => documents.push(Document { root: std::mem::take(&mut builder).root }),
            event => {
                if let Err(complaint) = builder.take(file, event, bytes(file, &span), problems) {
                    problems.push(Problem::new(file, &bytes(file, &span), "", complaint));
                    builder = Builder::default();
                    if !matches!(parser.proceed_next_document(), Ok(true)) {
                        break;
                    }
                }
            }
        }
    }
    documents
}

fn bytes(file: &SourceFile, span: &Span) -> Range<usize> {
    span.byte_range().unwrap_or(file.text.len()..file.text.len())
}

/// A node that is being built.
struct Open {
    node: Node,
    anchor: usize,
    /// A mapping's key whose value has not come.
    key: Option<Arc<Node>>,
}

#[derive(Default)]
struct Builder {
    root: Option<Arc<Node>>,
    open: Vec<Open>,
    anchors: HashMap<usize, Arc<Node>>,
    anchor_names: Vec<String>,
    weight: usize,
}

impl Builder {
    fn take(
        &mut self,
        file: &SourceFile,
        event: Event<'_>,
        span: Range<usize>,
        problems: &mut Vec<Problem>,
    ) -> Result<(), Complaint> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_tagged_text =
                    tag.is_some_and(|tag| !tag.is_yaml_core_schema() || tag.is_yaml_core_schema_tag("str"));
                let weight = 1 + text.len() / 64;
                let kind = Kind::Scalar { text: text.into_owned(), style };
                let span = match style {
                    ScalarStyle::Literal | ScalarStyle::Folded => span,
                    _ => trim_end(file, span),
                };
                let node = Arc::new(Node { kind, span, weight, depth: 1, is_tagged_text });
                self.anchors.insert(anchor, Arc::clone(&node));
                self.add(node)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(Kind::List(Vec::new()), span, anchor),
            Event::MappingStart(_, anchor, _) => self.begin(Kind::Map(Vec::new()), span, anchor),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { mut node, anchor, .. }) = self.open.pop() else { return Ok(()) };
                node.span = trim_end(file, node.span.start..span.end.max(node.span.end));
                let node = Arc::new(node);
                self.anchors.insert(anchor, Arc::clone(&node));
                self.add(node)
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => {
                    let node = Arc::clone(node);
                    self.add(node)
                }
                None => Err(Complaint::new("an alias stands inside the very node that it names")),
            },
            Event::UnresolvedAlias(name) => {
                let names = self.anchor_names.iter().map(String::as_str);
                let complaint = Complaint::new(format!("no anchor `&{name}` stands before this alias"))
                    .expected("an anchor of the same document, or quotes around a text that begins with `*`")
                    .nearest(nearest(&name, names).map(|name| format!("*{name}")));
                problems.push(Problem::new(file, &span, "", complaint));
                let kind = Kind::Scalar { text: String::new(), style: ScalarStyle::DoubleQuoted };
                self.add(Arc::new(Node { kind, span, weight: 1, depth: 1, is_tagged_text: false }))
            }
            Event::Anchor(_, name) => {
                if self.anchor_names.len() < 100 {
                    self.anchor_names.push(name.into_owned());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, kind: Kind, span: Range<usize>, anchor: usize) -> Result<(), Complaint> {
        let node = Node { kind, span, weight: 1, depth: 1, is_tagged_text: false };
        // An anchor that is named again stands for the later node only once that is whole.
        self.anchors.remove(&anchor);
        self.open.push(Open { node, anchor, key: None });
        Ok(())
    }

    fn add(&mut self, node: Arc<Node>) -> Result<(), Complaint> {
        let own = if matches!(node.kind, Kind::Scalar { .. }) { node.weight } else { 1 };
        self.weight += own;
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        parent.node.weight = parent.node.weight.saturating_add(node.weight);
        parent.node.depth = parent.node.depth.max(node.depth + 1);
        if parent.node.weight.max(self.weight) > MAX_WEIGHT {
            return Err(Complaint::new(format!(
                "the document is too large: with its aliases written out it has more than {MAX_WEIGHT} values"
            )));
        }
        if parent.node.depth > MAX_DEPTH {
            return Err(too_deep());
        }
        match &mut parent.node.kind {
            Kind::List(items) => items.push(node),
            Kind::Map(entries) => match parent.key.take() {
                None => parent.key = Some(node),
                Some(key) => entries.push((key, node)),
            },
            Kind::Scalar { .. } => {}
        }
        Ok(())
    }
}

fn too_deep() -> Complaint {
    Complaint::new(format!("values are nested more than {MAX_DEPTH} deep"))
}

/// The span without the blanks and line ends at its end.
fn trim_end(file: &SourceFile, span: Range<usize>) -> Range<usize> {
    let text = file.slice(&span);
    span.start..span.start + text.trim_end().len()
}

fn syntax(file: &SourceFile, error: &ScanError) -> Problem {
    let at = error.marker().byte_offset().unwrap_or(file.text.len());
    let span = at..at + file.text.get(at..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
    let tab = "this is a tab, and YAML indents with spaces only";
    let complaint = match error.kind() {
        ErrorKind::RecursionLimitExceeded => too_deep(),
        ErrorKind::TabInIndentation
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabNotAllowed
        | ErrorKind::TabAtBlockScalarStart => Complaint::new(tab).expected("spaces"),
        _ if file.text.get(at..).is_some_and(|rest| rest.starts_with('\t')) => Complaint::new(tab).expected("spaces"),
        ErrorKind::UnexpectedCharacter { character: '%' | '@' | '`' } => {
            Complaint::new("a text cannot begin with this character").expected("quotes around the text")
        }
        ErrorKind::UnclosedFlowCollection { open } => {
            Complaint::new(format!("`{open}` is not closed")).expected(if *open == '[' { "`]`" } else { "`}`" })
        }
        ErrorKind::UnclosedQuotedScalar => {
            Complaint::new("a quoted text is not closed").expected("a quote like the one that opens it")
        }
        ErrorKind::MappingValueNotAllowed => Complaint::new("a `:` stands where no field can begin")
            .expected("one field a line, at the right indentation, and quotes around a text with `: ` in it"),
        ErrorKind::UnknownQuotedScalarEscape => Complaint::new("no such escape in a text in double quotes")
            .expected(r"`\\` for a backslash, or single quotes around the text"),
        _ => Complaint::new(format!("this is not YAML: {}", error.info())),
    };
    Problem::new(file, &span, "", complaint)
}
