//! The sending end of one stream, between its task and the link's thread.
//!
//! Beside what the [`SendHalf`] has taken, a cell may hold one message that could not be taken at once. It goes into the
//! half, ahead of whatever else is sent, as soon as there is credit and room, and needs no task for it: the link's thread
//! sees to that when credit comes, and the send budget when it wakes the cell.

mod application;

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use trunkline_proto::{
    code::Code,
    id::{ConsumerAddress, Incarnation, JobId, ProducerName, Weight},
    message::{Accept, Credit, Open, Reclaim, Resumed},
};
use trunkline_session::{Aborted, Finished, SendHalf, SendOutput, Verdict, encoded_bytes};

use super::{Cell, Ended, Shared, lock, patience::Suspension, wake};
use crate::event::StallCause;

pub(crate) use application::Refusal;

/// What a stream is, from its producer's side.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) job: JobId,
    pub(crate) producer: ProducerName,
    pub(crate) incarnation: Incarnation,
    pub(crate) number: u64,
    pub(crate) address: ConsumerAddress,
    pub(crate) weight: Weight,
    /// Names the job for the schedule, in place of its two names: what decides about each turn is not to compare these.
    /// Should two jobs ever meet in one number, they share one share.
    share: u64,
}

impl Stream {
    pub(crate) fn new(
        job: JobId,
        producer: ProducerName,
        incarnation: Incarnation,
        number: u64,
        address: ConsumerAddress,
        weight: Weight,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        job.hash(&mut hasher);
        Self { job, producer, incarnation, number, address, weight, share: hasher.finish() }
    }

    /// What of the schedule it takes its turns from: its job's.
    pub(crate) fn share(&self) -> u64 {
        self.share
    }

    /// The OPEN that begins it, under its id on the link; `epoch` counts how often that was said before.
    pub(crate) fn open(&self, stream: u64, epoch: u32) -> Open {
        Open {
            stream,
            job: self.job.clone(),
            producer: self.producer.clone(),
            producer_node: None,
            incarnation: self.incarnation,
            number: self.number,
            consumer: self.address.consumer.clone(),
            node: self.address.node.clone(),
            epoch,
            weight: self.weight,
        }
    }
}

/// The sending end of one stream.
///
/// As a waker it is what the send budget wakes when there is room for the message that the cell holds.
pub(crate) struct SendCell {
    pub(crate) stream: Stream,
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    half: SendHalf,
    /// The stream's id on the link; 0 until OPEN is sent, and while it has no path.
    id: u64,
    /// While it has no path: since when, and why.
    suspension: Suspension,
    /// The consumer's life, once it accepted.
    consumer: Option<Incarnation>,
    waiting: Option<(WaitsFor, Waker)>,
    control_queued: bool,
    data_queued: bool,
    /// A message that waits to be taken by the half; whatever else is sent waits behind it.
    held: Option<Bytes>,
    /// What this stream holds of the send budget.
    accounted: u64,
    /// The place in the send budget's queue, while a send or the held message waits there.
    ticket: Option<u64>,
    /// The send that is being tried, or the held message, had to wait, and was counted for it.
    blocked: Option<Blocked>,
    /// Messages and their bytes that were taken and not yet added to the counters: the link's thread adds them, so that
    /// a send does not have to.
    uncounted: (u64, u64),
    /// The end of the stream was counted.
    end_counted: bool,
    /// The other process is to be asked to say what it has, so that this one need not keep it.
    asks: bool,
    /// A flush waits for everything written to be on its way.
    flush_wanted: bool,
    /// Written to the socket up to here, as the last flush found.
    flushed: u64,
    /// The application asked for the end: nobody needs to hold the sender any more.
    finishing: bool,
    /// This process gave the stream up.
    given_up: bool,
    /// That it was lost was told to those who listen.
    lost_told: bool,
}

/// Why the one task that may wait does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    Answer,
    Credit,
    Budget,
    /// The held message to be taken.
    Vacancy,
    Flush,
    End,
}

