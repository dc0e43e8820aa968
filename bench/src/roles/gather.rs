//! The consumer of a gather from many peers: it takes an empty stream of each, and then all their streams at once.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use trunkline::{Attachment, Expected, Gather, Gathered};

use super::{Parent, RUN, Sent, Total, peers, say};
use crate::{error::BenchError, processes::Place};

/// How many messages are taken at once.
const BATCH_MESSAGES: usize = 256;

/// Gathers from peers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GatherPeers {
    /// Where it attaches.
    pub(crate) place: Place,
    /// How many peers there are.
    pub(crate) peers: usize,
    /// How many streams come from each.
    pub(crate) streams_per_peer: usize,
}

/// What came.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct GatheredAll {
    /// All of it.
    pub(crate) received: Total,
    /// From the first message until the last stream's end.
    pub(crate) seconds: f64,
}

impl GatherPeers {
    /// Says when both consumers are bound, when the mesh is up, and what came.
    pub(crate) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let attachment = self.place.attach(Attachment::builder()).await?;
        let job = attachment.job(peers::JOB, RUN)?;
        let mut mesh = job.consumer(peers::MESH)?.bind().await?.gather(Expected::Count(self.peers));
        let mut gather =
            job.consumer(peers::GATHER)?.bind().await?.gather(Expected::Count(self.peers * self.streams_per_peer));
        say(())?;
        self.gather_all(&mut mesh).await?;
        say(())?;
        say(self.gather_all(&mut gather).await?)?;
        parent.done().await;
        Ok(())
    }
}

impl GatherPeers {
    async fn gather_all(&self, gather: &mut Gather) -> Result<GatheredAll, BenchError> {
        let mut streams: HashMap<usize, Sent> = HashMap::new();
        let mut first = None;
        let mut batch = Vec::with_capacity(BATCH_MESSAGES);
        while gather.next_many(&mut batch, BATCH_MESSAGES).await? > 0 {
            first.get_or_insert_with(Instant::now);
            for gathered in batch.drain(..) {
                match gathered {
                    Gathered::Message { producer, message } => {
                        let stream = peers::stream(producer.name.as_str(), producer.number, self.streams_per_peer)?;
                        streams.entry(stream).or_default().add(&message, true);
                    }
                    Gathered::Lost(lost) => return Err(BenchError::Inexact(lost.to_string())),
                }
            }
        }
        let seconds = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
        let mut received = Total::default();
        streams.iter().for_each(|(&stream, sent)| received.add(stream, sent));
        Ok(GatheredAll { received, seconds })
    }
}
