//! Writing to a local file system so that what is there stays there, power loss included.
//!
//! A name appears whole or not at all: bytes are written to a temporary file (`.tmp-…`) beside it, synced, and given the
//! name by `rename` (replace) or `link` (create if absent); then the folder is synced, since a name is part of its folder.
//! Temporary files of a process that died are found by [`is_temporary`] and may be deleted by whoever owns the folder.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use xxhash_rust::xxh3::Xxh3Default;

use crate::StateError;

const TEMPORARY: &str = ".tmp-";
const COPY_BUFFER_BYTES: usize = 256 * 1024;

/// Whether a file name is that of a temporary file.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY)
}

/// Makes a folder and those above it, and makes their names durable.
///
/// # Errors
///
/// [`StateError::NotAFolder`] if something else has the name; [`StateError::Io`].
pub fn create_folder(path: &Path) -> Result<(), StateError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(StateError::NotAFolder { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(StateError::NotAFolder { path: first_that_is_no_folder(path) });
        }
        Err(error) => return Err(StateError::io("look at", path)(error)),
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_folder(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        // A link that leads nowhere.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(StateError::NotAFolder { path: path.to_owned() });
        }
        Err(error) => return Err(StateError::io("create", path)(error)),
    }
    sync_folder(parent.unwrap_or(Path::new(".")))
}

fn first_that_is_no_folder(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|above| above.metadata().is_ok_and(|found| !found.is_dir()));
    found.unwrap_or(path).to_owned()
}

/// Makes the names in a folder durable.
///
/// # Errors
///
/// [`StateError::Io`].
pub fn sync_folder(path: &Path) -> Result<(), StateError> {
    let folder = File::open(path).map_err(StateError::io("open", path))?;
    folder.sync_all().map_err(StateError::io("sync", path))
}

/// Gives `path` this content, in place of what it may have had. Readers see the one or the other.
///
/// # Errors
///
/// [`StateError::Io`]; the old content then still stands.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), StateError> {
    replace_with(path, content, || Ok(()))
}

/// [`replace`], durable only when the system gets to it: for what may be lost with the machine.
pub(crate) fn replace_soon(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let temporary = Temporary::beside(path);
    temporary.open()?.write_all(content).map_err(StateError::io("write", path))?;
    temporary.replace(path)
}

/// [`replace`], with something in between the writing and the renaming.
pub(crate) fn replace_with(
    path: &Path,
    content: &[u8],
    before_rename: impl FnOnce() -> Result<(), StateError>,
) -> Result<(), StateError> {
    let temporary = Temporary::write(path, content)?;
    before_rename()?;
    temporary.replace(path)?;
    sync_folder(folder_of(path))
}

/// Gives `path` this content if there is no such file yet; says whether it did.
///
/// # Errors
///
/// [`StateError::Io`].
pub fn create(path: &Path, content: &[u8]) -> Result<bool, StateError> {
    let created = Temporary::write(path, content)?.create(path)?;
    if created {
        sync_folder(folder_of(path))?;
    }
    Ok(created)
}

/// Gives a damaged file a second name, `<name>.damaged-<number>`, under which it stays when its own is given to another;
/// `None`: there is no such file.
///
/// # Errors
///
/// [`StateError::Io`].
pub fn keep_damaged(path: &Path) -> Result<Option<PathBuf>, StateError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for number in 1_u32.. {
        let kept = path.with_file_name(format!("{name}.damaged-{number}"));
        match fs::hard_link(path, &kept) {
            Ok(()) => {
                sync_folder(folder_of(path))?;
                return Ok(Some(kept));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::io("keep", kept)(error)),
        }
    }
    Ok(None)
}

/// Deletes a file, durably; it may be gone already.
///
/// # Errors
///
/// [`StateError::Io`].
pub fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(folder_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StateError::io("delete", path)(error)),
    }
}

/// The folder that a file lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Length and xxh3 of a file.
///
/// # Errors
///
/// [`StateError::Io`].
pub fn checksum(path: &Path) -> Result<(u64, u64), StateError> {
    let file = File::open(path).map_err(StateError::io("open", path))?;
    pass_through(file, path, |_| Ok(()))
}

/// Reads a file to its end; gives each piece to `each`, and returns length and xxh3.
pub(crate) fn pass_through(
    mut file: impl Read,
    path: &Path,
    mut each: impl FnMut(&[u8]) -> Result<(), StateError>,
) -> Result<(u64, u64), StateError> {
    let mut hasher = Xxh3Default::new();
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut length = 0;
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Ok((length, hasher.digest())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(StateError::io("read", path)(error)),
        };
        hasher.update(&buffer[..read]);
        each(&buffer[..read])?;
        length += read as u64;
    }
}

/// A file beside its destination that is deleted unless it is given its name.
pub(crate) struct Temporary {
    path: PathBuf,
}

impl Temporary {
    /// A name that no other temporary file of this folder has. Nothing is made yet.
    pub(crate) fn beside(destination: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMPORARY}{}-{number}", std::process::id());
        Self { path: folder_of(destination).join(name) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An empty temporary file, open for writing. One that a process with the same number left behind is overwritten.
    pub(crate) fn open(&self) -> Result<File, StateError> {
        File::create(&self.path).map_err(StateError::io("create", &self.path))
    }

    /// A temporary file with this content, synced.
    pub(crate) fn write(destination: &Path, content: &[u8]) -> Result<Self, StateError> {
        let temporary = Self::beside(destination);
        let mut file = temporary.open()?;
        file.write_all(content).map_err(StateError::io("write", destination))?;
        file.sync_all().map_err(StateError::io("sync", destination))?;
        Ok(temporary)
    }

    pub(crate) fn replace(self, destination: &Path) -> Result<(), StateError> {
        fs::rename(&self.path, destination).map_err(StateError::io("replace", destination))
    }

    pub(crate) fn create(self, destination: &Path) -> Result<bool, StateError> {
        match fs::hard_link(&self.path, destination) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(StateError::io("create", destination)(error)),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed away, or of no more use; a file that stays is found by `is_temporary`.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creating_a_file_that_exists_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert!(create(&path, b"one").unwrap());
        assert!(!create(&path, b"two").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_folder_under_a_file_is_refused_with_the_name_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        fs::write(&file, b"").unwrap();
        for wanted in [file.clone(), file.join("b"), file.join("b/c")] {
            match create_folder(&wanted) {
                Err(StateError::NotAFolder { path }) => assert_eq!(path, file),
                other => panic!("{other:?}"),
            }
        }
    }
}
