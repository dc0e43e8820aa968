//! Sends that wait for long: found by the link's thread, and told once for each wait.
//!
//! A send that begins to wait only raises a flag, so that waiting costs next to nothing. While the flag is up, the thread
//! looks through its streams now and then; when it finds none that waits, it lowers the flag and does not look again.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::{Looked, SendCell, thread::Link};
use crate::event::{Event, StallCause, StalledSend};

/// A wait is found when it is at most this part of `stall_warn` older than that.
const LOOKS_PER_STALL_WARN: u32 = 4;
/// However soon a warning is asked for, the thread does not look more often.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Whether any send may be waiting, and how long it may before it is said.
#[derive(Debug)]
pub(crate) struct Stalls {
    stall_warn: Duration,
    watched: AtomicBool,
}

impl Stalls {
    /// `Duration::MAX` for never.
    pub(crate) fn new(stall_warn: Duration) -> Self {
        Self { stall_warn, watched: AtomicBool::new(false) }
    }

    /// A send begins to wait. Returns whether the link's thread is to be nudged, because it did not know of any.
    pub(crate) fn watch(&self) -> bool {
        // Mostly it is up already, and a load does not take the line away from the other threads.
        !self.watched.load(Ordering::Relaxed) && !self.watched.swap(true, Ordering::AcqRel)
    }

    /// Whether a send may be waiting.
    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// When to look next; `None` for never.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        now.checked_add((self.stall_warn / LOOKS_PER_STALL_WARN).max(LOOK_INTERVAL_MIN))
    }
}

impl<T> Link<T> {
    /// Looks through the streams, if it is time to, for sends that have waited for too long.
    pub(super) fn look_for_stalls(&mut self) {
        let Some(at) = self.stalls_at.filter(|_| self.shared.stalls.is_watched()) else { return };
        let now = Instant::now();
        if now < at {
            return;
        }
        self.stalls_at = self.shared.stalls.next_look(now);
        // Lowered before the look: a send that begins to wait meanwhile raises it again.
        self.shared.stalls.watched.store(false, Ordering::Release);
        let mut waits = false;
        for cell in self.senders.values() {
            match cell.look(now, self.shared.stalls.stall_warn) {
                Looked::Flowing => continue,
                Looked::Waiting => {}
                Looked::Stalled(cause, waited) => self.tell_stalled(cell, cause, waited),
            }
            waits = true;
        }
        if waits {
            self.shared.stalls.watch();
        }
    }

    fn tell_stalled(&self, cell: &SendCell, cause: StallCause, waited: Duration) {
        let stalled = StalledSend {
            job: cell.stream.job.clone(),
            producer: cell.stream.producer.clone(),
            consumer: cell.stream.address.clone(),
            cause,
            waited,
        };
        tracing::warn!("{stalled}");
        self.shared.subscribers.publish(|| Event::Stalled(stalled.clone()));
    }
}
