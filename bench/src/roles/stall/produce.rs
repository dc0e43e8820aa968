//! The producer's process of `stall`: it fills the streams that nobody reads until each of its sends waits.

use std::{cell::Cell, future, rc::Rc, task::Poll, time::Duration};

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use tokio::{
    pin,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use trunkline::{Attachment, Sender};

use super::{CONSUMER, JOB, PACED_BYTES, READING, STALLED, Streams, monotonic};
use crate::{
    error::BenchError,
    processes::Place,
    roles::{Parent, RUN, Sent, Source, Total, say},
    settings::Budgets,
};

/// Streams that are opened at once.
const OPENS_AT_ONCE: usize = 4_096;
/// Between two looks at what still moves.
const LOOK: Duration = Duration::from_millis(100);
/// At so many looks in a row nothing may have moved.
const LOOKS_QUIET: usize = 5;
/// Filling all streams takes no longer.
const FILL_MAX: Duration = Duration::from_secs(120);
/// How much later than due a timer may wake: tokio's have a grain of a millisecond.
const TIMER_GRAIN: Duration = Duration::from_millis(2);

/// Sends on streams of which most are never read.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StallProduce {
    /// Where it attaches.
    pub(crate) place: Place,
    /// The consumer's node.
    pub(crate) to: String,
    /// How many streams it opens.
    pub(crate) streams: Streams,
    /// The length of messages of bulk.
    pub(crate) message_bytes: usize,
    /// Its budgets.
    pub(crate) budgets: Budgets,
}

/// What it does next. Each is answered when it is done.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum SendOrder {
    /// Sends on every stream that is not read until its send waits, and all are seen to. Answered by [`Filled`].
    Fill,
    /// Sends so many messages on each stream that is read.
    Flood {
        /// How many.
        messages: u64,
    },
    /// Sends small messages on the first stream that is read, one each `interval`.
    Pace {
        /// How many.
        messages: usize,
        /// Between two of them.
        interval: Duration,
    },
    /// Says [`Filled`] again: what waits now.
    Look,
    /// Ends every stream, those that waited as soon as they go on. Answered by the [`Total`] that was consumed.
    End,
}

/// What the streams that are not read have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filled {
    /// Streams with a send that waits, now.
    pub(crate) blocked: usize,
    /// How often the SDK saw a send begin to wait, so far.
    pub(crate) sends_blocked: u64,
    /// Messages that these streams have taken.
    pub(crate) messages: u64,
}

impl StallProduce {
    /// Says nothing when all streams are open, and then follows orders.
    pub(crate) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let attachment = self.place.attach(self.budgets.builder()).await?;
        let reading = self.open(&attachment, READING, self.streams.reading).await?;
        let mut stalled = self.open(&attachment, STALLED, self.streams.stalled).await?;
        let source = Rc::new(Source::new(self.message_bytes));
        let sender = |(stream, sender)| Reading { stream, sender, sent: Sent::default(), messages: 0 };
        let mut reading: Vec<Reading> = reading.into_iter().enumerate().map(sender).collect();
        let shared = Rc::new(Shared::default());
        let mut filling = JoinSet::new();
        say(())?;
        loop {
            match parent.order().await? {
                SendOrder::Fill => {
                    for (number, sender) in stalled.drain(..).enumerate() {
                        let stream = self.streams.reading + number;
                        filling.spawn_local(fill(sender, stream, Rc::clone(&source), Rc::clone(&shared)));
                    }
                    tokio::select! {
                        filled = all_blocked(&attachment, &shared, self.streams.stalled) => say(filled?)?,
                        Some(ended) = filling.join_next() => return Err(ended_early(ended)),
                    }
                }
                SendOrder::Flood { messages } => {
                    try_join_all(reading.iter_mut().map(|stream| stream.flood(messages, &source))).await?;
                    say(())?;
                }
                SendOrder::Pace { messages, interval } => {
                    if let Some(stream) = reading.first_mut() {
                        stream.pace(messages, interval).await?;
                    }
                    say(())?;
                }
                SendOrder::Look => say(shared.filled(&attachment))?,
                SendOrder::End => break,
            }
        }
        shared.ending.set(true);
        let mut total = Total::default();
        for Reading { stream, sender, sent, .. } in reading {
            sender.finish().await?;
            total.add(stream, &sent);
        }
        while let Some(filled) = filling.join_next().await {
            let (stream, sent) = filled.map_err(BenchError::peer("a task that sends"))??;
            total.add(stream, &sent);
        }
        say(total)?;
        parent.done().await;
        Ok(attachment.close().await?)
    }

    async fn open(&self, attachment: &Attachment, producer: &str, count: usize) -> Result<Vec<Sender>, BenchError> {
        let address = format!("{JOB}/{CONSUMER}@{}", self.to);
        let producer = attachment.job(JOB, RUN)?.producer(producer)?;
        let mut senders = Vec::with_capacity(count);
        while senders.len() < count {
            let batch = OPENS_AT_ONCE.min(count - senders.len());
            let addresses = std::iter::repeat_n(address.as_str(), batch);
            senders.extend(producer.scatter(addresses).await?.into_senders());
        }
        Ok(senders)
    }
}

