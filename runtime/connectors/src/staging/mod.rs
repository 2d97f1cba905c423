//! Files that nobody sees until their epoch is decided: what the `file`, `parquet` and `delta` sinks have in common.
//!
//! ```text
//! <folder>/
//!   .millrace-staging/<pipeline>-<instance>-<node>/
//!     made-00000001-1700000000000/  tells this folder from one that was put in its place
//!     00000007-t0-1.staged          being written, or prepared and undecided
//!   <pipeline>-<instance>-<node>-e0000000042-t0.ndjson                                          committed
//!   day=2013-01-31/<pipeline>-<instance>-<node>-e0000000042-t0-1.parquet                        committed
//! ```
//!
//! A task writes under the staging folder, on the same file system as the destination. `prepare` fsyncs the files and the
//! staging folder and puts into the handle, for each file, the staged name and the name that it is to have. `commit`
//! renames, and fsyncs every folder that it touched. A rename is atomic and a file is renamed whole, so a reader sees all
//! rows of a file or none; final names carry pipeline, instance, node, epoch and task, so a commit that is repeated finds
//! its work done. Staged names end with `.staged`, so that not even a recursive glob for `*.parquet` finds them.
//!
//! A file may also be *held*: kept staged over several epochs until it is large or old enough. Its handle has the length
//! up to which it belongs to decided epochs; a restored task cuts it there and goes on.
//!
//! An epoch may be aborted while the tasks go on. Its files are then still staged when the next epoch is prepared, and are
//! named again by that epoch's handle. If they were committed in the meantime, the second commit finds them done.
//!
//! A decided file that is neither staged nor under its final name was either committed and then taken away, which is the
//! reader's right, or it was lost with the folder that it waited in. The [record] of what was committed tells, and
//! so does the [mark](place) in the folder. What nothing is known of is an error, and no file is renamed and no folder made
//! before that is settled.
//!
//! What is not done here: choosing formats, and anything that is not a folder on a local file system.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use millrace_stream::{Epoch, Timestamp};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::sink::{CommitHandle, SinkContext, SinkError};

mod commit;
mod committer;
mod file;
mod place;
mod prepare;
mod record;

pub(crate) use commit::{Proof, Publisher, spawn_io};
pub(crate) use committer::FolderCommitter;
pub(crate) use file::StagedFile;
pub(crate) use prepare::{Failed, prepared, sync_staging};

/// The folder in a destination that holds what is staged.
pub(crate) const STAGING: &str = ".millrace-staging";

/// The version of [`Handle`]'s form. Version 1 had no `place`.
const HANDLE_VERSION: u8 = 2;

/// When what was gathered over several epochs is committed. All unset: at every epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batching {
    /// At so many rows.
    pub max_rows: Option<u64>,
    /// At so many bytes, as staged.
    pub max_bytes: Option<u64>,
    /// So long after the first row.
    pub max_delay: Option<Duration>,
}

impl Batching {
    /// Whether rows may be held over an epoch's end.
    pub(crate) fn holds(&self) -> bool {
        *self != Self::default()
    }

    /// Whether what was gathered is to be committed. After the clock has jumped back nobody knows for how long it was held.
    pub(crate) fn is_due(&self, rows: u64, bytes: u64, since: Timestamp, now: Timestamp) -> bool {
        !self.holds()
            || self.max_rows.is_some_and(|max| rows >= max)
            || self.max_bytes.is_some_and(|max| bytes >= max)
            || self.max_delay.is_some_and(|max| now < since || now.since(since) >= max)
    }
}

/// What a task of a staging sink leaves at the end of an epoch. Its form has a version and a golden test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Handle {
    version: u8,
    /// The mark of the staging folder that the files are in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<String>,
    /// To be committed.
    pub(crate) files: Vec<Prepared>,
    /// To be kept, and continued by the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) held: Option<Held>,
    /// Staged files whose rows are in `files` now: to be removed with the commit, and not before, since an earlier epoch's
    /// handle holds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) spent: Vec<String>,
}

