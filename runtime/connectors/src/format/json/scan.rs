//! Finding bytes and reading digits, many at a time.
//!
//! Each has a form for AVX2, which the workspace is compiled for on x86-64, and a portable one; tests compare them.

use crate::format::chunk::Padded;

/// The place of the first `"`, `\` or control character at or after `pos`. There is one: at the latest the line feed, or
/// the zero, behind the records.
#[inline(always)]
pub(crate) fn string_end(text: Padded<'_>, pos: usize) -> usize {
    #[cfg(target_feature = "avx2")]
    {
        string_end_avx2(text, pos)
    }
    #[cfg(not(target_feature = "avx2"))]
    {
        string_end_portable(text, pos)
    }
}

#[cfg(target_feature = "avx2")]
#[inline(always)]
fn string_end_avx2(text: Padded<'_>, mut pos: usize) -> usize {
    use std::arch::x86_64::*;
    loop {
        // SAFETY: AVX2 is there by the `cfg`, and 32 bytes from `pos` are readable: every byte before `pos` was no line
        // feed and no zero, so `pos` has not passed the records' end, and the padding behind it is longer than that.
        let hits = unsafe {
            let bytes = _mm256_loadu_si256(text.ptr(pos).cast());
            let quote = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(b'"' as i8));
            let escape = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(b'\\' as i8));
            let control = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1f)), bytes);
            _mm256_movemask_epi8(_mm256_or_si256(_mm256_or_si256(quote, escape), control)) as u32
        };
        if hits != 0 {
            return pos + hits.trailing_zeros() as usize;
        }
        pos += 32;
    }
}

#[cfg(any(test, not(target_feature = "avx2")))]
#[inline(always)]
fn string_end_portable(text: Padded<'_>, mut pos: usize) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    loop {
        let word = text.word(pos);
        let quote = word ^ (LOW * b'"' as u64);
        let escape = word ^ (LOW * b'\\' as u64);
        // Where a byte is zero, or less than 0x20, the subtraction borrows: the lowest such byte is marked exactly.
        let hits = ((quote.wrapping_sub(LOW) & !quote)
            | (escape.wrapping_sub(LOW) & !escape)
            | (word.wrapping_sub(LOW * 0x20) & !word))
            & HIGH;
        if hits != 0 {
            return pos + (hits.trailing_zeros() / 8) as usize;
        }
        pos += 8;
    }
}

/// The place of the first byte at or after `pos` that is no blank; a line feed is none, since it ends the row.
#[inline(always)]
pub(crate) fn skip_blanks(text: Padded<'_>, mut pos: usize) -> usize {
    while matches!(text.at(pos), b' ' | b'\t' | b'\r') {
        pos += 1;
    }
    pos
}

/// The bytes that are expected at a place, up to 32 of them compared at once.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    head: [u8; 32],
    mask: u32,
    len: u32,
    tail: Box<[u8]>,
}

impl Pattern {
    /// What stands nowhere.
    pub(crate) fn never() -> Self {
        Self { head: [0; 32], mask: 1, len: 0, tail: Box::default() }
    }

    /// These bytes, which have no line feed and no zero among them.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() || bytes.iter().any(|byte| matches!(byte, 0 | b'\n')) {
            return Self::never();
        }
        let mut head = [0; 32];
        let first = bytes.len().min(32);
        head[..first].copy_from_slice(&bytes[..first]);
        let mask = if first == 32 { u32::MAX } else { (1 << first) - 1 };
        Self { head, mask, len: bytes.len() as u32, tail: bytes[first..].into() }
    }

    /// The place behind these bytes, if they stand at `pos`.
    #[inline(always)]
    pub(crate) fn at(&self, text: Padded<'_>, pos: usize) -> Option<usize> {
        let differs = self.head_differs(text, pos) & self.mask;
        if differs != 0 {
            return None;
        }
        let end = pos + self.len as usize;
        if self.tail.is_empty() || (end <= text.len() && text.slice(pos + 32, end) == &*self.tail) {
            return Some(end);
        }
        None
    }

    #[cfg(target_feature = "avx2")]
    #[inline(always)]
    fn head_differs(&self, text: Padded<'_>, pos: usize) -> u32 {
        use std::arch::x86_64::*;
        // SAFETY: AVX2 is there by the `cfg`; `ptr` has at least 64 readable bytes behind it, `head` has 32.
        unsafe {
            let bytes = _mm256_loadu_si256(text.ptr(pos).cast());
            let head = _mm256_loadu_si256(self.head.as_ptr().cast());
            !(_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, head)) as u32)
        }
    }

    #[cfg(not(target_feature = "avx2"))]
    #[inline(always)]
    fn head_differs(&self, text: Padded<'_>, pos: usize) -> u32 {
        let mut differs = 0;
        for index in 0..(self.len as usize).clamp(1, 32) {
            if text.at(pos + index) != self.head[index] {
                differs |= 1 << index;
                break;
            }
        }
        differs
    }
}

