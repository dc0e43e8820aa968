//! What a relay remembers of its stream.

use std::{rc::Rc, time::Instant};

use tokio::sync::oneshot;
use trunkline_proto::{
    code::Code,
    id::Incarnation,
    message::{Abort, Credit},
};

use super::{
    End, Pool,
    blocked::{Blocked, Position},
    waiting::Waiting,
};

/// The upper side is asked to give back credit beyond `limit`, and has not answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reclaiming {
    pub(super) limit: u64,
    /// Whether it has been asked, and not only is to be.
    pub(super) told: bool,
}

/// The side below has asked for the credit beyond `limit` back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owed {
    pub(super) limit: u64,
    /// Tells it from earlier ones.
    pub(super) count: u32,
    /// Whether the answer is still to be given.
    pub(super) is_due: bool,
}

/// The state behind one relay; [`super::Relay`] has the rules by which it changes. There may be a million, most of them
/// idle: what is rarely there is in a box.
pub(super) struct State {
    pub(super) up: End,
    pub(super) down: Option<End>,
    /// Taken from above and not yet passed on.
    pub(super) waiting: Waiting,
    pub(super) taken: u64,
    pub(super) passed: u64,
    pub(super) fin_taken: bool,
    pub(super) fin_passed: bool,
    /// The consumer's life, once it has accepted.
    pub(super) accepted: Option<Incarnation>,
    pub(super) accept_told: bool,
    /// The latest word of the consumer; its limit is in `allowed`.
    pub(super) credit: Credit,
    pub(super) credit_dirty: bool,
    /// The upper side has asked what was received, and the answer has not come from below.
    pub(super) asked: bool,
    /// How far the side below lets the stream be passed on.
    pub(super) allowed: u64,
    /// The last time that the side below asked for credit back.
    pub(super) owed: Option<Owed>,
    /// The answer to that, which is to be told.
    pub(super) limit_due: Option<u64>,
    /// What streams to the same lower end share, until the stream needs it no more.
    pub(super) pool: Option<Rc<Pool>>,
    /// How far the pool lets the upper side send.
    pub(super) granted: u64,
    /// How far the stream had come when the pool was told last.
    pub(super) reported: u64,
    /// How far the upper side was told that it may send.
    pub(super) told_limit: u64,
    /// The upper side is asked for credit back.
    pub(super) reclaiming: Option<Reclaiming>,
    pub(super) wanted: u64,
    /// How far the side below has heard that more is wanted.
    pub(super) wanted_told: u64,
    pub(super) want_dirty: bool,
    /// The consumer's bind on a local link.
    pub(super) bind: u64,
    pub(super) open_told: bool,
    pub(super) abort_up: Option<Box<Abort>>,
    pub(super) abort_down: Option<Box<Abort>>,
    pub(super) over: bool,
    /// Why it is over, if not by its end.
    pub(super) code: Code,
    /// Dropped when the stream ends: who waits for that holds the other half.
    pub(super) watched: Option<oneshot::Sender<()>>,
    pub(super) news_queued_up: bool,
    pub(super) news_queued_down: bool,
    pub(super) data_queued: bool,
    pub(super) blocked: Blocked,
}

impl State {
    pub(super) fn new(up: End, epoch: u32) -> Self {
        let credit = Credit { stream: 0, epoch, received: 0, consumed: 0, limit: 0, finished: false };
        Self {
            up,
            down: None,
            waiting: Waiting::default(),
            taken: 0,
            passed: 0,
            fin_taken: false,
            fin_passed: false,
            accepted: None,
            accept_told: false,
            credit,
            credit_dirty: false,
            asked: false,
            allowed: 0,
            owed: None,
            limit_due: None,
            pool: None,
            granted: 0,
            reported: 0,
            told_limit: 0,
            reclaiming: None,
            wanted: 0,
            wanted_told: 0,
            want_dirty: false,
            bind: 0,
            open_told: false,
            abort_up: None,
            abort_down: None,
            over: false,
            code: Code::Closed,
            watched: None,
            news_queued_up: false,
            news_queued_down: false,
            data_queued: false,
            blocked: Blocked::default(),
        }
    }

    /// Takes note of what the stream waits for, after each change of what decides that. The clock is asked only when it
    /// waits for something else than before.
    pub(super) fn note(&mut self) {
        let Some(down) = &self.down else { return };
        if self.accepted.is_none() || self.over {
            return;
        }
        let cause = Position {
            passed: self.passed,
            taken: self.taken,
            told: self.told_limit,
            allowed: self.allowed,
            wanted: self.wanted,
            ends: self.fin_taken && !self.fin_passed,
            up: self.up.outlet.kind(),
            down: down.outlet.kind(),
        }
        .cause();
        if self.blocked.cause() != Some(cause) {
            self.blocked.turn(cause, Instant::now());
        }
    }
}
