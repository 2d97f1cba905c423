//! One Delta table on a local file system, as its log says it is.
//!
//! Reading the log is delta-kernel's work: the newest version, protocol, metadata, the `txn` of an application. Files are
//! not listed, so a snapshot's size does not grow with the table. A commit is written here, and made durable before
//! anybody sees it: the entry is written to the staging folder, fsynced, and hard-linked to its number in `_delta_log`,
//! which fails if another writer has taken the number.

use std::{fs, io, io::Write, path::PathBuf, sync::Arc};

use delta_kernel::{Engine, Error, Snapshot, SnapshotRef};
use deltalake_core::{
    checkpoints::cleanup_expired_logs_for,
    logstore::{LogStoreRef, StorageConfig, logstore_for},
};
use url::Url;

use crate::{
    sink::SinkError,
    staging::{cannot, refused, spawn_io},
};

const LOG: &str = "_delta_log";

/// Whether a commit got its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Committed,
    /// Another writer was first.
    Taken,
}

/// A table's folder and its log.
#[derive(Clone)]
pub(super) struct Table {
    root: PathBuf,
    url: Url,
    store: LogStoreRef,
}

impl Table {
    /// The table in this folder, which need not be there.
    pub(super) fn open(root: PathBuf) -> Result<Self, SinkError> {
        let bad =
            || SinkError::Refused { what: format!("{} is no place for a Delta table", root.display()), source: None };
        let url = Url::from_directory_path(&root).map_err(|()| bad())?;
        let store = logstore_for(&url, StorageConfig::default())
            .map_err(|source| refused(format!("{} is no place for a Delta table", root.display()), source))?;
        Ok(Self { root, url, store })
    }

    /// The table as messages name it.
    pub(super) fn place(&self) -> String {
        self.root.display().to_string()
    }

    /// Whether there is a log, that is, a table.
    pub(super) fn exists(&self) -> bool {
        let log = fs::read_dir(self.root.join(LOG)).into_iter().flatten().flatten();
        log.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(|c: char| c.is_ascii_digit()))
    }

    /// The newest version. `earlier` makes the reading shorter.
    pub(super) async fn snapshot(&self, earlier: Option<SnapshotRef>) -> Result<SnapshotRef, SinkError> {
        let url = self.url.clone();
        let build = move |engine: &dyn Engine| match earlier {
            Some(earlier) => Snapshot::builder_from(earlier).build(engine),
            None => Snapshot::builder_for(url).build(engine),
        };
        self.kernel("read the log of", build).await
    }

    /// The version that an application last committed.
    pub(super) async fn app_version(&self, snapshot: &SnapshotRef, app_id: &str) -> Result<Option<i64>, SinkError> {
        let (snapshot, app_id) = (snapshot.clone(), app_id.to_owned());
        self.kernel("read the log of", move |engine| snapshot.get_app_id_version(&app_id, engine)).await
    }

    /// Sums the log up to this snapshot's version up in a checkpoint.
    pub(super) async fn checkpoint(&self, snapshot: &SnapshotRef) -> Result<(), SinkError> {
        let snapshot = snapshot.clone();
        self.kernel("write a checkpoint of", move |engine| snapshot.checkpoint(engine, None).map(|_| ())).await?;
        // The checkpoint's files were written without an fsync.
        let log = self.root.join(LOG);
        let sync = move || {
            for entry in fs::read_dir(&log)? {
                let entry = entry?;
                let name = entry.file_name();
                if name.to_string_lossy().contains("checkpoint") {
                    fs::File::open(entry.path())?.sync_all()?;
                }
            }
            fs::File::open(&log)?.sync_all()
        };
        spawn_io(sync).await.map_err(|source| cannot("write", &self.root.join(LOG), source))
    }

    /// Removes entries of the log that are older than `cutoff_ms` and that a checkpoint sums up.
    pub(super) async fn clean_log(&self, version: u64, cutoff_ms: i64) -> Result<usize, SinkError> {
        cleanup_expired_logs_for(version, self.store.as_ref(), cutoff_ms, None)
            .await
            .map_err(|source| refused(format!("the log of {} cannot be cleaned", self.place()), source))
    }

    /// Tries to write a commit as this version. `staged` is the file to write it to before it is linked.
    pub(super) async fn try_commit(&self, version: u64, entry: Vec<u8>, staged: PathBuf) -> Result<Attempt, SinkError> {
        let log = self.root.join(LOG);
        let target = log.join(format!("{version:020}.json"));
        let at = target.clone();
        let work = move || -> io::Result<Attempt> {
            fs::create_dir_all(&log)?;
            if let Some(folder) = staged.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut file = fs::File::create(&staged)?;
            file.write_all(&entry)?;
            file.sync_all()?;
            let linked = fs::hard_link(&staged, &target);
            let _ = fs::remove_file(&staged);
            match linked {
                Ok(()) => fs::File::open(&log)?.sync_all().map(|()| Attempt::Committed),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Attempt::Taken),
                Err(error) => Err(error),
            }
        };
        spawn_io(work).await.map_err(|source| cannot("commit", &at, source))
    }

    /// Runs delta-kernel, which blocks, away from the asynchronous tasks.
    async fn kernel<T: Send + 'static>(
        &self,
        verb: &str,
        work: impl FnOnce(&dyn Engine) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, SinkError> {
        let engine: Arc<dyn Engine> = self.store.engine(None);
        let done = tokio::task::spawn_blocking(move || work(engine.as_ref())).await;
        let what = format!("cannot {verb} the Delta table {}", self.place());
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(refused(what, source)),
            Err(source) => Err(refused(what, source)),
        }
    }
}
