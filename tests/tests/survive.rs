//! Nothing that dies between two applications is felt at the ends: daemons are killed, stopped and restarted, paths go dark,
//! and every stream arrives byte for byte.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::{task::JoinSet, time::sleep};
use trunkline::{Attachment, Event};
use trunkline_tests::{
    cluster::Cluster,
    eventually,
    exchange::RUN,
    forwarder::Network,
    in_time,
    payload::{Digest, Random, seed},
};

/// Streams each way.
const STREAMS: u64 = 20;
/// The longest message. Longer than a stream's first window.
const LENGTH_MAX: usize = 100_000;
/// How long a fault may be felt: far more than it is, for a machine that is busy. What it is, the bench measures.
const FELT: Duration = Duration::from_secs(8);

/// Streams between two nodes in both directions, which send until they are told to finish.
struct Load {
    ends: Arc<AtomicBool>,
    /// Messages that have arrived, of each direction.
    arrived: [Arc<AtomicU64>; 2],
    sending: JoinSet<(String, Digest)>,
    receiving: JoinSet<(String, Digest)>,
}

impl Load {
    async fn begin(cluster: &Cluster) -> (Self, [Attachment; 2]) {
        let ends = [cluster.node("node-a").attach().await, cluster.node("node-b").attach().await];
        let mut load = Self {
            ends: Arc::default(),
            arrived: Default::default(),
            sending: JoinSet::new(),
            receiving: JoinSet::new(),
        };
        for (from, to) in [(0, 1), (1, 0)] {
            let job = ends[to].job("survive", RUN).unwrap();
            let mut consumer = job.consumer(format!("consumer-{to}")).unwrap().bind().await.unwrap();
            let producers = ends[from].job("survive", RUN).unwrap();
            for number in 0..STREAMS {
                let producer = producers.producer(format!("from-{from}-{number}")).unwrap();
                let (address, ends) = (consumer.address(), Arc::clone(&load.ends));
                load.sending.spawn(async move {
                    let mut sender = producer.open(address).await.unwrap();
                    let mut random = Random::new(seed(), number);
                    let mut digest = Digest::default();
                    while !ends.load(Ordering::Relaxed) {
                        let length = if random.below(20) == 0 { random.below(LENGTH_MAX) } else { random.below(500) };
                        let message = random.bytes(length);
                        digest.add(&message);
                        sender.send(message).await.unwrap();
                        // A pace that the faults, and not the machine, are what is felt.
                        sleep(Duration::from_millis(2)).await;
                    }
                    sender.finish().await.unwrap_or_else(|error| panic!("from-{from}-{number}: {error}"));
                    (producer.name().to_string(), digest)
                });
                let mut receiver = consumer.accept().await.unwrap();
                let arrived = Arc::clone(&load.arrived[to]);
                load.receiving.spawn(async move {
                    let name = receiver.producer().name.to_string();
                    let mut digest = Digest::default();
                    while let Some(message) = receiver.recv().await.unwrap_or_else(|error| panic!("{name}: {error}")) {
                        digest.add(&message);
                        arrived.fetch_add(1, Ordering::Relaxed);
                    }
                    (name, digest)
                });
            }
            load.receiving.spawn(async move {
                // The bind stays for as long as the streams do.
                let _bound = consumer.accept().await;
                (String::new(), Digest::default())
            });
        }
        load.flows().await;
        (load, ends)
    }

    /// Waits until something more arrives in both directions, and says how long that took.
    async fn flows(&self) -> Duration {
        let begun = Instant::now();
        let counts = || self.arrived.each_ref().map(|arrived| arrived.load(Ordering::Relaxed));
        let before = counts();
        eventually("streams flow in both directions", async || {
            let now = counts();
            (now[0] > before[0] + STREAMS && now[1] > before[1] + STREAMS).then_some(())
        })
        .await;
        begun.elapsed()
    }

