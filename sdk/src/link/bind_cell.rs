//! One bound consumer, between its task and the link's thread.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use trunkline_proto::{
    code::Code,
    frame::Frame,
    id::{ConsumerAddress, Incarnation, JobId, NodeId},
    message::{Bind, Refused, Unbind},
};

use super::{
    Admission, BindTally, Cell, Delivery, Ended, GatherQueue, LINGER, News, Path, ReceiveCell, Shared, lock,
    retry::backoff, wake,
};
use crate::{error::Error, gather::Expected, receiver::ProducerInfo};

/// Why a stream that nobody took is refused.
const UNTAKEN: &str = "the consumer was closed before it took the stream";

/// A consumer's bind.
#[derive(Debug)]
pub(crate) struct BindCell {
    pub(crate) job: JobId,
    pub(crate) address: ConsumerAddress,
    pub(crate) incarnation: Incarnation,
    /// How many streams may wait for `accept`. One more is refused as `busy`, which its producer may try again.
    backlog_streams_max: usize,
    tally: Arc<BindTally>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Its id on the link; 0 until BIND is sent.
    id: u64,
    bound: bool,
    ended: Option<BindEnd>,
    /// The application is done with it.
    closed: bool,
    unbind_told: bool,
    /// The link's thread was asked to say when everything up to here is written.
    flushing: bool,
    /// The application need not wait any more for its closing: everything was written, or that took too long.
    closing: Option<Closing>,
    /// Streams that nobody had taken when it was closed.
    refused: usize,
    takes: Takes,
    waker: Option<Waker>,
    queued: bool,
    /// It is to be bound once more, for the link is another.
    is_lapsed: bool,
    /// Since when, and how often that was refused.
    lapsed: Option<(Instant, u32)>,
    /// Nodes of producers whose streams have lost their path, for the next BIND.
    awaited_nodes: Vec<NodeId>,
}

/// How closing went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    HandedOver,
    Overdue,
}

/// Where streams go.
#[derive(Debug)]
enum Takes {
    Backlog(VecDeque<Arc<ReceiveCell>>),
    Gather(Arc<GatherQueue>, Admission),
}

/// How a bind ended without the application's wish.
#[derive(Debug, Clone)]
pub(crate) enum BindEnd {
    /// The node refused or ended it.
    Refused { live: bool, code: Code, text: Arc<str> },
    /// The attachment ended.
    Detached(Ended),
}

impl BindEnd {
    /// Whether streams that came through the bind have ended too.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Detached(_))
    }

    pub(crate) fn error(&self, address: &ConsumerAddress) -> Error {
        let subject = format!("consumer {address}");
        match self {
            Self::Refused { live, code, text } => Error::bind(subject, *live, *code, text),
            Self::Detached(ended) => Error::ended(subject, ended),
        }
    }
}

