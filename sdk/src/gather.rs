//! All streams of a consumer, merged in the order in which their messages arrive.

use std::{
    collections::BTreeSet,
    fmt, future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use tracing::Span;
use trunkline_proto::{code::Code, id::ProducerName};
use trunkline_session::{Aborted, Read};

use crate::{
    consumer::Consumer,
    error::Error,
    link::{GatherQueue, Popped, Token},
    receiver::ProducerInfo,
};

/// Which producers a [`Gather`] waits for, one stream of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The first so many streams, whoever sends them; more are refused.
    Count(usize),
    /// One stream of each of these; streams of others, and a second one of the same, are refused.
    Names(BTreeSet<ProducerName>),
}

impl Expected {
    /// One stream of each of these producers.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) when one of them is not a valid name.
    pub fn names<T>(names: impl IntoIterator<Item = T>) -> Result<Self, Error>
    where
        T: TryInto<ProducerName, Error: fmt::Display>,
    {
        let names = names.into_iter().map(|name| name.try_into().map_err(Error::invalid));
        Ok(Self::Names(names.collect::<Result<_, _>>()?))
    }

    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Count(count) => *count,
            Self::Names(names) => names.len(),
        }
    }
}

/// What a [`Gather`] yields.
#[derive(Debug, Clone)]
pub enum Gathered {
    /// A message. It counts as consumed.
    Message {
        /// Who sent it.
        producer: Arc<ProducerInfo>,
        /// What was sent.
        message: Bytes,
    },
    /// A producer's stream did not end cleanly. All whole messages of it that had arrived came before.
    Lost(LostProducer),
}

/// A producer whose stream did not end cleanly.
#[derive(Debug, Clone)]
pub struct LostProducer {
    /// Who.
    pub producer: Arc<ProducerInfo>,
    /// How many bytes of its stream, lengths included, were consumed.
    pub offset: u64,
    /// Why.
    pub code: Code,
    /// Why, for people.
    pub text: String,
}

impl fmt::Display for LostProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "producer {}: {} at offset {}: {}", self.producer, self.code, self.offset, self.text)
    }
}

/// What [`Gather::close`] left: together as many as were expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatherClosed {
    /// Streams that were read to their clean end.
    pub finished: usize,
    /// Streams that ended another way, whether that was yielded or not.
    pub lost: usize,
    /// Streams that [`Gather::cancel`] stopped.
    pub cancelled: usize,
    /// Streams that were not read to their end. They were cancelled by closing.
    pub unfinished: usize,
    /// Streams that were expected and never came.
    pub missing: usize,
}

/// All messages of the expected producers, in the order in which they arrive; made by [`Consumer::gather`].
///
/// A producer that is lost does not end it: it is an item like a message, and the others go on. Dropping the gather
/// cancels the streams that have not ended, and ends the bind.
pub struct Gather {
    queue: Arc<GatherQueue>,
    /// What is left of the token that was popped last.
    current: Option<Token>,
    expected: usize,
    finished: usize,
    lost: usize,
    cancelled: usize,
    /// The error was returned.
    failed: bool,
    span: Span,
    /// Dropped last: it holds the link.
    consumer: Consumer,
}

impl Gather {
    pub(crate) fn new(consumer: Consumer, queue: Arc<GatherQueue>, expected: usize) -> Self {
        let cell = consumer.cell();
        let span = tracing::debug_span!(
            target: "trunkline",
            "gather",
            job = %cell.job.name,
            run = %cell.job.run,
            consumer = %cell.address.consumer,
            expected,
        );
        Self { queue, current: None, expected, finished: 0, lost: 0, cancelled: 0, failed: false, span, consumer }
    }

    /// The next message or loss; `None` once every expected producer has finished, is lost, or was cancelled.
    ///
    /// # Errors
    /// The attachment itself is lost, or the bind was ended before every expected producer came. `None` follows.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next call returns what this one would have.
    pub async fn next(&mut self) -> Option<Result<Gathered, Error>> {
        future::poll_fn(|cx| self.poll_gathered(cx)).await
    }

    /// A batch: waits for one message or loss and appends it to `buffer` with all others that have arrived, `max` together
    /// at most, in the order in which [`Gather::next`] returns them. Returns how many; 0 once [`Gather::next`] would return `None`. With a `max` of 0
    /// it returns 0 at once, whatever there is.
    ///
    /// # Errors
    /// As [`Gather::next`]; `buffer` is unchanged then.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: `buffer` is changed only when it completes.
    pub async fn next_many(&mut self, buffer: &mut Vec<Gathered>, max: usize) -> Result<usize, Error> {
        future::poll_fn(|cx| match max {
            0 => Poll::Ready(Ok(0)),
            _ => self.poll_many(max, &mut |gathered| buffer.push(gathered), cx),
        })
        .await
    }

    /// Stops one stream and goes on with the others: what has arrived of it is dropped, nothing more of it is yielded, and
    /// its producer is told `cancelled` with this reason. Returns false, and does nothing, when the producer has no stream
    /// here that goes on: it was read to its end, is lost, or was cancelled before.
    ///
    /// The stream counts as one that came: no other is taken in its place.
    pub fn cancel(&mut self, producer: &ProducerInfo, reason: &str) -> bool {
        let shared = &self.consumer.handle().shared;
        let Some(cell) = self.queue.find(producer) else { return false };
        let ended = cell.cancel(shared, Code::Cancelled, reason);
        if ended {
            // Its tokens stay where they are: what they find is that the stream has left.
            self.queue.leave(cell.id);
            self.cancelled += 1;
            let (producer, peer) = (&producer.name, &producer.node);
            tracing::debug!(target: "trunkline", parent: &self.span, %producer, %peer, reason, "cancelled");
        }
        ended
    }

