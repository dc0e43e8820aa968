//! What processes tell the launcher while they run: one JSON object a line, on standard output.

use std::{
    fmt,
    io::{self, Write},
    ops::{AddAssign, SubAssign},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::plan::{Part, Plan, Worker};

/// Progress is told this often at most: thousands of lines a second would only be read, never seen.
const PROGRESS_PAUSE: Duration = Duration::from_millis(100);

/// One line. Counters are totals of all workers of the process since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// A process with an embedded node: the node listens, and the process waits for the word to open streams.
    Ready,
    /// Every stream of every mapper is open, and they wait for the word to begin.
    Opened,
    /// The one mapper of a process begins a round over its files. It is told only where their number is not known
    /// beforehand: not where nodes are embedded.
    Round {
        /// Which, from 1.
        number: u64,
    },
    /// Every counting mapper has sent the first half of its files and waits for the word to send the rest. It is told
    /// only where a job stalls.
    Halfway,
    /// Every mapper that counts has sent everything and every reducer has counted it; those of the stalled job may not
    /// have.
    Counted,
    /// How far the counting mappers are.
    Mapped(Mapped),
    /// How far the reducers of one job are.
    Reduced {
        /// The job's number.
        job: usize,
        /// Of all of its reducers in the process.
        #[serde(flatten)]
        now: Reduced,
    },
    /// How the senders to reducers that sleep are.
    Filled(Filled),
    /// A stream to a reducer that slept is finished.
    Sent(Sent),
}

/// What a stream of the stalled job carried: the corpus so many times, then so many files of it, then so many bytes of the
/// next one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// The reducer's number.
    pub(crate) reducer: usize,
    /// How many times the whole corpus.
    pub(crate) rounds: u64,
    /// How many whole files after that.
    pub(crate) files: usize,
    /// How many bytes of the file after these. A word that is cut there ends there.
    pub(crate) bytes: u64,
}

/// How the streams of the stalled job are, seen from their senders.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filled {
    /// Streams that have more to send and whose credit is used up.
    pub(crate) blocked: u64,
    /// Streams that have nothing to send, for there is no word.
    pub(crate) wordless: u64,
    /// Messages sent.
    pub(crate) messages: u64,
    /// Bytes of their payload.
    pub(crate) stream_bytes: u64,
}

/// How far mappers are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mapped {
    /// Files read.
    pub(crate) files: u64,
    /// Bytes read of them.
    pub(crate) bytes: u64,
    /// Messages sent.
    pub(crate) messages: u64,
    /// Bytes of their payload.
    pub(crate) stream_bytes: u64,
}

/// How far reducers are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reduced {
    /// Words counted.
    pub(crate) words: u64,
    /// Messages received.
    pub(crate) messages: u64,
    /// Bytes of their payload.
    pub(crate) stream_bytes: u64,
}

/// Adds and subtracts counter by counter.
macro_rules! counters {
    ($name:ident { $($field:ident),+ }) => {
        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)+
            }
        }
        impl SubAssign for $name {
            fn sub_assign(&mut self, other: Self) {
                $(self.$field -= other.$field;)+
            }
        }
    };
}

counters!(Mapped { files, bytes, messages, stream_bytes });
counters!(Reduced { words, messages, stream_bytes });
counters!(Filled { blocked, wordless, messages, stream_bytes });

/// Counters of many processes, and their sum.
#[derive(Debug)]
pub(crate) struct Sum<T> {
    each: Vec<T>,
    total: T,
}

impl<T: Copy + Default + AddAssign + SubAssign> Sum<T> {
    /// Of so many processes.
    pub(crate) fn new(processes: usize) -> Self {
        Self { each: vec![T::default(); processes], total: T::default() }
    }

    /// Process number `process` told that it has come this far.
    pub(crate) fn set(&mut self, process: usize, now: T) {
        self.total += now;
        self.total -= self.each[process];
        self.each[process] = now;
    }

    /// How far all have come together.
    pub(crate) fn total(&self) -> T {
        self.total
    }
}

/// The line to the launcher, shared by all workers of a process: it tells what they have done together.
#[derive(Debug, Clone)]
pub(crate) struct Teller(Arc<Mutex<Totals>>);

impl Teller {
    /// Of a process with these workers of `plan`, which writes to `out`. Nothing is told yet.
    pub(crate) fn new(plan: &Plan, workers: &[Worker], out: impl Write + Send + 'static) -> Self {
        let counting = |worker: &&Worker| !plan.is_stalled(worker.job);
        let mappers = || workers.iter().filter(|worker| worker.part == Part::Map);
        Self(Arc::new(Mutex::new(Totals {
            unopened: mappers().count(),
            before_half: mappers().filter(counting).count(),
            uncounted: workers.iter().filter(counting).count(),
            mapped: Counter::new(),
            reduced: plan.all_jobs().map(|_| Counter::new()).collect(),
            filled: Counter::new(),
            out: Box::new(out),
        })))
    }

