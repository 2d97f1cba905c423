//! The life of Pipelines in a cluster in memory.

mod documents;
mod edits;
mod rest;
mod says;
