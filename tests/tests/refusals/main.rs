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
    id::{Incarnation, JobId, Weight},
    message::{Accept, Bind, Credit, Drain, LinkHello, Open, Refused, Resume, Want},
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

mod certificates;
mod peers;
mod processes;
mod users;

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
        weight: Weight::MIN,
    }
}

async fn bind(attachment: &Attachment, consumer: &str) -> Consumer {
    attachment.job("raw", RUN).unwrap().consumer(consumer).unwrap().bind().await.unwrap()
}