    /// A process with an embedded node: it listens.
    pub(crate) fn ready(&self) -> io::Result<()> {
        self.totals().write(Event::Ready)
    }

    /// A mapper has opened all its streams. The last one of the process tells it.
    pub(crate) fn opened(&self) -> io::Result<()> {
        let mut totals = self.totals();
        totals.unopened = totals.unopened.saturating_sub(1);
        if totals.unopened == 0 { totals.write(Event::Opened) } else { Ok(()) }
    }

    /// A mapper begins a round over its files.
    pub(crate) fn round(&self, number: u64) -> io::Result<()> {
        self.totals().write(Event::Round { number })
    }

    /// A counting mapper has sent the first half of its files. The last one of the process tells it, after all that they
    /// have done.
    pub(crate) fn halfway(&self) -> io::Result<()> {
        let mut totals = self.totals();
        totals.before_half = totals.before_half.saturating_sub(1);
        if totals.before_half > 0 {
            return Ok(());
        }
        totals.tell_rest()?;
        totals.write(Event::Halfway)
    }

    /// A mapper that counts has sent everything, or a reducer has counted it. The last one of the process tells it, after all that they have done.
    pub(crate) fn counted(&self) -> io::Result<()> {
        let mut totals = self.totals();
        totals.uncounted = totals.uncounted.saturating_sub(1);
        if totals.uncounted > 0 {
            return Ok(());
        }
        totals.tell_rest()?;
        totals.write(Event::Counted)
    }

    /// A mapper has done so much more. It is told unless something of mappers was told a moment ago.
    pub(crate) fn mapped(&self, more: Mapped) -> io::Result<()> {
        let mut totals = self.totals();
        totals.mapped.add(more);
        if totals.mapped.is_due() { totals.tell_mapped() } else { Ok(()) }
    }

    /// A reducer of a job has done so much more. It is told unless something of that job's was told a moment ago.
    pub(crate) fn reduced(&self, job: usize, more: Reduced) -> io::Result<()> {
        let mut totals = self.totals();
        totals.reduced[job].add(more);
        if totals.reduced[job].is_due() { totals.tell_reduced(job) } else { Ok(()) }
    }

    /// A sender to a reducer that sleeps changes what it is. That it is blocked, or no longer, is told at once.
    pub(crate) fn filled(&self, change: impl FnOnce(&mut Filled)) -> io::Result<()> {
        let mut totals = self.totals();
        let before = totals.filled.total;
        change(&mut totals.filled.total);
        totals.filled.untold = true;
        let now = totals.filled.total;
        let changed = (before.blocked, before.wordless) != (now.blocked, now.wordless);
        if changed || totals.filled.is_due() { totals.tell_filled() } else { Ok(()) }
    }

    /// A stream to a reducer that slept is finished.
    pub(crate) fn sent(&self, sent: Sent) -> io::Result<()> {
        self.totals().write(Event::Sent(sent))
    }

    /// Tells what is not told yet.
    pub(crate) fn tell_rest(&self) -> io::Result<()> {
        self.totals().tell_rest()
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the workers of a process have done, and what of it is told.
struct Totals {
    unopened: usize,
    before_half: usize,
    uncounted: usize,
    mapped: Counter<Mapped>,
    /// Of each job.
    reduced: Vec<Counter<Reduced>>,
    filled: Counter<Filled>,
    out: Box<dyn Write + Send>,
}

impl Totals {
    fn tell_mapped(&mut self) -> io::Result<()> {
        let event = Event::Mapped(self.mapped.take());
        self.write(event)
    }

    fn tell_reduced(&mut self, job: usize) -> io::Result<()> {
        let event = Event::Reduced { job, now: self.reduced[job].take() };
        self.write(event)
    }

    fn tell_filled(&mut self) -> io::Result<()> {
        let event = Event::Filled(self.filled.take());
        self.write(event)
    }

    fn tell_rest(&mut self) -> io::Result<()> {
        if self.mapped.untold {
            self.tell_mapped()?;
        }
        for job in 0..self.reduced.len() {
            if self.reduced[job].untold {
                self.tell_reduced(job)?;
            }
        }
        if self.filled.untold { self.tell_filled() } else { Ok(()) }
    }

    fn write(&mut self, event: Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        self.out.flush()
    }
}

impl fmt::Debug for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unopened, before_half, uncounted, mapped, reduced, filled, out: _ } = self;
        f.debug_struct("Totals")
            .field("unopened", unopened)
            .field("before_half", before_half)
            .field("uncounted", uncounted)
            .field("mapped", mapped)
            .field("reduced", reduced)
            .field("filled", filled)
            .finish_non_exhaustive()
    }
}

/// One total.
#[derive(Debug)]
struct Counter<T> {
    total: T,
    untold: bool,
    last_told: Instant,
}

