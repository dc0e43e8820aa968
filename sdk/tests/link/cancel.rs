//! Dropping a future of the sending half at any of its polls: what was told to be sent arrives once and in order; what
//! was not told arrives at most once, whole, and in its place.

use std::{
    future::{self, Future},
    pin::{Pin, pin},
    task::Poll,
};

use futures_sink::Sink;
use tokio::{io::AsyncWriteExt as _, task::JoinHandle};
use trunkline::{Attachment, Bytes, Consumer, Error, Producer, Receiver, Scatter, Sender};

use crate::{fake_node::job, relay::attached};

/// More polls than anything here needs.
const POLLS_MAX: usize = 1000;

/// Polls a future `polls` times at most, each time after it was woken, and drops it then.
async fn cut<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
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

/// What the producer knows of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    Sent,
    Unknown,
}

/// The n-th message: its number is legible in it, and so is a torn one.
fn message(number: usize) -> Bytes {
    format!("{number}/").repeat(1000).into()
}

/// How a stream ended at its consumer, and what came before.
type Read = (Vec<Bytes>, Result<(), Error>);

/// Reads a stream to its end, on a task of its own: not before this one waits.
fn reading(mut receiver: Receiver) -> JoinHandle<Read> {
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
fn check(arrived: &[Bytes], known: &[(usize, Told)], what: &str, polls: usize) {
    let mut rest = arrived.iter().peekable();
    for &(number, told) in known {
        let came = rest.next_if(|arrived| **arrived == message(number)).is_some();
        assert!(came || told == Told::Unknown, "{what}, dropped after {polls} polls: message {number} is lost");
    }
    assert!(rest.next().is_none(), "{what}, dropped after {polls} polls: something came twice, torn or out of order");
}

/// A process whose consumer grants little at a time, and its own producer.
struct World {
    attachment: Attachment,
    consumer: Consumer,
    producer: Producer,
}

impl World {
    async fn new() -> Self {
        let builder = Attachment::builder().receive_budget_bytes(64 << 10).message_bytes_max(1 << 20);
        let attachment = attached(builder).await;
        let consumer = job(&attachment).consumer("sink").unwrap().bind().await.unwrap();
        let producer = job(&attachment).producer("map").unwrap();
        Self { attachment, consumer, producer }
    }

    async fn stream(&mut self) -> (Sender, Receiver) {
        let sender = self.producer.open(self.consumer.address()).await.unwrap();
        (sender, self.consumer.accept().await.unwrap())
    }

    /// Nothing of a stream that is over is left in the process.
    async fn settled(&self) {
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

/// Sends until the consumer's credit is used up, so that what follows has to wait.
fn fill(sender: &mut Sender, known: &mut Vec<(usize, Told)>) {
    while sender.try_send(message(known.len())).is_ok() {
        known.push((known.len(), Told::Sent));
    }
}

type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

/// Does `act` with a sender whose credit is used up, dropped after 0, 1, 2, … polls until one is not dropped. The stream
/// goes on after it.
async fn at_every_poll(what: &str, act: impl for<'a> Fn(&'a mut Sender, Bytes) -> Sending<'a>) {
    let mut world = World::new().await;
    for polls in 0..POLLS_MAX {
        let (mut sender, receiver) = world.stream().await;
        let mut known = Vec::new();
        fill(&mut sender, &mut known);
        let reading = reading(receiver);
        let number = known.len();
        let done = cut(polls, act(&mut sender, message(number))).await;
        known.push((number, if done.is_some() { Told::Sent } else { Told::Unknown }));
        sender.send(message(number + 1)).await.unwrap();
        known.push((number + 1, Told::Sent));
        sender.finish().await.unwrap();
        let (arrived, end) = reading.await.unwrap();
        end.unwrap();
        check(&arrived, &known, what, polls);
        world.settled().await;
        if let Some(done) = done {
            done.unwrap();
            assert!(polls > 1, "{what} did not have to wait: this shows nothing");
            return;
        }
    }
    panic!("{what} is never through");
}

#[tokio::test]
async fn a_send_may_be_dropped_at_any_poll() {
    at_every_poll("send", |sender, message| Box::pin(sender.send(message))).await;
}

#[tokio::test]
async fn a_reservation_may_be_dropped_at_any_poll() {
    at_every_poll("reserve and send", |sender, message| {
        Box::pin(async move { sender.reserve(message.len() + 100).await?.send(message) })
    })
    .await;
}

#[tokio::test]
async fn a_flush_may_be_dropped_at_any_poll() {
    at_every_poll("send and flush", |sender, message| {
        Box::pin(async move {
            sender.send(message).await?;
            sender.flush().await
        })
    })
    .await;
}

#[tokio::test]
async fn a_sink_may_be_dropped_at_any_poll() {
    at_every_poll("feed and flush a sink", |sender, message| {
        Box::pin(async move {
            future::poll_fn(|cx| Pin::new(&mut *sender).poll_ready(cx)).await?;
            Pin::new(&mut *sender).start_send(message)?;
            future::poll_fn(|cx| Sink::poll_flush(Pin::new(&mut *sender), cx)).await
        })
    })
    .await;
}

#[tokio::test]
async fn a_write_may_be_dropped_at_any_poll() {
    at_every_poll("write", |sender, message| {
        Box::pin(async move {
            let written = sender.write(&message).await.unwrap();
            assert_eq!(written, message.len());
            Ok(())
        })
    })
    .await;
}

#[tokio::test]
async fn a_write_of_much_may_be_dropped_at_any_poll() {
    let bytes: Vec<u8> = (0_u32..100_000).flat_map(u32::to_le_bytes).collect();
    let mut world = World::new().await;
    for polls in 0..POLLS_MAX {
        let (mut sender, receiver) = world.stream().await;
        let reading = reading(receiver);
        let done = cut(polls, sender.write_all(&bytes)).await;
        sender.shutdown().await.unwrap();
        let (arrived, end) = reading.await.unwrap();
        end.unwrap();
        let arrived = arrived.concat();
        assert!(bytes.starts_with(&arrived), "dropped after {polls} polls: the bytes are not those that were written");
        if done.is_some() {
            assert_eq!(arrived.len(), bytes.len());
            assert!(polls > 1, "it did not have to wait: this shows nothing");
            return;
        }
    }
    panic!("never through");
}

/// Ends a stream whose credit is used up, and which holds one more message.
async fn end_at_every_poll(what: &str, end: impl Fn(Sender) -> Sending<'static>) {
    let mut world = World::new().await;
    for polls in 0..POLLS_MAX {
        let (mut sender, receiver) = world.stream().await;
        let mut known = Vec::new();
        fill(&mut sender, &mut known);
        let number = known.len();
        Pin::new(&mut sender).start_send(message(number)).unwrap();
        // A sender that is dropped before its end was asked for gives up what it has.
        let told = if polls == 0 { Told::Unknown } else { Told::Sent };
        known.iter_mut().for_each(|(_, known)| *known = told);
        known.push((number, told));
        let reading = reading(receiver);
        let done = cut(polls, end(sender)).await;
        let (arrived, clean) = reading.await.unwrap();
        check(&arrived, &known, what, polls);
        assert_eq!(clean.is_ok(), polls > 0, "{what}, dropped after {polls} polls");
        world.settled().await;
        if let Some(done) = done {
            done.unwrap();
            assert!(polls > 1, "{what} did not have to wait: this shows nothing");
            return;
        }
    }
    panic!("{what} is never through");
}

#[tokio::test]
async fn a_finish_may_be_dropped_at_any_poll() {
    end_at_every_poll("finish", |sender| Box::pin(sender.finish())).await;
}

#[tokio::test]
async fn a_close_may_be_dropped_at_any_poll() {
    end_at_every_poll("close", |sender| Box::pin(sender.close())).await;
}

#[tokio::test]
async fn an_open_may_be_dropped_at_any_poll() {
    let mut world = World::new().await;
    for polls in 0..POLLS_MAX {
        let opened = cut(polls, world.producer.open(world.consumer.address())).await;
        if let Some(sender) = opened {
            drop(sender.unwrap());
            assert!(polls > 1, "it did not have to wait: this shows nothing");
            return;
        }
        // Whatever the consumer saw of it, it was no clean end, and the next stream is whole.
        let mut sender = world.producer.open(world.consumer.address()).await.unwrap();
        sender.send(message(polls)).await.unwrap();
        let finishing = tokio::spawn(sender.finish());
        loop {
            let (arrived, end) = reading(world.consumer.accept().await.unwrap()).await.unwrap();
            if end.is_ok() {
                check(&arrived, &[(polls, Told::Sent)], "open", polls);
                break;
            }
            assert!(arrived.is_empty());
        }
        finishing.await.unwrap().unwrap();
        world.settled().await;
    }
    panic!("open is never through");
}

#[tokio::test]
async fn a_scatter_may_be_dropped_at_any_poll() {
    let world = World::new().await;
    for polls in 0..POLLS_MAX {
        let address = world.consumer.address();
        let opened = cut(polls, world.producer.scatter(vec![address.clone(); 5])).await;
        let Some(scatter) = opened else {
            // All opens were withdrawn.
            world.settled().await;
            assert_eq!(world.attachment.metrics().sends_finished, 0);
            continue;
        };
        assert_eq!(scatter.unwrap().len(), 5);
        assert!(polls > 1, "it did not have to wait: this shows nothing");
        world.settled().await;
        return;
    }
    panic!("scatter is never through");
}

#[tokio::test]
async fn a_broadcast_may_be_dropped_at_any_poll_and_reaches_all_or_none() {
    let mut world = World::new().await;
    for polls in 0..POLLS_MAX {
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let (sender, receiver) = world.stream().await;
            senders.push(sender);
            receivers.push(receiver);
        }
        // One has credit for more, the others have to wait.
        let mut known = vec![Vec::new(); 5];
        for (sender, known) in senders.iter_mut().zip(&mut known).skip(1) {
            fill(sender, known);
        }
        let reading: Vec<_> = receivers.into_iter().map(reading).collect();
        let mut scatter: Scatter = senders.into_iter().collect();
        let done = cut(polls, scatter.broadcast(message(77))).await;
        assert!(scatter.broadcast(message(78)).await.is_empty());
        assert!(scatter.finish().await.is_empty());
        for (reading, mut known) in reading.into_iter().zip(known) {
            let (arrived, end) = reading.await.unwrap();
            end.unwrap();
            // The first poll begins it: from there on each consumer gets it.
            if polls > 0 {
                known.push((77, Told::Sent));
            }
            known.push((78, Told::Sent));
            check(&arrived, &known, "broadcast", polls);
        }
        world.settled().await;
        if let Some(failed) = done {
            assert!(failed.is_empty());
            assert!(polls > 1, "it did not have to wait: this shows nothing");
            return;
        }
    }
    panic!("broadcast is never through");
}
