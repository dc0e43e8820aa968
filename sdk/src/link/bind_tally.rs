//! How a bind knows of its streams without holding them.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the streams that came through one bind. Each is counted under its own lock, and no order among them matters:
/// relaxed throughout.
#[derive(Debug, Default)]
pub(crate) struct BindTally {
    /// Neither read to their end nor ended another way.
    unfinished: AtomicUsize,
    /// Over, with a last word that is not written to the node.
    unsaid: AtomicUsize,
}

impl BindTally {
    /// A stream came.
    pub(crate) fn begin(&self) {
        self.unfinished.fetch_add(1, Ordering::Relaxed);
    }

    /// It is over, perhaps with a last word.
    pub(crate) fn end(&self, unsaid: bool) {
        self.unsaid.fetch_add(usize::from(unsaid), Ordering::Relaxed);
        self.unfinished.fetch_sub(1, Ordering::Relaxed);
    }

    /// Its last word was written.
    pub(crate) fn said(&self) {
        self.unsaid.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished.load(Ordering::Relaxed)
    }

    pub(crate) fn unsaid(&self) -> usize {
        self.unsaid.load(Ordering::Relaxed)
    }
}
