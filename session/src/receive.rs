//! The receiving end of one stream: order, duplicates, reassembly, and what the other side is told of it.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use trunkline_proto::{
    code::Code,
    frame::DataHeader,
    framing::{self, END_MARK_BYTES, Head},
    message::Credit,
};

use crate::Aborted;

/// The sender is told of what arrived, so that it can forget it, at least this often.
const RECEIVED_STEP_BYTES: u64 = 64 * 1024;

/// What the driver is to send, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiveOutput {
    /// The latest state; an older one that was not sent yet is superseded.
    Credit(Credit),
    /// The stream ends here, by this side's wish. Nothing follows.
    Abort(Aborted),
}

/// What [`ReceiveHalf::read`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The next message. It counts as consumed.
    Message(Bytes),
    /// Nothing yet.
    Pending,
    /// The sender finished, and everything was consumed.
    End,
    /// The stream ended another way, after all whole messages that had arrived.
    Aborted(Aborted),
}

#[derive(Debug)]
enum State {
    Open,
    /// The end mark has arrived.
    Ended,
    /// The application has consumed the end mark.
    Finished,
    Aborted {
        why: Aborted,
        told: bool,
    },
}

/// A message, or the head of one, that has not arrived whole.
#[derive(Debug)]
enum Partial {
    /// Fewer bytes than a length or end mark has.
    Head(Vec<u8>),
    /// Of `length` bytes, these have arrived.
    Body { length: usize, bytes: Vec<u8> },
}

/// The receiving end of one stream.
///
/// Invariants: `consumed <= received <= limit`, the end mark apart; a message is read once, and in order.
#[derive(Debug)]
pub struct ReceiveHalf {
    state: State,
    epoch: u32,
    message_bytes_max: usize,
    /// Whole messages, each with the offset at which it ends.
    ready: VecDeque<(Bytes, u64)>,
    partial: Partial,
    received: u64,
    consumed: u64,
    limit: u64,
    /// What the policy was last told to be consumed.
    reported: u64,
    /// The end of a message at the head for which the policy was already asked.
    asked: u64,
    received_told: u64,
    /// What was `reported` when the other side was last told.
    reported_told: u64,
    limit_told: u64,
    finished_told: bool,
}

impl ReceiveHalf {
    /// A stream that was offered and is accepted with this first limit. A message of more than `message_bytes_max`
    /// ends it.
    #[must_use]
    pub fn new(epoch: u32, limit: u64, message_bytes_max: usize) -> Self {
        Self {
            state: State::Open,
            epoch,
            message_bytes_max,
            ready: VecDeque::new(),
            partial: Partial::Head(Vec::new()),
            received: 0,
            consumed: 0,
            limit,
            reported: 0,
            asked: 0,
            received_told: 0,
            reported_told: 0,
            limit_told: limit,
            finished_told: false,
        }
    }

    // The application's side.

    /// The next message, if one has arrived whole.
    pub fn read(&mut self) -> Read {
        if let Some((message, end)) = self.ready.pop_front() {
            self.consumed = end;
            return Read::Message(message);
        }
        match &self.state {
            State::Open => Read::Pending,
            State::Ended => {
                self.state = State::Finished;
                Read::End
            }
            State::Finished => Read::End,
            State::Aborted { why, .. } => Read::Aborted(Aborted { offset: self.consumed, ..why.clone() }),
        }
    }

