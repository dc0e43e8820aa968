//! Pools in which somebody waits for a turn: these are told that time passes.
//!
//! A policy has no clock. It sees by the news of others that one who was given something has had the time to use it. When
//! all who live wait, there is no news; then this is the news.

use std::{cell::RefCell, convert::Infallible, rc::Weak, time::Duration};

use tokio::{sync::Notify, time::sleep};

use super::Pool;

/// So long may one that holds what it does not use be waited for: far longer than a round trip between nodes, and not felt
/// beside a process that has stopped.
const TICK: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Default)]
pub(crate) struct ShortPools {
    /// Each at most once.
    pools: RefCell<Vec<Weak<Pool>>>,
    changed: Notify,
}

impl ShortPools {
    /// Somebody waits in a pool. The pool sees to it that it is in here once.
    pub(super) fn enter(&self, pool: Weak<Pool>) {
        self.pools.borrow_mut().push(pool);
        self.changed.notify_one();
    }

    /// Tells them, for as long as it is polled. Without any it sleeps.
    pub(crate) async fn run(&self) -> Infallible {
        loop {
            if self.pools.borrow().is_empty() {
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
    }
}
