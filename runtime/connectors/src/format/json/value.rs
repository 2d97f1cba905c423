//! A value, parsed to its column's type.

use millrace_crds::TimestampUnit;

use super::{
    Failed, JsonDecoder,
    fault::Fault,
    number,
    scan::{skip_blanks, string_end},
    skip, string,
};
use crate::format::{
    chunk::Padded,
    columns::{Column, Values, Views},
    decimal::{Decimal, Excess},
    temporal,
};

/// What stood there: a value that was written, or null.
enum Found {
    Value(usize),
    Null(usize),
}

use Found::{Null, Value};

/// A fault; its place is the value's beginning unless one is given.
struct Wrong {
    fault: Fault,
    at: Option<usize>,
}

impl From<Fault> for Wrong {
    #[inline(always)]
    fn from(fault: Fault) -> Self {
        Self { fault, at: None }
    }
}

impl From<skip::Misplaced> for Wrong {
    #[inline(always)]
    fn from((fault, at): skip::Misplaced) -> Self {
        Self { fault, at: Some(at) }
    }
}

impl JsonDecoder {
    /// Writes the value that begins at `pos` to a column; gives the place behind it.
    #[inline(always)]
    pub(super) fn column_value(
        &mut self,
        text: Padded<'_>,
        pos: usize,
        column: usize,
        row: usize,
    ) -> Result<usize, Failed> {
        let mask = 1 << (column % 64);
        match write(&mut self.columns[column], text, pos, row, self.unit) {
            Ok(Value(end)) => {
                self.seen[column / 64] |= mask;
                Ok(end)
            }
            Ok(Null(end)) => {
                self.seen[column / 64] &= !mask;
                Ok(end)
            }
            Err(wrong) => self.bad_value(wrong, pos, column),
        }
    }

    #[cold]
    fn bad_value(&mut self, wrong: Wrong, pos: usize, column: usize) -> Result<usize, Failed> {
        self.fault = Some((wrong.fault, wrong.at.unwrap_or(pos), Some(column)));
        Err(Failed)
    }
}

#[inline(always)]
fn write(column: &mut Column, text: Padded<'_>, pos: usize, row: usize, unit: TimestampUnit) -> Result<Found, Wrong> {
    match &mut column.values {
        Values::BigInt(values) => match number::integer(text, pos) {
            Ok((value, end)) => {
                values[row] = value;
                Ok(Value(end))
            }
            Err(fault) => null_or(text, pos, fault),
        },
        Values::Double(values) => match number::double(text, pos) {
            Ok((value, end)) => {
                values[row] = value;
                Ok(Value(end))
            }
            Err(fault) => null_or(text, pos, fault),
        },
        Values::Timestamp(values) => match timestamp(text, pos, unit) {
            Ok((value, end)) => {
                values[row] = value;
                Ok(Value(end))
            }
            Err(wrong) if wrong.fault == Fault::Timestamp => null_or(text, pos, Fault::Timestamp),
            Err(wrong) => Err(wrong),
        },
        Values::Int(values) => match number::integer(text, pos) {
            Ok((value, end)) => {
                values[row] = i32::try_from(value).map_err(|_| Fault::Range)?;
                Ok(Value(end))
            }
            Err(fault) => null_or(text, pos, fault),
        },
        Values::Varchar(strings) => {
            if text.at(pos) == b'"' {
                let end = string_end(text, pos + 1);
                if text.at(end) == b'"' {
                    strings.set_from_chunk(row, text, pos + 1, end);
                    return Ok(Value(end + 1));
                }
            }
            uncommon_string(strings, text, pos, row)
        }
        _ => write_uncommon(column, text, pos, row, unit),
    }
}

#[inline(never)]
fn write_uncommon(
    column: &mut Column,
    text: Padded<'_>,
    pos: usize,
    row: usize,
    unit: TimestampUnit,
) -> Result<Found, Wrong> {
    match &mut column.values {
        Values::Boolean(bits) => match skip::word(text, pos) {
            Ok(end) if text.at(pos) != b'n' => {
                bits.set(row, text.at(pos) == b't');
                Ok(Value(end))
            }
            _ => null_or(text, pos, Fault::Boolean),
        },
        Values::Float(values) => match number::float(text, pos) {
            Ok((value, end)) => {
                values[row] = value;
                Ok(Value(end))
            }
            Err(fault) => null_or(text, pos, fault),
        },
        Values::Date(values) => {
            if text.at(pos) != b'"' {
                return null_or(text, pos, Fault::Date);
            }
            let (end, day) = with_string(text, pos, temporal::date)?;
            values[row] = day.ok_or(Fault::DateForm)?;
            Ok(Value(end))
        }
        Values::Decimal { values, precision, scale } => {
            let (unscaled, end) = if number::is_number(text, pos) {
                number::units(text, pos, u32::from(*scale), Excess::Round)?
            } else if text.at(pos) == b'"' {
                let (end, number) = with_string(text, pos, Decimal::parse)?;
                let number = number.ok_or(Fault::Decimal)?;
                (number.units(u32::from(*scale), Excess::Round).ok_or(Fault::Range)?, end)
            } else {
                return null_or(text, pos, Fault::Decimal);
            };
            if unscaled.unsigned_abs() >= 10_u128.pow(u32::from(*precision)) {
                return Err(Fault::Range.into());
            }
            values[row] = unscaled;
            Ok(Value(end))
        }
        Values::Json(strings) => {
            let end = skip::value(text, pos)?;
            if text.at(pos) == b'n' {
                return Ok(Null(end));
            }
            strings.set_from_chunk(row, text, pos, end);
            Ok(Value(end))
        }
        Values::List(_) => list(column, text, pos, row, unit),
        _ => write(column, text, pos, row, unit),
    }
}

