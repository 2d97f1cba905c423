//! A file's bytes, uncompressed.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use millrace_crds::Compression;

use super::identity::magic;

/// How much of a compressed file is read at once.
const COMPRESSED_READ_BYTES: usize = 128 << 10;

/// An open file, read in order.
pub(super) enum Stream {
    Plain(File),
    Gzip(Box<MultiGzDecoder<BufReader<File>>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<File>>>),
}

impl Stream {
    /// Opens a file at an offset of its uncompressed bytes. A compressed file is read from its beginning up to there.
    pub(super) fn open(path: &Path, compression: Compression, offset: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let buffered = |file| BufReader::with_capacity(COMPRESSED_READ_BYTES, file);
        let mut stream = match detect(path, &file, compression)? {
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(buffered(file)))),
            Compression::Zstd => Self::Zstd(Box::new(zstd::Decoder::with_buffer(buffered(file))?)),
            Compression::Auto | Compression::None => {
                file.seek(SeekFrom::Start(offset))?;
                return Ok(Self::Plain(file));
            }
        };
        let passed = io::copy(&mut (&mut stream).take(offset), &mut io::sink())?;
        if passed < offset {
            let short = format!("it has {passed} bytes uncompressed, of which {offset} had been read");
            return Err(io::Error::new(io::ErrorKind::InvalidData, short));
        }
        Ok(stream)
    }

    /// Whether the file is compressed.
    pub(super) fn is_compressed(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// The file itself.
    pub(super) fn file(&self) -> &File {
        match self {
            Self::Plain(file) => file,
            Self::Gzip(decoder) => decoder.get_ref().get_ref(),
            Self::Zstd(decoder) => decoder.get_ref().get_ref(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(into),
            Self::Gzip(decoder) => decoder.read(into),
            Self::Zstd(decoder) => decoder.read(into),
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
    let mut stream = Stream::open(path, compression, 0)?;
    if !stream.is_compressed() {
        return Ok(None);
    }
    let mut head = Vec::new();
    (&mut stream).take(wanted).read_to_end(&mut head)?;
    Ok(Some(head))
}

/// How many uncompressed bytes a file has.
///
/// # Errors
///
/// As [`compressed_head`].
pub(super) fn uncompressed_bytes(path: &Path, compression: Compression) -> io::Result<u64> {
    io::copy(&mut Stream::open(path, compression, 0)?, &mut io::sink())
}

fn by_name(path: &Path) -> Compression {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz" | "gzip") => Compression::Gzip,
        Some("zst" | "zstd") => Compression::Zstd,
        _ => Compression::None,
    }
}

/// How a file is compressed: as the spec says, or by its first bytes, or, where they say nothing, by its name.
fn detect(path: &Path, file: &File, said: Compression) -> io::Result<Compression> {
    if said != Compression::Auto {
        return Ok(said);
    }
    Ok(match magic(file)? {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
        // An empty file is an empty file, whatever its name.
        [0, 0, 0, 0] => Compression::None,
        _ => by_name(path),
    })
}
