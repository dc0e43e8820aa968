//! Dropping a future of a scatter at any of its polls: as with one sender, on each of its streams.

use std::pin::Pin;

use futures_sink::Sink as _;
use trunkline::{Bytes, Error, Scatter};

use crate::{
    cancel::{end_at_every_poll, fill, world},
    cutting::{POLLS_MAX, Sending, Told, check, cut, message, reading},
};

/// The first of what failed.
fn all_well(failed: Vec<(usize, Error)>) -> Result<(), Error> {
    failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

/// Does `act` with a scatter to three consumers whose credit is used up, and each sender of which holds one more message
/// if `holding`. The streams go on after it.
async fn at_every_poll(what: &str, holding: bool, act: impl for<'a> Fn(&'a mut Scatter, usize, Bytes) -> Sending<'a>) {
    let mut world = world().await;
    for polls in 0..POLLS_MAX {
        let (mut senders, receivers) = world.streams(3).await;
        let mut known = vec![Vec::new(); 3];
        for (sender, known) in senders.iter_mut().zip(&mut known) {
            fill(sender, known);
            if holding {
                Pin::new(sender).start_send(message(known.len())).unwrap();
                known.push((known.len(), Told::Sent));
            }
        }
        let readings: Vec<_> = receivers.into_iter().map(reading).collect();
        let mut scatter: Scatter = senders.into_iter().collect();
        let done = cut(polls, act(&mut scatter, 1, message(77))).await;
        if !holding {
            known[1].push((77, if done.is_some() { Told::Sent } else { Told::NotSent }));
        }
        for (index, known) in known.iter_mut().enumerate() {
            scatter.send(index, message(78)).await.unwrap();
            known.push((78, Told::Sent));
        }
        assert!(scatter.finish().await.is_empty());
        for (reading, known) in readings.into_iter().zip(known) {
            let (arrived, end) = reading.await.unwrap();
            end.unwrap();
            check(&arrived, &known, what, polls);
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

#[tokio::test]
async fn a_send_of_a_scatter_may_be_dropped_at_any_poll() {
    at_every_poll("send", false, |scatter, index, message| Box::pin(scatter.send(index, message))).await;
}

#[tokio::test]
async fn a_flush_of_a_scatter_may_be_dropped_at_any_poll() {
    at_every_poll("flush", true, |scatter, _, _| Box::pin(async { all_well(scatter.flush().await) })).await;
}

#[tokio::test]
async fn a_finish_of_a_scatter_may_be_dropped_at_any_poll() {
    end_at_every_poll("finish", 3, |senders| {
        let scatter: Scatter = senders.into_iter().collect();
        Box::pin(async { all_well(scatter.finish().await) })
    })
    .await;
}

#[tokio::test]
async fn a_close_of_a_scatter_may_be_dropped_at_any_poll() {
    end_at_every_poll("close", 3, |senders| {
        let scatter: Scatter = senders.into_iter().collect();
        Box::pin(async { all_well(scatter.close().await) })
    })
    .await;
}

#[tokio::test]
async fn a_scatter_may_be_dropped_at_any_poll() {
    let world = world().await;
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
    let mut world = world().await;
    for polls in 0..POLLS_MAX {
        let (mut senders, receivers) = world.streams(5).await;
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
