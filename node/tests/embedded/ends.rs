//! How links and embedded nodes end: detached, cut off, drained, dropped.

use std::{collections::VecDeque, future::pending};

use bytes::Bytes;
use trunkline_node::config::PeerConfig;
use trunkline_proto::{
    code::Code,
    frame::{DataHeader, Frame},
    message::{Bound, Credit, Drain},
};

use crate::program::{
    Cluster, Other, Own, Program, aborted, accept, bind, consume, on_a_thread, open, payload, produce, started,
};

/// Opens a stream from one to the other, to its acceptance. The consumer's id of it.
async fn stream(producer: &mut impl Program, consumer: &mut impl Program) -> u64 {
    bind(consumer).await;
    producer.say(open(2, "node-a")).await;
    let (stream, _) = accept(consumer).await;
    assert!(matches!(producer.hears().await, Frame::Accept(_)));
    stream
}

#[test]
fn a_dropped_link_tells_each_other_end_that_the_program_is_gone() {
    let cluster = Cluster::new();
    on_a_thread(async {
        let node = started(cluster.config("node-a"));
        let (mut producer, mut consumer) = (Own::of(&node), Own::of(&node));
        stream(&mut producer, &mut consumer).await;
        drop(producer);
        let text = aborted(&mut consumer, Code::ProducerGone).await;
        assert_eq!(text, "the process of producer map is gone");

        let mut producer = Own::of(&node);
        producer.say(open(2, "node-a")).await;
        accept(&mut consumer).await;
        assert!(matches!(producer.hears().await, Frame::Accept(_)));
        drop(consumer);
        let text = aborted(&mut producer, Code::ConsumerGone).await;
        assert_eq!(text, "the process of consumer reduce is gone");
        // The name is free again.
        bind(&mut Own::of(&node)).await;
    });
}

#[test]
fn a_frame_that_breaks_the_protocol_is_refused_with_a_sentence_and_detaches() {
    let cluster = Cluster::new();
    on_a_thread(async {
        let mut config = cluster.config("node-a");
        config.limits.processes_max = 2;
        let node = started(config);
        let (mut producer, mut consumer) = (Own::of(&node), Own::of(&node));
        stream(&mut producer, &mut consumer).await;
        let refused = producer.link.handle(Frame::Bound(Bound { bind: 1 })).unwrap_err();
        assert_eq!(
            (refused.code, refused.to_string().as_str()),
            (Code::Protocol, "a frame that a process does not send")
        );
        aborted(&mut consumer, Code::ProducerGone).await;
        assert!(producer.link.is_ended() && !producer.link.next(&mut VecDeque::new()));
        let refused = producer.link.handle(open(4, "node-a").into()).unwrap_err();
        assert_eq!(refused.text, "the link to node-a has ended: an earlier frame could not be taken");
        producer.link.changed().await;
        // It counts no more, and the drop of what is left of it takes nobody else's place away.
        let _second = Own::of(&node);
        drop(producer);
        assert_eq!(node.attach("third/1").unwrap_err().code, Code::Busy);
    });
}

#[test]
fn a_program_that_asks_more_than_it_takes_the_answers_of_is_cut_off() {
    let cluster = Cluster::new();
    on_a_thread(async {
        let node = started(cluster.config("node-a"));
        let program = Own::of(&node);
        // Each open is refused, and nobody takes the answers.
        let mut refused = (1_u64..100_000).filter_map(|n| program.link.handle(open(2 * n, "node-z").into()).err());
        let refused = refused.next().expect("it is cut off");
        assert_eq!((refused.code, refused.text.as_str()), (Code::Busy, "it asks more than it reads the answers to"));
    });
}

#[test]
fn an_embedded_program_counts_among_the_processes() {
    let cluster = Cluster::new();
    on_a_thread(async {
        let mut config = cluster.config("node-a");
        config.limits.processes_max = 1;
        let node = started(config);
        let own = Own::of(&node);
        let refused = node.attach("a-test/1").unwrap_err();
        assert_eq!(refused.code, Code::Busy);
        assert_eq!(refused.to_string(), "1 processes are attached, the most that node-a allows (`processes_max`)");
        drop(own);
        Own::of(&node);
    });
}

