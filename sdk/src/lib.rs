//! Many streams, one line: the SDK of Trunkline.
//!
//! A distributed computation gathers: every consumer collects the results of producers on all nodes. This crate gives
//! each pair of them a stream of messages, with order, flow control and a fate of its own, and without a socket of its
//! own: a process has one unix socket to the node of its machine, and the nodes have one connection for each pair of
//! them.
//!
//! ```no_run
//! # async fn reduce() -> Result<(), trunkline::Error> {
//! use trunkline::{Attachment, Expected, Gathered};
//!
//! let attachment = Attachment::connect_local().await?;
//! let job = attachment.job("wordcount", "2031-05-07")?;
//! let mut gather = job.consumer("reduce-3")?.bind().await?.gather(Expected::Count(8));
//! while let Some(gathered) = gather.next().await {
//!     match gathered? {
//!         Gathered::Message { producer, message } => println!("{producer}: {} bytes", message.len()),
//!         Gathered::Lost(lost) => eprintln!("{lost}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! and on any node of the cluster:
//!
//! ```no_run
//! # async fn map(attachment: trunkline::Attachment) -> Result<(), trunkline::Error> {
//! let producer = attachment.job("wordcount", "2031-05-07")?.producer("map-1")?;
//! let mut sender = producer.open("wordcount/reduce-3@node-b").await?;
//! sender.send("the result".into()).await?;
//! sender.finish().await?; // The reducer's application has consumed everything.
//! # Ok(())
//! # }
//! ```
//!
//! # Concepts
//! | what | made by | is |
//! | --- | --- | --- |
//! | [`Attachment`] | [`Attachment::connect_local`] and others | the line of this process to its local node |
//! | [`Events`] | [`Attachment::events`] | what happens to an attachment, as it happens |
//! | [`Job`] | [`Attachment::job`] | a namespace for one run of one computation |
//! | [`Producer`] | [`Job::producer`] | one life of a named producer |
//! | [`Sender`] | [`Producer::open`] | the sending end of one stream |
//! | [`Consumer`] | [`Job::consumer`], then [`ConsumerBuilder::bind`] | a name that producers open streams to: `job/consumer@node` |
//! | [`Receiver`] | [`Consumer::accept`] | the receiving end of one stream |
//! | [`Gather`] | [`Consumer::gather`] | all streams of a consumer, merged |
//!
//! Programs may start in any order: an open waits for its consumer to be bound, 30 s unless the node is told otherwise.
//! Both ends must have given the same run of the job, so that the leavings of a failed run never meet the next one.
//!
//! # Connecting
//! [`Attachment::connect_local`] finds the node of this machine by the variable `TRUNKLINE_SOCKET`, or at
//! `/run/trunkline/local.sock`; [`Attachment::connect`] takes a path. A program that may start before its node waits for
//! it with [`AttachmentBuilder::retry_first_connect`]:
//!
//! ```no_run
//! # use std::time::Duration;
//! # async fn connect() -> Result<trunkline::Attachment, trunkline::Error> {
//! trunkline::Attachment::builder().retry_first_connect(Duration::from_secs(60)).connect_local().await
//! # }
//! ```
//!
//! With the feature `embedded`, a program may be its own node: `Attachment::embedded` runs one on a thread of the process,
//! and all else is the same. Programs with embedded nodes form a cluster with each other and with daemons, and an embedded
//! node serves other processes too when its configuration names a local socket.
//!
//! # Guarantees
//! Messages of one stream arrive whole, once, and in order, or the stream ends with an error at both ends; a sender or a
//! receiver that is dropped, or whose process dies, is never taken for a clean end. Across streams there is no order:
//! [`Gather`] yields messages as they arrive.
//!
//! [`Sender::send`] returning means that this crate has the message. [`Sender::flush`], that the local node has it.
//! [`Sender::finish`], that the consumer's application has consumed all of them: [`Receiver::recv`] returned each, and at
//! last `None`.
//!
//! # Back-pressure
//! A consumer that does not read stops the streams to it, and nothing else. What its process may be sent before it reads
//! is bounded by one budget for all its streams ([`AttachmentBuilder::receive_budget_bytes`]), of which streams that are
//! read fast get more; producers beyond it wait in `send`. What waits in a producer's process is bounded in the same way
//! ([`AttachmentBuilder::send_budget_bytes`]).
//!
//! The line is served by a thread of its own. An application that blocks its executor, or has none, stalls no stream but
//! those that it does not read: every future of this crate works on any executor.
//!
//! A `send` that waits for long is no error, and still worth knowing: [`Event::Stalled`] names it, after
//! [`AttachmentBuilder::stall_warn`], and so does a warning in the log. Nothing has to listen, and nothing waits for who
//! does:
//!
//! ```no_run
//! # async fn listen(attachment: trunkline::Attachment) {
//! let mut events = attachment.events();
//! while let Some(event) = events.next().await {
//!     eprintln!("{event}");
//! }
//! # }
//! ```
//!
//! # Errors
//! Every error is an [`Error`]: a sentence that names the thing concerned, an [`ErrorKind`] to decide on, whether trying
//! again makes sense, and for a stream, the [`Code`] that the other end or a node gave and the offset that is known to
//! have been consumed.
//!
//! ```no_run
//! # use std::time::Duration;
//! # async fn sleep(_: Duration) {}
//! # async fn open(producer: trunkline::Producer) -> Result<trunkline::Sender, trunkline::Error> {
//! loop {
//!     match producer.open("wordcount/reduce-3@node-b").await {
//!         Err(error) if error.is_retryable() => eprintln!("{error}; trying again"),
//!         done => return done,
//!     }
//!     sleep(Duration::from_millis(500)).await;
//! }
//! # }
//! ```
//!
//! When the link to the local node is lost, every stream of the attachment ends with [`ErrorKind::NodeLost`]: connect
//! again, and open again.
//!
//! # Shutdown
//! Four things are distinct. [`Sender::finish`] ends a stream and learns its outcome. [`Consumer::close`] ends a bind, and
//! leaves the streams that were taken. [`Attachment::close`] hands over what finished streams still have to say, gives
//! up the unfinished ones, and detaches. Dropping the last handle does the same, blocks for at most 1 s, and cannot say
//! how it went; see [`Attachment`].
//!
//! ```no_run
//! # async fn stop(attachment: trunkline::Attachment, senders: Vec<trunkline::Sender>) -> Result<(), trunkline::Error> {
//! for sender in senders {
//!     sender.finish().await?;
//! }
//! attachment.close().await
//! # }
//! ```

mod attachment;
mod consumer;
mod error;
mod event;
mod gather;
mod job;
mod link;
mod metrics;
#[cfg(feature = "embedded")]
pub mod node;
mod receiver;
mod sender;

pub use attachment::{Attachment, AttachmentBuilder};
pub use bytes::Bytes;
pub use consumer::{Consumer, ConsumerBuilder};
pub use error::{Error, ErrorKind};
pub use event::{Direction, Event, Events, LostStream, StallCause, StalledSend};
pub use gather::{Expected, Gather, Gathered, LostProducer};
pub use job::{Job, Producer};
pub use metrics::Metrics;
pub use receiver::{ProducerInfo, Receiver};
pub use sender::Sender;
pub use trunkline_proto::{
    code::Code,
    id::{ConsumerAddress, ConsumerName, Incarnation, JobId, JobName, NodeId, ProducerName, RunId},
};
