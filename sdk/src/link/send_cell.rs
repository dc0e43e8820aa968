//! The sending end of one stream, between its task and the link's thread.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use trunkline_proto::{
    code::Code,
    framing,
    id::{ConsumerAddress, Incarnation, JobId, ProducerName},
    message::{Accept, Credit, Open},
};
use trunkline_session::{Aborted, Finished, SendHalf, SendOutput, WriteError};

use super::{Cell, Ended, Shared, lock, wake};
use crate::event::StallCause;

/// What a stream is, from its producer's side.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) job: JobId,
    pub(crate) producer: ProducerName,
    pub(crate) incarnation: Incarnation,
    pub(crate) number: u64,
    pub(crate) address: ConsumerAddress,
}

impl Stream {
    /// The OPEN that begins it, under its id on the link.
    pub(crate) fn open(&self, stream: u64) -> Open {
        Open {
            stream,
            job: self.job.clone(),
            producer: self.producer.clone(),
            producer_node: None,
            incarnation: self.incarnation,
            number: self.number,
            consumer: self.address.consumer.clone(),
            node: self.address.node.clone(),
            epoch: 0,
        }
    }
}

/// The sending end of one stream.
#[derive(Debug)]
pub(crate) struct SendCell {
    pub(crate) stream: Stream,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    half: SendHalf,
    /// The stream's id on the link; 0 until OPEN is sent.
    id: u64,
    /// The consumer's life, once it accepted.
    consumer: Option<Incarnation>,
    waiting: Option<(WaitsFor, Waker)>,
    /// The send that waits, if one does.
    blocked: Option<Blocked>,
    control_queued: bool,
    data_queued: bool,
    /// What this stream holds of the send budget.
    accounted: u64,
    /// The place in the send budget's queue, while a send waits there.
    ticket: Option<u64>,
    /// The other process is to be asked to say what it has, so that this one need not keep it.
    asks: bool,
    /// A flush waits for everything written to be on its way.
    flush_wanted: bool,
    /// Written to the socket up to here, as the last flush found.
    flushed: u64,
    /// The application asked for the end: nobody needs to hold the sender any more.
    finishing: bool,
}

/// Why the one task that may wait does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    Answer,
    Credit,
    Budget,
    Flush,
    End,
}

/// Since when a send waits.
#[derive(Debug)]
struct Blocked {
    since: Instant,
    /// Its stall was told.
    told: bool,
}

impl Blocked {
    fn now() -> Self {
        Self { since: Instant::now(), told: false }
    }
}

/// What [`SendCell::look`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looked {
    /// No send waits.
    Flowing,
    /// One waits, and nobody need be told now.
    Waiting,
    /// One has waited for so long; it is said once for each wait.
    Stalled(StallCause, Duration),
}

/// What [`SendCell::poll`] found for the link's thread.
#[derive(Debug)]
pub(crate) struct Polled {
    /// To be sent; the pieces of data are where the caller wanted them.
    pub(crate) output: Option<SendOutput>,
    /// The stream's id.
    pub(crate) id: u64,
    /// There is data: the cell's place in the data list was taken for it.
    pub(crate) more: bool,
    /// A flush waits until what was polled so far is written; the offset that it will have reached then.
    pub(crate) flush: Option<u64>,
}

impl Inner {
    fn queue_control(&mut self) -> bool {
        !std::mem::replace(&mut self.control_queued, true)
    }

    fn queue_data(&mut self) -> bool {
        self.half.has_output() && !std::mem::replace(&mut self.data_queued, true)
    }

    fn wait(&mut self, waits_for: WaitsFor, cx: &Context<'_>) {
        if matches!(waits_for, WaitsFor::Credit | WaitsFor::Budget) {
            self.blocked.get_or_insert_with(Blocked::now);
        }
        match &mut self.waiting {
            Some((before, waker)) if waker.will_wake(cx.waker()) => *before = waits_for,
            waiting => *waiting = Some((waits_for, cx.waker().clone())),
        }
    }

    /// The waiting task's waker, if what it waits for has come.
    fn due(&mut self) -> Option<Waker> {
        let (waits_for, _) = self.waiting.as_ref()?;
        let over = self.half.is_over();
        let due = match waits_for {
            WaitsFor::Answer => over || self.half.accepted().is_some(),
            WaitsFor::Credit => over || self.half.has_credit(),
            WaitsFor::Budget | WaitsFor::End => over,
            WaitsFor::Flush => over || self.flushed == self.half.written(),
        };
        if due { self.waiting.take().map(|(_, waker)| waker) } else { None }
    }

    /// Gives back what the stream no longer holds of the send budget.
    fn settle(&mut self, shared: &Shared) -> Vec<Waker> {
        let held = self.half.buffered_bytes();
        match self.accounted.checked_sub(held) {
            None | Some(0) => Vec::new(),
            Some(freed) => {
                self.accounted = held;
                shared.send_budget.release(freed)
            }
        }
    }
}

