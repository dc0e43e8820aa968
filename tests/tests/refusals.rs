//! Whoever does not belong, or does not keep to the rules, is refused with the documented code and logged once in plain
//! words; everybody else is served on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, UdpSocket},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use bytes::BytesMut;
use quinn::ConnectionError;
use rcgen::ExtendedKeyUsagePurpose as Usage;
use trunkline::{Attachment, Bytes, Code, Consumer, ErrorKind};
use trunkline_certs::{ALPN, Authority, NodeFiles, NodeRequest};
use trunkline_proto::{
    frame::{CONTROL_BYTES_MAX, DATA_BYTES_MAX, DataHeader, Decoder, Frame},
    id::{Incarnation, JobId},
    message::{Accept, Bind, Credit, Drain, LinkHello, Open, Refused, Want},
    version::Offer,
};
use trunkline_tests::{
    binaries,
    cluster::{Cluster, Daemon},
    eventually,
    exchange::{RUN, exchange},
    in_time,
    payload::{Payload, Random, seed},
    sockets::resident_bytes,
    stranger::{Channel, NODE_USAGES, Stranger, Trunk, closed_with, crafted, hello, member_files},
};

const HOUR: Duration = Duration::from_secs(3600);
const HELLO_TIMEOUT: Duration = Duration::from_millis(300);
/// How often a stranger tries what is logged once.
const ATTEMPTS: usize = 3;
/// What a node may grow by when it is pestered.
const GROWTH_BYTES_MAX: u64 = 24 << 20;
/// More than any stream is granted whose application does not read (1 MiB, with what its end mark may take).
const UNREAD_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// QUIC's code for a refusal by TLS (RFC 9001 §4.8).
const CRYPTO_ERROR: u64 = 0x100;

async fn cluster() -> Cluster {
    let timeout = format!("[limits]\nhello_timeout_ms = {}\n", HELLO_TIMEOUT.as_millis());
    Cluster::builder().config(|_, toml| toml.push_str(&timeout)).start().await
}

/// Streams between the honest nodes, both ways, each exact.
async fn serves(cluster: &Cluster) {
    let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
    let payloads = || vec![Payload::mixed(Random::new(seed(), 0), 20, 20_000)];
    tokio::join!(
        exchange("serves", &a, &b, "at-b", payloads()),
        exchange("serves", &b, &a, "at-a", payloads()),
        exchange("serves", &a, &a, "at-home", payloads()),
    );
    for attachment in [a, b] {
        attachment.close().await.unwrap();
    }
}

/// Waits for the one line that has all of `words`, and checks that there is no second.
#[track_caller]
fn logged_once(daemon: &Daemon, words: &[&str]) -> impl Future<Output = ()> {
    let lines = |log: &str| log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count();
    async move {
        eventually(&format!("{} logs {words:?}", daemon.id), async || (lines(&daemon.log()) > 0).then_some(())).await;
        assert_eq!(lines(&daemon.log()), 1, "{words:?}:\n{}", daemon.log());
    }
}

fn dated(cluster: &Cluster, not_before: SystemTime, not_after: SystemTime) -> NodeFiles {
    let request = NodeRequest { not_before, not_after, ..NodeRequest::new("node-x".parse().unwrap()) };
    cluster.authority().issue_node(&request).unwrap()
}

