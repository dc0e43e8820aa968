//! The receiving end of one stream, between its task and the link's thread.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::{BufMut, Bytes};
use trunkline_proto::{
    code::Code,
    frame::{DataHeader, Frame},
    id::{ConsumerName, Incarnation, JobId},
    message::{Abort, Accept, Consumed, Credit, EndAck, Limit, Reclaim, Resumed, StreamKey},
};
use trunkline_session::{Aborted, Asked, Read, ReadBytes, ReceiveHalf, ReceiveOutput};

use super::{BindTally, Cell, Ended, GatherQueue, News, Shared, Verdict, lock, patience::Suspension, wake};
use crate::{metrics::Counters, receiver::ProducerInfo};

/// The way by which a stream is offered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    /// Its id on the link.
    pub(crate) link_id: u64,
    pub(crate) epoch: u32,
}

/// The receiving end of one stream.
#[derive(Debug)]
pub(crate) struct ReceiveCell {
    /// Tells it from all streams that this process receives.
    pub(crate) id: u64,
    pub(crate) producer: Arc<ProducerInfo>,
    /// The consumer's life, for ACCEPT.
    consumer: Incarnation,
    /// What its bind knows of its streams.
    tally: Arc<BindTally>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    half: ReceiveHalf,
    /// The stream's id on the link; 0 while it has no path.
    link_id: u64,
    /// While it has no path: since when, and why.
    suspension: Suspension,
    /// The producer's side was told that it is taken.
    accepted: bool,
    delivery: Delivery,
    /// The counters know of so many messages, and of so many bytes, read.
    counted: (u64, u64),
    /// The stream is over, and the counters and its bind know.
    over: bool,
    /// Its last word is not written yet.
    unsaid: bool,
    /// In the control list.
    queued: bool,
    /// The credit policy knows the stream.
    accounted: bool,
    /// The number of the policy's last reclaim.
    reclaim_number: u64,
    /// Whoever reads the stream was told, or has seen, that after the unread messages nothing follows.
    end_told: bool,
    /// This process gave the stream up.
    given_up: bool,
    /// That it was lost was told to those who listen.
    lost_told: bool,
}

/// Who is told of what arrives.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// The task that waits for this stream, if one does.
    Reader(Option<Waker>),
    /// A gather, in the order of arrival.
    Gather(Arc<GatherQueue>),
}

/// What arrived and is to be delivered once the lock is released.
enum Delivered {
    Nothing,
    Wake(Waker),
    Gather { queue: Arc<GatherQueue>, messages: usize, end: bool },
}

impl Inner {
    fn queue(&mut self) -> bool {
        self.half.has_output() && !std::mem::replace(&mut self.queued, true)
    }

    /// Registers the task that reads.
    fn wait(&mut self, cx: &Context<'_>) {
        if let Delivery::Reader(waker) = &mut self.delivery {
            match waker {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                waker => *waker = Some(cx.waker().clone()),
            }
        }
    }

    /// Raises the counters: how the stream ended, once; what was read, when the policy hears of it too or nothing is left
    /// to read, so that a message read alone costs them nothing.
    fn count(&mut self, counters: &Counters, tally: &BindTally, is_told: bool) {
        if is_told || self.half.unread_messages() == 0 {
            let (messages, bytes) = self.counted;
            self.counted = (self.half.messages_read(), self.half.consumed());
            if self.counted != (messages, bytes) {
                counters.messages_received.add(self.counted.0 - messages);
                counters.bytes_received.add(self.counted.1 - bytes);
            }
        }
        if self.half.is_over() && !std::mem::replace(&mut self.over, true) {
            self.unsaid = !self.half.is_settled();
            tally.end(self.unsaid);
            match self.half.is_finished() {
                true => counters.receives_finished.increment(),
                false => counters.receives_lost.increment(),
            }
        }
    }

    /// Whether the end was found just now: nothing is unread, and nothing will follow.
    fn finds_end(&mut self) -> bool {
        let found = self.half.unread_messages() == 0 && self.half.is_readable() && !self.end_told;
        self.end_told |= found;
        found
    }

