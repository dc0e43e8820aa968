//! The jobs: map and reduce processes are started, all streams open, the clock runs, and all end well or none counts.

use std::{
    io,
    ops::{AddAssign, SubAssign},
    path::Path,
    time::Duration,
};

use tokio::{
    process::Command,
    time::{self, Instant, MissedTickBehavior},
};

use crate::{
    casualty::Casualty,
    children::{Children, Ended, Happening, Kind, Slot},
    cluster::Node,
    events::{Event, Mapped, Reduced},
    guard::Guard,
    observe::{self, NodeView, ObserveError},
    plan::Plan,
    progress::Progress,
};

/// How often sockets are counted while the jobs run.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// When no process says anything for this long, something hangs: a node's own patience with an open is half of it.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait for others that fall with a process before the one to blame is named.
const SETTLE: Duration = Duration::from_millis(500);

/// What the jobs came to.
#[derive(Debug)]
pub(crate) struct Tally {
    /// By all mappers.
    pub(crate) mapped: Mapped,
    /// By all reducers.
    pub(crate) reduced: Reduced,
    /// From the start of the first process until all streams were open.
    pub(crate) opening: Duration,
    /// From the word to begin until the last reducer was gone.
    pub(crate) counting: Duration,
    /// Each node as it was seen.
    pub(crate) nodes: Vec<NodeView>,
}

/// Why the jobs did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// A process died.
    #[error("{0}")]
    Died(Box<Casualty>),
    /// A process could not be started.
    #[error("cannot start {label}: {source}")]
    Start {
        /// Which.
        label: String,
        /// Why.
        source: io::Error,
    },
    /// Nothing moves.
    #[error("no map or reduce process has made progress for {} s; not yet done: {left}", STALL_TIMEOUT.as_secs())]
    Stalled {
        /// Those that have not done their part.
        left: usize,
    },
    /// A node could not be looked at.
    #[error(transparent)]
    Observe(#[from] ObserveError),
}

/// What jobs run with.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    /// Who takes part.
    pub(crate) plan: &'a Plan,
    /// Where the plan lies.
    pub(crate) folder: &'a Path,
    /// The daemons.
    pub(crate) nodes: &'a [Node],
    /// This program.
    pub(crate) program: &'a Path,
    /// Where progress shows.
    pub(crate) progress: &'a Progress,
}

impl Stage<'_> {
    /// Runs all jobs at once.
    pub(crate) async fn run(&self, children: &mut Children, guard: &mut Guard) -> Result<Tally, JobError> {
        let start = Instant::now();
        self.progress.say("opening streams");
        self.start(Kind::Reduce, children, guard)?;
        self.start(Kind::Map, children, guard)?;
        self.wait_until_open(children).await?;
        let opening = start.elapsed();
        let mut nodes = observe::look(self.nodes, self.folder).await?;
        let start = Instant::now();
        children.begin();
        let (mapped, reduced) = self.wait_until_done(children, &mut nodes).await?;
        Ok(Tally { mapped, reduced, opening, counting: start.elapsed(), nodes })
    }

    /// Starts all mappers, or all reducers, of all jobs.
    fn start(&self, kind: Kind, children: &mut Children, guard: &mut Guard) -> Result<(), JobError> {
        for job in 0..self.plan.jobs {
            for index in 0..self.plan.width() {
                let (role, name) = match kind {
                    Kind::Map => ("map", Plan::mapper(index)),
                    _ => ("reduce", Plan::reducer(index)),
                };
                let node = &self.plan.nodes[self.plan.node_of(index)];
                let job_name = self.plan.job(job);
                let label = format!("the {role} process {job_name}/{name} on {node}");
                let mut command = Command::new(self.program);
                command.args([role, "--job", &job.to_string(), "--index", &index.to_string(), "--plan"]);
                command.arg(self.folder);
                let slot = Slot { kind, index: job * self.plan.width() + index };
                match children.start(slot, &label, &format!("{job_name}.{name}"), command) {
                    Ok(pid) => guard.watch(pid),
                    Err(source) => return Err(JobError::Start { label, source }),
                }
            }
        }
        Ok(())
    }

    async fn wait_until_open(&self, children: &mut Children) -> Result<(), JobError> {
        let all = self.plan.jobs * self.plan.width();
        let mut open = 0;
        while open < all {
            match time::timeout(STALL_TIMEOUT, children.next()).await {
                Ok(Some(Happening::Told(_, Event::Opened))) => open += 1,
                Ok(Some(Happening::Told(..))) => {}
                // Before the word to begin nobody is done.
                Ok(Some(Happening::Ended(ended))) => return Err(died(ended, children).await),
                Ok(None) | Err(_) => return Err(JobError::Stalled { left: all - open }),
            }
        }
        Ok(())
    }

    async fn wait_until_done(
        &self,
        children: &mut Children,
        nodes: &mut [NodeView],
    ) -> Result<(Mapped, Reduced), JobError> {
        let mut left = 2 * self.plan.jobs * self.plan.width();
        let mut mapped = Sum::<Mapped>::new(left / 2);
        let mut reduced = Sum::<Reduced>::new(left / 2);
        let mut looks = time::interval(LOOK_PAUSE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_sign = Instant::now();
        while left > 0 {
            tokio::select! {
                happening = children.next() => {
                    last_sign = Instant::now();
                    match happening {
                        Some(Happening::Told(slot, Event::Mapped(now))) => mapped.set(slot.index, now),
                        Some(Happening::Told(slot, Event::Reduced(now))) => reduced.set(slot.index, now),
                        Some(Happening::Told(_, Event::Opened)) => {}
                        Some(Happening::Ended(ended)) if ended.well() && ended.slot.kind != Kind::Daemon => left -= 1,
                        Some(Happening::Ended(ended)) => return Err(died(ended, children).await),
                        None => return Err(JobError::Stalled { left }),
                    }
                    self.progress.jobs(&mapped.total, &reduced.total);
                }
                _ = looks.tick() => {
                    if last_sign.elapsed() > STALL_TIMEOUT {
                        return Err(JobError::Stalled { left });
                    }
                    // A daemon that is gone cannot be looked at; its end is about to be told, and says more.
                    let _ = observe::look_again(self.nodes, nodes);
                }
            }
        }
        observe::look_again(self.nodes, nodes)?;
        Ok((mapped.total, reduced.total))
    }
}

async fn died(ended: Ended, children: &mut Children) -> JobError {
    JobError::Died(Box::new(Casualty::of(children.casualties(ended, SETTLE).await)))
}

/// Counters of many processes, and their sum.
struct Sum<T> {
    each: Vec<T>,
    total: T,
}

impl<T: Copy + Default + AddAssign + SubAssign> Sum<T> {
    fn new(processes: usize) -> Self {
        Self { each: vec![T::default(); processes], total: T::default() }
    }

    fn set(&mut self, process: usize, now: T) {
        self.total += now;
        self.total -= self.each[process];
        self.each[process] = now;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_follows_the_latest_of_each_process() {
        let mut sum = Sum::<Reduced>::new(2);
        let reduced = |words| Reduced { words, messages: 1, stream_bytes: words * 5 };
        sum.set(0, reduced(10));
        sum.set(1, reduced(7));
        sum.set(0, reduced(25));
        assert_eq!(sum.total, Reduced { words: 32, messages: 2, stream_bytes: 160 });
    }
}
