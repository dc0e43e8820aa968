//! Reading QUIC streams: whatever comes, as soon as it comes; credit has bounded it.
//!
//! One task reads all streams of a trunk, of which most are idle at any time. So what a waiting stream costs is a
//! [`Reader`] and its [`Wakeup`], of a hundred bytes together; a task for each would cost several times that.

use std::{
    array,
    cell::RefCell,
    collections::VecDeque,
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use hashbrown::HashMap;
use quinn::{ReadError, RecvStream};
use tokio::{task::spawn_local, time::sleep};
use trunkline_proto::{
    code::Code,
    frame::{Decoder, Frame},
};

use crate::relay::{Relay, Side};

/// How long a reset waits for the ABORT that says why, which travels on another stream.
const ABORT_WAIT: Duration = Duration::from_secs(1);
/// Chunks, a packet's worth each, that are read at once.
const CHUNKS: usize = 48;
/// What is read of a reverse half at once.
const REVERSE_READ_BYTES: usize = 4 * 1024;
/// Streams that are read before other tasks get their turn.
const STREAMS_PER_TURN: usize = 64;

/// The readers of one trunk.
#[derive(Default)]
pub(super) struct Readers {
    /// By relay number: a relay has one end at most on a trunk.
    readers: RefCell<HashMap<u64, Box<Reader>>>,
    ready: Arc<Ready>,
}

/// Readers whose streams may have something, by relay number. quinn's own task tells.
#[derive(Default)]
struct Ready {
    /// Each reader stands in here once.
    queue: Mutex<VecDeque<u64>>,
    task: AtomicWaker,
}

impl Ready {
    fn queue(&self) -> MutexGuard<'_, VecDeque<u64>> {
        // A push or a pop leaves it whole, whatever panicked beside it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts one reader among those that are ready.
struct Wakeup {
    number: u64,
    is_queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            self.ready.queue().push_back(self.number);
            self.ready.task.wake();
        }
    }
}

impl Readers {
    /// Reads the bytes of a stream, on the consumer's node. `begun` came with the OPEN.
    pub(super) fn forward(&self, relay: &Rc<Relay>, recv: RecvStream, begun: Bytes) {
        if !begun.is_empty() {
            relay.data_next(begun, false);
        }
        self.insert(relay, recv, Reads::Forward);
    }

    /// Reads ACCEPT and credit, on the producer's node.
    pub(super) fn reverse(&self, relay: &Rc<Relay>, recv: RecvStream) {
        self.insert(relay, recv, Reads::Reverse { begun: None });
    }

    fn insert(&self, relay: &Rc<Relay>, recv: RecvStream, reads: Reads) {
        let number = relay.number;
        let wakeup = Arc::new(Wakeup { number, is_queued: AtomicBool::new(false), ready: Arc::clone(&self.ready) });
        wakeup.wake_by_ref();
        let half = Receiving { recv, relay: Rc::clone(relay) };
        self.readers.borrow_mut().insert(number, Box::new(Reader { half, reads, wakeup }));
    }

    /// Nothing more is read of the relay's stream.
    pub(super) fn remove(&self, number: u64) {
        // It stops the stream when it goes, by which time the table must be free.
        let removed = self.readers.borrow_mut().remove(&number);
        drop(removed);
    }

    /// Nothing more is read of any stream.
    pub(super) fn clear(&self) {
        drop(self.readers.take());
    }

