//! How a plan runs: tasks, exchange, transforms, windows and the coordinator.

pub mod operator;
