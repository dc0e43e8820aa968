//! Futures of the receiving side, dropped at each of their polls: everything is returned once and in order.

use futures_util::StreamExt;
use tokio::{io::AsyncReadExt as _, task::JoinHandle};
use trunkline::{Attachment, Bytes, Code, Consumer, Error, Event, Events, Expected, Gather, Gathered, Receiver};
use trunkline_proto::{
    frame::{DataHeader, Frame},
    message::{Abort, Bound},
};

use crate::{
    cutting::{Cutter, Hunger},
    fake_node::{FakeNode, Link, attach, bind, finished, incoming, job},
    gather::bound,
    receive::accepted,
};

/// A future is dropped after so many polls at most.
const POLLS_MAX: usize = 4;

fn messages() -> Vec<Bytes> {
    (0..60).map(|number: usize| Bytes::from(format!("{number}/").repeat(number % 7))).collect()
}

fn content() -> Vec<u8> {
    messages().concat()
}

/// Feeds a stream in pieces of a few bytes, which cut everything, as long as its reader waits. The link lives as long as
/// the task's result.
fn feed(mut link: Link, streams: &'static [u64], hunger: Hunger) -> JoinHandle<Link> {
    tokio::spawn(async move {
        let messages = messages();
        let messages: Vec<&[u8]> = messages.iter().map(Bytes::as_ref).collect();
        let bytes = finished(&messages);
        let mut sent = 0;
        while sent < bytes.len() {
            hunger.felt().await;
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
async fn each_way(mut read: impl AsyncFnMut(&mut Receiver, &mut Cutter, &mut Vec<u8>) -> bool) {
    for polls_max in 1..=POLLS_MAX {
        let (attachment, link, consumer, mut receiver) = accepted().await;
        let mut cutter = Cutter::new(polls_max);
        let feeding = feed(link, &[1], cutter.hunger());
        let mut all = Vec::new();
        while !read(&mut receiver, &mut cutter, &mut all).await {}
        assert_eq!(all, content(), "dropped after {polls_max} polls at most");
        assert!(cutter.dropped > 0, "nothing was dropped while it waited: this shows nothing");
        drop((feeding.await.unwrap(), attachment, consumer));
    }
}

#[tokio::test]
async fn recv() {
    each_way(async |receiver, cutter, all| match cutter.cut(receiver.recv()).await {
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
    each_way(async |receiver, cutter, all| {
        let mut batch = Vec::new();
        let read = cutter.cut(receiver.recv_many(&mut batch, 3)).await;
        assert_eq!(batch.len(), read.as_ref().map_or(0, |count| *count.as_ref().unwrap()));
        all.extend_from_slice(&batch.concat());
        read.is_some_and(|count| count.unwrap() == 0)
    })
    .await;
}

#[tokio::test]
async fn as_bytes() {
    each_way(async |receiver, cutter, all| {
        let mut part = [0; 13];
        let read = cutter.cut(receiver.read(&mut part)).await.map(Result::unwrap);
        all.extend_from_slice(&part[..read.unwrap_or(0)]);
        read == Some(0)
    })
    .await;
}

#[tokio::test]
async fn as_a_stream() {
    each_way(async |receiver, cutter, all| match cutter.cut(receiver.next()).await {
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
    each_way(async |receiver, cutter, all| {
        turn += 1;
        if turn % 3 == 0 {
            let mut part = [0; 5];
            let read = cutter.cut(receiver.read(&mut part)).await.map(Result::unwrap);
            all.extend_from_slice(&part[..read.unwrap_or(0)]);
            return read == Some(0);
        }
        match cutter.cut(receiver.recv()).await {
            Some(Ok(Some(rest))) => all.extend_from_slice(&rest),
            Some(end) => return end.unwrap().is_none(),
            None => {}
        }
        false
    })
    .await;
}

/// Has three streams gathered under each number of polls before the drop; `read` appends what was returned, and returns
/// whether the end was.
async fn gathered(mut read: impl AsyncFnMut(&mut Gather, &mut Cutter, &mut Vec<Gathered>) -> bool) {
    for polls_max in 1..=POLLS_MAX {
        let (attachment, mut link, consumer, bind) = bound().await;
        let mut gather = consumer.gather(Expected::Count(3));
        for (stream, name) in [(1, "a"), (3, "b"), (5, "c")] {
            link.offer(bind, stream, name).await;
        }
        let mut cutter = Cutter::new(polls_max);
        let feeding = feed(link, &[1, 3, 5], cutter.hunger());
        let mut all = [Vec::new(), Vec::new(), Vec::new()];
        let mut batch = Vec::new();
        while !read(&mut gather, &mut cutter, &mut batch).await {
            for gathered in batch.drain(..) {
                let Gathered::Message { producer, message } = gathered else { panic!("{gathered:?}") };
                let at = ["a", "b", "c"].iter().position(|name| *name == producer.name.as_str()).unwrap();
                all[at].extend_from_slice(&message);
            }
        }
        assert_eq!(all, [content(), content(), content()]);
        assert!(cutter.dropped > 0, "nothing was dropped while it waited: this shows nothing");
        drop((feeding.await.unwrap(), attachment));
    }
}

/// Takes one item; returns whether there was none.
fn took_end(item: Option<Option<Result<Gathered, Error>>>, batch: &mut Vec<Gathered>) -> bool {
    let is_over = matches!(item, Some(None));
    batch.extend(item.flatten().map(Result::unwrap));
    is_over
}

#[tokio::test]
async fn a_gather() {
    gathered(async |gather, cutter, batch| took_end(cutter.cut(gather.next()).await, batch)).await;
}

#[tokio::test]
async fn a_gather_in_batches() {
    gathered(async |gather, cutter, batch| {
        let read = cutter.cut(gather.next_many(batch, 5)).await;
        assert_eq!(batch.len(), read.as_ref().map_or(0, |count| *count.as_ref().unwrap()));
        read.is_some_and(|count| count.unwrap() == 0)
    })
    .await;
}

#[tokio::test]
async fn a_gather_as_a_stream() {
    gathered(async |gather, cutter, batch| took_end(cutter.cut(StreamExt::next(gather)).await, batch)).await;
}

/// Takes thirty streams that are offered one after another.
async fn accepting(mut accept: impl AsyncFnMut(&mut Consumer, &mut Cutter) -> Option<Receiver>) {
    for polls_max in 1..=POLLS_MAX {
        let (attachment, mut link) = attach().await;
        let (mut consumer, bind) = bind(&attachment, &mut link).await;
        let mut cutter = Cutter::new(polls_max);
        let hunger = cutter.hunger();
        let offering = tokio::spawn(async move {
            for number in 0..30 {
                hunger.felt().await;
                link.push(incoming(bind, 2 * number + 1, &format!("map-{number}"))).await;
                tokio::task::yield_now().await;
            }
            link
        });
        let mut receivers = Vec::new();
        while receivers.len() < 30 {
            receivers.extend(accept(&mut consumer, &mut cutter).await);
        }
        for (number, receiver) in receivers.iter().enumerate() {
            assert_eq!(receiver.producer().name.as_str(), format!("map-{number}"));
        }
        assert!(cutter.dropped > 0, "nothing was dropped while it waited: this shows nothing");
        drop((offering.await.unwrap(), attachment));
    }
}

#[tokio::test]
async fn accept() {
    accepting(async |consumer, cutter| cutter.cut(consumer.accept()).await.map(Result::unwrap)).await;
}

#[tokio::test]
async fn a_consumer_as_a_stream() {
    accepting(async |consumer, cutter| cutter.cut(consumer.next()).await.map(|item| item.unwrap().unwrap())).await;
}

/// Hears of thirty streams that are lost one after another.
async fn hearing(mut hear: impl AsyncFnMut(&mut Events, &mut Cutter) -> Option<Event>) {
    for polls_max in 1..=POLLS_MAX {
        let (attachment, mut link, mut consumer, bind) = bound().await;
        let mut receivers = Vec::new();
        for number in 0..30 {
            link.offer(bind, 2 * number + 1, &format!("map-{number}")).await;
            receivers.push(consumer.accept().await.unwrap());
        }
        let mut events = attachment.events();
        assert!(matches!(events.next().await, Some(Event::Attached { .. })));
        let mut cutter = Cutter::new(polls_max);
        let hunger = cutter.hunger();
        let ending = tokio::spawn(async move {
            for number in 0..30 {
                hunger.felt().await;
                let abort = Abort { stream: 2 * number + 1, code: Code::ProducerGone, offset: 0, text: String::new() };
                link.push(abort).await;
                tokio::task::yield_now().await;
            }
            link
        });
        let mut heard = Vec::new();
        while heard.len() < 30 {
            let Some(event) = hear(&mut events, &mut cutter).await else { continue };
            let Event::Lost(lost) = event else { panic!("{event}") };
            heard.push(lost.producer.to_string());
        }
        let expected: Vec<_> = (0..30).map(|number| format!("map-{number}")).collect();
        assert_eq!(heard, expected);
        assert!(cutter.dropped > 0, "nothing was dropped while it waited: this shows nothing");
        drop((ending.await.unwrap(), attachment));
    }
}

#[tokio::test]
async fn events() {
    hearing(async |events, cutter| cutter.cut(events.next()).await.map(Option::unwrap)).await;
}

#[tokio::test]
async fn events_as_a_stream() {
    hearing(async |events, cutter| cutter.cut(StreamExt::next(events)).await.map(Option::unwrap)).await;
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
    let (mut binds, mut closes) = (Cutter::new(POLLS_MAX), Cutter::new(POLLS_MAX));
    for _ in 0..200 {
        let binding = job(&attachment).consumer("sink").unwrap().bind();
        let Some(consumer) = binds.cut(binding).await else { continue };
        consumers += 1;
        // Whether it was polled to its end, now and then, or never: dropping it closes too.
        if let Some(closed) = closes.cut(consumer.unwrap().close()).await {
            closed.unwrap();
        }
    }
    assert!(consumers > 0);
    assert!(binds.dropped > 0, "nothing was dropped while it waited: this shows nothing");
    attachment.close().await.unwrap();
    let (bound, mut unbound) = answering.await.unwrap();
    unbound.sort_unstable();
    assert!(bound.len() >= consumers);
    assert_eq!(unbound, bound, "each bind that the node was asked for was ended once");
}
