//! Where the checkpoints of a data folder are: the file `storage` in it, so that the commands that look at checkpoints find
//! them without the manifests.
//!
//! It holds the absolute path or the URL that `checkpoints.storage` meant when the pipeline last ran, or `null` for the data
//! folder's own `checkpoints`, which moves with the folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use millrace_engine::JobError;
use millrace_state::{CheckpointStore, DataFolder, ErrorKind, FilePointer, StateError, durable, envelope};

const STORAGE: &str = "storage";
const VERSION: u32 = 1;

/// Where the checkpoints are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage(Option<String>);

impl Storage {
    /// What `checkpoints.storage` says, seen from the working directory.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`] if the working directory cannot be told.
    pub fn said(storage: Option<&str>) -> Result<Self, StateError> {
        let absolute = |path: &str| {
            let path = std::path::absolute(path).map_err(|source| StateError::Io {
                action: "find",
                path: path.into(),
                source,
            })?;
            Ok(path.to_string_lossy().into_owned())
        };
        match storage {
            Some(path) if !path.contains("://") => absolute(path).map(Some).map(Self),
            said => Ok(Self(said.map(str::to_owned))),
        }
    }

    /// What a data folder's last run has noted; `None`: nothing, as before this file was written.
    ///
    /// # Errors
    ///
    /// [`StateError::Damaged`], [`StateError::TooNew`], [`StateError::Io`].
    pub fn noted(data_dir: &Path) -> Result<Option<Self>, StateError> {
        let path = Self::path(data_dir);
        match fs::read(&path) {
            Ok(bytes) => {
                envelope::open(STORAGE, VERSION, &path.display().to_string(), &bytes).map(|found| Some(Self(found)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Io { action: "read", path, source }),
        }
    }

    /// Notes it in the data folder.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn note(&self, data_dir: &Path) -> Result<(), StateError> {
        match Self::noted(data_dir) {
            Ok(Some(noted)) if noted == *self => return Ok(()),
            // Who notes it knows it, so that nothing is lost.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(error = %millrace_engine::chain(&error), "written anew");
            }
            noted => drop(noted?),
        }
        self.note_anew(data_dir)
    }

