//! One budget, shared by demand: turns for those that want, windows that grow while they are drained, and credit asked back
//! from those that do not use it.
//!
//! *Who is given what.* A stream is given `idle_bytes` unasked, and a turn when it wants, within half of the budget. Once
//! anything of it was drained it is *live*: it is given turns within all of the budget, and its window doubles while it is
//! drained and wanted, within seven eighths. So streams that nobody has begun to read, however many, keep nobody from
//! reading the others. A window of N bytes lets N and the longest length of a message in: a message as long as the window
//! fits.
//!
//! Live streams that want and have less than a turn wait in one rotation, first come, first served. The head of the
//! rotation keeps its place until it has had its turn: what is free in crumbs is gathered for it, or given to it when time
//! passes; then it goes to the back.
//! Streams that are not live wait in a line of their own, which is served while half of the budget is free, and for which
//! nobody is asked. They need no more: the four bytes beside the budget show what is next, and its consumption, or somebody
//! who waits for it, brings them on.
//!
//! *Caps.* The windows of a group of streams hold at most its cap, in the same parts. A stream whose cap is used up leaves
//! the head of its line and waits for its cap, so it holds up no other group; what the cap has again goes to those first.
//! Long messages of a group may hold as much again of the pool, and one message is let in whatever its length, so that it
//! gets through: a group holds at most `cap + max(cap, longest message)` and four bytes a stream.
//!
//! *Reclaim.* While the rotation misses more than is free or coming, holders are asked: first those that hold more than
//! their senders want, the least recently drained first, down to the length of a next message. When there is none left,
//! those that hold no more than they want, and have for long: their senders may have stopped. These are asked a few at a
//! time, for half of what they hold, then for the rest, and are given nothing before something of theirs was drained. So a
//! sender that lives goes on with what it kept, one that does not holds nothing for long, and no credit goes round among
//! those that have stopped. Long is measured by the budget itself: what was promised is not asked for before everything was
//! drained twice over meanwhile, and an answer that has not come by then is not counted on, and others are asked.
//!
//! Every call costs O(1), amortised, whatever the number of streams, and O(caps) where caps are used up.

mod account;
mod pool;
mod reclaim;

use std::collections::VecDeque;

use hashbrown::HashMap;
use hashlink::LinkedHashSet;

use super::{
    Cap, CreditPolicy, Grant, HEAD_BYTES, Reclaim, SharedBudgetConfig,
    stream::{Large, Place, Share, Stream},
};
use account::{Account, Group, Holders, Part, Sum};
use reclaim::SIGN_OF_LIFE_BYTES;

/// Every stream gets a small window, which doubles while its application keeps up, out of one budget. Credit that is not
/// used is asked back when others want it.
///
/// Streams of which nothing was consumed yet have half of the budget together. The others have turns from all of it, and
/// windows that grow within seven eighths. A message that does not fit waits its turn for the pool. The module's own page
/// has the rules.
#[derive(Debug)]
pub struct SharedBudget {
    config: SharedBudgetConfig,
    /// What every stream may hold beside the budget.
    head_bytes: u64,
    streams: HashMap<u64, Stream>,
    total: Account,
    groups: Vec<Group>,
    /// Free bytes of the pool.
    large_free: u64,
    /// Live streams that want more and have less than a turn gives, in the order in which they came to.
    rotation: LinkedHashSet<u64>,
    /// The same, of streams of which nothing was drained yet. One that has come to lack nothing is found out at the head.
    untried: LinkedHashSet<u64>,
    /// Streams that wait for the pool, first come, first served.
    waiting_large: LinkedHashSet<u64>,
    /// Streams whose limit has risen and was not polled.
    granted: LinkedHashSet<u64>,
    /// Streams that hold more than their ceiling allows.
    above_ceiling: LinkedHashSet<u64>,
    /// Reclaims whose answers are counted on, oldest first: the stream, the reclaim's number, and when it is overdue.
    expected: VecDeque<(u64, u64, u64)>,
    reclaims: u64,
    /// See [`reclaim`].
    clock: u64,
    /// What is free goes to the head of the rotation even if it is less than that misses.
    gives_crumbs: bool,
    /// Something was drained since the last tick.
    has_drained: bool,
    /// Counts the passes of every loop here, for the tests of what a call costs.
    #[cfg(test)]
    pub(crate) steps: u64,
}

