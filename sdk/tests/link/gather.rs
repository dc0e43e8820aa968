//! `gather`: order of arrival, lost producers, who is expected.

use futures_util::StreamExt;
use trunkline::{Code, Consumer, ErrorKind, Expected, Gather, Gathered};
use trunkline_proto::{
    frame::Frame,
    message::{Abort, Refused},
};

use crate::fake_node::{Link, attach, bind, finished, framed, incoming, poll_once};

pub(crate) async fn bound() -> (trunkline::Attachment, Link, Consumer, u64) {
    let (attachment, mut link) = attach().await;
    let (consumer, bind) = bind(&attachment, &mut link).await;
    (attachment, link, consumer, bind)
}

/// `producer: message` or `producer lost: code at offset`.
pub(crate) async fn next(gather: &mut Gather) -> Option<String> {
    gather.next().await.map(|gathered| said(gathered.unwrap()))
}

fn said(gathered: Gathered) -> String {
    match gathered {
        Gathered::Message { producer, message } => format!("{}: {}", producer.name, String::from_utf8_lossy(&message)),
        Gathered::Lost(lost) => format!("{} lost: {} at {}", lost.producer.name, lost.code, lost.offset),
    }
}

async fn refusal(link: &mut Link, stream: u64) -> (Code, String) {
    let found = |frame: &Frame| match frame {
        Frame::Abort(abort) if abort.stream == stream => Some((abort.code, abort.text.clone())),
        _ => None,
    };
    link.find(found).await
}

#[tokio::test]
async fn messages_come_in_the_order_of_their_arrival() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    let mut gather = consumer.gather(Expected::Count(3));
    for (stream, name) in [(1, "a"), (3, "b"), (5, "c")] {
        link.offer(bind, stream, name).await;
    }
    let mut offsets = [0; 3];
    let mut expected = Vec::new();
    for step in 0..60_usize {
        let at = step * step % 7 % 3;
        let text = format!("message {step}");
        let bytes = framed(&[text.as_bytes()]);
        link.push_data([1, 3, 5][at], offsets[at], &bytes).await;
        offsets[at] += bytes.len();
        expected.push(format!("{}: {text}", ["a", "b", "c"][at]));
    }
    for expected in expected {
        assert_eq!(next(&mut gather).await.unwrap(), expected);
    }
    for (at, stream) in [(0, 1), (1, 3), (2, 5)] {
        let mut mark = bytes::BytesMut::new();
        trunkline_proto::framing::put_end_mark(offsets[at] as u64, &mut mark);
        link.push_data(stream, offsets[at], &mark).await;
    }
    assert_eq!(next(&mut gather).await, None);
    assert_eq!((gather.finished(), gather.lost()), (3, 0));
    assert_eq!(next(&mut gather).await, None);
}

#[tokio::test]
async fn a_lost_producer_is_an_item_and_the_others_go_on() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    let mut gather = consumer.gather(Expected::Count(2));
    link.offer(bind, 1, "a").await;
    link.offer(bind, 3, "b").await;
    link.push_data(1, 0, &framed(&[b"one", b"two"])).await;
    link.push(Abort { stream: 1, code: Code::ProducerGone, offset: 8, text: "its process ended".into() }).await;
    link.push_data(3, 0, &finished(&[b"three"])).await;
    assert_eq!(next(&mut gather).await.unwrap(), "a: one");
    assert_eq!(next(&mut gather).await.unwrap(), "a: two");
    assert_eq!(next(&mut gather).await.unwrap(), "a lost: producer_gone at 8");
    assert_eq!(next(&mut gather).await.unwrap(), "b: three");
    assert_eq!(next(&mut gather).await, None);
    assert_eq!((gather.finished(), gather.lost()), (1, 1));
}

#[tokio::test]
async fn a_gather_is_a_stream_that_ends_after_its_last_producer() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    let mut gather = consumer.gather(Expected::Count(3));
    for (stream, name) in [(1, "a"), (3, "b"), (5, "c")] {
        link.offer(bind, stream, name).await;
    }
    link.push_data(1, 0, &finished(&[b"one", b"two"])).await;
    link.push(Abort { stream: 3, code: Code::ProducerGone, offset: 0, text: String::new() }).await;
    link.push_data(5, 0, &finished(&[b"three"])).await;
    let all: Vec<_> = gather.by_ref().map(|gathered| said(gathered.unwrap())).collect().await;
    assert_eq!(all, ["a: one", "a: two", "b lost: producer_gone at 0", "c: three"]);
    assert_eq!((gather.finished(), gather.lost()), (2, 1));
    assert!(StreamExt::next(&mut gather).await.is_none());
}

