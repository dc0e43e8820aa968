//! A mapper: reads its share of the files, and sends each chunk's words to the reducers that their hashes name.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use bytes::Bytes;
use futures_util::future;
use tokio::sync::oneshot;
use trunkline::{Attachment, Sender};

use super::{RoleError, serve};
use crate::{
    cli::Seat,
    events::{Event, Mapped, Teller},
    plan::{Plan, local_socket},
    words::{Batches, CHUNK_BYTES, Splitter},
};

/// The process `wordcount map`.
pub(crate) fn main(seat: &Seat) -> ExitCode {
    serve(|begin| run(seat, begin))
}

async fn run(seat: &Seat, begin: oneshot::Receiver<()>) -> Result<(), RoleError> {
    let plan = Plan::read(&seat.plan).map_err(RoleError::launcher("cannot read the plan"))?;
    let files = Plan::read_share(&seat.plan, seat.index).map_err(RoleError::launcher("cannot read the share"))?;
    let socket = local_socket(&seat.plan, &plan.nodes[plan.node_of(seat.index)]);
    let attachment = Attachment::builder().software("wordcount map").connect(socket).await?;
    let producer = attachment.job(plan.job(seat.job), plan.run.as_str())?.producer(Plan::mapper(seat.index))?;
    let mut senders = Vec::new();
    for reducer in 0..plan.width() {
        senders.push(producer.open(plan.address(seat.job, reducer)).await?);
    }
    let mut teller = Teller::new();
    teller.tell(Event::Opened).map_err(RoleError::launcher("cannot tell the launcher"))?;
    // An error means that the launcher is gone, and then this process is about to be.
    let _ = begin.await;
    match send_all(&files, &mut senders, &mut teller).await {
        Ok(mapped) => {
            future::try_join_all(senders.into_iter().map(Sender::finish)).await?;
            attachment.close().await?;
            teller.tell(Event::Mapped(mapped)).map_err(RoleError::launcher("cannot tell the launcher"))
        }
        Err(error) => {
            // The reducers are told why, rather than that a sender was dropped.
            let why = error.to_string();
            senders.into_iter().for_each(|sender| sender.abort(&why));
            // That it failed is known already.
            let _ = attachment.close().await;
            Err(error)
        }
    }
}

/// Sends the words of every file. What a reducer does not take yet makes this wait, and only this mapper.
async fn send_all(files: &[PathBuf], senders: &mut [Sender], teller: &mut Teller) -> Result<Mapped, RoleError> {
    let mut mapped = Mapped::default();
    let (mut splitter, mut batches) = (Splitter::default(), Batches::new(senders.len()));
    let mut chunk = vec![0; CHUNK_BYTES];
    for path in files {
        let unreadable = |source| unreadable(path, source);
        let mut file = File::open(path).map_err(unreadable)?;
        loop {
            let length = fill(&mut file, &mut chunk).map_err(unreadable)?;
            splitter.feed(&mut chunk[..length], |word| batches.push(word));
            if length < chunk.len() {
                splitter.end(|word| batches.push(word));
                mapped.files += 1;
            }
            mapped.bytes += length as u64;
            for (reducer, words) in batches.take() {
                mapped.messages += 1;
                mapped.stream_bytes += words.len() as u64;
                senders[reducer].send(Bytes::from(words)).await?;
            }
            teller.tell_now_and_then(Event::Mapped(mapped)).map_err(RoleError::launcher("cannot tell the launcher"))?;
            if length < chunk.len() {
                break;
            }
        }
    }
    Ok(mapped)
}

fn unreadable(path: &Path, source: io::Error) -> RoleError {
    RoleError::Unreadable { path: path.to_owned(), source }
}

/// Reads until `chunk` is full or the file has ended.
fn fill(file: &mut File, chunk: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < chunk.len() {
        match file.read(&mut chunk[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