impl SharedBudget {
    /// A policy for one process, whose application consumes whole messages.
    #[must_use]
    pub fn new(config: SharedBudgetConfig) -> Self {
        Self::with_head(config, HEAD_BYTES)
    }

    /// A policy for streams that are passed on as bytes, as they come. None of them waits for the rest of a message, nor
    /// for anybody to begin to read it: all of them are live, and there is no pool. Beside the budget a stream holds nothing
    /// but one byte while its sender may have stopped. A turn lets through what a consumer's turn does, with the length of
    /// a message, and is no more than the budget, of which at least one byte is needed.
    #[must_use]
    pub fn for_relays(config: SharedBudgetConfig) -> Self {
        // The head of the rotation is not asked for what it has of its turn: it must not be able to hold all there is.
        let turn_bytes = config.turn_bytes.saturating_add(HEAD_BYTES).min(config.budget_bytes);
        Self::with_head(SharedBudgetConfig { turn_bytes, large_bytes: 0, ..config }, 0)
    }

    fn with_head(config: SharedBudgetConfig, head_bytes: u64) -> Self {
        Self {
            config,
            head_bytes,
            streams: HashMap::new(),
            total: Account::new(config.budget_bytes),
            groups: Vec::new(),
            large_free: config.large_bytes,
            rotation: LinkedHashSet::new(),
            untried: LinkedHashSet::new(),
            waiting_large: LinkedHashSet::new(),
            granted: LinkedHashSet::new(),
            above_ceiling: LinkedHashSet::new(),
            expected: VecDeque::new(),
            reclaims: 0,
            clock: 0,
            gives_crumbs: false,
            has_drained: false,
            #[cfg(test)]
            steps: 0,
        }
    }

    /// A cap of `bytes` on what the streams that are opened with it hold together in windows. Their long messages may hold
    /// as much again of the pool, or one message if that is longer.
    #[must_use]
    pub fn add_cap(&mut self, bytes: u64) -> Cap {
        self.groups.push(Group::new(bytes));
        Cap(self.groups.len() - 1)
    }

    /// Bytes that senders may have in flight or the process may hold: in windows, in the pool, and four a stream.
    #[must_use]
    pub fn outstanding_bytes(&self) -> u64 {
        let pool = self.config.large_bytes - self.large_free;
        self.total.sum.committed + pool + self.head_bytes * self.streams.len() as u64
    }

    /// What the streams with this cap hold in windows, and what their messages hold of the pool.
    #[must_use]
    pub fn outstanding_bytes_of(&self, cap: Cap) -> (u64, u64) {
        self.groups.get(cap.0).map_or((0, 0), |group| (group.account.sum.committed, group.large))
    }

    #[cfg(test)]
    pub(crate) fn limit_of(&self, stream: u64) -> u64 {
        self.streams.get(&stream).map_or(0, |entry| entry.limit)
    }

    #[cfg(test)]
    pub(crate) fn held_by(&self, stream: u64) -> u64 {
        self.limit_of(stream) - self.consumed_of(stream)
    }

    #[cfg(test)]
    pub(crate) fn consumed_of(&self, stream: u64) -> u64 {
        self.streams.get(&stream).map_or(0, |entry| entry.consumed)
    }

    /// A stream that waits for a turn although it could be given it: all of it at the head of the rotation, some of it where
    /// it waits elsewhere.
    #[cfg(test)]
    pub(crate) fn kept_for_nothing(&self) -> Option<u64> {
        let turn_bytes = self.turn_bytes();
        let is_kept = |stream: u64, entry: &Stream| match entry.is_live {
            true if entry.cap.is_none() => {
                let missing = entry.turn(turn_bytes).saturating_sub(entry.limit);
                let is_next = self.rotation.front().is_none_or(|&head| head == stream);
                entry.is_hungry(turn_bytes) && is_next && self.free(None, Part::Whole) >= missing
            }
            true => false,
            false => entry.is_untried_and_short(turn_bytes) && self.free(entry.cap, Part::Half) > 0,
        };
        self.streams.iter().find(|&(&stream, entry)| is_kept(stream, entry)).map(|(&stream, _)| stream)
    }

    /// The least window that a stream gets whose sender wants.
    fn turn_bytes(&self) -> u64 {
        self.config.turn_bytes.min(self.config.stream_bytes_max)
    }

