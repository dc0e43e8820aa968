//! How relays end, whom they wait for, and what is left of them.

use super::*;

const LIFE: u128 = 2;

/// A rig between a process and a peer, `up` and `down` of these kinds, accepted with this limit.
fn rig(up: Kind, down: Kind) -> Rig {
    let mut rig = Rig::from(up, None);
    if down == Kind::Link {
        rig.down = Outlet::new(Kind::Link);
        rig.relay = rig.add(0, None);
        rig.relay.connect_down(&rig.down, &rig.pool, Some(DOWN), BIND);
        assert_eq!(rig.tell_down().open, Some(BIND));
    }
    rig.begin(100)
}

impl Rig {
    /// Another relay of the same stream.
    fn add(&self, epoch: u32, resume: Option<Incarnation>) -> Rc<Relay> {
        let up = End { outlet: Rc::clone(&self.up), stream: Some(UP) };
        self.relays.add(Open { epoch, ..self.relay.open.clone() }, resume, up, None)
    }

    fn is_known(&self) -> [bool; 2] {
        [self.up.stream(UP).is_some(), self.down.stream(DOWN).is_some()]
    }

    /// The next stream of a producer that is gone, if there is one.
    fn orphan(&self) -> Option<Rc<Relay>> {
        match pin!(self.relays.orphan()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(orphan) => Some(orphan),
            Poll::Pending => None,
        }
    }

    fn epitaph(&self) -> Option<Epitaph> {
        let name = (self.relay.open.incarnation, self.relay.open.number);
        self.relays.tombstones().borrow_mut().stream(name, Instant::now())
    }

    /// The consumer consumes ten bytes and the end.
    fn finish(&self) {
        self.send(0, 10, false);
        self.send(10, END_MARK_BYTES, true);
        self.pass();
        self.credit(10 + MARK, 10, 100, true);
    }
}

#[test]
fn an_end_is_kept_until_the_other_side_has_acknowledged_it_and_the_side_that_told_it_knows() {
    for from in [Side::Up, Side::Down] {
        let rig = rig(Kind::Link, Kind::Trunk);
        rig.relay.abort(from, Code::Cancelled, 0, "enough");
        let told = match from {
            Side::Up => rig.tell_down().abort,
            Side::Down => rig.tell_up().abort,
        };
        assert_eq!(told.unwrap().text, "enough");
        assert_eq!(rig.relays.count(), 0, "it is not waited for");
        assert_eq!(rig.is_known(), [true, true]);
        rig.relay.end_ack(from);
        assert_eq!(rig.is_known(), [true, true], "that was not the side that is waited for");
        rig.relay.end_ack(from.other());
        assert!(match from {
            Side::Up => rig.relay.take_up().end_ack,
            Side::Down => rig.relay.take_down().end_ack,
        });
        assert_eq!(rig.is_known(), [false, false]);
    }
}

#[test]
fn a_finish_is_acknowledged_by_the_producers_side() {
    let rig = rig(Kind::Link, Kind::Trunk);
    rig.finish();
    assert!(rig.tell_up().credit.is_some_and(|credit| credit.finished));
    assert!(!rig.relay.take_down().end_ack);
    rig.relay.end_ack(Side::Up);
    assert!(rig.relay.take_down().end_ack);
    assert_eq!(rig.is_known(), [false, false]);
}

#[test]
fn ends_that_cross_acknowledge_each_other() {
    // At the producer's node: its abort has been told down, and the consumer's end comes up.
    for finishes in [false, true] {
        let rig = rig(Kind::Link, Kind::Trunk);
        rig.send(0, 10, false);
        rig.pass();
        rig.relay.abort(Side::Up, Code::Cancelled, 10, "mine");
        assert!(rig.tell_down().abort.is_some());
        if finishes {
            rig.credit(10, 10, 100, true);
        } else {
            rig.relay.abort(Side::Down, Code::Cancelled, 0, "theirs");
        }
        let up = rig.relay.take_up();
        assert!(up.end_ack && up.abort.is_none());
        assert_eq!(rig.is_known(), [false, false]);
    }
}

#[test]
fn what_the_node_ends_both_sides_acknowledge() {
    let rig = rig(Kind::Link, Kind::Trunk);
    rig.relay.fail(Code::Internal, "the node's own");
    assert!(rig.tell_up().abort.is_some() && rig.tell_down().abort.is_some());
    rig.relay.end_ack(Side::Down);
    assert_eq!(rig.is_known(), [true, true]);
    rig.relay.end_ack(Side::Up);
    assert!(!rig.relay.take_up().end_ack && !rig.relay.take_down().end_ack);
    assert_eq!(rig.is_known(), [false, false]);
}

