//! What operators are told of a node by its admin socket: its program among the processes, and streams by the thousand.

use std::collections::BTreeSet;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use trunkline_node::config::{AdminConfig, NodeConfig, PeerConfig};
use trunkline_proto::{
    admin::{StatusRequest, Stream, StreamsRequest, admin_client::AdminClient},
    code::Code,
    id::JobId,
    message::{Abort, Bind, Open},
};

use crate::program::{Cluster, Own, Program as _, bind, on_a_thread, open, started};

/// More than one message of 4 MiB holds, with names as long as names may be.
const STREAMS: u64 = 20_500;
/// The most streams of one chunk.
const CHUNK: usize = 1_000;

/// A node with an admin socket, and with a peer that is not there.
fn config(cluster: &Cluster) -> NodeConfig {
    let mut config = cluster.config("node-a");
    config.admin = Some(AdminConfig { socket: cluster.folder().join("admin.sock") });
    config.peers = vec![PeerConfig { id: "node-b".parse().unwrap(), addresses: vec!["127.0.0.1:1".to_owned()] }];
    config
}

async fn admin(config: &NodeConfig) -> AdminClient<Channel> {
    let socket = config.admin.as_ref().unwrap().socket.clone();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    AdminClient::new(Endpoint::from_static("http://node").connect_with_connector(connector).await.unwrap())
}

async fn chunks(admin: &mut AdminClient<Channel>, request: StreamsRequest) -> Vec<Vec<Stream>> {
    let mut answers = admin.streams(request).await.unwrap().into_inner();
    let mut chunks = Vec::new();
    while let Some(chunk) = answers.message().await.unwrap() {
        chunks.push(chunk.streams);
    }
    chunks
}

/// The numbers of the streams that match.
async fn numbers(admin: &mut AdminClient<Channel>, request: StreamsRequest) -> Vec<u64> {
    chunks(admin, request).await.concat().into_iter().map(|stream| stream.number).collect()
}

#[test]
fn a_program_that_a_node_is_embedded_in_is_among_its_processes() {
    let cluster = Cluster::new();
    let config = config(&cluster);
    on_a_thread(async {
        let node = started(config.clone());
        let mut own = Own::of(&node);
        bind(&mut own).await;
        let status = admin(&config).await.status(StatusRequest::default()).await.unwrap().into_inner();
        let [process] = status.processes.as_slice() else { panic!("{:?}", status.processes) };
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        assert_eq!((process.uid, process.gid, process.pid), (uid, gid, std::process::id()));
        assert_eq!((process.software.as_str(), process.binds.len()), ("a-test/1", 1));
        assert_eq!(status.listen_address, node.local_address().to_string());
        drop(own);
        let status = admin(&config).await.status(StatusRequest::default()).await.unwrap().into_inner();
        assert_eq!(status.processes, []);
    });
}

#[test]
fn more_streams_than_a_message_holds_are_listed_in_chunks_each_once() {
    let cluster = Cluster::new();
    let config = config(&cluster);
    on_a_thread(async {
        let node = started(config.clone());
        let (mut producer, mut consumer) = (Own::of(&node), Own::of(&node));
        let long = "x".repeat(64);
        let open = |stream| {
            let job = JobId { name: long.parse().unwrap(), run: long.parse().unwrap() };
            let (producer, consumer) = (long.parse().unwrap(), long.parse().unwrap());
            Open { job, producer, consumer, ..open(stream, "node-a") }
        };
        let Open { job, consumer: name, incarnation, .. } = open(2);
        consumer
            .say(Bind { bind: 1, job, consumer: name, incarnation, resumes_only: false, awaited_nodes: Vec::new() })
            .await;
        for number in 1..=STREAMS {
            producer.say(open(2 * number)).await;
        }
        let mut admin = admin(&config).await;
        let chunks = chunks(&mut admin, StreamsRequest::default()).await;
        let sizes: Vec<_> = chunks.iter().map(Vec::len).collect();
        assert_eq!(sizes, [[CHUNK; 20].as_slice(), &[500]].concat());
        let listed = chunks.concat();
        assert!(listed.iter().map(|stream| stream.number).eq((1..=STREAMS).map(|number| 2 * number)), "oldest first");
        assert!(listed.iter().all(|stream| stream.local && !stream.accepted && stream.consumer == long));

        let status = admin.status(StatusRequest { omit_streams: true }).await.unwrap().into_inner();
        assert_eq!((status.stream_count, status.streams.len()), (STREAMS, 0));
        let too_long = admin.status(StatusRequest::default()).await.map(drop).unwrap_err();
        assert_eq!(too_long.code(), tonic::Code::OutOfRange);
    });
}

