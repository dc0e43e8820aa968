//! What must hold at every step, and at the end, seen by somebody who sees both ends.

use trunkline_proto::{
    code::Code,
    framing::{self, END_MARK_BYTES, LENGTH_BYTES_MAX},
};

use crate::{
    plan::{Ending, StreamPlan},
    process::Piece,
    producer::{Outcome, encoded_bytes},
    world::World,
};

/// Rounds without any event after which a calm run is stuck: far more than any path delays, and than anybody waits.
pub(crate) const SILENT_ROUNDS_MAX: u64 = 400;
/// Rounds after the last fault within which every stream that lives has a path again: RESUME may wait on its way, twice, and
/// be refused.
const RESUMED_WITHIN_ROUNDS: u64 = 250;

/// What the oracle found, and on which stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A message was read that was not the next one written.
    NotWhatWasWritten { stream: usize, index: usize },
    /// The consumer read a clean end that the producer did not mean, or not there.
    FalseEnd { stream: usize },
    /// The producer was told that all was consumed, and it was not.
    FalseFinish { stream: usize },
    /// An end was told of an abort that nobody caused: the session refused something.
    Refused { stream: usize, code: Code, text: String },
    /// An end claims more consumed than was.
    FalseOffset { stream: usize, claimed: u64, consumed: u64 },
    /// The two ends tell of different outcomes.
    Disagreement { stream: usize },
    /// An outcome changed.
    SecondOutcome { stream: usize },
    /// More is held than may be.
    Memory { held: u64, allowed: u64 },
    /// Senders may send more than the policy counts, and so more than may be held.
    Overcommitted { entitled: u64, allowed: u64 },
    /// Credit is held for streams that are gone.
    Leak { process: usize, bytes: u64 },
    /// A stream that lives has no path, long after the last fault.
    Suspended { stream: usize },
    /// Nothing happens any more, or not enough.
    Stuck { unfinished: Vec<usize> },
    /// All have ended, and somebody still remembers an end for somebody else.
    Unsettled { unfinished: Vec<usize> },
}

/// Whom an outcome was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Producer,
    Consumer,
}

impl World {
    pub(crate) fn check_pieces(&mut self, stream: usize, pieces: &[Piece]) -> Result<(), Failure> {
        for piece in pieces {
            let (index, _) = self.seen[stream];
            let found = match piece {
                Piece::Message(rest) => self.advance(stream, rest, index + 1),
                Piece::Bytes(bytes, read) => self.advance(stream, bytes, *read),
            };
            found.ok_or(Failure::NotWhatWasWritten { stream, index })?;
        }
        Ok(())
    }

    /// Goes on in the messages of `stream` by `bytes`, up to and including the message before `until`; `None` where other
    /// bytes were written, or other messages.
    fn advance(&mut self, stream: usize, mut bytes: &[u8], until: usize) -> Option<()> {
        let messages = self.plan.streams[stream].messages.get(..self.producers[stream].written)?;
        let (index, part) = &mut self.seen[stream];
        while *index < until {
            bytes = bytes.strip_prefix(messages.get(*index)?.get(*part..)?)?;
            (*index, *part) = (*index + 1, 0);
        }
        if !bytes.is_empty() {
            // A message that was read to its end would have been counted.
            let rest = messages.get(*index)?.get(*part..)?.strip_prefix(bytes)?;
            *part += bytes.len();
            (!rest.is_empty()).then_some(())?;
        }
        (*index == until).then_some(())
    }

    /// How many bytes of `stream` were consumed: at least, and at most, for the length of a message that is begun as bytes
    /// may count though none of these has come.
    fn consumed(&self, stream: usize) -> (u64, u64) {
        let plan = &self.plan.streams[stream];
        let (index, part) = self.seen[stream];
        let whole: u64 = plan.messages.iter().take(index).map(encoded_bytes).sum();
        let head = plan.messages.get(index).map_or(0, |message| framing::length_bytes(message.len())) as u64;
        match part {
            0 if plan.reader.bytes_percent == 0 => (whole, whole),
            0 => (whole, whole + head),
            part => (whole + head + part as u64, whole + head + part as u64),
        }
    }

    pub(crate) fn check_outcomes(&mut self, stream: usize) -> Result<(), Failure> {
        let plan = &self.plan.streams[stream];
        let producer = &self.producers[stream];
        let consumer = self.processes[plan.process].consumers.get(&stream);
        let (least, most) = self.consumed(stream);
        let outcome = consumer.and_then(|consumer| consumer.outcome.clone());
        if let Some(consumer) = consumer {
            match &outcome {
                Some(Outcome::Clean) if producer.finished_at.is_none() || consumer.read != producer.written => {
                    return Err(Failure::FalseEnd { stream });
                }
                Some(Outcome::Aborted(why)) if !(least..=most).contains(&why.offset) => {
                    return Err(Failure::FalseOffset { stream, claimed: why.offset, consumed: least });
                }
                _ => {}
            }
        }
        let found = producer.outcome();
        if self.producer_outcomes[stream].is_some() && self.producer_outcomes[stream] != found {
            return Err(Failure::SecondOutcome { stream });
        }
        if found == Some(Outcome::Clean) && outcome != Some(Outcome::Clean) {
            return Err(Failure::FalseFinish { stream });
        }
        if let Some(Outcome::Aborted(why)) = found.as_ref().filter(|_| most < producer.half.consumed()) {
            return Err(Failure::FalseOffset { stream, claimed: why.offset, consumed: most });
        }
        for (side, outcome) in [(Side::Consumer, &outcome), (Side::Producer, &found)] {
            let Some(Outcome::Aborted(why)) = outcome else { continue };
            if !is_expected(plan, side, why.code) {
                return Err(Failure::Refused { stream, code: why.code, text: why.text.clone() });
            }
            if why.offset > most {
                return Err(Failure::FalseOffset { stream, claimed: why.offset, consumed: most });
            }
        }
        self.producer_outcomes[stream] = found;
        Ok(())
    }