#[tokio::test]
async fn a_dialler_with_a_bad_certificate_is_refused_and_logged_once_in_plain_words() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        serves(&cluster).await;
        let now = SystemTime::now();
        let foreign = Authority::create(&"test".parse().unwrap()).unwrap();
        let foreign = foreign.issue_node(&NodeRequest::new("node-b".parse().unwrap())).unwrap();
        let good_uri = ["trunkline://test/node/node-x"];
        let strangers = [
            (Some(foreign), ALPN, "its certificate was signed by another CA"),
            (Some(dated(&cluster, now - 3 * HOUR, now - HOUR)), ALPN, "its certificate expired on 2"),
            (
                Some(dated(&cluster, now + HOUR, now + 3 * HOUR)),
                ALPN,
                "its certificate is not yet valid: it begins on 2",
            ),
            (
                Some(crafted(&cluster, &["trunkline://other/node/node-b"], &NODE_USAGES)),
                ALPN,
                "it belongs to cluster other, this one is test",
            ),
            (Some(crafted(&cluster, &[], &NODE_USAGES)), ALPN, "carries no trunkline://CLUSTER/node/ID name"),
            (
                Some(crafted(&cluster, &good_uri, &[Usage::ServerAuth])),
                ALPN,
                "its certificate is not usable for client authentication",
            ),
            (
                Some(crafted(&cluster, &["trunkline://test/admin/node-x"], &NODE_USAGES)),
                ALPN,
                "its certificate was issued for the role \"admin\", not for a node",
            ),
            (None, ALPN, "it presented no certificate"),
            (Some(member_files(&cluster, "node-x")), &b"h3"[..], "it does not speak trunkline/1"),
        ];
        for (files, alpn, sentence) in strangers {
            let stranger = Stranger::dialler(files.as_ref(), alpn);
            for _ in 0..ATTEMPTS {
                let ended = stranger.dial_to_the_end(node.udp).await;
                let ConnectionError::ConnectionClosed(close) = &ended else { panic!("{sentence}: {ended:?}") };
                assert_eq!(u64::from(close.error_code) & !0xff, CRYPTO_ERROR, "{sentence}: {close}");
            }
            logged_once(node, &["WARN", "refused a connection from 127.0.0.1", sentence]).await;
        }

        let impostor = Stranger::dialler(Some(&member_files(&cluster, "node-a")), ALPN);
        for _ in 0..ATTEMPTS {
            assert_eq!(closed_with(&impostor.dial_to_the_end(node.udp).await), Code::Forbidden);
        }
        logged_once(node, &["WARN", "refused a connection from 127.0.0.1", "it bears this node's own name"]).await;
        assert_eq!(node.status().await.trunks.len(), 1, "node-b's alone");
        serves(&cluster).await;
    })
    .await;
}

/// Opens a stream to node-b where `files` answer instead, and returns what the program and the log are told.
async fn dials_a_stranger(make: impl FnOnce(&Cluster) -> NodeFiles, sentence: &str) {
    let decoy = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut cluster = Cluster::builder()
        .config(|_, toml| toml.push_str("[limits]\nopen_timeout_ms = 1500\n"))
        .peer_address(|_, _, _| decoy.to_string())
        .start()
        .await;
    let stranger = Stranger::server(&make(&cluster));
    // The node reads the address once, at its start.
    let node = cluster.node("node-a");
    let config = fs::read_to_string(&node.config).unwrap();
    fs::write(&node.config, config.replace(&decoy.to_string(), &stranger.address().to_string())).unwrap();
    node.kill();
    node.exited().await;
    cluster.restart("node-a").await;
    let node = cluster.node("node-a");

    let a = node.attach().await;
    let producer = a.job("job", RUN).unwrap().producer("producer").unwrap();
    let (opened, failed) = tokio::join!(producer.open("job/consumer@node-b"), stranger.failed_dials(2));
    let error = opened.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, Some(Code::Unreachable)), "{error}");
    assert!(error.to_string().contains(sentence), "{error}");
    assert_eq!(failed, 2, "dialled more than once");
    logged_once(node, &["WARN", "cannot reach node-b", sentence]).await;
    assert_eq!(node.status().await.trunks, []);
    let payloads = vec![Payload::mixed(Random::new(seed(), 0), 20, 20_000)];
    exchange("serves", &a, &a, "at-home", payloads).await;
}

#[tokio::test]
async fn a_node_that_is_not_the_one_that_was_dialled_is_refused() {
    in_time(dials_a_stranger(|cluster| member_files(cluster, "node-c"), "it is node-c, but node-b was dialled")).await;
}

#[tokio::test]
async fn a_dialled_node_with_an_expired_certificate_is_refused() {
    let expired = |cluster: &Cluster| {
        let now = SystemTime::now();
        dated(cluster, now - 3 * HOUR, now - HOUR)
    };
    in_time(dials_a_stranger(expired, "its certificate expired on 2")).await;
}

#[tokio::test]
async fn a_dialled_node_of_another_ca_is_refused() {
    let foreign = |_: &Cluster| {
        let authority = Authority::create(&"test".parse().unwrap()).unwrap();
        authority.issue_node(&NodeRequest::new("node-b".parse().unwrap())).unwrap()
    };
    in_time(dials_a_stranger(foreign, "its certificate was signed by another CA")).await;
}

