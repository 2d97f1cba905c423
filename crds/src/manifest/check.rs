//! Checks a tree against a shape and makes the value of it, noting every problem and every field's place.
//!
//! What is wrong is left out or stood in for, so that the value always has the shape, and what follows can check the rest.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
};

use serde_json::{Map, Value};

use super::{
    forms::{Form, check_choice, quoted},
    located::Place,
    names::{list, nearest, one_of},
    problem::{Complaint, Problem},
    shape::{Object, Shape, Text},
    source_file::SourceFile,
    tree::{Kind, Node, Scalar},
};

/// What a check gathers.
pub(crate) struct Checker<'a> {
    pub file: &'a SourceFile,
    pub places: BTreeMap<String, Place>,
    pub problems: Vec<Problem>,
    /// Fields that are missing because their names are mistyped, which is told at those names.
    pub mistyped: BTreeSet<String>,
}

/// A field as it stands in the document.
struct Entry<'a> {
    name: &'a str,
    key: &'a Node,
    value: &'a Node,
}

impl<'a> Checker<'a> {
    pub fn new(file: &'a SourceFile) -> Self {
        Self { file, places: BTreeMap::new(), problems: Vec::new(), mistyped: BTreeSet::new() }
    }

    pub fn complain(&mut self, span: &Range<usize>, path: &str, complaint: Complaint) {
        self.problems.push(Problem::new(self.file, span, path, complaint));
    }

