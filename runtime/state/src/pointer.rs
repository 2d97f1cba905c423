//! The pointer to the last decided checkpoint: moving it *is* the decision.
//!
//! On one machine it is the file `latest` in the checkpoint folder; in a cluster it is a ConfigMap. Whoever moves it says
//! in which generation it speaks, and a generation that has been replaced is told so and moves nothing.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use millrace_stream::{
    Epoch, Generation, Timestamp,
    checkpoint::{self, Advance, Claim, Decided},
};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::{StateError, durable, envelope, fault};

/// What the pointer holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Latest {
    /// Who wrote it. Nobody older may write it again.
    pub generation: Generation,
    /// The decided epochs that are kept, oldest first; the last one is the newest.
    pub decided: Vec<Decided>,
    /// About the newest decided checkpoint; `None` before there is one.
    pub newest: Option<Newest>,
}

/// About the newest decided checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Newest {
    /// Where its manifest is in the checkpoint store.
    pub manifest: String,
    /// Bytes of state that it names.
    #[serde(rename = "sizeBytes")]
    pub size_bytes: u64,
    /// From the opening of the epoch to its decision.
    #[serde(rename = "durationMs", with = "milliseconds")]
    pub duration: Duration,
    /// When it was decided, in milliseconds since 1970.
    pub completed_at: Timestamp,
}

/// A place that holds one [`Latest`] and changes it atomically. What may be written is decided by
/// [`millrace_stream::checkpoint::claim`] and [`advance`](millrace_stream::checkpoint::advance); a pointer reads, asks, and writes only over what it has read.
///
/// An implementer guarantees: a read sees the last write of any process; reading, deciding and writing are one step, so
/// that of two that race the older generation loses; what was answered as written survives power loss.
pub trait Pointer: Send + Sync {
    /// What it holds; `None` before the first claim.
    ///
    /// # Errors
    ///
    /// [`StateError::Damaged`], which is never taken for `None`.
    fn read(&self) -> BoxFuture<'_, Result<Option<Latest>, StateError>>;

    /// Takes the pointer over for `generation`, as it stands. Idempotent. Not cancel-safe.
    ///
    /// # Errors
    ///
    /// Whether it was taken is unknown then.
    fn claim(&self, generation: Generation) -> BoxFuture<'_, Result<Claim, StateError>>;

    /// Moves the pointer, which `next.generation` has claimed and left at epoch `from`. Idempotent: moving it to where it
    /// stands is [`Advance::AlreadyMoved`]. Not cancel-safe: a caller that drops the future does not know whether it moved.
    ///
    /// # Errors
    ///
    /// Whether the pointer moved is unknown then: try again, or read it, before deciding anything else.
    fn advance(&self, from: Option<Epoch>, next: Latest) -> BoxFuture<'_, Result<Advance, StateError>>;
}

impl Latest {
    /// The version that is written.
    pub const VERSION: u32 = 1;
    const KIND: &'static str = "latest";

    /// Its stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        envelope::seal(Self::KIND, Self::VERSION, self)
    }

    /// Reads the stored form. `place` is where it was found, for errors.
    ///
    /// # Errors
    ///
    /// [`StateError::Damaged`] and [`StateError::TooNew`].
    pub fn from_bytes(place: &str, bytes: &[u8]) -> Result<Self, StateError> {
        envelope::open(Self::KIND, Self::VERSION, place, bytes)
    }

    /// The part that decisions are made of.
    pub fn pointer(&self) -> checkpoint::Pointer {
        checkpoint::Pointer { generation: self.generation, decided: self.decided.clone() }
    }

    /// The newest decided epoch.
    pub fn epoch(&self) -> Option<Epoch> {
        self.decided.last().map(|decided| decided.taken.epoch)
    }
}

/// The pointer of one machine: the file `latest`, which `rename` replaces.
///
/// Comparing and replacing are one step because every process takes the lock of `latest.lock` for them.
///
/// Two data folders with one checkpoint folder count their generations apart, and may come to the same: of two claims of one
/// generation the second is fenced, unless it is made through the same value, or a clone of it.
#[derive(Clone, Debug)]
pub struct FilePointer {
    folder: PathBuf,
    claimed: Arc<Mutex<Option<Generation>>>,
}

