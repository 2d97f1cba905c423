//! The places that a pipeline writes to: that this version can, and that no two outputs make one of them unreadable.

use millrace_crds::{SinkDestination, SinkSpec};

use super::Compiler;
use crate::{
    error::Fault,
    graph::{Node, NodeKind, SinkNode},
    sink_rules::unusable_url,
};

impl Compiler<'_> {
    /// Where checkpoints go.
    pub(super) fn storage(&mut self) {
        const FIELD: &str = "spec.checkpoints.storage";
        let Some(storage) = &self.spec.pipeline.checkpoints.storage else { return };
        if let Some(scheme) = unusable_url(storage).filter(|_| !self.doubts.fields.contains(FIELD)) {
            let fault = Fault::new(format!("this version does not keep checkpoints in {scheme}"));
            self.refuse(FIELD, fault.offending(storage).expected("a path, or a URL like file:///checkpoints"));
        }
    }

    /// Refuses outputs whose files or rows would lie between each other's and differ. `nodes`: with the outputs' numbers.
    pub(super) fn shared_destinations(&mut self, nodes: &[(usize, Node)]) {
        let sinks: Vec<(usize, &SinkNode)> = nodes
            .iter()
            .filter_map(|(number, node)| match &node.kind {
                NodeKind::Sink(sink) => Some((*number, sink)),
                NodeKind::Source(_) | NodeKind::Transform(_) => None,
            })
            .collect();
        for (at, (number, sink)) in sinks.iter().enumerate() {
            if let Some(fault) = sinks[..at].iter().find_map(|(_, before)| in_the_way(before, sink)) {
                let fault = fault.offending(&sink.sink).expected("a Sink with a place of its own for each output");
                self.refuse(format!("spec.outputs[{number}].sink"), fault);
            }
        }
    }
}

/// Why two outputs cannot both be written where they are to be.
fn in_the_way(one: &SinkNode, other: &SinkNode) -> Option<Fault> {
    let (here, there) = (folder(&one.spec)?, folder(&other.spec)?);
    let (first, second) = (one.input.node.0.as_str(), other.input.node.0.as_str());
    if here != there {
        let (outer, inner) = match (there.starts_with(&here), here.starts_with(&there)) {
            (true, _) => (one, other),
            (_, true) => (other, one),
            _ => return None,
        };
        let message = format!("the folder of the Sink `{}` lies in that of the Sink `{}`", inner.sink, outer.sink);
        return Some(Fault::new(message));
    }
    if one.spec.destination() != other.spec.destination() {
        let message = format!("the Sinks `{}` and `{}` write to one place, each in its own way", one.sink, other.sink);
        return Some(Fault::new(message));
    }
    let is_alike = one.schema == other.schema && one.changelog.is_some() == other.changelog.is_some();
    (!is_alike).then(|| {
        let place = if one.sink == other.sink { format!("the Sink `{}`", one.sink) } else { "one place".to_owned() };
        Fault::new(format!("`{first}` and `{second}` both go to {place}, and their columns differ"))
    })
}

/// The parts of the path of a destination that is a folder.
fn folder(spec: &SinkSpec) -> Option<Vec<&str>> {
    let path = match spec.destination()? {
        SinkDestination::File(file) => file.path.as_str(),
        SinkDestination::Parquet(parquet) => parquet.uri.as_str(),
        SinkDestination::Delta(delta) => delta.uri.as_str(),
        SinkDestination::Stdout(_) => return None,
    };
    let path = path.strip_prefix("file://").unwrap_or(path);
    let mut parts = Vec::new();
    if path.starts_with('/') {
        parts.push("/");
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| !["/", ".."].contains(last)) => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Some(parts)
}
