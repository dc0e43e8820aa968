//! Credit that is asked back: from the relay by the side below it, and from the upper side by the relay's pool.

use super::*;

impl Rig {
    /// Lets the pool ask for what it granted beyond `limit`.
    fn ask_back(&self, limit: u64) {
        self.policy.ask_back(self.relay.number, limit);
        self.pool.tell(|_| ());
    }
}

/// What is in a LIMIT or a RECLAIM.
fn limit_of(news: &DownNews) -> Option<u64> {
    news.limit.map(|limit| limit.limit)
}

fn reclaim_of(news: &UpNews) -> Option<u64> {
    news.reclaim.map(|reclaim| reclaim.limit)
}

#[test]
fn credit_that_was_told_to_nobody_is_given_back_at_once() {
    for (asked, kept) in [(100, 300), (300, 300), (500, 500), (1000, 1000), (5000, 1000)] {
        // The producer was told of 300 and has sent as much.
        let rig = Rig::accepted(Some(300), 1000);
        rig.send(0, 300, false);
        rig.reclaim(asked);
        let news = rig.tell_down();
        assert_eq!(limit_of(&news), Some(kept), "asked for what is beyond {asked}");
        assert_eq!(news.want, None, "all that is there may be passed on");
        assert_eq!(rig.pass(), 300);
        assert_eq!(rig.relay.snapshot().limit, kept);
    }
}

#[test]
fn credit_that_was_told_is_given_back_as_far_as_the_upper_side_gives_it() {
    for (asked, sent, kept) in [(0, 300, 300), (100, 300, 300), (500, 300, 500), (500, 700, 700), (900, 0, 900)] {
        let rig = Rig::accepted(None, 1000);
        rig.reclaim(asked);
        assert_eq!(Rig::entries(&rig.down), 0, "what may come is not known");
        assert_eq!(reclaim_of(&rig.tell_up()), Some(asked));
        // Sent before the producer heard of it; its answer overtakes it.
        rig.limit(asked.max(sent));
        assert_eq!(limit_of(&rig.tell_down()), Some(kept), "asked for what is beyond {asked}");
        rig.send(0, usize::try_from(sent).unwrap(), false);
        assert_eq!(rig.pass() as u64, sent, "nothing waits for credit");
    }
}

#[test]
fn an_answer_that_is_known_by_what_has_come_is_not_waited_for() {
    let rig = Rig::accepted(None, 1000);
    rig.reclaim(400);
    assert_eq!(Rig::entries(&rig.down), 0);
    rig.send(0, 1000, false);
    assert_eq!(limit_of(&rig.tell_down()), Some(1000), "all was used");

    let rig = Rig::accepted(None, 1000);
    rig.reclaim(400);
    rig.send(0, 500 + END_MARK_BYTES, true);
    assert_eq!(limit_of(&rig.tell_down()), Some(500), "no more will come");
}

#[test]
fn a_process_that_does_not_answer_is_not_waited_for_after_two_ticks() {
    let rig = Rig::of_stopped_process(1000);
    rig.send(0, 50, false);
    rig.reclaim(100);
    assert_eq!(reclaim_of(&rig.tell_up()), Some(100));
    for _ in 0..2 {
        assert_eq!(Rig::entries(&rig.down), 0);
        rig.relays.ticks().pass_time();
    }
    assert_eq!(limit_of(&rig.tell_down()), Some(100));
    // The next time it is asked anew.
    assert_eq!(rig.pass(), 50);
    rig.credit(50, 50, 1000, false);
    rig.reclaim(200);
    rig.relays.ticks().pass_time();
    assert_eq!(Rig::entries(&rig.down), 0);
    rig.limit(150);
    assert_eq!(limit_of(&rig.tell_down()), Some(200));
}

#[test]
fn a_ceiling_that_fell_is_asked_of_the_upper_side_in_turn() {
    let rig = Rig::accepted(None, 1000);
    rig.send(0, 300, false);
    rig.reclaim(400);
    assert_eq!(reclaim_of(&rig.tell_up()), Some(400));
    rig.limit(450);
    assert_eq!(rig.policy.answers(), [450]);
    rig.send(300, 150 + END_MARK_BYTES, true);
    assert!(!rig.relay.is_over(), "what was kept may be used");

    let rig = Rig::accepted(None, 1000);
    rig.reclaim(400);
    rig.tell_up();
    rig.limit(400);
    rig.send(0, 400 + END_MARK_BYTES + 1, false);
    assert!(rig.relay.is_over(), "what was given back may not");
    assert_eq!(rig.tell_up().abort.map(|abort| abort.code), Some(Code::CreditExceeded));
}

