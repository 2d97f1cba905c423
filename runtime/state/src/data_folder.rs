//! The folder that a pipeline on one machine lives in.
//!
//! ```text
//! <data>/layout          version of this layout
//! <data>/lock            locked (flock) by the process that works here; says which one that is
//! <data>/instance        id given when the folder was made: tells two pipelines of one name apart
//! <data>/generation      the last generation that was handed out; written before it is used
//! <data>/decided         the newest checkpoint that was decided; written before the first is, and after each
//! <data>/state/<task>/   scratch: db/ is the task's store, epoch-N/ are hard-linked copies of it
//! <data>/scratch/<node>/ scratch: what a source or a sink keeps on this machine
//! <data>/checkpoints/    the checkpoint store, where the pipeline names no other
//! ```
//!
//! `layout`, `instance` and `generation` have the form of [`envelope`]. Where one of them is damaged the folder is not opened;
//! [`DamagedFolder`] makes them anew.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use millrace_stream::{Epoch, Generation, NodeName, TaskId, Timestamp};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::{ErrorKind, StateError, durable, envelope};

mod repair;

pub use repair::{DamagedFolder, Note};

const LAYOUT: &str = "layout";
const LOCK: &str = "lock";
const INSTANCE: &str = "instance";
const STARTED: &str = "started";
const DECIDED: &str = "decided";
const GENERATION: &str = "generation";
const STATE: &str = "state";
const SCRATCH: &str = "scratch";
const CHECKPOINTS: &str = "checkpoints";

/// What the files of the folder are worth once the process has died.
const VERSION: u32 = 1;

/// A data folder that this process, and no other, works in. Given back when dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    instance: RwLock<String>,
    fresh_instance: String,
    /// Locked as long as it is open.
    _lock: File,
}

/// Who opens a folder.
#[derive(Clone, Debug)]
pub struct Opener {
    /// What is written into the lock.
    pub holder: Holder,
    /// The id that the folder gets if it is new. Random, so handed in.
    pub fresh_instance: String,
}

/// Who works in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its machine; empty if that is not known.
    pub host: String,
    /// Since when, in milliseconds since 1970.
    pub since: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Layout {
    layout: u32,
}

/// The newest checkpoint that was decided here, of those of an instance.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewestDecided {
    epoch: Epoch,
    instance: String,
}

impl Opener {
    /// This process, at this time.
    pub fn this_process(now: Timestamp, fresh_instance: String) -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        Self { holder: Holder { pid: std::process::id(), host, since: now }, fresh_instance }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("by another process");
        }
        write!(f, "by process {}", self.pid)?;
        if !self.host.is_empty() {
            write!(f, " on {}", self.host)?;
        }
        write!(f, " since {}", Utc(self.since))
    }
}