    fn step(&mut self) {
        #[cfg(test)]
        {
            self.steps += 1;
        }
    }

    /// Takes what a stream adds to the sums out of them, or puts it in.
    fn account(&mut self, cap: Option<usize>, place: Place, share: Share, apply: impl Fn(u64, u64) -> u64) {
        let add = |sum: &mut Sum, waits_here: bool| {
            sum.committed = apply(sum.committed, share.charge);
            sum.coming = apply(sum.coming, share.coming);
            sum.promised_asks = apply(sum.promised_asks, share.promised_asks);
            if waits_here {
                sum.missing = apply(sum.missing, share.missing);
            }
        };
        add(&mut self.total.sum, place == Place::Rotation);
        if let Some(group) = cap.and_then(|cap| self.groups.get_mut(cap)) {
            add(&mut group.account.sum, place == Place::Cap);
        }
    }

    /// Changes a stream and keeps all sums and lists true. The only way to change one.
    fn change(&mut self, stream: u64, change: impl FnOnce(&mut Stream)) {
        let turn_bytes = self.turn_bytes();
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        let (cap, before, place_before) = (entry.cap, entry.share(turn_bytes), entry.place);
        change(entry);
        if !entry.is_hungry(turn_bytes) {
            entry.place = Place::Nowhere;
        }
        let (after, place) = (entry.share(turn_bytes), entry.place);
        let (listed, holding) = (entry.listed, entry.holding());
        entry.listed = holding;
        if entry.is_above_ceiling() {
            self.above_ceiling.insert(stream);
        }
        if (before, place_before) != (after, place) {
            self.account(cap, place_before, before, |sum, part| sum - part);
            self.account(cap, place, after, |sum, part| sum + part);
        }
        if place_before != place {
            self.leave(stream, cap, place_before);
            match (place, cap) {
                (Place::Nowhere, _) => {}
                (Place::Cap, Some(cap)) => {
                    self.groups[cap].waiting.insert(stream);
                }
                (Place::Rotation | Place::Cap, _) => {
                    self.rotation.insert(stream);
                }
            }
        }
        if listed != holding {
            self.list(cap, |holders| {
                if let Some(listed) = listed {
                    holders.of(listed).remove(&stream);
                }
                if let Some(holding) = holding {
                    holders.of(holding).insert(stream);
                }
            });
        }
    }

    fn leave(&mut self, stream: u64, cap: Option<usize>, place: Place) {
        match (place, cap) {
            (Place::Nowhere, _) => {}
            (Place::Cap, Some(cap)) => {
                self.groups[cap].waiting.remove(&stream);
            }
            (Place::Rotation | Place::Cap, _) => {
                self.rotation.remove(&stream);
            }
        }
    }

    /// Changes the lists of holders that have, or are to have, a stream.
    fn list(&mut self, cap: Option<usize>, change: impl Fn(&mut Holders)) {
        change(&mut self.total.holders);
        if let Some(group) = cap.and_then(|cap| self.groups.get_mut(cap)) {
            change(&mut group.account.holders);
        }
    }

    /// What may be added for a stream within a part of the budget, and of its cap.
    fn free(&self, cap: Option<usize>, part: Part) -> u64 {
        let free = self.total.free(part);
        cap.and_then(|cap| self.groups.get(cap)).map_or(free, |group| free.min(group.account.free(part)))
    }

    /// Raises a stream's limit to `target`, or as far as its ceiling and a part of the budget allow.
    fn raise(&mut self, stream: u64, target: u64, part: Part) {
        let Some(entry) = self.streams.get(&stream).filter(|entry| entry.is_grantable()) else { return };
        if target <= entry.limit {
            return;
        }
        let free = self.free(entry.cap, part);
        let most = entry.consumed.saturating_add(entry.head_bytes + entry.charge()).saturating_add(free);
        let limit = target.min(most).min(entry.ceiling);
        if limit > entry.limit {
            let now = self.clock;
            self.change(stream, |entry| {
                entry.limit = limit;
                entry.is_used_up = false;
                entry.granted_at = now;
            });
            self.granted.insert(stream);
            self.touch(stream);
        }
    }

    /// The stream was drained or granted something: it is asked for that last.
    fn touch(&mut self, stream: u64) {
        let Some(&Stream { cap, listed: Some(listed), .. }) = self.streams.get(&stream) else { return };
        self.list(cap, |holders| {
            holders.of(listed).to_back(&stream);
        });
    }

