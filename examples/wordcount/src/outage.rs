//! An outage: while words are counted one daemon is killed, and started again with the same configuration.
//!
//! Whoever waits for a process to end, or for one to tell something, waits for [`Outage::due`] too, and then does what is
//! due. The death of that daemon, by that signal, is the only one that is expected.

use std::{os::unix::process::ExitStatusExt, pin::Pin, time::Duration};

use rustix::process::Signal;
use tokio::time::{self, Instant};

use crate::{
    children::{Children, Ended, Kind, Slot},
    cluster::{self, ClusterError, Launch},
    guard::Guard,
};

/// How long a daemon is gone before it is started again: long enough that whoever lost it has tried to come back in vain.
const AWAY: Duration = Duration::from_millis(500);

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Kill the daemon.
    Kill,
    /// Start it again.
    Start,
    /// Nothing more: processes can attach to it again.
    Nothing,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Survived {
    /// Whose daemon it was.
    pub(crate) node: String,
    /// When it was killed, from the word to begin on.
    pub(crate) killed_after: Duration,
    /// When processes could attach to the new one, from then on.
    pub(crate) back_after: Duration,
}

/// One daemon's.
pub(crate) struct Outage<'a> {
    launch: &'a Launch<'a>,
    /// The node's number.
    node: usize,
    /// When mappers were told to begin.
    began: Instant,
    /// When the daemon was killed.
    killed: Option<Instant>,
    stage: Stage,
}

/// How far it is.
enum Stage {
    /// The daemon lives, until then.
    Ahead(Instant),
    /// It was killed, and its end is not seen yet.
    Killed {
        /// Its number.
        pid: u32,
    },
    /// It is gone, until then.
    Away(Instant),
    /// It was started again; this ends when processes can attach to it.
    Rising(Pin<Box<dyn Future<Output = Result<(), ClusterError>>>>),
    /// It was back then.
    Back(Instant),
    /// All words were counted before it was killed, and it was left alone.
    Missed,
}

impl<'a> Outage<'a> {
    /// Of one of the nodes of `launch`, so long `after` the mappers `began`.
    pub(crate) fn new(launch: &'a Launch<'a>, began: Instant, after: Duration) -> Self {
        // Not the first: this one dials a peer and is dialled by another, where there are three.
        let node = 1.min(launch.plan.nodes.len() - 1);
        // A time that no clock reaches is never over.
        let at = began.checked_add(after).unwrap_or_else(|| began + Duration::from_secs(u32::MAX.into()));
        Self { launch, node, began, killed: None, stage: Stage::Ahead(at) }
    }

    /// The number of the node.
    pub(crate) fn node(&self) -> usize {
        self.node
    }

    /// Waits until something is to be done, for ever when nothing is. Cancel-safe: it says so again until it is done.
    pub(crate) async fn due(&mut self) -> Result<Due, ClusterError> {
        match &mut self.stage {
            Stage::Ahead(at) => {
                time::sleep_until(*at).await;
                Ok(Due::Kill)
            }
            Stage::Away(until) => {
                time::sleep_until(*until).await;
                Ok(Due::Start)
            }
            Stage::Rising(attachable) => {
                attachable.await?;
                self.stage = Stage::Back(Instant::now());
                Ok(Due::Nothing)
            }
            Stage::Killed { .. } | Stage::Back(_) | Stage::Missed => std::future::pending().await,
        }
    }

    /// Kills the daemon, whose number is `pid`.
    pub(crate) fn kill(&mut self, pid: u32, children: &Children) {
        children.kill_daemon(pid);
        self.killed = Some(Instant::now());
        self.stage = Stage::Killed { pid };
    }

    /// Leaves the daemon alone: there is nothing left to survive.
    pub(crate) fn miss(&mut self) {
        self.stage = Stage::Missed;
    }

    /// Whether this end is the one that was caused here.
    pub(crate) fn caused(&self, ended: &Ended) -> bool {
        let Stage::Killed { pid } = self.stage else { return false };
        let killed = ended.status.as_ref().is_ok_and(|status| status.signal() == Some(Signal::KILL.as_raw()));
        ended.slot == Slot { kind: Kind::Daemon, index: self.node } && ended.pid == pid && killed
    }

    /// The daemon has ended.
    pub(crate) fn gone(&mut self) {
        self.stage = Stage::Away(Instant::now() + AWAY);
    }

    /// Starts the daemon again; gives its new number.
    pub(crate) fn start(&mut self, children: &mut Children, guard: &mut Guard) -> Result<u32, ClusterError> {
        let pid = self.launch.start_node(self.node, children, guard)?;
        self.stage = Stage::Rising(Box::pin(cluster::attachable(self.launch.folder, self.id())));
        Ok(pid)
    }

    /// Whether the daemon was killed, and nobody can attach to it yet.
    pub(crate) fn lasts(&self) -> bool {
        matches!(self.stage, Stage::Killed { .. } | Stage::Away(_) | Stage::Rising(_))
    }

    /// What came of it, once the daemon is back.
    pub(crate) fn survived(&self) -> Option<Survived> {
        let (Stage::Back(back), Some(killed)) = (&self.stage, self.killed) else { return None };
        let (killed_after, back_after) = (killed - self.began, *back - killed);
        Some(Survived { node: self.id().to_owned(), killed_after, back_after })
    }

    /// What to say of it to whoever wonders why a process died, once the daemon was killed.
    pub(crate) fn background(&self) -> Option<String> {
        let ago = self.killed?.elapsed().as_secs_f64();
        let then = if self.lasts() { "is not back yet" } else { "is back" };
        Some(format!("the daemon of {} was killed {ago:.2} s ago, as --kill-node says, and {then}", self.id()))
    }

    fn id(&self) -> &'a str {
        &self.launch.plan.nodes[self.node]
    }
}
