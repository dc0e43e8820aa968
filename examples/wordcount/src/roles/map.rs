//! A mapper: reads its share of the files, and sends each chunk's words to the reducers that their hashes name.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::future;
use tokio::task;
use trunkline::Sender;

use super::{RoleError, Word, crew::Shared};
use crate::{
    events::Mapped,
    plan::{Plan, Worker},
    words::{Batches, CHUNK_BYTES, Splitter},
};

/// Does the part of mapper `worker`.
pub(super) async fn run(mut shared: Shared, worker: Worker) -> Result<(), RoleError> {
    let Worker { job, index, .. } = worker;
    let mut files = Plan::read_share(&shared.folder, index).map_err(RoleError::launcher("cannot read the share"))?;
    if shared.plan.stall > 0 {
        files = halves(files);
    }
    let producer = shared.job(worker)?.producer(Plan::mapper(index))?;
    let mut senders = Vec::new();
    for reducer in 0..shared.plan.width() {
        senders.push(producer.open(shared.plan.address(job, reducer)).await?);
    }
    shared.tell_opened()?;
    shared.begin().await;
    match send_rounds(&files, &mut senders, &mut shared).await {
        Ok(()) => {
            future::try_join_all(senders.into_iter().map(Sender::finish)).await?;
            shared.teller.counted().map_err(RoleError::untold)
        }
        Err(error) => {
            // The reducers are told why, rather than that a sender was dropped.
            let why = error.to_string();
            senders.into_iter().for_each(|sender| sender.abort(&why));
            Err(error)
        }
    }
}

/// Sends the words of all files, as many times as there are rounds.
async fn send_rounds(files: &[PathBuf], senders: &mut [Sender], shared: &mut Shared) -> Result<(), RoleError> {
    let mut round = 1;
    while shared.have_round(round).await {
        shared.tell_round(round)?;
        send_all(files, senders, shared).await?;
        round += 1;
    }
    Ok(())
}

/// Sends the words of every file. What a reducer does not take yet makes this wait, and only this mapper. Where a job
/// stalls, it pauses half-way.
async fn send_all(files: &[PathBuf], senders: &mut [Sender], shared: &mut Shared) -> Result<(), RoleError> {
    let (mut splitter, mut batches) = (Splitter::default(), Batches::new(senders.len()));
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut to_half = (shared.plan.stall > 0).then(|| size(files) / 2);
    for path in files {
        let unreadable = |source| unreadable(path, source);
        let mut file = File::open(path).map_err(unreadable)?;
        loop {
            if to_half == Some(0) {
                pause(shared).await?;
                to_half = None;
            }
            let length = fill(&mut file, &mut chunk).map_err(unreadable)?;
            to_half = to_half.map(|left| left.saturating_sub(length as u64));
            let mut more = Mapped { bytes: length as u64, ..Mapped::default() };
            splitter.feed(&mut chunk[..length], |word| batches.push(word));
            if length < chunk.len() {
                splitter.end(|word| batches.push(word));
                more.files = 1;
            }
            for (reducer, words) in batches.take() {
                more.messages += 1;
                more.stream_bytes += words.len() as u64;
                senders[reducer].send(Bytes::from(words)).await?;
            }
            shared.teller.mapped(more).map_err(RoleError::untold)?;
            if length < chunk.len() {
                break;
            }
            // A chunk without words sends nothing, and the other workers of this process would wait for a long file of
            // such.
            task::yield_now().await;
        }
    }
    // Without files, or when they became shorter.
    if to_half.is_some() {
        pause(shared).await?;
    }
    Ok(())
}

/// Every other file first: a share is sorted by size, and the rates of its two halves are to be compared.
fn halves(files: Vec<PathBuf>) -> Vec<PathBuf> {
    let (first, second): (Vec<_>, Vec<_>) = files.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
    first.into_iter().chain(second).map(|(_, path)| path).collect()
}

/// The bytes of all files. What is wrong with one is found when it is opened.
fn size(files: &[PathBuf]) -> u64 {
    files.iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum()
}

/// Tells that the first half is sent, and waits for the word to send the rest.
async fn pause(shared: &mut Shared) -> Result<(), RoleError> {
    shared.teller.halfway().map_err(RoleError::untold)?;
    shared.words.wait_for(Word::Rest).await;
    Ok(())
}

pub(super) fn unreadable(path: &Path, source: io::Error) -> RoleError {
    RoleError::Unreadable { path: path.to_owned(), source }
}

/// Reads until `chunk` is full or the file has ended.
pub(super) fn fill(file: &mut File, chunk: &mut [u8]) -> io::Result<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_have_large_files_and_small_ones() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(halves(paths(&["5", "4", "3", "2", "1"])), paths(&["5", "3", "1", "4", "2"]));
        assert!(halves(Vec::new()).is_empty());
    }
}