    /// Has all streams finish, and compares what was sent with what has arrived.
    async fn end(mut self, attachments: [Attachment; 2]) {
        self.ends.store(true, Ordering::Relaxed);
        let mut sent = Vec::new();
        while let Some(one) = self.sending.join_next().await {
            sent.push(one.unwrap());
        }
        for attachment in attachments {
            attachment.close().await.unwrap();
        }
        let mut received: Vec<_> = self.receiving.join_all().await;
        received.retain(|(name, _)| !name.is_empty());
        sent.sort_by(|one, other| one.0.cmp(&other.0));
        received.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(sent.len() as u64, 2 * STREAMS);
        assert_eq!(sent, received);
    }
}

/// Ends a daemon and starts it again, after a while.
async fn kill_and_restart(cluster: &mut Cluster, nodes: &[&str], pause: Duration) {
    for node in nodes {
        cluster.node(node).kill();
    }
    for node in nodes {
        cluster.node(node).exited().await;
    }
    sleep(pause).await;
    for node in nodes {
        cluster.restart(node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_survive_the_death_of_either_node_and_of_both() {
    in_time(async {
        let mut cluster = Cluster::builder().start().await;
        let (load, ends) = Load::begin(&cluster).await;
        let mut events = ends[1].events();
        for nodes in [&["node-b"][..], &["node-a"], &["node-a", "node-b"]] {
            kill_and_restart(&mut cluster, nodes, Duration::from_millis(500)).await;
            let felt = load.flows().await;
            println!("{nodes:?} killed: flowing {felt:?} after the restart");
            assert!(felt < FELT, "{nodes:?}: nothing flowed for {felt:?} after the restart");
        }
        // Those who listen heard of it.
        let (mut interrupted, mut attached, mut resumed) = (0, 0, 0);
        while interrupted < 2 || attached < 3 || resumed < STREAMS {
            match events.next().await {
                Some(Event::Interrupted { .. }) => interrupted += 1,
                Some(Event::Attached { .. }) => attached += 1,
                Some(Event::Resumed { streams, .. }) => resumed += streams,
                Some(Event::Suspended { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        load.end(ends).await;
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_survive_a_planned_restart() {
    in_time(async {
        let mut cluster = Cluster::builder().config(|_, toml| toml.push_str("drain_timeout_ms = 300\n")).start().await;
        let (load, ends) = Load::begin(&cluster).await;
        for node in ["node-a", "node-b"] {
            cluster.node(node).terminate();
            cluster.node(node).exited().await;
            cluster.restart(node).await;
            let felt = load.flows().await;
            println!("{node} restarted as planned: flowing {felt:?} after it");
            assert!(felt < FELT, "{node}: nothing flowed for {felt:?} after the restart");
        }
        load.end(ends).await;
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_survive_a_node_that_is_stopped_for_longer_than_the_idle_timeout() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (load, ends) = Load::begin(&cluster).await;
        cluster.node("node-b").signal(Signal::STOP);
        sleep(Duration::from_secs(20)).await;
        cluster.node("node-b").signal(Signal::CONT);
        let felt = load.flows().await;
        println!("stopped for 20 s: flowing {felt:?} after it went on");
        assert!(felt < FELT, "nothing flowed for {felt:?} after it went on");
        load.end(ends).await;
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_survive_a_path_that_is_dark_for_a_second_and_for_longer_than_the_idle_timeout() {
    in_time(async {
        let network = Network::default();
        let cluster = Cluster::builder()
            .config(|_, toml| toml.push_str("[trunk]\nkeep_alive_ms = 500\nidle_timeout_ms = 3000\n"))
            .peer_address(|from, to, real| network.address(from, to, real))
            .start()
            .await;
        let (load, ends) = Load::begin(&cluster).await;
        for dark in [Duration::from_secs(1), Duration::from_secs(5)] {
            let paths = network.between("node-a", "node-b");
            paths.iter().for_each(|path| path.dark(true));
            sleep(dark).await;
            paths.iter().for_each(|path| path.dark(false));
            let felt = load.flows().await;
            println!("{dark:?} of darkness: flowing {felt:?} after it");
            assert!(felt < FELT, "nothing flowed for {felt:?} after {dark:?} of darkness");
        }
        load.end(ends).await;
        cluster.carries_nothing().await;
    })
    .await;
}
