//! The worker: waits for the Lease and the plan, runs jobs, and tells what comes of them.

mod fails;
mod job;
mod tell;

use std::{sync::Arc, time::Duration};

use millrace_engine::{Outcome, chain, metrics::Metrics, status::Status};
use millrace_plan::{
    Plan,
    handover::{EditResult, PlanDocument, RunPhase, StartWish},
};
use millrace_stream::{Clock, Epoch, Revision};
use tokio::sync::watch;

use self::job::JobEnd;
use super::{
    api::Cluster,
    job_thread::{JobSpec, JobThread},
    lease::{Keeper, Standing, Tenure},
    plan_watch::{self, Owner, Wanted},
    pointer::ConfigMapPointer,
    report::{Before, Board, Reporter},
    start::{Found, compile, shown},
    steer::{self, Begin},
};
use crate::{
    Failure,
    cli::WorkerArgs,
    clock::SystemClock,
    context::{self, Beginning, Instruments, Place},
    event_log,
    overview::Overview,
    server::{self, Readiness},
    signals,
};

/// How long to wait before something is tried again that the job had no room for, or the API server did not answer.
const SOON: Duration = Duration::from_millis(250);
/// How long a pod waits for its end whose Pipeline was deleted and made anew. If it is to work for the new one, as where it was left
/// behind on purpose, another process does.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait after another generation took over and the Lease is still ours.
const AFTER_FENCED: Duration = Duration::from_secs(1);

/// Works until a signal.
pub async fn work(args: WorkerArgs) -> Result<(), Failure> {
    let cluster = Cluster::find(&args.namespace, &args.pipeline).await.map_err(|error| {
        // Its text names both ways that were tried, with what is wrong with each.
        Failure::usage(format!("there is no way to an API server: {error}"))
            .advise("in a pod, mount the service account's token; elsewhere, set KUBECONFIG")
    })?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let board = Arc::new(Board::default());
    board.update(|said| said.idle = Some(RunPhase::Starting));
    let status = Arc::new(Status::new({
        let (board, clock) = (board.clone(), clock.clone());
        move |event| {
            event_log::log(event, false);
            board.update(|said| said.on(event, clock.now()));
        }
    }));
    let instruments = Instruments { clock: clock.clone(), metrics: Arc::new(Metrics::default()), status };
    let overview = Arc::new(Overview::new(instruments.clone()));
    let readiness = readiness(&board, &instruments);
    if let Some(address) = args.listen {
        let bound = server::listen(address, overview.clone(), readiness.clone()).await;
        let bound = bound.map_err(|error| Failure::usage(format!("cannot listen on {address}: {error}")))?;
        tracing::info!(address = %bound, "serving /metrics, /healthz, /readyz and /api/v1/pipeline");
    }
    let stopping = watch::Sender::new(false);
    let stopped = stopping.subscribe();
    signals::on_stop(&clock, move || {
        stopping.send_replace(true);
    })
    .map_err(|error| Failure::failed(format!("cannot wait for signals: {error}")))?;
    tokio::spawn(overview.clone().note_counts_always());

    let identity = format!("{}_{}", args.pod_name, args.pod_uid);
    let process = context::fresh_id().map_err(|error| Failure::failed(chain(&error)))?;
    let keeper = Keeper::start(&cluster, &identity, clock.clone());
    let owner = Owner::default();
    let reporter = Arc::new(Reporter {
        cluster: cluster.clone(),
        pod: args.pod_name.clone(),
        pod_uid: args.pod_uid.clone(),
        owner: owner.clone(),
        board: board.clone(),
        overview: overview.clone(),
        clock,
        standing: keeper.standing.clone(),
        version: std::sync::Mutex::default(),
    });
    let written = Arc::default();
    let reporting = tokio::spawn(reporter.clone().run(Arc::clone(&written)));
    let mut worker = Worker {
        wanted: plan_watch::start(&cluster, &owner),
        owner,
        replaced_at: None,
        standing: keeper.standing.clone(),
        claimant: format!("{identity}_{process}"),
        cluster,
        args,
        board,
        instruments,
        overview,
        readiness,
        stopped,
        keeper,
        is_remembered: false,
        certain_after: None,
        rejected: None,
        finished: None,
        tried: None,
        failed: 0,
        was_failing: false,
    };
    let done = worker.live().await;
    reporting.abort();
    if let Err(error) = reporter.write_last(&mut *written.lock().await).await {
        tracing::debug!(error = %chain(&error), "the last report could not be written");
    }
    worker.keeper.release().await;
    done
}

/// Ready means that what the plan asks for is done: rows flow, or nothing is left to do.
fn readiness(board: &Arc<Board>, instruments: &Instruments) -> Readiness {
    let (board, status) = (board.clone(), instruments.status.clone());
    Arc::new(move || {
        let phase = board.get().phase(status.get().phase);
        let is_ready = matches!(phase, RunPhase::Running | RunPhase::Finished | RunPhase::Suspended);
        (is_ready, format!("{phase:?}"))
    })
}

