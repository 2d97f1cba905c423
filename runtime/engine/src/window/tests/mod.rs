//! Keyed operators against naive models: random rows, watermarks, barriers, restarts, rescales and memory budgets.
//!
//! Every case comes from a seed, which a failure names; `MILLRACE_SEED` runs one of them alone, `MILLRACE_CASES` says how
//! many are run.
#![allow(clippy::unwrap_used)]

pub(crate) mod aligned;
mod bounded;
pub(crate) mod damage;
mod eras;
mod facts;
pub(crate) mod fleet;
pub(crate) mod plans;
mod rolling;
mod session;

use std::fmt;

use arrow::{
    array::{Array, RecordBatch},
    util::display::{ArrayFormatter, FormatOptions},
};

/// A small generator of random numbers (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x1234_5678)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..below`.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    /// A number in `from..to`.
    pub(crate) fn between(&mut self, from: i64, to: i64) -> i64 {
        from + self.below((to - from) as u64) as i64
    }

    /// True in one of `times` cases.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Runs `case` for many seeds, and names the one that fails.
pub(crate) fn for_seeds(cases: u64, case: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seeds = match number("MILLRACE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MILLRACE_CASES").unwrap_or(cases),
    };
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| case(seed)) {
            eprintln!("failed with MILLRACE_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A value of a column, as text; doubles are rounded, since partial sums may be added in any order.
pub(crate) fn text_of(batch: &RecordBatch, column: usize, row: usize) -> String {
    use arrow::{array::AsArray, datatypes::Float64Type};
    let array = batch.column(column);
    if array.is_null(row) {
        return "-".into();
    }
    if let Some(doubles) = array.as_primitive_opt::<Float64Type>() {
        return rounded(doubles.value(row));
    }
    ArrayFormatter::try_new(array, &FormatOptions::default()).unwrap().value(row).to_string()
}

/// A double, to six digits.
pub(crate) fn rounded(value: f64) -> String {
    format!("{:.6}", if value == 0.0 { 0.0 } else { value })
}

/// Rows as sorted lines of text.
pub(crate) fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let columns: Vec<String> = (0..batch.num_columns()).map(|column| text_of(batch, column, row)).collect();
            lines.push(columns.join(" | "));
        }
    }
    lines.sort();
    lines
}

/// Something or `-`.
pub(crate) fn or_dash(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}
