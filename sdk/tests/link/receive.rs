//! Streams that arrive: reassembly, credit, ends.

use std::pin::pin;

use trunkline::{Attachment, Bytes, Code, Consumer, ErrorKind, Receiver};
use trunkline_proto::{
    frame::{DataHeader, Frame},
    message::{Abort, Refused, Want},
};

use crate::fake_node::{FakeNode, Link, attach, bind, finished, framed, incoming, job, poll_once};

/// A bound consumer's first stream, number 1.
pub(crate) async fn accepted() -> (Attachment, Link, Consumer, Receiver) {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    link.offer(bind, 1, "map-1").await;
    let receiver = consumer.accept().await.unwrap();
    (attachment, link, consumer, receiver)
}

pub(crate) async fn aborted(link: &mut Link, stream: u64) -> Abort {
    let found = |frame: &Frame| match frame {
        Frame::Abort(abort) if abort.stream == stream => Some(abort.clone()),
        _ => None,
    };
    link.find(found).await
}

#[tokio::test]
async fn a_bind_that_is_refused_says_why() {
    let (attachment, mut link) = attach().await;
    let answer = async {
        let Frame::Bind(bind) = link.next().await else { panic!("a BIND is expected") };
        let text = "process 7 holds it".to_owned();
        link.push(Refused { bind: bind.bind, code: Code::AlreadyBound, text }).await;
    };
    let (bound, ()) = tokio::join!(job(&attachment).consumer("sink").unwrap().bind(), answer);
    let error = bound.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, Some(Code::AlreadyBound)));
    assert_eq!(error.to_string(), "consumer job/sink@node-a: already_bound: process 7 holds it");
}

#[tokio::test]
async fn a_bind_that_is_dropped_is_withdrawn() {
    let (attachment, mut link) = attach().await;
    let bind = {
        let mut binding = Box::pin(job(&attachment).consumer("sink").unwrap().bind());
        assert!(poll_once(binding.as_mut()).is_none());
        let Frame::Bind(bind) = link.next().await else { panic!("a BIND is expected") };
        bind.bind
    };
    let Frame::Unbind(unbind) = link.next().await else { panic!("an UNBIND is expected") };
    assert_eq!(unbind.bind, bind);
}

#[tokio::test]
async fn a_bind_that_the_node_ends_ends_accept_after_what_came() {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    link.offer(bind, 1, "map-1").await;
    link.push(Refused { bind, code: Code::Draining, text: "the node is shutting down".into() }).await;
    assert_eq!(consumer.accept().await.unwrap().producer().to_string(), "map-1@node-b");
    assert_eq!(consumer.accept().await.unwrap_err().kind(), ErrorKind::Draining);
}

#[tokio::test]
async fn a_consumer_is_a_stream_of_streams_that_ends_after_its_error() {
    use futures_util::StreamExt as _;

    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    link.offer(bind, 1, "map-1").await;
    link.push(Refused { bind, code: Code::Draining, text: "the node is shutting down".into() }).await;
    assert_eq!(consumer.next().await.unwrap().unwrap().producer().to_string(), "map-1@node-b");
    assert_eq!(consumer.next().await.unwrap().unwrap_err().kind(), ErrorKind::Draining);
    assert!(consumer.next().await.is_none());
}

#[tokio::test]
async fn messages_are_whole_wherever_the_frames_were_cut() {
    let (_attachment, mut link, _consumer, mut receiver) = accepted().await;
    let long = vec![7; 300];
    let messages: [&[u8]; 4] = [b"one", b"", &long, b"four"];
    for (offset, byte) in finished(&messages).iter().enumerate() {
        link.push_data(1, offset, &[*byte]).await;
    }
    for message in messages {
        assert_eq!(receiver.recv().await.unwrap().unwrap(), message);
    }
    assert_eq!(receiver.recv().await.unwrap(), None);
    let last = |frame: &Frame| match frame {
        Frame::Credit(credit) if credit.finished => Some((credit.consumed, credit.received)),
        _ => None,
    };
    assert_eq!(link.find(last).await, (framed(&messages).len() as u64, finished(&messages).len() as u64));
    assert_eq!(receiver.recv().await.unwrap(), None);
}

