//! From a place in a scalar's text to the place in the file that it comes from.
//!
//! Folding, indentation and escapes change the blanks of a text and the spelling of its characters, and never the order or
//! the number of the characters that are not blank. So the n-th such character of the text is the n-th of the source, once
//! the source is read by the rules of its style: an opening quote skipped, an escape taken for what it stands for.

use serde_saphyr::granit_parser::ScalarStyle;

/// The byte of `source`, as the file has it, of a line and column (both from 1, in characters) of the `text` that it stands
/// for. A blank is taken for the character after it.
pub(crate) fn source_offset(source: &str, style: ScalarStyle, text: &str, line: usize, column: usize) -> usize {
    let printed = solid_before(text, line, column);
    let solid = solid_characters(source, style);
    match (solid.get(printed), solid.last()) {
        (Some((start, _)), _) => *start,
        (None, Some((_, end))) => *end,
        (None, None) => 0,
    }
}

/// How many characters that are not blank stand before a place of a text.
fn solid_before(text: &str, line: usize, column: usize) -> usize {
    let mut lines = text.split('\n');
    let before =
        lines.by_ref().take(line.saturating_sub(1)).flat_map(str::chars).filter(|c| !c.is_whitespace()).count();
    let rest = lines.next().unwrap_or("").chars().take(column.saturating_sub(1));
    before + rest.filter(|c| !c.is_whitespace()).count()
}

/// Where each character that is not blank starts and ends in the source.
fn solid_characters(source: &str, style: ScalarStyle) -> Vec<(usize, usize)> {
    let mut solid = Vec::new();
    let mut chars = source.char_indices().peekable();
    match style {
        ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => drop(chars.next()),
        // A block's range leaves out its header.
        ScalarStyle::Plain | ScalarStyle::Literal | ScalarStyle::Folded => {}
    }
    while let Some((start, c)) = chars.next() {
        let mut stands_for = Some(c);
        match (style, c) {
            (ScalarStyle::SingleQuoted, '\'') if chars.next_if(|(_, next)| *next == '\'').is_none() => break,
            (ScalarStyle::DoubleQuoted, '"') => break,
            (ScalarStyle::DoubleQuoted, '\\') => {
                let Some((_, escape)) = chars.next() else { break };
                stands_for = match escape {
                    'x' => hex(&mut chars, 2),
                    'u' => hex(&mut chars, 4),
                    'U' => hex(&mut chars, 8),
                    '0' | 'a' | 'b' | 'e' => Some('\0'),
                    'N' | '_' | 'L' | 'P' | 't' | 'n' | 'v' | 'f' | 'r' => Some(' '),
                    other => Some(other),
                };
            }
            _ => {}
        }
        if stands_for.is_some_and(|c| !c.is_whitespace()) {
            let end = chars.peek().map_or(source.len(), |(at, _)| *at);
            solid.push((start, end));
        }
    }
    solid
}

/// The character that so many hexadecimal digits stand for. The first half of a surrogate pair stands for nothing.
fn hex(chars: &mut impl Iterator<Item = (usize, char)>, digits: usize) -> Option<char> {
    let code = chars.take(digits).try_fold(0_u32, |code, (_, c)| Some(code * 16 + c.to_digit(16)?))?;
    match code {
        0xd800..0xdc00 => None,
        0xdc00..0xe000 => Some('\u{fffd}'),
        code => Some(char::from_u32(code).unwrap_or('\u{fffd}')),
    }
}
