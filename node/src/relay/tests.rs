//! A relay between two outlets, of which the tests are the writers.

mod credit;
mod ends;
mod flow;
mod policy;
mod sharing;

use std::{future::Future as _, pin::pin, task::Context, task::Poll, task::Waker, time::Duration};

use trunkline_proto::id::{Incarnation, JobId, Weight};

use self::policy::Ahead;
use super::*;
use crate::outlet::Next;

const MARK: u64 = END_MARK_BYTES as u64;
/// The stream's ids on the two connections.
const UP: u64 = 2;
const DOWN: u64 = 1;
const BIND: u64 = 5;

fn relays() -> Rc<Relays> {
    Relays::new(Tombstones::new(Duration::from_secs(300), 100))
}

impl UpNews {
    fn accepted_limit(&self) -> Option<u64> {
        match self.answer? {
            Answer::Accept(accept) => Some(accept.limit),
            Answer::Resumed(_) => None,
        }
    }
}

struct Rig {
    relays: Rc<Relays>,
    up: Rc<Outlet>,
    down: Rc<Outlet>,
    relay: Rc<Relay>,
    policy: Ahead,
    pool: Rc<Pool>,
}

impl Rig {
    /// A stream that was offered to its consumer. Its pool grants so many bytes ahead of what was passed on.
    fn new(ahead: Option<u64>) -> Self {
        Self::from(Kind::Trunk, ahead)
    }

    /// The same, which came over this kind of connection.
    fn from(kind: Kind, ahead: Option<u64>) -> Self {
        let (relays, up, down) = (relays(), Outlet::new(kind), Outlet::new(Kind::Trunk));
        let policy = Ahead::of(ahead.unwrap_or(u64::MAX));
        let pool = Pool::new(Box::new(policy.clone()));
        let open = Open {
            stream: UP,
            job: JobId { name: "job".parse().unwrap(), run: "r1".parse().unwrap() },
            producer: "map".parse().unwrap(),
            producer_node: Some("node-a".parse().unwrap()),
            incarnation: Incarnation::from_bytes(&[1; 16]).unwrap(),
            number: 1,
            consumer: "reduce".parse().unwrap(),
            node: "node-b".parse().unwrap(),
            epoch: 0,
            weight: Weight::MIN,
        };
        let relay = relays.add(open, None, End { outlet: Rc::clone(&up), stream: Some(UP) }, None);
        relay.connect_down(&down, &pool, Some(DOWN), BIND);
        let rig = Self { relays, up, down, relay, policy, pool };
        assert_eq!(rig.tell_down().open, Some(BIND));
        rig
    }

    /// The same, accepted with this limit, which the producer has been told.
    fn accepted(ahead: Option<u64>, limit: u64) -> Self {
        Self::new(ahead).begin(limit)
    }

    /// The same, of a process that does not answer.
    fn of_stopped_process(limit: u64) -> Self {
        Self::from(Kind::Link, None).begin(limit)
    }

    fn begin(self, limit: u64) -> Self {
        let rig = self;
        rig.accept(limit);
        assert!(rig.tell_up().answer.is_some());
        // The pool granted more than the consumer allows, and took that back.
        drop(rig.policy.answers());
        rig
    }

    fn accept(&self, limit: u64) {
        self.relay.accept(&Accept { stream: DOWN, incarnation: Incarnation::from_bytes(&[2; 16]).unwrap(), limit });
    }

    fn credit(&self, received: u64, consumed: u64, limit: u64, finished: bool) {
        self.relay.credit(&Credit { stream: DOWN, epoch: 0, received, consumed, limit, finished });
    }

    fn reclaim(&self, limit: u64) {
        self.relay.reclaim(&Reclaim { stream: DOWN, epoch: 0, limit });
    }

    /// The same, and so much time passes that the upper side need not be waited for.
    fn reclaim_unanswered(&self, limit: u64) {
        self.reclaim(limit);
        self.relays.ticks().pass_time();
        self.relays.ticks().pass_time();
    }

    fn limit(&self, limit: u64) {
        self.relay.limit(&Limit { stream: UP, epoch: 0, limit });
    }

    fn send(&self, offset: u64, bytes: usize, fin: bool) {
        self.relay.data(offset, Bytes::from(vec![7; bytes]), fin);
    }

