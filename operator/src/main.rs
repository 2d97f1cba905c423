//! The `millrace-operator` binary: watches Pipelines, Windows and Sinks and runs each Pipeline as a StatefulSet.
//!
//! ```text
//! watches ─▶ stores ─▶ dereference ─▶ validate ─▶ decide ─▶ build ─▶ status ─▶ apply
//!    └──── queue ────────▲                                              └─ writer ─ gate ─▶ API server
//! ```
//!
//! Of several replicas the one that holds the Lease works; see [`leader`].

mod backoff;
mod cli;
mod clock;
mod cluster;
mod conditions;
mod context;
mod controller;
mod fault;
mod labels;
mod leader;
mod metrics;
mod named;
mod operator;
mod pipeline;
mod plans;
mod queue;
mod room;
mod server;
mod sink;
mod telemetry;
#[cfg(test)]
mod testing;
mod window;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

/// Exit code of options that cannot be used.
const EXIT_USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = telemetry::start(&cli.log, cli.log_format) {
        eprintln!("error: --log {}: {error}", cli.log);
        return ExitCode::from(EXIT_USAGE);
    }
    match operator::run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", telemetry::chain(&error));
            ExitCode::FAILURE
        }
    }
}