/// A frame's eight bytes, without what should follow.
fn prefix(kind: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    bytes
}

fn open_frame(node: &str, consumer: &str, number: u64) -> Open {
    Open {
        stream: 0,
        job: JobId { name: "raw".parse().unwrap(), run: RUN.parse().unwrap() },
        producer: "stranger".parse().unwrap(),
        producer_node: None,
        incarnation: Incarnation::from_bytes(&[9; 16]).unwrap(),
        number,
        consumer: consumer.parse().unwrap(),
        node: node.parse().unwrap(),
        epoch: 0,
    }
}

async fn bind(attachment: &Attachment, consumer: &str) -> Consumer {
    attachment.job("raw", RUN).unwrap().consumer(consumer).unwrap().bind().await.unwrap()
}

/// What follows the handshake.
enum Greeting {
    Nothing,
    Bytes(Vec<u8>),
    Frame(Frame),
}

#[tokio::test]
async fn a_peer_that_does_not_greet_as_it_should_is_refused_and_logged_once() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let stranger = Stranger::member(&cluster, "node-x");
        let future = Offer { version_min: 7, version_max: 9, features: Vec::new() };
        let greetings = [
            (Greeting::Nothing, Code::Protocol, "it did not say HELLO in time"),
            (Greeting::Bytes(prefix(2, 10)), Code::Protocol, "it did not say HELLO in time"),
            (
                Greeting::Frame(trunkline_proto::message::TrunkHello { offer: future, ..hello() }.into()),
                Code::Version,
                "no common version: this side speaks 1 to 1, the other 7 to 9",
            ),
            (Greeting::Frame(open_frame("node-a", "x", 1).into()), Code::Protocol, "its first frame was no HELLO"),
            (
                Greeting::Bytes(prefix(2, CONTROL_BYTES_MAX + 1)),
                Code::Protocol,
                "a frame of kind 0x02 declares 16385 bytes, more than 16384",
            ),
            (Greeting::Bytes(prefix(0x7f, 0)), Code::Unsupported, "a mandatory frame of unknown kind 0x7f"),
        ];
        for (greeting, code, sentence) in &greetings {
            for _ in 0..ATTEMPTS {
                let connection = stranger.dial(node.udp).await.unwrap();
                let mut trunk = Trunk::open(connection).await;
                match greeting {
                    Greeting::Nothing => {}
                    Greeting::Bytes(bytes) => trunk.control.write(bytes).await,
                    Greeting::Frame(frame) => trunk.say(frame).await,
                }
                assert_eq!(trunk.closed().await, *code, "{sentence}");
            }
            logged_once(node, &["WARN", "refused a connection from 127.0.0.1", sentence]).await;
        }
        serves(&cluster).await;
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_breaks_the_rules_of_the_control_stream_loses_the_connection_alone() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let stranger = Stranger::member(&cluster, "node-x");
        let encoded = |frame: Frame| {
            let mut bytes = BytesMut::new();
            frame.encode(&mut bytes);
            bytes.to_vec()
        };
        let faults = [
            (encoded(hello().into()), Code::Protocol),
            (encoded(open_frame("node-a", "x", 1).into()), Code::Protocol),
            (encoded(Credit { limit: 1, ..Credit::default() }.into()), Code::Protocol),
            (prefix(0x40, CONTROL_BYTES_MAX + 1), Code::Protocol),
            (prefix(0x30, usize::try_from(u32::MAX).unwrap()), Code::Protocol),
            ([prefix(0x40, 2), vec![0xff, 0xff]].concat(), Code::Protocol),
            (prefix(0x7f, 0), Code::Unsupported),
        ];
        for (fault, code) in faults {
            let mut trunk = stranger.attach(node.udp).await;
            trunk.control.write(&fault).await;
            assert_eq!(trunk.closed().await, code, "{fault:02x?}");
        }
        // What is marked as optional is skipped.
        let mut trunk = stranger.attach(node.udp).await;
        let mut optional = prefix(0x7f, 3);
        optional[1] = 0x80;
        optional.extend_from_slice(&[1, 2, 3]);
        trunk.control.write(&optional).await;
        let mut stream = Channel::open(&trunk.connection).await;
        stream.say(&open_frame("node-b", "x", 1).into()).await;
        assert_eq!(trunk.hear_abort(stream.id()).await.code, Code::UnknownNode);
        serves(&cluster).await;
    })
    .await;
}

