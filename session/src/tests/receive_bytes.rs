//! The receiving half, read as bytes, or now so and now by messages.

use proptest::prelude::*;

use super::*;
use crate::{Read, ReadBytes};

/// What an application does next.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// This many bytes arrive, if there is credit.
    Arrive(usize),
    /// It reads a message.
    Message,
    /// It reads at most so many bytes.
    Bytes(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let size = prop_oneof![1_usize..5, 1_usize..80, 1_usize..3_000];
    prop_oneof![
        3 => size.clone().prop_map(Act::Arrive),
        1 => Just(Act::Message),
        2 => size.prop_map(Act::Bytes),
    ]
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![Just(0_usize), 0_usize..10, 0_usize..200, 0_usize..5_000], 0..12)
}

/// A stream, its reader, and a policy that keeps a window of one size.
struct Bench {
    half: ReceiveHalf,
    /// Everything that is sent, the end mark included.
    stream: Bytes,
    sent: usize,
    limit: usize,
    window: usize,
    /// Messages that were asked for as a whole.
    asked: usize,
    /// The messages one after another, without their lengths.
    content: Vec<u8>,
    /// Where each message ends: in `content`, and in the stream.
    ends: Vec<(usize, u64)>,
    read: Vec<u8>,
    has_ended: bool,
}

impl Bench {
    fn new(lengths: &[usize], window: usize) -> Self {
        let (mut content, mut ends, mut offset) = (Vec::new(), Vec::new(), 0);
        for &length in lengths {
            content.extend_from_slice(&message(length));
            offset += (framing::length_bytes(length) + length) as u64;
            ends.push((content.len(), offset));
        }
        Self {
            half: accepted_receiver(0, window as u64, 1 << 20),
            stream: ended(lengths),
            sent: 0,
            limit: window,
            window,
            asked: 0,
            content,
            ends,
            read: Vec::new(),
            has_ended: false,
        }
    }

    fn arrive(&mut self, count: usize) {
        // The end mark needs no credit.
        let mark = self.stream.len() - framing::END_MARK_BYTES;
        let until = if self.limit >= mark { self.stream.len() } else { self.limit };
        let count = count.min(until - self.sent);
        self.half.handle_data(&at(self.sent as u64), self.stream.slice(self.sent..self.sent + count));
        self.sent += count;
        self.settle();
    }

    fn message(&mut self) {
        if let Read::Message(rest) = self.half.read() {
            let end = self.ends[usize::try_from(self.half.messages_read()).unwrap() - 1];
            assert_eq!(self.read.len() + rest.len(), end.0, "the rest of a message and no other");
            assert_eq!(self.half.consumed(), end.1);
            self.read.extend_from_slice(&rest);
        } else {
            self.has_ended |= self.half.is_finished();
        }
        self.settle();
    }

    fn bytes(&mut self, max: usize) {
        let before = self.read.len();
        let is_readable = self.half.is_readable();
        match self.half.read_bytes(&mut (&mut self.read).limit(max)) {
            ReadBytes::Bytes(count) => assert!(count == self.read.len() - before && (1..=max).contains(&count)),
            ReadBytes::Pending => assert!(!self.half.has_bytes()),
            ReadBytes::End => self.has_ended = true,
            ReadBytes::Aborted(why) => panic!("{why}"),
        }
        assert!(is_readable || !self.has_ended);
        self.settle();
    }

    /// Changes with anything that brings the stream nearer to its end.
    fn progress(&self) -> (usize, usize, usize, u64, bool) {
        (self.sent, self.limit, self.read.len(), self.half.messages_read(), self.has_ended)
    }

