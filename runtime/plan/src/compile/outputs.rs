//! The sink nodes: which output each takes, and whether its sink can take that.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use millrace_crds::{OnError, SideOutput, SourceSpec, TransformSpec};
use millrace_stream::NodeName;

use super::{Compiler, Work};
use crate::{
    checks,
    columns::errors_schema,
    error::{Fault, PlanError},
    graph::{Input, Node, NodeKind, OutputName, SinkNode},
};

impl<'a> Compiler<'a> {
    /// The sink nodes.
    pub(super) fn outputs(&mut self, works: &[Work<'a>]) -> Vec<Node> {
        let pipeline = &self.spec.pipeline;
        let knows_names = self.doubts.knows_names(pipeline);
        let mut nodes: Vec<(usize, Node)> = Vec::new();
        let outputs = pipeline.outputs.iter().enumerate().filter(|(number, _)| !self.doubts.is_in_output(*number));
        for (number, output) in outputs {
            let path = format!("spec.outputs[{number}]");
            let Some((name, side)) = output.node_and_output() else {
                let fault = Fault::new(format!("`{}` is no output", output.from))
                    .offending(&output.from)
                    .expected("the name of a source or transform, with `.late` or `.errors` after it or nothing");
                self.refuse(format!("{path}.from"), fault);
                continue;
            };
            let source = pipeline.sources.iter().find(|source| source.name == name);
            let transform = pipeline.transforms.iter().find(|transform| transform.name == name);
            if source.is_none() && transform.is_none() {
                if !knows_names {
                    continue;
                }
                let names = pipeline.sources.iter().map(|s| s.name.as_str());
                let names = names.chain(pipeline.transforms.iter().map(|t| t.name.as_str()));
                let fault = Fault::new(format!("there is no source or transform `{name}`"))
                    .offending(name)
                    .among("one of", name, names);
                self.refuse(format!("{path}.from"), fault);
                continue;
            }
            let node_name = NodeName(format!("{}->{}", output.from, output.sink));
            if nodes.iter().any(|(_, node)| node.name == node_name) {
                let fault = Fault::new(format!("`{}` goes to the Sink `{}` twice", output.from, output.sink))
                    .offending(&output.from)
                    .expected("each output once");
                self.refuse(path, fault);
                continue;
            }
            let taken = match self.side_output(works, name, side, source, transform) {
                Ok(taken) => taken,
                Err(fault) => {
                    self.refuse(format!("{path}.from"), fault);
                    continue;
                }
            };
            let (Some((schema, changelog, which)), Some(spec)) = (taken, self.spec.sinks.get(&output.sink)) else {
                continue;
            };
            if self.unsure.contains(name) || self.doubts.sinks.contains(&output.sink) {
                continue;
            }
            let found = checks::sink(spec, &schema, changelog.is_some(), &output.sink, &output.from);
            let errors = found
                .into_iter()
                .map(|(field, fault, sink)| PlanError { sink, ..fault.in_field(format!("{path}.{field}")) });
            self.errors.extend(errors);
            let input = Input { node: NodeName::from(name), output: which };
            let node = SinkNode { input, sink: output.sink.clone(), spec: spec.clone(), schema, changelog };
            nodes.push((number, Node { name: node_name, kind: NodeKind::Sink(node) }));
        }
        self.shared_destinations(&nodes);
        self.own_results(&nodes);
        nodes.into_iter().map(|(_, node)| node).collect()
    }

    /// The columns (without marks), keys and name of what an output takes; `None` if the node could not be understood.
    #[allow(clippy::type_complexity)]
    fn side_output(
        &self,
        works: &[Work<'a>],
        name: &str,
        side: Option<SideOutput>,
        source: Option<&SourceSpec>,
        transform: Option<&TransformSpec>,
    ) -> Result<Option<(SchemaRef, Option<Vec<usize>>, OutputName)>, Fault> {
        let from = format!("{name}.{}", side.map_or("", SideOutput::name));
        match side {
            None => {
                let Some(table) = self.tables.get(name) else { return Ok(None) };
                let marks = 1 + usize::from(table.changelog.is_some());
                let keys = table.changelog.as_ref().map(|keys| keys.iter().map(|key| key - marks).collect());
                Ok(Some((without_marks(&table.schema, marks), keys, OutputName::Main)))
            }
            Some(SideOutput::Errors) => match source {
                None => Err(Fault::new(format!("`{from}`: only sources have rows that cannot be decoded"))
                    .offending(from)
                    .expected("`.errors` of a source")),
                // It may say so in a field that could not be read.
                Some(source) if self.is_doubtful(source) => Ok(None),
                Some(source) if source.on_error != OnError::DeadLetter => {
                    Err(Fault::new(format!("the source `{name}` keeps no bad rows"))
                        .offending(from)
                        .expected("`onError: DeadLetter` at the source"))
                }
                Some(_) => Ok(Some((without_marks(&errors_schema(), 1), None, OutputName::Errors))),
            },
            Some(SideOutput::Late) => {
                let Some(transform) = transform else {
                    return Err(Fault::new(format!("`{from}`: a source has no late rows"))
                        .offending(from)
                        .expected("`.late` of a transform with a `window`, or with DISTINCT and `within`"));
                };
                if works.iter().any(|work| work.spec.name == name && !work.sure) {
                    return Ok(None);
                }
                match transform.window.as_ref().map(|window| (window, self.spec.windows.get(window))) {
                    None if transform.within.is_none() => {
                        let why =
                            format!("the transform `{name}` has neither a window nor `within`, so no row is late");
                        return Err(Fault::new(why)
                            .offending(from)
                            .expected("`.late` of a transform with a `window`, or with DISTINCT and `within`"));
                    }
                    Some((window, Some(spec))) if spec.late_rows != millrace_crds::LateRows::SideOutput => {
                        return Err(Fault::new(format!("the Window `{window}` drops late rows"))
                            .offending(from)
                            .expected("`lateRows: SideOutput` in the Window"));
                    }
                    _ => {}
                }
                let work = works.iter().find(|work| work.spec.name == name);
                let Some(lowered) = work.and_then(|work| work.lowered.as_ref()) else { return Ok(None) };
                match &lowered.late {
                    Some(late) => Ok(Some((without_marks(late, 1), None, OutputName::Late))),
                    None => {
                        Err(Fault::new(format!("the transform `{name}` has no late rows")).offending(from).expected(
                            "`.late` of a transform that groups under its window, or with DISTINCT and `within`",
                        ))
                    }
                }
            }
        }
    }
}

impl Compiler<'_> {
    fn is_doubtful(&self, source: &SourceSpec) -> bool {
        let number = self.spec.pipeline.sources.iter().position(|other| other.name == source.name);
        number.is_some_and(|number| self.doubts.is_in_source(number))
    }
}

fn without_marks(schema: &SchemaRef, marks: usize) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().skip(marks).cloned().collect::<Vec<_>>()))
}
