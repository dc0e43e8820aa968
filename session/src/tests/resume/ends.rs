//! Ends that are remembered until the other side has heard them, and those who wait no longer.

use super::*;

#[test]
fn an_end_is_remembered_until_it_is_acknowledged() {
    let mut sender = open_sender(100);
    sender.abort(Code::Cancelled, "enough");
    sender.handle_end_ack();
    assert!(!sender.is_settled(), "it was not told");
    assert!(matches!(drain(&mut sender, 100).0[..], [SendOutput::Abort(_)]));
    assert!(!sender.is_settled());
    sender.handle_end_ack();
    assert!(sender.is_settled());

    for consumes in [false, true] {
        let mut receiver = receiver_of(&[9], 26);
        if consumes {
            assert_eq!(read_to_end(&mut receiver), Read::End);
        } else {
            receiver.cancel(Code::Cancelled, "enough");
        }
        receiver.handle_end_ack();
        assert!(!receiver.is_settled(), "it was not told");
        assert_eq!(outputs(&mut receiver).len(), 1);
        assert!(!receiver.is_settled());
        receiver.handle_end_ack();
        assert!(receiver.is_settled());
    }
}

#[test]
fn whoever_is_told_of_an_end_says_once_that_it_was_heard() {
    let mut consumed = finished_sender();
    consumed.handle_credit(&finished(credit(26, 10, 100)));
    let mut refused = SendHalf::new();
    drain(&mut refused, 100);
    refused.handle_abort(Code::NotBound, 0, String::new());
    let mut ended = finished_sender();
    ended.handle_abort(Code::ConsumerGone, 0, String::new());
    for mut half in [consumed, refused, ended] {
        assert!(!half.is_settled());
        assert_eq!(drain(&mut half, 100).0, [SendOutput::EndAck]);
        assert!(half.is_settled());
    }
    for arrived in [15, 26] {
        let mut half = receiver_of(&[9], arrived);
        half.handle_abort(Code::ProducerGone, String::new());
        assert!(!half.is_settled());
        assert_eq!(outputs(&mut half), [ReceiveOutput::EndAck]);
        read_to_end(&mut half);
        assert_eq!(outputs(&mut half), []);
        assert!(half.is_settled());
    }
}

#[test]
fn ends_that_cross_acknowledge_each_other() {
    let mut sender = open_sender(100);
    sender.abort(Code::Cancelled, "enough");
    drain(&mut sender, 100);
    assert_eq!(sender.handle_abort(Code::ConsumerGone, 0, String::new()), Verdict::Ended);
    assert_eq!((sender.is_settled(), code_of(&sender)), (true, Some(Code::Cancelled)));
    assert_eq!(drain(&mut sender, 100).0, []);

    let mut cancelled = receiver_of(&[9], 15);
    cancelled.cancel(Code::Cancelled, "enough");
    let mut consumed = receiver_of(&[9], 26);
    assert_eq!(read_to_end(&mut consumed), Read::End);
    for mut half in [cancelled, consumed] {
        let before = (outputs(&mut half).len(), half.read());
        half.handle_abort(Code::ProducerGone, String::new());
        assert!(half.is_settled());
        assert_eq!((1 + outputs(&mut half).len(), half.read()), before);
    }
}

/// Otherwise the other side would wait for an answer for ever.
#[test]
fn an_end_that_comes_before_this_sides_own_was_told_is_acknowledged() {
    let mut sender = open_sender(100);
    sender.abort(Code::Cancelled, "enough");
    sender.handle_abort(Code::ConsumerGone, 0, String::new());
    assert!(!sender.is_settled());
    assert_eq!(drain(&mut sender, 100).0, [SendOutput::EndAck]);
    assert_eq!((sender.is_settled(), code_of(&sender)), (true, Some(Code::Cancelled)));

    let mut cancelled = receiver_of(&[9], 15);
    cancelled.cancel(Code::Cancelled, "enough");
    let mut consumed = receiver_of(&[9], 26);
    assert_eq!(read_to_end(&mut consumed), Read::End);
    for mut half in [cancelled, consumed] {
        let before = half.read();
        half.handle_abort(Code::ProducerGone, String::new());
        assert!(!half.is_settled());
        assert_eq!(outputs(&mut half), [ReceiveOutput::EndAck]);
        assert_eq!((half.is_settled(), half.read()), (true, before));
    }
}