    /// Gives `stream` what its window asks for; queues it when it wants more and has less than a turn gives.
    ///
    /// While any other waits in the rotation, what is free is gathered for that one, and nobody overtakes it.
    fn serve(&mut self, stream: u64) {
        let turn_bytes = self.turn_bytes();
        let Some(entry) = self.streams.get_mut(&stream).filter(|entry| entry.is_grantable()) else { return };
        let wants = entry.wants();
        if wants && entry.place == Place::Nowhere {
            entry.window = entry.window.max(turn_bytes);
        }
        let others_wait = (entry.is_live || !wants) && !self.rotation.is_empty();
        let head = entry.consumed.saturating_add(entry.head_bytes);
        let (turn, full) = (entry.turn(turn_bytes), entry.consumed.saturating_add(entry.head_bytes + entry.window));
        let before = entry.limit;
        let (turns, growth) = match (entry.is_live, wants) {
            (true, true) => (Part::Whole, Part::SevenEighths),
            (true, false) => (Part::SevenEighths, Part::SevenEighths),
            (false, _) => (Part::Half, Part::Half),
        };
        if others_wait {
            // What it may hold beside the budget is nobody else's.
            self.raise(stream, head, turns);
        } else {
            self.raise(stream, turn, turns);
            self.raise(stream, full, growth);
        }
        // The length of a message, which it is given while it waits, is no part of its turn.
        self.change(stream, |entry| entry.turn_end = entry.turn_end.saturating_add(entry.limit - before));
        self.queue(stream);
    }

    /// Puts a stream that is to wait for a turn at the back of its line.
    fn queue(&mut self, stream: u64) {
        let turn_bytes = self.turn_bytes();
        let Some(entry) = self.streams.get(&stream) else { return };
        if entry.is_untried_and_short(turn_bytes) {
            let waits_for_cap =
                entry.cap.and_then(|cap| self.groups.get(cap)).is_some_and(|group| group.untried.contains(&stream));
            // Whoever repeats what it wants keeps its place.
            if !waits_for_cap && !self.untried.contains(&stream) {
                self.untried.insert(stream);
            }
        } else if entry.place == Place::Nowhere && entry.is_hungry(turn_bytes) {
            self.change(stream, |entry| {
                entry.place = Place::Rotation;
                entry.turn_end = entry.limit.saturating_add(turn_bytes.max(entry.head_bytes));
            });
        }
    }

    /// Serves those who wait, as far as what is free allows.
    fn redistribute(&mut self) {
        // The pool first: a stream that enters it gives its window back to the others.
        self.serve_pool();
        while self.total.free(Part::Whole) > 0 {
            self.step();
            let has_room = |group: &&Group| group.account.free(Part::Whole) > 0;
            let roomy = self.groups.iter().filter(has_room).find_map(|group| group.waiting.front().copied());
            let Some(stream) = roomy.or_else(|| self.rotation.front().copied()) else { break };
            if !self.give_turn(stream) {
                break;
            }
        }
        self.serve_untried();
    }

    /// Gives turns to streams that nobody has begun to read, while half of the budget lasts.
    fn serve_untried(&mut self) {
        let turn_bytes = self.turn_bytes();
        while self.total.free(Part::Half) > 0 {
            self.step();
            let has_room = |group: &&Group| group.account.free(Part::Half) > 0;
            let roomy = self.groups.iter().filter(has_room).find_map(|group| group.untried.front().copied());
            let Some(stream) = roomy.or_else(|| self.untried.front().copied()) else { break };
            self.serve(stream);
            let short = self.streams.get(&stream).filter(|entry| entry.is_untried_and_short(turn_bytes));
            let (is_short, cap) = (short.is_some(), short.and_then(|entry| entry.cap));
            if is_short && self.total.free(Part::Half) == 0 {
                // It keeps its place, so that what is free in crumbs adds up.
                break;
            }
            let Some(group) = cap.and_then(|cap| self.groups.get_mut(cap)).filter(|_| is_short) else {
                self.leave_untried(stream);
                continue;
            };
            // Its cap is what keeps it. One that waited for that before keeps its place.
            if !group.untried.contains(&stream) {
                group.untried.insert(stream);
            }
            self.untried.remove(&stream);
        }
    }

