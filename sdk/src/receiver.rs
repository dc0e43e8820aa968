//! The receiving end of a stream.

use std::{
    fmt, future, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use tokio::io::{AsyncRead, ReadBuf};
use tracing::Span;
use trunkline_proto::{
    code::Code,
    id::{Incarnation, NodeId, ProducerName},
};
use trunkline_session::{Aborted, Read, ReadBytes};

use crate::{attachment::Handle, error::Error, link::ReceiveCell, sender::closed};

/// Who sends a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ProducerInfo {
    /// The producer's name.
    pub name: ProducerName,
    /// Its node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Tells apart the streams of one life.
    pub number: u64,
    /// The stream's id on the link, by which its cell is found.
    pub(crate) stream: u64,
}

impl fmt::Display for ProducerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.node)
    }
}

/// What [`Receiver::try_recv`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TryRecv {
    /// The next message. It counts as consumed.
    Message(Bytes),
    /// No message has arrived whole. The stream goes on.
    Empty,
    /// The producer finished, and everything was read.
    End,
}

/// The receiving end of a stream: made by [`Consumer::accept`](crate::Consumer::accept).
///
/// It is read in one of four ways, which may be mixed: message by message with [`Receiver::recv`], in batches with
/// [`Receiver::recv_many`], as a [`Stream`] of messages, which ends after the clean end or after the one error, and as
/// bytes, as an [`AsyncRead`].
///
/// A receiver that is dropped before its end was read cancels the stream: the producer is told.
///
/// # As bytes
/// As an [`AsyncRead`] it yields the content of the messages one after another, without their borders; empty messages do
/// not show. Bytes count as consumed when they are read, so a message may be longer than everything that the stream has
/// credit for, and takes nothing of the room for large messages: that is only for those who want it whole.
/// [`Receiver::recv`] after a part of a message returns the rest of it.
///
/// The end of the bytes is the producer's `finish`, and nothing else. A stream that ends another way is an
/// [`io::Error`] that holds the [`Error`], after all whole messages that had arrived; of a message that had arrived in
/// part, what was not read is dropped.
///
/// # Cancel safety
/// Every future made here may be dropped at any time: a message or a byte is returned once, by the call that completes.
pub struct Receiver {
    cell: Arc<ReceiveCell>,
    /// The stream of messages has yielded its end or its error.
    done: bool,
    /// How the stream ended was traced.
    traced: bool,
    span: Span,
    /// Dropped after the cell's last word is queued: the last handle waits for it.
    handle: Arc<Handle>,
}

impl Receiver {
    pub(crate) fn new(handle: Arc<Handle>, cell: Arc<ReceiveCell>, span: Span) -> Self {
        tracing::debug!(target: "trunkline", parent: &span, "accepted");
        Self { cell, done: false, traced: false, span, handle }
    }

    /// Who sends.
    #[must_use]
    pub fn producer(&self) -> &Arc<ProducerInfo> {
        &self.cell.producer
    }

