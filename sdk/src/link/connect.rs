//! How a link comes about: the thread is started, connects to the node or starts one, and serves the link until it ends.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{net::UnixStream, sync::oneshot};
use tracing::Instrument as _;
use trunkline_proto::{
    frame::{Decoder, Frame},
    id::{JobName, NodeId},
    message::LinkHello,
    outgoing::Outgoing,
    version::{NoCommonVersion, Offer},
};

use super::{
    Shared, reattach,
    retry::retry,
    socket::{Socket, write_some},
    thread::Link,
};
use crate::error::Error;

/// The name of the thread that serves a link to a node of another process.
const LINK_THREAD_NAME: &str = "trunkline-link";
/// The name of the thread that is a node, and serves the link to it.
#[cfg(feature = "embedded")]
const NODE_THREAD_NAME: &str = "trunkline-node";

/// What an attachment is made of.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) software: String,
    pub(crate) receive_budget_bytes: u64,
    /// What the streams to consumers of a job may hold of that together; a job that is not here, as much as there is.
    pub(crate) job_receive_budgets: BTreeMap<JobName, u64>,
    pub(crate) send_budget_bytes: u64,
    pub(crate) message_bytes_max: usize,
    pub(crate) connect_timeout: Duration,
    /// For how long a first connect that failed is tried again.
    pub(crate) retry_within: Duration,
    /// A send that waits for longer is told of.
    pub(crate) stall_warn: Duration,
    /// How long streams without a path wait for another; as the node says, unless there is a wish.
    pub(crate) patience: Option<Duration>,
    /// The same for the streams of some jobs.
    pub(crate) job_patiences: BTreeMap<JobName, Duration>,
}

/// Which node to attach to.
pub(crate) enum Target {
    /// The one that listens there.
    Socket(PathBuf),
    /// One of its own, on the link's thread.
    #[cfg(feature = "embedded")]
    Embedded(Box<trunkline_node::config::NodeConfig>),
}

/// A link that was greeted.
pub(crate) struct Attached {
    pub(crate) shared: Arc<Shared>,
    pub(crate) thread: JoinHandle<()>,
    pub(crate) node: NodeId,
    pub(crate) cluster: String,
    /// The thread is a node, which drains when the link has ended.
    pub(crate) is_embedded: bool,
}

/// Opens the latch when the thread ends, by whatever way.
struct OpenOnDrop(Arc<Shared>);

impl Drop for OpenOnDrop {
    fn drop(&mut self) {
        self.0.done.open(false);
    }
}

/// Starts the thread and waits for the node's greeting. When this is dropped, the thread ends.
pub(crate) async fn attach(target: Target, options: Options) -> Result<Attached, Error> {
    let shared = Arc::new(Shared::new(&options));
    let (answer, answered) = oneshot::channel();
    let is_embedded = target.is_embedded();
    let thread = {
        let shared = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(target.thread_name().to_owned())
            .spawn(move || serve(target, &options, &shared, answer))
    };
    let thread = thread.map_err(|error| Error::system("cannot start the link's thread", error))?;
    match answered.await {
        Ok(hello) => {
            let (node, cluster) = hello?.claim();
            Ok(Attached { shared, thread, node, cluster, is_embedded })
        }
        Err(_) => Err(Error::system("the link's thread ended", "it panicked")),
    }
}

/// How the thread says that the link stands, or why it does not. Nobody is there to be told when the connect was given up.
pub(super) type Answer = oneshot::Sender<Result<Greeting, Error>>;

/// A link that stands, on its way to whoever asked for it. Dropped unclaimed, it ends the link: the connect may be given up
/// between the answer and the poll that would have found it.
pub(super) struct Greeting {
    node: NodeId,
    cluster: String,
    unclaimed: Option<Arc<Shared>>,
}

impl Greeting {
    pub(super) fn new(shared: &Arc<Shared>, node: NodeId, cluster: String) -> Self {
        Self { node, cluster, unclaimed: Some(Arc::clone(shared)) }
    }

    fn claim(mut self) -> (NodeId, String) {
        self.unclaimed = None;
        (self.node.clone(), std::mem::take(&mut self.cluster))
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        if let Some(shared) = self.unclaimed.take() {
            let now = Instant::now();
            shared.ready.begin_close(now, false);
            #[cfg(feature = "embedded")]
            shared.ready.hurry(now);
        }
    }
}

impl Target {
    fn is_embedded(&self) -> bool {
        !matches!(self, Self::Socket(_))
    }

    fn thread_name(&self) -> &'static str {
        match self {
            Self::Socket(_) => LINK_THREAD_NAME,
            #[cfg(feature = "embedded")]
            Self::Embedded(_) => NODE_THREAD_NAME,
        }
    }
}

