//! Many busy streams of quinn alone.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Instant,
};

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{accept, dial, endpoint};
use crate::{
    error::BenchError,
    processes::NodeFiles,
    roles::{Load, Meter, Parent, Sent, Source, Total, Window, say},
};

/// Chunks, a packet's worth each, that are read at once: as many as a node reads.
const CHUNKS: usize = 48;
/// What one writer gives all streams together in a turn of each: the node's own rule.
const TURN_BYTES: usize = 64 << 20;
/// The least and the most of one stream in a turn.
const QUANTUM_BYTES: (usize, usize) = (4 << 10, 64 << 10);

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Writers {
    /// One for all streams, in turns: how the node does it.
    One,
    /// A task for each stream: how quinn is commonly used.
    EachStream,
}

/// Sends on many streams until it is told to stop.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BareSend {
    /// Who it is.
    pub(crate) files: NodeFiles,
    /// What it sends.
    pub(crate) load: Load,
    /// How.
    pub(crate) writers: Writers,
}

/// Receives many streams, and counts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BareReceive {
    /// Who it is.
    pub(crate) files: NodeFiles,
    /// What it is sent.
    pub(crate) load: Load,
    /// What of it is measured.
    pub(crate) window: Window,
}

/// What all writers share.
struct Sending {
    load: Load,
    source: Source,
    stop: Cell<bool>,
}

impl BareSend {
    /// Says what [`Produce`](crate::roles::Produce) says.
    pub(crate) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let Self { files, load, writers } = self;
        let (endpoint, connection) = dial(&files).await?;
        let mut streams = Vec::with_capacity(load.streams);
        for _ in 0..load.streams {
            let (send, _) = connection.open_bi().await.map_err(BenchError::peer("quinn's open"))?;
            streams.push(send);
        }
        let sending = Rc::new(Sending { load, source: Source::new(load.message_bytes), stop: Cell::new(false) });
        let mut writing = JoinSet::new();
        match writers {
            Writers::One => {
                writing.spawn_local(write_in_turns(streams, Rc::clone(&sending)));
            }
            Writers::EachStream => {
                for (index, stream) in streams.into_iter().enumerate() {
                    writing.spawn_local(write_one(stream, index, Rc::clone(&sending)));
                }
            }
        }
        say(())?;
        let mut total = Total::default();
        let mut add = |done: Result<Result<Vec<(usize, Sent)>, BenchError>, _>| {
            let sent = done.map_err(BenchError::peer("a task that writes"))??;
            sent.iter().for_each(|(stream, sent)| total.add(*stream, sent));
            Ok::<_, BenchError>(())
        };
        tokio::select! {
            stop = parent.order::<()>() => stop?,
            Some(done) = writing.join_next() => add(done)?,
        }
        sending.stop.set(true);
        while let Some(done) = writing.join_next().await {
            add(done)?;
        }
        say(total)?;
        parent.done().await;
        connection.close(VarInt::from_u32(0), b"measured");
        endpoint.wait_idle().await;
        Ok(())
    }
}

/// The next messages of a stream, `quantum` bytes or one message, written.
async fn write(
    stream: &mut SendStream,
    (index, sent, number): (usize, &mut Sent, &mut u64),
    quantum: usize,
    sending: &Sending,
) -> Result<(), BenchError> {
    let count = (quantum / sending.load.message_bytes).max(1);
    let mut messages: Vec<Bytes> = Vec::with_capacity(count);
    for _ in 0..count {
        let message = sending.source.message(index, *number);
        sent.add(&message, sending.load.hashed);
        messages.push(message);
        *number += 1;
    }
    stream.write_all_chunks(&mut messages).await.map_err(BenchError::peer("quinn's write"))
}

async fn finish(mut stream: SendStream) -> Result<(), BenchError> {
    stream.finish().map_err(BenchError::peer("quinn's finish"))?;
    // Until all is acknowledged.
    stream.stopped().await.map(drop).map_err(BenchError::peer("quinn's finish"))
}

async fn write_in_turns(streams: Vec<SendStream>, sending: Rc<Sending>) -> Result<Vec<(usize, Sent)>, BenchError> {
    let quantum = (TURN_BYTES / streams.len()).clamp(QUANTUM_BYTES.0, QUANTUM_BYTES.1);
    let mut streams: Vec<_> = streams.into_iter().map(|stream| (stream, Sent::default(), 0)).collect();
    'writing: loop {
        for (index, (stream, sent, number)) in streams.iter_mut().enumerate() {
            if sending.stop.get() {
                break 'writing;
            }
            write(stream, (index, sent, number), quantum, &sending).await?;
        }
    }
    let mut all = Vec::with_capacity(streams.len());
    for (index, (stream, sent, _)) in streams.into_iter().enumerate() {
        finish(stream).await?;
        all.push((index, sent));
    }
    Ok(all)
}

async fn write_one(
    mut stream: SendStream,
    index: usize,
    sending: Rc<Sending>,
) -> Result<Vec<(usize, Sent)>, BenchError> {
    let (mut sent, mut number) = (Sent::default(), 0);
    while !sending.stop.get() {
        write(&mut stream, (index, &mut sent, &mut number), QUANTUM_BYTES.1, &sending).await?;
    }
    finish(stream).await?;
    Ok(vec![(index, sent)])
}

impl BareReceive {
    /// Says what [`Consume`](crate::roles::Consume) says, with nothing for the address.
    pub(crate) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let Self { files, load, window } = self;
        let (endpoint, _dials) = endpoint(&files, load.streams)?;
        say(String::new())?;
        let connection = accept(&endpoint).await?;
        let meter = Rc::new(RefCell::new(Meter::new(load, window)));
        let mut reading = JoinSet::new();
        for _ in 0..load.streams {
            let stream = next_stream(&connection).await?;
            reading.spawn_local(read(stream, Rc::clone(&meter)));
        }
        while let Some(done) = reading.join_next().await {
            done.map_err(BenchError::peer("a task that reads"))??;
        }
        say(meter.borrow().total())?;
        parent.done().await;
        connection.close(VarInt::from_u32(0), b"measured");
        Ok(())
    }
}

async fn next_stream(connection: &Connection) -> Result<RecvStream, BenchError> {
    let (_, stream) = connection.accept_bi().await.map_err(BenchError::peer("quinn's accept"))?;
    Ok(stream)
}

async fn read(mut stream: RecvStream, meter: Rc<RefCell<Meter>>) -> Result<(), BenchError> {
    let index = usize::try_from(stream.id().index()).unwrap_or(usize::MAX);
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    while let Some(count) = stream.read_chunks(&mut chunks).await.map_err(BenchError::peer("quinn's read"))? {
        let measured = {
            let mut meter = meter.borrow_mut();
            for chunk in &mut chunks[..count] {
                // Taken out: what stays in the array pins the batch that it came with.
                meter.add(index, &std::mem::take(chunk));
            }
            meter.tick(Instant::now())
        };
        if let Some(measured) = measured {
            say(measured)?;
        }
    }
    Ok(())
}
