//! Who listens to the attachment's events, and what waits for each.
//!
//! Nothing waits for a subscriber: one that does not listen loses the oldest events and is told how many.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use trunkline_proto::id::NodeId;

use super::{Ended, lock, wake};
use crate::{
    error::ErrorKind,
    event::{EVENTS_MAX, Event},
};

/// All subscribers of one attachment.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    state: Mutex<State>,
    /// Whether anybody listens: what is told to nobody need not be put together.
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Dropped subscriptions are forgotten when the next event is told.
    subscriptions: Vec<Weak<Subscription>>,
    /// The node drains, and aborts what is left then.
    drain_by: Option<Instant>,
    /// The link is lost, and is tried again.
    interrupted: Option<String>,
    /// The last event that there will be.
    last: Option<Event>,
}

impl Subscribers {
    /// A subscription that begins with the state of things.
    pub(crate) fn subscribe(&self, node: &NodeId, cluster: &str) -> Arc<Subscription> {
        let mut state = lock(&self.state);
        let subscription = Subscription::default();
        {
            let mut queue = subscription.lock();
            match &state.last {
                Some(last) => queue.end(last.clone()),
                None => {
                    queue.push(Event::Attached { node: node.clone(), cluster: cluster.to_owned() });
                    if let Some(why) = &state.interrupted {
                        queue.push(Event::Interrupted { why: why.clone() });
                    }
                    if let Some(by) = state.drain_by {
                        queue.push(Event::Draining { left: by.saturating_duration_since(Instant::now()) });
                    }
                }
            }
        }
        let subscription = Arc::new(subscription);
        if state.last.is_none() {
            state.subscriptions.retain(|other| other.strong_count() > 0);
            state.subscriptions.push(Arc::downgrade(&subscription));
            self.any.store(true, Ordering::Release);
        }
        subscription
    }

    /// Whether [`Subscribers::publish`] would reach anybody.
    pub(crate) fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Tells everyone who listens.
    pub(crate) fn publish(&self, event: impl Fn() -> Event) {
        if self.is_any() {
            self.tell(lock(&self.state), |queue| queue.push(event()));
        }
    }

    /// The link is lost, and is tried again.
    pub(crate) fn interrupt(&self, why: &str) {
        let mut state = lock(&self.state);
        state.drain_by = None;
        state.interrupted = Some(why.to_owned());
        self.tell(state, |queue| queue.push(Event::Interrupted { why: why.to_owned() }));
    }

    /// The link is there again.
    pub(crate) fn attach(&self, node: &NodeId, cluster: &str) {
        let mut state = lock(&self.state);
        state.interrupted = None;
        self.tell(state, |queue| queue.push(Event::Attached { node: node.clone(), cluster: cluster.to_owned() }));
    }

    /// The node takes nothing new; streams that exist may take so long to end.
    pub(crate) fn drain(&self, left: Duration) {
        let mut state = lock(&self.state);
        state.drain_by = Instant::now().checked_add(left);
        self.tell(state, |queue| queue.push(Event::Draining { left }));
    }

    /// The link has ended, and with it the events. Only the first time counts.
    pub(crate) fn end(&self, ended: &Ended) {
        let last = match ended {
            Ended::Closed => {
                Event::Detached { kind: ErrorKind::Closed, why: "the attachment was closed by this process".to_owned() }
            }
            Ended::NodeLost(why) => Event::Detached { kind: ErrorKind::NodeLost, why: why.to_string() },
        };
        let mut state = lock(&self.state);
        if state.last.is_none() {
            state.last = Some(last.clone());
            self.tell(state, |queue| queue.end(last.clone()));
        }
    }

    fn tell(&self, mut state: MutexGuard<'_, State>, tell: impl Fn(&mut Queue)) {
        let mut wakers = Vec::new();
        state.subscriptions.retain(|subscription| {
            let Some(subscription) = subscription.upgrade() else { return false };
            let mut queue = subscription.lock();
            tell(&mut queue);
            wakers.extend(queue.waker.take());
            true
        });
        if state.subscriptions.is_empty() {
            self.any.store(false, Ordering::Release);
        }
        drop(state);
        wake(wakers);
    }
}

/// What waits for one subscriber.
#[derive(Debug, Default)]
pub(crate) struct Subscription(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    /// Events that were dropped before those.
    missed: u64,
    /// Nothing will be added.
    ended: bool,
    waker: Option<Waker>,
}

impl Queue {
    fn push(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
            self.missed += 1;
        }
        self.events.push_back(event);
    }

    fn end(&mut self, last: Event) {
        self.push(last);
        self.ended = true;
    }
}

impl Subscription {
    /// The next event; `None` after the last.
    pub(crate) fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Event>> {
        let mut queue = self.lock();
        if queue.missed > 0 {
            return Poll::Ready(Some(Event::Missed(std::mem::take(&mut queue.missed))));
        }
        match queue.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if queue.ended => Poll::Ready(None),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.0)
    }
}