impl FilePointer {
    /// The file's name.
    pub const FILE: &'static str = "latest";
    const LOCK: &'static str = "latest.lock";

    /// The pointer in this folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`StateError::NotAFolder`], [`StateError::Io`].
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        durable::create_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), claimed: Arc::default() })
    }

    /// The file's path.
    pub fn path(&self) -> PathBuf {
        self.folder.join(Self::FILE)
    }

    /// [`Pointer::read`], in the calling thread.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read_now(&self) -> Result<Option<Latest>, StateError> {
        let path = self.path();
        match fs::read(&path) {
            Ok(bytes) => Latest::from_bytes(&path.display().to_string(), &bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::io("read", path)(error)),
        }
    }

    /// [`Pointer::claim`], in the calling thread.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn claim_now(&self, generation: Generation) -> Result<Claim, StateError> {
        let locked = self.lock()?;
        let current = self.read_now()?;
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.generation == generation) && *claimed != Some(generation) {
            return Ok(Claim::Fenced { by: generation });
        }
        let claim = checkpoint::claim(current.as_ref().map(Latest::pointer).as_ref(), generation);
        if let Claim::Take(pointer) = &claim {
            *claimed = Some(generation);
            let newest = current.and_then(|current| current.newest);
            let taken = Latest { generation, decided: pointer.decided.clone(), newest };
            durable::replace(&self.path(), &taken.to_bytes())?;
        }
        drop(locked);
        Ok(claim)
    }

    /// [`Pointer::advance`], in the calling thread.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn advance_now(&self, from: Option<Epoch>, next: &Latest) -> Result<Advance, StateError> {
        fault::point("before-pointer")?;
        let locked = self.lock()?;
        let current = self.read_now()?;
        let advance = checkpoint::advance(current.as_ref().map(Latest::pointer).as_ref(), from, next.pointer());
        if matches!(advance, Advance::Move(_)) {
            let before_rename = || fault::point("mid-pointer").map_err(StateError::from);
            durable::replace_with(&self.path(), &next.to_bytes(), before_rename)?;
        }
        drop(locked);
        fault::point("after-pointer")?;
        Ok(advance)
    }

    /// Replaces a pointer that is damaged or gone; by `None`, which says that nothing is decided, if there is nothing to point
    /// to. The damaged file is kept, and its new path returned; `None` if there was none.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn repair(&self, to: Option<&Latest>) -> Result<Option<PathBuf>, StateError> {
        let locked = self.lock()?;
        let path = self.path();
        let kept = durable::keep_damaged(&path)?;
        match to {
            Some(to) => durable::replace(&path, &to.to_bytes())?,
            None => durable::remove(&path)?,
        }
        drop(locked);
        Ok(kept)
    }

    fn lock(&self) -> Result<File, StateError> {
        let path = self.folder.join(Self::LOCK);
        let file = File::options().create(true).append(true).open(&path).map_err(StateError::io("open", &path))?;
        // Held for a few milliseconds by whoever has it, so waiting is right.
        flock(&file, FlockOperation::LockExclusive).map_err(|error| StateError::io("lock", &path)(error.into()))?;
        Ok(file)
    }
}

impl Pointer for FilePointer {
    fn read(&self) -> BoxFuture<'_, Result<Option<Latest>, StateError>> {
        let pointer = self.clone();
        Box::pin(crate::checkpoint_store::blocking(move || pointer.read_now()))
    }

    fn claim(&self, generation: Generation) -> BoxFuture<'_, Result<Claim, StateError>> {
        let pointer = self.clone();
        Box::pin(crate::checkpoint_store::blocking(move || pointer.claim_now(generation)))
    }

    fn advance(&self, from: Option<Epoch>, next: Latest) -> BoxFuture<'_, Result<Advance, StateError>> {
        let pointer = self.clone();
        Box::pin(crate::checkpoint_store::blocking(move || pointer.advance_now(from, &next)))
    }
}

mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests;