    /// Ends the bind, and says what was left. Streams that were not read to their end are cancelled.
    ///
    /// It waits, at most 5 s, until the node was handed the end of the bind and all that the streams still had to say:
    /// above all the last credit of those that were read to their end, which their producers' `finish` waits for.
    ///
    /// # Errors
    /// As [`Consumer::close`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the streams cancelled and the bind ended; the node is told all the same.
    pub async fn close(mut self) -> Result<GatherClosed, Error> {
        let unfinished = self.cancel_all("the gather was closed before the end was read");
        self.consumer.end().await?;
        let Self { expected, finished, lost, cancelled, .. } = self;
        let missing = expected - finished - lost - cancelled - unfinished;
        Ok(GatherClosed { finished, lost, cancelled, unfinished, missing })
    }

    /// How many producers have finished cleanly, everything they sent having been yielded.
    #[must_use]
    pub fn finished(&self) -> usize {
        self.finished
    }

    /// How many producers were lost.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.lost
    }

    /// How many streams [`Gather::cancel`] has stopped.
    #[must_use]
    pub fn cancelled(&self) -> usize {
        self.cancelled
    }

    /// Takes no stream any more, and cancels those that have not ended. Returns how many these were; the others of them
    /// count as lost.
    fn cancel_all(&mut self, reason: &str) -> usize {
        let mut unfinished = 0;
        for cell in self.queue.close() {
            match cell.cancel(&self.consumer.handle().shared, Code::Cancelled, reason) {
                true => unfinished += 1,
                false => self.lost += 1,
            }
        }
        unfinished
    }

    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Gathered, Error>>> {
        let mut gathered = None;
        let many = ready!(self.poll_many(1, &mut |found| gathered = Some(found), cx));
        Poll::Ready(many.map(|_| gathered).transpose())
    }

    fn poll_many(
        &mut self,
        max: usize,
        take: &mut impl FnMut(Gathered),
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Error>> {
        // A task that gathers without a pause lets others run now and then, where the runtime is tokio's.
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let gathered = ready!(self.poll_tokens(max, take, cx));
        coop.made_progress();
        Poll::Ready(gathered)
    }

    fn poll_tokens(
        &mut self,
        max: usize,
        take: &mut impl FnMut(Gathered),
        cx: &Context<'_>,
    ) -> Poll<Result<usize, Error>> {
        let mut count = 0;
        while count < max && !self.failed && self.finished + self.lost + self.cancelled < self.expected {
            let token = match self.current.take() {
                Some(token) => token,
                // A batch ends where nothing more has arrived. How the bind ended is for the next call.
                None if count > 0 => match self.queue.pop() {
                    Some(token) => token,
                    None => break,
                },
                None => match ready!(self.queue.poll_pop(cx)) {
                    Popped::Token(token) => token,
                    Popped::Ended(why) => {
                        self.failed = true;
                        return Poll::Ready(Err(why.error(&self.consumer.address())));
                    }
                },
            };
            count += self.read(token, max - count, take);
        }
        Poll::Ready(Ok(count))
    }

    /// Reads up to `max` of what a token stands for. Returns how many items that were.
    fn read(&mut self, mut token: Token, max: usize, take: &mut impl FnMut(Gathered)) -> usize {
        let shared = &self.consumer.handle().shared;
        let producer = Arc::clone(&token.cell.producer);
        // The token of an end finds no message: one at most is asked for.
        let most = token.messages.clamp(1, max);
        let message = |message| take(Gathered::Message { producer: Arc::clone(&producer), message });
        let (read, end) = token.cell.read_gathered(shared, most, message);
        let why = match read {
            Ok(count) => {
                token.messages = token.messages.saturating_sub(count);
                // At the end nothing is left of the token, and the next step of it is the end itself.
                self.current = (end || token.messages > 0).then_some(token);
                return count;
            }
            Err(Read::Aborted(why)) => Some(why),
            Err(Read::End) => None,
            Err(Read::Pending | Read::Message(_)) => return 0,
        };
        // It leaves in any case: the end of a bind that the node had ended is told once no stream is left.
        let has_left = self.queue.leave(token.cell.id);
        // The stream was cancelled; or the whole attachment has ended, and the queue's end says so.
        if !has_left || (why.is_some() && shared.ready.ended().is_some()) {
            return 0;
        }
        let (name, peer) = (&producer.name, &producer.node);
        match why {
            None => {
                self.finished += 1;
                tracing::debug!(target: "trunkline", parent: &self.span, producer = %name, %peer, "finished");
                0
            }
            Some(Aborted { code, offset, text }) => {
                self.lost += 1;
                tracing::debug!(
                    target: "trunkline", parent: &self.span, producer = %name, %peer, %code, consumed = offset, text, "lost"
                );
                take(Gathered::Lost(LostProducer { producer, offset, code, text }));
                1
            }
        }
    }
}

impl Stream for Gather {
    type Item = Result<Gathered, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_gathered(cx)
    }
}

impl Drop for Gather {
    fn drop(&mut self) {
        self.cancel_all("the gather was dropped before the end was read");
    }
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather")
            .field("consumer", &self.consumer)
            .field("expected", &self.expected)
            .field("finished", &self.finished)
            .field("lost", &self.lost)
            .field("cancelled", &self.cancelled)
            .finish_non_exhaustive()
    }
}
