//! `millrace checkpoints`.

use std::{io, path::Path, time::Duration};

use millrace_state::{
    CheckpointStore, DataFolder, FilePointer, Latest, Manifest, ManifestId, ManifestKind, StateError,
};

use crate::{
    Failure,
    cli::{CheckpointsCommand, DataArgs},
    context, control, run, telemetry,
};

/// Does what is asked.
pub fn run(command: CheckpointsCommand) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        match command {
            CheckpointsCommand::List(data) => list(&data).await,
            CheckpointsCommand::Inspect { data, checkpoint } => inspect(&data, &checkpoint).await,
            CheckpointsCommand::Savepoint { data, timeout_seconds } => {
                savepoint(&data.data_dir, Duration::from_secs(timeout_seconds)).await
            }
            CheckpointsCommand::Delete { data, savepoint: Some(savepoint), .. } => delete(&data, &savepoint).await,
            CheckpointsCommand::Delete { data, pipeline, .. } => delete_all(&data, pipeline.as_deref()).await,
        }
    })
}

fn failed(error: StateError) -> Failure {
    Failure::failed(millrace_engine::chain(&error))
}

/// The stores of the folder, one a pipeline, with the pipelines' names.
fn stores(data: &DataArgs) -> Result<Vec<(String, CheckpointStore)>, Failure> {
    let root = match &data.storage {
        Some(url) => url.strip_prefix("file://").unwrap_or(url).into(),
        None => DataFolder::checkpoints_of(&data.data_dir),
    };
    let entries = std::fs::read_dir(&root).map_err(|error| {
        let place = root.display();
        match error.kind() {
            io::ErrorKind::NotFound => Failure::usage(format!("there are no checkpoints in {place}")),
            _ => Failure::failed(format!("cannot read {place}: {error}")),
        }
    })?;
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let opened = names.map(|name| {
        let store = context::open_store(&data.data_dir, data.storage.as_deref(), &name).map_err(failed)?;
        Ok((name, store))
    });
    opened.collect()
}

struct Found {
    store: CheckpointStore,
    location: String,
    id: ManifestId,
    latest: Option<Latest>,
}

async fn all(data: &DataArgs) -> Result<Vec<Found>, Failure> {
    let mut found = Vec::new();
    for (_, store) in stores(data)? {
        let latest = match store.folder() {
            Some(folder) => FilePointer::open(folder).and_then(|pointer| pointer.read_now()).map_err(failed)?,
            None => None,
        };
        for entry in store.list().await.map_err(failed)? {
            let (location, id, latest) = (entry.location, entry.id, latest.clone());
            found.push(Found { store: store.clone(), location, id, latest });
        }
    }
    Ok(found)
}

async fn list(data: &DataArgs) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for found in all(data).await? {
        let row = match found.store.read_manifest(&found.location).await {
            Ok(manifest) => (manifest.epoch.0, line(&found, &manifest)),
            Err(error) => (u64::MAX, format!("{:<16} damaged: {}", found.location, millrace_engine::chain(&error))),
        };
        rows.push(row);
    }
    if rows.is_empty() {
        telemetry::say("no checkpoints");
        return Ok(());
    }
    rows.sort_by_key(|(epoch, _)| std::cmp::Reverse(*epoch));
    telemetry::say(&format!(
        "{:<16} {:<12} {:<10} {:>12}  {:<9} CREATED",
        "CHECKPOINT", "KIND", "STATE", "SIZE", "REVISION"
    ));
    for (_, row) in rows {
        telemetry::say(&row.to_string());
    }
    Ok(())
}

fn line(found: &Found, manifest: &Manifest) -> String {
    let decided = found.latest.iter().flat_map(|latest| &latest.decided);
    let is_decided = decided
        .clone()
        .any(|decided| decided.taken.epoch == manifest.epoch && decided.taken.generation == manifest.generation);
    let is_newest = found.latest.as_ref().and_then(Latest::epoch) == Some(manifest.epoch);
    let state = match (is_decided, is_newest, manifest.finished) {
        (false, ..) => "unfinished",
        (true, true, true) => "finished",
        (true, true, false) => "latest",
        (true, false, _) => "kept",
    };
    let (name, kind) = match &manifest.kind {
        ManifestKind::Savepoint { name } => (name.clone(), "savepoint"),
        ManifestKind::Checkpoint => (manifest.epoch.to_string(), "checkpoint"),
    };
    let created = time(manifest.created_at.0);
    format!(
        "{name:<16} {kind:<12} {state:<10} {:>12}  {:<9} {created}",
        bytes(manifest.state_bytes()),
        manifest.revision
    )
}

