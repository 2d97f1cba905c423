//! Compressed copies of files that are followed: `app.log`, renamed to `app.log.1`, becomes `app.log.1.gz`.
//!
//! A copy has an inode and bytes of its own. It is known by its name, which begins as the original's does, and by what it
//! holds: uncompressed it begins with the same bytes and, where the original is still there to be compared with, has as many
//! of them. While it is being written it is not looked at.

use std::{io, path::Path};

use millrace_crds::FileSource as FileSpec;

use super::{
    catalog::Entry,
    identity::HEAD_BYTES,
    stream::{compressed_head, uncompressed_bytes},
};
use crate::SplitId;

/// What a file that was not known is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Copy {
    /// A file of its own.
    None,
    /// A compressed file that may still be being written.
    Unfinished,
    /// The compressed copy of this split's file.
    Of(SplitId),
}

/// Of which of the known files this one is a compressed copy.
pub(super) fn copy_of<'a>(path: &Path, spec: &FileSpec, known: impl Iterator<Item = &'a Entry>) -> io::Result<Copy> {
    let head = match compressed_head(path, spec.compression, HEAD_BYTES) {
        Ok(Some(head)) => head,
        Ok(None) => return Ok(Copy::None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Copy::Unfinished),
        // Damaged: whoever reads it says so.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
            return Ok(Copy::None);
        }
        Err(error) => return Err(error),
    };
    let alike =
        known.filter(|entry| is_named_after(path, &entry.point.path) && entry.point.identity.begins_with(&head));
    let Some(original) = alike.max_by_key(|entry| entry.point.identity.head_bytes) else { return Ok(Copy::None) };
    if original.present {
        match uncompressed_bytes(path, spec.compression) {
            Ok(bytes) if bytes == original.bytes => {}
            Ok(_) => return Ok(Copy::None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Copy::Unfinished),
            Err(error) => return Err(error),
        }
    }
    Ok(Copy::Of(original.id.clone()))
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
