//! A link that is lost is made again, and everything goes on where the other ends are.

use std::{pin::pin, time::Duration};

use tokio::time::timeout;
use trunkline::{Attachment, Bytes, Code, Event, Incarnation};
use trunkline_proto::{
    frame::{DataHeader, Frame},
    message::{Abort, Bound, EndAck, Incoming, Open, Resume, Resumed},
};

use crate::fake_node::{FakeNode, Link, PATIENCE, bind, credit, finished, framed, incoming, open, poll_once};

/// Longer than anything here takes: what has not happened by then is not about to.
const A_WHILE: Duration = Duration::from_millis(200);

/// An attachment that has patience, the node's side of its link, and the node.
async fn attach() -> (Attachment, Link, FakeNode) {
    let node = FakeNode::listen();
    let connecting = Attachment::builder().patience(PATIENCE).connect(&node.path);
    let (attachment, link) = tokio::join!(connecting, node.greet());
    (attachment.unwrap(), link, node)
}

/// The same stream, asked for on another path.
fn resumed(bind: u64, stream: u64, name: &str, of: u64, epoch: u32) -> Incoming {
    let Incoming { open, .. } = incoming(bind, of, name);
    Incoming { bind: 0, open: Open { stream, epoch, ..open }, consumer_incarnation: Some(Incarnation::from_bits(1)) }
}

#[tokio::test]
async fn a_lost_link_is_made_again_and_everything_goes_on_where_the_other_ends_are() {
    let (attachment, mut link, node) = attach().await;
    let mut events = attachment.events();
    let (mut consumer, id) = bind(&attachment, &mut link).await;
    link.offer(id, 1, "map").await;
    let mut receiver = consumer.accept().await.unwrap();
    link.push_data(1, 0, &framed(&[b"one"])).await;
    assert_eq!(receiver.recv().await.unwrap().unwrap(), "one");
    let (mut sender, stream) = open(&attachment, &mut link, 100).await;
    sender.send(Bytes::from_static(b"first")).await.unwrap();
    sender.send(Bytes::from_static(b"second")).await.unwrap();
    let sent = framed(&[b"first", b"second"]);
    assert_eq!(link.data(stream, sent.len()).await, sent);
    drop(link);

    let mut link = node.greet().await;
    let bound = |frame: &Frame| if let Frame::Bind(bind) = frame { Some(bind.clone()) } else { None };
    let asked = |frame: &Frame| if let Frame::Resume(resume) = frame { Some(resume.clone()) } else { None };
    let (mut again, mut resume) = (None, None);
    while again.is_none() || resume.is_none() {
        let frame = link.next().await;
        again = bound(&frame).or(again);
        resume = asked(&frame).or(resume);
    }
    let again = again.unwrap();
    assert_eq!(again.incarnation, consumer.incarnation(), "it is the same life");
    assert_eq!(again.awaited_nodes, ["node-b".parse().unwrap()]);
    link.push(Bound { bind: again.bind }).await;
    let Resume { open, consumer_incarnation } = resume.unwrap();
    assert_eq!((open.epoch, consumer_incarnation), (1, Incarnation::from_bits(9)));

    // The first message is there, and the second is sent again.
    let answer = Resumed { stream: open.stream, epoch: 1, received: 6, consumed: 0, limit: 100 };
    link.push(answer).await;
    let Frame::Data(header, payload) = link.next().await else { panic!("data is next") };
    assert_eq!(header, DataHeader { stream: open.stream, offset: 6, epoch: 1, fin: false });
    assert_eq!(payload, sent[6..]);

    // What has come is said, and it goes on from there; what an older path brings is dropped.
    link.push(resumed(again.bind, 3, "map", 1, 1)).await;
    let answered = |frame: &Frame| if let Frame::Resumed(resumed) = frame { Some(*resumed) } else { None };
    let said = link.find(answered).await;
    assert_eq!((said.stream, said.epoch, said.received, said.consumed), (3, 1, 4, 4));
    let data =
        |epoch, bytes: Vec<u8>| Frame::Data(DataHeader { stream: 3, offset: 4, epoch, fin: false }, bytes.into());
    link.push(data(0, framed(&[b"old"]))).await;
    link.push(data(1, framed(&[b"two"]))).await;
    assert_eq!(receiver.recv().await.unwrap().unwrap(), "two");

    let mut heard = Vec::new();
    while heard.len() < 5 {
        heard.push(timeout(PATIENCE, events.next()).await.unwrap().unwrap());
    }
    assert!(matches!(heard[0], Event::Attached { .. }), "{heard:?}");
    assert!(matches!(heard[1], Event::Interrupted { .. }), "{heard:?}");
    assert!(matches!(heard[2], Event::Suspended { streams: 2, .. }), "{heard:?}");
    assert!(matches!(heard[3], Event::Attached { .. }), "{heard:?}");
    assert!(matches!(heard[4], Event::Resumed { .. }), "{heard:?}");
    let metrics = attachment.metrics();
    assert_eq!((metrics.reattached, metrics.streams_suspended, metrics.streams_resumed), (1, 2, 2));
}

