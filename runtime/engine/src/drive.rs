//! Executes what the coordinator decides, for one generation of a pipeline.
//!
//! Everything that happens becomes an [`Event`], everything to do comes back as an [`Action`]; no decision is taken here.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use millrace_connectors::CommitHandle;
use millrace_plan::{NodeKind, Plan};
use millrace_state::{Create, Latest, Manifest, ManifestKind, SinkManifest, StateError, TaskManifest};
use millrace_stream::{
    Barrier, BarrierKind, Epoch, Generation, NodeName, TaskId,
    checkpoint::{
        AbortReason, Action, Advance, Coordinator, Decided, Event, Failure, Ledger, ManifestOutcome, PointerOutcome,
        Settings, Start,
    },
};
use tokio::sync::mpsc;

pub use self::inbox::{Answer, Inbox, Waited};

use crate::{
    Command, JobContext, JobError,
    blame::Blame,
    commits::{CommitResult, Commits, Handles, retry_after},
    job::{refusal, refused_edit},
    launch::Running,
    recover::{Recovered, newest, savepoint_name},
    status::{CheckpointReport, JobEvent, JobPhase},
    task::{Report, Snapshot, TaskError, source::SourceControl},
};

mod inbox;

/// How long to wait before an operation on the checkpoint store is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// For how long the pointer may stay where it is before that is told: an API server that is started anew takes so long.
const HELD_UP: Duration = Duration::from_secs(5);

/// How a generation ended.
#[derive(Debug)]
pub enum Driven {
    /// With a barrier that ends tasks, decided and committed.
    Ended {
        /// The last epoch.
        epoch: Epoch,
        /// The barrier's kind.
        kind: BarrierKind,
    },
    /// A stop was asked for, and there is no final checkpoint.
    Halted {
        /// Why.
        why: Failure,
        /// What stands.
        decided: Option<Epoch>,
        /// The error behind it, if one is known.
        cause: Option<Box<JobError>>,
    },
    /// A newer generation has taken over.
    SteppedDown {
        /// Who.
        by: Generation,
    },
    /// Something failed; the last decided epoch stands.
    Failed(Box<JobError>),
}

/// Drives the tasks until the coordinator's last word.
pub async fn drive(
    plan: &Plan,
    recovered: Recovered,
    running: &mut Running,
    cx: &Arc<JobContext>,
    commands: &mut mpsc::Receiver<Command>,
    inbox: &mut Inbox,
) -> Result<Driven, JobError> {
    let spec = &plan.spec.pipeline.checkpoints;
    let settings = Settings {
        interval: spec.interval.into(),
        timeout: spec.timeout.into(),
        min_pause: spec.min_pause.into(),
        retain: spec.retain,
    };
    let start = Start {
        generation: recovered.generation,
        tasks: running.ids.clone(),
        decided: recovered.decided.clone(),
        first: recovered.first,
    };
    let coordinator = Coordinator::new(settings, start, cx.clock.monotonic());
    let mut driver = Driver {
        plan,
        cx,
        generation: recovered.generation,
        coordinator,
        sources_left: running.sources.len(),
        ledger: Ledger::default(),
        commits: Commits::start(recovered.committers),
        manifest: None,
        trouble: None,
        held_since: None,
        opened: BTreeMap::new(),
        uploaded_bytes: 0,
        first_error: None,
        commit_error: None,
        commit_attempts: 0,
        inbox,
        ended: None,
    };
    for kind in std::mem::take(&mut driver.inbox.unmet) {
        driver.on(running, Event::Requested(kind)).await;
    }
    while driver.ended.is_none() {
        driver.turn(running, commands).await;
    }
    let Some(driven) = driver.ended else { return Err(JobError::Failed(Failure::PointerLost)) };
    Ok(driven)
}

