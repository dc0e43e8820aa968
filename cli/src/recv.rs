//! `trunkline recv`: streams become an output.
//!
//! Each producer's stream is copied by a future of its own, a batch at a time, and a batch is written before the next one
//! of the same stream is read: so the end of a stream counts as consumed, and the producer's `finish` returns, only once
//! everything before it was written.

mod report;
mod writer;

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal as _},
    time::Instant,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    select,
    sync::{Semaphore, watch},
};
use trunkline::{Bytes, Consumer, Error, Receiver};

use self::{
    report::{End, Received, Report},
    writer::{WriteError, Writer},
};
use crate::{
    arguments::RecvArguments,
    attach::{attach, close, job},
    failure::Failure,
    interrupt::Interrupt,
    progress::{Progress, eprint_line},
};

/// Messages that are written at once, at most.
const BATCH_MESSAGES: usize = 256;

/// Batches that were taken out of their streams, where the process's receive budget bounds them, and are not written yet.
/// While one is written, the next one may be taken.
const BATCHES_IN_HAND: usize = 2;

/// Receives from as many producers as are expected, and returns when each has ended.
pub(crate) async fn run(arguments: &RecvArguments, interrupt: &mut Interrupt) -> Result<(), Failure> {
    let begin = Instant::now();
    let mut report = Report::new(arguments.expect);
    let done = receive(arguments, interrupt, &mut report).await;
    if arguments.json {
        eprint_line(&report.to_json(&arguments.end.run, begin.elapsed(), done.as_ref().err()).to_string());
    }
    done
}

async fn receive(arguments: &RecvArguments, interrupt: &mut Interrupt, report: &mut Report) -> Result<(), Failure> {
    let quiet = arguments.end.quiet || arguments.json;
    let attachment = interrupt.unless(attach(&arguments.end)).await??;
    let consumer = job(&attachment, &arguments.place.job, &arguments.end)?
        .consumer(&arguments.place.consumer)
        .map_err(Failure::NotReached)?;
    let consumer = interrupt.unless(consumer.bind()).await?.map_err(Failure::NotReached)?;
    let address = consumer.address().to_string();
    // On a terminal the data itself shows how far it is, and would be mixed with it.
    let progress = Progress::new(quiet || io::stdout().is_terminal(), None);
    if !quiet {
        let (run, expect) = (&arguments.end.run, arguments.expect);
        let producers = if expect == 1 { "producer" } else { "producers" };
        progress.say(&format!("trunkline: bound {address}, run {run}, for {expect} {producers}"));
    }
    report.address = Some(address);
    let in_hand = Semaphore::new(BATCHES_IN_HAND);
    let copies = Copies { writer: Writer::start(arguments.lines)?, in_hand, progress, quiet };
    let done = copies.gather(consumer, interrupt, report).await;
    drop(copies);
    close(attachment, interrupt).await;
    done
}

/// Copies streams to the output, each in its own order and all as they arrive.
struct Copies {
    writer: Writer,
    /// A permit for each batch that may be in hand: without it, a producer more would be a long message more.
    in_hand: Semaphore,
    progress: Progress,
    quiet: bool,
}

impl Copies {
    async fn gather(&self, consumer: Consumer, interrupt: &mut Interrupt, report: &mut Report) -> Result<(), Failure> {
        let mut consumer = Some(consumer);
        // What ends every copy: why, in words for the producers.
        let (stop, stopped) = watch::channel(None);
        let mut running = FuturesUnordered::new();
        let mut failure: Option<Failure> = None;
        while !running.is_empty() || consumer.is_some() {
            select! {
                biased;
                signal = interrupt.received(), if failure.is_none() => failure = Some(Failure::Interrupted(signal)),
                Some(received) = running.next() => {
                    let received: Received = received;
                    match (&received.end, &failure) {
                        (End::Unwritten(error), None) => failure = Some(Failure::Output(error.clone())),
                        (End::Lost(error), _) if !self.quiet => self.progress.say(&format!("trunkline: lost {error}")),
                        _ => {}
                    }
                    report.producers.push(received);
                }
                accepted = accept(&mut consumer) => match accepted {
                    Ok(receiver) => {
                        report.accepted += 1;
                        running.push(self.copy(receiver, stopped.clone()));
                        if report.accepted == report.expected {
                            // The name is free for the next one; its senders wait until somebody binds it again.
                            consumer = None;
                        }
                    }
                    // The streams that were taken may go on.
                    Err(error) => {
                        report.bind_ended = Some(error);
                        consumer = None;
                    }
                },
            }
            if let Some(failure) = &failure {
                consumer = None;
                stop.send_if_modified(|why| why.is_none().then(|| *why = Some(failure.to_string())).is_some());
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None => report.verdict(),
        }
    }

    /// Copies one stream to its end, or until it is given up for the reason that `stopped` brings.
    async fn copy(&self, mut receiver: Receiver, mut stopped: watch::Receiver<Option<String>>) -> Received {
        let mut received = Received::new(receiver.producer());
        let mut batch = Vec::new();
        received.end = select! {
            biased;
            why = stopped.wait_for(Option::is_some) => {
                End::Cancelled(why.ok().and_then(|why| why.clone()).unwrap_or_default())
            }
            end = self.copy_to_end(&mut receiver, &mut batch, &mut received.messages, &mut received.bytes) => end,
        };
        match &received.end {
            End::Cancelled(why) => receiver.cancel(why),
            End::Unwritten(error) => receiver.cancel(&Failure::Output(error.clone()).to_string()),
            End::Finished | End::Lost(_) => {}
        }
        received
    }

    async fn copy_to_end(
        &self,
        receiver: &mut Receiver,
        batch: &mut Vec<Bytes>,
        messages: &mut u64,
        bytes: &mut u64,
    ) -> End {
        loop {
            receiver.readable().await;
            // The semaphore is never closed.
            let _permit = self.in_hand.acquire().await;
            // The clean end never comes together with messages.
            match receiver.recv_many(batch, BATCH_MESSAGES).await {
                Ok(0) => return End::Finished,
                Ok(_) => {}
                Err(error) => return End::Lost(error),
            }
            let (batch_messages, batch_bytes) =
                (batch.len() as u64, batch.iter().map(Bytes::len).sum::<usize>() as u64);
            if let Err(error) = self.writer.write(batch).await {
                return End::Unwritten(error);
            }
            *messages += batch_messages;
            *bytes += batch_bytes;
            self.progress.add(batch_bytes);
        }
    }
}

/// The next stream; never, once the bind has ended.
async fn accept(consumer: &mut Option<Consumer>) -> Result<Receiver, Error> {
    match consumer {
        Some(consumer) => consumer.accept().await,
        None => std::future::pending().await,
    }
}

/// The names of those who are meant, each once.
fn names<'a>(of: impl Iterator<Item = &'a Received>) -> String {
    let names: BTreeSet<String> = of.map(|received| received.producer.to_string()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}
