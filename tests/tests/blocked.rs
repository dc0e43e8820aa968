//! Why a stream is slow: each node says what it has waited for. What counts is which counter grows while nothing else
//! happens, never by how much.

use std::ffi::OsString;

use rustix::process::Signal;
use tokio::task::JoinHandle;
use trunkline::{Attachment, Bytes, Consumer, Error, Sender};
use trunkline_proto::admin::Stream;
use trunkline_tests::{
    cluster::{Cluster, Daemon},
    eventually,
    exchange::RUN,
    in_time,
    process::{self, Process},
};

const JOB: &str = "blocked";

async fn bind(attachment: &Attachment) -> Consumer {
    attachment.job(JOB, RUN).expect("a job").consumer("consumer").expect("a name").bind().await.expect("bound")
}

async fn open(attachment: &Attachment) -> Sender {
    let producer = attachment.job(JOB, RUN).expect("a job").producer("producer").expect("a name");
    producer.open(format!("{JOB}/consumer@node-b")).await.expect("accepted")
}

/// Sends until the stream ends, or the task is dropped.
fn send_without_end(mut sender: Sender) -> JoinHandle<Error> {
    let message = Bytes::from(vec![7; 16 * 1024]);
    tokio::spawn(async move {
        loop {
            if let Err(error) = sender.send(message.clone()).await {
                return error;
            }
        }
    })
}

fn consumer_process(node: &Daemon) -> Process {
    let text = |text: &str| OsString::from(text);
    let arguments =
        [("socket", node.local.clone().into()), ("job", text(JOB)), ("run", text(RUN)), ("consumer", text("consumer"))];
    process::spawn("consume", arguments)
}

/// The only stream of a node.
async fn stream(node: &Daemon) -> Stream {
    let mut streams = node.status().await.streams;
    assert_eq!(streams.len(), 1, "{streams:?}");
    streams.remove(0)
}

/// What a node's only stream waited for between two looks, once it is one thing alone and no byte moves.
async fn waits_for(node: &Daemon) -> &'static str {
    eventually("a stream waits for one thing", async || {
        let (before, after) = (stream(node).await, stream(node).await);
        let counters = [
            ("application", before.blocked_application_us, after.blocked_application_us),
            ("link", before.blocked_link_us, after.blocked_link_us),
            ("credit", before.blocked_credit_us, after.blocked_credit_us),
            ("trunk", before.blocked_trunk_us, after.blocked_trunk_us),
        ];
        assert!(counters.iter().all(|(_, before, after)| after >= before), "{before:?} {after:?}");
        let grown: Vec<_> =
            counters.iter().filter(|(_, before, after)| after > before).map(|counter| counter.0).collect();
        match grown.as_slice() {
            [one] if before.offset == after.offset && before.queued == after.queued => Some(*one),
            _ => None,
        }
    })
    .await
}

/// Waits until a node's only stream waits for `what` at last.
async fn comes_to_wait_for(node: &Daemon, what: &[&str]) {
    let text = format!("the stream on {} waits for {what:?}", node.id);
    eventually(&text, async || what.contains(&waits_for(node).await).then_some(())).await;
}

#[tokio::test]
async fn an_idle_stream_waits_for_its_application_on_both_nodes() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a"), cluster.node("node-b"));
        let (producing, consuming) = (a.attach().await, b.attach().await);
        let mut consumer = bind(&consuming).await;
        let mut sender = open(&producing).await;
        let mut receiver = consumer.accept().await.unwrap();
        assert_eq!((waits_for(a).await, waits_for(b).await), ("application", "application"));
        sender.send(Bytes::from_static(b"message")).await.unwrap();
        receiver.recv().await.unwrap();
        comes_to_wait_for(a, &["application"]).await;
        comes_to_wait_for(b, &["application"]).await;
        let idle = stream(a).await;
        assert_eq!(idle.blocked_credit_us, 0, "it never lacked credit: {idle:?}");
    })
    .await;
}

#[tokio::test]
async fn a_stream_whose_consumer_does_not_read_waits_for_credit_on_both_nodes() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a"), cluster.node("node-b"));
        let (producing, consuming) = (a.attach().await, b.attach().await);
        let mut consumer = bind(&consuming).await;
        let sending = send_without_end(open(&producing).await);
        let mut receiver = consumer.accept().await.unwrap();
        comes_to_wait_for(a, &["credit"]).await;
        comes_to_wait_for(b, &["credit"]).await;
        let stalled = stream(a).await;
        // It goes on when the consumer reads again.
        while stream(a).await.offset <= stalled.offset {
            receiver.recv().await.unwrap();
        }
        sending.abort();
    })
    .await;
}

#[tokio::test]
async fn a_stopped_consumer_process_is_what_its_streams_wait_for() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a"), cluster.node("node-b"));
        let mut consumer = consumer_process(b);
        consumer.says("bound").await;
        let producing = a.attach().await;
        let sender = open(&producing).await;
        consumer.says("accepted").await;
        consumer.signal(Signal::STOP);
        let sending = send_without_end(sender);
        comes_to_wait_for(a, &["credit"]).await;
        // Bytes that its socket does not take, or credit that it does not give.
        comes_to_wait_for(b, &["link", "credit"]).await;
        let (at_a, at_b) = (stream(a).await, stream(b).await);
        consumer.signal(Signal::CONT);
        eventually("the stream goes on", async || (stream(a).await.offset > at_a.offset).then_some(())).await;
        eventually("the stream goes on", async || (stream(b).await.offset > at_b.offset).then_some(())).await;
        sending.abort();
    })
    .await;
}
