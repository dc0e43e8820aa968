//! The processes at both ends: an application and the driver of its halves, as an SDK would be.

use std::collections::BTreeMap;

use bytes::{BufMut as _, Bytes};
use trunkline_proto::{
    code::Code,
    framing,
    id::Incarnation,
    message::{Accept, Limit},
};
use trunkline_session::{
    Aborted, CreditPolicy, Finished, Grant, Read, ReadBytes, ReceiveHalf, ReceiveOutput, Reclaim, SendHalf, SendOutput,
    SharedBudget, SharedBudgetConfig, WriteError,
};

use crate::{
    plan::{Ending, Plan, StreamPlan},
    random::Random,
    relay::{Forward, Relay, Reverse, Sabotage},
};

/// How a stream ended at one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Clean,
    Aborted(Aborted),
}

#[derive(Debug)]
pub(crate) struct Producer {
    pub(crate) half: SendHalf,
    pub(crate) written: usize,
    pub(crate) finished_at: Option<u64>,
}

impl Producer {
    pub(crate) fn new() -> Self {
        Self { half: SendHalf::new(), written: 0, finished_at: None }
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self.half.finished() {
            Finished::Pending => None,
            Finished::Consumed => Some(Outcome::Clean),
            Finished::Aborted(why) => Some(Outcome::Aborted(why)),
        }
    }

    /// The application's turn.
    pub(crate) fn act(&mut self, plan: &StreamPlan, now: u64, random: &mut Random) {
        let last = if let Ending::Abort(after) = plan.ending { after } else { plan.messages.len() };
        for _ in 0..random.between(1, 6) {
            if self.written == last || self.half.write(&plan.messages[self.written]).is_err() {
                break;
            }
            self.written += 1;
        }
        if self.written < last {
            return;
        }
        match plan.ending {
            Ending::Abort(_) => self.half.abort(Code::Cancelled, "the producer gave up"),
            Ending::Finish | Ending::FinishThenAbort(_) if self.finished_at.is_none() => {
                self.half.finish();
                self.finished_at = Some(now);
                let refusal = self.half.write(&Bytes::new());
                assert!(matches!(refusal, Err(WriteError::Finished | WriteError::Aborted(_))));
            }
            Ending::FinishThenAbort(rounds)
                if self.finished_at.is_some_and(|finished_at| finished_at + rounds <= now) =>
            {
                self.half.abort(Code::Cancelled, "the producer gave up late");
            }
            Ending::Finish | Ending::FinishThenAbort(_) => {}
        }
    }

    /// The driver's turn: sends what there is to send, or some of it.
    pub(crate) fn drive(&mut self, plan: &StreamPlan, relay: &mut Relay, now: u64, random: &mut Random) {
        for _ in 0..random.between(1, 20) {
            let has_output = self.half.has_output();
            let mut pieces = Vec::new();
            let bytes_max = random.size(1, plan.chunk_bytes_max);
            let output = self.half.poll_output(bytes_max, &mut pieces);
            assert_eq!(has_output, output.is_some());
            match output {
                Some(SendOutput::Open) => relay.take_open(now, random),
                Some(SendOutput::Data { fin, .. }) => {
                    relay.take_data(pieces.concat().into(), fin, plan.chunk_bytes_max, now, random);
                }
                Some(SendOutput::Want { wanted, .. }) => relay.take_want(wanted, now, random),
                Some(SendOutput::Abort(why)) => relay.take_abort(why.code, why.text, now, random),
                Some(SendOutput::Limit { limit, .. }) => relay.take_limit(limit),
                None => break,
            }
        }
    }

    pub(crate) fn take(&mut self, news: Reverse) {
        match news {
            Reverse::Accept(accept) => self.half.handle_accept(&accept),
            Reverse::Credit(credit) => self.half.handle_credit(&credit),
            Reverse::Reclaim(reclaim) => self.half.handle_reclaim(&reclaim),
            Reverse::Abort(code, offset, text) => self.half.handle_abort(code, offset, text),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) half: ReceiveHalf,
    /// Messages that were read to their end.
    pub(crate) read: usize,
    pub(crate) outcome: Option<Outcome>,
    /// Up to where the sending side may send: told, and not given back.
    pub(crate) entitled: u64,
    is_closed: bool,
}

/// What a consumer read at once.
#[derive(Debug)]
pub(crate) enum Piece {
    /// A message, or the rest of one that was begun as bytes.
    Message(Bytes),
    /// Bytes, and how many messages were then read to their end since the beginning.
    Bytes(Vec<u8>, usize),
}

/// One consuming process: its streams share one budget.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) config: SharedBudgetConfig,
    pub(crate) policy: SharedBudget,
    pub(crate) consumers: BTreeMap<usize, Consumer>,
    /// Offered, and not answered yet.
    pub(crate) parked: BTreeMap<usize, ()>,
    /// How often credit was asked back, and how many bytes came.
    pub(crate) reclaims: u64,
    pub(crate) reclaimed_bytes: u64,
}