/// A stream that is read.
struct Reading {
    stream: usize,
    sender: Sender,
    sent: Sent,
    messages: u64,
}

impl Reading {
    async fn flood(&mut self, messages: u64, source: &Source) -> Result<(), trunkline::Error> {
        for _ in 0..messages {
            let message = source.message(self.stream, self.messages);
            self.messages += 1;
            self.sent.add(&message, true);
            self.sender.send(message).await?;
        }
        Ok(())
    }

    /// Each message says when it was due: now, or earlier where the one before it made it late.
    async fn pace(&mut self, messages: usize, interval: Duration) -> Result<(), trunkline::Error> {
        let (begin, clock) = (Instant::now(), monotonic());
        let mut due = Duration::ZERO;
        for _ in 0..messages {
            due += interval;
            sleep_until(begin + due).await;
            let now = monotonic();
            let stamp = if now > clock + due + TIMER_GRAIN { clock + due } else { now };
            let mut message = [0; PACED_BYTES];
            message[..8].copy_from_slice(&u64::try_from(stamp.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
            self.sent.add(&message, true);
            self.sender.send(Bytes::copy_from_slice(&message)).await?;
        }
        Ok(())
    }
}

/// What the tasks have in common that fill streams.
#[derive(Debug, Default)]
struct Shared {
    blocked: Cell<usize>,
    messages: Cell<u64>,
    ending: Cell<bool>,
}

impl Shared {
    fn filled(&self, attachment: &Attachment) -> Filled {
        let sends_blocked = attachment.metrics().sends_blocked;
        Filled { blocked: self.blocked.get(), sends_blocked, messages: self.messages.get() }
    }
}

/// Sends until the end is wanted, and finishes.
async fn fill(
    mut sender: Sender,
    stream: usize,
    source: Rc<Source>,
    shared: Rc<Shared>,
) -> Result<(usize, Sent), trunkline::Error> {
    let mut sent = Sent::default();
    let mut number = 0;
    while !shared.ending.get() {
        let message = source.message(stream, number);
        number += 1;
        sent.add(&message, true);
        let sending = sender.send(message);
        pin!(sending);
        match future::poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await {
            Poll::Ready(taken) => taken?,
            Poll::Pending => {
                shared.blocked.set(shared.blocked.get() + 1);
                let taken = sending.await;
                shared.blocked.set(shared.blocked.get() - 1);
                taken?;
            }
        }
        shared.messages.set(shared.messages.get() + 1);
    }
    sender.finish().await?;
    Ok((stream, sent))
}

/// Waits until every one of so many streams has a send that waits, and none has moved for some looks.
async fn all_blocked(attachment: &Attachment, shared: &Shared, streams: usize) -> Result<Filled, BenchError> {
    let late = Instant::now() + FILL_MAX;
    let (mut last, mut quiet) = (shared.filled(attachment), 0);
    loop {
        sleep(LOOK).await;
        let now = shared.filled(attachment);
        quiet = if now == last && now.blocked == streams { quiet + 1 } else { 0 };
        if quiet == LOOKS_QUIET {
            return Ok(now);
        }
        if Instant::now() > late {
            let what = format!("filling {streams} streams, of which {} wait,", now.blocked);
            return Err(BenchError::Late(what, FILL_MAX.as_secs()));
        }
        last = now;
    }
}

fn ended_early(ended: Result<Result<(usize, Sent), trunkline::Error>, tokio::task::JoinError>) -> BenchError {
    match ended {
        Ok(Ok((stream, _))) => BenchError::Inexact(format!("stream {stream} ended before it was told to")),
        Ok(Err(error)) => error.into(),
        Err(error) => BenchError::Peer("a task that sends", error.to_string()),
    }
}
