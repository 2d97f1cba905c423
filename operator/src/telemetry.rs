//! Logs on standard error, and errors as they are told.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt, prelude::*};

use crate::cli::LogFormat;

/// Sends logs to standard error.
///
/// # Errors
/// The filter cannot be understood.
pub fn start(filter: &str, format: LogFormat) -> Result<(), ParseError> {
    // A level alone is for our own crates; others' only speak up when something is wrong.
    let filter = match filter.parse::<tracing::Level>() {
        Ok(level) => EnvFilter::try_new(format!("warn,millrace_operator={level},millrace_plan={level}"))?,
        Err(_) => EnvFilter::try_new(filter)?,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match format {
        LogFormat::Json => registry.with(fmt::layer().json().flatten_event(true).with_writer(stderr)).init(),
        LogFormat::Text => {
            registry.with(fmt::layer().with_target(false).with_ansi(colours).with_writer(stderr)).init();
        }
    }
    Ok(())
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
