//! One run: everyone takes turns, and an oracle that sees both ends judges every step.

use trunkline_proto::{
    code::Code,
    framing::{self, END_MARK_BYTES, LENGTH_BYTES_MAX},
};

use crate::{
    ends::{Outcome, Piece, Process, Producer, encoded_bytes},
    plan::{Ending, Plan, StreamPlan},
    random::Random,
    relay::{Relay, Sabotage},
};

/// Rounds without any event after which a calm run is stuck: far more than any path delays.
const SILENT_ROUNDS_MAX: u64 = 200;

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
    /// Nothing happens any more, or not enough.
    Stuck { unfinished: Vec<usize> },
}

/// What a run was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) result: Result<(), Failure>,
    pub(crate) trace: u64,
    pub(crate) has_sabotaged: bool,
    pub(crate) messages: usize,
    pub(crate) clean: usize,
    pub(crate) aborted: usize,
    pub(crate) rounds: u64,
    pub(crate) reclaims: u64,
    pub(crate) reclaimed_bytes: u64,
}

struct World {
    plan: Plan,
    random: Random,
    producers: Vec<Producer>,
    producer_outcomes: Vec<Option<Outcome>>,
    /// What was read of each stream: whole messages, and bytes of the next.
    seen: Vec<(usize, usize)>,
    relays: Vec<Relay>,
    processes: Vec<Process>,
    now: u64,
    trace: u64,
    /// Counts everything that happened.
    events: u64,
}

/// Runs what `seed` stands for, through relays with this fault.
pub(crate) fn run(seed: u64, sabotage: Option<Sabotage>) -> Report {
    let mut random = Random::new(seed);
    let plan = Plan::draw(&mut random, sabotage);
    let relay = |stream: &StreamPlan| Relay::new(stream.allowance, stream.delay_rounds_max, sabotage);
    let mut world = World {
        producers: plan.streams.iter().map(|_| Producer::new()).collect(),
        producer_outcomes: plan.streams.iter().map(|_| None).collect(),
        seen: vec![(0, 0); plan.streams.len()],
        relays: plan.streams.iter().map(relay).collect(),
        processes: plan.budgets.iter().map(|&config| Process::new(config)).collect(),
        plan,
        random,
        now: 0,
        trace: 0xcbf2_9ce4_8422_2325,
        events: 0,
    };
    let result = world.run();
    let is_clean = |outcome: &&Option<Outcome>| **outcome == Some(Outcome::Clean);
    let clean = world.producer_outcomes.iter().filter(is_clean).count();
    let consumers = world.processes.iter().flat_map(|process| process.consumers.values());
    Report {
        result,
        trace: world.trace,
        has_sabotaged: world.relays.iter().any(|relay| relay.has_sabotaged),
        messages: consumers.map(|consumer| consumer.read).sum(),
        clean,
        aborted: world.producer_outcomes.len() - clean,
        rounds: world.now,
        reclaims: world.processes.iter().map(|process| process.reclaims).sum(),
        reclaimed_bytes: world.processes.iter().map(|process| process.reclaimed_bytes).sum(),
    }
}

impl World {
    fn run(&mut self) -> Result<(), Failure> {
        let rounds_max = self.plan.rounds_max();
        let (mut events_seen, mut silent_since) = (0, 0);
        loop {
            let first = self.random.index(self.producers.len());
            for turn in 0..self.producers.len() {
                let stream = (first + turn) % self.producers.len();
                self.turn(stream)?;
            }
            self.check_memory()?;
            let unfinished: Vec<_> = (0..self.producers.len()).filter(|&stream| !self.is_done(stream)).collect();
            if unfinished.is_empty() {
                return self.check_end();
            }
            if self.events > events_seen {
                (events_seen, silent_since) = (self.events, self.now);
            }
            let is_silent = self.now > silent_since.max(self.plan.calm_from) + SILENT_ROUNDS_MAX;
            if is_silent || self.now > rounds_max {
                return Err(Failure::Stuck { unfinished });
            }
            self.now += 1;
        }
    }

