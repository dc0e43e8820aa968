//! What the application's task does with the sending end of a stream. Each of the polls may be waited for by one task at
//! a time.

use std::{
    sync::{Arc, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use trunkline_proto::{code::Code, id::Incarnation};
use trunkline_session::{Aborted, Finished, WriteError, encoded_bytes};

use super::{Inner, SendCell, Shared, WaitsFor, wake};
use crate::event::StallCause;

/// Why a message was not taken.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It would have to wait.
    Full(StallCause),
    /// This process finished the stream.
    Finished,
    /// The stream has ended.
    Aborted(Aborted),
}

impl From<WriteError> for Refusal {
    fn from(why: WriteError) -> Self {
        match why {
            WriteError::Blocked => Self::Full(StallCause::Credit),
            WriteError::Finished => Self::Finished,
            WriteError::Aborted(why) => Self::Aborted(why),
        }
    }
}

impl Inner {
    /// Takes room for a message, if the half would take it now.
    fn try_acquire(&mut self, shared: &Shared, length: usize, wakers: &mut Vec<Waker>) -> Result<u64, Refusal> {
        match self.half.admits(length) {
            Err(why @ (WriteError::Aborted(_) | WriteError::Finished)) => return Err(why.into()),
            _ if self.finishing => return Err(Refusal::Finished),
            _ if self.held.is_some() => return Err(Refusal::Full(self.lacking())),
            Err(WriteError::Blocked) => return Err(Refusal::Full(StallCause::Credit)),
            Ok(()) => {}
        }
        let cost = encoded_bytes(length);
        // A send that was given up without a word may have left its place, and what it was offered.
        let offered = self.ticket.is_some_and(|ticket| shared.send_budget.try_take(ticket, cost, wakers));
        self.ticket.take_if(|_| offered);
        if !offered && !shared.send_budget.try_reserve(cost) {
            return Err(Refusal::Full(StallCause::SendBudget));
        }
        Ok(cost)
    }

    /// What a message waits for.
    pub(super) fn lacking(&self) -> StallCause {
        if self.half.has_credit() { StallCause::SendBudget } else { StallCause::Credit }
    }

    /// As `try_acquire`, and waits. One that is `forsakable` may be given up without a word.
    fn poll_acquire(
        &mut self,
        shared: &Shared,
        length: usize,
        forsakable: bool,
        cx: &Context<'_>,
        wakers: &mut Vec<Waker>,
    ) -> Poll<Result<u64, Refusal>> {
        let waits_for = match self.half.admits(length) {
            Err(why @ (WriteError::Aborted(_) | WriteError::Finished)) => return Poll::Ready(Err(why.into())),
            _ if self.finishing => return Poll::Ready(Err(Refusal::Finished)),
            _ if self.held.is_some() => WaitsFor::Vacancy,
            Err(WriteError::Blocked) => {
                // There was credit when the place in the queue was taken, and it was reclaimed.
                wakers.extend(self.leave_budget(shared));
                WaitsFor::Credit
            }
            Ok(()) => {
                let cost = encoded_bytes(length);
                if self.claim(shared, cost, cx.waker(), wakers) {
                    return Poll::Ready(Ok(cost));
                }
                WaitsFor::Budget
            }
        };
        self.count_blocked(shared, forsakable);
        self.wait(waits_for, cx);
        Poll::Pending
    }
}

impl SendCell {
    /// Ready once the consumer answered, with its life.
    pub(crate) fn poll_accepted(&self, cx: &Context<'_>) -> Poll<Result<Incarnation, Aborted>> {
        let mut inner = self.lock();
        match (inner.half.accepted(), inner.consumer) {
            (Some(Err(why)), _) => Poll::Ready(Err(why)),
            (Some(Ok(())), Some(consumer)) => Poll::Ready(Ok(consumer)),
            _ => {
                inner.wait(WaitsFor::Answer, cx);
                Poll::Pending
            }
        }
    }

    /// Takes the message whole, or not at all. Who gives up waiting calls [`SendCell::leave_budget`].
    pub(crate) fn poll_send(
        self: &Arc<Self>,
        shared: &Shared,
        message: &Bytes,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        let length = message.len();
        self.poll_take(shared, length, false, cx, |inner| inner.half.write(message))
    }

    /// Takes a copy of the message whole, or not at all. It may be given up without a word.
    pub(crate) fn poll_send_copy(
        self: &Arc<Self>,
        shared: &Shared,
        message: &[u8],
        cx: &Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        self.poll_take(shared, message.len(), true, cx, |inner| inner.half.write_copy(message))
    }

    fn poll_take(
        self: &Arc<Self>,
        shared: &Shared,
        length: usize,
        forsakable: bool,
        cx: &Context<'_>,
        write: impl FnOnce(&mut Inner) -> Result<(), WriteError>,
    ) -> Poll<Result<(), Refusal>> {
        let mut wakers = Vec::new();
        let mut inner = self.lock();
        let taken = match inner.poll_acquire(shared, length, forsakable, cx, &mut wakers) {
            Poll::Ready(Ok(cost)) => {
                // It was admitted under the same lock.
                let taken = write(&mut inner);
                inner.took(shared, cost, &mut wakers);
                let data = inner.queue_data();
                drop(inner);
                self.queue(shared, false, data);
                Poll::Ready(taken.map_err(Refusal::from))
            }
            Poll::Ready(Err(why)) => {
                drop(inner);
                Poll::Ready(Err(why))
            }
            Poll::Pending => {
                self.tell_blocked(shared, inner);
                Poll::Pending
            }
        };
        wake(wakers);
        taken
    }

    /// Has the link say what is wanted, and ask for what the send budget is short of.
    fn tell_blocked(self: &Arc<Self>, shared: &Shared, mut inner: MutexGuard<'_, Inner>) {
        let control = inner.half.has_output() && inner.queue_control();
        drop(inner);
        self.queue(shared, control, false);
        if shared.stalls.watch() || (!control && shared.send_budget.is_short()) {
            shared.ready.nudge();
        }
    }

    /// Takes the message now, or not at all.
    pub(crate) fn try_send(self: &Arc<Self>, shared: &Shared, message: &Bytes) -> Result<(), Refusal> {
        let cost = self.try_reserve(shared, message.len())?;
        self.send_reserved(shared, message, cost)
    }

    /// Takes room for a message of `length` bytes now, for [`SendCell::send_reserved`] or [`SendCell::give_back`].
    pub(crate) fn try_reserve(self: &Arc<Self>, shared: &Shared, length: usize) -> Result<u64, Refusal> {
        let mut wakers = Vec::new();
        let mut inner = self.lock();
        let acquired = inner.try_acquire(shared, length, &mut wakers);
        match &acquired {
            Err(Refusal::Full(_)) => self.tell_blocked(shared, inner),
            Ok(_) => {
                wakers.extend(inner.leave_budget(shared));
                drop(inner);
            }
            Err(_) => drop(inner),
        }
        wake(wakers);
        acquired
    }

    /// As [`SendCell::try_reserve`], and waits. Who gives up waiting calls [`SendCell::leave_budget`].
    pub(crate) fn poll_reserve(
        self: &Arc<Self>,
        shared: &Shared,
        length: usize,
        cx: &Context<'_>,
    ) -> Poll<Result<u64, Refusal>> {
        let mut wakers = Vec::new();
        let mut inner = self.lock();
        let acquired = inner.poll_acquire(shared, length, false, cx, &mut wakers);
        match &acquired {
            Poll::Pending => self.tell_blocked(shared, inner),
            Poll::Ready(Ok(_)) => {
                inner.blocked = None;
                drop(inner);
            }
            Poll::Ready(Err(_)) => drop(inner),
        }
        wake(wakers);
        acquired
    }

    /// Takes a message that has `reserved` bytes of the send budget and needs no more than these.
    pub(crate) fn send_reserved(
        self: &Arc<Self>,
        shared: &Shared,
        message: &Bytes,
        reserved: u64,
    ) -> Result<(), Refusal> {
        let cost = encoded_bytes(message.len());
        let mut wakers = Vec::new();
        let mut inner = self.lock();
        // Though its credit may have been reclaimed since.
        let taken = inner.half.write_reserved(message);
        let mut rest = reserved;
        if taken.is_ok() {
            inner.took(shared, cost, &mut wakers);
            rest = reserved.saturating_sub(cost);
        }
        let data = inner.queue_data();
        drop(inner);
        wake(wakers);
        Self::give_back(shared, rest);
        self.queue(shared, false, data);
        taken.map_err(Refusal::from)
    }

    /// Gives back room that was reserved.
    pub(crate) fn give_back(shared: &Shared, reserved: u64) {
        if reserved > 0 {
            wake(shared.send_budget.release(reserved));
        }
    }

    /// Ready once the cell holds no message.
    pub(crate) fn poll_vacant(&self, cx: &Context<'_>) -> Poll<Result<(), Refusal>> {
        let mut inner = self.lock();
        match inner.half.finished() {
            Finished::Aborted(why) => Poll::Ready(Err(Refusal::Aborted(why))),
            _ if inner.held.is_none() => Poll::Ready(Ok(())),
            _ => {
                inner.wait(WaitsFor::Vacancy, cx);
                Poll::Pending
            }
        }
    }

    /// Whether the cell could be given a message to hold.
    pub(crate) fn is_vacant(&self) -> bool {
        self.lock().held.is_none()
    }

    /// Takes the message, or holds it until it can be taken: it goes out by itself, before whatever is sent later.
    /// Returns whether it is held. A cell that holds another message refuses it as full.
    pub(crate) fn hold(self: &Arc<Self>, shared: &Shared, message: Bytes) -> Result<bool, Refusal> {
        let mut inner = self.lock();
        match inner.half.admits(message.len()) {
            Ok(()) | Err(WriteError::Blocked) if inner.finishing => return Err(Refusal::Finished),
            Ok(()) | Err(WriteError::Blocked) => {}
            Err(why) => return Err(why.into()),
        }
        if inner.held.is_some() {
            return Err(Refusal::Full(inner.lacking()));
        }
        inner.held = Some(message);
        let wakers = inner.advance(shared, self);
        let holds = inner.held.is_some();
        if holds {
            inner.count_blocked(shared, false);
            self.tell_blocked(shared, inner);
        } else {
            let data = inner.queue_data();
            drop(inner);
            self.queue(shared, false, data);
        }
        wake(wakers);
        Ok(holds)
    }

    /// A send was given up: whoever is next may have the room in the send budget.
    pub(crate) fn leave_budget(&self, shared: &Shared) {
        let mut inner = self.lock();
        if inner.held.is_some() {
            // The place is the held message's.
            return;
        }
        inner.blocked = None;
        let wakers = inner.leave_budget(shared);
        drop(inner);
        wake(wakers);
    }

    /// Ready once everything sent has been written to the socket: the end too, after [`SendCell::finish`].
    pub(crate) fn poll_flush(self: &Arc<Self>, shared: &Shared, cx: &Context<'_>) -> Poll<Result<(), Aborted>> {
        let mut inner = self.lock();
        match inner.half.finished() {
            Finished::Aborted(why) => return Poll::Ready(Err(why)),
            Finished::Consumed => return Poll::Ready(Ok(())),
            Finished::Pending if inner.is_flushed() => return Poll::Ready(Ok(())),
            Finished::Pending => {}
        }
        inner.wait(WaitsFor::Flush, cx);
        let control = !std::mem::replace(&mut inner.flush_wanted, true) && inner.queue_control();
        drop(inner);
        self.queue(shared, control, false);
        Poll::Pending
    }

    /// Asks for the end: the mark follows what was sent.
    pub(crate) fn finish(self: &Arc<Self>, shared: &Shared) {
        let mut inner = self.lock();
        inner.finishing = true;
        if inner.held.is_none() {
            inner.half.finish();
        }
        let data = inner.queue_data();
        drop(inner);
        self.queue(shared, false, data);
    }

    /// Ready once the other application has consumed everything, or the stream ended another way.
    pub(crate) fn poll_finished(&self, cx: &Context<'_>) -> Poll<Result<(), Aborted>> {
        let mut inner = self.lock();
        match inner.half.finished() {
            Finished::Consumed => Poll::Ready(Ok(())),
            Finished::Aborted(why) => Poll::Ready(Err(why)),
            Finished::Pending => {
                inner.wait(WaitsFor::End, cx);
                Poll::Pending
            }
        }
    }

    /// Gives the stream up; one that has ended stays as it is.
    pub(crate) fn abort(self: &Arc<Self>, shared: &Shared, code: Code, text: &str) {
        let mut inner = self.lock();
        inner.give_up(code, text);
        let control = inner.half.has_output() && inner.queue_control();
        let wakers = inner.settle(shared);
        drop(inner);
        self.queue(shared, control, false);
        wake(wakers);
    }

    /// The sender is gone: a stream that is not to finish by itself is given up.
    pub(crate) fn forsake(self: &Arc<Self>, shared: &Shared) {
        let inner = self.lock();
        if inner.finishing {
            return;
        }
        let text = match inner.consumer {
            Some(_) => "the sender was dropped unfinished",
            None => "the open was withdrawn",
        };
        drop(inner);
        self.abort(shared, Code::Cancelled, text);
    }

    pub(crate) fn consumed(&self) -> u64 {
        self.lock().half.consumed()
    }

    pub(crate) fn written(&self) -> u64 {
        self.lock().half.written()
    }
}
