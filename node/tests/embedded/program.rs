//! Programs that speak frames to a node by hand: over a link inside the node's own program, or over its socket.

use std::{collections::VecDeque, fs::Permissions, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use bytes::{Bytes, BytesMut};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    task::LocalSet,
};
use trunkline_certs::{Authority, Identity, NodeRequest};
use trunkline_node::{
    config::{IdentityConfig, LocalConfig, NodeConfig},
    embedded::{EmbeddedNode, LocalLink, start},
};
use trunkline_proto::{
    code::Code,
    frame::{DATA_BYTES_MAX, DataHeader, Decoder, Frame},
    id::{Incarnation, JobId, Weight},
    message::{Abort, Accept, Bind, Credit, Incoming, LinkHello, Open},
    version::Offer,
};

/// Nothing here takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How far a consumer lets its producer be ahead.
const WINDOW_BYTES: u64 = 300_000;

/// Runs a test on a thread like that of an embedded node.
pub(crate) fn on_a_thread<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { tokio::time::timeout(PATIENCE, test).await.expect("it ends in time") })
}

/// The files of a cluster of two nodes, in a folder of mode 0700.
pub(crate) struct Cluster {
    folder: TempDir,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        let authority = Authority::create(&"c1".parse().unwrap()).unwrap();
        for node in ["node-a", "node-b"] {
            std::fs::create_dir(folder.path().join(node)).unwrap();
            let files = authority.issue_node(&NodeRequest::new(node.parse().unwrap())).unwrap();
            files.write_to(&folder.path().join(node)).unwrap();
        }
        Self { folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration of a node: a free port on loopback, no socket.
    pub(crate) fn config(&self, node: &str) -> NodeConfig {
        let file = |name| self.folder.path().join(node).join(name);
        let identity =
            IdentityConfig { certificate: file("node.pem"), key: file("node.key"), trust: file("trust.pem") };
        NodeConfig::new("127.0.0.1:0".parse().unwrap(), identity)
    }

    /// The same with a local socket.
    pub(crate) fn config_with_socket(&self, node: &str) -> NodeConfig {
        let socket = self.folder.path().join("local.sock");
        let mut config = self.config(node);
        config.local = Some(LocalConfig { socket, users: Vec::new(), groups: Vec::new() });
        config
    }
}

/// Starts a node with the identity that its configuration names.
pub(crate) fn started(config: NodeConfig) -> EmbeddedNode {
    let files = &config.identity;
    let identity = Identity::load(&files.certificate, &files.key, &files.trust).unwrap();
    start(config, identity).unwrap()
}

/// A program at one end of a link.
pub(crate) trait Program {
    /// Sends a frame.
    async fn say(&mut self, frame: impl Into<Frame>);
    /// Waits for the next one.
    async fn hears(&mut self) -> Frame;
}

/// The program that the node is embedded in.
pub(crate) struct Own {
    pub(crate) link: LocalLink,
    frames: VecDeque<Frame>,
}

impl Own {
    pub(crate) fn of(node: &EmbeddedNode) -> Self {
        Self { link: node.attach("a-test/1").unwrap(), frames: VecDeque::new() }
    }
}

impl Program for Own {
    async fn say(&mut self, frame: impl Into<Frame>) {
        self.link.handle(frame.into()).unwrap();
    }

    async fn hears(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return frame;
            }
            if !self.link.next(&mut self.frames) {
                self.link.changed().await;
            }
        }
    }
}

/// Another process, which attaches by the node's socket.
pub(crate) struct Other {
    socket: UnixStream,
    decoder: Decoder,
}

impl Other {
    pub(crate) async fn at(config: &NodeConfig) -> Self {
        let socket = UnixStream::connect(&config.local.as_ref().unwrap().socket).await.unwrap();
        let mut other = Self { socket, decoder: Decoder::default() };
        let software = "another/1".to_owned();
        other
            .say(LinkHello {
                offer: Offer::ours(),
                software,
                cluster: String::new(),
                node: None,
                pid: 1,
                patience_ms: 0,
            })
            .await;
        assert!(matches!(other.hears().await, Frame::LinkHello(_)));
        other
    }

