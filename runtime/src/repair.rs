//! `millrace checkpoints repair`: makes anew what a data folder notes about itself, and the pointer to its newest checkpoint.
//!
//! All of it follows from the checkpoints: whose they are, their pipeline's id, the generations that wrote them, and which one
//! is the newest. What is whole is not touched, and what is damaged is kept under another name.

use std::path::{Path, PathBuf};

use millrace_state::{
    CheckpointStore, DamagedFolder, ErrorKind, FilePointer, Latest, Manifest, ManifestId, Newest, Note, durable,
};
use millrace_stream::{
    Epoch, Generation,
    checkpoint::{Listed, Taken, rebuild},
};

use crate::{
    Failure,
    checkpoints::{failed, pipelines, refuse_gone, storage},
    cli::DataArgs,
    context, owner,
    storage::Storage,
    telemetry,
};

/// How far ahead of the newest manifest a generation is taken to be, where neither the counter nor the pointer can be read: no
/// pipeline starts so often without a checkpoint.
const UNSEEN_GENERATIONS: u64 = 1_000_000;

/// Makes anew what is damaged.
pub async fn repair(data: &DataArgs, pipeline: Option<&str>) -> Result<(), Failure> {
    let data_dir = data.data_dir.as_path();
    if !data_dir.join("lock").exists() {
        return Err(Failure::usage(format!("no pipeline has run in {}", data_dir.display())));
    }
    let folder = DamagedFolder::take(data_dir, &context::opener().map_err(failed)?.holder).map_err(failed)?;
    let (layout, instance) = (folder.layout().map_err(failed)?, folder.instance().map_err(failed)?);
    let counted = folder.generation().map_err(failed)?;
    let mut told = Told::default();
    if layout.is_damaged() {
        told.anew("layout", folder.renew_layout().map_err(failed)?, "there is one layout so far");
    }

    let store = match whose(data, pipeline, &mut told)? {
        Some((name, storage)) => Some(storage.open(data_dir, &name).map_err(failed)?),
        None => None,
    };
    let listed = match &store {
        Some(store) => listed(store).await?,
        None => Vec::new(),
    };
    if instance.is_damaged() {
        let kept = folder.forget_instance().map_err(failed)?;
        told.anew("instance", kept, "the next run takes that of the checkpoint which it goes on from");
    }
    let (is_counted, last) = (!counted.is_damaged(), counted.found());
    let claimed = match &store {
        Some(store) => repair_pointer(store, &listed, last, &mut told).await?,
        None => None,
    };
    if !is_counted {
        let written = listed.iter().map(|listed| listed.taken.generation.0).max().unwrap_or_default();
        let last = claimed.unwrap_or(Generation(written + UNSEEN_GENERATIONS));
        let kept = folder.renew_generation(last).map_err(failed)?;
        told.anew("generation", kept, &format!("the next run has one above {last}"));
    }
    refuse_gone(data).await?;
    if !told.0 {
        telemetry::say("nothing that can be made anew is damaged; `millrace checkpoints list` shows the checkpoints");
    }
    Ok(())
}

/// Whether anything was told.
#[derive(Default)]
struct Told(bool);

impl Told {
    fn anew(&mut self, what: &str, kept: Option<PathBuf>, so: &str) {
        self.0 = true;
        let kept = kept.map_or_else(String::new, |kept| format!("; what was there is kept as {}", kept.display()));
        telemetry::say(&format!("{what}: made anew: {so}{kept}"));
    }
}

