//! Showing what was staged, and clearing away what was staged in vain.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use millrace_state::durable;
use millrace_stream::Epoch;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use tracing::{debug, info, warn};

use super::{
    Folder, Handle, Prepared, STAGING, cannot, fault_point,
    place::{Listing, is_mark, lost},
    record::Record,
    refused,
};
use crate::sink::{CommitHandle, Committed, SinkContext, SinkError};

/// Runs blocking file work away from the asynchronous tasks.
pub(crate) async fn spawn_io<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Renames prepared files to their final names. One a sink node.
pub(crate) struct Publisher {
    folder: Arc<Folder>,
    node: String,
    record: Record,
    /// Staged names of files that were renamed since the last commit that was completed.
    renamed: HashSet<String>,
    /// Staged names of files that were committed before the start, or may be left out, and are not there; until what was
    /// decided before the start is committed.
    settled: HashSet<String>,
    /// Whether what is settled is known to have been committed.
    goes_back: bool,
}

/// What tells that a file that is gone was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// That it was renamed: then the staging folder is there without it.
    Renamed,
    /// Only the destination itself, and the record of what was committed; the record also for files that are there, if the
    /// destination was `dropped` since.
    Recorded { dropped: bool },
}

/// What renaming did.
#[derive(Debug, Default)]
struct Renamed {
    committed: Committed,
    staged: Vec<String>,
    missing: Missing,
}

/// Decided rows that are not where they were left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Missing {
    files: usize,
    rows: u64,
}

impl Missing {
    fn add(&mut self, rows: u64) {
        self.files += 1;
        self.rows = self.rows.saturating_add(rows);
    }
}

impl Publisher {
    pub(crate) fn new(folder: Folder, cx: &SinkContext) -> Self {
        Self {
            folder: Arc::new(folder),
            node: cx.node.clone(),
            record: Record::read(cx.scratch.clone()),
            renamed: HashSet::new(),
            settled: HashSet::new(),
            goes_back: cx.goes_back,
        }
    }

    pub(crate) fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// The newest epoch of the node's files that readers see.
    pub(crate) async fn newest(&self) -> Result<Option<Epoch>, SinkError> {
        let folder = self.folder.clone();
        let looked = spawn_io(move || Ok(folder.newest())).await;
        looked.map_err(|source| cannot("look at", self.folder.root(), source))?
    }

    /// Makes the handles' files visible. What is done already is passed over.
    ///
    /// # Errors
    /// [`SinkError::Gone`] if a file is neither staged nor there under its final name, and is not known to have been there.
    pub(crate) async fn publish(&mut self, epoch: Epoch, handles: &[Handle]) -> Result<Committed, SinkError> {
        let files: Vec<Prepared> = handles.iter().flat_map(|handle| handle.files.iter().cloned()).collect();
        if files.is_empty() {
            return Ok(Committed::default());
        }
        let done = files.iter().filter(|file| self.is_done(file)).map(|file| file.staged.clone()).collect();
        let folder = self.folder.clone();
        let work = move || {
            let mut renamed = Renamed::default();
            let outcome = rename_all(&folder, &files, &done, &mut renamed);
            Ok((renamed, outcome))
        };
        let (renamed, outcome) = spawn_io(work).await.map_err(|source| cannot("write", self.folder.root(), source))?;
        self.renamed.extend(renamed.staged);
        outcome?;
        match renamed.missing {
            Missing { files: 0, .. } => Ok(renamed.committed),
            missing => Err(self.gone(epoch, missing)),
        }
    }

