//! The same in one batch: DataFusion over all rows at once, with windows written out by a naive walk.
//!
//! A windowed GROUP BY over a stream is a plain GROUP BY over a table in which each row stands once for each window that
//! it is in, with the window's bounds as two more columns to group by. [`in_windows`] makes that table.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array},
    compute::{cast, concat_batches, take_record_batch},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit},
    util::display::array_value_to_string,
};
use datafusion::{datasource::MemTable, prelude::SessionContext};

use crate::Table;

/// How rows fall into windows.
#[derive(Clone, Copy, Debug)]
pub enum Window {
    /// One after the other.
    Tumbling(Duration),
    /// One every `slide`.
    Hopping {
        /// Their length.
        size: Duration,
        /// How far apart they begin.
        slide: Duration,
    },
    /// Rows of a key that are less than this apart.
    Session(Duration),
    /// For each row, its key's rows in the time of this length that ends with it. The column `of_row` numbers the rows
    /// whose windows they are.
    Rolling(Duration),
}

/// Tables, and SQL over them.
#[derive(Default)]
pub struct Oracle {
    context: SessionContext,
}

impl Oracle {
    /// One without tables.
    pub fn new() -> Self {
        let mut context = SessionContext::new();
        datafusion_functions_json::register_all(&mut context).expect("the names are free");
        Self { context }
    }

    /// With a table.
    pub fn with(self, name: &str, rows: RecordBatch) -> Self {
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("the batch has the schema");
        self.context.register_table(name, Arc::new(table)).expect("the name is free");
        self
    }

    /// The answer to a query.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn batch(&self, query: &str) -> RecordBatch {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made");
        let batches = runtime.block_on(async {
            let frame = self.context.sql(query).await?;
            let schema: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
            Ok::<_, datafusion::error::DataFusionError>((schema, frame.collect().await?))
        });
        let (schema, batches) = batches.unwrap_or_else(|error| panic!("{query}\n{error}"));
        let schema = batches.first().map_or(schema, |batch| batch.schema());
        concat_batches(&schema, &batches).expect("the batches have the schema")
    }

    /// The answer to a query, as rows.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn table(&self, query: &str) -> Table {
        Table::of_batches(&[self.batch(query)])
    }
}

/// The rows of NDJSON, as these columns.
///
/// # Panics
///
/// If it is none, or a value is of another type.
pub fn json_rows(text: &str, schema: SchemaRef) -> RecordBatch {
    let reader =
        arrow::json::ReaderBuilder::new(schema.clone()).build(text.as_bytes()).expect("the schema can be read");
    let batches = reader.collect::<Result<Vec<_>, _>>().expect("the rows have the schema");
    concat_batches(&schema, &batches).expect("the batches have the schema")
}

