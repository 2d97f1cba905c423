//! Compressed copies of files that are followed: `app.log`, renamed to `app.log.1`, becomes `app.log.1.gz`.
//!
//! A copy has an inode and bytes of its own. It is known by its name, which begins as the original's does, and by what it
//! holds: uncompressed the same bytes as the original, or, where the original is not there to be compared with, the same
//! bytes at its beginning and before the place up to which the original was read. While it is being written it is not looked at.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use millrace_crds::{Compression, FileSource as FileSpec};

use super::{
    catalog::Entry,
    identity::HEAD_BYTES,
    stream::{Stream, compressed_head},
};
use crate::SplitId;

/// How much of a copy and its original is compared at once.
const COMPARED_BYTES: usize = 64 << 10;

/// What a file that was not known is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Copy {
    /// A file of its own.
    None,
    /// A compressed file that may still be being written, or whose original may still be being read.
    Unfinished,
    /// It holds what a known file begins with, and nothing more: if it grows it becomes the copy.
    Part,
    /// The compressed copy of this split's file.
    Of(SplitId),
}

/// Of which of the known files this one is a compressed copy.
pub(super) fn copy_of<'a>(path: &Path, spec: &FileSpec, known: impl Iterator<Item = &'a Entry>) -> io::Result<Copy> {
    match original_of(path, spec.compression, known) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Copy::Unfinished),
        // Damaged: whoever reads it says so.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
            Ok(Copy::None)
        }
        other => other,
    }
}

fn original_of<'a>(path: &Path, compression: Compression, known: impl Iterator<Item = &'a Entry>) -> io::Result<Copy> {
    let Some(head) = compressed_head(path, compression, HEAD_BYTES)? else { return Ok(Copy::None) };
    let is_alike = |entry: &&Entry| is_named_after(path, &entry.point.path) && entry.point.identity.begins_with(&head);
    let (there, mut away): (Vec<_>, Vec<_>) = known.filter(is_alike).partition(|entry| entry.present);
    let mut otherwise = Copy::None;
    for original in there {
        match compare(path, compression, original) {
            Ok(Likeness::Same) => return Ok(Copy::Of(original.id.clone())),
            Ok(Likeness::Part) => otherwise = Copy::Part,
            Ok(Likeness::Other) => {}
            // Renamed or removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => otherwise = Copy::Unfinished,
            Err(error) => return Err(error),
        }
    }
    // The more was read of it, the more is known.
    away.sort_by_key(|original| std::cmp::Reverse(original.point.place.offset));
    for original in away {
        let place = original.point.place;
        if place.offset == 0 && original.is_being_read() {
            otherwise = Copy::Unfinished;
        } else if Stream::open_at(path, compression, false, place)?.is_some() {
            return Ok(Copy::Of(original.id.clone()));
        }
    }
    Ok(otherwise)
}

/// How a compressed file's bytes are to another file's.
enum Likeness {
    Same,
    /// They end before these.
    Part,
    Other,
}

/// # Errors
///
/// `NotFound` if the original is not where it was listed.
fn compare(copy: &Path, compression: Compression, original: &Entry) -> io::Result<Likeness> {
    let file = File::open(&original.point.path)?;
    if !original.point.identity.same_inode(&file.metadata()?) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut copy = BufReader::with_capacity(COMPARED_BYTES, Stream::open(copy, compression)?);
    let mut original = BufReader::with_capacity(COMPARED_BYTES, file);
    loop {
        let (left, right) = (copy.fill_buf()?, original.fill_buf()?);
        let both = left.len().min(right.len());
        if left[..both] != right[..both] {
            return Ok(Likeness::Other);
        }
        match (left.is_empty(), right.is_empty()) {
            (true, true) => return Ok(Likeness::Same),
            (true, false) => return Ok(Likeness::Part),
            (false, true) => return Ok(Likeness::Other),
            (false, false) => {}
        }
        copy.consume(both);
        original.consume(both);
    }
}

/// Whether a copy's name is made from the original's, as `app.log.1.gz`, `app.log-20240102.gz` and `app-20240102.log.gz` are
/// from `app.log`, and `app.log.2.gz` from `app.log.1`.
fn is_named_after(copy: &Path, original: &Path) -> bool {
    let (Some(copy), Some(original)) = (copy.file_stem(), original.file_stem()) else { return false };
    let (copy, original) = (copy.as_encoded_bytes(), original.as_encoded_bytes());
    let Some(behind) = copy.strip_prefix(original) else { return false };
    behind.first().is_none_or(|byte| matches!(byte, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_named_after_its_original() {
        let named = |copy: &str, original: &str| is_named_after(Path::new(copy), Path::new(original));
        assert!(named("/logs/app.log.1.gz", "/logs/app.log"));
        assert!(named("/logs/old/app.log-20240102.zst", "/logs/app.log"));
        assert!(named("/logs/app-20240102.log.gz", "/logs/app.log"));
        assert!(named("/logs/app.log.1.gz", "/logs/app.log.1"));
        assert!(!named("/logs/apple.log.1.gz", "/logs/app.log"));
        assert!(!named("/logs/web.log.1.gz", "/logs/app.log"));
    }
}
