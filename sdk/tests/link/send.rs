//! Streams that are sent: opening, waiting for credit, finishing, giving up.

use std::pin::pin;

use trunkline::{Attachment, Bytes, Code, ErrorKind, Incarnation};
use trunkline_proto::{
    frame::{DataHeader, Frame},
    message::{Abort, Accept, Credit, Drain},
};

use crate::fake_node::{FakeNode, attach, credit, finished, framed, job, open, poll_once};

fn message(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test]
async fn an_open_says_who_sends_to_whom() {
    let (attachment, mut link) = attach().await;
    let producer = job(&attachment).producer("map-1").unwrap();
    let answer = async {
        let Frame::Open(open) = link.next().await else { panic!("an OPEN is expected") };
        link.push(Accept { stream: open.stream, incarnation: Incarnation::from_bits(9), limit: 0 }).await;
        open
    };
    let (sender, open) = tokio::join!(producer.open("job/sink@node-b"), answer);
    let sender = sender.unwrap();
    assert_eq!(sender.consumer_incarnation(), Incarnation::from_bits(9));
    assert_eq!(sender.address().to_string(), "job/sink@node-b");
    assert_eq!((open.stream, open.number, open.epoch, open.producer_node), (2, 1, 0, None));
    assert_eq!(open.incarnation, producer.incarnation());
    assert_eq!((open.job.to_string(), open.producer.as_str()), ("job#1".to_owned(), "map-1"));
    assert_eq!((open.consumer.as_str(), open.node.as_str()), ("sink", "node-b"));
}

#[tokio::test]
async fn an_open_that_nobody_takes_says_why() {
    let (attachment, mut link) = attach().await;
    let producer = job(&attachment).producer("map").unwrap();
    let answer = async {
        let Frame::Open(open) = link.next().await else { panic!("an OPEN is expected") };
        let text = "nobody bound it within 30 s".to_owned();
        link.push(Abort { stream: open.stream, code: Code::NotBound, offset: 0, text }).await;
    };
    let (sender, ()) = tokio::join!(producer.open("job/sink@node-b"), answer);
    let error = sender.unwrap_err();
    assert_eq!((error.kind(), error.code(), error.is_retryable()), (ErrorKind::Refused, Some(Code::NotBound), true));
    assert_eq!(error.to_string(), "consumer job/sink@node-b: not_bound at offset 0: nobody bound it within 30 s");
}

#[tokio::test]
async fn an_address_of_another_job_is_refused_at_once() {
    let (attachment, _link) = attach().await;
    let producer = job(&attachment).producer("map").unwrap();
    assert_eq!(producer.open("other/sink@node-b").await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(producer.open("sink").await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_dropped_open_is_withdrawn_even_when_the_answer_is_on_its_way() {
    let (attachment, mut link) = attach().await;
    let producer = job(&attachment).producer("map").unwrap();
    let stream = {
        let mut opening = pin!(producer.open("job/sink@node-b"));
        assert!(poll_once(opening.as_mut()).is_none());
        let Frame::Open(open) = link.next().await else { panic!("an OPEN is expected") };
        open.stream
    };
    link.push(Accept { stream, incarnation: Incarnation::from_bits(9), limit: 10 }).await;
    let Frame::Abort(abort) = link.next().await else { panic!("an ABORT is expected") };
    assert_eq!((abort.stream, abort.code, abort.text.as_str()), (stream, Code::Cancelled, "the open was withdrawn"));
    // The late answer did no harm, and ids are not used twice.
    let (_sender, next) = open(&attachment, &mut link, 0).await;
    assert_eq!(next, stream + 2);
}

#[tokio::test]
async fn a_sender_dropped_unfinished_is_no_clean_end() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 1000).await;
    sender.send(message("first")).await.unwrap();
    sender.flush().await.unwrap();
    drop(sender);
    assert_eq!(link.data(stream, 6).await, framed(&[b"first"]));
    let Frame::Abort(abort) = link.next().await else { panic!("an ABORT is expected") };
    assert_eq!((abort.stream, abort.code, abort.offset), (stream, Code::Cancelled, 0));
    assert_eq!(abort.text, "the sender was dropped unfinished");
}

#[tokio::test]
async fn an_abort_tells_its_reason() {
    let (attachment, mut link) = attach().await;
    let (sender, stream) = open(&attachment, &mut link, 1000).await;
    sender.abort("input file unreadable");
    let Frame::Abort(abort) = link.next().await else { panic!("an ABORT is expected") };
    assert_eq!((abort.stream, abort.code), (stream, Code::Cancelled));
    assert_eq!(abort.text, "input file unreadable");
}

#[tokio::test]
async fn a_send_waits_for_credit_and_says_how_much_it_wants() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 0).await;
    let mut sending = pin!(sender.send(message("hello")));
    assert!(poll_once(sending.as_mut()).is_none());
    let Frame::Want(want) = link.next().await else { panic!("a WANT is expected") };
    assert_eq!((want.stream, want.wanted), (stream, 6));
    link.push(credit(stream, 0, 100)).await;
    sending.await.unwrap();
    assert_eq!(link.data(stream, 6).await, framed(&[b"hello"]));
}

