//! The credit that the process grants to the streams that it receives.

use std::{
    mem,
    sync::{Arc, Mutex},
};

use hashbrown::HashMap;
use trunkline_proto::id::JobName;
use trunkline_session::{Cap, CreditPolicy, Grant, Reclaim};

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
    /// Of the jobs that have one.
    caps: HashMap<JobName, Cap>,
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
    pub(crate) fn new(policy: Box<dyn CreditPolicy>, caps: HashMap<JobName, Cap>) -> Self {
        Self(Mutex::new(Book { policy, cells: HashMap::new(), caps, decisions: 0 }))
    }

    /// Enters a stream of a job; `make` is given its first limit. Tell [`News::Opened`] after it: others may have to give
    /// way.
    pub(crate) fn open(
        &self,
        stream: u64,
        job: &JobName,
        make: impl FnOnce(u64) -> Arc<ReceiveCell>,
    ) -> Arc<ReceiveCell> {
        let mut book = lock(&self.0);
        let cap = book.caps.get(job).copied();
        let cell = make(book.policy.open(stream, cap));
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

    /// Whether a stream waits for its turn of the budget.
    pub(crate) fn is_waited_for(&self) -> bool {
        lock(&self.0).policy.is_waited_for()
    }

    /// Some time has passed. Returns what the policy decides by that. The caller tells the cells.
    pub(crate) fn pass_time(&self) -> Vec<Decision> {
        let mut book = lock(&self.0);
        if !book.policy.is_waited_for() {
            return Vec::new();
        }
        book.policy.pass_time();
        book.drain()
    }

    /// The link is gone: nobody can be granted anything.
    pub(crate) fn clear(&self) {
        let cells = mem::take(&mut lock(&self.0).cells);
        drop(cells);
    }
}

#[cfg(test)]
mod tests {
    use trunkline_proto::id::Incarnation;

    use super::*;
    use crate::{
        link::{Delivery, Path},
        receiver::ProducerInfo,
    };

    /// Grants and asks back as the test says.
    #[derive(Default)]
    struct Scripted {
        grants: Vec<Grant>,
        reclaims: Vec<Reclaim>,
    }

    impl CreditPolicy for Scripted {
        fn open_at(&mut self, _: u64, _: u64, _: Option<Cap>) -> u64 {
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

        fn is_waited_for(&self) -> bool {
            false
        }

        fn pass_time(&mut self) {}
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
        Arc::new(ReceiveCell::new(
            Path { link_id: id, epoch: 0 },
            Arc::new(producer),
            life,
            Arc::default(),
            delivery,
            limit,
            1000,
        ))
    }

    #[test]
    fn the_book_hands_over_grants_and_reclaims_in_the_order_in_which_they_were_decided() {
        let book = CreditBook::new(Box::new(Scripted::default()), HashMap::new());
        book.open(1, &"job".try_into().unwrap(), |limit| cell(1, limit));
        let decided: Vec<_> = book.tell(1, News::Wanted(500)).iter().map(|one| (one.number, one.verdict)).collect();
        assert_eq!(decided, [(1, Verdict::Granted(500)), (2, Verdict::Reclaimed(7))]);
        let decided: Vec<_> = book.tell(1, News::Limited(9)).iter().map(|one| (one.number, one.verdict)).collect();
        assert_eq!(decided, [(3, Verdict::Granted(10))]);
    }
}
