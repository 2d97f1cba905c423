//! What holds between the fields of an object, and between objects, and needs no SQL to be checked.

mod pipeline;
mod sink;
mod source;
mod window;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Manifests,
    located::Located,
    object::Kind,
    problem::{Complaint, Problem},
};

/// The names of all objects, of those too that could not be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    names: BTreeMap<(Kind, String), BTreeSet<String>>,
}

impl Known {
    pub fn add(&mut self, kind: Kind, namespace: &str, name: &str) {
        self.names.entry((kind, namespace.to_owned())).or_default().insert(name.to_owned());
    }

    pub fn of(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &str> + Clone {
        self.names.get(&(kind, namespace.to_owned())).into_iter().flatten().map(String::as_str)
    }
}

/// What is wrong with an object, before it is placed.
#[derive(Default)]
struct Findings(Vec<(String, Complaint)>);

impl Findings {
    fn add(&mut self, path: impl Into<String>, complaint: Complaint) {
        self.0.push((path.into(), complaint));
    }
}

/// Checks all objects, and notes which of them name one that is not whole.
pub(crate) fn objects(manifests: &mut Manifests, known: &Known, problems: &mut Vec<Problem>) {
    // What could not be read has been told about; what stands in for it is not to be told about too.
    let mut tell =
        |object: &dyn Fn(&str, Complaint) -> Problem, broken: &BTreeSet<String>, findings: Findings| -> bool {
            let mut is_whole = true;
            for (path, complaint) in findings.0.into_iter().filter(|(path, _)| !broken.contains(path)) {
                let problem = object(&path, complaint);
                is_whole &= !problem.is_error();
                problems.push(problem);
            }
            is_whole
        };
    for window in &mut manifests.windows {
        let mut findings = Findings::default();
        window::check(&window.value.spec, &mut findings);
        window.is_whole &= tell(&|path, complaint| window.problem(path, complaint), &window.broken, findings);
    }
    for sink in &mut manifests.sinks {
        let mut findings = Findings::default();
        sink::check(&sink.value.spec, &mut findings);
        sink.is_whole &= tell(&|path, complaint| sink.problem(path, complaint), &sink.broken, findings);
    }
    let Manifests { pipelines, windows, sinks, .. } = manifests;
    for pipeline in pipelines {
        let mut findings = Findings::default();
        let others = pipeline::Others { known, windows, namespace: pipeline.namespace(), broken: &pipeline.broken };
        pipeline::check(&pipeline.value.spec, &others, &mut findings);
        let spec = &pipeline.value.spec;
        let windows_are_whole = spec
            .transforms
            .iter()
            .filter_map(|transform| transform.window.as_deref())
            .all(|name| find(windows, pipeline.namespace(), name).is_some_and(|window| window.is_whole));
        let sinks_are_whole = spec
            .outputs
            .iter()
            .all(|output| find(sinks, pipeline.namespace(), &output.sink).is_none_or(|sink| sink.is_whole));
        let is_sound = tell(&|path, complaint| pipeline.problem(path, complaint), &pipeline.broken, findings);
        pipeline.is_whole &= windows_are_whole && sinks_are_whole && is_sound;
    }
}

/// The object of a name.
pub(super) fn find<'a, T: kube::Resource>(
    objects: &'a [Located<T>],
    namespace: &str,
    name: &str,
) -> Option<&'a Located<T>> {
    objects.iter().find(|object| object.name() == name && object.namespace() == namespace)
}