#[tokio::test]
async fn a_send_dropped_while_it_waits_sends_nothing() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 0).await;
    assert!(poll_once(pin!(sender.send(message("never")))).is_none());
    link.push(credit(stream, 0, 100)).await;
    sender.send(message("hello")).await.unwrap();
    assert_eq!(link.data(stream, 6).await, framed(&[b"hello"]));
    assert_eq!(sender.sent_bytes(), 6);
}

#[tokio::test]
async fn a_message_that_is_too_long_leaves_the_stream_unchanged() {
    let node = FakeNode::listen();
    let (attachment, mut link) =
        tokio::join!(Attachment::builder().message_bytes_max(10).connect(&node.path), node.greet());
    let (mut sender, stream) = open(&attachment.unwrap(), &mut link, 1000).await;
    let error = sender.send(Bytes::from(vec![0; 11])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MessageTooLarge);
    assert_eq!(error.to_string(), "consumer job/sink@node-b: a message of 11 bytes; at most 10 may be sent");
    sender.send(message("fits")).await.unwrap();
    assert_eq!(link.data(stream, 5).await, framed(&[b"fits"]));
}

#[tokio::test]
async fn a_finish_is_over_when_the_consumer_has_consumed() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 6).await;
    sender.send(message("hello")).await.unwrap();
    let mut finishing = pin!(sender.finish());
    assert!(poll_once(finishing.as_mut()).is_none());
    // The end mark needs no credit.
    let expected = finished(&[b"hello"]);
    assert_eq!(link.data(stream, expected.len()).await, expected);
    let whole = expected.len() as u64;
    link.push(Credit { received: whole, ..credit(stream, 0, 6) }).await;
    assert!(poll_once(finishing.as_mut()).is_none());
    link.push(Credit { finished: true, received: whole, ..credit(stream, 6, 6) }).await;
    finishing.await.unwrap();
}

#[tokio::test]
async fn a_finish_that_is_dropped_goes_on_by_itself() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 3).await;
    sender.send(message("hello")).await.unwrap();
    assert!(poll_once(Box::pin(sender.finish()).as_mut()).is_none());
    assert_eq!(link.data(stream, 3).await.len(), 3);
    link.push(credit(stream, 0, 6)).await;
    let (mut offset, mut fin) = (3, false);
    while !fin {
        let Frame::Data(header, payload) = link.next().await else { continue };
        assert_eq!(header.offset, offset);
        offset += payload.len() as u64;
        fin = header.fin;
    }
    assert_eq!(offset, 6 + 16);
}

#[tokio::test]
async fn a_consumer_that_cancels_ends_a_blocked_send_with_the_offset() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 6).await;
    sender.send(message("hello")).await.unwrap();
    link.data(stream, 6).await;
    let mut sending = Box::pin(sender.send(message("more")));
    assert!(poll_once(sending.as_mut()).is_none());
    link.push(Abort { stream, code: Code::ConsumerGone, offset: 6, text: "its process ended".into() }).await;
    let error = sending.await.unwrap_err();
    assert_eq!((error.kind(), error.code(), error.offset()), (ErrorKind::Aborted, Some(Code::ConsumerGone), Some(6)));
    let again = sender.send(message("more")).await.unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
}

#[tokio::test]
async fn a_flush_waits_for_the_local_node_alone() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 4).await;
    sender.send(message("hello")).await.unwrap();
    let mut flushing = Box::pin(sender.flush());
    assert!(poll_once(flushing.as_mut()).is_none());
    link.data(stream, 4).await;
    assert!(poll_once(flushing.as_mut()).is_none(), "two bytes have no credit yet");
    link.push(credit(stream, 0, 6)).await;
    flushing.await.unwrap();
    // Everything was handed over already: nothing to wait for.
    assert!(poll_once(Box::pin(sender.flush()).as_mut()).is_some());
}

