//! The sending half.

use super::*;
use crate::{Finished, WriteError};

#[test]
fn the_opening_comes_first_and_once_and_nothing_precedes_the_answer() {
    let mut half = SendHalf::new();
    assert_eq!(half.accepted(), None);
    half.finish();
    assert!(half.has_output());
    assert_eq!(drain(&mut half, 100).0, [SendOutput::Open { epoch: 0 }]);
    assert_eq!(drain(&mut half, 100).0, []);
    half.handle_accept(&accept(0));
    assert_eq!(half.accepted(), Some(Ok(())));
    assert_eq!(drain(&mut half, 100).0, [SendOutput::Data { offset: 0, epoch: 0, fin: true }]);
}

#[test]
fn bytes_leave_in_order_whatever_their_sizes_and_the_size_of_a_piece() {
    let lengths = [0, 1, 63, 64, 5000, 0, 4096, 4095, 20_000, 3];
    for bytes_max in [1, 2, 3, 7, 100, 4097, 1 << 20] {
        let mut half = open_sender(1 << 20);
        for length in lengths {
            half.write(&message(length)).unwrap();
        }
        half.finish();
        let (outputs, bytes) = drain(&mut half, bytes_max);
        assert_eq!(bytes, ended(&lengths));
        assert!(half.is_flushed());
        let fins = outputs.iter().filter(|output| matches!(output, SendOutput::Data { fin: true, .. })).count();
        assert_eq!(fins, 1);
        assert!(matches!(outputs.last(), Some(SendOutput::Data { fin: true, .. })));
    }
}

#[test]
fn data_stops_at_the_limit_and_says_where_it_begins() {
    let mut half = open_sender(10);
    half.write(&message(25)).unwrap();
    let (outputs, bytes) = drain(&mut half, 4);
    let data = |offset| SendOutput::Data { offset, epoch: 0, fin: false };
    assert_eq!(outputs, [data(0), data(4), data(8), SendOutput::Want { epoch: 0, wanted: 26 }]);
    assert_eq!(bytes, encoded(&[25])[..10]);
    half.handle_credit(&credit(10, 0, 26));
    assert_eq!(drain(&mut half, 100).0, [data(10)]);
}

#[test]
fn a_write_without_credit_is_refused_whole() {
    let mut half = open_sender(10);
    half.write(&message(9)).unwrap();
    assert!(!half.has_credit());
    assert_eq!(half.write(&message(0)), Err(WriteError::Blocked));
    assert_eq!(half.written(), 10);
    assert_eq!(drain(&mut half, 100).1, encoded(&[9]));
    half.handle_credit(&credit(0, 0, 11));
    assert!(half.has_credit());
    half.write(&message(0)).unwrap();
    assert_eq!(drain(&mut half, 100).1, encoded(&[0]));
}

#[test]
fn one_message_may_reach_beyond_the_limit_and_waits_there() {
    let mut half = open_sender(10);
    half.write(&message(8)).unwrap();
    half.write(&message(5000)).unwrap();
    assert_eq!(half.write(&message(1)), Err(WriteError::Blocked));
    assert_eq!(half.buffered_bytes(), 9 + 5002);
    assert_eq!(drain(&mut half, 1000).1.len(), 10);
}

#[test]
fn a_lone_message_is_offered_at_once_for_there_is_no_timer() {
    let mut half = open_sender(100);
    half.write(&message(1)).unwrap();
    assert!(half.has_output());
    let (outputs, bytes) = drain(&mut half, 100);
    assert_eq!(outputs, [SendOutput::Data { offset: 0, epoch: 0, fin: false }]);
    assert_eq!(bytes, encoded(&[1]));
}

#[test]
fn messages_written_between_two_polls_leave_as_one_piece() {
    let mut half = open_sender(1 << 20);
    let lengths = [64; 100];
    for round in 0..3 {
        for length in lengths {
            half.write(&message(length)).unwrap();
        }
        let mut pieces = Vec::new();
        let offset = round * encoded(&lengths).len() as u64;
        assert_eq!(half.poll_output(1 << 20, &mut pieces), Some(SendOutput::Data { offset, epoch: 0, fin: false }));
        assert_eq!(pieces, [encoded(&lengths).freeze()]);
        assert_eq!(half.poll_output(1 << 20, &mut pieces), None);
    }
}

#[test]
fn copied_messages_are_those_that_were_given() {
    let lengths = [0, 1, 63, 64, 4095, 4096, 20_000, 3];
    let mut half = open_sender(1 << 20);
    for length in lengths {
        half.write_copy(&message(length)).unwrap();
    }
    assert_eq!(half.written(), encoded(&lengths).len() as u64);
    assert_eq!(drain(&mut half, 1000).1, encoded(&lengths));
}

