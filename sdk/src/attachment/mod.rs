//! The attachment of this process to its local node.

mod builder;

use std::{
    fmt, future,
    path::Path,
    sync::{Arc, Mutex},
    thread::{JoinHandle, ThreadId},
    time::{Duration, Instant},
};

use trunkline_proto::id::{JobId, JobName, NodeId, RunId};

use crate::{
    error::Error,
    event::Events,
    job::Job,
    link::{Attached, Ended, Shared, lock},
    metrics::Metrics,
};

pub use builder::AttachmentBuilder;

/// How long [`Attachment::close`] waits for what is still to be said.
const CLOSE_LINGER: Duration = Duration::from_secs(5);
/// How long dropping the last handle blocks for the same.
const DROP_LINGER: Duration = Duration::from_secs(1);
/// The same when the thread is a node: its good-byes to processes and peers come after its drain, and take a second and a
/// half at most.
const NODE_DROP_LINGER: Duration = Duration::from_secs(2);
/// What of that is for the link's last words and for the streams through the node.
const NODE_DROP_DRAIN: Duration = Duration::from_millis(500);

/// The attachment of this process to its local node.
///
/// It is one unix socket and one thread, `trunkline-link`, whatever the number of streams. Clones are handles to the same
/// attachment, and so are the jobs, producers, consumers, senders and receivers made from it; when the last of them is
/// gone, the thread ends.
///
/// # Dropping
/// Dropping the last handle gives up what is unfinished, hands what is still to be said (the last credit of a finished
/// receiver, say) to the node, and **blocks** the dropping thread until that is done, at most 1 s; as a rule it takes
/// microseconds. With an embedded node it blocks until the node is gone, at most 2 s. Use [`Attachment::close`] to wait
/// without blocking, for longer, and to hear how it went.
#[derive(Clone)]
pub struct Attachment {
    handle: Arc<Handle>,
}

impl Attachment {
    /// Attaches to the node whose local socket is at `socket`, with the defaults of [`Attachment::builder`].
    ///
    /// # Errors
    /// As [`AttachmentBuilder::connect`].
    ///
    /// # Cancel safety
    /// Dropping the future closes whatever was begun.
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Self, Error> {
        Self::builder().connect(socket).await
    }

    /// Attaches to the node of this machine: the one whose local socket the environment variable `TRUNKLINE_SOCKET` names,
    /// or, when it is not set or empty, the one at `/run/trunkline/local.sock`.
    ///
    /// # Errors
    /// As [`AttachmentBuilder::connect`]. The text says which of the two it was.
    ///
    /// # Cancel safety
    /// Dropping the future closes whatever was begun.
    pub async fn connect_local() -> Result<Self, Error> {
        Self::builder().connect_local().await
    }

    /// Runs a node inside this process and attaches to it, with the defaults of [`Attachment::builder`]. See
    /// [`AttachmentBuilder::embedded`].
    ///
    /// # Errors
    /// As [`AttachmentBuilder::embedded`].
    ///
    /// # Cancel safety
    /// Dropping the future ends whatever was begun.
    #[cfg(feature = "embedded")]
    pub async fn embedded(config: crate::node::NodeConfig) -> Result<Self, Error> {
        Self::builder().embedded(config).await
    }

    /// An attachment with other settings than the defaults.
    pub fn builder() -> AttachmentBuilder {
        AttachmentBuilder::default()
    }

