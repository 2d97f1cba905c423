//! What stands in a stream just before a place in it.
//!
//! Two files that begin alike are told apart by the bytes before the place at which one of them goes on.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// How many bytes before a place are looked at.
pub(crate) const TAIL_BYTES: usize = 1024;

/// The last bytes before a place: [`TAIL_BYTES`], or as many as there are, or as are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail(Vec<u8>);

/// What is kept of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TailDigest {
    /// How many bytes `tail` covers; none if nothing is known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) tail_bytes: u64,
    /// Their digest.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) tail: u64,
}

impl Tail {
    /// The last of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut tail = Self::default();
        tail.pass(bytes);
        tail
    }

    /// The place moves on over these bytes.
    pub(crate) fn pass(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        let kept = self.0.len().min(TAIL_BYTES - new.len());
        self.0.drain(..self.0.len() - kept);
        self.0.extend_from_slice(new);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn digest(&self) -> TailDigest {
        match self.0.is_empty() {
            true => TailDigest::default(),
            false => TailDigest { tail_bytes: self.0.len() as u64, tail: xxh3_64(&self.0) },
        }
    }
}

impl TailDigest {
    /// Whether these bytes are the ones that it covers.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.tail_bytes && (bytes.is_empty() || xxh3_64(bytes) == self.tail)
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_of_all_that_was_passed_however_it_came() {
        let all: Vec<u8> = (0..5_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        for size in [1, 3, 100, 1023, 1024, 1025, 4_999, 5_000] {
            let mut tail = Tail::default();
            let mut passed = 0;
            for part in all.chunks(size) {
                tail.pass(part);
                passed += part.len();
                assert_eq!(tail.bytes(), &all[passed.saturating_sub(TAIL_BYTES)..passed], "{size}");
            }
            assert_eq!(tail, Tail::of(&all));
        }
    }

    #[test]
    fn a_digest_is_of_the_bytes_that_it_covers_only() {
        let digest = Tail::of(b"one row\n").digest();
        assert!(digest.is_of(b"one row\n"));
        for other in [&b""[..], b"one row", b"two row\n", b" one row\n"] {
            assert!(!digest.is_of(other));
        }
        assert!(TailDigest::default().is_of(b""));
    }
}
