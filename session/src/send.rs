//! The sending end of one stream: what was written, what may be sent, what must be kept for replay.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use trunkline_proto::{
    code::Code,
    framing::{self, END_MARK_BYTES},
    message::{Accept, Credit, Reclaim},
};

use crate::Aborted;

/// A shorter message is copied beside its neighbours, so that many small ones leave as one piece.
const COALESCE_BELOW_BYTES: usize = 4 * 1024;

/// What a message of `length` bytes takes of its stream, its length included.
#[must_use]
pub fn encoded_bytes(length: usize) -> u64 {
    (framing::length_bytes(length) + length) as u64
}

/// What the driver is to send, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendOutput {
    /// The opening of the stream; always the first.
    Open,
    /// Bytes of the stream: the pieces given to [`SendHalf::poll_output`] hold them.
    Data {
        /// How many bytes precede them.
        offset: u64,
        /// The epoch they are sent in.
        epoch: u32,
        /// Whether they are the last.
        fin: bool,
    },
    /// The application has bytes up to `wanted` and no credit for them.
    Want {
        /// The epoch.
        epoch: u32,
        /// An offset.
        wanted: u64,
    },
    /// The answer to RECLAIM: nothing beyond `limit` is sent without new credit.
    Limit {
        /// The epoch.
        epoch: u32,
        /// An offset.
        limit: u64,
    },
    /// The stream ends here, by this side's wish. Nothing follows.
    Abort(Aborted),
}

/// Why a message was not written. The stream is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// No credit is left: try again after credit has arrived.
    #[error("no credit is left")]
    Blocked,
    /// [`SendHalf::finish`] was called before.
    #[error("the stream is finished")]
    Finished,
    /// The stream has ended.
    #[error(transparent)]
    Aborted(#[from] Aborted),
}

/// Whether the other application has consumed everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// Not yet.
    Pending,
    /// Every message and the end mark.
    Consumed,
    /// The stream ended another way.
    Aborted(Aborted),
}

#[derive(Debug)]
enum State {
    /// `Open` is to be sent, or was sent and not answered.
    Opening { told: bool },
    /// The consumer accepted.
    Open,
    /// All consumed, end mark included.
    Consumed,
    /// Ended; `told` is false while the other end is still to be told.
    Aborted { why: Aborted, told: bool },
}

/// The sending end of one stream.
///
/// Invariants: `received <= sent <= written`; bytes are sent only up to `limit`, the end mark apart; what lies between
/// `received` and `written` is held here and nowhere counted as delivered.
#[derive(Debug)]
pub struct SendHalf {
    state: State,
    epoch: u32,
    /// Sent, and not yet held by the other process: kept so that the stream can be taken up again at `received`.
    replay: VecDeque<Bytes>,
    /// Written and not yet sent, older than `tail`.
    unsent: VecDeque<Bytes>,
    /// Small messages gathered since the last one that was not.
    tail: BytesMut,
    /// The other process holds this much. `replay` begins here.
    received: u64,
    /// The other application has consumed this much.
    consumed: u64,
    sent: u64,
    written: u64,
    limit: u64,
    /// The application would write up to here, were there credit.
    wanted: u64,
    /// What the other side was last told of `wanted`.
    wanted_told: u64,
    /// The other side has asked for credit back, and is to be told the limit that is left.
    reclaimed: bool,
    /// Set by `finish`: how many bytes precede the end mark.
    final_offset: Option<u64>,
    fin_sent: bool,
}

impl Default for SendHalf {
    fn default() -> Self {
        Self::new()
    }
}

