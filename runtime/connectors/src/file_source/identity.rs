//! Which file a file is.
//!
//! A path is not enough: logs are rotated by renaming. Device and inode are not enough either: inodes are used again, and
//! a device's number may change when the machine does. So a file is also known by its first bytes.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// How many of the first bytes tell files apart.
pub(super) const HEAD_BYTES: u64 = 1024;

/// What a file is known by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// How many of the first bytes `head` covers: fewer than [`HEAD_BYTES`] if the file was shorter.
    pub(super) head_bytes: u64,
    /// Their digest.
    pub(super) head: u64,
}

impl Identity {
    /// The identity of an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let bytes = head(file, HEAD_BYTES)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            head_bytes: bytes.len() as u64,
            head: xxh3_64(&bytes),
        })
    }

    /// The identity of the file at a path.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Self::of(&File::open(path)?)
    }

    /// Whether these are of one file, by device and inode.
    pub(super) fn same_inode(&self, metadata: &Metadata) -> bool {
        (self.device, self.inode) == (metadata.dev(), metadata.ino())
    }

    /// Whether a file begins with the bytes that this one began with.
    pub(super) fn begins(&self, file: &File) -> io::Result<bool> {
        let bytes = head(file, self.head_bytes)?;
        Ok(bytes.len() as u64 == self.head_bytes && xxh3_64(&bytes) == self.head)
    }

    /// Whether the file at a path begins so; one that cannot be read does not.
    pub(super) fn begins_at(&self, path: &Path) -> bool {
        File::open(path).and_then(|file| self.begins(&file)).unwrap_or(false)
    }

    /// Whether these are the first bytes of a file that begins as this one.
    pub(super) fn begins_with(&self, head: &[u8]) -> bool {
        let covered = usize::try_from(self.head_bytes).ok().and_then(|bytes| head.get(..bytes));
        self.head_bytes > 0 && covered.is_some_and(|covered| xxh3_64(covered) == self.head)
    }

    /// Covers more of the first bytes, if a file that was shorter has grown.
    pub(super) fn extend(&mut self, file: &File) -> io::Result<()> {
        if self.head_bytes < HEAD_BYTES {
            *self = Self::of(file)?;
        }
        Ok(())
    }
}

fn head(file: &File, bytes: u64) -> io::Result<Vec<u8>> {
    // A replay point may say anything.
    let mut head = vec![0; bytes.min(HEAD_BYTES) as usize];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    head.truncate(filled);
    Ok(head)
}

/// The first four bytes, fewer of a shorter file; for telling compressions apart.
pub(super) fn magic(file: &File) -> io::Result<Vec<u8>> {
    head(file, 4)
}
