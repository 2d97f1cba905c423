//! Numbers of JSON, at the place where they stand.
//!
//! Integers of up to 19 digits and decimals of up to 19 digits and an exact quotient are computed from their digits; the
//! rest is left to exact, slower ways.

use super::{fault::Fault, scan::digits};
use crate::format::{
    chunk::Padded,
    decimal::{Decimal, Excess},
};

/// The powers of ten that a double holds exactly.
const EXACT: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

const POWERS: [u64; 20] = {
    let mut powers = [1; 20];
    let mut index = 1;
    while index < 20 {
        powers[index] = powers[index - 1] * 10;
        index += 1;
    }
    powers
};

/// The place behind the number that begins at `pos`.
#[inline]
pub(super) fn end(text: Padded<'_>, mut pos: usize) -> Result<usize, Fault> {
    pos += usize::from(text.at(pos) == b'-');
    let (_, count) = digits(text, pos);
    if count == 0 || (count > 1 && text.at(pos) == b'0') {
        return Err(Fault::Number);
    }
    pos += count;
    if text.at(pos) == b'.' {
        let (_, count) = digits(text, pos + 1);
        if count == 0 {
            return Err(Fault::Number);
        }
        pos += 1 + count;
    }
    if matches!(text.at(pos), b'e' | b'E') {
        pos += 1;
        pos += usize::from(matches!(text.at(pos), b'+' | b'-'));
        let (_, count) = digits(text, pos);
        if count == 0 {
            return Err(Fault::Number);
        }
        pos += count;
    }
    Ok(pos)
}

/// The integer that begins at `pos`, and the place behind it.
#[inline(always)]
pub(super) fn integer(text: Padded<'_>, pos: usize) -> Result<(i64, usize), Fault> {
    let negative = text.at(pos) == b'-';
    let start = pos + usize::from(negative);
    let (value, count) = digits(text, start);
    let plain = !matches!(text.at(start + count), b'.' | b'e' | b'E');
    let no_zeros = count == 1 || text.at(start) != b'0';
    // 18 digits always fit.
    if plain && no_zeros && count.wrapping_sub(1) < 18 {
        let value = value as i64;
        return Ok((if negative { -value } else { value }, start + count));
    }
    uncommon_integer(text, pos)
}

#[cold]
fn uncommon_integer(text: Padded<'_>, pos: usize) -> Result<(i64, usize), Fault> {
    if !is_number(text, pos) {
        return Err(Fault::Integer);
    }
    let end = end(text, pos)?;
    let number = Decimal::parse(text.slice(pos, end)).ok_or(Fault::Number)?;
    match number.units(0, Excess::Refuse).map(i64::try_from) {
        Some(Ok(value)) => Ok((value, end)),
        _ if number.units(0, Excess::Floor).is_none_or(|whole| i64::try_from(whole).is_err()) => Err(Fault::Range),
        _ => Err(Fault::Integer),
    }
}

/// Whether a number, good or bad, begins at `pos`.
#[inline]
pub(super) fn is_number(text: Padded<'_>, pos: usize) -> bool {
    matches!(text.at(pos), b'-' | b'0'..=b'9')
}

/// The mantissa, the number of its digits behind the point, the sign and the end of a number without exponent and with at
/// most 19 digits.
#[inline(always)]
fn plain(text: Padded<'_>, pos: usize) -> Option<(u64, usize, bool, usize)> {
    let negative = text.at(pos) == b'-';
    let start = pos + usize::from(negative);
    let (whole, count) = digits(text, start);
    if count == 0 || (count > 1 && text.at(start) == b'0') || count > 19 {
        return None;
    }
    let mut end = start + count;
    let (mut mantissa, mut behind) = (whole, 0);
    if text.at(end) == b'.' {
        let (fraction, fraction_count) = digits(text, end + 1);
        if fraction_count == 0 || count + fraction_count > 19 {
            return None;
        }
        mantissa = whole * POWERS[fraction_count] + fraction;
        behind = fraction_count;
        end += 1 + fraction_count;
    }
    (!matches!(text.at(end), b'e' | b'E')).then_some((mantissa, behind, negative, end))
}

/// The double that begins at `pos`, rounded to the nearest, and the place behind it.
#[inline(always)]
pub(super) fn double(text: Padded<'_>, pos: usize) -> Result<(f64, usize), Fault> {
    if let Some((mantissa, behind, negative, end)) = plain(text, pos)
        && mantissa <= 1 << 53
    {
        // Both are exact, so that the quotient is rounded once.
        let value = mantissa as f64 / EXACT[behind];
        return Ok((if negative { -value } else { value }, end));
    }
    uncommon_double(text, pos)
}

