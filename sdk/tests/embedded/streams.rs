//! What streams carry between embedded nodes, and between an embedded node and another process.

use std::{collections::BTreeSet, fs, sync::mpsc, thread};

use tokio::task::JoinSet;
use trunkline::{Attachment, Bytes, Expected, Gathered, Producer};

use crate::{
    nodes::{Nodes, job},
    polling::block_on,
};

const PRODUCERS: usize = 150;
const MESSAGES: usize = 40;

/// A message whose length and content follow from where it goes, who sends it and when.
fn message(to: &str, producer: usize, number: usize) -> Bytes {
    let length = match (producer * 7 + number) % 23 {
        0 => 90_000,
        1..4 => 5_000,
        _ => number % 100,
    };
    let mut message = format!("{to}/{producer}/{number}/").into_bytes();
    message.extend((0..length).map(|at| u8::try_from((at * 31 + producer + number) % 251).unwrap()));
    message.into()
}

async fn produce(producer: Producer, to: String, number: usize) {
    let mut sender = producer.open(format!("job/{to}")).await.unwrap();
    for at in 0..MESSAGES {
        sender.send(message(&to, number, at)).await.unwrap();
    }
    sender.finish().await.unwrap();
}

/// Has `from` send to a consumer of each of `to`, and `to` check all of it.
async fn exchange(name: &str, from: &[&Attachment], to: &[&Attachment]) {
    let mut tasks = JoinSet::new();
    for (sink, attachment) in to.iter().enumerate() {
        let consumer = job(attachment).consumer(format!("{name}-{sink}")).unwrap().bind().await.unwrap();
        let address = consumer.address();
        let to = format!("{}@{}", address.consumer, address.node);
        let mut gather = consumer.gather(Expected::Count(from.len() * PRODUCERS));
        for (part, attachment) in from.iter().enumerate() {
            for number in part * PRODUCERS..(part + 1) * PRODUCERS {
                let producer = job(attachment).producer(format!("map-{number}")).unwrap();
                tasks.spawn(produce(producer, to.clone(), number));
            }
        }
        let producers = from.len() * PRODUCERS;
        tasks.spawn(async move {
            let mut next = vec![0; producers];
            while let Some(gathered) = gather.next().await {
                let Gathered::Message { producer, message: arrived } = gathered.unwrap() else {
                    panic!("a producer is lost")
                };
                let number: usize = producer.name.as_str().strip_prefix("map-").unwrap().parse().unwrap();
                assert!(arrived == message(&to, number, next[number]), "map-{number}: message {}", next[number]);
                next[number] += 1;
            }
            assert_eq!((gather.finished(), gather.lost()), (producers, 0));
            assert_eq!(next, vec![MESSAGES; producers]);
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

/// The unix sockets that this process has open, by inode.
fn unix_sockets() -> BTreeSet<u64> {
    let table = fs::read_to_string("/proc/self/net/unix").unwrap();
    let all: BTreeSet<u64> =
        table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(6)?.parse().ok()).collect();
    let inode = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    let open: BTreeSet<u64> =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| inode(entry.unwrap())).collect();
    open.intersection(&all).copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_embedded_nodes_carry_hundreds_of_streams_exactly_in_both_directions_and_without_a_unix_socket() {
    let nodes = Nodes::new().await;
    let before = unix_sockets();
    let (a, b) = nodes.embed().await;
    assert_eq!((a.node().as_str(), b.node().as_str(), a.cluster()), ("node-a", "node-b", "test"));
    // To the other node and to its own, at once.
    exchange("both", &[&a, &b], &[&a, &b]).await;
    assert_eq!(unix_sockets(), before);
    assert!(!nodes.socket().exists());
    a.close().await.unwrap();
    b.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_node_serves_other_processes_too() {
    let mut nodes = Nodes::new().await;
    let socket = nodes.serve_others();
    let (a, b) = nodes.embed().await;
    let other = Attachment::connect(&socket).await.unwrap();
    assert_eq!(other.node().as_str(), "node-a");
    exchange("in", &[&a, &b, &other], &[&other]).await;
    exchange("out", &[&other], &[&a, &b]).await;
    for attachment in [other, a, b] {
        attachment.close().await.unwrap();
    }
}

#[test]
fn it_works_without_any_runtime_and_beside_an_executor_that_is_blocked() {
    let nodes = block_on(Nodes::new());
    let (a, b) = block_on(nodes.embed());
    let (mut blocked, mut flowing) = block_on(async {
        let job = job(&b);
        (job.consumer("blocked").unwrap().bind().await.unwrap(), job.consumer("flowing").unwrap().bind().await.unwrap())
    });
    let sending = thread::spawn(move || {
        block_on(async {
            let producer = job(&a).producer("map").unwrap();
            let mut blocked = producer.open("job/blocked@node-b").await.unwrap();
            let mut flowing = producer.open("job/flowing@node-b").await.unwrap();
            blocked.send(Bytes::from_static(b"read at last")).await.unwrap();
            for number in 0..200 {
                flowing.send(message("flowing", 0, number)).await.unwrap();
            }
            flowing.finish().await.unwrap();
            blocked.finish().await.unwrap();
        });
        a
    });
    let (done, is_done) = mpsc::channel();
    let reading = thread::spawn(move || {
        block_on(async {
            let mut receiver = flowing.accept().await.unwrap();
            let mut number = 0;
            while let Some(arrived) = receiver.recv().await.unwrap() {
                assert!(arrived == message("flowing", 0, number), "message {number}");
                number += 1;
            }
            assert_eq!(number, 200);
        });
        done.send(()).unwrap();
    });
    // An executor of one thread that a task blocks until the other stream is through.
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let mut receiver = blocked.accept().await.unwrap();
        is_done.recv().unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap(), "read at last");
        assert_eq!(receiver.recv().await.unwrap(), None);
    });
    reading.join().unwrap();
    let a = sending.join().unwrap();
    block_on(a.close()).unwrap();
    block_on(b.close()).unwrap();
}