/// Checks that a stream was ended with `code`: named on the control stream, reset, and stopped.
async fn assert_ended(trunk: &mut Trunk, stream: &mut Channel, code: Code) {
    let id = stream.id();
    assert_eq!(trunk.hear_abort(id).await.code, code, "stream {id}");
    loop {
        match stream.hear().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("stream {id} ended cleanly"),
            Err(reset) => break assert_eq!(reset, code, "stream {id}"),
        }
    }
    let stopped = stream.send.stopped().await.unwrap().map(|stopped| Code::from_wire(stopped.into()));
    assert!(stopped.is_none_or(|stopped| stopped == code), "stream {id}: {stopped:?}");
}

#[tokio::test]
async fn a_stream_that_breaks_the_rules_ends_alone_and_its_connection_goes_on() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let home = node.attach().await;
        let mut consumer = bind(&home, "sink").await;
        let stranger = Stranger::member(&cluster, "node-x");
        let mut trunk = stranger.attach(node.udp).await;

        let beginnings = [
            (prefix(0x20, CONTROL_BYTES_MAX + 1), Code::Protocol),
            (prefix(0x30, 1 << 30), Code::Protocol),
            (prefix(0x7f, 0), Code::Unsupported),
            ([prefix(0x20, 3), vec![0xff; 3]].concat(), Code::Protocol),
            (prefix(0x03, 0), Code::Protocol),
        ];
        for (beginning, code) in &beginnings {
            let mut stream = Channel::open(&trunk.connection).await;
            stream.write(beginning).await;
            assert_ended(&mut trunk, &mut stream, *code).await;
        }

        let mut stream = Channel::open(&trunk.connection).await;
        stream.say(&open_frame("node-b", "sink", 1).into()).await;
        assert_ended(&mut trunk, &mut stream, Code::UnknownNode).await;

        let mut stream = Channel::open(&trunk.connection).await;
        stream.say(&Open { epoch: 1, ..open_frame("node-a", "sink", 2) }.into()).await;
        assert_ended(&mut trunk, &mut stream, Code::Protocol).await;

        // Bytes before ACCEPT: of a stream that nobody accepts yet.
        let mut stream = Channel::open(&trunk.connection).await;
        stream.say(&open_frame("node-a", "nobody", 3).into()).await;
        stream.write(b"early").await;
        assert_ended(&mut trunk, &mut stream, Code::Protocol).await;

        // Bytes beyond the credit.
        let mut stream = Channel::open(&trunk.connection).await;
        stream.say(&open_frame("node-a", "sink", 4).into()).await;
        let Ok(Some(Frame::Accept(_))) = stream.hear().await else { panic!("no ACCEPT") };
        let receiver = consumer.accept().await.unwrap();
        // More than a consumer grants that reads nothing, and no more than QUIC lets through.
        let beyond = vec![0; UNREAD_BYTES_MAX];
        let mut written = 0;
        while let Ok(more) = stream.send.write(&beyond[written..]).await
            && more > 0
        {
            written += more;
        }
        assert_ended(&mut trunk, &mut stream, Code::CreditExceeded).await;
        drop(receiver);

        // A good one, on the same connection.
        let mut stream = Channel::open(&trunk.connection).await;
        stream.say(&open_frame("node-a", "sink", 5).into()).await;
        let Ok(Some(Frame::Accept(_))) = stream.hear().await else { panic!("no ACCEPT") };
        let mut mark = vec![2, b'h', b'i'];
        mark.extend_from_slice(&[0xff; 8]);
        mark.extend_from_slice(&3_u64.to_be_bytes());
        stream.write(&mark).await;
        stream.send.finish().unwrap();
        let mut receiver = consumer.accept().await.unwrap();
        assert_eq!(receiver.producer().node.as_str(), "node-x", "as its certificate says");
        assert_eq!(receiver.recv().await.unwrap(), Some(Bytes::from_static(b"hi")));
        assert_eq!(receiver.recv().await.unwrap(), None);
        let mut finished = false;
        while let Ok(Some(frame)) = stream.hear().await {
            finished |= matches!(frame, Frame::Credit(Credit { finished: true, .. }));
        }
        assert!(finished);
        drop((receiver, consumer, home));
        serves(&cluster).await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_whose_open_does_not_come_ends_alone() {
    in_time(async {
        // An OPEN may take as long as an outage may.
        let limits = "[limits]\nhello_timeout_ms = 300\n[trunk]\nidle_timeout_ms = 1500\nkeep_alive_ms = 300\n";
        let cluster = Cluster::builder().config(|_, toml| toml.push_str(limits)).start().await;
        let node = cluster.node("node-a");
        let stranger = Stranger::member(&cluster, "node-x");
        let mut trunk = stranger.attach(node.udp).await;
        let mut optional_only = prefix(0x7f, 0);
        optional_only[1] = 0x80;
        let mut streams = Vec::new();
        for beginning in [optional_only, prefix(0x20, 100)] {
            let mut stream = Channel::open(&trunk.connection).await;
            stream.write(&beginning).await;
            streams.push(stream);
        }
        for stream in &mut streams {
            assert_ended(&mut trunk, stream, Code::Protocol).await;
        }
        let mut stream = Channel::open(&trunk.connection).await;
        stream.say(&open_frame("node-b", "x", 1).into()).await;
        assert_eq!(trunk.hear_abort(stream.id()).await.code, Code::UnknownNode);
        serves(&cluster).await;
    })
    .await;
}

