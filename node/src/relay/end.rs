//! How a relay ends: who is told, who acknowledges, and what is left of it when one of them is gone (docs/adr/0012).
//!
//! An end stays here, without its bytes, until the side that was told has acknowledged it, and the side that told it knows.
//! A lost trunk ends the path alone: the end on the other side is told so, and resumes. Where there is nobody left on
//! the other side, the node speaks for them: an *orphan* takes up the stream of a producer that is gone, to abort it; a
//! [tombstone](super::Tombstones) says how one ended whose consumer is gone.

use std::{rc::Rc, time::Instant};

use trunkline_proto::{
    code::Code,
    message::{Abort, EndAck, Open},
};

use super::{End, Epitaph, Relay, Side, state::State, waiting::Waiting};
use crate::{events, outlet::Kind};

/// What one side has to do with the end of the stream.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Farewell {
    /// It was told of the end, and has not acknowledged it.
    pub(super) is_awaited: bool,
    /// It told the end, and is to know that the other side has heard it.
    pub(super) ack_due: bool,
    /// Its connection is gone.
    pub(super) is_gone: bool,
}

/// What is to be done for the other side of one that is gone.
enum Then {
    /// Nothing: it goes on.
    GoOn,
    /// The stream ends.
    End,
    /// That counts as an acknowledgement.
    Heard,
    /// The path ends, and the other side is told.
    PathLost,
    /// There is nobody there to be told.
    Remains,
    /// It is of no consequence.
    Nothing,
}

impl Side {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

impl Relay {
    /// The stream ends, says the side `from`, which need not be told. The other side is.
    pub(crate) fn abort(self: &Rc<Self>, from: Side, code: Code, offset: u64, text: &str) {
        if code.ends_path() {
            return self.path_lost(from, text);
        }
        if self.is_over() {
            // The words have crossed: each is the answer to the other.
            return self.end_ack(from);
        }
        let abort = Abort { stream: 0, code, offset, text: text.to_owned() };
        match from {
            Side::Up => self.end_with(Some(from), None, Some(abort)),
            Side::Down => self.end_with(Some(from), Some(abort), None),
        }
    }

    /// The node ends the stream; both sides are told.
    pub(crate) fn fail(self: &Rc<Self>, code: Code, text: &str) {
        let (taken, consumed) = {
            let state = self.state.borrow();
            (state.taken, state.credit.consumed)
        };
        let abort = |offset| Some(Abort { stream: 0, code, offset, text: text.to_owned() });
        self.end_with(None, abort(consumed), abort(taken));
    }

    /// The stream goes on by another trunk: its lower side is told, and the upper one is to resume it.
    pub(crate) fn supersede(self: &Rc<Self>) {
        let text = "another connection is the trunk";
        let path = |code| Some(Abort { stream: 0, code, offset: 0, text: text.to_owned() });
        let is_live = !self.is_over() && !self.state.borrow().farewell(Side::Up).is_gone;
        if is_live {
            self.end_with(None, path(Code::TrunkLost), path(Code::Superseded));
        } else {
            self.path_lost(Side::Down, text);
        }
    }

    /// The connection of one side is gone, and with a local link, the process at its other end.
    pub(crate) fn gone(self: &Rc<Self>, from: Side, text: &str) {
        match self.end(from).map(|end| end.outlet.kind()) {
            Some(Kind::Link) => self.process_gone(from, text),
            Some(Kind::Trunk) => self.path_lost(from, text),
            None => {}
        }
    }

    fn process_gone(self: &Rc<Self>, from: Side, text: &str) {
        let then = {
            let mut state = self.state.borrow_mut();
            let is_unanswered = self.open.epoch > 0 && state.accepted.is_none();
            let is_whole = state.fin_taken;
            state.leave_side(from);
            match from {
                _ if state.over => Then::Heard,
                // What it had sent completely goes on.
                Side::Up if is_whole => Then::GoOn,
                Side::Up if is_unanswered => {
                    state.is_orphan = true;
                    Then::Remains
                }
                _ => Then::End,
            }
        };
        match then {
            Then::Heard => self.acknowledged(from),
            Then::End => {
                let (code, offset) = self.loss(from);
                self.abort(from, code, offset, text);
            }
            Then::Remains => self.tell_orphan(Rc::clone(self)),
            Then::GoOn | Then::PathLost | Then::Nothing => {}
        }
    }

    /// With which code the end at one side is gone, and how far it had come.
    fn loss(&self, from: Side) -> (Code, u64) {
        let state = self.state.borrow();
        match from {
            Side::Up => (Code::ProducerGone, state.taken),
            Side::Down => (Code::ConsumerGone, state.credit.consumed),
        }
    }

