//! Trunks: one QUIC connection per peer, made when it is first needed, and the tasks that carry out what
//! [`dial::Dialler`] decides.

mod connection;
mod dial;
pub(crate) mod endpoint;
mod pump;
mod reader;
mod silence;
mod window;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use quinn::{Connection, Endpoint, Incoming};
use tokio::{
    task::{AbortHandle, spawn_local},
    time::{interval, sleep_until, timeout},
};
use tracing::{debug, info};
use trunkline_certs::{PeerIdentity, SERVER_NAME};
use trunkline_proto::{
    code::Code,
    id::NodeId,
    message::{Drain, TrunkHello},
    version::{Offer, SOFTWARE},
};

pub(crate) use self::connection::Trunk;
use self::{
    connection::{Control, Unreadable, explain},
    dial::{Action, Dialler, Token},
    endpoint::{Dials, EndpointError},
};
use crate::{
    bindings::Refusal,
    config::{Profile, TrunkConfig},
    events,
    node::Node,
    relay::Relay,
};

/// An attempt at one address that is not answered by then is begun anew: a new handshake retransmits at once, an old one
/// ever more rarely.
const ATTEMPT: Duration = Duration::from_secs(1);
/// The same where a round trip may take long.
const ATTEMPT_WAN: Duration = Duration::from_secs(3);
/// How often trunks are looked at for whether they are silent.
const LOOK: Duration = Duration::from_millis(250);
/// Beyond so many handshakes at once, a stranger has to show that its address is its own (RFC 9000 §8.1.2).
const HANDSHAKES_MAX: usize = 64;
/// Why the connections of a node that stops are closed.
const STOPPED: &[u8] = b"the node has stopped";
/// A trunk's send window, however many trunks share: with less, a turn of one stream would not fit.
const SEND_WINDOW_BYTES_MIN: u64 = 64 * 1024;
/// How long the last packets may take to leave when the node stops.
const GOODBYE: Duration = Duration::from_secs(1);

/// Everything between this node and its peers.
pub(crate) struct Trunks {
    endpoint: Endpoint,
    local_address: SocketAddr,
    dials: Dials,
    boot_id: u64,
    peers: RefCell<BTreeMap<NodeId, Rc<Peer>>>,
    next_token: Cell<Token>,
    handshakes: Cell<usize>,
    /// Handshakes under way, by where they come from: the newest of a source counts.
    sources: RefCell<HashMap<SocketAddr, AbortHandle>>,
}

/// One other node.
struct Peer {
    id: NodeId,
    /// Where to dial, as configured: names are resolved at each dial.
    addresses: Vec<String>,
    dialler: RefCell<Dialler>,
    /// Streams that wait for the trunk, by relay number.
    waiting: RefCell<BTreeMap<u64, Rc<Relay>>>,
    dial: RefCell<Option<AbortHandle>>,
    /// When the dialler is to be told the time.
    tick: RefCell<Option<(Instant, AbortHandle)>>,
    /// Connections whose HELLO is not answered.
    arrived: RefCell<HashMap<Token, Arrived>>,
    trunks: RefCell<BTreeMap<Token, Rc<Trunk>>>,
    last_failure: RefCell<String>,
}

/// An incoming connection that has said HELLO.
struct Arrived {
    connection: Connection,
    control: Control,
    hello: TrunkHello,
}

impl Trunks {
    /// Opens the node's UDP socket.
    pub(crate) fn new(
        config: &crate::config::NodeConfig,
        identity: &trunkline_certs::Identity,
        boot_id: u64,
    ) -> Result<Self, EndpointError> {
        let (endpoint, dials) = endpoint::bind(config.listen, identity, &config.trunk)?;
        let local_address =
            endpoint.local_addr().map_err(|reason| EndpointError::Bind { address: config.listen, reason })?;
        let peers = config.peers.iter().map(|peer| {
            let dialler = Dialler::new(identity.node_id(), &peer.id, true, config.trunk.reconnect_backoff_max);
            (peer.id.clone(), Rc::new(Peer::new(peer.id.clone(), peer.addresses.clone(), dialler)))
        });
        Ok(Self {
            endpoint,
            local_address,
            dials,
            boot_id,
            peers: RefCell::new(peers.collect()),
            next_token: Cell::new(1),
            handshakes: Cell::new(0),
            sources: RefCell::default(),
        })
    }