#[test]
fn a_producer_that_gave_up_tells_that_on_each_path_once_that_is_answered() {
    let mut half = finished_sender();
    half.abort(Code::Cancelled, "enough");
    let why = why(Code::Cancelled, 0, "enough");
    for epoch in 1..4 {
        assert_eq!(drain(&mut half, 100).0, [SendOutput::Abort(why.clone())]);
        lose(&mut half, epoch);
        assert!(!half.is_settled());
        half.handle_resumed(&resumed(epoch, 26, 10, 100));
    }
    drain(&mut half, 100);
    half.handle_end_ack();
    half.handle_path_lost();
    assert_eq!((half.is_settled(), drain(&mut half, 100).0), (true, vec![]));
}

#[test]
fn a_producer_that_gave_up_and_is_answered_by_an_end_acknowledges_that() {
    let mut half = open_sender(100);
    half.abort(Code::Cancelled, "enough");
    lose(&mut half, 1);
    half.handle_abort(Code::OutcomeUnknown, 0, String::new());
    assert_eq!(drain(&mut half, 100).0, [SendOutput::EndAck]);
    assert_eq!((half.is_settled(), code_of(&half)), (true, Some(Code::Cancelled)));
}

#[test]
fn an_opening_that_was_given_up_is_opened_again_only_to_say_so() {
    let mut half = SendHalf::new();
    drain(&mut half, 100);
    half.abort(Code::Cancelled, "enough");
    assert!(matches!(drain(&mut half, 100).0[..], [SendOutput::Abort(_)]), "a first opening need not be answered");
    half.handle_path_lost();
    assert_eq!(drain(&mut half, 100).0, [SendOutput::Open { epoch: 1 }]);
    half.handle_accept(&accept(100));
    assert!(matches!(drain(&mut half, 100).0[..], [SendOutput::Abort(_)]));
}

#[test]
fn a_consumer_that_gave_up_answers_with_that_on_each_path() {
    let mut half = receiver_of(&[9], 15);
    half.cancel(Code::Cancelled, "enough");
    let end = [ReceiveOutput::Abort(why(Code::Cancelled, 0, "enough"))];
    for epoch in 1..4 {
        assert_eq!(outputs(&mut half), end);
        half.handle_path_lost();
        assert!(!half.is_settled());
        half.handle_asked(Asked::Resume, epoch);
    }
    // Also one that has acknowledged the producer's end, when that has not heard it.
    let mut half = receiver_of(&[9], 15);
    half.handle_abort(Code::Cancelled, "enough".to_owned());
    outputs(&mut half);
    assert!(half.is_settled() && half.handle_asked(Asked::Resume, 1) && !half.is_settled());
    assert_eq!(outputs(&mut half), end);
    assert!(half.is_settled());
}

#[test]
fn a_stream_that_was_consumed_is_answered_with_its_end_before_the_end_is_said_again() {
    let mut receiver = receiver_of(&[9], 26);
    assert_eq!(read_to_end(&mut receiver), Read::End);
    let mut sender = finished_sender();
    for epoch in 1..4 {
        outputs(&mut receiver);
        receiver.handle_path_lost();
        receiver.handle_asked(Asked::Resume, epoch);
        lose(&mut sender, epoch);
        let answers = outputs(&mut receiver);
        let [ReceiveOutput::Resumed(resumed), ReceiveOutput::Credit(end)] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((resumed.received, end.finished), (26, true));
        sender.handle_resumed(resumed);
        if epoch == 3 {
            sender.handle_credit(end);
        }
    }
    assert_eq!(sender.finished(), Finished::Consumed);
    assert_eq!(drain(&mut sender, 100).0, [SendOutput::EndAck]);
    receiver.handle_end_ack();
    assert!(sender.is_settled() && receiver.is_settled());
}

#[test]
fn to_have_heard_of_an_end_is_not_worth_another_path() {
    let mut consumed = finished_sender();
    consumed.handle_credit(&finished(credit(26, 10, 100)));
    let mut ended = open_sender(100);
    ended.handle_abort(Code::Cancelled, 0, String::new());
    let mut crossed = open_sender(100);
    crossed.abort(Code::Cancelled, "enough");
    crossed.handle_abort(Code::Cancelled, 0, String::new());
    for mut half in [consumed, ended, crossed] {
        half.handle_path_lost();
        assert!(half.is_settled() && !half.has_output());
    }
    let mut half = receiver_of(&[9], 15);
    half.handle_abort(Code::Cancelled, String::new());
    half.handle_path_lost();
    assert!(half.is_settled() && !half.has_output());
}