#[test]
fn who_gives_up_what_nobody_has_heard_of_is_told_at_once() {
    let rig = Rig::from(Kind::Link, None);
    let relay = rig.add(0, None);
    relay.abort(Side::Up, Code::Cancelled, 0, "withdrawn");
    let Some(Next::Frame(Frame::EndAck(ack))) = rig.up.next_control() else { panic!("no END_ACK") };
    assert_eq!(ack.stream, UP);
    assert!(rig.up.stream(UP).is_none());
}

#[test]
fn a_lost_trunk_ends_the_path_and_not_the_stream() {
    let rig = rig(Kind::Link, Kind::Trunk);
    rig.send(0, 10, false);
    rig.relay.gone(Side::Down, "dark");
    let abort = rig.tell_up().abort.unwrap();
    assert_eq!((abort.code, abort.text.as_str()), (Code::TrunkLost, "dark"));
    assert_eq!(rig.is_known(), [false, false], "a path is not acknowledged");
    assert!(rig.orphan().is_none() && rig.epitaph().is_none());
}

#[test]
fn an_end_that_the_trunk_took_with_it_is_given_back_to_the_side_that_told_it() {
    let up = rig(Kind::Link, Kind::Trunk);
    up.relay.abort(Side::Up, Code::Cancelled, 0, "enough");
    assert!(up.tell_down().abort.is_some());
    up.relay.gone(Side::Down, "dark");
    assert_eq!(up.tell_up().abort.map(|abort| abort.code), Some(Code::TrunkLost));

    let down = rig(Kind::Trunk, Kind::Link);
    down.finish();
    assert!(down.tell_up().credit.is_some());
    down.relay.gone(Side::Up, "dark");
    assert_eq!(down.relay.take_down().abort.map(|abort| abort.code), Some(Code::TrunkLost));
    assert_eq!(down.is_known(), [false, false]);
}

#[test]
fn a_producer_that_dies_while_the_trunk_is_lost_leaves_an_orphan_that_ends_the_stream() {
    for dies_first in [false, true] {
        let rig = rig(Kind::Link, Kind::Trunk);
        rig.send(0, 10, false);
        let orphan = if dies_first {
            // Its end is under way when the trunk is lost.
            rig.relay.gone(Side::Up, "the process is gone");
            assert_eq!(rig.tell_down().abort.map(|abort| abort.code), Some(Code::ProducerGone));
            rig.relay.gone(Side::Down, "dark");
            rig.orphan().expect("an orphan")
        } else {
            // It has asked for another path, and is not there to hear the answer.
            rig.relay.gone(Side::Down, "dark");
            let resumed = rig.add(1, Some(Incarnation::from_bits(LIFE)));
            resumed.gone(Side::Up, "the process is gone");
            rig.orphan().expect("an orphan")
        };
        assert_eq!(orphan.open.epoch, 1);
        assert!(orphan.resume.is_some() && !orphan.is_over());
        let trunk = Outlet::new(Kind::Trunk);
        orphan.connect_down(&trunk, &rig.pool, Some(9), 0);
        assert!(orphan.take_down().open.is_some());
        let answer = Resumed { stream: 9, epoch: 1, received: 10, consumed: 3, limit: 50 };
        orphan.resumed(&answer);
        let abort = orphan.take_down().abort.unwrap();
        assert_eq!((abort.code, abort.offset), (Code::ProducerGone, 10));
        orphan.end_ack(Side::Down);
        assert!(trunk.stream(9).is_none());
    }
}

#[test]
fn an_orphan_outlives_one_lost_trunk_after_the_other() {
    let rig = rig(Kind::Link, Kind::Trunk);
    rig.relay.gone(Side::Up, "the process is gone");
    rig.relay.gone(Side::Down, "dark");
    for epoch in 1..4 {
        let orphan = rig.orphan().expect("an orphan");
        assert_eq!(orphan.open.epoch, epoch);
        let trunk = Outlet::new(Kind::Trunk);
        orphan.connect_down(&trunk, &rig.pool, Some(9), 0);
        orphan.gone(Side::Down, "dark again");
        assert!(orphan.is_over());
    }
}

#[test]
fn a_consumer_that_ended_a_stream_and_died_leaves_a_tombstone_if_its_end_was_not_heard() {
    for (finishes, hears) in [(true, false), (true, true), (false, false), (false, true)] {
        let rig = rig(Kind::Trunk, Kind::Link);
        if finishes {
            rig.finish();
        } else {
            rig.relay.abort(Side::Down, Code::Cancelled, 0, "enough");
        }
        drop(rig.relay.take_up());
        rig.relay.gone(Side::Down, "the process is gone");
        if hears {
            rig.relay.end_ack(Side::Up);
        }
        rig.relay.gone(Side::Up, "dark");
        let code = if finishes { None } else { Some(Code::Cancelled) };
        let consumed = if finishes { 10 } else { 0 };
        assert_eq!(rig.epitaph(), (!hears).then_some(Epitaph { consumed, code }), "{finishes} {hears}");
        assert_eq!(rig.is_known(), [false, false]);
    }
}

