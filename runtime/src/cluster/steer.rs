//! What a worker does next: facts in, decisions out.

use std::time::Duration;

use millrace_engine::{JobError, blame::Part};
use millrace_plan::handover::{EditResult, PlanDocument, ReportDocument, StartWish};
use millrace_state::{ErrorKind, StateError};
use millrace_stream::Revision;

/// The wait before a pipeline that has failed is tried again; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// How soon a start is tried again that failed because the API server did not answer.
const API_WAIT: Duration = Duration::from_secs(2);
/// How soon a start is tried again because another process still works in the data folder.
const HELD_WAIT: Duration = Duration::from_secs(2);
/// How often an edited plan is tried that has not run yet and fails for a reason that may pass.
const TRIAL_STARTS: u32 = 3;

/// What to do while no job runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Begin {
    /// Nothing: the plan says so.
    Suspended,
    /// Run the plan that is wanted.
    Wanted {
        /// A wish that has not acted.
        wish: Option<StartWish>,
    },
    /// Run the plan of the checkpoint: the wanted one was tried and did not do.
    Stored {
        /// A wish that has not acted: it is about what runs, whichever plan that is.
        wish: Option<StartWish>,
    },
}

/// Decides what to run. `rejected` is the revision that was rolled back or refused, `stored` that of the newest checkpoint,
/// `acted` the token of the start wish that has acted or cannot.
pub fn begin(
    wanted: &PlanDocument,
    rejected: Option<&Revision>,
    stored: Option<&Revision>,
    acted: impl Fn(&str) -> bool,
) -> Begin {
    if wanted.suspend {
        return Begin::Suspended;
    }
    let wish = wanted.start_from.clone().filter(|wish| !acted(&wish.token));
    if rejected == Some(&wanted.revision) && stored.is_some_and(|stored| *stored != wanted.revision) {
        return Begin::Stored { wish };
    }
    Begin::Wanted { wish }
}

/// After a restart: the revision that must not be tried again, because it was rolled back and the operator has not answered
/// yet.
pub fn rejected_before(report: &ReportDocument) -> Option<Revision> {
    let edit = report.edit.as_ref()?;
    (edit.result == EditResult::RolledBack).then(|| edit.to.clone())
}

/// What is known of a job that runs.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// The revision that runs or is being started.
    pub revision: Option<Revision>,
    /// The revision that was given to the job last, and is not taken up, or that is not to be.
    pub offered: Option<Revision>,
    /// The token of the wish that the job began with.
    pub began_with: Option<String>,
    /// The token of the last savepoint that was asked for.
    pub savepoint: Option<String>,
    /// It has been told to stop.
    pub is_ending: bool,
}

/// What a job that runs is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Take a savepoint, then stop.
    Suspend,
    /// Stop, to begin again as a wish says.
    StartOver,
    /// Take the wanted plan up.
    Edit,
    /// Take a savepoint for this wish.
    Savepoint(String),
}

/// Decides what a job is to be told; to be asked again until there is nothing more.
pub fn steer(wanted: &PlanDocument, course: &Course, acted: impl Fn(&str) -> bool) -> Option<Order> {
    if course.is_ending {
        return None;
    }
    if wanted.suspend {
        return Some(Order::Suspend);
    }
    if let Some(wish) = &wanted.start_from
        && course.began_with.as_ref() != Some(&wish.token)
        && !acted(&wish.token)
    {
        return Some(Order::StartOver);
    }
    if let Some(wish) = &wanted.savepoint
        && course.savepoint.as_ref() != Some(&wish.token)
    {
        return Some(Order::Savepoint(wish.token.clone()));
    }
    let is_new = |known: &Option<Revision>| known.as_ref() != Some(&wanted.revision);
    (is_new(&course.revision) && is_new(&course.offered)).then_some(Order::Edit)
}

/// How a job that has failed had begun.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its plan is an edit of the one that wrote the newest checkpoint, which is still the newest.
    pub is_edit: bool,
    /// The plan before did not run either, so there is nothing to go back to.
    pub was_failing: bool,
    /// It began with a wish.
    pub has_wish: bool,
    /// The wish names a savepoint, so that the plan was to go on from that, and not from the newest checkpoint.
    pub from_savepoint: bool,
    /// How often the same has failed before, without a checkpoint in between.
    pub failed: u32,
}

/// What to do after a job has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Somebody else has taken over: wait until the Lease says who.
    StepDown,
    /// Begin again soon: the API server did not answer.
    Soon(Duration),
    /// Say that the pod before this one has not ended, and begin again soon.
    Held(Duration),
    /// The wish cannot act: say so and begin without it.
    DropWish,
    /// The plan would lose state: say so and run the stored one.
    Refuse,
    /// The edited plan does not run: say so and run the stored one.
    RollBack,
    /// Say what is wrong and try again later.
    Later(Duration),
}

/// Decides what to do after a failure.
pub fn after(error: &JobError, part: Part, attempt: &Attempt) -> Next {
    match error {
        JobError::SteppedDown { .. } => Next::StepDown,
        JobError::State(StateError::Pointer { .. }) => Next::Soon(API_WAIT),
        JobError::State(StateError::Held { .. }) => Next::Held(HELD_WAIT),
        JobError::NoSavepoint { .. } if attempt.has_wish => Next::DropWish,
        JobError::Move { .. } if attempt.has_wish && !error.may_pass() => Next::DropWish,
        // It says nothing of whether the plan may take the newest checkpoint's place.
        JobError::EditRefused(_) if attempt.from_savepoint => Next::DropWish,
        JobError::EditRefused(_) if attempt.is_edit => Next::Refuse,
        _ if attempt.is_edit && !attempt.was_failing && is_the_plans(error, part) && gives_up(error, attempt) => {
            Next::RollBack
        }
        _ => Next::Later(wait(attempt.failed)),
    }
}

/// Whether another plan may do where this one fails: where checkpoints are kept is no plan's fault.
fn is_the_plans(error: &JobError, part: Part) -> bool {
    let of_state = matches!(error, JobError::State(error) if error.kind() != ErrorKind::FixSpec);
    part != Part::Checkpoint && !of_state && !matches!(error, JobError::Halted { .. } | JobError::OtherPipeline { .. })
}

fn gives_up(error: &JobError, attempt: &Attempt) -> bool {
    !error.may_pass() || attempt.failed + 1 >= TRIAL_STARTS
}

fn wait(failed: u32) -> Duration {
    FIRST_WAIT.saturating_mul(2_u32.saturating_pow(failed)).min(MAX_WAIT)
}

#[cfg(test)]
mod tests;
