//! From documents to objects: which kind each is, and what all kinds have in common.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Manifests, Notice, Problem,
    check::{Checker, first_of},
    forms::{as_object_name, is_object_name},
    located::{Located, Place},
    names::{nearest, one_of},
    problem::Complaint,
    shape::{self, Shape},
    source_file::SourceFile,
    tree::{Kind as NodeKind, Node, documents},
    validate::{self, Known},
};
use crate::{API_VERSION, GROUP, Pipeline, PipelineSpec, Sink, SinkSpec, Window, WindowSpec};

/// Our kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Pipeline,
    Window,
    Sink,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Pipeline, Self::Window, Self::Sink];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Pipeline => "Pipeline",
            Self::Window => "Window",
            Self::Sink => "Sink",
        }
    }

    fn spec(self) -> &'static Shape {
        match self {
            Self::Pipeline => &shape::PIPELINE,
            Self::Window => &shape::WINDOW,
            Self::Sink => &shape::SINK,
        }
    }
}

/// What is known after some files.
#[derive(Default)]
pub(crate) struct Reader {
    manifests: Manifests,
    known: Known,
    /// Where each object stands, for those that come again.
    seen: HashMap<(Kind, String, String), String>,
}

impl Reader {
    pub fn read(&mut self, file: Arc<SourceFile>, problems: &mut Vec<Problem>) {
        for document in documents(&file, problems) {
            if let Some(root) = document.root.filter(|root| !root.is_null()) {
                self.object(&file, &root, problems);
            }
        }
    }

    /// Checks what needs all objects.
    pub fn finish(mut self, problems: &mut Vec<Problem>) -> Manifests {
        validate::objects(&mut self.manifests, &self.known, problems);
        self.manifests.known = self.known;
        self.manifests
    }

    fn object(&mut self, file: &Arc<SourceFile>, root: &Node, problems: &mut Vec<Problem>) {
        if !matches!(root.kind, NodeKind::Map(_)) {
            let complaint = Complaint::new("this document is no object")
                .expected("a mapping with `apiVersion`, `kind`, `metadata` and `spec`");
            problems.push(Problem::new(file, &first_of(root), "", complaint));
            return;
        }
        if is_list(root) {
            if let Some(NodeKind::List(items)) = root.get("items").map(|items| &items.kind) {
                for item in items {
                    self.object(file, item, problems);
                }
            }
            return;
        }
        match kind_of(root) {
            Ok(Found::Ours(kind)) => self.ours(file, root, kind, problems),
            Ok(Found::Foreign(kind)) => {
                let line = file.position(root.span.start).line;
                let name = text_in(root, "metadata", "name").filter(|name| !name.is_empty()).map(str::to_owned);
                self.manifests.skipped.push(Notice { file: Arc::clone(&file.name), line, kind, name });
            }
            Err((field, complaint)) => {
                // It is told that the object is wrong; that it is missing need not be told too.
                let meant =
                    root.get("kind").and_then(|kind| nearest(kind.text()?, Kind::ALL.into_iter().map(Kind::name)));
                let meant = Kind::ALL.into_iter().find(|kind| Some(kind.name()) == meant);
                if let (Some(kind), Some(name)) = (meant, text_in(root, "metadata", "name")) {
                    self.known.add(kind, text_in(root, "metadata", "namespace").unwrap_or("default"), name);
                }
                let span = root.get(field).map_or_else(|| first_of(root), |node| first_of(node));
                problems.push(Problem::new(file, &span, field, complaint));
            }
        }
    }

