//! A staged file that is being written.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use futures::FutureExt;
use tokio::task::JoinHandle;

use super::cannot;
use crate::sink::SinkError;

/// How much may lie in the page cache before the kernel is asked, in the background, to write it out: what is left when a
/// barrier comes is then little, whatever the epoch's size.
const SYNC_EVERY_BYTES: u64 = 16 << 20;

/// A file in a staging folder, open for appending.
pub(crate) struct StagedFile {
    file: Descriptor,
    path: PathBuf,
    name: String,
    bytes: u64,
    unsynced_bytes: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

/// How it is reached.
enum Descriptor {
    Open(fs::File),
    /// By its path, where the file of this device and inode is to be.
    LetGo((u64, u64)),
}

impl StagedFile {
    pub(super) fn new(file: fs::File, path: PathBuf, name: String, bytes: u64) -> Self {
        let file = Descriptor::Open(file);
        Self { file, path, name, bytes, unsynced_bytes: 0, syncing: None }
    }

    /// Its name in the staging folder.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How long it is.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends bytes.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.write_all(bytes).map_err(|source| cannot("write", &self.path, source))
    }

    /// Gives up its descriptor, as nothing more is appended: an epoch may have more files than a process may have open.
    pub(crate) fn let_go(&mut self) -> Result<(), SinkError> {
        if let Descriptor::Open(file) = &self.file {
            let metadata = file.metadata().map_err(|source| cannot("write", &self.path, source))?;
            self.file = Descriptor::LetGo(identity(&metadata));
        }
        Ok(())
    }

    /// Makes all that was written so far durable, and looks whether the file is still where it was staged; more may be
    /// appended meanwhile.
    pub(crate) fn sync(&mut self) -> impl Future<Output = Result<(), SinkError>> + Send + use<> {
        let path = self.path.clone();
        let syncing = self.syncing.take();
        let file = match &self.file {
            Descriptor::Open(file) => file.try_clone().map(Descriptor::Open),
            Descriptor::LetGo(identity) => Ok(Descriptor::LetGo(*identity)),
        };
        let is_unsynced = self.unsynced_bytes > 0;
        self.unsynced_bytes = 0;
        async move {
            let staged = path.clone();
            let result = async {
                if let Some(syncing) = syncing {
                    syncing.await.map_err(io::Error::other)??;
                }
                let file = file?;
                let work = move || {
                    let (file, ours) = match file {
                        Descriptor::Open(file) => {
                            let ours = identity(&file.metadata()?);
                            (file, ours)
                        }
                        Descriptor::LetGo(ours) => (fs::File::open(&staged)?, ours),
                    };
                    is_still_at(ours, &staged)?;
                    if is_unsynced {
                        file.sync_data()?;
                    }
                    is_still_at(ours, &staged)
                };
                super::spawn_io(work).await
            };
            let result: io::Result<()> = result.await;
            result.map_err(|source| cannot("write", &path, source))
        }
    }

    fn open(&self) -> io::Result<&fs::File> {
        match &self.file {
            Descriptor::Open(file) => Ok(file),
            Descriptor::LetGo(_) => Err(io::Error::other("a file that has ended takes nothing more")),
        }
    }

    fn sync_in_background(&mut self) -> io::Result<()> {
        if self.syncing.as_ref().is_some_and(|syncing| !syncing.is_finished()) {
            return Ok(());
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return Ok(()) };
        // The kernel tells of a failed write-out once: its answer must not be lost.
        if let Some(Some(earlier)) = self.syncing.take().map(FutureExt::now_or_never) {
            earlier.map_err(io::Error::other)??;
        }
        let file = self.open()?.try_clone()?;
        self.unsynced_bytes = 0;
        self.syncing = Some(runtime.spawn_blocking(move || file.sync_data()));
        Ok(())
    }
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.open()?.write(bytes)?;
        self.bytes += written as u64;
        self.unsynced_bytes += written as u64;
        if self.unsynced_bytes >= SYNC_EVERY_BYTES {
            self.sync_in_background()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Whether the path still leads to the file, and not to nothing or to another: its folder may have been removed or replaced.
fn is_still_at(ours: (u64, u64), path: &Path) -> io::Result<()> {
    if identity(&fs::metadata(path)?) == ours {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "another file has taken the place of what was staged"))
}
