//! Bytes that a relay has taken and not passed on.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// A shorter piece is copied beside its neighbours.
const GATHER_BELOW_BYTES: usize = 4 * 1024;
/// So many gathered bytes make a piece.
const GATHERED_BYTES_MAX: usize = 16 * 1024;

/// Bytes that wait, in order. With nothing waiting it holds no memory but its own eight bytes: of many streams most are
/// idle, and what an idle one once needed is not kept for it.
#[derive(Default)]
pub(super) struct Waiting(Option<Box<Pieces>>);

#[derive(Default)]
struct Pieces {
    /// Oldest first.
    whole: VecDeque<Bytes>,
    /// Small pieces that follow: gathered, for each one alone costs more than it carries.
    tail: BytesMut,
}

impl Waiting {
    /// Appends a piece.
    pub(super) fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        let pieces = self.0.get_or_insert_default();
        if piece.len() < GATHER_BELOW_BYTES {
            pieces.tail.extend_from_slice(&piece);
            if pieces.tail.len() >= GATHERED_BYTES_MAX {
                pieces.seal();
            }
        } else {
            pieces.seal();
            pieces.whole.push_back(piece);
        }
    }

    /// Takes the oldest piece, or its first `bytes_max` bytes. `None` when nothing waits.
    pub(super) fn pop(&mut self, bytes_max: usize) -> Option<Bytes> {
        let pieces = self.0.as_mut()?;
        if pieces.whole.is_empty() {
            pieces.seal();
        }
        let front = pieces.whole.front_mut()?;
        let piece = if front.len() > bytes_max { front.split_to(bytes_max) } else { std::mem::take(front) };
        if front.is_empty() {
            pieces.whole.pop_front();
            if pieces.whole.is_empty() && pieces.tail.is_empty() {
                self.0 = None;
            }
        }
        Some(piece)
    }
}

impl Pieces {
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.whole.push_back(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes everything, at most `bytes_max` at a time, and says how long each piece was.
    fn drain(waiting: &mut Waiting, bytes_max: usize) -> Vec<usize> {
        std::iter::from_fn(|| waiting.pop(bytes_max)).map(|piece| piece.len()).collect()
    }

    #[test]
    fn small_pieces_are_gathered_and_large_ones_are_handed_on_as_they_are() {
        let mut waiting = Waiting::default();
        let large = Bytes::from(vec![1; GATHER_BELOW_BYTES]);
        for piece in [Bytes::from_static(b"ab"), Bytes::from_static(b"c"), large.clone(), Bytes::from_static(b"d")] {
            waiting.push(piece);
        }
        assert_eq!(waiting.pop(usize::MAX).as_deref(), Some(b"abc".as_slice()));
        assert_eq!(waiting.pop(usize::MAX).map(|piece| piece.as_ptr()), Some(large.as_ptr()));
        assert_eq!(waiting.pop(usize::MAX).as_deref(), Some(b"d".as_slice()));
        assert_eq!(waiting.pop(usize::MAX), None);
    }

    #[test]
    fn nothing_is_kept_once_everything_was_taken() {
        let mut waiting = Waiting::default();
        waiting.push(Bytes::new());
        assert!(waiting.0.is_none());
        waiting.push(Bytes::from(vec![1; 10]));
        assert!(waiting.0.is_some());
        assert_eq!(drain(&mut waiting, 4), [4, 4, 2]);
        assert!(waiting.0.is_none());
    }

    #[test]
    fn a_piece_of_gathered_ones_is_no_longer_than_it_must_be() {
        let mut waiting = Waiting::default();
        for _ in 0..20 {
            waiting.push(Bytes::from(vec![1; 1000]));
        }
        assert_eq!(drain(&mut waiting, usize::MAX), [17_000, 3_000]);
    }
}