    fn ours(&mut self, file: &Arc<SourceFile>, root: &Node, kind: Kind, problems: &mut Vec<Problem>) {
        let mut checker = Checker::new(file);
        checker.places.insert(String::new(), Place::of(root));
        let NodeKind::Map(fields) = &root.kind else { return };
        let mut twice = Vec::new();
        for (key, _) in fields {
            let name = key.text().unwrap_or_default();
            if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&name) {
                let names = ["metadata", "spec"];
                let near = nearest(name, names).filter(|near| root.get(near).is_none());
                twice.extend(near);
                let complaint = Complaint::new(format!("unknown field `{name}`")).nearest(near);
                let complaint = complaint.expected("`apiVersion`, `kind`, `metadata` and `spec`");
                checker.complain(&first_of(key), name, complaint);
            } else if fields
                .iter()
                .filter(|(other, _)| other.text() == Some(name))
                .any(|(other, _)| other.span.start < key.span.start)
            {
                checker.complain(&key.span, name, Complaint::new(format!("field `{name}` is set twice")));
            }
        }
        let mut part = |name: &str, shape: &Shape| match root.get(name) {
            Some(node) => {
                if let Some((key, value)) = fields.iter().find(|(key, _)| key.text() == Some(name)) {
                    checker.places.insert(name.to_owned(), Place::of_entry(key, value));
                }
                checker.value(node, shape, name)
            }
            None => {
                if !twice.contains(&name) {
                    let expected =
                        if name == "metadata" { "`metadata: {name: …}`".to_owned() } else { shape.expected() };
                    let complaint = Complaint::new(format!("field `{name}` is missing")).expected(expected);
                    checker.complain(&first_of(root), name, complaint);
                }
                shape.stand_in()
            }
        };
        let metadata = part("metadata", &shape::METADATA);
        let spec = part("spec", kind.spec());
        let metadata: ObjectMeta = serde_json::from_value(metadata).unwrap_or_default();
        self.name(&mut checker, root, kind, &metadata);
        let Checker { places, problems: found, mistyped, .. } = checker;
        let is_whole = !found.iter().any(|problem| matters(kind, &problem.path));
        let broken = found.iter().map(|problem| problem.path.clone()).chain(mistyped).collect();
        problems.extend(found);
        let source = Object { file, root, places, is_whole, broken };
        match kind {
            Kind::Pipeline => {
                let spec: Option<PipelineSpec> = source.parse(spec, problems);
                let object = spec.map(|spec| Pipeline { metadata, spec, status: None });
                self.manifests.pipelines.extend(object.map(|value| source.locate(value)));
            }
            Kind::Window => {
                let spec: Option<WindowSpec> = source.parse(spec, problems);
                let object = spec.map(|spec| Window { metadata, spec, status: None });
                self.manifests.windows.extend(object.map(|value| source.locate(value)));
            }
            Kind::Sink => {
                let spec: Option<SinkSpec> = source.parse(spec, problems);
                let object = spec.map(|spec| Sink { metadata, spec, status: None });
                self.manifests.sinks.extend(object.map(|value| source.locate(value)));
            }
        }
    }

    /// Checks the object's name, and that no other has it.
    fn name(&mut self, checker: &mut Checker<'_>, root: &Node, kind: Kind, metadata: &ObjectMeta) {
        let node = root.get("metadata").and_then(|metadata| metadata.get("name")).cloned();
        let Some(name) = metadata.name.as_deref() else {
            if let Some(metadata) = root.get("metadata") {
                let complaint = Complaint::new("field `name` is missing").expected("the object's name");
                checker.complain(&first_of(metadata), "metadata.name", complaint);
            }
            return;
        };
        let span = node.map_or_else(|| first_of(root), |node| node.span.clone());
        // A Pipeline's name is part of names that have to be DNS labels of 63 characters.
        let (max, is_valid, expected) = match kind {
            Kind::Pipeline => {
                let is_label =
                    is_object_name(name) && !name.contains('.') && name.starts_with(|c: char| c.is_ascii_lowercase());
                (52, is_label, "at most 52 lower-case letters, digits and `-`, beginning with a letter")
            }
            _ => (
                253,
                is_object_name(name),
                "lower-case letters, digits, `-` and `.`, with a letter or digit at both ends",
            ),
        };
        if !is_valid || name.len() > max {
            let near =
                as_object_name(name).map(|near| if kind == Kind::Pipeline { near.replace('.', "-") } else { near });
            let near = near.filter(|near| near != name && near.len() <= max);
            let complaint = Complaint::new(format!("this cannot be the name of a {}", kind.name()));
            checker.complain(&span, "metadata.name", complaint.expected(expected).nearest(near));
        }
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        let position = checker.file.position(span.start);
        let place = format!("{}:{}", checker.file.name, position.line);
        match self.seen.get(&(kind, namespace.to_owned(), name.to_owned())) {
            Some(first) => {
                let complaint = Complaint::new(format!("a {} of this name is already defined at {first}", kind.name()));
                checker.complain(&span, "metadata.name", complaint.expected("each name once"));
            }
            None => {
                self.seen.insert((kind, namespace.to_owned(), name.to_owned()), place);
            }
        }
        self.known.add(kind, namespace, name);
    }
}

