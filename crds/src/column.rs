//! The columns of a source.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ColumnType, ColumnTypeError, schema::COLUMN_NAME_PATTERN};

/// A column of a source's rows: what SQL calls it, its type, and where a row has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ColumnSpec {
    /// What SQL calls the column: letters, digits and `_`. A name with capital letters has to be quoted in SQL.
    /// Example: `latency_ms`.
    #[schemars(regex(pattern = COLUMN_NAME_PATTERN), length(max = 128))]
    pub name: String,
    /// `BOOLEAN`, `INT` (32 bits), `BIGINT` (64 bits), `FLOAT`, `DOUBLE`, `VARCHAR`, `DATE`, `TIMESTAMP` (UTC,
    /// microseconds), `DECIMAL(p, s)`, `JSON` (any JSON value, kept as text), or a list of one of them: `VARCHAR[]`.
    #[serde(rename = "type")]
    #[schemars(extend("x-millrace-form" = "columnType"))]
    pub type_: String,
    /// Where a row has it, if that is not `name`: a JSON field, or a path of them with dots between (`user.id`), a CSV
    /// header, a group of the regular expression, a Parquet column. Example: `"@timestamp"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub path: Option<String>,
}

impl ColumnSpec {
    /// A column that stands in the row under its own name.
    pub fn new(name: impl Into<String>, of: &ColumnType) -> Self {
        Self { name: name.into(), type_: of.to_string(), path: None }
    }

    /// The column's type, parsed.
    ///
    /// # Errors
    ///
    /// When `type` is none. Specs that [`manifest::read`](crate::manifest::read) gave without a problem have none such.
    pub fn data_type(&self) -> Result<ColumnType, ColumnTypeError> {
        self.type_.parse()
    }

    /// Where a row has the column.
    pub fn source_path(&self) -> &str {
        self.path.as_deref().unwrap_or(&self.name)
    }
}
