//! Whole streams from one attachment to another, compared at both ends.

use std::collections::BTreeMap;

use tokio::task::JoinSet;
use trunkline::{Attachment, Error, Receiver, Sender};

use crate::payload::{Digest, Payload};

/// The run of every job that the harness makes itself.
pub const RUN: &str = "run-1";

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

async fn collect(mut tasks: JoinSet<Result<(String, Digest), Error>>) -> BTreeMap<String, Digest> {
    let mut digests = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        let (producer, digest) = done.expect("no task panics").unwrap_or_else(|error| panic!("{error}"));
        digests.insert(producer, digest);
    }
    digests
}
