//! The consumer's process of `stall`: it reads some streams, and the others at the end.

use std::{cell::RefCell, rc::Rc, time::Instant};

use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::JoinSet};
use trunkline::Receiver;

use super::{CONSUMER, JOB, PACED_BYTES, READING, Streams, monotonic};
use crate::{
    error::BenchError,
    processes::Place,
    roles::{Parent, RUN, Sent, Total, say},
    settings::Budgets,
};

/// Reads some of the streams that come.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StallConsume {
    /// Where it attaches.
    pub(crate) place: Place,
    /// How many streams come.
    pub(crate) streams: Streams,
    /// Its budgets.
    pub(crate) budgets: Budgets,
}

/// What comes next. Each is answered at once, and again when it has come.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum ReceiveOrder {
    /// So many bytes of bulk. Answered by [`Flooded`].
    Flood {
        /// All streams that are read together.
        bytes: u64,
    },
    /// So many small messages. Answered by how long each took, in microseconds.
    Pace {
        /// How many.
        messages: usize,
    },
    /// The end: all streams are read. Answered by the [`Total`] of all of them.
    End,
}

/// How long bulk took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Flooded {
    /// From its first message to its last.
    pub(crate) seconds: f64,
}

impl StallConsume {
    /// Says when it is bound, and when it has taken all streams; then follows orders.
    pub(crate) async fn run(self, parent: &mut Parent) -> Result<(), BenchError> {
        let attachment = self.place.attach(self.budgets.builder()).await?;
        let consumer = attachment.job(JOB, RUN)?.consumer(CONSUMER)?;
        let mut consumer = consumer.accept_backlog(self.streams.all()).bind().await?;
        say(())?;
        let came = Rc::new(Came::default());
        let (mut reading, mut stalled) = (JoinSet::new(), Vec::new());
        for _ in 0..self.streams.all() {
            let receiver = consumer.accept().await?;
            // Each producer numbers its streams from 1.
            let number = usize::try_from(receiver.producer().number - 1).unwrap_or(usize::MAX);
            if receiver.producer().name.as_str() == READING {
                reading.spawn_local(read(receiver, number, Some(Rc::clone(&came))));
            } else {
                stalled.push((self.streams.reading + number, receiver));
            }
        }
        say(())?;
        loop {
            let order = parent.order().await?;
            if let ReceiveOrder::End = order {
                break;
            }
            came.expect(order);
            say(())?;
            tokio::select! {
                () = came.done.notified() => {}
                Some(ended) = reading.join_next() => {
                    let (stream, _) = ended.map_err(BenchError::peer("a task that reads"))??;
                    return Err(BenchError::Inexact(format!("stream {stream} ended before it was to")));
                }
            }
            match order {
                ReceiveOrder::Pace { .. } => say(came.took_us())?,
                _ => say(came.flooded())?,
            }
        }
        for (stream, receiver) in stalled {
            reading.spawn_local(read(receiver, stream, None));
        }
        let mut total = Total::default();
        while let Some(ended) = reading.join_next().await {
            let (stream, sent) = ended.map_err(BenchError::peer("a task that reads"))??;
            total.add(stream, &sent);
        }
        say(total)?;
        parent.done().await;
        Ok(attachment.close().await?)
    }
}

/// Reads a stream to its end.
async fn read(
    mut receiver: Receiver,
    stream: usize,
    came: Option<Rc<Came>>,
) -> Result<(usize, Sent), trunkline::Error> {
    let mut sent = Sent::default();
    while let Some(message) = receiver.recv().await? {
        sent.add(&message, true);
        if let Some(came) = &came {
            came.add(&message);
        }
    }
    Ok((stream, sent))
}

/// What is waited for, and what of it has come.
#[derive(Debug, Default)]
struct Came {
    state: RefCell<State>,
    done: Notify,
}

#[derive(Debug, Default)]
struct State {
    bytes_left: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    messages_left: usize,
    took_us: Vec<f64>,
}

impl Came {
    fn expect(&self, order: ReceiveOrder) {
        let mut state = self.state.borrow_mut();
        *state = State::default();
        match order {
            ReceiveOrder::Flood { bytes } => state.bytes_left = bytes,
            ReceiveOrder::Pace { messages } => state.messages_left = messages,
            ReceiveOrder::End => {}
        }
    }

    fn add(&self, message: &[u8]) {
        let mut state = self.state.borrow_mut();
        if let (PACED_BYTES, Some(stamp)) = (message.len(), message.first_chunk::<8>()) {
            let due_ns = u64::from_le_bytes(*stamp) as f64;
            state.took_us.push((monotonic().as_nanos() as f64 - due_ns) / 1e3);
            state.messages_left = state.messages_left.saturating_sub(1);
            if state.messages_left == 0 {
                self.done.notify_one();
            }
            return;
        }
        state.first.get_or_insert_with(Instant::now);
        state.bytes_left = state.bytes_left.saturating_sub(message.len() as u64);
        if state.bytes_left == 0 {
            state.last = Some(Instant::now());
            self.done.notify_one();
        }
    }

    fn flooded(&self) -> Flooded {
        let state = self.state.borrow();
        let seconds = state.first.zip(state.last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
        Flooded { seconds }
    }

    fn took_us(&self) -> Vec<f64> {
        std::mem::take(&mut self.state.borrow_mut().took_us)
    }
}
