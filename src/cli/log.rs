//! Where log lines go and what they look like: stderr, pretty for people or JSON Lines for machines. What they say is `event`'s.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt};

use super::{
    failure::Failure,
    log_writer::GatheredStderr,
    output::{self, Paint},
};
use crate::config::LogFormat;

/// Libraries that log what they also return as errors, and more than once: heard only by who asks for them by name.
const QUIET_LIBRARIES: [&str; 2] = ["lapin", "amq_protocol"];

/// Sets the process's log up, once.
///
/// # Errors
/// `level` does not parse.
pub fn start(format: LogFormat, level: &str) -> Result<(), Failure> {
    let builder = fmt().with_env_filter(filter(level)?).with_writer(GatheredStderr).log_internal_errors(false);
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

fn filter(level: &str) -> Result<EnvFilter, Failure> {
    let bad = |_| Failure::usage(format!("`{level}` is not a log level"), "write it like info or info,tarishi::store=debug");
    let mut filter = EnvFilter::builder().parse(level).map_err(bad)?;
    for library in QUIET_LIBRARIES {
        if !level.contains(library) {
            filter = filter.add_directive(format!("{library}=off").parse().expect("a name and a level are a directive"));
        }
    }
    Ok(filter)
}

const fn is_pretty(format: LogFormat, on_terminal: bool) -> bool {
    match format {
        LogFormat::Auto => on_terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(level: &str, expected: &[&str]) {
        let filter = filter(level).unwrap().to_string();
        let mut directives: Vec<&str> = filter.split(',').collect();
        directives.sort_unstable();
        assert_eq!(directives, expected);
    }

    #[test]
    fn libraries_are_quiet_unless_they_are_asked_for() {
        check("info", &["amq_protocol=off", "info", "lapin=off"]);
        check("warn,lapin=debug", &["amq_protocol=off", "lapin=debug", "warn"]);
        assert!(filter("tarishi=loud").is_err());
    }
}
