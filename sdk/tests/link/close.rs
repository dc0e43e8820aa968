//! Closing a consumer or a gather: what is handed over first, and what was left.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use trunkline::{Attachment, Bytes, Code, ErrorKind, Expected, Sender};
use trunkline_proto::{
    frame::Frame,
    message::{Abort, Refused},
};

use crate::{
    fake_node::{Link, attach, bind, finished, framed, open, poll_once},
    gather::{bound, next},
};

/// Far more than a socket takes, in one message.
pub(crate) const CLOG_BYTES: usize = 4 << 20;
/// Enough credit for it.
pub(crate) const CLOG_CREDIT: u64 = 8 << 20;

/// What the node is told up to the end of the bind: `stream finished` or `stream code`.
pub(crate) async fn told_before_unbind(link: &mut Link) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        match link.next().await {
            Frame::Credit(credit) if credit.finished => told.push(format!("{} finished", credit.stream)),
            Frame::Abort(abort) => told.push(format!("{} {}", abort.stream, abort.code)),
            Frame::Unbind(_) => break,
            _ => {}
        }
    }
    told.sort();
    told
}

/// Sends more than the socket takes, on a stream with credit for it, while the node does not read: whatever is said later
/// waits behind it.
pub(crate) async fn clog(attachment: &Attachment, sender: &mut Sender) {
    let before = attachment.metrics().data_frames_sent;
    sender.send(Bytes::from(vec![0; CLOG_BYTES])).await.unwrap();
    // A socket takes 208 KiB as systems come, and a frame is 64 KiB.
    while attachment.metrics().data_frames_sent < before + 5 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn closing_a_consumer_hands_over_what_its_streams_had_to_say_and_tells_what_was_left() {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    for stream in [1, 3, 5, 7] {
        link.offer(bind, stream, "map").await;
    }
    link.push_data(1, 0, &finished(&[b"one"])).await;
    let mut done = consumer.accept().await.unwrap();
    let mut unfinished = consumer.accept().await.unwrap();
    done.recv().await.unwrap();
    assert_eq!(done.recv().await.unwrap(), None);
    let closed = consumer.close().await.unwrap();
    assert_eq!((closed.refused, closed.unfinished), (2, 1));
    assert_eq!(told_before_unbind(&mut link).await, ["1 finished", "5 consumer_closed", "7 consumer_closed"]);
    link.push_data(3, 0, &framed(&[b"goes on"])).await;
    assert_eq!(unfinished.recv().await.unwrap().unwrap(), "goes on");
}

#[tokio::test]
async fn an_abort_behind_the_end_mark_leaves_no_word_unsaid() {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    link.offer(bind, 1, "map").await;
    let mut receiver = consumer.accept().await.unwrap();
    let (mut clogging, _) = open(&attachment, &mut link, CLOG_CREDIT).await;
    link.push_data(1, 0, &finished(&[b"one"])).await;
    link.push(Abort { stream: 1, code: Code::Draining, offset: 0, text: String::new() }).await;
    link.offer(bind, 3, "map").await;
    let cut = consumer.accept().await.unwrap();
    receiver.recv().await.unwrap();
    assert_eq!(receiver.recv().await.unwrap(), None);
    cut.cancel("enough");
    link.find(|frame| matches!(frame, Frame::Abort(_)).then_some(())).await;
    // All words are written now. What follows does not fit.
    clog(&attachment, &mut clogging).await;
    let error = consumer.close().await.unwrap_err();
    assert_eq!(error.to_string(), "consumer job/sink@node-a: within 5s the node did not take the end of the bind");
}

#[tokio::test]
async fn what_does_not_fit_into_the_socket_in_time_is_named() {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    link.offer(bind, 1, "map").await;
    let mut receiver = consumer.accept().await.unwrap();
    let (mut clogging, _) = open(&attachment, &mut link, CLOG_CREDIT).await;
    clog(&attachment, &mut clogging).await;
    link.push_data(1, 0, &finished(&[b"one"])).await;
    receiver.recv().await.unwrap();
    assert_eq!(receiver.recv().await.unwrap(), None);
    let error = consumer.close().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Timeout, Some(Code::OutcomeUnknown)));
    assert_eq!(
        error.to_string(),
        "consumer job/sink@node-a: within 5s the node did not take the end of the bind and the last words of its \
         streams, 1 in number"
    );
    // The node that reads on is told all the same.
    assert_eq!(told_before_unbind(&mut link).await, ["1 finished"]);
}

