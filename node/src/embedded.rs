//! A node inside a program: the same node as the daemon's, with a link that is a value instead of a socket.
//!
//! The node and the program's link to it live on one thread. [`start`] puts the node's tasks on the thread's
//! [`LocalSet`]; [`EmbeddedNode::attach`] makes the program one of the node's processes, to be seen in `Status` like
//! any other. What a socket would carry as bytes, a [`LocalLink`] hands over as [`Frame`]s: nothing is encoded, and no
//! payload is copied on its way through the link. (The node itself gathers pieces below 4 KiB, as it does for sockets.)
//!
//! Credit bounds what either side hands over: the limits that the node tells a producer, and those that the consumer
//! tells the node. So no buffer lies between the two.
//!
//! ```no_run
//! use std::collections::VecDeque;
//! use trunkline_node::{config::{IdentityConfig, NodeConfig}, embedded};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! tokio::task::LocalSet::new().block_on(&runtime, async {
//!     let files = IdentityConfig { certificate: "node.pem".into(), key: "node.key".into(), trust: "trust.pem".into() };
//!     let identity = trunkline_certs::Identity::load(&files.certificate, &files.key, &files.trust)?;
//!     let node = embedded::start(NodeConfig::new("[::]:7400".parse()?, files), identity)?;
//!     let link = node.attach("my-program/1.0")?;
//!     let mut frames = VecDeque::new();
//!     // Asks by `link.handle(frame)`, and between:
//!     while link.next(&mut frames) {
//!         for frame in frames.drain(..) {
//!             println!("{frame:?}");
//!         }
//!     }
//!     link.changed().await;
//!     drop(link);
//!     node.drain("the program ends", std::future::pending::<&str>()).await;
//!     Ok(())
//! })
//! # }
//! ```

use std::{
    collections::VecDeque,
    fmt,
    future::{pending, poll_fn},
    net::SocketAddr,
    pin::pin,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinHandle, LocalSet, spawn_local, yield_now},
};
use tracing::{error, info};
use trunkline_certs::Identity;
use trunkline_proto::{
    code::Code,
    frame::{DataHeader, Frame},
    id::{ClusterName, NodeId},
};

pub use crate::bindings::Refusal;
use crate::{
    admin::{self, Question},
    config::NodeConfig,
    link::{
        self,
        credentials::{Allowed, Denied, Peer},
        process::{self, Fault, Process},
        sink,
        socket::{BoundSocket, bind_unix},
    },
    node::{Node, NodeError},
    status,
    trunk::{self, Trunks},
};

/// Any user may knock: the socket's folder keeps strangers out, and the node asks the kernel who it is.
const LOCAL_SOCKET_MODE: u32 = 0o666;
/// The admin socket is its owner's alone.
const ADMIN_SOCKET_MODE: u32 = 0o600;
/// Questions to the node that may wait.
const QUESTIONS_MAX: usize = 16;

