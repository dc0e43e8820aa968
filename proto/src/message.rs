//! The control messages, validated: what the generated prost structs mean once they have been checked.
//!
//! Messages made of numbers alone need no check and are re-exported as generated.

use crate::{
    code::Code,
    id::{ConsumerName, IdError, Incarnation, JobId, NodeId, ProducerName, Weight},
    version::Offer,
    wire,
};

pub use crate::wire::{
    link::v1::{Bound, Unbind},
    stream::v1::{Credit, Drain, EndAck, Limit, Reclaim, Resumed, Want},
};

/// The longest text of an ABORT or REFUSED that travels, in bytes; the rest is cut.
pub const TEXT_BYTES_MAX: usize = 1024;
/// The most features of a HELLO that are read; the rest is ignored.
const FEATURES_MAX: usize = 64;
/// The most awaited nodes of a BIND; the rest is not told, and not read: it is a hint. So many fit into a control message.
const AWAITED_NODES_MAX: usize = 128;
/// The longest `software` of a HELLO that is kept, in bytes.
const SOFTWARE_BYTES_MAX: usize = 128;

/// Why a message that parsed is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A required part is absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A name or an incarnation in it is not valid.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// The opening of a stream: who sends to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The stream's id on the local link; 0 on a trunk.
    pub stream: u64,
    /// The job and its run.
    pub job: JobId,
    /// The producer's name.
    pub producer: ProducerName,
    /// The producer's node; only in what a node tells a consumer.
    pub producer_node: Option<NodeId>,
    /// The producer's life.
    pub incarnation: Incarnation,
    /// Tells apart the streams of one producer life.
    pub number: u64,
    /// The consumer's name.
    pub consumer: ConsumerName,
    /// The consumer's node.
    pub node: NodeId,
    /// Counts resumptions; 0 when the stream is new.
    pub epoch: u32,
    /// The job's weight, as this producer has it.
    pub weight: Weight,
}

/// A stream taken up again on another path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The stream, with its new epoch.
    pub open: Open,
    /// The consumer's life that the stream belongs to.
    pub consumer_incarnation: Incarnation,
}

/// The consumer took the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept {
    /// The stream's id on the connection that this travels; 0 on the stream itself.
    pub stream: u64,
    /// The consumer's life.
    pub incarnation: Incarnation,
    /// How far the stream may be sent at first.
    pub limit: u64,
}

/// The stream ends, and not cleanly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abort {
    /// The stream's id on the connection that this travels.
    pub stream: u64,
    /// Why.
    pub code: Code,
    /// How far the sender of this message knows the stream to have come, in bytes.
    pub offset: u64,
    /// Why, for people.
    pub text: String,
}

/// A stream's name beyond the life of any connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// The job and its run.
    pub job: JobId,
    /// The producer's name.
    pub producer: ProducerName,
    /// The consumer's name.
    pub consumer: ConsumerName,
    /// The producer's life.
    pub incarnation: Incarnation,
    /// Tells apart the streams of one producer life.
    pub number: u64,
}

/// How a stream ended that has no path, from a process that will not be there to answer when it is resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    /// Which stream.
    pub key: StreamKey,
    /// How far the application consumed it.
    pub consumed: u64,
    /// Whether that was all of it.
    pub finished: bool,
    /// Why it ended, when not cleanly.
    pub abort: Option<Abort>,
}

/// The first frame on a local link, both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkHello {
    /// Versions and features.
    pub offer: Offer,
    /// The software, for logs.
    pub software: String,
    /// The cluster's name; from the node only, else empty.
    pub cluster: String,
    /// The node's id; from the node only.
    pub node: Option<NodeId>,
    /// What the process says its pid is; from the process only. It decides nothing.
    pub pid: u32,
    /// How long streams wait for a path that was lost, in milliseconds, unless the process has another wish; from the
    /// node only.
    pub patience_ms: u64,
}