struct Worker {
    args: WorkerArgs,
    cluster: Cluster,
    /// This process, among all that have ever claimed the pointer.
    claimant: String,
    board: Arc<Board>,
    instruments: Instruments,
    overview: Arc<Overview>,
    readiness: Readiness,
    wanted: watch::Receiver<Wanted>,
    /// Whose plan it is.
    owner: Owner,
    /// When the plan was found to be another Pipeline's.
    replaced_at: Option<Duration>,
    standing: watch::Receiver<Standing>,
    stopped: watch::Receiver<bool>,
    keeper: Keeper,
    /// What was reported before has been read since the Lease was taken.
    is_remembered: bool,
    /// The Lease counts as ours only if the API server has said so after this.
    certain_after: Option<Duration>,
    /// The revision that was rolled back or refused, until another one is wanted.
    rejected: Option<Revision>,
    /// The revision that has come to its end.
    finished: Option<Revision>,
    /// The revision that was wanted in the last turn.
    tried: Option<Revision>,
    /// How often it has failed since the last checkpoint.
    failed: u32,
    /// The revision before it had failed.
    was_failing: bool,
}

/// What follows a turn.
enum Then {
    /// The next one.
    Again,
    /// The next one when something changes, or after so long.
    Wait(Option<Duration>),
    /// The process ends.
    End(Result<(), Failure>),
}

impl Worker {
    async fn live(&mut self) -> Result<(), Failure> {
        loop {
            let is_held = self.standing.borrow().is_held();
            let then = if *self.stopped.borrow() {
                Then::End(Ok(()))
            } else if !is_held {
                self.is_remembered = false;
                self.board.update(|said| said.idle = Some(RunPhase::Starting));
                Then::Wait(None)
            } else if !self.has_lease() {
                // Nothing is begun while it may be another's, and what is said stays so.
                Then::Wait(Some(SOON))
            } else if self.is_remembered {
                self.turn().await
            } else {
                self.remember().await
            };
            match then {
                Then::Again => {}
                Then::Wait(limit) => self.wait(is_held, limit).await,
                Then::End(done) => return done,
            }
        }
    }

    /// Whether nobody else can have the Lease.
    fn has_lease(&self) -> bool {
        let standing = self.standing.borrow();
        let is_new = match (&*standing, self.certain_after) {
            (Standing::Held { confirmed }, Some(after)) => *confirmed > after,
            _ => true,
        };
        is_new && standing.is_certain(self.now())
    }

    fn tenure(&self) -> Tenure {
        Tenure { standing: self.standing.clone(), clock: self.instruments.clock.clone() }
    }

    fn place(&self) -> Place {
        Place { data_dir: self.args.data_dir.clone(), namespace: Some(self.args.namespace.clone()) }
    }

    fn now(&self) -> Duration {
        self.instruments.clock.monotonic()
    }

