//! Every way of sending and every way of reading that the SDK has, through two daemons.

use std::{collections::BTreeMap, fmt};

use futures_util::{SinkExt, StreamExt, future::try_join_all};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
};
use trunkline::{
    Attachment, Bytes, Code, Consumer, Error, ErrorKind, Expected, Gather, GatherClosed, Gathered, Job, Receiver,
    Sender,
};
use trunkline_tests::{
    cluster::Cluster,
    exchange::RUN,
    in_time,
    payload::{Digest, Payload, Random, seed},
};

const JOB: &str = "ways";
/// Of each stream of [`every_way_of_sending_meets_every_way_of_reading_exactly`].
const MESSAGES: usize = 60;
/// The longest of them: as long as the most credit that a stream has.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

fn job(attachment: &Attachment) -> Job {
    attachment.job(JOB, RUN).expect("a job")
}

async fn bind(attachment: &Attachment, consumer: &str) -> Consumer {
    job(attachment).consumer(consumer).expect("a name").bind().await.expect("bound")
}

/// How a stream is sent. Its name is its producer's.
#[derive(Debug, Clone, Copy)]
enum Sending {
    Send,
    TrySend,
    Reserve,
    Sink,
    AsyncWrite,
    Scatter,
}

impl Sending {
    const ALL: [Self; 6] = [Self::Send, Self::TrySend, Self::Reserve, Self::Sink, Self::AsyncWrite, Self::Scatter];

    const fn keeps_borders(self) -> bool {
        !matches!(self, Self::AsyncWrite)
    }
}

/// How the streams of a consumer are read. Its name is its consumer's.
#[derive(Debug, Clone, Copy)]
enum Reading {
    Recv,
    RecvMany,
    Stream,
    AsyncRead,
    GatherNext,
    GatherNextMany,
    GatherStream,
}

impl Reading {
    const ALL: [Self; 7] = [
        Self::Recv,
        Self::RecvMany,
        Self::Stream,
        Self::AsyncRead,
        Self::GatherNext,
        Self::GatherNextMany,
        Self::GatherStream,
    ];

    const fn keeps_borders(self) -> bool {
        !matches!(self, Self::AsyncRead)
    }
}

/// What one end of a stream has seen.
#[derive(Default, PartialEq)]
struct Seen {
    /// The messages, as they were cut.
    messages: Digest,
    /// Their content, however it was cut.
    content: Vec<u8>,
}

impl Seen {
    fn add(&mut self, message: &[u8]) {
        self.messages.add(message);
        self.content.extend_from_slice(message);
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}; {} bytes of content", self.messages, self.content.len())
    }
}

fn payload(purpose: usize) -> Payload {
    Payload::mixed(Random::new(seed(), 1_000 + purpose as u64), MESSAGES, MESSAGE_BYTES_MAX)
}

/// Sends a whole stream in one way, and finishes it.
async fn send(way: Sending, mut sender: Sender, payload: Payload) -> Result<Seen, Error> {
    let mut sent = Seen::default();
    for message in payload {
        sent.add(&message);
        match way {
            Sending::Send => sender.send(message).await?,
            Sending::TrySend => match sender.try_send(message.clone()) {
                Err(error) if error.kind() == ErrorKind::Full => sender.send(message).await?,
                taken => taken?,
            },
            Sending::Reserve => sender.reserve(message.len()).await?.send(message)?,
            Sending::Sink => sender.feed(message).await?,
            Sending::AsyncWrite => sender.write_all(&message).await.expect("the stream goes on"),
            Sending::Scatter => unreachable!("it has many senders"),
        }
    }
    match way {
        Sending::Sink => SinkExt::close(&mut sender).await?,
        Sending::AsyncWrite => sender.shutdown().await.expect("a clean end"),
        _ => sender.finish().await?,
    }
    Ok(sent)
}

/// Sends the same to one consumer for each way of reading, in turns one by one and to all at once.
async fn scatter(job: &Job, addresses: &[String], payload: Payload) -> Result<Seen, Error> {
    let mut scatter =
        job.producer(format!("{:?}", Sending::Scatter))?.scatter(addresses.iter().map(String::as_str)).await?;
    let mut sent = Seen::default();
    for (number, message) in payload.enumerate() {
        sent.add(&message);
        if number % 2 == 0 {
            for index in 0..scatter.len() {
                scatter.send(index, message.clone()).await?;
            }
        } else {
            assert!(scatter.broadcast(message).await.is_empty());
        }
    }
    assert!(scatter.finish().await.is_empty());
    Ok(sent)
}

