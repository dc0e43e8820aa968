//! What happens to an attachment, as those who listen hear of it.

use std::{pin::pin, time::Duration};

use futures_util::StreamExt as _;
use tokio::time::timeout;
use trunkline::{
    Attachment, AttachmentBuilder, Bytes, Code, Direction, ErrorKind, Event, Events, LostStream, StallCause,
    StalledSend,
};
use trunkline_proto::{
    frame::Frame,
    message::{Abort, Drain},
};

use crate::fake_node::{FakeNode, Link, PATIENCE, attach, bind, credit, finished, framed, open, open_from, poll_once};

/// Short enough not to be waited for.
const STALL_WARN: Duration = Duration::from_millis(20);

async fn attach_with(builder: AttachmentBuilder) -> (Attachment, Link) {
    let node = FakeNode::listen();
    let (attachment, link) = tokio::join!(builder.connect(&node.path), node.greet());
    (attachment.unwrap(), link)
}

async fn next(events: &mut Events) -> Event {
    timeout(PATIENCE, events.next()).await.expect("an event comes").expect("the events go on")
}

async fn next_lost(events: &mut Events) -> LostStream {
    match next(events).await {
        Event::Lost(lost) => lost,
        other => panic!("{other}"),
    }
}

async fn next_stalled(events: &mut Events) -> StalledSend {
    match next(events).await {
        Event::Stalled(stalled) => stalled,
        other => panic!("{other}"),
    }
}

/// Reads the first event, which says that the process is attached.
async fn begin(attachment: &Attachment) -> Events {
    let mut events = attachment.events();
    assert_eq!(next(&mut events).await.to_string(), "attached to node node-a of cluster test");
    events
}

#[tokio::test]
async fn a_subscription_begins_with_the_state_of_things_and_ends_with_the_attachment() {
    let (attachment, mut link) = attach().await;
    let mut early = begin(&attachment).await;
    assert!(!attachment.is_draining());
    link.push(Drain { deadline_ms: 3_600_000 }).await;
    let Event::Draining { left, .. } = next(&mut early).await else { panic!("DRAIN is told") };
    assert_eq!(left, Duration::from_secs(3600));
    assert!(attachment.is_draining());
    let mut late = begin(&attachment).await;
    let Event::Draining { left, .. } = next(&mut late).await else { panic!("it drains already") };
    assert!(left <= Duration::from_secs(3600) && left > Duration::from_secs(3000), "{left:?}");
    // A node that says it twice drains once.
    link.push(Drain { deadline_ms: 1 }).await;
    let closing = tokio::spawn(attachment.close());
    while link.next_or_end().await.is_some() {}
    drop(link);
    closing.await.unwrap().unwrap();
    for mut events in [early, late] {
        let Event::Detached { kind, why, .. } = next(&mut events).await else { panic!("it is detached") };
        assert_eq!((kind, why.as_str()), (ErrorKind::Closed, "the attachment was closed by this process"));
        assert_eq!(events.next().await, None);
        assert_eq!(events.next().await, None);
    }
}

#[tokio::test]
async fn a_lost_link_is_told_behind_the_streams_that_it_took_along_and_to_who_asks_later() {
    let (attachment, mut link) = attach().await;
    let mut events = begin(&attachment).await;
    let (_sender, _) = open(&attachment, &mut link, 0).await;
    drop(link);
    assert_eq!(next_lost(&mut events).await.code, Code::NodeLost);
    let Event::Detached { kind, why, .. } = next(&mut events).await else { panic!("it is detached") };
    assert_eq!(kind, ErrorKind::NodeLost);
    assert!(why.contains("the link to node node-a at /"), "{why}");
    assert_eq!(events.next().await, None);
    let mut late = attachment.events();
    assert!(matches!(next(&mut late).await, Event::Detached { .. }));
    assert_eq!(late.next().await, None);
}

