//! The one table of codes: why a stream was aborted, a bind refused, a connection closed.
//!
//! The same number travels in an ABORT or REFUSED frame, as the error code of a QUIC RESET_STREAM or STOP_SENDING
//! (RFC 9000 §19.4, §19.5), and as the application error code of a CONNECTION_CLOSE (§19.19). docs/wire.md shows the
//! table; a test holds the two together.

use std::fmt;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:literal, $word:literal, retryable: $retryable:literal;)+) => {
        /// Why something ended, or was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[doc = $doc])+ $name = $value,)+
        }

        impl Code {
            /// Every code of this version, by number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Reads a number off the wire. One that this version does not know is [`Code::Internal`]: the text beside
            /// it says more.
            #[must_use]
            pub const fn from_wire(number: u64) -> Self {
                match number {
                    $($value => Self::$name,)+
                    _ => Self::Internal,
                }
            }

            /// The number that travels.
            #[must_use]
            pub const fn to_wire(self) -> u32 {
                self as u32
            }

            /// The word for logs, metrics and `--json`.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }

            /// Whether the same attempt may succeed later without anyone changing anything.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self {
                    $(Self::$name => $retryable,)+
                }
            }
        }
    };
}

impl Code {
    /// Whether an ABORT with this code ends the path of a stream, and not the stream, which can be resumed.
    #[must_use]
    pub const fn ends_path(self) -> bool {
        matches!(self, Self::TrunkLost | Self::NodeLost | Self::Superseded)
    }
}

codes! {
    /// The application gave the stream up: it cancelled, or dropped an unfinished sender or receiver.
    Cancelled = 1, "cancelled", retryable: false;
    /// The producer's process ended or detached with the stream unfinished.
    ProducerGone = 2, "producer_gone", retryable: false;
    /// The consumer's process ended or detached with the stream unfinished.
    ConsumerGone = 3, "consumer_gone", retryable: false;
    /// Nobody bound the consumer's name within `open_timeout`.
    NotBound = 4, "not_bound", retryable: true;
    /// A table is full: parked opens, streams, binds or processes. Which one, the text says.
    Busy = 5, "busy", retryable: true;
    /// Another live process holds this consumer name.
    AlreadyBound = 6, "already_bound", retryable: true;
    /// The consumer belongs to another run of the job.
    RunMismatch = 7, "run_mismatch", retryable: false;
    /// No peer of this name is configured, and none has dialled in.
    UnknownNode = 8, "unknown_node", retryable: false;
    /// The peer could not be reached, or refused the connection, within `open_timeout`.
    Unreachable = 9, "unreachable", retryable: true;
    /// The trunk to the peer was lost with the stream on it. What the other end has consumed beyond the offset is unknown.
    TrunkLost = 10, "trunk_lost", retryable: true;
    /// The link to the local node was lost. What the other end has consumed beyond the offset is unknown.
    NodeLost = 11, "node_lost", retryable: true;
    /// The node is shutting down and takes nothing new.
    Draining = 12, "draining", retryable: true;
    /// More was sent than the limit allowed.
    CreditExceeded = 13, "credit_exceeded", retryable: false;
    /// A frame that does not parse, or may not stand where it stood.
    Protocol = 14, "protocol", retryable: false;
    /// The two sides share no version.
    Version = 15, "version", retryable: false;
    /// A mandatory frame or request that this version does not know.
    Unsupported = 16, "unsupported", retryable: false;
    /// The process, or the peer, is not allowed here.
    Forbidden = 17, "forbidden", retryable: false;
    /// Another connection to the same peer is the trunk.
    DuplicateTrunk = 18, "duplicate_trunk", retryable: true;
    /// A message is longer than the receiver's `max_message_bytes`.
    MessageTooLarge = 19, "message_too_large", retryable: false;
    /// The connection is closed in good order.
    Closed = 20, "closed", retryable: false;
    /// Whether the other end consumed what was sent can no longer be known.
    OutcomeUnknown = 21, "outcome_unknown", retryable: false;
    /// The consumer was closed before it took the stream, or before the stream was finished.
    ConsumerClosed = 22, "consumer_closed", retryable: false;
    /// The stream goes on by another path: a newer epoch of it is in place.
    Superseded = 23, "superseded", retryable: false;
    /// Something this version has no code for; the text says what.
    Internal = 63, "internal", retryable: false;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_wire_and_strangers_become_internal() {
        for &code in Code::ALL {
            assert_eq!(Code::from_wire(code.to_wire().into()), code);
        }
        assert_eq!(Code::from_wire(0), Code::Internal);
        assert_eq!(Code::from_wire(u64::MAX), Code::Internal);
    }

    #[test]
    fn docs_wire_md_shows_this_very_table() {
        let page = include_str!("../../docs/wire.md");
        for &code in Code::ALL {
            let retryable = if code.is_retryable() { "yes" } else { "no" };
            let row = format!("| {} | `{}` | {retryable} |", code.to_wire(), code.word());
            assert!(page.contains(&row), "docs/wire.md lacks the row: {row}");
        }
    }
}
