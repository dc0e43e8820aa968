//! The jobs: mappers and reducers start, all streams open, the clock runs, and all end well or none counts.

use std::{io, time::Duration};

use tokio::{
    process::Command,
    time::{self, Instant, MissedTickBehavior},
};

use crate::{
    casualty::Casualty,
    children::{Children, Ended, Happening, Kind, Slot},
    cluster::{ClusterError, Launch, Node},
    events::{Event, Filled, Mapped, Reduced, Sent},
    guard::Guard,
    live::Live,
    observe::{self, NodeView, ObserveError},
    outage::{Due, Outage, Survived},
    plan::Part,
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
    /// How many times every file was read for each job.
    pub(crate) rounds: u64,
    /// From the start of the first mapper or reducer until all streams were open.
    pub(crate) opening: Duration,
    /// From the word to begin until the last process of a reducer was gone. Where a job stalled: the two parts of
    /// [`Stalled`] together.
    pub(crate) counting: Duration,
    /// The job that stalled, if there was one.
    pub(crate) stalled: Option<Stalled>,
    /// The node that was killed and came back, if one was to be.
    pub(crate) survived: Option<Survived>,
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
    #[error("{casualty}{}", .background.iter().map(|said| format!("\n  before that: {said}")).collect::<String>())]
    Died {
        /// Which, and those that fell with it.
        casualty: Box<Casualty>,
        /// What had been done to a node on purpose.
        background: Option<String>,
    },
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
    /// There was nothing to kill a node amidst.
    #[error(
        "all words were counted after {:.2} s, before a node could be killed after {:.2} s: use a shorter --kill-node, more \
         files, or more --rounds (without --rounds there are as many as it takes)",
        counting.as_secs_f64(), kill_after.as_secs_f64()
    )]
    CountedTooSoon {
        /// How long the count took.
        counting: Duration,
        /// When a node was to be killed.
        kill_after: Duration,
    },
    /// The daemon that was killed did not come back.
    #[error(transparent)]
    Node(#[from] ClusterError),
    /// A node could not be looked at.
    #[error(transparent)]
    Observe(#[from] ObserveError),
}

/// What jobs run with.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    /// Who takes part, and where and how nodes were started.
    pub(crate) launch: &'a Launch<'a>,
    /// The nodes.
    pub(crate) nodes: &'a [Node],
    /// When a daemon is to be killed, from the word to begin on, if one is.
    pub(crate) kill_after: Option<Duration>,
    /// Where progress shows.
    pub(crate) progress: &'a Progress,
}

