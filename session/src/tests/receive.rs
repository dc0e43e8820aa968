//! The receiving half.

use super::*;
use crate::Read;

fn open_receiver(limit: u64) -> ReceiveHalf {
    accepted_receiver(0, limit, 1 << 20)
}

fn read_all(half: &mut ReceiveHalf) -> (Vec<usize>, Read) {
    let mut lengths = Vec::new();
    loop {
        match half.read() {
            Read::Message(found) => {
                assert_eq!(found, message(found.len()));
                lengths.push(found.len());
            }
            other => return (lengths, other),
        }
    }
}

#[track_caller]
fn assert_refused(half: &mut ReceiveHalf, code: Code, text: &str) {
    let told = aborted_with(half);
    assert_eq!((told.code, told.text.as_str()), (code, text));
    assert_eq!(half.poll_output(), None);
    assert!(half.is_over() && !half.has_output());
}

#[test]
fn messages_are_whole_across_all_borders_of_chunks() {
    let lengths = [0, 0, 1, 63, 64, 0, 300, 17_000, 2, 0];
    let bytes = ended(&lengths);
    for chunk_bytes in (1..20).chain([63, 64, 65, 1000, 20_000]) {
        let mut half = open_receiver(1 << 20);
        let (mut offset, mut whole) = (0, 0);
        for chunk in bytes.chunks(chunk_bytes) {
            let fin = offset + chunk.len() == bytes.len();
            whole += half.handle_data(&DataHeader { fin, ..at(offset as u64) }, Bytes::copy_from_slice(chunk));
            offset += chunk.len();
        }
        assert_eq!(whole, lengths.len());
        assert_eq!(half.buffered_bytes(), bytes.len() as u64);
        assert_eq!(read_all(&mut half), (lengths.to_vec(), Read::End));
        assert_eq!(half.buffered_bytes(), 0);
        assert_eq!(half.consumed(), bytes.len() as u64 - 16);
    }
}

#[test]
fn an_empty_stream_ends() {
    let mut half = open_receiver(0);
    assert!(!half.is_readable());
    half.handle_data(&DataHeader { fin: true, ..at(0) }, ended(&[]));
    assert!(half.is_readable() && !half.is_over());
    assert_eq!(half.read(), Read::End);
    assert!(half.is_over());
    assert_eq!(half.read(), Read::End);
    let finished = Credit { finished: true, ..credit(16, 0, 0) };
    assert_eq!(half.poll_output(), Some(ReceiveOutput::Credit(finished)));
    assert_eq!(half.poll_output(), None);
}

#[test]
fn bytes_that_arrived_before_are_dropped() {
    let bytes = ended(&[10, 100, 3]);
    for again_from in 0..60 {
        let mut half = open_receiver(1000);
        half.handle_data(&at(0), bytes.slice(..60));
        half.handle_data(&at(again_from), bytes.slice(usize::try_from(again_from).unwrap()..60));
        half.handle_data(&at(again_from), bytes.slice(usize::try_from(again_from).unwrap()..));
        half.handle_data(&at(0), bytes.clone());
        assert_eq!(read_all(&mut half), (vec![10, 100, 3], Read::End));
        half.handle_data(&at(0), bytes.clone());
        assert_eq!(half.read(), Read::End);
    }
}

#[test]
fn a_gap_ends_the_stream_after_the_messages_that_arrived() {
    let bytes = ended(&[10, 10, 10]);
    let mut half = open_receiver(1000);
    half.handle_data(&at(0), bytes.slice(..15));
    assert_eq!(half.handle_data(&at(16), bytes.slice(16..)), 0);
    assert_refused(&mut half, Code::Protocol, "bytes 15 to 16 are missing");
    assert_eq!(half.buffered_bytes(), 11);
    let (lengths, outcome) = read_all(&mut half);
    assert_eq!(lengths, [10]);
    assert_eq!(outcome, Read::Aborted(why(Code::Protocol, 11, "bytes 15 to 16 are missing")));
}

