//! Which expression has failed, and on which row.
//!
//! Expressions are evaluated a batch at a time, and their errors name neither. So the batch is evaluated again, by halves: that
//! costs nothing as long as nothing fails.

use std::{collections::BTreeSet, fmt::Write, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch},
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::{PhysicalExpr, utils::collect_columns};
use datafusion_physical_expr_common::physical_expr::fmt_sql;

/// So many letters of an expression, and of a value, are told.
const TOLD: usize = 120;
/// And so many of the reason, which may repeat a value whole.
const REASON: usize = 400;
/// And so many columns.
const COLUMNS: usize = 8;
/// What the optimizer's names of common expressions begin with.
const COMMON: &str = "__common_expr";

/// An expression that failed on a row: `` `10 / d AS ratio` where d = 0 ``.
#[derive(Debug, thiserror::Error)]
#[error("`{expression}`{place}")]
pub struct Failing {
    expression: String,
    place: String,
    #[source]
    source: Reason,
}

/// Why an expression failed, as the library says it, without what has no place in a line of a log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reason(String);

impl Reason {
    fn of(error: &DataFusionError) -> Self {
        let said = printable(&error.strip_backtrace());
        let letters = said.chars().count();
        if letters <= REASON {
            return Self(said);
        }
        // What is wrong with a value stands before it or behind it.
        let half = |letters: usize| said.char_indices().nth(letters).map_or(said.len(), |(end, _)| end);
        let (head, tail) = (half(REASON / 2), half(letters - REASON / 2));
        Self(format!("{}…{}", &said[..head], &said[tail..]))
    }
}

/// The column that an expression makes of a batch, which is called `name` if it goes on, or the row that it has failed on.
pub fn evaluated(
    expr: &Arc<dyn PhysicalExpr>,
    name: Option<&str>,
    batch: &RecordBatch,
) -> Result<ArrayRef, Box<Failing>> {
    array(expr, batch).map_err(|source| Box::new(locate(expr, name, batch, source)))
}

fn array(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    expr.evaluate(batch)?.into_array(batch.num_rows())
}

#[cold]
fn locate(expr: &Arc<dyn PhysicalExpr>, name: Option<&str>, batch: &RecordBatch, source: DataFusionError) -> Failing {
    let sql = fmt_sql(expr.as_ref()).to_string();
    let mut expression = shortened(&sql);
    // What is computed once for several expressions has a name that nobody has given it.
    if let Some(name) = name.filter(|name| *name != sql && !name.starts_with(COMMON)) {
        let _ = write!(expression, " AS {name}");
    }
    match first_failing(expr, batch) {
        Some((row, source)) => Failing { expression, place: values(expr, &row), source: Reason::of(&source) },
        None => Failing { expression, place: String::new(), source: Reason::of(&source) },
    }
}

