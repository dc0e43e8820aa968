//! Credit that is given, asked back, capped and passed on, stream by stream.

use trunkline_proto::{
    code::Code,
    frame::DataHeader,
    message::{Limit, Reclaim as ReclaimMessage},
};

use super::{accept, accepted_receiver, at, credit, drain, encoded, ended, message, open_sender};
use crate::{
    Cap, CreditPolicy, Grant, Read, ReceiveOutput, Reclaim, SendHalf, SendOutput, SharedBudget, SharedBudgetConfig,
    WriteError,
};

/// Four bytes that every stream may hold beside the budget.
const HEAD: u64 = 4;

fn config(budget_bytes: u64) -> SharedBudgetConfig {
    SharedBudgetConfig { budget_bytes, idle_bytes: 40, turn_bytes: 160, stream_bytes_max: 640, large_bytes: 0 }
}

/// Opens a stream of which something is read at once: what every stream may hold beside the budget.
fn open_live(policy: &mut SharedBudget, stream: u64, cap: Option<Cap>) {
    policy.open(stream, cap);
    policy.consumed(stream, HEAD);
}

fn grants(policy: &mut SharedBudget) -> Vec<(u64, u64)> {
    std::iter::from_fn(|| policy.poll_grant()).map(|Grant { stream, limit }| (stream, limit)).collect()
}

fn reclaims(policy: &mut SharedBudget) -> Vec<(u64, u64)> {
    std::iter::from_fn(|| policy.poll_reclaim()).map(|Reclaim { stream, limit }| (stream, limit)).collect()
}

#[test]
fn a_stream_is_given_little_unasked_and_a_turn_when_it_wants() {
    let mut policy = SharedBudget::new(config(10_000));
    assert_eq!(policy.open(1, None), 40 + HEAD);
    policy.wanted(1, 40 + HEAD + 1);
    assert_eq!(grants(&mut policy), [(1, 160 + HEAD)]);
    // It drains what it was given: twice as much, and so on up to the most.
    for (consumed, limit) in [(164, 164 + 320 + HEAD), (488, 488 + 640 + HEAD), (1132, 1132 + 640 + HEAD)] {
        policy.wanted(1, limit);
        policy.consumed(1, consumed);
        assert_eq!(grants(&mut policy), [(1, limit)]);
    }
}

#[test]
fn what_streams_are_given_of_which_nothing_was_read_leaves_half_of_the_budget() {
    let mut policy = SharedBudget::new(config(400));
    let limits: Vec<u64> = (0..12).map(|stream| policy.open(stream, None)).collect();
    assert_eq!(limits, [44, 44, 44, 44, 44, 4, 4, 4, 4, 4, 4, 4]);
    policy.wanted(11, 1000);
    assert_eq!((grants(&mut policy), reclaims(&mut policy)), (vec![], vec![]));
    policy.consumed(11, HEAD);
    assert_eq!(grants(&mut policy), [(11, HEAD + 160 + HEAD)]);
}

#[test]
fn those_that_want_are_served_in_rotation_each_by_a_whole_turn() {
    let mut policy = SharedBudget::new(config(320));
    for stream in 0..6 {
        policy.open(stream, None);
        policy.wanted(stream, 10_000);
    }
    // Two at a time have a turn; they drain it in crumbs, which go to one of those that wait and not to all.
    for _ in 0..12 {
        for stream in 0..6 {
            let limit = policy.limit_of(stream);
            for consumed in (policy.consumed_of(stream)..limit).step_by(7).chain([limit]) {
                policy.consumed(stream, consumed);
                let begun = (0..6).filter(|&stream| (HEAD + 1..150).contains(&policy.held_by(stream)));
                assert!(begun.count() <= 2, "one that drains and one that is served");
            }
        }
    }
    for stream in 0..6 {
        let consumed = policy.consumed_of(stream);
        assert!(consumed >= 3 * 160, "stream {stream} has come to {consumed}");
    }
}

