//! All relays of a node.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
    rc::Rc,
};

use tokio::sync::Notify;
use trunkline_proto::{id::Incarnation, message::Open};

use super::{End, Relay, Tombstones, names::Names, state::State, ticks::Ticks};

/// All relays of a node.
pub(crate) struct Relays {
    live: RefCell<BTreeMap<u64, Rc<Relay>>>,
    /// Those that exist: also such as have ended and wait for someone to be told.
    existing: Cell<usize>,
    next: Cell<u64>,
    names: RefCell<Names>,
    emptied: Notify,
    ticks: Rc<Ticks>,
    tombstones: RefCell<Tombstones>,
    /// Streams of producers that are gone, which the node is to take up, or to keep, for a while.
    orphans: RefCell<VecDeque<Rc<Relay>>>,
    orphaned: Notify,
}

impl Relays {
    /// No streams yet. Of those whose consumers will be gone, the ends are kept in `tombstones`.
    pub(crate) fn new(tombstones: Tombstones) -> Rc<Self> {
        Rc::new(Self {
            live: RefCell::default(),
            existing: Cell::default(),
            next: Cell::default(),
            names: RefCell::default(),
            emptied: Notify::default(),
            ticks: Rc::default(),
            tombstones: RefCell::new(tombstones),
            orphans: RefCell::default(),
            orphaned: Notify::default(),
        })
    }

    /// How streams ended whose consumers are gone.
    pub(crate) fn tombstones(&self) -> &RefCell<Tombstones> {
        &self.tombstones
    }

    /// A stream of a producer that is gone is still to be ended at its consumer.
    pub(super) fn tell_orphan(&self, orphan: Rc<Relay>) {
        self.orphans.borrow_mut().push_back(orphan);
        self.orphaned.notify_one();
    }

    /// The next orphan. Cancel-safe; one waiter only.
    pub(crate) async fn orphan(&self) -> Rc<Relay> {
        loop {
            let next = self.orphans.borrow_mut().pop_front();
            match next {
                Some(orphan) => return orphan,
                None => self.orphaned.notified().await,
            }
        }
    }

    /// What is to hear that time passes.
    pub(crate) fn ticks(&self) -> &Rc<Ticks> {
        &self.ticks
    }

    /// Makes a relay of a stream that came in on `up`, from the local `process` of that number if it has one. With `resume`,
    /// the stream is not opened but taken up again, with that life of its consumer.
    pub(crate) fn add(
        self: &Rc<Self>,
        open: Open,
        resume: Option<Incarnation>,
        up: End,
        process: Option<u64>,
    ) -> Rc<Relay> {
        let number = self.next.get() + 1;
        self.next.set(number);
        self.existing.set(self.existing.get() + 1);
        let (outlet, stream) = (Rc::clone(&up.outlet), up.stream);
        let state = RefCell::new(State::new(up, open.epoch));
        let open = self.names.borrow_mut().share(open);
        let relay = Rc::new(Relay { number, process, open, resume, relays: Rc::downgrade(self), state });
        if let Some(stream) = stream {
            outlet.register(stream, Rc::clone(&relay));
        }
        self.live.borrow_mut().insert(number, Rc::clone(&relay));
        relay
    }

    /// How many streams are in transit.
    pub(crate) fn count(&self) -> usize {
        self.live.borrow().len()
    }

    /// How many take up memory: those in transit, and those that have ended and of which someone is still to be told.
    pub(crate) fn existing(&self) -> usize {
        self.existing.get()
    }

    /// All in transit, oldest first.
    pub(crate) fn all(&self) -> Vec<Rc<Relay>> {
        self.live.borrow().values().cloned().collect()
    }

    /// The number of the youngest that ever was; 0 before the first.
    pub(crate) fn youngest(&self) -> u64 {
        self.next.get()
    }

    /// The oldest of those in transit whose numbers lie in `numbers`, `max` at most, by number.
    pub(crate) fn some(&self, numbers: RangeInclusive<u64>, max: usize) -> Vec<Rc<Relay>> {
        self.live.borrow().range(numbers).take(max).map(|(_, relay)| Rc::clone(relay)).collect()
    }

    /// Waits until there is none. Cancel-safe; one waiter only.
    pub(crate) async fn empty(&self) {
        while self.count() > 0 {
            self.emptied.notified().await;
        }
    }

    /// A stream has ended: it is no longer in transit.
    pub(super) fn remove(&self, number: u64) {
        let mut live = self.live.borrow_mut();
        live.remove(&number);
        if live.is_empty() {
            self.emptied.notify_one();
        }
    }

    /// Nobody holds the relay any more.
    pub(super) fn forget(&self, open: &Open) {
        self.names.borrow_mut().release(open);
        self.existing.set(self.existing.get() - 1);
    }
}
