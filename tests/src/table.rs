//! Rows of any origin in one form, and their comparison.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use arrow::{array::RecordBatch, compute::kernels::cast_utils::string_to_timestamp_nanos};
use serde_json::Value;

/// How far two floating-point results may lie apart, relative to the greater: sums are taken in another order.
const TOLERANCE: f64 = 1e-9;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// None.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A moment, in nanoseconds since 1970 in UTC. A date is its first moment.
    Time(i64),
    /// A text. Bytes are their hexadecimal digits.
    Text(String),
    /// A list.
    List(Vec<Cell>),
}

impl Cell {
    fn of_json(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(number) => match number.as_i64() {
                Some(number) => Self::Int(number),
                None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Self::of_text(text),
            Value::Array(values) => Self::List(values.into_iter().map(Self::of_json).collect()),
            Value::Object(_) => Self::Text(value.to_string()),
        }
    }

    /// A text, or the moment that it says.
    fn of_text(text: String) -> Self {
        let bytes = text.as_bytes();
        let like_a_date = bytes.len() >= 10 && bytes[4] == b'-' && bytes[7] == b'-' && bytes[0].is_ascii_digit();
        match if like_a_date { string_to_timestamp_nanos(&text).ok() } else { None } {
            Some(nanos) => Self::Time(nanos),
            None => Self::Text(text),
        }
    }

    /// A field of a CSV file, which says nothing of its type.
    pub fn of_field(field: &str) -> Self {
        match field {
            "" => Self::Null,
            "true" => Self::Bool(true),
            "false" => Self::Bool(false),
            _ => match (field.parse(), field.parse()) {
                (Ok(number), _) => Self::Int(number),
                (_, Ok(number)) => Self::Float(number),
                _ => Self::of_text(field.to_owned()),
            },
        }
    }

    /// The number, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Int(number) => Some(number as f64),
            Self::Float(number) => Some(number),
            _ => None,
        }
    }

    /// The whole number.
    ///
    /// # Panics
    ///
    /// If it is none.
    pub fn int(&self) -> i64 {
        match *self {
            Self::Int(number) => number,
            Self::Float(number) if number.fract() == 0.0 => number as i64,
            _ => panic!("{self} is not a whole number"),
        }
    }

    fn agrees_with(&self, other: &Self, tolerance: f64) -> bool {
        match (self, other) {
            (Self::List(left), Self::List(right)) => {
                left.len() == right.len() && left.iter().zip(right).all(|(l, r)| l.agrees_with(r, tolerance))
            }
            (Self::Float(_), _) | (_, Self::Float(_)) => match (self.as_f64(), other.as_f64()) {
                (Some(left), Some(right)) if left.is_nan() || right.is_nan() => left.is_nan() && right.is_nan(),
                (Some(left), Some(right)) => {
                    left == right || (left - right).abs() <= tolerance * left.abs().max(right.abs()).max(1e-6)
                }
                _ => false,
            },
            _ => self == other,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Time(value) => write!(f, "@{value}"),
            Self::Text(value) => write!(f, "{value:?}"),
            Self::List(values) => f.debug_list().entries(values.iter().map(ToString::to_string)).finish(),
        }
    }
}

/// A row: its values by column. A missing one is null.
pub type Row = BTreeMap<String, Cell>;

/// Rows, in no order.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The rows.
    pub rows: Vec<Row>,
}

