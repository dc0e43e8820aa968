//! A stream read as bytes.

use std::{io, pin::pin};

use tokio::io::{AsyncReadExt as _, BufReader};
use trunkline::{Attachment, Code, Error, ErrorKind};
use trunkline_proto::{frame::Frame, message::Abort};

use crate::{
    fake_node::{FakeNode, bind, finished, framed, poll_once},
    receive::{aborted, accepted},
};

#[tokio::test]
async fn messages_are_their_bytes_one_after_another_up_to_the_clean_end() {
    let (_attachment, mut link, _consumer, mut receiver) = accepted().await;
    let stream = finished(&[b"one", b"", b"two", &[7; 300]]);
    for (offset, byte) in stream.iter().enumerate() {
        link.push_data(1, offset, &[*byte]).await;
    }
    let mut all = Vec::new();
    receiver.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [b"onetwo".as_slice(), &[7; 300]].concat());
    let last = |frame: &Frame| match frame {
        Frame::Credit(credit) if credit.finished => Some(credit.consumed),
        _ => None,
    };
    assert_eq!(link.find(last).await, stream.len() as u64 - 16);
    // The end stays the end, in each way of reading.
    assert_eq!(receiver.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(receiver.recv().await.unwrap(), None);
}

#[tokio::test]
async fn a_read_waits_for_bytes_and_not_for_whole_messages() {
    let (_attachment, mut link, _consumer, mut receiver) = accepted().await;
    let stream = framed(&[b"hello, world"]);
    let mut part = [0; 100];
    {
        let mut reading = pin!(receiver.read(&mut part));
        assert!(poll_once(reading.as_mut()).is_none());
        link.push_data(1, 0, &stream[..6]).await;
        assert_eq!(reading.await.unwrap(), 5);
    }
    assert_eq!(&part[..5], b"hello");
    assert_eq!(receiver.read(&mut []).await.unwrap(), 0, "no room is no end");
    link.push_data(1, 6, &stream[6..]).await;
    assert_eq!(receiver.recv().await.unwrap().unwrap(), ", world", "the rest of the message");
}

#[tokio::test]
async fn only_a_clean_end_is_an_end() {
    let (_attachment, mut link, _consumer, mut receiver) = accepted().await;
    link.push_data(1, 0, &framed(&[b"one"])).await;
    link.push(Abort { stream: 1, code: Code::ProducerGone, offset: 4, text: "its process ended".into() }).await;
    let mut all = Vec::new();
    let error = receiver.read_to_end(&mut all).await.unwrap_err();
    assert_eq!((all.as_slice(), error.kind()), (b"one".as_slice(), io::ErrorKind::ConnectionReset));
    let inner = error.into_inner().unwrap().downcast::<Error>().unwrap();
    assert_eq!((inner.kind(), inner.code(), inner.offset()), (ErrorKind::Aborted, Some(Code::ProducerGone), Some(4)));
}

#[tokio::test]
async fn a_reader_that_is_dropped_amid_a_message_cancels_with_the_offset_it_read_to() {
    let (_attachment, mut link, _consumer, mut receiver) = accepted().await;
    link.push_data(1, 0, &framed(&[b"hello, world"])).await;
    receiver.read_exact(&mut [0; 7]).await.unwrap();
    drop(receiver);
    let abort = aborted(&mut link, 1).await;
    assert_eq!((abort.code, abort.offset), (Code::Cancelled, 8));
}

#[tokio::test]
async fn a_message_longer_than_any_window_needs_no_room_for_large_ones() {
    let node = FakeNode::listen();
    let builder = Attachment::builder().receive_budget_bytes(64 << 10);
    let (attachment, mut link) = tokio::join!(builder.connect(&node.path), node.greet());
    let attachment = attachment.unwrap();
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    let mut limit = link.offer(bind, 1, "map").await;
    let receiver = consumer.accept().await.unwrap();
    let mut reader = BufReader::new(receiver);
    // It is known to be read as bytes before anything comes.
    assert!(poll_once(pin!(reader.read_u8())).is_none());
    let content: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
    let stream = finished(&[&content]);
    let end = stream.len() as u64 - 16;
    let feeding = async {
        let mut sent = 0;
        while sent < end {
            let until = limit.min(end);
            let bytes = &stream[usize::try_from(sent).unwrap()..usize::try_from(until).unwrap()];
            link.push_data(1, usize::try_from(sent).unwrap(), bytes).await;
            sent = until;
            while sent < end && limit <= sent {
                let raised = |frame: &Frame| match frame {
                    Frame::Credit(credit) if credit.stream == 1 => Some((credit.consumed, credit.limit)),
                    _ => None,
                };
                let (consumed, granted) = link.find(raised).await;
                assert!(granted - consumed <= 64 << 10, "{granted} granted when {consumed} were consumed");
                limit = granted;
            }
        }
        link.push_data(1, usize::try_from(end).unwrap(), &stream[usize::try_from(end).unwrap()..]).await;
        link
    };
    let mut all = Vec::new();
    let (read, _link) = tokio::join!(reader.read_to_end(&mut all), feeding);
    assert_eq!(read.unwrap(), content.len());
    assert_eq!(all, content);
}
