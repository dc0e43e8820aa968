//! The credit policy, against a model of streams whose bytes arrive at once.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use trunkline_proto::framing::LENGTH_BYTES_MAX;

use crate::{CreditPolicy, Grant, Reclaim, SharedBudget, SharedBudgetConfig};

/// Four bytes that every stream may hold beside the budget.
const HEAD: u64 = 4;

/// A stream seen from above: its sender has sent what it may, and its application reads when told to.
#[derive(Debug, Default)]
struct Stream {
    /// Where the length of each unread message ends, and where the message does.
    messages: VecDeque<(u64, u64)>,
    written: u64,
    limit: u64,
    consumed: u64,
    asked: u64,
    wanted_told: u64,
}

impl Stream {
    fn write(&mut self, length: u64) {
        let head = self.written + framing_bytes(length);
        self.messages.push_back((head, head + length));
        self.written = head + length;
    }

    fn received(&self) -> u64 {
        self.written.min(self.limit)
    }
}

fn framing_bytes(length: u64) -> u64 {
    trunkline_proto::framing::length_bytes(usize::try_from(length).unwrap()) as u64
}

struct Model {
    policy: SharedBudget,
    config: SharedBudgetConfig,
    streams: BTreeMap<u64, Stream>,
}

impl Model {
    fn new(config: SharedBudgetConfig) -> Self {
        Self { policy: SharedBudget::new(config), config, streams: BTreeMap::new() }
    }

    fn open(&mut self, stream: u64) -> u64 {
        let limit = self.policy.open(stream, None);
        self.streams.insert(stream, Stream { limit, ..Stream::default() });
        self.drain();
        limit
    }

    fn close(&mut self, stream: u64) {
        self.streams.remove(&stream);
        self.policy.close(stream);
        self.drain();
    }

    fn write(&mut self, stream: u64, length: u64) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.write(length);
            self.run(stream, 0);
        }
    }

    /// The sender says what it wants, the application reads up to `messages`, the receiver tells the policy.
    /// True when it read any.
    fn run(&mut self, stream: u64, messages: usize) -> bool {
        let Some(entry) = self.streams.get_mut(&stream) else { return false };
        let before = entry.consumed;
        for _ in 0..messages {
            let Some(&(_, end)) = entry.messages.front().filter(|(_, end)| *end <= entry.received()) else { break };
            entry.messages.pop_front();
            entry.consumed = end;
        }
        let (consumed, limit, received) = (entry.consumed, entry.limit, entry.received());
        let large =
            entry.messages.front().filter(|(head, end)| *head <= received && *end > limit && *end > entry.asked);
        if let Some(&(_, end)) = large {
            entry.asked = end;
            self.policy.message(stream, consumed, end);
        } else if consumed > before {
            self.policy.consumed(stream, consumed);
        }
        self.tell_wanted(stream);
        self.drain();
        consumed > before
    }

    /// A sender says once what it wants.
    fn tell_wanted(&mut self, stream: u64) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        let written = entry.written;
        if written > entry.limit && written > std::mem::replace(&mut entry.wanted_told, written) {
            self.policy.wanted(stream, written);
        }
    }

    /// Reads everything everywhere; panics when a round brings nothing new.
    fn finish(&mut self) {
        while self.streams.values().any(|entry| !entry.messages.is_empty()) {
            let before = self.sum(|entry| entry.received() + entry.consumed);
            let streams: Vec<u64> = self.streams.keys().copied().collect();
            for stream in streams {
                self.run(stream, usize::MAX);
            }
            let after = self.sum(|entry| entry.received() + entry.consumed);
            assert!(after > before, "no progress: {:?}", self.policy);
        }
    }

    fn sum(&self, of: impl Fn(&Stream) -> u64) -> u64 {
        self.streams.values().map(of).sum()
    }

    /// Takes the grants, and has every reclaim answered at once.
    fn drain(&mut self) {
        loop {
            if let Some(Grant { stream, limit }) = self.policy.poll_grant() {
                let entry = self.streams.get_mut(&stream).expect("a grant is for an open stream");
                assert!(limit > entry.limit, "a limit never falls by a grant");
                entry.limit = limit;
            } else if let Some(Reclaim { stream, limit }) = self.policy.poll_reclaim() {
                let entry = self.streams.get_mut(&stream).expect("a reclaim is for an open stream");
                assert!(limit < entry.limit, "nothing is asked back");
                entry.limit = limit.max(entry.received());
                entry.asked = if entry.asked > entry.limit { 0 } else { entry.asked };
                entry.wanted_told = entry.wanted_told.min(entry.limit);
                self.policy.limited(stream, entry.limit);
                self.tell_wanted(stream);
            } else {
                break;
            }
        }
        let heads = (LENGTH_BYTES_MAX * self.streams.len()) as u64;
        let outstanding = self.policy.outstanding_bytes();
        assert!(outstanding <= self.config.budget_bytes + self.config.large_bytes + heads);
        // What was consumed and not yet told counts for the policy only.
        assert!(self.sum(|entry| entry.limit - entry.consumed) <= outstanding);
    }
}

