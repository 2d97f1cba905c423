//! What a pipeline means: specs compiled to a typed [`Plan`], and the class of an edit.
//!
//! ```text
//! PipelineSpec, Windows, Sinks ── resolve ──> ResolvedSpec ── compile ──> Plan ── explain ──> text, Graphviz
//!                                                  │                        └──── diff ─────> Edit
//!                                                  └── revision
//! ```
//!
//! Everything that can be wrong with a pipeline is found here, when the plan is made, and not when data comes. There is
//! no I/O: sources and sinks are described, not opened.
//!
//! A transform is compiled in four steps: its SQL is parsed and refused by its form (`sql`); what stands for event time and
//! window bounds is made callable (`rewrite`); DataFusion plans it, coerces types and simplifies (`logical`); and the
//! logical plan is split into stateless steps and keyed stages (`lower`).

mod checks;
mod columns;
mod compile;
mod diff;
mod error;
pub mod explain;
mod functions;
pub mod graph;
mod logical;
mod lower;
mod pseudo;
mod resolve;
mod rewrite;
pub mod sink_rules;
mod sql;

pub use columns::errors_schema;
pub use compile::{compile, resolve_and_compile};
pub use diff::{Edit, EditClass, NodeChange, diff};
pub use error::{PlanError, Span};
pub use functions::{Functions, functions};
pub use graph::*;
pub use resolve::{resolve, revision};

#[cfg(test)]
mod tests;