/// How many of a word's bytes, from the lowest, are digits.
#[inline(always)]
fn leading_digits(word: u64) -> usize {
    let digits = word ^ 0x3030_3030_3030_3030;
    // A byte above 9 carries into its high bit, or has it; carries go only to bytes above the lowest one that is marked.
    let others = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080;
    (others.trailing_zeros() / 8) as usize
}

/// The number that the lowest `count` bytes of a word, from 1 to 8, are the digits of.
#[inline(always)]
fn digits_value(word: u64, count: usize) -> u64 {
    const PAIRS: u64 = 0x0000_00ff_0000_00ff;
    // Moving the digits up fills in zeros in front of them.
    let digits = (word ^ 0x3030_3030_3030_3030) << (64 - 8 * count);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let upper = (pairs & PAIRS).wrapping_mul(100 + (1_000_000 << 32));
    let lower = ((pairs >> 16) & PAIRS).wrapping_mul(1 + (10_000 << 32));
    upper.wrapping_add(lower) >> 32
}

const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// The digits from `pos`: their value and how many there are. The value is exact for up to 19 of them.
#[inline(always)]
pub(crate) fn digits(text: Padded<'_>, pos: usize) -> (u64, usize) {
    let word = text.word(pos);
    let count = leading_digits(word);
    if count < 8 {
        let value = if count == 0 { 0 } else { digits_value(word, count) };
        return (value, count);
    }
    let first = digits_value(word, 8);
    let word = text.word(pos + 8);
    let count = leading_digits(word);
    if count < 8 {
        let value = if count == 0 { first } else { first * POWERS[count] + digits_value(word, count) };
        return (value, 8 + count);
    }
    many_digits(text, pos, first * POWERS[8] + digits_value(word, 8))
}

#[cold]
fn many_digits(text: Padded<'_>, pos: usize, mut value: u64) -> (u64, usize) {
    let mut count = 16;
    while text.at(pos + count).is_ascii_digit() {
        value = value.wrapping_mul(10).wrapping_add(u64::from(text.at(pos + count) - b'0'));
        count += 1;
    }
    (value, count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::chunk::Chunk;

    proptest! {
        #[test]
        fn strings_end_where_a_plain_search_says(bytes in prop::collection::vec(any::<u8>(), 0..200), start in 0usize..200) {
            let chunk = Chunk::copy_of(&bytes, 0);
            let text = chunk.padded();
            let start = start.min(bytes.len());
            let plain = bytes[start..].iter().position(|&b| b == b'"' || b == b'\\' || b < 0x20);
            let plain = plain.map_or(bytes.len(), |at| start + at);
            prop_assert_eq!(string_end(text, start), plain);
            prop_assert_eq!(string_end_portable(text, start), plain);
        }

        #[test]
        fn digits_are_counted_and_valued_as_the_standard_library_does(number in any::<u64>(), cut in 0usize..20, tail in "[^0-9\n]{0,9}") {
            let all = number.to_string();
            let shown = &all[..all.len() - cut.min(all.len())];
            let shown = if shown.len() > 19 { &shown[..19] } else { shown };
            let chunk = Chunk::copy_of(format!("{shown}{tail}\n").as_bytes(), 0);
            prop_assert_eq!(digits(chunk.padded(), 0), (shown.parse().unwrap_or(0), shown.len()));
        }

        #[test]
        fn a_pattern_is_found_exactly_where_its_bytes_stand(bytes in "[a-z\": ]{1,80}", other in "[a-z\": ]{0,80}") {
            let pattern = Pattern::of(bytes.as_bytes());
            let here = Chunk::copy_of(format!("{bytes}{other}\n").as_bytes(), 0);
            prop_assert_eq!(pattern.at(here.padded(), 0), Some(bytes.len()));
            let elsewhere = Chunk::copy_of(format!("{other}\n").as_bytes(), 0);
            prop_assert_eq!(pattern.at(elsewhere.padded(), 0).is_some(), other.starts_with(&bytes));
        }
    }

    #[test]
    fn more_digits_than_a_word_holds_are_counted_all_the_same() {
        let chunk = Chunk::copy_of(b"123456789012345678901234567890,", 0);
        assert_eq!(digits(chunk.padded(), 0).1, 30);
    }
}
