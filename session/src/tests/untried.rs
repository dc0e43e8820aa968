//! Streams that nobody has begun to read, beside those that are read.

use super::{accepted_receiver, at, encoded};
use crate::{CreditPolicy, Grant, Read, ReceiveHalf, SharedBudget, SharedBudgetConfig};

/// Four bytes that every stream may hold beside the budget.
const HEAD: u64 = 4;

/// Half of it is a turn and a half.
fn config(large_bytes: u64) -> SharedBudgetConfig {
    SharedBudgetConfig { budget_bytes: 480, idle_bytes: 40, turn_bytes: 160, stream_bytes_max: 640, large_bytes }
}

fn grants(policy: &mut SharedBudget) -> Vec<(u64, u64)> {
    std::iter::from_fn(|| policy.poll_grant()).map(|Grant { stream, limit }| (stream, limit)).collect()
}

/// Has every grant taken and every reclaim answered by a sender that has sent nothing of what is asked.
fn settle(policy: &mut SharedBudget) -> usize {
    let mut reclaims = 0;
    grants(policy);
    while let Some(reclaim) = policy.poll_reclaim() {
        reclaims += 1;
        policy.limited(reclaim.stream, reclaim.limit);
        grants(policy);
    }
    reclaims
}

/// What a message at the head of a stream brings, if its half has one to tell of.
fn tell_message(policy: &mut SharedBudget, stream: usize, half: &mut ReceiveHalf) -> Vec<(u64, u64)> {
    if let Some(end) = half.poll_message_end() {
        policy.message(stream as u64, half.consumed(), end);
    }
    grants(policy)
}

/// A stream that has used up its window and whose application has read all of it, so that its window has grown; it wants
/// no more.
fn live_that_holds(policy: &mut SharedBudget, stream: u64, held: u64) {
    policy.open(stream, None);
    while policy.held_by(stream) < held {
        policy.consumed(stream, policy.limit_of(stream));
    }
    settle(policy);
}

#[test]
fn streams_that_nobody_reads_leave_one_that_is_read_a_window_that_grows_to_the_most() {
    let config = SharedBudgetConfig::default();
    for streams in [10_000, 100_000] {
        // The one that is read comes before the others, or after them.
        for (read, others) in [(0, 1..=streams), (streams, 0..=streams - 1)] {
            let mut policy = SharedBudget::new(config);
            for stream in 0..=streams {
                policy.open(stream, None);
                policy.wanted(stream, 1 << 40);
            }
            settle(&mut policy);
            for _ in 0..10 {
                policy.consumed(read, policy.limit_of(read));
                settle(&mut policy);
            }
            assert_eq!(policy.held_by(read), config.stream_bytes_max + HEAD, "beside {streams}");
            let held: u64 = others.map(|stream| policy.held_by(stream).saturating_sub(HEAD)).sum();
            assert!(held <= config.budget_bytes / 2, "{held} are held by those that nobody reads");
        }
    }
}

#[test]
fn a_stream_that_nobody_has_begun_to_read_takes_nothing_back_from_others() {
    let mut policy = SharedBudget::new(config(0));
    live_that_holds(&mut policy, 0, 300);
    for stream in 1..100 {
        policy.open(stream, None);
        policy.wanted(stream, 1 << 30);
    }
    assert_eq!(settle(&mut policy), 0);
    assert!(policy.held_by(0) >= 300);
    // The first that is read has what is free; the next has its turn of what the others do not use.
    policy.consumed(50, HEAD);
    assert_eq!((settle(&mut policy), policy.held_by(50)), (0, 160 + HEAD));
    policy.consumed(51, HEAD);
    assert_ne!(settle(&mut policy), 0);
    assert_eq!(policy.held_by(51), 160 + HEAD);
}

#[test]
fn a_stream_gets_through_by_its_first_message_beside_live_ones_that_hold_more_than_half() {
    let mut policy = SharedBudget::new(config(100));
    live_that_holds(&mut policy, 0, 300);
    assert_eq!(policy.open(1, None), HEAD);
    policy.wanted(1, 1000);
    assert_eq!(settle(&mut policy), 0);
    // Its length has come by the four bytes, and somebody waits for it.
    policy.message(1, 0, 100);
    assert_eq!(grants(&mut policy), [(1, 100)]);
    policy.consumed(1, 100);
    settle(&mut policy);
    assert_eq!(policy.held_by(1), 160 + HEAD);
}

