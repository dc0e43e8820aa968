//! Dropping a future of the sending half at any of its polls: what was told to be sent arrives once and in order; what
//! was not told arrives at most once, whole, and in its place.

use std::{future, pin::Pin};

use futures_sink::Sink;
use tokio::io::AsyncWriteExt as _;
use trunkline::{Attachment, Bytes, ErrorKind, Sender};

use crate::{
    cutting::{
        self, POLLS_MAX, SHORT_SEND_BUDGET_BYTES, Sending, Told, World, check, cut, message, reading,
        short_of_budget_at_every_poll, through_a_sink,
    },
    relay::attached,
};

/// A process whose consumer grants little at a time, and its own producer.
pub(crate) async fn world() -> World {
    World::of(attached(Attachment::builder().receive_budget_bytes(64 << 10).message_bytes_max(1 << 20)).await).await
}

/// Sends until the consumer's credit is used up, so that what follows has to wait.
pub(crate) fn fill(sender: &mut Sender, known: &mut Vec<(usize, Told)>) {
    while sender.try_send(message(known.len())).is_ok() {
        known.push((known.len(), Told::Sent));
    }
}

/// Does `act` with a sender whose credit is used up, dropped after 0, 1, 2, … polls until one is not dropped; `dropped` is
/// what is known of the message then. The stream goes on after it.
async fn at_every_poll(what: &str, dropped: Told, act: impl for<'a> Fn(&'a mut Sender, Bytes) -> Sending<'a>) {
    let mut world = world().await;
    for polls in 0..POLLS_MAX {
        let (mut sender, receiver) = world.stream().await;
        let mut known = Vec::new();
        fill(&mut sender, &mut known);
        let reading = reading(receiver);
        let number = known.len();
        let done = cut(polls, act(&mut sender, message(number))).await;
        let told = match polls {
            _ if done.is_some() => Told::Sent,
            0 => Told::NotSent,
            _ => dropped,
        };
        known.push((number, told));
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
    at_every_poll("send", Told::NotSent, |sender, message| Box::pin(sender.send(message))).await;
}

#[tokio::test]
async fn a_reservation_may_be_dropped_at_any_poll() {
    at_every_poll("reserve and send", Told::NotSent, |sender, message| {
        Box::pin(async move { sender.reserve(message.len() + 100).await?.send(message) })
    })
    .await;
}

#[tokio::test]
async fn a_flush_may_be_dropped_at_any_poll() {
    at_every_poll("send and flush", Told::Unknown, |sender, message| {
        Box::pin(async move {
            sender.send(message).await?;
            sender.flush().await
        })
    })
    .await;
}