    /// The epoch of these handles is committed, and durably so. What they say is spent goes, and not before: until readers see its
    /// rows elsewhere somebody may come back to an epoch that holds it.
    pub(crate) async fn completed(&mut self, handles: &[Handle]) {
        self.renamed.clear();
        self.settled.clear();
        self.goes_back = false;
        let spent: Vec<PathBuf> = handles
            .iter()
            .flat_map(|handle| handle.spent.iter().map(|name| self.folder.staging().join(name)))
            .collect();
        if !spent.is_empty() {
            let remove = move || {
                for path in spent {
                    match fs::remove_file(&path) {
                        // The task's next handle names it again.
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            warn!(file = %path.display(), %error, "what is committed otherwise could not be removed");
                        }
                        _ => {}
                    }
                }
                Ok(())
            };
            let _ = spawn_io(remove).await;
        }
        if let Some(write) = self.record.note(handles)
            && let Err(error) = spawn_io(write).await
        {
            debug!(%error, "what was committed could not be written down");
        }
    }

    /// After a start, before anything is made or renamed: what of the handles was committed already, though it is not
    /// there any more. `is_in`: the destination itself says so.
    ///
    /// # Errors
    /// [`SinkError::Gone`] if files or held rows are gone of which nothing says that they were committed.
    pub(crate) fn settle(
        &mut self,
        epoch: Epoch,
        handles: &[Handle],
        proof: Proof,
        is_in: impl Fn(&Prepared) -> bool,
    ) -> Result<(), SinkError> {
        let listing = self.folder.look()?;
        let is_staged = |name: &str| listing.as_ref().is_some_and(|listing| listing.has(name));
        let (mut missing, mut taken, mut settled) = (Missing::default(), 0, HashSet::new());
        for handle in handles {
            let is_same = |listing: &Listing| listing.is_of(handle.place.as_deref());
            let proves = proof == Proof::Renamed && listing.as_ref().is_some_and(is_same);
            for file in &handle.files {
                let is_recorded = self.record.has(&file.staged);
                let is_there = is_staged(&file.staged) || self.folder.root().join(&file.name).exists();
                if is_there && !(is_recorded && proof == (Proof::Recorded { dropped: true })) {
                    continue;
                }
                if self.goes_back || is_in(file) || proves || is_recorded {
                    taken += 1;
                } else {
                    missing.add(file.rows);
                }
                settled.insert(file.staged.clone());
            }
            if let Some(held) = &handle.held {
                let length = fs::metadata(self.folder.staging().join(&held.staged)).map_or(0, |found| found.len());
                if length < held.bytes && !self.goes_back {
                    missing.add(held.rows);
                }
            }
        }
        if missing.files > 0 {
            let error = self.gone(epoch, missing);
            if !listing.is_some_and(|listing| listing.has(&lost(epoch))) {
                return Err(error);
            }
            warn!(%error, "rows are left out, as the user has said");
        }
        if taken > 0 {
            warn!(
                folder = %self.folder.root().display(),
                epoch = epoch.0,
                files = taken,
                "files of the last checkpoint are gone; they had been committed, so somebody has taken them away"
            );
        }
        self.settled = settled;
        Ok(())
    }

    /// Whether [`Self::settle`] has found that the file is not there and need not be.
    pub(crate) fn is_settled(&self, file: &Prepared) -> bool {
        self.settled.contains(&file.staged)
    }

    fn is_done(&self, file: &Prepared) -> bool {
        let staged = &file.staged;
        self.renamed.contains(staged) || self.settled.contains(staged) || self.record.has(staged)
    }

    fn gone(&self, epoch: Epoch, missing: Missing) -> SinkError {
        let staging = self.folder.staging().display();
        let s = if missing.files == 1 { "" } else { "s" };
        SinkError::Gone {
            what: format!(
                "{} file{s} with {} rows of checkpoint {epoch}, which were staged in {staging}, are gone, and nothing shows \
                 that they were committed: the folder was removed or replaced. Put {} back as it was, with what is in \
                 {STAGING}, and run again; or, to go on without those rows, create the empty file {staging}/{}",
                missing.files,
                missing.rows,
                self.folder.root().display(),
                lost(epoch)
            ),
        }
    }

    /// Removes everything that the node staged and that `handles`, of the last decided epoch if there is one, do not name.
    pub(crate) async fn sweep(&self, epoch: Option<Epoch>, handles: &[Handle]) -> Result<(), SinkError> {
        let mut keep: HashSet<String> = handles
            .iter()
            .flat_map(|handle| {
                let files = handle.files.iter().map(|file| file.staged.clone());
                files.chain(handle.held.iter().map(|held| held.staged.clone()))
            })
            .collect();
        keep.extend(epoch.map(lost));
        let folder = self.folder.clone();
        let swept = spawn_io(move || sweep(&folder, &keep)).await;
        let removed = swept.map_err(|source| cannot("clear", self.folder.staging(), source))?;
        if removed > 0 {
            let (folder, node) = (self.folder.root().display(), &self.node);
            info!(%folder, node, files = removed, "removed what undecided epochs had staged");
        }
        Ok(())
    }

    /// Removes what the node staged and `handles` do not name, and the staging folder too if nothing is left in it.
    pub(crate) async fn discard(&self, handles: &[Handle]) -> Result<(), SinkError> {
        self.sweep(None, handles).await?;
        let folder = self.folder.clone();
        let work = move || {
            remove_if_empty(folder.staging());
            Ok(())
        };
        spawn_io(work).await.map_err(|source| cannot("clear", self.folder.staging(), source))
    }

    /// Reads stored handles. A file counts once, though several name it, as where an earlier release stored those of epochs that
    /// were given up too.
    pub(crate) fn load(handles: &[CommitHandle]) -> Result<Vec<Handle>, SinkError> {
        let mut handles = handles.iter().map(Handle::load).collect::<Result<Vec<_>, _>>()?;
        let mut seen = HashSet::new();
        handles.iter_mut().for_each(|handle| handle.files.retain(|file| seen.insert(file.staged.clone())));
        Ok(handles)
    }
}

