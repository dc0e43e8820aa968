//! How a stream ends: cleanly, or with an error at both ends that says who, why and how far.

use std::{ffi::OsString, path::Path, time::Duration};

use tokio::{task::JoinSet, time::timeout};
use trunkline::{Attachment, Bytes, Code, Consumer, Error, ErrorKind, Expected, Gathered, Receiver, Sender};
use trunkline_tests::{
    cluster::Cluster,
    eventually,
    exchange::RUN,
    in_time,
    process::{self, Process},
};

const JOB: &str = "ends";
/// Longer than anything local takes: what has not happened by then is not about to.
const A_WHILE: Duration = Duration::from_millis(300);
const MESSAGE_BYTES: usize = 1_000;
/// With its length before it.
const STEP: u64 = 1_002;

async fn bind(attachment: &Attachment) -> Consumer {
    attachment.job(JOB, RUN).expect("a job").consumer("consumer").expect("a name").bind().await.expect("bound")
}

async fn open(attachment: &Attachment, producer: &str, node: &str) -> Sender {
    let producer = attachment.job(JOB, RUN).expect("a job").producer(producer).expect("a name");
    producer.open(format!("{JOB}/consumer@{node}")).await.expect("accepted")
}

/// A stream from node-a to node-b, and what must outlive it.
struct Pair {
    sender: Sender,
    receiver: Receiver,
    _consumer: Consumer,
}

async fn pair(cluster: &Cluster) -> Pair {
    let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
    let mut consumer = bind(&b).await;
    let sender = open(&a, "producer", "node-b").await;
    let receiver = consumer.accept().await.expect("the stream");
    Pair { sender, receiver, _consumer: consumer }
}

fn message(byte: u8) -> Bytes {
    vec![byte; MESSAGE_BYTES].into()
}

async fn send(mut sender: Sender, message: Bytes, count: usize) -> Result<(), Error> {
    for _ in 0..count {
        sender.send(message.clone()).await?;
    }
    sender.finish().await
}

fn arguments<'n>(socket: &Path, more: &[(&'n str, &str)]) -> Vec<(&'n str, OsString)> {
    let common = [("socket", OsString::from(socket)), ("job", JOB.into()), ("run", RUN.into())];
    common.into_iter().chain(more.iter().map(|(name, value)| (*name, OsString::from(value)))).collect()
}

fn doomed_producer(socket: &Path, messages: &str, then: &str) -> Process {
    let address = format!("{JOB}/consumer@node-b");
    let more =
        [("producer", "doomed"), ("address", &address), ("messages", messages), ("bytes", "1000"), ("then", then)];
    process::spawn("produce", arguments(socket, &more))
}