#[test]
fn bytes_over_the_limit_end_the_stream_even_within_the_room_of_the_end_mark() {
    for (limit, length) in [(10, 10), (10, 17), (10, 16), (10, 500), (0, 1), (0, 0)] {
        for chunk_bytes in [1, 1000] {
            let mut half = open_receiver(limit);
            for (index, chunk) in encoded(&[length, 0, 0]).chunks(chunk_bytes).enumerate() {
                half.handle_data(&at((index * chunk_bytes) as u64), Bytes::copy_from_slice(chunk));
            }
            assert_eq!(aborted_with(&mut half).code, Code::CreditExceeded, "{limit} {length} {chunk_bytes}");
        }
    }
}

#[test]
fn the_end_mark_alone_may_lie_beyond_the_limit() {
    for chunk_bytes in [1, 3, 1000] {
        let bytes = ended(&[9]);
        let mut half = open_receiver(10);
        for (index, chunk) in bytes.chunks(chunk_bytes).enumerate() {
            half.handle_data(&at((index * chunk_bytes) as u64), Bytes::copy_from_slice(chunk));
        }
        assert_eq!(read_all(&mut half), (vec![9], Read::End));
    }
    let mut half = open_receiver(9);
    half.handle_data(&at(0), ended(&[9]));
    assert_eq!(aborted_with(&mut half).code, Code::CreditExceeded);
}

#[test]
fn the_last_bytes_without_an_end_mark_are_no_end() {
    for bytes in [Bytes::new(), ended(&[9]).slice(..10), ended(&[9]).slice(..20), ended(&[9]).slice(..4)] {
        let mut half = open_receiver(100);
        half.handle_data(&DataHeader { fin: true, ..at(0) }, bytes);
        assert_refused(&mut half, Code::Protocol, "the stream ended without its end mark");
        assert!(matches!(read_all(&mut half).1, Read::Aborted(_)));
    }
}

#[test]
fn bytes_after_the_end_mark_end_the_stream_in_whichever_chunk_they_come() {
    let mut bytes = ended(&[9]).to_vec();
    bytes.push(0);
    for cut in 0..bytes.len() {
        let mut half = open_receiver(100);
        half.handle_data(&at(0), Bytes::copy_from_slice(&bytes[..cut]));
        half.handle_data(&at(cut as u64), Bytes::copy_from_slice(&bytes[cut..]));
        assert_refused(&mut half, Code::Protocol, "bytes follow the end mark");
    }
}

#[test]
fn an_end_mark_that_says_another_offset_ends_the_stream() {
    let mut bytes = encoded(&[9]);
    framing::put_end_mark(11, &mut bytes);
    let mut half = open_receiver(100);
    half.handle_data(&DataHeader { fin: true, ..at(0) }, bytes.freeze());
    assert_refused(&mut half, Code::Protocol, "the end mark says offset 11, and 10 bytes preceded it");
}

#[test]
fn what_cannot_begin_a_message_ends_the_stream() {
    let mut bytes = encoded(&[9]);
    bytes.extend_from_slice(&[0xc0, 0]);
    let mut half = open_receiver(100);
    half.handle_data(&at(0), bytes.freeze());
    assert_refused(&mut half, Code::Protocol, "no message begins at offset 10");
}

#[test]
fn a_message_that_is_too_large_is_refused_with_both_sizes_named() {
    let bytes = encoded(&[5, 101]).freeze();
    for cut in [6, 7, 8, bytes.len()] {
        let mut half = accepted_receiver(0, 1000, 100);
        half.handle_data(&at(0), bytes.slice(..cut));
        half.handle_data(&at(cut as u64), bytes.slice(cut..));
        assert_refused(&mut half, Code::MessageTooLarge, "a message of 101 bytes; at most 100 are taken");
        assert_eq!(read_all(&mut half).0, [5]);
    }
    let mut half = accepted_receiver(0, 1000, 101);
    half.handle_data(&at(0), bytes);
    assert_eq!(read_all(&mut half), (vec![5, 101], Read::Pending));
}

#[test]
fn data_of_another_epoch_is_dropped_before_it_is_counted() {
    let mut half = accepted_receiver(3, 100, 100);
    for epoch in [2, 4] {
        assert_eq!(half.handle_data(&DataHeader { epoch, ..at(50) }, encoded(&[9]).freeze()), 0);
    }
    assert_eq!((half.buffered_bytes(), half.has_output()), (0, false));
    half.handle_data(&DataHeader { epoch: 3, ..at(0) }, encoded(&[9]).freeze());
    assert_eq!(read_all(&mut half), (vec![9], Read::Pending));
}