#[test]
fn a_listing_can_be_narrowed_by_job_producer_consumer_and_peer() {
    let cluster = Cluster::new();
    let config = config(&cluster);
    on_a_thread(async {
        let node = started(config.clone());
        let mut own = Own::of(&node);
        let job = |name: &str| JobId { name: name.parse().unwrap(), run: "r1".parse().unwrap() };
        own.say(open(2, "node-a")).await;
        own.say(Open { job: job("other"), ..open(4, "node-a") }).await;
        own.say(Open { producer: "other".parse().unwrap(), ..open(6, "node-a") }).await;
        own.say(Open { consumer: "other".parse().unwrap(), ..open(8, "node-a") }).await;
        own.say(Open { job: job("other"), ..open(10, "node-b") }).await;
        let mut admin = admin(&config).await;
        let name = || "other".to_owned();
        let all = StreamsRequest::default;
        for (request, expected) in [
            (all(), [2, 4, 6, 8, 10].as_slice()),
            (StreamsRequest { job: name(), ..all() }, &[4, 10]),
            (StreamsRequest { producer: name(), ..all() }, &[6]),
            (StreamsRequest { consumer: name(), ..all() }, &[8]),
            (StreamsRequest { peer: "node-b".to_owned(), ..all() }, &[10]),
            (StreamsRequest { peer: "node-a".to_owned(), ..all() }, &[2, 4, 6, 8]),
            (StreamsRequest { peer: "node-a".to_owned(), job: name(), ..all() }, &[4]),
            (StreamsRequest { job: "oth".to_owned(), ..all() }, &[]),
        ] {
            assert_eq!(numbers(&mut admin, request.clone()).await, expected, "{request:?}");
        }
        let none = StreamsRequest { job: "none".to_owned(), ..all() };
        assert!(chunks(&mut admin, none).await.is_empty(), "not even an empty chunk");
        let status = admin.status(StatusRequest::default()).await.unwrap().into_inner();
        assert_eq!((status.stream_count, status.streams.len()), (5, 5));
    });
}

#[test]
fn a_match_is_found_behind_thousands_that_do_not_match() {
    let cluster = Cluster::new();
    let config = config(&cluster);
    on_a_thread(async {
        let node = started(config.clone());
        let (mut own, mut consumer) = (Own::of(&node), Own::of(&node));
        bind(&mut consumer).await;
        let last = 2 * (3 * CHUNK as u64 + 1);
        for stream in (2..last).step_by(2) {
            own.say(open(stream, "node-a")).await;
        }
        own.say(Open { producer: "other".parse().unwrap(), ..open(last, "node-a") }).await;
        let request = StreamsRequest { producer: "other".to_owned(), ..StreamsRequest::default() };
        assert_eq!(numbers(&mut admin(&config).await, request).await, [last]);
    });
}

#[test]
fn streams_that_come_and_go_during_a_listing_make_it_miss_no_other_and_list_none_twice() {
    let cluster = Cluster::new();
    let config = config(&cluster);
    on_a_thread(async {
        let node = started(config.clone());
        let (mut own, mut consumer) = (Own::of(&node), Own::of(&node));
        bind(&mut consumer).await;
        for number in 1..=STREAMS {
            own.say(open(2 * number, "node-a")).await;
        }
        let mut admin = admin(&config).await;
        let mut answers = admin.streams(StreamsRequest::default()).await.unwrap().into_inner();
        let mut listed = Vec::new();
        let mut next = STREAMS;
        while let Some(chunk) = answers.message().await.unwrap() {
            listed.extend(chunk.streams.into_iter().map(|stream| stream.number));
            for _ in 0..CHUNK {
                next += 1;
                own.say(open(2 * next, "node-a")).await;
                // One in five of those that were there at the beginning goes.
                let gone = 10 * (next - STREAMS);
                if gone <= 2 * STREAMS {
                    own.say(Abort { stream: gone, code: Code::Cancelled, offset: 0, text: String::new() }).await;
                }
            }
        }
        let once: BTreeSet<_> = listed.iter().copied().collect();
        assert_eq!(once.len(), listed.len(), "none twice");
        let stayed = (1..=STREAMS).map(|number| 2 * number).filter(|stream| stream % 10 != 0);
        assert!(stayed.into_iter().all(|stream| once.contains(&stream)), "none that stayed is missed");
        assert!(listed.iter().all(|&number| number <= 2 * STREAMS), "none is younger than the listing");
    });
}
