//! Numbers, dates and times as text, appended to a byte buffer without an allocation.
//!
//! Times are ISO 8601 in UTC with as many digits of the second as the value needs: none, three, six or nine. Years outside
//! 0 to 9999 carry a sign and at least four digits. A float is written with the fewest digits that read back to the same
//! value, always with a point or an exponent, so that a reader which guesses types sees a float in every row.

use arrow::datatypes::TimeUnit;

const DIGIT_PAIRS: &[u8; 200] = b"0001020304050607080910111213141516171819\
2021222324252627282930313233343536373839\
4041424344454647484950515253545556575859\
6061626364656667686970717273747576777879\
8081828384858687888990919293949596979899";

/// The greatest whole number up to which every whole number is a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

pub(crate) fn write_int<I: itoa::Integer>(value: I, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn pair(value: u32) -> [u8; 2] {
    let at = (value % 100) as usize * 2;
    [DIGIT_PAIRS[at], DIGIT_PAIRS[at + 1]]
}

/// Writes a finite double.
///
/// Most measured values are whole or have few decimals. If `v * 100`, rounded to a whole number `n`, divided by 100 gives
/// `v` again, then the decimal `n / 100` reads back as `v`, since both the division and the reading round to the nearest
/// double: two multiplications instead of a search for the shortest digits.
pub(crate) fn write_f64(v: f64, out: &mut Vec<u8>) {
    if v.abs() < 1e13 && v != 0.0 {
        let whole = v as i64;
        if whole as f64 == v {
            write_int(whole, out);
            out.extend_from_slice(b".0");
            return;
        }
        if let Some(n) = scaled(v, 100.0) {
            let (int, cents) = (n.unsigned_abs() / 100, (n.unsigned_abs() % 100) as u32);
            if v < 0.0 {
                out.push(b'-');
            }
            write_int(int, out);
            let [tens, ones] = pair(cents);
            out.extend_from_slice(&[b'.', tens]);
            if ones != b'0' {
                out.push(ones);
            }
            return;
        }
        if let Some(n) = scaled(v, 1e5) {
            if v < 0.0 {
                out.push(b'-');
            }
            write_int(n.unsigned_abs() / 100_000, out);
            write_fraction(n.unsigned_abs() % 100_000, 5, out);
            return;
        }
    }
    write_shortest(v, out);
}

/// `v * scale` if that is a whole number `n` for which `n / scale == v`.
fn scaled(v: f64, scale: f64) -> Option<i64> {
    let product = v * scale;
    let n = (product + 0.5f64.copysign(product)) as i64;
    (product.abs() < EXACT / 2.0 && n as f64 / scale == v).then_some(n)
}

/// Writes a finite float.
pub(crate) fn write_f32(v: f32, out: &mut Vec<u8>) {
    write_shortest(v, out);
}

fn write_shortest<F: lexical_core::ToLexical + lexical_core::FormattedSize>(v: F, out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + F::FORMATTED_SIZE_DECIMAL, 0);
    let written = lexical_core::write(v, &mut out[at..]).len();
    out.truncate(at + written);
}

/// A point and `value` as a fraction of `digits` digits, without the zeros at its end; `value` is not 0.
fn write_fraction(mut value: u64, mut digits: usize, out: &mut Vec<u8>) {
    while value.is_multiple_of(10) {
        value /= 10;
        digits -= 1;
    }
    out.push(b'.');
    write_padded(value, digits, out);
}

/// `value` with zeros in front up to `digits` digits.
fn write_padded(mut value: u64, digits: usize, out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + digits, b'0');
    for place in out[at..].iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Writes a decimal number: `value` divided by ten to the power `scale`, with all its digits.
pub(crate) fn write_decimal(value: i128, scale: i8, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let magnitude = value.unsigned_abs();
    if scale <= 0 {
        write_int(magnitude, out);
        if magnitude != 0 {
            out.extend(std::iter::repeat_n(b'0', usize::from(scale.unsigned_abs())));
        }
        return;
    }
    let scale = usize::from(scale.unsigned_abs());
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(magnitude).as_bytes();
    if digits.len() > scale {
        let (int, fraction) = digits.split_at(digits.len() - scale);
        out.extend_from_slice(int);
        out.push(b'.');
        out.extend_from_slice(fraction);
    } else {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', scale - digits.len()));
        out.extend_from_slice(digits);
    }
}

/// Year, month and day of a day since 1970-01-01, by the Gregorian calendar carried on in both directions.
///
/// Days are counted from 1 March of year 0, so that the leap day is the last of its year; 400 years have 146,097 days.
fn civil(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097) as u32;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (i64::from(year_of_era) + era * 400 + i64::from(month <= 2), month, day)
}