#[test]
fn an_abort_drops_the_partial_message_and_leaves_the_whole_ones() {
    let bytes = ended(&[10, 10]);
    let mut half = open_receiver(100);
    half.handle_data(&at(0), bytes.slice(..15));
    half.handle_abort(Code::ProducerGone, "gone".to_owned());
    half.handle_data(&at(15), bytes.slice(15..));
    assert_eq!(half.buffered_bytes(), 11);
    assert_eq!((half.poll_output(), half.poll_output()), (Some(ReceiveOutput::EndAck), None));
    let gone = Read::Aborted(why(Code::ProducerGone, 11, "gone"));
    assert_eq!(read_all(&mut half), (vec![10], gone.clone()));
    half.handle_abort(Code::ConsumerGone, "again".to_owned());
    half.cancel(Code::Cancelled, "again");
    assert_eq!(half.read(), gone);
    assert_eq!(half.poll_output(), None);
}

#[test]
fn an_abort_after_the_end_mark_arrived_changes_nothing() {
    let mut half = open_receiver(100);
    half.handle_data(&at(0), ended(&[10]));
    half.handle_abort(Code::ProducerGone, "gone".to_owned());
    assert_eq!(read_all(&mut half), (vec![10], Read::End));
}

#[test]
fn a_cancel_frees_all_and_is_told_once_with_the_offset_consumed() {
    let bytes = ended(&[10, 10, 10]);
    for arrived in [15, 26, bytes.len()] {
        let mut half = open_receiver(100);
        half.handle_data(&at(0), bytes.slice(..arrived));
        assert!(matches!(half.read(), Read::Message(_)));
        half.cancel(Code::Cancelled, "enough");
        half.cancel(Code::Internal, "again");
        assert_eq!(half.buffered_bytes(), 0);
        assert_refused(&mut half, Code::Cancelled, "enough");
        assert_eq!(half.read(), Read::Aborted(why(Code::Cancelled, 11, "enough")));
        half.handle_data(&at(arrived as u64), bytes.slice(arrived..));
        assert_eq!(half.read(), Read::Aborted(why(Code::Cancelled, 11, "enough")));
    }
}

#[test]
fn a_cancel_after_the_end_was_consumed_changes_nothing() {
    let mut half = open_receiver(100);
    half.handle_data(&at(0), ended(&[10]));
    assert_eq!(read_all(&mut half).1, Read::End);
    half.cancel(Code::Cancelled, "too late");
    assert_eq!(half.read(), Read::End);
    assert!(matches!(half.poll_output(), Some(ReceiveOutput::Credit(Credit { finished: true, consumed: 11, .. }))));
    assert_eq!(half.poll_output(), None);
}

#[test]
fn the_policy_is_told_in_time_whatever_the_sizes_of_messages_around_the_window() {
    for first in 0..=105 {
        for second in [0, 1, 50, 62, 63, 90, 95, 99, 100, 101] {
            let bytes = encoded(&[first, second]);
            let mut half = open_receiver(100);
            let (mut limit, mut sent, mut consumed, mut read) = (100_usize, 0, 0, 0);
            // Sent byte by byte: the policy must hear each time that the sender has nothing left to send.
            while read < 2 {
                assert!(sent < bytes.len(), "{first} then {second}: all sent, {read} read");
                half.handle_data(&at(sent as u64), Bytes::copy_from_slice(&bytes[sent..=sent]));
                sent += 1;
                while let Read::Message(_) = half.read() {
                    read += 1;
                }
                if let Some(told) = half.poll_consumed() {
                    assert!(told > consumed);
                    consumed = told;
                    limit = limit.max(usize::try_from(told).unwrap() + 100);
                }
                if let Some(end) = half.poll_message_end() {
                    consumed = half.consumed();
                    limit = limit.max(usize::try_from(end).unwrap());
                }
                half.handle_grant(limit as u64);
                assert!(sent < limit || read == 2, "{first} then {second}: stuck at {sent}");
            }
        }
    }
}

