//! Whom the budget asks to give credit back, and on whose answers it counts.

use super::SharedBudget;
use crate::credit::{Reclaim, stream::Outstanding};

/// How many streams may be asked for what is promised before one has answered, or is overdue. Where all streams are busy,
/// none of them can give anything, and so much is asked in vain.
const PROMISED_ASKED_MAX: u64 = 16;
/// Time, as the policy sees it: how often the whole budget could have been used. Who was given something, or asked for
/// something, is overdue when all of the budget was drained twice over meanwhile. Each hop serves in turn, so whoever lives
/// uses what it was given before that, however many wait and however long that takes.
const TURNOVER: u64 = 1 << 20;
/// See [`TURNOVER`].
const OVERDUE: u64 = 2 * TURNOVER;
/// Where little is drained, so much news counts as much as all of the budget, and as much again for each that wants.
const TURNOVER_NEWS: u64 = 64;
/// A stream's turn brings no more news than this.
const NEWS_PER_TURN: u64 = 8;
/// So many ticks of a clock count as much, where something is drained; where nothing was since the last one, a single one
/// does, for then nobody who holds something uses it.
const TURNOVER_TICKS: u64 = 64;
/// What a stream may hold beside the budget while its sender may have stopped: one that lives uses that at once. Without
/// it, a stream that has given everything back could never show that somebody sends.
pub(super) const SIGN_OF_LIFE_BYTES: u64 = 1;

impl SharedBudget {
    /// Something was told, by which so many bytes were drained.
    pub(super) fn note_news(&mut self, drained: u64) {
        let want = self.total.holders.promised.len() + self.rotation.len();
        let want = want + self.groups.iter().map(|group| group.waiting.len()).sum::<usize>();
        let least = TURNOVER / (TURNOVER_NEWS + NEWS_PER_TURN * want as u64);
        let part = u128::from(drained) * u128::from(TURNOVER) / u128::from(self.config.budget_bytes.max(1));
        self.has_drained |= drained > 0;
        self.clock += u64::try_from(part).unwrap_or(TURNOVER).clamp(least, TURNOVER);
        self.give_up_on_answers();
    }

    /// A clock ticks, while somebody waits.
    pub(super) fn note_tick(&mut self) {
        let ticks = if std::mem::take(&mut self.has_drained) { TURNOVER_TICKS } else { 1 };
        self.clock += TURNOVER / ticks;
        self.give_up_on_answers();
    }

    fn give_up_on_answers(&mut self) {
        while let Some(&(stream, number, due)) = self.expected.front()
            && due <= self.clock
        {
            self.step();
            self.expected.pop_front();
            self.change(stream, |entry| {
                if let Some(reclaim) = entry.reclaim.as_mut().filter(|reclaim| reclaim.number == number) {
                    reclaim.is_overdue = true;
                }
            });
        }
    }

    /// Asks a stream to keep no more than `asked`.
    pub(super) fn ask(&mut self, stream: u64, asked: u64, is_of_promised: bool) -> Reclaim {
        self.reclaims += 1;
        let number = self.reclaims;
        self.expected.push_back((stream, number, self.clock + OVERDUE));
        let reclaim = Outstanding { asked, number, is_of_promised, is_overdue: false };
        self.change(stream, |entry| entry.reclaim = Some(reclaim));
        Reclaim { stream, limit: asked }
    }

    /// Asks the next holder for what those miss that wait for the budget, or for the cap of a group.
    pub(super) fn ask_for_missing(&mut self, cap: Option<usize>) -> Option<Reclaim> {
        let (account, waiting) = match cap {
            None => (&self.total, &self.rotation),
            Some(cap) => (&self.groups[cap].account, &self.groups[cap].waiting),
        };
        let shortage = account.shortage();
        if shortage == 0 {
            return None;
        }
        if let Some((&stream, entry)) =
            account.holders.excess.front().and_then(|stream| Some((stream, self.streams.get(stream)?)))
        {
            let asked = entry.excess_begins().max(entry.limit.saturating_sub(shortage));
            return Some(self.ask(stream, asked, false));
        }
        if self.total.sum.promised_asks >= PROMISED_ASKED_MAX {
            return None;
        }
        let head = waiting.front().copied();
        // The head itself may be the least recently drained; the next one is not.
        for _ in 0..2 {
            self.step();
            let holders = match cap {
                None => &mut self.total.holders,
                Some(cap) => &mut self.groups[cap].account.holders,
            };
            let Some(&stream) = holders.promised.front() else { break };
            if Some(stream) == head {
                holders.promised.to_back(&stream);
                continue;
            }
            let Some(entry) = self.streams.get(&stream) else { break };
            if self.clock - entry.granted_at < OVERDUE {
                // It has not had the time to use it, and the others had even less.
                break;
            }
            let kept = if entry.is_suspect { 0 } else { entry.charge() / 2 };
            let head = entry.head_bytes.max(SIGN_OF_LIFE_BYTES);
            let mut least = entry.consumed.saturating_add(head + kept);
            if least >= entry.limit {
                // Too little to be parted.
                least = entry.consumed.saturating_add(entry.head_bytes);
            }
            let asked = least.max(entry.limit.saturating_sub(shortage));
            self.change(stream, |entry| entry.is_suspect = true);
            return Some(self.ask(stream, asked, true));
        }
        None
    }
}
