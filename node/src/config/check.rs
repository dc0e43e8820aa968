//! `trunkline-node check`: everything that would keep a configuration from working on this machine, without starting.

use std::{
    fmt, fs, io,
    net::{Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use nix::unistd::Uid;
use rustix::{fs::Access, io::Errno};
use trunkline_certs::Identity;

use super::{NodeConfig, PeerConfig};
use crate::{
    link::{
        credentials::{Allowed, gid_of, uid_of},
        socket::{check_path, folder_of, is_served},
    },
    trunk::endpoint::bind_hint,
};

/// A certificate that expires within this time is worth a warning.
const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// The node starts, and something may not work.
    Warning,
    /// The node does not start.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found, with the remedy if there is something to mend.
    pub text: String,
}

impl Finding {
    fn ok(text: impl Into<String>) -> Self {
        Self { severity: Severity::Ok, text: text.into() }
    }
    fn warning(text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, text: text.into() }
    }
    fn error(text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{word:<7} {}", self.text)
    }
}

impl NodeConfig {
    /// Looks at everything that the configuration names: files, folders, accounts, addresses. Run it as the user that
    /// the node runs as. It binds the listen address for a moment, resolves names, and blocks while it does.
    #[must_use]
    pub fn check(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.check_identity(&mut findings);
        self.check_accounts(&mut findings);
        for (key, path) in self.sockets() {
            check_socket(key, path, &mut findings);
        }
        findings.push(check_listen(self.listen));
        findings.extend(self.peers.iter().flat_map(check_peer));
        findings
    }

    /// The sockets that the node serves, each with its key.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let local = self.local.iter().map(|local| ("local.socket", local.socket.as_path()));
        local.chain(self.admin.iter().map(|admin| ("admin.socket", admin.socket.as_path())))
    }

    fn check_identity(&self, findings: &mut Vec<Finding>) {
        let files = &self.identity;
        let identity = match Identity::load(&files.certificate, &files.key, &files.trust) {
            Ok(identity) => identity,
            Err(error) => return findings.push(Finding::error(format!("identity: {error}"))),
        };
        let (node, cluster) = (identity.node_id(), identity.cluster());
        let expires = trunkline_certs::date(identity.not_after());
        let text = format!("identity: {node} of cluster {cluster}, valid until {expires}");
        findings.push(if expires_soon(&identity) {
            Finding::warning(text + ", which is soon: issue a new one")
        } else {
            Finding::ok(text)
        });
        if self.peers.iter().any(|peer| peer.id == *node) {
            findings.push(Finding::error(format!("peer.id: {node} is this node itself; remove its [[peer]] entry")));
        }
    }

    fn check_accounts(&self, findings: &mut Vec<Finding>) {
        if let Some(local) = &self.local {
            let before = findings.len();
            let unknown_users = local.users.iter().filter_map(|user| uid_of(user).err());
            let unknown_groups = local.groups.iter().filter_map(|group| gid_of(group).err());
            findings.extend(unknown_users.chain(unknown_groups).map(|error| Finding::error(error.to_string())));
            if findings.len() == before {
                findings.push(Finding::ok("local.users, local.groups: every name is known on this machine"));
            }
        }
        if Allowed::to_administer().refuses_own_user() {
            findings.push(Finding::warning(
                "the node runs as the overflow user (nobody), which its sockets always refuse; give it a user of its own",
            ));
        }
    }
}

/// Whether it is time to renew the certificate.
pub(crate) fn expires_soon(identity: &Identity) -> bool {
    SystemTime::now().checked_add(EXPIRY_WARNING).is_none_or(|soon| identity.not_after() < soon)
}

/// Why others than the node's user could reach or replace a socket, and the remedy; `None` if they cannot.
pub(crate) fn why_reachable(key: &str, path: &Path) -> io::Result<Option<String>> {
    let folder = folder_of(path);
    let shown = folder.display();
    let why = why_open(&fs::metadata(folder)?);
    Ok(why.map(|why| format!("{key}: {why}: `chmod 0750 {shown}`, or a folder of its own")))
}

fn check_socket(key: &str, path: &Path, findings: &mut Vec<Finding>) {
    if let Err(error) = check_path(path) {
        return findings.push(Finding::error(format!("{key}: {error}")));
    }
    let folder = folder_of(path);
    let shown = folder.display();
    if let Err(error) = rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        let text =
            format!("{key}: this user cannot make files in {shown}: {error}; give the folder to the node's user");
        return findings.push(Finding::error(text));
    }
    let served = match is_served(path) {
        Err(error) => return findings.push(Finding::error(format!("{key}: {error}"))),
        Ok(served) => served,
    };
    let reachable = match why_reachable(key, path) {
        Err(error) => return findings.push(Finding::error(format!("{key}: cannot look at {shown}: {error}"))),
        Ok(reachable) => reachable,
    };
    let path = path.display();
    match (served, reachable) {
        (false, None) => findings.push(Finding::ok(format!("{key}: {path}"))),
        (served, reachable) => {
            let running =
                || format!("{key}: {path} is served by a running process, which is right if this node runs already");
            findings.extend(served.then(running).into_iter().chain(reachable).map(Finding::warning));
        }
    }
}

/// As [`why_reachable`], of the folder.
fn why_open(folder: &fs::Metadata) -> Option<String> {
    let mode = folder.mode() & 0o7777;
    if mode & 0o027 != 0 {
        return Some(format!("its folder has mode {mode:04o}, 0750 or 0700 is expected"));
    }
    let (owner, own) = (folder.uid(), Uid::effective().as_raw());
    (owner != own && owner != 0).then(|| format!("its folder belongs to uid {owner}, who can replace the socket"))
}

fn check_listen(listen: SocketAddr) -> Finding {
    match UdpSocket::bind(listen) {
        Ok(_) => Finding::ok(format!("listen: {listen}/udp is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Finding::warning(format!("listen: {listen}/udp is in use, which is right if this node runs already"))
        }
        Err(error) if listen.ip() == Ipv6Addr::UNSPECIFIED && lacks_ipv6(&error) => {
            Finding::warning(format!("listen: this machine has no IPv6, so {listen} stands for its IPv4 addresses"))
        }
        Err(error) => Finding::error(format!("listen: cannot bind {listen}/udp: {error}{}", bind_hint(&error))),
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn check_peer(peer: &PeerConfig) -> Vec<Finding> {
    let check = |address: &String| match address.to_socket_addrs().map(|mut found| found.next()) {
        Ok(Some(_)) => Finding::ok(format!("peer {}: {address}", peer.id)),
        Ok(None) => Finding::warning(format!("peer {}: {address} resolves to no address", peer.id)),
        Err(error) => Finding::warning(format!("peer {}: {address} cannot be resolved now: {error}", peer.id)),
    };
    peer.addresses.iter().map(check).collect()
}
