//! Which consumer names are bound on this node, and which opens wait for one: a plain table, no clock, no I/O.
//!
//! Parallel programs start in any order, so an open whose consumer is not there yet is parked. The table of parked
//! opens is bounded; who parks them sees to it that they expire. Streams that are resumed wait for one life of their consumer, which
//! comes back with its process; they are as many as their node may carry, and are withdrawn by who resumes them.

use std::collections::{BTreeMap, HashMap};

use trunkline_proto::{
    code::Code,
    id::{ConsumerName, Incarnation, JobName, RunId},
};

/// A consumer's name on this node. The run is no part of it: two runs of one job must not both own the name.
type Name = (JobName, ConsumerName);

/// Who holds a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    /// The process, by its attachment's number.
    pub(crate) process: u64,
    /// The bind's id on that process's link.
    pub(crate) bind: u64,
    /// The run that the process belongs to.
    pub(crate) run: RunId,
    /// The consumer's life.
    pub(crate) life: Incarnation,
}

/// Why the node refuses what a process asked, be it to attach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// What kind of reason it is, and whether another attempt may succeed.
    pub code: Code,
    /// The reason, for people: a sentence.
    pub text: String,
}

/// What becomes of an open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Offer it to this binding.
    Offer(Binding),
    /// It waits in the table.
    Parked,
    /// It can't be.
    Refused(Refusal),
}

/// What becomes of a stream that is resumed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resumption {
    /// Offer it to this process, which has that life of the consumer.
    Offer(u64),
    /// That life is nowhere to be found: another holds the name.
    Refused(Refusal),
    /// It has to wait for that life.
    Wait,
}

/// Resumed streams are looked through for such as were withdrawn once so many wait.
const RESUMES_MIN: usize = 1024;

/// Bound names and parked opens `T`, which are told apart by numbers of the caller's.
#[derive(Debug)]
pub(crate) struct Bindings<T> {
    bound: HashMap<Name, Binding>,
    parked: HashMap<Name, BTreeMap<u64, (RunId, T)>>,
    parked_count: usize,
    parked_max: usize,
    /// Lives of consumers whose processes are attached, by process: also of those that are not bound any more.
    lives: HashMap<Incarnation, u64>,
    /// Resumed streams that wait for a life.
    resumes: HashMap<Name, Vec<(Incarnation, T)>>,
    resumes_count: usize,
    /// At how many of them those that were withdrawn are thrown out next.
    resumes_look_at: usize,
}

impl<T> Bindings<T> {
    pub(crate) fn new(parked_max: usize) -> Self {
        Self {
            bound: HashMap::new(),
            parked: HashMap::new(),
            parked_count: 0,
            parked_max,
            lives: HashMap::new(),
            resumes: HashMap::new(),
            resumes_count: 0,
            resumes_look_at: RESUMES_MIN,
        }
    }

    /// Binds a name, and returns the streams that waited for it: each with the refusal that its run or its consumer's life earns
    /// it, if any.
    pub(crate) fn bind(&mut self, name: Name, binding: Binding) -> Result<Vec<(T, Option<Refusal>)>, Refusal> {
        if let Some(holder) = self.bound.get(&name) {
            let text = format!("{}/{} is bound already, by run {}", name.0, name.1, holder.run);
            return Err(Refusal { code: Code::AlreadyBound, text });
        }
        let waited = self.parked.remove(&name).unwrap_or_default();
        self.parked_count -= waited.len();
        let waited = waited.into_values().map(|(run, open)| (open, Self::mismatch(&name, &binding.run, &run)));
        let resumes = self.resumes.remove(&name).unwrap_or_default();
        self.resumes_count -= resumes.len();
        let resumes = resumes.into_iter().map(|(life, stream)| (stream, Self::stranger(&name, binding.life, life)));
        let waited = waited.chain(resumes).collect();
        self.lives.insert(binding.life, binding.process);
        self.bound.insert(name, binding);
        Ok(waited)
    }

    /// A process has streams of a consumer's life that takes nothing new. Returns those that waited for it.
    pub(crate) fn hold(&mut self, name: &Name, life: Incarnation, process: u64) -> Vec<T> {
        self.lives.insert(life, process);
        let Some(waiting) = self.resumes.get_mut(name) else { return Vec::new() };
        let taken: Vec<_> = waiting.extract_if(.., |(awaited, _)| *awaited == life).map(|(_, stream)| stream).collect();
        if waiting.is_empty() {
            self.resumes.remove(name);
        }
        self.resumes_count -= taken.len();
        taken
    }

    /// A consumer's life is over, or is known to this process no more.
    pub(crate) fn end_life(&mut self, life: Incarnation, process: u64) {
        if self.lives.get(&life) == Some(&process) {
            self.lives.remove(&life);
        }
    }