    /// The node that this process is attached to: what others put behind the `@` to reach its consumers.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.handle.node
    }

    /// The cluster that the node belongs to.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.handle.cluster
    }

    /// What this attachment has done so far, in numbers. It costs a few loads.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let shared = &self.handle.shared;
        shared.counters.snapshot(shared.send_budget.used())
    }

    /// Whether the node has said that it is shutting down: streams that exist go on for a while, and nothing new begins.
    /// [`Event::Draining`](crate::Event::Draining) tells it as it happens.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.handle.shared.is_draining()
    }

    /// What happens to this attachment from now on, beginning with how it is: attached, and draining if it is. There may
    /// be many who listen, each for itself.
    #[must_use]
    pub fn events(&self) -> Events {
        let Handle { shared, node, cluster, .. } = &*self.handle;
        Events::new(shared.subscribers.subscribe(node, cluster))
    }

    /// A job, and the run of it that is meant: a namespace for producers and consumers.
    ///
    /// Both ends of a stream must have been given the same run, so that the leavings of a failed run never meet the
    /// next one. Nothing is sent.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) when one of them is not a valid name.
    pub fn job(
        &self,
        name: impl TryInto<JobName, Error: fmt::Display>,
        run: impl TryInto<RunId, Error: fmt::Display>,
    ) -> Result<Job, Error> {
        let name = name.try_into().map_err(Error::invalid)?;
        let run = run.try_into().map_err(Error::invalid)?;
        Ok(Job::new(Arc::clone(&self.handle), JobId { name, run }))
    }

    /// Detaches.
    ///
    /// Streams that are unfinished are given up and their other ends told; every waiting call on this attachment, also
    /// through other handles, ends with [`Closed`](crate::ErrorKind::Closed). Then it waits, at most 5 s, until what
    /// finished senders and receivers still had to say was handed to the node, and until the producers of streams to this
    /// process have heard how those ended: if its node dies before that, this process is who tells the next one. It does not
    /// wait for consumers: that is what [`Sender::finish`](crate::Sender::finish) does.
    ///
    /// An embedded node then drains: it takes nothing new, tells the other processes that are attached to it and its
    /// peers, and waits until the streams through it have ended, at most its configuration's `drain_timeout` (10 s unless
    /// told). So what a finished sender has handed over reaches the peer before this returns. What has not ended by then is
    /// aborted, and its ends are told.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) when 5 s were not enough to hand over everything; that a producer has not heard
    /// is none. [`NodeLost`](crate::ErrorKind::NodeLost) when
    /// the link was lost before or meanwhile. The attachment is closed all the same.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the closing to go on by itself, for as long as it may take.
    pub async fn close(self) -> Result<(), Error> {
        let Handle { shared, thread, .. } = &*self.handle;
        shared.ready.begin_close(Instant::now() + CLOSE_LINGER, true);
        let clean = future::poll_fn(|cx| shared.done.poll(cx)).await;
        let thread = lock(thread).take();
        if let Some(thread) = thread {
            // It has said its last word, so this does not block; a panic of it was reported as the loss of the link.
            let _ = thread.join();
        }
        match shared.ready.ended() {
            Some(ended @ Ended::NodeLost(_)) => Err(Error::ended("the attachment", &ended)),
            _ if clean => Ok(()),
            _ => Err(Error::close_timeout(CLOSE_LINGER)),
        }
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment")
            .field("node", &self.handle.node)
            .field("cluster", &self.handle.cluster)
            .finish_non_exhaustive()
    }
}

/// What keeps the link's thread alive: one for each attachment, shared by everything made from it.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) node: NodeId,
    cluster: String,
    thread: Mutex<Option<JoinHandle<()>>>,
    thread_id: ThreadId,
    is_embedded: bool,
}

impl Handle {
    fn new(attached: Attached) -> Self {
        let Attached { shared, thread, node, cluster, is_embedded } = attached;
        let thread_id = thread.thread().id();
        Self { shared, thread: Mutex::new(Some(thread)), thread_id, node, cluster, is_embedded }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.shared.ready.close_by().is_some() {
            // It was closed. Whoever did not wait for that does not want to wait for it here.
            return;
        }
        let (drain, linger) = match self.is_embedded {
            true => (NODE_DROP_DRAIN, NODE_DROP_LINGER),
            false => (DROP_LINGER, DROP_LINGER),
        };
        let by = Instant::now() + drain;
        self.shared.ready.begin_close(by, false);
        #[cfg(feature = "embedded")]
        self.shared.ready.hurry(by);
        // A task may own the last handle and be dropped by the waker that the link's thread calls.
        if std::thread::current().id() != self.thread_id {
            self.shared.done.wait(linger);
        }
    }
}
