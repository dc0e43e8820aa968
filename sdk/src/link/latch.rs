//! A door that opens once: how the link's thread says that it is done, to tasks and to threads.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::lock;

/// Opens once, with a word.
#[derive(Debug, Default)]
pub(crate) struct Latch {
    inner: Mutex<Inner>,
    opened: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// Whether everything was said before the end; set when the latch opens.
    clean: Option<bool>,
    waker: Option<Waker>,
}

impl Latch {
    /// Opens it; only the first time counts.
    pub(crate) fn open(&self, clean: bool) {
        let mut inner = lock(&self.inner);
        inner.clean.get_or_insert(clean);
        let waker = inner.waker.take();
        drop(inner);
        self.opened.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ready once it is open. Only the latest task that asked is woken.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut inner = lock(&self.inner);
        if let Some(clean) = inner.clean {
            return Poll::Ready(clean);
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Blocks the thread until it is open, or for `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        let inner = lock(&self.inner);
        let waited = self.opened.wait_timeout_while(inner, timeout, |inner| inner.clean.is_none());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
