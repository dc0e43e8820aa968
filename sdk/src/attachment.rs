//! The attachment of this process to its local node.

use std::{
    fmt, future,
    path::Path,
    sync::{Arc, Mutex},
    thread::{JoinHandle, ThreadId},
    time::{Duration, Instant},
};

use trunkline_proto::{
    framing::MESSAGE_BYTES_LIMIT,
    id::{JobId, JobName, NodeId, RunId},
    version,
};

use crate::{
    error::Error,
    job::Job,
    link::{Attached, Ended, Options, Shared, attach, lock},
    metrics::Metrics,
};

/// How long [`Attachment::close`] waits for what is still to be said.
const CLOSE_LINGER: Duration = Duration::from_secs(5);
/// How long dropping the last handle blocks for the same.
const DROP_LINGER: Duration = Duration::from_secs(1);
/// Smaller receive budgets could not let two streams make progress.
const RECEIVE_BUDGET_BYTES_MIN: u64 = 64 << 10;

/// The attachment of this process to its local node.
///
/// It is one unix socket and one thread, `trunkline-link`, whatever the number of streams. Clones are handles to the same
/// attachment, and so are the jobs, producers, consumers, senders and receivers made from it; when the last of them is
/// gone, the thread ends.
///
/// # Dropping
/// Dropping the last handle gives up what is unfinished, hands what is still to be said (the last credit of a finished
/// receiver, say) to the node, and **blocks** the dropping thread until that is done, at most 1 s; as a rule it takes
/// microseconds. Use [`Attachment::close`] to wait without blocking, for longer, and to hear how it went.
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
    /// finished senders and receivers still had to say was handed to the node. It does not wait for consumers: that is
    /// what [`Sender::finish`](crate::Sender::finish) does.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) when 5 s were not enough, [`NodeLost`](crate::ErrorKind::NodeLost) when
    /// the link was lost before or meanwhile. The attachment is closed all the same.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the closing to go on by itself.
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

/// The settings of an [`Attachment`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before connect"]
pub struct AttachmentBuilder {
    options: Options,
}

impl Default for AttachmentBuilder {
    fn default() -> Self {
        Self {
            options: Options {
                software: version::SOFTWARE.to_owned(),
                receive_budget_bytes: 256 << 20,
                send_budget_bytes: 256 << 20,
                message_bytes_max: 64 << 20,
                connect_timeout: Duration::from_secs(10),
            },
        }
    }
}

impl AttachmentBuilder {
    /// What the node's logs and status call this process, `wordcount-map` say. At most 128 bytes are kept.
    pub fn software(mut self, software: &str) -> Self {
        software.clone_into(&mut self.options.software);
        self
    }

    /// What all streams to this process may hold together before its application consumes it, in bytes: 256 MiB unless
    /// told, at least 64 KiB. Messages longer than their stream's window come on top: together at most
    /// [`AttachmentBuilder::message_bytes_max`].
    pub fn receive_budget_bytes(mut self, bytes: u64) -> Self {
        self.options.receive_budget_bytes = bytes;
        self
    }

    /// What all streams from this process may hold together, in bytes: messages that `send` took and that the consumers'
    /// processes are not known to have yet. 256 MiB unless told. When it is used up, `send` waits; the message that uses it
    /// up may exceed it.
    pub fn send_budget_bytes(mut self, bytes: u64) -> Self {
        self.options.send_budget_bytes = bytes;
        self
    }

    /// The longest message, in bytes: 64 MiB unless told, less than 1 GiB. `send` refuses a longer one; a stream that
    /// brings a longer one is ended. Set it alike at both ends.
    pub fn message_bytes_max(mut self, bytes: usize) -> Self {
        self.options.message_bytes_max = bytes;
        self
    }

    /// How long connecting may take: 10 s unless told.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// Attaches to the node whose local socket is at `socket`.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for a setting out of range, [`Connect`](crate::ErrorKind::Connect) when no
    /// node answers there, [`Refused`](crate::ErrorKind::Refused) when it does not want this process (its user, its
    /// version, one process too many), [`Timeout`](crate::ErrorKind::Timeout).
    ///
    /// # Cancel safety
    /// Dropping the future closes whatever was begun.
    pub async fn connect(self, socket: impl AsRef<Path>) -> Result<Attachment, Error> {
        let Options { receive_budget_bytes, message_bytes_max, .. } = self.options;
        if receive_budget_bytes < RECEIVE_BUDGET_BYTES_MIN {
            let least = RECEIVE_BUDGET_BYTES_MIN;
            return Err(Error::invalid(format!("a receive budget of {receive_budget_bytes} bytes; at least {least}")));
        }
        if self.options.send_budget_bytes == 0 {
            return Err(Error::invalid("a send budget of 0 bytes"));
        }
        if !(1..=MESSAGE_BYTES_LIMIT).contains(&message_bytes_max) {
            let text = format!("a message_bytes_max of {message_bytes_max}; it is from 1 to {MESSAGE_BYTES_LIMIT}");
            return Err(Error::invalid(text));
        }
        let path = socket.as_ref().to_owned();
        let Attached { shared, thread, node, cluster } = attach(&path, self.options).await?;
        let thread_id = thread.thread().id();
        let handle = Handle { shared, thread: Mutex::new(Some(thread)), thread_id, node, cluster };
        Ok(Attachment { handle: Arc::new(handle) })
    }
}

/// What keeps the link's thread alive: one for each attachment, shared by everything made from it.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) node: NodeId,
    cluster: String,
    thread: Mutex<Option<JoinHandle<()>>>,
    thread_id: ThreadId,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.ready.begin_close(Instant::now() + DROP_LINGER, false);
        // A task may own the last handle and be dropped by the waker that the link's thread calls.
        if std::thread::current().id() != self.thread_id {
            self.shared.done.wait(DROP_LINGER);
        }
    }
}
