//! `millrace checkpoints`.

use std::{collections::BTreeSet, io, path::Path, sync::Arc, time::Duration};

use millrace_engine::JobError;
use millrace_state::{CheckpointStore, ErrorKind, FilePointer, Latest, Manifest, ManifestId, ManifestKind, StateError};

use crate::{
    Failure, clear,
    cli::{CheckpointsCommand, DATA_DIR, DataArgs},
    context, control, owner, repair,
    run::{self, REPAIR},
    storage::Storage,
    telemetry,
};

/// Does what is asked.
pub fn run(command: CheckpointsCommand) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        match command {
            CheckpointsCommand::List(data) => list(&data).await,
            CheckpointsCommand::Inspect { data, checkpoint } => inspect(&data, &checkpoint).await,
            CheckpointsCommand::Verify { data, checkpoint } => verify(&data, checkpoint.as_deref()).await,
            CheckpointsCommand::Savepoint { data, timeout_seconds } => {
                savepoint(&data.data_dir, Duration::from_secs(timeout_seconds)).await
            }
            CheckpointsCommand::Repair { data, pipeline } => repair::repair(&data, pipeline.as_deref()).await,
            CheckpointsCommand::Delete(args) => {
                let of_savepoint = args.savepoint.is_some().then(|| DATA_DIR.into());
                let Some(data_dir) = args.data_dir.clone().or(of_savepoint) else { return clear::clear(&args).await };
                let data = DataArgs { data_dir, storage: args.storage };
                match args.savepoint {
                    Some(savepoint) => delete(&data, &savepoint).await,
                    None => delete_all(&data, args.pipeline.as_deref()).await,
                }
            }
        }
    })
}

/// As `run` tells of it.
pub fn failed(error: StateError) -> Failure {
    run::failure(&JobError::State(error))
}

/// Where the checkpoints are: as the command says, or else as the data folder's last run has noted.
pub fn storage(data: &DataArgs) -> Result<Storage, Failure> {
    match &data.storage {
        Some(said) => Storage::said(Some(said)).map_err(failed),
        None => match Storage::noted(&data.data_dir).map_err(failed)? {
            Some(noted) => Ok(noted),
            // The folder of an older release, or of nobody.
            None => Storage::said(None).map_err(failed),
        },
    }
}

/// The names of the pipelines that have checkpoints there.
///
/// # Errors
///
/// There is no such folder, or it cannot be read.
pub fn pipelines(storage: &Storage, data_dir: &Path) -> Result<Vec<String>, Failure> {
    let root = storage.folder(data_dir).map_err(failed)?;
    let root = root.ok_or_else(|| Failure::usage("the checkpoints are in no folder of this machine"))?;
    let entries = std::fs::read_dir(&root).map_err(|error| {
        let place = root.display();
        match error.kind() {
            io::ErrorKind::NotFound => Failure::usage(format!("there are no checkpoints in {place}")),
            _ => Failure::failed(format!("cannot read {place}: {error}")),
        }
    })?;
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    Ok(names)
}

/// The stores with the pipelines' names: all of a storage that the command names, else only the data folder's own.
fn stores(data: &DataArgs) -> Result<Vec<(String, CheckpointStore)>, Failure> {
    let storage = storage(data)?;
    let mut names = pipelines(&storage, &data.data_dir)?;
    if data.storage.is_none()
        && let Some(own) = owner::of(&data.data_dir).map_err(failed)?
    {
        names.retain(|name| *name == own);
    }
    let opened = names.into_iter().map(|name| {
        let store = storage.open(&data.data_dir, &name).map_err(failed)?;
        Ok((name, store))
    });
    opened.collect()
}

/// Fails where checkpoints should be and are not. `--storage` looks where it is told to, whatever the data folder knows.
///
/// # Errors
///
/// As the next run would tell of it.
pub async fn refuse_gone(data: &DataArgs) -> Result<(), Failure> {
    // These commands do not look into an object store.
    if data.storage.is_some() || storage(data)?.folder(&data.data_dir).map_err(failed)?.is_none() {
        return Ok(());
    }
    match gone(data).await? {
        Some((_, error)) => Err(run::failure(&error)),
        None => Ok(()),
    }
}

/// The pipeline whose checkpoints are gone as a whole from where its last run kept them; `None`: they are there, or there were
/// none, or another place is meant.
async fn gone(data: &DataArgs) -> Result<Option<(String, JobError)>, Failure> {
    let storage = storage(data)?;
    if Storage::noted(&data.data_dir).ok().flatten().as_ref() != Some(&storage) {
        return Ok(None);
    }
    let Some(owner) = owner::of(&data.data_dir).map_err(failed)? else { return Ok(None) };
    match storage.refuse_gone(&data.data_dir, &owner).await {
        Ok(()) => Ok(None),
        Err(error @ JobError::CheckpointsGone { .. }) => Ok(Some((owner, error))),
        Err(error) => Err(run::failure(&error)),
    }
}

