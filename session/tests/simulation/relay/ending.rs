//! How a path passes the ends of its stream on, and that they were heard.
//!
//! The other side of an end is told it once, and its END_ACK is passed back. When both sides tell their ends before either has
//! heard the other's, each is an answer to the other, and the path says END_ACK to both (docs/wire.md, "Ends").

use bytes::BytesMut;
use trunkline_proto::{code::Code, framing};

use super::{Chunk, Relay, Sabotage, Word};
use crate::random::Random;

/// What the sides have told of the stream's end, and what of it is under way.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) is_told_by_producer: bool,
    pub(super) is_told_by_consumer: bool,
    /// Towards the consumer.
    pub(super) abort_down: Option<(u64, Code, String)>,
    pub(super) ack_down: Option<u64>,
    /// Towards the producer.
    pub(super) abort_up: Option<(u64, Code, u64, String)>,
    pub(super) ack_up: Option<u64>,
}

impl Relay {
    /// The producer gives the stream up.
    pub(crate) fn take_abort(&mut self, code: Code, text: String, now: u64, random: &mut Random) {
        self.said.push(Word::ProducerAbort);
        if self.is_lost {
            return;
        }
        self.want = None;
        self.ending.is_told_by_producer = true;
        if self.ending.is_told_by_consumer {
            return self.meet(now, random);
        }
        if self.first.is_some() && random.percent(50) {
            // The consumer's side has not heard of the stream, and will not.
            self.first = None;
            self.is_dead = true;
            self.ending.ack_up = Some(self.due(now, random));
            return;
        }
        if self.wants_sabotage(Sabotage::FakeEnd) || self.wants_sabotage(Sabotage::FakeFin) {
            // What is under way still arrives, and then what looks like an end.
            let final_offset = self.delivered + self.chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum::<u64>();
            let mut mark = BytesMut::new();
            if self.has_fault(Sabotage::FakeEnd) {
                framing::put_end_mark(final_offset, &mut mark);
            }
            let due = self.chunks.back().map_or(now, |chunk| chunk.due);
            self.chunks.push_back(Chunk { due, bytes: mark.freeze(), fin: true });
            self.has_sabotaged = true;
            return;
        }
        // An abort overtakes what is under way, and a reset discards it.
        let keeps = if random.percent(50) { random.index(self.chunks.len() + 1) } else { 0 };
        self.chunks.truncate(keeps);
        self.ending.abort_down = Some((self.due(now, random), code, text));
    }

    /// The consumer, or its node, ends the stream, or refuses it.
    pub(crate) fn take_cancel(&mut self, code: Code, offset: u64, text: String, now: u64, random: &mut Random) {
        self.said.push(Word::ConsumerAbort);
        if self.is_lost {
            return;
        }
        self.ending.is_told_by_consumer = true;
        self.is_dead = true;
        self.chunks.clear();
        (self.want, self.limit) = (None, None);
        if self.ending.is_told_by_producer {
            return self.meet(now, random);
        }
        (self.answer, self.credit) = (None, None);
        self.news.clear();
        self.ending.abort_up = Some((self.due(now, random), code, offset, text));
    }

    /// The consumer has consumed the end. Whether that is to be passed on.
    pub(super) fn take_finished(&mut self, now: u64, random: &mut Random) -> bool {
        self.said.push(Word::Finished);
        if self.wants_sabotage(Sabotage::InventEndAck) {
            self.has_sabotaged = true;
            self.ending.ack_down = Some(self.due(now, random));
            return false;
        }
        self.ending.is_told_by_consumer = true;
        if self.ending.is_told_by_producer {
            self.meet(now, random);
        }
        true
    }

    /// Both sides have ended the stream. What each has told may still be under way to the other.
    fn meet(&mut self, now: u64, random: &mut Random) {
        if random.percent(50) {
            (self.ending.abort_down, self.ending.abort_up) = (None, None);
        }
        self.ending.ack_down = Some(self.due(now, random));
        self.ending.ack_up = Some(self.due(now, random));
    }

    /// The producer has heard the consumer's end.
    pub(crate) fn take_producer_ack(&mut self, now: u64, random: &mut Random) {
        self.said.push(Word::ProducerAck);
        if !self.is_lost && self.ending.is_told_by_consumer && !self.drops_ack() {
            self.ending.ack_down = Some(self.due(now, random));
        }
    }

    /// The consumer has heard the producer's end.
    pub(crate) fn take_consumer_ack(&mut self, now: u64, random: &mut Random) {
        self.said.push(Word::ConsumerAck);
        if !self.is_lost && self.ending.is_told_by_producer && !self.drops_ack() {
            self.ending.ack_up = Some(self.due(now, random));
        }
    }

    fn drops_ack(&mut self) -> bool {
        self.has_sabotaged |= self.has_fault(Sabotage::DropEndAck);
        self.has_fault(Sabotage::DropEndAck)
    }
}
