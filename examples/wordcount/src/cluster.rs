//! A cluster on this machine: certificates, a configuration for each node, and the nodes, up and answering. A node is a
//! daemon, or embedded in a process of this program.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs::{self, DirBuilder},
    io,
    net::UdpSocket,
    os::unix::fs::DirBuilderExt,
    path::Path,
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
    children::{Children, Ended, Happening, Kind, Slot},
    events::Event,
    guard::Guard,
    plan::{Plan, local_socket, node_config},
};

/// How long a node may take until processes can attach to it.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often new ports are tried when another program was faster to take one.
const PORT_ATTEMPTS: usize = 4;

/// How long to wait for others that fell with a node before the one to blame is named.
const SETTLE: Duration = Duration::from_millis(100);

/// What the operating system says of a port that is not free.
const PORT_TAKEN: &str = "in use";

/// The cluster's name, in all certificates.
const CLUSTER: &str = "wordcount";

/// A node that is up.
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
    /// A node's process ended.
    #[error("{0}")]
    Died(Box<Casualty>),
    /// A daemon runs and lets nobody attach.
    #[error("nobody can attach to the daemon of {node}: {last}")]
    NotReady {
        /// Whose.
        node: String,
        /// What the last attempt came to.
        last: trunkline::Error,
    },
    /// A process runs, and the node in it does not listen.
    #[error("the node process {node} is not ready after {} s", READY_TIMEOUT.as_secs())]
    Silent {
        /// Its node.
        node: String,
    },
}

impl ClusterError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}

/// What nodes are started with.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// Who takes part.
    pub(crate) plan: &'a Plan,
    /// Where the plan lies, and where the nodes' folders will.
    pub(crate) folder: &'a Path,
    /// The programs.
    pub(crate) binaries: &'a Binaries,
}

impl Launch<'_> {
    /// Issues certificates and starts the nodes, and returns when processes can attach to all, or embedded ones listen.
    pub(crate) async fn start(&self, children: &mut Children, guard: &mut Guard) -> Result<Vec<Node>, ClusterError> {
        let names = &self.plan.nodes;
        issue_certificates(names, self.folder, &self.binaries.certs).await?;
        let mut attempt = 1;
        loop {
            let ports = free_ports(names.len()).map_err(ClusterError::io("find free UDP ports"))?;
            match self.start_nodes(&ports, children, guard).await {
                Err(ClusterError::Died(casualty)) if attempt < PORT_ATTEMPTS && casualty.said(PORT_TAKEN) => {
                    attempt += 1;
                    children.clear(READY_TIMEOUT).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn start_nodes(
        &self,
        ports: &[u16],
        children: &mut Children,
        guard: &mut Guard,
    ) -> Result<Vec<Node>, ClusterError> {
        let Self { plan, folder, .. } = *self;
        let mut nodes = Vec::new();
        for (index, name) in plan.nodes.iter().enumerate() {
            let path = node_config(folder, name);
            let text = config(index, &plan.nodes, ports);
            fs::write(&path, text).map_err(ClusterError::io(format!("write {}", path.display())))?;
            nodes.push(Node { id: name.clone(), pid: self.start_node(index, children, guard)? });
        }
        if plan.embedded {
            all_listen(&nodes, children).await?;
        } else {
            for node in &nodes {
                ready(folder, &node.id, children).await?;
            }
        }
        Ok(nodes)
    }

    /// Starts node number `index`, whose configuration is written, or starts it again; gives its process's number. Its log
    /// goes on where it ended.
    pub(crate) fn start_node(
        &self,
        index: usize,
        children: &mut Children,
        guard: &mut Guard,
    ) -> Result<u32, ClusterError> {
        let Self { plan, folder, binaries } = *self;
        let name = &plan.nodes[index];
        let (kind, label, program) = if plan.embedded {
            (Kind::Node, format!("the node process {name}"), &binaries.wordcount)
        } else {
            (Kind::Daemon, format!("the daemon of {name}"), &binaries.node)
        };
        let mut command = Command::new(program);
        if plan.embedded {
            command.args(["node", "--index", &index.to_string(), "--plan"]).arg(folder);
        } else {
            command.args(["run", "--config"]).arg(node_config(folder, name));
        }
        let pid = children
            .start(Slot { kind, index }, &label, name, command)
            .map_err(ClusterError::io(format!("start {}", program.display())))?;
        guard.watch(pid);
        Ok(pid)
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
        // The node's sockets will lie here too, and a folder that others could enter is none for them.
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

/// Waits until processes can attach to the daemon of `node`; a daemon that dies first is the error.
async fn ready(folder: &Path, node: &str, children: &mut Children) -> Result<(), ClusterError> {
    tokio::select! {
        attached = attachable(folder, node) => attached,
        // Daemons tell nothing.
        Some(Happening::Ended(ended)) = children.next() => Err(died(ended, children).await),
    }
}

/// Waits until processes can attach to the daemon of `node`.
pub(crate) fn attachable(folder: &Path, node: &str) -> impl Future<Output = Result<(), ClusterError>> + use<> {
    let (socket, node) = (local_socket(folder, node), node.to_owned());
    async move {
        let attaching = Attachment::builder().software("wordcount").retry_first_connect(READY_TIMEOUT);
        match attaching.connect(socket).await {
            Ok(attachment) => {
                // It sent nothing, and has nothing to wait for.
                let _ = attachment.close().await;
                Ok(())
            }
            Err(last) => Err(ClusterError::NotReady { node, last }),
        }
    }
}

/// Waits until each process has told that the node in it listens; one that dies first is the error.
async fn all_listen(nodes: &[Node], children: &mut Children) -> Result<(), ClusterError> {
    let deadline = Instant::now() + READY_TIMEOUT;
    let mut silent: BTreeSet<_> = (0..nodes.len()).collect();
    while let Some(&first) = silent.first() {
        match time::timeout_at(deadline, children.next()).await {
            Ok(Some(Happening::Told(slot, Event::Ready))) => {
                silent.remove(&slot.index);
            }
            // Nothing else is told before the word to open streams.
            Ok(Some(Happening::Told(..))) => {}
            Ok(Some(Happening::Ended(ended))) => return Err(died(ended, children).await),
            Ok(None) | Err(_) => return Err(ClusterError::Silent { node: nodes[first].id.clone() }),
        }
    }
    Ok(())
}

async fn died(ended: Ended, children: &mut Children) -> ClusterError {
    ClusterError::Died(Box::new(Casualty::of(children.casualties(ended, SETTLE).await)))
}

/// The configuration of one node, the same for a daemon and for one that is embedded. Relative paths start at its folder.
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

/// Different UDP ports that are free now. Another program may take one before a node does.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let sockets: Vec<_> = (0..count).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<io::Result<_>>()?;
    sockets.iter().map(|socket| Ok(socket.local_addr()?.port())).collect()
}

#[cfg(test)]
mod tests {
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