#[test]
fn what_idle_streams_hold_is_asked_back_least_recently_drained_first_and_no_more_than_is_missing() {
    let mut policy = SharedBudget::new(SharedBudgetConfig { turn_bytes: 230, ..config(400) });
    for stream in 0..9 {
        policy.open(stream, None);
    }
    // Stream 0 is the oldest; it is drained, and so the last to be asked. It holds 80 now, and 1 to 4 hold 40 each.
    policy.consumed(0, 30);
    assert_eq!(grants(&mut policy), [(0, 30 + 80 + HEAD)]);
    open_live(&mut policy, 9, None);
    policy.wanted(9, 1000);
    // It has all that is free, 160, and misses 70 of its turn.
    let given = HEAD + 160 + HEAD;
    assert_eq!(grants(&mut policy), [(9, given)]);
    assert_eq!(reclaims(&mut policy), [(1, HEAD), (2, HEAD + 10)]);
    assert_eq!(reclaims(&mut policy), [], "each is asked once");
    // Granted by what comes back, when it comes.
    assert_eq!(grants(&mut policy), []);
    policy.limited(1, HEAD);
    assert_eq!(grants(&mut policy), [], "not in crumbs");
    policy.limited(2, HEAD + 10);
    assert_eq!(grants(&mut policy), [(9, given + 70)]);
    assert_eq!(reclaims(&mut policy), []);
}

#[test]
fn a_stream_that_gave_nothing_back_is_not_asked_again_before_its_limit_has_risen() {
    let mut policy = SharedBudget::new(config(200));
    for stream in 0..4 {
        policy.open(stream, None);
    }
    for stream in 4..6 {
        open_live(&mut policy, stream, None);
        policy.wanted(stream, 1000);
    }
    grants(&mut policy);
    let asked: Vec<u64> = reclaims(&mut policy).into_iter().map(|(stream, _)| stream).collect();
    assert!(asked.contains(&0) && asked.contains(&1));
    for stream in asked {
        // All of it was sent already.
        policy.limited(stream, 1000);
    }
    for _ in 0..1000 {
        policy.wanted(5, 1000);
        let again = reclaims(&mut policy);
        assert!(again.iter().all(|&(stream, _)| ![0, 1].contains(&stream)), "{again:?}");
        for (stream, _) in again {
            policy.limited(stream, 1000);
        }
    }
}

#[test]
fn nothing_is_granted_to_a_stream_while_it_is_asked() {
    let mut policy = SharedBudget::new(config(1000));
    policy.open(1, None);
    policy.wanted(1, 200);
    assert_eq!(grants(&mut policy), [(1, 160 + HEAD)]);
    policy.ceiling(1, 50);
    assert_eq!(reclaims(&mut policy), [(1, 50)]);
    policy.ceiling(1, 500);
    policy.wanted(1, 300);
    policy.consumed(1, 40);
    assert_eq!((grants(&mut policy), reclaims(&mut policy)), (vec![], vec![]));
    policy.limited(1, 60);
    assert_eq!(grants(&mut policy), [(1, 40 + 160 + HEAD)]);
}

#[test]
fn a_ceiling_that_falls_is_asked_for_again_only_where_something_can_be_had() {
    let mut policy = SharedBudget::new(config(1000));
    policy.open(1, None);
    policy.ceiling(1, 30);
    assert_eq!(reclaims(&mut policy), [(1, 30)]);
    policy.ceiling(1, 20);
    assert_eq!(reclaims(&mut policy), []);
    policy.limited(1, 30);
    assert_eq!(reclaims(&mut policy), [(1, 20)]);
    policy.limited(1, 25);
    policy.ceiling(1, 10);
    assert_eq!(reclaims(&mut policy), [], "all of it is used");
    policy.limited(1, 0);
    assert_eq!(policy.limit_of(1), 25, "nobody was asked");
}

#[test]
fn a_stream_under_its_ceiling_waits_for_no_turn_and_holds_none() {
    let mut policy = SharedBudget::new(config(1000));
    for stream in 0..1000 {
        policy.open(stream, None);
        policy.ceiling(stream, 0);
        for (stream, limit) in reclaims(&mut policy) {
            policy.limited(stream, limit);
        }
        policy.wanted(stream, 10_000);
    }
    assert_eq!(policy.outstanding_bytes(), 1000 * HEAD);
    assert_eq!((grants(&mut policy), reclaims(&mut policy)), (vec![], vec![]));
    policy.ceiling(777, 5000);
    assert_eq!(grants(&mut policy), [(777, 160 + HEAD)]);
    policy.ceiling(778, 20);
    assert_eq!(grants(&mut policy), [(778, 20)]);
}

/// There is other news, so much that who was given something has had the time to use it.
fn let_time_pass(policy: &mut SharedBudget) {
    for _ in 0..1000 {
        policy.wanted(u64::MAX, 0);
    }
}

#[test]
fn nobody_is_asked_for_what_was_promised_a_moment_ago() {
    let mut policy = SharedBudget::new(config(160));
    for stream in 1..=2 {
        open_live(&mut policy, stream, None);
        policy.wanted(stream, 1000);
    }
    // A node answers at once for what it has not told yet. Were it asked again and again, credit would go round for ever.
    grants(&mut policy);
    assert_eq!(reclaims(&mut policy), []);
    let_time_pass(&mut policy);
    assert_eq!(reclaims(&mut policy).len(), 1);
}

