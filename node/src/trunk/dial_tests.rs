//! One machine at a time, event by event. Two of them and a network between them are in the simulation.

#[path = "dial_simulation.rs"]
mod simulation;

use std::time::{Duration, Instant};

use trunkline_proto::{id::NodeId, message::TrunkHello, version::Offer};

use super::{Action, BACKOFF_FIRST, Dialler, HOLD, Token};

const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// The peer's life in most tests.
const BOOT: u64 = 7;

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// The machine of node-a, whose dial wins.
fn smaller() -> Dialler {
    Dialler::new(&id("node-a"), &id("node-b"), true, BACKOFF_MAX)
}

/// The machine of node-b, whose dial loses.
fn larger() -> Dialler {
    Dialler::new(&id("node-b"), &id("node-a"), true, BACKOFF_MAX)
}

fn hello(boot_id: u64, dial: u64, dials_begun: u64) -> TrunkHello {
    TrunkHello { offer: Offer::ours(), software: String::new(), boot_id, dial, dials_begun }
}

/// The answer of a peer that has begun no dial.
fn answer() -> TrunkHello {
    hello(BOOT, 0, 0)
}

/// A machine whose dial 1 was answered on the connection `token`.
fn connected(token: Token, now: Instant) -> Dialler {
    let mut machine = smaller();
    machine.want(true, now);
    machine.answered(token, &answer(), now);
    machine.want(false, now);
    machine
}

#[test]
fn nobody_dials_until_a_stream_needs_it() {
    let now = Instant::now();
    let mut machine = smaller();
    assert_eq!(machine.tick(now), []);
    assert_eq!(machine.want(false, now), []);
    assert_eq!(machine.want(true, now), [Action::Dial { number: 1 }]);
    assert_eq!(machine.want(true, now), [], "one unfinished dial at a time");
    assert_eq!(machine.tick(now + Duration::from_secs(60)), []);
}

#[test]
fn a_peer_without_an_address_is_never_dialled() {
    let now = Instant::now();
    let mut machine = Dialler::new(&id("node-a"), &id("node-b"), false, BACKOFF_MAX);
    assert_eq!(machine.want(true, now), []);
    assert_eq!(machine.incoming(1, hello(BOOT, 1, 1), now), [Action::Take(1)]);
    assert_eq!(machine.lost(1, now), []);
}

#[test]
fn a_dial_is_the_trunk_once_it_is_answered_and_not_before() {
    let now = Instant::now();
    let mut machine = smaller();
    machine.want(true, now);
    assert_eq!(machine.trunk(), None);
    assert_eq!(machine.answered(1, &answer(), now), []);
    assert_eq!(machine.trunk(), Some(1));
    assert_eq!(machine.want(true, now), [], "there is a trunk");
}

#[test]
fn of_two_dials_that_crossed_both_sides_keep_the_one_from_the_smaller_id() {
    let now = Instant::now();
    let (mut a, mut b) = (smaller(), larger());
    assert_eq!(a.want(true, now), [Action::Dial { number: 1 }]);
    assert_eq!(b.want(true, now), [Action::Dial { number: 1 }]);
    assert_eq!(a.incoming(9, hello(2, 1, 1), now), [Action::TickAt(now + HOLD)], "held, unanswered");
    assert_eq!(b.incoming(1, hello(1, 1, 1), now), [Action::Abandon, Action::Take(1)]);
    assert_eq!(a.answered(1, &hello(2, 0, 1), now), [Action::Refuse(9)]);
    assert_eq!((a.trunk(), b.trunk()), (Some(1), Some(1)));
}

#[test]
fn what_crossed_and_comes_late_is_refused() {
    let now = Instant::now();
    let mut a = smaller();
    a.want(true, now);
    a.answered(1, &hello(BOOT, 0, 3), now);
    for dial in 1..=3 {
        assert_eq!(a.incoming(9, hello(BOOT, dial, dial), now), [Action::Refuse(9)]);
    }
    assert_eq!(a.incoming(9, hello(BOOT, 4, 4), now), [Action::Take(9)], "begun after the trunk was agreed");
    assert_eq!(a.trunk(), Some(9));
}

#[test]
fn a_late_older_dial_does_not_replace_a_newer_one() {
    let now = Instant::now();
    let mut b = larger();
    assert_eq!(b.incoming(2, hello(BOOT, 2, 2), now), [Action::Take(2)]);
    assert_eq!(b.incoming(1, hello(BOOT, 1, 1), now), [Action::Refuse(1)]);
    assert_eq!(b.trunk(), Some(2));
}

#[test]
fn a_peer_that_started_again_counts_from_one_again() {
    let now = Instant::now();
    let mut machine = larger();
    machine.incoming(1, hello(BOOT, 5, 5), now);
    assert_eq!(machine.incoming(2, hello(BOOT + 1, 1, 1), now), [Action::Take(2)]);
    assert_eq!(machine.trunk(), Some(2));
    assert_eq!(machine.lost(1, now), [], "the old connection is not the trunk");
    assert_eq!(machine.trunk(), Some(2));
}

