//! A budget for what waits in this node on the way to one connection, and the relays that share it.
//!
//! A process that does not read, or a trunk that is slow or down, makes bytes wait here. How many is decided by a
//! [`CreditPolicy`], the same as in a consumer's process (docs/adr/0010): *granted* is what the upper side may send,
//! *consumed* what was passed on. So what a node can hold is a sum over processes and trunks, not over streams.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::{Rc, Weak},
};

use hashbrown::HashMap;
use trunkline_session::{CreditPolicy, Grant, Reclaim, SharedBudget, SharedBudgetConfig};

use super::{Relay, ticks::Ticks};

/// See the module.
pub(crate) struct Pool {
    policy: RefCell<Box<dyn CreditPolicy>>,
    /// By relay number, which names them to the policy too.
    relays: RefCell<HashMap<u64, Weak<Relay>>>,
    me: Weak<Self>,
    /// Where it is entered while somebody waits; known from its relays.
    ticks: RefCell<Weak<Ticks>>,
    is_entered: Cell<bool>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("relays", &self.relays.borrow().len()).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `budget_bytes`, of which one stream is granted `stream_bytes_max` at most ahead of what was passed on.
    pub(crate) fn shared(budget_bytes: u64, stream_bytes_max: u64) -> Rc<Self> {
        let default = SharedBudgetConfig::default();
        Self::new(Box::new(SharedBudget::for_relays(SharedBudgetConfig {
            budget_bytes,
            stream_bytes_max: stream_bytes_max.min(default.stream_bytes_max),
            ..default
        })))
    }

    pub(super) fn new(policy: Box<dyn CreditPolicy>) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            policy: RefCell::new(policy),
            relays: RefCell::default(),
            me: Weak::clone(me),
            ticks: RefCell::default(),
            is_entered: Cell::new(false),
        })
    }

    /// A relay's consumer has answered: it holds the stream up to `received`, and allows so much. Returns what the relay is
    /// granted at first.
    pub(super) fn join(&self, relay: &Rc<Relay>, received: u64, allowed: u64) -> u64 {
        self.relays.borrow_mut().insert(relay.number, Rc::downgrade(relay));
        if let Some(relays) = relay.relays.upgrade() {
            *self.ticks.borrow_mut() = Rc::downgrade(relays.ticks());
        }
        let mut policy = self.policy.borrow_mut();
        let granted = policy.open_at(relay.number, received, None);
        policy.ceiling(relay.number, allowed);
        granted
    }

    /// A relay holds nothing any more, and needs nothing.
    pub(super) fn leave(&self, number: u64) {
        if self.relays.borrow_mut().remove(&number).is_some() {
            self.tell(|policy| policy.close(number));
        }
    }

    /// Tells the policy what happens, and the relays what follows. No relay's state may be borrowed meanwhile.
    pub(super) fn tell(&self, news: impl FnOnce(&mut dyn CreditPolicy)) {
        news(&mut **self.policy.borrow_mut());
        loop {
            // Each in a statement of its own: a relay that is told marks itself at an outlet, and no policy is borrowed.
            let grant = self.policy.borrow_mut().poll_grant();
            if let Some(Grant { stream, limit }) = grant {
                if let Some(relay) = self.relay(stream) {
                    relay.granted(limit);
                }
                continue;
            }
            let reclaim = self.policy.borrow_mut().poll_reclaim();
            let Some(Reclaim { stream, limit }) = reclaim else { break };
            if let Some(relay) = self.relay(stream)
                && let Some(kept) = relay.asked_back(limit)
            {
                self.policy.borrow_mut().limited(stream, kept);
            }
        }
        if self.policy.borrow().is_waited_for()
            && let Some(ticks) = self.ticks.borrow().upgrade()
            && !self.is_entered.replace(true)
        {
            ticks.enter(Weak::clone(&self.me));
        }
    }

    /// Whether somebody waits for a turn.
    pub(super) fn is_waited_for(&self) -> bool {
        self.policy.borrow().is_waited_for()
    }

    /// Some time has passed in which somebody waited.
    pub(super) fn pass_time(&self) {
        self.is_entered.set(false);
        self.tell(|policy| policy.pass_time());
    }

    fn relay(&self, number: u64) -> Option<Rc<Relay>> {
        self.relays.borrow().get(&number).and_then(Weak::upgrade)
    }
}