fn small(budget_bytes: u64, large_bytes: u64) -> SharedBudgetConfig {
    SharedBudgetConfig { budget_bytes, idle_bytes: 16, turn_bytes: 16, stream_bytes_max: 64, large_bytes }
}

#[derive(Debug, Clone)]
enum Step {
    Open(u64),
    Close(u64),
    Write(u64, u64),
    Read(u64, usize),
    Finish,
}

fn steps(streams: u64, length_max: u64) -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![3 => 0..20_u64, 2 => 0..200_u64, 1 => 0..=length_max].prop_map(move |l| l.min(length_max));
    let step = prop_oneof![
        4 => (0..streams).prop_map(Step::Open),
        2 => (0..streams).prop_map(Step::Close),
        12 => (0..streams, length).prop_map(|(stream, length)| Step::Write(stream, length)),
        12 => (0..streams, 0..4_usize).prop_map(|(stream, messages)| Step::Read(stream, messages)),
        1 => Just(Step::Finish),
    ];
    prop::collection::vec(step, 0..300)
}

fn config() -> impl Strategy<Value = SharedBudgetConfig> {
    let budget = prop_oneof![Just(0_u64), 0..10_u64, 0..300_u64, 0..10_000_u64];
    (budget, 0..40_u64, 0..40_u64, 0..500_u64, 4..3000_u64).prop_map(
        |(budget_bytes, idle_bytes, turn_bytes, stream_bytes_max, large_bytes)| SharedBudgetConfig {
            budget_bytes,
            idle_bytes,
            turn_bytes,
            stream_bytes_max,
            large_bytes,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sums_hold_limits_never_fall_and_all_that_is_written_gets_through(
        (config, steps) in config().prop_flat_map(|config| (Just(config), steps(30, config.large_bytes - 4))),
    ) {
        let mut model = Model::new(config);
        for step in steps {
            match step {
                Step::Open(stream) => if !model.streams.contains_key(&stream) {
                    model.open(stream);
                },
                Step::Close(stream) => model.close(stream),
                Step::Write(stream, length) => model.write(stream, length),
                Step::Read(stream, messages) => {
                    model.run(stream, messages);
                }
                Step::Finish => model.finish(),
            }
        }
        model.finish();
        let streams: Vec<u64> = model.streams.keys().copied().collect();
        for stream in streams {
            model.close(stream);
        }
        prop_assert_eq!(model.policy.outstanding_bytes(), 0);
    }
}

#[test]
fn a_first_window_is_given_at_once_and_doubles_while_the_application_keeps_up() {
    let mut model = Model::new(small(10_000, 1000));
    assert_eq!(model.open(1), 16 + HEAD);
    for window in [32, 64, 64] {
        let left = model.streams[&1].limit - model.streams[&1].consumed;
        model.write(1, left - 1);
        assert!(model.run(1, 1));
        assert_eq!(model.streams[&1].limit - model.streams[&1].consumed, window + HEAD);
    }
}

#[test]
fn nothing_grows_for_an_application_that_does_not_read() {
    let mut model = Model::new(small(10_000, 1000));
    model.open(1);
    for _ in 0..10 {
        model.write(1, 15);
    }
    assert_eq!(model.streams[&1].limit, 16 + HEAD);
}

#[test]
fn idle_streams_cannot_keep_a_later_one_from_its_turn() {
    let mut model = Model::new(small(1600, 1000));
    for stream in 0..2000 {
        model.open(stream);
    }
    // Half of the budget lies in windows that nobody uses.
    assert_eq!(model.policy.outstanding_bytes(), 800 + 2000 * HEAD);
    assert_eq!(model.streams[&1999].limit, HEAD);
    model.write(1999, 20);
    assert_eq!(model.streams[&1999].limit, 21, "its first message is let in by the pool");
    model.write(1999, 20);
    assert!(model.run(1999, 1));
    assert!(model.streams[&1999].limit >= 21 + 16 + HEAD, "once it is read, it has a turn of the other half");
    model.finish();
}

#[test]
fn streams_that_grew_leave_an_eighth_of_the_budget_for_the_turns_of_others() {
    let mut model = Model::new(SharedBudgetConfig { stream_bytes_max: 1 << 20, ..small(1600, 1 << 20) });
    model.open(0);
    for _ in 0..200 {
        let window = model.streams[&0].limit - model.streams[&0].consumed;
        model.write(0, window / 2);
        model.run(0, usize::MAX);
    }
    let held = model.streams[&0].limit - model.streams[&0].consumed;
    assert!((700..=1400 + HEAD).contains(&held), "{held} are held");
    for stream in 1..=12 {
        assert_eq!(model.open(stream), HEAD);
        model.write(stream, HEAD - 1);
        assert!(model.run(stream, 1), "the four bytes beside the budget let it in");
        model.write(stream, 50);
        assert_eq!(model.streams[&stream].limit - model.streams[&stream].consumed, 51);
    }
}

#[test]
fn thousands_that_want_share_a_budget_of_a_few_windows() {
    for budget in [0, 1, 16, 100, 1000] {
        let mut model = Model::new(small(budget, 1000));
        for stream in 0..3000 {
            model.open(stream);
            for length in [100, 3, 15, 0, 64] {
                model.write(stream, length);
            }
        }
        model.finish();
        for stream in 0..3000 {
            model.close(stream);
        }
        assert_eq!(model.policy.outstanding_bytes(), 0);
    }
}

#[test]
fn a_stream_that_wants_is_served_while_its_peers_go_on_for_ever() {
    let mut model = Model::new(small(100, 1000));
    for stream in 0..50 {
        model.open(stream);
        model.write(stream, 30);
    }
    let mut left: Vec<u64> = (0..50).collect();
    for _ in 0..200 {
        for stream in 0..50 {
            if model.run(stream, 1) {
                left.retain(|waiting| *waiting != stream);
                model.write(stream, 30);
            }
        }
    }
    assert_eq!(left, []);
}

#[test]
fn windows_go_round_among_those_that_want_without_help_from_the_pool() {
    let mut model = Model::new(small(100, 4));
    for stream in 0..20 {
        model.open(stream);
        // As long as the four bytes beside the budget: something of each is read.
        model.write(stream, HEAD - 1);
        assert!(model.run(stream, 1));
        model.write(stream, 14);
        model.write(stream, 14);
    }
    assert!(model.streams[&19].limit < HEAD + 15);
    model.finish();
}

#[test]
fn a_hundred_messages_as_long_as_the_pool_get_through_one_after_another() {
    let mut model = Model::new(small(1000, 5000));
    for stream in 0..100 {
        model.open(stream);
        model.write(stream, 5000 - 64);
    }
    let granted = |model: &Model| model.streams.values().filter(|entry| entry.limit >= entry.written).count();
    for read in 0..100 {
        assert_eq!(granted(&model), read + 1);
        let next = model.streams.iter().find(|(_, entry)| entry.consumed < entry.limit && entry.limit == entry.written);
        let (&stream, _) = next.expect("the pool holds one");
        assert_eq!(stream, read as u64, "first come, first served");
        assert!(model.run(stream, 1));
    }
}

#[test]
fn a_stream_that_enters_the_pool_leaves_its_window_to_those_that_wait() {
    let mut model =
        Model::new(SharedBudgetConfig { idle_bytes: 100, turn_bytes: 100, stream_bytes_max: 100, ..small(200, 1000) });
    assert_eq!((model.open(1), model.open(2)), (100 + HEAD, HEAD), "half of the budget is one window");
    // Nobody waits for its message: it waits for a turn alone.
    model.policy.wanted(2, 500);
    model.drain();
    assert_eq!(model.streams[&2].limit, HEAD);
    model.write(1, 500);
    assert_eq!((model.streams[&1].limit, model.streams[&2].limit), (502, 100 + HEAD));
}

#[test]
fn a_message_that_never_fits_the_pool_stops_no_other_stream() {
    let mut model = Model::new(small(0, 1000));
    for stream in 1..=2 {
        model.open(stream);
    }
    model.write(1, 2000);
    model.write(2, 900);
    assert!(!model.run(1, 1));
    assert!(model.run(2, 1));
}

#[test]
fn a_close_gives_back_the_window_and_the_pool_and_forgets_the_grants() {
    let mut policy = SharedBudget::new(small(100, 1000));
    assert_eq!((policy.open(1, None), policy.open(2, None)), (16 + HEAD, 16 + HEAD));
    policy.message(1, 0, 500);
    policy.message(2, 0, 900);
    assert_eq!(policy.poll_grant(), Some(Grant { stream: 1, limit: 500 }));
    assert_eq!(policy.poll_grant(), None);
    policy.close(1);
    policy.close(1);
    assert_eq!(policy.poll_grant(), Some(Grant { stream: 2, limit: 900 }));
    policy.consumed(2, 900);
    policy.close(2);
    assert_eq!(policy.poll_grant(), None);
    assert_eq!(policy.outstanding_bytes(), 0);
    for news in [1, 2, 3] {
        policy.consumed(news, 10);
        policy.wanted(news, 10);
        policy.message(news, 10, 20);
    }
    assert_eq!((policy.poll_grant(), policy.outstanding_bytes()), (None, 0));
}
