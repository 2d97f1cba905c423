//! The Sink resource: where rows go.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    DurationStr, Empty, Quantity, SinkStatus,
    duration::POSITIVE_PATTERN,
    quantity,
    schema::{OBJECT_NAME_PATTERN, URI_PATTERN, exactly_one, rule},
};

/// Where rows go: exactly one of `stdout`, `file`, `parquet` and `delta`.
// Every printer column has a type.
#[allow(clippy::duplicated_attributes)]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "Sink",
    namespaced,
    status = "SinkStatus",
    derive = "PartialEq",
    shortname = "snk",
    category = "millrace",
    doc = "Where rows go. Pipelines name it in `outputs`.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Delta", type_ = "string", json_path = ".spec.delta.uri"),
    printcolumn(name = "Parquet", type_ = "string", json_path = ".spec.parquet.uri"),
    printcolumn(name = "File", type_ = "string", json_path = ".spec.file.path"),
    printcolumn(name = "Credentials", type_ = "string", json_path = ".spec.credentials.secretRef.name", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = exactly_one(&["stdout", "file", "parquet", "delta"]))]
pub struct SinkSpec {
    /// The standard output: a table on a terminal, a JSON object a line otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<StdoutSink>,
    /// A folder of files with a row a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSink>,
    /// A folder of Parquet files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parquet: Option<ParquetSink>,
    /// A Delta table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<DeltaSink>,
    /// What the destination asks for before it lets in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsSpec>,
    /// How much is gathered before it is shown to readers.
    #[serde(default)]
    pub batch: BatchSpec,
}

/// A sink's destination, with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SinkDestination<'a> {
    /// The standard output.
    Stdout(&'a StdoutSink),
    /// Files with a row a line.
    File(&'a FileSink),
    /// Parquet files.
    Parquet(&'a ParquetSink),
    /// A Delta table.
    Delta(&'a DeltaSink),
}

impl SinkSpec {
    /// The destination that is set; `None` if none is, or more than one.
    pub fn destination(&self) -> Option<SinkDestination<'_>> {
        crate::only([
            self.stdout.as_ref().map(SinkDestination::Stdout),
            self.file.as_ref().map(SinkDestination::File),
            self.parquet.as_ref().map(SinkDestination::Parquet),
            self.delta.as_ref().map(SinkDestination::Delta),
        ])
    }
}

/// The standard output. Rows are written as they come and once more after a crash: at least once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StdoutSink {}

/// A folder of files with a row a line. A file appears in it whole, when its checkpoint is decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileSink {
    /// The folder. A relative one starts at the folder that `millrace` was started in. Example: `/out/rows`.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// The form of the rows.
    pub format: SinkFormat,
}

/// The form of rows on their way out: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = exactly_one(&["json", "csv"]))]
pub struct SinkFormat {
    /// A JSON object a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Empty>,
    /// Comma-separated values, or values separated by another character.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csv: Option<CsvSinkFormat>,
}

/// Which format it is, with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SinkFormatKind<'a> {
    /// A JSON object a line.
    Json,
    /// Separated values.
    Csv(&'a CsvSinkFormat),
}

impl SinkFormat {
    /// The format that is set; `None` if none is, or both are.
    pub fn kind(&self) -> Option<SinkFormatKind<'_>> {
        crate::only([self.json.as_ref().map(|_| SinkFormatKind::Json), self.csv.as_ref().map(SinkFormatKind::Csv)])
    }
}

/// Comma-separated values, or values separated by another character.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CsvSinkFormat {
    /// Whether the first line of a file names the columns.
    pub header: bool,
    /// The one ASCII character between values. Example: `"\t"`.
    #[schemars(length(min = 1, max = 1))]
    pub delimiter: String,
}

impl Default for CsvSinkFormat {
    fn default() -> Self {
        Self { header: true, delimiter: ",".to_owned() }
    }
}