#[tokio::test]
async fn a_stream_without_credit_stops_no_other() {
    let (attachment, mut link) = attach().await;
    let (mut stalled, _) = open(&attachment, &mut link, 1).await;
    let (mut busy, stream) = open(&attachment, &mut link, 1 << 20).await;
    stalled.send(Bytes::from(vec![1; 100_000])).await.unwrap();
    assert!(poll_once(pin!(stalled.send(message("blocked")))).is_none());
    let long = vec![2; 300_000];
    busy.send(long.clone().into()).await.unwrap();
    assert_eq!(link.data(stream, 300_004).await, framed(&[&long]));
}

#[tokio::test]
async fn the_send_budget_bounds_what_waits() {
    let node = FakeNode::listen();
    let (attachment, mut link) =
        tokio::join!(Attachment::builder().send_budget_bytes(10).connect(&node.path), node.greet());
    let attachment = attachment.unwrap();
    let (mut first, one) = open(&attachment, &mut link, 1000).await;
    let (mut second, two) = open(&attachment, &mut link, 1000).await;
    first.send(message("longer than ten bytes")).await.unwrap();
    let mut sending = pin!(second.send(message("short")));
    assert!(poll_once(sending.as_mut()).is_none());
    link.data(one, 22).await;
    // What the other process has need not be kept, and it is asked what it has.
    let asked = |frame: &Frame| matches!(frame, Frame::Want(want) if want.stream == one).then_some(());
    link.find(asked).await;
    link.push(Credit { consumed: 0, ..credit(one, 22, 1000) }).await;
    sending.await.unwrap();
    assert_eq!(link.data(two, 6).await, framed(&[b"short"]));
}

#[tokio::test]
async fn a_send_that_waits_for_the_budget_ends_with_its_stream() {
    let node = FakeNode::listen();
    let (attachment, mut link) =
        tokio::join!(Attachment::builder().send_budget_bytes(10).connect(&node.path), node.greet());
    let attachment = attachment.unwrap();
    let (mut first, _) = open(&attachment, &mut link, 1000).await;
    let (mut second, two) = open(&attachment, &mut link, 1000).await;
    first.send(message("longer than ten bytes")).await.unwrap();
    let mut sending = pin!(second.send(message("short")));
    assert!(poll_once(sending.as_mut()).is_none());
    link.push(Abort { stream: two, code: Code::Cancelled, offset: 0, text: "enough".into() }).await;
    assert_eq!(sending.await.unwrap_err().code(), Some(Code::Cancelled));
}

#[tokio::test]
async fn credit_for_what_was_never_sent_ends_the_stream_at_both_ends() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 0).await;
    let mut sending = pin!(sender.send(message("hello")));
    assert!(poll_once(sending.as_mut()).is_none());
    link.push(credit(stream, 50, 100)).await;
    assert_eq!(sending.await.unwrap_err().code(), Some(Code::Protocol));
    let aborted = |frame: &Frame| matches!(frame, Frame::Abort(abort) if abort.stream == stream).then_some(());
    link.find(aborted).await;
}

#[tokio::test]
async fn frames_for_streams_that_are_gone_are_ignored() {
    let (attachment, mut link) = attach().await;
    let (sender, stream) = open(&attachment, &mut link, 0).await;
    drop(sender);
    link.push(credit(stream, 0, 100)).await;
    link.push(Abort { stream, code: Code::Cancelled, offset: 0, text: String::new() }).await;
    let header = DataHeader { stream: 77, offset: 0, epoch: 0, fin: false };
    link.push(Frame::Data(header, Bytes::from_static(b"stray"))).await;
    // The two ends have crossed, or it has heard the other one first.
    assert!(matches!(link.next().await, Frame::Abort(_) | Frame::EndAck(_)));
    open(&attachment, &mut link, 0).await;
}

#[tokio::test]
async fn a_draining_node_takes_nothing_new_and_streams_go_on() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 0).await;
    link.push(Drain { deadline_ms: 1000 }).await;
    link.push(credit(stream, 0, 100)).await;
    sender.send(message("goes on")).await.unwrap();
    let producer = job(&attachment).producer("map").unwrap();
    let opened = producer.open("job/sink@node-b").await.unwrap_err();
    let bound = job(&attachment).consumer("sink").unwrap().bind().await.unwrap_err();
    for error in [opened, bound] {
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Draining, true), "{error}");
    }
}
