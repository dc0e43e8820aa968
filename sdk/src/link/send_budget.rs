//! The memory that the senders of the process fill.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
};

use super::lock;

/// What all senders of the process may hold together: unsent, or kept until the other process has it.
///
/// A message is let in while there is any room at all, so the budget is exceeded by one message at most, and a long one
/// need not wait until everybody else holds nothing. It is also exceeded, for a while, when credit comes for messages of
/// which only the beginning had any, see [`SendBudget::charge`].
///
/// When there is no room, `send` waits, and nobody who comes later is served before. Room that comes free is taken on
/// behalf of those who wait, in their order, as an *offer* that they are woken for. A task may never come for its offer:
/// it waits for something else, or was given up without a word. So while others wait, offers that were not taken for a
/// while are [revoked](SendBudget::revoke). Their places are kept: whoever comes back is the first again.
#[derive(Debug)]
pub(crate) struct SendBudget {
    bytes_max: u64,
    used: AtomicU64,
    tickets: AtomicU64,
    queue: Mutex<Queue>,
    waiting_count: AtomicUsize,
    /// Somebody who does not wait was refused, and will try again.
    refused: AtomicBool,
}

/// By ticket: in either, at most one for each sender.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<u64, Waiter>,
    offers: BTreeMap<u64, Offer>,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    waker: Waker,
}

/// Room that was taken for a waiter which has not come for it.
#[derive(Debug)]
struct Offer {
    bytes: u64,
    /// It stood already when offers were looked through last.
    stale: bool,
}

