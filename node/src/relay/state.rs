//! What a relay remembers of its stream.

use std::{rc::Rc, time::Instant};

use tokio::sync::oneshot;
use trunkline_proto::{
    code::Code,
    id::Incarnation,
    message::{Abort, Accept, Credit, Limit, Open, Reclaim, Resumed, Want},
};

use super::{
    Answer, DownNews, End, Pool, Side, UpNews,
    blocked::{Blocked, Position},
    end::Farewell,
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
    /// Where the stream was taken up; 0 for one that was opened.
    pub(super) base: u64,
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
    /// The side that ended it; neither, when this node did.
    pub(super) ended_by: Option<Side>,
    pub(super) farewell_up: Farewell,
    pub(super) farewell_down: Farewell,
    /// Its producer is gone: once it is answered, it is aborted.
    pub(super) is_orphan: bool,
    /// It waits, or has waited, for a lower end.
    pub(super) is_queued: bool,
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
            base: 0,
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
            ended_by: None,
            farewell_up: Farewell::default(),
            farewell_down: Farewell::default(),
            is_orphan: false,
            is_queued: false,
            code: Code::Closed,
            watched: None,
            news_queued_up: false,
            news_queued_down: false,
            data_queued: false,
            blocked: Blocked::default(),
        }
    }

    /// The stream goes on at `received`, of which so much is consumed.
    pub(super) fn begin_at(&mut self, received: u64, consumed: u64) {
        (self.base, self.taken, self.passed, self.reported) = (received, received, received, received);
        (self.wanted, self.wanted_told) = (received, received);
        (self.credit.received, self.credit.consumed) = (received, consumed);
    }

    /// What to tell the producer's side. Empties it.
    pub(super) fn take_up(&mut self, open: &Open, is_resumed: bool) -> UpNews {
        self.news_queued_up = false;
        let mut news = UpNews {
            over: self.over,
            abort: self.abort_up.take().map(|abort| *abort),
            end_ack: std::mem::take(&mut self.farewell_up.ack_due),
            ..UpNews::default()
        };
        if self.over && !self.credit.finished {
            return news;
        }
        let limit = self.up_limit();
        let stream = self.up.stream.unwrap_or_default();
        if let Some(incarnation) = self.accepted
            && !std::mem::replace(&mut self.accept_told, true)
        {
            let Credit { received, consumed, epoch, .. } = self.credit;
            news.answer = Some(match is_resumed {
                false => Answer::Accept(Accept { stream, incarnation, limit }),
                true => Answer::Resumed(Resumed { stream, epoch, received, consumed, limit }),
            });
            self.told_limit = limit;
        }
        if std::mem::take(&mut self.credit_dirty) {
            // While credit is asked back, nobody is told of more than what it is to keep.
            let asked = self.reclaiming.map(|reclaiming| reclaiming.limit);
            if asked.is_none() {
                self.told_limit = self.told_limit.max(limit);
            }
            let limit = self.told_limit.min(asked.unwrap_or(u64::MAX));
            news.credit = Some(Credit { stream, limit, ..self.credit });
        }
        if let Some(Reclaiming { limit, told: told @ false }) = &mut self.reclaiming {
            *told = true;
            news.reclaim = Some(Reclaim { stream, epoch: open.epoch, limit: *limit });
        }
        self.note();
        news
    }

    /// What to tell the consumer's side. Empties it.
    pub(super) fn take_down(&mut self, epoch: u32) -> DownNews {
        self.news_queued_down = false;
        let mut news = DownNews {
            over: self.over,
            abort: self.abort_down.take().map(|abort| *abort),
            end_ack: std::mem::take(&mut self.farewell_down.ack_due),
            ..DownNews::default()
        };
        if self.over {
            return news;
        }
        if !std::mem::replace(&mut self.open_told, true) {
            news.open = Some(self.bind);
        }
        // Before the stream has its id there, nothing can be said of it; when it gets it, there are news again.
        if let Some(stream) = self.down.as_ref().and_then(|down| down.stream) {
            news.limit = self.limit_due.take().map(|limit| Limit { stream, epoch, limit });
            if std::mem::take(&mut self.want_dirty) {
                self.wanted_told = self.wanted_told.max(self.wanted);
                news.want = Some(Want { stream, epoch, wanted: self.wanted });
            }
        }
        news
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