/// Writes the date of a day since 1970-01-01, as `2013-01-31`.
pub(crate) fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(days);
    let ([m1, m2], [d1, d2]) = (pair(month), pair(day));
    if (0..=9999).contains(&year) {
        let ([c1, c2], [y1, y2]) = (pair(year as u32 / 100), pair(year as u32 % 100));
        out.extend_from_slice(&[c1, c2, y1, y2, b'-', m1, m2, b'-', d1, d2]);
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        if year.unsigned_abs() < 1000 {
            write_padded(year.unsigned_abs(), 4, out);
        } else {
            write_int(year.unsigned_abs(), out);
        }
        out.extend_from_slice(&[b'-', m1, m2, b'-', d1, d2]);
    }
}

fn write_time_of_day(seconds: u32, out: &mut Vec<u8>) {
    let ([h1, h2], [m1, m2], [s1, s2]) = (pair(seconds / 3600), pair(seconds / 60 % 60), pair(seconds % 60));
    out.extend_from_slice(&[h1, h2, b':', m1, m2, b':', s1, s2]);
}

/// Writes a moment since 1970-01-01T00:00:00Z, as `2013-01-31T23:59:59.999Z`.
pub(crate) fn write_timestamp(value: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    let (per_second, digits) = match unit {
        TimeUnit::Second => (1, 0),
        TimeUnit::Millisecond => (1_000, 3),
        TimeUnit::Microsecond => (1_000_000, 6),
        TimeUnit::Nanosecond => (1_000_000_000, 9),
    };
    let (seconds, mut fraction) = (value.div_euclid(per_second), value.rem_euclid(per_second) as u64);
    write_date(seconds.div_euclid(86_400), out);
    out.push(b'T');
    write_time_of_day(seconds.rem_euclid(86_400) as u32, out);
    if fraction != 0 {
        let mut digits = digits;
        while fraction.is_multiple_of(1_000) {
            fraction /= 1_000;
            digits -= 3;
        }
        out.push(b'.');
        write_padded(fraction, digits, out);
    }
    out.push(b'Z');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_iso_8601_with_as_many_digits_as_they_need() {
        let micros = |value| text(|out| write_timestamp(value, TimeUnit::Microsecond, out));
        assert_eq!(micros(0), "1970-01-01T00:00:00Z");
        assert_eq!(micros(1_357_016_400_000_000), "2013-01-01T05:00:00Z");
        assert_eq!(micros(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(micros(1_709_210_096_789_000), "2024-02-29T12:34:56.789Z");
        assert_eq!(micros(-62_135_596_800_000_000), "0001-01-01T00:00:00Z");
        assert_eq!(micros(-62_167_219_200_000_001), "-0001-12-31T23:59:59.999999Z");
        assert_eq!(micros(253_402_300_800_000_000), "+10000-01-01T00:00:00Z");
        assert_eq!(text(|out| write_timestamp(7, TimeUnit::Nanosecond, out)), "1970-01-01T00:00:00.000000007Z");
        assert_eq!(text(|out| write_timestamp(7, TimeUnit::Millisecond, out)), "1970-01-01T00:00:00.007Z");
        assert_eq!(text(|out| write_timestamp(7, TimeUnit::Second, out)), "1970-01-01T00:00:07Z");
    }

    #[test]
    fn decimals_keep_all_their_digits() {
        assert_eq!(text(|out| write_decimal(1234, 2, out)), "12.34");
        assert_eq!(text(|out| write_decimal(-5, 3, out)), "-0.005");
        assert_eq!(text(|out| write_decimal(0, 2, out)), "0.00");
        assert_eq!(text(|out| write_decimal(12, -3, out)), "12000");
        assert_eq!(text(|out| write_decimal(i128::MIN, 0, out)), i128::MIN.to_string());
    }

    #[test]
    fn floats_are_short_and_look_like_floats() {
        let float = |value| text(|out| write_f64(value, out));
        for (value, expected) in [
            (1.0, "1.0"),
            (-3.0, "-3.0"),
            (0.5, "0.5"),
            (19.99, "19.99"),
            (-0.07, "-0.07"),
            (100.1, "100.1"),
            (0.001, "0.001"),
            (-12.34567, "-12.34567"),
            (0.1 + 0.2, "0.30000000000000004"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
        ] {
            assert_eq!(float(value), expected);
        }
    }

    proptest! {
        #[test]
        fn a_double_reads_back_as_the_same_bits(bits in any::<u64>(), cents in -10_000_000_000i64..10_000_000_000) {
            for value in [f64::from_bits(bits), cents as f64 / 100.0, cents as f64 / 1000.0, cents as f64 * 0.01] {
                if value.is_finite() {
                    let written = text(|out| write_f64(value, out));
                    prop_assert_eq!(written.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{}", written);
                    prop_assert!(serde_json::from_str::<serde_json::Value>(&written).unwrap().is_f64());
                }
            }
        }

        #[test]
        fn a_date_is_that_of_the_calendar(days in -700_000i64..2_900_000) {
            let date = chrono::DateTime::from_timestamp(days * 86_400, 0).unwrap().date_naive();
            prop_assume!((0..=9999).contains(&chrono::Datelike::year(&date)));
            prop_assert_eq!(text(|out| write_date(days, out)), date.format("%Y-%m-%d").to_string());
        }
    }
}
