//! What a gather is told, in the order in which it arrived.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use hashbrown::HashMap;
use trunkline_proto::id::ProducerName;

use super::{BindEnd, ReceiveCell, lock, wake};
use crate::{gather::Expected, receiver::ProducerInfo};

/// So many messages of this stream; none: it has ended.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) cell: Arc<ReceiveCell>,
    pub(crate) messages: usize,
}

/// Tokens in the order of arrival: pushed by the link's thread, popped by the gather's task. It is bounded by the credit
/// that was granted: a token stands for at least one byte of it, the one for each stream's end apart.
#[derive(Debug, Default)]
pub(crate) struct GatherQueue(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    tokens: VecDeque<Token>,
    /// Streams that have not been read to their end.
    live: HashMap<u64, Arc<ReceiveCell>>,
    waker: Option<Waker>,
    ended: Option<BindEnd>,
    /// The gather is gone.
    closed: bool,
}

/// What [`GatherQueue::poll_pop`] found.
pub(crate) enum Popped {
    Token(Token),
    /// No token will follow.
    Ended(BindEnd),
}

impl GatherQueue {
    /// A stream belongs to the gather. Returns it when the gather is gone.
    pub(crate) fn enter(&self, cell: &Arc<ReceiveCell>) -> bool {
        let mut inner = lock(&self.0);
        if !inner.closed {
            inner.live.insert(cell.id, Arc::clone(cell));
        }
        !inner.closed
    }

    /// A stream was read to its end, or cancelled. Returns whether it had been there.
    pub(crate) fn leave(&self, stream: u64) -> bool {
        let left = lock(&self.0).live.remove(&stream);
        left.is_some()
    }

    /// A producer's stream, unless it was read to its end.
    pub(crate) fn find(&self, producer: &ProducerInfo) -> Option<Arc<ReceiveCell>> {
        let inner = lock(&self.0);
        inner.live.get(&producer.stream).filter(|cell| *cell.producer == *producer).cloned()
    }

    /// `messages` became whole, or, when `end`, the stream was found to have ended after them. Returns whom to wake.
    #[must_use]
    pub(crate) fn push(&self, cell: &Arc<ReceiveCell>, messages: usize, end: bool) -> Option<Waker> {
        let mut inner = lock(&self.0);
        if inner.closed {
            return None;
        }
        if messages > 0 {
            match inner.tokens.back_mut() {
                Some(last) if last.messages > 0 && Arc::ptr_eq(&last.cell, cell) => last.messages += messages,
                _ => inner.tokens.push_back(Token { cell: Arc::clone(cell), messages }),
            }
        }
        if end {
            inner.tokens.push_back(Token { cell: Arc::clone(cell), messages: 0 });
        }
        inner.waker.take()
    }

    /// The bind has ended.
    pub(crate) fn end(&self, why: BindEnd) {
        let mut inner = lock(&self.0);
        inner.ended.get_or_insert(why);
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
    }

    /// The oldest token, if there is one.
    pub(crate) fn pop(&self) -> Option<Token> {
        lock(&self.0).tokens.pop_front()
    }

    /// The oldest token; the end of the bind once there is none and, while the link lives, no stream is left.
    pub(crate) fn poll_pop(&self, cx: &Context<'_>) -> Poll<Popped> {
        let mut inner = lock(&self.0);
        if let Some(token) = inner.tokens.pop_front() {
            return Poll::Ready(Popped::Token(token));
        }
        match &inner.ended {
            Some(why) if why.is_final() || inner.live.is_empty() => Poll::Ready(Popped::Ended(why.clone())),
            _ => {
                inner.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The gather is gone. Returns the streams that it left unread.
    pub(crate) fn close(&self) -> Vec<Arc<ReceiveCell>> {
        let mut inner = lock(&self.0);
        inner.closed = true;
        let tokens = std::mem::take(&mut inner.tokens);
        let live = std::mem::take(&mut inner.live);
        drop(inner);
        drop(tokens);
        live.into_values().collect()
    }
}

/// Which streams a gather takes.
#[derive(Debug)]
pub(crate) struct Admission {
    expected: Expected,
    taken: usize,
    /// With [`Expected::Names`]: those that came.
    came: BTreeSet<ProducerName>,
}

impl Admission {
    pub(crate) fn new(expected: Expected) -> Self {
        Self { expected, taken: 0, came: BTreeSet::new() }
    }

    /// Takes a stream, or says why not.
    pub(crate) fn admit(&mut self, producer: &ProducerInfo) -> Result<(), String> {
        let name = &producer.name;
        match &self.expected {
            Expected::Count(count) if self.taken >= *count => {
                return Err(format!("the consumer gathers {count} streams and has them"));
            }
            Expected::Names(names) if !names.contains(name) => {
                return Err(format!("the consumer does not expect producer {name}"));
            }
            Expected::Names(_) if !self.came.insert(name.clone()) => {
                return Err(format!("the consumer has had its stream of producer {name}"));
            }
            Expected::Count(_) | Expected::Names(_) => {}
        }
        self.taken += 1;
        Ok(())
    }
}
