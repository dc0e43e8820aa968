//! A stream in transit through this node: what came in and has not gone out, and what each side is to be told.
//!
//! A relay has an upper end, towards the producer, and a lower end, towards the consumer. Each end is a local link or a
//! trunk, and a relay hardly cares which. It takes only so much ahead of what it could pass on as the [pool] of its lower
//! end grants, whatever the consumer allows; so what a node holds is bounded by its configuration alone.
//!
//! Invariant: no method here waits. A relay is asked and told, marks itself at its outlets, and their writers come for
//! it. So no stream ever waits for another.

mod blocked;
mod credit;
mod end;
mod names;
mod pool;
mod state;
mod table;
mod ticks;
mod tombstones;
mod waiting;

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::oneshot;
use trunkline_proto::{
    code::Code,
    frame::Frame,
    framing::END_MARK_BYTES,
    id::Incarnation,
    message::{Abort, Accept, Credit, Limit, Open, Reclaim, Resumed, Want},
};

use self::state::State;
pub(crate) use self::{
    blocked::Times,
    pool::Pool,
    table::Relays,
    tombstones::{Epitaph, Tombstones},
};
use crate::{
    events,
    outlet::{Kind, Outlet},
};

/// Which way from a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Towards the producer.
    Up,
    /// Towards the consumer.
    Down,
}

/// One end of a relay: a connection, and the stream's id on it once it has one.
#[derive(Clone)]
pub(crate) struct End {
    pub(crate) outlet: Rc<Outlet>,
    pub(crate) stream: Option<u64>,
}

/// The consumer's answer to what asked for the stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Answer {
    /// To OPEN.
    Accept(Accept),
    /// To RESUME.
    Resumed(Resumed),
}

impl Answer {
    /// The answer as a frame about the stream of this id.
    pub(crate) fn into_frame(self, stream: u64) -> Frame {
        match self {
            Self::Accept(accept) => Accept { stream, ..accept }.into(),
            Self::Resumed(resumed) => Resumed { stream, ..resumed }.into(),
        }
    }
}

/// What the upper side is to be told.
#[derive(Debug, Default)]
pub(crate) struct UpNews {
    pub(crate) answer: Option<Answer>,
    pub(crate) credit: Option<Credit>,
    /// Comes after the credit.
    pub(crate) reclaim: Option<Reclaim>,
    pub(crate) abort: Option<Abort>,
    /// The end that it told has been heard.
    pub(crate) end_ack: bool,
    /// Nothing will follow in either direction.
    pub(crate) over: bool,
}

/// What the lower side is to be told.
#[derive(Debug, Default)]
pub(crate) struct DownNews {
    /// Offer the stream: to this bind of a local process, 0 on a trunk.
    pub(crate) open: Option<u64>,
    pub(crate) limit: Option<Limit>,
    /// Comes after the limit.
    pub(crate) want: Option<Want>,
    pub(crate) abort: Option<Abort>,
    /// The end that it told has been heard.
    pub(crate) end_ack: bool,
    /// Nothing will follow in either direction.
    pub(crate) over: bool,
}

/// Bytes on their way down.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) offset: u64,
    pub(crate) pieces: Vec<Bytes>,
    pub(crate) bytes: usize,
    pub(crate) fin: bool,
}

/// What Status shows.
pub(crate) struct Snapshot {
    pub(crate) passed: u64,
    pub(crate) limit: u64,
    pub(crate) queued: u64,
    pub(crate) accepted: bool,
    pub(crate) waited: Times,
}

/// See the module.
pub(crate) struct Relay {
    /// Counts relays since the node started.
    pub(crate) number: u64,
    /// The attachment of the producer's process, if that is on this node.
    pub(crate) process: Option<u64>,
    /// Who sends to whom, the producer's node included.
    pub(crate) open: Open,
    /// When the stream was taken up again, and not opened: the consumer's life that it belongs to.
    pub(crate) resume: Option<Incarnation>,
    relays: Weak<Relays>,
    state: RefCell<State>,
}

impl Relay {
    /// The lower end is known, and the pool of what waits for it: offer the stream there. On a local link it has an id and
    /// is for a `bind`; on a trunk it gets its id when it is opened.
    pub(crate) fn connect_down(self: &Rc<Self>, outlet: &Rc<Outlet>, pool: &Rc<Pool>, stream: Option<u64>, bind: u64) {
        {
            let mut state = self.state.borrow_mut();
            if state.over {
                return;
            }
            state.down = Some(End { outlet: Rc::clone(outlet), stream });
            state.pool = Some(Rc::clone(pool));
            state.bind = bind;
        }
        if let Some(stream) = stream {
            outlet.register(stream, Rc::clone(self));
        }
        self.mark_news(Side::Down);
    }

