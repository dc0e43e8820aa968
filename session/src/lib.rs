//! The session: what makes a stream exact, without any I/O.
//!
//! A stream has two ends, and the ends hold its state; the nodes between them only relay. Both ends are plain state
//! machines. Methods of three kinds change or ask them, and none of them waits:
//!
//! - *the application's*: [`SendHalf::write`], [`SendHalf::finish`], [`ReceiveHalf::read`], [`ReceiveHalf::read_bytes`],
//!   [`ReceiveHalf::cancel`], …
//! - *the link's*: `handle_…`, with what arrived from the other end;
//! - *draining*: after any of the above, [`SendHalf::poll_output`] or [`ReceiveHalf::poll_output`] until it returns
//!   `None`. What it returns is to be sent, in that order.
//!
//! ```text
//!            write ┌──────────┐ Open, Data, Want, Abort      ┌─────────────┐ read
//!  application ───►│ SendHalf │─────────────────────────────►│ ReceiveHalf │───► application
//!                  │  replay  │◄─────────────────────────────│  reassembly │
//!                  └──────────┘ Accept, Credit, Abort        └──────┬──────┘
//!                                                       consumed │  ▲ grants
//!                                                                ▼  │
//!                                                          ┌──────────────┐
//!                                                          │ CreditPolicy │ one for all streams of a process
//!                                                          └──────────────┘
//! ```
//!
//! Nothing here knows the time or draws a random number: the same calls give the same run.

mod arrived;
mod credit;
mod receive;
mod schedule;
mod send;

pub use credit::{Cap, CreditPolicy, Grant, Reclaim, SharedBudget, SharedBudgetConfig};
pub use receive::{Asked, Read, ReadBytes, ReceiveHalf, ReceiveOutput};
pub use schedule::{Schedule, Turn};
pub use send::{Finished, SendHalf, SendOutput, Verdict, WriteError, encoded_bytes};

use trunkline_proto::code::Code;

/// How a stream ended when it did not end cleanly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} at offset {offset}: {text}")]
pub struct Aborted {
    /// Why.
    pub code: Code,
    /// How far the stream had come, in bytes. At the receiving end: consumed by its application. At the sending end:
    /// known to have been consumed by the other application.
    pub offset: u64,
    /// Why, for people.
    pub text: String,
}

#[cfg(test)]
mod tests;
