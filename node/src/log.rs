//! Log lines on standard error.

use std::{
    env::{self, VarError},
    io::{self, IsTerminal as _},
};

use anyhow::{anyhow, bail};
use tracing_subscriber::EnvFilter;
use trunkline_node::config::LogLevel;

/// Overrides the configured level, with the directives of `tracing_subscriber::EnvFilter`: `debug`, or
/// `info,trunkline_node::relay=trace`.
const VARIABLE: &str = "TRUNKLINE_LOG";

/// Libraries that have much to say of every packet. A directive of their own in [`VARIABLE`] lets them.
const QUIET: [&str; 7] = ["quinn", "quinn_proto", "quinn_udp", "rustls", "h2", "tonic", "hyper_util"];

/// Starts logging.
pub(crate) fn start(level: LogLevel) -> anyhow::Result<()> {
    let overrides = match env::var(VARIABLE) {
        Ok(overrides) => overrides,
        Err(VarError::NotPresent) => String::new(),
        Err(VarError::NotUnicode(_)) => bail!("{VARIABLE} is not UTF-8 text"),
    };
    let filter = EnvFilter::builder().parse(directives(level, &overrides)).map_err(|error| {
        anyhow!("{VARIABLE} is {overrides:?}; write a level, or TARGET=LEVEL, separated by commas: {error}")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init()
        .map_err(anyhow::Error::from_boxed)
}

/// Later directives replace earlier ones for the same target.
fn directives(level: LogLevel, overrides: &str) -> String {
    let quiet = if level == LogLevel::Error { LogLevel::Error } else { LogLevel::Warn }.word();
    let libraries: String = QUIET.iter().map(|library| format!(",{library}={quiet}")).collect();
    let separator = if overrides.is_empty() { "" } else { "," };
    format!("{}{libraries}{separator}{overrides}", level.word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_replaces_the_level_and_leaves_the_libraries_quiet() {
        let filter = EnvFilter::builder().parse(directives(LogLevel::Info, "debug,rustls=trace")).unwrap().to_string();
        let directives: Vec<&str> = filter.split(',').collect();
        for expected in ["debug", "rustls=trace", "quinn=warn", "h2=warn"] {
            assert!(directives.contains(&expected), "{filter}");
        }
        assert!(!directives.contains(&"info"), "{filter}");
    }

    #[test]
    fn at_error_the_libraries_do_not_warn() {
        assert!(directives(LogLevel::Error, "").contains("quinn=error"));
    }
}
