//! What each kind of sink can take: known from its spec and the columns that come, before anything is opened.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use millrace_crds::{SinkDestination, SinkFormatKind, SinkSpec};

use crate::columns::type_name;

/// One reason why a sink cannot take what comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkProblem {
    /// The field of the Sink that stands in the way, such as `delta.partitionBy[0]`; `None`: the columns do.
    pub field: Option<String>,
    /// The text that is wrong: a column, a type, a URI.
    pub offending: String,
    /// What is wrong with it.
    pub message: String,
    /// What would be right.
    pub expected: Option<String>,
}

/// Whether a sink can take a changelog. The others are for rows that are never taken back.
pub fn takes_changelog(spec: &SinkSpec) -> bool {
    match spec.destination() {
        Some(SinkDestination::Stdout(_)) => true,
        Some(SinkDestination::File(file)) => file.format.kind() == Some(SinkFormatKind::Json),
        _ => false,
    }
}

/// The type by which Parquet files and Delta tables store a column; `None`: they cannot.
///
/// Timestamps become microseconds in UTC; unsigned integers the next wider signed one, since Delta has none; strings and
/// bytes those with 32-bit offsets.
pub fn stored_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32
        | DataType::Utf8
        | DataType::Binary => data_type.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Timestamp(_, _) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 && *scale as u8 <= *precision =>
        {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Dictionary(_, values) => stored_type(values)?,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            DataType::new_list(stored_type(item.data_type())?, true)
        }
        DataType::Struct(fields) => DataType::Struct(
            fields
                .iter()
                .map(|field| Some(Field::new(field.name(), stored_type(field.data_type())?, true)))
                .collect::<Option<Vec<_>>>()?
                .into(),
        ),
        _ => return None,
    })
}

/// Whether a column of this type can name partitions: its values have one short text.
pub fn partitions_by(data_type: &DataType) -> bool {
    stored_type(data_type).is_some_and(|stored| {
        stored.is_integer()
            || matches!(
                stored,
                DataType::Boolean
                    | DataType::Utf8
                    | DataType::Date32
                    | DataType::Timestamp(..)
                    | DataType::Decimal128(..)
            )
    })
}

/// What a URL names that this version cannot write to, if it is such a URL: only folders of this machine can be.
pub fn unusable_url(url: &str) -> Option<String> {
    match url.split_once("://")? {
        ("file", path) if path.starts_with('/') => None,
        ("file", _) => Some("another host".to_owned()),
        (scheme, _) => Some(format!("{scheme} stores")),
    }
}

/// Why nothing can be written where a sink writes, whatever comes, if so.
pub fn unusable_place(spec: &SinkSpec) -> Option<SinkProblem> {
    let (field, place) = match spec.destination()? {
        SinkDestination::File(file) => ("file.path", &file.path),
        SinkDestination::Parquet(parquet) => ("parquet.uri", &parquet.uri),
        SinkDestination::Delta(delta) => ("delta.uri", &delta.uri),
        SinkDestination::Stdout(_) => return None,
    };
    unusable_url(place).map(|store| SinkProblem {
        field: Some(field.to_owned()),
        offending: place.clone(),
        message: format!("`{place}`: this version does not write to {store}"),
        expected: Some("a path, or a URL like file:///out/rows".to_owned()),
    })
}

