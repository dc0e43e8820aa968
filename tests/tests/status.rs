//! What a node says of itself, and that it says nothing any more of what has ended.

use std::{
    collections::BTreeSet,
    os::unix::fs::MetadataExt as _,
    time::{Duration, SystemTime},
};

use trunkline::{Attachment, Bytes, Consumer, Sender};
use trunkline_proto::admin::StatusResponse;
use trunkline_tests::{cluster::Cluster, eventually, exchange::RUN, in_time};

const STREAMS: usize = 50;

async fn bind(attachment: &Attachment) -> Consumer {
    attachment.job("status", RUN).expect("a job").consumer("consumer").expect("a name").bind().await.expect("bound")
}

async fn open(attachment: &Attachment, number: usize, address: &str) -> Sender {
    let producer = attachment.job("status", RUN).expect("a job").producer(format!("producer-{number}"));
    producer.expect("a name").open(address).await.expect("accepted")
}

#[tokio::test]
async fn a_node_says_who_it_is_and_what_it_carries() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (node_a, node_b) = (cluster.node("node-a"), cluster.node("node-b"));
        let (a, b) = (node_a.attach().await, node_b.attach().await);
        let mut consumer = bind(&b).await;
        let mut open_streams = Vec::new();
        for number in 0..STREAMS {
            let mut sender = open(&a, number, "status/consumer@node-b").await;
            let mut receiver = consumer.accept().await.unwrap();
            sender.send(Bytes::from_static(b"message")).await.unwrap();
            receiver.recv().await.unwrap();
            open_streams.push((sender, receiver));
        }
        let status = node_a.status().await;
        identity(&status, node_a);
        let [trunk] = status.trunks.as_slice() else { panic!("one trunk, not {:?}", status.trunks) };
        assert_eq!((trunk.peer.as_str(), trunk.streams), ("node-b", STREAMS as u64));
        assert!(trunk.current && trunk.dialled && trunk.bytes_sent > 0 && trunk.bytes_received > 0, "{trunk:?}");
        assert_eq!(trunk.remote_address, node_b.udp.to_string());
        process(&status, 0);

        let status = node_b.status().await;
        identity(&status, node_b);
        assert!(!status.trunks[0].dialled);
        process(&status, 1);
        for node in [node_a, node_b] {
            streams(&node.status().await, &open_streams[0].0);
        }

        let finish_all = async {
            for (sender, mut receiver) in open_streams {
                let (finished, end) = tokio::join!(sender.finish(), receiver.recv());
                finished.unwrap();
                assert_eq!(end.unwrap(), None);
            }
        };
        finish_all.await;
        cluster.carries_nothing().await;
        drop(consumer);
        a.close().await.unwrap();
        b.close().await.unwrap();
        for node in [node_a, node_b] {
            let gone = async || node.status().await.processes.is_empty().then_some(());
            eventually("the process is detached", gone).await;
        }
    })
    .await;
}

fn identity(status: &StatusResponse, node: &trunkline_tests::cluster::Daemon) {
    assert_eq!((status.cluster.as_str(), status.node.as_str()), ("test", node.id.as_str()));
    assert_eq!(status.listen_address, node.udp.to_string());
    assert_eq!(status.certificate_fingerprint.chars().filter(char::is_ascii_hexdigit).count(), 64);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let expires = Duration::from_secs(status.certificate_expires_unix_s.try_into().expect("after 1970"));
    assert!(expires > now, "{expires:?}");
    assert!(status.version.starts_with("trunkline"), "{}", status.version);
    assert!(status.uptime_ms > 0 && !status.draining);
}

/// The test's own process is attached, with so many binds.
fn process(status: &StatusResponse, binds: usize) {
    let [process] = status.processes.as_slice() else { panic!("one process, not {:?}", status.processes) };
    let own = std::fs::metadata("/proc/self").expect("the own process");
    assert_eq!((process.uid, process.gid, process.pid), (own.uid(), own.gid(), std::process::id()));
    assert_eq!((process.streams, process.binds.len()), (STREAMS as u64, binds));
    for bind in &process.binds {
        assert_eq!((bind.job.as_str(), bind.run.as_str(), bind.consumer.as_str()), ("status", RUN, "consumer"));
    }
}

fn streams(status: &StatusResponse, first: &Sender) {
    assert_eq!(status.streams.len(), STREAMS);
    let quic: BTreeSet<_> = status.streams.iter().filter_map(|stream| stream.quic_stream).collect();
    assert_eq!(quic.len(), STREAMS, "each has a QUIC stream of its own: {quic:?}");
    assert!(!quic.contains(&0), "that is the control stream");
    let lives: BTreeSet<_> = status.streams.iter().map(|stream| (&stream.incarnation, stream.number)).collect();
    assert_eq!(lives.len(), STREAMS);
    let stream = status.streams.iter().find(|stream| stream.producer == "producer-0").expect("the first stream");
    assert_eq!((stream.job.as_str(), stream.run.as_str(), stream.consumer.as_str()), ("status", RUN, "consumer"));
    assert_eq!((stream.producer_node.as_str(), stream.consumer_node.as_str()), ("node-a", "node-b"));
    assert_eq!((stream.offset, stream.queued), (first.sent_bytes(), 0));
    assert!(stream.accepted && !stream.local && stream.limit >= stream.offset, "{stream:?}");
}

#[tokio::test]
async fn a_pair_on_one_node_is_listed_as_local_and_uses_no_trunk() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let node = cluster.node("node-a");
        let attachment = node.attach().await;
        let mut consumer = bind(&attachment).await;
        let sender = open(&attachment, 0, "status/consumer@node-a").await;
        let mut receiver = consumer.accept().await.unwrap();
        let status = node.status().await;
        assert_eq!(status.trunks, []);
        let [stream] = status.streams.as_slice() else { panic!("one stream, not {:?}", status.streams) };
        assert!(stream.local && stream.accepted && stream.quic_stream.is_none(), "{stream:?}");
        let (finished, end) = tokio::join!(sender.finish(), receiver.recv());
        finished.unwrap();
        assert_eq!(end.unwrap(), None);
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_parked_open_is_listed_until_it_is_served() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let opening = tokio::spawn({
            let a = a.clone();
            async move { open(&a, 0, "status/consumer@node-b").await }
        });
        let parked =
            eventually("the open is parked", async || cluster.node("node-b").status().await.parked.pop()).await;
        assert_eq!((parked.job.as_str(), parked.run.as_str()), ("status", RUN));
        assert_eq!((parked.producer.as_str(), parked.producer_node.as_str()), ("producer-0", "node-a"));
        assert_eq!(parked.consumer, "consumer");
        let mut consumer = bind(&b).await;
        let (sender, _receiver) = (opening.await.unwrap(), consumer.accept().await.unwrap());
        assert!(cluster.node("node-b").status().await.parked.is_empty());
        drop(sender);
        cluster.carries_nothing().await;
    })
    .await;
}