/// A moment for people: `2026-01-31T12:00:00Z`.
struct Utc(Timestamp);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.0 / 1000;
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Days to a civil date, counting years from March so that the leap day comes last.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl DataFolder {
    /// Takes the folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`StateError::Held`] if another process works there, [`StateError::NotAFolder`], [`StateError::NoDataFolder`],
    /// [`StateError::NotADataFolder`] if there is something else in it, [`StateError::TooNew`] and [`StateError::Damaged`]
    /// for its own files, and [`StateError::Io`], for a read-only folder or a full disk say.
    pub fn open(path: &Path, opener: &Opener) -> Result<Self, StateError> {
        durable::create_folder(path).map_err(|error| match error {
            StateError::Io { source, .. } if !is_full(&source) => {
                StateError::NoDataFolder { path: path.to_owned(), source }
            }
            other => other,
        })?;
        refuse_strangers(path)?;
        let lock = take_lock(path, &opener.holder)?;
        let layout = path.join(LAYOUT);
        match read_fact::<Layout>(&layout, LAYOUT)? {
            None => durable::replace(&layout, &envelope::seal(LAYOUT, VERSION, &Layout { layout: VERSION }))?,
            Some(Layout { layout: VERSION }) => {}
            Some(Layout { layout: found }) => {
                return Err(StateError::TooNew { place: path.display().to_string(), found, known: VERSION });
            }
        }
        for folder in [STATE, SCRATCH] {
            durable::create_folder(&path.join(folder))?;
        }
        let instance = match read_fact(&path.join(INSTANCE), INSTANCE)? {
            Some(instance) => instance,
            None => {
                let sealed = envelope::seal(INSTANCE, VERSION, &opener.fresh_instance);
                durable::replace(&path.join(INSTANCE), &sealed)?;
                opener.fresh_instance.clone()
            }
        };
        remove_temporaries(path)?;
        Ok(Self {
            path: path.to_owned(),
            instance: RwLock::new(instance),
            fresh_instance: opener.fresh_instance.clone(),
            _lock: lock,
        })
    }

    /// Who works in a folder now, for commands that only look; `None`: nobody does.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn holder(path: &Path) -> Result<Option<Holder>, StateError> {
        let path = path.join(LOCK);
        let mut lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::io("open", path)(error)),
        };
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(written_holder(&mut lock))),
            Err(error) => Err(StateError::io("lock", path)(error.into())),
        }
    }

    /// The instance id of a folder that need not be taken, for commands that only look; `None`: it is no data folder yet.
    ///
    /// # Errors
    ///
    /// [`StateError::Damaged`], [`StateError::TooNew`], [`StateError::Io`].
    pub fn instance_of(path: &Path) -> Result<Option<String>, StateError> {
        read_fact(&path.join(INSTANCE), INSTANCE)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id that it got when it was made, or was given since.
    pub fn instance(&self) -> String {
        self.instance.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the folder the id that this process brought: for a pipeline that starts from nothing.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn renew_instance(&self) -> Result<(), StateError> {
        self.adopt_instance(&self.fresh_instance)
    }

    /// Gives the folder this id: that of the checkpoint which is gone on from.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn adopt_instance(&self, instance: &str) -> Result<(), StateError> {
        let mut has = self.instance.write().unwrap_or_else(PoisonError::into_inner);
        if *has != instance {
            let instance = instance.to_owned();
            durable::replace(&self.path.join(INSTANCE), &envelope::seal(INSTANCE, VERSION, &instance))?;
            *has = instance;
        }
        Ok(())
    }

    /// Hands out the next generation: greater than every one that was handed out before, and than `seen`, which is the
    /// greatest that was met elsewhere (in the pointer, say). It is on disk before it is returned.
    ///
    /// # Errors
    ///
    /// [`StateError::Damaged`] if the counter is: guessing it could let an older generation decide. [`StateError::Io`].
    pub fn next_generation(&self, seen: Option<Generation>) -> Result<Generation, StateError> {
        let path = self.path.join(GENERATION);
        let last: Option<Generation> = read_fact(&path, GENERATION)?;
        let next = last.max(seen).map_or(Generation(1), Generation::next);
        durable::replace(&path, &envelope::seal(GENERATION, VERSION, &next))?;
        Ok(next)
    }

    /// What was started last, as [`Self::note_started`] has noted it; `None`: nothing that can be read. Nothing but a clean-up
    /// depends on it.
    pub fn started<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        read_fact(&self.path.join(STARTED), STARTED).ok().flatten()
    }

    /// Notes what is started now: until its first checkpoint nothing else says so.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn note_started(&self, plan: &impl Serialize) -> Result<(), StateError> {
        durable::replace(&self.path.join(STARTED), &envelope::seal(STARTED, VERSION, plan))
    }

    /// Whether a checkpoint was ever decided in a folder, which need not be taken: then there is one to go on from. A note that is
    /// damaged says so no less, since nobody writes one before.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn has_decided(path: &Path) -> Result<bool, StateError> {
        let path = path.join(DECIDED);
        path.try_exists().map_err(StateError::io("look at", path))
    }

    /// The newest checkpoint that was decided in this folder under its instance, as far as that is known: the note may be one
    /// behind, and one that cannot be read says nothing of it.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn newest_decided(&self) -> Result<Option<Epoch>, StateError> {
        match read_fact::<NewestDecided>(&self.path.join(DECIDED), DECIDED) {
            Ok(noted) => Ok(noted.filter(|noted| noted.instance == self.instance()).map(|noted| noted.epoch)),
            Err(StateError::TooNew { .. }) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes that this checkpoint is decided, unless a newer one is noted. The first note is durable; for those after it
    /// it is enough that they are seldom behind.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn note_decided(&self, epoch: Epoch) -> Result<(), StateError> {
        let path = self.path.join(DECIDED);
        let instance = self.instance();
        let is_first = match read_fact::<NewestDecided>(&path, DECIDED) {
            Ok(Some(noted)) if noted.instance == instance && noted.epoch >= epoch => return Ok(()),
            Err(StateError::TooNew { .. }) => return Ok(()),
            Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
            noted => matches!(noted, Ok(None)),
        };
        let note = envelope::seal(DECIDED, VERSION, &NewestDecided { epoch, instance });
        if is_first { durable::replace(&path, &note) } else { durable::replace_soon(&path, &note) }
    }

    /// Takes that note away: the next start begins at the beginning, if nothing else is there.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn forget_decided(&self) -> Result<(), StateError> {
        durable::remove(&self.path.join(DECIDED))
    }

    /// The folder of the default checkpoint store.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// [`Self::checkpoints`] of a folder that need not be taken.
    pub fn checkpoints_of(path: &Path) -> PathBuf {
        path.join(CHECKPOINTS)
    }

    /// The folder of a task's live store.
    pub fn task_store(&self, task: &TaskId) -> PathBuf {
        self.task_folder(task).join("db")
    }

    /// The folder of a task's local copy of a checkpoint.
    pub fn task_checkpoint(&self, task: &TaskId, epoch: Epoch) -> PathBuf {
        self.task_folder(task).join(format!("epoch-{epoch}"))
    }

    /// The epochs of which a task has a local copy, whole or not, ascending.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn task_checkpoints(&self, task: &TaskId) -> Result<Vec<Epoch>, StateError> {
        let epoch = |name: &str| name.strip_prefix("epoch-")?.parse().ok().map(Epoch);
        let mut epochs: Vec<_> = names_in(&self.task_folder(task))?.iter().filter_map(|name| epoch(name)).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// The folder of a task, which holds its store and the copies of it.
    pub fn task_folder(&self, task: &TaskId) -> PathBuf {
        self.path.join(STATE).join(task_name(task))
    }

    /// Deletes the folders of tasks that are not among `tasks`: those of an older plan or parallelism.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn retain_tasks<'a>(&self, tasks: impl IntoIterator<Item = &'a TaskId>) -> Result<(), StateError> {
        let kept: Vec<_> = tasks.into_iter().map(task_name).collect();
        let state = self.path.join(STATE);
        for name in names_in(&state)?.into_iter().filter(|name| !kept.contains(name)) {
            remove_folder(&state.join(name))?;
        }
        Ok(())
    }

    /// A folder of a source's or sink's own, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn scratch(&self, node: &NodeName) -> Result<PathBuf, StateError> {
        let path = self.path.join(SCRATCH).join(file_name(&node.0));
        durable::create_folder(&path)?;
        Ok(path)
    }
}

