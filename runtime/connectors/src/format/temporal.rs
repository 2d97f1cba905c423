//! Days and moments from text.
//!
//! ISO 8601 as it is commonly written is read here: `2013-01-31T05:15:00.123456Z`, with `T`, `t` or a blank between day and
//! time, any number of digits of a second (those behind the microseconds are cut off), and `Z`, `+05`, `+0530`, `+05:30` or
//! nothing, which means UTC, at the end. A day alone is its midnight. Other layouts are given as a `strftime` pattern.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};

const MICROS: i64 = 1_000_000;

/// Microseconds since 1970 of a moment in ISO 8601.
#[inline]
pub(crate) fn timestamp(text: &[u8]) -> Option<i64> {
    if text.len() < 19 {
        return short_timestamp(text);
    }
    let (head, rest) = text.split_at(19);
    let day = days(head)?;
    let time = time_of_day(&head[11..])?;
    if !matches!(head[10], b'T' | b't' | b' ') {
        return None;
    }
    let seconds = day * 86_400 + time;
    let (micros, zone) = fraction(rest)?;
    Some((seconds - offset_seconds(zone)?) * MICROS + micros)
}

/// `YYYY-MM-DD` and `YYYY-MM-DD HH:MM`, with or without an offset.
#[cold]
fn short_timestamp(text: &[u8]) -> Option<i64> {
    let day = days(text.get(..10)?)?;
    if text.len() == 10 {
        return Some(day * 86_400 * MICROS);
    }
    if !matches!(text[10], b'T' | b't' | b' ') || *text.get(13)? != b':' {
        return None;
    }
    let (hour, minute) = (two(text.get(11..13)?)?, two(text.get(14..16)?)?);
    if hour > 23 || minute > 59 {
        return None;
    }
    let seconds = day * 86_400 + hour * 3_600 + minute * 60;
    Some((seconds - offset_seconds(&text[16..])?) * MICROS)
}

/// Days since 1970 of `YYYY-MM-DD`.
pub(crate) fn date(text: &[u8]) -> Option<i32> {
    if text.len() != 10 {
        return None;
    }
    days(text).map(|days| days as i32)
}

#[inline(always)]
fn two(text: &[u8]) -> Option<i64> {
    let (tens, ones) = (text[0].wrapping_sub(b'0'), text[1].wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| i64::from(tens) * 10 + i64::from(ones))
}

