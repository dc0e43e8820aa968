//! Who dials, who waits, which connection is the trunk: one plain machine per peer, told the time and asked what to do.
//!
//! Both nodes run it, and it brings them to one connection also when both dial at the same instant. A dialler says HELLO
//! at once and uses its connection only after the other side's HELLO; so the other side decides. When its own dial is
//! under way, the dial of the smaller node id wins. The larger takes the incoming connection and gives its own up. The
//! smaller leaves the incoming one unanswered until its own dial is answered, fails, or has had its time.
//!
//! What crossed may arrive late. So every HELLO says how many dials its sender has begun: a connection with a number up
//! to that was begun before, and is refused. Any other is newer than the trunk, and becomes the trunk.
//!
//! A trunk that is silent though it owes an answer is *raced*: another is dialled while it still stands. Whichever speaks
//! first is the trunk; QUIC's own timers, which double, may sleep for longer than the path was dark.

use std::time::{Duration, Instant};

use trunkline_proto::{id::NodeId, message::TrunkHello};

/// How long an incoming connection may wait for a dial of ours that would win.
const HOLD: Duration = Duration::from_secs(1);
/// The first pause after a failed dial.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);

/// The caller's name for a connection.
pub(crate) type Token = u64;

/// What the caller is to do, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Begin a dial with this number. Exactly one of `answered` and `failed` is to follow, unless it is abandoned.
    Dial { number: u64 },
    /// Give the dial under way up. Nothing more is to be said of it.
    Abandon,
    /// Answer this incoming connection's HELLO: it is the trunk. One that was before takes no more streams.
    Take(Token),
    /// Close this connection: another is the trunk.
    Refuse(Token),
    /// Call `tick` then.
    TickAt(Instant),
}

#[derive(Debug)]
struct Trunk {
    token: Token,
    boot_id: u64,
    /// Dials of the peer up to this number were begun before the trunk was agreed.
    dials_begun: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Dialler {
    /// Whether the peer's dial wins over ours when they cross.
    peer_wins: bool,
    /// Whether we know where to dial.
    dialable: bool,
    backoff_max: Duration,
    dials_begun: u64,
    dialling: bool,
    /// The dial under way races the trunk, which is silent.
    racing: bool,
    /// Streams wait for the trunk.
    wanted: bool,
    failures: u32,
    /// No dial before this.
    not_before: Option<Instant>,
    held: Option<(Token, TrunkHello, Instant)>,
    trunk: Option<Trunk>,
}

impl Dialler {
    pub(crate) fn new(ours: &NodeId, peer: &NodeId, dialable: bool, backoff_max: Duration) -> Self {
        Self {
            peer_wins: peer < ours,
            dialable,
            backoff_max,
            dials_begun: 0,
            dialling: false,
            racing: false,
            wanted: false,
            failures: 0,
            not_before: None,
            held: None,
            trunk: None,
        }
    }

    /// How many dials have begun: for our HELLO.
    pub(crate) fn dials_begun(&self) -> u64 {
        self.dials_begun
    }

    /// The connection that is the trunk.
    pub(crate) fn trunk(&self) -> Option<Token> {
        self.trunk.as_ref().map(|trunk| trunk.token)
    }

    /// Whether forgetting this machine loses nothing: no connection, no dial, no wish.
    pub(crate) fn is_idle(&self) -> bool {
        self.trunk.is_none() && !self.dialling && self.held.is_none() && !self.wanted
    }

    /// Streams wait for the trunk, or none does any more.
    pub(crate) fn want(&mut self, wanted: bool, now: Instant) -> Vec<Action> {
        self.wanted = wanted;
        self.dial(now)
    }

    /// The trunk is silent though it owes an answer: it is raced, unless that was tried just now. To be said again for as long
    /// as it is.
    pub(crate) fn suspect(&mut self, now: Instant) -> Vec<Action> {
        let pauses = self.not_before.is_some_and(|not_before| now < not_before);
        if self.trunk.is_none() || !self.dialable || self.dialling || self.held.is_some() || pauses {
            return Vec::new();
        }
        self.racing = true;
        self.begin_dial()
    }

