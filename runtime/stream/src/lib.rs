//! What flows through a pipeline, and every decision about it that needs no I/O.
//!
//! A task receives [`Message`]s in the order in which they were sent: batches of rows, [watermarks](Message::Watermark)
//! that promise how far event time has come, and [`Barrier`]s that cut the stream into epochs. The modules here say what
//! those mean; [`checkpoint`] says when an epoch is decided.
//!
//! Nothing in this crate reads a clock, a file or a socket: time is handed in as a value or through [`Clock`].

pub mod checkpoint;
pub mod clock;
pub mod event_time;
pub mod ids;
pub mod key_group;
pub mod key_hash;
pub mod message;
pub mod watermark;

pub use clock::{Clock, ManualClock, Timestamp};
pub use event_time::EventTime;
pub use ids::{Epoch, Generation, NodeName, Revision, StageId, TaskId};
pub use key_group::{KEY_GROUPS, KeyGroup, KeyGroupRange};
pub use message::{Barrier, BarrierKind, EVENT_TIME_COLUMN, Message, OP_COLUMN, Operation};
pub use watermark::WatermarkTracker;
