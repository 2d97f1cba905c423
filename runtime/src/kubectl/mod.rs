//! `kubectl millrace`: looks at Pipelines in a cluster, and asks things of them.
//!
//! ```text
//!  Pipeline.status ─────────┐
//!  ConfigMap <name>-report ─┼─ status      what runs, problems first
//!  ConfigMap <name>-plan ───┼─ plan -f     what an edit would do, by the diff that the operator has
//!  Pipeline.spec ◀──────────┴─ savepoint, suspend, resume
//!  Pods ◀───────────────────── logs, restart
//! ```
//!
//! It needs no rights but those on these objects, and speaks to no pod but for its log. What is asked for is a field of the
//! Pipeline, so a Pipeline that Argo CD or Flux keeps as a repository has it is better asked by an edit there.

mod ask;
mod cli;
mod cluster;
mod edit;
mod graph;
mod logs;
mod problems;
mod status;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use self::{
    cli::{Cli, Command},
    cluster::Cluster,
};
use crate::{Failure, telemetry};

/// What the `kubectl-millrace` command does with its arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "kubectl-millrace", &mut script);
        telemetry::print(&String::from_utf8_lossy(&script));
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(Failure::failed(format!("cannot start: {error}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let cluster = Cluster::connect(&cli.target).await?;
    match cli.command {
        Command::Status(args) => status::show(&cluster, &args).await,
        Command::Plan(args) => edit::show(&cluster, &args).await,
        Command::Savepoint(args) => ask::savepoint(&cluster, &args).await,
        Command::Suspend(args) => ask::suspend(&cluster, &args, true).await,
        Command::Resume(args) => ask::suspend(&cluster, &args, false).await,
        Command::Restart(args) => ask::restart(&cluster, &args).await,
        Command::Logs(args) => logs::show(&cluster, &args).await,
        Command::Completions { .. } => Ok(()),
    }
}
