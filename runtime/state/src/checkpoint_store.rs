//! Where checkpoints are kept: files and manifests in a folder or an object store, named by URL.
//!
//! ```text
//! <url>/<pipeline>/files/<task>/<generation>-<number>-<xxh3>.sst   a file of a task's store, written once
//!                  manifests/<epoch>-<generation>.json             a checkpoint, written once
//!                  savepoints/<name>.json                          a savepoint, written once
//!                  latest                                          the pointer, on one machine (see `pointer`)
//! ```
//!
//! **Names.** A file is named by who wrote it and by its content, so no two contents meet under one name: not those of two
//! incarnations that go on from the same checkpoint and give their files the same numbers, nor those of one that was
//! restarted inside its process. Putting a file that is there already is therefore done when its length agrees.
//!
//! **Durable.** With `file://` every file is synced before it gets its name, and the folder after that; `object_store`'s
//! local file system does neither, so writing there is done here. A data file on the same file system is hard-linked
//! instead of copied: RocksDB has synced it and never changes it.
//!
//! **Garbage.** Retiring a checkpoint deletes its manifest first, then the files that no remaining manifest names. Dying in
//! between leaves orphans: files without a manifest, which [`CheckpointStore::orphans`] finds at the next start, when
//! nothing is being uploaded.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::future::try_join_all;
use millrace_stream::{Generation, TaskId};
use object_store::ObjectStore;
use url::Url;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    Manifest, ManifestId, ManifestKind, StateError, StoredFile, TaskManifest,
    data_folder::{remove_folder, task_name},
    durable, fault,
    manifest::savepoint_name_is_good,
    task_store::LocalFile,
};

mod credentials;
mod garbage;
mod local;
mod remote;

pub use garbage::{Cleared, Retired};

use local::Folder;
use remote::Remote;

const FILES: &str = "files";

/// The part of a checkpoint store that belongs to one pipeline. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    url: Arc<str>,
    objects: Objects,
}

#[derive(Clone, Debug)]
enum Objects {
    Folder(Folder),
    Remote(Remote),
}

/// What came of creating a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Create {
    /// It is there, durably.
    Created {
        /// Where.
        location: String,
    },
    /// There is one of this name; nothing was changed.
    Exists {
        /// Where.
        location: String,
    },
}

/// A manifest in the store, by what its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestEntry {
    /// What it is.
    pub id: ManifestId,
    /// Where it is.
    pub location: String,
    /// Its length.
    pub bytes: u64,
}

impl CheckpointStore {
    /// The store at `url` (`file:///…`, or `s3://bucket/prefix` with credentials from the environment), in it the folder
    /// `pipeline`. Makes folders that are not there; a bucket is looked for by the first request.
    ///
    /// # Errors
    ///
    /// [`StateError::Url`], [`StateError::NotAFolder`], [`StateError::Io`].
    pub fn open(url: &str, pipeline: &str) -> Result<Self, StateError> {
        let refuse = |why: &str| StateError::Url { url: url.to_owned(), why: why.to_owned() };
        if let Some(folder) = Self::folder_of_url(url)? {
            return Self::in_folder(&folder, pipeline);
        }
        let parsed = Url::parse(url).map_err(|error| refuse(&error.to_string()))?;
        let (store, path) = remote::open(&parsed).map_err(|error| refuse(&error.to_string()))?;
        Ok(Self::over(store, path.join(pipeline), url))
    }

    /// The folder that a URL names; `None`: it names another store.
    ///
    /// # Errors
    ///
    /// [`StateError::Url`].
    pub fn folder_of_url(url: &str) -> Result<Option<PathBuf>, StateError> {
        let refuse = |why: &str| StateError::Url { url: url.to_owned(), why: why.to_owned() };
        let parsed = Url::parse(url).map_err(|error| refuse(&format!("{error}; expected file:///a/folder, say")))?;
        if parsed.scheme() != "file" {
            return Ok(None);
        }
        let path = parsed.to_file_path();
        path.map(Some).map_err(|()| refuse("a file URL has three slashes and no host: file:///a/folder"))
    }

