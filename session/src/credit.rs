//! Who may send how much to one process: the policy behind every limit.

use std::collections::{HashMap, VecDeque};

use trunkline_proto::framing::LENGTH_BYTES_MAX;

/// What every stream may hold beside the budget: the longest length of a message. Whatever waits at the head of a
/// stream, its length is let in and so its size is known; from there on the pool can take it. This is why no stream
/// waits for ever, however small the budget is and however many idle streams hold it.
const HEAD_BYTES: u64 = LENGTH_BYTES_MAX as u64;

/// A stream may now be sent up to `limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Which stream.
    pub stream: u64,
    /// An offset.
    pub limit: u64,
}

/// The sending side of a stream is asked to give back what it was granted beyond `limit` and has not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reclaim {
    /// Which stream.
    pub stream: u64,
    /// An offset.
    pub limit: u64,
}

/// Decides how far each stream that shares one budget may be sent: all those of a consuming process, or those that wait
/// in a node for one connection (docs/adr/0010).
///
/// Tell it what happens, then drain [`CreditPolicy::poll_grant`] and [`CreditPolicy::poll_reclaim`] until they return
/// `None`: news of one stream may bring grants for others.
pub trait CreditPolicy: Send {
    /// A stream is accepted. Returns its first limit. With a `cap`, what it holds counts against that too.
    fn open(&mut self, stream: u64, cap: Option<Cap>) -> u64;

    /// The stream may not be granted anything beyond `ceiling`, an offset, for another reason than the budget. Without a
    /// word of it there is no ceiling. When it falls below what the stream was granted, that is reclaimed.
    fn ceiling(&mut self, stream: u64, ceiling: u64);

    /// The sending side has answered a [`Reclaim`]: it will not pass `limit` without a new grant.
    fn limited(&mut self, stream: u64, limit: u64);

    /// The application has consumed `stream` up to the offset `consumed`.
    fn consumed(&mut self, stream: u64, consumed: u64);

    /// The sender has bytes up to the offset `wanted` and no credit for them.
    fn wanted(&mut self, stream: u64, wanted: u64);

    /// Everything before the message at the head is consumed, up to `consumed`; that message ends at `end`, beyond the
    /// limit. It can be consumed only as a whole, so it must be let in as a whole.
    fn message(&mut self, stream: u64, consumed: u64, end: u64);

    /// The stream has ended and nothing of it is held any more. What it held is free.
    fn close(&mut self, stream: u64);

    /// The next grant that follows from what the policy was told.
    fn poll_grant(&mut self) -> Option<Grant>;

    /// The next stream whose sending side is to be asked to give credit back. It is granted nothing until
    /// [`CreditPolicy::limited`] is told, and is not asked again before that.
    fn poll_reclaim(&mut self) -> Option<Reclaim>;
}

/// A bound, within a budget, on what some of its streams hold together: those of one job, say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cap(usize);

/// The sizes of [`SharedBudget`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedBudgetConfig {
    /// What all streams of the process may hold together, messages in the pool below apart, and apart from four bytes
    /// that each stream may always hold: the length of its next message.
    pub budget_bytes: u64,
    /// What a stream is given at first, and the least that a turn gives while the budget lasts.
    pub initial_bytes: u64,
    /// The most that one stream's window grows to.
    pub stream_bytes_max: u64,
    /// What messages longer than their stream's window may hold together; at least the longest message and the four
    /// bytes of its length. A message that is longer than this is never let in.
    pub large_bytes: u64,
}

impl Default for SharedBudgetConfig {
    fn default() -> Self {
        Self {
            budget_bytes: 256 << 20,
            initial_bytes: 16 << 10,
            stream_bytes_max: 1 << 20,
            // The longest message, its length, and slack: one that exactly fits must not wait for ever.
            large_bytes: (64 << 20) + 64,
        }
    }
}

#[derive(Debug)]
struct Stream {
    /// Nothing beyond it is granted, whatever the budget has.
    ceiling: u64,
    consumed: u64,
    limit: u64,
    window: u64,
    wanted: u64,
    /// A message that reaches beyond what the budget gives.
    large: Option<Large>,
    /// In `hungry`.
    queued: bool,
}

