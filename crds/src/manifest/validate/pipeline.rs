//! What a Pipeline has to say: names that are there, side outputs that are filled, and what its parts have to say.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ResourceRequirements;

use super::{Findings, Known, find, source};
use crate::{
    LateRows, OnError, OutputSpec, PipelineSpec, SideOutput, TransformSpec, Window, amount,
    manifest::{
        located::Located,
        names::{nearest, one_of},
        object::Kind,
        problem::Complaint,
    },
    resource_problems,
};

/// What a Pipeline may name.
pub(super) struct Others<'a> {
    pub known: &'a Known,
    pub windows: &'a [Located<Window>],
    pub namespace: &'a str,
    /// The Pipeline's fields that could not be read.
    pub broken: &'a BTreeSet<String>,
}

/// What a source or transform offers besides its rows.
struct Node {
    side: Option<SideOutput>,
    /// Why it offers nothing else, and what would change that.
    why_not: [(SideOutput, String, String); 2],
}

pub(super) fn check(spec: &PipelineSpec, others: &Others<'_>, findings: &mut Findings) {
    let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
    let names = spec.sources.iter().enumerate().map(|(n, source)| (format!("spec.sources[{n}].name"), &source.name));
    let names =
        names.chain(spec.transforms.iter().enumerate().map(|(n, t)| (format!("spec.transforms[{n}].name"), &t.name)));
    let mut seen: BTreeMap<&str, String> = BTreeMap::new();
    for (path, name) in names.filter(|(_, name)| !name.is_empty()) {
        if let Some(first) = seen.get(name.as_str()) {
            let of = first.trim_end_matches(".name");
            let complaint = Complaint::new(format!("`{name}` is already the name of {of}"));
            findings.add(path, complaint.expected("a name for each source and transform"));
        } else {
            seen.insert(name, path);
        }
    }
    for (n, source) in spec.sources.iter().enumerate() {
        source::check(source, &format!("spec.sources[{n}]"), findings);
        let is_unknown = others.broken.contains(&format!("spec.sources[{n}].onError"));
        let side = (source.on_error == OnError::DeadLetter || is_unknown).then_some(SideOutput::Errors);
        let why_not = [
            (
                SideOutput::Errors,
                format!("source `{}` does not say `onError: DeadLetter`", source.name),
                "`onError: DeadLetter` in that source".to_owned(),
            ),
            (
                SideOutput::Late,
                format!("`{}` is a source, and has no late rows", source.name),
                "a transform with a window, or with DISTINCT and `within`".to_owned(),
            ),
        ];
        nodes.entry(&source.name).or_insert(Node { side, why_not });
    }
    for (n, transform) in spec.transforms.iter().enumerate() {
        check_transform(transform, &format!("spec.transforms[{n}]"), others, findings);
        nodes.entry(&transform.name).or_insert_with(|| transform_node(transform, others));
    }
    check_outputs(&spec.outputs, &nodes, others, findings);
    for (n, source) in spec.sources.iter().enumerate().filter(|(_, source)| source.on_error == OnError::DeadLetter) {
        let from = format!("{}.errors", source.name);
        if spec.outputs.iter().all(|output| output.from != from) {
            let complaint = Complaint::new(format!("no output takes `{from}`, so its rows are counted and dropped"));
            let expected = format!("an output as in `{{from: {from}, sink: …}}`");
            findings.add(format!("spec.sources[{n}].onError"), complaint.expected(expected).warning());
        }
    }
    if spec.checkpoints.memory_budget.bytes() == 0 {
        findings.add("spec.checkpoints.memoryBudget", Complaint::new("this must be greater than 0"));
    }
    let is_in_store = |storage: &String| storage.starts_with("s3://");
    if spec.checkpoints.credentials.is_some() && !spec.checkpoints.storage.as_ref().is_some_and(is_in_store) {
        let complaint = Complaint::new("credentials are for a storage that is an object store");
        findings.add("spec.checkpoints.credentials", complaint.expected("`storage: s3://lake/checkpoints`, say"));
    }
    if let Some(resources) = spec.deployment.iter().find_map(|deployment| deployment.resources.as_ref()) {
        check_resources(resources, findings);
    }
    for (n, moved) in spec.start_from.iter().flat_map(|start| start.move_sources.iter().enumerate()) {
        if spec.start_from.as_ref().is_some_and(|start| start.reset_sources.contains(&moved.name)) {
            let complaint = Complaint::new(format!("`{}` is reset, and cannot be moved too", moved.name));
            findings.add(format!("spec.startFrom.moveSources[{n}].name"), complaint);
        }
    }
}

