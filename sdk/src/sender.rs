//! The sending end of a stream.

use std::{fmt, future, sync::Arc, task::Poll};

use bytes::Bytes;
use trunkline_proto::{
    code::Code,
    id::{ConsumerAddress, Incarnation},
};
use trunkline_session::{Aborted, WriteError};

use crate::{attachment::Handle, error::Error, link::SendCell};

/// The sending end of a stream: made by [`Producer::open`](crate::Producer::open), ended by [`Sender::finish`].
///
/// A sender that is dropped unfinished cancels its stream: the consumer is told that it did not end cleanly.
pub struct Sender {
    cell: Arc<SendCell>,
    /// The consumer's life; its own is never 0 here, as it is set before anybody sees the sender.
    consumer: Incarnation,
    /// Dropped after the cell's last word is queued: the last handle waits for it.
    handle: Arc<Handle>,
}

/// Leaves the send budget's queue, if the send ever stood in it.
struct LeavesBudget<'a> {
    sender: &'a Sender,
    waited: bool,
}

impl Drop for LeavesBudget<'_> {
    fn drop(&mut self) {
        if self.waited {
            self.sender.cell.leave_budget(&self.sender.handle.shared);
        }
    }
}

impl Sender {
    /// Waits for the consumer's answer to a stream that the link was given.
    pub(crate) async fn open(handle: Arc<Handle>, cell: Arc<SendCell>) -> Result<Self, Error> {
        // Its drop withdraws the open.
        let mut sender = Self { cell, consumer: Incarnation::from_bits(0), handle };
        match future::poll_fn(|cx| sender.cell.poll_accepted(cx)).await {
            Ok(consumer) => {
                sender.consumer = consumer;
                Ok(sender)
            }
            Err(why) => Err(sender.error(true, &why)),
        }
    }

    /// The consumer that the stream goes to.
    #[must_use]
    pub fn address(&self) -> &ConsumerAddress {
        &self.cell.stream.address
    }

    /// The life of the consumer that took the stream.
    #[must_use]
    pub fn consumer_incarnation(&self) -> Incarnation {
        self.consumer
    }

    /// Sends one message.
    ///
    /// It waits for the consumer's credit, and for room in the process's send budget; when it returns, the message is in
    /// the hands of this crate, which sends it in order. Whether it was consumed, [`Sender::finish`] says.
    ///
    /// # Errors
    /// [`MessageTooLarge`](crate::ErrorKind::MessageTooLarge): the stream is unchanged. Otherwise the stream has ended,
    /// and every further call says the same: [`Aborted`](crate::ErrorKind::Aborted) by the consumer or a node,
    /// [`NodeLost`](crate::ErrorKind::NodeLost), [`Closed`](crate::ErrorKind::Closed).
    ///
    /// # Cancel safety
    /// Dropped before it completes, the message is not sent, not in part.
    pub async fn send(&mut self, message: Bytes) -> Result<(), Error> {
        let shared = &self.handle.shared;
        if message.len() > shared.message_bytes_max {
            let subject = format!("consumer {}", self.address());
            return Err(Error::message_too_large(subject, message.len(), shared.message_bytes_max));
        }
        let mut leaves = LeavesBudget { sender: self, waited: false };
        let sent = future::poll_fn(|cx| {
            // A task that sends without a pause lets others run now and then, where the runtime is tokio's.
            let coop = std::task::ready!(tokio::task::coop::poll_proceed(cx));
            let sent = self.cell.poll_send(shared, &message, cx);
            match sent {
                Poll::Pending => leaves.waited = true,
                Poll::Ready(_) => coop.made_progress(),
            }
            sent
        })
        .await;
        sent.map_err(|why| match why {
            WriteError::Aborted(why) => self.error(false, &why),
            // Neither happens here: blocked sends wait, and finish takes the sender.
            WriteError::Blocked | WriteError::Finished => Error::invalid(why),
        })
    }

    /// Waits until everything sent so far was handed to the local node. It needs the consumer's credit for what reaches
    /// beyond it; it does not wait for the consumer.
    ///
    /// # Errors
    /// How the stream ended, as [`Sender::send`].
    ///
    /// # Cancel safety
    /// Dropping the future has no effect on the stream.
    pub async fn flush(&mut self) -> Result<(), Error> {
        future::poll_fn(|cx| self.cell.poll_flush(&self.handle.shared, cx)).await.map_err(|why| self.error(false, &why))
    }

    /// Ends the stream cleanly, and waits until the consumer's application has consumed all of it: every message and
    /// the end, which its `recv` returned as `None`.
    ///
    /// # Errors
    /// How the stream ended otherwise, as [`Sender::send`]; [`Error::offset`] says how far it is known to have been
    /// consumed.
    ///
    /// # Cancel safety
    /// The end is asked for when the future is first polled. Dropping it after that leaves the stream to finish by
    /// itself, as long as the attachment lives; the outcome is not observed. Dropping it before gives the stream up, as
    /// dropping the sender does.
    pub async fn finish(self) -> Result<(), Error> {
        self.cell.finish(&self.handle.shared);
        future::poll_fn(|cx| self.cell.poll_finished(cx)).await.map_err(|why| self.error(false, &why))
    }

    /// Gives the stream up: what was not sent yet is dropped, and the consumer is told `cancelled` with this reason,
    /// after the messages that have reached it.
    pub fn abort(self, reason: &str) {
        self.cell.abort(&self.handle.shared, Code::Cancelled, reason);
    }

    /// How many bytes of the stream, lengths included, the consumer's application is known to have consumed. The news
    /// comes now and then, with the consumer's credit.
    #[must_use]
    pub fn consumed_bytes(&self) -> u64 {
        self.cell.consumed()
    }

    /// How many bytes of the stream, lengths included, `send` has taken.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.cell.written()
    }

    fn error(&self, opening: bool, why: &Aborted) -> Error {
        let subject = format!("consumer {}", self.address());
        match why.code {
            // At this end, only this process says so.
            Code::ProducerGone => Error::stream(subject, false, &closed(self.consumed_bytes())),
            _ => Error::stream(subject, opening, why),
        }
    }
}

/// The end that this process told to the other side, as this side is to read it.
pub(crate) fn closed(consumed: u64) -> Aborted {
    Aborted { code: Code::Closed, offset: consumed, text: "the attachment was closed by this process".to_owned() }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let text = match self.cell.is_accepted() {
            true => "the sender was dropped unfinished",
            false => "the open was withdrawn",
        };
        self.cell.abort(&self.handle.shared, Code::Cancelled, text);
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("address", self.address()).finish_non_exhaustive()
    }
}
