//! The receiving end of a stream.

use std::{
    fmt, future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use trunkline_proto::{
    code::Code,
    id::{Incarnation, NodeId, ProducerName},
};
use trunkline_session::{Aborted, Read};

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
}

impl fmt::Display for ProducerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.node)
    }
}

/// The receiving end of a stream: made by [`Consumer::accept`](crate::Consumer::accept).
///
/// It is also a [`Stream`] of messages, which ends after the clean end or after the one error.
///
/// A receiver that is dropped before its end was read cancels the stream: the producer is told.
pub struct Receiver {
    cell: Arc<ReceiveCell>,
    /// The end, or the error, was returned.
    done: bool,
    /// Dropped after the cell's last word is queued: the last handle waits for it.
    handle: Arc<Handle>,
}

impl Receiver {
    pub(crate) fn new(handle: Arc<Handle>, cell: Arc<ReceiveCell>) -> Self {
        Self { cell, done: false, handle }
    }

    /// Who sends.
    #[must_use]
    pub fn producer(&self) -> &Arc<ProducerInfo> {
        &self.cell.producer
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
            Read::Aborted(why) => Err(self.error(&why)),
            // The other is not returned here: `poll_read` made it `Pending`.
            Read::End | Read::Pending => Ok(None),
        })
    }

    /// Gives the stream up: what has arrived is dropped, and the producer is told `cancelled` with this reason.
    pub fn cancel(self, reason: &str) {
        self.cell.cancel(&self.handle.shared, Code::Cancelled, reason);
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
        self.cell.cancel(&self.handle.shared, Code::Cancelled, "the receiver was dropped before the end was read");
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("producer", self.producer()).finish_non_exhaustive()
    }
}