#[test]
fn a_producer_that_waits_no_longer_knows_no_outcome_exactly_if_it_had_sent_its_end() {
    let ends_with = |mut half: SendHalf, code| {
        half.handle_path_lost();
        half.give_up_waiting(Code::NodeLost, "nobody came".to_owned());
        assert_eq!(code_of(&half), Some(code));
        assert!(half.is_settled() && !half.has_output());
    };
    ends_with(open_sender(100), Code::NodeLost);
    // Finished, and not all of it sent.
    let mut half = open_sender(5);
    half.write(&message(9)).unwrap();
    half.finish();
    drain(&mut half, 100);
    ends_with(half, Code::NodeLost);
    let mut half = open_sender(100);
    half.write(&message(9)).unwrap();
    half.finish();
    assert_eq!(half.poll_output(25, &mut Vec::new()), Some(data(0, 0)));
    ends_with(half, Code::NodeLost);
    ends_with(finished_sender(), Code::OutcomeUnknown);
    // Sent on an earlier path, and not again.
    let mut half = finished_sender();
    lose(&mut half, 1);
    half.handle_resumed(&resumed(1, 5, 0, 100));
    ends_with(half, Code::OutcomeUnknown);
    // What was ended otherwise stays so.
    let mut half = finished_sender();
    half.abort(Code::Cancelled, "enough");
    ends_with(half, Code::Cancelled);
}

#[test]
fn a_consumer_that_waits_no_longer_ends_unless_the_end_had_come() {
    for (arrived, whole) in [(15, 1), (26, 2)] {
        let mut half = receiver_of(&[9, 9], arrived);
        half.handle_path_lost();
        half.give_up_waiting(Code::TrunkLost, "nobody came".to_owned());
        assert_eq!(half.unread_messages(), whole.min(arrived / 10));
        assert_eq!(read_to_end(&mut half), Read::Aborted(why(Code::TrunkLost, half.consumed(), "nobody came")));
        assert!(half.is_settled());
    }
    let mut half = receiver_of(&[9, 9], 36);
    half.handle_path_lost();
    half.give_up_waiting(Code::TrunkLost, "nobody came".to_owned());
    assert_eq!(read_to_end(&mut half), Read::End);
    assert!(half.is_settled());
}

#[test]
fn a_consumer_that_waited_no_longer_tells_whoever_comes_all_the_same() {
    let mut half = receiver_of(&[9], 5);
    half.handle_path_lost();
    half.give_up_waiting(Code::TrunkLost, "nobody came".to_owned());
    half.handle_asked(Asked::Resume, 1);
    // Not the loss of a path, after which it would be asked again.
    assert_eq!(outputs(&mut half), [ReceiveOutput::Abort(why(Code::OutcomeUnknown, 0, "nobody came"))]);

    for reads_before in [false, true] {
        let mut half = receiver_of(&[9], 26);
        half.handle_path_lost();
        half.give_up_waiting(Code::TrunkLost, "nobody came".to_owned());
        if reads_before {
            assert_eq!(read_to_end(&mut half), Read::End);
        }
        half.handle_asked(Asked::Resume, 1);
        let mut said = outputs(&mut half);
        assert_eq!(read_to_end(&mut half), Read::End);
        said.extend(outputs(&mut half));
        assert!(matches!(said[..], [ReceiveOutput::Resumed(_), ReceiveOutput::Credit(Credit { finished: true, .. })]));
    }
}

#[test]
fn a_resumption_that_was_refused_for_now_is_asked_for_again_under_another_epoch() {
    for has_given_up in [false, true] {
        let mut half = open_sender(100);
        if has_given_up {
            half.abort(Code::Cancelled, "enough");
        }
        lose(&mut half, 1);
        for epoch in 2..4 {
            assert_eq!(half.handle_abort(Code::Busy, 0, String::new()), Verdict::Refused);
            half.handle_path_lost();
            assert!(!half.has_output() && half.is_suspended());
            half.retry();
            assert_eq!(drain(&mut half, 100).0, [resume(epoch)]);
            half.retry();
            assert_eq!(drain(&mut half, 100).0, []);
        }
    }
}

#[test]
fn a_refusal_ends_the_stream_where_another_attempt_would_be_refused_too_or_nobody_had_accepted() {
    for code in [Code::OutcomeUnknown, Code::Forbidden] {
        let mut half = open_sender(100);
        lose(&mut half, 1);
        assert_eq!(half.handle_abort(code, 0, String::new()), Verdict::Ended);
        assert_eq!(code_of(&half), Some(code));
    }
    let mut half = SendHalf::new();
    drain(&mut half, 100);
    assert_eq!(half.handle_abort(Code::Busy, 0, String::new()), Verdict::Ended);
    // On a path that was answered it is an end too.
    assert_eq!(open_sender(100).handle_abort(Code::Busy, 0, String::new()), Verdict::Ended);
}
