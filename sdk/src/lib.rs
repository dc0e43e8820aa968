//! Many streams, one line: the SDK of Trunkline.
//!
//! A distributed computation gathers: every consumer collects the results of producers on all nodes. This crate gives
//! each pair of them a stream of messages, with order, flow control and a fate of its own, and without a socket of its
//! own: a process has one unix socket to the node of its machine, and the nodes have one connection for each pair of
//! them.
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manual/run.rs")); }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { manual::run(async |attachment| {
//! use trunkline::{Attachment, Expected, Gathered};
//!
//! async fn reduce(attachment: Attachment) -> Result<(), trunkline::Error> {
//!     let job = attachment.job("wordcount", "2031-05-07")?;
//!     let mut gather = job.consumer("reduce-3")?.bind().await?.gather(Expected::Count(2));
//!     while let Some(gathered) = gather.next().await {
//!         match gathered? {
//!             Gathered::Message { producer, message } => println!("{producer}: {} bytes", message.len()),
//!             Gathered::Lost(lost) => eprintln!("{lost}"),
//!         }
//!     }
//!     Ok(())
//! }
//!
//! // Any process on any node of the cluster.
//! async fn map(attachment: Attachment, name: &str) -> Result<(), trunkline::Error> {
//!     let producer = attachment.job("wordcount", "2031-05-07")?.producer(name)?;
//!     let mut sender = producer.open("wordcount/reduce-3@node-a").await?;
//!     sender.send("the result".into()).await?;
//!     sender.finish().await // The reducer's application has consumed everything.
//! }
//! # let again = || attachment.clone();
//! # tokio::try_join!(reduce(again()), map(again(), "map-1"), map(again(), "map-2"))?;
//! # Ok(()) }) }
//! ```
//!
//! This page is a manual: [concepts](#concepts), [connecting](#connecting), [guarantees](#guarantees),
//! [sending](#sending), [receiving](#receiving), [back-pressure](#back-pressure), [long messages](#long-messages),
//! [errors](#errors), [events](#events), [metrics and traces](#metrics-and-traces), [shutdown](#shutdown),
//! [executors](#executors). All of its code is run by the tests. Whole programs are in the folder `examples`.
//!
//! # Concepts
//! | what | made by | is |
//! | --- | --- | --- |
//! | [`Attachment`] | [`Attachment::connect_local`] and others | the line of this process to its local node |
//! | [`Job`] | [`Attachment::job`] | a namespace for one run of one computation |
//! | [`Producer`] | [`Job::producer`] | one life of a named producer |
//! | [`Sender`] | [`Producer::open`] | the sending end of one stream |
//! | [`Scatter`] | [`Producer::scatter`] | the sending ends of streams to many consumers |
//! | [`Consumer`] | [`Job::consumer`], then [`ConsumerBuilder::bind`] | a name that producers open streams to: `job/consumer@node` |
//! | [`Receiver`] | [`Consumer::accept`] | the receiving end of one stream |
//! | [`Gather`] | [`Consumer::gather`] | all streams of a consumer, merged |
//! | [`Events`] | [`Attachment::events`] | what happens to an attachment, as it happens |
//!
//! Programs may start in any order: an open waits for its consumer to be bound, 30 s unless the node is told otherwise.
//! Both ends must have given the same run of the job, so that the leavings of a failed run never meet the next one.
//!
//! # Connecting
//! [`Attachment::connect_local`] finds the node of this machine by the variable `TRUNKLINE_SOCKET`, or at
//! `/run/trunkline/local.sock`; [`Attachment::connect`] takes a path. A program that may start before its node waits for
//! it with [`AttachmentBuilder::retry_first_connect`]; what does not get better by itself is told at once all the same:
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manual/run.rs")); }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { manual::run(async |_| {
//! use std::time::Duration;
//! use trunkline::{Attachment, ErrorKind};
//!
//! let builder = Attachment::builder().software("my-mapper/1.2").retry_first_connect(Duration::from_millis(100));
//! let error = builder.connect("/nobody/listens.sock").await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::Connect);
//! assert!(error.to_string().starts_with("cannot connect to the node at /nobody/listens.sock"));
//! # Ok(()) }) }
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
//! Any future of this crate may be dropped at any point. What that means is said at each, under *Cancel safety*: a message
//! that was not told to be sent is sent whole or not at all, and what was not returned is returned by the next call.
//!
//! # Sending
//! | to send | when it cannot be taken at once |
//! | --- | --- |
//! | [`Sender::send`] | waits |
//! | [`Sender::try_send`] | [`ErrorKind::Full`], the stream is unchanged |
//! | [`Sender::reserve`], then [`Permit::send`] | waits before the message is made |
//! | [`Sink`](futures_sink::Sink), [`AsyncWrite`](tokio::io::AsyncWrite) | as those traits do |
//!
//! | to go on or to end | waits until |
//! | --- | --- |
//! | [`Sender::flush`] | the local node has everything; the stream goes on |
//! | [`Sender::finish`] | the consumer's application has consumed everything and the end: the receipt of the whole stream |
//! | [`Sender::close`] | the local node has everything and the end; the outcome is not learned |
//! | [`Sender::abort`] | nothing; the consumer is told the reason |
//!
//! Small messages cost little each: those that are sent while the line is busy travel together, and a lone one goes out at
//! once. There is no timer, so nothing need be flushed for the sake of latency.
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manual/run.rs")); }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { manual::run(async |attachment| {
//! # let job = attachment.job("manual", "1")?;
//! # let mut consumers = Vec::new();
//! # for name in ["worker-0", "worker-1", "worker-2"] { consumers.push(job.consumer(name)?.bind().await?); }
//! let workers = ["manual/worker-0@node-a", "manual/worker-1@node-a", "manual/worker-2@node-a"];
//! let mut scatter = job.producer("source")?.scatter(workers).await?;
//! for (number, task) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
//!     scatter.send(number % workers.len(), task.into()).await?;
//! }
//! let failed = scatter.broadcast("that was all".into()).await;
//! assert!(failed.is_empty()); // One that has ended is said here, and the others have their message.
//! # for consumer in &mut consumers {
//! #     let mut receiver = consumer.accept().await?;
//! #     let mut last = None;
//! #     while last.as_deref() != Some(&b"that was all"[..]) { last = receiver.recv().await?; }
//! # }
//! # Ok(()) }) }
//! ```
//!
//! # Receiving
//! [`Receiver::recv`] returns a message; [`Receiver::recv_many`] a batch for each wake-up; a [`Receiver`] is also a stream
//! of messages, and an [`AsyncRead`](tokio::io::AsyncRead) of their bytes. [`Gather`] has the same for all streams of a
//! consumer at once. What was returned is *consumed*, and that is what a producer's `finish` waits for. A stream that is
//! not wanted any more is cancelled, and its producer told; the others go on:
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manual/run.rs")); }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { manual::run(async |attachment| {
//! # use trunkline::Code;
//! # let job = attachment.job("manual", "1")?;
//! # let mut consumer = job.consumer("sink")?.bind().await?;
//! # let (mut chatty, mut good) = (job.producer("chatty")?.open(consumer.address()).await?, job.producer("good")?.open(consumer.address()).await?);
//! # chatty.send("nothing of use".into()).await?;
//! # good.send("one".into()).await?;
//! # good.send("two".into()).await?;
//! let mut first = consumer.accept().await?;
//! let mut second = consumer.accept().await?;
//! first.recv().await?;
//! first.cancel("seen enough");
//! let mut batch = Vec::new();
//! while batch.len() < 2 {
//!     second.recv_many(&mut batch, 100).await?;
//! }
//! assert_eq!(batch, ["one", "two"]);
//! // At the other end:
//! let error = chatty.finish().await.unwrap_err();
//! assert_eq!(error.code(), Some(Code::Cancelled));
//! assert!(error.to_string().ends_with("seen enough"));
//! # Ok(()) }) }
//! ```
//!
//! A consumer that producers open streams to faster than it takes them refuses one more than
//! [`ConsumerBuilder::accept_backlog`] as `busy`, which they may try again.
//!
//! # Back-pressure
//! A consumer that does not read stops the streams to it, and nothing else. What its process may be sent before it reads
//! is bounded by one budget for all its streams ([`AttachmentBuilder::receive_budget_bytes`]), of which streams that are
//! read fast get more; producers beyond it wait in `send`. What waits in a producer's process is bounded in the same way
//! ([`AttachmentBuilder::send_budget_bytes`]). Nothing is ever dropped to make room.
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manual/run.rs")); }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { manual::run(async |attachment| {
//! use trunkline::ErrorKind;
//! # let job = attachment.job("manual", "1")?;
//! # let mut consumer = job.consumer("sink")?.bind().await?;
//! # let mut sender = job.producer("source")?.open(consumer.address()).await?;
//! # let mut receiver = consumer.accept().await?;
//!
//! // Nobody reads: at some point no more is taken.
//! let mut taken = 0;
//! let full = loop {
//!     match sender.try_send(vec![0; 1000].into()) {
//!         Ok(()) => taken += 1,
//!         Err(error) => break error,
//!     }
//! };
//! assert_eq!(full.kind(), ErrorKind::Full);
//! assert!(taken < 1_000);
//! // Somebody reads, and it goes on.
//! for _ in 0..taken {
//!     receiver.recv().await?;
//! }
//! sender.send("and one more".into()).await?;
//! # Ok(()) }) }
//! ```
//!
//! # Long messages
//! A message may be as long as [`AttachmentBuilder::message_bytes_max`], 64 MiB unless told; a longer one is refused by
//! `send`, with the limit named. One that is longer than what its stream may be sent at once is let in as a whole, out of a
//! pool of that size beside the budget: of a hundred that come at once, each has its turn, first come, first served. Bytes
//! that are read with [`AsyncRead`](tokio::io::AsyncRead) are consumed as they come, and need no such room.
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manual/run.rs")); }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { manual::run(async |attachment| {
//! # let job = attachment.job("manual", "1")?;
//! # let mut consumer = job.consumer("sink")?.bind().await?;
//! # let mut sender = job.producer("source")?.open(consumer.address()).await?;
//! # let mut receiver = consumer.accept().await?;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! let write = async {
//!     sender.write_all(&vec![7; 3_000_000]).await?; // Messages of at most 64 KiB.
//!     sender.shutdown().await // Waits until they are consumed.
//! };
//! let read = async {
//!     let mut bytes = Vec::new();
//!     receiver.read_to_end(&mut bytes).await // An end that is not clean is an error.
//! };
//! let ((), read) = tokio::try_join!(write, read)?;
//! assert_eq!(read, 3_000_000);
//! # Ok(()) }) }
//! ```
//!
//! # Errors
//! Every error is an [`Error`]: a sentence that names the thing concerned, an [`ErrorKind`] to decide on, whether trying
//! again makes sense, and for a stream, the [`Code`] that the other end or a node gave and the offset that is known to
//! have been consumed. It becomes an [`std::io::Error`] where one is expected.
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manual/run.rs")); }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { manual::run(async |attachment| {
//! # use std::time::Duration;
//! # let job = attachment.job("wordcount", "1")?;
//! # let producer = job.producer("map-1")?;
//! # let _consumer = job.consumer("reduce-3")?.bind().await?;
//! let sender = loop {
//!     match producer.open("wordcount/reduce-3@node-a").await {
//!         Err(error) if error.is_retryable() => eprintln!("{error}; trying again"),
//!         done => break done?,
//!     }
//!     tokio::time::sleep(Duration::from_millis(500)).await;
//! };
//!
//! let error = producer.open("wordcount/reduce-3@node-z").await.unwrap_err();
//! assert!(error.to_string().starts_with("consumer wordcount/reduce-3@node-z: unknown_node"));
//! assert!(!error.is_retryable());
//! # drop(sender);
//! # Ok(()) }) }
//! ```
//!
//! # When something dies
//! Streams outlive what carries them. When the link to the node is lost, the attachment connects again, binds its consumers and
//! takes its streams up again by itself; when a trunk or another node is lost, its streams are taken up again on the next one.
//! Meanwhile `send` and `recv` wait, and no message is lost, repeated or out of order. Only when that takes longer than
//! [`AttachmentBuilder::patience`] do streams end, with [`ErrorKind::NodeLost`] or `trunk_lost`, and with `outcome_unknown` where
//! everything had been sent and only the consumer's last word is missing. An application that dies is another matter: the
//! other end of each of its streams has an error at once, or as soon as there is a path.
//!
//! # Events
//! Nothing has to be polled for the line to be served. Who wants to know what happens to it listens: attached, interrupted,
//! detached, streams paused and went on, the node drains, a stream was lost, a `send` has waited for longer than [`AttachmentBuilder::stall_warn`] (which is no
//! error, and is also a warning in the log). Nothing waits for who listens.
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manual/run.rs")); }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { manual::run(async |attachment| {
//! use trunkline::Event;
//!
//! let mut events = attachment.events();
//! # let mut heard = 0;
//! while let Some(event) = events.next().await {
//!     match event {
//!         Event::Attached { node, .. } => println!("attached to {node}"),
//!         Event::Draining { left, .. } => println!("the node ends within {left:?}"),
//!         other => println!("{other}"), // Every event is a sentence.
//!     }
//! #   heard += 1;
//! #   if heard == 1 { attachment.clone().close().await?; }
//! }
//! # assert_eq!(heard, 2);
//! # Ok(()) }) }
//! ```
//!
//! A node that drains takes nothing new, and lets streams end for as long as its `drain_timeout` says: its processes are
//! told when that begins. What has not ended pauses until the node is back.
//!
//! # Metrics and traces
//! [`Attachment::metrics`] is a snapshot of [counters](Metrics), for any system of metrics.
//!
//! Opens, ends and losses of streams are [`tracing`] events at the level `debug`, in a span for each stream (`send` or
//! `receive`) with `job`, `run`, `producer`, `consumer` and `peer`; those of a [`Gather`]'s streams are in one span of its
//! own, `gather`. A sender's span is a child of the span in which it was opened, and a gather's of the one in which it was
//! made. Messages have no headers: a trace context that is to travel with a message is part of it, in whatever form both
//! ends agree on. With [W3C's `traceparent`](https://www.w3.org/TR/trace-context/#traceparent-header), which is 55 bytes
//! in this version of it:
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manual/run.rs")); }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { manual::run(async |attachment| {
//! use trunkline::Bytes;
//! # let job = attachment.job("manual", "1")?;
//! # let mut consumer = job.consumer("sink")?.bind().await?;
//! # let mut sender = job.producer("source")?.open(consumer.address()).await?;
//! # let mut receiver = consumer.accept().await?;
//!
//! const TRACEPARENT_BYTES: usize = 55;
//!
//! let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"; // Of the current span.
//! sender.send([traceparent.as_bytes(), b"the result"].concat().into()).await?;
//!
//! let mut message: Bytes = receiver.recv().await?.expect("a message");
//! let parent = message.split_to(TRACEPARENT_BYTES); // Without a copy.
//! assert_eq!((&parent[..], &message[..]), (traceparent.as_bytes(), &b"the result"[..]));
//! # Ok(()) }) }
//! ```
//!
//! # Shutdown
//! Each of these is distinct, and says what it waited for:
//!
//! | call | ends | waits until | says |
//! | --- | --- | --- | --- |
//! | [`Sender::finish`] | a stream | the other application has consumed it | whether it has |
//! | [`Consumer::close`] | a bind; streams that were taken go on | the node has all that its finished streams still say, at most 5 s | which streams were refused, which go on |
//! | [`Gather::close`] | a gather and its streams | the same | how many finished, were lost, or never came |
//! | [`Attachment::close`] | everything of this process; what is unfinished is given up | the node has all last words, at most 5 s | whether it has |
//!
//! Dropping the last handle does the same as the last of them, blocks for at most 1 s (2 s with an embedded node), and
//! cannot say how it went; see [`Attachment`].
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manual/run.rs")); }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { manual::run(async |attachment| {
//! # let job = attachment.job("manual", "1")?;
//! # let mut consumer = job.consumer("sink")?.bind().await?;
//! # let sender = job.producer("source")?.open(consumer.address()).await?;
//! # let unread = job.producer("late")?.open(consumer.address()).await?;
//! # let mut receiver = consumer.accept().await?;
//! let finishing = sender.finish();
//! let reading = async {
//!     while let Some(message) = receiver.recv().await? {
//!         println!("{} bytes", message.len());
//!     }
//!     Ok(())
//! };
//! tokio::try_join!(finishing, reading)?;
//! let closed = consumer.close().await?;
//! assert_eq!((closed.refused, closed.unfinished), (1, 0)); // One stream came that nobody accepted.
//! attachment.close().await?;
//! # drop(unread);
//! # Ok(()) }) }
//! ```
//!
//! # Executors
//! The line is served by a thread of its own. An application that blocks its executor, or has none, stalls no stream but
//! those that it does not read: every future of this crate works on any executor, tokio's runtimes among them.

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
mod scatter;
mod sender;

pub use attachment::{Attachment, AttachmentBuilder};
pub use bytes::Bytes;
pub use consumer::{Consumer, ConsumerBuilder, ConsumerClosed};
pub use error::{Error, ErrorKind};
pub use event::{Direction, Event, Events, LostStream, StallCause, StalledSend};
pub use gather::{Expected, Gather, GatherClosed, Gathered, LostProducer};
pub use job::{Job, Producer};
pub use metrics::Metrics;
pub use receiver::{ProducerInfo, Receiver, TryRecv};
pub use scatter::Scatter;
pub use sender::{Permit, Sender};
pub use trunkline_proto::{
    code::Code,
    id::{ConsumerAddress, ConsumerName, Incarnation, JobId, JobName, NodeId, ProducerName, RunId},
};
