//! Whether the pipeline's columns fit a table's, and what the table must be like for us to write to it.

use std::collections::{BTreeSet, HashMap};

use arrow::datatypes::Schema;
use delta_kernel::{
    engine::arrow_conversion::TryIntoKernel,
    schema::{DataType, StructField, StructType},
};

use crate::{sink::SinkError, staging::refused};

/// Features of a table that change nothing for somebody who only adds files.
const HARMLESS_FEATURES: [&str; 9] = [
    "appendOnly",
    "changeDataFeed",
    "checkConstraints",
    "columnMapping",
    "deletionVectors",
    "generatedColumns",
    "invariants",
    "timestampNtz",
    "v2Checkpoint",
];

/// The keys in a column's metadata by which a table asks its writers for more than we do.
const DEMANDING_COLUMNS: [&str; 3] = ["delta.invariants", "delta.generationExpression", "delta.identity.start"];

/// What the pipeline's columns and the table's have to do with each other.
#[derive(Debug, PartialEq)]
pub(super) enum Fit {
    /// Rows can be added as they are.
    Fits,
    /// These columns have to be added to the table first.
    Lacks(Vec<StructField>),
}

/// The columns as a Delta table has them.
pub(super) fn delta_schema(stored: &Schema) -> Result<StructType, SinkError> {
    stored
        .try_into_kernel()
        .map_err(|source| refused("the columns cannot be those of a Delta table".to_owned(), source))
}

/// Compares the pipeline's columns with the table's.
///
/// # Errors
/// What keeps the rows from fitting, column by column.
pub(super) fn fit(place: &str, ours: &StructType, table: &StructType) -> Result<Fit, SinkError> {
    let mut wrong = Vec::new();
    let mut lacks = Vec::new();
    for field in ours.fields() {
        match table.field(field.name()) {
            Some(theirs) if theirs.data_type() == field.data_type() => {}
            Some(theirs) => wrong.push(format!(
                "`{}` is {} in the pipeline and {} in the table",
                field.name(),
                name(field.data_type()),
                name(theirs.data_type())
            )),
            None => match table.fields().find(|theirs| theirs.name().eq_ignore_ascii_case(field.name())) {
                Some(theirs) => wrong.push(format!("`{}` is called `{}` in the table", field.name(), theirs.name())),
                None => lacks.push(field.clone()),
            },
        }
    }
    for field in table.fields().filter(|field| !field.is_nullable() && ours.field(field.name()).is_none()) {
        wrong.push(format!("`{}`, which the pipeline does not have, may not be null in the table", field.name()));
    }
    if wrong.is_empty() {
        return Ok(if lacks.is_empty() { Fit::Fits } else { Fit::Lacks(lacks) });
    }
    Err(SinkError::Refused {
        what: format!("the rows do not fit the table {place}: {}", wrong.join("; ")),
        source: None,
    })
}

/// The columns that may not be null in the table.
pub(super) fn required(table: &StructType) -> BTreeSet<String> {
    table.fields().filter(|field| !field.is_nullable()).map(|field| field.name().clone()).collect()
}

/// The refusal of columns that the table lacks.
pub(super) fn refuse_new_columns(place: &str, lacks: &[StructField]) -> SinkError {
    let columns: Vec<String> =
        lacks.iter().map(|field| format!("`{}` ({})", field.name(), name(field.data_type()))).collect();
    SinkError::Refused {
        what: format!(
            "the table {place} lacks {}; add them to the table, or say `schemaEvolution: AddColumns` in the Sink",
            columns.join(", ")
        ),
        source: None,
    }
}

/// Refuses tables that ask for more of a writer than to add files.
pub(super) fn check_demands(
    place: &str,
    features: &[String],
    configuration: &HashMap<String, String>,
    schema: &StructType,
) -> Result<(), SinkError> {
    let mut demands: Vec<String> = features
        .iter()
        .filter(|feature| !HARMLESS_FEATURES.contains(&feature.as_str()))
        .map(|feature| format!("the feature {feature}"))
        .collect();
    demands.extend(configuration.iter().filter_map(|(key, value)| {
        let mapped = key == "delta.columnMapping.mode" && value != "none";
        (mapped || key.starts_with("delta.constraints.")).then(|| format!("{key} = {value}"))
    }));
    for field in schema.fields() {
        let keys = DEMANDING_COLUMNS.iter().filter(|key| field.metadata().contains_key(**key));
        demands.extend(keys.map(|key| format!("{key} of column `{}`", field.name())));
    }
    if demands.is_empty() {
        return Ok(());
    }
    demands.sort();
    Err(SinkError::Refused {
        what: format!("the table {place} asks of its writers what this sink does not do: {}", demands.join(", ")),
        source: None,
    })
}

/// A type as Delta's documents write it.
fn name(data_type: &DataType) -> String {
    data_type.to_string()
}