#[tokio::test]
async fn a_consumers_side_that_breaks_the_rules_ends_the_stream_alone() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let home = node.attach().await;
        let stranger = Stranger::member(&cluster, "node-x");
        let trunk = stranger.attach(node.udp).await;
        let credit = Credit { received: 1 << 40, consumed: 0, limit: 1 << 41, ..Credit::default() };
        let accept = Accept { stream: 0, incarnation: Incarnation::from_bytes(&[3; 16]).unwrap(), limit: 100 };
        let encoded = |frames: &[Frame]| {
            let mut bytes = BytesMut::new();
            frames.iter().for_each(|frame| frame.encode(&mut bytes));
            bytes.to_vec()
        };
        let finished = Credit { finished: true, limit: 100, ..Credit::default() };
        let faults = [
            (encoded(&[credit.into()]), Code::Protocol),
            (encoded(&[accept.into(), credit.into()]), Code::Protocol),
            (encoded(&[accept.into(), finished.into()]), Code::Protocol),
            (encoded(&[hello().into()]), Code::Protocol),
            (prefix(0x22, CONTROL_BYTES_MAX + 1), Code::Protocol),
            (prefix(0x7f, 0), Code::Unsupported),
        ];
        for (fault, code) in faults {
            let job = home.job("raw", RUN).unwrap();
            let producer = job.producer("producer").unwrap();
            let opening = tokio::spawn(async move {
                let mut sender = producer.open("raw/consumer@node-x").await?;
                sender.send(Bytes::from_static(b"hi")).await?;
                sender.finish().await
            });
            let (mut send, mut recv) = trunk.connection.accept_bi().await.unwrap();
            assert!(recv.read_chunk(1 << 16, true).await.unwrap().is_some(), "its OPEN");
            send.write_all(&fault).await.unwrap();
            let error = opening.await.unwrap().unwrap_err();
            assert_eq!(error.code(), Some(code), "{fault:02x?}: {error}");
        }
        drop(home);
        serves(&cluster).await;
    })
    .await;
}

#[tokio::test]
async fn garbage_on_the_udp_port_changes_nothing() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        serves(&cluster).await;
        let before = resident_bytes(node.pid);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut random = Random::new(seed(), 1);
        let initial = first_packet(&Stranger::member(&cluster, "node-x")).await;
        for _ in 0..2_000 {
            let length = random.below(1_400);
            socket.send_to(&random.bytes(length), node.udp).unwrap();
            // Truncated, and with a byte changed.
            socket.send_to(&initial[..random.below(initial.len())], node.udp).unwrap();
            let mut changed = initial.clone();
            changed[random.below(60)] ^= 1 << random.below(8);
            socket.send_to(&changed, node.udp).unwrap();
        }
        serves(&cluster).await;
        let grown = resident_bytes(node.pid).saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes");
        assert!(node.log().lines().count() < 20, "{}", node.log());
    })
    .await;
}

