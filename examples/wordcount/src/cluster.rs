//! A cluster on this machine: certificates, a configuration for each node, and the daemons, up and answering.

use std::{
    fmt::Write,
    fs::{self, DirBuilder},
    io,
    net::UdpSocket,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    process::Command,
    time::{self, Instant},
};
use trunkline::Attachment;

use crate::{
    binaries::Binaries,
    casualty::Casualty,
    children::{Children, Happening, Kind, Slot},
    guard::Guard,
    plan::local_socket,
};

/// How long a daemon may take until processes can attach to it.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often that is tried.
const READY_PAUSE: Duration = Duration::from_millis(20);

/// How often new ports are tried when another program was faster to take one.
const PORT_ATTEMPTS: usize = 4;

/// How long to wait for others that fell with a daemon before the one to blame is named.
const SETTLE: Duration = Duration::from_millis(100);

/// What the operating system says of a port that is not free.
const PORT_TAKEN: &str = "in use";

/// The cluster's name, in all certificates.
const CLUSTER: &str = "wordcount";

/// A daemon that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) id: String,
    /// Its process.
    pub(crate) pid: u32,
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// `trunkline-certs` failed.
    #[error("{command} failed: {said}")]
    Certs {
        /// What was run.
        command: String,
        /// What it wrote, or why it could not be run.
        said: String,
    },
    /// A file or process could not be made.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What came of it.
        source: io::Error,
    },
    /// A daemon ended.
    #[error("{0}")]
    Daemon(Box<Casualty>),
    /// A daemon runs and lets nobody attach.
    #[error("the daemon of {node} is not ready after {} s: {last}", READY_TIMEOUT.as_secs())]
    NotReady {
        /// Whose.
        node: String,
        /// What the last attempt came to.
        last: trunkline::Error,
    },
}

impl ClusterError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}

/// Issues certificates and starts the daemons, and returns when processes can attach to all.
pub(crate) async fn start(
    names: &[String],
    folder: &Path,
    binaries: &Binaries,
    children: &mut Children,
    guard: &mut Guard,
) -> Result<Vec<Node>, ClusterError> {
    issue_certificates(names, folder, &binaries.certs).await?;
    let mut attempt = 1;
    loop {
        let ports = free_ports(names.len()).map_err(ClusterError::io("find free UDP ports"))?;
        match start_daemons(names, &ports, folder, &binaries.node, children, guard).await {
            Err(ClusterError::Daemon(casualty)) if attempt < PORT_ATTEMPTS && casualty.said(PORT_TAKEN) => {
                attempt += 1;
                children.retire_daemons(READY_TIMEOUT).await;
            }
            outcome => return outcome,
        }
    }
}

/// A CA in `ca`, and for each node a folder of its own with certificate and key.
async fn issue_certificates(names: &[String], folder: &Path, certs: &Path) -> Result<(), ClusterError> {
    let ca = folder.join("ca");
    let mut init = Command::new(certs);
    init.args(["ca", "init", "--cluster", CLUSTER, "--dir"]).arg(&ca);
    run_certs(init).await?;
    for name in names {
        let out = folder.join(name);
        // The daemon's sockets will lie here too, and a folder that others could enter is none for them.
        DirBuilder::new().mode(0o700).create(&out).map_err(ClusterError::io(format!("make {}", out.display())))?;
        let mut issue = Command::new(certs);
        issue.args(["node", "issue", "--node", name, "--ca"]).arg(&ca).arg("--out").arg(&out);
        run_certs(issue).await?;
    }
    Ok(())
}

async fn run_certs(mut command: Command) -> Result<(), ClusterError> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let said = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => error.to_string(),
    };
    let words = std::iter::once(command.as_std().get_program()).chain(command.as_std().get_args());
    let command = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    Err(ClusterError::Certs { command, said })
}

async fn start_daemons(
    names: &[String],
    ports: &[u16],
    folder: &Path,
    program: &Path,
    children: &mut Children,
    guard: &mut Guard,
) -> Result<Vec<Node>, ClusterError> {
    let mut nodes = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let path = folder.join(name).join("node.toml");
        fs::write(&path, config(index, names, ports)).map_err(ClusterError::io(format!("write {}", path.display())))?;
        let mut command = Command::new(program);
        command.args(["run", "--config"]).arg(&path);
        let pid = children
            .start(Slot { kind: Kind::Daemon, index }, &format!("the daemon of {name}"), name, command)
            .map_err(ClusterError::io(format!("start {}", program.display())))?;
        guard.watch(pid);
        nodes.push(Node { id: name.clone(), pid });
    }
    for node in &nodes {
        ready(&node.id, &local_socket(folder, &node.id), children).await?;
    }
    Ok(nodes)
}

/// Waits until a process can attach to the daemon; one that dies first is the error.
async fn ready(node: &str, socket: &PathBuf, children: &mut Children) -> Result<(), ClusterError> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let last = match Attachment::builder().software("wordcount").connect(socket).await {
            Ok(attachment) => {
                // It sent nothing, and has nothing to wait for.
                let _ = attachment.close().await;
                return Ok(());
            }
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(ClusterError::NotReady { node: node.to_owned(), last });
        }
        if let Ok(Some(Happening::Ended(ended))) = time::timeout(READY_PAUSE, children.next()).await {
            let casualties = children.casualties(ended, SETTLE).await;
            return Err(ClusterError::Daemon(Box::new(Casualty::of(casualties))));
        }
    }
}

/// The configuration of one node. Relative paths start at its folder.
fn config(index: usize, names: &[String], ports: &[u16]) -> String {
    let mut text = format!(
        "listen = \"127.0.0.1:{}\"\n\n\
         [identity]\ncertificate = \"node.pem\"\nkey = \"node.key\"\ntrust = \"trust.pem\"\n\n\
         [local]\nsocket = \"local.sock\"\n\n\
         [admin]\nsocket = \"admin.sock\"\n",
        ports[index]
    );
    for (peer, (name, port)) in names.iter().zip(ports).enumerate() {
        if peer != index {
            // Writing to a String does not fail.
            let _ = write!(text, "\n[[peer]]\nid = \"{name}\"\naddresses = [\"127.0.0.1:{port}\"]\n");
        }
    }
    text
}

/// Different UDP ports that are free now. Another program may take one before a daemon does.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let sockets: Vec<_> = (0..count).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<io::Result<_>>()?;
    sockets.iter().map(|socket| Ok(socket.local_addr()?.port())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_free_and_different() {
        let ports = free_ports(20).unwrap();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 20);
    }

    #[test]
    fn a_node_knows_the_others_and_not_itself() {
        let names = ["node-1", "node-2", "node-3"].map(str::to_owned);
        let config: toml::Table = config(1, &names, &[10, 20, 30]).parse().unwrap();
        assert_eq!(config["listen"].as_str(), Some("127.0.0.1:20"));
        let peers: Vec<_> = config["peer"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap()).collect();
        assert_eq!(peers, ["node-1", "node-3"]);
        assert_eq!(config["peer"][1]["addresses"][0].as_str(), Some("127.0.0.1:30"));
    }
}
