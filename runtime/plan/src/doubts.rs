//! What of a pipeline could not be read as it was written, so that what follows from the rest can still be told, and nothing
//! is told that only follows from what stands in for the unreadable.

use std::collections::BTreeSet;

use millrace_crds::{PipelineSpec, SourceSpec};

/// The parts of a pipeline whose values are left out or stood in for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    /// Fields of the pipeline, such as `spec.sources[0].columns[1].type`.
    pub fields: BTreeSet<String>,
    /// Windows that are there and could not be read.
    pub windows: BTreeSet<String>,
    /// Sinks that are there and could not be read.
    pub sinks: BTreeSet<String>,
}

/// What is not known of a source's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnDoubt {
    /// Which there are.
    Names,
    /// The types of some.
    Types,
}

impl Doubts {
    /// Whether everything is as it was written.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether every source and transform has the name that it was given.
    pub(crate) fn knows_names(&self, pipeline: &PipelineSpec) -> bool {
        let lists = ["spec", "spec.sources", "spec.transforms"];
        let sources = pipeline.sources.iter().map(|source| &source.name);
        let mut names = sources.chain(pipeline.transforms.iter().map(|transform| &transform.name));
        !lists.iter().any(|list| self.fields.contains(*list)) && names.all(|name| !name.is_empty())
    }

    /// What is not known of a source's columns.
    pub(crate) fn of_columns(&self, number: usize, spec: &SourceSpec) -> Option<ColumnDoubt> {
        if spec.declared_columns().is_empty() {
            return self.is_in_source(number).then_some(ColumnDoubt::Names);
        }
        let mut doubt = None;
        for field in self.in_entry("sources", number) {
            let is_type = field.starts_with("columns[") && field.ends_with("].type");
            let makes_rows = field.starts_with("generator")
                && !["generator.seed", "generator.rows", "generator.rate"].contains(&field);
            if is_type {
                doubt = doubt.or(Some(ColumnDoubt::Types));
            } else if field.starts_with("columns") || makes_rows {
                return Some(ColumnDoubt::Names);
            }
        }
        doubt
    }

    /// Whether a column's type could not be read.
    pub(crate) fn is_type_of(&self, source: usize, column: usize) -> bool {
        self.fields.contains(&format!("spec.sources[{source}].columns[{column}].type"))
    }

    /// Whether it could not be read which column has a source's event time.
    pub(crate) fn is_event_time_of(&self, number: usize) -> bool {
        self.in_entry("sources", number).any(|field| ["eventTime", "eventTime.column"].contains(&field))
    }

    /// Whether anything of a source could not be read.
    pub(crate) fn is_in_source(&self, number: usize) -> bool {
        self.in_entry("sources", number).next().is_some()
    }

    /// Whether a transform's SQL could not be read.
    pub(crate) fn is_sql(&self, number: usize) -> bool {
        self.in_entry("transforms", number).any(|field| field == "sql" || field.is_empty())
    }

    /// Whether it is not known what a transform says beside its SQL.
    pub(crate) fn is_beside_sql(&self, number: usize) -> bool {
        // What has a bad length is there all the same.
        self.in_entry("transforms", number).any(|field| !["name", "sql", "within", "emitEvery"].contains(&field))
    }

    /// Whether anything of an output could not be read.
    pub(crate) fn is_in_output(&self, number: usize) -> bool {
        self.in_entry("outputs", number).next().is_some()
    }

    /// The unreadable fields of an entry of a list; empty for the entry itself.
    fn in_entry(&self, list: &str, number: usize) -> impl Iterator<Item = &str> {
        let entry = format!("spec.{list}[{number}]");
        self.fields.iter().filter_map(move |field| {
            let rest = field.strip_prefix(&entry)?;
            if rest.is_empty() {
                Some(rest)
            } else {
                rest.strip_prefix('.').or_else(|| rest.starts_with('[').then_some(rest))
            }
        })
    }
}
