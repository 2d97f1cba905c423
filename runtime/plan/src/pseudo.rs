//! The names that SQL may use and that are no columns of a table: a row's event time and its window's bounds.
//!
//! Before the SQL is planned they are replaced by calls of the functions here, which the planner treats as opaque. When the
//! plan is split into stages, each call becomes a column, or [`TumblingBound`] over the event time. None of them
//! is ever evaluated under its own name.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray, TimestampMillisecondArray},
    datatypes::{DataType, TimeUnit, TimestampMillisecondType},
};
use datafusion_common::{Result, exec_err, internal_err};
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility, function::AccumulatorArgs,
};

/// What SQL calls the bounds and the number of a window's result.
pub(crate) const WINDOW_COLUMNS: [&str; 3] = ["window_start", "window_end", "window_pane"];

/// The event time of the row.
pub(crate) const EVENT_TIME: &str = "__event_time";

/// The prefix of the aggregates that stand for [`WINDOW_COLUMNS`].
const OF_WINDOW: &str = "__";

/// The prefix of the scalars that stand for [`WINDOW_COLUMNS`] where rows are not aggregated.
const OF_ROW: &str = "__row_";

/// Event time as batches carry it.
pub(crate) fn event_time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// `TIMESTAMP` as users see it.
pub(crate) fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The type of one of [`WINDOW_COLUMNS`].
pub(crate) fn window_column_type(number: usize) -> DataType {
    if number == 2 { DataType::Int32 } else { timestamp_type() }
}

/// Which of [`WINDOW_COLUMNS`] an aggregate of this name stands for.
pub(crate) fn window_column_of_aggregate(function: &str) -> Option<usize> {
    let name = function.strip_prefix(OF_WINDOW)?;
    WINDOW_COLUMNS.iter().position(|known| *known == name)
}

/// Which of [`WINDOW_COLUMNS`] a scalar function of this name stands for.
pub(crate) fn window_column_of_scalar(function: &str) -> Option<usize> {
    let name = function.strip_prefix(OF_ROW)?;
    WINDOW_COLUMNS.iter().position(|known| *known == name)
}

/// The name of the function that stands for one of [`WINDOW_COLUMNS`].
pub(crate) fn window_function(number: usize, aggregated: bool) -> String {
    let prefix = if aggregated { OF_WINDOW } else { OF_ROW };
    format!("{prefix}{}", WINDOW_COLUMNS[number])
}

/// Whether a function is one of those here.
pub(crate) fn is_pseudo(function: &str) -> bool {
    function == EVENT_TIME
        || window_column_of_aggregate(function).is_some()
        || window_column_of_scalar(function).is_some()
}

/// The scalar functions of this module.
pub(crate) fn scalars() -> Vec<Arc<ScalarUDF>> {
    let of_row = (0..WINDOW_COLUMNS.len()).map(|n| (window_function(n, false), window_column_type(n)));
    std::iter::once((EVENT_TIME.to_owned(), event_time_type()))
        .chain(of_row)
        .map(|(name, of)| {
            // Volatile, so that no pass takes it for a constant.
            let signature = Signature::nullary(Volatility::Volatile);
            Arc::new(ScalarUDF::from(RowMark { name, of, signature }))
        })
        .collect()
}

/// The aggregates of this module.
pub(crate) fn aggregates() -> Vec<Arc<AggregateUDF>> {
    (0..WINDOW_COLUMNS.len())
        .map(|number| {
            Arc::new(AggregateUDF::from(WindowMark {
                name: window_function(number, true),
                of: window_column_type(number),
                signature: Signature::nullary(Volatility::Immutable),
            }))
        })
        .collect()
}

/// Stands for a column of the row.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RowMark {
    name: String,
    of: DataType,
    signature: Signature,
}

impl ScalarUDFImpl for RowMark {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _args: &[DataType]) -> Result<DataType> {
        Ok(self.of.clone())
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("{} has not been replaced by a column", self.name)
    }
}

/// Stands for a column of the window.
#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowMark {
    name: String,
    of: DataType,
    signature: Signature,
}