#[test]
fn a_close_frees_what_was_asked() {
    let mut policy = SharedBudget::new(config(160));
    for stream in 1..=2 {
        open_live(&mut policy, stream, None);
        policy.wanted(stream, 1000);
    }
    grants(&mut policy);
    let_time_pass(&mut policy);
    assert_eq!(reclaims(&mut policy).len(), 1);
    policy.close(1);
    assert_eq!(grants(&mut policy), [(2, HEAD + 160 + HEAD)]);
    policy.limited(1, 0);
    policy.close(2);
    assert_eq!(policy.outstanding_bytes(), 0);
}

#[test]
fn senders_that_stopped_while_they_wanted_lose_what_they_hold() {
    for unanswered in [0, 40] {
        let mut policy = SharedBudget::new(config(8000));
        for stream in 0..=100 {
            open_live(&mut policy, stream, None);
            policy.wanted(stream, 1 << 30);
            grants(&mut policy);
        }
        assert_eq!(policy.held_by(100), HEAD, "those that stopped hold everything");
        // One sender lives, and its application reads. The others never send a byte; some do not even answer.
        let mut rounds = 0;
        while policy.consumed_of(100) < 20_000 {
            rounds += 1;
            assert!(rounds < 2_000, "stream 100 has come to {}", policy.consumed_of(100));
            policy.pass_time();
            for (stream, limit) in reclaims(&mut policy) {
                if stream == 100 {
                    policy.limited(stream, policy.limit_of(stream));
                } else if stream >= unanswered {
                    policy.limited(stream, limit);
                }
            }
            policy.consumed(100, policy.limit_of(100));
            grants(&mut policy);
        }
        // Quiet comes: those that are gone are not asked for ever.
        for _ in 0..1_000 {
            for (stream, limit) in reclaims(&mut policy) {
                policy.limited(stream, limit);
            }
            grants(&mut policy);
        }
        assert_eq!(reclaims(&mut policy), []);
    }
}

#[test]
fn a_sender_that_lives_loses_at_most_half_of_what_it_holds_before_it_has_used_the_rest() {
    let mut policy = SharedBudget::new(config(160));
    for stream in 1..=2 {
        open_live(&mut policy, stream, None);
        policy.wanted(stream, 10_000);
    }
    grants(&mut policy);
    let_time_pass(&mut policy);
    let kept = HEAD + 160 / 2 + HEAD;
    assert_eq!(reclaims(&mut policy), [(1, kept)]);
    policy.limited(1, kept);
    assert_eq!(grants(&mut policy), [], "half of a turn waits for the rest of it");
    policy.pass_time();
    assert_eq!(grants(&mut policy), [(2, HEAD + 160 / 2 + HEAD)], "but not for ever");
    // It is given nothing until it has used what it kept.
    policy.wanted(1, 20_000);
    assert_eq!(grants(&mut policy), []);
    policy.consumed(2, policy.limit_of(2));
    let given = grants(&mut policy);
    assert!(given.iter().all(|&(stream, _)| stream == 2), "{given:?}");
    policy.consumed(1, policy.limit_of(1));
    policy.consumed(2, policy.limit_of(2));
    assert!(grants(&mut policy).iter().any(|&(stream, _)| stream == 1));
}

#[test]
fn a_group_at_its_cap_stops_no_other_and_asks_only_its_own() {
    let mut policy = SharedBudget::new(config(4000));
    let cap = policy.add_cap(200);
    for stream in 0..20 {
        open_live(&mut policy, stream, Some(cap));
        policy.wanted(stream, 10_000);
    }
    assert_eq!(policy.outstanding_bytes_of(cap).0, 200);
    for stream in 20..30 {
        policy.open(stream, None);
        policy.wanted(stream, 10_000);
        assert_eq!(policy.limit_of(stream), 160 + HEAD);
    }
    grants(&mut policy);
    let_time_pass(&mut policy);
    let asked = reclaims(&mut policy);
    assert_ne!(asked, []);
    for (stream, limit) in asked {
        assert!(stream < 20);
        policy.limited(stream, limit);
    }
    // Each of them comes to its turn, though they share so little.
    let mut rounds = 0;
    while (0..20).any(|stream| policy.consumed_of(stream) < 320) {
        rounds += 1;
        assert!(rounds < 500);
        for stream in 0..20 {
            policy.consumed(stream, policy.limit_of(stream));
            assert!(policy.outstanding_bytes_of(cap).0 <= 200);
        }
        for (stream, _) in reclaims(&mut policy) {
            policy.limited(stream, policy.limit_of(stream));
        }
    }
}

