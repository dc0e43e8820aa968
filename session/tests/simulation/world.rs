//! One run: everyone takes turns, and an oracle that sees both ends judges every step.

use trunkline_proto::code::Code;

use crate::{
    oracle::{Failure, SILENT_ROUNDS_MAX},
    paths::Paths,
    plan::{Plan, StreamPlan},
    process::Process,
    producer::{Outcome, Producer},
    random::Random,
    relay::{Sabotage, Word},
};

/// What a run was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) result: Result<(), Failure>,
    pub(crate) trace: u64,
    pub(crate) has_sabotaged: bool,
    pub(crate) rounds: u64,
    pub(crate) counts: Counts,
}

/// How much of everything happened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Messages that were read.
    pub(crate) messages: usize,
    /// Streams by how their producers saw them end.
    pub(crate) clean: usize,
    pub(crate) aborted: usize,
    pub(crate) unknown: usize,
    /// RECLAIMs, what their answers brought, and how often credit came back without an answer.
    pub(crate) reclaims: u64,
    pub(crate) reclaimed_bytes: u64,
    pub(crate) came_back: u64,
    /// Paths that were lost, and after which words.
    pub(crate) losses: usize,
    pub(crate) losses_after: [usize; Word::ALL.len()],
    /// Streams that went on on another path, RESUMEs that were refused, bytes that were sent again.
    pub(crate) resumptions: usize,
    pub(crate) refusals: usize,
    pub(crate) sent_again: u64,
    /// How often a consumer was asked for a stream again before it had heard that the path was lost, and how often something
    /// came from a path that its end had left.
    pub(crate) surprises: usize,
    pub(crate) stale: usize,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.clean += other.clean;
        self.aborted += other.aborted;
        self.unknown += other.unknown;
        self.reclaims += other.reclaims;
        self.reclaimed_bytes += other.reclaimed_bytes;
        self.came_back += other.came_back;
        self.losses += other.losses;
        for (sum, count) in self.losses_after.iter_mut().zip(other.losses_after) {
            *sum += count;
        }
        self.resumptions += other.resumptions;
        self.refusals += other.refusals;
        self.sent_again += other.sent_again;
        self.surprises += other.surprises;
        self.stale += other.stale;
    }
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    random: Random,
    pub(crate) producers: Vec<Producer>,
    pub(crate) producer_outcomes: Vec<Option<Outcome>>,
    /// What was read of each stream: whole messages, and bytes of the next.
    pub(crate) seen: Vec<(usize, usize)>,
    pub(crate) paths: Vec<Paths>,
    pub(crate) processes: Vec<Process>,
    pub(crate) now: u64,
    trace: u64,
    /// Counts everything that happened.
    events: u64,
}

/// Runs what `seed` stands for, over paths with this fault.
pub(crate) fn run(seed: u64, sabotage: Option<Sabotage>) -> Report {
    let mut random = Random::new(seed);
    let plan = Plan::draw(&mut random, sabotage);
    let mut world = World {
        producers: plan.streams.iter().map(|_| Producer::new()).collect(),
        producer_outcomes: plan.streams.iter().map(|_| None).collect(),
        seen: vec![(0, 0); plan.streams.len()],
        paths: plan.streams.iter().map(|stream: &StreamPlan| Paths::new(stream, sabotage)).collect(),
        processes: plan.budgets.iter().map(|&config| Process::new(config, sabotage)).collect(),
        plan,
        random,
        now: 0,
        trace: 0xcbf2_9ce4_8422_2325,
        events: 0,
    };
    let result = world.run();
    let has_sabotaged =
        world.paths.iter().any(Paths::has_sabotaged) || world.processes.iter().any(|process| process.has_sabotaged);
    Report { result, trace: world.trace, has_sabotaged, rounds: world.now, counts: world.counts() }
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
            self.check_suspended()?;
            let unfinished: Vec<_> = (0..self.producers.len()).filter(|&stream| !self.is_done(stream)).collect();
            if unfinished.is_empty() {
                return self.check_end();
            }
            if self.events > events_seen {
                (events_seen, silent_since) = (self.events, self.now);
            }
            let is_silent = self.now > silent_since.max(self.plan.calm_from) + SILENT_ROUNDS_MAX;
            if is_silent || self.now > rounds_max {
                return Err(self.stuck(unfinished));
            }
            self.now += 1;
        }
    }

    fn turn(&mut self, stream: usize) -> Result<(), Failure> {
        let Self { plan, random, producers, paths, processes, now, .. } = self;
        let (now, is_calm) = (*now, *now >= plan.calm_from);
        let plan = &plan.streams[stream];
        let (producer, paths) = (&mut producers[stream], &mut paths[stream]);
        let process = &mut processes[plan.process];
        let noise = paths.noise();
        let mut events = 0;
        paths.pass_time(now, random);
        producer.pass_time(plan, paths, now, random);
        process.pass_time(stream, plan, paths, now);
        if is_calm || random.percent(70) {
            producer.act(plan, now, random);
        }
        if is_calm || random.percent(70) {
            producer.drive(plan, paths, now, random);
            paths.hear(now, random);
        }
        process.answer(stream, plan, paths, now, random);
        for path in paths.open(now) {
            for _ in 0..random.between(1, 30) {
                let Some(news) = paths.relay(path).poll_forward(now, random) else { break };
                process.take(stream, path, news, paths, now, random);
                process.settle(stream);
                events += 1;
            }
        }
        let pieces = process.act(stream, plan, now, random);
        process.settle(stream);
        if random.percent(80) {
            process.drive(stream, paths, now, random);
            paths.hear(now, random);
        }
        for path in paths.open(now) {
            for _ in 0..random.between(1, 3) {
                let Some(news) = paths.relay(path).poll_reverse(now, random) else { break };
                producer.take(path, news, now, random);
                events += 1;
            }
        }
        events -= paths.noise() - noise;
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

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for outcome in &self.producer_outcomes {
            match outcome {
                Some(Outcome::Clean) => counts.clean += 1,
                Some(Outcome::Aborted(why)) if why.code == Code::OutcomeUnknown => counts.unknown += 1,
                Some(Outcome::Aborted(_)) | None => counts.aborted += 1,
            }
        }
        for process in &self.processes {
            counts.messages += process.consumers.values().map(|consumer| consumer.read).sum::<usize>();
            counts.reclaims += process.reclaims;
            counts.reclaimed_bytes += process.reclaimed_bytes;
            counts.came_back += process.came_back;
            counts.surprises += process.surprises;
            counts.stale += process.stale;
        }
        for (producer, paths) in self.producers.iter().zip(&self.paths) {
            counts.losses += paths.losses;
            for (sum, count) in counts.losses_after.iter_mut().zip(paths.losses_after) {
                *sum += count;
            }
            counts.refusals += paths.refusals;
            counts.resumptions += producer.resumptions;
            counts.sent_again += producer.sent_again;
            counts.stale += producer.stale;
        }
        counts
    }
}
