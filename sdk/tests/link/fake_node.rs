//! The other side of the link: raw frames, in the test's hands.

use std::{path::PathBuf, time::Duration};

use bytes::{BufMut as _, BytesMut};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use trunkline::{Attachment, Bytes, Consumer, Incarnation, Job, Sender};
use trunkline_proto::{
    frame::{DATA_BYTES_MAX, DataHeader, Decoder, Frame},
    framing,
    id::{JobId, NodeId, Weight},
    message::{Accept, Bound, Credit, Incoming, LinkHello, Open},
    version::Offer,
};

pub(crate) use crate::polling::poll_once;

/// Longer than anything here takes; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct FakeNode {
    listener: UnixListener,
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

impl FakeNode {
    pub(crate) fn listen() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.sock");
        Self { listener: UnixListener::bind(&path).unwrap(), path, _folder: folder }
    }

    /// The next connection, before a word was said.
    pub(crate) async fn accept(&self) -> Link {
        let (socket, _) = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        Link { socket, decoder: Decoder::default() }
    }

    /// The next connection, greeted.
    pub(crate) async fn greet(&self) -> Link {
        let mut link = self.accept().await;
        assert!(matches!(link.next().await, Frame::LinkHello(_)));
        link.push(hello()).await;
        link
    }
}

pub(crate) fn hello() -> LinkHello {
    LinkHello {
        offer: Offer::ours(),
        software: "fake".into(),
        cluster: "test".into(),
        node: Some(NodeId::new("node-a").unwrap()),
        pid: 0,
        patience_ms: 0,
    }
}

/// One process's link.
pub(crate) struct Link {
    pub(crate) socket: UnixStream,
    decoder: Decoder,
}

impl Link {
    pub(crate) async fn push(&mut self, frame: impl Into<Frame>) {
        let mut bytes = BytesMut::new();
        frame.into().encode(&mut bytes);
        self.socket.write_all(&bytes).await.unwrap();
    }

    /// The next frame, or `None` at the end of the link.
    pub(crate) async fn next_or_end(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(frame);
            }
            let read = timeout(PATIENCE, self.socket.read_buf(self.decoder.buffer())).await;
            if read.expect("the process says something").unwrap() == 0 {
                assert!(self.decoder.buffer().is_empty(), "the link ends within a frame");
                return None;
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Frame {
        self.next_or_end().await.expect("the link goes on")
    }

    /// The next frame that `pick` wants; others are skipped.
    pub(crate) async fn find<T>(&mut self, mut pick: impl FnMut(&Frame) -> Option<T>) -> T {
        loop {
            let frame = self.next().await;
            if let Some(found) = pick(&frame) {
                return found;
            }
        }
    }

    /// All data of a stream until `bytes` of it came.
    pub(crate) async fn data(&mut self, stream: u64, bytes: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < bytes {
            let Frame::Data(header, payload) = self.next().await else { continue };
            if header.stream == stream {
                assert_eq!(header.offset, all.len() as u64);
                all.extend_from_slice(&payload);
            }
        }
        all
    }

    pub(crate) async fn push_data(&mut self, stream: u64, offset: usize, payload: &[u8]) {
        let mut offset = offset as u64;
        for part in payload.chunks(DATA_BYTES_MAX) {
            let header = DataHeader { stream, offset, epoch: 0, fin: false };
            self.push(Frame::Data(header, Bytes::copy_from_slice(part))).await;
            offset += part.len() as u64;
        }
    }

    /// Offers a stream of producer `name` and returns the first limit.
    pub(crate) async fn offer(&mut self, bind: u64, stream: u64, name: &str) -> u64 {
        self.push(incoming(bind, stream, name)).await;
        let accepted = |frame: &Frame| match frame {
            Frame::Accept(accept) if accept.stream == stream => Some(accept.limit),
            _ => None,
        };
        self.find(accepted).await
    }
}

pub(crate) fn incoming(bind: u64, stream: u64, name: &str) -> Incoming {
    Incoming {
        bind,
        open: Open {
            stream,
            job: JobId { name: "job".try_into().unwrap(), run: "1".try_into().unwrap() },
            producer: name.try_into().unwrap(),
            producer_node: Some("node-b".try_into().unwrap()),
            // Each stream is of a producer of its own.
            incarnation: Incarnation::from_bits(4 + u128::from(stream)),
            number: 1,
            consumer: "sink".try_into().unwrap(),
            node: "node-a".try_into().unwrap(),
            epoch: 0,
            weight: Weight::MIN,
        },
        consumer_incarnation: None,
    }
}

/// An attachment, and the node's side of its link.
pub(crate) async fn attach() -> (Attachment, Link) {
    let node = FakeNode::listen();
    let (attachment, link) = tokio::join!(Attachment::connect(&node.path), node.greet());
    (attachment.unwrap(), link)
}

pub(crate) fn job(attachment: &Attachment) -> Job {
    attachment.job("job", "1").unwrap()
}

/// A stream that was opened with this much credit, and its id.
pub(crate) async fn open(attachment: &Attachment, link: &mut Link, limit: u64) -> (Sender, u64) {
    open_from(attachment, link, "map", limit).await
}

/// The same, of this producer.
pub(crate) async fn open_from(attachment: &Attachment, link: &mut Link, name: &str, limit: u64) -> (Sender, u64) {
    let producer = job(attachment).producer(name).unwrap();
    let answer = async {
        let opened = |frame: &Frame| match frame {
            Frame::Open(open) => Some(open.stream),
            _ => None,
        };
        let stream = link.find(opened).await;
        link.push(Accept { stream, incarnation: Incarnation::from_bits(9), limit }).await;
        stream
    };
    let (sender, stream) = tokio::join!(producer.open("job/sink@node-b"), answer);
    (sender.unwrap(), stream)
}

/// A consumer that was bound, and its bind.
pub(crate) async fn bind(attachment: &Attachment, link: &mut Link) -> (Consumer, u64) {
    let answer = async {
        let Frame::Bind(bind) = link.next().await else { panic!("a BIND is expected") };
        link.push(Bound { bind: bind.bind }).await;
        bind.bind
    };
    let (consumer, bind) = tokio::join!(job(attachment).consumer("sink").unwrap().bind(), answer);
    (consumer.unwrap(), bind)
}

/// Messages as they lie in a stream.
pub(crate) fn framed(messages: &[&[u8]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for message in messages {
        framing::put_length(message.len(), &mut out);
        out.put_slice(message);
    }
    out.to_vec()
}

/// Messages and the end mark.
pub(crate) fn finished(messages: &[&[u8]]) -> Vec<u8> {
    let mut out = BytesMut::from(framed(messages).as_slice());
    framing::put_end_mark(out.len() as u64, &mut out);
    out.to_vec()
}

pub(crate) fn credit(stream: u64, consumed: u64, limit: u64) -> Credit {
    Credit { stream, epoch: 0, received: consumed, consumed, limit, finished: false }
}
