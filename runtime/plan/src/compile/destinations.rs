//! The places that a pipeline writes to: that this version can, that no two outputs make one of them unreadable, and that no
//! source reads there.

use glob::{MatchOptions, Pattern};
use millrace_crds::{DeltaSink, FileSink, ParquetSink, SinkDestination, SinkFormatKind, SinkSpec};

use super::Compiler;
use crate::{
    error::Fault,
    graph::{Node, NodeKind, SinkNode, Warning},
    sink_rules::unusable_url,
};

impl Compiler<'_> {
    /// Where checkpoints go.
    pub(super) fn storage(&mut self) {
        const FIELD: &str = "spec.checkpoints.storage";
        let Some(storage) = &self.spec.pipeline.checkpoints.storage else { return };
        if is_in_bucket(storage) {
            return;
        }
        if let Some(scheme) = unusable_url(storage).filter(|_| !self.doubts.fields.contains(FIELD)) {
            let fault = match storage.strip_prefix("s3://") {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => Fault::new("this URL names no bucket"),
                Some(_) => Fault::new("such a URL is a bucket and a path in it, and nothing else"),
                None => Fault::new(format!("this version does not keep checkpoints in {scheme}")),
            };
            self.refuse(
                FIELD,
                fault
                    .offending(storage)
                    .expected("a path, or a URL like file:///checkpoints or s3://bucket/checkpoints"),
            );
        }
    }

    /// Refuses outputs whose files or rows would lie between each other's and differ. `nodes`: with the outputs' numbers.
    pub(super) fn shared_destinations(&mut self, nodes: &[(usize, Node)]) {
        let sinks: Vec<(usize, &SinkNode)> = sinks(nodes).collect();
        let folders: Vec<Option<Vec<String>>> = sinks.iter().map(|(_, sink)| folder(&sink.spec, self.here)).collect();
        for (at, (number, sink)) in sinks.iter().enumerate() {
            let Some(there) = &folders[at] else { continue };
            let before =
                sinks[..at].iter().zip(&folders).filter_map(|((_, sink), folder)| Some((sink, folder.as_ref()?)));
            let mut faults = before.filter_map(|(before, here)| in_the_way((before, here), (sink, there)));
            if let Some(fault) = faults.next() {
                let fault = fault.offending(&sink.sink).expected("a Sink with a place of its own for each output");
                self.refuse(format!("spec.outputs[{number}].sink"), fault);
            }
        }
    }

    /// Warns of sources that would read what the pipeline writes.
    pub(super) fn own_results(&mut self, nodes: &[(usize, Node)]) {
        let written: Vec<(&SinkNode, String)> = sinks(nodes)
            .filter_map(|(_, sink)| Some((sink, file_in(&sink.spec, &self.spec.name, folder(&sink.spec, self.here)?))))
            .collect();
        let sources = self.spec.pipeline.sources.iter().enumerate();
        let paths = sources.flat_map(|(source, spec)| {
            let paths = spec.file.iter().flat_map(|file| &file.paths).enumerate();
            paths.map(move |(number, path)| (format!("spec.sources[{source}].file.paths[{number}]"), path))
        });
        for (field, path) in paths {
            // What is no glob is told by whoever reads it.
            let Ok(pattern) = Pattern::new(&joined(&parts(&(self.here)(path)))) else { continue };
            let in_one_folder = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
            if let Some((sink, _)) = written.iter().find(|(_, file)| pattern.matches_with(file, in_one_folder)) {
                let message =
                    format!("the files of the Sink `{}` match this: their rows would be read again", sink.sink);
                self.warnings.push(Warning { path: field, message });
            }
        }
    }
}

/// The sinks of these nodes, with the outputs' numbers.
fn sinks(nodes: &[(usize, Node)]) -> impl Iterator<Item = (usize, &SinkNode)> {
    nodes.iter().filter_map(|(number, node)| match &node.kind {
        NodeKind::Sink(sink) => Some((*number, sink)),
        NodeKind::Source(_) | NodeKind::Transform(_) => None,
    })
}