impl Stage<'_> {
    /// Runs all jobs at once.
    pub(crate) async fn run(&self, children: &mut Children, guard: &mut Guard) -> Result<Tally, JobError> {
        let Launch { plan, folder, .. } = *self.launch;
        let start = Instant::now();
        self.progress.say("opening streams");
        if plan.embedded {
            children.say(Word::Open);
        } else {
            // Reducers first: then most consumers are bound before a stream is opened to them.
            self.start(Part::Reduce, children, guard)?;
            self.start(Part::Map, children, guard)?;
        }
        self.wait_until_open(children).await?;
        let opening = start.elapsed();
        let nodes = observe::look(self.nodes, folder).await?;
        let start = Instant::now();
        let outage = self.kill_after.map(|after| Outage::new(self.launch, start, after));
        let mut count = Count { stage: self, children, guard, live: Live::new(plan), nodes, outage, rounds: 1 };
        count.begin();
        let mut stalled = None;
        if plan.stall > 0 {
            stalled = Some(count.beside_a_stall().await?);
        }
        count.wait_until(|live| live.left() == 0).await?;
        let counting = stalled.as_ref().map_or(start.elapsed(), |stalled| stalled.alone.time + stalled.beside.time);
        let Count { live, mut nodes, outage, rounds, .. } = count;
        let survived = match (outage, self.kill_after) {
            (Some(outage), Some(kill_after)) => {
                Some(outage.survived().ok_or(JobError::CountedTooSoon { counting, kill_after })?)
            }
            _ => None,
        };
        observe::look_again(&mut nodes)?;
        if let Some(stalled) = &mut stalled {
            (stalled.filled, stalled.reduced) = (live.filled(), live.stalled());
            stalled.sent = live.sent().to_vec();
        }
        let (mapped, reduced) = (live.mapped(), live.reduced());
        let rounds = plan.rounds.unwrap_or(rounds);
        Ok(Tally { mapped, reduced, rounds, opening, counting, stalled, survived, nodes })
    }

    /// Starts all mappers, or all reducers, of all jobs.
    fn start(&self, part: Part, children: &mut Children, guard: &mut Guard) -> Result<(), JobError> {
        let Launch { plan, folder, binaries } = *self.launch;
        for (index, worker) in plan.workers(part).enumerate() {
            let name = plan.name(worker);
            let label = format!("the {part} process {name} on {}", plan.nodes[plan.node_of(worker)]);
            let mut command = Command::new(&binaries.wordcount);
            command.args([&part.to_string(), "--job", &worker.job.to_string(), "--index", &worker.index.to_string()]);
            command.arg("--plan").arg(folder);
            match children.start(Slot { kind: Kind::Worker(part), index }, &label, &name.replace('/', "."), command) {
                Ok(pid) => guard.watch(pid),
                Err(source) => return Err(JobError::Start { label, source }),
            }
        }
        Ok(())
    }

    async fn wait_until_open(&self, children: &mut Children) -> Result<(), JobError> {
        let plan = self.launch.plan;
        let all = if plan.embedded { self.nodes.len() } else { plan.workers(Part::Map).count() };
        let mut open = 0;
        while open < all {
            match time::timeout(STALL_TIMEOUT, children.next()).await {
                Ok(Some(Happening::Told(_, Event::Opened))) => open += 1,
                Ok(Some(Happening::Told(..))) => {}
                // Before the word to begin nobody is done.
                Ok(Some(Happening::Ended(ended))) => return Err(died(ended, children, None).await),
                Ok(None) | Err(_) => return Err(JobError::Stalled { left: all - open }),
            }
        }
        Ok(())
    }
}

/// Jobs that count: all streams are open.
struct Count<'a> {
    stage: &'a Stage<'a>,
    children: &'a mut Children,
    guard: &'a mut Guard,
    live: Live<'a>,
    nodes: Vec<NodeView>,
    /// Of the node that is killed, if one is.
    outage: Option<Outage<'a>>,
    /// How many rounds over the files mappers may begin, where the plan does not say how many there are.
    rounds: u64,
}

impl<'a> Count<'a> {
    /// Says the word to begin.
    fn begin(&self) {
        let plan = self.stage.launch.plan;
        self.stage.progress.rounds(plan.rounds.unwrap_or(self.rounds));
        self.children.say(if plan.rounds.is_some() { Word::Begin } else { Word::Round(self.rounds) });
    }

    /// Counts one half alone and the other beside streams that are blocked, and then has those who sleep wake up. The
    /// mappers have been told to begin.
    async fn beside_a_stall(&mut self) -> Result<Stalled, JobError> {
        let start = Instant::now();
        self.wait_until(Live::half_is_counted).await?;
        let alone = Half { stream_bytes: self.live.reduced().stream_bytes, time: start.elapsed() };
        self.children.say(Word::Fill);
        self.wait_until(Live::is_filled).await?;
        let start = Instant::now();
        self.children.say(Word::Rest);
        self.wait_until(Live::is_counted).await?;
        let stream_bytes = self.live.reduced().stream_bytes - alone.stream_bytes;
        let beside = Half { stream_bytes, time: start.elapsed() };
        let (then, reduced) = (self.live.filled(), self.live.stalled());
        self.children.say(Word::Wake);
        Ok(Stalled { alone, beside, then, filled: then, reduced, sent: Vec::new() })
    }