#[tokio::test]
async fn events_do_not_keep_an_attachment_alive() {
    let (attachment, mut link) = attach().await;
    let events = begin(&attachment).await;
    drop(attachment);
    while link.next_or_end().await.is_some() {}
    let told: Vec<Event> = events.collect().await;
    assert!(matches!(&told[..], [Event::Detached { kind: ErrorKind::Closed, .. }]), "{told:?}");
}

#[tokio::test]
async fn a_stream_from_here_that_is_lost_is_told_once_with_the_offset() {
    let (attachment, mut link) = attach().await;
    let mut events = begin(&attachment).await;
    let (mut sender, stream) = open(&attachment, &mut link, 100).await;
    sender.send(Bytes::from_static(b"hello")).await.unwrap();
    link.data(stream, 6).await;
    link.push(credit(stream, 6, 100)).await;
    let text = "the process of consumer sink is gone".to_owned();
    link.push(Abort { stream, code: Code::ConsumerGone, offset: 6, text }).await;
    let lost = next_lost(&mut events).await;
    assert_eq!((lost.direction, lost.code, lost.offset), (Direction::Sent, Code::ConsumerGone, 6));
    assert_eq!((lost.producer.as_str(), lost.producer_node.as_str()), ("map", "node-a"));
    assert_eq!((lost.job.to_string(), lost.consumer.to_string()), ("job#1".to_owned(), "job/sink@node-b".to_owned()));
    assert_eq!(
        lost.to_string(),
        "lost the stream of producer map (job job#1) to consumer job/sink@node-b: consumer_gone at offset 6: the process \
         of consumer sink is gone"
    );
    drop(sender);
    // One that this process gives up is not lost; one that was refused never was a stream.
    let (sender, stream) = open(&attachment, &mut link, 100).await;
    sender.abort("my disk is full");
    link.find(|frame| matches!(frame, Frame::Abort(abort) if abort.stream == stream).then_some(())).await;
    let producer = attachment.job("job", "1").unwrap().producer("map").unwrap();
    let refuse = async {
        let stream = link.find(|frame| match frame {
            Frame::Open(open) => Some(open.stream),
            _ => None,
        });
        let stream = stream.await;
        link.push(Abort { stream, code: Code::NotBound, offset: 0, text: "nobody".into() }).await;
    };
    let (refused, ()) = tokio::join!(producer.open("job/sink@node-b"), refuse);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
    drop(link);
    assert!(matches!(next(&mut events).await, Event::Detached { .. }));
}

#[tokio::test]
async fn a_stream_to_here_that_is_lost_is_told_once_and_one_that_was_read_to_its_end_is_not() {
    let (attachment, mut link) = attach().await;
    let mut events = begin(&attachment).await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    for (stream, name) in [(1, "lost"), (3, "cancelled"), (5, "done")] {
        link.offer(bind, stream, name).await;
    }
    let mut lost = consumer.accept().await.unwrap();
    let cancelled = consumer.accept().await.unwrap();
    let mut done = consumer.accept().await.unwrap();
    link.push_data(1, 0, &framed(&[b"one"])).await;
    assert_eq!(lost.recv().await.unwrap().unwrap(), "one");
    link.push(Abort { stream: 1, code: Code::ProducerGone, offset: 9, text: "gone".into() }).await;
    let told = next_lost(&mut events).await;
    assert_eq!((told.direction, told.code, told.offset), (Direction::Received, Code::ProducerGone, 4));
    assert_eq!(
        told.to_string(),
        "lost the stream of producer lost@node-b (job job#1) to this process's consumer job/sink@node-a: producer_gone at \
         offset 4: gone"
    );
    cancelled.cancel("enough");
    link.find(|frame| matches!(frame, Frame::Abort(abort) if abort.stream == 3).then_some(())).await;
    link.push_data(5, 0, &finished(&[])).await;
    assert_eq!(done.recv().await.unwrap(), None);
    drop((lost, done));
    drop(link);
    assert!(matches!(next(&mut events).await, Event::Detached { .. }));
}

