//! Futures on one embedded node, dropped at any of their polls: without a socket between, too, nothing is lost and nothing
//! comes twice.

use tokio::task::JoinSet;
use trunkline::{Attachment, AttachmentBuilder, Bytes, Expected, Gathered, Receiver, Sender};

use crate::{
    cutting::{
        Cutter, Hunger, SHORT_SEND_BUDGET_BYTES, Told, World, a_broadcast_short_of_budget_at_every_poll, message,
        short_of_budget_at_every_poll, through_a_sink,
    },
    nodes::Nodes,
};

/// Polls of a reading future before it is dropped, at most.
const READ_POLLS_MAX: usize = 3;
/// Messages of each stream that is read.
const MESSAGES: usize = 40;

/// A node with a producer and a consumer of its own.
async fn world(nodes: &Nodes, builder: AttachmentBuilder) -> World {
    World::of(builder.embedded(nodes.a.clone()).await.unwrap()).await
}

/// Senders that together may hold next to nothing: what they wait for is in the test's hands, whatever the node's thread
/// does meanwhile.
fn short() -> AttachmentBuilder {
    Attachment::builder().send_budget_bytes(SHORT_SEND_BUDGET_BYTES)
}

#[tokio::test]
async fn a_send_may_be_dropped_at_any_poll() {
    let nodes = Nodes::new().await;
    let mut world = world(&nodes, short()).await;
    short_of_budget_at_every_poll(&mut world, "send", Told::NotSent, |sender, message| Box::pin(sender.send(message)))
        .await;
}

#[tokio::test]
async fn a_sink_may_be_dropped_at_any_poll() {
    let nodes = Nodes::new().await;
    short_of_budget_at_every_poll(&mut world(&nodes, short()).await, "sink", Told::Sent, through_a_sink).await;
}

#[tokio::test]
async fn a_broadcast_may_be_dropped_at_any_poll_and_reaches_all_or_none() {
    let nodes = Nodes::new().await;
    a_broadcast_short_of_budget_at_every_poll(&mut world(&nodes, short()).await).await;
}

/// Sends as long as the reader waits.
async fn feed(mut sender: Sender, hunger: Hunger) {
    for number in 0..MESSAGES {
        hunger.felt().await;
        sender.send(message(number)).await.unwrap();
    }
    sender.finish().await.unwrap();
}

/// Has a stream read under each number of polls before the drop; `read` appends what was returned, and returns whether the
/// end was.
async fn each_way(mut read: impl AsyncFnMut(&mut Receiver, &mut Cutter, &mut Vec<Bytes>) -> bool) {
    let nodes = Nodes::new().await;
    let mut world = world(&nodes, Attachment::builder()).await;
    for polls_max in 1..=READ_POLLS_MAX {
        let (sender, mut receiver) = world.stream().await;
        let mut cutter = Cutter::new(polls_max);
        let feeding = tokio::spawn(feed(sender, cutter.hunger()));
        let mut all = Vec::new();
        while !read(&mut receiver, &mut cutter, &mut all).await {}
        assert!(all == (0..MESSAGES).map(message).collect::<Vec<_>>(), "dropped after {polls_max} polls at most");
        assert!(cutter.dropped > 0, "nothing was dropped while it waited: this shows nothing");
        feeding.await.unwrap();
    }
}

#[tokio::test]
async fn a_recv_may_be_dropped_at_any_poll() {
    each_way(async |receiver, cutter, all| {
        let read = cutter.cut(receiver.recv()).await.map(Result::unwrap);
        let is_over = read == Some(None);
        all.extend(read.flatten());
        is_over
    })
    .await;
}

#[tokio::test]
async fn a_recv_many_may_be_dropped_at_any_poll() {
    each_way(async |receiver, cutter, all| {
        let before = all.len();
        let read = cutter.cut(receiver.recv_many(all, 3)).await.map(Result::unwrap);
        assert_eq!(all.len() - before, read.unwrap_or(0));
        read == Some(0)
    })
    .await;
}

#[tokio::test]
async fn a_next_many_may_be_dropped_at_any_poll() {
    const PRODUCERS: usize = 3;
    let nodes = Nodes::new().await;
    let attachment = Attachment::embedded(nodes.a.clone()).await.unwrap();
    let job = attachment.job("job", "1").unwrap();
    for polls_max in 1..=READ_POLLS_MAX {
        let consumer = job.consumer(format!("sink-{polls_max}")).unwrap().bind().await.unwrap();
        let address = consumer.address();
        let mut gather = consumer.gather(Expected::Count(PRODUCERS));
        let mut cutter = Cutter::new(polls_max);
        let mut feeding = JoinSet::new();
        for producer in 0..PRODUCERS {
            let sender = job.producer(producer.to_string()).unwrap().open(address.clone()).await.unwrap();
            feeding.spawn(feed(sender, cutter.hunger()));
        }
        let mut next = [0; PRODUCERS];
        loop {
            let mut batch = Vec::new();
            let read = cutter.cut(gather.next_many(&mut batch, 3)).await.map(Result::unwrap);
            assert_eq!(batch.len(), read.unwrap_or(0));
            for gathered in batch {
                let Gathered::Message { producer, message: arrived } = gathered else { panic!("{gathered:?}") };
                let at: usize = producer.name.as_str().parse().unwrap();
                assert!(arrived == message(next[at]), "producer {at}: message {}", next[at]);
                next[at] += 1;
            }
            if read == Some(0) {
                break;
            }
        }
        assert_eq!((next, gather.finished()), ([MESSAGES; PRODUCERS], PRODUCERS));
        assert!(cutter.dropped > 0, "nothing was dropped while it waited: this shows nothing");
        feeding.join_all().await;
    }
}
