//! The settings of an attachment, and the ways to make one.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use trunkline_proto::{framing::MESSAGE_BYTES_LIMIT, id::JobName, version};

use super::{Attachment, Handle};
use crate::{
    error::{Error, ErrorKind},
    link::{Options, Target, attach},
};

/// Names the local socket of this machine's node.
const SOCKET_VARIABLE: &str = "TRUNKLINE_SOCKET";
/// Where it is when the variable does not say.
const SOCKET_DEFAULT: &str = "/run/trunkline/local.sock";
/// Smaller receive budgets could not let two streams make progress.
const RECEIVE_BUDGET_BYTES_MIN: u64 = 64 << 10;

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
                job_receive_budgets: BTreeMap::new(),
                send_budget_bytes: 256 << 20,
                message_bytes_max: 64 << 20,
                connect_timeout: Duration::from_secs(10),
                retry_within: Duration::ZERO,
                stall_warn: Duration::from_secs(10),
                patience: None,
                job_patiences: BTreeMap::new(),
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

    /// What the streams to this process's consumers of one job may hold of the receive budget together, in bytes, at least
    /// 64 KiB: so that no other job's streams lack credit while that job does not read. A job that is not named may use as
    /// much as there is. It holds for every run of the job. Messages of the job that are longer than their stream's window
    /// may hold as much again, or one message if that is longer.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) when the name is not one of a job.
    pub fn job_receive_budget_bytes(
        mut self,
        job: impl TryInto<JobName, Error: fmt::Display>,
        bytes: u64,
    ) -> Result<Self, Error> {
        self.options.job_receive_budgets.insert(job.try_into().map_err(Error::invalid)?, bytes);
        Ok(self)
    }

    /// What all streams from this process may hold together, in bytes: messages that `send` took and that the consumers'
    /// processes are not known to have yet. 256 MiB unless told. When it is used up, `send` waits, and those who wait go on
    /// in their order; the message that uses it up may exceed it. Of a message that reaches beyond its consumer's credit,
    /// only what has credit counts, so that streams that are stalled keep no room from the others.
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

    /// How long connecting may take, each attempt: 10 s unless told.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// For how long a first connect that fails is tried again: not at all unless told, `Duration::MAX` for ever. For
    /// programs that may start before their node does.
    ///
    /// Tried again is what may get better by itself ([`Error::is_retryable`]): no socket yet, nobody who listens, no answer
    /// in time, a node that is shutting down or has too many processes. Pauses grow from 10 to 250 ms, with jitter. No
    /// attempt begins after that time, and the last error says for how long it was tried.
    pub fn retry_first_connect(mut self, within: Duration) -> Self {
        self.options.retry_within = within;
        self
    }

    /// How long a `send` may wait before it is told, as an [`Event::Stalled`](crate::Event::Stalled) and as a warning in
    /// the log, once for each wait: 10 s unless told, `Duration::MAX` for never, not zero. It is noticed at most a quarter
    /// of that time later.
    pub fn stall_warn(mut self, after: Duration) -> Self {
        self.options.stall_warn = after;
        self
    }

    /// For how long streams outlive the loss of their path: the node, a trunk, or the node at the other end. Unless told, as
    /// the node's configuration says (`patience_ms`, 5 minutes unless told there too).
    ///
    /// Meanwhile they pause: `send` and `recv` wait, the process attaches, binds and resumes by itself, and
    /// [`Event`](crate::Event)s tell of it. When the time is over, they end with
    /// [`NodeLost`](crate::ErrorKind::NodeLost) or `trunk_lost`; a stream whose end had been sent, with
    /// `outcome_unknown`. At zero they end at once, and so does the attachment when its node is lost.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.options.patience = Some(patience);
        self
    }

    /// As [`AttachmentBuilder::patience`], for the streams of one job, whatever its run.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) when the name is not one of a job.
    pub fn job_patience(
        mut self,
        job: impl TryInto<JobName, Error: fmt::Display>,
        patience: Duration,
    ) -> Result<Self, Error> {
        self.options.job_patiences.insert(job.try_into().map_err(Error::invalid)?, patience);
        Ok(self)
    }

    /// Attaches to the node whose local socket is at `socket`. Waits for the node's greeting.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for a setting out of range, [`Connect`](crate::ErrorKind::Connect) when no
    /// node answers there, [`Refused`](crate::ErrorKind::Refused) when it does not want this process (its user, its
    /// version, one process too many), [`Draining`](crate::ErrorKind::Draining) when it is shutting down,
    /// [`Timeout`](crate::ErrorKind::Timeout).
    ///
    /// # Cancel safety
    /// Dropping the future closes whatever was begun.
    pub async fn connect(self, socket: impl AsRef<Path>) -> Result<Attachment, Error> {
        self.check()?;
        self.attach(Target::Socket(socket.as_ref().to_owned())).await
    }

    /// As [`Attachment::connect_local`].
    ///
    /// # Errors
    /// As [`AttachmentBuilder::connect`].
    ///
    /// # Cancel safety
    /// Dropping the future closes whatever was begun.
    pub async fn connect_local(self) -> Result<Attachment, Error> {
        let (socket, origin) = local_socket(env::var_os(SOCKET_VARIABLE));
        self.connect(socket).await.map_err(|error| match error.kind() {
            ErrorKind::Invalid => error,
            _ => error.with_origin(origin),
        })
    }

    /// Runs a node inside this process, and attaches to it: no daemon, no socket between, one hop less. The node is the
    /// same as a daemon with this configuration: it has peers, it may have an admin socket, and it serves other processes
    /// when `local` is set. Waits until it listens; it connects to its peers when streams need them.
    ///
    /// The node lives on the attachment's thread, which is called `trunkline-node` then, and ends with the attachment:
    /// [`Attachment::close`] drains it. Dropping the last handle gives it half a second to drain, and blocks until it is
    /// gone, at most 2 s. What is not about a socket applies as to every attachment;
    /// [`AttachmentBuilder::connect_timeout`] and [`AttachmentBuilder::retry_first_connect`] do not.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a setting out of range, [`Node`](ErrorKind::Node) when the node does not start,
    /// in the node's own words: a configuration that does not hold, files of its identity that are missing or do not belong
    /// together, an address or a socket that is in use.
    ///
    /// # Cancel safety
    /// Dropping the future ends whatever was begun.
    #[cfg(feature = "embedded")]
    pub async fn embedded(self, config: crate::node::NodeConfig) -> Result<Attachment, Error> {
        self.check()?;
        self.attach(Target::Embedded(Box::new(config))).await
    }

    async fn attach(self, target: Target) -> Result<Attachment, Error> {
        let attached = attach(target, self.options).await?;
        Ok(Attachment { handle: Arc::new(Handle::new(attached)) })
    }

    /// Whether the settings are in range.
    fn check(&self) -> Result<(), Error> {
        let &Options { receive_budget_bytes, send_budget_bytes, message_bytes_max, stall_warn, .. } = &self.options;
        for (job, &bytes) in &self.options.job_receive_budgets {
            if bytes < RECEIVE_BUDGET_BYTES_MIN {
                let least = RECEIVE_BUDGET_BYTES_MIN;
                return Err(Error::invalid(format!(
                    "a receive budget of {bytes} bytes for job {job}; at least {least}"
                )));
            }
        }
        if receive_budget_bytes < RECEIVE_BUDGET_BYTES_MIN {
            let least = RECEIVE_BUDGET_BYTES_MIN;
            return Err(Error::invalid(format!("a receive budget of {receive_budget_bytes} bytes; at least {least}")));
        }
        if send_budget_bytes == 0 {
            return Err(Error::invalid("a send budget of 0 bytes"));
        }
        if !(1..=MESSAGE_BYTES_LIMIT).contains(&message_bytes_max) {
            let text = format!("a message_bytes_max of {message_bytes_max}; it is from 1 to {MESSAGE_BYTES_LIMIT}");
            return Err(Error::invalid(text));
        }
        if stall_warn.is_zero() {
            return Err(Error::invalid("a stall_warn of 0 s; Duration::MAX turns it off"));
        }
        Ok(())
    }
}

/// The socket of this machine's node, and who says so.
fn local_socket(variable: Option<OsString>) -> (PathBuf, &'static str) {
    match variable {
        Some(path) if !path.is_empty() => (path.into(), "the path is from TRUNKLINE_SOCKET"),
        _ => (SOCKET_DEFAULT.into(), "the default path, for TRUNKLINE_SOCKET is not set"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_that_are_documented() {
        let Options { software, receive_budget_bytes, send_budget_bytes, message_bytes_max, .. } =
            AttachmentBuilder::default().options;
        assert_eq!(software, format!("trunkline/{}", env!("CARGO_PKG_VERSION")));
        assert_eq!((receive_budget_bytes, send_budget_bytes), (256 * 1024 * 1024, 256 * 1024 * 1024));
        assert_eq!(message_bytes_max, 64 * 1024 * 1024);
        let Options { connect_timeout, retry_within, stall_warn, .. } = AttachmentBuilder::default().options;
        assert_eq!(connect_timeout, Duration::from_secs(10));
        assert_eq!(retry_within, Duration::ZERO, "a first connect is tried once");
        assert_eq!(stall_warn, Duration::from_secs(10));
    }
}
