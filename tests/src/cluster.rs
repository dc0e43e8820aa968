//! Daemons of one cluster on this machine, each a child process of the test, as an operator would start it.
//!
//! Each cluster has a loopback address of its own (127/8 has sixteen million), so that a port that one daemon left is
//! not taken by another test's before it starts again.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    fs::{self, OpenOptions, Permissions},
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio, id as own_pid},
    sync::{
        Mutex,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use trunkline::{Attachment, NodeId};
use trunkline_certs::{Authority, NodePaths, NodeRequest};
use trunkline_proto::admin::{StatusRequest, StatusResponse, admin_client::AdminClient};

use crate::{binaries, eventually};

/// What clusters of tests are called.
const CLUSTER: &str = "test";
/// The folder of its CA.
const CA_FOLDER: &str = "ca";
/// How much of each log a failing test prints.
const LOG_TAIL_BYTES: usize = 8 * 1024;

/// Daemons that know each other. Dropped, it kills them and removes what they left.
#[derive(Debug)]
pub struct Cluster {
    authority: Authority,
    daemons: Vec<Daemon>,
    // After the daemons: they are dropped first.
    folder: TempDir,
}

/// See [`Cluster::builder`].
pub struct ClusterBuilder<'a> {
    nodes: Vec<String>,
    config: Configure<'a>,
    local: String,
    peer_address: PeerAddress<'a>,
    launcher: Vec<OsString>,
}

type Configure<'a> = Box<dyn FnMut(&str, &mut String) + 'a>;
type PeerAddress<'a> = Box<dyn FnMut(&str, &str, SocketAddr) -> String + 'a>;

impl<'a> ClusterBuilder<'a> {
    /// Who is in it. Each has all others in its address book.
    #[must_use]
    pub fn nodes<'n>(mut self, nodes: impl IntoIterator<Item = &'n str>) -> Self {
        self.nodes = nodes.into_iter().map(str::to_owned).collect();
        self
    }

    /// Called for each node with text that becomes part of its configuration file: keys first, then tables such as
    /// `[limits]` and `[trunk]`.
    #[must_use]
    pub fn config(mut self, config: impl FnMut(&str, &mut String) + 'a) -> Self {
        self.config = Box::new(config);
        self
    }

    /// Keys of every node's table `[local]`, such as `users = [12345]`.
    #[must_use]
    pub fn local(mut self, keys: &str) -> Self {
        keys.clone_into(&mut self.local);
        self
    }

    /// Called with a node, a peer of it and where that peer listens; returns where the node is to dial it.
    #[must_use]
    pub fn peer_address(mut self, address: impl FnMut(&str, &str, SocketAddr) -> String + 'a) -> Self {
        self.peer_address = Box::new(address);
        self
    }

    /// A program, with its first arguments, that is given the daemon's command line and becomes the daemon, such as one
    /// that sets limits first.
    #[must_use]
    pub fn launcher(mut self, command: impl IntoIterator<Item = OsString>) -> Self {
        self.launcher = command.into_iter().collect();
        self
    }

    /// Starts the daemons, and returns when each has answered a question.
    ///
    /// # Panics
    /// When a daemon does not start; with its log.
    pub async fn start(mut self) -> Cluster {
        let folder =
            tempfile::Builder::new().prefix("tl-").permissions(Permissions::from_mode(0o700)).tempdir_in("/tmp");
        let cluster = CLUSTER.try_into().expect("the cluster's name is valid");
        let folder = folder.expect("a folder in /tmp");
        let authority = Authority::init(&folder.path().join(CA_FOLDER), &cluster).expect("a CA");
        let mut made = Cluster { authority, daemons: Vec::new(), folder };
        let addresses = free_addresses(self.nodes.len());
        for (id, udp) in self.nodes.iter().zip(&addresses) {
            let mut extra = String::new();
            (self.config)(id, &mut extra);
            let peers = self.nodes.iter().zip(&addresses).filter(|(peer, _)| *peer != id);
            let peers = peers.map(|(peer, address)| (peer.as_str(), (self.peer_address)(id, peer, *address)));
            let mut daemon = Daemon::prepare(&made, id, *udp, [&extra, &self.local], peers);
            daemon.launcher.clone_from(&self.launcher);
            made.daemons.push(daemon);
        }
        for daemon in &mut made.daemons {
            daemon.spawn();
        }
        for daemon in &made.daemons {
            daemon.answers().await;
        }
        made
    }
}