    fn turn(&mut self, stream: usize) -> Result<(), Failure> {
        let Self { plan, random, producers, relays, processes, now, .. } = self;
        let (now, is_calm) = (*now, *now >= plan.calm_from);
        let plan = &plan.streams[stream];
        let (producer, relay) = (&mut producers[stream], &mut relays[stream]);
        let process = &mut processes[plan.process];
        if plan.breaks_at == Some(now) {
            relay.sever(now, random);
        }
        if is_calm || random.percent(70) {
            producer.act(plan, now, random);
        }
        if is_calm || random.percent(70) {
            producer.drive(plan, relay, now, random);
        }
        process.answer(stream, plan, relay, now, random);
        let mut events = 0;
        for _ in 0..random.between(1, 30) {
            let Some(news) = relay.poll_forward(now, random) else { break };
            process.take(stream, news);
            process.settle(stream);
            events += 1;
        }
        let pieces = process.act(stream, plan, now, is_calm, random);
        process.settle(stream);
        process.drive(stream, relay, now, random);
        for _ in 0..random.between(1, 3) {
            let Some(news) = relay.poll_reverse(now, random) else { break };
            producer.take(news);
            events += 1;
        }
        self.events += events + pieces.len() as u64;
        self.note(&[now, stream as u64, events, pieces.len() as u64]);
        self.check_pieces(stream, &pieces)?;
        self.check_outcomes(stream)
    }

    /// FNV-1a over everything that the applications could see, and when.
    fn note(&mut self, words: &[u64]) {
        for byte in words.iter().flat_map(|word| word.to_le_bytes()) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn check_pieces(&mut self, stream: usize, pieces: &[Piece]) -> Result<(), Failure> {
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

    fn check_outcomes(&mut self, stream: usize) -> Result<(), Failure> {
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
        for why in [&outcome, &found].into_iter().flatten() {
            let Outcome::Aborted(why) = why else { continue };
            if !is_expected(plan, why.code) {
                return Err(Failure::Refused { stream, code: why.code, text: why.text.clone() });
            }
            if why.offset > most {
                return Err(Failure::FalseOffset { stream, claimed: why.offset, consumed: most });
            }
        }
        self.producer_outcomes[stream] = found;
        Ok(())
    }

    fn check_memory(&self) -> Result<(), Failure> {
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
            let allowed = self.relays[stream].limit_told_max() + longest + END_MARK_BYTES as u64;
            let written = producer.half.written();
            if written > allowed {
                return Err(Failure::Memory { held: written, allowed });
            }
        }
        Ok(())
    }

    fn is_done(&self, stream: usize) -> bool {
        let process = &self.processes[self.plan.streams[stream].process];
        let is_consumer_done = match process.consumers.get(&stream) {
            Some(consumer) => consumer.outcome.is_some(),
            None => !self.relays[stream].is_opening() && !process.parked.contains_key(&stream),
        };
        self.producer_outcomes[stream].is_some() && is_consumer_done
    }

    /// Everyone is done: do the two ends of each stream agree, and is everything given back?
    fn check_end(&self) -> Result<(), Failure> {
        for (stream, plan) in self.plan.streams.iter().enumerate() {
            let consumer = self.processes[plan.process].consumers.get(&stream);
            let consumer_is_clean = consumer.is_some_and(|consumer| consumer.outcome == Some(Outcome::Clean));
            let producer_is_clean = self.producer_outcomes[stream] == Some(Outcome::Clean);
            // The end may be consumed while the news of it is lost, or no longer awaited; never the other way round.
            let may_differ = plan.breaks_at.is_some() || matches!(plan.ending, Ending::FinishThenAbort(_));
            if consumer_is_clean != producer_is_clean && !(consumer_is_clean && may_differ) {
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
fn is_expected(plan: &StreamPlan, code: Code) -> bool {
    match code {
        Code::Cancelled => plan.ending != Ending::Finish || plan.reader.cancels_after.is_some(),
        Code::TrunkLost => plan.breaks_at.is_some(),
        Code::NotBound => plan.reader.refuses,
        _ => false,
    }
}