/// The thread.
fn serve(target: Target, options: &Options, shared: &Arc<Shared>, answer: Answer) {
    let _opens = OpenOnDrop(Arc::clone(shared));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = answer.send(Err(Error::system("cannot start the link's runtime", error)));
            return;
        }
    };
    let clean = match target {
        Target::Socket(path) => runtime.block_on(serve_socket(&path, options, shared, answer)),
        #[cfg(feature = "embedded")]
        Target::Embedded(config) => {
            let node = super::embedded::serve(*config, options, shared, answer);
            tokio::task::LocalSet::new().block_on(&runtime, node)
        }
    };
    // A name that a node is looking up may take the system long, and nobody waits for it.
    runtime.shutdown_background();
    shared.done.open(clean);
}

/// Connects, and serves the link. Returns whether everything was said.
async fn serve_socket(path: &Path, options: &Options, shared: &Arc<Shared>, mut answer: Answer) -> bool {
    let timeout = options.connect_timeout;
    let attempt = async || match tokio::time::timeout(timeout, greet(path, &options.software)).await {
        Ok(greeted) => greeted,
        Err(_) => Err(Error::connect_timeout(path, timeout)),
    };
    let greeted = tokio::select! {
        greeted = retry(options.retry_within, &attempt) => greeted,
        () = answer.closed() => return false,
    };
    let Greeted { socket, node, cluster, patience } = match greeted {
        Ok(greeted) => greeted,
        Err(error) => {
            let _ = answer.send(Err(error));
            return false;
        }
    };
    shared.patience.learn(patience);
    let span = tracing::debug_span!("attachment", %node, socket = %path.display());
    let link = Link::new(Arc::clone(shared), socket, node.clone(), path_of_node(path, &node));
    if answer.send(Ok(Greeting::new(shared, node, cluster))).is_err() {
        return false;
    }
    let again = async || {
        let Greeted { socket, node, cluster, patience } = retry(shared.patience.longest(), &attempt).await?;
        shared.patience.learn(patience);
        Ok(reattach::Attached { transport: socket, node, cluster })
    };
    link.run_on(again).instrument(span).await
}

/// A link that was greeted by its node.
struct Greeted {
    socket: Socket,
    node: NodeId,
    cluster: String,
    /// How long streams wait, as far as the node is asked.
    patience: Duration,
}

/// How the node is named when the link to it is lost.
fn path_of_node(path: &Path, node: &NodeId) -> String {
    format!("node {node} at {}", path.display())
}

async fn greet(path: &Path, software: &str) -> Result<Greeted, Error> {
    let socket = UnixStream::connect(path).await.map_err(|error| Error::connect(path, &error))?;
    let mut decoder = Decoder::default();
    let hello = LinkHello {
        offer: Offer::ours(),
        software: software.to_owned(),
        cluster: String::new(),
        node: None,
        pid: std::process::id(),
        patience_ms: 0,
    };
    // A node that refuses may have closed its side already: what it said is still to be read.
    let told = write_all(&socket, &hello.into()).await;
    let hello = match read_frame(&socket, &mut decoder, path).await? {
        Some(Frame::LinkHello(hello)) => hello,
        Some(Frame::Refused(refused)) => return Err(Error::link_refused(path, refused.code, &refused.text)),
        Some(_) => return Err(Error::no_node(path, "its first frame is neither HELLO nor REFUSED")),
        None => return Err(Error::no_word(path)),
    };
    told.map_err(|error| Error::connect(path, &error))?;
    if let Err(error) = Offer::ours().agree(&hello.offer) {
        return Err(Error::link_refused(path, NoCommonVersion::CODE, &error.to_string()));
    }
    let node = hello.node.ok_or_else(|| Error::no_node(path, "its HELLO names no node"))?;
    let patience = Duration::from_millis(hello.patience_ms);
    Ok(Greeted { socket: Socket::new(socket, decoder), node, cluster: hello.cluster, patience })
}

async fn write_all(socket: &UnixStream, frame: &Frame) -> io::Result<()> {
    let mut outgoing = Outgoing::default();
    outgoing.push(frame);
    while !outgoing.is_empty() {
        socket.writable().await?;
        match write_some(socket, &mut outgoing) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => {
                written?;
            }
        }
    }
    Ok(())
}

async fn read_frame(socket: &UnixStream, decoder: &mut Decoder, path: &Path) -> Result<Option<Frame>, Error> {
    loop {
        if let Some(frame) = decoder.next().map_err(|error| Error::no_node(path, error))? {
            return Ok(Some(frame));
        }
        socket.readable().await.map_err(|error| Error::connect(path, &error))?;
        match socket.try_read_buf(decoder.buffer()) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(Error::connect(path, &error)),
        }
    }
}