    /// The stream got its id on the lower connection, whose writer may now write it.
    pub(crate) fn name_down(self: &Rc<Self>, stream: u64) {
        let outlet = {
            let mut state = self.state.borrow_mut();
            let Some(down) = state.down.as_mut() else { return };
            down.stream = Some(stream);
            Rc::clone(&down.outlet)
        };
        outlet.register(stream, Rc::clone(self));
        self.mark_news(Side::Down);
    }

    /// Whether the news that are queued for one side need not be told any more: the stream has ended, the side has
    /// never heard of it, or of nothing but its own word.
    pub(crate) fn is_moot(&self, side: Side) -> bool {
        let mut state = self.state.borrow_mut();
        let moot = state.over
            && !state.has_word(side)
            && match side {
                Side::Up => state.up.outlet.kind() == Kind::Link,
                Side::Down => state.down.as_ref().is_none_or(|down| down.outlet.kind() == Kind::Link),
            };
        if moot {
            match side {
                Side::Up => state.news_queued_up = false,
                Side::Down => state.news_queued_down = false,
            }
        }
        moot
    }

    /// The relay's end on one side.
    pub(crate) fn end(&self, side: Side) -> Option<End> {
        let state = self.state.borrow();
        match side {
            Side::Up => Some(state.up.clone()),
            Side::Down => state.down.clone(),
        }
    }

    /// Whether the stream has ended, one way or the other.
    pub(crate) fn is_over(&self) -> bool {
        self.state.borrow().over
    }

    /// With which code the stream has ended; `closed` when it ended cleanly or has not ended.
    pub(crate) fn code(&self) -> Code {
        self.state.borrow().code
    }