    /// What becomes of a stream that is resumed with this life of a consumer.
    pub(crate) fn resume(&self, name: &Name, life: Incarnation) -> Resumption {
        if let Some(process) = self.lives.get(&life) {
            return Resumption::Offer(*process);
        }
        match self.bound.get(name).and_then(|holder| Self::stranger(name, holder.life, life)) {
            Some(refusal) => Resumption::Refused(refusal),
            None => Resumption::Wait,
        }
    }

    /// Has a resumed stream wait for a life. Those that were withdrawn are thrown out now and then.
    pub(crate) fn await_life(&mut self, name: Name, life: Incarnation, stream: T, is_withdrawn: impl Fn(&T) -> bool) {
        self.resumes.entry(name).or_default().push((life, stream));
        self.resumes_count += 1;
        if self.resumes_count >= self.resumes_look_at {
            self.resumes.retain(|_, waiting| {
                waiting.retain(|(_, stream)| !is_withdrawn(stream));
                !waiting.is_empty()
            });
            self.resumes_count = self.resumes.values().map(Vec::len).sum();
            self.resumes_look_at = RESUMES_MIN.max(2 * self.resumes_count);
        }
    }

    fn stranger(name: &Name, bound: Incarnation, asked: Incarnation) -> Option<Refusal> {
        (bound != asked).then(|| Refusal {
            code: Code::OutcomeUnknown,
            text: format!(
                "another life of {}/{} is bound, and nothing is known of the one that took the stream",
                name.0, name.1
            ),
        })
    }

    /// Frees a name, if this bind of this process holds it.
    pub(crate) fn unbind(&mut self, name: &Name, process: u64, bind: u64) {
        if self.bound.get(name).is_some_and(|holder| holder.process == process && holder.bind == bind) {
            self.bound.remove(name);
        }
    }

    /// Why an open for `name` would be refused now, if it would.
    pub(crate) fn refusal(&self, name: &Name, run: &RunId) -> Option<Refusal> {
        match self.bound.get(name) {
            Some(holder) => Self::mismatch(name, &holder.run, run),
            None if self.parked_count >= self.parked_max => {
                let text =
                    format!("{} opens wait for their consumers already, the most this node parks", self.parked_max);
                Some(Refusal { code: Code::Busy, text })
            }
            None => None,
        }
    }

    /// An open for `name`, under a number of the caller's; `open` makes what is kept if it must wait.
    pub(crate) fn admit(&mut self, name: &Name, run: &RunId, number: u64, open: impl FnOnce() -> T) -> Admission {
        if let Some(refusal) = self.refusal(name, run) {
            return Admission::Refused(refusal);
        }
        if let Some(holder) = self.bound.get(name) {
            return Admission::Offer(holder.clone());
        }
        self.parked.entry(name.clone()).or_default().insert(number, (run.clone(), open()));
        self.parked_count += 1;
        Admission::Parked
    }

    /// Takes a parked open out of the table: it expired, or was withdrawn.
    pub(crate) fn remove_parked(&mut self, name: &Name, number: u64) -> Option<T> {
        let waiting = self.parked.get_mut(name)?;
        let (_, open) = waiting.remove(&number)?;
        if waiting.is_empty() {
            self.parked.remove(name);
        }
        self.parked_count -= 1;
        Some(open)
    }

    /// The streams that wait, in no particular order.
    pub(crate) fn parked(&self) -> impl Iterator<Item = &T> {
        let opens = self.parked.values().flat_map(|waiting| waiting.values().map(|(_, open)| open));
        opens.chain(self.resumes.values().flat_map(|waiting| waiting.iter().map(|(_, stream)| stream)))
    }

