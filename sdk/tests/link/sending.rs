//! Sending without waiting, with a permit, through a sink and as a writer; and the ends that are waited for.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use futures_sink::Sink;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use trunkline::{Attachment, Bytes, Code, Error, ErrorKind, Sender};
use trunkline_proto::{
    frame::{DATA_BYTES_MAX, Frame},
    message::{Abort, Credit},
};

use crate::{
    close::{CLOG_BYTES, CLOG_CREDIT, clog},
    fake_node::{FakeNode, Link, attach, credit, finished, framed, open, poll_once},
};

fn message(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// An attachment whose senders may hold ten bytes and one message.
async fn attach_short() -> (Attachment, Link) {
    let node = FakeNode::listen();
    let (attachment, link) =
        tokio::join!(Attachment::builder().send_budget_bytes(10).connect(&node.path), node.greet());
    (attachment.unwrap(), link)
}

async fn want_of(link: &mut Link, stream: u64) -> u64 {
    link.find(|frame| match frame {
        Frame::Want(want) if want.stream == stream => Some(want.wanted),
        _ => None,
    })
    .await
}

/// Everything that was consumed, the end too.
fn consumed_all(stream: u64, messages: &[&[u8]]) -> Credit {
    let whole = finished(messages).len() as u64;
    Credit { finished: true, received: whole, ..credit(stream, framed(messages).len() as u64, whole) }
}

#[tokio::test]
async fn a_try_without_credit_is_full_and_asks_for_it() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 0).await;
    let error = sender.try_send(message("hello")).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Full, true));
    assert_eq!(
        error.to_string(),
        "consumer job/sink@node-b: it has given no credit for more; try again when its application has read"
    );
    assert_eq!(sender.sent_bytes(), 0);
    assert_eq!(want_of(&mut link, stream).await, 6);
    link.push(credit(stream, 0, 100)).await;
    // It waits, so it sees the credit.
    drop(sender.reserve(5).await.unwrap());
    sender.try_send(message("hello")).unwrap();
    assert_eq!(link.data(stream, 6).await, framed(&[b"hello"]));
}

#[tokio::test]
async fn a_try_without_room_is_full_and_asks_the_others_what_they_have() {
    let (attachment, mut link) = attach_short().await;
    let (mut first, one) = open(&attachment, &mut link, 1000).await;
    let (mut second, two) = open(&attachment, &mut link, 1000).await;
    first.try_send(message("longer than ten bytes")).unwrap();
    let error = second.try_send(message("short")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.to_string().contains("the send budget of this process is used up"), "{error}");
    link.data(one, 22).await;
    want_of(&mut link, one).await;
    link.push(credit(one, 22, 1000)).await;
    drop(second.reserve(5).await.unwrap());
    second.try_send(message("short")).unwrap();
    assert_eq!(link.data(two, 6).await, framed(&[b"short"]));
}

#[tokio::test]
async fn a_try_on_a_stream_that_ended_says_how() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 0).await;
    link.push(Abort { stream, code: Code::ConsumerGone, offset: 0, text: "its process ended".into() }).await;
    let waited = sender.send(message("hello")).await.unwrap_err();
    let tried = sender.try_send(message("hello")).unwrap_err();
    assert_eq!((tried.code(), tried.to_string()), (Some(Code::ConsumerGone), waited.to_string()));
    assert_eq!(sender.try_reserve(1).unwrap_err().code(), Some(Code::ConsumerGone));
}

#[tokio::test]
async fn a_permit_holds_its_room_until_it_is_used_or_dropped() {
    let (attachment, mut link) = attach_short().await;
    let (mut first, one) = open(&attachment, &mut link, 1000).await;
    let (mut second, two) = open(&attachment, &mut link, 1000).await;
    let permit = first.reserve(9).await.unwrap();
    assert_eq!((permit.bytes(), attachment.metrics().send_budget_used_bytes), (9, 10));
    let mut sending = Box::pin(second.send(message("short")));
    assert!(poll_once(sending.as_mut()).is_none());
    drop(permit);
    sending.await.unwrap();
    assert_eq!(link.data(two, 6).await, framed(&[b"short"]));
    // What a shorter message does not need is given back.
    first.try_reserve(9).unwrap().send(message("abc")).unwrap();
    assert_eq!(attachment.metrics().send_budget_used_bytes, 6 + 4);
    assert_eq!(link.data(one, 4).await, framed(&[b"abc"]));
}

