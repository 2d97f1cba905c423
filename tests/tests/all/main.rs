//! The end-to-end tests: the real command, real files, real kills.

#![allow(clippy::unwrap_used)]

mod bounded;
mod changed_ranges_and_gaps;
mod changed_windows;
mod cli;
mod commits;
mod continuing;
mod control;
mod edits;
mod exactly_once;
mod examples;
mod far_moments;
mod flights_year;
mod generated;
mod given_up;
mod held;
mod hostile;
mod http;
mod idle;
mod inputs;
mod late;
mod late_rows;
mod mistakes;
mod ranked_sessions;
mod read_on;
mod readme;
mod recovery;
mod rollback;
mod s3;
mod savepoints;
mod stdin;
mod surroundings;
mod suspended;
mod taken_over;
mod terminal;
mod transforms;
