//! Futures of the receiving side, dropped at each of their polls: everything is returned once and in order.

use std::{future, pin::pin, task::Poll};

use futures_util::StreamExt as _;
use tokio::{io::AsyncReadExt as _, task::JoinHandle};
use trunkline::{Attachment, Bytes, Expected, Gathered, Receiver};
use trunkline_proto::{
    frame::{DataHeader, Frame},
    message::Bound,
};

use crate::{
    fake_node::{FakeNode, Link, attach, bind, finished, incoming, job},
    gather::bound,
    receive::accepted,
};

/// A future is dropped after so many polls at most.
const POLLS_MAX: usize = 4;

/// Polls a future `polls` times at most, and drops it.
async fn polled<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    let done = future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    let done = done.await;
    // Whoever feeds runs on this thread too.
    tokio::task::yield_now().await;
    done
}

fn messages() -> Vec<Bytes> {
    (0..60).map(|number: usize| Bytes::from(format!("{number}/").repeat(number % 7))).collect()
}

fn content() -> Vec<u8> {
    messages().concat()
}

/// Feeds a stream in pieces of a few bytes, which cut everything. The link lives as long as the task's result.
fn feed(mut link: Link, streams: &'static [u64]) -> JoinHandle<Link> {
    tokio::spawn(async move {
        let messages = messages();
        let messages: Vec<&[u8]> = messages.iter().map(Bytes::as_ref).collect();
        let bytes = finished(&messages);
        let mut sent = 0;
        while sent < bytes.len() {
            let until = (sent + 1 + sent % 11).min(bytes.len());
            for &stream in streams {
                let header = DataHeader { stream, offset: sent as u64, epoch: 0, fin: false };
                link.push(Frame::Data(header, Bytes::copy_from_slice(&bytes[sent..until]))).await;
            }
            sent = until;
            tokio::task::yield_now().await;
        }
        link
    })
}

/// Has each stream read under each number of polls before the drop; `read` returns whether the end was returned.
async fn each_way(mut read: impl AsyncFnMut(&mut Receiver, usize, &mut Vec<u8>) -> bool) {
    for polls_max in 1..=POLLS_MAX {
        let (attachment, link, consumer, mut receiver) = accepted().await;
        let feeding = feed(link, &[1]);
        let mut all = Vec::new();
        let mut attempt = 0;
        while !read(&mut receiver, attempt % (polls_max + 1), &mut all).await {
            attempt += 1;
        }
        assert_eq!(all, content(), "dropped after {polls_max} polls at most");
        drop((feeding.await.unwrap(), attachment, consumer));
    }
}

#[tokio::test]
async fn recv() {
    each_way(async |receiver, polls, all| match polled(polls, receiver.recv()).await {
        Some(Ok(Some(message))) => {
            all.extend_from_slice(&message);
            false
        }
        Some(end) => end.unwrap().is_none(),
        None => false,
    })
    .await;
}

#[tokio::test]
async fn recv_many() {
    each_way(async |receiver, polls, all| {
        let mut batch = Vec::new();
        let read = polled(polls, receiver.recv_many(&mut batch, 3)).await;
        assert_eq!(batch.len(), read.as_ref().map_or(0, |count| *count.as_ref().unwrap()));
        all.extend_from_slice(&batch.concat());
        read.is_some_and(|count| count.unwrap() == 0)
    })
    .await;
}

#[tokio::test]
async fn as_bytes() {
    each_way(async |receiver, polls, all| {
        let mut part = [0; 13];
        let read = polled(polls, receiver.read(&mut part)).await.map(Result::unwrap);
        all.extend_from_slice(&part[..read.unwrap_or(0)]);
        read == Some(0)
    })
    .await;
}

#[tokio::test]
async fn as_a_stream() {
    each_way(async |receiver, polls, all| match polled(polls, receiver.next()).await {
        Some(Some(message)) => {
            all.extend_from_slice(&message.unwrap());
            false
        }
        Some(None) => true,
        None => false,
    })
    .await;
}

#[tokio::test]
async fn in_all_ways_by_turns() {
    let mut turn = 0;
    each_way(async |receiver, polls, all| {
        turn += 1;
        if turn % 3 == 0 {
            let mut part = [0; 5];
            let read = polled(polls, receiver.read(&mut part)).await.map(Result::unwrap);
            all.extend_from_slice(&part[..read.unwrap_or(0)]);
            return read == Some(0);
        }
        match polled(polls, receiver.recv()).await {
            Some(Ok(Some(rest))) => all.extend_from_slice(&rest),
            Some(end) => return end.unwrap().is_none(),
            None => {}
        }
        false
    })
    .await;
}

