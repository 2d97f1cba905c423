//! Which file a file is.
//!
//! A path is not enough: logs are rotated by renaming. Device and inode are not enough either: inodes are used again, and
//! a device's number may change when the machine does. So a file is also known by its first bytes. A Parquet file, which does
//! not grow, is known by its length and contents as well: files of the same columns begin alike, and often with the same keys.
//! To look at all of a large file would cost as much as reading it. Its footer, which has the place, size and bounds of each
//! column of each row group, and blocks spread over the rest are looked at, and that only where the kernel says that the file
//! was changed since (its `ctime`, which no program can set).

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// How many of the first bytes tell files apart.
pub(super) const HEAD_BYTES: u64 = 1024;
/// How large the blocks are that are looked at in a file that does not grow.
const BLOCK_BYTES: u64 = 4 << 10;
/// How many of them there are at the most: files of up to 256 KiB are looked at whole.
const BLOCKS: u64 = 64;
/// What a Parquet file ends with: its footer's length in four bytes, and four that mark it.
pub(super) const FOOTER_END_BYTES: u64 = 8;

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
    /// Of a file that does not grow. Earlier versions have not written it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) whole: Option<Whole>,
}

/// What a file that does not grow is known by, beside its first bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Whole {
    pub(super) bytes: u64,
    /// When it was changed, as the kernel says: in nanoseconds since 1970. Its clock goes on every few milliseconds.
    pub(super) changed: i64,
    /// The digest of its footer and blocks.
    pub(super) contents: u64,
}

impl Whole {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let bytes = metadata.len();
        Ok(Self { bytes, changed: changed(&metadata), contents: contents(file, bytes)? })
    }

    /// Whether the file was not changed since.
    fn is_unchanged(&self, metadata: &Metadata) -> bool {
        (self.bytes, self.changed) == (metadata.len(), changed(metadata))
    }

    fn is_of(&self, file: &File) -> io::Result<bool> {
        Ok(file.metadata()?.len() == self.bytes && contents(file, self.bytes)? == self.contents)
    }
}

fn changed(metadata: &Metadata) -> i64 {
    metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec())
}

/// The digest of a file's footer, if it is one of Parquet, and of blocks from its beginning to its end.
fn contents(file: &File, bytes: u64) -> io::Result<u64> {
    let mut digest = Xxh3::new();
    let mut add = |mut from: u64, until: u64| {
        let mut block = [0; BLOCK_BYTES as usize];
        while from < until {
            let block = &mut block[..BLOCK_BYTES.min(until - from) as usize];
            let read = read_at(file, block, from)?;
            digest.update(&block[..read]);
            if read < block.len() {
                break;
            }
            from += read as u64;
        }
        io::Result::Ok(())
    };
    if bytes <= BLOCKS * BLOCK_BYTES {
        add(0, bytes)?;
    } else {
        let last = bytes - BLOCK_BYTES;
        for block in 0..BLOCKS {
            let from = (u128::from(last) * u128::from(block) / u128::from(BLOCKS - 1)) as u64;
            add(from, from + BLOCK_BYTES)?;
        }
        let mut footer = [0; 4];
        read_at(file, &mut footer, bytes - FOOTER_END_BYTES)?;
        let footer = u64::from(u32::from_le_bytes(footer)) + FOOTER_END_BYTES;
        add(bytes.saturating_sub(footer), bytes)?;
    }
    Ok(digest.digest())
}

impl Identity {
    /// The identity of an open file that may grow.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let bytes = head(file, HEAD_BYTES)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            head_bytes: bytes.len() as u64,
            head: xxh3_64(&bytes),
            whole: None,
        })
    }

    /// The identity of an open file that does not grow.
    pub(super) fn of_whole(file: &File) -> io::Result<Self> {
        Ok(Self { whole: Some(Whole::of(file)?), ..Self::of(file)? })
    }

    /// The identity of the file at a path, which may grow.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Self::of(&File::open(path)?)
    }

    /// The identity of the file at a path, which does not grow.
    pub(super) fn at_whole(path: &Path) -> io::Result<Self> {
        Self::of_whole(&File::open(path)?)
    }

    /// Whether these are of one file, by device and inode.
    pub(super) fn same_inode(&self, metadata: &Metadata) -> bool {
        (self.device, self.inode) == (metadata.dev(), metadata.ino())
    }

    /// Whether a file of this device and inode holds the same as when it was looked at, as far as that is known without reading
    /// it: of one that may grow, nothing is known.
    pub(super) fn is_unchanged(&self, metadata: &Metadata) -> bool {
        self.whole.as_ref().is_none_or(|whole| whole.is_unchanged(metadata))
    }

    /// Whether a file may be this one: it begins with the bytes that this one began with, and one that does not grow holds what
    /// this one held.
    pub(super) fn fits(&self, file: &File) -> io::Result<bool> {
        let bytes = head(file, self.head_bytes)?;
        if bytes.len() as u64 != self.head_bytes || xxh3_64(&bytes) != self.head {
            return Ok(false);
        }
        let Some(whole) = &self.whole else { return Ok(true) };
        let metadata = file.metadata()?;
        Ok((self.same_inode(&metadata) && whole.is_unchanged(&metadata)) || whole.is_of(file)?)
    }

    /// Whether the file at a path may be this one; one that cannot be read is not.
    pub(super) fn fits_at(&self, path: &Path) -> bool {
        File::open(path).and_then(|file| self.fits(&file)).unwrap_or(false)
    }

    /// Notes where the file is now: it may have been copied, renamed or linked since.
    pub(super) fn found(&mut self, metadata: &Metadata) {
        (self.device, self.inode) = (metadata.dev(), metadata.ino());
        if let Some(whole) = &mut self.whole {
            whole.changed = changed(metadata);
        }
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
    let read = read_at(file, &mut head, 0)?;
    head.truncate(read);
    Ok(head)
}

/// Reads as many bytes as there are, up to the buffer's length.
fn read_at(file: &File, into: &mut [u8], from: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The first four bytes, fewer of a shorter file; for telling compressions apart.
pub(super) fn magic(file: &File) -> io::Result<Vec<u8>> {
    head(file, 4)
}