/// A whole file that waits for its commit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Prepared {
    /// Its name in the staging folder.
    pub(crate) staged: String,
    /// The name that it is to have, relative to the destination, with `/` between folders.
    pub(crate) name: String,
    /// The epoch that first had it in its handle.
    pub(crate) epoch: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// The partition that its rows are in, as text; `None`: null.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) partition: Vec<(String, Option<String>)>,
    /// Statistics as a Delta log has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stats: Option<String>,
}

/// A staged file that later epochs continue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Held {
    /// Its name in the staging folder.
    pub(crate) staged: String,
    /// How much of it belongs to this epoch and those before it.
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    /// When its first row came.
    pub(crate) since_ms: u64,
}

/// What a task prepared and cannot yet know to be committed. An epoch may be aborted while the task goes on; then the
/// next handle must name its files again. A file that has left the staging folder was committed.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    files: Vec<Prepared>,
    spent: Vec<String>,
}

impl Pending {
    /// The epoch's handle: `files` and `spent`, and those of earlier epochs that are still staged.
    ///
    /// # Errors
    /// If the staging folder is not the one that they were staged in.
    pub(crate) fn handle(
        &mut self,
        folder: &Folder,
        files: Vec<Prepared>,
        held: Option<Held>,
        spent: Option<String>,
    ) -> Result<Handle, SinkError> {
        if !(self.files.is_empty() && self.spent.is_empty()) {
            let listing = folder.look()?.filter(|listing| listing.is_of(folder.place()));
            let listing = listing.ok_or_else(|| folder.vanished())?;
            self.files.retain(|file| listing.has(&file.staged));
            self.spent.retain(|name| listing.has(name));
        }
        self.files.extend(files);
        self.spent.extend(spent);
        Ok(Handle {
            version: HANDLE_VERSION,
            place: folder.place().map(str::to_owned),
            files: self.files.clone(),
            held,
            spent: self.spent.clone(),
        })
    }
}

impl Handle {
    /// The form that is stored in manifests.
    pub(crate) fn store(&self) -> Result<CommitHandle, SinkError> {
        serde_json::to_value(self)
            .map(CommitHandle)
            .map_err(|source| refused("a sink's handle cannot be stored".to_owned(), source))
    }

    /// Reads what [`Self::store`] wrote.
    pub(crate) fn load(handle: &CommitHandle) -> Result<Self, SinkError> {
        let handle: Self = serde_json::from_value(handle.0.clone())
            .map_err(|source| refused("the checkpoint's handle of a sink cannot be read".to_owned(), source))?;
        let refuse = |what: String| Err(SinkError::Refused { what, source: None });
        if !(1..=HANDLE_VERSION).contains(&handle.version) {
            return refuse(format!(
                "the checkpoint's handle of a sink has version {}, this build reads version {HANDLE_VERSION}",
                handle.version
            ));
        }
        let elsewhere = handle.names().find(|name| !is_below(name)).map(str::to_owned);
        match elsewhere {
            Some(name) => refuse(format!("the checkpoint's handle of a sink names a file elsewhere: `{name}`")),
            None => Ok(handle),
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let files = self.files.iter().flat_map(|file| [&file.staged, &file.name]);
        files.chain(self.held.iter().map(|held| &held.staged)).chain(&self.spent).map(String::as_str)
    }
}

/// Whether a stored handle has a held file. One that cannot be read is told by whoever reads it.
pub(crate) fn holds(handle: &CommitHandle) -> bool {
    Handle::load(handle).is_ok_and(|handle| handle.held.is_some())
}

/// Whether a relative path leads to something below where it starts.
fn is_below(name: &str) -> bool {
    let mut parts = Path::new(name).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// A destination folder as one sink node sees it: where it stages, and how its files are called.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    staging: PathBuf,
    /// What every final name begins with.
    prefix: String,
    /// What this task's staged names begin with.
    stage_prefix: String,
    task: u32,
    goes_back: bool,
    made: AtomicU32,
    abandoned: AtomicBool,
    /// The mark that the staging folder gets if it has none.
    mark: String,
    /// The one that it has.
    place: OnceLock<String>,
}

impl Folder {
    /// The view of a task (or committer) of the destination `root`. Touches nothing.
    pub(crate) fn new(root: PathBuf, cx: &SinkContext) -> Self {
        let instance: String = slug(&cx.instance).chars().take(16).collect();
        let prefix = format!("{}-{instance}-{}", slug(&cx.pipeline), slug(&cx.node));
        Self {
            staging: root.join(STAGING).join(&prefix),
            root,
            stage_prefix: format!("{:08}-t{}", cx.generation.0, cx.index),
            prefix,
            task: cx.index,
            goes_back: cx.goes_back,
            made: AtomicU32::new(0),
            abandoned: AtomicBool::new(false),
            mark: place::mark(cx.generation, cx.clock.now()),
            place: OnceLock::new(),
        }
    }