impl SendCell {
    /// A stream that wants to be opened. Its place in the control list is taken: hand it to [`super::Ready::admit`].
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            inner: Mutex::new(Inner {
                half: SendHalf::new(),
                id: 0,
                consumer: None,
                waiting: None,
                blocked: None,
                control_queued: true,
                data_queued: false,
                accounted: 0,
                ticket: None,
                asks: false,
                flush_wanted: false,
                flushed: 0,
                finishing: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    fn queue(self: &Arc<Self>, shared: &Shared, control: bool, data: bool) {
        if control {
            shared.ready.control(Cell::Send(Arc::clone(self)));
        }
        if data {
            shared.ready.data(Arc::clone(self));
        }
    }

    // The application's side. Each of the polls may be waited for by one task at a time.

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

    /// Takes the message whole, or not at all.
    pub(crate) fn poll_send(
        self: &Arc<Self>,
        shared: &Shared,
        message: &Bytes,
        cx: &Context<'_>,
    ) -> Poll<Result<(), WriteError>> {
        let cost = (framing::length_bytes(message.len()) + message.len()) as u64;
        let mut inner = self.lock();
        let reserved = inner.half.has_credit() && !inner.half.is_over();
        if reserved && !shared.send_budget.reserve(cost) {
            let ticket = *inner.ticket.get_or_insert_with(|| shared.send_budget.ticket());
            shared.send_budget.wait(ticket, cost, cx.waker());
            if !shared.send_budget.reserve(cost) {
                inner.wait(WaitsFor::Budget, cx);
                drop(inner);
                shared.stalls.watch();
                shared.ready.nudge();
                return Poll::Pending;
            }
        }
        match inner.half.write(message) {
            Ok(()) => {
                inner.accounted += cost;
                let data = inner.queue_data();
                let ticket = inner.ticket.take();
                drop(inner);
                if let Some(ticket) = ticket {
                    wake(shared.send_budget.leave(ticket));
                }
                self.queue(shared, false, data);
                Poll::Ready(Ok(()))
            }
            Err(why) => {
                // Nothing is reserved here: a half that has credit and is not over takes any message.
                let blocked = why == WriteError::Blocked;
                let mut control = false;
                if blocked {
                    inner.wait(WaitsFor::Credit, cx);
                    control = inner.half.has_output() && inner.queue_control();
                }
                drop(inner);
                self.queue(shared, control, false);
                if blocked && shared.stalls.watch() {
                    shared.ready.nudge();
                }
                if blocked { Poll::Pending } else { Poll::Ready(Err(why)) }
            }
        }
    }

    /// A send was given up or is through: whoever is next may have the room in the send budget.
    pub(crate) fn leave_budget(&self, shared: &Shared) {
        let mut inner = self.lock();
        inner.blocked = None;
        let ticket = inner.ticket.take();
        drop(inner);
        if let Some(ticket) = ticket {
            wake(shared.send_budget.leave(ticket));
        }
    }

    /// Ready once everything written has been written to the socket.
    pub(crate) fn poll_flush(self: &Arc<Self>, shared: &Shared, cx: &Context<'_>) -> Poll<Result<(), Aborted>> {
        let mut inner = self.lock();
        if let Some(Err(why)) = inner.half.accepted() {
            return Poll::Ready(Err(why));
        }
        if inner.flushed == inner.half.written() {
            return Poll::Ready(Ok(()));
        }
        inner.wait(WaitsFor::Flush, cx);
        let control = !std::mem::replace(&mut inner.flush_wanted, true) && inner.queue_control();
        drop(inner);
        self.queue(shared, control, false);
        Poll::Pending
    }

    /// Asks for the end: the mark follows what was written.
    pub(crate) fn finish(self: &Arc<Self>, shared: &Shared) {
        let mut inner = self.lock();
        inner.finishing = true;
        inner.half.finish();
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

    /// Gives the stream up; one that has ended, or is finishing, stays as it is.
    pub(crate) fn abort(self: &Arc<Self>, shared: &Shared, code: Code, text: &str) {
        let mut inner = self.lock();
        if inner.finishing {
            return;
        }
        inner.half.abort(code, text);
        let control = inner.half.has_output() && inner.queue_control();
        let wakers = inner.settle(shared);
        drop(inner);
        self.queue(shared, control, false);
        wake(wakers);
    }

    pub(crate) fn is_accepted(&self) -> bool {
        self.lock().consumer.is_some()
    }

    pub(crate) fn consumed(&self) -> u64 {
        self.lock().half.consumed()
    }

    pub(crate) fn written(&self) -> u64 {
        self.lock().half.written()
    }

    // The link's side.

    /// What is to be sent next, data at most `data_bytes_max`: 0 in a turn for control. The cell leaves the list that it
    /// stood in.
    pub(crate) fn poll(&self, data_bytes_max: usize, next_id: &mut u64, pieces: &mut Vec<Bytes>) -> Polled {
        let mut inner = self.lock();
        if data_bytes_max == 0 {
            inner.control_queued = false;
        } else {
            inner.data_queued = false;
        }
        let mut output = inner.half.poll_output(data_bytes_max, pieces);
        if std::mem::take(&mut inner.asks) && output.is_none() && !inner.half.is_over() {
            // It wants nothing that it has no credit for: an older limit than the one that the other side gave.
            output = Some(SendOutput::Want { epoch: 0, wanted: inner.half.written() });
        }
        if output == Some(SendOutput::Open) {
            inner.id = *next_id;
            *next_id += 2;
        }
        let more = inner.queue_data();
        let flush = (inner.flush_wanted && inner.half.is_flushed()).then(|| inner.half.written());
        inner.flush_wanted &= flush.is_none();
        Polled { output, id: inner.id, more, flush }
    }

    /// The send budget is short: asks the other process to say what it has. Any WANT is answered with CREDIT.
    pub(crate) fn ask(self: &Arc<Self>, shared: &Shared) {
        let mut inner = self.lock();
        inner.asks = !inner.half.is_over() && inner.half.buffered_bytes() > 0;
        let control = inner.asks && inner.queue_control();
        drop(inner);
        self.queue(shared, control, false);
    }

    pub(crate) fn handle_accept(&self, accept: &Accept) {
        let mut inner = self.lock();
        inner.half.handle_accept(accept);
        inner.consumer = Some(accept.incarnation);
        let waker = inner.due();
        drop(inner);
        wake(waker);
    }

    /// Returns whether the stream is over.
    pub(crate) fn handle_credit(self: &Arc<Self>, shared: &Shared, credit: &Credit) -> bool {
        let mut inner = self.lock();
        inner.half.handle_credit(credit);
        let over = inner.half.is_over();
        // Over, and with something to say, when the credit contradicted what was sent.
        let control = over && inner.half.has_output() && inner.queue_control();
        let data = !over && inner.queue_data();
        let waker = inner.due();
        let wakers = inner.settle(shared);
        drop(inner);
        self.queue(shared, control, data);
        wake(waker);
        wake(wakers);
        over && !control
    }

    /// The stream ended by another's wish, or by the loss of the link.
    pub(crate) fn handle_abort(&self, shared: &Shared, code: Code, offset: u64, text: String) {
        let mut inner = self.lock();
        inner.half.handle_abort(code, offset, text);
        let waker = inner.due();
        let wakers = inner.settle(shared);
        drop(inner);
        wake(waker);
        wake(wakers);
    }

    /// What a flush waited for was written.
    pub(crate) fn handle_flushed(&self, offset: u64) {
        let mut inner = self.lock();
        inner.flushed = inner.flushed.max(offset);
        let waker = inner.due();
        drop(inner);
        wake(waker);
    }

    /// The process detaches: an unfinished stream is given up, and its other end told. Takes the cell out of all lists,
    /// which the caller has emptied, and enters it again where that is needed.
    pub(crate) fn detach(self: &Arc<Self>, shared: &Shared) {
        let mut inner = self.lock();
        inner.control_queued = false;
        inner.data_queued = false;
        if !inner.finishing {
            inner.half.abort(Code::ProducerGone, "the producer's process detached before it finished the stream");
        }
        let over = inner.half.is_over();
        let control = over && inner.half.has_output() && inner.queue_control();
        let data = !over && inner.queue_data();
        let waker = inner.due();
        let wakers = inner.settle(shared);
        drop(inner);
        self.queue(shared, control, data);
        wake(waker);
        wake(wakers);
    }

    /// The link has ended.
    pub(crate) fn lose(&self, shared: &Shared, ended: &Ended) {
        let (code, text) = match ended {
            Ended::Closed => (
                Code::OutcomeUnknown,
                "the attachment was closed before the consumer was known to have consumed everything".to_owned(),
            ),
            Ended::NodeLost(why) => (Code::NodeLost, why.to_string()),
        };
        self.handle_abort(shared, code, 0, text);
    }

    /// Whether the link may end without anything of this stream being lost.
    pub(crate) fn is_settled(&self) -> bool {
        let inner = self.lock();
        inner.half.is_flushed() || inner.half.is_over()
    }

    /// Looks whether a send waits, and whether it has for `stall_warn` or longer.
    pub(crate) fn look(&self, now: Instant, stall_warn: Duration) -> Looked {
        let mut inner = self.lock();
        let cause = match inner.waiting {
            Some((WaitsFor::Credit, _)) => StallCause::Credit,
            Some((WaitsFor::Budget, _)) => StallCause::SendBudget,
            // A task that was woken has what it waited for; whether it asks again is its affair.
            _ => return Looked::Flowing,
        };
        let Some(blocked) = &mut inner.blocked else { return Looked::Flowing };
        let waited = now.saturating_duration_since(blocked.since);
        if waited < stall_warn || std::mem::replace(&mut blocked.told, true) {
            return Looked::Waiting;
        }
        Looked::Stalled(cause, waited)
    }

    /// How the stream ended, if it had been accepted and did not end cleanly.
    pub(crate) fn lost(&self) -> Option<Aborted> {
        let inner = self.lock();
        match inner.half.finished() {
            Finished::Aborted(why) if inner.consumer.is_some() => Some(why),
            _ => None,
        }
    }
}
