//! What a relay remembers of its stream.

use std::time::Instant;

use tokio::sync::oneshot;
use trunkline_proto::{
    code::Code,
    id::Incarnation,
    message::{Abort, Credit},
};

use super::{
    End,
    blocked::{Blocked, Position},
    waiting::Waiting,
};

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
    /// The latest word of the consumer.
    pub(super) credit: Credit,
    pub(super) credit_dirty: bool,
    /// How far the upper side may be ahead of what was passed on.
    pub(super) ingress_bytes: u64,
    /// How far the upper side was told that it may send.
    pub(super) told_limit: u64,
    pub(super) wanted: u64,
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
    pub(super) fn new(up: End, epoch: u32, ingress_bytes: u64) -> Self {
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
            ingress_bytes,
            told_limit: 0,
            wanted: 0,
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
            allowed: self.credit.limit,
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

    /// How far the upper side may send: as the consumer allows, and not too far ahead of what was passed on.
    pub(super) fn up_limit(&self) -> u64 {
        self.credit.limit.min(self.passed.saturating_add(self.ingress_bytes))
    }
}