/// The first row on which an expression fails by itself, and how. It need not fail again: it may draw a random number.
fn first_failing(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Option<(RecordBatch, DataFusionError)> {
    let (mut from, mut rows) = (0, batch.num_rows());
    while rows > 1 {
        let half = rows / 2;
        match array(expr, &batch.slice(from, half)) {
            Err(_) => rows = half,
            Ok(_) => (from, rows) = (from + half, rows - half),
        }
    }
    let row = batch.slice(from, rows);
    array(expr, &row).err().map(|error| (row, error))
}

/// What the columns that an expression reads have in a row.
fn values(expr: &Arc<dyn PhysicalExpr>, row: &RecordBatch) -> String {
    let options = FormatOptions::new().with_null("NULL").with_display_error(true);
    let read: BTreeSet<usize> = collect_columns(expr).iter().map(|column| column.index()).collect();
    let mut text = String::new();
    for (count, &index) in read.iter().enumerate() {
        let (Some(values), Some(field)) = (row.columns().get(index), row.schema_ref().fields().get(index)) else {
            continue;
        };
        if count == COLUMNS {
            text.push_str(", …");
            break;
        }
        let Ok(formatter) = ArrayFormatter::try_new(values.as_ref(), &options) else { continue };
        let value = shortened(&formatter.value(0).to_string());
        let _ = write!(text, "{} {} = {value}", if text.is_empty() { " where" } else { "," }, field.name());
    }
    text
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(TOLD) {
        Some((end, _)) => format!("{}…", printable(&text[..end])),
        None => printable(text),
    }
}

/// A text with its control characters as escapes.
fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_control() {
            true => printed.extend(letter.escape_default()),
            false => printed.push(letter),
        }
    }
    printed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::{
        array::{Int64Array, StringArray},
        datatypes::{DataType, Field, Schema},
    };
    use datafusion_expr::Operator;
    use datafusion_physical_expr::expressions::{BinaryExpr, cast, col, lit};

    use super::*;

    fn batch() -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![
            Field::new("d", DataType::Int64, true),
            Field::new("text", DataType::Utf8, true),
        ]));
        let divisors = Int64Array::from((0..100).map(|row| (row != 7).then_some(row - 50)).collect::<Vec<_>>());
        let texts: StringArray =
            (0..100).map(|row| if row == 83 { Some("x".repeat(500)) } else { Some(row.to_string()) }).collect();
        RecordBatch::try_new(schema, vec![Arc::new(divisors), Arc::new(texts)]).unwrap()
    }

    fn told(expr: &Arc<dyn PhysicalExpr>, name: Option<&str>) -> (String, String) {
        let failing = evaluated(expr, name, &batch()).err().unwrap();
        (failing.to_string(), failing.source.to_string())
    }

    #[test]
    fn the_expression_and_the_row_are_told() {
        let schema = batch().schema();
        let ratio: Arc<dyn PhysicalExpr> =
            Arc::new(BinaryExpr::new(lit(10_i64), Operator::Divide, col("d", &schema).unwrap()));
        let (said, why) = told(&ratio, Some("ratio"));
        assert_eq!(said, "`10 / d AS ratio` where d = 0");
        assert!(why.contains("Divide by zero"), "{why}");
        let number = cast(col("text", &schema).unwrap(), &schema, DataType::Int64).unwrap();
        let both: Arc<dyn PhysicalExpr> = Arc::new(BinaryExpr::new(number, Operator::Plus, col("d", &schema).unwrap()));
        let (said, why) = told(&both, None);
        assert!(said.contains(" where d = 33, text = xxx") && said.ends_with("x…"), "{said}");
        assert!(why.contains("Cannot cast string"), "{why}");
    }

    #[test]
    fn what_is_told_is_short_and_can_be_printed() {
        let text = format!("\u{1b}[31m{}\n\0", "x".repeat(100_000));
        let batch =
            RecordBatch::try_from_iter([("text", Arc::new(StringArray::from(vec![text])) as ArrayRef)]).unwrap();
        let schema = batch.schema();
        let number = cast(col("text", &schema).unwrap(), &schema, DataType::Int64).unwrap();
        let failing = evaluated(&number, Some("__common_expr_1"), &batch).err().unwrap();
        let (said, why) = (failing.to_string(), failing.source.to_string());
        assert!(said.starts_with("`CAST(text AS ") && said.contains(")` where text = \\u{1b}[31mxxx"), "{said}");
        assert!(
            why.contains("Cannot cast string '\\u{1b}[31mxxx") && why.contains("xxx\\n\\u{0}' to value of Int64"),
            "{why}"
        );
        assert!(said.len() < 300 && why.len() < 500, "{} {}", said.len(), why.len());
    }

    #[test]
    fn what_does_not_fail_again_is_told_without_a_row() {
        let expr = col("d", &batch().schema()).unwrap();
        let failing = locate(&expr, None, &batch(), DataFusionError::Execution("no luck".to_owned()));
        assert_eq!(failing.to_string(), "`d`");
    }
}
