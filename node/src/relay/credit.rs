//! A relay's credit: what the side below allows, what this node grants, and what the upper side was told of both.
//!
//! The upper side is told the smaller of the two. Each of them can be taken back: the side below asks with RECLAIM, the
//! [pool](super::pool) asks for itself, and the upper side answers with LIMIT.
//!
//! The side below is answered at once for what the upper side was not told of. For the rest the upper side is asked first:
//! bytes that came beyond what the side below allows would wait here and keep the pool from streams that go on. Only a
//! process that has stopped is not waited for, so that it holds nobody's credit; what may come of it then waits here, in
//! a pool that is that process's alone.

use std::rc::Rc;

use trunkline_proto::{
    code::Code,
    framing::END_MARK_BYTES,
    message::{Limit, Reclaim},
};

use super::{
    Relay, Side,
    state::{Owed, Reclaiming, State},
};
use crate::outlet::Kind;

const MARK: u64 = END_MARK_BYTES as u64;

impl Relay {
    /// The side below asks for the credit beyond `reclaim.limit` back. It keeps for the stream what the upper side keeps.
    pub(crate) fn reclaim(self: &Rc<Self>, reclaim: &Reclaim) {
        {
            let mut state = self.state.borrow_mut();
            if state.over || reclaim.epoch != self.open.epoch {
                return;
            }
            if state.accepted.is_some() {
                // One is outstanding at a time; whoever asks again before the answer is not answered twice.
                if state.owed.is_some_and(|owed| owed.is_due) {
                    return;
                }
                let count = state.owed.map_or(0, |owed| owed.count).wrapping_add(1);
                state.owed = Some(Owed { limit: reclaim.limit, count, is_due: true });
            }
        }
        if self.is_pending() {
            self.fail(Code::Protocol, "credit was asked back before the stream was accepted");
            return;
        }
        self.tell_ceiling();
        self.tell_credit();
        self.answer_if_known(false);
        let due = {
            let state = self.state.borrow();
            state.owed.filter(|owed| owed.is_due && state.up.outlet.kind() == Kind::Link)
        };
        if let (Some(owed), Some(relays)) = (due, self.relays.upgrade()) {
            relays.ticks().await_answer(Rc::downgrade(self), owed.count);
        }
    }

    /// Answers RECLAIM once it is known what the upper side keeps: because nothing more can come than has, or because it
    /// `has_said` so.
    pub(super) fn answer_if_known(self: &Rc<Self>, has_said: bool) {
        let kept = {
            let state = self.state.borrow();
            let Some(owed) = state.owed.filter(|owed| owed.is_due && !state.over) else { return };
            let may_come = if state.fin_taken { state.content() } else { state.told_limit };
            (has_said || may_come <= owed.limit.max(state.content())).then_some(may_come)
        };
        if let Some(kept) = kept {
            self.answer(kept);
        }
    }

    /// The process above has had its time to answer: it is not waited for any more, if it is still this answer that is due.
    pub(super) fn answer_anyway(self: &Rc<Self>, count: u32) {
        let taken = {
            let state = self.state.borrow();
            let is_due = state.owed.is_some_and(|owed| owed.is_due && owed.count == count) && !state.over;
            is_due.then(|| state.content())
        };
        if let Some(taken) = taken {
            self.answer(taken);
        }
    }

    /// Whether the side below waits for an answer.
    pub(super) fn owes_answer(&self) -> bool {
        self.state.borrow().owed.is_some_and(|owed| owed.is_due)
    }

    /// Keeps for the stream what was asked for and what of more is used.
    fn answer(self: &Rc<Self>, used: u64) {
        {
            let mut state = self.state.borrow_mut();
            let passed = state.passed;
            let Some(owed) = state.owed.as_mut() else { return };
            owed.is_due = false;
            // Of an end mark, bytes may be passed on already that used no credit.
            let limit = owed.limit.max(used).max(passed);
            state.allowed = state.allowed.min(limit);
            state.limit_due = Some(state.allowed);
            // Whatever it was asked for within the credit that it gave and takes back, it has to hear of again.
            state.wanted_told = state.wanted_told.min(state.allowed);
            state.note_wanted();
            state.note();
        }
        self.mark_news(Side::Down);
        self.tell_ceiling();
    }