#[test]
fn a_stream_that_is_passed_on_gets_through_by_four_bytes_beside_live_ones_that_hold_more_than_half() {
    let mut policy = SharedBudget::new(config(0));
    live_that_holds(&mut policy, 0, 300);
    assert_eq!(policy.open(1, None), HEAD);
    policy.wanted(1, 1000);
    policy.consumed(1, HEAD);
    settle(&mut policy);
    assert_eq!(policy.held_by(1), 160 + HEAD);
}

#[test]
fn a_stream_that_nobody_reads_keeps_its_place_however_often_the_others_say_what_they_want() {
    let mut policy = SharedBudget::new(config(0));
    // Six times 40 are half of the budget. It comes back in crumbs, and four of these are a turn.
    for stream in 0..6 {
        assert_eq!(policy.open(stream, None), 40 + HEAD);
    }
    for round in 0..3 {
        for stream in [10, 11, 12] {
            if round == 0 {
                assert_eq!(policy.open(stream, None), HEAD);
            }
            policy.wanted(stream, 1000 + round);
        }
        // Nor does it lose its place by saying so itself.
        policy.wanted(10, 2000 + round);
    }
    for closed in 0..4 {
        assert_eq!([policy.held_by(10), policy.held_by(11)], [40 * closed + HEAD, HEAD]);
        policy.close(closed);
    }
    assert_eq!([policy.held_by(10), policy.held_by(11)], [160 + HEAD, HEAD]);
    policy.close(4);
    assert_eq!([policy.held_by(11), policy.held_by(12)], [40 + HEAD, HEAD]);
}

#[test]
fn streams_that_nobody_reads_under_a_cap_that_is_full_stop_no_others_that_nobody_reads() {
    let mut policy = SharedBudget::new(config(0));
    let cap = policy.add_cap(80);
    policy.open(0, None);
    policy.wanted(0, 1000);
    for stream in 1..=2 {
        policy.open(stream, None);
    }
    assert_eq!(policy.outstanding_bytes(), 240 + 3 * HEAD, "half of the budget is used up");
    // These come first, and their cap has 40 for them. The others share none of it.
    for stream in (10..50).chain(100..102) {
        policy.open(stream, (stream < 100).then_some(cap));
        policy.wanted(stream, 1000);
    }
    assert_eq!(grants(&mut policy), [(0, 160 + HEAD)]);
    policy.close(0);
    assert_eq!(grants(&mut policy), [(10, 40 + HEAD), (100, 120 + HEAD)]);
    assert_eq!(policy.outstanding_bytes_of(cap).0, 40);
    // What the cap has again goes to those that waited for it, before those that came after them.
    policy.close(10);
    assert_eq!(grants(&mut policy), [(11, 40 + HEAD)]);
    policy.close(1);
    assert_eq!(grants(&mut policy), [(100, 160 + HEAD)]);
    policy.close(2);
    assert_eq!(grants(&mut policy), [(101, 40 + HEAD)]);
    for stream in 0..200 {
        policy.close(stream);
    }
    assert_eq!((policy.outstanding_bytes(), policy.outstanding_bytes_of(cap)), (0, (0, 0)));
}

#[test]
fn streams_that_nobody_reads_hold_nothing_of_the_pool_for_long_messages() {
    let mut policy = SharedBudget::new(config(1000));
    let bytes = encoded(&[900]).freeze();
    let mut halves: Vec<_> = (0..100)
        .map(|stream| {
            let mut half = accepted_receiver(0, policy.open(stream, None), 1000);
            half.handle_data(&at(0), bytes.slice(..usize::try_from(HEAD).unwrap()));
            half
        })
        .collect();
    for (stream, half) in halves.iter_mut().enumerate() {
        assert_eq!(tell_message(&mut policy, stream, half), []);
    }
    // Each that is read has the whole pool, whichever comes first.
    for stream in [99, 0, 50] {
        assert_eq!(halves[stream].read(), Read::Pending);
        let given = tell_message(&mut policy, stream, &mut halves[stream]);
        assert_eq!(given.first(), Some(&(stream as u64, 902)), "{given:?}");
        halves[stream].cancel(trunkline_proto::code::Code::Cancelled, "read enough");
        policy.close(stream as u64);
    }
}
