//! Who may send how much to one process: the policy behind every limit.

mod budget;
mod stream;

pub use budget::SharedBudget;

use trunkline_proto::framing::LENGTH_BYTES_MAX;

/// What every stream may hold beside the budget: the longest length of a message. Whatever waits at the head of a
/// stream, its length is let in and so its size is known; from there on the pool can take it. Where streams are passed on
/// as bytes, they go on by these. This is why no stream waits for ever, however small the budget is, whoever holds it,
/// and whoever does not answer.
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
/// Tell it what happens, then drain [`CreditPolicy::poll_grant`] and after it [`CreditPolicy::poll_reclaim`] until they
/// return `None`: news of one stream may bring grants for others.
pub trait CreditPolicy: Send {
    /// A stream is accepted. Returns its first limit. With a `cap`, what it holds counts against that too.
    fn open(&mut self, stream: u64, cap: Option<Cap>) -> u64 {
        self.open_at(stream, 0, cap)
    }

    /// A stream is taken up at an offset: as [`CreditPolicy::open`], of a stream of which everything up to `consumed` was
    /// consumed, and nothing else was granted.
    fn open_at(&mut self, stream: u64, consumed: u64, cap: Option<Cap>) -> u64;

    /// The stream may not be granted anything beyond `ceiling`, an offset, for another reason than the budget. Without a
    /// word of it there is no ceiling. When it falls below what the stream was granted, that is reclaimed. What a stream
    /// wants beyond its ceiling is neither queued nor held for it.
    fn ceiling(&mut self, stream: u64, ceiling: u64);

    /// The sending side has answered a [`Reclaim`]: it will not pass `limit` without a new grant. Without a reclaim that is
    /// outstanding this changes nothing.
    fn limited(&mut self, stream: u64, limit: u64);

    /// The application has consumed `stream` up to the offset `consumed`.
    fn consumed(&mut self, stream: u64, consumed: u64);

    /// The sender has bytes up to the offset `wanted` and no credit for them.
    fn wanted(&mut self, stream: u64, wanted: u64);

    /// Everything before the message at the head is consumed, up to `consumed`; that message ends at `end`, beyond the
    /// limit. It can be consumed only as a whole, so it must be let in as a whole. While a reclaim of the stream is
    /// outstanding, the limit may be the one that was given back: this and the answer may be told in either order.
    fn message(&mut self, stream: u64, consumed: u64, end: u64);

    /// The stream has ended and nothing of it is held any more. What it held is free.
    fn close(&mut self, stream: u64);

    /// The next grant that follows from what the policy was told.
    fn poll_grant(&mut self) -> Option<Grant>;

    /// The next stream whose sending side is to be asked to give credit back. It is granted nothing until
    /// [`CreditPolicy::limited`] is told, and is not asked again before that. Nobody is asked while there are grants to
    /// poll.
    fn poll_reclaim(&mut self) -> Option<Reclaim>;

    /// Whether a stream waits for its turn that could be asked for on its behalf.
    fn is_waited_for(&self) -> bool;

    /// A clock ticks: to be told about every 50 ms while [`CreditPolicy::is_waited_for`]. The news of other streams says the
    /// same, but where all of them wait there is none.
    fn pass_time(&mut self);
}

/// A bound, within a budget, on what some of its streams hold together: those of one job, say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cap(usize);

/// The sizes of [`SharedBudget`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedBudgetConfig {
    /// What all streams together may hold in windows. Not in it: messages in the pool below, and four bytes that each stream
    /// may always hold, the length of its next message.
    pub budget_bytes: u64,
    /// What a stream is given unasked, while half of the budget lasts.
    pub idle_bytes: u64,
    /// The least that a turn gives to a stream that wants, while the budget lasts; of a stream of which nothing was consumed
    /// yet, while half of the budget lasts.
    pub turn_bytes: u64,
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
            idle_bytes: 4 << 10,
            turn_bytes: 16 << 10,
            stream_bytes_max: 1 << 20,
            // The longest message, its length, and slack: one that exactly fits must not wait for ever.
            large_bytes: (64 << 20) + 64,
        }
    }
}