    /// Whether [`ReceiveHalf::read`] would return something else than `Pending`.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        !self.ready.is_empty() || !matches!(self.state, State::Open)
    }

    /// Gives the stream up: what has arrived is dropped, and the other side is told. A stream whose end was consumed, or
    /// that has ended another way, stays as it ended.
    pub fn cancel(&mut self, code: Code, text: &str) {
        if matches!(self.state, State::Open | State::Ended) {
            let why = Aborted { code, offset: self.consumed, text: text.to_owned() };
            self.state = State::Aborted { why, told: false };
        }
        self.ready = VecDeque::new();
        self.partial = Partial::Head(Vec::new());
    }

    /// How far the application has consumed the stream, in bytes.
    #[must_use]
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Bytes held here, in whole and partial messages.
    #[must_use]
    pub fn buffered_bytes(&self) -> u64 {
        match self.state {
            State::Open | State::Ended => self.received - self.consumed,
            // What had not arrived whole is dropped.
            State::Finished | State::Aborted { .. } => self.ready.back().map_or(0, |(_, end)| end - self.consumed),
        }
    }

    /// Whether neither data nor a word from the other side can matter any more. There may be outputs left, and after an
    /// abort there may be messages left to read: the policy is told of the close when nothing is buffered either.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Finished | State::Aborted { .. })
    }

    /// How the stream ended, if it ended another way than by its end mark; messages may be left to be read.
    #[must_use]
    pub fn aborted(&self) -> Option<Aborted> {
        match &self.state {
            State::Aborted { why, .. } => Some(Aborted { offset: self.consumed, ..why.clone() }),
            State::Open | State::Ended | State::Finished => None,
        }
    }

    // The link's side.

    /// Bytes of the stream. Returns how many messages became whole.
    ///
    /// Bytes of another epoch and bytes that have arrived before are dropped. A gap, bytes beyond the limit, a message
    /// that is too long, and an end without its mark each end the stream with a code that says so.
    pub fn handle_data(&mut self, header: &DataHeader, mut payload: Bytes) -> usize {
        if header.epoch != self.epoch || !matches!(self.state, State::Open | State::Ended) {
            return 0;
        }
        if header.offset > self.received {
            self.refuse(Code::Protocol, format!("bytes {} to {} are missing", self.received, header.offset));
            return 0;
        }
        let duplicate = usize::try_from(self.received - header.offset).unwrap_or(usize::MAX);
        payload.advance(duplicate.min(payload.len()));
        let sent = self.received + payload.len() as u64;
        if sent > self.limit.saturating_add(END_MARK_BYTES as u64) {
            self.refuse_excess(sent);
            return 0;
        }
        let before = self.ready.len();
        while !payload.is_empty() && matches!(self.state, State::Open) {
            self.take(&mut payload);
        }
        let whole = self.ready.len().saturating_sub(before);
        if self.exceeds_limit() {
            self.refuse_excess(sent);
        } else if !payload.is_empty() && matches!(self.state, State::Ended) {
            self.refuse(Code::Protocol, "bytes follow the end mark".to_owned());
        } else if header.fin && matches!(self.state, State::Open) {
            self.refuse(Code::Protocol, "the stream ended without its end mark".to_owned());
        }
        whole
    }

    /// The other side, or a node between, ended the stream. Whole messages that have arrived can still be read. If the
    /// end mark has arrived, this changes nothing.
    pub fn handle_abort(&mut self, code: Code, text: String) {
        if matches!(self.state, State::Open) {
            self.state = State::Aborted { why: Aborted { code, offset: self.consumed, text }, told: true };
            self.partial = Partial::Head(Vec::new());
        }
    }

    // The credit policy's side.

    /// What the policy is to be told now, if anything: how far the application has consumed.
    ///
    /// It is told in steps of a quarter of what it last granted, and at once when nothing is left to read while the
    /// sender may be at its limit: otherwise a sender whose next message does not fit would wait for ever.
    pub fn poll_consumed(&mut self) -> Option<u64> {
        let step = self.limit.saturating_sub(self.reported) / 4;
        let fresh = self.consumed - self.reported;
        let starved = self.ready.is_empty() && self.limit.saturating_sub(self.received) <= step;
        if fresh == 0 || (fresh < step && !starved) {
            return None;
        }
        self.reported = self.consumed;
        Some(self.consumed)
    }

    /// The end of the message at the head, once all before it is consumed, when it reaches beyond the limit.
    ///
    /// Returned once per message: the policy remembers it.
    pub fn poll_message_end(&mut self) -> Option<u64> {
        let Partial::Body { length, bytes } = &self.partial else { return None };
        let end = self.received + (length - bytes.len()) as u64;
        if !self.ready.is_empty() || end <= self.limit || self.asked == end || !matches!(self.state, State::Open) {
            return None;
        }
        self.asked = end;
        self.reported = self.consumed;
        Some(end)
    }

    /// The policy allows the stream up to `limit`. A limit never falls.
    pub fn handle_grant(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// What is to be sent next.
    pub fn poll_output(&mut self) -> Option<ReceiveOutput> {
        if let State::Aborted { why, told } = &mut self.state {
            let first = !std::mem::replace(told, true);
            return first.then(|| ReceiveOutput::Abort(Aborted { offset: self.consumed, ..why.clone() }));
        }
        if !self.has_output() {
            return None;
        }
        let finished = matches!(self.state, State::Finished);
        self.received_told = self.received;
        self.reported_told = self.reported;
        self.limit_told = self.limit;
        self.finished_told = finished;
        Some(ReceiveOutput::Credit(Credit {
            stream: 0,
            epoch: self.epoch,
            received: self.received,
            consumed: self.consumed,
            limit: self.limit,
            finished,
        }))
    }

    /// Whether [`ReceiveHalf::poll_output`] would return something.
    #[must_use]
    pub fn has_output(&self) -> bool {
        match &self.state {
            State::Aborted { told, .. } => !told,
            State::Finished => !self.finished_told,
            State::Open | State::Ended => {
                // A sender at its limit is told all, so that it keeps nothing for replay while it waits.
                let is_at_limit = self.received >= self.limit && self.received > self.received_told;
                self.limit > self.limit_told
                    || self.reported > self.reported_told
                    || self.received - self.received_told >= RECEIVED_STEP_BYTES
                    || is_at_limit
            }
        }
    }

    /// Whether more than the limit was taken that is not the end mark, or may still become it.
    fn exceeds_limit(&self) -> bool {
        let mark_begins = match (&self.state, &self.partial) {
            (State::Open, Partial::Head(begun)) if begun.first() == Some(&0xff) => self.received - begun.len() as u64,
            (State::Open, _) => self.received,
            (State::Ended, _) => self.received - END_MARK_BYTES as u64,
            // Refused for another reason already.
            (State::Finished | State::Aborted { .. }, _) => return false,
        };
        mark_begins > self.limit
    }

    fn refuse_excess(&mut self, sent: u64) {
        let text = format!("{sent} bytes were sent, {} were allowed", self.limit);
        self.refuse(Code::CreditExceeded, text);
    }

    fn refuse(&mut self, code: Code, text: String) {
        self.state = State::Aborted { why: Aborted { code, offset: self.consumed, text }, told: false };
        self.partial = Partial::Head(Vec::new());
    }

    /// Takes one step through `payload`: a message, a part of one, or a part of a head.
    fn take(&mut self, payload: &mut Bytes) {
        match &mut self.partial {
            Partial::Body { length, bytes } => {
                let part = payload.len().min(*length - bytes.len());
                // Grows with what has credit, not with what was declared.
                let allowed = usize::try_from(self.limit.saturating_sub(self.received)).unwrap_or(usize::MAX);
                if bytes.capacity() < bytes.len() + part {
                    bytes.reserve_exact((*length - bytes.len()).min(allowed).max(part));
                }
                bytes.extend_from_slice(&payload.split_to(part));
                self.received += part as u64;
                if bytes.len() == *length {
                    let message = Bytes::from(std::mem::take(bytes));
                    self.partial = Partial::Head(Vec::new());
                    self.ready.push_back((message, self.received));
                }
            }
            Partial::Head(begun) if begun.is_empty() => match framing::head(payload) {
                Head::Incomplete => {
                    self.received += payload.len() as u64;
                    begun.extend_from_slice(&payload.split_to(payload.len()));
                }
                found => self.begin(found, 0, payload),
            },
            Partial::Head(begun) => {
                let before = begun.len();
                let looked_at = payload.len().min(END_MARK_BYTES - before);
                begun.extend_from_slice(&payload[..looked_at]);
                match framing::head(begun) {
                    Head::Incomplete => {
                        payload.advance(looked_at);
                        self.received += looked_at as u64;
                    }
                    found => self.begin(found, before, payload),
                }
            }
        }
    }

    /// A head was found, of which `before` bytes had arrived earlier; the rest of it begins `payload`.
    fn begin(&mut self, found: Head, before: usize, payload: &mut Bytes) {
        match found {
            Head::Message { header, length } => {
                payload.advance(header - before);
                self.received += (header - before) as u64;
                if length > self.message_bytes_max {
                    let text = format!("a message of {length} bytes; at most {} are taken", self.message_bytes_max);
                    self.refuse(Code::MessageTooLarge, text);
                } else if length <= payload.len() {
                    self.received += length as u64;
                    self.ready.push_back((payload.split_to(length), self.received));
                    self.partial = Partial::Head(Vec::new());
                } else {
                    self.partial = Partial::Body { length, bytes: Vec::new() };
                }
            }
            Head::End { final_offset } => {
                let begins = self.received - before as u64;
                payload.advance(END_MARK_BYTES - before);
                if final_offset == begins {
                    self.received = begins + END_MARK_BYTES as u64;
                    self.state = State::Ended;
                } else {
                    let text = format!("the end mark says offset {final_offset}, and {begins} bytes preceded it");
                    self.refuse(Code::Protocol, text);
                }
            }
            Head::Invalid | Head::Incomplete => {
                self.refuse(Code::Protocol, format!("no message begins at offset {}", self.received - before as u64));
            }
        }
    }
}