#[tokio::test]
async fn a_recv_dropped_while_it_waits_loses_nothing() {
    let (_attachment, mut link, _consumer, mut receiver) = accepted().await;
    assert!(poll_once(pin!(receiver.recv())).is_none());
    link.push_data(1, 0, &framed(&[b"hello"])).await;
    assert_eq!(receiver.recv().await.unwrap().unwrap(), "hello");
}

#[tokio::test]
async fn credit_follows_what_the_application_consumes() {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    let first = link.offer(bind, 1, "map-1").await;
    let mut receiver = consumer.accept().await.unwrap();
    link.push_data(1, 0, &framed(&[&vec![3; 3_000]])).await;
    assert_eq!(receiver.recv().await.unwrap().unwrap().len(), 3_000);
    let raised = |frame: &Frame| match frame {
        Frame::Credit(credit) if credit.stream == 1 => Some((credit.consumed, credit.limit)),
        _ => None,
    };
    let (consumed, limit) = link.find(raised).await;
    assert_eq!(consumed, 3_002);
    assert!(limit > first, "{limit} after {first}");
}

#[tokio::test]
async fn a_message_longer_than_any_window_is_let_in_whole() {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    let mut limit = usize::try_from(link.offer(bind, 1, "map-1").await).unwrap();
    let mut receiver = consumer.accept().await.unwrap();
    let message: Vec<u8> = (0..5_000_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let stream = framed(&[&message]);
    // It is let in for one who waits for it.
    let mut receiving = pin!(receiver.recv());
    assert!(poll_once(receiving.as_mut()).is_none());
    let mut sent = 0;
    while sent < stream.len() {
        let until = limit.min(stream.len());
        link.push_data(1, sent, &stream[sent..until]).await;
        sent = until;
        if sent < stream.len() {
            let raised = |frame: &Frame| match frame {
                Frame::Credit(credit) if credit.limit > limit as u64 => usize::try_from(credit.limit).ok(),
                _ => None,
            };
            limit = link.find(raised).await;
        }
    }
    assert_eq!(receiving.await.unwrap().unwrap(), message);
}

#[tokio::test]
async fn what_a_stream_gives_back_goes_to_one_that_has_nothing() {
    let node = FakeNode::listen();
    let builder = Attachment::builder().receive_budget_bytes(64 << 10);
    let (attachment, mut link) = tokio::join!(builder.connect(&node.path), node.greet());
    let attachment = attachment.unwrap();
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    let mut receivers = Vec::new();
    for stream in [1, 3, 5, 7, 9] {
        assert_eq!(link.offer(bind, stream, "map").await, 4100);
        receivers.push((stream, consumer.accept().await.unwrap()));
    }
    // The demand of a stranger changes nothing. All five want more than there is for streams that nobody has begun to read:
    // each has its turn from what the one before it gives back.
    link.push(Want { stream: 99, epoch: 0, wanted: 1 }).await;
    for stream in [1, 3, 5, 7, 9] {
        link.push(Want { stream, epoch: 0, wanted: 20_000 }).await;
    }
    for (stream, receiver) in receivers {
        let has_turn = |frame: &Frame| match frame {
            Frame::Credit(credit) => (credit.stream == stream && credit.limit >= 16384).then_some(()),
            _ => None,
        };
        link.find(has_turn).await;
        drop(receiver);
    }
}

#[tokio::test]
async fn who_asks_is_told_what_it_need_not_keep() {
    let (_attachment, mut link, _consumer, mut receiver) = accepted().await;
    link.push_data(1, 0, &framed(&[b"one", b"two"])[..6]).await;
    receiver.recv().await.unwrap();
    link.push(Want { stream: 1, epoch: 0, wanted: 6 }).await;
    let told = |frame: &Frame| match frame {
        Frame::Credit(credit) => Some((credit.received, credit.consumed, credit.limit)),
        _ => None,
    };
    assert_eq!(link.find(told).await, (6, 4, 4100));
}

#[tokio::test]
async fn a_receiver_dropped_early_tells_its_producer() {
    let (_attachment, mut link, _consumer, receiver) = accepted().await;
    drop(receiver);
    let abort = aborted(&mut link, 1).await;
    assert_eq!((abort.code, abort.offset), (Code::Cancelled, 0));
    // What was in flight is ignored.
    link.push_data(1, 0, &framed(&[b"late"])).await;
    link.push(Abort { stream: 1, code: Code::Cancelled, offset: 0, text: String::new() }).await;
}

#[tokio::test]
async fn a_cancel_tells_its_reason_and_how_far_it_came() {
    let (_attachment, mut link, _consumer, mut receiver) = accepted().await;
    link.push_data(1, 0, &framed(&[b"one", b"two"])).await;
    receiver.recv().await.unwrap();
    receiver.cancel("seen enough");
    let abort = aborted(&mut link, 1).await;
    assert_eq!((abort.code, abort.offset, abort.text.as_str()), (Code::Cancelled, 4, "seen enough"));
}

#[tokio::test]
async fn a_producer_that_is_gone_is_an_error_after_its_whole_messages() {
    let (_attachment, mut link, _consumer, mut receiver) = accepted().await;
    let stream = framed(&[b"one", b"two"]);
    link.push_data(1, 0, &stream[..6]).await;
    link.push(Abort { stream: 1, code: Code::ProducerGone, offset: 6, text: "its process ended".into() }).await;
    assert_eq!(receiver.recv().await.unwrap().unwrap(), "one");
    let error = receiver.recv().await.unwrap_err();
    assert_eq!((error.kind(), error.code(), error.offset()), (ErrorKind::Aborted, Some(Code::ProducerGone), Some(4)));
    assert_eq!(error.to_string(), "producer map-1@node-b: producer_gone at offset 4: its process ended");
}

#[tokio::test]
async fn a_stream_of_messages_ends_after_its_end() {
    use futures_util::StreamExt as _;
    let (_attachment, mut link, _consumer, receiver) = accepted().await;
    link.push_data(1, 0, &finished(&[b"one", b"two"])).await;
    let all: Vec<Bytes> = receiver.map(Result::unwrap).collect().await;
    assert_eq!(all, ["one", "two"]);
}

#[tokio::test]
async fn an_end_without_its_mark_is_no_clean_end() {
    let (_attachment, mut link, _consumer, mut receiver) = accepted().await;
    let header = DataHeader { stream: 1, offset: 0, epoch: 0, fin: true };
    link.push(Frame::Data(header, framed(&[b"one"]).into())).await;
    assert_eq!(receiver.recv().await.unwrap().unwrap(), "one");
    assert_eq!(receiver.recv().await.unwrap_err().code(), Some(Code::Protocol));
    assert_eq!(aborted(&mut link, 1).await.code, Code::Protocol);
}

#[tokio::test]
async fn a_full_backlog_refuses_one_more_and_names_itself() {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    for stream in 0..1024 {
        link.offer(bind, 2 * stream + 1, "map").await;
    }
    link.push(incoming(bind, 5001, "one-more")).await;
    let abort = aborted(&mut link, 5001).await;
    assert_eq!(abort.code, Code::Busy);
    assert!(abort.text.contains("backlog") && abort.text.contains("1024"), "{}", abort.text);
    consumer.accept().await.unwrap();
    link.offer(bind, 5003, "one-more").await;
}

#[tokio::test]
async fn a_closed_consumer_refuses_what_it_did_not_take_and_keeps_what_it_took() {
    let (_attachment, mut link, consumer, mut receiver) = accepted().await;
    link.offer(1, 3, "map-2").await;
    consumer.close().await.unwrap();
    let (mut unbound, mut refused) = (false, None);
    while !unbound || refused.is_none() {
        match link.next().await {
            Frame::Unbind(_) => unbound = true,
            Frame::Abort(abort) => refused = Some(abort),
            _ => {}
        }
    }
    let refused = refused.unwrap();
    assert_eq!((refused.stream, refused.code), (3, Code::ConsumerClosed));
    // One more was on its way.
    link.push(incoming(1, 5, "map-3")).await;
    assert_eq!(aborted(&mut link, 5).await.code, Code::ConsumerClosed);
    link.push_data(1, 0, &framed(&[b"goes on"])).await;
    assert_eq!(receiver.recv().await.unwrap().unwrap(), "goes on");
}
