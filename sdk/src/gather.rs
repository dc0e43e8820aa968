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
use trunkline_proto::{code::Code, id::ProducerName};
use trunkline_session::Read;

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
    /// The error was returned.
    failed: bool,
    /// Dropped last: it holds the link.
    consumer: Consumer,
}

impl Gather {
    pub(crate) fn new(consumer: Consumer, queue: Arc<GatherQueue>, expected: usize) -> Self {
        Self { queue, current: None, expected, finished: 0, lost: 0, failed: false, consumer }
    }

    /// The next message or loss; `None` once every expected producer has finished or is lost.
    ///
    /// # Errors
    /// The attachment itself is lost, or the bind was ended before every expected producer came. `None` follows.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next call returns what this one would have.
    pub async fn next(&mut self) -> Option<Result<Gathered, Error>> {
        future::poll_fn(|cx| self.poll_gathered(cx)).await
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

    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Gathered, Error>>> {
        // A task that gathers without a pause lets others run now and then, where the runtime is tokio's.
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let gathered = ready!(self.poll_token(cx));
        coop.made_progress();
        Poll::Ready(gathered)
    }

    fn poll_token(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Gathered, Error>>> {
        loop {
            if self.failed || self.finished + self.lost >= self.expected {
                return Poll::Ready(None);
            }
            let token = match self.current.take() {
                Some(token) => token,
                None => match ready!(self.queue.poll_pop(cx)) {
                    Popped::Token(token) => token,
                    Popped::Ended(why) => {
                        self.failed = true;
                        return Poll::Ready(Some(Err(why.error(&self.consumer.address()))));
                    }
                },
            };
            if let Some(gathered) = self.take(token) {
                return Poll::Ready(Some(Ok(gathered)));
            }
        }
    }

    /// Reads what one step of a token stands for.
    fn take(&mut self, mut token: Token) -> Option<Gathered> {
        let shared = &self.consumer.handle().shared;
        let (read, end) = token.cell.read(shared);
        let producer = &token.cell.producer;
        match read {
            Read::Message(message) => {
                let producer = Arc::clone(producer);
                token.messages = token.messages.saturating_sub(1);
                // At the end nothing is left of the token, and the next step of it is the end itself.
                self.current = (end || token.messages > 0).then_some(token);
                Some(Gathered::Message { producer, message })
            }
            Read::End => {
                self.queue.leave(token.cell.id);
                self.finished += 1;
                None
            }
            // The whole attachment has ended, and the queue's end says so.
            Read::Aborted(_) if shared.ready.ended().is_some() => None,
            Read::Aborted(why) => {
                self.queue.leave(token.cell.id);
                self.lost += 1;
                let producer = Arc::clone(producer);
                Some(Gathered::Lost(LostProducer { producer, offset: why.offset, code: why.code, text: why.text }))
            }
            Read::Pending => None,
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
        for cell in self.queue.close() {
            cell.cancel(
                &self.consumer.handle().shared,
                Code::Cancelled,
                "the gather was dropped before the end was read",
            );
        }
    }
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather")
            .field("consumer", &self.consumer)
            .field("expected", &self.expected)
            .field("finished", &self.finished)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}