/// Since when a send waits.
#[derive(Debug)]
struct Blocked {
    since: Instant,
    /// Its stall was told.
    told: bool,
    /// It may have been given up without a word.
    forsakable: bool,
}

impl Blocked {
    fn now(forsakable: bool) -> Self {
        Self { since: Instant::now(), told: false, forsakable }
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
            WaitsFor::Vacancy => over || self.held.is_none(),
            WaitsFor::Flush => over || self.is_flushed(),
        };
        if due { self.waiting.take().map(|(_, waker)| waker) } else { None }
    }

    /// Takes note that there is no path. Returns whether its patience is to be watched, which it is not yet.
    fn suspend(&mut self, code: Code, why: &Arc<str>) -> bool {
        self.id = 0;
        self.flush_wanted |= matches!(self.waiting, Some((WaitsFor::Flush, _)));
        !self.half.is_settled() && self.suspension.begin(code, why)
    }

    /// Ends a stream that has not ended, by this process's wish.
    fn give_up(&mut self, code: Code, text: &str) {
        self.given_up |= !self.half.is_over();
        self.half.abort(code, text);
    }

    /// Whether everything that was sent, the held message included, has been written to the socket.
    fn is_flushed(&self) -> bool {
        self.held.is_none() && self.flushed == self.half.written()
    }

    /// Takes room for a message, or a place in the queue for it.
    fn claim(&mut self, shared: &Shared, cost: u64, waker: &Waker, wakers: &mut Vec<Waker>) -> bool {
        let budget = &shared.send_budget;
        if self.ticket.is_none() && budget.reserve(cost) {
            return true;
        }
        let ticket = *self.ticket.get_or_insert_with(|| budget.ticket());
        let claimed = budget.wait(ticket, cost, waker, wakers);
        self.ticket.take_if(|_| claimed);
        claimed
    }

    /// Leaves the send budget's queue; whoever is next may have the room. To be woken under no lock.
    fn leave_budget(&mut self, shared: &Shared) -> Vec<Waker> {
        self.ticket.take().map_or_else(Vec::new, |ticket| shared.send_budget.leave(ticket))
    }

    /// The half took a message that has this much of the budget. What has no credit yet gives its room back.
    fn took(&mut self, shared: &Shared, cost: u64, wakers: &mut Vec<Waker>) {
        self.accounted += cost;
        if !self.half.has_credit() {
            wakers.extend(self.balance(shared));
        }
        self.blocked = None;
        self.uncounted.0 += 1;
        self.uncounted.1 += cost;
    }

    /// A send waits; it is counted once, however often it is tried. One that is not `forsakable` itself is another than
    /// one that was.
    fn count_blocked(&mut self, shared: &Shared, forsakable: bool) {
        if self.blocked.as_ref().is_none_or(|blocked| blocked.forsakable && !forsakable) {
            self.blocked = Some(Blocked::now(forsakable));
            shared.counters.sends_blocked.increment();
        }
    }

    /// Has the half take the held message, if it may be taken now. Returns who is to be woken, under no lock; the caller
    /// looks whether there is something for the link.
    fn advance(&mut self, shared: &Shared, cell: &Arc<SendCell>) -> Vec<Waker> {
        let Some(length) = self.held.as_ref().map(Bytes::len) else { return Vec::new() };
        if self.half.admits(length).is_err() {
            // Blocked, and the want is known; or over, and what is held goes with the rest. Credit that was there when
            // the place in the queue was taken may have been reclaimed.
            return self.leave_budget(shared);
        }
        let cost = encoded_bytes(length);
        let mut wakers = Vec::new();
        if !self.claim(shared, cost, &Waker::from(Arc::clone(cell)), &mut wakers) {
            return wakers;
        }
        if let Some(message) = self.held.take()
            && self.half.write(&message).is_ok()
        {
            self.took(shared, cost, &mut wakers);
        }
        if self.finishing {
            self.half.finish();
        }
        wakers.extend(self.due());
        wakers
    }

    fn count(&mut self, shared: &Shared) {
        let (messages, bytes) = std::mem::take(&mut self.uncounted);
        if messages > 0 {
            shared.counters.messages_sent.add(messages);
            shared.counters.bytes_sent.add(bytes);
        }
    }

    /// Has the stream hold of the send budget what it is to: less, as the other process receives, and more, as messages
    /// that reached beyond the limit get their credit.
    fn balance(&mut self, shared: &Shared) -> Vec<Waker> {
        let charged = self.half.charged_bytes();
        let before = std::mem::replace(&mut self.accounted, charged);
        if charged > before {
            shared.send_budget.charge(charged - before);
        }
        if charged < before { shared.send_budget.release(before - charged) } else { Vec::new() }
    }

    /// Gives back what the stream no longer holds of the send budget; when it is over, that is all, and its end is
    /// counted.
    fn settle(&mut self, shared: &Shared) -> Vec<Waker> {
        let mut wakers = self.balance(shared);
        if self.half.is_over() {
            self.held = None;
            wakers.extend(self.leave_budget(shared));
            self.count(shared);
            if !std::mem::replace(&mut self.end_counted, true) {
                match self.half.finished() {
                    Finished::Consumed => shared.counters.sends_finished.increment(),
                    _ => shared.counters.sends_lost.increment(),
                }
            }
        }
        wakers
    }
}

