//! A reducer: gathers from every mapper of its job, counts, and writes what it counted.

use std::process::ExitCode;

use trunkline::{Attachment, Expected, Gather, Gathered};

use super::{RoleError, serve};
use crate::{
    cli::Seat,
    count::Counts,
    events::{Event, Reduced, Teller},
    plan::{Plan, local_socket},
    words::unpack,
};

/// The process `wordcount reduce`.
pub(crate) fn main(seat: &Seat) -> ExitCode {
    serve(|_| run(seat))
}

async fn run(seat: &Seat) -> Result<(), RoleError> {
    let plan = Plan::read(&seat.plan).map_err(RoleError::launcher("cannot read the plan"))?;
    let socket = local_socket(&seat.plan, &plan.nodes[plan.node_of(seat.index)]);
    let attachment = Attachment::builder().software("wordcount reduce").connect(socket).await?;
    let job = attachment.job(plan.job(seat.job), plan.run.as_str())?;
    let mappers = Expected::names((0..plan.width()).map(Plan::mapper))?;
    let consumer = job.consumer(Plan::reducer(seat.index))?.bind().await?;
    let mut teller = Teller::new();
    let (counts, reduced) = gather_all(consumer.gather(mappers), &mut teller).await?;
    counts
        .write(&plan.counts_path(&seat.plan, seat.job, seat.index))
        .map_err(RoleError::launcher("cannot write the counts"))?;
    attachment.close().await?;
    teller.tell(Event::Reduced(reduced)).map_err(RoleError::launcher("cannot tell the launcher"))
}

/// Counts every word of every mapper, in whatever order their messages come. A mapper that is lost is an error: a
/// count without it would be wrong.
async fn gather_all(mut gather: Gather, teller: &mut Teller) -> Result<(Counts, Reduced), RoleError> {
    let (mut counts, mut reduced) = (Counts::default(), Reduced::default());
    while let Some(gathered) = gather.next().await {
        let (producer, message) = match gathered? {
            Gathered::Message { producer, message } => (producer, message),
            Gathered::Lost(lost) => return Err(RoleError::Lost(lost)),
        };
        let words = unpack(&message).ok_or_else(|| RoleError::Malformed(producer.name.to_string()))?;
        for word in words {
            counts.add(word, 1);
            reduced.words += 1;
        }
        reduced.messages += 1;
        reduced.stream_bytes += message.len() as u64;
        teller.tell_now_and_then(Event::Reduced(reduced)).map_err(RoleError::launcher("cannot tell the launcher"))?;
    }
    Ok((counts, reduced))
}