    fn leave_untried(&mut self, stream: u64) {
        self.untried.remove(&stream);
        let cap = self.streams.get(&stream).and_then(|entry| entry.cap);
        if let Some(group) = cap.and_then(|cap| self.groups.get_mut(cap)) {
            group.untried.remove(&stream);
        }
    }

    /// Gives the stream at the head its turn, or what there is of it. False when that leaves nothing for anybody.
    fn give_turn(&mut self, stream: u64) -> bool {
        let turn_bytes = self.turn_bytes();
        let Some(entry) = self.streams.get(&stream) else { return false };
        let target = entry.turn(turn_bytes).min(entry.turn_end);
        let (free, missing) = (self.total.free(Part::Whole), target.saturating_sub(entry.limit));
        let others = self.total.sum.committed - entry.charge();
        if entry.cap.is_none() && free < missing && others > 0 && !self.gives_crumbs {
            // More will come: a turn in crumbs would cost a word at each hop for each of them.
            return false;
        }
        self.raise(stream, target, Part::Whole);
        let Some(entry) = self.streams.get(&stream) else { return false };
        if entry.place == Place::Nowhere || entry.limit >= target {
            // If it wants on, it goes to the back; what is left is for those before it.
            self.change(stream, |entry| entry.place = Place::Nowhere);
            if self.rotation.is_empty() {
                self.serve(stream);
            } else {
                self.queue(stream);
            }
            return true;
        }
        if self.total.free(Part::Whole) == 0 {
            return false;
        }
        // Its cap is what keeps it.
        self.change(stream, |entry| entry.place = Place::Cap);
        true
    }
}

impl CreditPolicy for SharedBudget {
    fn open_at(&mut self, stream: u64, consumed: u64, cap: Option<Cap>) -> u64 {
        self.close(stream);
        let cap = cap.map(|Cap(index)| index).filter(|&index| index < self.groups.len());
        let window = self.config.idle_bytes.min(self.config.stream_bytes_max);
        let entry = Stream { consumed, limit: consumed, ..Stream::new(cap, window, self.head_bytes) };
        self.streams.insert(stream, entry);
        self.serve(stream);
        // The first limit travels in ACCEPT, not as a grant.
        self.granted.remove(&stream);
        self.streams.get(&stream).map_or(0, |entry| entry.limit)
    }

    fn ceiling(&mut self, stream: u64, ceiling: u64) {
        self.change(stream, |entry| entry.ceiling = ceiling);
        self.serve(stream);
    }

    fn limited(&mut self, stream: u64, limit: u64) {
        let (mut waits_for_pool, mut is_granted) = (false, false);
        let idle_bytes = self.config.idle_bytes.min(self.config.stream_bytes_max);
        let Some(entry) = self.streams.get(&stream) else { return };
        let Some(reclaim) = entry.reclaim else { return };
        self.change(stream, |entry| {
            entry.reclaim = None;
            entry.is_used_up = limit > reclaim.asked;
            entry.limit = entry.limit.min(limit.max(entry.consumed));
            // Whoever has used its credit lives.
            entry.is_suspect &= !entry.is_used_up;
            if entry.is_suspect {
                entry.head_bytes = entry.head_bytes.max(SIGN_OF_LIFE_BYTES);
                let sign = entry.consumed.saturating_add(SIGN_OF_LIFE_BYTES).min(entry.ceiling);
                is_granted = sign > entry.limit;
                entry.limit = entry.limit.max(sign);
                // Without any credit it could not show that it lives.
                entry.is_suspect = entry.limit > entry.consumed;
            }
            entry.window = idle_bytes;
            waits_for_pool = entry.large.is_some_and(|large| large.reserved == 0);
        });
        if is_granted {
            self.granted.insert(stream);
        }
        // It may have come to the head while it could be granted nothing, and have lost its place by that.
        let keeps_place = self.waiting_large.contains(&stream)
            || self.groups.iter().any(|group| group.waiting_large.contains(&stream));
        if waits_for_pool && !keeps_place {
            self.waiting_large.insert(stream);
        }
        self.redistribute();
        self.serve(stream);
    }

