//! A job on threads of its own.

use std::{path::PathBuf, sync::Arc, time::Duration};

use millrace_engine::{Command, JobError, Outcome};
use millrace_plan::Plan;
use millrace_state::{Pointer, StateError};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use crate::{
    context::{self, Beginning, Instruments, Place, Threads},
    control,
    overview::Overview,
    server::Readiness,
};

/// How long background work of a job that has ended may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a job is made from.
pub struct JobSpec {
    /// What it runs.
    pub plan: Plan,
    /// Where it keeps what it must remember.
    pub place: Place,
    /// Which checkpoint counts.
    pub pointer: Arc<dyn Pointer>,
    /// Where it begins.
    pub beginning: Beginning,
    /// What it counts with.
    pub instruments: Instruments,
    /// For its control socket.
    pub overview: Arc<Overview>,
    /// For its control socket.
    pub readiness: Readiness,
}

/// A running job.
pub struct JobThread {
    /// What can be asked of it.
    pub commands: mpsc::Sender<Command>,
    /// How it ended; `None`: it was abandoned.
    pub ended: oneshot::Receiver<Option<Result<Outcome, JobError>>>,
    abandon: Option<oneshot::Sender<()>>,
}

impl JobThread {
    /// Starts a job.
    ///
    /// # Errors
    ///
    /// There are no threads to be had.
    pub fn start(spec: JobSpec) -> Result<Self, JobError> {
        let (commands, inbox) = mpsc::channel(16);
        let (abandon, abandoned) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let failed = |source| StateError::Io { action: "start threads for", path: spec.place.data_dir.clone(), source };
        let threads = Threads::start(&spec.plan).map_err(failed)?;
        let asked = commands.clone();
        let work = move || {
            let done = threads.run(PATIENCE, |tasks| async {
                tokio::select! {
                    biased;
                    _ = abandoned => None,
                    ended = run(spec, asked, inbox, tasks) => Some(ended),
                }
            });
            // Nothing of the job is left when its end is told: the next one works in the same folder.
            let _ = end.send(done);
        };
        let thread = std::thread::Builder::new().name("millrace-job".to_owned()).spawn(work);
        thread.map_err(|source| StateError::Io { action: "start a thread for", path: PathBuf::new(), source })?;
        Ok(Self { commands, ended, abandon: Some(abandon) })
    }

    /// Ends it as a crash does, without a checkpoint.
    pub fn abandon(&mut self) {
        if let Some(abandon) = self.abandon.take() {
            let _ = abandon.send(());
        }
    }
}

async fn run(
    spec: JobSpec,
    commands: mpsc::Sender<Command>,
    inbox: mpsc::Receiver<Command>,
    tasks: Handle,
) -> Result<Outcome, JobError> {
    let JobSpec { plan, place, pointer, beginning, instruments, overview, readiness } = spec;
    let cx = context::open(&plan, &place, |_, _| Ok(pointer), beginning, instruments, tasks).await?;
    // For whoever has a shell in the pod. Nothing depends on it.
    let control = match control::serve(cx.folder.path(), overview, readiness, commands).await {
        Ok(control) => Some(control),
        Err(error) => {
            tracing::warn!(%error, "there is no control socket: `millrace checkpoints savepoint` does not reach this pod");
            None
        }
    };
    let ended = millrace_engine::run(plan, Arc::new(cx), inbox).await;
    drop(control);
    ended
}