impl<T: Copy + Default + AddAssign> Counter<T> {
    fn new() -> Self {
        Self { total: T::default(), untold: false, last_told: Instant::now() }
    }

    fn add(&mut self, more: T) {
        self.total += more;
        self.untold = true;
    }

    fn is_due(&self) -> bool {
        self.last_told.elapsed() >= PROGRESS_PAUSE
    }

    /// The total, which is about to be told.
    fn take(&mut self) -> T {
        (self.untold, self.last_told) = (false, Instant::now());
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a teller wrote.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A node's process: two counting mappers and reducers, and a mapper and a reducer of the stalled job.
    fn teller(page: &Page) -> Teller {
        let plan = Plan {
            run: "r".to_owned(),
            nodes: vec!["node-1".to_owned()],
            per_node: 2,
            jobs: 1,
            rounds: Some(1),
            stall: 1,
            embedded: true,
        };
        Teller::new(&plan, &plan.workers_on(0).collect::<Vec<_>>(), page.clone())
    }

    impl Page {
        fn events(&self) -> Vec<Event> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    #[test]
    fn a_line_reads_as_it_was_told() {
        let event = Event::Mapped(Mapped { files: 1, bytes: 2, messages: 3, stream_bytes: 4 });
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(line, r#"{"event":"mapped","files":1,"bytes":2,"messages":3,"stream_bytes":4}"#);
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        let event = Event::Reduced { job: 2, now: Reduced { words: 1, messages: 2, stream_bytes: 3 } };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(line, r#"{"event":"reduced","job":2,"words":1,"messages":2,"stream_bytes":3}"#);
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }

    #[test]
    fn a_sum_follows_the_latest_of_each_process() {
        let mut sum = Sum::<Reduced>::new(2);
        let reduced = |words| Reduced { words, messages: 1, stream_bytes: words * 5 };
        sum.set(0, reduced(10));
        sum.set(1, reduced(7));
        sum.set(0, reduced(25));
        assert_eq!(sum.total(), Reduced { words: 32, messages: 2, stream_bytes: 160 });
    }

    #[test]
    fn streams_are_open_when_the_last_mapper_of_the_process_says_so() {
        let page = Page::default();
        let teller = teller(&page);
        let of_another = teller.clone();
        teller.opened().unwrap();
        of_another.opened().unwrap();
        assert_eq!(page.events(), []);
        of_another.opened().unwrap();
        assert_eq!(page.events(), [Event::Opened]);
    }

    #[test]
    fn the_half_and_the_end_are_told_when_all_that_count_are_there_and_after_what_they_did() {
        let page = Page::default();
        let teller = teller(&page);
        let mapped = Mapped { files: 1, ..Mapped::default() };
        teller.mapped(mapped).unwrap();
        teller.halfway().unwrap();
        teller.halfway().unwrap();
        assert_eq!(page.events(), [Event::Mapped(mapped), Event::Halfway]);
        let now = Reduced { words: 3, ..Reduced::default() };
        teller.reduced(0, now).unwrap();
        (0..3).for_each(|_| teller.counted().unwrap());
        assert_eq!(page.events().len(), 2);
        teller.counted().unwrap();
        assert_eq!(page.events()[2..], [Event::Reduced { job: 0, now }, Event::Counted]);
    }

    #[test]
    fn that_a_stream_is_blocked_is_told_at_once() {
        let page = Page::default();
        let teller = teller(&page);
        teller.filled(|filled| filled.stream_bytes += 9).unwrap();
        teller.filled(|filled| filled.blocked += 1).unwrap();
        let blocked = Filled { blocked: 1, stream_bytes: 9, ..Filled::default() };
        assert_eq!(page.events(), [Event::Filled(blocked)]);
        teller.filled(|filled| filled.blocked -= 1).unwrap();
        assert_eq!(page.events()[1], Event::Filled(Filled { blocked: 0, ..blocked }));
    }

    #[test]
    fn what_the_workers_of_a_process_did_is_told_as_one_sum_in_the_end() {
        let page = Page::default();
        let teller = teller(&page);
        let mapped = |files| Mapped { files, bytes: 10 * files, messages: 1, stream_bytes: files };
        let of_another = teller.clone();
        teller.mapped(mapped(2)).unwrap();
        of_another.mapped(mapped(3)).unwrap();
        teller.reduced(1, Reduced { words: 7, ..Reduced::default() }).unwrap();
        teller.tell_rest().unwrap();
        let events = page.events();
        let all_mapped = Event::Mapped(Mapped { files: 5, bytes: 50, messages: 2, stream_bytes: 5 });
        let all_reduced = Event::Reduced { job: 1, now: Reduced { words: 7, ..Reduced::default() } };
        assert!(events.contains(&all_mapped) && events.contains(&all_reduced), "{events:?}");
        teller.tell_rest().unwrap();
        assert_eq!(page.events(), events, "nothing is told twice");
    }
}