    /// The store in a folder of this machine.
    ///
    /// # Errors
    ///
    /// [`StateError::NotAFolder`], [`StateError::Io`].
    pub fn in_folder(folder: &Path, pipeline: &str) -> Result<Self, StateError> {
        let root = folder.join(pipeline);
        durable::create_folder(&root)?;
        Ok(Self { url: root.display().to_string().into(), objects: Objects::Folder(Folder::new(root)) })
    }

    /// The store in any object store, under a prefix; `url` is what people are shown.
    pub fn over(store: Arc<dyn ObjectStore>, prefix: object_store::path::Path, url: &str) -> Self {
        Self { url: url.into(), objects: Objects::Remote(Remote::new(store, prefix, url.into())) }
    }

    /// What people are shown.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder, if it is one of this machine: where a [`FilePointer`](crate::FilePointer) belongs.
    pub fn folder(&self) -> Option<&Path> {
        match &self.objects {
            Objects::Folder(folder) => Some(folder.root()),
            Objects::Remote(_) => None,
        }
    }

    /// Puts what the store lacks of a task's checkpoint, and says what the manifest has to name.
    ///
    /// `known` is what the store has of this task's store: the files of the last upload of it, or, before the first, of the
    /// checkpoint that it was restored from if it was [`Origin::Linked`](crate::Origin::Linked); else nothing. The upload
    /// may have been for an epoch that was aborted, as long as its files have not been deleted.
    ///
    /// Not cancel-safe in that files may stay without a manifest; calling it again is fine.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`], [`StateError::Store`].
    pub async fn upload_task(
        &self,
        task: &TaskId,
        generation: Generation,
        files: &[LocalFile],
        known: &[StoredFile],
    ) -> Result<Vec<StoredFile>, StateError> {
        fault::point("before-upload")?;
        let known: BTreeMap<_, _> = known.iter().map(|file| (file.local.as_str(), file)).collect();
        let has = |file: &LocalFile| {
            known.get(file.name.as_str()).filter(|known| file.immutable && known.bytes == file.bytes).copied()
        };
        let (mut stored, mut lacking) = (Vec::with_capacity(files.len()), Vec::new());
        for file in files {
            match has(file) {
                Some(known) => stored.push(known.clone()),
                None => lacking.push(file),
            }
        }
        for file in &lacking {
            stored.push(self.put_unsettled(task, generation, file).await?);
        }
        if !lacking.is_empty() {
            self.settle(task).await?;
        }
        fault::point("after-upload")?;
        Ok(stored)
    }

    /// Puts one file of a task's checkpoint, durably.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`], [`StateError::Store`].
    pub async fn put_state_file(
        &self,
        task: &TaskId,
        generation: Generation,
        file: &LocalFile,
    ) -> Result<StoredFile, StateError> {
        let stored = self.put_unsettled(task, generation, file).await?;
        self.settle(task).await?;
        Ok(stored)
    }

    async fn put_unsettled(
        &self,
        task: &TaskId,
        generation: Generation,
        file: &LocalFile,
    ) -> Result<StoredFile, StateError> {
        let path = file.path.clone();
        let (bytes, xxh3) = blocking(move || durable::checksum(&path)).await?;
        let (stem, dot, suffix) = match file.name.rsplit_once('.') {
            Some((stem, suffix)) => (stem, ".", suffix),
            None => (file.name.as_str(), "", ""),
        };
        let name = format!("{FILES}/{}/{generation}-{stem}-{xxh3:016x}{dot}{suffix}", task_name(task));
        let stored = StoredFile { name, local: file.name.clone(), bytes, xxh3 };
        match &self.objects {
            Objects::Folder(folder) => {
                let (folder, file, stored) = (folder.clone(), file.clone(), stored.clone());
                blocking(move || folder.put_file(&file, &stored)).await?;
            }
            Objects::Remote(remote) => remote.put_file(file, &stored).await?,
        }
        Ok(stored)
    }

    /// Makes the names of a task's files durable.
    async fn settle(&self, task: &TaskId) -> Result<(), StateError> {
        match &self.objects {
            Objects::Folder(folder) => {
                let path = folder.root().join(FILES).join(task_name(task));
                blocking(move || durable::sync_folder(&path)).await
            }
            Objects::Remote(_) => Ok(()),
        }
    }