/// Starts a node: binds what the configuration names, and puts the node's tasks on this thread's [`LocalSet`].
///
/// Without `local` in the configuration no local socket is bound and no account is looked up: the node serves its own
/// program alone, and its peers.
///
/// # Errors
/// [`NodeError`]; then nothing was started.
///
/// # Panics
/// Outside of a [`LocalSet`] on a current-thread runtime with I/O and time enabled.
pub fn start(config: NodeConfig, identity: Identity) -> Result<EmbeddedNode, NodeError> {
    config.validate()?;
    if config.peers.iter().any(|peer| &peer.id == identity.node_id()) {
        return Err(NodeError::OwnPeer(identity.node_id().clone()));
    }
    let allowed = config.local.as_ref().map(Allowed::to_attach).transpose()?;
    let seed = getrandom::u64().map_err(|error| NodeError::Random(error.to_string()))?;
    // The sockets first: a second daemon must fail before it disturbs the first.
    let local = config.local.as_ref().map(|local| bind_unix(&local.socket, LOCAL_SOCKET_MODE)).transpose()?;
    let admin = config.admin.as_ref().map(|admin| bind_unix(&admin.socket, ADMIN_SOCKET_MODE)).transpose()?;
    let trunks = Trunks::new(&config, &identity, seed)?;
    let node = Rc::new(Node::new(config, identity, trunks, seed));
    node.announce();

    let tasks = Rc::new(LocalSet::new());
    let mut acceptors = vec![tasks.spawn_local(trunk::serve(Rc::clone(&node))).abort_handle()];
    acceptors.push(tasks.spawn_local(trunk::watch(Rc::clone(&node))).abort_handle());
    let ticks = Rc::clone(node.relays.ticks());
    acceptors.push(tasks.spawn_local(async move { ticks.run().await }).abort_handle());
    acceptors.push(tasks.spawn_local(Rc::clone(&node).serve_orphans()).abort_handle());
    if let (Some(socket), Some(allowed)) = (local, allowed) {
        acceptors.push(tasks.spawn_local(link::serve(Rc::clone(&node), socket, allowed)).abort_handle());
    }
    let admin = admin.map(|socket| {
        let (stop, stopped) = oneshot::channel();
        AdminTask { stop, served: tasks.spawn_local(serve_admin(Rc::clone(&node), socket, stopped)) }
    });
    let driver = spawn_local(drive(Rc::downgrade(&tasks))).abort_handle();
    Ok(EmbeddedNode { node, tasks: Some(tasks), driver, acceptors, admin })
}

/// Runs the tasks of a node among those of the thread, until the node is dropped.
///
/// A [`LocalSet`] that has not come to the end of its tasks wakes whoever polls it at once. Within another set, which
/// does the same, 61 turns of it would come before the runtime looks at its sockets and at QUIC's own tasks again; so
/// that wake-up is held back until the runtime has.
async fn drive(tasks: Weak<LocalSet>) {
    let turn = Arc::new(TurnWaker::default());
    let waker = Waker::from(Arc::clone(&turn));
    loop {
        let more = poll_fn(|context| {
            let Some(tasks) = tasks.upgrade() else { return Poll::Ready(false) };
            turn.begin(context.waker());
            let _ = pin!(tasks.run_until(pending::<()>())).poll(&mut Context::from_waker(&waker));
            if turn.end() { Poll::Ready(true) } else { Poll::Pending }
        });
        if !more.await {
            return;
        }
        yield_now().await;
    }
}

/// Wakes a task, but for while it runs: then it is only noted.
#[derive(Default)]
struct TurnWaker {
    running: AtomicBool,
    woken: AtomicBool,
    task: AtomicWaker,
}

impl TurnWaker {
    fn begin(&self, task: &Waker) {
        self.task.register(task);
        self.running.store(true, SeqCst);
        self.woken.store(false, SeqCst);
    }

    /// Whether it was woken since it began.
    fn end(&self) -> bool {
        self.running.store(false, SeqCst);
        self.woken.load(SeqCst)
    }
}

impl Wake for TurnWaker {
    fn wake(self: Arc<Self>) {
        // In this order: whoever is seen running here will see that it was woken at its end.
        self.woken.store(true, SeqCst);
        if !self.running.load(SeqCst) {
            self.task.wake();
        }
    }
}

/// Serves operators until `stopped`.
async fn serve_admin(node: Rc<Node>, socket: BoundSocket, stopped: oneshot::Receiver<()>) {
    let (questions, mut asked) = mpsc::channel::<Question>(QUESTIONS_MAX);
    let denied = |peer: Peer, denied: &Denied| {
        let who = format!("refused a process of uid {} on the admin socket", peer.uid);
        node.refusals.warn(&who, &denied.to_string());
    };
    let stopped = async { stopped.await.unwrap_or_default() };
    let answer = async {
        while let Some(question) = asked.recv().await {
            status::answer(&node, question);
        }
        pending().await
    };
    let ended = tokio::select! {
        ended = admin::serve(socket, questions, denied, node.watch_draining(), stopped) => ended,
        ended = answer => ended,
    };
    if let Err(error) = ended {
        error!("{error}");
    }
}

