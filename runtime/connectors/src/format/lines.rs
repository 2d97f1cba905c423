//! Records that are lines.

use std::ops::Range;

use super::{BadRows, Chunk};

/// How many of the first bytes are complete lines.
pub(super) fn complete(bytes: &[u8]) -> usize {
    memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1)
}

/// The place behind the line that begins at `start`, its line feed included.
pub(super) fn line_end(bytes: &[u8], start: usize) -> usize {
    memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |at| start + at + 1)
}

/// A line without its LF or CRLF.
pub(super) fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The place of a record from `start` up to `end` without its line end.
pub(super) fn span(bytes: &[u8], start: usize, end: usize) -> Range<usize> {
    start..start + trim_end(&bytes[start..end]).len()
}

/// Whether there is nothing to decode in a line.
pub(super) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

/// The length of the byte order mark, if there is one; `None`: more bytes are needed to tell.
pub(super) fn byte_order_mark(head: &[u8], ended: bool) -> Option<usize> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if head.starts_with(MARK) {
        Some(MARK.len())
    } else if !ended && MARK.starts_with(head) {
        None
    } else {
        Some(0)
    }
}

/// Whether the line at `start` is UTF-8. If not it is reported, and the place behind it is the error.
#[cold]
pub(super) fn check_utf8(chunk: &Chunk, start: usize, bad: &mut BadRows) -> Result<(), usize> {
    let end = line_end(chunk.bytes(), start);
    let line = trim_end(&chunk.bytes()[start..end]);
    match std::str::from_utf8(line) {
        Ok(_) => Ok(()),
        Err(error) => {
            let reason = format_args!("not UTF-8 from byte {} of the row", error.valid_up_to()).to_string();
            bad.push(line, chunk.offset() + start as u64, reason);
            Err(end)
        }
    }
}