#[tokio::test]
async fn a_killed_producer_is_lost_with_its_name_and_offset_and_the_others_go_on() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let node_a = cluster.node("node-a");
        let (a, b) = (node_a.attach().await, cluster.node("node-b").attach().await);
        let mut gather = bind(&b).await.gather(Expected::names(["one", "two", "doomed"]).unwrap());
        let one = open(&a, "one", "node-b").await;
        let two = open(&b, "two", "node-b").await;
        let mut doomed = doomed_producer(&node_a.local, "5", "wait");
        let incarnation = doomed.says("attached").await;
        assert_eq!(doomed.says("sent").await, (5 * STEP).to_string());
        for _ in 0..5 {
            let Some(Ok(Gathered::Message { producer, message })) = gather.next().await else {
                panic!("a message of the doomed one");
            };
            assert_eq!((producer.name.as_str(), message.len()), ("doomed", MESSAGE_BYTES));
        }

        doomed.kill().await;
        let Some(Ok(Gathered::Lost(lost))) = gather.next().await else { panic!("the loss of the doomed one") };
        assert_eq!(lost.producer.name.as_str(), "doomed");
        assert_eq!(lost.producer.node.as_str(), "node-a");
        assert_eq!(lost.producer.incarnation.to_string(), incarnation);
        assert_eq!((lost.offset, lost.code), (5 * STEP, Code::ProducerGone), "{lost}");
        assert!(lost.text.contains("doomed"), "{lost}");

        let finishing =
            tokio::spawn(async { tokio::try_join!(send(one, message(1), 100), send(two, message(2), 100)) });
        let mut messages = 0;
        while let Some(gathered) = gather.next().await {
            assert!(matches!(gathered.unwrap(), Gathered::Message { .. }));
            messages += 1;
        }
        assert_eq!((messages, gather.finished(), gather.lost()), (200, 2, 1));
        finishing.await.unwrap().unwrap();
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_producer_killed_while_it_sends_is_lost_at_the_offset_that_was_consumed() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let b = cluster.node("node-b").attach().await;
        let mut gather = bind(&b).await.gather(Expected::Count(1));
        let mut doomed = doomed_producer(&cluster.node("node-a").local, "1", "send");
        let mut consumed = 0;
        let lost = loop {
            match gather.next().await.expect("the loss comes before the end").unwrap() {
                Gathered::Message { .. } => consumed += STEP,
                Gathered::Lost(lost) => break lost,
            }
            if consumed == 5_000 * STEP {
                doomed.kill().await;
            }
        };
        assert_eq!((lost.offset, lost.code), (consumed, Code::ProducerGone), "{lost}");
        assert!(gather.next().await.is_none());
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_killed_consumer_is_told_to_its_producers_with_the_offset() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, node_b) = (cluster.node("node-a").attach().await, cluster.node("node-b"));
        let arguments = arguments(&node_b.local, &[("consumer", "consumer"), ("messages", "3")]);
        let mut doomed = process::spawn("consume", arguments);
        doomed.says("bound").await;
        let mut sender = open(&a, "producer", "node-b").await;
        for _ in 0..5 {
            sender.send(message(0)).await.unwrap();
        }
        doomed.says("consumed").await;

        doomed.kill().await;
        let error = eventually("send fails", async || sender.send(message(0)).await.err()).await;
        assert_eq!((error.kind(), error.code()), (ErrorKind::Aborted, Some(Code::ConsumerGone)), "{error}");
        assert!(error.to_string().contains("ends/consumer@node-b"), "{error}");
        // Known to be consumed: never more than was.
        assert!(error.offset().unwrap() <= 3 * STEP, "{error}");
        let error = sender.finish().await.unwrap_err();
        assert_eq!(error.code(), Some(Code::ConsumerGone), "{error}");
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_finish_that_waits_is_told_when_the_consumer_is_killed() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, node_b) = (cluster.node("node-a").attach().await, cluster.node("node-b"));
        let arguments = arguments(&node_b.local, &[("consumer", "consumer"), ("messages", "1")]);
        let mut doomed = process::spawn("consume", arguments);
        doomed.says("bound").await;
        let mut sender = open(&a, "producer", "node-b").await;
        sender.send(message(0)).await.unwrap();
        sender.send(message(1)).await.unwrap();
        let finishing = tokio::spawn(sender.finish());
        doomed.says("consumed").await;
        doomed.kill().await;
        let error = finishing.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Some(Code::ConsumerGone), "{error}");
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_sender_dropped_unfinished_is_no_clean_end() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let Pair { mut sender, mut receiver, _consumer } = pair(&cluster).await;
        sender.send(message(1)).await.unwrap();
        sender.flush().await.unwrap();
        assert_eq!(receiver.recv().await.unwrap(), Some(message(1)));
        drop(sender);
        let error = receiver.recv().await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Aborted, Some(Code::Cancelled)), "{error}");
        assert_eq!(error.offset(), Some(STEP), "{error}");
        assert_eq!(receiver.recv().await.unwrap_err().to_string(), error.to_string(), "it stays what it was");
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn an_abort_and_a_cancel_carry_their_reason_to_the_other_end() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let mut consumer = bind(&b).await;
        let sender = open(&a, "producer", "node-b").await;
        let mut receiver = consumer.accept().await.unwrap();
        sender.abort("the input is corrupt");
        let error = receiver.recv().await.unwrap_err();
        assert!(error.code() == Some(Code::Cancelled) && error.to_string().contains("the input is corrupt"), "{error}");

        let mut sender = open(&a, "producer", "node-b").await;
        let receiver = consumer.accept().await.unwrap();
        receiver.cancel("enough was seen");
        let error = eventually("send fails", async || sender.send(message(0)).await.err()).await;
        assert!(error.code() == Some(Code::Cancelled) && error.to_string().contains("enough was seen"), "{error}");
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_process_that_detaches_ends_its_streams_at_the_other_end() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let mut consumer = bind(&b).await;
        let sender = open(&a, "producer", "node-b").await;
        let mut receiver = consumer.accept().await.unwrap();
        a.close().await.unwrap();
        let error = receiver.recv().await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Aborted, Some(Code::ProducerGone)), "{error}");
        assert_eq!(sender.finish().await.unwrap_err().kind(), ErrorKind::Closed);

        let a = cluster.node("node-a").attach().await;
        let mut sender = open(&a, "producer", "node-b").await;
        let mut receiver = consumer.accept().await.unwrap();
        b.close().await.unwrap();
        let error = eventually("send fails", async || sender.send(message(0)).await.err()).await;
        assert_eq!((error.kind(), error.code()), (ErrorKind::Aborted, Some(Code::ConsumerGone)), "{error}");
        assert_eq!(receiver.recv().await.unwrap_err().kind(), ErrorKind::Closed);
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn finish_resolves_only_when_the_consumer_has_consumed() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let Pair { mut sender, mut receiver, _consumer } = pair(&cluster).await;
        for _ in 0..3 {
            sender.send(message(0)).await.unwrap();
        }
        let mut finishing = tokio::spawn(sender.finish());
        for _ in 0..3 {
            assert!(timeout(A_WHILE, &mut finishing).await.is_err(), "finished before everything was consumed");
            assert_eq!(receiver.recv().await.unwrap(), Some(message(0)));
        }
        assert_eq!(receiver.recv().await.unwrap(), None);
        finishing.await.unwrap().unwrap();
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_send_sends_nothing_and_the_stream_goes_on() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let Pair { mut sender, mut receiver, _consumer } = pair(&cluster).await;
        let (before, cancelled, after): (Bytes, Bytes, Bytes) =
            (vec![1; 50_000].into(), vec![2; 50_000].into(), vec![3; 50_000].into());
        let mut sent = 0;
        while timeout(A_WHILE, sender.send(before.clone())).await.is_ok_and(|sent| sent.is_ok()) {
            sent += 1;
        }
        // That one was cancelled too; and this one.
        assert!(timeout(A_WHILE, sender.send(cancelled)).await.is_err(), "nobody reads, {sent} messages are sent");

        for _ in 0..sent {
            assert_eq!(receiver.recv().await.unwrap().as_ref(), Some(&before));
        }
        let finishing = tokio::spawn(async move {
            sender.send(after).await?;
            sender.finish().await
        });
        assert_eq!(receiver.recv().await.unwrap(), Some(vec![3; 50_000].into()));
        assert_eq!(receiver.recv().await.unwrap(), None);
        finishing.await.unwrap().unwrap();
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_consumer_that_does_not_read_stops_only_its_own_stream() {
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let mut consumer = bind(&b).await;
        let mut stalled = open(&a, "stalled", "node-b").await;
        let mut unread = consumer.accept().await.unwrap();
        let running = open(&a, "running", "node-b").await;
        let mut read = consumer.accept().await.unwrap();
        let block = Bytes::from(vec![0; 65_536]);
        let mut sent = 0;
        while timeout(A_WHILE, stalled.send(block.clone())).await.is_ok_and(|sent| sent.is_ok()) {
            sent += 1;
        }

        let sending = tokio::spawn(send(running, block.clone(), 1024));
        let mut blocks = 0;
        while let Some(message) = read.recv().await.unwrap() {
            assert_eq!(message.len(), block.len());
            blocks += 1;
        }
        sending.await.unwrap().unwrap();
        assert_eq!(blocks, 1024);

        let finishing = tokio::spawn(stalled.finish());
        for _ in 0..sent {
            assert_eq!(unread.recv().await.unwrap().map(|message| message.len()), Some(block.len()));
        }
        assert_eq!(unread.recv().await.unwrap(), None);
        finishing.await.unwrap().unwrap();
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_consumer_that_closes_and_exits_at_once_leaves_its_producers_finish_ok() {
    const STREAMS: usize = 50;
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, node_b) = (cluster.node("node-a").attach().await, cluster.node("node-b"));
        let streams = STREAMS.to_string();
        let arguments = arguments(&node_b.local, &[("consumer", "consumer"), ("streams", &streams), ("then", "close")]);
        let mut closing = process::spawn("consume", arguments);
        let mut sending = JoinSet::new();
        for number in 0..STREAMS {
            let sender = open(&a, &format!("producer-{number}"), "node-b").await;
            sending.spawn(send(sender, message(1), 10));
        }
        assert_eq!(closing.says("consumed").await, (STREAMS * 10 * MESSAGE_BYTES).to_string());
        assert_eq!(closing.says("closed").await, "0 0");
        assert!(closing.exited().await.success());
        for finished in sending.join_all().await {
            finished.unwrap();
        }
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn a_message_that_only_the_consumer_finds_too_long_ends_the_stream_at_both_ends_with_its_limit() {
    const LIMIT: usize = 1 << 20;
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let a = Attachment::builder().message_bytes_max(64 << 20).connect(&cluster.node("node-a").local).await.unwrap();
        let b = Attachment::builder().message_bytes_max(LIMIT).connect(&cluster.node("node-b").local).await.unwrap();
        let mut consumer = bind(&b).await;
        let mut sender = open(&a, "producer", "node-b").await;
        let mut other = open(&a, "other", "node-b").await;
        let (mut receiver, mut beside) = (consumer.accept().await.unwrap(), consumer.accept().await.unwrap());
        assert_eq!(receiver.producer().name.as_str(), "producer");

        let sending = tokio::spawn(async move {
            // The longest that it takes, and one byte more.
            sender.send(vec![1; LIMIT].into()).await?;
            sender.send(vec![2; LIMIT + 1].into()).await?;
            sender.finish().await
        });
        assert_eq!(receiver.recv().await.unwrap().map(|message| message.len()), Some(LIMIT));
        let received = receiver.recv().await.unwrap_err();
        let sent = sending.await.unwrap().unwrap_err();
        let consumed = receiver.consumed_bytes();
        assert!(consumed > LIMIT as u64, "the first message and its length: {consumed}");
        assert_eq!(received.offset(), Some(consumed), "{received}");
        // The producer may know of less, never of more.
        assert!(sent.offset().is_some_and(|offset| offset <= consumed), "{sent}");
        for error in [received, sent] {
            assert_eq!(
                (error.kind(), error.code()),
                (ErrorKind::MessageTooLarge, Some(Code::MessageTooLarge)),
                "{error}"
            );
            assert!(error.to_string().contains(&format!("at most {LIMIT} are taken")), "{error}");
        }

        other.send(message(1)).await.unwrap();
        let (finished, (first, end)) =
            tokio::join!(other.finish(), async { (beside.recv().await.unwrap(), beside.recv().await.unwrap()) });
        finished.unwrap();
        assert_eq!((first, end), (Some(message(1)), None));
        cluster.carries_nothing().await;
    })
    .await;
}