/// Reads a stream to its clean end.
async fn receive(way: Reading, mut receiver: Receiver) -> Result<Seen, Error> {
    let mut received = Seen::default();
    match way {
        Reading::Recv => {
            while let Some(message) = receiver.recv().await? {
                received.add(&message);
            }
        }
        Reading::RecvMany => {
            let mut batch = Vec::new();
            while receiver.recv_many(&mut batch, 7).await? > 0 {
                batch.drain(..).for_each(|message| received.add(&message));
            }
        }
        Reading::Stream => {
            while let Some(message) = receiver.next().await {
                received.add(&message?);
            }
        }
        Reading::AsyncRead => {
            receiver.read_to_end(&mut received.content).await.expect("a clean end");
        }
        Reading::GatherNext | Reading::GatherNextMany | Reading::GatherStream => unreachable!("it has many receivers"),
    }
    Ok(received)
}

/// Reads all streams of a gather to their clean ends; what came, by producer.
async fn gather(way: Reading, mut gather: Gather) -> Result<BTreeMap<String, Seen>, Error> {
    let mut received = BTreeMap::<_, Seen>::new();
    let mut add = |gathered| match gathered {
        Gathered::Message { producer, message } => received.entry(producer.name.to_string()).or_default().add(&message),
        Gathered::Lost(lost) => panic!("{lost}"),
    };
    match way {
        Reading::GatherNext => {
            while let Some(gathered) = gather.next().await {
                add(gathered?);
            }
        }
        Reading::GatherNextMany => {
            let mut batch = Vec::new();
            while gather.next_many(&mut batch, 7).await? > 0 {
                batch.drain(..).for_each(&mut add);
            }
        }
        _ => {
            while let Some(gathered) = StreamExt::next(&mut gather).await {
                add(gathered?);
            }
        }
    }
    assert_eq!((gather.finished(), gather.lost()), (Sending::ALL.len(), 0));
    Ok(received)
}

/// Reads one stream of each way of sending.
async fn read(way: Reading, mut consumer: Consumer) -> Result<BTreeMap<String, Seen>, Error> {
    if matches!(way, Reading::GatherNext | Reading::GatherNextMany | Reading::GatherStream) {
        return gather(way, consumer.gather(Expected::Count(Sending::ALL.len()))).await;
    }
    let mut receiving = JoinSet::new();
    for _ in Sending::ALL {
        let receiver = consumer.accept().await?;
        let producer = receiver.producer().name.to_string();
        receiving.spawn(async move { Ok((producer, receive(way, receiver).await?)) });
    }
    receiving.join_all().await.into_iter().collect()
}