    /// The stream's way on one side is lost, which says nothing of the stream.
    fn path_lost(self: &Rc<Self>, from: Side, text: &str) {
        let other = from.other();
        let then = {
            let mut state = self.state.borrow_mut();
            let was_awaited = state.farewell(from).is_awaited;
            let is_nobodys = state.farewell(other).is_gone || state.is_orphan;
            let is_others = state.ended_by == Some(other);
            state.leave_side(from);
            match (state.over, is_nobodys) {
                (false, false) => Then::PathLost,
                (false, true) => Then::Remains,
                (true, _) if !was_awaited || !is_others => Then::Nothing,
                (true, false) => Then::PathLost,
                (true, true) => Then::Remains,
            }
        };
        let lost = Some(Abort { stream: 0, code: Code::TrunkLost, offset: 0, text: text.to_owned() });
        match then {
            Then::PathLost if self.is_over() => {
                match from {
                    Side::Up => self.state.borrow_mut().abort_down = lost.map(Box::new),
                    Side::Down => self.state.borrow_mut().abort_up = lost.map(Box::new),
                }
                self.mark_news(other);
                self.leave_if_heard();
            }
            Then::PathLost => match from {
                Side::Up => self.end_with(Some(from), None, lost),
                Side::Down => self.end_with(Some(from), lost, None),
            },
            Then::Remains => {
                self.bury(from);
                // The halves of a connection that may still stand are reset, and not finished.
                match from {
                    Side::Up => self.end_with(None, lost, None),
                    Side::Down => self.end_with(None, None, lost),
                }
                self.leave_if_heard();
            }
            Then::Heard | Then::End | Then::GoOn | Then::Nothing => self.leave_if_heard(),
        }
    }

    /// The path on the side `from` is lost, and on the other side there is nobody: what is left of the stream here.
    fn bury(self: &Rc<Self>, from: Side) {
        let Some(relays) = self.relays.upgrade() else { return };
        match from {
            Side::Up => {
                let epitaph = {
                    let state = self.state.borrow();
                    let code = if state.credit.finished { None } else { Some(state.code) };
                    Epitaph { consumed: state.credit.consumed, code }
                };
                let key = (self.open.incarnation, self.open.number);
                relays.tombstones().borrow_mut().end(key, epitaph, Instant::now());
            }
            Side::Down => {
                // A life that has not taken the stream knows nothing of it, or will not wait for it for ever.
                let life = self.state.borrow().accepted.or(self.resume);
                if let Some(life) = life {
                    let open = Open { epoch: self.open.epoch.saturating_add(1), ..self.open.clone() };
                    let mut up = self.state.borrow().up.clone();
                    up.stream = None;
                    let orphan = relays.add(open, Some(life), up, self.process);
                    {
                        let mut state = orphan.state.borrow_mut();
                        state.leave_side(Side::Up);
                        state.is_orphan = true;
                    }
                    self.tell_orphan(orphan);
                }
            }
        }
    }

    fn tell_orphan(&self, orphan: Rc<Self>) {
        if let Some(relays) = self.relays.upgrade() {
            relays.tell_orphan(orphan);
        }
    }

    /// An orphan was answered: its stream ends, as its producer would have had it end.
    pub(super) fn speak_for_the_dead(self: &Rc<Self>) {
        if self.state.borrow().is_orphan {
            let text = format!("the process of producer {} is gone", self.open.producer);
            let (code, offset) = self.loss(Side::Up);
            self.abort(Side::Up, code, offset, &text);
        }
    }

    /// A side has heard the end that it was told.
    pub(crate) fn end_ack(self: &Rc<Self>, from: Side) {
        if self.is_over() {
            self.acknowledged(from);
        }
    }

    fn acknowledged(self: &Rc<Self>, from: Side) {
        let other = from.other();
        let tells = {
            let mut state = self.state.borrow_mut();
            let was_awaited = std::mem::take(&mut state.farewell_mut(from).is_awaited);
            let tells = was_awaited && state.ended_by == Some(other) && !state.farewell(other).is_gone;
            state.farewell_mut(other).ack_due |= tells;
            tells
        };
        if tells {
            self.mark_news(other);
        }
        self.leave_if_heard();
    }

    /// Ends the relay, by the wish of one side or of the node, and has the sides told.
    pub(super) fn end_with(self: &Rc<Self>, by: Option<Side>, up: Option<Abort>, down: Option<Abort>) {
        let code = up.as_ref().or(down.as_ref()).map_or(Code::Closed, |abort| abort.code);
        {
            let mut state = self.state.borrow_mut();
            if std::mem::replace(&mut state.over, true) {
                return;
            }
            let why = up.as_ref().or(down.as_ref()).map_or("", |abort| abort.text.as_str());
            match &up {
                Some(abort) if state.accepted.is_none() => events::refused(&self.open, code, &abort.text),
                _ if code.ends_path() => events::suspended(&self.open, state.passed, why),
                _ => events::aborted(&self.open, code, state.passed, why),
            }
            state.waiting = Waiting::default();
            state.code = code;
            // Who has heard nothing of the stream need not hear of its end, and cannot acknowledge it.
            state.abort_up = up.filter(|_| !state.farewell(Side::Up).is_gone).map(Box::new);
            state.abort_down = down.filter(|_| state.is_known_below()).map(Box::new);
            let is_known_above = state.accept_told || self.resume.is_some();
            state.await_acks(by, is_known_above);
        }
        self.answer_at_once(by);
        self.retire();
        self.mark_news(Side::Up);
        self.mark_news(Side::Down);
        self.leave_if_heard();
    }

