#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// A session from 5 s before 1970 to 7 ms after it, with a gap of 9 ms. What was released never changes: another form needs
/// another version, and a golden of its own.
const KEY: &[u8] = b"\x00\x09\x01key\x7f\xff\xff\xff\xff\xff\xec\x78";
const VALUE_1: &[u8] = b"\x01\x00\x00\x00\x00\x00\x00\x00\x07state";
const VALUE_2: &[u8] = b"\x02\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x09state";
const SPAN: Span = Span { start: -5_000, last: 7, gap_ms: 9 };

#[test]
fn version_2_is_what_the_golden_bytes_are_and_version_1_is_read() {
    assert_eq!(with_start(b"\x00\x09\x01key".to_vec(), SPAN.start), KEY);
    assert_eq!(encoded(&SPAN, b"state"), VALUE_2);
    assert_eq!(decode(VALUE_2).unwrap(), (7, Some(9), &b"state"[..]));
    assert_eq!(decode(VALUE_1).unwrap(), (7, None, &b"state"[..]));
}

#[test]
fn a_session_of_another_version_or_cut_short_is_refused() {
    let mut newer = VALUE_2.to_vec();
    newer[0] = 3;
    assert!(decode(&newer).unwrap_err().to_string().contains("another version"));
    (0..17).for_each(|bytes| assert!(decode(&VALUE_2[..bytes]).is_err(), "{bytes} bytes"));
    (0..9).for_each(|bytes| assert!(decode(&VALUE_1[..bytes]).is_err(), "{bytes} bytes of version 1"));
}

fn encoded(span: &Span, state: &[u8]) -> Vec<u8> {
    let mut value = b"what was there before".to_vec();
    encode(span, state, &mut value);
    value
}

fn with_start(mut key: Vec<u8>, start: i64) -> Vec<u8> {
    key.extend(start_bytes(start));
    key
}

proptest! {
    #[test]
    fn what_is_stored_is_read(last: i64, gap_ms: i64, state: Vec<u8>) {
        let stored = encoded(&Span { start: 0, last, gap_ms }, &state);
        prop_assert_eq!(decode(&stored).unwrap(), (last, Some(gap_ms), &state[..]));
    }

    #[test]
    fn keys_lie_in_the_order_of_their_sessions_starts(one: i64, other: i64) {
        let key = |start| with_start(b"key".to_vec(), start);
        prop_assert_eq!(key(one).cmp(&key(other)), one.cmp(&other));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        if let Ok((last, Some(gap_ms), state)) = decode(&bytes) {
            prop_assert_eq!(encoded(&Span { start: 0, last, gap_ms }, state), bytes);
        }
    }
}