#[test]
fn a_long_message_of_a_capped_group_gets_through_and_the_next_waits() {
    let mut policy = SharedBudget::new(SharedBudgetConfig { large_bytes: 10_000, ..config(2000) });
    let cap = policy.add_cap(300);
    for stream in 0..3 {
        policy.open(stream, Some(cap));
    }
    policy.open(3, None);
    policy.message(0, 0, 5000);
    policy.message(1, 0, 1000);
    policy.message(3, 0, 4000);
    assert_eq!(grants(&mut policy), [(0, 5000), (3, 4000)]);
    assert_eq!(policy.outstanding_bytes_of(cap).1, 5000);
    policy.message(2, 0, 3000);
    policy.consumed(0, 5000);
    assert!(grants(&mut policy).contains(&(1, 1000)));
    policy.close(1);
    assert!(grants(&mut policy).contains(&(2, 3000)));
    for stream in 0..4 {
        policy.close(stream);
    }
    assert_eq!((policy.outstanding_bytes(), policy.outstanding_bytes_of(cap)), (0, (0, 0)));
}

/// Everything that 100,000 streams can do at once, by steps: one pass of a loop is a step.
#[test]
fn no_call_looks_at_all_of_a_hundred_thousand_streams() {
    const STREAMS: u64 = 100_000;
    let mut policy = SharedBudget::new(SharedBudgetConfig { large_bytes: 100_000, ..config(STREAMS * 40) });
    let cap = policy.add_cap(STREAMS);
    let capped = |stream: u64| stream.is_multiple_of(3).then_some(cap);
    let mut calls = 0;
    let mut settle = |policy: &mut SharedBudget| {
        calls += 1;
        while policy.poll_grant().is_some() {
            calls += 1;
        }
        while let Some(Reclaim { stream, limit }) = policy.poll_reclaim() {
            calls += 2;
            // Some give back, some have used it, some do not answer.
            match stream % 5 {
                0 => {}
                1 => policy.limited(stream, policy.limit_of(stream)),
                _ => policy.limited(stream, limit),
            }
            while policy.poll_grant().is_some() {
                calls += 1;
            }
        }
    };
    for stream in 0..STREAMS {
        policy.open(stream, capped(stream));
        settle(&mut policy);
    }
    for stream in 0..STREAMS {
        policy.wanted(stream, 1 << 40);
        settle(&mut policy);
    }
    for round in 0..3 {
        for stream in 0..STREAMS {
            match (stream + round) % 4 {
                0 => policy.consumed(stream, policy.limit_of(stream)),
                1 => policy.ceiling(stream, policy.limit_of(stream) / 2),
                2 => policy.message(stream, policy.limit_of(stream), policy.limit_of(stream) + 5000),
                _ => {
                    policy.close(stream);
                    policy.open(stream, capped(stream));
                }
            }
            settle(&mut policy);
        }
    }
    for stream in 0..STREAMS {
        policy.close(stream);
        settle(&mut policy);
    }
    assert_eq!(policy.outstanding_bytes(), 0);
    let steps = policy.steps;
    assert!(steps < 10 * calls, "{steps} steps for {calls} calls");
}

#[test]
fn a_sender_counts_what_it_may_send_and_not_what_is_stalled() {
    let mut half = open_sender(1000);
    half.write(&message(64 * 1024)).unwrap();
    assert_eq!((half.charged_bytes(), half.buffered_bytes()), (1000, 64 * 1024 + 4));
    drain(&mut half, 10_000);
    half.handle_credit(&credit(600, 0, 2000));
    assert_eq!(half.charged_bytes(), 1400);
    half.handle_reclaim(&ReclaimMessage { stream: 0, epoch: 0, limit: 1500 });
    assert_eq!(half.charged_bytes(), 900);
    // What was sent cannot be given back.
    half.handle_reclaim(&ReclaimMessage { stream: 0, epoch: 0, limit: 0 });
    assert_eq!(half.charged_bytes(), 400);
    half.handle_abort(Code::Cancelled, 0, String::new());
    assert_eq!(half.charged_bytes(), 0);
}

