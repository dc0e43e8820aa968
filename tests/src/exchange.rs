//! Whole streams from one attachment to another, compared at both ends.

use std::collections::BTreeMap;

use tokio::task::JoinSet;
use trunkline::{Attachment, AttachmentBuilder, Error, Receiver, Sender};

use crate::payload::{Digest, Payload, Random};

/// The run of every job that the harness makes itself.
pub const RUN: &str = "run-1";

/// The least that a process may be given to receive into, in bytes.
const RECEIVE_BUDGET_BYTES_MIN: u64 = 64 << 10;

/// An attachment with the smallest budgets that the SDK allows, for messages of up to `message_bytes_max`.
pub fn smallest_budgets(message_bytes_max: usize) -> AttachmentBuilder {
    Attachment::builder()
        .receive_budget_bytes(RECEIVE_BUDGET_BYTES_MIN)
        .send_budget_bytes(1)
        .message_bytes_max(message_bytes_max)
}

/// Sends everything and finishes; returns what was sent.
///
/// # Errors
/// How the stream ended otherwise.
pub async fn send_all(mut sender: Sender, mut payload: Payload) -> Result<Digest, Error> {
    for message in payload.by_ref() {
        sender.send(message).await?;
    }
    sender.finish().await?;
    Ok(payload.digest())
}

/// Reads to the clean end; returns what came.
///
/// # Errors
/// How the stream ended otherwise.
pub async fn receive_all(receiver: &mut Receiver) -> Result<Digest, Error> {
    let mut digest = Digest::default();
    while let Some(message) = receiver.recv().await? {
        digest.add(&message);
    }
    Ok(digest)
}

/// Binds `consumer` at `to`, opens a stream to it from `from` for each payload, all at once, and compares.
///
/// # Panics
/// When a stream fails, or brings anything but what was sent.
pub async fn exchange(job: &str, from: &Attachment, to: &Attachment, consumer: &str, payloads: Vec<Payload>) {
    let mut bound = to.job(job, RUN).expect("a job").consumer(consumer).expect("a name").bind().await.expect("bound");
    let address = bound.address();
    let sending_job = from.job(job, RUN).expect("a job");
    let count = payloads.len();
    let mut sending = JoinSet::new();
    for (number, payload) in payloads.into_iter().enumerate() {
        let producer = sending_job.producer(format!("producer-{number}")).expect("a name");
        let address = address.clone();
        sending.spawn(async move {
            let sender = producer.open(address).await?;
            Ok::<_, Error>((producer.name().to_string(), send_all(sender, payload).await?))
        });
    }
    let mut receiving = JoinSet::new();
    for _ in 0..count {
        let mut receiver = bound.accept().await.expect("a stream");
        receiving.spawn(async move {
            let producer = receiver.producer().name.to_string();
            Ok::<_, Error>((producer, receive_all(&mut receiver).await?))
        });
    }
    let (sent, received) = tokio::join!(collect(sending), collect(receiving));
    assert_eq!(sent.len(), count);
    assert_eq!(sent, received, "{job}: what was sent to {address}, and what arrived");
}

/// An exchange in which every member sends to all of them, itself included, and receives from all.
#[derive(Debug, Clone)]
pub struct AllToAll {
    /// The job of all members.
    pub job: String,
    /// The node of each member.
    pub nodes: Vec<String>,
    /// How many messages each sends to each.
    pub messages: usize,
    /// The longest of them, in bytes.
    pub length_max: usize,
    /// What the messages are drawn from.
    pub seed: u64,
}

impl AllToAll {
    /// The part of one member, `member` being its place among the nodes: it sends and receives at the same time, as the
    /// manual of the SDK asks of such a program. Returns how many bytes came, when all of its streams have finished.
    ///
    /// # Errors
    /// How a stream ended otherwise.
    ///
    /// # Panics
    /// When a stream brings anything but what its producer was to send.
    pub async fn take_part(&self, attachment: &Attachment, member: usize) -> Result<u64, Error> {
        let job = attachment.job(self.job.as_str(), RUN)?;
        let mut consumer = job.consumer(member_name(member))?.bind().await?;
        let mut streams: JoinSet<Result<u64, Error>> = JoinSet::new();
        for (to, node) in self.nodes.iter().enumerate() {
            let producer = job.producer(member_name(member))?;
            let address = format!("{}/{}@{node}", self.job, member_name(to));
            let payload = self.payload(member, to);
            streams.spawn(async move {
                send_all(producer.open(address).await?, payload).await?;
                Ok(0)
            });
        }
        for _ in &self.nodes {
            let mut receiver = consumer.accept().await?;
            let producer = receiver.producer().name.to_string();
            let from = (0..self.nodes.len()).find(|&from| member_name(from) == producer);
            let mut expected = self.payload(from.unwrap_or_else(|| panic!("{producer} is no member")), member);
            streams.spawn(async move {
                let received = receive_all(&mut receiver).await?;
                expected.by_ref().for_each(drop);
                assert_eq!(received, expected.digest(), "from {producer} to {}", member_name(member));
                Ok(received.bytes)
            });
        }
        let mut bytes = 0;
        while let Some(ended) = streams.join_next().await {
            bytes += ended.expect("no task panics")?;
        }
        Ok(bytes)
    }

    /// What one member sends to another.
    fn payload(&self, from: usize, to: usize) -> Payload {
        let stream = from * self.nodes.len() + to;
        let random = Random::new(self.seed, u64::try_from(stream).expect("it is below a u64"));
        Payload::mixed(random, self.messages, self.length_max)
    }
}

fn member_name(member: usize) -> String {
    format!("member-{member}")
}

async fn collect(mut tasks: JoinSet<Result<(String, Digest), Error>>) -> BTreeMap<String, Digest> {
    let mut digests = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        let (producer, digest) = done.expect("no task panics").unwrap_or_else(|error| panic!("{error}"));
        digests.insert(producer, digest);
    }
    digests
}