impl Process {
    pub(crate) fn new(config: SharedBudgetConfig) -> Self {
        Self {
            config,
            policy: SharedBudget::new(config),
            consumers: BTreeMap::new(),
            parked: BTreeMap::new(),
            reclaims: 0,
            reclaimed_bytes: 0,
        }
    }

    pub(crate) fn take(&mut self, stream: usize, news: Forward) {
        match (news, self.consumers.get_mut(&stream)) {
            (Forward::Open, _) => {
                self.parked.insert(stream, ());
            }
            (Forward::Abort(..), None) => {
                self.parked.remove(&stream);
            }
            (_, None) => {}
            (Forward::Want(wanted), Some(consumer)) => {
                if !consumer.is_closed {
                    self.policy.wanted(stream as u64, wanted);
                }
            }
            (Forward::Limit(limit), Some(consumer)) => {
                let limit = Limit { stream: 0, epoch: 0, limit };
                if let Some(limit) = consumer.half.handle_limit(&limit) {
                    self.reclaimed_bytes += consumer.entitled - limit;
                    consumer.entitled = limit;
                    self.policy.limited(stream as u64, limit);
                }
            }
            (Forward::Data(header, bytes), Some(consumer)) => {
                consumer.half.handle_data(&header, bytes);
            }
            (Forward::Abort(code, text), Some(consumer)) => consumer.half.handle_abort(code, text),
        }
    }

    /// Answers an offer, when the application has come to bind its name.
    pub(crate) fn answer(
        &mut self,
        stream: usize,
        plan: &StreamPlan,
        relay: &mut Relay,
        now: u64,
        random: &mut Random,
    ) {
        if now < plan.reader.binds_at || self.parked.remove(&stream).is_none() {
            return;
        }
        if plan.reader.refuses {
            relay.take_cancel(Code::NotBound, 0, "nobody is there".to_owned(), now, random);
            return;
        }
        let limit = self.policy.open(stream as u64, None);
        let half = ReceiveHalf::new(0, limit, Plan::message_bytes_max(&self.config));
        self.consumers.insert(stream, Consumer { half, read: 0, outcome: None, entitled: limit, is_closed: false });
        relay.take_accept(Accept { stream: 0, incarnation: Incarnation::from_bits(7), limit }, now, random);
    }

    /// The application's turn: reads, or gives up. Returns what it read.
    pub(crate) fn act(
        &mut self,
        stream: usize,
        plan: &StreamPlan,
        now: u64,
        is_calm: bool,
        random: &mut Random,
    ) -> Vec<Piece> {
        let Some(consumer) = self.consumers.get_mut(&stream) else { return Vec::new() };
        let reader = plan.reader;
        let is_asleep = (reader.asleep.0..reader.asleep.1).contains(&now) || !random.percent(reader.reads_percent);
        let mut pieces = Vec::new();
        if is_asleep && !is_calm {
            return pieces;
        }
        for _ in 0..random.between(1, 6) {
            if consumer.outcome.is_none() && reader.cancels_after.is_some_and(|after| after <= consumer.read) {
                consumer.half.cancel(Code::Cancelled, "the consumer gave up");
            }
            let is_readable = consumer.half.is_readable();
            let read = if random.percent(reader.bytes_percent) {
                let mut bytes = Vec::new();
                let bytes_max = random.size(1, reader.bytes_max);
                match consumer.half.read_bytes(&mut (&mut bytes).limit(bytes_max)) {
                    ReadBytes::Bytes(count) => {
                        assert_eq!(count, bytes.len());
                        let read = usize::try_from(consumer.half.messages_read()).unwrap_or(usize::MAX);
                        Ok(Piece::Bytes(bytes, read))
                    }
                    // Empty messages may have been passed over.
                    ReadBytes::Pending => Err(None),
                    ReadBytes::End => Err(Some(Outcome::Clean)),
                    ReadBytes::Aborted(why) => Err(Some(Outcome::Aborted(why))),
                }
            } else {
                match consumer.half.read() {
                    Read::Message(message) => Ok(Piece::Message(message)),
                    Read::Pending => {
                        assert!(!is_readable);
                        Err(None)
                    }
                    Read::End => Err(Some(Outcome::Clean)),
                    Read::Aborted(why) => Err(Some(Outcome::Aborted(why))),
                }
            };
            let passed = usize::try_from(consumer.half.messages_read()).unwrap_or(usize::MAX);
            let has_passed_empty = read.is_err() && passed > consumer.read;
            consumer.read = passed;
            let outcome = match read {
                Ok(piece) => {
                    pieces.push(piece);
                    continue;
                }
                Err(outcome) => outcome,
            };
            if has_passed_empty {
                pieces.push(Piece::Bytes(Vec::new(), passed));
            }
            let Some(outcome) = outcome else { break };
            assert!(consumer.outcome.is_none() || consumer.outcome == Some(outcome.clone()), "a second outcome");
            consumer.outcome = Some(outcome);
            break;
        }
        pieces
    }

