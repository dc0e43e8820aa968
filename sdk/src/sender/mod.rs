//! The sending end of a stream.

mod permit;
mod sink;
mod write;

use std::{
    fmt, future,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tracing::{Instrument as _, Span};
use trunkline_proto::{
    code::Code,
    id::{ConsumerAddress, Incarnation},
};
use trunkline_session::Aborted;

use crate::{
    attachment::Handle,
    error::Error,
    link::{Refusal, SendCell, Shared},
};

pub use permit::Permit;

/// The sending end of a stream: made by [`Producer::open`](crate::Producer::open), ended by [`Sender::finish`].
///
/// # Sending
/// | call | a message that cannot be taken at once |
/// | --- | --- |
/// | [`Sender::send`] | waits in the call, for the consumer's credit and for room in the process's send budget |
/// | [`Sender::try_send`] | is refused as [`Full`](crate::ErrorKind::Full), with which of the two it is |
/// | [`Sender::reserve`], then [`Permit::send`] | has its room before it is made |
/// | [`Sink<Bytes>`](futures_sink::Sink) | waits in the sender, which takes no other until it has gone |
/// | [`AsyncWrite`](tokio::io::AsyncWrite) | is a piece of at most 64 KiB, not copied before there are credit and room |
///
/// They may be mixed: messages arrive in the order in which they were given. One that waits in the sender, given by the
/// sink or by [`Scatter::broadcast`](crate::Scatter::broadcast), goes out by itself before whatever is sent later, and
/// is not counted in the send budget before it does: like the argument of a `send` that waits, it is one for each sender.
///
/// # Ending
/// | call | waits until | says |
/// | --- | --- | --- |
/// | [`Sender::flush`] | everything sent was handed to the local node; the stream goes on | nothing of the consumer |
/// | [`Sender::finish`] | the consumer's application has consumed everything, the end included | that it has |
/// | [`Sender::close`] | everything sent, and the end, was handed to the local node | nothing of the consumer |
/// | [`Sender::abort`] | nothing | the consumer is told the reason, as an error |
///
/// A sender that is dropped unfinished cancels its stream: the consumer is told that it did not end cleanly.
pub struct Sender {
    cell: Arc<SendCell>,
    /// The consumer's life; its own is never 0 here, as it is set before anybody sees the sender.
    consumer: Incarnation,
    /// From open to end, for traces.
    span: Span,
    /// The trace was told how the stream ended.
    end_told: bool,
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
            self.sender.cell.leave_budget(self.sender.shared());
        }
    }
}