    fn consumed(&mut self, stream: u64, consumed: u64) {
        let before = self.streams.get(&stream).map_or(consumed, |entry| entry.consumed);
        self.note_news(consumed.saturating_sub(before));
        let (stream_bytes_max, head_bytes) = (self.config.stream_bytes_max, self.head_bytes);
        let (mut released, mut drained, mut cap) = (0, false, None);
        self.change(stream, |entry| {
            let consumed = consumed.clamp(entry.consumed, entry.limit);
            drained = consumed > entry.consumed;
            cap = entry.cap;
            entry.consumed = consumed;
            // A message leaves the pool as a whole. The limit stands at its end: the stream then holds nothing.
            if let Some(large) = entry.large.take_if(|large| consumed >= large.end) {
                released = large.reserved;
            }
            // It used up most of its window and its application keeps up: let it have twice as much.
            let left = (entry.limit - consumed).saturating_sub(entry.head_bytes);
            let has_used_most = entry.wants() || left <= entry.window / 2;
            if drained && has_used_most {
                entry.window = entry.window.saturating_mul(2).min(stream_bytes_max);
            }
            if drained {
                entry.is_suspect = false;
                entry.head_bytes = head_bytes;
                entry.is_live = true;
            }
        });
        if drained {
            self.leave_untried(stream);
            self.touch(stream);
        }
        self.release(cap, released);
        self.redistribute();
        self.serve(stream);
    }

    fn wanted(&mut self, stream: u64, wanted: u64) {
        self.note_news(0);
        self.change(stream, |entry| entry.wanted = entry.wanted.max(wanted));
        self.serve(stream);
    }

    fn message(&mut self, stream: u64, consumed: u64, end: u64) {
        self.consumed(stream, consumed);
        let Some(entry) = self.streams.get(&stream) else { return };
        // Credit that is asked back may be what the message lacks, and this may be heard of before the answer is.
        if entry.large.is_some() || (end <= entry.limit && entry.reclaim.is_none()) {
            return;
        }
        let needed = end - entry.consumed;
        if entry.is_grantable()
            && needed <= self.config.stream_bytes_max
            && end - entry.limit <= self.free(entry.cap, Part::Half)
            && end <= entry.ceiling
        {
            self.raise(stream, end, Part::Half);
            return;
        }
        self.change(stream, |entry| entry.large = Some(Large { end, reserved: 0 }));
        self.waiting_large.insert(stream);
        self.redistribute();
    }

    fn close(&mut self, stream: u64) {
        self.note_news(0);
        let turn_bytes = self.turn_bytes();
        self.leave_untried(stream);
        let Some(entry) = self.streams.remove(&stream) else { return };
        self.account(entry.cap, entry.place, entry.share(turn_bytes), |sum, part| sum - part);
        self.leave(stream, entry.cap, entry.place);
        self.list(entry.cap, |holders| {
            holders.excess.remove(&stream);
            holders.promised.remove(&stream);
        });
        self.release(entry.cap, entry.large.map_or(0, |large| large.reserved));
        self.waiting_large.remove(&stream);
        if let Some(group) = entry.cap.and_then(|cap| self.groups.get_mut(cap)) {
            group.waiting_large.remove(&stream);
        }
        self.granted.remove(&stream);
        self.above_ceiling.remove(&stream);
        self.redistribute();
    }

    fn is_waited_for(&self) -> bool {
        !self.rotation.is_empty() || self.groups.iter().any(|group| !group.waiting.is_empty())
    }

    fn pass_time(&mut self) {
        self.gives_crumbs = true;
        self.note_tick();
        self.redistribute();
        self.gives_crumbs = false;
    }

    fn poll_grant(&mut self) -> Option<Grant> {
        let stream = self.granted.pop_front()?;
        self.streams.get(&stream).map(|entry| Grant { stream, limit: entry.limit })
    }

    fn poll_reclaim(&mut self) -> Option<Reclaim> {
        if !self.granted.is_empty() {
            return None;
        }
        while let Some(stream) = self.above_ceiling.pop_front() {
            self.step();
            if let Some(entry) = self.streams.get(&stream).filter(|entry| entry.is_above_ceiling()) {
                let asked = entry.ceiling_asked();
                return Some(self.ask(stream, asked, false));
            }
        }
        if let Some(reclaim) = self.ask_for_missing(None) {
            return Some(reclaim);
        }
        let short = (0..self.groups.len()).filter(|&cap| !self.groups[cap].waiting.is_empty());
        short.collect::<Vec<_>>().into_iter().find_map(|cap| self.ask_for_missing(Some(cap)))
    }
}
