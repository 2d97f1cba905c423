//! What a pipeline means: specs compiled to a typed [`Plan`], and the class of an edit.
//!
//! Everything that can be wrong with a pipeline is found here, when the plan is made, and not when data comes. There is
//! no I/O: sources and sinks are described, not opened.

pub mod graph;

pub use graph::*;