    /// What the policy is to be told. A stream that ended by another's wish holds its credit until its messages are read.
    fn news(&mut self) -> Option<News> {
        if !self.accounted {
            return None;
        }
        if self.half.is_over() {
            self.accounted = self.half.unread_messages() > 0;
            return (!self.accounted).then_some(News::Close);
        }
        match self.half.poll_message_end() {
            Some(end) => Some(News::Message { consumed: self.half.consumed(), end }),
            None => self.half.poll_consumed().map(News::Consumed),
        }
    }

    /// What to deliver after `messages` arrived.
    fn deliver(&mut self, messages: usize) -> Delivered {
        let end = self.finds_end();
        match &mut self.delivery {
            Delivery::Reader(waker) => match waker.take_if(|_| messages > 0 || end || self.half.has_bytes()) {
                Some(waker) => Delivered::Wake(waker),
                None => Delivered::Nothing,
            },
            Delivery::Gather(queue) if messages > 0 || end => {
                Delivered::Gather { queue: Arc::clone(queue), messages, end }
            }
            Delivery::Gather(_) => Delivered::Nothing,
        }
    }
}

impl ReceiveCell {
    /// A stream that is accepted with this first limit. Its place in the control list is taken: enter it there.
    pub(crate) fn new(
        path: Path,
        producer: Arc<ProducerInfo>,
        consumer: Incarnation,
        tally: Arc<BindTally>,
        delivery: Delivery,
        limit: u64,
        message_bytes_max: usize,
    ) -> Self {
        tally.begin();
        let mut half = ReceiveHalf::new(path.epoch, limit, message_bytes_max);
        if matches!(delivery, Delivery::Gather(_)) {
            half.await_message();
        }
        Self {
            id: producer.stream,
            producer,
            consumer,
            tally,
            inner: Mutex::new(Inner {
                half,
                link_id: path.link_id,
                suspension: Suspension::default(),
                accepted: false,
                delivery,
                counted: (0, 0),
                over: false,
                unsaid: false,
                queued: true,
                accounted: true,
                reclaim_number: 0,
                end_told: false,
                given_up: false,
                lost_told: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Releases the lock, then says what is to be said, and wakes who waits for it.
    fn settle(self: &Arc<Self>, shared: &Shared, inner: MutexGuard<'_, Inner>, delivered: Delivered) {
        wake(self.conclude(shared, inner, delivered));
    }

    /// The same; who is to be woken is the caller's business.
    #[must_use]
    fn conclude(
        self: &Arc<Self>,
        shared: &Shared,
        mut inner: MutexGuard<'_, Inner>,
        delivered: Delivered,
    ) -> Option<Waker> {
        let limited = if inner.accounted { inner.half.poll_limited() } else { None };
        let news = inner.news();
        inner.count(&shared.counters, &self.tally, news.is_some());
        // What the policy grants in answer goes out in the same CREDIT.
        let queued = news.is_none() && inner.queue();
        drop(inner);
        let waker = match delivered {
            Delivered::Nothing => None,
            Delivered::Wake(waker) => Some(waker),
            Delivered::Gather { queue, messages, end } => queue.push(self, messages, end),
        };
        shared.tell(self.id, limited.map(News::Limited));
        if queued {
            shared.ready.control(Cell::Receive(Arc::clone(self)));
        } else if news.is_some() {
            shared.tell(self.id, news);
            self.queue(shared);
        }
        waker
    }

    /// Enters the cell in the control list if it has something to say.
    fn queue(self: &Arc<Self>, shared: &Shared) {
        if self.lock().queue() {
            shared.ready.control(Cell::Receive(Arc::clone(self)));
        }
    }

    // The application's side.

    /// The next message or the end; registers the task when there is neither.
    pub(crate) fn poll_read(self: &Arc<Self>, shared: &Shared, cx: &Context<'_>) -> Poll<Read> {
        let mut inner = self.lock();
        let read = inner.half.read();
        if read == Read::Pending {
            inner.wait(cx);
        }
        self.settle(shared, inner, Delivered::Nothing);
        match read {
            Read::Pending => Poll::Pending,
            read => Poll::Ready(read),
        }
    }

    /// Ready once a read would return something.
    pub(crate) fn poll_readable(self: &Arc<Self>, shared: &Shared, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.half.is_readable() {
            return Poll::Ready(());
        }
        inner.wait(cx);
        inner.half.await_message();
        self.settle(shared, inner, Delivered::Nothing);
        Poll::Pending
    }

    /// Up to `max` messages, and how many; what else there is when there is none, without waiting for any.
    pub(crate) fn read(self: &Arc<Self>, shared: &Shared, max: usize, take: impl FnMut(Bytes)) -> Result<usize, Read> {
        let mut inner = self.lock();
        let read = inner.half.read_many(max, take);
        self.settle(shared, inner, Delivered::Nothing);
        read
    }

    /// The same; registers the task when there is nothing.
    pub(crate) fn poll_read_many(
        self: &Arc<Self>,
        shared: &Shared,
        max: usize,
        take: impl FnMut(Bytes),
        cx: &Context<'_>,
    ) -> Poll<Result<usize, Read>> {
        let mut inner = self.lock();
        let read = inner.half.read_many(max, take);
        if read == Err(Read::Pending) {
            inner.wait(cx);
        }
        self.settle(shared, inner, Delivered::Nothing);
        match read {
            Err(Read::Pending) => Poll::Pending,
            read => Poll::Ready(read),
        }
    }

    /// Bytes, as many as there are and `out` has room for, or the end; registers the task when there is neither.
    pub(crate) fn poll_read_bytes(
        self: &Arc<Self>,
        shared: &Shared,
        out: &mut impl BufMut,
        cx: &Context<'_>,
    ) -> Poll<ReadBytes> {
        let mut inner = self.lock();
        let read = inner.half.read_bytes(out);
        if read == ReadBytes::Pending {
            inner.wait(cx);
        }
        self.settle(shared, inner, Delivered::Nothing);
        match read {
            ReadBytes::Pending => Poll::Pending,
            read => Poll::Ready(read),
        }
    }

    /// For a gather: as [`ReceiveCell::read`], and whether after it nothing follows and nobody else will say so.
    pub(crate) fn read_gathered(
        self: &Arc<Self>,
        shared: &Shared,
        max: usize,
        take: impl FnMut(Bytes),
    ) -> (Result<usize, Read>, bool) {
        let mut inner = self.lock();
        let read = inner.half.read_many(max, take);
        let end = read.is_ok() && inner.finds_end();
        // Whoever gathers waits for all its streams at once.
        inner.half.await_message();
        self.settle(shared, inner, Delivered::Nothing);
        (read, end)
    }

    /// From now on a gather is told what arrives; at first, what has arrived already.
    pub(crate) fn deliver_to(self: &Arc<Self>, shared: &Shared, queue: &Arc<GatherQueue>) {
        let mut inner = self.lock();
        inner.delivery = Delivery::Gather(Arc::clone(queue));
        inner.half.await_message();
        let messages = inner.half.unread_messages();
        let delivered = inner.deliver(messages);
        self.settle(shared, inner, delivered);
    }

    /// Gives the stream up. One that ended stays as it ended. Returns whether it ended by this.
    pub(crate) fn cancel(self: &Arc<Self>, shared: &Shared, code: Code, text: &str) -> bool {
        let mut inner = self.lock();
        let was_live = inner.half.cancel(code, text);
        inner.given_up |= was_live;
        self.settle(shared, inner, Delivered::Nothing);
        was_live
    }

    /// How far the stream has arrived, and how far it was consumed, in bytes.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.half.received(), inner.half.consumed())
    }

    // The link's side.

    /// The next frame to be sent. The cell has left the control list.
    pub(crate) fn poll(&self) -> Option<Frame> {
        let mut inner = self.lock();
        inner.queued = false;
        let stream = inner.link_id;
        Some(match inner.half.poll_output()? {
            ReceiveOutput::Accept { limit } => {
                inner.accepted = true;
                Accept { stream, incarnation: self.consumer, limit }.into()
            }
            ReceiveOutput::Resumed(resumed) => Resumed { stream, ..resumed }.into(),
            ReceiveOutput::Credit(credit) => Credit { stream, ..credit }.into(),
            ReceiveOutput::Reclaim(reclaim) => Reclaim { stream, ..reclaim }.into(),
            ReceiveOutput::Abort(why) => Abort { stream, code: why.code, offset: why.offset, text: why.text }.into(),
            ReceiveOutput::EndAck => EndAck { stream }.into(),
        })
    }

    /// The stream's id on the link; 0 while it has no path.
    pub(crate) fn link_id(&self) -> u64 {
        self.lock().link_id
    }

    /// The stream's last word was written.
    pub(crate) fn handle_flushed(&self) {
        if std::mem::take(&mut self.lock().unsaid) {
            self.tally.said();
        }
    }

    /// Whether nothing more is to be said or heard of the stream.
    pub(crate) fn is_settled(&self) -> bool {
        self.lock().half.is_settled()
    }

    /// The producer's side has heard how this one ended the stream.
    pub(crate) fn handle_end_ack(&self) {
        self.lock().half.handle_end_ack();
    }

    /// Whether it has no path.
    pub(crate) fn is_suspended(&self) -> bool {
        self.lock().half.is_suspended()
    }

    /// The stream has no path. Returns whether its patience is to be watched, which it is not yet.
    pub(crate) fn suspend(self: &Arc<Self>, shared: &Shared, code: Code, why: &Arc<str>) -> bool {
        let mut inner = self.lock();
        inner.half.handle_path_lost();
        inner.link_id = 0;
        let watch = !inner.half.is_settled() && inner.suspension.begin(code, why);
        self.settle(shared, inner, Delivered::Nothing);
        watch
    }

    /// The producer's side asks for the stream on a new path, under this id. Returns the id that it had, unless the path that
    /// asks is older than that one. Its place in the control list is taken if it was free.
    pub(crate) fn handle_asked(
        self: &Arc<Self>,
        shared: &Shared,
        link_id: u64,
        asked: Asked,
        epoch: u32,
    ) -> Option<u64> {
        let mut inner = self.lock();
        if !inner.half.handle_asked(asked, epoch) {
            return None;
        }
        inner.suspension.end();
        let before = std::mem::replace(&mut inner.link_id, link_id);
        self.settle(shared, inner, Delivered::Nothing);
        Some(before)
    }

    /// Gives the wait for a path up when the patience of `job` is over. Returns until when it waits otherwise; `None` when it
    /// does not.
    pub(crate) fn watch(self: &Arc<Self>, shared: &Shared, job: &JobId, now: Instant) -> Option<Instant> {
        let mut inner = self.lock();
        let patience = shared.patience.of(&job.name);
        let until = inner.suspension.until(patience)?;
        if until > now {
            return Some(until);
        }
        let (code, why) = inner.suspension.reason(patience);
        inner.suspension.end();
        inner.half.give_up_waiting(code, why);
        let delivered = inner.deliver(0);
        self.settle(shared, inner, delivered);
        None
    }

    /// How the stream ended, for a node that is to answer when it is resumed: unless the producer's side knows, or will hear
    /// it on the path that there is.
    pub(crate) fn epitaph(&self, job: &JobId, consumer: &ConsumerName) -> Option<Consumed> {
        let inner = self.lock();
        if !inner.half.is_over() || inner.half.is_settled() || !inner.half.is_suspended() {
            return None;
        }
        let key = StreamKey {
            job: job.clone(),
            producer: self.producer.name.clone(),
            consumer: consumer.clone(),
            incarnation: self.producer.incarnation,
            number: self.producer.number,
        };
        let abort = inner.half.aborted().map(|Aborted { code, offset, text }| Abort { stream: 0, code, offset, text });
        Some(Consumed { key, consumed: inner.half.consumed(), finished: inner.half.is_finished(), abort })
    }

    /// The sender asks for more, or at least to know what it need not keep.
    pub(crate) fn handle_want(self: &Arc<Self>, shared: &Shared, wanted: u64) {
        let mut inner = self.lock();
        inner.half.handle_want(wanted);
        let queued = inner.queue();
        drop(inner);
        if queued {
            shared.ready.control(Cell::Receive(Arc::clone(self)));
        }
        shared.tell(self.id, Some(News::Wanted(wanted)));
    }

    /// Bytes have come. Returns whom to wake.
    #[must_use]
    pub(crate) fn handle_data(self: &Arc<Self>, shared: &Shared, header: &DataHeader, payload: Bytes) -> Option<Waker> {
        shared.counters.data_frames_received.increment();
        let mut inner = self.lock();
        let messages = inner.half.handle_data(header, payload);
        let delivered = inner.deliver(messages);
        self.conclude(shared, inner, delivered)
    }

    /// The stream ended by another's wish.
    pub(crate) fn handle_abort(self: &Arc<Self>, shared: &Shared, code: Code, text: String) {
        let mut inner = self.lock();
        inner.half.handle_abort(code, text);
        let delivered = inner.deliver(0);
        self.settle(shared, inner, delivered);
    }

    /// The sender has given credit back.
    pub(crate) fn handle_limit(self: &Arc<Self>, shared: &Shared, limit: &Limit) {
        let mut inner = self.lock();
        let limited = inner.half.handle_limit(limit);
        // An answer that contradicts what was sent ends the stream.
        let delivered = inner.deliver(0);
        self.settle(shared, inner, delivered);
        shared.tell(self.id, limited.map(News::Limited));
    }

    /// The policy has decided. A grant that a later reclaim has overtaken is void: the reclaim was decided in its knowledge,
    /// and asks for it back.
    ///
    /// Returns what is left of a stream whose answer need not be waited for. The caller tells the policy.
    #[must_use]
    pub(crate) fn handle_verdict(self: &Arc<Self>, shared: &Shared, verdict: Verdict, number: u64) -> Option<News> {
        let mut inner = self.lock();
        match verdict {
            Verdict::Granted(_) if number < inner.reclaim_number => return None,
            Verdict::Granted(limit) => inner.half.handle_grant(limit),
            Verdict::Reclaimed(limit) => {
                inner.reclaim_number = number;
                inner.half.reclaim(limit);
            }
        }
        let limited = if inner.accounted { inner.half.poll_limited() } else { None };
        let queued = inner.queue();
        drop(inner);
        if queued {
            shared.ready.control(Cell::Receive(Arc::clone(self)));
        }
        limited.map(News::Limited)
    }

    /// The process detaches: an unfinished stream is given up, and its other end told. Takes the cell out of the control
    /// list, which the caller has emptied, and enters it again where that is needed.
    pub(crate) fn detach(self: &Arc<Self>, shared: &Shared) {
        let mut inner = self.lock();
        inner.queued = false;
        let why = "the consumer's process detached before it consumed the stream";
        inner.given_up |= inner.half.cancel(Code::ConsumerGone, why);
        let delivered = inner.deliver(0);
        self.settle(shared, inner, delivered);
    }

    /// The link has ended.
    pub(crate) fn lose(self: &Arc<Self>, shared: &Shared, ended: &Ended) {
        let (code, text) = match ended {
            Ended::Closed => (Code::Closed, "the attachment was closed by this process".to_owned()),
            Ended::NodeLost(why) => (Code::NodeLost, why.to_string()),
        };
        let mut inner = self.lock();
        inner.half.give_up_waiting(code, text);
        let delivered = inner.deliver(0);
        self.settle(shared, inner, delivered);
    }

    /// How the stream was lost: it had been accepted, and ended neither cleanly nor by the wish of this process. Returned once.
    pub(crate) fn take_lost(&self) -> Option<Aborted> {
        let mut inner = self.lock();
        if inner.given_up || !inner.accepted {
            return None;
        }
        let why = inner.half.aborted()?;
        (!std::mem::replace(&mut inner.lost_told, true)).then_some(why)
    }
}
