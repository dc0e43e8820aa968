//! From the first handle to the last: closing, dropping, and the loss of the link.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    pin::pin,
    thread,
};

use bytes::BytesMut;
use trunkline::{Attachment, Bytes, Code, ErrorKind, Incarnation};
use trunkline_proto::{
    frame::{DataHeader, Decoder, Frame},
    message::{Accept, Bound, Want},
};

use crate::{
    fake_node::{attach, bind, credit, finished, framed, hello, incoming, job, open, poll_once},
    polling::block_on,
};

#[tokio::test]
async fn a_lost_link_ends_everything_with_what_is_known() {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    link.offer(bind, 1, "map").await;
    let mut receiver = consumer.accept().await.unwrap();
    link.push_data(1, 0, &framed(&[b"one", b"two"])).await;
    assert_eq!(receiver.recv().await.unwrap().unwrap(), "one");
    assert_eq!(receiver.recv().await.unwrap().unwrap(), "two");
    let (mut sender, stream) = open(&attachment, &mut link, 6).await;
    let (finishing, ended) = open(&attachment, &mut link, 6).await;
    sender.send(Bytes::from_static(b"hello")).await.unwrap();
    link.data(stream, 6).await;
    link.push(credit(stream, 6, 6)).await;
    let other = job(&attachment);
    let producer = other.producer("late").unwrap();

    let mut finishing = pin!(finishing.finish());
    let mut opening = pin!(producer.open("job/sink@node-b"));
    let mut binding = pin!(other.consumer("other").unwrap().bind());
    assert!(poll_once(finishing.as_mut()).is_none());
    assert!(poll_once(opening.as_mut()).is_none());
    assert!(poll_once(binding.as_mut()).is_none());
    let is_end =
        |frame: &Frame| matches!(frame, Frame::Data(header, _) if header.stream == ended && header.fin).then_some(());
    link.find(is_end).await;
    let mut lost = 0;
    let mut check = |error: trunkline::Error| {
        assert_eq!((error.kind(), error.code()), (ErrorKind::NodeLost, Some(Code::NodeLost)), "{error}");
        lost += 1;
        error
    };
    let mut accepting = pin!(consumer.accept());
    let mut receiving = pin!(receiver.recv());
    assert!(poll_once(accepting.as_mut()).is_none());
    assert!(poll_once(receiving.as_mut()).is_none());
    {
        let mut sending = pin!(sender.send(Bytes::from_static(b"blocked")));
        assert!(poll_once(sending.as_mut()).is_none());
        drop(link);
        assert_eq!(check(sending.await.unwrap_err()).offset(), Some(6));
    }
    assert_eq!(check(receiving.await.unwrap_err()).offset(), Some(8));
    let error = check(accepting.await.unwrap_err());
    assert!(error.to_string().contains("the link to node node-a at /"), "{error}");
    // Its end had been sent: whether it was consumed, nobody can say any more.
    assert_eq!(finishing.await.unwrap_err().code(), Some(Code::OutcomeUnknown));
    check(opening.await.unwrap_err());
    check(binding.await.unwrap_err());
    // And so does what is begun later.
    check(producer.open("job/sink@node-b").await.unwrap_err());
    check(other.consumer("other").unwrap().bind().await.unwrap_err());
    check(attachment.close().await.unwrap_err());
    assert_eq!(lost, 8);
}

#[tokio::test]
async fn a_node_that_breaks_the_protocol_is_lost() {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    // Even ids are the process's.
    link.push(incoming(bind, 2, "map")).await;
    assert_eq!(consumer.accept().await.unwrap_err().kind(), ErrorKind::NodeLost);
}