#[derive(Debug, Clone, Copy)]
struct Large {
    /// The offset at which the message ends.
    end: u64,
    /// Bytes held in the pool; 0 while it waits for them.
    reserved: u64,
}

impl Stream {
    fn new(window: u64) -> Self {
        Self { ceiling: u64::MAX, consumed: 0, limit: 0, window, wanted: 0, large: None, queued: false }
    }

    fn is_in_pool(&self) -> bool {
        self.large.is_some_and(|large| large.reserved > 0)
    }

    /// What the stream holds of the budget.
    fn charge(&self) -> u64 {
        // In the pool, the reservation answers for everything that the stream may hold.
        if self.is_in_pool() { 0 } else { (self.limit - self.consumed).saturating_sub(HEAD_BYTES) }
    }

    /// Up to where a turn lets it be sent.
    fn turn(&self, initial_bytes: u64) -> u64 {
        self.consumed.saturating_add(self.window.min(initial_bytes).max(HEAD_BYTES))
    }
}

/// Every stream gets a small window, which doubles while its application keeps up, out of one budget.
///
/// Windows grow within half of the budget, and a stream whose sender does not ask is given a first window within three
/// quarters. The rest is for those that ask, in turn: streams that grew early, or idle, cannot keep later ones out. A
/// message that does not fit waits its turn for the pool.
#[derive(Debug)]
pub struct SharedBudget {
    config: SharedBudgetConfig,
    streams: HashMap<u64, Stream>,
    /// The sum of what all streams hold of the budget.
    committed: u64,
    /// Free bytes of the pool.
    large_free: u64,
    /// Streams that want more and have less than a turn gives, in the order in which they came to.
    hungry: VecDeque<u64>,
    /// Streams that wait for the pool, first come, first served.
    waiting_large: VecDeque<u64>,
    grants: VecDeque<Grant>,
}

impl SharedBudget {
    /// A policy for one process.
    #[must_use]
    pub fn new(config: SharedBudgetConfig) -> Self {
        Self {
            config,
            streams: HashMap::new(),
            committed: 0,
            large_free: config.large_bytes,
            hungry: VecDeque::new(),
            waiting_large: VecDeque::new(),
            grants: VecDeque::new(),
        }
    }

    /// Bytes that senders may have in flight or the process may hold: in windows, in the pool, and four a stream.
    #[must_use]
    pub fn outstanding_bytes(&self) -> u64 {
        self.committed + (self.config.large_bytes - self.large_free) + HEAD_BYTES * self.streams.len() as u64
    }

    /// Changes a stream and keeps `committed` true.
    fn update(&mut self, stream: u64, change: impl FnOnce(&mut Stream)) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        let before = entry.charge();
        change(entry);
        self.committed = self.committed - before + entry.charge();
    }

    /// Raises a stream's limit to `target`, or as far as `ceiling` on the sum allows.
    fn raise(&mut self, stream: u64, target: u64, ceiling: u64) {
        let free = ceiling.saturating_sub(self.committed);
        let Some(entry) = self.streams.get(&stream) else { return };
        let most = entry.consumed.saturating_add(HEAD_BYTES + entry.charge()).saturating_add(free);
        let limit = target.min(most).min(entry.ceiling);
        if limit > entry.limit {
            self.update(stream, |entry| entry.limit = limit);
            self.grants.push_back(Grant { stream, limit });
        }
    }

    /// Gives `stream` what its window asks for; queues it when it wants more and has less than a turn gives.
    fn serve(&mut self, stream: u64) {
        let SharedBudgetConfig { budget_bytes, initial_bytes, .. } = self.config;
        let Some(entry) = self.streams.get(&stream) else { return };
        if entry.is_in_pool() {
            return;
        }
        let turn = entry.turn(initial_bytes);
        let full = entry.consumed.saturating_add(entry.window);
        let wants = entry.wanted > entry.limit;
        self.raise(stream, turn, if wants { budget_bytes } else { budget_bytes - budget_bytes / 4 });
        self.raise(stream, full, budget_bytes / 2);
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        if entry.wanted > entry.limit && entry.limit < turn && !std::mem::replace(&mut entry.queued, true) {
            self.hungry.push_back(stream);
        }
    }

    /// Serves those who wait, as far as what is free allows.
    fn redistribute(&mut self) {
        // The pool first: a stream that enters it gives its window back to the others.
        while let Some(&stream) = self.waiting_large.front() {
            if !self.reserve(stream) {
                break;
            }
            self.waiting_large.pop_front();
        }
        while self.committed < self.config.budget_bytes {
            let Some(stream) = self.hungry.pop_front() else { break };
            if let Some(entry) = self.streams.get_mut(&stream) {
                entry.queued = false;
                self.serve(stream);
            }
        }
    }

    /// Moves a stream into the pool; false while it must wait.
    fn reserve(&mut self, stream: u64) -> bool {
        let Some(entry) = self.streams.get_mut(&stream) else { return true };
        let Some(Large { end, reserved: 0 }) = entry.large else { return true };
        if end <= entry.limit {
            // Its window has grown to it meanwhile.
            entry.large = None;
            return true;
        }
        let reserved = end - entry.consumed;
        if reserved > self.config.large_bytes {
            // It never fits: let it wait alone.
            return true;
        }
        if reserved > self.large_free {
            return false;
        }
        self.large_free -= reserved;
        self.update(stream, |entry| {
            entry.large = Some(Large { end, reserved });
            entry.limit = end;
        });
        self.grants.push_back(Grant { stream, limit: end });
        true
    }
}

