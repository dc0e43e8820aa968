//! Credit that is asked back: by the node from a producer, and by a consumer's process from its node.

use std::{collections::BTreeMap, pin::pin};

use trunkline::{Attachment, Bytes, Code, Consumer, ErrorKind, Receiver};
use trunkline_proto::{
    frame::Frame,
    message::{Bound, Limit, Reclaim, Want},
};

use crate::{
    close::{CLOG_BYTES, CLOG_CREDIT, clog},
    fake_node::{FakeNode, Link, attach, bind, credit, framed, open, poll_once},
    receive::aborted,
};

fn reclaim(stream: u64, limit: u64) -> Reclaim {
    Reclaim { stream, epoch: 0, limit }
}

async fn limit_of(link: &mut Link, stream: u64) -> u64 {
    link.find(|frame| match frame {
        Frame::Limit(Limit { stream: of, limit, .. }) if *of == stream => Some(*limit),
        _ => None,
    })
    .await
}

async fn want_of(link: &mut Link, stream: u64) -> u64 {
    link.find(|frame| match frame {
        Frame::Want(want) if want.stream == stream => Some(want.wanted),
        _ => None,
    })
    .await
}

/// A process whose receive budget is used up: of twenty streams the last four are read, and their senders want turns of
/// all that there is. The others hold what they were given unasked.
struct Short {
    link: Link,
    receivers: Vec<Receiver>,
    _consumer: Consumer,
    /// How far each stream may be sent, as far as was heard.
    limits: BTreeMap<u64, u64>,
    wanting: [u64; 4],
}

/// What all these streams may hold together.
const SHORT_BYTES: u64 = (64 << 10) + 4 * 20;

impl Short {
    async fn attach() -> Self {
        let node = FakeNode::listen();
        let builder = Attachment::builder().receive_budget_bytes(64 << 10);
        let (attachment, mut link) = tokio::join!(builder.connect(&node.path), node.greet());
        let (mut consumer, bind) = bind(&attachment.unwrap(), &mut link).await;
        let (mut limits, mut receivers) = (BTreeMap::new(), Vec::new());
        for stream in (1..40).step_by(2) {
            limits.insert(stream, link.offer(bind, stream, "map").await);
            receivers.push(consumer.accept().await.unwrap());
        }
        let wanting = [33, 35, 37, 39];
        for (stream, receiver) in wanting.into_iter().zip(&mut receivers[16..]) {
            link.push_data(stream, 0, &framed(&[b""])).await;
            receiver.recv().await.unwrap();
            link.push(Want { stream, epoch: 0, wanted: 1 << 20 }).await;
        }
        Self { link, receivers, _consumer: consumer, limits, wanting }
    }

    /// Until this stream's credit is asked back.
    async fn asked_of(&mut self, stream: u64) {
        self.link.find(|frame| matches!(frame, Frame::Reclaim(asked) if asked.stream == stream).then_some(())).await;
    }
}

#[tokio::test]
async fn an_idle_stream_gives_back_all_that_it_has_not_used() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 1000).await;
    sender.send(Bytes::from_static(b"hello")).await.unwrap();
    link.data(stream, 6).await;
    link.push(reclaim(stream, 0)).await;
    assert_eq!(limit_of(&mut link, stream).await, 6);
    // Without credit it waits and asks, as one that never had any.
    let mut sending = pin!(sender.send(Bytes::from_static(b"more")));
    assert!(poll_once(sending.as_mut()).is_none());
    assert_eq!(want_of(&mut link, stream).await, 11);
    link.push(credit(stream, 6, 100)).await;
    sending.await.unwrap();
    let Frame::Data(header, payload) = link.next().await else { panic!("DATA is expected") };
    assert_eq!((header.offset, &payload[..]), (6, &framed(&[b"more"])[..]));
}

#[tokio::test]
async fn a_reclaim_that_takes_nothing_is_answered_all_the_same() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 100).await;
    link.push(reclaim(stream, 5_000)).await;
    assert_eq!(limit_of(&mut link, stream).await, 100);
    sender.send(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(link.data(stream, 6).await, framed(&[b"hello"]));
    // One for a stream that is gone was on its way.
    link.push(reclaim(stream + 2, 0)).await;
    open(&attachment, &mut link, 0).await;
}

#[tokio::test]
async fn the_answer_to_a_reclaim_stands_behind_the_data_that_was_handed_over_and_ahead_of_the_rest() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, CLOG_CREDIT).await;
    clog(&attachment, &mut sender).await;
    link.push(reclaim(stream, 0)).await;
    let mut came = 0;
    let limit = loop {
        match link.next().await {
            Frame::Data(header, payload) => {
                assert_eq!((header.stream, header.offset), (stream, came));
                came += payload.len() as u64;
            }
            Frame::Limit(limit) => break limit.limit,
            _ => {}
        }
    };
    assert_eq!(limit, came);
    // What is left of the message is wanted again, and goes on where it stopped.
    let whole = framed(&[&vec![0; CLOG_BYTES]]).len() as u64;
    assert!(came < whole, "nothing was left");
    assert_eq!(want_of(&mut link, stream).await, whole);
    link.push(credit(stream, came, whole)).await;
    while came < whole {
        let Frame::Data(header, payload) = link.next().await else { continue };
        assert_eq!(header.offset, came);
        came += payload.len() as u64;
    }
}

