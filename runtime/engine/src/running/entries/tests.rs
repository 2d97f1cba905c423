#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn entry(current: &[u8], emitted: Option<&[u8]>) -> Entry {
    Entry { current: Some(current.into()), emitted: emitted.map(Into::into), ..Entry::default() }
}

fn encoded(entry: &Entry) -> Vec<u8> {
    let mut value = Vec::new();
    entry.encode(&mut value);
    value
}

/// Entries as version 1 stores them. What was released never changes: another form needs another version, and goldens of
/// its own.
#[test]
fn version_1_is_what_the_golden_bytes_are() {
    let goldens: [(&[u8], Entry); 3] = [
        (b"\x01\x00\x00\x00\x00\x03now", entry(b"now", None)),
        (b"\x01\x01\x00\x00\x00\x03now", entry(b"now", Some(b"now"))),
        (b"\x01\x02\x00\x00\x00\x03nowbefore", entry(b"now", Some(b"before"))),
    ];
    for (golden, entry) in goldens {
        assert_eq!(encoded(&entry), golden);
        let read = Entry::decode(golden).unwrap();
        assert_eq!((read.current, read.emitted), (entry.current, entry.emitted));
        let mut newer = golden.to_vec();
        newer[0] = 2;
        assert!(Entry::decode(&newer).is_err());
        (0..9).for_each(|bytes| assert!(Entry::decode(&golden[..bytes]).is_err(), "{bytes} bytes of {golden:?}"));
    }
}

proptest! {
    #[test]
    fn what_is_stored_is_read(current: Vec<u8>, emitted: Option<Vec<u8>>) {
        let read = Entry::decode(&encoded(&entry(&current, emitted.as_deref()))).unwrap();
        prop_assert_eq!(read.current.as_deref(), Some(&current[..]));
        prop_assert_eq!(read.emitted.as_deref(), emitted.as_deref());
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        kind in 0u8..4,
        length in prop_oneof![0u32..20, any::<u32>()],
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let value = [&[1, kind][..], &length.to_be_bytes(), &rest].concat();
        if let Ok(read) = Entry::decode(&value) {
            prop_assert!(kind < 3 && length as usize <= rest.len());
            prop_assert_eq!(read.current.unwrap().len(), length as usize);
        }
    }
}
