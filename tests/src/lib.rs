//! What the end-to-end tests share: the real `millrace` command as a child process, readers of what it wrote, and oracles
//! that compute the same in one batch.
//!
//! A test gets a [`Workspace`], writes manifests and inputs into it, runs `millrace` there with [`Millrace`] and reads the
//! outputs as a [`Table`]. Nothing sleeps for a fixed time and hopes: [`wait`] polls a condition until its deadline. Every
//! random choice follows from a [`Seed`] that is printed, and `MILLRACE_SEED` replays it.

pub mod cluster;
pub mod coordination;
pub mod delta;
pub mod exposition;
pub mod http;
pub mod manifest;
pub mod oracle;
pub mod process;
pub mod read;
pub mod s3;
pub mod seed;
pub mod table;
pub mod wait;
pub mod watcher;
pub mod workspace;

pub use process::{Finished, Millrace, Running};
pub use seed::Seed;
pub use table::{Cell, Row, Table};
pub use wait::Deadline;
pub use workspace::Workspace;