    /// Waits until the stream has ended, without keeping it. Cancel-safe; one waiter only.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let (watched, ended) = oneshot::channel();
        let mut state = self.state.borrow_mut();
        if !state.over {
            state.watched = Some(watched);
        }
        async { ended.await.unwrap_or_default() }
    }

    /// Whether nobody was asked for the stream yet, nor is going to be.
    pub(crate) fn is_unsent(&self) -> bool {
        let state = self.state.borrow();
        state.down.is_none() && !state.is_queued
    }

    /// It waits for a trunk from now on, or for its consumer.
    pub(crate) fn set_queued(&self) {
        self.state.borrow_mut().is_queued = true;
    }

    /// Whether the consumer has not answered yet.
    pub(crate) fn is_pending(&self) -> bool {
        let state = self.state.borrow();
        state.accepted.is_none() && !state.over
    }

    /// For Status.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.state.borrow();
        Snapshot {
            passed: state.passed,
            limit: state.allowed,
            queued: state.taken - state.passed,
            accepted: state.accepted.is_some(),
            waited: state.blocked.times(Instant::now()),
        }
    }

    // From above.

    /// The next bytes from the producer's side.
    pub(crate) fn data_next(self: &Rc<Self>, payload: Bytes, fin: bool) {
        let offset = self.state.borrow().taken;
        self.data(offset, payload, fin);
    }

    /// Bytes from the producer's side, which begin at `offset`.
    pub(crate) fn data(self: &Rc<Self>, offset: u64, payload: Bytes, fin: bool) {
        self.data_in_pieces(offset, &mut [payload], fin);
    }

    /// The same, of bytes that lie in several pieces, which are moved out.
    pub(crate) fn data_in_pieces(self: &Rc<Self>, offset: u64, pieces: &mut [Bytes], fin: bool) {
        let fault = {
            let mut state = self.state.borrow_mut();
            if state.over {
                return;
            }
            let end = offset.saturating_add(pieces.iter().map(Bytes::len).sum::<usize>() as u64);
            if state.accepted.is_none() {
                Some((Code::Protocol, "bytes came before the stream was accepted".to_owned()))
            } else if state.fin_taken {
                Some((Code::Protocol, "bytes followed the last ones".to_owned()))
            } else if offset != state.taken {
                Some((Code::Protocol, format!("bytes from offset {offset} came where {} was due", state.taken)))
            } else if end > state.told_limit.saturating_add(END_MARK_BYTES as u64) {
                Some((Code::CreditExceeded, format!("{end} bytes were sent, {} were allowed", state.told_limit)))
            } else {
                state.taken = end;
                state.fin_taken = fin;
                for piece in pieces {
                    state.waiting.push(std::mem::take(piece));
                }
                if state.content() > state.allowed {
                    state.note_wanted();
                }
                state.note();
                None
            }
        };
        if let Some((code, text)) = fault {
            self.fail(code, &text);
            return;
        }
        self.mark_data();
        if fin {
            self.settle();
        }
        if self.owes_answer() {
            self.answer_if_known(false);
        }
        if self.state.borrow().want_dirty {
            self.mark_news(Side::Down);
        }
    }

    /// The producer has bytes up to `wanted`. Passed on also when it says nothing new: it may ask for news of what has
    /// been received.
    pub(crate) fn want(self: &Rc<Self>, want: &Want) {
        {
            let mut state = self.state.borrow_mut();
            if state.over || want.epoch != self.open.epoch {
                return;
            }
            // It wants to know what has been received: what of that waits here is told now, and the answer when it comes.
            state.asked |= want.wanted <= state.wanted;
            state.wanted = state.wanted.max(want.wanted);
            state.want_dirty = true;
            state.note();
        }
        self.mark_news(Side::Down);
        self.tell_wanted();
        self.tell_credit();
    }

    // From below.

    /// The consumer took the stream.
    pub(crate) fn accept(self: &Rc<Self>, accept: &Accept) {
        {
            let mut state = self.state.borrow_mut();
            if state.over || state.accepted.is_some() {
                return;
            }
            state.accepted = Some(accept.incarnation);
            state.allowed = accept.limit;
            state.note();
        }
        events::accepted(&self.open);
        self.answered();
    }

    /// The consumer goes on with the stream, from what it holds.
    pub(crate) fn resumed(self: &Rc<Self>, resumed: &Resumed) {
        let Resumed { epoch, received, consumed, limit, .. } = *resumed;
        let fault = {
            let mut state = self.state.borrow_mut();
            if state.over || state.accepted.is_some() {
                return;
            }
            match self.resume {
                Some(life) if epoch == self.open.epoch && consumed <= received => {
                    state.accepted = Some(life);
                    state.begin_at(received, consumed);
                    state.allowed = limit;
                    state.note();
                    None
                }
                _ => Some("it was resumed without being asked, or beyond what it holds"),
            }
        };
        if let Some(text) = fault {
            return self.fail(Code::Protocol, text);
        }
        events::resumed(&self.open, received);
        self.answered();
    }

    fn answered(self: &Rc<Self>) {
        self.join_pool();
        self.mark_news(Side::Up);
        self.speak_for_the_dead();
    }

    /// How the stream ended is all that is known of it here: there is no consumer to be asked.
    pub(crate) fn answer_with(self: &Rc<Self>, Epitaph { consumed, code }: Epitaph) {
        self.state.borrow_mut().farewell_mut(Side::Down).is_gone = true;
        match code {
            Some(code) => self.fail(code, "so its consumer had ended it"),
            None => {
                let received = consumed.saturating_add(END_MARK_BYTES as u64);
                let epoch = self.open.epoch;
                self.resumed(&Resumed { stream: 0, epoch, received, consumed, limit: consumed });
                self.credit(&Credit { stream: 0, epoch, received, consumed, limit: consumed, finished: true });
            }
        }
    }

    /// News of what the consumer holds, has consumed and allows.
    pub(crate) fn credit(self: &Rc<Self>, credit: &Credit) {
        let fault = {
            let mut state = self.state.borrow_mut();
            if state.over && credit.finished {
                // The words have crossed: each is the answer to the other.
                drop(state);
                return self.end_ack(Side::Down);
            }
            if state.over || credit.epoch != self.open.epoch {
                return;
            }
            if state.accepted.is_none() || credit.received > state.passed || credit.consumed > credit.received {
                Some(format!("credit for {} received, {} were passed on", credit.received, state.passed))
            } else if credit.finished && !state.fin_passed && credit.received != state.base {
                Some("the end was consumed before it was passed on".to_owned())
            } else {
                let known = state.credit;
                state.credit = Credit {
                    stream: 0,
                    epoch: known.epoch,
                    received: known.received.max(credit.received),
                    consumed: known.consumed.max(credit.consumed),
                    limit: 0,
                    finished: credit.finished,
                };
                state.allowed = state.allowed.max(credit.limit);
                state.credit_dirty = true;
                state.over = credit.finished;
                state.note();
                None
            }
        };
        if let Some(text) = fault {
            self.fail(Code::Protocol, &text);
            return;
        }
        self.mark_data();
        self.tell_ceiling();
        self.tell_credit();
        self.state.borrow_mut().asked = false;
        if self.is_over() {
            self.finish();
        }
    }

    // From either side, or from the node itself.

    /// One side has given the stream up without a word. What it had sent completely goes on.
    pub(crate) fn lost(self: &Rc<Self>, from: Side, code: Code, text: &str) {
        let offset = {
            let state = self.state.borrow();
            match from {
                _ if state.over => return,
                // The end mark has been taken: nothing more was to come from there.
                Side::Up if state.fin_taken && !code.ends_path() => return,
                Side::Up => state.taken,
                Side::Down => state.credit.consumed,
            }
        };
        self.abort(from, code, offset, text);
    }

    // For the writers.

    /// What to tell the producer's side. Empties it.
    pub(crate) fn take_up(&self) -> UpNews {
        let news = self.state.borrow_mut().take_up(&self.open, self.resume.is_some());
        if news.over {
            self.leave_if_heard();
        }
        news
    }

    /// What to tell the consumer's side. Empties it.
    pub(crate) fn take_down(&self) -> DownNews {
        let news = self.state.borrow_mut().take_down(self.open.epoch);
        if news.over {
            self.leave_if_heard();
        }
        news
    }

    /// At most `bytes_max` bytes to pass on now; `None` when the side below allows none or there are none, and the stream is
    /// not at its end either.
    pub(crate) fn take_data(&self, bytes_max: usize) -> Option<Taken> {
        let mut state = self.state.borrow_mut();
        state.data_queued = false;
        if !state.has_data() {
            return None;
        }
        let passable = usize::try_from(state.passable().saturating_sub(state.passed)).unwrap_or(usize::MAX);
        let bytes_max = bytes_max.min(passable);
        let mut taken = Taken { offset: state.passed, pieces: Vec::new(), bytes: 0, fin: false };
        while taken.bytes < bytes_max {
            let Some(piece) = state.waiting.pop(bytes_max - taken.bytes) else { break };
            taken.bytes += piece.len();
            taken.pieces.push(piece);
        }
        state.passed += taken.bytes as u64;
        taken.fin = state.fin_taken && state.passed == state.taken;
        state.fin_passed = taken.fin;
        // Until someone says otherwise the writer holds the turn.
        state.data_queued = true;
        Some(taken)
    }

    /// The writer has passed on what it took; whether there is more. The upper side may then go on.
    pub(crate) fn passed(self: &Rc<Self>) -> bool {
        let (more, ends) = {
            let mut state = self.state.borrow_mut();
            let more = state.has_data();
            state.data_queued = more;
            state.note();
            (more, state.fin_passed)
        };
        if ends {
            self.leave_pool();
            self.tell_credit();
        } else {
            self.report();
        }
        more
    }

    fn mark_news(self: &Rc<Self>, side: Side) {
        if self.is_moot(side) {
            return;
        }
        let outlet = {
            let mut state = self.state.borrow_mut();
            let outlet = match side {
                Side::Up => Some(Rc::clone(&state.up.outlet)),
                Side::Down => state.down.as_ref().map(|down| Rc::clone(&down.outlet)),
            };
            let Some(outlet) = outlet else { return };
            let queued = match side {
                Side::Up => &mut state.news_queued_up,
                Side::Down => &mut state.news_queued_down,
            };
            if std::mem::replace(queued, true) {
                return;
            }
            outlet
        };
        outlet.push_news(Rc::clone(self), side);
    }

    fn mark_data(self: &Rc<Self>) {
        let outlet = {
            let mut state = self.state.borrow_mut();
            let Some(down) = state.down.as_ref().filter(|_| state.has_data()) else { return };
            let outlet = Rc::clone(&down.outlet);
            if std::mem::replace(&mut state.data_queued, true) {
                return;
            }
            outlet
        };
        outlet.push_data(self);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(relays) = self.relays.upgrade() {
            relays.forget(&self.open);
        }
    }
}

#[cfg(test)]
mod tests;