#[tokio::test]
async fn closing_hands_over_the_last_credit_and_tells_the_unfinished() {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    link.offer(bind, 1, "done").await;
    link.offer(bind, 3, "unfinished").await;
    let mut done = consumer.accept().await.unwrap();
    let mut unfinished = consumer.accept().await.unwrap();
    let (mut sender, stream) = open(&attachment, &mut link, 0).await;
    link.push_data(1, 0, &finished(&[b"last"])).await;
    done.recv().await.unwrap();
    assert_eq!(done.recv().await.unwrap(), None);

    let told = async {
        let mut told = Vec::new();
        while let Some(frame) = link.next_or_end().await {
            match frame {
                Frame::Credit(credit) if credit.finished => told.push(format!("{} finished", credit.stream)),
                Frame::Abort(abort) => told.push(format!("{} {}", abort.stream, abort.code)),
                Frame::Unbind(_) => told.push("unbind".to_owned()),
                _ => {}
            }
        }
        told.sort();
        drop(link);
        told
    };
    let (closed, told) = tokio::join!(attachment.close(), told);
    closed.unwrap();
    assert_eq!(told, ["1 finished", &format!("{stream} producer_gone"), "3 consumer_gone", "unbind"]);
    let mut kinds = vec![unfinished.recv().await.unwrap_err().kind()];
    kinds.push(sender.send(Bytes::new()).await.unwrap_err().kind());
    kinds.push(consumer.accept().await.unwrap_err().kind());
    assert_eq!(kinds, [ErrorKind::Closed; 3]);
    assert_eq!(done.recv().await.unwrap(), None);
}

#[tokio::test]
async fn closing_waits_for_a_stream_that_is_finishing() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 1).await;
    sender.send(Bytes::from_static(b"hello")).await.unwrap();
    let mut finishing = pin!(sender.finish());
    assert!(poll_once(finishing.as_mut()).is_none());
    let told = async {
        link.data(stream, 1).await;
        link.push(credit(stream, 0, 100)).await;
        let mut bytes = 1;
        while let Some(frame) = link.next_or_end().await {
            if let Frame::Data(_, payload) = frame {
                bytes += payload.len();
            }
        }
        drop(link);
        bytes
    };
    let (closed, bytes) = tokio::join!(attachment.close(), told);
    closed.unwrap();
    assert_eq!(bytes, 6 + 16);
    // Everything was told, but not that it was consumed.
    assert_eq!(finishing.await.unwrap_err().code(), Some(Code::OutcomeUnknown));
}

#[tokio::test]
async fn dropping_the_last_handle_hands_over_the_last_credit() {
    let (attachment, mut link) = attach().await;
    let (mut consumer, bind) = bind(&attachment, &mut link).await;
    link.offer(bind, 1, "map").await;
    let mut receiver = consumer.accept().await.unwrap();
    link.push_data(1, 0, &finished(&[b"last"])).await;
    receiver.recv().await.unwrap();
    receiver.recv().await.unwrap();
    drop((attachment, consumer));
    drop(receiver);
    let last = |frame: &Frame| matches!(frame, Frame::Credit(credit) if credit.finished).then_some(());
    link.find(last).await;
    while link.next_or_end().await.is_some() {}
}

#[tokio::test]
async fn a_link_lives_as_long_as_anything_made_from_it() {
    let (attachment, mut link) = attach().await;
    let (mut sender, stream) = open(&attachment, &mut link, 100).await;
    drop(attachment);
    sender.send(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(link.data(stream, 6).await, framed(&[b"hello"]));
    drop(sender);
    assert!(matches!(link.next().await, Frame::Abort(_)));
    assert!(link.next_or_end().await.is_none());
}

/// The node's side of a link, without any runtime.
struct BlockingLink {
    socket: UnixStream,
    decoder: Decoder,
}

impl BlockingLink {
    fn push(&mut self, frame: impl Into<Frame>) {
        let mut bytes = BytesMut::new();
        frame.into().encode(&mut bytes);
        self.socket.write_all(&bytes).unwrap();
    }

    fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return frame;
            }
            let mut bytes = [0; 4096];
            let count = self.socket.read(&mut bytes).unwrap();
            assert!(count > 0, "the link goes on");
            self.decoder.buffer().extend_from_slice(&bytes[..count]);
        }
    }

    fn find<T>(&mut self, pick: impl Fn(&Frame) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(&self.next()) {
                return found;
            }
        }
    }
}

