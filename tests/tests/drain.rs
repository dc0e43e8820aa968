//! SIGTERM or SIGINT: nothing new, what runs may end by itself, what does not is ended, and the daemon exits with 0.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tonic_health::pb::health_check_response::ServingStatus;
use trunkline::{Attachment, Bytes, Code, Consumer, Error, ErrorKind, Receiver, Sender};
use trunkline_tests::{cluster::Cluster, eventually, exchange::RUN, in_time};

async fn bind(attachment: &Attachment, consumer: &str) -> Result<Consumer, Error> {
    attachment.job("drain", RUN).expect("a job").consumer(consumer).expect("a name").bind().await
}

async fn open(attachment: &Attachment, address: &str) -> Result<Sender, Error> {
    attachment.job("drain", RUN).expect("a job").producer("producer").expect("a name").open(address).await
}

/// Both ends of a new stream.
async fn stream(a: &Attachment, consumer: &mut Consumer) -> (Sender, Receiver) {
    let address = consumer.address().to_string();
    let (sender, receiver) = tokio::join!(open(a, &address), consumer.accept());
    (sender.expect("accepted"), receiver.expect("the stream"))
}

#[tokio::test]
async fn a_draining_node_takes_nothing_new_and_lets_streams_finish() {
    for drained in ["node-a", "node-b"] {
        in_time(async {
            let cluster = Cluster::builder().start().await;
            let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
            let mut consumer = bind(&b, "consumer").await.unwrap();
            let (mut sender, mut receiver) = stream(&a, &mut consumer).await;
            sender.send(Bytes::from_static(b"before")).await.unwrap();
            // Nobody will ever bind that name; the one that waits for it need not wait for the drain's end.
            let waiting = tokio::spawn({
                let attachment = if drained == "node-a" { a.clone() } else { b.clone() };
                async move { open(&attachment, &format!("drain/nobody@{drained}")).await }
            });
            let daemon = cluster.node(drained);
            eventually("it is parked", async || (daemon.status().await.parked.len() == 1).then_some(())).await;
            assert_eq!(daemon.health().await.unwrap(), ServingStatus::Serving);

            daemon.terminate();
            let not_serving = async || (daemon.health().await.ok()? == ServingStatus::NotServing).then_some(());
            eventually("health says so", not_serving).await;
            assert!(daemon.status().await.draining);
            let error = waiting.await.unwrap().unwrap_err();
            assert_eq!(error.code(), Some(Code::Draining), "{error}");
            let (own, other) = if drained == "node-a" { (&a, &b) } else { (&b, &a) };
            // The peer's word may still be on its way to the process.
            for attachment in [own, other] {
                let address = format!("drain/nobody@{drained}");
                let refused =
                    async || open(attachment, &address).await.err().filter(|e| e.code() == Some(Code::Draining));
                let error = eventually("opens are refused", refused).await;
                assert!(error.kind() == ErrorKind::Draining && error.is_retryable(), "{error}");
            }
            let error = bind(own, "another").await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Draining, Some(Code::Draining)), "{error}");
            let refused = Attachment::connect(&daemon.local).await.unwrap_err();
            assert!(refused.is_retryable(), "{refused}");

            // What runs goes on.
            let finishing = tokio::spawn(async move {
                sender.send(Bytes::from_static(b"after")).await?;
                sender.finish().await
            });
            assert_eq!(receiver.recv().await.unwrap().unwrap(), "before");
            assert_eq!(receiver.recv().await.unwrap().unwrap(), "after");
            assert_eq!(receiver.recv().await.unwrap(), None);
            finishing.await.unwrap().unwrap();
            assert_eq!(daemon.exited().await.code(), Some(0));
        })
        .await;
    }
}

#[tokio::test]
async fn a_stream_that_does_not_end_is_aborted_at_the_deadline_with_an_error_at_both_ends() {
    for drained in ["node-a", "node-b"] {
        in_time(async {
            let deadline = |_: &str, toml: &mut String| toml.push_str("drain_timeout_ms = 500\n");
            let cluster = Cluster::builder().config(deadline).start().await;
            let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
            let mut consumer = bind(&b, "consumer").await.unwrap();
            let (mut sender, mut receiver) = stream(&a, &mut consumer).await;
            sender.send(Bytes::from_static(b"one")).await.unwrap();
            assert_eq!(receiver.recv().await.unwrap().unwrap(), "one");

            let began = Instant::now();
            cluster.node(drained).terminate();
            let error = receiver.recv().await.unwrap_err();
            assert!(began.elapsed() >= Duration::from_millis(500), "{drained}: after {:?}", began.elapsed());
            // Four bytes with the length. The producer may know of less, never of more.
            assert_eq!(error.offset(), Some(4), "{drained}: {error}");
            let finished = sender.finish().await.unwrap_err();
            assert!(finished.offset().is_some_and(|offset| offset <= 4), "{drained}: {finished}");
            for error in [error, finished] {
                assert_eq!(
                    (error.kind(), error.code()),
                    (ErrorKind::Aborted, Some(Code::Draining)),
                    "{drained}: {error}"
                );
            }
            assert_eq!(cluster.node(drained).exited().await.code(), Some(0));
        })
        .await;
    }
}

#[tokio::test]
async fn sigint_drains_like_sigterm_and_ends_with_0() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let mut consumer = bind(&b, "consumer").await.unwrap();
        let (mut sender, mut receiver) = stream(&a, &mut consumer).await;
        let daemon = cluster.node("node-a");
        daemon.signal(Signal::INT);
        eventually("it drains", async || daemon.try_status().await.ok()?.draining.then_some(())).await;
        let finishing = tokio::spawn(async move {
            sender.send(Bytes::from_static(b"after")).await?;
            sender.finish().await
        });
        assert_eq!(receiver.recv().await.unwrap().unwrap(), "after");
        assert_eq!(receiver.recv().await.unwrap(), None);
        finishing.await.unwrap().unwrap();
        assert_eq!(daemon.exited().await.code(), Some(0));
        assert!(!daemon.local.exists() && !daemon.admin.exists(), "it leaves no socket behind");
    })
    .await;
}

#[tokio::test]
async fn a_node_without_streams_stops_at_once() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, _b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let began = Instant::now();
        cluster.node("node-a").terminate();
        assert_eq!(cluster.node("node-a").exited().await.code(), Some(0));
        assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
        let lost = async || open(&a, "drain/nobody@node-b").await.err().filter(|e| e.kind() == ErrorKind::NodeLost);
        eventually("the process knows", lost).await;
    })
    .await;
}
