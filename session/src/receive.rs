//! The receiving end of one stream: order, duplicates, reassembly, and what the other side is told of it.

use bytes::{Buf, BufMut, Bytes};
use trunkline_proto::{
    code::Code,
    frame::DataHeader,
    framing::{self, END_MARK_BYTES, Head},
    message::{Credit, Limit, Reclaim, Resumed},
};

use crate::{Aborted, arrived::Arrived};

/// The sender is told of what arrived, so that it can forget it, and of what was consumed at least this often, and with
/// every other news.
const RECEIVED_STEP_BYTES: u64 = 64 * 1024;

/// What the driver is to send, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiveOutput {
    /// The stream is taken, and may be sent up to `limit`.
    Accept {
        /// An offset.
        limit: u64,
    },
    /// The stream goes on, on a new path.
    Resumed(Resumed),
    /// The latest state; an older one that was not sent yet is superseded.
    Credit(Credit),
    /// Credit that was granted and not used is wanted back. The answer goes to [`ReceiveHalf::handle_limit`].
    Reclaim(Reclaim),
    /// The stream ends here, by this side's wish. Nothing follows but, on a new path, the same again, until the other side
    /// has acknowledged it.
    Abort(Aborted),
    /// The end that the other side told has been heard.
    EndAck,
}

/// What [`ReceiveHalf::read`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The next message. It counts as consumed. It may share memory with its neighbours, as they arrived together: whoever
    /// keeps a small message for long and drops the others copies it.
    Message(Bytes),
    /// Nothing yet.
    Pending,
    /// The sender finished, and everything was consumed.
    End,
    /// The stream ended another way; whole messages that can still be read came before this.
    Aborted(Aborted),
}

/// What [`ReceiveHalf::read_bytes`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadBytes {
    /// So many bytes were handed out; they count as consumed. None, when there was no room for any.
    Bytes(usize),
    /// Nothing yet.
    Pending,
    /// The sender finished, and everything was consumed.
    End,
    /// The stream ended another way. Of a message that had not arrived whole, what was not read is dropped.
    Aborted(Aborted),
}

/// What takes a stream up again, or opens it once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// OPEN: the answer to an earlier one was lost.
    Open,
    /// RESUME.
    Resume,
}

/// How a stream ended, as its reader learns it.
enum Ended {
    Cleanly,
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
    /// Of `length` bytes, these have arrived, and the first `read` of these were read as bytes. Bytes that were read may
    /// be forgotten: then they count nowhere here.
    Body { length: usize, bytes: Vec<u8>, read: usize },
}

impl Partial {
    fn none() -> Self {
        Self::Head(Vec::new())
    }

    /// Bytes of a message that can be read though it has not arrived whole.
    fn unread_bytes(&self) -> usize {
        match self {
            Self::Head(_) => 0,
            Self::Body { bytes, read, .. } => bytes.len() - read,
        }
    }
}

/// The receiving end of one stream.
///
/// It is read by whole messages or as bytes, or now so and now so. Bytes are consumed as they are read, so a message
/// read as bytes needs no more credit than its stream has anyway, however long it is.
///
/// It outlives its path. When that is lost, what has arrived can be read, and nothing is said before the sending side asks for
/// the stream on another path, under a newer epoch. How it ended is kept until the other side knows.
///
/// Invariants: `consumed <= received <= limit`, the end mark apart; every byte of a message is read once, and in order.
#[derive(Debug)]
pub struct ReceiveHalf {
    state: State,
    epoch: u32,
    /// The path is lost.
    is_suspended: bool,
    /// What the other side asked for, until it is answered.
    asked_for: Option<Asked>,
    /// The other side has told its end, and is to know that it was heard.
    end_ack_due: bool,
    /// The other side knows how the stream ended, or does not care.
    is_end_known: bool,
    message_bytes_max: usize,
    /// Whole messages. Of the first, some may have been read as bytes.
    ready: Arrived,
    partial: Partial,
    /// The last read was of bytes.
    reads_bytes: bool,
    /// Somebody waits for the next message.
    is_awaited: bool,
    messages_read: u64,
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
    /// The other side has asked for credit up to here.
    wanted: u64,
    /// The other side wants to know what has arrived.
    acknowledges: bool,
    /// Credit beyond an offset was asked back, and the answer has not come.
    reclaiming: Option<Reclaiming>,
    /// With the loss of the path, credit that was asked back is back: the policy is to be told what is left.
    limited: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Reclaiming {
    limit: u64,
    told: bool,
}

impl ReceiveHalf {
    /// A stream that was offered and is accepted with this first limit. A message of more than `message_bytes_max`
    /// ends it.
    #[must_use]
    pub fn new(epoch: u32, limit: u64, message_bytes_max: usize) -> Self {
        Self {
            state: State::Open,
            epoch,
            is_suspended: false,
            asked_for: Some(Asked::Open),
            end_ack_due: false,
            is_end_known: false,
            message_bytes_max,
            ready: Arrived::default(),
            partial: Partial::none(),
            reads_bytes: false,
            is_awaited: false,
            messages_read: 0,
            received: 0,
            consumed: 0,
            limit,
            reported: 0,
            asked: 0,
            received_told: 0,
            reported_told: 0,
            limit_told: limit,
            finished_told: false,
            wanted: 0,
            acknowledges: false,
            reclaiming: None,
            limited: None,
        }
    }

