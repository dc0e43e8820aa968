//! What can go wrong, in one type.

use std::{fmt, io, path::Path, time::Duration};

use trunkline_proto::code::Code;
use trunkline_session::Aborted;

use crate::{event::StallCause, link::Ended};

/// What kind of thing went wrong: what a program may want to decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is not valid: a name, an address, a size. Nothing was done.
    Invalid,
    /// No connection to the node came about: there is no socket, or what answers there is no node.
    Connect,
    /// The node, or the other end, said no: to the connection, to a bind or to an open.
    Refused,
    /// It took longer than it may.
    Timeout,
    /// The node is shutting down. Streams that exist go on; nothing new begins.
    Draining,
    /// The stream or the bind was ended by the other end or by a node, and not cleanly.
    Aborted,
    /// The link to the local node is gone, and with it every stream of this attachment.
    NodeLost,
    /// A message is longer than may be sent. When `send` says so, the stream is unchanged.
    MessageTooLarge,
    /// Nothing can be sent at once: the consumer's credit, or the process's send budget, is used up. The stream is
    /// unchanged, the message was not taken; trying again later may succeed.
    Full,
    /// The attachment was closed by this process.
    Closed,
    /// An embedded node did not start: its configuration, its files, or an address that is in use.
    Node,
    /// The operating system refused something that is always needed: a thread, random bits.
    System,
}

/// An error of this crate.
///
/// Its text is a sentence that names the thing concerned; [`Error::kind`], [`Error::code`] and [`Error::offset`] are for
/// programs.
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    retryable: bool,
    code: Option<Code>,
    offset: Option<u64>,
    message: String,
}

impl Error {
    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same attempt may succeed later without anyone changing anything: a new open, bind or connect. It says
    /// nothing about what an ended stream had delivered; see [`Error::offset`].
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// The code that a node or the other end gave, when one did.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.0.code
    }

    /// For a stream that ended: how many bytes of it, lengths included, are known to have been consumed.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    fn new(kind: ErrorKind, retryable: bool, message: String) -> Self {
        Self(Box::new(Inner { kind, retryable, code: None, offset: None, message }))
    }

    fn with_code(mut self, code: Code) -> Self {
        self.0.code = Some(code);
        self
    }

    pub(crate) fn invalid(why: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Invalid, false, why.to_string())
    }

    pub(crate) fn connect(path: &Path, error: &io::Error) -> Self {
        let retryable = !matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput);
        let mut message = format!("cannot connect to the node at {}: {}", path.display(), plain(error));
        message += match error.kind() {
            io::ErrorKind::PermissionDenied => "; may this user use the node's [local] socket?",
            _ => "; is trunkline-node running, and is this its [local] socket?",
        };
        Self::new(ErrorKind::Connect, retryable, message)
    }

    pub(crate) fn no_node(path: &Path, why: impl fmt::Display) -> Self {
        let message =
            format!("what listens at {} does not answer as a node: {why}; is this its [local] socket?", path.display());
        Self::new(ErrorKind::Connect, false, message).with_code(Code::Protocol)
    }

    /// Nothing answered, which is also what a node does that is just going down.
    pub(crate) fn no_word(path: &Path) -> Self {
        let mut error = Self::no_node(path, "it closed the connection without a word");
        error.0.retryable = true;
        error
    }

    pub(crate) fn link_refused(path: &Path, code: Code, text: &str) -> Self {
        let kind = if code == Code::Draining { ErrorKind::Draining } else { ErrorKind::Refused };
        let message = format!("the node at {} refused this process: {code}: {text}", path.display());
        Self::new(kind, code.is_retryable(), message).with_code(code)
    }

    pub(crate) fn connect_timeout(path: &Path, timeout: Duration) -> Self {
        let message = format!("the node at {} did not answer within {timeout:?}", path.display());
        Self::new(ErrorKind::Timeout, true, message)
    }

    /// The last of several attempts.
    pub(crate) fn after(mut self, attempts: u32, spent: Duration) -> Self {
        let times = if attempts == 1 { "once".to_owned() } else { format!("{attempts} times") };
        self.0.message += &format!("; tried {times} in {:.1} s", spent.as_secs_f64());
        self
    }

    /// Says at the end where the path came from.
    pub(crate) fn with_origin(mut self, origin: &str) -> Self {
        self.0.message += &format!(" ({origin})");
        self
    }

    pub(crate) fn close_timeout(timeout: Duration) -> Self {
        let message = format!("not everything could be handed to the node within {timeout:?}");
        Self::new(ErrorKind::Timeout, false, message).with_code(Code::OutcomeUnknown)
    }

    /// The closing of a consumer, of whose streams so many are over with last words that the node did not take.
    pub(crate) fn linger_timeout(subject: impl fmt::Display, timeout: Duration, streams: usize) -> Self {
        let mut message = format!("{subject}: within {timeout:?} the node did not take the end of the bind");
        if streams > 0 {
            message += &format!(" and the last words of its streams, {streams} in number");
        }
        Self::new(ErrorKind::Timeout, false, message).with_code(Code::OutcomeUnknown)
    }

    #[cfg(feature = "embedded")]
    pub(crate) fn node(why: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Node, false, format!("the embedded node did not start: {why}"))
    }

    pub(crate) fn system(what: &str, why: impl fmt::Display) -> Self {
        Self::new(ErrorKind::System, true, format!("{what}: {why}"))
    }

    pub(crate) fn draining(subject: impl fmt::Display) -> Self {
        let message = format!("{subject}: the local node is shutting down and takes nothing new");
        Self::new(ErrorKind::Draining, true, message).with_code(Code::Draining)
    }

    pub(crate) fn ended(subject: impl fmt::Display, ended: &Ended) -> Self {
        match ended {
            Ended::Closed => {
                Self::new(ErrorKind::Closed, false, format!("{subject}: the attachment was closed by this process"))
                    .with_code(Code::Closed)
            }
            Ended::NodeLost(why) => {
                Self::new(ErrorKind::NodeLost, true, format!("{subject}: {why}")).with_code(Code::NodeLost)
            }
        }
    }

    pub(crate) fn message_too_large(subject: impl fmt::Display, length: usize, max: usize) -> Self {
        let message = format!("{subject}: a message of {length} bytes; at most {max} may be sent");
        Self::new(ErrorKind::MessageTooLarge, false, message).with_code(Code::MessageTooLarge)
    }

    pub(crate) fn longer_than_reserved(subject: impl fmt::Display, length: usize, reserved: usize) -> Self {
        let message = format!("{subject}: a message of {length} bytes; {reserved} were reserved");
        Self::new(ErrorKind::MessageTooLarge, false, message)
    }

    pub(crate) fn full(subject: impl fmt::Display, lacking: StallCause) -> Self {
        let why = match lacking {
            StallCause::Credit => "it has given no credit for more; try again when its application has read",
            StallCause::SendBudget => {
                "the send budget of this process is used up; try again when consumers have what was sent"
            }
        };
        Self::new(ErrorKind::Full, true, format!("{subject}: {why}"))
    }

    /// A bind that the node refused, or, when it was `live`, ended.
    pub(crate) fn bind(subject: impl fmt::Display, live: bool, code: Code, text: &str) -> Self {
        let kind = match code {
            Code::Draining => ErrorKind::Draining,
            _ if live => ErrorKind::Aborted,
            _ => ErrorKind::Refused,
        };
        Self::new(kind, code.is_retryable(), format!("{subject}: {code}: {text}")).with_code(code)
    }

    /// A stream that ended; `opening` while the other end had not accepted it.
    pub(crate) fn stream(subject: impl fmt::Display, opening: bool, why: &Aborted) -> Self {
        let kind = match why.code {
            Code::NodeLost => ErrorKind::NodeLost,
            Code::Closed => ErrorKind::Closed,
            Code::MessageTooLarge => ErrorKind::MessageTooLarge,
            Code::Draining if opening => ErrorKind::Draining,
            _ if opening => ErrorKind::Refused,
            _ => ErrorKind::Aborted,
        };
        let mut error = Self::new(kind, why.code.is_retryable(), format!("{subject}: {why}")).with_code(why.code);
        error.0.offset = Some(why.offset);
        error
    }
}

