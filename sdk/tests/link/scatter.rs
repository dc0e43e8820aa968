//! One producer, many consumers.

use std::pin::pin;

use trunkline::{Attachment, Bytes, Code, ErrorKind, Incarnation, Scatter};
use trunkline_proto::{
    frame::Frame,
    message::{Abort, Accept, Credit},
};

use crate::fake_node::{Link, attach, credit, finished, framed, job, open, poll_once};

fn message(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn addresses(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("job/sink-{index}@node-b")).collect()
}

/// A scatter to consumers that have given this much credit each; the streams are 2, 4, 6 and so on.
async fn scatter(attachment: &Attachment, link: &mut Link, limits: &[u64]) -> Scatter {
    let producer = job(attachment).producer("map").unwrap();
    let answers = async {
        // All opens are there before one is answered, and the answers come in another order.
        let mut streams = Vec::new();
        for index in 0..limits.len() {
            let Frame::Open(open) = link.next().await else { panic!("an OPEN is expected") };
            assert_eq!(open.consumer.as_str(), format!("sink-{index}"));
            streams.push(open.stream);
        }
        for (index, &stream) in streams.iter().enumerate().rev() {
            link.push(Accept { stream, incarnation: Incarnation::from_bits(9), limit: limits[index] }).await;
        }
    };
    let (scatter, ()) = tokio::join!(producer.scatter(addresses(limits.len())), answers);
    scatter.unwrap()
}

#[tokio::test]
async fn all_opens_are_in_flight_together_and_the_order_is_that_of_the_addresses() {
    let (attachment, mut link) = attach().await;
    let mut scatter = scatter(&attachment, &mut link, &[100; 3000]).await;
    assert_eq!((scatter.len(), scatter.is_empty()), (3000, false));
    for index in [0, 1, 2999] {
        assert_eq!(scatter.sender(index).unwrap().address().to_string(), format!("job/sink-{index}@node-b"));
    }
    assert!(scatter.sender(3000).is_none());
    scatter.send(2999, message("last")).await.unwrap();
    assert_eq!(link.data(6000, 5).await, framed(&[b"last"]));
    scatter.try_send(0, message("first")).unwrap();
    assert_eq!(link.data(2, 6).await, framed(&[b"first"]));
    assert_eq!(scatter.try_send(3000, message("nobody")).unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn the_first_refusal_names_its_address_and_withdraws_the_others() {
    let (attachment, mut link) = attach().await;
    let producer = job(&attachment).producer("map").unwrap();
    let answers = async {
        for _ in 0..3 {
            assert!(matches!(link.next().await, Frame::Open(_)));
        }
        link.push(Accept { stream: 2, incarnation: Incarnation::from_bits(9), limit: 0 }).await;
        link.push(Abort { stream: 4, code: Code::NotBound, offset: 0, text: "nobody bound it".into() }).await;
    };
    let (refused, ()) = tokio::join!(producer.scatter(addresses(3)), answers);
    let error = refused.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, Some(Code::NotBound)));
    assert!(error.to_string().starts_with("consumer job/sink-1@node-b: "), "{error}");
    for stream in [2, 6] {
        let aborted = |frame: &Frame| match frame {
            Frame::Abort(abort) => Some((abort.stream, abort.code)),
            _ => None,
        };
        assert_eq!(link.find(aborted).await, (stream, Code::Cancelled));
    }
    let metrics = attachment.metrics();
    assert_eq!((metrics.opens, metrics.sends_lost), (3, 3));
}

#[tokio::test]
async fn an_address_that_is_not_valid_is_found_before_anything_is_sent() {
    let (attachment, mut link) = attach().await;
    let producer = job(&attachment).producer("map").unwrap();
    let refused = producer.scatter(["job/sink@node-b", "other/sink@node-b"]).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    // The first that the node hears of is this one.
    open(&attachment, &mut link, 0).await;
    assert_eq!(attachment.metrics().opens, 1);
}

#[tokio::test]
async fn a_slow_consumer_delays_the_return_of_a_broadcast_and_nothing_else() {
    let (attachment, mut link) = attach().await;
    let mut scatter = scatter(&attachment, &mut link, &[100, 0, 100]).await;
    let mut broadcasting = Box::pin(scatter.broadcast(message("all")));
    assert!(poll_once(broadcasting.as_mut()).is_none());
    let mut reached = Vec::new();
    while reached.len() < 2 {
        if let Frame::Data(header, payload) = link.next().await {
            assert_eq!(payload, framed(&[b"all"]));
            reached.push(header.stream);
        }
    }
    assert_eq!(reached, [2, 6]);
    assert!(poll_once(broadcasting.as_mut()).is_none());
    link.push(credit(4, 0, 100)).await;
    assert!(broadcasting.await.is_empty());
    assert_eq!(link.data(4, 4).await, framed(&[b"all"]));
}