#[test]
fn asking_whether_a_message_is_admitted_says_what_is_wanted_and_takes_nothing() {
    let mut half = open_sender(0);
    assert_eq!(half.admits(9), Err(WriteError::Blocked));
    assert_eq!(half.write_copy(&message(5000)), Err(WriteError::Blocked));
    assert_eq!(half.written(), 0);
    assert_eq!(drain(&mut half, 100).0, [SendOutput::Want { epoch: 0, wanted: 5002 }]);
    half.handle_credit(&credit(0, 0, 10));
    assert_eq!(half.admits(9), Ok(()));
    assert_eq!(half.written(), 0);
    half.finish();
    assert_eq!(half.admits(9), Err(WriteError::Finished));
    half.abort(Code::Cancelled, "enough");
    assert_eq!(half.admits(9), Err(WriteError::Aborted(why(Code::Cancelled, 0, "enough"))));
}

#[test]
fn want_is_said_once_for_each_new_offset_wanted() {
    let mut half = open_sender(0);
    let want = |wanted| SendOutput::Want { epoch: 0, wanted };
    assert_eq!(half.write(&message(9)), Err(WriteError::Blocked));
    assert_eq!(drain(&mut half, 100).0, [want(10)]);
    assert_eq!(half.write(&message(9)), Err(WriteError::Blocked));
    assert_eq!(half.write(&message(3)), Err(WriteError::Blocked));
    assert_eq!(drain(&mut half, 100).0, []);
    assert_eq!(half.write(&message(19)), Err(WriteError::Blocked));
    assert_eq!(drain(&mut half, 100).0, [want(20)]);
    half.handle_credit(&credit(0, 0, 20));
    half.write(&message(19)).unwrap();
    assert_eq!(half.write(&message(1)), Err(WriteError::Blocked));
    assert_eq!(drain(&mut half, 100).0, [SendOutput::Data { offset: 0, epoch: 0, fin: false }, want(22)]);
}

#[test]
fn a_write_that_was_refused_is_not_wanted_after_the_finish() {
    let mut half = open_sender(0);
    assert_eq!(half.write(&message(9)), Err(WriteError::Blocked));
    half.finish();
    assert_eq!(drain(&mut half, 100).0, [SendOutput::Data { offset: 0, epoch: 0, fin: true }]);
}

#[test]
fn the_end_mark_needs_no_credit_and_waits_for_what_precedes_it() {
    let mut half = open_sender(10);
    half.write(&message(9)).unwrap();
    half.finish();
    half.finish();
    assert_eq!(drain(&mut half, 100).1, ended(&[9]));

    let mut half = open_sender(9);
    half.write(&message(9)).unwrap();
    half.finish();
    assert_eq!(drain(&mut half, 100).1, ended(&[9])[..9]);
    half.handle_credit(&credit(0, 0, 10));
    assert_eq!(drain(&mut half, 100).1, ended(&[9])[9..]);
}

#[test]
fn a_finish_resolves_when_the_end_was_consumed_and_not_before() {
    let mut half = open_sender(100);
    half.write(&message(9)).unwrap();
    half.finish();
    assert_eq!(half.write(&message(1)), Err(WriteError::Finished));
    assert!(!half.has_credit());
    drain(&mut half, 100);
    half.handle_credit(&credit(26, 10, 100));
    assert_eq!(half.finished(), Finished::Pending);
    assert_eq!((half.buffered_bytes(), half.consumed()), (0, 10));
    half.handle_credit(&Credit { finished: true, ..credit(26, 10, 100) });
    assert_eq!(half.finished(), Finished::Consumed);
    assert!(half.is_over());
    half.abort(Code::Cancelled, "too late");
    half.handle_abort(Code::ConsumerGone, 0, "too late".to_owned());
    assert_eq!(half.finished(), Finished::Consumed);
    assert!(!half.is_settled());
    assert_eq!(drain(&mut half, 100).0, [SendOutput::EndAck]);
    assert!(half.is_settled());
    assert_eq!(half.write(&message(1)), Err(WriteError::Finished));
}