    /// The trunk speaks: there is nothing to race for.
    pub(crate) fn trust(&mut self) -> Vec<Action> {
        if !std::mem::take(&mut self.racing) {
            return Vec::new();
        }
        self.failures = 0;
        self.not_before = None;
        // An incoming connection that waits for this dial is the peer's wish, and is taken in its time.
        if self.held.is_none() && std::mem::take(&mut self.dialling) { vec![Action::Abandon] } else { Vec::new() }
    }

    /// Whether a trunk that is silent is being raced.
    pub(crate) fn is_racing(&self) -> bool {
        self.racing
    }

    /// The peer answered our dial: that connection is the trunk.
    pub(crate) fn answered(&mut self, token: Token, hello: &TrunkHello, now: Instant) -> Vec<Action> {
        self.dialling = false;
        self.racing = false;
        self.failures = 0;
        self.not_before = None;
        self.trunk = Some(Trunk { token, boot_id: hello.boot_id, dials_begun: hello.dials_begun });
        match self.held.take() {
            Some((held, hello, _)) => self.incoming(held, hello, now),
            None => Vec::new(),
        }
    }

    /// Our dial failed. `jitter` in 0..1 spreads the next one.
    pub(crate) fn failed(&mut self, now: Instant, jitter: f64) -> Vec<Action> {
        self.dialling = false;
        let pause = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16)).min(self.backoff_max);
        self.failures += 1;
        self.not_before = Some(now + pause.mul_f64(0.5 + jitter / 2.0));
        match self.held.take() {
            Some((held, hello, _)) => self.take(held, &hello),
            None => self.dial(now),
        }
    }

    /// The peer dialled and said HELLO.
    pub(crate) fn incoming(&mut self, token: Token, hello: TrunkHello, now: Instant) -> Vec<Action> {
        if let Some(trunk) = &self.trunk {
            let crossed = hello.boot_id == trunk.boot_id && hello.dial <= trunk.dials_begun;
            if crossed {
                return vec![Action::Refuse(token)];
            }
            if !self.dialling {
                return self.take(token, &hello);
            }
        }
        if !self.dialling {
            return self.take(token, &hello);
        }
        if self.peer_wins {
            self.dialling = false;
            let mut actions = vec![Action::Abandon];
            actions.extend(self.take(token, &hello));
            return actions;
        }
        let mut actions = Vec::new();
        if let Some((older, ..)) = self.held.replace((token, hello, now + HOLD)) {
            actions.push(Action::Refuse(older));
        }
        actions.push(Action::TickAt(now + HOLD));
        actions
    }

    /// A connection is gone, whichever it was.
    pub(crate) fn lost(&mut self, token: Token, now: Instant) -> Vec<Action> {
        if self.held.as_ref().is_some_and(|(held, ..)| *held == token) {
            self.held = None;
        }
        if self.trunk.as_ref().is_some_and(|trunk| trunk.token == token) {
            self.trunk = None;
            self.racing = false;
        }
        self.dial(now)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Action> {
        if self.held.as_ref().is_some_and(|(.., until)| *until <= now)
            && let Some((held, hello, _)) = self.held.take()
        {
            let mut actions = Vec::new();
            if std::mem::take(&mut self.dialling) {
                actions.push(Action::Abandon);
            }
            actions.extend(self.take(held, &hello));
            return actions;
        }
        self.dial(now)
    }

    fn take(&mut self, token: Token, hello: &TrunkHello) -> Vec<Action> {
        self.failures = 0;
        self.not_before = None;
        self.racing = false;
        self.trunk = Some(Trunk { token, boot_id: hello.boot_id, dials_begun: hello.dials_begun.max(hello.dial) });
        vec![Action::Take(token)]
    }

    fn dial(&mut self, now: Instant) -> Vec<Action> {
        if !self.wanted || !self.dialable || self.dialling || self.trunk.is_some() || self.held.is_some() {
            return Vec::new();
        }
        if let Some(not_before) = self.not_before.filter(|&not_before| now < not_before) {
            return vec![Action::TickAt(not_before)];
        }
        self.begin_dial()
    }

    fn begin_dial(&mut self) -> Vec<Action> {
        self.dialling = true;
        self.dials_begun += 1;
        vec![Action::Dial { number: self.dials_begun }]
    }
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