impl SendHalf {
    /// A stream that is to be opened.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Opening { told: false },
            epoch: 0,
            replay: VecDeque::new(),
            unsent: VecDeque::new(),
            tail: BytesMut::new(),
            received: 0,
            consumed: 0,
            sent: 0,
            written: 0,
            limit: 0,
            wanted: 0,
            wanted_told: 0,
            reclaimed: false,
            final_offset: None,
            fin_sent: false,
        }
    }

    // The application's side.

    /// Whether the consumer has answered: `None` while it has not.
    ///
    /// # Errors
    /// How the stream ended, if it did.
    pub fn accepted(&self) -> Option<Result<(), Aborted>> {
        match &self.state {
            State::Opening { .. } => None,
            State::Open | State::Consumed => Some(Ok(())),
            State::Aborted { why, .. } => Some(Err(why.clone())),
        }
    }

    /// Whether a message of `length` bytes would be taken now. Without credit the other side is told how much is wanted,
    /// so that asking again later succeeds.
    ///
    /// # Errors
    /// [`WriteError`], as [`SendHalf::write`] would give.
    pub fn admits(&mut self, length: usize) -> Result<(), WriteError> {
        self.check_open()?;
        if self.written >= self.limit {
            self.wanted = self.wanted.max(self.written + encoded_bytes(length));
            return Err(WriteError::Blocked);
        }
        Ok(())
    }

    /// Takes a message of at most [`framing::MESSAGE_BYTES_LIMIT`] bytes, whole.
    ///
    /// It is taken as soon as one byte of it may be sent; what is beyond the limit waits here, so that one message may
    /// reach beyond it. Without any credit nothing is taken, and the other side is told how much is wanted.
    ///
    /// # Errors
    /// [`WriteError`]; the message was not taken, not in part.
    pub fn write(&mut self, message: &Bytes) -> Result<(), WriteError> {
        self.admits(message.len())?;
        self.put(message);
        Ok(())
    }

    /// As [`SendHalf::write`], for a message that was promised a place when there was credit: it is taken though that
    /// credit may have been asked back since. What is beyond the limit waits here, and is wanted.
    ///
    /// # Errors
    /// [`WriteError`], but never [`WriteError::Blocked`]; the message was not taken, not in part.
    pub fn write_reserved(&mut self, message: &Bytes) -> Result<(), WriteError> {
        self.check_open()?;
        self.put(message);
        Ok(())
    }

    /// Whether messages are still taken at all.
    fn check_open(&self) -> Result<(), WriteError> {
        match &self.state {
            State::Aborted { why, .. } => Err(why.clone().into()),
            _ if self.final_offset.is_some() => Err(WriteError::Finished),
            _ => Ok(()),
        }
    }

    fn put(&mut self, message: &Bytes) {
        if message.len() < COALESCE_BELOW_BYTES {
            self.gather(message);
        } else {
            framing::put_length(message.len(), &mut self.tail);
            self.seal();
            self.unsent.push_back(message.clone());
        }
        self.count(message.len());
    }

    /// Takes a copy of a message, as [`SendHalf::write`] takes a message. Nothing is allocated for one that is refused.
    ///
    /// # Errors
    /// [`WriteError`]; the message was not taken, not in part.
    pub fn write_copy(&mut self, message: &[u8]) -> Result<(), WriteError> {
        self.admits(message.len())?;
        if message.len() >= COALESCE_BELOW_BYTES {
            return self.write(&Bytes::copy_from_slice(message));
        }
        self.gather(message);
        self.count(message.len());
        Ok(())
    }

    fn gather(&mut self, message: &[u8]) {
        framing::put_length(message.len(), &mut self.tail);
        self.tail.extend_from_slice(message);
    }

    fn count(&mut self, length: usize) {
        self.written += encoded_bytes(length);
        self.wanted = self.wanted.max(self.written);
    }

    /// Ends the stream cleanly: the end mark follows what was written. It needs no credit. Further calls do nothing.
    pub fn finish(&mut self) {
        if self.final_offset.is_none() && !matches!(self.state, State::Aborted { .. }) {
            self.final_offset = Some(self.written);
            // A message that was refused for want of credit will not be written any more.
            self.wanted = self.wanted.min(self.written);
            framing::put_end_mark(self.written, &mut self.tail);
            self.written += END_MARK_BYTES as u64;
        }
    }

    /// Whether everything written has been consumed, after [`SendHalf::finish`].
    #[must_use]
    pub fn finished(&self) -> Finished {
        match &self.state {
            State::Consumed => Finished::Consumed,
            State::Aborted { why, .. } => Finished::Aborted(why.clone()),
            State::Opening { .. } | State::Open => Finished::Pending,
        }
    }

    /// Gives the stream up. What was not sent never will be, and all memory is freed. A stream that has ended stays as
    /// it ended.
    pub fn abort(&mut self, code: Code, text: &str) {
        if !self.is_over() {
            let told = matches!(self.state, State::Opening { told: false });
            self.end(Aborted { code, offset: self.consumed, text: text.to_owned() }, told);
        }
    }

    /// Whether everything written has been handed to the driver.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.sent == self.written
    }

    /// Whether nothing more will be sent or told: the half may be dropped without a trace.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Consumed | State::Aborted { .. })
    }

    /// Whether a write would be taken now.
    #[must_use]
    pub fn has_credit(&self) -> bool {
        self.written < self.limit && self.final_offset.is_none() && !self.is_over()
    }

    /// Bytes held here: for replay, or unsent.
    #[must_use]
    pub fn buffered_bytes(&self) -> u64 {
        if self.is_over() { 0 } else { self.written - self.received }
    }

    /// Bytes that were sent and that the other process is not known to have.
    #[must_use]
    pub fn unacknowledged_bytes(&self) -> u64 {
        if self.is_over() { 0 } else { self.sent - self.received }
    }

    /// Bytes that count against what all senders of the process may hold: written, allowed or sent, and not received.
    ///
    /// What lies beyond the limit is not counted: the end of the one message that reached it, and messages whose credit was
    /// asked back after they were written. So a stream that is stalled holds nothing that others could use. The count
    /// rises by credit, and falls as the other process receives and when credit is asked back.
    #[must_use]
    pub fn charged_bytes(&self) -> u64 {
        if self.is_over() { 0 } else { self.written.min(self.limit.max(self.sent)) - self.received }
    }

    /// How far the other application is known to have consumed the stream, in bytes.
    #[must_use]
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// How many bytes of the stream have been written, lengths included.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// How many bytes of messages have been written, lengths included: what needs credit. The end mark does not.
    #[must_use]
    pub fn content(&self) -> u64 {
        self.final_offset.unwrap_or(self.written)
    }

    // The link's side.

    /// The consumer took the stream.
    pub fn handle_accept(&mut self, accept: &Accept) {
        if matches!(self.state, State::Opening { .. }) {
            self.state = State::Open;
            self.limit = self.limit.max(accept.limit);
        }
    }

    /// News of what the other side holds, has consumed and allows.
    ///
    /// Credit of another epoch is dropped. A count that contradicts what was sent ends the stream: the other side
    /// speaks of a stream that this is not.
    pub fn handle_credit(&mut self, credit: &Credit) {
        if self.is_over() || credit.epoch != self.epoch {
            return;
        }
        let Credit { received, consumed, .. } = *credit;
        if received > self.sent || consumed > received {
            let text = format!("{consumed} bytes consumed of {received} received, of {} sent", self.sent);
            self.abort(Code::Protocol, &text);
            return;
        }
        if credit.finished && (!self.fin_sent || received != self.written || self.final_offset != Some(consumed)) {
            let text = format!("the end consumed at {consumed} of {received} received, of {} sent", self.sent);
            self.abort(Code::Protocol, &text);
            return;
        }
        self.consumed = self.consumed.max(consumed);
        self.limit = self.limit.max(credit.limit);
        self.release(received);
        if credit.finished {
            self.state = State::Consumed;
            self.free();
        }
    }

    /// The other side asks for the credit beyond `reclaim.limit` back. What was sent stays sent; the rest is given back,
    /// and wanted again if there is something to send with it.
    pub fn handle_reclaim(&mut self, reclaim: &Reclaim) {
        if matches!(self.state, State::Open) && reclaim.epoch == self.epoch {
            // The end mark's bytes needed no credit, and are none.
            let used = self.sent.min(self.final_offset.unwrap_or(u64::MAX));
            self.limit = self.limit.min(reclaim.limit.max(used));
            self.reclaimed = true;
            self.wanted_told = self.wanted_told.min(self.limit);
        }
    }

    /// The other side, or a node between, ended the stream. `offset` is taken for consumed where more is known.
    pub fn handle_abort(&mut self, code: Code, offset: u64, text: String) {
        if !self.is_over() {
            let offset = self.consumed.max(offset.min(self.sent));
            self.end(Aborted { code, offset, text }, true);
        }
    }

    /// What is to be sent next; `Data` of at most `bytes_max` bytes, whose pieces are appended to `pieces`.
    pub fn poll_output(&mut self, bytes_max: usize, pieces: &mut Vec<Bytes>) -> Option<SendOutput> {
        match &mut self.state {
            State::Opening { told } => {
                let first = !std::mem::replace(told, true);
                return first.then_some(SendOutput::Open);
            }
            State::Aborted { why, told } => {
                let first = !std::mem::replace(told, true);
                return first.then(|| SendOutput::Abort(why.clone()));
            }
            State::Consumed => return None,
            State::Open => {}
        }
        if std::mem::take(&mut self.reclaimed) {
            return Some(SendOutput::Limit { epoch: self.epoch, limit: self.limit });
        }
        if let Some(data) = self.poll_data(bytes_max, pieces) {
            return Some(data);
        }
        if self.wanted > self.limit && self.wanted > self.wanted_told {
            self.wanted_told = self.wanted;
            return Some(SendOutput::Want { epoch: self.epoch, wanted: self.wanted });
        }
        None
    }

    /// Whether [`SendHalf::poll_output`] would return something.
    #[must_use]
    pub fn has_output(&self) -> bool {
        match &self.state {
            State::Opening { told } | State::Aborted { told, .. } => !told,
            State::Consumed => false,
            State::Open => {
                self.reclaimed || self.sendable() > 0 || (self.wanted > self.limit && self.wanted > self.wanted_told)
            }
        }
    }

    /// Bytes that may be sent now. The end mark follows for free once everything before it may be sent.
    fn sendable(&self) -> u64 {
        let allowed = match self.final_offset {
            Some(final_offset) if final_offset <= self.limit => self.written,
            _ => self.written.min(self.limit),
        };
        allowed.saturating_sub(self.sent)
    }

    fn poll_data(&mut self, bytes_max: usize, pieces: &mut Vec<Bytes>) -> Option<SendOutput> {
        let length = self.sendable().min(bytes_max as u64);
        if length == 0 {
            return None;
        }
        let offset = self.sent;
        let mut left = usize::try_from(length).unwrap_or(bytes_max);
        while left > 0 {
            if self.unsent.is_empty() {
                self.seal();
            }
            let Some(front) = self.unsent.front_mut() else { break };
            let piece = if front.len() > left { front.split_to(left) } else { std::mem::take(front) };
            if front.is_empty() {
                self.unsent.pop_front();
            }
            left -= piece.len();
            self.sent += piece.len() as u64;
            self.replay.push_back(piece.clone());
            pieces.push(piece);
        }
        self.fin_sent = self.final_offset.is_some() && self.sent == self.written;
        Some(SendOutput::Data { offset, epoch: self.epoch, fin: self.fin_sent })
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.unsent.push_back(self.tail.split().freeze());
        }
    }

    /// The other process holds everything before `received`: forget it.
    fn release(&mut self, received: u64) {
        while self.received < received {
            let Some(front) = self.replay.front_mut() else { break };
            let held = usize::try_from(received - self.received).unwrap_or(usize::MAX);
            if front.len() > held {
                bytes::Buf::advance(front, held);
                self.received = received;
            } else {
                self.received += front.len() as u64;
                self.replay.pop_front();
            }
        }
    }

    fn end(&mut self, why: Aborted, told: bool) {
        self.state = State::Aborted { why, told };
        self.free();
    }

    fn free(&mut self) {
        self.replay = VecDeque::new();
        self.unsent = VecDeque::new();
        self.tail = BytesMut::new();
    }
}
