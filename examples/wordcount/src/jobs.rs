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
    events::{Event, Filled, Mapped, Reduced, Sent},
    guard::Guard,
    live::Live,
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
    /// By all counting mappers.
    pub(crate) mapped: Mapped,
    /// By the reducers of all counted jobs.
    pub(crate) reduced: Reduced,
    /// From the start of the first mapper or reducer until all streams were open.
    pub(crate) opening: Duration,
    /// From the word to begin until the last process of a reducer was gone. Where a job stalled: the two parts of
    /// [`Stalled`] together.
    pub(crate) counting: Duration,
    /// The job that stalled, if there was one.
    pub(crate) stalled: Option<Stalled>,
    /// Each node as it was seen.
    pub(crate) nodes: Vec<NodeView>,
}

/// What the stalled job came to, and the others beside it.
#[derive(Debug, Clone)]
pub(crate) struct Stalled {
    /// The first half: until all that was sent of it was counted.
    pub(crate) alone: Half,
    /// The other half: until the last reducer had counted everything.
    pub(crate) beside: Half,
    /// The job's streams when the others had counted everything.
    pub(crate) then: Filled,
    /// What its mappers sent in all.
    pub(crate) filled: Filled,
    /// What its reducers counted in all, after they woke up.
    pub(crate) reduced: Reduced,
    /// What each of its streams carried.
    pub(crate) sent: Vec<Sent>,
}

/// A part of a count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Half {
    /// Payload that reducers counted.
    pub(crate) stream_bytes: u64,
    /// How long that took.
    pub(crate) time: Duration,
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
        let mut live = Live::new(self.plan);
        let start = Instant::now();
        children.say(Word::Begin);
        let mut stalled = None;
        if self.plan.stall > 0 {
            stalled = Some(self.count_beside_a_stall(children, &mut live, &mut nodes).await?);
        }
        self.wait_until(|live| live.left() == 0, children, &mut live, &mut nodes).await?;
        let counting = stalled.as_ref().map_or(start.elapsed(), |stalled| stalled.alone.time + stalled.beside.time);
        self.look_again(&mut nodes, live.gone())?;
        if let Some(stalled) = &mut stalled {
            (stalled.filled, stalled.reduced) = (live.filled(), live.stalled());
            stalled.sent = live.sent().to_vec();
        }
        Ok(Tally { mapped: live.mapped(), reduced: live.reduced(), opening, counting, stalled, nodes })
    }

    /// Counts one half alone and the other beside streams that are blocked, and then has those who sleep wake up. The
    /// mappers have been told to begin.
    async fn count_beside_a_stall(
        &self,
        children: &mut Children,
        live: &mut Live<'_>,
        nodes: &mut [NodeView],
    ) -> Result<Stalled, JobError> {
        let start = Instant::now();
        self.wait_until(Live::half_is_counted, children, live, nodes).await?;
        let alone = Half { stream_bytes: live.reduced().stream_bytes, time: start.elapsed() };
        children.say(Word::Fill);
        self.wait_until(Live::is_filled, children, live, nodes).await?;
        let start = Instant::now();
        children.say(Word::Rest);
        self.wait_until(Live::is_counted, children, live, nodes).await?;
        let stream_bytes = live.reduced().stream_bytes - alone.stream_bytes;
        let beside = Half { stream_bytes, time: start.elapsed() };
        let (then, reduced) = (live.filled(), live.stalled());
        children.say(Word::Wake);
        Ok(Stalled { alone, beside, then, filled: then, reduced, sent: Vec::new() })
    }

    /// Starts all mappers, or all reducers, of all jobs.
    fn start(&self, part: Part, children: &mut Children, guard: &mut Guard) -> Result<(), JobError> {
        for (index, worker) in self.plan.workers(part).enumerate() {
            let name = self.plan.name(worker);
            let label = format!("the {part} process {name} on {}", self.plan.nodes[self.plan.node_of(worker)]);
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

    async fn wait_until_open(&self, children: &mut Children) -> Result<(), JobError> {
        let all = if self.plan.embedded { self.nodes.len() } else { self.plan.workers(Part::Map).count() };
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

    /// Hears what processes tell until it has come to where `done` says so, and counts the nodes' sockets meanwhile.
    async fn wait_until<'l>(
        &self,
        done: impl Fn(&Live<'l>) -> bool,
        children: &mut Children,
        live: &mut Live<'l>,
        nodes: &mut [NodeView],
    ) -> Result<(), JobError> {
        let mut looks = time::interval_at(Instant::now() + LOOK_PAUSE, LOOK_PAUSE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_sign = Instant::now();
        while !done(live) {
            tokio::select! {
                happening = children.next() => {
                    last_sign = Instant::now();
                    match happening {
                        Some(Happening::Told(slot, event)) => live.hear(slot, event),
                        Some(Happening::Ended(ended)) if ended.well() && ended.slot.kind != Kind::Daemon => {
                            live.ended(ended.slot);
                        }
                        Some(Happening::Ended(ended)) => return Err(died(ended, children).await),
                        None => return Err(JobError::Stalled { left: live.left() }),
                    }
                    self.progress.jobs(&live.mapped(), &live.reduced());
                }
                now = looks.tick() => {
                    if last_sign.elapsed() > STALL_TIMEOUT {
                        return Err(JobError::Stalled { left: live.left() });
                    }
                    self.progress.lines(&live.lines(now));
                    // A process that is gone cannot be looked at; its end is about to be told, and says more.
                    let _ = self.look_again(nodes, live.gone());
                }
            }
        }
        Ok(())
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