struct Driver<'a> {
    plan: &'a Plan,
    cx: &'a Arc<JobContext>,
    generation: Generation,
    coordinator: Coordinator,
    /// Source tasks that have not come to their end.
    sources_left: usize,
    ledger: Ledger<Snapshot>,
    commits: Commits,
    /// The manifest in the making: written, not yet pointed to, or not yet committed.
    manifest: Option<Manifest>,
    /// Why the manifest could not be written when that was tried last.
    trouble: Option<String>,
    /// Since when the manifest could not be written or the pointer not be moved.
    held_since: Option<Duration>,
    /// When the epochs in flight were opened.
    opened: BTreeMap<Epoch, Duration>,
    uploaded_bytes: u64,
    /// The first failure that is not a mere consequence of another.
    first_error: Option<JobError>,
    /// Why the decided epoch is not committed, and how often that was tried.
    commit_error: Option<JobError>,
    commit_attempts: u32,
    inbox: &'a mut Inbox,
    ended: Option<Driven>,
}

impl Driver<'_> {
    /// Waits for the next thing to happen, and answers it.
    async fn turn(&mut self, running: &mut Running, commands: &mut mpsc::Receiver<Command>) {
        let deadline = self.coordinator.next_deadline();
        let wait = deadline.map(|at| at.saturating_sub(self.cx.clock.monotonic()));
        let event = tokio::select! {
            biased;
            Some(result) = self.commits.result() => self.committed(result),
            Some(report) = running.reports.recv() => self.report(report, running).await,
            command = commands.recv(), if !self.inbox.closed => self.command(command),
            () = sleep(wait), if wait.is_some() => Some(Event::Tick),
        };
        if let Some(event) = event {
            self.on(running, event).await;
        }
    }

    async fn on(&mut self, running: &mut Running, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.coordinator.on(self.cx.clock.monotonic(), event) {
                events.extend(self.act(running, action).await);
                if self.ended.is_some() {
                    return;
                }
            }
        }
    }

    fn committed(&mut self, result: CommitResult) -> Option<Event> {
        let CommitResult { epoch, outcome } = result;
        match outcome {
            Ok(committed) => {
                (self.commit_error, self.commit_attempts) = (None, 0);
                self.cx.metrics.committed_rows.add(committed.rows);
                self.cx.status.event(JobEvent::Committed { epoch, rows: committed.rows });
                Some(Event::Committed { epoch })
            }
            Err(error) => {
                self.commit_attempts += 1;
                let attempt = self.commit_attempts;
                let retry_after = retry_after(&error, attempt, (epoch, self.generation));
                self.cx.metrics.commits_failed.add(1);
                let text = crate::chain(&error);
                let error = JobError::from(error);
                let blame = Blame::of(&error);
                self.cx.status.event(JobEvent::CommitFailed { epoch, error: text, blame, attempt, retry_after });
                self.commit_error = Some(error);
                Some(Event::CommitFailed { epoch, retry_after })
            }
        }
    }

    async fn report(&mut self, report: Report, running: &mut Running) -> Option<Event> {
        match report {
            Report::Acked { task, epoch, snapshot } => {
                self.ledger.acked(task.clone(), epoch, *snapshot);
                Some(Event::Acked { task, epoch })
            }
            Report::SourceEnded { .. } => {
                self.sources_left -= 1;
                (self.sources_left == 0).then_some(Event::SourcesEnded)
            }
            Report::Failed { task, error } => {
                let error = self.cause(task.clone(), error, running).await;
                self.first_error.get_or_insert(error);
                Some(Event::TaskFailed { task })
            }
        }
    }

    /// When a task fails its neighbours fail too, and one of them may be heard first.
    async fn cause(&mut self, task: TaskId, error: TaskError, running: &mut Running) -> JobError {
        let mut found = (task, error);
        let patience = Duration::from_secs(2);
        while found.1.is_consequence() {
            match tokio::time::timeout(patience, running.reports.recv()).await {
                Ok(Some(Report::Failed { task, error })) => found = (task, error),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        JobError::Task { task: found.0.to_string(), source: found.1 }
    }

    fn command(&mut self, command: Option<Command>) -> Option<Event> {
        match command {
            None => {
                self.inbox.closed = true;
                None
            }
            Some(Command::Stop) => {
                self.cx.status.update(|state| state.phase = JobPhase::Stopping);
                Some(Event::Requested(BarrierKind::Stop))
            }
            Some(Command::Savepoint(reply)) => {
                self.inbox.savepoints.push(reply);
                Some(Event::Requested(BarrierKind::Savepoint))
            }
            Some(Command::Edit { plan, reply }) => {
                if let Some(refused) = refused_edit(self.plan, &plan) {
                    let _ = reply.send(Err(refusal(&refused)));
                    return None;
                }
                if plan.revision == self.plan.revision {
                    let _ = reply.send(Ok(()));
                    return None;
                }
                let kind = BarrierKind::Reconfigure(plan.revision.clone());
                if let Some((_, earlier)) = self.inbox.edit.replace((plan, reply)) {
                    let _ = earlier.send(Err("a newer edit has taken its place".to_owned()));
                }
                Some(Event::Requested(kind))
            }
        }
    }

    async fn act(&mut self, running: &mut Running, action: Action) -> Option<Event> {
        match action {
            Action::Inject { epoch, kind } => {
                self.opened.insert(epoch, self.cx.clock.monotonic());
                self.tell_sources(running, &SourceControl::Inject(Barrier { epoch, kind })).await;
                None
            }
            Action::WriteManifest { epoch, kind } => Some(self.write_manifest(epoch, kind).await),
            Action::MovePointer { epoch, from, decided } => Some(self.move_pointer(epoch, from, decided).await),
            Action::NotifyDecided { epoch, kind } => {
                self.decided(epoch, kind);
                self.tell_sources(running, &SourceControl::Decided(epoch)).await;
                None
            }
            Action::CommitSinks { epoch } => {
                let handles = self.manifest.as_ref().map(sink_handles).unwrap_or_default();
                self.commits.commit(epoch, handles).await;
                None
            }
            Action::Retire { keep, decided } => {
                if let Err(error) = self.cx.retire(decided, &keep).await {
                    tracing::warn!(error = %crate::chain(&error), "old checkpoints could not be deleted; they will be tried again");
                }
                None
            }
            Action::Abort { epoch, kind, reason } => {
                self.abort(epoch, &kind, reason);
                None
            }
            Action::StepDown { by } => self.end(Driven::SteppedDown { by }),
            Action::Ended { epoch, kind, unmet } => {
                self.inbox.unmet = unmet;
                self.end(Driven::Ended { epoch, kind })
            }
            Action::Restart { why, unmet } => {
                self.inbox.unmet = unmet;
                let error = self.take_error(&why).unwrap_or(JobError::Failed(why));
                self.end(Driven::Failed(Box::new(error)))
            }
            Action::Halt { why } => {
                let cause = self.take_error(&why).map(Box::new);
                let decided = self.coordinator.decided();
                self.end(Driven::Halted { why, decided, cause })
            }
        }
    }

    fn abort(&mut self, epoch: Epoch, kind: &BarrierKind, reason: AbortReason) {
        self.opened.remove(&epoch);
        let mut text = abort_text(reason);
        if let Some(trouble) = self.trouble.take().filter(|_| reason == AbortReason::TimedOut) {
            text = format!("{text}: {trouble}");
        }
        if *kind == BarrierKind::Savepoint {
            for reply in self.inbox.savepoints.drain(..) {
                let _ = reply.send(Err(text.clone()));
            }
        }
        if reason != AbortReason::Failed {
            self.cx.metrics.checkpoints_failed.add(1);
            self.cx.status.event(JobEvent::CheckpointFailed { epoch, reason: text });
        }
    }

    fn end(&mut self, driven: Driven) -> Option<Event> {
        self.ended = Some(driven);
        None
    }

    fn take_error(&mut self, why: &Failure) -> Option<JobError> {
        let (of_task, of_commit) = (self.first_error.take(), self.commit_error.take());
        if matches!(why, Failure::TaskFailed(_)) { of_task.or(of_commit) } else { of_commit.or(of_task) }
    }

    async fn tell_sources(&self, running: &Running, control: &SourceControl) {
        for source in running.sources.values() {
            // A source that is gone has reported why.
            let _ = source.send(control.clone()).await;
        }
    }

    async fn write_manifest(&mut self, epoch: Epoch, kind: BarrierKind) -> Event {
        let manifest = self.manifest_of(epoch, &kind);
        let outcome = match self.cx.store.create_manifest(&manifest).await {
            Ok(Create::Created { .. }) => ManifestOutcome::Created,
            Ok(Create::Exists { location }) => self.is_ours(epoch, &location).await,
            Err(error) => self.manifest_failed(epoch, &error),
        };
        self.manifest = Some(manifest);
        Event::ManifestWritten { epoch, outcome }
    }

    /// A manifest that is there already may be this generation's, by an earlier try.
    async fn is_ours(&mut self, epoch: Epoch, location: &str) -> ManifestOutcome {
        match self.cx.store.read_manifest(location).await {
            Ok(manifest) if manifest.generation == self.generation => ManifestOutcome::Created,
            Ok(_) => ManifestOutcome::NameTaken,
            Err(error) => self.manifest_failed(epoch, &error),
        }
    }

    fn manifest_of(&mut self, epoch: Epoch, kind: &BarrierKind) -> Manifest {
        let mut tasks: Vec<TaskManifest> = Vec::new();
        let mut sinks: BTreeMap<NodeName, Vec<serde_json::Value>> = BTreeMap::new();
        self.uploaded_bytes = 0;
        for (task, snapshots) in self.ledger.upto(epoch) {
            let mut newest = None;
            for (_, snapshot) in snapshots {
                self.uploaded_bytes += snapshot.uploaded_bytes;
                newest = Some(snapshot);
            }
            let Some(newest) = newest else { continue };
            // It names what the epochs that were given up have left too, and says what is held back now: one a task.
            if let Some(CommitHandle(handle)) = &newest.sink {
                sinks.entry(NodeName(task.stage.0.clone())).or_default().push(handle.clone());
            }
            tasks.push(newest.manifest.clone());
        }
        let kind_stored = match kind {
            BarrierKind::Savepoint => ManifestKind::Savepoint { name: savepoint_name(epoch) },
            _ => ManifestKind::Checkpoint,
        };
        Manifest {
            pipeline: self.plan.spec.name.clone(),
            instance: self.cx.folder.instance(),
            epoch,
            generation: self.generation,
            kind: kind_stored,
            barrier: kind.clone(),
            plan: serde_json::to_value(&self.plan.spec).unwrap_or_default(),
            revision: self.plan.revision.clone(),
            created_at: self.cx.clock.now(),
            tasks,
            sinks: sinks.into_iter().map(|(node, handles)| SinkManifest { node: node.0, handles }).collect(),
            finished: *kind == BarrierKind::Drain,
        }
    }

    async fn move_pointer(&mut self, epoch: Epoch, from: Option<Epoch>, decided: Vec<Decided>) -> Event {
        let now = self.cx.clock.monotonic();
        let duration = now.saturating_sub(self.opened.get(&epoch).copied().unwrap_or(now));
        let newest = self.manifest.as_ref().map(|manifest| newest(manifest, self.cx, duration));
        let next = Latest { generation: self.generation, decided, newest };
        let outcome = match self.decide(epoch, from, next).await {
            Ok(Advance::Move(_) | Advance::AlreadyMoved) => PointerOutcome::Moved,
            Ok(Advance::Fenced { by }) => PointerOutcome::Fenced { by },
            Ok(Advance::Lost) => PointerOutcome::Lost,
            Err(error) => {
                let error = crate::chain(&error);
                tracing::warn!(%epoch, %error, "the pointer could not be moved");
                self.held_up(epoch, error);
                PointerOutcome::Unknown { retry_after: RETRY }
            }
        };
        Event::PointerMoved { epoch, outcome }
    }

    async fn decide(&self, epoch: Epoch, from: Option<Epoch>, next: Latest) -> Result<Advance, StateError> {
        if from.is_none() {
            self.cx.folder.note_decided(epoch)?;
        }
        let advance = self.cx.pointer.advance(from, next).await?;
        if matches!(advance, Advance::Move(_) | Advance::AlreadyMoved)
            && let Err(error) = self.cx.folder.note_decided(epoch)
        {
            // The next one is noted instead, and the sinks tell too.
            tracing::debug!(%epoch, error = %crate::chain(&error), "the newest checkpoint could not be noted");
        }
        Ok(advance)
    }

    fn manifest_failed(&mut self, epoch: Epoch, error: &StateError) -> ManifestOutcome {
        let error = crate::chain(error);
        tracing::warn!(%epoch, %error, "the manifest could not be written");
        self.trouble = Some(error.clone());
        self.held_up(epoch, error);
        ManifestOutcome::Failed { retry_after: RETRY }
    }

    /// Tells what keeps a checkpoint from being decided, if it has done so for a while.
    fn held_up(&mut self, epoch: Epoch, error: String) {
        let now = self.cx.clock.monotonic();
        let since = *self.held_since.get_or_insert(now);
        if now.saturating_sub(since) >= HELD_UP {
            self.cx.status.event(JobEvent::CheckpointHeldUp { epoch, error });
        }
    }

    fn decided(&mut self, epoch: Epoch, kind: BarrierKind) {
        self.ledger.decided(epoch);
        self.trouble = None;
        self.held_since = None;
        let now = self.cx.clock.monotonic();
        let duration = now.saturating_sub(self.opened.remove(&epoch).unwrap_or(now));
        let report = CheckpointReport {
            epoch,
            completed_at: self.cx.clock.now(),
            duration,
            size_bytes: self.manifest.as_ref().map_or(0, Manifest::state_bytes),
            uploaded_bytes: self.uploaded_bytes,
            kind: kind.clone(),
        };
        let metrics = &self.cx.metrics;
        metrics.checkpoints_completed.add(1);
        metrics.checkpoint_bytes.add(report.uploaded_bytes);
        metrics.checkpoint_duration.observe(duration);
        self.cx.status.event(JobEvent::CheckpointCompleted(report));
        if kind == BarrierKind::Savepoint {
            for reply in self.inbox.savepoints.drain(..) {
                let _ = reply.send(Ok(epoch));
            }
        }
    }
}

/// The handles of a manifest, by sink node.
pub fn sink_handles(manifest: &Manifest) -> Handles {
    let handles = |sink: &SinkManifest| sink.handles.iter().cloned().map(CommitHandle).collect();
    manifest.sinks.iter().map(|sink| (NodeName(sink.node.clone()), handles(sink))).collect()
}

/// The sink nodes of a plan.
pub fn sink_nodes(plan: &Plan) -> impl Iterator<Item = (&NodeName, &millrace_plan::SinkNode)> {
    plan.nodes.iter().filter_map(|node| match &node.kind {
        NodeKind::Sink(sink) => Some((&node.name, sink)),
        _ => None,
    })
}

fn abort_text(reason: AbortReason) -> String {
    match reason {
        AbortReason::TimedOut => "it took longer than checkpoints.timeout".to_owned(),
        AbortReason::Failed => "the tasks ended".to_owned(),
        AbortReason::NameTaken => "another checkpoint has its name".to_owned(),
    }
}

async fn sleep(wait: Option<Duration>) {
    if let Some(wait) = wait {
        tokio::time::sleep(wait).await;
    }
}