/// An operating system's error without the number that `io::Error` adds.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match (error.raw_os_error(), text.find(" (os error ")) {
        (Some(_), Some(end)) => text[..end].to_owned(),
        _ => text,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The sentence, for it is what `main` prints of an error that it returns.
        write!(f, "{} ({:?})", self.0.message, self.0.kind)
    }
}

impl std::error::Error for Error {}

/// For the standard I/O traits. The error itself is inside: `error.get_ref()` downcasts to it.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Invalid | ErrorKind::MessageTooLarge => io::ErrorKind::InvalidInput,
            ErrorKind::Connect | ErrorKind::Refused | ErrorKind::Draining => io::ErrorKind::ConnectionRefused,
            ErrorKind::Timeout => io::ErrorKind::TimedOut,
            ErrorKind::Aborted => io::ErrorKind::ConnectionReset,
            ErrorKind::NodeLost | ErrorKind::Closed => io::ErrorKind::BrokenPipe,
            ErrorKind::Full => io::ErrorKind::WouldBlock,
            ErrorKind::Node | ErrorKind::System => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_a_sentence_that_names_the_thing() {
        let error = Error::connect(Path::new("/run/x.sock"), &io::Error::from_raw_os_error(2));
        assert_eq!(
            error.to_string(),
            "cannot connect to the node at /run/x.sock: No such file or directory; is trunkline-node running, and is \
             this its [local] socket?"
        );
        assert!(error.is_retryable());
        let why = Aborted { code: Code::NotBound, offset: 0, text: "nobody bound it within 30 s".into() };
        let error = Error::stream("consumer wordcount/reduce-3@node-b", true, &why);
        assert_eq!(
            error.to_string(),
            "consumer wordcount/reduce-3@node-b: not_bound at offset 0: nobody bound it within 30 s"
        );
        assert_eq!((error.kind(), error.code(), error.offset()), (ErrorKind::Refused, Some(Code::NotBound), Some(0)));
    }

    #[test]
    fn an_io_error_carries_the_error_and_a_kind_that_fits() {
        let error = io::Error::from(Error::full("consumer job/sink@node-b", StallCause::Credit));
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).unwrap();
        assert_eq!((inner.kind(), inner.is_retryable()), (ErrorKind::Full, true));
    }
}
