//! Lines of `key=value`, values with blanks in quotes.

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
                let (text, behind) =
                    quoted(&value[1..]).ok_or_else(|| format!("the value of {key} has no closing quote"))?;
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
fn quoted(text: &str) -> Option<(Text<'_>, &str)> {
    let end = text.find(['"', '\\'])?;
    if text[end..].starts_with('"') {
        return Some((Text::Plain(&text[..end]), &text[end + 1..]));
    }
    let mut plain = text[..end].to_owned();
    let mut characters = text[end..].char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((Text::Escaped(plain), &text[end + at + 1..])),
            '\\' => plain.push(match characters.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            }),
            other => plain.push(other),
        }
    }
    None
}