    /// The destination.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The node's staging folder.
    pub(crate) fn staging(&self) -> &Path {
        &self.staging
    }

    /// Whether something that is no folder stands where the destination should be.
    pub(crate) fn check(&self) -> Result<(), SinkError> {
        match fs::metadata(&self.root) {
            Ok(found) if !found.is_dir() => {
                Err(cannot("make the folder", &self.root, io::ErrorKind::NotADirectory.into()))
            }
            _ => Ok(()),
        }
    }

    /// Makes the destination and the staging folder, if they are not there.
    pub(crate) fn create(&self) -> Result<(), SinkError> {
        let make = || {
            fs::create_dir_all(&self.staging)?;
            self.settle_place()
        };
        make().map_err(|source| cannot("make the folder", &self.staging, source))
    }

    /// The name, relative to the destination, of the `number`th file that this task commits in `epoch`.
    pub(crate) fn final_name(&self, epoch: Epoch, number: usize, directory: &str, extension: &str) -> String {
        let slash = if directory.is_empty() { "" } else { "/" };
        let number = if number == 0 { String::new() } else { format!("-{number}") };
        format!("{directory}{slash}{}-e{:010}-t{}{number}.{extension}", self.prefix, epoch.0, self.task)
    }

    /// The newest epoch of the node's files that are there under their final names.
    pub(crate) fn newest(&self) -> Result<Option<Epoch>, SinkError> {
        let mut newest = None;
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            let failed = |source| cannot("look at", &folder, source);
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(failed)?,
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name();
                let Some(name) = name.to_str() else { continue };
                newest = newest.max(self.epoch_of(name));
                // A partition's.
                if name.contains('=') && entry.file_type().map_err(failed)?.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        Ok(newest)
    }

    /// The epoch of a file of the node's, by its name.
    fn epoch_of(&self, name: &str) -> Option<Epoch> {
        let (epoch, task) = name.strip_prefix(&self.prefix)?.strip_prefix("-e")?.split_once("-t")?;
        task.starts_with(|first: char| first.is_ascii_digit()).then(|| epoch.parse().ok().map(Epoch))?
    }