impl Cluster {
    /// A cluster of node-a and node-b with the default configuration, unless told otherwise.
    #[must_use]
    pub fn builder<'a>() -> ClusterBuilder<'a> {
        ClusterBuilder {
            nodes: vec!["node-a".to_owned(), "node-b".to_owned()],
            config: Box::new(|_, _| ()),
            local: String::new(),
            peer_address: Box::new(|_, _, address| address.to_string()),
            launcher: Vec::new(),
        }
    }

    /// The daemon of this name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn node(&self, id: &str) -> &Daemon {
        self.daemons.iter().find(|daemon| daemon.id.as_str() == id).unwrap_or_else(|| panic!("no daemon {id}"))
    }

    /// All daemons, in the order in which they were named.
    #[must_use]
    pub fn nodes(&self) -> &[Daemon] {
        &self.daemons
    }

    /// Starts a daemon that has ended again, with the same configuration, and returns when it answers.
    ///
    /// # Panics
    /// When it still runs, or does not start.
    pub async fn restart(&mut self, id: &str) {
        let daemon = self.daemons.iter_mut().find(|daemon| daemon.id.as_str() == id);
        let daemon = daemon.unwrap_or_else(|| panic!("no daemon {id}"));
        assert!(!daemon.alive(), "{id} still runs");
        daemon.spawn();
        daemon.answers().await;
    }

    /// The CA of the cluster.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Where the CA's certificate and key are: `ca.pem` and `ca.key`.
    #[must_use]
    pub fn ca_folder(&self) -> PathBuf {
        self.folder().join(CA_FOLDER)
    }

    /// Where everything of this cluster lies; a node's files are in a folder of its name. Short, and on a local disk.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until no daemon has a stream or a parked open.
    ///
    /// # Panics
    /// When one keeps some for 20 s.
    pub async fn carries_nothing(&self) {
        for daemon in self.daemons.iter().filter(|daemon| daemon.alive()) {
            let idle = async || {
                let status = daemon.status().await;
                let clean = status.streams.is_empty()
                    && status.parked.is_empty()
                    && status.trunks.iter().all(|trunk| trunk.streams == 0)
                    && status.processes.iter().all(|process| process.streams == 0);
                clean.then_some(())
            };
            eventually(&format!("{} carries nothing any more", daemon.id), idle).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for daemon in &self.daemons {
            let log = daemon.log();
            let from = log.len().saturating_sub(LOG_TAIL_BYTES);
            let from = (from..=log.len()).find(|&at| log.is_char_boundary(at)).unwrap_or_default();
            eprintln!("---- the log of {} ----\n{}", daemon.id, &log[from..]);
        }
    }
}

/// One node daemon: `trunkline-node run --config …`. Dropped, it is killed.
#[derive(Debug)]
pub struct Daemon {
    /// Who it is.
    pub id: NodeId,
    /// Where it listens for peers.
    pub udp: SocketAddr,
    /// Its socket for processes.
    pub local: PathBuf,
    /// Its socket for operators.
    pub admin: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its process; another one after [`Cluster::restart`].
    pub pid: u32,
    launcher: Vec<OsString>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Daemon {
    fn prepare<'p>(
        cluster: &Cluster,
        id: &str,
        udp: SocketAddr,
        extra: [&str; 2],
        peers: impl Iterator<Item = (&'p str, String)>,
    ) -> Self {
        let folder = cluster.folder().join(id);
        let id: NodeId = id.try_into().expect("a node's id");
        let files = cluster.authority.issue_node(&NodeRequest::new(id.clone())).expect("a certificate");
        let paths = files.write_to(&folder).expect("the node's files");
        let (local, admin) = (folder.join("local.sock"), folder.join("admin.sock"));
        let config = folder.join("node.toml");
        fs::write(&config, configuration(udp, extra, &paths, &local, &admin, peers)).expect("the configuration");
        let log = folder.join("log");
        Self { id, udp, local, admin, config, pid: 0, launcher: Vec::new(), log, child: Mutex::default() }
    }

    fn spawn(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("the log");
        let out = log.try_clone().expect("the log once more");
        let mut words = self.launcher.iter().map(OsString::as_os_str).chain([binaries::node().as_os_str()]);
        let mut command = Command::new(words.next().expect("the daemon's own path at least"));
        command.args(words);
        command.arg("run").arg("--config").arg(&self.config);
        // What the shell of whoever runs the tests says of a node must not count for all of these.
        for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TRUNKLINE_")) {
            command.env_remove(name);
        }
        let child = command.stdin(Stdio::null()).stdout(out).stderr(log).spawn().expect("the daemon");
        self.pid = child.id();
        *self.child.lock().expect("no one panicked here") = Some(child);
    }

