//! The `millrace` command, one pipeline's runtime on a laptop or in a pod, and `kubectl millrace`, which has its manifests,
//! plans and words from the same code.

mod checkpoints;
mod clear;
mod cli;
mod clock;
mod cluster;
mod connections;
mod context;
mod control;
mod event_log;
mod exposition;
mod kubectl;
mod live;
mod manifests;
mod open_files;
mod overview;
mod owner;
mod plan;
mod rates;
mod repair;
mod run;
mod server;
mod signals;
mod storage;
mod telemetry;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command, EXIT_FAILED};

pub use crate::kubectl::main as kubectl_millrace;

/// What the `millrace` command does with its arguments.
pub fn millrace() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = telemetry::start(&cli) {
        eprintln!("error: --log {}: {error}", cli.log);
        return ExitCode::from(cli::EXIT_USAGE);
    }
    install_tls();
    open_files::raise_limit();
    let done = match cli.command {
        Command::Worker(args) => cluster::work(args),
        Command::Run(args) => run::run(args),
        Command::Check(args) => plan::check(&args),
        Command::Plan(args) => plan::show(&args),
        Command::Checkpoints(command) => checkpoints::run(command),
        Command::Schema(args) => {
            if args.json {
                telemetry::say(&format!("{:#}", millrace_crds::json_schema()));
            } else {
                telemetry::print(&millrace_crds::crd_yaml());
            }
            Ok(())
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "millrace", &mut script);
            telemetry::print(&String::from_utf8_lossy(&script));
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Libraries in this process know two providers of TLS' cryptography; none of them may choose by chance.
fn install_tls() {
    // It fails only if there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Why a command did not do what was asked, as the user is told.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
    advice: Option<String>,
}

impl Failure {
    /// The pipeline, or the command, failed.
    pub fn failed(text: impl Into<String>) -> Self {
        Self { code: EXIT_FAILED, text: text.into(), advice: None }
    }

    /// What was given cannot be used; nothing was started.
    pub fn usage(text: impl Into<String>) -> Self {
        Self { code: cli::EXIT_USAGE, text: text.into(), advice: None }
    }

    /// Nothing is left to say: the problems have been printed.
    pub fn told() -> Self {
        Self::usage("")
    }

    /// Says what the user can do.
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    fn report(self) -> ExitCode {
        if !self.text.is_empty() {
            eprintln!("{} {}", telemetry::paint("error:", telemetry::RED), self.text);
        }
        if let Some(advice) = self.advice {
            eprintln!("{} {advice}", telemetry::paint("help:", telemetry::GREEN));
        }
        ExitCode::from(self.code)
    }
}
