//! What the worker says of what it does, for the report.

use millrace_engine::{chain, status::JobPhase};
use millrace_plan::handover::{
    EditResult, EditSaid, PlanDocument, Problem, ProblemOf, RunPhase, SavepointSaid, StartSaid, StartWish,
};
use millrace_stream::{Epoch, Revision};

use super::Worker;
use crate::cluster::{plan_watch::Wanted, pointer::ConfigMapPointer, start::Found};

impl Worker {
    pub(super) fn reject(&mut self, wanted: &PlanDocument, found: &Found, result: EditResult, why: String) {
        self.rejected = Some(wanted.revision.clone());
        self.failed = 0;
        self.tell_edit(found.revision().cloned(), &wanted.revision, result, why);
    }

    pub(super) fn refuse(&self, from: Option<Revision>, wanted: &PlanDocument, why: String) {
        tracing::warn!(%why, "edit refused, the running plan stays");
        self.tell_edit(from, &wanted.revision, EditResult::Refused, why);
    }

    pub(super) fn tell_edit(&self, from: Option<Revision>, to: &Revision, result: EditResult, why: String) {
        let (at, to) = (self.instruments.clock.now(), to.clone());
        let Some(from) = from else { return };
        self.board
            .update(|said| said.edit = Some(EditSaid { from, to, result, since: said.newest, message: Some(why), at }));
    }

    pub(super) async fn drop_wish(&self, wish: &StartWish, why: String) {
        tracing::warn!(%why, "the pipeline cannot start as asked; it goes on from its last checkpoint");
        // Else whoever comes when the report is gone, as after the Pipeline was deleted, would do as it says.
        let pointer = ConfigMapPointer::new(&self.cluster, &self.claimant, None, self.tenure());
        if let Err(error) = pointer.note_refusal(&wish.token, &why).await {
            tracing::warn!(error = %chain(&error), "that the start wish was refused could not be noted for later");
        }
        let started = StartSaid { token: wish.token.clone(), epoch: None, error: Some(why) };
        self.board.update(|said| said.started = Some(started));
    }

    /// Once the job that began with a wish runs, the wish has acted.
    pub(super) fn tell_started(&self, wish: Option<&StartWish>) {
        let state = self.instruments.status.get();
        let Some(wish) = wish.filter(|_| state.phase == JobPhase::Running) else { return };
        self.tell_answered(wish, state.restored_from, None);
    }

    /// A wish has acted, whether its job still runs or not: the operator waits for this.
    pub(super) fn tell_answered(&self, wish: &StartWish, epoch: Option<Epoch>, error: Option<String>) {
        let is_told = self.board.get().started.is_some_and(|started| started.token == wish.token);
        if !is_told {
            let started = StartSaid { token: wish.token.clone(), epoch, error };
            self.board.update(|said| said.started = Some(started));
        }
    }

    /// A plan that runs from another one's checkpoint is an edit that was taken up.
    pub(super) fn tell_taken_up(&self, found: &Found) {
        let state = self.instruments.status.get();
        let (Some(from), Some(to)) = (found.revision(), state.revision) else { return };
        let is_running = state.phase == JobPhase::Running;
        // What came after the start is told by the job.
        let is_told = from == &to
            || self.last_checkpoint() > found.newest.as_ref().map(|newest| newest.epoch)
            || self.board.get().edit.is_some_and(|edit| edit.to == to || edit.from == to);
        if is_running && !is_told {
            let at = self.instruments.clock.now();
            let since = found.newest.as_ref().map(|newest| newest.epoch);
            let edit = EditSaid { from: from.clone(), to, result: EditResult::TakenUp, since, message: None, at };
            self.board.update(|said| said.edit = Some(edit));
        }
    }

    pub(super) fn tell_plan(&self, wanted: &Wanted) {
        let why = match wanted {
            Wanted::Unreadable(why) => Some(why.clone()),
            // Without a plan there is nothing to start: the operator makes it before the pod.
            Wanted::Unknown | Wanted::Absent | Wanted::Anothers | Wanted::Plan(_) => None,
        };
        let since = self.instruments.clock.now();
        let problem = why.map(|message| Problem { of: ProblemOf::Plan, node: None, message, since });
        let changes = match (&self.board.get().plan_problem, &problem) {
            (Some(known), Some(problem)) => known.message != problem.message,
            (known, problem) => known.is_some() != problem.is_some(),
        };
        self.board.update(|said| {
            // The operator may not know any more what runs.
            match wanted {
                Wanted::Absent => said.wanted = None,
                Wanted::Plan(plan) => said.wanted = Some(plan.revision.clone()),
                Wanted::Unknown | Wanted::Unreadable(_) | Wanted::Anothers => {}
            }
            if changes {
                said.plan_problem = problem;
            }
        });
    }

    /// Nothing runs, and nothing is wrong. A savepoint that is wished for now cannot be had.
    pub(super) fn rest(&self, phase: RunPhase, wanted: &PlanDocument) {
        let at = self.instruments.clock.now();
        self.board.update(|said| {
            said.idle = Some(phase);
            said.problem = None;
            if let Some(wish) = &wanted.savepoint
                && said.savepoint_token.as_ref() != Some(&wish.token)
            {
                let word = if phase == RunPhase::Finished { "has finished" } else { "is suspended" };
                let error = Some(format!("the pipeline {word}: nothing runs that a savepoint could be taken of"));
                said.savepoint_token = Some(wish.token.clone());
                said.savepoint = Some(SavepointSaid { token: wish.token.clone(), name: None, error, at });
            }
        });
    }
}
