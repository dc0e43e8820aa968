//! Which closed consumers wait for the node, and until when. The application's executor may have no timers; the link's
//! thread has.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{BindCell, lock};

/// How long a consumer's `close` waits until its last words are handed to the node.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// Consumers whose `close` waits, the oldest first. One leaves when the node was told, or after [`LINGER`]: so there are
/// as many as were closed within that time at most.
#[derive(Debug, Default)]
pub(crate) struct Lingering(Mutex<VecDeque<(Instant, Arc<BindCell>)>>);

impl Lingering {
    /// A consumer waits from now on.
    pub(crate) fn enter(&self, cell: Arc<BindCell>) {
        lock(&self.0).push_back((Instant::now() + LINGER, cell));
    }

    /// When the first of them has waited long enough.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let mut waiting = lock(&self.0);
        while waiting.front().is_some_and(|(_, cell)| cell.is_closed()) {
            waiting.pop_front();
        }
        waiting.front().map(|(by, _)| *by)
    }

    /// Tells those who have waited long enough.
    pub(crate) fn expire(&self, now: Instant) {
        while let Some(by) = self.next_at()
            && by <= now
        {
            let first = lock(&self.0).pop_front();
            if let Some((_, cell)) = first {
                cell.handle_overdue();
            }
        }
    }
}
