//! Values that nothing reads: passed over, but held to the grammar, so that which rows are bad does not depend on which
//! columns a pipeline reads.

use super::{
    fault::Fault,
    number,
    scan::{skip_blanks, string_end},
    string,
};
use crate::format::chunk::Padded;

/// How deep values may be nested.
const MAX_DEPTH: u32 = 128;

/// A fault and where it is.
pub(super) type Misplaced = (Fault, usize);

/// The place behind the value that begins at `pos`.
#[inline(always)]
pub(super) fn value(text: Padded<'_>, pos: usize) -> Result<usize, Misplaced> {
    match text.at(pos) {
        b'"' => string(text, pos),
        b'-' | b'0'..=b'9' => number::end(text, pos).map_err(|fault| (fault, pos)),
        b'{' | b'[' => container(text, pos),
        _ => word(text, pos),
    }
}

/// The place behind the string whose opening quote is at `pos`.
#[inline(always)]
pub(super) fn string(text: Padded<'_>, pos: usize) -> Result<usize, Misplaced> {
    let end = string_end(text, pos + 1);
    if text.at(end) == b'"' {
        return Ok(end + 1);
    }
    escaped_string(text, end)
}

#[cold]
#[inline(never)]
fn escaped_string(text: Padded<'_>, mut pos: usize) -> Result<usize, Misplaced> {
    loop {
        match text.at(pos) {
            b'"' => return Ok(pos + 1),
            b'\\' => {
                let (_, behind) = string::escape(text, pos).map_err(|fault| (fault, pos))?;
                pos = string_end(text, behind);
            }
            _ => return Err((string::end_fault(text, pos), pos)),
        }
    }
}

/// The place behind `true`, `false` or `null`.
#[inline(always)]
pub(super) fn word(text: Padded<'_>, pos: usize) -> Result<usize, Misplaced> {
    const TRUE: u32 = u32::from_le_bytes(*b"true");
    const NULL: u32 = u32::from_le_bytes(*b"null");
    const FALSE: u64 = u64::from_le_bytes(*b"false\0\0\0");
    let word = text.word(pos);
    if matches!(word as u32, TRUE | NULL) {
        Ok(pos + 4)
    } else if word & 0xff_ffff_ffff == FALSE {
        Ok(pos + 5)
    } else {
        Err((value_fault(text, pos), pos))
    }
}

/// What is wrong where a value should begin and does not.
#[cold]
pub(super) fn value_fault(text: Padded<'_>, pos: usize) -> Fault {
    if matches!(text.at(pos), b'\n' | 0) { Fault::Unfinished } else { Fault::Value }
}

/// The place behind the object or array that begins at `pos`.
#[inline(never)]
fn container(text: Padded<'_>, mut pos: usize) -> Result<usize, Misplaced> {
    // A bit a level, the innermost lowest: 1 for an object.
    let mut levels: u128 = 0;
    let mut depth = 0;
    loop {
        // At `pos` a value begins.
        match text.at(pos) {
            open @ (b'{' | b'[') => {
                if depth == MAX_DEPTH {
                    return Err((Fault::Depth, pos));
                }
                let object = open == b'{';
                levels = (levels << 1) | u128::from(object);
                depth += 1;
                pos = skip_blanks(text, pos + 1);
                if text.at(pos) == if object { b'}' } else { b']' } {
                    pos += 1;
                } else {
                    if object {
                        pos = key(text, pos)?;
                    }
                    continue;
                }
                levels >>= 1;
                depth -= 1;
            }
            b'"' => pos = string(text, pos)?,
            b'-' | b'0'..=b'9' => pos = number::end(text, pos).map_err(|fault| (fault, pos))?,
            _ => pos = word(text, pos)?,
        }
        // At `pos` a value has ended.
        loop {
            if depth == 0 {
                return Ok(pos);
            }
            let object = levels & 1 == 1;
            pos = skip_blanks(text, pos);
            match text.at(pos) {
                b',' => {
                    pos = skip_blanks(text, pos + 1);
                    if object {
                        pos = key(text, pos)?;
                    }
                    break;
                }
                b'}' if object => {}
                b']' if !object => {}
                b'\n' | 0 => return Err((Fault::Unfinished, pos)),
                _ => return Err((if object { Fault::CommaOrBrace } else { Fault::CommaOrBracket }, pos)),
            }
            pos += 1;
            levels >>= 1;
            depth -= 1;
        }
    }
}

/// The place of the value whose key begins at `pos`.
#[inline(always)]
fn key(text: Padded<'_>, pos: usize) -> Result<usize, Misplaced> {
    if text.at(pos) != b'"' {
        return Err((if matches!(text.at(pos), b'\n' | 0) { Fault::Unfinished } else { Fault::Key }, pos));
    }
    let pos = skip_blanks(text, string(text, pos)?);
    if text.at(pos) != b':' {
        return Err((if matches!(text.at(pos), b'\n' | 0) { Fault::Unfinished } else { Fault::Colon }, pos));
    }
    Ok(skip_blanks(text, pos + 1))
}