#[tokio::test]
async fn every_way_of_sending_meets_every_way_of_reading_exactly() {
    in_time(async {
        println!("SEED={}", seed());
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let mut reading = JoinSet::new();
        for way in Reading::ALL {
            let consumer = bind(&b, &format!("{way:?}")).await;
            reading.spawn(async move { (format!("{way:?}"), read(way, consumer).await.unwrap()) });
        }
        let producing = job(&a);
        let addresses = Reading::ALL.map(|way| format!("{JOB}/{way:?}@node-b"));
        let mut sending = JoinSet::new();
        let one_by_one = Sending::ALL.into_iter().enumerate().filter(|(_, way)| !matches!(way, Sending::Scatter));
        for (number, way) in one_by_one {
            for (to, address) in addresses.iter().cloned().enumerate() {
                let producer = producing.producer(format!("{way:?}")).unwrap();
                sending.spawn(async move {
                    let sender = producer.open(address).await.unwrap();
                    let sent = send(way, sender, payload(number * 10 + to)).await;
                    ((number, to), sent.unwrap_or_else(|error| panic!("{way:?}: {error}")))
                });
            }
        }
        let (scattered, sent) = tokio::join!(scatter(&producing, &addresses, payload(100)), sending.join_all());
        let (scattered, sent) = (scattered.unwrap(), BTreeMap::from_iter(sent));
        let received = BTreeMap::from_iter(reading.join_all().await);

        for (from, sending) in Sending::ALL.into_iter().enumerate() {
            for (to, reading) in Reading::ALL.into_iter().enumerate() {
                let sent = sent.get(&(from, to)).unwrap_or(&scattered);
                let received = &received[&format!("{reading:?}")][&format!("{sending:?}")];
                let pair = format!("{sending:?} to {reading:?}: sent {sent:?}, received {received:?}");
                assert!(sent.content == received.content, "{pair}");
                if sending.keeps_borders() && reading.keeps_borders() {
                    assert!(sent.messages == received.messages, "{pair}");
                }
            }
        }
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn one_producer_scatters_to_thousands_of_consumers_on_two_nodes() {
    /// On each node, in two processes.
    const CONSUMERS: usize = 1_000;
    /// Those that do not go on, one on each node, by index.
    const CANCELLED: usize = 17;
    const DROPPED: usize = CONSUMERS + 700;
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let mut binding = Vec::new();
        let mut attachments = Vec::new();
        for node in cluster.nodes() {
            for half in 0..2 {
                let attachment = node.attach().await;
                for number in 0..CONSUMERS / 2 {
                    let consumer = job(&attachment).consumer(format!("consumer-{half}-{number}")).unwrap();
                    binding.push(consumer.bind());
                }
                attachments.push(attachment);
            }
        }
        let mut consumers = try_join_all(binding).await.unwrap();
        let addresses: Vec<_> = consumers.iter().map(Consumer::address).collect();
        let a = cluster.node("node-a").attach().await;
        let mut scatter = job(&a).producer("source").unwrap().scatter(addresses).await.unwrap();
        assert_eq!(scatter.len(), 2 * CONSUMERS);
        let receivers = try_join_all(consumers.iter_mut().map(Consumer::accept)).await.unwrap();

        let mut reading = JoinSet::new();
        for (index, mut receiver) in receivers.into_iter().enumerate() {
            match index {
                CANCELLED => receiver.cancel("not of this one"),
                DROPPED => drop(receiver),
                _ => {
                    reading.spawn(async move {
                        let mut messages = Vec::new();
                        while let Some(message) = receiver.recv().await.unwrap() {
                            messages.push(message);
                        }
                        (index, messages)
                    });
                }
            }
        }
        // From here on both are known to have ended, and it is no matter of time who fails.
        let error = scatter.sender_mut(CANCELLED).unwrap().ended().await.unwrap_err();
        assert!(error.code() == Some(Code::Cancelled) && error.to_string().ends_with("not of this one"), "{error}");
        let error = scatter.sender_mut(DROPPED).unwrap().ended().await.unwrap_err();
        assert_eq!(error.code(), Some(Code::Cancelled), "{error}");

        let only_those_failed = |failed: Vec<(usize, Error)>| {
            let failed: Vec<_> = failed.iter().map(|(index, error)| (*index, error.code())).collect();
            assert_eq!(failed, [(CANCELLED, Some(Code::Cancelled)), (DROPPED, Some(Code::Cancelled))]);
        };
        let mut failed = Vec::new();
        for index in 0..scatter.len() {
            let sent = scatter.send(index, format!("to {index}").into()).await;
            failed.extend(sent.err().map(|error| (index, error)));
        }
        only_those_failed(failed);
        only_those_failed(scatter.broadcast("to all".into()).await);
        only_those_failed(scatter.flush().await);
        only_those_failed(scatter.finish().await);
        let received = BTreeMap::from_iter(reading.join_all().await);
        assert_eq!(received.len(), 2 * CONSUMERS - 2);
        for (index, messages) in received {
            assert_eq!(messages, [format!("to {index}"), "to all".to_owned()], "index {index}");
        }
        cluster.carries_nothing().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_gather_cancels_is_told_to_its_producer_and_the_others_finish() {
    const MESSAGES: usize = 500;
    in_time(async {
        let cluster = Cluster::builder().start().await;
        let (a, b) = (cluster.node("node-a").attach().await, cluster.node("node-b").attach().await);
        let names = ["noisy", "far", "near"];
        let consumer = bind(&b, "consumer").await;
        let address = consumer.address();
        let mut gather = consumer.gather(Expected::names(names).unwrap());
        let mut noisy = job(&a).producer("noisy").unwrap().open(address.clone()).await.unwrap();
        noisy.send(Bytes::from_static(b"noise")).await.unwrap();
        let Some(Ok(Gathered::Message { producer, .. })) = gather.next().await else { panic!("the noise") };
        assert!(gather.cancel(&producer, "it is too loud"));
        assert!(!gather.cancel(&producer, "once is enough"));

        let error = noisy.ended().await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Aborted, Some(Code::Cancelled)), "{error}");
        assert!(error.to_string().ends_with("it is too loud"), "{error}");
        let error = noisy.send(Bytes::from_static(b"more noise")).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::Cancelled), "{error}");

        let mut sending = JoinSet::new();
        for (name, attachment) in [("far", &a), ("near", &b)] {
            let (producer, address) = (job(attachment).producer(name).unwrap(), address.clone());
            sending.spawn(async move {
                let mut sender = producer.open(address).await?;
                for number in 0..MESSAGES {
                    sender.send(number.to_string().into()).await?;
                }
                sender.finish().await
            });
        }
        let mut messages = BTreeMap::<_, Vec<_>>::new();
        while let Some(gathered) = gather.next().await {
            let Gathered::Message { producer, message } = gathered.unwrap() else { panic!("a message") };
            messages.entry(producer.name.to_string()).or_default().push(message);
        }
        let expected: Vec<_> = (0..MESSAGES).map(|number| Bytes::from(number.to_string())).collect();
        let expected = ["far", "near"].map(|name| (name.to_owned(), expected.clone()));
        assert_eq!(messages, BTreeMap::from(expected));
        for finished in sending.join_all().await {
            finished.unwrap();
        }
        assert_eq!((gather.finished(), gather.lost(), gather.cancelled()), (2, 0, 1));
        let left = gather.close().await.unwrap();
        assert!(matches!(left, GatherClosed { finished: 2, lost: 0, cancelled: 1, unfinished: 0, missing: 0, .. }));
        cluster.carries_nothing().await;
    })
    .await;
}
