//! A keyed task's state on its way to the checkpoint store, and back.
//!
//! ```text
//! frozen changes ─ write ─▶ task store ─ hard links ─▶ state/<task>/epoch-N ─ what the store lacks ─▶ checkpoint store
//! ```

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use millrace_state::{
    CheckpointStore, Origin, RestoreFrom, StateError, StoredFile, TaskManifest, TaskStore, data_folder::remove_folder,
    fault,
};
use millrace_stream::{Epoch, EventTime, Generation, KeyGroupRange, TaskId};

use crate::{JobContext, operator::Frozen};

/// Writes one task's snapshots. Goes along with each of them, so there is one at a time.
pub struct Snapshotter {
    task: TaskId,
    key_groups: KeyGroupRange,
    generation: Generation,
    store: Arc<TaskStore>,
    checkpoints: CheckpointStore,
    /// Holds the local copies, `epoch-N`.
    folder: PathBuf,
    /// What the checkpoint store has of this store.
    known: Vec<StoredFile>,
}

/// A stored snapshot.
pub struct StateUpload {
    /// For the manifest.
    pub manifest: TaskManifest,
    /// What had to be uploaded.
    pub uploaded_bytes: u64,
}

impl Snapshotter {
    /// The store of a task as of a checkpoint, `parts` being what the tasks wrote that held its key groups; empty without.
    pub async fn restore(
        task: &TaskId,
        key_groups: KeyGroupRange,
        states: &'static [&'static str],
        parts: &[&TaskManifest],
        epoch: Option<Epoch>,
        generation: Generation,
        cx: &JobContext,
    ) -> Result<(Arc<TaskStore>, Self), StateError> {
        let folder = cx.folder.task_folder(task);
        // A folder a generation: what an earlier one left, or still writes, is not in the way.
        let live = folder.join(format!("db-{generation}"));
        if !parts.is_empty() {
            fault::point("before-restore")?;
        }
        let mut from = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let fetched = folder.join(format!("restore-{generation}-{number}"));
            let local = epoch.map(|epoch| cx.folder.task_checkpoint(&part.task, epoch));
            cx.store.fetch_task(part, &fetched, local.as_deref()).await?;
            from.push(RestoreFrom { dir: fetched, range: part.key_groups });
        }
        let resources = cx.resources.clone();
        let store = blocking({
            let (live, from) = (live.clone(), from.clone());
            move || {
                if from.is_empty() {
                    TaskStore::create(&live, states, &resources)
                } else {
                    TaskStore::restore(&live, states, key_groups, &from, &resources)
                }
            }
        })
        .await?;
        if !parts.is_empty() {
            fault::point("after-restore")?;
        }
        let kept = epoch.map(|epoch| cx.folder.task_checkpoint(task, epoch));
        clean(&folder, &[Some(live), kept]);
        let known = match parts {
            [only] if store.origin() == Origin::Linked => only.files.clone(),
            _ => Vec::new(),
        };
        let store = Arc::new(store);
        let snapshotter = Self {
            task: task.clone(),
            key_groups,
            generation,
            store: store.clone(),
            checkpoints: cx.store.clone(),
            folder,
            known,
        };
        Ok((store, snapshotter))
    }

    /// Writes frozen changes and brings what the checkpoint store lacks there. Gives itself back for the next time.
    pub async fn take(
        mut self,
        epoch: Epoch,
        frozen: Frozen,
        watermark: EventTime,
    ) -> (Self, Result<StateUpload, StateError>) {
        let upload = self.write(epoch, frozen, watermark).await;
        (self, upload)
    }

    async fn write(&mut self, epoch: Epoch, frozen: Frozen, watermark: EventTime) -> Result<StateUpload, StateError> {
        let Frozen { meta, write } = frozen;
        let (store, copy) = (self.store.clone(), self.folder.join(format!("epoch-{epoch}")));
        let files = blocking(move || {
            if let Some(write) = write {
                write(&store)?;
            }
            store.checkpoint(&copy)
        })
        .await?;
        let stored = self.checkpoints.upload_task(&self.task, self.generation, &files, &self.known).await?;
        let had = |file: &StoredFile| self.known.iter().any(|known| known.name == file.name);
        let uploaded_bytes = stored.iter().filter(|file| !had(file)).map(|file| file.bytes).sum();
        self.known.clone_from(&stored);
        self.forget_copies_before(epoch);
        let manifest = TaskManifest {
            task: self.task.clone(),
            key_groups: self.key_groups,
            watermark,
            files: stored,
            meta,
            replay_points: Vec::new(),
        };
        Ok(StateUpload { manifest, uploaded_bytes })
    }

    /// Keeps the copy of this epoch and of the one before it, which may be the last decided one.
    fn forget_copies_before(&self, epoch: Epoch) {
        let mut copies: Vec<u64> = names(&self.folder)
            .filter_map(|name| name.strip_prefix("epoch-")?.parse().ok())
            .filter(|number| *number < epoch.0)
            .collect();
        copies.sort_unstable();
        copies.pop();
        for number in copies {
            // Only disk space is at stake; the next snapshot tries again.
            let _ = remove_folder(&self.folder.join(format!("epoch-{number}")));
        }
    }
}

/// The manifest part of a task that keeps nothing in a store.
pub fn stateless(task: &TaskId, watermark: EventTime, meta: serde_json::Value) -> TaskManifest {
    TaskManifest {
        task: task.clone(),
        key_groups: KeyGroupRange { start: 0, end: 0 },
        watermark,
        files: Vec::new(),
        meta,
        replay_points: Vec::new(),
    }
}

/// Deletes what earlier generations left in a task's folder.
fn clean(folder: &Path, kept: &[Option<PathBuf>]) {
    for path in names(folder).map(|name| folder.join(name)) {
        if !kept.iter().flatten().any(|kept| *kept == path) {
            let _ = remove_folder(&path);
        }
    }
}

fn names(folder: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