/// The first frame on a trunk's control stream, both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrunkHello {
    /// Versions and features.
    pub offer: Offer,
    /// The software, for logs.
    pub software: String,
    /// Drawn at random when the node started.
    pub boot_id: u64,
    /// The number of this dial, from the dialler; 0 from the other side.
    pub dial: u64,
    /// How many dials the sender has begun towards this peer so far.
    pub dials_begun: u64,
}

/// A consumer's name is to be bound to this link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Chosen by the process, unique on its link.
    pub bind: u64,
    /// The job and its run.
    pub job: JobId,
    /// The consumer's name.
    pub consumer: ConsumerName,
    /// The consumer's life.
    pub incarnation: Incarnation,
    /// It takes nothing new, and holds no name: streams of this life that exist are to be resumed here.
    pub resumes_only: bool,
    /// Nodes of producers whose streams to this life have lost their path. The node may dial them.
    pub awaited_nodes: Vec<NodeId>,
}

/// A bind is refused, or ended by the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The bind's id.
    pub bind: u64,
    /// Why.
    pub code: Code,
    /// Why, for people.
    pub text: String,
}

/// A stream offered to a bound consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The bind that it is for.
    pub bind: u64,
    /// The stream. Its id is chosen by the node.
    pub open: Open,
    /// When the stream is resumed, and not opened: the consumer's life that it belongs to. `bind` means nothing then.
    pub consumer_incarnation: Option<Incarnation>,
}

/// A message that has a generated counterpart: how the two turn into each other.
pub(crate) trait Message: Sized {
    /// The generated struct.
    type Wire: prost::Message + Default;
    fn to_wire(&self) -> Self::Wire;
    fn from_wire(wire: Self::Wire) -> Result<Self, Malformed>;
}

macro_rules! plain {
    ($($name:ty),+) => {$(
        impl Message for $name {
            type Wire = Self;
            fn to_wire(&self) -> Self {
                *self
            }
            fn from_wire(wire: Self) -> Result<Self, Malformed> {
                Ok(wire)
            }
        }
    )+};
}
plain!(Bound, Unbind, Credit, Drain, EndAck, Limit, Reclaim, Resumed, Want);

/// Cuts a text at a character's border so that it fits `bytes_max`.
fn cut(text: &str, bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn job_to_wire(job: &JobId) -> Option<wire::stream::v1::JobId> {
    Some(wire::stream::v1::JobId { name: job.name.to_string(), run: job.run.to_string() })
}

fn job_from_wire(job: Option<wire::stream::v1::JobId>) -> Result<JobId, Malformed> {
    let job = job.ok_or(Malformed::Missing("job"))?;
    Ok(JobId { name: job.name.try_into()?, run: job.run.try_into()? })
}

fn incarnation_to_wire(incarnation: Incarnation) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&incarnation.to_bytes())
}

impl Message for Open {
    type Wire = wire::stream::v1::Open;
    fn to_wire(&self) -> Self::Wire {
        Self::Wire {
            stream: self.stream,
            job: job_to_wire(&self.job),
            producer: self.producer.to_string(),
            consumer: self.consumer.to_string(),
            node: self.node.to_string(),
            incarnation: incarnation_to_wire(self.incarnation),
            number: self.number,
            epoch: self.epoch,
            producer_node: self.producer_node.as_ref().map(ToString::to_string).unwrap_or_default(),
            // 1 is said by saying nothing.
            weight: if self.weight == Weight::MIN { 0 } else { self.weight.get().into() },
        }
    }
    fn from_wire(wire: Self::Wire) -> Result<Self, Malformed> {
        let node = wire.producer_node;
        Ok(Self {
            stream: wire.stream,
            job: job_from_wire(wire.job)?,
            producer: wire.producer.try_into()?,
            producer_node: if node.is_empty() { None } else { Some(node.try_into()?) },
            incarnation: Incarnation::from_bytes(&wire.incarnation)?,
            number: wire.number,
            consumer: wire.consumer.try_into()?,
            node: wire.node.try_into()?,
            epoch: wire.epoch,
            weight: if wire.weight == 0 { Weight::MIN } else { wire.weight.try_into()? },
        })
    }
}