impl AggregateUDFImpl for WindowMark {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _args: &[DataType]) -> Result<DataType> {
        Ok(self.of.clone())
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        internal_err!("{} has not been replaced by a column", self.name)
    }
}

/// Which moment of a tumbling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bound {
    Start,
    End,
    /// The last millisecond before the end: the event time of a window's results.
    LastMs,
}

/// A moment of the tumbling window that an event time falls into.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct TumblingBound {
    size_ms: i64,
    offset_ms: i64,
    bound: Bound,
    signature: Signature,
}

impl TumblingBound {
    pub fn new(size_ms: i64, offset_ms: i64, bound: Bound) -> Self {
        let signature = Signature::exact(vec![event_time_type()], Volatility::Immutable);
        Self { size_ms, offset_ms, bound, signature }
    }

    fn of(&self, time_ms: i64) -> i64 {
        let start = time_ms.saturating_sub(time_ms.wrapping_sub(self.offset_ms).rem_euclid(self.size_ms));
        match self.bound {
            Bound::Start => start,
            Bound::End => start.saturating_add(self.size_ms),
            Bound::LastMs => start.saturating_add(self.size_ms - 1),
        }
    }
}

impl ScalarUDFImpl for TumblingBound {
    fn name(&self) -> &str {
        match self.bound {
            Bound::Start => "window_start",
            Bound::End => "window_end",
            Bound::LastMs => "window_last_ms",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _args: &[DataType]) -> Result<DataType> {
        Ok(match self.bound {
            Bound::LastMs => event_time_type(),
            Bound::Start | Bound::End => timestamp_type(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [times] = args.args.as_slice() else {
            return exec_err!("{} takes one argument", self.name());
        };
        let times = times.to_array(args.number_rows)?;
        let Some(times) = times.as_primitive_opt::<TimestampMillisecondType>() else {
            return exec_err!("{} takes an event time, not {}", self.name(), times.data_type());
        };
        let bounds: ArrayRef = match self.bound {
            Bound::LastMs => Arc::new(times.unary::<_, TimestampMillisecondType>(|t| self.of(t)).with_timezone("UTC"))
                as Arc<TimestampMillisecondArray>,
            Bound::Start | Bound::End => {
                let micros: TimestampMicrosecondArray = times.unary(|t| self.of(t).saturating_mul(1_000));
                Arc::new(micros.with_timezone("UTC"))
            }
        };
        Ok(ColumnarValue::Array(bounds))
    }
}

/// A text in which the functions here have the names that users write, and counting rows is `count(*)`.
pub(crate) fn as_users_write(text: &str) -> String {
    let marks = WINDOW_COLUMNS.iter().enumerate().flat_map(|(number, name)| {
        [false, true].map(|aggregated| (format!("{}()", window_function(number, aggregated)), *name))
    });
    let text = plain_literals(text).replace("__event_time()", "_event_time").replace("count(1)", "count(*)");
    marks.fold(text, |text, (mark, name)| text.replace(&mark, name))
}

/// `Int64(100)` as `100`, `Utf8View("x")` as `'x'`.
fn plain_literals(text: &str) -> String {
    const NUMBERS: [&str; 6] = ["Int64(", "UInt64(", "Int32(", "Float64(", "Float32(", "Boolean("];
    const TEXTS: [&str; 3] = ["Utf8View(\"", "LargeUtf8(\"", "Utf8(\""];
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    'next: while let Some(first) = rest.chars().next() {
        let at_word = !plain.chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_');
        if at_word {
            for (prefixes, close, quote) in [(&NUMBERS[..], ")", ""), (&TEXTS[..], "\")", "'")] {
                let found = prefixes.iter().find_map(|prefix| rest.strip_prefix(prefix)?.split_once(close));
                if let Some((value, after)) = found
                    && !value.contains('(')
                {
                    plain.extend([quote, value, quote]);
                    rest = after;
                    continue 'next;
                }
            }
        }
        plain.push(first);
        rest = &rest[first.len_utf8()..];
    }
    plain
}
