//! Why the command failed, and the exit code that says so.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{interrupt::Signal, send::InputError};

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The operating system refused what the program itself needs.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// The input cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(Arc<io::Error>),
    /// No attachment to a node came about.
    #[error("{0}")]
    NoNode(trunkline::Error),
    /// No operator's socket answers.
    #[error("cannot ask the node at {}: {why}; is trunkline-node running, and is this its [admin] socket?", path.display())]
    NoAdmin {
        /// Where it was asked.
        path: PathBuf,
        /// What came instead of an answer.
        why: String,
    },
    /// The node, or the other end, does not want the bind or the stream.
    #[error("{0}")]
    NotReached(trunkline::Error),
    /// The stream that was sent did not end cleanly.
    #[error("{0}; some data may be missing there")]
    Ended(trunkline::Error),
    /// Not all producers were received whole.
    #[error("{why}; some data may be missing")]
    Incomplete {
        /// What is known to be amiss.
        why: String,
    },
    /// A signal ended it.
    #[error("{0}")]
    Interrupted(Signal),
}

impl Failure {
    /// Standard output is full or closed.
    pub(crate) fn output(error: io::Error) -> Self {
        Self::Output(Arc::new(error))
    }

    /// The admin socket does not answer.
    pub(crate) fn no_admin(path: &Path, why: impl Into<String>) -> Self {
        Self::NoAdmin { path: path.to_owned(), why: why.into() }
    }

    /// What the shell is told. `--help` lists them.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Start(_) | Self::Input(_) | Self::Output(_) => 1,
            Self::NoNode(_) | Self::NoAdmin { .. } => 3,
            Self::NotReached(_) => 4,
            Self::Ended(_) | Self::Incomplete { .. } => 5,
            Self::Interrupted(signal) => signal.exit_code(),
        }
    }

    /// For `--json`.
    pub(crate) fn to_json(&self) -> Value {
        let (code, offset) = match self {
            Self::NoNode(error) | Self::NotReached(error) | Self::Ended(error) => (error.code(), error.offset()),
            _ => (None, None),
        };
        let code = code.map(trunkline::Code::word);
        json!({ "exit_code": self.exit_code(), "message": self.to_string(), "code": code, "offset": offset })
    }
}
