//! The keys of the configuration: one table, from which flags, variables, help and the bounds of numbers are taken.

use std::ops::RangeInclusive;

use super::STREAM_RECEIVE_WINDOW_BYTES_MAX;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Smallest and largest UDP payload of QUIC (RFC 9000 §14.1, §18.2).
const MTU_ALLOWED: RangeInclusive<u64> = 1_200..=65_527;

/// What the variable of every key begins with.
pub(super) const PREFIX: &str = "TRUNKLINE_";

/// One key of the configuration file, as it can be given by a flag or a variable too.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    path: &'static str,
    pub(super) kind: Kind,
    help: &'static str,
}

/// What a key's value is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole number within these bounds.
    Number(RangeInclusive<u64>),
    /// Text, and the name of such a text.
    Text(&'static str),
    /// A list of text and numbers, and the name of such a list.
    List(&'static str),
    /// An entry of the address book.
    Peer,
}

/// Every key, in the order of the documentation. A peer's `id` and `addresses` are given together, as `peer`.
pub static KEYS: &[Key] = &[
    text("listen", "ADDRESS:PORT", "The UDP address of all trunks, such as [::]:7400"),
    number("drain_timeout_ms", 0..=600_000, "How long a drain waits for streams to end"),
    text("identity.certificate", "FILE", "The node's certificate, PEM"),
    text("identity.key", "FILE", "Its private key, PEM"),
    text("identity.trust", "FILE", "The CA certificates of the cluster, PEM"),
    text("local.socket", "PATH", "The unix socket where processes attach"),
    list("local.users", "USER,…", "Users that may attach besides the daemon's own user and root, by name or uid"),
    list("local.groups", "GROUP,…", "Groups whose members may attach, by name or gid"),
    text("admin.socket", "PATH", "The unix socket where operators ask"),
    Key {
        path: "peer",
        kind: Kind::Peer,
        help: "A peer's addresses, in place of its entry in the file. As a flag, once for each peer; in the variable, \
               peers stand between spaces",
    },
    number("limits.open_timeout_ms", 1..=86_400_000, "How long an open waits for its consumer and its peer"),
    number("limits.patience_ms", 0..=86_400_000, "How long streams outlive the loss of their path"),
    number("limits.parked_opens_max", 1..=1_000_000, "Opens that wait at once"),
    number("limits.streams_max", 1..=10_000_000, "Streams on the whole node"),
    number("limits.processes_max", 1..=65_536, "Attached processes"),
    number("limits.binds_per_process_max", 1..=1_000_000, "Consumers that one process binds"),
    number("limits.process_quota_bytes", 256 * KIB..=16 * GIB, "What waits in this node for one process to read it"),
    number("limits.ingress_pool_bytes", 64 * KIB..=GIB, "What waits in this node of one process for one trunk"),
    number("limits.hello_timeout_ms", 100..=60_000, "How long a connection may take to say who it is"),
    text("trunk.profile", "PROFILE", "The network that trunks cross: datacenter or wan"),
    number("trunk.keep_alive_ms", 100..=300_000, "How often an idle trunk sends a packet"),
    number("trunk.idle_timeout_ms", 1_000..=600_000, "Silence after which a trunk is dead"),
    number("trunk.send_window_bytes", 64 * KIB..=GIB, "What one trunk holds inside QUIC on the way out"),
    number("trunk.send_windows_bytes", 64 * KIB..=64 * GIB, "What all trunks together hold inside QUIC on the way out"),
    number(
        "trunk.stream_receive_window_bytes",
        64 * KIB..=STREAM_RECEIVE_WINDOW_BYTES_MAX,
        "What a peer may send of one stream ahead of this node",
    ),
    number("trunk.mtu_max", MTU_ALLOWED, "The largest UDP payload that MTU discovery tries, in bytes"),
    text("trunk.congestion", "ALGORITHM", "How a trunk finds its rate: cubic, bbr or new_reno"),
    number("trunk.socket_buffer_bytes", 64 * KIB..=GIB, "What the kernel is asked to buffer, each way"),
    number("trunk.reconnect_backoff_max_ms", 50..=60_000, "The longest pause between two dials"),
    number("trunk.streams_initial", 2..=256, "Streams that a peer may open before its permission is raised"),
    text("log.level", "LEVEL", "What is logged: error, warn, info, debug or trace"),
];

const fn number(path: &'static str, allowed: RangeInclusive<u64>, help: &'static str) -> Key {
    Key { path, kind: Kind::Number(allowed), help }
}

const fn text(path: &'static str, value_name: &'static str, help: &'static str) -> Key {
    Key { path, kind: Kind::Text(value_name), help }
}

const fn list(path: &'static str, value_name: &'static str, help: &'static str) -> Key {
    Key { path, kind: Kind::List(value_name), help }
}

impl Key {
    /// The key with its table, such as `limits.streams_max`.
    #[must_use]
    pub const fn path(&self) -> &'static str {
        self.path
    }

    /// The key's table, such as `limits`, and its name there; at the top of the file, the table is empty.
    #[must_use]
    pub fn table_and_name(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }

    /// The flag, such as `limits-streams-max`, without its dashes.
    #[must_use]
    pub fn flag(&self) -> String {
        self.path.replace(['.', '_'], "-")
    }

    /// The environment variable, such as `TRUNKLINE_LIMITS_STREAMS_MAX`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.path.replace('.', "_").to_ascii_uppercase())
    }

    /// What a value is called where the flag is explained.
    #[must_use]
    pub fn value_name(&self) -> &'static str {
        match self.kind {
            Kind::Number(_) if self.path.ends_with("_ms") => "MILLISECONDS",
            Kind::Number(_) if self.path.ends_with("_bytes") => "BYTES",
            Kind::Number(_) => "NUMBER",
            Kind::Text(name) | Kind::List(name) => name,
            Kind::Peer => "ID=HOST:PORT,…",
        }
    }

    /// One sentence without its stop, with the bounds of a number.
    #[must_use]
    pub fn help(&self) -> String {
        match self.bounds() {
            Some(bounds) => format!("{} ({} to {})", self.help, bounds.start(), bounds.end()),
            None => self.help.to_owned(),
        }
    }

    /// The bounds of a number; `None` for anything else.
    #[must_use]
    pub fn bounds(&self) -> Option<&RangeInclusive<u64>> {
        match &self.kind {
            Kind::Number(allowed) => Some(allowed),
            _ => None,
        }
    }

    /// Whether it may be given several times, each time for another peer.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        self.kind == Kind::Peer
    }
}

/// The bounds of the number at `path`.
///
/// # Panics
/// When no number of [`KEYS`] has this path. Reading any file asks for every number, so no release can.
pub(super) fn allowed(path: &str) -> &'static RangeInclusive<u64> {
    let bounds = KEYS.iter().find(|key| key.path == path).and_then(Key::bounds);
    bounds.expect("every number that is read or checked stands in KEYS")
}