    /// Who told an end that nobody else is to hear is told so at once, and not as news of the stream: whoever asks without end,
    /// and takes no answers, must not have a relay kept for each.
    fn answer_at_once(&self, by: Option<Side>) {
        let end = {
            let state = self.state.borrow();
            by.filter(|&by| !state.code.ends_path() && !state.awaits_anyone() && !state.farewell(by).is_gone)
        };
        if let Some(End { outlet, stream: Some(stream) }) = end.and_then(|by| self.end(by)) {
            outlet.push_frame(EndAck { stream });
        }
    }

    /// The consumer has consumed the stream to its end, which the upper side is told.
    pub(super) fn finish(self: &Rc<Self>) {
        events::ended(&self.open, self.snapshot().passed);
        {
            let mut state = self.state.borrow_mut();
            state.ended_by = Some(Side::Down);
            let is_gone = state.farewell(Side::Up).is_gone;
            state.farewell_mut(Side::Up).is_awaited = !is_gone;
            state.farewell_mut(Side::Down).ack_due = is_gone;
        }
        self.retire();
        self.mark_news(Side::Up);
        self.mark_news(Side::Down);
        self.leave_if_heard();
    }

    /// The stream is over: it holds nothing that others could use, and nobody waits for it.
    fn retire(&self) {
        self.state.borrow_mut().watched = None;
        self.leave_pool();
        if let Some(relays) = self.relays.upgrade() {
            relays.remove(self.number);
        }
    }

    /// Once everybody has heard everything, leaves every table: frames that still come for this stream are nobody's.
    pub(super) fn leave_if_heard(&self) {
        let is_heard = {
            let state = self.state.borrow();
            state.over && !state.has_word(Side::Up) && !state.has_word(Side::Down) && !state.awaits_anyone()
        };
        if is_heard {
            for end in [self.end(Side::Up), self.end(Side::Down)].into_iter().flatten() {
                if let Some(stream) = end.stream {
                    end.outlet.forget(stream);
                }
            }
        }
    }
}

impl State {
    pub(super) fn farewell(&self, side: Side) -> Farewell {
        match side {
            Side::Up => self.farewell_up,
            Side::Down => self.farewell_down,
        }
    }

    pub(super) fn farewell_mut(&mut self, side: Side) -> &mut Farewell {
        match side {
            Side::Up => &mut self.farewell_up,
            Side::Down => &mut self.farewell_down,
        }
    }

    /// Whether the lower side has heard of the stream, under an id by which it can be told more.
    fn is_known_below(&self) -> bool {
        let is_named = |end: &End| end.outlet.kind() == Kind::Link || end.stream.is_some();
        self.open_told && !self.farewell_down.is_gone && self.down.as_ref().is_some_and(is_named)
    }

    /// Nothing is told to this side any more, and nothing heard from it.
    fn leave_side(&mut self, side: Side) {
        *self.farewell_mut(side) = Farewell { is_awaited: false, ack_due: false, is_gone: true };
        match side {
            Side::Up => (self.abort_up, self.credit_dirty) = (None, false),
            Side::Down => self.abort_down = None,
        }
    }

    /// Whoever is told of an end acknowledges it.
    fn await_acks(&mut self, by: Option<Side>, is_known_above: bool) {
        self.ended_by = by;
        let ends_stream = |abort: &Option<Box<Abort>>| abort.as_ref().is_some_and(|abort| !abort.code.ends_path());
        self.farewell_up.is_awaited = ends_stream(&self.abort_up) && is_known_above;
        self.farewell_down.is_awaited = ends_stream(&self.abort_down);
    }

    pub(super) fn awaits_anyone(&self) -> bool {
        self.farewell_up.is_awaited || self.farewell_down.is_awaited
    }

    /// Whether an ended stream has something to tell this side.
    pub(super) fn has_word(&self, side: Side) -> bool {
        match side {
            Side::Up => {
                self.abort_up.is_some() || self.farewell_up.ack_due || (self.credit.finished && self.credit_dirty)
            }
            Side::Down => self.abort_down.is_some() || self.farewell_down.ack_due,
        }
    }
}