    /// Gets one file, verified, as `to`, which must not exist.
    ///
    /// # Errors
    ///
    /// [`StateError::Missing`], [`StateError::Damaged`], [`StateError::Io`], [`StateError::Store`].
    pub async fn get_state_file(&self, file: &StoredFile, to: &Path) -> Result<(), StateError> {
        let (file, to) = (file.clone(), to.to_owned());
        match &self.objects {
            Objects::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || folder.get_file(&file, &to)).await
            }
            Objects::Remote(remote) => remote.get_file(&file, &to).await,
        }
    }

    /// Brings a task's checkpoint into a folder of this machine, verified, ready for
    /// [`TaskStore::restore`](crate::TaskStore::restore). Files that `local`, an earlier copy of it on this machine, still
    /// has whole are taken from there. What is in the folder is deleted, so it must not be `local`.
    ///
    /// # Errors
    ///
    /// As [`CheckpointStore::get_state_file`].
    pub async fn fetch_task(&self, task: &TaskManifest, to: &Path, local: Option<&Path>) -> Result<(), StateError> {
        let folder = to.to_owned();
        blocking(move || remove_folder(&folder).and_then(|()| durable::create_folder(&folder))).await?;
        for batch in task.files.chunks(4) {
            try_join_all(batch.iter().map(|file| self.fetch(file, to, local))).await?;
        }
        Ok(())
    }

    async fn fetch(&self, file: &StoredFile, to: &Path, local: Option<&Path>) -> Result<(), StateError> {
        let name = local_name(file)?;
        let target = to.join(name);
        if let Some(local) = local {
            let (here, target, file) = (local.join(name), target.clone(), file.clone());
            if blocking(move || Ok(local::take_whole(&here, &target, &file))).await? {
                return Ok(());
            }
        }
        self.get_state_file(file, &target).await
    }

    /// Creates a manifest, durably, unless there is one of its name.
    ///
    /// # Errors
    ///
    /// [`StateError::SavepointName`], [`StateError::Io`], [`StateError::Store`]. Whether it was created is unknown after
    /// the last: list, or create it again.
    pub async fn create_manifest(&self, manifest: &Manifest) -> Result<Create, StateError> {
        if let ManifestKind::Savepoint { name } = &manifest.kind
            && !savepoint_name_is_good(name)
        {
            return Err(StateError::SavepointName { name: name.clone() });
        }
        fault::point("before-manifest")?;
        let (location, content) = (manifest.id().location(), manifest.to_bytes());
        let created = match &self.objects {
            Objects::Folder(folder) => {
                let (folder, location) = (folder.clone(), location.clone());
                blocking(move || folder.create(&location, &content)).await?
            }
            Objects::Remote(remote) => remote.create(&location, content).await?,
        };
        fault::point("after-manifest")?;
        Ok(if created { Create::Created { location } } else { Create::Exists { location } })
    }

    /// Reads a manifest, verified.
    ///
    /// # Errors
    ///
    /// [`StateError::Missing`], [`StateError::Damaged`], [`StateError::TooNew`], [`StateError::Io`], [`StateError::Store`].
    pub async fn read_manifest(&self, location: &str) -> Result<Manifest, StateError> {
        let content = match &self.objects {
            Objects::Folder(folder) => {
                let (folder, location) = (folder.clone(), location.to_owned());
                blocking(move || folder.read(&location)).await?
            }
            Objects::Remote(remote) => remote.read(location).await?,
        };
        let place = format!("{}/{location}", self.url);
        let Some(content) = content else {
            return Err(StateError::Missing { place, named_by: "the pointer or the caller".into() });
        };
        let manifest = Manifest::from_bytes(&place, &content)?;
        let found = manifest.id().location();
        if found == location {
            Ok(manifest)
        } else {
            Err(StateError::damaged(place, format!("the manifest {found}"), location))
        }
    }

    /// Whether every file that a manifest names is there at its full length. Its content is checked when it is fetched.
    ///
    /// # Errors
    ///
    /// [`StateError::Missing`], [`StateError::Damaged`], [`StateError::Io`], [`StateError::Store`].
    pub async fn verify_lengths(&self, manifest: &Manifest) -> Result<(), StateError> {
        let there: BTreeMap<String, u64> = self.objects_in(FILES).await?.into_iter().collect();
        for file in manifest.files() {
            let place = || format!("{}/{}", self.url, file.name);
            match there.get(&file.name) {
                Some(bytes) if *bytes == file.bytes => {}
                Some(bytes) => {
                    return Err(StateError::damaged(
                        place(),
                        format!("{bytes} bytes"),
                        format!("{} bytes", file.bytes),
                    ));
                }
                None => return Err(StateError::Missing { place: place(), named_by: manifest.id().location() }),
            }
        }
        Ok(())
    }

    /// Checks that every file that a manifest names is there and is what was written.
    ///
    /// # Errors
    ///
    /// [`StateError::Missing`], [`StateError::Damaged`], [`StateError::Io`], [`StateError::Store`].
    pub async fn verify(&self, manifest: &Manifest) -> Result<(), StateError> {
        for file in manifest.files() {
            self.verify_file(file).await?;
        }
        Ok(())
    }

    /// Checks that one file is there and is what was written.
    ///
    /// # Errors
    ///
    /// As [`CheckpointStore::verify`].
    pub async fn verify_file(&self, file: &StoredFile) -> Result<(), StateError> {
        match &self.objects {
            Objects::Folder(folder) => {
                let (folder, file) = (folder.clone(), file.clone());
                blocking(move || folder.verify_file(&file).map(drop)).await
            }
            Objects::Remote(remote) => remote.verified(file).await.map(drop),
        }
    }

    /// The manifests in the store: checkpoints by epoch and generation, then savepoints by name.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`], [`StateError::Store`].
    pub async fn list(&self) -> Result<Vec<ManifestEntry>, StateError> {
        let mut entries = Vec::new();
        for folder in [ManifestId::CHECKPOINTS, ManifestId::SAVEPOINTS] {
            for (location, bytes) in self.objects_in(folder).await? {
                if let Some(id) = ManifestId::from_location(&location) {
                    entries.push(ManifestEntry { id, location, bytes });
                }
            }
        }
        entries.sort_unstable_by(|left, right| left.id.cmp(&right.id));
        Ok(entries)
    }

    /// Deletes one object; it may be gone already.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`], [`StateError::Store`].
    pub async fn delete(&self, location: &str) -> Result<(), StateError> {
        match &self.objects {
            Objects::Folder(folder) => {
                let (folder, location) = (folder.clone(), location.to_owned());
                blocking(move || folder.delete(&location)).await
            }
            Objects::Remote(remote) => remote.delete(location).await,
        }
    }

    /// Every object under a folder, with its length.
    async fn objects_in(&self, within: &str) -> Result<Vec<(String, u64)>, StateError> {
        match &self.objects {
            Objects::Folder(folder) => {
                let (folder, within) = (folder.clone(), within.to_owned());
                blocking(move || folder.list(&within)).await
            }
            Objects::Remote(remote) => remote.list(within).await,
        }
    }
}

