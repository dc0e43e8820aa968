//! Halves that outlive their path: each sentence of docs/adr/0012 that is about them.

mod ends;
mod lossy;

use trunkline_proto::message::{Limit, Reclaim, Resumed};

use super::*;
use crate::{Asked, Finished, Read, Verdict};

const PATH_ENDS: [Code; 3] = [Code::TrunkLost, Code::NodeLost, Code::Superseded];

fn resumed(epoch: u32, received: u64, consumed: u64, limit: u64) -> Resumed {
    Resumed { stream: 0, epoch, received, consumed, limit }
}

fn resume(epoch: u32) -> SendOutput {
    SendOutput::Resume { epoch, consumer: accept(0).incarnation }
}

fn data(epoch: u32, offset: u64) -> SendOutput {
    SendOutput::Data { offset, epoch, fin: false }
}

fn fin(epoch: u32, offset: u64) -> SendOutput {
    SendOutput::Data { offset, epoch, fin: true }
}

fn finished(credit: Credit) -> Credit {
    Credit { finished: true, ..credit }
}

/// The path is lost, and the half asks for the next.
#[track_caller]
fn lose(half: &mut SendHalf, epoch: u32) {
    half.handle_path_lost();
    assert_eq!(drain(half, 100).0, [resume(epoch)]);
}

/// A sender that has finished a stream of 26 bytes and sent everything.
fn finished_sender() -> SendHalf {
    let mut half = open_sender(100);
    half.write(&message(9)).unwrap();
    half.finish();
    assert_eq!(drain(&mut half, 100).1, ended(&[9]));
    half
}

/// A receiver to which so many bytes of a stream came whose messages have these lengths.
fn receiver_of(lengths: &[usize], arrived: usize) -> ReceiveHalf {
    let mut half = accepted_receiver(0, 1000, 1000);
    half.handle_data(&at(0), ended(lengths).slice(..arrived));
    half
}

fn outputs(half: &mut ReceiveHalf) -> Vec<ReceiveOutput> {
    std::iter::from_fn(|| half.poll_output()).collect()
}

fn read_to_end(half: &mut ReceiveHalf) -> Read {
    loop {
        match half.read() {
            Read::Message(_) => {}
            other => return other,
        }
    }
}

fn code_of(half: &SendHalf) -> Option<Code> {
    match half.finished() {
        Finished::Aborted(why) => Some(why.code),
        Finished::Pending | Finished::Consumed => None,
    }
}

// A path is not a stream.

#[test]
fn an_abort_ends_the_path_or_the_stream_as_its_code_says() {
    for &code in Code::ALL {
        let ends_path = PATH_ENDS.contains(&code);
        let mut sender = open_sender(100);
        let verdict = sender.handle_abort(code, 0, String::new());
        assert_eq!(verdict, if ends_path { Verdict::PathLost } else { Verdict::Ended }, "{code}");
        assert_eq!((sender.is_over(), sender.is_suspended()), (!ends_path, ends_path), "{code}");
        let mut receiver = receiver_of(&[9], 10);
        receiver.handle_abort(code, String::new());
        assert_eq!((receiver.is_over(), receiver.is_suspended()), (!ends_path, ends_path), "{code}");
    }
}

#[test]
fn without_a_path_a_sender_takes_what_it_may_and_says_only_that_it_wants_another() {
    let mut half = open_sender(100);
    half.write(&message(9)).unwrap();
    half.handle_path_lost();
    half.write(&message(9)).unwrap();
    half.finish();
    assert_eq!(drain(&mut half, 100), (vec![resume(1)], vec![]));
    for epoch in [0, 1] {
        half.handle_credit(&Credit { epoch, ..credit(10, 10, 1000) });
        half.handle_reclaim(&Reclaim { stream: 0, epoch, limit: 0 });
    }
    assert_eq!(drain(&mut half, 100).0, []);
    assert_eq!((half.buffered_bytes(), half.consumed()), (20 + 16, 0));
}

