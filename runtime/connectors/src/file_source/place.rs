//! How far a file was read.

use std::{fs::File, io, os::unix::fs::FileExt};

use serde::{Deserialize, Serialize};

use crate::format::tail::{Tail, TailDigest};

/// A place in a file, which is known by what stands before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Of the uncompressed bytes; for Parquet, of the rows.
    pub(super) offset: u64,
    /// Nothing is known of Parquet files, and of places that an earlier version has written.
    #[serde(flatten)]
    pub(super) tail: TailDigest,
}

impl Place {
    /// A place of which only the offset is known.
    pub(super) fn at(offset: u64) -> Self {
        Self { offset, tail: TailDigest::default() }
    }
}

/// Whether `tail` still stands before an offset of a plain file.
pub(super) fn stands_before(file: &File, offset: u64, tail: &Tail) -> io::Result<bool> {
    let mut bytes = vec![0; tail.bytes().len()];
    let from = offset.saturating_sub(bytes.len() as u64);
    match file.read_exact_at(&mut bytes, from) {
        Ok(()) => Ok(bytes == tail.bytes()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