#[tokio::test]
async fn a_message_longer_than_its_permit_leaves_the_stream_unchanged() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 1000).await;
    let error = sender.reserve(4).await.unwrap().send(message("hello")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MessageTooLarge);
    assert_eq!(error.to_string(), "consumer job/sink@node-b: a message of 5 bytes; 4 were reserved");
    assert_eq!((sender.sent_bytes(), attachment.metrics().send_budget_used_bytes), (0, 0));
    sender.reserve(4).await.unwrap().send(message("fits")).unwrap();
    assert_eq!(link.data(stream, 5).await, framed(&[b"fits"]));
    let error = sender.reserve(usize::MAX).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MessageTooLarge);
}

#[tokio::test]
async fn a_permit_that_outlives_its_stream_gives_its_room_back() {
    let (attachment, mut link) = attach_short().await;
    let (mut sender, stream) = open(&attachment, &mut link, 1000).await;
    let (mut other, _) = open(&attachment, &mut link, 0).await;
    let permit = sender.reserve(20).await.unwrap();
    link.push(Abort { stream, code: Code::ConsumerGone, offset: 0, text: String::new() }).await;
    link.push(credit(stream + 2, 0, 1000)).await;
    // It has no room yet; that it waits shows nothing of the abort, which the send below does.
    let mut sending = Box::pin(other.send(message("short")));
    assert!(poll_once(sending.as_mut()).is_none());
    while attachment.metrics().sends_lost == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(permit.send(message("late")).unwrap_err().code(), Some(Code::ConsumerGone));
    sending.await.unwrap();
    assert_eq!(attachment.metrics().send_budget_used_bytes, 6);
}

#[tokio::test]
async fn a_lone_message_leaves_at_once_though_nothing_is_flushed() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 1000).await;
    sender.try_send(message("alone")).unwrap();
    assert_eq!(link.data(stream, 6).await, framed(&[b"alone"]));
    assert_eq!(attachment.metrics().data_frames_sent, 1);
}

#[tokio::test]
async fn small_messages_that_wait_for_the_line_travel_together() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 1 << 20).await;
    let (mut clogging, _) = open(&attachment, &mut link, CLOG_CREDIT).await;
    clog(&attachment, &mut clogging).await;
    let messages: Vec<Bytes> = (0..1000).map(|number| Bytes::from(format!("{number:064}"))).collect();
    for message in &messages {
        sender.try_send(message.clone()).unwrap();
    }
    let expected = framed(&messages.iter().map(Bytes::as_ref).collect::<Vec<_>>());
    let (mut bytes, mut frames) = (Vec::new(), 0);
    while bytes.len() < expected.len() {
        let Frame::Data(header, payload) = link.next().await else { continue };
        if header.stream == stream {
            assert_eq!(header.offset, bytes.len() as u64);
            bytes.extend_from_slice(&payload);
            frames += 1;
        }
    }
    assert!(bytes == expected, "the bytes are not those that were sent");
    // Until the line is full the two streams take turns, and a turn is a frame; what waits then goes in two at most.
    assert!(frames <= CLOG_BYTES / DATA_BYTES_MAX + 2, "{frames} frames");
}

fn ready(sender: &mut Sender) -> Poll<Result<(), Error>> {
    Pin::new(sender).poll_ready(&mut cx())
}

#[tokio::test]
async fn a_sink_holds_one_message_which_goes_before_whatever_is_sent_later() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 0).await;
    assert!(ready(&mut sender).is_ready());
    Pin::new(&mut sender).start_send(message("held")).unwrap();
    assert!(ready(&mut sender).is_pending());
    assert_eq!(want_of(&mut link, stream).await, 5);
    assert_eq!(Pin::new(&mut sender).start_send(message("one more")).unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(sender.try_send(message("try")).unwrap_err().kind(), ErrorKind::Full);
    let mut sending = Box::pin(sender.send(message("later")));
    assert!(poll_once(sending.as_mut()).is_none());
    link.push(credit(stream, 0, 100)).await;
    sending.await.unwrap();
    assert_eq!(link.data(stream, 11).await, framed(&[b"held", b"later"]));
    assert!(ready(&mut sender).is_ready());
}

