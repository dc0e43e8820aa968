//! Who may send how much to one process: the policy behind every limit.

use std::collections::{HashMap, VecDeque};

/// A stream may now be sent up to `limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Which stream.
    pub stream: u64,
    /// An offset.
    pub limit: u64,
}

/// Decides how far each stream of one consuming process may be sent.
///
/// Tell it what happens, then drain [`CreditPolicy::poll_grant`] until it returns `None`: news of one stream may bring
/// grants for others.
pub trait CreditPolicy: Send {
    /// A stream is accepted. Returns its first limit.
    fn open(&mut self, stream: u64) -> u64;

    /// The application has consumed `stream` up to the offset `consumed`.
    fn consumed(&mut self, stream: u64, consumed: u64);

    /// The sender has bytes up to the offset `wanted` and no credit for them.
    fn wanted(&mut self, stream: u64, wanted: u64);

    /// Everything before the message at the head is consumed, up to `consumed`; that message ends at `end`, beyond the
    /// limit. It can be consumed only as a whole, so it must be let in as a whole.
    fn message(&mut self, stream: u64, consumed: u64, end: u64);

    /// The stream has ended. What it held is free.
    fn close(&mut self, stream: u64);

    /// The next grant that follows from what the policy was told.
    fn poll_grant(&mut self) -> Option<Grant>;
}

/// The sizes of [`SharedBudget`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedBudgetConfig {
    /// What all streams of the process may hold together, messages in the pool below apart.
    pub budget_bytes: u64,
    /// What a stream is given at first, and the least that a turn gives while the budget lasts.
    pub initial_bytes: u64,
    /// The most that one stream's window grows to.
    pub stream_bytes_max: u64,
    /// What messages longer than their stream's window may hold together; at least the longest message.
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

#[derive(Debug, Default)]
struct Stream {
    consumed: u64,
    limit: u64,
    window: u64,
    wanted: u64,
    /// The end of a message that reaches beyond what the budget gives.
    large: Option<Large>,
    /// In `hungry`.
    queued: bool,
}

#[derive(Debug, Clone, Copy)]
struct Large {
    end: u64,
    /// Bytes held in the pool; 0 while it waits for them.
    reserved: u64,
}

/// Every stream gets a small window, which doubles while its application keeps up, out of one budget.
///
/// Half of the budget is kept for first windows, so that streams which grew early cannot keep later ones out. A stream
/// that could not be given its first window waits its turn; so does a message that needs the pool.
#[derive(Debug)]
pub struct SharedBudget {
    config: SharedBudgetConfig,
    streams: HashMap<u64, Stream>,
    /// The sum of `limit - consumed` of all streams without a pool reservation.
    committed: u64,
    /// Free bytes of the pool.
    large_free: u64,
    /// Streams with less than a first window, in the order in which they came to want more.
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

    /// Bytes that senders may have in flight or the process may hold, in windows and in the pool.
    #[must_use]
    pub fn outstanding_bytes(&self) -> u64 {
        self.committed + (self.config.large_bytes - self.large_free)
    }

    /// Raises a stream's limit to `target` as far as `ceiling` on the sum allows; true when it reached the target.
    fn raise(&mut self, stream: u64, target: u64, ceiling: u64) -> bool {
        let free = ceiling.saturating_sub(self.committed);
        let Some(entry) = self.streams.get_mut(&stream) else { return true };
        let more = target.saturating_sub(entry.limit).min(free);
        if more > 0 {
            entry.limit += more;
            self.committed += more;
            self.grants.push_back(Grant { stream, limit: entry.limit });
        }
        entry.limit >= target
    }

    /// Gives `stream` what its window asks for; queues it when it has less than a first window.
    fn serve(&mut self, stream: u64) {
        let SharedBudgetConfig { budget_bytes, initial_bytes, .. } = self.config;
        let Some(entry) = self.streams.get(&stream) else { return };
        if entry.large.is_some_and(|large| large.reserved > 0) {
            return;
        }
        let least = entry.consumed + entry.window.min(initial_bytes);
        let full = entry.consumed + entry.window;
        if !self.raise(stream, least, budget_bytes) {
            let Some(entry) = self.streams.get_mut(&stream) else { return };
            if !std::mem::replace(&mut entry.queued, true) {
                self.hungry.push_back(stream);
            }
            return;
        }
        self.raise(stream, full, budget_bytes / 2);
    }

    /// Serves those who wait, as far as what is free allows.
    fn redistribute(&mut self) {
        while self.committed < self.config.budget_bytes {
            let Some(stream) = self.hungry.pop_front() else { break };
            if let Some(entry) = self.streams.get_mut(&stream) {
                entry.queued = false;
                self.serve(stream);
            }
        }
        while let Some(&stream) = self.waiting_large.front() {
            let Some(entry) = self.streams.get_mut(&stream) else {
                self.waiting_large.pop_front();
                continue;
            };
            let Some(large) = entry.large.as_mut() else {
                self.waiting_large.pop_front();
                continue;
            };
            let need = large.end.saturating_sub(entry.consumed);
            if need > self.large_free {
                break;
            }
            // From here on the pool answers for everything this stream may hold.
            self.large_free -= need;
            large.reserved = need;
            self.committed -= entry.limit - entry.consumed;
            entry.limit = entry.limit.max(large.end);
            self.grants.push_back(Grant { stream, limit: entry.limit });
            self.waiting_large.pop_front();
        }
    }
}

impl CreditPolicy for SharedBudget {
    fn open(&mut self, stream: u64) -> u64 {
        let window = self.config.initial_bytes;
        self.streams.insert(stream, Stream { window, ..Stream::default() });
        self.serve(stream);
        // The first limit travels in ACCEPT, not as a grant.
        self.grants.retain(|grant| grant.stream != stream);
        self.streams.get(&stream).map_or(0, |entry| entry.limit)
    }

    fn consumed(&mut self, stream: u64, consumed: u64) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        let consumed = consumed.clamp(entry.consumed, entry.limit);
        let freed = consumed - entry.consumed;
        entry.consumed = consumed;
        match entry.large {
            Some(large) if large.reserved > 0 => {
                if consumed < large.end {
                    return;
                }
                // The message is consumed, and the limit stands at its end: the stream holds nothing.
                self.large_free += large.reserved;
                entry.large = None;
                self.committed += entry.limit - entry.consumed;
            }
            Some(large) if consumed >= large.end => {
                entry.large = None;
                self.committed -= freed;
            }
            _ => self.committed -= freed,
        }
        // It used up most of its window and its application keeps up: let it have twice as much.
        if entry.wanted > entry.limit || entry.limit - consumed <= entry.window / 2 {
            entry.window = (entry.window * 2).min(self.config.stream_bytes_max);
        }
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
        let stream_bytes_max = self.config.stream_bytes_max;
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        if end <= entry.limit || entry.large.is_some() {
            return;
        }
        if end - entry.consumed <= stream_bytes_max && self.raise(stream, end, half) {
            return;
        }
        if let Some(entry) = self.streams.get_mut(&stream) {
            entry.large = Some(Large { end, reserved: 0 });
            self.waiting_large.push_back(stream);
            self.redistribute();
        }
    }

    fn close(&mut self, stream: u64) {
        let Some(entry) = self.streams.remove(&stream) else { return };
        match entry.large {
            Some(large) if large.reserved > 0 => self.large_free += large.reserved,
            _ => self.committed -= entry.limit - entry.consumed,
        }
        self.grants.retain(|grant| grant.stream != stream);
        self.redistribute();
    }

    fn poll_grant(&mut self) -> Option<Grant> {
        self.grants.pop_front()
    }
}