/// Days since 1970 of the `YYYY-MM-DD` that `text`, of 10 bytes or more, begins with.
#[inline(always)]
fn days(text: &[u8]) -> Option<i64> {
    let year = two(&text[0..2])? * 100 + two(&text[2..4])?;
    let (month, day) = (two(&text[5..7])?, two(&text[8..10])?);
    if text[4] != b'-' || text[7] != b'-' || !(1..=12).contains(&month) || day < 1 {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if day > longest {
        return None;
    }
    // Counted from March, so that the leap day is the year's last.
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Seconds since midnight of `HH:MM:SS`. A leap second counts as the first of the next minute.
#[inline(always)]
fn time_of_day(text: &[u8]) -> Option<i64> {
    let (hour, minute, second) = (two(&text[0..2])?, two(&text[3..5])?, two(&text[6..8])?);
    let fits = text[2] == b':' && text[5] == b':' && hour < 24 && minute < 60 && second <= 60;
    fits.then_some(hour * 3_600 + minute * 60 + second)
}

/// The microseconds of `.fff…` or `,fff…`, if there is such a thing, and what stands behind it.
#[inline(always)]
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let [b'.' | b',', digits @ ..] = text else { return Some((0, text)) };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let mut micros = 0;
    for digit in digits[..count].iter().chain([b'0'; 6].iter()).take(6) {
        micros = micros * 10 + i64::from(digit - b'0');
    }
    Some((micros, &digits[count..]))
}

#[inline(always)]
fn offset_seconds(zone: &[u8]) -> Option<i64> {
    if matches!(zone, [] | [b'Z' | b'z']) {
        return Some(0);
    }
    let (sign, rest) = match zone {
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        [b' ', rest @ ..] if matches!(rest, [b'+' | b'-', ..]) => return offset_seconds(rest),
        _ => return None,
    };
    let minutes = match rest.len() {
        2 => 0,
        4 => two(&rest[2..])?,
        5 if rest[2] == b':' => two(&rest[3..])?,
        _ => return None,
    };
    let hours = two(rest)?;
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

/// A layout that the spec gives as a `strftime` pattern.
#[derive(Clone, Debug)]
pub(crate) struct Layout(String);

impl Layout {
    /// The layout of this pattern.
    pub(crate) fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// Microseconds since 1970; without an offset in the text it is in UTC, without a time it is midnight.
    pub(crate) fn timestamp(&self, text: &str) -> Option<i64> {
        if let Ok(moment) = DateTime::parse_from_str(text, &self.0) {
            return Some(moment.timestamp_micros());
        }
        if let Ok(moment) = NaiveDateTime::parse_from_str(text, &self.0) {
            return Some(moment.and_utc().timestamp_micros());
        }
        let day = NaiveDate::parse_from_str(text, &self.0).ok()?;
        Some(day.and_time(NaiveTime::MIN).and_utc().timestamp_micros())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_common_spellings_of_one_moment_are_equal() {
        let moment = 1_359_609_300_123_456;
        for text in [
            "2013-01-31T05:15:00.123456Z",
            "2013-01-31t05:15:00.123456999z",
            "2013-01-31 05:15:00,123456",
            "2013-01-31T10:45:00.123456+05:30",
            "2013-01-31T10:45:00.123456+0530",
            "2013-01-31 05:15:00.123456 +00",
            "2013-01-31T00:15:00.123456-05",
        ] {
            assert_eq!(timestamp(text.as_bytes()), Some(moment), "{text}");
        }
        assert_eq!(timestamp(b"2013-01-31"), Some(1_359_590_400_000_000));
        assert_eq!(timestamp(b"2013-01-31 05:15Z"), Some(1_359_609_300_000_000));
        assert_eq!(timestamp(b"2016-12-31T23:59:60Z"), timestamp(b"2017-01-01T00:00:00Z"));
    }

    #[test]
    fn what_is_no_moment_is_none() {
        for text in [
            "",
            "2013",
            "2013-02-29",
            "2013-1-31",
            "2013-13-01",
            "2013-00-10",
            "2013-01-32",
            "2013-01-31X05:15:00",
            "2013-01-31T24:00:00",
            "2013-01-31T05:60:00",
            "2013-01-31T05:15:61",
            "2013-01-31T05:15:00.Z",
            "2013-01-31T05:15:00+5",
            "2013-01-31T05:15:00 ",
            "2013-01-31T05:15:0",
            "2013-01-31T05-15",
            "+013-01-31",
            "2013-01-31T05:15:00+99:00",
            "2013-01-31T05:15:00é",
        ] {
            assert_eq!(timestamp(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_first_and_the_last_year_are_read() {
        assert_eq!(date(b"0001-01-01"), Some(-719_162));
        assert_eq!(date(b"9999-12-31"), Some(2_932_896));
        assert_eq!(date(b"1970-01-01"), Some(0));
    }

    #[test]
    fn a_layout_reads_with_and_without_offset_and_time() {
        let log = Layout::new("%d/%b/%Y:%H:%M:%S %z");
        assert_eq!(log.timestamp("10/Oct/2000:13:55:36 -0700"), Some(971_211_336_000_000));
        assert_eq!(Layout::new("%d.%m.%Y %H:%M").timestamp("31.01.2013 05:15"), Some(1_359_609_300_000_000));
        assert_eq!(Layout::new("%d.%m.%Y").timestamp("31.01.2013"), Some(1_359_590_400_000_000));
        assert_eq!(Layout::new("%d.%m.%Y").timestamp("x"), None);
    }

    proptest! {
        #[test]
        fn every_moment_reads_as_chrono_reads_it(micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000) {
            let moment = DateTime::from_timestamp_micros(micros).unwrap();
            let text = moment.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
            prop_assert_eq!(timestamp(text.as_bytes()), Some(micros), "{}", text);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = (timestamp(&bytes), date(&bytes));
        }
    }
}