    /// Passes everything on that is queued, and says how many bytes that was.
    fn pass(&self) -> usize {
        let mut passed = 0;
        while let Some(taken) = self.relay.take_data(usize::MAX) {
            passed += taken.bytes;
            self.relay.passed();
        }
        passed
    }

    /// How often the relay stands in an outlet with news.
    fn entries(outlet: &Outlet) -> usize {
        std::iter::from_fn(|| outlet.next_control()).filter(|next| matches!(next, Next::News(..))).count()
    }

    /// What the upper connection's writer writes. The relay must stand in its queue once.
    fn tell_up(&self) -> UpNews {
        assert_eq!(Self::entries(&self.up), 1, "entries for the upper side");
        self.relay.take_up()
    }

    fn tell_down(&self) -> DownNews {
        assert_eq!(Self::entries(&self.down), 1, "entries for the lower side");
        self.relay.take_down()
    }

    /// Checks that the node has ended the stream and tells both sides so.
    #[track_caller]
    fn assert_failed(&self, code: Code) {
        assert!(self.relay.is_over());
        let (up, down) = (self.tell_up(), self.tell_down());
        assert!(up.over && down.over);
        assert_eq!(up.abort.map(|abort| abort.code), Some(code));
        assert_eq!(down.abort.map(|abort| abort.code), Some(code));
        assert_eq!((up.answer, up.credit, up.reclaim), (None, None, None), "nothing beside the abort");
        assert_eq!((down.want, down.limit, down.open), (None, None, None), "nothing beside the abort");
        self.assert_gone();
    }

    /// Both sides say that they have heard of the end, if they were told, and hear that the other has.
    fn acknowledge(&self) {
        self.relay.end_ack(Side::Up);
        self.relay.end_ack(Side::Down);
        while self.up.next_control().is_some() {}
        while self.down.next_control().is_some() {}
        drop((self.relay.take_up(), self.relay.take_down()));
    }

