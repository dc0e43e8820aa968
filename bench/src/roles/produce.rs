//! A producer's process: very many streams, each as busy as it may be.

use std::{cell::Cell, rc::Rc};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use trunkline::{Attachment, ConsumerAddress, Sender};

use super::{Load, Parent, RUN, Sent, Source, Total, say};
use crate::{error::BenchError, processes::Place};

/// Streams that are opened at once.
const OPENS_AT_ONCE: usize = 4_096;

/// Sends on many streams until it is told to stop, with a task for each: what a user of the SDK writes, and what the
/// SDK is to bear. (Who would rather have few tasks has `Scatter`, which can not wait for whichever stream has room.)
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Produce {
    /// Where it attaches.
    pub(crate) place: Place,
    /// The consumer of all its streams.
    pub(crate) address: String,
    /// What it sends.
    pub(crate) load: Load,
}

impl Produce {
    /// Says `()` once it has opened all streams; after the order to stop, says the [`Total`] that was consumed.
    pub(super) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let Self { place, address, load } = self;
        let attachment = place.attach(Attachment::builder()).await?;
        let address: ConsumerAddress =
            address.parse().map_err(|error| BenchError::Option(format!("{address}: {error}")))?;
        let producer = attachment.job(address.job.as_str(), RUN)?.producer("source")?;
        let mut senders = Vec::with_capacity(load.streams);
        while senders.len() < load.streams {
            let count = OPENS_AT_ONCE.min(load.streams - senders.len());
            senders.extend(producer.scatter(std::iter::repeat_n(address.clone(), count)).await?.into_senders());
        }
        let (source, stop) = (Rc::new(Source::new(load.message_bytes)), Rc::new(Cell::new(false)));
        let mut sending = JoinSet::new();
        for (stream, sender) in senders.into_iter().enumerate() {
            sending.spawn_local(send(sender, stream, load.hashed, Rc::clone(&source), Rc::clone(&stop)));
        }
        say(())?;
        let mut total = Total::default();
        let mut add = |done: Result<Result<(usize, Sent), trunkline::Error>, _>| {
            let (stream, sent) = done.map_err(BenchError::peer("a task that sends"))??;
            total.add(stream, &sent);
            Ok::<_, BenchError>(())
        };
        tokio::select! {
            stop = parent.order::<()>() => stop?,
            // None ends before it is told, unless it fails.
            Some(done) = sending.join_next() => add(done)?,
        }
        stop.set(true);
        while let Some(done) = sending.join_next().await {
            add(done)?;
        }
        say(total)?;
        parent.done().await;
        Ok(attachment.close().await?)
    }
}

/// One stream: a `send` for each message, and at the end the consumer's receipt.
async fn send(
    mut sender: Sender,
    stream: usize,
    hashed: bool,
    source: Rc<Source>,
    stop: Rc<Cell<bool>>,
) -> Result<(usize, Sent), trunkline::Error> {
    let mut sent = Sent::default();
    let mut number = 0;
    while !stop.get() {
        let message = source.message(stream, number);
        sent.add(&message, hashed);
        sender.send(message).await?;
        number += 1;
    }
    sender.finish().await?;
    Ok((stream, sent))
}
