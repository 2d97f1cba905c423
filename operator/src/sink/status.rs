//! A Sink's status, from its spec and from what the Pipelines that use it report.

use millrace_crds::{CommitStatus, Sink, SinkErrorStatus, SinkStatus};
use millrace_plan::handover::{NodeSaid, Problem, ProblemOf, ReportDocument};
use millrace_stream::{Epoch, Timestamp};

use crate::{
    clock::time,
    cluster::{raw::Raw, writer::shorten},
    conditions::{Reason, Say, Type, conditions},
};

/// The status. `says` is what there is to say whatever the Pipelines that use it report; `reports` are those, by name.
pub(super) fn status(
    sink: &Raw<Sink>,
    mut says: Vec<Say>,
    reports: &[(&str, Option<ReportDocument>)],
    before: &SinkStatus,
    now: Timestamp,
) -> SinkStatus {
    let name = sink.name();
    let failing = reports.iter().find_map(|(pipeline, report)| Some((*pipeline, problem(report.as_ref()?, name)?)));
    if let (Some((pipeline, problem)), Some(ready)) = (failing, says.iter_mut().find(|say| say.of == Type::Ready))
        && ready.status == Some(true)
    {
        *ready = Say::new(Type::Ready, false, Reason::SinkFailed, format!("Pipeline {pipeline}: {}", problem.message));
    }
    let last_error = failing.map(|(pipeline, problem)| SinkErrorStatus {
        pipeline: pipeline.to_owned(),
        message: shorten(&problem.message, 1_000),
        at: time(problem.since),
    });
    let commits = reports.iter().filter_map(|(pipeline, report)| commit(pipeline, report.as_ref()?, name, before));
    SinkStatus {
        observed_generation: Some(sink.generation()),
        used_by: reports.iter().map(|(pipeline, _)| (*pipeline).to_owned()).collect(),
        committed: commits.max_by_key(|commit| commit.at.clone()).or_else(|| before.committed.clone()),
        last_error: last_error.or_else(|| before.last_error.clone()),
        conditions: conditions(&before.conditions, says, sink.generation(), &time(now)),
    }
}

/// The status without what changes with every checkpoint.
pub(super) fn without_numbers(status: &SinkStatus) -> SinkStatus {
    let committed = status.committed.clone();
    let committed = committed.map(|_| CommitStatus { pipeline: String::new(), epoch: 0, at: None });
    SinkStatus { committed, ..status.clone() }
}

/// What a Pipeline has with this Sink.
fn problem<'a>(report: &'a ReportDocument, sink: &str) -> Option<&'a Problem> {
    let problem = report.problem.as_ref()?;
    let is_about = problem.node.as_deref().is_some_and(|node| is_of(node, sink));
    (problem.of == ProblemOf::Sink && is_about).then_some(problem)
}

/// What a Pipeline has committed to this Sink last: the least of its outputs, if several go there. One that an edit has brought
/// has committed nothing until it says so.
fn commit(pipeline: &str, report: &ReportDocument, sink: &str, before: &SinkStatus) -> Option<CommitStatus> {
    let outputs = report.nodes.iter().filter(|node| node.kind == "sink" && is_of(&node.name, sink));
    let epoch: Epoch = outputs.map(|node: &NodeSaid| node.committed).min()??;
    let known = before.committed.as_ref().filter(|known| known.pipeline == pipeline && known.epoch == epoch.0);
    let decided = report.checkpoint.as_ref().filter(|checkpoint| checkpoint.epoch == epoch);
    let at =
        decided.map(|checkpoint| time(checkpoint.completed_at)).or_else(|| known.and_then(|known| known.at.clone()));
    Some(CommitStatus { pipeline: pipeline.to_owned(), epoch: epoch.0, at })
}

/// Whether a node of a plan, `<from>-><sink>`, writes to this Sink.
fn is_of(node: &str, sink: &str) -> bool {
    node.rsplit_once("->").is_some_and(|(_, to)| to == sink) || node == sink
}

#[cfg(test)]
mod tests {
    use millrace_plan::handover::{CheckpointSaid, RunPhase};
    use serde_json::json;

    use super::*;
    use crate::named::config;

    fn sink() -> Raw<Sink> {
        serde_json::from_value(json!({"metadata": {"name": "lake", "namespace": "default", "generation": 2}})).unwrap()
    }

    fn report(committed: u64, problem: Option<&str>) -> ReportDocument {
        let node = |name: &str, epoch| NodeSaid {
            name: name.to_owned(),
            kind: "sink".to_owned(),
            committed: Some(Epoch(epoch)),
            ..NodeSaid::default()
        };
        ReportDocument {
            version: 1,
            pod: "web-0".to_owned(),
            pod_uid: None,
            pipeline_uid: None,
            generation: None,
            phase: RunPhase::Running,
            revision: None,
            runs: None,
            restored_from: None,
            checkpoint: Some(CheckpointSaid {
                epoch: Epoch(committed),
                completed_at: Timestamp(60_000),
                duration_ms: 5,
                size_bytes: 1,
            }),
            checkpoint_failures: 0,
            checkpoint_error: None,
            problem: problem.map(|message| Problem {
                of: ProblemOf::Sink,
                node: Some("rows->lake".to_owned()),
                message: message.to_owned(),
                since: Timestamp(30_000),
            }),
            edit: None,
            savepoint: None,
            started: None,
            restarts: 0,
            nodes: vec![node("rows->lake", committed), node("rows->other", committed + 5)],
            at: Timestamp(60_000),
        }
    }

    #[test]
    fn a_sink_says_what_was_committed_and_keeps_its_last_error_when_it_is_over() {
        let failing = [("web", Some(report(7, Some("disk full"))))];
        let first = status(&sink(), config(None), &failing, &SinkStatus::default(), Timestamp(61_000));
        let ready = &first.conditions[0];
        assert_eq!((ready.status.as_str(), ready.message.as_str()), ("False", "Pipeline web: disk full"));
        assert_eq!(first.committed.as_ref().map(|commit| commit.epoch), Some(7));
        let second = status(&sink(), config(None), &[("web", Some(report(8, None)))], &first, Timestamp(62_000));
        assert_eq!(second.conditions[0].status, "True");
        assert_eq!(second.last_error.map(|error| error.message).as_deref(), Some("disk full"));
        assert_eq!(second.used_by, ["web"]);
    }

    #[test]
    fn a_sink_that_an_edit_has_just_brought_claims_nothing_of_the_plan_before() {
        let mut report = report(48, None);
        for node in &mut report.nodes {
            node.committed = node.committed.filter(|_| node.name != "rows->lake");
        }
        let said =
            status(&sink(), config(None), &[("web", Some(report.clone()))], &SinkStatus::default(), Timestamp(61_000));
        assert_eq!(said.committed, None);
        // The edit is taken back.
        report.nodes.retain(|node| node.name != "rows->lake");
        let said = status(&sink(), config(None), &[("web", Some(report))], &said, Timestamp(62_000));
        assert_eq!(said.committed, None);
    }

    #[test]
    fn another_epoch_alone_is_a_number() {
        let one =
            status(&sink(), config(None), &[("web", Some(report(7, None)))], &SinkStatus::default(), Timestamp(61_000));
        let other = status(&sink(), config(None), &[("web", Some(report(8, None)))], &one, Timestamp(61_000));
        assert_ne!(one, other);
        assert_eq!(without_numbers(&one), without_numbers(&other));
    }
}
