//! A node's configuration: one TOML file, checked as a whole before anything starts.
//!
//! A file that is missing, a key that is unknown and a value that is out of bounds are errors that name the file, the
//! line and the key; every one that the file holds is listed at once. Relative paths start at the file's folder.
//!
//! [`Overrides`] stand in place of single keys of the file: a daemon takes them from flags and variables, made from
//! [`KEYS`]. What a program makes or changes without a file, [`NodeConfig::validate`] holds to the same bounds.
//!
//! ```toml
//! listen = "[::]:7400"
//!
//! [identity]
//! certificate = "node.pem"
//! key = "node.key"
//! trust = "trust.pem"
//!
//! [local]
//! socket = "/run/trunkline/local.sock"
//!
//! [[peer]]
//! id = "node-b"
//! addresses = ["10.0.0.2:7400", "node-b.example:7400"]
//! ```

mod check;
mod document;
mod error;
mod keys;
mod overrides;
mod parse;
mod reader;
mod rules;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str,
    time::Duration,
};

use trunkline_proto::id::NodeId;

pub(crate) use self::check::{expires_soon, why_reachable};
pub use self::{
    check::{Finding, Severity},
    error::{ConfigError, Origin, Problem},
    keys::{KEYS, Key},
    overrides::Overrides,
};

/// How long a drain waits for streams to end. Those that are left then are aborted with `draining`.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Parallel programs start in any order: an open waits this long for its consumer before it fails with `not_bound`.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens that wait, on the whole node. The next one is refused with `busy`, which is retryable.
const PARKED_OPENS_MAX: usize = 4_096;

/// Streams of the whole node, local ones counted once. The next one is refused with `busy`.
const STREAMS_MAX: usize = 1_000_000;

/// Attached processes, a file descriptor each. The next one is refused with `busy`.
const PROCESSES_MAX: usize = 1_024;

/// How long a stream outlives the loss of its path: long enough to restart a node by hand, or to mend a cable.
const PATIENCE: Duration = Duration::from_secs(300);

/// Consumers that one process binds. The next one is refused with `busy`.
const BINDS_PER_PROCESS_MAX: usize = 4_096;

/// Bytes that wait in this node for one process to read them, of all its streams together. When they are used up, its
/// producers wait; nobody else's do.
const PROCESS_QUOTA_BYTES: u64 = 16 * 1024 * 1024;

/// Bytes of one process that wait in this node for one trunk. When they are used up, the process's `send` to that peer
/// waits.
const INGRESS_POOL_BYTES: u64 = 4 * 1024 * 1024;

/// A process or peer that has not said HELLO by then is disconnected.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A trunk with nothing to say sends a packet this often, so that silence means something.
const KEEP_ALIVE: Duration = Duration::from_millis(2_500);

/// A trunk that has been silent this long is dead. Three keep-alives may be lost before that.
const IDLE_TIMEOUT: Duration = Duration::from_secs(9);

/// Bytes of one trunk in flight or waiting inside QUIC: twice 10 Gbit/s × 0.4 ms. More makes small messages wait.
const SEND_WINDOW_DATACENTER_BYTES: u64 = 1024 * 1024;

/// The same on a long path: twice 300 Mbit/s × 100 ms.
const SEND_WINDOW_WAN_BYTES: u64 = 8 * 1024 * 1024;

/// The same for all trunks together: with very many, each gets less.
const SEND_WINDOWS_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes of one stream that a peer may send ahead of this node: the largest credit, and room beside it. It is the
/// wall against a peer that ignores credit.
const STREAM_RECEIVE_WINDOW_BYTES: u64 = 1024 * 1024 + 128 * 1024;

/// More than 1,024 gaps in one stream end a connection, and a window this large cannot hold so many packets' gaps.
const STREAM_RECEIVE_WINDOW_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// The largest UDP payload in an Ethernet frame of 1,500 bytes over IPv6.
const MTU_MAX: u16 = 1_452;

