//! The receiving end of one stream, between its task and the link's thread.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use trunkline_proto::{
    code::Code,
    frame::{DataHeader, Frame},
    id::Incarnation,
    message::{Abort, Accept, Credit},
};
use trunkline_session::{Aborted, Read, ReceiveHalf, ReceiveOutput};

use super::{Cell, Ended, GatherQueue, News, Shared, lock};
use crate::receiver::ProducerInfo;

/// The receiving end of one stream.
#[derive(Debug)]
pub(crate) struct ReceiveCell {
    /// The stream's id on the link.
    pub(crate) id: u64,
    pub(crate) producer: Arc<ProducerInfo>,
    /// The consumer's life, for ACCEPT.
    consumer: Incarnation,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    half: ReceiveHalf,
    /// The first limit, until ACCEPT is sent.
    accept: Option<u64>,
    /// Whole messages that have arrived and were not read.
    unread: usize,
    delivery: Delivery,
    /// The latest limit.
    limit: u64,
    /// The sender knows that so much has been received.
    acknowledged: u64,
    /// The sender asked for that.
    acknowledges: bool,
    /// In the control list.
    queued: bool,
    /// The credit policy knows the stream.
    accounted: bool,
    /// Whoever reads the stream was told, or has seen, that after the unread messages nothing follows.
    end_told: bool,
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
        (self.acknowledges || self.half.has_output()) && !std::mem::replace(&mut self.queued, true)
    }

    /// What the sender need not keep, when it asked and does not know it.
    fn acknowledgement(&mut self) -> Option<Credit> {
        let asked = std::mem::take(&mut self.acknowledges) && !self.half.is_over();
        let (consumed, limit) = (self.half.consumed(), self.limit);
        let received = consumed + self.half.buffered_bytes();
        (asked && received > self.acknowledged).then_some(Credit {
            stream: 0,
            epoch: 0,
            received,
            consumed,
            limit,
            finished: false,
        })
    }

    /// Whether the end was found just now: nothing is unread, and nothing will follow.
    fn finds_end(&mut self) -> bool {
        let found = self.unread == 0 && self.half.is_readable() && !self.end_told;
        self.end_told |= found;
        found
    }

    /// What the policy is to be told. A stream that ended by another's wish holds its credit until its messages are read.
    fn news(&mut self) -> Option<News> {
        if !self.accounted {
            return None;
        }
        if self.half.is_over() {
            self.accounted = self.unread > 0;
            return (!self.accounted).then_some(News::Close);
        }
        match self.half.poll_message_end() {
            Some(end) => Some(News::Message { consumed: self.half.consumed(), end }),
            None => self.half.poll_consumed().map(News::Consumed),
        }
    }

    /// What to deliver after `messages` arrived.
    fn deliver(&mut self, messages: usize) -> Delivered {
        self.unread += messages;
        let end = self.finds_end();
        match &mut self.delivery {
            Delivery::Reader(waker) => match waker.take_if(|_| messages > 0 || end) {
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
        id: u64,
        producer: Arc<ProducerInfo>,
        consumer: Incarnation,
        delivery: Delivery,
        limit: u64,
        message_bytes_max: usize,
    ) -> Self {
        Self {
            id,
            producer,
            consumer,
            inner: Mutex::new(Inner {
                half: ReceiveHalf::new(0, limit, message_bytes_max),
                accept: Some(limit),
                unread: 0,
                delivery,
                limit,
                acknowledged: 0,
                acknowledges: false,
                queued: true,
                accounted: true,
                end_told: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Releases the lock, then says what is to be said.
    fn settle(self: &Arc<Self>, shared: &Shared, mut inner: MutexGuard<'_, Inner>, delivered: Delivered) {
        let news = inner.news();
        // What the policy grants in answer goes out in the same CREDIT.
        let queued = news.is_none() && inner.queue();
        drop(inner);
        match delivered {
            Delivered::Nothing => {}
            Delivered::Wake(waker) => waker.wake(),
            Delivered::Gather { queue, messages, end } => queue.push(self, messages, end),
        }
        if queued {
            shared.ready.control(Cell::Receive(Arc::clone(self)));
        } else if news.is_some() {
            shared.tell(self.id, news);
            self.queue(shared);
        }
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
        match read {
            Read::Pending => {
                if let Delivery::Reader(waker) = &mut inner.delivery {
                    match waker {
                        Some(waker) if waker.will_wake(cx.waker()) => {}
                        waker => *waker = Some(cx.waker().clone()),
                    }
                }
                return Poll::Pending;
            }
            Read::Message(_) => inner.unread -= 1,
            Read::End | Read::Aborted(_) => {}
        }
        self.settle(shared, inner, Delivered::Nothing);
        Poll::Ready(read)
    }

    /// For a gather: what is there, and whether after it nothing follows and nobody else will say so.
    pub(crate) fn read(self: &Arc<Self>, shared: &Shared) -> (Read, bool) {
        let mut inner = self.lock();
        let read = inner.half.read();
        let mut end = false;
        if matches!(read, Read::Message(_)) {
            inner.unread -= 1;
            end = inner.finds_end();
        }
        self.settle(shared, inner, Delivered::Nothing);
        (read, end)
    }

    /// From now on a gather is told what arrives; at first, what has arrived already.
    pub(crate) fn deliver_to(self: &Arc<Self>, queue: &Arc<GatherQueue>) {
        let mut inner = self.lock();
        inner.delivery = Delivery::Gather(Arc::clone(queue));
        let messages = inner.unread;
        let end = inner.finds_end();
        drop(inner);
        if messages > 0 || end {
            queue.push(self, messages, end);
        }
    }

    /// Gives the stream up. One that ended stays as it ended.
    pub(crate) fn cancel(self: &Arc<Self>, shared: &Shared, code: Code, text: &str) {
        let mut inner = self.lock();
        inner.half.cancel(code, text);
        inner.unread = 0;
        self.settle(shared, inner, Delivered::Nothing);
    }

    // The link's side.

    /// The next frame to be sent. The cell has left the control list.
    pub(crate) fn poll(&self) -> Option<Frame> {
        let mut inner = self.lock();
        inner.queued = false;
        if let Some(limit) = inner.accept.take()
            && !inner.half.is_over()
        {
            return Some(Accept { stream: self.id, incarnation: self.consumer, limit }.into());
        }
        let credit = match inner.half.poll_output() {
            Some(ReceiveOutput::Credit(credit)) => credit,
            Some(ReceiveOutput::Abort(why)) => {
                return Some(Abort { stream: self.id, code: why.code, offset: why.offset, text: why.text }.into());
            }
            None => inner.acknowledgement()?,
        };
        inner.acknowledged = credit.received;
        Some(Credit { stream: self.id, ..credit }.into())
    }

    /// The sender asks for more, or at least to know what it need not keep.
    pub(crate) fn handle_want(self: &Arc<Self>, shared: &Shared, wanted: u64) {
        let mut inner = self.lock();
        inner.acknowledges = true;
        let queued = inner.queue();
        drop(inner);
        if queued {
            shared.ready.control(Cell::Receive(Arc::clone(self)));
        }
        shared.tell(self.id, Some(News::Wanted(wanted)));
    }

    pub(crate) fn handle_data(self: &Arc<Self>, shared: &Shared, header: &DataHeader, payload: Bytes) {
        let mut inner = self.lock();
        let messages = inner.half.handle_data(header, payload);
        let delivered = inner.deliver(messages);
        self.settle(shared, inner, delivered);
    }

    /// The stream ended by another's wish.
    pub(crate) fn handle_abort(self: &Arc<Self>, shared: &Shared, code: Code, text: String) {
        let mut inner = self.lock();
        inner.half.handle_abort(code, text);
        let delivered = inner.deliver(0);
        self.settle(shared, inner, delivered);
    }

    /// The policy allows the stream up to `limit`.
    pub(crate) fn grant(self: &Arc<Self>, shared: &Shared, limit: u64) {
        let mut inner = self.lock();
        inner.half.handle_grant(limit);
        inner.limit = inner.limit.max(limit);
        let queued = inner.queue();
        drop(inner);
        if queued {
            shared.ready.control(Cell::Receive(Arc::clone(self)));
        }
    }

    /// The process detaches: an unfinished stream is given up, and its other end told. Takes the cell out of the control
    /// list, which the caller has emptied, and enters it again where that is needed.
    pub(crate) fn detach(self: &Arc<Self>, shared: &Shared) {
        let mut inner = self.lock();
        inner.queued = false;
        inner.half.cancel(Code::ConsumerGone, "the consumer's process detached before it consumed the stream");
        inner.unread = 0;
        let delivered = inner.deliver(0);
        self.settle(shared, inner, delivered);
    }

    /// The link has ended.
    pub(crate) fn lose(self: &Arc<Self>, shared: &Shared, ended: &Ended) {
        let (code, text) = match ended {
            Ended::Closed => (Code::Closed, "the attachment was closed by this process".to_owned()),
            Ended::NodeLost(why) => (Code::NodeLost, why.to_string()),
        };
        self.handle_abort(shared, code, text);
    }

    /// How the stream ended, if it did not end cleanly.
    pub(crate) fn aborted(&self) -> Option<Aborted> {
        self.lock().half.aborted()
    }
}
