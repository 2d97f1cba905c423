//! The nearest of some names.

/// The name that was probably meant, if one of these is near enough.
pub(crate) fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_lowercase();
    if text.is_empty() || text.len() > 256 {
        return None;
    }
    let names = names.into_iter().map(|name| (distance(&text, &name.to_lowercase()), name));
    let (distance, name) = names.min()?;
    let allowed = (text.chars().count().max(name.chars().count()) / 3).max(1);
    (distance <= allowed).then_some(name)
}

/// How far two texts are apart; a text that only lacks `_`, `-` or an end is near.
fn distance(text: &str, name: &str) -> usize {
    let plain = |text: &str| text.replace(['_', '-', '.'], "");
    if plain(text) == plain(name) {
        return usize::from(text != name);
    }
    if text.len() >= 4 && name.len() >= 4 && (name.starts_with(text) || text.starts_with(name)) {
        return 1;
    }
    strsim::damerau_levenshtein(text, name)
}

/// One of some names.
pub(crate) fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    let of = if names.len() == 1 { "" } else { "one of " };
    format!("{of}{}", list(names))
}

/// Names in backquotes with commas between, cut off after a dozen and a half.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    let shown: Vec<_> = names.iter().take(18).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > shown.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}
