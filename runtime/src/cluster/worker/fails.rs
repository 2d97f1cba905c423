//! What follows when something has failed.

use std::time::Duration;

use millrace_engine::{JobError, blame::Blame, chain};
use millrace_plan::handover::{EditResult, PlanDocument, Problem, ProblemOf, RunPhase, StartWish};

use super::{AFTER_FENCED, Then, Worker};
use crate::cluster::{
    start::Found,
    steer::{self, Attempt, Next},
};

impl Worker {
    /// After a failure: says what is wrong, and decides what follows.
    pub(super) async fn fails(
        &mut self,
        error: &JobError,
        wanted: &PlanDocument,
        found: &Found,
        wish: Option<&StartWish>,
    ) -> Then {
        let blame = Blame::of(error);
        let is_edit = self.rejected.is_none() && found.revision().is_some_and(|stored| *stored != wanted.revision);
        let savepoint = wish.and_then(|wish| wish.savepoint.as_deref());
        let attempt = Attempt {
            is_edit,
            was_failing: self.was_failing,
            has_wish: wish.is_some(),
            from_savepoint: savepoint.is_some(),
            failed: self.failed,
        };
        let text = chain(error);
        match (steer::after(error, blame.part, &attempt), wish) {
            (Next::StepDown, _) => {
                tracing::warn!(error = %text, "stepped down");
                self.certain_after = Some(self.now());
                self.keeper.look();
                self.board.update(|said| said.idle = Some(RunPhase::Starting));
                Then::Wait(Some(AFTER_FENCED))
            }
            (Next::Soon(wait), _) => {
                tracing::warn!(error = %text, "the pipeline cannot start yet; it is tried again");
                self.board.update(|said| said.idle = Some(RunPhase::Starting));
                Then::Wait(Some(wait))
            }
            (Next::Held(wait), _) => {
                tracing::warn!(error = %text, "the data folder is not free yet; it is tried again");
                let now = self.instruments.clock.now();
                self.board.update(|said| {
                    said.idle = Some(RunPhase::Starting);
                    said.fails(&blame, text, now);
                });
                Then::Wait(Some(wait))
            }
            (Next::DropWish, Some(wish)) => {
                let why = match (error, savepoint) {
                    (JobError::EditRefused(_), Some(name)) => format!("the plan cannot go on from {name}: {text}"),
                    _ => text,
                };
                self.drop_wish(wish, why).await;
                Then::Again
            }
            (Next::Refuse, _) => {
                self.reject(wanted, found, EditResult::Refused, text);
                Then::Again
            }
            (Next::RollBack, _) => {
                tracing::error!(revision = %wanted.revision, error = %text, "the plan does not run; the one before it is taken");
                self.reject(wanted, found, EditResult::RolledBack, text);
                Then::Again
            }
            (Next::Later(wait), _) => self.gives_up(&blame, text, wait),
            (Next::DropWish, None) => self.gives_up(&blame, text, AFTER_FENCED),
        }
    }

    fn gives_up(&mut self, blame: &Blame, text: String, wait: Duration) -> Then {
        tracing::error!(error = %text, wait_ms = wait.as_millis() as u64, "the pipeline has failed; it is tried again");
        self.failed = self.failed.saturating_add(1);
        let now = self.instruments.clock.now();
        self.board.update(|said| {
            said.idle = Some(RunPhase::Failed);
            said.fails(blame, text, now);
        });
        Then::Wait(Some(wait))
    }

    /// A plan that cannot be compiled does not get better by waiting.
    pub(super) fn cannot_compile(&mut self, why: String, wanted: &PlanDocument, found: &Found) -> Then {
        if found.revision().is_some_and(|stored| *stored != wanted.revision) && self.rejected.is_none() {
            self.reject(wanted, found, EditResult::Refused, why);
            return Then::Again;
        }
        tracing::error!(%why, "the plan cannot be compiled");
        let since = self.instruments.clock.now();
        self.board.update(|said| {
            said.idle = Some(RunPhase::Failed);
            said.problem = Some(Problem { of: ProblemOf::Plan, node: None, message: why, since });
        });
        Then::Wait(None)
    }
}
