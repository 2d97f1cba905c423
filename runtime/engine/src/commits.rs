//! The committers of a plan's sinks, driven one epoch after the other beside the coordinator, so that a slow commit delays
//! the next commit and nothing else.
//!
//! A commit that fails for a reason that may pass ([`may_pass`]) is asked for again by the coordinator after a while
//! ([`retry_after`]), as often as it takes: the epoch is decided, its rows are safe, and rows flow on meanwhile. Only where
//! the rows themselves are gone it is soon told. Each sink is asked until it has committed, and not again.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    time::Duration,
};

use millrace_connectors::{CommitHandle, Committed, Committer, SinkError};
use millrace_stream::{Epoch, Generation, NodeName};
use tokio::{sync::mpsc, task::JoinHandle};

/// The wait after the first failed attempt; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// How often a commit is tried whose files are gone. They do not come back by themselves, so somebody has to hear of it.
const GONE_ATTEMPTS: u32 = 6;

/// A decided epoch's handles, by sink node.
pub type Handles = BTreeMap<NodeName, Vec<CommitHandle>>;

/// What became of a commit.
#[derive(Debug)]
pub struct CommitResult {
    /// The epoch.
    pub epoch: Epoch,
    /// What was made visible by all attempts together, or which sink failed in this one.
    pub outcome: Result<Committed, CommitError>,
}

/// A sink that could not be committed.
#[derive(Debug, thiserror::Error)]
#[error("sink {node} could not be committed")]
pub struct CommitError {
    /// The sink node.
    pub node: NodeName,
    /// Why.
    #[source]
    pub source: SinkError,
}

/// Commits decided epochs in order.
pub struct Commits {
    work: mpsc::Sender<(Epoch, Handles)>,
    results: mpsc::Receiver<CommitResult>,
    worker: JoinHandle<()>,
}

impl Commits {
    /// Starts committing with these, which have recovered.
    pub fn start(committers: BTreeMap<NodeName, Box<dyn Committer>>) -> Self {
        let (work, mut queue) = mpsc::channel::<(Epoch, Handles)>(8);
        let (result, results) = mpsc::channel(8);
        let worker = tokio::spawn(async move {
            let mut committers = committers;
            let mut progress = Progress::default();
            while let Some((epoch, handles)) = queue.recv().await {
                let outcome = progress.commit(&mut committers, epoch, &handles).await;
                if result.send(CommitResult { epoch, outcome }).await.is_err() {
                    return;
                }
            }
        });
        Self { work, results, worker }
    }

    /// Commits the epoch after those that were given before, or the last one again.
    pub async fn commit(&self, epoch: Epoch, handles: Handles) {
        // A worker that is gone has reported a failure, which the coordinator sees next.
        let _ = self.work.send((epoch, handles)).await;
    }

    /// The next result. Cancel-safe.
    pub async fn result(&mut self) -> Option<CommitResult> {
        self.results.recv().await
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

/// Commits again what the last decided epoch named, and removes what later ones staged.
pub async fn recover(
    committers: &mut BTreeMap<NodeName, Box<dyn Committer>>,
    decided: Option<(Epoch, &Handles)>,
) -> Result<Committed, CommitError> {
    let mut total = Committed::default();
    for (node, committer) in committers {
        let handles = decided.map(|(epoch, handles)| (epoch, handles.get(node).map_or(&[][..], Vec::as_slice)));
        let committed = committer.recover(handles).await;
        total.add(committed.map_err(|source| CommitError { node: node.clone(), source })?);
    }
    Ok(total)
}

/// What is done of the epoch that is being committed.
#[derive(Debug, Default)]
struct Progress {
    epoch: Option<Epoch>,
    done: BTreeSet<NodeName>,
    total: Committed,
}

impl Progress {
    /// Asks every sink that has not committed the epoch. One that fails holds no other back.
    async fn commit(
        &mut self,
        committers: &mut BTreeMap<NodeName, Box<dyn Committer>>,
        epoch: Epoch,
        handles: &Handles,
    ) -> Result<Committed, CommitError> {
        if self.epoch != Some(epoch) {
            *self = Self { epoch: Some(epoch), ..Self::default() };
        }
        let mut failed: Option<CommitError> = None;
        for (node, committer) in committers {
            let Some(handles) = handles.get(node).filter(|_| !self.done.contains(node)) else { continue };
            match committer.commit(epoch, handles).await {
                Ok(committed) => {
                    self.total.add(committed);
                    self.done.insert(node.clone());
                }
                // What does not pass is what ends the pipeline, so it is what is told.
                Err(source) if failed.as_ref().is_none_or(|failed| may_pass(&failed.source)) => {
                    failed = Some(CommitError { node: node.clone(), source });
                }
                Err(_) => {}
            }
        }
        failed.map_or(Ok(self.total), Err)
    }
}

/// Whether the same may succeed later. What the operating system refuses (a missing right, a file where a folder is needed)
/// can be mended while the pipeline runs, and a folder that was moved away can be moved back; what does not fit the
/// destination cannot.
pub fn may_pass(error: &SinkError) -> bool {
    match error {
        SinkError::Io { .. } | SinkError::Conflict { .. } | SinkError::Gone { .. } => true,
        SinkError::Refused { source, .. } => {
            let mut cause = source.as_ref().map(|source| source.as_ref() as &(dyn std::error::Error + 'static));
            while let Some(error) = cause {
                if let Some(error) = error.downcast_ref::<io::Error>() {
                    // Whoever was reading the standard output has gone.
                    return error.kind() != io::ErrorKind::BrokenPipe;
                }
                cause = error.source();
            }
            false
        }
    }
}

/// How long to wait after attempt number `attempt` (from 1) has failed; `None`: another one fails too. Between half of a
/// doubling wait and all of it, so that pipelines that fail together do not try again together.
pub fn retry_after(error: &CommitError, attempt: u32, (epoch, generation): (Epoch, Generation)) -> Option<Duration> {
    let is_hopeless = matches!(error.source, SinkError::Gone { .. }) && attempt > GONE_ATTEMPTS;
    if is_hopeless || !may_pass(&error.source) {
        return None;
    }
    let doubled = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
    let wait = match &error.source {
        SinkError::Conflict { retry_after, .. } => doubled.max(*retry_after),
        _ => doubled,
    };
    let mut hasher = DefaultHasher::new();
    (&error.node.0, epoch.0, generation.0, attempt).hash(&mut hasher);
    Some(wait.min(MAX_WAIT).mul_f64(0.5 + (hasher.finish() % 1024) as f64 / 2048.0))
}

#[cfg(test)]
mod tests;
