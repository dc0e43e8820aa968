//! Tests of one half, or one policy, at a time. Whole streams are tested by the simulation in `tests/`.

mod arrived;
mod broker;
mod credit;
mod receive;
mod receive_bytes;
mod reclaim;
mod resume;
mod send;
mod table;
mod untried;

use bytes::{BufMut as _, Bytes, BytesMut};
use trunkline_proto::{
    code::Code,
    frame::DataHeader,
    framing,
    id::Incarnation,
    message::{Accept, Credit},
};

use crate::{Aborted, ReceiveHalf, ReceiveOutput, SendHalf, SendOutput};

fn accept(limit: u64) -> Accept {
    Accept { stream: 0, incarnation: Incarnation::from_bits(1), limit }
}

fn credit(received: u64, consumed: u64, limit: u64) -> Credit {
    Credit { stream: 0, epoch: 0, received, consumed, limit, finished: false }
}

fn message(length: usize) -> Bytes {
    (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

/// The bytes of a stream that carries messages of these lengths, without an end mark.
fn encoded(lengths: &[usize]) -> BytesMut {
    let mut out = BytesMut::new();
    for &length in lengths {
        framing::put_length(length, &mut out);
        out.extend_from_slice(&message(length));
    }
    out
}

/// The same, ended cleanly.
fn ended(lengths: &[usize]) -> Bytes {
    let mut out = encoded(lengths);
    let final_offset = out.len() as u64;
    framing::put_end_mark(final_offset, &mut out);
    out.freeze()
}

fn at(offset: u64) -> DataHeader {
    DataHeader { stream: 0, offset, epoch: 0, fin: false }
}

/// A half that is accepted with this limit and has nothing to say.
fn open_sender(limit: u64) -> SendHalf {
    let mut half = SendHalf::new();
    assert_eq!(half.poll_output(100, &mut Vec::new()), Some(SendOutput::Open { epoch: 0 }));
    half.handle_accept(&accept(limit));
    half
}

/// A half that has accepted its stream with this limit, and takes messages of at most so many bytes.
fn accepted_receiver(epoch: u32, limit: u64, message_bytes_max: usize) -> ReceiveHalf {
    let mut half = ReceiveHalf::new(epoch, limit, message_bytes_max);
    assert_eq!(half.poll_output(), Some(ReceiveOutput::Accept { limit }));
    half
}

/// Everything that `half` has to send: outputs in order, and the bytes of its data.
fn drain(half: &mut SendHalf, bytes_max: usize) -> (Vec<SendOutput>, Vec<u8>) {
    let (mut outputs, mut pieces) = (Vec::new(), Vec::new());
    while let Some(output) = half.poll_output(bytes_max, &mut pieces) {
        outputs.push(output);
    }
    assert!(!half.has_output());
    (outputs, pieces.concat())
}

fn aborted_with(half: &mut ReceiveHalf) -> Aborted {
    match half.poll_output() {
        Some(ReceiveOutput::Abort(why)) => why,
        other => panic!("no abort: {other:?}"),
    }
}

fn why(code: Code, offset: u64, text: &str) -> Aborted {
    Aborted { code, offset, text: text.to_owned() }
}