#[tokio::test]
async fn a_sink_may_be_dropped_at_any_poll() {
    at_every_poll("feed and flush a sink", Told::Sent, |sender, message| {
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
    at_every_poll("write", Told::NotSent, |sender, message| {
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
    let mut world = world().await;
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

/// Ends streams whose credit is used up, and each of which holds one more message.
pub(crate) async fn end_at_every_poll(what: &str, streams: usize, end: impl Fn(Vec<Sender>) -> Sending<'static>) {
    let mut world = world().await;
    for polls in 0..POLLS_MAX {
        let (mut senders, receivers) = world.streams(streams).await;
        let mut known = vec![Vec::new(); streams];
        for (sender, known) in senders.iter_mut().zip(&mut known) {
            fill(sender, known);
            let number = known.len();
            Pin::new(sender).start_send(message(number)).unwrap();
            // A sender that is dropped before its end was asked for gives up what it has.
            let told = if polls == 0 { Told::Unknown } else { Told::Sent };
            known.iter_mut().for_each(|(_, known)| *known = told);
            known.push((number, told));
        }
        let readings: Vec<_> = receivers.into_iter().map(reading).collect();
        let done = cut(polls, end(senders)).await;
        for (reading, known) in readings.into_iter().zip(known) {
            let (arrived, clean) = reading.await.unwrap();
            check(&arrived, &known, what, polls);
            assert_eq!(clean.is_ok(), polls > 0, "{what}, dropped after {polls} polls");
        }
        world.settled().await;
        if let Some(done) = done {
            done.unwrap();
            assert!(polls > 1, "{what} did not have to wait: this shows nothing");
            return;
        }
    }
    panic!("{what} is never through");
}

/// The one sender of a stream.
fn only(senders: Vec<Sender>) -> Sender {
    let [sender] = senders.try_into().unwrap();
    sender
}

#[tokio::test]
async fn a_finish_may_be_dropped_at_any_poll() {
    end_at_every_poll("finish", 1, |senders| Box::pin(only(senders).finish())).await;
}

#[tokio::test]
async fn a_close_may_be_dropped_at_any_poll() {
    end_at_every_poll("close", 1, |senders| Box::pin(only(senders).close())).await;
}

fn close_sink(sender: &mut Sender) -> Sending<'_> {
    Box::pin(future::poll_fn(move |cx| Pin::new(&mut *sender).poll_close(cx)))
}

fn shut_down(sender: &mut Sender) -> Sending<'_> {
    Box::pin(async move {
        sender.shutdown().await.unwrap();
        Ok(())
    })
}

#[tokio::test]
async fn the_close_of_a_sink_may_be_dropped_with_its_sender_at_any_poll() {
    end_at_every_poll("poll_close", 1, |senders| Box::pin(async move { close_sink(&mut only(senders)).await })).await;
}

#[tokio::test]
async fn the_shutdown_of_a_writer_may_be_dropped_with_its_sender_at_any_poll() {
    end_at_every_poll("shutdown", 1, |senders| Box::pin(async move { shut_down(&mut only(senders)).await })).await;
}

/// Ends a stream whose credit is used up, and which holds one more message, by a call that is dropped and then made
/// again.
async fn end_again_at_every_poll(what: &str, end: impl for<'a> Fn(&'a mut Sender) -> Sending<'a>) {
    let mut world = world().await;
    for polls in 0..POLLS_MAX {
        let (mut sender, receiver) = world.stream().await;
        let mut known = Vec::new();
        fill(&mut sender, &mut known);
        Pin::new(&mut sender).start_send(message(known.len())).unwrap();
        known.push((known.len(), Told::Sent));
        let reading = reading(receiver);
        let done = cut(polls, end(&mut sender)).await;
        if polls > 0 {
            let late = sender.try_send(message(known.len())).unwrap_err();
            assert_eq!(late.kind(), ErrorKind::Invalid, "{what}, dropped after {polls} polls: the end was asked for");
        }
        end(&mut sender).await.unwrap();
        let (arrived, clean) = reading.await.unwrap();
        clean.unwrap();
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
async fn the_close_of_a_sink_may_be_dropped_at_any_poll_and_called_again() {
    end_again_at_every_poll("poll_close", close_sink).await;
}

#[tokio::test]
async fn the_shutdown_of_a_writer_may_be_dropped_at_any_poll_and_called_again() {
    end_again_at_every_poll("shutdown", shut_down).await;
}

#[tokio::test]
async fn an_open_may_be_dropped_at_any_poll() {
    let mut world = world().await;
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

/// A process whose senders together may hold next to nothing.
async fn short_world() -> World {
    let builder = Attachment::builder().receive_budget_bytes(64 << 10).send_budget_bytes(SHORT_SEND_BUDGET_BYTES);
    World::of(attached(builder).await).await
}

#[tokio::test]
async fn a_send_that_waits_for_the_budget_may_be_dropped_at_any_poll() {
    short_of_budget_at_every_poll(&mut short_world().await, "send", Told::NotSent, |sender, message| {
        Box::pin(sender.send(message))
    })
    .await;
}

#[tokio::test]
async fn a_reservation_that_waits_for_the_budget_may_be_dropped_at_any_poll() {
    short_of_budget_at_every_poll(&mut short_world().await, "reserve and send", Told::NotSent, |sender, message| {
        Box::pin(async move { sender.reserve(message.len() + 100).await?.send(message) })
    })
    .await;
}

#[tokio::test]
async fn a_write_that_waits_for_the_budget_may_be_dropped_at_any_poll() {
    short_of_budget_at_every_poll(&mut short_world().await, "write", Told::NotSent, |sender, message| {
        Box::pin(async move {
            assert_eq!(sender.write(&message).await.unwrap(), message.len());
            Ok(())
        })
    })
    .await;
}

#[tokio::test]
async fn a_held_message_that_waits_for_the_budget_goes_out_whatever_is_dropped() {
    short_of_budget_at_every_poll(&mut short_world().await, "sink", Told::Sent, through_a_sink).await;
}

#[tokio::test]
async fn a_broadcast_that_waits_for_the_budget_may_be_dropped_at_any_poll() {
    cutting::a_broadcast_short_of_budget_at_every_poll(&mut short_world().await).await;
}
