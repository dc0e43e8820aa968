//! What all streams of the process share: the credit that it grants, and the memory that its senders fill.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
};

use trunkline_session::{CreditPolicy, Grant, Reclaim};

use super::{ReceiveCell, lock};

/// What a receiving stream tells the credit policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// It was opened, and has its first limit.
    Opened,
    /// Its application has consumed it so far.
    Consumed(u64),
    /// It has consumed everything before a message that ends beyond the limit.
    Message { consumed: u64, end: u64 },
    /// Its sender has bytes up to here.
    Wanted(u64),
    /// Its sender has given back what it was granted beyond this.
    Limited(u64),
    /// It has ended, and nothing of it is held any more.
    Close,
}

/// What the policy has decided on a stream. The numbers are offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may be sent up to here.
    Granted(u64),
    /// Its sender is to give back what it has beyond this.
    Reclaimed(u64),
}

/// A verdict on its way to the stream.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) cell: Arc<ReceiveCell>,
    pub(crate) verdict: Verdict,
    /// Rises from verdict to verdict. Two threads may carry them to the stream in another order, and a grant that comes
    /// behind the reclaim that followed it is void.
    pub(crate) number: u64,
}

/// The credit policy, and the streams that it decides on. Its lock is the innermost: no other is taken under it.
pub(crate) struct CreditBook(Mutex<Book>);

struct Book {
    policy: Box<dyn CreditPolicy>,
    cells: HashMap<u64, Arc<ReceiveCell>>,
    /// The number of the last decision.
    decisions: u64,
}

impl Book {
    /// Everything that the policy has decided since the last time, in order.
    fn drain(&mut self) -> Vec<Decision> {
        let mut decisions = Vec::new();
        loop {
            let (stream, verdict) = match self.policy.poll_grant() {
                Some(Grant { stream, limit }) => (stream, Verdict::Granted(limit)),
                None => match self.policy.poll_reclaim() {
                    Some(Reclaim { stream, limit }) => (stream, Verdict::Reclaimed(limit)),
                    None => return decisions,
                },
            };
            if let Some(cell) = self.cells.get(&stream) {
                self.decisions += 1;
                decisions.push(Decision { cell: Arc::clone(cell), verdict, number: self.decisions });
            }
        }
    }
}

impl CreditBook {
    pub(crate) fn new(policy: Box<dyn CreditPolicy>) -> Self {
        Self(Mutex::new(Book { policy, cells: HashMap::new(), decisions: 0 }))
    }

    /// Enters a stream; `make` is given its first limit. Tell [`News::Opened`] after it: others may have to give way.
    pub(crate) fn open(&self, stream: u64, make: impl FnOnce(u64) -> Arc<ReceiveCell>) -> Arc<ReceiveCell> {
        let mut book = lock(&self.0);
        let cell = make(book.policy.open(stream, None));
        book.cells.insert(stream, Arc::clone(&cell));
        cell
    }

    /// Tells the policy, and returns what it decides in answer. The caller tells the cells.
    pub(crate) fn tell(&self, stream: u64, news: News) -> Vec<Decision> {
        let mut book = lock(&self.0);
        // Dropped after the lock: it may be the last of its cell.
        let mut closed = None;
        match news {
            News::Opened => {}
            News::Consumed(consumed) => book.policy.consumed(stream, consumed),
            News::Message { consumed, end } => book.policy.message(stream, consumed, end),
            News::Wanted(wanted) => book.policy.wanted(stream, wanted),
            News::Limited(limit) => book.policy.limited(stream, limit),
            News::Close => {
                book.policy.close(stream);
                closed = book.cells.remove(&stream);
            }
        }
        let decisions = book.drain();
        drop(book);
        drop(closed);
        decisions
    }

    /// The link is gone: nobody can be granted anything.
    pub(crate) fn clear(&self) {
        let cells = mem::take(&mut lock(&self.0).cells);
        drop(cells);
    }
}

/// What all senders of the process may hold together: unsent, or kept until the other process has it.
///
/// A message is let in while there is any room at all, so the budget is exceeded by one message at most, and a long one
/// need not wait until everybody else holds nothing. When there is no room, `send` waits; of those who wait, as many are
/// woken as there is room for, in their order. One that did not wait may be quicker than who was woken, and takes its room.
#[derive(Debug)]
pub(crate) struct SendBudget {
    bytes_max: u64,
    used: AtomicU64,
    tickets: AtomicU64,
    /// Who waits, by ticket: at most one for each sender.
    waiting: Mutex<BTreeMap<u64, Waiter>>,
    waiting_count: AtomicUsize,
    /// Somebody who does not wait was refused, and will try again.
    refused: AtomicBool,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    waker: Waker,
}