#[cold]
fn uncommon_double(text: Padded<'_>, pos: usize) -> Result<(f64, usize), Fault> {
    if !is_number(text, pos) {
        return Err(Fault::NumberExpected);
    }
    let end = end(text, pos)?;
    let value = lexical_core::parse::<f64>(text.slice(pos, end)).map_err(|_| Fault::Number)?;
    if value.is_finite() { Ok((value, end)) } else { Err(Fault::Range) }
}

/// The float that begins at `pos`, rounded to the nearest, and the place behind it.
#[inline]
pub(super) fn float(text: Padded<'_>, pos: usize) -> Result<(f32, usize), Fault> {
    if let Some((mantissa, behind, negative, end)) = plain(text, pos)
        && mantissa <= 1 << 24
        && behind <= 10
    {
        let value = mantissa as f32 / EXACT[behind] as f32;
        return Ok((if negative { -value } else { value }, end));
    }
    if !is_number(text, pos) {
        return Err(Fault::NumberExpected);
    }
    let end = end(text, pos)?;
    let value = lexical_core::parse::<f32>(text.slice(pos, end)).map_err(|_| Fault::Number)?;
    if value.is_finite() { Ok((value, end)) } else { Err(Fault::Range) }
}

/// The number that begins at `pos` in units of `10^-scale`, and the place behind it.
pub(super) fn units(text: Padded<'_>, pos: usize, scale: u32, excess: Excess) -> Result<(i128, usize), Fault> {
    let end = end(text, pos)?;
    let number = Decimal::parse(text.slice(pos, end)).ok_or(Fault::Number)?;
    Ok((number.units(scale, excess).ok_or(Fault::Range)?, end))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::format::chunk::Chunk;

    proptest! {
        #[test]
        fn every_double_that_is_written_is_read_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            for written in [format!("{value}"), format!("{value:e}"), serde_json::to_string(&value).unwrap()] {
                let chunk = Chunk::copy_of(format!("{written},").as_bytes(), 0);
                let (read, end) = double(chunk.padded(), 0).unwrap();
                prop_assert_eq!((read.to_bits(), end), (bits, written.len()), "{}", written);
            }
        }

        #[test]
        fn decimals_are_rounded_as_the_standard_library_rounds_them(whole in 0u64..1_000_000_000_000, fraction in "[0-9]{1,18}", negative: bool) {
            let written = format!("{}{whole}.{fraction}", if negative { "-" } else { "" });
            let chunk = Chunk::copy_of(format!("{written}}}").as_bytes(), 0);
            prop_assert_eq!(double(chunk.padded(), 0).unwrap(), (written.parse::<f64>().unwrap(), written.len()));
            prop_assert_eq!(float(chunk.padded(), 0).unwrap(), (written.parse::<f32>().unwrap(), written.len()));
        }

        #[test]
        fn every_integer_is_read_back(value in any::<i64>(), digits in 0u32..64) {
            let value = value >> digits;
            let chunk = Chunk::copy_of(format!("{value}}}").as_bytes(), 0);
            prop_assert_eq!(integer(chunk.padded(), 0), Ok((value, value.to_string().len())));
        }
    }

    #[test]
    fn integers_outside_their_range_and_fractions_are_refused() {
        let read = |text: &str| integer(Chunk::copy_of(format!("{text}\n").as_bytes(), 0).padded(), 0);
        assert_eq!(read("9223372036854775807"), Ok((i64::MAX, 19)));
        assert_eq!(read("-9223372036854775808"), Ok((i64::MIN, 20)));
        assert_eq!(read("9223372036854775808"), Err(Fault::Range));
        assert_eq!(read("1e30"), Err(Fault::Range));
        assert_eq!(read("1.5e3"), Ok((1500, 5)));
        assert_eq!(read("2.0"), Ok((2, 3)));
        assert_eq!(read("2.5"), Err(Fault::Integer));
        assert_eq!(read("\"2\""), Err(Fault::Integer));
        for malformed in ["-", "01", "-01", "1.", "1.e5", "1e", "1e+", "00"] {
            assert_eq!(read(malformed), Err(Fault::Number), "{malformed}");
        }
    }
}