    fn mismatch(name: &Name, bound: &RunId, asked: &RunId) -> Option<Refusal> {
        (bound != asked).then(|| Refusal {
            code: Code::RunMismatch,
            text: format!("{}/{} belongs to run {bound}, and run {asked} was asked for", name.0, name.1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(consumer: &str) -> Name {
        ("job".parse().unwrap(), consumer.parse().unwrap())
    }

    fn run(text: &str) -> RunId {
        text.parse().unwrap()
    }

    fn binding(process: u64, run_id: &str) -> Binding {
        Binding { process, bind: 1, run: run(run_id), life: life(process) }
    }

    fn life(number: u64) -> Incarnation {
        Incarnation::from_bits(number.into())
    }

    #[test]
    fn a_resumed_stream_waits_for_its_consumers_life_and_for_no_other() {
        let mut bindings = Bindings::new(0);
        assert_eq!(bindings.resume(&name("c"), life(1)), Resumption::Wait);
        bindings.await_life(name("c"), life(1), "first", |_| false);
        bindings.await_life(name("c"), life(2), "second", |_| false);
        let waited = bindings.bind(name("c"), binding(1, "1")).unwrap();
        let codes: Vec<_> =
            waited.iter().map(|(stream, refusal)| (*stream, refusal.as_ref().map(|r| r.code))).collect();
        assert_eq!(codes, [("first", None), ("second", Some(Code::OutcomeUnknown))]);
        assert_eq!(bindings.resume(&name("c"), life(1)), Resumption::Offer(1));
        assert!(matches!(bindings.resume(&name("c"), life(2)), Resumption::Refused(_)));
        // A name that is free again says nothing of a life whose process is still there.
        bindings.unbind(&name("c"), 1, 1);
        assert_eq!(bindings.resume(&name("c"), life(1)), Resumption::Offer(1));
        bindings.end_life(life(1), 2);
        assert_eq!(bindings.resume(&name("c"), life(1)), Resumption::Offer(1), "a stranger ended it");
        bindings.end_life(life(1), 1);
        assert_eq!(bindings.resume(&name("c"), life(1)), Resumption::Wait);
    }

    #[test]
    fn a_life_that_takes_nothing_new_gets_what_waited_for_it_though_another_holds_the_name() {
        let mut bindings = Bindings::new(0);
        bindings.await_life(name("c"), life(1), "mine", |_| false);
        bindings.await_life(name("c"), life(2), "another's", |_| false);
        assert_eq!(bindings.hold(&name("c"), life(1), 9), ["mine"]);
        assert_eq!(bindings.hold(&name("c"), life(1), 9), Vec::<&str>::new());
        bindings.bind(name("c"), binding(2, "1")).unwrap();
        assert_eq!(bindings.resume(&name("c"), life(1)), Resumption::Offer(9));
        assert_eq!(bindings.parked().count(), 0);
    }

    #[test]
    fn withdrawn_resumptions_do_not_pile_up() {
        let mut bindings = Bindings::new(0);
        for number in 0..10 * RESUMES_MIN {
            bindings.await_life(name("c"), life(1), number, |number| !number.is_multiple_of(RESUMES_MIN));
            assert!(bindings.parked().count() <= RESUMES_MIN, "{number}");
        }
        assert_eq!(bindings.resumes_count, bindings.parked().count());
    }

    #[test]
    fn an_open_waits_for_its_consumer_and_is_offered_once() {
        let mut bindings = Bindings::new(8);
        assert_eq!(bindings.admit(&name("c"), &run("1"), 7, || "early"), Admission::Parked);
        assert_eq!(bindings.bind(name("c"), binding(1, "1")), Ok(vec![("early", None)]));
        assert_eq!(bindings.admit(&name("c"), &run("1"), 8, || "late"), Admission::Offer(binding(1, "1")));
        assert_eq!(bindings.parked().count(), 0);
    }

    #[test]
    fn a_parked_open_of_another_run_is_refused_when_the_name_is_bound() {
        let mut bindings = Bindings::new(8);
        bindings.admit(&name("c"), &run("old"), 7, || "stale");
        let waited = bindings.bind(name("c"), binding(1, "new")).unwrap();
        assert_eq!(waited[0].1.as_ref().map(|refusal| refusal.code), Some(Code::RunMismatch));
        let Admission::Refused(refusal) = bindings.admit(&name("c"), &run("old"), 8, || "stale") else { panic!() };
        assert_eq!(refusal.text, "job/c belongs to run new, and run old was asked for");
    }

    #[test]
    fn a_name_has_one_holder_and_only_its_holder_frees_it() {
        let mut bindings = Bindings::<()>::new(8);
        bindings.bind(name("c"), binding(1, "1")).unwrap();
        assert_eq!(bindings.bind(name("c"), binding(2, "2")).unwrap_err().code, Code::AlreadyBound);
        bindings.unbind(&name("c"), 2, 1);
        assert!(bindings.bind(name("c"), binding(2, "2")).is_err(), "a stranger freed the name");
        bindings.unbind(&name("c"), 1, 1);
        bindings.bind(name("c"), binding(2, "2")).unwrap();
    }

    #[test]
    fn the_table_of_parked_opens_is_bounded_and_empties() {
        let mut bindings = Bindings::new(3);
        for number in 0..3 {
            assert_eq!(bindings.admit(&name("c"), &run("1"), number, || number), Admission::Parked);
        }
        let Admission::Refused(refusal) = bindings.admit(&name("d"), &run("1"), 3, || 3) else { panic!() };
        assert_eq!(refusal.code, Code::Busy);
        for number in 0..3 {
            assert_eq!(bindings.remove_parked(&name("c"), number), Some(number));
            assert_eq!(bindings.remove_parked(&name("c"), number), None);
        }
        assert_eq!(bindings.admit(&name("d"), &run("1"), 3, || 3), Admission::Parked);
    }
}