    /// Checks that no table knows the stream any more, once its end was acknowledged.
    #[track_caller]
    fn assert_gone(&self) {
        self.acknowledge();
        assert!(self.up.stream(UP).is_none() && self.down.stream(DOWN).is_none());
        assert_eq!(self.relays.count(), 0);
        assert!(self.policy.is_empty(), "the pool still counts it");
        assert!(pin!(self.relays.empty()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(()));
        assert!(self.relay.take_data(usize::MAX).is_none());
    }
}

#[test]
fn bytes_before_accept_end_the_stream() {
    let rig = Rig::new(None);
    rig.send(0, 1, false);
    rig.assert_failed(Code::Protocol);
}

#[test]
fn a_gap_or_a_repetition_ends_the_stream() {
    for offset in [0, 9, 11, u64::MAX] {
        let rig = Rig::accepted(None, 1000);
        rig.send(0, 10, false);
        rig.send(offset, 1, false);
        rig.assert_failed(Code::Protocol);
    }
}

#[test]
fn bytes_beyond_the_limit_end_the_stream_and_the_end_mark_has_room() {
    let rig = Rig::accepted(None, 100);
    rig.send(0, 100, false);
    rig.send(100, END_MARK_BYTES, true);
    assert!(!rig.relay.is_over());

    let rig = Rig::accepted(None, 100);
    rig.send(0, 100 + END_MARK_BYTES + 1, false);
    rig.assert_failed(Code::CreditExceeded);
}

#[test]
fn what_counts_is_the_limit_that_was_told_and_not_the_consumers() {
    let rig = Rig::new(Some(64));
    rig.accept(1000);
    assert_eq!(rig.tell_up().accepted_limit(), Some(64));
    rig.send(0, 64 + END_MARK_BYTES + 1, false);
    rig.assert_failed(Code::CreditExceeded);
}

#[test]
fn bytes_after_the_last_ones_end_the_stream() {
    for bytes in [0, 1] {
        let rig = Rig::accepted(None, 100);
        rig.send(0, 10, true);
        rig.send(10, bytes, bytes == 0);
        rig.assert_failed(Code::Protocol);
    }
}

#[test]
fn credit_for_what_was_not_passed_on_ends_the_stream() {
    for (received, consumed) in [(11, 0), (5, 6), (u64::MAX, u64::MAX)] {
        let rig = Rig::accepted(None, 100);
        rig.send(0, 20, false);
        rig.relay.take_data(10).unwrap();
        rig.relay.passed();
        rig.credit(received, consumed, 100, false);
        rig.assert_failed(Code::Protocol);
    }
}

#[test]
fn a_consumer_that_claims_the_end_early_does_not_make_the_producer_believe_it() {
    let rig = Rig::accepted(None, 100);
    rig.send(0, 10, false);
    rig.pass();
    rig.credit(10, 10, 100, true);
    rig.assert_failed(Code::Protocol);
}

#[test]
fn credit_before_accept_ends_the_stream() {
    let rig = Rig::new(None);
    rig.credit(0, 0, 100, false);
    rig.assert_failed(Code::Protocol);
}

#[test]
fn a_second_accept_changes_nothing() {
    let rig = Rig::accepted(None, 100);
    rig.accept(1000);
    assert_eq!(Rig::entries(&rig.up), 0);
    rig.send(0, 117, false);
    rig.assert_failed(Code::CreditExceeded);
}

#[test]
fn frames_of_another_epoch_are_nobodys() {
    let rig = Rig::accepted(None, 100);
    let credit = Credit { stream: DOWN, epoch: 1, received: 9, consumed: 9, limit: 1000, finished: true };
    rig.relay.credit(&credit);
    rig.relay.want(&Want { stream: UP, epoch: 1, wanted: 1000 });
    assert!(!rig.relay.is_over());
    assert_eq!((Rig::entries(&rig.up), Rig::entries(&rig.down)), (0, 0));
}

#[test]
fn a_limit_never_falls() {
    let rig = Rig::accepted(None, 1000);
    rig.credit(0, 0, 500, false);
    assert_eq!(rig.tell_up().credit.map(|credit| credit.limit), Some(1000));
    rig.send(0, 1000, false);
    assert!(!rig.relay.is_over());
}

#[test]
fn a_local_producer_is_told_no_more_than_its_allowance_ahead() {
    let rig = Rig::new(Some(100));
    rig.accept(1000);
    assert_eq!(rig.tell_up().accepted_limit(), Some(100));
    rig.send(0, 100, false);
    rig.relay.take_data(10).unwrap();
    rig.relay.passed();
    assert_eq!(Rig::entries(&rig.up), 0, "ten bytes more are not worth a frame");
    rig.relay.take_data(30).unwrap();
    rig.relay.passed();
    assert_eq!(rig.tell_up().credit.map(|credit| credit.limit), Some(140));
    rig.credit(40, 0, 120, false);
    assert_eq!(rig.tell_up().credit.map(|credit| credit.limit), Some(140), "it does not fall");
}

#[test]
fn news_are_state_and_stand_in_the_queue_once() {
    let rig = Rig::accepted(None, 1000);
    rig.send(0, 50, false);
    rig.pass();
    for at in 1..=50 {
        rig.credit(at, at / 2, 1000 + at, false);
        rig.relay.want(&Want { stream: UP, epoch: 0, wanted: 10_000 + at });
    }
    let credit = rig.tell_up().credit.unwrap();
    assert_eq!((credit.received, credit.consumed, credit.limit), (50, 25, 1050));
    assert_eq!(rig.tell_down().want.map(|want| want.wanted), Some(10_050));
    assert!(rig.relay.take_up().credit.is_none() && rig.relay.take_down().want.is_none(), "told once");
}

#[test]
fn every_want_is_passed_on_and_the_furthest_counts() {
    let rig = Rig::accepted(Some(10), 1000);
    for (wanted, told) in [(500, 500), (1001, 1001), (1001, 1001), (900, 1001), (2000, 2000)] {
        rig.relay.want(&Want { stream: UP, epoch: 0, wanted });
        assert_eq!(rig.tell_down().want.map(|want| want.wanted), Some(told));
    }
}

#[test]
fn turns_cut_the_bytes_and_the_end_comes_with_the_last() {
    let rig = Rig::accepted(None, 1000);
    rig.send(0, 25, false);
    rig.send(25, 10, false);
    rig.send(35, 0, true);
    let mut turns = Vec::new();
    while let Some(taken) = rig.relay.take_data(20) {
        assert_eq!(taken.pieces.iter().map(Bytes::len).sum::<usize>(), taken.bytes);
        assert_eq!(rig.relay.passed(), !taken.fin);
        turns.push((taken.offset, taken.bytes, taken.fin));
    }
    assert_eq!(turns, [(0, 20, false), (20, 15, true)]);
}

#[test]
fn an_end_without_bytes_is_passed_on_too() {
    let rig = Rig::accepted(None, 1000);
    rig.send(0, 5, false);
    assert_eq!(rig.pass(), 5);
    rig.send(5, 0, true);
    let taken = rig.relay.take_data(100).unwrap();
    assert_eq!((taken.offset, taken.bytes, taken.fin), (5, 0, true));
}

#[test]
fn a_stream_waits_for_its_turn_once() {
    let rig = Rig::accepted(None, 1000);
    for offset in 0..10 {
        rig.send(offset, 1, false);
    }
    let turns = || std::iter::from_fn(|| rig.down.next()).filter(|next| matches!(next, Next::Data(..))).count();
    assert_eq!(turns(), 1);
    rig.relay.take_data(4).unwrap();
    let more = rig.relay.passed();
    rig.down.served(&rig.relay, 4, more);
    rig.send(10, 1, false);
    assert_eq!(turns(), 1);
}

#[test]
fn an_abort_tells_the_other_side_only_and_frees_what_was_queued() {
    for from in [Side::Up, Side::Down] {
        let rig = Rig::accepted(None, 10_000);
        let payload = Bytes::from(vec![7; 10_000]);
        rig.relay.data(0, payload.clone(), false);
        assert!(!payload.is_unique());
        rig.relay.abort(from, Code::Cancelled, 42, "enough");
        assert!(payload.is_unique(), "the queue is freed at once");
        let (up, down) = (rig.tell_up(), rig.tell_down());
        assert!(up.over && down.over);
        let told = Some(Abort { stream: 0, code: Code::Cancelled, offset: 42, text: "enough".to_owned() });
        match from {
            Side::Up => assert_eq!((up.abort, down.abort), (None, told)),
            Side::Down => assert_eq!((up.abort, down.abort), (told, None)),
        }
        rig.assert_gone();
    }
}

#[test]
fn only_the_first_end_counts() {
    let rig = Rig::accepted(None, 1000);
    rig.relay.abort(Side::Up, Code::Cancelled, 0, "first");
    rig.relay.abort(Side::Down, Code::ConsumerGone, 0, "second");
    rig.relay.fail(Code::Internal, "third");
    rig.send(0, 10, false);
    rig.credit(0, 0, 5000, false);
    rig.accept(5000);
    assert_eq!(rig.tell_down().abort.map(|abort| abort.text), Some("first".to_owned()));
    assert_eq!(rig.tell_up().abort, None);
}

#[test]
fn who_was_never_offered_the_stream_does_not_hear_of_its_end() {
    let offered = Rig::new(None);
    let relay = offered.relays.add(
        offered.relay.open.clone(),
        None,
        End { outlet: Outlet::new(Kind::Trunk), stream: Some(4) },
        None,
    );
    let down = Outlet::new(Kind::Trunk);
    relay.connect_down(&down, &offered.pool, Some(3), BIND);
    relay.abort(Side::Up, Code::Cancelled, 0, "withdrawn");
    assert!(matches!(relay.take_down(), DownNews { open: None, abort: None, over: true, .. }));
}

#[test]
fn a_finished_stream_ends_on_both_sides_and_cleanly() {
    let rig = Rig::accepted(None, 100);
    rig.send(0, 10, false);
    rig.send(10, END_MARK_BYTES, true);
    rig.pass();
    rig.credit(10 + MARK, 10 + MARK, 100, true);
    let (up, down) = (rig.tell_up(), rig.tell_down());
    assert!(up.over && up.abort.is_none() && up.credit.is_some_and(|credit| credit.finished));
    assert!(down.over && down.abort.is_none());
    rig.assert_gone();
}

#[test]
fn a_producer_that_goes_after_its_last_byte_loses_nothing() {
    let rig = Rig::accepted(None, 100);
    rig.send(0, 10, true);
    rig.relay.lost(Side::Up, Code::ProducerGone, "gone");
    assert!(!rig.relay.is_over());
    assert_eq!(rig.pass(), 10, "the bytes still go down");
    rig.credit(10, 10, 100, true);
    assert!(rig.tell_down().abort.is_none());
    rig.assert_gone();
}

#[test]
fn a_producer_that_goes_before_its_last_byte_is_told_with_the_offset() {
    let rig = Rig::accepted(None, 100);
    rig.send(0, 10, false);
    rig.relay.lost(Side::Up, Code::ProducerGone, "gone");
    let abort = rig.tell_down().abort.unwrap();
    assert_eq!((abort.code, abort.offset), (Code::ProducerGone, 10));
    assert_eq!(rig.tell_up().abort, None);
    rig.assert_gone();
}

#[test]
fn a_consumer_that_goes_is_told_with_what_it_had_consumed() {
    for fin in [false, true] {
        let rig = Rig::accepted(None, 100);
        rig.send(0, 10, fin);
        rig.pass();
        rig.credit(10, 7, 100, false);
        rig.relay.lost(Side::Down, Code::ConsumerGone, "gone");
        let abort = rig.tell_up().abort.unwrap();
        assert_eq!((abort.code, abort.offset), (Code::ConsumerGone, 7));
        rig.assert_gone();
    }
}

#[test]
fn a_closed_connection_returns_its_streams_those_included_that_have_no_id_yet() {
    let rig = Rig::accepted(None, 100);
    let trunk = Outlet::new(Kind::Trunk);
    let relay = rig.relays.add(rig.relay.open.clone(), None, End { outlet: Rc::clone(&rig.up), stream: Some(4) }, None);
    relay.connect_down(&trunk, &rig.pool, None, 0);
    let returned = trunk.close();
    assert_eq!(returned.iter().map(|relay| relay.number).collect::<Vec<_>>(), [relay.number]);
    assert!(trunk.next().is_none());
    let mut returned: Vec<_> = rig.up.close().iter().map(|relay| relay.number).collect();
    returned.sort_unstable();
    returned.dedup();
    assert_eq!(returned, [rig.relay.number, relay.number]);
}

#[test]
fn a_stream_that_gets_its_id_stands_in_the_queue_once() {
    let rig = Rig::accepted(None, 100);
    let trunk = Outlet::new(Kind::Trunk);
    let relay = rig.relays.add(rig.relay.open.clone(), None, End { outlet: Rc::clone(&rig.up), stream: Some(4) }, None);
    relay.connect_down(&trunk, &rig.pool, None, 0);
    relay.want(&Want { stream: 4, epoch: 0, wanted: 100 });
    relay.name_down(8);
    assert_eq!(Rig::entries(&trunk), 1);
    assert!(trunk.stream(8).is_some_and(|found| Rc::ptr_eq(&found, &relay)));
}

#[test]
fn streams_that_come_and_go_unheard_leave_nothing_with_a_link_that_is_not_read() {
    let (relays, producer, consumer) = (relays(), Outlet::new(Kind::Link), Outlet::new(Kind::Link));
    let rig = Rig::new(None);
    for stream in 1..=10_000 {
        let relay = relays.add(
            rig.relay.open.clone(),
            None,
            End { outlet: Rc::clone(&producer), stream: Some(2 * stream) },
            None,
        );
        relay.connect_down(&consumer, &rig.pool, Some(2 * stream - 1), BIND);
        relay.abort(Side::Up, Code::Cancelled, 0, "withdrawn");
    }
    assert_eq!(relays.count(), 0);
    assert!(relays.existing() <= 2_048, "{} relays are kept for nobody", relays.existing());
}

#[test]
fn bytes_in_tiny_pieces_are_gathered() {
    let rig = Rig::accepted(None, 1 << 20);
    for offset in 0..100_000 {
        rig.send(offset, 1, false);
    }
    let taken = rig.relay.take_data(1 << 20).unwrap();
    assert_eq!(taken.bytes, 100_000);
    assert!(taken.pieces.len() <= 10, "{} pieces", taken.pieces.len());
}

#[test]
fn what_an_idle_stream_keeps_is_small() {
    assert!(size_of::<Relay>() <= 568, "{} bytes", size_of::<Relay>());
}
