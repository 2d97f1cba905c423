//! Where rows come from and go to.
//!
//! One file or folder a connector, each behind [`Source`] or [`Sink`]; formats are in [`mod@format`]. A connector knows its
//! own system and Arrow batches; it knows nothing of tasks, windows or checkpoints but what these traits say.

mod causes;
pub mod delta;
pub mod file_sink;
pub mod file_source;
pub mod format;
pub mod generator;
pub mod parquet_sink;
pub mod registry_sinks;
pub mod registry_sources;
pub mod sink;
pub mod source;
pub mod staging;
pub mod stdin;
pub mod stdout;

pub use registry_sinks::make_sink;
pub use registry_sources::make_source;
pub use sink::{CommitHandle, Committed, Committer, Sink, SinkContext, SinkError, SinkFactory};
pub use source::{Lag, Origin, Position, Read, ReplayPoint, Source, SourceContext, SourceError, SourceReader, SplitId};
