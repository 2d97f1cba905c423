//! The command line of `kubectl millrace`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Millrace's Pipelines in a cluster: look at them, foresee edits, ask for savepoints.
#[derive(Debug, Parser)]
#[command(name = "kubectl-millrace", bin_name = "kubectl millrace", version, max_term_width = 100)]
#[command(after_help = "\
Examples:
  kubectl millrace status                     every Pipeline of the namespace, those with problems first
  kubectl millrace status flights             one, with its graph
  kubectl millrace plan -f flights/           what `kubectl apply -f flights/` would do
  kubectl millrace savepoint flights          take a savepoint, and wait for it
  kubectl millrace suspend flights            stop at a savepoint; `resume` goes on from there

Exit codes: 0 done, 1 it failed or was refused, 2 wrong manifests or options, or no cluster.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Which cluster, and where in it.
    #[command(flatten)]
    pub target: Target,
}

/// Which cluster, and where in it.
#[derive(Args, Debug)]
pub struct Target {
    /// The namespace. Without it the context's.
    #[arg(short = 'n', long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,

    /// The context of the kubeconfig. Without it the current one.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,

    /// The kubeconfig. Without it what KUBECONFIG says, or ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how Pipelines fare: problems, checkpoints, rates, lag, watermarks.
    #[command(after_help = "\
Examples:
  kubectl millrace status
  kubectl millrace status -A
  kubectl millrace status flights -n streams")]
    Status(StatusArgs),

    /// Show what applying manifests would do to the Pipelines that run.
    ///
    /// Windows and Sinks that the manifests do not hold are taken from the cluster. Nothing is changed. The exit code is 1
    /// if an edit would be refused.
    #[command(after_help = "\
Examples:
  kubectl millrace plan -f flights/
  kustomize build . | kubectl millrace plan -f -")]
    Plan(PlanArgs),

    /// Ask for a savepoint, and wait until it is complete.
    #[command(after_help = "Example:\n  kubectl millrace savepoint flights")]
    Savepoint(AskArgs),

    /// Stop a Pipeline at a savepoint, and wait until it stands.
    #[command(after_help = "Example:\n  kubectl millrace suspend flights --timeout-seconds 600")]
    Suspend(AskArgs),

    /// Let a Pipeline that was suspended go on, and wait until it runs.
    #[command(after_help = "Example:\n  kubectl millrace resume flights")]
    Resume(AskArgs),

    /// Make a Pipeline's pods anew, each from its last checkpoint, and wait until they are ready.
    #[command(after_help = "Example:\n  kubectl millrace restart flights")]
    Restart(AskArgs),

    /// Print the log of a Pipeline's pods.
    #[command(after_help = "\
Examples:
  kubectl millrace logs flights --tail 50 -f
  kubectl millrace logs flights --previous       what the container before this one said")]
    Logs(LogsArgs),

    /// Print the completions of a shell.
    #[command(after_help = "Example:\n  kubectl-millrace completions bash > /etc/bash_completion.d/kubectl-millrace")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// `kubectl millrace status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The Pipeline. Without it all of the namespace.
    #[arg(value_name = "PIPELINE")]
    pub pipeline: Option<String>,

    /// Of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "pipeline")]
    pub all_namespaces: bool,

    /// The form.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = StatusFormat::Text)]
    pub output: StatusFormat,
}

/// The form in which a status is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    /// For people.
    Text,
    /// What the cluster holds of it, an object a line.
    Json,
}

/// `kubectl millrace plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// A manifest, a folder of them (*.yaml, *.yml, *.json), or `-` for standard input. May be given several times.
    #[arg(short = 'f', long = "file", required = true, value_name = "PATH")]
    pub files: Vec<PathBuf>,
}

/// Something that is asked of a Pipeline.
#[derive(Args, Debug)]
pub struct AskArgs {
    /// The Pipeline.
    #[arg(value_name = "PIPELINE")]
    pub pipeline: String,

    /// Do not wait for what comes of it.
    #[arg(long)]
    pub no_wait: bool,

    /// Give up waiting after this many seconds. What was asked for stays asked for.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout_seconds: u64,
}

/// `kubectl millrace logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// The Pipeline.
    #[arg(value_name = "PIPELINE")]
    pub pipeline: String,

    /// Go on with what is logged from now on.
    #[arg(short = 'f', long)]
    pub follow: bool,

    /// Begin with the last so many lines.
    #[arg(long, value_name = "LINES")]
    pub tail: Option<i64>,

    /// Of the container before this one.
    #[arg(short = 'p', long)]
    pub previous: bool,
}
