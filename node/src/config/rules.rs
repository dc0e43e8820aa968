//! What values must be beyond their type, each rule once: for those that are read and for those that a program made.
//! The bounds of numbers stand in the table of keys.

use std::{
    collections::HashSet, ffi::OsStr, fmt::Display, net::SocketAddr, ops::RangeInclusive, os::unix::ffi::OsStrExt as _,
    path::Path, time::Duration,
};

use super::{
    Account, ConfigError, LimitsConfig, LocalConfig, NodeConfig, PeerConfig, TrunkConfig,
    error::{Origin, Problem},
    keys,
};

/// The highest uid or gid; the number above it means "no such user" to the system.
pub(super) const ACCOUNT_ID_MAX: u32 = u32::MAX - 1;

pub(super) const ADDRESSES_EMPTY: &str = "the list is empty; give at least one, such as \"10.0.0.2:7400\"";

pub(super) const SAME_SOCKET: &str = "this is the socket of [local] too; give it a path of its own";

/// What is said of a number that is not within its bounds.
pub(super) fn outside(number: impl Display, allowed: &RangeInclusive<u64>) -> String {
    format!("{number} is outside {} to {}", allowed.start(), allowed.end())
}

/// Whether `path` can be that of a file.
pub(super) fn check_path(path: &OsStr) -> Result<(), &'static str> {
    if path.is_empty() || path.as_bytes().contains(&0) {
        return Err("this is no path: it is empty or holds a NUL");
    }
    Ok(())
}

/// Whether there can be such a user or group.
pub(super) fn check_account(account: &Account) -> Result<(), String> {
    match account {
        Account::Name(name) if name.is_empty() || name.contains('\0') => Err("a name is empty or holds a NUL".into()),
        Account::Id(id) if *id > ACCOUNT_ID_MAX => Err(outside(id, &(0..=ACCOUNT_ID_MAX.into()))),
        _ => Ok(()),
    }
}

/// Whether `address` has the form of an IP address or a host name, and a port.
pub(super) fn check_address(address: &str) -> Result<(), String> {
    why_no_address(address).map_or(Ok(()), |why| Err(format!("{address:?} is not host:port: {why}")))
}

fn why_no_address(address: &str) -> Option<&'static str> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return (address.port() == 0).then_some("the port is 0");
    }
    let Some((host, port)) = address.rsplit_once(':') else { return Some("the port is missing") };
    if host.contains(':') {
        return Some("an IPv6 address stands in brackets, such as \"[fd00::2]:7400\"");
    }
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(letters) {
        return Some("the host is neither an IP address nor a name");
    }
    // "1.2.3.400" has the form of a name, and nobody means one.
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Some("the host is neither an IP address nor a name");
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => None,
        _ => Some("the port is not a number from 1 to 65535"),
    }
}

/// Whether one lost packet leaves an idle trunk alive.
pub(super) fn check_keep_alive(keep_alive: Duration, idle_timeout: Duration) -> Result<(), String> {
    if keep_alive.saturating_mul(2) < idle_timeout {
        return Ok(());
    }
    let (keep_alive, idle) = (keep_alive.as_millis(), idle_timeout.as_millis());
    Err(format!("{keep_alive} is not less than half of idle_timeout_ms, which is {idle}"))
}

impl NodeConfig {
    /// Whether a configuration that a program made, or changed, keeps the bounds that a file must keep. It looks at
    /// the values alone; [`NodeConfig::check`] looks at what they name too. Of times, whole milliseconds count.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every key that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let problems = problems(self);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid { problems }) }
    }
}

