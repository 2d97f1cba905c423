//! How many entries `range` and `generate_series` would make.

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Date32Type, Int64Type, IntervalMonthDayNanoType, TimeUnit, TimestampNanosecondType},
};

use super::ENTRY_BYTES;

/// A day in nanoseconds.
const DAY: i128 = 86_400_000_000_000;
/// The fewest days of a month.
const MONTH_DAYS: i128 = 28;

/// The entries of each row; of a step of months, the most that there can be.
///
/// # Errors
///
/// If a step goes forward and back at once: no end of such a range is known.
pub(super) fn counts(name: &str, args: &[ArrayRef], with_end: bool) -> Result<Vec<u64>, String> {
    let rows = args.first().map_or(0, |arg| arg.len());
    // Something of no type is NULL, and makes nothing.
    if args.iter().any(|arg| arg.data_type().is_null()) {
        return Ok(vec![0; rows]);
    }
    let Some(points) = points(args) else { return Ok(vec![0; rows]) };
    let [start, stop] = points;
    let steps = steps(name, args.get(2), rows)?;
    let rows = start.into_iter().zip(stop).zip(steps);
    Ok(rows
        .map(|((start, stop), step)| match (start, stop, step) {
            (Some(start), Some(stop), Some(step)) => entries(start, stop, step, with_end),
            _ => 0,
        })
        .collect())
}

/// Where the ranges begin and end: numbers, or nanoseconds.
fn points(args: &[ArrayRef]) -> Option<[Vec<Option<i128>>; 2]> {
    let moments = |arg: &ArrayRef| -> Option<Vec<Option<i128>>> {
        Some(match arg.data_type() {
            DataType::Date32 | DataType::Date64 => {
                let days = cast(arg, &DataType::Date32).ok()?;
                days.as_primitive::<Date32Type>().iter().map(|day| day.map(|day| i128::from(day) * DAY)).collect()
            }
            DataType::Timestamp(_, zone) => {
                let nanos = cast(arg, &DataType::Timestamp(TimeUnit::Nanosecond, zone.clone())).ok()?;
                nanos.as_primitive::<TimestampNanosecondType>().iter().map(|at| at.map(i128::from)).collect()
            }
            _ => {
                let numbers = cast(arg, &DataType::Int64).ok()?;
                numbers.as_primitive::<Int64Type>().iter().map(|number| number.map(i128::from)).collect()
            }
        })
    };
    match args {
        [stop] => Some([vec![Some(0); stop.len()], moments(stop)?]),
        [start, stop, ..] => Some([moments(start)?, moments(stop)?]),
        [] => None,
    }
}

/// The steps, each no longer than it ever is.
fn steps(name: &str, step: Option<&ArrayRef>, rows: usize) -> Result<Vec<Option<i128>>, String> {
    let Some(step) = step else { return Ok(vec![Some(1); rows]) };
    if let Some(intervals) = step.as_primitive_opt::<IntervalMonthDayNanoType>() {
        let steps = intervals.iter().map(|interval| {
            let Some(interval) = interval else { return Ok(None) };
            let (months, days, nanos) =
                (i128::from(interval.months), i128::from(interval.days), i128::from(interval.nanoseconds));
            let signs = [months, days, nanos].map(i128::signum);
            if signs.contains(&1) && signs.contains(&-1) {
                return Err(format!(
                    "`{name}` has a step of {months} months, {days} days and {nanos} nanoseconds, and a step goes one way"
                ));
            }
            Ok(Some((months * MONTH_DAYS + days) * DAY + nanos))
        });
        return steps.collect();
    }
    let Ok(numbers) = cast(step, &DataType::Int64) else { return Ok(vec![None; rows]) };
    Ok(numbers.as_primitive::<Int64Type>().iter().map(|number| number.map(i128::from)).collect())
}

fn entries(start: i128, stop: i128, step: i128, with_end: bool) -> u64 {
    let way = (stop - start) * step.signum();
    // A step of nothing is refused by the function itself.
    if step == 0 || way < 0 {
        return 0;
    }
    let step = step.abs();
    let count = if with_end { way / step + 1 } else { way / step + i128::from(way % step != 0) };
    u64::try_from(count).unwrap_or(u64::MAX / ENTRY_BYTES)
}
