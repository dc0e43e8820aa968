//! Many sending ends at once: one producer, thousands of consumers.

use std::future;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};

use crate::{error::Error, sender::Sender};

/// One producer's streams to many consumers, sent to by index: made by
/// [`Producer::scatter`](crate::Producer::scatter), or collected from senders.
///
/// Each stream keeps a fate of its own. One that has ended fails at its index, and only there; the indices of the others
/// stay as they are.
///
/// | call | waits until, for each stream |
/// | --- | --- |
/// | [`Scatter::broadcast`] | the message is taken |
/// | [`Scatter::flush`] | [`Sender::flush`] |
/// | [`Scatter::finish`] | [`Sender::finish`] |
/// | [`Scatter::close`] | [`Sender::close`] |
/// | [`Scatter::abort`] | nothing |
///
/// Those that act on all streams do it at once for all, and return what failed: index and error, in the order of the
/// indices, empty when all went well.
#[derive(Debug, Default)]
pub struct Scatter {
    senders: Vec<Sender>,
}

impl Scatter {
    /// Waits for the answers to streams that the link was given. The first refusal withdraws the others.
    pub(crate) async fn accepted(mut senders: Vec<Sender>) -> Result<Self, Error> {
        let mut answers: FuturesUnordered<_> = senders.iter_mut().map(Sender::accepted).collect();
        while let Some(answer) = answers.next().await {
            answer?;
        }
        drop(answers);
        Ok(Self { senders })
    }

    /// How many streams there are, those that have ended included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.senders.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }

    /// The sender at an index.
    #[must_use]
    pub fn sender(&self, index: usize) -> Option<&Sender> {
        self.senders.get(index)
    }

    /// The sender at an index, for what is not here: a permit, the sink, the writer.
    #[must_use]
    pub fn sender_mut(&mut self, index: usize) -> Option<&mut Sender> {
        self.senders.get_mut(index)
    }

    /// Sends one message to one consumer: [`Sender::send`].
    ///
    /// # Errors
    /// As [`Sender::send`]; [`Invalid`](crate::ErrorKind::Invalid) when there is no such index.
    ///
    /// # Cancel safety
    /// Dropped before it completes, the message is not sent, not in part.
    pub async fn send(&mut self, index: usize, message: Bytes) -> Result<(), Error> {
        self.at(index)?.send(message).await
    }

    /// Sends one message to one consumer, if that needs no waiting: [`Sender::try_send`].
    ///
    /// # Errors
    /// As [`Sender::try_send`]; [`Invalid`](crate::ErrorKind::Invalid) when there is no such index.
    pub fn try_send(&mut self, index: usize, message: Bytes) -> Result<(), Error> {
        self.at(index)?.try_send(message)
    }

    /// Sends one message to all consumers, and waits until each stream has taken it or ended. A slow consumer delays the
    /// return and nothing else: the others get theirs at once.
    ///
    /// Each stream's share counts in the process's send budget, though a message of 4 KiB or more is held but once.
    ///
    /// # Errors
    /// Returns the streams that have not taken it, with why; a message that is longer than may be sent fails for all.
    ///
    /// # Cancel safety
    /// All or nothing. A broadcast begins once no sender holds a message of an earlier one, which is so at the first
    /// poll unless that was dropped; if this one is dropped before, nothing is sent. From then on each sender that lives has
    /// the message, sends it when it can and before whatever is sent later, whether or not this future lives on.
    #[must_use = "it holds the consumers that the message will not reach"]
    pub async fn broadcast(&mut self, message: Bytes) -> Vec<(usize, Error)> {
        // Those that ended meanwhile say so when they are to hold the message.
        drop(vacated(self.senders.iter_mut().enumerate().filter(|(_, sender)| !sender.is_vacant())).await);
        // From here to the end of the loop nothing waits: either all hold the message or none does.
        let mut failed = Vec::new();
        let mut holding = Vec::new();
        for (index, sender) in self.senders.iter_mut().enumerate() {
            match sender.hold(message.clone()) {
                Ok(false) => {}
                Ok(true) => holding.push((index, sender)),
                Err(error) => failed.push((index, error)),
            }
        }
        drop(message);
        failed.extend(vacated(holding.into_iter()).await);
        failed.sort_unstable_by_key(|(index, _)| *index);
        failed
    }

    /// Waits until everything sent so far was handed to the local node: [`Sender::flush`], for all at once.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect on the streams.
    #[must_use = "it holds the streams that have ended"]
    pub async fn flush(&mut self) -> Vec<(usize, Error)> {
        each(self.senders.iter_mut().enumerate(), Sender::flush).await
    }

    /// Ends all streams cleanly, and waits until each consumer's application has consumed all of its own:
    /// [`Sender::finish`], for all at once.
    ///
    /// # Cancel safety
    /// The ends are asked for when the future is first polled; after that the streams finish by themselves, as with
    /// [`Sender::finish`].
    #[must_use = "it holds the streams that were not consumed to their end"]
    pub async fn finish(mut self) -> Vec<(usize, Error)> {
        for sender in &mut self.senders {
            sender.ask_for_the_end();
        }
        each(self.senders.drain(..).enumerate(), Sender::finish).await
    }

    /// Ends all streams cleanly, and waits until everything, the ends included, was handed to the local node:
    /// [`Sender::close`], for all at once.
    ///
    /// # Cancel safety
    /// As [`Scatter::finish`].
    #[must_use = "it holds the streams that ended another way"]
    pub async fn close(mut self) -> Vec<(usize, Error)> {
        for sender in &mut self.senders {
            sender.ask_for_the_end();
        }
        each(self.senders.drain(..).enumerate(), Sender::close).await
    }

    /// Gives all streams up, for this reason: [`Sender::abort`].
    pub fn abort(self, reason: &str) {
        for sender in self.senders {
            sender.abort(reason);
        }
    }

    /// The senders, in the order of the indices.
    #[must_use]
    pub fn into_senders(self) -> Vec<Sender> {
        self.senders
    }

    fn at(&mut self, index: usize) -> Result<&mut Sender, Error> {
        let length = self.senders.len();
        let why = || Error::invalid(format!("index {index} of a scatter to {length} consumers"));
        self.senders.get_mut(index).ok_or_else(why)
    }
}

impl FromIterator<Sender> for Scatter {
    fn from_iter<I: IntoIterator<Item = Sender>>(senders: I) -> Self {
        Self { senders: senders.into_iter().collect() }
    }
}

/// Does the same with many senders at once, and returns what failed, by index.
async fn each<S, F>(senders: impl Iterator<Item = (usize, S)>, act: impl Fn(S) -> F) -> Vec<(usize, Error)>
where
    F: Future<Output = Result<(), Error>>,
{
    let acting = senders.map(|(index, sender)| {
        let done = act(sender);
        async move { done.await.err().map(|error| (index, error)) }
    });
    let mut acting: FuturesUnordered<_> = acting.collect();
    let mut failed = Vec::new();
    while let Some(done) = acting.next().await {
        failed.extend(done);
    }
    failed.sort_unstable_by_key(|(index, _)| *index);
    failed
}

/// Waits until these senders hold no message.
async fn vacated(senders: impl Iterator<Item = (usize, &mut Sender)>) -> Vec<(usize, Error)> {
    each(senders, |sender: &mut Sender| future::poll_fn(move |cx| sender.poll_vacant(cx))).await
}