impl CreditPolicy for SharedBudget {
    fn open(&mut self, stream: u64, _cap: Option<Cap>) -> u64 {
        self.close(stream);
        self.streams.insert(stream, Stream::new(self.config.initial_bytes));
        self.serve(stream);
        // The first limit travels in ACCEPT, not as a grant.
        self.grants.retain(|grant| grant.stream != stream);
        self.streams.get(&stream).map_or(0, |entry| entry.limit)
    }

    fn ceiling(&mut self, stream: u64, ceiling: u64) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.ceiling = ceiling;
            self.serve(stream);
        }
    }

    fn limited(&mut self, stream: u64, limit: u64) {
        self.update(stream, |entry| entry.limit = entry.limit.min(limit.max(entry.consumed)));
        self.redistribute();
    }

    fn consumed(&mut self, stream: u64, consumed: u64) {
        let stream_bytes_max = self.config.stream_bytes_max;
        let mut released = 0;
        self.update(stream, |entry| {
            let consumed = consumed.clamp(entry.consumed, entry.limit);
            let has_progressed = consumed > entry.consumed;
            entry.consumed = consumed;
            // A message leaves the pool as a whole. The limit stands at its end: the stream then holds nothing.
            if let Some(large) = entry.large.take_if(|large| consumed >= large.end) {
                released = large.reserved;
            }
            // It used up most of its window and its application keeps up: let it have twice as much.
            let has_used_most = entry.wanted > entry.limit || entry.limit - consumed <= entry.window / 2;
            if has_progressed && has_used_most {
                entry.window = entry.window.saturating_mul(2).min(stream_bytes_max).max(entry.window);
            }
        });
        self.large_free += released;
        self.redistribute();
        self.serve(stream);
    }

    fn wanted(&mut self, stream: u64, wanted: u64) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        entry.wanted = entry.wanted.max(wanted);
        self.serve(stream);
    }

    fn message(&mut self, stream: u64, consumed: u64, end: u64) {
        self.consumed(stream, consumed);
        let half = self.config.budget_bytes / 2;
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        if end <= entry.limit || entry.large.is_some() {
            return;
        }
        let needed = end - entry.consumed;
        if needed <= self.config.stream_bytes_max && self.committed + (end - entry.limit) <= half {
            self.raise(stream, end, half);
            return;
        }
        entry.large = Some(Large { end, reserved: 0 });
        self.waiting_large.push_back(stream);
        self.redistribute();
    }

    fn close(&mut self, stream: u64) {
        let Some(entry) = self.streams.remove(&stream) else { return };
        self.committed -= entry.charge();
        self.large_free += entry.large.map_or(0, |large| large.reserved);
        self.grants.retain(|grant| grant.stream != stream);
        self.redistribute();
    }

    fn poll_grant(&mut self) -> Option<Grant> {
        self.grants.pop_front()
    }

    fn poll_reclaim(&mut self) -> Option<Reclaim> {
        None
    }
}
