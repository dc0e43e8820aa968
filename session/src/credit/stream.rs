//! One stream as the shared budget sees it: what it holds, whether it waits, what it can be asked to give back.

#[derive(Debug)]
pub(super) struct Stream {
    /// The group whose cap it shares.
    pub(super) cap: Option<usize>,
    /// What it may hold beside the budget.
    pub(super) head_bytes: u64,
    /// Nothing beyond it is granted, whatever the budget has.
    pub(super) ceiling: u64,
    pub(super) consumed: u64,
    pub(super) limit: u64,
    pub(super) window: u64,
    pub(super) wanted: u64,
    /// A message that reaches beyond what the budget gives.
    pub(super) large: Option<Large>,
    /// Where it waits for a turn.
    pub(super) place: Place,
    /// The limit at which the turn that it waits for, or is having, is over.
    pub(super) turn_end: u64,
    /// When its limit was raised last, on the policy's own clock.
    pub(super) granted_at: u64,
    /// Asked to give back, and not answered.
    pub(super) reclaim: Option<Outstanding>,
    /// It gave back nothing, for everything up to its limit is used: there is nothing to ask for before that has risen.
    pub(super) is_used_up: bool,
    /// It was asked although it wants, and nothing of it was drained since: its sender may have stopped. It is given
    /// nothing before it shows life.
    pub(super) is_suspect: bool,
    /// Something of it was drained: somebody reads it, or has begun to.
    pub(super) is_live: bool,
    /// The list of holders that it is in.
    pub(super) listed: Option<Holding>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Large {
    /// The offset at which the message ends.
    pub(super) end: u64,
    /// Bytes held in the pool; 0 while it waits for them.
    pub(super) reserved: u64,
}

/// Where a stream waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It does not wait.
    Nowhere,
    /// In the rotation.
    Rotation,
    /// It came to the head of the rotation and waits for its cap alone.
    Cap,
}

/// What kind of credit a stream holds that it can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// More than its sender has said that it wants.
    Excess,
    /// No more than its sender wants: it is likely to be used soon, unless that sender has stopped.
    Promised,
}

/// A reclaim that was not answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outstanding {
    pub(super) asked: u64,
    /// Tells it from an earlier one of the same stream.
    pub(super) number: u64,
    /// What it asks for is promised.
    pub(super) is_of_promised: bool,
    /// The answer has taken so long that nobody counts on it any more.
    pub(super) is_overdue: bool,
}

/// What a stream adds to the sums of the budget and of its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Held in windows.
    pub(super) charge: u64,
    /// Wanted for its turn, and not had.
    pub(super) missing: u64,
    /// Asked back, and expected to come.
    pub(super) coming: u64,
    /// Reclaims of what is promised that an answer is expected to.
    pub(super) promised_asks: u64,
}

impl Stream {
    pub(super) fn new(cap: Option<usize>, window: u64, head_bytes: u64) -> Self {
        Self {
            cap,
            head_bytes,
            ceiling: u64::MAX,
            consumed: 0,
            limit: 0,
            window,
            wanted: 0,
            large: None,
            place: Place::Nowhere,
            turn_end: 0,
            granted_at: 0,
            reclaim: None,
            is_used_up: false,
            is_suspect: false,
            is_live: head_bytes == 0,
            listed: None,
        }
    }

    pub(super) fn is_in_pool(&self) -> bool {
        self.large.is_some_and(|large| large.reserved > 0)
    }

    /// What the stream holds of the budget.
    pub(super) fn charge(&self) -> u64 {
        // In the pool, the reservation answers for everything that the stream may hold.
        if self.is_in_pool() { 0 } else { (self.limit - self.consumed).saturating_sub(self.head_bytes) }
    }

    /// The sender has more than it may send, and the budget is what keeps it.
    pub(super) fn wants(&self) -> bool {
        self.wanted > self.limit && self.limit < self.ceiling
    }

    /// Whether anything may be granted at all.
    pub(super) fn is_grantable(&self) -> bool {
        !self.is_in_pool() && self.reclaim.is_none() && !self.is_suspect
    }

    /// Up to where a turn lets it be sent: its window, or what a turn gives where that is less.
    pub(super) fn turn(&self, turn_bytes: u64) -> u64 {
        // The length of a message beside it: a message as long as the turn fits.
        self.consumed.saturating_add(self.head_bytes + self.window.min(turn_bytes)).min(self.ceiling)
    }

    /// It is live, wants, and has less than a turn gives.
    pub(super) fn is_hungry(&self, turn_bytes: u64) -> bool {
        self.is_live && self.is_short(turn_bytes)
    }

    /// It wants and has less than a turn gives, and nothing of it was drained yet.
    pub(super) fn is_untried_and_short(&self, turn_bytes: u64) -> bool {
        !self.is_live && self.is_short(turn_bytes)
    }

    fn is_short(&self, turn_bytes: u64) -> bool {
        self.is_grantable() && self.wants() && self.limit < self.turn(turn_bytes)
    }

    pub(super) fn share(&self, turn_bytes: u64) -> Share {
        let missing = if self.place == Place::Nowhere {
            0
        } else {
            self.turn(turn_bytes).min(self.turn_end).saturating_sub(self.limit)
        };
        let (coming, promised_asks) = match self.reclaim {
            Some(Outstanding { asked, is_of_promised, is_overdue: false, .. }) => {
                let kept = asked.max(self.consumed.saturating_add(self.head_bytes));
                (self.limit.saturating_sub(kept), u64::from(is_of_promised))
            }
            _ => (0, 0),
        };
        Share { charge: self.charge(), missing, coming, promised_asks }
    }

    /// What it could be asked for, if anything.
    pub(super) fn holding(&self) -> Option<Holding> {
        if self.charge() == 0 || self.reclaim.is_some() || self.is_used_up {
            return None;
        }
        Some(if self.limit > self.wanted { Holding::Excess } else { Holding::Promised })
    }

    /// The least limit that it can be asked to keep, so that what is asked for is neither promised nor the next length.
    pub(super) fn excess_begins(&self) -> u64 {
        self.wanted.max(self.consumed.saturating_add(self.head_bytes))
    }

    /// Its ceiling has fallen below what it was granted, and it can be asked to give that back.
    pub(super) fn is_above_ceiling(&self) -> bool {
        self.limit > self.ceiling && self.reclaim.is_none() && !self.is_used_up && self.ceiling_asked() < self.limit
    }

    /// What it is asked to keep when its ceiling has fallen.
    pub(super) fn ceiling_asked(&self) -> u64 {
        self.ceiling.max(self.consumed)
    }
}