impl Table {
    /// The rows of JSON objects, one a line.
    ///
    /// # Panics
    ///
    /// If a line is none.
    pub fn of_json_lines(text: &str) -> Self {
        let rows = text.lines().map(|line| match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => fields.into_iter().map(|(name, value)| (name, Cell::of_json(value))).collect(),
            other => panic!("not a JSON object: {line:?}: {other:?}"),
        });
        Self { rows: rows.collect() }
    }

    /// The rows of batches.
    ///
    /// # Panics
    ///
    /// If a column has a type that JSON cannot say.
    pub fn of_batches<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> Self {
        let mut writer = arrow::json::WriterBuilder::new()
            .with_explicit_nulls(true)
            .build::<_, arrow::json::writer::LineDelimited>(Vec::new());
        for batch in batches {
            writer.write(batch).expect("the columns can be written as JSON");
        }
        writer.finish().expect("a vector takes all that is written");
        Self::of_json_lines(&String::from_utf8(writer.into_inner()).expect("JSON is UTF-8"))
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The values of a column.
    ///
    /// # Panics
    ///
    /// If a row does not have it.
    pub fn column<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Cell> {
        self.rows.iter().map(move |row| row.get(name).unwrap_or_else(|| panic!("no column {name:?} in {row:?}")))
    }

    /// The sum of a column of whole numbers.
    pub fn sum(&self, name: &str) -> i64 {
        self.column(name).map(Cell::int).sum()
    }

    /// Without some columns.
    pub fn without(mut self, names: &[&str]) -> Self {
        for row in &mut self.rows {
            row.retain(|name, _| !names.contains(&name.as_str()));
        }
        self
    }

    /// Only these columns.
    pub fn only(mut self, names: &[&str]) -> Self {
        for row in &mut self.rows {
            row.retain(|name, _| names.contains(&name.as_str()));
        }
        self
    }

    /// Of a changelog, in its order, what is left in the end: the newest row of each key.
    pub fn newest_by(self, keys: &[&str]) -> Self {
        let mut newest = BTreeMap::new();
        for mut row in self.rows {
            let key = keys.iter().map(|&key| row[key].to_string()).collect::<Vec<_>>();
            match row.remove("_op") {
                Some(Cell::Text(op)) if op == "delete" => newest.remove(&key),
                Some(Cell::Text(op)) if op == "update_before" => None,
                _ => newest.insert(key, row),
            };
        }
        Self { rows: newest.into_values().collect() }
    }

    /// Checks that both have the same rows, each as often.
    ///
    /// # Panics
    ///
    /// With the first differences.
    #[track_caller]
    pub fn expect_same(&self, expected: &Self, what: &str) {
        self.expect_close(expected, TOLERANCE, what);
    }

    /// Checks that both have the same rows, with floating-point values that may lie apart by `tolerance`, relatively.
    ///
    /// # Panics
    ///
    /// With the first differences.
    #[track_caller]
    pub fn expect_close(&self, expected: &Self, tolerance: f64, what: &str) {
        let columns: BTreeSet<&String> = self.rows.iter().chain(&expected.rows).flat_map(|row| row.keys()).collect();
        let is_float = |name: &str| {
            self.rows.iter().chain(&expected.rows).any(|row| matches!(row.get(name), Some(Cell::Float(_))))
        };
        let (floats, exact): (Vec<&String>, Vec<&String>) = columns.into_iter().partition(|name| is_float(name));
        let found = sorted(&self.rows, &exact, &floats);
        let wanted = sorted(&expected.rows, &exact, &floats);

        let mut differences = Vec::new();
        let (mut left, mut right) = (found.iter().peekable(), wanted.iter().peekable());
        while differences.len() < 10 {
            let order = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(found), Some(wanted)) => found.0.cmp(&wanted.0),
            };
            match order {
                Ordering::Less => differences.extend(left.next().map(|row| format!("  not expected: {}", show(row.1)))),
                Ordering::Greater => {
                    differences.extend(right.next().map(|row| format!("  missing:      {}", show(row.1))))
                }
                Ordering::Equal => {
                    if let (Some(found), Some(wanted)) = (left.next(), right.next()) {
                        let agrees = |name: &&String| {
                            let cell = |row: &Row| row.get(*name).cloned().unwrap_or(Cell::Null);
                            cell(found.1).agrees_with(&cell(wanted.1), tolerance)
                        };
                        if !floats.iter().all(agrees) {
                            let (found, wanted) = (show(found.1), show(wanted.1));
                            differences.push(format!("  found:        {found}\n  expected:     {wanted}"));
                        }
                    }
                }
            }
        }
        assert!(
            differences.is_empty(),
            "{what}: {} rows found, {} expected; the first differences are\n{}",
            self.len(),
            expected.len(),
            differences.join("\n")
        );
    }
}

/// The rows in the order of their exact columns, then of the others.
fn sorted<'a>(rows: &'a [Row], exact: &[&String], floats: &[&String]) -> Vec<(Vec<String>, &'a Row)> {
    let text = |row: &Row, name: &String| row.get(name).unwrap_or(&Cell::Null).to_string();
    let number = |row: &Row, name: &String| row.get(name).and_then(Cell::as_f64).unwrap_or(f64::NEG_INFINITY);
    let mut keyed: Vec<(Vec<String>, &Row)> =
        rows.iter().map(|row| (exact.iter().map(|name| text(row, name)).collect(), row)).collect();
    keyed.sort_by(|(left_key, left), (right_key, right)| {
        let numbers = floats.iter().map(|name| number(left, name).total_cmp(&number(right, name)));
        left_key.cmp(right_key).then_with(|| numbers.fold(Ordering::Equal, Ordering::then))
    });
    keyed
}

fn show(row: &Row) -> String {
    row.iter().map(|(name, cell)| format!("{name}={cell}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_agree_in_any_order_and_whatever_the_last_digits_of_their_floats_are() {
        let left = Table::of_json_lines("{\"k\":1,\"x\":0.30000000000000004}\n{\"k\":2,\"x\":20}");
        let right = Table::of_json_lines("{\"k\":2,\"x\":20.0}\n{\"k\":1,\"x\":0.3}");
        left.expect_same(&right, "rows");
    }

    #[test]
    #[should_panic(expected = "not expected: k=1")]
    fn a_row_that_is_there_twice_is_told() {
        Table::of_json_lines("{\"k\":1}\n{\"k\":1}").expect_same(&Table::of_json_lines("{\"k\":1}"), "rows");
    }

    #[test]
    fn moments_are_the_same_however_they_are_written() {
        let left = Table::of_json_lines("{\"t\":\"2013-01-01T10:00:00Z\"}");
        let right = Table::of_json_lines("{\"t\":\"2013-01-01 10:00:00.000000\"}");
        left.expect_same(&right, "moments");
    }
}