/// Connects with no runtime anywhere; `serve` is the node, on a thread of its own.
fn connected() -> (Attachment, BlockingLink) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let node = thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut link = BlockingLink { socket, decoder: Decoder::default() };
        assert!(matches!(link.next(), Frame::LinkHello(_)));
        link.push(hello());
        link
    });
    let attachment = block_on(Attachment::connect(&path)).unwrap();
    (attachment, node.join().unwrap())
}

#[test]
fn it_works_without_any_runtime() {
    let (attachment, mut link) = connected();
    let node = thread::spawn(move || {
        let bind = link.find(|frame| if let Frame::Bind(bind) = frame { Some(bind.bind) } else { None });
        link.push(Bound { bind });
        let stream = link.find(|frame| if let Frame::Open(open) = frame { Some(open.stream) } else { None });
        link.push(Accept { stream, incarnation: Incarnation::from_bits(1), limit: 100 });
        link.push(incoming(bind, 1, "map"));
        // What comes on the one goes out on the other, and its fate comes back.
        loop {
            match link.next() {
                Frame::Data(header, payload) => link.push(Frame::Data(DataHeader { stream: 1, ..header }, payload)),
                Frame::Credit(credit) => {
                    link.push(trunkline_proto::message::Credit { stream, ..credit });
                    if credit.finished {
                        return link;
                    }
                }
                _ => {}
            }
        }
    });
    block_on(async {
        let job = job(&attachment);
        let mut consumer = job.consumer("sink").unwrap().bind().await.unwrap();
        let mut sender = job.producer("map").unwrap().open(consumer.address()).await.unwrap();
        let mut receiver = consumer.accept().await.unwrap();
        sender.send(Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap(), "hello");
        let mut finishing = pin!(sender.finish());
        assert!(poll_once(finishing.as_mut()).is_none());
        assert_eq!(receiver.recv().await.unwrap(), None);
        finishing.await.unwrap();
    });
    drop(node.join().unwrap());
    let late = block_on(job(&attachment).consumer("late").unwrap().bind());
    assert_eq!(late.unwrap_err().kind(), ErrorKind::NodeLost);
    assert_eq!(block_on(attachment.close()).map_err(|error| error.kind()), Err(ErrorKind::NodeLost));
}

#[test]
fn an_application_that_blocks_its_executor_stalls_no_stream() {
    let (attachment, mut link) = connected();
    let mut consumer = {
        let mut binding = Box::pin(job(&attachment).consumer("sink").unwrap().bind());
        assert!(poll_once(binding.as_mut()).is_none());
        let bind = link.find(|frame| if let Frame::Bind(bind) = frame { Some(bind.bind) } else { None });
        link.push(Bound { bind });
        block_on(binding).unwrap()
    };
    // From here on this thread, the application's only one, plays the node: nobody polls anything.
    for stream in [1, 3] {
        link.push(incoming(1, stream, "map"));
        let limit = link.find(|frame| match frame {
            Frame::Accept(accept) if accept.stream == stream => Some(accept.limit),
            _ => None,
        });
        // What came is seen, and its sender, which asks for more, is given a turn.
        let message = vec![5; 500_000];
        let bytes = Bytes::from(framed(&[&message]));
        let header = DataHeader { stream, offset: 0, epoch: 0, fin: false };
        link.push(Frame::Data(header, bytes.slice(..usize::try_from(limit).unwrap())));
        link.push(Want { stream, epoch: 0, wanted: bytes.len() as u64 });
        let raised = |frame: &Frame| match frame {
            Frame::Credit(credit) if credit.stream == stream && credit.limit > limit => Some(credit.received),
            _ => None,
        };
        assert_eq!(link.find(raised), limit);
    }
    assert_eq!(block_on(consumer.accept()).unwrap().producer().name.as_str(), "map");
}