    /// The value of a node, which stands at `path`.
    pub fn value(&mut self, node: &Node, shape: &Shape, path: &str) -> Value {
        self.places.entry(path.to_owned()).or_insert_with(|| Place::of(node));
        match (shape, &node.kind) {
            (Shape::Any, _) => self.any(node, path),
            (Shape::Object(object), Kind::Map(_)) if object.open => self.any(node, path),
            (Shape::Object(object), Kind::Map(_)) => self.object(node, object, path),
            (Shape::Map(values), Kind::Map(_)) => {
                let entries = self.entries(node, path);
                let value = |entry: Entry<'_>| {
                    (entry.name.to_owned(), self.value(entry.value, values, &join(path, entry.name)))
                };
                Value::Object(entries.into_iter().map(value).collect())
            }
            (Shape::List { items, min, max }, Kind::List(nodes)) => {
                if nodes.len() < *min {
                    self.complain(&node.span, path, Complaint::new("this list needs an entry").offending("[]"));
                }
                if nodes.len() > *max {
                    let message = format!("this list has {} entries and may have {max}", nodes.len());
                    self.complain(&nodes[*max].span, path, Complaint::new(message));
                }
                let items = nodes.iter().enumerate().map(|(n, node)| self.value(node, items, &format!("{path}[{n}]")));
                Value::Array(items.collect())
            }
            (_, Kind::Scalar { text, .. }) => match self.scalar(node, text, shape) {
                Ok(value) => value,
                Err(complaint) => {
                    self.complain(&node.span, path, complaint);
                    match shape {
                        Shape::Text(of) if of.choices.is_empty() && of.form.stand_in().is_none() => {
                            text.as_str().into()
                        }
                        _ => shape.stand_in(),
                    }
                }
            },
            (_, kind) => {
                let found = if matches!(kind, Kind::List(_)) { "a list" } else { "a mapping" };
                let complaint = Complaint::new(format!("{found} stands where {} is expected", noun(shape)));
                self.complain(&first_of(node), path, complaint.expected(shape.expected()));
                shape.stand_in()
            }
        }
    }

    /// A mapping's fields, merge keys followed, without those that are set before.
    fn entries<'n>(&mut self, node: &'n Node, path: &str) -> Vec<Entry<'n>> {
        let mut entries = Vec::new();
        let mut seen = HashMap::new();
        self.gather(node, path, &mut entries, &mut seen, false);
        entries
    }

    fn gather<'n>(
        &mut self,
        node: &'n Node,
        path: &str,
        entries: &mut Vec<Entry<'n>>,
        seen: &mut HashMap<&'n str, usize>,
        is_merged: bool,
    ) {
        let Kind::Map(fields) = &node.kind else { return };
        let mut merged = Vec::new();
        for (key, value) in fields {
            let Some(name) = key.text() else {
                self.complain(&first_of(key), path, Complaint::new("a field's name has to be a text"));
                continue;
            };
            if name == "<<" {
                match &value.kind {
                    Kind::List(of) => merged.extend(of),
                    _ => merged.push(value),
                }
                continue;
            }
            if let Some(first) = seen.get(name) {
                if !is_merged {
                    let line = self.file.position(*first).line;
                    let complaint = Complaint::new(format!("field `{name}` is set twice, first in line {line}"));
                    self.complain(&key.span, &join(path, name), complaint);
                }
                continue;
            }
            seen.insert(name, key.span.start);
            entries.push(Entry { name, key, value });
        }
        for node in merged {
            match node.kind {
                Kind::Map(_) => self.gather(node, path, entries, seen, true),
                _ => self.complain(&node.span, path, Complaint::new("`<<` takes in a mapping, or a list of them")),
            }
        }
    }

    fn object(&mut self, node: &Node, object: &Object, path: &str) -> Value {
        let mut value = Map::new();
        let mut meant = Vec::new();
        let mut set = Vec::new();
        for entry in self.entries(node, path) {
            let path = join(path, entry.name);
            let Some(field) = object.fields.get(entry.name) else {
                let names = || object.fields.keys().map(String::as_str).filter(|name| node.get(name).is_none());
                let near = nearest(entry.name, names());
                meant.extend(near);
                let complaint = Complaint::new(format!("unknown field `{}`", entry.name)).nearest(near);
                let all: Vec<&str> = object.fields.keys().map(String::as_str).collect();
                let complaint = match all.as_slice() {
                    [] => complaint.expected("no fields: `{}`"),
                    [one] => complaint.expected(format!("`{one}`")),
                    all => complaint.expected(one_of(all.iter().copied())),
                };
                self.complain(&entry.key.span, &path, complaint);
                continue;
            };
            let is_member = object.union.iter().any(|member| member == entry.name);
            if entry.value.is_null() && !field.required {
                self.places.insert(path.clone(), Place::of_key(entry.key));
                if is_member {
                    set.push(entry.name);
                    let complaint = Complaint::new(format!("`{}` has no value", entry.name));
                    let is_enough = field.shape.stand_in().as_object().is_some_and(Map::is_empty);
                    let near = is_enough.then(|| format!("{}: {{}}", entry.name));
                    let complaint = complaint.expected(field.shape.expected()).nearest(near);
                    self.complain(&entry.key.span, &path, complaint);
                }
                continue;
            }
            if is_member {
                if let Some(first) = set.first() {
                    let message = format!("`{first}` and `{}` are both set", entry.name);
                    let complaint = Complaint::new(message).expected(exactly_one(object));
                    self.complain(&entry.key.span, &path, complaint);
                }
                set.push(entry.name);
            }
            self.places.insert(path.clone(), Place::of_entry(entry.key, entry.value));
            value.insert(entry.name.to_owned(), self.value(entry.value, &field.shape, &path));
        }
        for (name, field) in object.fields.iter().filter(|(_, field)| field.required) {
            if value.contains_key(name) {
                continue;
            }
            if meant.contains(&name.as_str()) {
                self.mistyped.insert(join(path, name));
            } else {
                let complaint = Complaint::new(format!("field `{name}` is missing")).expected(field.shape.expected());
                self.complain(&first_of(node), &join(path, name), complaint);
            }
            value.insert(name.clone(), field.shape.stand_in());
        }
        let is_meant = || object.union.iter().any(|member| meant.contains(&member.as_str()));
        if !object.union.is_empty() && set.is_empty() && !is_meant() {
            let complaint = Complaint::new(format!("none of {} is set", list(object.union.iter().map(String::as_str))));
            self.complain(&first_of(node), path, complaint.expected(exactly_one(object)));
        }
        Value::Object(value)
    }

    fn scalar(&mut self, node: &Node, text: &str, shape: &Shape) -> Result<Value, Complaint> {
        let scalar = node.scalar().unwrap_or(Scalar::Null);
        let wrong = |found: &str| {
            let message = format!("{found} stands where {} is expected", noun(shape));
            Complaint::new(message).expected(shape.expected())
        };
        let found = match scalar {
            Scalar::Null => {
                let complaint = Complaint::new(format!("a value is missing: {} is expected", noun(shape)));
                return Err(complaint.expected(shape.expected()));
            }
            Scalar::Bool(_) => "a boolean",
            Scalar::Whole(_) | Scalar::Number(_) => "a number",
            Scalar::OldBool(_) | Scalar::Text(_) => "a text",
        };
        match (shape, scalar) {
            (Shape::Text(of), scalar) => {
                text_value(of, scalar, text).map_err(|complaint| complaint.unwrap_or_else(|| wrong(found)))
            }
            (Shape::WholeOrText(Form::Size), Scalar::Whole(..0)) => {
                Err(Complaint::new("a size cannot be less than nothing").expected(shape.expected()))
            }
            (Shape::WholeOrText(_), Scalar::Whole(whole)) => match i64::try_from(whole) {
                Ok(whole) => Ok(whole.into()),
                Err(_) => Err(Complaint::new("this number is too great").expected(shape.expected())),
            },
            (Shape::WholeOrText(form), Scalar::Text(_) | Scalar::Number(_)) => form.check(text).map(|()| text.into()),
            (Shape::Whole { min, max }, Scalar::Whole(whole)) => match i64::try_from(whole) {
                Ok(number) if (*min..=*max).contains(&whole) => Ok(number.into()),
                _ => {
                    let near = whole.clamp(*min, *max);
                    let small = near.abs() < 1_000_000_000;
                    let what = if whole < *min { "small" } else { "great" };
                    let complaint = Complaint::new(format!("this number is too {what}")).expected(shape.expected());
                    Err(complaint.nearest(small.then(|| near.to_string())))
                }
            },
            (Shape::Whole { .. }, Scalar::Number(number)) => {
                let is_whole = number.fract() == 0.0 && number.abs() < 1e15;
                let found = if is_whole { "a number with a point or an exponent" } else { "a number with a fraction" };
                Err(wrong(found).nearest(is_whole.then(|| format!("{number:.0}"))))
            }
            (Shape::Whole { .. }, Scalar::Text(text)) => {
                let digits = text.replace(['_', ',', '\'', ' '], "");
                Err(wrong(found).nearest(digits.parse::<i64>().is_ok().then_some(digits)))
            }
            (Shape::Number, Scalar::Whole(whole)) => Ok((whole as f64).into()),
            (Shape::Number, Scalar::Number(number)) if number.is_finite() => Ok(number.into()),
            (Shape::Number, Scalar::Text(text)) => {
                Err(wrong(found).nearest(text.parse::<f64>().is_ok_and(f64::is_finite).then_some(text)))
            }
            (Shape::Boolean, Scalar::Bool(value)) => Ok(value.into()),
            (Shape::Boolean, Scalar::OldBool(old)) => {
                let value = matches!(old.to_ascii_lowercase().as_str(), "yes" | "on");
                Err(wrong(found).nearest(Some(value.to_string())))
            }
            (Shape::Boolean, Scalar::Text(text)) => {
                let near = ["true", "false"].into_iter().find(|value| text.eq_ignore_ascii_case(value));
                Err(wrong(found).nearest(near))
            }
            (Shape::Object(object), Scalar::Text(text)) if object.fields.contains_key(text) => {
                Err(wrong(found).nearest(Some(format!("{{{text}: {{}}}}"))))
            }
            (Shape::List { .. }, _) => {
                Err(wrong(found).nearest(Some(format!("[{}]", super::problem::shorten(text, 60)))))
            }
            _ => Err(wrong(found)),
        }
    }

    /// A value of whatever shape.
    fn any(&mut self, node: &Node, path: &str) -> Value {
        match &node.kind {
            Kind::Map(_) => {
                let entries = self.entries(node, path);
                let value = |entry: Entry<'_>| (entry.name.to_owned(), self.any(entry.value, path));
                Value::Object(entries.into_iter().map(value).collect())
            }
            Kind::List(nodes) => Value::Array(nodes.iter().map(|node| self.any(node, path)).collect()),
            Kind::Scalar { text, .. } => match node.scalar().unwrap_or(Scalar::Null) {
                Scalar::Null => Value::Null,
                Scalar::Bool(value) => value.into(),
                Scalar::Whole(whole) => i64::try_from(whole).map_or_else(|_| text.as_str().into(), Value::from),
                Scalar::Number(number) => number.into(),
                Scalar::OldBool(text) | Scalar::Text(text) => text.into(),
            },
        }
    }
}