    /// The same, whatever is noted there.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn note_anew(&self, data_dir: &Path) -> Result<(), StateError> {
        durable::replace(&Self::path(data_dir), &envelope::seal(STORAGE, VERSION, &self.0))
    }

    /// Finds out whether the checkpoints of the last run would stay behind. They do not where there were none; and where there are
    /// some in the new place too, that one is gone on from, if it can be.
    ///
    /// # Errors
    ///
    /// [`JobError::StorageMoved`] if they would; [`JobError::State`] if that cannot be found out.
    pub async fn stays(&self, data_dir: &Path, pipeline: &str) -> Result<(), JobError> {
        let Some(was) = self.was(data_dir)? else { return Ok(()) };
        match self.has_any(data_dir, pipeline).await? || !was.has_any(data_dir, pipeline).await? {
            true => Ok(()),
            false => Err(JobError::StorageMoved { was: was.shown(data_dir), is: self.shown(data_dir) }),
        }
    }

    /// Finds out whether checkpoints of the pipeline should be there and nothing of them is, as where a volume is not mounted. What
    /// the data folder notes is not changed for the question, and no folder is made: one that was moved away can be moved back.
    ///
    /// # Errors
    ///
    /// [`JobError::CheckpointsGone`] if so; [`JobError::State`] if that cannot be found out.
    pub async fn refuse_gone(&self, data_dir: &Path, pipeline: &str) -> Result<(), JobError> {
        if !DataFolder::has_decided(data_dir)? || self.has_anything(data_dir, pipeline).await? {
            return Ok(());
        }
        let was = self.was(data_dir)?.map(|was| was.shown(data_dir));
        Err(JobError::CheckpointsGone { place: format!("{}/{pipeline}", self.shown(data_dir)), was })
    }

    /// Whether a checkpoint of the pipeline is there, or the pointer to the newest, wherever that points.
    async fn has_anything(&self, data_dir: &Path, pipeline: &str) -> Result<bool, StateError> {
        let exists = |path: &Path| match path.try_exists() {
            Ok(exists) => Ok(exists),
            Err(source) => Err(StateError::Io { action: "look at", path: path.to_owned(), source }),
        };
        let folder = self.folder(data_dir)?.map(|folder| folder.join(pipeline));
        let of_pointer = folder.clone().unwrap_or_else(|| DataFolder::checkpoints_of(data_dir));
        if exists(&of_pointer.join(FilePointer::FILE))? {
            return Ok(true);
        }
        match folder {
            Some(folder) if !exists(&folder)? => Ok(false),
            _ => Ok(!self.open(data_dir, pipeline)?.list().await?.is_empty()),
        }
    }

    /// Where the last run kept the checkpoints, if that was elsewhere.
    fn was(&self, data_dir: &Path) -> Result<Option<Self>, StateError> {
        let noted = match Self::noted(data_dir) {
            // It is written anew.
            Err(error) if error.kind() == ErrorKind::Corrupt => None,
            noted => noted?,
        };
        Ok(noted.filter(|noted| noted != self))
    }

    /// Whether a checkpoint of the pipeline is there. No folder is made for the question.
    async fn has_any(&self, data_dir: &Path, pipeline: &str) -> Result<bool, StateError> {
        if self.folder(data_dir)?.is_some_and(|folder| !folder.is_dir()) {
            return Ok(false);
        }
        Ok(!self.open(data_dir, pipeline)?.list().await?.is_empty())
    }

    /// For people.
    fn shown(&self, data_dir: &Path) -> String {
        self.0.clone().unwrap_or_else(|| DataFolder::checkpoints_of(data_dir).display().to_string())
    }

    /// Where it is noted.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(STORAGE)
    }

    /// The part of it that is a pipeline's.
    ///
    /// # Errors
    ///
    /// As of [`CheckpointStore::open`].
    pub fn open(&self, data_dir: &Path, pipeline: &str) -> Result<CheckpointStore, StateError> {
        match self.0.as_deref() {
            None => CheckpointStore::in_folder(&DataFolder::checkpoints_of(data_dir), pipeline),
            Some(url) if url.contains("://") => CheckpointStore::open(url, pipeline),
            Some(path) => CheckpointStore::in_folder(Path::new(path), pipeline),
        }
    }

    /// Its folder, which holds one for each pipeline; `None`: it is no folder of this machine.
    ///
    /// # Errors
    ///
    /// [`StateError::Url`].
    pub fn folder(&self, data_dir: &Path) -> Result<Option<PathBuf>, StateError> {
        match self.0.as_deref() {
            None => Ok(Some(DataFolder::checkpoints_of(data_dir))),
            Some(url) if url.contains("://") => CheckpointStore::folder_of_url(url),
            Some(path) => Ok(Some(path.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::owner::tests::expect_nothing_guessed;

    #[test]
    fn what_was_noted_is_found_from_another_working_directory_and_the_folders_own_moves_with_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Storage::noted(folder.path()).unwrap(), None);
        let here = std::env::current_dir().unwrap();
        for (said, found) in [
            (None, folder.path().join("checkpoints")),
            (Some("kept"), here.join("kept")),
            (Some("/kept"), PathBuf::from("/kept")),
            (Some("file:///kept%20here"), PathBuf::from("/kept here")),
        ] {
            Storage::said(said).unwrap().note(folder.path()).unwrap();
            assert_eq!(Storage::noted(folder.path()).unwrap().unwrap().folder(folder.path()).unwrap(), Some(found));
        }
        fs::write(Storage::path(folder.path()), "null").unwrap();
        assert!(Storage::noted(folder.path()).unwrap_err().is_damaged_note(), "and never guessed");
    }

    #[tokio::test]
    async fn checkpoints_are_gone_where_one_was_decided_and_neither_a_manifest_nor_the_pointer_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let opener = millrace_state::Opener::this_process(millrace_stream::Timestamp(0), "instance".to_owned());
        let (data_dir, kept) = (folder.path().join("data"), folder.path().join("kept"));
        let data = DataFolder::open(&data_dir, &opener).unwrap();
        for said in [None, Some(kept.to_str().unwrap())] {
            let storage = Storage::said(said).unwrap();
            let own = storage.folder(&data_dir).unwrap().unwrap().join("web");
            data.forget_decided().unwrap();
            storage.refuse_gone(&data_dir, "web").await.unwrap();
            data.note_decided(millrace_stream::Epoch(1)).unwrap();
            let gone = storage.refuse_gone(&data_dir, "web").await.unwrap_err().to_string();
            assert!(gone.contains(&format!("there are no checkpoints in {}", own.display())), "{gone}");
            assert!(!own.exists(), "no folder is in the way of the one that is put back");
            // One of another pipeline changes nothing, nor does what is no checkpoint; a damaged pointer is somebody else's to tell.
            for (file, is_found) in [
                ("../shop/latest", false),
                ("files/t-0/1-000007-00.sst", false),
                ("manifests/1-1.json", true),
                ("savepoints/mine.json", true),
                ("latest", true),
            ] {
                let file = own.join(file);
                fs::create_dir_all(&own).unwrap();
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, "").unwrap();
                assert_eq!(storage.refuse_gone(&data_dir, "web").await.is_ok(), is_found, "{}", file.display());
                fs::remove_dir_all(own.parent().unwrap()).unwrap();
            }
            storage.note(&data_dir).unwrap();
        }
        let gone = Storage(None).refuse_gone(&data_dir, "web").await.unwrap_err().to_string();
        assert!(gone.contains(&format!("which the last run kept in {}", kept.display())), "{gone}");
    }

    #[test]
    fn version_1_is_what_the_golden_text_says() {
        let folder = tempfile::tempdir().unwrap();
        Storage::said(Some("/kept")).unwrap().note(folder.path()).unwrap();
        let golden = "{\"millrace\":\"storage\",\"version\":1,\"bytes\":7,\"xxh3\":\"293d349a70ec6c9f\"}\n\"/kept\"\n";
        assert_eq!(fs::read_to_string(Storage::path(folder.path())).unwrap(), golden);
    }

    #[test]
    fn a_damaged_note_is_refused_and_no_place_is_guessed() {
        let folder = tempfile::tempdir().unwrap();
        Storage::said(Some("/kept")).unwrap().note(folder.path()).unwrap();
        expect_nothing_guessed(&Storage::path(folder.path()), (STORAGE, VERSION), "/kept", || {
            let found = Storage::noted(folder.path())?;
            // Whether it is a place does not matter.
            let _ = found.as_ref().map(|found| (found.folder(folder.path()), found.shown(folder.path())));
            Ok(found.map(|found| found.0))
        });
    }
}
