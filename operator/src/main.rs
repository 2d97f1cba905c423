//! The `millrace-operator` binary.

fn main() {}
