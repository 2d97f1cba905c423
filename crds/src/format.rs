//! The forms that rows have on their way in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    quantity::{POSITIVE_PATTERN, Quantity},
    schema::{exactly_one, rule},
};

/// The columns that a line of the combined log format has.
pub const COMBINED_COLUMNS: [&str; 12] = [
    "remote_host",
    "ident",
    "user",
    "time",
    "request",
    "method",
    "target",
    "protocol",
    "status",
    "bytes",
    "referer",
    "user_agent",
];

/// The columns that a line of syslog has.
pub const SYSLOG_COLUMNS: [&str; 10] = [
    "priority",
    "facility",
    "severity",
    "timestamp",
    "hostname",
    "app_name",
    "proc_id",
    "msg_id",
    "structured_data",
    "message",
];

/// The form of a source's rows: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = exactly_one(&["json", "csv", "regex", "combined", "logfmt", "syslog", "parquet"]))]
pub struct FormatSpec {
    /// A JSON object a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<JsonFormat>,
    /// Comma-separated values, or values separated by another character.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csv: Option<CsvFormat>,
    /// A line of text whose parts a regular expression names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<RegexFormat>,
    /// A line of a web server's combined log format. It has the columns `remote_host`, `ident`, `user`, `time`,
    /// `request`, `method`, `target`, `protocol`, `status`, `bytes`, `referer` and `user_agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combined: Option<Empty>,
    /// A line of `key=value` pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logfmt: Option<Empty>,
    /// A line of syslog, by RFC 5424 or RFC 3164. It has the columns `priority`, `facility`, `severity`, `timestamp`,
    /// `hostname`, `app_name`, `proc_id`, `msg_id`, `structured_data` and `message`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syslog: Option<Empty>,
    /// Parquet files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parquet: Option<Empty>,
}

/// Which format it is, with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FormatKind<'a> {
    /// A JSON object a line.
    Json(&'a JsonFormat),
    /// Separated values.
    Csv(&'a CsvFormat),
    /// Lines by a regular expression.
    Regex(&'a RegexFormat),
    /// The combined log format.
    Combined,
    /// Lines of `key=value` pairs.
    Logfmt,
    /// Lines of syslog.
    Syslog,
    /// Parquet files.
    Parquet,
}

impl FormatSpec {
    /// The format that is set; `None` if none is, or more than one.
    pub fn kind(&self) -> Option<FormatKind<'_>> {
        let set = [
            self.json.as_ref().map(FormatKind::Json),
            self.csv.as_ref().map(FormatKind::Csv),
            self.regex.as_ref().map(FormatKind::Regex),
            self.combined.as_ref().map(|_| FormatKind::Combined),
            self.logfmt.as_ref().map(|_| FormatKind::Logfmt),
            self.syslog.as_ref().map(|_| FormatKind::Syslog),
            self.parquet.as_ref().map(|_| FormatKind::Parquet),
        ];
        crate::only(set)
    }
}

/// Has no settings; written `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// A JSON object a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct JsonFormat {
    /// What a number in a `TIMESTAMP` column counts, since 1970 in UTC. A text is read as RFC 3339 whatever stands here.
    pub timestamp_unit: TimestampUnit,
}

/// What a number that stands for a moment counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TimestampUnit {
    /// Seconds; a fraction may follow.
    Seconds,
    /// Milliseconds.
    #[default]
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Nanoseconds, of which microseconds are kept.
    Nanoseconds,
}

/// Comma-separated values, or values separated by another character.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(transform = rule(
    r#"(has(self.delimiter) ? self.delimiter : ',') != (has(self.quote) ? self.quote : '"')"#,
    "delimiter and quote must be two different characters"
))]
pub struct CsvFormat {
    /// Whether the first line of a file names the columns. Without it columns are taken in the order in which the source
    /// declares them.
    pub header: bool,
    /// The one ASCII character between values. Example: `"\t"`.
    #[schemars(length(min = 1, max = 1))]
    pub delimiter: String,
    /// The one ASCII character around values that hold delimiters or line ends; written twice it stands for itself.
    #[schemars(length(min = 1, max = 1))]
    pub quote: String,
    /// The text without quotes that stands for null. An empty value is null in every type but `VARCHAR`, and with `""` here in
    /// that too. Example: `NA`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub null_value: Option<String>,
    /// How a `TIMESTAMP` is written, in strftime's directives; without it RFC 3339 and `YYYY-MM-DD hh:mm:ss` are read.
    /// Example: `"%d/%m/%Y %H:%M"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp_format: Option<String>,
    /// How long a row with quotes may be, at most `16Mi`. Where a quote is not closed by then, the line that the row begins
    /// in is a row that cannot be decoded, and the next line is the next row: one stray quote costs no more than that.
    #[schemars(extend("pattern" = POSITIVE_PATTERN))]
    pub max_row_size: Quantity,
}

impl Default for CsvFormat {
    fn default() -> Self {
        Self {
            header: true,
            delimiter: ",".to_owned(),
            quote: "\"".to_owned(),
            null_value: None,
            timestamp_format: None,
            max_row_size: Quantity::from_bytes(1 << 20),
        }
    }
}

/// A line of text whose parts a regular expression names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegexFormat {
    /// A regular expression whose named groups are the columns. It has to match at the start of the line.
    /// Example: `"^(?<level>[A-Z]+) (?<message>.*)$"`.
    #[schemars(length(min = 1, max = 16384))]
    pub pattern: String,
    /// How a `TIMESTAMP` is written, in strftime's directives; without it RFC 3339 and `YYYY-MM-DD hh:mm:ss` are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_format: Option<String>,
}