    /// The upper side answers a RECLAIM: it will not pass `limit.limit` without new credit.
    pub(crate) fn limit(self: &Rc<Self>, limit: &Limit) {
        let answered = {
            let mut state = self.state.borrow_mut();
            // Who has sent its last byte was not waited for.
            if state.over || limit.epoch != self.open.epoch || state.fin_taken {
                return;
            }
            match state.reclaiming {
                Some(Reclaiming { limit: asked, told: true }) => {
                    let (kept, told) = (limit.limit, state.told_limit);
                    // The bytes of the end mark lie beyond what the limit counts.
                    if kept < asked || kept > told || kept.saturating_add(MARK) < state.content() {
                        Err(format!("it gave credit back to {kept}, where {asked} was asked for of {told}"))
                    } else {
                        state.keep(kept);
                        // If it was asked for less than the side below wants back, it is asked once more.
                        let is_last = kept > asked || state.owed.is_some_and(|owed| asked <= owed.limit);
                        Ok((kept, is_last))
                    }
                }
                _ => Err("it gave credit back that nobody had asked for".to_owned()),
            }
        };
        match answered {
            Ok((kept, is_last)) => {
                let number = self.number;
                self.with_pool(|pool| pool.tell(|policy| policy.limited(number, kept)));
                self.report();
                self.answer_if_known(is_last);
            }
            Err(text) => self.fail(Code::Protocol, &text),
        }
    }

    /// The pool grants the stream more.
    pub(super) fn granted(self: &Rc<Self>, limit: u64) {
        let tells = {
            let mut state = self.state.borrow_mut();
            state.granted = state.granted.max(limit);
            let tells = !state.over && state.accept_told && state.up_limit() > state.told_limit;
            state.credit_dirty |= tells;
            tells
        };
        if tells {
            self.mark_news(Side::Up);
        }
    }

    /// The pool wants back what it granted beyond `limit`. Returns what the stream keeps, when the upper side need not be
    /// asked: it was not told of more, has used it all, or has nothing more to send.
    pub(super) fn asked_back(self: &Rc<Self>, limit: u64) -> Option<u64> {
        {
            let mut state = self.state.borrow_mut();
            let content = state.content();
            if state.over || state.told_limit <= limit {
                state.granted = state.granted.min(limit);
                return Some(limit);
            }
            if state.fin_taken || content == state.told_limit {
                let kept = limit.max(content);
                state.keep(kept);
                return Some(kept);
            }
            state.reclaiming = Some(Reclaiming { limit, told: false });
        }
        self.mark_news(Side::Up);
        None
    }

    /// Has the upper side told what is known below, unless that waits for the pool's grant: one word for both.
    pub(super) fn tell_credit(self: &Rc<Self>) {
        let tells = {
            let state = self.state.borrow();
            state.credit_dirty && !state.awaits_grant()
        };
        if tells {
            self.mark_news(Side::Up);
        }
    }

    /// The stream has a lower end that allows something: from now on it shares the pool of that end.
    pub(super) fn join_pool(self: &Rc<Self>) {
        let Some(pool) = self.state.borrow().pool.clone() else { return };
        let (number, base, allowed, wanted) = {
            let state = self.state.borrow();
            (self.number, state.base, state.allowed, state.wanted)
        };
        let granted = pool.join(self, base, allowed);
        self.state.borrow_mut().granted = granted;
        pool.tell(|policy| policy.wanted(number, wanted));
    }

    /// The stream needs nothing of the pool any more.
    pub(super) fn leave_pool(&self) {
        let pool = self.state.borrow_mut().pool.take();
        if let Some(pool) = pool {
            pool.leave(self.number);
        }
    }

    /// What the side below allows has changed.
    pub(super) fn tell_ceiling(&self) {
        let (number, ceiling) = (self.number, self.state.borrow().ceiling());
        self.with_pool(|pool| pool.tell(|policy| policy.ceiling(number, ceiling)));
    }

    /// The upper side wants more: the pool is to know, and how far the stream has come.
    pub(super) fn tell_wanted(&self) {
        let (number, wanted, passed) = {
            let mut state = self.state.borrow_mut();
            state.reported = state.passed.min(state.granted).max(state.reported);
            (self.number, state.wanted, state.reported)
        };
        self.with_pool(|pool| {
            pool.tell(|policy| {
                policy.consumed(number, passed);
                policy.wanted(number, wanted);
            });
        });
    }

