//! The staging log: rows of several epochs that wait for a fuller file.
//!
//! ```text
//! offset  size  content
//! 0       4     magic "MRSL"
//! 4       1     version, 1
//! 5       ..    frames: length (u32 LE), then a chunk as `millrace_state::chunk` encodes it, with its checksum
//! ```
//!
//! It is fsynced at each prepare, and the handle has its length: what stands after that belongs to undecided epochs and is
//! cut off on restore. So every frame that is read back is whole, and a damaged one is an error.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use millrace_state::chunk;

use crate::{
    sink::SinkError,
    staging::{StagedFile, cannot, refused},
};

const MAGIC: &[u8; 5] = b"MRSL\x01";

/// Begins a log in a new staged file.
pub(super) fn begin(file: &mut StagedFile) -> Result<(), SinkError> {
    file.append(MAGIC)
}

/// Appends a batch.
pub(super) fn append(file: &mut StagedFile, batch: &RecordBatch, scratch: &mut Vec<u8>) -> Result<(), SinkError> {
    scratch.clear();
    scratch.extend_from_slice(&[0; 4]);
    chunk::encode(batch, scratch).map_err(|source| refused("rows cannot be staged".to_owned(), source))?;
    let length = u32::try_from(scratch.len() - 4)
        .map_err(|source| refused(format!("a batch of {} rows is too large to be staged", batch.num_rows()), source))?;
    scratch[..4].copy_from_slice(&length.to_le_bytes());
    file.append(scratch)
}

/// Reads a log of `bytes` bytes, a batch at a time.
pub(super) fn read(
    path: &Path,
    bytes: u64,
    schema: &SchemaRef,
    mut take: impl FnMut(RecordBatch) -> Result<(), SinkError>,
) -> Result<(), SinkError> {
    let damaged = |why: &str| cannot("read", path, io::Error::new(io::ErrorKind::InvalidData, why.to_owned()));
    let io = |source| cannot("read", path, source);
    let mut reader = BufReader::with_capacity(256 << 10, File::open(path).map_err(io)?.take(bytes));
    let mut magic = [0; MAGIC.len()];
    reader.read_exact(&mut magic).map_err(io)?;
    if magic != *MAGIC {
        return Err(damaged("it is not a staging log of version 1"));
    }
    let mut left = bytes - MAGIC.len() as u64;
    let mut frame = Vec::new();
    while left > 0 {
        let mut length = [0; 4];
        reader.read_exact(&mut length).map_err(io)?;
        let length = u32::from_le_bytes(length);
        if u64::from(length) + 4 > left {
            return Err(damaged("a frame goes past the end of the staging log"));
        }
        frame.resize(length as usize, 0);
        reader.read_exact(&mut frame).map_err(io)?;
        left -= u64::from(length) + 4;
        let batch = chunk::decode(&frame, schema)
            .map_err(|source| refused(format!("{} is damaged", path.display()), source))?;
        take(batch)?;
    }
    Ok(())
}
