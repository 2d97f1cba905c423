//! The API server, as the rest of the operator sees it: stores that watches fill, and a writer.
//!
//! ```text
//!  API server ── watch ──▶ stores ──▶ reconcile ──▶ writer ── gate ──▶ API server
//!                  └── keys ──▶ queue ──┘
//! ```
//!
//! Reconciling reads nothing but the stores, with one exception: the Lease and the pointer of a Pipeline change with every
//! renewal and checkpoint, so they are not watched, but read when the operator first meets the Pipeline.

pub mod error;
pub mod key;
pub mod raw;
pub mod sameness;
pub mod stores;
pub mod warning;
pub mod watches;
pub mod writer;