    /// How many bytes of the stream, lengths included, have arrived; at last, the 16 bytes of its end mark too.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.cell.progress().0
    }

    /// How many bytes of the stream, lengths included, were consumed: returned by any of the reading calls. The length of
    /// the next message may be among them once bytes were read.
    #[must_use]
    pub fn consumed_bytes(&self) -> u64 {
        self.cell.progress().1
    }

    /// The next message; `None` once the producer finished and everything was read. What this returns counts as
    /// consumed, and `None` is what the producer's `finish` waits for.
    ///
    /// # Errors
    /// The stream did not end cleanly: [`Aborted`](crate::ErrorKind::Aborted), [`NodeLost`](crate::ErrorKind::NodeLost),
    /// [`Closed`](crate::ErrorKind::Closed). All whole messages that had arrived come first. Every further call says the
    /// same.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next call returns what this one would have.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, Error> {
        future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// [`Receiver::recv`], for those who write futures by hand.
    ///
    /// # Errors
    /// As [`Receiver::recv`].
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        // A task that reads without a pause lets others run now and then, where the runtime is tokio's.
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let read = ready!(self.cell.poll_read(&self.handle.shared, cx));
        coop.made_progress();
        Poll::Ready(match read {
            Read::Message(message) => Ok(Some(message)),
            end => self.end(end).map(|()| None),
        })
    }

    /// A batch: waits for one message and appends it to `buffer` with all others that have arrived, `max` together at
    /// most. Returns how many; 0 once the producer finished and everything was read. With a `max` of 0 it returns 0 at
    /// once, whatever there is.
    ///
    /// It costs one look at the stream for the whole batch, where [`Receiver::recv`] costs one for each message.
    ///
    /// # Errors
    /// As [`Receiver::recv`]; `buffer` is unchanged then.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: `buffer` is changed only when it completes.
    pub async fn recv_many(&mut self, buffer: &mut Vec<Bytes>, max: usize) -> Result<usize, Error> {
        future::poll_fn(|cx| self.poll_recv_many(buffer, max, cx)).await
    }

    fn poll_recv_many(
        &mut self,
        buffer: &mut Vec<Bytes>,
        max: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Error>> {
        if max == 0 {
            return Poll::Ready(Ok(0));
        }
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let take = |message| buffer.push(message);
        let read = ready!(self.cell.poll_read_many(&self.handle.shared, max, take, cx));
        coop.made_progress();
        Poll::Ready(read.or_else(|end| self.end(end).map(|()| 0)))
    }

    /// The next message, if it has arrived whole. It never waits.
    ///
    /// # Errors
    /// As [`Receiver::recv`].
    pub fn try_recv(&mut self) -> Result<TryRecv, Error> {
        let mut found = None;
        let read = self.cell.read(&self.handle.shared, 1, |message| found = Some(message));
        match (found, read) {
            (Some(message), _) => Ok(TryRecv::Message(message)),
            (None, Ok(_) | Err(Read::Pending)) => Ok(TryRecv::Empty),
            (None, Err(end)) => self.end(end).map(|()| TryRecv::End),
        }
    }

    /// Waits until [`Receiver::recv`] or [`Receiver::recv_many`] would return at once: a message has arrived whole, or the
    /// stream has ended. Nothing is consumed: for a reader of many streams that takes a message only when it has a place
    /// for it. Bytes that are read piece by piece may be there earlier.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub async fn readable(&mut self) {
        future::poll_fn(|cx| self.cell.poll_readable(&self.handle.shared, cx)).await;
    }

    /// Gives the stream up: what has arrived is dropped, and the producer is told `cancelled` with this reason.
    pub fn cancel(mut self, reason: &str) {
        self.give_up(reason);
    }

    fn give_up(&mut self, reason: &str) {
        if self.cell.cancel(&self.handle.shared, Code::Cancelled, reason) {
            self.traced = true;
            let consumed = self.consumed_bytes();
            tracing::debug!(target: "trunkline", parent: &self.span, consumed, reason, "cancelled");
        }
    }

    /// The end of the stream as its reader is told it.
    fn end(&mut self, end: Read) -> Result<(), Error> {
        let first = !std::mem::replace(&mut self.traced, true);
        match end {
            Read::Aborted(why) => {
                if first {
                    let Aborted { code, offset, text } = &why;
                    tracing::debug!(target: "trunkline", parent: &self.span, %code, consumed = offset, text, "lost");
                }
                Err(self.error(&why))
            }
            Read::End | Read::Message(_) | Read::Pending => {
                if first {
                    let consumed = self.consumed_bytes();
                    tracing::debug!(target: "trunkline", parent: &self.span, consumed, "finished");
                }
                Ok(())
            }
        }
    }

    fn error(&self, why: &Aborted) -> Error {
        let subject = format!("producer {}", self.cell.producer);
        match why.code {
            // At this end, only this process says so.
            Code::ConsumerGone => Error::stream(subject, false, &closed(why.offset)),
            _ => Error::stream(subject, false, why),
        }
    }
}

/// The content of the messages, one after another; see [`Receiver`], *As bytes*.
impl AsyncRead for Receiver {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let read = ready!(self.cell.poll_read_bytes(&self.handle.shared, buf, cx));
        coop.made_progress();
        Poll::Ready(match read {
            ReadBytes::Bytes(_) | ReadBytes::Pending => Ok(()),
            ReadBytes::End => Ok(self.end(Read::End)?),
            ReadBytes::Aborted(why) => Ok(self.end(Read::Aborted(why))?),
        })
    }
}

impl Stream for Receiver {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        let item = ready!(self.poll_recv(cx)).transpose();
        self.done = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.give_up("the receiver was dropped before the end was read");
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("producer", self.producer()).finish_non_exhaustive()
    }
}
