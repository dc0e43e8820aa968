//! A process that is stopped by SIGSTOP stops its own streams and nothing else, and its node holds no more than its quota.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::process::Signal;
use tokio::{sync::watch, task::JoinSet};
use trunkline::{Attachment, Bytes, Error, Sender};
use trunkline_tests::{
    cluster::{Cluster, Daemon},
    eventually,
    exchange::{RUN, exchange},
    in_time,
    payload::{Payload, Random, seed},
    process::{self, Process},
    sockets::{peak_bytes, resident_bytes},
};

const JOB: &str = "stopped";
const MIB: u64 = 1024 * 1024;
const QUOTA_BYTES: u64 = 2 * MIB;
/// What a daemon takes for hundreds of streams beside their bytes, and what its allocator keeps. Far below what the
/// streams would leave there without a quota: a MiB each, once they have grown.
const SLACK_BYTES: u64 = 32 * MIB;
/// So small that one stream that has grown holds much of it.
const RECEIVE_BUDGET_BYTES: u64 = 256 << 10;
const STREAMS: usize = 200;
const MESSAGE_BYTES: usize = 32 * 1024;

fn arguments<'n>(socket: &Path, more: &[(&'n str, &str)]) -> Vec<(&'n str, OsString)> {
    let common = [("socket", OsString::from(socket)), ("job", JOB.into()), ("run", RUN.into())];
    common.into_iter().chain(more.iter().map(|(name, value)| (*name, OsString::from(value)))).collect()
}

async fn open(attachment: &Attachment, producer: &str, consumer: &str) -> Sender {
    let producer = attachment.job(JOB, RUN).expect("a job").producer(producer).expect("a name");
    producer.open(format!("{JOB}/{consumer}@node-b")).await.expect("accepted")
}

/// Sends `messages` and finishes. Returns what it sent, lengths included.
async fn send(mut sender: Sender, messages: usize) -> Result<u64, Error> {
    let message = Bytes::from(vec![7; MESSAGE_BYTES]);
    for _ in 0..messages {
        sender.send(message.clone()).await?;
    }
    let sent = sender.sent_bytes();
    sender.finish().await?;
    Ok(sent)
}

/// Sends until it is told that it has been enough, `messages` more after that, and finishes. Returns how many it sent.
async fn send_until(mut sender: Sender, enough: watch::Receiver<bool>, messages: usize) -> Result<usize, Error> {
    let message = Bytes::from(vec![7; MESSAGE_BYTES]);
    let mut sent = 0;
    let mut left = messages;
    while left > 0 {
        sender.send(message.clone()).await?;
        sent += 1;
        left -= usize::from(*enough.borrow());
    }
    sender.finish().await?;
    Ok(sent)
}

fn payloads(purpose: u64) -> Vec<Payload> {
    (0..8).map(|number| Payload::mixed(Random::new(seed(), 100 * purpose + number), 50, 64 << 10)).collect()
}

/// Where each stream to or from the processes under test stands at this node.
async fn offsets(daemon: &Daemon) -> BTreeMap<String, u64> {
    let streams = daemon.status().await.streams.into_iter().filter(|stream| stream.job == JOB);
    streams.map(|stream| (stream.producer, stream.offset)).collect()
}

/// Waits until nothing moves there.
async fn stands_still(daemon: &Daemon) {
    let mut before = offsets(daemon).await;
    let mut alike = 0;
    eventually("the streams stand still", async || {
        let now = offsets(daemon).await;
        alike = if now == before { alike + 1 } else { 0 };
        before = now;
        (alike == 20).then_some(())
    })
    .await;
}

async fn bound_consumer(node_b: &Daemon) -> Process {
    let streams = STREAMS.to_string();
    let more = [("consumer", "sleeper"), ("streams", streams.as_str()), ("then", "close")];
    let mut sleeper = process::spawn("consume", arguments(&node_b.local, &more));
    sleeper.says("bound").await;
    sleeper
}

