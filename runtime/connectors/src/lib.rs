//! Where rows come from and go to.
//!
//! One file or folder a connector, each behind [`Source`] or [`Sink`]; formats are in [`format`]. A connector knows its
//! own system and Arrow batches; it knows nothing of tasks, windows or checkpoints but what these traits say.

pub mod sink;
pub mod source;

pub use sink::{CommitHandle, Committer, Sink, SinkContext, SinkError, SinkFactory};
pub use source::{Read, ReplayPoint, Source, SourceContext, SourceError, SourceReader, SplitId};
