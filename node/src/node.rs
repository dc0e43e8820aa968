//! What a node is made of, and the rules by which it attaches, opens, binds and drains. [`crate::embedded`] starts it and
//! its tasks.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fmt,
    future::pending,
    rc::{Rc, Weak},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::spawn_local,
    time::{sleep, sleep_until, timeout},
};
use tracing::{info, warn};
use trunkline_certs::Identity;
use trunkline_proto::{
    code::Code,
    id::{ClusterName, Incarnation, NodeId},
    message::{Drain, Open},
    version::SOFTWARE,
};

use crate::{
    bindings::{Admission, Binding, Bindings, Refusal, Resumption},
    config::{self, ConfigError, NodeConfig},
    events::{self, counted},
    link::{
        credentials::AccountError,
        process::{LocalBind, Process},
        socket::SocketError,
    },
    refusals::Refusals,
    relay::{End, Relay, Relays, Side, Tombstones},
    trunk::{self, Trunks, endpoint::EndpointError},
};

/// After a drain, how long the last words of streams to processes and peers may take.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The same, when there was no stream to drain.
const LAST_WORDS_IDLE: Duration = Duration::from_millis(50);

/// Ends of streams that are kept for producers who may ask. One takes some 100 bytes.
const TOMBSTONES_MAX: usize = 65_536;

/// Why a node did not start. Nothing was left behind but, perhaps, the lock file of a socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The configuration, which a program made or changed, breaks the bounds that a file must keep.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The UDP socket or QUIC could not be set up.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The local or admin socket could not be bound.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A user or group of the configuration is unknown.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// This node stands in its own list of peers.
    #[error("{0} stands among its own [[peer]]s; remove that entry")]
    OwnPeer(NodeId),
    /// The system gave no random numbers.
    #[error("no random numbers: {0}")]
    Random(String),
}

/// A running node. Everything in it lives on one thread.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) cluster: ClusterName,
    pub(crate) identity: Identity,
    pub(crate) config: NodeConfig,
    pub(crate) trunks: Trunks,
    pub(crate) relays: Rc<Relays>,
    pub(crate) bindings: RefCell<Bindings<Parked>>,
    pub(crate) processes: RefCell<BTreeMap<u64, Rc<Process>>>,
    pub(crate) refusals: Refusals,
    pub(crate) started: Instant,
    attachments: Cell<u64>,
    draining: watch::Sender<bool>,
    random: Cell<u64>,
}

/// Where a stream came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// From a producer in the process of this attachment here.
    FromProcess(u64),
    /// From a peer, whose producer it is.
    FromPeer,
}

/// An open that waits for its consumer to be bound.
pub(crate) struct Parked {
    pub(crate) relay: Rc<Relay>,
    pub(crate) since: Instant,
}

impl Node {
    /// The state of a node that has just started. `seed` is drawn at random.
    pub(crate) fn new(config: NodeConfig, identity: Identity, trunks: Trunks, seed: u64) -> Self {
        Self {
            id: identity.node_id().clone(),
            cluster: identity.cluster().clone(),
            trunks,
            relays: Relays::new(Tombstones::new(config.limits.patience, TOMBSTONES_MAX)),
            bindings: RefCell::new(Bindings::new(config.limits.parked_opens_max)),
            processes: RefCell::default(),
            refusals: Refusals::default(),
            started: Instant::now(),
            attachments: Cell::new(0),
            draining: watch::Sender::new(false),
            random: Cell::new(seed | 1),
            identity,
            config,
        }
    }

