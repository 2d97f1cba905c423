//! The types and schemas that rows have inside a pipeline.
//!
//! Users' types map to one Arrow type each: text is `Utf8View`, a TIMESTAMP is microseconds in UTC. What SQL functions give
//! beside these is brought back to them where a transform ends.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use millrace_crds::{ColumnType, SourceSpec};
use millrace_stream::{EVENT_TIME_COLUMN, OP_COLUMN};

use crate::{
    error::Fault,
    pseudo::{event_time_type, timestamp_type},
};

/// The Arrow type of a user's type.
pub(crate) fn arrow_type(of: &ColumnType) -> DataType {
    match of {
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Int => DataType::Int32,
        ColumnType::BigInt => DataType::Int64,
        ColumnType::Float => DataType::Float32,
        ColumnType::Double => DataType::Float64,
        ColumnType::Varchar | ColumnType::Json => DataType::Utf8View,
        ColumnType::Date => DataType::Date32,
        ColumnType::Timestamp => timestamp_type(),
        ColumnType::Decimal { precision, scale } => {
            DataType::Decimal128(*precision, i8::try_from(*scale).unwrap_or(i8::MAX))
        }
        ColumnType::Array(item) => DataType::List(Arc::new(Field::new_list_field(arrow_type(item), true))),
    }
}

/// What users call an Arrow type; Arrow's own name where users have none for it.
pub(crate) fn type_name(of: &DataType) -> String {
    match of {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::UInt64 => "BIGINT UNSIGNED".to_owned(),
        DataType::Float32 => "FLOAT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8 => "VARCHAR".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Timestamp(..) => "TIMESTAMP".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::List(item) => format!("{}[]", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|f| format!("{} {}", f.name(), type_name(f.data_type()))).collect();
            format!("STRUCT({})", fields.join(", "))
        }
        DataType::Union(..) => "JSON value".to_owned(),
        other => other.to_string(),
    }
}

/// The type that a column has where a transform ends: that of users' types which holds it.
pub(crate) fn settled_type(of: &DataType) -> DataType {
    let settled_item = |item: &FieldRef| Arc::new(Field::new_list_field(settled_type(item.data_type()), true));
    match of {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Timestamp(..) => timestamp_type(),
        DataType::Date64 => DataType::Date32,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Dictionary(_, value) => settled_type(value),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            DataType::List(settled_item(item))
        }
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(|field| Field::new(field.name(), settled_type(field.data_type()), true)).collect(),
        ),
        // What `->` gives of JSON: a value of any kind.
        DataType::Null | DataType::Union(..) => DataType::Utf8View,
        other => other.clone(),
    }
}

/// Column 0 of every batch.
pub(crate) fn event_time_field() -> FieldRef {
    Arc::new(Field::new(EVENT_TIME_COLUMN, event_time_type(), false))
}

/// Column 1 of a changelog's batches.
pub(crate) fn op_field() -> FieldRef {
    Arc::new(Field::new(OP_COLUMN, DataType::UInt8, false))
}

/// Event time, the operation if it is a changelog, and the columns.
pub(crate) fn with_marks(columns: impl IntoIterator<Item = FieldRef>, changelog: bool) -> SchemaRef {
    let marks = std::iter::once(event_time_field()).chain(changelog.then(op_field));
    Arc::new(Schema::new(marks.chain(columns).collect::<Vec<_>>()))
}

/// Why a name cannot be a column's, if it cannot.
pub(crate) fn reserved(name: &str) -> Option<Fault> {
    (name == EVENT_TIME_COLUMN || name == OP_COLUMN || name.starts_with("__")).then(|| {
        Fault::new(format!("the column name `{name}` is taken by Millrace itself"))
            .offending(name)
            .expected("another name, such as an alias given with AS")
    })
}

/// The declared columns of a source, and what is wrong with them (by number).
pub(crate) fn declared_columns(spec: &SourceSpec) -> (SchemaRef, Vec<(usize, Fault)>) {
    let mut faults = Vec::new();
    let mut fields: Vec<Field> = Vec::new();
    for (number, column) in spec.declared_columns().iter().enumerate() {
        if fields.iter().any(|field| *field.name() == column.name) {
            faults.push((
                number,
                Fault::new(format!("the column `{}` is declared twice", column.name)).offending(&column.name),
            ));
        }
        faults.extend(reserved(&column.name).map(|fault| (number, fault)));
        let of = column.data_type().unwrap_or_else(|error| {
            faults.push((number, Fault::new(error.to_string()).offending(&column.type_)));
            ColumnType::Varchar
        });
        fields.push(Field::new(&column.name, arrow_type(&of), true));
    }
    (Arc::new(Schema::new(fields)), faults)
}

/// The schema of a source's `.errors` output: when the row was read, its bytes, why it could not be decoded, which file
/// (or the like) it came from and at which byte of the uncompressed stream it began.
pub fn errors_schema() -> SchemaRef {
    with_marks(
        [
            Field::new("raw", DataType::Binary, true),
            Field::new("reason", DataType::Utf8View, true),
            Field::new("source", DataType::Utf8View, true),
            Field::new("position", DataType::Int64, true),
        ]
        .map(Arc::new),
        false,
    )
}

/// Whether a type is a TIMESTAMP of some form.
pub(crate) fn is_timestamp(of: &DataType) -> bool {
    matches!(of, DataType::Timestamp(TimeUnit::Microsecond, Some(_)))
}
