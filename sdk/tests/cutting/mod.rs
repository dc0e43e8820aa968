//! Futures that are dropped at any of their polls, and what is known of messages then.

use std::{
    future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_sink::Sink as _;
use tokio::{task::JoinHandle, time::timeout};
use trunkline::{Attachment, Bytes, Consumer, Error, Producer, Receiver, Scatter, Sender};

/// Longer than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// More polls than anything here needs.
pub(crate) const POLLS_MAX: usize = 1000;
/// The send budget of worlds in which sends wait for it: any message uses it up.
pub(crate) const SHORT_SEND_BUDGET_BYTES: u64 = 10;

/// Polls a future `polls` times at most, each time after it was woken, and drops it then.
pub(crate) async fn cut<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Cuts the calls of a reader, from none of its polls to `polls_max` in turn, and counts those that were dropped while
/// they waited.
#[derive(Debug)]
pub(crate) struct Cutter {
    polls_max: usize,
    attempts: usize,
    /// Futures that were dropped while they waited.
    pub(crate) dropped: usize,
    hunger: Hunger,
}

/// Whether the reader found nothing when it looked last. Who feeds it waits for that, so that it has to wait again and
/// again, whichever of the two is faster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hunger(Arc<AtomicBool>);

impl Hunger {
    pub(crate) async fn felt(&self) {
        while !self.0.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    }
}

impl Cutter {
    pub(crate) fn new(polls_max: usize) -> Self {
        Self { polls_max, attempts: 0, dropped: 0, hunger: Hunger::default() }
    }

    pub(crate) fn hunger(&self) -> Hunger {
        self.hunger.clone()
    }

    /// Polls a future, as often as it is its turn to be, and drops it.
    pub(crate) async fn cut<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let polls = self.attempts % (self.polls_max + 1);
        self.attempts += 1;
        let mut future = pin!(future);
        let watched = future::poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            self.hunger.0.store(polled.is_pending(), Ordering::Relaxed);
            polled
        });
        let done = cut(polls, watched).await;
        self.dropped += usize::from(polls > 0 && done.is_none());
        // Whoever feeds runs on this thread too.
        tokio::task::yield_now().await;
        done
    }
}

/// What the producer knows of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Told {
    Sent,
    Unknown,
    NotSent,
}

/// The n-th message: its number is legible in it, and so is a torn one.
pub(crate) fn message(number: usize) -> Bytes {
    format!("{number}/").repeat(1000).into()
}

/// How a stream ended at its consumer, and what came before.
pub(crate) type Read = (Vec<Bytes>, Result<(), Error>);

/// Reads a stream to its end, on a task of its own: not before this one waits.
pub(crate) fn reading(mut receiver: Receiver) -> JoinHandle<Read> {
    tokio::spawn(async move {
        let mut messages = Vec::new();
        loop {
            match receiver.recv().await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return (messages, Ok(())),
                Err(error) => return (messages, Err(error)),
            }
        }
    })
}

/// Holds what arrived against what is known of what was sent.
pub(crate) fn check(arrived: &[Bytes], known: &[(usize, Told)], what: &str, polls: usize) {
    let mut rest = arrived.iter().peekable();
    for &(number, told) in known {
        let came = rest.next_if(|arrived| **arrived == message(number)).is_some();
        assert!(came || told != Told::Sent, "{what}, dropped after {polls} polls: message {number} is lost");
        assert!(!came || told != Told::NotSent, "{what}, dropped after {polls} polls: message {number} was sent");
    }
    assert!(rest.next().is_none(), "{what}, dropped after {polls} polls: something came twice, torn or out of order");
}

/// A process with a consumer, and a producer of its own.
pub(crate) struct World {
    pub(crate) attachment: Attachment,
    pub(crate) consumer: Consumer,
    pub(crate) producer: Producer,
}

impl World {
    pub(crate) async fn of(attachment: Attachment) -> Self {
        let job = attachment.job("job", "1").unwrap();
        let consumer = job.consumer("sink").unwrap().bind().await.unwrap();
        let producer = job.producer("map").unwrap();
        Self { attachment, consumer, producer }
    }

    pub(crate) async fn stream(&mut self) -> (Sender, Receiver) {
        let (sender, receiver) = tokio::join!(self.producer.open(self.consumer.address()), self.consumer.accept());
        (sender.unwrap(), receiver.unwrap())
    }