/// Receive and send buffer of the UDP socket. The kernel may grant less (`net.core.rmem_max`); when it is full,
/// packets are dropped and sent again.
const SOCKET_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// The longest pause between two dials while streams wait for the trunk.
const RECONNECT_BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Streams that a peer may open before the permission is raised. QUIC allocates for each one permitted.
const STREAMS_INITIAL: u32 = 64;

/// All that a node is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeConfig {
    /// `listen`: the UDP address of all trunks, such as `[::]:7400` for every address of both families. Port 0 takes
    /// any free one.
    pub listen: SocketAddr,
    /// `drain_timeout_ms`, 0 to 600,000, default 10,000: how long a drain waits for streams to end. What is left then
    /// is aborted with `draining`; at 0, all of it at once.
    pub drain_timeout: Duration,
    /// `[identity]`: who this node is, and whom it trusts.
    pub identity: IdentityConfig,
    /// `[local]`: where processes of this machine attach. A file must have it; without it, a node that is embedded in a
    /// program serves that program alone.
    pub local: Option<LocalConfig>,
    /// `[admin]`: where operators ask. Without it there is no such endpoint.
    pub admin: Option<AdminConfig>,
    /// `[[peer]]`: an address book for dialling. It is no allow-list: any node with a certificate of the cluster may
    /// dial in.
    pub peers: Vec<PeerConfig>,
    /// `[limits]`: the bounds of this node's tables, buffers and patience.
    pub limits: LimitsConfig,
    /// `[trunk]`: how connections to peers behave.
    pub trunk: TrunkConfig,
    /// `[log]`: what is written to standard error.
    pub log: LogConfig,
}

/// The files of a node's identity, as `trunkline-certs node issue` writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityConfig {
    /// `certificate`: the node's certificate, PEM.
    pub certificate: PathBuf,
    /// `key`: its private key, PEM, readable by the daemon's user alone.
    pub key: PathBuf,
    /// `trust`: the CA certificates of the cluster, PEM.
    pub trust: PathBuf,
}

/// Where processes of this machine attach, and which of them may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalConfig {
    /// `socket`: path of the unix socket, fewer than 108 bytes, in a folder of mode 0700 or 0750 that exists.
    pub socket: PathBuf,
    /// `users`, default none: users that may attach besides the daemon's own user and root, by name or uid.
    pub users: Vec<Account>,
    /// `groups`, default none: groups whose members may attach, by name or gid.
    pub groups: Vec<Account>,
}

/// A user or a group of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Account {
    /// By name, looked up when the node starts.
    Name(String),
    /// By uid or gid.
    Id(u32),
}

/// Where operators ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// `socket`: path of the unix socket, fewer than 108 bytes. The daemon's own user and root may connect to it.
    pub socket: PathBuf,
}

/// One entry of the address book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// `id`: the peer's name, which its certificate must say. No two entries share one.
    pub id: NodeId,
    /// `addresses`, at least one: `host:port`. They are kept as text, for names are resolved again at each dial.
    pub addresses: Vec<String>,
}

