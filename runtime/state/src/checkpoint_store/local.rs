//! A checkpoint store in a folder of this machine.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{StateError, StoredFile, verify_sums};
use crate::{
    durable::{self, Temporary},
    fault,
    task_store::LocalFile,
};

#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where an object is. A name comes from a manifest, so it must not lead out of the folder.
    fn path(&self, location: &str) -> Result<PathBuf, StateError> {
        let good = |part: &str| !part.is_empty() && part != "." && part != "..";
        if location.split('/').all(good) {
            Ok(self.root.join(location))
        } else {
            Err(StateError::damaged("a manifest", format!("the object name {location:?}"), "a name within the store"))
        }
    }

    /// Makes the folder of an object, in a store that is still there: one that was moved away, or is not mounted any more, can come
    /// back, and nothing must stand in its place then.
    fn make_folder_of(&self, object: &Path) -> Result<(), StateError> {
        fs::metadata(&self.root).map_err(StateError::io("look at", &self.root))?;
        durable::create_folder(durable::folder_of(object))
    }

    /// Puts a file; its name is durable once its folder is synced.
    pub(super) fn put_file(&self, file: &LocalFile, stored: &StoredFile) -> Result<(), StateError> {
        let target = self.path(&stored.name)?;
        self.make_folder_of(&target)?;
        let temporary = Temporary::beside(&target);
        // Left behind by a process with the same number.
        let _ = fs::remove_file(temporary.path());
        // A file that never changes again may have two names; one that RocksDB goes on writing to may not.
        if file.immutable && fs::hard_link(&file.path, temporary.path()).is_ok() {
            fault::point("mid-upload")?;
        } else {
            self.copy_file(file, stored, &temporary)?;
        }
        // Named by its content: one that is there is the same, unless it is damaged.
        if !temporary.create(&target)? {
            let found = fs::metadata(&target).map_err(StateError::io("look at", &target))?.len();
            if found != stored.bytes {
                return Err(StateError::damaged(target.display(), format!("{found} bytes"), stored.bytes));
            }
        }
        Ok(())
    }

    fn copy_file(&self, file: &LocalFile, stored: &StoredFile, temporary: &Temporary) -> Result<(), StateError> {
        let mut target = temporary.open()?;
        let source = File::open(&file.path).map_err(StateError::io("open", &file.path))?;
        let (mut written, mut half) = (0, stored.bytes / 2);
        let sums = durable::pass_through(source, &file.path, |mut piece| {
            if written + piece.len() as u64 > half {
                let (first, second) = piece.split_at((half - written) as usize);
                target.write_all(first).map_err(StateError::io("write", temporary.path()))?;
                fault::point("mid-upload")?;
                written += first.len() as u64;
                (piece, half) = (second, u64::MAX);
            }
            written += piece.len() as u64;
            target.write_all(piece).map_err(StateError::io("write", temporary.path()))
        })?;
        target.sync_all().map_err(StateError::io("sync", temporary.path()))?;
        verify_sums(&file.path.display().to_string(), sums, stored)
    }

    /// Where a file is, after reading all of it.
    pub(super) fn verify_file(&self, file: &StoredFile) -> Result<PathBuf, StateError> {
        let path = self.path(&file.name)?;
        let place = path.display().to_string();
        let sums = match durable::checksum(&path) {
            Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(StateError::Missing { place, named_by: "the checkpoint's manifest".into() });
            }
            sums => sums?,
        };
        verify_sums(&place, sums, file)?;
        Ok(path)
    }

    /// Gets a file, by a hard link where that can be.
    pub(super) fn get_file(&self, file: &StoredFile, to: &Path) -> Result<(), StateError> {
        let path = self.verify_file(file)?;
        if fs::hard_link(&path, to).is_err() {
            fs::copy(&path, to).map_err(StateError::io("copy", &path))?;
            verify_sums(&to.display().to_string(), durable::checksum(to)?, file)?;
        }
        Ok(())
    }

    pub(super) fn create(&self, location: &str, content: &[u8]) -> Result<bool, StateError> {
        let path = self.path(location)?;
        self.make_folder_of(&path)?;
        durable::create(&path, content)
    }

    pub(super) fn read(&self, location: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path(location)?;
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::io("read", path)(error)),
        }
    }

    pub(super) fn delete(&self, location: &str) -> Result<(), StateError> {
        let path = self.path(location)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateError::io("delete", path)(error)),
            // A name that comes back after power loss is an orphan, or retired again: no need to sync.
            _ => Ok(()),
        }
    }

    /// Every file under a folder, by its location.
    pub(super) fn list(&self, within: &str) -> Result<Vec<(String, u64)>, StateError> {
        let (mut found, mut folders) = (Vec::new(), vec![within.to_owned()]);
        while let Some(folder) = folders.pop() {
            let path = self.path(&folder)?;
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StateError::io("list", path)(error)),
            };
            for entry in entries {
                let entry = entry.map_err(StateError::io("list", &path))?;
                let location = format!("{folder}/{}", entry.file_name().to_string_lossy());
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    // Deleted since the folder was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(StateError::io("look at", entry.path())(error)),
                };
                if metadata.is_dir() {
                    folders.push(location);
                } else {
                    found.push((location, metadata.len()));
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// Takes a file from an earlier copy if it is whole there; says whether it was.
pub(super) fn take_whole(here: &Path, to: &Path, file: &StoredFile) -> bool {
    let whole = durable::checksum(here).is_ok_and(|sums| sums == (file.bytes, file.xxh3));
    whole && (fs::hard_link(here, to).is_ok() || fs::copy(here, to).is_ok())
}