    /// The UDP address that this node listens on.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// All connections, peers in order.
    pub(crate) fn all(&self) -> Vec<Rc<Trunk>> {
        self.peers
            .borrow()
            .values()
            .flat_map(|peer| peer.trunks.borrow().values().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// Gives each trunk its part of what they may hold inside QUIC together. Called when one has come or gone.
    fn share_send_windows(&self, config: &TrunkConfig) {
        let trunks = self.all();
        let share = config.send_windows_bytes / (trunks.len() as u64).max(1);
        let share = share.min(config.send_window_bytes).max(SEND_WINDOW_BYTES_MIN);
        for trunk in trunks {
            trunk.set_send_window(share);
        }
    }

    /// Tells all peers that this node takes nothing new.
    pub(crate) fn drain(&self, deadline: Duration) {
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        for trunk in self.all() {
            trunk.outlet.push_frame(Drain { deadline_ms });
        }
    }

    /// Closes every connection without waiting, and forgets what was on them. The tasks that serve them have ended.
    pub(crate) fn abandon(&self) {
        self.endpoint.close(Code::Closed.to_wire().into(), STOPPED);
        for trunk in self.all() {
            // The endpoint's word reaches a connection later, and one that nobody holds by then has closed without a reason.
            trunk.connection.close(Code::Closed.to_wire().into(), STOPPED);
            // Relays and outlets hold each other.
            drop(trunk.outlet.close());
        }
        self.peers.borrow_mut().clear();
    }

    /// Closes every connection, and waits a moment for the peers to hear of it.
    pub(crate) async fn close(&self) {
        self.endpoint.close(Code::Closed.to_wire().into(), STOPPED);
        // A peer that does not hear it notices by itself.
        let _ = timeout(GOODBYE, self.endpoint.wait_idle()).await;
    }

    fn peer(&self, id: &NodeId) -> Option<Rc<Peer>> {
        self.peers.borrow().get(id).cloned()
    }

    /// The entry of a peer that dialled in: the configured one, or a new one without addresses.
    fn peer_that_came(&self, node: &Node, id: &NodeId) -> Rc<Peer> {
        let mut peers = self.peers.borrow_mut();
        let entry = peers.entry(id.clone()).or_insert_with(|| {
            let dialler = Dialler::new(&node.id, id, false, node.config.trunk.reconnect_backoff_max);
            Rc::new(Peer::new(id.clone(), Vec::new(), dialler))
        });
        Rc::clone(entry)
    }

    fn token(&self) -> Token {
        let token = self.next_token.get();
        self.next_token.set(token + 1);
        token
    }

    fn hello(&self, peer: &Peer, dial: u64) -> TrunkHello {
        TrunkHello {
            offer: Offer::ours(),
            software: SOFTWARE.to_owned(),
            boot_id: self.boot_id,
            dial,
            dials_begun: peer.dialler.borrow().dials_begun(),
        }
    }
}

impl Peer {
    fn new(id: NodeId, addresses: Vec<String>, dialler: Dialler) -> Self {
        Self {
            id,
            addresses,
            dialler: RefCell::new(dialler),
            waiting: RefCell::default(),
            dial: RefCell::default(),
            tick: RefCell::default(),
            arrived: RefCell::default(),
            trunks: RefCell::default(),
            last_failure: RefCell::default(),
        }
    }

    fn current(&self) -> Option<Rc<Trunk>> {
        let token = self.dialler.borrow().trunk()?;
        self.trunks.borrow().get(&token).cloned()
    }
}

/// Why a stream to a node would be refused now, if it would.
pub(crate) fn refusal(node: &Node, id: &NodeId) -> Option<Refusal> {
    let refusal = |code, text| Some(Refusal { code, text });
    let peer = node.trunks.peer(id).filter(|peer| !peer.addresses.is_empty() || peer.current().is_some());
    let Some(peer) = peer else {
        let text = format!("{id} is no [[peer]] of {}, and has not dialled in", node.id);
        return refusal(Code::UnknownNode, text);
    };
    let parked_max = node.config.limits.parked_opens_max;
    match peer.current() {
        Some(trunk) if trunk.draining.get() => refusal(Code::Draining, format!("{id} is shutting down")),
        None if peer.waiting.borrow().len() >= parked_max => {
            refusal(Code::Busy, format!("{parked_max} opens wait for the trunk to {id} already"))
        }
        Some(_) | None => None,
    }
}

/// The same for a stream that is to be resumed. A peer of which nothing is known may dial in, for it has before.
pub(crate) fn resume_refusal(node: &Node, id: &NodeId) -> Option<Refusal> {
    let trunk = node.trunks.peer(id).and_then(|peer| peer.current());
    let draining = trunk.is_some_and(|trunk| trunk.draining.get());
    draining.then(|| Refusal { code: Code::Draining, text: format!("{id} is shutting down") })
}

/// Streams from a peer to a process here have lost their path, and the peer may not have noticed: a trunk tells it.
pub(crate) fn dial_awaited(node: &Rc<Node>, id: &NodeId) {
    if let Some(peer) = node.trunks.peer(id).filter(|peer| !peer.addresses.is_empty() && peer.current().is_none()) {
        let actions = peer.dialler.borrow_mut().want(true, Instant::now());
        perform(node, &peer, actions);
    }
}

/// Sends a stream on its way to its peer, for which there is no refusal: now, or once there is a trunk.
pub(crate) fn open(node: &Rc<Node>, relay: &Rc<Relay>) {
    let id = &relay.open.node;
    let is_resumed = relay.resume.is_some();
    let peer = if is_resumed { Some(node.trunks.peer_that_came(node, id)) } else { node.trunks.peer(id) };
    let Some(peer) = peer else {
        relay.fail(Code::UnknownNode, &format!("{id} is gone"));
        return;
    };
    relay.set_queued();
    if let Some(trunk) = peer.current() {
        connect(&trunk, relay);
        return;
    }
    events::parked(&relay.open, "there is no trunk yet");
    peer.waiting.borrow_mut().insert(relay.number, Rc::clone(relay));
    let actions = peer.dialler.borrow_mut().want(true, Instant::now());
    perform(node, &peer, actions);
    if is_resumed {
        // It waits as long as whoever resumes it does.
        let ended = relay.ended();
        let (node, number) = (Rc::clone(node), relay.number);
        spawn_local(async move {
            ended.await;
            if peer.waiting.borrow_mut().remove(&number).is_some() {
                settle(&node, &peer);
            }
        });
        return;
    }
    let open_timeout = node.config.limits.open_timeout;
    let ended = relay.ended();
    let (node, number, relay) = (Rc::clone(node), relay.number, Rc::downgrade(relay));
    spawn_local(async move {
        // Withdrawn meanwhile, it no longer wants the trunk.
        let expired = timeout(open_timeout, ended).await.is_err();
        if peer.waiting.borrow_mut().remove(&number).is_none() {
            return;
        }
        if let (true, Some(relay)) = (expired, relay.upgrade()) {
            let why = peer.last_failure.borrow().clone();
            relay.fail(Code::Unreachable, &format!("{} could not be reached within {open_timeout:?}: {why}", peer.id));
        }
        settle(&node, &peer);
    });
}

fn connect(trunk: &Rc<Trunk>, relay: &Rc<Relay>) {
    if trunk.draining.get() {
        relay.fail(Code::Draining, &format!("{} is shutting down", trunk.peer));
    } else {
        relay.connect_down(&trunk.outlet, &trunk.ingress_pool(relay.process), None, 0);
    }
}

/// Takes note of whether anyone still waits for the trunk.
fn settle(node: &Rc<Node>, peer: &Rc<Peer>) {
    let wanted = peer.waiting.borrow().values().any(|relay| !relay.is_over());
    let actions = peer.dialler.borrow_mut().want(wanted, Instant::now());
    perform(node, peer, actions);
    forget_if_idle(node, peer);
}

/// A peer that only ever dialled in is forgotten when it is gone.
fn forget_if_idle(node: &Rc<Node>, peer: &Rc<Peer>) {
    if peer.addresses.is_empty()
        && peer.dialler.borrow().is_idle()
        && peer.trunks.borrow().is_empty()
        && peer.arrived.borrow().is_empty()
    {
        node.trunks.peers.borrow_mut().remove(&peer.id);
    }
}

fn perform(node: &Rc<Node>, peer: &Rc<Peer>, actions: Vec<Action>) {
    for action in actions {
        match action {
            Action::Dial { number } => {
                let task = spawn_local(dial(Rc::clone(node), Rc::clone(peer), number));
                *peer.dial.borrow_mut() = Some(task.abort_handle());
            }
            Action::Abandon => {
                if let Some(task) = peer.dial.borrow_mut().take() {
                    task.abort();
                }
            }
            Action::Take(token) => {
                let arrived = peer.arrived.borrow_mut().remove(&token);
                if let Some(Arrived { connection, control, hello }) = arrived {
                    let trunk = Trunk::new(peer.id.clone(), connection, false, hello.boot_id, &node.config);
                    trunk.outlet.push_frame(node.trunks.hello(peer, 0));
                    take(node, peer, token, &trunk, control);
                }
            }
            Action::Refuse(token) => {
                if let Some(arrived) = peer.arrived.borrow_mut().remove(&token) {
                    arrived.connection.close(Code::DuplicateTrunk.to_wire().into(), b"another connection is the trunk");
                }
            }
            Action::TickAt(when) => tick_at(node, peer, when),
        }
    }
}

/// Sees to it that the dialler is told the time then. One such task a peer: an earlier one makes up for a later one.
fn tick_at(node: &Rc<Node>, peer: &Rc<Peer>, when: Instant) {
    let mut tick = peer.tick.borrow_mut();
    if tick.as_ref().is_some_and(|(earlier, _)| *earlier <= when) {
        return;
    }
    let task = {
        let (node, peer) = (Rc::clone(node), Rc::clone(peer));
        spawn_local(async move {
            sleep_until(when.into()).await;
            peer.tick.borrow_mut().take();
            let actions = peer.dialler.borrow_mut().tick(Instant::now());
            perform(&node, &peer, actions);
        })
    };
    if let Some((_, later)) = tick.replace((when, task.abort_handle())) {
        later.abort();
    }
}

/// A connection is the trunk now: runs it, and puts the streams on it that waited.
fn take(node: &Rc<Node>, peer: &Rc<Peer>, token: Token, trunk: &Rc<Trunk>, control: Control) {
    let older: Vec<_> = peer.trunks.borrow().values().cloned().collect();
    for older in &older {
        older.current.set(false);
        if older.boot_id != trunk.boot_id {
            older.restarted.set(true);
            older.connection.close(Code::TrunkLost.to_wire().into(), b"the peer has restarted");
        }
    }
    peer.trunks.borrow_mut().insert(token, Rc::clone(trunk));
    node.trunks.share_send_windows(&node.config.trunk);
    peer.last_failure.borrow_mut().clear();
    let by = if trunk.dialled { "dialled" } else { "accepted" };
    info!("trunk to {} is up ({by}, {})", peer.id, trunk.connection.remote_address());
    let waiting = peer.waiting.take();
    for relay in waiting.into_values() {
        connect(trunk, &relay);
    }
    peer.dialler.borrow_mut().want(false, Instant::now());
    for older in older {
        older.supersede();
    }
    let (node, peer, trunk) = (Rc::clone(node), Rc::clone(peer), Rc::clone(trunk));
    spawn_local(async move {
        let why = connection::run(&node, &trunk, control).await;
        info!("trunk to {} is down: {why}", peer.id);
        peer.trunks.borrow_mut().remove(&token);
        node.trunks.share_send_windows(&node.config.trunk);
        let actions = peer.dialler.borrow_mut().lost(token, Instant::now());
        perform(&node, &peer, actions);
        settle(&node, &peer);
    });
}

/// One dial: every address in turn, until one of them answers as the peer that is meant.
async fn dial(node: Rc<Node>, peer: Rc<Peer>, number: u64) {
    let mut failure = "it has no address".to_owned();
    let patience = attempt_time(&node);
    for address in &peer.addresses {
        let resolved = match timeout(patience, tokio::net::lookup_host(address)).await {
            Ok(Ok(resolved)) => resolved,
            Ok(Err(error)) => {
                failure = format!("{address} cannot be resolved: {error}");
                continue;
            }
            Err(_) => {
                failure = format!("{address} was not resolved within {patience:?}");
                continue;
            }
        };
        for resolved in resolved {
            if peer.last_failure.borrow().is_empty() {
                *peer.last_failure.borrow_mut() = format!("{resolved}: no answer yet");
            }
            match attempt(&node, &peer, number, resolved).await {
                Ok((connection, control, hello)) => {
                    peer.dial.borrow_mut().take();
                    let token = node.trunks.token();
                    let trunk = Trunk::new(peer.id.clone(), connection, true, hello.boot_id, &node.config);
                    let actions = peer.dialler.borrow_mut().answered(token, &hello, Instant::now());
                    take(&node, &peer, token, &trunk, control);
                    perform(&node, &peer, actions);
                    return;
                }
                Err(why) => failure = format!("{resolved}: {why}"),
            }
        }
    }
    peer.dial.borrow_mut().take();
    node.refusals.warn(&format!("cannot reach {}", peer.id), &failure);
    *peer.last_failure.borrow_mut() = failure;
    let actions = peer.dialler.borrow_mut().failed(Instant::now(), node.random_fraction());
    perform(&node, &peer, actions);
    settle(&node, &peer);
}

const fn attempt_time(node: &Node) -> Duration {
    match node.config.trunk.profile {
        Profile::Datacenter => ATTEMPT,
        Profile::Wan => ATTEMPT_WAN,
    }
}

/// Dials one address and waits until the other side has taken the connection as the trunk.
async fn attempt(
    node: &Node,
    peer: &Peer,
    number: u64,
    address: SocketAddr,
) -> Result<(Connection, Control, TrunkHello), String> {
    let config = node.trunks.dials.config(&peer.id).map_err(|error| error.to_string())?;
    let connecting =
        node.trunks.endpoint.connect_with(config, address, SERVER_NAME).map_err(|error| error.to_string())?;
    let patience = attempt_time(node);
    let unanswered = || format!("no answer within {patience:?}");
    let connection = timeout(patience, connecting).await.map_err(|_| unanswered())?.map_err(|error| explain(&error))?;
    let greeting = async {
        let mut control = Control::open(&connection).await?;
        control.send_hello(node.trunks.hello(peer, number)).await?;
        let hello = control.read_hello().await?;
        Ok::<_, Unreadable>((control, hello))
    };
    let greeted = timeout(node.config.limits.hello_timeout, greeting).await;
    // In TLS 1.3 the dialler is done before the other side has looked at its certificate: why the connection ended says
    // more than what that interrupted.
    let (control, hello) = match (greeted, connection.close_reason()) {
        (Ok(Ok(greeted)), _) => greeted,
        (_, Some(reason)) => return Err(explain(&reason)),
        (Ok(Err(unreadable)), None) => return Err(unreadable.text),
        (Err(_), None) => return Err("it did not say HELLO in time".to_owned()),
    };
    if let Err(error) = Offer::ours().agree(&hello.offer) {
        connection.close(Code::Version.to_wire().into(), error.to_string().as_bytes());
        return Err(error.to_string());
    }
    Ok((connection, control, hello))
}

/// Watches the trunks for silence, for as long as it is polled.
pub(crate) async fn watch(node: Rc<Node>) -> Infallible {
    let mut look = interval(LOOK);
    loop {
        look.tick().await;
        if node.is_draining() {
            continue;
        }
        let peers: Vec<_> = node.trunks.peers.borrow().values().cloned().collect();
        for peer in peers {
            let Some(trunk) = peer.current() else { continue };
            let now = Instant::now();
            let actions = if trunk.is_silent(now) {
                peer.dialler.borrow_mut().suspect(now)
            } else if peer.dialler.borrow().is_racing() {
                peer.dialler.borrow_mut().trust()
            } else {
                continue;
            };
            perform(&node, &peer, actions);
        }
    }
}

/// Accepts connections for as long as it is polled.
pub(crate) async fn serve(node: Rc<Node>) {
    while let Some(incoming) = node.trunks.endpoint.accept().await {
        let trunks = &node.trunks;
        if trunks.handshakes.get() >= HANDSHAKES_MAX && !incoming.remote_address_validated() {
            // It fails only for an address that is validated.
            let _ = incoming.retry();
            continue;
        }
        let source = incoming.remote_address();
        trunks.handshakes.set(trunks.handshakes.get() + 1);
        let handshake = spawn_local(handshake(Rc::clone(&node), incoming));
        let newest = handshake.abort_handle();
        let id = newest.id();
        if let Some(older) = trunks.sources.borrow_mut().insert(source, newest) {
            older.abort();
        }
        let node = Rc::clone(&node);
        spawn_local(async move {
            // Aborted or not, it is over.
            let _ = handshake.await;
            let trunks = &node.trunks;
            trunks.handshakes.set(trunks.handshakes.get() - 1);
            let mut sources = trunks.sources.borrow_mut();
            if sources.get(&source).is_some_and(|newest| newest.id() == id) {
                sources.remove(&source);
            }
        });
    }
}

async fn handshake(node: Rc<Node>, incoming: Incoming) {
    let source = incoming.remote_address();
    let refused = |why: &str| node.refusals.warn(&format!("refused a connection from {}", source.ip()), why);
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => return refused(&explain(&error)),
    };
    let greeting_time = node.config.limits.hello_timeout;
    let connection = match timeout(greeting_time, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) if connection::is_given_up(&error) => {
            debug!("{source} gave its dial up during the handshake");
            return;
        }
        Ok(Err(error)) if connection::is_peers_doing(&error) => {
            let who = format!("a connection from {} was ended by it", source.ip());
            return node.refusals.warn(&who, &explain(&error));
        }
        Ok(Err(error)) => return refused(&explain(&error)),
        Err(_) => return refused("its handshake took too long"),
    };
    let refuse = |code: Code, why: &str| {
        refused(why);
        connection.close(code.to_wire().into(), why.as_bytes());
    };
    let identity = match identity_of(&connection) {
        Ok(identity) if identity.node == node.id => return refuse(Code::Forbidden, "it bears this node's own name"),
        Ok(identity) => identity,
        Err(why) => return refuse(Code::Forbidden, &why),
    };
    let greeting = async {
        let mut control = Control::accept(&connection).await?;
        let hello = control.read_hello().await?;
        Ok::<_, Unreadable>((control, hello))
    };
    let (control, hello) = match timeout(greeting_time, greeting).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(Unreadable { code: Code::Cancelled, text })) => {
            // A peer that gave its dial up meanwhile has done nothing wrong.
            debug!("a connection from {} ended before its HELLO: {text}", identity.node);
            return;
        }
        Ok(Err(Unreadable { code, text })) => return refuse(code, &text),
        Err(_) => return refuse(Code::Protocol, "it did not say HELLO in time"),
    };
    if let Err(error) = Offer::ours().agree(&hello.offer) {
        return refuse(Code::Version, &error.to_string());
    }
    if node.is_draining() {
        connection.close(Code::Draining.to_wire().into(), b"the node is shutting down");
        return;
    }
    let peer = node.trunks.peer_that_came(&node, &identity.node);
    let token = node.trunks.token();
    let arrived = Arrived { connection: connection.clone(), control, hello: hello.clone() };
    peer.arrived.borrow_mut().insert(token, arrived);
    let actions = peer.dialler.borrow_mut().incoming(token, hello, Instant::now());
    perform(&node, &peer, actions);
    if peer.arrived.borrow().contains_key(&token) {
        // Not answered yet: if its dialler gives it up, so do we.
        spawn_local(async move {
            connection.closed().await;
            if peer.arrived.borrow_mut().remove(&token).is_some() {
                let actions = peer.dialler.borrow_mut().lost(token, Instant::now());
                perform(&node, &peer, actions);
                forget_if_idle(&node, &peer);
            }
        });
    }
}

fn identity_of(connection: &Connection) -> Result<PeerIdentity, String> {
    let certificates = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok())
        .ok_or("it presented no certificate")?;
    trunkline_certs::peer_identity(&certificates).map_err(|refusal| refusal.to_string())
}
