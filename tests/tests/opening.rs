//! How a stream begins, and all the ways in which it is refused.

use std::time::{Duration, Instant};

use tokio::time::timeout;
use trunkline::{Attachment, Bytes, Code, Consumer, Error, ErrorKind, Job, Sender};
use trunkline_tests::{
    cluster::{Cluster, Daemon},
    eventually,
    exchange::RUN,
    in_time,
};

fn job(attachment: &Attachment) -> Job {
    attachment.job("opening", RUN).expect("a job")
}

async fn open(attachment: &Attachment, address: &str) -> Result<Sender, Error> {
    job(attachment).producer("producer").expect("a producer").open(address).await
}

async fn bind(attachment: &Attachment, consumer: &str) -> Result<Consumer, Error> {
    job(attachment).consumer(consumer).expect("a consumer").bind().await
}

async fn parked(node: &Daemon, count: usize) {
    let table = async || (node.status().await.parked.len() == count).then_some(());
    eventually(&format!("{} has {count} parked opens", node.id), table).await;
}

#[tokio::test]
async fn producers_that_start_before_their_consumer_are_parked_and_then_served() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let early = |attachment: &Attachment, name: &str| {
            let producer = job(attachment).producer(name).expect("a producer");
            tokio::spawn(async move {
                let mut sender = producer.open("opening/late@node-b").await?;
                sender.send(Bytes::from(producer.name().to_string())).await?;
                sender.finish().await
            })
        };
        let remote: Vec<_> = (0..5).map(|number| early(&a, &format!("remote-{number}"))).collect();
        let local: Vec<_> = (0..5).map(|number| early(&b, &format!("local-{number}"))).collect();
        parked(cluster.node("node-b"), 10).await;

        let mut consumer = bind(&b, "late").await.unwrap();
        for _ in 0..10 {
            let mut receiver = consumer.accept().await.unwrap();
            let message = receiver.recv().await.unwrap().expect("one message");
            assert_eq!(message, receiver.producer().name.to_string());
            assert_eq!(receiver.recv().await.unwrap(), None);
        }
        for producer in remote.into_iter().chain(local) {
            producer.await.unwrap().unwrap();
        }
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn an_open_to_a_name_that_nobody_binds_fails_with_not_bound_after_the_open_timeout() {
    in_time(async {
        let limits = "[limits]\nopen_timeout_ms = 300\n";
        let cluster = Cluster::builder().config(|_, toml| toml.push_str(limits)).start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        for attachment in [&a, &b] {
            let began = Instant::now();
            let error = open(attachment, "opening/nobody@node-b").await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, Some(Code::NotBound)), "{error}");
            assert!(error.is_retryable());
            assert!(error.to_string().contains("opening/nobody"), "{error}");
            assert!(began.elapsed() >= Duration::from_millis(300), "after {:?}", began.elapsed());
        }
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn an_open_is_refused_as_busy_when_the_table_of_parked_opens_is_full() {
    in_time(async {
        let limits = "[limits]\nparked_opens_max = 2\n";
        let cluster = Cluster::builder().config(|_, toml| toml.push_str(limits)).start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let first = tokio::spawn({
            let a = a.clone();
            async move { open(&a, "opening/consumer@node-b").await }
        });
        let second = tokio::spawn({
            let b = b.clone();
            async move { open(&b, "opening/consumer@node-b").await }
        });
        parked(cluster.node("node-b"), 2).await;
        for attachment in [&a, &b] {
            let error = open(attachment, "opening/consumer@node-b").await.unwrap_err();
            assert_eq!((error.code(), error.is_retryable()), (Some(Code::Busy), true), "{error}");
        }
        // The two that wait are none the worse.
        let _consumer = bind(&b, "consumer").await.unwrap();
        let (_first, _second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
        let _third = open(&a, "opening/consumer@node-b").await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_name_is_bound_once_at_a_time() {
    in_time(async {
        let cluster = Cluster::builder().nodes(["node-a"]).start().await;
        let node = cluster.node("node-a");
        let (one, other) = (node.attach().await, node.attach().await);
        let holder = bind(&one, "name").await.unwrap();
        for attachment in [&one, &other] {
            let error = bind(attachment, "name").await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, Some(Code::AlreadyBound)), "{error}");
            assert!(error.is_retryable());
        }
        // The run is no part of the name.
        let next_run = other.job("opening", "run-2").unwrap();
        let error = next_run.consumer("name").unwrap().bind().await.unwrap_err();
        assert_eq!(error.code(), Some(Code::AlreadyBound), "{error}");

        holder.close().await.unwrap();
        let again = async || bind(&other, "name").await.ok();
        let holder = eventually("the name is free", again).await;
        drop(holder);
        // A process that detaches frees what it held.
        let _holder = eventually("the name is free again", async || bind(&one, "name").await.ok()).await;
        one.close().await.unwrap();
        eventually("the name is free once more", async || bind(&other, "name").await.ok()).await;
    })
    .await;
}

#[tokio::test]
async fn another_run_is_refused_whether_the_consumer_is_bound_or_yet_to_come() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let old_run = a.job("opening", "run-0").unwrap();

        let leftover = old_run.producer("leftover").unwrap();
        let waiting = tokio::spawn(async move { leftover.open("opening/consumer@node-b").await });
        parked(cluster.node("node-b"), 1).await;
        let mut consumer = bind(&b, "consumer").await.unwrap();
        let parked = waiting.await.unwrap().unwrap_err();
        let bound = old_run.producer("late").unwrap().open("opening/consumer@node-b").await.unwrap_err();
        for error in [parked, bound] {
            assert_eq!((error.code(), error.is_retryable()), (Some(Code::RunMismatch), false), "{error}");
            assert!(error.to_string().contains(RUN) && error.to_string().contains("run-0"), "{error}");
        }

        // And the consumer saw nothing of either.
        let sender = open(&a, "opening/consumer@node-b").await.unwrap();
        assert_eq!(consumer.accept().await.unwrap().producer().name.as_str(), "producer");
        drop(sender);
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn an_unknown_node_is_refused_at_once() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let a = cluster.node("node-a").attach().await;
        let refused = timeout(Duration::from_secs(5), open(&a, "opening/consumer@node-z")).await;
        let error = refused.expect("long before the open timeout of 30 s").unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), (Some(Code::UnknownNode), false), "{error}");
        assert!(error.to_string().contains("node-z"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_is_down_is_unreachable_after_the_open_timeout_and_the_text_says_why() {
    in_time(async {
        let limits = "[limits]\nopen_timeout_ms = 1200\n";
        let mut cluster = Cluster::builder().config(|_, toml| toml.push_str(limits)).start().await;
        cluster.node("node-b").kill();
        cluster.node("node-b").exited().await;
        let a = cluster.node("node-a").attach().await;
        let began = Instant::now();
        let error = open(&a, "opening/consumer@node-b").await.unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), (Some(Code::Unreachable), true), "{error}");
        assert!(began.elapsed() >= Duration::from_millis(1200), "after {:?}", began.elapsed());
        let address = cluster.node("node-b").udp.to_string();
        let text = error.to_string();
        assert!(text.contains("node-b") && text.contains(&address), "it names the peer and where it was tried: {text}");

        // The same attempt succeeds once the peer is back.
        cluster.restart("node-b").await;
        let b = cluster.node("node-b").attach().await;
        let _consumer = bind(&b, "consumer").await.unwrap();
        eventually("node-b is reached", async || open(&a, "opening/consumer@node-b").await.ok()).await;
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_open_is_withdrawn_and_the_consumer_never_sees_it() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        for attachment in [&a, &b] {
            let attachment = attachment.clone();
            let opening = tokio::spawn(async move { open(&attachment, "opening/consumer@node-b").await });
            parked(cluster.node("node-b"), 1).await;
            opening.abort();
            parked(cluster.node("node-b"), 0).await;
            cluster.carries_nothing().await;
        }
        let mut consumer = bind(&b, "consumer").await.unwrap();
        let last = job(&a).producer("last").unwrap();
        let _sender = last.open("opening/consumer@node-b").await.unwrap();
        assert_eq!(consumer.accept().await.unwrap().producer().name.as_str(), "last");
    })
    .await;
}
