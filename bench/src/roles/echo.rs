//! Requests and replies: a stream each way between two processes, one message in flight.

use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use trunkline::{Attachment, Receiver, Sender};

use super::{Parent, RUN, Source, say};
use crate::{error::BenchError, measure::percentile, processes::Place};

/// Sends requests, and times the replies.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    /// Where it attaches.
    pub(crate) place: Place,
    /// How long requests are, and replies.
    pub(crate) size: usize,
}

/// Sends each request back.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Where it attaches.
    pub(crate) place: Place,
    /// The consumer of the replies.
    pub(crate) reply_to: String,
}

/// How long a number of round trips took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct RoundTrips {
    /// Half of them took no longer, in microseconds.
    pub(crate) p50_us: f64,
    /// 99 of 100 took no longer.
    pub(crate) p99_us: f64,
}

impl RoundTrips {
    /// Of `count` round trips, one after the other; each returns its reply, which must be the request.
    ///
    /// # Errors
    /// The first of `round_trip`; [`BenchError::Inexact`] for a reply that is another.
    pub(crate) async fn of(
        count: usize,
        source: &Source,
        mut round_trip: impl AsyncFnMut(Bytes) -> Result<Bytes, BenchError>,
    ) -> Result<Self, BenchError> {
        let mut took_us = Vec::with_capacity(count);
        for number in 0..count {
            let request = source.message(0, number as u64);
            let asked = Instant::now();
            let reply = round_trip(request.clone()).await?;
            took_us.push(asked.elapsed().as_secs_f64() * 1e6);
            if reply != request {
                return Err(BenchError::Inexact(format!("the reply to request {number} is not the request")));
            }
        }
        took_us.sort_unstable_by(f64::total_cmp);
        Ok(Self { p50_us: percentile(&took_us, 50), p99_us: percentile(&took_us, 99) })
    }
}

impl Ask {
    /// Says the address of its consumer of replies; is told the address for requests; then, for each number that it is
    /// told, says its [`RoundTrips`].
    pub(super) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let attachment = self.place.attach(Attachment::builder()).await?;
        let job = attachment.job("bench", RUN)?;
        let mut consumer = job.consumer("replies")?.bind().await?;
        say(consumer.address().to_string())?;
        let requests_to: String = parent.order().await?;
        let mut requests = job.producer("asker")?.open(requests_to.as_str()).await?;
        let mut replies = consumer.accept().await?;
        say(())?;
        let source = Source::new(self.size);
        while let Ok(count) = parent.order().await {
            let (requests, replies) = (&mut requests, &mut replies);
            say(RoundTrips::of(count, &source, async |request| ask(requests, replies, request).await).await?)?;
        }
        requests.abort("measured");
        Ok(())
    }
}

async fn ask(requests: &mut Sender, replies: &mut Receiver, request: Bytes) -> Result<Bytes, BenchError> {
    requests.send(request).await?;
    let reply = replies.recv().await?;
    reply.ok_or_else(|| BenchError::Inexact("the replies ended".to_owned()))
}

impl Answer {
    /// Says the address of its consumer of requests, and replies until it is needed no more.
    pub(super) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let attachment = self.place.attach(Attachment::builder()).await?;
        let job = attachment.job("bench", RUN)?;
        let mut consumer = job.consumer("requests")?.bind().await?;
        say(consumer.address().to_string())?;
        let answer = async {
            let mut replies = job.producer("answerer")?.open(self.reply_to.as_str()).await?;
            let mut requests = consumer.accept().await?;
            while let Some(request) = requests.recv().await? {
                replies.send(request).await?;
            }
            Ok::<_, BenchError>(())
        };
        tokio::select! {
            answered = answer => answered,
            () = parent.done() => Ok(()),
        }
    }
}
