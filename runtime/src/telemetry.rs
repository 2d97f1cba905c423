//! Logs and colours on standard error.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt, prelude::*};

use crate::{
    cli::{self, Cli, LogFormat},
    live::AboveView,
};

/// Errors.
pub const RED: &str = "\x1b[1;31m";
/// Advice.
pub const GREEN: &str = "\x1b[1;32m";
const RESET: &str = "\x1b[0m";

/// Whether standard error takes colours: it is a terminal that is not dumb, and the user has not said `NO_COLOR`.
pub fn colours() -> bool {
    !is_dumb() && io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether a picture can be drawn: both outputs are a terminal that can move its cursor.
pub fn takes_pictures() -> bool {
    !is_dumb() && io::stderr().is_terminal() && io::stdout().is_terminal()
}

/// Whether nothing is known of the terminal but that it shows text.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// The text in a colour, where standard error takes colours.
pub fn paint(text: &str, colour: &str) -> String {
    if colours() { format!("{colour}{text}{RESET}") } else { text.to_owned() }
}

/// Prints a line of what the user asked for.
pub fn say(line: &str) {
    print(&format!("{line}\n"));
}

/// Prints what the user asked for. Whoever reads only the beginning of it, as `head` does, has all that they want: nothing
/// is left to do then.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("error: cannot write to the standard output: {error}");
            std::process::exit(cli::EXIT_FAILED.into());
        }
        Ok(()) => {}
    }
}

/// Says something to the user that is no log line.
pub fn tell(text: &str) {
    // Who closed standard error does not want to know.
    let _ = AboveView.write_all(format!("{text}\n").as_bytes());
}

/// Sends logs to standard error.
pub fn start(cli: &Cli) -> Result<(), ParseError> {
    // A level alone is for our own crates; others' only speak up when something is wrong.
    let filter = match cli.log.parse::<tracing::Level>() {
        Ok(level) => EnvFilter::try_new(format!("warn,millrace={level},{}", crates(level)))?,
        Err(_) => EnvFilter::try_new(&cli.log)?,
    };
    let registry = tracing_subscriber::registry().with(filter);
    match cli.log_format {
        LogFormat::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(|| AboveView)).init();
        }
        LogFormat::Text => {
            registry.with(fmt::layer().with_target(false).with_ansi(colours()).with_writer(|| AboveView)).init();
        }
    }
    Ok(())
}

fn crates(level: tracing::Level) -> String {
    let ours = ["connectors", "engine", "plan", "state", "stream"];
    ours.map(|name| format!("millrace_{name}={level}")).join(",")
}