/// Everything that keeps a sink from taking rows of these columns, which have neither event time nor operation.
pub fn problems(spec: &SinkSpec, schema: &Schema, changelog: bool) -> Vec<SinkProblem> {
    let mut problems = Vec::new();
    if changelog && !takes_changelog(spec) {
        problems.push(SinkProblem {
            field: None,
            offending: "changelog".to_owned(),
            message: "the rows are a changelog (rows are corrected and taken back), which this sink cannot carry"
                .to_owned(),
            expected: Some("stdout, or file with format: {json: {}}; or a window, whose results are final".to_owned()),
        });
    }
    problems.extend(unusable_place(spec));
    let (kind, partition_by) = match spec.destination() {
        Some(SinkDestination::Parquet(parquet)) => ("parquet", &parquet.partition_by),
        Some(SinkDestination::Delta(delta)) => ("delta", &delta.partition_by),
        _ => return problems,
    };
    for (number, field) in schema.fields().iter().enumerate() {
        let same = |other: &&FieldRef| other.name().to_lowercase() == field.name().to_lowercase();
        if kind == "delta"
            && let Some(before) = schema.fields()[..number].iter().find(same)
        {
            problems.push(SinkProblem {
                field: None,
                offending: field.name().clone(),
                message: format!(
                    "a Delta table cannot have the columns `{}` and `{}`: it does not tell capital letters from small ones",
                    before.name(),
                    field.name()
                ),
                expected: Some("another name for one of them, given with AS".to_owned()),
            });
        }
        if stored_type(field.data_type()).is_none() {
            problems.push(SinkProblem {
                field: None,
                offending: field.name().clone(),
                message: format!(
                    "column `{}` is of type {}, which {kind} cannot store",
                    field.name(),
                    field.data_type()
                ),
                expected: Some("a CAST to a type that it can".to_owned()),
            });
        }
        if kind == "delta" && field.name().contains([' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '=']) {
            problems.push(SinkProblem {
                field: None,
                offending: field.name().clone(),
                message: format!("Delta tables cannot have a column named `{}`", field.name()),
                expected: Some("a name of letters, digits and `_`, given with AS".to_owned()),
            });
        }
    }
    let names: BTreeSet<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    for (number, column) in partition_by.iter().enumerate() {
        let mut wrong = |message: String, expected: String| {
            problems.push(SinkProblem {
                field: Some(format!("{kind}.partitionBy[{number}]")),
                offending: column.clone(),
                message,
                expected: Some(expected),
            });
        };
        match schema.field_with_name(column) {
            Err(_) => {
                let have = names.iter().copied().collect::<Vec<_>>().join(", ");
                wrong(format!("there is no column `{column}`"), format!("one of {have}"));
            }
            Ok(field) if !partitions_by(field.data_type()) => wrong(
                format!(
                    "column `{column}` is of type {}, whose values cannot name a partition",
                    type_name(field.data_type())
                ),
                "a column of integers, strings, booleans, dates, timestamps or decimals".to_owned(),
            ),
            Ok(_) if partition_by[..number].contains(column) => {
                wrong(format!("column `{column}` stands here twice"), "every column once".to_owned());
            }
            Ok(_) => {}
        }
    }
    if !partition_by.is_empty() && names.iter().all(|name| partition_by.iter().any(|column| column == name)) {
        problems.push(SinkProblem {
            field: Some(format!("{kind}.partitionBy")),
            offending: partition_by.join(", "),
            message: "every column names a partition, so the files would have none".to_owned(),
            expected: Some("at least one column that is not in it".to_owned()),
        });
    }
    problems
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::datatypes::IntervalUnit;
    use serde_json::json;

    use super::*;

    fn sink(spec: serde_json::Value) -> SinkSpec {
        serde_json::from_value(spec).unwrap()
    }

    fn schema(fields: &[(&str, DataType)]) -> Schema {
        Schema::new(fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>())
    }

    #[test]
    fn only_stdout_and_json_files_take_changelogs() {
        for (spec, takes) in [
            (json!({"stdout": {}}), true),
            (json!({"file": {"path": "/out", "format": {"json": {}}}}), true),
            (json!({"file": {"path": "/out", "format": {"csv": {}}}}), false),
            (json!({"parquet": {"uri": "/out"}}), false),
            (json!({"delta": {"uri": "/out"}}), false),
        ] {
            assert_eq!(takes_changelog(&sink(spec.clone())), takes, "{spec}");
            let found = problems(&sink(spec), &schema(&[("n", DataType::Int64)]), true);
            assert_eq!(found.is_empty(), takes);
        }
    }

    #[test]
    fn a_stored_type_is_stored_as_itself() {
        for kind in [
            DataType::UInt64,
            DataType::Utf8View,
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            DataType::Decimal128(10, 2),
            DataType::new_list(DataType::Utf8View, true),
            DataType::LargeList(Arc::new(Field::new("x", DataType::UInt8, true))),
        ] {
            let stored = stored_type(&kind).unwrap();
            assert_eq!(stored_type(&stored), Some(stored.clone()), "{kind} is stored as {stored}");
        }
    }

    #[test]
    fn every_problem_of_a_sink_is_told_at_once() {
        let spec = sink(json!({"delta": {"uri": "s3://lake/t", "partitionBy": ["dya", "x", "day", "day"]}}));
        let schema = schema(&[
            ("day", DataType::Date32),
            ("x", DataType::Float64),
            ("i", DataType::Interval(IntervalUnit::MonthDayNano)),
            ("count(*)", DataType::Int64),
        ]);
        let found: Vec<String> = problems(&spec, &schema, false).into_iter().map(|problem| problem.message).collect();
        assert_eq!(
            found,
            [
                "`s3://lake/t`: this version does not write to s3 stores",
                "column `i` is of type Interval(MonthDayNano), which delta cannot store",
                "Delta tables cannot have a column named `count(*)`",
                "there is no column `dya`",
                "column `x` is of type DOUBLE, whose values cannot name a partition",
                "column `day` stands here twice",
            ]
        );
    }

    #[test]
    fn a_sink_of_any_kind_is_told_of_a_place_that_cannot_be_written() {
        let told = |spec| unusable_place(&sink(spec)).map(|problem| problem.message);
        let json = json!({"json": {}});
        for good in ["/out", "out", "file:///out"] {
            assert_eq!(told(json!({"delta": {"uri": good}})), None);
            assert_eq!(told(json!({"file": {"path": good, "format": json}})), None);
        }
        for (spec, message) in [
            (
                json!({"file": {"path": "gs://l/t", "format": json}}),
                "`gs://l/t`: this version does not write to gs stores",
            ),
            (json!({"parquet": {"uri": "az://l/t"}}), "`az://l/t`: this version does not write to az stores"),
            (
                json!({"delta": {"uri": "file://host/t"}}),
                "`file://host/t`: this version does not write to another host",
            ),
        ] {
            assert_eq!(told(spec).as_deref(), Some(message));
        }
        assert_eq!(told(json!({"stdout": {}})), None);
    }

    #[test]
    fn partitioning_by_every_column_leaves_none_for_the_files() {
        let spec = sink(json!({"parquet": {"uri": "file:///out", "partitionBy": ["day"]}}));
        let found = problems(&spec, &schema(&[("day", DataType::Date32)]), false);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].field.as_deref(), Some("parquet.partitionBy"));
    }
}
