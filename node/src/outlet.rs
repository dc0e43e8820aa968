//! One connection's streams, and what waits to be written to it: a local link or a trunk, the same for both.
//!
//! Relays put themselves in here; the connection's one writer takes them out. Control is ahead of data, and towards a
//! connection it is state, not a queue: a relay stands in here at most once for each purpose, however often its state
//! changed. So what waits is bounded by the number of streams.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use hashbrown::HashMap;
use tokio::sync::Notify;
use trunkline_proto::{frame::Frame, id::JobId};
use trunkline_session::{Schedule, Turn};

use crate::relay::{Relay, Side};

/// Frames about the connection as a whole that may wait. They answer what its other side asked: one that asks so much
/// and reads so little is given up.
const FRAMES_MAX: usize = 8192;

/// What a writer is to write next.
pub(crate) enum Next {
    /// A frame about the connection itself.
    Frame(Frame),
    /// A relay has news for this connection, which is its end on that side.
    News(Rc<Relay>, Side),
    /// A relay has data, and its turn to send some.
    Data(Turn<Rc<Relay>>),
}

/// News of streams that have ended are looked through for what is moot once there are so many.
const NEWS_MIN: usize = 1024;

/// What kind of connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A process is attached by it.
    Link,
    /// It leads to a peer. Its writer holds something for each stream, which it lets go when it hears that it is over.
    Trunk,
}

/// See the module.
pub(crate) struct Outlet {
    kind: Kind,
    streams: RefCell<HashMap<u64, Rc<Relay>>>,
    frames: RefCell<VecDeque<Frame>>,
    news: RefCell<VecDeque<(Rc<Relay>, Side)>>,
    /// At how many news the moot ones are thrown out next.
    news_look_at: Cell<usize>,
    data: RefCell<Schedule<JobId, Rc<Relay>>>,
    wake: Notify,
    closed: Cell<bool>,
    overrun: Cell<bool>,
}

impl Outlet {
    pub(crate) fn new(kind: Kind) -> Rc<Self> {
        Rc::new(Self {
            kind,
            streams: RefCell::default(),
            frames: RefCell::default(),
            news: RefCell::default(),
            news_look_at: Cell::new(NEWS_MIN),
            data: RefCell::default(),
            wake: Notify::new(),
            closed: Cell::new(false),
            overrun: Cell::new(false),
        })
    }

    /// What kind of connection it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The relay of a stream id on this connection.
    pub(crate) fn stream(&self, stream: u64) -> Option<Rc<Relay>> {
        self.streams.borrow().get(&stream).cloned()
    }

    /// The relays of all streams that have an id here.
    pub(crate) fn streams(&self) -> Vec<Rc<Relay>> {
        self.streams.borrow().values().cloned().collect()
    }

    /// How many streams the connection carries.
    pub(crate) fn streams_count(&self) -> usize {
        self.streams.borrow().len()
    }

    /// Ties a stream id of this connection to its relay.
    pub(crate) fn register(&self, stream: u64, relay: Rc<Relay>) {
        if !self.closed.get() {
            self.streams.borrow_mut().insert(stream, relay);
        }
    }

    /// Frames for this stream id are no longer of interest.
    pub(crate) fn forget(&self, stream: u64) {
        self.streams.borrow_mut().remove(&stream);
    }

    /// Whether the connection is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Queues a frame about the connection itself. When too many wait, it is dropped, and the outlet is overrun.
    pub(crate) fn push_frame(&self, frame: impl Into<Frame>) {
        let mut frames = self.frames.borrow_mut();
        if frames.len() >= FRAMES_MAX {
            self.overrun.set(true);
        } else if !self.closed.get() {
            frames.push_back(frame.into());
            self.wake.notify_one();
        }
    }

    /// Whether a frame was dropped because too many waited: the connection cannot go on.
    pub(crate) fn is_overrun(&self) -> bool {
        self.overrun.get()
    }

    /// A relay has news for this connection. The relay sees to it that it is in here once.
    pub(crate) fn push_news(&self, relay: Rc<Relay>, side: Side) {
        if self.closed.get() {
            return;
        }
        let mut news = self.news.borrow_mut();
        news.push_back((relay, side));
        self.wake.notify_one();
        if news.len() >= self.news_look_at.get() {
            // Streams that came and went while the connection was not writable: nobody heard of them, nobody need.
            news.retain(|(relay, side)| !relay.is_moot(*side));
            self.news_look_at.set(NEWS_MIN.max(2 * news.len()));
        }
    }

    /// A relay that had no data has some. The relay sees to it that it is in here once.
    pub(crate) fn push_data(&self, relay: &Rc<Relay>) {
        if !self.closed.get() {
            self.data.borrow_mut().activate(&relay.open.job, relay.open.weight, Rc::clone(relay));
            self.wake.notify_one();
        }
    }

    /// What to write next, control first.
    pub(crate) fn next(&self) -> Option<Next> {
        if let Some(control) = self.next_control() {
            return Some(control);
        }
        self.data.borrow_mut().next_turn().map(Next::Data)
    }

    /// What to write next of control alone.
    pub(crate) fn next_control(&self) -> Option<Next> {
        if let Some(frame) = self.frames.borrow_mut().pop_front() {
            return Some(Next::Frame(frame));
        }
        let (relay, side) = self.news.borrow_mut().pop_front()?;
        Some(Next::News(relay, side))
    }

    /// Whether control waits.
    pub(crate) fn has_control(&self) -> bool {
        !self.frames.borrow().is_empty() || !self.news.borrow().is_empty()
    }

    /// A relay was served `bytes` of its turn and `has_more`.
    pub(crate) fn served(&self, relay: &Rc<Relay>, bytes: usize, has_more: bool) {
        let mut data = self.data.borrow_mut();
        data.served(&relay.open.job, bytes);
        if has_more && !self.closed.get() {
            data.requeue(&relay.open.job, relay.open.weight, Rc::clone(relay));
        }
    }

    /// Waits until something may have been put in. Cancel-safe; one waiter only.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Ends a wait for changes, though there is none.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// The connection is gone: drops what waits, takes nothing more, and returns the relays that were on it, or were to
    /// be. One may be returned twice.
    pub(crate) fn close(&self) -> Vec<Rc<Relay>> {
        self.closed.set(true);
        self.frames.borrow_mut().clear();
        self.data.borrow_mut().clear();
        let mut relays: Vec<_> = self.streams.borrow_mut().drain().map(|(_, relay)| relay).collect();
        // A stream that has no id here yet is known by its news alone.
        relays.extend(self.news.borrow_mut().drain(..).map(|(relay, _)| relay));
        relays
    }
}