    /// Takes in what was reported before, by this pod or another.
    async fn remember(&mut self) -> Then {
        if *self.wanted.borrow() == Wanted::Unknown {
            // Of which Pipeline it is to be comes with the plan.
            return Then::Wait(None);
        }
        match Before::read(&self.cluster, self.owner.uid()).await {
            Ok(Before { report, savepoint_token }) => {
                self.rejected = report.as_ref().and_then(steer::rejected_before);
                let wanted = self.wanted.borrow().plan().map(|wanted| wanted.revision.clone());
                self.was_failing =
                    report.as_ref().is_some_and(|report| report.phase == RunPhase::Failed && report.revision != wanted);
                self.board.update(|said| {
                    said.savepoint_token = savepoint_token;
                    if let Some(report) = report {
                        said.revision = report.revision;
                        said.edit = report.edit;
                        said.savepoint = report.savepoint;
                        said.started = report.started;
                    }
                });
                self.is_remembered = true;
                Then::Again
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "what was reported before cannot be read; it is tried again");
                Then::Wait(Some(SOON * 4))
            }
        }
    }

    /// Waits for another plan, for the Lease to be taken or lost since the turn began, for a signal, or for so long.
    async fn wait(&mut self, was_held: bool, limit: Option<Duration>) {
        tokio::select! {
            () = sleep(limit) => {}
            Ok(()) = self.wanted.changed() => {}
            Ok(()) = self.stopped.changed() => {}
            () = passes(&mut self.standing, was_held) => {}
        }
    }

    /// Does what is wanted once.
    async fn turn(&mut self) -> Then {
        let wanted = self.wanted.borrow_and_update().clone();
        self.tell_plan(&wanted);
        if wanted == Wanted::Anothers {
            return self.give_way();
        }
        let Some(wanted) = wanted.plan() else {
            self.board.update(|said| said.idle = Some(RunPhase::Starting));
            return Then::Wait(None);
        };
        if self.rejected.as_ref().is_some_and(|rejected| *rejected != wanted.revision) {
            self.rejected = None;
        }
        if self.tried.as_ref() != Some(&wanted.revision) {
            self.was_failing |= self.tried.replace(wanted.revision.clone()).is_some() && self.failed > 0;
            self.failed = 0;
        }
        if wanted.suspend {
            self.rest(RunPhase::Suspended, wanted);
            return Then::Wait(None);
        }
        let pointer = ConfigMapPointer::new(&self.cluster, &self.claimant, None, self.tenure());
        let found = match Found::look(wanted, &self.place(), &pointer).await {
            Ok(found) => found,
            Err(error) => return self.fails(&error, wanted, &Found::default(), None).await,
        };
        if let Some(wish) = &wanted.start_from
            && let Some(answered) = found.answered.iter().find(|answered| answered.token == wish.token)
        {
            // A pod before may have died before it could tell.
            self.tell_answered(wish, None, answered.error.clone());
        }
        let began =
            steer::begin(wanted, self.rejected.as_ref(), found.revision(), |token| self.has_acted(&found, token));
        let (plan, wish) = match began {
            Begin::Suspended => return Then::Wait(None),
            Begin::Wanted { wish: None } if self.finished.as_ref() == Some(&wanted.revision) => {
                self.rest(RunPhase::Finished, wanted);
                return Then::Wait(None);
            }
            Begin::Stored { wish: None } if self.finished.is_some() && self.finished.as_ref() == found.revision() => {
                self.rest(RunPhase::Finished, wanted);
                return Then::Wait(None);
            }
            Begin::Wanted { wish: Some(wish) } | Begin::Stored { wish: Some(wish) }
                if wish.savepoint.is_none() && wish.sources().next().is_none() =>
            {
                self.drop_wish(&wish, "it names neither a savepoint nor a source".to_owned()).await;
                return Then::Again;
            }
            Begin::Wanted { wish } => (compile(wanted.spec.clone(), wanted.revision.clone()).await, wish),
            Begin::Stored { wish } => match found.stored.as_ref() {
                Some(stored) => match stored.compile().await {
                    Ok(plan) => (Ok(plan), wish),
                    Err(error) => return self.fails(&error, wanted, &found, None).await,
                },
                None => return Then::Again,
            },
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(errors) => return self.cannot_compile(shown(&errors), wanted, &found),
        };
        if let Some(wish) = &wish
            && let Some(unknown) = wish.sources().find(|name| !has_source(&plan, name))
        {
            let whose = match plan.revision == wanted.revision {
                true => "the pipeline",
                false => "the plan before the edit that was taken back",
            };
            self.drop_wish(wish, format!("{whose} has no source {unknown}")).await;
            return Then::Again;
        }
        self.run(plan, wish, wanted, &found).await
    }

    /// The Pipeline was deleted, and one of its name is there: this pod is about to be deleted too.
    fn give_way(&mut self) -> Then {
        let now = self.now();
        let since = *self.replaced_at.get_or_insert(now);
        let left = ENDS_WITHIN.saturating_sub(now.saturating_sub(since));
        if left.is_zero() {
            return Then::End(Ok(()));
        }
        if since == now {
            tracing::warn!(
                "the Pipeline was deleted and made anew; this process works for the one before it, and ends"
            );
        }
        self.board.update(|said| said.idle = Some(RunPhase::Stopping));
        Then::Wait(Some(left))
    }

    fn has_acted(&self, found: &Found, token: &str) -> bool {
        let said = self.board.get();
        let is_refused = said.started.is_some_and(|started| started.token == token && started.error.is_some());
        is_refused || found.answered.iter().any(|answered| answered.token == token)
    }

    async fn run(&mut self, plan: Plan, wish: Option<StartWish>, wanted: &PlanDocument, found: &Found) -> Then {
        let before = self.last_checkpoint();
        self.overview.set_plan(&plan);
        self.finished = None;
        self.instruments.status.begin();
        self.board.update(|said| {
            said.idle = None;
            said.found.clone_from(&found.newest);
            said.newest = found.newest.as_ref().map(|newest| newest.epoch).max(said.newest);
            said.revision = Some(plan.revision.clone());
            if let Some((stored, spec)) = found.stored.as_ref().and_then(|stored| Some((stored, stored.spec()?))) {
                said.may_run(&stored.revision, spec);
            }
            said.may_run(&plan.revision, plan.spec.clone());
        });
        let beginning = Beginning {
            from_savepoint: wish.as_ref().and_then(|wish| wish.savepoint.clone()),
            reset_sources: wish.as_ref().map(|wish| wish.reset_sources.clone()).unwrap_or_default(),
            move_sources: wish.as_ref().map(|wish| wish.move_sources.clone()).unwrap_or_default(),
            allow_previous_checkpoint: false,
        };
        // Only a run that does as the wish says writes that it has acted.
        let token = wish.as_ref().map(|wish| wish.token.clone());
        let pointer = ConfigMapPointer::new(&self.cluster, &self.claimant, token, self.tenure());
        let spec = JobSpec {
            plan,
            place: self.place(),
            pointer,
            beginning,
            instruments: self.instruments.clone(),
            overview: self.overview.clone(),
            readiness: self.readiness.clone(),
        };
        let ended = match JobThread::start(spec) {
            Ok(job) => self.drive(job, wish.as_ref(), wanted.clone(), found).await,
            Err(error) => JobEnd::Ended(Box::new(Err(error))),
        };
        let has_progressed = self.last_checkpoint() != before;
        if has_progressed && let Some(wish) = &wish {
            // It may have ended before it was looked at.
            self.tell_answered(wish, self.instruments.status.get().restored_from, None);
        }
        if has_progressed {
            (self.failed, self.was_failing) = (0, false);
        }
        let said = self.board.get();
        self.rejected = self.rejected.take().or_else(|| {
            let edit = said.edit.as_ref().filter(|edit| edit.result == EditResult::RolledBack)?;
            let is_wanted = self.wanted.borrow().plan().is_some_and(|wanted| wanted.revision == edit.to);
            is_wanted.then(|| edit.to.clone())
        });
        let is_stopping = *self.stopped.borrow();
        match ended {
            JobEnd::SteppedDown => Then::Again,
            JobEnd::OutOfTime => Then::End(Err(Failure::failed(
                "the final checkpoint was not completed in time; the next start goes on from the one before it",
            ))),
            JobEnd::Unknown => Then::End(Err(Failure::failed(
                "the API server takes this pod's token no more, since its ServiceAccount is gone, as when its Pipeline is deleted: the \
                 final checkpoint cannot be completed, and a Pipeline of this name goes on from the one before it",
            ))),
            JobEnd::Ended(ended) => match *ended {
                Ok(Outcome::Finished { .. }) => {
                    tracing::info!("finished: every row is read and committed");
                    self.finished = said.revision;
                    self.board.update(|said| {
                        said.idle = Some(RunPhase::Finished);
                        said.problem = None;
                    });
                    Then::Again
                }
                Ok(Outcome::Stopped { epoch }) => {
                    tracing::info!(checkpoint = epoch.map_or(0, |epoch| epoch.0), "stopped");
                    self.board.update(|said| {
                        // What a signal has stopped stays so in the last report.
                        said.idle = Some(if is_stopping { RunPhase::Stopping } else { RunPhase::Starting });
                        said.problem = None;
                    });
                    Then::Again
                }
                Err(error) if is_stopping => Then::End(Err(Failure::failed(chain(&error)))),
                Err(error) => {
                    // A job that had another plan than the wanted one is not on trial for it.
                    let found = if has_progressed { &Found::default() } else { found };
                    self.fails(&error, wanted, found, wish.as_ref()).await
                }
            },
        }
    }

    fn last_checkpoint(&self) -> Option<Epoch> {
        self.instruments.status.get().checkpoint.map(|checkpoint| checkpoint.epoch)
    }
}