    /// Many at once.
    pub(crate) async fn streams(&mut self, count: usize) -> (Vec<Sender>, Vec<Receiver>) {
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (sender, receiver) = self.stream().await;
            senders.push(sender);
            receivers.push(receiver);
        }
        (senders, receivers)
    }

    /// A stream that has credit, so that what its sender waits for is something else.
    async fn stream_with_credit(&mut self) -> (Sender, JoinHandle<Read>) {
        let (mut sender, receiver) = self.stream().await;
        drop(sender.reserve(1).await.unwrap());
        (sender, reading(receiver))
    }

    /// Nothing of a stream that is over is left in the process.
    pub(crate) async fn settled(&self) {
        loop {
            let metrics = self.attachment.metrics();
            if metrics.sends_finished + metrics.sends_lost == metrics.opens {
                assert_eq!(metrics.send_budget_used_bytes, 0);
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

/// Gives a message to the sink and waits until it has left it.
pub(crate) fn through_a_sink(sender: &mut Sender, message: Bytes) -> Sending<'_> {
    Box::pin(async move {
        future::poll_fn(|cx| Pin::new(&mut *sender).poll_ready(cx)).await?;
        Pin::new(&mut *sender).start_send(message)?;
        future::poll_fn(|cx| Pin::new(&mut *sender).poll_ready(cx)).await
    })
}

/// Does `act` with a sender while another stream holds the whole send budget, dropped after 0, 1, 2, … polls until one is
/// not dropped. `dropped` is what is known of the message then. A third sender waits behind it, and none keeps the room
/// from another.
pub(crate) async fn short_of_budget_at_every_poll(
    world: &mut World,
    what: &str,
    dropped: Told,
    act: impl for<'a> Fn(&'a mut Sender, Bytes) -> Sending<'a>,
) {
    for polls in 0..POLLS_MAX {
        let (mut sender, reading) = world.stream_with_credit().await;
        let (mut behind, reading_behind) = world.stream_with_credit().await;
        let (mut holder, reading_nothing) = world.stream_with_credit().await;
        let permit = holder.reserve(9).await.unwrap();
        assert_eq!(world.attachment.metrics().send_budget_used_bytes, SHORT_SEND_BUDGET_BYTES);
        // On a task of its own, which nothing but its place in the queue wakes.
        let release = async {
            let blocked = world.attachment.metrics().sends_blocked;
            let waiting = tokio::spawn(async move {
                behind.send(message(0)).await.unwrap();
                behind
            });
            while world.attachment.metrics().sends_blocked == blocked {
                tokio::task::yield_now().await;
            }
            drop(permit);
            timeout(PATIENCE, waiting).await.expect("nobody keeps the room from another").unwrap()
        };
        let (done, behind) = tokio::join!(biased; cut(polls, act(&mut sender, message(0))), release);
        let told = match polls {
            _ if done.is_some() => Told::Sent,
            0 => Told::NotSent,
            _ => dropped,
        };
        sender.send(message(1)).await.unwrap();
        let ends = tokio::join!(sender.finish(), behind.finish(), holder.finish());
        assert!(matches!(ends, (Ok(()), Ok(()), Ok(()))), "{ends:?}");
        check(&reading.await.unwrap().0, &[(0, told), (1, Told::Sent)], what, polls);
        check(&reading_behind.await.unwrap().0, &[(0, Told::Sent)], what, polls);
        check(&reading_nothing.await.unwrap().0, &[], what, polls);
        world.settled().await;
        if let Some(done) = done {
            done.unwrap();
            assert!(polls > 1, "{what} did not have to wait: this shows nothing");
            return;
        }
    }
    panic!("{what} is never through");
}

/// The same for a broadcast.
pub(crate) async fn a_broadcast_short_of_budget_at_every_poll(world: &mut World) {
    for polls in 0..POLLS_MAX {
        let (mut senders, mut readings) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (sender, reading) = world.stream_with_credit().await;
            senders.push(sender);
            readings.push(reading);
        }
        let (mut holder, reading_nothing) = world.stream_with_credit().await;
        let permit = holder.reserve(9).await.unwrap();
        let mut scatter: Scatter = senders.into_iter().collect();
        let (done, ()) = tokio::join!(biased; cut(polls, scatter.broadcast(message(0))), async { drop(permit) });
        assert!(scatter.broadcast(message(1)).await.is_empty());
        assert!(scatter.finish().await.is_empty());
        holder.finish().await.unwrap();
        // The first poll begins it: from there on each consumer gets it.
        let told = if polls > 0 { Told::Sent } else { Told::NotSent };
        for reading in readings {
            check(&reading.await.unwrap().0, &[(0, told), (1, Told::Sent)], "broadcast", polls);
        }
        reading_nothing.await.unwrap().1.unwrap();
        world.settled().await;
        if let Some(failed) = done {
            assert!(failed.is_empty());
            assert!(polls > 1, "it did not have to wait: this shows nothing");
            return;
        }
    }
    panic!("broadcast is never through");
}