#[tokio::test]
async fn a_resume_that_is_refused_for_a_while_is_said_again_and_one_that_is_refused_ends_the_stream() {
    let (attachment, mut link, _node) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 100).await;
    let abort = |stream, code| Abort { stream, code, offset: 0, text: "no".to_owned() };
    let asked = |frame: &Frame| if let Frame::Resume(resume) = frame { Some(resume.open.clone()) } else { None };
    link.push(abort(stream, Code::TrunkLost)).await;
    for epoch in 1..4 {
        let open = link.find(asked).await;
        assert_eq!(open.epoch, epoch);
        link.push(abort(open.stream, Code::Busy)).await;
    }
    let open = link.find(asked).await;
    link.push(abort(open.stream, Code::ConsumerGone)).await;
    let acknowledged = |frame: &Frame| matches!(frame, Frame::EndAck(ack) if ack.stream == open.stream).then_some(());
    link.find(acknowledged).await;
    assert_eq!(sender.ended().await.unwrap_err().code(), Some(Code::ConsumerGone));
}

#[tokio::test]
async fn a_stream_of_another_node_is_not_taken_up_nor_is_one_of_an_older_path_or_one_that_nobody_knows() {
    let (attachment, mut link, _node) = attach().await;
    let (_consumer, id) = bind(&attachment, &mut link).await;
    link.offer(id, 1, "map").await;
    let foreign = resumed(id, 3, "map", 1, 1);
    let foreign = Incoming { open: Open { producer_node: Some("node-x".parse().unwrap()), ..foreign.open }, ..foreign };
    let offers = [
        (foreign, Code::Forbidden),
        (resumed(id, 5, "map", 1, 0), Code::Superseded),
        (resumed(id, 7, "map", 99, 1), Code::OutcomeUnknown),
    ];
    for (offer, code) in offers {
        let stream = offer.open.stream;
        link.push(offer).await;
        let refused = |frame: &Frame| match frame {
            Frame::Abort(abort) if abort.stream == stream => Some(abort.code),
            _ => None,
        };
        assert_eq!(link.find(refused).await, code);
    }
}

#[tokio::test]
async fn closing_waits_until_the_producer_has_heard_the_end() {
    let (attachment, mut link, _node) = attach().await;
    let (mut consumer, id) = bind(&attachment, &mut link).await;
    link.offer(id, 1, "map").await;
    let mut receiver = consumer.accept().await.unwrap();
    link.push_data(1, 0, &finished(&[])).await;
    assert_eq!(receiver.recv().await.unwrap(), None);
    drop((receiver, consumer));
    let mut closing = pin!(attachment.close());
    assert!(poll_once(closing.as_mut()).is_none());
    let told = |frame: &Frame| matches!(frame, Frame::Credit(credit) if credit.finished).then_some(());
    link.find(told).await;
    assert!(timeout(A_WHILE, closing.as_mut()).await.is_err(), "the producer has not heard");
    link.push(EndAck { stream: 1 }).await;
    // The process says good-bye, and waits for the node to do so.
    let (closed, end) = tokio::join!(closing, async {
        while link.next_or_end().await.is_some() {}
        drop(link);
    });
    closed.unwrap();
    assert_eq!(end, ());
}

#[tokio::test]
async fn closing_while_the_node_is_away_tells_the_next_one_how_streams_ended() {
    let (attachment, mut link, node) = attach().await;
    let (mut consumer, id) = bind(&attachment, &mut link).await;
    for (stream, name) in [(1, "done"), (3, "unread")] {
        link.offer(id, stream, name).await;
    }
    let mut receiver = consumer.accept().await.unwrap();
    link.push_data(1, 0, &finished(&[])).await;
    assert_eq!(receiver.recv().await.unwrap(), None);
    drop(link);
    let mut closing = pin!(attachment.close());
    assert!(poll_once(closing.as_mut()).is_none());
    let mut link = node.greet().await;
    let (closed, told) = tokio::join!(closing, async {
        let mut told = Vec::new();
        while let Some(frame) = link.next_or_end().await {
            if let Frame::Consumed(consumed) = frame {
                let code = consumed.abort.map(|abort| abort.code);
                told.push((consumed.key.producer.to_string(), consumed.finished, code));
            }
        }
        drop(link);
        told
    });
    closed.unwrap();
    let mut told = told;
    told.sort();
    let expected = [("done".to_owned(), true, None), ("unread".to_owned(), false, Some(Code::ConsumerClosed))];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn closing_while_the_node_is_away_and_nothing_is_left_to_be_said_waits_for_nobody() {
    let (attachment, link, node) = attach().await;
    let mut events = attachment.events();
    drop((link, node));
    while !matches!(events.next().await, Some(Event::Interrupted { .. })) {}
    timeout(A_WHILE * 5, attachment.close()).await.expect("there is no node to be told").unwrap();
}

#[tokio::test]
async fn credit_of_a_path_that_is_gone_changes_nothing() {
    let (attachment, mut link, _node) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 6).await;
    sender.send(Bytes::from_static(b"first")).await.unwrap();
    link.data(stream, 6).await;
    link.push(Abort { stream, code: Code::TrunkLost, offset: 0, text: String::new() }).await;
    let asked = |frame: &Frame| if let Frame::Resume(resume) = frame { Some(resume.open.clone()) } else { None };
    let open = link.find(asked).await;
    link.push(credit(stream, 6, 100)).await;
    link.push(Resumed { stream: open.stream, epoch: 1, received: 6, consumed: 0, limit: 6 }).await;
    let mut sending = pin!(sender.send(Bytes::from_static(b"second")));
    assert!(timeout(A_WHILE, sending.as_mut()).await.is_err(), "there is no credit");
    link.push(trunkline_proto::message::Credit { epoch: 1, ..credit(open.stream, 6, 100) }).await;
    sending.await.unwrap();
}
