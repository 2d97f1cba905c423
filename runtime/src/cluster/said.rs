//! What a worker knows to say of itself, beside what its job counts.

use millrace_engine::{
    blame::{Blame, Part},
    status::{JobEvent, JobPhase},
};
use millrace_plan::{
    ResolvedSpec,
    handover::{CheckpointSaid, EditResult, EditSaid, Problem, ProblemOf, RunPhase, SavepointSaid, StartSaid},
};
use millrace_stream::{Epoch, Revision, Timestamp};

/// What a worker has to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// The phase while no job runs; `None`: the job's.
    pub idle: Option<RunPhase>,
    /// The revision that runs or is being started.
    pub revision: Option<Revision>,
    /// The plans that may run by now, the newest first, as far as they are short enough to be reported.
    pub plans: Vec<(Revision, ResolvedSpec)>,
    /// How often a job has begun to run, so that it is news also when nothing else is.
    pub runs: u64,
    /// The newest checkpoint when the job was started.
    pub found: Option<CheckpointSaid>,
    /// The last checkpoint that was completed, by this process or before it.
    pub newest: Option<Epoch>,
    /// Checkpoints that failed since the last one was completed.
    pub checkpoint_failures: u32,
    /// Why the last of them did, or why the one that is to be decided cannot be.
    pub checkpoint_error: Option<String>,
    /// What is wrong with what runs.
    pub problem: Option<Problem>,
    /// The revision that is wanted; `None`: there is no plan, or none any more.
    pub wanted: Option<Revision>,
    /// What is wrong with the wanted plan.
    pub plan_problem: Option<Problem>,
    /// What came of the last edit.
    pub edit: Option<EditSaid>,
    /// What came of the last savepoint.
    pub savepoint: Option<SavepointSaid>,
    /// The token of the last savepoint that was wished for; that of a suspension has none.
    pub savepoint_token: Option<String>,
    /// What came of the last start wish.
    pub started: Option<StartSaid>,
}

impl Said {
    /// The phase, if the job is in this one.
    pub fn phase(&self, job: JobPhase) -> RunPhase {
        self.idle.unwrap_or(match job {
            JobPhase::Starting => RunPhase::Starting,
            JobPhase::Running => RunPhase::Running,
            // What follows a failure is decided a moment later.
            JobPhase::Restarting | JobPhase::Failed => RunPhase::Restarting,
            JobPhase::Stopping | JobPhase::Stopped => RunPhase::Stopping,
            JobPhase::Finished => RunPhase::Finished,
        })
    }

    /// Takes note of a plan that may come to run. Not of one that is so long that nothing else could be reported any more.
    pub fn may_run(&mut self, revision: &Revision, spec: ResolvedSpec) {
        // The one that runs, the one of the newest checkpoint, and an edit.
        const MOST: usize = 3;
        const MOST_BYTES: usize = 256 << 10;
        if !serde_json::to_vec(&spec).is_ok_and(|text| text.len() <= MOST_BYTES) {
            return;
        }
        self.plans.retain(|(known, _)| known != revision);
        self.plans.insert(0, (revision.clone(), spec));
        self.plans.truncate(MOST);
    }

    /// The plan that runs where the one that was asked for last does not, or is gone: whoever asks may not know it, as of a pipeline
    /// that was made anew.
    pub fn runs_instead(&self) -> Option<ResolvedSpec> {
        let revision = self.revision.as_ref()?;
        let is_rejected = |wanted: &Revision| {
            let edit = self.edit.as_ref().filter(|edit| edit.result != EditResult::TakenUp);
            wanted != revision && edit.is_some_and(|edit| edit.to == *wanted)
        };
        if !self.wanted.as_ref().is_none_or(is_rejected) {
            return None;
        }
        self.plans.iter().find(|(known, _)| known == revision).map(|(_, spec)| spec.clone())
    }