    /// What holds at any time; and the policy's answer.
    fn settle(&mut self) {
        assert_eq!(self.content[..self.read.len()], self.read);
        assert!(self.half.received() <= (self.limit + framing::END_MARK_BYTES) as u64);
        // Consumed is what was read, and perhaps the length of the message that comes next.
        let whole = usize::try_from(self.half.messages_read()).unwrap();
        let (read, offset) = whole.checked_sub(1).map_or((0, 0), |last| self.ends[last]);
        let begun = (self.read.len() - read) as u64;
        let head = self.half.consumed() - offset - begun;
        assert!(
            head <= 4 && (begun == 0 || head > 0),
            "{} consumed, {begun} bytes after {offset}",
            self.half.consumed()
        );
        if !self.half.is_finished() {
            assert_eq!(self.half.buffered_bytes(), self.half.received() - self.half.consumed());
        }
        if let Some(consumed) = self.half.poll_consumed() {
            assert_eq!(consumed, self.half.consumed());
            self.limit = self.limit.max(usize::try_from(consumed).unwrap() + self.window);
        }
        if let Some(end) = self.half.poll_message_end() {
            self.asked += 1;
            self.limit = self.limit.max(usize::try_from(end).unwrap());
        }
        self.half.handle_grant(self.limit as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_and_any_mix_of_reads_gives_the_same_bytes(
        lengths in lengths(),
        window in prop_oneof![4_usize..40, 4_usize..9_000],
        acts in prop::collection::vec(act(), 1..200),
    ) {
        let mut bench = Bench::new(&lengths, window);
        for act in acts {
            match act {
                Act::Arrive(count) => bench.arrive(count),
                Act::Message => bench.message(),
                Act::Bytes(max) => bench.bytes(max),
            }
        }
        // Whoever goes on with messages gets the rest; the policy is asked where that needs room.
        while !bench.has_ended {
            let before = bench.progress();
            bench.arrive(usize::MAX);
            bench.message();
            prop_assert!(before != bench.progress(), "stuck at {before:?}");
        }
        prop_assert_eq!(&bench.read, &bench.content);
        prop_assert_eq!(bench.half.messages_read(), lengths.len() as u64);
        let consumed = bench.ends.last().map_or(0, |end| end.1);
        prop_assert_eq!(bench.half.consumed(), consumed);
    }

    #[test]
    fn a_stream_read_as_bytes_needs_no_more_than_its_window(
        lengths in lengths(),
        window in 4_usize..40,
        chunk in 1_usize..50,
        max in 1_usize..50,
    ) {
        let mut bench = Bench::new(&lengths, window);
        bench.bytes(max);
        while !bench.has_ended {
            let before = bench.progress();
            bench.arrive(chunk);
            // It is woken only for what it can read.
            while bench.half.has_bytes() && !bench.has_ended {
                bench.bytes(max);
            }
            prop_assert!(before != bench.progress(), "stuck at {before:?}");
        }
        prop_assert_eq!(&bench.read, &bench.content);
        prop_assert_eq!(bench.asked, 0);
        prop_assert!(bench.limit <= bench.stream.len() + window);
    }
}

fn read_bytes(half: &mut ReceiveHalf, max: usize) -> (Vec<u8>, ReadBytes) {
    let mut out = Vec::new();
    let found = half.read_bytes(&mut (&mut out).limit(max));
    (out, found)
}

#[test]
fn empty_messages_are_passed_over_and_consumed() {
    let mut half = accepted_receiver(0, 100, 100);
    half.handle_data(&at(0), ended(&[0, 0, 2, 0, 1, 0]));
    assert_eq!(read_bytes(&mut half, 10), (vec![0, 1, 0], ReadBytes::Bytes(3)));
    assert_eq!((half.messages_read(), half.consumed()), (6, 9));
    assert_eq!(read_bytes(&mut half, 10), (Vec::new(), ReadBytes::End));
    assert!(half.is_finished());
}

#[test]
fn without_room_nothing_is_read_and_no_end_is_consumed() {
    let mut half = accepted_receiver(0, 100, 100);
    assert_eq!(read_bytes(&mut half, 0).1, ReadBytes::Bytes(0));
    half.handle_data(&at(0), ended(&[]));
    assert_eq!(read_bytes(&mut half, 0).1, ReadBytes::Bytes(0));
    assert!(!half.is_over());
    assert_eq!(read_bytes(&mut half, 1).1, ReadBytes::End);
}

#[test]
fn bytes_of_a_message_that_never_becomes_whole_end_with_the_offset_that_was_read() {
    let bytes = ended(&[10, 10]);
    let mut half = accepted_receiver(0, 100, 100);
    half.handle_data(&at(0), bytes.slice(..18));
    assert_eq!(read_bytes(&mut half, 12).1, ReadBytes::Bytes(12));
    half.handle_abort(Code::ProducerGone, "gone".to_owned());
    assert_eq!(half.buffered_bytes(), 0);
    assert_eq!(read_bytes(&mut half, 12).1, ReadBytes::Aborted(why(Code::ProducerGone, 14, "gone")));
    assert_eq!(half.read(), Read::Aborted(why(Code::ProducerGone, 14, "gone")));
}

#[test]
fn whoever_goes_over_to_messages_has_the_rest_asked_for() {
    let bytes = encoded(&[500]);
    let mut half = accepted_receiver(0, 100, 1000);
    assert_eq!(read_bytes(&mut half, 10).1, ReadBytes::Pending);
    half.handle_data(&at(0), Bytes::copy_from_slice(&bytes[..100]));
    assert_eq!(half.poll_message_end(), None);
    assert_eq!(read_bytes(&mut half, 90).1, ReadBytes::Bytes(90));
    assert_eq!((half.poll_message_end(), half.poll_consumed()), (None, Some(92)));
    assert_eq!(half.read(), Read::Pending);
    assert_eq!((half.poll_message_end(), half.consumed()), (Some(502), 92));
    half.handle_grant(502);
    half.handle_data(&at(100), Bytes::copy_from_slice(&bytes[100..]));
    assert_eq!(half.read(), Read::Message(message(500).slice(90..)));
}

#[test]
fn who_asks_is_told_once_what_has_arrived() {
    let mut half = accepted_receiver(0, 100, 100);
    half.handle_want(11);
    assert_eq!(half.poll_output(), None);
    half.handle_data(&at(0), encoded(&[10]).freeze());
    assert_eq!(half.poll_output(), Some(ReceiveOutput::Credit(credit(11, 0, 100))));
    half.handle_data(&at(11), encoded(&[10]).freeze());
    assert_eq!(half.poll_output(), None);
    half.handle_want(22);
    assert_eq!(half.poll_output(), Some(ReceiveOutput::Credit(credit(22, 0, 100))));
    half.handle_want(22);
    assert_eq!(half.poll_output(), None);
}

#[test]
fn a_length_that_takes_all_credit_is_consumed_though_no_byte_follows_it() {
    let mut bench = Bench::new(&[20_000], 4);
    bench.bytes(100);
    bench.arrive(4);
    assert!(!bench.half.has_bytes(), "nothing that would wake a reader");
    assert_eq!((bench.half.consumed(), bench.limit), (4, 8));
    while !bench.has_ended {
        let before = bench.progress();
        bench.arrive(1000);
        while bench.half.has_bytes() && !bench.has_ended {
            bench.bytes(1000);
        }
        assert_ne!(before, bench.progress());
    }
    assert_eq!((bench.read.len(), bench.asked), (20_000, 0));
}
