#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// Sessions from 5 s before 1970 to 7 ms after it, with a gap of 9 ms, and from 90 to 91 ms after it. What was released
/// never changes: another form needs another version, and a golden of its own.
const VALUE: &[u8] =
    b"\x03\xff\xff\xff\xff\xff\xff\xec\x78\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x09\
    \x00\x00\x00\x05state\
    \x00\x00\x00\x00\x00\x00\x00\x5a\x00\x00\x00\x00\x00\x00\x00\x5b\x00\x00\x00\x00\x00\x00\x00\x09\
    \x00\x00\x00\x00";
const DUE_NAME: &[u8] = b"\x00\x09\x04\x7f\xff\xff\xff\xff\xff\xec\x78key";

/// When it began, its last row, its gap, and its state.
type Stored = (i64, i64, i64, Vec<u8>);

fn encoded(sessions: &[Stored]) -> Vec<u8> {
    let mut value = vec![VERSION];
    for (start, last, gap_ms, state) in sessions {
        encode(&Span { start: *start, last: *last, gap_ms: *gap_ms }, state, &mut value);
    }
    value
}

fn decoded(value: &[u8]) -> Result<Vec<Stored>, OperatorError> {
    let mut sessions = Vec::new();
    decode(value, |span, state| sessions.push((span.start, span.last, span.gap_ms, state.to_vec())))?;
    Ok(sessions)
}

#[test]
fn version_3_is_what_the_golden_bytes_are() {
    let sessions = vec![(-5_000, 7, 9, b"state".to_vec()), (90, 91, 9, Vec::new())];
    assert_eq!(encoded(&sessions), VALUE);
    assert_eq!(decoded(VALUE).unwrap(), sessions);
    assert_eq!([&timed_prefix(9, DUE, -5_000)[..], b"key"].concat(), DUE_NAME);
    assert_eq!((time_of(DUE_NAME), &DUE_NAME[TIMED_PREFIX..]), (Some(-5_000), &b"key"[..]));
}

#[test]
fn an_entry_of_another_version_or_cut_short_is_refused() {
    let mut newer = VALUE.to_vec();
    newer[0] = 4;
    assert!(decoded(&newer).unwrap_err().to_string().contains("another version"));
    let whole = [1, 34, VALUE.len()];
    for bytes in (0..VALUE.len()).filter(|bytes| !whole.contains(bytes)) {
        assert!(decoded(&VALUE[..bytes]).is_err(), "{bytes} bytes");
    }
}

proptest! {
    #[test]
    fn what_is_stored_is_read(sessions: Vec<(i64, i64, i64, Vec<u8>)>) {
        prop_assert_eq!(decoded(&encoded(&sessions)).unwrap(), sessions);
    }

    #[test]
    fn names_lie_in_the_order_of_what_they_say_is_due(one: i64, other: i64) {
        prop_assert_eq!(timed_prefix(3, DUE, one).cmp(&timed_prefix(3, DUE, other)), one.cmp(&other));
        prop_assert_eq!(time_of(&timed_prefix(3, DUE, one)), Some(one));
    }

    #[test]
    fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>) {
        if let Some(version) = bytes.first_mut() {
            *version = VERSION;
        }
        if let Ok(sessions) = decoded(&bytes) {
            prop_assert_eq!(encoded(&sessions), bytes);
        }
    }
}