#[test]
fn without_a_path_a_receiver_is_read_and_says_nothing() {
    let mut half = receiver_of(&[9, 9], 20);
    half.handle_path_lost();
    half.handle_grant(5000);
    half.handle_want(5000);
    half.reclaim(2000);
    assert!(matches!(half.read(), Read::Message(_)));
    assert!(matches!(half.read(), Read::Message(_)));
    assert_eq!((half.read(), half.consumed()), (Read::Pending, 20));
    assert_eq!((half.has_output(), half.poll_output()), (false, None));
    half.cancel(Code::Cancelled, "enough");
    assert_eq!((half.has_output(), half.poll_output()), (false, None));
    assert!(!half.is_settled(), "nobody knows");
}

// The producer's side resumes.

#[test]
fn each_path_that_is_lost_is_followed_by_the_next_epoch_also_before_its_answer() {
    let mut half = open_sender(100);
    for epoch in 1..4 {
        half.handle_path_lost();
        half.handle_path_lost();
        assert_eq!(drain(&mut half, 100).0, [resume(epoch)], "two losses without a word between them are one");
    }
    half.handle_resumed(&resumed(3, 0, 0, 100));
    assert!(!half.is_suspended());
    lose(&mut half, 4);
}

#[test]
fn words_of_an_older_epoch_change_nothing() {
    let mut half = open_sender(100);
    half.write(&message(50)).unwrap();
    drain(&mut half, 100);
    lose(&mut half, 1);
    half.handle_resumed(&resumed(0, 0, 0, 100));
    assert!(half.is_suspended());
    half.handle_resumed(&resumed(1, 0, 0, 20));
    drain(&mut half, 100);
    half.handle_credit(&credit(51, 51, 1000));
    half.handle_reclaim(&Reclaim { stream: 0, epoch: 0, limit: 0 });
    half.handle_resumed(&resumed(1, 20, 0, 1000));
    assert_eq!((half.buffered_bytes(), half.consumed(), drain(&mut half, 100).0), (51, 0, vec![]));

    let bytes = ended(&[9, 9]);
    let mut half = receiver_of(&[9, 9], 10);
    half.reclaim(20);
    assert!(half.handle_asked(Asked::Resume, 3));
    outputs(&mut half);
    half.reclaim(12);
    assert_eq!(outputs(&mut half), [ReceiveOutput::Reclaim(Reclaim { stream: 0, epoch: 3, limit: 12 })]);
    for epoch in [0, 2, 4] {
        half.handle_data(&DataHeader { epoch, ..at(10) }, bytes.slice(10..));
        assert_eq!(half.handle_limit(&Limit { stream: 0, epoch, limit: 15 }), None);
    }
    assert_eq!((half.received(), half.is_over()), (10, false));
    assert_eq!(half.handle_limit(&Limit { stream: 0, epoch: 3, limit: 20 }), Some(20));
    half.handle_data(&DataHeader { epoch: 3, ..at(10) }, bytes.slice(10..));
    assert_eq!(read_to_end(&mut half), Read::End);
}

#[test]
fn the_answer_says_what_has_arrived_what_was_consumed_and_all_that_may_be_sent() {
    let mut half = receiver_of(&[9, 9, 9], 25);
    assert!(matches!(half.read(), Read::Message(_)));
    half.handle_path_lost();
    half.handle_grant(1500);
    assert!(half.handle_asked(Asked::Resume, 1));
    assert!(matches!(half.read(), Read::Message(_)));
    assert_eq!(outputs(&mut half), [ReceiveOutput::Resumed(resumed(1, 25, 20, 1500))]);
    // What comes after it is said as ever.
    half.handle_grant(1600);
    let credit = Credit { epoch: 1, ..credit(25, 20, 1600) };
    assert_eq!(outputs(&mut half), [ReceiveOutput::Credit(credit)]);
}

