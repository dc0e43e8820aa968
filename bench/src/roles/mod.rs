//! What the processes of a measurement do: each is this program once more, told its [`Task`] by the one that measures.

mod consume;
mod echo;
mod gather;
mod meter;
mod peers;
mod produce;
mod source;
mod stall;

use std::{io::Write as _, process::ExitCode};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines, Stdin, stdin},
    runtime,
    task::LocalSet,
};

pub(crate) use self::{
    consume::Consume,
    echo::{Answer, Ask, RoundTrips},
    gather::{GatherPeers, GatheredAll},
    meter::{Measured, Meter, Total, Window},
    peers::{Peers, Phase, Step},
    produce::Produce,
    source::{Sent, Source},
    stall::{Filled, Flooded, ReceiveOrder, SendOrder, StallConsume, StallProduce, Streams},
};
use crate::{
    bare::{BareAnswer, BareAsk, BareReceive, BareSend, TlsAnswer, TlsAsk},
    error::BenchError,
    processes,
};

/// The run of every job here; each run of a measurement has a cluster of its own.
const RUN: &str = "run-1";

/// What very many streams carry, until they are told to stop.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Load {
    /// How many there are, all of them busy.
    pub(crate) streams: usize,
    /// How long each message is.
    pub(crate) message_bytes: usize,
    /// Whether both ends compute what was sent, and not only how much.
    pub(crate) hashed: bool,
}

/// What a process is for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Sends on many streams.
    Produce(Produce),
    /// Gathers many streams.
    Consume(Consume),
    /// Sends requests and waits for each reply.
    Ask(Ask),
    /// Replies.
    Answer(Answer),
    /// [`Task::Produce`] of quinn alone.
    BareSend(BareSend),
    /// [`Task::Consume`] of quinn alone.
    BareReceive(BareReceive),
    /// [`Task::Ask`] of quinn alone.
    BareAsk(BareAsk),
    /// [`Task::Answer`] of quinn alone.
    BareAnswer(BareAnswer),
    /// [`Task::Ask`] over a TCP socket with TLS.
    TlsAsk(TlsAsk),
    /// [`Task::Answer`] over a TCP socket with TLS.
    TlsAnswer(TlsAnswer),
    /// Thousands of peers of one daemon.
    Peers(Peers),
    /// Gathers from all of them.
    GatherPeers(GatherPeers),
    /// Sends on streams of which most are never read.
    StallProduce(StallProduce),
    /// Reads some of them.
    StallConsume(StallConsume),
}

/// The process that measures, as those that it started see it.
#[derive(Debug)]
pub(crate) struct Parent {
    lines: Lines<BufReader<Stdin>>,
}

impl Parent {
    /// The next order.
    ///
    /// # Errors
    /// [`BenchError::Orphan`] when none will come.
    pub(crate) async fn order<T: DeserializeOwned>(&mut self) -> Result<T, BenchError> {
        let line = self.lines.next_line().await.map_err(BenchError::io("read the orders"))?;
        let line = line.ok_or(BenchError::Orphan)?;
        serde_json::from_str(&line).map_err(|error| BenchError::Words("the one that measures".to_owned(), line, error))
    }

    /// Waits until it needs this process no more.
    pub(crate) async fn done(&mut self) {
        while let Ok(Some(_)) = self.lines.next_line().await {}
    }
}

/// Says something to the one that measures, which hears it with [`Worker::says`](crate::processes::Worker::says).
pub(crate) fn say<T: Serialize>(said: T) -> Result<(), BenchError> {
    write(&Ok(said))
}

fn write<T: Serialize>(said: &Result<T, String>) -> Result<(), BenchError> {
    let mut line = serde_json::to_vec(said).expect("what is said can be written as JSON");
    line.push(b'\n');
    std::io::stdout().write_all(&line).map_err(BenchError::io("answer the one that measures"))
}

/// The process of a role, from its first line to its end.
pub(crate) fn main() -> Result<ExitCode, BenchError> {
    processes::end_with_parent();
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::io("start the runtime"))?;
    let done = LocalSet::new().block_on(&runtime, async {
        let mut parent = Parent { lines: BufReader::new(stdin()).lines() };
        let task = parent.order().await?;
        run(task, &mut parent).await
    });
    // A thread may still read the standard input.
    runtime.shutdown_background();
    let Err(error) = done else { return Ok(ExitCode::SUCCESS) };
    // The one that measures tells it to whoever asked.
    write::<()>(&Err(error.to_string()))?;
    Ok(ExitCode::FAILURE)
}

async fn run(task: Task, parent: &mut Parent) -> Result<(), BenchError> {
    match task {
        Task::Produce(task) => task.run(parent).await,
        Task::Consume(task) => task.run(parent).await,
        Task::Ask(task) => task.run(parent).await,
        Task::Answer(task) => task.run(parent).await,
        Task::BareSend(task) => task.run(parent).await,
        Task::BareReceive(task) => task.run(parent).await,
        Task::BareAsk(task) => task.run(parent).await,
        Task::BareAnswer(task) => task.run(parent).await,
        Task::TlsAsk(task) => task.run(parent).await,
        Task::TlsAnswer(task) => task.run(parent).await,
        Task::Peers(task) => task.run(parent).await,
        Task::GatherPeers(task) => task.run(parent).await,
        Task::StallProduce(task) => task.run(parent).await,
        Task::StallConsume(task) => task.run(parent).await,
    }
}
