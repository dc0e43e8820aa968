//! A node of one process: it relays the process's streams to its own consumers. Many streams at once, checked byte for
//! byte.

use std::collections::HashMap;

use tokio::task::JoinSet;
use trunkline::{Attachment, Bytes, Expected, Gathered};
use trunkline_proto::{
    frame::{DataHeader, Frame},
    id::ConsumerName,
    message::{Abort, Accept, Bound, Credit, EndAck, Incoming, Limit, Open, Reclaim, Want},
};

use crate::fake_node::{FakeNode, Link, job};

/// Streams `2 n` of the process come back to it as streams `2 n + 1`.
async fn relay(mut link: Link) {
    let mut binds: HashMap<ConsumerName, u64> = HashMap::new();
    while let Some(frame) = link.next_or_end().await {
        let answer: Frame = match frame {
            Frame::Bind(bind) => {
                binds.insert(bind.consumer, bind.bind);
                Bound { bind: bind.bind }.into()
            }
            Frame::Open(open) => {
                let bind = binds[&open.consumer];
                let producer_node = Some(open.node.clone());
                Incoming {
                    bind,
                    open: Open { stream: open.stream + 1, producer_node, ..open },
                    consumer_incarnation: None,
                }
                .into()
            }
            Frame::Accept(accept) => Accept { stream: accept.stream - 1, ..accept }.into(),
            Frame::Credit(credit) => Credit { stream: credit.stream - 1, ..credit }.into(),
            Frame::Want(want) => Want { stream: want.stream + 1, ..want }.into(),
            Frame::Data(header, payload) => Frame::Data(DataHeader { stream: header.stream + 1, ..header }, payload),
            Frame::Reclaim(reclaim) => Reclaim { stream: reclaim.stream - 1, ..reclaim }.into(),
            Frame::Limit(limit) => Limit { stream: limit.stream + 1, ..limit }.into(),
            Frame::Abort(abort) => Abort { stream: abort.stream ^ 1, ..abort }.into(),
            Frame::EndAck(EndAck { stream }) => EndAck { stream: stream ^ 1 }.into(),
            _ => continue,
        };
        link.push(answer).await;
    }
}

/// An attachment to such a node.
pub(crate) async fn attached(builder: trunkline::AttachmentBuilder) -> Attachment {
    let node = FakeNode::listen();
    let (attachment, link) = tokio::join!(builder.connect(&node.path), node.greet());
    tokio::spawn(relay(link));
    attachment.unwrap()
}

/// A message whose length and content follow from who sends it and when.
fn message(producer: usize, number: usize) -> Bytes {
    let length = match (producer + number) % 23 {
        0 => 90_000,
        1..4 => 5_000,
        _ => number % 100,
    };
    let mut message = format!("{producer}/{number}/").into_bytes();
    message.resize(message.len() + length, b'.');
    message.into()
}

async fn gather_all(attachment: Attachment, producers: usize, messages: usize) {
    let job = job(&attachment);
    let consumer = job.consumer("sink").unwrap().bind().await.unwrap();
    let address = consumer.address();
    let mut gather = consumer.gather(Expected::Count(producers));
    let mut sending = JoinSet::new();
    for producer in 0..producers {
        let end = job.producer(format!("map-{producer}")).unwrap();
        let address = address.clone();
        sending.spawn(async move {
            let mut sender = end.open(address).await.unwrap();
            for number in 0..messages {
                sender.send(message(producer, number)).await.unwrap();
            }
            let lost = producer % 10 == 3;
            if lost { sender.abort("given up") } else { sender.finish().await.unwrap() }
        });
    }
    let mut next = vec![0; producers];
    while let Some(gathered) = gather.next().await {
        match gathered.unwrap() {
            Gathered::Message { producer, message: arrived } => {
                let at: usize = producer.name.as_str().strip_prefix("map-").unwrap().parse().unwrap();
                assert_eq!(arrived, message(at, next[at]));
                next[at] += 1;
            }
            Gathered::Lost(lost) => assert_eq!(lost.text, "given up"),
        }
    }
    sending.join_all().await;
    let lost = (0..producers).filter(|producer| producer % 10 == 3).count();
    assert_eq!((gather.finished(), gather.lost()), (producers - lost, lost));
    let whole = (0..producers).filter(|producer| producer % 10 != 3).all(|producer| next[producer] == messages);
    assert!(whole, "{next:?}");
    drop(gather);
    attachment.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_arrive_whole_and_in_order() {
    gather_all(attached(Attachment::builder()).await, 60, 400).await;
}

#[tokio::test]
async fn so_they_do_when_every_budget_is_short() {
    let builder =
        Attachment::builder().receive_budget_bytes(64 << 10).send_budget_bytes(64 << 10).message_bytes_max(100_000);
    gather_all(attached(builder).await, 40, 60).await;
}
