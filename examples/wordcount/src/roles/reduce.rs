//! A reducer: gathers from every mapper of its job, counts, and writes what it counted.

use std::time::Duration;

use tokio::time;
use trunkline::{Expected, Gather, Gathered};

use super::{RoleError, Word, crew::Shared};
use crate::{
    count::Counts,
    events::{Reduced, Teller},
    plan::{Part, Plan, Worker},
    words::unpack,
};

/// When no message comes for this long, what was counted so far is told.
const QUIET: Duration = Duration::from_millis(10);

/// Does the part of reducer `worker`.
pub(super) async fn run(mut shared: Shared, worker: Worker) -> Result<(), RoleError> {
    let mappers = shared.plan.workers_of(worker.job, Part::Map);
    let mappers = Expected::names((0..mappers).map(Plan::mapper))?;
    let consumer = shared.job(worker)?.consumer(Plan::reducer(worker.index))?.bind().await?;
    let gather = consumer.gather(mappers);
    let sleeps = shared.plan.is_stalled(worker.job);
    if sleeps {
        shared.words.wait_for(Word::Wake).await;
    }
    let counts = gather_all(gather, worker.job, &shared.teller).await?;
    if !sleeps {
        // Before they are written: a rate that is told is that of counting.
        shared.teller.counted().map_err(RoleError::untold)?;
    }
    counts.write(&shared.counts_path(worker)).map_err(RoleError::launcher("cannot write the counts"))
}

/// Counts every word of every mapper, in whatever order their messages come. A mapper that is lost is an error: a
/// count without it would be wrong.
async fn gather_all(mut gather: Gather, job: usize, teller: &Teller) -> Result<Counts, RoleError> {
    let mut counts = Counts::default();
    loop {
        let next = if let Ok(next) = time::timeout(QUIET, gather.next()).await {
            next
        } else {
            // While nothing comes, the launcher is to know how far this is.
            teller.tell_rest().map_err(RoleError::untold)?;
            gather.next().await
        };
        let Some(gathered) = next else { break };
        let (producer, message) = match gathered? {
            Gathered::Message { producer, message } => (producer, message),
            Gathered::Lost(lost) => return Err(RoleError::Lost(lost)),
        };
        let words = unpack(&message).ok_or_else(|| RoleError::Malformed(producer.name.to_string()))?;
        let mut more = Reduced { messages: 1, stream_bytes: message.len() as u64, ..Reduced::default() };
        for word in words {
            counts.add(word, 1);
            more.words += 1;
        }
        teller.reduced(job, more).map_err(RoleError::untold)?;
    }
    Ok(counts)
}