#[test]
fn exactly_what_has_not_arrived_is_sent_again() {
    let lengths = [0, 1, 63, 64, 5000, 0, 4096, 4095];
    let stream = ended(&lengths);
    for received in [0, 1, 2, 3, 66, 67, 130, 1000, 5132, 5133, stream.len() - 17, stream.len() - 16, stream.len() - 1]
    {
        for sent_bytes in [777, 1 << 20] {
            let mut half = open_sender(1 << 20);
            for length in lengths {
                half.write(&message(length)).unwrap();
            }
            half.finish();
            let mut pieces: Vec<Bytes> = Vec::new();
            while pieces.concat().len() < received {
                half.poll_output(sent_bytes, &mut pieces);
            }
            half.handle_credit(&credit((received / 2) as u64, 0, 0));
            for epoch in 1..3 {
                lose(&mut half, epoch);
                half.handle_resumed(&resumed(epoch, received as u64, 0, 1 << 20));
                assert_eq!(half.buffered_bytes(), (stream.len() - received) as u64);
                let (outputs, bytes) = drain(&mut half, 1000);
                assert_eq!(bytes, stream[received..], "from {received}");
                assert_eq!(outputs[0], SendOutput::Data { offset: received as u64, epoch, fin: outputs.len() == 1 });
            }
        }
    }
}

#[test]
fn on_a_path_on_which_everything_has_arrived_before_the_end_is_said_by_an_empty_piece() {
    let mut half = finished_sender();
    lose(&mut half, 1);
    half.handle_resumed(&resumed(1, 25, 0, 100));
    assert_eq!(drain(&mut half, 100), (vec![fin(1, 25)], ended(&[9])[25..].to_vec()));
    for epoch in 2..4 {
        lose(&mut half, epoch);
        half.handle_resumed(&resumed(epoch, 26, 0, 100));
        assert_eq!(drain(&mut half, 100), (vec![fin(epoch, 26)], vec![]));
    }

    let mut half = receiver_of(&[9], 26);
    half.handle_asked(Asked::Resume, 1);
    outputs(&mut half);
    half.handle_data(&DataHeader { epoch: 1, fin: true, ..at(26) }, Bytes::new());
    assert_eq!(read_to_end(&mut half), Read::End);
}

#[test]
fn the_limit_of_the_answer_takes_the_place_of_all_that_was_allowed_before() {
    for limit in [12, 30, 40] {
        let mut half = open_sender(30);
        half.write(&message(50)).unwrap();
        drain(&mut half, 100);
        lose(&mut half, 1);
        half.handle_resumed(&resumed(1, 10, 0, limit));
        let (outputs, bytes) = drain(&mut half, 100);
        assert_eq!(bytes, encoded(&[50])[10..usize::try_from(limit).unwrap()]);
        assert_eq!(outputs, [data(1, 10), SendOutput::Want { epoch: 1, wanted: 51 }]);
        assert_eq!(half.charged_bytes(), limit - 10);
    }
}

#[test]
fn what_is_wanted_is_said_again_on_each_path() {
    let mut half = open_sender(0);
    assert!(half.write(&message(9)).is_err());
    for epoch in 0..3 {
        assert_eq!(drain(&mut half, 100).0, [SendOutput::Want { epoch, wanted: 10 }]);
        lose(&mut half, epoch + 1);
        half.handle_resumed(&resumed(epoch + 1, 0, 0, 0));
    }
}

#[test]
fn what_is_wanted_again_on_another_path_is_no_question_for_what_has_arrived() {
    let mut half = accepted_receiver(0, 100, 1000);
    half.handle_want(500);
    half.handle_asked(Asked::Resume, 1);
    outputs(&mut half);
    half.handle_data(&DataHeader { epoch: 1, ..at(0) }, encoded(&[9]).freeze());
    half.handle_want(500);
    assert!(!half.has_output());
    half.handle_want(500);
    assert!(half.has_output());
}

