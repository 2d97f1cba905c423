//! Reads manifests: YAML texts of any number of documents each, to typed objects, and all that is wrong with them.
//!
//! ```text
//! text ── tree ──> nodes with places ── check ──> values that have the schema's shape ── serde ──> objects ── validate
//!           └─ YAML syntax                └─ fields, types, forms, unions                             └─ names, ranges
//! ```
//!
//! Every step goes on after a problem: a document that is no YAML is left out, a value that is wrong is stood in for, so
//! that all problems come at once. Objects of other API groups are passed over with a [`Notice`].
//!
//! Whatever the text is, reading it is bounded: a file may have 8 MiB, a document 262,144 values with its aliases written
//! out, nested 64 deep, and not more than 500 problems are told.

mod check;
mod forms;
mod located;
mod names;
mod object;
mod problem;
mod scalar_map;
mod shape;
mod source_file;
mod tree;
mod validate;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    sync::Arc,
};

pub(crate) use self::{forms::Form, shape::inline_schema};
pub use self::{
    located::Located,
    problem::{Complaint, Part, Problem, Severity},
    source_file::Position,
};
use self::{
    object::{Kind, Reader},
    source_file::SourceFile,
    validate::Known,
};
use crate::{Pipeline, Sink, SinkSpec, Window, WindowSpec};

/// How many bytes a file may have.
const MAX_FILE_BYTES: usize = 8 << 20;
/// How many problems are told.
const MAX_PROBLEMS: usize = 500;

/// The objects of some manifests, in the order in which they stand there.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// The Pipelines.
    pub pipelines: Vec<Located<Pipeline>>,
    /// The Windows.
    pub windows: Vec<Located<Window>>,
    /// The Sinks.
    pub sinks: Vec<Located<Sink>>,
    /// Objects of others.
    pub skipped: Vec<Notice>,
    /// The names of all that are ours, of those too that could not be read.
    known: Known,
}

impl Manifests {
    /// The Windows that a Pipeline of a namespace can name.
    pub fn windows_in(&self, namespace: &str) -> BTreeMap<String, WindowSpec> {
        let windows = self.windows.iter().filter(|window| window.namespace() == namespace);
        windows.map(|window| (window.name().to_owned(), window.value.spec.clone())).collect()
    }

    /// The Windows of a namespace that are there, and not as they were written.
    pub fn unread_windows_in(&self, namespace: &str) -> BTreeSet<String> {
        unread(&self.known, Kind::Window, namespace, &self.windows)
    }

    /// The Sinks of a namespace that are there, and not as they were written.
    pub fn unread_sinks_in(&self, namespace: &str) -> BTreeSet<String> {
        unread(&self.known, Kind::Sink, namespace, &self.sinks)
    }

    /// The Sinks that a Pipeline of a namespace can name.
    pub fn sinks_in(&self, namespace: &str) -> BTreeMap<String, SinkSpec> {
        let sinks = self.sinks.iter().filter(|sink| sink.namespace() == namespace);
        sinks.map(|sink| (sink.name().to_owned(), sink.value.spec.clone())).collect()
    }
}

/// The names of a kind's objects of which none is whole.
fn unread<T: kube::Resource>(known: &Known, kind: Kind, namespace: &str, objects: &[Located<T>]) -> BTreeSet<String> {
    let is_whole = |name: &&str| validate::find(objects, namespace, name).is_some_and(Located::is_whole);
    known.of(kind, namespace).filter(|name| !is_whole(name)).map(str::to_owned).collect()
}

/// An object that was passed over, since it is none of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The file's name.
    pub file: Arc<str>,
    /// The line in which the object begins.
    pub line: usize,
    /// Its kind.
    pub kind: String,
    /// Its name, if it has one.
    pub name: Option<String>,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: passed over {}", self.file, self.line, self.kind)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, " `{name}`"))
    }
}

/// Reads files, each given by its name and text, and checks all that can be checked without SQL.
///
/// Problems come in the order of the files and their lines. Where one of them [is an error](Problem::is_error) nothing of
/// the manifests may be run: their objects are there so that more can be said about them; see [`Located::is_whole`].
pub fn read<N: AsRef<str>, T: AsRef<[u8]>>(files: &[(N, T)]) -> (Manifests, Vec<Problem>) {
    let mut reader = Reader::default();
    let mut problems = Vec::new();
    let mut more = 0;
    for (name, bytes) in files {
        let first = problems.len();
        match text(name.as_ref(), bytes.as_ref()) {
            Ok(text) => reader.read(Arc::new(SourceFile::new(name.as_ref(), text)), &mut problems),
            Err(problem) => problems.push(*problem),
        }
        more += (problems.len() - first).saturating_sub(MAX_PROBLEMS);
        problems.truncate(first + MAX_PROBLEMS);
    }
    let manifests = reader.finish(&mut problems);
    let order: BTreeMap<&str, usize> =
        files.iter().enumerate().rev().map(|(n, (name, _))| (name.as_ref(), n)).collect();
    problems.sort_by_key(|problem| (order.get(&*problem.file).copied(), problem.line, problem.column));
    let mut seen = HashSet::new();
    problems.retain(|problem| {
        seen.insert((Arc::clone(&problem.file), problem.line, problem.column, problem.message.clone()))
    });
    more += problems.len().saturating_sub(MAX_PROBLEMS);
    problems.truncate(MAX_PROBLEMS);
    if let Some(last) = problems.last().filter(|_| more > 0) {
        let file = Arc::clone(&last.file);
        problems.push(Problem::of_file(&file, format!("{more} more problems are not shown")));
    }
    (manifests, problems)
}

/// A file's bytes as text.
fn text(name: &str, bytes: &[u8]) -> Result<String, Box<Problem>> {
    if bytes.len() > MAX_FILE_BYTES {
        let message = format!("the file has {} bytes, and a manifest may have {MAX_FILE_BYTES}", bytes.len());
        return Err(Problem::of_file(name, message).into());
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Problem::of_file(name, "the file is UTF-16, and a manifest has to be UTF-8").into());
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned();
            let end = valid.len();
            let file = SourceFile::new(name, valid);
            let complaint = Complaint::new(format!("byte {:#04x} is not UTF-8", bytes[end]))
                .expected("a text file in UTF-8; is this one compressed?");
            Err(Problem::new(&file, &(end..end), "", complaint).into())
        }
    }
}