    /// No file is staged from now on: the task is gone, and what it staged will be cleared away. What still runs on its
    /// behalf must leave nothing behind that.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    /// A new staged file.
    pub(crate) fn stage(&self) -> Result<StagedFile, SinkError> {
        loop {
            if self.abandoned.load(Ordering::SeqCst) {
                return Err(SinkError::Refused {
                    what: format!("the task that wrote to {} is gone", self.root.display()),
                    source: None,
                });
            }
            let number = self.made.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{number}.staged", self.stage_prefix);
            let path = self.staging.join(&name);
            let opened = fs::OpenOptions::new().append(true).create_new(true).open(&path);
            match opened {
                Ok(file) => return Ok(StagedFile::new(file, path, name, 0)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // Also where the folder has gone since it was made: what was staged in it has to come again.
                Err(error) => return Err(cannot("write", &path, error)),
            }
        }
    }

    /// Opens a held file, cut to the length that the handle says. `None`: it is gone, and that was allowed.
    pub(crate) fn resume(&self, held: &Held) -> Result<Option<StagedFile>, SinkError> {
        let path = self.staging.join(&held.staged);
        let open = || -> io::Result<fs::File> {
            let file = fs::OpenOptions::new().append(true).read(true).open(&path)?;
            let length = file.metadata()?.len();
            if length < held.bytes {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("it has {length} bytes, the checkpoint counts on {}", held.bytes),
                ));
            }
            file.set_len(held.bytes)?;
            Ok(file)
        };
        let file = match open() {
            Ok(file) => file,
            Err(_) if self.look()?.is_some_and(|listing| listing.forgives()) => return Ok(None),
            Err(error) if self.goes_back && error.kind() == io::ErrorKind::NotFound => {
                tracing::info!(file = %path.display(), rows = held.rows, "what was held back there has been shown since");
                return Ok(None);
            }
            Err(source) => {
                return Err(SinkError::Refused {
                    what: format!(
                        "{} held {} rows that were waiting for a fuller file, and it is not as the checkpoint left it",
                        path.display(),
                        held.rows
                    ),
                    source: Some(source.into()),
                });
            }
        };
        Ok(Some(StagedFile::new(file, path, held.staged.clone(), held.bytes)))
    }
}

/// `name` with only letters, digits, `_`, `.` and `-`, so that it can stand in a file name. Names of nodes stay distinct:
/// they are `<identifier>-><object name>`, and an identifier has no `-`.
fn slug(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "_.".contains(c) { c } else { '-' }).collect()
}

/// The folder that a sink's `uri` or `path` means: a path, or a `file://` URL.
pub(crate) fn local_folder(uri: &str) -> Result<PathBuf, SinkError> {
    let refuse = |why: &str| SinkError::Refused { what: format!("`{uri}` {why}"), source: None };
    let path = match uri.split_once("://") {
        None => PathBuf::from(uri),
        Some(("file", _)) => Url::parse(uri)
            .ok()
            .and_then(|url| url.to_file_path().ok())
            .ok_or_else(|| refuse("is not a URL of a local folder; such a URL looks like file:///out/rows"))?,
        Some((scheme, _)) => {
            return Err(refuse(&format!(
                "is in a {scheme} store; this build writes to local folders (file:///out/rows)"
            )));
        }
    };
    // Absolute, so that a later change of the working folder moves nothing.
    std::path::absolute(&path).map_err(|source| cannot("find", &path, source))
}

/// What went wrong, for the user. Errors that another try will meet again are refusals.
pub(crate) fn cannot(verb: &str, path: &Path, source: io::Error) -> SinkError {
    use io::ErrorKind::{AlreadyExists, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    let hint = match source.kind() {
        PermissionDenied => "the user that Millrace runs as may not write there",
        ReadOnlyFilesystem => "the file system is mounted read-only",
        NotADirectory | AlreadyExists => "a file stands where a folder is needed",
        _ => return SinkError::Io { what: path.display().to_string(), source },
    };
    SinkError::Refused { what: format!("cannot {verb} {}: {hint}", path.display()), source: Some(source.into()) }
}

/// A place at which a test can kill the process or make the step fail: one of [`millrace_state::fault::POINTS`].
pub(crate) fn fault_point(name: &'static str) -> Result<(), SinkError> {
    millrace_state::fault::point(name)
        .map_err(|injected| SinkError::Io { what: "a sink's output".to_owned(), source: injected.into() })
}

/// An error that another try will meet again.
pub(crate) fn refused(what: String, source: impl std::error::Error + Send + Sync + 'static) -> SinkError {
    SinkError::Refused { what, source: Some(Box::new(source)) }
}

#[cfg(test)]
pub(crate) mod tests;