    // The application's side.

    /// The next message, if one has arrived whole; of one that was begun with [`ReceiveHalf::read_bytes`], the rest.
    pub fn read(&mut self) -> Read {
        self.reads_bytes = false;
        if let Some((message, end)) = self.ready.pop() {
            self.consumed = end;
            self.messages_read += 1;
            self.is_awaited = false;
            return Read::Message(message);
        }
        match self.read_end() {
            None => {
                self.is_awaited = true;
                Read::Pending
            }
            Some(Ended::Cleanly) => Read::End,
            Some(Ended::Aborted(why)) => Read::Aborted(why),
        }
    }

    /// Somebody waits for the next message: one that is too long for the window is let in for them. A read that finds
    /// nothing says the same.
    pub fn await_message(&mut self) {
        self.is_awaited = true;
    }

    /// Up to `max` messages that have arrived whole, and how many these were. When there is none: what there is instead, as
    /// [`ReceiveHalf::read`] returns it. So the end is not consumed in one call with what precedes it.
    ///
    /// # Errors
    /// There is no whole message.
    pub fn read_many(&mut self, max: usize, mut take: impl FnMut(Bytes)) -> Result<usize, Read> {
        let mut count = 0;
        while count < max && (count == 0 || !self.ready.is_empty()) {
            match self.read() {
                Read::Message(message) => take(message),
                other => return Err(other),
            }
            count += 1;
        }
        Ok(count)
    }

    /// Bytes of the messages, one after another, whether these have arrived whole or not: as many as there are and `out`
    /// has room for. An empty message is passed over.
    ///
    /// Until the next [`ReceiveHalf::read`], the stream is one that is read as bytes: what waits at its head is not asked
    /// for as a whole.
    pub fn read_bytes(&mut self, out: &mut impl BufMut) -> ReadBytes {
        self.reads_bytes = true;
        let mut count = 0;
        while out.has_remaining_mut()
            && let Some((part, consumed, is_last)) = self.ready.read_into(out)
        {
            count += part;
            self.consumed = consumed;
            self.messages_read += u64::from(is_last);
        }
        if out.has_remaining_mut()
            && let Partial::Body { length, bytes, read } = &mut self.partial
        {
            let part = (bytes.len() - *read).min(out.remaining_mut());
            out.put_slice(&bytes[*read..*read + part]);
            count += part;
            *read += part;
            // Its length is consumed with its first byte, or before: see `pass_head`.
            self.consumed = self.received - (bytes.len() - *read) as u64;
            if *read == bytes.len() {
                *length -= *read;
                bytes.clear();
                *read = 0;
            }
        }
        if count > 0 || !out.has_remaining_mut() {
            return ReadBytes::Bytes(count);
        }
        match self.read_end() {
            None => ReadBytes::Pending,
            Some(Ended::Cleanly) => ReadBytes::End,
            Some(Ended::Aborted(why)) => ReadBytes::Aborted(why),
        }
    }

    /// Nothing is left to read: has the stream ended? A clean end is consumed by this.
    fn read_end(&mut self) -> Option<Ended> {
        match &self.state {
            State::Open => None,
            State::Ended => {
                self.state = State::Finished;
                Some(Ended::Cleanly)
            }
            State::Finished => Some(Ended::Cleanly),
            State::Aborted { why, .. } => Some(Ended::Aborted(Aborted { offset: self.consumed, ..why.clone() })),
        }
    }