#[tokio::test]
async fn a_permit_is_honoured_though_its_credit_was_asked_back() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 1000).await;
    let permit = sender.reserve(5).await.unwrap();
    link.push(reclaim(stream, 0)).await;
    assert_eq!(limit_of(&mut link, stream).await, 0);
    permit.send(Bytes::from_static(b"hello")).unwrap();
    // It waits for credit, is wanted, and keeps no room from others.
    assert_eq!(want_of(&mut link, stream).await, 6);
    assert_eq!(attachment.metrics().send_budget_used_bytes, 0);
    link.push(credit(stream, 0, 6)).await;
    assert_eq!(link.data(stream, 6).await, framed(&[b"hello"]));
    assert_eq!(attachment.metrics().send_budget_used_bytes, 6);
}

#[tokio::test]
async fn what_idle_streams_hold_is_asked_back_for_those_that_are_read_and_wanted() {
    let Short { mut link, mut limits, wanting, receivers: _receivers, _consumer } = Short::attach().await;
    while wanting.iter().any(|stream| limits[stream] < 16 << 10) {
        match link.next().await {
            Frame::Reclaim(reclaim) => {
                assert!(!wanting.contains(&reclaim.stream) && reclaim.limit < limits[&reclaim.stream], "{reclaim:?}");
                limits.insert(reclaim.stream, reclaim.limit);
                link.push(Limit { stream: reclaim.stream, epoch: 0, limit: reclaim.limit }).await;
            }
            Frame::Credit(credit) => drop(limits.insert(credit.stream, credit.limit)),
            _ => {}
        }
        // An empty message was read of each that wants.
        let held = limits.values().sum::<u64>() - wanting.len() as u64;
        assert!(held <= SHORT_BYTES, "{held} bytes are granted: {limits:?}");
    }
}

#[tokio::test]
async fn a_message_whose_credit_was_given_back_is_let_in_for_one_who_waits_for_it() {
    let mut short = Short::attach().await;
    // A message that fits, and of which only the beginning comes.
    let (message, begun) = ([7; 3000], 10);
    let encoded = framed(&[&message]);
    assert!(short.limits[&1] >= encoded.len() as u64);
    short.link.push_data(1, 0, &encoded[..begun]).await;
    short.asked_of(1).await;
    let mut receiving = pin!(short.receivers[0].recv());
    assert!(poll_once(receiving.as_mut()).is_none());
    short.link.push(Limit { stream: 1, epoch: 0, limit: begun as u64 }).await;
    let lets_in = |frame: &Frame| match frame {
        Frame::Credit(credit) => (credit.stream == 1 && credit.limit >= encoded.len() as u64).then_some(()),
        _ => None,
    };
    short.link.find(lets_in).await;
    short.link.push_data(1, begun, &encoded[begun..]).await;
    assert_eq!(receiving.await.unwrap().unwrap(), message[..]);
}

#[tokio::test]
async fn a_limit_that_takes_back_what_was_used_ends_the_stream() {
    let mut short = Short::attach().await;
    short.link.push_data(1, 0, &framed(&[b"hello"])).await;
    short.asked_of(1).await;
    short.link.push(Limit { stream: 1, epoch: 0, limit: 5 }).await;
    assert_eq!(aborted(&mut short.link, 1).await.code, Code::Protocol);
}

#[tokio::test]
async fn the_streams_of_a_job_with_a_receive_budget_of_its_own_leave_the_rest_to_others() {
    let node = FakeNode::listen();
    let builder = Attachment::builder().receive_budget_bytes(256 << 10);
    let builder = builder.job_receive_budget_bytes("job", 64 << 10).unwrap();
    let (attachment, mut link) = tokio::join!(builder.connect(&node.path), node.greet());
    let attachment = attachment.unwrap();
    let (_capped, capped) = bind(&attachment, &mut link).await;
    let other = attachment.job("other", "1").unwrap().consumer("sink").unwrap();
    let answer = async {
        let Frame::Bind(bind) = link.next().await else { panic!("a BIND is expected") };
        link.push(Bound { bind: bind.bind }).await;
        bind.bind
    };
    let (other, free) = tokio::join!(other.bind(), answer);
    let _other = other.unwrap();
    let mut held = BTreeMap::new();
    for number in 0..10 {
        let stream = 2 * number + 1;
        held.insert(stream, link.offer(capped, stream, "map").await);
    }
    let mut granted = link.offer(free, 101, "map").await;
    for &stream in held.keys() {
        link.push(Want { stream, epoch: 0, wanted: 1 << 20 }).await;
    }
    link.push(Want { stream: 101, epoch: 0, wanted: 1 << 20 }).await;
    while granted < 16 << 10 {
        let Frame::Credit(credit) = link.next().await else { continue };
        match credit.stream {
            101 => granted = credit.limit,
            stream => drop(held.insert(stream, credit.limit)),
        }
    }
    let sum: u64 = held.values().sum();
    assert!((32 << 10..=(64 << 10) + 40).contains(&sum), "{sum}: {held:?}");
}

#[tokio::test]
async fn a_receive_budget_of_a_job_that_is_too_small_or_of_no_job_is_refused() {
    let error = Attachment::builder().job_receive_budget_bytes("no job", 1 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let builder = Attachment::builder().job_receive_budget_bytes("job", 1000).unwrap();
    let error = builder.connect("/nowhere").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("1000 bytes for job job; at least 65536"), "{error}");
}
