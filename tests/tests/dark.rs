//! What happens at one end of a stream while its path is dark is told to the other when there is light again, whoever has died
//! by then.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{ffi::OsString, path::Path, time::Duration};

use tokio::time::{sleep, timeout};
use trunkline::{Attachment, Bytes, Code, Consumer, ErrorKind, Receiver, Sender};
use trunkline_tests::{
    cluster::Cluster,
    eventually,
    exchange::RUN,
    forwarder::Network,
    in_time,
    process::{self, Process},
};

const JOB: &str = "dark";
/// Silence after which a trunk is lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it is dark: the trunk is lost at both nodes.
const DARKNESS: Duration = Duration::from_millis(2_500);
/// Longer than anything local takes: what has not happened by then is not about to.
const A_WHILE: Duration = Duration::from_millis(300);

/// Two nodes and the path between them.
struct World {
    cluster: Cluster,
    network: Network,
}

impl World {
    async fn new(limits: &str) -> Self {
        let network = Network::default();
        let idle_timeout_ms = IDLE_TIMEOUT.as_millis();
        let cluster = Cluster::builder()
            .config(|_, toml| {
                toml.push_str(&format!(
                    "[limits]\n{limits}\n[trunk]\nkeep_alive_ms = 300\nidle_timeout_ms = {idle_timeout_ms}\n"
                ));
            })
            .peer_address(|from, to, real| network.address(from, to, real))
            .start()
            .await;
        Self { cluster, network }
    }

    fn dark(&self, dark: bool) {
        self.network.between("node-a", "node-b").iter().for_each(|path| path.dark(dark));
    }

    async fn attach(&self) -> (Attachment, Attachment) {
        (self.cluster.node("node-a").attach().await, self.cluster.node("node-b").attach().await)
    }

    /// Waits until both nodes have lost their trunk.
    async fn lose_trunks(&self) {
        for node in self.cluster.nodes() {
            let lost = async || node.status().await.trunks.is_empty().then_some(());
            eventually("the trunk is lost", lost).await;
        }
    }
}

async fn bind(attachment: &Attachment) -> Consumer {
    attachment.job(JOB, RUN).unwrap().consumer("consumer").unwrap().bind().await.unwrap()
}