#[tokio::test]
async fn a_held_message_goes_out_though_nobody_polls_again() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 0).await;
    Pin::new(&mut sender).start_send(message("held")).unwrap();
    link.push(credit(stream, 0, 100)).await;
    assert_eq!(link.data(stream, 5).await, framed(&[b"held"]));
}

#[tokio::test]
async fn held_messages_get_the_room_that_comes_free() {
    let (attachment, mut link) = attach_short().await;
    let (mut first, one) = open(&attachment, &mut link, 1000).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(open(&attachment, &mut link, 1000).await.0);
    }
    first.send(message("longer than ten bytes")).await.unwrap();
    link.data(one, 22).await;
    for sender in &mut others {
        Pin::new(sender).start_send(message("nine long")).unwrap();
    }
    assert_eq!(attachment.metrics().sends_blocked, 20);
    link.push(credit(one, 22, 1000)).await;
    // Each takes the room of the one before it.
    for _ in 0..20 {
        let (stream, payload) = link
            .find(|frame| match frame {
                Frame::Data(header, payload) => Some((header.stream, payload.clone())),
                _ => None,
            })
            .await;
        assert_eq!(payload, framed(&[b"nine long"]));
        link.push(credit(stream, 10, 1000)).await;
    }
    assert_eq!(attachment.metrics().messages_sent, 21);
}

#[tokio::test]
async fn the_ends_include_a_held_message() {
    for end in ["flush", "finish", "close", "poll_close"] {
        let (attachment, mut link) = attach().await;
        let (mut sender, stream) = open(&attachment, &mut link, 0).await;
        Pin::new(&mut sender).start_send(message("held")).unwrap();
        let mut ending: Pin<Box<dyn Future<Output = Result<(), Error>>>> = match end {
            "flush" => Box::pin(async move { sender.flush().await.map(|()| sender.abort("done")) }),
            "finish" => Box::pin(sender.finish()),
            "close" => Box::pin(sender.close()),
            _ => Box::pin(async move { std::future::poll_fn(|cx| Pin::new(&mut sender).poll_close(cx)).await }),
        };
        assert!(poll_once(pin!(ending.as_mut())).is_none(), "{end}");
        link.push(credit(stream, 0, 5)).await;
        let expected = if end == "flush" { framed(&[b"held"]) } else { finished(&[b"held"]) };
        assert_eq!(link.data(stream, expected.len()).await, expected, "{end}");
        if end != "flush" {
            link.push(consumed_all(stream, &[b"held"])).await;
        }
        ending.await.unwrap();
    }
}

#[tokio::test]
async fn a_close_waits_for_the_local_node_alone_and_the_stream_finishes_by_itself() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 3).await;
    sender.send(message("hello")).await.unwrap();
    let mut closing = Box::pin(sender.close());
    assert!(poll_once(closing.as_mut()).is_none());
    assert_eq!(link.data(stream, 3).await.len(), 3);
    assert!(poll_once(closing.as_mut()).is_none(), "three bytes have no credit yet");
    link.push(credit(stream, 0, 6)).await;
    closing.await.unwrap();
    let fin = |frame: &Frame| matches!(frame, Frame::Data(header, _) if header.fin).then_some(());
    link.find(fin).await;
    // No abort follows: the end was clean, and is known to be when the consumer says so.
    assert_eq!(attachment.metrics().sends_finished, 0);
    link.push(consumed_all(stream, &[b"hello"])).await;
    while attachment.metrics().sends_finished == 0 {
        tokio::task::yield_now().await;
    }
    open(&attachment, &mut link, 0).await;
}

#[tokio::test]
async fn a_finished_sender_takes_nothing_more_and_may_still_be_aborted() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 100).await;
    assert!(Pin::new(&mut sender).poll_close(&mut cx()).is_pending());
    for refused in [sender.send(message("late")).await, sender.try_send(message("late"))] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    }
    link.data(stream, 16).await;
    sender.abort("enough");
    let Frame::Abort(abort) = link.next().await else { panic!("an ABORT is expected") };
    assert_eq!((abort.stream, abort.text.as_str()), (stream, "enough"));
}

