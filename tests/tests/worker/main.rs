//! The worker of a Pipeline against a real API server, without an operator: the tests make a Pipeline's objects and write
//! its plan.
//!
//! They need a cluster, so they run only where they are asked for:
//! `KUBECONFIG=… cargo test … --test worker -- --include-ignored`. Each has a namespace of its own.

#![allow(clippy::unwrap_used)]

mod away;
mod edits;
mod killed;
mod life;
mod pod;
mod volumes;
mod wishes;
mod zombie;