#[test]
fn bytes_beyond_what_is_allowed_below_wait_and_are_wanted() {
    let rig = Rig::of_stopped_process(1000);
    rig.reclaim_unanswered(100);
    assert_eq!(limit_of(&rig.tell_down()), Some(100));
    // Under way before the producer heard of it.
    rig.send(0, 250, false);
    assert_eq!(rig.tell_down().want.map(|want| want.wanted), Some(250));
    assert_eq!(rig.pass(), 100);
    assert_eq!((rig.relay.snapshot().queued, rig.down.next().is_some()), (150, true));
    assert!(rig.down.next().is_none(), "no turn for what may not go on");
    rig.send(250, 50, false);
    assert_eq!(rig.tell_down().want.map(|want| want.wanted), Some(300));
    rig.credit(100, 100, 180, false);
    assert!(matches!(rig.down.next(), Some(Next::Data(..))));
    assert_eq!(rig.pass(), 80);
    rig.credit(180, 180, 300, false);
    assert_eq!(rig.pass(), 120);
}

#[test]
fn what_was_wanted_within_the_credit_that_goes_back_is_wanted_again() {
    let rig = Rig::accepted(Some(10), 1000);
    rig.relay.want(&Want { stream: UP, epoch: 0, wanted: 700 });
    assert_eq!(rig.tell_down().want.map(|want| want.wanted), Some(700));
    rig.reclaim(50);
    let news = rig.tell_down();
    assert_eq!((limit_of(&news), news.want.map(|want| want.wanted)), (Some(50), Some(700)));
    rig.reclaim(50);
    let news = rig.tell_down();
    assert_eq!((limit_of(&news), news.want.map(|want| want.wanted)), (Some(50), Some(700)), "each time");
}

#[test]
fn an_end_mark_goes_beyond_what_is_allowed_once_all_before_it_may_go() {
    let rig = Rig::of_stopped_process(1000);
    rig.reclaim_unanswered(90);
    rig.tell_down();
    rig.send(0, 100, false);
    rig.send(100, END_MARK_BYTES, true);
    assert_eq!(rig.tell_down().want.map(|want| want.wanted), Some(100), "credit for the mark is not needed");
    let taken = rig.relay.take_data(usize::MAX).unwrap();
    assert_eq!((taken.bytes, taken.fin), (90, false));
    assert!(!rig.relay.passed());
    rig.credit(90, 90, 100, false);
    let taken = rig.relay.take_data(usize::MAX).unwrap();
    assert_eq!((taken.bytes, taken.fin), (10 + END_MARK_BYTES, true));
}

#[test]
fn an_end_mark_that_comes_before_its_fin_waits_for_it_at_the_limit() {
    let rig = Rig::accepted(None, 100);
    rig.send(0, 100 + END_MARK_BYTES, false);
    assert_eq!(rig.pass(), 100);
    assert_eq!(Rig::entries(&rig.down), 0, "nothing is wanted for it");
    rig.send(100 + MARK, 0, true);
    assert_eq!(rig.pass(), END_MARK_BYTES);
}

#[test]
fn credit_is_not_asked_back_before_it_was_given() {
    let rig = Rig::new(None);
    rig.reclaim(0);
    rig.assert_failed(Code::Protocol);

    let rig = Rig::accepted(None, 100);
    rig.relay.reclaim(&Reclaim { stream: DOWN, epoch: 1, limit: 0 });
    rig.relay.limit(&Limit { stream: UP, epoch: 1, limit: 0 });
    assert!(!rig.relay.is_over(), "another epoch's is nobody's");
    assert_eq!((Rig::entries(&rig.up), Rig::entries(&rig.down)), (0, 0));
}

#[test]
fn the_pool_asks_the_upper_side_behind_the_credit_that_is_due() {
    let rig = Rig::accepted(Some(500), 1000);
    rig.send(0, 200, false);
    rig.pass();
    assert_eq!(rig.tell_up().credit.map(|credit| credit.limit), Some(700));
    rig.credit(200, 150, 1000, false);
    rig.ask_back(300);
    let news = rig.tell_up();
    assert_eq!(news.credit.map(|credit| (credit.received, credit.limit)), Some((200, 300)));
    assert_eq!(reclaim_of(&news), Some(300));
    // Until the answer, credit says no more than what was asked for.
    rig.credit(200, 200, 2000, false);
    let news = rig.tell_up();
    assert_eq!(
        (news.credit.map(|credit| (credit.consumed, credit.limit)), reclaim_of(&news)),
        (Some((200, 300)), None)
    );
    // What was told before may be used until then.
    rig.send(200, 150, false);
    rig.limit(350);
    assert!(!rig.relay.is_over());
    assert_eq!(rig.policy.answers(), [350]);
    rig.pass();
    assert_eq!(rig.tell_up().credit.map(|credit| credit.limit), Some(850), "and then it goes on");
}