impl BindCell {
    /// A consumer that wants to be bound. Its place in the control list is taken: hand it to [`super::Ready::admit`].
    pub(crate) fn new(
        job: JobId,
        address: ConsumerAddress,
        incarnation: Incarnation,
        backlog_streams_max: usize,
    ) -> Self {
        Self {
            job,
            address,
            incarnation,
            backlog_streams_max,
            tally: Arc::default(),
            inner: Mutex::new(Inner {
                id: 0,
                bound: false,
                ended: None,
                closed: false,
                unbind_told: false,
                flushing: false,
                closing: None,
                refused: 0,
                takes: Takes::Backlog(VecDeque::new()),
                waker: None,
                queued: true,
                is_lapsed: false,
                lapsed: None,
                awaited_nodes: Vec::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    // The application's side.

    /// Ready once the node answered.
    pub(crate) fn poll_bound(&self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let mut inner = self.lock();
        match &inner.ended {
            Some(end) => Poll::Ready(Err(end.error(&self.address))),
            None if inner.bound => Poll::Ready(Ok(())),
            None => {
                inner.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The oldest stream that waits to be taken.
    pub(crate) fn poll_accept(&self, cx: &Context<'_>) -> Poll<Result<Arc<ReceiveCell>, Error>> {
        let mut inner = self.lock();
        if let Takes::Backlog(backlog) = &mut inner.takes
            && let Some(cell) = backlog.pop_front()
        {
            return Poll::Ready(Ok(cell));
        }
        if let Some(end) = &inner.ended {
            return Poll::Ready(Err(end.error(&self.address)));
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// From now on streams go to a gather, those of the backlog first.
    pub(crate) fn gather(&self, shared: &Shared, expected: Expected) -> Arc<GatherQueue> {
        let queue = Arc::new(GatherQueue::default());
        let mut admission = Admission::new(expected);
        let mut inner = self.lock();
        let backlog = match &mut inner.takes {
            Takes::Backlog(backlog) => std::mem::take(backlog),
            Takes::Gather(..) => VecDeque::new(),
        };
        let admitted: Vec<_> = backlog
            .into_iter()
            .map(|cell| (admission.admit(&cell.producer).map(|()| queue.enter(&cell)), cell))
            .collect();
        inner.takes = Takes::Gather(Arc::clone(&queue), admission);
        let ended = inner.ended.clone();
        drop(inner);
        for (admitted, cell) in admitted {
            match admitted {
                Ok(_) => cell.deliver_to(shared, &queue),
                Err(why) => drop(cell.cancel(shared, Code::Cancelled, &why)),
            }
        }
        if let Some(why) = ended {
            queue.end(why);
        }
        queue
    }

    /// Ends the bind. Streams that nobody took are refused.
    pub(crate) fn close(self: &Arc<Self>, shared: &Shared) {
        let mut inner = self.lock();
        inner.closed = true;
        let left: Vec<_> = match &mut inner.takes {
            Takes::Backlog(backlog) => std::mem::take(backlog).into(),
            Takes::Gather(..) => Vec::new(),
        };
        let queued = !std::mem::replace(&mut inner.queued, true);
        drop(inner);
        let mut refused = 0;
        for cell in left {
            refused += usize::from(cell.cancel(shared, Code::ConsumerClosed, UNTAKEN));
        }
        if refused > 0 {
            self.lock().refused += refused;
        }
        // Behind everything that its streams have said, so that the end of the bind is written after it.
        if queued {
            shared.ready.control(Cell::Bind(Arc::clone(self)));
        }
    }

    /// After [`BindCell::close`]: ready once the end of the bind, and what its streams had said before, are written.
    pub(crate) fn poll_closed(&self, shared: &Shared, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let mut inner = self.lock();
        let subject = || format!("consumer {}", self.address);
        match (inner.closing, &inner.ended) {
            (Some(Closing::HandedOver), _) => return Poll::Ready(Ok(())),
            (Some(Closing::Overdue), _) => {
                return Poll::Ready(Err(Error::linger_timeout(subject(), LINGER, self.tally.unsaid())));
            }
            (None, Some(BindEnd::Detached(ended))) => return Poll::Ready(Err(Error::ended(subject(), ended))),
            (None, _) => inner.waker = Some(cx.waker().clone()),
        }
        drop(inner);
        // A bind that the node had ended is known to the link no more, and does not hear of the link's end.
        match shared.ready.ended() {
            Some(ended) => Poll::Ready(Err(Error::ended(subject(), &ended))),
            None => Poll::Pending,
        }
    }

    /// Whether nobody need wait any more for its closing.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closing.is_some()
    }

    /// Streams that nobody had taken when it was closed.
    pub(crate) fn refused(&self) -> usize {
        self.lock().refused
    }

    /// Streams that came through it and are not over.
    pub(crate) fn unfinished(&self) -> usize {
        self.tally.unfinished()
    }

    // The link's side.

    /// The next frame to be sent. The cell has left the control list.
    pub(crate) fn poll(&self, next_id: &mut u64) -> Option<Frame> {
        let mut inner = self.lock();
        inner.queued = false;
        if (inner.id == 0 || inner.is_lapsed) && !inner.closed {
            inner.id = *next_id;
            inner.is_lapsed = false;
            *next_id += 1;
            return Some(
                Bind {
                    bind: inner.id,
                    job: self.job.clone(),
                    consumer: self.address.consumer.clone(),
                    incarnation: self.incarnation,
                    resumes_only: false,
                    awaited_nodes: std::mem::take(&mut inner.awaited_nodes),
                }
                .into(),
            );
        }
        if !inner.closed || inner.unbind_told {
            return None;
        }
        inner.unbind_told = true;
        let told = inner.id != 0 && !inner.is_lapsed && !matches!(inner.ended, Some(BindEnd::Refused { .. }));
        told.then(|| Unbind { bind: inner.id }.into())
    }

    /// Whether, once what is now on its way is written, the closing is handed over. Asked by the link's thread, which is
    /// told so once.
    pub(crate) fn begins_flush(&self) -> bool {
        let mut inner = self.lock();
        inner.unbind_told && !std::mem::replace(&mut inner.flushing, true)
    }

    /// Everything up to the end of the bind was written.
    pub(crate) fn handle_flushed(&self) {
        self.finish_closing(Closing::HandedOver);
    }

    /// It has waited for that long enough.
    pub(crate) fn handle_overdue(&self) {
        self.finish_closing(Closing::Overdue);
    }

    fn finish_closing(&self, closing: Closing) {
        let mut inner = self.lock();
        inner.closing.get_or_insert(closing);
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
    }

    /// Its id on the link; 0 while it has none.
    pub(crate) fn id(&self) -> u64 {
        self.lock().id
    }

    pub(crate) fn handle_bound(&self) {
        let mut inner = self.lock();
        inner.bound = true;
        inner.lapsed = None;
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
    }

    /// The bind is gone with the link that it was on, or was not made again: it is to be said once more.
    pub(crate) fn bind_again(self: &Arc<Self>, shared: &Shared, awaited_nodes: Vec<NodeId>) {
        let mut inner = self.lock();
        inner.is_lapsed = true;
        inner.lapsed.get_or_insert_with(|| (Instant::now(), 0));
        inner.awaited_nodes = awaited_nodes;
        let queued = !std::mem::replace(&mut inner.queued, true);
        drop(inner);
        if queued {
            shared.ready.control(Cell::Bind(Arc::clone(self)));
        }
    }

    /// Whether it had been bound on an earlier link, and its patience is not over.
    pub(crate) fn may_bind_again(&self, patience: Duration) -> bool {
        let inner = self.lock();
        !inner.closed && inner.lapsed.is_some_and(|(since, _)| since.elapsed() < patience)
    }

    /// How long to wait before it is bound again.
    pub(crate) fn pause(&self) -> Duration {
        let mut inner = self.lock();
        let refusals = inner.lapsed.as_mut().map_or(0, |(_, refusals)| {
            *refusals += 1;
            *refusals - 1
        });
        backoff(refusals)
    }

    pub(crate) fn handle_refused(&self, refused: Refused) {
        let live = self.lock().bound;
        self.end(BindEnd::Refused { live, code: refused.code, text: refused.text.into() });
    }

    /// A stream is offered. Returns the cell that took it, whose place in the control list is taken, or why it is refused.
    pub(crate) fn offer(
        &self,
        shared: &Shared,
        path: Path,
        producer: Arc<ProducerInfo>,
    ) -> Result<Arc<ReceiveCell>, (Code, String)> {
        let mut inner = self.lock();
        if inner.closed {
            inner.refused += 1;
            return Err((Code::ConsumerClosed, UNTAKEN.to_owned()));
        }
        let delivery = match &mut inner.takes {
            Takes::Backlog(backlog) if backlog.len() >= self.backlog_streams_max => {
                let text = format!("the consumer's backlog is full: {} streams wait to be accepted", backlog.len());
                return Err((Code::Busy, text));
            }
            Takes::Backlog(_) => Delivery::Reader(None),
            Takes::Gather(queue, admission) => {
                admission.admit(&producer).map_err(|why| (Code::Cancelled, why))?;
                Delivery::Gather(Arc::clone(queue))
            }
        };
        shared.counters.accepts.increment();
        let (incarnation, tally) = (self.incarnation, Arc::clone(&self.tally));
        let stream = producer.stream;
        let cell = shared.credit.open(stream, &self.job.name, |limit| {
            let message_bytes_max = shared.message_bytes_max;
            Arc::new(ReceiveCell::new(path, producer, incarnation, tally, delivery, limit, message_bytes_max))
        });
        let taken = match &mut inner.takes {
            Takes::Backlog(backlog) => {
                backlog.push_back(Arc::clone(&cell));
                true
            }
            Takes::Gather(queue, _) => queue.enter(&cell),
        };
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
        if !taken {
            // It tells its own refusal.
            cell.cancel(shared, Code::ConsumerClosed, UNTAKEN);
        }
        shared.tell(stream, Some(News::Opened));
        Ok(cell)
    }

    /// The bind, or the whole attachment, has ended.
    pub(crate) fn end(&self, why: BindEnd) {
        let mut inner = self.lock();
        inner.ended.get_or_insert(why.clone());
        let queue = match &inner.takes {
            Takes::Backlog(_) => None,
            Takes::Gather(queue, _) => Some(Arc::clone(queue)),
        };
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
        if let Some(queue) = queue {
            queue.end(why);
        }
    }

    /// The process detaches: the node is told. Takes the cell out of the control list, which the caller has emptied, and
    /// enters it again.
    pub(crate) fn detach(self: &Arc<Self>, shared: &Shared) {
        self.lock().queued = false;
        self.end(BindEnd::Detached(Ended::Closed));
        self.close(shared);
    }
}
