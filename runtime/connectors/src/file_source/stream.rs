//! A file's bytes, uncompressed.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use millrace_crds::Compression;

use super::{identity::magic, members::Members, place::Place};
use crate::format::tail::{TAIL_BYTES, Tail, TailDigest};

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// An open file, read in order.
pub(super) enum Stream {
    Plain(File),
    Compressed {
        members: Box<Members>,
        /// Whether the file may still be being written: then its end within a member is one that is waited at.
        follow: bool,
    },
}

impl Stream {
    /// Opens a file at its first byte.
    pub(super) fn open(path: &Path, compression: Compression) -> io::Result<Self> {
        Self::open_at_start(path, compression, false)
    }

    /// Opens a file at a place, which may still be being written if the source `follow`s, and gives what stands before it. A
    /// compressed file is read from its beginning up to there. `None`: it has ended before that, or other bytes stand there.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if not enough of it is there yet.
    pub(super) fn open_at(
        path: &Path,
        compression: Compression,
        follow: bool,
        place: Place,
    ) -> io::Result<Option<(Self, Tail)>> {
        let Place { offset, tail } = place;
        // What an earlier version has written says nothing of the bytes before.
        let known = if tail == TailDigest::default() { offset.min(TAIL_BYTES as u64) } else { tail.tail_bytes };
        if known > offset.min(TAIL_BYTES as u64) {
            return Ok(None);
        }
        let mut stream = Self::open_at_start(path, compression, follow)?;
        let passed = stream.pass(offset - known)?;
        let mut before = Vec::with_capacity(TAIL_BYTES);
        (&mut stream).take(known).read_to_end(&mut before)?;
        let is_short = passed < offset - known || (before.len() as u64) < known;
        if is_short && stream.is_torn() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let is_it = !is_short && (tail == TailDigest::default() || tail.is_of(&before));
        Ok(is_it.then(|| (stream, Tail::of(&before))))
    }

    fn open_at_start(path: &Path, compression: Compression, follow: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let members = match detect(path, &file, compression, follow)? {
            Compression::Gzip => Members::gzip(file),
            Compression::Zstd => Members::zstd(file)?,
            Compression::Auto | Compression::None => return Ok(Self::Plain(file)),
        };
        Ok(Self::Compressed { members: Box::new(members), follow })
    }

    /// How many of so many bytes were passed over.
    fn pass(&mut self, bytes: u64) -> io::Result<u64> {
        match self {
            Self::Plain(file) => file.seek(SeekFrom::Start(bytes)),
            Self::Compressed { .. } => io::copy(&mut self.take(bytes), &mut io::sink()),
        }
    }

    /// Whether a file of which nothing was read yet is still what it was taken for.
    pub(super) fn is_still(&self, path: &Path, compression: Compression) -> io::Result<bool> {
        match self {
            Self::Plain(file) => Ok(detect(path, file, compression, true)? == Compression::None),
            Self::Compressed { .. } => Ok(true),
        }
    }

    /// Whether the file is compressed.
    pub(super) fn is_compressed(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Whether what was read ends within a member of a compressed file.
    pub(super) fn is_torn(&self) -> bool {
        matches!(self, Self::Compressed { members, .. } if !members.is_whole())
    }

    /// How much of a compressed file was read, as it lies there.
    pub(super) fn compressed_bytes(&self) -> Option<u64> {
        match self {
            Self::Plain(_) => None,
            Self::Compressed { members, .. } => Some(members.file_bytes()),
        }
    }

    /// The file itself.
    pub(super) fn file(&self) -> io::Result<&File> {
        match self {
            Self::Plain(file) => Ok(file),
            Self::Compressed { members, .. } => members.file().ok_or_else(|| io::ErrorKind::NotFound.into()),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(into),
            Self::Compressed { members, follow } => match members.read(into) {
                Err(error) if *follow && error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                read => read,
            },
        }
    }
}

/// The first uncompressed bytes of a compressed file; fewer than `wanted` if there are no more. `None`: it is not compressed.
///
/// # Errors
///
/// `UnexpectedEof` if the file ends before them: it may still be being written.
pub(super) fn compressed_head(path: &Path, compression: Compression, wanted: u64) -> io::Result<Option<Vec<u8>>> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 && by_name(path) != Compression::None {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut stream = Stream::open(path, compression)?;
    if !stream.is_compressed() {
        return Ok(None);
    }
    let mut head = Vec::new();
    (&mut stream).take(wanted).read_to_end(&mut head)?;
    Ok(Some(head))
}

fn by_name(path: &Path) -> Compression {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz" | "gzip") => Compression::Gzip,
        Some("zst" | "zstd") => Compression::Zstd,
        _ => Compression::None,
    }
}

/// How a file is compressed: as the spec says, or by its first bytes, or, where they say nothing, by its name.
///
/// # Errors
///
/// `UnexpectedEof` if a followed file has too few bytes yet to tell.
fn detect(path: &Path, file: &File, said: Compression, follow: bool) -> io::Result<Compression> {
    if said != Compression::Auto {
        return Ok(said);
    }
    let magic = magic(file)?;
    let may_become = |whole: &[u8]| !magic.is_empty() && whole.starts_with(&magic);
    if magic.starts_with(GZIP_MAGIC) {
        return Ok(Compression::Gzip);
    } else if magic == ZSTD_MAGIC {
        return Ok(Compression::Zstd);
    }
    match by_name(path) {
        Compression::None if follow && (may_become(GZIP_MAGIC) || may_become(ZSTD_MAGIC)) => {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
        named if magic.is_empty() && follow && named != Compression::None => Err(io::ErrorKind::UnexpectedEof.into()),
        // An empty file is an empty file, whatever its name.
        _ if magic.is_empty() => Ok(Compression::None),
        named => Ok(named),
    }
}