/// A stream from node-a to node-b that has moved one message, of four bytes with its length.
async fn stream(from: &Attachment, consumer: &mut Consumer) -> (Sender, Receiver) {
    let producer = from.job(JOB, RUN).unwrap().producer("producer").unwrap();
    let (sender, receiver) = tokio::join!(producer.open(consumer.address()), consumer.accept());
    let (mut sender, mut receiver) = (sender.unwrap(), receiver.unwrap());
    sender.send(Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(receiver.recv().await.unwrap().unwrap(), "one");
    (sender, receiver)
}

fn spawn(role: &str, socket: &Path, more: &[(&str, &str)]) -> Process {
    let common = [("socket", OsString::from(socket)), ("job", JOB.into()), ("run", RUN.into())];
    let more: Vec<_> = more.iter().map(|(name, value)| (*name, OsString::from(value))).collect();
    process::spawn(role, common.into_iter().chain(more))
}

/// When, after it has become dark, something happens: at once, while the nodes still believe in their trunk, or when they
/// have lost it.
const WHEN: [bool; 2] = [false, true];

#[tokio::test]
async fn a_finish_that_was_consumed_in_the_dark_is_told_when_there_is_light() {
    for trunk_is_lost in WHEN {
        in_time(async {
            let world = World::new("").await;
            let (a, b) = world.attach().await;
            let mut consumer = bind(&b).await;
            let (mut sender, mut receiver) = stream(&a, &mut consumer).await;
            // It arrives, and is read when nobody can be told of it.
            sender.send(Bytes::from_static(b"two")).await.unwrap();
            let finishing = tokio::spawn(sender.finish());
            receiver.readable().await;
            sleep(A_WHILE).await;
            world.dark(true);
            if trunk_is_lost {
                world.lose_trunks().await;
            }
            assert_eq!(receiver.recv().await.unwrap().unwrap(), "two");
            assert_eq!(receiver.recv().await.unwrap(), None);
            sleep(DARKNESS).await;
            assert!(!finishing.is_finished());
            world.dark(false);
            finishing.await.unwrap().unwrap();
            world.cluster.carries_nothing().await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_cancel_and_an_abort_in_the_dark_are_told_when_there_is_light() {
    for trunk_is_lost in WHEN {
        in_time(async {
            let world = World::new("").await;
            let (a, b) = world.attach().await;
            let mut consumer = bind(&b).await;
            let (mut cancelled, receiver) = stream(&a, &mut consumer).await;
            let (aborted, mut reading) = stream(&a, &mut consumer).await;
            world.dark(true);
            if trunk_is_lost {
                world.lose_trunks().await;
            }
            receiver.cancel("enough of it");
            aborted.abort("enough");
            sleep(DARKNESS).await;
            assert!(timeout(A_WHILE, reading.recv()).await.is_err(), "nobody has told it yet");
            world.dark(false);
            let error = reading.recv().await.unwrap_err();
            assert_eq!((error.code(), error.offset()), (Some(Code::Cancelled), Some(4)), "{error}");
            assert!(error.to_string().contains("enough"), "{error}");
            let error = cancelled.ended().await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Aborted, Some(Code::Cancelled)), "{error}");
            world.cluster.carries_nothing().await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_producer_that_dies_in_the_dark_is_told_when_there_is_light() {
    for trunk_is_lost in WHEN {
        in_time(async {
            let world = World::new("").await;
            let (_, b) = world.attach().await;
            let mut consumer = bind(&b).await;
            let address = consumer.address().to_string();
            let arguments =
                [("producer", "doomed"), ("address", &address), ("messages", "1"), ("bytes", "3"), ("then", "wait")];
            let mut doomed = spawn("produce", &world.cluster.node("node-a").local, &arguments);
            let mut receiver = consumer.accept().await.unwrap();
            doomed.says("sent").await;
            assert_eq!(receiver.recv().await.unwrap().unwrap().len(), 3);
            world.dark(true);
            if trunk_is_lost {
                world.lose_trunks().await;
            }
            doomed.kill().await;
            sleep(DARKNESS).await;
            assert!(timeout(A_WHILE, receiver.recv()).await.is_err(), "nobody has told it yet");
            world.dark(false);
            let error = receiver.recv().await.unwrap_err();
            assert_eq!((error.code(), error.offset()), (Some(Code::ProducerGone), Some(4)), "{error}");
            world.cluster.carries_nothing().await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_consumer_that_dies_in_the_dark_is_told_when_there_is_light() {
    for trunk_is_lost in WHEN {
        in_time(async {
            let world = World::new("").await;
            let (a, _) = world.attach().await;
            let arguments = [("consumer", "consumer"), ("messages", "1")];
            let mut doomed = spawn("consume", &world.cluster.node("node-b").local, &arguments);
            doomed.says("bound").await;
            let producer = a.job(JOB, RUN).unwrap().producer("producer").unwrap();
            let mut sender = producer.open(format!("{JOB}/consumer@node-b")).await.unwrap();
            sender.send(Bytes::from_static(b"one")).await.unwrap();
            doomed.says("consumed").await;
            world.dark(true);
            if trunk_is_lost {
                world.lose_trunks().await;
            }
            doomed.kill().await;
            sleep(DARKNESS).await;
            assert!(timeout(A_WHILE, sender.ended()).await.is_err(), "nobody has told it yet");
            world.dark(false);
            let error = sender.ended().await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Aborted, Some(Code::ConsumerGone)), "{error}");
            world.cluster.carries_nothing().await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_consumer_that_has_finished_and_is_gone_has_its_end_told_by_its_node() {
    in_time(async {
        let world = World::new("").await;
        let (a, _) = world.attach().await;
        let mut reader =
            spawn("consume", &world.cluster.node("node-b").local, &[("consumer", "consumer"), ("then", "close")]);
        reader.says("bound").await;
        let producer = a.job(JOB, RUN).unwrap().producer("producer").unwrap();
        let mut sender = producer.open(format!("{JOB}/consumer@node-b")).await.unwrap();
        // The way back is dark: everything arrives, and nothing is heard of it.
        sender.send(Bytes::from_static(b"one")).await.unwrap();
        sleep(A_WHILE).await;
        world.network.direction("node-b", "node-a").dark(true);
        let finishing = tokio::spawn(sender.finish());
        reader.says("consumed").await;
        reader.exited().await;
        world.lose_trunks().await;
        world.dark(false);
        finishing.await.unwrap().unwrap();
        world.cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn when_patience_is_over_both_ends_have_an_error_and_an_outcome_that_is_not_known_is_called_so() {
    in_time(async {
        let world = World::new("patience_ms = 2000").await;
        let (a, b) = world.attach().await;
        let mut consumer = bind(&b).await;
        let (mut sender, mut receiver) = stream(&a, &mut consumer).await;
        let (finishing, mut finished) = stream(&a, &mut consumer).await;
        let finishing = tokio::spawn(finishing.finish());
        finished.readable().await;
        world.dark(true);
        let (sent, received) = tokio::join!(sender.ended(), receiver.recv());
        for error in [sent.unwrap_err(), received.unwrap_err()] {
            assert_eq!((error.kind(), error.code()), (ErrorKind::Aborted, Some(Code::TrunkLost)), "{error}");
            assert!(error.to_string().contains("within 2s"), "{error}");
        }
        let error = finishing.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Some(Code::OutcomeUnknown), "{error}");
        // All of it has come: that can still be read.
        assert_eq!(finished.recv().await.unwrap(), None);
        world.dark(false);
        world.cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_job_may_have_a_patience_of_its_own() {
    in_time(async {
        let world = World::new("").await;
        let b = world.cluster.node("node-b").attach().await;
        let impatient = Attachment::builder().job_patience(JOB, Duration::ZERO).unwrap();
        let a = impatient.connect(&world.cluster.node("node-a").local).await.unwrap();
        let mut consumer = bind(&b).await;
        let (mut sender, mut receiver) = stream(&a, &mut consumer).await;
        world.dark(true);
        let error = sender.ended().await.unwrap_err();
        assert_eq!(error.code(), Some(Code::TrunkLost), "{error}");
        assert!(timeout(A_WHILE, receiver.recv()).await.is_err(), "the other end has more");
    })
    .await;
}
