//! Exchanges in which everybody waits for everybody: the transport never deadlocks, and what deadlocks in the application
//! is told by name.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{ffi::OsString, time::Duration};

use bytes::Bytes;
use tokio::task::JoinSet;
use trunkline::{
    Attachment, Event, Events, Job, Receiver, StallCause, StalledSend,
    node::{IdentityConfig, NodeConfig, PeerConfig},
};
use trunkline_certs::{Authority, NodeRequest};
use trunkline_tests::{
    cluster::{Cluster, free_addresses},
    exchange::{AllToAll, RUN, receive_all, smallest_budgets},
    in_time, in_time_of,
    payload::{Digest, seed},
    process,
};

const KIB: usize = 1024;
/// The smallest buffers that a node's configuration allows.
const SMALLEST_LIMITS: &str = "[limits]\nprocess_quota_bytes = 262144\ningress_pool_bytes = 65536\n";
const SMALLEST_TRUNK: &str = "[trunk]\nsend_window_bytes = 65536\nstream_receive_window_bytes = 65536\n";
/// Longer than the smallest receive budget, so that messages wait for the pool too.
const LENGTH_MAX: usize = 100_000;
/// What one process sends to one other.
const MESSAGES: usize = 40;
/// Machines in a hurry: an exchange takes two seconds.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(180);

fn all_to_all(nodes: &[&str]) -> AllToAll {
    let nodes = nodes.iter().map(|&node| node.to_owned()).collect();
    println!("SEED={}", seed());
    AllToAll { job: "all-to-all".to_owned(), nodes, messages: MESSAGES, length_max: LENGTH_MAX, seed: seed() }
}

