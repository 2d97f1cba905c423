//! While a job runs: steers it by what is wanted, and takes its answers.

use std::time::Duration;

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use millrace_engine::{Command, JobError, Outcome, launch::misfits};
use millrace_plan::{
    Plan,
    handover::{EditResult, PlanDocument, SavepointSaid, StartWish},
};
use millrace_stream::Epoch;
use tokio::sync::{mpsc::error::TrySendError, oneshot};

use super::{SOON, Worker, sleep};
use crate::cluster::{
    api::ask,
    job_thread::JobThread,
    plan_watch::Wanted,
    start::{Found, compile, shown},
    steer::{self, Course, Order},
};

/// How often a job that stops looks whether the API server still knows the pod.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often in a row it has to say no before that is believed.
const REFUSALS: u32 = 3;

/// How a job came to its end.
pub(super) enum JobEnd {
    /// By itself, or as it was told.
    Ended(Box<Result<Outcome, JobError>>),
    /// It was dropped, since the Lease is another's.
    SteppedDown,
    /// It was dropped, since its last checkpoint took too long.
    OutOfTime,
    /// It was dropped, since its last checkpoint cannot be completed: the pod's account is gone.
    Unknown,
}

/// What the job answers.
enum Answer {
    Edit {
        plan: Box<Plan>,
        done: Result<Result<(), String>, oneshot::error::RecvError>,
    },
    /// `token`: of the wish, if it was wished for. `stops`: it is that of a suspension.
    Savepoint {
        token: Option<String>,
        stops: bool,
        done: Result<Result<Epoch, String>, oneshot::error::RecvError>,
    },
}

type Answers = FuturesUnordered<BoxFuture<'static, Answer>>;

impl Worker {
    /// Steers a job until its end.
    pub(super) async fn drive(
        &mut self,
        mut job: JobThread,
        wish: Option<&StartWish>,
        mut wanted: PlanDocument,
        found: &Found,
    ) -> JobEnd {
        let mut changes = self.board.changes();
        let mut answers = Answers::new();
        let mut course = Course {
            offered: self.rejected.clone(),
            began_with: wish.map(|wish| wish.token.clone()),
            savepoint: self.board.get().savepoint_token,
            ..Course::default()
        };
        let (mut stop, mut is_told) = (false, false);
        let mut deadline: Option<Duration> = None;
        let (mut look_at, mut refusals) = (Duration::ZERO, 0_u32);
        let mut end = None;
        loop {
            course.revision = self.board.get().revision;
            self.tell_started(wish);
            self.tell_taken_up(found);
            let mut is_full = false;
            while let Some(order) = steer::steer(&wanted, &course, |token| self.has_acted(found, token)) {
                if !self.obey(order, &job, &wanted, &mut course, &mut answers, &mut stop).await {
                    is_full = true;
                    break;
                }
            }
            if stop && !is_told {
                is_told = !matches!(job.commands.try_send(Command::Stop), Err(TrySendError::Full(_)));
                is_full |= !is_told;
            }
            let retry = is_full.then_some(SOON);
            let left = deadline.map(|deadline| deadline.saturating_sub(self.now()));
            let look = deadline.map(|_| look_at.saturating_sub(self.now()));
            let mut is_to_end = false;
            tokio::select! {
                biased;
                ended = &mut job.ended => {
                    return match (end, ended) {
                        (Some(end), _) => end,
                        (None, Ok(Some(ended))) => JobEnd::Ended(Box::new(ended)),
                        // Its thread has died in the middle.
                        (None, _) => JobEnd::Ended(Box::new(Err(died()))),
                    };
                }
                Ok(()) = self.stopped.changed(), if deadline.is_none() => is_to_end = true,
                () = sleep(left), if left.is_some() && end.is_none() => {
                    end = Some(JobEnd::OutOfTime);
                    job.abandon();
                }
                () = sleep(look), if look.is_some() && end.is_none() => {
                    refusals = if self.is_unknown().await { refusals + 1 } else { 0 };
                    look_at = self.now() + LOOK_EVERY;
                    if refusals >= REFUSALS {
                        end = Some(JobEnd::Unknown);
                        job.abandon();
                    }
                }
                Ok(()) = self.standing.changed() => {
                    if !self.standing.borrow().is_held() && end.is_none() {
                        end = Some(JobEnd::SteppedDown);
                        job.abandon();
                    }
                }
                Ok(()) = self.wanted.changed() => {
                    let seen = self.wanted.borrow_and_update().clone();
                    self.tell_plan(&seen);
                    match seen {
                        Wanted::Plan(plan) => {
                            if course.offered.as_ref() != Some(&plan.revision) {
                                course.offered = None;
                            }
                            wanted = *plan;
                        }
                        Wanted::Anothers => is_to_end = deadline.is_none(),
                        Wanted::Unknown | Wanted::Absent | Wanted::Unreadable(_) => {}
                    }
                }
                Some(answer) = answers.next() => self.answered(answer, &mut stop),
                Ok(()) = changes.changed() => {}
                () = sleep(retry), if retry.is_some() => {}
            }
            if is_to_end {
                (stop, course.is_ending) = (true, true);
                deadline = Some(self.now() + Duration::from_secs(self.args.stop_within_seconds));
                look_at = self.now() + LOOK_EVERY;
            }
        }
    }