    /// The driver's turn, after anything that happened to `stream`: tells the policy, and hands out what it grants.
    pub(crate) fn settle(&mut self, stream: usize) {
        if let Some(consumer) = self.consumers.get_mut(&stream).filter(|consumer| !consumer.is_closed) {
            if let Some(consumed) = consumer.half.poll_consumed() {
                self.policy.consumed(stream as u64, consumed);
            }
            if let Some(end) = consumer.half.poll_message_end() {
                self.policy.message(stream as u64, consumer.half.consumed(), end);
            }
            if consumer.half.is_over() && consumer.half.buffered_bytes() == 0 {
                consumer.is_closed = true;
                self.policy.close(stream as u64);
            }
        }
        while let Some(Grant { stream, limit }) = self.policy.poll_grant() {
            self.consumer(stream).half.handle_grant(limit);
        }
        while let Some(Reclaim { stream, limit }) = self.policy.poll_reclaim() {
            self.consumer(stream).half.reclaim(limit);
            self.reclaims += 1;
        }
    }

    fn consumer(&mut self, stream: u64) -> &mut Consumer {
        let consumer = usize::try_from(stream).ok().and_then(|stream| self.consumers.get_mut(&stream));
        consumer.expect("the policy speaks of streams that were opened")
    }

    /// What the sending sides may send, or have sent and was not read, of streams that live, beside the length that each may
    /// always send; and what the policy takes for that.
    pub(crate) fn entitled_bytes(&self) -> (u64, u64) {
        let head = framing::LENGTH_BYTES_MAX as u64;
        let live = self.consumers.values().filter(|consumer| !consumer.is_closed);
        let held = live.map(|consumer| consumer.entitled.saturating_sub(consumer.half.consumed() + head));
        let (count, entitled) = held.fold((0, 0), |(count, sum), held| (count + 1, sum + held));
        (entitled, self.policy.outstanding_bytes().saturating_sub(head * count))
    }

    /// Sends what there is to send of `stream`.
    pub(crate) fn drive(&mut self, stream: usize, relay: &mut Relay, now: u64, random: &mut Random) {
        let Some(consumer) = self.consumers.get_mut(&stream) else { return };
        while consumer.half.has_output() {
            match consumer.half.poll_output() {
                Some(ReceiveOutput::Credit(credit)) => {
                    consumer.entitled = consumer.entitled.max(credit.limit);
                    relay.take_credit(credit, now, random);
                }
                Some(ReceiveOutput::Abort(why)) => relay.take_cancel(why.code, why.offset, why.text, now, random),
                Some(ReceiveOutput::Reclaim(reclaim)) => {
                    relay.take_reclaim(reclaim.limit, consumer.entitled, now, random);
                    if relay.has_fault(Sabotage::FreeBeforeLimit) {
                        relay.has_sabotaged = true;
                        self.policy.limited(stream as u64, reclaim.limit);
                    }
                }
                None => unreachable!("it said that there is output"),
            }
        }
    }

    pub(crate) fn buffered_bytes(&self) -> u64 {
        self.consumers.values().map(|consumer| consumer.half.buffered_bytes()).sum()
    }
}

/// What a message takes in the stream.
pub(crate) fn encoded_bytes(message: &Bytes) -> u64 {
    (framing::length_bytes(message.len()) + message.len()) as u64
}
