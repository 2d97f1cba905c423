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
//! # The SQL of a transform
//!
//! One SELECT over one input, or a UNION ALL of several. Text is `VARCHAR`, moments are in UTC, `_event_time` names a row's
//! event time. What else it may say depends on the fields beside it:
//!
//! | field | SELECT | gives |
//! |---|---|---|
//! | none | projection, WHERE, `unnest(list)` | a row for each row (or element) |
//! | `window` (tumbling, hopping, session) | GROUP BY, HAVING, `window_start`, `window_end`, `window_pane` | a row for each key and window |
//! | the same | … ORDER BY … LIMIT n, or ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) in a subquery and `<= n` around it | the first n of each window, or of each group in it |
//! | `window` (tumbling) | ORDER BY … LIMIT n, or ROW_NUMBER(), without GROUP BY | the first n rows of each window |
//! | `window` (rolling) | aggregates with GROUP BY key, or OVER (PARTITION BY key); any other column is the row's own | a row for each row, with aggregates over the range that ends with it |
//! | `emitEvery` or none | GROUP BY without a window | a changelog by the GROUP BY columns |
//! | `within` | DISTINCT ON (key), DISTINCT | the first row of each key in that time |
//!
//! `first_value` and `last_value` without ORDER BY go by event time.
//!
//! # How it is compiled
//!
//! A transform is compiled in four steps: its SQL is parsed and refused by its form (`sql`); what stands for event time and
//! window bounds is made callable (`rewrite`); DataFusion plans it, coerces types and simplifies (`logical`); and the
//! logical plan is split into stateless steps and keyed stages (`lower`).

mod blame;
mod boundary;
mod bounded;
mod checks;
mod columns;
mod comparisons;
mod compile;
mod constants;
mod depth;
mod diff;
mod doubts;
mod error;
pub mod explain;
mod far_moments;
mod form;
mod functions;
pub mod graph;
pub mod handover;
mod keys;
mod logical;
mod losses;
mod lower;
mod nth_value;
mod pseudo;
mod replay;
mod resolve;
mod rewrite;
pub mod sink_rules;
mod size;
mod sql;

pub use boundary::Boundaries;
pub use columns::errors_schema;
pub use compile::{compile, resolve_and_compile, resolve_and_compile_despite, resolve_and_compile_here};
pub use diff::{Edit, EditClass, NodeChange, diff, keeps_state};
pub use doubts::Doubts;
pub use error::{PlanError, SinkField, Span};
pub use functions::{Functions, functions};
pub use graph::*;
pub use losses::{UnknownLoss, unknown_losses};
pub use replay::keeps_replay_point;
pub use resolve::{resolve, revision};

#[cfg(test)]
mod tests;