    /// Whether the API server does not take the pod's token any more.
    async fn is_unknown(&self) -> bool {
        let pointer = self.cluster.names().checkpoint();
        ask(self.cluster.config_maps().get(&pointer)).await.is_err_and(|error| error.is_unauthorized())
    }

    /// Tells the job; `false`: it has no room for it now.
    async fn obey(
        &self,
        order: Order,
        job: &JobThread,
        wanted: &PlanDocument,
        course: &mut Course,
        answers: &mut Answers,
        stop: &mut bool,
    ) -> bool {
        match order {
            Order::StartOver => {
                tracing::info!("stopping, to start as asked");
                (*stop, course.is_ending) = (true, true);
            }
            Order::Suspend => {
                let (reply, answer) = oneshot::channel();
                if matches!(job.commands.try_send(Command::Savepoint(reply)), Err(TrySendError::Full(_))) {
                    return false;
                }
                tracing::info!("suspending: a savepoint, then a stop");
                course.is_ending = true;
                // One that is wished for along with it is the same.
                let wish = wanted.savepoint.as_ref().filter(|wish| course.savepoint.as_ref() != Some(&wish.token));
                let token = wish.map(|wish| wish.token.clone());
                answers.push(Box::pin(async move { Answer::Savepoint { token, stops: true, done: answer.await } }));
            }
            Order::Savepoint(token) => {
                let (reply, answer) = oneshot::channel();
                if matches!(job.commands.try_send(Command::Savepoint(reply)), Err(TrySendError::Full(_))) {
                    return false;
                }
                course.savepoint = Some(token.clone());
                let token = Some(token);
                answers.push(Box::pin(async move { Answer::Savepoint { token, stops: false, done: answer.await } }));
            }
            Order::Edit => match compile(wanted.spec.clone(), wanted.revision.clone()).await {
                Err(errors) => {
                    course.offered = Some(wanted.revision.clone());
                    self.refuse(course.revision.clone(), wanted, shown(&errors));
                }
                Ok(plan) => {
                    if let Some(why) = misfits(&plan).await {
                        course.offered = Some(wanted.revision.clone());
                        self.refuse(course.revision.clone(), wanted, why);
                        return true;
                    }
                    let (reply, answer) = oneshot::channel();
                    let plan = Box::new(plan);
                    let edit = Command::Edit { plan: plan.clone(), reply };
                    if matches!(job.commands.try_send(edit), Err(TrySendError::Full(_))) {
                        return false;
                    }
                    course.offered = Some(wanted.revision.clone());
                    self.board.update(|said| said.may_run(&wanted.revision, wanted.spec.clone()));
                    answers.push(Box::pin(async move { Answer::Edit { plan, done: answer.await } }));
                }
            },
        }
        true
    }

    fn answered(&self, answer: Answer, stop: &mut bool) {
        let at = self.instruments.clock.now();
        match answer {
            Answer::Edit { plan, done: Ok(Ok(())) } => self.overview.set_plan(&plan),
            Answer::Edit { plan, done: Ok(Err(why)) } => {
                // What a newer edit has taken the place of is of no interest any more.
                let is_wanted = self.wanted.borrow().plan().is_some_and(|wanted| wanted.revision == plan.revision);
                if is_wanted {
                    tracing::warn!("edit refused, the running plan stays:\n{why}");
                    let from = self.board.get().revision;
                    self.tell_edit(from, &plan.revision, EditResult::Refused, why);
                }
            }
            // The job is gone. Its successor is asked anew.
            Answer::Edit { done: Err(_), .. } => {}
            Answer::Savepoint { stops: false, done: Err(_), .. } => {}
            Answer::Savepoint { token, stops, done } => {
                *stop |= stops;
                let (name, error) = match done {
                    Ok(Ok(epoch)) => (Some(millrace_engine::recover::savepoint_name(epoch)), None),
                    Ok(Err(why)) => (None, Some(why)),
                    Err(_) => (None, Some("the pipeline has ended before it".to_owned())),
                };
                self.board.update(|said| {
                    if token.is_some() {
                        said.savepoint_token.clone_from(&token);
                    }
                    said.savepoint = Some(SavepointSaid { token: token.unwrap_or_default(), name, error, at });
                });
            }
        }
    }
}

fn died() -> JobError {
    JobError::Task {
        task: "the job's thread".to_owned(),
        source: millrace_engine::task::TaskError::Panicked("see the log".to_owned()),
    }
}
