//! `millrace worker`: one Pipeline in a pod.
//!
//! ```text
//!            lease ──── is it ours? ────┐                          ┌── commands ──▶ job thread ── pointer ──▶ P-checkpoint
//!  P-plan ── plan_watch ── wanted ──▶ worker ── steer (decides) ───┤                   │
//!                                       ▲                          └── report ◀─ events ┘
//!                                       └─────────────────────────────── report ──▶ P-report
//! ```
//!
//! [`worker`] is the loop that acts; what it does next is decided by pure functions in [`steer`], [`lease`] and [`report`].
//! A job runs on threads of its own, so that rows that keep every one of them busy do not keep the Lease from being renewed,
//! and so that a job that is dropped is gone when its threads are.
//!
//! **The API server away.** A run that has begun goes on: rows flow, an epoch that waits for the pointer waits (it is tried
//! again, and nothing else is opened meanwhile), and sinks show nothing new until it has moved. The Lease runs out and may
//! become another's. When the server is back the pointer decides: it moves for the generation that claimed it last.
//!
//! **Zombies.** Whoever was frozen or cut off may find the Lease with another, or the pointer claimed by a newer generation.
//! Either ends the job at once, without a checkpoint, and the pod waits for the Lease like any other.

mod api;
#[cfg(test)]
mod fake_api;
mod job_thread;
mod lease;
mod plan_watch;
mod pointer;
mod report;
mod said;
mod start;
mod steer;
mod worker;

use crate::{Failure, cli::WorkerArgs};

/// Runs the Pipeline of a pod until it is told to stop.
pub fn work(args: WorkerArgs) -> Result<(), Failure> {
    // Rows flow on the jobs' threads; these are for everything else.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    runtime.block_on(worker::work(args))
}
