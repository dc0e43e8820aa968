//! Consumers: names that producers open streams to.

use std::{
    fmt, future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use trunkline_proto::id::{ConsumerAddress, Incarnation, JobId};

use crate::{
    attachment::Handle,
    error::Error,
    gather::{Expected, Gather},
    link::{BindCell, Cell},
    receiver::Receiver,
};

/// A consumer that is not bound yet. Made by [`Job::consumer`](crate::Job::consumer).
#[derive(Debug)]
#[must_use = "nothing happens before bind"]
pub struct ConsumerBuilder {
    handle: Arc<Handle>,
    cell: BindCell,
}

impl ConsumerBuilder {
    pub(crate) fn new(handle: Arc<Handle>, job: JobId, address: ConsumerAddress, incarnation: Incarnation) -> Self {
        Self { handle, cell: BindCell::new(job, address, incarnation) }
    }

    /// Binds the name: from now on producers' opens reach this consumer, those that waited for it included.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) with a code (`already_bound`, `busy`),
    /// [`Draining`](crate::ErrorKind::Draining), [`NodeLost`](crate::ErrorKind::NodeLost),
    /// [`Closed`](crate::ErrorKind::Closed).
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the bind.
    pub async fn bind(self) -> Result<Consumer, Error> {
        let Self { handle, cell } = self;
        if handle.shared.is_draining() {
            return Err(Error::draining(format!("consumer {}", cell.address)));
        }
        let cell = Arc::new(cell);
        handle
            .shared
            .ready
            .admit(Cell::Bind(Arc::clone(&cell)))
            .map_err(|ended| Error::ended(format!("consumer {}", cell.address), &ended))?;
        // Its drop withdraws the bind.
        let consumer = Consumer { cell, handle, has_ended: false };
        future::poll_fn(|cx| consumer.cell.poll_bound(cx)).await?;
        Ok(consumer)
    }
}

/// A bound consumer: takes the streams that producers open to it, one by one with [`Consumer::accept`] or all together
/// with [`Consumer::gather`].
///
/// Streams are accepted towards their producers as they arrive, up to 1,024 that nobody has taken; one more is refused as
/// `busy`, which its producer may try again. Dropping the consumer ends the bind; streams that were taken go on.
///
/// As a [`Stream`] it yields the same as [`Consumer::accept`], and ends after an error.
pub struct Consumer {
    cell: Arc<BindCell>,
    handle: Arc<Handle>,
    /// The stream of streams has yielded its error.
    has_ended: bool,
}

impl Consumer {
    /// Where producers reach it.
    #[must_use]
    pub fn address(&self) -> ConsumerAddress {
        self.cell.address.clone()
    }

    /// Its life: 128 random bits.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.cell.incarnation
    }

    /// The next stream.
    ///
    /// # Errors
    /// The bind has ended, and no stream waits: [`Aborted`](crate::ErrorKind::Aborted) by the node,
    /// [`NodeLost`](crate::ErrorKind::NodeLost), [`Closed`](crate::ErrorKind::Closed).
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next call returns the stream that this one would have.
    pub async fn accept(&mut self) -> Result<Receiver, Error> {
        future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// What [`Consumer::accept`] waits for: ready with the next stream, or with how the bind ended.
    ///
    /// # Errors
    /// As [`Consumer::accept`].
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receiver, Error>> {
        let cell = ready!(self.cell.poll_accept(cx))?;
        Poll::Ready(Ok(Receiver::new(Arc::clone(&self.handle), cell)))
    }

    /// All messages of the expected producers, in the order in which they arrive.
    ///
    /// Streams that were not accepted yet belong to it too. What they brought before this call comes first, stream by
    /// stream; call it right after [`ConsumerBuilder::bind`] for the exact order throughout. Streams that were
    /// [accepted](Consumer::accept) before stay apart.
    #[must_use]
    pub fn gather(self, expected: Expected) -> Gather {
        let count = expected.count();
        let queue = self.cell.gather(&self.handle.shared, expected);
        Gather::new(self, queue, count)
    }

    /// Ends the bind: waits until the node was told. Streams that nobody took are refused with `consumer_closed`; those
    /// that were taken go on.
    ///
    /// # Errors
    /// None in this version: a node that is gone needs not be told.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the bind ended; the node is told all the same.
    pub async fn close(self) -> Result<(), Error> {
        self.cell.close(&self.handle.shared);
        future::poll_fn(|cx| self.cell.poll_closed(cx)).await;
        Ok(())
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Stream for Consumer {
    type Item = Result<Receiver, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let accepted = ready!(self.poll_accept(cx));
        self.has_ended = accepted.is_err();
        Poll::Ready(Some(accepted))
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.cell.close(&self.handle.shared);
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("address", &self.cell.address).finish_non_exhaustive()
    }
}
