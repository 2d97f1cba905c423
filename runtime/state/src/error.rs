//! What can go wrong with what is remembered, and what the caller should do about it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::{data_folder::Holder, fault::Injected};

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Trying the same again later may succeed.
    Retry,
    /// The task's store is no longer usable: restart the graph from the last decided checkpoint.
    Restart,
    /// Nothing gets better until a person changes the spec, the folder or the permissions.
    FixSpec,
    /// What was stored is damaged: it can't be read, by anybody, ever.
    Corrupt,
}

/// Why state could not be read or written. `Display` says where, what was found and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb: `write`, `sync`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// RocksDB refused.
    #[error("cannot {action} the task's store in {}", path.display())]
    Rocks {
        /// What was tried, as a verb.
        action: &'static str,
        /// The folder of the database.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rocksdb::Error,
    },
    /// The object store refused.
    #[error("cannot {action} {location} in the checkpoint store {store}")]
    Store {
        /// What was tried, as a verb.
        action: &'static str,
        /// The object.
        location: String,
        /// The store's URL.
        store: String,
        /// Why not.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The pointer of a cluster cannot be read or moved, or nobody knows whether it was.
    #[error("cannot {action} {place}")]
    Pointer {
        /// What was tried, as a verb.
        action: &'static str,
        /// Where the pointer is.
        place: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something that was stored is not what was written.
    #[error("{place} is damaged: found {found}, expected {expected}")]
    Damaged {
        /// The file, object or chunk.
        place: String,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// A file or object that something else names is not there.
    #[error("{place} is missing, and {named_by} names it")]
    Missing {
        /// The file or object.
        place: String,
        /// What names it.
        named_by: String,
    },
    /// Written by a newer Millrace.
    #[error("{place} has version {found}; this millrace reads versions up to {known}")]
    TooNew {
        /// The file, object or chunk.
        place: String,
        /// Its version.
        found: u32,
        /// The newest version that is understood.
        known: u32,
    },
    /// A run's keys must ascend.
    #[error("key {} of state {state:?} does not come after {}, which was written before it", Hex(key), Hex(previous))]
    OutOfOrder {
        /// The state.
        state: String,
        /// The key that was written last.
        previous: Vec<u8>,
        /// The key that was refused.
        key: Vec<u8>,
    },
    /// A part of a run went into the store and the rest failed.
    #[error("the store in {} holds half a run, of which the other half failed", path.display())]
    Torn {
        /// The folder of the database.
        path: PathBuf,
    },
    /// The store has no state of this name.
    #[error("the store in {} has no state {state:?}; it has {}", path.display(), Names(known))]
    UnknownState {
        /// The folder of the database.
        path: PathBuf,
        /// The name that was asked for.
        state: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// Sources of a restore do not cover, or cover twice, what the task owns.
    #[error("key groups {start}..{end} cannot be restored: {why}")]
    Ranges {
        /// The first key group that the task owns.
        start: u16,
        /// The key group after its last.
        end: u16,
        /// What is wrong.
        why: String,
    },
    /// A column cannot be put into a chunk.
    #[error("a column of type {data_type} cannot be stored")]
    Unstorable {
        /// Its type.
        data_type: String,
    },
    /// What is to be stored cannot be computed.
    #[error("{what}")]
    Incomputable {
        /// Why, and what to do.
        what: String,
    },
    /// Another process works on the folder.
    #[error("{} is in use {holder}; stop it first, or choose another folder", path.display())]
    Held {
        /// The data folder.
        path: PathBuf,
        /// Who has it.
        holder: Holder,
    },
    /// A path that should be a folder is something else.
    #[error("{} is not a folder", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// A data folder cannot be made, and what is in the way is not a full disk.
    #[error("cannot make the data folder {}", path.display())]
    NoDataFolder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A folder that is not empty, and not a data folder either.
    #[error("{} holds other files ({found}) and is not a millrace data folder; choose an empty one", path.display())]
    NotADataFolder {
        /// The folder.
        path: PathBuf,
        /// One of the files in it.
        found: String,
    },
    /// No store can be made of a URL.
    #[error("{url:?} is no usable place for checkpoints: {why}")]
    Url {
        /// The URL.
        url: String,
        /// Why not.
        why: String,
    },
    /// A savepoint cannot be called this.
    #[error(
        "{name:?} is no name for a savepoint: expected up to 128 letters, digits, '.', '_' and '-', not beginning with a dot"
    )]
    SavepointName {
        /// The name that was given.
        name: String,
    },
    /// A fault point fired (only in builds for tests).
    #[error(transparent)]
    Injected(#[from] Injected),
}

impl StateError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => kind_of_io(source),
            Self::Rocks { source, .. } => match source.kind() {
                rocksdb::ErrorKind::Corruption => ErrorKind::Corrupt,
                rocksdb::ErrorKind::NotSupported => ErrorKind::FixSpec,
                _ => ErrorKind::Restart,
            },
            Self::Store { source, .. } => match source.as_ref() {
                // What may be absent is no error: this is the bucket.
                object_store::Error::NotFound { .. }
                | object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. }
                | object_store::Error::NotSupported { .. }
                | object_store::Error::NotImplemented { .. }
                | object_store::Error::InvalidPath { .. }
                | object_store::Error::UnknownConfigurationKey { .. } => ErrorKind::FixSpec,
                _ => ErrorKind::Retry,
            },
            Self::Pointer { .. } => ErrorKind::Retry,
            Self::Damaged { .. } | Self::Missing { .. } => ErrorKind::Corrupt,
            Self::OutOfOrder { .. } | Self::Torn { .. } | Self::UnknownState { .. } => ErrorKind::Restart,
            Self::TooNew { .. }
            | Self::Ranges { .. }
            | Self::Unstorable { .. }
            | Self::Incomputable { .. }
            | Self::Held { .. }
            | Self::NotAFolder { .. }
            | Self::NoDataFolder { .. }
            | Self::NotADataFolder { .. }
            | Self::Url { .. }
            | Self::SavepointName { .. } => ErrorKind::FixSpec,
            Self::Injected(_) => ErrorKind::Restart,
        }
    }

    /// Whether it is one of the notes of a data folder or its pointer that is damaged: what `millrace checkpoints repair` can
    /// make anew from the checkpoints. A checkpoint itself cannot.
    pub fn is_damaged_note(&self) -> bool {
        const NOTES: [&str; 6] = ["latest", "layout", "instance", "generation", "pipeline", "storage"];
        match self {
            Self::Damaged { place, .. } => {
                Path::new(place).file_name().is_some_and(|name| NOTES.iter().any(|note| name == *note))
            }
            _ => false,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn rocks(action: &'static str, path: &Path) -> impl FnOnce(rocksdb::Error) -> Self {
        move |source| Self::Rocks { action, path: path.to_owned(), source }
    }

    pub(crate) fn damaged(place: impl fmt::Display, found: impl fmt::Display, expected: impl fmt::Display) -> Self {
        Self::Damaged { place: place.to_string(), found: found.to_string(), expected: expected.to_string() }
    }
}

/// A full disk may be emptied while the last checkpoint stands; a folder that can't be written to has to be fixed.
fn kind_of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::InvalidFilename => ErrorKind::FixSpec,
        io::ErrorKind::NotFound => ErrorKind::Restart,
        _ => ErrorKind::Retry,
    }
}

