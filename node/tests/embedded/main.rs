//! Nodes embedded in a program: the links that need no socket, between programs, processes and nodes.

#![expect(clippy::unwrap_used, reason = "what a test prepares either succeeds or fails the test")]

mod ends;
mod operators;
mod program;

use std::{collections::VecDeque, thread};

use bytes::Bytes;
use tokio::sync::oneshot;
use trunkline_node::config::PeerConfig;
use trunkline_proto::{
    frame::{DataHeader, Frame},
    message::{Accept, Credit, Want},
};

use self::program::{
    Cluster, Other, Own, Program as _, accept, bind, consume, on_a_thread, open, payload, produce, started,
};

/// Larger than every window and buffer on its way.
const PAYLOAD_BYTES: usize = 3_000_003;

#[test]
fn two_embedded_nodes_form_a_cluster_and_their_programs_exchange_streams() {
    let cluster = Cluster::new();
    let (config_a, mut config_b) = (cluster.config("node-a"), cluster.config("node-b"));
    let (to_a, to_b) = (payload(PAYLOAD_BYTES, 1), payload(PAYLOAD_BYTES, 2));
    let (tell_address, address) = oneshot::channel();
    let node_a = {
        let (to_a, to_b) = (to_a.clone(), to_b.clone());
        thread::spawn(move || {
            on_a_thread(async {
                let node = started(config_a);
                let mut producer = Own::of(&node);
                let mut consumer = Own::of(&node);
                bind(&mut consumer).await;
                tell_address.send(node.local_address()).unwrap();
                assert!(consume(&mut consumer).await == to_a);
                // Now that node-b has dialled in.
                produce(&mut producer, 2, "node-b", &to_b).await;
                drop((producer, consumer));
                node.drain("the test has ended", std::future::pending::<&str>()).await;
            });
        })
    };
    on_a_thread(async {
        let addresses = vec![address.await.unwrap().to_string()];
        config_b.peers = vec![PeerConfig { id: "node-a".parse().unwrap(), addresses }];
        let node = started(config_b);
        assert_eq!((node.id().as_str(), node.cluster().as_str()), ("node-b", "c1"));
        let mut producer = Own::of(&node);
        let mut consumer = Own::of(&node);
        bind(&mut consumer).await;
        produce(&mut producer, 2, "node-a", &to_a).await;
        assert!(consume(&mut consumer).await == to_b);
        drop((producer, consumer));
        node.drain("the test has ended", std::future::pending::<&str>()).await;
    });
    node_a.join().unwrap();
    let left: Vec<_> = cluster.folder().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "no socket was made: {left:?}");
}

#[test]
fn streams_within_a_node_are_exact_and_their_payload_is_not_copied() {
    let cluster = Cluster::new();
    on_a_thread(async {
        let node = started(cluster.config("node-a"));
        let (mut producer, mut consumer) = (Own::of(&node), Own::of(&node));
        bind(&mut consumer).await;
        let bytes = payload(PAYLOAD_BYTES, 3);
        let ((), consumed) = tokio::join!(produce(&mut producer, 2, "node-a", &bytes), consume(&mut consumer));
        assert!(consumed == bytes);

        producer.say(open(4, "node-a")).await;
        let (stream, _) = accept(&mut consumer).await;
        assert!(matches!(producer.hears().await, Frame::Accept(_)));
        // As much as a turn gives to who wants it.
        producer.say(Want { stream: 4, epoch: 0, wanted: 15_000 }).await;
        let frame = producer.hears().await;
        assert!(matches!(frame, Frame::Credit(Credit { limit: 15_000.., .. })), "{frame:?}");
        assert!(matches!(consumer.hears().await, Frame::Want(_)));
        let (first, second) = (payload(5_000, 4), payload(10_000, 5));
        let data = |offset, fin, payload: &Bytes| {
            Frame::Data(DataHeader { stream: 4, offset, epoch: 0, fin }, payload.clone())
        };
        producer.say(data(0, false, &first)).await;
        producer.say(data(5_000, true, &second)).await;
        let mut frames = VecDeque::new();
        assert!(consumer.link.next(&mut frames) && !consumer.link.next(&mut frames));
        let [Frame::Data(one, handed_one), Frame::Data(two, handed_two)] = frames.make_contiguous() else {
            panic!("{frames:?}")
        };
        let header = DataHeader { stream, offset: 0, epoch: 0, fin: false };
        assert_eq!((*one, *two), (header, DataHeader { offset: 5_000, fin: true, ..header }));
        assert_eq!((handed_one.as_ptr(), handed_two.as_ptr()), (first.as_ptr(), second.as_ptr()));
    });
}

#[test]
fn a_program_and_a_process_at_the_socket_of_its_node_exchange_streams() {
    let cluster = Cluster::new();
    let config = cluster.config_with_socket("node-a");
    on_a_thread(async {
        let node = started(config.clone());
        let (mut own, mut other) = (Own::of(&node), Other::at(&config).await);
        let (to_own, to_other) = (payload(PAYLOAD_BYTES, 6), payload(PAYLOAD_BYTES, 7));
        bind(&mut own).await;
        let (consumed, ()) = tokio::join!(consume(&mut own), produce(&mut other, 2, "node-a", &to_own));
        assert!(consumed == to_own);
        drop(own);

        let mut own = Own::of(&node);
        bind(&mut other).await;
        let (consumed, ()) = tokio::join!(consume(&mut other), produce(&mut own, 2, "node-a", &to_other));
        assert!(consumed == to_other);
    });
}

#[test]
fn what_a_consumer_is_told_names_the_embedded_node_as_the_producer_s() {
    let cluster = Cluster::new();
    on_a_thread(async {
        let node = started(cluster.config("node-a"));
        let (mut producer, mut consumer) = (Own::of(&node), Own::of(&node));
        // The open waits for its consumer, on the node's own tasks.
        producer.say(open(2, "node-a")).await;
        bind(&mut consumer).await;
        let (_, offered) = accept(&mut consumer).await;
        assert_eq!(offered.producer_node.as_ref(), Some(node.id()));
        let frame = producer.hears().await;
        assert!(matches!(frame, Frame::Accept(Accept { stream: 2, .. })), "{frame:?}");
    });
}