#[test]
fn a_tombstone_answers_as_the_consumer_would() {
    let rig = rig(Kind::Trunk, Kind::Link);
    let life = Some(Incarnation::from_bits(LIFE));
    let finished = rig.add(1, life);
    finished.answer_with(Epitaph { consumed: 10, code: None });
    let news = finished.take_up();
    let Some(Answer::Resumed(resumed)) = news.answer else { panic!("{news:?}") };
    assert_eq!((resumed.received, resumed.consumed), (10 + MARK, 10));
    assert!(news.credit.is_some_and(|credit| credit.finished && credit.received == 10 + MARK));
    finished.end_ack(Side::Up);
    assert!(rig.up.stream(UP).is_none());

    let aborted = rig.add(1, life);
    aborted.answer_with(Epitaph { consumed: 10, code: Some(Code::Cancelled) });
    assert_eq!(aborted.take_up().abort.map(|abort| abort.code), Some(Code::Cancelled));
    aborted.end_ack(Side::Up);
    assert!(rig.up.stream(UP).is_none());
}

#[test]
fn a_resumed_stream_counts_from_where_its_consumer_is() {
    let rig = rig(Kind::Trunk, Kind::Link);
    let relay = rig.add(1, Some(Incarnation::from_bits(LIFE)));
    relay.connect_down(&rig.down, &rig.pool, Some(7), 0);
    assert_eq!(relay.take_down().open, Some(0));
    relay.resumed(&Resumed { stream: 7, epoch: 1, received: 40, consumed: 30, limit: 90 });
    let Some(Answer::Resumed(told)) = relay.take_up().answer else { panic!("no answer") };
    assert_eq!((told.epoch, told.received, told.consumed, told.limit), (1, 40, 30, 90));
    // The bytes that come next are those from there on.
    relay.data_next(vec![1; 10].into(), false);
    let taken = relay.take_data(100).unwrap();
    assert_eq!((taken.offset, taken.bytes), (40, 10));
    relay.passed();
    relay.credit(&Credit { stream: 7, epoch: 1, received: 50, consumed: 50, limit: 120, finished: false });
    assert_eq!(relay.take_up().credit.map(|credit| (credit.received, credit.limit)), Some((50, 120)));
    // Beyond what was told is beyond what may come.
    relay.data_next(vec![1; 120].into(), false);
    assert_eq!(relay.code(), Code::CreditExceeded);
}

#[test]
fn an_answer_to_what_was_not_asked_ends_the_stream() {
    let rig = rig(Kind::Trunk, Kind::Link);
    let opened = rig.add(0, None);
    opened.connect_down(&rig.down, &rig.pool, Some(7), BIND);
    opened.resumed(&Resumed { stream: 7, epoch: 0, received: 0, consumed: 0, limit: 90 });
    assert_eq!((opened.is_over(), opened.code()), (true, Code::Protocol));
    let resumed = rig.add(2, Some(Incarnation::from_bits(LIFE)));
    resumed.connect_down(&rig.down, &rig.pool, Some(9), 0);
    resumed.resumed(&Resumed { stream: 9, epoch: 1, received: 0, consumed: 0, limit: 90 });
    assert_eq!((resumed.is_over(), resumed.code()), (true, Code::Protocol));
}

#[test]
fn a_stream_that_moves_to_another_trunk_is_reset_on_the_older_one_and_not_finished() {
    let rig = rig(Kind::Link, Kind::Trunk);
    rig.send(0, 10, false);
    rig.relay.supersede();
    assert_eq!(rig.tell_up().abort.map(|abort| abort.code), Some(Code::TrunkLost));
    assert_eq!(rig.tell_down().abort.map(|abort| abort.code), Some(Code::Superseded));
    assert_eq!(rig.relay.code(), Code::TrunkLost);

    // So is one whose producer is gone and had sent all of it, which is sent by nobody any more.
    let whole = Rig::from(Kind::Link, None).begin(100);
    whole.send(0, 10, true);
    whole.relay.gone(Side::Up, "the process is gone");
    whole.relay.supersede();
    assert!(whole.relay.is_over() && whole.relay.code() != Code::Closed);
    assert!(whole.orphan().is_some());
}
