//! Exactly once, whatever goes wrong: Pipelines run as pods, through the operator, while containers are killed, pods deleted,
//! coordinators frozen, volumes filled, and the API server, etcd and the kubelet taken away. In the end each row is there
//! once and every window is right, as an oracle over all rows in one batch says.
//!
//! `MILLRACE_FAULTS` says how many pods are killed, deleted and paused (21 without it); `MILLRACE_SEED` makes the same choices
//! again.

mod away;
mod flow;
mod full;
mod killed;
mod zombie;
