//! One commit to the table's log an epoch.
//!
//! What is known of an epoch is in the table itself: the `txn` action with the application id of this pipeline and node,
//! whose version is the newest epoch that is in. Epochs are committed in order, so a prepared file is in the table exactly
//! if the epoch that prepared it is not newer than that. A repeated commit finds nothing left to add.
//!
//! Another writer may take the version that we are about to write. Rows that are only added conflict with nothing but a
//! change of the table's columns or protocol, so the entry is checked against the newer version and written again as the
//! next, at most [`ATTEMPTS`] times with a growing, jittered pause.

use std::{collections::BTreeSet, time::Duration};

use delta_kernel::{SnapshotRef, schema::StructType};
use futures::future::BoxFuture;
use millrace_stream::Epoch;
use serde_json::json;
use tracing::{info, warn};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    DeltaSettings, app_id,
    entry::{Entry, new_table, with_columns},
    schema::{Fit, check_demands, fit, refuse_new_columns, required},
    table::{Attempt, Table},
};
use crate::{
    sink::{CommitHandle, Committed, Committer, SinkContext, SinkError},
    staging::{Folder, Handle, Prepared, Proof, Publisher, fault_point},
};

/// How often a commit is tried while others take the versions.
const ATTEMPTS: u32 = 15;

/// The first pause between two tries; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(2);

pub(super) struct DeltaCommitter {
    cx: SinkContext,
    settings: DeltaSettings,
    table: Table,
    ours: StructType,
    publisher: Publisher,
    /// The newest version that was seen.
    seen: Option<SnapshotRef>,
    /// The columns that may not be null, when the table was first looked at.
    required: Option<BTreeSet<String>>,
    /// The newest epoch that is in the table. `None`: it has to be read from there.
    epoch: Option<Option<u64>>,
}

impl DeltaCommitter {
    pub(super) fn new(
        cx: SinkContext,
        settings: DeltaSettings,
        table: Table,
        ours: StructType,
        folder: Folder,
    ) -> Self {
        let publisher = Publisher::new(folder, &cx);
        Self { cx, settings, table, ours, publisher, seen: None, required: None, epoch: None }
    }

    /// The table's newest version, after checking that our rows fit it; with the columns that it lacks.
    async fn look(&mut self) -> Result<(SnapshotRef, Fit), SinkError> {
        if !self.table.exists() {
            return Err(SinkError::Gone {
                what: format!("the log of the Delta table {} has vanished; put it back", self.table.place()),
            });
        }
        let snapshot = self.table.snapshot(self.seen.clone()).await?;
        self.seen = Some(snapshot.clone());
        // Rows that are written look for nulls where the table had none when the pipeline started.
        let now = required(&snapshot.schema());
        let known = self.required.get_or_insert_with(|| now.clone());
        if let Some(column) = now.difference(known).next() {
            return Err(SinkError::Refused {
                what: format!(
                    "since the pipeline started, `{column}` may not be null any more in the table {}; let it be null \
                     until the pipeline has started again",
                    self.table.place()
                ),
                source: None,
            });
        }
        let fit = check(&self.table, &snapshot, &self.ours, &self.settings)?;
        Ok((snapshot, fit))
    }

    /// The newest epoch of ours that is in the table.
    async fn committed_epoch(&mut self, snapshot: &SnapshotRef) -> Result<Option<u64>, SinkError> {
        if let Some(known) = self.epoch {
            return Ok(known);
        }
        let version = self.table.app_version(snapshot, &app_id(&self.cx)).await?;
        let epoch = version.and_then(|version| u64::try_from(version).ok());
        self.epoch = Some(epoch);
        Ok(epoch)
    }

    /// Makes the table if there is none.
    async fn create(&mut self) -> Result<(), SinkError> {
        if self.table.exists() {
            return Ok(());
        }
        let mut entry = Entry::new(&self.cx, "CREATE TABLE", json!({"mode": "ErrorIfExists"}), None);
        entry.protocol();
        entry.metadata(&new_table(&self.ours, &self.settings.partition_by, self.settings.configuration())?)?;
        match self.table.try_commit(0, entry.into_bytes(), self.staged_entry()).await? {
            Attempt::Committed => info!(table = %self.table.place(), "created the Delta table"),
            Attempt::Taken => {}
        }
        Ok(())
    }

