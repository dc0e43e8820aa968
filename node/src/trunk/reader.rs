//! Readers of QUIC streams: one small task per half. They read whatever comes as soon as it comes; credit has bounded it.

use std::{rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
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

/// The bytes of a stream, on the consumer's node. `begun` came with the OPEN.
pub(super) fn forward(relay: &Rc<Relay>, recv: RecvStream, begun: Bytes) -> impl Future<Output = ()> + 'static {
    // Here, for the task may be ended before it has begun.
    let half = Receiving { recv, relay: Rc::clone(relay) };
    read_forward(half, begun)
}

async fn read_forward(mut half: Receiving, begun: Bytes) {
    let relay = Rc::clone(&half.relay);
    let mut offset = 0;
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    if !begun.is_empty() {
        relay.data(offset, begun, false);
    }
    while !relay.is_over() {
        match half.recv.read_chunks(&mut chunks).await {
            Ok(Some(count)) => {
                let chunks = &mut chunks[..count];
                let bytes = gather(chunks);
                let next = offset + bytes.len() as u64;
                relay.data(offset, bytes, false);
                offset = next;
            }
            Ok(None) => return relay.data(offset, Bytes::new(), true),
            Err(error) => return ended(&relay, Side::Up, &error),
        }
    }
}

/// Copies chunks out of the receive buffers that they pin, dozens of times their size, and lets go of those.
fn gather(chunks: &mut [Bytes]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    for chunk in chunks {
        bytes.extend_from_slice(&std::mem::take(chunk));
    }
    bytes.freeze()
}

/// ACCEPT and credit, on the producer's node.
pub(super) fn reverse(relay: &Rc<Relay>, recv: RecvStream) -> impl Future<Output = ()> + 'static {
    // As above.
    let half = Receiving { recv, relay: Rc::clone(relay) };
    read_reverse(half)
}

async fn read_reverse(mut half: Receiving) {
    let relay = Rc::clone(&half.relay);
    let mut decoder = Decoder::default();
    while !relay.is_over() {
        match decoder.next() {
            Ok(Some(Frame::Accept(accept))) => relay.accept(&accept),
            Ok(Some(Frame::Credit(credit))) => relay.credit(&credit),
            Ok(Some(Frame::Reclaim(reclaim))) => relay.reclaim(&reclaim),
            Ok(Some(_)) => {
                return relay.fail(Code::Protocol, "a frame that the reverse half of a stream does not carry");
            }
            Err(error) => return relay.fail(error.code(), &error.to_string()),
            Ok(None) => match half.recv.read_chunk(REVERSE_READ_BYTES, true).await {
                Ok(Some(chunk)) => decoder.buffer().extend_from_slice(&chunk.bytes),
                Ok(None) => return after_reset(&relay, Side::Down, Code::Protocol),
                Err(error) => return ended(&relay, Side::Down, &error),
            },
        }
    }
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
