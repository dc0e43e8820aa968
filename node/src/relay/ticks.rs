//! What waits in relays and is to hear that time passes: pools in which somebody waits for a turn, and answers that a
//! process owes.
//!
//! A policy measures time by what its budget serves. When all who live wait, that stands still; then this goes on.

use std::{cell::RefCell, convert::Infallible, rc::Weak, time::Duration};

use tokio::{sync::Notify, time::sleep};

use super::{Pool, Relay};

/// So long may one that holds what it does not use be waited for: far longer than a round trip between nodes, and not felt
/// beside a process that has stopped.
const TICK: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Default)]
pub(crate) struct Ticks {
    /// Each at most once.
    pools: RefCell<Vec<Weak<Pool>>>,
    /// Relays that owe an answer to a RECLAIM, and which one: those since the last tick, and those since the one before.
    awaited: RefCell<Vec<(Weak<Relay>, u32)>>,
    overdue: RefCell<Vec<(Weak<Relay>, u32)>>,
    changed: Notify,
}

impl Ticks {
    /// Somebody waits in a pool. The pool sees to it that it is in here once.
    pub(super) fn enter(&self, pool: Weak<Pool>) {
        self.pools.borrow_mut().push(pool);
        self.changed.notify_one();
    }

    /// A process is to say what it keeps of credit that is asked back. If it does not before two ticks have passed, the
    /// relay answers without it. Told once for each answer.
    pub(super) fn await_answer(&self, relay: Weak<Relay>, count: u32) {
        self.awaited.borrow_mut().push((relay, count));
        self.changed.notify_one();
    }

    fn is_idle(&self) -> bool {
        self.pools.borrow().is_empty() && self.awaited.borrow().is_empty() && self.overdue.borrow().is_empty()
    }

    /// Tells them, for as long as it is polled. Without any it sleeps.
    pub(crate) async fn run(&self) -> Infallible {
        loop {
            if self.is_idle() {
                self.changed.notified().await;
            } else {
                sleep(TICK).await;
                self.pass_time();
            }
        }
    }

    /// A tick has passed. Those in which somebody still waits come in again.
    pub(super) fn pass_time(&self) {
        for pool in self.pools.take().iter().filter_map(Weak::upgrade) {
            pool.pass_time();
        }
        for (relay, count) in self.overdue.replace(self.awaited.take()) {
            if let Some(relay) = relay.upgrade() {
                relay.answer_anyway(count);
            }
        }
    }
}