    async fn answers(&self) {
        let answer = async || {
            assert!(self.alive(), "{} did not start:\n{}", self.id, self.log());
            // The socket of an earlier life may still be there and answer nothing.
            self.try_status().await.ok()
        };
        eventually(&format!("{} answers", self.id), answer).await;
    }

    /// What it has written to its standard output and standard error, all lives together.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    /// What it says of itself on the admin socket.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn status(&self) -> StatusResponse {
        self.try_status().await.unwrap_or_else(|error| panic!("{} does not answer: {error}", self.id))
    }

    /// The same, when it may be down.
    ///
    /// # Errors
    /// The connection's, or the daemon's.
    pub async fn try_status(&self) -> Result<StatusResponse, tonic::Status> {
        let channel = self.admin_channel().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        Ok(AdminClient::new(channel).status(StatusRequest::default()).await?.into_inner())
    }

    /// What its health service says of the node as a whole.
    ///
    /// # Errors
    /// The connection's, or the daemon's.
    pub async fn health(&self) -> Result<ServingStatus, tonic::Status> {
        let channel = self.admin_channel().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let request = HealthCheckRequest { service: String::new() };
        Ok(HealthClient::new(channel).check(request).await?.into_inner().status())
    }

    async fn admin_channel(&self) -> Result<Channel, tonic::transport::Error> {
        let path = self.admin.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        Endpoint::from_static("http://node").connect_with_connector(connector).await
    }

    /// Attaches the test's own process.
    ///
    /// # Panics
    /// When the daemon does not take it.
    pub async fn attach(&self) -> Attachment {
        Attachment::connect(&self.local).await.unwrap_or_else(|error| panic!("{}: {error}", self.id))
    }

    /// Sends SIGTERM: it drains.
    ///
    /// # Panics
    /// When it has ended.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGKILL.
    ///
    /// # Panics
    /// When it has ended.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Sends any signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        // Not yet waited for, so the pid is still its own.
        assert!(self.alive(), "{} has ended", self.id);
        kill_process(self.pid(), signal).unwrap_or_else(|error| panic!("{}: {error}", self.id));
    }

    fn pid(&self) -> Pid {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw).expect("a pid is above 0")
    }

    /// Whether it runs.
    ///
    /// # Panics
    /// When the system does not tell.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.end().is_none()
    }

    /// Waits until it has ended, by itself or by a signal.
    ///
    /// # Panics
    /// When it has not after 20 s.
    pub async fn exited(&self) -> ExitStatus {
        eventually(&format!("{} ends", self.id), async || self.end()).await
    }

    fn end(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().expect("no one panicked here");
        child.as_mut().expect("it was started").try_wait().expect("a child can be asked")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(Some(child)) = self.child.get_mut() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn configuration<'p>(
    udp: SocketAddr,
    [extra, local_keys]: [&str; 2],
    files: &NodePaths,
    local: &Path,
    admin: &Path,
    peers: impl Iterator<Item = (&'p str, String)>,
) -> String {
    let mut toml = format!(
        "listen = \"{udp}\"\n{extra}\n[identity]\ncertificate = {:?}\nkey = {:?}\ntrust = {:?}\n\n[local]\nsocket = \
         {local:?}\n{local_keys}\n[admin]\nsocket = {admin:?}\n",
        files.certificate, files.key, files.trust
    );
    for (id, address) in peers {
        write!(toml, "\n[[peer]]\nid = \"{id}\"\naddresses = [\"{address}\"]\n").expect("a string takes everything");
    }
    toml
}

/// Addresses that nobody listens on, all on a loopback address that no other cluster uses.
///
/// # Panics
/// When the system has none.
#[must_use]
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    static CLUSTERS: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = own_pid().to_be_bytes();
    let ip = Ipv4Addr::new(127, 1 + high % 254, low, 1 + CLUSTERS.fetch_add(1, Ordering::Relaxed) % 254);
    let sockets: Vec<_> = (0..count).map(|_| UdpSocket::bind((ip, 0)).expect("a free port")).collect();
    sockets.iter().map(|socket| socket.local_addr().expect("a bound socket has an address")).collect()
}