    fn staged_entry(&self) -> std::path::PathBuf {
        self.publisher.folder().staging().join("commit.staged")
    }

    /// Adds the handles' files that are not in the table yet, as one commit.
    async fn add(&mut self, epoch: Epoch, handles: &[Handle]) -> Result<Committed, SinkError> {
        let files = handles.iter().flat_map(|handle| &handle.files);
        let files: Vec<&Prepared> = files.filter(|file| !self.publisher.is_settled(file)).collect();
        if files.is_empty() {
            return Ok(Committed::default());
        }
        let mut pause = FIRST_PAUSE;
        for attempt in 0..ATTEMPTS {
            let (snapshot, fit) = self.look().await?;
            let newest = self.committed_epoch(&snapshot).await?;
            let new: Vec<&Prepared> = files.iter().copied().filter(|file| Some(file.epoch) > newest).collect();
            if new.is_empty() {
                return Ok(Committed::default());
            }
            let entry = self.entry(epoch, &snapshot, &fit, &new)?;
            fault_point("delta-before-commit")?;
            // Until the answer is known, only the table can tell whether the epoch is in.
            self.epoch = None;
            let version = snapshot.version() + 1;
            match self.table.try_commit(version, entry, self.staged_entry()).await? {
                Attempt::Committed => {
                    fault_point("delta-after-commit")?;
                    self.epoch = Some(Some(epoch.0));
                    self.tidy(version).await;
                    let mut committed = Committed::default();
                    new.iter().for_each(|file| committed.add(Committed { rows: file.rows, bytes: file.bytes }));
                    return Ok(committed);
                }
                Attempt::Taken => {
                    warn!(table = %self.table.place(), version, attempt, "another writer was first; trying the next version");
                    tokio::time::sleep(jittered(pause, &self.cx, version)).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
        Err(SinkError::Conflict {
            what: format!(
                "other writers took {ATTEMPTS} versions of the Delta table {} in a row, epoch {epoch} waits",
                self.table.place()
            ),
            retry_after: MAX_PAUSE,
        })
    }

    fn entry(
        &self,
        epoch: Epoch,
        snapshot: &SnapshotRef,
        fit: &Fit,
        files: &[&Prepared],
    ) -> Result<Vec<u8>, SinkError> {
        let app_id = app_id(&self.cx);
        let parameters = json!({"outputMode": "Append", "queryId": app_id, "epochId": epoch.0.to_string()});
        let now_ms = self.cx.clock.now().0;
        let mut entry = Entry::new(&self.cx, "STREAMING UPDATE", parameters, Some(epoch.0));
        if let Fit::Lacks(columns) = fit {
            entry.metadata(&with_columns(snapshot, columns)?)?;
        }
        entry.txn(&app_id, epoch.0, now_ms);
        for file in files {
            entry.add(file, now_ms)?;
        }
        Ok(entry.into_bytes())
    }

    /// Checkpoints the log and cleans it, when it is time. Neither must fail the commit, which is done.
    async fn tidy(&mut self, version: u64) {
        if !(version + 1).is_multiple_of(u64::from(self.settings.checkpoint_every.max(1))) {
            return;
        }
        let tidied = async {
            let snapshot = self.table.snapshot(self.seen.clone()).await?;
            self.table.checkpoint(&snapshot).await?;
            let retention = snapshot.table_properties().log_retention_duration.unwrap_or(self.settings.log_retention);
            let cutoff_ms = self.cx.clock.now().0.saturating_sub(retention.as_millis() as u64) as i64;
            let removed = self.table.clean_log(snapshot.version(), cutoff_ms).await?;
            Ok::<_, SinkError>((snapshot, removed))
        };
        match tidied.await {
            Ok((snapshot, removed)) => {
                info!(table = %self.table.place(), version = snapshot.version(), removed, "checkpointed the table's log");
                // The earlier snapshot may name entries that are gone now.
                self.seen = None;
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(table = %self.table.place(), %error, cause, "the table's log could not be checkpointed; trying later");
            }
        }
    }
}

/// Checks that our rows can be added to this version of the table.
pub(super) fn check(
    table: &Table,
    snapshot: &SnapshotRef,
    ours: &StructType,
    settings: &DeltaSettings,
) -> Result<Fit, SinkError> {
    let place = table.place();
    let configuration = snapshot.table_configuration();
    let metadata = configuration.metadata();
    let features: Vec<String> = serde_json::to_value(configuration.protocol())
        .ok()
        .and_then(|protocol| serde_json::from_value(protocol["writerFeatures"].clone()).ok())
        .unwrap_or_default();
    check_demands(&place, &features, metadata.configuration(), &snapshot.schema())?;
    if metadata.partition_columns() != settings.partition_by.as_slice() {
        return Err(SinkError::Refused {
            what: format!(
                "the table {place} is partitioned by [{}], the Sink says partitionBy: [{}]",
                metadata.partition_columns().join(", "),
                settings.partition_by.join(", ")
            ),
            source: None,
        });
    }
    match fit(&place, ours, &snapshot.schema())? {
        Fit::Lacks(columns) if !settings.add_columns => Err(refuse_new_columns(&place, &columns)),
        fit => Ok(fit),
    }
}

/// Between half of `pause` and all of it, by a hash of who waits for what: writers that collided do not collide again.
fn jittered(pause: Duration, cx: &SinkContext, version: u64) -> Duration {
    let seed = xxh3_64(format!("{} {} {version}", app_id(cx), cx.generation).as_bytes());
    pause / 2 + pause.mul_f64((seed % 1024) as f64 / 2048.0)
}

impl Committer for DeltaCommitter {
    fn commit<'a>(
        &'a mut self,
        epoch: Epoch,
        handles: &'a [CommitHandle],
    ) -> BoxFuture<'a, Result<Committed, SinkError>> {
        Box::pin(async move {
            fault_point("before-commit")?;
            let handles = Publisher::load(handles)?;
            self.publisher.publish(epoch, &handles).await?;
            let committed = self.add(epoch, &handles).await?;
            self.publisher.completed(&handles).await;
            fault_point("after-commit")?;
            Ok(committed)
        })
    }

    fn recover<'a>(
        &'a mut self,
        decided: Option<(Epoch, &'a [CommitHandle])>,
    ) -> BoxFuture<'a, Result<Committed, SinkError>> {
        Box::pin(async move {
            let Some((epoch, handles)) = decided else {
                self.create().await?;
                self.publisher.sweep(None, &[]).await?;
                self.look().await?;
                return Ok(Committed::default());
            };
            let handles = Publisher::load(handles)?;
            self.epoch = None;
            let is_there = self.table.exists();
            let newest = match is_there {
                true => {
                    let snapshot = self.table.snapshot(None).await?;
                    self.committed_epoch(&snapshot).await?
                }
                false => None,
            };
            let proof = Proof::Recorded { dropped: !is_there };
            self.publisher.settle(epoch, &handles, proof, |file| Some(file.epoch) <= newest)?;
            if newest > Some(epoch.0) {
                warn!(
                    table = %self.table.place(),
                    checkpoint = epoch.0,
                    table_epoch = newest,
                    "the table is ahead of the checkpoint: rows since the checkpoint are in it already and come again"
                );
            }
            self.create().await?;
            self.publisher.publish(epoch, &handles).await?;
            let committed = self.add(epoch, &handles).await?;
            self.publisher.completed(&handles).await;
            self.publisher.sweep(Some(epoch), &handles).await?;
            self.look().await?;
            Ok(committed)
        })
    }

    fn newest(&mut self) -> BoxFuture<'_, Result<Option<Epoch>, SinkError>> {
        Box::pin(async move {
            if !self.table.exists() {
                return Ok(None);
            }
            let snapshot = self.table.snapshot(None).await?;
            let committed = self.committed_epoch(&snapshot).await?.map(Epoch);
            // Files are given their names before the log tells of them.
            Ok(committed.max(self.publisher.newest().await?))
        })
    }

    fn discard<'a>(&'a mut self, keep: &'a [CommitHandle]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move { self.publisher.discard(&Publisher::load(keep)?).await })
    }
}