/// The first packet of a dial, which goes nowhere.
async fn first_packet(stranger: &Stranger) -> Vec<u8> {
    let sink = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let _dial = stranger.begin_dial(sink.local_addr().unwrap());
    let mut buffer = vec![0; 2_000];
    let (length, _) = sink.recv_from(&mut buffer).await.unwrap();
    buffer.truncate(length);
    buffer
}

#[tokio::test]
async fn two_hundred_half_open_handshakes_from_one_host_do_not_keep_a_good_peer_out() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let node = cluster.node("node-a");
        let before = resident_bytes(node.pid);
        let stranger = Stranger::member(&cluster, "node-x");
        let mut storm = Vec::new();
        for _ in 0..200 {
            // Each from a port of its own, which never answers.
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(&first_packet(&stranger).await, node.udp).unwrap();
            storm.push(socket);
        }
        serves(&cluster).await;
        let grown = resident_bytes(node.pid).saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes");
        let answered = |socket: &UdpSocket| {
            socket.set_nonblocking(true).unwrap();
            socket.recv(&mut [0; 2_000]).is_ok()
        };
        assert!(storm.iter().filter(|socket| answered(socket)).count() > 150, "the storm has reached the node");
    })
    .await;
}

/// A process that speaks to a local socket without an SDK.
struct Raw {
    stream: UnixStream,
    decoder: Decoder,
}

impl Raw {
    fn connect(node: &Daemon) -> Self {
        let stream = UnixStream::connect(&node.local).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { stream, decoder: Decoder::default() }
    }

    /// One that has greeted and is attached.
    fn attach(node: &Daemon) -> Self {
        let mut raw = Self::connect(node);
        raw.say(&link_hello(Offer::ours()).into());
        let Some(Frame::LinkHello(_)) = raw.hear() else { panic!("no HELLO") };
        raw
    }

    fn write(&mut self, bytes: &[u8]) {
        // The node may have closed already.
        let _ = self.stream.write_all(bytes);
    }

    fn say(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.write(&bytes);
    }

    /// The next frame, or `None` at the end.
    fn hear(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(frame);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                // A reset: the node closed while bytes of ours were unread.
                Ok(0) => return None,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Ok(count) => self.decoder.buffer().extend_from_slice(&bytes[..count]),
                Err(error) => panic!("the node neither answers nor closes: {error}"),
            }
        }
    }

    /// Reads to the end, which must begin with the refusal of the whole link.
    fn refused(mut self) -> Refused {
        let mut refused = None;
        while let Some(frame) = self.hear() {
            assert!(refused.is_none(), "{frame:?} follows the refusal");
            if let Frame::Refused(said) = frame {
                assert_eq!(said.bind, 0);
                refused = Some(said);
            }
        }
        refused.expect("a refusal")
    }
}

fn link_hello(offer: Offer) -> LinkHello {
    LinkHello { offer, software: "raw".to_owned(), cluster: String::new(), node: None, pid: 1 }
}

#[tokio::test]
async fn a_process_that_does_not_greet_as_it_should_is_refused_and_logged_once() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let encoded = |frame: Frame| {
            let mut bytes = BytesMut::new();
            frame.encode(&mut bytes);
            bytes.to_vec()
        };
        let future = Offer { version_min: 7, version_max: 9, features: Vec::new() };
        let greetings = [
            (b"GET / HTTP/1.1\r\nHost: node\r\n\r\n".to_vec(), Code::Protocol, "a frame of kind 0x47 declares"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), Code::Protocol, "a frame of kind 0x16 declares"),
            (prefix(0x01, CONTROL_BYTES_MAX + 1), Code::Protocol, "a frame of kind 0x01 declares 16385 bytes"),
            (prefix(0x30, usize::try_from(u32::MAX).unwrap()), Code::Protocol, "a frame of kind 0x30 declares"),
            ([prefix(0x01, 4), vec![0xff; 4]].concat(), Code::Protocol, "a frame of kind 0x01 does not parse"),
            (prefix(0x7f, 0), Code::Unsupported, "a mandatory frame of unknown kind 0x7f"),
            (encoded(hello().into()), Code::Protocol, "the first frame was no HELLO"),
            (encoded(link_hello(future).into()), Code::Version, "no common version: this side speaks 1 to 1"),
            (Vec::new(), Code::Protocol, "no HELLO came in time"),
            (prefix(0x01, 100), Code::Protocol, "no HELLO came in time"),
        ];
        for (greeting, code, sentence) in &greetings {
            for _ in 0..ATTEMPTS {
                let mut raw = Raw::connect(node);
                raw.write(greeting);
                let refused = raw.refused();
                assert_eq!(refused.code, *code, "{sentence}");
                assert!(refused.text.contains(sentence), "{refused:?}");
            }
            logged_once(node, &["WARN", "refused a process of uid", sentence]).await;
        }
        // Who only looks whether somebody serves is no news.
        let lines = node.log().lines().count();
        for _ in 0..100 {
            drop(Raw::connect(node));
        }
        serves(&cluster).await;
        assert_eq!(node.log().lines().filter(|line| line.contains("WARN")).count(), greetings.len() - 1);
        assert!(node.log().lines().count() <= lines + 2, "{}", node.log());
    })
    .await;
}