#[tokio::test]
async fn a_stream_that_ended_fails_at_its_index_alone() {
    let (attachment, mut link) = attach().await;
    let mut scatter = scatter(&attachment, &mut link, &[100; 3]).await;
    link.push(Abort { stream: 4, code: Code::ConsumerGone, offset: 0, text: "its process ended".into() }).await;
    while attachment.metrics().sends_lost == 0 {
        tokio::task::yield_now().await;
    }
    let failed = scatter.broadcast(message("all")).await;
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].0, failed[0].1.code()), (1, Some(Code::ConsumerGone)));
    let failed = scatter.flush().await;
    assert_eq!((failed.len(), failed[0].0), (1, 1));
    let mut finishing = Box::pin(scatter.finish());
    assert!(poll_once(finishing.as_mut()).is_none());
    let whole = finished(&[b"all"]);
    let mut ended = 0;
    while ended < 2 {
        if let Frame::Data(header, _) = link.next().await {
            ended += usize::from(header.fin);
        }
    }
    for stream in [2, 6] {
        let received = whole.len() as u64;
        link.push(Credit { finished: true, received, ..credit(stream, 4, 100) }).await;
    }
    let failed = finishing.await;
    assert_eq!((failed.len(), failed[0].0), (1, 1));
}

#[tokio::test]
async fn a_dropped_broadcast_reaches_all_once_it_has_begun_and_none_before() {
    let (attachment, mut link) = attach().await;
    let mut scatter = scatter(&attachment, &mut link, &[100, 0, 0]).await;
    assert!(poll_once(pin!(scatter.broadcast(message("one")))).is_none());
    // The second waits for the first, which two of the senders hold: it has not begun.
    assert!(poll_once(pin!(scatter.broadcast(message("two")))).is_none());
    drop(scatter.broadcast(message("never polled")));
    for stream in [4, 6] {
        link.push(credit(stream, 0, 100)).await;
    }
    assert!(scatter.broadcast(message("three")).await.is_empty());
    let mut bytes = [Vec::new(), Vec::new(), Vec::new()];
    let expected = framed(&[b"one", b"three"]);
    while bytes.iter().any(|bytes| bytes.len() < expected.len()) {
        if let Frame::Data(header, payload) = link.next().await {
            bytes[usize::try_from(header.stream / 2 - 1).unwrap()].extend_from_slice(&payload);
        }
    }
    assert_eq!(bytes, [expected.clone(), expected.clone(), expected]);
}

#[tokio::test]
async fn a_broadcast_that_is_too_long_fails_for_all_and_changes_nothing() {
    let (attachment, mut link) = attach().await;
    let mut scatter: Scatter = scatter(&attachment, &mut link, &[100; 2]).await.into_senders().into_iter().collect();
    let failed = scatter.broadcast(Bytes::from(vec![0; (64 << 20) + 1])).await;
    assert_eq!(failed.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1]);
    assert!(failed.iter().all(|(_, error)| error.kind() == ErrorKind::MessageTooLarge));
    assert!(scatter.broadcast(message("fits")).await.is_empty());
    assert_eq!(link.data(2, 5).await, framed(&[b"fits"]));
}

#[tokio::test]
async fn an_abort_of_all_tells_all_the_reason() {
    let (attachment, mut link) = attach().await;
    let all = scatter(&attachment, &mut link, &[0; 2]).await;
    all.abort("my disk is full");
    for stream in [2, 4] {
        let Frame::Abort(abort) = link.next().await else { panic!("an ABORT is expected") };
        assert_eq!((abort.stream, abort.text.as_str()), (stream, "my disk is full"));
    }
}

#[tokio::test]
async fn a_close_of_all_waits_for_no_consumer() {
    let (attachment, mut link) = attach().await;
    let mut all = scatter(&attachment, &mut link, &[100; 2]).await;
    assert!(all.broadcast(message("all")).await.is_empty());
    assert!(all.close().await.is_empty());
    let mut ended = 0;
    while ended < 2 {
        if let Frame::Data(header, _) = link.next().await {
            ended += usize::from(header.fin);
        }
    }
}