const LEVEL_RULE: &str = "!has(self.compressionLevel) || !has(self.compression) || self.compression == 'Zstd'";
const LEVEL_MESSAGE: &str = "compressionLevel is for the compression Zstd";

/// A folder of Parquet files. A file appears in it whole, when its checkpoint is decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rule(LEVEL_RULE, LEVEL_MESSAGE))]
pub struct ParquetSink {
    /// The folder: a path, or a `file://` URL. Example: `/data/pq`.
    #[schemars(regex(pattern = URI_PATTERN), length(max = 4096))]
    pub uri: String,
    /// The columns whose values name the folders that the files are in, as in `day=2013-01-31/`. Example: `[day]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 128)), extend("x-kubernetes-list-type" = "set"))]
    pub partition_by: Vec<String>,
    /// How pages are compressed.
    #[serde(default)]
    pub compression: ParquetCompression,
    /// How hard Zstandard tries, from 1 to 22. Without it 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 22))]
    pub compression_level: Option<i32>,
    /// How many rows a row group has at the most.
    #[serde(default = "million")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_row_group_rows: u64,
}

/// A Delta table. It is made if it is not there; every checkpoint that has rows for it is one commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rule(LEVEL_RULE, LEVEL_MESSAGE))]
pub struct DeltaSink {
    /// The table's folder: a path, or a `file://` URL. Example: `/data/tenant_errors`.
    #[schemars(regex(pattern = URI_PATTERN), length(max = 4096))]
    pub uri: String,
    /// The columns that the table is partitioned by. Example: `[day]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 128)), extend("x-kubernetes-list-type" = "set"))]
    pub partition_by: Vec<String>,
    /// What happens when the rows have columns that the table lacks.
    #[serde(default)]
    pub schema_evolution: SchemaEvolution,
    /// For how long the table's log is kept, and with it the way back to older versions.
    #[serde(default = "seven_days")]
    pub log_retention: DurationStr,
    /// After how many commits the log is summed up in a checkpoint of its own.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 10_000))]
    pub checkpoint_every: u32,
    /// How pages are compressed.
    #[serde(default)]
    pub compression: ParquetCompression,
    /// How hard Zstandard tries, from 1 to 22. Without it 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 22))]
    pub compression_level: Option<i32>,
    /// How many rows a row group has at the most.
    #[serde(default = "million")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_row_group_rows: u64,
}

fn million() -> u64 {
    1_000_000
}

fn seven_days() -> DurationStr {
    DurationStr::from_secs(7 * 86_400)
}

fn ten() -> u32 {
    10
}

/// How Parquet's pages are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ParquetCompression {
    /// Zstandard.
    #[default]
    Zstd,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Not at all.
    None,
}

/// What happens when the rows have columns that the table lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SchemaEvolution {
    /// The sink refuses to start.
    #[default]
    Strict,
    /// The columns are added to the table; rows that are there have null in them.
    AddColumns,
}

/// What a destination asks for before it lets in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialsSpec {
    /// A Secret in the pipeline's namespace. It is mounted into the pipeline's pods.
    pub secret_ref: SecretRef,
}

/// The name of a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// The Secret's name. Example: `lake`.
    #[schemars(regex(pattern = OBJECT_NAME_PATTERN), length(max = 253))]
    pub name: String,
}

/// How much is gathered before it is shown to readers. What is set is looked at when a checkpoint is taken: the first one
/// that finds a limit reached shows all that was gathered. With nothing set every checkpoint does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchSpec {
    /// So many rows. Example: `100000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_rows: Option<u64>,
    /// So many bytes, as they are written. Example: `128Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = quantity::POSITIVE_PATTERN))]
    pub max_bytes: Option<Quantity>,
    /// So long after the first row. Example: `1m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = POSITIVE_PATTERN))]
    pub max_delay: Option<DurationStr>,
}

impl BatchSpec {
    /// Whether every checkpoint shows what it has.
    pub fn is_every_checkpoint(&self) -> bool {
        *self == Self::default()
    }
}