struct Found {
    store: CheckpointStore,
    location: String,
    id: ManifestId,
    latest: Pointed,
}

impl Found {
    fn name(&self) -> String {
        match &self.id {
            ManifestId::Checkpoint { epoch, .. } => epoch.to_string(),
            ManifestId::Savepoint { name } => name.clone(),
        }
    }

    async fn is_still_there(&self) -> Result<bool, Failure> {
        let there = self.store.list().await.map_err(failed)?;
        Ok(there.iter().any(|entry| entry.location == self.location))
    }
}

/// What is known of the pointer.
#[derive(Clone)]
enum Pointed {
    /// Which epochs are decided; `None`: none is.
    To(Option<Latest>),
    /// It is damaged, or missing where there are checkpoints, in words.
    Damaged(Arc<str>),
}

impl Pointed {
    fn by(store: &CheckpointStore) -> Result<Self, Failure> {
        let Some(folder) = store.folder() else { return Ok(Self::To(None)) };
        match FilePointer::open(folder).and_then(|pointer| pointer.read_now()) {
            Ok(latest) => Ok(Self::To(latest)),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                Ok(Self::Damaged(millrace_engine::chain(&error).into()))
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn latest(&self) -> Option<&Latest> {
        match self {
            Self::To(latest) => latest.as_ref(),
            Self::Damaged(_) => None,
        }
    }

    /// Fails if it is damaged or missing.
    fn whole(&self) -> Result<(), Failure> {
        match self {
            Self::To(_) => Ok(()),
            Self::Damaged(why) => Err(Failure::failed(why.to_string()).advise(REPAIR)),
        }
    }
}

async fn all(data: &DataArgs) -> Result<Vec<Found>, Failure> {
    refuse_gone(data).await?;
    let mut found = Vec::new();
    for (_, store) in stores(data)? {
        let mut latest = Pointed::by(&store)?;
        let entries = store.list().await.map_err(failed)?;
        if !entries.is_empty() && store.folder().is_some() && matches!(latest, Pointed::To(None)) {
            let missing = format!("{}/latest, the pointer to the newest checkpoint, is missing", store.url());
            latest = Pointed::Damaged(missing.into());
        }
        for entry in entries {
            let (location, id, latest) = (entry.location, entry.id, latest.clone());
            found.push(Found { store: store.clone(), location, id, latest });
        }
    }
    Ok(found)
}

/// Fails where the newest checkpoint, by the pointer, is not there.
async fn refuse_missing_newest(data: &DataArgs) -> Result<(), Failure> {
    for (_, store) in stores(data)? {
        let newest = || -> Result<Option<String>, Failure> {
            let pointed = Pointed::by(&store)?;
            Ok(pointed.latest().and_then(|latest| latest.newest.as_ref()).map(|newest| newest.manifest.clone()))
        };
        let Some(named) = newest()? else { continue };
        let is_there = store.list().await.map_err(failed)?.iter().any(|entry| entry.location == named);
        // A running pipeline goes on to the next, and deletes those before.
        if !is_there && newest()?.as_ref() == Some(&named) {
            return Err(Failure::failed(format!("{}/{named}, the newest checkpoint, is missing", store.url())).advise(
                "put it back from a backup; `millrace run --allow-previous-checkpoint` goes on from the checkpoint before it",
            ));
        }
    }
    Ok(())
}

async fn list(data: &DataArgs) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut pointed = Ok(());
    for found in all(data).await? {
        pointed = pointed.and_then(|()| found.latest.whole());
        let row = match found.store.read_manifest(&found.location).await {
            Ok(manifest) => (manifest.epoch.0, line(&found, &manifest)),
            Err(error) => (u64::MAX, format!("{:<16} damaged: {}", found.name(), millrace_engine::chain(&error))),
        };
        rows.push(row);
    }
    if rows.is_empty() {
        refuse_missing_newest(data).await?;
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
    // Told last, so that what there is is seen all the same.
    pointed?;
    refuse_missing_newest(data).await
}

fn line(found: &Found, manifest: &Manifest) -> String {
    let decided = found.latest.latest().into_iter().flat_map(|latest| &latest.decided);
    let is_decided = decided
        .clone()
        .any(|decided| decided.taken.epoch == manifest.epoch && decided.taken.generation == manifest.generation);
    let is_newest = found.latest.latest().and_then(Latest::epoch) == Some(manifest.epoch);
    let state = match (is_decided, is_newest, manifest.finished) {
        _ if matches!(found.latest, Pointed::Damaged(_)) => "unknown",
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

async fn find(data: &DataArgs, wanted: &str) -> Result<Found, Failure> {
    let mut known = Vec::new();
    for found in all(data).await? {
        let name = found.name();
        if name == wanted {
            return Ok(found);
        }
        known.push(name);
    }
    Err(unknown(wanted, &known))
}

fn unknown(wanted: &str, known: &[String]) -> Failure {
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Failure::usage(format!("there is no checkpoint {wanted}; there are: {known}"))
}

/// Names what is damaged in the checkpoints, or in the one that is wanted.
async fn verify(data: &DataArgs, wanted: Option<&str>) -> Result<(), Failure> {
    // Files of several checkpoints are looked at once.
    let mut whole = BTreeSet::new();
    let (mut known, mut checked, mut damaged) = (Vec::new(), 0, BTreeSet::new());
    let mut pointed = Ok(());
    for found in all(data).await? {
        known.push(found.name());
        if wanted.is_some_and(|wanted| wanted != found.name()) {
            continue;
        }
        checked += 1;
        pointed = pointed.and_then(|()| found.latest.whole());
        let mut damages = Vec::new();
        match found.store.read_manifest(&found.location).await {
            Ok(manifest) => {
                for file in manifest.files() {
                    let place = format!("{}/{}", found.store.url(), file.name);
                    if whole.contains(&place) {
                        continue;
                    }
                    match found.store.verify_file(file).await {
                        Ok(()) => {
                            whole.insert(place);
                        }
                        Err(error) if error.kind() == ErrorKind::Corrupt => damages.push((place, error)),
                        Err(error) => return Err(failed(error)),
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                damages.push((format!("{}/{}", found.store.url(), found.location), error));
            }
            Err(error) => return Err(failed(error)),
        }
        // A running pipeline deletes checkpoints that it no longer keeps.
        if damages.is_empty() || !found.is_still_there().await? {
            continue;
        }
        for (place, error) in damages {
            telemetry::say(&format!("{:<16} {}", found.name(), millrace_engine::chain(&error)));
            damaged.insert(place);
        }
    }
    if let Some(wanted) = wanted.filter(|_| checked == 0) {
        return Err(unknown(wanted, &known));
    }
    pointed?;
    if wanted.is_none() {
        refuse_missing_newest(data).await?;
    }
    if damaged.is_empty() {
        telemetry::say(&format!("checkpoints that are whole: {checked}, with {} files", whole.len()));
        return Ok(());
    }
    let damages = match damaged.len() {
        1 => "1 file is damaged or missing".to_owned(),
        files => format!("{files} files are damaged or missing"),
    };
    Err(Failure::failed(damages).advise(
        "put them back from a backup; until then a run goes on from the copy in its data folder if that is whole, or with \
         `--allow-previous-checkpoint` from a checkpoint before",
    ))
}

async fn inspect(data: &DataArgs, wanted: &str) -> Result<(), Failure> {
    let found = find(data, wanted).await?;
    let manifest = found.store.read_manifest(&found.location).await.map_err(failed)?;
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
    let found = find(data, wanted).await?;
    if !matches!(found.id, ManifestId::Savepoint { .. }) {
        return Err(Failure::usage(format!("{wanted} is a checkpoint: Millrace keeps and deletes those itself")));
    }
    found.latest.whole()?;
    // One that is damaged can go too: while it is there, nobody knows which files it needs.
    let epoch = found.store.read_manifest(&found.location).await.ok().map(|manifest| manifest.epoch);
    let is_newest = |latest: &Latest| {
        let is_named = latest.newest.as_ref().is_some_and(|newest| newest.manifest == found.location);
        is_named || (epoch.is_some() && latest.epoch() == epoch)
    };
    if found.latest.latest().is_some_and(is_newest) {
        return Err(Failure::usage(format!("{wanted} is what the next run starts from"))
            .advise("run the pipeline on; once there is a newer checkpoint the savepoint can go"));
    }
    let retired = found.store.retire(&[found.id], &[]).await.map_err(failed)?;
    telemetry::say(&format!("deleted {wanted}: {} files, {}", retired.files, bytes(retired.bytes)));
    Ok(())
}

/// Deletes what a pipeline remembers: its checkpoints, savepoints and pointer, and its tasks' state.
async fn delete_all(data: &DataArgs, pipeline: Option<&str>) -> Result<(), Failure> {
    if let Some((name, _)) = gone(data).await?
        && pipeline.is_none_or(|wanted| wanted == name)
    {
        let folder = context::open_folder(&data.data_dir).map_err(failed)?;
        folder.retain_tasks([]).map_err(failed)?;
        folder.forget_decided().map_err(failed)?;
        telemetry::say(&format!(
            "deleted all that {name} remembered: its state; its checkpoints are not where they were and stay wherever they are"
        ));
        return Ok(());
    }
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
    let folder = context::open_folder(&data.data_dir).map_err(failed)?;
    let manifests = store.list().await.map_err(failed)?.len();
    store.delete_all().await.map_err(failed)?;
    folder.retain_tasks([]).map_err(failed)?;
    // Last, so that what is deleted by half is never taken for a beginning.
    if owner::of(&data.data_dir).ok().flatten().is_none_or(|owner| owner == *name) {
        folder.forget_decided().map_err(failed)?;
    }
    telemetry::say(&format!(
        "deleted all that {name} remembered: {manifests} checkpoints and savepoints, and its state"
    ));
    Ok(())
}