impl SendBudget {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            used: AtomicU64::new(0),
            tickets: AtomicU64::new(0),
            queue: Mutex::default(),
            waiting_count: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
        }
    }

    /// Takes `bytes`, if there is any room and nobody waits for it.
    pub(crate) fn reserve(&self, bytes: u64) -> bool {
        let room = |used: u64| (used < self.bytes_max).then_some(used + bytes);
        !self.is_waited_for() && self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).is_ok()
    }

    /// As [`SendBudget::reserve`], for one who does not wait: that there was no room is remembered until there is.
    pub(crate) fn try_reserve(&self, bytes: u64) -> bool {
        let reserved = self.reserve(bytes);
        if !reserved {
            self.refused.store(true, Ordering::SeqCst);
        }
        reserved
    }

    /// Takes `bytes`, whether there is room or not: what was written with less than its whole credit has got more.
    pub(crate) fn charge(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::SeqCst);
    }

    /// What is taken now.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    /// Whether somebody wants room that there is not.
    pub(crate) fn is_short(&self) -> bool {
        self.is_waited_for() || (self.refused.load(Ordering::SeqCst) && self.used() >= self.bytes_max)
    }

    fn is_waited_for(&self) -> bool {
        self.waiting_count.load(Ordering::SeqCst) > 0
    }

    /// Gives `bytes` back. The caller wakes what it returns, once it holds no lock.
    #[must_use]
    pub(crate) fn release(&self, bytes: u64) -> Vec<Waker> {
        let before = self.used.fetch_sub(bytes, Ordering::SeqCst);
        if before - bytes < self.bytes_max && self.refused.load(Ordering::SeqCst) {
            self.refused.store(false, Ordering::SeqCst);
        }
        let mut wakers = Vec::new();
        if self.is_waited_for() {
            self.serve(&mut lock(&self.queue), &mut wakers);
        }
        wakers
    }

    /// A place in the queue.
    pub(crate) fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes `bytes` if they were offered to the holder of this place, who leaves the queue then. Otherwise `waker` is
    /// woken once they are. Whoever is to be woken for the difference to what was offered is added to `wakers`.
    pub(crate) fn wait(&self, ticket: u64, bytes: u64, waker: &Waker, wakers: &mut Vec<Waker>) -> bool {
        let mut queue = lock(&self.queue);
        if self.take_offer(&mut queue, ticket, bytes) {
            self.serve(&mut queue, wakers);
            return true;
        }
        queue.waiting.insert(ticket, Waiter { bytes, waker: waker.clone() });
        self.count(&queue);
        // Room may have come before the place was taken.
        self.serve(&mut queue, wakers);
        self.take_offer(&mut queue, ticket, bytes)
    }

    /// As [`SendBudget::wait`], for one who does not wait: its place, if it had to, is as before.
    pub(crate) fn try_take(&self, ticket: u64, bytes: u64, wakers: &mut Vec<Waker>) -> bool {
        let mut queue = lock(&self.queue);
        let taken = self.take_offer(&mut queue, ticket, bytes);
        self.serve(&mut queue, wakers);
        taken
    }

    /// An offer may have been made for another message than the one that takes it.
    fn take_offer(&self, queue: &mut Queue, ticket: u64, bytes: u64) -> bool {
        let Some(offer) = queue.offers.remove(&ticket) else { return false };
        self.used.fetch_add(bytes, Ordering::SeqCst);
        self.used.fetch_sub(offer.bytes, Ordering::SeqCst);
        true
    }

    /// Forgets a place. What room was offered to it goes to the next: the caller wakes them.
    #[must_use]
    pub(crate) fn leave(&self, ticket: u64) -> Vec<Waker> {
        let mut queue = lock(&self.queue);
        let left = queue.waiting.remove(&ticket);
        let offered = queue.offers.remove(&ticket).map_or(0, |offer| offer.bytes);
        self.used.fetch_sub(offered, Ordering::SeqCst);
        let mut wakers = Vec::new();
        self.serve(&mut queue, &mut wakers);
        drop(queue);
        drop(left);
        wakers
    }

    /// Called now and then while somebody waits: offers that stood at the last call already go to those who wait. The
    /// caller wakes them.
    #[must_use]
    pub(crate) fn revoke(&self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        if self.is_waited_for() {
            let mut queue = lock(&self.queue);
            let mut revoked = 0;
            queue.offers.retain(|_, offer| {
                let keeps = !std::mem::replace(&mut offer.stale, true);
                revoked += if keeps { 0 } else { offer.bytes };
                keeps
            });
            self.used.fetch_sub(revoked, Ordering::SeqCst);
            self.serve(&mut queue, &mut wakers);
        }
        wakers
    }

    /// Offers what room there is to those who wait.
    fn serve(&self, queue: &mut Queue, wakers: &mut Vec<Waker>) {
        while self.used() < self.bytes_max
            && let Some((ticket, Waiter { bytes, waker })) = queue.waiting.pop_first()
        {
            self.used.fetch_add(bytes, Ordering::SeqCst);
            queue.offers.insert(ticket, Offer { bytes, stale: false });
            wakers.push(waker);
        }
        self.count(queue);
    }

    fn count(&self, queue: &Queue) {
        self.waiting_count.store(queue.waiting.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place in the queue for so many bytes, which is not offered them at once.
    fn enter(budget: &SendBudget, bytes: u64) -> u64 {
        let ticket = budget.ticket();
        assert!(!budget.wait(ticket, bytes, Waker::noop(), &mut Vec::new()));
        ticket
    }

    /// Whether the place was offered them.
    fn takes(budget: &SendBudget, ticket: u64, bytes: u64) -> bool {
        budget.try_take(ticket, bytes, &mut Vec::new())
    }

    #[test]
    fn a_message_is_let_in_while_there_is_any_room() {
        let budget = SendBudget::new(100);
        assert!(budget.reserve(1_000) && !budget.reserve(1));
        let ticket = enter(&budget, 60);
        assert_eq!(budget.release(900).len(), 0, "there is no room yet");
        assert_eq!(budget.release(1).len(), 1);
        assert!(takes(&budget, ticket, 60) && !budget.reserve(1));
    }

    #[test]
    fn who_comes_later_does_not_overtake_those_who_wait() {
        let budget = SendBudget::new(100);
        assert!(budget.reserve(100));
        let tickets = [enter(&budget, 80), enter(&budget, 80)];
        assert_eq!(budget.release(50).len(), 1);
        assert!(!budget.reserve(1) && !budget.try_reserve(1), "the room is the first one's");
        assert!(!takes(&budget, tickets[1], 80) && takes(&budget, tickets[0], 80));
        assert_eq!(budget.release(80).len(), 1);
        assert!(takes(&budget, tickets[1], 80));
        assert_eq!(budget.used(), 130);
    }

    #[test]
    fn one_who_does_not_wait_makes_it_short_until_there_is_room() {
        let budget = SendBudget::new(100);
        assert!(budget.try_reserve(150) && !budget.is_short());
        assert!(!budget.try_reserve(1) && budget.is_short());
        assert_eq!(budget.release(10).len(), 0);
        assert!(budget.is_short(), "there is no room yet");
        assert_eq!(budget.release(100).len(), 0);
        assert!(!budget.is_short());
        assert!(budget.reserve(100) && !budget.is_short(), "nobody has asked since");
    }

    #[test]
    fn an_offer_that_nobody_comes_for_goes_to_the_next_and_keeps_its_place() {
        let budget = SendBudget::new(100);
        assert!(budget.reserve(100));
        let (gone, next) = (enter(&budget, 100), enter(&budget, 100));
        assert_eq!(budget.release(100).len(), 1);
        assert_eq!(budget.revoke().len(), 0, "it was offered just now");
        assert_eq!(budget.revoke().len(), 1);
        assert!(!takes(&budget, gone, 100) && takes(&budget, next, 100));
        // It comes back, and is ahead of one that came meanwhile.
        enter(&budget, 100);
        assert!(!budget.wait(gone, 100, Waker::noop(), &mut Vec::new()));
        assert_eq!(budget.release(100).len(), 1);
        assert!(takes(&budget, gone, 100));
        assert_eq!(budget.used(), 100);
    }

    #[test]
    fn an_offer_that_nobody_else_waits_for_stands() {
        let budget = SendBudget::new(100);
        assert!(budget.reserve(100));
        let ticket = enter(&budget, 100);
        assert_eq!(budget.release(100).len(), 1);
        assert_eq!(budget.revoke().len() + budget.revoke().len(), 0);
        assert!(takes(&budget, ticket, 40));
        assert_eq!(budget.used(), 40);
    }

    #[test]
    fn room_that_a_leaver_did_not_take_goes_to_the_next() {
        let budget = SendBudget::new(100);
        assert!(budget.reserve(100));
        let tickets = [enter(&budget, 100), enter(&budget, 100)];
        assert_eq!(budget.release(100).len(), 1);
        assert_eq!(budget.leave(tickets[0]).len(), 1);
        assert!(takes(&budget, tickets[1], 100));
        assert_eq!(budget.used(), 100);
    }

    #[test]
    fn what_is_charged_counts_though_there_is_no_room() {
        let budget = SendBudget::new(100);
        assert!(budget.reserve(99));
        budget.charge(50);
        assert!(!budget.reserve(1));
        assert_eq!((budget.used(), budget.release(149).len()), (149, 0));
    }
}
