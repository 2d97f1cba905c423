//! The command line.

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};

/// The runtime's image that belongs to this version.
pub const RUNTIME_IMAGE: &str = concat!("millrace/runtime:", env!("CARGO_PKG_VERSION"));

/// The Millrace operator: runs each Pipeline of a cluster as a StatefulSet.
#[derive(Debug, Parser)]
#[command(name = "millrace-operator", version, about, max_term_width = 100)]
#[command(after_help = "\
It takes the cluster from its pod's service account, or from KUBECONFIG.

Examples:
  millrace-operator                                           watch all namespaces
  millrace-operator --namespace streams                       watch one
  millrace-operator --runtime-image millrace:dev --log debug  try a runtime of one's own

Exit codes: 0 stopped by SIGTERM or SIGINT, 1 the cluster or the address cannot be used, 2 wrong options.")]
pub struct Cli {
    /// Watch this namespace alone, instead of all.
    #[arg(long, value_name = "NAME", env = "MILLRACE_NAMESPACE")]
    pub namespace: Option<String>,

    /// The image of runtime pods, where a Pipeline does not name another.
    #[arg(long, value_name = "IMAGE", env = "MILLRACE_RUNTIME_IMAGE", default_value = RUNTIME_IMAGE)]
    pub runtime_image: String,

    /// Serve /metrics, /healthz and /readyz on this address. Port 0 takes a free one and logs it.
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:9601")]
    pub listen: SocketAddr,

    /// The namespace of the Lease by which replicas agree on who leads. Without it the operator's own.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    pub lease_namespace: Option<String>,

    /// What tells this replica from the others. Without it the pod's name, or one made up.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub identity: Option<String>,

    /// How many objects are reconciled at a time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,

    /// How much to log: error, warn, info, debug or trace, or a filter such as `millrace_operator=debug`.
    #[arg(long, value_name = "FILTER", env = "MILLRACE_LOG", default_value = "info")]
    pub log: String,

    /// The form of log lines on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// An object a line.
    Json,
}
