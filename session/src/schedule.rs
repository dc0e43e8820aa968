//! Whose turn it is: deficit round robin over jobs, then over their streams, the newly active first.
//!
//! After fq_codel (RFC 8290 §4): a stream that had nothing to send is served ahead of those that always have, so that a
//! small message does not wait behind bulk; but after each quantum of such turns one of the others gets its own, so that
//! streams which run dry in every turn do not keep them out. Busy jobs share by bytes, in proportion to their weights;
//! within a job each stream gets a quantum a turn. A quantum shrinks as streams become many, so that a round stays short,
//! but not below a turn of credit.

use std::{collections::VecDeque, hash::Hash};

use hashbrown::HashMap;
use trunkline_proto::id::Weight;

/// What all active streams together are given in one round, unless the bounds below say otherwise.
const ROUND_BYTES: usize = 64 << 20;
/// The least that a turn gives: what credit gives at least, and the length of a message beside it. A stream that has so much
/// credit leaves in one turn, and not in several, each of which costs as much.
const QUANTUM_BYTES_MIN: usize = (16 << 10) + 64;
/// The most that a turn gives: more would make others wait.
const QUANTUM_BYTES_MAX: usize = 64 << 10;

/// Items (streams) of jobs `J`, each in here at most once, in the order in which they are to be served.
#[derive(Debug)]
pub struct Schedule<J, T> {
    jobs: HashMap<J, Job<T>>,
    /// Jobs that have items, in turn.
    turns: VecDeque<J>,
    items: usize,
}

/// A turn of one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn<T> {
    /// Whose it is.
    pub item: T,
    /// How many bytes it may send.
    pub quantum: usize,
    /// Whether it had nothing to send before.
    pub is_fresh: bool,
}

#[derive(Debug)]
struct Job<T> {
    /// As the item said that became active last.
    weight: Weight,
    /// Items that became active since their last turn.
    fresh: VecDeque<T>,
    /// Items that had more than one turn's worth.
    steady: VecDeque<T>,
    /// Bytes that fresh items took since a steady one had its turn.
    fresh_bytes: usize,
    /// Whether the last turn was a fresh item's.
    fresh_turn: bool,
    /// How many bytes the job may still be served in this round of the jobs; negative when it took more.
    deficit: isize,
}

impl<J, T> Default for Schedule<J, T> {
    fn default() -> Self {
        Self { jobs: HashMap::new(), turns: VecDeque::new(), items: 0 }
    }
}

impl<J: Clone + Eq + Hash, T> Schedule<J, T> {
    /// An item has become active. Its job has this weight from now on.
    pub fn activate(&mut self, job: &J, weight: Weight, item: T) {
        let entry = self.job(job, weight);
        entry.weight = weight;
        entry.fresh.push_back(item);
        self.items += 1;
    }

    /// An item that was just served has more to send.
    pub fn requeue(&mut self, job: &J, weight: Weight, item: T) {
        self.job(job, weight).steady.push_back(item);
        self.items += 1;
    }

    /// Whether nothing waits for its turn.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Whose turn it is. The item is no longer in here; tell [`Schedule::served`] what it took, and requeue it if it has more.
    pub fn next_turn(&mut self) -> Option<Turn<T>> {
        let quantum = (ROUND_BYTES / self.items.max(1)).clamp(QUANTUM_BYTES_MIN, QUANTUM_BYTES_MAX);
        loop {
            let name = self.turns.front()?;
            let job = self.jobs.get_mut(name)?;
            if job.fresh.is_empty() && job.steady.is_empty() {
                self.jobs.remove(name);
                self.turns.pop_front();
                continue;
            }
            if job.deficit <= 0 && self.turns.len() > 1 {
                job.deficit += share(job.weight);
                self.turns.rotate_left(1);
                continue;
            }
            let steady = job.fresh.is_empty() || (!job.steady.is_empty() && job.fresh_bytes >= QUANTUM_BYTES_MAX);
            job.fresh_turn = !steady;
            let item = if steady {
                job.fresh_bytes = 0;
                job.steady.pop_front()?
            } else {
                job.fresh.pop_front()?
            };
            self.items -= 1;
            return Some(Turn { item, quantum, is_fresh: !steady });
        }
    }

