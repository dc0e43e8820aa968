//! The cluster of a run, and the processes that this program starts of itself.
//!
//! Each run has a cluster of its own: identities, a folder, free ports and, where it goes through daemons, two of them as
//! shipped. So the memory that is reported is that of one run. The cluster is that of the tests that cross crates
//! ([`trunkline_tests::cluster`]); where it cannot be set up, it says so and panics.
//!
//! A process of a run is told its task on the first line of its standard input, as JSON, and says on its standard output
//! how far it is, a line each. Whatever was started ends with this program: the kernel is asked for that.

use std::{
    env,
    ffi::OsString,
    io,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command as Program, Stdio},
    time::Duration,
};

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};
use trunkline::{
    Attachment, AttachmentBuilder,
    node::{IdentityConfig, NodeConfig, PeerConfig},
};
use trunkline_certs::NodeRequest;
use trunkline_tests::{
    cluster::{Cluster, Daemon, free_addresses},
    sockets,
};

use crate::{error::BenchError, roles::Task};

/// The two ends of a run's trunk: the producers' node and the consumers'.
pub(crate) const NODES: [&str; 2] = ["node-a", "node-b"];

/// How long a process may say nothing. Longer than any run is allowed to take.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// Becomes the program that `command` says, which the kernel ends when whoever started this process ends. Returns only
/// to say why not.
pub(crate) fn become_program(command: &[OsString]) -> BenchError {
    let [program, arguments @ ..] = command else { return BenchError::Option("exec: no command".to_owned()) };
    end_with_parent();
    let error = Program::new(program).args(arguments).exec();
    BenchError::Io(format!("run {}", program.display()), error)
}

/// From now on the kernel kills this process when the one that started it is gone.
pub(crate) fn end_with_parent() {
    // It cannot fail with a signal that exists; and a process without it still sees its standard input end.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
}

/// A cluster of [`NODES`], for one run. Dropped, everything of it is gone.
#[derive(Debug)]
pub(crate) struct Site {
    cluster: Cluster,
    /// Of the nodes that are no daemons.
    nodes: Vec<NodeFiles>,
}

impl Site {
    /// With both nodes as daemons, with `config` in their files.
    pub(crate) async fn with_daemons(config: &str) -> Result<Self, BenchError> {
        let configure = |_: &str, text: &mut String| text.push_str(config);
        let cluster = Cluster::builder().nodes(NODES).config(configure).launcher(launcher()?).start().await;
        Ok(Self { cluster, nodes: Vec::new() })
    }

    /// With the first of the nodes alone, as a daemon.
    pub(crate) async fn with_one_daemon() -> Result<Self, BenchError> {
        let cluster = Cluster::builder().nodes([NODES[0]]).launcher(launcher()?).start().await;
        Ok(Self { cluster, nodes: Vec::new() })
    }

    /// With the files of both nodes only, for those who are nodes themselves.
    pub(crate) async fn without_daemons() -> Result<Self, BenchError> {
        let cluster = Cluster::builder().nodes([]).start().await;
        let addresses = free_addresses(NODES.len());
        let mut nodes = Vec::new();
        for (id, listen) in NODES.iter().zip(&addresses) {
            let request = NodeRequest::new(id.parse().expect("a node's id"));
            let files = cluster.authority().issue_node(&request).expect("a certificate");
            let paths = files.write_to(&cluster.folder().join(id)).expect("the node's files");
            let peers = NODES.iter().zip(&addresses).filter(|(peer, _)| *peer != id);
            nodes.push(NodeFiles {
                id: (*id).to_owned(),
                listen: *listen,
                certificate: paths.certificate,
                key: paths.key,
                trust: paths.trust,
                peers: peers.map(|(peer, address)| ((*peer).to_owned(), *address)).collect(),
            });
        }
        Ok(Self { cluster, nodes })
    }

    /// Where the producers' process attaches, and where the consumers' does.
    pub(crate) fn places(&self) -> [Place; 2] {
        match &self.nodes[..] {
            [a, b] => [a, b].map(|node| Place::Embedded(node.clone())),
            _ => NODES.map(|id| Place::Daemon { socket: self.cluster.node(id).local.clone() }),
        }
    }

    /// Both nodes' files.
    ///
    /// # Panics
    /// When they are daemons.
    pub(crate) fn node_files(&self) -> [NodeFiles; 2] {
        self.nodes.clone().try_into().expect("two nodes that are no daemons")
    }