    /// Whether [`ReceiveHalf::read`] would return something else than `Pending`.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        !self.ready.is_empty() || !matches!(self.state, State::Open)
    }

    /// Whether the last read was of bytes, and another one might return something else than `Pending`.
    #[must_use]
    pub fn has_bytes(&self) -> bool {
        self.reads_bytes && (self.is_readable() || self.partial.unread_bytes() > 0)
    }

    /// Whole messages that have arrived and were not read to their last byte.
    #[must_use]
    pub fn unread_messages(&self) -> usize {
        self.ready.messages()
    }

    /// Messages that were read to their last byte, since the beginning.
    #[must_use]
    pub fn messages_read(&self) -> u64 {
        self.messages_read
    }

    /// Gives the stream up: what has arrived is dropped, and the other side is told. A stream whose end was consumed, or
    /// that has ended another way, stays as it ended. Returns whether it ended by this.
    pub fn cancel(&mut self, code: Code, text: &str) -> bool {
        let was_live = matches!(self.state, State::Open | State::Ended);
        if was_live {
            let why = Aborted { code, offset: self.consumed, text: text.to_owned() };
            self.state = State::Aborted { why, told: self.is_end_known };
        }
        self.ready = Arrived::default();
        self.partial = Partial::none();
        was_live
    }