#[test]
fn a_message_that_was_promised_a_place_is_taken_though_the_credit_was_asked_back() {
    let mut half = open_sender(1000);
    half.handle_reclaim(&ReclaimMessage { stream: 0, epoch: 0, limit: 0 });
    assert_eq!(half.write(&message(10)), Err(WriteError::Blocked));
    half.write_reserved(&message(10)).unwrap();
    half.write_reserved(&message(5000)).unwrap();
    assert_eq!((half.charged_bytes(), half.written()), (0, 5000 + 2 + 11));
    let (outputs, bytes) = drain(&mut half, 10_000);
    let limit = SendOutput::Limit { epoch: 0, limit: 0 };
    assert_eq!(outputs, [limit, SendOutput::Want { epoch: 0, wanted: 5013 }]);
    assert!(bytes.is_empty());
    half.handle_credit(&credit(0, 0, 6000));
    assert_eq!(drain(&mut half, 10_000).1, encoded(&[10, 5000]));
    half.finish();
    assert_eq!(half.write_reserved(&message(1)), Err(WriteError::Finished));
    let mut opening = SendHalf::new();
    opening.write_reserved(&message(3)).unwrap();
    opening.poll_output(10, &mut Vec::new());
    opening.handle_accept(&accept(100));
    assert_eq!(drain(&mut opening, 100).1, encoded(&[3]));
}

#[test]
fn a_sender_that_gives_up_has_what_was_not_read_dropped_and_nobody_else_has() {
    let lengths = [10, 20, 30];
    for (code, left) in [(Code::Cancelled, 0), (Code::ProducerGone, 2)] {
        let mut half = accepted_receiver(0, 1000, 100);
        assert_eq!(half.handle_data(&at(0), encoded(&lengths).freeze()), 3);
        assert_eq!(half.read(), Read::Message(message(10)));
        half.handle_abort(code, String::new());
        assert_eq!(half.unread_messages(), left);
        assert_eq!(half.buffered_bytes() == 0, left == 0);
        for length in &lengths[3 - left..] {
            assert_eq!(half.read(), Read::Message(message(*length)));
        }
        assert!(matches!(half.read(), Read::Aborted(why) if why.code == code));
    }
}

#[test]
fn a_message_whose_credit_was_asked_back_is_asked_for_again() {
    let mut half = accepted_receiver(0, 10, 1000);
    half.handle_data(&at(0), encoded(&[500]).freeze().slice(..10));
    assert_eq!(half.read(), Read::Pending);
    assert_eq!(half.poll_message_end(), Some(502));
    half.handle_grant(502);
    assert_eq!(half.poll_message_end(), None);
    half.reclaim(100);
    // What it is to keep is told first: the answer is about what the other side knows.
    assert!(matches!(half.poll_output(), Some(ReceiveOutput::Credit(credit)) if credit.limit == 100));
    assert!(matches!(half.poll_output(), Some(ReceiveOutput::Reclaim(reclaim)) if reclaim.limit == 100));
    assert_eq!(half.handle_limit(&Limit { stream: 0, epoch: 0, limit: 100 }), Some(100));
    assert_eq!(half.poll_message_end(), Some(502));
}

#[test]
fn an_answer_that_keeps_all_but_the_end_mark_is_taken_in_whichever_chunks_that_mark_comes() {
    let bytes = ended(&[10]);
    for cut in 11..bytes.len() {
        let mut half = accepted_receiver(0, 12, 100);
        half.handle_data(&at(0), bytes.slice(..cut));
        half.reclaim(4);
        while half.poll_output().is_some() {}
        assert_eq!(half.handle_limit(&Limit { stream: 0, epoch: 0, limit: 11 }), Some(11), "{cut} bytes came before");
        half.handle_data(&DataHeader { fin: true, ..at(cut as u64) }, bytes.slice(cut..));
        assert_eq!(half.read(), Read::Message(message(10)));
        assert_eq!(half.read(), Read::End);
    }
}

#[test]
fn a_message_that_lacks_what_was_given_back_is_let_in_though_it_is_told_before_the_answer() {
    let mut policy = SharedBudget::new(SharedBudgetConfig { large_bytes: 1000, ..config(400) });
    policy.open(1, None);
    policy.wanted(1, 300);
    policy.consumed(1, 160);
    let held = policy.limit_of(1);
    // Another one that is read wants what the first holds and has not asked for.
    policy.open(2, None);
    policy.wanted(2, 1000);
    policy.consumed(2, HEAD);
    grants(&mut policy);
    let asked = reclaims(&mut policy);
    let &[(1, kept)] = &asked[..] else { panic!("{asked:?}") };
    // Its end lies in what is given back.
    policy.message(1, 160, held);
    assert_eq!(grants(&mut policy), [], "the answer is not told yet");
    policy.limited(1, kept);
    assert!(grants(&mut policy).contains(&(1, held)));
    // What it holds is the pool's now.
    assert_eq!(policy.outstanding_bytes(), policy.held_by(1) + policy.held_by(2) + HEAD);
}