#[test]
fn a_drain_tells_the_program_takes_nothing_new_and_waits_for_its_streams() {
    let cluster = Cluster::new();
    let config = cluster.config_with_socket("node-a");
    on_a_thread(async {
        let node = started(config.clone());
        let (mut own, mut other) = (Own::of(&node), Other::at(&config).await);
        let id = stream(&mut own, &mut other).await;
        let program = async {
            let frame = own.hears().await;
            assert!(matches!(frame, Frame::Drain(Drain { deadline_ms: 10_000 })), "{frame:?}");
            assert!(matches!(other.hears().await, Frame::Drain(_)));
            own.say(open(4, "node-a")).await;
            assert_eq!(aborted(&mut own, Code::Draining).await, "node-a is shutting down");
            // What began before goes on to its end.
            let bytes = payload(100, 1);
            own.say(Frame::Data(DataHeader { stream: 2, offset: 0, epoch: 0, fin: true }, bytes.clone())).await;
            let Frame::Data(header, received) = other.hears().await else { panic!("no data") };
            assert!(header.fin && received == bytes);
            let credit = Credit { stream: id, epoch: 0, received: 100, consumed: 100, limit: 100, finished: true };
            other.say(credit).await;
            let Frame::Credit(credit) = own.hears().await else { panic!("no credit") };
            assert!(credit.finished);
        };
        tokio::join!(node.drain("the test asks for it", pending::<&str>()), program);
        assert!(!config.local.as_ref().unwrap().socket.exists());
        other.is_closed().await;
        assert!(own.link.is_ended());
        own.link.changed().await;
        let refused = own.link.handle(open(6, "node-a").into()).unwrap_err();
        assert_eq!((refused.code, refused.to_string().as_str()), (Code::Draining, "node-a has shut down"));
        drop(own);
    });
}

#[test]
fn a_drain_in_a_hurry_aborts_what_is_left_and_says_so() {
    let cluster = Cluster::new();
    on_a_thread(async {
        let node = started(cluster.config("node-a"));
        let (mut producer, mut consumer) = (Own::of(&node), Own::of(&node));
        stream(&mut producer, &mut consumer).await;
        let (hurry, hurried) = tokio::sync::oneshot::channel::<&str>();
        let program = async {
            assert!(matches!(producer.hears().await, Frame::Drain(_)));
            assert!(matches!(consumer.hears().await, Frame::Drain(_)));
            hurry.send("the test is in a hurry").unwrap();
            assert_eq!(aborted(&mut producer, Code::Draining).await, "node-a has shut down");
            assert_eq!(aborted(&mut consumer, Code::Draining).await, "node-a has shut down");
        };
        tokio::join!(node.drain("the test asks for it", async { hurried.await.unwrap() }), program);
    });
}

#[test]
fn a_dropped_node_is_gone_at_once_and_what_it_leaves_is_harmless() {
    let cluster = Cluster::new();
    let config = cluster.config_with_socket("node-a");
    on_a_thread(async {
        let node = started(config.clone());
        let (mut own, mut consumer, mut other) = (Own::of(&node), Own::of(&node), Other::at(&config).await);
        stream(&mut own, &mut consumer).await;
        drop(node);
        assert!(!config.local.as_ref().unwrap().socket.exists());
        other.is_closed().await;
        assert!(own.link.is_ended());
        // Nobody is left to wait for, and nobody waits without end.
        assert_eq!(aborted(&mut own, Code::Draining).await, "node-a has shut down");
        own.link.changed().await;
        let header = DataHeader { stream: 2, offset: 0, epoch: 0, fin: true };
        let refused = own.link.handle(Frame::Data(header, Bytes::new())).unwrap_err();
        assert_eq!(refused.text, "node-a has shut down");
        drop((own, consumer));

        // Its successor has the same socket.
        let again = started(config.clone());
        let (mut producer, mut consumer) = (Own::of(&again), Other::at(&config).await);
        bind(&mut consumer).await;
        let bytes = payload(1_000, 2);
        let ((), consumed) = tokio::join!(produce(&mut producer, 2, "node-a", &bytes), consume(&mut consumer));
        assert!(consumed == bytes);
    });
}

#[test]
fn the_peers_of_a_dropped_node_hear_of_it_though_its_links_are_still_held() {
    let cluster = Cluster::new();
    on_a_thread(async {
        let (node_a, mut config) = (started(cluster.config("node-a")), cluster.config("node-b"));
        let addresses = vec![node_a.local_address().to_string()];
        config.peers = vec![PeerConfig { id: "node-a".parse().unwrap(), addresses }];
        let node_b = started(config);
        let (mut producer, mut consumer) = (Own::of(&node_b), Own::of(&node_a));
        stream(&mut producer, &mut consumer).await;
        drop(node_b);
        let text = aborted(&mut consumer, Code::TrunkLost).await;
        assert!(text.contains("the node has stopped"), "{text}");
        assert_eq!(aborted(&mut producer, Code::Draining).await, "node-b has shut down");
    });
}