    /// How far the application has consumed the stream, in bytes.
    #[must_use]
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// How far the stream has arrived, in bytes, the end mark included.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether the sender finished and everything was consumed, which the application was told.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// Bytes held here, in whole and partial messages.
    #[must_use]
    pub fn buffered_bytes(&self) -> u64 {
        match self.state {
            State::Open | State::Ended => self.received - self.consumed,
            // What had not arrived whole is dropped.
            State::Finished | State::Aborted { .. } if self.ready.is_empty() => 0,
            State::Finished | State::Aborted { .. } => self.ready.end() - self.consumed,
        }
    }

    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.ready.held_bytes()
    }

    /// Whether neither data nor a word from the other side can matter any more. There may be outputs left, and after an
    /// abort there may be messages left to read: the policy is told of the close when nothing is buffered either.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Finished | State::Aborted { .. })
    }

    /// Whether the stream has ended, and the other side knows, as far as that is this side's concern: nothing more will be
    /// said, and of the half only unread messages matter any more.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_over() && self.is_end_known && !self.end_ack_due && self.asked_for.is_none()
    }

    /// Whether the path is lost.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.is_suspended
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
        if header.epoch != self.epoch || self.is_suspended || !matches!(self.state, State::Open | State::Ended) {
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
        let before = self.ready.messages();
        while !payload.is_empty() && matches!(self.state, State::Open) {
            self.take(&mut payload);
        }
        let whole = self.ready.messages().saturating_sub(before);
        self.pass_head();
        if self.exceeds_limit() {
            self.refuse_excess(sent);
        } else if !payload.is_empty() && matches!(self.state, State::Ended) {
            self.refuse(Code::Protocol, "bytes follow the end mark".to_owned());
        } else if header.fin && matches!(self.state, State::Open) {
            self.refuse(Code::Protocol, "the stream ended without its end mark".to_owned());
        }
        whole
    }

    /// The other side, or a node between, ended the stream. If the end mark has arrived, this changes nothing.
    ///
    /// What has arrived and was not read is dropped when the sender gave the stream up ([`Code::Cancelled`]), as with
    /// RESET_STREAM (RFC 9000 §3.2): whoever cancels a full stream has its memory freed everywhere at once. After any other
    /// end, whole messages that have arrived can still be read.
    pub fn handle_abort(&mut self, code: Code, text: String) {
        if code.ends_path() {
            return self.handle_path_lost();
        }
        // An end of this side's own that was told on this path is the answer, as they cross.
        self.end_ack_due |= match &mut self.state {
            State::Open | State::Ended => true,
            State::Finished => !self.finished_told,
            State::Aborted { told, .. } => !std::mem::replace(told, true),
        };
        self.end(code, text);
    }

    fn end(&mut self, code: Code, text: String) {
        // Who has ended by its own wish does not wait for this side's word.
        self.is_end_known = true;
        if matches!(self.state, State::Open) {
            self.state = State::Aborted { why: Aborted { code, offset: self.consumed, text }, told: true };
            self.partial = Partial::none();
            if code == Code::Cancelled {
                self.ready = Arrived::default();
            }
        }
    }

    /// The other side has heard how this one ended the stream.
    pub fn handle_end_ack(&mut self) {
        self.is_end_known |= match self.state {
            State::Finished => self.finished_told,
            State::Aborted { told, .. } => told,
            State::Open | State::Ended => false,
        };
    }

    /// The path is lost: nothing that was said there counts any more, and nothing comes from there. Tell the policy of
    /// [`ReceiveHalf::poll_limited`] after it.
    pub fn handle_path_lost(&mut self) {
        self.is_suspended = true;
        self.asked_for = None;
        self.end_ack_due = false;
        self.finished_told = false;
        if let State::Aborted { told, .. } = &mut self.state {
            *told = self.is_end_known;
        }
        if let Some(reclaiming) = self.reclaiming.take() {
            self.take_back(reclaiming.limit);
        }
    }

    /// The sending side asks for the stream on a new path. Returns whether that is newer than the path that is known; otherwise
    /// nothing has changed, and the path that asks is an old one.
    pub fn handle_asked(&mut self, asked: Asked, epoch: u32) -> bool {
        if epoch <= self.epoch {
            return false;
        }
        self.handle_path_lost();
        self.epoch = epoch;
        self.is_suspended = false;
        self.asked_for = Some(asked);
        // Who has given up waiting tells how the stream ends all the same, if it ends by its end mark.
        self.is_end_known &= matches!(self.state, State::Aborted { .. });
        self.received_told = self.received;
        self.reported_told = self.reported;
        self.limit_told = self.limit;
        self.wanted = 0;
        self.acknowledges = false;
        if asked == Asked::Open && self.received > 0 && matches!(self.state, State::Open | State::Ended) {
            self.refuse(Code::Protocol, "a stream of which bytes have come was opened once more".to_owned());
        }
        true
    }

    /// Nobody waits any longer for a path: a stream that has not ended ends with `code`.
    pub fn give_up_waiting(&mut self, code: Code, text: String) {
        self.end(code, text);
    }

    /// While there is no path, what was not used is back as soon as it is asked for: it will be told anew.
    fn take_back(&mut self, limit: u64) {
        self.limit = self.limit.min(limit.max(self.credit_used()));
        self.limited = Some(self.limit);
        self.asked = if self.asked > self.limit { 0 } else { self.asked };
    }

    /// The other side has bytes up to `wanted`. If that is nothing new, nor beyond the limit that it was told, it wants to
    /// know what it need not keep, and is told once there is something new to tell. Otherwise it is told with the credit
    /// that it gets: a word for each would be one too many for each turn of each busy stream.
    pub fn handle_want(&mut self, wanted: u64) {
        self.acknowledges |= wanted <= self.wanted.max(self.limit_told);
        self.wanted = self.wanted.max(wanted);
    }

    // The credit policy's side.

    /// What the policy is to be told now, if anything: how far the application has consumed.
    ///
    /// It is told in steps of a quarter of what it last granted, and at once when nothing is left to read while the
    /// sender may be at its limit: otherwise a sender whose next message does not fit would wait for ever.
    pub fn poll_consumed(&mut self) -> Option<u64> {
        let step = self.limit.saturating_sub(self.reported) / 4;
        let fresh = self.consumed - self.reported;
        let has_read_all = self.ready.is_empty() && !(self.reads_bytes && self.partial.unread_bytes() > 0);
        let starved = has_read_all && self.limit.saturating_sub(self.received) <= step;
        if fresh == 0 || (fresh < step && !starved) {
            return None;
        }
        self.reported = self.consumed;
        Some(self.consumed)
    }

    /// The end of the message at the head, once all before it is consumed, when it reaches beyond the limit.
    ///
    /// Returned once per message: the policy remembers it. Not returned while the stream is read as bytes: then no message
    /// need be let in as a whole. Nor while nobody waits for the message: streams that nobody reads must not fill the pool
    /// that others need.
    pub fn poll_message_end(&mut self) -> Option<u64> {
        let Partial::Body { length, bytes, .. } = &self.partial else { return None };
        let end = self.received + (length - bytes.len()) as u64;
        if self.reads_bytes
            || !self.is_awaited
            || !self.ready.is_empty()
            || end <= self.limit
            || self.asked == end
            || !matches!(self.state, State::Open)
        {
            return None;
        }
        self.asked = end;
        self.reported = self.consumed;
        Some(end)
    }

    /// The policy allows the stream up to `limit`, which is more than before.
    pub fn handle_grant(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// What the policy is to be told of a reclaim that was answered by the loss of the path.
    pub fn poll_limited(&mut self) -> Option<u64> {
        self.limited.take()
    }

    /// The policy wants the credit beyond `limit` back, as far as it was not used. What was sent with it is taken until
    /// the other side has answered. Tell the policy of [`ReceiveHalf::poll_limited`] after it.
    pub fn reclaim(&mut self, limit: u64) {
        if self.is_suspended {
            self.take_back(limit);
        } else if self.reclaiming.is_none() {
            self.reclaiming = Some(Reclaiming { limit, told: false });
        }
    }

    /// The other side has answered [`ReceiveOutput::Reclaim`]. Returns the limit that the policy is to be told, if this
    /// is the answer to anything.
    ///
    /// An answer that takes back what was used already ends the stream: the other side speaks of another.
    pub fn handle_limit(&mut self, limit: &Limit) -> Option<u64> {
        if limit.epoch != self.epoch || !matches!(self.state, State::Open | State::Ended) {
            return None;
        }
        let asked = self.reclaiming.take_if(|reclaiming| reclaiming.told)?;
        let used = self.credit_used();
        if limit.limit > self.limit || limit.limit < used.min(self.limit).max(asked.limit.min(self.limit)) {
            let text =
                format!("a limit of {} was given back, where {used} bytes had come of {}", limit.limit, self.limit);
            self.refuse(Code::Protocol, text);
            return None;
        }
        self.limit = limit.limit;
        self.limit_told = self.limit;
        // The message at the head was let in, and is not any more: it is to be asked for again.
        self.asked = if self.asked > self.limit { 0 } else { self.asked };
        Some(self.limit)
    }

    /// The limit that the other side may be told: while credit is asked back, no more than what it is to keep.
    fn limit_to_tell(&self) -> u64 {
        self.reclaiming.map_or(self.limit, |reclaiming| self.limit.min(reclaiming.limit))
    }

    /// What is to be sent next.
    pub fn poll_output(&mut self) -> Option<ReceiveOutput> {
        if !self.has_output() {
            return None;
        }
        if let State::Aborted { why, told } = &mut self.state
            && (self.asked_for.is_some() || !*told)
        {
            // An end is an answer too.
            (*told, self.asked_for) = (true, None);
            // Who has ended for want of a path is no lost path to the other side, but one that knows the stream no more.
            let code = if why.code.ends_path() { Code::OutcomeUnknown } else { why.code };
            return Some(ReceiveOutput::Abort(Aborted { code, offset: self.consumed, text: why.text.clone() }));
        }
        if let Some(asked) = self.asked_for.take() {
            let (epoch, limit) = (self.epoch, self.limit_told);
            let Self { received, consumed, .. } = *self;
            return Some(match asked {
                Asked::Open => ReceiveOutput::Accept { limit },
                Asked::Resume => ReceiveOutput::Resumed(Resumed { stream: 0, epoch, received, consumed, limit }),
            });
        }
        if std::mem::take(&mut self.end_ack_due) {
            return Some(ReceiveOutput::EndAck);
        }
        // What it is to keep is told first: the answer is about what the other side knows.
        let knows_what_it_keeps = self.limit_to_tell() <= self.limit_told;
        if let Some(reclaiming) = self.reclaiming.as_mut().filter(|reclaiming| !reclaiming.told && knows_what_it_keeps)
            && matches!(self.state, State::Open | State::Ended)
        {
            reclaiming.told = true;
            return Some(ReceiveOutput::Reclaim(Reclaim { stream: 0, epoch: self.epoch, limit: reclaiming.limit }));
        }
        let finished = matches!(self.state, State::Finished);
        self.received_told = self.received;
        self.reported_told = self.reported;
        let limit = self.limit_to_tell();
        self.limit_told = self.limit_told.max(limit);
        self.finished_told = finished;
        self.acknowledges = false;
        Some(ReceiveOutput::Credit(Credit {
            stream: 0,
            epoch: self.epoch,
            received: self.received,
            consumed: self.consumed,
            limit,
            finished,
        }))
    }

    /// Whether [`ReceiveHalf::poll_output`] would return something.
    #[must_use]
    pub fn has_output(&self) -> bool {
        if self.is_suspended {
            return false;
        }
        if self.asked_for.is_some() || self.end_ack_due {
            return true;
        }
        match &self.state {
            State::Aborted { told, .. } => !told,
            State::Finished => !self.finished_told && !self.is_end_known,
            State::Open | State::Ended => {
                self.reclaiming.is_some_and(|reclaiming| !reclaiming.told)
                    || self.limit_to_tell() > self.limit_told
                    || self.reported - self.reported_told >= RECEIVED_STEP_BYTES
                    || self.received - self.received_told >= RECEIVED_STEP_BYTES
                    // A sender that asks is told all, so that it keeps nothing for replay.
                    || (self.acknowledges && self.received > self.received_told)
            }
        }
    }

    /// Whoever reads bytes and has read all that came gets nothing from the length of the next message: it is consumed as
    /// it arrives. Otherwise, where credit is short, that length could use up all there is.
    fn pass_head(&mut self) {
        let is_at_head = self.reads_bytes && self.ready.is_empty() && matches!(self.state, State::Open);
        if is_at_head && matches!(self.partial, Partial::Body { .. }) && self.partial.unread_bytes() == 0 {
            self.consumed = self.received;
        }
    }

    /// Up to where credit was used: the end mark needs none, nor does what may still become it.
    fn credit_used(&self) -> u64 {
        match (&self.state, &self.partial) {
            (State::Ended, _) => self.received - END_MARK_BYTES as u64,
            (_, Partial::Head(begun)) if begun.first() == Some(&0xff) => self.received - begun.len() as u64,
            _ => self.received,
        }
    }

    /// Whether more was sent than was allowed. Of a stream that is over, or was refused already, nobody asks.
    fn exceeds_limit(&self) -> bool {
        matches!(self.state, State::Open | State::Ended) && self.credit_used() > self.limit
    }

    fn refuse_excess(&mut self, sent: u64) {
        let text = format!("{sent} bytes were sent, {} were allowed", self.limit);
        self.refuse(Code::CreditExceeded, text);
    }

    fn refuse(&mut self, code: Code, text: String) {
        self.state = State::Aborted { why: Aborted { code, offset: self.consumed, text }, told: false };
        self.partial = Partial::none();
    }

    /// Takes one step through `payload`: whole messages, a part of one, or a part of a head.
    fn take(&mut self, payload: &mut Bytes) {
        if matches!(&self.partial, Partial::Head(begun) if begun.is_empty()) && self.take_whole(payload) {
            return;
        }
        match &mut self.partial {
            Partial::Body { length, bytes, read } => {
                let part = payload.len().min(*length - bytes.len());
                if bytes.capacity() < bytes.len() + part {
                    // What was read makes room first.
                    bytes.drain(..*read);
                    *length -= std::mem::take(read);
                }
                if bytes.capacity() < bytes.len() + part {
                    // Grows with what has credit, not with what was declared.
                    let allowed = usize::try_from(self.limit.saturating_sub(self.received)).unwrap_or(usize::MAX);
                    bytes.reserve_exact((*length - bytes.len()).min(allowed).max(part));
                }
                bytes.extend_from_slice(&payload.split_to(part));
                self.received += part as u64;
                if bytes.len() == *length {
                    let mut message = Bytes::from(std::mem::take(bytes));
                    message.advance(*read);
                    self.partial = Partial::none();
                    self.ready.push_message(message, self.received);
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

    /// Takes the whole messages that begin `payload`, as many as there are. They stay together until they are read.
    fn take_whole(&mut self, payload: &mut Bytes) -> bool {
        let (mut end, mut messages) = (0, 0);
        while let Head::Message { header, length } = framing::head(&payload[end..])
            && length <= self.message_bytes_max
            && header + length <= payload.len() - end
        {
            end += header + length;
            messages += 1;
        }
        if messages > 0 {
            self.received += end as u64;
            self.ready.push(payload.split_to(end), self.received, messages);
        }
        messages > 0
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
                    self.ready.push_message(payload.split_to(length), self.received);
                    self.partial = Partial::none();
                } else {
                    self.partial = Partial::Body { length, bytes: Vec::new(), read: 0 };
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