/// The bounds of a node's tables, buffers and patience.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// `open_timeout_ms`, 1 to 86,400,000, default 30,000: how long an open waits for its consumer to be bound, and
    /// for its peer to be reached. Then it fails with `not_bound` or `unreachable`.
    pub open_timeout: Duration,
    /// `patience_ms`, 0 to 86,400,000, default 300,000: how long streams outlive the loss of their path: a trunk, this node, or
    /// a peer. What processes are told when they attach, unless they have another wish; and for how long this node keeps what
    /// it has to tell of processes that are gone. At 0, a stream ends with its path.
    pub patience: Duration,
    /// `parked_opens_max`, 1 to 1,000,000, default 4,096: opens that wait at once. The next one fails with `busy`.
    pub parked_opens_max: usize,
    /// `streams_max`, 1 to 10,000,000, default 1,000,000: streams on the whole node. The next one fails with `busy`.
    pub streams_max: usize,
    /// `processes_max`, 1 to 65,536, default 1,024: attached processes. The next one is refused with `busy`.
    pub processes_max: usize,
    /// `binds_per_process_max`, 1 to 1,000,000, default 4,096: consumers that one process binds. The next bind is
    /// refused with `busy`.
    pub binds_per_process_max: usize,
    /// `process_quota_bytes`, 256 KiB to 16 GiB, default 16 MiB: what waits in this node for one process to read it, of
    /// all its streams, and four bytes more for each of them. Then the producers of these streams wait, and no others.
    pub process_quota_bytes: u64,
    /// `ingress_pool_bytes`, 64 KiB to 1 GiB, default 4 MiB: what of one process waits in this node for one trunk, and
    /// four bytes more for each stream. Then the `send` of these streams waits.
    pub ingress_pool_bytes: u64,
    /// `hello_timeout_ms`, 100 to 60,000, default 5,000: how long a connection may take to say who it is. Then it is
    /// closed.
    pub hello_timeout: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            open_timeout: OPEN_TIMEOUT,
            patience: PATIENCE,
            parked_opens_max: PARKED_OPENS_MAX,
            streams_max: STREAMS_MAX,
            processes_max: PROCESSES_MAX,
            binds_per_process_max: BINDS_PER_PROCESS_MAX,
            process_quota_bytes: PROCESS_QUOTA_BYTES,
            ingress_pool_bytes: INGRESS_POOL_BYTES,
            hello_timeout: HELLO_TIMEOUT,
        }
    }
}

/// How connections to peers behave.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrunkConfig {
    /// `profile`, `"datacenter"` (the default) or `"wan"`.
    pub profile: Profile,
    /// `keep_alive_ms`, 100 to 300,000, default 2,500: how often an idle trunk sends a packet. Less than half of
    /// `idle_timeout_ms`, so that one lost packet does not end a trunk.
    pub keep_alive: Duration,
    /// `idle_timeout_ms`, 1,000 to 600,000, default 9,000: silence after which a trunk is dead.
    pub idle_timeout: Duration,
    /// `send_window_bytes`, 64 KiB to 1 GiB, default 1 MiB, or 8 MiB in the profile `wan`: what one trunk holds inside
    /// QUIC at most, sent and not acknowledged or not yet sent. Within it the window follows the path: twice bandwidth ×
    /// delay, and 256 KiB where there is so much. Less would be slow, more would make small messages wait.
    pub send_window_bytes: u64,
    /// `send_windows_bytes`, 64 KiB to 64 GiB, default 256 MiB: what all trunks together hold inside QUIC on the way
    /// out. Each has an equal part of it, `send_window_bytes` at most and 64 KiB at least.
    pub send_windows_bytes: u64,
    /// `stream_receive_window_bytes`, 64 KiB to 2 MiB, default 1 MiB + 128 KiB: what a peer may send of one stream
    /// ahead of this node. Beyond 2 MiB, loss could open more than 1,024 gaps in it, which end the connection.
    pub stream_receive_window_bytes: u64,
    /// `mtu_max`, 1,200 to 65,527, default 1,452: the largest UDP payload that MTU discovery tries, in bytes. 8,952
    /// suits jumbo frames.
    pub mtu_max: u16,
    /// `congestion`, `"cubic"` (the default), `"bbr"` or `"new_reno"`.
    pub congestion: Congestion,
    /// `socket_buffer_bytes`, 64 KiB to 1 GiB, default 8 MiB: what the kernel is asked to buffer for the UDP socket,
    /// each way. It may grant less.
    pub socket_buffer_bytes: usize,
    /// `reconnect_backoff_max_ms`, 50 to 60,000, default 500: the longest pause between two dials while streams wait
    /// for the trunk.
    pub reconnect_backoff_max: Duration,
    /// `streams_initial`, 2 to 256, default 64: streams that a peer may open before its permission is raised, as it
    /// then is by steps. Memory is spent for every one permitted.
    pub streams_initial: u32,
}

