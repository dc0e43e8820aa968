//! One QUIC connection per pair of nodes and one QUIC stream per producer/consumer pair in it, whoever dials and when;
//! one UDP socket per daemon.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};
use trunkline::{Attachment, Bytes, Receiver, Sender};
use trunkline_proto::admin::StatusResponse;
use trunkline_tests::{
    cluster::{Cluster, Daemon},
    eventually,
    exchange::{RUN, exchange},
    forwarder::{Direction, Network},
    in_time,
    payload::{Payload, Random, seed},
    sockets::{counted_by_ss, descriptors},
};

const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
const JOB: &str = "all-to-all";
/// From each node to each other one.
const STREAMS: usize = 64;
/// How often both sides dial at the same instant.
const ROUNDS: u64 = 20;

/// All ordered pairs of different nodes.
fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    NODES.into_iter().flat_map(|from| NODES.into_iter().filter(move |&to| to != from).map(move |to| (from, to)))
}

async fn attach_all(cluster: &Cluster) -> BTreeMap<&'static str, Attachment> {
    let mut attachments = BTreeMap::new();
    for node in NODES {
        attachments.insert(node, cluster.node(node).attach().await);
    }
    attachments
}

/// Opens all streams at once; each has brought one message, and stays open.
async fn open_all(attachments: &BTreeMap<&'static str, Attachment>) -> (Vec<Sender>, Vec<Receiver>) {
    let mut receiving = JoinSet::new();
    for (node, attachment) in attachments {
        let mut consumer =
            attachment.job(JOB, RUN).unwrap().consumer(format!("at-{node}")).unwrap().bind().await.unwrap();
        receiving.spawn(async move {
            let mut receivers = Vec::new();
            for _ in 0..STREAMS * (NODES.len() - 1) {
                let mut receiver = consumer.accept().await.unwrap();
                let message = receiver.recv().await.unwrap().expect("a message");
                let producer = receiver.producer();
                assert_eq!(message, format!("from {} on {}", producer.name, producer.node));
                receivers.push(receiver);
            }
            receivers
        });
    }
    let mut sending = JoinSet::new();
    for (from, to) in pairs() {
        let job = attachments[from].job(JOB, RUN).unwrap();
        for number in 0..STREAMS {
            let producer = job.producer(format!("{number}-to-{to}")).unwrap();
            sending.spawn(async move {
                let mut sender = producer.open(format!("{JOB}/at-{to}@{to}")).await.unwrap();
                sender.send(format!("from {} on {from}", producer.name()).into()).await.unwrap();
                sender
            });
        }
    }
    (sending.join_all().await, receiving.join_all().await.into_iter().flatten().collect())
}

async fn finish_all(senders: Vec<Sender>, receivers: Vec<Receiver>) {
    let mut ends: JoinSet<()> = receivers
        .into_iter()
        .map(|mut receiver| async move { assert_eq!(receiver.recv().await.unwrap(), None::<Bytes>) })
        .collect();
    for sender in senders {
        ends.spawn(async move { sender.finish().await.unwrap() });
    }
    ends.join_all().await;
}

/// Waits until the daemon has exactly one connection to each of so many peers, and that is the trunk.
async fn settled(daemon: &Daemon, peers: usize) -> StatusResponse {
    eventually(&format!("{} has one connection per peer", daemon.id), async || {
        let status = daemon.status().await;
        let known: BTreeSet<_> = status.trunks.iter().map(|trunk| trunk.peer.as_str()).collect();
        let one_each = known.len() == peers && status.trunks.len() == peers;
        (one_each && status.trunks.iter().all(|trunk| trunk.current)).then_some(status)
    })
    .await
}

/// The QUIC stream ids of the streams between a node and a peer of it.
fn quic_streams(status: &StatusResponse, peer: &str) -> Vec<u64> {
    let with_peer = |stream: &&trunkline_proto::admin::Stream| {
        [&stream.producer_node, &stream.consumer_node].into_iter().any(|node| node == peer)
    };
    status.streams.iter().filter(with_peer).map(|stream| stream.quic_stream.expect("a QUIC stream")).collect()
}

