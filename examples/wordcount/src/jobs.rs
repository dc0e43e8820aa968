//! The jobs: mappers and reducers start, all streams open, the clock runs, and all end well or none counts.

use std::{collections::BTreeSet, io, path::Path, time::Duration};

use tokio::{
    process::Command,
    time::{self, Instant, MissedTickBehavior},
};

use crate::{
    casualty::Casualty,
    children::{Children, Ended, Happening, Kind, Slot},
    cluster::Node,
    events::{Event, Mapped, Reduced, Sum},
    guard::Guard,
    observe::{self, NodeView, ObserveError},
    plan::{Part, Plan},
    progress::Progress,
    roles::Word,
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
    /// From the start of the first mapper or reducer until all streams were open.
    pub(crate) opening: Duration,
    /// From the word to begin until the last process of a reducer was gone.
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
    #[error("no mapper or reducer has made progress for {} s; processes not yet done: {left}", STALL_TIMEOUT.as_secs())]
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
    /// The nodes.
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
        if self.plan.embedded {
            children.say(Word::Open);
        } else {
            // Reducers first: then most consumers are bound before a stream is opened to them.
            self.start(Part::Reduce, children, guard)?;
            self.start(Part::Map, children, guard)?;
        }
        self.wait_until_open(children).await?;
        let opening = start.elapsed();
        let mut nodes = observe::look(self.nodes, self.folder).await?;
        let start = Instant::now();
        children.say(Word::Begin);
        let (mapped, reduced) = self.wait_until_done(children, &mut nodes).await?;
        Ok(Tally { mapped, reduced, opening, counting: start.elapsed(), nodes })
    }

    /// Starts all mappers, or all reducers, of all jobs.
    fn start(&self, part: Part, children: &mut Children, guard: &mut Guard) -> Result<(), JobError> {
        for (index, worker) in self.plan.workers(part).enumerate() {
            let name = self.plan.name(worker);
            let label = format!("the {part} process {name} on {}", self.plan.nodes[self.plan.node_of(worker.index)]);
            let mut command = Command::new(self.program);
            command.args([&part.to_string(), "--job", &worker.job.to_string(), "--index", &worker.index.to_string()]);
            command.arg("--plan").arg(self.folder);
            match children.start(Slot { kind: Kind::Worker(part), index }, &label, &name.replace('/', "."), command) {
                Ok(pid) => guard.watch(pid),
                Err(source) => return Err(JobError::Start { label, source }),
            }
        }
        Ok(())
    }

    /// How many processes have mappers, and how many have reducers.
    fn processes_of_a_part(&self) -> usize {
        if self.plan.embedded { self.nodes.len() } else { self.plan.jobs * self.plan.width() }
    }

    async fn wait_until_open(&self, children: &mut Children) -> Result<(), JobError> {
        let all = self.processes_of_a_part();
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
        let processes = self.processes_of_a_part();
        let mut left = if self.plan.embedded { processes } else { 2 * processes };
        let (mut mapped, mut reduced) = (Sum::<Mapped>::new(processes), Sum::<Reduced>::new(processes));
        // Nodes that went with the process that they were embedded in.
        let mut gone = BTreeSet::new();
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
                        Some(Happening::Told(_, Event::Ready | Event::Opened)) => {}
                        Some(Happening::Ended(ended)) if ended.well() && ended.slot.kind != Kind::Daemon => {
                            left -= 1;
                            if ended.slot.kind == Kind::Node {
                                gone.insert(ended.slot.index);
                            }
                        }
                        Some(Happening::Ended(ended)) => return Err(died(ended, children).await),
                        None => return Err(JobError::Stalled { left }),
                    }
                    self.progress.jobs(&mapped.total(), &reduced.total());
                }
                _ = looks.tick() => {
                    if last_sign.elapsed() > STALL_TIMEOUT {
                        return Err(JobError::Stalled { left });
                    }
                    // A process that is gone cannot be looked at; its end is about to be told, and says more.
                    let _ = self.look_again(nodes, &gone);
                }
            }
        }
        self.look_again(nodes, &gone)?;
        Ok((mapped.total(), reduced.total()))
    }

    /// Counts the sockets of all nodes but those that are `gone`.
    fn look_again(&self, views: &mut [NodeView], gone: &BTreeSet<usize>) -> Result<(), ObserveError> {
        let seen = self.nodes.iter().zip(views).enumerate().filter(|(index, _)| !gone.contains(index));
        observe::look_again(seen.map(|(_, seen)| seen))
    }
}

async fn died(ended: Ended, children: &mut Children) -> JobError {
    JobError::Died(Box::new(Casualty::of(children.casualties(ended, SETTLE).await)))
}