    /// An item of `job` has sent so many bytes in its turn.
    pub fn served(&mut self, job: &J, bytes: usize) {
        if let Some(job) = self.jobs.get_mut(job) {
            if job.fresh_turn {
                job.fresh_bytes += bytes;
            }
            let bytes = isize::try_from(bytes).unwrap_or(isize::MAX);
            let most = isize::try_from(QUANTUM_BYTES_MAX).unwrap_or(isize::MAX);
            // A job that was alone took what it liked; it does not pay for that when others come.
            job.deficit = (job.deficit - bytes).max(-most);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn job(&mut self, name: &J, weight: Weight) -> &mut Job<T> {
        self.jobs.entry(name.clone()).or_insert_with(|| {
            self.turns.push_back(name.clone());
            Job {
                weight,
                fresh: VecDeque::new(),
                steady: VecDeque::new(),
                fresh_bytes: 0,
                fresh_turn: false,
                deficit: 0,
            }
        })
    }
}

/// What a job of this weight may send in one round of the jobs.
fn share(weight: Weight) -> isize {
    isize::try_from(QUANTUM_BYTES_MAX).unwrap_or(isize::MAX).saturating_mul(weight.get().into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Serves `turns` turns of items that always have more, and adds up what each took.
    fn serve(
        schedule: &mut Schedule<&'static str, (&'static str, u32)>,
        turns: usize,
    ) -> BTreeMap<(&'static str, u32), usize> {
        let mut took = BTreeMap::new();
        for _ in 0..turns {
            let Some(Turn { item, quantum, .. }) = schedule.next_turn() else { break };
            schedule.served(&item.0, quantum);
            schedule.requeue(&item.0, Weight::MIN, item);
            *took.entry(item).or_default() += quantum;
        }
        took
    }

    #[test]
    fn streams_of_one_job_share_equally() {
        let mut schedule = Schedule::default();
        for stream in 0..7 {
            schedule.activate(&"job", Weight::MIN, ("job", stream));
        }
        let took = serve(&mut schedule, 700);
        // The first turns of all are fresh ones, and some come to their second before others to their first.
        let even = |&bytes: &usize| bytes.abs_diff(100 * QUANTUM_BYTES_MAX) <= 4 * QUANTUM_BYTES_MAX;
        assert!(took.values().all(even), "{took:?}");
    }

    #[test]
    fn jobs_share_equally_whatever_their_streams() {
        let mut schedule = Schedule::default();
        schedule.activate(&"few", Weight::MIN, ("few", 0));
        for stream in 0..99 {
            schedule.activate(&"many", Weight::MIN, ("many", stream));
        }
        let took = serve(&mut schedule, 2_000);
        let few = took[&("few", 0)];
        let all: usize = took.values().sum();
        assert!(few.abs_diff(all / 2) <= 2 * QUANTUM_BYTES_MAX, "{few} of {all}");
    }

    #[test]
    fn busy_jobs_share_in_proportion_to_their_weights() {
        let mut schedule = Schedule::default();
        let weights = [("one", Weight::MIN), ("three", Weight::try_from(3).unwrap())];
        for (job, weight) in weights {
            for stream in 0..50 {
                schedule.activate(&job, weight, (job, stream));
            }
        }
        let mut took = BTreeMap::new();
        for _ in 0..8_000 {
            let Turn { item: (job, stream), quantum, .. } = schedule.next_turn().unwrap();
            schedule.served(&job, quantum);
            let weight = weights.into_iter().find_map(|(name, weight)| (name == job).then_some(weight)).unwrap();
            schedule.requeue(&job, weight, (job, stream));
            *took.entry(job).or_default() += quantum;
        }
        let [one, three]: [usize; 2] = [took["one"], took["three"]];
        assert!((3 * one).abs_diff(three) <= 8 * QUANTUM_BYTES_MAX, "{one} and {three}");
    }

    #[test]
    fn a_newly_active_stream_goes_first() {
        let mut schedule = Schedule::default();
        for stream in 0..1_000 {
            schedule.activate(&"job", Weight::MIN, ("job", stream));
        }
        serve(&mut schedule, 3_000);
        schedule.activate(&"job", Weight::MIN, ("job", 5_000));
        let turn = schedule.next_turn().unwrap();
        assert_eq!((turn.item.1, turn.is_fresh), (5_000, true));
        assert!(!schedule.next_turn().unwrap().is_fresh);
    }

    #[test]
    fn streams_that_run_dry_in_every_turn_do_not_keep_a_busy_one_out() {
        let mut schedule = Schedule::default();
        schedule.activate(&"job", Weight::MIN, 0);
        for stream in 1..=8 {
            schedule.activate(&"job", Weight::MIN, stream);
        }
        let (mut busy, mut all) = (0, 0);
        for _ in 0..1_000 {
            let Turn { item: stream, quantum, .. } = schedule.next_turn().unwrap();
            let bytes = if stream == 0 { quantum } else { 16 << 10 };
            schedule.served(&"job", bytes);
            all += bytes;
            if stream == 0 {
                busy += bytes;
                schedule.requeue(&"job", Weight::MIN, stream);
            } else {
                // It is empty, and full again before its next turn.
                schedule.activate(&"job", Weight::MIN, stream);
            }
        }
        assert!(busy >= all / 3, "{busy} of {all}");
    }

    #[test]
    fn a_job_that_was_alone_does_not_pay_for_it_later() {
        let mut schedule = Schedule::default();
        schedule.activate(&"old", Weight::MIN, ("old", 0));
        serve(&mut schedule, 10_000);
        schedule.activate(&"new", Weight::MIN, ("new", 0));
        let took = serve(&mut schedule, 100);
        let (old, new) = (took[&("old", 0)], took[&("new", 0)]);
        assert!(old.abs_diff(new) <= 2 * QUANTUM_BYTES_MAX, "{old} and {new}");
    }

    #[test]
    fn quanta_shrink_as_streams_become_many() {
        let mut schedule = Schedule::default();
        for stream in 0..100_000 {
            schedule.activate(&"job", Weight::MIN, ("job", stream));
        }
        assert_eq!(schedule.next_turn().map(|turn| turn.quantum), Some(QUANTUM_BYTES_MIN));
    }
}