#[test]
fn a_reclaim_that_was_not_answered_is_void_on_the_next_path() {
    let mut half = open_sender(100);
    half.handle_reclaim(&Reclaim { stream: 0, epoch: 0, limit: 10 });
    lose(&mut half, 1);
    half.handle_resumed(&resumed(1, 0, 0, 100));
    half.write(&message(50)).unwrap();
    assert_eq!(drain(&mut half, 100).0, [data(1, 0)]);
}

#[test]
fn credit_that_was_asked_back_is_back_with_the_loss_of_the_path() {
    for is_told in [false, true] {
        let mut half = receiver_of(&[9, 9], 15);
        half.reclaim(12);
        if is_told {
            assert_eq!(outputs(&mut half), [ReceiveOutput::Reclaim(Reclaim { stream: 0, epoch: 0, limit: 12 })]);
        }
        half.handle_path_lost();
        // What has been used is not back.
        assert_eq!((half.poll_limited(), half.poll_limited()), (Some(15), None));
        // What was sent with it is not taken.
        half.handle_data(&at(15), ended(&[9, 9]).slice(15..));
        assert_eq!(half.received(), 15);
        half.handle_asked(Asked::Resume, 1);
        assert_eq!(outputs(&mut half), [ReceiveOutput::Resumed(resumed(1, 15, 0, 15))]);
    }
}

#[test]
fn credit_that_is_asked_back_while_there_is_no_path_is_back_at_once() {
    let mut half = receiver_of(&[9, 9], 15);
    half.handle_path_lost();
    assert_eq!(half.poll_limited(), None);
    half.reclaim(500);
    assert_eq!(half.poll_limited(), Some(500));
    half.reclaim(0);
    assert_eq!(half.poll_limited(), Some(15));
    half.handle_grant(600);
    half.handle_asked(Asked::Resume, 1);
    assert_eq!(outputs(&mut half), [ReceiveOutput::Resumed(resumed(1, 15, 0, 600))]);
    // On a path it is asked for as ever, once it is told what it has.
    half.reclaim(100);
    assert_eq!(half.poll_limited(), None);
    assert_eq!(outputs(&mut half), [ReceiveOutput::Reclaim(Reclaim { stream: 0, epoch: 1, limit: 100 })]);
}

#[test]
fn the_bytes_of_an_end_mark_are_no_credit_that_could_be_taken_back() {
    for arrived in [10, 11, 25, 26] {
        let mut half = receiver_of(&[9], arrived);
        half.handle_path_lost();
        half.reclaim(0);
        assert_eq!(half.poll_limited(), Some(10), "{arrived} bytes came");
        half.handle_asked(Asked::Resume, 1);
        outputs(&mut half);
        half.handle_data(&DataHeader { epoch: 1, fin: true, ..at(arrived as u64) }, ended(&[9]).slice(arrived..));
        assert_eq!(read_to_end(&mut half), Read::End);
    }
}

#[test]
fn a_message_that_was_let_in_is_asked_for_again_when_its_credit_is_taken_back_without_a_path() {
    let mut half = accepted_receiver(0, 100, 1000);
    half.handle_data(&at(0), encoded(&[500]).freeze().slice(..100));
    half.await_message();
    assert_eq!(half.poll_message_end(), Some(502));
    half.handle_grant(502);
    half.handle_path_lost();
    assert_eq!(half.poll_message_end(), None);
    half.reclaim(300);
    assert_eq!((half.poll_limited(), half.poll_message_end()), (Some(300), Some(502)));
}