#[tokio::test]
async fn a_slow_subscriber_loses_the_oldest_and_is_told_how_many() {
    let (attachment, mut link) = attach().await;
    let mut slow = begin(&attachment).await;
    let mut quick = begin(&attachment).await;
    let mut streams = Vec::new();
    for _ in 0..300 {
        let (sender, stream) = open(&attachment, &mut link, 0).await;
        streams.push(stream);
        link.push(Abort { stream, code: Code::ConsumerGone, offset: 0, text: stream.to_string() }).await;
        assert_eq!(next_lost(&mut quick).await.text, stream.to_string());
        drop(sender);
    }
    // The quick one has been told, and so has the slow one.
    assert_eq!(next(&mut slow).await, Event::Missed(300 - 256));
    for stream in &streams[300 - 256..] {
        assert_eq!(next_lost(&mut slow).await.text, stream.to_string());
    }
    assert!(poll_once(pin!(slow.next())).is_none(), "nothing is told twice");
}

#[tokio::test]
async fn a_send_that_waits_for_credit_is_told_once_for_each_wait() {
    let (attachment, mut link) = attach_with(Attachment::builder().stall_warn(STALL_WARN)).await;
    let mut events = begin(&attachment).await;
    let (mut sender, stream) = open(&attachment, &mut link, 0).await;
    let (mut other, _) = open_from(&attachment, &mut link, "other", 0).await;
    let mut sending = Box::pin(sender.send(Bytes::from_static(b"one")));
    assert!(poll_once(sending.as_mut()).is_none());
    let stalled = next_stalled(&mut events).await;
    assert_eq!(stalled.cause, StallCause::Credit);
    assert!(stalled.waited >= STALL_WARN, "{:?}", stalled.waited);
    assert_eq!((stalled.producer.as_str(), stalled.consumer.to_string()), ("map", "job/sink@node-b".to_owned()));
    // Another send stalls later, so the looks went on meanwhile: the first was not told again.
    let mut waiting = Box::pin(other.send(Bytes::from_static(b"other")));
    assert!(poll_once(waiting.as_mut()).is_none());
    assert_eq!(next_stalled(&mut events).await.producer.as_str(), "other");
    link.push(credit(stream, 0, 1)).await;
    sending.await.unwrap();
    // The next wait of the same stream is another one.
    let mut sending = Box::pin(sender.send(Bytes::from_static(b"two")));
    assert!(poll_once(sending.as_mut()).is_none());
    let stalled = next_stalled(&mut events).await;
    let text = stalled.to_string();
    let expected = "to send to consumer job/sink@node-b: the consumer gives no credit, because it does not read";
    assert!(text.starts_with("producer map (job job#1) has waited ") && text.ends_with(expected), "{text}");
    assert!(poll_once(pin!(events.next())).is_none(), "no wait is told twice");
}

#[tokio::test]
async fn a_send_that_waits_for_the_send_budget_says_so_and_one_that_was_given_up_says_nothing() {
    let builder = Attachment::builder().stall_warn(STALL_WARN).send_budget_bytes(1);
    let (attachment, mut link) = attach_with(builder).await;
    let mut events = begin(&attachment).await;
    let (mut full, _) = open(&attachment, &mut link, 1_000).await;
    let (mut given_up, _) = open(&attachment, &mut link, 1_000).await;
    let (mut waiting, stream) = open(&attachment, &mut link, 1_000).await;
    full.send(Bytes::from_static(b"this uses it up")).await.unwrap();
    {
        let mut sending = pin!(given_up.send(Bytes::from_static(b"given up")));
        assert!(poll_once(sending.as_mut()).is_none());
    }
    let mut sending = Box::pin(waiting.send(Bytes::from_static(b"waits")));
    assert!(poll_once(sending.as_mut()).is_none());
    let stalled = next_stalled(&mut events).await;
    assert_eq!(stalled.cause, StallCause::SendBudget);
    drop(sending);
    // Whatever else was to be told of the one that was given up would have come before this.
    link.push(Abort { stream, code: Code::ConsumerGone, offset: 0, text: "gone".into() }).await;
    assert_eq!(next_lost(&mut events).await.code, Code::ConsumerGone);
}
