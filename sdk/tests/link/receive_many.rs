//! Batches of messages, reading without waiting, and the backlog's size.

use std::pin::pin;

use trunkline::{Bytes, Code, ErrorKind, TryRecv};
use trunkline_proto::{
    frame::Frame,
    message::{Abort, Bound},
};

use crate::{
    fake_node::{attach, finished, framed, incoming, job, poll_once},
    receive::{aborted, accepted},
};

#[tokio::test]
async fn a_batch_is_what_has_arrived_and_no_more_than_was_asked_for() {
    let (_attachment, mut link, mut consumer, mut receiver) = accepted().await;
    link.push_data(1, 0, &finished(&[b"one", b"two", b"three"])).await;
    // Frames come in order: once the next stream is here, all of this one is.
    link.offer(1, 3, "map-2").await;
    consumer.accept().await.unwrap();
    let mut batch = vec![Bytes::from_static(b"before")];
    assert_eq!(receiver.recv_many(&mut batch, 0).await.unwrap(), 0);
    assert_eq!(receiver.recv_many(&mut batch, 2).await.unwrap(), 2);
    assert_eq!(receiver.recv_many(&mut batch, 100).await.unwrap(), 1);
    assert_eq!(batch, ["before", "one", "two", "three"]);
    assert_eq!(receiver.recv_many(&mut batch, 100).await.unwrap(), 0);
    assert_eq!(receiver.recv_many(&mut batch, 100).await.unwrap(), 0);
    assert_eq!(batch.len(), 4);
}

#[tokio::test]
async fn the_end_is_not_consumed_with_the_batch_before_it() {
    let (_attachment, mut link, mut consumer, mut receiver) = accepted().await;
    link.push_data(1, 0, &finished(&[b"one"])).await;
    link.offer(1, 3, "map-2").await;
    consumer.accept().await.unwrap();
    assert_eq!(receiver.recv_many(&mut Vec::new(), 100).await.unwrap(), 1);
    // Nobody was told the end: the stream can still be given up, and then it is no clean end.
    receiver.cancel("no time for the end");
    assert_eq!(aborted(&mut link, 1).await.text, "no time for the end");
}

#[tokio::test]
async fn a_batch_waits_for_one_message_and_an_error_comes_after_it() {
    let (_attachment, mut link, _consumer, mut receiver) = accepted().await;
    let mut batch = Vec::new();
    {
        let mut reading = pin!(receiver.recv_many(&mut batch, 10));
        assert!(poll_once(reading.as_mut()).is_none());
        link.push_data(1, 0, &framed(&[b"one"])).await;
        assert_eq!(reading.await.unwrap(), 1);
    }
    link.push(Abort { stream: 1, code: Code::ProducerGone, offset: 4, text: "its process ended".into() }).await;
    assert_eq!(receiver.recv_many(&mut batch, 10).await.unwrap_err().code(), Some(Code::ProducerGone));
    assert_eq!(batch, ["one"]);
}

#[tokio::test]
async fn reading_without_waiting_tells_nothing_yet_from_the_end() {
    let (_attachment, mut link, mut consumer, mut receiver) = accepted().await;
    assert_eq!(receiver.try_recv().unwrap(), TryRecv::Empty);
    let stream = finished(&[b"one", b"two"]);
    link.push_data(1, 0, &stream[..6]).await;
    link.offer(1, 3, "map-2").await;
    consumer.accept().await.unwrap();
    assert_eq!(receiver.try_recv().unwrap(), TryRecv::Message(Bytes::from_static(b"one")));
    assert_eq!(receiver.try_recv().unwrap(), TryRecv::Empty);
    assert_eq!((receiver.received_bytes(), receiver.consumed_bytes()), (6, 4));
    link.push_data(1, 6, &stream[6..]).await;
    link.offer(1, 5, "map-3").await;
    consumer.accept().await.unwrap();
    assert_eq!(receiver.try_recv().unwrap(), TryRecv::Message(Bytes::from_static(b"two")));
    assert_eq!(receiver.try_recv().unwrap(), TryRecv::End);
    drop(link);
    assert_eq!(receiver.try_recv().unwrap(), TryRecv::End, "an end that was consumed stays");
}

#[tokio::test]
async fn reading_without_waiting_says_how_a_stream_ended() {
    let (_attachment, link, mut consumer, mut receiver) = accepted().await;
    drop(link);
    consumer.accept().await.unwrap_err();
    // The thread ends the cells one by one.
    receiver.recv().await.unwrap_err();
    assert_eq!(receiver.try_recv().unwrap_err().kind(), ErrorKind::NodeLost);
}

#[tokio::test]
async fn the_backlog_is_as_long_as_it_was_told_to_be() {
    let (attachment, mut link) = attach().await;
    let error = job(&attachment).consumer("sink").unwrap().accept_backlog(0).bind().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("accept_backlog of 0"), "{error}");
    let answer = async {
        let Frame::Bind(bind) = link.next().await else { panic!("a BIND is expected") };
        link.push(Bound { bind: bind.bind }).await;
        bind.bind
    };
    let (consumer, bind) = tokio::join!(job(&attachment).consumer("sink").unwrap().accept_backlog(2).bind(), answer);
    let mut consumer = consumer.unwrap();
    link.offer(bind, 1, "a").await;
    link.offer(bind, 3, "b").await;
    link.push(incoming(bind, 5, "c")).await;
    let refused = aborted(&mut link, 5).await;
    assert_eq!(refused.code, Code::Busy);
    assert_eq!(refused.text, "the consumer's backlog is full: 2 streams wait to be accepted");
    consumer.accept().await.unwrap();
    link.offer(bind, 7, "d").await;
}

#[tokio::test]
async fn a_stream_is_readable_once_something_can_be_read_and_nothing_is_consumed_by_that() {
    let (_attachment, mut link, _consumer, mut receiver) = accepted().await;
    assert!(poll_once(pin!(receiver.readable())).is_none());
    link.push_data(1, 0, &finished(&[b"one"])).await;
    receiver.readable().await;
    assert_eq!(receiver.consumed_bytes(), 0);
    assert_eq!(receiver.recv().await.unwrap().unwrap(), "one");
    receiver.readable().await;
    assert_eq!(receiver.recv().await.unwrap(), None);
    receiver.readable().await;
}