/// A node that runs on this thread for as long as this lives.
///
/// [`EmbeddedNode::drain`] ends it well. Dropped without that, the node is gone as if it had been killed: its streams
/// and its sockets are, in that instant, and its peers hear of it if the runtime goes on.
#[must_use = "dropped, the node ends"]
pub struct EmbeddedNode {
    node: Rc<Node>,
    /// All tasks of the node, those that tasks start included; so all of them end when this is dropped. A task that is
    /// begun from outside of them must enter it first. `None` when the node has ended.
    tasks: Option<Rc<LocalSet>>,
    /// Polls `tasks`.
    driver: AbortHandle,
    /// The tasks that take connections from peers and processes, and the one that says that time passes.
    acceptors: Vec<AbortHandle>,
    admin: Option<AdminTask>,
}

struct AdminTask {
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl fmt::Debug for EmbeddedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedNode").field("id", self.id()).finish_non_exhaustive()
    }
}

impl EmbeddedNode {
    /// Who the node is, as its certificate says.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.node.id
    }

    /// The cluster that it belongs to.
    #[must_use]
    pub fn cluster(&self) -> &ClusterName {
        &self.node.cluster
    }

    /// The UDP address that peers reach it at, with the port that the system chose if the configuration says 0.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.node.trunks.local_address()
    }

    /// Attaches this program, as a process among the others: it counts for `processes_max`, and `Status` shows it with
    /// this process's user, group and pid, and `software` (such as `my-program/1.0`). May be called again: each link is
    /// an attachment of its own. Nobody attaches to a node that drains: this is consumed by it.
    ///
    /// # Errors
    /// [`Refusal`] with the code `busy` when `processes_max` are attached.
    pub fn attach(&self, software: &str) -> Result<LocalLink, Refusal> {
        let process = Process::attach_embedded(&self.node, software.to_owned())?;
        let tasks = self.tasks.as_ref().map(Rc::downgrade).unwrap_or_default();
        Ok(LocalLink { node: Rc::clone(&self.node), tasks, process })
    }

    /// Takes nothing new, tells the processes and peers, and lets streams end by themselves until `drain_timeout` of the
    /// configuration, or until `hurry`. What has not ended then is aborted with `draining`. Returns when the node has
    /// ended, its sockets are gone and its peers have been told.
    ///
    /// `why` and what `hurry` returns are for the log. Links must be served meanwhile, by another task or beside this
    /// future: their streams are among those that are waited for.
    ///
    /// # Cancel safety
    /// Dropped, it drops the node.
    pub async fn drain(mut self, why: impl fmt::Display, hurry: impl Future<Output = impl fmt::Display>) {
        self.node.drain(&why, hurry).await;
        self.acceptors.iter().for_each(AbortHandle::abort);
        if let Some(AdminTask { stop, served }) = self.admin.take() {
            // It may have failed and ended before.
            let _ = stop.send(());
            let _ = served.await;
        }
        self.node.trunks.close().await;
        info!("{} has stopped", self.node.id);
    }
}

impl Drop for EmbeddedNode {
    fn drop(&mut self) {
        // The tasks go before what they work on.
        self.tasks = None;
        self.driver.abort();
        self.node.end();
    }
}

/// A program's link to the node that is embedded in it. Dropped, it detaches: everything that the program was part of
/// ends, exactly as when a process closes its socket.
///
/// The calls take effect at once, and none of them waits but [`LocalLink::changed`]. The protocol is that of the local
/// socket (docs/wire.md), less the HELLO and with DATA payloads of any length.
#[must_use = "dropped, it detaches"]
pub struct LocalLink {
    node: Rc<Node>,
    /// The node's tasks. They are gone when the node has ended.
    tasks: Weak<LocalSet>,
    process: Rc<Process>,
}

impl fmt::Debug for LocalLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLink").field("attachment", &self.process.number).finish_non_exhaustive()
    }
}

