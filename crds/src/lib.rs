//! What users write: the Pipeline, Window and Sink resources and their structural validation.
//!
//! ```text
//! YAML text ── manifest::read ──> Manifests (typed specs, each with a map from field paths to places in the text)
//!                         └─────> Problems  (all of them, each with file, line, column and a suggestion)
//! ```
//!
//! The specs here are what the API server stores and what `millrace run` reads from files. What SQL means, whether a
//! column exists and whether a sink can carry a schema is decided by the plan; all that needs no SQL is decided here. The
//! crate does no I/O: whoever calls it reads the files.

mod amount;
mod column;
mod column_type;
mod crd;
mod duration;
mod format;
mod generator;
pub mod manifest;
mod pipeline;
mod quantity;
mod reference;
mod schema;
mod sink;
mod source;
mod status;
mod structural;
mod timestamp;
mod window;

pub use amount::{amount, amount_problem, resource_problems};
pub use column::ColumnSpec;
pub use column_type::{ColumnType, ColumnTypeError};
pub use crd::{crd_yaml, crds, json_schema};
pub use duration::{DurationError, DurationStr};
pub use format::{
    COMBINED_COLUMNS, CsvFormat, Empty, FormatKind, FormatSpec, JsonFormat, RegexFormat, SYSLOG_COLUMNS, TimestampUnit,
};
pub use generator::{
    DoubleRange, FieldValues, GeneratorField, GeneratorSource, IntRange, NexmarkGenerator, NexmarkStream, Sequence,
    StringValues, TimestampSteps,
};
pub use pipeline::{
    CheckpointsSpec, DeploymentSpec, FilePositionSpec, ImagePullPolicy, MoveSourceSpec, OnDelete, OutputSpec, Pipeline,
    PipelineSpec, RETRY, SavepointSpec, SideOutput, StartFromSpec, TransformSpec, VolumeSpec, is_object_store,
};
pub use quantity::{Quantity, QuantityError};
pub use reference::reference;
pub use sink::{
    BatchSpec, CredentialsSpec, CsvSinkFormat, DeltaSink, FileSink, ParquetCompression, ParquetSink, SchemaEvolution,
    SecretRef, Sink, SinkDestination, SinkFormat, SinkFormatKind, SinkSpec, StdoutSink,
};
pub use source::{Compression, EventTimeSpec, FileSource, OnError, SourceConnector, SourceSpec, StdinSource};
pub use status::{
    ChangeResult, ChangeStatus, CheckpointStatus, CommitStatus, EditClass, Phase, PipelineStatus, RejectedStatus,
    RevisionStatus, SavepointStatus, SinkErrorStatus, SinkStatus, SourceStatus, StartedStatus, ThroughputStatus,
    WindowStatus,
};
pub use window::{
    HoppingWindow, LateRows, RollingWindow, SessionWindow, TumblingWindow, Window, WindowForm, WindowSpec,
};

/// The API group of all three kinds.
pub const GROUP: &str = "millrace.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";
/// What a manifest's `apiVersion` says.
pub const API_VERSION: &str = "millrace.dev/v1alpha1";

/// The only one that is set.
fn only<T, const N: usize>(set: [Option<T>; N]) -> Option<T> {
    let mut set = set.into_iter().flatten();
    let first = set.next()?;
    set.next().is_none().then_some(first)
}
