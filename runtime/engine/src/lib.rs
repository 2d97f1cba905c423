//! How a plan runs: tasks, exchange, transforms, windows and the coordinator.
//!
//! ```text
//! job ── recover ── launch ──▶ source task ─ links ─ exchange ─▶ keyed task ─ links ─▶ sink task
//!  │                               ▲                                │                     │
//!  └── drive ◀── reports ──────────┴────────────────────────────────┴─────────────────────┘
//!        └── actions of the coordinator: inject, write the manifest, move the pointer, commit
//! ```
//!
//! [`job::run`] is the way in. [`stages`] cuts a plan into what runs in one task; [`launch`] makes and starts the tasks;
//! [`drive`] carries out what `millrace_stream::checkpoint` decides. Keyed operators are behind
//! [`operator::KeyedOperator`].

pub mod aggregate;
pub mod blame;
mod chain;
pub mod channel;
pub mod commits;
mod conclude;
pub mod distinct;
pub mod drive;
mod failing;
pub mod group;
pub mod inputs;
pub mod job;
pub mod launch;
pub mod metrics;
pub mod operator;
pub mod recover;
pub mod router;
pub mod running;
pub mod stages;
mod started;
pub mod status;
pub mod steps;
mod stored_keys;
pub mod task;
pub mod topn;
pub mod window;

pub use chain::chain;
pub use job::{Command, JobContext, JobError, Outcome, run};
