//! The SDK of Trunkline.

mod attachment;
mod consumer;
mod error;
mod gather;
mod job;
mod link;
mod receiver;
mod sender;

pub use attachment::{Attachment, AttachmentBuilder};
pub use bytes::Bytes;
pub use consumer::{Consumer, ConsumerBuilder};
pub use error::{Error, ErrorKind};
pub use gather::{Expected, Gather, Gathered, LostProducer};
pub use job::{Job, Producer};
pub use receiver::{ProducerInfo, Receiver};
pub use sender::Sender;
pub use trunkline_proto::{
    code::Code,
    id::{ConsumerAddress, ConsumerName, Incarnation, JobId, JobName, NodeId, ProducerName, RunId},
};
