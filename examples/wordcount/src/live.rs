//! How far all processes are together, from what each has told; and how fast, for whoever watches.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    children::Slot,
    events::{Event, Filled, Mapped, Reduced, Sent, Sum},
    plan::{Part, Plan},
    report::{mb_per_s, several},
};

/// Lines of jobs that are shown; the stalled job's comes after them.
const JOBS_SHOWN: usize = 8;

/// What the processes of a plan have told so far.
#[derive(Debug)]
pub(crate) struct Live<'a> {
    plan: &'a Plan,
    mapped: Sum<Mapped>,
    /// Of each job.
    reduced: Vec<Sum<Reduced>>,
    filled: Sum<Filled>,
    sent: Vec<Sent>,
    /// The latest round over its files that each counting mapper has begun.
    begun: Vec<u64>,
    halfway: usize,
    counted: usize,
    left: usize,
    rates: Rates,
}

impl<'a> Live<'a> {
    /// Nothing is told yet.
    pub(crate) fn new(plan: &'a Plan) -> Self {
        let (nodes, counting) = (plan.nodes.len(), plan.jobs * plan.width());
        let reducers = |job| if plan.embedded { nodes } else { plan.workers_of(job, Part::Reduce) };
        let workers = plan.workers(Part::Map).count() + plan.workers(Part::Reduce).count();
        Self {
            plan,
            mapped: Sum::new(if plan.embedded { nodes } else { counting }),
            reduced: plan.all_jobs().map(|job| Sum::new(reducers(job))).collect(),
            filled: Sum::new(nodes),
            sent: Vec::new(),
            begun: vec![0; counting],
            halfway: 0,
            counted: 0,
            left: if plan.embedded { nodes } else { workers },
            rates: Rates::new(plan.all_jobs().len()),
        }
    }

    /// A process tells something.
    pub(crate) fn hear(&mut self, slot: Slot, event: Event) {
        // The process's number among those of its part in its job.
        let of_job = |job| if self.plan.embedded { slot.index } else { slot.index - job * self.plan.width() };
        match event {
            Event::Ready | Event::Opened => {}
            Event::Round { number } => self.begun[slot.index] = number,
            Event::Halfway => self.halfway += 1,
            Event::Counted => self.counted += 1,
            Event::Mapped(now) => self.mapped.set(slot.index, now),
            Event::Reduced { job, now } => self.reduced[job].set(of_job(job), now),
            Event::Filled(now) => self.filled.set(of_job(self.plan.jobs), now),
            Event::Sent(sent) => self.sent.push(sent),
        }
    }

    /// A process has done its part and is gone.
    pub(crate) fn ended(&mut self) {
        self.left -= 1;
    }

    /// How many processes have not done their part.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// The latest round over the files that every counting mapper has begun, from 1. It is told only where their number is
    /// not known beforehand.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.iter().copied().min().unwrap_or(0)
    }

    /// By all counting mappers.
    pub(crate) fn mapped(&self) -> Mapped {
        self.mapped.total()
    }

    /// By the reducers of all counted jobs.
    pub(crate) fn reduced(&self) -> Reduced {
        let mut all = Reduced::default();
        self.reduced[..self.plan.jobs].iter().for_each(|job| all += job.total());
        all
    }

    /// By the reducers of the stalled job.
    pub(crate) fn stalled(&self) -> Reduced {
        self.reduced.get(self.plan.jobs).map(Sum::total).unwrap_or_default()
    }

    /// By the mappers of the stalled job.
    pub(crate) fn filled(&self) -> Filled {
        self.filled.total()
    }

    /// What the streams of the stalled job carried, those that are finished.
    pub(crate) fn sent(&self) -> &[Sent] {
        &self.sent
    }

    /// Whether all counting mappers pause half-way, and all that they have sent is counted.
    pub(crate) fn half_is_counted(&self) -> bool {
        let mappers = if self.plan.embedded { self.plan.nodes.len() } else { self.plan.jobs * self.plan.width() };
        self.halfway == mappers && self.reduced().stream_bytes == self.mapped().stream_bytes
    }

    /// Whether each stream of the stalled job is blocked, or has nothing to send.
    pub(crate) fn is_filled(&self) -> bool {
        let filled = self.filled();
        filled.blocked + filled.wordless == self.plan.stalled_streams() as u64
    }

    /// Whether all counting mappers have sent everything, and the reducers have counted it.
    pub(crate) fn is_counted(&self) -> bool {
        let processes = if self.plan.embedded { self.plan.nodes.len() } else { 2 * self.plan.jobs * self.plan.width() };
        self.counted == processes
    }

    /// A line for each job: its rate since these were asked for last. None where there is but one job.
    pub(crate) fn lines(&mut self, now: Instant) -> Vec<String> {
        if self.reduced.len() == 1 {
            return Vec::new();
        }
        let totals: Vec<_> = self.reduced.iter().map(|job| job.total().stream_bytes).collect();
        let rates = self.rates.since_last(&totals, now);
        let line = |job: usize| format!("{:>12}  {:>8.1} MB/s", self.plan.job(job), rates[job]);
        let mut lines: Vec<_> = (0..self.plan.jobs.min(JOBS_SHOWN)).map(line).collect();
        if self.plan.jobs > JOBS_SHOWN {
            let more = several((self.plan.jobs - JOBS_SHOWN) as u64, "more job");
            let rate: f64 = rates[JOBS_SHOWN..self.plan.jobs].iter().sum();
            lines.push(format!("{more:>12}  {rate:>8.1} MB/s"));
        }
        if self.plan.stall > 0 {
            let Filled { blocked, stream_bytes, .. } = self.filled();
            let streams = several(self.plan.stalled_streams() as u64, "stream");
            let waits = stream_bytes.saturating_sub(self.stalled().stream_bytes);
            lines.push(format!(
                "{}  {blocked} of {streams} blocked by credit, {} kB unread",
                line(self.plan.jobs),
                waits / 1_000
            ));
        }
        lines
    }
}