/// The end of the `null` at `pos`, or that something else than the column's type stands there.
#[cold]
#[inline(never)]
fn null_or(text: Padded<'_>, pos: usize, fault: Fault) -> Result<Found, Wrong> {
    if matches!(fault, Fault::Range | Fault::Number) {
        return Err(fault.into());
    }
    match skip::word(text, pos) {
        Ok(end) if text.at(pos) == b'n' => Ok(Null(end)),
        _ if matches!(text.at(pos), b'\n' | 0) => Err(Fault::Unfinished.into()),
        _ => Err(fault.into()),
    }
}

/// A string with escapes, or a value that is no string.
#[cold]
#[inline(never)]
fn uncommon_string(strings: &mut Views, text: Padded<'_>, pos: usize, row: usize) -> Result<Found, Wrong> {
    if text.at(pos) == b'"' {
        let mut plain = Vec::new();
        let end = string::unescape(text, pos + 1, &mut plain)?;
        strings.set_copy(row, &plain);
        return Ok(Value(end));
    }
    let end = skip::value(text, pos)?;
    if text.at(pos) == b'n' {
        return Ok(Null(end));
    }
    strings.set_from_chunk(row, text, pos, end);
    Ok(Value(end))
}

/// Reads what the string at `pos` says; gives the place behind it.
#[inline(always)]
fn with_string<T>(text: Padded<'_>, pos: usize, read: impl FnOnce(&[u8]) -> T) -> Result<(usize, T), Wrong> {
    let end = string_end(text, pos + 1);
    if text.at(end) == b'"' {
        return Ok((end + 1, read(text.slice(pos + 1, end))));
    }
    let mut plain = Vec::new();
    let end = string::unescape(text, pos + 1, &mut plain)?;
    Ok((end, read(&plain)))
}

#[inline(always)]
fn timestamp(text: Padded<'_>, pos: usize, unit: TimestampUnit) -> Result<(i64, usize), Wrong> {
    if text.at(pos) == b'"' {
        let (end, moment) = with_string(text, pos, temporal::timestamp)?;
        return Ok((moment.ok_or(Fault::TimestampForm)?, end));
    }
    if !number::is_number(text, pos) {
        return Err(Fault::Timestamp.into());
    }
    let (number, end) = match number::integer(text, pos) {
        Ok(whole) => whole,
        Err(Fault::Integer | Fault::Range) => return fractional_timestamp(text, pos, unit),
        Err(fault) => return Err(fault.into()),
    };
    let micros = match unit {
        TimestampUnit::Seconds => number.checked_mul(1_000_000),
        TimestampUnit::Milliseconds => number.checked_mul(1_000),
        TimestampUnit::Microseconds => Some(number),
        TimestampUnit::Nanoseconds => Some(number.div_euclid(1_000)),
    };
    Ok((micros.ok_or(Fault::Range)?, end))
}

#[cold]
fn fractional_timestamp(text: Padded<'_>, pos: usize, unit: TimestampUnit) -> Result<(i64, usize), Wrong> {
    let (scale, divisor) = match unit {
        TimestampUnit::Seconds => (6, 1),
        TimestampUnit::Milliseconds => (3, 1),
        TimestampUnit::Microseconds => (0, 1),
        TimestampUnit::Nanoseconds => (0, 1_000),
    };
    let (units, end) = number::units(text, pos, scale, Excess::Floor)?;
    let micros = i64::try_from(units.div_euclid(divisor)).map_err(|_| Fault::Range)?;
    Ok((micros, end))
}

fn list(column: &mut Column, text: Padded<'_>, pos: usize, row: usize, unit: TimestampUnit) -> Result<Found, Wrong> {
    let Values::List(list) = &mut column.values else { return Err(Fault::List.into()) };
    if text.at(pos) != b'[' {
        return null_or(text, pos, Fault::List);
    }
    let mut item = list.first(row);
    let mut pos = skip_blanks(text, pos + 1);
    if text.at(pos) == b']' {
        list.close(row, item);
        return Ok(Value(pos + 1));
    }
    loop {
        list.begin_item(item);
        pos = match write_uncommon(&mut list.items, text, pos, item, unit) {
            Ok(Value(end)) => end,
            Ok(Null(end)) => {
                list.null_item(item);
                end
            }
            Err(wrong) => return Err(Wrong { fault: wrong.fault, at: Some(wrong.at.unwrap_or(pos)) }),
        };
        item += 1;
        pos = skip_blanks(text, pos);
        match text.at(pos) {
            b',' => pos = skip_blanks(text, pos + 1),
            b']' => {
                list.close(row, item);
                return Ok(Value(pos + 1));
            }
            b'\n' | 0 => return Err((Fault::Unfinished, pos).into()),
            _ => return Err((Fault::CommaOrBracket, pos).into()),
        }
    }
}