/// `Err(None)`: it is of another type.
fn text_value(of: &Text, scalar: Scalar<'_>, text: &str) -> Result<Value, Option<Complaint>> {
    match scalar {
        Scalar::Text(_) => {}
        // A duration without its unit looks like a number; it is better to say what it lacks.
        _ if of.form.stand_in().is_some() || !of.choices.is_empty() => {}
        Scalar::OldBool(_) => {
            let complaint = Complaint::new(format!("`kubectl` takes `{text}` for a boolean, and a text is expected"));
            return Err(Some(complaint.expected("quotes around it").nearest(Some(quoted(text)))));
        }
        Scalar::Bool(_) | Scalar::Whole(_) | Scalar::Number(_) => {
            let found = if matches!(scalar, Scalar::Bool(_)) { "a boolean" } else { "a number" };
            let complaint = Complaint::new(format!("{found} stands where a text is expected"));
            return Err(Some(complaint.expected("quotes around it").nearest(Some(quoted(text)))));
        }
        Scalar::Null => return Err(None),
    }
    if !of.choices.is_empty() {
        check_choice(text, &of.choices).map_err(Some)?;
        return Ok(text.into());
    }
    let chars = text.chars().count();
    if chars < of.min_chars {
        return Err(Some(Complaint::new("this text is empty").expected(of.form.expected()).offending(quoted(text))));
    }
    if chars > of.max_chars {
        let message = format!("this text has {chars} characters and may have {}", of.max_chars);
        let tab = (of.max_chars == 1 && text == "\\t").then(|| quoted("\\t"));
        return Err(Some(Complaint::new(message).nearest(tab)));
    }
    of.form.check(text).map_err(Some)?;
    Ok(text.into())
}