impl SendBudget {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            used: AtomicU64::new(0),
            tickets: AtomicU64::new(0),
            waiting: Mutex::new(BTreeMap::new()),
            waiting_count: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
        }
    }

    /// Takes `bytes`, if there is any room.
    pub(crate) fn reserve(&self, bytes: u64) -> bool {
        let room = |used: u64| (used < self.bytes_max).then_some(used + bytes);
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).is_ok()
    }

    /// As [`SendBudget::reserve`], for one who does not wait: that there was no room is remembered until there is.
    pub(crate) fn try_reserve(&self, bytes: u64) -> bool {
        let reserved = self.reserve(bytes);
        if !reserved {
            self.refused.store(true, Ordering::SeqCst);
        }
        reserved
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
        self.serve()
    }

    /// A place in the queue.
    pub(crate) fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// Has `waker` woken when there is room; nobody behind it is woken for `bytes` of that. Ask [`SendBudget::reserve`]
    /// again after this: room may have come between.
    pub(crate) fn wait(&self, ticket: u64, bytes: u64, waker: &Waker) {
        let mut waiting = lock(&self.waiting);
        waiting.insert(ticket, Waiter { bytes, waker: waker.clone() });
        self.waiting_count.store(waiting.len(), Ordering::SeqCst);
    }

    /// Forgets a waiter. What room it was woken for and did not take goes to the next: the caller wakes them.
    #[must_use]
    pub(crate) fn leave(&self, ticket: u64) -> Vec<Waker> {
        let mut waiting = lock(&self.waiting);
        let left = waiting.remove(&ticket);
        self.waiting_count.store(waiting.len(), Ordering::SeqCst);
        drop(waiting);
        drop(left);
        self.serve()
    }

    /// Takes those out of the queue for whom there is room.
    fn serve(&self) -> Vec<Waker> {
        if !self.is_waited_for() {
            return Vec::new();
        }
        let mut waiting = lock(&self.waiting);
        let mut used = self.used.load(Ordering::SeqCst);
        let mut wakers = Vec::new();
        while used < self.bytes_max
            && let Some((_, waiter)) = waiting.pop_first()
        {
            used += waiter.bytes;
            wakers.push(waiter.waker);
        }
        self.waiting_count.store(waiting.len(), Ordering::SeqCst);
        wakers
    }
}

#[cfg(test)]
mod tests {
    use trunkline_proto::id::Incarnation;
    use trunkline_session::Cap;

    use super::*;
    use crate::{link::Delivery, receiver::ProducerInfo};

    /// Grants and asks back as the test says.
    #[derive(Default)]
    struct Scripted {
        grants: Vec<Grant>,
        reclaims: Vec<Reclaim>,
    }

    impl CreditPolicy for Scripted {
        fn open(&mut self, _: u64, _: Option<Cap>) -> u64 {
            100
        }
        fn ceiling(&mut self, _: u64, _: u64) {}
        fn limited(&mut self, stream: u64, limit: u64) {
            self.grants.push(Grant { stream, limit: limit + 1 });
        }
        fn consumed(&mut self, _: u64, _: u64) {}
        fn wanted(&mut self, stream: u64, limit: u64) {
            self.grants.push(Grant { stream, limit });
            self.reclaims.push(Reclaim { stream, limit: 7 });
            self.reclaims.push(Reclaim { stream: 99, limit: 7 });
        }
        fn message(&mut self, _: u64, _: u64, _: u64) {}
        fn close(&mut self, _: u64) {}
        fn poll_grant(&mut self) -> Option<Grant> {
            self.grants.pop()
        }
        fn poll_reclaim(&mut self) -> Option<Reclaim> {
            self.reclaims.pop()
        }
    }

    fn cell(id: u64, limit: u64) -> Arc<ReceiveCell> {
        let producer = ProducerInfo {
            name: "map".try_into().unwrap(),
            node: "node-b".try_into().unwrap(),
            incarnation: Incarnation::from_bits(1),
            number: 1,
            stream: id,
        };
        let (life, delivery) = (Incarnation::from_bits(2), Delivery::Reader(None));
        Arc::new(ReceiveCell::new(id, Arc::new(producer), life, Arc::default(), delivery, limit, 1000))
    }

    #[test]
    fn the_book_hands_over_grants_and_reclaims_in_the_order_in_which_they_were_decided() {
        let book = CreditBook::new(Box::new(Scripted::default()));
        book.open(1, |limit| cell(1, limit));
        let decided: Vec<_> = book.tell(1, News::Wanted(500)).iter().map(|one| (one.number, one.verdict)).collect();
        assert_eq!(decided, [(1, Verdict::Granted(500)), (2, Verdict::Reclaimed(7))]);
        let decided: Vec<_> = book.tell(1, News::Limited(9)).iter().map(|one| (one.number, one.verdict)).collect();
        assert_eq!(decided, [(3, Verdict::Granted(10))]);
    }

    #[test]
    fn a_message_is_let_in_while_there_is_any_room() {
        let budget = SendBudget::new(100);
        assert!(budget.reserve(1_000));
        assert!(!budget.reserve(1));
        budget.wait(budget.ticket(), 60, Waker::noop());
        assert_eq!(budget.release(900).len(), 0, "there is no room yet");
        assert_eq!(budget.release(1).len(), 1);
        assert!(budget.reserve(60) && !budget.reserve(1));
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
    fn a_waiter_that_may_never_come_keeps_room_from_nobody() {
        let budget = SendBudget::new(100);
        assert!(budget.reserve(100));
        budget.wait(budget.ticket(), 0, Waker::noop());
        budget.wait(budget.ticket(), 100, Waker::noop());
        assert_eq!(budget.release(100).len(), 2);
    }

    #[test]
    fn room_that_a_leaver_did_not_take_goes_to_the_next() {
        let budget = SendBudget::new(100);
        assert!(budget.reserve(100));
        let tickets = [budget.ticket(), budget.ticket()];
        for ticket in tickets {
            budget.wait(ticket, 100, Waker::noop());
        }
        assert_eq!(budget.release(100).len(), 1);
        assert_eq!(budget.leave(tickets[0]).len(), 1);
    }
}