impl Message for Resume {
    type Wire = wire::stream::v1::Resume;
    fn to_wire(&self) -> Self::Wire {
        Self::Wire {
            open: Some(self.open.to_wire()),
            consumer_incarnation: incarnation_to_wire(self.consumer_incarnation),
        }
    }
    fn from_wire(wire: Self::Wire) -> Result<Self, Malformed> {
        Ok(Self {
            open: Open::from_wire(wire.open.ok_or(Malformed::Missing("open"))?)?,
            consumer_incarnation: Incarnation::from_bytes(&wire.consumer_incarnation)?,
        })
    }
}

impl Message for Accept {
    type Wire = wire::stream::v1::Accept;
    fn to_wire(&self) -> Self::Wire {
        Self::Wire { stream: self.stream, incarnation: incarnation_to_wire(self.incarnation), limit: self.limit }
    }
    fn from_wire(wire: Self::Wire) -> Result<Self, Malformed> {
        Ok(Self { stream: wire.stream, incarnation: Incarnation::from_bytes(&wire.incarnation)?, limit: wire.limit })
    }
}

impl Message for Abort {
    type Wire = wire::stream::v1::Abort;
    fn to_wire(&self) -> Self::Wire {
        Self::Wire {
            stream: self.stream,
            code: self.code.to_wire(),
            offset: self.offset,
            text: cut(&self.text, TEXT_BYTES_MAX),
        }
    }
    fn from_wire(wire: Self::Wire) -> Result<Self, Malformed> {
        Ok(Self {
            stream: wire.stream,
            code: Code::from_wire(wire.code.into()),
            offset: wire.offset,
            text: cut(&wire.text, TEXT_BYTES_MAX),
        })
    }
}

impl StreamKey {
    fn to_wire(&self) -> wire::stream::v1::StreamKey {
        wire::stream::v1::StreamKey {
            job: job_to_wire(&self.job),
            producer: self.producer.to_string(),
            consumer: self.consumer.to_string(),
            incarnation: incarnation_to_wire(self.incarnation),
            number: self.number,
        }
    }
    fn from_wire(wire: Option<wire::stream::v1::StreamKey>) -> Result<Self, Malformed> {
        let wire = wire.ok_or(Malformed::Missing("key"))?;
        Ok(Self {
            job: job_from_wire(wire.job)?,
            producer: wire.producer.try_into()?,
            consumer: wire.consumer.try_into()?,
            incarnation: Incarnation::from_bytes(&wire.incarnation)?,
            number: wire.number,
        })
    }
}

impl Message for Consumed {
    type Wire = wire::stream::v1::Consumed;
    fn to_wire(&self) -> Self::Wire {
        Self::Wire {
            key: Some(self.key.to_wire()),
            consumed: self.consumed,
            finished: self.finished,
            abort: self.abort.as_ref().map(Message::to_wire),
        }
    }
    fn from_wire(wire: Self::Wire) -> Result<Self, Malformed> {
        Ok(Self {
            key: StreamKey::from_wire(wire.key)?,
            consumed: wire.consumed,
            finished: wire.finished,
            abort: wire.abort.map(Abort::from_wire).transpose()?,
        })
    }
}

fn offer_from_wire(version_min: u32, version_max: u32, mut features: Vec<String>) -> Offer {
    features.truncate(FEATURES_MAX);
    Offer { version_min, version_max, features }
}

