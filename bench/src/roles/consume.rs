//! A consumer's process: one gather of very many streams.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use trunkline::{Attachment, Expected, Gathered};

use super::{Load, Meter, Parent, RUN, Window, say};
use crate::{error::BenchError, processes::Place};

/// Messages that are taken with one call, where that is how they are taken.
const BATCH: usize = 1_024;
/// Messages between two looks at the clock, where each is a call of its own.
const TICK_MESSAGES: usize = 64;

/// Gathers many streams, and counts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Consume {
    /// Where it attaches.
    pub(crate) place: Place,
    /// What it is sent.
    pub(crate) load: Load,
    /// What of it is measured.
    pub(crate) window: Window,
    /// Whether each message is a call of its own.
    pub(crate) one_by_one: bool,
}

impl Consume {
    /// Says its address; what was [measured](super::Measured); and when all streams have ended, the [`Total`](super::Total).
    pub(super) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let Self { place, load, window, one_by_one } = self;
        let attachment = place.attach(Attachment::builder()).await?;
        let consumer = attachment.job("bench", RUN)?.consumer("sink")?.bind().await?;
        let address = consumer.address().to_string();
        let mut gather = consumer.gather(Expected::Count(load.streams));
        say(address)?;
        let mut meter = Meter::new(load, window);
        let mut batch = Vec::with_capacity(BATCH);
        let mut left = TICK_MESSAGES;
        loop {
            if one_by_one {
                match gather.next().await {
                    Some(gathered) => take(gathered?, &mut meter)?,
                    None => break,
                }
                left -= 1;
                if left > 0 {
                    continue;
                }
                left = TICK_MESSAGES;
            } else if gather.next_many(&mut batch, BATCH).await? == 0 {
                break;
            }
            for gathered in batch.drain(..) {
                take(gathered, &mut meter)?;
            }
            if let Some(measured) = meter.tick(Instant::now()) {
                say(measured)?;
            }
        }
        say(meter.total())?;
        gather.close().await?;
        parent.done().await;
        Ok(attachment.close().await?)
    }
}

fn take(gathered: Gathered, meter: &mut Meter) -> Result<(), BenchError> {
    match gathered {
        Gathered::Message { producer, message } => {
            // One producer has all streams, and numbers them from 1 in the order in which it opened them.
            let stream = usize::try_from(producer.number - 1).unwrap_or(usize::MAX);
            meter.add(stream, &message);
            Ok(())
        }
        Gathered::Lost(lost) => Err(BenchError::Inexact(lost.to_string())),
    }
}
