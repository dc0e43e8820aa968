//! The sending end of one stream: what was written, what may be sent, what must be kept for replay.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use trunkline_proto::{
    code::Code,
    framing::{self, END_MARK_BYTES},
    id::Incarnation,
    message::{Accept, Credit, Reclaim, Resumed},
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
    /// The opening of the stream: the first of all, and again when its answer was lost.
    Open {
        /// How often it was opened before.
        epoch: u32,
    },
    /// The stream is to be taken up again on a new path.
    Resume {
        /// One more than that of the path that was lost.
        epoch: u32,
        /// The consumer's life that the stream belongs to.
        consumer: Incarnation,
    },
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
    /// The stream ends here, by this side's wish. Nothing follows but, on a new path, the same again, until the other side
    /// has acknowledged it.
    Abort(Aborted),
    /// The end that the other side told has been heard. Nothing follows.
    EndAck,
}

/// What an ABORT means for the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The stream has ended, or had before.
    Ended,
    /// The path is lost. The half asks for another at once.
    PathLost,
    /// The stream was not taken up again, and may be later: call [`SendHalf::retry`] then.
    Refused,
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

/// How far the stream has come on its way to the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// OPEN or RESUME is to be said.
    Needed,
    /// It was said and refused, and is to be said again when the driver says so.
    Refused,
    /// It was said, and is not answered.
    Asked,
    /// The other side has answered.
    Up,
}

#[derive(Debug)]
enum Fate {
    Live,
    /// All consumed, end mark included; `told` once the other side knows that this is known.
    Consumed {
        told: bool,
    },
    /// Ended by this side's wish: the other side is told, until it has acknowledged that.
    GivenUp {
        why: Aborted,
        told: bool,
        acknowledged: bool,
    },
    /// Ended by another's; `told` once the other side knows that this is known.
    Lost {
        why: Aborted,
        told: bool,
    },
}