/// Bytes of several counters, and when they were seen.
#[derive(Debug)]
struct Rates {
    seen: Vec<u64>,
    at: Instant,
}

impl Rates {
    fn new(counters: usize) -> Self {
        Self { seen: vec![0; counters], at: Instant::now() }
    }

    /// 10^6 bytes a second since the last call.
    fn since_last(&mut self, totals: &[u64], now: Instant) -> Vec<f64> {
        let time = now.saturating_duration_since(self.at).max(Duration::from_millis(1));
        let rates = totals.iter().zip(&self.seen).map(|(total, seen)| mb_per_s(total - seen, time)).collect();
        (self.seen, self.at) = (totals.to_vec(), now);
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::children::Kind;

    fn plan(embedded: bool) -> Plan {
        let nodes = ["node-1", "node-2"].map(str::to_owned).into();
        Plan { run: "r".to_owned(), nodes, per_node: 1, jobs: 2, rounds: Some(1), stall: 1, embedded }
    }

    fn reduced(job: usize, stream_bytes: u64) -> Event {
        Event::Reduced { job, now: Reduced { words: 1, messages: 1, stream_bytes } }
    }

    #[test]
    fn the_stalled_job_is_counted_apart() {
        let plan = plan(false);
        let mut live = Live::new(&plan);
        let reducer = |index| Slot { kind: Kind::Worker(Part::Reduce), index };
        let mapper = |index| Slot { kind: Kind::Worker(Part::Map), index };
        live.hear(reducer(1), reduced(0, 10));
        live.hear(reducer(3), reduced(1, 20));
        live.hear(reducer(4), reduced(2, 500));
        assert_eq!((live.reduced().stream_bytes, live.stalled().stream_bytes), (30, 500));
        let blocked =
            |index| Event::Filled(Filled { blocked: 1, messages: 1, stream_bytes: index, ..Filled::default() });
        live.hear(mapper(4), blocked(4));
        assert!(!live.is_filled());
        live.hear(mapper(5), blocked(5));
        assert!(live.is_filled());
        assert_eq!(live.filled().stream_bytes, 9);
        assert_eq!(live.left(), 11, "four and four that count, two and one that do not");
    }

    #[test]
    fn a_round_is_begun_when_the_last_mapper_has_begun_it() {
        let plan = Plan { stall: 0, ..plan(false) };
        let mut live = Live::new(&plan);
        let mut begins = |index, number| {
            live.hear(Slot { kind: Kind::Worker(Part::Map), index }, Event::Round { number });
            live.begun()
        };
        assert_eq!(
            [(0, 1), (1, 1), (2, 1), (0, 2), (3, 1)].map(|(index, number)| begins(index, number)),
            [0, 0, 0, 0, 1]
        );
        assert_eq!([(3, 2), (2, 2), (1, 2)].map(|(index, number)| begins(index, number)), [1, 1, 2]);
    }

    #[test]
    fn half_is_counted_when_nothing_is_on_its_way_any_more() {
        let plan = plan(true);
        let mut live = Live::new(&plan);
        let node = |index| Slot { kind: Kind::Node, index };
        live.hear(node(0), Event::Mapped(Mapped { stream_bytes: 8, ..Mapped::default() }));
        (0..2).for_each(|index| live.hear(node(index), Event::Halfway));
        assert!(!live.half_is_counted());
        live.hear(node(1), reduced(1, 8));
        assert!(live.half_is_counted());
        live.hear(node(0), Event::Counted);
        assert!(!live.is_counted());
        live.hear(node(1), Event::Counted);
        assert!(live.is_counted());
    }

    #[test]
    fn each_job_has_a_line_with_what_it_did_since_the_last() {
        let plan = plan(true);
        let mut live = Live::new(&plan);
        let (node, start) = (Slot { kind: Kind::Node, index: 1 }, Instant::now());
        live.lines(start);
        live.hear(node, reduced(0, 3_000_000));
        live.hear(node, Event::Filled(Filled { blocked: 2, stream_bytes: 65_000, ..Filled::default() }));
        let expected = [
            " wordcount-1       1.5 MB/s",
            " wordcount-2       0.0 MB/s",
            "     stalled       0.0 MB/s  2 of 2 streams blocked by credit, 65 kB unread",
        ];
        assert_eq!(live.lines(start + Duration::from_secs(2)), expected);
        let alone = Plan { jobs: 1, stall: 0, ..plan };
        assert!(Live::new(&alone).lines(start).is_empty());
    }
}
