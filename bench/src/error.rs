//! Why there is no figure.

use std::{fmt, io, process::ExitStatus};

/// Why a measurement failed, or a process of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// An option that cannot be measured with.
    #[error("{0}")]
    Option(String),
    /// Something of the system's.
    #[error("cannot {0}: {1}")]
    Io(String, io::Error),
    /// A process that was started said why it cannot go on.
    #[error("the {0}'s process: {1}")]
    Role(&'static str, String),
    /// A process that was started is gone.
    #[error("the {0}'s process ended before it was done: {1}")]
    Ended(&'static str, ExitStatus),
    /// A process is no more than its parent is.
    #[error("whoever started this process is gone")]
    Orphan,
    /// It was said in words that the other end does not know.
    #[error("{0} said {1:?}, which is not what was to come: {2}")]
    Words(String, String, serde_json::Error),
    /// The two ends of a run do not agree.
    #[error("{0}")]
    Inexact(String),
    /// It takes longer than it may.
    #[error("{0} took longer than {1} s")]
    Late(String, u64),
    /// The SDK's.
    #[error(transparent)]
    Trunkline(#[from] trunkline::Error),
    /// QUIC's or TLS's, of the peers that are compared with.
    #[error("{0}: {1}")]
    Peer(&'static str, String),
    /// By a signal.
    #[error("stopped by {0}")]
    Interrupted(&'static str, u8),
}

impl BenchError {
    /// What was tried, in words that stand behind "cannot".
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io(what.into(), source)
    }

    /// What failed among the peers that are compared with.
    pub(crate) fn peer<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Peer(what, error.to_string())
    }

    /// What the program ends with.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Option(_) => 2,
            Self::Interrupted(_, number) => 128 + number,
            _ => 1,
        }
    }
}