#[tokio::test]
async fn each_pair_of_nodes_has_one_connection_and_each_pair_of_processes_one_stream_in_it() {
    in_time(async {
        let network = Network::default();
        let cluster = Cluster::builder()
            .nodes(NODES)
            .peer_address(|from, to, real| network.address(from, to, real))
            .start()
            .await;
        let attachments = attach_all(&cluster).await;
        let before = NODES.map(|node| descriptors(cluster.node(node).pid));
        let (senders, receivers) = open_all(&attachments).await;

        let mut found = BTreeMap::new();
        for node in NODES {
            found.insert(node, settled(cluster.node(node), NODES.len() - 1).await);
        }
        for (node, peer) in pairs() {
            let status = &found[node];
            let ids = quic_streams(status, peer);
            let distinct: BTreeSet<_> = ids.iter().copied().collect();
            assert_eq!((ids.len(), distinct.len()), (2 * STREAMS, 2 * STREAMS), "{node} and {peer}");
            assert_eq!(distinct, quic_streams(&found[peer], node).into_iter().collect(), "{node} and {peer} agree");
            assert!(!distinct.contains(&0), "stream 0 is the control stream");
            let trunk = status.trunks.iter().find(|trunk| trunk.peer == peer).unwrap();
            assert_eq!(trunk.streams, 2 * STREAMS as u64);
            let back = found[peer].trunks.iter().find(|trunk| trunk.peer == node).unwrap();
            assert_ne!(trunk.dialled, back.dialled, "one of the two has dialled it");
        }
        for (node, before) in NODES.into_iter().zip(before) {
            assert_eq!((before.udp, before.tcp), (1, 0), "{node}");
            // The connection that asked for its status may still be closing.
            let same = async || (descriptors(cluster.node(node).pid) == before).then_some(());
            eventually(&format!("{node}'s streams take no descriptor"), same).await;
            if let Some(udp) = counted_by_ss(cluster.node(node).pid, "-uapn") {
                assert_eq!(udp, 1, "{node}, says ss");
                assert_eq!(counted_by_ss(cluster.node(node).pid, "-tapn"), Some(0), "{node}, says ss");
            }
        }

        // What else had been dialled is silent now.
        for (from, to) in pairs() {
            network.direction(from, to).forget_connections();
        }
        finish_all(senders, receivers).await;
        for (from, to) in pairs() {
            let seen = network.direction(from, to).seen();
            assert_eq!(seen.sources.len(), 1, "{from} sends to {to} from one address");
            assert_eq!(seen.connections.len(), 1, "{from} sends to {to} on one connection");
            // Both may have dialled before they heard of each other, but each only once, for all its streams.
            let dials = network.between(from, to).map(|direction| direction.seen().dials.len());
            assert!(dials == [1, 0] || dials == [0, 1] || dials == [1, 1], "{from} and {to} have dialled {dials:?}");
        }
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn when_one_side_dials_there_is_one_handshake_and_the_other_side_uses_its_connection() {
    in_time(async {
        let network = Network::default();
        let cluster = Cluster::builder().peer_address(|from, to, real| network.address(from, to, real)).start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let random = Random::new(seed(), 0);
        let payloads = || (0..STREAMS).map(|_| Payload::mixed(random.clone(), 5, 5_000)).collect();
        // The greater id dials, of which crossing dials would not keep the connection.
        exchange("there", &b, &a, "consumer", payloads()).await;
        // At its beginning a server turns from the client's first connection id to the next.
        for direction in network.between("node-b", "node-a") {
            direction.forget_connections();
        }
        both_ways(&a, &b, &random, STREAMS).await;
        for (node, dialled) in [("node-a", false), ("node-b", true)] {
            assert_eq!(settled(cluster.node(node), 1).await.trunks[0].dialled, dialled, "{node}");
            assert_no_complaint(cluster.node(node));
        }
        let [there, back] = network.between("node-b", "node-a").map(|direction| direction.seen());
        assert_eq!((there.dials.len(), back.dials.len()), (1, 0), "one handshake, which node-b began");
        assert_eq!((there.connections.len(), back.connections.len()), (1, 1));
        cluster.carries_nothing().await;
    })
    .await;
}

/// Both open at once to each other, and every stream brings what was sent.
async fn both_ways(a: &Attachment, b: &Attachment, random: &Random, streams: usize) {
    let payloads = || (0..streams).map(|_| Payload::mixed(random.clone(), 5, 5_000)).collect();
    tokio::join!(exchange("there", a, b, "consumer", payloads()), exchange("back", b, a, "consumer", payloads()));
}

async fn first_datagram(direction: &Direction, whose: &str) {
    eventually(&format!("{whose} dials"), async || (direction.held() > 0).then_some(())).await;
}

async fn first_dial(direction: &Direction) {
    eventually("a dial", async || (!direction.seen().dials.is_empty()).then_some(())).await;
}

/// Checks that a daemon found nothing wrong.
#[track_caller]
fn assert_no_complaint(daemon: &Daemon) {
    let log = daemon.log();
    assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
}

/// One cluster whose two nodes both dial before either hears of the other.
async fn dial_at_once(round: u64) {
    let mut random = Random::new(seed(), round);
    let network = Network::default();
    let cluster = Cluster::builder().peer_address(|from, to, real| network.address(from, to, real)).start().await;
    let [there, back] = network.between("node-a", "node-b");
    let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
    for direction in [&there, &back] {
        direction.hold();
        direction.delay(Duration::from_millis(random.below(20) as u64));
    }
    let crossing = async {
        first_datagram(&there, "node-a").await;
        first_datagram(&back, "node-b").await;
        there.release();
        back.release();
    };
    tokio::join!(crossing, both_ways(&a, &b, &random, 4));

    for (node, dialled) in [("node-a", true), ("node-b", false)] {
        let status = settled(cluster.node(node), 1).await;
        assert_eq!(
            status.trunks[0].dialled, dialled,
            "round {round}: the dial of the smaller id is the one that stays"
        );
        assert_no_complaint(cluster.node(node));
    }
    assert_eq!([&there, &back].map(|direction| direction.seen().dials.len()), [1, 1], "round {round}");
    there.forget_connections();
    back.forget_connections();
    both_ways(&a, &b, &random, 1).await;
    assert_eq!([&there, &back].map(|direction| direction.seen().connections.len()), [1, 1], "round {round}");
}

#[tokio::test]
async fn dials_that_cross_end_in_one_connection_and_no_stream_is_lost() {
    in_time(async {
        for round in 0..ROUNDS {
            dial_at_once(round).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_dial_that_is_given_up_half_way_is_no_refusal() {
    in_time(async {
        // One way takes 20 ms, a handshake and its HELLO a few of them: node-a's HELLO arrives in the middle of the other
        // handshake.
        for behind_ms in [10, 55, 70, 85, 100] {
            let network = Network::default();
            let cluster =
                Cluster::builder().peer_address(|from, to, real| network.address(from, to, real)).start().await;
            for direction in network.between("node-a", "node-b") {
                direction.delay(Duration::from_millis(20));
            }
            let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
            let payloads = || vec![Payload::mixed(Random::new(seed(), behind_ms), 5, 5_000)];
            let behind = async {
                first_dial(&network.direction("node-a", "node-b")).await;
                sleep(Duration::from_millis(behind_ms)).await;
                exchange("back", &b, &a, "consumer", payloads()).await;
            };
            tokio::join!(exchange("there", &a, &b, "consumer", payloads()), behind);
            for node in ["node-a", "node-b"] {
                settled(cluster.node(node), 1).await;
                assert_no_complaint(cluster.node(node));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn dials_that_cross_on_a_network_that_loses_packets_end_in_one_connection() {
    in_time(async {
        let network = Network::default();
        let cluster = Cluster::builder().peer_address(|from, to, real| network.address(from, to, real)).start().await;
        let random = Random::new(seed(), 0);
        for direction in network.between("node-a", "node-b") {
            direction.swallow(1);
            direction.lose(10, seed());
        }
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        both_ways(&a, &b, &random, 8).await;
        for node in ["node-a", "node-b"] {
            settled(cluster.node(node), 1).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_whose_dials_arrive_nowhere_uses_the_connection_of_the_other() {
    in_time(async {
        let network = Network::default();
        let nowhere = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let cluster = Cluster::builder()
            .peer_address(|from, to, real| match from {
                "node-b" => nowhere.to_string(),
                _ => network.address(from, to, real),
            })
            .start()
            .await;
        // The forwarder has to know where node-a listens, which node-b was not told.
        network.address("node-b", "node-a", cluster.node("node-a").udp);
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let job = b.job(JOB, RUN).unwrap();
        let waits =
            tokio::spawn(async move { job.producer("early").unwrap().open(format!("{JOB}/late@node-a")).await });
        eventually("node-b has tried", async || cluster.node("node-b").log().contains("cannot reach").then_some(()))
            .await;
        let mut consumer = a.job(JOB, RUN).unwrap().consumer("late").unwrap().bind().await.unwrap();
        assert!(!waits.is_finished());

        exchange("wakes", &a, &b, "consumer", vec![Payload::mixed(Random::new(seed(), 0), 5, 100)]).await;
        let early = waits.await.unwrap().expect("it went over node-a's trunk");
        let mut receiver = consumer.accept().await.unwrap();
        let (finished, end) = tokio::join!(early.finish(), receiver.recv());
        finished.unwrap();
        assert_eq!(end.unwrap(), None);
        assert!(!settled(cluster.node("node-b"), 1).await.trunks[0].dialled);
    })
    .await;
}

#[tokio::test]
async fn a_restarted_node_gets_one_connection_again() {
    in_time(async {
        let network = Network::default();
        let mut cluster =
            Cluster::builder().peer_address(|from, to, real| network.address(from, to, real)).start().await;
        let random = Random::new(seed(), 1);
        for round in 0..3 {
            let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
            both_ways(&a, &b, &random, 4).await;
            for node in ["node-a", "node-b"] {
                settled(cluster.node(node), 1).await;
            }
            let dies = ["node-a", "node-b", "node-a"][round];
            cluster.node(dies).kill();
            cluster.node(dies).exited().await;
            cluster.restart(dies).await;
            // The other one may still believe in the old connection. The new life's dial ends that.
            let other = if dies == "node-a" { "node-b" } else { "node-a" };
            let (from, to) = (cluster.node(dies).attach().await, cluster.node(other).attach().await);
            exchange("wakes", &from, &to, "consumer", vec![Payload::mixed(random.clone(), 5, 100)]).await;
        }
    })
    .await;
}
