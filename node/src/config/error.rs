//! What can be wrong with a configuration, in words that name where a value comes from and its key.

use std::{fmt, io, path::PathBuf};

/// Why a configuration was refused. Nothing was started, and no default was taken in its place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no such file.
    #[error(
        "config file {} does not exist; name an existing one with --config, a node does not start on defaults alone",
        path.display()
    )]
    Missing {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// The file is there and could not be read.
    #[error("config file {} cannot be read: {reason}", path.display())]
    Unreadable {
        /// The path that was asked for.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The file is not text.
    #[error("{}:{line}: the file is not UTF-8 text from this line on", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first line that is not text, from 1.
        line: usize,
    },
    /// The file is not TOML.
    #[error("{}:{line}:{column}: {text}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What is wrong there.
        text: String,
    },
    /// Keys are unknown or missing, or their values are refused. All of them are listed, one a line.
    #[error("{}", list(problems))]
    Invalid {
        /// At least one: those of the file by line, then those of flags and variables by key.
        problems: Vec<Problem>,
    },
}

/// One key that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where the value comes from.
    pub origin: Origin,
    /// The key with its table, such as `limits.streams_max`.
    pub key: String,
    /// What is wrong with it, and what would be right.
    pub text: String,
}

/// Where a value of a configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1; for a key that is missing, the line of its table, or 1 if that is missing too.
        line: usize,
    },
    /// A flag, such as `--limits-streams-max`.
    Flag(String),
    /// An environment variable, such as `TRUNKLINE_LIMITS_STREAMS_MAX`.
    Variable(String),
    /// The program that made the [`NodeConfig`](super::NodeConfig).
    Program,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.origin, self.key, self.text)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::Program => f.write_str("the program's configuration"),
        }
    }
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}