    /// Waits until the node has closed the link.
    pub(crate) async fn is_closed(&mut self) {
        let read = self.socket.read_buf(self.decoder.buffer()).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}

impl Program for Other {
    async fn say(&mut self, frame: impl Into<Frame>) {
        let mut bytes = BytesMut::new();
        frame.into().encode(&mut bytes);
        self.socket.write_all(&bytes).await.unwrap();
    }

    async fn hears(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return frame;
            }
            assert_ne!(self.socket.read_buf(self.decoder.buffer()).await.unwrap(), 0, "the link has ended");
        }
    }
}

/// The opening of a stream to `reduce` on `node`.
pub(crate) fn open(stream: u64, node: &str) -> Open {
    Open {
        stream,
        job: JobId { name: "job".parse().unwrap(), run: "r1".parse().unwrap() },
        producer: "map".parse().unwrap(),
        producer_node: None,
        incarnation: Incarnation::from_bits(1),
        number: stream,
        consumer: "reduce".parse().unwrap(),
        node: node.parse().unwrap(),
        epoch: 0,
        weight: Weight::MIN,
    }
}

/// Binds `reduce`.
pub(crate) async fn bind(program: &mut impl Program) {
    let Open { job, consumer, incarnation, .. } = open(2, "node-a");
    program.say(Bind { bind: 1, job, consumer, incarnation, resumes_only: false, awaited_nodes: Vec::new() }).await;
    assert!(matches!(program.hears().await, Frame::Bound(_)));
}

/// Takes the next stream that is offered. Its id, and who sends it from where.
pub(crate) async fn accept(program: &mut impl Program) -> (u64, Open) {
    let frame = program.hears().await;
    let Frame::Incoming(Incoming { open, .. }) = frame else { panic!("{frame:?}") };
    let incarnation = Incarnation::from_bits(2);
    program.say(Accept { stream: open.stream, incarnation, limit: WINDOW_BYTES }).await;
    (open.stream, open)
}

/// Opens a stream to `reduce` on `node` and sends `payload`, as far as it may at each moment, until the consumer has it all.
pub(crate) async fn produce(program: &mut impl Program, stream: u64, node: &str, payload: &Bytes) {
    program.say(open(stream, node)).await;
    let mut sent = 0;
    loop {
        let limit = match program.hears().await {
            Frame::Credit(Credit { finished: true, .. }) => return,
            Frame::Accept(Accept { limit, .. }) | Frame::Credit(Credit { limit, .. }) => limit,
            frame => panic!("{frame:?}"),
        };
        let allowed = usize::try_from(limit).unwrap().min(payload.len());
        while sent < allowed {
            let end = allowed.min(sent + DATA_BYTES_MAX);
            let header = DataHeader { stream, offset: sent as u64, epoch: 0, fin: end == payload.len() };
            program.say(Frame::Data(header, payload.slice(sent..end))).await;
            sent = end;
        }
    }
}

/// Takes the next stream that is offered, consumes it to its end, and returns its bytes.
pub(crate) async fn consume(program: &mut impl Program) -> Vec<u8> {
    let (stream, _) = accept(program).await;
    let mut bytes = Vec::new();
    loop {
        let frame = program.hears().await;
        let Frame::Data(header, payload) = frame else { panic!("{frame:?}") };
        assert_eq!((header.stream, header.offset), (stream, bytes.len() as u64));
        bytes.extend_from_slice(&payload);
        let received = bytes.len() as u64;
        let limit = received + WINDOW_BYTES;
        program.say(Credit { stream, epoch: 0, received, consumed: received, limit, finished: header.fin }).await;
        if header.fin {
            return bytes;
        }
    }
}

/// The next frame must be an ABORT of this code. Its text.
pub(crate) async fn aborted(program: &mut impl Program, expected: Code) -> String {
    let frame = program.hears().await;
    let Frame::Abort(Abort { code, text, .. }) = frame else { panic!("{frame:?}") };
    assert_eq!(code, expected, "{text}");
    text
}

/// Bytes in which each place differs from its neighbours, and one payload from another.
pub(crate) fn payload(length: usize, seed: u8) -> Bytes {
    let byte = |index: usize| (index.wrapping_mul(31) ^ (index >> 8)).to_le_bytes()[0].wrapping_add(seed);
    (0..length).map(byte).collect()
}