/// The path of a file such as a sink writes into its folder.
fn file_in(spec: &SinkSpec, pipeline: &str, mut folder: Vec<String>) -> String {
    let (partitions, extension): (&[String], _) = match spec.destination() {
        Some(SinkDestination::File(file)) => match file.format.kind() {
            Some(SinkFormatKind::Csv(_)) => (&[], "csv"),
            _ => (&[], "ndjson"),
        },
        Some(SinkDestination::Parquet(parquet)) => (&parquet.partition_by, "parquet"),
        Some(SinkDestination::Delta(delta)) => (&delta.partition_by, "parquet"),
        _ => (&[], ""),
    };
    folder.extend(partitions.iter().map(|column| format!("{column}=x")));
    folder.push(format!("{pipeline}-0-out-e0000000001-t0.{extension}"));
    joined(&folder)
}

fn joined(parts: &[String]) -> String {
    match parts.split_first() {
        Some((root, below)) if root == "/" => format!("/{}", below.join("/")),
        _ => parts.join("/"),
    }
}

/// Whether a URL names a bucket of an S3 store, and a place in it.
fn is_in_bucket(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("s3://") else { return false };
    let bucket = rest.split('/').next().unwrap_or_default();
    !bucket.is_empty() && !rest.contains(['?', '#', '@', ' '])
}

/// Why two outputs cannot both be written where they are to be.
fn in_the_way((one, here): (&SinkNode, &Vec<String>), (other, there): (&SinkNode, &Vec<String>)) -> Option<Fault> {
    let (first, second) = (one.input.node.0.as_str(), other.input.node.0.as_str());
    if here != there {
        let (outer, inner) = match (there.starts_with(here), here.starts_with(there)) {
            (true, _) => (one, other),
            (_, true) => (other, one),
            _ => return None,
        };
        let message = format!("the folder of the Sink `{}` lies in that of the Sink `{}`", inner.sink, outer.sink);
        return Some(Fault::new(message));
    }
    if !write_alike(&one.spec, &other.spec) {
        let message = format!("the Sinks `{}` and `{}` write to one place, each in its own way", one.sink, other.sink);
        return Some(Fault::new(message));
    }
    let is_alike = one.schema == other.schema && one.changelog.is_some() == other.changelog.is_some();
    (!is_alike).then(|| {
        let place = if one.sink == other.sink { format!("the Sink `{}`", one.sink) } else { "one place".to_owned() };
        Fault::new(format!("`{first}` and `{second}` both go to {place}, and their columns differ"))
    })
}

/// Whether two sinks of one place write the same kind of files, however each of them spells the place.
fn write_alike(one: &SinkSpec, other: &SinkSpec) -> bool {
    match (one.destination(), other.destination()) {
        (Some(SinkDestination::File(one)), Some(SinkDestination::File(other))) => {
            *one == FileSink { path: one.path.clone(), ..other.clone() }
        }
        (Some(SinkDestination::Parquet(one)), Some(SinkDestination::Parquet(other))) => {
            *one == ParquetSink { uri: one.uri.clone(), ..other.clone() }
        }
        (Some(SinkDestination::Delta(one)), Some(SinkDestination::Delta(other))) => {
            *one == DeltaSink { uri: one.uri.clone(), ..other.clone() }
        }
        (one, other) => one == other,
    }
}

/// The parts of the path of a destination that is a folder.
fn folder(spec: &SinkSpec, here: &(dyn Fn(&str) -> String + Sync)) -> Option<Vec<String>> {
    let path = match spec.destination()? {
        SinkDestination::File(file) => file.path.as_str(),
        SinkDestination::Parquet(parquet) => parquet.uri.as_str(),
        SinkDestination::Delta(delta) => delta.uri.as_str(),
        SinkDestination::Stdout(_) => return None,
    };
    Some(parts(&here(&path.strip_prefix("file://").map_or_else(|| path.to_owned(), unescaped))))
}

/// The parts of a path, without those that lead nowhere.
fn parts(path: &str) -> Vec<String> {
    let mut parts: Vec<&str> = Vec::new();
    if path.starts_with('/') {
        parts.push("/");
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| !["/", ".."].contains(last)) => {
                parts.pop();
            }
            // Nothing is above the root.
            ".." if parts.last() == Some(&"/") => {}
            part => parts.push(part),
        }
    }
    parts.into_iter().map(str::to_owned).collect()
}

/// The path of a URL, in which `%20` stands for a space.
fn unescaped(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