/// A microsecond timestamp, as Millrace's `TIMESTAMP` is.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Each row once for each window that it is in, with `window_start` and `window_end`; for a rolling window with the number
/// of the row whose window it is as `of_row`, too.
///
/// # Panics
///
/// If `time` or one of `keys` is no column.
pub fn in_windows(rows: &RecordBatch, time: &str, keys: &[&str], window: Window) -> RecordBatch {
    let time = cast(rows.column_by_name(time).expect("the time is a column"), &timestamp()).expect("it is a timestamp");
    let time = cast(&time, &DataType::Int64).expect("a timestamp is a number");
    let time = time.as_primitive::<Int64Type>().values();
    let keys: Vec<&ArrayRef> = keys.iter().map(|key| rows.column_by_name(key).expect("the key is a column")).collect();

    let mut places = Vec::new();
    match window {
        Window::Tumbling(size) => aligned(time, size, size, &mut places),
        Window::Hopping { size, slide } => aligned(time, size, slide, &mut places),
        Window::Session(gap) => {
            for group in groups(rows.num_rows(), &keys, time) {
                let mut session = Vec::new();
                for row in group {
                    if session.last().is_some_and(|&last: &usize| time[row] - time[last] >= micros(gap)) {
                        end_session(&mut session, time, gap, &mut places);
                    }
                    session.push(row);
                }
                end_session(&mut session, time, gap, &mut places);
            }
        }
        Window::Rolling(range) => {
            for group in groups(rows.num_rows(), &keys, time) {
                for &of_row in &group {
                    let (start, end) = (time[of_row] - micros(range), time[of_row]);
                    let inside = group.iter().filter(|&&row| time[row] > start && time[row] <= end);
                    places.extend(inside.map(|&row| Place { row, start, end, of_row }));
                }
            }
        }
    }

    let taken = UInt32Array::from_iter_values(places.iter().map(|place| place.row as u32));
    let taken = take_record_batch(rows, &taken).expect("the rows are there");
    let bound = |of: fn(&Place) -> i64| -> ArrayRef {
        let values = Int64Array::from_iter_values(places.iter().map(of));
        cast(&values, &timestamp()).expect("a number is a timestamp")
    };
    let of_row: ArrayRef = Arc::new(Int64Array::from_iter_values(places.iter().map(|place| place.of_row as i64)));
    let added =
        [("window_start", bound(|place| place.start)), ("window_end", bound(|place| place.end)), ("of_row", of_row)];
    let mut fields: Vec<Field> = taken.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut columns = taken.columns().to_vec();
    for (name, column) in added {
        fields.push(Field::new(name, column.data_type().clone(), false));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("every column has a field")
}

/// Of each key the first row, then the next one that is not less than `within` later, and so on. Which of rows of one key and
/// time it is does not matter if they are the same.
///
/// # Panics
///
/// If `time` or one of `keys` is no column.
pub fn first_of_each(rows: &RecordBatch, time: &str, keys: &[&str], within: Duration) -> RecordBatch {
    let time = cast(rows.column_by_name(time).expect("the time is a column"), &timestamp()).expect("it is a timestamp");
    let time = cast(&time, &DataType::Int64).expect("a timestamp is a number");
    let time = time.as_primitive::<Int64Type>().values();
    let keys: Vec<&ArrayRef> = keys.iter().map(|key| rows.column_by_name(key).expect("the key is a column")).collect();
    let mut kept = Vec::new();
    for group in groups(rows.num_rows(), &keys, time) {
        let mut last = None;
        for row in group {
            if last.is_none_or(|last| time[row] - last >= micros(within)) {
                last = Some(time[row]);
                kept.push(row as u32);
            }
        }
    }
    take_record_batch(rows, &UInt32Array::from(kept)).expect("the rows are there")
}

/// A row in a window.
struct Place {
    row: usize,
    start: i64,
    end: i64,
    of_row: usize,
}

fn micros(of: Duration) -> i64 {
    of.as_micros() as i64
}

fn aligned(time: &[i64], size: Duration, slide: Duration, places: &mut Vec<Place>) {
    let (size, slide) = (micros(size), micros(slide));
    for (row, &at) in time.iter().enumerate() {
        let mut start = at.div_euclid(slide) * slide;
        while start + size > at {
            places.push(Place { row, start, end: start + size, of_row: row });
            start -= slide;
        }
    }
}

fn end_session(session: &mut Vec<usize>, time: &[i64], gap: Duration, places: &mut Vec<Place>) {
    if let (Some(&first), Some(&last)) = (session.first(), session.last()) {
        let (start, end) = (time[first], time[last] + micros(gap));
        places.extend(session.drain(..).map(|row| Place { row, start, end, of_row: row }));
    }
}

/// The rows of each key, in the order of their times.
fn groups(rows: usize, keys: &[&ArrayRef], time: &[i64]) -> Vec<Vec<usize>> {
    let mut groups: HashMap<Vec<Option<String>>, Vec<usize>> = HashMap::new();
    for row in 0..rows {
        let value = |key: &&ArrayRef| {
            key.is_valid(row).then(|| array_value_to_string(key.as_ref(), row).expect("a key can be shown"))
        };
        groups.entry(keys.iter().map(value).collect()).or_default().push(row);
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    for group in &mut groups {
        group.sort_by_key(|&row| time[row]);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> RecordBatch {
        let schema = Schema::new(vec![Field::new("ts", timestamp(), false), Field::new("k", DataType::Utf8, false)]);
        let text =
            ["00:00", "00:07", "00:09", "00:30"].map(|at| format!("{{\"ts\":\"2024-01-01T00:{at}Z\",\"k\":\"a\"}}"));
        json_rows(&text.join("\n"), Arc::new(schema))
    }

    fn counts(window: Window, group_by: &str) -> Vec<i64> {
        let oracle = Oracle::new().with("t", in_windows(&rows(), "ts", &["k"], window));
        let query = format!("SELECT count(*) AS n, {group_by} FROM t GROUP BY {group_by} ORDER BY {group_by}");
        oracle.table(&query).column("n").map(crate::Cell::int).collect()
    }

    #[test]
    fn each_row_is_in_every_window_that_spans_it() {
        let seconds = Duration::from_secs;
        assert_eq!(counts(Window::Tumbling(seconds(10)), "window_start"), [3, 1]);
        assert_eq!(counts(Window::Hopping { size: seconds(10), slide: seconds(5) }, "window_start"), [1, 3, 2, 1, 1]);
        assert_eq!(counts(Window::Session(seconds(8)), "window_start"), [3, 1]);
        assert_eq!(counts(Window::Session(seconds(7)), "window_start"), [1, 2, 1]);
        assert_eq!(counts(Window::Rolling(seconds(9)), "of_row"), [1, 2, 2, 1]);
    }

    #[test]
    fn the_first_rows_of_a_key_are_not_less_than_that_apart() {
        let kept = |seconds| first_of_each(&rows(), "ts", &["k"], Duration::from_secs(seconds)).num_rows();
        assert_eq!([2, 3, 7, 8, 9, 10, 30, 31].map(kept), [4, 3, 3, 3, 3, 2, 2, 1]);
    }
}
