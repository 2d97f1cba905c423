//! Lines of `key=value`, values with blanks in quotes. In quotes, `\n`, `\t`, `\r`, `\b`, `\f` and `\u00e9` are what they are
//! in JSON, and `\` before any other character stands for that character.

/// Calls `set` for each key of a line. A key without `=` has the value `true`.
pub(super) fn parse(line: &str, mut set: impl FnMut(&str, &str) -> Result<(), String>) -> Result<(), String> {
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let key_end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let key = &rest[..key_end];
        if key.is_empty() || key.contains('"') {
            return Err(format!("a key was expected, found `{}`", super::bad_rows::shorten(rest.as_bytes())));
        }
        rest = &rest[key_end..];
        match rest.strip_prefix('=') {
            None => set(key, "true")?,
            Some(value) if value.starts_with('"') => {
                let (text, behind) = quoted(&value[1..]).map_err(|wrong| format!("the value of {key} {wrong}"))?;
                match text {
                    Text::Plain(text) => set(key, text)?,
                    Text::Escaped(text) => set(key, &text)?,
                }
                if !(behind.is_empty() || behind.starts_with(char::is_whitespace)) {
                    return Err(format!("text stands behind the value of {key}"));
                }
                rest = behind;
            }
            Some(value) => {
                let end = value.find(char::is_whitespace).unwrap_or(value.len());
                set(key, &value[..end])?;
                rest = &value[end..];
            }
        }
        rest = rest.trim_start();
    }
    Ok(())
}

enum Text<'a> {
    Plain(&'a str),
    Escaped(String),
}

/// The text up to the closing quote, and what stands behind it.
fn quoted(text: &str) -> Result<(Text<'_>, &str), &'static str> {
    const OPEN: &str = "has no closing quote";
    let end = text.find(['"', '\\']).ok_or(OPEN)?;
    if text[end..].starts_with('"') {
        return Ok((Text::Plain(&text[..end]), &text[end + 1..]));
    }
    let mut plain = text[..end].to_owned();
    let mut characters = text[end..].char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((Text::Escaped(plain), &text[end + at + 1..])),
            '\\' => plain.push(match characters.next().ok_or(OPEN)?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'u' => {
                    let (character, digits) = numbered(&text[end + at + 2..]).ok_or("has a malformed escape: `\\u`")?;
                    characters.nth(digits - 1);
                    character
                }
                other => other,
            }),
            other => plain.push(other),
        }
    }
    Err(OPEN)
}

/// The character that the text behind `\u` stands for, and how much of the text that takes: four hexadecimal digits, or
/// another escape as well for the other half of a surrogate pair.
fn numbered(text: &str) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(0)?;
    if let Some(character) = char::from_u32(u32::from(first)) {
        return Some((character, 4));
    }
    let second = text.get(4..6).filter(|mark| *mark == "\\u").and_then(|_| unit(6))?;
    let pair = char::decode_utf16([first, second]).next()?;
    pair.ok().map(|character| (character, 10))
}