    pub(crate) fn check_memory(&self) -> Result<(), Failure> {
        for process in &self.processes {
            let streams = process.consumers.len();
            let held = process.buffered_bytes();
            let marks = (streams * END_MARK_BYTES) as u64;
            let heads = (streams * LENGTH_BYTES_MAX) as u64;
            let allowed = process.config.budget_bytes + process.config.large_bytes + heads + marks;
            let (entitled, counted) = process.entitled_bytes();
            if entitled > counted {
                return Err(Failure::Overcommitted { entitled, allowed: counted });
            }
            for allowed in [allowed, process.policy.outstanding_bytes() + marks] {
                if held > allowed {
                    return Err(Failure::Memory { held, allowed });
                }
            }
        }
        for (stream, producer) in self.producers.iter().enumerate() {
            let longest = self.plan.streams[stream].messages.iter().map(encoded_bytes).max().unwrap_or(0);
            let allowed = self.paths[stream].limit_told_max() + longest + END_MARK_BYTES as u64;
            let written = producer.half.written();
            if written > allowed {
                return Err(Failure::Memory { held: written, allowed });
            }
        }
        Ok(())
    }

    /// Where nobody is impatient, every stream that is not over for its producer has a path, some time after the last fault.
    pub(crate) fn check_suspended(&self) -> Result<(), Failure> {
        for (stream, plan) in self.plan.streams.iter().enumerate() {
            let calm_from = self.paths[stream].last_fault.max(plan.calm_from);
            if plan.paths.patience.is_some() || self.now < calm_from + RESUMED_WITHIN_ROUNDS {
                continue;
            }
            let producer = &self.producers[stream].half;
            let consumer = self.processes[plan.process].consumers.get(&stream).map(|consumer| &consumer.half);
            let is_consumer_suspended = consumer.is_some_and(|half| half.is_suspended() && !half.is_over());
            if !producer.is_settled() && (producer.is_suspended() || is_consumer_suspended) {
                return Err(Failure::Suspended { stream });
            }
        }
        Ok(())
    }

    /// Whether both ends have their outcomes.
    fn has_ended(&self, stream: usize) -> bool {
        let process = &self.processes[self.plan.streams[stream].process];
        let is_consumer_done = match process.consumers.get(&stream) {
            Some(consumer) => consumer.outcome.is_some(),
            None => true,
        };
        let is_opening = self.paths[stream].is_opening() || process.is_offered(stream);
        self.producer_outcomes[stream].is_some() && is_consumer_done && !is_opening
    }

    /// Whether, beyond that, neither end remembers its end for the other any more.
    pub(crate) fn is_done(&self, stream: usize) -> bool {
        let process = &self.processes[self.plan.streams[stream].process];
        self.has_ended(stream)
            && self.producers[stream].half.is_settled()
            && process.consumers.get(&stream).is_none_or(|consumer| consumer.half.is_settled())
    }

    pub(crate) fn stuck(&self, unfinished: Vec<usize>) -> Failure {
        if unfinished.iter().all(|&stream| self.has_ended(stream)) {
            Failure::Unsettled { unfinished }
        } else {
            Failure::Stuck { unfinished }
        }
    }

    /// Everyone is done: do the two ends of each stream agree, and is everything given back?
    pub(crate) fn check_end(&self) -> Result<(), Failure> {
        for (stream, plan) in self.plan.streams.iter().enumerate() {
            let consumer = self.processes[plan.process].consumers.get(&stream);
            let consumer_is_clean = consumer.is_some_and(|consumer| consumer.outcome == Some(Outcome::Clean));
            // The end may be consumed while the news of it is lost, or no longer awaited; never the other way round.
            let agrees = match &self.producer_outcomes[stream] {
                Some(Outcome::Clean) => consumer_is_clean,
                Some(Outcome::Aborted(why)) if consumer_is_clean => {
                    let has_given_up = matches!(plan.ending, Ending::FinishThenAbort(_));
                    why.code == Code::OutcomeUnknown || (why.code == Code::Cancelled && has_given_up)
                }
                Some(Outcome::Aborted(_)) => true,
                None => false,
            };
            if !agrees {
                return Err(Failure::Disagreement { stream });
            }
        }
        for (index, process) in self.processes.iter().enumerate() {
            if process.policy.outstanding_bytes() > 0 {
                return Err(Failure::Leak { process: index, bytes: process.policy.outstanding_bytes() });
            }
        }
        Ok(())
    }
}

/// Whether the plan of a stream has someone who ends it with this code.
fn is_expected(plan: &StreamPlan, side: Side, code: Code) -> bool {
    match code {
        Code::Cancelled => plan.ending != Ending::Finish || plan.reader.cancels_after.is_some(),
        Code::TrunkLost | Code::NodeLost => plan.paths.patience.is_some(),
        Code::OutcomeUnknown => plan.paths.patience.is_some() && side == Side::Producer,
        Code::NotBound => plan.reader.refuses && side == Side::Producer,
        _ => false,
    }
}
