//! A door that opens once: how the link's thread says that it is done, to tasks and to threads.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{lock, wake};

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
    /// Every task that waits: any handle may be closed by a task of its own.
    wakers: Vec<Waker>,
}

impl Latch {
    /// Opens it; only the first time counts.
    pub(crate) fn open(&self, clean: bool) {
        let mut inner = lock(&self.inner);
        inner.clean.get_or_insert(clean);
        let wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        self.opened.notify_all();
        wake(wakers);
    }

    /// Ready once it is open.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut inner = lock(&self.inner);
        if let Some(clean) = inner.clean {
            return Poll::Ready(clean);
        }
        if !inner.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            inner.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Blocks the thread until it is open, or for `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        let inner = lock(&self.inner);
        let waited = self.opened.wait_timeout_while(inner, timeout, |inner| inner.clean.is_none());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