#[tokio::test]
async fn bytes_that_are_written_arrive_as_written_and_the_shutdown_is_the_finish() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 1 << 20).await;
    let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).take(200_000).collect();
    sender.write_all(&bytes).await.unwrap();
    tokio::io::AsyncWriteExt::flush(&mut sender).await.unwrap();
    assert_eq!(Pin::new(&mut sender).poll_write(&mut cx(), &[]).map(Result::unwrap), Poll::Ready(0));
    let pieces: Vec<&[u8]> = bytes.chunks(64 * 1024).collect();
    let expected = finished(&pieces);
    {
        let mut ending = pin!(sender.shutdown());
        assert!(poll_once(ending.as_mut()).is_none());
        assert_eq!(link.data(stream, expected.len()).await, expected);
        link.push(consumed_all(stream, &pieces)).await;
        ending.await.unwrap();
    }
    sender.shutdown().await.unwrap();
    assert_eq!(sender.write(b"late").await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_write_that_is_pending_takes_nothing() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 0).await;
    assert!(Pin::new(&mut sender).poll_write(&mut cx(), b"never").is_pending());
    assert_eq!(want_of(&mut link, stream).await, 6);
    assert_eq!(attachment.metrics().send_budget_used_bytes, 0);
    link.push(credit(stream, 0, 100)).await;
    sender.write_all(b"hello").await.unwrap();
    assert_eq!(link.data(stream, 6).await, framed(&[b"hello"]));
    link.push(Abort { stream, code: Code::Cancelled, offset: 6, text: "enough".into() }).await;
    while attachment.metrics().sends_lost == 0 {
        tokio::task::yield_now().await;
    }
    let error = sender.write(b"late").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).unwrap();
    assert_eq!((inner.code(), inner.offset()), (Some(Code::Cancelled), Some(6)));
}

#[tokio::test]
async fn a_write_that_was_given_up_keeps_room_from_nobody() {
    let (attachment, mut link) = attach_short().await;
    let (mut first, one) = open(&attachment, &mut link, 1000).await;
    let (mut idle, _) = open(&attachment, &mut link, 1000).await;
    let (mut second, two) = open(&attachment, &mut link, 1000).await;
    first.send(message("longer than ten bytes")).await.unwrap();
    assert!(Pin::new(&mut idle).poll_write(&mut cx(), &[0; 1000]).is_pending());
    let mut sending = Box::pin(second.send(message("short")));
    assert!(poll_once(sending.as_mut()).is_none());
    link.data(one, 22).await;
    link.push(credit(one, 22, 1000)).await;
    sending.await.unwrap();
    assert_eq!(link.data(two, 6).await, framed(&[b"short"]));
}

#[tokio::test]
async fn each_stream_counts_once_and_each_message_too() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 6).await;
    sender.send(message("hello")).await.unwrap();
    link.data(stream, 6).await;
    let mut sending = Box::pin(sender.send(message("more")));
    for _ in 0..3 {
        assert!(poll_once(sending.as_mut()).is_none());
    }
    link.push(credit(stream, 0, 100)).await;
    sending.await.unwrap();
    let mut finishing = Box::pin(sender.finish());
    assert!(poll_once(finishing.as_mut()).is_none());
    let mut offset = 6;
    while offset < finished(&[b"hello", b"more"]).len() {
        let Frame::Data(_, payload) = link.next().await else { continue };
        offset += payload.len();
    }
    link.push(consumed_all(stream, &[b"hello", b"more"])).await;
    finishing.await.unwrap();
    let (lost, _) = open(&attachment, &mut link, 6).await;
    lost.abort("enough");
    let metrics = attachment.metrics();
    assert_eq!((metrics.opens, metrics.opens_accepted), (2, 2));
    assert_eq!((metrics.sends_finished, metrics.sends_lost, metrics.sends_blocked), (1, 1, 1));
    assert_eq!((metrics.messages_sent, metrics.bytes_sent), (2, 11));
    assert!((2..=3).contains(&metrics.data_frames_sent), "{metrics:?}");
}

#[tokio::test]
async fn an_idle_sender_may_wait_for_the_end_that_the_consumer_makes() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 100).await;
    assert!(poll_once(pin!(sender.ended())).is_none());
    // It was dropped, and the stream is as before.
    sender.send(Bytes::from_static(b"one")).await.unwrap();
    link.data(stream, 4).await;
    link.push(Abort { stream, code: Code::Cancelled, offset: 0, text: "seen enough".into() }).await;
    let error = sender.ended().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Aborted, Some(Code::Cancelled)));
}
