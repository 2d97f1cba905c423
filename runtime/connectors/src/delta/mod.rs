//! The `delta` sink: a Delta table, with one commit an epoch.
//!
//! | | |
//! |---|---|
//! | promise | exactly once: an epoch's rows are in one commit, with a `txn` action that names pipeline, node and epoch |
//! | what voids it | somebody else removes our `txn` or our files; the file system loses what was fsynced |
//! | a new file | at every epoch, one for each partition that has rows; with `batch`, when a limit is reached |
//! | other writers | may write at the same time; a commit that meets another is checked and tried again |
//! | changelogs | refused |
//!
//! The table is made if it is not there. Its columns must fit the pipeline's: same names and types; what the table has
//! beyond is null. What it lacks is refused, or added with `schemaEvolution: AddColumns`. A null in a column that may have none
//! fails the pipeline. A table that was made by others keeps its own
//! `delta.logRetentionDuration` and must be partitioned as the Sink says.
//!
//! Data files are staged and renamed like those of the `parquet` sink, into place just before the commit: a Delta reader
//! finds files by the log only, so nobody sees them before. Timestamps are stored as microseconds in UTC.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use arrow::datatypes::SchemaRef;
use futures::future::BoxFuture;

use crate::{
    parquet_sink::{Columns, ParquetRows, ParquetSettings},
    sink::{CommitHandle, Committer, Sink, SinkContext, SinkError, SinkFactory},
    staging::{Batching, Folder, holds},
};

mod committer;
mod entry;
mod required;
mod schema;
mod stats;
mod table;

use committer::{DeltaCommitter, check};
use required::Required;
use schema::{delta_schema, required};
use table::Table;

/// What a Sink says of its table.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaSettings {
    /// The columns that the table is partitioned by.
    pub partition_by: Vec<String>,
    /// Whether columns that the table lacks are added to it.
    pub add_columns: bool,
    /// For how long the log of a table that says nothing about it is kept.
    pub log_retention: Duration,
    /// After how many commits the log is checkpointed.
    pub checkpoint_every: u32,
}

impl Default for DeltaSettings {
    fn default() -> Self {
        Self {
            partition_by: Vec::new(),
            add_columns: false,
            log_retention: Duration::from_secs(7 * 86_400),
            checkpoint_every: 10,
        }
    }
}

impl DeltaSettings {
    /// The properties of a table that we make.
    fn configuration(&self) -> Vec<(String, String)> {
        vec![
            ("delta.logRetentionDuration".to_owned(), format!("interval {} seconds", self.log_retention.as_secs())),
            ("delta.checkpointInterval".to_owned(), self.checkpoint_every.max(1).to_string()),
        ]
    }
}

/// Makes the parts of a `delta` sink.
#[derive(Clone, Debug)]
pub struct DeltaSinkFactory {
    /// The table's folder.
    pub path: PathBuf,
    /// What the Sink says of the table.
    pub table: DeltaSettings,
    /// How files are written.
    pub files: ParquetSettings,
    /// When what was gathered is committed.
    pub batching: Batching,
}

impl DeltaSinkFactory {
    /// The columns, and the table, which takes them if it is there: with its columns that may not be null.
    async fn look(&self, schema: &SchemaRef) -> Result<(Columns, Table, BTreeSet<String>), SinkError> {
        let columns = Columns::new(schema, &self.table.partition_by)?;
        let ours = delta_schema(columns.stored())?;
        let table = Table::open(self.path.clone())?;
        let mut never_null = BTreeSet::new();
        if table.exists() {
            let snapshot = table.snapshot(None).await?;
            check(&table, &snapshot, &ours, &self.table)?;
            never_null = required(&snapshot.schema());
        }
        Ok((columns, table, never_null))
    }
}

impl SinkFactory for DeltaSinkFactory {
    fn open(&self, cx: SinkContext, restored: Option<CommitHandle>) -> BoxFuture<'_, Result<Box<dyn Sink>, SinkError>> {
        Box::pin(async move {
            let (columns, table, never_null) = self.look(&cx.schema).await?;
            let folder = Folder::new(self.path.clone(), &cx);
            let sink = ParquetRows::open(folder, columns, &cx, self.files, self.batching, restored, stats::describe)?;
            let sink: Box<dyn Sink> = Box::new(sink);
            Ok(match never_null.is_empty() {
                true => sink,
                false => Box::new(Required::new(sink, never_null, table.place())),
            })
        })
    }

    fn fits(&self, schema: SchemaRef) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move { self.look(&schema).await.map(|_| ()) })
    }

    fn holds(&self, handle: &CommitHandle) -> bool {
        holds(handle)
    }

    fn committer(&self, cx: SinkContext) -> BoxFuture<'_, Result<Box<dyn Committer>, SinkError>> {
        Box::pin(async move {
            let columns = Columns::new(&cx.schema, &self.table.partition_by)?;
            let ours = delta_schema(columns.stored())?;
            let table = Table::open(self.path.clone())?;
            let folder = Folder::new(self.path.clone(), &cx);
            folder.check()?;
            let committer = DeltaCommitter::new(cx, self.table.clone(), table, ours, folder);
            Ok(Box::new(committer) as Box<dyn Committer>)
        })
    }
}

/// The application that the table's `txn` actions name.
fn app_id(cx: &SinkContext) -> String {
    format!("millrace/{}/{}/{}", cx.pipeline, cx.instance, cx.node)
}

#[cfg(test)]
mod tests;