/// Does blocking work on the runtime's threads for that; in the calling thread if there is no runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => match runtime.spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(StateError::io("finish work on", PathBuf::from("the checkpoint store"))(error.into())),
        },
        Err(_) => work(),
    }
}

/// A manifest is only data: a name in it must not lead out of the folder that it is fetched into.
fn local_name(file: &StoredFile) -> Result<&str, StateError> {
    let good = !file.local.is_empty() && !file.local.contains('/') && file.local != "." && file.local != "..";
    if good {
        Ok(&file.local)
    } else {
        Err(StateError::damaged("a manifest", format!("the file name {:?}", file.local), "a plain one"))
    }
}

/// Whether these bytes are the file.
fn verify(place: &str, bytes: &Bytes, file: &StoredFile) -> Result<(), StateError> {
    verify_sums(place, (bytes.len() as u64, xxh3_64(bytes)), file)
}

fn verify_sums(place: &str, (bytes, xxh3): (u64, u64), file: &StoredFile) -> Result<(), StateError> {
    if bytes != file.bytes {
        return Err(StateError::damaged(place, format!("{bytes} bytes"), file.bytes));
    }
    if xxh3 != file.xxh3 {
        return Err(StateError::damaged(place, format!("checksum {xxh3:016x}"), format!("{:016x}", file.xxh3)));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
