//! Whose a failure is, for those who show it beside a source or a sink.

use millrace_stream::NodeName;
use serde::Serialize;

use crate::{JobError, task::TaskError};

/// Whose a failure is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blame {
    /// The part of the pipeline.
    pub part: Part,
    /// The source, transform or sink, if it is one's.
    pub node: Option<NodeName>,
}

/// A part of a pipeline that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Part {
    /// A source.
    Source,
    /// A sink.
    Sink,
    /// State, a checkpoint, or where these are kept.
    Checkpoint,
    /// What the pipeline is to do.
    Plan,
    /// Anything else.
    Runtime,
}

impl Blame {
    /// Whose this failure is.
    pub fn of(error: &JobError) -> Self {
        let (part, node) = match error {
            JobError::Source { node, .. } | JobError::Move { node, .. } => (Part::Source, Some(node.clone())),
            JobError::Sink { node, .. } => (Part::Sink, Some(node.clone())),
            JobError::Commit(error) => (Part::Sink, Some(error.node.clone())),
            JobError::Operator { node, .. } => (Part::Runtime, Some(node.clone())),
            JobError::Task { task, source } => (of_task(source), node_of(task)),
            JobError::State(_) | JobError::Refused(_) | JobError::CheckpointsGone { .. } | JobError::Behind { .. } => {
                (Part::Checkpoint, None)
            }
            JobError::EditRefused(_)
            | JobError::StoredPlan { .. }
            | JobError::OtherPipeline { .. }
            | JobError::StorageMoved { .. }
            | JobError::NoSavepoint { .. } => (Part::Plan, None),
            JobError::SteppedDown { .. } | JobError::Halted { .. } | JobError::Failed(_) => (Part::Runtime, None),
        };
        Self { part, node }
    }
}

fn of_task(error: &TaskError) -> Part {
    match error {
        TaskError::Source(_) | TaskError::EventTime { .. } => Part::Source,
        TaskError::Sink(_) => Part::Sink,
        TaskError::State(_) => Part::Checkpoint,
        TaskError::Route(_)
        | TaskError::Operator(_)
        | TaskError::Batch(_)
        | TaskError::Neighbour
        | TaskError::Panicked(_) => Part::Runtime,
    }
}

/// A task is called `<stage>[<index>]`, and a stage by its node, with a suffix for stages after a node's first.
fn node_of(task: &str) -> Option<NodeName> {
    let stage = task.rsplit_once('[').map_or(task, |(stage, _)| stage);
    // A sink's name holds an arrow, and the dots before it are its input's.
    let node = if stage.contains("->") { stage } else { stage.split('.').next().unwrap_or(stage) };
    (!node.is_empty()).then(|| NodeName::from(node))
}

#[cfg(test)]
mod tests {
    use millrace_stream::Generation;

    use super::*;

    #[test]
    fn a_task_is_named_after_its_node() {
        let node = |task: &str| node_of(task).map(|node| node.0);
        assert_eq!(node("requests[0]").as_deref(), Some("requests"));
        assert_eq!(node("by_tenant.top[3]").as_deref(), Some("by_tenant"));
        assert_eq!(node("by_tenant.late->rows[1]").as_deref(), Some("by_tenant.late->rows"));
    }

    #[test]
    fn a_failed_task_is_blamed_on_what_failed_in_it() {
        let error = JobError::Task {
            task: "requests[0]".to_owned(),
            source: TaskError::EventTime {
                place: "a.ndjson at byte 0".to_owned(),
                reason: "there is no event time".to_owned(),
                row: "{}".to_owned(),
                more: 0,
            },
        };
        assert_eq!(Blame::of(&error), Blame { part: Part::Source, node: Some("requests".into()) });
        assert_eq!(Blame::of(&JobError::SteppedDown { by: Generation(2) }).part, Part::Runtime);
    }
}
