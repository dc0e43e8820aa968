//! Many relays that share one pool.

use trunkline_session::SharedBudgetConfig;

use super::*;

/// Four turns, with the length of a message in each.
const BUDGET: u64 = 4 * ((16 << 10) + 4);

/// Streams that share a pool, each accepted with this limit, which its producer has been told.
struct Shared {
    relays: Rc<Relays>,
    up: Rc<Outlet>,
    down: Rc<Outlet>,
    pool: Rc<Pool>,
    open: Open,
}

impl Shared {
    fn new() -> Self {
        Self {
            relays: relays(),
            up: Outlet::new(Kind::Trunk),
            down: Outlet::new(Kind::Trunk),
            pool: Pool::shared(BUDGET, u64::MAX),
            open: Rig::new(None).relay.open.clone(),
        }
    }

    fn stream(&self, id: u64, allowed: u64) -> Rc<Relay> {
        let relay =
            self.relays.add(self.open.clone(), None, End { outlet: Rc::clone(&self.up), stream: Some(id) }, None);
        relay.connect_down(&self.down, &self.pool, Some(id), BIND);
        relay.accept(&Accept { stream: id, incarnation: Incarnation::from_bytes(&[2; 16]).unwrap(), limit: allowed });
        relay
    }

    /// Lets the writers write, and a producer of each stream that is asked for credit give all back that it may.
    fn settle(&self) {
        while let Some(next) = self.up.next_control() {
            let Next::News(relay, _) = next else { continue };
            if let Some(Reclaim { stream, epoch, limit }) = relay.take_up().reclaim {
                let taken = relay.state.borrow().taken;
                relay.limit(&Limit { stream, epoch, limit: limit.max(taken) });
            }
        }
        while let Some(Next::News(relay, _)) = self.down.next_control() {
            relay.take_down();
        }
    }

    /// Sends all that the producer may be sent, up to `total`, passing it on; as long as there is more.
    fn pour(&self, relay: &Rc<Relay>, total: u64) {
        loop {
            relay.want(&Want { stream: 0, epoch: 0, wanted: total });
            self.settle();
            let (told, taken) = {
                let state = relay.state.borrow();
                (state.told_limit.min(total), state.taken)
            };
            if told <= taken {
                return;
            }
            relay.data(taken, Bytes::from(vec![7; usize::try_from(told - taken).unwrap()]), false);
            while relay.take_data(usize::MAX).is_some() {
                relay.passed();
            }
        }
    }

    /// What the producers of all these may send or have sent that was not passed on.
    fn outstanding(&self) -> u64 {
        let of = |relay: &Rc<Relay>| {
            let state = relay.state.borrow();
            state.told_limit.max(state.taken) - state.passed
        };
        self.relays.all().iter().map(of).sum()
    }

    fn told(relay: &Relay) -> u64 {
        relay.state.borrow().told_limit
    }
}

#[test]
fn streams_that_stall_below_hold_nothing_that_another_wants() {
    let shared = Shared::new();
    let stalled: Vec<_> = (1..=1000).map(|id| shared.stream(id, 0)).collect();
    for relay in &stalled {
        relay.want(&Want { stream: 0, epoch: 0, wanted: 1 << 20 });
    }
    shared.settle();
    assert_eq!(shared.outstanding(), 0, "what may not go on below is not let in");
    let flowing = shared.stream(5000, u64::MAX);
    shared.pour(&flowing, 10 << 20);
    assert_eq!(flowing.snapshot().passed, 10 << 20);
}

#[test]
fn streams_that_have_grown_and_idle_give_back_what_another_wants() {
    let shared = Shared::new();
    let idle: Vec<_> = (1..=100)
        .map(|id| {
            let relay = shared.stream(id, u64::MAX);
            shared.pour(&relay, 1 << 20);
            assert_eq!(relay.snapshot().passed, 1 << 20, "stream {id}");
            relay
        })
        .collect();
    let held = shared.outstanding();
    assert!(held <= BUDGET + 4 * 100, "{held} bytes may be sent at once");
    // Streams of which nothing is passed on: what they may be sent is all that they can have.
    let hungry: Vec<_> = (5001..=5003).map(|id| shared.stream(id, u64::MAX)).collect();
    shared.settle();
    for relay in &hungry {
        relay.want(&Want { stream: 0, epoch: 0, wanted: 1 << 20 });
    }
    // What one writer does may give the other something to write.
    for _ in 0..idle.len() {
        shared.settle();
    }
    let told: Vec<_> = hungry.iter().map(|relay| Shared::told(relay)).collect();
    assert!(told.iter().all(|&told| told >= 16 << 10), "{told:?} of {BUDGET}");
    assert!(shared.outstanding() <= BUDGET + 4 * 103);
    // And the idle ones may all go on.
    for relay in &idle {
        shared.pour(relay, 2 << 20);
        assert_eq!(relay.snapshot().passed, 2 << 20);
    }
}

#[test]
fn what_a_stream_held_is_free_when_it_ends() {
    let shared = Shared::new();
    for round in 1..=100 {
        let relays: Vec<_> = (1..=8).map(|id| shared.stream(round * 100 + id, u64::MAX)).collect();
        for relay in &relays {
            shared.settle();
            relay.want(&Want { stream: 0, epoch: 0, wanted: 1 << 20 });
            shared.settle();
            let bytes = usize::try_from(Shared::told(relay)).unwrap();
            relay.data(0, Bytes::from(vec![7; bytes]), false);
        }
        assert!(shared.outstanding() > BUDGET / 2, "the pool is in use");
        for relay in relays {
            relay.abort(Side::Down, Code::ConsumerGone, 0, "gone");
        }
        assert_eq!(shared.outstanding(), 0);
    }
    let last = shared.stream(1, u64::MAX);
    shared.pour(&last, 1 << 20);
    assert_eq!(last.snapshot().passed, 1 << 20);
}

#[test]
fn what_is_promised_to_streams_that_do_not_use_it_is_asked_back_though_nobody_says_anything_more() {
    let shared = Shared::new();
    // They want, are given it, and fall silent with it.
    let silent: Vec<_> = (1..=100).map(|id| shared.stream(id, u64::MAX)).collect();
    let hungry = shared.stream(5000, u64::MAX);
    for relay in silent.iter().chain([&hungry]) {
        relay.want(&Want { stream: 0, epoch: 0, wanted: 1 << 20 });
        shared.settle();
    }
    let told = Shared::told(&hungry);
    assert!(told < 16 << 10, "the silent ones hold the pool, and it has {told}");
    for _ in 0..100 {
        shared.relays.ticks().pass_time();
        shared.settle();
    }
    let told = Shared::told(&hungry);
    assert!(told >= 16 << 10, "it was told {told}");
    shared.pour(&hungry, 10 << 20);
    assert_eq!(hungry.snapshot().passed, 10 << 20);
}

#[test]
fn a_message_that_a_consumer_lets_in_in_one_turn_is_let_in_here_in_one() {
    let shared = Shared::new();
    // The consumer's least turn, and the length of the message.
    let message = SharedBudgetConfig::default().turn_bytes + 4;
    for id in 1..=4 {
        let relay = shared.stream(id, u64::MAX);
        relay.want(&Want { stream: 0, epoch: 0, wanted: message });
        shared.settle();
        assert_eq!(Shared::told(&relay), message, "stream {id} of those that the budget has turns for");
    }
}
