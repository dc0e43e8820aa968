//! The whole broker, against a model: streams of many nodes that send, idle, stop, or never answer; news that is late.

use std::collections::VecDeque;

use proptest::prelude::*;

use crate::{CreditPolicy, Grant, Reclaim, SharedBudget, SharedBudgetConfig};

/// In so many rounds each stream that wants, is read and answers must have come on. In a node, where nothing is let in
/// beside the budget, it is so many for each that may have to be found out to have stopped.
const ROUNDS_TO_ADVANCE: usize = 8;

/// Whose budget it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// A process's, whose application consumes messages.
    Process,
    /// A node's, which passes bytes on.
    Relays,
}

impl Of {
    fn policy(self, config: SharedBudgetConfig) -> SharedBudget {
        match self {
            Self::Process => SharedBudget::new(config),
            Self::Relays => SharedBudget::for_relays(config),
        }
    }

    /// A node grants no more than can be passed on, and whoever is beside it answers at once. What sends may still stop.
    fn habits(self, habits: Habits) -> Habits {
        match self {
            Self::Process => habits,
            Self::Relays => Habits { reads: true, answers: true, group: None, ..habits },
        }
    }

    /// What every stream may hold beside the budget: the length of a message, or a sign of life.
    fn head(self) -> u64 {
        match self {
            Self::Process => 4,
            Self::Relays => 1,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Habits {
    sends: bool,
    reads: bool,
    answers: bool,
    /// Bytes that it has to send in a round, unless it wants as much as it can get.
    bytes: Option<u64>,
    /// Rounds until an answer comes.
    delay: usize,
    group: Option<usize>,
}

#[derive(Debug)]
struct Stream {
    habits: Habits,
    written: u64,
    sent: u64,
    consumed: u64,
    /// Up to where its side may send: granted, and not given back.
    entitled: u64,
    asked: VecDeque<(usize, u64)>,
}

struct Broker {
    of: Of,
    policy: SharedBudget,
    budget_bytes: u64,
    caps: Vec<u64>,
    streams: Vec<Stream>,
}

impl Broker {
    fn new(of: Of, config: SharedBudgetConfig, caps: &[u64], habits: &[Habits]) -> Self {
        let mut policy = of.policy(config);
        let handles: Vec<_> = caps.iter().map(|&cap| policy.add_cap(cap)).collect();
        let open = |(stream, &habits): (usize, &Habits)| {
            let habits = of.habits(habits);
            let cap = habits.group.map(|group| handles[group]);
            let entitled = policy.open(stream as u64, cap);
            Stream { habits, written: 0, sent: 0, consumed: 0, entitled, asked: VecDeque::new() }
        };
        let streams = habits.iter().enumerate().map(open).collect();
        Self { of, policy, budget_bytes: config.budget_bytes, caps: caps.to_vec(), streams }
    }

    fn round(&mut self, round: usize) {
        for index in 0..self.streams.len() {
            let stream = &mut self.streams[index];
            let habits = stream.habits;
            stream.written += habits.bytes.unwrap_or(1 << 20);
            if habits.sends {
                stream.sent = stream.sent.max(stream.written.min(stream.entitled));
            }
            // Whether its sender has stopped or not, what it wants was said before.
            let wanted = (stream.written > stream.entitled).then_some(stream.written);
            let consumed = (habits.reads && stream.sent > stream.consumed).then_some(stream.sent);
            stream.consumed = consumed.unwrap_or(stream.consumed);
            if let Some(wanted) = wanted {
                self.policy.wanted(index as u64, wanted);
            }
            if let Some(consumed) = consumed {
                self.policy.consumed(index as u64, consumed);
            }
            let stream = &mut self.streams[index];
            if let Some(&(due, asked)) = stream.asked.front()
                && habits.answers
                && due <= round
            {
                stream.asked.pop_front();
                stream.entitled = stream.entitled.min(asked.max(stream.sent));
                self.policy.limited(index as u64, stream.entitled);
            }
            self.settle(round);
        }
        if self.of == Of::Relays && self.policy.is_waited_for() {
            self.policy.pass_time();
            self.settle(round);
        }
        self.check();
    }

    fn settle(&mut self, round: usize) {
        while let Some(Grant { stream, limit }) = self.policy.poll_grant() {
            let stream = &mut self.streams[usize::try_from(stream).unwrap()];
            assert!(stream.asked.is_empty(), "nothing is granted during a reclaim");
            assert!(limit > stream.entitled);
            stream.entitled = limit;
        }
        while let Some(Reclaim { stream, limit }) = self.policy.poll_reclaim() {
            let stream = &mut self.streams[usize::try_from(stream).unwrap()];
            assert!(stream.asked.is_empty(), "one reclaim at a time");
            assert!(limit < stream.entitled && limit >= stream.consumed);
            stream.asked.push_back((round + stream.habits.delay, limit));
        }
        assert!(self.policy.poll_grant().is_none());
    }

    fn held(&self, group: Option<usize>) -> u64 {
        let in_group = |stream: &&Stream| group.is_none() || stream.habits.group == group;
        let held = |stream: &Stream| (stream.entitled - stream.consumed).saturating_sub(self.of.head());
        self.streams.iter().filter(in_group).map(held).sum()
    }

    fn check(&self) {
        assert_eq!(self.policy.kept_for_nothing(), None, "it waits beside bytes that are free: {:?}", self.policy);
        assert!(self.held(None) <= self.budget_bytes, "{} of {} are held", self.held(None), self.budget_bytes);
        for (group, &cap) in self.caps.iter().enumerate() {
            assert!(self.held(Some(group)) <= cap, "{} of a cap of {cap} are held", self.held(Some(group)));
        }
    }
}

fn habits() -> impl Strategy<Value = Habits> {
    let bytes = prop_oneof![2 => Just(None), 2 => (0..200_u64).prop_map(Some), 1 => Just(Some(0))];
    let delay = 0..3_usize;
    let group = prop_oneof![2 => Just(None), 1 => Just(Some(0)), 1 => Just(Some(1))];
    (prop::bool::weighted(0.7), prop::bool::weighted(0.8), prop::bool::weighted(0.9), bytes, delay, group)
        .prop_map(|(sends, reads, answers, bytes, delay, group)| Habits { sends, reads, answers, bytes, delay, group })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sums_hold_and_no_stream_starves_whatever_the_others_do(
        of in prop_oneof![Just(Of::Process), Just(Of::Relays)],
        budget_bytes in prop_oneof![Just(0_u64), Just(1), 2..100_u64, 100..5000_u64],
        (idle_bytes, turn_bytes, stream_bytes_max) in (0..50_u64, 1..200_u64, 1..1000_u64),
        caps in prop::collection::vec(0..1000_u64, 2),
        habits in prop::collection::vec(habits(), 1..60),
        changes in prop::collection::vec((0..60_usize, habits()), 0..20),
    ) {
        let config = SharedBudgetConfig { budget_bytes, idle_bytes, turn_bytes, stream_bytes_max, large_bytes: 0 };
        // Without a budget a node passes nothing on; it always has one.
        let budget_bytes = if of == Of::Relays { budget_bytes.max(1) } else { budget_bytes };
        let config = SharedBudgetConfig { budget_bytes, ..config };
        let mut broker = Broker::new(of, config, &caps, &habits);
        let mut round = 0;
        for (index, changed) in changes {
            for _ in 0..5 {
                broker.round(round);
                round += 1;
            }
            // Another mood: what it did not send, it may send now, and the other way round.
            let count = broker.streams.len();
            let stream = &mut broker.streams[index % count];
            stream.habits = of.habits(Habits { group: stream.habits.group, ..changed });
        }
        let (times, rounds) = match of {
            Of::Process => (10, ROUNDS_TO_ADVANCE),
            Of::Relays => (2, ROUNDS_TO_ADVANCE * broker.streams.len()),
        };
        for _ in 0..times {
            let before: Vec<u64> = broker.streams.iter().map(|stream| stream.consumed).collect();
            for _ in 0..rounds {
                broker.round(round);
                round += 1;
            }
            for (stream, before) in broker.streams.iter().zip(before) {
                let Habits { sends, reads, answers, .. } = stream.habits;
                if sends && reads && answers && stream.consumed < stream.written {
                    prop_assert!(stream.consumed > before, "{stream:?} starves");
                }
            }
        }
        for stream in 0..broker.streams.len() {
            broker.policy.close(stream as u64);
        }
        prop_assert_eq!(broker.policy.outstanding_bytes(), 0);
    }
}

#[test]
fn a_hundred_thousand_streams_share_one_byte() {
    let habits = |stream: usize| Habits {
        sends: stream.is_multiple_of(2),
        reads: true,
        answers: !stream.is_multiple_of(3),
        bytes: None,
        delay: 0,
        group: None,
    };
    let habits: Vec<_> = (0..100_000).map(habits).collect();
    let config =
        SharedBudgetConfig { budget_bytes: 1, idle_bytes: 40, turn_bytes: 160, stream_bytes_max: 640, large_bytes: 0 };
    let mut broker = Broker::new(Of::Process, config, &[], &habits);
    for round in 0..6 {
        broker.round(round);
    }
    for stream in broker.streams.iter().filter(|stream| stream.habits.sends && stream.habits.answers) {
        assert!(stream.consumed >= 3 * Of::Process.head(), "{stream:?}");
    }
}