#[tokio::test]
async fn a_node_that_is_gone_cannot_be_told() {
    let (attachment, mut link) = attach().await;
    let (consumer, bind_1) = bind(&attachment, &mut link).await;
    let (mut refused, bind_2) = bind(&attachment, &mut link).await;
    link.push(Refused { bind: bind_2, code: Code::Draining, text: "the node is shutting down".into() }).await;
    refused.accept().await.unwrap_err();
    assert_ne!(bind_1, bind_2);
    drop(link);
    let mut closing = pin!(consumer.close());
    let error = match poll_once(closing.as_mut()) {
        Some(closed) => closed.unwrap_err(),
        None => closing.await.unwrap_err(),
    };
    assert_eq!(error.kind(), ErrorKind::NodeLost);
    assert_eq!(refused.close().await.unwrap_err().kind(), ErrorKind::NodeLost);
}

#[tokio::test]
async fn a_bind_that_the_node_ended_is_closed_once_its_streams_have_said_everything() {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    link.offer(bind, 1, "map").await;
    link.push_data(1, 0, &finished(&[])).await;
    link.push(Refused { bind, code: Code::Draining, text: "the node is shutting down".into() }).await;
    assert_eq!(consumer.accept().await.unwrap().recv().await.unwrap(), None);
    assert_eq!(consumer.accept().await.unwrap_err().kind(), ErrorKind::Draining);
    let closed = consumer.close().await.unwrap();
    assert_eq!((closed.refused, closed.unfinished), (0, 0));
    link.find(|frame| matches!(frame, Frame::Credit(credit) if credit.finished).then_some(())).await;
}

#[tokio::test]
async fn closing_a_gather_cancels_the_unfinished_and_accounts_for_all_that_were_expected() {
    let (_attachment, mut link, consumer, bind) = bound().await;
    let names = ["finished", "lost", "cancelled", "unread", "unfinished", "late"];
    let mut gather = consumer.gather(Expected::names(names).unwrap());
    for (at, name) in names[..5].iter().enumerate() {
        link.offer(bind, 2 * at as u64 + 1, name).await;
    }
    link.push_data(1, 0, &finished(&[b"1"])).await;
    link.push_data(5, 0, &framed(&[b"3"])).await;
    link.push(Abort { stream: 3, code: Code::ProducerGone, offset: 0, text: String::new() }).await;
    link.push_data(7, 0, &finished(&[b"4"])).await;
    assert_eq!(next(&mut gather).await.unwrap(), "finished: 1");
    let Some(Ok(trunkline::Gathered::Message { producer, .. })) = gather.next().await else { panic!("a message") };
    assert!(gather.cancel(&producer, "seen enough"));
    assert_eq!(next(&mut gather).await.unwrap(), "lost lost: producer_gone at 0");
    let closed = gather.close().await.unwrap();
    assert_eq!((closed.finished, closed.lost, closed.cancelled), (1, 1, 1));
    assert_eq!((closed.unfinished, closed.missing), (2, 1));
    assert_eq!(told_before_unbind(&mut link).await, ["1 finished", "5 cancelled", "7 cancelled", "9 cancelled"]);
}

#[tokio::test]
async fn an_attachment_whose_node_reads_nothing_is_closed_in_time_and_says_so() {
    let (attachment, mut link) = attach().await;
    let (mut sender, _) = open(&attachment, &mut link, CLOG_CREDIT).await;
    clog(&attachment, &mut sender).await;
    let error = attachment.close().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(sender.send(Bytes::new()).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn dropping_the_last_handle_does_not_wait_for_long_for_a_node_that_reads_nothing() {
    let (attachment, mut link) = attach().await;
    let (mut sender, _) = open(&attachment, &mut link, CLOG_CREDIT).await;
    clog(&attachment, &mut sender).await;
    drop(attachment);
    let begun = Instant::now();
    drop(sender);
    // One second is what is documented; `close` would take five.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
