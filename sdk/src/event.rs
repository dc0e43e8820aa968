//! What happens to an attachment, for those who want to know as it happens.

use std::{
    fmt, future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use trunkline_proto::{
    code::Code,
    id::{ConsumerAddress, JobId, NodeId, ProducerName},
};

use crate::{error::ErrorKind, link::Subscription};

/// What may wait for one subscriber. One more, and the oldest is dropped and counted in [`Event::Missed`].
pub(crate) const EVENTS_MAX: usize = 256;

/// Something that happened to an [`Attachment`](crate::Attachment). Its text is a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The process is attached: the first event of a subscription, unless the attachment has ended; and again, after
    /// [`Event::Interrupted`].
    #[non_exhaustive]
    Attached {
        /// The node.
        node: NodeId,
        /// Its cluster.
        cluster: String,
    },
    /// The attachment has ended. The last event.
    #[non_exhaustive]
    Detached {
        /// [`Closed`](ErrorKind::Closed) by this process, or [`NodeLost`](ErrorKind::NodeLost).
        kind: ErrorKind,
        /// Why, as a sentence.
        why: String,
    },
    /// The link to the node is lost, and is tried again for as long as patience lasts
    /// ([`AttachmentBuilder::patience`](crate::AttachmentBuilder::patience)). Streams pause; the next event of the link is
    /// [`Event::Attached`] or [`Event::Detached`].
    #[non_exhaustive]
    Interrupted {
        /// Why, as a sentence.
        why: String,
    },
    /// Streams have lost their path: the link, a trunk, or a node at either end. They pause, and go on by themselves. Said once
    /// for all that are lost together.
    #[non_exhaustive]
    Suspended {
        /// How many.
        streams: u64,
        /// Why, as a sentence; of several reasons, the last.
        why: String,
    },
    /// Streams go on that had lost their path.
    #[non_exhaustive]
    Resumed {
        /// How many.
        streams: u64,
    },
    /// The node is shutting down. Streams that exist go on for a while, and pause until it is back; nothing new begins.
    #[non_exhaustive]
    Draining {
        /// What is left until streams that have not ended pause.
        left: Duration,
    },
    /// A `send` has waited for [`stall_warn`](crate::AttachmentBuilder::stall_warn) or longer, and still does. Said once
    /// for each wait.
    Stalled(StalledSend),
    /// A stream from or to this process that had been accepted ended neither cleanly nor by the wish of this process: one
    /// that it cancelled, aborted or dropped is not lost. Said once for each stream.
    Lost(LostStream),
    /// The subscriber was too slow: so many events before the next one were dropped.
    Missed(u64),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attached { node, cluster } => write!(f, "attached to node {node} of cluster {cluster}"),
            Self::Detached { why, .. } => write!(f, "detached: {why}"),
            Self::Interrupted { why } => write!(f, "interrupted: {why}"),
            Self::Suspended { streams: 1, why } => write!(f, "1 stream pauses: {why}"),
            Self::Suspended { streams, why } => write!(f, "{streams} streams pause: {why}"),
            Self::Resumed { streams: 1 } => f.write_str("1 stream goes on"),
            Self::Resumed { streams } => write!(f, "{streams} streams go on"),
            Self::Draining { left } => {
                write!(
                    f,
                    "the node is shutting down: streams that have not ended within {left:?} will pause until it is back"
                )
            }
            Self::Stalled(stalled) => stalled.fmt(f),
            Self::Lost(lost) => lost.fmt(f),
            Self::Missed(1) => f.write_str("1 event was missed"),
            Self::Missed(count) => write!(f, "{count} events were missed"),
        }
    }
}

/// A send that has waited for long.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StalledSend {
    /// The job, and its run.
    pub job: JobId,
    /// Who sends.
    pub producer: ProducerName,
    /// The consumer that the stream goes to.
    pub consumer: ConsumerAddress,
    /// What the send waits for.
    pub cause: StallCause,
    /// For how long it has waited so far.
    pub waited: Duration,
}

impl fmt::Display for StalledSend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { job, producer, consumer, cause, waited } = self;
        // Milliseconds say enough of what took seconds.
        let waited = Duration::from_millis(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
        write!(f, "producer {producer} (job {job}) has waited {waited:?} to send to consumer {consumer}: {cause}")
    }
}

/// What a send waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StallCause {
    /// The consumer's credit: its application does not read as fast as this one sends, or what is on the way to it is
    /// held up.
    Credit,
    /// Room in this process's [`send_budget_bytes`](crate::AttachmentBuilder::send_budget_bytes), which all its streams
    /// share.
    SendBudget,
}

impl fmt::Display for StallCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credit => "the consumer gives no credit, because it does not read",
            Self::SendBudget => "this process's send budget is used up by what consumers have not received",
        })
    }
}

/// A stream that did not end cleanly.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostStream {
    /// Which end of it this process was.
    pub direction: Direction,
    /// The job, and its run.
    pub job: JobId,
    /// Who sent.
    pub producer: ProducerName,
    /// The producer's node.
    pub producer_node: NodeId,
    /// The consumer that it went to.
    pub consumer: ConsumerAddress,
    /// Why it ended.
    pub code: Code,
    /// How many bytes of it, lengths included, are known to have been consumed by then.
    pub offset: u64,
    /// Why it ended, for people.
    pub text: String,
}

impl fmt::Display for LostStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { direction, job, producer, producer_node, consumer, code, offset, text } = self;
        match direction {
            Direction::Sent => write!(f, "lost the stream of producer {producer} (job {job}) to consumer {consumer}")?,
            Direction::Received => write!(
                f,
                "lost the stream of producer {producer}@{producer_node} (job {job}) to this process's consumer {consumer}"
            )?,
        }
        write!(f, ": {code} at offset {offset}: {text}")
    }
}

/// Which end of a stream this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// A producer of this process sends it.
    Sent,
    /// A consumer of this process receives it.
    Received,
}

/// The events of an attachment: made by [`Attachment::events`](crate::Attachment::events).
///
/// Nothing waits for whoever listens. What was not taken yet is kept, 256 events at most: then the oldest are dropped, and
/// [`Event::Missed`] says how many. It is also a [`Stream`]. It ends after [`Event::Detached`], and does not keep the
/// attachment alive.
#[derive(Debug)]
pub struct Events(Arc<Subscription>);

impl Events {
    pub(crate) fn new(subscription: Arc<Subscription>) -> Self {
        Self(subscription)
    }

    /// Waits for the next event; `None` after [`Event::Detached`].
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next call returns what this one would have.
    pub async fn next(&mut self) -> Option<Event> {
        future::poll_fn(|cx| self.0.poll_next(cx)).await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next(cx)
    }
}