/// A key for people: hexadecimal, shortened.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 32;
        f.write_str("0x")?;
        self.0.iter().take(SHOWN).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        if self.0.len() > SHOWN { write!(f, "… ({} bytes)", self.0.len()) } else { Ok(()) }
    }
}

struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("none") } else { f.write_str(&self.0.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_retried_and_a_read_only_folder_is_for_the_user() {
        let of = |kind: io::ErrorKind| StateError::io("write", "/data/x")(kind.into()).kind();
        assert_eq!(of(io::ErrorKind::StorageFull), ErrorKind::Retry);
        assert_eq!(of(io::ErrorKind::ReadOnlyFilesystem), ErrorKind::FixSpec);
        assert_eq!(of(io::ErrorKind::PermissionDenied), ErrorKind::FixSpec);
    }

    #[test]
    fn a_damaged_note_is_told_apart_from_a_damaged_checkpoint() {
        let damaged = |place: &str| StateError::damaged(place, "nothing", "something").is_damaged_note();
        assert!(damaged("/data/generation") && damaged("/data/checkpoints/web/latest"));
        assert!(
            !damaged("/data/checkpoints/web/manifests/1-1.json") && !damaged("/data/latest/files/t-0/1-000007-00.sst")
        );
    }

    #[test]
    fn a_key_out_of_order_is_named_with_the_one_before_it() {
        let error = StateError::OutOfOrder { state: "groups".into(), previous: vec![0, 2], key: vec![0, 1] };
        assert_eq!(
            error.to_string(),
            "key 0x0001 of state \"groups\" does not come after 0x0002, which was written before it"
        );
    }
}
