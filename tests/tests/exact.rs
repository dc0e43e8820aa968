//! Every message arrives once, in order, unchanged: through two daemons, both ways at once, and through one.

use std::collections::{BTreeMap, BTreeSet};

use tokio::task::JoinSet;
use trunkline_tests::{
    cluster::Cluster,
    exchange::{RUN, exchange, receive_all, send_all},
    in_time,
    payload::{Payload, Random, seed},
};

const MIB: usize = 1 << 20;

fn mixed(streams: usize, messages: usize, purpose: u64) -> Vec<Payload> {
    println!("SEED={}", seed());
    let payload = |stream| Payload::mixed(Random::new(seed(), purpose << 32 | stream), messages, MIB);
    (0..streams as u64).map(payload).collect()
}

#[tokio::test]
async fn hundreds_of_streams_between_two_nodes_are_exact_in_both_directions_at_once() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        tokio::join!(
            exchange("forth", &a, &b, "first", mixed(200, 20, 1)),
            exchange("forth", &a, &b, "second", mixed(100, 20, 2)),
            exchange("back", &b, &a, "first", mixed(200, 20, 3)),
            exchange("back", &b, &a, "second", mixed(100, 20, 4)),
        );
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn thousands_of_small_messages_on_one_stream_are_exact() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let mut random = Random::new(seed(), 5);
        let lengths = (0..50_000).map(|_| random.below(200)).collect();
        exchange("small", &a, &b, "consumer", vec![Payload::new(random, lengths)]).await;
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn messages_of_16_mib_are_exact_beside_small_ones() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let large = |purpose| Payload::new(Random::new(seed(), purpose), vec![1, 16 * MIB, 0, 16 * MIB, 7]);
        tokio::join!(
            exchange("large", &a, &b, "consumer", (20..24).map(large).collect()),
            exchange("small", &a, &b, "consumer", mixed(20, 20, 6)),
        );
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn pairs_on_one_node_are_exact() {
    in_time(async {
        let cluster = Cluster::builder().nodes(["node-a"]).start().await;
        let node = cluster.node("node-a");
        let (one, other) = (node.attach().await, node.attach().await);
        tokio::join!(
            exchange("two-processes", &one, &other, "consumer", mixed(100, 20, 7)),
            exchange("one-process", &one, &one, "consumer", mixed(100, 20, 8)),
        );
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn one_stream_after_the_other_is_exact_and_leaves_nothing() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        for round in 0..50 {
            exchange("rounds", &a, &b, "consumer", mixed(3, 3, 100 + round)).await;
        }
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn hundreds_of_streams_are_open_at_once_on_a_trunk_that_begins_with_two() {
    const STREAMS: usize = 200;
    in_time(async {
        let two = |_: &str, toml: &mut String| toml.push_str("[trunk]\nstreams_initial = 2\n");
        let cluster = Cluster::builder().config(two).start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let mut consumer = b.job("many", RUN).unwrap().consumer("consumer").unwrap().bind().await.unwrap();
        let (address, job) = (consumer.address().to_string(), a.job("many", RUN).unwrap());
        let mut opening = JoinSet::new();
        for number in 0..STREAMS {
            let (producer, address) = (job.producer(format!("{number}")).unwrap(), address.clone());
            opening.spawn(async move { (producer.name().to_string(), producer.open(address).await.unwrap()) });
        }
        let accept = async {
            let mut receivers = Vec::new();
            for _ in 0..STREAMS {
                receivers.push(consumer.accept().await.unwrap());
            }
            receivers
        };
        let (senders, receivers) = tokio::join!(opening.join_all(), accept);

        // None has sent anything yet: all are open, each on a QUIC stream of its own.
        for node in cluster.nodes() {
            let status = node.status().await;
            let quic: BTreeSet<_> = status.streams.iter().map(|stream| stream.quic_stream.unwrap()).collect();
            assert_eq!((status.streams.len(), quic.len()), (STREAMS, STREAMS), "{}", node.id);
        }
        let (mut sending, mut receiving) = (JoinSet::new(), JoinSet::new());
        for ((name, sender), payload) in senders.into_iter().zip(mixed(STREAMS, 5, 9)) {
            sending.spawn(async move { (name, send_all(sender, payload).await.unwrap()) });
        }
        for mut receiver in receivers {
            let name = receiver.producer().name.to_string();
            receiving.spawn(async move { (name, receive_all(&mut receiver).await.unwrap()) });
        }
        let (sent, received) = tokio::join!(sending.join_all(), receiving.join_all());
        assert_eq!(sent.len(), STREAMS);
        assert_eq!(BTreeMap::from_iter(sent), BTreeMap::from_iter(received));

        // The permission that was raised one way does not help the other.
        exchange("back", &b, &a, "consumer", mixed(STREAMS, 5, 10)).await;
        cluster.carries_nothing().await;
    })
    .await;
}
