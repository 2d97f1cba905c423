//! What compressed files are made of: gzip members or Zstandard frames, one behind the other.
//!
//! Behind any of them another one may be appended, and the last one may still be being written. So that a file can be
//! followed, the end of its bytes is no end for good: once the file has grown, reading goes on where it stopped.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

use flate2::bufread::GzDecoder;
use zstd::stream::raw::{Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

/// How much of a compressed file is read at once.
const READ_BYTES: usize = 128 << 10;

/// The uncompressed bytes of a compressed file.
///
/// Reading brings nothing at the file's end if that is between two members, and `UnexpectedEof` if it is within one.
pub(super) struct Members {
    codec: Codec,
    /// What was read ends where a member does.
    whole: bool,
}

enum Codec {
    /// `None` only while one member's decoder makes place for the next one's.
    Gzip(Option<Box<GzDecoder<Input>>>),
    Zstd {
        decoder: ZstdDecoder<'static>,
        input: Input,
        /// The decoder may hold bytes for which there was no room.
        holds: bool,
    },
}

impl Members {
    /// The members of a gzip file.
    pub(super) fn gzip(file: File) -> Self {
        Self { codec: Codec::Gzip(Some(Box::new(gzip_member(Input::new(file))))), whole: false }
    }

    /// The frames of a Zstandard file.
    pub(super) fn zstd(file: File) -> io::Result<Self> {
        let codec = Codec::Zstd { decoder: ZstdDecoder::new()?, input: Input::new(file), holds: false };
        Ok(Self { codec, whole: false })
    }

    /// The file itself.
    pub(super) fn file(&self) -> Option<&File> {
        self.input().map(|input| input.file.get_ref())
    }

    /// How much of the file was read.
    pub(super) fn file_bytes(&self) -> u64 {
        self.input().map_or(0, |input| input.bytes)
    }

    /// Whether what was read ends where a member does.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    fn input(&self) -> Option<&Input> {
        match &self.codec {
            Codec::Gzip(decoder) => decoder.as_deref().map(GzDecoder::get_ref),
            Codec::Zstd { input, .. } => Some(input),
        }
    }

    /// Begins the next member, if there is one.
    fn begin(&mut self) -> io::Result<bool> {
        match &mut self.codec {
            Codec::Gzip(decoder) => {
                let Some(mut ended) = decoder.take() else { return Ok(false) };
                let more = ended.get_mut().fill_buf().map(|bytes| !bytes.is_empty());
                let begins = matches!(more, Ok(true));
                *decoder = Some(if begins { Box::new(gzip_member(ended.into_inner())) } else { ended });
                more
            }
            Codec::Zstd { decoder, input, .. } => {
                let more = !input.fill_buf()?.is_empty();
                if more {
                    decoder.reinit()?;
                }
                Ok(more)
            }
        }
    }
}

impl Read for Members {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            if self.whole {
                if !self.begin()? {
                    return Ok(0);
                }
                self.whole = false;
            }
            let read = match &mut self.codec {
                Codec::Gzip(Some(decoder)) => {
                    let read = decoder.read(into)?;
                    self.whole = read == 0;
                    read
                }
                Codec::Gzip(None) => return Ok(0),
                Codec::Zstd { decoder, input, holds } => {
                    let (read, whole) = zstd_step(decoder, input, holds, into)?;
                    self.whole = whole;
                    read
                }
            };
            if read > 0 {
                return Ok(read);
            }
        }
    }
}

/// A decoder that has read nothing of its member yet: one that met the file's end when it was made could not go on.
fn gzip_member(mut input: Input) -> GzDecoder<Input> {
    input.is_held = true;
    let mut decoder = GzDecoder::new(input);
    decoder.get_mut().is_held = false;
    decoder
}

/// How many bytes came, and whether the frame has ended with them.
fn zstd_step(
    decoder: &mut ZstdDecoder<'static>,
    input: &mut Input,
    holds: &mut bool,
    into: &mut [u8],
) -> io::Result<(usize, bool)> {
    // Asked again and again with nothing to do, the decoder takes that for an error.
    let bytes = if *holds { &[] } else { input.fill_buf()? };
    if bytes.is_empty() && !*holds {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete frame"));
    }
    let (mut from, mut to) = (InBuffer::around(bytes), OutBuffer::around(into));
    // What the decoder cannot take does not get better by another try.
    let left = decoder.run(&mut from, &mut to).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let (used, made) = (from.pos(), to.pos());
    input.consume(used);
    *holds = left > 0 && made == into.len();
    Ok((made, left == 0))
}

/// A file, and how much of it was read.
struct Input {
    file: BufReader<File>,
    bytes: u64,
    is_held: bool,
}

impl Input {
    fn new(file: File) -> Self {
        Self { file: BufReader::with_capacity(READ_BYTES, file), bytes: 0, is_held: false }
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.is_held {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.file.buffer().is_empty() {
            self.bytes += self.file.fill_buf()?.len() as u64;
        }
        Ok(self.file.buffer())
    }

    fn consume(&mut self, bytes: usize) {
        self.file.consume(bytes);
    }
}