/// The pipeline and where its checkpoints are; `None`: there are none. Notes both anew where the notes are damaged.
fn whose(data: &DataArgs, pipeline: Option<&str>, told: &mut Told) -> Result<Option<(String, Storage)>, Failure> {
    let data_dir = data.data_dir.as_path();
    let owner = Note::of(owner::of(data_dir)).map_err(failed)?;
    let noted = Note::of(Storage::noted(data_dir)).map_err(failed)?;
    let (is_owner_damaged, is_storage_damaged) = (owner.is_damaged(), noted.is_damaged());
    let storage = match is_storage_damaged && data.storage.is_none() {
        true => Storage::said(None).map_err(failed)?,
        false => storage(data)?,
    };
    let owner = owner.found();
    let names = match pipelines(&storage, data_dir) {
        Ok(names) => names,
        Err(_) if data.storage.is_none() => Vec::new(),
        Err(failure) => return Err(failure),
    };
    let name = match pipeline.map(str::to_owned).or(owner) {
        Some(name) => names.contains(&name).then_some(name),
        None => match names.as_slice() {
            [] => None,
            [only] => Some(only.clone()),
            several => {
                let known = several.join(", ");
                return Err(Failure::usage(format!("there are several pipelines ({known}): name one with --pipeline")));
            }
        },
    };
    if is_storage_damaged {
        if name.is_none() && data.storage.is_none() {
            return Err(Failure::usage(format!(
                "{} is damaged, and the data folder itself has no checkpoints of this pipeline",
                Storage::path(data_dir).display()
            ))
            .advise("name the place where they are with --storage, as `checkpoints.storage` of the manifest does"));
        }
        let kept = durable::keep_damaged(&Storage::path(data_dir)).map_err(failed)?;
        storage.note_anew(data_dir).map_err(failed)?;
        told.anew("storage", kept, &format!("the checkpoints are in {}", place(&storage, data_dir)));
    }
    if is_owner_damaged {
        let path = owner::path(data_dir);
        let kept = durable::keep_damaged(&path).map_err(failed)?;
        match &name {
            Some(name) => {
                owner::note(data_dir, name).map_err(failed)?;
                told.anew("pipeline", kept, &format!("it is {name}, whose checkpoints these are"));
            }
            None => {
                durable::remove(&path).map_err(failed)?;
                told.anew("pipeline", kept, "it is the one that runs here next, since there are no checkpoints");
            }
        }
    }
    Ok(name.map(|name| (name, storage)))
}

fn place(storage: &Storage, data_dir: &Path) -> String {
    let folder = storage.folder(data_dir).ok().flatten();
    folder.map_or_else(|| "another store".to_owned(), |folder| folder.display().to_string())
}

/// What the store has, damaged or not.
async fn listed(store: &CheckpointStore) -> Result<Vec<Listed>, Failure> {
    let mut listed = Vec::new();
    for entry in store.list().await.map_err(failed)? {
        listed.push(match entry.id {
            ManifestId::Checkpoint { epoch, generation } => {
                Listed { taken: Taken { epoch, generation }, savepoint: false }
            }
            ManifestId::Savepoint { name } => match read(store, &entry.location).await? {
                Some(manifest) => {
                    let taken = Taken { epoch: manifest.epoch, generation: manifest.generation };
                    Listed { taken, savepoint: true }
                }
                None => {
                    let epoch = name.rsplit('-').next().and_then(|epoch| epoch.parse().ok());
                    let Some(epoch) = epoch else { continue };
                    Listed { taken: Taken { epoch: Epoch(epoch), generation: Generation(0) }, savepoint: true }
                }
            },
        });
    }
    Ok(listed)
}

/// A manifest; `None`: it is damaged.
async fn read(store: &CheckpointStore, location: &str) -> Result<Option<Manifest>, Failure> {
    match store.read_manifest(location).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Makes the pointer anew if it is damaged, or gone while there are checkpoints. Gives the generation that it speaks of, if it
/// is whole.
async fn repair_pointer(
    store: &CheckpointStore,
    listed: &[Listed],
    counted: Option<Generation>,
    told: &mut Told,
) -> Result<Option<Generation>, Failure> {
    let Some(folder) = store.folder() else { return Ok(None) };
    let pointer = FilePointer::open(folder).map_err(failed)?;
    let is_gone = match Note::of(pointer.read_now()).map_err(failed)? {
        Note::Whole(Some(latest)) => return Ok(Some(latest.generation)),
        Note::Whole(None) => true,
        Note::Damaged => false,
    };
    let Some(to) = rebuild(listed, counted.unwrap_or(Generation(0))) else {
        if !is_gone {
            told.anew("latest", pointer.repair(None).map_err(failed)?, "there are no checkpoints to point to");
        }
        return Ok(None);
    };
    let mut newest = None;
    if let Some(last) = to.decided.last() {
        let id = millrace_engine::recover::manifest_of(last);
        newest = read(store, &id.location()).await?.map(|manifest| Newest {
            manifest: id.location(),
            size_bytes: manifest.state_bytes(),
            duration: std::time::Duration::ZERO,
            completed_at: manifest.created_at,
        });
    }
    let epoch = to.epoch().unwrap_or(Epoch::FIRST);
    let latest = Latest { generation: to.generation, decided: to.decided, newest };
    let kept = pointer.repair(Some(&latest)).map_err(failed)?;
    told.anew(
        "latest",
        kept,
        &format!("checkpoint {epoch}, the newest that there is, is what the next run starts from"),
    );
    Ok(None)
}