#[test]
fn an_answer_that_cannot_be_true_ends_the_stream() {
    // Nobody asked; less than asked for; more than it was told; less than it has used.
    for (asked, answer) in [(None, 500), (Some(300), 299), (Some(300), 1001), (Some(100), 100)] {
        let rig = Rig::accepted(None, 1000);
        rig.send(0, 200, false);
        if let Some(asked) = asked {
            rig.ask_back(asked);
            assert_eq!(reclaim_of(&rig.tell_up()), Some(asked));
        }
        rig.limit(answer);
        assert!(rig.relay.is_over(), "asked for {asked:?}, answered {answer}");
        assert_eq!(rig.tell_up().abort.map(|abort| abort.code), Some(Code::Protocol));
        rig.assert_gone();
    }
    // Before the question was written.
    let rig = Rig::accepted(None, 1000);
    rig.ask_back(100);
    rig.limit(100);
    rig.assert_failed(Code::Protocol);
    // A second answer to one question.
    let rig = Rig::accepted(None, 1000);
    rig.ask_back(100);
    rig.tell_up();
    rig.limit(100);
    assert!(!rig.relay.is_over());
    rig.limit(100);
    assert!(rig.relay.is_over());
}

#[test]
fn an_answer_may_leave_out_a_part_of_the_end_mark_that_has_come() {
    let rig = Rig::accepted(None, 1000);
    rig.send(0, 200 + END_MARK_BYTES / 2, false);
    rig.ask_back(100);
    rig.tell_up();
    rig.limit(200);
    assert!(!rig.relay.is_over());
    rig.send(200 + MARK / 2, END_MARK_BYTES / 2, true);
    assert!(!rig.relay.is_over());
    assert_eq!(rig.pass(), 200 + END_MARK_BYTES);
}

#[test]
fn who_need_not_be_asked_is_not() {
    // Not told of as much; the consumer has not even been heard.
    let rig = Rig::accepted(None, 1000);
    rig.ask_back(1000);
    assert_eq!((rig.policy.answers(), Rig::entries(&rig.up)), (vec![1000], 0));
    // Nothing is left unused.
    let rig = Rig::accepted(None, 1000);
    rig.send(0, 1000, false);
    rig.ask_back(0);
    assert_eq!((rig.policy.answers(), Rig::entries(&rig.up)), (vec![1000], 0));
    // Nothing more will come.
    let rig = Rig::accepted(None, 1000);
    rig.send(0, 200, false);
    rig.send(200, END_MARK_BYTES, true);
    assert_eq!(rig.policy.answers(), [200], "what it has over is free");
    rig.ask_back(100);
    assert_eq!((rig.policy.answers(), Rig::entries(&rig.up)), (vec![200], 0));
}

#[test]
fn who_sends_its_last_byte_has_answered_with_it() {
    let rig = Rig::accepted(None, 1000);
    rig.ask_back(100);
    assert_eq!(reclaim_of(&rig.tell_up()), Some(100));
    rig.send(0, 200 + END_MARK_BYTES, true);
    assert_eq!(rig.policy.answers(), [200]);
    rig.limit(200);
    assert!(!rig.relay.is_over(), "its word may still come");
    assert_eq!(rig.policy.answers(), [], "and changes nothing");
}

#[test]
fn the_pool_hears_of_what_is_passed_on_in_steps_and_of_what_is_wanted_at_once() {
    let rig = Rig::accepted(Some(400), 10_000);
    let number = rig.relay.number;
    rig.send(0, 400, false);
    for (bytes, heard) in [(99, 0), (1, 100), (99, 100), (1, 200)] {
        rig.relay.take_data(bytes).unwrap();
        rig.relay.passed();
        assert_eq!(rig.policy.heard(number), (heard, 0));
    }
    rig.relay.take_data(5).unwrap();
    rig.relay.passed();
    rig.relay.want(&Want { stream: UP, epoch: 0, wanted: 5000 });
    assert_eq!(rig.policy.heard(number), (205, 5000));
}

