//! The link to the local node: a thread of its own, and what it shares with the application's tasks.
//!
//! ```text
//!  tasks ──► cells (a lock each) ──► ready lists ──► trunkline-link: poll_output, write ──► transport
//!  tasks ◄── wakers ◄── cells ◄──────────────────── trunkline-link: read, dispatch     ◄── transport
//! ```
//!
//! The transport is the node's unix socket, or an embedded node on the same thread, which is called `trunkline-node` then.
//!
//! A [`SendCell`], [`ReceiveCell`] or [`BindCell`] holds the state machine of one stream or bind and the waker of the one
//! task that may wait for it. The thread owns the transport and the tables of ids, so these need no lock.
//!
//! Invariants: never two cells' locks at once; no waker is called under a lock; data of one cell never waits for the
//! credit of another.

mod bind_cell;
mod bind_tally;
mod connect;
mod credit_book;
mod dispatch;
#[cfg(feature = "embedded")]
mod embedded;
mod gather_queue;
mod latch;
mod lingering;
#[cfg(feature = "embedded")]
mod local;
mod losses;
mod patience;
mod ready;
mod reattach;
mod receive_cell;
mod retry;
mod send_budget;
mod send_cell;
mod socket;
mod stalls;
mod subscribers;
mod thread;
mod transport;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use trunkline_session::{SharedBudget, SharedBudgetConfig};

use self::patience::Patience;

use crate::metrics::Counters;

pub(crate) use bind_cell::{BindCell, BindEnd};
pub(crate) use bind_tally::BindTally;
pub(crate) use connect::{Attached, Options, Target, attach};
pub(crate) use credit_book::{CreditBook, Decision, News, Verdict};
pub(crate) use gather_queue::{Admission, GatherQueue, Popped, Token};
pub(crate) use latch::Latch;
pub(crate) use lingering::{LINGER, Lingering};
pub(crate) use ready::{Cell, Ready, Served, Turn};
pub(crate) use receive_cell::{Delivery, Path, ReceiveCell};
pub(crate) use send_budget::SendBudget;
pub(crate) use send_cell::{Looked, Refusal, SendCell, Stream};
pub(crate) use stalls::Stalls;
pub(crate) use subscribers::{Subscribers, Subscription};

/// How an attachment ended.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// This process closed it.
    Closed,
    /// The link broke; why.
    NodeLost(Arc<str>),
}

/// What the application's threads and the link's thread share.
pub(crate) struct Shared {
    pub(crate) ready: Ready,
    pub(crate) credit: CreditBook,
    pub(crate) send_budget: SendBudget,
    pub(crate) lingering: Lingering,
    pub(crate) stalls: Stalls,
    pub(crate) subscribers: Subscribers,
    /// The node said that it takes nothing new.
    pub(crate) draining: AtomicBool,
    /// Opens when the link's thread is done.
    pub(crate) done: Latch,
    pub(crate) message_bytes_max: usize,
    pub(crate) patience: Patience,
    pub(crate) counters: Counters,
}

impl Shared {
    pub(crate) fn new(options: &Options) -> Self {
        let config = SharedBudgetConfig {
            budget_bytes: options.receive_budget_bytes,
            // A message's length and the end mark beside it: the longest message must fit exactly.
            large_bytes: options.message_bytes_max as u64 + 64,
            ..SharedBudgetConfig::default()
        };
        let mut budget = SharedBudget::new(config);
        let caps =
            options.job_receive_budgets.iter().map(|(job, bytes)| (job.clone(), budget.add_cap(*bytes))).collect();
        Self {
            ready: Ready::default(),
            credit: CreditBook::new(Box::new(budget), caps),
            send_budget: SendBudget::new(options.send_budget_bytes),
            lingering: Lingering::default(),
            stalls: Stalls::new(options.stall_warn),
            subscribers: Subscribers::default(),
            draining: AtomicBool::new(false),
            done: Latch::default(),
            message_bytes_max: options.message_bytes_max,
            patience: Patience::new(options.patience, options.job_patiences.clone()),
            counters: Counters::default(),
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        // Once the link is gone, that is the reason why nothing new begins.
        self.draining.load(Ordering::Relaxed) && self.ready.ended().is_none()
    }

    /// Tells the credit policy, and the streams what follows from it. Call it with no lock held.
    pub(crate) fn tell(&self, stream: u64, news: Option<News>) {
        let Some(news) = news else { return };
        self.carry_out(self.credit.tell(stream, news));
    }

    /// Tells the credit policy that time has passed, if a stream waits. Call it with no lock held.
    pub(crate) fn pass_time(&self) {
        self.carry_out(self.credit.pass_time());
    }

    fn carry_out(&self, decisions: Vec<Decision>) {
        let mut decisions = VecDeque::from(decisions);
        while let Some(Decision { cell, verdict, number }) = decisions.pop_front() {
            if let Some(news) = cell.handle_verdict(self, verdict, number) {
                decisions.extend(self.credit.tell(cell.id, news));
            }
        }
    }
}

/// Locks. A thread that panicked under one of these locks left a state machine between two whole calls at worst, and the
/// others must still be able to end.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes, with no lock held.
pub(crate) fn wake(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        waker.wake();
    }
}
