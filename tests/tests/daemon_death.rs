//! A daemon that is killed: its processes know at once, its peers within the idle timeout or as soon as it is back. What becomes
//! of streams that have the patience to wait for it, survive.rs shows.

use std::time::{Duration, Instant};

use trunkline::{Attachment, Bytes, Code, Consumer, ErrorKind, Receiver, Sender};
use trunkline_tests::{
    cluster::Cluster,
    eventually,
    exchange::{RUN, exchange},
    in_time,
    payload::{Payload, Random, seed},
};

async fn bind(attachment: &Attachment, consumer: &str) -> Consumer {
    attachment.job("death", RUN).expect("a job").consumer(consumer).expect("a name").bind().await.expect("bound")
}

/// A stream over the trunk that has moved a message of nine bytes, ten with its length.
async fn stream(from: &Attachment, consumer: &mut Consumer) -> (Sender, Receiver) {
    let producer = from.job("death", RUN).expect("a job").producer("producer").expect("a name");
    let (sender, receiver) = tokio::join!(producer.open(consumer.address()), consumer.accept());
    let (mut sender, mut receiver) = (sender.expect("accepted"), receiver.expect("the stream"));
    sender.send(Bytes::from_static(b"delivered")).await.expect("sent");
    assert_eq!(receiver.recv().await.expect("received").expect("a message"), "delivered");
    (sender, receiver)
}

fn trunk(patience_ms: u64, keep_alive_ms: u64, idle_timeout_ms: u64) -> impl FnMut(&str, &mut String) {
    move |_, toml| {
        let trunk = format!("[trunk]\nkeep_alive_ms = {keep_alive_ms}\nidle_timeout_ms = {idle_timeout_ms}\n");
        toml.push_str(&format!("[limits]\npatience_ms = {patience_ms}\n{trunk}"));
    }
}

#[tokio::test]
async fn without_patience_a_killed_node_is_lost_to_its_processes_at_once_and_to_its_peers_within_the_idle_timeout() {
    in_time(async {
        let cluster = Cluster::builder().config(trunk(0, 300, 1500)).start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let (mut at_a, mut at_b) = (bind(&a, "consumer").await, bind(&b, "consumer").await);
        let (sender_at_a, mut receiver_at_b) = stream(&a, &mut at_b).await;
        let (mut sender_at_b, mut receiver_at_a) = stream(&b, &mut at_a).await;

        cluster.node("node-b").kill();
        // Its own processes: every call says so.
        let lost = [
            receiver_at_b.recv().await.unwrap_err(),
            eventually("send fails", async || sender_at_b.send(Bytes::new()).await.err()).await,
            sender_at_b.finish().await.unwrap_err(),
            at_b.accept().await.unwrap_err(),
            b.job("death", RUN).unwrap().consumer("another").unwrap().bind().await.unwrap_err(),
        ];
        for error in lost {
            assert_eq!((error.kind(), error.code()), (ErrorKind::NodeLost, Some(Code::NodeLost)), "{error}");
            assert!(error.is_retryable());
        }
        // Its peers': the trunk is silent, and then it is lost.
        let began = Instant::now();
        let (received, finished) = tokio::join!(receiver_at_a.recv(), sender_at_a.finish());
        let (received, finished) = (received.unwrap_err(), finished.unwrap_err());
        assert_eq!(received.offset(), Some(10), "{received}");
        // The producer may know of less, never of more.
        assert!(finished.offset().is_some_and(|offset| offset <= 10), "{finished}");
        // What was sent to its end may have been consumed.
        for (error, code) in [(received, Code::TrunkLost), (finished, Code::OutcomeUnknown)] {
            assert_eq!((error.kind(), error.code()), (ErrorKind::Aborted, Some(code)), "{error}");
            assert!(error.to_string().contains("node-b"), "{error}");
        }
        assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_restarted_node_is_noticed_long_before_a_long_idle_timeout_and_serves_again() {
    in_time(async {
        let mut cluster = Cluster::builder().config(trunk(60_000, 300, 60_000)).start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let mut consumer = bind(&b, "consumer").await;
        let (sender, mut receiver) = stream(&a, &mut consumer).await;

        let old_pid = cluster.node("node-b").pid;
        cluster.node("node-b").kill();
        cluster.node("node-b").exited().await;
        cluster.restart("node-b").await;
        let began = Instant::now();
        assert_ne!(cluster.node("node-b").pid, old_pid);
        // The stream that it carried goes on.
        let (finished, end) = tokio::join!(sender.finish(), receiver.recv());
        assert_eq!((finished.unwrap(), end.unwrap()), ((), None));
        assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());

        let b = cluster.node("node-b").attach().await;
        let payloads = |purpose| vec![Payload::mixed(Random::new(seed(), purpose), 20, 1 << 20)];
        drop(consumer);
        exchange("after", &a, &b, "consumer", payloads(1)).await;
        exchange("after", &b, &a, "consumer", payloads(2)).await;
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_restarted_node_that_dials_first_replaces_its_old_trunk() {
    in_time(async {
        // So rarely that only the dial can tell.
        let mut cluster = Cluster::builder().config(trunk(60_000, 20_000, 60_000)).start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let mut old_consumer = bind(&b, "consumer").await;
        let (old_sender, mut old_receiver) = stream(&a, &mut old_consumer).await;
        cluster.node("node-b").kill();
        cluster.node("node-b").exited().await;
        cluster.restart("node-b").await;
        let b = cluster.node("node-b").attach().await;
        let mut consumer = bind(&a, "consumer").await;
        let (sender, mut receiver) = stream(&b, &mut consumer).await;
        let (finished, end) = tokio::join!(sender.finish(), receiver.recv());
        finished.unwrap();
        assert_eq!(end.unwrap(), None);
        // The older stream has gone over to the new trunk.
        let (finished, end) = tokio::join!(old_sender.finish(), old_receiver.recv());
        assert_eq!((finished.unwrap(), end.unwrap()), ((), None));
        cluster.carries_nothing().await;
    })
    .await;
}