fn rename_all(
    folder: &Folder,
    files: &[Prepared],
    done: &HashSet<String>,
    renamed: &mut Renamed,
) -> Result<(), SinkError> {
    let listing = folder.look()?;
    let mut missing = Missing::default();
    let mut staged = Vec::new();
    for file in files {
        if listing.as_ref().is_some_and(|listing| listing.has(&file.staged)) && is_whole(folder, file)? {
            staged.push(file);
        } else if !done.contains(&file.staged) && !folder.root().join(&file.name).exists() {
            missing.add(file.rows);
        }
    }
    // Before any file is shown: an epoch that is not whole is not shown in part.
    if missing.files > 0 {
        renamed.missing = missing;
        return Ok(());
    }
    let mut touched: BTreeSet<PathBuf> = BTreeSet::new();
    for (number, file) in staged.iter().enumerate() {
        if number > 0 {
            fault_point("mid-commit")?;
        }
        let (from, to) = (folder.staging().join(&file.staged), folder.root().join(&file.name));
        let parent = to.parent().unwrap_or(folder.root()).to_path_buf();
        if !touched.contains(&parent) && parent != folder.root() {
            make_folders(folder, &parent, &mut touched)?;
        }
        match show(&from, &to) {
            Ok(()) => {
                renamed.committed.add(Committed { rows: file.rows, bytes: file.bytes });
                renamed.staged.push(file.staged.clone());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {
                // What began before the tasks were started again may have been shown in the meantime.
                if !to.exists() {
                    renamed.missing.add(file.rows);
                }
            }
            // As where the folder was copied while it was shown.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_same(&from, &to)? => {
                fs::remove_file(&from).map_err(|source| cannot("commit", &from, source))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(SinkError::Refused {
                    what: format!(
                        "{} is there already with other rows, and is not replaced; what should have its name is {}",
                        to.display(),
                        from.display()
                    ),
                    source: None,
                });
            }
            Err(error) => return Err(cannot("commit", &to, error)),
        }
        touched.insert(parent);
    }
    // Also of files that an earlier attempt has renamed: it may have failed before this.
    let parents = files.iter().filter_map(|file| Some(folder.root().join(&file.name).parent()?.to_path_buf()));
    touched.extend(parents);
    for directory in &touched {
        match fs::File::open(directory).and_then(|directory| directory.sync_all()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot("commit", directory, error)),
            _ => {}
        }
    }
    Ok(())
}

/// Gives a file its final name, which no other has.
fn show(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot.
        Err(Errno::INVAL | Errno::NOSYS) if to.try_exists()? => Err(io::ErrorKind::AlreadyExists.into()),
        Err(Errno::INVAL | Errno::NOSYS) => fs::rename(from, to),
        renamed => Ok(renamed?),
    }
}

fn is_same(staged: &Path, shown: &Path) -> Result<bool, SinkError> {
    let sums = |path| durable::checksum(path);
    let same = sums(staged).and_then(|staged| Ok(staged == sums(shown)?));
    same.map_err(|error| refused(format!("{} and {} cannot be compared", staged.display(), shown.display()), error))
}

/// Whether what is staged under a file's name is that file. Where it has another length it is another: that is nothing to be
/// shown, and still less to be put in the place of what was.
fn is_whole(folder: &Folder, file: &Prepared) -> Result<bool, SinkError> {
    let path = folder.staging().join(&file.staged);
    match fs::metadata(&path) {
        Ok(found) => Ok(found.len() == file.bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(cannot("commit", &path, error)),
    }
}

/// Makes the folder of a partition, and notes those on the way to it for the fsync.
fn make_folders(folder: &Folder, directory: &Path, touched: &mut BTreeSet<PathBuf>) -> Result<(), SinkError> {
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
        if !entry.file_name().to_str().is_some_and(|name| keep.contains(name) || is_mark(name)) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes a staging folder in which nothing but its mark is left, and the folder of staging folders if it was the last.
fn remove_if_empty(staging: &Path) {
    let names: Vec<PathBuf> = fs::read_dir(staging).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let is_only_marked = names.iter().all(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_mark));
    if is_only_marked {
        let folders = names.iter().map(PathBuf::as_path).chain([staging]).chain(staging.parent());
        // One that is not empty, or that another has removed, stays as it is.
        folders.for_each(|folder| _ = fs::remove_dir(folder));
    }
}