#[test]
fn an_answer_that_contradicts_what_was_sent_ends_the_stream() {
    let contradictions = [
        (resumed(1, 4, 0, 100), "0 bytes consumed of 4 received, of 10 sent and 5 known"),
        (resumed(1, 11, 0, 100), "0 bytes consumed of 11 received, of 10 sent and 5 known"),
        (resumed(1, 8, 9, 100), "9 bytes consumed of 8 received, of 10 sent and 5 known"),
        (resumed(1, 8, 1, 100), "1 bytes consumed of 8 received, of 10 sent and 5 known"),
    ];
    for (contradiction, text) in contradictions {
        let mut half = open_sender(10);
        half.write(&message(20)).unwrap();
        drain(&mut half, 100);
        half.handle_credit(&credit(5, 2, 10));
        lose(&mut half, 1);
        half.handle_resumed(&contradiction);
        let why = why(Code::Protocol, 2, text);
        assert_eq!(half.finished(), Finished::Aborted(why.clone()));
        assert_eq!(drain(&mut half, 100).0, [SendOutput::Abort(why)]);
    }
}

#[test]
fn an_opening_without_an_answer_is_said_again_with_the_next_epoch() {
    let mut half = SendHalf::new();
    for epoch in 0..3 {
        assert_eq!(drain(&mut half, 100).0, [SendOutput::Open { epoch }]);
        half.handle_path_lost();
    }
    assert_eq!(drain(&mut half, 100).0, [SendOutput::Open { epoch: 3 }]);
    half.handle_accept(&accept(100));
    half.write(&message(9)).unwrap();
    assert_eq!(drain(&mut half, 100).0, [data(3, 0)]);
    lose(&mut half, 4);
}

#[test]
fn a_consumer_that_had_accepted_accepts_again() {
    let mut half = accepted_receiver(0, 100, 1000);
    for epoch in [1, 5] {
        half.handle_grant(100 + u64::from(epoch));
        assert!(half.handle_asked(Asked::Open, epoch));
        assert_eq!(outputs(&mut half), [ReceiveOutput::Accept { limit: 100 + u64::from(epoch) }]);
    }
    half.handle_data(&DataHeader { epoch: 5, ..at(0) }, ended(&[9]));
    assert_eq!(read_to_end(&mut half), Read::End);
}

#[test]
fn a_stream_of_which_bytes_have_come_is_not_opened_once_more() {
    let mut half = receiver_of(&[9], 5);
    assert!(half.handle_asked(Asked::Open, 1));
    assert_eq!(aborted_with(&mut half).code, Code::Protocol);
    // What the application was told stays.
    let mut half = receiver_of(&[9], 26);
    assert_eq!(read_to_end(&mut half), Read::End);
    half.handle_asked(Asked::Open, 1);
    assert_eq!((half.read(), half.aborted()), (Read::End, None));
}

#[test]
fn another_life_of_the_consumer_may_accept_only_before_one_has() {
    let another = Accept { incarnation: Incarnation::from_bits(2), ..accept(100) };
    let mut half = SendHalf::new();
    drain(&mut half, 100);
    half.handle_path_lost();
    drain(&mut half, 100);
    half.handle_accept(&another);
    assert_eq!((half.consumer(), half.accepted()), (Some(another.incarnation), Some(Ok(()))));

    let mut half = open_sender(100);
    lose(&mut half, 1);
    half.handle_accept(&another);
    assert_eq!(code_of(&half), Some(Code::Protocol));
    assert!(matches!(drain(&mut half, 100).0[..], [SendOutput::Abort(_)]));
}

#[test]
fn an_epoch_that_is_not_newer_is_refused_and_changes_nothing() {
    let mut half = accepted_receiver(3, 100, 1000);
    for (asked, epoch) in [(Asked::Open, 3), (Asked::Resume, 3), (Asked::Resume, 2), (Asked::Open, 0)] {
        assert!(!half.handle_asked(asked, epoch));
        assert_eq!((half.is_suspended(), half.has_output(), half.is_over()), (false, false, false));
    }
    half.handle_data(&DataHeader { epoch: 3, ..at(0) }, encoded(&[9]).freeze());
    assert_eq!(half.received(), 10);
}
