//! Strings with escapes.

use super::{fault::Fault, scan::string_end, skip::Misplaced};
use crate::format::chunk::Padded;

/// The character of the escape whose `\` is at `pos`, and the place behind it. Two escapes that make a surrogate pair are
/// one character.
pub(super) fn escape(text: Padded<'_>, pos: usize) -> Result<(char, usize), Fault> {
    let plain = match text.at(pos + 1) {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let first = hex(text, pos + 2)?;
            if !(0xd800..0xe000).contains(&first) {
                return Ok((char::from_u32(first).ok_or(Fault::Surrogate)?, pos + 6));
            }
            if first >= 0xdc00 || text.at(pos + 6) != b'\\' || text.at(pos + 7) != b'u' {
                return Err(Fault::Surrogate);
            }
            let second = hex(text, pos + 8)?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(Fault::Surrogate);
            }
            let character = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return Ok((char::from_u32(character).ok_or(Fault::Surrogate)?, pos + 12));
        }
        _ => return Err(Fault::Escape),
    };
    Ok((plain, pos + 2))
}

/// The value of the four hexadecimal digits from `pos`.
fn hex(text: Padded<'_>, pos: usize) -> Result<u32, Fault> {
    let mut value = 0;
    for index in 0..4 {
        // Goes on only behind a digit, and so never past the row.
        let digit = char::from(text.at(pos + index)).to_digit(16).ok_or(Fault::Escape)?;
        value = value * 16 + digit;
    }
    Ok(value)
}

/// What is wrong with a string that is ended by something else than a quote.
#[cold]
pub(super) fn end_fault(text: Padded<'_>, pos: usize) -> Fault {
    if matches!(text.at(pos), b'\n' | 0) { Fault::Unfinished } else { Fault::Control }
}

/// Appends what the string from `start` (behind its opening quote) says to `out`; gives the place behind its closing
/// quote.
pub(super) fn unescape(text: Padded<'_>, start: usize, out: &mut Vec<u8>) -> Result<usize, Misplaced> {
    let mut copied = start;
    loop {
        let pos = string_end(text, copied);
        out.extend_from_slice(text.slice(copied, pos));
        match text.at(pos) {
            b'"' => return Ok(pos + 1),
            b'\\' => {
                let (character, behind) = escape(text, pos).map_err(|fault| (fault, pos))?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                copied = behind;
            }
            _ => return Err((end_fault(text, pos), pos)),
        }
    }
}
