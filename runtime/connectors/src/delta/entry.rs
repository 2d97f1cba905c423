//! The entries that we write to a table's log.
//!
//! ```text
//! commitInfo   who, when, and of the pipeline: name, revision, epoch
//! protocol     in the first entry only
//! metaData     in the first entry, and when columns are added
//! txn          appId of this pipeline and node, version = epoch: by it a repeated commit is known
//! add..        one a file
//! ```

use std::collections::HashMap;

use delta_kernel::{Snapshot, schema::StructType};
use deltalake_core::kernel::{Action, Add, Metadata, MetadataExt, new_metadata};
use serde_json::{Value, json};

use crate::{
    sink::{SinkContext, SinkError},
    staging::{Prepared, refused},
};

/// Collects the actions of one entry.
pub(super) struct Entry {
    lines: Vec<u8>,
}

impl Entry {
    /// An entry that says what was done, by whom.
    pub(super) fn new(cx: &SinkContext, operation: &str, parameters: Value, epoch: Option<u64>) -> Self {
        let user = json!({"pipeline": cx.pipeline, "revision": cx.revision.0, "epoch": epoch});
        let mut info = json!({
            "timestamp": cx.clock.now().0,
            "operation": operation,
            "operationParameters": parameters,
            "isBlindAppend": true,
            "engineInfo": concat!("millrace/", env!("CARGO_PKG_VERSION")),
            "userMetadata": user.to_string(),
            "pipeline": cx.pipeline,
            "revision": cx.revision.0,
        });
        if let Some(epoch) = epoch {
            info["epoch"] = epoch.into();
        }
        let mut entry = Self { lines: Vec::new() };
        entry.push(&json!({"commitInfo": info}));
        entry
    }

    fn push(&mut self, action: &Value) {
        self.lines.extend_from_slice(action.to_string().as_bytes());
        self.lines.push(b'\n');
    }

    /// What a reader and a writer of the table must understand: nothing beyond the first versions.
    pub(super) fn protocol(&mut self) {
        self.push(&json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}));
    }

    /// The table's columns and settings.
    pub(super) fn metadata(&mut self, metadata: &Metadata) -> Result<(), SinkError> {
        let value =
            serde_json::to_value(metadata).map_err(|source| refused("a commit cannot be written".into(), source))?;
        self.push(&json!({"metaData": value}));
        Ok(())
    }

    /// That this epoch of ours is in the table from now on.
    pub(super) fn txn(&mut self, app_id: &str, epoch: u64, now_ms: u64) {
        self.push(&json!({"txn": {"appId": app_id, "version": epoch, "lastUpdated": now_ms}}));
    }

    /// A file.
    pub(super) fn add(&mut self, file: &Prepared, now_ms: u64) -> Result<(), SinkError> {
        let add = Add {
            path: file.name.clone(),
            partition_values: file.partition.iter().cloned().collect::<HashMap<_, _>>(),
            size: file.bytes as i64,
            modification_time: now_ms as i64,
            data_change: true,
            stats: file.stats.clone(),
            ..Add::default()
        };
        let line = serde_json::to_value(Action::Add(add))
            .map_err(|source| refused("a commit cannot be written".to_owned(), source))?;
        self.push(&line);
        Ok(())
    }

    /// The entry as it is written.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.lines
    }
}

/// The metadata of a new table.
pub(super) fn new_table(
    schema: &StructType,
    partition_by: &[String],
    configuration: Vec<(String, String)>,
) -> Result<Metadata, SinkError> {
    new_metadata(schema, partition_by, configuration)
        .map_err(|source| refused("the table cannot be described".to_owned(), source))
}

/// The metadata of a table that gets columns.
pub(super) fn with_columns(
    snapshot: &Snapshot,
    added: &[delta_kernel::schema::StructField],
) -> Result<Metadata, SinkError> {
    let wrong = |source| refused("the table's columns cannot be changed".to_owned(), source);
    let fields = snapshot.schema().fields().cloned().chain(added.iter().cloned()).collect::<Vec<_>>();
    let schema = StructType::try_new(fields).map_err(wrong)?;
    snapshot
        .table_configuration()
        .metadata()
        .clone()
        .with_schema(&schema)
        .map_err(|source| refused("the table's columns cannot be changed".to_owned(), source))
}
