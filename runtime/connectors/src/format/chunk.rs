//! The bytes that a decoder is given: complete records, with room behind them.
//!
//! ```text
//! ┌────────────── buffer ───────────────────────────────────┐
//! │ record\n record\n … record\n │ begin of the next │ 0 … 0 │
//! └──────────── len ─────────────┴───────────────────┴─ 64 ──┘
//! ```
//!
//! The last byte of the records is a line feed, or a zero follows them. Behind `len` at least [`PADDING`] bytes can be
//! read, so a decoder that stops at line feeds and zeros may load whole vectors without looking where the end is. The
//! buffer is shared: long strings are not copied into the columns, which refer to the chunk instead.

use arrow::buffer::Buffer;

/// How many bytes can be read behind the records.
pub const PADDING: usize = 64;

/// Complete records, and where in the split's (uncompressed) stream they begin.
#[derive(Clone, Debug)]
pub struct Chunk {
    buffer: Buffer,
    len: usize,
    offset: u64,
}

impl Chunk {
    /// The first `len` bytes of `bytes`, which are complete records, as a chunk. What stands behind `len` is kept in the
    /// buffer and not looked at.
    ///
    /// If the last record has no line feed, which only a split's last may lack, nothing may stand behind it; should there
    /// be something all the same, the records are copied away from it.
    pub fn new(mut bytes: Vec<u8>, len: usize, offset: u64) -> Self {
        let len = len.min(bytes.len());
        if len > 0 && bytes[len - 1] != b'\n' {
            bytes.truncate(len);
        }
        bytes.resize(bytes.len() + PADDING, 0);
        Self { buffer: Buffer::from_vec(bytes), len, offset }
    }

    /// A copy of these records.
    pub fn copy_of(bytes: &[u8], offset: u64) -> Self {
        let mut copy = Vec::with_capacity(bytes.len() + PADDING);
        copy.extend_from_slice(bytes);
        Self::new(copy, bytes.len(), offset)
    }

    /// The records.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.as_slice()[..self.len]
    }

    /// The buffer that the records stand in, from its first byte.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Where the records begin in the split's stream.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The memory, to be used again, if no column refers to it.
    pub fn into_memory(self) -> Option<Vec<u8>> {
        self.buffer.into_vec().ok()
    }

    /// The records and the padding behind them.
    pub(crate) fn padded(&self) -> Padded<'_> {
        Padded { bytes: self.buffer.as_slice(), len: self.len }
    }
}

/// A chunk's bytes as the parsers read them: with no check of the position in release builds.
///
/// Every parser keeps to one rule, by which a position never passes `len`: it goes past a byte only after it has seen
/// that the byte is neither a line feed nor zero, save at the end of a row, where it goes past the line feed. Tests check
/// it at every access.
#[derive(Clone, Copy)]
pub(crate) struct Padded<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl<'a> Padded<'a> {
    /// How many bytes of records there are.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// The byte at `pos`.
    #[inline(always)]
    pub(crate) fn at(self, pos: usize) -> u8 {
        self.check(pos);
        // SAFETY: `pos` is at most `len`, and `PADDING` more bytes than `len` are there.
        unsafe { *self.bytes.get_unchecked(pos) }
    }

    /// A pointer to `PADDING` or more readable bytes from `pos`.
    #[inline(always)]
    pub(crate) fn ptr(self, pos: usize) -> *const u8 {
        self.check(pos);
        // SAFETY: `pos` is at most `len`, which lies in the buffer.
        unsafe { self.bytes.as_ptr().add(pos) }
    }

    /// Eight bytes from `pos`, the first one lowest.
    #[inline(always)]
    pub(crate) fn word(self, pos: usize) -> u64 {
        // SAFETY: `ptr` has at least `PADDING` readable bytes behind it.
        u64::from_le(unsafe { self.ptr(pos).cast::<u64>().read_unaligned() })
    }

    /// Sixteen bytes from `pos`, the first one lowest.
    #[inline(always)]
    pub(crate) fn double_word(self, pos: usize) -> u128 {
        // SAFETY: `ptr` has at least `PADDING` readable bytes behind it.
        u128::from_le(unsafe { self.ptr(pos).cast::<u128>().read_unaligned() })
    }

    /// The bytes from `start` up to `end`.
    #[inline(always)]
    pub(crate) fn slice(self, start: usize, end: usize) -> &'a [u8] {
        &self.bytes[start..end]
    }

    #[inline(always)]
    fn check(self, pos: usize) {
        if cfg!(test) {
            assert!(pos <= self.len && self.bytes.len() >= self.len + PADDING, "{pos} of {}", self.len);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_last_record_without_line_feed_is_followed_by_zeros() {
        let chunk = Chunk::new(b"{}\n{}xyz".to_vec(), 5, 0);
        assert_eq!(chunk.bytes(), b"{}\n{}");
        assert_eq!(chunk.padded().at(5), 0);
    }

    #[test]
    fn the_memory_comes_back_when_nothing_refers_to_it() {
        let chunk = Chunk::copy_of(b"{}\n", 7);
        let shared = chunk.clone();
        assert!(chunk.into_memory().is_none());
        assert!(shared.into_memory().is_some());
    }
}