    /// Where the CA lies that certifies nodes of this cluster.
    pub(crate) fn ca_folder(&self) -> PathBuf {
        self.cluster.ca_folder()
    }

    /// The daemons, in the order of [`NODES`]; none when the nodes are no daemons.
    pub(crate) fn daemons(&self) -> &[Daemon] {
        self.cluster.nodes()
    }
}

/// What becomes a daemon that ends with this program.
fn launcher() -> Result<[OsString; 3], BenchError> {
    let own = env::current_exe().map_err(BenchError::io("find this program"))?;
    Ok([own.into_os_string(), "exec".into(), "--".into()])
}

/// What a process needs in order to be a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeFiles {
    /// Who it is.
    pub(crate) id: String,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Its certificate.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// Whom it trusts.
    pub(crate) trust: PathBuf,
    /// Whom it dials, and where.
    pub(crate) peers: Vec<(String, SocketAddr)>,
}

impl NodeFiles {
    /// The default configuration with these files.
    pub(crate) fn config(&self) -> Result<NodeConfig, BenchError> {
        let Self { certificate, key, trust, .. } = self.clone();
        let socket = certificate.with_file_name("admin.sock");
        let mut config = NodeConfig::new(self.listen, IdentityConfig { certificate, key, trust });
        config.admin = Some(trunkline_node::config::AdminConfig { socket });
        for (id, address) in &self.peers {
            let id = id.parse().map_err(|error| BenchError::Option(format!("node {id}: {error}")))?;
            config.peers.push(PeerConfig { id, addresses: vec![address.to_string()] });
        }
        Ok(config)
    }
}

/// Where a process attaches.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Place {
    /// To the daemon behind this socket.
    Daemon {
        /// The daemon's local socket.
        socket: PathBuf,
    },
    /// To the node that it runs itself.
    Embedded(NodeFiles),
}

impl Place {
    /// Attaches.
    pub(crate) async fn attach(&self, builder: AttachmentBuilder) -> Result<Attachment, BenchError> {
        Ok(match self {
            Self::Daemon { socket } => builder.connect(socket).await?,
            Self::Embedded(files) => builder.embedded(files.config()?).await?,
        })
    }
}

/// A process that this program started of itself. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Worker {
    name: &'static str,
    pid: u32,
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts it, and gives it its task. `name` is what errors and lists of processes call it.
    pub(crate) async fn start(name: &'static str, task: &Task) -> Result<Self, BenchError> {
        let failed = || BenchError::io(format!("start the {name}'s process"));
        let mut command = Command::new(env::current_exe().map_err(failed())?);
        command.args(["role", name]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed())?;
        let pid = child.id().unwrap_or_default();
        let no_pipe = || failed()(io::ErrorKind::BrokenPipe.into());
        let (input, output) = (child.stdin.take().ok_or_else(no_pipe)?, child.stdout.take().ok_or_else(no_pipe)?);
        let mut worker = Self { name, pid, child, input, lines: BufReader::new(output).lines() };
        worker.tell(task).await?;
        Ok(worker)
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The most memory that it has had resident so far, in bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        sockets::peak_bytes(self.pid())
    }

    /// Tells it something, which its role waits for.
    pub(crate) async fn tell<T: Serialize>(&mut self, order: &T) -> Result<(), BenchError> {
        let mut line = serde_json::to_vec(order).expect("orders can be written as JSON");
        line.push(b'\n');
        self.input.write_all(&line).await.map_err(BenchError::io(format!("talk to the {}'s process", self.name)))
    }

    /// Waits for the next thing that it says.
    ///
    /// # Errors
    /// What it says of its own failure; [`BenchError::Ended`] when it is gone; [`BenchError::Late`].
    pub(crate) async fn says<T: DeserializeOwned>(&mut self) -> Result<T, BenchError> {
        let late = |_| BenchError::Late(format!("waiting for the {}'s process", self.name), SILENCE_MAX.as_secs());
        let line = timeout(SILENCE_MAX, self.lines.next_line()).await.map_err(late)?;
        let Some(line) = line.map_err(BenchError::io(format!("hear the {}'s process", self.name)))? else {
            let status = self.child.wait().await.map_err(BenchError::io("wait for a process"))?;
            return Err(BenchError::Ended(self.name, status));
        };
        match serde_json::from_str::<Result<T, String>>(&line) {
            Ok(Ok(said)) => Ok(said),
            Ok(Err(error)) => Err(BenchError::Role(self.name, error)),
            Err(error) => Err(BenchError::Words(format!("the {}'s process", self.name), line, error)),
        }
    }
}
