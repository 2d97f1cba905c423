//! Rows as an aligned table that goes on for as long as rows come.
//!
//! Columns are as wide as what they have shown so far, so later batches stand under earlier ones; the header comes again
//! when a column has grown, and after every [`ROWS_A_HEADER`] rows. When the table is wider than the terminal, its widest
//! columns are narrowed and long values end with `…`; columns for which no room is left at all are left out and counted.
//! Numbers stand to the right. What a value could do to a terminal is shown, not done.

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Schema, UInt8Type},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};

use crate::file_sink::operation_name;

/// After how many rows the header is printed again.
const ROWS_A_HEADER: usize = 40;

/// The least width of a column that is narrowed.
const LEAST_WIDTH: usize = 6;

/// Between two columns.
const GAP: &str = "  ";

pub(super) struct Table {
    columns: Vec<Heading>,
    changelog: bool,
    width: usize,
    /// Rows since the header; `None`: none was printed yet.
    rows: Option<usize>,
}

struct Heading {
    name: String,
    /// The widest that was shown, in characters.
    natural: usize,
    /// As wide as it is printed; 0: left out.
    shown: usize,
    right: bool,
}

impl Table {
    pub(super) fn new(schema: &Schema, changelog: bool, width: usize) -> Self {
        let heading = |name: &str, right| {
            let name = tame(name);
            Heading { natural: name.chars().count(), name, shown: 0, right }
        };
        let operation = changelog.then(|| heading("_op", false));
        let columns = schema.fields().iter().map(|field| {
            let kind = field.data_type();
            heading(field.name(), kind.is_numeric() || matches!(kind, DataType::Decimal128(..)))
        });
        Self { columns: operation.into_iter().chain(columns).collect(), changelog, width, rows: None }
    }

    /// Appends the batch's rows, and the header where it is due.
    pub(super) fn print(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let cells = self.cells(batch)?;
        let mut grown = self.rows.is_none();
        for (column, values) in self.columns.iter_mut().zip(&cells) {
            let widest = values.iter().map(|value| value.chars().count()).max().unwrap_or(0);
            if widest > column.natural {
                column.natural = widest;
                grown = true;
            }
        }
        if grown && self.fit() {
            self.rows = None;
        }
        for row in 0..batch.num_rows() {
            if self.rows.is_none_or(|rows| rows >= ROWS_A_HEADER) {
                self.header(out);
                self.rows = Some(0);
            }
            self.line(cells.iter().map(|values| values[row].as_str()), out);
            self.rows = self.rows.map(|rows| rows + 1);
        }
        Ok(())
    }

    fn cells(&self, batch: &RecordBatch) -> Result<Vec<Vec<String>>, ArrowError> {
        let options = FormatOptions::new()
            .with_null("")
            .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
            .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f"));
        let mut cells = Vec::with_capacity(batch.num_columns());
        for (number, column) in batch.columns().iter().enumerate() {
            if number == 0 && self.changelog {
                let ops = column.as_primitive::<UInt8Type>().values();
                cells.push(ops.iter().map(|&op| operation_name(op).to_owned()).collect());
                continue;
            }
            let formatter = ArrayFormatter::try_new(column, &options)?;
            let values = (0..column.len()).map(|row| Ok(tame(&formatter.value(row).try_to_string()?)));
            cells.push(values.collect::<Result<Vec<String>, ArrowError>>()?);
        }
        Ok(cells)
    }

    /// Shares the width out; says whether a column is shown otherwise than before.
    fn fit(&mut self) -> bool {
        let before: Vec<usize> = self.columns.iter().map(|column| column.shown).collect();
        // From the left, as many columns as have room at their least width.
        let mut room = self.width;
        let mut fitting = 0usize;
        for column in &self.columns {
            let least = column.natural.min(LEAST_WIDTH) + if fitting > 0 { GAP.len() } else { 0 };
            if least > room && fitting > 0 {
                break;
            }
            room = room.saturating_sub(least);
            fitting += 1;
        }
        let gaps = GAP.len() * fitting.saturating_sub(1);
        let budget = self.width.saturating_sub(gaps);
        let (shown, hidden) = self.columns.split_at_mut(fitting);
        hidden.iter_mut().for_each(|column| column.shown = 0);
        // The greatest cap on widths at which all that is shown fits.
        let used = |cap: usize| shown.iter().map(|column| column.natural.min(cap)).sum::<usize>();
        let widest = shown.iter().map(|column| column.natural).max().unwrap_or(0);
        let cap = (LEAST_WIDTH..=widest.max(LEAST_WIDTH)).rev().find(|&cap| used(cap) <= budget).unwrap_or(LEAST_WIDTH);
        shown.iter_mut().for_each(|column| column.shown = column.natural.min(cap));
        before.iter().zip(&self.columns).any(|(&before, column)| before != column.shown)
    }