#[tokio::test]
async fn gathered() {
    for (polls_max, batch_max) in (1..=POLLS_MAX).flat_map(|polls| [(polls, 1), (polls, 5)]) {
        let (attachment, mut link, consumer, bind) = bound().await;
        let mut gather = consumer.gather(Expected::Count(3));
        for (stream, name) in [(1, "a"), (3, "b"), (5, "c")] {
            link.offer(bind, stream, name).await;
        }
        let feeding = feed(link, &[1, 3, 5]);
        let mut all = [Vec::new(), Vec::new(), Vec::new()];
        for attempt in 0.. {
            let polls = attempt % (polls_max + 1);
            let mut batch = Vec::new();
            let is_over = if batch_max == 1 {
                match polled(polls, gather.next()).await {
                    Some(Some(gathered)) => {
                        batch.push(gathered.unwrap());
                        false
                    }
                    Some(None) => true,
                    None => false,
                }
            } else {
                let read = polled(polls, gather.next_many(&mut batch, batch_max)).await;
                assert_eq!(batch.len(), read.as_ref().map_or(0, |count| *count.as_ref().unwrap()));
                read.is_some_and(|count| count.unwrap() == 0)
            };
            for gathered in batch {
                let Gathered::Message { producer, message } = gathered else { panic!("{gathered:?}") };
                let at = ["a", "b", "c"].iter().position(|name| *name == producer.name.as_str()).unwrap();
                all[at].extend_from_slice(&message);
            }
            if is_over {
                break;
            }
        }
        assert_eq!(all, [content(), content(), content()]);
        drop((feeding.await.unwrap(), attachment));
    }
}

#[tokio::test]
async fn accept() {
    for polls_max in 1..=POLLS_MAX {
        let (attachment, mut link) = attach().await;
        let (mut consumer, bind) = bind(&attachment, &mut link).await;
        let offering = tokio::spawn(async move {
            for number in 0..30 {
                link.push(incoming(bind, 2 * number + 1, &format!("map-{number}"))).await;
                tokio::task::yield_now().await;
            }
            link
        });
        let mut receivers = Vec::new();
        let mut attempt = 0;
        while receivers.len() < 30 {
            receivers.extend(polled(attempt % (polls_max + 1), consumer.accept()).await.map(Result::unwrap));
            attempt += 1;
        }
        for (number, receiver) in receivers.iter().enumerate() {
            assert_eq!(receiver.producer().name.as_str(), format!("map-{number}"));
        }
        drop((offering.await.unwrap(), attachment));
    }
}

/// A node that answers each BIND, and at last says which binds were ended, and how often it was told so of each.
async fn answer_binds(mut link: Link) -> (Vec<u64>, Vec<u64>) {
    let (mut bound, mut unbound) = (Vec::new(), Vec::new());
    while let Some(frame) = link.next_or_end().await {
        match frame {
            Frame::Bind(bind) => {
                bound.push(bind.bind);
                link.push(Bound { bind: bind.bind }).await;
            }
            Frame::Unbind(unbind) => unbound.push(unbind.bind),
            _ => {}
        }
    }
    (bound, unbound)
}

#[tokio::test]
async fn a_bind_is_withdrawn_and_a_close_goes_on() {
    let node = FakeNode::listen();
    let (attachment, link) = tokio::join!(Attachment::connect(&node.path), node.greet());
    let attachment = attachment.unwrap();
    let answering = tokio::spawn(answer_binds(link));
    let mut consumers = 0;
    for attempt in 0..200 {
        let binding = job(&attachment).consumer("sink").unwrap().bind();
        let Some(consumer) = polled(attempt % (POLLS_MAX + 1), binding).await else { continue };
        consumers += 1;
        // Whether it was polled to its end, now and then, or never: dropping it closes too.
        if let Some(closed) = polled(consumers % POLLS_MAX, consumer.unwrap().close()).await {
            closed.unwrap();
        }
    }
    assert!(consumers > 0);
    attachment.close().await.unwrap();
    let (bound, mut unbound) = answering.await.unwrap();
    unbound.sort_unstable();
    assert!(bound.len() >= consumers);
    assert_eq!(unbound, bound, "each bind that the node was asked for was ended once");
}
