//! Bytes on their way out of a process: frames and payloads, gathered for vectored writes.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::{DataHeader, Frame};

/// A piece shorter than this is copied beside its neighbours: an `iovec` of its own costs more than the copy.
const COPY_BELOW_BYTES: usize = 4 * 1024;

/// What waits to be written to one local link, in order.
///
/// It sets no bound of its own: who fills it asks [`Outgoing::len`] first.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Whole pieces, oldest first.
    pieces: VecDeque<Bytes>,
    /// Small pieces and headers that follow them.
    tail: BytesMut,
    /// Bytes in both.
    length: usize,
}

impl Outgoing {
    /// How many bytes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends a frame.
    pub fn push(&mut self, frame: &Frame) {
        let before = self.tail.len();
        frame.encode(&mut self.tail);
        self.length += self.tail.len() - before;
    }

    /// Appends a DATA frame made of `pieces`, which this empties.
    pub fn push_data(&mut self, header: &DataHeader, pieces: &mut Vec<Bytes>) {
        let payload_bytes = pieces.iter().map(Bytes::len).sum();
        let before = self.tail.len();
        header.encode(payload_bytes, &mut self.tail);
        self.length += self.tail.len() - before + payload_bytes;
        for piece in pieces.drain(..) {
            if piece.len() < COPY_BELOW_BYTES {
                self.tail.extend_from_slice(&piece);
            } else {
                self.seal();
                self.pieces.push_back(piece);
            }
        }
    }

    /// Fills `slices` with what waits, oldest first, and returns how many it filled.
    pub fn io_slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        self.seal();
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    /// Forgets the first `count` bytes: they were written.
    ///
    /// # Panics
    /// When fewer than `count` bytes wait.
    pub fn advance(&mut self, mut count: usize) {
        assert!(count <= self.length, "{count} bytes written of {}", self.length);
        self.length -= count;
        while count > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Decoder;

    proptest! {
        #[test]
        fn whatever_the_writes_took_the_frames_arrive_in_order(
            lengths in prop::collection::vec(0_usize..20_000, 1..12), writes in prop::collection::vec(1_usize..9_000, 1..40)
        ) {
            let mut outgoing = Outgoing::default();
            let mut expected = Vec::new();
            for (stream, &length) in (0..).zip(&lengths) {
                let payload = Bytes::from(vec![u8::try_from(length % 251).unwrap(); length]);
                let header = DataHeader { stream, offset: 7, epoch: 1, fin: length == 0 };
                let half = length / 2;
                outgoing.push_data(&header, &mut vec![payload.slice(..half), payload.slice(half..)]);
                expected.push((header, payload));
            }
            let mut decoder = Decoder::default();
            let mut writes = writes.iter().cycle();
            while !outgoing.is_empty() {
                let mut slices = [IoSlice::new(&[]); 3];
                let filled = outgoing.io_slices(&mut slices);
                let offered: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
                let took = offered.len().min(*writes.next().unwrap());
                decoder.buffer().extend_from_slice(&offered[..took]);
                outgoing.advance(took);
            }
            let mut arrived = Vec::new();
            while let Some(Frame::Data(header, payload)) = decoder.next().unwrap() {
                arrived.push((header, payload));
            }
            prop_assert_eq!(arrived, expected);
        }
    }
}