#[tokio::test]
async fn only_the_named_are_taken_and_each_once() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    let mut gather = consumer.gather(Expected::names(["a", "b"]).unwrap());
    link.push(incoming(bind, 1, "stranger")).await;
    let (code, text) = refusal(&mut link, 1).await;
    assert_eq!((code, text.as_str()), (Code::Cancelled, "the consumer does not expect producer stranger"));
    link.offer(bind, 3, "a").await;
    link.push(incoming(bind, 5, "a")).await;
    assert_eq!(refusal(&mut link, 5).await.0, Code::Cancelled);
    link.offer(bind, 7, "b").await;
    link.push_data(3, 0, &finished(&[b"from a"])).await;
    link.push_data(7, 0, &finished(&[])).await;
    assert_eq!(next(&mut gather).await.unwrap(), "a: from a");
    assert_eq!(next(&mut gather).await, None);
    assert_eq!(Expected::names(["no good"]).unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn of_a_count_the_first_are_taken() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    let mut gather = consumer.gather(Expected::Count(1));
    link.offer(bind, 1, "a").await;
    link.push(incoming(bind, 3, "b")).await;
    assert_eq!(refusal(&mut link, 3).await.1, "the consumer gathers 1 streams and has them");
    link.push_data(1, 0, &finished(&[b"one"])).await;
    assert_eq!(next(&mut gather).await.unwrap(), "a: one");
    assert_eq!(next(&mut gather).await, None);
}

#[tokio::test]
async fn streams_that_came_before_belong_to_it() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    link.offer(bind, 1, "a").await;
    link.push_data(1, 0, &finished(&[b"early"])).await;
    link.offer(bind, 3, "b").await;
    link.offer(bind, 5, "c").await;
    let mut gather = consumer.gather(Expected::names(["a", "c"]).unwrap());
    assert_eq!(refusal(&mut link, 3).await.0, Code::Cancelled);
    link.push_data(5, 0, &finished(&[b"late"])).await;
    assert_eq!(next(&mut gather).await.unwrap(), "a: early");
    assert_eq!(next(&mut gather).await.unwrap(), "c: late");
    assert_eq!(next(&mut gather).await, None);
}

#[tokio::test]
async fn nobody_expected_is_nobody_waited_for() {
    let (_attachment, _link, consumer, _) = bound().await;
    assert_eq!(next(&mut consumer.gather(Expected::Count(0))).await, None);
}

#[tokio::test]
async fn a_lost_link_is_one_error_after_what_had_arrived() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    let mut gather = consumer.gather(Expected::Count(2));
    link.offer(bind, 1, "a").await;
    link.push_data(1, 0, &framed(&[b"one", b"two"])).await;
    drop(link);
    assert_eq!(next(&mut gather).await.unwrap(), "a: one");
    assert_eq!(next(&mut gather).await.unwrap(), "a: two");
    assert_eq!(gather.next().await.unwrap().unwrap_err().kind(), ErrorKind::NodeLost);
    assert!(gather.next().await.is_none());
}

#[tokio::test]
async fn an_ended_bind_is_an_error_once_the_streams_it_brought_are_read() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    let mut gather = consumer.gather(Expected::Count(2));
    link.offer(bind, 1, "a").await;
    link.push(Refused { bind, code: Code::Draining, text: "the node is shutting down".into() }).await;
    assert!(poll_once(std::pin::pin!(gather.next())).is_none());
    link.push_data(1, 0, &finished(&[b"one"])).await;
    assert_eq!(next(&mut gather).await.unwrap(), "a: one");
    assert_eq!(gather.next().await.unwrap().unwrap_err().kind(), ErrorKind::Draining);
    assert!(gather.next().await.is_none());
}

#[tokio::test]
async fn a_dropped_gather_cancels_what_it_had_and_ends_the_bind() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    let gather = consumer.gather(Expected::Count(2));
    link.offer(bind, 1, "a").await;
    drop(gather);
    let (mut unbound, mut cancelled) = (false, false);
    while !unbound || !cancelled {
        match link.next().await {
            Frame::Unbind(unbind) => unbound = unbind.bind == bind,
            Frame::Abort(abort) => cancelled = (abort.stream, abort.code) == (1, Code::Cancelled),
            _ => {}
        }
    }
}