#[test]
fn small_messages_are_reported_in_steps_and_not_one_by_one() {
    let mut half = open_receiver(1000);
    half.handle_data(&at(0), encoded(&[9; 50]).freeze());
    let mut reports = Vec::new();
    while let Read::Message(_) = half.read() {
        reports.extend(half.poll_consumed());
    }
    assert_eq!(reports, [250, 440]);
}

#[test]
fn what_was_read_is_reported_at_once_when_nothing_is_left_to_read_near_the_limit() {
    for (arrived, reported) in [(50, None), (80, Some(11))] {
        let mut half = open_receiver(100);
        half.handle_data(&at(0), encoded(&[10, 95]).freeze().slice(..arrived));
        assert!(matches!(half.read(), Read::Message(_)));
        assert_eq!(half.poll_consumed(), reported);
    }
}

#[test]
fn a_message_beyond_the_limit_is_asked_for_once_when_it_is_at_the_head_and_somebody_waits_for_it() {
    let bytes = encoded(&[10, 500, 500]);
    let mut half = open_receiver(100);
    half.handle_data(&at(0), Bytes::copy_from_slice(&bytes[..100]));
    assert_eq!(half.poll_message_end(), None);
    half.await_message();
    assert_eq!(half.poll_message_end(), None, "it is not at the head");
    assert!(matches!(half.read(), Read::Message(_)));
    assert_eq!(half.poll_message_end(), None, "whoever has a message waits for none");
    assert_eq!(half.read(), Read::Pending);
    assert_eq!(half.poll_message_end(), Some(513));
    assert_eq!(half.poll_message_end(), None);
    assert_eq!(half.poll_consumed(), None);
    half.handle_grant(520);
    half.handle_data(&at(100), Bytes::copy_from_slice(&bytes[100..520]));
    assert!(matches!(half.read(), Read::Message(_)));
    assert_eq!(half.poll_message_end(), None, "nobody waits for the next");
    assert_eq!(half.poll_consumed(), Some(513));
    half.await_message();
    assert_eq!(half.poll_message_end(), Some(1015));
}

#[test]
fn the_sender_is_told_of_grants_of_consumption_and_of_much_that_arrived() {
    let mut half = open_receiver(200_000);
    assert_eq!(half.poll_output(), None);
    half.handle_data(&at(0), encoded(&[60_000]).freeze());
    assert_eq!(half.poll_output(), None);
    half.handle_data(&at(60_004), encoded(&[10_000]).freeze());
    assert_eq!(half.poll_output(), Some(ReceiveOutput::Credit(credit(70_006, 0, 200_000))));
    assert_eq!(half.poll_output(), None);
    while let Read::Message(_) = half.read() {}
    assert_eq!(half.poll_consumed(), Some(70_006));
    assert_eq!(half.poll_output(), Some(ReceiveOutput::Credit(credit(70_006, 70_006, 200_000))));
    half.handle_grant(100);
    assert_eq!(half.poll_output(), None);
    half.handle_grant(200_001);
    assert_eq!(half.poll_output(), Some(ReceiveOutput::Credit(credit(70_006, 70_006, 200_001))));
}

#[test]
fn a_sender_that_asks_again_is_told_that_all_arrived_though_nobody_reads() {
    let mut half = open_receiver(100);
    half.handle_data(&at(0), encoded(&[49, 48]).freeze());
    assert_eq!(half.poll_output(), None);
    half.handle_data(&at(99), encoded(&[0]).freeze());
    assert_eq!(half.poll_output(), None, "whoever has no more to send need not know");
    half.handle_want(200);
    assert_eq!(half.poll_output(), None, "it asks for credit, and is told with that");
    half.handle_want(200);
    assert_eq!(half.poll_output(), Some(ReceiveOutput::Credit(credit(100, 0, 100))));
    assert_eq!(half.poll_output(), None);
}

#[test]
fn a_policy_without_limits_overflows_nothing() {
    let mut half = open_receiver(u64::MAX);
    half.handle_data(&at(0), encoded(&[10, 10]).freeze());
    half.handle_grant(u64::MAX);
    assert!(matches!(half.read(), Read::Message(_)));
    assert_eq!((half.poll_consumed(), half.poll_message_end()), (None, None));
}
