#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// A session from 5 s before 1970 to 7 ms after it, as version 1 stores it. What was released never changes: another form
/// needs another version, and a golden of its own.
const KEY_1: &[u8] = b"\x00\x09\x01key\x7f\xff\xff\xff\xff\xff\xec\x78";
const VALUE_1: &[u8] = b"\x01\x00\x00\x00\x00\x00\x00\x00\x07state";

#[test]
fn version_1_is_what_the_golden_bytes_are() {
    assert_eq!(with_start(b"\x00\x09\x01key".to_vec(), -5_000), KEY_1);
    assert_eq!(encode(7, b"state"), VALUE_1);
    assert_eq!(decode(VALUE_1).unwrap(), (7, &b"state"[..]));
}

#[test]
fn a_session_of_another_version_or_cut_short_is_refused() {
    let mut newer = VALUE_1.to_vec();
    newer[0] = 2;
    assert!(decode(&newer).unwrap_err().to_string().contains("another version"));
    (0..9).for_each(|bytes| assert!(decode(&VALUE_1[..bytes]).is_err(), "{bytes} bytes"));
}

proptest! {
    #[test]
    fn what_is_stored_is_read(last: i64, state: Vec<u8>) {
        let stored = encode(last, &state);
        prop_assert_eq!(decode(&stored).unwrap(), (last, &state[..]));
    }

    #[test]
    fn keys_lie_in_the_order_of_their_sessions_starts(one: i64, other: i64) {
        let key = |start| with_start(b"key".to_vec(), start);
        prop_assert_eq!(key(one).cmp(&key(other)), one.cmp(&other));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        if let Ok((last, state)) = decode(&bytes) {
            prop_assert_eq!(encode(last, state), bytes);
        }
    }
}
