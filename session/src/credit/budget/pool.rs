//! The pool for messages that are longer than their streams' windows.

use super::SharedBudget;
use crate::credit::stream::Large;

/// What came of a wish for the pool.
#[derive(Debug, Clone, Copy)]
enum Reserved {
    /// It is in, or has no business there.
    Done,
    PoolIsFull,
    CapIsFull,
}

impl SharedBudget {
    /// Lets messages into the pool, first come, first served; those first that waited for their cap alone.
    pub(super) fn serve_pool(&mut self) {
        for cap in 0..self.groups.len() {
            while let Some(&stream) = self.groups[cap].waiting_large.front() {
                self.step();
                match self.reserve(stream) {
                    Reserved::Done => self.groups[cap].waiting_large.pop_front(),
                    Reserved::CapIsFull => break,
                    Reserved::PoolIsFull => return,
                };
            }
        }
        while let Some(&stream) = self.waiting_large.front() {
            self.step();
            match self.reserve(stream) {
                Reserved::Done => {}
                Reserved::PoolIsFull => return,
                Reserved::CapIsFull => {
                    let cap = self.streams.get(&stream).and_then(|entry| entry.cap);
                    if let Some(group) = cap.and_then(|cap| self.groups.get_mut(cap)) {
                        group.waiting_large.insert(stream);
                    }
                }
            }
            self.waiting_large.pop_front();
        }
    }

    /// Moves a stream into the pool, if it is to go there and there is room.
    fn reserve(&mut self, stream: u64) -> Reserved {
        let Some(entry) = self.streams.get_mut(&stream) else { return Reserved::Done };
        let Some(Large { end, reserved: 0 }) = entry.large else { return Reserved::Done };
        if entry.reclaim.is_some() {
            // It waits again once it has answered.
            return Reserved::Done;
        }
        if end <= entry.limit {
            // Its window has grown to it meanwhile.
            entry.large = None;
            return Reserved::Done;
        }
        let (cap, reserved) = (entry.cap, end - entry.consumed);
        if reserved > self.config.large_bytes {
            // It never fits: let it wait alone.
            return Reserved::Done;
        }
        if let Some(group) = cap.and_then(|cap| self.groups.get(cap))
            && group.large > 0
            && group.large + reserved > group.account.bytes
        {
            return Reserved::CapIsFull;
        }
        if reserved > self.large_free {
            return Reserved::PoolIsFull;
        }
        self.large_free -= reserved;
        if let Some(group) = cap.and_then(|cap| self.groups.get_mut(cap)) {
            group.large += reserved;
        }
        self.change(stream, |entry| {
            entry.large = Some(Large { end, reserved });
            entry.limit = end;
            entry.is_used_up = false;
        });
        self.granted.insert(stream);
        Reserved::Done
    }

    /// Gives bytes back to the pool.
    pub(super) fn release(&mut self, cap: Option<usize>, reserved: u64) {
        self.large_free += reserved;
        if let Some(group) = cap.and_then(|cap| self.groups.get_mut(cap)) {
            group.large -= reserved;
        }
    }
}