#[test]
fn a_held_connection_is_taken_when_our_dial_fails() {
    let now = Instant::now();
    let mut a = smaller();
    a.want(true, now);
    a.incoming(9, hello(BOOT, 1, 1), now);
    assert_eq!(a.failed(now, 0.0), [Action::Take(9)]);
    assert_eq!(a.trunk(), Some(9));
}

#[test]
fn a_held_connection_is_taken_when_our_dial_has_had_its_time() {
    let now = Instant::now();
    let mut a = smaller();
    a.want(true, now);
    a.incoming(9, hello(BOOT, 1, 1), now);
    assert_eq!(a.tick(now + HOLD - Duration::from_millis(1)), []);
    assert_eq!(a.tick(now + HOLD), [Action::Abandon, Action::Take(9)]);
    assert_eq!(a.trunk(), Some(9));
}

#[test]
fn a_held_connection_that_its_dialler_gives_up_is_forgotten() {
    let now = Instant::now();
    let mut a = smaller();
    a.want(true, now);
    a.incoming(9, hello(BOOT, 1, 1), now);
    assert_eq!(a.lost(9, now), []);
    assert_eq!(a.tick(now + HOLD), [], "our dial goes on");
    assert_eq!(a.answered(1, &hello(BOOT, 0, 1), now), []);
    assert_eq!(a.trunk(), Some(1));
}

#[test]
fn of_two_held_connections_the_newer_counts() {
    let now = Instant::now();
    let mut a = smaller();
    a.want(true, now);
    a.incoming(8, hello(BOOT, 1, 1), now);
    assert_eq!(a.incoming(9, hello(BOOT, 2, 2), now), [Action::Refuse(8), Action::TickAt(now + HOLD)]);
    assert_eq!(a.failed(now, 0.0), [Action::Take(9)]);
}

#[test]
fn a_peer_that_lost_the_trunk_and_dials_again_meanwhile_gets_the_new_one() {
    let now = Instant::now();
    let mut a = smaller();
    a.want(true, now);
    // The peer took our dial, lost it and dialled: both before its answer came here.
    a.incoming(9, hello(BOOT, 2, 2), now);
    assert_eq!(a.answered(1, &hello(BOOT, 0, 1), now), [Action::Take(9)]);
    assert_eq!(a.trunk(), Some(9));
}

#[test]
fn backoff_doubles_is_jittered_and_has_a_bound() {
    let mut now = Instant::now();
    for jitter in [0.0, 0.5, 0.999] {
        let mut machine = smaller();
        assert_eq!(machine.want(true, now), [Action::Dial { number: 1 }], "the first dial is at once");
        let mut full = BACKOFF_FIRST;
        for number in 2..50 {
            let actions = machine.failed(now, jitter);
            let [Action::TickAt(then)] = actions[..] else { panic!("{actions:?}") };
            let pause = then - now;
            assert!(pause >= full / 2 && pause <= full, "pause {pause:?} of {full:?}");
            assert_eq!(pause, full.mul_f64(0.5 + jitter / 2.0));
            assert_eq!(machine.tick(then - Duration::from_micros(1)), [Action::TickAt(then)], "too early");
            assert_eq!(machine.tick(then), [Action::Dial { number }]);
            now = then;
            full = (full * 2).min(BACKOFF_MAX);
        }
        assert_eq!(full, BACKOFF_MAX);
    }
}

#[test]
fn success_forgets_the_failures() {
    let now = Instant::now();
    let mut machine = smaller();
    machine.want(true, now);
    for _ in 0..10 {
        machine.failed(now, 0.5);
        machine.tick(now + BACKOFF_MAX);
    }
    machine.answered(1, &answer(), now);
    assert!(matches!(machine.lost(1, now)[..], [Action::Dial { .. }]), "at once");
    let actions = machine.failed(now, 1.0);
    assert_eq!(actions, [Action::TickAt(now + BACKOFF_FIRST)]);
}

#[test]
fn a_new_stream_does_not_shorten_the_pause() {
    let now = Instant::now();
    let mut machine = smaller();
    machine.want(true, now);
    machine.failed(now, 0.5);
    for _ in 0..100 {
        assert!(matches!(machine.want(true, now)[..], [Action::TickAt(_)]));
    }
}

#[test]
fn a_lost_trunk_is_dialled_anew_only_while_streams_wait() {
    let now = Instant::now();
    let mut machine = connected(1, now);
    assert_eq!(machine.lost(1, now), []);
    assert_eq!(machine.want(true, now), [Action::Dial { number: 2 }]);
}

#[test]
fn a_machine_can_be_forgotten_when_there_is_nothing_to_forget() {
    let now = Instant::now();
    let mut machine = smaller();
    assert!(machine.is_idle());
    machine.want(true, now);
    assert!(!machine.is_idle(), "a dial is under way");
    machine.incoming(9, hello(BOOT, 1, 1), now);
    machine.want(false, now);
    machine.failed(now, 0.0);
    assert!(!machine.is_idle(), "there is a trunk");
    machine.lost(9, now);
    assert!(machine.is_idle());
    machine.want(true, now);
    machine.failed(now, 0.0);
    assert!(!machine.is_idle(), "a stream waits");
    machine.want(false, now);
    assert!(machine.is_idle());
}
