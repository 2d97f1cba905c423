//! The life of Pipelines in a cluster in memory.

mod crashes;
mod deletion;
mod documents;
mod edits;
mod gallery;
mod hearsay;
mod rest;
mod rollback;
mod says;
mod silence;
mod unfit;
mod volumes;