/// What the API server would refuse only when the pods are to be made.
fn check_resources(resources: &ResourceRequirements, findings: &mut Findings) {
    const PATH: &str = "spec.deployment.resources";
    for (place, message, expected) in resource_problems(resources) {
        findings.add(format!("{PATH}.{place}"), Complaint::new(message).expected(expected));
    }
    for (name, request) in resources.requests.iter().flatten() {
        let Some(limit) = resources.limits.as_ref().and_then(|limits| limits.get(name)) else { continue };
        if let (Some(asked), Some(most)) = (amount(&request.0), amount(&limit.0))
            && asked > most
        {
            let complaint = Complaint::new(format!("`{}` is more than the limit", request.0));
            findings.add(format!("{PATH}.requests.{name}"), complaint.expected(format!("at most {}", limit.0)));
        }
    }
}

fn check_transform(transform: &TransformSpec, path: &str, others: &Others<'_>, findings: &mut Findings) {
    if transform.sql.trim().is_empty() && !transform.sql.is_empty() {
        findings.add(format!("{path}.sql"), Complaint::new("there is no SQL here").expected("one SELECT"));
    }
    let Some(window) = transform.window.as_deref() else { return };
    let windows = others.known.of(Kind::Window, others.namespace);
    if !windows.clone().any(|known| known == window) {
        findings.add(format!("{path}.window"), unknown("Window", window, windows));
    }
    if transform.emit_every.is_some() {
        let complaint = Complaint::new("`emitEvery` is for running aggregates, and this transform has a window");
        findings.add(format!("{path}.emitEvery"), complaint.expected("`window` or `emitEvery`, not both"));
    }
}

fn transform_node(transform: &TransformSpec, others: &Others<'_>) -> Node {
    let window = transform.window.as_deref().and_then(|name| find(others.windows, others.namespace, name));
    // A Window that is not there has been told about; its rows may be anything.
    let has_late = match (&transform.window, window) {
        (None, _) => transform.within.is_some(),
        (Some(_), Some(window)) if window.is_whole => window.value.spec.late_rows == LateRows::SideOutput,
        (Some(_), _) => true,
    };
    let name = &transform.name;
    let (late, expected) = match &transform.window {
        None => (
            format!("transform `{name}` has neither a window nor `within`, so no row of it is late"),
            "a transform with a window, or with DISTINCT and `within`".to_owned(),
        ),
        Some(window) => {
            (format!("Window `{window}` drops late rows"), "`lateRows: SideOutput` in that Window".to_owned())
        }
    };
    let why_not = [
        (SideOutput::Late, late, expected),
        (SideOutput::Errors, format!("`{name}` is a transform, and decodes no rows"), "a source".to_owned()),
    ];
    Node { side: has_late.then_some(SideOutput::Late), why_not }
}

fn check_outputs(outputs: &[OutputSpec], nodes: &BTreeMap<&str, Node>, others: &Others<'_>, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for (n, output) in outputs.iter().enumerate() {
        let path = format!("spec.outputs[{n}]");
        if !output.from.is_empty() && !seen.insert((&output.from, &output.sink)) {
            let message = format!("`{}` already goes to Sink `{}`", output.from, output.sink);
            findings.add(format!("{path}.from"), Complaint::new(message).expected("each output once"));
        }
        let sinks = others.known.of(Kind::Sink, others.namespace);
        if !output.sink.is_empty() && !sinks.clone().any(|known| known == output.sink) {
            findings.add(format!("{path}.sink"), unknown("Sink", &output.sink, sinks));
        }
        let Some((name, side)) = output.node_and_output().filter(|(name, _)| !name.is_empty()) else { continue };
        let Some(node) = nodes.get(name) else {
            let names = || nodes.keys().copied();
            let suffix = side.map(|side| format!(".{side}")).unwrap_or_default();
            let complaint = Complaint::new(format!("there is no source or transform `{name}`"));
            let complaint = complaint.expected(one_of(names()));
            let near = nearest(name, names()).map(|near| format!("{near}{suffix}"));
            findings.add(format!("{path}.from"), complaint.nearest(near));
            continue;
        };
        if let Some(side) = side.filter(|side| node.side != Some(*side))
            && let Some((_, why, expected)) = node.why_not.iter().find(|(of, ..)| *of == side)
        {
            let complaint = Complaint::new(format!("`{}` has no rows: {why}", output.from));
            findings.add(format!("{path}.from"), complaint.expected(expected.as_str()));
        }
    }
}

/// An object that is named and not there.
fn unknown<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Complaint {
    let complaint = Complaint::new(format!("there is no {kind} `{name}`"));
    let expected = match known.clone().count() {
        0 => format!("a {kind} of this name in the same manifests, and there is none at all"),
        1 => format!("`{}`, the only {kind}", known.clone().next().unwrap_or_default()),
        _ => one_of(known.clone()),
    };
    complaint.expected(expected).nearest(nearest(name, known))
}
