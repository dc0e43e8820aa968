//! What the processes of a count have in common: they obey a launcher, leave with it, and say why they failed.
//!
//! A process is one worker, attached to the daemon of its node ([`worker`]), or its node and all workers of it
//! ([`node`]). Workers do the same in both, as tasks of the process ([`crew`]).

mod crew;
mod map;
pub(crate) mod node;
mod reduce;
mod stall;
pub(crate) mod worker;

use std::{
    io::{self, BufRead},
    path::PathBuf,
    process::{self, ExitCode},
    thread,
};

use tokio::{runtime, sync::watch};
use trunkline::{Code, LostProducer};

/// The exit status of a process that failed only because another one, or its node, was lost.
pub(crate) const EXIT_LOST: u8 = 3;

/// The exit status of a process whose launcher is gone. Nobody is left to see it.
const EXIT_ORPHANED: i32 = 4;

/// What the launcher says on standard input, a word a line. Each allows what the ones before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Word {
    /// Nothing yet: it is not written.
    Wait,
    /// To a process with an embedded node: all nodes listen, and streams may be opened.
    Open,
    /// To mappers: all streams are open, and words may be sent; where a job stalls, those of half of the files.
    Begin,
    /// To mappers that are not told their rounds beforehand: this one, and those before it.
    Round(u64),
    /// To the same: this one is the last.
    Last(u64),
    /// To the mappers of the stalled job: words may be sent until nobody takes them.
    Fill,
    /// To counting mappers: the words of the other half may be sent.
    Rest,
    /// To the reducers of the stalled job: they may read. To its mappers: it is enough.
    Wake,
}

impl Word {
    /// What is written for it, with the line feed.
    pub(crate) fn line(self) -> String {
        match self {
            Self::Wait => String::new(),
            Self::Open => "open\n".to_owned(),
            Self::Begin => "begin\n".to_owned(),
            Self::Round(number) => format!("round {number}\n"),
            Self::Last(number) => format!("last {number}\n"),
            Self::Fill => "fill\n".to_owned(),
            Self::Rest => "rest\n".to_owned(),
            Self::Wake => "wake\n".to_owned(),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let number = |number: &str| number.parse().ok();
        match line.split_once(' ') {
            Some(("round", round)) => number(round).map(Self::Round),
            Some(("last", round)) => number(round).map(Self::Last),
            Some(_) => None,
            None => [Self::Open, Self::Begin, Self::Fill, Self::Rest, Self::Wake]
                .into_iter()
                .find(|word| word.line().trim_end() == line),
        }
    }
}

/// The latest word of the launcher.
#[derive(Debug, Clone)]
struct Words(watch::Receiver<Word>);

impl Words {
    /// Waits until `word` is said.
    async fn wait_for(&mut self, word: Word) {
        // An error means that the launcher is gone, and then this process is about to be.
        let _ = self.0.wait_for(|said| *said >= word).await;
    }

    /// Whether there is a round of this `number`: waits until that is said.
    async fn have_round(&mut self, number: u64) -> bool {
        // An error means that the launcher is gone, and then this process is about to be.
        let said = self.0.wait_for(|said| *said >= Word::Round(number)).await;
        !said.is_ok_and(|said| matches!(*said, Word::Last(last) if last < number))
    }

    /// Whether `word` is said.
    fn have(&self, word: Word) -> bool {
        *self.0.borrow() >= word
    }
}

/// Why a process failed.
#[derive(Debug, thiserror::Error)]
enum RoleError {
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
    /// The configuration of an embedded node.
    #[error(transparent)]
    Config(#[from] trunkline::node::ConfigError),
    /// One of several workers.
    #[error("{name}: {error}")]
    Worker {
        /// Which.
        name: String,
        /// Why.
        error: Box<RoleError>,
    },
}

impl RoleError {
    /// For `map_err`, where the launcher's folder or pipe is used.
    fn launcher(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Launcher { what, source }
    }

    /// For `map_err`, where something is told.
    fn untold(source: io::Error) -> Self {
        Self::Launcher { what: "cannot tell the launcher", source }
    }

    /// Whether somebody else's end was the cause, so that the launcher can name the one that died first.
    fn exit_status(&self) -> u8 {
        let code = match self {
            Self::Trunkline(error) => error.code(),
            Self::Lost(lost) => Some(lost.code),
            Self::Worker { error, .. } => return error.exit_status(),
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

/// Runs `role` to its end, with what the launcher says.
fn serve<F: Future<Output = Result<(), RoleError>>>(role: impl FnOnce(Words) -> F) -> ExitCode {
    let words = listen_to_launcher();
    let outcome = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RoleError::launcher("cannot start the runtime"))
        .and_then(|runtime| runtime.block_on(role(words)));
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
fn listen_to_launcher() -> Words {
    let (said, words) = watch::channel(Word::Wait);
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            match line.as_deref().map(Word::parse) {
                Ok(Some(word)) => {
                    said.send_replace(word);
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
        process::exit(EXIT_ORPHANED);
    });
    Words(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_reads_as_it_is_written_and_allows_what_earlier_ones_do() {
        for word in [Word::Open, Word::Begin, Word::Round(7), Word::Last(8), Word::Fill, Word::Rest, Word::Wake] {
            assert_eq!(Word::parse(word.line().trim_end()), Some(word));
        }
        for nonsense in ["stop", "", "round", "round x", "begin 1"] {
            assert_eq!(Word::parse(nonsense), None);
        }
        assert!(Word::Wait < Word::Open && Word::Open < Word::Begin);
        assert!(Word::Begin < Word::Round(1) && Word::Round(1) < Word::Round(2) && Word::Round(9) < Word::Last(1));
        assert!(Word::Begin < Word::Fill && Word::Fill < Word::Rest && Word::Rest < Word::Wake);
    }

    #[tokio::test]
    async fn rounds_go_on_until_one_is_said_to_be_the_last() {
        let (said, words) = watch::channel(Word::Begin);
        let mut words = Words(words);
        said.send_replace(Word::Round(2));
        assert!(words.have_round(1).await && words.have_round(2).await);
        let (third, ()) = tokio::join!(words.have_round(3), async {
            said.send_replace(Word::Last(2));
        });
        assert!(!third);
        // Whoever is slow may hear that only.
        assert!(words.have_round(2).await);
    }

    #[test]
    fn one_of_several_workers_is_named_and_fails_for_its_own_reason() {
        let unreadable = || RoleError::Unreadable { path: "x".into(), source: io::ErrorKind::NotFound.into() };
        let named = |error| RoleError::Worker { name: "wordcount/map-1".to_owned(), error: Box::new(error) };
        assert!(named(unreadable()).to_string().starts_with("wordcount/map-1: cannot read x: "));
        assert_eq!(named(unreadable()).exit_status(), 1);
    }
}
