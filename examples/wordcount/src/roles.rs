//! What map and reduce processes have in common: they obey a launcher, leave with it, and say why they failed.

pub(crate) mod map;
pub(crate) mod reduce;

use std::{
    io::{self, BufRead},
    path::PathBuf,
    process::{self, ExitCode},
    thread,
};

use tokio::{runtime, sync::oneshot};
use trunkline::{Code, LostProducer};

/// The exit status of a process that failed only because another one, or its node, was lost.
pub(crate) const EXIT_LOST: u8 = 3;

/// The exit status of a process whose launcher is gone. Nobody is left to see it.
const EXIT_ORPHANED: i32 = 4;

/// The line on standard input that lets mappers begin.
pub(crate) const BEGIN: &[u8] = b"begin\n";

/// Why a map or reduce process failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoleError {
    /// What the SDK said.
    #[error(transparent)]
    Trunkline(#[from] trunkline::Error),
    /// A mapper's stream ended before its end.
    #[error(
        "the stream of {name}@{node} was lost after {offset} bytes ({code}): {text}",
        name = .0.producer.name, node = .0.producer.node, offset = .0.offset, code = .0.code, text = .0.text
    )]
    Lost(LostProducer),
    /// A message holds something else than words and line feeds.
    #[error("a message of {0} does not end with a line feed")]
    Malformed(String),
    /// A file of the corpus.
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The launcher's folder, or the pipe to it.
    #[error("{what}: {source}")]
    Launcher {
        /// What was tried.
        what: &'static str,
        /// What came of it.
        source: io::Error,
    },
}

impl RoleError {
    /// For `map_err`, where the launcher's folder or pipe is used.
    fn launcher(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Launcher { what, source }
    }

    /// Whether somebody else's end was the cause, so that the launcher can name the one that died first.
    fn exit_status(&self) -> u8 {
        let code = match self {
            Self::Trunkline(error) => error.code(),
            Self::Lost(lost) => Some(lost.code),
            _ => None,
        };
        match code {
            Some(
                Code::Cancelled
                | Code::ProducerGone
                | Code::ConsumerGone
                | Code::ConsumerClosed
                | Code::TrunkLost
                | Code::NodeLost
                | Code::Draining
                | Code::Unreachable
                | Code::OutcomeUnknown,
            ) => EXIT_LOST,
            _ => 1,
        }
    }
}

/// Runs `role` to its end. It is given what resolves when the launcher says [`BEGIN`].
fn serve<F: Future<Output = Result<(), RoleError>>>(role: impl FnOnce(oneshot::Receiver<()>) -> F) -> ExitCode {
    let begin = watch_launcher();
    let outcome = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RoleError::launcher("cannot start the runtime"))
        .and_then(|runtime| runtime.block_on(role(begin)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}

/// Reads standard input on a thread of its own. The launcher never closes it while it lives; when it is closed, the
/// launcher is gone, and so is this process.
fn watch_launcher() -> oneshot::Receiver<()> {
    let (told, begin) = oneshot::channel();
    thread::spawn(move || {
        let mut told = Some(told);
        for line in io::stdin().lock().lines() {
            match line {
                Ok(line) if line.as_bytes() == BEGIN.trim_ascii_end() => {
                    // The role may have ended meanwhile, and needs no telling.
                    told.take().map(|told| told.send(()));
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        process::exit(EXIT_ORPHANED);
    });
    begin
}