impl fmt::Debug for SendCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendCell").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Wake for SendCell {
    /// There may be room for the held message. The link's thread takes it up: whoever gave the room back may be one of a
    /// long row, and must not take up all that follow.
    fn wake(self: Arc<Self>) {
        let mut inner = self.lock();
        let control = inner.held.is_some() && inner.queue_control();
        drop(inner);
        self.queue(&self.shared, control, false);
    }
}

impl SendCell {
    /// A stream that wants to be opened. Its place in the control list is taken: hand it to [`super::Ready::admit`].
    pub(crate) fn new(stream: Stream, shared: Arc<Shared>) -> Self {
        Self {
            stream,
            shared,
            inner: Mutex::new(Inner {
                half: SendHalf::new(),
                id: 0,
                suspension: Suspension::default(),
                consumer: None,
                waiting: None,
                control_queued: true,
                data_queued: false,
                held: None,
                accounted: 0,
                ticket: None,
                blocked: None,
                uncounted: (0, 0),
                end_counted: false,
                asks: false,
                flush_wanted: false,
                flushed: 0,
                finishing: false,
                given_up: false,
                lost_told: false,
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
            shared.ready.data(self);
        }
    }

    // The link's side.

    /// What is to be sent next, data at most `data_bytes_max`: 0 in a turn for control. The cell leaves the list that it
    /// stood in.
    pub(crate) fn poll(self: &Arc<Self>, data_bytes_max: usize, next_id: &mut u64, pieces: &mut Vec<Bytes>) -> Polled {
        let mut inner = self.lock();
        if data_bytes_max == 0 {
            inner.control_queued = false;
        } else {
            inner.data_queued = false;
        }
        let wakers = inner.advance(&self.shared, self);
        let mut output = inner.half.poll_output(data_bytes_max, pieces);
        inner.count(&self.shared);
        if std::mem::take(&mut inner.asks) && output.is_none() {
            // It wants nothing that it has no credit for: an older limit than the one that the other side gave.
            output = inner.half.question();
        }
        if matches!(output, Some(SendOutput::Open { .. } | SendOutput::Resume { .. })) {
            inner.id = *next_id;
            *next_id += 2;
        }
        if matches!(output, Some(SendOutput::Data { .. })) {
            self.shared.counters.data_frames_sent.increment();
        }
        let more = inner.queue_data();
        let flushed = inner.flush_wanted && inner.held.is_none() && inner.half.is_flushed();
        let flush = flushed.then(|| inner.half.written());
        inner.flush_wanted &= !flushed;
        let polled = Polled { output, id: inner.id, more, flush };
        drop(inner);
        wake(wakers);
        polled
    }

    /// The send budget is short: asks the other process to say what it has, if it may have anything that it did not say.
    /// A WANT for nothing new is answered with CREDIT. Returns whether it asks.
    pub(crate) fn ask(self: &Arc<Self>, shared: &Shared) -> bool {
        let mut inner = self.lock();
        let asks = inner.half.question().is_some();
        inner.asks = asks;
        let control = asks && inner.queue_control();
        drop(inner);
        self.queue(shared, control, false);
        asks
    }

    pub(crate) fn handle_accept(self: &Arc<Self>, accept: &Accept) {
        let mut inner = self.lock();
        inner.half.handle_accept(accept);
        inner.suspension.end();
        if inner.consumer.replace(accept.incarnation).is_none() {
            self.shared.counters.opens_accepted.increment();
        }
        let waker = inner.due();
        let output = inner.half.has_output();
        let (control, data) = (output && inner.queue_control(), output && inner.queue_data());
        drop(inner);
        self.queue(&self.shared, control, data);
        wake(waker);
    }

    /// The consumer goes on with the stream.
    pub(crate) fn handle_resumed(self: &Arc<Self>, resumed: &Resumed) {
        let mut inner = self.lock();
        inner.half.handle_resumed(resumed);
        inner.suspension.end();
        let mut wakers = inner.settle(&self.shared);
        wakers.extend(inner.advance(&self.shared, self));
        wakers.extend(inner.due());
        let output = inner.half.has_output();
        let (control, data) = (output && inner.queue_control(), output && inner.queue_data());
        drop(inner);
        self.queue(&self.shared, control, data);
        wake(wakers);
    }

    /// The stream has no path: it asks for another once it is polled. Returns whether its patience is to be watched, which it
    /// is not yet.
    pub(crate) fn suspend(self: &Arc<Self>, shared: &Shared, code: Code, why: &Arc<str>) -> bool {
        let mut inner = self.lock();
        inner.half.handle_path_lost();
        let watch = inner.suspend(code, why);
        let mut wakers = inner.settle(shared);
        wakers.extend(inner.due());
        let control = inner.half.has_output() && inner.queue_control();
        drop(inner);
        self.queue(shared, control, false);
        wake(wakers);
        watch
    }

    /// The stream was not taken up again, and is to be asked for once more.
    pub(crate) fn retry(self: &Arc<Self>, shared: &Shared) {
        let mut inner = self.lock();
        inner.half.retry();
        let control = inner.half.has_output() && inner.queue_control();
        drop(inner);
        self.queue(shared, control, false);
    }

    /// How long a stream that was refused waits before it asks again.
    pub(crate) fn pause(&self) -> Duration {
        self.lock().suspension.pause()
    }

    /// Gives the wait for a path up when patience is over. Returns until when it waits otherwise; `None` when it does not.
    pub(crate) fn watch(&self, shared: &Shared, now: Instant) -> Option<Instant> {
        let mut inner = self.lock();
        let patience = shared.patience.of(&self.stream.job.name);
        let until = inner.suspension.until(patience)?;
        if until > now {
            return Some(until);
        }
        let (code, why) = inner.suspension.reason(patience);
        inner.suspension.end();
        inner.half.give_up_waiting(code, why);
        let mut wakers = inner.settle(shared);
        wakers.extend(inner.due());
        drop(inner);
        wake(wakers);
        None
    }

    /// The other side has heard that this one gave the stream up.
    pub(crate) fn handle_end_ack(&self) {
        self.lock().half.handle_end_ack();
    }

    /// The stream's id on the link, and whether nothing more is to be said or heard of it.
    pub(crate) fn is_settled_under(&self) -> (u64, bool) {
        let inner = self.lock();
        (inner.id, inner.half.is_settled())
    }

    /// Whether it had a path, and has none that was answered.
    pub(crate) fn is_suspended(&self) -> bool {
        self.lock().half.is_suspended()
    }

    /// Whom to wake is added to `woken`. What there is to be said is queued.
    pub(crate) fn handle_credit(self: &Arc<Self>, shared: &Shared, credit: &Credit, woken: &mut Vec<Waker>) {
        let mut inner = self.lock();
        inner.half.handle_credit(credit);
        // What was freed is given back first: the held message may need it.
        woken.extend(inner.settle(shared));
        woken.extend(inner.advance(shared, self));
        let over = inner.half.is_over();
        let control = over && inner.half.has_output() && inner.queue_control();
        let data = !over && inner.queue_data();
        woken.extend(inner.due());
        drop(inner);
        self.queue(shared, control, data);
    }

    /// The node asks for credit back that was not used. The answer goes out in a turn for control, behind the data that
    /// was handed over before.
    pub(crate) fn handle_reclaim(self: &Arc<Self>, shared: &Shared, reclaim: &Reclaim) {
        let mut inner = self.lock();
        inner.half.handle_reclaim(reclaim);
        let mut wakers = inner.settle(shared);
        wakers.extend(inner.advance(shared, self));
        let control = inner.half.has_output() && inner.queue_control();
        drop(inner);
        self.queue(shared, control, false);
        wake(wakers);
    }

    /// The stream ended by another's wish, or it is its path that did: then the caller asks for another, or has it
    /// [retried](SendCell::retry) later. Returns also whether its patience is to be watched, which it is not yet.
    pub(crate) fn handle_abort(
        self: &Arc<Self>,
        shared: &Shared,
        code: Code,
        offset: u64,
        text: String,
    ) -> (Verdict, bool) {
        let mut inner = self.lock();
        let why = Arc::from(text.as_str());
        let verdict = inner.half.handle_abort(code, offset, text);
        let watch = match verdict {
            Verdict::Ended => {
                inner.suspension.end();
                false
            }
            Verdict::PathLost | Verdict::Refused => inner.suspend(Code::TrunkLost, &why),
        };
        let waker = inner.due();
        let wakers = inner.settle(shared);
        let control = inner.half.has_output() && inner.queue_control();
        drop(inner);
        self.queue(shared, control, false);
        wake(waker);
        wake(wakers);
        (verdict, watch)
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
            inner.give_up(Code::ProducerGone, "the producer's process detached before it finished the stream");
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
        let mut inner = self.lock();
        inner.half.give_up_waiting(code, text);
        let waker = inner.due();
        let wakers = inner.settle(shared);
        drop(inner);
        wake(waker);
        wake(wakers);
    }

    /// Whether the link may end without anything of this stream being lost.
    pub(crate) fn is_settled(&self) -> bool {
        let inner = self.lock();
        (inner.held.is_none() && inner.half.is_flushed()) || inner.half.is_over()
    }

    /// Looks whether a send waits, and whether it has for `stall_warn` or longer.
    pub(crate) fn look(&self, now: Instant, stall_warn: Duration) -> Looked {
        let mut inner = self.lock();
        let waits = matches!(inner.waiting, Some((WaitsFor::Credit | WaitsFor::Budget | WaitsFor::Vacancy, _)));
        // A task that was woken has what it waited for; whether it asks again is its affair.
        if !waits && inner.held.is_none() {
            return Looked::Flowing;
        }
        let cause = inner.lacking();
        let Some(blocked) = &mut inner.blocked else { return Looked::Flowing };
        let waited = now.saturating_duration_since(blocked.since);
        if waited < stall_warn || std::mem::replace(&mut blocked.told, true) {
            return Looked::Waiting;
        }
        Looked::Stalled(cause, waited)
    }

    /// How the stream was lost: it had been accepted, and ended neither cleanly nor by the wish of this process. Returned once.
    pub(crate) fn take_lost(&self) -> Option<Aborted> {
        let mut inner = self.lock();
        match inner.half.finished() {
            Finished::Aborted(why) if inner.consumer.is_some() && !inner.given_up => {
                (!std::mem::replace(&mut inner.lost_told, true)).then_some(why)
            }
            _ => None,
        }
    }
}