#[tokio::test]
async fn an_attached_process_that_breaks_the_rules_is_cut_off_and_the_others_go_on() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let home = node.attach().await;
        let mut consumer = bind(&home, "sink").await;
        let open = |stream| Frame::from(Open { stream, ..open_frame("node-a", "sink", stream) });
        let data = |stream| {
            Frame::Data(DataHeader { stream, offset: 0, epoch: 0, fin: false }, Bytes::from_static(&[1, b'x']))
        };
        let credit = |stream| Frame::from(Credit { stream, limit: 100, ..Credit::default() });
        let faults: [(Vec<Frame>, &str); 9] = [
            (vec![open(3)], "stream id 3 is odd, or was used before"),
            (vec![open(0)], "stream id 0 is odd, or was used before"),
            (vec![open(4), open(4)], "stream id 4 is odd, or was used before"),
            (vec![open(6), open(2)], "stream id 2 is odd, or was used before"),
            (vec![open(2), credit(2)], "a consumer's frame on a stream it sends"),
            (
                vec![
                    open(2),
                    Accept { stream: 2, incarnation: Incarnation::from_bytes(&[1; 16]).unwrap(), limit: 9 }.into(),
                ],
                "a consumer's frame on a stream it sends",
            ),
            (vec![link_hello(Offer::ours()).into()], "a frame that a process does not send"),
            (vec![Drain { deadline_ms: 1 }.into()], "a frame that a process does not send"),
            (
                vec![Refused { bind: 1, code: Code::Busy, text: String::new() }.into()],
                "a frame that a process does not send",
            ),
        ];
        for (frames, sentence) in &faults {
            for _ in 0..ATTEMPTS {
                let mut raw = Raw::attach(node);
                frames.iter().for_each(|frame| raw.say(frame));
                let refused = raw.refused();
                assert_eq!(refused.code, Code::Protocol, "{sentence}");
                assert!(refused.text.contains(sentence), "{refused:?}");
            }
            logged_once(node, &["WARN", "cut off a process of uid", sentence]).await;
        }
        for (bytes, code) in [
            (prefix(0x7f, 0), Code::Unsupported),
            (prefix(0x30, DATA_BYTES_MAX + 21), Code::Protocol),
            (prefix(0x30, 19), Code::Protocol),
            (prefix(0x20, CONTROL_BYTES_MAX + 1), Code::Protocol),
        ] {
            let mut raw = Raw::attach(node);
            raw.write(&bytes);
            assert_eq!(raw.refused().code, code, "{bytes:02x?}");
        }

        // Frames for streams that are over, or never were, are nobody's.
        let mut raw = Raw::attach(node);
        for frame in [data(2), data(3), credit(1), credit(2), Want { stream: 8, wanted: 9, epoch: 0 }.into()] {
            raw.say(&frame);
        }
        let name = JobId { name: "raw".parse().unwrap(), run: RUN.parse().unwrap() };
        let incarnation = Incarnation::from_bytes(&[1; 16]).unwrap();
        let taken = Bind { bind: 1, job: name, consumer: "sink".parse().unwrap(), incarnation };
        raw.say(&taken.into());
        let Some(Frame::Refused(refused)) = raw.hear() else { panic!("no answer to BIND") };
        assert_eq!((refused.bind, refused.code), (1, Code::AlreadyBound));
        // Bytes before ACCEPT end the stream, not the link.
        raw.say(&Open { stream: 2, ..open_frame("node-a", "nobody", 2) }.into());
        raw.say(&data(2));
        let Some(Frame::Abort(abort)) = raw.hear() else { panic!("no ABORT") };
        assert_eq!((abort.stream, abort.code), (2, Code::Protocol));
        drop(raw);

        // Those that were cut off had opened some, which the consumer was offered and told the end of.
        let fellow = node.attach().await;
        let producer = fellow.job("raw", RUN).unwrap().producer("fellow").unwrap();
        let mut sender = producer.open("raw/sink@node-a").await.unwrap();
        sender.send(Bytes::from_static(b"hi")).await.unwrap();
        let mut receiver = loop {
            let mut receiver = consumer.accept().await.unwrap();
            if receiver.producer().name.as_str() == "fellow" {
                break receiver;
            }
            let error = receiver.recv().await.unwrap_err();
            assert_eq!(error.code(), Some(Code::ProducerGone), "{error}");
        };
        assert_eq!(receiver.recv().await.unwrap(), Some(Bytes::from_static(b"hi")));
        let (finished, end) = tokio::join!(sender.finish(), receiver.recv());
        finished.unwrap();
        assert_eq!(end.unwrap(), None);
        drop((home, fellow));
        serves(&cluster).await;
    })
    .await;
}