/// Deletes a folder and what is in it; it may be gone already.
///
/// # Errors
///
/// [`StateError::Io`].
pub fn remove_folder(path: &Path) -> Result<(), StateError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateError::io("delete", path)(error)),
        _ => Ok(()),
    }
}

/// A task's name as a file name. No two tasks share one.
pub fn task_name(task: &TaskId) -> String {
    format!("{}-{}", file_name(&task.stage.0), task.index)
}

/// A name with everything but letters, digits, `.`, `_` and `-` as `%` and two hexadecimal digits a byte.
fn file_name(name: &str) -> String {
    let mut file = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => file.push(char::from(byte)),
            b'.' if at > 0 => file.push('.'),
            other => file.push_str(&format!("%{other:02X}")),
        }
    }
    file
}

/// A disk may have room again later; nothing else that keeps a folder from being made goes away by itself.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A user who names a folder with photographs in it has made a mistake.
fn refuse_strangers(path: &Path) -> Result<(), StateError> {
    let names = names_in(path)?;
    let ours = [LAYOUT, LOCK, INSTANCE, GENERATION, STARTED, STATE, SCRATCH, CHECKPOINTS];
    // What the command keeps here. Such names are common, so they say something only beside a lock.
    let more: &[&str] = match names.iter().any(|name| name == LOCK) {
        true => &[DECIDED, "pipeline", "storage", "control", "control.sock"],
        false => &[],
    };
    let known = |name: &String| {
        ours.contains(&name.as_str())
            || more.contains(&name.as_str())
            || name == "lost+found"
            || durable::is_temporary(name)
    };
    // Once there is a layout file the folder is ours, and what users keep beside our files is theirs.
    if names.iter().any(|name| name == LAYOUT) {
        return Ok(());
    }
    match names.iter().find(|name| !known(name)) {
        Some(found) => Err(StateError::NotADataFolder { path: path.to_owned(), found: found.clone() }),
        None => Ok(()),
    }
}

fn take_lock(folder: &Path, holder: &Holder) -> Result<File, StateError> {
    let path = folder.join(LOCK);
    let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    let mut lock = open.map_err(StateError::io("open", &path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(StateError::Held { path: folder.to_owned(), holder: written_holder(&mut lock) });
        }
        Err(error) => return Err(StateError::io("lock", &path)(error.into())),
    }
    let text = serde_json::to_vec(holder).expect("a holder has string keys");
    let written = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(&text));
    written.map_err(StateError::io("write", &path))?;
    Ok(lock)
}

/// What the holder wrote about itself; it may be writing just now.
fn written_holder(lock: &mut File) -> Holder {
    let mut text = String::new();
    let read = lock.take(4096).read_to_string(&mut text);
    let holder = read.ok().and_then(|_| serde_json::from_str(&text).ok());
    holder.unwrap_or(Holder { pid: 0, host: String::new(), since: Timestamp(0) })
}

fn read_fact<T: serde::de::DeserializeOwned>(path: &Path, kind: &str) -> Result<Option<T>, StateError> {
    match fs::read(path) {
        Ok(bytes) => envelope::open(kind, VERSION, &path.display().to_string(), &bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StateError::io("read", path)(error)),
    }
}

fn names_in(folder: &Path) -> Result<Vec<String>, StateError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StateError::io("list", folder)(error)),
    };
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<io::Result<_>>().map_err(StateError::io("list", folder))
}

fn remove_temporaries(folder: &Path) -> Result<(), StateError> {
    for name in names_in(folder)?.into_iter().filter(|name| durable::is_temporary(name)) {
        let path = folder.join(name);
        fs::remove_file(&path).map_err(StateError::io("delete", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
