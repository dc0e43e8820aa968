//! How long streams without a path wait for another.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use trunkline_proto::{code::Code, id::JobName};

use super::retry::backoff;

/// The patience of an attachment: its node's, unless the program has another wish; and that of some jobs.
#[derive(Debug)]
pub(crate) struct Patience {
    /// In milliseconds.
    default: AtomicU64,
    is_wish: bool,
    jobs: BTreeMap<JobName, Duration>,
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Patience {
    pub(crate) fn new(wish: Option<Duration>, jobs: BTreeMap<JobName, Duration>) -> Self {
        let default = AtomicU64::new(wish.map_or(0, milliseconds));
        Self { default, is_wish: wish.is_some(), jobs }
    }

    /// The node has said what its own is.
    pub(crate) fn learn(&self, patience: Duration) {
        if !self.is_wish {
            self.default.store(milliseconds(patience), Ordering::Relaxed);
        }
    }

    /// How long streams of this job wait.
    pub(crate) fn of(&self, job: &JobName) -> Duration {
        self.jobs.get(job).copied().unwrap_or_else(|| Duration::from_millis(self.default.load(Ordering::Relaxed)))
    }

    /// How long the link waits for its node: as long as any stream may.
    pub(crate) fn longest(&self) -> Duration {
        let default = Duration::from_millis(self.default.load(Ordering::Relaxed));
        self.jobs.values().copied().max().unwrap_or_default().max(default)
    }
}

/// Since when a stream has had no path, and why.
#[derive(Debug, Default)]
pub(crate) struct Suspension {
    since: Option<Box<Since>>,
    /// The link's thread looks at it when its time is over.
    is_watched: bool,
}

#[derive(Debug)]
struct Since {
    at: Instant,
    code: Code,
    why: Arc<str>,
    /// How often another path was refused.
    refusals: u32,
}

impl Suspension {
    /// The path is lost, unless it was before. Returns whether the stream is to be watched, which it is not yet.
    pub(crate) fn begin(&mut self, code: Code, why: &Arc<str>) -> bool {
        let begun = || Box::new(Since { at: Instant::now(), code, why: Arc::clone(why), refusals: 0 });
        let since = self.since.get_or_insert_with(begun);
        (since.code, since.why) = (code, Arc::clone(why));
        !std::mem::replace(&mut self.is_watched, true)
    }

    /// There is a path, or none is needed any more.
    pub(crate) fn end(&mut self) {
        self.since = None;
    }

    /// Until when it waits. `None` when it does not, or is not watched any more by this.
    pub(crate) fn until(&mut self, patience: Duration) -> Option<Instant> {
        let until = self.since.as_ref().and_then(|since| since.at.checked_add(patience));
        self.is_watched = until.is_some();
        until
    }

    /// With which code, and with which words, the wait ends.
    pub(crate) fn reason(&self, patience: Duration) -> (Code, String) {
        let Some(since) = &self.since else { return (Code::TrunkLost, String::new()) };
        let waited =
            if patience.is_zero() { String::new() } else { format!("; nothing better came within {patience:?}") };
        (since.code, format!("{}{waited}", since.why))
    }

    /// How long to wait before another path is asked for again: longer each time, to a bound, and never in step with others.
    pub(crate) fn pause(&mut self) -> Duration {
        let refusals = self.since.as_mut().map_or(0, |since| {
            since.refusals += 1;
            since.refusals - 1
        });
        backoff(refusals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_wish_counts_more_than_the_nodes_and_a_jobs_more_than_both() {
        let job = |name: &str| JobName::try_from(name).unwrap();
        let jobs = BTreeMap::from([(job("patient"), Duration::from_secs(60))]);
        let patience = Patience::new(None, jobs.clone());
        patience.learn(Duration::from_secs(5));
        assert_eq!(patience.of(&job("other")), Duration::from_secs(5));
        assert_eq!(patience.of(&job("patient")), Duration::from_secs(60));
        assert_eq!(patience.longest(), Duration::from_secs(60));
        let patience = Patience::new(Some(Duration::from_secs(90)), jobs);
        patience.learn(Duration::from_secs(5));
        assert_eq!(patience.of(&job("other")), Duration::from_secs(90));
        assert_eq!(patience.longest(), Duration::from_secs(90));
    }

    #[test]
    fn a_wait_counts_from_the_first_loss_and_is_watched_once() {
        let (mut suspension, patience) = (Suspension::default(), Duration::from_secs(10));
        assert!(suspension.begin(Code::TrunkLost, &"dark".into()));
        let until = suspension.until(patience).unwrap();
        assert!(!suspension.begin(Code::NodeLost, &"gone".into()));
        assert_eq!(suspension.until(patience), Some(until));
        assert_eq!(suspension.reason(patience), (Code::NodeLost, "gone; nothing better came within 10s".to_owned()));
        suspension.end();
        assert!(!suspension.begin(Code::TrunkLost, &"dark".into()), "it is watched still");
        suspension.end();
        assert_eq!(suspension.until(patience), None);
        assert!(suspension.begin(Code::TrunkLost, &"dark".into()));
    }

    #[test]
    fn pauses_grow_to_a_quarter_of_a_second() {
        let mut suspension = Suspension::default();
        suspension.begin(Code::TrunkLost, &"dark".into());
        let pauses: Vec<_> = (0..20).map(|_| suspension.pause()).collect();
        let milliseconds = Duration::from_millis;
        assert!(pauses[0] <= milliseconds(10), "{pauses:?}");
        assert!(pauses[10..].iter().all(|pause| (milliseconds(125)..=milliseconds(250)).contains(pause)), "{pauses:?}");
    }
}
