//! One bound consumer, between its task and the link's thread.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use trunkline_proto::{
    code::Code,
    frame::Frame,
    id::{ConsumerAddress, Incarnation, JobId},
    message::{Bind, Refused, Unbind},
};

use super::{Admission, Cell, Delivery, Ended, GatherQueue, ReceiveCell, Shared, lock, wake};
use crate::{error::Error, gather::Expected, receiver::ProducerInfo};

/// How many streams may wait for `accept`. One more is refused as `busy`, which its producer may try again.
const BACKLOG_STREAMS_MAX: usize = 1024;

/// A consumer's bind.
#[derive(Debug)]
pub(crate) struct BindCell {
    pub(crate) job: JobId,
    pub(crate) address: ConsumerAddress,
    pub(crate) incarnation: Incarnation,
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
    takes: Takes,
    waker: Option<Waker>,
    queued: bool,
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
    pub(crate) fn new(job: JobId, address: ConsumerAddress, incarnation: Incarnation) -> Self {
        Self {
            job,
            address,
            incarnation,
            inner: Mutex::new(Inner {
                id: 0,
                bound: false,
                ended: None,
                closed: false,
                unbind_told: false,
                takes: Takes::Backlog(VecDeque::new()),
                waker: None,
                queued: true,
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
                Ok(_) => cell.deliver_to(&queue),
                Err(why) => cell.cancel(shared, Code::Cancelled, &why),
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
        for cell in left {
            cell.cancel(shared, Code::ConsumerClosed, "the consumer was closed before it took the stream");
        }
        if queued {
            shared.ready.control(Cell::Bind(Arc::clone(self)));
        }
    }

    /// Ready once the node was told, or cannot be.
    pub(crate) fn poll_closed(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.unbind_told || inner.ended.is_some() {
            return Poll::Ready(());
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    // The link's side.

    /// The next frame to be sent. The cell has left the control list.
    pub(crate) fn poll(&self, next_id: &mut u64) -> Option<Frame> {
        let mut inner = self.lock();
        inner.queued = false;
        if inner.id == 0 && !inner.closed {
            inner.id = *next_id;
            *next_id += 1;
            return Some(
                Bind {
                    bind: inner.id,
                    job: self.job.clone(),
                    consumer: self.address.consumer.clone(),
                    incarnation: self.incarnation,
                }
                .into(),
            );
        }
        if !inner.closed || inner.unbind_told {
            return None;
        }
        inner.unbind_told = true;
        let told = inner.id != 0 && !matches!(inner.ended, Some(BindEnd::Refused { .. }));
        let frame = told.then(|| Unbind { bind: inner.id }.into());
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
        frame
    }

    /// Its id on the link; 0 while it has none.
    pub(crate) fn id(&self) -> u64 {
        self.lock().id
    }

    pub(crate) fn handle_bound(&self) {
        let mut inner = self.lock();
        inner.bound = true;
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
    }

    pub(crate) fn handle_refused(&self, refused: Refused) {
        let live = self.lock().bound;
        self.end(BindEnd::Refused { live, code: refused.code, text: refused.text.into() });
    }

    /// A stream is offered. Returns the cell that took it, whose place in the control list is taken, or why it is refused.
    pub(crate) fn offer(
        &self,
        shared: &Shared,
        stream: u64,
        producer: Arc<ProducerInfo>,
    ) -> Result<Arc<ReceiveCell>, (Code, String)> {
        let mut inner = self.lock();
        if inner.closed {
            return Err((Code::ConsumerClosed, "the consumer was closed before it took the stream".to_owned()));
        }
        let delivery = match &mut inner.takes {
            Takes::Backlog(backlog) if backlog.len() >= BACKLOG_STREAMS_MAX => {
                let text = format!("the consumer's backlog is full: {BACKLOG_STREAMS_MAX} streams wait to be accepted");
                return Err((Code::Busy, text));
            }
            Takes::Backlog(_) => Delivery::Reader(None),
            Takes::Gather(queue, admission) => {
                admission.admit(&producer).map_err(|why| (Code::Cancelled, why))?;
                Delivery::Gather(Arc::clone(queue))
            }
        };
        let incarnation = self.incarnation;
        let cell = shared.credit.open(stream, |limit| {
            let message_bytes_max = shared.message_bytes_max;
            Arc::new(ReceiveCell::new(stream, producer, incarnation, delivery, limit, message_bytes_max))
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
            cell.cancel(shared, Code::ConsumerClosed, "the consumer was closed before it took the stream");
        }
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