/// The sending end of one stream.
///
/// It outlives its path. When that is lost, it keeps what the other process is not known to have, asks for another path under a
/// new epoch, and goes on from where the other process says that it is.
///
/// Invariants: `received <= sent <= written`; bytes are sent only up to `limit`, the end mark apart; what lies between
/// `received` and `written` is held here and nowhere counted as delivered.
#[derive(Debug)]
pub struct SendHalf {
    fate: Fate,
    path: Path,
    /// Of the path that is, or is asked for.
    epoch: u32,
    /// The consumer's life that took the stream.
    consumer: Option<Incarnation>,
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
    /// The last byte was sent in this epoch.
    fin_sent: bool,
    /// The last byte was sent in this epoch or in an earlier one.
    fin_sent_once: bool,
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
            fate: Fate::Live,
            path: Path::Needed,
            epoch: 0,
            consumer: None,
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
            fin_sent_once: false,
        }
    }

    // The application's side.

    /// Whether the consumer has answered: `None` while it has not.
    ///
    /// # Errors
    /// How the stream ended, if it did.
    pub fn accepted(&self) -> Option<Result<(), Aborted>> {
        match &self.fate {
            Fate::Live => self.consumer.map(|_| Ok(())),
            Fate::Consumed { .. } => Some(Ok(())),
            Fate::GivenUp { why, .. } | Fate::Lost { why, .. } => Some(Err(why.clone())),
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
        match &self.fate {
            Fate::GivenUp { why, .. } | Fate::Lost { why, .. } => Err(why.clone().into()),
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
        if self.final_offset.is_none() && !self.is_over() {
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
        match &self.fate {
            Fate::Live => Finished::Pending,
            Fate::Consumed { .. } => Finished::Consumed,
            Fate::GivenUp { why, .. } | Fate::Lost { why, .. } => Finished::Aborted(why.clone()),
        }
    }

    /// Gives the stream up. What was not sent never will be, and all memory is freed. A stream that has ended stays as
    /// it ended.
    pub fn abort(&mut self, code: Code, text: &str) {
        if !self.is_over() {
            // Who never heard of the stream need not hear of its end.
            let is_unheard = self.path == Path::Needed && self.epoch == 0;
            let why = Aborted { code, offset: self.consumed, text: text.to_owned() };
            self.end(Fate::GivenUp { why, told: is_unheard, acknowledged: is_unheard });
        }
    }

    /// Whether everything written has been handed to the driver.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.sent == self.written
    }

    /// Whether the stream has ended, for the application.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !matches!(self.fate, Fate::Live)
    }

    /// Whether the stream has ended, and the other side knows, as far as that is this side's concern: nothing more will be
    /// said, and the half may be dropped without a trace.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match &self.fate {
            Fate::Live => false,
            Fate::GivenUp { told, acknowledged, .. } => *told && *acknowledged,
            Fate::Consumed { told } | Fate::Lost { told, .. } => *told,
        }
    }

    /// Whether the stream had a path, and has none now that was answered.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.epoch > 0 && self.path != Path::Up
    }

    /// The consumer's life that took the stream, once it has.
    #[must_use]
    pub fn consumer(&self) -> Option<Incarnation> {
        self.consumer
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
        if self.path != Path::Asked {
            return;
        }
        self.path = Path::Up;
        if self.consumer.is_some() {
            self.abort(Code::Protocol, "a stream that was to be taken up again was accepted as a new one");
        } else if !self.is_over() {
            self.consumer = Some(accept.incarnation);
            self.limit = self.limit.max(accept.limit);
        }
    }

    /// The consumer goes on with the stream: what it does not hold is sent again, and nothing else.
    ///
    /// A count that contradicts what was sent ends the stream: the other side speaks of a stream that this is not.
    pub fn handle_resumed(&mut self, resumed: &Resumed) {
        if self.path != Path::Asked || resumed.epoch != self.epoch {
            return;
        }
        self.path = Path::Up;
        if self.is_over() {
            return;
        }
        if self.consumer.is_none() {
            self.abort(Code::Protocol, "a stream that was to be opened was taken up again");
            return;
        }
        let Resumed { received, consumed, limit, .. } = *resumed;
        if received < self.received || received > self.sent || consumed > received || consumed < self.consumed {
            let (before, sent) = (self.received, self.sent);
            let text = format!("{consumed} bytes consumed of {received} received, of {sent} sent and {before} known");
            self.abort(Code::Protocol, &text);
            return;
        }
        self.consumed = consumed;
        self.release(received);
        while let Some(piece) = self.replay.pop_back() {
            self.unsent.push_front(piece);
        }
        self.sent = received;
        self.limit = limit;
        self.wanted_told = 0;
    }

    /// News of what the other side holds, has consumed and allows.
    ///
    /// Credit of another epoch is dropped. A count that contradicts what was sent ends the stream: the other side
    /// speaks of a stream that this is not.
    pub fn handle_credit(&mut self, credit: &Credit) {
        if self.is_over() || self.path != Path::Up || credit.epoch != self.epoch {
            return;
        }
        let Credit { received, consumed, .. } = *credit;
        if received > self.sent || consumed > received {
            let text = format!("{consumed} bytes consumed of {received} received, of {} sent", self.sent);
            self.abort(Code::Protocol, &text);
            return;
        }
        if credit.finished && (!self.fin_sent_once || received != self.written || self.final_offset != Some(consumed)) {
            let text = format!("the end consumed at {consumed} of {received} received, of {} sent", self.sent);
            self.abort(Code::Protocol, &text);
            return;
        }
        self.consumed = self.consumed.max(consumed);
        self.limit = self.limit.max(credit.limit);
        self.release(received);
        if credit.finished {
            self.end(Fate::Consumed { told: false });
        }
    }

    /// The other side asks for the credit beyond `reclaim.limit` back. What was sent stays sent; the rest is given back,
    /// and wanted again if there is something to send with it.
    pub fn handle_reclaim(&mut self, reclaim: &Reclaim) {
        if !self.is_over() && self.path == Path::Up && reclaim.epoch == self.epoch {
            // The end mark's bytes needed no credit, and are none.
            let used = self.sent.min(self.final_offset.unwrap_or(u64::MAX));
            self.limit = self.limit.min(reclaim.limit.max(used));
            self.reclaimed = true;
            self.wanted_told = self.wanted_told.min(self.limit);
        }
    }

    /// The other side, or a node between, ended the stream, or its path. `offset` is taken for consumed where more is known.
    ///
    /// What is said while this side ends the stream too is an answer to that.
    pub fn handle_abort(&mut self, code: Code, offset: u64, text: String) -> Verdict {
        if matches!(self.path, Path::Needed | Path::Refused) {
            // Nothing comes from where nothing was said.
            return Verdict::Ended;
        }
        if code.ends_path() {
            self.handle_path_lost();
            return Verdict::PathLost;
        }
        if self.path == Path::Asked && self.consumer.is_some() && code.is_retryable() {
            self.lose_path(Path::Refused);
            return Verdict::Refused;
        }
        match &mut self.fate {
            Fate::Live => {
                let offset = self.consumed.max(offset.min(self.sent));
                self.end(Fate::Lost { why: Aborted { code, offset, text }, told: false });
            }
            // The other side has an end of its own, and is to know that it was heard, unless this side's is under way to it.
            Fate::GivenUp { acknowledged, .. } => *acknowledged = true,
            Fate::Consumed { .. } | Fate::Lost { .. } => {}
        }
        Verdict::Ended
    }

    /// The other side has heard that this one gave the stream up.
    pub fn handle_end_ack(&mut self) {
        if let Fate::GivenUp { told: true, acknowledged, .. } = &mut self.fate {
            *acknowledged = true;
        }
    }

    /// The path is lost: nothing that was said there counts any more, and nothing comes from there. Another is asked for, if
    /// there is anything left to be said.
    pub fn handle_path_lost(&mut self) {
        self.lose_path(Path::Needed);
    }

    fn lose_path(&mut self, next: Path) {
        // That this side knows of the end is not worth another path.
        if let Fate::Consumed { told } | Fate::Lost { told, .. } | Fate::GivenUp { told, acknowledged: true, .. } =
            &mut self.fate
        {
            *told = true;
        }
        if self.is_settled() || matches!(self.path, Path::Needed | Path::Refused) {
            return;
        }
        if let Fate::GivenUp { told, .. } = &mut self.fate {
            *told = false;
        }
        self.path = next;
        self.epoch += 1;
        self.reclaimed = false;
        self.fin_sent = false;
    }

    /// A path that was refused is asked for again.
    pub fn retry(&mut self) {
        if self.path == Path::Refused {
            self.path = Path::Needed;
        }
    }

    /// Nobody waits any longer for a path: the stream ends with `code`; but when everything was sent, whether it was consumed
    /// can't be known.
    pub fn give_up_waiting(&mut self, code: Code, text: String) {
        match &mut self.fate {
            Fate::Live => {
                let code = if self.fin_sent_once { Code::OutcomeUnknown } else { code };
                self.end(Fate::Lost { why: Aborted { code, offset: self.consumed, text }, told: true });
            }
            Fate::GivenUp { told, acknowledged, .. } => (*told, *acknowledged) = (true, true),
            Fate::Consumed { told } | Fate::Lost { told, .. } => *told = true,
        }
    }

    /// What is to be sent next; `Data` of at most `bytes_max` bytes, whose pieces are appended to `pieces`.
    pub fn poll_output(&mut self, bytes_max: usize, pieces: &mut Vec<Bytes>) -> Option<SendOutput> {
        if !self.has_output() {
            return None;
        }
        if self.path == Path::Needed {
            self.path = Path::Asked;
            let epoch = self.epoch;
            return Some(match self.consumer {
                Some(consumer) => SendOutput::Resume { epoch, consumer },
                None => SendOutput::Open { epoch },
            });
        }
        match &mut self.fate {
            Fate::Live => {}
            Fate::GivenUp { why, told, acknowledged } => {
                *told = true;
                return Some(if *acknowledged { SendOutput::EndAck } else { SendOutput::Abort(why.clone()) });
            }
            Fate::Consumed { told } | Fate::Lost { told, .. } => {
                *told = true;
                return Some(SendOutput::EndAck);
            }
        }
        if std::mem::take(&mut self.reclaimed) {
            return Some(SendOutput::Limit { epoch: self.epoch, limit: self.limit });
        }
        if let Some(data) = self.poll_data(bytes_max, pieces) {
            return Some(data);
        }
        if self.is_want_due() {
            self.wanted_told = self.wanted;
            return Some(SendOutput::Want { epoch: self.epoch, wanted: self.wanted });
        }
        None
    }

    /// Whether [`SendHalf::poll_output`] would return something, were it given room for data.
    #[must_use]
    pub fn has_output(&self) -> bool {
        let is_asked_for = match self.path {
            Path::Needed => return !self.is_settled(),
            Path::Refused => return false,
            Path::Asked => true,
            Path::Up => false,
        };
        match &self.fate {
            Fate::Live => !is_asked_for && (self.reclaimed || self.has_data() || self.is_want_due()),
            // Whoever is told on a path that has taken nothing up yet might not hear of the stream at all. That does no harm
            // to a first opening: nobody remembers what it would have heard.
            Fate::GivenUp { told, acknowledged, .. } => !told && (*acknowledged || !is_asked_for || self.epoch == 0),
            Fate::Consumed { told } | Fate::Lost { told, .. } => !told,
        }
    }

    /// The epoch of the path that is, or is asked for.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// A WANT for nothing new, which asks what has been received, if there is a path and anything that is not known to have
    /// been.
    #[must_use]
    pub fn question(&self) -> Option<SendOutput> {
        let asks = !self.is_over() && self.path == Path::Up && self.unacknowledged_bytes() > 0;
        asks.then(|| SendOutput::Want { epoch: self.epoch, wanted: self.content() })
    }

    fn is_want_due(&self) -> bool {
        self.wanted > self.limit && self.wanted > self.wanted_told
    }

    /// Whether bytes may be sent now, or the end that they are the last.
    fn has_data(&self) -> bool {
        self.sendable() > 0 || self.is_fin_due()
    }

    /// On a path on which everything has arrived before, the end is still to be said.
    fn is_fin_due(&self) -> bool {
        self.final_offset.is_some() && self.sent == self.written && !self.fin_sent
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
        if length == 0 && !(self.is_fin_due() && bytes_max > 0) {
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
        self.fin_sent_once |= self.fin_sent;
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

    fn end(&mut self, fate: Fate) {
        self.fate = fate;
        self.replay = VecDeque::new();
        self.unsent = VecDeque::new();
        self.tail = BytesMut::new();
    }
}
