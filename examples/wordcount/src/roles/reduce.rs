//! A reducer: gathers from every mapper of its job, counts, and writes what it counted.

use trunkline::{Expected, Gather, Gathered};

use super::{RoleError, crew::Shared};
use crate::{
    count::Counts,
    events::{Reduced, Teller},
    plan::{Plan, Worker},
    words::unpack,
};

/// Does the part of reducer `worker`.
pub(super) async fn run(shared: Shared, worker: Worker) -> Result<(), RoleError> {
    let mappers = Expected::names((0..shared.plan.width()).map(Plan::mapper))?;
    let consumer = shared.job(worker)?.consumer(Plan::reducer(worker.index))?.bind().await?;
    let counts = gather_all(consumer.gather(mappers), &shared.teller).await?;
    counts.write(&shared.counts_path(worker)).map_err(RoleError::launcher("cannot write the counts"))
}

/// Counts every word of every mapper, in whatever order their messages come. A mapper that is lost is an error: a
/// count without it would be wrong.
async fn gather_all(mut gather: Gather, teller: &Teller) -> Result<Counts, RoleError> {
    let mut counts = Counts::default();
    while let Some(gathered) = gather.next().await {
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
        teller.reduced(more).map_err(RoleError::untold)?;
    }
    Ok(counts)
}