    /// Reads what comes, for as long as it is polled.
    pub(super) async fn run(&self) -> Infallible {
        poll_fn(|context| {
            self.ready.task.register(context.waker());
            for _ in 0..STREAMS_PER_TURN {
                let next = self.ready.queue().pop_front();
                let Some(number) = next else { return Poll::Pending };
                self.read(number);
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    /// Reads what a stream has. It may be gone by now.
    fn read(&self, number: u64) {
        let reader = self.readers.borrow_mut().remove(&number);
        let Some(mut reader) = reader else { return };
        // What comes from here on wakes it again.
        reader.wakeup.is_queued.store(false, Ordering::Release);
        let waker = Waker::from(Arc::clone(&reader.wakeup));
        if reader.poll(&mut Context::from_waker(&waker)).is_pending() {
            self.readers.borrow_mut().insert(number, reader);
        }
    }
}

/// What reads one half of a stream. There may be a million, so it is small.
struct Reader {
    half: Receiving,
    reads: Reads,
    wakeup: Arc<Wakeup>,
}

enum Reads {
    /// Bytes for the consumer.
    Forward,
    /// Frames, of which one may have begun.
    Reverse { begun: Option<Box<Decoder>> },
}

/// A receiving half that says when it is dropped that it will not be read on.
struct Receiving {
    recv: RecvStream,
    relay: Rc<Relay>,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // It fails only for a stream that was read to its end.
        let _ = self.recv.stop(self.relay.code().to_wire().into());
    }
}

impl Reader {
    /// Reads until nothing is there. Ready when nothing more is to be read.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Self { half: Receiving { recv, relay }, reads, .. } = self;
        match reads {
            Reads::Forward => poll_forward(recv, relay, context),
            Reads::Reverse { begun } => poll_reverse(recv, relay, begun, context),
        }
    }
}

/// A read that is dropped while it waits loses nothing: `read_chunks` is cancel-safe. So the array is here, and not kept
/// for each stream that waits.
fn poll_forward(recv: &mut RecvStream, relay: &Rc<Relay>, context: &mut Context<'_>) -> Poll<()> {
    let mut chunks: [Bytes; CHUNKS] = array::from_fn(|_| Bytes::new());
    while !relay.is_over() {
        let read = match pin!(recv.read_chunks(&mut chunks)).poll(context) {
            Poll::Ready(read) => read,
            Poll::Pending => return Poll::Pending,
        };
        match read {
            Ok(Some(count)) => {
                relay.data_next(gather(&mut chunks[..count]), false);
            }
            Ok(None) => {
                relay.data_next(Bytes::new(), true);
                break;
            }
            Err(error) => {
                ended(relay, Side::Up, &error);
                break;
            }
        }
    }
    Poll::Ready(())
}

/// Copies chunks out of the receive buffers that they pin, dozens of times their size, and lets go of those.
fn gather(chunks: &mut [Bytes]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    for chunk in chunks {
        bytes.extend_from_slice(&std::mem::take(chunk));
    }
    bytes.freeze()
}

fn poll_reverse(
    recv: &mut RecvStream,
    relay: &Rc<Relay>,
    begun: &mut Option<Box<Decoder>>,
    context: &mut Context<'_>,
) -> Poll<()> {
    let mut decoder = begun.take().unwrap_or_default();
    while !relay.is_over() {
        match decoder.next() {
            Ok(Some(Frame::Accept(accept))) => relay.accept(&accept),
            Ok(Some(Frame::Resumed(resumed))) => relay.resumed(&resumed),
            Ok(Some(Frame::Credit(credit))) => relay.credit(&credit),
            Ok(Some(Frame::Reclaim(reclaim))) => relay.reclaim(&reclaim),
            Ok(Some(_)) => {
                relay.fail(Code::Protocol, "a frame that the reverse half of a stream does not carry");
                break;
            }
            Err(error) => {
                relay.fail(error.code(), &error.to_string());
                break;
            }
            Ok(None) => match pin!(recv.read_chunk(REVERSE_READ_BYTES, true)).poll(context) {
                Poll::Ready(Ok(Some(chunk))) => decoder.buffer().extend_from_slice(&chunk.bytes),
                Poll::Ready(Ok(None)) => {
                    after_reset(relay, Side::Down, Code::Protocol);
                    break;
                }
                Poll::Ready(Err(error)) => {
                    ended(relay, Side::Down, &error);
                    break;
                }
                Poll::Pending => {
                    // Between two frames there is nothing to keep.
                    *begun = (!decoder.buffer().is_empty()).then_some(decoder);
                    return Poll::Pending;
                }
            },
        }
    }
    Poll::Ready(())
}

fn ended(relay: &Rc<Relay>, side: Side, error: &ReadError) {
    // Otherwise the trunk ends, and its streams with it.
    if let ReadError::Reset(code) = error {
        after_reset(relay, side, Code::from_wire((*code).into()));
    }
}

/// A half was reset or stopped: by an abort whose ABORT is under way, or by a peer that gives no reason.
pub(super) fn after_reset(relay: &Rc<Relay>, side: Side, code: Code) {
    let relay = Rc::downgrade(relay);
    spawn_local(async move {
        sleep(ABORT_WAIT).await;
        if let Some(relay) = relay.upgrade() {
            relay.lost(side, code, "the peer ended the stream and gave no reason");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_an_idle_stream_is_small() {
        assert!(size_of::<Reader>() <= 72, "{} bytes", size_of::<Reader>());
        assert!(size_of::<Wakeup>() <= 24, "{} bytes", size_of::<Wakeup>());
    }

    #[test]
    fn a_reader_that_is_woken_often_stands_among_the_ready_once_until_it_is_read() {
        let ready = Arc::new(Ready::default());
        let wakeup = Arc::new(Wakeup { number: 7, is_queued: AtomicBool::new(false), ready: Arc::clone(&ready) });
        let waker = Waker::from(Arc::clone(&wakeup));
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert_eq!(*ready.queue(), [7]);
        let readers = Readers { readers: RefCell::default(), ready };
        assert_eq!(readers.ready.queue().pop_front(), Some(7));
        // The stream is gone: nothing is read, and nothing is left.
        readers.read(7);
        assert_eq!(*readers.ready.queue(), []);
    }
}
