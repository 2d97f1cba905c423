//! The form in which small facts are stored: two lines of JSON.
//!
//! ```text
//! {"millrace":"manifest","version":1,"bytes":1234,"xxh3":"0123456789abcdef"}
//! {"pipeline":"web-errors", …}
//! ```
//!
//! The first line says what the second is; `bytes` is the second line's length without its line feed, `xxh3` the checksum of
//! the kind, a zero byte, the version (u32, little-endian) and the second line. The first line has one spelling only, so
//! that a change of any byte of the file is found.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use xxhash_rust::xxh3::Xxh3Default;

use crate::StateError;

/// No first line is longer; what is, is not one of ours.
const HEADER_LIMIT_BYTES: usize = 256;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    millrace: String,
    version: u32,
    bytes: u64,
    xxh3: String,
}

/// Puts a fact into its stored form.
pub fn seal(kind: &str, version: u32, fact: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_vec(fact).expect("facts have string keys and no failing serializers");
    let mut sealed = header_line(kind, version, &body);
    sealed.extend_from_slice(&body);
    sealed.push(b'\n');
    sealed
}

fn header_line(kind: &str, version: u32, body: &[u8]) -> Vec<u8> {
    let header =
        Header { millrace: kind.to_owned(), version, bytes: body.len() as u64, xxh3: checksum(kind, version, body) };
    let mut line = serde_json::to_vec(&header).expect("a header has string keys");
    line.push(b'\n');
    line
}

fn checksum(kind: &str, version: u32, body: &[u8]) -> String {
    let mut hasher = Xxh3Default::new();
    hasher.update(kind.as_bytes());
    hasher.update(&[0]);
    hasher.update(&version.to_le_bytes());
    hasher.update(body);
    format!("{:016x}", hasher.digest())
}

/// Takes a fact out of its stored form. `place` is where the bytes were found, for errors.
///
/// # Errors
///
/// [`StateError::TooNew`] if the version is greater than `known`; [`StateError::Damaged`] for everything else that is not
/// as [`seal`] writes it.
pub fn open<T: DeserializeOwned>(kind: &str, known: u32, place: &str, sealed: &[u8]) -> Result<T, StateError> {
    let damaged = |found: String, expected: String| StateError::Damaged { place: place.to_owned(), found, expected };
    let start = &sealed[..sealed.len().min(HEADER_LIMIT_BYTES)];
    let Some(end) = start.iter().position(|byte| *byte == b'\n') else {
        let found = if sealed.is_empty() { "nothing".into() } else { format!("{} bytes, no header", sealed.len()) };
        return Err(damaged(found, format!("the header of a {kind}")));
    };
    let header: Header = serde_json::from_slice(&start[..end]).map_err(|error| {
        damaged(format!("a header that can't be read ({error})"), format!("the header of a {kind}"))
    })?;
    if header.millrace != kind {
        return Err(damaged(format!("a {:?}", header.millrace), format!("a {kind}")));
    }
    if header.version > known {
        return Err(StateError::TooNew { place: place.to_owned(), found: header.version, known });
    }
    let body = &sealed[end + 1..];
    let expected = header.bytes;
    if body.len() as u64 != expected.saturating_add(1) || body.last() != Some(&b'\n') {
        return Err(damaged(format!("{} bytes", body.len()), format!("{expected} and a line feed after the header")));
    }
    let body = &body[..body.len() - 1];
    let found = checksum(kind, header.version, body);
    if header.xxh3 != found {
        return Err(damaged(format!("checksum {found}"), header.xxh3));
    }
    if start[..=end] != header_line(kind, header.version, body) {
        return Err(damaged("a header in another spelling".into(), format!("the header of a {kind}")));
    }
    serde_json::from_slice(body).map_err(|error| damaged(error.to_string(), format!("a {kind}")))
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;

    /// A body under a right checksum, whatever it is.
    fn sealed(version: u32, body: &[u8]) -> Vec<u8> {
        [&header_line("test", version, body)[..], body, b"\n"].concat()
    }

    fn is_damage<T>(found: &Result<T, StateError>) -> bool {
        matches!(found, Err(StateError::Damaged { .. }))
    }

    proptest! {
        #[test]
        fn any_bytes_are_damage(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let found = open::<serde_json::Value>("test", 1, "here", &bytes);
            prop_assert!(is_damage(&found));
        }

        #[test]
        fn what_was_sealed_is_damage_when_bytes_are_flipped_cut_off_or_added(
            flips in prop::collection::vec((any::<Index>(), 1_u8..), 0..4),
            cut in prop::option::of(any::<Index>()),
            more in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let whole = seal("test", 1, &serde_json::json!({"a": [1, 2.5, null], "b": "c"}));
            let mut bytes = whole.clone();
            for (at, bits) in flips {
                *at.get_mut(&mut bytes) ^= bits;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            bytes.extend(more);
            let found = open::<serde_json::Value>("test", 1, "here", &bytes);
            prop_assert_eq!(found.is_ok(), bytes == whole);
        }

        #[test]
        fn any_bytes_under_a_right_checksum_are_read_or_damage(
            body in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..100),
                "[\\{\\}\\[\\]\":,0-9a-z\n ]{0,60}".prop_map(String::into_bytes),
                ".{0,20}".prop_map(|text| serde_json::to_vec(&text).unwrap()),
                // Deeper than a stack.
                (0..100_000_usize).prop_map(|depth| b"[".repeat(depth)),
            ],
        ) {
            let sealed = sealed(1, &body);
            let value = open::<serde_json::Value>("test", 1, "here", &sealed);
            prop_assert!(value.is_ok() || is_damage(&value));
            let text = open::<Option<String>>("test", 1, "here", &sealed);
            prop_assert!(text.is_ok() || is_damage(&text));
            prop_assert!(text.is_err() || value.is_ok());
            let number = open::<u64>("test", 1, "here", &sealed);
            prop_assert!(number.is_err() || value.unwrap().is_u64());
        }
    }

    #[test]
    fn a_change_of_any_byte_is_found() {
        let sealed = seal("test", 1, &serde_json::json!({"a": [1, 2.5, null], "b": "c"}));
        let whole: serde_json::Value = open("test", 1, "here", &sealed).unwrap();
        assert_eq!(whole["b"], "c");
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut damaged = sealed.clone();
                damaged[at] ^= 1 << bit;
                let error = open::<serde_json::Value>("test", 1, "here", &damaged).unwrap_err();
                assert!(matches!(error, StateError::Damaged { .. } | StateError::TooNew { .. }), "{at}.{bit}: {error}");
            }
            assert!(open::<serde_json::Value>("test", 1, "here", &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let sealed = seal("test", 2, &1);
        let error = open::<u32>("test", 1, "/x/latest", &sealed).unwrap_err();
        assert_eq!(error.to_string(), "/x/latest has version 2; this millrace reads versions up to 1");
    }
}