fn has_source(plan: &Plan, name: &str) -> bool {
    plan.spec.pipeline.sources.iter().any(|source| source.name == *name)
}

/// Waits until the Lease is ours, or is not, unlike before: also if that has come before this is called.
async fn passes(standing: &mut watch::Receiver<Standing>, was_held: bool) {
    if standing.wait_for(|standing| standing.is_held() != was_held).await.is_err() {
        // Nobody keeps it any more.
        std::future::pending().await
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn held(seconds: u64) -> Standing {
        Standing::Held { confirmed: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_lease_that_passes_before_it_is_waited_for_is_no_less_seen() {
        let nobodys = Standing::Waiting { holder: None };
        let cases = [
            (nobodys.clone(), vec![held(1)]),
            (nobodys.clone(), vec![held(1), held(2)]),
            (held(1), vec![nobodys.clone()]),
        ];
        for (at_first, then) in cases {
            let (keeper, mut standing) = watch::channel(at_first.clone());
            let was_held = standing.borrow_and_update().is_held();
            for standing in &then {
                keeper.send_replace(standing.clone());
            }
            assert!(passes(&mut standing, was_held).now_or_never().is_some(), "{at_first:?}, then {then:?}");
        }
    }

    #[test]
    fn a_lease_that_is_only_renewed_wakes_nobody() {
        let (keeper, mut standing) = watch::channel(held(1));
        keeper.send_replace(held(4));
        assert!(passes(&mut standing, true).now_or_never().is_none());
    }
}
