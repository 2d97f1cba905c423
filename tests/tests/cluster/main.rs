//! Tests on a real cluster, and of what is made for clusters: the chart, the manifests, the tools of GitOps.
//!
//! Those that need a cluster run where `MILLRACE_CLUSTER` is set; see `millrace_tests::cluster`.

#![allow(clippy::unwrap_used)]

mod buckets;
mod chart;
mod columns;
mod dashboard;
mod demo;
mod edits;
mod examples;
mod faults;
mod gitops;
mod latency;
mod live;
mod operator;
mod plugin;
mod pods;
mod reasons;
mod refused;
mod release;
mod restarts;
mod rights;
mod rollback;
mod secrets;
mod upgrade;
mod wishes;
mod worker;
