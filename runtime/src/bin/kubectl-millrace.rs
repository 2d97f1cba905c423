//! The `kubectl-millrace` command, which kubectl runs as `kubectl millrace`.

use std::process::ExitCode;

fn main() -> ExitCode {
    millrace::kubectl_millrace()
}