/// Polls for the progress of a send, and leaves the send budget's queue when the caller is dropped.
///
/// A task that sends without a pause lets others run now and then, where the runtime is tokio's.
async fn waiting<T>(sender: &Sender, mut poll: impl FnMut(&Arc<SendCell>, &Context<'_>) -> Poll<T>) -> T {
    let mut leaves = LeavesBudget { sender, waited: false };
    future::poll_fn(|cx| {
        let coop = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        let sent = poll(&sender.cell, cx);
        match sent {
            Poll::Pending => leaves.waited = true,
            Poll::Ready(_) => coop.made_progress(),
        }
        sent
    })
    .await
}

impl Sender {
    /// A stream that the link was given, and that the consumer has not answered.
    pub(crate) fn new(handle: Arc<Handle>, cell: Arc<SendCell>) -> Self {
        let stream = &cell.stream;
        let span = tracing::debug_span!(
            target: "trunkline",
            "send",
            job = %stream.job.name,
            run = %stream.job.run,
            producer = %stream.producer,
            consumer = %stream.address.consumer,
            peer = %stream.address.node,
        );
        Self { cell, consumer: Incarnation::from_bits(0), span, end_told: false, handle }
    }

    /// Waits for the consumer's answer.
    pub(crate) async fn accepted(&mut self) -> Result<(), Error> {
        let span = self.span.clone();
        let answered = async {
            match future::poll_fn(|cx| self.cell.poll_accepted(cx)).await {
                Ok(consumer) => {
                    self.consumer = consumer;
                    tracing::debug!(target: "trunkline", "accepted");
                    Ok(())
                }
                Err(why) => Err(self.lost(true, &why)),
            }
        };
        answered.instrument(span).await
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
    /// [`NodeLost`](crate::ErrorKind::NodeLost), [`Closed`](crate::ErrorKind::Closed). Once the end was asked for,
    /// through the sink or the writer, [`Invalid`](crate::ErrorKind::Invalid).
    ///
    /// # Cancel safety
    /// Dropped before it completes, the message is not sent, not in part.
    pub async fn send(&mut self, message: Bytes) -> Result<(), Error> {
        self.check(message.len())?;
        let shared = self.shared();
        let sent = waiting(self, |cell, cx| cell.poll_send(shared, &message, cx)).await;
        sent.map_err(|why| self.refused(why))
    }

    /// Sends one message if that needs no waiting.
    ///
    /// When it does not, the consumer has been told that there is more to send, so that trying again later succeeds.
    ///
    /// # Errors
    /// [`Full`](crate::ErrorKind::Full), which says whether the consumer's credit or the process's send budget is used
    /// up: the stream is unchanged, the message was not taken. Otherwise as [`Sender::send`].
    #[expect(clippy::needless_pass_by_value, reason = "a message is given, as to `send`")]
    pub fn try_send(&mut self, message: Bytes) -> Result<(), Error> {
        self.check(message.len())?;
        self.cell.try_send(self.shared(), &message).map_err(|why| self.refused(why))
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
        let span = self.span.clone();
        future::poll_fn(|cx| self.poll_flushed(cx)).instrument(span).await
    }

    /// Waits until the stream has ended: for a sender that has nothing to send for long, and wants to know that nobody
    /// will take it. Nothing is asked for: while the consumer lives and this end does not finish, it waits.
    ///
    /// # Errors
    /// How the stream ended, as [`Sender::send`]. It is `Ok` only after the end was asked for, through the sink or the
    /// writer, and was consumed.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect on the stream.
    pub async fn ended(&mut self) -> Result<(), Error> {
        let why = future::poll_fn(|cx| self.cell.poll_finished(cx)).await;
        why.map_err(|why| self.lost(false, &why))
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
    pub async fn finish(mut self) -> Result<(), Error> {
        let span = self.span.clone();
        future::poll_fn(|cx| self.poll_finished(cx)).instrument(span).await
    }

    /// Ends the stream cleanly, and waits until everything, the end included, was handed to the local node. Like
    /// [`Sender::flush`] it needs the consumer's credit for that, and says nothing of the consumer: whether it consumed
    /// everything is learned by [`Sender::finish`] alone.
    ///
    /// # Errors
    /// How the stream ended otherwise, as [`Sender::send`].
    ///
    /// # Cancel safety
    /// As [`Sender::finish`]: dropped after the first poll, the stream finishes by itself.
    pub async fn close(mut self) -> Result<(), Error> {
        let span = self.span.clone();
        let closed = async {
            self.ask_for_the_end();
            future::poll_fn(|cx| self.poll_flushed(cx)).await?;
            tracing::debug!(target: "trunkline", "closed");
            Ok(())
        };
        closed.instrument(span).await
    }

    /// Gives the stream up: what was not sent yet is dropped, and the consumer is told `cancelled` with this reason,
    /// after the messages that have reached it. A stream that has ended stays as it ended.
    pub fn abort(mut self, reason: &str) {
        let span = self.span.clone();
        let _entered = span.enter();
        self.cell.abort(self.shared(), Code::Cancelled, reason);
        if !std::mem::replace(&mut self.end_told, true) {
            tracing::debug!(target: "trunkline", reason, "aborted");
        }
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

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// A message that is longer than this process may send is refused before anything is done.
    pub(crate) fn check(&self, length: usize) -> Result<(), Error> {
        match self.shared().message_bytes_max {
            max if length > max => Err(Error::message_too_large(self.subject(), length, max)),
            _ => Ok(()),
        }
    }

    /// Whether the sender holds no message that waits to be taken.
    pub(crate) fn is_vacant(&self) -> bool {
        self.cell.is_vacant()
    }

    /// Ready once the sender holds no message.
    pub(crate) fn poll_vacant(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        self.cell.poll_vacant(cx).map_err(|why| self.refused(why))
    }

    /// Takes a message, or holds it until it can be taken; returns whether it is held. The sender must be vacant.
    pub(crate) fn hold(&mut self, message: Bytes) -> Result<bool, Error> {
        self.check(message.len())?;
        self.cell.hold(self.shared(), message).map_err(|why| self.refused(why))
    }

    /// Asks for the end, which follows what was sent.
    pub(crate) fn ask_for_the_end(&mut self) {
        self.cell.finish(self.shared());
    }

    pub(crate) fn poll_flushed(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        self.cell.poll_flush(self.shared(), cx).map_err(|why| self.lost(false, &why))
    }

    /// Asks for the end, and is ready once it was consumed.
    pub(crate) fn poll_finished(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        self.ask_for_the_end();
        let finished = std::task::ready!(self.cell.poll_finished(cx));
        Poll::Ready(match finished {
            Ok(()) => {
                if !std::mem::replace(&mut self.end_told, true) {
                    tracing::debug!(target: "trunkline", consumed = self.consumed_bytes(), "finished");
                }
                Ok(())
            }
            Err(why) => Err(self.lost(false, &why)),
        })
    }

    fn subject(&self) -> String {
        format!("consumer {}", self.address())
    }

    fn refused(&mut self, why: Refusal) -> Error {
        match why {
            Refusal::Full(lacking) => Error::full(self.subject(), lacking),
            Refusal::Finished => {
                Error::invalid(format!("{}: the stream was finished by this process: open another", self.subject()))
            }
            Refusal::Aborted(why) => self.lost(false, &why),
        }
    }

    fn lost(&mut self, opening: bool, why: &Aborted) -> Error {
        if !std::mem::replace(&mut self.end_told, true) {
            self.span.in_scope(|| {
                tracing::debug!(target: "trunkline", code = %why.code, offset = why.offset, text = %why.text, "lost");
            });
        }
        match why.code {
            // At this end, only this process says so.
            Code::ProducerGone => Error::stream(self.subject(), false, &closed(self.consumed_bytes())),
            _ => Error::stream(self.subject(), opening, why),
        }
    }
}

/// The end that this process told to the other side, as this side is to read it.
pub(crate) fn closed(consumed: u64) -> Aborted {
    Aborted { code: Code::Closed, offset: consumed, text: "the attachment was closed by this process".to_owned() }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.cell.forsake(self.shared());
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("address", self.address()).finish_non_exhaustive()
    }
}