    /// Takes in what happened to the job.
    pub fn on(&mut self, event: &JobEvent, now: Timestamp) {
        match event {
            JobEvent::Running { revision, .. } => {
                self.revision = Some(revision.clone());
                self.runs += 1;
            }
            JobEvent::CheckpointCompleted(checkpoint) => {
                self.newest = Some(checkpoint.epoch);
                (self.checkpoint_failures, self.checkpoint_error) = (0, None);
                // The tasks have come through it. A sink that does not commit is another matter.
                self.problem.take_if(|problem| problem.of != ProblemOf::Sink);
            }
            JobEvent::CheckpointFailed { reason, .. } => {
                self.checkpoint_failures += 1;
                self.checkpoint_error = Some(reason.clone());
            }
            JobEvent::CheckpointHeldUp { error, .. } => self.checkpoint_error = Some(error.clone()),
            JobEvent::Committed { .. } => self.problem = None,
            JobEvent::CommitFailed { error, blame, .. } | JobEvent::Restarting { error, blame, .. } => {
                self.fails(blame, error.clone(), now);
            }
            JobEvent::Edited { from, to } => {
                self.revision = Some(to.clone());
                let (from, to) = (from.clone(), to.clone());
                self.edit = Some(EditSaid {
                    from,
                    to,
                    result: EditResult::TakenUp,
                    since: self.newest,
                    message: None,
                    at: now,
                });
            }
            // The event goes from the plan that failed to the one before; an edit goes the other way.
            JobEvent::RolledBack { from: failed, to: before, error, .. } => {
                self.revision = Some(before.clone());
                self.problem = None;
                self.edit = Some(EditSaid {
                    from: before.clone(),
                    to: failed.clone(),
                    result: EditResult::RolledBack,
                    since: self.newest,
                    message: Some(error.clone()),
                    at: now,
                });
            }
        }
    }

    /// Something of what runs has failed.
    pub fn fails(&mut self, blame: &Blame, message: String, now: Timestamp) {
        let (of, node) = (problem_of(blame.part), blame.node.as_ref().map(|node| node.0.clone()));
        let since = match &self.problem {
            Some(known) if known.of == of && known.node == node => known.since,
            _ => now,
        };
        self.problem = Some(Problem { of, node, message, since });
    }
}