impl LocalLink {
    /// Does what the frame asks, as if it had been read from a socket. What the node has to say to it comes by
    /// [`LocalLink::next`]: call that until it returns false after some hundreds of frames at most, for a process that
    /// asks more than it takes the answers of is cut off.
    ///
    /// # Errors
    /// [`Refusal`] says why the link cannot go on: the frame breaks the protocol, too many answers wait, or the link or
    /// the node has ended before. The program is detached then. What merely cannot be done (an open, a bind) is not an
    /// error here: the node answers it with ABORT or REFUSED.
    pub fn handle(&self, frame: Frame) -> Result<(), Refusal> {
        self.enter(|| process::handle(&self.node, &self.process, frame))
    }

    /// [`LocalLink::handle`] for a DATA frame whose payload lies in several pieces, which are moved out: one frame costs less
    /// than one for each, and the pieces need not be copied together.
    ///
    /// # Errors
    /// As [`LocalLink::handle`].
    pub fn handle_data(&self, header: &DataHeader, pieces: &mut [Bytes]) -> Result<(), Refusal> {
        self.enter(|| process::handle_data(&self.process, header, pieces))
    }

    /// Has the node do something, as one of its tasks would. After a fault the program is detached.
    fn enter(&self, act: impl FnOnce() -> Result<(), Fault>) -> Result<(), Refusal> {
        let Some(tasks) = self.tasks.upgrade() else {
            return Err(Refusal { code: Code::Draining, text: format!("{} has shut down", self.node.id) });
        };
        if self.process.outlet.is_closed() {
            let text = format!("the link to {} has ended: an earlier frame could not be taken", self.node.id);
            return Err(Refusal { code: Code::Closed, text });
        }
        // What the frame begins is the node's.
        let _entered = tasks.enter();
        act().map_err(|fault| {
            process::cut_off(&self.node, &self.process, &fault);
            let Fault { code, text } = fault;
            Refusal { code, text }
        })
    }

    /// Appends to `frames` what the node has for the program next: of one stream at a time, control first, at most 64 KiB
    /// of payload. Returns false when there is nothing; it may return true and append nothing, when what there was is
    /// moot.
    ///
    /// A stream's bytes come as one DATA frame for each piece of memory that they lie in.
    pub fn next(&self, frames: &mut VecDeque<Frame>) -> bool {
        let Some(next) = self.process.outlet.next() else { return false };
        sink::push(&self.process, next, frames);
        true
    }

    /// Waits until [`LocalLink::next`] may have something, or the link or the node has ended. It may end without either.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost. One waiter at a time.
    pub async fn changed(&self) {
        if !self.is_ended() {
            self.process.outlet.changed().await;
        }
    }

    /// Whether the node has ended, or has cut the link off after a fault: [`LocalLink::handle`] takes nothing more. What
    /// an ended node had said before can still be taken with [`LocalLink::next`].
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.tasks.strong_count() == 0 || self.process.outlet.is_closed()
    }
}

impl Drop for LocalLink {
    fn drop(&mut self) {
        // After a fault it is detached already.
        if !self.process.outlet.is_closed() {
            process::detach(&self.node, &self.process);
        }
    }
}

/// Runs a node until `stop`, then [drains](EmbeddedNode::drain) it, until `hurry` at the latest.
///
/// Both futures say why, for the log. `hurry` is polled only after `stop` has ended; a program that never hurries gives
/// `std::future::pending::<&str>()`.
///
/// Must run in a [`LocalSet`] on a current-thread runtime with I/O and time enabled.
///
/// # Errors
/// [`NodeError`] when it cannot start.
///
/// # Cancel safety
/// Dropped, it drops the node, as [`EmbeddedNode`] says.
pub async fn run(
    config: NodeConfig,
    identity: Identity,
    stop: impl Future<Output = impl fmt::Display>,
    hurry: impl Future<Output = impl fmt::Display>,
) -> Result<(), NodeError> {
    let node = start(config, identity)?;
    let why = stop.await;
    node.drain(why, hurry).await;
    Ok(())
}