#[tokio::test]
async fn garbage_on_the_local_socket_costs_no_memory() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        serves(&cluster).await;
        let before = resident_bytes(node.pid);
        let mut random = Random::new(seed(), 2);
        for _ in 0..300 {
            let mut raw = if random.below(2) == 0 { Raw::connect(node) } else { Raw::attach(node) };
            let length = random.below(100_000);
            raw.write(&random.bytes(length));
        }
        serves(&cluster).await;
        let grown = resident_bytes(node.pid).saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes");
        cluster.carries_nothing().await;
    })
    .await;
}

/// Starts a second daemon with the configuration of the first but for what `change` does to it; it must fail.
fn second_daemon(cluster: &Cluster, change: impl Fn(String) -> String) -> String {
    let node = cluster.node("node-a");
    let config = cluster.folder().join("second.toml");
    fs::write(&config, change(fs::read_to_string(&node.config).unwrap())).unwrap();
    let mut command = Command::new(binaries::node());
    let output = command.args(["run", "--config"]).arg(&config).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

fn any_port(config: &str, udp: SocketAddr) -> String {
    config.replace(&format!("listen = \"{udp}\""), &format!("listen = \"{}:0\"", udp.ip()))
}

#[tokio::test]
async fn a_second_daemon_on_the_same_port_or_socket_says_so_and_the_first_goes_on() {
    in_time(async {
        let cluster = cluster().await;
        let node = cluster.node("node-a");
        let kept = node.attach().await;
        let own_sockets =
            |config: String| config.replace("local.sock", "local-2.sock").replace("admin.sock", "admin-2.sock");

        let said = second_daemon(&cluster, own_sockets);
        let sentence = format!("cannot listen on UDP {}", node.udp);
        assert!(said.contains(&sentence) && said.contains("is another node running there?"), "{said}");
        assert!(!node.local.with_file_name("local-2.sock").exists(), "it leaves nothing behind");

        let said = second_daemon(&cluster, |config| any_port(&config, node.udp));
        assert!(said.contains(&format!("another process serves {}", node.local.display())), "{said}");

        let admin_only = |config: String| any_port(&config, node.udp).replace("local.sock", "local-3.sock");
        let said = second_daemon(&cluster, admin_only);
        assert!(said.contains(&format!("another process serves {}", node.admin.display())), "{said}");

        exchange("kept", &kept, &kept, "consumer", vec![Payload::mixed(Random::new(seed(), 0), 5, 5_000)]).await;
        serves(&cluster).await;
    })
    .await;
}

#[tokio::test]
async fn what_a_dead_daemon_left_is_replaced() {
    in_time(async {
        let mut cluster = cluster().await;
        serves(&cluster).await;
        cluster.node("node-a").kill();
        cluster.node("node-a").exited().await;
        let node = cluster.node("node-a");
        assert!(node.local.exists() && node.admin.exists(), "it had no time to remove them");
        cluster.restart("node-a").await;
        let node = cluster.node("node-a");
        let a = node.attach().await;
        exchange("home", &a, &a, "consumer", vec![Payload::mixed(Random::new(seed(), 0), 5, 5_000)]).await;
    })
    .await;
}