#[tokio::test]
async fn processes_that_all_send_to_all_and_receive_from_all_never_deadlock_on_the_smallest_budgets() {
    in_time_of(EXCHANGE_LIMIT, async {
        let smallest = |_: &str, toml: &mut String| toml.push_str(&format!("{SMALLEST_LIMITS}{SMALLEST_TRUNK}"));
        let cluster = Cluster::builder().config(smallest).start().await;
        let all = all_to_all(&["node-a", "node-b", "node-a", "node-b", "node-a", "node-b"]);
        let members = all.nodes.iter().enumerate().map(|(member, node)| {
            let arguments = [
                ("socket", OsString::from(&cluster.node(node).local)),
                ("job", all.job.clone().into()),
                ("nodes", all.nodes.join(",").into()),
                ("member", member.to_string().into()),
                ("messages", all.messages.to_string().into()),
                ("bytes", all.length_max.to_string().into()),
                ("seed", all.seed.to_string().into()),
            ];
            process::spawn("exchange", arguments)
        });
        // All of them, before any is waited for.
        for mut member in members.collect::<Vec<_>>() {
            assert_ne!(member.says("exchanged").await, "0");
            assert!(member.exited().await.success());
        }
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn embedded_nodes_that_all_send_to_all_and_receive_from_all_never_deadlock_on_the_smallest_budgets() {
    in_time_of(EXCHANGE_LIMIT, async {
        let nodes = ["node-a", "node-b", "node-c"];
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(&"test".try_into().unwrap()).unwrap();
        let addresses = free_addresses(nodes.len());
        let all = all_to_all(&nodes);
        let mut members = JoinSet::new();
        for (member, (id, listen)) in nodes.iter().zip(&addresses).enumerate() {
            let files = authority.issue_node(&NodeRequest::new((*id).try_into().unwrap())).unwrap();
            let paths = files.write_to(&folder.path().join(id)).unwrap();
            let identity = IdentityConfig { certificate: paths.certificate, key: paths.key, trust: paths.trust };
            let mut config = NodeConfig::new(*listen, identity);
            let peers = nodes.iter().zip(&addresses).filter(|(peer, _)| *peer != id);
            config.peers = peers
                .map(|(peer, at)| PeerConfig { id: (*peer).try_into().unwrap(), addresses: vec![at.to_string()] })
                .collect();
            config.limits.process_quota_bytes = 256 * 1024;
            config.limits.ingress_pool_bytes = 64 * 1024;
            config.trunk.send_window_bytes = 64 * 1024;
            config.trunk.stream_receive_window_bytes = 64 * 1024;
            let all = all.clone();
            members.spawn(async move {
                let attachment = smallest_budgets(LENGTH_MAX).embedded(config).await.unwrap();
                let bytes = all.take_part(&attachment, member).await.unwrap();
                (attachment, bytes)
            });
        }
        // Nobody leaves before all are done: others' streams pass through no node but their own two.
        let mut attachments = Vec::new();
        while let Some(member) = members.join_next().await {
            let (attachment, bytes) = member.expect("no task panics");
            assert_ne!(bytes, 0);
            attachments.push(attachment);
        }
        for attachment in attachments {
            attachment.close().await.unwrap();
        }
    })
    .await;
}

/// Streams in each direction, one after another: each stall is found while all earlier ones still wait.
const STREAMS: usize = 8;
/// What each of them sends before its program would receive anything: far more than both budgets and both nodes hold.
const STREAM_MESSAGES: usize = 64;
const STREAM_MESSAGE_BYTES: usize = 16 * KIB;

/// A program that sends all before it receives, as another does towards it. No transport can help: each waits for the
/// other's reading. What the SDK can do is to say so.
struct SendsFirst {
    attachment: Attachment,
    job: Job,
    name: &'static str,
    events: Events,
    /// Stalls heard, of all streams.
    stalls: Vec<StalledSend>,
    sending: JoinSet<Digest>,
    /// Streams to it, which it would read afterwards.
    unread: Vec<Receiver>,
}

impl SendsFirst {
    async fn at(cluster: &Cluster, node: &str, name: &'static str) -> Self {
        let builder = smallest_budgets(STREAM_MESSAGE_BYTES).stall_warn(Duration::from_millis(20));
        // What one stream may hold is for the consumers to say here.
        let builder = builder.send_budget_bytes(1 << 30);
        let attachment = builder.connect(&cluster.node(node).local).await.unwrap();
        let job = attachment.job("deadlock", RUN).unwrap();
        let events = attachment.events();
        Self { attachment, job, name, events, stalls: Vec::new(), sending: JoinSet::new(), unread: Vec::new() }
    }

    async fn begins_to_send(&mut self, stream: usize, address: String) {
        let mut sender = self.job.producer(format!("{}-{stream}", self.name)).unwrap().open(address).await.unwrap();
        self.sending.spawn(async move {
            let mut sent = Digest::default();
            for _ in 0..STREAM_MESSAGES {
                let message = Bytes::from(vec![7; STREAM_MESSAGE_BYTES]);
                sent.add(&message);
                sender.send(message).await.unwrap();
            }
            sender.finish().await.unwrap();
            sent
        });
    }

    /// Waits until it is told that the stream stalls, and what for.
    async fn hears_of_a_stall(&mut self, stream: usize) -> &StalledSend {
        let producer = format!("{}-{stream}", self.name);
        loop {
            if let Event::Stalled(stalled) = self.events.next().await.expect("it is attached") {
                self.stalls.push(stalled);
                if self.stalls.last().is_some_and(|stalled| stalled.producer.as_str() == producer) {
                    return self.stalls.last().expect("it was pushed");
                }
            }
        }
    }

    /// Receives what it would have received afterwards, and sees everything through.
    async fn receives_at_last(self) {
        let mut reading = JoinSet::new();
        for mut receiver in self.unread {
            reading.spawn(async move { receive_all(&mut receiver).await.unwrap() });
        }
        let mut expected = Digest::default();
        (0..STREAM_MESSAGES).for_each(|_| expected.add(&[7; STREAM_MESSAGE_BYTES]));
        for mut streams in [reading, self.sending] {
            let mut count = 0;
            while let Some(digest) = streams.join_next().await {
                assert_eq!(digest.expect("no task panics"), expected);
                count += 1;
            }
            assert_eq!(count, STREAMS);
        }
        self.attachment.close().await.unwrap();
        drop(self.job);
    }
}

#[tokio::test]
async fn programs_that_send_all_before_they_receive_are_told_once_who_waits_for_whom() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let mut a = SendsFirst::at(&cluster, "node-a", "a").await;
        let mut b = SendsFirst::at(&cluster, "node-b", "b").await;
        let mut to_a = a.job.consumer("to-a").unwrap().bind().await.unwrap();
        let mut to_b = b.job.consumer("to-b").unwrap().bind().await.unwrap();
        for stream in 0..STREAMS {
            a.begins_to_send(stream, to_b.address().to_string()).await;
            b.begins_to_send(stream, to_a.address().to_string()).await;
            a.unread.push(to_a.accept().await.unwrap());
            b.unread.push(to_b.accept().await.unwrap());
            for (program, address) in [(&mut a, to_b.address()), (&mut b, to_a.address())] {
                let stalled = program.hears_of_a_stall(stream).await.clone();
                assert_eq!((&stalled.consumer, stalled.cause), (&address, StallCause::Credit));
                assert_eq!(stalled.job.to_string(), program.job.id().to_string());
                let told = stalled.to_string();
                let names = [stalled.producer.as_str(), &address.to_string(), "does not read"];
                assert!(names.iter().all(|name| told.contains(name)), "{told}");
            }
        }
        for program in [&a, &b] {
            // Each stall was found by a look at all streams, the ones that had been told included.
            let (told, waits) = (program.stalls.len() as u64, program.attachment.metrics().sends_blocked);
            assert!(told <= waits, "{told} stalls were told of {waits} waits");
        }
        tokio::join!(a.receives_at_last(), b.receives_at_last());
        cluster.carries_nothing().await;
    })
    .await;
}
