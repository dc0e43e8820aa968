//! The stalled job: its mappers send until their reducers, who sleep, have taken all that they can, and stop soon after
//! these have woken up.

use std::{fs::File, path::PathBuf, time::Duration};

use bytes::Bytes;
use futures_util::future;
use tokio::{task, time};
use trunkline::Sender;

use super::{RoleError, Word, crew::Shared, map};
use crate::{
    events::Sent,
    plan::{Plan, Worker},
    words::{Batches, CHUNK_BYTES, Splitter},
};

/// A send that has waited for so long is told to be blocked: whoever reads takes a message within microseconds.
const BLOCKED_AFTER: Duration = Duration::from_millis(250);

/// Does the part of mapper `worker` of the stalled job: sends every word of the corpus to each of its reducers, over and
/// over, each at its own pace.
pub(super) async fn run(mut shared: Shared, worker: Worker) -> Result<(), RoleError> {
    let files = Plan::read_corpus(&shared.folder).map_err(RoleError::launcher("cannot read the list of files"))?;
    let producer = shared.job(worker)?.producer(Plan::mapper(worker.index))?;
    let mut senders = Vec::new();
    for reducer in 0..shared.plan.stall {
        senders.push(producer.open(shared.plan.address(worker.job, reducer)).await?);
    }
    shared.tell_opened()?;
    shared.words.wait_for(Word::Fill).await;
    let sending =
        senders.into_iter().enumerate().map(|(reducer, sender)| fill(shared.clone(), &files, reducer, sender));
    future::try_join_all(sending).await?;
    Ok(())
}

/// Sees one stream through, and tells what it carried.
async fn fill(mut shared: Shared, files: &[PathBuf], reducer: usize, mut sender: Sender) -> Result<(), RoleError> {
    match send_until_woken(&mut shared, files, &mut sender).await {
        Ok(sent) => {
            sender.finish().await?;
            shared.teller.sent(Sent { reducer, ..sent }).map_err(RoleError::untold)
        }
        Err(error) => {
            sender.abort(&error.to_string());
            Err(error)
        }
    }
}

/// Sends the words of every file, round after round, until the word to wake up is said; returns how far it came.
async fn send_until_woken(shared: &mut Shared, files: &[PathBuf], sender: &mut Sender) -> Result<Sent, RoleError> {
    let (mut splitter, mut batches) = (Splitter::default(), Batches::new(1));
    let (mut chunk, mut sent) = (vec![0; CHUNK_BYTES], Sent::default());
    loop {
        let before = sender.sent_bytes();
        for path in files {
            let unreadable = |source| map::unreadable(path, source);
            let mut file = File::open(path).map_err(unreadable)?;
            loop {
                let woken = shared.words.have(Word::Wake);
                let length = if woken { 0 } else { map::fill(&mut file, &mut chunk).map_err(unreadable)? };
                let ends = length < chunk.len();
                sent.bytes += length as u64;
                splitter.feed(&mut chunk[..length], |word| batches.push(word));
                if ends {
                    splitter.end(|word| batches.push(word));
                }
                for (_, words) in batches.take() {
                    send(shared, sender, words.into()).await?;
                }
                if woken {
                    return Ok(sent);
                }
                if ends {
                    break;
                }
                // As counting mappers do: a chunk without words sends nothing, and the others would wait.
                task::yield_now().await;
            }
            (sent.files, sent.bytes) = (sent.files + 1, 0);
        }
        if sender.sent_bytes() == before {
            shared.teller.filled(|filled| filled.wordless += 1).map_err(RoleError::untold)?;
            shared.words.wait_for(Word::Wake).await;
            return Ok(sent);
        }
        (sent.rounds, sent.files) = (sent.rounds + 1, 0);
    }
}

/// Sends one message, and tells while it is blocked.
async fn send(shared: &Shared, sender: &mut Sender, message: Bytes) -> Result<(), RoleError> {
    let length = message.len() as u64;
    if let Ok(sent) = time::timeout(BLOCKED_AFTER, sender.send(message.clone())).await {
        sent?;
    } else {
        shared.teller.filled(|filled| filled.blocked += 1).map_err(RoleError::untold)?;
        let sent = sender.send(message).await;
        shared.teller.filled(|filled| filled.blocked -= 1).map_err(RoleError::untold)?;
        sent?;
    }
    let done = shared.teller.filled(|filled| {
        filled.messages += 1;
        filled.stream_bytes += length;
    });
    done.map_err(RoleError::untold)
}
