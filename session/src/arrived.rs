//! Whole messages that have arrived and were not read: kept as they came, and taken apart when they are read.
//!
//! A message that is kept alone costs more than it carries when it is small. So neighbours stay together, each behind its
//! length, and a budget full of empty messages costs about what the budget says.

use std::{collections::VecDeque, mem};

use bytes::{Buf, BufMut, Bytes};
use trunkline_proto::framing::{self, Head};

/// Shorter stretches are copied together: each alone would cost a place of its own, and keep in memory all that was read
/// from the link at once.
const GATHER_BELOW_BYTES: usize = 1024;
/// So many gathered bytes make a run.
const GATHERED_BYTES_MAX: usize = 16 * 1024;

/// Whole messages, in order. Of the first, some bytes may have been read.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    runs: VecDeque<Run>,
    /// Short stretches, younger than `runs`, and the offset at which they end.
    gathered: Vec<u8>,
    end: u64,
    messages: usize,
}

#[derive(Debug)]
struct Run {
    bytes: Bytes,
    /// The offset at which it ends.
    end: u64,
    /// What is left of the message at its head, once the length of that is taken off.
    left: Option<usize>,
}

impl Run {
    /// How long the message at the head is. Its length is taken off.
    fn take_head(&mut self) -> usize {
        if let Some(left) = self.left {
            return left;
        }
        let Head::Message { header, length } = framing::head(&self.bytes) else {
            unreachable!("only whole messages are kept")
        };
        self.bytes.advance(header);
        length
    }

    fn consumed(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }
}

impl Arrived {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    /// The offset at which the last one ends.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Keeps so many whole messages, each behind its length, that end at `end`.
    pub(crate) fn push(&mut self, bytes: Bytes, end: u64, messages: usize) {
        self.messages += messages;
        if bytes.len() < GATHER_BELOW_BYTES {
            self.gathered.extend_from_slice(&bytes);
            self.end = end;
            if self.gathered.len() >= GATHERED_BYTES_MAX {
                self.seal();
            }
        } else {
            self.seal();
            self.end = end;
            self.runs.push_back(Run { bytes, end, left: None });
        }
    }

    /// Keeps a message, or what is left of it, without its length.
    pub(crate) fn push_message(&mut self, message: Bytes, end: u64) {
        self.seal();
        self.end = end;
        self.messages += 1;
        self.runs.push_back(Run { left: Some(message.len()), bytes: message, end });
    }

    /// The memory that all this takes.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        let runs = self.runs.iter().map(|run| run.bytes.len()).sum::<usize>();
        runs + self.runs.capacity() * size_of::<Run>() + self.gathered.capacity()
    }

    fn seal(&mut self) {
        if !self.gathered.is_empty() {
            let bytes = Bytes::from(mem::take(&mut self.gathered));
            self.runs.push_back(Run { bytes, end: self.end, left: None });
        }
    }

    fn front(&mut self) -> Option<&mut Run> {
        if self.runs.is_empty() {
            self.seal();
        }
        self.runs.front_mut()
    }

    /// Takes the first message, or what is left of it, and the offset at which it ends.
    pub(crate) fn pop(&mut self) -> Option<(Bytes, u64)> {
        let run = self.front()?;
        let length = run.take_head();
        run.left = None;
        let message = if length == run.bytes.len() {
            let run = self.runs.pop_front()?;
            (run.bytes, run.end)
        } else {
            (run.bytes.split_to(length), run.consumed())
        };
        self.messages -= 1;
        Some(message)
    }

    /// Reads bytes of the first message: how many, the offset behind them, and whether they were its last. None when there
    /// is no message.
    pub(crate) fn read_into(&mut self, out: &mut impl BufMut) -> Option<(usize, u64, bool)> {
        let run = self.front()?;
        let length = run.take_head();
        let part = length.min(out.remaining_mut());
        out.put_slice(&run.bytes[..part]);
        run.bytes.advance(part);
        let is_last = part == length;
        run.left = (!is_last).then_some(length - part);
        let consumed = run.consumed();
        if run.bytes.is_empty() {
            self.runs.pop_front();
        }
        self.messages -= usize::from(is_last);
        Some((part, consumed, is_last))
    }
}