impl Message for LinkHello {
    type Wire = wire::link::v1::Hello;
    fn to_wire(&self) -> Self::Wire {
        Self::Wire {
            version_min: self.offer.version_min,
            version_max: self.offer.version_max,
            features: self.offer.features.clone(),
            software: cut(&self.software, SOFTWARE_BYTES_MAX),
            cluster: self.cluster.clone(),
            node: self.node.as_ref().map(ToString::to_string).unwrap_or_default(),
            pid: self.pid,
            patience_ms: self.patience_ms,
        }
    }
    fn from_wire(wire: Self::Wire) -> Result<Self, Malformed> {
        Ok(Self {
            offer: offer_from_wire(wire.version_min, wire.version_max, wire.features),
            software: cut(&wire.software, SOFTWARE_BYTES_MAX),
            cluster: wire.cluster,
            node: if wire.node.is_empty() { None } else { Some(wire.node.try_into()?) },
            pid: wire.pid,
            patience_ms: wire.patience_ms,
        })
    }
}

impl Message for TrunkHello {
    type Wire = wire::trunk::v1::Hello;
    fn to_wire(&self) -> Self::Wire {
        Self::Wire {
            version_min: self.offer.version_min,
            version_max: self.offer.version_max,
            features: self.offer.features.clone(),
            software: cut(&self.software, SOFTWARE_BYTES_MAX),
            boot_id: self.boot_id,
            dial: self.dial,
            dials_begun: self.dials_begun,
        }
    }
    fn from_wire(wire: Self::Wire) -> Result<Self, Malformed> {
        Ok(Self {
            offer: offer_from_wire(wire.version_min, wire.version_max, wire.features),
            software: cut(&wire.software, SOFTWARE_BYTES_MAX),
            boot_id: wire.boot_id,
            dial: wire.dial,
            dials_begun: wire.dials_begun,
        })
    }
}

impl Message for Bind {
    type Wire = wire::link::v1::Bind;
    fn to_wire(&self) -> Self::Wire {
        Self::Wire {
            bind: self.bind,
            job: job_to_wire(&self.job),
            consumer: self.consumer.to_string(),
            incarnation: incarnation_to_wire(self.incarnation),
            resumes_only: self.resumes_only,
            awaited_nodes: self.awaited_nodes.iter().take(AWAITED_NODES_MAX).map(ToString::to_string).collect(),
        }
    }
    fn from_wire(wire: Self::Wire) -> Result<Self, Malformed> {
        let awaited = wire.awaited_nodes.into_iter().take(AWAITED_NODES_MAX).map(NodeId::try_from);
        Ok(Self {
            bind: wire.bind,
            job: job_from_wire(wire.job)?,
            consumer: wire.consumer.try_into()?,
            incarnation: Incarnation::from_bytes(&wire.incarnation)?,
            resumes_only: wire.resumes_only,
            awaited_nodes: awaited.collect::<Result<_, _>>()?,
        })
    }
}

impl Message for Refused {
    type Wire = wire::link::v1::Refused;
    fn to_wire(&self) -> Self::Wire {
        Self::Wire { bind: self.bind, code: self.code.to_wire(), text: cut(&self.text, TEXT_BYTES_MAX) }
    }
    fn from_wire(wire: Self::Wire) -> Result<Self, Malformed> {
        Ok(Self { bind: wire.bind, code: Code::from_wire(wire.code.into()), text: cut(&wire.text, TEXT_BYTES_MAX) })
    }
}

impl Message for Incoming {
    type Wire = wire::link::v1::Incoming;
    fn to_wire(&self) -> Self::Wire {
        Self::Wire {
            bind: self.bind,
            open: Some(self.open.to_wire()),
            consumer_incarnation: self.consumer_incarnation.map(incarnation_to_wire).unwrap_or_default(),
        }
    }
    fn from_wire(wire: Self::Wire) -> Result<Self, Malformed> {
        let life = wire.consumer_incarnation;
        Ok(Self {
            bind: wire.bind,
            open: Open::from_wire(wire.open.ok_or(Malformed::Missing("open"))?)?,
            consumer_incarnation: if life.is_empty() { None } else { Some(Incarnation::from_bytes(&life)?) },
        })
    }
}