/// Whether a problem with a field may make what is said about the object's meaning wrong.
fn matters(kind: Kind, path: &str) -> bool {
    let is_in =
        |root: &str| path == root || path.starts_with(&format!("{root}.")) || path.starts_with(&format!("{root}["));
    match kind {
        Kind::Pipeline => path == "spec" || is_in("spec.sources") || is_in("spec.transforms"),
        Kind::Window | Kind::Sink => is_in("spec"),
    }
}

/// An object that has been checked.
struct Object<'a> {
    file: &'a Arc<SourceFile>,
    root: &'a Node,
    places: BTreeMap<String, Place>,
    is_whole: bool,
    broken: BTreeSet<String>,
}

impl Object<'_> {
    fn parse<S: DeserializeOwned>(&self, spec: Value, problems: &mut Vec<Problem>) -> Option<S> {
        match serde_json::from_value(spec) {
            Ok(spec) => Some(spec),
            Err(error) => {
                let complaint = Complaint::new(format!("this object cannot be read: {error}"));
                problems.push(Problem::new(self.file, &first_of(self.root), "spec", complaint));
                None
            }
        }
    }

    fn locate<T>(self, value: T) -> Located<T> {
        Located {
            value,
            file: Arc::clone(self.file),
            places: Arc::new(self.places),
            is_whole: self.is_whole,
            broken: Arc::new(self.broken),
        }
    }
}

/// The text of a field of a field.
fn text_in<'a>(root: &'a Node, outer: &str, inner: &str) -> Option<&'a str> {
    root.get(outer)?.get(inner)?.text()
}

enum Found {
    Ours(Kind),
    Foreign(String),
}

/// A list of objects, as `kubectl get -o yaml` writes it.
fn is_list(root: &Node) -> bool {
    let text = |name: &str| root.get(name).and_then(|node| node.text());
    text("apiVersion") == Some("v1") && text("kind") == Some("List")
}

/// Which kind an object is, or which of its fields is wrong.
fn kind_of(root: &Node) -> Result<Found, (&'static str, Complaint)> {
    let text = |name: &'static str| match root.get(name) {
        Some(node) => node.text().filter(|text| !text.is_empty()).map(Some).ok_or_else(|| {
            (
                name,
                Complaint::new(format!("`{name}` has to be a text"))
                    .expected("as in `apiVersion: millrace.dev/v1alpha1`"),
            )
        }),
        None => Ok(None),
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let ours = kind.and_then(|kind| Kind::ALL.into_iter().find(|ours| ours.name() == kind));
    let Some(api_version) = api_version else {
        let complaint = Complaint::new("field `apiVersion` is missing");
        return Err(("apiVersion", complaint.expected(format!("`apiVersion: {API_VERSION}` and `kind`"))));
    };
    let Some(kind) = kind else {
        let complaint = Complaint::new("field `kind` is missing");
        return Err(("kind", complaint.expected("`Pipeline`, `Window`, `Sink`, or a kind of another API group")));
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if group == GROUP {
        let Some(ours) = ours else {
            let names = || Kind::ALL.into_iter().map(Kind::name);
            let complaint = Complaint::new(format!("`{kind}` is no kind of {GROUP}"));
            let complaint = complaint.expected(one_of(names())).nearest(nearest(kind, names()));
            return Err(("kind", complaint));
        };
        if api_version != API_VERSION {
            let complaint = Complaint::new(format!("there is no version `{version}` of {GROUP}"));
            return Err(("apiVersion", complaint.expected(format!("`{API_VERSION}`")).nearest(Some(API_VERSION))));
        }
        return Ok(Found::Ours(ours));
    }
    let is_near = nearest(group, [GROUP]).is_some()
        || api_version.starts_with("millrace")
        || version == crate::VERSION && group.is_empty();
    if ours.is_some() && is_near {
        let complaint = Complaint::new(format!("`{api_version}` is not the version of Millrace's objects"));
        return Err(("apiVersion", complaint.expected(format!("`{API_VERSION}`")).nearest(Some(API_VERSION))));
    }
    Ok(Found::Foreign(kind.to_owned()))
}
