//! SIGTERM or SIGINT: nothing new, what runs may end by itself, what does not is ended, and the daemon exits with 0.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tonic_health::pb::health_check_response::ServingStatus;
use trunkline::{
    Attachment, Bytes, Code, Consumer, Direction, Error, ErrorKind, Event, Events, LostStream, Receiver, Sender,
};
use trunkline_tests::{cluster::Cluster, eventually, exchange::RUN, in_time};

/// Streams are not waited for, and do not outlive their node.
const SHORT: &str = "drain_timeout_ms = 500\n[limits]\npatience_ms = 0\n";

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

async fn expect_attached(events: &mut Events, to: &str) {
    let Some(Event::Attached { node, .. }) = events.next().await else { panic!("a subscription begins with that") };
    assert_eq!(node.as_str(), to);
}

/// What the drain leaves to the streams.
async fn expect_draining(events: &mut Events) -> Duration {
    match events.next().await {
        Some(Event::Draining { left, .. }) => left,
        other => panic!("the drain is next, not {other:?}"),
    }
}

async fn expect_lost(events: &mut Events) -> LostStream {
    match events.next().await {
        Some(Event::Lost(lost)) => lost,
        other => panic!("the loss is next, not {other:?}"),
    }
}

/// The node is gone, and that is the last that is heard.
async fn expect_detached(events: &mut Events) {
    match events.next().await {
        Some(Event::Detached { kind, .. }) => assert_eq!(kind, ErrorKind::NodeLost),
        other => panic!("the end is next, not {other:?}"),
    }
    assert_eq!(events.next().await, None);
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
async fn a_stream_that_does_not_end_is_let_go_at_the_deadline_and_without_patience_both_ends_have_an_error() {
    for drained in ["node-a", "node-b"] {
        in_time(async {
            let deadline = |_: &str, toml: &mut String| toml.push_str(SHORT);
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
            // The node closes its trunks before its links, and either may be heard first.
            for error in [error, finished] {
                let ended = (error.kind(), error.code().unwrap());
                let expected = [
                    (ErrorKind::NodeLost, Code::NodeLost),
                    (ErrorKind::Aborted, Code::TrunkLost),
                    // The producer's, when it asked for the end before it heard.
                    (ErrorKind::Aborted, Code::OutcomeUnknown),
                ];
                assert!(expected.contains(&ended), "{drained}: {error}");
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
        let cluster = Cluster::builder().config(|_, toml| toml.push_str("[limits]\npatience_ms = 0\n")).start().await;
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

#[tokio::test]
async fn processes_of_a_drained_node_hear_of_the_drain_then_without_patience_of_what_is_lost_then_of_its_end() {
    const LIMIT: Duration = Duration::from_millis(500);
    for (drained, direction) in [("node-a", Direction::Sent), ("node-b", Direction::Received)] {
        in_time(async {
            let limit = |_: &str, toml: &mut String| toml.push_str(SHORT);
            let cluster = Cluster::builder().config(limit).start().await;
            let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
            let (own, other) = if drained == "node-a" { (&a, &b) } else { (&b, &a) };
            let (mut events, mut elsewhere) = (own.events(), other.events());
            let mut consumer = bind(&b, "consumer").await.unwrap();
            let (_sender, _receiver) = stream(&a, &mut consumer).await;

            cluster.node(drained).terminate();
            expect_attached(&mut events, drained).await;
            let left = expect_draining(&mut events).await;
            assert!(left > Duration::ZERO && left <= LIMIT, "{drained}: {left:?}");
            assert!(own.is_draining() && !other.is_draining());
            // The node closes its trunks before its links, and either may be heard first.
            let lost = match events.next().await {
                Some(Event::Suspended { streams: 1, .. }) => expect_lost(&mut events).await,
                Some(Event::Lost(lost)) => lost,
                other => panic!("the loss is next, not {other:?}"),
            };
            assert_eq!((lost.direction, lost.code.ends_path(), lost.offset), (direction, true, 0), "{lost}");
            assert_eq!(lost.producer.as_str(), "producer");
            assert_eq!(lost.consumer, consumer.address());
            expect_detached(&mut events).await;
            // A process of another node loses the stream; its own node does not drain.
            expect_attached(&mut elsewhere, other.node().as_str()).await;
            assert!(matches!(elsewhere.next().await, Some(Event::Suspended { streams: 1, .. })));
            let lost = expect_lost(&mut elsewhere).await;
            assert_eq!(lost.code, Code::TrunkLost, "{lost}");
            assert_ne!(lost.direction, direction, "{lost}");
            assert_eq!(cluster.node(drained).exited().await.code(), Some(0));
        })
        .await;
    }
}

/// Longer than the test: only streams that end by themselves let the daemon end.
const NO_LIMIT: Duration = Duration::from_secs(600);

/// A cluster whose drains have no end but that of the streams. Its processes do not wait for a node that is gone.
async fn unhurried() -> Cluster {
    let limit = |_: &str, toml: &mut String| {
        toml.push_str(&format!("drain_timeout_ms = {}\n[limits]\npatience_ms = 0\n", NO_LIMIT.as_millis()));
    };
    Cluster::builder().config(limit).start().await
}

#[tokio::test]
async fn a_stream_finished_after_the_drain_was_heard_ends_cleanly() {
    for drained in ["node-a", "node-b"] {
        in_time(async {
            let cluster = unhurried().await;
            let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
            let mut events = if drained == "node-a" { a.events() } else { b.events() };
            let mut consumer = bind(&b, "consumer").await.unwrap();
            let (mut sender, mut receiver) = stream(&a, &mut consumer).await;
            sender.send(Bytes::from_static(b"before")).await.unwrap();

            cluster.node(drained).terminate();
            expect_attached(&mut events, drained).await;
            expect_draining(&mut events).await;
            let finishing = tokio::spawn(async move {
                sender.send(Bytes::from_static(b"after")).await?;
                sender.finish().await
            });
            assert_eq!(receiver.recv().await.unwrap().unwrap(), "before");
            assert_eq!(receiver.recv().await.unwrap().unwrap(), "after");
            assert_eq!(receiver.recv().await.unwrap(), None);
            finishing.await.unwrap().unwrap();
            // Nothing was lost.
            expect_detached(&mut events).await;
            assert_eq!(cluster.node(drained).exited().await.code(), Some(0));
        })
        .await;
    }
}

#[tokio::test]
async fn who_listens_only_when_the_drain_has_begun_hears_first_that_it_has() {
    in_time(async {
        let cluster = unhurried().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let mut early = a.events();
        let mut consumer = bind(&b, "consumer").await.unwrap();
        let (sender, mut receiver) = stream(&a, &mut consumer).await;

        cluster.node("node-a").terminate();
        expect_attached(&mut early, "node-a").await;
        let begun_with = expect_draining(&mut early).await;
        let mut late = a.events();
        expect_attached(&mut late, "node-a").await;
        let left = expect_draining(&mut late).await;
        assert!(left > Duration::ZERO && left <= begun_with, "{left:?} of {begun_with:?}");

        let (finished, end) = tokio::join!(sender.finish(), receiver.recv());
        finished.unwrap();
        assert_eq!(end.unwrap(), None);
        expect_detached(&mut early).await;
        expect_detached(&mut late).await;
        let mut too_late = a.events();
        expect_detached(&mut too_late).await;
        assert_eq!(cluster.node("node-a").exited().await.code(), Some(0));
    })
    .await;
}