    /// Tells the pool what was passed on, once that is worth a word.
    pub(super) fn report(&self) {
        let mut is_waited_for = false;
        self.with_pool(|pool| is_waited_for = pool.is_waited_for());
        let Some(passed) = self.state.borrow_mut().report_due(is_waited_for) else { return };
        let number = self.number;
        self.with_pool(|pool| pool.tell(|policy| policy.consumed(number, passed)));
    }

    /// The upper side has sent its last byte: it need not answer what it was asked, and needs no more.
    pub(super) fn settle(self: &Rc<Self>) {
        let (kept, ceiling) = {
            let mut state = self.state.borrow_mut();
            let kept = state.reclaiming.map(|reclaiming| reclaiming.limit.max(state.content()));
            if let Some(kept) = kept {
                state.keep(kept);
            }
            (kept, state.ceiling())
        };
        let number = self.number;
        self.with_pool(|pool| {
            pool.tell(|policy| {
                if let Some(kept) = kept {
                    policy.limited(number, kept);
                }
                policy.ceiling(number, ceiling);
            });
        });
        self.tell_credit();
        self.answer_if_known(false);
    }

    fn with_pool(&self, with: impl FnOnce(&super::Pool)) {
        let pool = self.state.borrow().pool.clone();
        if let Some(pool) = pool {
            with(&pool);
        }
    }
}

impl State {
    /// How far the upper side may send: as the side below allows, and as the pool grants.
    pub(super) fn up_limit(&self) -> u64 {
        self.lasting().min(self.granted)
    }

    /// Whether the pool is to grant more soon: the upper side has used all that it was told of and wants more, and the side
    /// below allows more. The pool knows all three, or hears of them when what was taken is passed on. Who has asked what was
    /// received does not wait for that.
    pub(super) fn awaits_grant(&self) -> bool {
        let is_open = !self.over && self.accept_told && self.reclaiming.is_none() && self.pool.is_some();
        let is_used = self.content() == self.told_limit && self.up_limit() <= self.told_limit;
        is_open && !self.asked && is_used && self.told_limit < self.wanted.min(self.ceiling())
    }

    /// How far the side below allows the stream to be sent, less what it has asked back.
    fn lasting(&self) -> u64 {
        self.owed.filter(|owed| owed.is_due).map_or(self.allowed, |owed| self.allowed.min(owed.limit))
    }

    /// How far what was taken needed credit: all of it, but for the end mark.
    pub(super) fn content(&self) -> u64 {
        let end = if self.fin_taken { self.taken.saturating_sub(MARK) } else { self.taken };
        end.min(self.told_limit)
    }

    /// Beyond this the pool need grant nothing: the side below does not allow it, or it will not come.
    fn ceiling(&self) -> u64 {
        if self.fin_taken { self.lasting().min(self.content()) } else { self.lasting() }
    }

    /// How far may be passed on: as far as the side below allows. The end mark needs no credit; that bytes are the mark
    /// shows when they are the last.
    pub(super) fn passable(&self) -> u64 {
        if self.fin_taken && self.taken <= self.allowed.saturating_add(MARK) {
            self.taken
        } else {
            self.taken.min(self.allowed)
        }
    }

    /// Whether there is something to pass on now.
    pub(super) fn has_data(&self) -> bool {
        let ends = self.fin_taken && self.passed == self.taken;
        !self.over && !self.fin_passed && (self.passed < self.passable() || ends)
    }

    /// Marks that the side below is to hear of what waits for its credit, if it has not.
    pub(super) fn note_wanted(&mut self) {
        self.wanted = self.wanted.max(self.content());
        self.want_dirty |= self.wanted > self.allowed && self.wanted > self.wanted_told;
    }

    /// The upper side keeps credit up to here.
    fn keep(&mut self, limit: u64) {
        self.reclaiming = None;
        self.told_limit = self.told_limit.min(limit);
        self.granted = self.granted.min(limit);
        self.note();
    }

    /// How far the stream has come, when the pool is to be told: a quarter of what it granted was passed on since it was
    /// told last, or all that the upper side may send; where others wait for whole turns, only all. More often would cost
    /// more than it gives.
    fn report_due(&mut self, others_wait: bool) -> Option<u64> {
        let passed = self.passed.min(self.granted);
        let step = passed.saturating_sub(self.reported);
        let window = self.granted.saturating_sub(self.reported);
        let due = step > 0 && (passed >= self.told_limit || (step >= window.div_ceil(4) && !others_wait));
        if due {
            self.reported = passed;
        }
        due.then_some(passed)
    }
}
