//! What processes tell the launcher while they run: one JSON object a line, on standard output.

use std::{
    fmt,
    io::{self, Write},
    ops::{AddAssign, SubAssign},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

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
    /// How far the mappers are.
    Mapped(Mapped),
    /// How far the reducers are.
    Reduced(Reduced),
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
    /// Of a process with so many mappers, which writes to `out`. Nothing is told yet.
    pub(crate) fn new(mappers: usize, out: impl Write + Send + 'static) -> Self {
        let (mapped, reduced) = (Counter::new(), Counter::new());
        Self(Arc::new(Mutex::new(Totals { unopened: mappers, mapped, reduced, out: Box::new(out) })))
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

    /// A mapper has done so much more. It is told unless something of mappers was told a moment ago.
    pub(crate) fn mapped(&self, more: Mapped) -> io::Result<()> {
        let mut totals = self.totals();
        totals.mapped.add(more);
        if totals.mapped.is_due() { totals.tell_mapped() } else { Ok(()) }
    }

    /// A reducer has done so much more. It is told unless something of reducers was told a moment ago.
    pub(crate) fn reduced(&self, more: Reduced) -> io::Result<()> {
        let mut totals = self.totals();
        totals.reduced.add(more);
        if totals.reduced.is_due() { totals.tell_reduced() } else { Ok(()) }
    }

    /// Tells what is not told yet.
    pub(crate) fn tell_rest(&self) -> io::Result<()> {
        let mut totals = self.totals();
        if totals.mapped.untold {
            totals.tell_mapped()?;
        }
        if totals.reduced.untold { totals.tell_reduced() } else { Ok(()) }
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the workers of a process have done, and what of it is told.
struct Totals {
    unopened: usize,
    mapped: Counter<Mapped>,
    reduced: Counter<Reduced>,
    out: Box<dyn Write + Send>,
}

impl Totals {
    fn tell_mapped(&mut self) -> io::Result<()> {
        let event = Event::Mapped(self.mapped.take());
        self.write(event)
    }

    fn tell_reduced(&mut self) -> io::Result<()> {
        let event = Event::Reduced(self.reduced.take());
        self.write(event)
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
        let Self { unopened, mapped, reduced, out: _ } = self;
        f.debug_struct("Totals")
            .field("unopened", unopened)
            .field("mapped", mapped)
            .field("reduced", reduced)
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
        let teller = Teller::new(2, page.clone());
        let of_another = teller.clone();
        teller.opened().unwrap();
        assert_eq!(page.events(), []);
        of_another.opened().unwrap();
        assert_eq!(page.events(), [Event::Opened]);
    }

    #[test]
    fn what_the_workers_of_a_process_did_is_told_as_one_sum_in_the_end() {
        let page = Page::default();
        let teller = Teller::new(2, page.clone());
        let mapped = |files| Mapped { files, bytes: 10 * files, messages: 1, stream_bytes: files };
        let of_another = teller.clone();
        teller.mapped(mapped(2)).unwrap();
        of_another.mapped(mapped(3)).unwrap();
        teller.reduced(Reduced { words: 7, ..Reduced::default() }).unwrap();
        teller.tell_rest().unwrap();
        let events = page.events();
        let all_mapped = Event::Mapped(Mapped { files: 5, bytes: 50, messages: 2, stream_bytes: 5 });
        let all_reduced = Event::Reduced(Reduced { words: 7, ..Reduced::default() });
        assert!(events.contains(&all_mapped) && events.contains(&all_reduced), "{events:?}");
        teller.tell_rest().unwrap();
        assert_eq!(page.events(), events, "nothing is told twice");
    }
}
