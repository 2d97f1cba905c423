//! Where rows come from.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ColumnSpec, DurationStr, FormatSpec, GeneratorSource,
    duration::POSITIVE_PATTERN,
    schema::{NODE_NAME_PATTERN, exactly_one, rule},
};

/// A source: a connector (exactly one of `generator`, `file` and `stdin`), the form of its rows, their columns and their
/// event time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = exactly_one(&["generator", "file", "stdin"]))]
#[schemars(transform = rule(
    "has(self.generator) != has(self.format)",
    "file and stdin need a format, and a generator has none"
))]
#[schemars(transform = rule(
    "has(self.generator) != (has(self.columns) && size(self.columns) > 0)",
    "file and stdin need columns, and a generator has its own"
))]
#[schemars(transform = rule(
    "!has(self.eventTime) || !has(self.columns) || \
     self.columns.exists(c, c.name == self.eventTime.column && c.type.trim().upperAscii() == 'TIMESTAMP')",
    "eventTime.column has to name a column of the type TIMESTAMP"
))]
#[schemars(transform = rule(
    "!has(self.format) || !has(self.format.parquet) || (has(self.file) && \
     (!has(self.file.compression) || self.file.compression in ['Auto', 'None']))",
    "parquet is for file, whose compression is inside of its files"
))]
pub struct SourceSpec {
    /// What SQL calls the source. Unique among the pipeline's sources and transforms; replay points follow it.
    /// Example: `requests`.
    #[schemars(regex(pattern = NODE_NAME_PATTERN), length(max = 63))]
    pub name: String,
    /// Makes rows up, the same ones each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<GeneratorSource>,
    /// Reads files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSource>,
    /// Reads the standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<StdinSource>,
    /// The form of the rows. `file` and `stdin` need it; a generator has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<FormatSpec>,
    /// The rows' columns; those that nothing reads are never decoded. `file` and `stdin` need them; a generator has its
    /// own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub columns: Vec<ColumnSpec>,
    /// Which column says when a row happened. Without it a row's event time is the moment at which it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_time: Option<EventTimeSpec>,
    /// What a row that cannot be decoded gets. All of them are counted.
    #[serde(default)]
    pub on_error: OnError,
}

/// A source's connector, with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SourceConnector<'a> {
    /// Makes rows up.
    Generator(&'a GeneratorSource),
    /// Reads files.
    File(&'a FileSource),
    /// Reads the standard input.
    Stdin(&'a StdinSource),
}

impl SourceSpec {
    /// The connector that is set; `None` if none is, or more than one.
    pub fn connector(&self) -> Option<SourceConnector<'_>> {
        let set = [
            self.generator.as_ref().map(SourceConnector::Generator),
            self.file.as_ref().map(SourceConnector::File),
            self.stdin.as_ref().map(SourceConnector::Stdin),
        ];
        crate::only(set)
    }

    /// The columns of the source's rows: those that are declared, or those that its generator has.
    pub fn declared_columns(&self) -> Cow<'_, [ColumnSpec]> {
        match &self.generator {
            Some(generator) => Cow::Owned(generator.columns()),
            None => Cow::Borrowed(&self.columns),
        }
    }

    /// Whether the source ends by itself.
    pub fn is_bounded(&self) -> bool {
        match self.connector() {
            Some(SourceConnector::Generator(generator)) => generator.rows.is_some(),
            Some(SourceConnector::File(file)) => !file.follow,
            Some(SourceConnector::Stdin(_)) | None => true,
        }
    }
}

/// Which column says when a row happened, and how far rows may stray from order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventTimeSpec {
    /// A `TIMESTAMP` column of the source. A row that has none is a row that cannot be decoded.
    #[schemars(length(min = 1, max = 128))]
    pub column: String,
    /// By how much a row may come later than rows that happened after it. Windows close this much later, and a row that
    /// strays further is late. Example: `5s`.
    #[serde(default)]
    pub max_out_of_orderness: DurationStr,
    /// After this long without a row a file, or the whole source, no longer holds the others' windows open. Without it a
    /// silent source holds them open for as long as it is silent. Example: `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = POSITIVE_PATTERN))]
    pub idle_timeout: Option<DurationStr>,
    /// A row that happened further ahead of the clock than this is a row that cannot be decoded: one wrong date must not
    /// close all windows. Without it `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_future_skew: Option<DurationStr>,
}

impl EventTimeSpec {
    /// `maxFutureSkew`, or what holds without it.
    pub fn future_skew(&self) -> DurationStr {
        self.max_future_skew.unwrap_or(DurationStr::from_secs(24 * 3600))
    }
}

/// What a row that cannot be decoded gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnError {
    /// The pipeline fails, and says which row it was.
    #[default]
    Fail,
    /// The row is dropped.
    Drop,
    /// The row goes to the side output `<source>.errors`, with the raw bytes, the reason and the place.
    DeadLetter,
}

/// Reads files, each from its start to its end, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileSource {
    /// The files: paths with `*`, `**`, `?` and `[…]` as a shell has them. Relative ones start at the folder that `millrace`
    /// was started in. Example: `["/logs/*.ndjson.gz"]`.
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 4096)))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub paths: Vec<String>,
    /// How the files are compressed.
    #[serde(default)]
    pub compression: Compression,
    /// Whether the source goes on when it has read all there is: lines that are appended and files that appear are read
    /// too, through rotation and truncation, and so are gzip members and Zstandard frames that are appended to a compressed
    /// file. Its last line is read once its line feed has come, or when the file is gone; of a compressed file also when
    /// nothing has come for three looks. Without it the source ends.
    #[serde(default)]
    pub follow: bool,
    /// How often files are looked at for news, where `follow` is true.
    #[serde(default = "one_second")]
    #[schemars(extend("pattern" = POSITIVE_PATTERN))]
    pub poll_interval: DurationStr,
}

fn one_second() -> DurationStr {
    DurationStr::from_secs(1)
}

/// How files are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Compression {
    /// As the file's first bytes say.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Reads the standard input, until it ends. It cannot be read twice, so a pipeline that reads it is not resumed after a
/// crash; see the table of guarantees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StdinSource {}
