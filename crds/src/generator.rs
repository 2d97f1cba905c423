//! The source that makes rows up: Nexmark's streams, and plain rows from ranges of values.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ColumnSpec, ColumnType, DurationStr,
    schema::{COLUMN_NAME_PATTERN, exactly_one, rule},
};

/// Makes rows up: the same seed gives the same rows, over restarts too. Exactly one of `nexmark` and `fields` is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rule(
    "has(self.nexmark) != (has(self.fields) && size(self.fields) > 0)",
    "exactly one of nexmark, fields must be set"
))]
pub struct GeneratorSource {
    /// What the rows follow from.
    #[serde(default)]
    pub seed: u64,
    /// How many rows there are; then the source ends. Without it there is no end. Example: `1000000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// How many rows a second there are at the most. Without it as many as the pipeline can take. Example: `5000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub rate: Option<u64>,
    /// A stream of the Nexmark benchmark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexmark: Option<NexmarkGenerator>,
    /// Plain rows: a column for each entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub fields: Vec<GeneratorField>,
}

impl GeneratorSource {
    /// The columns of the rows.
    pub fn columns(&self) -> Vec<ColumnSpec> {
        match &self.nexmark {
            Some(nexmark) => nexmark.stream.columns(),
            None => self.fields.iter().filter_map(GeneratorField::column).collect(),
        }
    }
}

/// A stream of the Nexmark benchmark. The three streams of one seed belong together: bids are for its auctions, by its
/// persons.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NexmarkGenerator {
    /// Which of the three.
    pub stream: NexmarkStream,
    /// How many events of all three streams together fall into a second of event time.
    #[serde(default = "ten_thousand")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub events_per_second: u32,
}

fn ten_thousand() -> u32 {
    10_000
}

/// The streams of the Nexmark benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NexmarkStream {
    /// New users: `id`, `name`, `email_address`, `credit_card`, `city`, `state`, `date_time`, `extra`.
    Person,
    /// New auctions: `id`, `item_name`, `description`, `initial_bid`, `reserve`, `date_time`, `expires`, `seller`,
    /// `category`, `extra`.
    Auction,
    /// Bids: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`.
    Bid,
}

impl NexmarkStream {
    /// The columns of the stream's rows.
    pub fn columns(self) -> Vec<ColumnSpec> {
        use ColumnType::{BigInt, Timestamp, Varchar};
        let columns: &[(&str, ColumnType)] = match self {
            Self::Person => &[
                ("id", BigInt),
                ("name", Varchar),
                ("email_address", Varchar),
                ("credit_card", Varchar),
                ("city", Varchar),
                ("state", Varchar),
                ("date_time", Timestamp),
                ("extra", Varchar),
            ],
            Self::Auction => &[
                ("id", BigInt),
                ("item_name", Varchar),
                ("description", Varchar),
                ("initial_bid", BigInt),
                ("reserve", BigInt),
                ("date_time", Timestamp),
                ("expires", Timestamp),
                ("seller", BigInt),
                ("category", BigInt),
                ("extra", Varchar),
            ],
            Self::Bid => &[
                ("auction", BigInt),
                ("bidder", BigInt),
                ("price", BigInt),
                ("channel", Varchar),
                ("url", Varchar),
                ("date_time", Timestamp),
                ("extra", Varchar),
            ],
        };
        columns.iter().map(|(name, of)| ColumnSpec::new(*name, of)).collect()
    }
}

/// A column of plain rows: its name, and exactly one way of making values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = exactly_one(&["int", "double", "string", "timestamp", "sequence"]))]
pub struct GeneratorField {
    /// What SQL calls the column.
    #[schemars(regex(pattern = COLUMN_NAME_PATTERN), length(max = 128))]
    pub name: String,
    /// Whole numbers from a range, all equally likely; a `BIGINT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub int: Option<IntRange>,
    /// Numbers from a range, all equally likely; a `DOUBLE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub double: Option<DoubleRange>,
    /// Texts, all equally likely; a `VARCHAR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub string: Option<StringValues>,
    /// Moments at even distances; a `TIMESTAMP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<TimestampSteps>,
    /// Whole numbers at even distances; a `BIGINT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<Sequence>,
}

/// How a generated column's values are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FieldValues<'a> {
    /// Whole numbers from a range.
    Int(&'a IntRange),
    /// Numbers from a range.
    Double(&'a DoubleRange),
    /// Texts.
    String(&'a StringValues),
    /// Moments at even distances.
    Timestamp(&'a TimestampSteps),
    /// Whole numbers at even distances.
    Sequence(&'a Sequence),
}

impl GeneratorField {
    /// The way of making values that is set; `None` if none is, or more than one.
    pub fn values(&self) -> Option<FieldValues<'_>> {
        crate::only([
            self.int.as_ref().map(FieldValues::Int),
            self.double.as_ref().map(FieldValues::Double),
            self.string.as_ref().map(FieldValues::String),
            self.timestamp.as_ref().map(FieldValues::Timestamp),
            self.sequence.as_ref().map(FieldValues::Sequence),
        ])
    }

    /// The column that the values make.
    pub fn column(&self) -> Option<ColumnSpec> {
        let of = match self.values()? {
            FieldValues::Int(_) | FieldValues::Sequence(_) => ColumnType::BigInt,
            FieldValues::Double(_) => ColumnType::Double,
            FieldValues::String(_) => ColumnType::Varchar,
            FieldValues::Timestamp(_) => ColumnType::Timestamp,
        };
        Some(ColumnSpec::new(&self.name, &of))
    }
}

/// A range of whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rule(
    "(has(self.min) ? self.min : 0) <= self.max",
    "min must not be greater than max"
))]
pub struct IntRange {
    /// The least.
    #[serde(default)]
    pub min: i64,
    /// The greatest.
    pub max: i64,
}

/// A range of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rule(
    "(has(self.min) ? self.min : 0.0) <= self.max",
    "min must not be greater than max"
))]
pub struct DoubleRange {
    /// The least.
    #[serde(default)]
    pub min: f64,
    /// What all of them are less than; if it equals `min`, what all of them are.
    pub max: f64,
}

/// Texts: `choices`, or `prefix` followed by a number below `cardinality`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rule(
    "(has(self.choices) && size(self.choices) > 0) != has(self.cardinality)",
    "exactly one of choices, cardinality must be set"
))]
pub struct StringValues {
    /// The texts. Example: `[GET, PUT, POST]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096))]
    pub choices: Vec<String>,
    /// What stands before the number. Example: `user-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How many different texts there are. Example: `10000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub cardinality: Option<u64>,
}

/// Moments at even distances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TimestampSteps {
    /// The first row's, by RFC 3339. Example: `"2024-01-01T00:00:00Z"`.
    #[schemars(extend("x-millrace-form" = "timestamp"), length(max = 40))]
    pub start: String,
    /// By how much each is after the one before it. Example: `10ms`.
    pub step: DurationStr,
}

impl TimestampSteps {
    /// The first row's moment, in microseconds since 1970 in UTC; `None` if `start` is no moment.
    pub fn start_micros(&self) -> Option<i64> {
        crate::timestamp::parse_rfc3339(&self.start)
    }
}

/// Whole numbers at even distances.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sequence {
    /// The first row's.
    pub start: i64,
    /// By how much each is greater than the one before it.
    pub step: i64,
}

impl Default for Sequence {
    fn default() -> Self {
        Self { start: 0, step: 1 }
    }
}
