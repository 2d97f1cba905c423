//! The committers of a plan's sinks, driven one epoch after the other beside the coordinator, so that a slow commit delays
//! the next commit and nothing else.

use std::{collections::BTreeMap, time::Duration};

use millrace_connectors::{CommitHandle, Committed, Committer, SinkError};
use millrace_stream::{Epoch, NodeName};
use tokio::{sync::mpsc, task::JoinHandle};

/// How often a commit is tried before the pipeline is restarted.
const ATTEMPTS: u32 = 6;
/// The wait after the first failed attempt; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// A decided epoch's handles, by sink node.
pub type Handles = BTreeMap<NodeName, Vec<CommitHandle>>;

/// What became of a commit.
#[derive(Debug)]
pub struct CommitResult {
    /// The epoch.
    pub epoch: Epoch,
    /// What was made visible, or which sink failed for good.
    pub outcome: Result<Committed, CommitError>,
}

/// A sink that could not be committed.
#[derive(Debug, thiserror::Error)]
#[error("sink {node} could not be committed")]
pub struct CommitError {
    /// The sink node.
    pub node: NodeName,
    /// Why, at the last attempt.
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
            while let Some((epoch, handles)) = queue.recv().await {
                let outcome = commit_all(&mut committers, epoch, &handles).await;
                if result.send(CommitResult { epoch, outcome }).await.is_err() {
                    return;
                }
            }
        });
        Self { work, results, worker }
    }

    /// Commits the epoch after those that were given before.
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
        add(&mut total, committed.map_err(|source| CommitError { node: node.clone(), source })?);
    }
    Ok(total)
}

async fn commit_all(
    committers: &mut BTreeMap<NodeName, Box<dyn Committer>>,
    epoch: Epoch,
    handles: &Handles,
) -> Result<Committed, CommitError> {
    let mut total = Committed::default();
    for (node, committer) in committers {
        let Some(handles) = handles.get(node) else { continue };
        add(&mut total, commit_one(node, committer.as_mut(), epoch, handles).await?);
    }
    Ok(total)
}

async fn commit_one(
    node: &NodeName,
    committer: &mut dyn Committer,
    epoch: Epoch,
    handles: &[CommitHandle],
) -> Result<Committed, CommitError> {
    let mut wait = FIRST_WAIT;
    for attempt in 1.. {
        let error = match committer.commit(epoch, handles).await {
            Ok(committed) => return Ok(committed),
            Err(error) => error,
        };
        let wait_now = match &error {
            SinkError::Refused { .. } => return Err(CommitError { node: node.clone(), source: error }),
            SinkError::Conflict { retry_after, .. } => (*retry_after).max(wait),
            SinkError::Io { .. } => wait,
        };
        if attempt >= ATTEMPTS {
            return Err(CommitError { node: node.clone(), source: error });
        }
        tracing::warn!(sink = %node, %epoch, attempt, error = %error, "a commit failed and is tried again");
        tokio::time::sleep(wait_now).await;
        wait *= 2;
    }
    Ok(Committed::default())
}

fn add(total: &mut Committed, more: Committed) {
    total.rows += more.rows;
    total.bytes += more.bytes;
}