/// Milliseconds since 1970, as people and programs read them.
pub fn time(ms: u64) -> String {
    let moment = i64::try_from(ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
    moment.map_or_else(|| "-".to_owned(), |moment| moment.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A size in the largest unit that leaves a whole part.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{size:.1} {}", units[unit]) }
}

async fn find(data: &DataArgs, wanted: &str) -> Result<(Found, Manifest), Failure> {
    let mut known = Vec::new();
    for found in all(data).await? {
        let name = match &found.id {
            ManifestId::Checkpoint { epoch, .. } => epoch.to_string(),
            ManifestId::Savepoint { name } => name.clone(),
        };
        if name == wanted {
            let manifest = found.store.read_manifest(&found.location).await.map_err(failed)?;
            return Ok((found, manifest));
        }
        known.push(name);
    }
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(Failure::usage(format!("there is no checkpoint {wanted}; there are: {known}")))
}

async fn inspect(data: &DataArgs, wanted: &str) -> Result<(), Failure> {
    let (found, manifest) = find(data, wanted).await?;
    let checked = found.store.verify(&manifest).await;
    let shown = serde_json::to_string_pretty(&manifest).map_err(|error| Failure::failed(error.to_string()))?;
    telemetry::say(&shown);
    checked.map_err(failed)
}

async fn savepoint(folder: &Path, timeout: Duration) -> Result<(), Failure> {
    let asked = tokio::time::timeout(timeout, control::ask(folder, "POST", "/api/v1/savepoints")).await;
    let asked = asked.map_err(|_| Failure::failed(format!("no savepoint within {} seconds", timeout.as_secs())))?;
    let (status, body) = asked.map_err(|error| {
        Failure::failed(format!("no pipeline runs in {}: {error}", folder.display())).advise(
            "start it with `millrace run`; a stopped pipeline's last checkpoint is in `millrace checkpoints list`",
        )
    })?;
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    match answer["savepoint"].as_str() {
        Some(name) if status == 201 => {
            telemetry::say(name);
            Ok(())
        }
        _ => Err(Failure::failed(answer["error"].as_str().unwrap_or(&body).to_owned())),
    }
}

async fn delete(data: &DataArgs, wanted: &str) -> Result<(), Failure> {
    let (found, manifest) = find(data, wanted).await?;
    if !matches!(manifest.kind, ManifestKind::Savepoint { .. }) {
        return Err(Failure::usage(format!("{wanted} is a checkpoint: Millrace keeps and deletes those itself")));
    }
    if found.latest.as_ref().and_then(Latest::epoch) == Some(manifest.epoch) {
        return Err(Failure::usage(format!("{wanted} is what the next run starts from"))
            .advise("run the pipeline on; once there is a newer checkpoint the savepoint can go"));
    }
    let retired = found.store.retire(&[found.id], &[]).await.map_err(failed)?;
    telemetry::say(&format!("deleted {wanted}: {} files, {}", retired.files, bytes(retired.bytes)));
    Ok(())
}

/// Deletes what a pipeline remembers: its checkpoints, savepoints and pointer, and its tasks' state.
async fn delete_all(data: &DataArgs, pipeline: Option<&str>) -> Result<(), Failure> {
    let stores = stores(data)?;
    let known = stores.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let (name, store) = match (pipeline, stores.as_slice()) {
        (None, [only]) => only,
        (None, []) => return Err(Failure::usage("there are no checkpoints")),
        (None, _) => {
            return Err(Failure::usage(format!("there are several pipelines ({known}): name one with --pipeline")));
        }
        (Some(wanted), stores) => stores
            .iter()
            .find(|(name, _)| name == wanted)
            .ok_or_else(|| Failure::usage(format!("there is no pipeline {wanted}; there are: {known}")))?,
    };
    // Takes the lock, so that nobody runs there meanwhile.
    let folder = context::open_folder(&data.data_dir).map_err(|error| run::failure(&error.into()))?;
    let manifests = store.list().await.map_err(failed)?.len();
    store.delete_all().await.map_err(failed)?;
    folder.retain_tasks([]).map_err(failed)?;
    telemetry::say(&format!(
        "deleted all that {name} remembered: {manifests} checkpoints and savepoints, and its state"
    ));
    Ok(())
}