#[tokio::test]
async fn a_stopped_consumer_leaves_its_node_no_more_than_its_quota_and_no_other_stream_feels_it() {
    in_time(async {
        let quota = |id: &str, toml: &mut String| {
            if id == "node-b" {
                toml.push_str(&format!("[limits]\nprocess_quota_bytes = {QUOTA_BYTES}\n"));
            }
        };
        let cluster = Cluster::builder().config(quota).start().await;
        let (node_a, node_b) = (cluster.node("node-a"), cluster.node("node-b"));
        let (a, b) = (node_a.attach().await, node_b.attach().await);
        let mut sleeper = bound_consumer(node_b).await;
        let mut sending = JoinSet::new();
        let base = resident_bytes(node_b.pid);
        // None of them can end before the sleeper has been stopped: it is told to only then.
        let (enough, told) = watch::channel(false);
        for number in 0..STREAMS {
            let sender = open(&a, &format!("producer-{number}"), "sleeper").await;
            sending.spawn(send_until(sender, told.clone(), 10));
        }
        // Until streams have moved for a while, and their windows have grown.
        eventually("megabytes have passed", async || {
            (offsets(node_b).await.values().sum::<u64>() > 64 * MIB).then_some(())
        })
        .await;
        sleeper.signal(Signal::STOP);
        stands_still(node_b).await;
        let status = node_b.status().await;
        assert_eq!(status.streams.len(), STREAMS, "it was stopped in mid-stream: none has ended");

        let peak = peak_bytes(node_b.pid);
        assert!(
            peak <= base + QUOTA_BYTES + SLACK_BYTES,
            "node-b has had {} MiB, {} MiB of it before the streams",
            peak / MIB,
            base / MIB
        );
        let queued: u64 = status.streams.iter().map(|stream| stream.queued).sum();
        assert!(queued <= QUOTA_BYTES + 20 * STREAMS as u64, "{queued} bytes wait in node-b");
        // From the same process, over the same trunk, to another process.
        exchange("moving", &a, &b, "awake", payloads(1)).await;

        enough.send_replace(true);
        sleeper.signal(Signal::CONT);
        let mut sent = 0;
        while let Some(done) = sending.join_next().await {
            sent += done.expect("no task panics").unwrap_or_else(|error| panic!("{error}"));
        }
        assert_eq!(sleeper.says("consumed").await, (sent * MESSAGE_BYTES).to_string(), "nothing is lost");
        sleeper.says("closed").await;
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_stopped_producer_keeps_nothing_of_its_consumers_budget() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (node_a, node_b) = (cluster.node("node-a"), cluster.node("node-b"));
        let a = node_a.attach().await;
        let b = Attachment::builder().receive_budget_bytes(RECEIVE_BUDGET_BYTES).connect(&node_b.local).await;
        let b = b.expect("attached");
        let job = b.job(JOB, RUN).expect("a job");
        let mut consumer = job.consumer("consumer").expect("a name").bind().await.expect("bound");
        let address = format!("{JOB}/consumer@node-b");
        let more = [("producer", "stopped"), ("address", address.as_str()), ("bytes", "1000"), ("then", "send")];
        let stopped = process::spawn("produce", arguments(&node_a.local, &more));
        let mut receiver = consumer.accept().await.expect("the stream");
        let received = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&received);
        let reading = tokio::spawn(async move {
            while receiver.recv().await.is_ok_and(|message| message.is_some()) {
                counting.fetch_add(1, Ordering::Relaxed);
            }
        });
        let messages = async || received.load(Ordering::Relaxed);
        eventually("its window has grown", async || (messages().await > 5_000).then_some(())).await;
        stopped.signal(Signal::STOP);
        stands_still(node_b).await;

        // All of them at once, though together they need the whole budget many times.
        let mut sending = JoinSet::new();
        for number in 0..16 {
            let name = format!("other-{number}");
            let (sender, receiver) = tokio::join!(open(&a, &name, "consumer"), consumer.accept());
            let mut receiver = receiver.expect("the stream");
            sending.spawn(async move {
                let receiving = async {
                    let mut bytes = 0;
                    while let Some(message) = receiver.recv().await? {
                        bytes += message.len();
                    }
                    Ok(bytes)
                };
                tokio::try_join!(send(sender, 64), receiving).map(|(_, bytes)| bytes)
            });
        }
        while let Some(done) = sending.join_next().await {
            assert_eq!(done.expect("no task panics").unwrap_or_else(|error| panic!("{error}")), 64 * MESSAGE_BYTES);
        }

        let before = messages().await;
        stopped.signal(Signal::CONT);
        eventually("it goes on", async || (messages().await > before + 5_000).then_some(())).await;
        drop(stopped);
        reading.await.expect("the reader ends with the stream");
        cluster.carries_nothing().await;
    })
    .await;
}
