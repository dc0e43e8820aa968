//! Log lines on standard error.

use std::{
    env::{self, VarError},
    io::{self, IsTerminal as _},
};

use anyhow::{anyhow, bail};
use tracing_subscriber::EnvFilter;
use trunkline_node::config::LogLevel;

/// Overrides the configured level, with the directives of `tracing_subscriber::EnvFilter`: `debug`, or
/// `info,trunkline_node::events=debug`, which adds a line for each turn in a stream's life.
const VARIABLE: &str = "TRUNKLINE_LOG";

/// Libraries that have much to say of every packet. A directive of their own in [`VARIABLE`] lets them.
const QUIET: [&str; 7] = ["quinn", "quinn_proto", "quinn_udp", "rustls", "h2", "tonic", "hyper_util"];

/// What a directive without a target can be.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Starts logging.
pub(crate) fn start(level: LogLevel) -> anyhow::Result<()> {
    let overrides = match env::var(VARIABLE) {
        Ok(overrides) => overrides,
        Err(VarError::NotPresent) => String::new(),
        Err(VarError::NotUnicode(_)) => bail!("{VARIABLE} is not UTF-8 text"),
    };
    if let Some(word) = unknown_word(&overrides) {
        bail!(
            "{VARIABLE} is {overrides:?}, and {word:?} is no level; write one of {}, or TARGET=LEVEL, separated by commas",
            LEVELS.join(", ")
        );
    }
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

fn level_in(word: &str) -> Option<&'static str> {
    LEVELS.into_iter().find(|level| level.eq_ignore_ascii_case(word.trim()))
}

/// The first directive that is one word, and neither a level nor a target that there may be. `EnvFilter` would take it
/// for a target, and turn everything else off.
fn unknown_word(overrides: &str) -> Option<&str> {
    let is_target = |word: &str| {
        let root = word.split("::").next().unwrap_or_default();
        root == "trunkline_node" || QUIET.contains(&root)
    };
    let is_word = |directive: &&str| !directive.is_empty() && !directive.contains(['=', '[', ']', '{', '}']);
    overrides.split(',').map(str::trim).filter(is_word).find(|word| level_in(word).is_none() && !is_target(word))
}

/// Later directives replace earlier ones for the same target.
fn directives(level: LogLevel, overrides: &str) -> String {
    let level = overrides.split(',').rev().find_map(level_in).unwrap_or(level.word());
    // Below trace they warn at most.
    let quiet = if ["info", "debug"].contains(&level) { "warn" } else { level };
    let libraries: String = QUIET.iter().map(|library| format!(",{library}={quiet}")).collect();
    let separator = if overrides.is_empty() { "" } else { "," };
    format!("{level}{libraries}{separator}{overrides}")
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
    fn at_trace_the_libraries_have_their_say_wherever_it_comes_from() {
        for directives in [directives(LogLevel::Trace, ""), directives(LogLevel::Info, "trace")] {
            assert!(directives.contains(",quinn=trace"), "{directives}");
        }
        assert!(directives(LogLevel::Trace, "debug").contains(",quinn=warn"));
        assert!(directives(LogLevel::Info, "off").contains(",quinn=off"));
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for good in
            ["", "debug", "INFO,", "off,quinn", "info,trunkline_node::events=debug", "rustls=trace", "tower=info"]
        {
            assert_eq!(unknown_word(good), None, "{good}");
        }
        for bad in ["louder", "info,louder", "debug,events,trace"] {
            assert!(unknown_word(bad).is_some_and(|word| ["louder", "events"].contains(&word)), "{bad}");
        }
    }

    #[test]
    fn at_error_the_libraries_do_not_warn() {
        assert!(directives(LogLevel::Error, "").contains("quinn=error"));
    }
}
