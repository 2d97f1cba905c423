//! Showing what was staged, and clearing away what was staged in vain.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::PathBuf,
    sync::Arc,
};

use millrace_stream::Epoch;
use tracing::{info, warn};

use super::{Folder, Handle, Prepared, cannot, fault_point};
use crate::sink::{CommitHandle, Committed, SinkError};

/// Runs blocking file work away from the asynchronous tasks.
pub(crate) async fn spawn_io<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Renames prepared files to their final names. One a sink node.
#[derive(Clone)]
pub(crate) struct Publisher {
    folder: Arc<Folder>,
}

/// What renaming did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Moved {
    committed: Committed,
    missing: usize,
}

impl Publisher {
    pub(crate) fn new(folder: Folder) -> Self {
        Self { folder: Arc::new(folder) }
    }

    pub(crate) fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// Makes the handles' files visible, and removes what they say is spent. What is done already is passed over.
    ///
    /// # Errors
    /// If a file that this epoch prepared is neither staged nor there under its final name: somebody removed it.
    pub(crate) async fn publish(&self, epoch: Epoch, handles: &[Handle]) -> Result<Committed, SinkError> {
        let (moved, root) = (self.rename(epoch, handles).await?, self.folder.root());
        if moved.missing > 0 {
            return Err(SinkError::Refused {
                what: format!(
                    "{} files of {} that were staged and waited for their commit have been removed by somebody else",
                    moved.missing,
                    root.display()
                ),
                source: None,
            });
        }
        Ok(moved.committed)
    }

    /// The same after a start, when the files may have been committed before and taken away by a reader since.
    pub(crate) async fn publish_again(&self, epoch: Epoch, handles: &[Handle]) -> Result<Committed, SinkError> {
        let moved = self.rename(epoch, handles).await?;
        if moved.missing > 0 {
            warn!(
                folder = %self.folder.root().display(),
                epoch = epoch.0,
                files = moved.missing,
                "files of the last checkpoint are gone; taking it that they were committed and moved away by a reader"
            );
        }
        Ok(moved.committed)
    }

    async fn rename(&self, epoch: Epoch, handles: &[Handle]) -> Result<Moved, SinkError> {
        let files: Vec<Prepared> = handles.iter().flat_map(|handle| handle.files.iter().cloned()).collect();
        let spent: Vec<String> = handles.iter().flat_map(|handle| handle.spent.iter().cloned()).collect();
        if files.is_empty() && spent.is_empty() {
            return Ok(Moved::default());
        }
        let folder = self.folder.clone();
        let work = move || Ok(rename_all(&folder, epoch, &files, &spent));
        spawn_io(work).await.map_err(|source| cannot("write", self.folder.root(), source))?
    }

    /// Removes everything that the node staged and that `handles` do not name.
    pub(crate) async fn sweep(&self, handles: &[Handle]) -> Result<(), SinkError> {
        let keep: HashSet<String> = handles
            .iter()
            .flat_map(|handle| {
                let files = handle.files.iter().map(|file| file.staged.clone());
                files.chain(handle.held.iter().map(|held| held.staged.clone()))
            })
            .collect();
        let folder = self.folder.clone();
        let swept = spawn_io(move || sweep(&folder, &keep)).await;
        let removed = swept.map_err(|source| cannot("clear", self.folder.staging(), source))?;
        if removed > 0 {
            info!(folder = %self.folder.root().display(), files = removed, "removed what undecided epochs had staged");
        }
        Ok(())
    }

    /// Reads stored handles.
    pub(crate) fn load(handles: &[CommitHandle]) -> Result<Vec<Handle>, SinkError> {
        handles.iter().map(Handle::load).collect()
    }
}

fn rename_all(folder: &Folder, epoch: Epoch, files: &[Prepared], spent: &[String]) -> Result<Moved, SinkError> {
    let mut moved = Moved::default();
    let mut touched: BTreeSet<PathBuf> = BTreeSet::new();
    for (number, file) in files.iter().enumerate() {
        if number > 0 {
            fault_point("mid-commit")?;
        }
        let (from, to) = (folder.staging().join(&file.staged), folder.root().join(&file.name));
        let parent = to.parent().unwrap_or(folder.root()).to_path_buf();
        if !touched.contains(&parent) && parent != folder.root() {
            make_folders(folder, &parent, &mut touched)?;
        }
        match fs::rename(&from, &to) {
            Ok(()) => {
                moved.committed.rows += file.rows;
                moved.committed.bytes += file.bytes;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {
                // What an earlier epoch prepared may have been committed by it, and taken away by a reader since.
                moved.missing += usize::from(file.epoch == epoch.0);
            }
            Err(error) => return Err(cannot("commit", &to, error)),
        }
        touched.insert(parent);
    }
    for directory in &touched {
        match fs::File::open(directory).and_then(|directory| directory.sync_all()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot("commit", directory, error)),
            _ => {}
        }
    }
    for name in spent {
        let path = folder.staging().join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot("remove", &path, error)),
            _ => {}
        }
    }
    Ok(moved)
}

/// Makes the folder of a partition, and notes those on the way to it for the fsync.
fn make_folders(
    folder: &Folder,
    directory: &std::path::Path,
    touched: &mut BTreeSet<PathBuf>,
) -> Result<(), SinkError> {
    fs::create_dir_all(directory).map_err(|source| cannot("make the folder", directory, source))?;
    let above = directory.ancestors().skip(1).take_while(|above| above.starts_with(folder.root()));
    touched.extend(above.map(|above| above.to_path_buf()));
    Ok(())
}

fn sweep(folder: &Folder, keep: &HashSet<String>) -> io::Result<usize> {
    let entries = match fs::read_dir(folder.staging()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| keep.contains(name)) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}
