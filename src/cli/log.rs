//! Where log lines go and what they look like: stderr, pretty for people or JSON Lines for machines. What they say is `event`'s.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt};

use super::{
    failure::Failure,
    log_writer::GatheredStderr,
    output::{self, Paint},
};
use crate::config::LogFormat;

/// Sets the process's log up, once.
///
/// # Errors
/// `level` does not parse.
pub fn start(format: LogFormat, level: &str) -> Result<(), Failure> {
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|_| Failure::usage(format!("`{level}` is not a log level"), "write it like info or info,tarishi::store=debug"))?;
    let builder = fmt().with_env_filter(filter).with_writer(GatheredStderr).log_internal_errors(false);
    let started = if is_pretty(format, io::stderr().is_terminal()) {
        builder.compact().with_target(false).with_ansi(Paint::stderr().is_on()).try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    if started.is_err() {
        output::note("note: the log was set up already; --log-format and --log-level are without effect");
    }
    Ok(())
}

const fn is_pretty(format: LogFormat, on_terminal: bool) -> bool {
    match format {
        LogFormat::Auto => on_terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    }
}