    /// Hears what processes tell until it has come to where `done` says so and no node is away; counts the nodes' sockets
    /// meanwhile, and does what is due to the one that is killed.
    async fn wait_until(&mut self, done: impl Fn(&Live<'a>) -> bool) -> Result<(), JobError> {
        let mut looks = time::interval_at(Instant::now() + LOOK_PAUSE, LOOK_PAUSE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_sign = Instant::now();
        while !done(&self.live) || self.outage.as_ref().is_some_and(Outage::lasts) {
            tokio::select! {
                Some(happening) = self.children.next() => {
                    last_sign = Instant::now();
                    self.hear(happening).await?;
                }
                due = due(&mut self.outage) => self.make(due?)?,
                now = looks.tick() => {
                    if last_sign.elapsed() > STALL_TIMEOUT {
                        return Err(JobError::Stalled { left: self.live.left() });
                    }
                    self.stage.progress.lines(&self.live.lines(now));
                    // A process that is gone cannot be looked at; its end is about to be told, and says more.
                    let _ = observe::look_again(&mut self.nodes);
                }
            }
        }
        Ok(())
    }

    /// A process tells something, or has ended.
    async fn hear(&mut self, happening: Happening) -> Result<(), JobError> {
        match happening {
            Happening::Told(slot, event) => {
                self.live.hear(slot, event);
                self.allow_rounds();
            }
            Happening::Ended(ended) if ended.well() && ended.slot.kind != Kind::Daemon => {
                self.live.ended();
                if ended.slot.kind == Kind::Node {
                    self.nodes[ended.slot.index].pid = None;
                }
            }
            Happening::Ended(ended) => match &mut self.outage {
                Some(outage) if outage.caused(&ended) => outage.gone(),
                outage => return Err(died(ended, self.children, outage.as_ref()).await),
            },
        }
        self.stage.progress.jobs(&self.live.mapped(), &self.live.reduced());
        Ok(())
    }

    /// As soon as every mapper has begun a round, all may begin the next one: the slowest never waits, and none gets so far
    /// ahead that the others would have much to catch up. Until the node that is killed is back, there is always a next
    /// round, so that it is killed amidst the count however fast that is.
    fn allow_rounds(&mut self) {
        let fixed = self.stage.launch.plan.rounds.is_some();
        let back = self.outage.as_ref().is_none_or(|outage| outage.survived().is_some());
        if !fixed && !back && self.live.begun() == self.rounds {
            self.rounds += 1;
            self.stage.progress.rounds(self.rounds);
            self.children.say(Word::Round(self.rounds));
        }
    }

    /// Does what is due.
    fn make(&mut self, due: Due) -> Result<(), JobError> {
        let Some(outage) = &mut self.outage else { return Ok(()) };
        let view = &mut self.nodes[outage.node()];
        let note = |what: String| self.stage.progress.note(&what);
        match due {
            Due::Kill if self.live.is_counted() => outage.miss(),
            Due::Kill => {
                if let Some(pid) = view.pid.take() {
                    outage.kill(pid, self.children);
                    note(format!("killed the daemon of {} (pid {pid})", view.id));
                }
            }
            Due::Start => {
                let pid = outage.start(self.children, self.guard)?;
                view.pid = Some(pid);
                note(format!("started the daemon of {} again (pid {pid})", view.id));
            }
            Due::Nothing => {
                note(format!("processes can attach to {} again", view.id));
                if self.stage.launch.plan.rounds.is_none() {
                    self.children.say(Word::Last(self.rounds));
                }
            }
        }
        Ok(())
    }
}

/// What is due of an outage, if there is one.
async fn due(outage: &mut Option<Outage<'_>>) -> Result<Due, ClusterError> {
    match outage {
        Some(outage) => outage.due().await,
        None => std::future::pending().await,
    }
}

/// Why the count ends with `ended` and those that fall with it. The one that an outage killed is none of them.
async fn died(ended: Ended, children: &mut Children, outage: Option<&Outage<'_>>) -> JobError {
    let background = outage.and_then(Outage::background);
    let mut fallen = children.casualties(ended, SETTLE).await;
    fallen.retain(|ended| !outage.is_some_and(|outage| outage.caused(ended)));
    JobError::Died { casualty: Box::new(Casualty::of(fallen)), background }
}