fn problem_of(part: Part) -> ProblemOf {
    match part {
        Part::Source => ProblemOf::Source,
        Part::Sink => ProblemOf::Sink,
        Part::Checkpoint => ProblemOf::Checkpoint,
        Part::Plan => ProblemOf::Plan,
        Part::Runtime => ProblemOf::Runtime,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use millrace_engine::status::CheckpointReport;
    use millrace_stream::BarrierKind;
    use serde_json::json;

    use super::*;

    fn revision(name: &str) -> Revision {
        Revision(name.to_owned())
    }

    fn blame(part: Part) -> Blame {
        Blame { part, node: Some("rows".into()) }
    }

    fn restarting(part: Part) -> JobEvent {
        let wait = std::time::Duration::from_millis(500);
        JobEvent::Restarting { error: "no such file".to_owned(), blame: blame(part), attempt: 1, wait }
    }

    #[test]
    fn a_rolled_back_edit_is_told_from_the_plan_that_runs_to_the_one_that_does_not() {
        let mut said = Said::default();
        said.on(&JobEvent::Edited { from: revision("a"), to: revision("b") }, Timestamp(1));
        assert_eq!(said.revision, Some(revision("b")));
        let rolled_back = JobEvent::RolledBack {
            from: revision("b"),
            to: revision("a"),
            error: "no such file".to_owned(),
            blame: blame(Part::Sink),
        };
        said.on(&rolled_back, Timestamp(2));
        let edit = said.edit.unwrap();
        assert_eq!((edit.from, edit.to, edit.result), (revision("a"), revision("b"), EditResult::RolledBack));
        assert_eq!((said.revision, edit.message.as_deref()), (Some(revision("a")), Some("no such file")));
    }

    #[test]
    fn a_plan_is_told_while_it_runs_in_the_place_of_the_one_that_is_wanted_or_of_none() {
        let spec = |name: &str| -> ResolvedSpec {
            let pipeline = json!({"sources": [], "outputs": []});
            serde_json::from_value(json!({"name": name, "pipeline": pipeline, "windows": {}, "sinks": {}})).unwrap()
        };
        let edit = |to: &str, result| EditSaid {
            from: revision("a"),
            to: revision(to),
            result,
            since: None,
            message: None,
            at: Timestamp(0),
        };
        let mut said = Said { revision: Some(revision("a")), wanted: Some(revision("a")), ..Said::default() };
        said.may_run(&revision("a"), spec("a"));
        said.may_run(&revision("b"), spec("b"));
        assert_eq!(said.runs_instead(), None);
        said.wanted = Some(revision("b"));
        assert_eq!(said.runs_instead(), None, "it may be taken up yet");
        said.edit = Some(edit("b", EditResult::Refused));
        assert_eq!(said.runs_instead(), Some(spec("a")));
        said.wanted = Some(revision("a"));
        assert_eq!(said.runs_instead(), None, "the operator knows");
        (said.revision, said.wanted) = (Some(revision("b")), None);
        assert_eq!(said.runs_instead(), Some(spec("b")));
    }

    #[test]
    fn a_problem_stands_since_it_began_until_a_checkpoint_shows_that_it_is_over() {
        let mut said = Said::default();
        said.on(&restarting(Part::Source), Timestamp(1));
        said.on(&JobEvent::Running { restored: None, revision: revision("a") }, Timestamp(2));
        said.on(&restarting(Part::Source), Timestamp(3));
        assert_eq!(said.problem.as_ref().unwrap().since, Timestamp(1), "that it ran for a moment shows nothing");
        said.on(&JobEvent::Committed { epoch: Epoch(1), rows: 0 }, Timestamp(4));
        assert_eq!(said.problem, None);
    }

    #[test]
    fn that_a_job_runs_is_news_also_when_it_runs_the_same_as_before() {
        let mut said = Said { revision: Some(revision("a")), ..Said::default() };
        let before = said.clone();
        said.on(&JobEvent::Running { restored: None, revision: revision("a") }, Timestamp(1));
        assert_ne!(said, before);
    }

    #[test]
    fn failures_of_checkpoints_are_counted_since_the_last_completed_one() {
        let mut said = Said::default();
        for epoch in 1..=2 {
            let failed = JobEvent::CheckpointFailed { epoch: Epoch(epoch), reason: "too slow".to_owned() };
            said.on(&failed, Timestamp(epoch));
        }
        assert_eq!((said.checkpoint_failures, said.checkpoint_error.as_deref()), (2, Some("too slow")));
    }

    #[test]
    fn a_checkpoint_that_waits_for_its_pointer_is_told_until_it_is_decided() {
        let mut said = Said::default();
        said.on(&JobEvent::CheckpointHeldUp { epoch: Epoch(3), error: "it is gone".to_owned() }, Timestamp(1));
        assert_eq!((said.checkpoint_failures, said.checkpoint_error.as_deref()), (0, Some("it is gone")));
        let checkpoint = CheckpointReport {
            epoch: Epoch(3),
            kind: BarrierKind::Checkpoint,
            completed_at: Timestamp(2),
            duration: std::time::Duration::ZERO,
            size_bytes: 0,
            uploaded_bytes: 0,
        };
        said.on(&JobEvent::CheckpointCompleted(checkpoint), Timestamp(2));
        assert_eq!(said.checkpoint_error, None);
    }

    #[test]
    fn a_job_that_has_just_failed_is_not_given_up_yet() {
        assert_eq!(Said::default().phase(JobPhase::Failed), RunPhase::Restarting);
        let failed = Said { idle: Some(RunPhase::Failed), ..Said::default() };
        assert_eq!(failed.phase(JobPhase::Failed), RunPhase::Failed);
    }
}