fn exactly_one(object: &Object) -> String {
    format!("exactly one of {}", list(object.union.iter().map(String::as_str)))
}

fn noun(shape: &Shape) -> &'static str {
    match shape {
        Shape::Any => "a value",
        Shape::Object(_) | Shape::Map(_) => "a mapping",
        Shape::List { .. } => "a list",
        Shape::Text(_) | Shape::WholeOrText(_) => "a text",
        Shape::Whole { .. } => "a whole number",
        Shape::Number => "a number",
        Shape::Boolean => "a boolean",
    }
}

/// What stands for a mapping or list in an excerpt: its first key, or its first character.
pub(crate) fn first_of(node: &Node) -> Range<usize> {
    match &node.kind {
        Kind::Map(entries) => match entries.first() {
            Some((key, _)) if node.span.start == key.span.start => key.span.clone(),
            _ => node.span.start..node.span.end.min(node.span.start + 1),
        },
        Kind::List(_) => node.span.start..node.span.end.min(node.span.start + 1),
        Kind::Scalar { .. } => node.span.clone(),
    }
}

/// The path of a field.
pub(crate) fn join(path: &str, name: &str) -> String {
    let is_plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match (path.is_empty(), is_plain) {
        (true, true) => name.to_owned(),
        (false, true) => format!("{path}.{name}"),
        (_, false) => format!("{path}[{:?}]", super::problem::shorten(name, 80)),
    }
}
