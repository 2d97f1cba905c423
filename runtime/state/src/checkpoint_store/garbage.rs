//! Deleting what no manifest names.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use millrace_stream::Generation;

use super::{CheckpointStore, FILES, ManifestId, Objects, StateError, StoredFile, blocking};
use crate::{data_folder::remove_folder, durable, fault};

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// Manifests.
    pub manifests: u64,
    /// Files that no remaining manifest names.
    pub files: u64,
    /// The bytes of those files.
    pub bytes: u64,
}

/// What [`CheckpointStore::delete_checkpoints`] has deleted, and what it has kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Checkpoints that are gone.
    pub checkpoints: u64,
    /// Savepoints that are there still.
    pub savepoints: Vec<String>,
}

/// How many objects are deleted at a time.
const AT_A_TIME: usize = 16;

impl CheckpointStore {
    /// Deletes manifests, and then the files that they alone named: not one that a remaining manifest names, or `in_use`
    /// (what has been uploaded for an epoch that has no manifest yet). A manifest of the list that is gone already, or
    /// damaged, is no error: its files become orphans.
    ///
    /// # Errors
    ///
    /// [`StateError::Damaged`] if a *remaining* manifest cannot be read: nothing is deleted then. [`StateError::Io`],
    /// [`StateError::Store`].
    pub async fn retire(&self, retired: &[ManifestId], in_use: &[StoredFile]) -> Result<Retired, StateError> {
        fault::point("before-retire")?;
        let mut kept: BTreeSet<String> = in_use.iter().map(|file| file.name.clone()).collect();
        let mut candidates = BTreeMap::new();
        let mut manifests = Vec::new();
        for entry in self.list().await? {
            if retired.contains(&entry.id) {
                if let Ok(manifest) = self.read_manifest(&entry.location).await {
                    candidates.extend(manifest.files().map(|file| (file.name.clone(), file.bytes)));
                }
                manifests.push(entry.location);
            } else {
                kept.extend(self.read_manifest(&entry.location).await?.files().map(|file| file.name.clone()));
            }
        }
        candidates.retain(|name, _| !kept.contains(name));
        for location in &manifests {
            self.delete(location).await?;
        }
        fault::point("mid-retire")?;
        for name in candidates.keys() {
            self.delete(name).await?;
        }
        fault::point("after-retire")?;
        Ok(Retired {
            manifests: manifests.len() as u64,
            files: candidates.len() as u64,
            bytes: candidates.values().sum(),
        })
    }

    /// What no manifest names: files of uploads that came to nothing, and temporary files. Only meaningful while nothing
    /// is being uploaded, as at a start.
    ///
    /// # Errors
    ///
    /// [`StateError::Damaged`] if a manifest cannot be read, since what it names is not known then. [`StateError::Io`],
    /// [`StateError::Store`].
    pub async fn orphans(&self) -> Result<Vec<String>, StateError> {
        let mut named = BTreeSet::new();
        for entry in self.list().await? {
            named.extend(self.read_manifest(&entry.location).await?.files().map(|file| file.name.clone()));
        }
        let temporary = |location: &str| location.rsplit('/').next().is_some_and(durable::is_temporary);
        let mut orphans: Vec<_> = self.objects_in(FILES).await?.into_iter().map(|(location, _)| location).collect();
        orphans.retain(|location| !named.contains(location));
        for folder in [ManifestId::CHECKPOINTS, ManifestId::SAVEPOINTS] {
            let objects = self.objects_in(folder).await?.into_iter().map(|(location, _)| location);
            orphans.extend(objects.filter(|location| temporary(location)));
        }
        Ok(orphans)
    }

    /// Deletes what [`CheckpointStore::orphans`] finds and an older generation than this one wrote; says how much that was.
    /// A newer one has taken the pipeline over, and is uploading what it has not named yet.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn delete_orphans(&self, generation: Generation) -> Result<u64, StateError> {
        let mut orphans = self.orphans().await?;
        orphans.retain(|location| written_by(location).is_none_or(|writer| writer < generation));
        for location in &orphans {
            self.delete(location).await?;
        }
        Ok(orphans.len() as u64)
    }

    /// Deletes every checkpoint, whoever took it, and all that no savepoint names. Savepoints stay, with their files: they are
    /// their user's. Only meaningful when nobody works here, and never will again without beginning anew.
    ///
    /// # Errors
    ///
    /// [`StateError::Damaged`] if a savepoint cannot be read: nothing is deleted then. [`StateError::Io`], [`StateError::Store`];
    /// some may be gone by then, and calling it again goes on.
    pub async fn delete_checkpoints(&self) -> Result<Cleared, StateError> {
        let (mut kept, mut cleared) = (BTreeSet::new(), Cleared::default());
        for entry in self.list().await? {
            match entry.id {
                ManifestId::Checkpoint { .. } => cleared.checkpoints += 1,
                ManifestId::Savepoint { name } => {
                    let manifest = self.read_manifest(&entry.location).await?;
                    kept.extend(manifest.files().map(|file| file.name.clone()));
                    kept.insert(entry.location);
                    cleared.savepoints.push(name);
                }
            }
        }
        self.delete_but(&kept).await?;
        Ok(cleared)
    }

    /// Deletes every object whose location is not one of `kept`.
    async fn delete_but(&self, kept: &BTreeSet<String>) -> Result<(), StateError> {
        // Manifests first, so that none names what is gone.
        for folder in [ManifestId::CHECKPOINTS, ManifestId::SAVEPOINTS, FILES] {
            let objects = self.objects_in(folder).await?.into_iter().map(|(location, _)| location);
            let going: Vec<String> = objects.filter(|location| !kept.contains(location)).collect();
            for batch in going.chunks(AT_A_TIME) {
                try_join_all(batch.iter().map(|location| self.delete(location))).await?;
            }
        }
        Ok(())
    }

    /// Deletes everything that the pipeline has here, savepoints and pointer included.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`], [`StateError::Store`].
    pub async fn delete_all(&self) -> Result<(), StateError> {
        match &self.objects {
            Objects::Folder(folder) => {
                let root = folder.root().to_owned();
                blocking(move || remove_folder(&root)).await
            }
            Objects::Remote(_) => self.delete_but(&BTreeSet::new()).await,
        }
    }
}

/// Who wrote a data file: its name begins with the generation.
fn written_by(location: &str) -> Option<Generation> {
    let (_, name) = location.rsplit_once('/')?;
    name.split_once('-')?.0.parse().ok().map(Generation)
}