#[test]
fn the_last_of_a_small_window_is_told_to_the_pool() {
    let rig = Rig::accepted(Some(1000), 10_000);
    rig.ask_back(10);
    rig.tell_up();
    rig.limit(10);
    rig.send(0, 10, false);
    rig.pass();
    assert_eq!(rig.tell_up().credit.map(|credit| credit.limit), Some(1010));
}

#[test]
fn a_stream_leaves_its_pool_with_the_last_byte() {
    let rig = Rig::accepted(Some(100), 1000);
    rig.send(0, 100, true);
    assert!(!rig.policy.is_empty());
    rig.pass();
    assert!(rig.policy.is_empty());
    assert!(!rig.relay.is_over(), "its consumer has not had its say");
    rig.reclaim(0);
    assert_eq!(limit_of(&rig.tell_down()), Some(100));
}

#[test]
fn cancelling_frees_what_waits_beyond_what_is_allowed() {
    for from in [Side::Up, Side::Down] {
        let rig = Rig::of_stopped_process(10_000);
        rig.reclaim_unanswered(10);
        let payload = Bytes::from(vec![7; 10_000]);
        rig.relay.data(0, payload.clone(), false);
        assert_eq!(rig.pass(), 10);
        assert!(!payload.is_unique());
        rig.relay.abort(from, Code::Cancelled, 0, "enough");
        assert!(payload.is_unique(), "freed at once");
        rig.assert_gone();
    }
}

/// A stream that has used all that it was told of, wants more, and is allowed it below, but not yet by its pool.
fn waiting_for_its_pool() -> Rig {
    let rig = Rig::accepted(Some(100), 150);
    rig.send(0, 100, false);
    rig.relay.want(&Want { stream: UP, epoch: 0, wanted: 500 });
    assert!(rig.tell_down().want.is_some());
    assert_eq!(Rig::entries(&rig.up), 0);
    rig.credit(0, 0, 300, false);
    rig
}

#[test]
fn what_the_pool_does_not_let_through_yet_is_told_with_its_grant() {
    let rig = waiting_for_its_pool();
    assert_eq!(Rig::entries(&rig.up), 0, "the upper side could send nothing by it");
    assert_eq!(rig.pass(), 100);
    assert_eq!(rig.tell_up().credit.map(|credit| credit.limit), Some(200), "one word for both");
    assert_eq!(Rig::entries(&rig.up), 0);
}

#[test]
fn whoever_asks_what_was_received_is_told_though_its_pool_grants_nothing() {
    let rig = waiting_for_its_pool();
    rig.relay.want(&Want { stream: UP, epoch: 0, wanted: 500 });
    assert_eq!(rig.tell_up().credit.map(|credit| credit.limit), Some(100), "what waited here");
    rig.credit(0, 0, 310, false);
    assert_eq!(rig.tell_up().credit.map(|credit| credit.limit), Some(100), "the answer from below");
    rig.credit(0, 0, 320, false);
    assert_eq!(Rig::entries(&rig.up), 0, "what it did not ask for");
}

#[test]
fn who_has_not_used_what_it_was_told_of_does_not_wait_for_a_grant() {
    let rig = Rig::accepted(Some(100), 150);
    rig.relay.want(&Want { stream: UP, epoch: 0, wanted: 500 });
    rig.send(0, 60, false);
    rig.credit(0, 0, 300, false);
    assert!(rig.tell_up().credit.is_some(), "the pool hears of nothing for which it would grant more");
}

#[test]
fn credit_that_was_kept_back_is_told_when_no_grant_can_come() {
    let rig = waiting_for_its_pool();
    rig.send(100, END_MARK_BYTES, true);
    assert!(rig.tell_up().credit.is_some(), "nothing more will come of it");

    let rig = waiting_for_its_pool();
    rig.reclaim(100);
    assert!(rig.tell_up().credit.is_some(), "the side below takes back what it was to be granted for");
}

#[test]
fn credit_for_who_wants_nothing_and_the_last_word_are_told_at_once() {
    let rig = Rig::accepted(Some(100), 150);
    rig.send(0, 100, false);
    rig.pass();
    drop(rig.relay.take_up());
    assert_eq!(Rig::entries(&rig.up), 1);
    rig.credit(100, 0, 150, false);
    assert_eq!(rig.tell_up().credit.map(|credit| credit.received), Some(100));

    let rig = waiting_for_its_pool();
    rig.send(100, END_MARK_BYTES, true);
    rig.pass();
    drop(rig.relay.take_up());
    Rig::entries(&rig.up);
    rig.credit(100 + MARK, 100, 300, true);
    assert!(rig.tell_up().credit.is_some_and(|credit| credit.finished));
}