    fn header(&self, out: &mut Vec<u8>) {
        if self.rows.is_some() {
            out.push(b'\n');
        }
        self.line(self.columns.iter().map(|column| column.name.as_str()), out);
        let hidden = self.columns.iter().filter(|column| column.shown == 0).count();
        let rule: Vec<String> = self.columns.iter().map(|column| "─".repeat(column.shown)).collect();
        self.line(rule.iter().map(String::as_str), out);
        if hidden > 0 {
            out.extend_from_slice(format!("({hidden} more columns have no room)\n").as_bytes());
        }
    }

    fn line<'a>(&self, values: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) {
        let start = out.len();
        for (column, value) in self.columns.iter().zip(values).filter(|(column, _)| column.shown > 0) {
            if out.len() > start {
                out.extend_from_slice(GAP.as_bytes());
            }
            let length = value.chars().count();
            let padding = column.shown.saturating_sub(length);
            if column.right {
                out.extend(std::iter::repeat_n(b' ', padding));
            }
            if length <= column.shown {
                out.extend_from_slice(value.as_bytes());
            } else {
                out.extend(value.chars().take(column.shown - 1).collect::<String>().into_bytes());
                out.extend_from_slice("…".as_bytes());
            }
            if !column.right {
                out.extend(std::iter::repeat_n(b' ', padding));
            }
        }
        while out.len() > start && out.last() == Some(&b' ') {
            out.pop();
        }
        out.push(b'\n');
    }
}

/// The text with control characters shown as escapes: a value must not move the cursor, ring or change colours.
fn tame(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray, UInt8Array};

    use super::*;

    fn batch(rows: &[(&str, i64)]) -> RecordBatch {
        let names = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))) as ArrayRef;
        let counts = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
        RecordBatch::try_from_iter([("name", names), ("n", counts)]).unwrap()
    }

    fn print(table: &mut Table, batch: &RecordBatch) -> String {
        let mut out = Vec::new();
        table.print(batch, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn later_batches_stand_under_the_header_until_a_column_grows() {
        let first = batch(&[("alpha", 1), ("b", 200)]);
        let mut table = Table::new(&first.schema(), false, 80);
        assert_eq!(print(&mut table, &first), "name     n\n─────  ───\nalpha    1\nb      200\n");
        assert_eq!(print(&mut table, &batch(&[("c", 3)])), "c        3\n");
        assert_eq!(print(&mut table, &batch(&[("longer", 4)])), "name      n\n──────  ───\nlonger    4\n");
    }

    #[test]
    fn the_header_comes_again_after_so_many_rows() {
        let rows = vec![("x", 1); ROWS_A_HEADER + 1];
        let mut table = Table::new(&batch(&rows).schema(), false, 80);
        assert_eq!(print(&mut table, &batch(&rows)).matches("name").count(), 2);
    }

    #[test]
    fn a_narrow_terminal_shortens_values_and_then_leaves_columns_out() {
        let rows = batch(&[("a name that is far too long", 1_234_567)]);
        let mut table = Table::new(&rows.schema(), false, 18);
        let text = print(&mut table, &rows);
        assert_eq!(text.lines().last().unwrap(), "a name t…  1234567");
        let mut table = Table::new(&rows.schema(), false, 9);
        let text = print(&mut table, &rows);
        assert!(text.contains("(1 more columns have no room)"), "{text}");
        assert!(text.lines().all(|line| line.starts_with('(') || line.chars().count() <= 9), "{text}");
    }

    #[test]
    fn values_cannot_control_the_terminal() {
        let rows = batch(&[("a\u{1b}[31m\n", 1)]);
        let text = print(&mut Table::new(&rows.schema(), false, 80), &rows);
        assert!(text.contains("a\\u{1b}[31m\\n"), "{text}");
    }

    #[test]
    fn a_changelog_shows_its_operations() {
        let operations = Arc::new(UInt8Array::from(vec![1, 2])) as ArrayRef;
        let counts = Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef;
        let rows = RecordBatch::try_from_iter([("_op", operations), ("n", counts)]).unwrap();
        let schema = Schema::new(rows.schema().fields()[1..].to_vec());
        let text = print(&mut Table::new(&schema, true, 80), &rows);
        assert_eq!(text, "_op            n\n─────────────  ─\nupdate_before  7\nupdate_after   8\n");
    }
}