impl TrunkConfig {
    /// The defaults of a profile.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        Self {
            profile,
            keep_alive: KEEP_ALIVE,
            idle_timeout: IDLE_TIMEOUT,
            send_windows_bytes: SEND_WINDOWS_BYTES,
            send_window_bytes: match profile {
                Profile::Datacenter => SEND_WINDOW_DATACENTER_BYTES,
                Profile::Wan => SEND_WINDOW_WAN_BYTES,
            },
            stream_receive_window_bytes: STREAM_RECEIVE_WINDOW_BYTES,
            mtu_max: MTU_MAX,
            congestion: Congestion::Cubic,
            socket_buffer_bytes: SOCKET_BUFFER_BYTES,
            reconnect_backoff_max: RECONNECT_BACKOFF_MAX,
            streams_initial: STREAMS_INITIAL,
        }
    }
}

impl Default for TrunkConfig {
    fn default() -> Self {
        Self::of(Profile::Datacenter)
    }
}

/// What kind of network the trunks cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Round trips below some milliseconds; addresses do not change.
    Datacenter,
    /// Long round trips; a peer's address may change while a trunk lives.
    Wan,
}

/// How a trunk finds its rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// Bandwidth and round-trip time measured instead of losses; experimental in quinn.
    Bbr,
    /// RFC 9002 §7.
    NewReno,
}

/// What is written to standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogConfig {
    /// `level`, `"error"`, `"warn"`, `"info"` (the default), `"debug"` or `"trace"`. The variable `TRUNKLINE_LOG`
    /// counts more, whatever this level comes from.
    pub level: LogLevel,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: LogLevel::Info }
    }
}

/// The least important lines that are still written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What may fail soon, or was refused.
    Warn,
    /// What changed: starts, trunks up and down, drains.
    Info,
    /// Attachments, binds and streams too.
    Debug,
    /// What the libraries say as well, of every packet. Below it they only warn.
    Trace,
}

impl LogLevel {
    /// The word in the configuration file.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl NodeConfig {
    /// The defaults around what has none: no local socket, no admin endpoint, no peers. For a node that is
    /// [embedded](crate::embedded) in a program.
    #[must_use]
    pub fn new(listen: SocketAddr, identity: IdentityConfig) -> Self {
        Self {
            listen,
            drain_timeout: DRAIN_TIMEOUT,
            identity,
            local: None,
            admin: None,
            peers: Vec::new(),
            limits: LimitsConfig::default(),
            trunk: TrunkConfig::default(),
            log: LogConfig::default(),
        }
    }

    /// Reads the file at `path`. It does not look at what the file names; [`NodeConfig::check`] does.
    ///
    /// # Errors
    /// [`ConfigError`] when the file is missing, is not TOML, or holds anything but known keys with allowed values.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(path, &Overrides::default())
    }

    /// Reads the file at `path`, with `overrides` in place of what it says. A relative path among those starts at the
    /// working directory.
    ///
    /// # Errors
    /// As [`NodeConfig::load`]; the values of `overrides` must keep the same bounds.
    pub fn load_with(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let bytes = fs::read(path).map_err(|reason| match reason.kind() {
            io::ErrorKind::NotFound => ConfigError::Missing { path: path.to_owned() },
            _ => ConfigError::Unreadable { path: path.to_owned(), reason },
        })?;
        let text = str::from_utf8(&bytes).map_err(|error| {
            let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
            ConfigError::NotUtf8 { path: path.to_owned(), line }
        })?;
        Self::parse_with(text, path, overrides)
    }

    /// Reads `text` as if it stood in the file `path`, which errors name and relative paths start beside.
    ///
    /// # Errors
    /// As [`NodeConfig::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::parse_with(text, path, &Overrides::default())
    }

    /// As [`NodeConfig::parse`], with `overrides` in place of what the text says.
    ///
    /// # Errors
    /// As [`NodeConfig::load_with`].
    pub fn parse_with(text: &str, path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        parse::parse(text, path, overrides)
    }
}
