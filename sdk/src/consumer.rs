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

/// How many streams wait for [`Consumer::accept`] unless told otherwise.
const BACKLOG_STREAMS: usize = 1024;

/// A consumer that is not bound yet. Made by [`Job::consumer`](crate::Job::consumer).
#[derive(Debug)]
#[must_use = "nothing happens before bind"]
pub struct ConsumerBuilder {
    handle: Arc<Handle>,
    job: JobId,
    address: ConsumerAddress,
    incarnation: Incarnation,
    backlog_streams: usize,
}

impl ConsumerBuilder {
    pub(crate) fn new(handle: Arc<Handle>, job: JobId, address: ConsumerAddress, incarnation: Incarnation) -> Self {
        Self { handle, job, address, incarnation, backlog_streams: BACKLOG_STREAMS }
    }

    /// How many streams may wait for [`Consumer::accept`]: 1,024 unless told, at least 1. They are accepted towards their
    /// producers, which may send within their first credit. One more is refused as `busy`, which its producer may try
    /// again. A [`Gather`] takes its streams as they come and has no backlog.
    pub fn accept_backlog(mut self, streams: usize) -> Self {
        self.backlog_streams = streams;
        self
    }

    /// Binds the name: from now on producers' opens reach this consumer, those that waited for it included.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for a backlog of 0 streams,
    /// [`Refused`](crate::ErrorKind::Refused) with a code (`already_bound`, `busy`),
    /// [`Draining`](crate::ErrorKind::Draining), [`NodeLost`](crate::ErrorKind::NodeLost),
    /// [`Closed`](crate::ErrorKind::Closed).
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the bind.
    pub async fn bind(self) -> Result<Consumer, Error> {
        let Self { handle, job, address, incarnation, backlog_streams } = self;
        if backlog_streams == 0 {
            let text = format!("consumer {address}: an accept_backlog of 0 streams would refuse all; it is at least 1");
            return Err(Error::invalid(text));
        }
        if handle.shared.is_draining() {
            return Err(Error::draining(format!("consumer {address}")));
        }
        let cell = Arc::new(BindCell::new(job, address, incarnation, backlog_streams));
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
/// Streams are accepted towards their producers as they arrive, up to the [backlog](ConsumerBuilder::accept_backlog) of
/// those that nobody has taken; one more is refused as `busy`, which its producer may try again. Dropping the consumer ends the bind; streams that were taken go on.
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
        let span = tracing::debug_span!(
            target: "trunkline",
            "receive",
            job = %self.cell.job.name,
            run = %self.cell.job.run,
            consumer = %self.cell.address.consumer,
            producer = %cell.producer.name,
            peer = %cell.producer.node,
        );
        Poll::Ready(Ok(Receiver::new(Arc::clone(&self.handle), cell, span)))
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

    /// Ends the bind, and says what was left. Streams that nobody took are refused with `consumer_closed`; those that were
    /// taken go on.
    ///
    /// It waits, at most 5 s, until the node was handed the end of the bind and all that this consumer's streams still had
    /// to say when this was called: above all the last credit of streams that were read to their end, which their
    /// producers' `finish` waits for.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) when 5 s were not enough, with what was not handed over;
    /// [`NodeLost`](crate::ErrorKind::NodeLost) and [`Closed`](crate::ErrorKind::Closed) when the attachment ended before
    /// or meanwhile. The bind has ended all the same.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the bind ended; the node is told all the same.
    pub async fn close(self) -> Result<ConsumerClosed, Error> {
        self.end().await?;
        Ok(ConsumerClosed { refused: self.cell.refused(), unfinished: self.cell.unfinished() })
    }

    /// Ends the bind, and waits until the node was handed everything.
    pub(crate) async fn end(&self) -> Result<(), Error> {
        let shared = &self.handle.shared;
        // First, for the link's thread is woken by what follows, and looks at the time then.
        shared.lingering.enter(Arc::clone(&self.cell));
        self.cell.close(shared);
        future::poll_fn(|cx| self.cell.poll_closed(shared, cx)).await
    }

    pub(crate) fn cell(&self) -> &BindCell {
        &self.cell
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// What [`Consumer::close`] left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerClosed {
    /// Streams that had come, that nobody had taken, and that were refused.
    pub refused: usize,
    /// Streams that were taken and are not over. They go on.
    pub unfinished: usize,
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