    /// Logs what runs and where, and what should be looked after.
    pub(crate) fn announce(&self) {
        let listen = self.trunks.local_address();
        let local = self.config.local.as_ref().map(|local| format!(", for processes on {}", local.socket.display()));
        let local = local.unwrap_or_default();
        let admin = self.config.admin.as_ref().map(|admin| format!(", for operators on {}", admin.socket.display()));
        let admin = admin.unwrap_or_default();
        info!("{SOFTWARE}: {} of cluster {} listens on UDP {listen}{local}{admin}", self.id, self.cluster);
        for (key, path) in self.config.sockets() {
            if let Ok(Some(open)) = config::why_reachable(key, path) {
                warn!("{open}");
            }
        }
        if config::expires_soon(&self.identity) {
            warn!(
                "the certificate of {} expires on {}: renew it",
                self.id,
                trunkline_certs::date(self.identity.not_after())
            );
        }
    }

    /// Whether the node takes nothing new any more.
    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Tells who watches when the node begins to drain.
    pub(crate) fn watch_draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// A number in 0..1 that spreads what must not happen in step (xorshift64, seeded at the start).
    pub(crate) fn random_fraction(&self) -> f64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
        let fraction = (x >> 11) as f64 / (1_u64 << 53) as f64;
        fraction
    }

    /// A process has said HELLO.
    pub(crate) fn attach(&self, make: impl FnOnce(u64) -> Rc<Process>) -> Result<Rc<Process>, Refusal> {
        let max = self.config.limits.processes_max;
        if self.is_draining() {
            return Err(Refusal { code: Code::Draining, text: format!("{} is shutting down", self.id) });
        }
        if self.processes.borrow().len() >= max {
            let text = format!("{max} processes are attached, the most that {} allows (`processes_max`)", self.id);
            return Err(Refusal { code: Code::Busy, text });
        }
        let number = self.attachments.get() + 1;
        self.attachments.set(number);
        let process = make(number);
        self.processes.borrow_mut().insert(number, Rc::clone(&process));
        Ok(process)
    }

    /// A process is gone.
    pub(crate) fn detach(&self, number: u64) {
        self.processes.borrow_mut().remove(&number);
    }

    /// A stream that came in on `up` is to be opened: it is parked, offered, or sent on, and its relay tells what becomes
    /// of it.
    ///
    /// Refused at once, it never becomes a relay: whoever asks without end must not fill this node with answers.
    ///
    /// With `resume`, it is not opened but taken up again, with that life of its consumer.
    pub(crate) fn open(
        self: &Rc<Self>,
        open: Open,
        resume: Option<Incarnation>,
        up: End,
        came: Came,
    ) -> Result<Rc<Relay>, Refusal> {
        if let Some(refusal) = self.refusal(&open, resume.is_some(), came) {
            events::refused(&open, refusal.code, &refusal.text);
            return Err(refusal);
        }
        let here = open.node == self.id;
        let process = match came {
            Came::FromProcess(number) => Some(number),
            Came::FromPeer => None,
        };
        let relay = self.relays.add(open, resume, up, process);
        events::opened(&relay.open);
        match resume {
            Some(life) if here => self.resume_here(&relay, life),
            None if here => self.open_here(&relay),
            _ => trunk::open(self, &relay),
        }
        Ok(relay)
    }

    fn refusal(&self, open: &Open, is_resumed: bool, came: Came) -> Option<Refusal> {
        let refusal = |code, text| Some(Refusal { code, text });
        let streams_max = self.config.limits.streams_max;
        if self.is_draining() {
            refusal(Code::Draining, format!("{} is shutting down", self.id))
        } else if self.relays.existing() >= streams_max {
            refusal(Code::Busy, format!("{} carries {streams_max} streams, the most it may (`streams_max`)", self.id))
        } else if open.node == self.id && is_resumed {
            None
        } else if open.node == self.id {
            let name = (open.job.name.clone(), open.consumer.clone());
            self.bindings.borrow().refusal(&name, &open.job.run)
        } else if came == Came::FromPeer {
            refusal(Code::UnknownNode, format!("this is {}, not {}", self.id, open.node))
        } else if is_resumed {
            trunk::resume_refusal(self, &open.node)
        } else {
            trunk::refusal(self, &open.node)
        }
    }

    /// The consumer took the stream on this node, and is asked to go on with it; or what is known of it answers.
    fn resume_here(self: &Rc<Self>, relay: &Rc<Relay>, life: Incarnation) {
        let name = (relay.open.job.name.clone(), relay.open.consumer.clone());
        let resumption = self.bindings.borrow().resume(&name, life);
        if let Resumption::Offer(process) = resumption {
            match self.processes.borrow().get(&process) {
                Some(process) => process.offer(relay, 0),
                None => relay.fail(Code::ConsumerGone, "the consumer's process is gone"),
            }
            return;
        }
        let now = Instant::now();
        let stream = (relay.open.incarnation, relay.open.number);
        let (epitaph, ended) = {
            let mut tombstones = self.relays.tombstones().borrow_mut();
            (tombstones.stream(stream, now), tombstones.life(life, now))
        };
        match (epitaph, ended, resumption) {
            (Some(epitaph), ..) => relay.answer_with(epitaph),
            (None, Some(code), _) => relay.fail(code, &format!("the process of consumer {} is gone", name.1)),
            (None, None, Resumption::Refused(Refusal { code, text })) => relay.fail(code, &text),
            (None, None, _) => {
                events::parked(&relay.open, "its consumer is not there");
                let parked = Parked { relay: Rc::clone(relay), since: now };
                let is_withdrawn = |parked: &Parked| parked.relay.is_over();
                self.bindings.borrow_mut().await_life(name, life, parked, is_withdrawn);
            }
        }
    }

    /// Has the streams of producers that are gone taken up, or kept, until they are ended at their consumers or patience is
    /// over. For as long as it is polled.
    pub(crate) async fn serve_orphans(self: Rc<Self>) -> Infallible {
        let patience = self.config.limits.patience;
        // All wait equally long: the oldest is the first whose time is over.
        let mut kept: VecDeque<(Instant, Weak<Relay>)> = VecDeque::new();
        loop {
            let due = kept.front().map(|(until, _)| *until);
            let expiry = async {
                match due {
                    Some(until) => sleep_until(until.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                orphan = self.relays.orphan() => {
                    if orphan.open.node != self.id && orphan.is_unsent() {
                        trunk::open(&self, &orphan);
                    }
                    kept.push_back((Instant::now() + patience, Rc::downgrade(&orphan)));
                }
                () = expiry => {
                    let orphan = kept.pop_front().and_then(|(_, orphan)| orphan.upgrade());
                    if let Some(orphan) = orphan.filter(|orphan| !orphan.is_over()) {
                        orphan.fail(Code::ProducerGone, "its producer is gone, and its consumer could not be told");
                    }
                }
            }
        }
    }

    /// The consumer is, or will be, attached to this node.
    fn open_here(self: &Rc<Self>, relay: &Rc<Relay>) {
        let name = (relay.open.job.name.clone(), relay.open.consumer.clone());
        let park = || Parked { relay: Rc::clone(relay), since: Instant::now() };
        let admission = self.bindings.borrow_mut().admit(&name, &relay.open.job.run, relay.number, park);
        match admission {
            Admission::Offer(Binding { process, bind, .. }) => match self.processes.borrow().get(&process) {
                Some(process) => process.offer(relay, bind),
                None => relay.fail(Code::ConsumerGone, "the consumer's process is gone"),
            },
            Admission::Refused(Refusal { code, text }) => relay.fail(code, &text),
            Admission::Parked => {
                events::parked(&relay.open, "its consumer is not bound");
                let open_timeout = self.config.limits.open_timeout;
                let ended = relay.ended();
                let (node, number, relay) = (Rc::clone(self), relay.number, Rc::downgrade(relay));
                spawn_local(async move {
                    // Withdrawn meanwhile, it leaves the table too, and makes room for another.
                    let expired = timeout(open_timeout, ended).await.is_err();
                    let parked = node.bindings.borrow_mut().remove_parked(&name, number);
                    if let (true, Some(_), Some(relay)) = (expired, parked, relay.upgrade()) {
                        let text = format!("nobody bound {}/{} on {} within {open_timeout:?}", name.0, name.1, node.id);
                        relay.fail(Code::NotBound, &text);
                    }
                });
            }
        }
    }

    /// A process binds a consumer's name. Returns the streams that waited for it.
    pub(crate) fn bind(&self, process: &Process, bind: u64, local: &LocalBind) -> Result<Vec<Rc<Relay>>, Refusal> {
        if self.is_draining() {
            return Err(Refusal { code: Code::Draining, text: format!("{} is shutting down", self.id) });
        }
        let name = (local.job.name.clone(), local.consumer.clone());
        if local.resumes_only {
            let waited = self.bindings.borrow_mut().hold(&name, local.life, process.number);
            return Ok(waited.into_iter().map(|parked| parked.relay).collect());
        }
        let binding = Binding { process: process.number, bind, run: local.job.run.clone(), life: local.life };
        let waited = self.bindings.borrow_mut().bind(name, binding)?;
        let mut offered = Vec::with_capacity(waited.len());
        for (Parked { relay, .. }, refusal) in waited {
            match refusal {
                Some(Refusal { code, text }) => relay.fail(code, &text),
                None => offered.push(relay),
            }
        }
        Ok(offered)
    }

    /// Takes nothing new, tells everyone, and waits for the streams to end, until the deadline or `hurry`.
    pub(crate) async fn drain(&self, why: &impl fmt::Display, hurry: impl Future<Output = impl fmt::Display>) {
        let deadline = self.config.drain_timeout;
        // No one may be watching.
        let _ = self.draining.send_replace(true);
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let last_words = if self.relays.count() == 0 { LAST_WORDS_IDLE } else { LAST_WORDS };
        for process in self.processes.borrow().values() {
            process.outlet.push_frame(Drain { deadline_ms });
        }
        self.trunks.drain(deadline);
        for relay in self.relays.all() {
            // Who has no consumer yet will not get one.
            if relay.is_pending() {
                relay.fail(Code::Draining, &format!("{} is shutting down", self.id));
            }
        }
        let streams = |one, more| counted(self.relays.count() as u64, one, more);
        info!("{why}: {} drains, {}", self.id, streams("stream is open", "streams are open"));
        let cut_short = tokio::select! {
            biased;
            () = self.relays.empty() => None,
            () = sleep(deadline) => Some(format!("not ended within {deadline:?}")),
            why = hurry => Some(why.to_string()),
        };
        if let Some(why) = cut_short {
            warn!("{why}: {}", streams("stream is let go", "streams are let go"));
            self.let_go();
        }
        if !self.processes.borrow().is_empty() || !self.trunks.all().is_empty() {
            sleep(last_words).await;
        }
    }
    /// The node's tasks have ended: ends what they left, so that nothing holds another for ever. A process that shares
    /// this thread can still take what it was told.
    pub(crate) fn end(&self) {
        // No one may be watching.
        let _ = self.draining.send_replace(true);
        self.let_go();
        self.trunks.abandon();
        self.bindings.replace(Bindings::new(0));
        for process in self.processes.take().into_values() {
            if process.is_embedded {
                process.outlet.wake();
            } else {
                drop(process.outlet.close());
            }
        }
    }

    /// Ends what cannot go on with this node's next life: streams of a program that the node is embedded in, and such as have no
    /// consumer yet. The others are resumed by their producers.
    fn let_go(&self) {
        let embedded: Vec<_> =
            self.processes.borrow().values().filter(|process| process.is_embedded).cloned().collect();
        let is_embedded = |end: Option<End>| {
            end.is_some_and(|end| embedded.iter().any(|process| Rc::ptr_eq(&process.outlet, &end.outlet)))
        };
        for relay in self.relays.all() {
            if relay.is_pending() || is_embedded(relay.end(Side::Up)) || is_embedded(relay.end(Side::Down)) {
                relay.fail(Code::Draining, &format!("{} has shut down", self.id));
            }
        }
    }
}