/// Every value that breaks a rule, in the order of the keys.
pub(super) fn problems(config: &NodeConfig) -> Vec<Problem> {
    let mut found = Found::default();
    // A field that is new must be named here to compile, and is looked at.
    let NodeConfig { listen: _, drain_timeout, identity, local, admin, peers, limits, trunk, log: _ } = config;
    found.milliseconds("drain_timeout_ms", *drain_timeout);
    for (key, path) in [
        ("identity.certificate", &identity.certificate),
        ("identity.key", &identity.key),
        ("identity.trust", &identity.trust),
    ] {
        found.path(key, path);
    }
    if let Some(LocalConfig { socket, users, groups }) = local {
        found.path("local.socket", socket);
        for (key, accounts) in [("local.users", users), ("local.groups", groups)] {
            accounts.iter().for_each(|account| found.result(key, check_account(account)));
        }
    }
    if let Some(admin) = admin {
        found.path("admin.socket", &admin.socket);
        if local.as_ref().is_some_and(|local| local.socket == admin.socket) {
            found.problem("admin.socket", SAME_SOCKET);
        }
    }
    found.peers(peers);
    found.limits(limits);
    found.trunk(trunk);
    found.0
}

/// What is wrong with the values of a program.
#[derive(Default)]
struct Found(Vec<Problem>);

impl Found {
    fn problem(&mut self, key: &str, text: impl Into<String>) {
        self.0.push(Problem { origin: Origin::Program, key: key.to_owned(), text: text.into() });
    }

    fn result(&mut self, key: &str, result: Result<(), impl Into<String>>) {
        if let Err(text) = result {
            self.problem(key, text);
        }
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.result(key, check_path(path.as_os_str()));
    }

    fn number(&mut self, key: &str, number: impl TryInto<u64>) {
        let allowed = keys::allowed(key);
        let number = number.try_into().unwrap_or(u64::MAX);
        if !allowed.contains(&number) {
            self.problem(key, outside(number, allowed));
        }
    }

    fn milliseconds(&mut self, key: &str, time: Duration) {
        self.number(key, time.as_millis());
    }

    fn peers(&mut self, peers: &[PeerConfig]) {
        let mut ids = HashSet::new();
        for PeerConfig { id, addresses } in peers {
            if !ids.insert(id) {
                self.problem("peer.id", format!("{id} has two entries; list all its addresses in one"));
            }
            if addresses.is_empty() {
                self.problem("peer.addresses", format!("{id}: {ADDRESSES_EMPTY}"));
            }
            addresses.iter().for_each(|address| self.result("peer.addresses", check_address(address)));
        }
    }

    fn limits(&mut self, limits: &LimitsConfig) {
        let LimitsConfig {
            open_timeout,
            patience,
            parked_opens_max,
            streams_max,
            processes_max,
            binds_per_process_max,
            process_quota_bytes,
            ingress_pool_bytes,
            hello_timeout,
        } = *limits;
        self.milliseconds("limits.open_timeout_ms", open_timeout);
        self.milliseconds("limits.patience_ms", patience);
        self.number("limits.parked_opens_max", parked_opens_max);
        self.number("limits.streams_max", streams_max);
        self.number("limits.processes_max", processes_max);
        self.number("limits.binds_per_process_max", binds_per_process_max);
        self.number("limits.process_quota_bytes", process_quota_bytes);
        self.number("limits.ingress_pool_bytes", ingress_pool_bytes);
        self.milliseconds("limits.hello_timeout_ms", hello_timeout);
    }

    fn trunk(&mut self, trunk: &TrunkConfig) {
        let TrunkConfig {
            profile: _,
            keep_alive,
            idle_timeout,
            send_window_bytes,
            send_windows_bytes,
            stream_receive_window_bytes,
            mtu_max,
            congestion: _,
            socket_buffer_bytes,
            reconnect_backoff_max,
            streams_initial,
        } = *trunk;
        self.milliseconds("trunk.keep_alive_ms", keep_alive);
        self.milliseconds("trunk.idle_timeout_ms", idle_timeout);
        self.result("trunk.keep_alive_ms", check_keep_alive(keep_alive, idle_timeout));
        self.number("trunk.send_window_bytes", send_window_bytes);
        self.number("trunk.send_windows_bytes", send_windows_bytes);
        self.number("trunk.stream_receive_window_bytes", stream_receive_window_bytes);
        self.number("trunk.mtu_max", mtu_max);
        self.number("trunk.socket_buffer_bytes", socket_buffer_bytes);
        self.milliseconds("trunk.reconnect_backoff_max_ms", reconnect_backoff_max);
        self.number("trunk.streams_initial", streams_initial);
    }
}