#[test]
fn what_the_other_process_holds_is_forgotten_and_nothing_else() {
    let mut half = open_sender(20_000);
    half.write(&message(10)).unwrap();
    let large = message(5000);
    half.write(&large).unwrap();
    half.write(&message(10)).unwrap();
    assert_eq!(half.buffered_bytes(), 11 + 5002 + 11);
    drain(&mut half, 777);
    assert_eq!(half.buffered_bytes(), 11 + 5002 + 11);
    let mut received = 0;
    for step in [0, 1, 10, 776, 777, 778, 3000, 5024] {
        received = received.max(step);
        half.handle_credit(&credit(step, 0, 20_000));
        assert_eq!(half.buffered_bytes(), 5024 - received);
        assert_eq!(large.is_unique(), received >= 11 + 5002);
    }
    // Older news changes nothing.
    half.handle_credit(&credit(3000, 0, 100));
    assert_eq!(half.buffered_bytes(), 0);
    half.write(&message(15_000)).unwrap();
}

#[test]
fn credit_of_another_epoch_is_dropped() {
    let mut half = open_sender(10);
    half.handle_credit(&Credit { epoch: 1, ..credit(99, 99, 1000) });
    assert_eq!(half.accepted(), Some(Ok(())));
    half.write(&message(50)).unwrap();
    assert_eq!(drain(&mut half, 100).1.len(), 10);
}

#[test]
fn credit_that_contradicts_what_was_sent_ends_the_stream() {
    let contradictions = [
        credit(11, 0, 100),
        credit(5, 6, 100),
        Credit { finished: true, ..credit(10, 10, 100) },
        Credit { finished: true, ..credit(0, 0, 100) },
    ];
    for contradiction in contradictions {
        let mut half = open_sender(10);
        half.write(&message(20)).unwrap();
        half.finish();
        drain(&mut half, 100);
        half.handle_credit(&contradiction);
        assert!(
            matches!(half.finished(), Finished::Aborted(Aborted { code: Code::Protocol, .. })),
            "{contradiction:?}"
        );
        assert!(matches!(half.poll_output(100, &mut Vec::new()), Some(SendOutput::Abort(_))));
    }
    // All was sent; the end cannot be consumed where it does not lie.
    let mut half = open_sender(100);
    half.write(&message(20)).unwrap();
    half.finish();
    drain(&mut half, 100);
    half.handle_credit(&Credit { finished: true, ..credit(37, 20, 100) });
    assert!(matches!(half.finished(), Finished::Aborted(Aborted { code: Code::Protocol, .. })));
}

#[test]
fn an_abort_overtakes_what_was_not_sent_and_frees_all_memory() {
    let mut half = open_sender(1 << 20);
    half.write(&message(9)).unwrap();
    drain(&mut half, 100);
    half.handle_credit(&credit(10, 10, 1 << 20));
    let large = message(100_000);
    half.write(&large).unwrap();
    half.write(&message(10)).unwrap();
    assert!(matches!(half.poll_output(100, &mut Vec::new()), Some(SendOutput::Data { .. })));
    half.abort(Code::Cancelled, "enough");
    half.abort(Code::Internal, "again");
    assert_eq!(half.buffered_bytes(), 0);
    assert!(large.is_unique());
    let why = why(Code::Cancelled, 10, "enough");
    assert_eq!(drain(&mut half, 100).0, [SendOutput::Abort(why.clone())]);
    assert_eq!(half.write(&message(1)), Err(WriteError::Aborted(why.clone())));
    assert_eq!(half.accepted(), Some(Err(why)));
    assert!(!half.has_credit());
    half.handle_credit(&credit(50, 50, 1 << 20));
    half.handle_accept(&accept(7));
    assert_eq!(drain(&mut half, 100).0, []);
}

#[test]
fn an_abort_before_the_opening_was_sent_needs_no_telling() {
    let mut half = SendHalf::new();
    half.abort(Code::Cancelled, "never mind");
    assert_eq!(drain(&mut half, 100).0, []);
}

#[test]
fn an_abort_while_the_answer_is_awaited_is_told() {
    let mut half = SendHalf::new();
    drain(&mut half, 100);
    half.abort(Code::Cancelled, "never mind");
    assert_eq!(drain(&mut half, 100).0, [SendOutput::Abort(why(Code::Cancelled, 0, "never mind"))]);
}

#[test]
fn an_abort_from_the_other_side_is_acknowledged_and_claims_no_more_than_was_sent() {
    let mut half = open_sender(100);
    half.write(&message(9)).unwrap();
    half.write(&message(9)).unwrap();
    drain(&mut half, 100);
    half.handle_credit(&credit(10, 10, 100));
    half.handle_abort(Code::ConsumerGone, u64::MAX, "gone".to_owned());
    assert_eq!(half.finished(), Finished::Aborted(why(Code::ConsumerGone, 20, "gone")));
    assert_eq!(drain(&mut half, 100).0, [SendOutput::EndAck]);
    assert_eq!(half.buffered_bytes(), 0);
}
