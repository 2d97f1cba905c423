//! What is remembered: keyed state over RocksDB, snapshots and the checkpoint store.
//!
//! ```text
//! operator ── RunWriter ──▶ TaskStore ── checkpoint(dir) ──▶ LocalFile.. ── upload_task ──▶ CheckpointStore
//!              sorted runs   one RocksDB                                                      files/ manifests/
//!                                                                       Manifest ── create ──▶ savepoints/
//!                                                                       Latest ── advance ──▶ Pointer (`latest`)
//! ```
//!
//! A [`TaskStore`] is scratch: what counts is the checkpoint that the [`Pointer`] names. A task is always restored from
//! that, never from the folder that it left behind when it died, so nothing in a store's folder needs to be atomic or
//! durable by itself; everything in the [`CheckpointStore`] is both.
//!
//! Every persisted form (chunk, manifest, pointer, data folder) has a version, a checksum, and a golden file in
//! `tests/golden`. Damage is told as [`StateError::Damaged`] with the place, what was found and what was expected; it is
//! never a panic, and never repaired in silence.

pub mod checkpoint_store;
pub mod chunk;
pub mod data_folder;
pub mod durable;
pub mod envelope;
pub mod error;
pub mod fault;
#[cfg(test)]
mod golden;
pub mod manifest;
pub mod pointer;
pub mod task_store;

pub use checkpoint_store::{CheckpointStore, Cleared, Create, ManifestEntry, Retired};
pub use data_folder::{DamagedFolder, DataFolder, Holder, Note, Opener};
pub use error::{ErrorKind, StateError};
pub use manifest::{Manifest, ManifestId, ManifestKind, SinkManifest, StoredFile, TaskManifest};
pub use pointer::{FilePointer, Latest, Newest, Pointer};
pub use task_store::{
    LocalFile, Origin, Pinned, RestoreFrom, RunStats, RunWriter, Scan, StoreResources, StoreStats, TaskStore,
};
